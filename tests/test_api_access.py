"""The REST interface's strangers, keys and their pace: who is refused, and how."""

from datetime import timedelta

import pytest
from django.db.models.functions import Now

from tests.api_world import Program, code_of, make_key, program, untouched
from tests.factories import PHONE, make_salon, show_code, store_creds
from whatsapp.api import api
from whatsapp.models import ApiKey
from whatsapp.roles import SCOPE_MAY, Action, Scope
from whatsapp.services import api_keys, pairing

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
