"""The marketplace page as a browser gets it, and the admin without secrets."""

import re
from pathlib import Path

import pytest

from whatsapp import views
from whatsapp.models import WhatsAppSession

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
