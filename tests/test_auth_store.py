"""Creds and keys between the engine and PostgreSQL: what is fenced, and what never lies."""

import asyncio
import itertools
import threading
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import orjson
import psycopg
import pytest
import pytest_asyncio
from django.db import connection
from psycopg_pool import AsyncConnectionPool

from tests import factories
from whatsapp.engine import SessionRef, StoreRefused
from whatsapp.gateway import auth_store
from whatsapp.gateway.auth_store import UNSTORED_EPOCH, DatabaseAuthStore
from whatsapp.gateway.database import Services, conninfo
from whatsapp.gateway.metrics import GatewayMetrics
from whatsapp.models import Salon, WhatsAppKey, WhatsAppSession
from whatsapp.services import claims, encryption, sealing, sessions

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture(params=[False, True], ids=["plain", "sealed"], autouse=True)
def is_sealed(request: pytest.FixtureRequest, settings: Any) -> bool:
    """Everything here holds with a key, and without one."""
    settings.CREDENTIAL_ENCRYPTION_KEYS = [sealing.new_key()] if request.param else []
    return bool(request.param)


@pytest_asyncio.fixture
async def call(transactional_db: None) -> AsyncIterator[Services]:
    services = Services()
    yield services
    services.close()


@pytest_asyncio.fixture
async def store(call: Services) -> AsyncIterator[DatabaseAuthStore]:
    opened = DatabaseAuthStore(await call(conninfo), size=4)
    await opened.open()
    yield opened
    await opened.close()


@pytest_asyncio.fixture
async def salon(call: Services) -> Salon:
    made = await call(factories.make_salon)
    await call(factories.store_creds, made, None, {})
    await call(factories.claim, made)
    return made


async def _ref(call: Services, salon: Salon) -> SessionRef:
    session = await call(WhatsAppSession.objects.get, salon=salon)
    return SessionRef(salon.session_id, 1, session.epoch)


@pytest_asyncio.fixture
async def ref(call: Services, salon: Salon) -> SessionRef:
    return await _ref(call, salon)


def _entries(keys: dict[tuple[str, str], Any]) -> str:
    entries = [{"t": t, "i": i, "v": value} for (t, i), value in keys.items()]
    return orjson.dumps(entries).decode()


_numbers = itertools.count(1)


async def _save(
    store: DatabaseAuthStore, ref: SessionRef, creds: str | None, keys: str | None
) -> None:
    """Save as the engine does: every batch has the next number."""
    await store.save(ref, creds, keys, next(_numbers))


async def _get(
    store: DatabaseAuthStore, ref: SessionRef, key_type: str, *ids: str
) -> Any:
    return orjson.loads(await store.get_keys(ref, key_type, list(ids)))


async def test_a_salon_without_creds_has_none(
    store: DatabaseAuthStore, call: Services
) -> None:
    bare = await call(factories.make_salon)
    assert await store.load(bare.session_id) is None
    assert await store.load("company_0") is None


@pytest.mark.parametrize("form", ["base64", "bytes", "index"])
async def test_what_is_saved_is_loaded_as_it_was_in_every_form_of_bytes(
    store: DatabaseAuthStore, ref: SessionRef, form: str
) -> None:
    creds, keys = factories.make_creds(form=form), factories.make_keys(form)
    await _save(store, ref, orjson.dumps(creds).decode(), _entries(keys))
    assert orjson.loads(await store.load(ref.session_id) or "") == creds
    for (key_type, key_id), value in keys.items():
        assert await _get(store, ref, key_type, key_id) == {key_id: value}


async def test_rows_of_the_previous_service_are_read_as_they_lie(
    store: DatabaseAuthStore, call: Services
) -> None:
    salon = await call(factories.make_salon)
    creds, keys = factories.make_creds(form="index"), factories.make_keys("bytes")
    await call(factories.store_creds, salon, creds, keys)
    ref = await _ref(call, salon)
    assert orjson.loads(await store.load(salon.session_id) or "") == creds
    (pair,) = (value for (kind, _), value in keys.items() if kind == "pre-key")
    assert await _get(store, ref, "pre-key", "1", "2") == {"1": pair}


async def test_keys_that_are_not_there_are_left_out(
    store: DatabaseAuthStore, ref: SessionRef
) -> None:
    await _save(store, ref, None, _entries({("session", "a"): 1, ("session", "b"): 2}))
    assert await _get(store, ref, "session", "a", "b", "c") == {"a": 1, "b": 2}
    assert await _get(store, ref, "pre-key", "a") == {}
    assert await _get(store, ref, "session") == {}


