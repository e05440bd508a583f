"""Which WhatsApp web version this gateway claims, and where a newer one comes from.

WhatsApp refuses old versions of its web client with 405, all salons within minutes. Who
meets that first fetches the present version once, for all salons of all gateways;
the row in the database is what the others go by.
"""

import asyncio
import logging
import re
import time
import urllib.request
from collections.abc import Callable, Coroutine
from functools import partial
from http.client import HTTPException
from typing import IO, Any
from urllib.error import HTTPError
from urllib.parse import urlsplit

from whatsapp import alerts
from whatsapp.engine import Engine
from whatsapp.gateway.database import Services
from whatsapp.gateway.threads import in_thread
from whatsapp.services import web_version
from whatsapp.services.web_version import Version, name

logger = logging.getLogger(__name__)

FETCH_SECONDS = 10.0
MAX_BYTES = 8 * 2**20
FAMILY = (2, 3000)
"""WhatsApp counts the third number up; other first ones would be another client."""

MAX_REVISION = 2**32 - 1
"""It is a uint32 in the login."""

# Where and how Baileys' fetchLatestWaWebVersion looks; others are not answered.
HEADERS = {
    "sec-fetch-site": "none",
    "user-agent": "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36"
    " (KHTML, like Gecko) Chrome/131.0.0.0 Safari/537.36",
}
_REVISION = re.compile(rb'\\?"client_revision\\?":\s*(\d{1,10})(?!\d)')


class NoVersion(Exception):
    """The present version cannot be had; the text says why."""


class WebVersions:
    """The version that this gateway's sockets claim.

    Args:
        engine: told of each version that is taken up.
        services: runs what goes to the database.
        spawn: runs the fetching as a task of the gateway.
        own: where to start from: the operator's choice, or Baileys' own.
        url: of WhatsApp's script that names the present one; empty: not fetched.
    """

    def __init__(
        self,
        engine: Engine,
        services: Services,
        spawn: Callable[[Coroutine[Any, Any, None], str], object],
        own: Version,
        url: str,
    ) -> None:
        self.in_use = own
        self._engine = engine
        self._services = services
        self._spawn = spawn
        self._url = url
        engine.set_web_version(own)

    async def look(self) -> None:
        """Take up what another gateway has fetched, or this one in an earlier life."""
        self._take_up(await self._services(web_version.stored))

    async def probe(self) -> None:
        """Let one outdated salon try whether WhatsApp takes our version again."""
        await self._services(web_version.probe)

    async def on_accepted(self) -> None:
        """A salon that was outdated is open: let all the others try, too."""
        await self._services(web_version.retry_outdated)

    async def on_refused(self, version: Version, salon_pk: int | None = None) -> None:
        """See to it that somebody fetches a newer version, unless there is one already.

        Args:
            version: what the refused socket claimed.
            salon_pk: whose session it was, recorded as outdated; None: a link attempt's.
        """
        refusal = await self._services(web_version.refused, version, salon_pk)
        self._take_up(refusal.newest)
        if refusal.fetch:
            self._spawn(self._refresh(version), "web version")

    def _take_up(self, version: Version | None) -> None:
        if version is None or version <= self.in_use:
            return
        logger.info(
            "WhatsApp web version %s in place of %s", name(version), name(self.in_use)
        )
        self.in_use = version
        self._engine.set_web_version(version)

    async def _refresh(self, refused: Version) -> None:
        """Fetch the present version for all; tell operators, once, how that went."""
        try:
            version = await self._fetch()
            if version <= refused:
                raise NoVersion(f"WhatsApp's own page has {name(version)}")  # noqa: TRY301
        except NoVersion as error:
            logger.error(  # noqa: TRY400  (the text says it all)
                "WhatsApp refuses our web version %s, and there is no newer one: %s. Set "
                "WHATSAPP_WEB_VERSION to a current one and restart the gateways; until "
                "then salons are outdated",
                name(refused),
                error,
                extra={**alerts.tags("web_version"), "refused": name(refused)},
            )
            await self._services(web_version.record_failed, str(error))
            return
        self._take_up(version)
        logger.error(
            "WhatsApp refuses our web version %s; all gateways take up %s, and outdated "
            "salons are tried again now",
            name(refused),
            name(version),
            extra={
                **alerts.tags("web_version"),
                "refused": name(refused),
                "taken_up": name(version),
            },
        )
        await self._services(web_version.record_fetched, version)

    async def _fetch(self) -> Version:
        if not self._url:
            raise NoVersion("none is fetched here (WHATSAPP_VERSION_URL)")
        try:
            async with asyncio.timeout(FETCH_SECONDS):
                return await asyncio.wrap_future(
                    in_thread(partial(fetch, self._url), "web version")
                )
        except TimeoutError:
            raise NoVersion(f"no answer within {FETCH_SECONDS:.0f} s") from None


class _SameHost(urllib.request.HTTPRedirectHandler):
    """Follows a redirect only to where the question went."""

    def redirect_request(
        self,
        req: urllib.request.Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: Any,
        newurl: str,
    ) -> urllib.request.Request | None:
        was, to = urlsplit(req.full_url), urlsplit(newurl)
        if (was.scheme, was.netloc) != (to.scheme, to.netloc):
            raise NoVersion("a redirect to another host")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def fetch(url: str) -> Version:
    """Return the version that WhatsApp's own web page has.

    Raises:
        NoVersion: no answer, or none that names a version.
    """
    opener = urllib.request.build_opener(_SameHost)
    request = urllib.request.Request(url, headers=HEADERS)  # noqa: S310  (settings.py)
    try:
        with opener.open(request, timeout=FETCH_SECONDS) as response:
            script = _read(response)
    except HTTPError as error:
        error.close()
        raise NoVersion(f"HTTP {error.code}") from error
    except (OSError, HTTPException) as error:
        raise NoVersion(f"{type(error).__name__}: {error}") from error
    match = _REVISION.search(script)
    if match is None:
        raise NoVersion("the answer names no client_revision")
    revision = int(match[1])
    if not 0 < revision <= MAX_REVISION:
        raise NoVersion(f"the answer names revision {revision}")
    return (*FAMILY, revision)


def _read(response: Any) -> bytes:
    """Read an answer that comes in time and is not endless."""
    deadline = time.monotonic() + FETCH_SECONDS
    script = bytearray()
    while chunk := response.read1(2**16):
        script += chunk
        if len(script) > MAX_BYTES:
            raise NoVersion(f"the answer is longer than {MAX_BYTES} bytes")
        if time.monotonic() > deadline:
            raise NoVersion(f"no answer within {FETCH_SECONDS:.0f} s")
    return bytes(script)
