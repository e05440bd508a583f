"""The gateway without its Node.js, its locks, its database or its channel layer."""

import asyncio
import os
import signal
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from channels.layers import InMemoryChannelLayer
from django.db import OperationalError
from psycopg.conninfo import make_conninfo
from redis.exceptions import ConnectionError as RedisConnectionError

from tests.gateway_fixtures import (
    PATIENCE,
    STOP_SECONDS,
    Gateway,
    SalonStory,
    World,
    clean_database,
    each,
    silence,
    simulator,
    world,
)
from whatsapp.errors import ErrorCode
from whatsapp.gateway import SessionManager, ownership
from whatsapp.services import attempts, claims, proofs, sessions

__all__ = ["clean_database", "simulator", "world"]

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(240)]

LOGINS_AT_A_TIME = 4


async def _lock_connection_is_cut(world: World, gateway: Gateway) -> None:
    cut = await world.sql(
        "SELECT pg_terminate_backend(pid, 60000) FROM pg_stat_activity"
        " WHERE application_name = %s AND datname = current_database()",
        f"gateway {gateway.name}"[:63],
    )
    assert cut == [(True,)]


async def _all_connections_are_cut(world: World) -> None:
    await world.sql(
        "SELECT pg_terminate_backend(pid, 60000) FROM pg_stat_activity"
        " WHERE datname = current_database() AND pid <> pg_backend_pid()"
    )


# Node.js ------------------------------------------------------------------------------


async def test_a_gateway_that_is_told_to_stop_waits_for_no_node_that_is_starting(
    world: World, tmp_path: Path
) -> None:
    node = tmp_path / "node"
    node.write_text("#!/bin/sh\nexec sleep 600\n")
    node.chmod(0o755)
    gateway = Gateway(SessionManager(node=str(node), ws_url=world.simulator.ws_url))
    await world.until(lambda: _is_starting(gateway), "Node.js is started")
    assert await gateway.stop() < STOP_SECONDS


async def _is_starting(gateway: Gateway) -> bool:
    return hasattr(gateway.manager, "engine")


async def test_when_node_dies_everything_is_open_again_or_truly_over(
    world: World,
) -> None:
    gateway = await world.gateway()
    linked = [await world.open_salon() for _ in range(3)]
    shown, asked, qr = [await world.salon() for _ in range(3)]
    await shown.ask_code()
    await shown.code()
    await qr.ask_qr()
    first_qr = await qr.qr()
    silent = await world.fault("hello", phone=asked.phone.number, answer="silence")
    await asked.ask_code()
    await world.connected(phone=asked.phone.number)
    await asyncio.to_thread(silent.remove)

    pid = gateway.node_pid
    os.kill(pid, signal.SIGKILL)
    await shown.stage("expired", ErrorCode.CODE_EXPIRED)
    assert await asked.code(), "what was only asked for is still answered"
    assert await qr.qr(other_than=first_qr)
    for salon in linked:
        await world.until(lambda: _logged_in(salon, 2), "it logs in again")  # noqa: B023
        await salon.status("open")
    assert gateway.node_pid != pid


async def test_a_link_that_is_finishing_survives_the_death_of_node(
    world: World,
) -> None:
    gateway = await world.gateway()
    salon = await world.salon()
    fault = await world.fault("login", phone=salon.phone.number, answer="silence")
    await salon.ask_code()
    assert (await salon.enter(await salon.code()))["ok"]
    await salon.stage("finishing")
    await world.connected(phone=salon.phone.number, stage="login")
    await asyncio.to_thread(fault.remove)
    os.kill(gateway.node_pid, signal.SIGKILL)
    await salon.status("open")
    assert await salon.attempts() == [("code", "linked", "")]


