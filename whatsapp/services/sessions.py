"""A salon's connection: what is wanted of it, who runs it, and what is true of it."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

from django.db import connection, transaction
from django.db.models import F
from django.db.models.functions import Now

from whatsapp import events
from whatsapp.models import PairingAttempt, Salon, WhatsAppSession
from whatsapp.services import audit, credentials
from whatsapp.services.credentials import StoredCreds

Status = WhatsAppSession.Status


@contextmanager
def locked(salon: Salon) -> Iterator[WhatsAppSession]:
    """Hold the salon's session row for a transaction; it is made if missing.

    Everything that changes a salon's link takes this row first, so that two changes
    are one after the other and cannot deadlock.
    """
    with transaction.atomic():
        rows = WhatsAppSession.objects.select_for_update()
        session = rows.filter(salon=salon).first()
        if session is None:
            WhatsAppSession.objects.bulk_create(
                [WhatsAppSession(salon=salon)], ignore_conflicts=True
            )
            session = rows.get(salon=salon)
        yield session


def set_status(
    session: WhatsAppSession,
    status: str,
    reason: str = "",
    retry_in: float | None = None,
) -> None:
    """Change the status of a locked row, raise its revision, and tell the pages.

    Args:
        session: locked.
        status: the new one.
        reason: an error code or the number of a disconnect; why.
        retry_in: seconds in which no gateway may start it; None: no such wait.
    """
    if session.status != status:
        session.since = Now()
    session.status = status
    session.reason = reason
    session.retry_at = None if retry_in is None else Now() + timedelta(seconds=retry_in)
    touch(session)


def touch(session: WhatsAppSession) -> None:
    """Save a locked row as a new revision and tell the pages."""
    session.revision = F("revision") + 1
    session.save()
    events.publish(session.salon_id)


def settle(session: WhatsAppSession, creds: StoredCreds, reason: str = "") -> None:
    """Give a locked row the status of a salon on which nothing runs (any more)."""
    if not creds.linked:
        session.phone = ""
        set_status(session, Status.UNLINKED, reason)
    elif session.wanted:
        set_status(session, Status.RECONNECTING, reason)
    else:
        set_status(session, Status.STOPPED, reason)


def connect(salon: Salon, actor: str) -> None:
    """Wish the session to run; a linked salon's is resumed by a gateway."""
    with locked(salon) as session:
        credentials.discard_half_paired(salon, actor)
        creds = credentials.stored(salon)
        if creds.linked:
            _want(session)
            if session.status not in WhatsAppSession.RUNNING:
                session.phone = creds.phone
                set_status(session, Status.CONNECTING)
            else:
                touch(session)  # a stop that the owner has not carried out is undone
        audit.record(salon.pk, actor, "connect")
        events.wake_gateways(salon.pk)


def _want(session: WhatsAppSession) -> None:
    session.wanted = True
    session.retry_at = None


def disconnect(salon: Salon, actor: str) -> None:
    """Wish the session to stop. The link is kept; an open attempt is cancelled."""
    with locked(salon) as session:
        session.wanted = False
        cancel_attempt(salon)
        creds = credentials.stored(salon)
        if not creds.linked:
            settle(session, creds)
        elif not session.owner or session.status not in WhatsAppSession.RUNNING:
            set_status(session, Status.STOPPED)
        else:
            touch(session)  # the owner says "stopped" when the socket is gone
        audit.record(salon.pk, actor, "disconnect")
        events.wake_gateways(salon.pk)


def reset(salon: Salon, actor: str) -> None:
    """Forget creds, keys and open attempts at once, whatever runs or hangs.

    Works without a gateway and as often as one likes. A gateway that runs the session
    says goodbye to WhatsApp and closes; its writes are refused from the commit on,
    because the epoch is raised.
    """
    with locked(salon) as session:
        creds = credentials.stored(salon)
        cancel_attempt(salon)
        credentials.erase(salon)
        if session.owner and creds.linked:
            session.unlink_epoch = session.epoch
        session.epoch += 1
        session.resets += 1
        session.wanted = True
        session.phone = ""
        set_status(session, Status.UNLINKED)
        audit.record(salon.pk, actor, "reset", had_creds=creds.state.value)
        events.wake_gateways(salon.pk)


def cancel_attempt(salon: Salon, stage: str = PairingAttempt.Stage.CANCELLED) -> bool:
    """Finish the salon's open attempt without an error; its session row is locked."""
    return bool(
        PairingAttempt.objects.filter(salon=salon, finished_at=None).update(
            stage=stage, code="", qr="", qr_until=None, finished_at=Now()
        )
    )


# --- what a gateway says of the socket that it runs ----------------------------------


