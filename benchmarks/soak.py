"""Half an hour of links, messages, drops and resets: does anything creep?

Salons that are linked are written to all the time, some lose their connection every few
seconds, and new ones are linked by code and reset again. Memory, open files, rows and the
time that things take are looked at throughout; the last third is compared with the first.
"""

import argparse
import asyncio
import contextlib
import random
import sys
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks import linked, measures, processes, service
from benchmarks.bare import Bare
from benchmarks.command import Benchmark, Option, progress
from benchmarks.linked import Device, Model
from benchmarks.report import Report, Target
from benchmarks.service import Service
from tests.simulator import Simulator

PREFIX = "7907"
FLAT = Target(1.1)
STEADY = Target(1.5)
"""What takes milliseconds varies more than what takes megabytes."""
DROPPED_AT_ONCE = 0.02

WHATS = {
    "python_mb": ("memory of Python", "MB", FLAT),
    "node_mb": ("memory of Node.js", "MB", FLAT),
    "database_mb": ("memory of PostgreSQL", "MB", None),
    "handles": ("open files and sockets", "", FLAT),
    "keys": ("rows of keys", "", FLAT),
    "creds": ("rows of creds", "", FLAT),
    "message_ms": ("a message to its receipt, p50", "ms", STEADY),
    "code_ms": ("a code", "ms", STEADY),
    "link_ms": ("a link", "ms", STEADY),
}


@dataclass
class Soak:
    """What goes on, and what was seen of it."""

    ours: Service
    simulator: Simulator
    devices: Sequence[Device]
    options: argparse.Namespace
    series: dict[str, list[tuple[float, float]]] = field(
        default_factory=lambda: defaultdict(list)
    )
    began: float = field(default_factory=time.monotonic)
    sent: int = 0
    unread: int = 0
    links: int = 0
    drops: int = 0

    def note(self, name: str, value: float) -> None:
        """Keep a value, with its time."""
        self.series[name].append((time.monotonic() - self.began, value))

    @property
    def has_seen_all(self) -> bool:
        """Whether there is something to say about everything."""
        return set(WHATS) <= set(self.series)

    async def messages(self) -> None:
        """Write to every salon, again and again; one that is just off is left out."""
        jids = [one.jid for one in self.devices]
        while True:
            said = await asyncio.to_thread(
                self.simulator.traffic, jids, self.options.message_every
            )
            self.sent += said["sent"]
            self.unread += said["sent"] - said["read"]
            if said["ms"]:
                self.note("message_ms", measures.percentile(said["ms"], 0.5))

    async def drop(self) -> None:
        """Cut a few connections every few seconds."""
        chance = random.Random(1)  # noqa: S311  (the same ones in every run)
        count = max(1, int(len(self.devices) * DROPPED_AT_ONCE))
        while True:
            await asyncio.sleep(self.options.drop_every)
            for one in chance.sample(list(self.devices), count):
                self.drops += await asyncio.to_thread(self.simulator.drop, jid=one.jid)

    async def link(self) -> None:
        """Link salons by code and reset them, one after the other."""
        while True:
            salon = await asyncio.to_thread(self.ours.salon)
            async with salon.page() as page:
                code, took = await service.code(page, salon)
                self.note("code_ms", took)
                mark, began = page.mark, time.perf_counter()
                await asyncio.to_thread(salon.phone.enter_code, code)
                await page.event("whatsapp-connected", since=mark)
                self.note("link_ms", (time.perf_counter() - began) * 1000)
                await service.reset(page)
            self.links += 1
            await asyncio.sleep(self.options.link_every)

    async def look(self) -> None:
        """Look at what it takes."""
        while True:
            await asyncio.to_thread(self._look)
            await asyncio.sleep(self.options.look_every)

    def _look(self) -> None:
        nodes = set(self.ours.nodes)
        everything = self.ours.processes
        python = [pid for pid in everything if pid not in nodes]
        self.note("python_mb", processes.memory(python))
        self.note("node_mb", processes.memory(nodes))
        self.note("database_mb", processes.memory(self.ours.database_processes()))
        self.note("handles", processes.handles(everything))
        ((keys, creds),) = self.ours.query(
            "SELECT (SELECT count(*) FROM whatsapp_keys),"
            " (SELECT count(*) FROM whatsapp_auth)"
        )
        self.note("keys", keys)
        self.note("creds", creds)


