"""Pages in one process and gateways in two others, with Redis between them or without.

Whoever owns a salon may die at any moment; the other one takes it over. Redis saves
time: without it everything is found by looking.
"""

import asyncio
import time
from collections.abc import Callable, Iterator

import pytest

from tests.matrix_cells import Cell, Table, run_cells
from tests.redis_server import MISSING, PROGRAM, RedisServer
from tests.scenarios import PATIENCE, Page, SalonUnderTest, World
from tests.server import Server
from tests.simulator import Simulator
from tests.stored_state import LinkedTemplate
from tests.test_matrix import while_shown

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(400)]

GATEWAYS = 2
TAKE_OVER_SECONDS = 10.0
HAND_OVER_SECONDS = 2 + 1.5
"""Two, and what a busy machine adds; found by looking it would take five or more."""
SLOW_LOOKS = 5.0
QUICK_SECONDS = 2.0
"""An answer that both processes had to look for hardly ever comes so soon."""


@pytest.fixture(scope="module")
def simulator() -> Iterator[Simulator]:
    with Simulator.start() as running:
        yield running


@pytest.fixture(scope="module")
def redis() -> Iterator[RedisServer]:
    if not PROGRAM:
        pytest.skip(MISSING)
    with RedisServer() as server:
        yield server


@pytest.fixture(scope="module")
def with_redis(
    tmp_path_factory: pytest.TempPathFactory, simulator: Simulator, redis: RedisServer
) -> Iterator[World]:
    """A service whose processes call each other, and would look rarely."""
    settings = {
        "REDIS_URL": redis.url,
        "WHATSAPP_LOOK_INTERVAL": str(SLOW_LOOKS),
        # Without Redis a code waits for a look of the gateway and for one of the page.
        "WHATSAPP_PAIRING_TIMEOUT": "60",
    }
    folder = tmp_path_factory.mktemp("redis")
    with World(folder, simulator, settings, gateways=GATEWAYS) as world:
        yield world


@pytest.fixture(scope="module")
def without_redis(
    tmp_path_factory: pytest.TempPathFactory, simulator: Simulator
) -> Iterator[World]:
    """A service whose processes have nothing in common but the database."""
    folder = tmp_path_factory.mktemp("alone")
    with World(folder, simulator, clocks={}, gateways=GATEWAYS) as world:
        yield world


@pytest.fixture(params=["with_redis", "without_redis"])
def world(request: pytest.FixtureRequest) -> World:
    """Give both, one after the other."""
    return whole(request.getfixturevalue(request.param))


def whole(world: World) -> World:
    """Replace the gateways that earlier tests have ended."""
    forget_ended(world)
    while len(world.gateways) < GATEWAYS:
        world.gateways.append(world.start_gateway())
    return world


def forget_ended(world: World) -> None:
    world.gateways = [each for each in world.gateways if each.process.poll() is None]


async def ask_code(salon: SalonUnderTest, page: Page) -> str:
    mark = page.mark
    await page.send("request-pairing-code", phoneNumber=f"+{salon.number}")
    name, data = await page.event("pairing-code", "pairing-code-error", since=mark)
    assert name == "pairing-code", data
    return data["code"]


async def link(salon: SalonUnderTest, page: Page) -> str:
    """Link by code; return the JID of the new device."""
    mark = page.mark
    code = await ask_code(salon, page)
    result = await asyncio.to_thread(salon.phone.enter_code, code)
    assert result["ok"], result
    await page.event("whatsapp-connected", since=mark)
    return result["jid"]


async def eventually(condition: Callable[[], object], what: str) -> float:
    """Wait for what no page is told; return how long it took."""
    began = time.monotonic()
    while not await asyncio.to_thread(condition):
        assert time.monotonic() < began + PATIENCE, what
        await asyncio.sleep(0.02)
    return time.monotonic() - began


def owner(salon: SalonUnderTest) -> Server:
    found = salon.world.owner(salon)
    assert found is not None
    return found


def is_open(world: World, jid: str) -> bool:
    return any(
        (it.get("jid"), it["stage"]) == (jid, "open")
        for it in world.simulator.connections()
    )


