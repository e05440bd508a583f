"""Who runs which salon: advisory locks on a private connection.

A lock lives exactly as long as its connection, so a gateway that dies, hangs up or is
cut off loses its salons without anybody's help. The epoch in the session row covers
the moment in which the old owner does not know it yet.
"""

import asyncio
import logging

import psycopg

from whatsapp.services.sessions import LOCK_CLASS

logger = logging.getLogger(__name__)

HEARTBEAT_SECONDS = 1.0
ANSWER_SECONDS = 3.0


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
        rows = await self._query(
            "SELECT pk FROM unnest(%s::int[]) AS pk WHERE pg_try_advisory_lock(%s, pk)",
            (wanted, LOCK_CLASS),
        )
        acquired = [row[0] for row in rows]
        self.held.update(acquired)
        return acquired

    async def release(self, salon_pks: list[int]) -> None:
        """Unlock salons that are held."""
        held = [pk for pk in salon_pks if pk in self.held]
        if not held:
            return
        self.held.difference_update(held)
        await self._query(
            "SELECT pg_advisory_unlock(%s, pk) FROM unnest(%s::int[]) AS pk",
            (LOCK_CLASS, held),
        )

    async def watch(self) -> None:
        """Ask for a sign of life every second.

        Raises:
            LocksLost: the connection broke, or does not answer.
        """
        while True:
            await asyncio.sleep(HEARTBEAT_SECONDS)
            await self._query("SELECT 1", ())

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
        except (psycopg.Error, TimeoutError) as error:
            logger.warning("The lock connection is lost: %s", type(error).__name__)
            # Not knowing what came of a query means not knowing what is locked.
            self._connection = None
            await connection.close()
            raise LocksLost from error
