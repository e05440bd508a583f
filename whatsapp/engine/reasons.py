"""Why a WhatsApp socket ended, and what that means for its session."""

from __future__ import annotations

from enum import IntEnum
from typing import Self


class DisconnectReason(IntEnum):
    """WhatsApp's numbers, and above 1000 the ends that have none.

    WhatsApp sends numbers that nobody has a name for, so any integer makes a member:
    ``DisconnectReason(499)`` is a reason, unnamed and transient.

    Names and numbers are those of Baileys' DisconnectReason and whatsmeow's
    ``types/events/events.go``. Baileys has two names for 408; one is kept.
    """

    LOGGED_OUT = 401
    TEMPORARY_BAN = 402
    FORBIDDEN = 403
    CLIENT_OUTDATED = 405
    CONNECTION_LOST = 408
    BAD_USER_AGENT = 409
    MULTIDEVICE_MISMATCH = 411
    CONNECTION_CLOSED = 428
    CONNECTION_REPLACED = 440
    BAD_SESSION = 500
    UNAVAILABLE = 503
    RESTART_REQUIRED = 515

    UNKNOWN = 1000
    # The upgrade to a WebSocket was answered with an HTTP status.
    HTTP_STATUS = 1001
    # Refused, unresolved or swallowed: nothing of WhatsApp was heard.
    UNREACHABLE = 1002
    # Our own clock ran out: connected, but nothing came of it.
    SILENCE = 1003
    # pair-success that does not verify: an old QR was scanned.
    BAD_SIGNATURE = 1004
    # The QR refs ran out, and with them a pairing code.
    REFS_ENDED = 1005
    # A frame that no key opens.
    BAD_FRAME = 1006
    # The store says that this session belongs to somebody else now.
    STORE_REFUSED = 1007
    # Node.js died, and the socket with it.
    ENGINE_GONE = 1008
    # Node.js died of this very session, again and again.
    ENGINE_CRASHED = 1009
    # The store took no writes for too long: what is not stored must not be believed.
    STORE_AWAY = 1010
    # What the store holds cannot be opened: a key for it is missing.
    STORE_SEALED = 1011

    @classmethod
    def _missing_(cls, value: object) -> Self | None:
        if not isinstance(value, int):
            return None
        unnamed = int.__new__(cls, value)
        unnamed._name_ = f"STATUS_{value}"
        unnamed._value_ = value
        return unnamed

    @classmethod
    def parse(cls, value: object) -> DisconnectReason:
        """The reason behind a status code; UNKNOWN for what is no number."""
        if isinstance(value, int) and not isinstance(value, bool):
            return cls(value)
        return cls.UNKNOWN

    @property
    def is_restart(self) -> bool:
        """WhatsApp asks for a new connection with the same creds, at once."""
        return self == DisconnectReason.RESTART_REQUIRED

    @property
    def is_logged_out(self) -> bool:
        """The device is not known (any more). Says nothing about creds never linked."""
        return self == DisconnectReason.LOGGED_OUT

    @property
    def is_banned(self) -> bool:
        return self in (DisconnectReason.TEMPORARY_BAN, DisconnectReason.FORBIDDEN)

    @property
    def is_outdated(self) -> bool:
        """WhatsApp does not talk to this version of its web client any more."""
        return self in (
            DisconnectReason.CLIENT_OUTDATED,
            DisconnectReason.BAD_USER_AGENT,
        )

    @property
    def is_replaced(self) -> bool:
        """Another client uses the same creds; connecting at once would start a fight."""
        return self == DisconnectReason.CONNECTION_REPLACED

    @property
    def is_refs_ended(self) -> bool:
        return self == DisconnectReason.REFS_ENDED

    @property
    def is_multidevice_mismatch(self) -> bool:
        return self == DisconnectReason.MULTIDEVICE_MISMATCH

    @property
    def is_bad_session(self) -> bool:
        return self == DisconnectReason.BAD_SESSION

    @property
    def is_engine_crashed(self) -> bool:
        """Trying again soon would take Node.js down once more."""
        return self == DisconnectReason.ENGINE_CRASHED

    @property
    def is_store_sealed(self) -> bool:
        """Nothing will open it before somebody brings the key."""
        return self == DisconnectReason.STORE_SEALED

    @property
    def is_unreachable(self) -> bool:
        """Nothing was heard of WhatsApp: ours or the network's fault, not the salon's."""
        return self in (DisconnectReason.HTTP_STATUS, DisconnectReason.UNREACHABLE)

    @property
    def is_transient(self) -> bool:
        """Try again later, with growing delay, and never give up on a linked salon."""
        return not (
            self.is_restart
            or self.is_logged_out
            or self.is_banned
            or self.is_outdated
            or self.is_replaced
            or self.is_refs_ended
            or self.is_multidevice_mismatch
            or self.is_bad_session
            or self.is_engine_crashed
            or self.is_store_sealed
            or self in (DisconnectReason.BAD_SIGNATURE, DisconnectReason.STORE_REFUSED)
        )
