"""Node.js processes that die, hang, grow or are left alone, and who is to blame."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from tests.engine_fixtures import (
    PATIENCE,
    Rig,
    eventually,
    make_rig,
    new_ref,
    simulator,
)
from tests.simulator import Phone, Simulator, find_node
from tests.test_engine import is_running
from whatsapp.engine import (
    Closed,
    DisconnectReason,
    EngineError,
    EngineGone,
    EngineStarted,
    EngineStopped,
    SessionRef,
)

__all__ = ["make_rig", "simulator"]

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(240)]
MakeRig = Callable[..., Awaitable[Rig]]

# Much longer than a busy machine keeps a Node.js waiting.
HANG_SECONDS = 4.0
LEASE_SECONDS = 3.0


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


@asynccontextmanager
async def running(salons: Salons) -> AsyncIterator[None]:
    task = asyncio.create_task(salons.run())
    try:
        yield
        assert not task.done(), task
    finally:
        task.cancel()
        await asyncio.wait([task])


# Several processes -------------------------------------------------------------------


async def test_the_death_of_one_process_costs_nobody_elses_sessions(
    make_rig: MakeRig,
) -> None:
    rig = await make_rig(processes=2)
    salons = Salons(rig)
    await salons.link(*(f"company_{number}" for number in range(4)))
    assert len(rig.engine.pids) == 2
    assert [one.sessions for one in await rig.stats()] == [2, 2]
    doomed = holder(rig, salons.refs["company_0"])
    inside = {
        ref.session_id for ref in salons.refs.values() if holder(rig, ref) == doomed
    }
    os.kill(doomed, signal.SIGKILL)
    stopped = await rig.expect(EngineStopped)
    assert {ref.session_id for ref in stopped.sessions} == inside
    # The other one takes new sessions at once.
    again = new_ref("company_new")
    await rig.engine.open(again, None)
    assert holder(rig, again) != doomed
    started = await rig.expect(EngineStarted)
    assert started.process == stopped.process
    for name in inside:
        await salons.open(name)
    await salons.all_open(*salons.phones)
    spared = [name for name in salons.phones if name not in inside]
    devices = (await rig.journal())["devices"]
    assert {devices[jid_of(salons.phones[name])]["logins"] for name in spared} == {1}
    await salons.never_doubled()


async def test_a_session_that_moves_to_another_process_leaves_the_first(
    make_rig: MakeRig,
) -> None:
    rig = await make_rig(processes=2)
    phone, older = await rig.linked("company_1")
    first = holder(rig, older)
    others = [new_ref("company_2"), new_ref("company_3")]
    for other in others:
        await rig.engine.open(other, None)
    await rig.engine.close(others[0])
    # Now nobody lives in the second process, and somebody else in the first.
    newer = await rig.resume(rig.store.creds["company_1"], first=False)
    assert holder(rig, newer) != first
    assert rig.of(older) == []
    device = (await rig.journal())["devices"][jid_of(phone)]
    assert device["peakOpenSockets"] == 1
    assert await rig.sockets() == 2


async def test_one_that_cannot_start_stops_all(
    simulator: Simulator, tmp_path: Path
) -> None:
    mark = tmp_path / "started"
    node = tmp_path / "node"
    node.write_text(
        f'#!/bin/sh\nmkdir "{mark}" 2>/dev/null || exit 3\nexec "{find_node()}" "$@"\n'
    )
    node.chmod(0o755)
    rig = Rig(simulator, node=str(node), processes=2)
    with pytest.raises(EngineError, match="did not start: exit code 3"):
        await rig.engine.start()
    assert rig.engine.pids == ()


def test_an_engine_without_a_process_is_refused(simulator: Simulator) -> None:
    with pytest.raises(ValueError, match="needs a process"):
        Rig(simulator, processes=0)


# The pulse ---------------------------------------------------------------------------


async def test_a_hanging_node_is_killed_and_replaced(
    make_rig: MakeRig, caplog: pytest.LogCaptureFixture
) -> None:
    rig = await make_rig(hang_timeout=HANG_SECONDS)
    phone, ref = await rig.linked()
    pid = rig.pid
    os.kill(pid, signal.SIGSTOP)
    stopped = await rig.expect(EngineStopped)
    assert stopped.sessions == (ref,)
    assert not is_running(pid)
    errors = [one for one in caplog.records if one.levelno == logging.ERROR]
    assert ["has not answered for 4 s" in one.getMessage() for one in errors] == [True]
    await rig.expect(EngineStarted)
    await rig.resume(rig.store.creds["company_1"], first=False)
    device = (await rig.journal())["devices"][jid_of(phone)]
    assert device["peakOpenSockets"] == 1


async def test_who_comes_to_a_node_that_hangs_already_is_not_suspected(
    make_rig: MakeRig,
) -> None:
    rig = await make_rig(hang_timeout=HANG_SECONDS)
    early, late = new_ref("company_early"), new_ref("company_late")
    with rig.simulator.fault("no-pair-device"):
        await rig.engine.open(early, None)
        os.kill(rig.pid, signal.SIGSTOP)
        pulse = rig.engine._processes[0]._supervisor._pulse
        await eventually(
            lambda: time.monotonic() > pulse.answered_at + 0.5, "it misses pings"
        )
        with pytest.raises(EngineGone):
            await rig.engine.open(late, None)
    stopped = await rig.expect(EngineStopped)
    assert stopped.sessions == (early, late)
    assert rig.engine._blame.is_on_probation("company_early")
    assert not rig.engine._blame.is_on_probation("company_late")


async def test_what_we_sleep_ourselves_is_no_hang_of_node(make_rig: MakeRig) -> None:
    rig = await make_rig(hang_timeout=HANG_SECONDS)
    pid = rig.pid
    os.kill(pid, signal.SIGSTOP)
    await asyncio.sleep(HANG_SECONDS / 8)
    time.sleep(HANG_SECONDS * 1.2)  # noqa: ASYNC251  (the event loop is blocked)
    # Its answers come only after we have looked at the clock.
    os.kill(pid, signal.SIGCONT)
    await rig.stats()
    assert rig.pid == pid


async def test_a_node_that_wakes_up_reads_before_it_judges(make_rig: MakeRig) -> None:
    rig = await make_rig(lease=LEASE_SECONDS)
    pid = rig.pid
    await rig.stats()
    os.kill(pid, signal.SIGSTOP)
    # Its timer is overdue when it wakes up, and newer pings are in the pipe.
    await asyncio.sleep(2 * LEASE_SECONDS)
    os.kill(pid, signal.SIGCONT)
    await rig.stats()
    assert rig.pid == pid


async def test_the_figures_are_of_now(make_rig: MakeRig) -> None:
    rig = await make_rig(processes=2)
    await rig.engine.open(new_ref("company_1"), None)
    stats = await rig.stats()
    assert [one.process for one in stats] == [1, 2]
    assert tuple(one.pid for one in stats) == rig.engine.pids
    assert sorted(one.sessions for one in stats) == [0, 1]
    assert all(one.rss > one.heap > 1_000_000 for one in stats)
    assert all(one.lag_max_ms >= one.lag_mean_ms >= 0 for one in stats)


# The lease ---------------------------------------------------------------------------

PARENT = """
    import asyncio, sys
    from tests.engine_fixtures import MemoryStore, new_ref
    from whatsapp.engine import Engine, EngineStarted, EngineStopped, Limits

    def tell(event):
        if isinstance(event, EngineStarted):
            print("started", *engine.pids, flush=True)
        if isinstance(event, EngineStopped):
            print("stopped", len(event.convicted), event.error, flush=True)

    async def main():
        global engine
        limits = Limits(lease=float(sys.argv[3]), ping_interval=0.2, strikes=1)
        engine = Engine(
            store=MemoryStore(), on_event=tell, node=sys.argv[1], ws_url=sys.argv[2],
            limits=limits,
        )
        await engine.start()
        await engine.open(new_ref(), None)
        print("open", flush=True)
        await asyncio.Event().wait()

    asyncio.run(main())
