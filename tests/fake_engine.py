"""An engine that speaks the protocol from memory, and the WhatsApp that it talks to.

It keeps the promises of :class:`whatsapp.engine.Engine`: a generation that was closed
or superseded says nothing and writes nothing more, a session has one socket at most,
``close`` returns when the last writes are in or refused. What WhatsApp does with a
socket is up to the test.
"""

import asyncio
import itertools
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from whatsapp.engine import (
    Alive,
    AuthStore,
    Closed,
    CodeRefused,
    DisconnectReason,
    EngineGone,
    EngineStarted,
    EngineStopped,
    Limits,
    Opened,
    Paired,
    Qr,
    SessionRef,
    StoreRefused,
    UnreadableCreds,
    Versions,
)
from whatsapp.engine.protocol import Event, SessionEvent

QR_LIFETIME = 20.0
QR_WINDOW = 160.0
RESTART_SECONDS = 1.7
VERSIONS = Versions(baileys="fake", node="fake", web=(2, 3000, 1))


@dataclass(frozen=True, slots=True)
class Link:
    """A device that a phone has linked; its creds and keys carry the number."""

    number: int
    phone: str
    session_id: str
    """For whom it was linked."""

    @property
    def jid(self) -> str:
        """Its address."""
        return f"{self.phone}:{self.number}@s.whatsapp.net"

    def creds(self) -> str:
        """Return creds as JSON text."""
        return json.dumps(
            {"account": {"details": ""}, "me": {"id": self.jid}, "link": self.number}
        )

    def keys(self, written: int = 0) -> str:
        """Return entries of keys as JSON text: one for ever, one that is rewritten."""
        return json.dumps(
            [
                {"t": "pre-key", "i": "1", "v": {"link": self.number, "written": 0}},
                {
                    "t": "session",
                    "i": "x",
                    "v": {"link": self.number, "written": written},
                },
            ]
        )


class WhatsApp:
    """Which devices the phones know, and what has become of every device there was."""

    def __init__(self) -> None:
        self._numbers = itertools.count(1)
        self.links: dict[int, Link] = {}
        self.known: set[int] = set()
        self.refused: set[int] = set()
        """Devices to which a live socket was told 401."""
        self.opened: set[int] = set()
        self.acknowledged: dict[int, int] = {}
        """The last write of each device's keys that the store has promised to keep."""
        self._writes = itertools.count(1)

    def link(self, phone: str, session_id: str) -> Link:
        """Let a phone link a new device."""
        link = Link(next(self._numbers), phone, session_id)
        self.links[link.number] = link
        self.known.add(link.number)
        return link

    def next_write(self) -> int:
        """Return a number greater than any before, to tell what was written last."""
        return next(self._writes)


@dataclass(eq=False, slots=True)
class Socket:
    """One socket: what it is for, and how far it has come."""

    ref: SessionRef
    link: Link | None
    is_login: bool
    in_node: bool = False
    muted: bool = False
    is_ended: bool = False
    """Gone from WhatsApp; its last writes may still be under way."""
    over: bool = False
    has_qr: bool = False
    is_open: bool = False
    was_open: bool = False
    is_silent: bool = False
    batches: int = 0
    code_phone: str = ""
    code: asyncio.Future[str] | None = None
    clock: asyncio.TimerHandle | None = None
    taken: asyncio.Event = field(default_factory=asyncio.Event)
    writes: set[asyncio.Task[None]] = field(default_factory=set)

    @property
    def is_live(self) -> bool:
        """Whether WhatsApp sees it."""
        return self.in_node and not self.is_ended and not self.over

    @property
    def waits_for_code(self) -> bool:
        """Whether WhatsApp has to answer the request for a code."""
        return self.code is not None and not self.code.done()

    @property
    def is_paired(self) -> bool:
        """Whether a phone has linked what was opened on fresh creds."""
        return self.link is not None and not self.is_login


