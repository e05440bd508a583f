"""The same request to the REST interface, sent twice, is done once."""

import threading
import time
from datetime import timedelta

import pytest
from django.db import connection, transaction
from django.db.models.functions import Now

from tests.api_world import Program, code_of, make_key, program
from tests.factories import (
    OTHER_PHONE,
    PHONE,
    last_attempt,
    link,
    make_creds,
    make_salon,
    show_code,
    store_creds,
    stored_rows,
)
from whatsapp.models import ApiAnswer, AuditEvent, WhatsAppSession
from whatsapp.services import api_answers, sessions

pytestmark = pytest.mark.django_db


def test_the_same_request_again_is_answered_alike_and_not_done_again():
    salon = make_salon()
    store_creds(salon)
    robot, path = program(salon), f"/salons/{salon.salon_id}/credentials/reset"
    first = robot.post(path, idempotency="abc")
    second = robot.post(path, idempotency="abc")
    assert first.status_code == second.status_code == 200
    assert first.content == second.content
    assert "Idempotency-Replayed" not in first.headers
    assert second["Idempotency-Replayed"] == "true"
    assert AuditEvent.objects.filter(action="reset").count() == 1
    robot.post(path, idempotency="abd")
    robot.post(path)
    assert AuditEvent.objects.filter(action="reset").count() == 3


def test_a_refusal_is_answered_alike_and_one_that_is_over_soon_is_not_kept():
    salon, other = make_salon(), make_salon()
    link(other)
    robot, path = program(salon), f"/salons/{salon.salon_id}/pairing-codes"
    first = robot.post(path, {"phone": PHONE}, "one")
    sessions.reset(other, "page")
    again = robot.post(path, {"phone": PHONE}, "one")
    assert first.content == again.content
    assert code_of(again) == "CREDENTIALS_CONFLICT"
    assert robot.post(path, {"phone": OTHER_PHONE}).status_code == 202
    assert code_of(robot.post(path, {"phone": PHONE}, "two")) == "REQUEST_IN_PROGRESS"
    sessions.disconnect(salon, "page")
    assert robot.post(path, {"phone": PHONE}, "two").status_code == 202


def test_another_request_with_the_same_name_is_refused():
    salon = make_salon()
    robot, path = program(None), f"/salons/{salon.salon_id}"
    assert robot.post(f"{path}/qrs", {"fresh": False}, "x").status_code == 202
    for other, body in (
        (f"{path}/qrs", {"fresh": True}),
        (f"{path}/disconnect", None),
        (f"/salons/{make_salon().salon_id}/qrs", {"fresh": False}),
    ):
        answer = robot.post(other, body, "x")
        assert (answer.status_code, code_of(answer)) == (422, "IDEMPOTENCY_KEY_REUSED")
    assert last_attempt(salon).finished_at is None
    assert program(None).post(f"{path}/disconnect", None, "x").status_code == 200


def test_after_a_day_a_name_is_free_again():
    salon = make_salon()
    robot, path = program(salon), f"/salons/{salon.salon_id}/credentials/reset"
    robot.post(path, idempotency="abc")
    ApiAnswer.objects.update(at=Now() - timedelta(hours=23))
    assert api_answers.purge() == 0
    assert "Idempotency-Replayed" in robot.post(path, idempotency="abc").headers
    ApiAnswer.objects.update(at=Now() - timedelta(hours=25))
    assert "Idempotency-Replayed" not in robot.post(path, idempotency="abc").headers
    assert ApiAnswer.objects.count() == 1
    ApiAnswer.objects.update(at=Now() - timedelta(hours=25))
    assert api_answers.purge() == 1
    assert not ApiAnswer.objects.exists()