async def test_a_null_deletes_and_a_second_value_replaces(
    store: DatabaseAuthStore, ref: SessionRef
) -> None:
    await _save(store, ref, None, _entries({("session", "a"): 1, ("session", "b"): 2}))
    changes = {("session", "a"): None, ("session", "b"): 3, ("session", "none"): None}
    await _save(store, ref, None, _entries(changes))
    assert await _get(store, ref, "session", "a", "b", "none") == {"b": 3}


async def test_saving_one_batch_twice_is_the_same_as_once(
    store: DatabaseAuthStore, ref: SessionRef, call: Services
) -> None:
    batch = _entries(factories.make_keys())
    for _ in range(2):
        await _save(store, ref, None, batch)
    count = await call(WhatsAppKey.objects.filter(company_id=ref.session_id).count)
    assert count == len(factories.make_keys())


async def test_a_key_that_is_written_again_expires_no_more(
    store: DatabaseAuthStore, ref: SessionRef, call: Services
) -> None:
    await _save(store, ref, None, _entries({("session", "a"): 1}))
    rows = WhatsAppKey.objects.filter(company_id=ref.session_id)
    await call(rows.update, expires_at="2020-01-01T00:00:00Z")
    assert await _get(store, ref, "session", "a") == {"a": 1}, "no date ends a key"
    await _save(store, ref, None, _entries({("session", "a"): 2}))
    assert (await call(rows.get)).expires_at is None


async def test_keys_alone_leave_the_creds_and_creds_alone_the_keys(
    store: DatabaseAuthStore, ref: SessionRef
) -> None:
    before = await store.load(ref.session_id)
    await _save(store, ref, None, _entries({("session", "a"): 1}))
    assert await store.load(ref.session_id) == before
    await _save(
        store, ref, orjson.dumps({**factories.make_creds(), "x": 1}).decode(), None
    )
    assert orjson.loads(await store.load(ref.session_id) or "")["x"] == 1
    assert await _get(store, ref, "session", "a") == {"a": 1}


async def test_salons_do_not_see_each_other(
    store: DatabaseAuthStore, ref: SessionRef, call: Services
) -> None:
    other = await call(factories.make_salon)
    await call(factories.claim, other)
    theirs = await _ref(call, other)
    await _save(store, ref, None, _entries({("session", "a"): 1}))
    await _save(store, theirs, None, _entries({("session", "a"): None}))
    assert await _get(store, ref, "session", "a") == {"a": 1}
    assert await _get(store, theirs, "session", "a") == {}


# The fence ----------------------------------------------------------------------------


async def _refused(store: DatabaseAuthStore, ref: SessionRef) -> None:
    before = await store.load(ref.session_id)
    with pytest.raises(StoreRefused):
        await _save(store, ref, '{"late": true}', _entries({("session", "late"): 1}))
    assert await store.load(ref.session_id) == before
    assert await _get(store, ref, "session", "late") == {}


async def test_a_write_under_an_old_or_a_future_epoch_is_refused_as_a_whole(
    store: DatabaseAuthStore, ref: SessionRef
) -> None:
    for epoch in (ref.epoch - 1, ref.epoch + 1):
        await _refused(store, SessionRef(ref.session_id, 1, epoch))


async def test_a_write_for_a_salon_that_is_gone_is_refused(
    store: DatabaseAuthStore,
) -> None:
    await _refused(store, SessionRef("company_987654", 1, 0))


async def test_writes_of_the_old_owner_are_refused_after_a_take_over(
    store: DatabaseAuthStore, salon: Salon, ref: SessionRef, call: Services
) -> None:
    await call(claims.take_over, [salon.pk], "gateway-b")
    await _refused(store, ref)
    await _save(store, await _ref(call, salon), None, _entries({("session", "b"): 1}))


async def test_nothing_comes_back_after_a_reset(
    store: DatabaseAuthStore, salon: Salon, ref: SessionRef, call: Services
) -> None:
    await call(sessions.reset, salon, "staff")
    # The socket lives until it is unlinked: its writes are taken, and go nowhere.
    await _save(store, ref, '{"late": true}', _entries({("session", "late"): 1}))
    assert await store.load(ref.session_id) is None
    assert await _get(store, ref, "session", "late") == {}
    await call(sessions.reset, salon, "staff")
    await _refused(store, SessionRef(ref.session_id, 1, ref.epoch - 1))


async def test_a_save_cannot_make_creds_where_none_are(
    store: DatabaseAuthStore, call: Services
) -> None:
    salon = await call(factories.make_salon)
    await call(factories.claim, salon)
    await _save(store, await _ref(call, salon), '{"half": "paired"}', None)
    assert await store.load(salon.session_id) is None


