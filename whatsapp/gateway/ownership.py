"""Who runs which salon: advisory locks on a private connection.

A lock lives exactly as long as its connection, so a gateway that dies or hangs up loses
its salons without anybody's help. One that hangs, is stopped or cut off does so too:
PostgreSQL ends a lock connection that says nothing for ``SESSION_SECONDS``. Before
that, the gateway gives up by itself (``LEASE_SECONDS`` after the last heartbeat that
was answered), and so does its Node.js, which hears nothing from it any more. The epoch
in the session row covers what is still on its way then.

While the database is away for everybody, nobody can take the locks that it has
forgotten: sockets may stay open for ``HOLD_SECONDS``, and those who claim afterwards
leave the first seconds (``claims.GRACE_SECONDS``) to the owners of before.
"""

import asyncio
import contextlib
import logging
import os
from collections.abc import Callable, Iterable
from typing import Any

import orjson
import psycopg

from whatsapp import alerts
from whatsapp.gateway import database
from whatsapp.gateway.database import NoAnswer
from whatsapp.services.claims import LOCK_CLASS
from whatsapp.services.gateways import CHANNEL, GATEWAY_LOCK_CLASS

logger = logging.getLogger(__name__)

HEARTBEAT_SECONDS = 1.0
LEASE_SECONDS = 8.0
SESSION_SECONDS = 12.0
CONNECT_SECONDS = 3.0

PROBE_SECONDS = 1.0
"""For so long after a cut it may be nothing but the connection: it is made anew."""
DOWN_SECONDS = 2.0
"""So long it counts that the database let nobody in."""
HOLD_SECONDS = 30.0
"""A database that is away for longer ends the sockets: what they could not store would
grow, and what a status says would get older."""


_ACQUIRE = "SELECT pk FROM unnest(%s::int[]) AS pk WHERE pg_try_advisory_lock(%s, pk)"
_RELEASE = """
SELECT pg_advisory_unlock(classid::int, objid::int) FROM pg_locks
WHERE locktype = 'advisory' AND pid = pg_backend_pid() AND objsubid = 2
  AND objid::int = ANY(%s::int[]) AND classid = %s
"""
_END_IF_IDLE = """
SELECT set_config('idle_session_timeout', %s, false),
       set_config('client_connection_check_interval', '1s', false)
WHERE current_setting('server_version_num')::int >= 140000
"""


class LocksLost(Exception):
    """The connection that held the locks is gone, and so are the locks."""