async def test_a_salon_that_ends_node_again_and_again_is_set_apart(
    world: World,
) -> None:
    gateway = await world.gateway(strikes=1)
    neighbour = await world.open_salon()
    poison = await world.linked_salon()
    await world.fault("login", phone=poison.phone.number, answer="silence")
    await poison.connect()
    await world.connected(phone=poison.phone.number, stage="login")
    await world.until(lambda: _is_quiet(gateway, neighbour), "it is no suspect")
    os.kill(gateway.node_pid, signal.SIGKILL)
    await poison.status("needs_attention")
    session = await poison.session()
    assert session.reason == "1009"
    assert session.retry_at, "it is tried again by itself"
    assert await poison.creds()
    await world.until(lambda: _logged_in(neighbour, 2), "it logs in again")
    await neighbour.status("open")
    assert len(gateway.manager.engine.pids) == 1, "a convict keeps no ward open"


async def _is_quiet(gateway: Gateway, salon: SalonStory) -> bool:
    (session,) = [
        one
        for one in gateway.manager.engine._sessions
        if one.ref.session_id == salon.salon.session_id
    ]
    return not session.is_suspect(asyncio.get_running_loop().time() - 1)


async def test_thirty_salons_are_open_again_after_a_restart_a_few_at_a_time(
    world: World,
) -> None:
    linked = [await world.linked_salon() for _ in range(30)]
    for _ in range(2):
        gateway = await world.gateway(logins=LOGINS_AT_A_TIME)
        await asyncio.gather(*(salon.status("open") for salon in linked))
        await world.until(lambda: _open_sockets(world, 30), "thirty sockets")
        assert await gateway.stop() < STOP_SECONDS
        await world.no_connections()
    journal = await world.journal()
    assert journal["maxConcurrentLogins"] <= LOGINS_AT_A_TIME
    assert {device["logins"] for device in journal["devices"].values()} >= {2}


async def _open_sockets(world: World, count: int) -> bool:
    return len(await world.connections(stage="open")) == count


async def test_a_code_is_over_at_once_when_its_only_gateway_stops(
    world: World,
) -> None:
    gateway = await world.gateway()
    salon, qr = await world.salon(), await world.salon()
    await salon.ask_code()
    await salon.code()
    await qr.ask_qr()
    await qr.qr()
    assert await gateway.stop() < STOP_SECONDS
    assert await salon.attempts() == [("code", "expired", ErrorCode.CODE_EXPIRED)]
    assert (await salon.snapshot())["status"] == "unlinked"
    await world.gateway()
    assert await qr.qr(), "a QR goes on with the next gateway"
    assert await qr.attempts() == [("qr", "shown", "")]


# The locks and the database -----------------------------------------------------------


async def test_a_cut_of_the_lock_connection_alone_is_not_noticed_by_anybody(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ownership, "HEARTBEAT_SECONDS", 30)
    gateway = await world.gateway()
    linked = [await world.open_salon() for _ in range(3)]
    pairing_one = await world.salon()
    await pairing_one.ask_code()
    code = await pairing_one.code()
    await _lock_connection_is_cut(world, gateway)
    await world.until(lambda: _is_regained(gateway, 4), "the locks are held again")
    assert (await pairing_one.enter(code))["ok"]
    await pairing_one.status("open")
    for salon in linked:
        await salon.status("open")
        assert (await world.device(await salon.me()))["logins"] == 1


async def _is_regained(gateway: Gateway, salons: int) -> bool:
    held = gateway.manager.claimer._ownership.held
    return gateway.is_claiming and len(held) == salons


