"""How every measured cost grows with its size: nothing may be superlinear.

Reads what the other benchmarks have written, and runs those that have not yet.
"""

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from benchmarks import (
    cold_start,
    key_store,
    open_sessions,
    pages,
    time_to_code,
    time_to_link,
)
from benchmarks.command import Benchmark, progress, say
from benchmarks.report import Report

GROWING: Sequence[Benchmark] = (
    time_to_code.BENCHMARK,
    time_to_link.BENCHMARK,
    open_sessions.BENCHMARK,
    cold_start.BENCHMARK,
    key_store.BENCHMARK,
    pages.BENCHMARK,
)


def collect(results: Path) -> Report:
    """Return all growth that was measured."""
    reports = [Report.read(results / f"{one.name}.json") for one in GROWING]
    report = Report("growth", "Growth", {"of": [one.name for one in reports]})
    for one in reports:
        for growth in one.growth:
            report.grows(
                f"{one.title}: {growth.what}", growth.unit, growth.sizes, growth.costs
            )
    return report


def main(words: Sequence[str] | None = None) -> int:
    """Collect, print and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--results", type=Path, help="where the others have written")
    parser.add_argument("--json", type=Path, help="where to write the report")
    parser.add_argument("--quick", action="store_true", help="of those that are run")
    given = parser.parse_args(words)
    with tempfile.TemporaryDirectory() as folder:
        results = given.results or Path(folder)
        for one in GROWING:
            path = results / f"{one.name}.json"
            if not path.exists():
                progress(f"--- {one.name}")
                quick = ["--quick"] if given.quick else []
                if code := one.run([*quick, "--json", str(path)]):
                    return code
        report = collect(results)
    say(report.table())
    if given.json:
        report.write(given.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
