"""The script that keeps lists of the admin true, in a real browser against a played server."""

import json
import subprocess
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from playwright.async_api import (
    Browser,
    Page,
    Route,
    WebSocketRoute,
    async_playwright,
    expect,
)

from aiadmin import embedded
from tests.chromium import ARGUMENTS, CHROMIUM, MISSING
from whatsapp import events
from whatsapp.models import WhatsAppSession

STATIC = Path(events.__file__).parent / "static" / "whatsapp"
SCRIPT, STYLE = STATIC / "session-status.js", STATIC / "session-status.css"
ORIGIN = "http://admin.example"
POLICY = (
    "default-src 'none'; script-src 'self' 'unsafe-eval';"
    " style-src 'self' 'unsafe-inline'; connect-src 'self' ws://admin.example;"
    " img-src 'self' data:"
)
HEAD = """<!doctype html><html lang="{language}" class="{theme}"><head><title>Admin</title>
<link rel="icon" href="data:,"><link rel="stylesheet" href="/session-status.css">
<script src="/session-status.js"></script></head><body class="{body}">
<div data-status-socket="/ws/admin/status/">"""
LIST = """<table><tbody data-progress-rows>
<tr><td><span data-salon="7" data-live="status" data-status="connecting">x</span></td>
  <td><span data-salon="7" data-live="phone">–</span></td>
  <td><span data-salon="7" data-live="owner">–</span></td>
  <td><time data-salon="7" data-live="since" datetime="2026-01-01T00:00:00Z">x</time></td>
  <td><time data-salon="7" data-live="alive">–</time></td></tr>
<tr data-salon="8"><td><span data-live="status" data-status="stopped">x</span></td>
  <td data-live="alive"><time datetime="2026-01-01T10:00:00Z">x</time></td></tr>
</tbody></table>
<progress data-live-progress data-target="open" max="2" value="0"></progress>
<p data-progress-text data-template="{done} of {total}" aria-live="polite"></p></div>"""
NOW = "2026-01-01T12:00:00Z"

Opening = Callable[..., Any]


@pytest_asyncio.fixture
async def browser() -> AsyncIterator[Browser]:
    if not CHROMIUM:
        pytest.skip(MISSING)
    expect.set_options(timeout=60_000)
    async with async_playwright() as playwright:
        running = await playwright.chromium.launch(
            executable_path=CHROMIUM, args=ARGUMENTS
        )
        yield running
        await running.close()


