"""How many Signal keys salons have, which of them are useless, and who has too many.

Hardly any key can be proven useless, and a wrong one deleted is a customer's message that
nobody can read. What is kept, and why, is a table in docs/operations.md ("Growth").
"""

import json
import logging
from collections import Counter
from dataclasses import dataclass
from typing import Any

from django.db import connection, transaction

from whatsapp import alerts
from whatsapp.models import Salon
from whatsapp.services import credentials, sessions
from whatsapp.services.credentials import CredsState

logger = logging.getLogger(__name__)

LOCK = 0x57415047
"""Advisory lock: one process at a time counts, and one deletes."""

BATCH = 500

GROWN_DAYS = 7
GROWN_FACTOR = 2.0
GROWN_ROWS = 1000
"""More than twice the keys of the lowest day of the last seven, and a thousand more, is
abnormal. A link mints 812 pre-keys at once, and each contact or group costs a handful,
so that a salon with a thousand new contacts in a week may be named, too."""

KEEP_DAYS = 90

BUCKET_SECONDS = 604_800
BUCKETS = 4

# --- what may go ----------------------------------------------------------------------

# Exactly isTcTokenExpired and pruneExpiredTcTokens of Baileys 7.0.0-rc14: in buckets of
# a week, and gone only if neither the contact's token nor the time of ours still counts.
# Baileys does so itself once a day, but only while it is shown as online, which we
# never are. What is not a plain number is left alone. The row is locked before it is
# judged, so a token that is renewed at this moment is seen as it is then, and stays.
# Baileys keeps no token in memory: it reads the row for each message, and a token that
# is expired is not sent.
_EXPIRED = """
k.key_type = 'tctoken' AND k.key_id <> '__index'
AND jsonb_typeof(k.value) = 'object'
-- What is sealed is judged by when it was written: its times are not after that.
AND (NOT k.value ? 'sealed' OR k.updated_at < to_timestamp(%(cutoff)s))
AND CASE WHEN k.value->>'timestamp' ~ '^[0-9]{1,15}$'
         THEN (k.value->>'timestamp')::bigint < %(cutoff)s
         ELSE coalesce(k.value->>'timestamp', '') = '' END
AND CASE WHEN k.value->>'senderTimestamp' ~ '^[0-9]{1,15}$'
         THEN (k.value->>'senderTimestamp')::bigint < %(cutoff)s
         ELSE coalesce(k.value->>'senderTimestamp', '') = '' END
AND EXISTS (SELECT FROM whatsapp_salon salon
            WHERE k.company_id = 'company_' || salon.salon_id)
"""
_COUNT_EXPIRED = f"SELECT count(*) FROM whatsapp_keys k WHERE {_EXPIRED}"  # noqa: S608
_DELETE_EXPIRED = f"""
WITH expired AS MATERIALIZED (
    SELECT k.company_id, k.key_id FROM whatsapp_keys k WHERE {_EXPIRED}
    LIMIT %(batch)s FOR UPDATE OF k SKIP LOCKED
)
DELETE FROM whatsapp_keys k USING expired
WHERE k.company_id = expired.company_id AND k.key_type = 'tctoken'
  AND k.key_id = expired.key_id
"""  # noqa: S608
_CUTOFF = "SELECT (floor(extract(epoch FROM now()) / %s)::bigint - %s) * %s"


def prune(*, dry_run: bool = False) -> dict[str, int]:
    """Delete the keys that Baileys itself would delete, a batch at a time.

    Args:
        dry_run: delete nothing.

    Returns:
        How many went, or would go, by type of key; empty also if another process is
        just at it.
    """
    if dry_run:
        with connection.cursor() as cursor:
            cursor.execute(_COUNT_EXPIRED, {"cutoff": _cutoff(cursor)})
            return _named(tctoken=cursor.fetchone()[0])
    deleted = 0
    while count := _prune_batch():
        deleted += count
    return _named(tctoken=deleted)


def _prune_batch() -> int:
    with transaction.atomic(), connection.cursor() as cursor:
        if not _is_alone(cursor):
            return 0
        cursor.execute(_DELETE_EXPIRED, {"cutoff": _cutoff(cursor), "batch": BATCH})
        return int(cursor.rowcount)


def _cutoff(cursor: Any) -> int:
    cursor.execute(_CUTOFF, [BUCKET_SECONDS, BUCKETS - 1, BUCKET_SECONDS])
    return int(cursor.fetchone()[0])


def _is_alone(cursor: Any) -> bool:
    cursor.execute("SELECT pg_try_advisory_xact_lock(%s)", [LOCK])
    return bool(cursor.fetchone()[0])


def _named(**counts: int) -> dict[str, int]:
    return {key_type: count for key_type, count in counts.items() if count}


_ORPHANED = """
SELECT salon.id FROM whatsapp_salon salon
WHERE NOT EXISTS (
    SELECT FROM whatsapp_auth WHERE company_id = 'company_' || salon.salon_id)
AND EXISTS (
    SELECT FROM whatsapp_keys WHERE company_id = 'company_' || salon.salon_id)
ORDER BY salon.id
"""


