"""Link attempts: each rule of asking, showing, finishing, and of ending in words."""

import json
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
from django.db import IntegrityError, connection, transaction
from django.db.models.functions import Now

from tests.factories import (
    OTHER_PHONE,
    OWNER,
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
    store_creds,
    stored_rows,
)
from whatsapp import statuses
from whatsapp.errors import ErrorCode, WhatsAppError
from whatsapp.models import (
    ArchivedCredentials,
    AuditEvent,
    PairingAttempt,
    WhatsAppSession,
)
from whatsapp.services import attempts, claims, credentials, pairing, proofs, sessions
from whatsapp.services.pairing import Answer

pytestmark = pytest.mark.django_db


def _refused(salon, phone=PHONE):
    with pytest.raises(WhatsAppError) as refused:
        pairing.request_code(salon, phone, "page")
    return refused.value


def _overdue(attempt):
    PairingAttempt.objects.filter(pk=attempt.pk).update(
        deadline=Now() - timedelta(seconds=1)
    )


def _linked_salon(phone=PHONE, status="open", **fields):
    salon = make_salon(**fields)
    store_creds(salon, make_creds(phone))
    with sessions.locked(salon) as session:
        session.phone = phone
        sessions.set_status(session, status)
    return salon


# --- asking ---------------------------------------------------------------------------


def test_a_code_is_asked_for_with_a_deadline(settings):
    settings.WHATSAPP_PAIRING_TIMEOUT = 20
    salon = make_salon()
    assert pairing.request_code(salon, "8 900 123-45-67", "page") is Answer.STARTED
    attempt = open_attempt(salon)
    assert (attempt.kind, attempt.phone, attempt.stage) == ("code", PHONE, "requested")
    assert attempt.deadline - attempt.requested_at == timedelta(seconds=20)
    assert status_of(salon) == "pairing"


@pytest.mark.parametrize(
    ("typed", "code"),
    [
        ("", "PHONE_REQUIRED"),
        (None, "PHONE_REQUIRED"),
        (79001234567, "PHONE_REQUIRED"),
        ("letters", "INVALID_PHONE_FORMAT"),
    ],
)
def test_without_a_phone_nothing_changes(typed, code):
    salon = make_salon()
    before = snapshot(salon)
    assert _refused(salon, typed).code == code
    assert snapshot(salon) == before
    assert not PairingAttempt.objects.exists()


def test_no_salon_falls_back_to_a_configured_phone(monkeypatch):
    monkeypatch.setenv("WHATSAPP_PHONE_NUMBER", PHONE)
    assert _refused(make_salon(), "").code == "PHONE_REQUIRED"


def test_while_a_code_is_on_its_way_another_request_must_wait():
    salon = make_salon()
    pairing.request_code(salon, PHONE, "page")
    for phone in (PHONE, OTHER_PHONE):
        assert _refused(salon, phone).code == "REQUEST_IN_PROGRESS"
    with pytest.raises(WhatsAppError) as refused:
        pairing.request_qr(salon, "page")
    assert refused.value.code == "REQUEST_IN_PROGRESS"
    assert PairingAttempt.objects.filter(salon=salon).count() == 1


def test_the_same_phone_gets_the_same_code_again():
    salon = make_salon()
    pairing.request_code(salon, "5511987654321", "page")
    attempt_id, _epoch = show_code(salon)
    assert pairing.request_code(salon, "551187654321", "page") is Answer.SAME
    assert open_attempt(salon).id == attempt_id
    assert open_attempt(salon).code == "ABCD-1234"


def test_another_phone_supersedes_a_shown_code():
    salon = make_salon()
    pairing.request_code(salon, PHONE, "page")
    first, epoch = show_code(salon)
    assert pairing.request_code(salon, OTHER_PHONE, "page") is Answer.STARTED
    old = PairingAttempt.objects.get(pk=first)
    assert (old.stage, old.error, old.code) == ("superseded", "", "")
    assert open_attempt(salon).phone == OTHER_PHONE
    assert not attempts.record_code(salon, first, epoch, "ZZZZ9999")
    assert not attempts.record_entered(salon, first, epoch)
    assert not confirm(salon, first, epoch)


