"""Gateways on a real engine, a simulated WhatsApp and the test's own database.

Import the fixtures by name into a test module::

    from tests.gateway_fixtures import simulator, world  # noqa: F401
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import itertools
import json
import logging
import os
import re
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, TypeVar

import pytest
import pytest_asyncio
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from django.conf import settings
from django.db import connection, connections

from tests import factories
from tests.engine_fixtures import PATIENT, simulator
from tests.salon_story import PATIENCE, SalonStory
from tests.sealed import opened_creds
from tests.simulator import Phone, Simulator, find_node
from whatsapp.engine import Limits
from whatsapp.gateway import SessionManager, ownership, policy
from whatsapp.gateway.database import DATABASE_ERRORS, Services
from whatsapp.services import claims, salons

__all__ = [
    "PATIENCE",
    "Gateway",
    "SalonStory",
    "World",
    "clean_database",
    "each",
    "silence",
    "simulator",
    "world",
]

STOP_SECONDS = 2 + 1.5
"""A hand-over takes two seconds; the rest is for a machine that is busy."""

DEVICE = re.compile(r"[0-9]+:[0-9]+@")

T = TypeVar("T")

_salon_ids = itertools.count(1)
# A range of its own for every process: tests may run side by side on one WhatsApp.
_numbers = itertools.count(79010000001 + os.getpid() % 10_000 * 1_000)


def new_number() -> str:
    """Return an invented phone that no other test uses."""
    return str(next(_numbers))


def make_creds(jid: str, form: str = "base64") -> dict[str, Any]:
    """Return creds that can log in: the one key that matters for that is a real one."""
    phone, device = jid.split("@")[0].split(":")
    creds = factories.make_creds(phone, device=int(device), form=form)
    private = X25519PrivateKey.generate()
    creds["noiseKey"] = {
        "private": _binary(private.private_bytes_raw(), form),
        "public": _binary(private.public_key().public_bytes_raw(), form),
    }
    return creds


def _binary(value: bytes, form: str) -> dict[str, Any]:
    if form == "base64":
        return {"type": "Buffer", "data": base64.b64encode(value).decode()}
    if form == "bytes":
        return {"type": "Buffer", "data": list(value)}
    return {str(index): byte for index, byte in enumerate(value)}


async def each(
    story: Callable[..., Awaitable[object]], *cases: tuple[object, ...]
) -> None:
    """Run a story for every case at the same time, each with a salon of its own.

    Cheaper than a gateway for each, and it shows that one salon's trouble is not
    another's.
    """

    async def told(case: tuple[object, ...]) -> None:
        try:
            await story(*case)
        except BaseException as error:
            error.add_note(f"in the case {case}")
            raise

    async with asyncio.TaskGroup() as stories:
        for case in cases:
            stories.create_task(told(case))


@contextlib.contextmanager
def silence() -> Iterator[int]:
    """A port that takes connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


class Gateway:
    """A gateway in this process. A context manager; leaving it hands over."""

    def __init__(self, manager: SessionManager) -> None:
        self.manager = manager
        self.loop = asyncio.get_running_loop()
        self._stop = asyncio.Event()
        self._running = asyncio.create_task(manager.run(self._stop))

    @property
    def name(self) -> str:
        """The owner in the rows of its salons."""
        return self.manager.name

    @property
    def node_pid(self) -> int:
        """Of its Node.js; not the ward's."""
        stats = self.manager.engine.stats()
        (pid,) = [one.pid for one in stats if one.process == 1]
        assert pid
        return pid

    @property
    def is_claiming(self) -> bool:
        """Whether it holds its lock connection, and claims."""
        return hasattr(self.manager, "claimer") and self.manager.claimer.is_claiming

    async def ready(self) -> None:
        """Wait until it claims salons."""
        while not self.is_claiming:
            if self._running.done():
                await self._running
            await asyncio.sleep(0.005)

    async def stop(self) -> float:
        """Hand over; return the seconds that it took."""
        began = time.monotonic()
        self._stop.set()
        async with asyncio.timeout(PATIENCE):
            await self._running
        took = time.monotonic() - began
        # What it told nobody to wait for must not meet the next test's tables.
        await asyncio.to_thread(self.manager.services.wait)
        return took


