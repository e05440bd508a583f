"""The long-lived process that runs salons' WhatsApp sessions; the engine's only user."""

import asyncio

from django.conf import settings

from whatsapp.engine import Limits
from whatsapp.gateway.manager import SessionManager
from whatsapp.services.web_version import parse

__all__ = ["SessionManager", "run_gateway"]


async def run_gateway(stop: asyncio.Event) -> None:
    """Run a gateway as the settings say until ``stop`` is set.

    Returns after it has handed its salons over, in less than two seconds.
    """
    version = settings.WHATSAPP_WEB_VERSION
    manager = SessionManager(
        node=settings.NODE_BINARY,
        ws_url=settings.WHATSAPP_WS_URL or None,
        web_version=parse(version) if version else None,
        processes=settings.WHATSAPP_ENGINE_PROCESSES,
        limits=Limits(
            memory_mb=settings.WHATSAPP_ENGINE_MEMORY_MB,
            ready_codes=settings.WHATSAPP_READY_CODES,
            connect_timeout=settings.WHATSAPP_CONNECT_TIMEOUT,
            # The engine's word should come before the answer clock's: it knows why.
            code_timeout=settings.WHATSAPP_PAIRING_TIMEOUT * 0.9,
        ),
    )
    await manager.run(stop)
