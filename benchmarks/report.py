"""What a measurement found: a table for people, JSON for programs."""

import json
import os
import platform
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

import django

from aiadmin.embedded import POSTGRES_MAJOR
from benchmarks import measures
from tests.simulator import find_node

ROOT = Path(__file__).resolve().parent.parent
BAILEYS = ROOT / "whatsapp/engine/node/node_modules/@whiskeysockets/baileys"

GROWTH_LIMIT = 1.1
"""Linear, with room for noise."""


@dataclass(frozen=True)
class Target:
    """What a row shall come to."""

    limit: float
    of: Literal["ratio", "ours"] = "ratio"
    least: bool = False

    def __str__(self) -> str:
        """Return it as the table shows it."""
        what = "ratio" if self.of == "ratio" else "ours"
        return f"{what} {'>=' if self.least else '<='} {self.limit:g}"


@dataclass(frozen=True)
class Row:
    """One figure, ours and that of the reference."""

    what: str
    unit: str
    ours: float
    reference: float | None = None
    target: Target | None = None

    @property
    def ratio(self) -> float | None:
        """Ours by the reference's; None without one, or where it is nothing."""
        return self.ours / self.reference if self.reference else None

    @property
    def met(self) -> bool | None:
        """Whether the target is met; None if there is none, or nothing to compare."""
        if self.target is None:
            return None
        value = self.ours if self.target.of == "ours" else self.ratio
        if value is None:
            return None
        limit = self.target.limit
        return value >= limit if self.target.least else value <= limit


@dataclass(frozen=True)
class Growth:
    """A cost at several sizes."""

    what: str
    unit: str
    sizes: Sequence[float]
    costs: Sequence[float]

    @property
    def exponent(self) -> float:
        """How it grows: 1 is linear."""
        return measures.exponent(self.sizes, self.costs)

    @property
    def met(self) -> bool:
        """Whether it grows no faster than its size."""
        return self.exponent <= GROWTH_LIMIT


