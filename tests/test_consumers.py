"""The marketplace page's WebSocket, as a page sees it."""

import asyncio
import json
import time
from datetime import timedelta

import jwt
import pytest
from django.db import connection
from django.db.models import F
from django.db.models.functions import Now

from tests.factories import (
    OTHER_PHONE,
    OWNER,
    PHONE,
    QR,
    begin,
    claim,
    confirm,
    link,
    make_salon,
    open_attempt,
    show_code,
    show_qr,
    snapshot,
    status_of,
    store_creds,
    stored_rows,
)
from tests.pages import Page, call, eventually, opened
from whatsapp import consumers, watcher
from whatsapp.errors import ErrorCode
from whatsapp.models import AuditEvent, PairingAttempt, WhatsAppSession
from whatsapp.services import attempts, pairing, sessions, tokens

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def often(settings):
    """Look often, for tests of what the look finds."""
    settings.WHATSAPP_LOOK_INTERVAL = 0.05


@pytest.fixture
def salon():
    return make_salon()


def _finish_link(salon, attempt_id, epoch, phone=PHONE):
    confirm(salon, attempt_id, epoch, phone)
    _attempt, epoch = begin(salon)
    assert attempts.record_open(salon, epoch, phone)
    return epoch


def _rows():
    return (
        list(WhatsAppSession.objects.values_list("salon_id", "revision", "status")),
        PairingAttempt.objects.count(),
        AuditEvent.objects.count(),
    )


# --- linking --------------------------------------------------------------------------


async def test_an_unlinked_salon_is_told_its_status_first_and_then_gets_a_qr(salon):
    async with opened(salon) as page:
        name, data = await page.next()
        assert (name, data["status"]) == ("status", "unlinked")
        assert set(data) == {
            "status",
            "phone",
            "since",
            "attempt",
            "reason",
            "message",
            "action",
            "proofAge",
        }
        data = await page.until("status", status="pairing")
        assert data["attempt"]["kind"] == "qr"
        assert data["attempt"]["stage"] == "requested"
        await call(show_qr, salon)
        data = await page.until("status")
        assert data["attempt"]["stage"] == "shown"
        data = await page.until("qr-update")
        assert data["qr"] == QR
        assert data["svg"].startswith("<svg ")
        assert "<script" not in data["svg"]
        assert "style=" not in data["svg"]
        assert 55 <= data["expiresIn"] <= 60


async def test_a_phone_is_linked_by_a_code(salon):
    async with opened(salon) as page:
        await page.until("status", status="pairing")
        await page.send("request-pairing-code", phoneNumber="8 (900) 123-45-67")
        data = await page.until("status")
        assert data["attempt"]["kind"] == "code"
        attempt_id, epoch = await call(show_code, salon)
        data = await page.until("pairing-code")
        assert (data["code"], data["phoneNumber"]) == ("ABCD-1234", PHONE)
        assert 150 <= data["expiresIn"] <= 160
        await call(attempts.record_entered, salon, attempt_id, epoch)
        data = await page.until("status")
        assert data["attempt"]["stage"] == "entered"
        await call(_finish_link, salon, attempt_id, epoch)
        data = await page.until("status", status="open")
        assert data["phone"] == "79***4567"
        data = await page.until("whatsapp-connected")
        assert data == {
            "success": True,
            "phone": "79***4567",
            "sessionId": salon.session_id,
            "message": data["message"],
        }
    assert [name for name, _data in page.seen].count("whatsapp-connected") == 1
    assert [name for name, _data in page.seen].count("pairing-code") == 1
    assert "pairing-code-error" not in dict(page.seen)


async def test_the_same_code_is_shown_again_to_the_page_that_asks(salon):
    async with opened(salon) as page, opened(salon) as other:
        await page.until("status", status="pairing")
        await page.send("request-pairing-code", phoneNumber=PHONE)
        await page.until("status", status="pairing")
        await call(show_code, salon)
        await page.until("pairing-code")
        await other.until("pairing-code")
        await page.send("request-pairing-code", phoneNumber="+7 900 123 45 67")
        assert (await page.until("pairing-code"))["code"] == "ABCD-1234"
        assert await other.settled() == []


