"""What is wanted of a session, who runs it, and what is true of it."""

import json
from datetime import timedelta
from typing import Any

import psycopg
import pytest
from django.contrib.auth.models import AnonymousUser, User
from django.db import IntegrityError, OperationalError, connection, transaction
from django.db.models.functions import Now
from django.utils import timezone

from tests.factories import (
    OTHER_PHONE,
    OWNER,
    PHONE,
    begin,
    claim,
    confirm,
    last_attempt,
    link,
    make_creds,
    make_keys,
    make_salon,
    open_attempt,
    show_code,
    show_qr,
    snapshot,
    status_of,
    store_creds,
    stored_rows,
)
from whatsapp import events, statuses
from whatsapp.models import AuditEvent, Membership, Salon, WhatsAppSession
from whatsapp.services import attempts, claims, pairing, proofs, salons, sessions

pytestmark = pytest.mark.django_db


def _linked_salon(status="stopped", **fields):
    salon = make_salon()
    store_creds(salon)
    WhatsAppSession.objects.filter(salon=salon).update(
        status=status, **{"phone": PHONE, **fields}
    )
    salon.refresh_from_db()
    return salon


def _work(salon) -> Any:
    return claims.work(salon.pk, OWNER)


def _start(salon, epoch, status) -> int:
    started = sessions.start(salon, OWNER, epoch, status)
    assert started is not None
    return started


# --- wishes ---------------------------------------------------------------------------


def test_a_stopped_session_is_wished_to_run_again():
    salon = _linked_salon(wanted=False, retry_at=Now() + timedelta(hours=1))
    sessions.connect(salon, "staff")
    assert status_of(salon) == "connecting"
    assert (salon.session.wanted, salon.session.retry_at) == (True, None)
    assert claims.candidates(10) == [salon.pk]
    assert AuditEvent.objects.get(salon=salon).action == "connect"


def test_a_wish_to_run_undoes_a_stop_that_is_not_carried_out_yet():
    salon = _linked_salon("open", owner=OWNER)
    sessions.disconnect(salon, "staff")
    sessions.connect(salon, "staff")
    work = _work(salon)
    assert (work.wanted, work.status) == (True, "open")


def test_an_unlinked_salon_has_nothing_to_run():
    salon = make_salon()
    sessions.connect(salon, "staff")
    assert status_of(salon) == "unlinked"
    assert claims.candidates(10) == []


def test_to_connect_cleans_half_paired_creds_up():
    salon = make_salon()
    store_creds(salon, make_creds(linked=False))
    sessions.connect(salon, "staff")
    assert stored_rows(salon) == (None, {})


def test_a_session_without_owner_stops_at_once():
    salon = _linked_salon("reconnecting")
    sessions.disconnect(salon, "staff")
    assert status_of(salon) == "stopped"
    assert claims.candidates(10) == []
    assert stored_rows(salon) == (make_creds(), make_keys())


def test_a_session_that_waits_for_a_retry_stops_at_once():
    salon = _linked_salon("needs_attention", owner=OWNER)
    sessions.disconnect(salon, "staff")
    assert status_of(salon) == "stopped"


def test_a_running_session_is_stopped_by_its_owner():
    salon = _linked_salon("open", owner=OWNER)
    sessions.disconnect(salon, "staff")
    assert status_of(salon) == "open"
    assert _work(salon).wanted is False
    sessions.record_stopped(salon, "gateway-b")
    assert status_of(salon) == "open"
    sessions.record_stopped(salon, OWNER)
    assert status_of(salon) == "stopped"


def test_to_disconnect_ends_an_attempt_without_an_error():
    salon = make_salon()
    pairing.request_code(salon, PHONE, "page")
    show_code(salon)
    sessions.disconnect(salon, "page")
    attempt = last_attempt(salon)
    assert (attempt.stage, attempt.error, attempt.code) == ("cancelled", "", "")
    assert status_of(salon) == "unlinked"


def test_an_attempt_that_was_asked_for_meanwhile_is_not_settled_away():
    salon = make_salon()
    claim(salon)
    pairing.request_qr(salon, "page")
    sessions.record_stopped(salon, OWNER)
    assert status_of(salon) == "pairing"


# --- reset ----------------------------------------------------------------------------


