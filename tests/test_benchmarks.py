"""The benchmarks measure what they say. No test looks at a time."""

import asyncio
import json
import math
import os
import subprocess
import sys
import time
import xml.etree.ElementTree as ET
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks import charts, growth, measures, processes
from benchmarks.__main__ import BENCHMARKS
from benchmarks.pages import IdlePage, Salon
from benchmarks.report import Report, Target
from tests.redis_server import MISSING, PROGRAM
from tests.server import ROOT

SMALLEST = {
    "time_to_code": (
        ["--runs=1", "--rows=20,40", "--bursts=1,2", "--repeats=1"],
        12,
    ),
    "time_to_link": (["--runs=1", "--bursts=1,2"], 6),
    "open_sessions": (["--sizes=2", "--window=1"], 10),
    "cold_start": (["--sizes=2"], 6),
    "key_store": (["--salons=1,2", "--messages=1"], 10),
    "pages": (["--sizes=2,4", "--seconds=1"], 16),
    "soak": (["--minutes=0.05", "--salons=3"], 9),
}
"""The options of each, and how many rows its table then has."""

AGAINST_BARE = {"time_to_code", "time_to_link", "key_store", "soak"}
"""Every row of theirs has a reference."""

SEVERAL_SIZES = {"time_to_code", "time_to_link", "key_store", "pages"}
"""The others start everything anew for each size."""


@pytest.mark.e2e
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", SMALLEST)
def test_a_benchmark_fills_its_table_and_nothing_goes_astray(name: str, tmp_path: Path):
    if name == "pages" and not PROGRAM:
        pytest.skip(MISSING)
    options, rows = SMALLEST[name]
    path = tmp_path / "report.json"
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            f"benchmarks.{name}",
            "--quick",
            *options,
            f"--json={path}",
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    report = Report.read(path)
    assert len({row.what for row in report.rows}) == rows
    assert all(math.isfinite(row.ours) for row in report.rows)
    if name in AGAINST_BARE:
        assert all(row.reference is not None for row in report.rows)
    assert bool(report.growth) is (name in SEVERAL_SIZES)
    assert all(report.checks.values())
    for row in report.rows:
        assert row.what in done.stdout
    saved = json.loads(path.read_text())
    assert saved["versions"]["baileys"]
    assert saved["versions"]["node"]
    assert saved["machine"]["cores"]


def test_every_benchmark_is_tried_here():
    assert {one.name for one in BENCHMARKS} == set(SMALLEST)


# --- figures --------------------------------------------------------------------------


def test_percentiles_lie_between_the_values():
    assert measures.percentile([3, 1, 2], 0.5) == 2
    assert measures.percentile([1, 2], 0.5) == 1.5
    assert measures.percentile([10, 20, 30, 40, 50], 0.95) == pytest.approx(48)
    assert measures.percentile([7], 0.99) == 7
    with pytest.raises(ValueError, match="No values"):
        measures.percentile([], 0.5)


@pytest.mark.parametrize("power", [0, 1, 2])
def test_the_exponent_of_growth_is_found(power: int):
    sizes = [100, 1000, 5000]
    assert measures.exponent(sizes, [3 * size**power for size in sizes]) == (
        pytest.approx(power)
    )


def test_growth_needs_sizes_and_costs():
    with pytest.raises(ValueError, match="two different sizes"):
        measures.exponent([5, 5], [1, 2])
    with pytest.raises(ValueError, match="positive"):
        measures.exponent([1, 2], [0, 1])


def a_report() -> Report:
    report = Report("pages", "Pages", {"sizes": [1, 2]})
    report.add("fast enough", "ms", 10, 20, Target(0.5))
    report.add("too slow", "ms", 21, 20, Target(1.0))
    report.add("rate", "1/s", 90, 100, Target(0.7, least=True))
    report.add("alone", "MB", 1300, target=Target(1200, of="ours"))
    report.add("no target & no reference", "MB", 5)
    report.grows("quadratic", "s", [10, 20], [1, 4])
    report.checks["nothing was lost"] = True
    report.series["memory <MB>"] = [(0.0, 5.0), (60.0, 6.0)]
    return report


def test_targets_are_judged_by_what_they_are_of():
    assert [row.met for row in a_report().rows] == [True, False, True, False, None]
    assert [row.ratio for row in a_report().rows] == [0.5, 1.05, 0.9, None, None]
    assert not a_report().growth[0].met


def test_the_table_tells_everything():
    lines = a_report().table().splitlines()
    (slow,) = [line for line in lines if line.startswith("too slow")]
    assert slow.split()[2:] == [
        "ms",
        "21.0",
        "20.0",
        "1.05",
        "ratio",
        "<=",
        "1",
        "MISSED",
    ]
    (grown,) = [line for line in lines if line.startswith("quadratic")]
    assert "2.00" in grown
    assert "MISSED" in grown
    assert "holds  nothing was lost" in lines


def test_a_broken_check_is_no_missed_target():
    report = a_report()
    assert report.is_sound
    report.checks["all arrived"] = False
    assert not report.is_sound
    assert "BROKEN all arrived" in report.table()


