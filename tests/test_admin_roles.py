"""What each role does in the staff's admin, and who gives roles."""

import pytest
from django.contrib import admin
from django.contrib.auth.models import Group, User

from tests.admin_world import (
    LIST,
    MISSING,
    PASSWORD,
    SUPERUSER,
    WHO,
    archived,
    client_as,
    client_of,
    linked,
    make_user,
    page_of,
)
from tests.factories import OTHER_PHONE, PHONE, make_salon, status_of
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
from whatsapp.services import pairing, sessions

pytestmark = pytest.mark.django_db


def may(who: str) -> frozenset[Action]:
    return MAY[Role.SUPPORT if who == SUPERUSER else Role(who)]


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
