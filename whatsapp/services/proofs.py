"""Proofs of life: the word "connected", and taking it back where nothing proves it."""

from django.db import connection, transaction

from whatsapp import events
from whatsapp.services import claims

# Never wait for rows that are busy, nor deadlock.
_ALIVE = """
WITH free AS (
    SELECT s.salon_id, s.status = 'degraded' AS degraded, seen.age
    FROM whatsapp_whatsappsession s
    JOIN unnest(%s::int[], %s::float8[]) AS seen(salon_id, age)
        ON s.salon_id = seen.salon_id
    FOR UPDATE OF s SKIP LOCKED
), proven AS (
    UPDATE whatsapp_whatsappsession s
    SET last_alive_at = now() - make_interval(secs => free.age)
    FROM free WHERE s.salon_id = free.salon_id AND NOT degraded
), restored AS (
    UPDATE whatsapp_whatsappsession s
    SET last_alive_at = now() - make_interval(secs => free.age),
        status = 'open', reason = '', since = now(), revision = s.revision + 1
    FROM free WHERE s.salon_id = free.salon_id AND degraded
    RETURNING s.salon_id
)
SELECT salon_id FROM restored
"""


def record(ages: dict[int, float]) -> list[int]:
    """Store the last proof of life of many salons in one statement.

    Args:
        ages: primary key of the salon → seconds since its last frame from WhatsApp.

    Returns:
        Those that were taken for silent, and are called open again.
    """
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(_ALIVE, [list(ages), list(ages.values())])
        restored = [row[0] for row in cursor.fetchall()]
        for pk in restored:
            events.publish(pk)
    return restored


LEFT_SECONDS = 5.0
"""A salon that was given up, for another gateway to connect it, is connected by then."""

_PROMISED = """(s.status IN ('open', 'degraded') OR (
    s.status = 'connecting' AND s.since < now() - make_interval(secs => %(left)s)
) OR (s.status IN ('connecting', 'reconnecting') AND NOT s.wanted))"""

_UNOWNED_SQL = (
    "SELECT s.salon_id, s.epoch FROM whatsapp_whatsappsession s"  # noqa: S608
    f" WHERE {_PROMISED} AND {claims.NOT_LOCKED} AND {claims.LONG_UP}"
)


# Rows that are busy are skipped: somebody is just changing them.
_DEMOTE_SQL = """
WITH free AS (
    SELECT s.salon_id FROM whatsapp_whatsappsession s
    JOIN unnest(%s::int[], %s::int[]) AS seen(salon_id, epoch)
        ON s.salon_id = seen.salon_id AND s.epoch = seen.epoch
    WHERE s.status IN ('open', 'degraded', 'connecting', 'reconnecting')
    FOR UPDATE OF s SKIP LOCKED
)
UPDATE whatsapp_whatsappsession s
SET status = CASE WHEN s.wanted THEN 'reconnecting' ELSE 'stopped' END,
    reason = CASE WHEN s.wanted THEN 'gateway_lost' ELSE '' END,
    retry_at = NULL, since = now(), revision = s.revision + 1
FROM free WHERE s.salon_id = free.salon_id RETURNING s.salon_id
"""


def demote_unowned(grace: float | None = None) -> list[int]:
    """Take back the word "connected" where no gateway stands behind it any more.

    A gateway's locks end with it, and so do its sockets; without this the status
    would go on promising what died with it. Who was to be stopped is stopped by that.
    Any process may call it.

    Args:
        grace: seconds since the start of the database in which its owners may still
            come back; None: claims.GRACE_SECONDS.

    Returns:
        The primary keys of the salons that it concerned.
    """
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(
            _UNOWNED_SQL,
            {
                "lock_class": claims.LOCK_CLASS,
                "grace": claims.GRACE_SECONDS if grace is None else grace,
                "left": LEFT_SECONDS,
            },
        )
        unowned = cursor.fetchall()
        if not unowned:
            return []
        # A gateway that has claimed a salon meanwhile has raised its epoch.
        pks, epochs = zip(*unowned, strict=True)
        cursor.execute(_DEMOTE_SQL, [list(pks), list(epochs)])
        demoted = [row[0] for row in cursor.fetchall()]
        for pk in demoted:
            events.publish(pk)
    return demoted


SILENT_SECONDS = 90.0
"""No proof of life is older while a gateway says "open": it notices long before."""

_IS_SILENT = """
status = 'open' AND coalesce(last_alive_at, since) < now() - make_interval(secs => %(silent)s)
"""

_SILENT_SQL = f"""
WITH free AS (
    SELECT salon_id FROM whatsapp_whatsappsession WHERE {_IS_SILENT}
    FOR UPDATE SKIP LOCKED
)
UPDATE whatsapp_whatsappsession s
SET status = 'degraded', reason = 'silent', since = now(), revision = s.revision + 1
FROM free WHERE s.salon_id = free.salon_id RETURNING s.salon_id
"""  # noqa: S608


def demote_silent(seconds: float = SILENT_SECONDS) -> list[int]:
    """Take back the word "connected" where nobody has proved it for too long.

    A gateway that hangs may go on holding its locks for a while. Any process may call
    it.

    Returns:
        The primary keys of the salons that it concerned.
    """
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(_SILENT_SQL, {"silent": seconds})
        demoted = [row[0] for row in cursor.fetchall()]
        for pk in demoted:
            events.publish(pk)
    return demoted


_ARE_SOME_UNPROVED_SQL = f"""
SELECT EXISTS ({_UNOWNED_SQL}), EXISTS (
    SELECT FROM whatsapp_whatsappsession WHERE {_IS_SILENT}
)
"""  # noqa: S608


def demote_unproved() -> None:
    """Do both, :func:`demote_unowned` and :func:`demote_silent`, if there is need.

    One query says that there is none.
    """
    with connection.cursor() as cursor:
        cursor.execute(
            _ARE_SOME_UNPROVED_SQL,
            {
                "lock_class": claims.LOCK_CLASS,
                "grace": claims.GRACE_SECONDS,
                "left": LEFT_SECONDS,
                "silent": SILENT_SECONDS,
            },
        )
        unowned, silent = cursor.fetchone()
    if unowned:
        demote_unowned()
    if silent:
        demote_silent()