def test_a_report_comes_back_as_it_was_written(tmp_path: Path):
    report = a_report()
    report.write(tmp_path / "new" / "pages.json")
    assert Report.read(tmp_path / "new" / "pages.json") == report


def test_growth_is_collected_from_what_was_written(tmp_path: Path):
    for one in growth.GROWING:
        report = a_report()
        report.name, report.title = one.name, one.name.title()
        report.write(tmp_path / f"{one.name}.json")
    collected = growth.collect(tmp_path)
    assert len(collected.growth) == len(growth.GROWING)
    assert collected.growth[0].what == "Time_To_Code: quadratic"


# --- processes ------------------------------------------------------------------------


def test_memory_handles_and_cpu_are_those_of_the_process(tmp_path: Path):
    own = [os.getpid()]
    before = processes.memory(own), processes.handles(own)
    ballast = bytearray(os.urandom(1 << 20)) * 64
    with (tmp_path / "open").open("w"):
        assert processes.handles(own) == before[1] + 1
    assert processes.memory(own) > before[0] + 60
    del ballast
    spent = processes.cpu_seconds(own)
    began = time.process_time()
    while time.process_time() - began < 0.2:
        pass
    assert processes.cpu_seconds(own) - spent >= 0.15


def test_a_process_that_is_gone_takes_nothing():
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    gone = [child.pid]
    assert processes.memory(gone) == processes.handles(gone) == 0
    assert processes.cpu_seconds(gone) == 0
    assert not processes.runs(child.pid, "python")


def test_a_program_is_known_by_its_name():
    name = Path(sys.executable).name
    assert processes.runs(os.getpid(), name)
    assert not processes.runs(os.getpid(), name[:-1])


# --- pages ----------------------------------------------------------------------------


class Messages:
    """A socket that says something and ends."""

    close_code = 1000

    def __init__(self, *messages: dict[str, Any]) -> None:
        self.messages = messages

    async def __aiter__(self) -> AsyncIterator[str]:
        for message in self.messages:
            yield json.dumps({"event": "status", "data": message})


async def a_page_that_heard(*messages: dict[str, Any]) -> IdlePage:
    page = IdlePage(Salon(1, 700_001, "79040000001"))
    page._socket = Messages(*messages)  # type: ignore[assignment]
    await asyncio.wait_for(page._read(), 60)
    return page


async def test_a_word_for_another_salon_is_noticed():
    ours = {"status": "stopped", "phone": "79***0001"}
    foreign = {"status": "stopped", "phone": "79***0002"}
    assert (await a_page_that_heard(ours, ours)).foreign == 0
    assert (await a_page_that_heard(ours, foreign)).foreign == 1
    assert (await a_page_that_heard({"status": "stopped", "phone": None})).foreign == 1


def test_a_change_counts_until_the_page_hears_of_it():
    page = IdlePage(Salon(1, 700_001, "79040000001"))
    page.salon.told = [("logged_out", 10.0), ("stopped", 20.0), ("logged_out", 30.0)]
    page.heard = [("stopped", 5.0), ("logged_out", 10.5), ("stopped", 20.25)]
    assert page.delays(since=1) == [500, 250]
    # Two changes that came in one: the page is told the second.
    page.heard = [("stopped", 5.0), ("stopped", 21.0), ("logged_out", 31.0)]
    assert page.delays(since=1) == [1000, 1000]


# --- charts ---------------------------------------------------------------------------


def test_charts_are_drawings_of_all_that_was_found():
    report = a_report()
    drawn = [charts.bars(report), charts.lines(report), charts.exponents(report)]
    for svg in drawn:
        assert svg is not None
        assert ET.fromstring(svg).tag.endswith("svg")  # noqa: S314
    assert "too slow" in str(drawn[0])
    assert "memory &lt;MB&gt;" in str(drawn[1])
    assert "quadratic" in str(drawn[2])


def test_nothing_found_is_no_chart():
    report = Report("pages", "Pages", {})
    report.add("no reference", "MB", 5)
    assert charts.bars(report) is None
    assert charts.lines(report) is None
    assert charts.exponents(report) is None


def test_the_document_has_a_place_for_every_benchmark_and_is_filled(tmp_path: Path):
    document = tmp_path / "performance.md"
    document.write_text(charts.DOCUMENT.read_text())
    names = [one.name for one in BENCHMARKS] + ["growth"]
    for name in names:
        report = a_report()
        report.name = name
        report.write(tmp_path / "results" / f"{name}.json")
    pictures = tmp_path / "performance"
    assert sorted(charts.draw(tmp_path / "results", document, pictures)) == sorted(
        names
    )
    text = document.read_text()
    assert "Not measured yet." not in text
    assert text.count("| too slow | ms | 21.0 | 20.0 | 1.05 |") == len(names)
    for name in names:
        assert f"(performance/{name}.svg)" in text
        assert (pictures / f"{name}.svg").exists()
    # Drawn anew, nothing is left of before.
    charts.draw(tmp_path / "results", document, pictures)
    assert document.read_text() == text


def test_a_document_without_a_place_is_refused():
    with pytest.raises(ValueError, match="no place for pages"):
        charts.fill("# Performance", "pages", "table")
