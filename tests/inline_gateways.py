"""Gateways that run in one thread, on clocks that stand still, step by step.

Everything between the engine's protocol and PostgreSQL is the real thing: the manager,
its runners, the locks, the store, the services. What is replaced are the threads that
services run in, the driver of the asynchronous connections (statements run at once, on
ordinary ones) and the channel layer. So a test decides what happens in which order, and
what fails, hangs or lands late.
"""

import asyncio
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import psycopg
import pytest
from channels.layers import channel_layers
from django.db import OperationalError, connection, connections
from psycopg import rows

from tests.fake_engine import FakeEngine, Link, WhatsApp
from tests.inline_stand_ins import (
    Cursor,
    Held,
    InlineConnection,
    InlinePool,
    InlineServices,
    Layer,
    at_once,
)
from tests.sealed import opened_creds
from tests.virtual_clock import Clock, VirtualLoop
from whatsapp import events
from whatsapp.engine import Limits
from whatsapp.gateway import SessionManager, auth_store, manager, ownership
from whatsapp.gateway.database import conninfo

P = ParamSpec("P")
R = TypeVar("R")

PATIENCE = 20_000
"""Turns after which something goes round in circles."""

STOP_SECONDS = 7.0
"""For sockets that close at once it is a moment; for what hangs there are time-outs."""

LEASE = Limits().lease
ALIVE_SECONDS = 29.0


class Gateway:
    """A gateway and its engine, on a loop of its own."""

    engine: FakeEngine | None = None
    pool: InlinePool | None = None

    def __init__(self, cluster: "Cluster") -> None:
        self.cluster = cluster
        self.loop = VirtualLoop(cluster.clock)
        self.is_dead = False
        self.stopping_since: float | None = None
        self.hanging_since: float | None = None
        self._is_left = False
        self.connections: list[InlineConnection] = []
        self._stop = asyncio.Event()
        cluster.current = self
        self.manager = SessionManager()
        self.running = self.loop.create_task(self.manager.run(self._stop))

    def check(self) -> None:
        """Stop the work of a gateway that was killed, wherever it is."""
        if self.is_dead:
            raise asyncio.CancelledError

    def turn(self) -> bool:
        """Run what is ready."""
        if self.hanging_since is not None:
            return False
        self.cluster.current = self
        moved = self.loop.turn()
        assert self.loop.surprises == []
        if self.running.done() and self.stopping_since is None:
            self.running.result()
            raise AssertionError("the gateway has ended by itself")
        return moved

    def soon(self, call: Callable[..., object], *args: Any) -> None:
        """Do something at its next turn, as if it came from outside."""
        self.loop.call_soon(call, *args)

    def stop(self) -> None:
        """Tell it to stop."""
        if self.stopping_since is None:
            self.stopping_since = self.cluster.clock.now
            self.soon(self._stop.set)

    def hang(self) -> None:
        """Stop it in the middle of whatever it does, until it goes on."""
        if self.hanging_since is None:
            self.hanging_since = self.cluster.clock.now

    def go_on(self) -> None:
        """Let it go on, as if nothing had happened."""
        self.hanging_since = None
        self._is_left = False
        if self.stopping_since is not None:
            self.stopping_since = self.cluster.clock.now

    def feel_the_silence(self) -> None:
        """Do to one that hangs what Node.js and PostgreSQL do, each after its time."""
        if self.hanging_since is None:
            return
        silence = self.cluster.clock.now - self.hanging_since
        if silence >= LEASE and self.engine is not None and not self._is_left:
            self._is_left = True
            self.engine.leave()
            self.soon(self.engine.die, "nothing was heard of Python")
        if silence >= ownership.SESSION_SECONDS:
            for one in self.connections:
                one.cut()

    def end(self) -> None:
        """Look at what a gateway that has stopped leaves behind: nothing."""
        self.running.result()
        while self.loop.turn():
            pass
        assert asyncio.all_tasks(self.loop) == set()
        assert self.loop.timers == []
        assert self.loop.surprises == []
        assert self.engine is None or self.engine.sockets == {}
        self.loop.close()

    def kill(self) -> None:
        """End it in the middle of whatever it does; nothing of it happens any more."""
        self.is_dead = True
        if self.engine is not None:
            self.engine.vanish()
        for one in list(self.connections):
            one.end()
        self.cluster.current = self
        while tasks := asyncio.all_tasks(self.loop):
            for task in tasks:
                task.cancel()
            while self.loop.turn():
                pass
            self.loop.ahead += 1
        # Whoever is killed as it has just started never comes to closing it.
        if self.pool is not None:
            self.pool.end()
        self.loop.close()


