"""The marketplace page as a browser gets it, and the admin without secrets."""

import re
from pathlib import Path

import pytest
from django.contrib.auth.models import User
from django.db.models import Model

from tests.factories import OTHER_PHONE, PHONE, QR, link, make_salon, show_code, show_qr
from whatsapp import views
from whatsapp.admin import PairingAttemptAdmin
from whatsapp.models import PairingAttempt, Salon, WhatsAppSession
from whatsapp.services import pairing

PAGE = "/marketplace/connect"


def _page(client, query="", **headers):
    response = client.get(PAGE + query, headers=headers)
    assert response.status_code == 200
    return response


def _language_of(client, query="", **headers):
    response = _page(client, query, **headers)
    (language,) = re.findall(r'<html lang="(\w+)">', response.content.decode())
    assert response["Content-Language"] == language
    return language


def test_the_page_is_russian_or_english(client):
    russian = _page(client).content.decode()
    assert '<html lang="ru">' in russian
    assert "Подключение WhatsApp" in russian
    english = _page(client, "?lang=en").content.decode()
    assert '<html lang="en">' in english
    assert "Connect WhatsApp" in english
    assert not re.search("[а-яё]", english.replace("Русский", ""))


def test_the_address_chooses_the_language_then_the_browser_then_russian(client):
    assert _language_of(client) == "ru"
    english = {"accept-language": "en-US,en;q=0.9"}
    assert _language_of(client, **english) == "en"
    assert _language_of(client, "?lang=ru", **english) == "ru"
    assert _language_of(client, "?lang=de", **english) == "en"
    assert _language_of(client, **{"accept-language": "de,fr;q=0.9"}) == "ru"
    preferred = {"accept-language": "kk,en;q=0.5,ru-RU;q=0.8"}
    assert _language_of(client, **preferred) == "ru"
    assert "Accept-Language" in _page(client)["Vary"]


def test_every_sentence_of_the_page_is_translated(client):
    english = _page(client, "?lang=en").content.decode()
    russian = _page(client).content.decode()
    words = re.compile(r">\s*([A-Za-z][a-z]+ [^<>]{5,})<")
    assert not set(words.findall(english)) & set(words.findall(russian))


def test_the_page_gives_its_address_to_nobody(client):
    response = _page(client)
    assert response["Referrer-Policy"] == "no-referrer"
    assert response["Cache-Control"] == "no-cache"


def test_the_page_needs_no_inline_code_and_nothing_of_others(client):
    response = _page(client)
    html = response.content.decode()
    assert "script-src 'self'" in response["Content-Security-Policy"]
    assert "unsafe" not in response["Content-Security-Policy"]
    assert not re.search(r"<script(?![^>]*\bsrc=)", html)
    assert not re.search(r"<style|\sstyle=|\son[a-z]+=", html)
    assert not re.search(r"(src|href|action)=\"(https?:)?//", html)


STATIC = Path(views.__file__).parent / "static"


def _scripts():
    return "".join(
        path.read_text()
        for path in [
            STATIC / "whatsapp/link.js",
            *(STATIC / "whatsapp/link").glob("*.js"),
        ]
    )


@pytest.mark.django_db(transaction=True)
def test_what_the_page_loads_is_there(client):
    html = _page(client).content.decode()
    loaded = set(re.findall(r'(?:src|href)="(/static/[^"]+)"', html))
    loaded |= set(re.findall(r'data-regions="([^"]+)"', html))
    assert len(loaded) == 4
    for name in re.findall(r'from "\./([\w-]+\.js)"', _scripts()):
        loaded.add(f"/static/whatsapp/link/{name}")
    for address in loaded:
        assert client.get(address).status_code == 200, address


def test_every_element_and_word_that_the_scripts_look_for_is_on_the_page(client):
    html = _page(client).content.decode()
    script = _scripts()
    looked_for = r'\b(?:get|show|say|onClick)\("([a-z-]+)"'
    names = set(re.findall(looked_for, script)) - {"lang", "token", "phone"}
    assert len(names) > 30
    assert not {name for name in names if f'id="{name}"' not in html}
    words = set(re.findall(r'word\("([a-z-]+)"', script))
    words |= {f"name-{status}" for status in WhatsAppSession.Status.values}
    words |= {f"{what}-{way}" for what in ("idle", "asking") for way in ("code", "qr")}
    assert len(words) > 20
    assert not {word for word in words if f'data-word="{word}"' not in html}


