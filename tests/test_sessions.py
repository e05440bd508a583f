"""What is wanted of a session, and what is true of it."""

import json
from datetime import timedelta

import pytest
from django.db import IntegrityError, OperationalError, transaction
from django.db.models.functions import Now

from tests.factories import (
    OTHER_PHONE,
    OWNER,
    PHONE,
    begin,
    claim,
    confirm,
    last_attempt,
    link,
    linked_as,
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
    work_of,
)
from whatsapp import events, statuses
from whatsapp.models import AuditEvent, WhatsAppSession
from whatsapp.services import attempts, claims, pairing, sessions

pytestmark = pytest.mark.django_db


# --- wishes ---------------------------------------------------------------------------


def test_a_stopped_session_is_wished_to_run_again():
    salon = linked_as(wanted=False, retry_at=Now() + timedelta(hours=1))
    sessions.connect(salon, "staff")
    assert status_of(salon) == "connecting"
    assert (salon.session.wanted, salon.session.retry_at) == (True, None)
    assert claims.candidates(10) == [salon.pk]
    assert AuditEvent.objects.get(salon=salon).action == "connect"


def test_a_wish_to_run_undoes_a_stop_that_is_not_carried_out_yet():
    salon = linked_as("open", owner=OWNER)
    sessions.disconnect(salon, "staff")
    sessions.connect(salon, "staff")
    work = work_of(salon)
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
    salon = linked_as("reconnecting")
    sessions.disconnect(salon, "staff")
    assert status_of(salon) == "stopped"
    assert claims.candidates(10) == []
    assert stored_rows(salon) == (make_creds(), make_keys())


def test_a_session_that_waits_for_a_retry_stops_at_once():
    salon = linked_as("needs_attention", owner=OWNER)
    sessions.disconnect(salon, "staff")
    assert status_of(salon) == "stopped"


def test_a_running_session_is_stopped_by_its_owner():
    salon = linked_as("open", owner=OWNER)
    sessions.disconnect(salon, "staff")
    assert status_of(salon) == "open"
    assert work_of(salon).wanted is False
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
    work = work_of(salon)
    assert (work.unlink_epoch, work.creds.linked) == (epoch, False)
    assert work.epoch > epoch
    assert not sessions.record(salon, epoch, "open")
    assert not sessions.record_logged_out(salon, epoch, "401")
    assert not attempts.record_open(salon, epoch, PHONE)
    assert sessions.start(salon, OWNER, epoch, "connecting") is None
    assert status_of(salon) == "unlinked"


def test_a_session_that_nobody_runs_has_nobody_to_say_goodbye():
    salon = linked_as()
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


# --- salons ---------------------------------------------------------------------------


@pytest.mark.django_db(transaction=True)
def test_a_change_stands_although_the_database_goes_before_pages_are_told(monkeypatch):
    salon = linked_as()

    def go_away(_pks):
        raise OperationalError("the database is away")

    with monkeypatch.context() as away:
        away.setattr(events, "snapshots", go_away)
        sessions.connect(salon, "staff")
    assert status_of(salon) == "connecting"