async def test_an_open_salon_is_open_again_soon_after_its_gateway_was_killed(
    world: World,
):
    salon = world.salon()
    async with salon.page() as page:
        jid = await link(salon, page)
        dead = owner(salon)
        mark = page.mark
        await asyncio.to_thread(world.kill_gateway, dead)
        took = await eventually(
            lambda: world.owner(salon) and is_open(world, jid), "not taken over"
        )
        assert took < TAKE_OVER_SECONDS
        await page.status("open", since=mark)
        said = [data["status"] for name, data in page.said[mark:] if name == "status"]
        assert "unlinked" not in said
        assert "logged_out" not in said
    device = world.simulator.journal()["devices"][jid]
    assert device["peakOpenSockets"] == 1


async def test_a_code_dies_with_its_gateway_and_the_next_one_works(with_redis: World):
    world = whole(with_redis)
    salon = world.salon()
    async with salon.page() as page:
        await ask_code(salon, page)
        mark = page.mark
        await asyncio.to_thread(world.kill_gateway, owner(salon))
        _, data = await page.event("pairing-code-error", since=mark)
        assert data["code"] == "CODE_EXPIRED"
        jid = await link(salon, page)
        assert await asyncio.to_thread(is_open, world, jid)


async def test_a_gateway_that_is_told_to_stop_hands_over_at_once(with_redis: World):
    world = whole(with_redis)
    salon = world.salon()
    async with salon.page() as page:
        jid = await link(salon, page)
        leaving = owner(salon)
        mark, written = page.mark, len(leaving.logs)
        leaving.process.terminate()
        assert (
            await eventually(lambda: world.owner(salon) is not leaving, "not let go")
            < HAND_OVER_SECONDS
        )
        took = await eventually(
            lambda: world.owner(salon) and is_open(world, jid), "not taken over"
        )
        assert took < TAKE_OVER_SECONDS
        # One that is quick enough is not even news to the page.
        await page.send("get-status")
        await page.status("open", since=mark)
        assert await asyncio.to_thread(leaving.process.wait, PATIENCE) == 0
        assert "Traceback" not in leaving.logs[written:]
    device = world.simulator.journal()["devices"][jid]
    assert device["peakOpenSockets"] == 1


async def test_redis_costs_time_when_it_dies_and_nothing_else(
    with_redis: World, redis: RedisServer
):
    world = whole(with_redis)
    before, meanwhile = world.salon(), world.salon()
    async with before.page() as open_before:
        await link(before, open_before)
        await asyncio.to_thread(redis.stop)
        try:
            async with meanwhile.page() as opened_meanwhile:
                jid = await link(meanwhile, opened_meanwhile)
                assert await asyncio.to_thread(is_open, world, jid)
            mark = open_before.mark
            await open_before.send("disconnect-whatsapp")
            await open_before.status("stopped", since=mark)
            await open_before.send("request-qr")
            await open_before.event("whatsapp-connected", since=mark)
            await open_before.send("reset-whatsapp-credentials")
            await open_before.event("credentials-reset", since=mark)
        finally:
            await asyncio.to_thread(redis.start)
    await are_quick_again(world)
    # It is said, by each process and not every second.
    errors = [line for line in world.logs.splitlines() if " ERROR " in line]
    said = ("The layer of the pages fails", "Unexpected exception in receive task")
    assert all(line.partition(": ")[2].startswith(said) for line in errors)
    assert len(errors) < 10


async def are_quick_again(world: World) -> None:
    """Wait until two codes in a row come sooner than anybody would look for them."""
    deadline = time.monotonic() + 2 * PATIENCE
    quick = 0
    while quick < 2:
        assert time.monotonic() < deadline, "still slow"
        salon = world.salon()
        async with salon.page() as page:
            await page.event("status")
            began = time.monotonic()
            await ask_code(salon, page)
            quick = quick + 1 if time.monotonic() - began < QUICK_SECONDS else 0


def replace_gateway(cell: Cell) -> None:
    """Kill the only gateway, with another one beside it."""
    world = cell.world
    world.gateways.append(world.start_gateway())
    world.kill_gateway(world.gateways[0])


async def test_whatever_a_salon_was_at_when_its_gateway_was_killed_it_goes_on(
    without_redis: World,
    record_property: Callable[[str, object], None],
    whole_matrix: bool,
):
    """The column "gateway killed" of the scenario matrix."""
    world = without_redis
    forget_ended(world)
    for surplus in world.gateways[1:]:
        await asyncio.to_thread(surplus.stop)
        world.gateways.remove(surplus)
    template = await LinkedTemplate.make(world)
    table: Table = {}
    record_property("matrix", ("gateway killed", table))
    play = while_shown(replace_gateway)
    await run_cells(world, template, "gateway killed", play, table, whole=whole_matrix)
