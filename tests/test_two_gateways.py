"""Several gateways on one database: one owner per salon, and nobody writes after his time."""

import asyncio
import os
import re
import signal
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from psycopg.conninfo import make_conninfo

from tests.gateway_fixtures import (
    PATIENCE,
    STOP_SECONDS,
    Gateway,
    SalonStory,
    World,
    clean_database,
    silence,
    simulator,
    world,
)
from tests.server import Server
from whatsapp.engine import SessionRef, StoreRefused
from whatsapp.gateway import ownership
from whatsapp.services import attempts, claims, sessions

__all__ = ["clean_database", "simulator", "world"]

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(240)]

TAKE_OVER_SECONDS = 10


async def _owners(stories: list[SalonStory]) -> set[str]:
    return {(await story.session()).owner for story in stories}


async def _is_owned_by(stories: list[SalonStory], name: str) -> bool:
    return await _owners(stories) == {name}


async def _lock_holders(world: World) -> list[int]:
    """Return how many holders the lock of each salon has."""
    rows = await world.sql(
        "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND classid = %s"
        " AND granted AND database ="
        " (SELECT oid FROM pg_database WHERE datname = current_database())"
        " GROUP BY objid",
        claims.LOCK_CLASS,
    )
    return [row[0] for row in rows]


async def test_every_salon_has_one_of_two_gateways_and_the_other_takes_it_over(
    world: World,
) -> None:
    linked = [await world.linked_salon() for _ in range(6)]
    one, other = await asyncio.gather(world.gateway(), world.gateway())
    await asyncio.gather(*(salon.status("open") for salon in linked))
    owners = await _owners(linked)
    assert owners <= {one.name, other.name}
    assert await _lock_holders(world) == [1] * 6

    leaving, staying = (one, other) if one.name in owners else (other, one)
    began = time.monotonic()
    assert await leaving.stop() < STOP_SECONDS
    await world.until(lambda: _is_owned_by(linked, staying.name), "the hand-over")
    await world.until(lambda: _are_connected(linked), "they are connected")
    await asyncio.gather(*(salon.status("open") for salon in linked))
    assert time.monotonic() - began < TAKE_OVER_SECONDS


async def _are_connected(stories: list[SalonStory]) -> bool:
    connections = await stories[0].world.connections(stage="open")
    return {one["jid"] for one in connections} == {await one.me() for one in stories}


async def test_both_gateways_hear_a_wish_and_one_serves_it(world: World) -> None:
    one, other = await world.gateway(), await world.gateway()
    salons = [await world.salon() for _ in range(4)]
    await asyncio.gather(*(salon.ask_code() for salon in salons))
    await asyncio.gather(*(salon.code() for salon in salons))
    assert len((await world.journal())["hellos"]) == 4
    assert await _owners(salons) <= {one.name, other.name}
    assert await _lock_holders(world) == [1] * 4


async def test_a_code_ends_with_its_gateway_and_a_request_is_answered_by_the_next(
    world: World,
) -> None:
    one = await world.gateway()
    shown, asked = await world.salon(), await world.salon()
    await shown.ask_code()
    await shown.code()
    silent = await world.fault("hello", phone=asked.phone.number, answer="silence")
    await asked.ask_code()
    await world.connected(phone=asked.phone.number)
    await asyncio.to_thread(silent.remove)
    other = await world.gateway()
    await one.stop()
    assert await asked.code()
    assert await _owners([asked]) == {other.name}
    await shown.stage("expired", "CODE_EXPIRED")
    await shown.ask_code()
    assert (await shown.enter(await shown.code()))["ok"]
    await shown.status("open")


async def test_a_link_that_is_finishing_is_finished_by_the_next_gateway(
    world: World,
) -> None:
    one = await world.gateway()
    salon = await world.salon()
    fault = await world.fault("login", phone=salon.phone.number, answer="silence")
    await salon.ask_code()
    assert (await salon.enter(await salon.code()))["ok"]
    await salon.stage("finishing")
    other = await world.gateway()
    await asyncio.to_thread(fault.remove)
    await one.stop()
    await salon.status("open")
    assert (await salon.session()).owner == other.name
    assert await salon.attempts() == [("code", "linked", "")]


