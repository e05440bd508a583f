"""What Prometheus reads: the whole service as figures, for whoever may have them."""

import asyncio
import hmac
import logging
import time
from collections.abc import Iterable
from ipaddress import IPv6Address, ip_address

from django.conf import settings
from django.http import Http404, HttpRequest, HttpResponse
from django.views.decorators.http import require_safe
from prometheus_client import CollectorRegistry
from prometheus_client.core import Metric as Family
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from whatsapp import figures
from whatsapp.services import metrics as tables
from whatsapp.watcher import database

logger = logging.getLogger(__name__)

READ_SECONDS = 8.0
"""Prometheus waits ten. A database that takes longer counts as down."""

FRESH_SECONDS = 1.0
"""Whoever asks within that time is told the same."""


@require_safe
async def metrics(request: HttpRequest) -> HttpResponse:
    """Tell the figures in Prometheus's format."""
    if not (settings.METRICS_TOKEN or settings.METRICS_NETWORKS):
        raise Http404
    if settings.METRICS_NETWORKS and not _is_near(request.META.get("REMOTE_ADDR")):
        return HttpResponse(status=403)
    if settings.METRICS_TOKEN and not _has_token(request):
        return HttpResponse(status=401, headers={"WWW-Authenticate": "Bearer"})
    encode, content_type = choose_encoder(request.headers.get("Accept", ""))
    registry = CollectorRegistry()
    registry.register(_Families([*await _reader.read(), *figures.of_this_process()]))
    return HttpResponse(
        encode(registry),
        content_type=content_type,
        headers={"Cache-Control": "no-store"},
    )


def _is_near(address: str | None) -> bool:
    try:
        ip = ip_address(address or "")
    except ValueError:
        return False  # a socket of this machine has none
    if isinstance(ip, IPv6Address) and ip.ipv4_mapped:
        ip = ip.ipv4_mapped
    return any(ip in network for network in settings.METRICS_NETWORKS)


def _has_token(request: HttpRequest) -> bool:
    scheme, _space, token = request.headers.get("Authorization", "").partition(" ")
    given = token.strip().encode(errors="replace")
    right = hmac.compare_digest(given, settings.METRICS_TOKEN.encode())
    return right and scheme.lower() == "bearer"


class _Families(Collector):
    """What has been read, as an encoder wants it."""

    def __init__(self, families: Iterable[Family]) -> None:
        self._families = list(families)

    def collect(self) -> Iterable[Family]:
        """Return it."""
        return self._families


class _Reader:
    """Reads the tables once for all who ask at the same time."""

    def __init__(self) -> None:
        self._found: list[Family] = []
        self._read_at = float("-inf")
        self._reading: asyncio.Task[None] | None = None

    async def read(self) -> list[Family]:
        """Return the figures of the tables; a database that hangs is not waited for."""
        if time.monotonic() - self._read_at < FRESH_SECONDS:
            return self._found
        reading = self._reading
        # A test's loop ends with what it was at.
        if (
            reading is None
            or reading.done()
            or reading.get_loop() is not asyncio.get_running_loop()
        ):
            reading = self._reading = asyncio.create_task(self._read())
        # Whoever goes away does not take it from the others.
        done, _pending = await asyncio.wait({reading}, timeout=READ_SECONDS)
        if not done:
            logger.warning("The tables were not read in %.0f s", READ_SECONDS)
            return tables.unread()
        reading.result()
        return self._found

    async def _read(self) -> None:
        try:
            found = await database(tables.read)
        except tables.DATABASE_ERRORS as error:
            # Its text may hold an address.
            logger.warning("The tables cannot be read: %s", type(error).__name__)
            found = tables.unread()
        self._found, self._read_at = found, time.monotonic()

    def forget(self) -> None:
        """Read anew at the next question."""
        self._read_at = float("-inf")


_reader = _Reader()
