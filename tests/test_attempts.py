"""Link attempts: what the gateway says of them, their clocks, and their rows."""

from datetime import timedelta

import pytest
from django.db import IntegrityError, transaction
from django.db.models.functions import Now

from tests.factories import (
    OTHER_PHONE,
    PHONE,
    QR,
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
    stored_rows,
)
from tests.pairing_world import linked_salon, make_overdue
from whatsapp import statuses
from whatsapp.errors import ErrorCode, WhatsAppError
from whatsapp.models import (
    ArchivedCredentials,
    AuditEvent,
    PairingAttempt,
    WhatsAppSession,
)
from whatsapp.services import attempts, credentials, pairing, sessions

pytestmark = pytest.mark.django_db


# --- the gateway's words --------------------------------------------------------------


def test_a_code_is_shown_with_its_dash_and_the_link_clock(settings):
    settings.WHATSAPP_LINK_TIMEOUT = 160
    salon = make_salon()
    pairing.request_code(salon, PHONE, "page")
    show_code(salon, "ABCD1234")
    attempt = snapshot(salon)["attempt"]
    assert (attempt["stage"], attempt["code"]) == ("shown", "ABCD-1234")
    assert attempt["expires_in"] == pytest.approx(160, abs=2)


def test_a_late_code_changes_nothing():
    salon = make_salon()
    pairing.request_code(salon, PHONE, "page")
    attempt_id, epoch = begin(salon)
    make_overdue(open_attempt(salon))
    attempts.expire_overdue()
    assert not attempts.record_code(salon, attempt_id, epoch, "ABCD1234")
    assert last_attempt(salon).code == ""
    assert last_attempt(salon).error == "PAIRING_TIMEOUT"


def test_a_second_code_for_one_attempt_is_refused():
    salon = make_salon()
    pairing.request_code(salon, PHONE, "page")
    attempt_id, epoch = show_code(salon)
    assert not attempts.record_code(salon, attempt_id, epoch, "ZZZZ9999")
    assert open_attempt(salon).code == "ABCD-1234"


def test_a_qr_attempt_takes_no_code_and_a_code_attempt_no_qr():
    salon = make_salon()
    pairing.request_qr(salon, "page")
    attempt_id, epoch = begin(salon)
    assert not attempts.record_code(salon, attempt_id, epoch, "ABCD1234")
    pairing.request_code(salon, PHONE, "page")
    attempt_id, epoch = begin(salon)
    assert not attempts.record_qr(salon, attempt_id, epoch, QR, 60)


def test_qrs_follow_each_other_within_one_link_clock():
    salon = make_salon()
    pairing.request_qr(salon, "page")
    attempt_id, epoch = show_qr(salon)
    deadline = open_attempt(salon).deadline
    assert attempts.record_qr(salon, attempt_id, epoch, QR + "second", 20)
    attempt = open_attempt(salon)
    assert (attempt.qr, attempt.deadline) == (QR + "second", deadline)
    confirm(salon, attempt_id, epoch)
    assert not attempts.record_qr(salon, attempt_id, epoch, QR + "third", 20)
    assert open_attempt(salon).qr == ""


def test_words_under_another_epoch_change_nothing():
    salon = make_salon()
    pairing.request_code(salon, PHONE, "page")
    attempt_id, epoch = begin(salon)
    before = snapshot(salon)["revision"]
    for wrong in (epoch - 1, epoch + 1):
        assert not attempts.record_code(salon, attempt_id, wrong, "ABCD1234")
        assert not attempts.record_entered(salon, attempt_id, wrong)
        assert not confirm(salon, attempt_id, wrong)
        assert not attempts.record_open(salon, wrong, PHONE)
        assert not attempts.fail(
            salon, attempt_id, wrong, ErrorCode.PAIRING_CODE_FAILED
        )
        assert not attempts.refuse_link(salon, wrong, "401")
    assert snapshot(salon)["revision"] == before
    assert stored_rows(salon) == (None, {})


def test_the_words_of_an_owner_that_was_replaced_change_nothing():
    salon = make_salon()
    pairing.request_code(salon, PHONE, "page")
    attempt_id, epoch = show_code(salon)
    claim(salon, "gateway-b")
    assert not attempts.record_entered(salon, attempt_id, epoch)
    assert not confirm(salon, attempt_id, epoch)
    assert not attempts.fail(salon, attempt_id, epoch, ErrorCode.WHATSAPP_UNREACHABLE)
    assert stored_rows(salon) == (None, {})


def test_an_entered_code_is_told_until_the_link_is_confirmed(settings):
    settings.WHATSAPP_FINISH_TIMEOUT = 30
    salon = make_salon()
    pairing.request_code(salon, PHONE, "page")
    attempt_id, epoch = show_code(salon)
    assert attempts.record_entered(salon, attempt_id, epoch)
    assert open_attempt(salon).stage == "entered"
    assert confirm(salon, attempt_id, epoch)
    attempt = snapshot(salon)["attempt"]
    assert (attempt["stage"], attempt["code"]) == ("finishing", "")
    assert attempt["expires_in"] == pytest.approx(30, abs=2)
    assert not attempts.record_entered(salon, attempt_id, epoch)