class Cluster:
    """All gateways, their database, their WhatsApp, and the faults between them."""

    current: Gateway

    def __init__(self, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
        self.clock = clock
        self.whatsapp = WhatsApp()
        self.gateways: list[Gateway] = []
        self.held: list[Held] = []
        self.holds_writes = False
        self.answering = self.losing_answers = 0
        self.skipping = self.refusing = 0
        self._address = conninfo()
        self._heard = 0.0
        self._free: list[psycopg.Connection] = []
        self._made: list[psycopg.Connection] = []
        self.observer = self.take()
        """What it says is committed."""
        self.layer = Layer(self._on_word)
        self._fill_in(monkeypatch)

    def _fill_in(self, monkeypatch: pytest.MonkeyPatch) -> None:
        async def connect(*_args: Any, **_options: Any) -> InlineConnection:
            gateway = self.current
            await asyncio.sleep(0)
            gateway.check()
            if self.refuses():
                raise psycopg.OperationalError("the database is away")
            self.current = gateway
            one = InlineConnection(self, self.take())
            gateway.connections.append(one)
            return one

        InlinePool.cluster = self
        monkeypatch.setattr(psycopg.AsyncConnection, "connect", connect)
        monkeypatch.setattr(auth_store, "AsyncConnectionPool", InlinePool)
        monkeypatch.setattr(manager, "Services", lambda: InlineServices(self.current))
        monkeypatch.setattr(manager, "Engine", self._make_engine)
        monkeypatch.setattr(events, "async_to_sync", at_once)
        monkeypatch.setitem(channel_layers.backends, "default", self.layer)
        database = connections["default"]
        monkeypatch.setattr(database, "execute_wrappers", [self._execute])

    def _make_engine(self, **options: Any) -> FakeEngine:
        engine = FakeEngine(
            whatsapp=self.whatsapp, check_unlink=self._check_unlink, **options
        )
        self.current.engine = engine
        return engine

    # Connections ----------------------------------------------------------------------

    def take(self) -> psycopg.Connection:
        """Return an ordinary connection; connecting takes ten times a query."""
        if self._free:
            return self._free.pop()
        self._made.append(psycopg.connect(self._address, autocommit=True))
        return self._made[-1]

    def give_back(self, one: InlineConnection) -> None:
        """Keep a connection for the next one."""
        self._free.append(one.raw)
        for gateway in self.gateways:
            if one in gateway.connections:
                gateway.connections.remove(one)

    def close(self) -> None:
        """Close every connection."""
        for raw in self._made:
            raw.close()

    # The database's faults ------------------------------------------------------------

    def refuses(self) -> bool:
        """Say whether the statement that comes now fails."""
        if self.skipping:
            self.skipping -= 1
            return False
        if self.refusing:
            self.refusing -= 1
            return True
        return False

    def loses_answer(self) -> bool:
        """Say whether the gateway never hears what became of the call just made."""
        if not self.losing_answers:
            return False
        if self.answering:
            self.answering -= 1
            return False
        self.losing_answers -= 1
        return True

    def _execute(self, execute: Any, sql: Any, params: Any, many: Any, ctx: Any) -> Any:
        if self.refuses():
            raise OperationalError("the database is away")
        return execute(sql, params, many, ctx)

    def call(self, service: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Call a service as a thread would: outside of any event loop."""
        self.clock.tell()
        loop = asyncio._get_running_loop()
        asyncio._set_running_loop(None)
        try:
            return service(*args, **kwargs)
        finally:
            asyncio._set_running_loop(loop)

    def run(self, raw: psycopg.Connection, query: Any, params: Any) -> Cursor:
        """Run a statement of the locks or of the store."""
        self.clock.tell()
        cursor = raw.execute(query, params)
        found = cursor.fetchall() if cursor.description else None
        if query is auth_store._SAVE and found and found[0][0]:
            self._check_fence(params)
        return Cursor(found)

    def notify(self, _channel: str, payload: str) -> None:
        """Let every gateway that listens hear a word of another."""
        for gateway in self.gateways:
            for one in gateway.connections:
                if one.listener and not one.closed:
                    word = psycopg.Notify(_channel, payload, 0)
                    gateway.soon(one.listener, word)

    def _check_fence(self, params: dict[str, Any]) -> None:
        epoch = self.one(
            "SELECT epoch FROM whatsapp_whatsappsession s JOIN whatsapp_salon salon"
            " ON salon.id = s.salon_id WHERE salon.salon_id = %s",
            params["salon"],
        )
        assert epoch == params["epoch"], "a write under an old epoch has landed"

    def land(self, held: Held) -> None:
        """Let PostgreSQL carry out what it has had for a while."""
        self.held.remove(held)
        cursor = self.run(self.observer, held.query, held.params)
        self._answer(held, lambda: held.answer.set_result(cursor))

    def abandon(self, held: Held) -> None:
        """Cut the connection of a statement that PostgreSQL will still carry out."""
        error = psycopg.OperationalError("the connection was cut")
        self._answer(held, lambda: held.answer.set_exception(error))

    def _answer(self, held: Held, answer: Callable[[], None]) -> None:
        loop = held.answer.get_loop()
        if not loop.is_closed() and not held.answer.done():
            loop.call_soon(lambda: None if held.answer.done() else answer())

    # What is committed ----------------------------------------------------------------

    def one(self, query: str, *params: Any) -> Any:
        """Return a single value, as committed."""
        row = self.observer.execute(query.encode(), params).fetchone()
        return None if row is None else row[0]

    def all(self, query: str, *params: Any) -> list[Any]:
        """Return rows with names, as committed."""
        cursor = self.observer.cursor(row_factory=rows.namedtuple_row)
        return cursor.execute(query.encode(), params).fetchall()

    def _on_word(self, group: str, message: dict[str, Any]) -> None:
        assert not connection.in_atomic_block, "a word before the commit"
        if message["type"] == "salon.snapshot":
            told = message["snapshot"]
            revision = self.one(
                "SELECT revision FROM whatsapp_whatsappsession WHERE salon_id = %s",
                told["salon"],
            )
            assert told["revision"] <= revision, "a word of what is not committed"

    def _check_unlink(self, link: Link) -> None:
        stored = [
            opened_creds(row.company_id, row.creds)["link"]
            for row in self.all("SELECT company_id, creds FROM whatsapp_auth")
        ]
        assert link.number not in stored, "a device is unlinked whose creds are kept"

    # Time -----------------------------------------------------------------------------

    def start_gateway(self) -> Gateway:
        """Start one more."""
        gateway = Gateway(self)
        self.gateways.append(gateway)
        return gateway

    def settle(self, turns: int | None = None) -> None:
        """Run everybody until nothing is left to do now, or for some turns only."""
        for count in range(PATIENCE):
            if count == turns:
                break
            moved = [gateway.turn() for gateway in self.gateways]
            if not any(moved):
                break
        else:
            raise AssertionError("it never comes to rest")
        self._bury()

    def _bury(self) -> None:
        for gateway in list(self.gateways):
            since = gateway.stopping_since
            if since is None or gateway.hanging_since is not None:
                continue
            if gateway.running.done():
                self.gateways.remove(gateway)
                gateway.end()
            else:
                late = self.clock.now - since
                assert late <= STOP_SECONDS, "a gateway does not stop"

    def advance(self, seconds: float, *, at_once: bool = False) -> None:
        """Let time go by, from timer to timer; or jump, as a machine that slept."""
        end = self.clock.now + seconds
        while self.clock.now < end:
            self.settle()
            step = min([end, *self._upcoming()])
            self.clock.now = end if at_once else step
            for gateway in self.gateways:
                gateway.feel_the_silence()
            if self.clock.now - self._heard >= ALIVE_SECONDS:
                self._heard = self.clock.now
                self.be_heard()
        self.settle()

    def _upcoming(self) -> list[float]:
        moments = []
        for gateway in self.gateways:
            if gateway.hanging_since is None:
                moments += [timer.when() for timer in gateway.loop.timers]
            else:
                since = gateway.hanging_since
                moments += [since + LEASE, since + ownership.SESSION_SECONDS]
        return [moment for moment in moments if moment > self.clock.now]

    def be_heard(self) -> None:
        """Let every open socket give proof of life."""
        for gateway in self.gateways:
            if gateway.engine is not None and gateway.hanging_since is None:
                gateway.soon(gateway.engine.be_heard)

    def kill(self, gateway: Gateway) -> None:
        """Kill a gateway."""
        self.gateways.remove(gateway)
        gateway.kill()
