"""A phone is linked from a terminal, and every end is said, with its exit code."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import timedelta
from io import StringIO
from pathlib import Path
from typing import Any, TypeVar

import pytest
from django.core.management import CommandError, call_command
from django.db import connection, connections
from django.db.models.functions import Now

from tests import factories
from tests.database import SECRETS
from tests.factories import OTHER_PHONE, PHONE, QR, make_salon
from tests.gateway_fixtures import (  # noqa: F401
    World,
    clean_database,
    simulator,
    world,
)
from tests.test_service_health import living_gateway
from whatsapp.errors import ErrorCode
from whatsapp.models import PairingAttempt, Salon
from whatsapp.services import attempts, pairing, sessions

pytestmark = pytest.mark.django_db(transaction=True)

ROOT = Path(__file__).parent.parent
PATIENCE = 60.0

T = TypeVar("T")


def until(condition: Callable[[], T | None], what: str) -> T:
    deadline = time.monotonic() + PATIENCE
    while True:
        if found := condition():
            return found
        assert time.monotonic() < deadline, f"waited in vain: {what}"
        time.sleep(0.02)


class Operator:
    """Somebody who has typed the command, and looks at what it prints."""

    def __init__(self, thread: ThreadPoolExecutor, *words: str) -> None:
        self.out = StringIO()
        self._done: Future[None] = thread.submit(self._run, words)

    def _run(self, words: tuple[str, ...]) -> None:
        try:
            # Whatever goes wrong: no thread waits for ever.
            patient = ("whatsapp_pair", "--wait", str(PATIENCE))
            call_command(*patient, *words, stdout=self.out, no_color=True)
        finally:
            connections.close_all()

    @property
    def lines(self) -> list[dict[str, Any]]:
        """What was printed with --json."""
        return [json.loads(line) for line in self.out.getvalue().splitlines()]

    def reads(self, text: str) -> None:
        """Wait until a text is there."""

        def is_there() -> bool:
            if self._done.done():
                self._done.result()
            return text in self.out.getvalue()

        until(is_there, text)

    def attempt(self, salon: Salon) -> PairingAttempt:
        """Wait until it has asked."""

        def asked() -> Any:
            if self._done.done():
                self._done.result()
            return factories.open_attempt(salon)

        return until(asked, "the attempt")

    def succeeds(self) -> str:
        """Wait for its end; return what it has printed."""
        self._done.result(PATIENCE)
        return self.out.getvalue()

    def fails(self) -> CommandError:
        """Wait for its end; return why."""
        with pytest.raises(CommandError) as failed:
            self._done.result(PATIENCE)
        return failed.value


@pytest.fixture
def operator() -> Iterator[Callable[..., Operator]]:
    with ThreadPoolExecutor(1) as thread:
        yield lambda *words: Operator(thread, *words)


@pytest.fixture
def gateway() -> Iterator[int]:
    with living_gateway() as pk:
        yield pk


def _finish(salon: Salon, attempt_id: int, epoch: int) -> None:
    assert factories.confirm(salon, attempt_id, epoch)
    _attempt, epoch = factories.begin(salon)
    assert attempts.record_open(salon, epoch, PHONE)


# --- linked ---------------------------------------------------------------------------


@pytest.mark.usefixtures("gateway")
def test_a_code_is_shown_and_each_stage_told(operator: Callable[..., Operator]):
    salon = make_salon()
    person = operator(salon.session_id, "--phone", f"+{PHONE}")
    asked = person.attempt(salon)
    assert (asked.kind, asked.phone, asked.requested_by) == ("code", PHONE, "command")
    person.reads("Preparing the link with WhatsApp…\n")
    attempt_id, epoch = factories.show_code(salon)
    person.reads("\n    ABCD-1234\n")
    person.reads("Enter the code in WhatsApp on the phone.\n")
    assert attempts.record_entered(salon, attempt_id, epoch)
    person.reads("The code was entered. WhatsApp is checking it…\n")
    assert factories.confirm(salon, attempt_id, epoch)
    person.reads("The phone is linked. Finishing…\n")
    _attempt, epoch = factories.begin(salon)
    assert attempts.record_open(salon, epoch, PHONE)
    told = person.succeeds()
    assert told.endswith("WhatsApp is connected: 79***4567.\n")
    assert "Valid for 1" in told
    assert PHONE not in told


@pytest.mark.usefixtures("gateway")
def test_programs_get_one_object_per_line(operator: Callable[..., Operator]):
    salon = make_salon()
    person = operator(str(salon.salon_id), "--qr", "--json")
    person.attempt(salon)
    attempt_id, epoch = factories.show_qr(salon)
    person.reads(QR)
    assert attempts.record_qr(salon, attempt_id, epoch, f"{QR}2", 20)
    person.reads(f'{QR}2"')
    _finish(salon, attempt_id, epoch)
    person.succeeds()
    lines = person.lines
    qrs = [line for line in lines if line["event"] == "qr-update"]
    assert [line["qr"] for line in qrs] == [QR, f"{QR}2"]
    assert 0 < qrs[1]["expires_in"] <= 20
    stages = [line["stage"] for line in lines if line["event"] == "attempt"]
    assert [stage for stage in stages if stage != "finishing"] == ["requested", "shown"]
    assert lines[-1] == {
        "event": "linked",
        "phone": "79***4567",
        "message": "WhatsApp is connected: 79***4567.",
    }


@pytest.mark.usefixtures("gateway")
def test_a_qr_can_be_scanned_from_the_terminal(operator: Callable[..., Operator]):
    salon = make_salon()
    person = operator(salon.session_id, "--qr")
    person.attempt(salon)
    attempt_id, epoch = factories.show_qr(salon)
    person.reads("then a new one comes")
    _finish(salon, attempt_id, epoch)
    told = person.succeeds()
    assert QR not in told
    assert sum("█" in line for line in told.splitlines()) > 15


@pytest.mark.usefixtures("gateway")
@pytest.mark.parametrize("how", [["--qr"], ["--phone", PHONE]])
def test_a_salon_that_is_connected_is_said_to_be(
    operator: Callable[..., Operator], how: list[str]
):
    salon = make_salon()
    factories.link(salon)
    person = operator(salon.session_id, *how)
    assert person.succeeds() == "WhatsApp is already connected.\n"


async def test_with_a_real_gateway_a_phone_is_linked_by_code(
    world: World,  # noqa: F811
    operator: Callable[..., Operator],
):
    await world.gateway()
    story = await world.salon()
    person = operator(
        story.salon.session_id, "--phone", f"+{story.phone.number}", "--json"
    )
    answer = await story.enter(await story.code())
    assert answer["ok"], answer
    await story.status("open")
    await world.call(person.succeeds)
    assert person.lines[-1]["event"] == "linked"
    (code,) = (line for line in person.lines if line["event"] == "pairing-code")
    assert len(code["code"]) == 9


async def test_with_a_real_gateway_a_phone_is_linked_by_qr(
    world: World,  # noqa: F811
    operator: Callable[..., Operator],
):
    await world.gateway()
    story = await world.salon()
    person = operator(story.salon.session_id, "--qr", "--json")
    await world.call(person.reads, "qr-update")
    shown = next(line["qr"] for line in person.lines if "qr" in line)
    answer = await story.scan(shown)
    assert answer["ok"], answer
    await world.call(person.succeeds)
    assert person.lines[-1]["event"] == "linked"
    assert (await story.snapshot())["status"] == "open"


# --- not linked -----------------------------------------------------------------------


@pytest.mark.usefixtures("gateway")
@pytest.mark.parametrize(
    ("stage", "error"),
    [("failed", ErrorCode.PHONE_NOT_ON_WHATSAPP), ("expired", ErrorCode.CODE_EXPIRED)],
)
def test_what_went_wrong_is_said_in_a_sentence_and_a_code(
    operator: Callable[..., Operator], stage: str, error: ErrorCode
):
    salon = make_salon()
    person = operator(salon.session_id, "--phone", PHONE, "--json")
    person.attempt(salon)
    attempt_id, epoch = factories.show_code(salon)
    assert attempts.fail(salon, attempt_id, epoch, error, stage)
    failed = person.fails()
    assert failed.returncode == 1
    assert str(error) in str(failed)
    last = person.lines[-1]
    assert (last["event"], last["code"]) == ("error", str(error))
    assert last["message"] in str(failed)
    assert last["message"].isascii()  # English, whatever the pages speak


@pytest.mark.usefixtures("gateway")
def test_a_refused_request_is_said_at_once(operator: Callable[..., Operator]):
    salon = make_salon()
    assert "(INVALID_PHONE_FORMAT)" in str(
        operator(salon.session_id, "--phone", "12").fails()
    )
    pairing.request_code(salon, PHONE, "page")
    failed = operator(salon.session_id, "--phone", OTHER_PHONE).fails()
    assert "(REQUEST_IN_PROGRESS)" in str(failed)


@pytest.mark.usefixtures("gateway")
def test_an_attempt_that_somebody_replaces_or_cancels_is_over(
    operator: Callable[..., Operator],
):
    salon = make_salon()
    person = operator(salon.session_id, "--qr")
    person.attempt(salon)
    pairing.request_code(salon, PHONE, "page")
    assert "Another link was asked for" in str(person.fails())
    sessions.disconnect(salon, "staff")
    person = operator(salon.session_id, "--qr")
    person.attempt(salon)
    sessions.disconnect(salon, "staff")
    assert "was cancelled" in str(person.fails())


@pytest.mark.usefixtures("gateway")
def test_an_attempt_that_no_gateway_ends_is_ended(operator: Callable[..., Operator]):
    salon = make_salon()
    person = operator(salon.session_id, "--qr")
    asked = person.attempt(salon)
    PairingAttempt.objects.filter(pk=asked.pk).update(
        deadline=Now() - timedelta(seconds=1)
    )
    assert "(PAIRING_TIMEOUT)" in str(person.fails())
    assert factories.last_attempt(salon).error == "PAIRING_TIMEOUT"


@pytest.mark.usefixtures("gateway")
def test_who_waits_no_longer_cancels_nothing(operator: Callable[..., Operator]):
    salon = make_salon()
    failed = operator(salon.session_id, "--qr", "--wait", "0.1").fails()
    assert "nothing is cancelled" in str(failed)
    assert factories.open_attempt(salon)


def test_without_a_gateway_nothing_is_asked_for(operator: Callable[..., Operator]):
    salon = make_salon()
    failed = operator(salon.session_id, "--qr").fails()
    assert failed.returncode == 1
    assert "No gateway is running" in str(failed)
    assert not PairingAttempt.objects.exists()


# --- as a process ---------------------------------------------------------------------


def _start(*words: str) -> "subprocess.Popen[str]":
    database = connection.settings_dict
    address = "postgresql://{USER}:{PASSWORD}@{HOST}:{PORT}/{NAME}".format(**database)
    return subprocess.Popen(
        [sys.executable, "manage.py", "whatsapp_pair", *words],
        cwd=ROOT,
        env={
            **SECRETS,
            "PATH": os.environ["PATH"],
            "ENV_FILE": os.devnull,
            "DATABASE_URL": address,
            "WHATSAPP_WS_URL": "ws://127.0.0.1:9",
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.usefixtures("gateway")
def test_ctrl_c_cancels_nothing_and_says_so():
    salon = make_salon()
    process = _start(salon.session_id, "--phone", PHONE)
    until(lambda: factories.open_attempt(salon), "the attempt")
    factories.show_code(salon)
    assert process.stdout
    for line in process.stdout:
        if "ABCD-1234" in line:
            break
    process.send_signal(signal.SIGINT)
    _out, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 130
    assert "nothing is cancelled: the attempt goes on for up to 1" in err
    assert "Traceback" not in err
    # The log on the standard error knows neither the code nor the number.
    assert "ABCD" not in err
    assert PHONE not in err
    assert factories.open_attempt(salon).stage == "shown"


@pytest.mark.parametrize(
    "words",
    [[], ["1"], ["1", "--qr", "--phone", PHONE], ["1", "--qr", "--wait", "-1"]],
    ids=str,
)
def test_wrong_usage_is_said_and_ends_with_two(words: list[str]):
    process = _start(*words)
    _out, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 2
    assert "usage:" in err
