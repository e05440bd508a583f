"""The REST interface: what programs see, do and are refused."""

import json
import threading
import time
from datetime import timedelta

import pytest
from django.db import connection, transaction
from django.db.models.functions import Now
from django.test.utils import CaptureQueriesContext

from tests.admin_world import linked
from tests.api_world import BASE, Program, code_of, make_key, program
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
from whatsapp.api import api
from whatsapp.errors import CATALOGUE
from whatsapp.models import (
    ApiAnswer,
    ApiKey,
    AuditEvent,
    PairingAttempt,
    Salon,
    WhatsAppSession,
)
from whatsapp.roles import SCOPE_MAY, Action, Scope
from whatsapp.services import api_answers, api_keys, pairing, sessions

pytestmark = pytest.mark.django_db

SCOPE_OF = {
    "listSessions": Scope.READ,
    "getSession": Scope.READ,
    "connect": Scope.OPERATE,
    "disconnect": Scope.OPERATE,
    "listAttempts": Scope.READ,
    "getAttempt": Scope.READ,
    "requestPairingCode": Scope.LINK,
    "requestQr": Scope.LINK,
    "getCredentials": Scope.READ,
    "resetCredentials": Scope.OPERATE,
    "listEvents": Scope.READ,
}
BODIES = {"requestPairingCode": {"phone": "+7 900 765-43-21"}}

ROUTES = sorted(
    (operation["operationId"], method.upper(), path)
    for path, methods in api.get_openapi_schema(path_prefix="")["paths"].items()
    for method, operation in methods.items()
)


def ask(who: Program, route: tuple[str, str, str], salon: object, attempt: int = 1):
    """Call a route about ``salon`` with a body that makes sense."""
    name, method, path = route
    path = path.replace("{salon}", str(salon)).replace("{attempt_id}", str(attempt))
    return who.ask(method, path, BODIES.get(name))


def untouched(salon: Salon) -> tuple[object, ...]:
    """Return all of a salon that a request could change."""
    salon.refresh_from_db()
    session = WhatsAppSession.objects.filter(salon=salon).values().get()
    attempts = list(PairingAttempt.objects.filter(salon=salon).values())
    recorded = salon.audit_events.exclude(action__startswith="key_").count()
    return session, attempts, stored_rows(salon), recorded


# --- strangers ------------------------------------------------------------------------


def test_every_route_is_known_to_these_tests():
    assert {name for name, _method, _path in ROUTES} == SCOPE_OF.keys()


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: route[0])
def test_who_has_no_good_key_gets_nothing_from_any_route(route):
    salon = make_salon()
    store_creds(salon)
    expired, expired_text = make_key(salon)
    ApiKey.objects.filter(pk=expired.pk).update(expires_at=Now() - timedelta(seconds=1))
    revoked, revoked_text = make_key(None)
    api_keys.revoke("command", revoked)
    _good, text = make_key(salon)
    before = untouched(salon)
    bodies = set()
    strangers = (
        None,
        "",
        "wak_",
        expired_text,
        revoked_text,
        text[:-1] + ("A" if text[-1] != "A" else "B"),
        text + "A",
        text.upper(),
        "wak_aaaaaaaaaa_" + text.partition("_")[2].partition("_")[2],
    )
    for stranger in strangers:
        response = ask(Program(stranger), route, salon.salon_id)
        assert (response.status_code, code_of(response)) == (401, "UNAUTHORIZED")
        assert response["WWW-Authenticate"] == "Bearer"
        bodies.add(response.content)
    basic = Program(None, authorization=f"Basic {text}")
    bodies.add(ask(basic, route, salon.salon_id).content)
    assert len(bodies) == 1
    assert untouched(salon) == before
    assert ask(Program(text), route, salon.salon_id).status_code != 401


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: route[0])
def test_a_foreign_salon_looks_like_one_that_never_was(route):
    theirs, mine = make_salon(), make_salon()
    store_creds(theirs)
    pairing.request_code(theirs, PHONE, "page")
    attempt_id, _epoch = show_code(theirs)
    before = untouched(theirs)
    stranger = program(mine)
    if "{salon}" not in route[2]:
        answer = ask(stranger, route, "").json()
        assert [each["salonId"] for each in answer["items"]] == [mine.salon_id]
        return
    answers = [
        ask(stranger, route, name, attempt_id)
        for name in (
            theirs.salon_id,
            theirs.session_id,
            987_654_321,
            "company_987654321",
            "company_",
            "roses",
            "9" * 40,
            "%00",
        )
    ]
    assert {answer.status_code for answer in answers} == {404}
    assert len({answer.content for answer in answers}) == 1
    assert code_of(answers[0]) == "NOT_FOUND"
    assert untouched(theirs) == before


