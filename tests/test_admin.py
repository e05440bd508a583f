"""The staff's admin: who sees and does what, and what nobody sees."""

import csv
import io
import re
from datetime import timedelta

import pytest
from django.contrib import admin
from django.contrib.auth.models import Group, User
from django.db import connection
from django.db.models.functions import Now
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse
from django.utils import translation

from tests.admin_world import (
    PASSWORD,
    SUPERUSER,
    WHO,
    admin_routes,
    client_as,
    client_of,
    linked,
    make_user,
    message_of,
    texts,
)
from tests.api_world import make_key
from tests.factories import (
    OTHER_PHONE,
    PHONE,
    QR,
    link,
    make_creds,
    make_salon,
    open_attempt,
    show_code,
    show_qr,
    status_of,
    store_creds,
    stored_rows,
)
from whatsapp.models import (
    ApiAnswer,
    ApiKey,
    ArchivedCredentials,
    AuditEvent,
    Membership,
    PairingAttempt,
    Salon,
    StatusChange,
    WhatsAppAuth,
    WhatsAppKey,
    WhatsAppSession,
)
from whatsapp.roles import MAY, Action, Role
from whatsapp.services import audit, credentials, pairing, sessions, tokens

pytestmark = pytest.mark.django_db

LIST = "/admin/whatsapp/salon/"
MISSING = 987_654_321


def page_of(salon: Salon, rest: str = "change/") -> str:
    return f"{LIST}{salon.pk}/{rest}"


def rows_of(response) -> list[Salon]:
    return list(response.context["cl"].result_list)


def archived(salon: Salon) -> ArchivedCredentials:
    """Archive what is stored for the salon; return the entry."""
    with sessions.locked(salon):
        assert credentials.archive(salon, "replaced")
    return salon.archive.latest("id")


def may(who: str) -> frozenset[Action]:
    return MAY[Role.SUPPORT if who == SUPERUSER else Role(who)]


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
            address = _filled(route, str(salon.pk))
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


def _filled(route: str, pk: str) -> str:
    """Return an address for a route of the admin, its places filled with ``pk``."""
    address = re.sub(r"<(?:\w+:)?\w+>", pk, route)
    address = address.replace("^(?P<app_label>auth|whatsapp)/$", "whatsapp/")
    address = address.replace("^(?P<app_label>whatsapp|auth)/$", "whatsapp/")
    return address.replace("^", "").replace("$", "")


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
        foreign = _filled(foreign, str(pks[model[1]]))
        missing = _filled(missing, str(MISSING))
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


# --- each role, each action -----------------------------------------------------------

DOING = {
    Action.CONNECT: "reconnect/",
    Action.DISCONNECT: "disconnect/",
    Action.RESET: "reset/",
    Action.ISSUE_LINK: "link/",
    Action.RESTORE: "restore/{entry}/",
}


@pytest.mark.parametrize("who", WHO)
@pytest.mark.parametrize("action", DOING)
def test_a_role_does_what_the_table_says_and_is_refused_the_rest(who, action):
    salon = linked("stopped", wanted=False)
    client = client_as(who, salon)
    entry = ""
    if action is Action.RESTORE:
        entry = str(archived(salon).pk)
    address = page_of(salon, DOING[action].format(entry=entry))
    data = {"typed": str(salon.salon_id), "lifetime": "3600"}
    before = AuditEvent.objects.count()
    shown, done = client.get(address), client.post(address, data)
    if action in may(who):
        assert shown.status_code == 200
        assert done.status_code in (200, 302)
        assert AuditEvent.objects.count() > before
        assert AuditEvent.objects.latest("id").actor.startswith(f"user:{who}-")
    else:
        for answer in (shown, done):
            assert answer.status_code == 403
            assert "Ваша роль этого не позволяет" in answer.content.decode()
        assert AuditEvent.objects.count() == before
        assert status_of(salon) == "stopped"


@pytest.mark.parametrize("who", WHO)
def test_a_page_shows_the_buttons_of_the_role(who):
    salon = linked("open", owner="gateway-a")
    html = client_as(who, salon).get(page_of(salon)).content.decode()
    for action, route in DOING.items():
        if action is not Action.RESTORE:
            assert (page_of(salon, route) in html) == (action in may(who)), action
    assert ('id="link-root"' in html) == (Action.LINK in may(who))
    assert ('name="title"' in html) == (Action.EDIT in may(who))
    assert ("membership/?salon" in html) == (Action.MANAGE_STAFF in may(who))