def prune_orphans(*, dry_run: bool = False) -> dict[str, int]:
    """Delete the keys of salons that have no creds at all.

    Without the creds that they belong to they open nothing. For an operator, never by
    itself: he may be about to bring lost creds back from a backup.

    Args:
        dry_run: delete nothing.

    Returns:
        How many went, or would go, by type of key.
    """
    total: Counter[str] = Counter()
    for salon in orphaned():
        total.update(prune_orphans_of(salon, dry_run=dry_run))
    return dict(total)


def orphaned() -> list[Salon]:
    """Return the salons that have keys and no creds."""
    with connection.cursor() as cursor:
        cursor.execute(_ORPHANED)
        pks = [row[0] for row in cursor.fetchall()]
    return list(Salon.objects.filter(pk__in=pks).order_by("pk"))


def prune_orphans_of(salon: Salon, *, dry_run: bool = False) -> Counter[str]:
    """Do as :func:`prune_orphans` with one salon."""
    # Who stores new creds, with new keys, holds the session's row; once it is ours,
    # the next statement sees what he has stored.
    with sessions.locked(salon), connection.cursor() as cursor:
        if credentials.stored(salon).state is not CredsState.ABSENT:
            return Counter()
        if dry_run:
            cursor.execute(
                "SELECT key_type FROM whatsapp_keys WHERE company_id = %s",
                [salon.session_id],
            )
        else:
            cursor.execute(
                "DELETE FROM whatsapp_keys WHERE company_id = %s RETURNING key_type",
                [salon.session_id],
            )
        return Counter(row[0] for row in cursor.fetchall())


# --- who has too many -----------------------------------------------------------------

_TODAY = "(now() AT TIME ZONE 'UTC')::date"
_COUNTED = f"SELECT EXISTS (SELECT FROM whatsapp_keycount WHERE day = {_TODAY})"  # noqa: S608
_COUNT = f"""
INSERT INTO whatsapp_keycount (salon_id, day, total, by_type)
SELECT salon.id, {_TODAY}, sum(n), jsonb_object_agg(key_type, n)
FROM (SELECT company_id, key_type, count(*) AS n FROM whatsapp_keys GROUP BY 1, 2) c
JOIN whatsapp_salon salon ON c.company_id = 'company_' || salon.salon_id
GROUP BY salon.id
"""  # noqa: S608
_FORGET = f"DELETE FROM whatsapp_keycount WHERE day < {_TODAY} - %s"  # noqa: S608
# Days up to the one on which the phone was linked say nothing: its keys came then.
_GROWN = f"""
SELECT salon.salon_id, today.total, today.by_type::text,
       low.total, low.by_type::text, today.day - low.day
FROM whatsapp_keycount today
JOIN whatsapp_salon salon ON salon.id = today.salon_id
LEFT JOIN whatsapp_auth auth ON auth.company_id = 'company_' || salon.salon_id
CROSS JOIN LATERAL (
    SELECT total, by_type, day FROM whatsapp_keycount earlier
    WHERE earlier.salon_id = today.salon_id
      AND earlier.day < today.day AND earlier.day >= today.day - %(days)s
      AND earlier.day > coalesce(
          (auth.created_at AT TIME ZONE 'UTC')::date, earlier.day - 1)
    ORDER BY total, day LIMIT 1
) low
WHERE today.day = {_TODAY}
  AND today.total > low.total * %(factor)s AND today.total > low.total + %(rows)s
ORDER BY salon.salon_id
"""  # noqa: S608


@dataclass(frozen=True, slots=True)
class Growth:
    """A salon whose keys have grown abnormally."""

    salon_id: int
    before: int
    now: int
    days: int
    by_type: dict[str, int]
    """What came, by type of key; only what has changed."""

    def __str__(self) -> str:
        parts = [f"{key_type} {more:+d}" for key_type, more in self.by_type.items()]
        return ", ".join(parts)


def count() -> list[Growth]:
    """Count every salon's keys once a day, and tell operators who has grown too much.

    Returns:
        Who has; empty also if today's count is there already.
    """
    with transaction.atomic(), connection.cursor() as cursor:
        if not _is_alone(cursor):
            return []
        cursor.execute(_COUNTED)
        if cursor.fetchone()[0]:
            return []
        cursor.execute(_COUNT)
        cursor.execute(_FORGET, [KEEP_DAYS])
    found = grown()
    for one in found:
        logger.error(
            "company_%d has %d keys, %d days ago it had %d (%s): see Growth in"
            " docs/operations.md",
            one.salon_id,
            one.now,
            one.days,
            one.before,
            one,
            extra=alerts.tags(
                "key_growth",
                company_id=f"company_{one.salon_id}",
                category="maintenance",
            ),
        )
    return found


def grown() -> list[Growth]:
    """Return who has grown too much, by today's count; none before there is one."""
    with connection.cursor() as cursor:
        cursor.execute(
            _GROWN, {"days": GROWN_DAYS, "factor": GROWN_FACTOR, "rows": GROWN_ROWS}
        )
        return [_growth(*row) for row in cursor.fetchall()]


def _growth(
    salon_id: int, now: int, now_by: str, before: int, before_by: str, days: int
) -> Growth:
    more = Counter(json.loads(now_by))
    more.subtract(json.loads(before_by))
    by_type = {
        key_type: number
        for key_type, number in sorted(more.items(), key=lambda item: -item[1])
        if number
    }
    return Growth(salon_id, before, now, days, by_type)
