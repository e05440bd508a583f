"""Changes: done once for an Idempotency-Key, and answered alike after that."""

from collections.abc import Callable
from typing import Annotated

from django.http import HttpRequest, HttpResponse, JsonResponse
from ninja import Header

from whatsapp.api import problems
from whatsapp.api.representation import Representation
from whatsapp.errors import ErrorCode, WhatsAppError
from whatsapp.models import ApiKey
from whatsapp.services import api_answers
from whatsapp.services.api_answers import Answer

IdempotencyKey = Annotated[
    str,
    Header(
        alias="Idempotency-Key",
        min_length=1,
        max_length=200,
        pattern=r"^[!-~]+$",
        description="Sent again with the same, the same request is not done twice.",
    ),
]

AGAIN = {
    ErrorCode.REQUEST_IN_PROGRESS,
    ErrorCode.RATE_LIMITED,
    ErrorCode.TOO_MANY_REQUESTS,
}
"""Refusals that are over soon: the next request is to be judged afresh."""


def change(
    request: HttpRequest,
    name: str,
    act: Callable[[], tuple[int, Representation]],
) -> HttpResponse:
    """Do a change and answer it.

    Args:
        request: of a key that may ask for it.
        name: the Idempotency-Key, or empty.
        act: does it; what it raises of the catalogue is an answer, too.
    """
    key: ApiKey = request.auth  # type: ignore[attr-defined]

    def acting() -> Answer:
        # Caught in here: what a service did before it refused is to be kept.
        try:
            status, made = act()
        except WhatsAppError as error:
            body = problems.body_of(error.code, error.retry_after)
            final = error.http_status < 500 and error.code not in AGAIN
            return Answer(error.http_status, body, final)
        return Answer(status, made.model_dump(mode="json", by_alias=True))

    answer, before = api_answers.once(key, name, _told_apart(request), acting)
    if answer.status >= 400:
        response = problems.answer(answer.body)
    else:
        response = JsonResponse(answer.body, status=answer.status)
    if before:
        response.headers["Idempotency-Replayed"] = "true"
    return response


def _told_apart(request: HttpRequest) -> str:
    return f"{request.method} {request.path}\n{request.body.decode(errors='replace')}"