@pytest.mark.parametrize("who", WHO)
def test_the_menu_and_the_pages_fit_the_role(who):
    salon = make_salon()
    client = client_as(who, salon)
    menu = client.get(LIST).content.decode()
    for address, allowed in (
        ("/admin/whatsapp/salon/", True),
        ("/admin/whatsapp/pairingattempt/", True),
        ("/admin/whatsapp/auditevent/", True),
        ("/admin/whatsapp/membership/", Action.MANAGE_STAFF in may(who)),
        ("/admin/whatsapp/membership/add/", Action.MANAGE_STAFF in may(who)),
        ("/admin/whatsapp/salon/add/", Action.EDIT in may(who)),
        ("/admin/whatsapp/apikey/", Action.MANAGE_KEYS in may(who)),
        ("/admin/whatsapp/apikey/add/", Action.MANAGE_KEYS in may(who)),
        ("/admin/auth/user/", who == SUPERUSER),
        ("/admin/auth/user/add/", who == SUPERUSER),
    ):
        assert client.get(address).status_code == (200 if allowed else 403), address
        if not address.endswith("add/"):
            assert (f'href="{address}"' in menu) == allowed, address


@pytest.mark.parametrize("who", WHO)
def test_only_those_who_may_edit_a_salon_do(who):
    salon = make_salon(expected_phone=PHONE)
    client = client_as(who, salon)
    shown = client.get(page_of(salon)).content.decode()
    assert (PHONE in shown) == (Action.EDIT in may(who))
    assert ("79***4567" in shown) == (Action.EDIT not in may(who))
    data = {"title": "Роза", "expected_phone": "8 (900) 765-43-21"}
    answer = client.post(page_of(salon), data)
    salon.refresh_from_db()
    if Action.EDIT in may(who):
        assert answer.status_code == 302
        assert (salon.title, salon.expected_phone) == ("Роза", OTHER_PHONE)
        event = AuditEvent.objects.get(salon=salon, action="salon_edited")
        assert event.detail == {"fields": ["title", "expected_phone"]}
    else:
        assert answer.status_code == 403
        assert salon.title == "Ромашка"


def test_nobody_deletes_anything_but_roles():
    salon = linked()
    pairing.request_qr(make_salon(), "page")
    sessions.connect(salon, "page")
    user = make_user("viewer", salon)
    client = client_as(SUPERUSER)
    for address in (
        page_of(salon, ""),
        f"/admin/whatsapp/pairingattempt/{PairingAttempt.objects.latest('id').pk}/",
        f"/admin/whatsapp/auditevent/{AuditEvent.objects.latest('id').pk}/",
        f"/admin/auth/user/{user.pk}/",
    ):
        assert client.get(f"{address}delete/").status_code == 403
        assert client.post(f"{address}delete/", {"post": "yes"}).status_code == 403
    for model in ("salon", "pairingattempt", "auditevent", "membership"):
        address = f"/admin/whatsapp/{model}/"
        client.post(
            address,
            {"action": "delete_selected", "index": 0, "_selected_action": [1, 2, 3]},
        )
    assert Salon.objects.count() == 2
    assert AuditEvent.objects.exists()
    assert Membership.objects.exists()


def test_what_happened_is_read_only():
    pairing.request_qr(make_salon(), "page")
    sessions.connect(make_salon(), "page")
    client = client_as(SUPERUSER)
    for model, pk in (
        ("pairingattempt", PairingAttempt.objects.latest("id").pk),
        ("auditevent", AuditEvent.objects.latest("id").pk),
    ):
        address = f"/admin/whatsapp/{model}/"
        assert client.get(f"{address}add/").status_code == 403
        assert client.post(f"{address}add/", {}).status_code == 403
        assert client.get(f"{address}{pk}/change/").status_code == 200
        assert client.post(f"{address}{pk}/change/", {}).status_code == 403


def test_the_admin_has_pages_for_nothing_secret():
    registered = set(admin.site._registry)
    assert registered == {
        ApiKey,
        AuditEvent,
        Membership,
        PairingAttempt,
        Salon,
        User,
    }
    assert not registered & {
        ApiAnswer,
        Group,
        WhatsAppAuth,
        WhatsAppKey,
        ArchivedCredentials,
        WhatsAppSession,
        StatusChange,
    }


# --- the list of salons ---------------------------------------------------------------


