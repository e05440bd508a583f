"""The simulator against bare Baileys: what it is worth depends on this agreeing."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.simulator import Simulator, SimulatorError
from tests.simulator.client_fixtures import (
    PATIENCE,
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
WRITER: dict[str, Any] = {"from": "79550000000@s.whatsapp.net"}
"""Who writes in ``Simulator.traffic``."""


def test_a_new_device_hears_from_its_phone_and_gets_messages(
    simulator: Simulator, client: Client
) -> None:
    link(simulator, client)
    wait_until(
        lambda: client.wait("creds").get("appStateKey"), "the app state key arrived"
    )
    phone = simulator.phone(PHONE)

    phone.send_text("first", sender="79001234568")
    phone.send_text("second", sender="79001234568")

    first = client.wait("message", text="first")
    assert first["from"] == "79001234568@s.whatsapp.net"
    client.wait("message", text="second")
    client.do("send", to="79001234568@s.whatsapp.net", text="answer")
    sent = client.wait("sent")["id"]
    wait_until(
        lambda: sent in [m["id"] for m in simulator.journal()["messages"]], "sent"
    )
    phone.send_text("third", sender="79001234568")
    client.wait("message", text="third")


def test_a_doubled_device_logs_in_with_the_keys_of_its_model_and_reads(
    simulator: Simulator, clients: Clients
) -> None:
    model, double = clients.new(), clients.new()
    jid = link(simulator, model)
    wait_until(
        lambda: model.wait("creds").get("appStateKey"), "the app state key arrived"
    )
    model.do("dump")
    dump = model.wait("dump")
    (device,) = simulator.double_device(jid, ["79001234570"])
    creds = json.loads(dump["creds"])
    creds["me"] = {"id": device["jid"], "lid": device["lid"]}

    double.do("load", creds=json.dumps(creds), keys=dump["keys"])
    double.wait("loaded")
    double.connect().wait("open")

    said = simulator.traffic([jid, device["jid"], device["jid"]])
    assert (said["sent"], said["read"], len(said["ms"])) == (3, 3, 3)
    for one, count in ((model, 1), (double, 2)):
        for _ in range(count):
            one.wait("message", **WRITER)
    assert simulator.journal()["devices"][device["jid"]]["preKeyUploads"] == 0


def test_traffic_counts_who_does_not_read(
    simulator: Simulator, clients: Clients
) -> None:
    reader, off, cut = (clients.new() for _ in range(3))
    jids = [
        link(simulator, client, phone)
        for client, phone in (
            (reader, PHONE),
            (off, "79001234571"),
            (cut, "79001234572"),
        )
    ]
    off.do("end")
    off.wait("close")
    wait_until(
        lambda: not simulator.phone("79001234571").devices()[0]["connected"], "off"
    )
    # A dead peer does not read; then it is gone.
    simulator.freeze(jid=jids[2])
    with ThreadPoolExecutor() as threads:
        said = threads.submit(simulator.traffic, jids)
        reader.wait("message", **WRITER)
        simulator.drop(jid=jids[2])
        assert {**said.result(PATIENCE), "ms": 0} == {"sent": 2, "read": 1, "ms": 0}

    with pytest.raises(SimulatorError, match="is not linked"):
        simulator.traffic(["79001234573:1@s.whatsapp.net"])
    with pytest.raises(SimulatorError, match="a linked device expected"):
        simulator.double_device("79001234573:1@s.whatsapp.net", [PHONE])


def test_connections_can_be_told_apart(simulator: Simulator, clients: Clients) -> None:
    jid = link(simulator, clients.new())
    waiting = clients.new()
    waiting.connect().wait("qr")

    stages = {item["stage"]: item for item in simulator.connections()}
    assert stages["open"]["jid"] == jid
    assert simulator.drop(stage="registration") == 1

    waiting.wait("close", status=428)
    assert simulator.phone(PHONE).devices()[0]["connected"]


def test_the_control_port_refuses_what_it_does_not_understand(
    simulator: Simulator,
) -> None:
    assert simulator.request("GET", "/healthz") == {"ok": True}
    for method, path, body in [
        ("POST", "/faults", {"kind": "earthquake"}),
        ("POST", "/connections/drop", {}),
        ("POST", "/phones", {"phone": "nobody"}),
        ("POST", f"/phones/{PHONE}/scan", {}),
        ("POST", f"/phones/{PHONE}/adopt-device", {"jid": "1:2@s.whatsapp.net"}),
        ("GET", "/phones/79009999999", None),
        ("GET", "/nowhere", None),
        ("PUT", "/journal", None),
    ]:
        with pytest.raises(SimulatorError, match=path):
            simulator.request(method, path, body)


def test_a_fault_counts_its_uses_and_goes(simulator: Simulator) -> None:
    with simulator.fault("hello", phone=f"+{PHONE}", answer=429) as fault:
        [listed] = simulator.request("GET", "/faults")["faults"]
        assert (listed["id"], listed["phone"], listed["used"]) == (fault.id, PHONE, 0)

    assert simulator.request("GET", "/faults")["faults"] == []


def test_the_process_ends_with_its_stdin() -> None:
    simulator = Simulator.start()
    simulator.stop()

    with pytest.raises(ConnectionRefusedError):
        simulator.journal()


def test_fifty_clients_in_one_go(simulator: Simulator, clients: Clients) -> None:
    numbers = [f"7900{index:07}" for index in range(50)]
    # The last must still have its QR when its turn comes.
    started = [clients.new().connect(qrMs=300_000) for _ in numbers]

    def run(client: Client, number: str) -> str:
        linked = simulator.phone(number).scan(
            client.wait("qr")["qr"], timeout_ms=60_000
        )
        assert linked["ok"], linked
        jid: str = client.wait("open")["me"]["id"]
        return jid

    with ThreadPoolExecutor(4) as pool:
        jids = list(pool.map(run, started, numbers))

    journal = simulator.journal()
    assert journal["connections"]["open"] == 50
    assert {journal["devices"][jid]["peakOpenSockets"] for jid in jids} == {1}
    assert journal["unknownLogins"] == 0
    for number in numbers:
        simulator.phone(number).remove_device()
