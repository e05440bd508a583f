"""Keeps the pages of this process right: one listener and one look for all of them.

The channel layer brings changes at once. A look every few seconds finds what the layer
lost, so pages are right within seconds without it, and sweeps what nobody works on:
attempts whose time is over, sockets whose token has expired, whose login has ended or
whose role is gone.
"""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import chain
from typing import ParamSpec, Protocol, TypeVar
from weakref import WeakKeyDictionary

from asgiref.sync import SyncToAsync
from django.conf import settings
from django.db import connections

from whatsapp import alerts, events
from whatsapp.board import Board, ListPage
from whatsapp.errors import ErrorCode, WhatsAppError
from whatsapp.events import Snapshot
from whatsapp.listener import Listener, Troubles
from whatsapp.services import attempts, logins, proofs, sessions
from whatsapp.services.logins import Login, Rights

logger = logging.getLogger(__name__)

P = ParamSpec("P")
R = TypeVar("R")
S = TypeVar("S")

SOCKETS_PER_SALON = 20
CONNECTS_PER_MINUTE = 30
# Each page of the admin has one or two, and people look into one salon after another.
SOCKETS_PER_USER = 50
STAFF_CONNECTS_PER_MINUTE = 120
WATCHED_SECONDS = 20.0

# Not the one thread that Channels shares among all consumers: a salon whose row is
# busy must not keep the pages of the others waiting.
THREADS = 6
"""More would only take turns: what they do is done by one interpreter, and whoever has
been taken shall be finished before the next."""

_threads = ThreadPoolExecutor(THREADS, thread_name_prefix="pages")


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
    """What the watcher needs of any page of one salon."""

    @property
    def salon_pk(self) -> int: ...

    @property
    def revision(self) -> int: ...

    async def tell(self, snapshot: Snapshot) -> None: ...


class TokenPage(Page, Protocol):
    """A page that a token opened, until the token ends."""

    @property
    def expires_at(self) -> float: ...

    async def expire(self) -> None: ...


class StaffSocket(Protocol):
    """A socket that a login opened, for as long as the login and its rights last."""

    @property
    def login(self) -> Login: ...

    async def judge(self, rights: Rights | None) -> None: ...


class StaffPage(Page, StaffSocket, Protocol):
    """A salon's page in the staff's admin."""

    @property
    def watches(self) -> bool: ...


class StaffList(ListPage, StaffSocket, Protocol):
    """A list of salons in the staff's admin."""


