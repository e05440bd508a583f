"""What stands in for the threads, the connections and the channel layer of a gateway.

Statements run at once, on ordinary connections, and what gets lost or lands late is
decided by the cluster (tests/inline_gateways.py).
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

import psycopg
from django.db import OperationalError

from whatsapp import events
from whatsapp.gateway import auth_store

if TYPE_CHECKING:
    from tests.inline_gateways import Cluster, Gateway

P = ParamSpec("P")
R = TypeVar("R")


class Layer:
    """A channel layer whose words can get lost. Nothing in it ever waits for a loop."""

    def __init__(self, on_word: Callable[[str, dict[str, Any]], None]) -> None:
        self._on_word = on_word
        self._groups: dict[str, list[str]] = defaultdict(list)
        self._queues: dict[str, asyncio.Queue[dict[str, Any]]] = {}
        self.losing = 0
        """So many wakes of gateways go nowhere."""
        self.is_down = False

    async def new_channel(self, prefix: str = "specific") -> str:
        self._check()
        name = f"{prefix}.{len(self._queues)}"
        self._queues[name] = asyncio.Queue()
        return name

    async def group_add(self, group: str, channel: str) -> None:
        self._check()
        if channel not in self._groups[group]:
            self._groups[group].append(channel)

    async def group_discard(self, group: str, channel: str) -> None:
        if channel in self._groups[group]:
            self._groups[group].remove(channel)

    async def group_send(self, group: str, message: dict[str, Any]) -> None:
        self._on_word(group, message)
        self._check()
        if group == events.GATEWAYS_GROUP and self.losing:
            self.losing -= 1
            return
        for channel in self._groups[group]:
            self._queues[channel].put_nowait(message)

    async def receive(self, channel: str) -> dict[str, Any]:
        return await self._queues[channel].get()

    def _check(self) -> None:
        if self.is_down:
            raise OSError("the channel layer is down")


def at_once(
    function: Callable[P, Coroutine[Any, Any, R]],
) -> Callable[P, R]:
    """Stand in for async_to_sync, for what does not wait for anything."""

    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        work = function(*args, **kwargs)
        try:
            work.send(None)
        except StopIteration as stop:
            result: R = stop.value
            return result
        work.close()
        raise AssertionError("the channel layer waits")

    return call


class Cursor:
    """The result of a statement that has run."""

    def __init__(self, found: Sequence[tuple[Any, ...]] | None) -> None:
        self._found = list(found or ())
        self.description = found

    async def fetchall(self) -> list[tuple[Any, ...]]:
        return self._found

    async def fetchone(self) -> tuple[Any, ...] | None:
        return self._found[0] if self._found else None


@dataclass(eq=False)
class Held:
    """A statement that is with PostgreSQL and has not been carried out."""

    query: bytes
    params: dict[str, Any]
    answer: asyncio.Future[Cursor]


class InlineConnection:
    """An asynchronous connection whose statements run at once, on an ordinary one."""

    def __init__(self, cluster: Cluster, raw: psycopg.Connection) -> None:
        self._cluster = cluster
        self.raw = raw
        self.closed = False
        self.gateway = cluster.current
        self.listener: Callable[[psycopg.Notify], None] | None = None
        self._socket, self._server = socket.socketpair()

    def fileno(self) -> int:
        return self._socket.fileno()

    def add_notify_handler(self, handler: Callable[[psycopg.Notify], None]) -> None:
        self.listener = handler

    async def execute(self, query: Any, params: Any = None) -> Cursor:
        await asyncio.sleep(0)
        self.gateway.check()
        if self.closed:
            raise psycopg.OperationalError("the connection is closed")
        if query is auth_store._SAVE and self._cluster.holds_writes:
            return await self._hold(query, params)
        if self._cluster.refuses():
            raise psycopg.OperationalError("the database is away")
        cursor = self._run(query, params)
        await asyncio.sleep(0)
        self.gateway.check()
        return cursor

    def _run(self, query: Any, params: Any) -> Cursor:
        if query.startswith(b"LISTEN"):
            return Cursor(None)
        if b"pg_notify" in query:
            self._cluster.notify(*params)
            return Cursor([])
        return self._cluster.run(self.raw, query, params)

    async def _hold(self, query: bytes, params: dict[str, Any]) -> Cursor:
        loop = asyncio.get_running_loop()
        held = Held(query, params, loop.create_future())
        self._cluster.held.append(held)
        # Whoever gives it up shuts the socket down.
        fd = os.dup(self.fileno())
        loop.add_reader(fd, self._cluster.abandon, held)
        try:
            return await held.answer
        finally:
            loop.remove_reader(fd)
            os.close(fd)

    async def close(self) -> None:
        self.end()

    def cut(self) -> None:
        """Let the server hang up: the locks are gone, and the other end can notice."""
        if not self.closed:
            self.raw.execute("SELECT pg_advisory_unlock_all()")
            self.closed = True
            self._server.close()

    def end(self) -> None:
        """Give the connection back; its locks are gone."""
        self.cut()
        if self._socket.fileno() >= 0:
            self._socket.close()
            self._cluster.give_back(self)


class InlinePool:
    """Stands in for psycopg's pool."""

    cluster: Cluster

    def __init__(self, _conninfo: str, **_options: Any) -> None:
        self._connection = InlineConnection(self.cluster, self.cluster.take())
        self.cluster.current.pool = self

    def end(self) -> None:
        """Be gone at once."""
        self._connection.end()

    async def open(self, wait: bool = False) -> None:
        await asyncio.sleep(0)

    async def close(self, timeout: float = 0) -> None:  # noqa: ASYNC109
        self.end()

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[InlineConnection]:
        await asyncio.sleep(0)
        yield self._connection


class InlineServices:
    """Stands in for the threads: a call is done between two turns of the loop."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    async def __call__(
        self, service: Callable[P, R], *args: P.args, **kwargs: P.kwargs
    ) -> R:
        await asyncio.sleep(0)
        self._gateway.check()
        cluster = self._gateway.cluster
        result = cluster.call(service, *args, **kwargs)
        if cluster.loses_answer():
            raise OperationalError("the answer was lost")
        await asyncio.sleep(0)
        self._gateway.check()
        return result

    def close(self) -> None:
        """There is nothing to end."""
