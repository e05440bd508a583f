"""Asking for a link, by code or by QR; one attempt at a time per salon."""

import logging
from datetime import timedelta
from enum import StrEnum

from django.conf import settings
from django.db import DEFAULT_DB_ALIAS, IntegrityError, connection, transaction
from django.db.models.functions import Now

from whatsapp import events
from whatsapp.errors import ErrorCode, WhatsAppError
from whatsapp.models import PairingAttempt, Salon, WhatsAppSession
from whatsapp.phones import normalize_phone, same_phone
from whatsapp.services import attempts, budget, credentials, sessions
from whatsapp.services.credentials import StoredCreds

logger = logging.getLogger(__name__)

Kind = PairingAttempt.Kind
Stage = PairingAttempt.Stage
Status = WhatsAppSession.Status


class Answer(StrEnum):
    """How a request for a code or a QR was taken."""

    STARTED = "started"
    SAME = "same"
    """What is asked for is already shown and valid: show it again."""
    CONNECTED = "connected"
    """The salon is linked and open; there is nothing to link."""


def request_code(salon: Salon, typed_phone: object, actor: str) -> Answer:
    """Ask for a pairing code; the code itself comes as an event.

    Args:
        salon: whose phone is to be linked.
        typed_phone: the number as the person typed it.
        actor: who asks, for the audit.

    Raises:
        WhatsAppError: PHONE_REQUIRED, INVALID_PHONE_FORMAT, REQUEST_IN_PROGRESS,
            ALREADY_CONNECTED, CREDENTIALS_CONFLICT or RATE_LIMITED.
    """
    phone = normalize_phone(typed_phone, settings.WHATSAPP_DEFAULT_REGION)
    with sessions.locked(salon) as session:
        # An error below must not undo the clean-up: it is raised after the commit.
        creds = credentials.stored_or_discarded(salon, actor, phone)
        answer = _take_code(salon, session, creds, phone, actor)
    if isinstance(answer, WhatsAppError):
        raise answer
    return answer


def _take_code(
    salon: Salon,
    session: WhatsAppSession,
    creds: StoredCreds,
    phone: str,
    actor: str,
) -> Answer | WhatsAppError:
    attempt = _open_attempt(salon, session)
    if attempt is not None:
        if attempt.stage == Stage.FINISHING or (
            attempt.kind == Kind.CODE and attempt.stage == Stage.REQUESTED
        ):
            return WhatsAppError(ErrorCode.REQUEST_IN_PROGRESS)
        if attempt.kind == Kind.CODE and same_phone(attempt.phone, phone):
            return Answer.SAME
    same = creds.linked and same_phone(creds.phone, phone)
    if same and session.status == Status.OPEN:
        return WhatsAppError(ErrorCode.ALREADY_CONNECTED)
    refusal = _refusal(salon, phone)
    if refusal is not None:
        return refusal
    if not _insert(salon, attempt, Kind.CODE, phone, actor):
        return WhatsAppError(ErrorCode.CREDENTIALS_CONFLICT)
    if creds.linked and not same:
        credentials.note_mismatch(salon, actor, creds.phone, phone)
    _begin(session)
    return Answer.STARTED


def _refusal(salon: Salon, phone: str) -> WhatsAppError | None:
    """Return why ``phone`` may not be asked for now, before WhatsApp says so."""
    if not salon.shared_phone_allowed and credentials.live_elsewhere(salon, phone):
        return WhatsAppError(ErrorCode.CREDENTIALS_CONFLICT)
    wait = budget.wait(salon, phone)
    if wait > 0:
        return WhatsAppError(ErrorCode.RATE_LIMITED, retry_after=int(wait) + 1)
    return None


