"""What an operator reads at /metrics while salons link, are lost and come back.

Once with everything in one process, and once with pages in one, gateways in two others,
and nothing in common but the database.
"""

import asyncio
import time
from collections.abc import Callable, Iterator
from http.client import HTTPConnection
from urllib.parse import urlsplit

import pytest

from tests.scenarios import PATIENCE, World
from tests.scrape import Scrape
from tests.server import Server
from tests.simulator import Simulator
from tests.test_scaled import ask_code, is_open, link

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(400)]

TOKEN = "a-token-of-these-tests-only"


@pytest.fixture(scope="module")
def simulator() -> Iterator[Simulator]:
    with Simulator.start() as running:
        yield running


SETTINGS = {
    "METRICS_TOKEN": TOKEN,
    "METRICS_NETWORKS": "127.0.0.0/8",
    "WHATSAPP_LOOK_INTERVAL": "0.5",
}


@pytest.fixture(scope="module")
def alone(
    tmp_path_factory: pytest.TempPathFactory, simulator: Simulator
) -> Iterator[World]:
    """A service in one process."""
    with World(tmp_path_factory.mktemp("alone"), simulator, SETTINGS) as running:
        yield running


@pytest.fixture(scope="module")
def shared(
    tmp_path_factory: pytest.TempPathFactory, simulator: Simulator
) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("shared")
    with World(folder, simulator, SETTINGS, gateways=2) as running:
        yield running


@pytest.fixture
def world(shared: World) -> World:
    """A service with two gateways, whatever earlier tests have done to them."""
    shared.gateways = [one for one in shared.gateways if one.process.poll() is None]
    while len(shared.gateways) < 2:
        shared.gateways.append(shared.start_gateway())
    return shared


def ask(world: World, token: str | None = TOKEN) -> tuple[int, str]:
    address = urlsplit(world.server.url)
    asking = HTTPConnection(address.hostname or "", address.port, timeout=PATIENCE)
    try:
        headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        asking.request("GET", "/metrics", headers=headers)
        answer = asking.getresponse()
        return answer.status, answer.read().decode()
    finally:
        asking.close()


def scrape(world: World) -> Scrape:
    status, text = ask(world)
    assert status == 200, text
    return Scrape(text)


def count(said: Scrape, name: str, **labels: str) -> float:
    return said.value(name, **labels) or 0


async def told(
    world: World, condition: Callable[[Scrape], object], what: str
) -> Scrape:
    """Scrape until the figures are what they should be."""
    deadline = time.monotonic() + PATIENCE
    while True:
        said = await asyncio.to_thread(scrape, world)
        if condition(said):
            return said
        assert time.monotonic() < deadline, f"{what}\n{said.text}"
        await asyncio.sleep(0.1)


async def test_a_link_and_its_losses_are_figures(alone: World):
    """One salon: linked by code, cut off by WhatsApp, and by the death of Node.js."""
    world = alone
    assert ask(world, token=None) == (401, "")
    assert ask(world, token="another-token-of-these-tests") == (401, "")
    start = await told(
        world, lambda said: said.value("whatsapp_gateways") == 1, "the gateway"
    )
    salon = world.salon()
    async with salon.page() as page:
        jid = await link(salon, page)
        linked = await told(
            world,
            lambda said: more(
                said, start, "whatsapp_time_to_link_seconds_count", kind="code"
            ),
            "the link is noted",
        )
        _says_how_it_was_linked(linked, start)

        assert await asyncio.to_thread(world.simulator.drop, jid=jid) == 1
        again = await told(world, lambda said: reconnects(said, linked), "it is back")
        ((reason, times),) = reconnects(again, linked).items()
        assert times == 1
        assert more(again, linked, "whatsapp_disconnects_total", reason=reason) >= 1
        assert more(again, linked, "whatsapp_reconnect_seconds_count") == 1

        await asyncio.to_thread(world.kill_node)
        # Our number for it: 1008, Node.js ended.
        back = await told(
            world,
            lambda said: more(said, again, "whatsapp_reconnects_total", reason="1008"),
            "it is back on another Node.js",
        )
        crashed = {"cause": "crashed"}
        assert more(back, again, "whatsapp_engine_restarts_total", **crashed) == 1
        assert await asyncio.to_thread(is_open, world, jid)
        _is_nobodys_business(back, salon.number, str(salon.salon_id), jid)
    await told(
        world, lambda said: said.value("whatsapp_page_sockets") == 0, "nobody looks"
    )


def more(said: Scrape, before: Scrape, name: str, **labels: str) -> float:
    return count(said, name, **labels) - count(before, name, **labels)