async def test_a_code_that_fails_is_told_in_words(salon):
    async with opened(salon) as page:
        await page.until("status", status="pairing")
        await page.send("request-pairing-code", phoneNumber=PHONE)
        await page.until("status", status="pairing")
        attempt_id, epoch = await call(begin, salon)
        await call(attempts.fail, salon, attempt_id, epoch, ErrorCode.RATE_LIMITED)
        data = await page.until("status")
        assert (data["status"], data["reason"]) == ("unlinked", "RATE_LIMITED")
        data = await page.until("pairing-code-error")
        assert data["code"] == "RATE_LIMITED"
        assert data["retryAfter"] == 31
        assert data["message"]


async def test_a_qr_that_fails_is_an_error(salon):
    async with opened(salon) as page:
        await page.until("status", status="pairing")
        attempt_id, epoch = await call(begin, salon)
        await call(attempts.fail, salon, attempt_id, epoch, ErrorCode.ENGINE_OUTDATED)
        assert (await page.until("error"))["code"] == "ENGINE_OUTDATED"
        await page.send("request-qr")
        await page.until("status", status="pairing")


async def test_qr_and_code_change_places_without_any_error(salon):
    async with opened(salon) as page:
        await page.until("status", status="pairing")
        await call(show_qr, salon)
        await page.until("qr-update")
        await page.send("request-pairing-code", phoneNumber=PHONE)
        assert (await page.until("status"))["attempt"]["kind"] == "code"
        await call(show_code, salon)
        await page.until("pairing-code")
        await page.send("request-qr")
        assert (await page.until("status"))["attempt"]["kind"] == "qr"
        assert await page.settled() == []
    assert "pairing-code-error" not in dict(page.seen)


async def test_a_qr_is_repeated_to_the_page_that_asks_for_it(salon):
    async with opened(salon) as page:
        await page.until("status", status="pairing")
        await page.send("request-qr")  # on its way: nothing to show yet
        await page.until("status", status="pairing")
        await call(show_qr, salon)
        await page.until("qr-update")
        await page.send("request-qr")
        assert (await page.until("qr-update"))["qr"] == QR


async def test_every_new_qr_is_told_and_nothing_else(salon):
    async with opened(salon) as page:
        await page.until("status", status="pairing")
        attempt_id, epoch = await call(show_qr, salon)
        await page.until("qr-update")
        await call(attempts.record_qr, salon, attempt_id, epoch, QR + "next", 20)
        name, data = await page.next()
        assert (name, data["qr"]) == ("qr-update", QR + "next")
        assert 15 <= data["expiresIn"] <= 20


async def test_the_phone_that_is_open_needs_no_code(salon):
    await call(link, salon)
    async with opened(salon) as page:
        await page.until("whatsapp-connected")  # the link is news
        await page.send("request-pairing-code", phoneNumber=PHONE)
        assert (await page.until("pairing-code-error"))["code"] == "ALREADY_CONNECTED"
        assert (await page.until("status"))["status"] == "open"
        await page.send("request-qr")
        data = await page.until("whatsapp-connected")
        assert (data["success"], data["phone"]) == (True, "79***4567")
    assert await call(status_of, salon) == "open"


async def test_a_session_that_comes_back_is_connected_again(salon):
    epoch = await call(link, salon)
    async with opened(salon) as page:
        await page.until("whatsapp-connected")
        await call(sessions.record, salon, epoch, "reconnecting", "428")
        await page.until("status", status="reconnecting")
        await call(sessions.record, salon, epoch, "open")
        await page.until("status", status="open")
        await page.until("whatsapp-connected")
        await call(sessions.record, salon, epoch, "degraded")
        await page.until("status", status="degraded")
        await call(sessions.record, salon, epoch, "open")
        await page.until("status", status="open")
        assert await page.settled() == []


async def test_the_page_of_a_linked_salon_starts_no_qr(salon):
    await call(store_creds, salon)
    async with opened(salon) as page:
        assert await page.settled() == ["status", "known-phone"]
    assert not await call(PairingAttempt.objects.exists)


# --- reset and disconnect -------------------------------------------------------------


