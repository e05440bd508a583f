"""Advisory locks: one owner per salon, and nobody owns what his connection lost."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

import psycopg
import pytest
import pytest_asyncio
from django.db import connection as db_connection
from psycopg.conninfo import make_conninfo

from whatsapp.gateway import ownership
from whatsapp.gateway.database import conninfo
from whatsapp.gateway.ownership import LocksLost, Ownership
from whatsapp.services import gateways
from whatsapp.services.claims import LOCK_CLASS

pytestmark = pytest.mark.django_db(transaction=True)

_FILL = """
CREATE FUNCTION pg_temp.lock(class int, pk int) RETURNS bool LANGUAGE plpgsql AS $$
BEGIN
    IF pk > 5 THEN RAISE EXCEPTION USING ERRCODE = 'out_of_memory'; END IF;
    RETURN pg_try_advisory_lock(class, pk);
END $$
"""

Connect = Callable[..., Awaitable[Ownership]]


@pytest_asyncio.fixture
async def connect(transactional_db: None) -> AsyncIterator[Connect]:
    """Connect owners by name; all are closed afterwards."""
    address = await asyncio.to_thread(conninfo)
    owners: list[Ownership] = []

    async def connected(
        name: str, on_free: Callable[[list[int]], None] = print
    ) -> Ownership:
        number = await asyncio.to_thread(_join, name)
        owner = Ownership(address, name, number, on_free)
        owners.append(owner)
        await owner.connect()
        await owner.join()
        return owner

    yield connected
    for owner in owners:
        await owner.close()


def _join(name: str) -> int:
    try:
        return gateways.join(name)
    finally:
        db_connection.close()


def _shares() -> dict[str, int]:
    try:
        return {share.name: share.salons for share in gateways.shares()}
    finally:
        db_connection.close()


async def _terminate(name: str) -> None:
    """Cut a gateway's lock connection, as an administrator or a failover does."""
    address = await asyncio.to_thread(conninfo)
    async with await psycopg.AsyncConnection.connect(address) as connection:
        cursor = await connection.execute(
            "SELECT pg_terminate_backend(pid, 60000) FROM pg_stat_activity"
            " WHERE application_name = %s AND datname = current_database()",
            (f"gateway {name}",),
        )
        assert await cursor.fetchall() == [(True,)]


async def test_a_salon_has_one_owner(connect: Connect) -> None:
    one, other = await connect("one"), await connect("other")
    assert sorted(await one.acquire([1, 2, 3])) == [1, 2, 3]
    assert await other.acquire([2, 3, 4]) == [4]
    assert one.held == {1, 2, 3}
    assert other.held == {4}


async def test_what_is_held_is_not_acquired_twice(connect: Connect) -> None:
    one, other = await connect("one"), await connect("other")
    await one.acquire([1])
    assert await one.acquire([1, 2]) == [2]
    await one.release([1])
    assert await other.acquire([1, 2]) == [1], "one unlock is enough"


async def test_releasing_what_is_not_held_changes_nothing(connect: Connect) -> None:
    one, other = await connect("one"), await connect("other")
    await one.acquire([1])
    await other.release([1])
    assert await other.acquire([1]) == []
    await one.release([2])
    assert one.held == {1}


async def test_owners_that_grab_at_the_same_time_share_without_overlap(
    connect: Connect,
) -> None:
    owners = [await connect(f"owner {number}") for number in range(4)]
    salons = list(range(1, 301))
    grabbed = await asyncio.gather(
        *(
            owner.acquire(salons[start:] + salons[:start])
            for start, owner in zip((0, 75, 150, 225), owners, strict=True)
        )
    )
    assert sorted(pk for pks in grabbed for pk in pks) == salons


async def test_closing_frees_everything(connect: Connect) -> None:
    one, other = await connect("one"), await connect("other")
    await one.acquire([1, 2])
    await one.close()
    assert one.held == set()
    # A moment may pass until the server has noticed.
    await other._query("SELECT pg_advisory_lock(%s, 1)", (LOCK_CLASS,))


async def test_a_cut_connection_is_noticed_at_once(
    connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ownership, "HEARTBEAT_SECONDS", 60)
    monkeypatch.setattr(ownership, "LEASE_SECONDS", 120)
    monkeypatch.setattr(ownership, "SESSION_SECONDS", 120)
    one, other = await connect("one"), await connect("other")
    await one.acquire([1])
    watching = asyncio.create_task(one.watch())
    await asyncio.sleep(0)
    await _terminate("one")
    with pytest.raises(LocksLost):
        async with asyncio.timeout(30):
            await watching
    assert await other.acquire([1]) == [1]


async def test_watching_goes_on_while_the_connection_is_used(
    connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ownership, "HEARTBEAT_SECONDS", 0.02)
    one = await connect("one")
    watching = asyncio.create_task(one.watch())
    for pk in range(1, 40):
        assert await one.acquire([pk]) == [pk]
    await one.release(list(range(1, 40)))
    assert not watching.done()
    watching.cancel()
    await asyncio.wait([watching])