def reconnects(said: Scrape, before: Scrape) -> dict[str, float]:
    """Return by reason which sessions are open again since then."""
    name = "whatsapp_reconnects_total"
    reasons = {sample.labels["reason"] for sample in said.samples(name)}
    since = {reason: more(said, before, name, reason=reason) for reason in reasons}
    return {reason: number for reason, number in since.items() if number}


def _says_how_it_was_linked(said: Scrape, before: Scrape) -> None:
    assert more(said, before, "whatsapp_sessions", status="open") == 1
    assert more(said, before, "whatsapp_linked_salons") == 1
    linked = {"kind": "code", "outcome": "linked", "error": ""}
    assert more(said, before, "whatsapp_attempts_total", **linked) == 1
    for name in ("whatsapp_time_to_code_seconds", "whatsapp_time_to_link_seconds"):
        assert more(said, before, f"{name}_count", kind="code") == 1
        assert more(said, before, f"{name}_bucket", kind="code", le="+Inf") == 1
        assert 0 < more(said, before, f"{name}_sum", kind="code") < PATIENCE
    # Baileys stores changed creds after the link, and pre-keys.
    assert more(said, before, "whatsapp_store_write_seconds_count") > 0
    assert more(said, before, "whatsapp_store_writes_refused_total") == 0
    assert more(said, before, "whatsapp_gateway_salons") == 1
    assert count(said, "whatsapp_gateway_resident_memory_bytes") > 2**20
    assert count(said, "whatsapp_page_sockets", page="marketplace") >= 1
    assert more(said, before, "whatsapp_page_messages_total", direction="out") > 2


def _is_nobodys_business(said: Scrape, *secrets: str) -> None:
    for secret in (*secrets, TOKEN):
        assert secret not in said.text


async def busiest(world: World) -> tuple[Server, str, Scrape]:
    """Return the gateway with most salons, its name, and what was told then.

    However salons are shared out meanwhile, it keeps one.
    """
    said = await told(
        world,
        lambda said: (
            said.value("whatsapp_gateways") == 2
            and said.value("whatsapp_gateway_salons")
            and len(list(said.samples("whatsapp_gateway_look_age_seconds"))) == 2
        ),
        "two gateways, and a salon",
    )
    salons = said.by("whatsapp_gateway_salons", "gateway")
    name = max(salons, key=lambda gateway: salons[gateway])
    (server,) = [one for one in world.gateways if f":{one.pid}:" in name]
    return server, name, said


def takeovers(said: Scrape, how: str, without: str) -> float:
    """Return how many salons were taken over so, but for one gateway's."""
    return sum(
        sample.value
        for sample in said.samples("whatsapp_takeover_seconds_count", how=how)
        if sample.labels["gateway"] != without
    )


async def test_a_gateway_that_dies_is_told_no_more_and_its_salon_is_taken_over(
    world: World,
):
    salon = world.salon()
    async with salon.page() as page:
        jid = await link(salon, page)
        dead, name, before = await busiest(world)
        assert name in before.text
        await asyncio.to_thread(world.kill_gateway, dead)
        said = await told(
            world,
            lambda said: (
                takeovers(said, "lost", name) > takeovers(before, "lost", name)
            ),
            "taken over",
        )
        assert said.value("whatsapp_gateways") == 1
        assert said.value("whatsapp_gateways_lost") == 1
        assert name not in said.text
        await told(world, lambda _said: is_open(world, jid), "the salon is open")


async def test_a_gateway_that_hands_over_is_not_taken_for_lost(world: World):
    salon = world.salon()
    async with salon.page() as page:
        await link(salon, page)
        leaving, name, before = await busiest(world)
        how = "handed_over"
        leaving.process.terminate()
        said = await told(
            world,
            lambda said: takeovers(said, how, name) > takeovers(before, how, name),
            "handed over",
        )
        lost = "whatsapp_gateways_lost"
        assert said.value(lost) == before.value(lost)


async def test_a_shown_code_is_in_no_answer(alone: World):
    world = alone
    salon = world.salon()
    before = await asyncio.to_thread(scrape, world)
    async with salon.page() as page:
        code = await ask_code(salon, page)
        said = await told(
            world,
            # The gateway's own figure comes last; it is none of the next test's.
            lambda said: (
                said.value("whatsapp_attempts_open", kind="code", stage="shown")
                and more(
                    said, before, "whatsapp_time_to_code_seconds_count", kind="code"
                )
            ),
            "the code is shown",
        )
        _is_nobodys_business(
            said, salon.number, str(salon.salon_id), code, code.replace("-", "")
        )
        mark = page.mark
        await page.send("request-pairing-code", phoneNumber="12")
        await page.event("pairing-code-error", since=mark)
        await told(
            world,
            lambda said: said.value(
                "whatsapp_page_errors_total",
                page="marketplace",
                code="INVALID_PHONE_FORMAT",
            ),
            "the page's error is counted",
        )
