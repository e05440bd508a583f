"""The health command: well is 0, and what is not well is 1 and said."""

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from io import StringIO
from pathlib import Path
from typing import Any

import psycopg
import pytest
from django.core.management import CommandError, call_command
from django.db import connection
from django.db.migrations.recorder import MigrationRecorder
from django.db.models.functions import Now

from tests import factories
from tests.database import SECRETS
from whatsapp.gateway.database import conninfo
from whatsapp.models import Gateway, PairingAttempt, StatusChange, WhatsAppSession
from whatsapp.services import gateways, health, pairing

pytestmark = pytest.mark.django_db(transaction=True)

ENGINE: dict[str, Any] = {
    "process": 1,
    "pid": 4711,
    "sessions": 3,
    "rss": 200 * 2**20,
    "heap": 1,
    "codes_ready": 0,
    "lag_mean_ms": 1.0,
    "lag_max_ms": 12.0,
    "restarts": 0,
    "asked_at": 1.0,
}


@contextmanager
def living_gateway(
    name: str = "gateway-a", engine: dict[str, Any] = ENGINE
) -> Iterator[int]:
    """Hold the lock by which a gateway is known to live, as a gateway does."""
    pk = gateways.join(name)
    gateways.touch(pk, [engine])
    with psycopg.connect(conninfo(), autocommit=True) as locks:
        locks.execute(
            "SELECT pg_advisory_lock(%s, %s)", [gateways.GATEWAY_LOCK_CLASS, pk]
        )
        yield pk


@pytest.fixture
def gateway() -> Iterator[int]:
    with living_gateway() as pk:
        yield pk


def _ask() -> tuple[dict[str, Any], str]:
    """Return the report, and what the command failed with."""
    out = StringIO()
    try:
        call_command("whatsapp_health", "--json", stdout=out)
    except CommandError as error:
        return json.loads(out.getvalue()), str(error)
    return json.loads(out.getvalue()), ""


def _problem() -> str:
    report, error = _ask()
    assert report["ok"] is False
    assert " ".join(report["problems"]) == error
    return error


def _settle() -> None:
    """Let all changes of status be told: they are not what the test is about."""
    StatusChange.objects.update(told=True)


def _late(status: str, reason: str = "", minutes: int = 12) -> Any:
    salon = factories.make_salon()
    factories.store_creds(salon)
    WhatsAppSession.objects.filter(salon=salon).update(
        status=status, reason=reason, since=Now() - timedelta(minutes=minutes)
    )
    _settle()
    return salon


def test_a_service_that_is_well(gateway: int):
    factories.link(factories.make_salon())
    _settle()
    report, error = _ask()
    assert error == ""
    assert report["ok"] is True
    assert report["problems"] == report["notices"] == []
    assert report["database"] == "ok"
    assert report["statuses"]["open"] == 1
    assert report["oldest_proof"] < health.SILENT_SECONDS
    (one,) = report["gateways"]
    assert (one["name"], one["alive"], one["engines"]) == ("gateway-a", True, [ENGINE])
    out = StringIO()
    call_command("whatsapp_health", stdout=out)
    told = out.getvalue()
    assert re.search(r"gateway +gateway-a: 0 salons, looked \d+ s ago\n", told)
    assert "Node.js 1 process 4711, 3 sessions, 200 MB, lag 12 ms, 0 restarts" in told
    assert factories.PHONE not in told + json.dumps(report)


def test_without_a_gateway_nothing_is_connected():
    Gateway.objects.create(name="lost-one")
    assert _problem() == "No gateway is alive: no salon can be connected. Start one."
    report, _error = _ask()
    assert report["notices"] == ["Gateways that were lost: lost-one."]


def test_a_gateway_that_holds_its_lock_and_does_nothing(gateway: int):
    Gateway.objects.update(seen_at=Now() - timedelta(minutes=5))
    assert _problem() == "Gateway gateway-a has not looked for 5 min."


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"pid": None}, "Node.js 1 of gateway gateway-a is down."),
        ({"lag_max_ms": 2500.4}, "blocked for 2500 ms at a time"),
        ({"process": 0, "pid": None}, "Node.js (ward) of gateway gateway-a is down."),
    ],
)
def test_an_engine_that_is_not_well(change: dict[str, Any], words: str):
    with living_gateway(engine={**ENGINE, **change}):
        assert words in _problem()


