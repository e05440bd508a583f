"""How long the salon waits from typing its code to "connected", against bare Baileys.

Ours: the code is typed on the phone → ``whatsapp-connected`` on the page: the new device's
creds and keys are in PostgreSQL (fsync on), WhatsApp has closed with 515, the session has
logged in and is open. Bare: the same until Baileys says that it is open, with its
multi-file store. One at a time, in turn, then several at the same instant.
"""

import argparse
import asyncio
import contextlib
import itertools
import sys
import time
from pathlib import Path

from benchmarks import service
from benchmarks.bare import Bare
from benchmarks.command import Benchmark, Option, progress
from benchmarks.report import Report, Target
from benchmarks.service import Service
from tests.scenarios import Page
from tests.simulator import Phone, Simulator

WARM_UP = 2
NEEDED = Target(1.0)

_bare_numbers = itertools.count(1)


async def measure(options: argparse.Namespace, folder: Path) -> Report:
    """Measure one at a time, then several at once."""
    report = BENCHMARK.report(options, "Time to link")
    files = folder / "bare"
    with Simulator.start() as simulator, Service(folder / "ours", simulator) as ours:
        ours.begin()
        async with Bare(simulator.ws_url) as bare:
            our_times: list[float] = []
            bare_times: list[float] = []
            for run in range(-WARM_UP, options.runs):
                bare_ms = await _bare_links(bare, simulator, files, 1)
                our_ms = await _links(ours, 1)
                if run >= 0:
                    bare_times += bare_ms
                    our_times += our_ms
                    progress(f"one at a time: {run + 1} of {options.runs}")
            report.add_percentiles("one at a time", our_times, bare_times, NEEDED)
            lasts = []
            for size in options.bursts:
                bare_times = await _bare_links(bare, simulator, files, size)
                our_times = await _links(ours, size)
                lasts.append(max(our_times))
                report.add_percentiles(f"{size} at once", our_times, bare_times, NEEDED)
                progress(f"burst of {size}")
            report.grows("the last link of a burst", "ms", options.bursts, lasts)
    return report


async def _links(ours: Service, count: int) -> list[float]:
    """Return the milliseconds of ``count`` links whose codes are typed at once."""
    salons = [ours.salon(stopped=True) for _ in range(count)]
    async with contextlib.AsyncExitStack() as stack:
        pages = [await stack.enter_async_context(salon.page()) for salon in salons]
        asking = zip(pages, salons, strict=True)
        codes = await asyncio.gather(*(service.code(*one) for one in asking))
        typing = [
            _type(page, salon.phone, code)
            for page, salon, (code, _ms) in zip(pages, salons, codes, strict=True)
        ]
        times = await asyncio.gather(*typing)
        await asyncio.gather(*map(service.reset, pages))
    return times


async def _type(page: Page, phone: Phone, code: str) -> float:
    mark = page.mark
    began = time.perf_counter()
    entering = asyncio.create_task(asyncio.to_thread(phone.enter_code, code))
    await page.event("whatsapp-connected", since=mark)
    took = (time.perf_counter() - began) * 1000
    await entering
    return took


async def _bare_links(
    bare: Bare, simulator: Simulator, files: Path, count: int
) -> list[float]:
    numbers = [f"7903{next(_bare_numbers):07d}" for _ in range(count)]
    codes = await asyncio.gather(
        *(bare.code(number, files / number) for number in numbers)
    )
    typing = [
        _type_bare(bare, simulator.phone(number), code)
        for number, (code, _ms) in zip(numbers, codes, strict=True)
    ]
    times = await asyncio.gather(*typing)
    await bare.close()
    return times


async def _type_bare(bare: Bare, phone: Phone, code: str) -> float:
    began = time.perf_counter()
    entering = asyncio.create_task(asyncio.to_thread(phone.enter_code, code))
    await bare.opened(phone.number)
    took = (time.perf_counter() - began) * 1000
    await entering
    return took


BENCHMARK = Benchmark(
    "time_to_link",
    __doc__,
    (
        Option("runs", 50, 3, "links one at a time"),
        Option("bursts", (5, 10, 20), (2, 4), "links at the same instant"),
    ),
    measure,
)

if __name__ == "__main__":
    sys.exit(BENCHMARK.run())
