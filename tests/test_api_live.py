"""A program and a running service: what a partner's script does, and what it is told.

The service runs as a user starts it, on a simulated WhatsApp; keys are made by the
command. The program knows docs/api.md and nothing else of ours.
"""

import json
import signal
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import pytest

from tests.scenarios import PATIENCE, SalonUnderTest, World
from tests.server import Server
from tests.service_fixtures import salon, simulator
from tests.simulator import Simulator

__all__ = ["salon", "simulator"]

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]

EVERY_SECONDS = 0.5
"""As often as a key may ask all the time, by default."""

ALL_SCOPES = "read,link,operate"

Json = dict[str, Any]


@pytest.fixture(scope="module")
def world(
    tmp_path_factory: pytest.TempPathFactory, simulator: Simulator
) -> Iterator[World]:
    """Pages and gateway as own processes: the way that is slower to hear of a wish."""
    with World(
        tmp_path_factory.mktemp("service"), simulator, clocks={}, gateways=1
    ) as running:
        yield running


@dataclass(frozen=True, slots=True)
class Told:
    """An answer."""

    status: int
    headers: Any
    text: str

    @property
    def json(self) -> Json:
        body: Json = json.loads(self.text)
        return body

    @property
    def problem(self) -> str:
        """The code of a problem, after a look at its form."""
        assert self.headers["Content-Type"] == "application/problem+json", self.text
        body = self.json
        assert body["status"] == self.status
        assert body["type"] == f"urn:aiadmin:problem:{body['code']}"
        assert body["title"]
        assert body["detail"].endswith((".", "wak_…"))
        assert self.headers.get("Retry-After") == (
            str(body["retryAfter"]) if "retryAfter" in body else None
        )
        return str(body["code"])


class Program:
    """A partner's script with a key."""

    def __init__(self, server: Server, key: str) -> None:
        self.base = f"{server.url}/api/v1"
        self.key = key

    def ask(
        self, method: str, path: str, body: Any = None, once: str = "", **headers: str
    ) -> Told:
        """Send a request."""
        if self.key:
            headers["Authorization"] = f"Bearer {self.key}"
        if once:
            headers["Idempotency-Key"] = once
        data = None
        if body is not None:
            data = json.dumps(body).encode()
            headers["Content-Type"] = "application/json"
        request = urllib.request.Request(  # noqa: S310  (the service's own address)
            self.base + path,
            data,
            {"Accept-Language": "en", **headers},
            method=method,
        )
        try:
            opened = urllib.request.urlopen(request, timeout=PATIENCE)  # noqa: S310
            with opened as answer:
                return Told(answer.status, answer.headers, answer.read().decode())
        except urllib.error.HTTPError as refusal:
            with refusal:
                return Told(refusal.code, refusal.headers, refusal.read().decode())

    def get(self, path: str, status: int = 200) -> Told:
        told = self.ask("GET", path)
        assert told.status == status, told
        return told

    def post(self, path: str, status: int, body: Any = None, once: str = "") -> Told:
        told = self.ask("POST", path, body, once)
        assert told.status == status, told
        return told

    def until(self, path: str, wanted: Callable[[Json], object]) -> Json:
        """Ask again and again until the answer is wanted."""
        deadline = time.monotonic() + PATIENCE
        while True:
            body = self.get(path).json
            if wanted(body):
                return body
            assert time.monotonic() < deadline, body
            time.sleep(EVERY_SECONDS)

    def session(self, salon: SalonUnderTest, status: str) -> Json:
        """Wait until a salon's session has a status."""
        return self.until(
            f"/salons/{salon.salon_id}/session", lambda body: body["status"] == status
        )

    def attempt(self, salon: SalonUnderTest, number: int, stage: str) -> Json:
        """Wait until a link attempt has come to a stage."""
        return self.until(
            f"/salons/{salon.salon_id}/attempts/{number}",
            lambda body: body["stage"] == stage,
        )

    def link(self, salon: SalonUnderTest) -> None:
        """Link the salon's phone by code."""
        path = f"/salons/{salon.salon_id}/pairing-codes"
        asked = self.post(path, 202, {"phone": f"+{salon.number}"}).json
        shown = self.attempt(salon, asked["id"], "shown")
        assert salon.phone.enter_code(shown["code"])["ok"]
        self.session(salon, "open")


def make_key(world: World, salon: SalonUnderTest | None, scopes: str, name: str) -> str:
    """Have an operator make a key; it is the only thing on the standard output."""
    whose = ["--service"] if salon is None else ["--salon", salon.session_id]
    made = world.manage(
        "whatsapp_key", "create", *whose, "--name", name, "--scopes", scopes
    )
    assert made.count("\n") == 1
    return made.strip()


