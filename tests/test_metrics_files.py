"""The dashboard and the alert rules load, and ask for nothing that there is not."""

import json
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import promql_parser as promql
import pytest
import yaml

from whatsapp import figures, metrics
from whatsapp.models import PairingAttempt, WhatsAppSession

DOCS = Path(__file__).resolve().parent.parent / "docs"
ALERTS = yaml.safe_load((DOCS / "prometheus" / "alerts.yml").read_text())
DASHBOARD = json.loads((DOCS / "grafana" / "aiadmin.json").read_text())

RULES = [rule for group in ALERTS["groups"] for rule in group["rules"]]
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
EXPRESSIONS = [
    *((rule["alert"], rule["expr"]) for rule in RULES),
    *(
        (f"{panel['title']} {target['refId']}", target["expr"])
        for panel in PANELS
        for target in panel["targets"]
    ),
]
OF_THE_SCRAPE = {"instance", "job"}
"""Labels that Prometheus itself adds."""

LABEL_VALUES = {
    "status": set(WhatsAppSession.Status.values),
    "kind": set(PairingAttempt.Kind.values),
    "outcome": {"linked", "failed", "expired", "superseded", "cancelled"},
    "stage": {str(stage) for stage in PairingAttempt.OPEN_STAGES},
    "cause": {"crashed", "hung", "recycled", "unheard"},
    "how": {"lost", "handed_over"},
    "what": {"creds", "keys", "both"},
    "process": {str(number) for number in range(10)},
}


def parsed(expression: str) -> Any:
    """Parse PromQL; Grafana puts a duration in place of its variable."""
    return promql.parse(expression.replace("$__rate_interval", "5m"))


def nodes(expression: Any) -> list[Any]:
    found: list[Any] = []
    promql.walk(expression, found.append)
    return found


@cache
def series() -> dict[str, set[str]]:
    """Return every name that a scrape may have, with its labels."""
    names: dict[str, set[str]] = {}
    for metric in metrics.CATALOGUE.values():
        labels = {*metric.exposed_labels, *OF_THE_SCRAPE}
        if metric.kind is metrics.Kind.HISTOGRAM:
            names[f"{metric.name}_bucket"] = labels | {"le"}
            names[f"{metric.name}_sum"] = names[f"{metric.name}_count"] = labels
        else:
            names[metric.name] = labels
    for family in figures.of_this_process():
        for sample in family.samples:
            names.setdefault(sample.name, {*sample.labels, *OF_THE_SCRAPE})
    return names


def selectors(expression: Any) -> Iterator[Any]:
    for node in nodes(expression):
        if isinstance(node, promql.VectorSelector):
            yield node


def faults(text: str) -> list[str]:
    """Return what an expression asks for in vain."""
    expression = parsed(text)
    found = []
    labels: set[str] = set()
    for selector in selectors(expression):
        known = series().get(selector.name)
        if known is None:
            found.append(f"no metric {selector.name}")
            continue
        labels |= known
        for matcher in selector.matchers.matchers:
            values = LABEL_VALUES.get(matcher.name)
            if matcher.name not in known:
                found.append(f"{selector.name} has no label {matcher.name}")
            elif values is None or matcher.value not in values:
                found.append(f"{matcher.name} is never {matcher.value}")
    for node in nodes(expression):
        if isinstance(node, promql.AggregateExpr) and node.modifier:
            found += [
                f"nothing has a label {label}"
                for label in node.modifier.labels
                if label not in labels
            ]
    return found


@pytest.mark.parametrize(
    ("where", "expression"), EXPRESSIONS, ids=[name for name, _ in EXPRESSIONS]
)
def test_every_expression_asks_for_what_there_is(where: str, expression: str):
    assert faults(expression) == []


@pytest.mark.parametrize(
    ("expression", "fault"),
    [
        ("max(whatsapp_session)", "no metric whatsapp_session"),
        ("rate(whatsapp_reconnects[5m])", "no metric whatsapp_reconnects"),
        ("sum by (salon) (whatsapp_sessions)", "nothing has a label salon"),
        ('whatsapp_sessions{state="open"}', "whatsapp_sessions has no label state"),
        ('whatsapp_sessions{status="offline"}', "status is never offline"),
        ("sum(max by (gatway) (whatsapp_engine_up))", "nothing has a label gatway"),
    ],
)
def test_what_is_asked_in_vain_would_be_found(expression: str, fault: str):
    assert faults(expression) == [fault]


def test_what_is_no_promql_would_be_found():
    with pytest.raises(ValueError, match="unclosed"):
        parsed("sum by (status (whatsapp_sessions)")