class Watcher:
    """Runs while there are pages. Everything happens in one event loop."""

    def __init__(self) -> None:
        self._pages: dict[int, set[TokenPage]] = {}
        self._staff_pages: dict[int, set[StaffPage]] = {}
        self._staff: dict[int, set[StaffSocket]] = {}
        self._connects: dict[int, deque[float]] = {}
        self._staff_connects: dict[int, deque[float]] = {}
        self._for_staff: asyncio.Queue[Snapshot] = asyncio.Queue()
        self._checking = asyncio.Lock()
        self._runner: asyncio.Task[None] | None = None
        self._troubles = Troubles(logger)
        self._listener = Listener(self._groups, self._hear, self._troubles)
        self.board = Board(self._troubles)

    # --- coming and going -------------------------------------------------------------

    async def join(self, page: TokenPage) -> None:
        """Add a page; from now on it is told every change of its salon.

        Raises:
            WhatsAppError: RATE_LIMITED, too many pages of this salon.
        """
        # Per salon: behind a proxy all salons have one address.
        _admit(
            self._connects,
            page.salon_pk,
            CONNECTS_PER_MINUTE,
            full=len(self._pages.get(page.salon_pk, ())) >= SOCKETS_PER_SALON,
        )
        self._pages.setdefault(page.salon_pk, set()).add(page)
        self._start()
        await self._listener.join(events.salon_group(page.salon_pk))

    async def join_salon(self, page: StaffPage) -> None:
        """Add a salon's page of the staff, which has limits of its own.

        Raises:
            WhatsAppError: RATE_LIMITED, too many sockets of this person.
        """
        self._admit_staff(page)
        self._staff_pages.setdefault(page.salon_pk, set()).add(page)
        self._start()
        await self._listener.join(events.salon_group(page.salon_pk))

    async def join_list(self, page: StaffList) -> None:
        """Add a list of salons.

        Raises:
            WhatsAppError: RATE_LIMITED, too many sockets of this person.
        """
        self._admit_staff(page)
        self._start()
        await self.board.add(page)

    def _admit_staff(self, socket: StaffSocket) -> None:
        user_pk = socket.login.user_pk
        _admit(
            self._staff_connects,
            user_pk,
            STAFF_CONNECTS_PER_MINUTE,
            full=len(self._staff.get(user_pk, ())) >= SOCKETS_PER_USER,
        )
        self._staff.setdefault(user_pk, set()).add(socket)

    async def leave(self, page: TokenPage) -> None:
        """Remove a page, if it is here; the last one ends the watch."""
        if _discard(self._pages, page.salon_pk, page):
            await self._leave_group(page.salon_pk)
        await self._stop_if_alone()

    async def leave_salon(self, page: StaffPage) -> None:
        """Remove a salon's page of the staff, if it is here."""
        _discard(self._staff, page.login.user_pk, page)
        if _discard(self._staff_pages, page.salon_pk, page):
            await self._leave_group(page.salon_pk)
        await self._stop_if_alone()

    async def leave_list(self, page: StaffList) -> None:
        """Remove a list of salons, if it is here."""
        if page in self._staff.get(page.login.user_pk, ()):
            _discard(self._staff, page.login.user_pk, page)
            await self.board.remove(page)
        await self._stop_if_alone()

    async def _leave_group(self, salon_pk: int) -> None:
        if salon_pk not in self._pages and salon_pk not in self._staff_pages:
            await self._listener.leave(events.salon_group(salon_pk))

    def _groups(self) -> list[str]:
        return [events.salon_group(pk) for pk in {*self._pages, *self._staff_pages}]

    def _start(self) -> None:
        if self._runner is None or self._runner.done():
            self._listener.prepare()
            self.board.prepare()
            self._runner = asyncio.create_task(self._run(), name="watcher of pages")

    async def _stop_if_alone(self) -> None:
        if not self._pages and not self._staff and self._runner is not None:
            runner, self._runner = self._runner, None
            runner.cancel()
            await asyncio.wait([runner])

    async def _run(self) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(self._listener.run())
            group.create_task(self._look_regularly())
            group.create_task(self._tell_staff())
            group.create_task(self.board.run())

    # --- telling ----------------------------------------------------------------------

    async def _hear(self, snapshot: Snapshot) -> None:
        """Hand a state on. Pages of salons first: the staff's rights may be asked for."""
        await _tell(self._pages.get(snapshot["salon"], ()), snapshot)
        if snapshot["salon"] in self._staff_pages:
            self._for_staff.put_nowait(snapshot)

    async def _tell_staff(self) -> None:
        """Tell the staff's pages; a secret only after a look at who may still have it."""
        while True:
            snapshot = await self._for_staff.get()
            pages = self._staff_pages.get(snapshot["salon"], set())
            try:
                if events.holds_secret(snapshot):
                    await self.check(pages)
                self._troubles.over("check of the staff")
            except Exception as error:  # noqa: BLE001  (the next look tells them)
                self._troubles.note("check of the staff", error)
            else:
                await _tell(pages, snapshot)

    async def check(self, sockets: Iterable[StaffSocket]) -> None:
        """Let these sockets know what their logins allow now, by one query for all."""
        # One after the other: an older answer must not come after a newer one.
        async with self._checking:
            judged = list(sockets)
            found = await database(logins.rights, {socket.login for socket in judged})
            for socket in judged:
                try:
                    await socket.judge(found.get(socket.login))
                except Exception:  # one socket must not keep the others waiting
                    logger.exception(
                        "A socket of the staff could not be judged.",
                        extra=alerts.tags("page_request", component="admin"),
                    )

    # --- the look ---------------------------------------------------------------------

    async def _look_regularly(self) -> None:
        watched_until = time.monotonic() + WATCHED_SECONDS
        while True:
            await asyncio.sleep(settings.WHATSAPP_LOOK_INTERVAL)
            now = time.monotonic()
            rarely = now >= watched_until
            if rarely:
                watched_until = now + WATCHED_SECONDS
            # Whatever else fails, whoever must go goes.
            await self._look("check of the staff", self._check_everybody)
            await self._look("look", partial(self._look_at_salons, thorough=rarely))

    async def _look(self, what: str, look: Callable[[], Awaitable[None]]) -> None:
        try:
            await look()
            self._troubles.over(what)
        except Exception as error:  # noqa: BLE001  (all pages depend on it)
            self._troubles.note(what, error)

    async def _check_everybody(self) -> None:
        await self._end_expired()
        if self._staff:
            await self.check(chain.from_iterable(list(self._staff.values())))

    async def _look_at_salons(self, *, thorough: bool) -> None:
        watched = self._watched() if thorough else None
        shown = list(self.board.known()) if thorough else []
        changed, proofs = await database(_read, self._told(), watched, shown)
        for snapshot in changed:
            await self._hear(snapshot)
        self.board.learn(changed)
        self.board.learn_proofs(proofs)
        if thorough:
            await self._listener.rejoin()
            await self.board.rejoin()

    def _told(self) -> dict[int, int]:
        """Return what the least informed page of each salon knows."""
        told = self.board.known()
        for page in chain(*self._pages.values(), *self._staff_pages.values()):
            known = told.get(page.salon_pk, page.revision)
            told[page.salon_pk] = min(page.revision, known)
        return told

    def _watched(self) -> list[int]:
        """Return the salons in front of whose pages somebody may want to link."""
        by_staff = (
            pk
            for pk, pages in self._staff_pages.items()
            if any(page.watches for page in pages)
        )
        return list({*self._pages, *by_staff})

    async def _end_expired(self) -> None:
        now = time.time()
        for pages in list(self._pages.values()):
            for page in [page for page in pages if page.expires_at <= now]:
                await page.expire()