def test_more_answers_than_are_kept_are_refused_and_none_is_forgotten(monkeypatch):
    monkeypatch.setattr(api_answers, "MOST", 2)
    salon = make_salon()
    robot, path = program(salon), f"/salons/{salon.salon_id}/credentials/reset"
    assert robot.post(path, idempotency="a").status_code == 200
    assert robot.post(path, idempotency="b").status_code == 200
    third = robot.post(path, idempotency="c")
    assert (third.status_code, code_of(third)) == (429, "TOO_MANY_REQUESTS")
    assert robot.post(path, idempotency="a")["Idempotency-Replayed"] == "true"
    assert AuditEvent.objects.filter(action="reset").count() == 2


@pytest.mark.parametrize("name", ["x" * 201, "a b", "ключ"])
def test_a_name_that_is_none_is_refused(name):
    salon = make_salon()
    path = f"/salons/{salon.salon_id}/credentials/reset"
    answer = program(salon).post(path, idempotency=name)
    assert (answer.status_code, code_of(answer)) == (422, "INVALID_REQUEST")
    assert not AuditEvent.objects.filter(action="reset").exists()


def test_what_is_stored_of_an_answer_holds_no_code():
    salon = make_salon()
    robot, path = program(salon), f"/salons/{salon.salon_id}/pairing-codes"
    robot.post(path, {"phone": PHONE}, "one")
    show_code(salon)
    assert robot.post(path, {"phone": PHONE}, "two").status_code == 200
    assert ApiAnswer.objects.count() == 2
    for body in ApiAnswer.objects.values_list("body", flat=True):
        assert "ABCD" not in body
        assert PHONE not in body


@pytest.mark.django_db(transaction=True)
def test_while_the_first_is_under_way_the_second_is_refused():
    salon = make_salon()
    store_creds(salon)
    _key, text = make_key(salon)
    path = f"/salons/{salon.salon_id}/credentials/reset"
    answers = []

    def first():
        answers.append(Program(text).post(path, idempotency="abc"))
        connection.close()

    # It has taken the name, and waits for the salon's row.
    with transaction.atomic():
        WhatsAppSession.objects.select_for_update().get(salon=salon)
        thread = threading.Thread(target=first)
        thread.start()
        _until_somebody_waits_for_us()
        second = Program(text).post(path, idempotency="abc")
        assert (second.status_code, code_of(second)) == (409, "REQUEST_IN_PROGRESS")
        assert second["Retry-After"]
    thread.join(60)
    assert answers[0].status_code == 200
    again = Program(text).post(path, idempotency="abc")
    assert again.content == answers[0].content
    assert AuditEvent.objects.filter(action="reset").count() == 1


def _until_somebody_waits_for_us() -> None:
    with connection.cursor() as cursor:
        while True:
            cursor.execute(
                "SELECT count(*) FROM pg_locks"
                " WHERE NOT granted AND transactionid = pg_current_xact_id()::xid"
            )
            if cursor.fetchone()[0]:
                return
            time.sleep(0.01)


def test_a_fault_leaves_nothing_done_and_nothing_answered(monkeypatch, caplog):
    salon = make_salon()
    store_creds(salon)
    robot, path = program(salon), f"/salons/{salon.salon_id}/credentials/reset"
    stored = ApiAnswer.objects.create

    def broken(**_fields):
        raise OSError("the disk is full of wak_aaaaaaaaaa_secrets")

    monkeypatch.setattr(ApiAnswer.objects, "create", broken)
    with transaction.atomic():
        answer = robot.post(path, idempotency="abc")
    assert (answer.status_code, code_of(answer)) == (500, "INTERNAL")
    assert "disk" not in answer.content.decode()
    logged = [each for each in caplog.records if each.name.startswith("whatsapp.api")]
    assert [each.levelname for each in logged] == ["ERROR"]
    assert logged[0].exc_info
    assert stored_rows(salon)[0] == make_creds()
    monkeypatch.setattr(ApiAnswer.objects, "create", stored)
    assert robot.post(path, idempotency="abc").status_code == 200
    assert stored_rows(salon) == (None, {})
