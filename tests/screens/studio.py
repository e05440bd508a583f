"""Opens a state in four windows and puts their pictures onto one sheet."""

import asyncio
import base64
import html
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

from playwright.async_api import Browser, BrowserContext, Page, ViewportSize

from tests.people import log_in
from tests.scenarios import SalonUnderTest, World

PHONE: ViewportSize = {"width": 390, "height": 844}
FRAME: ViewportSize = {"width": 720, "height": 700}
"""What a partner's page gives to the linking page."""
DESKTOP: ViewportSize = {"width": 1280, "height": 800}
PATIENCE_MS = 60_000
QUALITY = 60


@dataclass(frozen=True, slots=True)
class View:
    """How somebody looks at a page."""

    language: str
    dark: bool
    size: ViewportSize

    @property
    def is_phone(self) -> bool:
        """Whether it is a phone's screen."""
        return self.size is PHONE


VIEWS = [
    View("ru", dark=False, size=PHONE),
    View("en", dark=True, size=PHONE),
    View("ru", dark=True, size=DESKTOP),
    View("en", dark=False, size=DESKTOP),
]

Arrange = Callable[["Studio"], Awaitable[str]]
Act = Callable[["Studio", Page], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class State:
    """Something that a person can see.

    Args:
        name: of the picture.
        arrange: brings the service into the state; returns the path to open, in which
            ``{lang}`` stands for the language.
        act: what the person does on each page, and waits for.
        user: who is logged in; nobody if empty.
        each: whether every picture needs a salon of its own, because what it shows
            is told to one page only.
    """

    name: str
    arrange: Arrange
    act: Act
    user: str = ""
    each: bool = False


class Studio:
    """A service, a browser, and a folder for the pictures."""

    def __init__(self, world: World, browser: Browser, folder: Path) -> None:
        self.world = world
        self.salon: SalonUnderTest | None = None
        self.salons: list[SalonUnderTest] = []
        self.cleanups: list[Callable[[], Awaitable[object]]] = []
        self._browser = browser
        self._folder = folder
        self._cookies: dict[str, str] = {}

    async def take(self, state: State) -> None:
        """Write the sheet of one state."""
        pictures = []
        path = ""
        try:
            for view in VIEWS:
                if state.each or not path:
                    path = await state.arrange(self)
                context = await self._context(state, view)
                page = await context.new_page()
                page.set_default_timeout(PATIENCE_MS)
                url = self.world.server.url.rstrip("/") + path
                await page.goto(url.replace("{lang}", view.language))
                await state.act(self, page)
                await page.wait_for_load_state("networkidle")
                await page.evaluate("document.fonts.ready")
                pictures.append(
                    await page.screenshot(full_page=True, animations="disabled")
                )
                await context.close()
        finally:
            while self.cleanups:
                await self.cleanups.pop()()
        await self._compose(state.name, pictures, is_wide=bool(state.user))

    async def _context(self, state: State, view: View) -> BrowserContext:
        context = await self._browser.new_context(
            viewport=view.size if view.is_phone or state.user else FRAME,
            locale="ru-RU" if view.language == "ru" else "en-GB",
            timezone_id="Europe/Moscow",
            has_touch=view.is_phone,
            is_mobile=view.is_phone,
            color_scheme="dark" if view.dark else "light",
        )
        if state.user:
            await self._log_in(context, state.user)
        return context

    async def _log_in(self, context: BrowserContext, user: str) -> None:
        url = self.world.server.url.rstrip("/")
        if user not in self._cookies:
            self._cookies[user] = await asyncio.to_thread(log_in, self.world, user)
        await context.add_cookies(
            [{"name": "sessionid", "value": self._cookies[user], "url": url}]
        )

    async def _compose(
        self, name: str, pictures: list[bytes], *, is_wide: bool
    ) -> None:
        kind = "wide" if is_wide else ""
        images = "".join(
            f'<img src="data:image/png;base64,{base64.b64encode(picture).decode()}"'
            f' class="{"phone" if view.is_phone else "desktop"} {kind}">'
            for view, picture in zip(VIEWS, pictures, strict=True)
        )
        page = await self._browser.new_page(
            viewport={"width": 2280 if is_wide else 1480, "height": 500}
        )
        await page.set_content(
            "<style>body{margin:12px;background:#888;font:16px sans-serif;display:flex;"
            "gap:12px;align-items:flex-start}h1{display:none}"
            "img{max-height:1100px;object-fit:cover;object-position:top}"
            ".phone{width:250px}.desktop{width:460px}"
            ".phone.wide{width:230px}.desktop.wide{width:880px}</style>"
            f"<title>{html.escape(name)}</title>{images}"
        )
        path = self._folder / f"{name}.jpg"
        await page.screenshot(path=path, full_page=True, type="jpeg", quality=QUALITY)
        await page.close()
