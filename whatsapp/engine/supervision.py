"""Keeps one Node.js running: starts it again when it dies, hangs or grows too large."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
from collections.abc import Coroutine
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any, Protocol

from whatsapp.engine.child import Child
from whatsapp.engine.errors import EngineError, EngineGone
from whatsapp.engine.limits import Limits, Stats
from whatsapp.engine.protocol import Message, Versions
from whatsapp.engine.pulse import Pulse

logger = logging.getLogger(__name__)

CONFIGURE_TIMEOUT = 30.0
# As in lease.js.
LEASE_EXIT = 75


class Cause(Enum):
    """Why a Node.js ended."""

    CRASHED = auto()
    HUNG = auto()
    # We ended it, because of its memory.
    RECYCLED = auto()
    # It ended itself, because it heard nothing of us.
    UNHEARD = auto()

    @property
    def is_somebodys_fault(self) -> bool:
        return self in (Cause.CRASHED, Cause.HUNG)


# In place of last words that say nothing about it.
_TEXTS = {Cause.HUNG: "it hung", Cause.RECYCLED: "it was too large"}


@dataclass(frozen=True, slots=True)
class Death:
    cause: Cause
    text: str
    # Whether it ever came to work.
    was_up: bool = False


class Resident(Protocol):
    """Who lives in the Node.js that is supervised."""

    def on_started(self, versions: Versions) -> None: ...

    def on_message(self, message: Message) -> None: ...

    def on_dying(self, since: float, until: float) -> None:
        """It is dead, but store calls are under way; see :meth:`Session.is_suspect`."""
        ...

    def on_gone(self, death: Death | None) -> None:
        """Nothing of this life is left; None if we stopped it."""
        ...


class Supervisor:
    """One Node.js after the other, until stop().

    Args:
        name: for the log.
        settings: sent to each as it starts.
    """

    def __init__(
        self,
        name: str,
        *,
        node: str,
        settings: dict[str, Any],
        limits: Limits,
        resident: Resident,
    ) -> None:
        self.name = name
        self.versions: Versions | None = None
        # Set while sessions can be opened in it.
        self.up = asyncio.Event()
        self._node = node
        self._settings = settings
        self._limits = limits
        self._resident = resident
        self._child: Child | None = None
        self._tasks: asyncio.TaskGroup | None = None
        self._chores: set[asyncio.Task[None]] = set()
        self._supervisor: asyncio.Task[None] | None = None
        self._is_stopping = False
        self._cause = Cause.CRASHED
        self._restarts = 0
        self._pulse = Pulse(name, limits)

    @property
    def pid(self) -> int | None:
        return self._child.pid if self._child else None

    def stats(self, process: int) -> Stats:
        return Stats(
            process=process,
            pid=self.pid,
            restarts=self._restarts,
            asked_at=self._pulse.asked_at,
            **self._pulse.figures,
        )

    async def start(self) -> None:
        """Start Node.js and keep it running until stop().

        Raises:
            EngineError: it does not start at all; the text says why.
        """
        started = asyncio.get_running_loop().create_future()
        self._is_stopping = False
        self._supervisor = asyncio.create_task(self._supervise(started))
        try:
            await started
        except BaseException:
            await self.stop()
            raise

    async def stop(self) -> None:
        """End Node.js as it is; whoever comes second waits for the first."""
        if self._supervisor is None:
            return
        if not self._is_stopping:
            self._is_stopping = True
            self._supervisor.cancel()
        await asyncio.wait([self._supervisor])

    async def request(self, cmd: str, *, within: float, **fields: object) -> Any:
        """Ask Node.js; see :meth:`Child.request`."""
        if self._child is None:
            raise EngineGone("Node.js is not running")
        return await self._child.request(cmd, within=within, **fields)

    def send(self, message: Message) -> None:
        if self._child:
            self._child.send(message)

    def create_task(self, work: Coroutine[Any, Any, None]) -> None:
        """Work that belongs to this life, which does not end before it is done."""
        if self._tasks:
            self._tasks.create_task(work)
        else:
            work.close()

    def create_chore(self, work: Coroutine[Any, Any, None]) -> None:
        """Work that is moot when this life ends."""
        if self._tasks:
            chore = self._tasks.create_task(work)
            self._chores.add(chore)
            chore.add_done_callback(self._chores.discard)
        else:
            work.close()

    def kill_hung(self, why: str) -> None:
        if self._child:
            logger.error(
                "%s %s, so it is killed",
                self.name,
                why,
                extra={"operation": "engine_hung"},
            )
            self._cause = Cause.HUNG
            self._child.kill()

    # Lives ----------------------------------------------------------------------------

    async def _supervise(self, started: asyncio.Future[None]) -> None:
        delay = self._limits.restart_delay
        loop = asyncio.get_running_loop()
        while True:
            began = loop.time()
            try:
                death = await self._live(started)
            except Exception:  # whatever surprised us, Node.js must run
                logger.exception(
                    "the supervision of %s failed",
                    self.name,
                    extra={"operation": "engine_crashed"},
                )
                death = Death(Cause.CRASHED, "a fault of ours")
            if not started.done():
                error = EngineError(f"{self.name} did not start: {death.text}")
                started.set_exception(error)
                return
            self._restarts += 1
            if death.cause is Cause.RECYCLED:
                continue
            if loop.time() - began >= self._limits.healthy_after:
                delay = self._limits.restart_delay
            crashed = death.cause is Cause.CRASHED
            logger.log(
                # The others have had their line.
                logging.ERROR if crashed else logging.WARNING,
                "%s died (%s), starting it again in %.1f s",
                self.name,
                death.text,
                delay,
                extra={"operation": "engine_crashed"} if crashed else None,
            )
            await asyncio.sleep(delay)
            delay = min(delay * 2, self._limits.restart_delay_max)

    async def _live(self, started: asyncio.Future[None]) -> Death:
        """One life of Node.js, from start to end; how it ended."""
        try:
            child = await Child.spawn(self._node, self._limits.heap_mb, self.name)
        except OSError as error:
            return Death(Cause.CRASHED, str(error))
        self._cause = Cause.CRASHED
        was_up = is_stopped = False
        try:
            # The group waits for store calls under way: an acknowledged write is in
            # the store before anybody learns that its socket is gone.
            async with asyncio.TaskGroup() as self._tasks:
                reading = self._tasks.create_task(child.read(self._on_message))
                with contextlib.suppress(EngineError, TimeoutError):
                    await self._configure(child)
                    was_up = True
                    if not started.done():
                        started.set_result(None)
                    self.create_chore(self._watch(child))
                    await reading
                child.kill()
                self._on_dying()
        except asyncio.CancelledError:
            is_stopped = True
            raise
        finally:
            self._on_dying()
            code, last_words = await child.end()
            cause = Cause.UNHEARD if code == LEASE_EXIT else self._cause
            death = Death(cause, _TEXTS.get(cause, last_words), was_up)
            self._resident.on_gone(None if is_stopped else death)
        return death

    def _on_dying(self) -> None:
        if self._tasks is None:
            return
        if self._child:
            self._resident.on_dying(*self._suspicious_span())
        self.up.clear()
        self._child = self._tasks = None
        for chore in self._chores:
            chore.cancel()

    def _suspicious_span(self) -> tuple[float, float]:
        suspicion = self._limits.suspicion
        if self._cause is Cause.HUNG:
            # What blocks the event loop came after the last answer.
            return self._pulse.answered_at - suspicion, self._pulse.silent_since
        return asyncio.get_running_loop().time() - suspicion, math.inf

    async def _configure(self, child: Child) -> None:
        answer = await child.request(
            "configure", within=CONFIGURE_TIMEOUT, settings=self._settings
        )
        self.versions = Versions(
            baileys=answer["baileys"], node=answer["node"], web=tuple(answer["web"])
        )
        self._pulse.begin()
        self._child = child
        self.up.set()
        self._resident.on_started(self.versions)

    # Watching -------------------------------------------------------------------------

    async def _watch(self, child: Child) -> None:
        await self._pulse.keep(child.send)
        self.kill_hung(f"has not answered for {self._limits.hang_timeout:g} s")

    def _on_message(self, message: Message) -> None:
        if message.get("ev") != "pulse":
            self._resident.on_message(message)
            return
        self._pulse.on_answer(message)
        # One that is not up any more is on its way out already.
        if self.up.is_set() and self._pulse.is_time_to_recycle():
            self.up.clear()
            self.create_chore(self._recycle())

    async def _recycle(self) -> None:
        """End every socket, with its last writes in; then Node.js is of no more use."""
        with contextlib.suppress(EngineError, TimeoutError):
            await self.request("shutdown", within=self._limits.close_timeout)
        if self._child:
            self._cause = Cause.RECYCLED
            self._child.kill()
