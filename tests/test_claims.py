"""Who runs a session, and for how long that is believed."""

from datetime import timedelta

import pytest
from django.db.models.functions import Now
from django.utils import timezone

from tests.factories import (
    OTHER_PHONE,
    OWNER,
    PHONE,
    claim,
    last_attempt,
    link,
    linked_as,
    make_creds,
    make_salon,
    open_attempt,
    private_connection,
    show_code,
    show_qr,
    snapshot,
    status_of,
    store_creds,
    work_of,
)
from whatsapp import events, statuses
from whatsapp.models import WhatsAppSession
from whatsapp.services import attempts, claims, pairing, proofs, sessions

pytestmark = pytest.mark.django_db


def _start(salon, epoch, status) -> int:
    started = sessions.start(salon, OWNER, epoch, status)
    assert started is not None
    return started


# --- owner and epoch ------------------------------------------------------------------


def test_a_new_owner_raises_the_epoch_and_shuts_the_old_one_out():
    salon = make_salon()
    epoch = link(salon)
    claim(salon, "gateway-b")
    assert claims.work(salon.pk, OWNER) is None
    assert sessions.start(salon, OWNER, epoch, "connecting") is None
    assert not sessions.record(salon, epoch, "reconnecting", "428")
    claims.give_up([salon.pk], OWNER)
    salon.refresh_from_db()
    assert (salon.session.owner, salon.session.status) == ("gateway-b", "open")


def test_every_socket_has_an_epoch_of_its_own():
    salon = linked_as()
    first = _start(salon, claim(salon), "connecting")
    second = _start(salon, first, "reconnecting")
    assert second == first + 1
    assert not sessions.record(salon, first, "open")
    assert sessions.record(salon, second, "open", phone=PHONE)


def test_no_socket_starts_for_an_attempt_that_is_over():
    salon = make_salon()
    pairing.request_code(salon, PHONE, "page")
    epoch = claim(salon)
    attempt = open_attempt(salon)
    sessions.disconnect(salon, "page")
    assert sessions.start(salon, OWNER, epoch, "pairing", attempt.pk) is None
    salon.refresh_from_db()
    assert salon.session.epoch == epoch


def test_a_gateway_reads_all_that_it_decides_by():
    salon = make_salon(title="Роза", expected_phone=PHONE)
    store_creds(salon)
    pairing.request_code(salon, OTHER_PHONE, "page")
    epoch = claim(salon)
    work = work_of(salon)
    assert (work.salon, work.salon.title, work.salon.session_id) == (
        salon,
        "Роза",
        salon.session_id,
    )
    assert (work.status, work.wanted, work.epoch, work.wait) == (
        "pairing",
        True,
        epoch,
        0,
    )
    assert (work.creds.linked, work.creds.phone) == (True, PHONE)
    assert (work.attempt.kind, work.attempt.phone) == ("code", OTHER_PHONE)
    assert (work.attempt.stage, work.attempt.epoch) == ("requested", None)
    assert work.attempt.remaining == pytest.approx(20, abs=2)
    assert claims.views(OWNER) == [(salon.pk, epoch, True, work.attempt.id)]


def test_a_wait_is_told_in_seconds():
    salon = linked_as()
    epoch = _start(salon, claim(salon), "connecting")
    sessions.record(salon, epoch, "replaced", "440", retry_in=60)
    assert work_of(salon).wait == pytest.approx(60, abs=2)


def _salon_with(status, *, linked=True, wanted=True, retry_in=None):
    salon = make_salon()
    if linked:
        store_creds(salon)
    retry_at = None if retry_in is None else Now() + timedelta(seconds=retry_in)
    WhatsAppSession.objects.filter(salon=salon).update(
        status=status, wanted=wanted, retry_at=retry_at
    )
    return salon


@pytest.mark.parametrize(
    ("wants", "kind"),
    [
        (True, {"status": "unlinked"}),  # an adopted salon: creds and nothing else
        (True, {"status": "open"}),  # its gateway died
        (True, {"status": "open", "wanted": False}),
        (True, {"status": "pairing", "linked": False}),
        (True, {"status": "needs_attention", "retry_in": -1}),
        (True, {"status": "outdated"}),
        (False, {"status": "needs_attention", "retry_in": 60}),
        (False, {"status": "replaced", "retry_in": 60}),
        (False, {"status": "banned"}),
        (False, {"status": "stopped", "wanted": False}),
        (False, {"status": "unlinked", "linked": False}),
        (False, {"status": "logged_out", "linked": False}),
    ],
)
def test_a_salon_wants_a_gateway_only_if_there_is_something_to_do(wants, kind):
    salon = _salon_with(**kind)
    assert claims.candidates(10) == ([salon.pk] if wants else [])


def test_half_paired_creds_want_no_gateway():
    salon = _salon_with("unlinked", linked=False)
    store_creds(salon, make_creds(linked=False))
    assert claims.candidates(10) == []


def test_salons_with_an_attempt_come_first():
    linked, asking = _salon_with("unlinked"), make_salon()
    pairing.request_qr(asking, "page")
    assert claims.candidates(10) == [asking.pk, linked.pk]
    assert claims.candidates(1) == [asking.pk]


