"""docs/asyncapi.yaml says what really goes over the marketplace's WebSocket."""

import json
import re
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from django.db import connection
from jsonschema import Draft202012Validator

from tests.factories import (
    OTHER_PHONE,
    PHONE,
    begin,
    confirm,
    link,
    make_salon,
    show_code,
    show_qr,
)
from tests.pages import PATH, Page, call, opened
from tests.test_docs import event_names
from whatsapp import events, statuses
from whatsapp.consumers.base import CLOSE_CODES
from whatsapp.consumers.marketplace import MarketplaceConsumer
from whatsapp.errors import CATALOGUE, ErrorCode
from whatsapp.models import PairingAttempt, WhatsAppSession
from whatsapp.services import attempts, sessions, tokens

DOCUMENT = Path(__file__).resolve().parent.parent / "docs" / "asyncapi.yaml"

OF_THE_ADMIN = {events.WATCH, events.SALON_STATUSES}
OF_THE_API = {
    ErrorCode.NOT_LINKED,
    ErrorCode.NOT_FOUND,
    ErrorCode.METHOD_NOT_ALLOWED,
    ErrorCode.INVALID_REQUEST,
    ErrorCode.IDEMPOTENCY_KEY_REUSED,
    ErrorCode.TOO_MANY_REQUESTS,
}


@cache
def document() -> Any:
    return yaml.safe_load(DOCUMENT.read_text())


def sent_by(operation: str) -> set[str]:
    """Return the events of one direction."""
    references = document()["operations"][operation]["messages"]
    return {each["$ref"].rpartition("/")[2] for each in references}


def payload(name: str) -> Any:
    return document()["components"]["messages"][name]["payload"]


def validator(name: str) -> Draft202012Validator:
    """Return what judges a message of this name, with what its schema refers to."""
    components = {"components": document()["components"]}
    return Draft202012Validator({**payload(name), **components})


def data_of(name: str) -> Any:
    """Return the schema of a message's data."""
    data = payload(name)["properties"]["data"]
    if "$ref" in data:
        return document()["components"]["schemas"][data["$ref"].rpartition("/")[2]]
    return data


# --- against the code -----------------------------------------------------------------


def test_every_event_of_the_page_is_documented_and_no_other():
    messages = document()["components"]["messages"]
    assert messages.keys() == event_names() - OF_THE_ADMIN
    assert document()["channels"]["marketplace"]["messages"].keys() == messages.keys()
    assert sent_by("ask") | sent_by("tell") == messages.keys()
    assert not sent_by("ask") & sent_by("tell")
    assert document()["channels"]["marketplace"]["address"] == PATH
    for name in messages:
        assert payload(name)["properties"]["event"] == {"const": name}


def test_what_a_page_may_send_is_what_is_listened_to():
    handlers = MarketplaceConsumer(None)._handlers()
    assert sent_by("ask") == handlers.keys()


def test_the_words_of_a_status_are_the_code_s():
    status = data_of("status")["properties"]
    attempt = status["attempt"]["oneOf"][1]["properties"]
    assert set(status["status"]["enum"]) == set(WhatsAppSession.Status.values)
    assert set(attempt["kind"]["enum"]) == set(PairingAttempt.Kind.values)
    assert set(attempt["stage"]["enum"]) == set(PairingAttempt.Stage.values)
    assert set(status["action"]["enum"]) - {None} <= sent_by("ask")


def test_every_code_that_a_page_can_be_told_is_documented():
    codes = document()["components"]["schemas"]["refusal"]["properties"]["code"]
    assert set(codes["enum"]) == {code.value for code in CATALOGUE.keys() - OF_THE_API}


def test_every_way_to_be_closed_is_documented():
    words = document()["info"]["description"]
    assert CLOSE_CODES
    for code in (*CLOSE_CODES.values(), 1011, 4404):
        assert str(code) in words


def test_what_is_referred_to_is_there():
    references = set(re.findall(r"\$ref: '#/([^']+)'", DOCUMENT.read_text()))
    assert len(references) > 20
    for reference in references:
        target = document()
        for part in reference.split("/"):
            target = target[part]
    for name in document()["components"]["messages"]:
        Draft202012Validator.check_schema(payload(name))


# --- against a run --------------------------------------------------------------------


def _finish_link(salon, attempt_id, epoch, phone=PHONE):
    confirm(salon, attempt_id, epoch, phone)
    _attempt, epoch = begin(salon)
    assert attempts.record_open(salon, epoch, phone)
    return epoch


