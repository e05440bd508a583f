"""What changes over the API were answered, so that one asked for twice is done once."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from django.db import connection, transaction
from django.db.models.functions import Now

from whatsapp.errors import ErrorCode, WhatsAppError
from whatsapp.models import ApiAnswer, ApiKey

KEEP_HOURS = 24
MOST = 10_000
"""Answers that are kept for one key; who has more is refused, as nothing is forgotten."""

RETRY_SECONDS = 3600


@dataclass(frozen=True, slots=True)
class Answer:
    """The answer to a change."""

    status: int
    body: dict[str, Any]
    final: bool = True
    """Whether asking again is pointless; else the next one is taken as a new request."""


def once(
    key: ApiKey, name: str, request: str, act: Callable[[], Answer]
) -> tuple[Answer, bool]:
    """Do something once for an Idempotency-Key, and answer alike for a day.

    What is done and its answer are committed together: whoever dies in between has done
    nothing, and whoever asks again does it.

    Args:
        key: who asks.
        name: the Idempotency-Key; empty: every request is a new one.
        request: what tells it from another request with the same name.
        act: does it, in the running transaction.

    Returns:
        The answer, and whether it was given before.

    Raises:
        WhatsAppError: REQUEST_IN_PROGRESS while the first is under way,
            IDEMPOTENCY_KEY_REUSED for another request with this name, or
            TOO_MANY_REQUESTS if too many answers are kept.
    """
    with transaction.atomic():
        if not name:
            return act(), False
        digest = hashlib.sha256(request.encode()).hexdigest()
        _lock(key, name)
        given = _given(key, name, digest)
        if given is not None:
            return given, True
        if ApiAnswer.objects.filter(key=key)[MOST - 1 : MOST].exists():
            raise WhatsAppError(ErrorCode.TOO_MANY_REQUESTS, RETRY_SECONDS)
        answer = act()
        if answer.final:
            ApiAnswer.objects.create(
                key=key,
                name=name,
                request=digest,
                status=answer.status,
                body=json.dumps(answer.body),
            )
    return answer, False


def _lock(key: ApiKey, name: str) -> None:
    """Hold the name until the transaction ends, or refuse if somebody else does."""
    digest = hashlib.sha256(f"{key.pk} {name}".encode()).digest()
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT pg_try_advisory_xact_lock(%s)",
            [int.from_bytes(digest[:8], signed=True)],
        )
        if not cursor.fetchone()[0]:
            raise WhatsAppError(ErrorCode.REQUEST_IN_PROGRESS, retry_after=1)


def _given(key: ApiKey, name: str, digest: str) -> Answer | None:
    """Return what the same request was answered, if it was asked within the day."""
    ApiAnswer.objects.filter(key=key, name=name, at__lt=_start()).delete()
    given = ApiAnswer.objects.filter(key=key, name=name).first()
    if given is None:
        return None
    if given.request != digest:
        raise WhatsAppError(ErrorCode.IDEMPOTENCY_KEY_REUSED)
    return Answer(given.status, json.loads(given.body))


def _start() -> Any:
    return Now() - timedelta(hours=KEEP_HOURS)


def purge() -> int:
    """Delete answers that are a day old; return how many."""
    deleted, _models = ApiAnswer.objects.filter(at__lt=_start()).delete()
    return deleted
