"""The states of the staff's admin."""

from playwright.async_api import Page as BrowserPage
from playwright.async_api import expect

from tests.people import make_person
from tests.scenarios import SalonUnderTest
from tests.screens.linking import ask_code, companion, link
from tests.screens.studio import Act, Arrange, State, Studio
from tests.stored_state import LinkedTemplate

STATUSES = ["replaced", "banned", "needs_attention", "logged_out", "reconnecting"]
SUPPORT, OWNER, VIEWER = "support", "owner", "viewer"


async def furnish(studio: Studio) -> list[SalonUnderTest]:
    """Make people and salons in all states, once for all pictures."""
    if studio.salons:
        return studio.salons
    world = studio.world
    salons = [world.salon() for _ in range(3)]
    await link(studio, salons[0])
    page = await link(studio, salons[1])
    await page.send("disconnect-whatsapp")
    await page.status("stopped")
    template = await LinkedTemplate.make(world)
    for status in STATUSES:
        salon = world.salon(stopped=True)
        template.store(salon, salon.number)
        world.query(
            "UPDATE whatsapp_whatsappsession SET status = %s, reason = '440', wanted ="
            " false, phone = %s, since = now() - interval '20 minutes',"
            " retry_at = now() + interval '1 day' WHERE salon_id = %s",
            status,
            salon.number,
            salon.pk,
        )
        salons.append(salon)
    titles = ["Ромашка", "Локон", "Beauty Point", "Пилки и лаки", "Шик", "Аврора"]
    for salon, title in zip(salons, titles, strict=False):
        world.query(
            "UPDATE whatsapp_salon SET title = %s WHERE id = %s", title, salon.pk
        )
    make_person(world, SUPPORT, superuser=True)
    make_person(world, OWNER, "owner", *salons[:2])
    make_person(world, VIEWER, "viewer", salons[0])
    studio.salons = salons
    return salons


def at(path: str) -> Arrange:
    """An address of the admin; ``{pk}`` is the linked salon, ``{free}`` the other."""

    async def arrange(studio: Studio) -> str:
        salons = await furnish(studio)
        return path.replace("{pk}", str(salons[0].pk)).replace(
            "{free}", str(salons[2].pk)
        )

    return arrange


async def code_shown(studio: Studio) -> str:
    salons = await furnish(studio)
    await ask_code(await companion(studio, salons[2]), salons[2])
    return f"/admin/whatsapp/salon/{salons[2].pk}/change/"


def sees(*selectors: str) -> Act:
    """Wait until all of these can be seen."""

    async def act(_studio: Studio, page: BrowserPage) -> None:
        for selector in selectors:
            await expect(page.locator(selector).first).to_be_visible()

    return act


async def issues_a_link(_studio: Studio, page: BrowserPage) -> None:
    """Make the address of the linking page."""
    await page.locator("#content button[type=submit]").click()
    await expect(page.locator(".address")).to_be_visible()


async def reconnects_all(_studio: Studio, page: BrowserPage) -> None:
    """Choose every salon and connect them anew."""
    await page.locator("#action-toggle").check()
    await page.locator("select[name=action]").select_option("reconnect_selected")
    await page.locator("button[name=index]").click()
    await expect(page.locator("table").first).to_be_visible()


SALON = "/admin/whatsapp/salon/{pk}/change/"
STATES = [
    State("staff-01-login", at("/admin/login/"), sees("input[name=username]")),
    State("staff-02-overview", at("/admin/"), sees("canvas"), SUPPORT),
    State("staff-03-salons", at("/admin/whatsapp/salon/"), sees("table"), SUPPORT),
    State("staff-04-salon-connected", at(SALON), sees("#linked"), OWNER),
    State(
        "staff-05-salon-not-linked",
        at("/admin/whatsapp/salon/{free}/change/"),
        sees("#link"),
        SUPPORT,
    ),
    State("staff-06-salon-code", code_shown, sees("#code"), SUPPORT),
    State("staff-07-salon-of-a-viewer", at(SALON), sees(".facts"), VIEWER),
    State(
        "staff-08-reset",
        at("/admin/whatsapp/salon/{pk}/reset/"),
        sees("input[name=typed]"),
        OWNER,
    ),
    State(
        "staff-09-page-link",
        at("/admin/whatsapp/salon/{pk}/link/"),
        issues_a_link,
        OWNER,
    ),
    State("staff-10-own-salons", at("/admin/"), sees("table"), OWNER),
    State(
        "staff-11-not-allowed",
        at("/admin/whatsapp/salon/{pk}/reset/"),
        sees("#content"),
        VIEWER,
    ),
    State("staff-12-bulk", at("/admin/whatsapp/salon/"), reconnects_all, SUPPORT),
    State("staff-13-audit", at("/admin/whatsapp/auditevent/"), sees("table"), SUPPORT),
    State(
        "staff-14-attempts",
        at("/admin/whatsapp/pairingattempt/"),
        sees("table"),
        SUPPORT,
    ),
    State(
        "staff-15-members", at("/admin/whatsapp/membership/"), sees("table"), SUPPORT
    ),
]
