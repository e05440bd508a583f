"""Node.js processes that die, hang, grow or are left alone."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import time
from dataclasses import replace
from pathlib import Path

import pytest

from tests.engine_fixtures import (
    LEASE_SECONDS,
    MakeRig,
    Rig,
    Salons,
    eventually,
    holder,
    is_running,
    jid_of,
    make_rig,
    new_ref,
    pid_of,
    simulator,
)
from tests.simulator import Simulator, find_node
from whatsapp.engine import EngineError, EngineGone, EngineStarted, EngineStopped

__all__ = ["make_rig", "simulator"]

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(240)]

# Much longer than a busy machine keeps a Node.js waiting.
HANG_SECONDS = 4.0


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


# The end -----------------------------------------------------------------------------


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
