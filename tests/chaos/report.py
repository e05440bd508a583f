"""What came of it, for people and for programs."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from tests.chaos.arena import Outcome

SHOWN = 12
"""Violations of a fault that are printed; the JSON has all."""

HEAD = f"{'fault':24} {'salons hit':>10} {'recovery':>9} {'longest off':>12} {'writes':>7} {'violations':>10}"


def line(outcome: Outcome) -> str:
    """Return an outcome as a line of the table."""
    return (
        f"{outcome.fault:24} {outcome.hit:>10} {outcome.seconds:>7.1f} s"
        f" {outcome.longest_off:>10.1f} s {outcome.writes:>7} {len(outcome.violations):>10}"
    )


def details(outcome: Outcome) -> list[str]:
    """Return what is to be said of an outcome beside its line."""
    told = [f"    {note}" for note in outcome.notes]
    told += [f"    VIOLATION {one}" for one in outcome.violations[:SHOWN]]
    if len(outcome.violations) > SHOWN:
        told.append(f"    ... and {len(outcome.violations) - SHOWN} more")
    return told


def write(path: Path, outcomes: Sequence[Outcome], setting: dict[str, object]) -> None:
    """Write everything as JSON."""
    report = {"setting": setting, "faults": [asdict(one) for one in outcomes]}
    path.write_text(json.dumps(report, indent=2, ensure_ascii=False) + "\n")
