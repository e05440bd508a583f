"""One supervised Node.js process with the sessions that live in it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection
from typing import Any

from whatsapp.engine import protocol
from whatsapp.engine.errors import (
    EngineError,
    EngineGone,
    StoreRefused,
    UnreadableCreds,
)
from whatsapp.engine.limits import Limits, Stats
from whatsapp.engine.protocol import (
    Alive,
    AuthStore,
    Closed,
    EngineStarted,
    EngineStopped,
    Event,
    Message,
    Opened,
    Qr,
    SessionRef,
    Versions,
)
from whatsapp.engine.reasons import DisconnectReason
from whatsapp.engine.sessions import Session, Sessions
from whatsapp.engine.supervision import Death, Supervisor

logger = logging.getLogger(__name__)

# As long as in session.js.
UNLINK_TIMEOUT = 5.0
WARD = 0


class Process:
    """Opens, closes and speaks for sessions in one Node.js, through all its lives.

    Args:
        number: from 1; WARD for the ward.
        settings: for Node.js.
        everybody: the sessions of all processes.
        emit: gets every event.
        strike: holds a death against session ids; those that are convicted by it.
    """

    def __init__(
        self,
        number: int,
        *,
        node: str,
        settings: dict[str, Any],
        limits: Limits,
        store: AuthStore,
        everybody: Sessions,
        emit: Callable[[Event], None],
        strike: Callable[[str, Collection[str]], frozenset[str]],
    ) -> None:
        self.number = number
        self.name = "Node.js (ward)" if number == WARD else f"Node.js {number}"
        self.sessions: set[Session] = set()
        self._limits = limits
        self._store = store
        self._everybody = everybody
        self._emit = emit
        self._strike = strike
        self._suspects: set[str] = set()
        self._supervisor = Supervisor(
            self.name, node=node, settings=settings, limits=limits, resident=self
        )
        self.start = self._supervisor.start
        self.stop = self._supervisor.stop
        self.request = self._supervisor.request
        # Set while sessions can be opened here.
        self.up = self._supervisor.up

    @property
    def pid(self) -> int | None:
        return self._supervisor.pid

    @property
    def versions(self) -> Versions | None:
        return self._supervisor.versions

    def stats(self) -> Stats:
        return self._supervisor.stats(self.number)

    # Sessions -------------------------------------------------------------------------

    async def open(
        self,
        session: Session,
        creds: str | None,
        version: tuple[int, int, int] | None,
    ) -> None:
        """Open a socket; see :meth:`Engine.open`."""
        if not self.up.is_set():
            raise EngineGone("Node.js is not running")
        self._take_in(session)
        ref = session.ref
        try:
            answer = await self.request(
                "open",
                within=self._limits.close_timeout,
                g=ref.generation,
                label=f"{ref.session_id}#{ref.generation}",
                creds=creds,
                version=version,
            )
        except TimeoutError:
            # The clock ends the socket, should it come to one.
            raise EngineGone("Node.js does not answer") from None
        except EngineGone:
            # First the news of the death, which says whose fault it was.
            await session.gone.wait()
            raise
        except EngineError as error:
            self.sessions.discard(session)
            session.process = None
            raise UnreadableCreds(str(error)) from error
        session.linked = answer["linked"]

    def _take_in(self, session: Session) -> None:
        loop = asyncio.get_running_loop()
        session.process = self
        session.placed_at = loop.time()
        session.starting = True
        session.clock = loop.call_later(
            self._limits.connect_timeout, self._on_silence, session
        )
        self.sessions.add(session)

    async def close(self, session: Session, *, unlink: bool = False) -> None:
        """End its socket; its last writes are in or refused when this returns."""
        if session.over:
            return
        patience = self._limits.close_timeout + unlink * UNLINK_TIMEOUT
        try:
            await self.request(
                "close", within=patience, g=session.ref.generation, unlink=unlink
            )
        except EngineGone:
            # A store call of it may be under way still.
            await session.gone.wait()
        except TimeoutError:
            self._supervisor.kill_hung("does not close a socket")
            await session.gone.wait()
        self._everybody.forget(session)

    def _on_silence(self, session: Session) -> None:
        self._supervisor.create_chore(
            self._give_up(
                session,
                DisconnectReason.SILENCE,
                "no answer within the connect clock",
                origin="watchdog",
            )
        )

    async def send_away(self, session: Session) -> None:
        """End a socket that is to be opened elsewhere."""
        if not session.muted:
            await self._give_up(
                session,
                DisconnectReason.ENGINE_GONE,
                f"moved out of {self.name}",
                origin="engine",
            )

    async def _give_up(
        self, session: Session, reason: DisconnectReason, text: str, *, origin: str
    ) -> None:
        session.settle()
        await session.opened.wait()
        await self.close(session)
        if session.muted:
            return
        session.muted = True
        self._on_closed(
            Closed(
                session.ref,
                reason,
                text=text,
                origin=origin,
                status=None,
                was_open=False,
                linked=session.linked,
            )
        )

    def _on_closed(self, event: Closed) -> None:
        self._everybody.remember(event)
        self._emit(event)

    # Its lives ------------------------------------------------------------------------

    def on_started(self, versions: Versions) -> None:
        self._emit(EngineStarted(versions, self.number))

    def on_dying(self, since: float, until: float) -> None:
        self._suspects = {
            session.ref.session_id
            for session in self.sessions
            if session.is_suspect(since, until)
        }

    def on_gone(self, death: Death | None) -> None:
        lost = sorted(self.sessions, key=lambda session: session.ref.generation)
        if death and death.was_up:
            self._tell_death(death, [one.ref for one in lost if not one.muted])
        for session in lost:
            session.muted = True
            self._everybody.forget(session)

    def _tell_death(self, death: Death, refs: list[SessionRef]) -> None:
        convicted: frozenset[str] = frozenset()
        if death.cause.is_somebodys_fault:
            convicted = self._strike(self.name, self._suspects)
        self._emit(
            EngineStopped(
                death.text,
                death.cause.name.lower(),
                self.number,
                sessions=tuple(refs),
                convicted=frozenset(ref for ref in refs if ref.session_id in convicted),
            )
        )

    # What Node.js says ----------------------------------------------------------------

    def on_message(self, message: Message) -> None:
        try:
            if "rq" in message:
                self._on_store_request(message)
            elif message["ev"] == "alive":
                self._on_alive(message["seen"])
            else:
                self._on_session_event(message)
        except (KeyError, TypeError):
            logger.exception(
                "Node.js sent a message of an unknown shape",
                extra={"operation": "engine_message"},
            )

    def _heard(self, generation: int) -> Session | None:
        session = self._everybody.get(generation)
        if session:
            session.heard_at = asyncio.get_running_loop().time()
        return session

    def _on_session_event(self, message: Message) -> None:
        session = self._heard(message["g"])
        if session is None or session.muted:
            return
        event = protocol.session_event(session.ref, message)
        if isinstance(event, Qr | Opened):
            session.settle()
        if isinstance(event, Closed):
            self._everybody.forget(session)
            self._on_closed(event)
        else:
            self._emit(event)

    def _on_alive(self, seen: dict[str, float]) -> None:
        sessions = {
            session.ref: age
            for generation, age in seen.items()
            if (session := self._everybody.get(int(generation))) and not session.muted
        }
        if sessions:
            self._emit(Alive(sessions))

    def _on_store_request(self, message: Message) -> None:
        session = self._heard(message["g"])
        if session:
            session.store_calls += 1
        self._supervisor.create_task(self._serve_store(session, message))

    async def _serve_store(self, session: Session | None, message: Message) -> None:
        answer: Message = {"re": message["id"]}
        if session is None or session.over:
            answer["error"] = "retired"
        else:
            try:
                async with asyncio.timeout(self._limits.store_timeout):
                    answer["value"] = await self._call_store(session.ref, message)
            except StoreRefused:
                answer["error"] = "refused"
            except Exception:
                logger.exception(
                    "the store failed for %s",
                    session.ref.session_id,
                    extra=_told_of(session.ref, message),
                )
                answer["error"] = "failed"
        if session:
            session.store_calls -= 1
        self._supervisor.send(answer)

    async def _call_store(self, ref: SessionRef, message: Message) -> str | None:
        if message["rq"] == "get":
            return await self._store.get_keys(ref, message["type"], message["ids"])
        await self._store.save(ref, message["creds"], message["keys"], message["n"])
        return None


def _told_of(ref: SessionRef, message: Message) -> dict[str, str]:
    """What the log says of a store call that failed, to be searched by."""
    told = {"component": "baileys_auth", "company_id": ref.session_id}
    if message["rq"] == "get":
        return {**told, "operation": "get_keys", "key_type": message["type"]}
    is_creds = message["creds"] is not None
    return {**told, "operation": "save_credentials" if is_creds else "set_keys"}
