"""Asking for a link: what is stored, what is asked, and what is refused."""

import json
from datetime import timedelta

import pytest

from tests.factories import (
    OTHER_PHONE,
    PHONE,
    QR,
    begin,
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
from tests.pairing_world import linked_salon, make_overdue, refused_code
from whatsapp.errors import ErrorCode, WhatsAppError
from whatsapp.models import (
    ArchivedCredentials,
    AuditEvent,
    PairingAttempt,
    WhatsAppSession,
)
from whatsapp.services import attempts, pairing, sessions
from whatsapp.services.pairing import Answer

pytestmark = pytest.mark.django_db


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
    assert refused_code(salon, typed).code == code
    assert snapshot(salon) == before
    assert not PairingAttempt.objects.exists()


def test_no_salon_falls_back_to_a_configured_phone(monkeypatch):
    monkeypatch.setenv("WHATSAPP_PHONE_NUMBER", PHONE)
    assert refused_code(make_salon(), "").code == "PHONE_REQUIRED"


def test_while_a_code_is_on_its_way_another_request_must_wait():
    salon = make_salon()
    pairing.request_code(salon, PHONE, "page")
    for phone in (PHONE, OTHER_PHONE):
        assert refused_code(salon, phone).code == "REQUEST_IN_PROGRESS"
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
    assert refused_code(salon, OTHER_PHONE).code == "REQUEST_IN_PROGRESS"
    with pytest.raises(WhatsAppError):
        pairing.request_qr(salon, "page")
    assert open_attempt(salon).stage == "finishing"


def test_an_overdue_attempt_does_not_block_the_next_request():
    salon = make_salon()
    pairing.request_code(salon, PHONE, "page")
    first = open_attempt(salon)
    make_overdue(first)
    assert pairing.request_code(salon, PHONE, "page") is Answer.STARTED
    first.refresh_from_db()
    assert (first.stage, first.error) == ("failed", "PAIRING_TIMEOUT")


def test_an_overdue_attempt_is_settled_even_if_the_next_request_is_refused():
    salon = linked_salon()
    linked_salon(OTHER_PHONE)
    with sessions.locked(salon) as session:
        sessions.set_status(session, "reconnecting")
    pairing.request_code(salon, PHONE, "page")
    make_overdue(open_attempt(salon))
    assert refused_code(salon, OTHER_PHONE).code == "CREDENTIALS_CONFLICT"
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
    linked_salon(OTHER_PHONE)
    store_creds(salon, make_creds(linked=False))
    assert refused_code(salon, OTHER_PHONE).code == "CREDENTIALS_CONFLICT"
    assert stored_rows(salon) == (None, {})


@pytest.mark.parametrize("ask", [pairing.request_qr, pairing.page_opened])
def test_half_paired_creds_are_cleaned_up_for_a_qr(ask):
    salon = make_salon()
    store_creds(salon, make_creds(linked=False))
    ask(salon, "page")
    assert stored_rows(salon) == (None, {})
    assert open_attempt(salon).kind == "qr"


def test_the_linked_and_open_phone_needs_no_code():
    salon = linked_salon()
    assert refused_code(salon).code == "ALREADY_CONNECTED"
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
    salon = linked_salon(status=status)
    assert pairing.request_code(salon, PHONE, "page") is Answer.STARTED
    assert stored_rows(salon) == (make_creds(), make_keys())
    assert not AuditEvent.objects.filter(action="phone_mismatch_cleanup").exists()


def test_another_phone_is_a_mismatch_and_changes_nothing_yet(caplog):
    salon = linked_salon()
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
    salon = linked_salon()
    pairing.request_code(salon, OTHER_PHONE, "page")
    attempt_id, epoch = show_code(salon)
    assert confirm(salon, attempt_id, epoch, OTHER_PHONE)
    assert stored_rows(salon) == (make_creds(OTHER_PHONE), make_keys())
    assert ArchivedCredentials.objects.get(salon=salon).phone == PHONE


@pytest.mark.parametrize("end", ["fail", "expire", "cancel"])
def test_a_mismatch_that_comes_to_nothing_leaves_the_old_session(end):
    salon = linked_salon()
    pairing.request_code(salon, OTHER_PHONE, "page")
    attempt_id, epoch = show_code(salon)
    if end == "fail":
        attempts.fail(salon, attempt_id, epoch, ErrorCode.PAIRING_CODE_FAILED)
    elif end == "expire":
        make_overdue(open_attempt(salon))
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
    salon = linked_salon()
    assert pairing.request_qr(salon, "page") is Answer.CONNECTED
    assert not PairingAttempt.objects.exists()


def test_a_fresh_qr_for_an_open_salon_is_for_another_phone():
    salon = linked_salon()
    assert pairing.request_qr(salon, "page", fresh=True) is Answer.STARTED
    attempt = open_attempt(salon)
    assert (attempt.kind, attempt.fresh) == ("qr", True)
    assert pairing.request_qr(salon, "page", fresh=True) is Answer.SAME
    sessions.disconnect(salon, "page")
    assert stored_rows(salon)[0], "the link that was there is untouched"


def test_a_qr_that_only_resumes_gives_way_to_a_fresh_one():
    salon = linked_salon(status="stopped")
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
    salon = linked_salon(status="stopped")
    WhatsAppSession.objects.update(wanted=False)
    assert pairing.request_qr(salon, "page") is Answer.STARTED
    _attempt, epoch = begin(salon)
    assert attempts.record_open(salon, epoch, PHONE)
    assert last_attempt(salon).stage == "linked"
    salon.refresh_from_db()
    assert (salon.session.status, salon.session.wanted) == ("open", True)


# --- conflicts with other salons ------------------------------------------------------


def test_a_phone_that_is_live_in_another_salon_is_refused():
    linked_salon()
    salon = make_salon()
    assert refused_code(salon).code == "CREDENTIALS_CONFLICT"
    assert open_attempt(salon) is None


def test_support_may_allow_a_shared_phone():
    linked_salon()
    salon = make_salon(shared_phone_allowed=True)
    assert pairing.request_code(salon, PHONE, "page") is Answer.STARTED
    assert confirm(salon, *show_code(salon))


def test_a_phone_that_another_salon_is_just_linking_is_refused():
    first, second = make_salon(), make_salon()
    pairing.request_code(first, PHONE, "page")
    pairing.page_opened(second, "page")
    qr, epoch = show_qr(second)
    assert refused_code(second).code == "CREDENTIALS_CONFLICT"
    assert open_attempt(first) is not None
    # the refused request has not ended what this salon was doing
    assert open_attempt(second).id == qr
    assert attempts.record_qr(second, qr, epoch, QR + "2", 20)


def test_a_live_phone_that_scans_the_qr_of_another_salon_is_refused():
    linked_salon()
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
    salon = linked_salon(status=status)
    pairing.page_opened(salon, "page")
    assert not PairingAttempt.objects.exists()
    assert status_of(salon) == status


def test_a_page_that_finds_an_overdue_attempt_on_a_linked_salon_settles_it():
    salon = linked_salon()
    pairing.request_code(salon, OTHER_PHONE, "page")
    make_overdue(open_attempt(salon))
    pairing.page_opened(salon, "page")
    assert open_attempt(salon) is None
    assert status_of(salon) == "reconnecting"


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