@dataclass
class Report:
    """All that a benchmark found.

    Args:
        name: of the benchmark's module.
        title: for people.
        parameters: what it was run with.
        columns: what the two figures of a row are.
    """

    name: str
    title: str
    parameters: dict[str, Any]
    columns: tuple[str, str] = ("ours", "reference")
    rows: list[Row] = field(default_factory=list)
    growth: list[Growth] = field(default_factory=list)
    checks: dict[str, bool] = field(default_factory=dict)
    """What must hold however slow it was: nothing lost, nothing at the wrong place."""
    series: dict[str, list[tuple[float, float]]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def add(
        self,
        what: str,
        unit: str,
        ours: float,
        reference: float | None = None,
        target: Target | None = None,
    ) -> None:
        """Add a row."""
        self.rows.append(Row(what, unit, ours, reference, target))

    def add_percentiles(
        self,
        what: str,
        ours: Sequence[float],
        reference: Sequence[float] | None = None,
        target: Target | None = None,
        shares: Iterable[float] = (0.5, 0.95),
    ) -> None:
        """Add a row of milliseconds for each of these percentiles."""
        for share in shares:
            self.add(
                f"{what}, p{share * 100:g}",
                "ms",
                measures.percentile(ours, share),
                measures.percentile(reference, share) if reference else None,
                target,
            )

    def grows(
        self, what: str, unit: str, sizes: Sequence[float], costs: Sequence[float]
    ) -> None:
        """Add a cost at several sizes; with a single size there is nothing to say."""
        if len(set(sizes)) > 1:
            self.growth.append(Growth(what, unit, list(sizes), list(costs)))

    @property
    def is_sound(self) -> bool:
        """Whether all checks hold; targets may be missed."""
        return all(self.checks.values())

    # --- for people -------------------------------------------------------------------

    def table(self) -> str:
        """Return everything as text."""
        lines = [f"{self.title}", _parameters(self.parameters)]
        if self.rows:
            lines += ["", *_aligned([self._head(), *map(_cells, self.rows)])]
        if self.growth:
            head = ("growth", "sizes", "costs", "exponent", "target", "")
            lines += ["", *_aligned([head, *map(_growth_cells, self.growth)])]
        lines += ["" for _ in self.checks or self.notes][:1]
        lines += [
            f"{'holds ' if holds else 'BROKEN'} {what}"
            for what, holds in self.checks.items()
        ]
        return "\n".join([*lines, *self.notes])

    def _head(self) -> tuple[str, ...]:
        return ("", "unit", *self.columns, "ratio", "target", "")

    # --- for programs -----------------------------------------------------------------

    def as_json(self) -> dict[str, Any]:
        """Return everything, with where and of what it was measured."""
        return {
            "benchmark": self.name,
            "title": self.title,
            "columns": self.columns,
            "at": datetime.now(UTC).isoformat(timespec="seconds"),
            "machine": machine(),
            "versions": versions(),
            "commit": commit(),
            "parameters": self.parameters,
            "rows": [
                {**asdict(row), "ratio": row.ratio, "met": row.met} for row in self.rows
            ],
            "growth": [
                {**asdict(growth), "exponent": growth.exponent, "met": growth.met}
                for growth in self.growth
            ],
            "checks": self.checks,
            "series": self.series,
            "notes": self.notes,
        }

    def write(self, path: Path) -> None:
        """Write it as JSON."""
        path.parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps(self.as_json(), indent=1, ensure_ascii=False)
        path.write_text(f"{text}\n")

    @classmethod
    def read(cls, path: Path) -> "Report":
        """Return what was written."""
        saved = json.loads(path.read_text())
        report = cls(
            saved["benchmark"],
            saved["title"],
            saved["parameters"],
            (saved["columns"][0], saved["columns"][1]),
        )
        for row in saved["rows"]:
            target = row["target"]
            report.add(
                row["what"],
                row["unit"],
                row["ours"],
                row["reference"],
                Target(**target) if target else None,
            )
        for one in saved["growth"]:
            report.grows(one["what"], one["unit"], one["sizes"], one["costs"])
        report.checks = saved["checks"]
        report.series = {
            name: [(x, y) for x, y in points]
            for name, points in saved["series"].items()
        }
        report.notes = saved["notes"]
        return report


def cell(number: float | None) -> str:
    """Return a figure with the digits that mean something."""
    if number is None:
        return ""
    if abs(number) >= 100:
        return f"{number:,.0f}"
    return f"{number:.1f}" if abs(number) >= 10 else f"{number:.2f}"


def verdict(met: bool | None) -> str:
    """Return what the table says of a target."""
    return {True: "met", False: "MISSED", None: ""}[met]


def _cells(row: Row) -> tuple[str, ...]:
    figures = (cell(row.ours), cell(row.reference), cell(row.ratio))
    return (row.what, row.unit, *figures, str(row.target or ""), verdict(row.met))


def _growth_cells(growth: Growth) -> tuple[str, ...]:
    sizes = " ".join(f"{size:,g}" for size in growth.sizes)
    costs = " ".join(map(cell, growth.costs))
    limit = f"<= {GROWTH_LIMIT:g}"
    return (
        growth.what,
        sizes,
        f"{costs} {growth.unit}",
        f"{growth.exponent:.2f}",
        limit,
        verdict(growth.met),
    )


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            text.ljust(width) if at in (0, 1) else text.rjust(width)
            for at, (text, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def _parameters(parameters: dict[str, Any]) -> str:
    return ", ".join(f"{name} {_listed(value)}" for name, value in parameters.items())


def _listed(value: object) -> str:
    return " ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


# --- where and of what ----------------------------------------------------------------


@cache
def machine() -> dict[str, Any]:
    """Return what the machine is."""
    cpu = next(
        (
            line.split(":", 1)[1].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        platform.machine(),
    )
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return {
        "cpu": cpu,
        "cores": os.cpu_count(),
        "memory_mb": pages >> 20,
        "kernel": platform.release(),
    }


@cache
def versions() -> dict[str, str]:
    """Return the versions of all that takes part."""
    return {
        "python": platform.python_version(),
        "node": _said(find_node(), "--version"),
        "baileys": json.loads((BAILEYS / "package.json").read_text())["version"],
        "django": django.get_version(),
        "channels": metadata.version("channels"),
        "daphne": metadata.version("daphne"),
        "psycopg": metadata.version("psycopg"),
        "postgresql": POSTGRES_MAJOR,
    }


@cache
def commit() -> str:
    """Return the commit, and whether something differs from it."""
    number = _said("git", "rev-parse", "HEAD")
    changed = _said("git", "status", "--porcelain", "--untracked-files=no")
    return f"{number}, changed" if number and changed else number


def _said(*command: str) -> str:
    try:
        done = subprocess.run(
            command, cwd=ROOT, capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return ""  # an unpacked archive is no repository
    return done.stdout.strip()
