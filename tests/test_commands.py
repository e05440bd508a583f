"""The commands about salons and sessions, as operators type them."""

import json
from datetime import timedelta
from io import StringIO

import pytest
from django.core.management import CommandError, call_command
from django.db import connection
from django.db.models.functions import Now

from tests.factories import (
    OTHER_PHONE,
    OWNER,
    PHONE,
    QR,
    link,
    make_creds,
    make_salon,
    run_by_a_gateway,
    show_code,
    show_qr,
    status_of,
    store_creds,
    stored_rows,
)
from whatsapp.models import AuditEvent, Salon, WhatsAppSession
from whatsapp.services import pairing, reports, sessions, tokens

pytestmark = pytest.mark.django_db


def _run(*words):
    out, err = StringIO(), StringIO()
    call_command(*words, stdout=out, stderr=err, no_color=True)
    return out.getvalue(), err.getvalue()


def test_a_salon_is_made_and_renamed():
    out, _err = _run("create_salon", "4711", "--title", "Роза")
    assert out == "company_4711: Роза\n"
    _run("create_salon", "4711", "--title", "Ромашка")
    assert Salon.objects.get(salon_id=4711).title == "Ромашка"
    with pytest.raises(CommandError, match="positive"):
        _run("create_salon", "0", "--title", "x")
    with pytest.raises(CommandError):
        _run("create_salon", "4711")


@pytest.mark.parametrize("name", ["{0.salon_id}", "company_{0.salon_id}"])
def test_the_token_is_the_last_line_of_the_output(name):
    salon = make_salon()
    out, err = _run("marketplace_token", name.format(salon))
    assert tokens.verify(out.splitlines()[-1]).salon == salon
    assert len(out.splitlines()) == 1
    assert "/marketplace/connect#token=" in err
    assert out.strip() not in err


@pytest.mark.parametrize(
    "words",
    [
        ["marketplace_token"],
        ["whatsapp_status"],
        ["whatsapp_status", "--json"],
        ["whatsapp_reset", "--yes"],
        ["whatsapp_disconnect"],
    ],
)
@pytest.mark.parametrize("name", ["999999", "company_999999", "company_", "x"])
def test_a_salon_that_is_not_here_is_an_error(words, name):
    command, *options = words
    with pytest.raises(CommandError, match="salon"):
        _run(command, name, *options)


def test_status_without_salons_says_what_to_do():
    out, _err = _run("whatsapp_status")
    assert "create_salon" in out
    assert json.loads(_run("whatsapp_status", "--json")[0]) == []


def test_status_calls_nothing_open_that_nobody_runs():
    lost, silent = make_salon(), make_salon()
    for salon, phone in ((lost, PHONE), (silent, OTHER_PHONE)):
        link(salon, phone)
    sessions.record_alive({silent.pk: 600.0})
    with run_by_a_gateway(silent):
        found = json.loads(_run("whatsapp_status", "--json")[0])
    told = {
        report["session_id"]: (report["status"], report["reason"]) for report in found
    }
    assert told == {
        lost.session_id: ("reconnecting", "gateway_lost"),
        silent.session_id: ("degraded", "silent"),
    }


def test_status_tells_all_but_the_secrets():
    salon = make_salon(title="Ромашка")
    epoch = link(salon)
    with run_by_a_gateway(salon):
        out, _err = _run("whatsapp_status", str(salon.salon_id))
        report = json.loads(_run("whatsapp_status", salon.session_id, "--json")[0])
    for fact in (
        salon.session_id,
        "Ромашка",
        "open",
        "79***4567",
        OWNER,
        f"epoch {epoch}",
    ):
        assert fact in out
    assert "linked" in out
    assert "pre-key 1" in out
    assert (report["status"], report["creds"]) == ("open", "linked")
    assert (report["owner"], report["epoch"]) == (OWNER, epoch)
    assert report["keys"]["session"] == 1
    assert sum(report["keys"].values()) == 10
    assert report["last_alive_at"]
    assert report["attempt"] is None


def test_status_tells_of_waits_stops_and_attempts():
    waiting, stopped, asking, scanning = (make_salon() for _ in range(4))
    WhatsAppSession.objects.filter(salon=waiting).update(
        status="replaced", reason="440", retry_at=Now() + timedelta(minutes=5)
    )
    store_creds(stopped)
    sessions.disconnect(stopped, "staff")
    pairing.request_code(asking, OTHER_PHONE, "page")
    show_code(asking)
    pairing.request_qr(scanning, "page")
    show_qr(scanning)
    store_creds(waiting, make_creds(linked=False))
    out, _err = _run("whatsapp_status")
    assert "replaced (440)" in out
    assert "next try" in out
    assert "half-paired" in out
    assert "staff stopped it" in out
    assert "code shown, 79***4321" in out
    assert "qr shown, any phone" in out
    reports = json.loads(_run("whatsapp_status", "--json")[0])
    assert [report["salon_id"] for report in reports] == sorted(
        salon.salon_id for salon in (waiting, stopped, asking, scanning)
    )
    assert reports[2]["attempt"]["stage"] == "shown"
    for secret in (PHONE, OTHER_PHONE, "ABCD-1234", QR, "noiseKey"):
        assert secret not in out + json.dumps(reports)


def test_status_of_a_salon_that_was_never_used():
    salon = make_salon()
    WhatsAppSession.objects.all().delete()
    out, _err = _run("whatsapp_status", str(salon.salon_id))
    assert "unlinked" in out
    assert "never" in out


def test_a_reset_needs_no_gateway(monkeypatch):
    monkeypatch.setattr("builtins.input", lambda _question: pytest.fail("asked"))
    salon = make_salon()
    store_creds(salon)
    out, _err = _run("whatsapp_reset", str(salon.salon_id), "--yes")
    assert "is reset" in out
    assert stored_rows(salon) == (None, {})
    assert status_of(salon) == "unlinked"
    assert AuditEvent.objects.get(action="reset").actor == "command"
    _run("whatsapp_reset", salon.session_id, "--yes")


@pytest.mark.parametrize("answer", ["", "y", "yes", "company_1", None])
def test_a_reset_that_is_not_confirmed_does_nothing(monkeypatch, answer):
    def ask(_question):
        if answer is None:
            raise EOFError
        return answer

    monkeypatch.setattr("builtins.input", ask)
    salon = make_salon()
    store_creds(salon)
    with pytest.raises(CommandError, match="Nothing was done"):
        _run("whatsapp_reset", str(salon.salon_id))
    assert stored_rows(salon)[0] == make_creds()


def test_a_reset_is_confirmed_by_typing_the_salon(monkeypatch):
    salon = make_salon()
    store_creds(salon)
    questions = []

    def ask(question):
        questions.append(question)
        return f" {salon.session_id} "

    monkeypatch.setattr("builtins.input", ask)
    _run("whatsapp_reset", str(salon.salon_id))
    assert stored_rows(salon) == (None, {})
    assert salon.session_id in questions[0]


def test_to_disconnect_keeps_the_link():
    salon = make_salon()
    store_creds(salon)
    out, _err = _run("whatsapp_disconnect", salon.session_id)
    assert "its link is kept" in out
    assert status_of(salon) == "stopped"
    assert stored_rows(salon)[0] == make_creds()


def test_without_tables_a_command_says_what_to_do(monkeypatch):
    def empty_database(*_args):
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1 FROM a_table_that_is_not_there")

    monkeypatch.setattr(reports, "sessions", empty_database)
    with pytest.raises(CommandError, match="migrate"):
        _run("whatsapp_status")
