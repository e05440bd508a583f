"""What happened to a salon, in words, page by page; how the whole service is."""

import json
import re
from datetime import timedelta
from pathlib import Path

import pytest
from django.db import connection
from django.db.models.functions import Now
from django.test.utils import CaptureQueriesContext
from django.utils import translation

from tests.admin_world import linked
from tests.factories import (
    OTHER_PHONE,
    PHONE,
    QR,
    confirm,
    link,
    make_salon,
    private_connection,
    show_code,
    show_qr,
)
from whatsapp import services
from whatsapp.models import (
    AuditEvent,
    PairingAttempt,
    Salon,
    StatusChange,
    WhatsAppSession,
)
from whatsapp.services import (
    audit,
    claims,
    pairing,
    reports,
    salons,
    sessions,
    timeline,
    words,
)

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def _in_english():
    with translation.override("en"):
        yield


def _whole(salon: Salon, size: int) -> list[timeline.Entry]:
    entries, older = [], ""
    while True:
        page = timeline.page(salon, older, size)
        entries += page.entries
        older = page.older
        if not older:
            return entries


# --- one story ------------------------------------------------------------------------


def test_a_link_is_told_with_who_when_and_how_it_ended():
    salon, other = make_salon(), make_salon()
    link(salon)
    pairing.request_qr(other, "page")
    told = {(entry.who, entry.what): entry.why for entry in _whole(salon, 50)}
    assert told["the linking page", "Asked for a code for 79***4567"].startswith(
        "linked to 79***4567 after "
    )
    assert told["the service", "A phone was linked"] == "79***4567"
    assert ("the service", "Linking → Connected") in told
    assert ("the linking page", "Asked for a QR") not in told


def test_why_it_failed_is_told_in_words():
    salon = make_salon()
    epoch = link(salon)
    sessions.record(salon, epoch, "reconnecting", "428")
    sessions.record_logged_out(salon, epoch, "401")
    told = {entry.what: entry for entry in _whole(salon, 50)}
    gone = "WhatsApp does not know this device any more (401)"
    assert told["Reconnecting → Logged out"].why.startswith(gone)
    logged_out = told["The phone unlinked itself; the link is in the archive"]
    assert (logged_out.who, logged_out.why) == ("the service", gone)
    lost = told["Connected → Reconnecting"]
    assert lost.why.startswith("WhatsApp closed the connection (428)")
    assert lost.status == "reconnecting"


def test_a_person_is_told_by_his_name():
    salon = make_salon()
    sessions.disconnect(salon, "user:anna")
    assert {entry.who for entry in _whole(salon, 5)} == {"anna"}


def test_no_code_no_qr_and_no_whole_phone_is_told():
    salon = make_salon()
    pairing.request_code(salon, PHONE, "page")
    attempt, epoch = show_code(salon)
    confirm(salon, attempt, epoch)
    pairing.request_qr(other := make_salon(), "page")
    show_qr(other)
    for secret in (PHONE, "ABCD-1234", "ABCD1234", QR, "noiseKey"):
        assert secret not in str(_whole(salon, 50) + _whole(other, 50))


@pytest.mark.parametrize("size", [1, 2, 3, 7])
def test_pages_leave_nothing_out_and_tell_nothing_twice(size):
    salon = make_salon()
    for number in range(4):
        # All of one transaction happened at the same moment.
        sessions.connect(salon, f"user:{number}")
        with sessions.locked(salon) as session:
            sessions.set_status(session, "connecting" if number % 2 else "stopped")
        PairingAttempt.objects.create(
            salon=salon, kind="qr", stage="failed", deadline=Now(), finished_at=Now()
        )
    whole = timeline.page(salon, size=100)
    assert len(whole.entries) == 12
    assert whole.older == ""
    assert _whole(salon, size) == whole.entries
    moments = [entry.at for entry in whole.entries]
    assert moments == sorted(moments, reverse=True)


@pytest.mark.parametrize(
    "word",
    ["", "x", "1-2", "1-9-1", "1-0-99999999999999999999", "9" * 40 + "-0-1", "-"],
)
def test_a_word_that_is_no_place_in_the_story_means_its_beginning(word):
    salon = make_salon()
    sessions.connect(salon, "user:anna")
    assert len(timeline.page(salon, word).entries) == 1


def test_a_page_is_one_query():
    salon = make_salon()
    link(salon)
    with CaptureQueriesContext(connection) as captured:
        timeline.page(salon)
    assert len(captured) == 1


def test_old_changes_of_status_go_and_the_audit_stays():
    salon = make_salon()
    sessions.connect(salon, "user:anna")
    for days in (1, 89, 91, 400):
        StatusChange.objects.create(
            salon=salon, status="open", at=Now() - timedelta(days=days)
        )
    assert timeline.purge() == 2
    assert timeline.purge() == 0
    assert salon.status_changes.count() == 2
    assert salon.audit_events.count() == 1


# --- words ----------------------------------------------------------------------------


def test_everything_that_the_audit_records_has_words():
    code = "\n".join(
        path.read_text() for path in Path(services.__file__).parent.glob("*.py")
    )
    recorded = set(
        re.findall(r'audit\.record\([^"()]*(?:\([^()]*\))?[^"()]*"(\w+)"', code)
    )
    assert len(recorded) > 8
    assert recorded <= dict(words.actions()).keys()


