"""Every measurement, one after the other, and the charts of docs/performance.md.

.venv/bin/python -m benchmarks [--quick] [--only time_to_code,pages] [--results FOLDER]
"""

import argparse
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks import charts, growth, soak
from benchmarks.command import progress
from benchmarks.report import ROOT

BENCHMARKS = (*growth.GROWING, soak.BENCHMARK)

QUICK_RESULTS = ROOT / "var" / "benchmarks"
"""A quick run says that all works; its numbers say nothing, and are not kept."""


def main(words: Sequence[str] | None = None) -> int:
    """Run them; return 1 if a check of one is broken."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="the smallest sizes")
    parser.add_argument("--only", default="", help="names, with commas between")
    parser.add_argument("--results", type=Path, help="for the reports")
    given = parser.parse_args(words)
    known = {one.name: one for one in BENCHMARKS}
    names = [name for name in given.only.split(",") if name] or list(known)
    if unknown := [name for name in names if name not in known]:
        parser.error(
            f"no such benchmark: {', '.join(unknown)}; there are {', '.join(known)}"
        )
    results = given.results or (QUICK_RESULTS if given.quick else charts.RESULTS)
    quick = ["--quick"] if given.quick else []
    codes = []
    for name in names:
        path = results / f"{name}.json"
        codes.append(run(name, *quick, "--json", str(path)))
    if not given.only:
        where = ["--results", str(results), "--json", str(results / "growth.json")]
        codes.append(growth.main(where))
        codes += [run(name, *words) for name, words in _others(quick=given.quick)]
    if not given.quick:
        charts.draw(results)
    return max(codes)


def run(name: str, *words: str) -> int:
    """Run a benchmark in a process of its own: some load our settings."""
    progress(f"--- {name}")
    command = [sys.executable, "-m", f"benchmarks.{name}", *words]
    return subprocess.run(command, cwd=ROOT, check=False).returncode


def _others(*, quick: bool) -> list[tuple[str, list[str]]]:
    """Return those that compare ours with ours, and what they are told."""
    small = ["--salons", "30", "--keys", "2000"] if quick else []
    rounds = ["--rounds", "20"] if quick else []
    return [("takeover", small), ("encryption", [*rounds, *small])]


if __name__ == "__main__":
    sys.exit(main())