async def test_who_is_cancelled_in_a_heartbeat_keeps_the_locks(
    connect: Connect,
) -> None:
    one, other = await connect("one"), await connect("other")
    await one.acquire([1])
    asking = asyncio.create_task(one._query("SELECT pg_sleep(0.1)", ()))
    await asyncio.sleep(0)
    asking.cancel()
    await asyncio.wait([asking])
    assert await one.acquire([2]) == [2]
    assert await other.acquire([1, 2]) == []


async def test_a_connection_that_does_not_answer_counts_as_lost(
    connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = await connect("asleep")
    monkeypatch.setattr(ownership, "LEASE_SECONDS", 0.3)
    with pytest.raises(LocksLost):
        await one._query("SELECT pg_sleep(60)", ())
    with pytest.raises(LocksLost):
        await one.acquire([1])
    assert not one.may_hold, "somebody else may have the locks by now"


async def test_a_gateway_that_says_nothing_loses_its_salons(
    connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As one whose process is stopped, or that is cut off from the database."""
    other = await connect("other")
    monkeypatch.setattr(ownership, "SESSION_SECONDS", 0.3)
    one = await connect("one")
    assert await one.acquire([1]) == [1]
    # Waits until the lock is free.
    await other._query("SELECT pg_advisory_lock(%s, 1)", (LOCK_CLASS,))
    with pytest.raises(LocksLost):
        await one.acquire([2])


async def test_sockets_may_stay_open_as_long_as_nobody_can_have_the_locks(
    connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = await connect("one")
    assert not one.may_hold, "there is nothing to hold"
    await _terminate("one")
    with pytest.raises(LocksLost):
        await one.acquire([1])
    assert one.may_hold, "it may be this one connection only"
    monkeypatch.setattr(one, "_hold_until", 0)
    address = one._conninfo
    one._conninfo = make_conninfo(address, port=1)
    with pytest.raises(psycopg.OperationalError):
        await one.connect()
    assert one.may_hold, "who is refused is so as everybody is"
    monkeypatch.setattr(ownership, "HOLD_SECONDS", 0)
    with pytest.raises(psycopg.OperationalError):
        await one.connect()
    assert not one.may_hold, "but not for ever"
    one._conninfo = address
    await one.connect()
    await one.join()
    assert not one.may_hold


async def test_a_gateway_is_counted_while_it_lives_and_until_it_leaves(
    connect: Connect,
) -> None:
    one, other = await connect("one"), await connect("other")
    await one.acquire([1, 2])
    await other.acquire([3])
    assert await asyncio.to_thread(_shares) == {"one": 2, "other": 1}
    await one.leave()
    assert await asyncio.to_thread(_shares) == {"other": 1}
    await _terminate("other")
    assert await asyncio.to_thread(_shares) == {}


async def test_what_is_left_to_a_gateway_only_that_one_hears(connect: Connect) -> None:
    heard: list[int] = []
    heard_by_other: list[int] = []
    one = await connect("one", heard.extend)
    other = await connect("other", heard_by_other.extend)
    leaving = await connect("leaving")
    salons = list(range(1, 1201))
    await leaving.tell_free(salons, "one")
    for owner in (one, other):
        await owner._query("SELECT 1", ())
    assert heard == salons
    assert heard_by_other == []


@pytest.mark.parametrize("payload", ["", "[]", "{", '{"to": "one", "salons": ["x"]}'])
async def test_a_notice_that_is_none_is_ignored(connect: Connect, payload: str) -> None:
    heard: list[int] = []
    one = await connect("one", heard.extend)
    await one._query("SELECT pg_notify(%s, %s)", (gateways.CHANNEL, payload))
    assert heard == []
    assert await one.acquire([1]) == [1]


async def test_without_a_connection_nothing_is_acquired(connect: Connect) -> None:
    one = await connect("one")
    await one.acquire([1])
    await _terminate("one")
    with pytest.raises(LocksLost):
        await one.acquire([2])
    with pytest.raises(LocksLost):
        await one.acquire([2])
    await one.connect()
    assert one.held == set()
    assert await one.acquire([1, 2]) == [1, 2]


async def test_a_full_lock_table_costs_the_salons_that_do_not_fit_and_no_others(
    connect: Connect, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    one, other = await connect("one"), await connect("other")
    await one.acquire([1, 2, 3])
    # The real table is shared with every other test of this run.
    assert one._connection
    await one._connection.execute(_FILL)
    filled = ownership._ACQUIRE.replace("pg_try_advisory_lock", "pg_temp.lock")
    monkeypatch.setattr(ownership, "_ACQUIRE", filled)
    assert await one.acquire([4, 5, 6]) == []
    assert "lock table is full" in caplog.text
    assert one.held == {1, 2, 3}
    monkeypatch.undo()
    assert await other.acquire([1, 4, 5]) == [4, 5], "what did fit is free again"


async def test_a_gateway_is_seen_by_its_name(connect: Connect) -> None:
    await connect("host:1:abc")
    other = await connect("other")
    rows = await other._query(
        "SELECT count(*) FROM pg_stat_activity WHERE application_name = %s",
        ("gateway host:1:abc",),
    )
    assert rows == [(1,)]


def test_a_gateway_that_was_not_answered_may_register_again() -> None:
    gateway_id = gateways.join("one")
    assert gateways.join("one") == gateway_id
    assert gateways.join("other") != gateway_id