async def measure(options: argparse.Namespace, folder: Path) -> Report:
    """Let it all happen for so many minutes, then see whether all are well."""
    report = BENCHMARK.report(options, "Soak", columns=("last third", "first third"))
    settings = {"WHATSAPP_ENGINE_PROCESSES": str(options.processes)}
    with (
        Simulator.start() as simulator,
        Service(folder / "ours", simulator, settings) as ours,
    ):
        async with Bare(simulator.ws_url) as bare:
            model = await Model.link(
                simulator, bare, folder / "model", options.pre_keys
            )
        devices = await asyncio.to_thread(
            linked.double, simulator, model, 0, options.salons, PREFIX
        )
        linked.into_tables(ours, model, devices)
        ours.begin()
        await ours.until_open(len(devices))
        soak = Soak(ours, simulator, devices, options)
        await _go_on(soak, options.minutes * 60)
        # Who was dropped last is on its way back.
        await ours.until_open(len(devices))
    _judge(report, soak)
    return report


async def _go_on(soak: Soak, seconds: float) -> None:
    """Do all of it for so long, and each thing once at least.

    Raises:
        Exception: what ended one of them.
    """
    duties = (soak.messages, soak.drop, soak.link, soak.look)
    tasks = [asyncio.ensure_future(duty()) for duty in duties]
    until = time.monotonic() + seconds
    try:
        while (left := until - time.monotonic()) > 0 or not soak.has_seen_all:
            done, _running = await asyncio.wait(tasks, timeout=min(max(left, 1), 60))
            for task in done:
                task.result()
            progress(f"{max(0, until - time.monotonic()):.0f} s to go")
    finally:
        for task in tasks:
            task.cancel()
        for task in tasks:
            with contextlib.suppress(asyncio.CancelledError):
                await task


def _judge(report: Report, soak: Soak) -> None:
    for name, (what, unit, target) in WHATS.items():
        first, last = _thirds([value for _at, value in soak.series[name]])
        report.add(what, unit, last, first, target)
    report.series = {
        WHATS[name][0]: points for name, points in sorted(soak.series.items())
    }
    report.notes.append(
        f"{soak.links} links and resets, {soak.sent} messages, {soak.drops} drops"
    )
    # A dropped connection takes what was on its way with it; WhatsApp repeats it.
    report.checks["no more messages unread than connections dropped"] = (
        soak.unread <= soak.drops
    )


def _thirds(values: Sequence[float]) -> tuple[float, float]:
    """Return the medians of the first and of the last third."""
    third = max(1, len(values) // 3)
    return (
        measures.percentile(values[:third], 0.5),
        measures.percentile(values[-third:], 0.5),
    )


BENCHMARK = Benchmark(
    "soak",
    __doc__,
    (
        Option("minutes", 30.0, 0.2, "how long"),
        Option("salons", 200, 5, "linked salons"),
        Option("message_every", 30, 2, "seconds in which each salon gets a message"),
        Option("drop_every", 10, 2, "seconds from drop to drop"),
        Option("link_every", 5, 1, "seconds from a reset to the next link"),
        Option("look_every", 10, 1, "seconds from look to look"),
        Option("pre_keys", 40, 20, "pre-keys that each has stored"),
        Option("processes", 1, 1, "Node.js processes"),
    ),
    measure,
)

if __name__ == "__main__":
    sys.exit(BENCHMARK.run())