@pytest.mark.parametrize("meanwhile", ["nothing", "stopped"])
def test_who_was_not_answered_hears_that_the_device_is_stored(meanwhile):
    """Else he would unlink a device whose creds are kept."""
    salon = make_salon()
    pairing.request_code(salon, PHONE, "page")
    attempt_id, epoch = show_code(salon)
    assert confirm(salon, attempt_id, epoch)
    stored = stored_rows(salon)
    if meanwhile == "stopped":
        sessions.disconnect(salon, "staff")
    assert confirm(salon, attempt_id, epoch)
    assert stored_rows(salon) == stored
    assert not confirm(salon, attempt_id, epoch, OTHER_PHONE), "another device is not"
    sessions.reset(salon, "staff")
    assert not confirm(salon, attempt_id, epoch), "nor one that was forgotten"


def test_a_link_ends_open_and_linked():
    salon = make_salon()
    link(salon)
    salon.refresh_from_db()
    assert (salon.session.status, salon.session.phone) == ("open", PHONE)
    assert salon.session.last_alive_at is not None
    attempt = last_attempt(salon)
    assert (attempt.stage, attempt.linked_phone, attempt.code) == ("linked", PHONE, "")


def test_a_code_for_one_phone_that_another_enters_is_refused():
    salon = make_salon()
    pairing.request_code(salon, PHONE, "page")
    attempt_id, epoch = show_code(salon)
    with pytest.raises(WhatsAppError) as refused:
        confirm(salon, attempt_id, epoch, OTHER_PHONE)
    assert refused.value.code == "WRONG_PHONE_LINKED"
    assert last_attempt(salon).error == "WRONG_PHONE_LINKED"
    assert stored_rows(salon) == (None, {})


def test_a_brazilian_phone_may_come_back_without_its_ninth_digit():
    salon = make_salon()
    pairing.request_code(salon, "5511987654321", "page")
    attempt_id, epoch = show_code(salon)
    assert confirm(salon, attempt_id, epoch, "551187654321")


def test_another_phone_than_expected_is_linked_and_told():
    salon = make_salon(expected_phone=OTHER_PHONE)
    pairing.request_qr(salon, "page")
    attempt_id, epoch = show_qr(salon)
    assert confirm(salon, attempt_id, epoch)
    _attempt, epoch = begin(salon)
    attempts.record_open(salon, epoch, PHONE)
    for _ in range(2):  # also after a reconnect
        state = snapshot(salon)
        assert (state["status"], state["reason"]) == ("open", "WRONG_PHONE_LINKED")
        assert statuses.payload(state)["action"] == "reset-whatsapp-credentials"
        attempts.record_open(salon, epoch, PHONE)
    assert AuditEvent.objects.filter(action="phone_mismatch_cleanup").exists()


def test_another_phone_than_stored_is_a_mismatch():
    salon = linked_salon(status="reconnecting")
    pairing.request_qr(salon, "page")
    attempt_id, epoch = show_qr(salon)
    assert confirm(salon, attempt_id, epoch, OTHER_PHONE)
    assert AuditEvent.objects.filter(action="phone_mismatch_cleanup").count() == 1


def test_an_old_session_that_opens_does_not_answer_a_request_for_a_code():
    salon = linked_salon(status="connecting")
    epoch = claim(salon)
    pairing.request_code(salon, OTHER_PHONE, "page")
    assert attempts.record_open(salon, epoch, PHONE)
    assert open_attempt(salon).phone == OTHER_PHONE
    assert status_of(salon) == "pairing"


def test_a_refused_first_login_brings_the_old_link_back():
    salon = linked_salon()
    pairing.request_code(salon, OTHER_PHONE, "page")
    attempt_id, epoch = show_code(salon)
    confirm(salon, attempt_id, epoch, OTHER_PHONE)
    assert attempts.refuse_link(salon, epoch, "401")
    assert stored_rows(salon) == (make_creds(), make_keys())
    assert (last_attempt(salon).stage, last_attempt(salon).error) == (
        "failed",
        "PAIRING_CODE_FAILED",
    )
    assert status_of(salon) == "reconnecting"
    assert salon.session.phone == PHONE
    assert salon.session.epoch > epoch
    assert not attempts.refuse_link(salon, salon.session.epoch, "401")


