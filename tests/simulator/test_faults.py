"""Faults of the simulator's connections, as bare Baileys feels them."""

from __future__ import annotations

import time
from typing import Any

import pytest

from tests.simulator import Simulator
from tests.simulator.client_fixtures import (
    PHONE,
    Client,
    Clients,
    client,
    clients,
    link,
    simulator,
    wait_until,
)

__all__ = ["client", "clients", "simulator"]

pytestmark = pytest.mark.timeout(300)


def test_a_refused_port_comes_back_on_the_same_number(
    simulator: Simulator, client: Client
) -> None:
    with simulator.fault("refuse"):
        client.connect()
        client.wait("close", status=408)
    client.connect().wait("qr")


def test_http_errors_and_a_black_hole(simulator: Simulator, clients: Clients) -> None:
    blocked, ignored = clients.new(), clients.new()
    with simulator.fault("http", status=403):
        blocked.connect().wait("http", status=403)
    with simulator.fault("blackhole"):
        ignored.connect(timeout=500).wait("close", status=408)
    with simulator.fault("keepalive-503"):
        ignored.connect(timeout=500).wait("close", status=408)


@pytest.mark.parametrize("reason", [401, 402, 403, 405, 409, 411, 500, 503])
def test_a_failure_instead_of_a_registration(
    simulator: Simulator, client: Client, reason: int
) -> None:
    simulator.fault("failure", reason=reason, on="registration", times=1)

    client.connect().wait("close", status=reason)


def test_slow_and_missing_steps_of_a_connection(
    simulator: Simulator, clients: Clients
) -> None:
    with simulator.fault("slow-handshake", ms=300):
        started = time.monotonic()
        clients.new().connect().wait("qr")
        assert time.monotonic() - started > 0.3
    with simulator.fault("delay", ms=200):
        clients.new().connect().wait("qr")
    with simulator.fault("drop-after", ms=50):
        clients.new().connect().wait("close", status=428)
    with simulator.fault("no-server-hello"):
        clients.new().connect(timeout=500).wait("close", status=408)
    with simulator.fault("no-pair-device"):
        # How many of the others came so far depends on how fast the machine is.
        before = simulator.journal()["registrations"]
        clients.new().connect()
        wait_until(lambda: simulator.journal()["registrations"] > before, "registered")


@pytest.mark.parametrize("code", [500, 503, 515])
def test_stream_errors(simulator: Simulator, client: Client, code: int) -> None:
    jid = link(simulator, client)

    assert simulator.stream_error(code, jid=jid) == 1

    client.wait("close", status=code)


@pytest.mark.parametrize("behind", ["pair-device", "dirty", "offline_preview"])
def test_a_stanza_behind_a_stream_error_is_an_unhandled_rejection(
    simulator: Simulator, clients: Clients, behind: Any
) -> None:
    client = clients.new()
    link(simulator, client)

    simulator.stream_error(503, behind=behind, phone=PHONE)

    client.wait("close", status=503)
    wait_until(lambda: clients.rejections, "a rejection that nobody handles")


@pytest.mark.parametrize("broken", ["garbage", "undecodable"])
def test_broken_frames_are_unhandled_rejections(
    simulator: Simulator, clients: Clients, broken: str
) -> None:
    link(simulator, clients.new())

    assert getattr(simulator, broken)(phone=PHONE) == 1

    wait_until(lambda: clients.rejections, "a rejection that nobody handles")


def test_a_frozen_server_answers_nothing_until_it_thaws(
    simulator: Simulator, client: Client
) -> None:
    jid = link(simulator, client)
    assert simulator.freeze(jid=jid) == 1

    client.do("send", to="79001234568@s.whatsapp.net", text="hello?")

    with pytest.raises(AssertionError):
        client.wait("sent", patience=0.5)
    simulator.freeze(jid=jid, on=False)
    client.wait("sent")
