"""Which gateway runs a salon, what there is to do for it, and what nobody runs.

The database decides: a salon belongs to whoever holds its advisory lock; the row says
who that is, for people, and carries the epoch that fences the one before.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from django.db import connection, transaction

from whatsapp import events
from whatsapp.models import Salon, WhatsAppSession
from whatsapp.services import credentials
from whatsapp.services.credentials import StoredCreds

LOCK_CLASS = 0x57415053
"""First half of a salon's advisory lock; the second is its primary key."""

GRACE_SECONDS = 4.0
"""A database that has restarted has forgotten all locks. For so long it leaves salons to
their owners, who have kept the sockets open and come back for them."""


@dataclass(frozen=True, slots=True)
class OpenAttempt:
    """The unfinished attempt of a salon, as the gateway needs it."""

    id: int
    kind: str
    phone: str
    stage: str
    epoch: int | None
    remaining: float
    """Seconds until the deadline of its stage."""
    fresh: bool
    """Link anew although creds are stored."""
    age: float
    """Seconds since it was asked for."""


@dataclass(frozen=True, slots=True)
class Work:
    """Everything that a gateway decides by, read at one moment."""

    salon: Salon
    status: str
    wanted: bool
    epoch: int
    unlink_epoch: int | None
    wait: float
    """Seconds until it may be started; 0 = now."""
    creds: StoredCreds
    attempt: OpenAttempt | None
    reason: str
    status_age: float
    """Seconds since the status last changed."""


_WORK_SQL = """
SELECT salon.id, salon.salon_id, salon.title, salon.expected_phone,
       salon.shared_phone_allowed,
       s.status, s.wanted, s.epoch, s.unlink_epoch,
       coalesce(extract(epoch FROM s.retry_at - now()), 0)::float8,
       creds.state, creds.jid,
       a.id, a.kind, a.phone, a.stage, a.epoch,
       extract(epoch FROM a.deadline - now())::float8, a.fresh,
       extract(epoch FROM now() - a.requested_at)::float8,
       s.reason, extract(epoch FROM now() - s.since)::float8
FROM whatsapp_salon salon
JOIN whatsapp_whatsappsession s ON s.salon_id = salon.id
LEFT JOIN whatsapp_credsindex creds ON creds.company_id = 'company_' || salon.salon_id
LEFT JOIN whatsapp_pairingattempt a ON a.salon_id = salon.id AND a.finished_at IS NULL
WHERE salon.id = ANY(%s) AND s.owner = %s
"""


def work(salon_pk: int, owner: str) -> Work | None:
    """Return what there is to do for a salon, or None if ``owner`` does not own it."""
    return works([salon_pk], owner).get(salon_pk)


def works(salon_pks: list[int], owner: str) -> dict[int, Work]:
    """Return what there is to do for those of the salons that ``owner`` owns."""
    with connection.cursor() as cursor:
        cursor.execute(_WORK_SQL, [salon_pks, owner])
        return {row[0]: _work(row) for row in cursor.fetchall()}


def _work(row: tuple[Any, ...]) -> Work:
    salon = Salon(
        id=row[0],
        salon_id=row[1],
        title=row[2],
        expected_phone=row[3],
        shared_phone_allowed=row[4],
    )
    creds = credentials.classify(row[10], row[11])
    attempt = None
    if row[12] is not None:
        attempt = OpenAttempt(*row[12:20])
    return Work(
        salon,
        row[5],
        row[6],
        row[7],
        row[8],
        max(0.0, row[9]),
        creds,
        attempt,
        *row[20:22],
    )


# Of a session s: no gateway has the salon.
NOT_LOCKED = """NOT EXISTS (
    SELECT FROM pg_locks l
    WHERE l.locktype = 'advisory' AND l.classid = %(lock_class)s
      AND l.objid = s.salon_id AND l.objsubid = 2 AND l.granted
      AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
)"""

LONG_UP = "now() - pg_postmaster_start_time() > make_interval(secs => %(grace)s)"

# Whose owner of before may still come back for it is left to him.
_MAY_TAKE = f"(s.owner IN ('', %(owner)s) OR (NOT %(patient)s::boolean AND {LONG_UP}))"

# A salon wants a gateway when a link is being tried, when a linked session should run,
# or when its status promises a gateway at work although none is.
_CANDIDATES_SQL = f"""
SELECT s.salon_id
FROM whatsapp_whatsappsession s
JOIN whatsapp_salon salon ON salon.id = s.salon_id
LEFT JOIN whatsapp_pairingattempt a ON a.salon_id = s.salon_id AND a.finished_at IS NULL
LEFT JOIN whatsapp_credsindex creds ON creds.company_id = 'company_' || salon.salon_id
WHERE {NOT_LOCKED} AND {_MAY_TAKE}
AND (
    a.id IS NOT NULL
    OR s.status = ANY(%(running)s)
    OR (
        s.wanted AND s.status <> 'banned'
        AND (s.retry_at IS NULL OR s.retry_at <= now())
        AND creds.state = 'linked'
    )
)
ORDER BY a.id IS NULL, s.salon_id
LIMIT %(limit)s
"""  # noqa: S608


def candidates(limit: int, owner: str = "", *, patient: bool = False) -> list[int]:
    """Return salons that want a gateway and have none, those with an attempt first.

    Args:
        limit: how many at most.
        owner: the gateway that asks.
        patient: leave out those that another gateway has not given up.
    """
    with connection.cursor() as cursor:
        cursor.execute(
            _CANDIDATES_SQL,
            {
                "lock_class": LOCK_CLASS,
                "running": [str(status) for status in WhatsAppSession.RUNNING],
                "limit": limit,
                "owner": owner,
                "patient": patient,
                "grace": GRACE_SECONDS,
            },
        )
        return [row[0] for row in cursor.fetchall()]


