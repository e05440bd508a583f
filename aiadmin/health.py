"""Two probes: is the process alive, and can it do its work."""

import asyncio
import functools
import logging
from collections.abc import Awaitable, Callable
from typing import Any

from channels.db import database_sync_to_async
from channels.layers import get_channel_layer
from django.db import connection
from django.db.migrations.loader import MigrationLoader
from django.db.migrations.recorder import MigrationRecorder
from django.http import HttpRequest, JsonResponse

from whatsapp import alerts

logger = logging.getLogger(__name__)

CHECK_SECONDS = 5.0


async def healthz(_request: HttpRequest) -> JsonResponse:
    """Say that the process answers: restart it if this fails."""
    return JsonResponse({"status": "ok"})


async def readyz(_request: HttpRequest) -> JsonResponse:
    """Say whether the parts we need answer: send nobody here while this fails.

    Without the channel layer pages are right a few seconds later: no reason to send
    people away, so it is told and does not decide.
    """
    checks = {"database": _database, "channel_layer": _layer}
    results = await asyncio.gather(*(_ask(check) for check in checks.values()))
    parts = dict(zip(checks, results, strict=True))
    status = "ok"
    if parts["channel_layer"] != "ok":
        status = "degraded"
    if parts["database"] != "ok":
        status = "unavailable"
    return JsonResponse(
        {"status": status, **parts}, status=503 if status == "unavailable" else 200
    )


async def _ask(check: Callable[[], Awaitable[str]]) -> str:
    try:
        async with asyncio.timeout(CHECK_SECONDS):
            return await check()
    except TimeoutError:
        return "no answer"
    except Exception:
        # The text may hold an address with its password: it stays in the log.
        logger.warning(
            "A part of the service is not ready",
            exc_info=True,
            extra=alerts.tags("readiness"),
        )
        return "failed"


async def _database() -> str:
    return await database_sync_to_async(_migrated)()


def _migrated() -> str:
    with connection.cursor() as cursor:
        cursor.execute("SELECT 1")
    applied = set(MigrationRecorder(connection).applied_migrations())
    return "ok" if _known_migrations() <= applied else "migrations are missing"


@functools.cache
def _known_migrations() -> frozenset[tuple[str, str]]:
    # Reads every migration file; they do not change while we run.
    return frozenset(MigrationLoader(None).disk_migrations)


async def _layer() -> str:
    layer: Any = get_channel_layer()
    channel = await layer.new_channel("readyz")
    await layer.send(channel, {"type": "readyz"})
    await layer.receive(channel)
    return "ok"
