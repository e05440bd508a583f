"""What follows from a refusal or a disconnect: how often, how soon, and what is said."""

import math
from dataclasses import dataclass
from enum import Enum

from whatsapp.engine import CodeRefused, DisconnectReason
from whatsapp.errors import ErrorCode
from whatsapp.models import WhatsAppSession

Status = WhatsAppSession.Status

LINK_TRIES = 2
"""Further sockets that one request for a code or QR may cost, if the first breaks."""

BAD_SESSIONS = 3
"""So many 500s in a row, and a person should look at it."""

RESTARTS = 3
"""So many 515s are obeyed at once; a server that goes on is a server in trouble."""

STABLE_SECONDS = 60.0
"""A session that was open for so long has come through: its failures are forgotten."""

ENGINE_SECONDS = 0.5
"""Between two tries while Node.js is being started again."""

CUT_SECONDS = 10.0
"""A session that was open for less was cut as soon as it opened."""

RECONNECT_FIRST_SECONDS = 1.0
RECONNECT_MAX_SECONDS = 60.0
OUTDATED_SECONDS = 600.0
REPLACED_SECONDS = 60.0
REPLACED_MAX_SECONDS = 3600.0
ATTENTION_SECONDS = 3600.0


@dataclass(frozen=True, slots=True)
class Clocks:
    """The clocks of design, in seconds."""

    finish: float


class Then(Enum):
    """What to do after a session's socket has closed."""

    RESTART = "restart"
    LOG_OUT = "log out"
    HALT = "halt"
    BACK_OFF = "back off"


@dataclass(frozen=True, slots=True)
class Verdict:
    """What follows from a disconnect of a linked session."""

    then: Then
    status: str = Status.RECONNECTING
    retry_in: float | None = None
    error: ErrorCode = ErrorCode.WHATSAPP_UNREACHABLE
    """Told to somebody who was waiting for this very connection."""


def judge(
    reason: DisconnectReason, *, bad_sessions: int = 0, replaced: int = 0
) -> Verdict:
    """Judge the disconnect of a linked session.

    Args:
        reason: why it closed.
        bad_sessions: 500s in a row before this one.
        replaced: 440s in a row before this one.
    """
    if reason.is_restart or reason == DisconnectReason.STORE_REFUSED:
        return Verdict(Then.RESTART)  # the second: the rows say what is wanted now
    if reason.is_logged_out:
        return Verdict(Then.LOG_OUT)
    if reason.is_banned:
        return Verdict(Then.HALT, Status.BANNED, None, ErrorCode.ACCOUNT_BANNED)
    if reason.is_outdated:
        return Verdict(
            Then.HALT, Status.OUTDATED, OUTDATED_SECONDS, ErrorCode.ENGINE_OUTDATED
        )
    if reason.is_replaced:
        wait = min(REPLACED_SECONDS * 2**replaced, REPLACED_MAX_SECONDS)
        return Verdict(Then.HALT, Status.REPLACED, wait)
    third_500 = reason.is_bad_session and bad_sessions + 1 >= BAD_SESSIONS
    hopeless = (
        reason.is_multidevice_mismatch
        or reason.is_engine_crashed
        or reason.is_store_sealed
    )
    if hopeless or third_500:
        return Verdict(Then.HALT, Status.NEEDS_ATTENTION, ATTENTION_SECONDS)
    return Verdict(Then.BACK_OFF)


def reconnect_delay(failures: int, lost_for: float = math.inf) -> float:
    """Return the seconds before the ``failures``-th try; jitter is the caller's.

    Args:
        failures: in a row, this one included.
        lost_for: seconds since the first of them. Nobody waits for longer than it has
            lasted so far: a short outage would cost many times its length.
    """
    return min(
        RECONNECT_FIRST_SECONDS * 2.0 ** min(failures - 1, 10),
        max(RECONNECT_FIRST_SECONDS, lost_for),
        RECONNECT_MAX_SECONDS,
    )


def retry_delay(failures: int) -> float:
    """Return the seconds before another socket for a link that somebody waits for."""
    return min(0.25 * 4.0 ** (failures - 1), 4.0)


RefusalKind = CodeRefused.Kind

_ERRORS = {
    RefusalKind.BAD_REQUEST: ErrorCode.PAIRING_CODE_FAILED,
    RefusalKind.NOT_FOUND: ErrorCode.PHONE_NOT_ON_WHATSAPP,
    RefusalKind.RATE_LIMITED: ErrorCode.RATE_LIMITED,
    RefusalKind.SERVER_ERROR: ErrorCode.WHATSAPP_UNREACHABLE,
    RefusalKind.SILENCE: ErrorCode.PAIRING_TIMEOUT,
    RefusalKind.UNREACHABLE: ErrorCode.WHATSAPP_UNREACHABLE,
    RefusalKind.CLOSED: ErrorCode.WHATSAPP_UNREACHABLE,
    RefusalKind.PASSKEY: ErrorCode.PASSKEY_REQUIRED,
    RefusalKind.ENGINE_GONE: ErrorCode.WHATSAPP_UNREACHABLE,
}


def error_of(refused: CodeRefused) -> ErrorCode:
    """Return what people are told of a refusal."""
    reason = refused.reason
    if reason is not None:
        if reason.is_outdated:
            return ErrorCode.ENGINE_OUTDATED
        if reason.is_banned:
            return ErrorCode.ACCOUNT_BANNED
        if reason.is_logged_out or reason.is_multidevice_mismatch:
            return ErrorCode.PAIRING_CODE_FAILED
    return _ERRORS[refused.kind]


def worth_another_try(refused: CodeRefused, failures: int) -> bool:
    """Say whether another socket may bring what this one did not."""
    if (
        refused.kind is RefusalKind.ENGINE_GONE
        or refused.reason is DisconnectReason.ENGINE_GONE
    ):
        return True  # it comes back within seconds; the answer clock has the last word
    if failures >= LINK_TRIES:
        return False
    if refused.kind is RefusalKind.UNREACHABLE:
        return True
    return refused.kind is RefusalKind.CLOSED and (
        refused.reason is None or refused.reason.is_transient
    )
