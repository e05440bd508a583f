"""The salon's page in a real browser, as a test handles it; import the fixtures by name.

    from tests.browser_fixtures import browser, opened, simulator, world  # noqa: F401

Every page that a test opens must load nothing from elsewhere, violate no policy of its
own and leave the console empty; a screenshot of its end lies in the test's folder.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

import pytest
import pytest_asyncio
from axe_playwright_python.async_playwright import (  # type: ignore[import-untyped]
    Axe,
)
from playwright.async_api import (
    Browser,
    BrowserContext,
    Locator,
    Page,
    ViewportSize,
    WebSocketRoute,
    async_playwright,
    expect,
)

from tests.chromium import ARGUMENTS, CHROMIUM, MISSING
from tests.scenarios import SalonUnderTest, World
from tests.service_fixtures import salon, world
from tests.simulator import Simulator

__all__ = ["salon", "world"]

PATIENCE_MS = 60_000
PHONE: ViewportSize = {"width": 320, "height": 640}
DESKTOP: ViewportSize = {"width": 1280, "height": 800}
REPORT_VIOLATIONS = """
addEventListener("securitypolicyviolation", event =>
  console.error(`policy: ${event.violatedDirective} ${event.blockedURI}`))
"""
SOCKET = "**/ws/marketplace/**"


@pytest.fixture(scope="module")
def simulator() -> Iterator[Simulator]:
    if not CHROMIUM:
        pytest.skip(MISSING)
    with Simulator.start() as running:
        yield running


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def browser(simulator: Simulator) -> AsyncIterator[Browser]:
    expect.set_options(timeout=PATIENCE_MS)
    async with async_playwright() as playwright:
        running = await playwright.chromium.launch(
            executable_path=CHROMIUM, args=ARGUMENTS
        )
        yield running
        await running.close()


class Screen:
    """One browser window of a salon's page, and what went wrong in it."""

    def __init__(self, page: Page, hosts: set[str]) -> None:
        self.page = page
        self.frame: Any = page
        self.troubles: list[str] = []
        self._hosts = hosts
        page.set_default_timeout(PATIENCE_MS)
        page.on("console", lambda message: self.troubles.append(message.text))
        page.on("pageerror", lambda error: self.troubles.append(str(error)))
        page.on("request", lambda request: self._check(request.url))
        page.on("websocket", lambda socket: self._check(socket.url))

    def _check(self, url: str) -> None:
        parts = urlsplit(url)
        if parts.scheme != "data" and parts.netloc not in self._hosts:
            self.troubles.append(f"a request to {parts.netloc}")

    def __getitem__(self, element_id: str) -> Locator:
        found: Locator = self.frame.locator(f"#{element_id}")
        return found

    async def shows(self, element_id: str, *texts: str) -> None:
        """Wait until an element is visible and contains the texts."""
        await expect(self[element_id]).to_be_visible()
        for text in texts:
            await expect(self[element_id]).to_contain_text(text)

    async def hides(self, *element_ids: str) -> None:
        for element_id in element_ids:
            await expect(self[element_id]).to_be_hidden()

    async def ready(self) -> None:
        """Wait until the field for the phone knows the world's numbers."""
        await expect(self["country"]).to_be_enabled()

    async def types(self, text: str) -> None:
        """Type into the field for the phone, key by key, once it is on the screen.

        Playwright presses keys without looking: those for a field that is still
        hidden would go nowhere.
        """
        await expect(self["phone"]).to_be_visible()
        await self["phone"].press_sequentially(text)

    async def ask_code(self, typed: str) -> None:
        await self["phone"].fill(typed)
        await self["get-code"].click()

    async def code(self) -> str:
        """Wait for a code and return it as it is shown."""
        await expect(self["code"]).to_contain_text("-")
        return await self["code"].inner_text()

    async def enter_code(self, salon: SalonUnderTest) -> None:
        """Enter the code that is shown on the salon's phone."""
        result = await asyncio.to_thread(salon.phone.enter_code, await self.code())
        assert result["ok"], result

    async def seconds(self, element_id: str) -> int:
        """Return a countdown's seconds."""
        await expect(self[element_id]).to_contain_text(":")
        text = await self[element_id].inner_text()
        minutes, seconds = text.split(":")
        return int(minutes.split()[-1]) * 60 + int(seconds[:2])

    async def fits(self) -> None:
        """Nothing is wider than the window."""
        wide = await self.frame.evaluate(
            "() => document.documentElement.scrollWidth > innerWidth"
        )
        assert not wide

    async def is_accessible(self) -> None:
        """Axe finds nothing serious, in the light and in the dark."""
        schemes: tuple[Literal["dark", "light"], ...] = ("dark", "light")
        for scheme in schemes:
            await self.page.emulate_media(color_scheme=scheme)
            results = await Axe().run(self.page)
            found = [
                f"{scheme}: {trouble['id']}: {trouble['nodes'][0]['html'][:200]}"
                for trouble in results.response["violations"]
                if trouble["impact"] in ("serious", "critical")
            ]
            assert found == []


