"""Salons whose links are asked for, for the tests of attempts."""

from datetime import timedelta

import pytest
from django.db.models.functions import Now

from tests.factories import PHONE, make_creds, make_salon, store_creds
from whatsapp.errors import WhatsAppError
from whatsapp.models import PairingAttempt
from whatsapp.services import pairing, sessions


def refused_code(salon, phone=PHONE):
    """Return the error with which a code for ``phone`` is refused."""
    with pytest.raises(WhatsAppError) as refused:
        pairing.request_code(salon, phone, "page")
    return refused.value


def make_overdue(attempt):
    """Let the deadline of an attempt have passed."""
    PairingAttempt.objects.filter(pk=attempt.pk).update(
        deadline=Now() - timedelta(seconds=1)
    )


def linked_salon(phone=PHONE, status="open", **fields):
    """Return a salon that is linked to ``phone``, as its session says."""
    salon = make_salon(**fields)
    store_creds(salon, make_creds(phone))
    with sessions.locked(salon) as session:
        session.phone = phone
        sessions.set_status(session, status)
    return salon
