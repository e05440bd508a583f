"""How fast linked sessions are open again after a cold start, against bare Baileys.

Ours: `manage.py serve` is started on a database full of linked salons → all are open, by
the service's own record of when. Bare: Node.js is started → all sessions are open, from the
same creds and keys in files (useMultiFileAuthState), so many at a time. Meanwhile a
person looks at pages of ours.
"""

import argparse
import asyncio
import contextlib
import http.client
import itertools
import sys
import time
import urllib.parse
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks import linked, service
from benchmarks.bare import Bare
from benchmarks.command import Benchmark, Option, progress
from benchmarks.linked import Device, Model
from benchmarks.processes import CpuMeter
from benchmarks.report import Report, Target
from benchmarks.service import Service
from tests.scenarios import Page
from tests.simulator import Simulator

LOOK_SECONDS = 0.1
PAGES = Target(200, of="ours")
RATE = Target(1.0, least=True)
OURS, BARE, STOPPED = "7904", "7905", "7906"
VISITED = 20
"""So many salons are looked at in turn: each allows 30 looks a minute."""


@dataclass(frozen=True)
class Opening:
    """How it went."""

    seconds: float
    simulator_cpu: float
    answered: float = 0.0
    """Seconds until the first page can be had."""
    page_ms: Sequence[float] = ()
    socket_ms: Sequence[float] = ()


async def measure(options: argparse.Namespace, folder: Path) -> Report:
    """Start both sides cold, at each size in turn."""
    report = BENCHMARK.report(options, "Cold start")
    our_seconds, first = [], 0
    with Simulator.start() as simulator:
        async with Bare(simulator.ws_url) as bare:
            model = await Model.link(
                simulator, bare, folder / "model", options.pre_keys
            )
        for size in options.sizes:
            place = folder / str(size)
            place.mkdir()
            ours = await asyncio.to_thread(
                linked.double, simulator, model, first, size, OURS
            )
            bares = await asyncio.to_thread(
                linked.double, simulator, model, first, size, BARE
            )
            first += size
            mine = await _ours(place, simulator, model, ours, options)
            progress(f"{size}: ours {mine.seconds:.1f} s")
            bare_opening = await _bare(place, simulator, model, bares, options)
            progress(f"{size}: bare {bare_opening.seconds:.1f} s")
            our_seconds.append(mine.seconds)
            _add(report, size, mine, bare_opening)
    report.grows("until all are open", "s", options.sizes, our_seconds)
    return report


def _add(report: Report, size: int, ours: Opening, bare: Opening) -> None:
    of = f"{size} salons"
    rates = size / ours.seconds, size / bare.seconds
    report.add(f"{of}: opened per second", "1/s", *rates, RATE)
    report.add(f"{of}: until all are open", "s", ours.seconds, bare.seconds)
    report.add(f"{of}: until ours answers", "s", ours.answered)
    simulated = ours.simulator_cpu, bare.simulator_cpu
    report.add(f"{of}: CPU of the simulator", "% of a core", *simulated)
    for name, times in (("page", ours.page_ms), ("WebSocket", ours.socket_ms)):
        what = f"{of}: a {name} meanwhile"
        report.add_percentiles(what, times, target=PAGES, shares=(0.99,))


async def _ours(
    place: Path,
    simulator: Simulator,
    model: Model,
    devices: Sequence[Device],
    options: argparse.Namespace,
) -> Opening:
    settings = {
        "WHATSAPP_ENGINE_PROCESSES": str(options.processes),
        "WHATSAPP_START_RATE": str(options.start_rate),
    }
    with Service(place / "ours", simulator, settings) as ours:
        linked.into_tables(ours, model, devices)
        visited = await asyncio.to_thread(_stopped, ours, simulator, model)
        began, meter = time.time(), CpuMeter.start(simulator.pid)
        ours.begin()
        answered = time.time() - began
        async with _looking(ours, visited) as (page_ms, socket_ms):
            await ours.until_open(len(devices))
            simulator_cpu = meter.percent_of_a_core()
        # Each salon's first time only: some may have lost their socket again.
        ((last,),) = ours.query(
            "SELECT extract(epoch FROM max(first))::float8 FROM (SELECT min(at) AS first"
            " FROM whatsapp_statuschange WHERE status = 'open' GROUP BY salon_id) opened"
        )
    return Opening(last - began, simulator_cpu, answered, page_ms, socket_ms)


def _stopped(
    ours: Service, simulator: Simulator, model: Model
) -> list[tuple[int, int]]:
    """Make linked salons that staff has stopped; opening their pages begins nothing."""
    devices = linked.double(simulator, model, 0, VISITED, STOPPED)
    linked.into_tables(ours, model, devices, wanted=False)
    return ours.query(
        "SELECT id, salon_id FROM whatsapp_salon WHERE salon_id = ANY(%s)",
        [one.salon_id for one in devices],
    )


@contextlib.asynccontextmanager
async def _looking(
    ours: Service, visited: Sequence[tuple[int, int]]
) -> AsyncIterator[tuple[list[float], list[float]]]:
    page_ms: list[float] = []
    socket_ms: list[float] = []
    looked = asyncio.Event()

    async def look() -> None:
        for salon in itertools.cycle(visited):
            page_ms.append(await asyncio.to_thread(_page, ours.server.url))
            began = time.perf_counter()
            token = service.token(*salon)
            async with Page(ours.server.ws_url, token) as page:
                await page.event("status")
                socket_ms.append((time.perf_counter() - began) * 1000)
            looked.set()
            await asyncio.sleep(LOOK_SECONDS)

    looking = asyncio.create_task(look())
    try:
        yield page_ms, socket_ms
        # A small number may be open before anybody has looked.
        first = asyncio.create_task(looked.wait())
        await asyncio.wait({first, looking}, return_when=asyncio.FIRST_COMPLETED)
        first.cancel()
    finally:
        looking.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await looking


def _page(url: str) -> float:
    """Return the milliseconds of the marketplace's page."""
    began = time.perf_counter()
    address = urllib.parse.urlsplit(url)
    connection = http.client.HTTPConnection(address.hostname or "", address.port)
    try:
        connection.request("GET", "/marketplace/connect")
        response = connection.getresponse()
        response.read()
    finally:
        connection.close()
    if response.status != 200:
        raise RuntimeError(f"The page answers with {response.status}.")
    return (time.perf_counter() - began) * 1000


async def _bare(
    place: Path,
    simulator: Simulator,
    model: Model,
    devices: Sequence[Device],
    options: argparse.Namespace,
) -> Opening:
    folders = linked.into_folders(place / "bare", model, devices)
    began = time.perf_counter()
    async with Bare(simulator.ws_url) as bare:
        meter = CpuMeter.start(simulator.pid)
        times = await bare.resume(folders, options.in_flight)
        opening = Opening(time.perf_counter() - began, meter.percent_of_a_core())
        await bare.close()
    if len(times) != len(devices):
        raise RuntimeError(f"{len(times)} of {len(devices)} are open.")
    return opening


BENCHMARK = Benchmark(
    "cold_start",
    __doc__,
    (
        Option("sizes", (250, 500, 1000), (5, 10), "linked salons"),
        Option("pre_keys", 40, 5, "pre-keys that each has stored"),
        Option("processes", 2, 1, "Node.js processes of ours"),
        Option("start_rate", 50, 50, "WHATSAPP_START_RATE of ours"),
        Option("in_flight", 20, 20, "logins of bare Baileys at a time"),
    ),
    measure,
)

if __name__ == "__main__":
    sys.exit(BENCHMARK.run())