async def test_a_gateway_that_does_not_get_back_to_the_database_closes_its_sockets(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    gateway = await world.gateway()
    linked = [await world.open_salon() for _ in range(3)]
    pairing_one = await world.salon()
    await pairing_one.ask_code()
    code = await pairing_one.code()
    claimer = gateway.manager.claimer
    monkeypatch.setattr(ownership, "CONNECT_SECONDS", 0.2)
    monkeypatch.setattr(ownership, "PROBE_SECONDS", 0.2)
    with silence() as port:
        address = claimer._ownership._conninfo
        claimer._ownership._conninfo = make_conninfo(address, port=port)
        await _lock_connection_is_cut(world, gateway)
        await world.no_connections()
        claimer._ownership._conninfo = address
        await pairing_one.stage("expired", ErrorCode.CODE_EXPIRED)
    assert not (await pairing_one.enter(code))["ok"]
    for salon in linked:
        await world.until(lambda: _logged_in(salon, 2), "it logs in again")  # noqa: B023
        await salon.status("open")


async def test_when_the_database_restarts_every_socket_stays_and_nothing_is_lost(
    world: World, settings: Any
) -> None:
    settings.WHATSAPP_LOOK_INTERVAL = 0.5
    gateway = await world.gateway()
    linked = [await world.open_salon() for _ in range(3)]
    asked, shown = await world.salon(), await world.salon()
    await shown.ask_code()
    code = await shown.code()
    silent = await world.fault("hello", phone=asked.phone.number, answer="silence")
    await asked.ask_code()
    await world.connected(phone=asked.phone.number)
    await asyncio.to_thread(silent.remove)
    await _all_connections_are_cut(world)
    await world.until(lambda: _is_regained(gateway, 5), "the locks are held again")
    assert (await shown.enter(code))["ok"]
    await shown.status("open")
    for salon in linked:
        await salon.status("open")
        assert (await world.device(await salon.me()))["logins"] == 1
        assert await salon.archive() == []


async def _logged_in(salon: SalonStory, times: int) -> bool:
    return (await salon.world.device(await salon.me()))["logins"] >= times


async def test_a_device_that_is_linked_while_the_database_is_away_is_not_lost(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await world.gateway()
    salon = await world.salon()
    await salon.ask_code()
    code = await salon.code()
    record_linked, failures = attempts.record_linked, iter(range(3))

    def away_for_a_while(*args: Any) -> bool:
        if next(failures, None) is not None:
            raise OperationalError("away")
        return record_linked(*args)

    monkeypatch.setattr(attempts, "record_linked", away_for_a_while)
    assert (await salon.enter(code))["ok"]
    await salon.status("open")
    assert await salon.attempts() == [("code", "linked", "")]


STEPS = (
    (claims, "work"),
    (claims, "give_up"),
    (claims, "take_over"),
    (claims, "candidates"),
    (sessions, "start"),
    (sessions, "record"),
    (sessions, "record_stopped"),
)


async def test_a_database_error_at_any_step_costs_time_only(
    world: World, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.WHATSAPP_LOOK_INTERVAL = 0.3
    monkeypatch.setattr("whatsapp.gateway.runner.LOOK_AGAIN_SECONDS", 0.05)
    await world.gateway()
    for module, service in STEPS:
        with monkeypatch.context() as patch:
            await _lives_on(world, patch, module, service)


async def _lives_on(
    world: World, monkeypatch: pytest.MonkeyPatch, module: ModuleType, service: str
) -> None:
    salon = await world.linked_salon()
    works, failures = getattr(module, service), iter(range(2))

    def fails_twice(*args: Any, **kwargs: Any) -> Any:
        if next(failures, None) is not None:
            raise OperationalError("away")
        return works(*args, **kwargs)

    monkeypatch.setattr(module, service, fails_twice)
    await salon.connect()
    await salon.status("open")
    await world.on_connections("drop", phone=salon.phone.number)
    await world.until(lambda: _logged_in(salon, 2), "it logs in again")
    await salon.status("open")
    await salon.disconnect()
    await salon.status("stopped")
    await world.no_connections(phone=salon.phone.number)
    await world.until(lambda: _is_free(salon), "its lock is free")
    await salon.connect()
    await salon.status("open")


async def _is_free(salon: SalonStory) -> bool:
    return not await salon.world.sql(
        "SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND classid = %s"
        " AND objid = %s AND database ="
        " (SELECT oid FROM pg_database WHERE datname = current_database())",
        claims.LOCK_CLASS,
        salon.pk,
    )


async def test_a_surprise_in_one_salon_is_logged_and_the_salon_goes_on(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await world.gateway()
    salon = await world.linked_salon()
    record_open, surprises = attempts.record_open, iter(range(1))

    def surprising(*args: Any) -> bool:
        if next(surprises, None) is not None:
            raise KeyError("surprise")
        return record_open(*args)

    monkeypatch.setattr(attempts, "record_open", surprising)
    world.expected = ("unexpected",)
    await salon.connect()
    await salon.status("open")


async def test_a_surprise_at_the_regular_look_takes_nobody_down(
    world: World, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.WHATSAPP_LOOK_INTERVAL = 0.1
    gateway = await world.gateway()
    salon = await world.open_salon()
    looked = asyncio.Event()

    def surprising() -> None:
        gateway.loop.call_soon_threadsafe(looked.set)
        raise KeyError("surprise")

    world.expected = ("The regular look failed",)
    with monkeypatch.context() as patch:
        patch.setattr(attempts, "expire_overdue", surprising)
        async with asyncio.timeout(PATIENCE):
            await looked.wait()
    assert (await world.device(await salon.me()))["logins"] == 1
    await salon.disconnect()
    await salon.status("stopped")


async def test_an_open_status_is_taken_back_only_where_no_gateway_stands_behind_it(
    world: World,
) -> None:
    await world.gateway()
    ours, nobodys = await world.open_salon(), await world.linked_salon()
    await world.sql(
        "UPDATE whatsapp_whatsappsession SET status = 'open', wanted = false"
        " WHERE salon_id = %s",
        nobodys.pk,
    )
    assert await world.call(proofs.demote_unowned) == [nobodys.pk]
    # Nobody wants it to run: who stopped it gets what he asked for.
    assert (await nobodys.snapshot())["status"] == "stopped"
    assert (await ours.snapshot())["status"] == "open"
    assert await world.call(proofs.demote_unowned) == []


# The channel layer --------------------------------------------------------------------


class _BrokenLayer(InMemoryChannelLayer):
    """A layer that fails at everything, as Redis does when it is away."""

    def __init__(self, make_error: Callable[[], Exception]) -> None:
        super().__init__()
        self._make_error = make_error

    async def _fail(self, *_: object) -> None:
        raise self._make_error()

    new_channel = group_add = group_send = send = receive = _fail  # type: ignore[assignment]


@pytest.mark.parametrize("error", [OSError, RedisConnectionError])
async def test_without_the_channel_layer_everything_happens_at_the_next_look(
    world: World,
    settings: Any,
    monkeypatch: pytest.MonkeyPatch,
    error: Callable[[], Exception],
) -> None:
    layer = _BrokenLayer(error)
    monkeypatch.setattr("whatsapp.gateway.manager.get_channel_layer", lambda: layer)
    monkeypatch.setattr("whatsapp.events.get_channel_layer", lambda: layer)
    settings.WHATSAPP_LOOK_INTERVAL = 0.2
    await world.gateway()

    async def links(_: int) -> None:
        salon = await world.salon()
        await salon.link()
        await salon.disconnect()
        await salon.status("stopped")
        await salon.connect()
        await salon.status("open")
        await salon.reset()
        await salon.no_owner()
        assert await asyncio.to_thread(salon.phone.devices) == []

    await each(links, (1,), (2,))


async def test_a_layer_that_comes_back_is_listened_to_again(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    layer = InMemoryChannelLayer()
    receive, failures = layer.receive, iter(range(2))

    async def fails_twice(channel: str) -> Any:
        if next(failures, None) is not None:
            raise RedisConnectionError
        return await receive(channel)

    monkeypatch.setattr(layer, "receive", fails_twice)
    monkeypatch.setattr("whatsapp.gateway.manager.get_channel_layer", lambda: layer)
    monkeypatch.setattr("whatsapp.events.get_channel_layer", lambda: layer)
    monkeypatch.setattr("whatsapp.gateway.manager.RECONNECT_SECONDS", 0.05)
    await world.gateway()
    salon = await world.linked_salon()
    await world.until(lambda: _listens(layer), "it listens")
    await salon.connect()
    await salon.status("open")


async def _listens(layer: InMemoryChannelLayer) -> bool:
    return len(layer.groups.get("whatsapp.gateways", {})) >= 3