def test_qr_and_code_change_places_by_one_request():
    salon = make_salon()
    assert pairing.request_qr(salon, "page") is Answer.STARTED
    show_qr(salon)
    assert pairing.request_code(salon, PHONE, "page") is Answer.STARTED
    show_code(salon)
    assert pairing.request_qr(salon, "page") is Answer.STARTED
    assert open_attempt(salon).kind == "qr"
    stages = PairingAttempt.objects.filter(salon=salon).order_by("id")
    assert [attempt.stage for attempt in stages] == [
        "superseded",
        "superseded",
        "requested",
    ]


def test_a_qr_that_nobody_has_shown_yet_gives_way_to_a_code():
    salon = make_salon()
    pairing.page_opened(salon, "page")
    assert pairing.request_code(salon, PHONE, "page") is Answer.STARTED


def test_a_qr_that_goes_on_is_the_same_qr():
    salon = make_salon()
    pairing.request_qr(salon, "page")
    assert pairing.request_qr(salon, "page") is Answer.SAME
    show_qr(salon)
    assert pairing.request_qr(salon, "page") is Answer.SAME
    assert PairingAttempt.objects.filter(salon=salon).count() == 1


def test_while_a_link_finishes_nothing_new_starts():
    salon = make_salon()
    pairing.request_code(salon, PHONE, "page")
    confirm(salon, *show_code(salon))
    assert _refused(salon, OTHER_PHONE).code == "REQUEST_IN_PROGRESS"
    with pytest.raises(WhatsAppError):
        pairing.request_qr(salon, "page")
    assert open_attempt(salon).stage == "finishing"


def test_an_overdue_attempt_does_not_block_the_next_request():
    salon = make_salon()
    pairing.request_code(salon, PHONE, "page")
    first = open_attempt(salon)
    _overdue(first)
    assert pairing.request_code(salon, PHONE, "page") is Answer.STARTED
    first.refresh_from_db()
    assert (first.stage, first.error) == ("failed", "PAIRING_TIMEOUT")


def test_an_overdue_attempt_is_settled_even_if_the_next_request_is_refused():
    salon = _linked_salon()
    _linked_salon(OTHER_PHONE)
    with sessions.locked(salon) as session:
        sessions.set_status(session, "reconnecting")
    pairing.request_code(salon, PHONE, "page")
    _overdue(open_attempt(salon))
    assert _refused(salon, OTHER_PHONE).code == "CREDENTIALS_CONFLICT"
    assert status_of(salon) == "reconnecting"
    assert open_attempt(salon) is None


# --- what is stored, and what is asked (design, section 5) ----------------------------


@pytest.mark.parametrize("phone", [PHONE, OTHER_PHONE])
def test_half_paired_creds_are_cleaned_up_at_once(phone):
    salon = make_salon()
    store_creds(salon, make_creds(linked=False))
    assert pairing.request_code(salon, phone, "page") is Answer.STARTED
    assert stored_rows(salon) == (None, {})
    assert AuditEvent.objects.filter(action="phone_mismatch_cleanup").count() == 1


def test_half_paired_creds_are_cleaned_up_even_if_the_request_is_refused():
    salon = make_salon()
    _linked_salon(OTHER_PHONE)
    store_creds(salon, make_creds(linked=False))
    assert _refused(salon, OTHER_PHONE).code == "CREDENTIALS_CONFLICT"
    assert stored_rows(salon) == (None, {})


@pytest.mark.parametrize("ask", [pairing.request_qr, pairing.page_opened])
def test_half_paired_creds_are_cleaned_up_for_a_qr(ask):
    salon = make_salon()
    store_creds(salon, make_creds(linked=False))
    ask(salon, "page")
    assert stored_rows(salon) == (None, {})
    assert open_attempt(salon).kind == "qr"


def test_the_linked_and_open_phone_needs_no_code():
    salon = _linked_salon()
    assert _refused(salon).code == "ALREADY_CONNECTED"
    assert not PairingAttempt.objects.exists()
    assert status_of(salon) == "open"


