"""How sockets end: by WhatsApp, by us, by accident; and what must not follow."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

import orjson
import pytest

from tests.engine_fixtures import Rig, eventually, make_rig, new_ref, rig, simulator
from tests.simulator import Phone
from whatsapp.engine import (
    Alive,
    Closed,
    CodeEntered,
    DisconnectReason,
    Opened,
    Paired,
    Qr,
    SessionRef,
)

__all__ = ["make_rig", "rig", "simulator"]

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(240)]
MakeRig = Callable[..., Awaitable[Rig]]

QUERY_SECONDS = 2.0
"""Baileys' patience with a query: a busy simulator must be able to answer in it."""

CLOSE_SECONDS = 4.0
"""Quick; ws waits for its peer's word for 30 s, and we for the store's for 5."""


async def stays(condition: Callable[[], bool], seconds: float, what: str) -> None:
    """That nothing happens can only be seen by looking for a while."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        assert condition(), what
        await asyncio.sleep(0.05)


# The meanings of 401 ---------------------------------------------------------------


async def test_401_to_a_device_that_was_removed_while_away(rig: Rig) -> None:
    phone = await rig.phone()
    creds, _ = await rig.link(phone)
    await asyncio.to_thread(phone.remove_device)
    ref = new_ref()
    await rig.engine.open(ref, creds)
    closed = await rig.expect(Closed, ref)
    assert closed.reason.is_logged_out
    assert closed.is_confirmed_logout
    assert not closed.is_device_removed
    assert (closed.origin, closed.status) == ("failure", 401)


async def test_401_to_creds_that_never_were_linked(rig: Rig) -> None:
    phone = await rig.phone()
    creds = orjson.loads((await rig.link(phone))[0])
    del creds["account"]
    creds["me"] = {"id": "79990009999@s.whatsapp.net", "name": "~"}
    ref = new_ref()
    await rig.engine.open(ref, orjson.dumps(creds).decode())
    closed = await rig.expect(Closed, ref)
    assert closed.reason.is_logged_out
    assert not closed.is_confirmed_logout
    assert not closed.linked


async def test_401_to_a_device_that_is_removed_while_connected(rig: Rig) -> None:
    phone, ref = await rig.linked()
    await asyncio.to_thread(phone.remove_device)
    closed = await rig.expect(Closed, ref)
    assert closed.is_confirmed_logout
    assert closed.is_device_removed
    assert closed.text == "device_removed"
    assert closed.was_open


# Other numbers ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "policy"),
    [
        (402, "is_banned"),
        (403, "is_banned"),
        (405, "is_outdated"),
        (409, "is_outdated"),
        (411, "is_multidevice_mismatch"),
        (499, "is_transient"),
        (500, "is_bad_session"),
        (503, "is_transient"),
    ],
)
async def test_a_failed_login_has_its_reason(
    rig: Rig, status: int, policy: str
) -> None:
    phone = await rig.phone()
    creds, jid = await rig.link(phone)
    ref = new_ref()
    with rig.simulator.fault("login", jid=jid, answer="failure", reason=status):
        await rig.engine.open(ref, creds)
        closed = await rig.expect(Closed, ref)
    assert closed.reason == status
    assert getattr(closed.reason, policy)


async def test_440_when_another_client_logs_in(rig: Rig) -> None:
    phone, ref = await rig.linked()
    await asyncio.to_thread(
        rig.simulator.stream_error, 440, conflict="replaced", phone=phone.number
    )
    closed = await rig.expect(Closed, ref)
    assert closed.reason.is_replaced
    assert not closed.reason.is_transient


async def test_a_cut_connection_is_transient(rig: Rig) -> None:
    phone, ref = await rig.linked()
    await asyncio.to_thread(rig.simulator.drop, phone=phone.number)
    closed = await rig.expect(Closed, ref)
    assert closed.reason == DisconnectReason.CONNECTION_CLOSED
    assert closed.reason.is_transient
    assert closed.was_open


@pytest.mark.parametrize(
    ("fault", "params", "reason"),
    [
        ("refuse", {}, DisconnectReason.UNREACHABLE),
        ("http", {"status": 404}, DisconnectReason.HTTP_STATUS),
        ("http", {"status": 500}, DisconnectReason.HTTP_STATUS),
        ("keepalive-503", {}, DisconnectReason.HTTP_STATUS),
        ("blackhole", {}, DisconnectReason.UNREACHABLE),
        ("no-server-hello", {}, DisconnectReason.UNREACHABLE),
        ("login", {"answer": "silence"}, DisconnectReason.SILENCE),
        ("no-open", {}, DisconnectReason.SILENCE),
    ],
)
async def test_no_hang_is_endless(
    make_rig: MakeRig, fault: str, params: dict[str, Any], reason: DisconnectReason
) -> None:
    creds, _ = await (linking := await make_rig()).link(await linking.phone())
    # Far enough apart for a busy machine: the first to run out says which it was.
    rig = await make_rig(connect_timeout=6, socket_timeout=2)
    ref = new_ref()
    with rig.simulator.fault(fault, **params):
        await rig.engine.open(ref, creds)
        # Without clocks of our own, Baileys' are 20 s and more.
        closed = await rig.expect(Closed, ref, within=15)
        assert closed.reason == reason
        assert closed.reason.is_transient
        assert not closed.was_open
        if fault == "http":
            assert closed.status == params["status"]
    await rig.nobody_is_connected()


async def test_refs_that_never_come_are_noticed(make_rig: MakeRig) -> None:
    rig = await make_rig(connect_timeout=1)
    ref = new_ref()
    with rig.simulator.fault("no-pair-device"):
        await rig.engine.open(ref, None)
        assert (await rig.expect(Closed, ref)).reason == DisconnectReason.SILENCE
    await rig.nobody_is_connected()


async def test_a_dead_peer_is_noticed_by_the_keep_alive(make_rig: MakeRig) -> None:
    # Baileys allows its peer 5 s beyond the interval.
    rig = await make_rig(keep_alive=0.5)
    phone, ref = await rig.linked()
    await asyncio.to_thread(rig.simulator.freeze, phone=phone.number)
    # The interval by default is 30 s.
    closed = await rig.expect(Closed, ref, within=25)
    assert closed.reason == DisconnectReason.CONNECTION_LOST
    assert closed.reason.is_transient


# Our own end -----------------------------------------------------------------------

PHASES: dict[str, tuple[str | None, dict[str, Any]]] = {
    "connecting": ("blackhole", {}),
    "refused": ("refuse", {}),
    "handshake": ("no-server-hello", {}),
    "slow handshake": ("slow-handshake", {"ms": 500}),
    "no refs": ("no-pair-device", {}),
    "qr": (None, {}),
    "hello": ("hello", {"answer": "silence"}),
    "code": (None, {}),
    "finish": ("finish", {"answer": "silence"}),
    "paired": ("no-515", {}),
    "login": ("login", {"answer": "silence"}),
    "opening": ("no-open", {}),
    "open": (None, {}),
    "frozen": (None, {}),
}


async def reach(rig: Rig, phase: str) -> tuple[SessionRef, asyncio.Task[Any] | None]:
    """Bring a socket into a phase; its ref, and a call that is still waiting."""
    if phase in ("open", "frozen"):
        phone, ref = await rig.linked()
        if phase == "frozen":
            await asyncio.to_thread(rig.simulator.freeze, phone=phone.number)
        return ref, None
    phone = await rig.phone()
    creds = (await rig.link(phone))[0] if phase in ("login", "opening") else None
    fault, params = PHASES[phase]
    if fault:
        await asyncio.to_thread(rig.simulator.fault, fault, **params)
    ref = new_ref()
    await rig.engine.open(ref, creds)
    return ref, await advance(rig, phase, phone, ref)


async def advance(
    rig: Rig, phase: str, phone: Phone, ref: SessionRef
) -> asyncio.Task[Any] | None:
    """From open to a phase of a link attempt."""
    if phase == "qr":
        await rig.expect(Qr, ref)
    if phase == "hello":
        asked = asyncio.create_task(rig.engine.request_code(ref, phone.number))
        await eventually(lambda: rig.simulator.journal()["hellos"], "the hello")
        return asked
    if phase in ("code", "finish", "paired"):
        code = await rig.engine.request_code(ref, phone.number)
        if phase != "code":
            entered = asyncio.create_task(rig.enter(phone, code))
            await rig.expect(CodeEntered if phase == "finish" else Paired, ref)
            return entered
    return None


@pytest.mark.parametrize("phase", PHASES)
async def test_closing_is_quick_and_final_in_every_phase(
    make_rig: MakeRig, phase: str
) -> None:
    rig = await make_rig(query_timeout=QUERY_SECONDS)
    ref, waiting = await reach(rig, phase)
    began = time.monotonic()
    await rig.engine.close(ref)
    assert time.monotonic() - began < CLOSE_SECONDS
    if phase != "refused":
        await rig.nobody_is_connected()
    await rig.engine.close(ref)
    rig.events = [event for event in rig.events if event not in rig.of(ref)]
    calls = rig.store.calls
    await asyncio.to_thread(rig.simulator.clear_faults)
    # Baileys' pending queries time out now, and go on to write keys.
    await stays(
        lambda: rig.store.calls == calls, QUERY_SECONDS + 1.2, "a late store call"
    )
    assert rig.of(ref) == []
    if waiting:
        await asyncio.gather(waiting, return_exceptions=True)


async def test_a_close_waits_for_the_last_writes(rig: Rig) -> None:
    phone = await rig.phone()
    creds, _ = await rig.link(phone)
    gate = asyncio.Event()

    async def wait_for_gate(_: object) -> None:
        await gate.wait()

    ref = await rig.resume(creds)
    await eventually(lambda: len(rig.store.keys) > 800, "the first login's keys")
    rig.store.before_save = wait_for_gate
    saves = len(rig.store.saves)
    contact = await rig.phone()
    await asyncio.to_thread(phone.send_text, "hello", sender=contact.number)
    await eventually(lambda: len(rig.store.saves) > saves, "a write on its way")
    closing = asyncio.create_task(rig.engine.close(ref))
    await stays(lambda: not closing.done(), 0.5, "closed before the write was in")
    gate.set()
    await closing


async def test_two_opens_never_make_two_sockets(rig: Rig) -> None:
    phone = await rig.phone()
    creds, jid = await rig.link(phone)
    refs = [new_ref() for _ in range(5)]
    await asyncio.gather(*(rig.engine.open(ref, creds, first=True) for ref in refs))
    await rig.expect(Opened, refs[-1])
    for ref in refs[:-1]:
        assert rig.of(ref) == []
    device = (await rig.journal())["devices"][jid]
    assert device["openSockets"] == 1
    assert device["peakOpenSockets"] == 1
    assert await rig.sockets() == 1


async def test_a_newer_open_takes_over_an_open_socket(rig: Rig) -> None:
    phone, older = await rig.linked()
    newer = await rig.resume(rig.store.creds["company_1"], first=False)
    assert rig.of(older) == []
    device = phone.devices()[0]["jid"]
    assert (await rig.journal())["devices"][device]["peakOpenSockets"] == 1
    await rig.engine.close(older)
    assert await rig.sockets() == 1
    assert rig.of(newer) == []


async def test_a_cancelled_open_leaves_nothing_and_hides_nothing(rig: Rig) -> None:
    phone, older = await rig.linked()
    creds = rig.store.creds["company_1"]
    for _ in range(5):
        opening = asyncio.create_task(rig.engine.open(new_ref(), creds))
        await asyncio.sleep(0)
        opening.cancel()
        await asyncio.wait([opening])
    newest = await rig.resume(creds, first=False)
    assert rig.of(older) == []
    assert await rig.sockets() == 1
    device = (await rig.journal())["devices"][phone.devices()[0]["jid"]]
    assert device["peakOpenSockets"] == 1
    await rig.engine.close(newest)


async def test_a_session_that_is_closed_while_it_waits_its_turn_never_starts(
    make_rig: MakeRig,
) -> None:
    rig = await make_rig(links=1, slot_hold=30)
    first, second = new_ref("company_1"), new_ref("company_2")
    with rig.simulator.fault("blackhole"):
        await rig.engine.open(first, None)
        waiting = asyncio.create_task(rig.engine.open(second, None))
        await eventually(
            lambda: rig.engine.waiting == 1,
            "the second waits",
        )
        await rig.engine.close(second)
        await waiting
        assert await rig.sockets() == 1
        await rig.engine.close(first)


async def test_links_do_not_wait_behind_logins(make_rig: MakeRig) -> None:
    rig = await make_rig(logins=1, slot_hold=30)
    phone = await rig.phone()
    creds, jid = await rig.link(phone)
    with rig.simulator.fault("login", jid=jid, answer="silence"):
        await rig.engine.open(new_ref("company_1"), creds)
        waiting = asyncio.create_task(rig.engine.open(new_ref("company_2"), creds))
        ref = new_ref("company_3")
        await rig.engine.open(ref, None)
        await rig.expect(Qr, ref)
        assert not waiting.done()
        waiting.cancel()
        await asyncio.wait([waiting])


# What must not reach other sessions --------------------------------------------------


@pytest.mark.parametrize("behind", ["pair-device", "dirty", "offline_preview"])
async def test_a_rejection_nobody_handles_costs_nobody_else_a_session(
    rig: Rig, behind: Any
) -> None:
    _, bystander = await rig.linked("company_1")
    phone, ref = await rig.linked("company_2")
    pid = rig.pid
    await asyncio.to_thread(
        rig.simulator.stream_error, 503, behind=behind, phone=phone.number
    )
    await rig.expect(Closed, ref)
    assert rig.pid == pid
    assert rig.of(bystander) == []
    assert await rig.sockets() == 1


async def test_an_undecryptable_frame_ends_its_own_session_at_once(rig: Rig) -> None:
    _, bystander = await rig.linked("company_1")
    phone, ref = await rig.linked("company_2")
    await asyncio.to_thread(rig.simulator.garbage, phone=phone.number)
    # Baileys itself would wait for its keep-alive, 35 s.
    closed = await rig.expect(Closed, ref, within=20)
    assert closed.reason == DisconnectReason.BAD_FRAME
    assert closed.reason.is_transient
    assert rig.of(bystander) == []


async def test_an_undecodable_frame_is_skipped(rig: Rig) -> None:
    phone, ref = await rig.linked()
    await asyncio.to_thread(rig.simulator.undecodable, phone=phone.number)
    saves = len(rig.store.saves)
    contact = await rig.phone()
    await asyncio.to_thread(phone.send_text, "still here", sender=contact.number)
    await eventually(lambda: len(rig.store.saves) > saves, "the message is read")
    assert rig.of(ref) == []


async def is_heard(rig: Rig) -> bool:
    try:
        await rig.expect(Alive, within=1)
    except AssertionError:
        return False
    return True


async def test_proof_of_life_names_who_was_heard(make_rig: MakeRig) -> None:
    rig = await make_rig(alive_interval=0.2, keep_alive=1)
    phone, ref = await rig.linked()
    while ref not in (alive := await rig.expect(Alive)).seen:
        pass
    assert alive.seen[ref] < 5_000
    await asyncio.to_thread(rig.simulator.freeze, phone=phone.number)
    # What was under way when it froze is still heard. Baileys gives up after 6 s.
    frozen = time.monotonic()
    while await is_heard(rig):
        assert time.monotonic() - frozen < 4
    await stays(
        lambda: not any(isinstance(event, Alive) for event in rig.events),
        1.5,
        "a frozen peer counts as alive",
    )
    await rig.engine.close(ref)
