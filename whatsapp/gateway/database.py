"""How the gateway reaches PostgreSQL: services in threads, and its own connections."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, ParamSpec, TypeVar

from asgiref.sync import SyncToAsync
from django.db import InterfaceError, OperationalError, connections
from psycopg.conninfo import make_conninfo

P = ParamSpec("P")
R = TypeVar("R")

DATABASE_ERRORS = (OperationalError, InterfaceError)
"""The database is away or restarting: what was tried may be tried again."""

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


def _with_own_connection(
    service: Callable[..., R], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> R:
    try:
        return service(*args, **kwargs)
    finally:
        # Back to the pool, which pages share: an idle thread must not keep one.
        connections.close_all()


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
