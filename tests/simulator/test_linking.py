"""How bare Baileys links at the simulator: codes, QRs, and the answers to both."""

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
    simulator,
    wait_until,
)

__all__ = ["client", "clients", "simulator"]

pytestmark = pytest.mark.timeout(300)


def test_a_qr_links_and_the_client_opens(simulator: Simulator, client: Client) -> None:
    qr = client.connect().wait("qr")["qr"]

    linked = simulator.phone(PHONE).scan(qr)

    assert linked == {"ok": True, "jid": linked["jid"]}
    client.wait("paired")
    client.wait("close", status=515)
    assert client.wait("open")["me"]["id"] == linked["jid"]
    [device] = simulator.phone(PHONE).devices()
    assert device["jid"] == linked["jid"]
    assert device["connected"]
    assert device["platform"] == "CHROME (Ubuntu)"
    journal = simulator.journal()
    assert journal["registrations"] == 1
    assert [login["answer"] for login in journal["logins"]] == ["success"]
    assert journal["devices"][linked["jid"]]["preKeyUploads"] == 1
    assert journal["devices"][linked["jid"]]["peakOpenSockets"] == 1


def test_a_code_links_and_the_client_opens(
    simulator: Simulator, client: Client
) -> None:
    client.connect().wait("qr")
    code = client.code(PHONE)
    client.wait("acknowledged")
    assert simulator.phone(PHONE).state()["pendingCode"]

    linked = simulator.phone(PHONE).enter_code(f"{code[:4]}-{code[4:].lower()}")

    assert linked["ok"], linked
    assert client.wait("open")["me"]["id"] == linked["jid"]
    assert not simulator.phone(PHONE).state()["pendingCode"]
    [hello] = simulator.journal()["hellos"]
    assert (hello["phone"], hello["answer"]) == (PHONE, "ok")


def test_a_wrong_code_is_told_and_the_right_one_still_links(
    simulator: Simulator, client: Client
) -> None:
    client.connect().wait("qr")
    code = client.code(PHONE)
    client.wait("acknowledged", stage="companion_hello")
    phone = simulator.phone(PHONE)

    wrong = phone.enter_code("WRNGWRNG" if code != "WRNGWRNG" else "WRNGWRNH")

    assert wrong == {"ok": False, "error": "wrong code"}
    # Baileys believes in it all the same.
    assert not client.wait("creds", registered=True)["linked"]
    assert phone.enter_code(code)["ok"]
    client.wait("open")


def test_a_wrong_code_poisons_the_qr_of_the_same_socket(
    simulator: Simulator, client: Client
) -> None:
    qr = client.connect().wait("qr")["qr"]
    client.code(PHONE)
    client.wait("acknowledged", stage="companion_hello")
    simulator.phone(PHONE).enter_code("WRNGWRNG")
    client.wait("creds", registered=True)

    assert not simulator.phone(PHONE).scan(qr)["ok"]

    client.wait("close", error="Invalid account signature")


def test_codes_without_a_hello_and_of_an_older_hello_fail(
    simulator: Simulator, clients: Clients
) -> None:
    phone = simulator.phone(PHONE)
    assert phone.enter_code("ABCDEFGH")["error"] == "no pending code"
    older, newer = clients.new(), clients.new()
    codes = []
    for one in (older, newer):
        one.connect().wait("qr")
        codes.append(one.code(PHONE))
        one.wait("acknowledged")

    assert phone.enter_code(codes[0])["error"] == "wrong code"
    assert phone.enter_code(codes[1])["ok"]
    newer.wait("open")


def test_an_unknown_ref_does_not_link(simulator: Simulator, client: Client) -> None:
    qr = client.connect().wait("qr")["qr"]
    client.do("end")
    client.wait("close")
    phone = simulator.phone(PHONE)

    wait_until(lambda: phone.scan(qr)["error"] == "unknown ref", "the ref is gone")
    assert phone.scan("https://example.org")["error"] == "not a WhatsApp QR"


@pytest.mark.parametrize("code", [400, 404, 429, 500, 503])
def test_a_refused_hello_still_gives_baileys_a_code(
    simulator: Simulator, client: Client, code: int
) -> None:
    client.connect().wait("qr")
    with simulator.fault("hello", phone=PHONE, answer=code):
        client.do("code", phone=PHONE)
        error = client.wait("iq-error")["error"]

    assert error["code"] == str(code)
    assert simulator.phone(PHONE).enter_code("ABCDEFGH")["error"] == "no pending code"
    assert simulator.journal()["hellos"][0]["answer"] == code


