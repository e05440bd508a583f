"""The engine on a simulator: what tests of it and of its users share.

Import the fixtures by name into a test module::

    from tests.engine_fixtures import rig, simulator  # noqa: F401
"""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import orjson
import pytest
import pytest_asyncio

from tests.simulator import Phone, Simulator, find_node
from whatsapp.engine import (
    AuthStore,
    Closed,
    Engine,
    EngineGone,
    EngineStarted,
    EngineStopped,
    Event,
    Limits,
    Opened,
    Paired,
    Qr,
    SessionRef,
    Stats,
)

PATIENCE = 60
"""Seconds for any single wait; only a failure takes so long."""

PATIENT = {"ping_interval": 0.1, "hang_timeout": PATIENCE, "lease": PATIENCE}
"""A machine that is busy with other tests must not look like a Node.js that hangs."""

E = TypeVar("E")

_generations = itertools.count(1)
_numbers = itertools.count(79990000001)


def new_ref(session_id: str = "company_1", epoch: int = 1) -> SessionRef:
    return SessionRef(session_id, next(_generations), epoch)


def new_number() -> str:
    """A number that no other test of this run uses."""
    return str(next(_numbers))


async def eventually(condition: Callable[[], Any], what: str) -> Any:
    """Wait until the condition holds; a blocking condition runs in a thread."""
    deadline = asyncio.get_running_loop().time() + PATIENCE
    while asyncio.get_running_loop().time() < deadline:
        found = await asyncio.to_thread(condition)
        if found:
            return found
        await asyncio.sleep(0.02)
    raise AssertionError(f"waited in vain: {what}")


class MemoryStore:
    """An AuthStore without a database; counts, and fails on demand."""

    def __init__(self) -> None:
        self.creds: dict[str, str] = {}
        self.keys: dict[tuple[str, str, str], Any] = {}
        self.saves: list[tuple[SessionRef, str | None, list[Any]]] = []
        self.gets: list[tuple[SessionRef, str, list[str]]] = []
        # Called before each save and get; may raise or wait.
        self.before_save: Callable[[SessionRef], Awaitable[None]] | None = None
        self.before_get: Callable[[SessionRef], Awaitable[None]] | None = None

    @property
    def calls(self) -> int:
        return len(self.saves) + len(self.gets)

    async def get_keys(self, ref: SessionRef, key_type: str, key_ids: list[str]) -> str:
        self.gets.append((ref, key_type, key_ids))
        if self.before_get:
            await self.before_get(ref)
        found = {
            key_id: self.keys[ref.session_id, key_type, key_id]
            for key_id in key_ids
            if (ref.session_id, key_type, key_id) in self.keys
        }
        return orjson.dumps(found).decode()

    async def save(
        self, ref: SessionRef, creds: str | None, keys: str | None, number: int
    ) -> None:
        rows = orjson.loads(keys or "[]")
        self.saves.append((ref, creds, rows))
        if self.before_save:
            await self.before_save(ref)
        if creds is not None:
            self.creds[ref.session_id] = creds
        for row in rows:
            key = (ref.session_id, row["t"], row["i"])
            if row["v"] is None:
                self.keys.pop(key, None)
            else:
                self.keys[key] = row["v"]

    def put(self, session_id: str, keys: str | None) -> None:
        for row in orjson.loads(keys or "[]"):
            self.keys[session_id, row["t"], row["i"]] = row["v"]


class Rig:
    """An engine, its store, its events and the WhatsApp that it talks to."""

    def __init__(self, simulator: Simulator, **options: Any) -> None:
        self.simulator = simulator
        self.store = MemoryStore()
        self.events: list[Event] = []
        self._news = asyncio.Event()
        given = {"node": find_node(), "ws_url": simulator.ws_url, **options}
        store: AuthStore = self.store
        self.engine = Engine(store=store, on_event=self._on_event, **given)

    def _on_event(self, event: Event) -> None:
        self.events.append(event)
        self._news.set()

    async def expect(
        self, kind: type[E], ref: SessionRef | None = None, within: float = PATIENCE
    ) -> E:
        """The next event of this kind, which is then looked at."""
        try:
            async with asyncio.timeout(within):
                while True:
                    for event in self.events:
                        if isinstance(event, kind) and (
                            ref is None or getattr(event, "ref", None) == ref
                        ):
                            self.events.remove(event)
                            return event
                    self._news.clear()
                    await self._news.wait()
        except TimeoutError:
            pass
        raise AssertionError(f"no {kind.__name__}; there were {self.events}")

    def of(self, ref: SessionRef) -> list[Event]:
        return [event for event in self.events if getattr(event, "ref", None) == ref]

    async def phone(self, **options: Any) -> Phone:
        return await asyncio.to_thread(self.simulator.phone, new_number(), **options)

    async def enter(self, phone: Phone, code: str) -> dict[str, Any]:
        return await asyncio.to_thread(phone.enter_code, code)

    async def scan(self, phone: Phone, qr: str) -> dict[str, Any]:
        return await asyncio.to_thread(phone.scan, qr)

    async def link(
        self, phone: Phone, session_id: str = "company_1"
    ) -> tuple[str, str]:
        """Link by code; the creds, and the jid that the phone gave."""
        ref = new_ref(session_id)
        await self.engine.open(ref, None)
        code = await self.engine.request_code(ref, phone.number)
        answer = await self.enter(phone, code)
        assert answer["ok"], answer
        paired = await self.expect(Paired, ref)
        closed = await self.expect(Closed, ref)
        assert closed.reason.is_restart
        self.store.put(session_id, paired.keys)
        self.events = [event for event in self.events if event not in self.of(ref)]
        return paired.creds, answer["jid"]

    async def resume(
        self, creds: str, session_id: str = "company_1", *, first: bool = True
    ) -> SessionRef:
        ref = new_ref(session_id)
        await self.engine.open(ref, creds, first=first)
        await self.expect(Opened, ref)
        return ref

    async def linked(self, session_id: str = "company_1") -> tuple[Phone, SessionRef]:
        """A phone, and a session of it that is open."""
        phone = await self.phone()
        creds, _ = await self.link(phone, session_id)
        return phone, await self.resume(creds, session_id)

    async def qr(self, ref: SessionRef) -> Qr:
        return await self.expect(Qr, ref)

    @property
    def pid(self) -> int:
        """Of the only Node.js."""
        (pid,) = self.engine.pids
        return pid

    async def stats(self) -> tuple[Stats, ...]:
        """What the processes that run say when they are asked now."""
        now = asyncio.get_running_loop().time()
        async with asyncio.timeout(PATIENCE):
            while True:
                stats = [one for one in self.engine.stats() if one.pid]
                if stats and all(one.asked_at and one.asked_at > now for one in stats):
                    return tuple(stats)
                await asyncio.sleep(0.01)

    async def sockets(self) -> int:
        """How many there are, by Node.js's own count."""
        return sum(one.sessions for one in await self.stats())

    async def journal(self) -> dict[str, Any]:
        return await asyncio.to_thread(self.simulator.journal)

    async def nobody_is_connected(self) -> None:
        await eventually(
            lambda: self.simulator.journal()["connections"]["open"] == 0,
            "the server sees the sockets go",
        )


