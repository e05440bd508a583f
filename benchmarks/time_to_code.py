"""How long a salon waits for its pairing code, against bare Baileys.

Ours: ``request-pairing-code`` sent on the page's WebSocket → ``pairing-code`` received,
over daphne, PostgreSQL (fsync on), the gateway, the engine and WhatsApp's
acknowledgement. Bare: makeWASocket → acknowledgement, in a warm Node.js process of the
same version. Both on the same simulator in one run, in turn; one salon at a time, and
many at the same instant.

cold: nothing runs for the salon. qr: the QR session that its page has started is ended on
the way. mismatch: the creds of another phone that never confirmed are deleted on the way,
with their keys.
"""

import argparse
import asyncio
import contextlib
import itertools
import sys
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from benchmarks import measures, service
from benchmarks.bare import Bare
from benchmarks.command import Benchmark, Option, progress
from benchmarks.report import Report, Target
from benchmarks.service import Service, Stuck
from tests.scenarios import Page, SalonUnderTest
from tests.simulator import Simulator

KINDS = ("cold", "qr", "mismatch")
NAMES = {
    "cold": "cold session",
    "qr": "with a QR session running",
    "mismatch": "with a mismatch to clean up",
}
WARM_UP = 3
ALONE = Target(1.0)
IN_A_BURST = Target(0.5)

PRE_KEY = """{"private": {"type": "Buffer", "data": "cHJpdmF0ZSBwcml2YXRlIHByaXZhdGUgcHI="},
 "public": {"type": "Buffer", "data": "cHVibGljIHB1YmxpYyBwdWJsaWMgcHVibGljIHA="}}"""

_bare_numbers = itertools.count(1)


async def measure(options: argparse.Namespace, folder: Path) -> Report:
    """Measure one at a time, then the bursts."""
    report = BENCHMARK.report(options, "Time to code")
    with (
        Simulator.start() as simulator,
        Service(
            folder / "ours",
            simulator,
            {"WHATSAPP_READY_CODES": str(options.ready_codes)},
        ) as ours,
    ):
        ours.begin()
        async with Bare(simulator.ws_url) as bare:
            await _one_at_a_time(report, ours, bare, options)
            await _bursts(report, ours, bare, options)
    return report


async def _one_at_a_time(
    report: Report, ours: Service, bare: Bare, options: argparse.Namespace
) -> None:
    most = max(options.rows)
    our_times: dict[str, list[float]] = defaultdict(list)
    bare_times: list[float] = []
    by_rows: dict[int, list[float]] = {rows: [] for rows in options.rows}
    for run in range(-WARM_UP, options.runs):
        bare_ms = (await _bare_codes(bare, 1))[0]
        timed = {kind: (await _codes(ours, kind, 1, most))[0] for kind in KINDS}
        if run < 0:
            continue
        bare_times.append(bare_ms)
        for kind, took in timed.items():
            our_times[kind].append(took)
        by_rows[most].append(timed["mismatch"])
        for rows in set(options.rows) - {most}:
            by_rows[rows] += await _codes(ours, "mismatch", 1, rows)
        progress(f"one at a time: {run + 1} of {options.runs}")
    for kind in KINDS:
        report.add_percentiles(
            f"one at a time, {NAMES[kind]}", our_times[kind], bare_times, ALONE
        )
    medians = [measures.percentile(by_rows[rows], 0.5) for rows in options.rows]
    report.grows("time to code by rows to clean up, p50", "ms", options.rows, medians)


async def _bursts(
    report: Report, ours: Service, bare: Bare, options: argparse.Namespace
) -> None:
    lasts: dict[str, list[float]] = defaultdict(list)
    rows = max(options.rows)
    for size in options.bursts:
        our_times: dict[str, list[float]] = defaultdict(list)
        bare_times: list[float] = []
        for turn in range(options.repeats):
            bare_times += await _bare_codes(bare, size)
            for kind in KINDS:
                our_times[kind] += await _codes(ours, kind, size, rows)
            progress(f"burst of {size}: {turn + 1} of {options.repeats}")
        for kind in KINDS:
            lasts[kind].append(max(our_times[kind]))
            if size == max(options.bursts):
                report.add_percentiles(
                    f"{size} at once, {NAMES[kind]}",
                    our_times[kind],
                    bare_times,
                    IN_A_BURST,
                )
    for kind in KINDS:
        name = f"the last code of a burst, {NAMES[kind]}"
        report.grows(name, "ms", options.bursts, lasts[kind])


async def _bare_codes(bare: Bare, count: int) -> list[float]:
    phones = [f"7903{next(_bare_numbers):07d}" for _ in range(count)]
    answers = await asyncio.gather(*(bare.code(phone) for phone in phones))
    await bare.close()
    return [ms for _code, ms in answers]


async def _codes(ours: Service, kind: str, count: int, rows: int) -> list[float]:
    """Return the milliseconds of ``count`` codes that are asked for at once."""
    salons = [ours.salon() for _ in range(count)]
    async with contextlib.AsyncExitStack() as stack:
        pages = [await stack.enter_async_context(salon.page()) for salon in salons]
        # An opened page begins a QR by itself.
        await asyncio.gather(*(page.event("qr-update") for page in pages))
        if kind != "qr":
            await asyncio.gather(*map(_stop, pages))
            await ours.until_idle(salons)
        if kind == "mismatch":
            await asyncio.to_thread(_leave_half_paired, ours, salons, rows)
        if count > 1:
            # They ask after a quiet while; codes are made in such.
            await ours.until_ready(count)
        asking = zip(pages, salons, strict=True)
        answers = await asyncio.gather(*(service.code(*one) for one in asking))
        if any([await asyncio.to_thread(salon.key_count) for salon in salons]):
            raise Stuck("Keys of the other phone are left.")
        await asyncio.gather(*map(service.reset, pages))
    return [ms for _code, ms in answers]


async def _stop(page: Page) -> None:
    mark = page.mark
    await page.send("disconnect-whatsapp")
    await page.status("stopped", "unlinked", since=mark)


def _leave_half_paired(
    ours: Service, salons: Sequence[SalonUnderTest], rows: int
) -> None:
    for salon in salons:
        salon.store_half_paired(salon.other_number)
        ours.query(
            "INSERT INTO whatsapp_keys (company_id, key_type, key_id, value)"
            " SELECT %s, 'pre-key', (1000 + n)::text, %s::jsonb"
            " FROM generate_series(1, %s) n",
            salon.session_id,
            PRE_KEY,
            rows,
        )


BENCHMARK = Benchmark(
    "time_to_code",
    __doc__,
    (
        Option("runs", 100, 3, "codes of each kind, one at a time"),
        Option("rows", (500, 1000, 2000), (50, 100), "rows to clean up"),
        Option("bursts", (50, 100, 200), (3, 6), "codes at the same instant"),
        Option("repeats", 3, 1, "bursts of each size"),
        Option("ready_codes", 256, 4, "WHATSAPP_READY_CODES of ours"),
    ),
    measure,
)

if __name__ == "__main__":
    sys.exit(BENCHMARK.run())
