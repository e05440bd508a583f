"""Keeps the lists of salons of this process right: one state of each salon for all.

A list is never told a change but the newest state, so nothing has to be in order:
whatever is heard or read makes a state newer, and the lists that show it are told soon.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable
from typing import Protocol, TypeAlias

import orjson
from django.utils import translation

from whatsapp import alerts, events, statuses
from whatsapp.events import Snapshot
from whatsapp.listener import Listener, Troubles

logger = logging.getLogger(__name__)

FLUSH_SECONDS = 0.25
"""Changes that come within it are told in one frame: gateways restart all at once."""


Read: TypeAlias = Callable[[list[int]], Awaitable[dict[int, Snapshot]]]


class ListPage(Protocol):
    """What the board needs of a consumer."""

    language: str

    async def show(self, frame: str) -> None: ...


class Board:
    """Runs while the watcher does. Everything happens in one event loop."""

    def __init__(self, troubles: Troubles) -> None:
        self._lists: dict[ListPage, frozenset[int]] = {}
        self._shown: dict[int, set[ListPage]] = {}
        self._states: dict[int, Snapshot] = {}
        self._rows: dict[int, dict[str, bytes]] = {}
        self._pending: dict[ListPage, set[int]] = {}
        self._waiting: set[ListPage] = set()
        self._news = asyncio.Event()
        self._somebody = asyncio.Event()
        self._listener = Listener(self._groups, self._hear, troubles)

    # --- who watches what -------------------------------------------------------------

    async def add(self, page: ListPage) -> None:
        """Add a list that shows nothing yet."""
        self._lists.setdefault(page, frozenset())
        self._somebody.set()
        await self._listener.join(events.LISTS_GROUP)

    async def remove(self, page: ListPage) -> None:
        """Remove a list."""
        self._set(page, frozenset())
        del self._lists[page]
        self._pending.pop(page, None)
        if not self._lists:
            await self._listener.leave(events.LISTS_GROUP)

    async def watch(self, page: ListPage, salon_pks: list[int], read: Read) -> None:
        """Let a list show these salons, in place of those before, and tell it them all.

        Changes are heard from before the states are read, so that none is lost; the
        list is told none of them before it is told everything.

        Args:
            page: the list.
            salon_pks: what it may show of what it asked for.
            read: returns the states of salons.
        """
        self._set(page, frozenset(salon_pks))
        self._waiting.add(page)
        try:
            self.learn((await read(salon_pks)).values())
            self._pending.pop(page, None)
            rows = self._rows_of(page, self._lists.get(page, ()))
            await page.show(_frame(rows))
        finally:
            self._waiting.discard(page)
            self._news.set()

    def _set(self, page: ListPage, now: frozenset[int]) -> None:
        if page not in self._lists:
            return  # it has left
        before = self._lists[page]
        self._lists[page] = now
        for pk in now - before:
            self._shown.setdefault(pk, set()).add(page)
        for pk in before - now:
            self._shown[pk].discard(page)
            if not self._shown[pk]:
                del self._shown[pk]
                self._states.pop(pk, None)
                self._rows.pop(pk, None)
        self._pending.get(page, set()).intersection_update(now)

    def narrow(self, page: ListPage, still: Callable[[int], bool]) -> None:
        """Take those salons from a list that it may no longer show."""
        shown = self._lists.get(page, frozenset())
        kept = frozenset(pk for pk in shown if still(pk))
        if kept != shown:
            self._set(page, kept)

    def known(self) -> dict[int, int]:
        """Return the revision of each salon that is shown; -1: nothing is known."""
        return {
            pk: self._states[pk]["revision"] if pk in self._states else -1
            for pk in self._shown
        }

    # --- what is new ------------------------------------------------------------------

    def learn(self, snapshots: Iterable[Snapshot]) -> None:
        """Take states that are newer than those known."""
        for state in snapshots:
            pk = state["salon"]
            known = self._states.get(pk)
            if pk not in self._shown or (
                known is not None and known["revision"] >= state["revision"]
            ):
                continue
            self._take(pk, events.without_secrets(state))

    def learn_proofs(self, proofs: dict[int, tuple[str, str | None]]) -> None:
        """Take owners and proofs of life, which change without a revision."""
        for pk, (owner, alive) in proofs.items():
            known = self._states.get(pk)
            if known is None or (known.get("owner"), known.get("alive")) == (
                owner,
                alive,
            ):
                continue
            self._take(pk, {**known, "owner": owner, "alive": alive})

    def _take(self, pk: int, state: Snapshot) -> None:
        self._states[pk] = state
        self._rows.pop(pk, None)
        for page in self._shown[pk]:
            self._pending.setdefault(page, set()).add(pk)
        self._news.set()

    async def _hear(self, state: Snapshot) -> None:
        self.learn([state])

    def _groups(self) -> list[str]:
        return [events.LISTS_GROUP] if self._lists else []

    # --- telling ----------------------------------------------------------------------

    def prepare(self) -> None:
        """Let whoever joins wait for :meth:`run`, which is about to start."""
        self._somebody.clear()
        self._listener.prepare()

    async def run(self) -> None:
        """Hear changes and tell them."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._listen())
            group.create_task(self._tell())

    async def _listen(self) -> None:
        await self._somebody.wait()
        await self._listener.run()

    async def rejoin(self) -> None:
        """Join the lists' group again."""
        await self._listener.rejoin()

    async def _tell(self) -> None:
        while True:
            await self._news.wait()
            self._news.clear()
            for page in list(self._pending):
                if page in self._waiting:
                    continue
                try:
                    rows = self._rows_of(page, self._pending.pop(page, ()))
                    if rows:
                        await page.show(_frame(rows))
                except Exception:  # one list must not keep the others waiting
                    logger.exception(
                        "A list could not be told.", extra=alerts.tags("page_told")
                    )
            await asyncio.sleep(FLUSH_SECONDS)

    def _rows_of(self, page: ListPage, pks: Iterable[int]) -> list[bytes]:
        # What a list may show can have shrunk since these became news.
        shown = self._lists.get(page, frozenset())
        return [
            self._row(pk, page.language)
            for pk in sorted(pks)
            if pk in shown and pk in self._states
        ]

    def _row(self, pk: int, language: str) -> bytes:
        """Return a salon's row as JSON, made once for all lists in a language."""
        rows = self._rows.setdefault(pk, {})
        if language not in rows:
            with translation.override(language):
                rows[language] = orjson.dumps(statuses.row(self._states[pk]))
        return rows[language]


def _frame(rows: list[bytes]) -> str:
    name = orjson.dumps(events.SALON_STATUSES)
    return (b'{"event":%s,"data":{"salons":[%s]}}' % (name, b",".join(rows))).decode()
