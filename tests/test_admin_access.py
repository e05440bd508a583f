"""Who gets into the staff's admin, and what nobody sees of others."""

import re

import pytest
from django.contrib.auth.models import User
from django.test import Client

from tests.admin_world import (
    LIST,
    MISSING,
    PASSWORD,
    WHO,
    admin_routes,
    archived,
    client_as,
    client_of,
    filled,
    linked,
    make_user,
    message_of,
    page_of,
)
from tests.api_world import make_key
from tests.factories import (
    OTHER_PHONE,
    PHONE,
    make_salon,
    open_attempt,
    show_code,
    status_of,
    stored_rows,
)
from whatsapp.models import AuditEvent, Membership, Salon, WhatsAppSession
from whatsapp.services import audit, pairing

pytestmark = pytest.mark.django_db


# --- who gets in ----------------------------------------------------------------------


def test_nobody_gets_in_without_a_role():
    salon = make_salon()
    inactive, unroled = make_user("owner", salon), make_user()
    User.objects.filter(pk=unroled.pk).update(is_staff=True)
    User.objects.filter(pk=inactive.pk).update(is_active=False)
    for client in (Client(), client_of(inactive), client_of(unroled)):
        for _name, route in admin_routes():
            if "login" in route or "(?P<url>" in route:
                continue
            address = filled(route, str(salon.pk))
            for answer in (client.get(address), client.post(address)):
                assert answer.status_code == 302, address
                assert "Ромашка" not in answer.content.decode()


@pytest.mark.parametrize("who", WHO)
def test_whoever_has_a_role_gets_in_and_is_staff_does_not_matter(who):
    salon = make_salon()
    user = make_user(who, salon, PASSWORD)
    assert not user.is_staff
    client = Client()
    login = {"username": user.username, "password": PASSWORD}
    assert client.post("/admin/login/", login).status_code == 302
    assert client.get(LIST).status_code == 200


def test_the_login_lets_nobody_else_in():
    users = make_user("", None, PASSWORD), make_user("owner", make_salon(), PASSWORD)
    for user in users:
        if user.salon_memberships.exists():
            User.objects.filter(pk=user.pk).update(is_active=False)
        login = {"username": user.username, "password": PASSWORD}
        answer = Client().post("/admin/login/", login)
        assert answer.status_code == 200
        assert answer.context["form"].non_field_errors()


def test_a_role_that_is_taken_away_is_gone_with_the_next_request():
    salon = make_salon()
    user = make_user("owner", salon)
    client = client_of(user)
    assert client.get(page_of(salon)).status_code == 200
    Membership.objects.filter(user=user).delete()
    for answer in (client.get(page_of(salon)), client.post(page_of(salon, "reset/"))):
        assert answer.status_code == 302
        assert "/admin/login/" in answer.url


# --- a stranger, at every page --------------------------------------------------------


@pytest.fixture
def theirs():
    """Return a salon of others, with a row of everything."""
    salon = linked(title="Тайна", owner="their-gateway")
    archived(salon)
    pairing.request_code(salon, OTHER_PHONE, "page")
    show_code(salon)
    audit.record(salon.pk, "user:their-owner", "connect")
    make_user("staff", salon)
    make_key(salon, name="their-program")
    return salon


def _objects_of(salon: Salon) -> dict[str, int]:
    """Return a primary key of each kind of object that the admin has pages for."""
    return {
        "salon": salon.pk,
        "membership": salon.memberships.latest("id").pk,
        "pairingattempt": salon.attempts.latest("id").pk,
        "auditevent": salon.audit_events.latest("id").pk,
        "user": salon.memberships.latest("id").user_id,
        "apikey": salon.api_keys.latest("id").pk,
    }


def _without(pk: int, answer) -> tuple[str, str]:
    """Return where an answer leads and what it says, without the name of the object."""
    answer.client.cookies.pop("messages", None)  # not to be told with the next page
    location, told = answer.get("Location", ""), message_of(answer)
    return location.replace(f"/{pk}/", "/?/"), re.sub(rf"\b{pk}\b", "?", told)


@pytest.mark.parametrize("who", ["viewer", "staff", "owner"])
def test_foreign_things_look_exactly_like_things_that_never_were(who, theirs):
    mine = make_salon(title="Моя")
    client = client_as(who, mine)
    pks = _objects_of(theirs)
    asked = 0
    for _name, route in admin_routes():
        model = re.search(r"/admin/\w+/(\w+)/", route)
        if "<" not in route or "(?P" in route or not model:
            continue
        entry = theirs.archive.latest("id").pk
        foreign = route.replace("<int:entry_id>", str(entry))
        missing = route.replace("<int:entry_id>", str(MISSING))
        foreign = filled(foreign, str(pks[model[1]]))
        missing = filled(missing, str(MISSING))
        for method in ("get", "post"):
            there = getattr(client, method)(foreign)
            found = _without(pks[model[1]], there)
            nowhere = getattr(client, method)(missing)
            assert there.status_code == nowhere.status_code, (method, route)
            assert found == _without(MISSING, nowhere), route
            for word in ("Тайна", "their-", str(theirs.salon_id)):
                assert word not in there.content.decode(), route
            asked += 1
    assert asked > 40
    assert stored_rows(theirs) == (None, {})
    assert open_attempt(theirs) is not None
    assert status_of(theirs) == "pairing"