def request_qr(salon: Salon, actor: str, *, fresh: bool = False) -> Answer:
    """Ask for a QR; of a linked salon the session is resumed first.

    If WhatsApp has logged the linked device out meanwhile, the same attempt goes on
    with a QR for a new link.

    Args:
        salon: whose phone is to be linked.
        actor: who asks, for the audit.
        fresh: link anew although a link is stored; it stays until the new one works.

    Raises:
        WhatsAppError: REQUEST_IN_PROGRESS while a code is on its way.
    """
    with sessions.locked(salon) as session:
        creds = credentials.stored_or_discarded(salon, actor)
        if creds.linked and session.status == Status.OPEN and not fresh:
            return Answer.CONNECTED
        attempt = _open_attempt(salon, session)
        if attempt is not None:
            is_qr = attempt.kind == Kind.QR
            if is_qr and (attempt.fresh or not (fresh and creds.linked)):
                return Answer.SAME
            if attempt.stage == Stage.FINISHING or (
                attempt.stage == Stage.REQUESTED and not is_qr
            ):
                raise WhatsAppError(ErrorCode.REQUEST_IN_PROGRESS)
        # Who switches from a code to the QR wants a new link, not the old one back.
        fresh = creds.linked and (fresh or attempt is not None)
        _insert(salon, attempt, Kind.QR, "", actor, fresh=fresh)
        if not fresh:
            session.wanted = True
        _begin(session)
    return Answer.STARTED


def page_opened(salon: Salon, actor: str) -> None:
    """Do what an opened page expects: a QR for an unlinked salon, a resumed link.

    A salon that was stopped stays stopped until somebody asks for it.
    """
    with sessions.locked(salon) as session:
        session.watched_at = Now()
        session.save(update_fields=["watched_at"])
        creds = credentials.stored_or_discarded(salon, actor)
        if _open_attempt(salon, session) is not None:
            return
        if creds.linked:
            if session.wanted and session.status not in WhatsAppSession.RUNNING:
                events.wake_gateways(salon.pk)
            return
        _insert(salon, None, Kind.QR, "", actor)
        _begin(session)


_FIELDS = [field.attname for field in PairingAttempt._meta.concrete_fields]
_OPEN_ATTEMPT = (
    f"SELECT {', '.join(_FIELDS)}, deadline <= now()"  # noqa: S608
    " FROM whatsapp_pairingattempt WHERE salon_id = %s AND finished_at IS NULL"
)


def _open_attempt(salon: Salon, session: WhatsAppSession) -> PairingAttempt | None:
    """Return the unfinished attempt; one whose time is over is ended on the way."""
    with connection.cursor() as cursor:
        cursor.execute(_OPEN_ATTEMPT, [salon.pk])
        row = cursor.fetchone()
    if row is None:
        return None
    *values, is_overdue = row
    attempt = PairingAttempt.from_db(DEFAULT_DB_ALIAS, _FIELDS, values)
    if is_overdue:
        attempts.finish(session, attempt, *attempts.overdue_outcome(attempt))
        return None
    return attempt


def _insert(
    salon: Salon,
    present: PairingAttempt | None,
    kind: str,
    phone: str,
    actor: str,
    *,
    fresh: bool = False,
) -> bool:
    """Insert an attempt in place of the one that is open at present, if any.

    Returns:
        False if another salon is just being linked to this phone; then the open
        attempt goes on.
    """
    try:
        with transaction.atomic():
            if present is not None:
                sessions.cancel_attempt(salon, Stage.SUPERSEDED)
            PairingAttempt.objects.create(
                salon=salon,
                kind=kind,
                phone=phone,
                fresh=fresh,
                requested_by=actor,
                deadline=Now() + timedelta(seconds=settings.WHATSAPP_PAIRING_TIMEOUT),
            )
    except IntegrityError as error:
        if "one_unfinished_code_per_phone" not in str(error):
            raise
        return False
    return True


def _begin(session: WhatsAppSession) -> None:
    # In this order: somebody waits for the code, and nobody for "requested".
    events.wake_gateways(session.salon_id)
    sessions.set_status(session, Status.PAIRING)
