"""Linking a phone: by code, by QR, and every way in which it does not come to that."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

import orjson
import pytest

from tests.engine_fixtures import Rig, eventually, make_rig, new_ref, rig, simulator
from whatsapp.engine import (
    Closed,
    CodeEntered,
    CodeExpired,
    CodeRefused,
    CodeRejected,
    DisconnectReason,
    Opened,
    Paired,
    PasskeyRequired,
)

__all__ = ["make_rig", "rig", "simulator"]

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(240)]
MakeRig = Callable[..., Awaitable[Rig]]


async def test_a_phone_links_by_code_and_the_link_opens(rig: Rig) -> None:
    phone = await rig.phone()
    ref = new_ref()
    await rig.engine.open(ref, None)
    code = await rig.engine.request_code(ref, phone.number)
    assert len(code) == 8

    answer = await rig.enter(phone, code)
    assert answer["ok"]
    await rig.expect(CodeEntered, ref)
    paired = await rig.expect(Paired, ref)
    closed = await rig.expect(Closed, ref)
    creds = orjson.loads(paired.creds)
    assert paired.jid == creds["me"]["id"] == answer["jid"]
    assert creds["account"]
    assert paired.platform == "android"
    assert closed.reason.is_restart
    assert closed.linked
    # Nothing of an attempt reaches the store before the caller decides so.
    assert rig.store.calls == 0

    again = await rig.resume(paired.creds)
    assert rig.of(again) == []
    assert orjson.loads(rig.store.creds["company_1"])["me"]["lid"]
    assert len([key for key in rig.store.keys if key[1] == "pre-key"]) > 800


async def test_a_phone_links_by_qr_and_the_link_opens(rig: Rig) -> None:
    phone = await rig.phone()
    ref = new_ref()
    await rig.engine.open(ref, None)
    qr = await rig.qr(ref)
    assert qr.lifetime_s == pytest.approx(60, abs=1)
    assert qr.window_s == pytest.approx(160, abs=1)
    assert (await rig.scan(phone, qr.qr))["ok"]
    paired = await rig.expect(Paired, ref)
    assert (await rig.expect(Closed, ref)).reason.is_restart
    opened_ref = new_ref()
    await rig.engine.open(opened_ref, paired.creds, first=True)
    opened = await rig.expect(Opened, opened_ref)
    assert opened.jid == paired.jid
    assert opened.lid


async def test_a_session_resumes_from_the_store_without_writing_creds(rig: Rig) -> None:
    _, ref = await rig.linked()
    await eventually(
        lambda: "lastPropHash" in rig.store.creds["company_1"], "the init queries"
    )
    await rig.engine.close(ref)
    before = rig.store.creds["company_1"]
    rig.store.saves.clear()
    again = await rig.resume(before, first=False)
    await rig.engine.close(again)
    # Baileys emits creds.update three times here, with nothing new in it.
    assert [save for save in rig.store.saves if save[1]] == []


async def test_a_code_can_be_typed_the_moment_it_is_shown(rig: Rig) -> None:
    for _ in range(5):
        phone = await rig.phone()
        ref = new_ref()
        await rig.engine.open(ref, None)
        code = await rig.engine.request_code(ref, phone.number)
        assert (await rig.enter(phone, code))["ok"]
        await rig.expect(Paired, ref)


async def test_a_code_is_asked_for_before_the_first_refs_are_there(rig: Rig) -> None:
    phone = await rig.phone()
    ref = new_ref()
    with rig.simulator.fault("slow-handshake", ms=300):
        asked = asyncio.gather(
            rig.engine.open(ref, None), rig.engine.request_code(ref, phone.number)
        )
        _, code = await asked
    assert (await rig.enter(phone, code))["ok"]


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (400, CodeRefused.Kind.BAD_REQUEST),
        (404, CodeRefused.Kind.NOT_FOUND),
        (429, CodeRefused.Kind.RATE_LIMITED),
        (500, CodeRefused.Kind.SERVER_ERROR),
        (503, CodeRefused.Kind.SERVER_ERROR),
    ],
)
async def test_a_refused_hello_is_no_code(
    rig: Rig, answer: int, kind: CodeRefused.Kind
) -> None:
    phone = await rig.phone()
    ref = new_ref()
    await rig.engine.open(ref, None)
    with (
        rig.simulator.fault("hello", phone=phone.number, answer=answer),
        pytest.raises(CodeRefused) as refused,
    ):
        await rig.engine.request_code(ref, phone.number)
    assert refused.value.kind == kind
    hellos = (await rig.journal())["hellos"]
    assert len(hellos) == (2 if answer >= 500 else 1), "5xx is tried once more"

    # The socket is as good as new: the next code works.
    code = await rig.engine.request_code(ref, phone.number)
    assert (await rig.enter(phone, code))["ok"]


async def test_one_5xx_is_not_the_salons_problem(rig: Rig) -> None:
    phone = await rig.phone()
    ref = new_ref()
    await rig.engine.open(ref, None)
    rig.simulator.fault("hello", phone=phone.number, answer=503, times=1)
    code = await rig.engine.request_code(ref, phone.number)
    assert (await rig.enter(phone, code))["ok"]


async def test_a_phone_without_whatsapp_is_not_found(rig: Rig) -> None:
    phone = await rig.phone(exists=False)
    ref = new_ref()
    await rig.engine.open(ref, None)
    with pytest.raises(CodeRefused) as refused:
        await rig.engine.request_code(ref, phone.number)
    assert refused.value.kind == CodeRefused.Kind.NOT_FOUND


async def test_what_is_no_phone_is_refused_without_asking(rig: Rig) -> None:
    ref = new_ref()
    await rig.engine.open(ref, None)
    with pytest.raises(CodeRefused) as refused:
        await rig.engine.request_code(ref, "+7 999 000-00-01")
    assert refused.value.kind == CodeRefused.Kind.BAD_REQUEST


@pytest.mark.parametrize(
    ("fault", "params", "kind"),
    [
        ("hello", {"answer": "silence"}, CodeRefused.Kind.SILENCE),
        ("hello", {"answer": "drop"}, CodeRefused.Kind.CLOSED),
        ("hello", {"answer": "stream-503"}, CodeRefused.Kind.CLOSED),
        ("no-pair-device", {}, CodeRefused.Kind.SILENCE),
        ("refuse", {}, CodeRefused.Kind.UNREACHABLE),
        ("http", {"status": 403}, CodeRefused.Kind.UNREACHABLE),
        ("http", {"status": 503}, CodeRefused.Kind.UNREACHABLE),
        ("keepalive-503", {}, CodeRefused.Kind.UNREACHABLE),
        ("blackhole", {}, CodeRefused.Kind.UNREACHABLE),
        ("no-server-hello", {}, CodeRefused.Kind.UNREACHABLE),
        ("failure", {"reason": 405, "on": "registration"}, CodeRefused.Kind.CLOSED),
    ],
)
async def test_no_fault_yields_a_code_or_outlasts_the_clock(
    make_rig: MakeRig, fault: str, params: dict[str, Any], kind: CodeRefused.Kind
) -> None:
    rig = await make_rig(code_timeout=5, connect_timeout=8)
    phone = await rig.phone()
    ref = new_ref()
    with rig.simulator.fault(fault, **params):
        began = time.monotonic()
        await rig.engine.open(ref, None)
        with pytest.raises(CodeRefused) as refused:
            await rig.engine.request_code(ref, phone.number)
        # By default the clocks are 12 s and more.
        assert time.monotonic() - began < 10
        assert refused.value.kind == kind, refused.value
        if fault == "failure":
            assert refused.value.reason
            assert refused.value.reason.is_outdated
        await rig.engine.close(ref)
    await rig.nobody_is_connected()


async def test_wrong_code_then_right_code(rig: Rig) -> None:
    phone = await rig.phone()
    ref = new_ref()
    await rig.engine.open(ref, None)
    code = await rig.engine.request_code(ref, phone.number)
    wrong = "1" * 8 if code != "1" * 8 else "2" * 8
    assert (await rig.enter(phone, wrong))["error"] == "wrong code"
    await rig.expect(CodeEntered, ref)
    assert (await rig.enter(phone, code))["ok"]
    await rig.expect(Paired, ref)


async def test_after_a_wrong_code_the_qr_is_drawn_anew_and_works(rig: Rig) -> None:
    phone = await rig.phone()
    ref = new_ref()
    await rig.engine.open(ref, None)
    old = await rig.qr(ref)
    code = await rig.engine.request_code(ref, phone.number)
    await rig.enter(phone, "1" * 8 if code != "1" * 8 else "2" * 8)
    await rig.expect(CodeEntered, ref)
    new = await rig.qr(ref)
    assert new.qr != old.qr
    assert new.lifetime_s <= 60
    assert (await rig.scan(phone, new.qr))["ok"]
    await rig.expect(Paired, ref)


async def test_a_stale_qr_ends_the_socket_with_an_error_without_a_number(
    rig: Rig,
) -> None:
    phone = await rig.phone()
    ref = new_ref()
    await rig.engine.open(ref, None)
    old = await rig.qr(ref)
    code = await rig.engine.request_code(ref, phone.number)
    await rig.enter(phone, "1" * 8 if code != "1" * 8 else "2" * 8)
    await rig.qr(ref)
    assert not (await rig.scan(phone, old.qr))["ok"]
    closed = await rig.expect(Closed, ref)
    assert closed.reason == DisconnectReason.BAD_SIGNATURE
    assert closed.status is None
    assert not closed.reason.is_transient


async def test_a_refused_newer_code_leaves_the_older_one_good(rig: Rig) -> None:
    phone = await rig.phone()
    ref = new_ref()
    await rig.engine.open(ref, None)
    code = await rig.engine.request_code(ref, phone.number)
    rig.simulator.fault("hello", phone=phone.number, answer=429, times=1)
    with pytest.raises(CodeRefused):
        await rig.engine.request_code(ref, phone.number)
    assert (await rig.enter(phone, code))["ok"]


async def test_a_second_code_replaces_the_first(rig: Rig) -> None:
    phone = await rig.phone()
    ref = new_ref()
    await rig.engine.open(ref, None)
    first = await rig.engine.request_code(ref, phone.number)
    second = await rig.engine.request_code(ref, phone.number)
    assert first != second
    assert not (await rig.enter(phone, first))["ok"]
    assert (await rig.enter(phone, second))["ok"]


async def test_a_refused_finish_is_told(rig: Rig) -> None:
    phone = await rig.phone()
    ref = new_ref()
    await rig.engine.open(ref, None)
    code = await rig.engine.request_code(ref, phone.number)
    with rig.simulator.fault("finish", phone=phone.number, answer="error"):
        await rig.enter(phone, code)
    await rig.expect(CodeRejected, ref)
    assert (await rig.enter(phone, code))["ok"]


async def test_a_passkey_is_named(rig: Rig) -> None:
    phone = await rig.phone(passkey=True)
    ref = new_ref()
    await rig.engine.open(ref, None)
    await rig.scan(phone, (await rig.qr(ref)).qr)
    await rig.expect(PasskeyRequired, ref)
    with pytest.raises(CodeRefused) as refused:
        await rig.engine.request_code(ref, phone.number)
    assert refused.value.kind == CodeRefused.Kind.PASSKEY


@pytest.mark.parametrize("by", ["refresh_code", "companion_reg_refresh"])
async def test_a_code_that_whatsapp_wants_renewed_is_told(rig: Rig, by: str) -> None:
    phone = await rig.phone()
    ref = new_ref()
    await rig.engine.open(ref, None)
    old = await rig.qr(ref)
    with rig.simulator.fault("hello", phone=phone.number, answer=by):
        await rig.engine.request_code(ref, phone.number)
        assert (await rig.expect(CodeExpired, ref)).by == by
    if by == "companion_reg_refresh":
        assert (await rig.qr(ref)).qr != old.qr
    code = await rig.engine.request_code(ref, phone.number)
    if by == "refresh_code":
        assert (await rig.enter(phone, code))["ok"]


async def test_a_code_dies_with_the_refs_of_its_socket(make_rig: MakeRig) -> None:
    rig = await make_rig(qr_lifetime=1)
    phone = await rig.phone()
    ref = new_ref()
    await rig.engine.open(ref, None)
    first = await rig.qr(ref)
    assert first.window_s == pytest.approx(6, abs=0.5)
    code = await rig.engine.request_code(ref, phone.number)
    seen = {first.qr} | {(await rig.qr(ref)).qr for _ in range(5)}
    assert len(seen) == 6
    closed = await rig.expect(Closed, ref)
    assert closed.reason.is_refs_ended
    assert not closed.linked
    assert not (await rig.enter(phone, code))["ok"]


async def test_no_qr_is_shown_once_the_phone_has_linked(make_rig: MakeRig) -> None:
    # Baileys' own timer of refs goes on until the socket ends.
    rig = await make_rig(qr_lifetime=1)
    phone = await rig.phone()
    ref = new_ref()
    with rig.simulator.fault("no-515"):
        await rig.engine.open(ref, None)
        assert (await rig.scan(phone, (await rig.qr(ref)).qr))["ok"]
        await rig.expect(Paired, ref)
        rig.events.clear()
        await rig.expect(Closed, ref)
        assert rig.events == []


async def test_a_burst_of_thirty_codes(make_rig: MakeRig) -> None:
    rig = await make_rig(code_timeout=60)
    phones = [await rig.phone() for _ in range(30)]
    refs = [new_ref(f"company_{number}") for number in range(30)]

    async def code(index: int) -> str:
        await rig.engine.open(refs[index], None)
        return await rig.engine.request_code(refs[index], phones[index].number)

    began = time.monotonic()
    codes = await asyncio.gather(*(code(index) for index in range(30)))
    assert len(set(codes)) == 30
    # One by one they would take longer; on a quiet machine it is one second.
    assert time.monotonic() - began < 25
    assert (await rig.enter(phones[29], codes[29]))["ok"]


async def test_a_failed_attempt_of_one_salon_does_not_hold_up_others(
    make_rig: MakeRig,
) -> None:
    rig = await make_rig(code_timeout=60, slot_hold=0.5)
    stuck = []
    for index in range(6):
        silent, ref = await rig.phone(), new_ref(f"company_{index}")
        rig.simulator.fault("hello", phone=silent.number, answer="silence")
        await rig.engine.open(ref, None)
        asked = rig.engine.request_code(ref, silent.number)
        stuck.append(asyncio.create_task(asked))
    phone = await rig.phone()
    ref = new_ref("company_ok")
    began = time.monotonic()
    await rig.engine.open(ref, None)
    await rig.engine.request_code(ref, phone.number)
    # It has waited for two slots to come back, not for the end of those attempts.
    assert time.monotonic() - began < 20
    for task in stuck:
        task.cancel()
    await asyncio.gather(*stuck, return_exceptions=True)


async def test_unlinking_waits_until_the_phone_has_forgotten_us(rig: Rig) -> None:
    phone, ref = await rig.linked()
    assert phone.devices()
    await rig.engine.close(ref, unlink=True)
    assert phone.devices() == []
    assert rig.of(ref) == []
