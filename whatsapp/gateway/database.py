"""How the gateway reaches PostgreSQL: services in threads, and its own connections."""

import asyncio
import contextlib
import os
import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, ParamSpec, TypeVar

import psycopg
from asgiref.sync import SyncToAsync
from django.db import InterfaceError, OperationalError, connections
from psycopg.conninfo import make_conninfo

from whatsapp import alerts

P = ParamSpec("P")
R = TypeVar("R")

DATABASE_ERRORS = (OperationalError, InterfaceError)
"""The database is away or restarting: what was tried may be tried again."""

DATABASE_AWAY = alerts.tags("database_away", component="gateway", category="database")
"""What operators are told when it is: once a minute, whoever notices it first."""

THREADS = 8


class Services:
    """Calls sync services from the event loop, each call in one of a few threads."""

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="services")

    async def __call__(
        self, service: Callable[P, R], *args: P.args, **kwargs: P.kwargs
    ) -> R:
        """Return ``service(*args, **kwargs)``; its exceptions rise here."""
        call: Any = SyncToAsync(
            _with_own_connection, thread_sensitive=False, executor=self._threads
        )
        result: R = await call(service, args, kwargs)
        return result

    def close(self) -> None:
        """End the threads, each after the call that it is at."""
        self._threads.shutdown(wait=False)

    def wait(self) -> None:
        """Wait for what the threads of closed services are still at."""
        self._threads.shutdown(wait=True)


def _with_own_connection(
    service: Callable[..., R], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> R:
    try:
        return service(*args, **kwargs)
    finally:
        # Back to the pool, which pages share: an idle thread must not keep one.
        connections.close_all()


class NoAnswer(psycopg.OperationalError):
    """The database did not answer in time; the connection is given up."""


async def query(
    connection: psycopg.AsyncConnection,
    sql: bytes,
    params: tuple[object, ...] | dict[str, object],
    within: float,
) -> list[tuple[Any, ...]]:
    """Run a statement and return its rows, in any case within the given time.

    A cancelled psycopg asks the server to cancel and waits for that, which a database
    that is stopped or cut off does not do: the socket is shut down instead. What became
    of the statement is then unknown, and it may yet be executed.

    Raises:
        NoAnswer: there was none ``within`` so many seconds; the connection is broken.
    """

    async def run() -> list[tuple[Any, ...]]:
        cursor = await connection.execute(sql, params)
        return await cursor.fetchall() if cursor.description else []

    running = asyncio.ensure_future(run())
    try:
        done, _pending = await asyncio.wait({running}, timeout=max(within, 0))
    except asyncio.CancelledError:
        await _cut(connection, running)
        raise
    if not done:
        await _cut(connection, running)
        raise NoAnswer("no answer in time")
    return running.result()


async def _cut(
    connection: psycopg.AsyncConnection, running: asyncio.Future[Any]
) -> None:
    if not connection.closed:
        # A descriptor of its own: psycopg closes the other one when it notices.
        twin = socket.socket(fileno=os.dup(connection.fileno()))
        with twin, contextlib.suppress(OSError):
            twin.shutdown(socket.SHUT_RDWR)
    await asyncio.wait({running})
    if not running.cancelled():
        running.exception()  # it is what we have just brought about


def conninfo() -> str:
    """Return libpq's connection string of Django's default database.

    For connections that are not the ORM's: the locks must not end when Django recycles
    a connection, nor pass through a transaction pooler.
    """
    database = connections["default"]
    database.ensure_connection()
    params = database.get_connection_params()
    names = ("host", "port", "user", "password", "dbname", "sslmode", "sslrootcert")
    known: dict[str, Any] = {name: params[name] for name in names if name in params}
    database.close()
    return make_conninfo(
        **known, keepalives_idle=2, keepalives_interval=1, keepalives_count=3
    )