@pytest.fixture(scope="session")
def simulator() -> Iterator[Simulator]:
    with Simulator.start() as running:
        yield running


@pytest_asyncio.fixture
async def make_rig(
    simulator: Simulator,
) -> AsyncIterator[Callable[..., Awaitable[Rig]]]:
    """Engines with limits of the test's own; all are stopped afterwards."""
    rigs: list[Rig] = []

    async def make(*, processes: int = 1, **limits: float) -> Rig:
        given = Limits(**{**PATIENT, **limits})  # type: ignore[arg-type]
        rig = Rig(simulator, limits=given, processes=processes)
        rigs.append(rig)
        await rig.engine.start()
        for _ in range(processes):
            await rig.expect(EngineStarted)
        return rig

    yield make
    for rig in rigs:
        await rig.engine.stop()
    await asyncio.to_thread(simulator.clear_faults)
    await eventually(
        lambda: simulator.journal()["connections"]["open"] == 0, "sockets left behind"
    )
    await asyncio.to_thread(simulator.reset_journal)


@pytest_asyncio.fixture
async def rig(make_rig: Callable[..., Awaitable[Rig]]) -> Rig:
    return await make_rig()


MakeRig = Callable[..., Awaitable[Rig]]
# Much longer than a busy machine keeps a Node.js waiting.
LEASE_SECONDS = 3.0


def is_running(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def holder(rig: Rig, ref: SessionRef) -> int:
    """The pid of the Node.js in which a session lives."""
    session = rig.engine._sessions.get(ref.generation)
    assert session
    assert session.process
    assert session.process.pid
    return session.process.pid


def pid_of(rig: Rig, process: int) -> int | None:
    return next((one.pid for one in rig.engine.stats() if one.process == process), None)


def jid_of(phone: Phone) -> str:
    return str(phone.devices()[0]["jid"])


class Salons:
    """Linked sessions that are opened again whenever Node.js dies, as a gateway does."""

    def __init__(self, rig: Rig) -> None:
        self.rig = rig
        self.phones: dict[str, Phone] = {}
        self.refs: dict[str, SessionRef] = {}
        self.hits: Counter[str] = Counter()
        self.convicted: set[str] = set()

    async def link(self, *names: str) -> None:
        """Link and open them, and wait until each has said its first things."""
        for name in names:
            self.phones[name], self.refs[name] = await self.rig.linked(name)

    async def quiet(self) -> None:
        """Wait until nobody is suspicious any more."""
        loop = asyncio.get_running_loop()
        sessions = self.rig.engine._sessions
        await eventually(
            lambda: not any(one.is_suspect(loop.time() - 1) for one in sessions),
            "everybody is quiet",
        )

    async def open(self, name: str) -> None:
        while True:
            self.refs[name] = new_ref(name)
            creds = self.rig.store.creds[name]
            try:
                await self.rig.engine.open(self.refs[name], creds)
            except EngineGone:
                await asyncio.sleep(0.05)
            else:
                return

    async def run(self) -> None:
        """Open again whom a death has hit, and is not convicted of it."""
        async with asyncio.TaskGroup() as opening:
            while True:
                stopped = await self.rig.expect(EngineStopped, within=3600)
                self.convicted |= {ref.session_id for ref in stopped.convicted}
                for ref in stopped.sessions:
                    if self.refs[ref.session_id] == ref:
                        self.hits[ref.session_id] += 1
                        if ref not in stopped.convicted:
                            opening.create_task(self.open(ref.session_id))

    async def all_open(self, *names: str) -> None:
        wanted = {jid_of(self.phones[name]) for name in names}

        def are_open() -> bool:
            found = self.rig.simulator.connections()
            return wanted <= {one.get("jid") for one in found if one["stage"] == "open"}

        await eventually(are_open, f"{names} are open")

    async def never_doubled(self) -> None:
        devices = (await self.rig.journal())["devices"]
        peaks = {jid: device["peakOpenSockets"] for jid, device in devices.items()}
        assert max(peaks.values()) == 1, peaks
