"""What operators are told of sessions: everything but the secrets."""

import json
from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, TypedDict

from django.db import connection
from django.db.models import Count

from whatsapp.models import Salon, WhatsAppSession
from whatsapp.phones import mask_phone
from whatsapp.services import claims
from whatsapp.services.credentials import CredsState


class AttemptReport(TypedDict):
    """An unfinished link attempt."""

    kind: str
    stage: str
    phone: str
    deadline: str


class SessionReport(TypedDict):
    """One salon's session. Phones are masked, times are ISO 8601 in UTC."""

    salon_id: int
    session_id: str
    title: str
    status: str
    reason: str
    phone: str
    since: str
    wanted: bool
    retry_at: str | None
    owner: str
    epoch: int
    last_alive_at: str | None
    creds: str
    keys: dict[str, int]
    attempt: AttemptReport | None


_SQL = """
SELECT salon.salon_id, salon.title,
       coalesce(s.status, 'unlinked'), coalesce(s.reason, ''), coalesce(s.phone, ''),
       coalesce(s.since, salon.created_at), coalesce(s.wanted, true),
       CASE WHEN s.retry_at > now() THEN s.retry_at END,
       coalesce(s.owner, ''), coalesce(s.epoch, 0), s.last_alive_at,
       creds.state,
       coalesce((
           SELECT jsonb_object_agg(key_type, count ORDER BY key_type) FROM (
               SELECT key_type, count(*) FROM whatsapp_keys
               WHERE company_id = 'company_' || salon.salon_id GROUP BY key_type
           ) counts
       ), '{}')::text,
       a.kind, a.stage, a.phone, a.deadline
FROM whatsapp_salon salon
LEFT JOIN whatsapp_whatsappsession s ON s.salon_id = salon.id
LEFT JOIN whatsapp_credsindex creds ON creds.company_id = 'company_' || salon.salon_id
LEFT JOIN whatsapp_pairingattempt a ON a.salon_id = salon.id AND a.finished_at IS NULL
WHERE %(pk)s::int IS NULL OR salon.id = %(pk)s
ORDER BY salon.salon_id
"""


def sessions(salon_pk: int | None = None) -> list[SessionReport]:
    """Return a report on one salon's session, or on all, in one query."""
    with connection.cursor() as cursor:
        cursor.execute(_SQL, {"pk": salon_pk})
        rows = cursor.fetchall()
    return [
        {
            "salon_id": row[0],
            "session_id": f"company_{row[0]}",
            "title": row[1],
            "status": row[2],
            "reason": row[3],
            "phone": mask_phone(row[4]),
            "since": _iso(row[5]) or "",
            "wanted": row[6],
            "retry_at": _iso(row[7]),
            "owner": row[8],
            "epoch": row[9],
            "last_alive_at": _iso(row[10]),
            "creds": row[11] or CredsState.ABSENT.value,
            "keys": json.loads(row[12]),
            "attempt": _attempt(*row[13:17]),
        }
        for row in rows
    ]


def _attempt(
    kind: str | None, stage: str, phone: str, deadline: datetime
) -> AttemptReport | None:
    if kind is None:
        return None
    return {
        "kind": kind,
        "stage": stage,
        "phone": mask_phone(phone),
        "deadline": _iso(deadline) or "",
    }


def _iso(moment: datetime | None) -> str | None:
    if moment is None:
        return None
    return moment.astimezone(UTC).isoformat(timespec="seconds")


# --- the keys of one salon ------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class KeyCount:
    """How many Signal keys of a type there are, and how many of them are new."""

    key_type: str
    total: int
    day: int
    week: int


def key_counts(salon: Salon) -> list[KeyCount]:
    """Return how many keys ``salon`` has and how they grow, in one query."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT key_type, count(*),"
            " count(*) FILTER (WHERE created_at > now() - interval '1 day'),"
            " count(*) FILTER (WHERE created_at > now() - interval '7 days')"
            " FROM whatsapp_keys WHERE company_id = %s"
            " GROUP BY key_type ORDER BY key_type",
            [salon.session_id],
        )
        return [KeyCount(*row) for row in cursor.fetchall()]


# --- all salons at a glance -----------------------------------------------------------

OVERDUE_SECONDS = 600
"""Who is connecting for longer than this needs somebody to look."""

SILENT_SECONDS = 180
"""Proofs of life are stored twice a minute: an older one of an open session is odd."""

RECENT_DAYS = 7
"""A logout is news for so long; then the salon has simply left."""

ATTENTION_LIMIT = 25
OUTCOMES = ("linked", "failed", "expired", "cancelled", "open")
"""What attempts come to; superseded ones are cancelled, too."""


@dataclass(frozen=True, slots=True)
class Trouble:
    """A salon that somebody should look at, and what for."""

    salon_pk: int
    salon_id: int
    title: str
    status: str
    kind: str
    """``status``: the status says it; else ``slow`` or ``silent``."""
    reason: str
    since: datetime
    last_alive_at: datetime | None


@dataclass(slots=True)
class GatewayReport:
    """What one gateway owns."""

    name: str
    is_gone: bool = True
    """It holds the lock of none of its salons."""
    states: Counter[str] = field(default_factory=Counter)
    oldest_alive: datetime | None = None
    """Of its open sessions."""


@dataclass(frozen=True, slots=True)
class Overview:
    """How the whole service is."""

    states: dict[str, int]
    troubles: list[Trouble]
    trouble_count: int
    hours: list[tuple[datetime, Counter[str]]]
    """The last 24 hours, the present one last: attempts by outcome."""
    days: list[tuple[datetime, Counter[str]]]
    """The last 14 days, today last."""
    median_seconds: float | None
    """From asking for a code to being connected, in those days."""
    linked_count: int
    """So many links is it the median of."""
    gateways: list[GatewayReport]


_TROUBLES = """
SELECT salon.id, salon.salon_id, salon.title, s.status,
       CASE WHEN s.status IN ('reconnecting', 'connecting') THEN 'slow'
            WHEN s.status = 'open' THEN 'silent' ELSE 'status' END,
       s.reason, s.since, s.last_alive_at, count(*) OVER ()
