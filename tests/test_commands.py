"""The commands about salons and sessions, as operators type them."""

import argparse
import json
import os
import subprocess
import sys
from datetime import timedelta
from io import StringIO

import psycopg
import pytest
from django.core.management import CommandError, call_command, load_command_class
from django.db import OperationalError, connection
from django.db.models.functions import Now
from psycopg_pool import PoolTimeout

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
from tests.server import ROOT
from tests.test_docs import our_commands
from tests.test_service_health import living_gateway
from whatsapp.management.salon_command import TablesCommand
from whatsapp.models import AuditEvent, Salon, WhatsAppSession
from whatsapp.services import looks, pairing, proofs, reports, sessions, tokens

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
        ["whatsapp_reset", "--dry-run"],
        ["whatsapp_disconnect"],
        ["whatsapp_connect"],
        ["whatsapp_pair", "--qr"],
        ["whatsapp_key list --salon"],
    ],
)
@pytest.mark.parametrize("name", ["999999", "company_999999", "company_", "x"])
def test_a_salon_that_is_not_here_is_an_error(words, name):
    command, *options = words
    with pytest.raises(CommandError) as failed:
        _run(*command.split(), name, *options)
    known = name.removeprefix("company_").isdigit()
    wanted = f"There is no salon {name}." if known else f"{name!r} is not a salon id."
    assert (str(failed.value), failed.value.returncode) == (wanted, 1)


def test_status_without_salons_says_what_to_do():
    out, _err = _run("whatsapp_status")
    assert "create_salon" in out
    assert json.loads(_run("whatsapp_status", "--json")[0]) == []


def test_status_calls_nothing_open_that_nobody_runs():
    lost, silent = make_salon(), make_salon()
    for salon, phone in ((lost, PHONE), (silent, OTHER_PHONE)):
        link(salon, phone)
    proofs.record({silent.pk: 600.0})
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


def _typed(monkeypatch, text):
    """Have somebody type this when he is asked."""
    monkeypatch.setattr("sys.stdin", StringIO(text))


def test_a_reset_needs_no_gateway(monkeypatch):
    _typed(monkeypatch, "no\n")
    salon = make_salon()
    store_creds(salon)
    out, err = _run("whatsapp_reset", str(salon.salon_id), "--yes")
    assert "is reset" in out
    assert err == ""
    assert stored_rows(salon) == (None, {})
    assert status_of(salon) == "unlinked"
    assert AuditEvent.objects.get(action="reset").actor == "command"
    _run("whatsapp_reset", salon.session_id, "--yes")


@pytest.mark.parametrize("answer", ["", "\n", "y\n", "yes\n", "company_1\n"])
def test_a_reset_that_is_not_confirmed_does_nothing(monkeypatch, answer):
    _typed(monkeypatch, answer)
    salon = make_salon()
    store_creds(salon)
    with pytest.raises(CommandError, match="Nothing was done"):
        _run("whatsapp_reset", str(salon.salon_id))
    assert stored_rows(salon)[0] == make_creds()


def test_a_reset_is_confirmed_by_typing_the_salon(monkeypatch):
    salon = make_salon(title="Ромашка")
    link(salon)
    _typed(monkeypatch, f" {salon.session_id} \n")
    out, err = _run("whatsapp_reset", str(salon.salon_id))
    assert stored_rows(salon) == (None, {})
    for fact in (salon.session_id, "Ромашка", "79***4567", "linked", "10 keys"):
        assert fact in err
    assert out.startswith(f"{salon.session_id} is reset")


def test_ctrl_c_at_the_question_of_a_reset_does_nothing(monkeypatch):
    class Interrupted(StringIO):
        def readline(self, _size=-1):
            raise KeyboardInterrupt

    monkeypatch.setattr("sys.stdin", Interrupted())
    salon = make_salon()
    store_creds(salon)
    with pytest.raises(CommandError, match="Nothing was done") as failed:
        _run("whatsapp_reset", str(salon.salon_id))
    assert failed.value.returncode == 130
    assert stored_rows(salon)[0] == make_creds()


