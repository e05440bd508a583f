"""A salon's creds: whether there are any, and how to be rid of them. Never themselves."""

from typing import Literal

from django.http import HttpRequest, HttpResponse
from ninja import Router
from pydantic import Field

from whatsapp.api.changes import IdempotencyKey, change
from whatsapp.api.keys import key_of, salon_of
from whatsapp.api.problems import responses
from whatsapp.api.representation import Representation, SalonName
from whatsapp.models import ApiKey, Salon
from whatsapp.phones import mask_phone
from whatsapp.roles import Action
from whatsapp.services import api_keys, credentials, sessions
from whatsapp.services.credentials import CredsState

router = Router(tags=["credentials"], by_alias=True)


class Credentials(Representation):
    """What is known of a salon's stored creds."""

    salon_id: int
    has_credentials: bool
    state: CredsState = Field(
        description="`absent`; `half-paired`: no phone has ever confirmed them, and they "
        "go with the next link attempt; `linked`."
    )
    phone: str | None = Field(description="Masked: the phone that they belong to.")
    can_reset: bool = Field(description="Whether this key may forget them.")


class WasReset(Representation):
    """What there is after a reset."""

    success: Literal[True]
    credentials: Credentials


@router.get(
    "/salons/{salon}/credentials",
    response={200: Credentials, **responses(404)},
    operation_id="getCredentials",
    summary="Whether a salon is linked",
)
def status(request: HttpRequest, salon: SalonName) -> Credentials:
    """Scope `read`."""
    found = salon_of(request, salon, Action.VIEW)
    return _credentials(found, key_of(request, Action.VIEW))


@router.post(
    "/salons/{salon}/credentials/reset",
    response={200: WasReset, **responses(400, 404, 409, 422)},
    operation_id="resetCredentials",
    summary="Forget a salon's link",
)
def reset(
    request: HttpRequest, salon: SalonName, idempotency_key: IdempotencyKey = ""
) -> HttpResponse:
    """Scope `operate`. Creds, keys and open attempts are deleted at once, whatever runs or
    hangs; the device is removed from the phone if the session is open. It cannot be undone,
    and it can be repeated.
    """
    found = salon_of(request, salon, Action.RESET)
    key = key_of(request, Action.RESET)

    def act() -> tuple[int, Representation]:
        sessions.reset(found, api_keys.actor(key))
        return 200, WasReset(success=True, credentials=_credentials(found, key))

    return change(request, idempotency_key, act)


def _credentials(salon: Salon, key: ApiKey) -> Credentials:
    stored = credentials.stored(salon)
    return Credentials(
        salon_id=salon.salon_id,
        has_credentials=stored.state is not CredsState.ABSENT,
        state=stored.state,
        phone=mask_phone(stored.phone) or None,
        can_reset=Action.RESET in key.actions,
    )
