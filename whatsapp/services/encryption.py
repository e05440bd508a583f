"""Sealing what is stored, sealing it anew with another key, and opening it all again.

The work is done salon by salon under the lock of the session's row, which every write of
a gateway takes, too: a batch of keys waits for the batch of its gateway or the other way
round, and no write is lost. It can be interrupted at any moment and run again.
"""

import logging
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

import orjson
from django.db import connection, transaction

from whatsapp import alerts
from whatsapp.models import (
    ArchivedCredentials,
    CredsIndex,
    Salon,
    SealingKey,
    WhatsAppSession,
)
from whatsapp.services import archives, audit, credentials, sealing, sessions
from whatsapp.services.sealing import SealingError

logger = logging.getLogger(__name__)

BATCH = 500
"""Keys that are sealed under one lock: some ten milliseconds."""

PLAIN = ""


class Unreadable(SealingError):
    """Something cannot be opened, so nothing was begun."""


@dataclass(frozen=True, slots=True)
class Lying:
    """What lies in the tables, by the id of the key that seals it; empty: plain."""

    creds: Counter[str] = field(default_factory=Counter)
    keys: Counter[str] = field(default_factory=Counter)
    archives: Counter[str] = field(default_factory=Counter)

    def all(self) -> Counter[str]:
        """Return how many rows there are of each."""
        return self.creds + self.keys + self.archives

    def other_than(self, kid: str) -> int:
        """Return how many rows are not sealed with ``kid``."""
        return sum(count for name, count in self.all().items() if name != kid)


# Rows of strangers (salons that nobody has created) belong to the takeover.
_OURS = """
EXISTS (SELECT FROM whatsapp_salon WHERE {table}.company_id = 'company_' || salon_id)
"""
_CREDS_SQL = (
    "SELECT kid, count(*) FROM whatsapp_credsindex"  # noqa: S608
    f" WHERE {_OURS.format(table='whatsapp_credsindex')} GROUP BY 1"
)
_KEYS_SQL = (
    "SELECT coalesce(CASE WHEN value ? 'sealed' THEN value->>'kid' END, ''), count(*)"  # noqa: S608
    f" FROM whatsapp_keys WHERE {_OURS.format(table='whatsapp_keys')} GROUP BY 1"
)
_ARCHIVES_SQL = """
SELECT CASE WHEN encrypted AND kid = '' THEN 'fernet' ELSE kid END, count(*)
FROM whatsapp_archivedcredentials GROUP BY 1
"""


def lying() -> Lying:
    """Count what is stored by the key that seals it. Reads every key once."""
    with connection.cursor() as cursor:
        counts = []
        for sql in (_CREDS_SQL, _KEYS_SQL, _ARCHIVES_SQL):
            cursor.execute(sql)
            counts.append(Counter(dict(cursor.fetchall())))
    return Lying(*counts)


def missing_keys() -> list[str]:
    """Return the ids of keys that something may be sealed with, and that are not here."""
    return list(
        SealingKey.objects.exclude(kid__in=sealing.kids())
        .order_by("first_used_at")
        .values_list("kid", flat=True)
    )


def unreadable_salons() -> int:
    """Return how many salons have creds that are sealed with a missing key."""
    return CredsIndex.objects.exclude(kid=PLAIN).exclude(kid__in=sealing.kids()).count()


def welcome_gateway() -> None:
    """Say which keys are missing, as a gateway starts; what they opened is tried anew.

    Creds that came past the trigger, as from a dump, would not be found: they are indexed.
    """
    credentials.reindex()
    if missing := missing_keys():
        logger.error(
            "CREDENTIAL_ENCRYPTION_KEYS lacks %s: the links of %d salons cannot be read.",
            ", ".join(missing),
            unreadable_salons(),
            extra=alerts.tags("keys_missing"),
        )
    waiting = WhatsAppSession.objects.filter(reason=sealing.UNREADABLE)
    waiting.filter(retry_at__isnull=False).update(retry_at=None)


def require_keys(found: Lying) -> None:
    """Make sure that everything which lies in the tables can be opened.

    Raises:
        Unreadable: keys are missing; says which, and how many rows need them.
    """
    known = {PLAIN, "fernet", *sealing.kids()}
    lost = {kid: count for kid, count in found.all().items() if kid not in known}
    if lost:
        rows = ", ".join(f"{kid} ({count} rows)" for kid, count in sorted(lost.items()))
        raise Unreadable(
            "CREDENTIAL_ENCRYPTION_KEYS lacks keys that rows are sealed with: "
            f"{rows}. Nothing was changed."
        )


