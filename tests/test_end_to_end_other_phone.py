"""A salon links another phone than before, on the whole service."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from tests.scenarios import Page, SalonUnderTest, World
from tests.service_fixtures import (
    ask_code,
    enter,
    is_connected,
    linked_jid,
    salon,
    simulator,
    stored_text,
    world,
)
from tests.stored_state import LinkedTemplate

__all__ = ["salon", "simulator", "world"]

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def template(world: World) -> LinkedTemplate:
    return asyncio.run(LinkedTemplate.make(world))


@pytest.mark.parametrize("page_is_open", [True, False])
async def test_creds_half_paired_with_another_phone_give_way_at_once(
    world: World, salon: SalonUnderTest, page_is_open: bool
):
    page = salon.page()
    if page_is_open:
        await page.open()
        await page.event("qr-update")
    await asyncio.to_thread(salon.store_half_paired, salon.other_number)
    if not page_is_open:
        await page.open()
    try:
        code = await ask_code(page, f"+{salon.number}")
        # Gone before the new phone has answered anything, not only once it is linked.
        assert salon.creds() is None
        assert salon.key_count() == 0
        await enter(salon.phone, code["code"])
        await page.event("whatsapp-connected")
    finally:
        await page.close()
    jid = linked_jid(salon)
    assert jid is not None
    assert jid.startswith(f"{salon.number}:")
    assert not archived(salon)
    assert world.query(
        "SELECT 1 FROM whatsapp_auditevent"
        " WHERE salon_id = %s AND action = 'phone_mismatch_cleanup'",
        salon.pk,
    )
    assert f"phone_mismatch_cleanup: {salon.session_id}" in world.logs
    stale = world.query(
        "SELECT key_id FROM whatsapp_keys WHERE company_id = %s"
        " AND key_type = 'session' AND key_id = '79990001122.0'",
        salon.session_id,
    )
    assert not stale


def archived(salon: SalonUnderTest) -> list[tuple[str, str]]:
    rows = salon.world.query(
        "SELECT phone, reason FROM whatsapp_archivedcredentials WHERE salon_id = %s",
        salon.pk,
    )
    return [(phone, reason) for phone, reason in rows]


@pytest.fixture
async def live(
    world: World, template: LinkedTemplate, salon: SalonUnderTest
) -> AsyncIterator[tuple[Page, str]]:
    """A page of a salon whose other phone is linked and open, and that link's JID."""
    old = await asyncio.to_thread(template.store, salon, salon.other_number)
    async with salon.page() as page:
        await page.status("open")
        yield page, old


async def test_another_phone_replaces_a_live_link_once_it_has_entered_its_code(
    world: World, salon: SalonUnderTest, live: tuple[Page, str]
):
    page, old = live
    before = await asyncio.to_thread(stored_text, salon)
    code = await ask_code(page, f"+{salon.number}")
    assert not await asyncio.to_thread(is_connected, world, old)
    # Nothing is given away for a code that may never be entered.
    assert await asyncio.to_thread(stored_text, salon) == before
    assert not archived(salon)

    mark = page.mark
    new = await enter(salon.phone, code["code"])
    await page.event("whatsapp-connected", since=mark)
    assert linked_jid(salon) == new
    assert archived(salon) == [(salon.other_number, "replaced")]
    assert await asyncio.to_thread(is_connected, world, new)
    assert not await asyncio.to_thread(is_connected, world, old)


async def resumed(world: World, page: Page, old: str, since: int) -> None:
    await page.status("open", since=since)
    assert await asyncio.to_thread(is_connected, world, old)


async def test_a_live_link_comes_back_when_the_other_phones_code_dies(
    world: World, salon: SalonUnderTest, live: tuple[Page, str]
):
    page, old = live
    before = await asyncio.to_thread(stored_text, salon)
    await ask_code(page, f"+{salon.number}")
    mark = page.mark
    assert await asyncio.to_thread(world.simulator.drop, stage="registration")
    _, data = await page.event("pairing-code-error", since=mark)
    assert data["code"] == "CODE_EXPIRED"
    await resumed(world, page, old, mark)
    assert await asyncio.to_thread(stored_text, salon) == before
    assert not archived(salon)


async def test_a_live_link_is_kept_when_the_salon_stops_instead(
    world: World, salon: SalonUnderTest, live: tuple[Page, str]
):
    page, old = live
    before = await asyncio.to_thread(stored_text, salon)
    await ask_code(page, f"+{salon.number}")
    mark = page.mark
    await page.send("disconnect-whatsapp")
    await page.status("stopped", since=mark)
    assert await asyncio.to_thread(stored_text, salon) == before
    mark = page.mark
    await page.send("request-qr")
    await resumed(world, page, old, mark)


async def test_a_live_link_comes_back_when_nobody_enters_the_other_phones_code(
    world: World, salon: SalonUnderTest, live: tuple[Page, str]
):
    page, old = live
    before = await asyncio.to_thread(stored_text, salon)
    code = await ask_code(page, f"+{salon.number}")
    mark = page.mark
    await asyncio.to_thread(let_time_pass, salon, code["expiresIn"] + 1)
    _, data = await page.event("pairing-code-error", since=mark)
    assert data["code"] == "CODE_EXPIRED"
    await resumed(world, page, old, mark)
    assert await asyncio.to_thread(stored_text, salon) == before
    late = await asyncio.to_thread(salon.phone.enter_code, code["code"])
    assert not late["ok"]
    assert linked_jid(salon) == old


def let_time_pass(salon: SalonUnderTest, seconds: int) -> None:
    salon.world.query(
        "UPDATE whatsapp_pairingattempt SET deadline = deadline - %s * interval '1 s'"
        " WHERE salon_id = %s AND finished_at IS NULL",
        seconds,
        salon.pk,
    )
