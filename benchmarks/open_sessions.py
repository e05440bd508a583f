"""What open sessions take: memory, and CPU while nothing happens and while clients write.

Ours is the whole service, `manage.py serve` with its Node.js, without PostgreSQL, which is
shown beside it. The reference is bare Baileys alone, on the same Node.js, with its
multi-file store. Both keep their connections alive with a ping every 30 s. Memory is PSS:
what processes share is counted once.
"""

import argparse
import asyncio
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks import linked, processes
from benchmarks.bare import Bare
from benchmarks.command import Benchmark, Option, progress
from benchmarks.linked import Device, Model
from benchmarks.processes import CpuMeter
from benchmarks.report import Report, Target
from benchmarks.service import Service
from tests.simulator import Simulator

BASE_MB = 150
"""Allowed to ours for being a service at all."""
BEYOND_BASE = Target(1.15)
LIMITS_AT = 1000
MEMORY = Target(1200, of="ours")
IDLE_CPU = Target(5, of="ours")
LEAST_CPU = 0.01
"""Less than the kernel counts in a minute; a logarithm needs something."""
OURS, BARE = "7904", "7905"


@dataclass
class Taken:
    """What one side took."""

    mb: float
    idle_cpu: float
    busy_mb: float
    busy_cpu: float
    read_ms: Sequence[float]
    lost: int
    simulator_cpu: float
    database_mb: float = 0.0
    database_cpu: float = 0.0


async def measure(options: argparse.Namespace, folder: Path) -> Report:
    """Hold sessions on both sides, at each size in turn."""
    report = BENCHMARK.report(options, "Open sessions")
    taken: list[tuple[int, Taken, Taken]] = []
    first = 0
    with Simulator.start() as simulator:
        async with Bare(simulator.ws_url) as bare:
            model = await Model.link(
                simulator, bare, folder / "model", options.pre_keys
            )
        for size in options.sizes:
            place = folder / str(size)
            place.mkdir()
            sides = [
                await asyncio.to_thread(
                    linked.double, simulator, model, first, size, prefix
                )
                for prefix in (OURS, BARE)
            ]
            first += size
            ours = await _ours(place, simulator, model, sides[0], options)
            progress(f"{size}: ours {ours.mb:.0f} MB")
            bare_took = await _bare(place, simulator, model, sides[1], options)
            progress(f"{size}: bare {bare_took.mb:.0f} MB")
            _add(report, size, ours, bare_took)
            taken.append((size, ours, bare_took))
    _compare(report, taken)
    return report


def _compare(report: Report, taken: Sequence[tuple[int, Taken, Taken]]) -> None:
    """Add what the sizes say together."""
    (small, ours_then, bare_then), (large, ours, bare) = taken[0], taken[-1]
    if large > small:
        more = 1024 / (large - small)
        report.add(
            f"each session more, from {small} to {large}",
            "KB",
            more * (ours.mb - ours_then.mb),
            more * (bare.mb - bare_then.mb),
        )
    sizes = [size for size, _ours, _bare in taken]
    report.grows("memory", "MB", sizes, [one.mb for _size, one, _bare in taken])
    cpu = [max(one.busy_cpu, LEAST_CPU) for _size, one, _bare in taken]
    report.grows("CPU with messages", "% of a core", sizes, cpu)
    lost = sum(one.lost for _size, one, _bare in taken)
    report.checks["every message to ours was read"] = lost == 0