async def test_a_reset_is_told_to_every_page_of_the_salon(salon):
    await call(link, salon)
    async with opened(salon) as page, opened(salon) as other:
        await page.send("reset-whatsapp-credentials")
        for each in (page, other):
            await each.until("status", status="unlinked")
            data = await each.until("credentials-reset")
            assert (data["success"], data["sessionId"]) == (True, salon.session_id)
            assert data["message"]
        await page.send("reset-whatsapp-credentials")
        await page.until("credentials-reset")
    assert await call(stored_rows, salon) == (None, {})
    event = await call(AuditEvent.objects.filter(action="reset").first)
    assert event is not None
    assert event.actor == "page"


async def test_to_disconnect_stops_and_keeps_the_link(salon):
    await call(store_creds, salon)
    async with opened(salon) as page:
        await page.send("disconnect-whatsapp")
        data = await page.until("status", status="stopped")
        assert data["action"] == "request-qr"
        await page.send("request-qr")
        await page.until("status", status="pairing")
    assert (await call(stored_rows, salon))[0] is not None


# --- pages that come back -------------------------------------------------------------


async def test_a_page_that_comes_back_is_told_where_things_stand(salon):
    async with opened(salon) as page:
        await page.until("status", status="pairing")
        await page.send("request-pairing-code", phoneNumber=PHONE)
        await page.until("status", status="pairing")
        attempt_id, epoch = await call(show_code, salon)
        await page.until("pairing-code")
    # on a phone the person is in WhatsApp now; the attempt goes on
    assert (await call(open_attempt, salon)).stage == "shown"
    async with opened(salon) as page:
        assert (await page.next())[0] == "status"
        name, data = await page.next()
        assert (name, data["code"]) == ("pairing-code", "ABCD-1234")
    await call(_finish_link, salon, attempt_id, epoch)
    async with opened(salon) as page:
        assert (await page.next())[1]["status"] == "open"
        assert (await page.next())[0] == "whatsapp-connected"


async def test_a_qr_is_replayed_while_it_can_be_scanned(salon):
    await call(pairing.request_qr, salon, "page")
    attempt_id, epoch = await call(show_qr, salon)
    async with opened(salon) as page:
        assert (await page.next())[0] == "status"
        assert (await page.next())[0] == "qr-update"
    await call(attempts.record_qr, salon, attempt_id, epoch, QR, -1)
    async with opened(salon) as page:
        assert await page.settled() == ["status"]


async def test_a_failure_is_news_for_a_minute(salon):
    await call(pairing.request_code, salon, PHONE, "page")
    attempt_id, epoch = await call(show_code, salon)
    await call(
        attempts.fail, salon, attempt_id, epoch, ErrorCode.CODE_EXPIRED, "expired"
    )
    async with opened(salon) as page:
        assert (await page.next())[0] == "status"
        name, data = await page.next()
        assert (name, data["code"]) == ("pairing-code-error", "CODE_EXPIRED")
        await page.until("status", status="pairing")
        await page.send("disconnect-whatsapp")
        await page.until("status", status="unlinked")
    await call(
        PairingAttempt.objects.filter(pk=attempt_id).update,
        finished_at=Now() - timedelta(seconds=61),
    )
    await call(PairingAttempt.objects.exclude(pk=attempt_id).delete)
    async with opened(salon) as page:
        await page.until("status", status="pairing")
    assert "pairing-code-error" not in dict(page.seen)


async def test_a_link_is_news_for_three_minutes(salon):
    await call(link, salon)
    await call(
        PairingAttempt.objects.update, finished_at=Now() - timedelta(seconds=181)
    )
    async with opened(salon) as page:
        assert await page.settled() == ["status"]


# --- who sees what --------------------------------------------------------------------


async def test_two_pages_of_a_salon_see_the_same_and_strangers_nothing(salon):
    stranger = await call(make_salon)
    async with opened(salon) as one, opened(salon) as two, opened(stranger) as other:
        for page in (one, two, other):
            await page.until("status", status="pairing")
        await other.settled()
        await one.settled()
        await two.settled()
        await one.send("request-pairing-code", phoneNumber=PHONE)
        await one.until("status", status="pairing")
        attempt_id, epoch = await call(show_code, salon)
        await call(_finish_link, salon, attempt_id, epoch)
        for page in (one, two):
            data = await page.until("pairing-code")
            assert data["code"] == "ABCD-1234"
            await page.until("whatsapp-connected")
        assert await other.settled() == []
    assert "ABCD-1234" not in json.dumps(other.seen)


