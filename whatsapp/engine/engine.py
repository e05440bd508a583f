"""The engine: which Node.js a session lives in, and what becomes of it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable

from whatsapp.engine.blame import Blame
from whatsapp.engine.errors import CodeRefused, EngineError, EngineGone
from whatsapp.engine.limits import Limits, Stats
from whatsapp.engine.process import WARD, Process
from whatsapp.engine.protocol import AuthStore, Event, SessionRef, Versions
from whatsapp.engine.reasons import DisconnectReason
from whatsapp.engine.sessions import Session, Sessions
from whatsapp.engine.slots import Slots
from whatsapp.engine.ward import Ward

logger = logging.getLogger(__name__)

# Beyond Node.js's own deadline, which knows better why.
ANSWER_MARGIN = 1.0


class Engine:
    """Many WhatsApp sockets in a few Node.js processes.

    Reconnecting, timing and policy are the caller's; the engine promises that

    - a generation that was closed or superseded says nothing and writes nothing more;
    - a session never has two sockets;
    - a Node.js that dies, hangs or grows too large is started again, costs no other
      its sessions, and leaves nothing behind when we end;
    - a session that ends Node.js again and again does so away from the others.

    Args:
        store: where creds and keys live.
        on_event: called with every event, in order, from the event loop; must not block.
        node: path of a Node.js 24 or newer (the binary, not a wrapper script).
        ws_url: where WhatsApp is; None for the real one.
        web_version: WhatsApp's web version to claim; None for Baileys' own.
        processes: how many Node.js share the sessions; the ward comes on top.
    """

    def __init__(
        self,
        *,
        store: AuthStore,
        on_event: Callable[[Event], None],
        node: str,
        ws_url: str | None = None,
        web_version: tuple[int, int, int] | None = None,
        limits: Limits | None = None,
        processes: int = 1,
    ) -> None:
        if processes < 1:
            raise ValueError(f"an engine needs a process, not {processes}")
        self._store = store
        self._on_event = on_event
        self._node = node
        self._ws_url = ws_url
        self._web_version = web_version
        self._limits = limits = limits or Limits()
        # Of all processes together: the cores are.
        self._links = Slots(limits.links, limits.slot_hold)
        self._codes = Slots(limits.codes, limits.slot_hold)
        self._first_logins = Slots(limits.first_logins, limits.slot_hold)
        self._logins = Slots(limits.logins, limits.slot_hold)
        self._sessions = Sessions()
        self._blame = Blame(limits, lambda: asyncio.get_running_loop().time())
        self._ward = Ward(self._make_ward, self._blame, limits)
        self._ready_codes = -(-limits.ready_codes // processes)
        self._processes = [
            self._make_process(number) for number in range(1, processes + 1)
        ]
        self._is_running = False

    def _make_process(self, number: int) -> Process:
        limits = self._limits
        return Process(
            number,
            node=self._node,
            settings={
                "wsUrl": self._ws_url,
                "connectTimeoutMs": limits.socket_timeout * 1000,
                "queryTimeoutMs": limits.query_timeout * 1000,
                "keepAliveMs": limits.keep_alive * 1000,
                "aliveMs": limits.alive_interval * 1000,
                "qrMs": limits.qr_lifetime and limits.qr_lifetime * 1000,
                "readyCodes": self._ready_codes,
                "leaseMs": limits.lease * 1000,
            },
            limits=limits,
            store=self._store,
            everybody=self._sessions,
            emit=self._emit,
            strike=self._blame.strike,
        )

    def _make_ward(self) -> Process:
        if not self._is_running:
            raise EngineGone("the engine was stopped")
        return self._make_process(WARD)

    @property
    def versions(self) -> Versions | None:
        """Of Baileys and Node.js; None before the first start."""
        return self._processes[0].versions

    @property
    def pids(self) -> tuple[int, ...]:
        """Of the Node.js processes that run, the ward's last."""
        return tuple(process.pid for process in self._all() if process.pid)

    @property
    def waiting(self) -> int:
        """How many sockets and codes wait for their turn to start."""
        queues = (self._links, self._codes, self._first_logins, self._logins)
        return sum(slots.waiting for slots in queues)

    def stats(self) -> tuple[Stats, ...]:
        """What each process did when it was last asked."""
        return tuple(process.stats() for process in self._all())

    def _all(self) -> list[Process]:
        ward = self._ward.process
        return [*self._processes, *([ward] if ward else [])]

    def set_web_version(self, version: tuple[int, int, int] | None) -> None:
        """Claim this web version with sockets opened from now on; None: Baileys' own."""
        self._web_version = version

    def _emit(self, event: Event) -> None:
        try:
            self._on_event(event)
        except Exception:
            logger.exception(
                "a handler of engine events failed",
                extra={"operation": "engine_message"},
            )

    # Start and stop -------------------------------------------------------------------

    async def start(self) -> None:
        """Start every Node.js and keep them running until stop().

        Raises:
            EngineError: one does not start at all; the text says why.
        """
        if self._is_running:
            raise EngineError("the engine is running")
        self._is_running = True
        starting = [asyncio.create_task(one.start()) for one in self._processes]
        try:
            await asyncio.gather(*starting)
        except BaseException:
            for task in starting:
                task.cancel()
            await asyncio.wait(starting)
            await self._stop_all()
            raise

    async def stop(self, timeout: float = 1.5) -> None:  # noqa: ASYNC109
        """End every socket, let its last writes out, and end every Node.js."""
        for session in self._sessions:
            session.muted = True
        await asyncio.gather(
            *(self._shut_down(process, timeout) for process in self._all())
        )
        await self._stop_all()

    async def _shut_down(self, process: Process, within: float) -> None:
        with contextlib.suppress(EngineError, TimeoutError):
            await process.request("shutdown", within=within)

    async def _stop_all(self) -> None:
        self._is_running = False
        await asyncio.gather(
            self._ward.stop(), *(process.stop() for process in self._processes)
        )

    # Sessions -------------------------------------------------------------------------

    async def open(
        self, ref: SessionRef, creds: str | None, *, first: bool = False
    ) -> None:
        """Open a socket; returns when Node.js took it. What comes of it are events.

        An older generation of the same session is ended first. If this generation is
        closed or superseded while it waits for its turn, nothing happens.

        Args:
            creds: JSON text to log in with, with the store behind it; None for fresh
                creds, made and held in Node.js, to link with.
            first: whether these creds were never logged in with, which costs more.

        Raises:
            EngineGone: no Node.js is running, or it died, or does not answer.
            UnreadableCreds: the text is no creds.
        """
        self._emptiest()
        if ref.generation in self._sessions:
            raise ValueError(f"generation {ref.generation} is open already")
        session = Session(ref)
        older = self._sessions.add(session)
        try:
            for previous in older:
                previous.muted = True
                await self._end(previous)
            process = await self._place(session, self._slots_for(creds, first=first))
            if process and not session.muted:
                await process.open(session, creds, self._web_version)
        finally:
            if session.process is None:
                self._sessions.forget(session)
            session.opened.set()

    def _emptiest(self) -> Process:
        """The running process with the fewest sessions."""
        running = [process for process in self._processes if process.up.is_set()]
        if not running:
            raise EngineGone("Node.js is not running")
        return min(running, key=lambda process: len(process.sessions))

    def _slots_for(self, creds: str | None, *, first: bool) -> Slots:
        if creds is None:
            return self._links
        return self._first_logins if first else self._logins

    async def _place(self, session: Session, slots: Slots) -> Process | None:
        """Wait for a turn to start, and say where; None if it is wanted no more."""
        ward = None
        if not session.muted and self._blame.is_on_probation(session.ref.session_id):
            trial = self._ward.trial()
            session.turns.append(trial)
            if not await trial.wait():
                return None
            ward = await self._ward.ready()
        if session.muted:
            return None
        turn = slots.turn()
        session.turns.append(turn)
        if not await turn.wait():
            return None
        return ward or self._emptiest()

    async def request_code(self, ref: SessionRef, phone: str) -> str:
        """A pairing code that WhatsApp has acknowledged; may be called right after open.

        Args:
            phone: bare digits, in international form.

        Raises:
            CodeRefused: there is none, and why.
        """
        kind = CodeRefused.Kind
        if not (phone.isascii() and phone.isdigit()):
            raise CodeRefused(kind.BAD_REQUEST, "a phone is bare digits")
        session = self._sessions.get(ref.generation)
        if session is None or session.muted:
            raise self._refused_by_end(ref)
        deadline = asyncio.get_running_loop().time() + self._limits.code_timeout
        turn = self._codes.turn()
        try:
            async with asyncio.timeout_at(deadline):
                await session.opened.wait()
                await turn.wait()
            return await self._ask_for_code(session, phone, deadline)
        except CodeRefused as refused:
            if refused.kind is kind.CLOSED and refused.reason is None:
                raise self._refused_by_end(ref) from refused
            raise
        except TimeoutError:
            raise CodeRefused(kind.SILENCE, "no answer in time") from None
        except EngineGone as error:
            # First the news of the death, which says whose fault it was.
            await session.gone.wait()
            raise CodeRefused(
                kind.ENGINE_GONE, str(error), reason=DisconnectReason.ENGINE_GONE
            ) from error
        finally:
            turn.release()

    async def _ask_for_code(self, session: Session, phone: str, deadline: float) -> str:
        if session.process is None:
            raise CodeRefused(CodeRefused.Kind.CLOSED, "the session is not open")
        left = deadline - asyncio.get_running_loop().time()
        code: str = await session.process.request(
            "request_code",
            within=left + ANSWER_MARGIN,
            g=session.ref.generation,
            phone=phone,
            timeout_ms=left * 1000,
        )
        return code

    def _refused_by_end(self, ref: SessionRef) -> CodeRefused:
        """Why a socket that is no more gives no code."""
        kind = CodeRefused.Kind
        ended = self._sessions.ending(ref)
        if ended is None:
            return CodeRefused(kind.CLOSED, "the session is not open")
        unreachable = ended.reason.is_unreachable
        return CodeRefused(
            kind.UNREACHABLE if unreachable else kind.CLOSED,
            ended.text,
            reason=ended.reason,
        )

    async def close(self, ref: SessionRef, *, unlink: bool = False) -> None:
        """End a socket; nothing is heard of it or written by it once this returns.

        Args:
            unlink: take the device out of the phone's list first, if it is connected.
        """
        if session := self._sessions.get(ref.generation):
            session.muted = True
            await self._end(session, unlink=unlink)

    async def _end(self, session: Session, *, unlink: bool = False) -> None:
        session.settle()
        await session.opened.wait()
        if session.process:
            await session.process.close(session, unlink=unlink)
