"""Draws the charts of docs/performance.md, and puts the tables beside them.

.venv/bin/python -m benchmarks.charts [--results benchmarks/results]
"""

import argparse
import json
import re
import sys
from collections.abc import Sequence
from html import escape
from pathlib import Path

from benchmarks import measures
from benchmarks.report import ROOT, Report, Row, cell, verdict

RESULTS = ROOT / "benchmarks" / "results"
DOCUMENT = ROOT / "docs" / "performance.md"
CHARTS = ROOT / "docs" / "performance"

WIDTH = 860
LABELS = 330
"""Room for the names of rows."""
FIGURES = 150
ROW = 44
BAR = 14
TOP = 46
OURS, REFERENCE, LIMIT = "#059669", "#94a3b8", "#dc2626"
LINES = ("#059669", "#2563eb", "#d97706", "#7c3aed", "#dc2626", "#0891b2", "#4d7c0f")
STYLE = (
    "text{font:13px system-ui,sans-serif;fill:#1e293b}"
    ".small{font-size:11px;fill:#64748b}.title{font-size:16px;font-weight:600}"
)


def document(width: int, height: int, parts: Sequence[str]) -> str:
    """Return an SVG, on white: a chart is also looked at where the page is dark."""
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}"'
            f' width="{width}" height="{height}" role="img">',
            f"<style>{STYLE}</style>",
            f'<rect width="{width}" height="{height}" fill="#fff"/>',
            *parts,
            "</svg>\n",
        ]
    )


def text(x: float, y: float, words: str, kind: str = "", anchor: str = "start") -> str:
    """Return a line of text."""
    name = f' class="{kind}"' if kind else ""
    return f'<text x="{x:.1f}" y="{y:.1f}"{name} text-anchor="{anchor}">{escape(words)}</text>'


def box(x: float, y: float, width: float, height: float, colour: str) -> str:
    """Return a filled rectangle."""
    return (
        f'<rect x="{x:.1f}" y="{y:.1f}" width="{max(width, 0.5):.1f}"'
        f' height="{height:.1f}" rx="2" fill="{colour}"/>'
    )


# --- bars: ours beside the reference --------------------------------------------------


def bars(report: Report) -> str | None:
    """Draw every row that has both figures; None if there is none.

    Each row has a scale of its own: units differ.
    """
    rows = [row for row in report.rows if row.reference]
    if not rows:
        return None
    height = TOP + ROW * len(rows) + 16
    parts = [text(16, 26, report.title, "title"), *_legend(report.columns)]
    for at, row in enumerate(rows):
        parts += _pair(row, TOP + ROW * at)
    return document(WIDTH, height, parts)


def _legend(columns: tuple[str, str]) -> list[str]:
    parts, x = [], float(LABELS)
    for name, colour in zip(columns, (OURS, REFERENCE), strict=True):
        parts += [box(x, 16, 12, 12, colour), text(x + 18, 26, name, "small")]
        x += 40 + 7 * len(name)
    return parts


def _pair(row: Row, y: float) -> list[str]:
    reference = row.reference or 0.0
    room = WIDTH - LABELS - FIGURES
    scale = room / max(row.ours, reference, 1e-9)
    ratio = "" if row.ratio is None else f"ratio {cell(row.ratio)}"
    target = f"target: {row.target}" if row.target else ""
    parts = [
        text(16, y + 17, row.what),
        text(16, y + 31, " · ".join(filter(None, [ratio, target])), "small"),
    ]
    for at, (value, colour) in enumerate(((row.ours, OURS), (reference, REFERENCE))):
        place = y + 5 + at * (BAR + 2)
        parts += [
            box(LABELS, place, value * scale, BAR, colour),
            text(
                LABELS + max(value, 0) * scale + 6,
                place + 11,
                f"{cell(value)} {row.unit}",
                "small",
            ),
        ]
    if row.target and row.target.of == "ratio":
        x = LABELS + min(row.target.limit * reference * scale, room)
        parts.append(
            f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{y + 3:.1f}"'
            f' y2="{y + 9 + 2 * BAR:.1f}" stroke="{LIMIT}" stroke-dasharray="3 2"/>'
        )
    return parts


# --- lines: over time, each relative to its own median --------------------------------


def lines(report: Report, height: int = 360) -> str | None:
    """Draw what was seen over time; None if nothing was."""
    series = {name: points for name, points in report.series.items() if len(points) > 1}
    if not series:
        return None
    last = max(at for points in series.values() for at, _value in points) or 1.0
    relative = {name: _relative(points) for name, points in series.items()}
    highest = max(value for points in relative.values() for _at, value in points)
    bottom, left, right = height - 30, 60, WIDTH - 230
    parts = [text(16, 26, f"{report.title}: each by its median over the time", "title")]
    for share in (0.0, 0.5, 1.0):
        y = bottom - share * (bottom - TOP)
        parts += [
            f'<line x1="{left}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}" stroke="#e2e8f0"/>',
            text(left - 8, y + 4, cell(share * highest), "small", "end"),
        ]
    parts.append(text(right, height - 10, f"{last / 60:.0f} min", "small", "end"))
    for at, (name, points) in enumerate(relative.items()):
        colour = LINES[at % len(LINES)]
        path = " ".join(
            f"{left + x / last * (right - left):.1f},"
            f"{bottom - value / highest * (bottom - TOP):.1f}"
            for x, value in points
        )
        parts += [
            f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="1.5"/>',
            box(right + 16, TOP + 22 * at, 12, 12, colour),
            text(right + 34, TOP + 22 * at + 10, name, "small"),
        ]
    return document(WIDTH, height, parts)


