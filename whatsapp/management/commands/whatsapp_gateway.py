"""The gateway alone, in a process of its own."""

import asyncio
import logging
import signal
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError

from whatsapp import interpreter
from whatsapp.gateway import run_gateway

logger = logging.getLogger(__name__)

STOP_SECONDS = 30.0


async def run_until(stop: asyncio.Event) -> None:
    """Run the gateway until ``stop`` is set.

    Raises:
        Exception: whatever ended the gateway before it was told to stop.
        TimeoutError: it did not hand over in time; its sockets die with us.
    """
    gateway = asyncio.ensure_future(run_gateway(stop))
    stopped = asyncio.ensure_future(stop.wait())
    await asyncio.wait({gateway, stopped}, return_when=asyncio.FIRST_COMPLETED)
    stopped.cancel()
    if stop.is_set():
        async with asyncio.timeout(STOP_SECONDS):
            await gateway
        return
    await gateway
    raise RuntimeError("The gateway ended without being told to.")


class Command(BaseCommand):
    """Run the gateway until SIGINT or SIGTERM; then hand its sessions over."""

    help = "Run the gateway alone: the sessions of this machine's salons."
    requires_system_checks: list[str] = []

    def handle(self, *args: Any, **options: Any) -> None:
        """Run until told to stop."""
        embedded = settings.EMBEDDED_DATABASE
        if embedded and not embedded.find_server():
            raise CommandError(
                "There is no database to work on: set DATABASE_URL, or start "
                "`manage.py serve` first and use its embedded one."
            )
        if not settings.REDIS_URL:
            logger.warning(
                "Without REDIS_URL the pages' processes cannot call this one: it finds "
                "their wishes by looking every %s s, and pages learn nothing by push",
                settings.WHATSAPP_LOOK_INTERVAL,
            )
        asyncio.run(self._run())

    async def _run(self) -> None:
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            loop.add_signal_handler(number, stop.set)
        interpreter.settle()
        self.stdout.write("Gateway running")
        self.stdout.flush()
        await run_until(stop)