def test_a_reset_forgets_creds_keys_and_attempts_at_once():
    salon, neighbour = make_salon(), make_salon()
    link(salon)
    link(neighbour, OTHER_PHONE)
    pairing.request_code(salon, "79005556677", "page")
    sessions.reset(salon, "page")
    assert stored_rows(salon) == (None, {})
    assert open_attempt(salon) is None
    assert last_attempt(salon).stage == "cancelled"
    assert status_of(salon) == "unlinked"
    assert (salon.session.phone, salon.session.wanted) == ("", True)
    assert stored_rows(neighbour) == (make_creds(OTHER_PHONE), make_keys())
    assert status_of(neighbour) == "open"


def test_a_reset_works_without_a_gateway_and_as_often_as_one_likes():
    salon = make_salon()
    for times in range(1, 4):
        sessions.reset(salon, "operator")
        assert snapshot(salon)["resets"] == times
    assert AuditEvent.objects.filter(salon=salon, action="reset").count() == 3
    assert status_of(salon) == "unlinked"


def test_after_a_reset_the_old_socket_may_say_goodbye_and_nothing_else():
    salon = make_salon()
    epoch = link(salon)
    sessions.reset(salon, "page")
    work = _work(salon)
    assert (work.unlink_epoch, work.creds.linked) == (epoch, False)
    assert work.epoch > epoch
    assert not sessions.record(salon, epoch, "open")
    assert not sessions.record_logged_out(salon, epoch, "401")
    assert not attempts.record_open(salon, epoch, PHONE)
    assert sessions.start(salon, OWNER, epoch, "connecting") is None
    assert status_of(salon) == "unlinked"


def test_a_session_that_nobody_runs_has_nobody_to_say_goodbye():
    salon = _linked_salon()
    sessions.reset(salon, "operator")
    salon.refresh_from_db()
    assert salon.session.unlink_epoch is None


def test_a_salon_links_again_after_a_reset():
    salon = make_salon()
    link(salon)
    sessions.reset(salon, "page")
    link(salon, OTHER_PHONE)
    assert stored_rows(salon)[0] == make_creds(OTHER_PHONE)
    assert salon.archive.count() == 0


def test_a_logout_that_whatsapp_confirmed_archives_the_link():
    salon = make_salon()
    epoch = link(salon)
    assert sessions.record_logged_out(salon, epoch, "401")
    assert stored_rows(salon) == (None, {})
    assert salon.archive.get().reason == "logged_out"
    assert status_of(salon) == "logged_out"
    assert not sessions.record_logged_out(salon, epoch, "401")
    assert not sessions.record(salon, epoch, "reconnecting")
    pairing.page_opened(salon, "page")
    assert open_attempt(salon).kind == "qr"


@pytest.mark.parametrize(
    "reason", ["428", "408", "500", "503", "440", "unknown", "engine_gone"]
)
def test_no_disconnect_destroys_creds(reason):
    salon = make_salon()
    epoch = link(salon)
    assert sessions.record(salon, epoch, "reconnecting", reason, retry_in=5)
    assert stored_rows(salon) == (make_creds(), make_keys())
    state = snapshot(salon)
    assert (state["status"], state["reason"]) == ("reconnecting", reason)


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
    salon = _linked_salon()
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
    work = _work(salon)
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
    salon = _linked_salon()
    epoch = _start(salon, claim(salon), "connecting")
    sessions.record(salon, epoch, "replaced", "440", retry_in=60)
    assert _work(salon).wait == pytest.approx(60, abs=2)


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
    settings = connection.settings_dict
    with psycopg.connect(
        host=settings["HOST"],
        port=settings["PORT"],
        user=settings["USER"],
        password=settings["PASSWORD"],
        dbname=settings["NAME"],
        autocommit=True,
    ) as private:
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


# --- what pages see -------------------------------------------------------------------


def test_everything_that_a_page_can_see_raises_the_revision():
    salon = make_salon()
    seen = [snapshot(salon)]

    def look():
        seen.append(snapshot(salon))

    pairing.request_code(salon, PHONE, "page")
    look()
    attempt_id, epoch = show_code(salon)
    look()
    attempts.record_entered(salon, attempt_id, epoch)
    look()
    confirm(salon, attempt_id, epoch)
    look()
    _attempt, epoch = begin(salon)
    attempts.record_open(salon, epoch, PHONE)
    look()
    sessions.record(salon, epoch, "reconnecting", "428")
    look()
    sessions.reset(salon, "page")
    look()
    pairing.request_qr(salon, "page")
    look()
    show_qr(salon)
    look()
    revisions = [state["revision"] for state in seen]
    assert revisions == sorted(set(revisions))