def test_a_reset_can_be_looked_at_first():
    salon = make_salon()
    link(salon)
    pairing.request_code(salon, OTHER_PHONE, "page")
    told = json.loads(
        _run("whatsapp_reset", salon.session_id, "--dry-run", "--json")[0]
    )
    assert told == {
        "dry_run": True,
        "session_id": salon.session_id,
        "creds": "linked",
        "keys": 10,
        "attempt": True,
        "phone": "79***4567",
        "stays_on_the_phone": True,
    }
    out, _err = _run("whatsapp_reset", salon.session_id, "--dry-run")
    assert "10 keys" in out
    assert "Nothing was deleted." in out
    assert stored_rows(salon)[0] == make_creds()
    assert not AuditEvent.objects.filter(action="reset").exists()
    told = json.loads(_run("whatsapp_reset", salon.session_id, "--yes", "--json")[0])
    assert (told["dry_run"], told["keys"]) == (False, 10)
    assert stored_rows(salon) == (None, {})


@pytest.mark.django_db(transaction=True)
def test_whose_session_is_closed_is_told_that_the_phone_goes_on_listing_the_device():
    closed, unlinked, living = (make_salon() for _ in range(3))
    store_creds(closed)
    assert "listing the device" in _run("whatsapp_reset", closed.session_id, "--yes")[0]
    assert "listing" not in _run("whatsapp_reset", unlinked.session_id, "--yes")[0]
    with living_gateway(), run_by_a_gateway(living):
        link(living)
        assert "listing" not in _run("whatsapp_reset", living.session_id, "--yes")[0]


def test_a_program_cannot_be_asked_whether_it_means_a_reset():
    salon = make_salon()
    store_creds(salon)
    with pytest.raises(CommandError, match="--dry-run") as failed:
        _run("whatsapp_reset", salon.session_id, "--json")
    assert failed.value.returncode == 2
    assert stored_rows(salon)[0] == make_creds()


def test_to_disconnect_keeps_the_link():
    salon = make_salon()
    store_creds(salon)
    out, _err = _run("whatsapp_disconnect", salon.session_id)
    assert "its link is kept" in out
    assert status_of(salon) == "stopped"
    assert stored_rows(salon)[0] == make_creds()


def test_to_disconnect_says_what_became_of_it():
    running, unlinked, lost = (make_salon() for _ in range(3))
    link(running)
    link(lost, OTHER_PHONE)

    def told(salon):
        report = json.loads(_run("whatsapp_disconnect", salon.session_id, "--json")[0])
        assert report["session_id"] == salon.session_id
        return report["outcome"], report["status"]

    with run_by_a_gateway(running):
        assert told(running) == ("stopping", "open")
    # Its gateway is dead, and so is its socket.
    assert told(lost) == ("stopped", "stopped")
    assert told(lost) == ("already", "stopped")
    assert told(unlinked) == ("not_linked", "unlinked")
    assert "no link" in _run("whatsapp_disconnect", unlinked.session_id)[0]


@pytest.mark.django_db(transaction=True)
def test_to_connect_undoes_a_stop_and_leaves_alone_what_is_connected():
    salon = make_salon()
    epoch = link(salon)

    def told(*options):
        out, err = _run("whatsapp_connect", salon.session_id, "--json", *options)
        report = json.loads(out)
        return report["outcome"], report["status"], "No gateway" in err

    with run_by_a_gateway(salon), living_gateway():
        assert told() == ("left_open", "open", False)
        assert told("--anew") == ("started", "connecting", False)
        assert told() == ("under_way", "connecting", False)
        salon.refresh_from_db()
        assert salon.session.epoch == epoch + 1
    sessions.disconnect(salon, "staff")
    looks.sweep()
    assert status_of(salon) == "stopped"
    assert told() == ("started", "connecting", True)


@pytest.mark.parametrize("status", ["unlinked", "banned"])
def test_what_cannot_be_connected_is_said_with_what_to_do(status):
    salon = make_salon()
    if status == "banned":
        store_creds(salon)
    WhatsAppSession.objects.filter(salon=salon).update(status=status)
    with pytest.raises(CommandError, match="whatsapp_pair") as failed:
        _run("whatsapp_connect", salon.session_id)
    assert failed.value.returncode == 1
    assert status_of(salon) == status