def test_unknown_numbers_and_made_up_browsers_are_refused(
    simulator: Simulator, clients: Clients
) -> None:
    simulator.phone(PHONE, exists=False)
    unknown, brand = clients.new(), clients.new()
    unknown.connect().wait("qr")
    brand.connect(browser=["My Brand", "Chrome", "1.0"]).wait("qr")

    unknown.do("code", phone=PHONE)
    assert unknown.wait("iq-error")["error"]["code"] == "404"
    brand.do("code", phone="79001234568")
    assert brand.wait("iq-error")["error"]["code"] == "400"


@pytest.mark.parametrize(
    ("answer", "event", "expected"),
    [
        ("drop", "close", {"status": 428}),
        ("stream-503", "close", {"status": 503}),
        ("passkey", "notification", {"type": "passkey_prologue_request"}),
        ("companion_reg_refresh", "notification", {"type": "companion_reg_refresh"}),
        ("refresh_code", "notification", {"type": "link_code_companion_reg"}),
    ],
)
def test_other_answers_to_a_hello(
    simulator: Simulator,
    client: Client,
    answer: str,
    event: str,
    expected: dict[str, Any],
) -> None:
    client.connect().wait("qr")
    simulator.fault("hello", phone=PHONE, answer=answer, times=1)

    client.do("code", phone=PHONE)

    client.wait(event, **expected)


def test_a_silent_and_a_slow_hello(simulator: Simulator, clients: Clients) -> None:
    silent, slow = clients.new(), clients.new()
    silent.connect().wait("qr")
    slow.connect().wait("qr")
    simulator.fault("hello", phone=PHONE, answer="silence", times=1)
    simulator.fault("hello", phone="79001234568", answer="ok", delayMs=300)

    silent.code(PHONE)
    started = time.monotonic()
    slow.code("79001234568")
    slow.wait("acknowledged")

    assert time.monotonic() - started > 0.3
    assert simulator.journal()["hellos"][0]["answer"] == "silence"
    assert not simulator.phone(PHONE).state()["pendingCode"]


def test_a_passkey_account_is_asked_for_it_and_not_linked(
    simulator: Simulator, client: Client
) -> None:
    qr = client.connect().wait("qr")["qr"]

    scanned = simulator.phone(PHONE, passkey=True).scan(qr)

    assert scanned == {"ok": False, "error": "passkey required"}
    client.wait("notification", type="passkey_prologue_request")


@pytest.mark.parametrize("answer", ["error", "silence", "no-pair-success"])
def test_answers_to_a_finish(simulator: Simulator, client: Client, answer: str) -> None:
    client.connect().wait("qr")
    code = client.code(PHONE)
    client.wait("acknowledged")
    simulator.fault("finish", phone=PHONE, answer=answer)

    assert not simulator.phone(PHONE).enter_code(code)["ok"]
    assert simulator.phone(PHONE).devices() == []


def test_a_missing_and_a_late_515(simulator: Simulator, clients: Clients) -> None:
    simulator.fault("no-515", phone=PHONE)
    simulator.fault("late-515", phone="79001234568", ms=300)
    never, late = clients.new(), clients.new()

    assert simulator.phone(PHONE).scan(never.connect().wait("qr")["qr"])["ok"]
    never.wait("paired")
    started = time.monotonic()
    qr = late.connect().wait("qr")["qr"]
    assert simulator.phone("79001234568").scan(qr)["ok"]
    late.wait("close", status=515)
    assert time.monotonic() - started > 0.3
    late.wait("open")
    assert simulator.drop(phone=PHONE) == 1
    never.wait("close", status=428)


@pytest.mark.parametrize(("unverified", "devices"), [(False, 1), (True, 0)])
def test_a_drop_after_pair_success(
    simulator: Simulator, client: Client, unverified: bool, devices: int
) -> None:
    simulator.fault("drop-after-pair-success", phone=PHONE, unverified=unverified)
    qr = client.connect().wait("qr")["qr"]

    assert simulator.phone(PHONE).scan(qr)["ok"] is not unverified

    client.wait("close", status=428)
    assert len(simulator.phone(PHONE).devices()) == devices


def test_a_code_dies_with_its_connection(simulator: Simulator, client: Client) -> None:
    simulator.fault("drop-after-hello-ack", phone=PHONE, ms=100)
    client.connect().wait("qr")

    code = client.code(PHONE)

    client.wait("close", status=428)
    assert simulator.phone(PHONE).enter_code(code)["error"] == "no pending code"
