"""The salon's page in a real browser, on the whole service."""

import asyncio
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from playwright.async_api import expect

from tests.browser_fixtures import (
    PHONE,
    Opening,
    Screen,
    browser,
    opened,
    salon,
    simulator,
)
from tests.scenarios import SalonUnderTest, World
from tests.simulator import Simulator

__all__ = ["browser", "opened", "salon", "simulator"]

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.timeout(240),
    pytest.mark.asyncio(loop_scope="module"),
]


@pytest.fixture(scope="module")
def partner() -> Iterator[str]:
    """Serve a page of another origin that frames ours; its query is our address."""

    class Partner(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/html; charset=utf-8")
            self.end_headers()
            if self.path == "/":
                self.wfile.write(FRAME.encode())

        def log_message(self, *_arguments: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Partner)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


FRAME = """<!doctype html><title>Partner</title><link rel="icon" href="data:,">
<iframe name="ours" width="300" height="600"></iframe>
<script>
  document.querySelector("iframe").src = decodeURIComponent(location.hash.slice(1))
</script>"""


@pytest.fixture(scope="module")
def world(
    tmp_path_factory: pytest.TempPathFactory, simulator: Simulator, partner: str
) -> Iterator[World]:
    # A pattern: then only the browser's referrer says who frames us.
    settings = {"MARKETPLACE_ALLOWED_ORIGINS": f"{partner[:-1]}*"}
    folder = tmp_path_factory.mktemp("browser")
    with World(folder, simulator, clocks=settings) as running:
        yield running


async def qr_text(world: World, salon: SalonUnderTest) -> str:
    """Return the QR that is shown now, as a camera would read it."""
    ((qr,),) = await asyncio.to_thread(
        world.query,
        "SELECT qr FROM whatsapp_pairingattempt"
        " WHERE salon_id = %s ORDER BY id DESC LIMIT 1",
        salon.pk,
    )
    return qr


async def link_by_code(screen: Screen, salon: SalonUnderTest) -> None:
    await screen.ask_code(f"+{salon.number}")
    await screen.enter_code(salon)
    await screen.shows("status", "WhatsApp подключён")


# --- linking --------------------------------------------------------------------------


async def test_a_desktop_shows_the_qr_and_says_when_it_was_scanned(
    opened: Opening, world: World, salon: SalonUnderTest, tmp_path: Path
):
    screen = await opened(salon.token())
    await screen.shows("qr")
    await expect(screen["qr"].locator("svg")).to_be_visible()
    await screen.shows("qr-left", "0:")
    await screen.shows("status", "QR")
    box = await screen["qr"].bounding_box()
    assert box
    assert box["width"] > 200
    await screen.is_accessible()
    await screen.page.screenshot(path=tmp_path / "qr.png", full_page=True)
    result = await asyncio.to_thread(salon.phone.scan, await qr_text(world, salon))
    assert result["ok"], result
    await screen.shows("status", "WhatsApp подключён")
    await screen.shows("linked-phone", salon.number[-4:])
    await screen.shows("done")
    await screen.hides("qr", "link", "problem", "lost")


async def test_a_phone_gets_a_code_for_the_number_that_is_typed(
    opened: Opening, salon: SalonUnderTest, tmp_path: Path
):
    screen = await opened(salon.token(), PHONE)
    await screen.shows("code-form")
    await screen.hides("qr-way")
    await screen.ready()
    number = salon.number
    await screen.ask_code(f"8 (900) {number[4:7]}-{number[7:9]}-{number[9:]}")
    assert re.fullmatch(r"\w{4}-\w{4}", await screen.code())
    assert 120 < await screen.seconds("code-left") <= 160
    await expect(screen["steps"].locator("[aria-current]")).to_have_attribute(
        "data-step", "shown"
    )
    await screen.fits()
    await screen.is_accessible()
    await screen.page.screenshot(path=tmp_path / "code.png", full_page=True)
    await screen.enter_code(salon)
    await screen.shows("status", "WhatsApp подключён")
    await screen.shows("done")
    await screen.hides("code-shown", "link", "problem")


async def test_a_phone_is_told_nothing_of_the_qr_that_is_made_meanwhile(
    opened: Opening, salon: SalonUnderTest
):
    screen = await opened(salon.token(), PHONE)
    await expect(screen["link-root"]).to_have_attribute("data-status", "pairing")
    # The automatic QR is under way; the page with the form speaks of the number.
    await expect(screen["qr"].locator("svg")).to_be_attached()
    await screen.shows("status", "Введите номер")
    await expect(screen["status"]).not_to_contain_text("QR")
    await screen["by-qr"].click()
    await screen.shows("qr")
    await screen.shows("status", "QR")
    await screen["by-code"].click()
    await expect(screen["status"]).not_to_contain_text("QR")
    await screen.shows("phone")


async def test_from_the_qr_to_a_code_and_back_is_one_tap(
    opened: Opening, salon: SalonUnderTest
):
    screen = await opened(salon.token())
    await screen.shows("qr")
    await screen["by-code"].click()
    await screen.ask_code(f"+{salon.number}")
    await screen.code()
    await screen["by-qr"].click()
    await screen.shows("qr")
    await screen.hides("code", "problem")


async def test_it_works_with_the_keyboard_alone(opened: Opening, salon: SalonUnderTest):
    screen = await opened(salon.token(), locale="en-GB")
    await screen.shows("qr")
    await screen.ready()
    keyboard = screen.page.keyboard
    focused = screen.page.locator(":focus")

    async def tab_to(element_id: str) -> None:
        for _ in range(12):
            if (
                await focused.count()
                and await focused.get_attribute("id") == element_id
            ):
                return
            await keyboard.press("Tab")
        raise AssertionError(f"{element_id} is not in reach")

    await tab_to("by-code")
    await keyboard.press("Enter")
    await expect(screen["phone"]).to_be_focused()
    await keyboard.type(f"8{salon.number[1:]}")
    await keyboard.press("Enter")
    await screen.code()
    await expect(screen["code-title"]).to_be_focused()
    await screen.enter_code(salon)
    await screen.shows("status", "WhatsApp is connected")
    await expect(screen["linked-title"]).to_be_focused()
    await tab_to("reset")
    await keyboard.press("Enter")
    await screen.shows("reset-dialog")
    await screen.is_accessible()
    await keyboard.press("Escape")
    await screen.hides("reset-dialog")
    await expect(screen["reset"]).to_be_focused()


# --- what can go wrong ----------------------------------------------------------------


async def test_a_number_that_is_none_is_refused_before_anybody_is_asked(
    opened: Opening, salon: SalonUnderTest
):
    screen = await opened(salon.token(), PHONE)
    await screen.ready()
    await screen.ask_code("12345")
    await screen.shows("problem", "+7 900 123-45-67")
    await expect(screen["phone"]).to_be_focused()
    await expect(screen["phone"]).to_have_attribute("aria-invalid", "true")
    await screen["phone"].fill("")
    await screen.hides("problem")
    await screen["get-code"].click()
    await screen.shows("problem", "Введите номер")
    await expect(screen["problem"]).not_to_contain_text("+7 900")
    await screen.ask_code(f"+{salon.number}")
    await screen.code()
    await screen.hides("problem")


async def test_a_number_without_whatsapp_can_be_corrected(
    opened: Opening, salon: SalonUnderTest
):
    screen = await opened(salon.token(), PHONE)
    await screen.ready()
    with salon.world.simulator.fault("hello", answer=404, phone=salon.other_number):
        await screen.ask_code(f"+{salon.other_number}")
        await screen.shows("problem", "нет WhatsApp")
    await screen["problem-first"].click()
    await expect(screen["phone"]).to_be_focused()
    await screen.ask_code(f"+{salon.number}")
    await screen.code()
    await screen.hides("problem")


async def test_too_many_codes_are_a_countdown_and_the_qr_is_offered(
    opened: Opening, salon: SalonUnderTest
):
    screen = await opened(salon.token(), PHONE)
    await screen.ready()
    with salon.world.simulator.fault("hello", answer=429, phone=salon.number):
        await screen.ask_code(f"+{salon.number}")
        await screen.shows("problem", "Слишком много")
    await expect(screen["problem-first"]).to_be_disabled()
    first = await screen.seconds("problem-first")
    assert 0 < first <= 31
    await expect(screen["problem-first"]).not_to_contain_text(f":{first:02}")
    await screen["problem-second"].click()
    await screen.shows("qr")
    await screen.hides("problem")
    await screen["by-code"].click()
    await screen.shows("problem", "Слишком много")
    await expect(screen["problem-first"]).to_be_enabled()
    await screen["problem-first"].click()
    await screen.code()


@pytest.mark.parametrize("token", ["", "not-a-token"])
async def test_a_page_without_a_valid_token_says_what_to_do(
    opened: Opening, token: str
):
    screen = await opened(token)
    await screen.shows("problem", "Откройте")
    await screen.hides("link", "linked", "lost", "action", "state", "problem-first")
    await screen.is_accessible()


async def test_a_page_that_was_closed_shows_the_same_code_again(
    opened: Opening, salon: SalonUnderTest
):
    first = await opened(salon.token(), PHONE)
    await first.ready()
    await first.ask_code(f"+{salon.number}")
    code = await first.code()
    left = await first.seconds("code-left")
    await first.page.close()
    again = await opened(salon.token(), PHONE)
    assert await again.code() == code
    assert await again.seconds("code-left") <= left
    await again.shows("code-phone", salon.number[-2:])
    await expect(again["phone"]).to_have_value(re.compile(rf"{salon.number[-2:]}$"))
    await again.enter_code(salon)
    await again.shows("status", "WhatsApp подключён")


async def test_a_page_says_that_it_is_cut_off_and_loses_nothing(
    opened: Opening, world: World, salon: SalonUnderTest, tmp_path: Path
):
    coding = await opened(salon.token(), PHONE)
    await coding.ready()
    await coding.ask_code(f"+{salon.number}")
    code = await coding.code()
    scanning = await opened(world.salon().token())
    await scanning.shows("qr")
    typing = await opened(world.salon().token(), PHONE)
    await typing.ready()
    await typing.types("900 555")
    await expect(typing["phone"]).to_have_value(re.compile("900 555"))
    port = int(world.server.url.rsplit(":", 1)[1])
    # Told to stop it would say first that the code dies with it.
    await asyncio.to_thread(world.server.kill)
    for screen in (coding, scanning, typing):
        await screen.shows("lost")
    # A code is entered on the phone and may still be right; an old QR never is.
    assert await coding.code() == code
    await coding.seconds("code-left")
    await scanning.hides("qr")
    await scanning.shows("qr-wait")
    await expect(scanning["status"]).not_to_contain_text("QR")
    await coding.is_accessible()
    await scanning.page.screenshot(path=tmp_path / "lost.png", full_page=True)
    # What is asked for while cut off is asked for afterwards.
    await typing.types("1234")
    await typing["get-code"].click()
    world.server = await asyncio.to_thread(world.start, port=port)
    for screen in (coding, scanning, typing):
        await screen.hides("lost")
    await scanning.shows("qr")
    await expect(typing["phone"]).to_have_value("+7 900 555-12-34")
    await expect(typing["code"]).to_contain_text("-")
    # Browsers write it themselves that a server is not there.
    for screen in (coding, scanning, typing):
        screen.troubles = [
            text for text in screen.troubles if "ERR_CONNECTION_REFUSED" not in text
        ]


# --- languages and frames -------------------------------------------------------------


async def test_it_speaks_the_language_of_its_token_before_that_of_the_browser(
    opened: Opening, salon: SalonUnderTest
):
    screen = await opened(salon.token(language="en"))
    await screen.shows("status", "Scan the QR")
    await expect(screen.page).to_have_title(re.compile("Connect WhatsApp"))
    foreign = await opened(salon.token(), locale="en-GB")
    await foreign.shows("status", "Scan the QR")


async def test_another_language_loses_neither_token_nor_number_nor_code(
    opened: Opening, salon: SalonUnderTest
):
    screen = await opened(salon.token(), PHONE)
    await screen.ready()
    await screen.types("900 123")
    await screen.page.get_by_label("English").click()
    await screen.shows("get-code", "Get a code")
    await expect(screen.page.locator("html")).to_have_attribute("lang", "en")
    await expect(screen["phone"]).to_have_value("900 123")
    await screen.ready()
    await screen.ask_code(f"+{salon.number}")
    code = await screen.code()
    await screen.page.get_by_label("Русский").click()
    await screen.shows("get-code", "Получить код")
    assert await screen.code() == code
    await screen.page.reload()
    assert await screen.code() == code


async def test_in_a_partners_frame_of_300_pixels_it_links_and_changes_language(
    opened: Opening, salon: SalonUnderTest, partner: str
):
    address = f"{salon.world.server.url}/marketplace/connect%23token={salon.token()}"
    screen = await opened("", url=f"{partner}/#{address}")
    screen.frame = screen.page.frame(name="ours")
    # It is a desktop, however narrow the frame is.
    await screen.shows("qr")
    await screen.fits()
    await screen.frame.get_by_label("English").click()
    await screen.shows("status", "Scan the QR")
    await screen["by-code"].click()
    await screen.ask_code(f"+{salon.number}")
    await screen.enter_code(salon)
    await screen.shows("status", "WhatsApp is connected")
    await screen.fits()


# --- a linked salon -------------------------------------------------------------------


async def test_a_reset_asks_first(
    opened: Opening, salon: SalonUnderTest, tmp_path: Path
):
    screen = await opened(salon.token(), PHONE)
    await link_by_code(screen, salon)
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
    await link_by_code(screen, salon)
    await screen["disconnect"].click()
    await screen.shows("action")
    await screen.shows("status", "приостановлен")
    await screen["action"].click()
    await screen.shows("status", "WhatsApp подключён")
    await screen.hides("action", "link")


async def test_another_number_takes_over_only_when_it_is_linked(
    opened: Opening, salon: SalonUnderTest
):
    screen = await opened(salon.token(), PHONE)
    await link_by_code(screen, salon)
    await screen["change"].click()
    await expect(screen["phone"]).to_be_focused()
    await screen.shows("old-link", salon.number[-4:])
    await screen.ask_code(f"+{salon.other_number}")
    await screen.code()
    # Thinking better of it: the old number is back, without a code.
    await screen["keep"].click()
    await screen.shows("status", "WhatsApp подключён")
    await screen.shows("linked-phone", salon.number[-4:])

    await screen["change"].click()
    await screen.ask_code(f"+{salon.other_number}")
    code = await screen.code()
    result = await asyncio.to_thread(salon.other_phone.enter_code, code)
    assert result["ok"], result
    await screen.shows("linked-phone", salon.other_number[-4:])
    await screen.shows("status", "WhatsApp подключён")


async def test_another_number_can_be_linked_by_qr_too(
    opened: Opening, world: World, salon: SalonUnderTest
):
    screen = await opened(salon.token())
    await screen["by-code"].click()
    await link_by_code(screen, salon)
    await screen["change"].click()
    await screen["by-qr"].click()
    await expect(screen["qr"].locator("svg")).to_be_visible()
    result = await asyncio.to_thread(
        salon.other_phone.scan, await qr_text(world, salon)
    )
    assert result["ok"], result
    await screen.shows("linked-phone", salon.other_number[-4:])
    await screen.shows("status", "WhatsApp подключён")


# --- clocks ---------------------------------------------------------------------------


async def test_after_a_code_has_expired_the_next_is_one_tap_away(
    opened: Opening, world: World, salon: SalonUnderTest
):
    screen = await opened(salon.token(), PHONE)
    await screen.ready()
    await screen.ask_code(f"+{salon.number}")
    first = await screen.code()
    # What the link clock does after its 160 seconds, at once.
    await asyncio.to_thread(
        world.query,
        "UPDATE whatsapp_pairingattempt SET deadline = now() + interval '2 seconds'"
        " WHERE salon_id = %s AND finished_at IS NULL",
        salon.pk,
    )
    # A page that comes back from WhatsApp asks, and its clock is right again.
    await screen.page.evaluate(
        "() => { document.dispatchEvent(new Event('visibilitychange')) }"
    )
    await screen.shows("problem", "больше не действует")
    await screen.hides("code")
    await screen["problem-first"].click()
    second = await screen.code()
    assert second != first
    await screen.hides("problem")
    await screen.enter_code(salon)
    await screen.shows("status", "WhatsApp подключён")
