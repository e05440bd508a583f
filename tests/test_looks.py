"""Whoever looks is told what is true, although no gateway and no page says so."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.db import connection
from django.db.models.functions import Now
from django.test import Client
from django.test.utils import CaptureQueriesContext

from tests.api_world import program
from tests.factories import (
    OTHER_PHONE,
    PHONE,
    last_attempt,
    link,
    make_salon,
    run_by_a_gateway,
)
from whatsapp.models import PairingAttempt, Salon
from whatsapp.services import looks, pairing, proofs

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def looks_are_due(
    gateways_are_taken_for_granted: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(looks, "_next", 0.0)


def asked_too_late(salon: Salon) -> PairingAttempt:
    """Leave an attempt that no gateway has taken up in time."""
    pairing.request_code(salon, OTHER_PHONE, "key:robot")
    PairingAttempt.objects.update(deadline=Now() - timedelta(seconds=1))
    return last_attempt(salon)


Read = Callable[[Salon], str]


def by_rest(salon: Salon) -> str:
    answer = program(None).get(f"/salons/{salon.salon_id}/session").json()
    return str(answer["status"])


def by_rest_among_all(salon: Salon) -> str:
    items = program(None).get("/sessions").json()["items"]
    return str(next(it["status"] for it in items if it["salonId"] == salon.salon_id))


def _in_the_admin(path: str) -> Read:
    def read(salon: Salon) -> str:
        user = User.objects.create_superuser("root", password="x")
        browser = Client()
        browser.force_login(user)
        page: Any = browser.get(path.format(salon.pk), follow=True)
        assert page.status_code == 200
        salon.refresh_from_db()
        status: str = salon.session.status
        assert f'data-status="{status}"' in page.content.decode()
        return status

    return read


EDGES: dict[str, Read] = {
    "REST, one": by_rest,
    "REST, all": by_rest_among_all,
    "admin, list": _in_the_admin("/admin/whatsapp/salon/"),
    "admin, salon": _in_the_admin("/admin/whatsapp/salon/{}/change/"),
}


@pytest.mark.parametrize("read", EDGES.values(), ids=EDGES)
def test_a_session_that_nobody_runs_is_called_connected_nowhere(read: Read):
    salon = make_salon()
    link(salon)
    assert read(salon) == "reconnecting"


@pytest.mark.parametrize("read", EDGES.values(), ids=EDGES)
def test_a_session_that_nobody_has_heard_for_long_is_called_connected_nowhere(
    read: Read,
):
    salon = make_salon()
    link(salon)
    proofs.record({salon.pk: proofs.SILENT_SECONDS + 1})
    with run_by_a_gateway(salon):
        assert read(salon) == "degraded"


def test_a_session_that_a_gateway_proves_is_left_alone():
    salon = make_salon()
    link(salon)
    with run_by_a_gateway(salon):
        assert by_rest(salon) == "open"


def test_connect_does_not_leave_alone_what_only_seems_to_be_connected():
    salon = make_salon()
    link(salon)
    answer = program(salon).post(f"/salons/{salon.salon_id}/connect")
    assert (answer.status_code, answer.json()["outcome"]) == (202, "started")


def test_an_attempt_that_no_gateway_takes_up_is_over_in_its_time():
    salon = make_salon()
    attempt = asked_too_late(salon)
    path = f"/salons/{salon.salon_id}/attempts/{attempt.pk}"
    body = program(salon).get(path).json()
    assert body["stage"] == "failed"
    assert body["error"]["code"] == "PAIRING_TIMEOUT"
    assert body["expiresIn"] is None


def test_many_who_look_cost_one_sweep(monkeypatch: pytest.MonkeyPatch):
    salon, other = make_salon(), make_salon()
    link(salon, PHONE)
    looks.before_reading()
    link(other, OTHER_PHONE)
    with CaptureQueriesContext(connection) as asked:
        looks.before_reading()
        looks.before_reading()
    assert len(asked) == 0
    assert by_rest(other) == "open"
    monkeypatch.setattr(looks, "_next", 0.0)
    assert by_rest(other) == "reconnecting"


def test_a_sweep_that_finds_nothing_is_two_queries():
    salon = make_salon()
    link(salon)
    with run_by_a_gateway(salon), CaptureQueriesContext(connection) as asked:
        looks.sweep()
    assert len(asked) == 2
