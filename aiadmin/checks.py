"""What `manage.py check --deploy` says of the settings of a production."""

from collections.abc import Callable, Sequence
from typing import Any

from django.conf import settings
from django.core.checks import (
    CheckMessage,
    Error,
    Info,
    Tags,
    Warning,  # noqa: A004  (Django's name for it)
    register,
)

POOLER_PORT = 6432
SHORTEST_SECRET = 32
"""Bytes of a key for HS256, as RFC 7518 wants it."""

Check = tuple[Callable[[], bool], CheckMessage]


def _everybody_is_trusted() -> bool:
    return any(network.prefixlen == 0 for network in settings.TRUSTED_PROXIES.networks)


def _is_pooled() -> bool:
    return str(settings.DATABASES["default"].get("PORT", "")) == str(POOLER_PORT)


CHECKS: Sequence[Check] = (
    (
        lambda: bool(settings.WHATSAPP_WS_URL),
        Error(
            "WHATSAPP_WS_URL is set: the salons are connected to that server and not to "
            "WhatsApp.",
            hint="It is for tests. Take it out.",
            id="aiadmin.E001",
        ),
    ),
    (
        _everybody_is_trusted,
        Error(
            "TRUSTED_PROXIES trusts everybody: anybody may say which address is his.",
            hint="Name the addresses or networks of your proxies.",
            id="aiadmin.E002",
        ),
    ),
    (
        lambda: not settings.DJANGO_HTTPS,
        Warning(
            "DJANGO_HTTPS is off: passwords, cookies and tokens travel in plain text.",
            hint="Put a proxy that speaks HTTPS in front, and set DJANGO_HTTPS=1.",
            id="aiadmin.W001",
        ),
    ),
    (
        lambda: settings.DJANGO_HTTPS and not settings.TRUSTED_PROXIES_GIVEN,
        Warning(
            "TRUSTED_PROXIES is not set: only a proxy on this very machine is believed "
            "whose client asks, and that it came by HTTPS.",
            hint="Name its address, also if it is 127.0.0.1.",
            id="aiadmin.W002",
        ),
    ),
    (
        lambda: bool(settings.DATABASE_URL) and not settings.REDIS_URL,
        Warning(
            "DATABASE_URL is set and REDIS_URL is not: processes cannot call each "
            "other, and everything takes as long as a look.",
            hint="Set REDIS_URL, unless `serve` is the only process.",
            id="aiadmin.W003",
        ),
    ),
    (
        lambda: not settings.MARKETPLACE_ALLOWED_ORIGINS,
        Warning(
            "MARKETPLACE_ALLOWED_ORIGINS is empty: the marketplace cannot embed the "
            "salon's page, nor open its WebSocket.",
            id="aiadmin.W004",
        ),
    ),
    (
        lambda: not settings.CREDENTIAL_ENCRYPTION_KEYS,
        Warning(
            "CREDENTIAL_ENCRYPTION_KEYS is empty: whoever gets a copy of the database "
            "can read the salons' chats.",
            id="aiadmin.W005",
        ),
    ),
    (
        lambda: len(settings.MARKETPLACE_JWT_SECRET.encode()) < SHORTEST_SECRET,
        Warning(
            "MARKETPLACE_JWT_SECRET is shorter than 32 bytes: tokens can be forged by "
            "guessing it.",
            id="aiadmin.W006",
        ),
    ),
    (
        lambda: settings.MARKETPLACE_JWT_SECRET == settings.SECRET_KEY,
        Warning(
            "MARKETPLACE_JWT_SECRET and DJANGO_SECRET_KEY are the same: the marketplace "
            "could sign logins to the admin.",
            id="aiadmin.W007",
        ),
    ),
    (
        _is_pooled,
        Warning(
            f"DATABASE_URL has the port {POOLER_PORT}, as PgBouncer has: a transaction "
            "pooler ends the locks by which gateways own salons.",
            hint="Lead it straight to PostgreSQL.",
            id="aiadmin.W008",
        ),
    ),
    (
        lambda: not settings.SENTRY_DSN,
        Info("SENTRY_DSN is empty: errors are in the log only.", id="aiadmin.I001"),
    ),
    (
        lambda: not settings.DATABASE_URL,
        Info(
            "DATABASE_URL is empty: the embedded PostgreSQL serves one machine, and "
            "nobody else.",
            id="aiadmin.I002",
        ),
    ),
)


@register(Tags.security, deploy=True)
def production(**_options: Any) -> list[CheckMessage]:
    """Return what is wrong, or worth knowing, about a production with these settings."""
    return [message for applies, message in CHECKS if applies()]
