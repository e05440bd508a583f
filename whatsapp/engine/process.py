"""The engine: starts Node.js, keeps it running, and speaks for its sessions."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable
from dataclasses import dataclass, field

from whatsapp.engine import protocol
from whatsapp.engine.child import Child
from whatsapp.engine.errors import (
    CodeRefused,
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
from whatsapp.engine.slots import Slots, Turn

logger = logging.getLogger(__name__)

# Beyond Node.js's own deadline, which knows better why.
ANSWER_MARGIN = 1.0
CONFIGURE_TIMEOUT = 30.0
# As long as in session.js.
UNLINK_TIMEOUT = 5.0
# How many ended sockets are remembered, for who asks one of them for a code.
REMEMBERED = 256


@dataclass(eq=False, slots=True)
class _Session:
    """What we know of one generation."""

    ref: SessionRef
    turn: Turn
    linked: bool = False
    # The caller wants to hear no more of it.
    muted: bool = False
    over: bool = False
    clock: asyncio.TimerHandle | None = None
    # Set when open() has got as far as it will.
    opened: asyncio.Event = field(default_factory=asyncio.Event)
    in_node: bool = False

    def settle(self) -> None:
        """It has started, or never will: the clock and the slot are free."""
        self.turn.release()
        if self.clock:
            self.clock.cancel()
            self.clock = None


class Engine:
    """Many WhatsApp sockets in one Node.js process.

    Reconnecting, timing and policy are the caller's; the engine promises that

    - a generation that was closed or superseded says nothing and writes nothing more;
    - a session never has two sockets;
    - Node.js is started again when it dies, and leaves nothing behind when we do.

    Args:
        store: where creds and keys live.
        on_event: called with every event, in order, from the event loop; must not block.
        node: path of a Node.js 24 or newer (the binary, not a wrapper script).
        ws_url: where WhatsApp is; None for the real one.
        web_version: WhatsApp's web version to claim; None for Baileys' own.
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
    ) -> None:
        self._store = store
        self._on_event = on_event
        self._node = node
        self._ws_url = ws_url
        self._web_version = web_version
        self._limits = limits = limits or Limits()
        self._links = Slots(limits.links, limits.slot_hold)
        self._codes = Slots(limits.codes, limits.slot_hold)
        self._first_logins = Slots(limits.first_logins, limits.slot_hold)
        self._logins = Slots(limits.logins, limits.slot_hold)
        # All generations of a session that are not over, oldest first.
        self._sessions: dict[str, list[_Session]] = {}
        self._generations: dict[int, _Session] = {}
        self._endings: dict[int, Closed] = {}
        self._child: Child | None = None
        self._tasks: asyncio.TaskGroup | None = None
        self._supervisor: asyncio.Task[None] | None = None
        self._versions: Versions | None = None
        self._restarts = 0

    @property
    def versions(self) -> Versions | None:
        """Of Baileys and Node.js; None before the first start."""
        return self._versions

    @property
    def pid(self) -> int | None:
        """Node.js's, while it runs."""
        return self._child.pid if self._child else None

    def set_web_version(self, version: tuple[int, int, int] | None) -> None:
        """Claim this web version with sockets opened from now on; None: Baileys' own."""
        self._web_version = version

    # Lives of Node.js -----------------------------------------------------------------

    async def start(self) -> None:
        """Start Node.js and keep it running until stop().

        Raises:
            EngineError: it does not start at all; the text says why.
        """
        if self._supervisor:
            raise EngineError("the engine is running")
        started = asyncio.get_running_loop().create_future()
        self._supervisor = asyncio.create_task(self._supervise(started))
        try:
            await started
        except BaseException:
            await self._cancel_supervisor()
            raise

    async def stop(self, timeout: float = 1.5) -> None:  # noqa: ASYNC109
        """End every socket, let its last writes out, and end Node.js."""
        for session in self._generations.values():
            session.muted = True
        if child := self._child:
            with contextlib.suppress(EngineError, TimeoutError):
                await child.request("shutdown", within=timeout)
        await self._cancel_supervisor()

    async def _cancel_supervisor(self) -> None:
        supervisor, self._supervisor = self._supervisor, None
        if supervisor:
            supervisor.cancel()
            await asyncio.wait([supervisor])

    async def _supervise(self, started: asyncio.Future[None]) -> None:
        delay = self._limits.restart_delay
        loop = asyncio.get_running_loop()
        while True:
            began = loop.time()
            error = await self._live(started)
            if not started.done():
                started.set_exception(EngineError(f"Node.js did not start: {error}"))
                return
            if loop.time() - began >= self._limits.healthy_after:
                delay = self._limits.restart_delay
            logger.error("Node.js died (%s), starting it again in %.1f s", error, delay)
            await asyncio.sleep(delay)
            delay = min(delay * 2, self._limits.restart_delay_max)
            self._restarts += 1

    async def _live(self, started: asyncio.Future[None]) -> str:
        """One life of Node.js, from start to end; how it ended."""
        try:
            child = await Child.spawn(self._node, self._limits.heap_mb)
        except OSError as error:
            return str(error)
        try:
            # The group waits for store calls under way: an acknowledged write is in
            # the store before anybody learns that its socket is gone.
            async with asyncio.TaskGroup() as self._tasks:
                reading = self._tasks.create_task(child.read(self._on_message))
                with contextlib.suppress(EngineError, TimeoutError):
                    await self._configure(child)
                    if not started.done():
                        started.set_result(None)
                    await reading
                child.kill()
                self._tasks = None
        finally:
            was_up = self._child is not None
            self._child = self._tasks = None
            self._forget_all()
            last_words = await child.end()
        if was_up:
            self._emit(EngineStopped(last_words))
        return last_words

    async def _configure(self, child: Child) -> None:
        limits = self._limits
        settings = {
            "wsUrl": self._ws_url,
            "connectTimeoutMs": limits.socket_timeout * 1000,
            "queryTimeoutMs": limits.query_timeout * 1000,
            "keepAliveMs": limits.keep_alive * 1000,
            "aliveMs": limits.alive_interval * 1000,
            "qrMs": limits.qr_lifetime and limits.qr_lifetime * 1000,
            "pooledCodes": limits.pooled_codes,
            "pooledCreds": limits.pooled_creds,
        }
        answer = await child.request(
            "configure", within=CONFIGURE_TIMEOUT, settings=settings
        )
        self._versions = Versions(
            baileys=answer["baileys"], node=answer["node"], web=tuple(answer["web"])
        )
        self._child = child
        self._emit(EngineStarted(self._versions))

    def _forget_all(self) -> None:
        for session in list(self._generations.values()):
            session.in_node = False
            self._forget(session)

    def _require_child(self) -> Child:
        if self._child is None:
            raise EngineGone("Node.js is not running")
        return self._child

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
            EngineGone: Node.js is not running, died, or does not answer.
            UnreadableCreds: the text is no creds.
        """
        self._require_child()
        if ref.generation in self._generations:
            raise ValueError(f"generation {ref.generation} is open already")
        session = _Session(ref, self._slots_for(creds, first=first).turn())
        older = list(self._sessions.setdefault(ref.session_id, []))
        self._sessions[ref.session_id].append(session)
        self._generations[ref.generation] = session
        try:
            for previous in older:
                previous.muted = True
                await self._end(previous)
            if await session.turn.wait() and not session.muted:
                await self._open_in_node(session, creds)
        finally:
            if not session.in_node:
                self._forget(session)
            session.opened.set()

    def _slots_for(self, creds: str | None, *, first: bool) -> Slots:
        if creds is None:
            return self._links
        return self._first_logins if first else self._logins

    async def _open_in_node(self, session: _Session, creds: str | None) -> None:
        child = self._require_child()
        limits = self._limits
        session.in_node = True
        session.clock = asyncio.get_running_loop().call_later(
            limits.connect_timeout, self._on_silence, session
        )
        ref = session.ref
        try:
            answer = await child.request(
                "open",
                within=limits.close_timeout,
                g=ref.generation,
                label=f"{ref.session_id}#{ref.generation}",
                creds=creds,
                version=self._web_version,
            )
        except TimeoutError:
            # The clock ends the socket, should it come to one.
            raise EngineGone("Node.js does not answer") from None
        except EngineGone:
            raise
        except EngineError as error:
            session.in_node = False
            raise UnreadableCreds(str(error)) from error
        session.linked = answer["linked"]

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
        session = self._generations.get(ref.generation)
        if session is None or session.muted:
            raise self._refused_by_end(ref)
        deadline = asyncio.get_running_loop().time() + self._limits.code_timeout
        turn = self._codes.turn()
        try:
            async with asyncio.timeout_at(deadline):
                await session.opened.wait()
                await turn.wait()
            return await self._ask_for_code(ref, phone, deadline)
        except CodeRefused as refused:
            if refused.kind is kind.CLOSED and refused.reason is None:
                raise self._refused_by_end(ref) from refused
            raise
        except TimeoutError:
            raise CodeRefused(kind.SILENCE, "no answer in time") from None
        except EngineGone as error:
            raise CodeRefused(
                kind.ENGINE_GONE, str(error), reason=DisconnectReason.ENGINE_GONE
            ) from error
        finally:
            turn.release()

    async def _ask_for_code(self, ref: SessionRef, phone: str, deadline: float) -> str:
        left = deadline - asyncio.get_running_loop().time()
        code: str = await self._require_child().request(
            "request_code",
            within=left + ANSWER_MARGIN,
            g=ref.generation,
            phone=phone,
            timeout_ms=left * 1000,
        )
        return code

    def _refused_by_end(self, ref: SessionRef) -> CodeRefused:
        """Why a socket that is no more gives no code."""
        kind = CodeRefused.Kind
        ended = self._endings.get(ref.generation)
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
        if session := self._generations.get(ref.generation):
            session.muted = True
            await self._end(session, unlink=unlink)

    async def _end(self, session: _Session, *, unlink: bool = False) -> None:
        session.settle()
        await session.opened.wait()
        child = self._child
        if session.over or not session.in_node or child is None:
            return
        patience = self._limits.close_timeout + unlink * UNLINK_TIMEOUT
        try:
            await child.request(
                "close", within=patience, g=session.ref.generation, unlink=unlink
            )
        except EngineGone:
            pass
        except TimeoutError:
            logger.exception("Node.js does not close a socket, so it is ended")
            child.kill()
        self._forget(session)

    def _forget(self, session: _Session) -> None:
        session.over = True
        session.settle()
        ref = session.ref
        self._generations.pop(ref.generation, None)
        generations = self._sessions.get(ref.session_id, [])
        if session in generations:
            generations.remove(session)
        if not generations:
            self._sessions.pop(ref.session_id, None)

    def _on_silence(self, session: _Session) -> None:
        if self._tasks:
            self._tasks.create_task(self._give_up(session))

    async def _give_up(self, session: _Session) -> None:
        await self._end(session)
        if session.muted:
            return
        session.muted = True
        self._on_closed(
            Closed(
                session.ref,
                DisconnectReason.SILENCE,
                text="no answer within the connect clock",
                origin="watchdog",
                status=None,
                was_open=False,
                linked=session.linked,
            )
        )

    def _on_closed(self, event: Closed) -> None:
        self._endings[event.ref.generation] = event
        while len(self._endings) > REMEMBERED:
            del self._endings[next(iter(self._endings))]
        self._emit(event)

    async def stats(self) -> Stats:
        """What Node.js and the queues are doing.

        Raises:
            EngineGone: Node.js is not running.
        """
        answer = await self._require_child().request(
            "stats", within=self._limits.close_timeout
        )
        queues = (self._links, self._codes, self._first_logins, self._logins)
        waiting = sum(slots.waiting for slots in queues)
        return Stats(**answer, waiting=waiting, restarts=self._restarts)

    # What Node.js says ----------------------------------------------------------------

    def _emit(self, event: Event) -> None:
        try:
            self._on_event(event)
        except Exception:
            logger.exception("a handler of engine events failed")

    def _on_message(self, message: Message) -> None:
        try:
            if "rq" in message:
                self._on_store_request(message)
            elif message["ev"] == "alive":
                self._on_alive(message["seen"])
            else:
                self._on_session_event(message)
        except (KeyError, TypeError):
            logger.exception("Node.js sent a message of an unknown shape")

    def _on_session_event(self, message: Message) -> None:
        session = self._generations.get(message["g"])
        if session is None or session.muted:
            return
        event = protocol.session_event(session.ref, message)
        if isinstance(event, Qr | Opened):
            session.settle()
        if isinstance(event, Closed):
            self._forget(session)
            self._on_closed(event)
        else:
            self._emit(event)

    def _on_alive(self, seen: dict[str, float]) -> None:
        sessions = {
            session.ref: age
            for generation, age in seen.items()
            if (session := self._generations.get(int(generation))) and not session.muted
        }
        if sessions:
            self._emit(Alive(sessions))

    def _on_store_request(self, message: Message) -> None:
        if self._tasks:
            self._tasks.create_task(self._serve_store(message))

    async def _serve_store(self, message: Message) -> None:
        answer: Message = {"re": message["id"]}
        session = self._generations.get(message["g"])
        child = self._child
        if session is None:
            answer["error"] = "retired"
        else:
            try:
                async with asyncio.timeout(self._limits.store_timeout):
                    answer["value"] = await self._call_store(session.ref, message)
            except StoreRefused:
                answer["error"] = "refused"
            except Exception:
                logger.exception("the store failed for %s", session.ref.session_id)
                answer["error"] = "failed"
        if child:
            child.send(answer)

    async def _call_store(self, ref: SessionRef, message: Message) -> str | None:
        if message["rq"] == "get":
            return await self._store.get_keys(ref, message["type"], message["ids"])
        await self._store.save(ref, message["creds"], message["keys"], message["n"])
        return None
