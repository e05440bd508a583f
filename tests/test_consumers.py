"""The marketplace page's WebSocket, as a page sees it."""

import asyncio
import json
from datetime import timedelta

import pytest
from django.db import connection
from django.db.models import F
from django.db.models.functions import Now

from tests.factories import (
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
from tests.pages import call, eventually, opened
from tests.socket_fixtures import NO_REDIS, often, redis_layer, salon
from whatsapp import watcher
from whatsapp.errors import ErrorCode
from whatsapp.models import AuditEvent, PairingAttempt, WhatsAppSession
from whatsapp.services import attempts, pairing, sessions

__all__ = ["often", "salon"]

pytestmark = pytest.mark.django_db(transaction=True)


def _finish_link(salon, attempt_id, epoch, phone=PHONE):
    confirm(salon, attempt_id, epoch, phone)
    _attempt, epoch = begin(salon)
    assert attempts.record_open(salon, epoch, phone)
    return epoch


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
    settings.CHANNEL_LAYERS = redis_layer(NO_REDIS) if backend == "redis" else {}
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