def test_the_list_says_how_each_salon_is():
    salon = linked("open", owner="web-1:1:a", last_alive_at=Now())
    html = client_as("support").get(LIST).content.decode()
    assert (
        f'<span class="salon-status" data-salon="{salon.pk}" data-live="status"'
        f' data-status="open">Подключено</span>' in html
    )
    assert "79***4567" in html
    assert PHONE not in html
    for name in ("phone", "since", "alive", "owner"):
        assert f'data-salon="{salon.pk}" data-live="{name}"' in html
    assert re.search(
        r'data-live="alive" datetime="\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ"', html
    )
    assert "web-1:1:a" in html
    assert 'data-status-socket="/ws/admin/status/"' in html


def test_the_list_is_filtered_by_state():
    opened, unlinked = linked("open"), make_salon()
    without = Salon.objects.create(salon_id=77, title="Без сессии")
    client = client_as("support")
    assert rows_of(client.get(f"{LIST}?status=open")) == [opened]
    assert set(rows_of(client.get(f"{LIST}?status=unlinked"))) == {unlinked, without}
    assert rows_of(client.get(f"{LIST}?status=banned")) == []
    page = client.get(LIST).context
    counts = {state["status"]: state["count"] for state in page["states"]}
    assert counts == {"": 3, "open": 1, "unlinked": 2}


@pytest.mark.parametrize(
    ("query", "finds"),
    [
        ("4711", True),
        ("company_4711", True),
        ("ромаш", True),
        ("Ромашка 4711", True),
        ("Роза 4711", False),
        ("567", True),
        ("4567", True),
        ("67", False),
        ("123", False),
        ("9001", False),
        ("34567", False),
        ("79001234567", False),
        ("79991234567", False),
        ("company_567", False),
        ("9" * 30, False),
        ("%", False),
    ],
)
def test_a_salon_is_found_by_what_people_see_of_it(query, finds):
    salon = linked()
    Salon.objects.filter(pk=salon.pk).update(salon_id=4711)
    make_salon(title="Незабудка", salon_id=12)
    found = rows_of(client_as("support").get(LIST, {"q": query}))
    assert found == ([salon] if finds else [])


def test_a_phone_that_is_masked_whole_is_not_found_by_its_digits():
    linked(phone="1234567")
    client = client_as("support")
    assert rows_of(client.get(LIST, {"q": "567"})) == []


def test_the_list_asks_no_more_of_the_database_for_more_salons():
    client = client_as("support")

    def queries() -> int:
        with CaptureQueriesContext(
            connection,
        ) as captured:
            assert client.get(LIST).status_code == 200
        return len(captured)

    linked()
    few = queries()
    for _number in range(30):
        linked()
    assert queries() == few
    assert few <= 10


# --- the page of a salon --------------------------------------------------------------


def test_a_reset_wants_the_salon_id_typed():
    salon = linked()
    client = client_as("owner", salon)
    for typed in ("", "1", f"company_{salon.pk}0"):
        answer = client.post(page_of(salon, "reset/"), {"typed": typed})
        assert answer.status_code == 200
        assert stored_rows(salon)[0] is not None
    answer = client.post(page_of(salon, "reset/"), {"typed": salon.session_id})
    assert answer.url == page_of(salon)
    assert stored_rows(salon) == (None, {})
    assert status_of(salon) == "unlinked"


def test_to_ask_changes_nothing():
    salon = linked()
    client = client_as("owner", salon)
    for route, words in (
        ("reconnect/", "Подключить заново"),
        ("disconnect/", "Остановить"),
        ("reset/", "Сбросить привязку"),
        ("link/", "Выдать ссылку"),
    ):
        html = client.get(page_of(salon, route)).content.decode()
        assert re.search(rf"<button[^>]*submit[^>]*>\s*{words}\s*</button>", html)
    assert not AuditEvent.objects.exists()
    assert status_of(salon) == "open"


def test_a_session_is_stopped_and_connected_from_its_page():
    salon = linked("open")
    client = client_as("staff", salon)
    client.post(page_of(salon, "disconnect/"))
    assert status_of(salon) == "stopped"
    answer = client.post(page_of(salon, "reconnect/"), follow=True)
    assert status_of(salon) == "connecting"
    assert "Подключаем заново" in texts(answer.content.decode())


def test_an_archived_link_is_restored_from_the_page():
    salon = linked()
    entry = archived(salon)
    WhatsAppSession.objects.filter(salon=salon).update(status="unlinked", phone="")
    client = client_as("owner", salon)
    page = client.get(page_of(salon)).content.decode()
    address = page_of(salon, f"restore/{entry.pk}/")
    assert address in page
    assert "79***4567" in client.get(address).content.decode()
    assert client.post(address).url == page_of(salon)
    assert status_of(salon) == "connecting"
    assert stored_rows(salon)[0] == make_creds()
    again = client.post(address)
    assert "сброс" in message_of(again)