@pytest.mark.parametrize(
    "status",
    [
        "stopped",
        "reconnecting",
        "connecting",
        "needs_attention",
        "replaced",
        "degraded",
    ],
)
def test_the_linked_phone_whose_session_is_not_open_gets_a_fresh_code(status):
    salon = _linked_salon(status=status)
    assert pairing.request_code(salon, PHONE, "page") is Answer.STARTED
    assert stored_rows(salon) == (make_creds(), make_keys())
    assert not AuditEvent.objects.filter(action="phone_mismatch_cleanup").exists()


def test_another_phone_is_a_mismatch_and_changes_nothing_yet(caplog):
    salon = _linked_salon()
    assert pairing.request_code(salon, OTHER_PHONE, "page") is Answer.STARTED
    assert stored_rows(salon) == (make_creds(), make_keys())
    event = AuditEvent.objects.get(action="phone_mismatch_cleanup")
    assert event.detail == {
        "kind": "other_phone",
        "old_phone": "79***4567",
        "new_phone": "79***4321",
    }
    assert "phone_mismatch_cleanup" in caplog.text
    assert PHONE not in caplog.text


def test_a_mismatch_replaces_creds_and_keys_when_the_new_phone_is_linked():
    salon = _linked_salon()
    pairing.request_code(salon, OTHER_PHONE, "page")
    attempt_id, epoch = show_code(salon)
    assert confirm(salon, attempt_id, epoch, OTHER_PHONE)
    assert stored_rows(salon) == (make_creds(OTHER_PHONE), make_keys())
    assert ArchivedCredentials.objects.get(salon=salon).phone == PHONE


@pytest.mark.parametrize("end", ["fail", "expire", "cancel"])
def test_a_mismatch_that_comes_to_nothing_leaves_the_old_session(end):
    salon = _linked_salon()
    pairing.request_code(salon, OTHER_PHONE, "page")
    attempt_id, epoch = show_code(salon)
    if end == "fail":
        attempts.fail(salon, attempt_id, epoch, ErrorCode.PAIRING_CODE_FAILED)
    elif end == "expire":
        _overdue(open_attempt(salon))
        assert attempts.expire_overdue() == [salon.pk]
    else:
        pairing.request_qr(salon, "page")
        _attempt, epoch = begin(salon)
        attempts.record_open(salon, epoch, PHONE)
    assert stored_rows(salon) == (make_creds(), make_keys())
    assert status_of(salon) == ("open" if end == "cancel" else "reconnecting")
    assert salon.session.phone == PHONE
    assert not ArchivedCredentials.objects.exists()


def test_a_qr_for_an_open_salon_is_already_connected():
    salon = _linked_salon()
    assert pairing.request_qr(salon, "page") is Answer.CONNECTED
    assert not PairingAttempt.objects.exists()


def test_a_fresh_qr_for_an_open_salon_is_for_another_phone():
    salon = _linked_salon()
    assert pairing.request_qr(salon, "page", fresh=True) is Answer.STARTED
    attempt = open_attempt(salon)
    assert (attempt.kind, attempt.fresh) == ("qr", True)
    assert pairing.request_qr(salon, "page", fresh=True) is Answer.SAME
    sessions.disconnect(salon, "page")
    assert stored_rows(salon)[0], "the link that was there is untouched"


def test_a_qr_that_only_resumes_gives_way_to_a_fresh_one():
    salon = _linked_salon(status="stopped")
    pairing.request_qr(salon, "page")
    resuming = open_attempt(salon)
    assert pairing.request_qr(salon, "page", fresh=True) is Answer.STARTED
    assert open_attempt(salon).pk != resuming.pk
    assert open_attempt(salon).fresh


def test_a_fresh_qr_for_a_salon_without_a_link_is_just_a_qr():
    salon = make_salon()
    pairing.page_opened(salon, "page")
    assert pairing.request_qr(salon, "page", fresh=True) is Answer.SAME
    assert not open_attempt(salon).fresh


def test_a_qr_for_a_linked_salon_resumes_it():
    salon = _linked_salon(status="stopped")
    WhatsAppSession.objects.update(wanted=False)
    assert pairing.request_qr(salon, "page") is Answer.STARTED
    _attempt, epoch = begin(salon)
    assert attempts.record_open(salon, epoch, PHONE)
    assert last_attempt(salon).stage == "linked"
    salon.refresh_from_db()
    assert (salon.session.status, salon.session.wanted) == ("open", True)


