"""What the salon's page makes of each thing that it can be told, in a real browser.

The page server is real; its WebSocket says what the real one says of states that are
hard to come by (:mod:`whatsapp.page`, in its own words).
"""

import asyncio
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from django.utils import translation
from playwright.async_api import Browser, Route, expect

from tests.browser_fixtures import PHONE, Opening, Socket, browser, opened, simulator
from tests.scenarios import World
from tests.simulator import Simulator
from tests.test_page import _attempt, _state
from whatsapp.errors import ErrorCode, WhatsAppError, message_of
from whatsapp.models import WhatsAppSession
from whatsapp.page import Event, PageView, refusal

__all__ = ["browser", "opened", "simulator"]

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.timeout(240),
    pytest.mark.asyncio(loop_scope="module"),
]

NUMBER = "79001234567"
TOKEN = "x.e30.x"


@pytest.fixture(scope="module")
def world(
    tmp_path_factory: pytest.TempPathFactory, simulator: Simulator
) -> Iterator[World]:
    with World(tmp_path_factory.mktemp("states"), simulator, clocks={}) as running:
        yield running


def welcome(status: str = "unlinked", **changes: Any) -> list[Event]:
    """Return what a page is told that connects in a state."""
    with translation.override("ru"):
        return PageView().welcome(_state(status=status, **changes))


def code_shown(**changes: Any) -> list[Event]:
    attempt = _attempt(stage="shown", code="ABCD-1234", expires_in=150.0, **changes)
    return welcome("pairing", attempt=attempt)


def message_in_russian(code: str) -> str:
    with translation.override("ru"):
        return message_of(code)


def error_event(code: ErrorCode, retry_after: int | None = None) -> Event:
    with translation.override("ru"):
        return refusal("pairing-code-error", WhatsAppError(code, retry_after))


async def test_every_status_has_words_and_an_icon_and_a_way_on(opened: Opening):
    socket = Socket(*welcome())
    screen = await opened(TOKEN, PHONE, socket=socket)
    await screen.ready()
    names = set()
    for status in WhatsAppSession.Status.values:
        linked = status not in ("unlinked", "pairing", "logged_out")
        socket.say(*welcome(status, phone=NUMBER if linked else ""))
        await expect(screen["link-root"]).to_have_attribute("data-status", status)
        names.add(await screen["status-name"].inner_text())
        assert len(await screen["status"].inner_text()) > 10
        assert await screen["status-icon"].get_attribute("href") != ""
        assert await screen["state"].get_attribute("data-tone")
        if linked:
            await screen.shows("linked-phone", "+79***4567")
            await screen.shows("linked-since", "2026")
        heights = await screen.page.locator("#link-root button:visible").evaluate_all(
            "buttons => buttons.map(button => button.getBoundingClientRect().height)"
        )
        assert heights
        assert min(heights) >= 44
        await screen.fits()
    assert len(names) == len(WhatsAppSession.Status)


async def test_a_link_to_another_phone_than_expected_is_no_success(opened: Opening):
    linked = _attempt(
        kind="qr", stage="linked", finished=True, finished_ago=1.0, phone="", code=""
    )
    open_now = welcome(
        "open", phone=NUMBER, reason="WRONG_PHONE_LINKED", attempt=linked
    )
    assert "whatsapp-connected" in [name for name, _data in open_now]
    screen = await opened(TOKEN, PHONE, socket=Socket(*open_now))
    await screen.shows("status", message_in_russian("WRONG_PHONE_LINKED"))
    await screen.shows("action", "Сбросить")
    await screen.hides("done")


async def test_nothing_stands_in_the_way_of_a_screen_reader(opened: Opening):
    socket = Socket(*welcome())
    screen = await opened(TOKEN, PHONE, socket=socket)
    await screen.ready()
    await screen.is_accessible()
    await screen.ask_code("12345")
    await screen.shows("problem")
    await screen.is_accessible()
    socket.say(error_event(ErrorCode.RATE_LIMITED, 30))
    await screen.shows("problem-first")
    await screen.is_accessible()
    socket.say(*welcome("needs_attention", phone=NUMBER))
    await screen.shows("linked")
    await screen.is_accessible()
    socket.say(*welcome("open", phone=NUMBER))
    await screen["change"].click()
    await screen.shows("old-link")
    await screen.is_accessible()


