"""The REST interface: what programs do."""

import pytest

from tests.admin_world import linked
from tests.api_world import BASE, Program, code_of, make_key, program, untouched
from tests.factories import (
    OTHER_PHONE,
    OWNER,
    PHONE,
    QR,
    last_attempt,
    link,
    make_creds,
    make_salon,
    show_code,
    show_qr,
    status_of,
    store_creds,
    stored_rows,
)
from whatsapp.models import AuditEvent, PairingAttempt, WhatsAppSession
from whatsapp.services import pairing, sessions

pytestmark = pytest.mark.django_db


def test_a_code_is_asked_for_and_found_in_the_attempt():
    salon = make_salon()
    key, text = make_key(salon)
    robot = Program(text)
    answer = robot.post(
        f"/salons/{salon.salon_id}/pairing-codes", {"phone": "8 900 123-45-67"}
    )
    assert answer.status_code == 202
    attempt = answer.json()
    assert (attempt["stage"], attempt["code"]) == ("requested", None)
    assert attempt["requestedBy"] == f"key:{key.name}"
    assert last_attempt(salon).phone == PHONE
    show_code(salon)
    path = f"/salons/{salon.salon_id}/attempts/{attempt['id']}"
    assert robot.get(path).json()["code"] == "ABCD-1234"
    again = robot.post(f"/salons/{salon.salon_id}/pairing-codes", {"phone": PHONE})
    assert (again.status_code, again.json()["id"]) == (200, attempt["id"])
    assert "ABCD" not in again.content.decode()


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({"phone": ""}, 400, "PHONE_REQUIRED"),
        ({"phone": "12"}, 400, "INVALID_PHONE_FORMAT"),
        ({}, 422, "INVALID_REQUEST"),
        ({"phone": 79001234567}, 422, "INVALID_REQUEST"),
        ({"phone": PHONE, "salon": 1}, 422, "INVALID_REQUEST"),
        ({"phone": "1" * 41}, 422, "INVALID_REQUEST"),
        ([], 422, "INVALID_REQUEST"),
        (None, 422, "INVALID_REQUEST"),
    ],
)
def test_a_phone_that_is_none_is_refused(body, status, code):
    salon = make_salon()
    answer = program(salon).post(f"/salons/{salon.salon_id}/pairing-codes", body)
    assert answer.status_code == status
    assert code_of(answer) == code
    assert not PairingAttempt.objects.exists()


def test_wrong_values_are_named_and_not_repeated():
    salon = make_salon()
    answer = program(salon).post(
        f"/salons/{salon.salon_id}/pairing-codes", {"phone": ["a secret"]}
    )
    assert [each["where"] for each in answer.json()["errors"]] == ["body.wish.phone"]
    assert "secret" not in answer.content.decode()


def test_a_body_that_is_no_json_is_refused():
    salon = make_salon()
    robot = program(salon)
    answer = robot.client.post(
        f"{BASE}/salons/{salon.salon_id}/pairing-codes",
        "{",
        content_type="application/json",
        headers=robot.headers,
    )
    assert (answer.status_code, code_of(answer)) == (400, "INVALID_MESSAGE")


def test_a_refusal_of_the_services_is_a_problem():
    salon, other = make_salon(), make_salon()
    link(other)
    robot = program(salon)
    path = f"/salons/{salon.salon_id}/pairing-codes"
    conflict = robot.post(path, {"phone": PHONE})
    assert (conflict.status_code, code_of(conflict)) == (409, "CREDENTIALS_CONFLICT")
    assert str(other.salon_id) not in conflict.content.decode()
    assert robot.post(path, {"phone": OTHER_PHONE}).status_code == 202
    busy = robot.post(path, {"phone": OTHER_PHONE})
    assert (busy.status_code, code_of(busy)) == (409, "REQUEST_IN_PROGRESS")


def test_what_a_service_cleaned_up_before_it_refused_stays_cleaned_up(settings):
    settings.WHATSAPP_PAIRING_BUDGET = (1, 3600)
    salon = make_salon()
    pairing.request_code(salon, PHONE, "page")
    show_code(salon)
    sessions.disconnect(salon, "page")
    store_creds(salon, make_creds(linked=False))
    answer = program(salon).post(
        f"/salons/{salon.salon_id}/pairing-codes", {"phone": PHONE}, "one"
    )
    assert (answer.status_code, code_of(answer)) == (429, "RATE_LIMITED")
    assert 3000 < int(answer["Retry-After"]) <= 3601
    assert stored_rows(salon) == (None, {})


