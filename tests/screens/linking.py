"""The states of the linking page."""

import asyncio

from playwright.async_api import Page as BrowserPage
from playwright.async_api import expect

from tests.scenarios import Page, SalonUnderTest
from tests.screens.studio import PATIENCE_MS, Act, Arrange, State, Studio
from tests.stored_state import LinkedTemplate

expect.set_options(timeout=PATIENCE_MS)


def address(salon: SalonUnderTest) -> str:
    """Return the path of a salon's page."""
    return f"/marketplace/connect?lang={{lang}}#token={salon.token()}"


def shows(*element_ids: str, text: str = "") -> Act:
    """Wait until all of these can be seen."""

    async def act(studio: Studio, page: BrowserPage) -> None:
        for element_id in element_ids:
            await expect(page.locator(f"#{element_id}")).to_be_visible()
        if text:
            await expect(page.locator(f"#{element_ids[0]}")).to_contain_text(text)

    return act


def clicks(element_id: str, then: Act) -> Act:
    """Click, and wait for what comes of it."""

    async def act(studio: Studio, page: BrowserPage) -> None:
        await page.locator(f"#{element_id}").click()
        await then(studio, page)

    return act


def asks(number: str = "", element_id: str = "problem") -> Act:
    """Ask for a code and look at the answer."""

    async def act(studio: Studio, page: BrowserPage) -> None:
        if not await page.locator("#phone").is_visible():
            await page.locator("#by-code").click()
        typed = number or f"+{studio.salon.number if studio.salon else ''}"
        await page.locator("#phone").fill(typed)
        await page.locator("#get-code").click()
        await expect(page.locator(f"#{element_id}")).to_be_visible()

    return act


async def outlives_the_code(studio: Studio, page: BrowserPage) -> None:
    """Look at a code until it is over."""
    await asks(element_id="code")(studio, page)
    assert studio.salon is not None
    studio.world.query(
        "UPDATE whatsapp_pairingattempt SET deadline = now()"
        " WHERE salon_id = %s AND finished_at IS NULL",
        studio.salon.pk,
    )
    await expect(page.locator("#problem")).to_be_visible()


async def companion(studio: Studio, salon: SalonUnderTest) -> Page:
    """Open another page of the salon, which stays while the pictures are taken."""
    page = await salon.page().open()
    studio.cleanups.append(page.close)
    return page


async def unlinked(studio: Studio) -> str:
    studio.salon = studio.world.salon()
    return address(studio.salon)


async def no_token(_studio: Studio) -> str:
    return "/marketplace/connect?lang={lang}"


async def ask_code(page: Page, salon: SalonUnderTest) -> str:
    await page.event("status")
    await page.send("request-pairing-code", phoneNumber=f"+{salon.number}")
    _, data = await page.event("pairing-code")
    return str(data["code"])


async def code_shown(studio: Studio) -> str:
    salon = studio.world.salon()
    await ask_code(await companion(studio, salon), salon)
    return address(salon)


def refusing(answer: int | str) -> Arrange:
    """WhatsApp will answer the request for a code so."""

    async def arrange(studio: Studio) -> str:
        studio.salon = studio.world.salon()
        number = studio.salon.number
        await asyncio.to_thread(
            studio.world.simulator.fault, "hello", phone=number, answer=answer
        )
        return address(studio.salon)

    return arrange


async def finishing(studio: Studio) -> str:
    salon = studio.world.salon()
    await asyncio.to_thread(
        studio.world.simulator.fault, "slow-login", phone=salon.number, ms=60_000
    )
    page = await companion(studio, salon)
    code = await ask_code(page, salon)
    await asyncio.to_thread(salon.phone.enter_code, code)
    return address(salon)


async def link(studio: Studio, salon: SalonUnderTest) -> Page:
    """Link the salon's phone by code."""
    page = await companion(studio, salon)
    code = await ask_code(page, salon)
    await asyncio.to_thread(salon.phone.enter_code, code)
    await page.status("open")
    return page