def program(world: World, salon: SalonUnderTest, scopes: str = ALL_SCOPES) -> Program:
    return Program(world.server, make_key(world, salon, scopes, "robot"))


def test_a_program_links_a_phone_by_code_stops_it_connects_it_and_forgets_it(
    world: World, salon: SalonUnderTest
):
    robot = program(world, salon)
    base = f"/salons/{salon.salon_id}"
    session = robot.get(f"{base}/session").json
    assert (session["status"], session["phone"]) == ("unlinked", None)
    assert session["attempt"] is None
    assert robot.get(f"{base}/credentials").json == {
        "salonId": salon.salon_id,
        "hasCredentials": False,
        "state": "absent",
        "phone": None,
        "canReset": True,
    }
    assert robot.post(f"{base}/connect", 409).problem == "NOT_LINKED"

    asked = robot.post(f"{base}/pairing-codes", 202, {"phone": f"+{salon.number}"}).json
    assert (asked["kind"], asked["stage"], asked["code"]) == ("code", "requested", None)
    assert 0 < asked["expiresIn"] <= 20
    shown = robot.attempt(salon, asked["id"], "shown")
    assert 100 < shown["expiresIn"] <= 160
    again = robot.post(f"{base}/pairing-codes", 200, {"phone": salon.number}).json
    assert again["id"] == asked["id"]
    assert salon.phone.enter_code(shown["code"])["ok"]

    linked = robot.attempt(salon, asked["id"], "linked")
    assert (linked["code"], linked["expiresIn"], linked["error"]) == (None, None, None)
    masked = f"79***{salon.number[-4:]}"
    session = robot.session(salon, "open")
    assert session["phone"] == masked
    assert session["proofAge"] is not None
    known = robot.get(f"{base}/credentials").json
    assert (known["hasCredentials"], known["state"], known["phone"]) == (
        True,
        "linked",
        masked,
    )
    (device,) = salon.phone.devices()

    left = robot.post(f"{base}/connect", 200).json
    assert (left["outcome"], left["session"]["status"]) == ("left_open", "open")
    robot.post(f"{base}/disconnect", 202)
    robot.session(salon, "stopped")
    assert robot.post(f"{base}/disconnect", 200).json["outcome"] == "already"
    assert robot.get(f"{base}/credentials").json["state"] == "linked"
    begun = robot.post(f"{base}/connect", 202).json
    assert (begun["outcome"], begun["session"]["status"]) == ("started", "connecting")
    robot.session(salon, "open")
    assert [each["device"] for each in salon.phone.devices()] == [device["device"]]

    forgotten = robot.post(f"{base}/credentials/reset", 200).json
    assert forgotten["success"] is True
    assert forgotten["credentials"]["hasCredentials"] is False
    assert robot.session(salon, "unlinked")["phone"] is None
    _until(lambda: not salon.phone.devices(), "the phone has no device any more")

    events = robot.get(f"{base}/events?limit=100").json["items"]
    names = [event["name"] for event in events if event["source"] == "audit"]
    assert set(names) >= {"key_created", "disconnect", "reconnect", "reset"}
    text = json.dumps(events) + json.dumps(linked) + json.dumps(session)
    for secret in (salon.number, shown["code"], robot.key):
        assert secret not in text
    assert shown["code"] not in world.logs
    assert robot.key not in world.logs


def _until(condition: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.1)


def test_a_program_links_a_phone_by_qr(world: World, salon: SalonUnderTest):
    robot = program(world, salon)
    base = f"/salons/{salon.salon_id}"
    asked = robot.post(f"{base}/qrs", 202).json
    assert (asked["kind"], asked["qr"]) == ("qr", None)
    shown = robot.until(f"{base}/attempts/{asked['id']}", lambda body: body["qr"])
    assert shown["qrExpiresIn"] > 0
    assert salon.phone.scan(shown["qr"])["ok"]
    robot.attempt(salon, asked["id"], "linked")
    robot.session(salon, "open")
    assert robot.post(f"{base}/qrs", 409).problem == "ALREADY_CONNECTED"
    wish = {"phone": salon.number}
    assert robot.post(f"{base}/pairing-codes", 409, wish).problem == "ALREADY_CONNECTED"


