"""The REST interface: what programs see, and the frame around it."""

import json
from datetime import timedelta

import pytest
from django.db import connection
from django.db.models.functions import Now
from django.test.utils import CaptureQueriesContext

from tests.api_world import BASE, Program, code_of, make_key, program
from tests.factories import (
    OTHER_PHONE,
    PHONE,
    QR,
    last_attempt,
    link,
    make_creds,
    make_salon,
    show_code,
    show_qr,
    store_creds,
)
from whatsapp.api import api
from whatsapp.errors import CATALOGUE
from whatsapp.models import AuditEvent, PairingAttempt, WhatsAppSession
from whatsapp.services import pairing, sessions

pytestmark = pytest.mark.django_db


# --- what is seen ---------------------------------------------------------------------


def test_a_session_is_shown_with_its_phone_masked():
    salon = make_salon(title="Ромашка")
    link(salon)
    answer = program(salon).get(f"/salons/{salon.salon_id}/session")
    assert answer["Cache-Control"] == "no-store"
    body = answer.json()
    assert (body["salonId"], body["sessionId"]) == (salon.salon_id, salon.session_id)
    assert (body["title"], body["status"], body["phone"]) == (
        "Ромашка",
        "open",
        "79***4567",
    )
    assert body["message"] == "WhatsApp is connected."
    assert body["attempt"]["stage"] == "linked"
    assert body["proofAge"] is not None
    assert PHONE not in answer.content.decode()


def test_sentences_are_in_the_language_that_is_asked_for():
    salon = make_salon()
    _key, text = make_key(salon)
    path = f"/salons/{salon.salon_id}/session"
    russian = Program(text, **{"accept-language": "ru"}).get(path).json()
    assert russian["message"].startswith("WhatsApp ещё не")
    problem = Program(None, **{"accept-language": "ru"}).get(path).json()
    assert "ключ" in problem["detail"]


def test_sessions_are_listed_page_by_page_and_none_is_left_out():
    salons = [make_salon() for _ in range(5)]
    reader, seen, after = program(None, "read"), [], ""
    for _page in range(3):
        answer = reader.get(f"/sessions?limit=2{after}").json()
        seen += [each["salonId"] for each in answer["items"]]
        after = f"&after={answer['next']}"
    assert seen == [salon.salon_id for salon in salons]
    assert answer["next"] is None


def test_sessions_are_filtered_by_status():
    stopped, unlinked, never_used = (make_salon() for _ in range(3))
    WhatsAppSession.objects.filter(salon=stopped).update(status="stopped")
    WhatsAppSession.objects.filter(salon=never_used).delete()
    reader = program(None, "read")

    def found(status):
        items = reader.get(f"/sessions?status={status}").json()["items"]
        return [each["salonId"] for each in items]

    assert found("stopped") == [stopped.salon_id]
    assert found("unlinked") == [unlinked.salon_id, never_used.salon_id]
    assert found("open") == []
    assert code_of(reader.get("/sessions?status=happy")) == "INVALID_REQUEST"


@pytest.mark.parametrize("path", ["/sessions", "/salons/{}/attempts"])
def test_a_longer_list_asks_no_more_of_the_database(path):
    salon = make_salon()
    reader = program(None)

    def queries():
        with CaptureQueriesContext(
            connection,
        ) as asked:
            answer = reader.get(path.format(salon.salon_id))
        return len(asked), len(answer.json()["items"])

    pairing.request_qr(salon, "page")
    few, short = queries()
    for _ in range(4):
        link(make_salon(), phone=f"7900123{make_salon().salon_id % 10_000:04}")
        pairing.request_code(salon, OTHER_PHONE, "page")
        show_code(salon)
        pairing.request_qr(salon, "page")
        show_qr(salon)
    many, long = queries()
    assert long > short
    assert many == few


def test_attempts_are_listed_the_latest_first():
    salon = make_salon()
    for _ in range(3):
        pairing.request_qr(salon, "page")
        sessions.disconnect(salon, "page")
    ids = list(PairingAttempt.objects.order_by("-id").values_list("id", flat=True))
    reader = program(salon)
    first = reader.get(f"/salons/{salon.salon_id}/attempts?limit=2").json()
    rest = reader.get(
        f"/salons/{salon.salon_id}/attempts?limit=2&after={first['next']}"
    ).json()
    assert [each["id"] for each in first["items"] + rest["items"]] == ids
    assert rest["next"] is None
    assert first["items"][0]["stage"] == "cancelled"
    assert first["items"][0]["requestedBy"] == "page"


def test_codes_and_qrs_are_for_keys_that_may_link():
    coding, scanning = make_salon(), make_salon()
    pairing.request_code(coding, PHONE, "page")
    show_code(coding)
    pairing.request_qr(scanning, "page")
    show_qr(scanning)
    for salon, name, secret in ((coding, "code", "ABCD-1234"), (scanning, "qr", QR)):
        paths = (
            f"/salons/{salon.salon_id}/attempts",
            f"/salons/{salon.salon_id}/attempts/{last_attempt(salon).pk}",
            f"/salons/{salon.salon_id}/session",
            f"/salons/{salon.salon_id}/events",
            "/sessions",
        )
        for path in paths:
            answer = program(None, "read", "operate").get(path)
            assert answer.status_code == 200
            assert secret not in answer.content.decode()
        linking = program(None, "read", "link")
        shown = linking.get(paths[1]).json()
        assert shown[name] == secret
        assert linking.get(paths[0]).json()["items"][0] == shown
        assert 0 < shown["expiresIn"] <= 160
        assert "0123456" not in json.dumps(shown)


