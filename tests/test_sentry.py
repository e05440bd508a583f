"""None"""

import asyncio
import gc
import logging
import subprocess
import sys
import threading
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import sentry_sdk
from django.core.exceptions import ImproperlyConfigured
from django.db import OperationalError
from django.test import AsyncClient

from aiadmin import sentry
from tests.factories import make_salon
from tests.sentry_world import Captured, captured, caught, logger
from tests.test_scrubber import JWT, KEY, QR
from whatsapp import alerts
from whatsapp.engine import SessionRef
from whatsapp.engine.process import _told_of
from whatsapp.errors import ErrorCode, WhatsAppError
from whatsapp.gateway import teller
from whatsapp.models import PairingAttempt
from whatsapp.services import attempts, outbox, pairing

__all__ = ["captured"]


ROOT = Path(__file__).resolve().parent.parent

SECRETS = ["79001234567", "ABCD-1234", KEY, JWT, QR]
PASSWORD = "hunter2"
PIECES = [*SECRETS, PASSWORD, "c2lnbmF0dXJl", "AbCdEfGh"]


def fail(creds: dict[str, Any]) -> None:
    code, key = SECRETS[1], KEY
    raise ValueError(f"{creds} {code} {key}")


# --- what it says ---------------------------------------------------------------------


def test_an_event_holds_no_phone_no_creds_no_code_and_no_token(captured: Captured):
    logger.warning("breadcrumb: %s", SECRETS)
    sentry_sdk.add_breadcrumb(
        message=f"code {SECRETS[1]}", data={"token": JWT, "qr": QR}
    )
    sentry_sdk.set_tag("phone", SECRETS[0])
    sentry_sdk.set_user({"id": SECRETS[0]})
    sentry_sdk.set_context("pairing", {"creds": {"noiseKey": KEY}, "text": QR})
    try:
        fail({"me": f"{SECRETS[0]}:1@s.whatsapp.net", "noiseKey": KEY})
    except ValueError:
        logger.exception(
            "phone %s", SECRETS[0], extra={"password": PASSWORD, "note": QR}
        )

    (text,) = captured.texts
    assert "whatsapp.gateway.test" in text
    assert "ValueError" in text
    assert "***4567" in text
    for secret in PIECES:
        assert secret not in text


def test_an_event_has_the_tags_of_its_record(captured: Captured):
    logger.warning(
        "a phone for another",
        extra={
            **alerts.tags(
                "phone_mismatch_cleanup",
                component="baileys_auth",
                company_id="company_17",
                mismatch_type="other_phone",
            ),
            "old_phone": "79***4567",
        },
    )
    (event,) = captured.events
    assert event["level"] == "warning"
    assert event["logentry"] == {"message": "a phone for another"}
    assert event["tags"] == {
        "component": "baileys_auth",
        "operation": "phone_mismatch_cleanup",
        "company_id": "company_17",
        "mismatch_type": "other_phone",
    }
    assert event["extra"] == {"old_phone": "79***4567"}
    assert event["fingerprint"] == ["phone_mismatch", "company_17"]
    assert event["environment"] == "tests"
    assert event["release"] == "aiadmin@0"


@pytest.mark.parametrize(
    ("name", "component"),
    [
        ("whatsapp.gateway.manager", "gateway"),
        ("whatsapp.gateway.auth_store", "baileys_auth"),
        ("whatsapp.gateway.claimer", "ownership"),
        ("whatsapp.consumers", "marketplace-websocket"),
        ("whatsapp.engine.supervision", "engine"),
        ("django.request", "web"),
    ],
)
def test_whoever_speaks_names_the_component(
    captured: Captured, name: str, component: str
):
    logging.getLogger(name).error("bad", exc_info=caught(ValueError()))
    (event,) = captured.events
    assert event["tags"]["component"] == component


def test_where_it_happened_is_told_without_what_was_there(captured: Captured):
    noise_key = KEY
    logger.error("bad", exc_info=caught(ValueError(len(noise_key))))
    (event,) = captured.events
    (exception,) = event["exception"]["values"]
    frame = exception["stacktrace"]["frames"][-1]
    assert frame["function"] == "caught"
    assert frame["module"] == caught.__module__
    assert set(frame) <= {"function", "module", "filename", "lineno", "in_app"}


def test_what_went_before_is_told(captured: Captured):
    logger.info("%s goes to %s", "company_17", "open")
    logger.error("bad")
    (event,) = captured.events
    (crumb,) = event["breadcrumbs"]["values"]
    assert crumb.pop("timestamp")
    assert crumb == {
        "category": logger.name,
        "level": "info",
        "message": "company_17 goes to open",
    }