async def test_a_page_of_another_process_learns_by_the_look(salon, often):
    epoch = await call(link, salon)
    async with opened(salon) as page:
        await page.until("whatsapp-connected")
        # what a process without a channel layer does
        await call(
            WhatsAppSession.objects.filter(salon=salon).update,
            status="reconnecting",
            revision=F("revision") + 1,
        )
        await page.until("status", status="reconnecting")
        await call(sessions.record, salon, epoch, "open")
        await page.until("whatsapp-connected")


async def test_no_page_waits_for_a_gateway_that_is_dead(salon, often):
    async with opened(salon) as page:
        await page.until("status", status="pairing")
        await page.send("request-pairing-code", phoneNumber=PHONE)
        await page.until("status", status="pairing")
        await call(
            PairingAttempt.objects.filter(finished_at=None).update,
            deadline=Now() - timedelta(seconds=1),
        )
        assert (await page.until("pairing-code-error"))["code"] == "PAIRING_TIMEOUT"


async def test_pages_that_are_open_are_noted(salon, often, monkeypatch):
    monkeypatch.setattr(watcher, "WATCHED_SECONDS", 0.0)
    async with opened(salon) as page:
        await page.until("status", status="pairing")
        await call(WhatsAppSession.objects.update, watched_at=None)
        async with asyncio.timeout(60):
            while (  # noqa: ASYNC110  (nothing to wait on)
                await call(WhatsAppSession.objects.get)
            ).watched_at is None:
                await asyncio.sleep(0.01)


@pytest.mark.parametrize("backend", ["redis", "none"])
async def test_pages_work_without_the_channel_layer(
    salon, often, settings, backend, caplog
):
    settings.CHANNEL_LAYERS = (
        {
            "default": {
                "BACKEND": "channels_redis.pubsub.RedisPubSubChannelLayer",
                "CONFIG": {"hosts": ["redis://127.0.0.1:1/0"]},
            }
        }
        if backend == "redis"
        else {}
    )
    async with opened(salon) as page:
        await page.until("status", status="pairing")
        await call(show_qr, salon)
        await page.until("qr-update")
        await page.send("request-pairing-code", phoneNumber=PHONE)
        await page.until("status", status="pairing")
        await call(show_code, salon)
        await page.until("pairing-code")
    told = [r for r in caplog.records if r.name == "whatsapp.watcher"]
    assert len(told) == (backend == "redis")


async def test_the_look_survives_the_database(salon, often, caplog):
    def rename(old, new):
        with connection.cursor() as cursor:
            cursor.execute(f"ALTER TABLE {old} RENAME TO {new}")

    epoch = await call(link, salon)
    async with opened(salon) as page:
        await page.until("whatsapp-connected")
        await call(rename, "whatsapp_pairingattempt", "away")
        await eventually(lambda: "fails" in caplog.text)
        await page.settled()  # the page itself lives
        await call(rename, "away", "whatsapp_pairingattempt")
        await call(sessions.record, salon, epoch, "reconnecting")
        await page.until("status", status="reconnecting")
        await eventually(lambda: "works again" in caplog.text)
    assert caplog.text.count("The look of the pages fails") == 1


# --- tokens and origins ---------------------------------------------------------------


async def test_a_token_may_come_as_a_subprotocol(salon):
    token = await call(tokens.issue, salon)
    page = Page(subprotocols=["aiadmin.v1", f"bearer.{token}"])
    assert await page.connect() == "aiadmin.v1"
    await page.until("status")
    await page.socket.disconnect()


async def test_a_token_may_come_as_the_first_message(salon):
    async with opened() as page:
        await page.send("auth", token=tokens.issue(salon))
        assert (await page.next())[0] == "status"
        await page.until("status", status="pairing")


def _token(settings, salon, **changes):
    now = int(time.time())
    claims = {
        "company_id": 1,
        "salon_id": salon.salon_id,
        "type": "marketplace_registration",
        "iat": now,
        "exp": now + 60,
        **changes,
    }
    claims = {name: value for name, value in claims.items() if value is not None}
    return jwt.encode(claims, settings.MARKETPLACE_JWT_SECRET, "HS256")