"""


@contextmanager
def parent_of_node(simulator: Simulator) -> Iterator[subprocess.Popen[str]]:
    arguments = [find_node(), simulator.ws_url, str(LEASE_SECONDS)]
    with subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(PARENT), *arguments],
        stdout=subprocess.PIPE,
        text=True,
        cwd=str(Path(__file__).parent.parent),
    ) as parent:
        try:
            yield parent
        finally:
            parent.kill()


def said(parent: subprocess.Popen[str], first: str) -> list[str]:
    """The next line that begins so."""
    assert parent.stdout
    for line in parent.stdout:
        if line.startswith(first):
            return line.split()
    raise AssertionError(f"it never said {first}")


def wait_until_gone(pid: int) -> None:
    deadline = time.monotonic() + PATIENCE
    while is_running(pid):
        assert time.monotonic() < deadline, "Node.js goes on without us"
        time.sleep(0.02)


def is_stopped(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"


def test_node_ends_itself_while_we_are_stopped(simulator: Simulator) -> None:
    with parent_of_node(simulator) as parent:
        pid = int(said(parent, "started")[1])
        said(parent, "open")
        os.kill(parent.pid, signal.SIGSTOP)
        wait_until_gone(pid)
        assert is_stopped(parent.pid)
        os.kill(parent.pid, signal.SIGCONT)
        # Nobody is to blame for it, although one session was just starting.
        assert said(parent, "stopped")[1] == "0"
        assert int(said(parent, "started")[1]) != pid


def test_a_node_that_was_stopped_with_us_ends_when_it_alone_wakes_up(
    simulator: Simulator,
) -> None:
    with parent_of_node(simulator) as parent:
        pid = int(said(parent, "started")[1])
        said(parent, "open")
        os.kill(pid, signal.SIGSTOP)
        os.kill(parent.pid, signal.SIGSTOP)
        time.sleep(LEASE_SECONDS)
        os.kill(pid, signal.SIGCONT)
        wait_until_gone(pid)
        assert is_stopped(parent.pid)


# Memory ------------------------------------------------------------------------------


def lower_the_bound(rig: Rig, memory_mb: int) -> None:
    """As if Node.js had grown."""
    pulse = rig.engine._processes[0]._supervisor._pulse
    pulse._limits = replace(pulse._limits, memory_mb=memory_mb)


async def test_a_node_that_is_too_large_is_ended_in_peace_and_replaced(
    make_rig: MakeRig, caplog: pytest.LogCaptureFixture
) -> None:
    rig = await make_rig()
    phone, ref = await rig.linked()
    pid = rig.pid
    gate = asyncio.Event()

    async def wait_for_gate(_: object) -> None:
        await gate.wait()

    rig.store.before_save = wait_for_gate
    saves = len(rig.store.saves)
    contact = await rig.phone()
    await asyncio.to_thread(phone.send_text, "hello", sender=contact.number)
    await eventually(lambda: len(rig.store.saves) > saves, "a write on its way")
    lower_the_bound(rig, 80)
    await eventually(lambda: "more than 80 MB" in caplog.text, "it is noticed")
    with pytest.raises(EngineGone):
        await rig.engine.open(new_ref("company_2"), None)
    for _ in range(3):
        await rig.stats()
    assert rig.pid == pid, "the last write is waited for"
    gate.set()
    stopped = await rig.expect(EngineStopped)
    assert (stopped.sessions, stopped.convicted) == ((ref,), frozenset())
    await rig.expect(EngineStarted)
    await rig.resume(rig.store.creds["company_1"], first=False)
    assert len(rig.engine.pids) == 1, "nobody is on probation"
    device = (await rig.journal())["devices"][jid_of(phone)]
    assert device["peakOpenSockets"] == 1


async def test_a_node_that_is_always_too_large_is_not_replaced_all_the_time(
    make_rig: MakeRig, caplog: pytest.LogCaptureFixture
) -> None:
    rig = await make_rig(memory_mb=80)
    await rig.expect(EngineStopped)
    await rig.expect(EngineStarted)
    pid = rig.pid
    for _ in range(3):
        await rig.stats()
    assert rig.pid == pid
    told = [one for one in caplog.records if "more than 80 MB" in one.getMessage()]
    assert [one.levelno for one in told] == [logging.ERROR, logging.WARNING]


# Poison ------------------------------------------------------------------------------


@asynccontextmanager
async def poisonous(rig: Rig, phone: Phone) -> AsyncIterator[None]:
    """Whenever this phone's session logs in, the Node.js that holds it dies."""
    jid = jid_of(phone)

    def is_in(_: object = None) -> bool:
        found = rig.simulator.connections()
        return any(one.get("jid") == jid for one in found)

    async def poison() -> None:
        while True:
            await asyncio.sleep(0.02)
            if await asyncio.to_thread(is_in):
                with contextlib.suppress(ProcessLookupError, AssertionError):
                    os.kill(pid_holding(rig, phone), signal.SIGKILL)
                await eventually(lambda: not is_in(), "its socket is gone")

    task = asyncio.create_task(poison())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])


