"""A client made from docs/asyncapi.yaml alone, against the running service.

It holds every frame against the document, in both directions, and takes the address,
the events and the close codes from there.
"""

import asyncio
import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from websockets.asyncio.client import ClientConnection, connect

from tests.scenarios import PATIENCE, SalonUnderTest, World
from tests.service_fixtures import salon, simulator, world
from tests.test_asyncapi import document, sent_by, validator

__all__ = ["salon", "simulator", "world"]

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]


FLOOD = 31
"""One more than the document says, and they take far less than ten seconds."""


class Client:
    """Knows the document, and stops at the first frame that it does not allow."""

    def __init__(self, socket: ClientConnection) -> None:
        self._socket = socket
        self.names: list[str] = []

    async def send(self, event: str, **data: Any) -> None:
        """Send an event of the document; one without data goes without."""
        assert event in sent_by("ask")
        message = {"event": event, "data": data} if data else {"event": event}
        validator(event).validate(message)
        await self._socket.send(json.dumps(message))

    async def hears(self, event: str, **wanted: Any) -> dict[str, Any]:
        """Wait for an event of the document with this data."""
        assert event in sent_by("tell")
        async with asyncio.timeout(PATIENCE):
            while True:
                message = json.loads(await self._socket.recv())
                name = message["event"]
                validator(name).validate(message)
                self.names.append(name)
                data: dict[str, Any] = message["data"]
                if name == event and wanted.items() <= data.items():
                    return data

    async def is_closed(self) -> int | None:
        """Wait until the service has closed the socket; return the code."""
        async with asyncio.timeout(PATIENCE):
            await self._socket.wait_closed()
        return self._socket.close_code


def address(world: World) -> str:
    path = document()["channels"]["marketplace"]["address"]
    return world.server.ws_url.rstrip("/") + str(path)


def documented(code: int) -> bool:
    return str(code) in re.findall(r"\d{4}", document()["info"]["description"])


@asynccontextmanager
async def opened(
    world: World, token: str, way: str, query: str = ""
) -> AsyncIterator[Client]:
    """Connect in one of the ways that the document names."""
    options: dict[str, Any] = {}
    if way == "header":
        options["additional_headers"] = {"Authorization": f"Bearer {token}"}
    if way == "subprotocol":
        options["subprotocols"] = ["aiadmin.v1", f"bearer.{token}"]
    async with connect(
        address(world) + query, open_timeout=PATIENCE, **options
    ) as socket:
        client = Client(socket)
        if way == "subprotocol":
            assert socket.subprotocol == "aiadmin.v1"
        if way == "first message":
            await client.send("auth", token=token)
        yield client


@pytest.mark.parametrize("way", ["header", "subprotocol", "first message"])
async def test_a_client_links_a_phone_by_code_and_lives_through_everything(
    world: World, salon: SalonUnderTest, way: str
):
    async with opened(world, salon.token(), way, "?lang=en") as client:
        first = await client.hears("status")
        assert client.names == ["status"]
        assert first["message"].isascii()
        await client.hears("qr-update")
        await client.send("request-pairing-code", phoneNumber="12")
        await client.hears("pairing-code-error", code="INVALID_PHONE_FORMAT")
        await client.send("request-pairing-code", phoneNumber=f"+{salon.number}")
        code = (await client.hears("pairing-code"))["code"]
        assert (await asyncio.to_thread(salon.phone.enter_code, code))["ok"]
        connected = await client.hears("whatsapp-connected")
        assert connected["sessionId"] == salon.session_id
        await client.send("get-status")
        assert (await client.hears("status", status="open"))["proofAge"] is not None
        await client.send("disconnect-whatsapp")
        stopped = await client.hears("status", status="stopped")
        assert stopped["action"] == "request-qr"
        await client.send(stopped["action"])
        await client.hears("status", status="open")
        await client.send("auth", token=salon.token())
        await client.send("reset-whatsapp-credentials")
        await client.hears("credentials-reset")
        await client.send("get-status")
        assert (await client.hears("status"))["phone"] is None
    async with opened(world, salon.token(), way) as client:
        # Its number is known from before.
        await client.hears("known-phone", phoneNumber=salon.number)


async def test_a_client_links_a_phone_by_qr(world: World, salon: SalonUnderTest):
    async with opened(world, salon.token(), "header") as client:
        qr = (await client.hears("qr-update"))["qr"]
        assert (await asyncio.to_thread(salon.phone.scan, qr))["ok"]
        await client.hears("whatsapp-connected")


@pytest.mark.parametrize("way", ["header", "subprotocol", "first message"])
async def test_who_has_no_good_token_is_told_so_and_closed(
    world: World, salon: SalonUnderTest, way: str
):
    async with opened(world, salon.token(exp=1), way) as client:
        await client.hears("error", code="UNAUTHORIZED")
        assert await client.is_closed() == 4401
        assert documented(4401)


async def test_who_sends_too_much_is_told_so_and_closed(
    world: World, salon: SalonUnderTest
):
    async with opened(world, salon.token(), "header") as client:
        await client.hears("status")

        for _message in range(FLOOD):
            await client.send("get-status")
        await client.hears("error", code="RATE_LIMITED")
        assert await client.is_closed() == 4429
        assert documented(4429)


async def test_a_page_of_a_stranger_and_a_wrong_address_are_closed(
    world: World, salon: SalonUnderTest
):
    headers = {"Authorization": f"Bearer {salon.token()}"}
    async with connect(
        address(world),
        origin="https://stranger.example",  # type: ignore[arg-type]
        additional_headers=headers,
        open_timeout=PATIENCE,
    ) as socket:
        client = Client(socket)
        await client.hears("error", code="FORBIDDEN")
        assert await client.is_closed() == 4403
        assert documented(4403)
    nowhere = address(world).replace("/marketplace/", "/nowhere/")
    async with connect(nowhere, open_timeout=PATIENCE) as socket:
        assert await Client(socket).is_closed() == 4404
    assert documented(4404)
