"""Link attempts: asked for by code or by QR, and what became of them."""

from datetime import datetime, timedelta
from typing import Annotated, Any

from django.db.models import DurationField, ExpressionWrapper, F, QuerySet
from django.db.models.functions import Now
from django.http import HttpRequest, HttpResponse
from ninja import Path, Query, Router
from pydantic import Field

from whatsapp.api.changes import IdempotencyKey, change
from whatsapp.api.keys import asked_of, key_of, salon_of
from whatsapp.api.problems import responses
from whatsapp.api.representation import (
    BIGGEST,
    Limit,
    Next,
    Representation,
    SalonName,
    Wish,
    moment,
)
from whatsapp.errors import ErrorCode, WhatsAppError, message_of
from whatsapp.models import PairingAttempt, Salon
from whatsapp.phones import MAX_TYPED_LENGTH, mask_phone
from whatsapp.roles import Action
from whatsapp.services import pairing
from whatsapp.services.pairing import Answer

router = Router(tags=["attempts"], by_alias=True)


class AttemptError(Representation):
    """Why an attempt came to nothing."""

    code: str
    message: str = Field(description="A sentence for people.")
    retry_after: int | None = Field(description="Seconds.")


class Attempt(Representation):
    """One try to link a phone."""

    id: int
    salon_id: int
    kind: PairingAttempt.Kind
    stage: PairingAttempt.Stage = Field(
        description="`requested`, `shown`, `entered`, `finishing`; then one of `linked`, "
        "`failed`, `expired`, `superseded`, `cancelled`."
    )
    phone: str | None = Field(
        description="Masked: the phone that was linked, or that the code is for."
    )
    requested_at: datetime
    requested_by: str
    finished_at: datetime | None
    expires_in: int | None = Field(
        description="Seconds that the present stage may last; null: it is finished."
    )
    code: str | None = Field(
        description="`XXXX-XXXX`, while it can be entered, for keys with the scope "
        "`link`; never in the answer to a change."
    )
    qr: str | None = Field(
        description="The text to show as a QR, while it can be scanned; likewise."
    )
    qr_expires_in: int | None = Field(
        description="Seconds until another QR takes its place."
    )
    error: AttemptError | None


class Attempts(Representation):
    """Some attempts, the latest first."""

    items: list[Attempt]
    next: Next


class CodeWish(Wish):
    """Which phone is to be linked."""

    phone: str = Field(
        max_length=MAX_TYPED_LENGTH, description="As people write it, or bare digits."
    )


class QrWish(Wish):
    """Which link the QR is for."""

    fresh: bool = Field(
        False,
        description="A new link although one is stored, which stays until the new one "
        "works. Otherwise the session of a linked salon is resumed.",
    )


@router.get(
    "/salons/{salon}/attempts",
    response={200: Attempts, **responses(404, 422)},
    operation_id="listAttempts",
    summary="A salon's link attempts",
)
def attempts_list(
    request: HttpRequest,
    salon: SalonName,
    limit: Limit = 25,
    after: Annotated[int, Query(ge=1, le=BIGGEST)] = BIGGEST,
) -> Attempts:
    """Scope `read`; with `link`, too, codes and QRs that are valid are in them."""
    found = salon_of(request, salon, Action.VIEW)
    rows = list(_rows(request, found).filter(id__lt=after).order_by("-id")[: limit + 1])
    may_link = Action.LINK in key_of(request, Action.VIEW).actions
    return Attempts(
        items=[_attempt(found, row, may_link=may_link) for row in rows[:limit]],
        next=str(rows[limit - 1].pk) if len(rows) > limit else None,
    )


@router.get(
    "/salons/{salon}/attempts/{attempt_id}",
    response={200: Attempt, **responses(404, 422)},
    operation_id="getAttempt",
    summary="One link attempt, with its code or QR",
)
def attempt(
    request: HttpRequest,
    salon: SalonName,
    attempt_id: Annotated[int, Path(ge=1, le=BIGGEST)],
) -> Attempt:
    """Scope `read`; code and QR need `link`, too. Ask once a second or so."""
    found = salon_of(request, salon, Action.VIEW)
    row = _rows(request, found).filter(pk=attempt_id).first()
    if row is None:
        raise WhatsAppError(ErrorCode.NOT_FOUND)
    may_link = Action.LINK in key_of(request, Action.VIEW).actions
    return _attempt(found, row, may_link=may_link)