# --- conflicts with other salons ------------------------------------------------------


def test_a_phone_that_is_live_in_another_salon_is_refused():
    _linked_salon()
    salon = make_salon()
    assert _refused(salon).code == "CREDENTIALS_CONFLICT"
    assert open_attempt(salon) is None


def test_support_may_allow_a_shared_phone():
    _linked_salon()
    salon = make_salon(shared_phone_allowed=True)
    assert pairing.request_code(salon, PHONE, "page") is Answer.STARTED
    assert confirm(salon, *show_code(salon))


def test_a_phone_that_another_salon_is_just_linking_is_refused():
    first, second = make_salon(), make_salon()
    pairing.request_code(first, PHONE, "page")
    pairing.page_opened(second, "page")
    qr, epoch = show_qr(second)
    assert _refused(second).code == "CREDENTIALS_CONFLICT"
    assert open_attempt(first) is not None
    # the refused request has not ended what this salon was doing
    assert open_attempt(second).id == qr
    assert attempts.record_qr(second, qr, epoch, QR + "2", 20)


def test_a_live_phone_that_scans_the_qr_of_another_salon_is_refused():
    _linked_salon()
    salon = make_salon()
    pairing.request_qr(salon, "page")
    attempt_id, epoch = show_qr(salon)
    with pytest.raises(WhatsAppError) as refused:
        confirm(salon, attempt_id, epoch)
    assert refused.value.code == "CREDENTIALS_CONFLICT"
    assert stored_rows(salon) == (None, {})
    assert (last_attempt(salon).stage, last_attempt(salon).error) == (
        "failed",
        "CREDENTIALS_CONFLICT",
    )
    assert status_of(salon) == "unlinked"


# --- budget and cool-down -------------------------------------------------------------


def _spend(salon, phone=PHONE):
    pairing.request_code(salon, phone, "page")
    attempt_id, epoch = show_code(salon)
    attempts.fail(salon, attempt_id, epoch, ErrorCode.CODE_EXPIRED, "expired")


def test_a_budget_refuses_before_whatsapp_does_and_says_when_to_come_back(settings):
    settings.WHATSAPP_PAIRING_BUDGET = (3, 3600)
    salon = make_salon()
    for _ in range(3):
        _spend(salon)
    refused = _refused(salon)
    assert refused.code == "RATE_LIMITED"
    assert 3590 <= refused.retry_after <= 3601
    # also for another phone of this salon, and for this phone in another salon
    assert _refused(salon, OTHER_PHONE).code == "RATE_LIMITED"
    assert _refused(make_salon()).code == "RATE_LIMITED"
    assert pairing.request_code(make_salon(), OTHER_PHONE, "page") is Answer.STARTED
    assert pairing.request_qr(salon, "page") is Answer.STARTED


def test_the_budget_comes_back_when_the_window_has_passed(settings):
    settings.WHATSAPP_PAIRING_BUDGET = (2, 600)
    salon = make_salon()
    for _ in range(2):
        _spend(salon)
    PairingAttempt.objects.filter(pk=last_attempt(salon).pk - 1).update(
        requested_at=Now() - timedelta(seconds=500)
    )
    assert 95 <= _refused(salon).retry_after <= 101
    PairingAttempt.objects.filter(pk=last_attempt(salon).pk - 1).update(
        requested_at=Now() - timedelta(seconds=601)
    )
    assert pairing.request_code(salon, PHONE, "page") is Answer.STARTED


def test_our_own_outage_costs_no_budget(settings):
    settings.WHATSAPP_PAIRING_BUDGET = (2, 3600)
    salon = make_salon()
    for _ in range(5):
        pairing.request_code(salon, PHONE, "page")
        _overdue(open_attempt(salon))
    assert pairing.request_code(salon, PHONE, "page") is Answer.STARTED