def test_salons_that_are_not_connected_for_long_are_named(gateway: int):
    late = _late("reconnecting", "428")
    _late("connecting", minutes=2)
    stopped = _late("stopped")
    WhatsAppSession.objects.filter(salon=stopped).update(wanted=False)
    unlinked = factories.make_salon()
    WhatsAppSession.objects.filter(salon=unlinked).update(
        since=Now() - timedelta(days=1)
    )
    assert _problem() == (
        f"A linked salon is not connected: {late.session_id}"
        " (reconnecting 428, 12 min)."
    )
    report, _error = _ask()
    assert len(report["not_open"]) == 2
    another = _late("needs_attention", "411", minutes=300)
    assert "2 linked salons are not connected" in _problem()
    assert f"{another.session_id} (needs_attention 411, 5 h)" in _problem()


def test_a_banned_salon_is_told_and_nobody_is_woken_for_it(gateway: int):
    salon = _late("banned", "403")
    report, error = _ask()
    assert error == ""
    assert report["notices"] == [
        f"WhatsApp has restricted the accounts of {salon.session_id}."
    ]


def test_an_open_session_that_nobody_proves_is_a_problem(gateway: int):
    factories.link(factories.make_salon())
    _settle()
    WhatsAppSession.objects.update(last_alive_at=Now() - timedelta(minutes=4))
    assert _problem() == (
        "An open session was not heard for 4 min, and nobody has noticed."
    )


def test_attempts_that_nobody_ends_are_a_problem(gateway: int):
    pairing.request_qr(factories.make_salon(), "page")
    _settle()
    assert _ask()[1] == ""
    PairingAttempt.objects.update(deadline=Now() - timedelta(minutes=1))
    assert _problem() == "1 link attempts are overdue and nobody ends them."


def test_changes_that_nobody_is_told_of_are_a_problem(gateway: int):
    factories.link(factories.make_salon())
    assert _ask()[1] == ""
    StatusChange.objects.update(at=Now() - timedelta(minutes=10))
    assert "changes of status were not told to anybody, the oldest for 10 min" in (
        _problem()
    )


def test_abnormal_growth_is_told(gateway: int):
    salon = factories.make_salon()
    with connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO whatsapp_keycount (salon_id, day, total, by_type) SELECT"
            " %(salon)s, (now() AT TIME ZONE 'UTC')::date - days, total,"
            " jsonb_build_object('pre-key', total)"
            " FROM (VALUES (3, 300), (0, 2300)) counts(days, total)",
            {"salon": salon.pk},
        )
    report, error = _ask()
    assert error == ""
    assert report["grown"] == [f"{salon.session_id} (pre-key +2000)"]
    assert "Keys have grown abnormally" in report["notices"][0]


def test_missing_migrations_are_a_problem(gateway: int):
    recorder = MigrationRecorder(connection)
    recorder.record_unapplied("whatsapp", "0009_key_counts")
    try:
        words = "The database lacks 1 migrations: run manage.py migrate."
        assert _problem() == words
    finally:
        recorder.record_applied("whatsapp", "0009_key_counts")


def test_a_layer_that_is_down_is_a_problem(gateway: int, settings: Any):
    settings.REDIS_URL = "redis://:hunter2@127.0.0.1:9"
    settings.CHANNEL_LAYERS = {
        "default": {
            "BACKEND": "channels_redis.pubsub.RedisPubSubChannelLayer",
            "CONFIG": {"hosts": [settings.REDIS_URL]},
        }
    }
    words = _problem()
    assert words.startswith("The channel layer: failed. Pages and gateways learn")
    assert "hunter2" not in json.dumps(_ask())


def test_a_database_that_is_away_is_said_without_its_address():
    done = subprocess.run(
        [sys.executable, "manage.py", "whatsapp_health", "--json"],
        cwd=Path(__file__).parent.parent,
        env={
            **SECRETS,
            "ENV_FILE": "/dev/null",
            "DATABASE_URL": "postgresql://anna:hunter2@127.0.0.1:9/x",
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "CommandError: The database does not answer." in done.stderr
    assert "hunter2" not in done.stderr + done.stdout
    assert json.loads(done.stdout)["database"] == "no answer"