def test_counters_are_asked_for_their_increase():
    """The value of a counter by itself says only for how long a process has run."""
    bare = []
    for where, text in EXPRESSIONS:
        inside = {
            node.vector_selector.name
            for node in nodes(parsed(text))
            if isinstance(node, promql.MatrixSelector)
        }
        bare += [
            (where, one.name)
            for one in selectors(parsed(text))
            if one.name.endswith(("_total", "_bucket", "_count", "_sum"))
            and one.name not in inside
        ]
    assert bare == []


def test_figures_of_the_service_are_not_added_up_over_page_servers():
    """Each page server tells them: what is summed must be one per series before."""
    service = {
        name
        for name in series()
        if name.startswith("whatsapp_") and not name.startswith("whatsapp_page_")
    }
    naked = []
    for where, text in EXPRESSIONS:
        for node in nodes(parsed(text)):
            if isinstance(node, promql.AggregateExpr) and str(node.op) == "sum":
                inner = node.expr
                while isinstance(inner, promql.ParenExpr):
                    inner = inner.expr
                if not isinstance(inner, promql.AggregateExpr):
                    naked += [
                        (where, one.name)
                        for one in selectors(inner)
                        if one.name in service
                    ]
    assert naked == []


# --- the alert rules -------------------------------------------------------------------


def anchors() -> set[str]:
    """Return the headings of operations.md as the links to them are written."""
    headings = re.findall(
        r"^#+ (.+)$", (DOCS / "operations.md").read_text(), re.MULTILINE
    )
    return {
        re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
        for heading in headings
    }


def test_the_rules_are_as_prometheus_reads_them():
    assert set(ALERTS) == {"groups"}
    names = [group["name"] for group in ALERTS["groups"]]
    assert len(names) == len(set(names))
    assert all(set(group) == {"name", "rules"} for group in ALERTS["groups"])
    alerts = [rule["alert"] for rule in RULES]
    assert len(alerts) == len(set(alerts)) > 15


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["alert"])
def test_an_alert_says_when_how_bad_and_what_to_do(rule: dict[str, Any]):
    assert set(rule) == {"alert", "expr", "for", "labels", "annotations"}
    assert re.fullmatch(r"WhatsApp[A-Za-z]+", rule["alert"])
    assert promql.parse_duration(rule["for"]).total_seconds() >= 60
    assert rule["labels"]["severity"] in {"critical", "warning", "info"}
    assert set(rule["annotations"]) == {"summary", "runbook"}
    file, _, anchor = rule["annotations"]["runbook"].partition("#")
    assert file == "docs/operations.md"
    assert anchor in anchors()


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["alert"])
def test_a_summary_names_labels_that_its_alert_has(rule: dict[str, Any]):
    summary = rule["annotations"]["summary"]
    named = set(re.findall(r"\$labels\.(\w+)", summary))
    expression = parsed(rule["expr"])
    left: set[str] = set()
    while isinstance(expression, promql.BinaryExpr):
        expression = expression.lhs
    if isinstance(expression, promql.AggregateExpr) and expression.modifier:
        left = set(expression.modifier.labels)
    assert named <= left
    assert summary.count("{{") == summary.count("}}")


# --- the dashboard ---------------------------------------------------------------------


def test_the_dashboard_is_as_grafana_imports_it():
    assert DASHBOARD["schemaVersion"] >= 38  # Grafana 10
    assert "id" not in DASHBOARD  # of another Grafana
    assert DASHBOARD["title"]
    (source,) = DASHBOARD["templating"]["list"]
    assert (source["type"], source["query"]) == ("datasource", "prometheus")
    asked = {"type": "prometheus", "uid": f"${{{source['name']}}}"}
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(ids) == len(set(ids))
    for panel in PANELS:
        assert panel["title"]
        assert panel["datasource"] == asked
        assert panel["targets"]
        assert all(target["datasource"] == asked for target in panel["targets"])


def test_the_rows_of_the_dashboard():
    rows = [one["title"] for one in DASHBOARD["panels"] if one["type"] == "row"]
    assert rows == [
        "Links",
        "Linking",
        "Gateways and engines",
        "Database",
        "Page servers",
    ]


def test_no_panel_lies_on_another():
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, panel["title"]
        taken |= cells


def test_what_is_measured_is_shown_or_watched():
    asked = {one.name for _, text in EXPRESSIONS for one in selectors(parsed(text))}
    seen = {re.sub(r"_(bucket|count|sum)$", "", name) for name in asked}
    unseen = {"whatsapp_changes_untold", "whatsapp_engine_sessions"}
    unseen |= {"whatsapp_engine_codes_ready", "whatsapp_engine_answer_age_seconds"}
    unseen |= {"whatsapp_engine_lag_mean_seconds"}
    assert set(metrics.CATALOGUE) - seen == unseen
