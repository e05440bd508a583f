"""The staff's admin in a real browser, on the whole service."""

import asyncio
import re
import urllib.error
import urllib.request
from collections.abc import Awaitable, Callable

import pytest
import pytest_asyncio
from playwright.async_api import Browser, ViewportSize, expect

from tests.browser_fixtures import (  # noqa: F401
    DESKTOP,
    PHONE,
    REPORT_VIOLATIONS,
    Opening,
    Screen,
    browser,
    opened,
    salon,
    simulator,
    world,
)
from tests.people import log_in, make_person
from tests.scenarios import SalonUnderTest, World
from tests.stored_state import LinkedTemplate

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.timeout(400),
    pytest.mark.asyncio(loop_scope="module"),
]

LIST = "/admin/whatsapp/salon/"

Visit = Callable[..., Awaitable[Screen]]


@pytest_asyncio.fixture(loop_scope="module")
async def visit(browser: Browser, world: World, opened: Opening) -> Visit:  # noqa: F811
    """Give a function that opens a page of the admin as somebody."""

    async def open_as(username: str, path: str, size: ViewportSize = DESKTOP) -> Screen:
        context = await browser.new_context(
            viewport=size, locale="ru-RU", has_touch=size is PHONE
        )
        await context.add_init_script(REPORT_VIOLATIONS)
        url = world.server.url.rstrip("/")
        cookie = await asyncio.to_thread(log_in, world, username)
        await context.add_cookies([{"name": "sessionid", "value": cookie, "url": url}])
        return await opened("", url=f"{url}{path}", context=context)

    return open_as


def page_of(salon: SalonUnderTest) -> str:  # noqa: F811
    return f"{LIST}{salon.pk}/change/"


def state(salon: SalonUnderTest) -> str:  # noqa: F811
    """Return the selector of a salon's state."""
    return f"[data-live=status][data-salon='{salon.pk}']"


async def is_in(screen: Screen, salon: SalonUnderTest, *statuses: str) -> None:  # noqa: F811
    """Wait until the page shows the salon in a state, which only the socket tells it."""
    wanted = ", ".join(f"{state(salon)}[data-status='{s}']" for s in statuses)
    await expect(screen.page.locator(wanted).first).to_be_visible()


async def test_staff_links_a_salon_by_code_and_sees_it_turn_green_without_reloading(
    visit: Visit,
    world: World,  # noqa: F811
    salon: SalonUnderTest,  # noqa: F811
):
    person = f"anna{salon.pk}"
    make_person(world, person, "staff", salon, world.salon())
    overview = await visit(person, LIST)
    await is_in(overview, salon, "unlinked")
    await overview.page.evaluate("window.notReloaded = true")

    screen = await visit(person, page_of(salon))
    await screen.shows("link")
    assert world.query(
        "SELECT count(*) FROM whatsapp_pairingattempt WHERE salon_id = %s", salon.pk
    ) == [(0,)], "nothing is asked for by looking"
    if not await screen["phone"].is_visible():
        await screen["by-code"].click()
    await screen.ask_code(f"+{salon.number}")
    await is_in(overview, salon, "pairing")
    await screen.enter_code(salon)

    await screen.shows("linked-phone", salon.number[-4:])
    await is_in(screen, salon, "open")
    await is_in(overview, salon, "open")
    await expect(overview.page.locator(state(salon))).to_have_text("Подключено")
    assert await overview.page.evaluate("window.notReloaded")
    who = world.query(
        "SELECT requested_by FROM whatsapp_pairingattempt WHERE salon_id = %s", salon.pk
    )
    assert who == [(f"user:{person}",)]


async def test_staff_links_a_salon_by_qr_from_its_page(
    visit: Visit,
    world: World,  # noqa: F811
    salon: SalonUnderTest,  # noqa: F811
):
    person = f"boris{salon.pk}"
    make_person(world, person, "staff", salon)
    screen = await visit(person, "/admin/")
    await screen.page.wait_for_url(f"**{page_of(salon)}")  # his only salon
    await screen.shows("link")
    await screen["by-qr"].click()
    await screen["get-qr"].click()
    await expect(screen["qr"].locator("svg")).to_be_visible()
    ((qr,),) = world.query(
        "SELECT qr FROM whatsapp_pairingattempt WHERE salon_id = %s"
        " ORDER BY id DESC LIMIT 1",
        salon.pk,
    )
    result = await asyncio.to_thread(salon.phone.scan, qr)
    assert result["ok"], result
    await is_in(screen, salon, "open")
    await screen.shows("linked")