@pytest.mark.parametrize("who", ["viewer", "staff", "owner"])
@pytest.mark.parametrize(
    "query",
    [
        "",
        "?e=1",
        "?q=Тайна",
        "?all=",
        "?status=pairing",
        "?action=connect",
        "?o=1",
        "?stage=shown",
        "?salon={pk}",
        "?salon__id={pk}",
        "?salon__id__exact={pk}",
        "?_facets=True",
        "?_popup=1",
        "?p=1",
    ],
)
def test_no_list_and_no_export_has_a_foreign_row(who, query, theirs):
    client = client_as(who, make_salon(title="Моя"))
    for name, route in admin_routes():
        if "<" in route or not name.endswith(("_changelist", "_export")):
            continue
        answer = client.get(route + query.format(pk=theirs.pk))
        content = (
            b"".join(answer.streaming_content) if answer.streaming else answer.content
        ).decode()
        # What was typed comes back in the search field.
        content = content.replace('value="Тайна"', "")
        for word in ("Тайна", "their-", str(theirs.salon_id), PHONE[-4:]):
            assert word not in content, route


@pytest.mark.parametrize("who", WHO)
@pytest.mark.parametrize(
    ("model", "lookup"),
    [
        ("salon", "expected_phone__startswith=79"),
        ("salon", "session__phone__startswith=79"),
        ("salon", "memberships__user__password__startswith=p"),
        ("pairingattempt", "phone__startswith=79"),
        ("pairingattempt", "code__startswith=A"),
        ("pairingattempt", "qr__startswith=2"),
        ("pairingattempt", "salon__session__phone__startswith=7"),
        ("auditevent", "detail__contains=x"),
        ("auditevent", "actor__startswith=u"),
        ("membership", "user__password__startswith=p"),
        ("user", "password__startswith=p"),
    ],
)
def test_no_parameter_of_a_list_tells_what_the_list_hides(who, model, lookup):
    app = "auth" if model == "user" else "whatsapp"
    client = client_as(who, make_salon())
    for page in ("", "export/"):
        answer = client.get(f"/admin/{app}/{model}/{page}?{lookup}")
        assert answer.status_code in (400, 403, 302, 404), answer.content[:300]


@pytest.mark.parametrize("field", ["salon_id", "title", "expected_phone", "nothing"])
def test_objects_are_named_by_their_primary_key_only(field, theirs):
    client = client_as("support")
    for page in (LIST, page_of(theirs)):
        assert client.get(f"{page}?_to_field={field}").status_code == 400


@pytest.mark.parametrize("who", ["viewer", "staff", "owner"])
def test_autocomplete_offers_nothing_to_those_who_choose_nobody(who, theirs):
    client = client_as(who, make_salon())
    for model, field in (
        ("membership", "user"),
        ("membership", "salon"),
        ("pairingattempt", "salon"),
        ("auditevent", "salon"),
        ("archivedcredentials", "salon"),
        ("whatsappsession", "salon"),
    ):
        answer = client.get(
            "/admin/autocomplete/",
            {"app_label": "whatsapp", "model_name": model, "field_name": field},
        )
        assert answer.status_code == 403


def test_autocomplete_offers_users_and_salons_to_those_who_give_roles(theirs):
    client = client_as("support")
    offered = {}
    for field in ("user", "salon"):
        answer = client.get(
            "/admin/autocomplete/",
            {
                "app_label": "whatsapp",
                "model_name": "membership",
                "field_name": field,
                "term": "Тайна" if field == "salon" else "staff-",
            },
        )
        offered[field] = [entry["id"] for entry in answer.json()["results"]]
    assert offered["salon"] == [str(theirs.pk)]
    assert str(theirs.memberships.latest("id").user_id) in offered["user"]


def test_many_at_once_leaves_foreign_salons_out(theirs):
    WhatsAppSession.objects.filter(salon=theirs).update(status="open")
    mine = linked("stopped", wanted=False)
    client = client_as("owner", mine)
    for action in ("reconnect_selected", "disconnect_selected"):
        before = AuditEvent.objects.filter(salon=theirs).count()
        answer = client.post(
            LIST,
            {
                "action": action,
                "index": "0",
                "select_across": "1",
                "_selected_action": [mine.pk, theirs.pk, MISSING],
            },
        )
        assert answer.url == f"{LIST}bulk/"
        page = client.get(answer.url).content.decode()
        assert "Тайна" not in page
        assert set(client.session["whatsapp_bulk"]["outcomes"]) == {str(mine.pk)}
        assert AuditEvent.objects.filter(salon=theirs).count() == before
