"""Pages of the marketplace and of the staff's admin, as their WebSockets see them."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, ParamSpec, TypeVar

from channels.db import database_sync_to_async
from channels.testing import WebsocketCommunicator
from django.conf import settings
from django.contrib.auth.models import User
from django.test import Client

from aiadmin.asgi import application
from whatsapp.models import Salon
from whatsapp.services import tokens

P = ParamSpec("P")
R = TypeVar("R")

PATH = "/ws/marketplace/"
STATUS_PATH = "/ws/admin/status/"
HEADERS = {"host": "testserver", "origin": "http://testserver"}
SECONDS = 60


async def call(service: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
    """Run sync code that uses the database, as another part of the system."""
    return await database_sync_to_async(service)(*args, **kwargs)


class Page:
    """What a page receives and sends. Every event is looked at in its order."""

    def __init__(
        self,
        headers: dict[str, str | None] | None = None,
        subprotocols: list[str] | None = None,
        path: str = PATH,
    ) -> None:
        merged = {**HEADERS, **(headers or {})}
        self.socket = WebsocketCommunicator(
            application,
            path,
            headers=[
                (name.encode(), value.encode())
                for name, value in merged.items()
                if value is not None
            ],
            subprotocols=subprotocols or [],
        )
        self.seen: list[tuple[str, dict[str, Any]]] = []

    async def connect(self) -> str | None:
        """Open the socket; return the subprotocol that the server chose."""
        accepted, subprotocol = await self.socket.connect(timeout=SECONDS)
        assert accepted
        assert not isinstance(subprotocol, int)
        return subprotocol

    async def send(self, event: str, **data: Any) -> None:
        """Send an event."""
        await self.socket.send_to(json.dumps({"event": event, "data": data}))

    async def next(self) -> tuple[str, dict[str, Any]]:
        """Return the next event."""
        text = await self.socket.receive_from(timeout=SECONDS)
        message = json.loads(text)
        assert set(message) == {"event", "data"}
        self.seen.append((message["event"], message["data"]))
        return self.seen[-1]

    async def until(self, event: str, **expected: Any) -> dict[str, Any]:
        """Return the data of the next such event; others may come before it."""
        while True:
            name, data = await self.next()
            if name == event and all(data.get(k) == v for k, v in expected.items()):
                return data

    async def closed(self) -> int:
        """Return the code with which the server closes; events may come before."""
        while True:
            output = await self.socket.receive_output(timeout=SECONDS)
            if output["type"] == "websocket.close":
                return int(output["code"])
            message = json.loads(output["text"])
            self.seen.append((message["event"], message["data"]))

    async def settled(self) -> list[str]:
        """Return what has come unasked, up to an answer that is asked for now."""
        seen = len(self.seen)
        await self.send("no-such-event")
        await self.until("error", code="UNKNOWN_EVENT")
        return [name for name, _data in self.seen[seen:-1]]


async def eventually(condition: Callable[[], bool]) -> None:
    """Wait for what no event tells."""
    async with asyncio.timeout(SECONDS):
        while not condition():  # noqa: ASYNC110  (nothing to wait on)
            await asyncio.sleep(0.01)


@asynccontextmanager
async def opened(
    salon: Salon | None = None, token: str | None = None, **options: Any
) -> AsyncIterator[Page]:
    """Open a page of ``salon`` (or with ``token``) and close it in the end."""
    if salon is not None:
        token = tokens.issue(salon)
    headers = dict(options.pop("headers", {}))
    if token is not None:
        headers["authorization"] = f"Bearer {token}"
    page = Page(headers, **options)
    try:
        await page.connect()
        yield page
    finally:
        await page.socket.disconnect(timeout=SECONDS)


def salon_path(salon: Salon) -> str:
    """Return where the admin's page of ``salon`` has its WebSocket."""
    return f"/ws/admin/salon/{salon.pk}/"


def log_in(user: User) -> str:
    """Log ``user`` in as Django does, and return the Cookie header of his browser."""
    client = Client()
    client.force_login(user)
    return f"{settings.SESSION_COOKIE_NAME}={client.cookies[settings.SESSION_COOKIE_NAME].value}"


@asynccontextmanager
async def opened_by(
    user: User | None, path: str, cookie: str = "", **options: Any
) -> AsyncIterator[Page]:
    """Open a page of the admin as ``user`` (or with ``cookie``), and close it in the end."""
    headers = dict(options.pop("headers", {}))
    if user is not None:
        cookie = await call(log_in, user)
    page = Page({"cookie": cookie or None, **headers}, path=path, **options)
    try:
        await page.connect()
        yield page
    finally:
        await page.socket.disconnect(timeout=SECONDS)
