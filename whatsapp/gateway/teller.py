"""Tells the world of changes of status: a line of the log and a Django signal each."""

import asyncio
import contextlib
import logging
from functools import partial
from typing import Any

from django.conf import settings
from django.db import connections

from whatsapp import alerts, signals
from whatsapp.gateway.database import DATABASE_AWAY, DATABASE_ERRORS, Services
from whatsapp.gateway.threads import in_thread
from whatsapp.models import WhatsAppSession
from whatsapp.services import outbox
from whatsapp.services.outbox import Word

logger = logging.getLogger(__name__)
status_logger = logging.getLogger("whatsapp.status")

PAUSE_SECONDS = 0.25
"""Changes that come together are told together."""

RECEIVERS_SECONDS = 30.0
"""Receivers that take longer are not waited for: a change is for many to hear."""


class Teller:
    """Tells what no gateway has told yet, its own changes and others'.

    Args:
        services: runs what goes to the database.
    """

    def __init__(self, services: Services) -> None:
        self._services = services
        self._news = asyncio.Event()

    def hurry(self) -> None:
        """Something may have changed: look now, not at the next regular look."""
        self._news.set()

    async def run(self) -> None:
        """Tell until cancelled; what is untold then is told by the next gateway."""
        while True:
            self._news.clear()
            more = await self._tell()
            if not more:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(settings.WHATSAPP_LOOK_INTERVAL):
                        await self._news.wait()
                await asyncio.sleep(PAUSE_SECONDS)

    async def _tell(self) -> bool:
        try:
            more = await self._services(outbox.tell, send)
            await self._services(outbox.settle, send)
        except DATABASE_ERRORS as error:
            logger.warning(
                "Changes are not told yet: %s",
                type(error).__name__,
                extra=DATABASE_AWAY,
            )
        except Exception:  # what is odd about one must not end the gateway
            logger.exception(
                "Telling changes of status failed", extra=alerts.tags("status_words")
            )
        else:
            return more
        return False


def send(word: Word) -> None:
    """Log one word and send its signal; returns when all receivers have had it.

    Receivers run in a thread with a connection of its own: they see what is committed,
    and whatever they do to their transaction, ours does not notice.
    """
    fields = word.fields
    status_logger.log(
        word.level,
        word.line,
        fields,
        extra={
            **fields,
            "event": word.name,
            "at": fields["at"].isoformat(),
            **_tags(word),
        },
    )
    if not word.signal.has_listeners(WhatsAppSession):
        return
    telling = in_thread(partial(_call_receivers, word), "receivers")
    try:
        telling.result(RECEIVERS_SECONDS)
    except TimeoutError:
        logger.exception(
            "A receiver of %s hangs; %s goes on without it",
            word.name,
            fields["session_id"],
            extra=alerts.tags("status_words", company_id=fields["session_id"]),
        )


def _tags(word: Word) -> dict[str, Any]:
    """Return what a word is reported with, if it is operators who must act."""
    if word.level < logging.ERROR:
        return {}
    flaps = word.signal is signals.session_flapping
    return alerts.tags(
        "session_flapping" if flaps else "session_status_changed",
        company_id=word.fields["session_id"],
        session_health=word.fields.get("after", word.fields.get("status")),
        reason=word.fields["reason"],
    )


def _call_receivers(word: Word) -> None:
    try:
        # Logs what a receiver raises, and goes on with the next one.
        word.signal.send_robust(sender=WhatsAppSession, **word.fields)
    finally:
        connections.close_all()