async def test_a_write_that_waits_for_a_take_over_is_refused_after_it(
    store: DatabaseAuthStore, salon: Salon, ref: SessionRef, call: Services
) -> None:
    locked, go_on = threading.Event(), threading.Event()

    def take_over_slowly() -> None:
        with sessions.locked(salon) as session:
            session.epoch += 1
            session.save()
            locked.set()
            go_on.wait(60)

    taking = asyncio.create_task(call(take_over_slowly))
    await asyncio.to_thread(locked.wait, 60)
    saving = asyncio.create_task(_refused(store, ref))
    await _waits_for_a_lock(call)
    assert not saving.done()
    go_on.set()
    await taking
    await saving


async def _waits_for_a_lock(call: Services) -> None:
    def waiting() -> bool:
        with connection.cursor() as cursor:
            cursor.execute(
                "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
                " AND datname = current_database()"
            )
            (count,) = cursor.fetchone()
        return bool(count)

    async with asyncio.timeout(60):
        while not await call(waiting):  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def test_a_batch_that_comes_late_overwrites_nothing(
    store: DatabaseAuthStore, ref: SessionRef
) -> None:
    """As when PostgreSQL was stopped with a statement in its socket, and goes on."""
    early = '{"me": "early"}', _entries({("session", "a"): 1, ("session", "b"): 1})
    later = '{"me": "later"}', _entries({("session", "a"): 2, ("session", "b"): None})
    await store.save(ref, *later, 2)
    await store.save(ref, *early, 1)
    assert orjson.loads(await store.load(ref.session_id) or "") == {"me": "later"}
    assert await _get(store, ref, "session", "a", "b") == {"a": 2}


async def test_a_batch_whose_answer_was_lost_may_come_again(
    store: DatabaseAuthStore, ref: SessionRef
) -> None:
    for _ in range(2):
        await store.save(ref, None, _entries({("session", "a"): 1}), 1)
    assert await _get(store, ref, "session", "a") == {"a": 1}


async def test_every_socket_counts_its_batches_anew(
    store: DatabaseAuthStore, salon: Salon, ref: SessionRef, call: Services
) -> None:
    await store.save(ref, None, _entries({("session", "a"): 1}), 7)
    args = salon, factories.OWNER, ref.epoch, "connecting"
    assert await call(sessions.start, *args) == ref.epoch + 1
    anew = await _ref(call, salon)
    await store.save(anew, None, _entries({("session", "a"): 2}), 1)
    assert await _get(store, ref, "session", "a") == {"a": 2}
    with pytest.raises(StoreRefused):
        await store.save(ref, None, _entries({("session", "a"): 1}), 8)


async def test_of_a_device_that_is_only_unlinked_nothing_is_stored_or_read(
    store: DatabaseAuthStore, ref: SessionRef
) -> None:
    await _save(store, ref, None, _entries({("session", "a"): 1}))
    leaving = SessionRef(ref.session_id, 2, UNSTORED_EPOCH)
    await _save(store, leaving, '{"late": true}', _entries({("session", "b"): 1}))
    assert await _get(store, leaving, "session", "a") == {}
    assert await _get(store, ref, "session", "a", "b") == {"a": 1}
    dismissed = SessionRef("dismissed_3", 3, UNSTORED_EPOCH)
    await _save(store, dismissed, "{}", None)


# Trouble ------------------------------------------------------------------------------


async def test_a_failed_read_raises_and_never_looks_like_no_key(
    store: DatabaseAuthStore, ref: SessionRef, call: Services
) -> None:
    def rename(old: str, new: str) -> None:
        with connection.cursor() as cursor:
            cursor.execute(f"ALTER TABLE {old} RENAME TO {new}")

    await call(rename, "whatsapp_keys", "away")
    try:
        with pytest.raises(psycopg.Error):
            await store.get_keys(ref, "session", ["a"])
        with pytest.raises(psycopg.Error):
            await _save(store, ref, None, _entries({("session", "a"): 1}))
    finally:
        await call(rename, "away", "whatsapp_keys")
    assert await _get(store, ref, "session", "a") == {}


