"""The marketplace page in a real browser, on the whole service.

Every page that a test opens must load nothing from elsewhere, violate no policy of its
own and leave the console empty; a screenshot of its end lies in the test's folder.
"""

import asyncio
import re
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import pytest_asyncio
from playwright.async_api import (
    Browser,
    Locator,
    Page,
    ViewportSize,
    async_playwright,
    expect,
)

from tests.scenarios import SalonUnderTest, World
from tests.simulator import Simulator

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.timeout(150),
    pytest.mark.asyncio(loop_scope="module"),
]

CHROMIUM = shutil.which("chromium")
MISSING = "NOT TESTED: chromium is not installed (as root: make test installs it)"
ARGUMENTS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
PATIENCE_MS = 40_000
PHONE: ViewportSize = {"width": 320, "height": 640}
DESKTOP: ViewportSize = {"width": 1280, "height": 800}
REPORT_VIOLATIONS = """
addEventListener("securitypolicyviolation", event =>
  console.error(`policy: ${event.violatedDirective} ${event.blockedURI}`))
"""


@pytest.fixture(scope="module")
def simulator() -> Iterator[Simulator]:
    if not CHROMIUM:
        pytest.skip(MISSING)
    with Simulator.start() as running:
        yield running


@pytest.fixture(scope="module")
def world(
    tmp_path_factory: pytest.TempPathFactory, simulator: Simulator
) -> Iterator[World]:
    with World(tmp_path_factory.mktemp("browser"), simulator, clocks={}) as running:
        yield running


@pytest.fixture
def salon(world: World) -> SalonUnderTest:
    return world.salon()


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def browser(world: World) -> AsyncIterator[Browser]:
    expect.set_options(timeout=PATIENCE_MS)
    async with async_playwright() as playwright:
        running = await playwright.chromium.launch(
            executable_path=CHROMIUM, args=ARGUMENTS
        )
        yield running
        await running.close()


Opening = Callable[..., Awaitable["Screen"]]


class Screen:
    """One browser window of a salon's page, and what went wrong in it."""

    def __init__(self, page: Page, host: str) -> None:
        self.page = page
        self.troubles: list[str] = []
        self._host = host
        page.set_default_timeout(PATIENCE_MS)
        page.on("console", lambda message: self.troubles.append(message.text))
        page.on("pageerror", lambda error: self.troubles.append(str(error)))
        page.on("request", lambda request: self._check(request.url))
        page.on("websocket", lambda socket: self._check(socket.url))

    def _check(self, url: str) -> None:
        parts = urlsplit(url)
        if parts.scheme != "data" and parts.netloc != self._host:
            self.troubles.append(f"a request to {parts.netloc}")

    def __getitem__(self, element_id: str) -> Locator:
        return self.page.locator(f"#{element_id}")

    async def shows(self, element_id: str, *texts: str) -> None:
        """Wait until an element is visible and contains the texts."""
        await expect(self[element_id]).to_be_visible()
        for text in texts:
            await expect(self[element_id]).to_contain_text(text)

    async def hides(self, *element_ids: str) -> None:
        for element_id in element_ids:
            await expect(self[element_id]).to_be_hidden()

    async def ask_code(self, typed: str) -> None:
        await self["phone"].fill(typed)
        await self["get-code"].click()

    async def fits(self) -> None:
        """Nothing is wider than the window."""
        wide = await self.page.evaluate(
            "document.documentElement.scrollWidth > innerWidth"
        )
        assert not wide


@pytest_asyncio.fixture(loop_scope="module")
async def opened(
    browser: Browser, world: World, tmp_path: Path
) -> AsyncIterator[Opening]:
    """Give a function that opens a page; in the end each must be without troubles."""
    screens: list[Screen] = []

    async def open_page(token: str, size: ViewportSize = DESKTOP) -> Screen:
        context = await browser.new_context(
            viewport=size, locale="ru-RU", has_touch=size is PHONE
        )
        await context.add_init_script(REPORT_VIOLATIONS)
        screen = Screen(await context.new_page(), urlsplit(world.server.url).netloc)
        screens.append(screen)
        fragment = f"#token={token}" if token else ""
        await screen.page.goto(f"{world.server.url}/marketplace/connect{fragment}")
        return screen

    yield open_page
    for number, screen in enumerate(screens):
        await screen.page.screenshot(path=tmp_path / f"{number}.png", full_page=True)
        await screen.fits()
        await screen.page.context.close()
        assert not screen.troubles


async def qr_text(world: World, salon: SalonUnderTest) -> str:
    """Return the QR that is shown now, as a camera would read it."""
    ((qr,),) = await asyncio.to_thread(
        world.query,
        "SELECT qr FROM whatsapp_pairingattempt"
        " WHERE salon_id = %s ORDER BY id DESC LIMIT 1",
        salon.pk,
    )
    return qr