_IS_HELD_SQL = (
    f"SELECT NOT ({NOT_LOCKED}) OR (s.owner <> '' AND NOT {LONG_UP})"  # noqa: S608
    " FROM whatsapp_whatsappsession s WHERE s.salon_id = %(salon)s"
)


def is_held(salon_pk: int) -> bool:
    """Say whether a gateway has this salon, or may just be coming back for it."""
    with connection.cursor() as cursor:
        cursor.execute(
            _IS_HELD_SQL,
            {"lock_class": LOCK_CLASS, "grace": GRACE_SECONDS, "salon": salon_pk},
        )
        row = cursor.fetchone()
    return bool(row and row[0])


def forget_owners() -> None:
    """Note that no gateway of before is alive: the database has just begun, with us."""
    WhatsAppSession.objects.exclude(owner="").update(owner="")


_SETTLE_LOST_SQL = """
WITH lost AS (
    SELECT salon_id FROM whatsapp_whatsappsession
    WHERE owner = %(owner)s AND NOT salon_id = ANY(%(kept)s)
    FOR UPDATE
), demoted AS (
    UPDATE whatsapp_whatsappsession s
    SET owner = '', status = 'reconnecting', reason = '1010', since = now(),
        revision = s.revision + 1
    FROM lost WHERE s.salon_id = lost.salon_id AND s.status IN ('open', 'degraded')
    RETURNING s.salon_id
), freed AS (
    UPDATE whatsapp_whatsappsession s SET owner = ''
    FROM lost WHERE s.salon_id = lost.salon_id
      AND s.status NOT IN ('open', 'degraded')
)
SELECT salon_id FROM demoted
"""


def settle_lost(owner: str, kept: list[int]) -> list[int]:
    """Say of which salons a gateway that was cut off has closed the sockets.

    Args:
        owner: the gateway.
        kept: the salons that it still runs.

    Returns:
        Those that were called connected until now.
    """
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(_SETTLE_LOST_SQL, {"owner": owner, "kept": kept})
        demoted = [row[0] for row in cursor.fetchall()]
        for pk in demoted:
            events.publish(pk)
    return demoted


def views(owner: str) -> list[tuple[int, int, bool, int | None]]:
    """Return what a gateway's salons look like now.

    Returns:
        (salon's primary key, epoch, wanted, open attempt's id or None) of each salon.
    """
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT s.salon_id, s.epoch, s.wanted, a.id"
            " FROM whatsapp_whatsappsession s"
            " LEFT JOIN whatsapp_pairingattempt a"
            " ON a.salon_id = s.salon_id AND a.finished_at IS NULL"
            " WHERE s.owner = %s",
            [owner],
        )
        rows: list[tuple[int, int, bool, int | None]] = cursor.fetchall()
    return rows


_TAKE_OVER_SQL = f"""
UPDATE whatsapp_whatsappsession s SET owner = %(owner)s, epoch = epoch + 1
WHERE s.salon_id = ANY(%(salons)s) AND {_MAY_TAKE}
  AND (s.owner IN ('', %(owner)s) OR s.salon_id = ANY(%(ownerless)s))
RETURNING s.salon_id
"""  # noqa: S608


def take_over(
    salon_pks: list[int],
    owner: str,
    *,
    patient: bool = False,
    ownerless: list[int] | None = None,
) -> list[int]:
    """Write the new owner of salons whose locks it holds, and raise their epochs.

    From the commit on, nothing that an earlier owner still has in flight is accepted.

    Args:
        salon_pks: the salons.
        owner: the gateway.
        patient: leave those alone that another gateway has not given up.
        ownerless: those that nobody has locked for a while: their owner does not come
            back for them. None: all.

    Returns:
        Those that are the gateway's now.
    """
    with connection.cursor() as cursor:
        cursor.execute(
            _TAKE_OVER_SQL,
            {
                "ownerless": salon_pks if ownerless is None else ownerless,
                "salons": salon_pks,
                "owner": owner,
                "patient": patient,
                "grace": GRACE_SECONDS,
            },
        )
        return [row[0] for row in cursor.fetchall()]


def still_owned(salon_pks: Iterable[int], owner: str) -> set[int]:
    """Return those salons of which ``owner`` is still the owner."""
    rows = WhatsAppSession.objects.filter(salon_id__in=list(salon_pks), owner=owner)
    return set(rows.values_list("salon_id", flat=True))


_GIVE_UP_SQL = """
UPDATE whatsapp_whatsappsession s
SET owner = '',
    status = CASE WHEN up THEN 'connecting' ELSE s.status END,
    reason = CASE WHEN up THEN '' ELSE s.reason END,
    since = CASE WHEN up THEN now() ELSE s.since END,
    revision = s.revision + CASE WHEN up THEN 1 ELSE 0 END
FROM (
    SELECT salon_id, status IN ('open', 'degraded') AS up
    FROM whatsapp_whatsappsession
    WHERE salon_id = ANY(%s) AND owner = %s FOR UPDATE
) given
WHERE s.salon_id = given.salon_id
"""


def give_up(salon_pks: Iterable[int], owner: str) -> None:
    """Clear the owner of salons, before their locks are released.

    Those that were connected are not any more: another gateway is about to connect
    them. Pages hear of it from that one.
    """
    with connection.cursor() as cursor:
        cursor.execute(_GIVE_UP_SQL, [list(salon_pks), owner])