def test_what_is_sent_again_is_done_once_even_at_the_same_instant(
    world: World, salon: SalonUnderTest
):
    robot = program(world, salon)
    path = f"/salons/{salon.salon_id}/pairing-codes"
    wish = {"phone": f"+{salon.number}"}
    together = threading.Barrier(8)

    def ask(_turn: int) -> Told:
        together.wait(PATIENCE)
        return robot.ask("POST", path, wish, once="the-same")

    with ThreadPoolExecutor(8) as threads:
        told = list(threads.map(ask, range(8)))
    done = [each for each in told if each.status == 202]
    assert done
    assert {each.text for each in done} == {done[0].text}
    assert sum("Idempotency-Replayed" not in each.headers for each in done) == 1
    early = [each for each in told if each.status != 202]
    assert {each.problem for each in early} <= {"REQUEST_IN_PROGRESS"}

    robot.attempt(salon, done[0].json["id"], "shown")
    again = robot.post(path, 202, wish, once="the-same")
    assert again.text == done[0].text
    assert again.headers["Idempotency-Replayed"] == "true"
    other = robot.post(path, 422, {"phone": salon.other_number}, once="the-same")
    assert other.problem == "IDEMPOTENCY_KEY_REUSED"
    attempts = robot.get(f"/salons/{salon.salon_id}/attempts").json["items"]
    assert [each["id"] for each in attempts] == [done[0].json["id"]]


def test_a_reset_that_is_sent_again_does_not_undo_what_came_between(
    world: World, salon: SalonUnderTest
):
    robot = program(world, salon)
    path = f"/salons/{salon.salon_id}/credentials/reset"
    first = robot.post(path, 200, once="clean-up")
    robot.link(salon)
    assert robot.post(path, 200, once="clean-up").text == first.text
    assert salon.creds() is not None
    assert robot.session(salon, "open")


def test_strangers_are_told_nothing_and_all_alike(world: World, salon: SalonUnderTest):
    theirs = world.salon()
    mine = program(world, salon, "read")
    told = {
        mine.get(f"/salons/{name}/session", 404).text
        for name in (theirs.salon_id, theirs.session_id, 999_999_999, "roses")
    }
    assert len(told) == 1
    for name in (salon.salon_id, theirs.salon_id, 999_999_999):
        refused = mine.post(f"/salons/{name}/disconnect", 403)
        assert refused.problem == "FORBIDDEN"
    everywhere = Program(
        world.server, make_key(world, None, "read", f"watch {salon.salon_id}")
    )
    everywhere.get(f"/salons/{theirs.session_id}/session")
    nobody = Program(world.server, "")
    assert nobody.get("/sessions", 401).headers["WWW-Authenticate"] == "Bearer"
    assert mine.get("/salons/1/roses", 404).problem == "NOT_FOUND"
    assert mine.ask("DELETE", f"/salons/{salon.salon_id}/session").status == 405


def test_a_key_that_ends_while_it_is_used_opens_nothing_from_then_on(
    world: World, salon: SalonUnderTest
):
    path = f"/salons/{salon.salon_id}/session"
    revoked = Program(world.server, make_key(world, salon, "read", "leaving"))
    revoked.get(path)
    world.manage("whatsapp_key", "revoke", revoked.key[:14])
    expired = Program(world.server, make_key(world, salon, "read", "short"))
    expired.get(path)
    world.query(
        "UPDATE whatsapp_apikey SET expires_at = now() WHERE prefix = %s",
        expired.key.split("_")[1],
    )
    answers = {each.get(path, 401).text for each in (revoked, expired)}
    answers.add(Program(world.server, "wak_").get(path, 401).text)
    assert len(answers) == 1


def test_a_program_that_is_too_fast_is_told_when_to_come_back(
    world: World, salon: SalonUnderTest
):
    robot = program(world, salon)
    path = f"/salons/{salon.salon_id}/session"
    with world.start_pages({"WHATSAPP_API_RATE": "3/3600"}) as pages:
        strict = Program(pages, robot.key)
        for _turn in range(3):
            strict.get(path)
        refused = strict.get(path, 429)
        assert refused.problem == "TOO_MANY_REQUESTS"
        assert 0 < int(refused.headers["Retry-After"]) <= 1200


def test_without_a_gateway_a_program_is_told_so(simulator: Simulator, tmp_path: Any):
    with World(tmp_path, simulator, clocks={}, gateways=1) as world:
        salon = world.salon()
        robot = program(world, salon)
        robot.link(salon)
        (gateway,) = world.gateways
        world.kill_gateway(gateway)
        lost = robot.session(salon, "reconnecting")
        assert lost["reason"] == "gateway_lost"
        assert lost["proofAge"] is None
        begun = robot.post(f"/salons/{salon.salon_id}/connect", 202).json
        assert begun["outcome"] == "started"
        # Nobody takes it up, and nobody may be told that somebody does.
        robot.session(salon, "reconnecting")
        world.gateways.append(world.start_gateway())
        robot.session(salon, "open")
        assert world.server.stop(signal.SIGTERM) == 0