def test_the_same_code_again_costs_no_budget(settings):
    settings.WHATSAPP_PAIRING_BUDGET = (1, 3600)
    salon = make_salon()
    pairing.request_code(salon, PHONE, "page")
    show_code(salon)
    for _ in range(5):
        assert pairing.request_code(salon, PHONE, "page") is Answer.SAME


def test_a_429_of_whatsapp_cools_the_phone_down_ever_longer(settings):
    settings.WHATSAPP_PAIRING_BUDGET = (100, 3600)
    waits = []
    for _ in range(3):
        salon = make_salon()
        pairing.request_code(salon, PHONE, "page")
        attempt_id, epoch = begin(salon)
        attempts.fail(salon, attempt_id, epoch, ErrorCode.RATE_LIMITED)
        assert last_attempt(salon).retry_after == _refused(salon).retry_after
        waits.append(_refused(salon).retry_after)
        PairingAttempt.objects.filter(error="RATE_LIMITED").update(
            finished_at=Now() - timedelta(seconds=600)
        )
    assert waits == [31, 61, 121]
    other = make_salon()
    assert pairing.request_code(other, OTHER_PHONE, "page") is Answer.STARTED


def test_the_429_of_a_qr_cools_no_phone_down():
    salon = make_salon()
    pairing.request_qr(salon, "page")
    attempt_id, epoch = begin(salon)
    attempts.fail(salon, attempt_id, epoch, ErrorCode.RATE_LIMITED)
    assert last_attempt(salon).retry_after is None
    assert pairing.request_qr(salon, "page") is Answer.STARTED


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
    _overdue(open_attempt(salon))
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
    salon = _linked_salon(status="reconnecting")
    pairing.request_qr(salon, "page")
    attempt_id, epoch = show_qr(salon)
    assert confirm(salon, attempt_id, epoch, OTHER_PHONE)
    assert AuditEvent.objects.filter(action="phone_mismatch_cleanup").count() == 1


def test_an_old_session_that_opens_does_not_answer_a_request_for_a_code():
    salon = _linked_salon(status="connecting")
    epoch = claim(salon)
    pairing.request_code(salon, OTHER_PHONE, "page")
    assert attempts.record_open(salon, epoch, PHONE)
    assert open_attempt(salon).phone == OTHER_PHONE
    assert status_of(salon) == "pairing"


def test_a_refused_first_login_brings_the_old_link_back():
    salon = _linked_salon()
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
    salon = _linked_salon()
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
    _overdue(open_attempt(salon))
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


# --- pages that open ------------------------------------------------------------------


def test_the_page_of_an_unlinked_salon_starts_a_qr():
    salon = make_salon()
    pairing.page_opened(salon, "page")
    pairing.page_opened(salon, "page")
    assert open_attempt(salon).kind == "qr"
    assert PairingAttempt.objects.count() == 1
    assert status_of(salon) == "pairing"


def test_the_page_of_a_salon_without_a_session_row_works():
    salon = make_salon()
    WhatsAppSession.objects.all().delete()
    assert snapshot(salon)["status"] == "unlinked"
    pairing.page_opened(salon, "page")
    assert open_attempt(salon).kind == "qr"


def test_the_page_does_not_disturb_a_code_that_is_shown():
    salon = make_salon()
    pairing.request_code(salon, PHONE, "page")
    attempt_id, _epoch = show_code(salon)
    pairing.page_opened(salon, "page")
    assert open_attempt(salon).id == attempt_id


@pytest.mark.parametrize(
    "status", ["open", "stopped", "reconnecting", "needs_attention"]
)
def test_the_page_of_a_linked_salon_starts_no_link(status):
    salon = _linked_salon(status=status)
    pairing.page_opened(salon, "page")
    assert not PairingAttempt.objects.exists()
    assert status_of(salon) == status


def test_a_page_that_finds_an_overdue_attempt_on_a_linked_salon_settles_it():
    salon = _linked_salon()
    pairing.request_code(salon, OTHER_PHONE, "page")
    _overdue(open_attempt(salon))
    pairing.page_opened(salon, "page")
    assert open_attempt(salon) is None
    assert status_of(salon) == "reconnecting"


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


# --- at the same time -----------------------------------------------------------------


