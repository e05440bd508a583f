"""Looks at everything that anybody can see, several times a second."""

import asyncio
import contextlib
import json
import os
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import psycopg
from websockets.asyncio.client import connect
from websockets.exceptions import WebSocketException

from tests.chaos.checks import Sample
from tests.chaos.cluster import Cluster
from tests.chaos.salons import LinkedSalon

LOOK_SECONDS = 0.2
DATABASE_SECONDS = 1.0
"""A database that takes longer to answer counts as away."""

_STATES = """
SELECT salon.salon_id, s.status, s.owner, EXISTS (
    SELECT FROM pg_locks l JOIN pg_stat_activity a ON a.pid = l.pid
    WHERE l.locktype = 'advisory' AND l.classid = x'57415053'::int AND l.objsubid = 2
    AND l.granted AND l.objid = s.salon_id
    AND a.application_name = left('gateway ' || s.owner, 63)
)
FROM whatsapp_whatsappsession s JOIN whatsapp_salon salon ON salon.id = s.salon_id
WHERE salon.salon_id = ANY(%s)
"""


@dataclass
class State:
    """What the database says of a salon."""

    status: str
    owner: str
    held: bool
    """Whether the owner is there, and holds its lock."""


@dataclass
class View:
    """One look at everything."""

    at: float
    live: dict[str, int]
    """How many sockets each device has."""
    states: dict[str, State] | None
    """By device; None: the database was away."""
    pages: dict[str, set[str]]
    """Devices that read ``open``, by page."""

    @property
    def sample(self) -> Sample:
        """The same for the checker of what is true."""
        reads = None
        if self.states is not None:
            reads = {"the database": frozenset(self._open_in_database())}
            reads |= {page: frozenset(jids) for page, jids in self.pages.items()}
        return Sample(self.at, frozenset(self.live), reads)

    def _open_in_database(self) -> list[str]:
        states = self.states or {}
        return [jid for jid, state in states.items() if state.status == "open"]


class PageWatch:
    """A salon's page that stays, and comes back when it loses its connection."""

    def __init__(self, name: str, url: str, salon: LinkedSalon) -> None:
        self.name = name
        self._url = f"{url.rstrip('/')}/ws/marketplace/"
        self._salon = salon
        self.status = ""
        self.lost = 0

    async def stay(self) -> None:
        """Watch, until cancelled."""
        while True:
            with contextlib.suppress(OSError, WebSocketException):
                await self._visit()
            self.status = ""
            self.lost += 1
            await asyncio.sleep(1)

    async def _visit(self) -> None:
        token: Any = f"bearer.{self._salon.salon.token()}"
        async with connect(self._url, subprotocols=["aiadmin.v1", token]) as page:  # type: ignore[list-item]
            async for text in page:
                message = json.loads(text)
                if message["event"] == "status":
                    self.status = message["data"]["status"]

    @property
    def reads_open(self) -> set[str]:
        """The salon's device, if the page shows it as open."""
        return {self._salon.jid} if self.status == "open" else set()


class Observer:
    """Keeps every look; the latest is :attr:`view`."""

    def __init__(self, cluster: Cluster, salons: Sequence[LinkedSalon]) -> None:
        self._cluster = cluster
        self._jids = {one.salon.salon_id: one.jid for one in salons}
        self._database: psycopg.AsyncConnection[Any] | None = None
        self._looked = asyncio.Event()
        self.views: list[View] = []
        self.pages: list[PageWatch] = []

    async def keep_looking(self) -> None:
        """Look, until cancelled."""
        try:
            while True:
                self.views.append(await self._look())
                self._looked.set()
                self._looked = asyncio.Event()
                await asyncio.sleep(LOOK_SECONDS)
        finally:
            if self._database is not None:
                await self._database.close()

    async def next(self) -> View:
        """Return a look that begins after this call."""
        now = time.monotonic()
        while True:
            await self._looked.wait()
            if self.views[-1].at >= now:
                return self.views[-1]

    async def _look(self) -> View:
        at = time.monotonic()
        states = await self._ask_database()
        live: dict[str, int] = {}
        for one in await asyncio.to_thread(self._cluster.simulator.connections):
            if one["stage"] == "open":
                live[one["jid"]] = live.get(one["jid"], 0) + 1
        pages = {page.name: page.reads_open for page in self.pages}
        return View(at, live, states, pages)

    async def _ask_database(self) -> dict[str, State] | None:
        """Return what it says; None if it does not, however long it would take."""
        asking = asyncio.create_task(self._states())
        # Nobody waits for it any more if we are cancelled.
        asking.add_done_callback(lambda task: task.cancelled() or task.exception())
        await asyncio.wait({asking}, timeout=DATABASE_SECONDS)
        if not asking.done():
            self._hang_up(asking)
        try:
            return await asking
        except (psycopg.Error, asyncio.CancelledError):
            self._database = None
            if not asking.done():  # then it is we who are cancelled
                raise
            return None

    def _hang_up(self, asking: asyncio.Task[dict[str, State]]) -> None:
        if self._database is None:
            asking.cancel()
            return
        # Not by a cancel, which psycopg would ask the very same database for.
        with socket.socket(fileno=os.dup(self._database.fileno())) as connection:
            connection.shutdown(socket.SHUT_RDWR)

    async def _states(self) -> dict[str, State]:
        if self._database is None:
            self._database = await psycopg.AsyncConnection.connect(
                self._cluster.postgres.url, autocommit=True
            )
        cursor = await self._database.execute(_STATES, (list(self._jids),))
        rows = await cursor.fetchall()
        return {self._jids[row[0]]: State(*row[1:]) for row in rows}
