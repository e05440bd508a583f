"""What the gateway makes of every way in which a linked session can end."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from tests.gateway_fixtures import (
    SalonStory,
    World,
    clean_database,
    each,
    simulator,
    world,
)
from whatsapp.errors import ErrorCode
from whatsapp.gateway import policy
from whatsapp.services import claims

__all__ = ["clean_database", "simulator", "world"]

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(240)]


async def _logins(salon: SalonStory) -> int:
    return (await salon.world.device(await salon.me()))["logins"]


async def _refused_with(world: World, reason: int, **params: Any) -> SalonStory:
    """Return a linked salon whose logins are refused from now on."""
    salon = await world.linked_salon()
    params |= {"phone": salon.phone.number, "reason": reason}
    await world.fault("login", answer="failure", **params)
    await salon.connect()
    return salon


async def _attempted(salon: SalonStory) -> int:
    """Return how often it has tried to log in, in vain or not."""
    logins = (await salon.world.journal())["logins"]
    return len([one for one in logins if one["jid"].startswith(salon.phone.number)])


async def test_a_removed_device_is_logged_out_and_its_creds_are_archived(
    world: World,
) -> None:
    await world.gateway()

    async def while_open(salon: SalonStory) -> None:
        await salon.connect()
        await salon.status("open")
        await asyncio.to_thread(salon.phone.remove_device)

    async def while_away(salon: SalonStory) -> None:
        await asyncio.to_thread(salon.phone.remove_device)
        await salon.connect()

    async def is_logged_out(
        remove: Callable[[SalonStory], Awaitable[None]],
    ) -> None:
        salon = await world.linked_salon()
        await remove(salon)
        state = await salon.status("logged_out")
        assert state["phone"] == ""
        assert state["reason"] == "401"
        await salon.no_owner()
        assert await salon.creds() is None
        assert await salon.key_count() == 0
        assert await salon.archive() == [(salon.phone.number, "logged_out")]
        await salon.link()

    await each(is_logged_out, (while_open,), (while_away,))
    assert (await world.journal())["removedLogins"] == 1


async def test_a_page_of_a_salon_that_was_logged_out_meanwhile_gets_a_qr(
    world: World,
) -> None:
    await world.gateway()
    salon = await world.linked_salon()
    await asyncio.to_thread(salon.phone.remove_device)
    await salon.ask_qr()
    assert (await salon.scan(await salon.qr()))["ok"]
    await salon.status("open")
    assert await salon.attempts() == [("qr", "linked", "")]


async def test_what_trying_again_does_not_help_halts_the_session_and_keeps_its_creds(
    world: World,
) -> None:
    await world.gateway()

    async def halts(reason: int, status: str, retries: bool) -> None:
        salon = await _refused_with(world, reason)
        state = await salon.status(status)
        assert state["reason"] == str(reason)
        await salon.no_owner()
        assert await salon.me()
        assert await salon.archive() == []
        assert bool((await salon.session()).retry_at) == retries
        assert await _attempted(salon) == 1
        candidates = await world.call(claims.candidates, 100)
        assert salon.pk not in candidates, "no gateway takes it up again"

    await each(
        halts,
        (402, "banned", False),
        (403, "banned", False),
        (405, "outdated", True),
        (409, "outdated", True),
        (411, "needs_attention", True),
    )


async def test_a_halted_session_runs_again_when_somebody_asks_for_it(
    world: World,
) -> None:
    await world.gateway()
    salon = await _refused_with(world, 403, times=1)
    await salon.status("banned")
    await salon.connect()
    await salon.status("open")
    assert await _attempted(salon) == 2


async def test_a_page_that_waits_for_a_halted_session_is_told_why(world: World) -> None:
    await world.gateway()
    salon = await world.linked_salon()
    await world.fault("login", answer="failure", reason=403, phone=salon.phone.number)
    await salon.ask_qr()
    await salon.stage("failed", ErrorCode.ACCOUNT_BANNED)
    await salon.status("banned")
    assert await salon.me()


async def test_a_replaced_session_gives_way_and_comes_back_when_its_time_has_come(
    world: World, settings: Any
) -> None:
    settings.WHATSAPP_LOOK_INTERVAL = 0.2
    await world.gateway()
    salon = await world.open_salon()
    await world.on_connections("stream_error", 440, phone=salon.phone.number)
    state = await salon.status("replaced")
    assert state["reason"] == "440"
    await salon.no_owner()
    assert (await salon.session()).retry_at
    assert await _logins(salon) == 1, "it does not fight"

    await world.sql(
        "UPDATE whatsapp_whatsappsession SET retry_at = now() WHERE salon_id = %s",
        salon.pk,
    )
    await salon.status("open")
    assert await _logins(salon) == 2


async def test_three_500s_in_a_row_need_attention_and_the_creds_are_kept(
    world: World,
) -> None:
    await world.gateway()
    salon = await _refused_with(world, 500)
    state = await salon.status("needs_attention")
    assert state["reason"] == "500"
    assert await _attempted(salon) == 3
    assert await salon.me()
    assert await salon.archive() == []
    await salon.no_owner()


async def test_a_lost_connection_comes_back_by_itself(world: World) -> None:
    await world.gateway()

    async def comes_back(lose: Callable[[str], Awaitable[object]]) -> None:
        salon = await world.open_salon()
        before = await salon.session()
        await lose(salon.phone.number)
        await world.until(lambda: _has_moved_on(salon, before.epoch), "the loss")
        await salon.status("open")
        # It has been something else in between.
        assert (await salon.session()).since > before.since
        assert await _logins(salon) == 2
        assert await salon.archive() == []

    async def _has_moved_on(salon: SalonStory, epoch: int) -> bool:
        return (await salon.session()).epoch > epoch

    def stream_error(code: int) -> Callable[[str], Awaitable[object]]:
        return lambda phone: world.on_connections("stream_error", code, phone=phone)

    def garbage(phone: str) -> Awaitable[object]:
        return world.on_connections("garbage", phone=phone)

    def drop(phone: str) -> Awaitable[object]:
        return world.on_connections("drop", phone=phone)

    await each(
        comes_back,
        (stream_error(503),),
        (stream_error(428),),
        (stream_error(408),),
        (stream_error(500),),
        (stream_error(499),),
        (stream_error(515),),
        (garbage,),
        (drop,),
    )


async def test_a_login_that_fails_for_a_while_is_tried_until_it_works(
    world: World,
) -> None:
    await world.gateway(connect_timeout=3)

    async def gets_through(answer: str, params: dict[str, Any]) -> None:
        salon = await world.linked_salon()
        fault = {"phone": salon.phone.number, "times": 2, **params}
        await world.fault("login", answer=answer, **fault)
        await salon.connect()
        await salon.status("open")
        # One more where a busy machine makes a good login look silent.
        assert await _attempted(salon) >= 3

    await each(
        gets_through,
        ("failure", {"reason": 503}),
        ("failure", {"reason": 499}),
        ("failure", {"reason": 515}),
        ("silence", {}),
    )


async def test_a_session_that_opens_only_to_be_cut_is_tried_ever_more_slowly(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    delays: list[int] = []
    reconnect_delay = policy.reconnect_delay

    def noted(failures: int, lost_for: float) -> float:
        delays.append(failures)
        return reconnect_delay(failures, lost_for) / 4

    monkeypatch.setattr(policy, "reconnect_delay", noted)
    await world.gateway()
    salon = await world.open_salon()
    for count in range(1, 4):
        await world.connected(phone=salon.phone.number, stage="open")
        await salon.status("open")
        await world.on_connections("drop", phone=salon.phone.number)
        await world.until(lambda: _reached(delays, count), "it notices")  # noqa: B023
    await salon.status("open")
    assert delays == [1, 2, 3]


async def test_restarts_that_lead_nowhere_do_not_become_a_storm(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    delays: list[int] = []

    def noted(failures: int, _: float) -> float:
        delays.append(failures)
        return 30.0

    monkeypatch.setattr(policy, "reconnect_delay", noted)
    await world.gateway()
    salon = await _refused_with(world, 515)
    await world.until(lambda: _reached(delays, 1), "it slows down")
    assert await _attempted(salon) == policy.RESTARTS + 1
    assert (await salon.snapshot())["status"] == "reconnecting"


async def _reached(seen: list[int], count: int) -> bool:
    return len(seen) >= count


async def test_creds_that_are_no_creds_need_attention_and_are_kept(
    world: World,
) -> None:
    await world.gateway()
    salon = await world.linked_salon()
    await world.sql(
        "UPDATE whatsapp_auth SET creds = creds - 'noiseKey' WHERE company_id = %s",
        salon.salon.session_id,
    )
    world.expected = ("the stored creds are no creds",)
    await salon.connect()
    await salon.status("needs_attention")
    assert await salon.me()
    assert (await world.journal())["logins"] == []


async def test_rows_of_the_previous_service_log_in_whatever_form_their_bytes_have(
    world: World,
) -> None:
    forms = ("base64", "bytes", "index")
    salons = [await world.linked_salon(form) for form in forms]
    await world.gateway()
    for salon in salons:
        await salon.status("open")
        assert await _logins(salon) == 1


async def test_half_paired_rows_of_the_previous_service_never_log_in(
    world: World,
) -> None:
    salon = await world.linked_salon()
    await world.sql(
        "UPDATE whatsapp_auth SET creds = creds - 'account' WHERE company_id = %s",
        salon.salon.session_id,
    )
    await world.gateway()
    await salon.ask_qr()
    assert (await salon.scan(await salon.qr()))["ok"]
    await salon.status("open")
    assert await salon.archive() == []
