"""Time that moves only when a test says so, in the database and in event loops.

The database's clock is a table; ``now()`` and its like are functions of a schema that
comes first in the search path, so they follow it in our SQL, in Django's ``Now()`` and
in triggers alike. Defaults of columns were bound to the real functions when the tables
were made, so they are rewritten meanwhile. Shifting the rows instead would have to
know every column that holds a time, and would say "later" only of rows that exist.
"""

import asyncio
import selectors
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
from django.db import connections
from psycopg import sql

from whatsapp.gateway.database import conninfo

_FUNCTIONS = ("now", "statement_timestamp", "transaction_timestamp", "clock_timestamp")
_INSTALL = """
CREATE SCHEMA virtual;
CREATE TABLE virtual.clock (at timestamptz NOT NULL);
INSERT INTO virtual.clock VALUES ('2030-01-01 00:00+00');
"""
_FUNCTION = """
CREATE FUNCTION virtual.{}() RETURNS timestamptz LANGUAGE sql STABLE
AS 'SELECT at FROM virtual.clock'
"""
_DEFAULTS = r"""
SELECT d.adrelid::regclass::text, a.attname, pg_get_expr(d.adbin, d.adrelid)
FROM pg_attrdef d
JOIN pg_attribute a ON a.attrelid = d.adrelid AND a.attnum = d.adnum
JOIN pg_class c ON c.oid = d.adrelid
WHERE c.relnamespace = 'public'::regnamespace
  AND pg_get_expr(d.adbin, d.adrelid) ~* '^((now|\w+_timestamp)\(\)|CURRENT_TIMESTAMP)$'
"""


class Clock:
    """What time it is: seconds, for event loops and for the database."""

    def __init__(self, connection: psycopg.Connection) -> None:
        self.now = 0.0
        self._connection = connection
        self._told = -1.0

    def tell(self) -> None:
        """Let the database know the time, before it is asked for anything."""
        if self._told != self.now:
            self._connection.execute(
                "UPDATE virtual.clock SET at = '2030-01-01 00:00+00'"
                "::timestamptz + make_interval(secs => %s)",
                [self.now],
            )
            self._told = self.now


@contextmanager
def database_clock() -> Iterator[Clock]:
    """Put the test's database under a clock of ours; its real one comes back."""
    address = conninfo()
    with psycopg.connect(
        address, autocommit=True, options="-c search_path=public"
    ) as real:
        name = sql.Identifier(real.info.dbname)
        defaults = real.execute(_DEFAULTS).fetchall()
        _reconnect()
        real.execute(_INSTALL)
        try:
            for function in _FUNCTIONS:
                real.execute(sql.SQL(_FUNCTION).format(sql.Identifier(function)))
            for table, column, _default in defaults:
                _set_default(real, table, column, "virtual.now()")
            real.execute(
                sql.SQL(
                    "ALTER DATABASE {} SET search_path = virtual, pg_catalog, public"
                ).format(name)
            )
            yield Clock(real)
        finally:
            _reconnect()
            real.execute(sql.SQL("ALTER DATABASE {} RESET search_path").format(name))
            for table, column, default in defaults:
                _set_default(real, table, column, default)
            real.execute("DROP SCHEMA virtual CASCADE")


def _set_default(
    real: psycopg.Connection, table: str, column: str, default: str
) -> None:
    real.execute(
        sql.SQL("ALTER TABLE {} ALTER COLUMN {} SET DEFAULT {}").format(
            sql.Identifier(table),
            sql.Identifier(column),
            sql.SQL(default),  # PostgreSQL's own words
        )
    )


def _reconnect() -> None:
    """End this thread's connection and the pool's: the search path is read at connect."""
    database: Any = connections["default"]
    database.close()
    database.close_pool()


class _NeverWaiting(selectors.DefaultSelector):
    def select(self, timeout: float | None = None) -> Any:
        return super().select(0)


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop on a clock that stands still, run turn by turn.

    Args:
        clock: shared by all loops of a test.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.ahead = 0.0
        """Of one whose end must not wait for the others' time."""
        self.surprises: list[str] = []
        super().__init__(_NeverWaiting())
        self.set_exception_handler(
            lambda _loop, context: self.surprises.append(str(context))
        )

    def time(self) -> float:
        return self._clock.now + self.ahead

    # The two lists below are CPython's own, and have been for ten years.

    @property
    def timers(self) -> list[asyncio.TimerHandle]:
        """Those that will go off."""
        scheduled: list[asyncio.TimerHandle] = self._scheduled  # type: ignore[attr-defined]
        return [timer for timer in scheduled if not timer.cancelled()]

    @property
    def is_ready(self) -> bool:
        """Whether there is anything to do now."""
        ready = self._ready  # type: ignore[attr-defined]
        return bool(ready) or self._is_due() or bool(self._selector.select(0))  # type: ignore[attr-defined]

    def _is_due(self) -> bool:
        return any(timer.when() <= self.time() for timer in self.timers)

    def turn(self) -> bool:
        """Run what is ready now, and nothing that it makes ready; False: nothing is."""
        if not self.is_ready:
            return False
        self.call_soon(self.stop)
        self.run_forever()
        return True