def test_the_engine_speaks_of_itself_in_words_that_are_known():
    names = {*alerts.TAGS, "reported_elsewhere"}
    for path in (ROOT / "whatsapp" / "engine").glob("*.py"):
        for line in path.read_text().splitlines():
            if "extra={" not in line or line.rstrip().endswith("{"):
                continue
            said = line.split("extra={", 1)[1].split("}")[0]
            for pair in said.split(", "):
                name, _colon, value = pair.partition(": ")
                assert name.strip('"') in names, line
                if name == '"operation"':
                    assert value.strip('"') in alerts.OPERATIONS, line


# --- the places -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "told"),
    [
        ("replaced", True),
        ("needs_attention", True),
        ("logged_out", False),
        ("open", False),
    ],
)
def test_a_status_that_operators_must_mend_is_an_event(
    captured: Captured, status: str, told: bool
):
    change = outbox._Change(
        *(1, 1, 17, datetime.now(UTC), "open", status, "440", "web-1:1281:7e93ed")
    )
    teller.send(outbox._changed(change))
    assert len(captured.events) == told
    if told:
        assert captured.events[0]["tags"] == {
            "component": "baileys-session",
            "operation": "session_status_changed",
            "company_id": "company_17",
            "session_health": status,
            "reason": "440",
        }
        assert captured.events[0]["extra"]["owner"] == "web-1:1281:7e93ed"


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("error", "told"),
    [
        (ErrorCode.PAIRING_CODE_FAILED, True),
        (ErrorCode.WHATSAPP_UNREACHABLE, True),
        (ErrorCode.PHONE_NOT_ON_WHATSAPP, False),
        (ErrorCode.RATE_LIMITED, False),
        (ErrorCode.CODE_EXPIRED, False),
    ],
)
def test_a_code_that_fails_by_no_fault_of_the_salons_is_an_event(
    captured: Captured, error: ErrorCode, told: bool
):
    salon = make_salon()
    pairing.request_code(salon, "+7 900 123-45-67", "page")
    attempt = PairingAttempt.objects.get(salon=salon, finished_at=None)
    assert attempts.fail(salon, attempt.pk, None, error)
    assert [event["tags"] for event in captured.events] == [
        {
            "component": "baileys-session",
            "operation": "pairingCode",
            "company_id": salon.session_id,
            "error": error.value,
        }
    ] * told


@pytest.mark.django_db
def test_what_a_salon_mistypes_is_no_event(captured: Captured):
    with pytest.raises(WhatsAppError):
        pairing.request_code(make_salon(), "12", "page")
    assert captured.events == []


@pytest.mark.parametrize(
    ("message", "tags"),
    [
        (
            {"rq": "get", "type": "pre-key"},
            {"operation": "get_keys", "key_type": "pre-key"},
        ),
        ({"rq": "save", "creds": "{}"}, {"operation": "save_credentials"}),
        ({"rq": "save", "creds": None}, {"operation": "set_keys"}),
    ],
)
def test_a_store_call_that_fails_says_which(
    captured: Captured, message: dict[str, Any], tags: dict[str, str]
):
    extra = _told_of(SessionRef("company_17", 1, 1), message)
    logging.getLogger("whatsapp.engine.process").error("the store failed", extra=extra)
    (event,) = captured.events
    whose = {"component": "baileys_auth", "company_id": "company_17"}
    assert event["tags"] == whose | tags


# --- one failure, one event -----------------------------------------------------------


def test_what_is_logged_and_raised_and_logged_is_one_event(captured: Captured):
    error = caught(ValueError("the store"))
    logger.error("first", exc_info=error, extra=alerts.tags("set_keys"))
    logger.error("second", exc_info=error)
    wrapped = RuntimeError("wrapped")
    wrapped.__cause__ = error
    logger.error("third", exc_info=caught(wrapped))
    logger.error("fourth", exc_info=caught(ExceptionGroup("tasks", [error])))
    (event,) = captured.events
    assert event["logentry"]["message"] == "first"


def test_a_group_with_a_new_failure_is_an_event(captured: Captured):
    known = caught(ValueError())
    logger.error("first", exc_info=known)
    logger.error("both", exc_info=caught(ExceptionGroup("x", [known, KeyError()])))
    assert len(captured.events) == 2


def test_what_another_record_tells_of_is_no_event(captured: Captured):
    logger.error("Node.js ended", extra=alerts.ELSEWHERE)
    assert captured.events == []


