"""The contract with Node.js (node/main.js): one JSON object per line, both ways.

==================  ================================================================
Python → Node       ``{"id", "cmd", ...}``: configure, open, request_code, close,
                    shutdown. Answered by ``{"re": id, "value" | "error" |
                    "refused"}``.
Python → Node       ``{"cmd": "ping", "at"}``: I am here. Answered by ``{"ev": "pulse",
                    "at", ...}`` with the figures of :class:`limits.Stats`.
Node → Python       ``{"id", "rq", "g", ...}``: get, save, for the store. Answered by
                    ``{"re": id, "value" | "error"}``; the error is refused (by the
                    fence), retired (a generation that is over) or failed.
Node → Python       ``{"ev", "g", ...}``: what happened.
==================  ================================================================

``g`` is the generation. Creds and keys are JSON texts within the JSON: nobody decodes
and encodes them again on the way between Baileys and the store.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import orjson

from whatsapp.engine.errors import CodeRefused
from whatsapp.engine.reasons import DisconnectReason

Message = dict[str, Any]


@dataclass(frozen=True, slots=True)
class SessionRef:
    """One socket of one session."""

    session_id: str
    # New for each socket, growing, unique over the life of the process.
    generation: int
    # The store's fence; means nothing to the engine.
    epoch: int


class AuthStore(Protocol):
    """Where creds and Signal keys live; implemented by the gateway."""

    async def get_keys(self, ref: SessionRef, key_type: str, key_ids: list[str]) -> str:
        """JSON text ``{id: value}`` of those that exist.

        Any exception makes Baileys' read fail. It never looks like "no such key".
        """
        ...

    async def save(
        self, ref: SessionRef, creds: str | None, keys: str | None, number: int
    ) -> None:
        """Store creds (JSON text) and keys in one transaction.

        Keys are JSON text ``[{"t": type, "i": id, "v": value}]``, each once; a null
        value deletes. Batches of a generation are numbered from 1; one that failed comes
        again within the next. What is heard of only after a later one must not be
        stored: it holds older values.

        Raises:
            StoreRefused: the fence refuses. Anything else counts as a passing fault.
        """
        ...


@dataclass(frozen=True, slots=True)
class Versions:
    baileys: str
    node: str
    # WhatsApp's web version that this Baileys claims by itself.
    web: tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class Qr:
    """A QR to show, in place of any earlier one of this socket.

    Drawn again when the phone enters a code, right or wrong, because that changes a
    secret in it: an earlier QR would end the socket.
    """

    ref: SessionRef
    qr: str = field(repr=False)
    # How long this one lives.
    lifetime_s: float
    # How long the socket has refs left: the life of a pairing code as well.
    window_s: float


@dataclass(frozen=True, slots=True)
class CodeEntered:
    """A phone has entered a code. Right or wrong is not known before Paired comes."""

    ref: SessionRef


@dataclass(frozen=True, slots=True)
class CodeRejected:
    """WhatsApp refused what came of the code that was entered.

    A wrong code is not always known: the phone tells its user, and us nothing. The
    same code can be entered again as long as the socket lives.
    """

    ref: SessionRef


@dataclass(frozen=True, slots=True)
class CodeExpired:
    """WhatsApp wants a new code: ask again, on the same socket if you like."""

    ref: SessionRef
    # refresh_code or companion_reg_refresh
    by: str


@dataclass(frozen=True, slots=True)
class Paired:
    """The phone has linked this device; the socket ends with a restart (515) next."""

    ref: SessionRef
    creds: str = field(repr=False)
    keys: str | None = field(repr=False)
    jid: str = field(repr=False)
    platform: str | None


@dataclass(frozen=True, slots=True)
class PasskeyRequired:
    """WhatsApp asks this account for a passkey, which Baileys cannot give."""

    ref: SessionRef


@dataclass(frozen=True, slots=True)
class Opened:
    ref: SessionRef
    jid: str = field(repr=False)
    lid: str | None = field(repr=False)
    name: str | None = field(repr=False)


@dataclass(frozen=True, slots=True)
class Closed:
    """The socket is gone, and its last writes are in or refused."""

    ref: SessionRef
    reason: DisconnectReason
    # For the log: Baileys' sentence or WhatsApp's tag, masked.
    text: str
    # What ended it: failure, stream, http, ... (node/ending.js)
    origin: str
    # WhatsApp's or HTTP's number, if there was one.
    status: int | None
    was_open: bool
    # Whether its creds were those of a linked device.
    linked: bool

    @property
    def is_confirmed_logout(self) -> bool:
        """WhatsApp no longer knows a device that was linked.

        401 to creds that never were linked only says that they are useless.
        """
        return self.reason.is_logged_out and self.linked

    @property
    def is_device_removed(self) -> bool:
        """Somebody took the device out of the phone's list while it was connected."""
        return self.is_confirmed_logout and self.origin == "stream"


