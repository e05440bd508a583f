"""The catalogue of failures: a code for programs, a sentence for people, an HTTP status.

Every edge (socket, REST, admin, commands) translates these and nobody else
catches them. A raw library text never reaches a salon.
"""

from dataclasses import dataclass
from enum import StrEnum

from django.utils.functional import Promise
from django.utils.translation import gettext_lazy as _


class ErrorCode(StrEnum):
    """Public codes of the protocol; their spelling never changes."""

    PHONE_REQUIRED = "PHONE_REQUIRED"
    INVALID_PHONE_FORMAT = "INVALID_PHONE_FORMAT"
    REQUEST_IN_PROGRESS = "REQUEST_IN_PROGRESS"
    PAIRING_TIMEOUT = "PAIRING_TIMEOUT"
    PAIRING_CODE_FAILED = "PAIRING_CODE_FAILED"
    PHONE_NOT_ON_WHATSAPP = "PHONE_NOT_ON_WHATSAPP"
    RATE_LIMITED = "RATE_LIMITED"
    WHATSAPP_UNREACHABLE = "WHATSAPP_UNREACHABLE"
    ENGINE_OUTDATED = "ENGINE_OUTDATED"
    CREDENTIALS_CONFLICT = "CREDENTIALS_CONFLICT"
    ALREADY_CONNECTED = "ALREADY_CONNECTED"
    CODE_EXPIRED = "CODE_EXPIRED"
    WRONG_PHONE_LINKED = "WRONG_PHONE_LINKED"
    PASSKEY_REQUIRED = "PASSKEY_REQUIRED"
    ACCOUNT_BANNED = "ACCOUNT_BANNED"
    INVALID_MESSAGE = "INVALID_MESSAGE"
    UNKNOWN_EVENT = "UNKNOWN_EVENT"
    UNAUTHORIZED = "UNAUTHORIZED"
    FORBIDDEN = "FORBIDDEN"
    NOT_LINKED = "NOT_LINKED"
    NOT_FOUND = "NOT_FOUND"
    METHOD_NOT_ALLOWED = "METHOD_NOT_ALLOWED"
    INVALID_REQUEST = "INVALID_REQUEST"
    IDEMPOTENCY_KEY_REUSED = "IDEMPOTENCY_KEY_REUSED"
    TOO_MANY_REQUESTS = "TOO_MANY_REQUESTS"
    INTERNAL = "INTERNAL"


@dataclass(frozen=True, slots=True)
class Entry:
    """What one code means: its sentence, and its HTTP status."""

    message: Promise
    http_status: int


CATALOGUE: dict[ErrorCode, Entry] = {
    ErrorCode.PHONE_REQUIRED: Entry(_("Enter the WhatsApp phone number."), 400),
    ErrorCode.INVALID_PHONE_FORMAT: Entry(
        _(
            "This does not look like a phone number. Enter it with the country code, "
            "for example +7 900 123-45-67."
        ),
        400,
    ),
    ErrorCode.REQUEST_IN_PROGRESS: Entry(
        _("The previous request is still running. Wait a few seconds."), 409
    ),
    ErrorCode.PAIRING_TIMEOUT: Entry(
        _("WhatsApp did not answer in time. Try again."), 504
    ),
    ErrorCode.PAIRING_CODE_FAILED: Entry(
        _("WhatsApp refused the link. Check the number and try again."), 502
    ),
    ErrorCode.PHONE_NOT_ON_WHATSAPP: Entry(
        _("This number has no WhatsApp account. Check the number."), 422
    ),
    ErrorCode.RATE_LIMITED: Entry(
        _("Too many attempts for this number. Wait and ask again, or use the QR code."),
        429,
    ),
    ErrorCode.WHATSAPP_UNREACHABLE: Entry(
        _("WhatsApp cannot be reached right now. Try again in a minute."), 503
    ),
    ErrorCode.ENGINE_OUTDATED: Entry(
        _(
            "WhatsApp asks for a newer version of our service. We have been told; "
            "your phone is fine. Try again later."
        ),
        503,
    ),
    ErrorCode.CREDENTIALS_CONFLICT: Entry(
        _(
            "This number cannot be linked here. Use another number, "
            "or write to our support."
        ),
        409,
    ),
    ErrorCode.ALREADY_CONNECTED: Entry(
        _("This number is already connected. Nothing to do."), 409
    ),
    ErrorCode.CODE_EXPIRED: Entry(
        _("The code is no longer valid. Ask for a new one."), 410
    ),
    ErrorCode.WRONG_PHONE_LINKED: Entry(
        _(
            "Another phone was linked than the one expected. If that was a mistake, "
            "reset the link and link the right phone."
        ),
        409,
    ),
    ErrorCode.PASSKEY_REQUIRED: Entry(
        _(
            "WhatsApp asks this account for a passkey, which cannot be confirmed here. "
            "Turn the passkey off in WhatsApp (Settings → Account → Passkeys) "
            "and try again."
        ),
        422,
    ),
    ErrorCode.ACCOUNT_BANNED: Entry(
        _(
            "WhatsApp has restricted this account. Open WhatsApp on the phone "
            "to see why."
        ),
        403,
    ),
    ErrorCode.INVALID_MESSAGE: Entry(_("The message could not be understood."), 400),
    ErrorCode.UNKNOWN_EVENT: Entry(_("The page sent an unknown request."), 400),
    ErrorCode.UNAUTHORIZED: Entry(
        _(
            "The link to this page is no longer valid. "
            "Open it again from the marketplace."
        ),
        401,
    ),
    ErrorCode.FORBIDDEN: Entry(_("This page may not be used from here."), 403),
    ErrorCode.NOT_LINKED: Entry(
        _("No phone is linked. Link one first, by a code or a QR."), 409
    ),
    ErrorCode.NOT_FOUND: Entry(_("There is nothing here, or not for this key."), 404),
    ErrorCode.METHOD_NOT_ALLOWED: Entry(
        _("This address does not know this method."), 405
    ),
    ErrorCode.INVALID_REQUEST: Entry(
        _("Some values of the request are not what is expected here."), 422
    ),
    ErrorCode.IDEMPOTENCY_KEY_REUSED: Entry(
        _("This Idempotency-Key was used for another request."), 422
    ),
    ErrorCode.TOO_MANY_REQUESTS: Entry(
        _(
            "Too many requests with this key, or too many refused keys from this "
            "address. Wait and ask again."
        ),
        429,
    ),
    ErrorCode.INTERNAL: Entry(
        _("Something went wrong on our side. We have been told; try again."), 500
    ),
}


class WhatsAppError(Exception):
    """A failure that a salon can be told.

    Args:
        code: the entry of the catalogue.
        retry_after: seconds after which asking again makes sense, if known.
    """

    def __init__(self, code: ErrorCode, retry_after: int | None = None) -> None:
        super().__init__(code.value)
        self.code = code
        self.retry_after = retry_after

    @property
    def message(self) -> str:
        """The sentence, in the language active now."""
        return message_of(self.code)

    @property
    def http_status(self) -> int:
        """The status of a REST answer."""
        return CATALOGUE[self.code].http_status


def message_of(code: str) -> str:
    """Return the sentence of ``code`` in the active language; unknown: INTERNAL's."""
    try:
        entry = CATALOGUE[ErrorCode(code)]
    except ValueError:
        entry = CATALOGUE[ErrorCode.INTERNAL]
    return str(entry.message)