def test_an_attempt_of_another_salon_is_none_of_mine():
    theirs, mine = make_salon(), make_salon()
    pairing.request_code(theirs, PHONE, "page")
    attempt_id, _epoch = show_code(theirs)
    response = program(mine).get(f"/salons/{mine.salon_id}/attempts/{attempt_id}")
    missing = program(mine).get(f"/salons/{mine.salon_id}/attempts/99999999")
    assert response.status_code == missing.status_code == 404
    assert response.content == missing.content


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: route[0])
def test_a_key_without_the_scope_is_refused_whatever_salon_it_asks_for(route):
    salon, theirs = make_salon(), make_salon()
    store_creds(salon)
    before = untouched(salon)
    others = set(Scope) - {SCOPE_OF[route[0]]}
    lacking = program(salon, *others)
    bodies = {
        ask(lacking, route, name).content
        for name in (salon.salon_id, theirs.salon_id, 987_654_321)
    }
    response = ask(lacking, route, salon.salon_id)
    assert (response.status_code, code_of(response)) == (403, "FORBIDDEN")
    assert bodies == {response.content}
    assert untouched(salon) == before
    enough = program(salon, SCOPE_OF[route[0]])
    assert ask(enough, route, salon.salon_id).status_code not in (401, 403)


def test_a_service_key_opens_every_salon_and_a_salon_s_key_only_its_own():
    one, other = make_salon(), make_salon()
    everywhere = program(None, "read")
    for salon in (one, other):
        name = f"/salons/{salon.session_id}/session"
        assert everywhere.get(name).json()["salonId"] == salon.salon_id
    listed = everywhere.get("/sessions").json()["items"]
    assert [each["salonId"] for each in listed] == [one.salon_id, other.salon_id]


def test_scopes_are_for_all_that_programs_may_do_and_for_nothing_else():
    given = [action for actions in SCOPE_MAY.values() for action in actions]
    assert len(given) == len(set(given))
    people_only = {Action.EDIT, Action.MANAGE_STAFF, Action.MANAGE_KEYS}
    people_only |= {Action.RESTORE, Action.ISSUE_LINK}
    assert set(given) == set(Action) - people_only


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


# --- what is done ---------------------------------------------------------------------


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


# --- once -----------------------------------------------------------------------------


def test_the_same_request_again_is_answered_alike_and_not_done_again():
    salon = make_salon()
    store_creds(salon)
    robot, path = program(salon), f"/salons/{salon.salon_id}/credentials/reset"
    first = robot.post(path, idempotency="abc")
    second = robot.post(path, idempotency="abc")
    assert first.status_code == second.status_code == 200
    assert first.content == second.content
    assert "Idempotency-Replayed" not in first.headers
    assert second["Idempotency-Replayed"] == "true"
    assert AuditEvent.objects.filter(action="reset").count() == 1
    robot.post(path, idempotency="abd")
    robot.post(path)
    assert AuditEvent.objects.filter(action="reset").count() == 3


