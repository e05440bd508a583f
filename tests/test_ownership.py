"""Advisory locks: one owner per salon, and nobody owns what his connection lost."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

import psycopg
import pytest
import pytest_asyncio

from whatsapp.gateway import ownership
from whatsapp.gateway.database import conninfo
from whatsapp.gateway.ownership import LocksLost, Ownership
from whatsapp.services.claims import LOCK_CLASS

pytestmark = pytest.mark.django_db(transaction=True)

_FILL = """
CREATE FUNCTION pg_temp.lock(class int, pk int) RETURNS bool LANGUAGE plpgsql AS $$
BEGIN
    IF pk > 5 THEN RAISE EXCEPTION USING ERRCODE = 'out_of_memory'; END IF;
    RETURN pg_try_advisory_lock(class, pk);
END $$
"""

Connect = Callable[[str], Awaitable[Ownership]]


@pytest_asyncio.fixture
async def connect(transactional_db: None) -> AsyncIterator[Connect]:
    """Connect owners by name; all are closed afterwards."""
    address = await asyncio.to_thread(conninfo)
    owners: list[Ownership] = []

    async def connected(name: str) -> Ownership:
        owner = Ownership(address, name)
        owners.append(owner)
        await owner.connect()
        return owner

    yield connected
    for owner in owners:
        await owner.close()


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


async def test_a_connection_that_does_not_answer_counts_as_lost(
    connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ownership, "ANSWER_SECONDS", 0.2)
    one = await connect("one")
    with pytest.raises(LocksLost):
        await one._query("SELECT pg_sleep(1)", ())
    with pytest.raises(LocksLost):
        await one.acquire([1])


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
