"""What a page may send, and in which language it is answered."""

import json

import pytest
from django.db import connection

from tests.factories import OTHER_PHONE, PHONE, open_attempt, show_code
from tests.pages import Page, call, opened
from tests.socket_fixtures import salon, signed_token, traces
from whatsapp.services import tokens

__all__ = ["salon"]

pytestmark = pytest.mark.django_db(transaction=True)


# --- bad input ------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "not JSON",
        "{",
        "[]",
        "5",
        "null",
        '"status"',
        "{}",
        '{"event": 5}',
        '{"event": null, "data": {}}',
        '{"event": "request-qr", "data": []}',
        '{"event": "request-pairing-code", "data": "79001234567"}',
        '{"event": "get-status", "data": 5}',
        '{"event": "get-status", "data": {"x": NaN}}',
        "[" * 2000,
        json.dumps({"event": "get-status", "data": {"x": "x" * 70_000}}),
    ],
)
async def test_what_is_no_message_is_answered_and_changes_nothing(salon, text):
    async with opened(salon) as page:
        await page.until("status", status="pairing")
        before = await call(traces)
        await page.socket.send_to(text)
        assert (await page.next())[1]["code"] == "INVALID_MESSAGE"
        await page.settled()
        assert await call(traces) == before


async def test_a_binary_message_is_answered(salon):
    async with opened(salon) as page:
        await page.until("status", status="pairing")
        await page.socket.send_to(bytes_data=b'{"event": "get-status"}')
        assert (await page.next())[1]["code"] == "INVALID_MESSAGE"
        await page.settled()


@pytest.mark.parametrize(
    "name",
    ["connect", "websocket.connect", "_reset", "salon_snapshot", "tell", "", "status"],
)
async def test_an_unknown_event_is_answered(salon, name):
    async with opened(salon) as page:
        await page.until("status", status="pairing")
        await page.send(name)
        assert (await page.next())[1]["code"] == "UNKNOWN_EVENT"


@pytest.mark.parametrize(
    ("data", "code"),
    [
        ({}, "PHONE_REQUIRED"),
        ({"phoneNumber": None}, "PHONE_REQUIRED"),
        ({"phoneNumber": ""}, "PHONE_REQUIRED"),
        ({"phoneNumber": 79001234567}, "PHONE_REQUIRED"),
        ({"phoneNumber": ["79001234567"]}, "PHONE_REQUIRED"),
        ({"phoneNumber": "9" * 300}, "INVALID_PHONE_FORMAT"),
        ({"phoneNumber": "my phone"}, "INVALID_PHONE_FORMAT"),
        ({"phoneNumber": "123"}, "INVALID_PHONE_FORMAT"),
        ({"phone": PHONE}, "PHONE_REQUIRED"),
    ],
)
async def test_a_phone_that_is_none_is_answered_and_changes_nothing(salon, data, code):
    async with opened(salon) as page:
        await page.until("status", status="pairing")
        before = await call(traces)
        await page.send("request-pairing-code", **data)
        name, answer = await page.next()
        assert (name, answer["code"]) == ("pairing-code-error", code)
        assert answer["message"]
        await page.settled()
        assert await call(traces) == before


async def test_missing_data_is_no_data(salon):
    async with opened(salon) as page:
        await page.until("status", status="pairing")
        await page.socket.send_to('{"event": "request-pairing-code"}')
        assert (await page.next())[1]["code"] == "PHONE_REQUIRED"
        await page.socket.send_to('{"event": "get-status", "data": null}')
        assert (await page.next())[0] == "status"


@pytest.mark.parametrize(
    ("typed", "phone"),
    [
        ("89001234567", "79001234567"),
        ("5511987654321", "5511987654321"),
        ("551187654321", "551187654321"),
    ],
)
async def test_a_phone_is_understood_as_it_is_typed(salon, typed, phone):
    async with opened(salon) as page:
        await page.until("status", status="pairing")
        await page.send("request-pairing-code", phoneNumber=typed)
        await page.until("status", status="pairing")
        await call(show_code, salon)
        assert (await page.until("pairing-code"))["phoneNumber"] == phone
        if typed.startswith("55"):
            for form in ("5511987654321", "551187654321"):
                await page.send("request-pairing-code", phoneNumber=form)
                assert (await page.until("pairing-code"))["code"] == "ABCD-1234"