class FakeEngine:
    """See the module. Called by a gateway in its loop; by the test between its turns."""

    def __init__(
        self,
        *,
        store: AuthStore,
        on_event: Callable[[Event], None],
        whatsapp: WhatsApp,
        limits: Limits | None = None,
        check_unlink: Callable[[Link], None],
        **_options: Any,
    ) -> None:
        self._store = store
        self._on_event = on_event
        self._limits = limits or Limits()
        self._check_unlink = check_unlink
        self.whatsapp = whatsapp
        self.is_running = False
        self.sockets: dict[int, Socket] = {}
        self.ended: list[SessionRef] = []
        self.versions = VERSIONS
        self._restart: asyncio.TimerHandle | None = None
        self.dead = False
        """The gateway was killed: Node.js is gone, and nobody is told."""

    # What the gateway calls -----------------------------------------------------------

    async def start(self) -> None:
        await asyncio.sleep(0)
        self._begin()

    def _begin(self) -> None:
        self.is_running = True
        self._emit(EngineStarted(VERSIONS, process=1))

    async def stop(self, timeout: float = 1.5) -> None:  # noqa: ASYNC109
        if self.dead:
            return
        for socket in self.sockets.values():
            socket.muted = True
        writes = [task for socket in self.sockets.values() for task in socket.writes]
        if writes:
            await asyncio.wait(writes, timeout=timeout)
        self.is_running = False
        if self._restart:
            self._restart.cancel()
        self._forget_all()

    def set_web_version(self, version: tuple[int, int, int] | None) -> None:
        """Claim this version; nobody here looks at it."""

    async def open(
        self, ref: SessionRef, creds: str | None, *, first: bool = False
    ) -> None:
        self._require_running()
        if ref.generation in self.sockets:
            raise ValueError(f"generation {ref.generation} is open already")
        older = [s for s in self.sockets.values() if s.ref.session_id == ref.session_id]
        socket = Socket(ref, self._link_of(creds), is_login=creds is not None)
        self.sockets[ref.generation] = socket
        try:
            for previous in older:
                previous.muted = True
                await self._end(previous)
            await asyncio.sleep(0)
            self._require_running()
            if not socket.muted:
                socket.in_node = True
                socket.clock = asyncio.get_running_loop().call_later(
                    self._limits.connect_timeout, self._on_silence, socket
                )
        finally:
            if not socket.in_node:
                self._forget(socket)
            socket.taken.set()

    def _link_of(self, creds: str | None) -> Link | None:
        if creds is None:
            return None
        number = json.loads(creds).get("link")
        if number not in self.whatsapp.links:
            raise UnreadableCreds("no creds of a device that ever was")
        return self.whatsapp.links[number]

    async def request_code(self, ref: SessionRef, phone: str) -> str:
        kind = CodeRefused.Kind
        socket = self.sockets.get(ref.generation)
        if socket is None or socket.muted:
            raise CodeRefused(kind.CLOSED, "the session is not open")
        loop = asyncio.get_running_loop()
        socket.code_phone = phone
        socket.code = loop.create_future()
        try:
            async with asyncio.timeout(self._limits.code_timeout):
                return await socket.code
        except TimeoutError:
            raise CodeRefused(kind.SILENCE, "no answer in time") from None

    async def close(self, ref: SessionRef, *, unlink: bool = False) -> None:
        socket = self.sockets.get(ref.generation)
        if socket is None or self.dead:
            return
        socket.muted = True
        if unlink and socket.is_open and socket.link:
            self._check_unlink(socket.link)
            self.whatsapp.known.discard(socket.link.number)
        await self._end(socket)

    async def _end(self, socket: Socket) -> None:
        self._settle(socket)
        await socket.taken.wait()
        socket.is_ended = True
        if socket.writes:
            await asyncio.wait(socket.writes, timeout=self._limits.close_timeout)
            if socket.writes and not socket.over:
                self.die("Node.js does not close a socket")
        self._forget(socket)

    def stats(self) -> list[Any]:
        """Say nothing: there is nothing here to be measured."""
        return []

    @property
    def waiting(self) -> int:
        """Nobody waits: all start at once."""
        return 0

    # What is left of a socket ---------------------------------------------------------

    def _require_running(self) -> None:
        if not self.is_running or self.dead:
            raise EngineGone("Node.js is not running")

    def _settle(self, socket: Socket) -> None:
        if socket.clock:
            socket.clock.cancel()
            socket.clock = None

    def _forget(self, socket: Socket, refused: CodeRefused | None = None) -> None:
        socket.over = True
        socket.is_open = False
        self._settle(socket)
        if self.sockets.pop(socket.ref.generation, None):
            self.ended.append(socket.ref)
        if socket.code and not socket.code.done():
            kind = CodeRefused.Kind.CLOSED
            socket.code.set_exception(refused or CodeRefused(kind, "it has ended"))
            socket.code.exception()  # nobody may be left to ask for it

    def _forget_all(self, refused: CodeRefused | None = None) -> None:
        for socket in list(self.sockets.values()):
            socket.muted = True
            for task in socket.writes:
                task.cancel()
            if socket.in_node:
                self._forget(socket, refused)

    def _on_silence(self, socket: Socket) -> None:
        if not socket.muted:
            self.close_by(socket, DisconnectReason.SILENCE)

    def _emit(self, event: Event) -> None:
        if not self.dead:
            self._on_event(event)

    def _say(self, socket: Socket, event: SessionEvent) -> None:
        if not socket.muted and socket.is_live:
            self._emit(event)

    # What WhatsApp and the phones do: to be called within a turn of the loop ----------

    def show_qr(self, socket: Socket, text: str) -> None:
        """Give a link socket its next QR."""
        self._settle(socket)
        socket.has_qr = True
        self._say(socket, Qr(socket.ref, text, QR_LIFETIME, QR_WINDOW))

    def answer_code(self, socket: Socket, answer: str | CodeRefused) -> None:
        """Acknowledge or refuse the code that was asked for."""
        if socket.code is None or socket.code.done():
            return
        if isinstance(answer, str):
            socket.code.set_result(answer)
        else:
            socket.code.set_exception(answer)
            socket.code.exception()

    def say(
        self, socket: Socket, kind: Callable[..., SessionEvent], *args: Any
    ) -> None:
        """Say anything that changes nothing in the socket itself."""
        self._say(socket, kind(socket.ref, *args))

    def pair(self, socket: Socket, phone: str) -> None:
        """Let a phone confirm the link."""
        if socket.link or not socket.is_live:
            return
        socket.link = link = self.whatsapp.link(phone, socket.ref.session_id)
        paired = Paired(socket.ref, link.creds(), link.keys(), link.jid, "android")
        self._say(socket, paired)

    def log_in(self, socket: Socket) -> None:
        """Open a socket whose device WhatsApp knows; refuse a device that it does not."""
        link = socket.link
        if link is None or not socket.is_login or socket.is_open or not socket.is_live:
            return
        if link.number not in self.whatsapp.known:
            self.close_by(socket, DisconnectReason.LOGGED_OUT)
            return
        self._settle(socket)
        socket.is_open = socket.was_open = True
        self.whatsapp.opened.add(link.number)
        self._say(socket, Opened(socket.ref, link.jid, None, None))

    def close_by(
        self, socket: Socket, reason: DisconnectReason, origin: str = "stream"
    ) -> None:
        """End a socket from the other end."""
        if not socket.is_live:
            return
        link = socket.link
        if reason.is_logged_out and link is not None:
            self.whatsapp.known.discard(link.number)
            if not socket.muted:
                self.whatsapp.refused.add(link.number)
        event = Closed(
            socket.ref,
            reason,
            text="",
            origin=origin,
            status=int(reason),
            was_open=socket.was_open,
            linked=link is not None,
        )
        for task in socket.writes:
            task.cancel()
        muted = socket.muted
        socket.muted = True
        refused = CodeRefused(CodeRefused.Kind.CLOSED, "it has ended", reason=reason)
        self._forget(socket, refused)
        if not muted:
            self._emit(event)

    def be_heard(self) -> None:
        """Give proof of life of every open socket that is not silent."""
        seen = {
            socket.ref: 0.0
            for socket in self.sockets.values()
            if socket.is_open and not socket.muted and not socket.is_silent
        }
        if seen:
            self._emit(Alive(seen))

    def write(self, socket: Socket) -> None:
        """Let Baileys write creds and keys of a socket that is logged in."""
        is_in = socket.is_login and socket.link is not None and socket.is_live
        if not is_in or socket.muted or socket.writes:
            return
        socket.batches += 1
        task = asyncio.get_running_loop().create_task(self._write(socket))
        socket.writes.add(task)
        task.add_done_callback(socket.writes.discard)

    async def _write(self, socket: Socket) -> None:
        link, batch = socket.link, socket.batches
        assert link is not None
        number = self.whatsapp.next_write()
        try:
            async with asyncio.timeout(self._limits.store_timeout):
                await self._store.save(
                    socket.ref, link.creds(), link.keys(number), batch
                )
        except StoreRefused:
            self.close_by(socket, DisconnectReason.STORE_REFUSED, "store")
        except Exception as error:  # noqa: BLE001  (Baileys keeps it for its next batch)
            del error
        else:
            self.whatsapp.acknowledged[link.number] = number

    def die(self, why: str = "killed") -> None:
        """Let Node.js die; it is started again."""
        if not self.is_running:
            return
        self.is_running = False
        loop = asyncio.get_running_loop()
        self._restart = loop.call_later(RESTART_SECONDS, self.come_back)
        gone = CodeRefused.Kind.ENGINE_GONE
        lost = tuple(one.ref for one in self.sockets.values() if not one.muted)
        self._forget_all(CodeRefused(gone, reason=DisconnectReason.ENGINE_GONE))
        self._emit(
            EngineStopped(
                why, "crashed", process=1, sessions=lost, convicted=frozenset()
            )
        )

    def come_back(self) -> None:
        """Start Node.js again."""
        if not self.is_running and not self.dead:
            self._begin()

    def leave(self) -> None:
        """Let Node.js end itself; a gateway that hangs will hear of it in the end."""
        for socket in self.sockets.values():
            socket.is_ended = True
            socket.is_open = False

    def vanish(self) -> None:
        """End with the gateway, without a word."""
        self.dead = True
        self.is_running = False
        for socket in self.sockets.values():
            socket.over = socket.muted = True
            self._settle(socket)
        self.sockets.clear()
