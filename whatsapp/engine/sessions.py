"""What the engine knows of each socket that is not over, whichever Node.js holds it."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from whatsapp.engine.protocol import Closed, SessionRef

if TYPE_CHECKING:
    from whatsapp.engine.process import Process

# How many ended sockets are remembered, for who asks one of them for a code.
REMEMBERED = 256


class Queued(Protocol):
    """A place in a queue, or what the queue is for."""

    def release(self) -> None: ...


@dataclass(eq=False, slots=True)
class Session:
    """One generation."""

    ref: SessionRef
    linked: bool = False
    # The caller wants to hear no more of it.
    muted: bool = False
    over: bool = False
    turns: list[Queued] = field(default_factory=list)
    clock: asyncio.TimerHandle | None = None
    # Set when open() has got as far as it will.
    opened: asyncio.Event = field(default_factory=asyncio.Event)
    # Set when it is over, and who had to know why has been told.
    gone: asyncio.Event = field(default_factory=asyncio.Event)
    # The Node.js that holds it, and since when; None before that.
    process: Process | None = None
    placed_at: float = 0
    # What makes it suspected of a death: it is starting, waits for the store, or has
    # just said something.
    starting: bool = False
    store_calls: int = 0
    heard_at: float = -math.inf

    def settle(self) -> None:
        """It has started, or never will: the clock and its turns are free."""
        self.starting = False
        for turn in self.turns:
            turn.release()
        if self.clock:
            self.clock.cancel()
            self.clock = None

    def is_suspect(self, since: float, until: float = math.inf) -> bool:
        """Whether it may have to do with a death.

        Args:
            since: from then on whoever said something is suspected.
            until: who came later never got as far as to do anything.
        """
        is_at_work = self.starting or self.store_calls > 0 or self.heard_at >= since
        return is_at_work and self.placed_at <= until


class Sessions:
    """All generations that are not over, and how the latest ones ended."""

    def __init__(self) -> None:
        # Of each session, oldest first.
        self._by_id: dict[str, list[Session]] = {}
        self._by_generation: dict[int, Session] = {}
        self._endings: dict[int, Closed] = {}

    def __iter__(self) -> Iterator[Session]:
        return iter(list(self._by_generation.values()))

    def __contains__(self, generation: int) -> bool:
        return generation in self._by_generation

    def get(self, generation: int) -> Session | None:
        return self._by_generation.get(generation)

    def add(self, session: Session) -> list[Session]:
        """Take a new generation in; the older ones of its session."""
        generations = self._by_id.setdefault(session.ref.session_id, [])
        older = list(generations)
        generations.append(session)
        self._by_generation[session.ref.generation] = session
        return older

    def forget(self, session: Session) -> None:
        session.over = True
        session.settle()
        if session.process:
            session.process.sessions.discard(session)
        ref = session.ref
        self._by_generation.pop(ref.generation, None)
        generations = self._by_id.get(ref.session_id, [])
        if session in generations:
            generations.remove(session)
        if not generations:
            self._by_id.pop(ref.session_id, None)
        session.gone.set()

    def remember(self, event: Closed) -> None:
        self._endings[event.ref.generation] = event
        while len(self._endings) > REMEMBERED:
            del self._endings[next(iter(self._endings))]

    def ending(self, ref: SessionRef) -> Closed | None:
        return self._endings.get(ref.generation)