def test_a_salon_is_made_for_a_program_by_either_name():
    out, _err = _run("create_salon", "company_4712", "--title", "Роза", "--json")
    assert json.loads(out) == {
        "salon_id": 4712,
        "session_id": "company_4712",
        "title": "Роза",
    }
    with pytest.raises(CommandError, match="at most 18 digits"):
        _run("create_salon", "1" + "0" * 18, "--title", "x")


def test_a_token_is_issued_for_a_program():
    salon = make_salon()
    told = json.loads(_run("marketplace_token", salon.session_id, "--json")[0])
    assert tokens.verify(told["token"]).salon == salon
    assert told["expires_in"] == tokens.LIFETIME_SECONDS


# --- what goes wrong ------------------------------------------------------------------


OF_THEIR_OWN = {"serve", "whatsapp_gateway"}
"""They run until they are stopped."""


def _commands():
    return sorted(our_commands() - OF_THEIR_OWN)


@pytest.mark.parametrize("name", _commands())
def test_every_command_ends_in_one_line_whatever_happens(name):
    assert isinstance(load_command_class("whatsapp", name), TablesCommand)


@pytest.mark.parametrize("name", _commands())
def test_every_command_answers_programs_and_explains_its_options(name):
    parser = load_command_class("whatsapp", name).create_parser("manage.py", name)
    parsers = [parser]
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            parsers = list(action.choices.values())
    for each in parsers:
        assert "--json" in each.format_help()
        assert all(action.help for action in each._actions)


@pytest.mark.parametrize(
    ("error", "words", "code"),
    [
        (KeyboardInterrupt(), "Interrupted", 130),
        (PoolTimeout("no connection"), "does not answer", 1),
        (psycopg.OperationalError("server closed the connection"), "was lost", 1),
        (psycopg.errors.AdminShutdown("terminating"), "was lost", 1),
        (psycopg.errors.UndefinedTable("no such table"), "migrate", 1),
        (psycopg.errors.UndefinedColumn("no such column"), "migrate", 1),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else "",
)
def test_what_goes_wrong_is_said_in_one_line(monkeypatch, error, words, code):
    def fail(*_args):
        with connection.wrap_database_errors:
            raise error

    monkeypatch.setattr(reports, "sessions", fail)
    with pytest.raises(CommandError, match=words) as failed:
        _run("whatsapp_status")
    assert failed.value.returncode == code
    assert "\n" not in str(failed.value)


def test_a_fault_of_ours_is_not_explained_away(monkeypatch):
    def fail(*_args):
        with connection.wrap_database_errors:
            raise psycopg.errors.DeadlockDetected("deadlock detected")

    monkeypatch.setattr(reports, "sessions", fail)
    with pytest.raises(OperationalError):
        _run("whatsapp_status")


def test_without_the_database_there_is_one_line_and_no_traceback():
    asked = (["whatsapp_status"], ["whatsapp_health"], ["serve", "--port", "0"])
    env = {
        **os.environ,
        "DATABASE_URL": "postgresql://somebody:an-invented-password@127.0.0.1:9/x",
        "WHATSAPP_WS_URL": "ws://127.0.0.1:9",
    }
    running = [
        subprocess.Popen(
            [sys.executable, "manage.py", *words],
            cwd=ROOT,
            env=env,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for words in asked
    ]
    for process in running:
        out, err = process.communicate(timeout=120)
        assert process.returncode == 1
        assert out == ""
        assert err.startswith("CommandError: The database does not answer")
        assert err.count("\n") == 1


def test_without_tables_a_command_says_what_to_do(monkeypatch):
    def empty_database(*_args):
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1 FROM a_table_that_is_not_there")

    monkeypatch.setattr(reports, "sessions", empty_database)
    with pytest.raises(CommandError, match="migrate"):
        _run("whatsapp_status")