def test_a_snapshot_is_json():
    salon = make_salon()
    pairing.request_qr(salon, "page")
    show_qr(salon)
    state = snapshot(salon)
    assert json.loads(json.dumps(state)) == state


def test_since_changes_only_with_the_status():
    salon = make_salon()
    epoch = link(salon)
    WhatsAppSession.objects.update(since=Now() - timedelta(days=1))
    before = snapshot(salon)["since"]
    sessions.record(salon, epoch, "open")
    assert snapshot(salon)["since"] == before
    sessions.record(salon, epoch, "reconnecting")
    assert snapshot(salon)["since"] > before


@pytest.mark.parametrize("status", list(WhatsAppSession.Status))
@pytest.mark.parametrize("reason", ["", "428", "CODE_EXPIRED"])
def test_every_status_has_words_for_people(status, reason):
    salon = make_salon()
    with sessions.locked(salon) as session:
        sessions.set_status(session, status, reason)
    data = statuses.payload(snapshot(salon))
    assert data["status"] == status
    assert data["message"]
    assert data["action"] in (
        None,
        events.REQUEST_QR,
        events.REQUEST_PAIRING_CODE,
        events.RESET_CREDENTIALS,
    )


# --- promises of the database ---------------------------------------------------------


@pytest.mark.parametrize(
    "fields",
    [{"status": "unheard"}, {"phone": "+79001234567"}, {"phone": "79"}, {"epoch": -1}],
)
def test_a_session_that_makes_no_sense_cannot_be_stored(fields):
    salon = make_salon()
    with pytest.raises(IntegrityError), transaction.atomic():
        WhatsAppSession.objects.filter(salon=salon).update(**fields)


def test_a_salon_has_a_positive_number_of_its_own():
    salon = make_salon()
    for fields in (
        {"salon_id": 0},
        {"salon_id": salon.salon_id},
        {"expected_phone": "+7"},
    ):
        with pytest.raises(IntegrityError), transaction.atomic():
            Salon.objects.create(**{"salon_id": 987_654, "title": "", **fields})


# --- salons ---------------------------------------------------------------------------


def test_a_salon_is_made_once_and_renamed_after():
    salon = salons.create(55, "Ромашка")
    assert salons.create(55, "Роза") == salon
    assert Salon.objects.get().title == "Роза"
    with pytest.raises(ValueError, match="positive"):
        salons.create(0, "x")


@pytest.mark.parametrize("name", ["55", "company_55", " 55 ", "0055"])
def test_a_salon_is_found_by_both_of_its_names(name):
    salon = salons.create(55, "Ромашка")
    assert salons.find(name) == salon


@pytest.mark.parametrize(
    "name", ["", "56", "company_", "company_x", "x55", "5" * 30, "55\n56"]
)
def test_a_name_that_is_no_salon_finds_none(name):
    salons.create(55, "Ромашка")
    with pytest.raises(Salon.DoesNotExist):
        salons.find(name)


def test_salons_are_fetched_through_whoever_asks():
    ours, theirs = make_salon(), make_salon()
    member = User.objects.create_user("member")
    Membership.objects.create(user=member, salon=ours)
    assert list(Salon.objects.for_user(member)) == [ours]
    assert set(Salon.objects.for_user(User.objects.create_superuser("root"))) == {
        ours,
        theirs,
    }
    assert not Salon.objects.for_user(User.objects.create_user("stranger")).exists()
    assert not Salon.objects.for_user(AnonymousUser()).exists()
    with pytest.raises(IntegrityError), transaction.atomic():
        Membership.objects.create(user=member, salon=ours)


@pytest.mark.django_db(transaction=True)
def test_a_change_stands_although_the_database_goes_before_pages_are_told(monkeypatch):
    salon = _linked_salon()

    def go_away(_pks):
        raise OperationalError("the database is away")

    with monkeypatch.context() as away:
        away.setattr(events, "snapshots", go_away)
        sessions.connect(salon, "staff")
    assert status_of(salon) == "connecting"
