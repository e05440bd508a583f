"""The simulator against bare Baileys: what it is worth depends on this agreeing."""

from __future__ import annotations

import contextlib
import json
import queue
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.simulator import Simulator, SimulatorError, find_node

CLIENT = Path(__file__).with_name("client.js")
PATIENCE = 60
PHONE = "79001234567"
WRITER: dict[str, Any] = {"from": "79550000000@s.whatsapp.net"}
"""Who writes in ``Simulator.traffic``."""

pytestmark = pytest.mark.timeout(300)


def wait_until(condition: Callable[[], Any], what: str) -> Any:
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        if found := condition():
            return found
        time.sleep(0.02)
    raise AssertionError(f"waited in vain: {what}")


class Client:
    """One Baileys client; its events come in order, and each is looked at once."""

    def __init__(self, clients: Clients, name: str) -> None:
        self.name = name
        self.events: queue.Queue[dict[str, Any]] = queue.Queue()
        self.seen: list[dict[str, Any]] = []
        self._clients = clients

    def do(self, command: str, **params: Any) -> None:
        self._clients.write({"client": self.name, "do": command, **params})

    def connect(self, **params: Any) -> Client:
        self.do("connect", **{"url": self._clients.url, **params})
        return self

    def wait(
        self, event: str, patience: float = PATIENCE, **expected: Any
    ) -> dict[str, Any]:
        deadline = time.monotonic() + patience
        while (left := deadline - time.monotonic()) > 0:
            try:
                found = self.events.get(timeout=left)
            except queue.Empty:
                break
            self.seen.append(found)
            if found["event"] == event and expected.items() <= found.items():
                return found
        raise AssertionError(f"no {event} {expected}; seen: {self.seen[-20:]}")

    def wait_for_all(self, *wanted: dict[str, Any]) -> None:
        """Wait for several events, whichever comes first."""
        missing = list(wanted)
        deadline = time.monotonic() + PATIENCE
        while missing:
            left = deadline - time.monotonic()
            assert left > 0, f"no {missing}; seen: {self.seen[-20:]}"
            with contextlib.suppress(queue.Empty):
                self.seen.append(found := self.events.get(timeout=left))
                missing = [it for it in missing if not it.items() <= found.items()]

    def code(self, phone: str) -> str:
        self.do("code", phone=phone)
        code: str = self.wait("code")["code"]
        return code


class Clients:
    def __init__(self, url: str) -> None:
        self.url = url
        self.rejections: list[dict[str, Any]] = []
        self._clients: dict[str, Client] = {}
        self._process = subprocess.Popen(
            [find_node(), str(CLIENT)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def new(self) -> Client:
        name = str(len(self._clients))
        self._clients[name] = Client(self, name)
        return self._clients[name]

    def write(self, command: dict[str, Any]) -> None:
        assert self._process.stdin
        self._process.stdin.write(json.dumps(command).encode() + b"\n")
        self._process.stdin.flush()

    def _read(self) -> None:
        assert self._process.stdout
        for line in self._process.stdout:
            event = json.loads(line)
            if client := self._clients.get(event.get("client", "")):
                client.events.put(event)
            else:
                self.rejections.append(event)

    def close(self) -> None:
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.close()
        self._process.wait(PATIENCE)
        self._reader.join(PATIENCE)
        self._process.stdout.close()


@pytest.fixture(scope="module")
def simulator() -> Iterator[Simulator]:
    with Simulator.start() as simulator:
        yield simulator


@pytest.fixture
def clients(simulator: Simulator) -> Iterator[Clients]:
    simulator.clear_faults()
    clients = Clients(simulator.ws_url)
    yield clients
    clients.close()
    simulator.clear_faults()
    simulator.phone(PHONE, exists=True, passkey=False).remove_device()
    wait_until(lambda: not simulator.journal()["connections"]["open"], "all gone")
    simulator.reset_journal()


@pytest.fixture
def client(clients: Clients) -> Client:
    return clients.new()


def link(simulator: Simulator, client: Client, number: str = PHONE) -> str:
    """Link by QR, up to open; the device's jid."""
    qr = client.connect().wait("qr")["qr"]
    linked = simulator.phone(number).scan(qr)
    assert linked["ok"], linked
    client.wait("open")
    jid: str = linked["jid"]
    return jid


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
    for client in (older, newer):
        client.connect().wait("qr")
        codes.append(client.code(PHONE))
        client.wait("acknowledged")

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
    for client, count in ((model, 1), (double, 2)):
        for _ in range(count):
            client.wait("message", **WRITER)
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


def test_a_code_dies_with_its_connection(simulator: Simulator, client: Client) -> None:
    simulator.fault("drop-after-hello-ack", phone=PHONE, ms=100)
    client.connect().wait("qr")

    code = client.code(PHONE)

    client.wait("close", status=428)
    assert simulator.phone(PHONE).enter_code(code)["error"] == "no pending code"


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