class World:
    """A database, a WhatsApp with its phones, and gateways between them."""

    def __init__(self, simulator: Simulator) -> None:
        self.simulator = simulator
        self.call = Services()
        self._gateways = AsyncExitStack()
        self.strangers_may_log_in = False
        """For the one fault that makes us believe in a link that there is not."""
        self.expected: tuple[str, ...] = ()
        """Parts of the log lines of errors that a test brings about."""

    async def gateway(self, *, ready: bool = True, **limits: float) -> Gateway:
        """Start a gateway; it is stopped after the test."""
        limits.setdefault("code_timeout", settings.WHATSAPP_PAIRING_TIMEOUT * 0.9)
        manager = SessionManager(
            node=find_node(),
            ws_url=self.simulator.ws_url,
            limits=Limits(**{**PATIENT, **limits}),  # type: ignore[arg-type]
        )
        gateway = Gateway(manager)
        self._gateways.push_async_callback(gateway.stop)
        if ready:
            async with asyncio.timeout(PATIENCE):
                await gateway.ready()
        return gateway

    async def close(self) -> None:
        """Stop every gateway."""
        await self._gateways.aclose()

    async def phone(self, **options: Any) -> Phone:
        """Return a phone that nobody has used."""
        return await asyncio.to_thread(self.simulator.phone, new_number(), **options)

    async def salon(self) -> SalonStory:
        """Make a salon that was never linked, and its phone."""
        number = next(_salon_ids)
        salon = await self.call(salons.create, number, f"Salon {number}")
        return SalonStory(self, salon, await self.phone())

    async def linked_salon(self, form: str = "base64") -> SalonStory:
        """Make a salon whose phone was linked before, as an old row has it."""
        story = await self.salon()
        jid = f"{story.phone.number}:7@s.whatsapp.net"
        await asyncio.to_thread(story.phone.adopt_device, jid)
        creds, keys = make_creds(jid, form), factories.make_keys(form)
        await self.call(factories.store_creds, story.salon, creds, keys)
        return story

    async def open_salon(self) -> SalonStory:
        """Make a linked salon and wait until it is open."""
        story = await self.linked_salon()
        await story.connect()
        await story.status("open")
        return story

    async def until(
        self,
        condition: Callable[[], Awaitable[T]],
        what: str,
        within: float = PATIENCE,
    ) -> T:
        """Wait until the condition holds; return what it gave.

        A look that fails because the database is just away is one more reason to wait.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + within
        while True:
            with contextlib.suppress(*DATABASE_ERRORS):
                if found := await condition():
                    return found
            assert loop.time() < deadline, f"waited in vain: {what}"
            await asyncio.sleep(0.01)

    # WhatsApp's view

    async def journal(self) -> dict[str, Any]:
        """Return what WhatsApp saw."""
        return await asyncio.to_thread(self.simulator.journal)

    async def device(self, jid: str) -> dict[str, Any]:
        """Return what WhatsApp saw of one device."""
        return (await self.journal())["devices"][jid]

    async def connections(self, **like: str) -> list[dict[str, Any]]:
        """Return WhatsApp's open connections with these fields."""
        found = await asyncio.to_thread(self.simulator.connections)
        return [one for one in found if all(one.get(key) == like[key] for key in like)]

    async def no_connections(self, **like: str) -> None:
        """Wait until WhatsApp sees none with these fields."""

        async def gone() -> bool:
            return not await self.connections(**like)

        await self.until(gone, f"sockets go: {like}")

    async def connected(self, **like: str) -> list[dict[str, Any]]:
        """Wait until WhatsApp sees one with these fields."""
        return await self.until(
            lambda: self.connections(**like), f"sockets come: {like}"
        )

    async def fault(self, kind: str, **params: Any) -> Any:
        """Put a fault in place until the test ends."""
        return await asyncio.to_thread(self.simulator.fault, kind, **params)

    async def on_connections(self, action: str, *args: Any, **which: Any) -> int:
        """Do something to connections: drop, stream_error, freeze."""
        act = getattr(self.simulator, action)
        count: int = await asyncio.to_thread(lambda: act(*args, **which))
        return count

    async def sql(self, statement: str, *params: object) -> list[tuple[Any, ...]]:
        """Run a statement on a connection of its own."""
        return await self.call(_sql, statement, params)