def test_a_link_in_use_elsewhere_is_not_restored():
    salon, other = linked(), linked("open")
    entry = archived(salon)
    answer = client_as("support").post(page_of(salon, f"restore/{entry.pk}/"))
    assert "нельзя привязать" in message_of(answer)
    assert str(other.salon_id) not in message_of(answer)
    assert stored_rows(salon) == (None, {})


def test_an_archived_link_belongs_to_its_salon():
    mine, theirs = linked(), linked(phone=OTHER_PHONE)
    entry = archived(theirs)
    credentials.erase(mine)
    client = client_as("owner", mine)
    for pk in (entry.pk, MISSING, 2**70):
        address = page_of(mine, f"restore/{pk}/")
        for answer in (client.get(address), client.post(address)):
            assert answer.url == page_of(mine)
            assert "больше нет" in message_of(answer)
    assert stored_rows(mine) == (None, {})


def test_an_address_of_the_linking_page_is_shown_once_and_recorded_without_its_token():
    salon = make_salon()
    user = make_user("staff", salon)
    client = client_of(user)
    answer = client.post(page_of(salon, "link/"), {"lifetime": "86400"})
    assert "no-store" in answer["Cache-Control"]
    html = answer.content.decode()
    found = re.search(r"http://testserver/marketplace/connect#token=([\w.-]+)", html)
    assert found
    grant = tokens.verify(found[1])
    assert grant.salon == salon
    event = AuditEvent.objects.get(action="link_issued")
    assert (event.salon, event.actor) == (salon, f"user:{user.username}")
    assert event.detail == {"lifetime": 86400}
    assert "token=" not in client.get(page_of(salon, "link/")).content.decode()
    refused = client.post(page_of(salon, "link/"), {"lifetime": "99999999"})
    assert "token=" not in refused.content.decode()


def test_the_page_tells_what_happened_in_words_and_page_by_page():
    salon = make_salon()
    user = make_user("support")
    for _number in range(30):
        sessions.connect(salon, f"user:{user.username}")
    client = client_of(user)
    first = client.get(page_of(salon))
    text = texts(first.content.decode())
    assert user.username in text
    older = re.search(r"\?older=([\w-]+)", first.content.decode())
    assert older
    second = client.get(page_of(salon) + f"?older={older[1]}")
    assert len(second.context["story"]["entries"]) == 5
    whole = client.get(page_of(salon, "history/"))
    assert len(whole.context["story"]["entries"]) == 30
    assert client.get(page_of(salon) + "?older=nonsense").status_code == 200


def test_the_page_counts_keys_and_asks_little_of_the_database():
    salon = linked()
    WhatsAppKey.objects.filter(key_type="pre-key").update(
        created_at=Now() - timedelta(days=3)
    )
    WhatsAppKey.objects.filter(key_type="session").update(
        created_at=Now() - timedelta(days=30)
    )
    client = client_as("support")
    with CaptureQueriesContext(connection) as captured:
        answer = client.get(page_of(salon))
    assert len(captured) < 25
    keys = {key.key_type: key for key in answer.context["keys"]}
    assert (keys["pre-key"].total, keys["pre-key"].day, keys["pre-key"].week) == (
        1,
        0,
        1,
    )
    assert (keys["session"].total, keys["session"].day, keys["session"].week) == (
        1,
        0,
        0,
    )
    assert keys["tctoken"].day == 1


def test_a_salon_is_made_by_support():
    client = client_as("support")
    made = client.post(
        f"{LIST}add/",
        {"salon_id": "4711", "title": "Роза", "expected_phone": "+7 900 123-45-67"},
    )
    salon = Salon.objects.get(salon_id=4711)
    assert made.url == page_of(salon)
    assert (salon.title, salon.expected_phone) == ("Роза", PHONE)
    assert status_of(salon) == "unlinked"
    assert AuditEvent.objects.filter(salon=salon, action="salon_created").exists()
    again = client.post(f"{LIST}add/", {"salon_id": "4711", "title": "Другая"})
    assert again.status_code == 200
    salon.refresh_from_db()
    assert salon.title == "Роза"
    for number in ("0", "-1", "9" * 30, "x"):
        answer = client.post(f"{LIST}add/", {"salon_id": number, "title": "x"})
        assert answer.status_code == 200
    assert Salon.objects.count() == 1


