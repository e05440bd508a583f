"""What becomes of a link attempt: shown, entered, linked, failed, over.

Each stage has a deadline in the row, so that any process can end an attempt that
nobody works on any more. The gateway's words are compare-and-set on the attempt and
on the epoch of the socket that it runs on: a late or a foreign word changes nothing.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

from django.conf import settings
from django.db import connection, transaction
from django.db.models.functions import Now

from whatsapp import alerts, events
from whatsapp.errors import ErrorCode, WhatsAppError
from whatsapp.models import PairingAttempt, Salon, WhatsAppSession
from whatsapp.phones import mask_phone, same_phone
from whatsapp.services import audit, budget, credentials, sessions
from whatsapp.services.credentials import StoredCreds

logger = logging.getLogger(__name__)

Kind = PairingAttempt.Kind
Stage = PairingAttempt.Stage
Status = WhatsAppSession.Status


@contextmanager
def _current(
    salon: Salon, attempt_id: int, epoch: int | None
) -> Iterator[tuple[WhatsAppSession, PairingAttempt | None]]:
    """Lock the session and give the attempt, if it is open and runs on ``epoch``.

    The session's own epoch counts too: a new owner has raised it before it binds the
    attempt to a socket of its own.
    """
    with sessions.locked(salon) as session:
        open_ones = PairingAttempt.objects.filter(id=attempt_id, finished_at=None)
        if epoch is not None:
            open_ones = open_ones.filter(epoch=epoch)
            if session.epoch != epoch:
                open_ones = open_ones.none()
        yield session, open_ones.first()


# One statement, because somebody is waiting in front of the page. The session's row is
# locked first, as everywhere.
_RECORD_CODE = """
WITH session AS (
    SELECT salon_id FROM whatsapp_whatsappsession
    WHERE salon_id = %(salon)s AND epoch = %(epoch)s FOR UPDATE
), shown AS (
    UPDATE whatsapp_pairingattempt a SET stage = 'shown', code = %(code)s,
        deadline = now() + make_interval(secs => %(lifetime)s)
    FROM session
    WHERE a.id = %(attempt)s AND a.salon_id = session.salon_id AND a.epoch = %(epoch)s
      AND a.finished_at IS NULL AND a.kind = 'code' AND a.stage = 'requested'
    RETURNING a.salon_id
)
UPDATE whatsapp_whatsappsession s SET revision = revision + 1
FROM shown WHERE s.salon_id = shown.salon_id
"""


def record_code(salon: Salon, attempt_id: int, epoch: int, code: str) -> bool:
    """Record a code that WhatsApp has acknowledged; the link clock starts.

    Args:
        salon: the salon.
        attempt_id: the attempt.
        epoch: of the socket that the code is bound to.
        code: eight characters.

    Returns:
        False if the attempt ended meanwhile or runs on another socket.
    """
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(
            _RECORD_CODE,
            {
                "salon": salon.pk,
                "attempt": attempt_id,
                "epoch": epoch,
                "code": f"{code[:4]}-{code[4:]}",
                "lifetime": settings.WHATSAPP_LINK_TIMEOUT,
            },
        )
        if cursor.rowcount == 0:
            return False
        events.publish(salon.pk)
    return True


def record_qr(
    salon: Salon, attempt_id: int, epoch: int, qr: str, lifetime: float
) -> bool:
    """Record the QR text to show for ``lifetime`` seconds; the first starts the clock."""
    with _current(salon, attempt_id, epoch) as (session, attempt):
        if attempt is None or attempt.kind != Kind.QR:
            return False
        attempt.qr = qr
        attempt.qr_until = Now() + timedelta(seconds=lifetime)
        if attempt.stage == Stage.REQUESTED:
            _show(attempt)
        elif attempt.stage == Stage.SHOWN:
            attempt.save()
        else:
            return False
        sessions.touch(session)
    return True


def _show(attempt: PairingAttempt) -> None:
    attempt.stage = Stage.SHOWN
    attempt.deadline = Now() + timedelta(seconds=settings.WHATSAPP_LINK_TIMEOUT)
    attempt.save()


def record_entered(salon: Salon, attempt_id: int, epoch: int) -> bool:
    """Record that a code was typed on the phone; whether it was right, time will tell."""
    with _current(salon, attempt_id, epoch) as (session, attempt):
        if attempt is None or attempt.stage not in (Stage.SHOWN, Stage.ENTERED):
            return False
        attempt.stage = Stage.ENTERED
        attempt.save()
        sessions.touch(session)
    return True


def record_linked(
    salon: Salon, attempt_id: int, epoch: int, creds: str, keys: str | None, phone: str
) -> bool:
    """Store a newly linked device: swap the creds, and start the finish clock.

    Args:
        salon: the salon.
        attempt_id: the attempt.
        epoch: of the socket that was paired.
        creds: JSON text with ``account`` and ``me.id`` with its device.
        keys: JSON text of key entries, or None.
        phone: digits of the phone that was linked.

    Returns:
        Whether the device is stored; if not, the attempt ended meanwhile and the new
        device is not wanted.

    Raises:
        WhatsAppError: CREDENTIALS_CONFLICT or WRONG_PHONE_LINKED; the attempt has
            failed with it and nothing was stored.
    """
    error = None
    with _current(salon, attempt_id, epoch) as (session, attempt):
        if attempt is None or attempt.stage == Stage.FINISHING:
            # Asked again by somebody who was not answered: it may be stored already.
            return credentials.holds(salon, creds)
        old = credentials.stored(salon)
        if not salon.shared_phone_allowed and credentials.live_elsewhere(salon, phone):
            error = ErrorCode.CREDENTIALS_CONFLICT
        elif attempt.phone and not same_phone(attempt.phone, phone):
            error = ErrorCode.WRONG_PHONE_LINKED
        if error is None:
            _store(salon, session, attempt, old, creds, keys, phone)
        else:
            finish(session, attempt, Stage.FAILED, error)
    if error is not None:
        raise WhatsAppError(error)
    return True


def _store(
    salon: Salon,
    session: WhatsAppSession,
    attempt: PairingAttempt,
    old: StoredCreds,
    creds: str,
    keys: str | None,
    phone: str,
) -> None:
    expected = attempt.phone or salon.expected_phone or old.phone
    if expected and not same_phone(expected, phone):
        credentials.note_mismatch(salon, audit.SYSTEM, expected, phone)
    credentials.swap(salon, creds, keys, phone)
    attempt.stage = Stage.FINISHING
    attempt.linked_phone = phone
    attempt.code = attempt.qr = ""
    attempt.qr_until = None
    attempt.deadline = Now() + timedelta(seconds=settings.WHATSAPP_FINISH_TIMEOUT)
    attempt.save()
    session.phone = phone
    session.wanted = True
    sessions.touch(session)


def record_open(salon: Salon, epoch: int, phone: str) -> bool:
    """Record that the salon is connected; an attempt that led here is linked.

    A code that was asked for meanwhile did not lead here: it stays what the salon
    wants, and the gateway finds it at its next look.

    Returns:
        False if the socket of ``epoch`` is not the salon's present one.
    """
    wrong = bool(salon.expected_phone) and not same_phone(phone, salon.expected_phone)
    reason = ErrorCode.WRONG_PHONE_LINKED if wrong else ""
    with transaction.atomic():
        known = sessions.lock_epoch(salon)
        if known != epoch:
            return False
        if not _reopen(salon, phone, reason):
            _open_by_attempt(salon, phone, reason)
    return True


# The row is locked before this statement takes its snapshot: no attempt can come between.
_REOPEN = """
UPDATE whatsapp_whatsappsession s
SET phone = %(phone)s, last_alive_at = now(), status = 'open', reason = %(reason)s,
    retry_at = NULL, since = CASE WHEN s.status = 'open' THEN s.since ELSE now() END,
    revision = s.revision + 1
