"""Baileys behind a pipe: a few Node.js processes that hold many WhatsApp sockets.

Pure asyncio; imports neither Django nor anything else of ours.
"""

from whatsapp.engine.engine import Engine
from whatsapp.engine.errors import (
    CodeRefused,
    EngineError,
    EngineGone,
    StoreRefused,
    UnreadableCreds,
)
from whatsapp.engine.limits import Limits, Stats
from whatsapp.engine.protocol import (
    Alive,
    AuthStore,
    Closed,
    CodeEntered,
    CodeExpired,
    CodeRejected,
    EngineStarted,
    EngineStopped,
    Event,
    Opened,
    Paired,
    PasskeyRequired,
    Qr,
    SessionRef,
    Versions,
)
from whatsapp.engine.reasons import DisconnectReason

__all__ = [
    "Alive",
    "AuthStore",
    "Closed",
    "CodeEntered",
    "CodeExpired",
    "CodeRefused",
    "CodeRejected",
    "DisconnectReason",
    "Engine",
    "EngineError",
    "EngineGone",
    "EngineStarted",
    "EngineStopped",
    "Event",
    "Limits",
    "Opened",
    "Paired",
    "PasskeyRequired",
    "Qr",
    "SessionRef",
    "Stats",
    "StoreRefused",
    "UnreadableCreds",
    "Versions",
]
