"""How the API says that something went wrong: RFC 9457, with the catalogue's codes."""

import logging
from collections.abc import Callable
from functools import wraps
from http import HTTPStatus
from typing import Any

from django.http import Http404, HttpRequest, HttpResponse, JsonResponse
from django.utils.functional import Promise
from django.utils.translation import gettext_lazy as _
from django.views.decorators.csrf import csrf_exempt
from ninja import NinjaAPI
from ninja.errors import HttpError, ValidationError
from pydantic import Field

from whatsapp import alerts
from whatsapp.api.representation import Representation
from whatsapp.errors import ErrorCode, WhatsAppError, message_of

logger = logging.getLogger(__name__)

MEDIA_TYPE = "application/problem+json"

SAID: dict[ErrorCode, Promise] = {
    ErrorCode.UNAUTHORIZED: _(
        "This needs a valid key, as the header Authorization: Bearer wak_…"
    ),
    ErrorCode.FORBIDDEN: _("This key does not have the scope for this."),
    ErrorCode.INVALID_MESSAGE: _("The body of the request is not valid JSON."),
}
"""Where the catalogue speaks to somebody in front of a page."""

OF_HTTP = {
    401: ErrorCode.UNAUTHORIZED,
    403: ErrorCode.FORBIDDEN,
    404: ErrorCode.NOT_FOUND,
    405: ErrorCode.METHOD_NOT_ALLOWED,
    429: ErrorCode.TOO_MANY_REQUESTS,
}

View = Callable[..., HttpResponse]


class InvalidValue(Representation):
    """One value of a request that is not what is expected there."""

    where: str = Field(description="`body`, `query`, `path` or `header`, and the name.")
    what: str = Field(description="What is wrong with it, in English.")


class Problem(Representation):
    """Why there is no answer."""

    type: str = Field(description="`urn:aiadmin:problem:` and the code.")
    title: str = Field(description="The meaning of the HTTP status.")
    status: int
    code: ErrorCode
    detail: str = Field(description="A sentence for people.")
    retry_after: int | None = Field(
        None,
        description="Seconds after which asking again makes sense. May be missing.",
    )
    errors: list[InvalidValue] | None = Field(
        None, description="Which values are wrong, for INVALID_REQUEST. May be missing."
    )


def responses(*statuses: int) -> dict[int, type[Problem]]:
    """Return what a route documents: ``statuses``, and what every route may answer."""
    return dict.fromkeys(sorted({401, 403, 429, 500, *statuses}), Problem)


def describe(documented: dict[Any, Any]) -> None:
    """Give the problems among the documented answers their media type."""
    for status, response in documented.items():
        if int(status) >= 400 and "application/json" in response["content"]:
            response["content"] = {MEDIA_TYPE: response["content"]["application/json"]}


def body_of(
    code: ErrorCode,
    retry_after: int | None = None,
    errors: list[dict[str, str]] | None = None,
) -> dict[str, Any]:
    """Return a problem's body, in the active language."""
    status = WhatsAppError(code).http_status
    body: dict[str, Any] = {
        "type": f"urn:aiadmin:problem:{code}",
        "title": HTTPStatus(status).phrase,
        "status": status,
        "code": code.value,
        "detail": str(SAID[code]) if code in SAID else message_of(code),
    }
    if retry_after is not None:
        body["retryAfter"] = retry_after
    if errors is not None:
        body["errors"] = errors
    return body


def answer(body: dict[str, Any]) -> HttpResponse:
    """Return the response that tells a problem."""
    response = JsonResponse(body, status=body["status"], content_type=MEDIA_TYPE)
    if "retryAfter" in body:
        response.headers["Retry-After"] = str(body["retryAfter"])
    if body["status"] == HTTPStatus.UNAUTHORIZED:
        response.headers["WWW-Authenticate"] = "Bearer"
    return response


def handle(api: NinjaAPI) -> None:
    """Let ``api`` tell everything that goes wrong as a problem."""

    @api.exception_handler(WhatsAppError)
    def failure(_request: HttpRequest, error: WhatsAppError) -> HttpResponse:
        return answer(body_of(error.code, error.retry_after))

    @api.exception_handler(ValidationError)
    def invalid(_request: HttpRequest, error: ValidationError) -> HttpResponse:
        # Without the values: what somebody has sent may be a secret at a wrong place.
        errors = [
            {
                "where": ".".join(str(part) for part in each["loc"] if part != "body_"),
                "what": str(each["msg"]),
            }
            for each in error.errors
        ]
        return answer(body_of(ErrorCode.INVALID_REQUEST, errors=errors))

    @api.exception_handler(Http404)
    def missing(_request: HttpRequest, _error: Http404) -> HttpResponse:
        return answer(body_of(ErrorCode.NOT_FOUND))

    @api.exception_handler(HttpError)
    def refused(_request: HttpRequest, error: HttpError) -> HttpResponse:
        return answer(
            body_of(OF_HTTP.get(error.status_code, ErrorCode.INVALID_MESSAGE))
        )

    @api.exception_handler(Exception)
    def fault(request: HttpRequest, error: Exception) -> HttpResponse:
        logger.error(
            "The API has failed",
            exc_info=error,
            extra={"request": request, **alerts.tags("request")},
        )
        return answer(body_of(ErrorCode.INTERNAL))


def answering(view: View) -> View:
    """Let a route of ninja's tell a wrong method as a problem, and nobody keep answers."""

    @wraps(view)
    def inner(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        try:
            response = view(request, *args, **kwargs)
        except Http404:
            response = answer(body_of(ErrorCode.NOT_FOUND))
        if response.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
            allowed = response.headers["Allow"]
            response = answer(body_of(ErrorCode.METHOD_NOT_ALLOWED))
            response.headers["Allow"] = allowed
        response.headers.setdefault("Cache-Control", "no-store")
        return response

    return inner


@csrf_exempt
def nothing_here(_request: HttpRequest) -> HttpResponse:
    """Answer for every address under the API that is none."""
    return answer(body_of(ErrorCode.NOT_FOUND))