def _sql(statement: str, params: tuple[Any, ...]) -> list[tuple[Any, ...]]:
    with connection.cursor() as cursor:
        cursor.execute(statement, params)
        return cursor.fetchall() if cursor.description else []


def _surprises(records: list[logging.LogRecord]) -> list[str]:
    return [
        record.getMessage() + str(record.exc_info[1])
        for record in records
        if record.name.startswith("whatsapp.gateway") and record.exc_info
    ]


@asynccontextmanager
async def _calm_ending(
    world: World, caplog: pytest.LogCaptureFixture
) -> AsyncIterator[None]:
    """Hold the promises that every test must keep, whatever it is about."""
    yield
    await world.close()
    await world.no_connections()
    journal = await world.journal()
    doubles = {
        jid: device["peakOpenSockets"]
        for jid, device in journal["devices"].items()
        if device["peakOpenSockets"] > 1
    }
    assert doubles == {}, "two live sockets of one device"
    if not world.strangers_may_log_in:
        assert journal["unknownLogins"] == 0, "a login with creds never linked"
    for company_id, value in await world.sql(
        "SELECT company_id, creds::text FROM whatsapp_auth"
    ):
        creds = opened_creds(company_id, json.loads(value))
        confirmed = isinstance(creds.get("account"), dict)
        assert confirmed, "creds that no phone has confirmed"
        assert DEVICE.match(creds["me"]["id"]), "creds that are no device's"
    for when in ("setup", "call", "teardown"):
        surprises = _surprises(caplog.get_records(when))
        assert [
            line
            for line in surprises
            if not any(part in line for part in world.expected)
        ] == []


@pytest.fixture
def clean_database(transactional_db: None) -> None:
    """Give this thread's connection back: a test may cut all that there are."""
    connections.close_all()


@pytest_asyncio.fixture
async def world(
    simulator: Simulator,
    clean_database: None,
    settings: Any,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> AsyncIterator[World]:
    """A world whose every test ends with nothing left behind.

    The regular look is far away: what a person asks for must be served by the wake.
    No clock of ours runs out because the machine is busy with other tests: a test that
    is about a clock sets it itself.
    """
    caplog.set_level(logging.INFO, logger="whatsapp")
    settings.WHATSAPP_LOOK_INTERVAL = 600
    settings.WHATSAPP_PAIRING_TIMEOUT = 60
    settings.WHATSAPP_FINISH_TIMEOUT = 60
    monkeypatch.setattr(ownership, "LEASE_SECONDS", 40.0)
    monkeypatch.setattr(ownership, "SESSION_SECONDS", 120.0)
    monkeypatch.setattr(ownership, "CONNECT_SECONDS", 40.0)
    monkeypatch.setattr(ownership, "PROBE_SECONDS", 20.0)
    monkeypatch.setattr(claims, "GRACE_SECONDS", 0.0)
    monkeypatch.setattr(policy, "RECONNECT_FIRST_SECONDS", 0.1)
    new = World(simulator)
    try:
        async with _calm_ending(new, caplog):
            yield new
    finally:
        await new.close()
        new.call.close()
        await asyncio.to_thread(simulator.clear_faults)
        await asyncio.to_thread(simulator.reset_journal)
