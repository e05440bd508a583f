"""What is put into a salon's mailbox, beside the words of the engine itself."""

from dataclasses import dataclass
from typing import TypeAlias

from whatsapp.engine import CodeRefused, DisconnectReason, SessionRef
from whatsapp.engine.protocol import SessionEvent
from whatsapp.services.claims import Work


@dataclass(frozen=True, slots=True)
class Look:
    """The rows may have changed. ``hurry`` ends a wait between two tries."""

    hurry: bool = False
    work: Work | None = None
    """What they say, if they have just been read for many salons at once."""


@dataclass(frozen=True, slots=True)
class Code:
    """WhatsApp has acknowledged a code."""

    ref: SessionRef
    code: str


@dataclass(frozen=True, slots=True)
class Refused:
    """A link socket could not be brought to its answer."""

    ref: SessionRef
    error: CodeRefused


@dataclass(frozen=True, slots=True)
class Gone:
    """The socket ended without a word from WhatsApp."""

    ref: SessionRef
    reason: DisconnectReason


@dataclass(frozen=True, slots=True)
class FinishOverdue:
    """The first login after a link is late."""

    ref: SessionRef


@dataclass(frozen=True, slots=True)
class Pulse:
    """An open session has been silent for long, or is heard again."""

    ref: SessionRef
    silent: bool


@dataclass(frozen=True, slots=True)
class Leave:
    """Close, and leave the salon to the gateway of this name."""

    to: str


@dataclass(frozen=True, slots=True)
class Abandon:
    """The locks are lost, or about to be: close and forget, write nothing."""


SocketMessage: TypeAlias = SessionEvent | Code | Refused | Gone | FinishOverdue | Pulse
Message: TypeAlias = SocketMessage | Look | Leave | Abandon