def test_a_refusal_is_answered_alike_and_one_that_is_over_soon_is_not_kept():
    salon, other = make_salon(), make_salon()
    link(other)
    robot, path = program(salon), f"/salons/{salon.salon_id}/pairing-codes"
    first = robot.post(path, {"phone": PHONE}, "one")
    sessions.reset(other, "page")
    again = robot.post(path, {"phone": PHONE}, "one")
    assert first.content == again.content
    assert code_of(again) == "CREDENTIALS_CONFLICT"
    assert robot.post(path, {"phone": OTHER_PHONE}).status_code == 202
    assert code_of(robot.post(path, {"phone": PHONE}, "two")) == "REQUEST_IN_PROGRESS"
    sessions.disconnect(salon, "page")
    assert robot.post(path, {"phone": PHONE}, "two").status_code == 202


def test_another_request_with_the_same_name_is_refused():
    salon = make_salon()
    robot, path = program(None), f"/salons/{salon.salon_id}"
    assert robot.post(f"{path}/qrs", {"fresh": False}, "x").status_code == 202
    for other, body in (
        (f"{path}/qrs", {"fresh": True}),
        (f"{path}/disconnect", None),
        (f"/salons/{make_salon().salon_id}/qrs", {"fresh": False}),
    ):
        answer = robot.post(other, body, "x")
        assert (answer.status_code, code_of(answer)) == (422, "IDEMPOTENCY_KEY_REUSED")
    assert last_attempt(salon).finished_at is None
    assert program(None).post(f"{path}/disconnect", None, "x").status_code == 200


def test_after_a_day_a_name_is_free_again():
    salon = make_salon()
    robot, path = program(salon), f"/salons/{salon.salon_id}/credentials/reset"
    robot.post(path, idempotency="abc")
    ApiAnswer.objects.update(at=Now() - timedelta(hours=23))
    assert api_answers.purge() == 0
    assert "Idempotency-Replayed" in robot.post(path, idempotency="abc").headers
    ApiAnswer.objects.update(at=Now() - timedelta(hours=25))
    assert "Idempotency-Replayed" not in robot.post(path, idempotency="abc").headers
    assert ApiAnswer.objects.count() == 1
    ApiAnswer.objects.update(at=Now() - timedelta(hours=25))
    assert api_answers.purge() == 1
    assert not ApiAnswer.objects.exists()


def test_more_answers_than_are_kept_are_refused_and_none_is_forgotten(monkeypatch):
    monkeypatch.setattr(api_answers, "MOST", 2)
    salon = make_salon()
    robot, path = program(salon), f"/salons/{salon.salon_id}/credentials/reset"
    assert robot.post(path, idempotency="a").status_code == 200
    assert robot.post(path, idempotency="b").status_code == 200
    third = robot.post(path, idempotency="c")
    assert (third.status_code, code_of(third)) == (429, "TOO_MANY_REQUESTS")
    assert robot.post(path, idempotency="a")["Idempotency-Replayed"] == "true"
    assert AuditEvent.objects.filter(action="reset").count() == 2


@pytest.mark.parametrize("name", ["x" * 201, "a b", "ключ"])
def test_a_name_that_is_none_is_refused(name):
    salon = make_salon()
    path = f"/salons/{salon.salon_id}/credentials/reset"
    answer = program(salon).post(path, idempotency=name)
    assert (answer.status_code, code_of(answer)) == (422, "INVALID_REQUEST")
    assert not AuditEvent.objects.filter(action="reset").exists()


def test_what_is_stored_of_an_answer_holds_no_code():
    salon = make_salon()
    robot, path = program(salon), f"/salons/{salon.salon_id}/pairing-codes"
    robot.post(path, {"phone": PHONE}, "one")
    show_code(salon)
    assert robot.post(path, {"phone": PHONE}, "two").status_code == 200
    assert ApiAnswer.objects.count() == 2
    for body in ApiAnswer.objects.values_list("body", flat=True):
        assert "ABCD" not in body
        assert PHONE not in body