async def test_a_database_that_stays_away_raises(
    call: Services, ref: SessionRef, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(auth_store, "RETRY_SECONDS", 0.01)
    monkeypatch.setattr(auth_store, "TRIES", 2)
    address = psycopg.conninfo.make_conninfo(await call(conninfo), port=1)
    figures = GatewayMetrics()
    away = DatabaseAuthStore(address, metrics=figures)
    away._pool = AsyncConnectionPool(
        address, timeout=0.1, min_size=0, max_size=1, open=False
    )
    await away.open()
    with pytest.raises(psycopg.OperationalError):
        await away.load(ref.session_id)
    with pytest.raises(psycopg.OperationalError):
        await away.get_keys(ref, "session", ["a"])
    with pytest.raises(psycopg.OperationalError):
        await _save(away, ref, None, _entries({("session", "a"): 1}))
    await away.close()
    said = figures.snapshot(0)
    assert said["whatsapp_store_retries_total"] == [[[], 3]]
    assert said["whatsapp_store_failures_total"] == [[[], 3]]


async def test_cut_connections_are_replaced_before_anybody_notices(
    store: DatabaseAuthStore, ref: SessionRef, call: Services
) -> None:
    def cut() -> None:
        with connection.cursor() as cursor:
            cursor.execute(
                "SELECT pg_terminate_backend(pid, 60000) FROM pg_stat_activity"
                " WHERE application_name = 'gateway auth store'"
                " AND datname = current_database()"
            )

    for number in range(3):
        await _save(store, ref, None, _entries({("session", "a"): number}))
        await call(cut)
        assert await _get(store, ref, "session", "a") == {"a": number}
        await call(cut)


async def test_what_postgresql_cannot_store_changes_nothing(
    store: DatabaseAuthStore, ref: SessionRef
) -> None:
    twice = orjson.dumps(
        [{"t": "session", "i": "a", "v": 1}, {"t": "session", "i": "a", "v": 2}]
    ).decode()
    for keys in ("no json", '[{"t": "session", "i": null, "v": 1}]', twice):
        # The second: what is to be sealed is read before.
        with pytest.raises((psycopg.Error, ValueError)):
            await _save(store, ref, '{"other": true}', keys)
    assert "other" not in (await store.load(ref.session_id) or "")
    assert await _get(store, ref, "session", "a") == {}


async def test_what_is_saved_lies_sealed_if_there_is_a_key(
    store: DatabaseAuthStore, ref: SessionRef, call: Services, is_sealed: bool
) -> None:
    keys = _entries(factories.make_keys())
    await _save(store, ref, orjson.dumps(factories.make_creds()).decode(), keys)
    found = (await call(encryption.lying)).all()
    assert set(found) == {sealing.current_kid()}
    assert bool(sealing.current_kid()) is is_sealed


async def test_a_session_does_not_begin_with_a_part_of_its_keys(
    store: DatabaseAuthStore, ref: SessionRef, settings: Any
) -> None:
    """The creds were written with the new key, the Signal sessions with a lost one."""
    settings.CREDENTIAL_ENCRYPTION_KEYS = [sealing.new_key()]
    await _save(store, ref, None, _entries({("session", "a"): {"n": 1}}))
    lost = sealing.current_kid()
    settings.CREDENTIAL_ENCRYPTION_KEYS = [sealing.new_key()]
    await _save(store, ref, orjson.dumps(factories.make_creds()).decode(), None)
    with pytest.raises(sealing.KeyMissing, match=lost):
        await store.load(ref.session_id)
    with pytest.raises(sealing.KeyMissing, match=lost):
        await store.get_keys(ref, "session", ["a"])


async def test_what_is_stored_read_refused_and_failed_is_measured(
    call: Services, ref: SessionRef, monkeypatch: pytest.MonkeyPatch
) -> None:
    figures = GatewayMetrics()
    store = DatabaseAuthStore(await call(conninfo), metrics=figures)

    def said(name: str, *labels: str) -> float:
        """Return a counter, or how often a histogram was added to."""
        found = figures.snapshot(0)[name]
        if isinstance(found, list):
            return sum(value for _labels, value in found)
        return sum(counts[-1] for of, counts, _sum in found["of"] if of == [*labels])

    await store.open()
    try:
        keys = _entries({("session", "a"): 1})
        await _save(store, ref, None, keys)
        await _save(store, ref, "{}", None)
        await _save(store, ref, "{}", keys)
        await _save(store, ref, "{}", keys)
        await _get(store, ref, "session", "a")
        with pytest.raises(StoreRefused):
            await _save(store, replace(ref, epoch=ref.epoch + 1), "{}", None)
        with pytest.raises(psycopg.Error):
            await _save(store, ref, None, '[{"t": "session", "i": null, "v": 1}]')
    finally:
        await store.close()
    writes = "whatsapp_store_write_seconds"
    of = {what: said(writes, what) for what in ("keys", "creds", "both")}
    # What was refused or failed says nothing about how long a write takes.
    assert of == {"keys": 1, "creds": 1, "both": 2}
    assert said("whatsapp_store_read_seconds") == 1
    assert said("whatsapp_store_writes_refused_total") == 1
    assert said("whatsapp_store_failures_total") == 1
    assert said("whatsapp_store_retries_total") == 0