@router.post(
    "/salons/{salon}/pairing-codes",
    response={200: Attempt, 202: Attempt, **responses(400, 404, 409, 422)},
    operation_id="requestPairingCode",
    summary="Ask for a pairing code",
)
def request_code(
    request: HttpRequest,
    salon: SalonName,
    wish: CodeWish,
    idempotency_key: IdempotencyKey = "",
) -> HttpResponse:
    """Scope `link`. 202: WhatsApp is being asked; the code is in the attempt as soon as
    its stage is `shown`. 200: this phone has a code that is still valid.
    """
    found, who = asked_of(request, salon, Action.LINK)

    def act() -> tuple[int, Representation]:
        answer = pairing.request_code(found, wish.phone, who)
        return _status(answer), _present(found)

    return change(request, idempotency_key, act)


@router.post(
    "/salons/{salon}/qrs",
    response={200: Attempt, 202: Attempt, **responses(400, 404, 409, 422)},
    operation_id="requestQr",
    summary="Ask for a QR",
)
def request_qr(
    request: HttpRequest,
    salon: SalonName,
    wish: QrWish | None = None,
    idempotency_key: IdempotencyKey = "",
) -> HttpResponse:
    """Scope `link`. 202: the QR is in the attempt as soon as its stage is `shown`, and
    changes every 20 seconds or so. 200: one is shown already.
    """
    found, who = asked_of(request, salon, Action.LINK)
    fresh = wish is not None and wish.fresh

    def act() -> tuple[int, Representation]:
        answer = pairing.request_qr(found, who, fresh=fresh)
        if answer is Answer.CONNECTED:
            raise WhatsAppError(ErrorCode.ALREADY_CONNECTED)
        return _status(answer), _present(found)

    return change(request, idempotency_key, act)


def _status(answer: Answer) -> int:
    return 202 if answer is Answer.STARTED else 200


def _with_times(rows: QuerySet[PairingAttempt]) -> QuerySet[Any]:
    """Let the database say what is left: the clocks of its clients may differ."""
    return rows.annotate(
        left=ExpressionWrapper(F("deadline") - Now(), DurationField()),
        qr_left=ExpressionWrapper(F("qr_until") - Now(), DurationField()),
    )


def _rows(request: HttpRequest, salon: Salon) -> QuerySet[Any]:
    key = key_of(request, Action.VIEW)
    return _with_times(PairingAttempt.objects.for_key(key).filter(salon=salon))


def _present(salon: Salon) -> Attempt:
    """Return the attempt that has just been asked for, without what is secret of it.

    The salon's row is still locked, so that it is the latest one. Answers to changes are
    stored, and a stored code would outlive its attempt.
    """
    rows = _with_times(PairingAttempt.objects.filter(salon=salon))
    return _attempt(salon, rows.latest("id"), may_link=False)


def _attempt(salon: Salon, row: Any, *, may_link: bool) -> Attempt:
    left: timedelta = row.left
    is_open = row.finished_at is None
    shows_code = may_link and bool(row.code) and left > timedelta()
    shows_qr = may_link and bool(row.qr) and row.qr_left and row.qr_left > timedelta()
    return Attempt(
        id=row.pk,
        salon_id=salon.salon_id,
        kind=row.kind,
        stage=row.stage,
        phone=mask_phone(row.linked_phone or row.phone) or None,
        requested_at=moment(row.requested_at),
        requested_by=row.requested_by,
        finished_at=row.finished_at and moment(row.finished_at),
        expires_in=max(0, int(left.total_seconds())) if is_open else None,
        code=row.code if shows_code else None,
        qr=row.qr if shows_qr else None,
        qr_expires_in=max(1, int(row.qr_left.total_seconds())) if shows_qr else None,
        error=AttemptError(
            code=row.error, message=message_of(row.error), retry_after=row.retry_after
        )
        if row.error
        else None,
    )