@pytest.mark.parametrize("language", ["ru", "en"])
def test_every_word_is_said_in_both_languages(language):
    with translation.override(language):
        said = [
            *dict(words.actions()).values(),
            *(words.reason(str(code)) for code in (401, 428, 515, 1008, 499)),
            *(words.outcome(outcome) for outcome in sessions.Reconnected),
            *(words.outcome(outcome) for outcome in sessions.Disconnected),
            words.reason("gateway_lost"),
            words.reason("CODE_EXPIRED"),
            words.actor("page"),
        ]
    for sentence in said:
        text = sentence.replace("WhatsApp", "").replace("QR", "")
        assert bool(re.search("[а-яё]", text)) == (language == "ru"), sentence


def test_details_are_told_without_what_only_programs_need():
    salon = make_salon()
    salons.update(
        salon,
        "user:anna",
        title="Роза",
        expected_phone="+7 900 123-45-67",
        shared_phone_allowed=True,
    )
    event = AuditEvent.objects.get()
    assert words.detail(event.detail) == "title, expected phone, shared phone allowed"
    assert PHONE not in json.dumps(event.detail)
    assert words.detail({"before": "staff", "role": "owner", "user": "b"}) == (
        "b; Staff → Owner"
    )
    assert words.detail({"unheard": 1}) == ""


def test_an_unchanged_salon_is_not_recorded():
    salon = make_salon(title="Роза")
    changed = salons.update(
        salon, "x", title="Роза", expected_phone="", shared_phone_allowed=False
    )
    assert changed == []
    assert not AuditEvent.objects.exists()


# --- the whole service ----------------------------------------------------------------


def test_the_overview_counts_every_state():
    linked("open")
    linked("banned", phone=OTHER_PHONE)
    make_salon()
    Salon.objects.create(salon_id=77, title="without a session")
    states = reports.overview().states
    assert {name: count for name, count in states.items() if count} == {
        "open": 1,
        "banned": 1,
        "unlinked": 2,
    }
    assert set(states) == set(WhatsAppSession.Status.values)


@pytest.mark.parametrize(
    ("kind", "status", "since", "alive"),
    [
        ("status", "needs_attention", 0, None),
        ("status", "banned", 0, None),
        ("status", "outdated", 0, None),
        ("status", "replaced", 0, None),
        ("status", "degraded", 0, 100),
        ("status", "logged_out", 6 * 86_400, None),
        ("", "logged_out", 8 * 86_400, None),
        ("slow", "reconnecting", 700, None),
        ("", "reconnecting", 500, None),
        ("slow", "connecting", 700, None),
        ("silent", "open", 700, 200),
        ("silent", "open", 700, None),
        ("", "open", 700, 60),
        ("", "open", 10, None),
        ("", "stopped", 700, None),
        ("", "unlinked", 700, None),
        ("", "pairing", 700, None),
    ],
)
def test_the_overview_says_who_needs_attention_and_what_for(kind, status, since, alive):
    salon = linked(
        status,
        reason="403",
        since=Now() - timedelta(seconds=since),
        last_alive_at=None if alive is None else Now() - timedelta(seconds=alive),
    )
    overview = reports.overview()
    found = [(trouble.salon_pk, trouble.kind) for trouble in overview.troubles]
    assert found == ([(salon.pk, kind)] if kind else [])
    assert overview.trouble_count == len(found)


def _attempt(stage: str, hours: float, took: float = 10, kind: str = "code") -> None:
    moment = Now() - timedelta(hours=hours)
    PairingAttempt.objects.create(
        salon=make_salon(),
        kind=kind,
        phone=PHONE if kind == "code" else "",
        stage=stage,
        deadline=Now(),
        requested_at=moment,
        finished_at=moment + timedelta(seconds=took),
    )


def test_attempts_are_counted_by_outcome_hour_and_day():
    _attempt("linked", 0)
    _attempt("failed", 2)
    _attempt("expired", 2)
    _attempt("superseded", 30)
    _attempt("cancelled", 24 * 20)
    pairing.request_qr(make_salon(), "page")
    overview = reports.overview()
    assert (len(overview.hours), len(overview.days)) == (24, 14)
    assert overview.hours[-1][1] == {"linked": 1, "open": 1}
    assert overview.hours[-3][1] == {"failed": 1, "expired": 1}
    whole = sum((counts.total() for _moment, counts in overview.days), 0)
    assert whole == 5
    assert sum(counts["cancelled"] for _moment, counts in overview.days) == 1


def test_half_of_the_codes_took_at_most_the_median():
    assert reports.overview().median_seconds is None
    for took in (20, 60, 90):
        _attempt("linked", 1, took)
    _attempt("linked", 1, 1000, kind="qr")
    _attempt("failed", 1, 1000)
    _attempt("linked", 24 * 20, 1000)
    overview = reports.overview()
    assert (overview.median_seconds, overview.linked_count) == (60, 3)


def test_a_gateway_that_holds_no_lock_is_gone():
    mine = linked("open", owner="alive", last_alive_at=Now())
    linked("reconnecting", owner="alive", phone=OTHER_PHONE)
    linked("open", owner="dead", phone="79005556677")
    with private_connection() as gateway:
        gateway.execute("SELECT pg_advisory_lock(%s, %s)", (claims.LOCK_CLASS, mine.pk))
        found = {report.name: report for report in reports.overview().gateways}
    assert {name: report.is_gone for name, report in found.items()} == {
        "alive": False,
        "dead": True,
    }
    assert found["alive"].states == {"open": 1, "reconnecting": 1}
    assert found["alive"].oldest_alive is not None
    assert found["dead"].oldest_alive is None


def test_a_word_without_a_salon_may_be_recorded():
    audit.record(None, "user:anna", "bulk_reconnect", salons=3)
    assert words.detail(AuditEvent.objects.get().detail) == "salons: 3"
