"""What can go wrong with a call to the engine."""

from __future__ import annotations

from enum import StrEnum

from whatsapp.engine.reasons import DisconnectReason


class EngineError(Exception):
    """The engine could not do what it was asked to."""


class EngineGone(EngineError):
    """Node.js is not running: it died, is being restarted, or was stopped."""


class UnreadableCreds(EngineError):
    """The creds to resume with are no creds."""


class StoreRefused(Exception):
    """Raised by an AuthStore whose fence refuses the write.

    The session belongs to somebody else: its socket is ended and nothing is retried.
    """


class CodeRefused(EngineError):
    """There is no pairing code, and why."""

    class Kind(StrEnum):
        BAD_REQUEST = "bad_request"
        NOT_FOUND = "not_found"
        RATE_LIMITED = "rate_limited"
        SERVER_ERROR = "server_error"
        # WhatsApp was reached, and did not answer.
        SILENCE = "silence"
        # WhatsApp was not reached.
        UNREACHABLE = "unreachable"
        # The socket ended first; `reason` says why.
        CLOSED = "closed"
        PASSKEY = "passkey"
        ENGINE_GONE = "engine_gone"

    def __init__(
        self,
        kind: Kind,
        detail: str = "",
        *,
        retry_after: float | None = None,
        reason: DisconnectReason | None = None,
    ) -> None:
        super().__init__(f"{kind.value}: {detail}" if detail else kind.value)
        self.kind = kind
        self.detail = detail
        self.retry_after = retry_after
        self.reason = reason