def test_a_phone_that_is_none_is_not_expected():
    salon = make_salon()
    answer = client_as("support").post(
        page_of(salon), {"title": "Роза", "expected_phone": "12"}
    )
    assert answer.status_code == 200
    assert "номер" in str(answer.context["errors"])
    salon.refresh_from_db()
    assert salon.title == "Ромашка"


# --- many at once ---------------------------------------------------------------------


def _choose(client, action, *salons, **more):
    return client.post(
        LIST,
        {
            "action": action,
            "index": "0",
            "select_across": "0",
            "_selected_action": [salon.pk for salon in salons],
            **more,
        },
    )


def test_many_salons_are_connected_anew_and_each_has_its_outcome():
    stopped = linked("stopped", wanted=False, title="Стоит")
    opened = linked("open", phone=OTHER_PHONE, title="Идёт")
    banned, unlinked = linked("banned", title="Запрет"), make_salon(title="Пусто")
    client = client_as("support")
    answer = _choose(client, "reconnect_selected", stopped, opened, banned, unlinked)
    assert answer.status_code == 302
    page = client.get(answer.url)
    outcomes = {
        row["salon"].title: row["outcome"]
        for row in [*page.context["under_way"], *page.context["others"]]
    }
    assert outcomes == {
        "Стоит": "started",
        "Идёт": "left_open",
        "Запрет": "banned",
        "Пусто": "not_linked",
    }
    html = page.content.decode()
    assert "<progress" in html
    assert 'data-target="open"' in html
    assert "data-progress-rows" in html
    assert status_of(stopped) == "connecting"
    assert status_of(opened) == "open"
    event = AuditEvent.objects.get(action="bulk_reconnect")
    assert (event.salon, event.detail) == (None, {"salons": 4})


def test_many_salons_are_stopped_where_the_role_allows_it():
    mine, seen = linked(), linked(phone=OTHER_PHONE)
    user = make_user("staff", mine)
    Membership.objects.create(user=user, salon=seen, role=Role.VIEWER)
    client = client_of(user)
    page = client.get(_choose(client, "disconnect_selected", mine, seen).url)
    assert (status_of(mine), status_of(seen)) == ("stopped", "open")
    assert [row["outcome"] for row in page.context["others"]] == ["not_allowed"]
    assert page.context["done"] == 1


def test_a_viewer_has_nothing_to_do_to_many():
    salon = linked()
    client = client_as("viewer", salon)
    assert "reconnect_selected" not in client.get(LIST).content.decode()
    _choose(client, "reconnect_selected", salon)
    assert status_of(salon) == "open"
    assert client.get(f"{LIST}bulk/").url == LIST


def test_all_that_the_filter_finds_are_chosen_and_not_too_many(monkeypatch):
    monkeypatch.setattr("whatsapp.admin.salons.BULK_LIMIT", 3)
    salons = [linked("stopped", phone=f"7900123450{n}") for n in range(4)]
    opened = linked("open", phone=OTHER_PHONE)
    client = client_as("support")
    answer = client.post(
        f"{LIST}?status=stopped",
        {
            "action": "reconnect_selected",
            "index": "0",
            "select_across": "1",
            "_selected_action": [salons[0].pk],
        },
    )
    assert "3" in message_of(answer)
    assert all(status_of(salon) == "stopped" for salon in salons)
    WhatsAppSession.objects.filter(salon=salons[3]).update(status="needs_attention")
    answer = client.post(
        f"{LIST}?status=stopped",
        {
            "action": "disconnect_selected",
            "index": "0",
            "select_across": "1",
            "_selected_action": [salons[0].pk],
        },
    )
    assert len(client.session["whatsapp_bulk"]["outcomes"]) == 3
    assert status_of(opened) == "open"


# --- exports --------------------------------------------------------------------------


def _csv(answer) -> list[list[str]]:
    assert answer.streaming
    text = b"".join(answer.streaming_content).decode()
    assert text.startswith("\ufeff")
    return list(csv.reader(io.StringIO(text.removeprefix("\ufeff"))))


def test_the_list_is_exported_as_it_is_filtered():
    mine = linked("open", title="=HYPERLINK(1)")
    make_salon(title="Чужой")
    client = client_as("viewer", mine)
    answer = client.get(f"{LIST}export/")
    assert "attachment" in answer["Content-Disposition"]
    heads, *rows = _csv(answer)
    assert len(rows) == 1
    assert rows[0][:2] == [str(mine.salon_id), "'=HYPERLINK(1)"]
    assert "79***4567" in rows[0]
    assert PHONE not in str(rows)
    assert len(heads) == len(rows[0])
    assert _csv(client.get(f"{LIST}export/?status=banned")) == [heads]
    assert client.post(f"{LIST}export/").status_code == 405


