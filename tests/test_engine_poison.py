"""Sessions that end Node.js again and again: who is to blame, and who is not."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest

from tests.engine_fixtures import (
    MakeRig,
    Rig,
    Salons,
    eventually,
    holder,
    jid_of,
    make_rig,
    new_ref,
    pid_of,
    simulator,
)
from tests.simulator import Phone
from whatsapp.engine import Closed, DisconnectReason, EngineStarted, EngineStopped

__all__ = ["make_rig", "simulator"]

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(240)]


@asynccontextmanager
async def running(salons: Salons) -> AsyncIterator[None]:
    task = asyncio.create_task(salons.run())
    try:
        yield
        assert not task.done(), task
    finally:
        task.cancel()
        await asyncio.wait([task])


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
