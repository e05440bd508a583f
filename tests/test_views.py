"""The marketplace page as a browser gets it, and the admin without secrets."""

import re

import pytest
from django.contrib.auth.models import User
from django.db.models import Model

from tests.factories import OTHER_PHONE, PHONE, QR, link, make_salon, show_code, show_qr
from whatsapp.admin import PairingAttemptAdmin
from whatsapp.models import PairingAttempt, Salon, WhatsAppSession
from whatsapp.services import pairing

PAGE = "/marketplace/connect"


def _page(client, query="", **headers):
    response = client.get(PAGE + query, headers=headers)
    assert response.status_code == 200
    return response


def test_the_page_is_russian_unless_english_is_asked_for(client):
    russian = _page(client).content.decode()
    assert '<html lang="ru">' in russian
    assert "Подключение WhatsApp" in russian
    english = _page(client, "?lang=en").content.decode()
    assert '<html lang="en">' in english
    assert "Connect WhatsApp" in english
    assert not re.search("[а-яё]", english)
    assert '<html lang="ru">' in _page(client, "?lang=de").content.decode()
    foreign = _page(client, **{"accept-language": "en-US,en;q=0.9"})
    assert '<html lang="ru">' in foreign.content.decode()


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


@pytest.mark.django_db(transaction=True)
def test_what_the_page_loads_is_there(client):
    html = _page(client).content.decode()
    loaded = re.findall(r'(?:src|href)="(/static/[^"]+)"', html)
    assert len(loaded) == 2
    for address in loaded:
        assert client.get(address).status_code == 200


@pytest.mark.django_db(transaction=True)
def test_every_element_that_the_script_looks_for_is_on_the_page(client):
    html = _page(client).content.decode()
    response = client.get("/static/whatsapp/marketplace.js")
    script = response.content.decode()
    names = set(re.findall(r'(?<!\.)get\("([a-z-]+)"\)', script))
    assert len(names) > 15
    assert not {name for name in names if f'id="{name}"' not in html}
    for way in ("code", "qr"):
        assert f'id="{way}-left"' in html
    texts = set(re.findall(r"texts\.([a-zA-Z]+)", script))
    dashed = {re.sub("[A-Z]", lambda m: "-" + m[0].lower(), text) for text in texts}
    assert not {text for text in dashed if f"data-{text}=" not in html}


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