def test_an_export_is_as_long_as_the_list(monkeypatch):
    monkeypatch.setattr("whatsapp.admin.exports.ROWS_AT_ONCE", 2)
    numbers = {str(make_salon().salon_id) for _number in range(5)}
    _heads, *rows = _csv(client_as("support").get(f"{LIST}export/"))
    assert {row[0] for row in rows} == numbers
    assert len(rows) == 5


def test_the_audit_is_exported_of_ones_own_salons():
    mine, foreign = make_salon(), make_salon()
    for salon in (mine, foreign):
        sessions.connect(salon, "@SUM(A1)")
    audit.record(None, "user:root", "user_created", user="x")
    address = "/admin/whatsapp/auditevent/export/"
    _heads, *rows = _csv(client_as("viewer", mine).get(address))
    assert [row[1] for row in rows] == [str(mine.salon_id)]
    assert "'@SUM(A1)" in rows[0]
    assert len(_csv(client_as("support").get(address))) == 4


# --- nonsense -------------------------------------------------------------------------


@pytest.mark.parametrize(
    "query",
    [
        "p=x",
        "p=99999",
        "o=99.-x",
        "all=1",
        "q=%00",
        "status=%00",
        "status=unheard",
        "owner=%00",
        "owner=nobody",
        "action=%00",
        "kind__exact=%00",
        "stage=unheard",
        "salon=x",
        "user=99999999999999999999999",
        "salon__id__exact=99999999999999999999999",
        "salon__id=%00",
        "at__year=x",
        "at__year=99999",
        "at__year=2026&at__month=13",
        "at__year=2026&at__month=2&at__day=31",
        "at__gte=x",
        "e=1",
        "role=god",
        "s=x&page=x",
        "s=x&page=99",
        "older=x",
        "_to_field=x",
        "_popup=1",
        "unheard=1",
    ],
)
def test_nonsense_breaks_nothing(query):
    linked()
    client = client_as(SUPERUSER)
    for _name, route in admin_routes():
        if "<" in route or "(?P" in route or route.endswith("/logout/"):
            continue
        answer = client.get(f"{route}?{query}")
        if answer.streaming:
            assert b"".join(answer.streaming_content)
        assert answer.status_code in (200, 302, 400, 403, 404, 405), route


@pytest.mark.parametrize("pk", ["x", "0", "-1", "9" * 40, "1_2F2", "1;1", "_00", "%00"])
def test_a_name_that_is_none_is_missing(pk):
    client = client_as(SUPERUSER)
    for _name, route in admin_routes():
        if "<path:object_id>" not in route or "auth/user" in route:
            continue
        address = route.replace("<int:entry_id>", "1").replace("<path:object_id>", pk)
        for answer in (client.get(address), client.post(address)):
            assert answer.status_code in (302, 403), address


# --- the first page -------------------------------------------------------------------


def test_support_sees_how_the_service_is():
    linked("open", last_alive_at=Now(), title="Хорошо")
    linked("banned", phone=OTHER_PHONE, reason="403", title="Плохо")
    pairing.request_qr(make_salon(), "page")
    answer = client_as("support").get("/admin/")
    html = answer.content.decode()
    text = texts(html)
    assert "Плохо" in text
    assert "Хорошо" not in text
    assert f"{LIST}?status=banned" in html
    assert '<canvas class="chart"' in html


def test_the_first_page_asks_as_much_of_the_database_for_many_salons_as_for_one():
    client = client_as("support")

    def queries() -> int:
        with CaptureQueriesContext(connection) as captured:
            assert client.get("/admin/").status_code == 200
        return len(captured)

    linked("banned")
    few = queries()
    for number in range(20):
        linked("needs_attention", owner=f"gateway-{number}")
    assert queries() == few
    assert few < 15


def test_staff_are_led_to_their_salon_or_see_theirs():
    one, other = make_salon(title="Первый"), make_salon(title="Второй")
    make_salon(title="Чужой")
    user = make_user("staff", one)
    client = client_of(user)
    assert client.get("/admin/").url == page_of(one)
    Membership.objects.create(user=user, salon=other, role=Role.VIEWER)
    text = texts(client.get("/admin/").content.decode())
    assert "Первый" in text
    assert "Второй" in text
    assert "Чужой" not in text


# --- people ---------------------------------------------------------------------------


