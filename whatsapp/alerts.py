"""What a log record tells operators beside its sentence: tags to search by.

A record with an ``operation`` is reported to Sentry (``aiadmin/sentry.py``) whatever its
level; an error is, anyway. Names that the previous service had are spelled as it did.
The engine, which knows nothing of ours, gives the same fields by itself.
"""

from typing import Any, Literal, get_args

Component = Literal[
    "baileys_auth",
    "baileys-session",
    "marketplace-websocket",
    "marketplace",
    "gateway",
    "ownership",
    "engine",
    "api",
    "admin",
    "command",
    "web",
]
Operation = Literal[
    # As in the previous service.
    "load_credentials",
    "save_credentials",
    "get_keys",
    "set_keys",
    "remove_auth_state",
    "phone_mismatch_cleanup",
    "pairingCode",
    "pairingCodeUnhandled",
    "tokenValidation",
    "whatsappInit",
    "sendQR",
    # Ours.
    "session_status_changed",
    "session_flapping",
    "session_unexpected",
    "status_words",
    "database_away",
    "channel_layer",
    "ownership_lost",
    "claim",
    "look",
    "housekeeping",
    "task",
    "web_version",
    "key_growth",
    "keys_missing",
    "engine_crashed",
    "engine_hung",
    "engine_memory",
    "engine_message",
    "gateway_failed",
    "page_request",
    "page_told",
    "request",
    "bulk",
    "readiness",
]
Category = Literal["database", "maintenance", "performance", "security"]

COMPONENTS = frozenset(get_args(Component))
OPERATIONS = frozenset(get_args(Operation))
CATEGORIES = frozenset(get_args(Category))

TAGS = (
    *("component", "operation", "company_id", "key_type", "mismatch_type"),
    *("session_health", "category", "reason", "error"),
)
"""What a record may say of itself to be found by."""

ELSEWHERE = {"reported_elsewhere": True}
"""For an error that stands in the log, and that another record tells operators of."""

# By the name of the logger; the longest that fits counts.
_COMPONENTS: dict[str, Component] = {
    "whatsapp.services.credentials": "baileys_auth",
    "whatsapp.services.growth": "baileys_auth",
    "whatsapp.services.sealing": "baileys_auth",
    "whatsapp.services.encryption": "baileys_auth",
    "whatsapp.gateway.auth_store": "baileys_auth",
    "whatsapp.services.attempts": "baileys-session",
    "whatsapp.services.pairing": "baileys-session",
    "whatsapp.services.sessions": "baileys-session",
    "whatsapp.gateway.runner": "baileys-session",
    "whatsapp.status": "baileys-session",
    "whatsapp.consumers": "marketplace-websocket",
    "whatsapp.services.tokens": "marketplace-websocket",
    "whatsapp.watcher": "marketplace-websocket",
    "whatsapp.listener": "marketplace-websocket",
    "whatsapp.gateway": "gateway",
    "whatsapp.gateway.claimer": "ownership",
    "whatsapp.gateway.ownership": "ownership",
    "whatsapp.engine": "engine",
    "whatsapp.api": "api",
    "whatsapp.admin": "admin",
    "whatsapp.board": "admin",
    "whatsapp.management": "command",
    "django": "web",
    "daphne": "web",
    "aiadmin": "web",
}


def component_of(logger: str) -> Component | None:
    """Return the part of the service that a logger speaks for, if it is one of ours."""
    name = logger
    while name:
        if name in _COMPONENTS:
            return _COMPONENTS[name]
        name = name.rpartition(".")[0]
    return None


def tags(
    operation: Operation,
    *,
    component: Component | None = None,
    company_id: str | None = None,
    mismatch_type: str | None = None,
    session_health: str | None = None,
    category: Category | None = None,
    reason: str | None = None,
    error: str | None = None,
) -> dict[str, Any]:
    """Return the ``extra`` of a record that operators shall be told of.

    Args:
        operation: what was done.
        component: who did it; None: whom the logger speaks for.
        company_id: the salon's key in the old tables, ``company_<salon id>``.
        mismatch_type: how the phones differ.
        session_health: the status of the salon's session.
        category: what kind of trouble it is, if that is known.
        reason: a disconnect reason, or why something was refused.
        error: a code of the catalogue.
    """
    said = {
        "operation": operation,
        "component": component,
        "company_id": company_id,
        "mismatch_type": mismatch_type,
        "session_health": session_health,
        "category": category,
        "reason": reason,
        "error": error,
    }
    return {name: value for name, value in said.items() if value}
