"""Thousands of pages on one daphne: what they take, and how fast they hear.

Pages are opened as browsers do it, so many at a time, and then stay open. Other processes
change salons' states at a steady rate, each change in a transaction, told through Redis as
the services tell it; counted is the time until each page of the salon has received it. The
changed states alternate and the phone in each message is the salon's own, so that nothing
can be taken for something else.
"""

import argparse
import asyncio
import contextlib
import json
import os
import sys
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosedError

from benchmarks import processes, service
from benchmarks.command import Benchmark, Option, progress
from benchmarks.report import Report
from benchmarks.service import Service
from tests.redis_server import MISSING, PROGRAM, RedisServer
from tests.server import ROOT

FIRST_SALON = 700_000
FIRST_PHONE = 79040000000
MOST_SALONS = 10_000
"""A masked phone shows four digits; they must tell all salons apart."""
OPEN_SECONDS = 120.0
HEAR_SECONDS = 20.0


@dataclass
class Salon:
    """A salon, and the phone that its pages are shown."""

    pk: int
    salon_id: int
    phone: str
    status: str = "stopped"
    told: list[tuple[str, float]] = field(default_factory=list)
    """Each change, and when it was made."""


class Unheard(Exception):
    """A page did not hear what it should."""


class IdlePage:
    """A page that only listens."""

    def __init__(self, salon: Salon) -> None:
        self.salon = salon
        self.heard: list[tuple[str, float]] = []
        self.foreign = 0
        self._news = asyncio.Event()
        self._socket: ClientConnection
        self._reading: asyncio.Task[None]

    async def open(self, url: str) -> float:
        """Open it; return the milliseconds until it knows the salon's state."""
        token = service.token(self.salon.pk, self.salon.salon_id)
        began = time.perf_counter()
        self._socket = await connect(
            f"{url.rstrip('/')}/ws/marketplace/",
            subprotocols=["aiadmin.v1", f"bearer.{token}"],  # type: ignore[list-item]
            open_timeout=OPEN_SECONDS,
            ping_interval=None,
            compression=None,
        )
        self._reading = asyncio.create_task(self._read())
        await self.until(self.salon.status)
        return (time.perf_counter() - began) * 1000

    async def _read(self) -> None:
        with contextlib.suppress(ConnectionClosedError):
            async for text in self._socket:
                at = time.monotonic()
                message = json.loads(text)
                if message["event"] != "status":
                    continue
                shown = message["data"]["phone"]
                self.foreign += not shown or shown[-4:] != self.salon.phone[-4:]
                self.heard.append((message["data"]["status"], at))
                self._news.set()
        self._news.set()

    async def until(self, status: str) -> None:
        """Wait until the page shows this status.

        Raises:
            Unheard: it does not, or the server has closed it.
        """
        try:
            async with asyncio.timeout(HEAR_SECONDS):
                while not self.heard or self.heard[-1][0] != status:
                    self._news.clear()
                    if self._reading.done():
                        code = self._socket.close_code
                        raise Unheard(f"A page was closed with {code}.")
                    await self._news.wait()
        except TimeoutError:
            last = self.heard[-1][0] if self.heard else "nothing"
            raise Unheard(f"A page of {status} was told {last} last.") from None

    async def close(self) -> None:
        """Close it."""
        await self._socket.close()
        await self._reading

    def delays(self, since: int) -> list[float]:
        """Return milliseconds from each change to its arrival, as far as it arrived.

        Args:
            since: how many messages had come before the changes.
        """
        times, waiting = [], iter(self.salon.told)
        for status, at in self.heard[since:]:
            # A page that is told two changes in one shows the later.
            made = next((made for other, made in waiting if other == status), None)
            if made is not None:
                times.append((at - made) * 1000)
        return times