Opening = Callable[..., Awaitable[Screen]]


@pytest_asyncio.fixture(loop_scope="module")
async def opened(
    browser: Browser, world: World, tmp_path: Path
) -> AsyncIterator[Opening]:
    """Give a function that opens a page; in the end each must be without troubles."""
    screens: list[Screen] = []

    async def open_page(
        token: str,
        size: ViewportSize = DESKTOP,
        *,
        locale: str = "ru-RU",
        query: str = "",
        fragment: str = "",
        url: str = "",
        socket: "Socket | None" = None,
        context: BrowserContext | None = None,
    ) -> Screen:
        if context is None:
            context = await browser.new_context(
                viewport=size, locale=locale, has_touch=size is PHONE
            )
            await context.add_init_script(REPORT_VIOLATIONS)
        page = await context.new_page()
        hosts = {urlsplit(address).netloc for address in (world.server.url, url)}
        screen = Screen(page, hosts)
        screens.append(screen)
        if socket is not None:
            await page.route_web_socket(SOCKET, socket.opened)
        address = url or f"{world.server.url}/marketplace/connect{query}"
        given = "&".join(filter(None, [f"token={token}" if token else "", fragment]))
        await page.goto(f"{address}#{given}" if given else address)
        return screen

    yield open_page
    for number, screen in enumerate(screens):
        if screen.page.is_closed():
            continue
        await screen.page.screenshot(path=tmp_path / f"{number}.png", full_page=True)
        await screen.fits()
        await screen.page.close()
        assert not screen.troubles, screen.troubles
    for context in {screen.page.context for screen in screens}:
        await context.close()


class Socket:
    """The server's end of a page's WebSocket, for states that are hard to come by."""

    def __init__(self, *said: tuple[str, dict[str, Any]]) -> None:
        self.said = said
        self.heard: list[tuple[str, dict[str, Any]]] = []
        self.count = 0
        self._route: WebSocketRoute | None = None
        self._news = asyncio.Event()

    def opened(self, route: WebSocketRoute) -> None:
        """Greet a page that connects."""
        self.count += 1
        self._route = route
        route.on_message(self._hear)
        self.say(*self.said)
        self._news.set()

    def _hear(self, text: str | bytes) -> None:
        message = json.loads(text)
        self.heard.append((message["event"], message["data"]))
        self._news.set()

    def say(self, *said: tuple[str, dict[str, Any]]) -> None:
        """Send events."""
        assert self._route is not None
        for event, data in said:
            self._route.send(json.dumps({"event": event, "data": data}))

    async def close(self, code: int) -> None:
        """Close it as the server does."""
        assert self._route is not None
        await self._route.close(code=code)

    async def connects(self, times: int) -> None:
        """Wait until the page has connected so many times."""
        async with asyncio.timeout(PATIENCE_MS / 1000):
            while self.count < times:
                self._news.clear()
                await self._news.wait()

    async def hears(self, event: str) -> dict[str, Any]:
        """Wait for an event of the page; return its data and forget what came before."""
        async with asyncio.timeout(PATIENCE_MS / 1000):
            while True:
                for at, (name, data) in enumerate(self.heard):
                    if name == event:
                        del self.heard[: at + 1]
                        return data
                self._news.clear()
                await self._news.wait()
