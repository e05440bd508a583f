"""The staff's admin as a whole: its first page, nonsense, and what no page shows."""

import re

import pytest
from django.contrib import admin
from django.db import connection
from django.db.models.functions import Now
from django.test.utils import CaptureQueriesContext
from django.urls import reverse
from django.utils import translation

from tests.admin_world import (
    LIST,
    SUPERUSER,
    admin_routes,
    archived,
    client_as,
    client_of,
    filled,
    linked,
    make_user,
    page_of,
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
    show_code,
    show_qr,
    store_creds,
)
from whatsapp.models import ArchivedCredentials, Membership
from whatsapp.roles import Role
from whatsapp.services import pairing

pytestmark = pytest.mark.django_db


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
            address = filled(route.replace("<int:entry_id>", str(entry)), pk)
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