FROM whatsapp_whatsappsession s JOIN whatsapp_salon salon ON salon.id = s.salon_id
WHERE s.status IN ('needs_attention', 'banned', 'outdated', 'replaced', 'degraded')
   OR (s.status = 'logged_out' AND s.since > now() - make_interval(days => %(days)s))
   OR (s.status IN ('reconnecting', 'connecting')
       AND s.since < now() - make_interval(secs => %(overdue)s))
   OR (s.status = 'open' AND s.since < now() - make_interval(secs => %(silent)s)
       AND coalesce(s.last_alive_at, s.since)
           < now() - make_interval(secs => %(silent)s))
ORDER BY array_position(
    ARRAY['needs_attention', 'banned', 'outdated', 'replaced', 'logged_out',
          'reconnecting', 'connecting', 'open', 'degraded'], s.status::text
), s.since DESC
LIMIT %(limit)s
"""

_ATTEMPTS = """
SELECT date_trunc('hour', requested_at, 'UTC'),
       CASE stage WHEN 'linked' THEN 'linked' WHEN 'failed' THEN 'failed'
            WHEN 'expired' THEN 'expired' WHEN 'superseded' THEN 'cancelled'
            WHEN 'cancelled' THEN 'cancelled' ELSE 'open' END,
       count(*)
FROM whatsapp_pairingattempt
WHERE requested_at >= date_trunc('day', now(), 'UTC') - interval '13 days'
GROUP BY 1, 2
"""

# Of codes only: a QR is on the page before anybody has thought of scanning it.
_MEDIAN = """
SELECT percentile_cont(0.5) WITHIN GROUP (
           ORDER BY extract(epoch FROM finished_at - requested_at)),
       count(*), now()
FROM whatsapp_pairingattempt
WHERE requested_at >= date_trunc('day', now(), 'UTC') - interval '13 days'
  AND kind = 'code' AND stage = 'linked'
"""

_GATEWAYS = """
SELECT s.owner, s.status, count(*), bool_or(l.objid IS NOT NULL),
       min(s.last_alive_at) FILTER (WHERE s.status IN ('open', 'degraded'))
FROM whatsapp_whatsappsession s
LEFT JOIN (
    SELECT DISTINCT objid::bigint FROM pg_locks
    WHERE locktype = 'advisory' AND classid = %(lock_class)s AND objsubid = 2 AND granted
      AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
) l ON l.objid = s.salon_id
WHERE s.owner <> ''
GROUP BY s.owner, s.status ORDER BY s.owner, s.status
"""


def states(salons: Any) -> dict[str, int]:
    """Return how many of ``salons`` (a query set) are in each status, in one query."""
    rows = salons.order_by().values_list("session__status").annotate(n=Count("pk"))
    counts: Counter[str] = Counter()
    for status, number in rows:
        counts[status or WhatsAppSession.Status.UNLINKED] += number
    return {status: counts[status] for status in WhatsAppSession.Status.values}


def overview() -> Overview:
    """Return how the whole service is, by a handful of queries."""
    with connection.cursor() as cursor:
        cursor.execute(
            _TROUBLES,
            {
                "days": RECENT_DAYS,
                "overdue": OVERDUE_SECONDS,
                "silent": SILENT_SECONDS,
                "limit": ATTENTION_LIMIT,
            },
        )
        troubles = cursor.fetchall()
        cursor.execute(_ATTEMPTS)
        attempts = cursor.fetchall()
        cursor.execute(_MEDIAN)
        ((median, linked, now),) = cursor.fetchall()
        cursor.execute(_GATEWAYS, {"lock_class": claims.LOCK_CLASS})
        gateways = cursor.fetchall()
    hour = now.astimezone(UTC).replace(minute=0, second=0, microsecond=0)
    day = hour.replace(hour=0)
    return Overview(
        states=states(Salon.objects.all()),
        troubles=[Trouble(*row[:8]) for row in troubles],
        trouble_count=troubles[0][8] if troubles else 0,
        hours=_buckets(attempts, hour, timedelta(hours=1), 24),
        days=_buckets(attempts, day, timedelta(days=1), 14),
        median_seconds=None if median is None else float(median),
        linked_count=linked,
        gateways=_gateways(gateways),
    )


def _buckets(
    rows: list[tuple[datetime, str, int]], last: datetime, step: timedelta, count: int
) -> list[tuple[datetime, Counter[str]]]:
    buckets = [(last - step * back, Counter[str]()) for back in reversed(range(count))]
    for hour, outcome, number in rows:
        index = (hour - buckets[0][0]) // step
        if 0 <= index < count:
            buckets[index][1][outcome] += number
    return buckets


def _gateways(rows: list[tuple[Any, ...]]) -> list[GatewayReport]:
    reports: dict[str, GatewayReport] = {}
    for owner, status, count, locked, oldest in rows:
        report = reports.setdefault(owner, GatewayReport(owner))
        report.states[status] += count
        report.is_gone = report.is_gone and not locked
        if oldest and (report.oldest_alive is None or oldest < report.oldest_alive):
            report.oldest_alive = oldest
    return list(reports.values())
