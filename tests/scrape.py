"""Reads what /metrics says, as Prometheus does."""

from collections.abc import Iterator
from typing import Any

from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample


class Scrape:
    """One answer of /metrics, parsed."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.families = {one.name: one for one in text_string_to_metric_families(text)}

    def samples(self, name: str, **labels: str) -> Iterator[Sample]:
        """Give the samples of this name that have these labels, and perhaps others."""
        for family in self.families.values():
            for sample in family.samples:
                if sample.name == name and labels.items() <= sample.labels.items():
                    yield sample

    def value(self, name: str, **labels: str) -> float | None:
        """Return the sum of the samples with these labels; None: there is none."""
        values = [sample.value for sample in self.samples(name, **labels)]
        return sum(values) if values else None

    def by(self, name: str, label: str, **labels: str) -> dict[str, float]:
        """Return the values of a name by a label, without those that are 0."""
        return {
            sample.labels[label]: sample.value
            for sample in self.samples(name, **labels)
            if sample.value
        }


def parse(response: Any) -> Scrape:
    """Return what a response of Django's test client says."""
    assert response.status_code == 200, response
    return Scrape(response.content.decode())