def pid_holding(rig: Rig, phone: Phone) -> int:
    for session in rig.engine._sessions:
        if session.ref.session_id == f"poison_{phone.number}" and session.process:
            assert session.process.pid
            return session.process.pid
    raise AssertionError("nobody holds it")


async def test_a_session_that_ends_node_again_and_again_is_set_apart(
    make_rig: MakeRig,
) -> None:
    rig = await make_rig(restart_delay=0.05)
    salons = Salons(rig)
    neighbours = [f"company_{number}" for number in range(3)]
    await salons.link(*neighbours)
    phone = await rig.phone()
    name = f"poison_{phone.number}"
    rig.store.creds[name], _ = await rig.link(phone, name)
    salons.phones[name] = phone
    await salons.quiet()
    async with running(salons):
        async with poisonous(rig, phone):
            await salons.open(name)
            await eventually(lambda: salons.convicted, "it is convicted")
            await salons.all_open(*neighbours)
        assert salons.convicted == {name}
        assert salons.hits[name] == 3
        assert {salons.hits[one] for one in neighbours} == {1}, "only the first death"
        await salons.never_doubled()
        # Whatever it was is over: it comes in again, but not to the others.
        await salons.open(name)
        await salons.all_open(*salons.phones)
        assert holder(rig, salons.refs[name]) == pid_of(rig, 0)
        assert {holder(rig, salons.refs[one]) for one in neighbours} == {pid_of(rig, 1)}