AT_THE_NUMBER = {
    ErrorCode.PHONE_REQUIRED,
    ErrorCode.INVALID_PHONE_FORMAT,
    ErrorCode.PHONE_NOT_ON_WHATSAPP,
    ErrorCode.CREDENTIALS_CONFLICT,
}
ELSEWHERE = {
    ErrorCode.UNAUTHORIZED,
    ErrorCode.FORBIDDEN,
    ErrorCode.INVALID_MESSAGE,
    ErrorCode.UNKNOWN_EVENT,
    ErrorCode.WRONG_PHONE_LINKED,
    ErrorCode.ALREADY_CONNECTED,
}


async def test_every_error_has_a_button_that_does_something(opened: Opening):
    socket = Socket(*welcome())
    screen = await opened(TOKEN, PHONE, socket=socket)
    await screen.ready()
    await screen.ask_code(f"+{NUMBER}")
    for code in sorted(set(ErrorCode) - ELSEWHERE - AT_THE_NUMBER):
        asked = await socket.hears("request-pairing-code")
        assert asked["phoneNumber"] == f"+{NUMBER}"
        event = error_event(code, 1 if code is ErrorCode.RATE_LIMITED else None)
        socket.say(event)
        await screen.shows("problem", event[1]["message"])
        await screen["problem-first"].click()
    for code in sorted(AT_THE_NUMBER):
        socket.say(error_event(code))
        await screen.shows("problem", error_event(code)[1]["message"])
        await screen["by-code"].focus()
        await screen["problem-first"].click()
        await expect(screen["phone"]).to_be_focused()
    socket.say(error_event(ErrorCode.ALREADY_CONNECTED))
    await screen.shows("problem", "уже подключён")
    await screen["problem-first"].click()
    await screen.hides("problem")
    socket.say(error_event(ErrorCode.WRONG_PHONE_LINKED))
    await screen["problem-first"].click()
    await screen.shows("reset-dialog")
    await screen.page.keyboard.press("Escape")
    socket.say(error_event(ErrorCode.UNKNOWN_EVENT))
    await screen.shows("problem", "запрос")
    await screen["problem-first"].click()
    await socket.connects(2)


@pytest.mark.parametrize("close", [4401, 4403])
async def test_a_page_that_is_not_wanted_any_more_says_so(opened: Opening, close: int):
    socket = Socket(*code_shown())
    screen = await opened(TOKEN, PHONE, socket=socket)
    await screen.code()
    await socket.close(close)
    await screen.shows("problem", "Откройте")
    await screen.hides("state", "link", "linked", "lost", "code")
    assert socket.count == 1


async def test_too_many_pages_wait_and_say_for_how_long(opened: Opening):
    socket = Socket(*welcome("open", phone=NUMBER))
    screen = await opened(TOKEN, PHONE, socket=socket)
    await screen.shows("linked")
    socket.say(("error", {"code": "RATE_LIMITED", "message": "Слишком часто."}))
    await socket.close(4429)
    await screen.shows("lost")
    await screen.shows("problem", "Слишком часто.")
    await expect(screen["problem-first"]).to_be_disabled()
    assert await screen.seconds("problem-first") > 30
    assert socket.count == 1


async def test_a_phone_that_returns_from_whatsapp_gets_the_right_time(opened: Opening):
    socket = Socket(*code_shown())
    screen = await opened(TOKEN, PHONE, socket=socket)
    assert 140 < await screen.seconds("code-left") <= 150
    await screen.page.evaluate(
        "() => { document.dispatchEvent(new Event('visibilitychange')) }"
    )
    await socket.hears("get-status")
    name, data = code_shown()[0]
    socket.say((name, {**data, "attempt": {**data["attempt"], "expiresIn": 65}}))
    await screen.shows("code-left", "1:0")
    # Nobody answers the next question: that connection is dead, and a new one is made.
    await screen.page.evaluate("() => { dispatchEvent(new Event('online')) }")
    await socket.connects(2)
    assert await screen.code() == "ABCD-1234"
    await screen.hides("lost")