WHERE s.salon_id = %(salon)s AND NOT EXISTS (
    SELECT FROM whatsapp_pairingattempt a
    WHERE a.salon_id = s.salon_id AND a.finished_at IS NULL)
"""


def _reopen(salon: Salon, phone: str, reason: str) -> bool:
    """Record the return of a link: a thousand at once after a restart, so without ORM."""
    with connection.cursor() as cursor:
        cursor.execute(_REOPEN, {"salon": salon.pk, "phone": phone, "reason": reason})
        if not cursor.rowcount:
            return False
    events.publish(salon.pk)
    return True


def _open_by_attempt(salon: Salon, phone: str, reason: str) -> None:
    with sessions.locked(salon) as session:
        session.phone = phone
        session.last_alive_at = Now()
        attempt = PairingAttempt.objects.get(salon=salon, finished_at=None)
        if attempt.kind == Kind.CODE and attempt.stage != Stage.FINISHING:
            session.save()
            return
        attempt.linked_phone = phone
        _close(attempt, Stage.LINKED)
        sessions.set_status(session, Status.OPEN, reason)


def fail(
    salon: Salon,
    attempt_id: int,
    epoch: int | None,
    error: ErrorCode,
    stage: str = Stage.FAILED,
) -> bool:
    """End an attempt with an error; the salon's status is settled.

    Args:
        salon: the salon.
        attempt_id: the attempt.
        epoch: of the socket that failed; None: whatever it runs on.
        error: why, for people.
        stage: ``failed`` or ``expired``.

    Returns:
        False if it had ended before, or runs on another socket now.
    """
    with _current(salon, attempt_id, epoch) as (session, attempt):
        if attempt is None:
            return False
        finish(session, attempt, stage, error)
    return True


def refuse_link(salon: Salon, epoch: int, reason: str) -> bool:
    """Undo a link that WhatsApp refused at its first login.

    The new creds go, and what they had replaced comes back: it was untouched at
    WhatsApp. The attempt fails.

    Returns:
        False if there is no attempt in its finishing stage, or the epoch is not ours.
    """
    with sessions.locked(salon) as session:
        attempt = PairingAttempt.objects.filter(
            salon=salon, finished_at=None, stage=Stage.FINISHING
        ).first()
        if attempt is None or session.epoch != epoch:
            return False
        credentials.erase(salon)
        session.epoch += 1
        credentials.restore(
            salon, audit.SYSTEM, only_reason="replaced", since=attempt.requested_at
        )
        audit.record(salon.pk, audit.SYSTEM, "link_refused", reason=reason)
        session.phone = credentials.stored(salon).phone
        finish(session, attempt, Stage.FAILED, ErrorCode.PAIRING_CODE_FAILED)
    return True


def expire_overdue() -> list[int]:
    """End every attempt whose time is over; return the salons' primary keys.

    Any process may call it: a salon is never stuck because a gateway hangs or died.
    """
    overdue = PairingAttempt.objects.filter(
        finished_at=None, deadline__lte=Now()
    ).select_related("salon")
    ended = []
    for row in overdue:
        with _current(row.salon, row.pk, None) as (session, attempt):
            still = PairingAttempt.objects.filter(pk=row.pk, deadline__lte=Now())
            if attempt is None or not still.exists():
                continue
            stage, error = overdue_outcome(attempt)
            finish(session, attempt, stage, error)
        ended.append(row.salon_id)
    return ended


def end_shown_codes(salon_pks: list[int]) -> list[int]:
    """End the codes that these salons are shown: the sockets they lived on are gone.

    Returns:
        The primary keys of the salons that had one.
    """
    shown = PairingAttempt.objects.filter(
        finished_at=None,
        kind=Kind.CODE,
        stage__in=(Stage.SHOWN, Stage.ENTERED),
        salon__in=salon_pks,
    ).select_related("salon")
    ended = []
    for row in shown:
        if fail(row.salon, row.pk, row.epoch, ErrorCode.CODE_EXPIRED, Stage.EXPIRED):
            ended.append(row.salon_id)
    return ended


def cancel_unwatched(seconds: float) -> list[int]:
    """Cancel QRs that no page has looked at for ``seconds``; return the salons' keys."""
    unwatched = PairingAttempt.objects.filter(
        finished_at=None,
        kind=Kind.QR,
        stage=Stage.SHOWN,
        requested_by="page",
        salon__session__watched_at__lt=Now() - timedelta(seconds=seconds),
    ).select_related("salon")
    ended = []
    for row in unwatched:
        with _current(row.salon, row.pk, None) as (session, attempt):
            if attempt is None or attempt.stage != Stage.SHOWN:
                continue
            finish(session, attempt, Stage.CANCELLED, None)
        ended.append(row.salon_id)
    return ended