def _rename(old: str, new: str) -> None:
    with connection.cursor() as cursor:
        cursor.execute(f"ALTER TABLE {old} RENAME TO {new}")


class RecordedPage(Page):
    """A page each of whose messages is held against the document."""

    async def send(self, event: str, **data: Any) -> None:
        if event != "no-such-event":
            validator(event).validate({"event": event, "data": data})
        await super().send(event, **data)


async def _record() -> list[tuple[str, dict[str, Any]]]:
    """Let a salon's page live through everything, and return what it was told."""
    told: list[tuple[str, dict[str, Any]]] = []
    salon = await call(make_salon)
    token = await call(tokens.issue, salon)
    page: Page = RecordedPage()
    await page.connect()
    try:
        await page.send("auth", token=token)
        await page.until("status", status="pairing")
        attempt_id, epoch = await call(show_qr, salon)
        await page.until("qr-update")
        await page.send("request-qr")
        await page.until("qr-update")
        await page.send("request-pairing-code", phoneNumber="12")
        await page.until("pairing-code-error", code="INVALID_PHONE_FORMAT")
        await page.send("request-pairing-code", phoneNumber=PHONE)
        await page.until("status")
        attempt_id, epoch = await call(show_code, salon)
        await page.until("pairing-code")
        await call(attempts.record_entered, salon, attempt_id, epoch)
        await page.until("status")
        epoch = await call(_finish_link, salon, attempt_id, epoch)
        await page.until("whatsapp-connected")
        await page.send("get-status")
        await page.until("status", status="open")
        await call(_fall_silent, salon)
        await page.send("get-status")
        await page.until("status", status="degraded")
        await page.send("disconnect-whatsapp")
        await page.settled()
        await page.send("request-qr", fresh=True)
        await page.until("status", status="pairing")
        await page.send("request-pairing-code", phoneNumber=OTHER_PHONE)
        await page.until("status")
        attempt_id, epoch = await call(show_code, salon)
        await page.until("pairing-code")
        failure = ErrorCode.RATE_LIMITED
        await call(attempts.fail, salon, attempt_id, epoch, failure)
        await page.until("pairing-code-error", code=failure)
        await page.send("reset-whatsapp-credentials")
        await page.until("credentials-reset")
        await call(_rename, "whatsapp_pairingattempt", "away")
        try:
            await page.send("reset-whatsapp-credentials")
            await page.until("reset-error")
        finally:
            await call(_rename, "away", "whatsapp_pairingattempt")
    finally:
        await page.socket.disconnect()
    told += page.seen
    salon = await call(make_salon, expected_phone=OTHER_PHONE)
    async with opened(salon) as page:
        await page.until("known-phone")
        await page.settled()
    told += page.seen
    page = Page()
    await page.connect()
    await page.send("auth", token="forged")
    assert await page.closed() == 4401
    return told + page.seen


def _fall_silent(salon) -> None:
    """Let nothing be heard of the salon for a while."""
    with sessions.locked(salon) as session:
        sessions.set_status(session, WhatsAppSession.Status.DEGRADED, "silent")


@pytest.mark.django_db(transaction=True)
async def test_what_a_page_is_told_is_what_is_documented():
    told = await _record()
    for name, data in told:
        validator(name).validate(json.loads(json.dumps({"event": name, "data": data})))
    assert {name for name, _data in told} == sent_by("tell")
    for name in sent_by("tell"):
        seen = set().union(*(data.keys() for event, data in told if event == name))
        assert seen <= data_of(name)["properties"].keys()
        assert set(data_of(name)["required"]) <= seen
    waits = [data for _name, data in told if "retryAfter" in data]
    assert waits


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("status", {"more": 1}),
        ("status", {"status": "happy"}),
        ("status", {"proofAge": "long"}),
        ("status", {"attempt": {"kind": "qr", "stage": "shown"}}),
    ],
)
@pytest.mark.django_db
def test_what_is_not_documented_would_be_found(name, wrong):
    salon = make_salon()
    link(salon)
    snapshot = events.snapshot(salon.pk)
    assert snapshot is not None
    data = statuses.payload(snapshot)
    assert validator(name).is_valid({"event": name, "data": data})
    assert not validator(name).is_valid({"event": name, "data": {**data, **wrong}})
    for field in data:
        less = {key: value for key, value in data.items() if key != field}
        assert not validator(name).is_valid({"event": name, "data": less})