@dataclass(frozen=True, slots=True)
class Alive:
    """Proof of life: who was heard since the last one, and how many ms ago."""

    seen: Mapping[SessionRef, float]


@dataclass(frozen=True, slots=True)
class EngineStarted:
    versions: Versions
    # Counted from 1; 0 is the ward.
    process: int


@dataclass(frozen=True, slots=True)
class EngineStopped:
    """A Node.js process ended, and with it the sockets that it held.

    No event of one will follow.
    """

    error: str
    # crashed, hung, recycled or unheard (supervision.Cause).
    cause: str
    process: int
    sessions: tuple[SessionRef, ...]
    # Those of the sessions that end Node.js again and again.
    convicted: frozenset[SessionRef]


SessionEvent = (
    Qr
    | CodeEntered
    | CodeRejected
    | CodeExpired
    | Paired
    | PasskeyRequired
    | Opened
    | Closed
)
Event = SessionEvent | Alive | EngineStarted | EngineStopped


def encode(message: Message) -> bytes:
    return orjson.dumps(message, option=orjson.OPT_APPEND_NEWLINE)


def decode(line: bytes) -> Message:
    """One line from Node.js.

    Raises:
        ValueError: it is no JSON object.
    """
    match orjson.loads(line):
        case dict() as message:
            return message
    raise ValueError("not an object")


def session_event(ref: SessionRef, message: Message) -> SessionEvent:
    """The event in an ``ev`` message.

    Raises:
        KeyError: no such event, or a field is missing.
    """
    if message["ev"] == "closed":
        return closed(ref, message["closed"])
    kind, *fields = _EVENTS[message["ev"]]
    event: SessionEvent = kind(ref, *(message[field] for field in fields))
    return event


# Name on the pipe: class, and its fields after `ref`.
_EVENTS: dict[str, tuple[Any, ...]] = {
    "qr": (Qr, "qr", "lifetime_s", "window_s"),
    "code_entered": (CodeEntered,),
    "code_rejected": (CodeRejected,),
    "code_expired": (CodeExpired, "by"),
    "passkey": (PasskeyRequired,),
    "paired": (Paired, "creds", "keys", "jid", "platform"),
    "opened": (Opened, "jid", "lid", "name"),
}


def closed(ref: SessionRef, ending: Message) -> Closed:
    """The event in an ending of node/ending.js."""
    return Closed(
        ref,
        reason_of(ending),
        text=ending["detail"],
        origin=ending["origin"],
        status=ending.get("status"),
        was_open=ending["was_open"],
        linked=ending["linked"],
    )


_REASON_OF_ORIGIN = {
    "http": DisconnectReason.HTTP_STATUS,
    "refs": DisconnectReason.REFS_ENDED,
    "pairing": DisconnectReason.BAD_SIGNATURE,
    "frame": DisconnectReason.BAD_FRAME,
    "store": DisconnectReason.STORE_REFUSED,
    "held": DisconnectReason.STORE_AWAY,
}


def reason_of(ending: Message) -> DisconnectReason:
    """The reason behind an ending of node/ending.js.

    Baileys gives 408 to a refused connection, a lost one, a timeout and the end of the
    QR refs alike; where it came from tells them apart.
    """
    origin = ending["origin"]
    if origin in _REASON_OF_ORIGIN:
        return _REASON_OF_ORIGIN[origin]
    if origin in ("transport", "timeout") and not ending["reached"]:
        return DisconnectReason.UNREACHABLE
    return DisconnectReason.parse(ending.get("status"))


def refusal(refused: Message) -> CodeRefused:
    """What Node.js says instead of a code."""
    ending = refused.get("closed")
    return CodeRefused(
        CodeRefused.Kind(refused["kind"]),
        refused.get("detail", ""),
        retry_after=refused.get("backoff"),
        reason=reason_of(ending) if ending else None,
    )