def test_the_field_for_the_phone_learns_how_numbers_look(client):
    response = client.get("/marketplace/regions.json")
    assert "max-age=" in response["Cache-Control"]
    table = response.json()
    assert table["home"] == "RU"
    regions = {region[0]: region for region in table["regions"]}
    assert len(regions) > 200
    _id, code, trunk, _slack, _leading, _pattern, lengths, examples = regions["RU"]
    assert (code, trunk, 10 in lengths) == ("7", "8", True)
    assert re.fullmatch(r"9\d\d \d{3}-\d\d-\d\d", examples[0])
    assert len(response.content) < 25_000


def test_the_page_takes_no_data(client):
    assert client.post(PAGE).status_code == 405
    token = "eyJhbGciOiJIUzI1NiJ9.e30.c2lnbmF0dXJl"
    assert token not in _page(client, f"?token={token}").content.decode()


# --- the admin ------------------------------------------------------------------------


@pytest.fixture
def linked(db):
    salon = make_salon()
    link(salon)
    waiting, scanning = make_salon(), make_salon()
    pairing.request_code(waiting, OTHER_PHONE, "page")
    show_code(waiting)
    pairing.request_qr(scanning, "page")
    show_qr(scanning)
    return salon


def _admin_pages():
    yield "/admin/"
    models: list[tuple[str, type[Model] | None]]
    models = [("salon", Salon), ("whatsappsession", WhatsAppSession)]
    models += [("pairingattempt", PairingAttempt), ("auditevent", None)]
    for name, model in models:
        yield f"/admin/whatsapp/{name}/"
        if model is not None:
            for pk in model._default_manager.values_list("pk", flat=True):
                yield f"/admin/whatsapp/{name}/{pk}/change/"


def test_no_page_of_the_admin_shows_a_secret_or_a_whole_phone(admin_client, linked):
    pages = list(_admin_pages())
    assert len(pages) > 10
    for address in pages:
        response = admin_client.get(address)
        assert response.status_code == 200, address
        html = response.content.decode()
        for secret in (PHONE, OTHER_PHONE, "ABCD-1234", QR, "noiseKey"):
            assert secret not in html, address
    attempt = PairingAttempt.objects.get(kind="code", finished_at=None)
    shown = admin_client.get(f"/admin/whatsapp/pairingattempt/{attempt.pk}/change/")
    assert "79***4321" in shown.content.decode()


def test_creds_and_keys_are_not_in_the_admin(admin_client, linked):
    for name in ("whatsappauth", "whatsappkey", "archivedcredentials"):
        assert admin_client.get(f"/admin/whatsapp/{name}/").status_code == 404


def test_what_services_write_cannot_be_edited(admin_client, linked):
    for name, pk in (
        ("whatsappsession", linked.pk),
        ("pairingattempt", PairingAttempt.objects.latest("id").pk),
    ):
        assert admin_client.get(f"/admin/whatsapp/{name}/add/").status_code == 403
        change = admin_client.post(f"/admin/whatsapp/{name}/{pk}/change/", {})
        assert change.status_code == 403
        delete = admin_client.post(f"/admin/whatsapp/{name}/{pk}/delete/", {})
        assert delete.status_code == 403
    deleted = admin_client.post(f"/admin/whatsapp/salon/{linked.pk}/delete/", {})
    assert deleted.status_code == 403


def test_a_salon_is_found_and_made_in_the_admin(admin_client, linked):
    found = admin_client.get(f"/admin/whatsapp/salon/?q={linked.salon_id}")
    assert str(linked.salon_id) in found.content.decode()
    made = admin_client.post(
        "/admin/whatsapp/salon/add/",
        {
            "salon_id": "4711",
            "title": "Роза",
            "expected_phone": "",
            "memberships-TOTAL_FORMS": "0",
            "memberships-INITIAL_FORMS": "0",
        },
    )
    assert made.status_code == 302
    assert Salon.objects.get(salon_id=4711).title == "Роза"
    assert admin_client.get("/admin/whatsapp/salon/").status_code == 200


@pytest.mark.django_db
def test_strangers_see_nothing_of_the_admin(client, linked):
    for address in _admin_pages():
        assert client.get(address).status_code == 302
    client.force_login(User.objects.create_user("member", is_staff=True))
    assert client.get("/admin/whatsapp/salon/").status_code == 403


def test_the_hidden_fields_exist():
    fields = {field.name for field in PairingAttempt._meta.get_fields()}
    assert set(PairingAttemptAdmin.exclude or ()) <= fields