@pytest.mark.parametrize("way", ["header", "subprotocol", "message"])
@pytest.mark.parametrize(
    ("changes", "code", "closed"),
    [
        ({"exp": 1}, "UNAUTHORIZED", 4401),
        ({"type": "admin"}, "UNAUTHORIZED", 4401),
        ({"type": None}, "UNAUTHORIZED", 4401),
        ({"company_id": None}, "UNAUTHORIZED", 4401),
        ({"salon_id": None}, "UNAUTHORIZED", 4401),
        ({"exp": None}, "UNAUTHORIZED", 4401),
        ({"salon_id": 999_999_999}, "FORBIDDEN", 4403),
    ],
)
async def test_a_token_that_is_not_valid_is_refused(
    salon, settings, way, changes, code, closed
):
    before = await call(_rows)
    token = _token(settings, salon, **changes)
    page = {
        "header": Page({"authorization": f"Bearer {token}"}),
        "subprotocol": Page(subprotocols=["aiadmin.v1", f"bearer.{token}"]),
        "message": Page(),
    }[way]
    await page.connect()
    if way == "message":
        await page.send("auth", token=token)
    assert await page.closed() == closed
    assert [(name, data["code"]) for name, data in page.seen] == [("error", code)]
    assert page.seen[0][1]["message"]
    assert await call(_rows) == before
    await page.socket.disconnect()


async def test_a_forged_token_is_refused(salon):
    forged = jwt.encode(
        {
            "company_id": 1,
            "salon_id": salon.salon_id,
            "type": "marketplace_registration",
            "exp": int(time.time()) + 60,
        },
        "a secret that somebody guessed, long enough",
        "HS256",
    )
    async with opened(token=forged) as page:
        assert await page.closed() == 4401


@pytest.mark.parametrize(
    "first",
    [
        {"event": "auth"},
        {"event": "auth", "data": None},
        {"event": "auth", "data": {}},
        {"event": "auth", "data": {"token": 5}},
        {"event": "auth", "data": {"token": "x"}},
        {"event": "auth", "data": ["token"]},
        {"event": "request-qr", "data": {}},
        {"event": "request-pairing-code", "data": {"phoneNumber": PHONE}},
        {"event": "reset-whatsapp-credentials"},
        {"no": "event"},
        [],
    ],
)
async def test_nothing_but_a_valid_token_may_come_first(salon, first):
    before = await call(_rows)
    async with opened() as page:
        await page.socket.send_to(json.dumps(first))
        assert await page.closed() == 4401
        assert [data["code"] for _name, data in page.seen] == ["UNAUTHORIZED"]
    assert await call(_rows) == before


async def test_a_page_that_shows_no_token_is_closed(monkeypatch):
    monkeypatch.setattr(consumers, "AUTH_SECONDS", 0.05)
    async with opened() as page:
        assert await page.closed() == 4401


async def test_a_token_in_the_url_is_not_looked_at(salon, monkeypatch):
    monkeypatch.setattr(consumers, "AUTH_SECONDS", 0.05)
    token = tokens.issue(salon)
    async with opened(path=f"/ws/marketplace/?token={token}") as page:
        assert await page.closed() == 4401


async def test_the_end_of_a_token_ends_the_socket(salon, settings, often):
    token = _token(settings, salon, exp=int(time.time()) + 1)
    async with opened(token=token) as page:
        assert await page.closed() == 4401
        assert page.seen[-1][1]["code"] == "UNAUTHORIZED"
        await page.send("reset-whatsapp-credentials")  # too late
    assert not await call(AuditEvent.objects.filter(action="reset").exists)


async def test_a_fresh_token_keeps_the_socket(salon, settings, often):
    ends = int(time.time()) + 6  # time enough for what it says until then
    old = _token(settings, salon, exp=ends)
    async with opened(token=old) as page:
        await page.send("auth", token="nonsense")
        await page.until("error", code="UNAUTHORIZED")
        await page.send("auth", token=tokens.issue(await call(make_salon)))
        await page.until("error", code="FORBIDDEN")
        await page.send("auth", token=tokens.issue(salon))
        await eventually(lambda: time.time() > ends)
        await page.settled()