@pytest.fixture
def other_connection():
    """A gateway's private connection."""
    with private_connection() as private:
        yield private


def test_a_salon_whose_lock_is_held_wants_no_other_gateway(other_connection):
    salon, free = _salon_with("open"), _salon_with("open")
    other_connection.execute(
        "SELECT pg_advisory_lock(%s, %s)", (claims.LOCK_CLASS, salon.pk)
    )
    assert claims.candidates(10) == [free.pk]
    assert proofs.demote_unowned() == [free.pk]
    assert (status_of(salon), status_of(free)) == ("open", "reconnecting")
    other_connection.execute("SELECT pg_advisory_unlock_all()")
    assert claims.candidates(10) == [salon.pk, free.pk]


# --- proof of life, and pages ---------------------------------------------------------


def test_proofs_of_life_are_stored_with_their_age():
    salon, silent = make_salon(), make_salon()
    proofs.record({salon.pk: 12.0, 10**6: 1.0})
    salon.refresh_from_db()
    assert salon.session.last_alive_at is not None
    age = timezone.now() - salon.session.last_alive_at
    assert age.total_seconds() == pytest.approx(12, abs=3)
    silent.refresh_from_db()
    assert silent.session.last_alive_at is None
    proofs.record({})


def test_nobody_reads_open_where_nothing_was_proved_for_long():
    proved, silent, never = (_salon_with("open") for _ in range(3))
    proofs.record({proved.pk: 30.0, silent.pk: 91.0})
    before = events.revisions([silent.pk])
    assert proofs.demote_silent() == [silent.pk]
    assert [status_of(salon) for salon in (proved, silent, never)] == [
        "open",
        "degraded",
        "open",
    ]
    assert silent.session.reason == "silent"
    assert events.revisions([silent.pk]) != before
    assert proofs.demote_silent() == []
    assert statuses.payload(snapshot(silent))["proofAge"] >= 91


def test_a_proof_of_life_makes_a_silent_session_open_again():
    salon, stopped = _salon_with("degraded"), _salon_with("stopped")
    before = events.revisions([salon.pk])
    assert proofs.record({salon.pk: 1.0, stopped.pk: 1.0}) == [salon.pk]
    assert (status_of(salon), status_of(stopped)) == ("open", "stopped")
    assert events.revisions([salon.pk]) != before
    assert statuses.payload(snapshot(salon), age=3)["proofAge"] in (4, 5)
    assert statuses.payload(snapshot(stopped))["proofAge"] is None


def test_what_a_gateway_has_closed_is_not_called_connected_and_anybodys():
    kept, lost, trying, others = (
        _salon_with(status) for status in ("open", "open", "reconnecting", "open")
    )
    claims.take_over([kept.pk, lost.pk, trying.pk], OWNER)
    claims.take_over([others.pk], "gateway-b")
    assert claims.settle_lost(OWNER, [kept.pk]) == [lost.pk]
    assert (status_of(lost), lost.session.reason) == ("reconnecting", "1010")
    assert [status_of(one) for one in (kept, others)] == ["open", "open"]
    for salon, owner in (
        (kept, OWNER),
        (lost, ""),
        (trying, ""),
        (others, "gateway-b"),
    ):
        salon.refresh_from_db()
        assert salon.session.owner == owner


def test_codes_end_with_the_sockets_that_they_lived_on():
    shown, asked, qr, other = (make_salon() for _ in range(4))
    for salon, phone in ((shown, PHONE), (asked, OTHER_PHONE), (other, "79005550000")):
        pairing.request_code(salon, phone, "page")
    pairing.request_qr(qr, "page")
    show_code(shown)
    show_code(other)
    show_qr(qr)
    assert attempts.end_shown_codes([shown.pk, asked.pk, qr.pk]) == [shown.pk]
    assert (last_attempt(shown).stage, last_attempt(shown).error) == (
        "expired",
        "CODE_EXPIRED",
    )
    assert [last_attempt(one).stage for one in (asked, qr, other)] == [
        "requested",
        "shown",
        "shown",
    ]


def test_pages_that_are_open_are_noted_without_a_new_revision():
    salon = make_salon()
    before = events.revisions([salon.pk])
    sessions.watch([salon.pk])
    salon.refresh_from_db()
    assert salon.session.watched_at is not None
    assert events.revisions([salon.pk]) == before


@pytest.mark.django_db(transaction=True)
def test_a_busy_row_keeps_nobody_waiting(other_connection):
    salon, free = make_salon(), make_salon()
    with other_connection.transaction():
        other_connection.execute(
            "SELECT 1 FROM whatsapp_whatsappsession WHERE salon_id = %s FOR UPDATE",
            (salon.pk,),
        )
        sessions.watch([salon.pk, free.pk])
        proofs.record({salon.pk: 1.0, free.pk: 1.0})
    salon.refresh_from_db()
    free.refresh_from_db()
    assert salon.session.watched_at is None
    assert free.session.watched_at is not None
    assert free.session.last_alive_at is not None