async def test_a_desktop_shows_the_qr_and_says_when_it_was_scanned(
    opened: Opening, world: World, salon: SalonUnderTest, tmp_path: Path
):
    screen = await opened(salon.token())
    await screen.shows("qr")
    await expect(screen["qr"].locator("svg")).to_be_visible()
    await screen.shows("qr-left", "0:")
    box = await screen["qr"].bounding_box()
    assert box
    assert box["width"] > 200
    await screen.page.screenshot(path=tmp_path / "qr.png", full_page=True)
    result = await asyncio.to_thread(salon.phone.scan, await qr_text(world, salon))
    assert result["ok"], result
    await screen.shows("status", "WhatsApp подключён")
    await screen.shows("linked-phone", salon.number[-4:])
    await screen.hides("qr", "link", "problem", "lost")


async def test_a_phone_gets_a_code_for_the_number_that_is_typed(
    opened: Opening, salon: SalonUnderTest, tmp_path: Path
):
    screen = await opened(salon.token(), PHONE)
    await screen.shows("code-form")
    await screen.hides("qr-way")
    number = salon.number
    await screen.ask_code(f"8 (900) {number[4:7]}-{number[7:9]}-{number[9:]}")
    await expect(screen["code"]).to_have_text(re.compile(r"^\w{4}-\w{4}$"))
    await screen.shows("code-left", "2:")
    await screen.fits()
    await screen.page.screenshot(path=tmp_path / "code.png", full_page=True)
    code = await screen["code"].inner_text()
    result = await asyncio.to_thread(salon.phone.enter_code, code)
    assert result["ok"], result
    await screen.shows("status", "WhatsApp подключён")
    await screen.hides("code-shown", "link", "problem")


async def test_a_number_that_is_none_is_answered_with_a_sentence(
    opened: Opening, salon: SalonUnderTest
):
    screen = await opened(salon.token(), PHONE)
    await screen.shows("code-form")
    await screen.ask_code("12345")
    await screen.shows("problem", "+7 900 123-45-67")
    await expect(screen["get-code"]).to_be_enabled()
    await screen.ask_code("")
    await expect(screen["problem"]).not_to_contain_text("+7 900")
    await screen.shows("problem")
    await screen.ask_code(f"+{salon.number}")
    await screen.shows("code")
    await screen.hides("problem")


async def test_it_speaks_the_language_that_its_token_names(
    opened: Opening, salon: SalonUnderTest
):
    screen = await opened(salon.token(language="en"))
    await screen.shows("status", "Scan the QR")
    await expect(screen.page).to_have_title(re.compile("Connect WhatsApp"))


async def test_from_the_qr_to_a_code_and_back_is_one_tap(
    opened: Opening, salon: SalonUnderTest
):
    screen = await opened(salon.token())
    await screen.shows("qr")
    await screen["by-code"].click()
    await screen.ask_code(f"+{salon.number}")
    await screen.shows("code")
    await screen["by-qr"].click()
    await screen.shows("qr")
    await screen.hides("code", "problem")


@pytest.mark.parametrize("token", ["", "not-a-token"])
async def test_a_page_without_a_valid_token_says_what_to_do(
    opened: Opening, token: str
):
    screen = await opened(token)
    await screen.shows("problem", "Откройте")
    await screen.hides("link", "linked", "lost", "action")


async def test_a_reset_asks_first(
    opened: Opening, world: World, salon: SalonUnderTest, tmp_path: Path
):
    screen = await opened(salon.token(), PHONE)
    await screen.ask_code(f"+{salon.number}")
    await screen.shows("code")
    code = await screen["code"].inner_text()
    await asyncio.to_thread(salon.phone.enter_code, code)
    await screen.shows("linked")

    await screen["reset"].click()
    await screen.shows("reset-dialog")
    await screen.page.screenshot(path=tmp_path / "dialog.png")
    await screen["reset-dialog"].locator("button[value=cancel]").click()
    await screen.hides("reset-dialog")
    assert await asyncio.to_thread(salon.creds)

    await screen["reset"].click()
    await screen["reset-dialog"].locator("button[value=reset]").click()
    await screen.shows("link")
    await screen.hides("linked", "reset-dialog")
    assert await asyncio.to_thread(salon.creds) is None


async def test_a_salon_can_stop_and_connect_again(
    opened: Opening, salon: SalonUnderTest
):
    screen = await opened(salon.token(), PHONE)
    await screen.ask_code(f"+{salon.number}")
    await screen.shows("code")
    code = await screen["code"].inner_text()
    await asyncio.to_thread(salon.phone.enter_code, code)
    await screen["disconnect"].click()
    await screen.shows("action")
    await screen.shows("status", "приостановлен")
    await screen["action"].click()
    await screen.shows("status", "WhatsApp подключён")
    await screen.hides("action", "link")


async def test_a_page_says_that_it_is_cut_off_and_comes_back_by_itself(
    opened: Opening, world: World, salon: SalonUnderTest, tmp_path: Path
):
    screen = await opened(salon.token())
    await screen.shows("qr")
    port = int(world.server.url.rsplit(":", 1)[1])
    await asyncio.to_thread(world.server.stop)
    await screen.shows("lost")
    await screen.page.screenshot(path=tmp_path / "lost.png", full_page=True)
    world.server = await asyncio.to_thread(world.start, port=port)
    await screen.hides("lost")
    await screen.shows("qr")
    # Browsers write it themselves that a server is not there.
    screen.troubles = [
        text for text in screen.troubles if "ERR_CONNECTION_REFUSED" not in text
    ]
