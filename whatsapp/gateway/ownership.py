"""Who runs which salon: advisory locks on a private connection.

A lock lives exactly as long as its connection, so a gateway that dies, hangs up or is
cut off loses its salons without anybody's help. The epoch in the session row covers
the moment in which the old owner does not know it yet.
"""

import asyncio
import logging
import os

import psycopg

from whatsapp.services.claims import LOCK_CLASS

logger = logging.getLogger(__name__)

HEARTBEAT_SECONDS = 1.0
ANSWER_SECONDS = 3.0


_ACQUIRE = "SELECT pk FROM unnest(%s::int[]) AS pk WHERE pg_try_advisory_lock(%s, pk)"
_RELEASE = """
SELECT pg_advisory_unlock(classid::int, objid::int) FROM pg_locks
WHERE locktype = 'advisory' AND pid = pg_backend_pid() AND objsubid = 2
  AND objid::int = ANY(%s::int[]) AND classid = %s
"""


class LocksLost(Exception):
    """The connection that held the locks is gone, and so are the locks."""


class Ownership:
    """The salons that this gateway may run.

    Args:
        conninfo: libpq connection string, straight to PostgreSQL.
        name: of the gateway, shown in ``pg_stat_activity``.
    """

    def __init__(self, conninfo: str, name: str) -> None:
        self._conninfo = conninfo
        self._name = name
        self._connection: psycopg.AsyncConnection | None = None
        self._news = asyncio.Event()
        self.held: set[int] = set()

    async def connect(self) -> None:
        """Open the private connection.

        Raises:
            psycopg.OperationalError: the database cannot be reached.
        """
        self.held.clear()
        self._connection = await psycopg.AsyncConnection.connect(
            self._conninfo,
            autocommit=True,
            application_name=f"gateway {self._name}"[:63],
            connect_timeout=int(ANSWER_SECONDS),
        )

    async def acquire(self, salon_pks: list[int]) -> list[int]:
        """Try to lock salons that are not held; return those that are ours now."""
        wanted = [pk for pk in salon_pks if pk not in self.held]
        if not wanted:
            return []
        try:
            rows = await self._query(_ACQUIRE, (wanted, LOCK_CLASS))
        except psycopg.errors.OutOfMemory:
            logger.exception(
                "PostgreSQL's lock table is full: raise max_locks_per_transaction"
            )
            # Some may have been locked before the error, which undoes none of them.
            await self._query(_RELEASE, (wanted, LOCK_CLASS))
            return []
        acquired = [row[0] for row in rows]
        self.held.update(acquired)
        return acquired

    async def release(self, salon_pks: list[int]) -> None:
        """Unlock salons that are held."""
        held = [pk for pk in salon_pks if pk in self.held]
        if not held:
            return
        self.held.difference_update(held)
        await self._query(_RELEASE, (held, LOCK_CLASS))

    async def watch(self) -> None:
        """Ask for a sign of life every second, and as soon as something happens.

        Raises:
            LocksLost: the connection broke, or does not answer.
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

    async def close(self) -> None:
        """Close the connection; every lock is free from then on."""
        connection, self._connection = self._connection, None
        self.held.clear()
        if connection is not None:
            await connection.close()

    async def _query(self, sql: str, params: tuple[object, ...]) -> list[tuple[int]]:
        connection = self._connection
        if connection is None:
            raise LocksLost
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                cursor = await connection.execute(sql.encode(), params)
                return await cursor.fetchall()
        except psycopg.errors.OutOfMemory:
            raise  # the connection is well, and so are the locks
        except (psycopg.Error, TimeoutError) as error:
            logger.warning("The lock connection is lost: %s", type(error).__name__)
            # Not knowing what came of a query means not knowing what is locked.
            self._connection = None
            self._news.set()
            await connection.close()
            raise LocksLost from error