def test_a_warning_is_no_event_unless_operators_shall_know(captured: Captured):
    logger.warning("nothing to do")
    assert captured.events == []
    logger.warning("something to do", extra=alerts.tags("database_away"))
    assert len(captured.events) == 1


def test_a_record_that_makes_no_sentence_harms_nobody(
    captured: Captured, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(logging, "raiseExceptions", False)
    # pytest's own handlers would complain.
    monkeypatch.setattr(logger, "handlers", [sentry.SentryHandler()])
    monkeypatch.setattr(logger, "propagate", False)
    logger.error("%d of %s", "two")
    assert captured.events == []


def test_a_failing_view_is_one_event_with_its_path_only(
    captured: Captured, monkeypatch: pytest.MonkeyPatch
):
    async def broken(*_: object) -> None:
        raise ValueError("of a view")

    monkeypatch.setattr("aiadmin.health._ask", broken)

    async def visit() -> int:
        client = AsyncClient(raise_request_exception=False)
        answer = await client.get(
            "/readyz?token=secret-word",
            headers={"User-Agent": "curl/8.5", "Authorization": "Bearer abcdef"},
        )
        return answer.status_code

    assert asyncio.run(visit()) == 500
    (event,) = captured.events
    assert event["request"] == {
        "method": "GET",
        "url": "/readyz",
        "headers": {"User-Agent": "curl/8.5"},
    }
    assert event["tags"]["component"] == "web"
    assert "secret-word" not in captured.texts[0]
    assert "abcdef" not in captured.texts[0]


def test_an_answer_that_says_that_something_is_away_is_one_event(
    captured: Captured, monkeypatch: pytest.MonkeyPatch
):
    async def away() -> str:
        raise OperationalError("no database")

    monkeypatch.setattr("aiadmin.health._database", away)

    async def visit() -> int:
        return (await AsyncClient().get("/readyz")).status_code

    assert [asyncio.run(visit()) for _ in range(3)] == [503] * 3
    (event,) = captured.events
    assert event["tags"]["operation"] == "readiness"
    assert event["tags"]["category"] == "database"


def test_strangers_make_no_events_of_django(captured: Captured):
    async def visit() -> int:
        answer = await AsyncClient().get("/healthz", headers={"Host": "evil.invalid"})
        return answer.status_code

    asyncio.run(visit())
    logging.getLogger("django.security.DisallowedHost").error(
        "Invalid HTTP_HOST header", extra={"status_code": 400}
    )
    assert captured.events == []


def test_a_task_that_nobody_awaits_is_one_event(captured: Captured):
    async def forget() -> None:
        async def broken() -> None:
            raise ValueError("of a task")

        task = asyncio.create_task(broken())
        await asyncio.wait([task])
        del task
        gc.collect()

    asyncio.run(forget())
    (event,) = captured.events
    assert event["logger"] == "asyncio"
    assert event["exception"]["values"][0]["value"] == "of a task"


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_thread_that_dies_is_one_event(
    captured: Captured, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(sys, "excepthook", lambda *_: None)
    monkeypatch.setattr(threading, "excepthook", lambda _: None)
    sentry.watch_the_uncaught()
    thread = threading.Thread(target=fail, args=({},))
    thread.start()
    thread.join()
    (event,) = captured.events
    assert event["level"] == "fatal"
    assert event["exception"]["values"][0]["mechanism"] == {
        "type": "threading",
        "handled": False,
    }


def test_a_program_that_ends_by_an_exception_is_one_event(
    captured: Captured, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(sys, "excepthook", lambda *_: None)
    monkeypatch.setattr(threading, "excepthook", lambda _: None)
    sentry.watch_the_uncaught()
    known, new = caught(ValueError("known")), caught(OperationalError("new"))
    logger.error("logged before", exc_info=known)
    for error in (known, new, KeyboardInterrupt()):
        sys.excepthook(type(error), error, None)
    assert len(captured.events) == 2
    assert captured.events[1]["tags"] == {
        "component": "command",
        "category": "database",
    }


# --- the settings ---------------------------------------------------------------------


def test_without_a_dsn_the_sdk_is_not_even_imported():
    asked = "import django, sys; django.setup(); print('sentry_sdk' in sys.modules)"
    said = subprocess.run(
        [sys.executable, "-c", asked], cwd=ROOT, check=True, capture_output=True
    )
    assert said.stdout == b"False\n"


def test_a_dsn_that_is_none_is_refused_without_being_repeated():
    with pytest.raises(ImproperlyConfigured) as error:
        sentry.init("not a secret address", environment="x", release="y")
    assert "SENTRY_DSN must be" in str(error.value)
    assert "secret" not in str(error.value)
