"""The admin's page of a salon: what it tells, and what is done from it."""

import re
from datetime import timedelta

import pytest
from django.db import connection
from django.db.models.functions import Now
from django.test.utils import CaptureQueriesContext

from tests.admin_world import (
    LIST,
    MISSING,
    archived,
    client_as,
    client_of,
    linked,
    make_user,
    message_of,
    page_of,
    texts,
)
from tests.factories import (
    OTHER_PHONE,
    PHONE,
    make_creds,
    make_salon,
    status_of,
    stored_rows,
)
from whatsapp.models import AuditEvent, Salon, WhatsAppKey, WhatsAppSession
from whatsapp.services import credentials, sessions, tokens

pytestmark = pytest.mark.django_db


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
