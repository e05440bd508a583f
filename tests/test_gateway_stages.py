"""Requests, resets and stops that come at any stage of a link."""

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
from whatsapp.services import pairing, sessions

__all__ = ["clean_database", "simulator", "world"]

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(240)]


async def test_each_request_supersedes_the_one_before(world: World) -> None:
    await world.gateway()
    salon, other = await world.salon(), await world.phone()
    await world.call(pairing.page_opened, salon.salon, "page")
    first = await salon.qr()
    await salon.ask_code()
    code = await salon.code()
    await salon.ask_code(other)
    second = await salon.until(
        lambda state: (
            state["attempt"]
            and state["attempt"]["phone"] == other.number
            and state["attempt"]["code"]
        ),
        "the other phone's code",
    )
    await salon.ask_qr()
    qr = await salon.qr(other_than=first)
    assert len(await world.connections()) == 1

    assert not (await salon.scan(first))["ok"]
    assert not (await salon.enter(code))["ok"]
    assert not (await salon.enter(second, other))["ok"]
    answer = await salon.scan(qr)
    assert answer["ok"]
    await salon.status("open")
    assert await salon.attempts() == [
        ("qr", "superseded", ""),
        ("code", "superseded", ""),
        ("code", "superseded", ""),
        ("qr", "linked", ""),
    ]
    assert await salon.me() == answer["jid"]


async def _at_requested(salon: SalonStory) -> None:
    await salon.world.fault("hello", phone=salon.phone.number, answer="silence")
    await salon.ask_code()
    await salon.world.connected(phone=salon.phone.number)


async def _at_code(salon: SalonStory) -> None:
    await salon.ask_code()
    await salon.code()


async def _at_qr(salon: SalonStory) -> None:
    await salon.ask_qr()
    await salon.qr()


async def _at_entered(salon: SalonStory) -> None:
    await salon.ask_code()
    await salon.code()
    await salon.enter("AAAA-AAAA")
    await salon.stage("entered")


async def _at_finishing(salon: SalonStory) -> None:
    await salon.world.fault("login", phone=salon.phone.number, answer="silence")
    await salon.ask_code()
    assert (await salon.enter(await salon.code()))["ok"]
    await salon.stage("finishing")


async def _at_open(salon: SalonStory) -> None:
    await salon.link()


STAGES = [
    (stage,)
    for stage in (_at_requested, _at_code, _at_qr, _at_entered, _at_finishing, _at_open)
]


async def test_a_reset_at_any_stage_leaves_nothing_and_the_salon_can_link_again(
    world: World,
) -> None:
    await world.gateway()

    async def is_forgotten(come_to: Callable[[SalonStory], Awaitable[None]]) -> None:
        salon = await world.salon()
        await come_to(salon)
        await salon.reset()
        state = await salon.snapshot()
        assert (state["status"], state["phone"]) == ("unlinked", "")
        assert await salon.creds() is None
        await salon.no_owner()
        assert await salon.key_count() == 0, "nothing is written after the reset"
        assert (await salon.snapshot())["status"] == "unlinked"
        if come_to is _at_open:
            assert await asyncio.to_thread(salon.phone.devices) == []
        await salon.ask_qr()
        await salon.qr()

    await each(is_forgotten, *STAGES)


async def test_a_stop_at_any_stage_closes_the_socket_and_keeps_a_link(
    world: World,
) -> None:
    await world.gateway()

    async def is_stopped(come_to: Callable[[SalonStory], Awaitable[None]]) -> None:
        salon = await world.salon()
        await come_to(salon)
        linked = come_to in (_at_finishing, _at_open)
        await salon.disconnect()
        await salon.status("stopped" if linked else "unlinked")
        await salon.no_owner()
        assert bool(await salon.creds()) == linked

    await each(is_stopped, *STAGES)
    await world.no_connections()


async def test_a_wish_that_comes_while_the_salon_is_released_is_served_at_once(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await world.gateway()
    salon = await world.salon()
    settle = sessions.record_stopped
    asked: list[pairing.Answer] = []

    def ask_meanwhile(*args: Any) -> None:
        settle(*args)
        if not asked:
            asked.append(pairing.request_qr(salon.salon, "page"))

    monkeypatch.setattr(sessions, "record_stopped", ask_meanwhile)
    await salon.connect()
    await salon.qr()
    assert asked


async def test_a_code_typed_as_the_attempt_is_cancelled_links_nothing(
    world: World,
) -> None:
    await world.gateway()
    salon = await world.salon()
    await salon.ask_code()
    code = await salon.code()
    await asyncio.gather(salon.enter(code), salon.reset())
    await world.no_connections()
    await salon.no_owner()
    assert await salon.creds() is None
    assert await salon.key_count() == 0
    assert (await salon.snapshot())["status"] == "unlinked"


async def test_an_unwatched_qr_is_cancelled_and_its_socket_closed(
    world: World, settings: Any
) -> None:
    settings.WHATSAPP_LOOK_INTERVAL = 0.2
    await world.gateway()
    watched, left = await world.salon(), await world.salon()
    for salon in (watched, left):
        await world.call(pairing.page_opened, salon.salon, "page")
        await salon.qr()
    await world.sql(
        "UPDATE whatsapp_whatsappsession SET watched_at = now() - interval '1 hour'"
        " WHERE salon_id = %s",
        left.pk,
    )
    await left.stage("cancelled")
    await left.no_owner()
    await world.until(lambda: _has_one_socket(world), "the socket is closed")
    assert (await watched.snapshot())["status"] == "pairing"


async def _has_one_socket(world: World) -> bool:
    return len(await world.connections()) == 1