def overdue_outcome(attempt: PairingAttempt) -> tuple[str, ErrorCode]:
    if attempt.stage == Stage.REQUESTED:
        return Stage.FAILED, ErrorCode.PAIRING_TIMEOUT
    if attempt.stage == Stage.FINISHING:
        # The device is linked and its creds are stored: the session goes on trying.
        return Stage.FAILED, ErrorCode.WHATSAPP_UNREACHABLE
    return Stage.EXPIRED, ErrorCode.CODE_EXPIRED


def _close(attempt: PairingAttempt, stage: str, error: ErrorCode | None = None) -> None:
    attempt.stage = stage
    attempt.error = error or ""
    attempt.code = attempt.qr = ""
    attempt.qr_until = None
    attempt.finished_at = Now()
    attempt.save()
    if error == ErrorCode.RATE_LIMITED and attempt.phone:
        attempt.retry_after = int(budget.cool_down_left(attempt.phone)) + 1
        attempt.save(update_fields=["retry_after"])


OURS = frozenset(
    {
        *(ErrorCode.PAIRING_TIMEOUT, ErrorCode.PAIRING_CODE_FAILED),
        *(ErrorCode.WHATSAPP_UNREACHABLE, ErrorCode.INTERNAL),
    }
)
"""Failures that are not the salon's: operators are told."""


def _tags(attempt: PairingAttempt, error: ErrorCode | None) -> dict[str, Any]:
    return alerts.tags(
        "pairingCode" if attempt.kind == PairingAttempt.Kind.CODE else "sendQR",
        company_id=attempt.salon.session_id,
        error=error,
    )


def finish(
    session: WhatsAppSession,
    attempt: PairingAttempt,
    stage: str,
    error: ErrorCode | None,
) -> None:
    """Close an attempt, settle the salon's status, tell pages and gateways."""
    _close(attempt, stage, error)
    logger.log(
        logging.WARNING if error in OURS else logging.INFO,
        "%s: %s attempt for %s is %s (%s)",
        attempt.salon.session_id,
        attempt.kind,
        mask_phone(attempt.phone) or "any phone",
        stage,
        error or "no error",
        extra=_tags(attempt, error) if error in OURS else None,
    )
    sessions.settle(session, credentials.stored(attempt.salon), error or "")
    events.wake_gateways(session.salon_id)