async def test_without_a_network_it_says_so_at_once_and_comes_back(opened: Opening):
    socket = Socket(*code_shown())
    screen = await opened(TOKEN, PHONE, socket=socket)
    await screen.code()
    await screen.page.context.set_offline(True)
    await screen.shows("lost")
    await screen.shows("code", "ABCD-1234")
    await screen.page.context.set_offline(False)
    await screen.hides("lost")
    await screen.shows("code", "ABCD-1234")
    await screen.hides("problem")


# --- the field for the phone ----------------------------------------------------------


async def test_a_number_is_grouped_while_it_is_typed_and_the_caret_stays(
    opened: Opening,
):
    screen = await opened(TOKEN, PHONE, socket=Socket(*welcome()))
    await screen.ready()
    phone, keyboard = screen["phone"], screen.page.keyboard
    await screen.types("+79001234567")
    await expect(phone).to_have_value("+7 900 123-45-67")
    # A digit in the middle, one taken away again, and one behind a dash.
    for _ in range(9):
        await keyboard.press("ArrowLeft")
    await keyboard.press("Backspace")
    await expect(phone).to_have_value("+7 901 234-56-7")
    await keyboard.type("5")
    await expect(phone).to_have_value("+7 905 123-45-67")
    place = await phone.evaluate("input => input.selectionStart")
    assert place == len("+7 905")
    await keyboard.press("ArrowRight")
    await keyboard.press("Backspace")
    await expect(phone).to_have_value("+7 901 234-56-7")
    await keyboard.type("5")
    await expect(phone).to_have_value("+7 905 123-45-67")


PASTED = [
    ("8 (900) 123-45-67", "+7 900 123-45-67", "RU"),
    ("007 900 123 45 67", "+7 900 123-45-67", "RU"),
    ("\u202a+7 900 123\u201145\u201167\u202c", "+7 900 123-45-67", "RU"),
    ("＋７９００１２３４５６７", "+7 900 123-45-67", "RU"),
    ("+55 11 96123 4567", "+55 11 96123-4567", "BR"),
    ("+551161234567", "+55 11 6123-4567", "BR"),
    ("+77710009998", "+7 771 000 9998", "KZ"),
]


async def test_any_form_of_a_number_can_be_pasted(opened: Opening):
    for pasted, shown, country in PASTED:
        socket = Socket(*welcome())
        screen = await opened(TOKEN, PHONE, socket=socket)
        await screen.ready()
        await screen["phone"].fill(pasted)
        await screen["phone"].blur()
        await expect(screen["phone"]).to_have_value(shown)
        await expect(screen["country"]).to_have_value(country)
        await screen["get-code"].click()
        asked = await socket.hears("request-pairing-code")
        assert asked["phoneNumber"] == "+" + re.sub(r"\D", "", shown)
        await screen.page.close()


async def test_a_country_can_be_chosen_and_its_name_typed(opened: Opening):
    socket = Socket(*welcome())
    screen = await opened(TOKEN, PHONE, socket=socket, locale="en-GB")
    await screen.ready()
    await screen["country"].focus()
    await screen.page.keyboard.type("Germ")
    await expect(screen["country"]).to_have_value("DE")
    await expect(screen["phone"]).to_have_attribute("placeholder", re.compile(r"^\+49"))
    await screen.ask_code("0151 12345678")
    asked = await socket.hears("request-pairing-code")
    assert asked["phoneNumber"] == "+4915112345678"


async def test_what_can_be_no_number_is_said_at_once(opened: Opening):
    socket = Socket(*welcome())
    screen = await opened(TOKEN, PHONE, socket=socket)
    await screen.ready()
    for typed, words in (
        ("900 12", "слишком короткий"),
        ("+7 900 123-45-67 8", "лишние цифры"),
        ("+999 123 456 78", "кода страны нет"),
        ("anna@example.com", "только цифры"),
    ):
        await screen.ask_code(typed)
        await screen.shows("problem", words)
    assert "request-pairing-code" not in [name for name, _data in socket.heard]