async def test_staff_of_one_salon_sees_nothing_of_another_by_any_path(
    visit: Visit,
    world: World,  # noqa: F811
    salon: SalonUnderTest,  # noqa: F811
):
    mine, also_mine = world.salon(), world.salon()
    person = f"stranger{salon.pk}"
    make_person(world, person, "owner", mine, also_mine)
    screen = await visit(person, LIST)
    await is_in(screen, mine, "unlinked")
    content = screen.page.locator("body")

    for path in (
        LIST,
        f"{LIST}?q={salon.salon_id}",
        f"{LIST}?q={salon.number[-4:]}",
        "/admin/",
        "/admin/whatsapp/auditevent/",
        "/admin/whatsapp/pairingattempt/",
    ):
        await screen.page.goto(world.server.url.rstrip("/") + path)
        await expect(content).not_to_contain_text(f"Salon {salon.salon_id}")

    async def answer(path: str) -> tuple[int, str, str]:
        """Return status, address and text of an answer, without its primary key."""
        response = await screen.page.request.get(
            world.server.url.rstrip("/") + path, max_redirects=0
        )
        pk = path.split("/")[4]
        text = (await response.text()).replace(pk, "PK")
        location = response.headers.get("location", "").replace(pk, "PK")
        return response.status, location, text if response.status != 302 else ""

    missing = 999_999_999
    for part in ("change", "history", "reset", "link", "reconnect", "disconnect"):
        foreign = await answer(f"{LIST}{salon.pk}/{part}/")
        assert foreign == await answer(f"{LIST}{missing}/{part}/")
        assert foreign[0] in (302, 404)

    codes = await screen.page.evaluate(
        """async pks => Promise.all(pks.map(pk => new Promise(resolve => {
          const said = [];
          const socket = new WebSocket(`ws://${location.host}/ws/admin/salon/${pk}/`,
            ["aiadmin.v1"]);
          socket.onmessage = message => said.push(message.data);
          socket.onclose = closed => resolve([closed.code, ...said]);
        })))""",
        [salon.pk, missing],
    )
    assert codes[0] == codes[1]
    assert codes[0][0] >= 4400


async def test_a_role_that_is_taken_away_takes_the_open_page_with_it(
    visit: Visit,
    world: World,  # noqa: F811
    salon: SalonUnderTest,  # noqa: F811
):
    person = f"clara{salon.pk}"
    pk = make_person(world, person, "staff", salon)
    screen = await visit(person, page_of(salon))
    await screen.shows("link")
    world.query("DELETE FROM whatsapp_membership WHERE user_id = %s", pk)
    await screen.shows("problem", "Обновите страницу")
    await screen.hides("link")


async def test_a_viewer_looks_and_touches_nothing(
    visit: Visit,
    world: World,  # noqa: F811
    salon: SalonUnderTest,  # noqa: F811
):
    person = f"vera{salon.pk}"
    make_person(world, person, "viewer", salon)
    async with salon.page() as owner:
        await owner.event("qr-update")
        screen = await visit(person, page_of(salon))
        await is_in(screen, salon, "pairing")
    await expect(screen.page.locator("#qr svg")).to_have_count(0)
    for action in ("reset", "reconnect", "disconnect", "link"):
        links = screen.page.locator(f"a[href*='/{salon.pk}/{action}/']")
        await expect(links).to_have_count(0)
        answer = await screen.page.request.get(
            f"{world.server.url.rstrip('/')}{LIST}{salon.pk}/{action}/"
        )
        assert answer.status == 403