@pytest.mark.parametrize(
    ("origin", "host"),
    [
        ("https://evil.example", "testserver"),
        ("https://market.example.evil.example", "testserver"),
        ("https://market.example@evil.example", "testserver"),
        ("http://market.example", "testserver"),
        ("https://n1.evil.market.example", "testserver"),
        ("null", "testserver"),
        ("", "testserver"),
        ("http://evil.example", "evil.example"),
    ],
)
async def test_a_page_of_another_origin_is_refused(salon, settings, origin, host):
    settings.MARKETPLACE_ALLOWED_ORIGINS = [
        "https://market.example",
        "https://n*.market.example",
    ]
    async with opened(salon, headers={"origin": origin, "host": host}) as page:
        assert await page.closed() == 4403
        assert [data["code"] for _name, data in page.seen] == ["FORBIDDEN"]


@pytest.mark.parametrize(
    "origin",
    [
        "https://market.example",
        "https://n123.market.example",
        "http://testserver",
        None,
    ],
)
async def test_a_page_of_an_allowed_origin_comes_in(salon, settings, origin):
    settings.MARKETPLACE_ALLOWED_ORIGINS = [
        "https://market.example",
        "https://n*.market.example",
    ]
    async with opened(salon, headers={"origin": origin}) as page:
        assert (await page.next())[0] == "status"


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
        before = await call(_rows)
        await page.socket.send_to(text)
        assert (await page.next())[1]["code"] == "INVALID_MESSAGE"
        await page.settled()
        assert await call(_rows) == before


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
        before = await call(_rows)
        await page.send("request-pairing-code", **data)
        name, answer = await page.next()
        assert (name, answer["code"]) == ("pairing-code-error", code)
        assert answer["message"]
        await page.settled()
        assert await call(_rows) == before


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


# --- too much -------------------------------------------------------------------------


async def test_a_flood_ends_the_socket(salon):
    async with opened(salon) as page:
        for _ in range(consumers.FLOOD_MESSAGES + 1):
            await page.send("get-status")
        assert await page.closed() == 4429
        assert page.seen[-1][1]["code"] == "RATE_LIMITED"


async def test_a_salon_has_so_many_pages_and_its_neighbour_does_not_feel_it(
    salon, monkeypatch
):
    monkeypatch.setattr(watcher, "SOCKETS_PER_SALON", 2)
    neighbour = await call(make_salon)
    async with opened(salon) as one, opened(salon) as two:
        for page in (one, two):
            await page.until("status")
        async with opened(salon) as third:
            assert await third.closed() == 4429
            assert third.seen[-1][1]["code"] == "RATE_LIMITED"
        async with opened(neighbour) as page:
            await page.until("status")
        await one.settled()
    async with opened(salon) as page:
        await page.until("status")


async def test_a_salon_connects_so_often_in_a_minute(salon, monkeypatch):
    monkeypatch.setattr(watcher, "CONNECTS_PER_MINUTE", 3)
    for _ in range(3):
        async with opened(salon) as page:
            await page.until("status")
    async with opened(salon) as page:
        assert await page.closed() == 4429


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
    token = _token(settings, salon, **claims)
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


# --- the end --------------------------------------------------------------------------


async def test_nothing_stays_behind_when_the_last_page_goes(salon):
    async with opened(salon) as page, opened(salon):
        await page.until("status")
        assert any(
            task.get_name() == "watcher of pages" for task in asyncio.all_tasks()
        )
    names = {task.get_name() for task in asyncio.all_tasks()}
    assert "watcher of pages" not in names
    assert watcher.watcher()._pages == {}
    async with opened(salon) as page:  # and it starts again
        await page.until("status")


async def test_the_words_of_an_old_owner_reach_no_page(salon):
    async with opened(salon) as page:
        await page.until("status", status="pairing")
        attempt_id, epoch = await call(begin, salon, OWNER)
        await call(claim, salon, "gateway-b")
        await call(attempts.record_qr, salon, attempt_id, epoch, QR, 60)
        assert await page.settled() == []
    assert (await call(snapshot, salon))["attempt"]["qr"] == ""