async def measure(options: argparse.Namespace, folder: Path) -> Report:
    """Open more and more pages; tell them something at each size."""
    if not PROGRAM:
        sys.exit(MISSING)
    report = BENCHMARK.report(options, "Pages")
    pages: list[IdlePage] = []
    with RedisServer() as redis:
        settings = {"REDIS_URL": redis.url}
        with Service(folder / "ours", None, settings) as ours:
            ours.begin()
            count = -(-max(options.sizes) // options.pages_per_salon)
            salons = await asyncio.to_thread(_make_salons, ours, count)
            try:
                await _grow(report, ours, salons, pages, options)
            finally:
                await asyncio.gather(*(page.close() for page in pages))
    return report


async def _grow(
    report: Report,
    ours: Service,
    salons: Sequence[Salon],
    pages: list[IdlePage],
    options: argparse.Namespace,
) -> None:
    pid = ours.server.pid
    # What the first page brings into memory is not what a page takes.
    pages.append(IdlePage(salons[0]))
    await pages[0].open(ours.server.ws_url)
    base_mb = processes.memory(processes.tree(pid))
    megabytes, cpu_seconds, spent, lost = [], [], 0.0, 0
    for size in options.sizes:
        # The first salons of all have all their pages already.
        new = [
            IdlePage(salons[at // options.pages_per_salon])
            for at in range(len(pages), size)
        ]
        began, cpu_before = time.perf_counter(), _cpu(pid)
        times = await _open_all(new, ours.server.ws_url, options.in_flight)
        rate = len(new) / (time.perf_counter() - began)
        spent += _cpu(pid) - cpu_before
        cpu_seconds.append(spent)
        pages += new
        used = processes.memory(processes.tree(pid)) - base_mb
        megabytes.append(used)
        report.add(f"{size} pages: opened per second", "1/s", rate)
        report.add_percentiles(f"{size} pages: to open one", times, shares=(0.5, 0.99))
        report.add(f"{size} pages: memory of each", "KB", used * 1024 / len(pages))
        progress(f"{size} pages are open")
        shown = salons[: -(-size // options.pages_per_salon)]
        meter = processes.CpuMeter.start(pid)
        delays, missed, made = await _tell(ours, shown, pages, options)
        cpu = meter.percent_of_a_core()
        report.add(f"{size} pages: changes told per second", "1/s", made)
        report.add_percentiles(
            f"{size} pages: change to page", delays, shares=(0.5, 0.99)
        )
        report.add(f"{size} pages: CPU meanwhile", "% of a core", cpu)
        lost += missed
    foreign = sum(page.foreign for page in pages)
    report.grows("memory of the pages", "MB", options.sizes, _positive(megabytes))
    report.grows("CPU to open them", "s", options.sizes, _positive(cpu_seconds))
    report.checks["nothing was told to a page of another salon"] = foreign == 0
    report.checks["every page knows the last state of its salon"] = lost == 0


def _cpu(pid: int) -> float:
    return processes.cpu_seconds(processes.tree(pid))


def _positive(values: Sequence[float]) -> list[float]:
    """Few pages may take less than can be seen; a logarithm needs something."""
    return [max(value, 0.01) for value in values]


async def _open_all(pages: Sequence[IdlePage], url: str, in_flight: int) -> list[float]:
    waiting = list(pages)
    times: list[float] = []

    async def work() -> None:
        while waiting:
            times.append(await waiting.pop().open(url))

    async with asyncio.TaskGroup() as group:
        for _ in range(in_flight):
            group.create_task(work())
    return times


async def _tell(
    ours: Service,
    salons: Sequence[Salon],
    pages: Sequence[IdlePage],
    options: argparse.Namespace,
) -> tuple[list[float], int, float]:
    """Have states changed.

    Returns the milliseconds from change to page, how many pages do not know the last
    state, and how many changes there were in a second.
    """
    before = [len(page.heard) for page in pages]
    for salon in salons:
        salon.told.clear()
    parts = [salons[at :: options.publishers] for at in range(options.publishers)]
    began = time.monotonic()
    await asyncio.gather(*(_publish(ours, part, options) for part in parts if part))
    times = [at for salon in salons for _status, at in salon.told]
    rate = len(times) / (max(times) - min(times)) if len(times) > 1 else 0.0
    progress(f"{len(times)} changes in {time.monotonic() - began:.0f} s")
    knowing = await asyncio.gather(
        *(page.until(page.salon.status) for page in pages), return_exceptions=True
    )
    missed = sum(one is not None for one in knowing)
    delays = [
        delay
        for page, since in zip(pages, before, strict=True)
        for delay in page.delays(since)
    ]
    return delays, missed, rate


async def _publish(
    ours: Service, salons: Sequence[Salon], options: argparse.Namespace
) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "benchmarks.publisher",
        cwd=ROOT,
        env={**os.environ, **ours.env, "DJANGO_SETTINGS_MODULE": "aiadmin.settings"},
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    order = {
        "salons": {one.pk: one.status for one in salons},
        "rate": options.rate / options.publishers,
        "seconds": options.seconds,
    }
    output, _errors = await process.communicate(f"{json.dumps(order)}\n".encode())
    if process.returncode:
        raise RuntimeError(f"A publisher ended with {process.returncode}.")
    told: dict[int, list[tuple[str, float]]] = defaultdict(list)
    for line in output.decode().splitlines():
        pk, status, at = line.split()
        told[int(pk)].append((status, float(at)))
    for salon in salons:
        salon.told += told[salon.pk]
        if salon.told:
            salon.status = salon.told[-1][0]


def _make_salons(ours: Service, count: int) -> list[Salon]:
    if count > MOST_SALONS:
        raise ValueError(f"{MOST_SALONS} salons at most can be told apart.")
    with ours.database() as connection:
        rows = connection.execute(
            "WITH salon AS (INSERT INTO whatsapp_salon"
            " (salon_id, title, expected_phone, shared_phone_allowed)"
            " SELECT %(first)s::integer + n, 'Salon ' || n, '', false"
            " FROM generate_series(0, %(count)s::integer - 1) n RETURNING id, salon_id),"
            # Opening the page of a salon without a link would begin one.
            " auth AS (INSERT INTO whatsapp_auth (company_id, creds)"
            " SELECT 'company_' || salon_id, jsonb_build_object('account', '{}'::jsonb,"
            " 'me', jsonb_build_object('id',"
            " (%(phone)s::bigint + salon_id) || ':7@s.whatsapp.net')) FROM salon)"
            " INSERT INTO whatsapp_whatsappsession (salon_id, status, reason, phone,"
            " wanted, owner, epoch, resets, revision)"
            " SELECT id, 'stopped', '', (%(phone)s::bigint + salon_id)::text, false, '',"
            " 0, 0, 0 FROM salon"
            " RETURNING salon_id, phone",
            {"first": FIRST_SALON, "count": count, "phone": FIRST_PHONE - FIRST_SALON},
        ).fetchall()
    return [
        Salon(pk, FIRST_SALON + int(phone) - FIRST_PHONE, phone) for pk, phone in rows
    ]


BENCHMARK = Benchmark(
    "pages",
    __doc__,
    (
        Option("sizes", (500, 1500, 5000), (10, 20), "open pages"),
        Option("pages_per_salon", 2, 2, "pages of the same salon"),
        Option("in_flight", 50, 5, "pages that are opened at a time"),
        Option("rate", 500, 20, "changes of states per second"),
        Option("seconds", 20, 2, "of changes at each size"),
        Option("publishers", 2, 1, "processes that make the changes"),
    ),
    measure,
)

if __name__ == "__main__":
    sys.exit(BENCHMARK.run())
