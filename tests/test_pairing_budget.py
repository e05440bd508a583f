"""How often a phone may be asked for a code, and how long it cools down."""

from datetime import timedelta

import pytest
from django.db.models.functions import Now

from tests.factories import (
    OTHER_PHONE,
    PHONE,
    begin,
    last_attempt,
    make_salon,
    open_attempt,
    show_code,
)
from tests.pairing_world import make_overdue, refused_code
from whatsapp.errors import ErrorCode
from whatsapp.models import PairingAttempt
from whatsapp.services import attempts, pairing
from whatsapp.services.pairing import Answer

pytestmark = pytest.mark.django_db


def _spend(salon, phone=PHONE):
    pairing.request_code(salon, phone, "page")
    attempt_id, epoch = show_code(salon)
    attempts.fail(salon, attempt_id, epoch, ErrorCode.CODE_EXPIRED, "expired")


def test_a_budget_refuses_before_whatsapp_does_and_says_when_to_come_back(settings):
    settings.WHATSAPP_PAIRING_BUDGET = (3, 3600)
    salon = make_salon()
    for _ in range(3):
        _spend(salon)
    refused = refused_code(salon)
    assert refused.code == "RATE_LIMITED"
    assert 3590 <= refused.retry_after <= 3601
    # also for another phone of this salon, and for this phone in another salon
    assert refused_code(salon, OTHER_PHONE).code == "RATE_LIMITED"
    assert refused_code(make_salon()).code == "RATE_LIMITED"
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
    assert 95 <= refused_code(salon).retry_after <= 101
    PairingAttempt.objects.filter(pk=last_attempt(salon).pk - 1).update(
        requested_at=Now() - timedelta(seconds=601)
    )
    assert pairing.request_code(salon, PHONE, "page") is Answer.STARTED


def test_our_own_outage_costs_no_budget(settings):
    settings.WHATSAPP_PAIRING_BUDGET = (2, 3600)
    salon = make_salon()
    for _ in range(5):
        pairing.request_code(salon, PHONE, "page")
        make_overdue(open_attempt(salon))
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
        assert last_attempt(salon).retry_after == refused_code(salon).retry_after
        waits.append(refused_code(salon).retry_after)
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