def _relative(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    middle = measures.percentile([value for _at, value in points], 0.5) or 1.0
    return [(at, value / middle) for at, value in points]


# --- growth: exponents against linear -------------------------------------------------


def exponents(report: Report) -> str | None:
    """Draw how each cost grows; None if nothing was measured at several sizes."""
    if not report.growth:
        return None
    room = WIDTH - LABELS - 150 - FIGURES
    linear = LABELS + 150 + room / 2
    height = TOP + 26 * len(report.growth) + 16
    parts = [
        text(16, 26, "Exponents of growth: 1 is linear", "title"),
        f'<line x1="{linear:.1f}" x2="{linear:.1f}" y1="{TOP - 8}" y2="{height - 12}"'
        f' stroke="{LIMIT}" stroke-dasharray="3 2"/>',
    ]
    for at, growth in enumerate(report.growth):
        y = TOP + 26 * at
        shown = min(max(growth.exponent, 0.0), 2.0)
        parts += [
            text(16, y + 13, growth.what),
            box(
                LABELS + 150,
                y + 2,
                shown / 2 * room,
                BAR,
                OURS if growth.met else LIMIT,
            ),
            text(
                LABELS + 156 + shown / 2 * room,
                y + 13,
                f"{growth.exponent:.2f}",
                "small",
            ),
        ]
    return document(WIDTH, height, parts)


# --- the document ---------------------------------------------------------------------


def table(report: Report) -> str:
    """Return the rows as a table of the document."""
    head = ["", "unit", *report.columns, "ratio", "target", ""]
    rows = [
        [
            row.what,
            row.unit,
            cell(row.ours),
            cell(row.reference),
            cell(row.ratio),
            str(row.target or ""),
            verdict(row.met),
        ]
        for row in report.rows
    ]
    if not rows:
        head = ["", "sizes", "costs", "exponent", "", "", ""]
        rows = [
            [
                growth.what,
                " ".join(f"{size:,g}" for size in growth.sizes),
                f"{' '.join(map(cell, growth.costs))} {growth.unit}",
                f"{growth.exponent:.2f}",
                "<= 1.1",
                verdict(growth.met),
                "",
            ]
            for growth in report.growth
        ]
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def block(report: Report, saved: dict[str, object], names: Sequence[str]) -> str:
    """Return what stands between a benchmark's two marks in the document."""
    parts = [f"![{report.title}](performance/{name}.svg)" for name in names]
    parts += [table(report)] if report.rows or report.growth else []
    parts.append(_where(saved))
    return "\n\n".join(parts)


def _where(saved: dict[str, object]) -> str:
    machine, versions = saved["machine"], saved["versions"]
    assert isinstance(machine, dict)
    assert isinstance(versions, dict)
    told = ", ".join(f"{name} {number}" for name, number in versions.items())
    commit = str(saved["commit"])[:12]
    return (
        f"{machine['cores']} cores ({machine['cpu']}), {machine['memory_mb']} MB, {told};"
        f" commit {commit}, {str(saved['at'])[:10]}."
    )


def fill(document: str, name: str, content: str) -> str:
    """Put ``content`` between the marks of a benchmark.

    Raises:
        ValueError: the document has no such marks.
    """
    pattern = re.compile(rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)", re.DOTALL)
    filled, count = pattern.subn(
        lambda found: f"{found[1]}{content}\n{found[2]}", document
    )
    if count != 1:
        raise ValueError(f"The document has no place for {name}.")
    return filled


def draw(
    results: Path, document_path: Path = DOCUMENT, charts: Path = CHARTS
) -> list[str]:
    """Draw all that is there; return the names of the benchmarks."""
    drawn, whole = [], document_path.read_text()
    charts.mkdir(exist_ok=True)
    for path in sorted(results.glob("*.json")):
        report, saved = Report.read(path), json.loads(path.read_text())
        kinds = {
            report.name: exponents(report) if report.name == "growth" else bars(report),
            f"{report.name}-time": lines(report),
        }
        names = [name for name, svg in kinds.items() if svg]
        for name in names:
            (charts / f"{name}.svg").write_text(kinds[name] or "")
        whole = fill(whole, report.name, block(report, saved, names))
        drawn.append(report.name)
    document_path.write_text(whole)
    return drawn


def main(words: Sequence[str] | None = None) -> int:
    """Draw, and say what."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--results", type=Path, default=RESULTS)
    drawn = draw(parser.parse_args(words).results)
    sys.stdout.write(f"Drawn: {', '.join(drawn) or 'nothing'}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
