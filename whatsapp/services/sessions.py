"""A salon's connection: what is wanted of it, who runs it, and what is true of it."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from enum import StrEnum

from django.db import DEFAULT_DB_ALIAS, connection, transaction
from django.db.models import F
from django.db.models.functions import Now

from whatsapp import events
from whatsapp.errors import ErrorCode, WhatsAppError
from whatsapp.models import PairingAttempt, Salon, WhatsAppSession
from whatsapp.services import archives, audit, credentials
from whatsapp.services.credentials import StoredCreds

Status = WhatsAppSession.Status


class Reconnected(StrEnum):
    """What became of the wish to connect anew."""

    STARTED = "started"
    LEFT_OPEN = "left_open"
    """It is connected, and whoever asked wanted to leave such salons alone."""
    UNDER_WAY = "under_way"
    """It is being connected already, likewise."""
    NOT_LINKED = "not_linked"
    BANNED = "banned"
    """Trying makes it worse: the salon looks into WhatsApp on its phone first."""
    LINKING = "linking"
    """A phone is just being linked; a new connection would cut that off."""


class Disconnected(StrEnum):
    """What became of the wish to stop."""

    STOPPED = "stopped"
    STOPPING = "stopping"
    """The owner says "stopped" when its socket is gone."""
    ALREADY = "already"
    NOT_LINKED = "not_linked"


class Restored(StrEnum):
    """What became of the wish to bring an archived link back."""

    STARTED = "started"
    LINKED = "linked"
    """A phone is linked now: its link has to be reset first."""
    GONE = "gone"
    """There is no such archived link (any more)."""
    UNREADABLE = "unreadable"
    """It is encrypted with a key that is not configured."""


@contextmanager
def locked(salon: Salon) -> Iterator[WhatsAppSession]:
    """Hold the salon's session row for a transaction; it is made if missing.

    Everything that changes a salon's link takes this row first, so that two changes
    are one after the other and cannot deadlock.
    """
    with transaction.atomic():
        session = _locked_row(salon)
        if session is None:
            WhatsAppSession.objects.bulk_create(
                [WhatsAppSession(salon=salon)], ignore_conflicts=True
            )
            session = _locked_row(salon)
        assert session is not None  # noqa: S101  (somebody has inserted it)
        yield session


_FIELDS = [field.attname for field in WhatsAppSession._meta.concrete_fields]
_LOCK = (
    f"SELECT {', '.join(_FIELDS)} FROM whatsapp_whatsappsession"  # noqa: S608
    " WHERE salon_id = %s FOR UPDATE"
)


def _locked_row(salon: Salon) -> WhatsAppSession | None:
    # Every change begins here: Django would compile the same query each time.
    with connection.cursor() as cursor:
        cursor.execute(_LOCK, [salon.pk])
        row = cursor.fetchone()
    return row and WhatsAppSession.from_db(DEFAULT_DB_ALIAS, _FIELDS, row)


def lock_epoch(salon: Salon) -> int | None:
    """Hold the salon's session row for the running transaction; return its epoch.

    For what happens to many salons at once: :func:`locked` reads all of the row.
    """
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT epoch FROM whatsapp_whatsappsession WHERE salon_id = %s FOR UPDATE",
            [salon.pk],
        )
        row = cursor.fetchone()
    return None if row is None else int(row[0])


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


def reconnect(salon: Salon, actor: str, *, leave_open: bool = False) -> Reconnected:
    """Wish the session to be closed, if it runs, and to be opened anew.

    The epoch is raised, so that the owner closes its socket and starts another, as
    after a change of owner; a pause between two tries ends.

    Args:
        salon: the salon.
        actor: who asks, for the audit.
        leave_open: do not touch a session that is connected, or is just connecting.
    """
    with locked(salon) as session:
        creds = credentials.stored_or_discarded(salon, actor)
        outcome = _judge_reconnect(session, creds, leave_open=leave_open)
        if outcome is Reconnected.STARTED:
            session.wanted = True
            session.phone = creds.phone
            session.epoch += 1
            set_status(session, Status.CONNECTING)
            events.wake_gateways(salon.pk)
        audit.record(salon.pk, actor, "reconnect", outcome=outcome.value)
    return outcome


_GOING_WELL: dict[str, Reconnected] = {
    Status.OPEN: Reconnected.LEFT_OPEN,
    Status.CONNECTING: Reconnected.UNDER_WAY,
}


def _judge_reconnect(
    session: WhatsAppSession, creds: StoredCreds, *, leave_open: bool
) -> Reconnected:
    if not creds.linked:
        return Reconnected.NOT_LINKED
    if session.status == Status.BANNED:
        return Reconnected.BANNED
    if PairingAttempt.objects.filter(salon=session.salon_id, finished_at=None).exists():
        return Reconnected.LINKING
    if leave_open and session.wanted:
        return _GOING_WELL.get(session.status, Reconnected.STARTED)
    return Reconnected.STARTED


def disconnect(salon: Salon, actor: str) -> Disconnected:
    """Wish the session to stop. The link is kept; an open attempt is cancelled."""
    with locked(salon) as session:
        outcome = Disconnected.STOPPED
        if session.status == Status.STOPPED and not session.wanted:
            outcome = Disconnected.ALREADY
        session.wanted = False
        cancel_attempt(salon)
        creds = credentials.stored(salon)
        if not creds.linked:
            settle(session, creds)
            outcome = Disconnected.NOT_LINKED
        elif not session.owner or session.status not in WhatsAppSession.RUNNING:
            set_status(session, Status.STOPPED)
        else:
            touch(session)  # the owner says "stopped" when the socket is gone
            outcome = Disconnected.STOPPING
        audit.record(salon.pk, actor, "disconnect")
        events.wake_gateways(salon.pk)
    return outcome


def restore(salon: Salon, actor: str, entry_id: int) -> Restored:
    """Bring an archived link back and wish it to run.

    Args:
        salon: the salon.
        actor: who asks, for the audit.
        entry_id: of the archived link; it must be one of this salon's.

    Raises:
        WhatsAppError: CREDENTIALS_CONFLICT, if its phone is in use in another salon.
    """
    with locked(salon) as session:
        if credentials.stored(salon).linked:
            return Restored.LINKED
        entry = archives.restorable(salon).filter(pk=entry_id).first()
        if entry is None:
            return Restored.GONE
        # The row, not the caller's object: support may just have changed its mind.
        shared = Salon.objects.values_list("shared_phone_allowed", flat=True)
        if credentials.live_elsewhere(salon, entry.phone) and not shared.get(
            pk=salon.pk
        ):
            raise WhatsAppError(ErrorCode.CREDENTIALS_CONFLICT)
        credentials.discard_half_paired(salon, actor, entry.phone)
        if not credentials.put_back(salon, actor, entry):
            return Restored.UNREADABLE
        # A page that is open shows a QR for an unlinked salon: that is over now.
        cancel_attempt(salon, PairingAttempt.Stage.SUPERSEDED)
        session.wanted = True
        session.phone = credentials.stored(salon).phone
        session.epoch += 1
        set_status(session, Status.CONNECTING)
        events.wake_gateways(salon.pk)
    return Restored.STARTED


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
SET epoch = %(epoch)s + 1, written = 0, unlink_epoch = NULL, status = %(status)s,
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
