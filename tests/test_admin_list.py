"""The admin's list of salons: found, chosen, exported."""

import csv
import io
import re

import pytest
from django.db import connection
from django.db.models.functions import Now
from django.test.utils import CaptureQueriesContext

from tests.admin_world import LIST, client_as, client_of, linked, make_user, message_of
from tests.factories import OTHER_PHONE, PHONE, make_salon, status_of
from whatsapp.models import AuditEvent, Membership, Salon, WhatsAppSession
from whatsapp.roles import Role
from whatsapp.services import audit, sessions

pytestmark = pytest.mark.django_db


def rows_of(response) -> list[Salon]:
    return list(response.context["cl"].result_list)


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
