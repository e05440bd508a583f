"""The archive: links that were replaced or lost, and are kept for a while.

They are put there and brought back by services/credentials.py, which knows when.
"""

import zlib
from datetime import datetime, timedelta
from typing import Any

import orjson
from django.conf import settings
from django.db import connection
from django.db.models import QuerySet
from django.db.models.functions import Now

from whatsapp.models import ArchivedCredentials, Salon, SealingKey
from whatsapp.phones import same_phone
from whatsapp.services import sealing

# Keys that were written at the same instant must not be half archived: FOR UPDATE on
# the session row (every caller holds it) keeps fenced writers out meanwhile.
# Archived as they lie, so that a lost key keeps nobody from linking a phone anew.
_ARCHIVE_SQL = """
SELECT jsonb_build_object(
    'creds', creds,
    'keys', coalesce((
        SELECT jsonb_agg(jsonb_build_object('t', key_type, 'i', key_id, 'v', value))
        FROM whatsapp_keys WHERE company_id = a.company_id
    ), '[]'::jsonb)
)::text
FROM whatsapp_auth a WHERE company_id = %s
"""


def add(salon: Salon, company_id: str, phone: str, reason: str) -> None:
    """Copy what lies under ``company_id`` to the archive.

    Args:
        salon: whose it is; its session row must be locked by the running transaction.
        company_id: linked creds lie there, perhaps with keys.
        phone: that they are of.
        reason: why they go there.
    """
    with connection.cursor() as cursor:
        cursor.execute(_ARCHIVE_SQL, [company_id])
        (text,) = cursor.fetchone()
    kid, payload = "", zlib.compress(text.encode(), level=1)
    if sealing.is_enabled():
        kid, payload = sealing.seal_bytes(salon.session_id, sealing.ARCHIVE, payload)
        SealingKey.note(kid)
    ArchivedCredentials.objects.create(
        salon=salon,
        phone=phone,
        reason=reason,
        purge_at=Now() + timedelta(days=settings.WHATSAPP_ARCHIVE_DAYS),
        encrypted=bool(kid),
        kid=kid,
        payload=payload,
    )


def restorable(salon: Salon) -> QuerySet[ArchivedCredentials]:
    """Return the archived links that may be brought back, the latest first.

    Without their payload: nobody needs it before one is chosen.
    """
    return (
        ArchivedCredentials.objects.filter(salon=salon)
        .exclude(reason="refused")
        .defer("payload")
        .order_by("-id")
    )


def has_newer(salon: Salon, phone: str, since: datetime) -> bool:
    """Say whether a link of ``phone`` was in use after ``since`` and is in there."""
    # Those others had not been in use when they went to the archive.
    entries = restorable(salon).exclude(reason__in=["duplicate", "restored"])
    phones = entries.filter(archived_at__gt=since).values_list("phone", flat=True)
    return any(same_phone(phone, other) for other in phones)


def read(entry: ArchivedCredentials) -> tuple[str, str]:
    """Return creds and keys (plain JSON text) of an archived link.

    Raises:
        SealingError: it, or a row in it, cannot be opened.
    """
    return _unpacked(entry.salon, opened(entry))


def _unpacked(salon: Salon, payload: bytes) -> tuple[str, str]:
    company_id, content = salon.session_id, orjson.loads(zlib.decompress(payload))
    return (
        sealing.unseal_creds(company_id, _text(content["creds"])),
        sealing.unseal_keys(company_id, _text(content["keys"])),
    )


def repacked(salon: Salon, payload: bytes) -> bytes:
    """Return an archive's compressed content with every row in it opened.

    Raises:
        SealingError: one of them cannot be.
    """
    creds, keys = _unpacked(salon, payload)
    return zlib.compress(f'{{"creds":{creds},"keys":{keys}}}'.encode(), level=1)


def _text(value: Any) -> str:
    return orjson.dumps(value).decode()


def opened(entry: ArchivedCredentials) -> bytes:
    """Return the compressed content of an archived link; rows in it as they lay.

    Raises:
        SealingError: it cannot be opened.
    """
    payload = bytes(entry.payload)
    if entry.kid:
        return sealing.unseal_bytes(
            entry.salon.session_id, sealing.ARCHIVE, entry.kid, payload
        )
    if entry.encrypted:
        return sealing.unseal_fernet(payload)
    return payload


PURGE_BATCH = 100
"""An archived link has about a megabyte."""


def purge(*, dry_run: bool = False) -> int:
    """Delete archived creds whose time is over, a batch at a time.

    Args:
        dry_run: delete nothing.

    Returns:
        How many went, or would go.
    """
    over = ArchivedCredentials.objects.filter(purge_at__lt=Now())
    if dry_run:
        return over.count()
    deleted = 0
    while pks := list(over.values_list("pk", flat=True)[:PURGE_BATCH]):
        deleted += ArchivedCredentials.objects.filter(pk__in=pks).delete()[0]
    return deleted