async def test_a_doubtful_number_is_asked_for_all_the_same(opened: Opening):
    socket = Socket(*welcome())
    screen = await opened(TOKEN, PHONE, socket=socket)
    await screen.ready()
    await screen["phone"].fill("+7 123 123 45 67")
    await screen.shows("phone-note", "Не похоже", "Россия")
    await screen["get-code"].click()
    asked = await socket.hears("request-pairing-code")
    assert asked["phoneNumber"] == "+71231234567"


async def test_a_known_number_is_there_before_it_is_typed_and_never_in_the_way(
    opened: Opening,
):
    known: Event = ("known-phone", {"phoneNumber": NUMBER})
    first = await opened(TOKEN, PHONE, socket=Socket(*welcome(), known))
    await expect(first["phone"]).to_have_value("+7 900 123-45-67")
    socket = Socket(*welcome())
    second = await opened(TOKEN, PHONE, socket=socket, fragment="phone=77710009998")
    await expect(second["phone"]).to_have_value("+7 771 000 9998")
    socket.say(known)
    third_socket = Socket(*welcome())
    third = await opened(TOKEN, PHONE, socket=third_socket)
    await third.ready()
    await third.types("9")
    await third["phone"].press("Backspace")
    third_socket.say(known, *welcome())
    await expect(third["phone"]).to_have_value("")
    await expect(second["phone"]).to_have_value("+7 771 000 9998")


async def test_a_number_can_be_asked_for_before_the_countries_have_come(
    opened: Opening, browser: Browser
):
    context = await browser.new_context(viewport=PHONE, locale="ru-RU")
    arrived = asyncio.Event()

    async def late(route: Route) -> None:
        await arrived.wait()
        await route.continue_()

    await context.route("**/regions.json", late)
    socket = Socket(*welcome())
    screen = await opened(TOKEN, context=context, socket=socket)
    await screen["phone"].fill("8 (900) 123-45-67")
    await screen["get-code"].click()
    asked = await socket.hears("request-pairing-code")
    assert re.sub(r"\D", "", asked["phoneNumber"]) == "89001234567"
    await screen.shows("status", "Запрашиваем")
    place = await screen["phone"].bounding_box()
    arrived.set()
    await screen.ready()
    assert await screen["phone"].bounding_box() == place, "nothing moves under a finger"


# --- on another page than the marketplace's -------------------------------------------


async def test_in_the_admin_nothing_starts_by_itself_and_rights_are_kept(
    opened: Opening, world: World, tmp_path: Path
):
    socket = Socket(*welcome())
    blank = await opened("", socket=Socket())
    context = blank.page.context

    async def as_in_the_admin(route: Any) -> None:
        response = await route.fetch()
        html = await response.text()
        for name, value in (
            ("auth", "login"),
            ("may", "link"),
            ("embedded", "admin"),
            ("phone", NUMBER),
        ):
            html = re.sub(f'data-{name}="[^"]*"', f'data-{name}="{value}"', html)
        await route.fulfill(response=response, body=html)

    await context.route("**/marketplace/connect*", as_in_the_admin)
    screen = await opened("", socket=socket, context=context)
    await screen.ready()
    await expect(screen["phone"]).to_have_value("+7 900 123-45-67")
    await screen.shows("get-qr")
    await screen["by-code"].click()
    await screen["by-qr"].click()
    await screen.shows("get-qr")
    assert "request-qr" not in [name for name, _data in socket.heard]
    await screen["get-qr"].click()
    await socket.hears("request-qr")
    socket.say(*welcome("open", phone=NUMBER))
    await screen.shows("change")
    await screen.hides("disconnect", "reset")
    await socket.close(4403)
    await screen.shows("problem", "Обновите страницу")
    await screen.shows("problem-first")