def test_support_gives_changes_and_takes_roles_and_each_is_recorded():
    salon, support, user = make_salon(), make_user("support"), make_user()
    client = client_of(support)
    add = "/admin/whatsapp/membership/add/"
    data = {"user": user.pk, "salon": salon.pk, "role": "staff"}
    assert client.post(add, data).status_code == 302
    membership = Membership.objects.get(user=user)
    address = f"/admin/whatsapp/membership/{membership.pk}/"
    assert client.post(f"{address}change/", {"role": "owner"}).status_code == 302
    membership.refresh_from_db()
    assert membership.role == "owner"
    assert client.get(f"{address}delete/").status_code == 200
    assert client.post(f"{address}delete/", {"post": "yes"}).status_code == 302
    assert not Membership.objects.filter(user=user).exists()
    events = AuditEvent.objects.filter(salon=salon).order_by("id")
    assert [(event.action, event.actor) for event in events] == [
        (f"staff_{what}", f"user:{support.username}")
        for what in ("granted", "changed", "revoked")
    ]
    assert events[1].detail == {
        "user": user.username,
        "before": "staff",
        "role": "owner",
    }


def test_only_superusers_make_support():
    user = make_user()
    add = "/admin/whatsapp/membership/add/"
    data = {"user": user.pk, "salon": "", "role": "support"}
    assert client_as("support").post(add, data).status_code == 200
    assert not Membership.objects.filter(user=user).exists()
    assert client_as(SUPERUSER).post(add, data).status_code == 302
    colleague = Membership.objects.get(user=user)
    address = f"/admin/whatsapp/membership/{colleague.pk}/"
    client = client_as("support")
    assert client.get(f"{address}change/").status_code == 200
    for answer in (
        client.post(f"{address}change/", {"role": "viewer"}),
        client.post(f"{address}delete/", {"post": "yes"}),
    ):
        assert answer.status_code == 403
    assert Membership.objects.get(user=user).role == "support"


@pytest.mark.parametrize(
    "data",
    [
        {"salon": "", "role": "owner"},
        {"role": "support"},
        {"role": "god"},
        {"salon": str(MISSING), "role": "viewer"},
        {"user": str(MISSING), "role": "viewer"},
    ],
)
def test_roles_that_make_no_sense_are_not_given(data):
    salon, user = make_salon(), make_user()
    whole = {"user": user.pk, "salon": salon.pk, **data}
    answer = client_as(SUPERUSER).post("/admin/whatsapp/membership/add/", whole)
    assert answer.status_code == 200
    assert not Membership.objects.filter(user=user).exists()


def test_a_role_at_a_salon_does_not_become_support():
    user = make_user("staff", make_salon())
    membership = Membership.objects.get(user=user)
    answer = client_as(SUPERUSER).post(
        f"/admin/whatsapp/membership/{membership.pk}/change/", {"role": "support"}
    )
    assert answer.status_code == 200
    assert answer.context["errors"]
    membership.refresh_from_db()
    assert membership.role == "staff"


def test_superusers_manage_users_and_that_is_recorded():
    root = make_user(SUPERUSER)
    client = client_of(root)
    password = "quite another password"
    data = {"username": "anna", "password1": password, "password2": password}
    data["usable_password"] = "true"
    assert client.post("/admin/auth/user/add/", data).status_code == 302
    anna = User.objects.get(username="anna")
    assert (anna.is_staff, anna.is_superuser) == (False, False)
    address = f"/admin/auth/user/{anna.pk}/"
    edited = {"username": "anna", "first_name": "Анна"}
    assert client.post(f"{address}change/", edited).status_code == 302
    anna.refresh_from_db()
    assert (anna.first_name, anna.is_active) == ("Анна", False)
    new = {"password1": password * 2, "password2": password * 2}
    new["usable_password"] = "true"
    assert client.post(f"{address}password/", new).status_code == 302
    assert [
        (event.action, event.detail["user"], event.detail["fields"])
        for event in AuditEvent.objects.order_by("id")
    ] == [
        ("user_created", "anna", []),
        ("user_edited", "anna", ["first_name", "is_active"]),
        ("user_password", "anna", []),
    ]
    assert password not in str(list(AuditEvent.objects.values()))


def test_nobody_takes_his_own_rights():
    root = make_user(SUPERUSER)
    address = f"/admin/auth/user/{root.pk}/change/"
    answer = client_of(root).post(address, {"username": root.username})
    assert answer.status_code == 200
    root.refresh_from_db()
    assert (root.is_active, root.is_superuser) == (True, True)