def test_a_qr_is_asked_for_and_there_is_none_for_who_is_connected():
    salon, connected = make_salon(), make_salon()
    link(connected)
    robot = program(None)
    answer = robot.post(f"/salons/{salon.salon_id}/qrs")
    assert (answer.status_code, answer.json()["kind"]) == (202, "qr")
    show_qr(salon)
    again = robot.post(f"/salons/{salon.salon_id}/qrs", {})
    assert (again.status_code, again.json()["id"]) == (200, answer.json()["id"])
    assert QR not in again.content.decode()
    path = f"/salons/{connected.salon_id}/qrs"
    assert code_of(robot.post(path, {"fresh": False})) == "ALREADY_CONNECTED"
    assert robot.post(path, {"fresh": True}).status_code == 202
    assert last_attempt(connected).fresh


def test_a_session_is_stopped_and_connected_again():
    salon = make_salon()
    link(salon)
    key, text = make_key(salon)
    robot, path = Program(text), f"/salons/{salon.salon_id}"
    stopping = robot.post(f"{path}/disconnect")
    assert (stopping.status_code, stopping.json()["outcome"]) == (202, "stopping")
    WhatsAppSession.objects.filter(salon=salon).update(status="stopped", owner="")
    stopped = robot.post(f"{path}/disconnect")
    assert (stopped.status_code, stopped.json()["outcome"]) == (200, "already")
    assert stopped.json()["session"]["status"] == "stopped"
    started = robot.post(f"{path}/connect")
    assert (started.status_code, started.json()["outcome"]) == (202, "started")
    assert started.json()["session"]["status"] == "connecting"
    actors = salon.audit_events.filter(action__in=["disconnect", "reconnect"])
    assert set(actors.values_list("actor", flat=True)) == {f"key:{key.name}"}


def test_a_connected_session_is_left_alone_unless_it_is_to_be_connected_anew():
    salon = make_salon()
    epoch = link(salon)
    robot, path = program(salon), f"/salons/{salon.salon_id}/connect"
    left = robot.post(path, {})
    assert (left.status_code, left.json()["outcome"]) == (200, "left_open")
    assert WhatsAppSession.objects.get(salon=salon).epoch == epoch
    assert robot.post(path, {"anew": True}).json()["outcome"] == "started"
    assert WhatsAppSession.objects.get(salon=salon).epoch == epoch + 1


CONNECT_CASES = [
    ("unlinked", "NOT_LINKED"),
    ("logged_out", "NOT_LINKED"),
    ("pairing", "REQUEST_IN_PROGRESS"),
    ("connecting", "under_way"),
    ("open", "left_open"),
    ("degraded", "started"),
    ("reconnecting", "started"),
    ("stopped", "started"),
    ("replaced", "started"),
    ("banned", "ACCOUNT_BANNED"),
    ("outdated", "started"),
    ("needs_attention", "started"),
]


def test_who_is_being_connected_is_not_connected_anew_by_asking_again():
    salon = linked("reconnecting", owner=OWNER, epoch=7)
    robot, path = program(salon), f"/salons/{salon.salon_id}/connect"
    started, again = robot.post(path), robot.post(path)
    assert (started.status_code, started.json()["outcome"]) == (202, "started")
    assert (again.status_code, again.json()["outcome"]) == (202, "under_way")
    assert again.json()["session"]["status"] == "connecting"
    assert WhatsAppSession.objects.get(salon=salon).epoch == 8
    robot.post(f"/salons/{salon.salon_id}/disconnect")
    assert robot.post(path).json()["outcome"] == "started"
    assert robot.post(path, {"anew": True}).json()["outcome"] == "started"


def test_connect_is_tried_in_every_status():
    tried = {status for status, _outcome in CONNECT_CASES}
    assert tried == set(WhatsAppSession.Status.values)


@pytest.mark.parametrize(("status", "outcome"), CONNECT_CASES)
def test_what_connect_comes_to_depends_on_how_the_session_is(status, outcome):
    if status in ("unlinked", "logged_out"):
        salon = make_salon()
        WhatsAppSession.objects.filter(salon=salon).update(status=status)
    else:
        salon = linked(status, owner=OWNER, epoch=7, wanted=status != "stopped")
    if status == "pairing":
        pairing.request_code(salon, OTHER_PHONE, "page")
    before = untouched(salon)
    answer = program(salon).post(f"/salons/{salon.salon_id}/connect")
    if outcome.isupper():
        assert code_of(answer) == outcome
        assert untouched(salon)[:3] == before[:3]
    else:
        assert answer.status_code == (200 if outcome == "left_open" else 202)
        assert answer.json()["outcome"] == outcome


def test_a_reset_forgets_the_link_and_says_so():
    salon = make_salon()
    link(salon)
    key, text = make_key(salon, "operate")
    path = f"/salons/{salon.salon_id}/credentials/reset"
    for _ in range(2):
        answer = Program(text).post(path)
        assert answer.status_code == 200
        assert answer.json()["success"] is True
        assert answer.json()["credentials"]["hasCredentials"] is False
    assert stored_rows(salon) == (None, {})
    assert status_of(salon) == "unlinked"
    assert {event.actor for event in AuditEvent.objects.filter(action="reset")} == {
        f"key:{key.name}"
    }