async def test_a_gateway_that_is_cut_off_closes_before_the_other_opens(
    world: World, monkeypatch: pytest.MonkeyPatch, settings: Any
) -> None:
    monkeypatch.setattr(ownership, "CONNECT_SECONDS", 0.1)
    monkeypatch.setattr(ownership, "PROBE_SECONDS", 0.1)
    settings.WHATSAPP_LOOK_INTERVAL = 2
    one = await world.gateway()
    linked = [await world.open_salon() for _ in range(4)]
    other = await world.gateway()
    refs = [
        SessionRef(salon.salon.session_id, 10**6, (await salon.session()).epoch)
        for salon in linked
    ]
    with silence() as port:
        owned = one.manager.claimer._ownership
        owned._conninfo = make_conninfo(owned._conninfo, port=port)
        await _has_looked(other, monkeypatch)
        await world.sql(
            "SELECT pg_terminate_backend(pid, 60000) FROM pg_stat_activity"
            " WHERE application_name = %s AND datname = current_database()",
            f"gateway {one.name}"[:63],
        )
        await world.until(lambda: _is_owned_by(linked, other.name), "the take-over")
        await asyncio.gather(*(salon.status("open") for salon in linked))
    for ref in refs:
        with pytest.raises(StoreRefused):
            await one.manager.store.save(
                ref, None, '[{"t": "x", "i": "y", "v": 1}]', 99
            )
    for salon in linked:
        device = await world.device(await salon.me())
        assert (device["logins"], device["peakOpenSockets"]) == (2, 1)


async def test_a_gateway_that_joins_gets_its_share_one_login_each(
    world: World, settings: Any
) -> None:
    settings.WHATSAPP_LOOK_INTERVAL = 0.2
    linked = [await world.linked_salon() for _ in range(7)]
    one = await world.gateway()
    await asyncio.gather(*(salon.status("open") for salon in linked))
    asked = await world.salon()
    await asked.ask_code()
    code = await asked.code()
    other = await world.gateway()
    await world.until(
        lambda: _shares_are(linked, {one.name: 3, other.name: 4}), "they share"
    )
    await asyncio.gather(*(salon.status("open") for salon in linked))
    assert (await asked.enter(code))["ok"], "who is linking is left in peace"
    await asked.status("open")
    moved = [salon for salon in linked if (await salon.session()).owner == other.name]
    for salon in linked:
        device = await world.device(await salon.me())
        assert device["logins"] == 1 + (salon in moved)

    await other.stop()
    await world.until(lambda: _is_owned_by(linked, one.name), "the hand-over")


async def _shares_are(stories: list[SalonStory], wanted: dict[str, int]) -> bool:
    owners = [(await story.session()).owner for story in stories]
    return Counter(owners) == wanted


