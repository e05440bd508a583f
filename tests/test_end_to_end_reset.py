"""A salon is reset at every stage of a link, on the whole service."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from tests.scenarios import Page, SalonUnderTest, World
from tests.service_fixtures import (
    ask_code,
    enter,
    eventually,
    is_connected,
    link_by_code,
    linked_jid,
    page,
    salon,
    simulator,
    stage,
    world,
)

__all__ = ["page", "salon", "simulator", "world"]

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]

Stage = Callable[[SalonUnderTest, Page], Awaitable[None]]


async def unlinked(salon: SalonUnderTest, page: Page) -> None:
    await page.event("status")


async def qr_shown(salon: SalonUnderTest, page: Page) -> None:
    await page.event("qr-update")


async def code_requested(salon: SalonUnderTest, page: Page) -> None:
    salon.world.simulator.fault("hello", phone=salon.number, answer="silence", times=1)
    mark = page.mark
    await page.send("request-pairing-code", phoneNumber=f"+{salon.number}")
    await page.wait(
        lambda name, data: (
            name == "status"
            and data["attempt"]
            and (data["attempt"]["kind"], data["attempt"]["stage"])
            == ("code", "requested")
        ),
        mark,
    )


async def code_shown(salon: SalonUnderTest, page: Page) -> None:
    await ask_code(page, f"+{salon.number}")


async def code_entered(salon: SalonUnderTest, page: Page) -> None:
    code = (await ask_code(page, f"+{salon.number}"))["code"]
    wrong = code[:-1] + ("A" if code[-1] != "A" else "B")
    await asyncio.to_thread(salon.phone.enter_code, wrong)
    await stage(page, "entered")


async def finishing(salon: SalonUnderTest, page: Page) -> None:
    salon.world.simulator.fault("slow-login", phone=salon.number, ms=60_000, times=1)
    code = (await ask_code(page, f"+{salon.number}"))["code"]
    jid = await enter(salon.phone, code)
    await stage(page, "finishing")
    await eventually(lambda: is_connected(salon.world, jid), "no login")


async def linked_and_open(salon: SalonUnderTest, page: Page) -> None:
    await link_by_code(salon, page)


async def linked_and_stopped(salon: SalonUnderTest, page: Page) -> None:
    await link_by_code(salon, page)
    await page.send("disconnect-whatsapp")
    await page.status("stopped")


@pytest.mark.parametrize(
    "reach",
    [
        unlinked,
        qr_shown,
        code_requested,
        code_shown,
        code_entered,
        finishing,
        linked_and_open,
        linked_and_stopped,
    ],
)
async def test_a_reset_works_at_every_stage_and_the_next_link_too(
    world: World, salon: SalonUnderTest, page: Page, reach: Stage
):
    await reach(salon, page)
    mark = page.mark
    await page.send("reset-whatsapp-credentials")
    _, data = await page.event("credentials-reset", "reset-error", since=mark)
    assert data["success"]
    await asyncio.to_thread(world.simulator.clear_faults)
    assert salon.creds() is None
    assert salon.key_count() == 0
    if reach is linked_and_open:
        await eventually(lambda: not salon.phone.devices(), "still linked")
    await page.status("unlinked", "pairing", since=mark)
    jid = await link_by_code(salon, page)
    assert linked_jid(salon) == jid
