"""Programs with keys, and what they ask of the API."""

import json
from datetime import timedelta
from itertools import count
from typing import Any

from django.test import Client

from tests.factories import stored_rows
from whatsapp.models import ApiKey, PairingAttempt, Salon, WhatsAppSession
from whatsapp.roles import Scope
from whatsapp.services import api_keys

BASE = "/api/v1"
ALL = tuple(scope.value for scope in Scope)
_numbers = count(1)


def make_key(
    salon: Salon | None = None,
    *scopes: str,
    lifetime: timedelta | None = None,
    name: str = "",
) -> tuple[ApiKey, str]:
    """Return a key and its text; without ``scopes`` it has all of them."""
    return api_keys.create(
        "user:anna", salon, name or f"robot-{next(_numbers)}", scopes or ALL, lifetime
    )


class Program:
    """Something that calls the API with a key."""

    def __init__(self, text: str | None, **headers: str) -> None:
        self.client: Any = Client()
        self.headers = {"accept-language": "en", **headers}
        if text is not None:
            self.headers["authorization"] = f"Bearer {text}"

    def ask(
        self, method: str, path: str, body: Any = None, idempotency: str = ""
    ) -> Any:
        """Send a request and return the response."""
        headers = dict(self.headers)
        if idempotency:
            headers["idempotency-key"] = idempotency
        options: dict[str, Any] = {"headers": headers}
        if body is not None:
            options |= {"data": json.dumps(body), "content_type": "application/json"}
        return self.client.generic(method, BASE + path, **options)

    def get(self, path: str) -> Any:
        """Ask for something."""
        return self.ask("GET", path)

    def post(self, path: str, body: Any = None, idempotency: str = "") -> Any:
        """Ask to do something."""
        return self.ask("POST", path, body, idempotency)


def program(salon: Salon | None = None, *scopes: str) -> Program:
    """Return a program with a new key."""
    return Program(make_key(salon, *scopes)[1])


def code_of(response: Any) -> str:
    """Return the code of a problem, which has the form of one."""
    assert response["Content-Type"] == "application/problem+json", response.content
    body = response.json()
    assert body["status"] == response.status_code
    assert body["type"] == f"urn:aiadmin:problem:{body['code']}"
    assert body["title"]
    assert body["detail"]
    if "retryAfter" in body:
        assert response["Retry-After"] == str(body["retryAfter"])
    return str(body["code"])


def untouched(salon: Salon) -> tuple[object, ...]:
    """Return all of a salon that a request could change."""
    salon.refresh_from_db()
    session = WhatsAppSession.objects.filter(salon=salon).values().get()
    attempts = list(PairingAttempt.objects.filter(salon=salon).values())
    recorded = salon.audit_events.exclude(action__startswith="key_").count()
    return session, attempts, stored_rows(salon), recorded