async def test_an_owner_resets_a_salon_after_typing_its_number(
    visit: Visit,
    world: World,  # noqa: F811
    salon: SalonUnderTest,  # noqa: F811
):
    person = f"olga{salon.pk}"
    make_person(world, person, "owner", salon)
    template = await LinkedTemplate.make(world)
    template.store(salon, salon.number)
    world.query(
        "UPDATE whatsapp_whatsappsession SET status = 'stopped', wanted = false"
        " WHERE salon_id = %s",
        salon.pk,
    )
    screen = await visit(person, page_of(salon), PHONE)
    await is_in(screen, salon, "stopped")
    await screen.page.locator(f"a[href$='/{salon.pk}/reset/']").click()
    typed = screen.page.locator("input[name=typed]")
    await typed.fill("1")
    await typed.press("Enter")
    await expect(screen.page.locator("body")).to_contain_text("Ничего не сброшено")
    assert salon.creds()
    await typed.fill(str(salon.salon_id))
    await typed.press("Enter")
    await is_in(screen, salon, "unlinked")
    assert salon.creds() is None
    assert salon.key_count() == 0


async def test_fifty_salons_are_reconnected_at_once_and_each_is_seen_to_connect(
    visit: Visit,
    world: World,  # noqa: F811
):
    template = await LinkedTemplate.make(world)
    salons = [world.salon(stopped=True) for _ in range(50)]
    for each in salons:
        template.store(each, each.number)
    person = f"support{salons[0].pk}"
    make_person(world, person, "owner", *salons)
    screen = await visit(person, f"{LIST}?all=")
    await expect(screen.page.locator("[data-live=status]")).to_have_count(50)

    await screen.page.locator("#action-toggle").check()
    await screen.page.locator("select[name=action]").select_option("reconnect_selected")
    await screen.page.locator("button[name=index]").click()

    progress = screen.page.locator("progress[data-live-progress]")
    await expect(progress).to_have_attribute("max", "50")
    await expect(
        screen.page.locator("[data-live=status][data-status=open]")
    ).to_have_count(50)
    await expect(screen.page.locator("[data-live-progress-count]")).to_have_text("50")
    assert await progress.evaluate("bar => bar.value") == 50
    assert screen.page.url.endswith(f"{LIST}bulk/")


async def test_an_owner_makes_a_key_by_keyboard_uses_it_and_ends_it(
    visit: Visit,
    world: World,  # noqa: F811
    salon: SalonUnderTest,  # noqa: F811
):
    owner = f"owner{salon.pk}"
    make_person(world, owner, "owner", salon)
    keys = "/admin/whatsapp/apikey/"
    screen = await visit(owner, f"{keys}add/")
    page = screen.page
    await expect(page.locator("[name=salon]")).to_have_value(str(salon.salon_id))
    await expect(page.locator("[type=submit]:visible")).to_have_count(1)
    await page.locator("[name=name]").focus()
    await page.keyboard.type("касса")
    for scope in ("read", "link"):
        await page.locator(f"[name=scopes][value={scope}]").focus()
        await page.keyboard.press("Space")
    await page.keyboard.press("Enter")
    shown = page.get_by_text(re.compile(r"^\s*wak_\w{10}_"))
    await expect(shown).to_be_visible()
    key = (await shown.inner_text()).strip()

    def status() -> int:
        request = urllib.request.Request(  # noqa: S310  (the service's own address)
            f"{world.server.url}/api/v1/salons/{salon.salon_id}/session",
            headers={"Authorization": f"Bearer {key}"},
        )
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:  # noqa: S310
                return int(answer.status)
        except urllib.error.HTTPError as refusal:
            with refusal:
                return refusal.code

    assert await asyncio.to_thread(status) == 200
    await page.reload()  # as a new form, or as a question whether to send it again
    await expect(page.get_by_text(key)).to_have_count(0)

    await page.goto(f"{world.server.url}{keys}")
    assert key not in await page.content()
    await page.locator("[name=_selected_action]").check()
    await page.locator("select[name=action]").select_option("revoke")
    await page.locator("[name=index]").click()
    await expect(page.get_by_text("отозван").first).to_be_visible()
    assert await asyncio.to_thread(status) == 401


async def test_the_page_of_the_api_s_routes_works_within_its_policy(
    opened: Opening,  # noqa: F811
    world: World,  # noqa: F811
):
    screen = await opened("", url=f"{world.server.url}/api/v1/docs")
    route = screen.page.get_by_text("/api/v1/salons/{salon}/pairing-codes")
    await expect(route).to_be_visible()