def test_ones_own_password_is_recorded_too():
    user = make_user("viewer", make_salon(), PASSWORD)
    new = "quite another password"
    answer = client_of(user).post(
        "/admin/password_change/",
        {
            "old_password": PASSWORD,
            "new_password1": new,
            "new_password2": new,
        },
    )
    assert answer.status_code == 302
    assert AuditEvent.objects.get().action == "user_password"


# --- no secret, nothing of others, no inline code -------------------------------------


@pytest.fixture
def everything():
    """Return salons in all kinds of states, with all their secrets."""
    salon = make_salon(title="Связан")
    link(salon)
    waiting, scanning = make_salon(), make_salon()
    pairing.request_code(waiting, OTHER_PHONE, "page")
    show_code(waiting)
    pairing.request_qr(scanning, "page")
    show_qr(scanning)
    archive = make_salon(title="Архив")
    store_creds(archive, make_creds("79005556677"))
    archived(archive)
    make_key(salon), make_key(None)
    return [salon, waiting, scanning, archive]


def _pages(client) -> dict[str, str]:
    """Return every page of the admin that shows something, by its address."""
    pages = {}
    for name, route in admin_routes():
        if "(?P" in route or name in ("logout", "jsi18n", "login"):
            continue
        model = re.search(r"/admin/\w+/(\w+)/", route)
        pks = [""]
        if "<" in route and model:
            owner = next(
                one for one in admin.site._registry if one._meta.model_name == model[1]
            )
            pks = [
                str(pk) for pk in owner._default_manager.values_list("pk", flat=True)
            ]
        entry = ArchivedCredentials.objects.latest("id").pk
        for pk in pks:
            address = _filled(route.replace("<int:entry_id>", str(entry)), pk)
            answer = client.get(address)
            content = (
                b"".join(answer.streaming_content)
                if answer.streaming
                else answer.content
            )
            pages[address] = content.decode()
    return pages


@pytest.mark.parametrize("who", [SUPERUSER, "owner", "viewer"])
def test_no_page_shows_a_secret_or_a_whole_phone(who, everything):
    user = make_user(who, everything[0])
    if who != SUPERUSER:
        for salon in everything[1:]:
            Membership.objects.create(user=user, salon=salon, role=who)
    pages = _pages(client_of(user))
    assert len(pages) > 40
    secrets = (PHONE, OTHER_PHONE, "79005556677", "ABCD-1234", "ABCD1234", QR)
    for address, html in pages.items():
        for secret in (*secrets, "noiseKey", "advSecretKey", "signedPreKey"):
            assert secret not in html, address


def test_no_page_needs_inline_code_or_others(everything):
    for address, html in _pages(client_as(SUPERUSER)).items():
        assert not re.search(r"<script(?![^>]*\bsrc=)", html), address
        assert not re.search(r"\son(click|load|change|submit)=", html), address
        assert not re.findall(r'(?:src|href|action)="((?:https?:)?//[^"]*)"', html), (
            address
        )


@pytest.mark.django_db(transaction=True)
def test_what_the_pages_load_is_there():
    salon = linked()
    client = client_as(SUPERUSER)
    loaded = set()
    for address in ("/admin/", LIST, page_of(salon), "/admin/whatsapp/membership/add/"):
        html = client.get(address).content.decode()
        loaded |= set(re.findall(r'(?:src|href)="(/static/[^"]+)"', html))
    assert len(loaded) > 10
    for address in loaded:
        assert client.get(address).status_code == 200, address


@pytest.mark.parametrize("who", [SUPERUSER, "viewer"])
def test_every_page_speaks_russian_and_english(who, everything):
    user = make_user(who, everything[0])
    client = client_of(user)
    russian = _pages(client)
    for address, html in russian.items():
        if not html or "export" in address:
            continue
        words = re.findall(r">\s*([A-Z][a-z]+(?: [a-z]+)+)\s*<", html)
        assert not set(words) - {"Signal"}, (address, words)
    client = client_of(user)  # nothing that was said in Russian waits to be shown
    client.cookies["django_language"] = "en"
    for address, html in _pages(client).items():
        text = texts(html)
        for name in ("Ромашка", "Связан", "Архив", "Русский"):
            text = text.replace(name, "")
        assert not re.search("[а-яё]", text, re.IGNORECASE), address
    translation.activate("ru")


def test_addresses_keep_their_names():
    salon = make_salon()
    assert reverse("admin:whatsapp_salon_changelist") == LIST
    assert reverse("admin:whatsapp_salon_change", args=[salon.pk]) == page_of(salon)
    assert reverse("admin:whatsapp_salon_bulk") == f"{LIST}bulk/"