async def connected(studio: Studio) -> str:
    salon = studio.world.salon()
    await link(studio, salon)
    return address(salon)


async def wrong_phone(studio: Studio) -> str:
    salon = studio.world.salon()
    studio.world.query(
        "UPDATE whatsapp_salon SET expected_phone = %s WHERE id = %s",
        salon.other_number,
        salon.pk,
    )
    page = await companion(studio, salon)
    _, data = await page.event("qr-update")
    await asyncio.to_thread(salon.phone.scan, data["qr"])
    await page.status("open")
    return address(salon)


async def stopped(studio: Studio) -> str:
    salon = studio.world.salon()
    page = await link(studio, salon)
    await page.send("disconnect-whatsapp")
    await page.status("stopped")
    return address(salon)


async def linked_for_now(studio: Studio) -> str:
    salon = studio.salon = studio.world.salon()
    await link(studio, salon)
    return address(salon)


async def is_removed(studio: Studio, page: BrowserPage) -> None:
    """Look on while the phone removes our device."""
    await shows("linked")(studio, page)
    assert studio.salon is not None
    await asyncio.to_thread(studio.salon.phone.remove_device)
    await shows("link")(studio, page)


async def reconnecting(studio: Studio) -> str:
    salon = studio.world.salon()
    page = await link(studio, salon)
    simulator = studio.world.simulator
    await asyncio.to_thread(
        simulator.fault, "login", phone=salon.number, answer="failure", reason=503
    )
    await asyncio.to_thread(simulator.drop, phone=salon.number)
    await page.status("reconnecting")
    return address(salon)


def stored_as(status: str, reason: str = "") -> Arrange:
    """A linked salon which nothing runs now, in this status."""

    async def arrange(studio: Studio) -> str:
        salon = studio.world.salon(stopped=True)
        template = await LinkedTemplate.make(studio.world)
        template.store(salon, salon.number)
        studio.world.query(
            "UPDATE whatsapp_whatsappsession SET status = %s, reason = %s, phone = %s,"
            " retry_at = now() + interval '1 hour', revision = revision + 1"
            " WHERE salon_id = %s",
            status,
            reason,
            salon.number,
            salon.pk,
        )
        return address(salon)

    return arrange


async def lost(studio: Studio, page: BrowserPage) -> None:
    """Lose the connection while the code is shown."""
    await shows("code")(studio, page)
    await page.context.set_offline(offline=True)
    await expect(page.locator("#lost")).to_be_visible()


STATES = [
    State("linking-01-start", unlinked, shows("link")),
    State("linking-02-number-too-short", unlinked, asks("+7 900 12")),
    State("linking-03-code", code_shown, shows("code", "code-left")),
    State("linking-04-code-over", unlinked, outlives_the_code, each=True),
    State("linking-05-not-on-whatsapp", refusing(404), asks(), each=True),
    State("linking-06-too-many-attempts", refusing(429), asks(), each=True),
    State("linking-07-refused", refusing(400), asks(), each=True),
    State("linking-08-no-answer", refusing("silence"), asks(), each=True),
    State("linking-09-finishing", finishing, shows("steps")),
    State("linking-10-connected", connected, shows("linked")),
    State("linking-11-reset", connected, clicks("reset", shows("reset-dialog"))),
    State("linking-12-change-number", connected, clicks("change", shows("link"))),
    State("linking-13-wrong-phone", wrong_phone, shows("linked")),
    State("linking-14-stopped", stopped, shows("linked")),
    State("linking-15-logged-out", linked_for_now, is_removed, each=True),
    State("linking-16-replaced", stored_as("replaced", "440"), shows("state")),
    State("linking-17-banned", stored_as("banned", "403"), shows("state")),
    State("linking-18-outdated", stored_as("outdated", "405"), shows("state")),
    State("linking-19-attention", stored_as("needs_attention", "500"), shows("state")),
    State("linking-20-reconnecting", reconnecting, shows("linked")),
    State("linking-21-cut-off", code_shown, lost),
    State("linking-22-no-token", no_token, shows("problem")),
]