class Admin:
    """A page of the admin, and the server's end of its sockets."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.sockets: list[WebSocketRoute] = []
        self.asked: list[Any] = []
        self.refusal = 0
        self.errors: list[str] = []
        page.on("console", lambda said: self.errors.append(said.text))
        page.on("pageerror", lambda error: self.errors.append(str(error)))

    async def open(
        self, content: str, language: str = "en", theme: str = "", body: str = ""
    ) -> None:
        html = HEAD.format(language=language, theme=theme, body=body) + content

        async def serve(route: Route) -> None:
            if route.request.url.endswith(".js"):
                await route.fulfill(
                    body=SCRIPT.read_text(), content_type="text/javascript"
                )
            elif route.request.url.endswith(".css"):
                await route.fulfill(body=STYLE.read_text(), content_type="text/css")
            else:
                await route.fulfill(
                    body=html,
                    content_type="text/html; charset=utf-8",
                    headers={"Content-Security-Policy": POLICY},
                )

        await self.page.route("**/*", serve)
        await self.page.route_web_socket("**/ws/**", self._accept)
        await self.page.clock.install(time=NOW)
        await self.page.goto(f"{ORIGIN}/admin/")

    async def _accept(self, socket: WebSocketRoute) -> None:
        if self.refusal:
            await socket.close(code=self.refusal)
            return
        self.sockets.append(socket)
        socket.on_message(lambda text: self.asked.append(json.loads(text)))

    def say(self, *rows: dict[str, Any]) -> None:
        data = {"salons": [{**ROW, **row} for row in rows]}
        self.sockets[-1].send(json.dumps({"event": "salon-statuses", "data": data}))

    async def asks(self, times: int) -> None:
        while len(self.asked) < times:
            await self.page.wait_for_timeout(20)

    def one(self, salon: int, what: str) -> Any:
        return self.page.locator(
            f'[data-salon="{salon}"][data-live="{what}"],'
            f' [data-salon="{salon}"] [data-live="{what}"]'
        )


ROW = {
    "salon": 7,
    "status": "open",
    "label": "Connected",
    "phone": "79***4567",
    "since": "2026-01-01T11:00:00+00:00",
    "lastAliveAt": "2026-01-01T11:59:30+00:00",
    "owner": "gateway-a",
    "reason": None,
    "message": "WhatsApp is connected.",
}


@pytest_asyncio.fixture
async def admin(browser: Browser) -> AsyncIterator[Admin]:
    context = await browser.new_context(timezone_id="UTC")
    opened = Admin(await context.new_page())
    yield opened
    await context.close()
    assert opened.errors == []


def test_the_script_is_understood():
    subprocess.run([embedded.node_binary(), "--check", SCRIPT], check=True)


def test_every_status_has_a_colour_and_a_sign_of_its_own():
    style = STYLE.read_text()
    signs = {}
    for status in WhatsAppSession.Status.values:
        rule = style.split(f'\n[data-status="{status}"] {{')[1].split("}")[0]
        signs[status] = rule.split("--state-sign:")[1].split(";")[0]
        assert status in ("unlinked", "stopped") or "--state-ink:" in rule
    assert len(set(signs.values())) == len(signs)


async def test_one_socket_keeps_all_salons_of_a_page_true(admin: Admin):
    await admin.open(LIST)
    await admin.asks(1)
    assert admin.asked == [{"event": "watch", "data": {"salons": [7, 8]}}]
    assert admin.sockets[0].url == "ws://admin.example/ws/admin/status/?lang=en"
    # the times of the page are in words before anything is said
    await expect(admin.one(7, "since")).to_have_text("12 hours ago")
    await expect(admin.one(8, "alive")).to_have_text("2 hours ago")
    admin.say({}, {"salon": 8, "lastAliveAt": None}, {"salon": 9})
    status = admin.one(7, "status")
    await expect(status).to_have_text("Connected")
    await expect(status).to_have_attribute("data-status", "open")
    await expect(admin.one(7, "phone")).to_have_text("79***4567")
    await expect(admin.one(7, "owner")).to_have_text("gateway-a")
    await expect(admin.one(7, "since")).to_have_text("1 hour ago")
    await expect(admin.one(7, "alive")).to_have_text("30 seconds ago")
    await expect(admin.one(7, "alive")).to_have_attribute(
        "title", "Jan 1, 2026, 11:59:30 AM"
    )
    await expect(admin.one(8, "alive")).to_have_text("–")
    admin.say({"status": "stopped", "label": "Stopped", "phone": None, "owner": None})
    await expect(status).to_have_text("Stopped")
    await expect(admin.one(7, "phone")).to_have_text("–")
    await expect(admin.one(8, "status")).to_have_text("Connected")
    await admin.page.clock.run_for(40_000)
    await expect(admin.one(7, "alive")).to_have_text("1 minute ago")
    assert len(admin.sockets) == 1
    assert await admin.page.locator("[data-live-lost]").count() == 0


async def test_the_words_are_those_of_the_page(admin: Admin):
    await admin.open(LIST, language="ru")
    await admin.asks(1)
    assert "lang=ru" in admin.sockets[0].url
    await expect(admin.one(8, "alive")).to_have_text("2 часа назад")


async def test_progress_counts_the_salons_that_are_there(admin: Admin):
    await admin.open(LIST)
    await admin.asks(1)
    bar, text = (
        admin.page.locator("progress"),
        admin.page.locator("[data-progress-text]"),
    )
    await expect(text).to_have_text("0 of 2")
    admin.say({})
    await expect(text).to_have_text("1 of 2")
    assert await bar.evaluate("bar => bar.value") == 1
    admin.say({"salon": 8})
    await expect(text).to_have_text("2 of 2")
    assert await bar.evaluate("bar => bar.value") == 2


async def test_a_page_says_that_it_is_not_live_and_comes_back(admin: Admin):
    await admin.open(LIST)
    await admin.asks(1)
    admin.say({})
    await expect(admin.one(7, "status")).to_have_text("Connected")
    admin.refusal = 1011
    await admin.sockets[0].close(code=1011)
    await admin.page.clock.run_for(10_000)
    lost = admin.page.locator("[data-live-lost]")
    await expect(lost).to_have_text("Not live: reconnecting…")
    admin.refusal = 0
    await admin.page.evaluate("dispatchEvent(new Event('online'))")
    await admin.asks(2)
    admin.say({"label": "Connected again"})
    await expect(admin.one(7, "status")).to_have_text("Connected again")
    await expect(lost).to_be_hidden()


async def test_a_socket_that_died_unnoticed_is_noticed(admin: Admin):
    await admin.open(LIST)
    await admin.asks(1)
    admin.say({})
    await expect(admin.one(7, "status")).to_have_text("Connected")
    await admin.page.clock.run_for(61_000)
    await admin.asks(2)  # and nobody answers
    await admin.page.clock.run_for(20_000)
    await admin.asks(3)
    assert len(admin.sockets) == 2


@pytest.mark.parametrize(
    ("code", "word"), [(4401, "no longer logged in"), (4403, "may no longer see")]
)
async def test_the_end_of_the_login_or_the_role_is_said_and_is_the_end(
    admin: Admin, code: int, word: str
):
    await admin.open(LIST)
    await admin.asks(1)
    await admin.sockets[0].close(code=code)
    lost = admin.page.locator("[data-live-lost]")
    await expect(lost).to_contain_text(word)
    await expect(lost.get_by_role("button")).to_have_text("Reload")
    await admin.page.clock.run_for(300_000)
    await admin.page.evaluate("dispatchEvent(new Event('online'))")
    assert len(admin.sockets) == 1


@pytest.mark.parametrize(("body", "times"), [("change-form", 1), ("change-list", 0)])
async def test_only_the_page_of_one_salon_is_read_out(
    admin: Admin, body: str, times: int
):
    await admin.open('<i data-salon="7" data-live="status">x</i></div>', body=body)
    await admin.asks(1)
    admin.say({})
    await expect(admin.one(7, "status")).to_have_text("Connected")
    voice = admin.page.locator(".live-voice")
    assert await voice.count() == times
    admin.say({"message": "The connection to WhatsApp was lost."})
    if times:
        await expect(voice).to_have_text("The connection to WhatsApp was lost.")
        await expect(voice).to_have_attribute("role", "status")


@pytest.mark.parametrize("theme", ["", "dark"])
async def test_states_can_be_read_in_both_themes(admin: Admin, theme: str):
    states = "".join(
        f'<span class="salon-status" data-status="{status}">Words</span>'
        for status in WhatsAppSession.Status.values
    )
    await admin.open(f"{states}</div>", theme=theme)
    ratios = await admin.page.evaluate(CONTRAST)
    assert len(ratios) == len(WhatsAppSession.Status)
    assert min(ratios) >= 4.5


CONTRAST = """() => [...document.querySelectorAll(".salon-status")].map(element => {
  const style = getComputedStyle(element);
  const light = color => {
    const [r, g, b] = color.match(/[\\d.]+/g).map(value => {
      const part = value / 255;
      return part <= .03928 ? part / 12.92 : ((part + .055) / 1.055) ** 2.4;
    });
    return .2126 * r + .7152 * g + .0722 * b;
  };
  const [one, other] = [light(style.color), light(style.backgroundColor)];
  return (Math.max(one, other) + .05) / (Math.min(one, other) + .05);
})"""