class Ownership:
    """The salons that this gateway may run.

    Args:
        conninfo: libpq connection string, straight to PostgreSQL.
        name: of the gateway, shown in ``pg_stat_activity``.
        gateway_id: of its row; its lock shows the other gateways that it lives.
        on_free: called with salons that another gateway leaves to this one.
    """

    def __init__(
        self,
        conninfo: str,
        name: str,
        gateway_id: int,
        on_free: Callable[[list[int]], None],
    ) -> None:
        self._conninfo = conninfo
        self._name = name
        self._id = gateway_id
        self._on_free = on_free
        self._connection: psycopg.AsyncConnection | None = None
        self._news = asyncio.Event()
        self._answered = 0.0
        self._broken: float | None = None
        self._hold_until = 0.0
        self.held: set[int] = set()

    # --- the connection ---------------------------------------------------------------

    async def connect(self) -> None:
        """Open the private connection; no salon is held by it yet.

        Raises:
            psycopg.OperationalError: the database cannot be reached.
            LocksLost: it was, and is gone again.
        """
        self.held.clear()
        self._answered = 0.0
        within = CONNECT_SECONDS
        if self.may_hold:  # and no longer than that
            within = min(within, self._hold_until - asyncio.get_running_loop().time())
        try:
            async with asyncio.timeout(within):
                self._connection = await psycopg.AsyncConnection.connect(
                    self._conninfo,
                    autocommit=True,
                    application_name=f"gateway {self._name}"[:63],
                )
        except TimeoutError as error:
            raise NoAnswer("no connection in time") from error
        except psycopg.OperationalError as error:
            if _lets_nobody_in(error):
                self._hold(DOWN_SECONDS)
            raise
        self._connection.add_notify_handler(self._on_notify)
        await self._query(_END_IF_IDLE, (f"{int(SESSION_SECONDS * 1000)}ms",))
        await self._query(f"LISTEN {CHANNEL}", ())

    async def join(self) -> None:
        """Be counted among the gateways: all of before is held again, or given up."""
        self._broken = None
        await self._query(
            "SELECT pg_try_advisory_lock(%s, %s)", (GATEWAY_LOCK_CLASS, self._id)
        )

    @property
    def may_hold(self) -> bool:
        """Whether sockets may stay open although the connection is lost.

        Only while nobody else can have the locks.
        """
        return asyncio.get_running_loop().time() < self._hold_until

    def _hold(self, seconds: float) -> None:
        if self._broken is not None:
            now = asyncio.get_running_loop().time()
            self._hold_until = min(now + seconds, self._broken + HOLD_SECONDS)

    async def close(self) -> None:
        """Close the connection; every lock is free from then on."""
        connection, self._connection = self._connection, None
        self.held.clear()
        if connection is not None:
            await connection.close()

    # --- locks ------------------------------------------------------------------------

    async def acquire(self, salon_pks: Iterable[int]) -> list[int]:
        """Try to lock salons that are not held; return those that are ours now."""
        wanted = [pk for pk in salon_pks if pk not in self.held]
        if not wanted:
            return []
        try:
            rows = await self._query(_ACQUIRE, (wanted, LOCK_CLASS))
        except psycopg.errors.OutOfMemory:
            logger.exception(
                "PostgreSQL's lock table is full: raise max_locks_per_transaction",
                extra=alerts.tags("claim", category="database"),
            )
            # Some may have been locked before the error, which undoes none of them.
            await self._query(_RELEASE, (wanted, LOCK_CLASS))
            return []
        acquired = [row[0] for row in rows]
        self.held.update(acquired)
        return acquired

    async def release(self, salon_pks: Iterable[int]) -> None:
        """Unlock salons that are held."""
        held = [pk for pk in salon_pks if pk in self.held]
        if not held:
            return
        self.held.difference_update(held)
        await self._query(_RELEASE, (held, LOCK_CLASS))

    async def leave(self) -> None:
        """Be no longer counted among the gateways; the salons stay locked."""
        await self._query(
            "SELECT pg_advisory_unlock(%s, %s)", (GATEWAY_LOCK_CLASS, self._id)
        )

    async def tell_free(self, salon_pks: list[int], gateway: str) -> None:
        """Tell a gateway that salons are left to it; it hears it at once."""
        for start in range(0, len(salon_pks), 500):  # a payload has 8,000 bytes
            word = {"to": gateway, "salons": salon_pks[start : start + 500]}
            await self._query(
                "SELECT pg_notify(%s, %s)", (CHANNEL, orjson.dumps(word).decode())
            )

    def _on_notify(self, notify: psycopg.Notify) -> None:
        try:
            word = orjson.loads(notify.payload)
            to, salons = word["to"], [int(pk) for pk in word["salons"]]
        except (ValueError, TypeError, KeyError):
            logger.warning("A notice of another gateway is not understood")
            return
        if to == self._name:
            self._on_free(salons)

    # --- signs of life ----------------------------------------------------------------

    async def watch(self) -> None:
        """Give a sign of life every second, and as soon as something happens.

        Raises:
            LocksLost: the connection broke, or did not answer for LEASE_SECONDS.
        """
        while True:
            await self._wait_for_news()
            await self._query("SELECT 1", ())

    async def _wait_for_news(self) -> None:
        """Wait for a heartbeat; shorter if the server says something, or hangs up.

        Others may claim our salons from that moment on, so it must not take a second.
        """
        self._news.clear()
        if self._connection is None or self._connection.closed:
            return
        loop = asyncio.get_running_loop()
        # A descriptor of its own: psycopg watches the other one during its queries.
        fd = os.dup(self._connection.fileno())
        loop.add_reader(fd, self._news.set)
        try:
            async with asyncio.timeout(HEARTBEAT_SECONDS):
                await self._news.wait()
        except TimeoutError:
            pass
        finally:
            loop.remove_reader(fd)
            os.close(fd)

    async def _query(self, sql: str, params: tuple[object, ...]) -> list[tuple[int]]:
        connection = self._connection
        if connection is None:
            raise LocksLost
        loop = asyncio.get_running_loop()
        asked = loop.time()
        left = (self._answered or asked) + LEASE_SECONDS - asked
        running = asyncio.ensure_future(
            database.query(connection, sql.encode(), params, left)
        )
        # Who is cancelled in a heartbeat, to hand over, must not lose the locks for it.
        running.add_done_callback(_look_at_result)
        try:
            rows = await asyncio.shield(running)
        except psycopg.errors.OutOfMemory:
            raise  # the connection is well, and so are the locks
        except psycopg.Error as error:
            await self._lose(connection, error)
            raise LocksLost from error
        self._answered = asked
        return rows

    async def _lose(
        self, connection: psycopg.AsyncConnection, error: psycopg.Error
    ) -> None:
        """Not knowing what came of a query means not knowing what is locked."""
        logger.warning("The lock connection is lost: %s", type(error).__name__)
        if self._connection is connection:
            self._connection = None
            if self._broken is None:
                self._broken = asyncio.get_running_loop().time()
                # What was silent for so long may be free, or about to be.
                self._hold(0 if isinstance(error, NoAnswer) else PROBE_SECONDS)
        self._news.set()
        with contextlib.suppress(psycopg.Error):
            await connection.close()


def _look_at_result(done: asyncio.Future[Any]) -> None:
    if not done.cancelled():
        done.exception()


def _lets_nobody_in(error: psycopg.OperationalError) -> bool:
    """Say whether the database is away for everybody, not only for us."""
    text = str(error)
    return "Connection refused" in text or any(
        f"the database system is {state}" in text
        for state in ("starting up", "shutting down", "in recovery mode", "not yet")
    )
