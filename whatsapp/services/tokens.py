"""The token that opens a salon's page: a JWT of the marketplace."""

import logging
import time
from dataclasses import dataclass

import jwt
from django.conf import settings

from whatsapp import alerts
from whatsapp.errors import ErrorCode, WhatsAppError
from whatsapp.models import Salon
from whatsapp.services import audit

logger = logging.getLogger(__name__)

TOKEN_TYPE = "marketplace_registration"  # noqa: S105  (a claim's value, no secret)
ALGORITHM = "HS256"
LIFETIME_SECONDS = 3600


class Expired(WhatsAppError):
    """The token was good once: whoever shows it has not guessed it."""

    def __init__(self) -> None:
        super().__init__(ErrorCode.UNAUTHORIZED)


@dataclass(frozen=True, slots=True)
class Grant:
    """What a valid token allows: one salon, until a moment."""

    salon: Salon
    expires_at: float
    language: str
    """``ru``, ``en`` or empty: the language that the marketplace asks for."""


def issue(salon: Salon, lifetime: int = LIFETIME_SECONDS) -> str:
    """Return a page token for ``salon`` that is valid for ``lifetime`` seconds."""
    now = int(time.time())
    claims = {
        "company_id": salon.pk,
        "salon_id": salon.salon_id,
        "company_title": salon.title,
        "type": TOKEN_TYPE,
        "iat": now,
        "exp": now + lifetime,
    }
    return jwt.encode(claims, settings.MARKETPLACE_JWT_SECRET, algorithm=ALGORITHM)


def issue_for_person(salon: Salon, actor: str, lifetime: int) -> str:
    """Return a page token that somebody of the staff asked for; audited without it."""
    audit.record(salon.pk, actor, "link_issued", lifetime=lifetime)
    return issue(salon, lifetime)


def verify(token: object) -> Grant:
    """Return what ``token`` allows.

    Raises:
        WhatsAppError: UNAUTHORIZED for a token that is missing, expired (`Expired`),
            forged, incomplete or of another type; FORBIDDEN for a salon that is not here.
    """
    if not isinstance(token, str) or not token:
        raise WhatsAppError(ErrorCode.UNAUTHORIZED)
    try:
        claims = jwt.decode(
            token,
            settings.MARKETPLACE_JWT_SECRET,
            algorithms=[ALGORITHM],
            # The marketplace's clock may be a little ahead of ours.
            options={"require": ["exp"], "verify_iat": False},
        )
    except jwt.ExpiredSignatureError:
        _tell_refused("expired")
        raise Expired from None
    except jwt.InvalidTokenError:
        raise _refusal("invalid") from None
    if claims.get("type") != TOKEN_TYPE or not claims.get("company_id"):
        raise _refusal("incomplete")
    salon_id = _positive_int(claims.get("salon_id"))
    if salon_id is None:
        raise _refusal("incomplete")
    try:
        salon = Salon.objects.get(salon_id=salon_id)
    except Salon.DoesNotExist:
        raise _refusal("unknown_salon", ErrorCode.FORBIDDEN) from None
    language = claims.get("language")
    return Grant(
        salon=salon,
        expires_at=float(claims["exp"]),
        language=language if language in ("ru", "en") else "",
    )


def _refusal(reason: str, code: ErrorCode = ErrorCode.UNAUTHORIZED) -> WhatsAppError:
    """Return the refusal of a token, after operators have been told of it."""
    _tell_refused(reason)
    return WhatsAppError(code)


def _tell_refused(reason: str) -> None:
    # Anybody can bring that about, as often as he likes: it is no warning.
    logger.info(
        "A page token was refused: %s",
        reason,
        extra=alerts.tags("tokenValidation", category="security", reason=reason),
    )


def _positive_int(value: object) -> int | None:
    if isinstance(value, bool):
        return None
    if isinstance(value, int) and 0 < value < 2**63:
        return value
    if (
        isinstance(value, str)
        and value.isascii()
        and value.isdigit()
        and len(value) < 19
    ):
        return int(value) or None
    return None
