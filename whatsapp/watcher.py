"""Keeps the pages of this process right: one listener and one look for all of them.

The channel layer brings changes at once. A look every few seconds finds what the layer
lost, so pages are right within seconds without it, and sweeps what nobody works on:
attempts whose time is over, sockets whose token has expired.
"""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import ParamSpec, Protocol, TypeVar
from weakref import WeakKeyDictionary

from asgiref.sync import SyncToAsync
from channels.layers import get_channel_layer
from django.conf import settings
from django.db import connections

from whatsapp import events
from whatsapp.errors import ErrorCode, WhatsAppError
from whatsapp.events import Snapshot
from whatsapp.services import attempts, claims, sessions

logger = logging.getLogger(__name__)

P = ParamSpec("P")
R = TypeVar("R")

SOCKETS_PER_SALON = 20
CONNECTS_PER_MINUTE = 30
LAYER_SECONDS = 2.0
WATCHED_SECONDS = 20.0

# Not the one thread that Channels shares among all consumers: a salon whose row is
# busy must not keep the pages of the others waiting.
_threads = ThreadPoolExecutor(16, thread_name_prefix="pages")


async def database(service: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
    """Call a sync service in a thread of its own."""
    call = SyncToAsync(
        partial(_with_own_connection, partial(service, *args, **kwargs)),
        thread_sensitive=False,
        executor=_threads,
    )
    return await call()


def _with_own_connection(service: Callable[[], R]) -> R:
    try:
        return service()
    finally:
        connections.close_all()  # back to the pool: an idle thread must not keep it


class Page(Protocol):
    """What the watcher needs of a consumer."""

    @property
    def salon_pk(self) -> int: ...

    @property
    def revision(self) -> int: ...

    @property
    def expires_at(self) -> float: ...

    async def tell(self, snapshot: Snapshot) -> None: ...

    async def expire(self) -> None: ...


class Watcher:
    """Runs while there are pages. Everything happens in one event loop."""

    def __init__(self) -> None:
        self._pages: dict[int, set[Page]] = {}
        self._connects: dict[int, deque[float]] = {}
        self._runner: asyncio.Task[None] | None = None
        self._tried_layer = asyncio.Event()
        self._channel: str | None = None
        self._troubles: set[str] = set()

    async def join(self, page: Page) -> None:
        """Add a page; from now on it is told every change of its salon.

        Raises:
            WhatsAppError: RATE_LIMITED, too many pages of this salon.
        """
        self._admit(page.salon_pk)
        self._pages.setdefault(page.salon_pk, set()).add(page)
        if self._runner is None or self._runner.done():
            self._tried_layer = asyncio.Event()
            self._runner = asyncio.create_task(self._run(), name="watcher of pages")
        try:
            async with asyncio.timeout(LAYER_SECONDS):
                await self._tried_layer.wait()
                if self._channel is not None:
                    await self._subscribe(page.salon_pk)
        except events.LAYER_ERRORS as error:
            self._trouble("layer", error)

    async def leave(self, page: Page) -> None:
        """Remove a page, if it is here; the last one ends the watch."""
        pages = self._pages.get(page.salon_pk, set())
        pages.discard(page)
        if not pages and self._pages.pop(page.salon_pk, None) is not None:
            await self._unsubscribe(page.salon_pk)
        if not self._pages and self._runner is not None:
            runner, self._runner = self._runner, None
            runner.cancel()
            await asyncio.wait([runner])

    def _admit(self, pk: int) -> None:
        """Count a connection. Per salon: behind a proxy all salons have one address."""
        now = time.monotonic()
        if len(self._connects) > 1000:
            self._connects = {
                key: times
                for key, times in self._connects.items()
                if times[-1] > now - 60
            }
        times = self._connects.setdefault(pk, deque(maxlen=CONNECTS_PER_MINUTE))
        frequent = len(times) == CONNECTS_PER_MINUTE and times[0] > now - 60
        if frequent or len(self._pages.get(pk, ())) >= SOCKETS_PER_SALON:
            raise WhatsAppError(ErrorCode.RATE_LIMITED, retry_after=60)
        times.append(now)

    async def _run(self) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(self._listen())
            group.create_task(self._look_regularly())

    # --- the layer --------------------------------------------------------------------

    async def _listen(self) -> None:
        """Hand on what comes by the layer; without the layer, try again and again."""
        layer = get_channel_layer()
        while layer is not None:
            channel = None
            try:
                async with asyncio.timeout(LAYER_SECONDS):
                    channel = await layer.new_channel()
                self._channel = channel
                await self._resubscribe()
                self._tried_layer.set()
                self._fine("layer")
                while True:
                    message = await layer.receive(channel)
                    await self._hand_on([message["snapshot"]])
            except events.LAYER_ERRORS as error:
                self._trouble("layer", error)
            finally:
                if self._channel == channel:
                    self._channel = None
                self._tried_layer.set()
            await asyncio.sleep(settings.WHATSAPP_LOOK_INTERVAL)
        self._tried_layer.set()

    async def _resubscribe(self) -> None:
        """Join the groups again: layers forget members, by age or with a failure."""
        async with asyncio.timeout(LAYER_SECONDS):
            for pk in list(self._pages):
                await self._subscribe(pk)

    async def _subscribe(self, pk: int) -> None:
        layer = get_channel_layer()
        if layer is not None and self._channel is not None:
            await layer.group_add(events.salon_group(pk), self._channel)

    async def _unsubscribe(self, pk: int) -> None:
        layer = get_channel_layer()
        if layer is None or self._channel is None:
            return
        try:
            async with asyncio.timeout(LAYER_SECONDS):
                await layer.group_discard(events.salon_group(pk), self._channel)
        except events.LAYER_ERRORS as error:
            self._trouble("layer", error)

    # --- the look ---------------------------------------------------------------------

    async def _look_regularly(self) -> None:
        watched_until = time.monotonic() + WATCHED_SECONDS
        while True:
            await asyncio.sleep(settings.WHATSAPP_LOOK_INTERVAL)
            now = time.monotonic()
            rarely = now >= watched_until
            if rarely:
                watched_until = now + WATCHED_SECONDS
            try:
                await self._end_expired()
                changed = await database(_read, self._told(), thorough=rarely)
                await self._hand_on(changed)
                self._fine("look")
                if rarely and self._channel is not None:
                    await self._resubscribe()
            except Exception as error:  # noqa: BLE001  (all pages depend on it)
                self._trouble("look", error)

    def _told(self) -> dict[int, int]:
        """Return what the least informed page of each salon knows."""
        return {
            pk: min(page.revision for page in pages)
            for pk, pages in self._pages.items()
            if pages
        }

    async def _end_expired(self) -> None:
        now = time.time()
        for pages in list(self._pages.values()):
            for page in [page for page in pages if page.expires_at <= now]:
                await page.expire()

    async def _hand_on(self, snapshots: Iterable[Snapshot]) -> None:
        for snapshot in snapshots:
            for page in list(self._pages.get(snapshot["salon"], ())):
                try:
                    await page.tell(snapshot)
                except Exception:  # one page must not keep the others waiting
                    logger.exception("A page could not be told.")

    # --- telling operators, once ------------------------------------------------------

    def _trouble(self, what: str, error: BaseException) -> None:
        if what not in self._troubles:
            self._troubles.add(what)
            logger.error("The %s of the pages fails.", what, exc_info=error)

    def _fine(self, what: str) -> None:
        if what in self._troubles:
            self._troubles.discard(what)
            logger.info("The %s of the pages works again.", what)


def _read(told: dict[int, int], *, thorough: bool) -> list[Snapshot]:
    """Sweep what nobody works on, and return what the pages do not know yet."""
    attempts.expire_overdue()
    pks = list(told)
    if thorough:
        sessions.watch(pks)
        claims.demote_unowned()  # gateways do it too, while there are any
    changed = [
        pk for pk, revision in events.revisions(pks).items() if revision > told[pk]
    ]
    return list(events.snapshots(changed).values()) if changed else []


_watchers: WeakKeyDictionary[asyncio.AbstractEventLoop, Watcher] = WeakKeyDictionary()


def watcher() -> Watcher:
    """Return the watcher of the running event loop."""
    return _watchers.setdefault(asyncio.get_running_loop(), Watcher())
