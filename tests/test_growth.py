"""Keys that Baileys itself would delete go, nothing else does; growth is noticed."""

import json
import logging
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import pytest
from django.db import connection, connections, transaction
from django.utils import timezone

from tests import factories
from tests.simulator import find_node
from whatsapp.engine.child import MAIN
from whatsapp.models import KeyCount, Salon, WhatsAppAuth, WhatsAppKey
from whatsapp.services import credentials, growth, sessions

pytestmark = pytest.mark.django_db(transaction=True)

WEEK = growth.BUCKET_SECONDS
TOKEN = {"type": "Buffer", "data": "AAAA"}
EMPTY = {"type": "Buffer", "data": ""}


def cutoff() -> int:
    return (int(time.time()) // WEEK - 3) * WEEK


def linked(keys: dict[tuple[str, str], Any] | None = None) -> Salon:
    salon = factories.make_salon()
    factories.store_creds(salon, factories.make_creds(), keys or {})
    return salon


def add_token(salon: Salon, name: str, value: Any) -> None:
    WhatsAppKey.objects.create(
        company_id=salon.session_id, key_type="tctoken", key_id=name, value=value
    )


def names(salon: Salon) -> set[str]:
    rows = WhatsAppKey.objects.filter(company_id=salon.session_id)
    return set(rows.values_list("key_id", flat=True))


# --- pruning --------------------------------------------------------------------------

RULE = """
import { isTcTokenExpired } from %s
const cases = JSON.parse(process.argv[1])
console.log(JSON.stringify(cases.map(entry => {
  const peer = Boolean(entry.token?.data?.length) && !isTcTokenExpired(entry.timestamp)
  const ours = entry.senderTimestamp !== undefined && !isTcTokenExpired(entry.senderTimestamp)
  return !peer && !ours
})))
"""


def baileys_deletes(cases: list[Any]) -> list[bool]:
    """Ask Baileys' own function what its daily pruning would delete."""
    utils = MAIN.parent / "node_modules/@whiskeysockets/baileys/lib/Utils"
    script = RULE % json.dumps((utils / "tc-token-utils.js").as_uri())
    done = subprocess.run(
        [find_node(), "--input-type=module", "-e", script, json.dumps(cases)],
        check=True,
        capture_output=True,
        text=True,
    )
    answer: list[bool] = json.loads(done.stdout)
    return answer


def test_a_token_goes_exactly_when_baileys_would_delete_it():
    old, edge, now = cutoff() - 1, cutoff(), int(time.time())
    times: list[Any] = [None, "", str(old), old, str(edge), edge, str(now), now]
    cases: list[dict[str, Any]] = [{"token": TOKEN}, {"senderTimestamp": now}]
    for timestamp in times:
        cases.append({"token": TOKEN, "timestamp": timestamp})
        for sender in (None, old, edge, now, str(now)):
            cases.append(
                {"token": TOKEN, "timestamp": timestamp, "senderTimestamp": sender}
            )
    salon = linked()
    for number, case in enumerate(cases):
        add_token(salon, str(number), case)
    expected = {str(n) for n, gone in enumerate(baileys_deletes(cases)) if gone}
    assert 10 < len(expected) < len(cases) - 10
    assert growth.prune(dry_run=True) == {"tctoken": len(expected)}
    assert len(names(salon)) == len(cases), "a dry run deletes nothing"
    assert growth.prune() == {"tctoken": len(expected)}
    assert names(salon) == {str(n) for n in range(len(cases))} - expected
    assert growth.prune() == {}


@pytest.mark.parametrize(
    "value",
    [
        {"token": EMPTY, "timestamp": "4102444800"},
        {"token": TOKEN, "timestamp": "12 days"},
        {"token": TOKEN, "timestamp": {"low": 5, "high": 0}},
        {"token": TOKEN, "timestamp": 1.5},
        {"token": TOKEN, "timestamp": "9" * 40},
        "no object",
        [],
    ],
)
def test_what_is_odd_is_kept(value: Any):
    salon = linked()
    add_token(salon, "odd", value)
    assert growth.prune() == {}
    assert names(salon) == {"odd"}


def test_nothing_but_tokens_goes_however_old_it_is():
    salon = linked(factories.make_keys())
    add_token(salon, "__index", {"token": TOKEN})
    before = names(salon)
    WhatsAppKey.objects.update(
        created_at="2020-01-01T00:00Z", updated_at="2020-01-01T00:00Z"
    )
    assert growth.prune() == {}
    assert growth.prune_orphans() == {}
    assert names(salon) == before


def test_rows_that_are_no_salons_are_left_alone():
    for company in ("company_99999999", "105", "company_x"):
        WhatsAppKey.objects.create(
            company_id=company, key_type="tctoken", key_id="1", value={"token": TOKEN}
        )
    assert growth.prune() == {}
    assert growth.prune_orphans() == {}
    assert WhatsAppKey.objects.count() == 3


def test_a_token_that_is_renewed_while_it_is_judged_stays():
    salon = linked()
    for name in ("renewed", "other"):
        add_token(salon, name, {"token": TOKEN, "timestamp": "1"})
    renewed = {"token": TOKEN, "timestamp": str(int(time.time()))}
    with ThreadPoolExecutor(1) as thread, transaction.atomic():
        WhatsAppKey.objects.filter(key_id="renewed").update(value=renewed)
        pruned = thread.submit(_pruned).result()  # does not wait for who writes
    assert pruned == {"tctoken": 1}
    assert growth.prune() == {}
    assert names(salon) == {"renewed"}


def _pruned() -> dict[str, int]:
    try:
        return growth.prune()
    finally:
        connections.close_all()


def test_batches_do_not_stop_half_way(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(growth, "BATCH", 3)
    salon = linked()
    for number in range(10):
        add_token(salon, str(number), {"token": TOKEN, "timestamp": "1"})
    assert growth.prune() == {"tctoken": 10}
    assert names(salon) == set()


def test_one_process_at_a_time_keeps_house():
    salon = linked()
    add_token(salon, "1", {"token": TOKEN, "timestamp": "1"})
    with ThreadPoolExecutor(1) as thread:
        with transaction.atomic(), connection.cursor() as cursor:
            cursor.execute("SELECT pg_advisory_xact_lock(%s)", [growth.LOCK])
            assert thread.submit(_pruned).result() == {}
        assert thread.submit(_pruned).result() == {"tctoken": 1}


def test_keys_without_creds_go_when_an_operator_asks():
    orphan, other = linked(factories.make_keys()), linked(factories.make_keys())
    WhatsAppAuth.objects.filter(company_id=orphan.session_id).delete()
    types = {key_type: 1 for key_type, _name in factories.make_keys()}
    before = size(orphan)
    assert growth.prune_orphans(dry_run=True) == types
    assert size(orphan) == size(other) == before == len(types)
    assert growth.prune_orphans() == types
    assert size(orphan) == 0
    assert size(other) == before
    assert growth.prune_orphans() == {}


def size(salon: Salon) -> int:
    return WhatsAppKey.objects.filter(company_id=salon.session_id).count()


def test_keys_of_a_phone_that_is_linked_meanwhile_are_no_orphans(
    monkeypatch: pytest.MonkeyPatch,
):
    salon = linked(factories.make_keys())
    WhatsAppAuth.objects.filter(company_id=salon.session_id).delete()
    creds = json.dumps(factories.make_creds())
    keys = json.dumps([{"t": "pre-key", "i": "1", "v": {"new": 1}}])
    locked = sessions.locked

    def link_first(of: Salon) -> Any:
        monkeypatch.setattr(sessions, "locked", locked)
        with locked(of):
            credentials.swap(of, creds, keys, factories.PHONE)
        return locked(of)

    monkeypatch.setattr(sessions, "locked", link_first)
    assert growth.prune_orphans() == {}
    assert names(salon) == {"1"}


# --- counting -------------------------------------------------------------------------


def grow(salon: Salon, key_type: str, count: int) -> None:
    with connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO whatsapp_keys (company_id, key_type, key_id, value)"
            " SELECT %s, %s, 'g' || n, '{}' FROM generate_series(1, %s) n",
            [salon.session_id, key_type, count],
        )


def counted(salon: Salon, days_ago: int, **by_type: int) -> None:
    day = timezone.now().date() - timedelta(days=days_ago)
    total = sum(by_type.values())
    KeyCount.objects.create(salon=salon, day=day, total=total, by_type=by_type)


def link_was(salon: Salon, days_ago: int) -> None:
    at = timezone.now() - timedelta(days=days_ago)
    WhatsAppAuth.objects.filter(company_id=salon.session_id).update(created_at=at)


def test_each_salon_is_counted_once_a_day():
    salon, empty = linked(factories.make_keys()), linked()
    assert growth.count() == []
    (row,) = KeyCount.objects.all()
    assert (row.salon_id, row.day) == (salon.pk, timezone.now().date())
    assert row.total == len(factories.make_keys())
    assert row.by_type["pre-key"] == 1
    grow(salon, "pre-key", 5000)
    assert growth.count() == [], "not again today"
    assert KeyCount.objects.get().total == row.total
    empty.delete()


def test_abnormal_growth_is_one_error_a_day_with_what_has_grown(
    caplog: pytest.LogCaptureFixture,
):
    salon, calm = linked(), linked()
    for one in (salon, calm):
        link_was(one, 30)
        counted(one, 8, session=9000)
        counted(one, 5, session=300, **{"pre-key": 35})
        counted(one, 1, session=1000)
    grow(salon, "pre-key", 2000)
    grow(salon, "session", 317)
    grow(calm, "session", 1300)
    (growing,) = growth.count()
    assert growing == growth.Growth(
        salon.salon_id, 335, 2317, 5, {"pre-key": 1965, "session": 17}
    )
    (error,) = [one for one in caplog.records if one.levelno >= logging.ERROR]
    assert f"{salon.session_id} has 2317 keys, 5 days ago it had 335" in (
        error.getMessage()
    )
    assert "(pre-key +1965, session +17)" in error.getMessage()
    assert growth.count() == []
    assert len(caplog.records) == 1


@pytest.mark.parametrize(("linked_days_ago", "named"), [(0, 0), (5, 0), (6, 1)])
def test_the_keys_of_a_fresh_link_are_no_growth(linked_days_ago: int, named: int):
    salon = linked()
    link_was(salon, linked_days_ago)
    counted(salon, 5, **{"pre-key": 2})
    grow(salon, "pre-key", 1812)
    assert len(growth.count()) == named


@pytest.mark.parametrize(
    ("before", "now", "named"),
    [(335, 1335, 0), (335, 1336, 1), (1500, 3000, 0), (1500, 3001, 1)],
)
def test_the_thresholds(before: int, now: int, named: int):
    salon = linked()
    link_was(salon, 30)
    counted(salon, 7, session=before)
    grow(salon, "session", now)
    assert len(growth.count()) == named


def test_old_counts_are_forgotten():
    salon = linked()
    counted(salon, growth.KEEP_DAYS + 1, session=1)
    counted(salon, growth.KEEP_DAYS, session=1)
    growth.count()
    assert KeyCount.objects.count() == 1


def test_many_processes_count_once():
    salon = linked(factories.make_keys())

    def count(_process: int) -> None:
        try:
            growth.count()
        finally:
            connections.close_all()

    with ThreadPoolExecutor(8) as processes:
        list(processes.map(count, range(16)))
    growth.count()
    assert KeyCount.objects.get().salon_id == salon.pk
