"""Salons, people and looks for the tests of WebSockets.

Import the fixtures by name into a test module, and name them in its ``__all__``.
"""

import itertools
import time

import jwt
import pytest
from django.contrib.auth.models import User

from tests.factories import PHONE, make_salon
from whatsapp.models import AuditEvent, Membership, PairingAttempt, WhatsAppSession

_names = itertools.count(1)
REQUESTS = {
    "request-qr": {},
    "request-pairing-code": {"phoneNumber": PHONE},
    "reset-whatsapp-credentials": {},
    "disconnect-whatsapp": {},
}


NO_REDIS = "redis://127.0.0.1:1/0"
"""Where there is none."""


def redis_layer(url):
    """Return the setting for a channel layer on the Redis at ``url``."""
    return {
        "default": {
            "BACKEND": "channels_redis.pubsub.RedisPubSubChannelLayer",
            "CONFIG": {"hosts": [url]},
        }
    }


@pytest.fixture
def often(settings):
    """Look often, for tests of what the look finds."""
    settings.WHATSAPP_LOOK_INTERVAL = 0.05


@pytest.fixture
def salon():
    return make_salon()


def make_user(salon=None, role=None, **fields):
    user = User.objects.create_user(f"anna{next(_names)}", password="x", **fields)
    if role is not None:
        Membership.objects.create(user=user, salon=salon, role=role)
    return user


@pytest.fixture
def viewer(salon):
    return make_user(salon, "viewer")


@pytest.fixture
def member(salon):
    return make_user(salon, "staff")


@pytest.fixture
def owner(salon):
    return make_user(salon, "owner")


@pytest.fixture
def support():
    return make_user(None, "support")


def traces():
    """Return what no request leaves as it was that did anything."""
    return (
        list(WhatsAppSession.objects.values_list("salon_id", "revision", "status")),
        PairingAttempt.objects.count(),
        AuditEvent.objects.count(),
    )


def names_of(page):
    return [name for name, _data in page.seen]


async def refused(page, code, close):
    assert await page.closed() == close
    assert [(name, data["code"]) for name, data in page.seen] == [("error", code)]
    assert page.seen[0][1]["message"]


def by_salon(data):
    return {row["salon"]: row for row in data["salons"]}


def signed_token(settings, salon, **changes):
    now = int(time.time())
    claims = {
        "company_id": 1,
        "salon_id": salon.salon_id,
        "type": "marketplace_registration",
        "iat": now,
        "exp": now + 60,
        **changes,
    }
    claims = {name: value for name, value in claims.items() if value is not None}
    return jwt.encode(claims, settings.MARKETPLACE_JWT_SECRET, "HS256")