async def test_a_refusal_is_told_to_the_page_that_asked_only(salon):
    async with opened(salon) as page, opened(salon) as other:
        await page.until("status", status="pairing")
        await other.until("status", status="pairing")
        await page.send("request-pairing-code", phoneNumber=PHONE)
        await page.send("request-pairing-code", phoneNumber=OTHER_PHONE)
        assert (await page.until("pairing-code-error"))["code"] == "REQUEST_IN_PROGRESS"
        await other.settled()
    assert "pairing-code-error" not in dict(other.seen)


async def test_nothing_sent_early_is_lost(salon):
    page = Page({"authorization": f"Bearer {await call(tokens.issue, salon)}"})
    await page.socket.send_input({"type": "websocket.connect"})
    await page.send("get-status")
    await page.send("request-pairing-code", phoneNumber=PHONE)
    await page.send("no-such-event")
    assert (await page.socket.receive_output(timeout=10))["type"] == "websocket.accept"
    await page.until("error", code="UNKNOWN_EVENT")
    assert page.seen[0][0] == "status"
    assert (await call(open_attempt, salon)).phone == PHONE
    await page.socket.disconnect()


async def test_a_failure_of_ours_is_logged_once_and_the_page_lives(salon, caplog):
    def rename(old, new):
        with connection.cursor() as cursor:
            cursor.execute(f"ALTER TABLE {old} RENAME TO {new}")

    async with opened(salon) as page:
        await page.until("status", status="pairing")
        await call(rename, "whatsapp_pairingattempt", "away")
        await page.send("request-pairing-code", phoneNumber=PHONE)
        assert (await page.until("error"))["code"] == "INTERNAL"
        await page.send("reset-whatsapp-credentials")
        assert (await page.until("reset-error"))["code"] == "INTERNAL"
        await call(rename, "away", "whatsapp_pairingattempt")
        await page.send("get-status")
        await page.until("status")
    failures = [r for r in caplog.records if r.name == "whatsapp.consumers"]
    assert all(record.exc_info for record in failures)
    # What Sentry has them under.
    assert [(r.operation, r.company_id) for r in failures] == [
        ("pairingCode", salon.session_id),
        ("remove_auth_state", salon.session_id),
    ]


async def test_a_page_that_cannot_be_opened_is_told_to_come_back(salon, caplog):
    def rename(old, new):
        with connection.cursor() as cursor:
            cursor.execute(f"ALTER TABLE {old} RENAME TO {new}")

    await call(rename, "whatsapp_salon", "away")
    try:
        async with opened(salon) as page:
            assert await page.closed() == 1011
            assert page.seen[0][1]["code"] == "INTERNAL"
    finally:
        await call(rename, "away", "whatsapp_salon")


# --- language -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "claims", "russian"),
    [
        ({}, {}, True),
        ({"path": "/ws/marketplace/?lang=en"}, {}, False),
        ({"path": "/ws/marketplace/?lang=de"}, {}, True),
        ({}, {"language": "en"}, False),
        ({"headers": {"accept-language": "en-GB,ru;q=0.5"}}, {}, False),
        ({"headers": {"accept-language": "de,fr;q=0.5"}}, {}, True),
        ({"headers": {"accept-language": "en"}}, {"language": "ru"}, True),
        ({"path": "/ws/marketplace/?lang=ru"}, {"language": "en"}, True),
    ],
)
async def test_sentences_are_in_the_language_of_the_page(
    salon, settings, options, claims, russian
):
    token = signed_token(settings, salon, **claims)
    async with opened(token=token, **options) as page:
        data = await page.until("status", status="unlinked")
        assert ("привязан" in data["message"]) is russian
        await page.send("request-pairing-code")
        data = await page.until("pairing-code-error")
        assert ("номер" in data["message"]) is russian


async def test_two_pages_may_speak_two_languages(salon):
    async with (
        opened(salon) as russian,
        opened(salon, path="/ws/marketplace/?lang=en") as english,
    ):
        ours = await russian.until("status", status="pairing")
        theirs = await english.until("status", status="pairing")
        assert ours["message"] != theirs["message"]
