"""How linked devices log in at the simulator, and how they end."""

from __future__ import annotations

import pytest

from tests.simulator import Simulator
from tests.simulator.client_fixtures import (
    PHONE,
    Client,
    client,
    clients,
    link,
    simulator,
    wait_until,
)

__all__ = ["client", "clients", "simulator"]

pytestmark = pytest.mark.timeout(300)


def test_a_linked_client_logs_in_again_without_uploading_pre_keys(
    simulator: Simulator, client: Client
) -> None:
    jid = link(simulator, client)
    client.wait("creds", registered=False)
    client.do("end")
    client.wait("close")

    client.connect().wait("open")

    device = simulator.journal()["devices"][jid]
    assert (device["logins"], device["preKeyUploads"]) == (2, 1)
    assert device["peakOpenSockets"] == 1


def test_a_removed_device_hears_of_it_and_is_refused_later(
    simulator: Simulator, client: Client
) -> None:
    jid = link(simulator, client)

    [device] = simulator.phone(PHONE).devices()
    assert simulator.phone(PHONE).remove_device(device["device"]) == [device["device"]]

    error = client.wait("close", status=401)["error"]
    assert "conflict" in error
    client.connect()
    assert client.wait("close", status=401)["error"] == "Connection Failure"
    journal = simulator.journal()
    assert (journal["removedLogins"], journal["unknownLogins"]) == (1, 0)
    assert journal["devices"][jid]["removedAt"]


def test_a_client_that_was_never_linked_is_refused(
    simulator: Simulator, client: Client
) -> None:
    """The state that requestPairingCode leaves behind: `me`, and no device."""
    client.connect().wait("qr")
    client.code(PHONE)
    client.do("end")
    client.wait("close")

    client.connect()

    assert client.wait("close", status=401)["error"] == "Connection Failure"
    assert simulator.journal()["unknownLogins"] == 1


def test_a_second_login_replaces_the_first_and_the_journal_tells(
    simulator: Simulator, client: Client
) -> None:
    jid = link(simulator, client)

    client.connect()

    # In whatever order the two sockets say it.
    client.wait_for_all({"event": "close", "status": 440}, {"event": "open"})
    assert simulator.journal()["devices"][jid]["peakOpenSockets"] == 2


def test_the_journal_tells_why_each_socket_of_a_device_ended(
    simulator: Simulator, client: Client
) -> None:
    since = simulator.sockets()["next"]
    jid = link(simulator, client)

    client.connect()
    client.wait_for_all({"event": "close", "status": 440}, {"event": "open"})
    simulator.stream_error(503, jid=jid)
    client.wait("close", status=503)
    client.connect().wait("open")
    simulator.drop(jid=jid)
    client.wait("close", status=428)
    client.connect().wait("open")
    client.do("end")
    wait_until(lambda: not simulator.phone(PHONE).devices()[0]["connected"], "gone")

    told = [each for each in simulator.sockets(since)["sockets"] if each["jid"] == jid]
    ends = [each["cause"] for each in told if each["event"] == "ended"]
    assert ends == ["replaced", "stream:error 503", "dropped", "client"]
    connections = [each["connection"] for each in told if each["event"] == "opened"]
    assert len(set(connections)) == len(ends)
    assert simulator.sockets(told[-1]["number"])["sockets"][0] == told[-1]

    def hung_up() -> list[int]:
        later = simulator.sockets(since)["sockets"]
        return [each["connection"] for each in later if each["event"] == "closed"]

    wait_until(lambda: set(connections) <= set(hung_up()), "TCP is gone, too")


def test_logout_removes_the_device(simulator: Simulator, client: Client) -> None:
    link(simulator, client)

    client.do("logout")

    client.wait("close", status=401)
    wait_until(lambda: not simulator.phone(PHONE).devices(), "device removed")


def test_an_adopted_device_may_log_in(simulator: Simulator, client: Client) -> None:
    jid = f"{PHONE}:7@s.whatsapp.net"
    simulator.phone(PHONE).adopt_device(jid)

    client.connect(creds={"me": {"id": jid, "name": "Salon"}})

    client.wait("open")
    assert simulator.journal()["devices"][jid]["preKeyUploads"] == 0


def test_faults_of_a_login(simulator: Simulator, client: Client) -> None:
    jid = link(simulator, client)

    def again() -> None:
        simulator.drop(jid=jid)
        client.wait("close", status=428)
        client.connect()

    with simulator.fault("login", phone=PHONE, answer="failure", reason=403):
        again()
        client.wait("close", status=403)
        client.connect()
        client.wait("close", status=403)
    with simulator.fault("failure", phone=PHONE, on="login", reason=405, times=1):
        client.connect()
        client.wait("close", status=405)
    with simulator.fault("slow-login", jid=jid, ms=100):
        client.connect().wait("open")
    with simulator.fault("no-open", phone=PHONE):
        again()
        count = len(simulator.journal()["logins"])
        wait_until(
            lambda: (
                len(simulator.journal()["logins"]) >= count
                and simulator.phone(PHONE).devices()[0]["connected"]
            ),
            "logged in, not open",
        )
    with simulator.fault("login", phone=PHONE, answer="silence"):
        again()
        wait_until(
            lambda: simulator.journal()["logins"][-1]["answer"] == "silence", "silence"
        )