def test_a_refused_first_login_brings_nothing_older_back():
    salon = linked_salon()
    with sessions.locked(salon):
        credentials.archive(salon, "replaced")
    ArchivedCredentials.objects.update(archived_at=Now() - timedelta(days=1))
    pairing.request_code(salon, OTHER_PHONE, "page")
    attempt_id, epoch = show_code(salon)
    confirm(salon, attempt_id, epoch, OTHER_PHONE)
    assert attempts.refuse_link(salon, epoch, "401")
    assert stored_rows(salon) == (None, {})
    assert status_of(salon) == "unlinked"


def test_an_attempt_that_failed_once_cannot_fail_again():
    salon = make_salon()
    pairing.request_code(salon, PHONE, "page")
    attempt_id, epoch = begin(salon)
    assert attempts.fail(salon, attempt_id, epoch, ErrorCode.PHONE_NOT_ON_WHATSAPP)
    assert not attempts.fail(salon, attempt_id, epoch, ErrorCode.PAIRING_TIMEOUT)
    assert not attempts.fail(salon, attempt_id, None, ErrorCode.PAIRING_TIMEOUT)
    state = snapshot(salon)
    assert (state["status"], state["reason"]) == ("unlinked", "PHONE_NOT_ON_WHATSAPP")


# --- clocks without a gateway ---------------------------------------------------------


@pytest.mark.parametrize(
    ("stage", "outcome"),
    [
        ("requested", ("failed", "PAIRING_TIMEOUT")),
        ("shown", ("expired", "CODE_EXPIRED")),
        ("entered", ("expired", "CODE_EXPIRED")),
        ("finishing", ("failed", "WHATSAPP_UNREACHABLE")),
    ],
)
def test_every_stage_ends_by_its_deadline_without_any_gateway(stage, outcome):
    salon = make_salon()
    pairing.request_code(salon, PHONE, "page")
    if stage != "requested":
        attempt_id, epoch = show_code(salon)
        if stage == "entered":
            attempts.record_entered(salon, attempt_id, epoch)
        if stage == "finishing":
            confirm(salon, attempt_id, epoch)
    assert attempts.expire_overdue() == []
    make_overdue(open_attempt(salon))
    assert attempts.expire_overdue() == [salon.pk]
    assert (last_attempt(salon).stage, last_attempt(salon).error) == outcome
    linked = stage == "finishing"
    assert status_of(salon) == ("reconnecting" if linked else "unlinked")
    assert (stored_rows(salon)[0] is not None) is linked
    assert attempts.expire_overdue() == []


def test_a_qr_that_no_page_looks_at_is_cancelled_without_an_error():
    salon = make_salon()
    pairing.page_opened(salon, "page")
    show_qr(salon)
    assert attempts.cancel_unwatched(120) == []
    WhatsAppSession.objects.update(watched_at=Now() - timedelta(seconds=121))
    assert attempts.cancel_unwatched(120) == [salon.pk]
    assert (last_attempt(salon).stage, last_attempt(salon).error) == ("cancelled", "")
    assert status_of(salon) == "unlinked"


def test_codes_and_qrs_of_others_are_not_cancelled_when_the_page_is_away():
    by_code, by_operator = make_salon(), make_salon()
    pairing.request_code(by_code, PHONE, "page")
    show_code(by_code)
    pairing.request_qr(by_operator, "operator")
    show_qr(by_operator)
    WhatsAppSession.objects.update(watched_at=Now() - timedelta(hours=1))
    assert attempts.cancel_unwatched(120) == []


# --- promises of the database ---------------------------------------------------------


def _attempt(salon, **fields):
    return PairingAttempt(
        salon=salon,
        **{"kind": "qr", "deadline": Now() + timedelta(seconds=20), **fields},
    )


@pytest.mark.parametrize(
    "fields",
    [
        {"kind": "code", "phone": ""},
        {"kind": "code", "phone": "+79001234567"},
        {"kind": "qr", "phone": PHONE},
        {"stage": "linked"},
        {"stage": "unheard"},
        {"stage": "shown", "finished_at": Now()},
        {"stage": "failed", "finished_at": Now(), "code": "ABCD-1234"},
        {"stage": "failed", "finished_at": Now(), "qr": QR},
        {"deadline": None},
    ],
)
def test_an_attempt_that_makes_no_sense_cannot_be_stored(fields):
    salon = make_salon()
    with pytest.raises(IntegrityError), transaction.atomic():
        _attempt(salon, **fields).save()


def test_two_unfinished_attempts_of_a_salon_cannot_be_stored():
    salon = make_salon()
    _attempt(salon).save()
    with (
        pytest.raises(IntegrityError, match="one_unfinished_attempt"),
        transaction.atomic(),
    ):
        _attempt(salon).save()
    _attempt(salon, stage="failed", finished_at=Now()).save()


def test_two_unfinished_codes_for_a_phone_cannot_be_stored():
    _attempt(make_salon(), kind="code", phone=PHONE).save()
    with (
        pytest.raises(IntegrityError, match="one_unfinished_code"),
        transaction.atomic(),
    ):
        _attempt(make_salon(), kind="code", phone=PHONE).save()