@pytest.mark.django_db(transaction=True)
def test_while_the_first_is_under_way_the_second_is_refused():
    salon = make_salon()
    store_creds(salon)
    _key, text = make_key(salon)
    path = f"/salons/{salon.salon_id}/credentials/reset"
    answers = []

    def first():
        answers.append(Program(text).post(path, idempotency="abc"))
        connection.close()

    # It has taken the name, and waits for the salon's row.
    with transaction.atomic():
        WhatsAppSession.objects.select_for_update().get(salon=salon)
        thread = threading.Thread(target=first)
        thread.start()
        _until_somebody_waits_for_us()
        second = Program(text).post(path, idempotency="abc")
        assert (second.status_code, code_of(second)) == (409, "REQUEST_IN_PROGRESS")
        assert second["Retry-After"]
    thread.join(60)
    assert answers[0].status_code == 200
    again = Program(text).post(path, idempotency="abc")
    assert again.content == answers[0].content
    assert AuditEvent.objects.filter(action="reset").count() == 1


def _until_somebody_waits_for_us() -> None:
    with connection.cursor() as cursor:
        while True:
            cursor.execute(
                "SELECT count(*) FROM pg_locks"
                " WHERE NOT granted AND transactionid = pg_current_xact_id()::xid"
            )
            if cursor.fetchone()[0]:
                return
            time.sleep(0.01)


def test_a_fault_leaves_nothing_done_and_nothing_answered(monkeypatch, caplog):
    salon = make_salon()
    store_creds(salon)
    robot, path = program(salon), f"/salons/{salon.salon_id}/credentials/reset"
    stored = ApiAnswer.objects.create

    def broken(**_fields):
        raise OSError("the disk is full of wak_aaaaaaaaaa_secrets")

    monkeypatch.setattr(ApiAnswer.objects, "create", broken)
    with transaction.atomic():
        answer = robot.post(path, idempotency="abc")
    assert (answer.status_code, code_of(answer)) == (500, "INTERNAL")
    assert "disk" not in answer.content.decode()
    logged = [each for each in caplog.records if each.name.startswith("whatsapp.api")]
    assert [each.levelname for each in logged] == ["ERROR"]
    assert logged[0].exc_info
    assert stored_rows(salon)[0] == make_creds()
    monkeypatch.setattr(ApiAnswer.objects, "create", stored)
    assert robot.post(path, idempotency="abc").status_code == 200
    assert stored_rows(salon) == (None, {})


# --- pace -----------------------------------------------------------------------------


def test_a_key_has_a_pace_of_its_own(settings):
    settings.WHATSAPP_API_RATE = (3, 3600)
    salon = make_salon()
    path = f"/salons/{salon.salon_id}/session"
    _key, text = make_key(salon)
    assert [Program(text).get(path).status_code for _ in range(3)] == [200] * 3
    refused = Program(text).get(path)
    assert (refused.status_code, code_of(refused)) == (429, "TOO_MANY_REQUESTS")
    assert 1100 < int(refused["Retry-After"]) <= 1201
    assert refused.json()["retryAfter"] == int(refused["Retry-After"])
    assert program(salon).get(path).status_code == 200


def test_what_was_not_used_is_there_again_after_a_while(settings):
    settings.WHATSAPP_API_RATE = (2, 3600)
    key, _text = make_key(make_salon())
    for _ in range(2):
        api_keys.take_turn(key)
    ApiKey.objects.filter(pk=key.pk).update(busy_until=Now() + timedelta(seconds=1790))
    api_keys.take_turn(key)
    with pytest.raises(Exception, match="TOO_MANY_REQUESTS"):
        api_keys.take_turn(key)


def test_the_last_use_is_noted_and_a_refused_stranger_is_not():
    salon = make_salon()
    key, text = make_key(salon)
    Program(text[:-2] + "__").get(f"/salons/{salon.salon_id}/session")
    key.refresh_from_db()
    assert key.last_used_at is None
    Program(text).get(f"/salons/{salon.salon_id}/session")
    key.refresh_from_db()
    assert key.last_used_at is not None


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