_START = """
WITH session AS (
    SELECT salon_id, status FROM whatsapp_whatsappsession
    WHERE salon_id = %(salon)s AND owner = %(owner)s AND epoch = %(epoch)s FOR UPDATE
), bound AS (
    UPDATE whatsapp_pairingattempt a SET epoch = %(epoch)s + 1 FROM session
    WHERE a.id = %(attempt)s::bigint AND a.finished_at IS NULL
    RETURNING a.id
)
UPDATE whatsapp_whatsappsession s
SET epoch = %(epoch)s + 1, unlink_epoch = NULL, status = %(status)s,
    reason = CASE WHEN s.status = %(status)s THEN s.reason ELSE '' END,
    retry_at = CASE WHEN s.status = %(status)s THEN s.retry_at END,
    since = CASE WHEN s.status = %(status)s THEN s.since ELSE now() END,
    revision = s.revision + CASE WHEN s.status = %(status)s THEN 0 ELSE 1 END
FROM session
WHERE s.salon_id = session.salon_id
  AND (%(attempt)s::bigint IS NULL OR EXISTS (SELECT FROM bound))
RETURNING session.status
"""


def start(
    salon: Salon, owner: str, epoch: int, status: str, attempt_id: int | None = None
) -> int | None:
    """Raise the epoch for a new socket and say what it is for.

    Args:
        salon: the salon.
        owner: the gateway; must be the owner.
        epoch: the epoch that it acts on; another one means that things have changed.
        status: ``pairing``, ``connecting`` or ``reconnecting``.
        attempt_id: the attempt that the socket is for; it must still be open.

    Returns:
        The new epoch, or None if the gateway must look again.
    """
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(
            _START,
            {
                "salon": salon.pk,
                "owner": owner,
                "epoch": epoch,
                "status": status,
                "attempt": attempt_id,
            },
        )
        row = cursor.fetchone()
        if row is None:
            return None
        if row[0] != status:
            events.publish(salon.pk)
    return epoch + 1


def record(
    salon: Salon,
    epoch: int,
    status: str,
    reason: str = "",
    *,
    retry_in: float | None = None,
    phone: str | None = None,
) -> bool:
    """Record what became of the socket of ``epoch``; refused if it is not the last."""
    with locked(salon) as session:
        if session.epoch != epoch:
            return False
        if phone is not None:
            session.phone = phone
        if status == Status.OPEN:
            session.last_alive_at = Now()
        set_status(session, status, reason, retry_in)
    return True


def record_stopped(salon: Salon, owner: str) -> None:
    """Settle the status of a salon on which its owner runs nothing any more."""
    with locked(salon) as session:
        if session.owner != owner:
            return
        # An attempt that was asked for meanwhile is not settled away: it is taken up.
        if PairingAttempt.objects.filter(salon=salon, finished_at=None).exists():
            return
        if session.status in WhatsAppSession.RUNNING:
            settle(session, credentials.stored(salon), session.reason)


def record_logged_out(salon: Salon, epoch: int, reason: str) -> bool:
    """Archive creds that WhatsApp no longer accepts; the salon must link again."""
    with locked(salon) as session:
        if session.epoch != epoch:
            return False
        credentials.archive(salon, "logged_out")
        session.phone = ""
        session.epoch += 1
        set_status(session, Status.LOGGED_OUT, reason)
        audit.record(salon.pk, audit.SYSTEM, "logged_out", reason=reason)
    return True


def record_alive(ages: dict[int, float]) -> None:
    """Store the last proof of life of many salons in one statement.

    Args:
        ages: primary key of the salon → seconds since its last frame from WhatsApp.
    """
    with connection.cursor() as cursor:
        cursor.execute(
            "WITH free AS ("  # never wait for rows that are busy, nor deadlock
            " SELECT s.salon_id, seen.age FROM whatsapp_whatsappsession s"
            " JOIN unnest(%s::int[], %s::float8[]) AS seen(salon_id, age)"
            " ON s.salon_id = seen.salon_id FOR UPDATE OF s SKIP LOCKED)"
            " UPDATE whatsapp_whatsappsession s"
            " SET last_alive_at = now() - make_interval(secs => free.age)"
            " FROM free WHERE s.salon_id = free.salon_id",
            [list(ages), list(ages.values())],
        )


def watch(salon_pks: list[int]) -> None:
    """Note that pages of these salons are open now."""
    with transaction.atomic():
        # Rows that are busy are skipped: many processes write these at once, and none
        # may wait for another, or deadlock with it.
        free = WhatsAppSession.objects.select_for_update(skip_locked=True).filter(
            salon_id__in=salon_pks
        )
        pks = list(free.values_list("salon_id", flat=True))
        WhatsAppSession.objects.filter(salon_id__in=pks).update(watched_at=Now())
