"""Linking a salon's phone through the gateway, and every way in which it goes wrong."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from tests.gateway_fixtures import (
    STOP_SECONDS,
    SalonStory,
    World,
    clean_database,
    each,
    simulator,
    world,
)
from tests.simulator import Phone
from whatsapp.errors import ErrorCode, WhatsAppError
from whatsapp.gateway import runner
from whatsapp.services import attempts, pairing

__all__ = ["clean_database", "simulator", "world"]

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(240)]

FULL_LINK = 800
"""Rows that the first login of a new device leaves, nearly all of them pre-keys."""


async def test_a_salon_is_linked_by_code_and_resumed_by_the_next_gateway(
    world: World,
) -> None:
    gateway = await world.gateway()
    salon = await world.salon()
    jid = await salon.link()
    assert await salon.me() == jid
    await world.until(
        lambda: _at_least(salon.key_count, FULL_LINK), "the keys are stored"
    )
    state = await salon.snapshot()
    assert state["phone"] == salon.phone.number
    assert state["attempt"]
    assert (state["attempt"]["stage"], state["attempt"]["code"]) == ("linked", "")
    assert (await salon.session()).owner == gateway.name

    before = (await salon.session()).epoch
    assert await gateway.stop() < STOP_SECONDS
    assert not (await salon.session()).owner
    await world.no_connections()

    await world.gateway()
    await world.connected(jid=jid, stage="open")
    await salon.status("open")
    assert (await salon.session()).epoch > before
    assert (await world.device(jid))["logins"] == 2
    assert await salon.attempts() == [("code", "linked", "")]


async def test_a_salon_is_linked_by_qr(world: World) -> None:
    await world.gateway()
    salon = await world.salon()
    await world.call(pairing.page_opened, salon.salon, "page")
    answer = await salon.scan(await salon.qr())
    assert answer["ok"]
    await salon.status("open")
    assert await salon.me() == answer["jid"]
    await world.until(
        lambda: _at_least(salon.key_count, FULL_LINK), "the keys are stored"
    )
    assert await salon.attempts() == [("qr", "linked", "")]


async def _at_least(count: Callable[[], Awaitable[int]], wanted: int) -> bool:
    return await count() >= wanted


async def test_a_wrong_code_does_not_end_the_attempt_and_the_right_one_links(
    world: World,
) -> None:
    await world.gateway()
    salon = await world.salon()
    await salon.ask_code()
    code = await salon.code()
    wrong = "AAAA-AAAA" if code != "AAAA-AAAA" else "BBBB-BBBB"
    assert not (await salon.enter(wrong))["ok"]
    await salon.stage("entered")
    assert await salon.me() == ""
    assert (await salon.enter(code))["ok"]
    await salon.status("open")


async def test_asking_again_for_a_shown_code_asks_whatsapp_only_once(
    world: World,
) -> None:
    await world.gateway()
    salon = await world.salon()
    await world.fault("hello", phone=salon.phone.number, answer="ok", delayMs=3000)
    assert await salon.ask_code() == pairing.Answer.STARTED
    with pytest.raises(WhatsAppError) as refused:
        await salon.ask_code()
    assert refused.value.code == ErrorCode.REQUEST_IN_PROGRESS
    code = await salon.code()
    assert await salon.ask_code() == pairing.Answer.SAME
    assert await salon.code() == code
    assert len((await world.journal())["hellos"]) == 1


async def test_twenty_salons_that_ask_at_once_all_get_a_code(world: World) -> None:
    await world.gateway()
    asking = [await world.salon() for _ in range(20)]
    await asyncio.gather(*(salon.ask_code() for salon in asking))
    codes = await asyncio.gather(*(salon.code() for salon in asking))
    assert len(set(codes)) == 20
    assert len((await world.journal())["hellos"]) == 20
    assert (await asking[-1].enter(codes[-1]))["ok"]
    await asking[-1].status("open")


async def test_a_refused_code_becomes_a_word_and_another_phone_works(
    world: World,
) -> None:
    await world.gateway(code_timeout=10)

    async def is_told(answer: int | str, error: ErrorCode) -> None:
        salon = await world.salon()
        await world.fault("hello", phone=salon.phone.number, answer=answer)
        await salon.ask_code()
        await salon.stage("failed", error)
        assert (await salon.snapshot())["status"] == "unlinked"
        await salon.no_owner()
        other = await world.phone()
        await salon.ask_code(other)
        await salon.code()

    await each(
        is_told,
        (400, ErrorCode.PAIRING_CODE_FAILED),
        (404, ErrorCode.PHONE_NOT_ON_WHATSAPP),
        (429, ErrorCode.RATE_LIMITED),
        (503, ErrorCode.WHATSAPP_UNREACHABLE),
        ("passkey", ErrorCode.PASSKEY_REQUIRED),
        ("silence", ErrorCode.PAIRING_TIMEOUT),
    )


async def test_a_dropped_link_socket_is_replaced_before_the_salon_notices(
    world: World,
) -> None:
    await world.gateway()
    salon = await world.salon()
    await world.fault("hello", phone=salon.phone.number, answer="drop", times=1)
    await salon.ask_code()
    assert (await salon.enter(await salon.code()))["ok"]
    await salon.status("open")
    assert await salon.attempts() == [("code", "linked", "")]


async def test_a_code_whose_socket_drops_is_said_to_be_over(world: World) -> None:
    await world.gateway()
    salon = await world.salon()
    await salon.ask_code()
    await salon.code()
    await world.on_connections("drop", phone=salon.phone.number)
    await salon.stage("expired", ErrorCode.CODE_EXPIRED)
    await salon.no_owner()


async def test_an_unreachable_whatsapp_fails_the_attempt_within_its_clock(
    world: World, settings: Any
) -> None:
    settings.WHATSAPP_PAIRING_TIMEOUT = 20
    await world.gateway()
    salon = await world.salon()
    await world.fault("refuse")
    await salon.ask_code()
    await salon.stage("failed", ErrorCode.WHATSAPP_UNREACHABLE)
    await salon.no_owner()


async def test_an_outdated_client_is_not_the_salons_fault(world: World) -> None:
    await world.gateway()
    salon = await world.salon()
    await world.fault("failure", reason=405, on="registration")
    await salon.ask_code()
    await salon.stage("failed", ErrorCode.ENGINE_OUTDATED)


async def test_the_answer_clock_ends_an_attempt_that_nobody_took_up(
    world: World, settings: Any
) -> None:
    settings.WHATSAPP_PAIRING_TIMEOUT = 0.3
    salon = await world.salon()
    await salon.ask_code()
    settings.WHATSAPP_LOOK_INTERVAL = 0.3
    await world.until(lambda: _is_overdue(world), "the clock runs out")
    await world.gateway()
    await salon.stage("failed", ErrorCode.PAIRING_TIMEOUT)
    assert (await world.journal())["hellos"] == []


async def _is_overdue(world: World) -> bool:
    rows = await world.sql("SELECT deadline < now() FROM whatsapp_pairingattempt")
    return bool(rows[0][0])


# Another phone ------------------------------------------------------------------------


async def _asked_for_another_phone(
    world: World,
) -> tuple[SalonStory, str, Phone, str]:
    """Return a connected salon, its JID, and another phone with the code for it."""
    salon = await world.open_salon()
    old = await salon.me()
    other = await world.phone()
    await salon.ask_code(other)
    return salon, old, other, await salon.code()


async def test_another_phone_replaces_the_linked_one_in_one_transaction(
    world: World,
) -> None:
    await world.gateway()
    salon, old, other, code = await _asked_for_another_phone(world)
    assert await world.connections(jid=old) == [], "closed before the new one opened"
    assert await salon.me() == old, "the link stays until another one is confirmed"

    answer = await salon.enter(code, other)
    assert answer["ok"]
    await salon.until(
        lambda state: state["phone"] == other.number and state["status"] == "open",
        "the other phone is connected",
    )
    assert await salon.me() == answer["jid"]
    assert await salon.archive() == [(salon.phone.number, "replaced")]
    await world.until(
        lambda: _at_least(salon.key_count, FULL_LINK), "the keys are stored"
    )
    audited = await world.sql(
        "SELECT action FROM whatsapp_auditevent WHERE salon_id = %s", salon.pk
    )
    assert ("phone_mismatch_cleanup",) in audited


async def _reach_deadline(salon: SalonStory, _phone: str) -> None:
    await salon.world.sql(
        "UPDATE whatsapp_pairingattempt SET deadline = now() WHERE salon_id = %s",
        salon.pk,
    )
    await salon.world.call(attempts.expire_overdue)


async def _cancel(salon: SalonStory, _phone: str) -> None:
    await salon.disconnect()
    await salon.status("stopped")
    await salon.connect()


async def _cut(salon: SalonStory, phone: str) -> None:
    await salon.world.on_connections("drop", phone=phone)


async def test_a_phone_that_is_not_linked_after_all_leaves_the_old_link_as_it_was(
    world: World,
) -> None:
    await world.gateway()

    async def is_untouched(
        give_up: Callable[[SalonStory, str], Awaitable[object]],
    ) -> None:
        salon, other = await world.open_salon(), await world.phone()
        old, keys = await salon.creds(), await salon.key_count()
        assert old
        await salon.ask_code(other)
        await salon.code()
        await give_up(salon, other.number)
        await salon.status("open")
        now = await salon.creds()
        assert now
        assert (now["noiseKey"], now["me"]["id"]) == (old["noiseKey"], old["me"]["id"])
        assert await salon.key_count() >= keys
        assert await salon.archive() == []
        assert (await world.device(old["me"]["id"]))["logins"] == 2

    await each(is_untouched, (_reach_deadline,), (_cancel,), (_cut,))


async def test_a_linked_phone_that_is_not_open_gets_a_fresh_code(world: World) -> None:
    await world.gateway()
    salon = await world.linked_salon()
    await world.fault("login", answer="failure", reason=503, phone=salon.phone.number)
    await salon.connect()
    await salon.status("reconnecting")
    old = await salon.me()
    await salon.ask_code()
    code = await salon.code()
    await asyncio.to_thread(world.simulator.clear_faults)
    answer = await salon.enter(code)
    assert answer["ok"]
    await salon.status("open")
    assert await salon.me() == answer["jid"] != old
    assert await salon.archive() == [(salon.phone.number, "replaced")]


async def test_a_phone_that_works_in_another_salon_gets_no_code(world: World) -> None:
    await world.gateway()
    theirs, ours = await world.open_salon(), await world.salon()
    with pytest.raises(WhatsAppError) as refused:
        await ours.ask_code(theirs.phone)
    assert refused.value.code == ErrorCode.CREDENTIALS_CONFLICT
    assert (await world.journal())["hellos"] == []


async def test_a_scanning_phone_that_works_in_another_salon_is_unlinked_again(
    world: World,
) -> None:
    await world.gateway()
    theirs, ours = await world.open_salon(), await world.salon()
    await ours.ask_qr()
    answer = await ours.scan(await ours.qr(), theirs.phone)
    assert answer["ok"]
    await ours.stage("failed", ErrorCode.CREDENTIALS_CONFLICT)
    assert await ours.creds() is None

    async def unlinked() -> bool:
        devices = await asyncio.to_thread(theirs.phone.devices)
        return [device["jid"] for device in devices] == [await theirs.me()]

    await world.until(unlinked, "the second device leaves the phone's list")
    assert (await theirs.snapshot())["status"] == "open"
    assert (await world.device(await theirs.me()))["logins"] == 1
    assert await ours.key_count() == 0


# The finish ---------------------------------------------------------------------------


async def test_a_first_login_that_is_refused_brings_the_old_link_back(
    world: World,
) -> None:
    await world.gateway()
    salon, old, other, code = await _asked_for_another_phone(world)
    await world.fault("login", phone=other.number, answer="failure", reason=401)
    assert (await salon.enter(code, other))["ok"]
    await salon.stage("failed", ErrorCode.PAIRING_CODE_FAILED)
    await salon.status("open")
    assert await salon.me() == old
    assert (await salon.snapshot())["phone"] == salon.phone.number
    assert await salon.archive() == []


async def test_a_first_login_that_is_refused_leaves_a_new_salon_unlinked(
    world: World,
) -> None:
    await world.gateway()
    salon = await world.salon()
    await world.fault("login", phone=salon.phone.number, answer="failure", reason=401)
    await salon.ask_code()
    assert (await salon.enter(await salon.code()))["ok"]
    await salon.stage("failed", ErrorCode.PAIRING_CODE_FAILED)
    assert await salon.creds() is None
    assert await salon.key_count() == 0
    assert (await salon.snapshot())["status"] == "unlinked"


async def test_a_link_is_finished_whatever_comes_instead_of_a_restart(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner, "RESTART_SECONDS", 0.5)
    await world.gateway()

    async def links(fault: str, params: dict[str, Any]) -> None:
        salon = await world.salon()
        await world.fault(fault, phone=salon.phone.number, **params)
        jid = await salon.link()
        assert await salon.attempts() == [("code", "linked", "")]
        assert await salon.me() == jid

    await each(
        links,
        ("no-515", {}),
        ("late-515", {"ms": 300}),
        ("drop-after-pair-success", {}),
        ("login", {"answer": "failure", "reason": 515, "times": 1}),
        ("login", {"answer": "failure", "reason": 503, "times": 2}),
    )


async def test_a_link_that_whatsapp_never_heard_of_is_undone(world: World) -> None:
    world.strangers_may_log_in = True
    await world.gateway()
    salon = await world.salon()
    await world.fault(
        "drop-after-pair-success", phone=salon.phone.number, unverified=True
    )
    await salon.ask_code()
    assert not (await salon.enter(await salon.code()))["ok"]
    await world.until(lambda: _is_settled(salon), "the attempt ends")
    assert await salon.creds() is None
    assert (await salon.snapshot())["status"] == "unlinked"


async def _is_settled(salon: SalonStory) -> bool:
    attempt = (await salon.snapshot())["attempt"]
    return bool(attempt and attempt["finished"])


async def test_a_silent_first_login_is_restarted_once_within_the_finish_clock(
    world: World, settings: Any
) -> None:
    settings.WHATSAPP_FINISH_TIMEOUT = 20  # restarted after ten
    await world.gateway()
    salon = await world.salon()
    await world.fault("no-open", phone=salon.phone.number, times=1)
    jid = await salon.link()
    assert (await world.device(jid))["logins"] == 2


async def test_a_first_login_that_stays_silent_is_told_and_goes_on_trying(
    world: World, settings: Any
) -> None:
    settings.WHATSAPP_FINISH_TIMEOUT = 1
    settings.WHATSAPP_LOOK_INTERVAL = 0.2
    await world.gateway(connect_timeout=8)
    salon = await world.salon()
    fault = await world.fault("no-open", phone=salon.phone.number)
    await salon.ask_code()
    assert (await salon.enter(await salon.code()))["ok"]
    await salon.stage("failed", ErrorCode.WHATSAPP_UNREACHABLE)
    await asyncio.to_thread(fault.remove)
    await salon.status("open")
