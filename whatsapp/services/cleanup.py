"""Rows that no longer mean anything: found, and deleted a batch at a time.

What is linked is never among them. Each kind says which ids it is about, and can be
interrupted and run again at any time.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from django.db import connection, transaction

from whatsapp.models import Salon, WhatsAppSession
from whatsapp.services import (
    archives,
    credentials,
    gateways,
    growth,
    sessions,
    takeover,
    timeline,
)


@dataclass(slots=True)
class Kind:
    """One kind of rows that mean nothing any more."""

    name: str
    words: str
    rows: int
    """How many there are."""
    delete: Callable[[str], Iterator[int]]
    """Deletes them for an actor; gives the number of rows of each batch."""
    ids: list[str] = field(default_factory=list)
    """Which ``company_id`` they have, if they have one."""


def kinds() -> list[Kind]:
    """Look at what could go; change nothing."""
    return [
        _half_paired(),
        _foreign_half_paired(),
        _orphans(),
        _foreign_orphans(),
        Kind(
            "expired_tokens",
            "tokens that Baileys would delete",
            sum(growth.prune(dry_run=True).values()),
            lambda _actor: iter([sum(growth.prune().values())]),
        ),
        Kind(
            "archive",
            "archived links whose time is over",
            archives.purge(dry_run=True),
            lambda _actor: iter([archives.purge()]),
        ),
        Kind(
            "status_changes",
            f"changes of status older than {timeline.KEEP_DAYS} days",
            timeline.purge(dry_run=True),
            lambda _actor: iter([timeline.purge()]),
        ),
        Kind(
            "lost_gateways",
            f"gateways lost more than {gateways.KEPT_DAYS} days ago",
            gateways.purge(dry_run=True),
            lambda _actor: iter([gateways.purge()]),
        ),
    ]


# --- creds that no phone ever confirmed -----------------------------------------------

# Somebody may be in the middle of something with what is left out.
_HALF_PAIRED = """
SELECT creds.company_id, salon.id,
       (SELECT count(*) FROM whatsapp_keys k WHERE k.company_id = creds.company_id)
FROM whatsapp_credsindex creds
LEFT JOIN whatsapp_salon salon ON creds.company_id = 'company_' || salon.salon_id
LEFT JOIN whatsapp_whatsappsession s ON s.salon_id = salon.id
WHERE creds.state = 'half-paired' AND coalesce(s.owner, '') = '' AND NOT EXISTS (
    SELECT FROM whatsapp_pairingattempt a
    WHERE a.salon_id = salon.id AND a.finished_at IS NULL)
ORDER BY creds.company_id
"""


def _not_confirmed(*, of_salons: bool) -> dict[str, tuple[int, int]]:
    """Return the ids with half-paired creds: the salon's key, and how many rows."""
    with connection.cursor() as cursor:
        cursor.execute(_HALF_PAIRED)
        rows = cursor.fetchall()
    return {
        company_id: (pk or 0, keys + 1)
        for company_id, pk, keys in rows
        if (pk is not None) is of_salons
    }


def _half_paired() -> Kind:
    found = _not_confirmed(of_salons=True)

    def delete(actor: str) -> Iterator[int]:
        for pk, rows in found.values():
            salon = Salon.objects.get(pk=pk)
            with sessions.locked(salon) as session:
                if _is_used(session):
                    continue
                is_gone = credentials.discard_half_paired(salon, actor)
            if is_gone:
                yield rows

    return Kind(
        "half_paired",
        "creds that no phone confirmed, with their keys",
        sum(rows for _pk, rows in found.values()),
        delete,
        list(found),
    )


def _is_used(session: WhatsAppSession) -> bool:
    attempts = session.salon.attempts.filter(finished_at=None)
    return bool(session.owner) or attempts.exists()


def _foreign_half_paired() -> Kind:
    found = _not_confirmed(of_salons=False)

    def delete(_actor: str) -> Iterator[int]:
        for company_id in found:
            # There is no session row to lock; nobody of ours writes under such an id.
            with transaction.atomic():
                if credentials.stored_as(company_id).linked:
                    continue
                rows = credentials.delete_rows_as(company_id) + 1
            yield rows

    return Kind(
        "foreign_half_paired",
        "creds that no phone confirmed, under ids that are no salon's here",
        sum(rows for _pk, rows in found.values()),
        delete,
        list(found),
    )


# --- keys without creds ---------------------------------------------------------------


def _orphans() -> Kind:
    kept = _kept_for_takeover()
    found = {
        salon: sum(growth.prune_orphans_of(salon, dry_run=True).values())
        for salon in growth.orphaned()
        if salon.session_id not in kept
    }

    def delete(_actor: str) -> Iterator[int]:
        for salon in found:
            yield sum(growth.prune_orphans_of(salon).values())

    return Kind(
        "orphaned_keys",
        "keys of salons that have no creds",
        sum(found.values()),
        delete,
        [salon.session_id for salon in found],
    )


_ORPHANED = """
SELECT k.company_id, count(*) FROM whatsapp_keys k
WHERE NOT EXISTS (
    SELECT FROM whatsapp_auth auth WHERE auth.company_id = k.company_id)
AND NOT EXISTS (
    SELECT FROM whatsapp_salon salon WHERE k.company_id = 'company_' || salon.salon_id)
GROUP BY k.company_id ORDER BY k.company_id
"""
_DELETE = """
DELETE FROM whatsapp_keys k WHERE k.company_id = %(id)s
AND NOT EXISTS (SELECT FROM whatsapp_auth auth WHERE auth.company_id = %(id)s)
"""


def _foreign_orphans() -> Kind:
    kept = _kept_for_takeover()
    with connection.cursor() as cursor:
        cursor.execute(_ORPHANED)
        found = {name: count for name, count in cursor.fetchall() if name not in kept}

    def delete(_actor: str) -> Iterator[int]:
        for company_id in found:
            with connection.cursor() as cursor:
                cursor.execute(_DELETE, {"id": company_id})
                yield cursor.rowcount

    return Kind(
        "foreign_orphaned_keys",
        "keys without creds, under ids that are no salon's here",
        sum(found.values()),
        delete,
        list(found),
    )


def _kept_for_takeover() -> set[str]:
    """Return ids whose keys belong to creds that lie under the salon's other id."""
    return {
        case.plan.adopt_keys for case in takeover.survey().cases if case.plan.adopt_keys
    }
