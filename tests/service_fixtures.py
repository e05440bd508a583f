"""A whole service, a salon and its page: what a salon owner does, as a test does it.

Import the fixtures by name into a test module, and name them in its ``__all__``.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest

from tests.scenarios import PATIENCE, Data, Page, SalonUnderTest, World
from tests.simulator import Phone, Simulator


@pytest.fixture(scope="module")
def simulator() -> Iterator[Simulator]:
    with Simulator.start() as running:
        yield running


@pytest.fixture(scope="module")
def world(
    tmp_path_factory: pytest.TempPathFactory, simulator: Simulator
) -> Iterator[World]:
    """A service that all tests of this file use, each with a salon of its own."""
    with World(tmp_path_factory.mktemp("service"), simulator, clocks={}) as running:
        yield running


@pytest.fixture
def salon(world: World) -> SalonUnderTest:
    return world.salon()


@pytest.fixture
async def page(salon: SalonUnderTest) -> AsyncIterator[Page]:
    async with salon.page() as page:
        yield page


async def ask_code(page: Page, typed: str) -> Data:
    """Ask for a code and return what the page is shown."""
    mark = page.mark
    await page.send("request-pairing-code", phoneNumber=typed)
    name, data = await page.event("pairing-code", "pairing-code-error", since=mark)
    assert name == "pairing-code", data
    return data


async def enter(phone: Phone, code: str) -> str:
    """Type a code on the phone; return the JID of the new device."""
    result = await asyncio.to_thread(phone.enter_code, code)
    assert result["ok"], result
    return result["jid"]


async def link_by_code(salon: SalonUnderTest, page: Page) -> str:
    mark = page.mark
    data = await ask_code(page, f"+{salon.number}")
    jid = await enter(salon.phone, data["code"])
    await page.event("whatsapp-connected", since=mark)
    return jid


async def link_by_qr(salon: SalonUnderTest, page: Page) -> str:
    _, data = await page.event("qr-update")
    result = await asyncio.to_thread(salon.phone.scan, data["qr"])
    assert result["ok"], result
    await page.event("whatsapp-connected")
    return result["jid"]


async def eventually(condition: Callable[[], object], what: str) -> None:
    """Wait for what no page is told."""
    deadline = time.monotonic() + PATIENCE
    while not await asyncio.to_thread(condition):
        assert time.monotonic() < deadline, what
        await asyncio.sleep(0.05)


def is_connected(world: World, jid: str) -> bool:
    return any(it.get("jid") == jid for it in world.simulator.connections())


def linked_jid(salon: SalonUnderTest) -> str | None:
    creds = salon.creds()
    return creds["me"]["id"] if creds else None


def stored_text(salon: SalonUnderTest) -> tuple[Any, ...] | None:
    creds = salon.creds()
    return (creds["me"]["id"], creds["noiseKey"]["private"]) if creds else None


async def stage(page: Page, wanted: str) -> None:
    await page.wait(
        lambda name, data: (
            name == "status"
            and bool(data["attempt"])
            and data["attempt"]["stage"] == wanted
        ),
        what=wanted,
    )