def change(actor: str, failed: dict[str, str], *, seal: bool = True) -> Iterator[int]:
    """Bring everything that is stored to the current key, or, unsealed, to plain.

    Args:
        actor: who asked, for the audit.
        failed: gets the salons that have a row which cannot be opened, and why; what
            is left of such a salon stays as it is.
        seal: False: open everything and store it plain.

    Yields:
        After each piece of work, how many rows it changed.
    """
    kid = sealing.current_kid() if seal else PLAIN
    if kid:
        SealingKey.note(kid)
    done = 0
    for salon in Salon.objects.order_by("pk").iterator(chunk_size=BATCH):
        try:
            for rows in _change_salon(salon, kid):
                done += rows
                yield rows
        except SealingError as error:
            failed[salon.session_id] = str(error)
    if done:
        audit.record(None, actor, "encrypted" if seal else "decrypted", rows=done)


def _change_salon(salon: Salon, kid: str) -> Iterator[int]:
    while rows := _change_keys(salon, kid):
        yield rows
    if rows := _change_creds(salon, kid):
        yield rows
    entries = ArchivedCredentials.objects.filter(salon=salon).order_by("pk")
    for pk in entries.values_list("pk", flat=True):
        if rows := _change_archive(salon, pk, kid):
            yield rows


_STALE = """
CASE WHEN value ? 'sealed' THEN value->>'kid' ELSE '' END <> %(kid)s
"""
_STALE_KEYS = f"""
SELECT coalesce(jsonb_agg(jsonb_build_object('t', key_type, 'i', key_id, 'v', value)),
                '[]')::text, count(*)
FROM (SELECT key_type, key_id, value FROM whatsapp_keys
      WHERE company_id = %(id)s AND {_STALE} LIMIT %(limit)s) stale
"""  # noqa: S608
# The time of a write stays what it was: nothing was written, it was put into words anew.
_WRITE_KEYS = """
UPDATE whatsapp_keys k SET value = entry.v
FROM jsonb_to_recordset(%(keys)s::jsonb) AS entry(t text, i text, v jsonb)
WHERE k.company_id = %(id)s AND k.key_type = entry.t AND k.key_id = entry.i
"""


def _change_keys(salon: Salon, kid: str) -> int:
    company_id = salon.session_id
    with sessions.locked(salon), connection.cursor() as cursor:
        cursor.execute(_STALE_KEYS, {"id": company_id, "kid": kid, "limit": BATCH})
        keys, count = cursor.fetchone()
        if count:
            keys = sealing.unseal_keys(company_id, keys)
            if kid:
                keys = sealing.seal_keys(company_id, keys)
            cursor.execute(_WRITE_KEYS, {"id": company_id, "keys": keys})
    return int(count)


def _change_creds(salon: Salon, kid: str) -> int:
    company_id = salon.session_id
    with sessions.locked(salon), connection.cursor() as cursor:
        cursor.execute(
            "SELECT creds::text FROM whatsapp_auth WHERE company_id = %s", [company_id]
        )
        row = cursor.fetchone()
        if row is None or sealing.kid_of(orjson.loads(row[0])) == kid:
            return 0
        creds = sealing.unseal_creds(company_id, row[0])
        if kid:
            creds = sealing.seal_creds(company_id, creds)
        cursor.execute(
            "UPDATE whatsapp_auth SET creds = %s::jsonb WHERE company_id = %s",
            [creds, company_id],
        )
    return 1


def _change_archive(salon: Salon, pk: int, kid: str) -> int:
    with transaction.atomic():
        # Restored or purged meanwhile: there is nothing to do.
        entry = ArchivedCredentials.objects.select_for_update().filter(pk=pk).first()
        if entry is None or (entry.kid == kid and (kid or not entry.encrypted)):
            return 0
        entry.salon = salon
        entry.payload = archives.repacked(salon, archives.opened(entry))
        entry.kid, entry.encrypted = kid, bool(kid)
        if kid:
            _kid, entry.payload = sealing.seal_bytes(
                salon.session_id, sealing.ARCHIVE, entry.payload
            )
        entry.save(update_fields=["payload", "kid", "encrypted"])
    return 1


def forget_unused_keys(found: Lying) -> list[str]:
    """Strike keys off the list with which nothing is sealed; return their ids."""
    used = {*found.all(), sealing.current_kid()}
    unused = SealingKey.objects.exclude(kid__in=used)
    gone = list(unused.values_list("kid", flat=True))
    SealingKey.objects.filter(kid__in=gone).delete()
    return gone
