"""What a gateway measures, for /metrics to tell."""

import asyncio
import json

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from aiadmin import metrics as endpoint
from tests.scrape import Scrape
from whatsapp import metrics
from whatsapp.engine import DisconnectReason
from whatsapp.engine.supervision import Cause
from whatsapp.figures import of_gateways
from whatsapp.gateway.metrics import GatewayMetrics, Waits
from whatsapp.models import Salon
from whatsapp.services.claims import OpenAttempt, Work
from whatsapp.services.credentials import ABSENT


def work(status: str, reason: str = "", since: float = 0.0) -> Work:
    """Return what a gateway reads of a salon that it has just claimed."""
    return Work(Salon(), status, True, 1, None, 0.0, ABSENT, None, reason, since)


def measured(figures: GatewayMetrics) -> Scrape:
    """Return a gateway's figures as they come out of its row."""
    snapshot = json.loads(json.dumps(figures.snapshot(0)))
    registry = CollectorRegistry()
    registry.register(endpoint._Families(of_gateways({"a": snapshot})))
    return Scrape(generate_latest(registry).decode())


def taken_over(*, how: bool, before: Work) -> Scrape:
    figures = GatewayMetrics()
    free_since = asyncio.get_running_loop().time() - 3
    waits = Waits(figures, free_since, handed_over=how)
    waits.looked(before)
    waits.looked(work("open"))  # what it shows later is its own doing
    waits.opened(None)
    waits.opened(None)
    return measured(figures)


SECONDS = "whatsapp_takeover_seconds"


@pytest.mark.parametrize(
    ("handed_over", "before", "how", "at_least"),
    [
        # Taken before anybody noticed: since it was seen without a gateway.
        (False, work("open"), "lost", 3),
        (False, work("degraded", "silent", 500), "lost", 3),
        # Somebody has noticed before us.
        (False, work("reconnecting", "gateway_lost", 40), "lost", 40),
        (False, work("reconnecting", "1010", 40), "lost", 40),
        # Left open by another one, for us.
        (True, work("connecting", "", 2), "handed_over", 3),
    ],
)
async def test_a_takeover_counts_from_when_the_salon_had_no_gateway(
    handed_over: bool, before: Work, how: str, at_least: float
):
    said = taken_over(how=handed_over, before=before)
    assert said.value(f"{SECONDS}_count") == 1
    seconds = said.value(f"{SECONDS}_sum", how=how)
    assert seconds is not None
    assert at_least <= seconds < at_least + 60


@pytest.mark.parametrize(
    ("handed_over", "before"),
    [
        (False, work("connecting")),  # somebody wished it to run
        (False, work("reconnecting", "428", 40)),  # WhatsApp was lost, no gateway
        (False, work("unlinked")),
        (False, work("replaced", "440")),
        (True, work("reconnecting", "1002", 900)),  # it was not open there either
    ],
)
async def test_what_no_gateway_has_lost_is_no_takeover(handed_over: bool, before: Work):
    said = taken_over(how=handed_over, before=before)
    assert said.value(f"{SECONDS}_count") == 0


async def test_the_time_to_a_code_counts_from_the_request_and_once():
    figures = GatewayMetrics()
    waits = Waits(figures, 0.0, handed_over=False)

    def attempt(number: int, kind: str, age: float) -> OpenAttempt:
        return OpenAttempt(number, kind, "", "requested", None, 20.0, False, age)

    waits.serves(attempt(7, "qr", 2.0))
    waits.serves(attempt(7, "qr", 5.0))  # another socket for the same request
    waits.shown(7)
    waits.shown(7)  # the next QR of the same attempt
    said = measured(figures)
    assert said.value("whatsapp_time_to_code_seconds_count", kind="qr") == 1
    assert said.value("whatsapp_time_to_code_seconds_count", kind="code") == 0
    seconds = said.value("whatsapp_time_to_code_seconds_sum", kind="qr")
    assert seconds is not None
    assert 2 <= seconds < 60
    # One that was replaced before it was shown is not mistaken for the next.
    waits.serves(attempt(8, "code", 1.0))
    waits.shown(7)
    waits.opened(7)
    said = measured(figures)
    assert said.value("whatsapp_time_to_code_seconds_count") == 1
    assert said.value("whatsapp_time_to_link_seconds_count") == 0
    waits.shown(8)
    waits.opened(8)
    said = measured(figures)
    assert said.value("whatsapp_time_to_link_seconds_count", kind="code") == 1
    assert said.value("whatsapp_time_to_link_seconds_count", kind="qr") == 0


async def test_a_loss_is_counted_by_what_began_it():
    figures = GatewayMetrics()
    waits = Waits(figures, 0.0, handed_over=False)
    waits.opened(None)
    waits.closed(DisconnectReason.CONNECTION_CLOSED, was_open=True)
    for _ in range(3):
        waits.closed(DisconnectReason.UNREACHABLE, was_open=False)
    said = measured(figures)
    assert said.value("whatsapp_reconnects_total") is None
    waits.opened(None)
    waits.opened(None)
    said = measured(figures)
    assert said.by("whatsapp_reconnects_total", "reason") == {"428": 1}
    assert said.by("whatsapp_disconnects_total", "reason") == {"428": 1, "1002": 3}
    assert said.value("whatsapp_reconnect_seconds_count") == 1


async def test_numbers_that_whatsapp_invents_are_one_label():
    figures = GatewayMetrics()
    waits = Waits(figures, 0.0, handed_over=False)
    for number in range(600, 700):
        waits.closed(DisconnectReason(number), was_open=False)
    said = measured(figures)
    assert said.by("whatsapp_disconnects_total", "reason") == {"other": 100}


def test_every_cause_of_an_end_is_seen_at_zero_before():
    said = measured(GatewayMetrics())
    name = "whatsapp_engine_restarts_total"
    causes = {sample.labels["cause"] for sample in said.samples(name)}
    assert causes == {cause.name.lower() for cause in Cause}
    assert said.value(name) == 0


async def test_figures_come_out_of_a_row_as_they_were_counted():
    figures = GatewayMetrics()
    for seconds in (0.0001, 0.02, 0.02, 700.0):
        figures.wrote("{}", None, seconds)
    counted = {
        (sample.name, sample.labels["what"], sample.labels.get("le")): sample.value
        for family in figures._registry.collect()
        if family.name == metrics.WRITE_SECONDS.name
        for sample in family.samples
        if not sample.name.endswith("_created")
    }
    said = measured(figures).families[metrics.WRITE_SECONDS.name].samples
    assert counted == {
        (one.name, one.labels["what"], one.labels.get("le")): one.value for one in said
    }
    assert len(counted) == 3 * (len(metrics.STORE) + 1 + 2)  # and +Inf, count, sum
    assert {one.labels["gateway"] for one in said} == {"a"}
