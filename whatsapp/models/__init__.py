"""Tables, and the promises that the database itself keeps about them."""

from whatsapp.models.api_keys import ApiAnswer, ApiKey
from whatsapp.models.attempts import AttemptEnd, PairingAttempt
from whatsapp.models.audit import AuditEvent
from whatsapp.models.credentials import (
    ArchivedCredentials,
    CredsIndex,
    KeyCount,
    SealingKey,
    WhatsAppAuth,
    WhatsAppKey,
)
from whatsapp.models.gateways import Gateway, WebVersion
from whatsapp.models.salons import Membership, Salon, User
from whatsapp.models.sessions import Flapping, StatusChange, WhatsAppSession

__all__ = [
    "ApiAnswer",
    "ApiKey",
    "ArchivedCredentials",
    "AttemptEnd",
    "AuditEvent",
    "CredsIndex",
    "Flapping",
    "Gateway",
    "KeyCount",
    "Membership",
    "PairingAttempt",
    "Salon",
    "SealingKey",
    "StatusChange",
    "User",
    "WebVersion",
    "WhatsAppAuth",
    "WhatsAppKey",
    "WhatsAppSession",
]