def _admit(
    connects: dict[int, deque[float]], key: int, per_minute: int, *, full: bool
) -> None:
    """Count a connection.

    Raises:
        WhatsAppError: RATE_LIMITED, there are too many, or they come too often.
    """
    now = time.monotonic()
    if len(connects) > 1000:
        for old in [
            key for key, times in connects.items() if not times or times[-1] <= now - 60
        ]:
            del connects[old]
    times = connects.setdefault(key, deque(maxlen=per_minute))
    frequent = len(times) == per_minute and times[0] > now - 60
    if frequent or full:
        raise WhatsAppError(ErrorCode.RATE_LIMITED, retry_after=60)
    times.append(now)


def _discard(sockets: dict[int, set[S]], key: int, socket: S) -> bool:
    """Remove a socket; return whether it was the last one under its key."""
    present = sockets.get(key)
    if present is None:
        return False
    present.discard(socket)
    if not present:
        del sockets[key]
    return not present


async def _tell(pages: Iterable[Page], snapshot: Snapshot) -> None:
    for page in list(pages):
        try:
            await page.tell(snapshot)
        except Exception:  # one page must not keep the others waiting
            logger.exception(
                "A page could not be told.", extra=alerts.tags("page_told")
            )


def _read(
    told: dict[int, int], watched: list[int] | None, shown: list[int]
) -> tuple[list[Snapshot], dict[int, tuple[str, str | None]]]:
    """Sweep what nobody works on, and read what the pages do not know yet.

    Args:
        told: the revision that is known of each salon.
        watched: salons to note as watched, at a thorough look; else None.
        shown: salons whose proofs of life are wanted.
    """
    attempts.expire_overdue()
    if watched is not None:
        sessions.watch(watched)
        proofs.demote_unowned()  # gateways do it too, while there are any
    changed = [
        pk
        for pk, revision in events.revisions(list(told)).items()
        if revision > told[pk]
    ]
    return (
        list(events.snapshots(changed).values()) if changed else [],
        events.proofs_of_life(shown) if shown else {},
    )


_watchers: WeakKeyDictionary[asyncio.AbstractEventLoop, Watcher] = WeakKeyDictionary()


def watcher() -> Watcher:
    """Return the watcher of the running event loop."""
    return _watchers.setdefault(asyncio.get_running_loop(), Watcher())
