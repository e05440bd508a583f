"""Figures of the metrics: how those of one process get into another's answer.

Whoever asks a page server is told about the whole service: what is in the tables, what
each gateway has counted (it leaves its figures in its row), and what this very process
does.
"""

import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import Metric as Family

from whatsapp import metrics
from whatsapp.metrics import CATALOGUE, Kind, Metric, Source

Figures = dict[str, Any]
"""JSON: of a counter or gauge ``[[label values, value], …]``, of a histogram
``{"le": [bounds], "of": [[label values, [counts up to each bound], sum], …]}``."""

_process = CollectorRegistry()
# process_cpu_seconds_total, process_resident_memory_bytes, …
ProcessCollector(registry=_process)


def of_this_process() -> Iterator[Family]:
    """Return what the pages of this process do, and what the process takes."""
    # Not as collected: that has the time at which each series began, as a series.
    for name, figures in snapshot(metrics.pages_registry).items():
        family = CATALOGUE[name].family()
        _add(family, CATALOGUE[name], figures, ())
        yield family
    yield from _process.collect()


def resident_bytes() -> int:
    """Return the memory of this process."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def cpu_seconds() -> float:
    """Return the CPU time of this process."""
    return time.process_time()


def snapshot(registry: CollectorRegistry) -> Figures:
    """Return all figures of a registry as short JSON."""
    return {
        metric.name: _figures(metric, family)
        for family in registry.collect()
        for metric in [CATALOGUE.get(family.name) or CATALOGUE[f"{family.name}_total"]]
    }


def _figures(metric: Metric, family: Family) -> Any:
    if metric.kind is Kind.HISTOGRAM:
        return _histogram_figures(metric, family)
    wanted = metric.name
    return [
        [[sample.labels[label] for label in metric.labels], sample.value]
        for sample in family.samples
        if sample.name == wanted
    ]


def _histogram_figures(metric: Metric, family: Family) -> Any:
    counts: dict[tuple[str, ...], dict[str, float]] = {}
    sums: dict[tuple[str, ...], float] = {}
    for sample in family.samples:
        key = tuple(sample.labels[label] for label in metric.labels)
        if sample.name == f"{metric.name}_bucket":
            counts.setdefault(key, {})[sample.labels["le"]] = sample.value
        elif sample.name == f"{metric.name}_sum":
            sums[key] = round(sample.value, 6)
    bounds = list(next(iter(counts.values()), {}))
    return {
        "le": bounds,
        "of": [
            [list(key), [int(count) for count in by_bound.values()], sums[key]]
            for key, by_bound in counts.items()
        ],
    }


def of_gateways(snapshots: Mapping[str, Figures]) -> Iterator[Family]:
    """Return the figures of gateways, each with its name.

    Args:
        snapshots: name of the gateway → what it has left. One of another version may
            have others than we know: those are left out.
    """
    for metric in CATALOGUE.values():
        if metric.source is not Source.GATEWAY:
            continue
        family = metric.family()
        for gateway, figures in snapshots.items():
            _add(family, metric, figures.get(metric.name), (gateway,))
        yield family


def _add(family: Any, metric: Metric, figures: Any, before: tuple[str, ...]) -> None:
    if not figures:
        return
    if metric.kind is Kind.HISTOGRAM:
        for labels, counts, total in figures["of"]:
            buckets = list(zip(figures["le"], counts, strict=True))
            family.add_metric([*before, *labels], buckets, total)
    else:
        for labels, value in figures:
            family.add_metric([*before, *labels], value)