async def test_a_poison_among_many_that_start_at_once_is_found(
    make_rig: MakeRig,
) -> None:
    rig = await make_rig(restart_delay=0.05, suspicion=0.5)
    salons = Salons(rig)
    neighbours = [f"company_{number}" for number in range(3)]
    await salons.link(*neighbours)
    phone = await rig.phone()
    name = f"poison_{phone.number}"
    rig.store.creds[name], _ = await rig.link(phone, name)
    salons.phones[name] = phone
    async with running(salons):
        async with poisonous(rig, phone):
            for one in [*neighbours, name]:
                await salons.open(one)
            await eventually(lambda: salons.convicted, "it is convicted")
            await salons.all_open(*neighbours)
        assert salons.convicted == {name}
        # The first death, and those that convict; a busy machine may spoil a trial.
        assert max(salons.hits[one] for one in neighbours) <= salons.hits[name]
        assert salons.hits[name] < 8
        await salons.never_doubled()


async def test_nobody_is_convicted_by_who_kills_node_under_traffic(
    make_rig: MakeRig,
) -> None:
    rig = await make_rig(restart_delay=0.05, suspicion=0.3)
    salons = Salons(rig)
    await salons.link(*(f"company_{number}" for number in range(4)))
    contact = await rig.phone()

    async def talk(phone: Phone) -> None:
        while True:
            with contextlib.suppress(Exception):
                await asyncio.to_thread(phone.send_text, "hi", sender=contact.number)
            await asyncio.sleep(0.05)

    talks = [asyncio.create_task(talk(phone)) for phone in salons.phones.values()]
    try:
        async with running(salons):
            for count in range(1, 6):
                await salons.all_open(*salons.phones)
                os.kill(await eventually(lambda: pid_of(rig, 1), "it runs"), 9)
                await eventually(
                    lambda: rig.engine.stats()[0].restarts == count,  # noqa: B023
                    "its death is noticed",
                )
            await salons.all_open(*salons.phones)
    finally:
        for task in talks:
            task.cancel()
        await asyncio.wait(talks)
    assert salons.convicted == set()
    await salons.never_doubled()


def time_passes(rig: Rig) -> None:
    """As if the probation of all were over."""
    over = replace(rig.engine._limits, probation=0)
    rig.engine._blame._limits = rig.engine._ward._limits = over


async def test_who_lives_on_probation_for_long_enough_goes_home(
    make_rig: MakeRig,
) -> None:
    rig = await make_rig(restart_delay=0.05, suspicion=0.2)
    phone = await rig.phone()
    creds, jid = await rig.link(phone)
    with rig.simulator.fault("login", jid=jid, answer="silence"):
        starting = new_ref()
        await rig.engine.open(starting, creds)
        os.kill(rig.pid, signal.SIGKILL)
        await rig.expect(EngineStopped)
        await rig.expect(EngineStarted)
    ref = await rig.resume(creds)
    assert holder(rig, ref) == pid_of(rig, 0), "it lives in the ward"
    await rig.stats()
    assert rig.of(ref) == [], "it stays there for now"
    time_passes(rig)
    closed = await rig.expect(Closed, ref)
    assert closed.reason == DisconnectReason.ENGINE_GONE
    assert closed.reason.is_transient
    again = await rig.resume(rig.store.creds["company_1"], first=False)
    assert holder(rig, again) == pid_of(rig, 1)
    await eventually(lambda: len(rig.engine.pids) == 1, "the ward is closed")
    device = (await rig.journal())["devices"][jid]
    assert device["peakOpenSockets"] == 1


async def test_nothing_is_left_behind_of_any_process(make_rig: MakeRig) -> None:
    rig = await make_rig(processes=2, restart_delay=0.05)
    phone = await rig.phone()
    creds, jid = await rig.link(phone)
    with rig.simulator.fault("login", jid=jid, answer="silence"):
        starting = new_ref()
        await rig.engine.open(starting, creds)
        os.kill(holder(rig, starting), signal.SIGKILL)
        await rig.expect(EngineStopped)
        again = new_ref()
        await rig.engine.open(again, creds)
        assert holder(rig, again) == pid_of(rig, 0)
        await eventually(lambda: len(rig.engine.pids) == 3, "two and the ward")
        pids = rig.engine.pids
        waiting = asyncio.create_task(rig.engine.open(new_ref(), creds))
        await rig.engine.stop()
        await asyncio.wait([waiting])
    assert [pid for pid in pids if is_running(pid)] == []
    assert rig.engine.pids == ()
    with pytest.raises(EngineGone):
        await rig.engine.open(new_ref(), creds)
    await rig.nobody_is_connected()