def test_a_code_whose_time_is_over_is_not_shown():
    salon = make_salon()
    pairing.request_code(salon, PHONE, "page")
    attempt_id, _epoch = show_code(salon)
    PairingAttempt.objects.update(deadline=Now() - timedelta(seconds=1))
    shown = program(salon).get(f"/salons/{salon.salon_id}/attempts/{attempt_id}")
    assert (shown.json()["code"], shown.json()["expiresIn"]) == (None, 0)


def test_a_failed_attempt_says_why():
    salon = make_salon()
    pairing.request_code(salon, PHONE, "page")
    show_code(salon)
    PairingAttempt.objects.update(
        stage="failed",
        code="",
        finished_at=Now(),
        error="RATE_LIMITED",
        retry_after=31,
    )
    path = f"/salons/{salon.salon_id}/attempts/{last_attempt(salon).pk}"
    shown = program(salon).get(path).json()
    assert shown["error"]["code"] == "RATE_LIMITED"
    assert shown["error"]["retryAfter"] == 31
    assert shown["expiresIn"] is None
    assert shown["finishedAt"]


def test_what_is_known_of_credentials():
    salon, never, half = make_salon(), make_salon(), make_salon()
    store_creds(salon)
    store_creds(half, make_creds(linked=False))
    reader, operator = program(None, "read"), program(None, "read", "operate")

    def known(of, who=reader):
        return who.get(f"/salons/{of.salon_id}/credentials").json()

    assert known(salon) == {
        "salonId": salon.salon_id,
        "hasCredentials": True,
        "state": "linked",
        "phone": "79***4567",
        "canReset": False,
    }
    assert known(salon, operator)["canReset"] is True
    assert known(half)["state"] == "half-paired"
    assert (known(never)["hasCredentials"], known(never)["phone"]) == (False, None)


def test_what_happened_is_told_page_by_page():
    salon = make_salon()
    link(salon)
    sessions.disconnect(salon, "key:robot")
    reader, seen, after = program(salon), [], ""
    while True:
        answer = reader.get(f"/salons/{salon.salon_id}/events?limit=2{after}").json()
        seen += [(each["source"], each["name"]) for each in answer["items"]]
        if answer["next"] is None:
            break
        after = f"&after={answer['next']}"
    assert ("attempt", "linked") in seen
    assert ("audit", "disconnect") in seen
    assert ("status", "open") in seen
    told = len(AuditEvent.objects.filter(salon=salon))
    told += len(PairingAttempt.objects.filter(salon=salon))
    told += salon.status_changes.count()
    assert len(seen) == told
    everything = reader.get(f"/salons/{salon.salon_id}/events?limit=100").json()
    who = {each["who"] for each in everything["items"] if each["name"] == "disconnect"}
    assert who == {"program robot"}


# --- the frame ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [
        ("PUT", "/sessions", "GET"),
        ("POST", "/salons/1/session", "GET"),
        ("GET", "/salons/1/qrs", "POST"),
        ("DELETE", "/salons/1/credentials", "GET"),
    ],
)
def test_a_method_that_is_not_known_is_a_problem(method, path, allow):
    for who in (Program(None), program(None)):
        answer = who.ask(method, path)
        assert (answer.status_code, code_of(answer)) == (405, "METHOD_NOT_ALLOWED")
        assert answer["Allow"] == allow


@pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
@pytest.mark.parametrize("path", ["", "/", "/salons", "/sessions/", "/x/y"])
def test_an_address_that_is_none_is_a_problem(method, path):
    answer = program(None).ask(method, path)
    if path == "":
        assert answer.status_code in (301, 404)
    else:
        assert (answer.status_code, code_of(answer)) == (404, "NOT_FOUND")


@pytest.mark.parametrize(
    "query",
    ["limit=0", "limit=101", "limit=x", "after=x", "after=-1", "after=" + "9" * 30],
)
def test_a_page_that_makes_no_sense_is_refused(query):
    salon = make_salon()
    robot = program(None)
    for path in (
        "/sessions",
        *(f"/salons/{salon.salon_id}/{name}" for name in ("attempts", "events")),
    ):
        answer = robot.get(f"{path}?{query}")
        assert (answer.status_code, code_of(answer)) == (422, "INVALID_REQUEST"), path


def test_the_login_session_of_a_person_opens_nothing(admin_client):
    answer = admin_client.get(f"{BASE}/sessions")
    assert answer.status_code == 401


def test_the_documentation_page_loads_nothing_from_strangers(client):
    page = client.get(f"{BASE}/docs")
    assert page.status_code == 200
    assert "://" not in page.content.decode().replace("http://www.w3.org", "")
    assert "script-src 'self'" in page["Content-Security-Policy"]
    for path in ("ninja/swagger-ui-bundle.js", "ninja/swagger-ui-init.js"):
        assert client.get(f"/static/{path}").status_code == 200
    assert client.get(f"{BASE}/openapi.json").json()["info"]["version"] == "1"


def test_every_code_of_a_problem_has_its_status_in_the_documents():
    schema = api.get_openapi_schema()
    for path in schema["paths"].values():
        for operation in path.values():
            for status, response in operation["responses"].items():
                media = (
                    "application/json"
                    if int(status) < 400
                    else "application/problem+json"
                )
                assert list(response["content"]) == [media]
    assert {"INVALID_REQUEST", "NOT_FOUND"} <= CATALOGUE.keys()