def _add(report: Report, size: int, ours: Taken, bare: Taken) -> None:
    beyond = ours.mb - BASE_MB, bare.mb
    limits = (MEMORY, IDLE_CPU) if size == LIMITS_AT else (None, None)
    report.add(f"{size}: memory", "MB", ours.mb, bare.mb, limits[0])
    report.add(f"{size}: memory beyond {BASE_MB} MB", "MB", *beyond, BEYOND_BASE)
    report.add(
        f"{size}: idle CPU", "% of a core", ours.idle_cpu, bare.idle_cpu, limits[1]
    )
    report.add(f"{size}: memory after messages", "MB", ours.busy_mb, bare.busy_mb, None)
    report.add(
        f"{size}: CPU with messages", "% of a core", ours.busy_cpu, bare.busy_cpu
    )
    report.add_percentiles(
        f"{size}: message to receipt", ours.read_ms, bare.read_ms, shares=(0.5, 0.99)
    )
    simulated = ours.simulator_cpu, bare.simulator_cpu
    report.add(f"{size}: CPU of the simulator with messages", "% of a core", *simulated)
    report.add(f"{size}: memory of PostgreSQL", "MB", ours.database_mb)
    report.add(
        f"{size}: CPU of PostgreSQL with messages", "% of a core", ours.database_cpu
    )


async def _ours(
    place: Path,
    simulator: Simulator,
    model: Model,
    devices: Sequence[Device],
    options: argparse.Namespace,
) -> Taken:
    settings = {
        "WHATSAPP_ENGINE_PROCESSES": str(options.processes),
        # What 5,000 sessions take in one Node.js must not end it.
        "WHATSAPP_ENGINE_MEMORY_MB": str(options.memory_mb),
    }
    with Service(place / "ours", simulator, settings) as ours:
        linked.into_tables(ours, model, devices)
        ours.begin()
        await ours.until_open(len(devices))
        before = processes.cpu_seconds(ours.database_processes())
        taken = await _taken(
            ours.server.pid, lambda: ours.processes, simulator, devices, options
        )
        database = ours.database_processes()
        taken.database_mb = processes.memory(database)
        spent = processes.cpu_seconds(database) - before
        taken.database_cpu = 100 * spent / (options.settle + 2 * options.window)
    return taken


async def _bare(
    place: Path,
    simulator: Simulator,
    model: Model,
    devices: Sequence[Device],
    options: argparse.Namespace,
) -> Taken:
    folders = linked.into_folders(place / "bare", model, devices)
    async with Bare(simulator.ws_url) as bare:
        await bare.resume(folders, options.in_flight)
        taken = await _taken(
            bare.pid, lambda: processes.tree(bare.pid), simulator, devices, options
        )
        await bare.close()
    return taken


async def _taken(
    pid: int,
    alive: Callable[[], list[int]],
    simulator: Simulator,
    devices: Sequence[Device],
    options: argparse.Namespace,
) -> Taken:
    await asyncio.sleep(options.settle)
    meter = CpuMeter.start(pid)
    await asyncio.sleep(options.window)
    idle = meter.percent_of_a_core()
    resting = processes.memory(alive())
    jids = [one.jid for one in devices]
    # Everybody's first message uses up a pre-key; that is no part of the minute.
    if options.settle:
        await asyncio.to_thread(simulator.traffic, jids, options.settle)
    meter, of_simulator = CpuMeter.start(pid), CpuMeter.start(simulator.pid)
    said = await asyncio.to_thread(simulator.traffic, jids, options.window)
    busy = meter.percent_of_a_core()
    return Taken(
        mb=resting,
        idle_cpu=idle,
        busy_mb=processes.memory(alive()),
        busy_cpu=busy,
        read_ms=said["ms"],
        lost=len(jids) - said["read"],
        simulator_cpu=of_simulator.percent_of_a_core(),
    )


BENCHMARK = Benchmark(
    "open_sessions",
    __doc__,
    (
        Option("sizes", (100, 1000, 5000), (3, 6), "open sessions"),
        Option("settle", 30, 0, "seconds until the measuring begins"),
        Option(
            "window", 60, 2, "seconds of each measuring; each gets one message in it"
        ),
        Option("pre_keys", 40, 5, "pre-keys that each has stored"),
        Option("processes", 1, 1, "Node.js processes of ours"),
        Option("memory_mb", 8192, 3072, "WHATSAPP_ENGINE_MEMORY_MB of ours"),
        Option("in_flight", 20, 20, "logins of bare Baileys at a time"),
    ),
    measure,
)

if __name__ == "__main__":
    sys.exit(BENCHMARK.run())