def _at_once(*calls):
    """Run calls in threads, all at one moment; return results or exceptions."""
    ready = threading.Barrier(len(calls))

    def run(call):
        try:
            ready.wait()
            return call()
        except WhatsAppError as error:
            return error.code
        finally:
            connection.close()

    with ThreadPoolExecutor(len(calls)) as threads:
        return list(threads.map(run, calls))


@pytest.mark.django_db(transaction=True)
def test_of_twenty_requests_at_once_one_is_granted():
    salon = make_salon()
    answers = _at_once(*[lambda: pairing.request_code(salon, PHONE, "page")] * 20)
    assert answers.count(Answer.STARTED) == 1
    assert answers.count(ErrorCode.REQUEST_IN_PROGRESS) == 19
    assert PairingAttempt.objects.count() == 1


@pytest.mark.django_db(transaction=True)
def test_twenty_pages_that_open_at_once_start_one_qr():
    salon = make_salon()
    WhatsAppSession.objects.all().delete()
    _at_once(*[lambda: pairing.page_opened(salon, "page")] * 20)
    assert PairingAttempt.objects.count() == 1
    assert WhatsAppSession.objects.count() == 1


@pytest.mark.django_db(transaction=True)
def test_of_twenty_salons_that_ask_for_one_phone_at_once_one_is_granted():
    salons = [make_salon() for _ in range(20)]
    answers = _at_once(
        *[
            lambda salon=salon: pairing.request_code(salon, PHONE, "page")
            for salon in salons
        ]
    )
    assert answers.count(Answer.STARTED) == 1
    assert answers.count(ErrorCode.CREDENTIALS_CONFLICT) == 19
    assert PairingAttempt.objects.filter(finished_at=None).count() == 1


@pytest.mark.django_db(transaction=True)
def test_everything_at_once_deadlocks_nowhere_and_leaves_one_truth():
    salon, neighbour = make_salon(), make_salon()
    claim(salon)
    claim(neighbour)

    def code():
        return pairing.request_code(salon, PHONE, "page")

    def reset():
        return sessions.reset(salon, "page")

    calls = [
        code,
        reset,
        lambda: pairing.request_qr(salon, "page"),
        lambda: pairing.page_opened(salon, "page"),
        lambda: sessions.disconnect(salon, "page"),
        lambda: sessions.connect(salon, "page"),
        lambda: attempts.expire_overdue(),
        lambda: sessions.watch([salon.pk, neighbour.pk]),
        lambda: sessions.watch([neighbour.pk, salon.pk]),
        lambda: proofs.record({neighbour.pk: 1.0, salon.pk: 2.0}),
        lambda: proofs.record({salon.pk: 1.0, neighbour.pk: 2.0}),
        lambda: claims.take_over([salon.pk, neighbour.pk], OWNER),
    ]
    for _ in range(5):
        _at_once(*calls)  # an exception other than a refusal would rise here
    assert PairingAttempt.objects.filter(salon=salon, finished_at=None).count() <= 1
    state = snapshot(salon)
    paired = open_attempt(salon) is not None
    assert (state["status"] == "pairing") is paired


@pytest.mark.django_db(transaction=True)
def test_a_confirmed_link_and_a_reset_at_once_leave_no_half_of_either():
    for _ in range(5):
        salon = make_salon()
        pairing.request_code(salon, PHONE, "page")
        attempt_id, epoch = show_code(salon)
        _at_once(
            lambda salon=salon, a=attempt_id, e=epoch: confirm(salon, a, e),
            lambda salon=salon: sessions.reset(salon, "page"),
        )
        assert stored_rows(salon) == (None, {})
        assert open_attempt(salon) is None
        assert not attempts.record_open(salon, epoch, PHONE)


def test_nothing_secret_is_logged_or_audited(caplog):
    caplog.set_level("DEBUG")
    salon = make_salon()
    link(salon)
    sessions.reset(salon, "page")
    written = caplog.text + json.dumps(
        list(AuditEvent.objects.values_list("detail", flat=True))
    )
    for secret in (PHONE, "ABCD1234", "ABCD-1234", "noiseKey", QR):
        assert secret not in written