async def test_gateways_leave_salons_to_each_other_without_the_channel_layer(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The regular look is ten minutes away: only the database can have told."""
    monkeypatch.setattr("whatsapp.gateway.manager.get_channel_layer", lambda: None)
    monkeypatch.setattr("whatsapp.events.get_channel_layer", lambda: None)
    linked = [await world.linked_salon() for _ in range(4)]
    one = await world.gateway()
    await asyncio.gather(*(salon.status("open") for salon in linked))
    others = [await world.gateway(), await world.gateway()]
    await one.stop()
    await world.until(
        lambda: _shares_are(linked, {other.name: 2 for other in others}), "they share"
    )
    await asyncio.gather(*(salon.status("open") for salon in linked))


async def test_a_salon_whose_owner_may_come_back_is_left_to_it_for_a_while(
    world: World, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The database was started a moment ago: whoever had the lock has not it any more."""
    settings.WHATSAPP_LOOK_INTERVAL = 0.1
    monkeypatch.setattr(claims, "GRACE_SECONDS", 10**9)
    left, free = await world.linked_salon(), await world.linked_salon()
    await world.sql(
        "UPDATE whatsapp_whatsappsession SET owner = 'another', status = 'open'"
        " WHERE salon_id = %s",
        left.pk,
    )
    gateway = await world.gateway()
    await free.status("open")
    await left.connect()
    await _has_looked(gateway, monkeypatch)
    await _has_looked(gateway, monkeypatch)
    session = await left.session()
    assert (session.owner, session.status) == ("another", "open")
    monkeypatch.setattr(claims, "GRACE_SECONDS", 0)
    await world.until(lambda: _is_owned_by([left], gateway.name), "it is claimed")
    await left.status("open")


async def _has_looked(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait until it has just looked, so that its next look is a whole interval away."""
    looked, claim_all = asyncio.Event(), gateway.manager.claimer.claim_all

    async def noted() -> None:
        await claim_all()
        looked.set()

    monkeypatch.setattr(gateway.manager.claimer, "claim_all", noted)
    async with asyncio.timeout(PATIENCE):
        await looked.wait()


async def test_a_word_of_the_old_owner_changes_nothing(world: World) -> None:
    await world.gateway()
    salon = await world.open_salon()
    epoch = (await salon.session()).epoch
    await world.call(claims.take_over, [salon.pk], "another gateway")
    before = await _lasting(salon)
    for service, args in (
        (sessions.record, (salon.salon, epoch, "banned", "403")),
        (sessions.record_logged_out, (salon.salon, epoch, "401")),
        (attempts.record_open, (salon.salon, epoch, "79000000000")),
        (attempts.refuse_link, (salon.salon, epoch, "401")),
    ):
        assert not await world.call(service, *args)  # type: ignore[arg-type]
    assert await world.call(sessions.start, salon.salon, "gone", epoch, "open") is None
    assert await _lasting(salon) == before
    assert await salon.me()


async def _lasting(salon: SalonStory) -> dict[str, Any]:
    """What can be seen of it and does not change by itself."""
    return {**await salon.snapshot(), "proof_age": None}


# A process of its own -----------------------------------------------------------------


def _start(world: World, folder: Path) -> Server:
    return Server.start(
        folder,
        {
            "WHATSAPP_WS_URL": world.simulator.ws_url,
            "WHATSAPP_LOOK_INTERVAL": "0.5",
        },
        command="whatsapp_gateway",
    )


def _children(pid: int) -> list[int]:
    """Return the processes whose parent is ``pid``."""
    found = []
    for status in Path("/proc").glob("[0-9]*/status"):
        try:
            text = status.read_text()
        except OSError:
            continue
        if re.search(rf"^PPid:\t{pid}$", text, re.MULTILINE):
            found.append(int(status.parent.name))
    return found


def _is_running(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0]
    except OSError:
        return False
    return state != "Z"


async def _have_ended(pids: list[int]) -> bool:
    return not any(_is_running(pid) for pid in pids)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
async def test_a_gateway_process_that_ends_is_replaced_within_ten_seconds(
    world: World, settings: Any, tmp_path: Path, number: signal.Signals
) -> None:
    settings.WHATSAPP_LOOK_INTERVAL = 0.5
    linked = [await world.linked_salon() for _ in range(3)]
    with await asyncio.to_thread(_start, world, tmp_path) as server:
        await asyncio.gather(*(salon.status("open") for salon in linked))
        nodes = _children(server.pid)
        assert len(nodes) == 1
        other: Gateway = await world.gateway()
        assert other.name not in await _owners(linked)

        began = time.monotonic()
        os.kill(server.pid, number)
        await asyncio.to_thread(server.process.wait, PATIENCE)
        if number == signal.SIGTERM:
            assert time.monotonic() - began < STOP_SECONDS
            assert server.process.returncode == 0
        await world.until(lambda: _is_owned_by(linked, other.name), "the take-over")
        await world.until(lambda: _are_connected(linked), "they are connected")
        await asyncio.gather(*(salon.status("open") for salon in linked))
        assert time.monotonic() - began < TAKE_OVER_SECONDS
        await world.until(lambda: _have_ended(nodes), "its Node.js ends, too")
