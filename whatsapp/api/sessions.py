"""Salons' sessions: how they are; connect and stop."""

from datetime import datetime
from typing import Annotated, Literal

from django.db.models import Q
from django.http import HttpRequest, HttpResponse
from ninja import Query, Router
from pydantic import Field

from whatsapp import events, statuses
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
)
from whatsapp.errors import ErrorCode, WhatsAppError
from whatsapp.events import Snapshot
from whatsapp.models import PairingAttempt, Salon, WhatsAppSession
from whatsapp.roles import Action
from whatsapp.services import sessions
from whatsapp.services.sessions import Disconnected, Reconnected

router = Router(tags=["sessions"], by_alias=True)


class PresentAttempt(Representation):
    """The latest link attempt, for ten minutes after its end."""

    id: int
    kind: PairingAttempt.Kind
    stage: PairingAttempt.Stage
    expires_in: int = Field(description="Seconds that its stage may last; 0: over.")


class Session(Representation):
    """A salon's connection to WhatsApp."""

    salon_id: int
    session_id: str = Field(description="`company_<salon id>`.")
    title: str
    status: WhatsAppSession.Status
    reason: str | None = Field(
        description="Why: an error code or the number of a disconnect."
    )
    message: str = Field(description="A sentence for people.")
    phone: str | None = Field(description="Masked.")
    since: datetime = Field(description="When the status last changed.")
    proof_age: int | None = Field(
        description="While connected: seconds since WhatsApp was last heard."
    )
    attempt: PresentAttempt | None


class Sessions(Representation):
    """Some sessions, by salon id."""

    items: list[Session]
    next: Next


class ConnectWish(Wish):
    """How to connect."""

    anew: bool = Field(
        False, description="Close a session that is connected, and open it again."
    )


class Connecting(Representation):
    """What became of the wish to connect."""

    outcome: Literal[
        Reconnected.STARTED, Reconnected.UNDER_WAY, Reconnected.LEFT_OPEN
    ] = Field(
        description="Only `started` has changed anything: else the salon is being "
        "connected already, or is connected."
    )
    session: Session


class Disconnecting(Representation):
    """What became of the wish to stop."""

    outcome: Disconnected
    session: Session


@router.get(
    "/sessions",
    response={200: Sessions, **responses(422)},
    operation_id="listSessions",
    summary="Sessions of all salons that the key opens",
)
def sessions_list(
    request: HttpRequest,
    limit: Limit = 25,
    after: Annotated[int, Query(ge=0, le=BIGGEST)] = 0,
    status: WhatsAppSession.Status | None = None,
) -> Sessions:
    """Scope `read`. Two queries, however many there are."""
    key = key_of(request, Action.VIEW)
    found = Salon.objects.for_key(key).filter(salon_id__gt=after).order_by("salon_id")
    if status is not None:
        wanted = Q(session__status=status)
        if status == WhatsAppSession.Status.UNLINKED:
            wanted |= Q(session=None)
        found = found.filter(wanted)
    salons = list(found[: limit + 1])
    states = events.snapshots([salon.pk for salon in salons[:limit]])
    return Sessions(
        items=[
            _session(salon, states[salon.pk])
            for salon in salons[:limit]
            if salon.pk in states
        ],
        next=str(salons[limit - 1].salon_id) if len(salons) > limit else None,
    )


@router.get(
    "/salons/{salon}/session",
    response={200: Session, **responses(404)},
    operation_id="getSession",
    summary="One salon's session",
)
def session(request: HttpRequest, salon: SalonName) -> Session:
    """Scope `read`."""
    return represent(salon_of(request, salon, Action.VIEW))


@router.post(
    "/salons/{salon}/connect",
    response={200: Connecting, 202: Connecting, **responses(400, 404, 409, 422)},
    operation_id="connect",
    summary="Connect a linked salon",
)
def connect(
    request: HttpRequest,
    salon: SalonName,
    wish: ConnectWish | None = None,
    idempotency_key: IdempotencyKey = "",
) -> HttpResponse:
    """Scope `operate`. 202: it is being connected, the session says how far it is. 200:
    it is connected. Asked again, nothing begins anew. What cannot be connected is a
    problem: `NOT_LINKED`, `ACCOUNT_BANNED`, or `REQUEST_IN_PROGRESS` while a phone is
    being linked.
    """
    found, who = asked_of(request, salon, Action.CONNECT)
    leave_open = wish is None or not wish.anew

    def act() -> tuple[int, Representation]:
        outcome = sessions.reconnect(found, who, leave_open=leave_open)
        if outcome is Reconnected.NOT_LINKED:
            raise WhatsAppError(ErrorCode.NOT_LINKED)
        if outcome is Reconnected.BANNED:
            raise WhatsAppError(ErrorCode.ACCOUNT_BANNED)
        if outcome is Reconnected.LINKING:
            raise WhatsAppError(ErrorCode.REQUEST_IN_PROGRESS)
        status = 200 if outcome is Reconnected.LEFT_OPEN else 202
        return status, Connecting(outcome=outcome, session=represent(found))

    return change(request, idempotency_key, act)


@router.post(
    "/salons/{salon}/disconnect",
    response={
        200: Disconnecting,
        202: Disconnecting,
        **responses(400, 404, 409, 422),
    },
    operation_id="disconnect",
    summary="Stop a salon's session and keep its link",
)
def disconnect(
    request: HttpRequest, salon: SalonName, idempotency_key: IdempotencyKey = ""
) -> HttpResponse:
    """Scope `operate`. An open link attempt is cancelled. 202: the session is being
    closed. 200: nothing runs.
    """
    found, who = asked_of(request, salon, Action.DISCONNECT)

    def act() -> tuple[int, Representation]:
        outcome = sessions.disconnect(found, who)
        status = 202 if outcome is Disconnected.STOPPING else 200
        return status, Disconnecting(outcome=outcome, session=represent(found))

    return change(request, idempotency_key, act)


def represent(salon: Salon) -> Session:
    """Return how ``salon`` is now."""
    return _session(salon, events.snapshots([salon.pk])[salon.pk])


def _session(salon: Salon, state: Snapshot) -> Session:
    told = statuses.payload(state)
    attempt = state["attempt"]
    return Session(
        salon_id=salon.salon_id,
        session_id=salon.session_id,
        title=salon.title,
        status=told["status"],
        reason=told["reason"],
        message=told["message"],
        phone=told["phone"],
        since=datetime.fromisoformat(state["since"]),
        proof_age=told["proofAge"],
        attempt=attempt
        and PresentAttempt(
            id=attempt["id"],
            kind=told["attempt"]["kind"],
            stage=told["attempt"]["stage"],
            expires_in=told["attempt"]["expiresIn"],
        ),
    )
