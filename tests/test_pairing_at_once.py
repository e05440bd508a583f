"""Requests, links and resets that come at one moment."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from django.db import connection

from tests.factories import (
    OWNER,
    PHONE,
    claim,
    confirm,
    make_salon,
    open_attempt,
    show_code,
    snapshot,
    stored_rows,
)
from whatsapp.errors import ErrorCode, WhatsAppError
from whatsapp.models import PairingAttempt, WhatsAppSession
from whatsapp.services import attempts, claims, pairing, proofs, sessions
from whatsapp.services.pairing import Answer

pytestmark = pytest.mark.django_db


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
