"""How news reaches the admin's pages: watched attempts, no layer, other processes."""

import asyncio
from datetime import timedelta

import pytest
from django.db import connection
from django.db.models import F
from django.db.models.functions import Now

from tests.factories import OTHER_PHONE, PHONE, last_attempt, link, show_code, show_qr
from tests.pages import SECONDS, STATUS_PATH, call, eventually, opened_by, salon_path
from tests.socket_fixtures import (
    NO_REDIS,
    member,
    names_of,
    often,
    owner,
    redis_layer,
    salon,
    viewer,
)
from whatsapp import watcher
from whatsapp.models import Membership, WhatsAppSession
from whatsapp.services import attempts, pairing, sessions

__all__ = ["member", "often", "owner", "salon", "viewer"]

pytestmark = pytest.mark.django_db(transaction=True)


# --- attempts that are watched --------------------------------------------------------


async def test_a_qr_that_the_staff_looks_at_is_watched(
    salon, member, viewer, often, monkeypatch
):
    monkeypatch.setattr(watcher, "WATCHED_SECONDS", 0.0)

    def watched():
        return WhatsAppSession.objects.get().watched_at is not None

    async with opened_by(viewer, salon_path(salon)) as looks:
        await call(pairing.request_qr, salon, "page")
        await call(show_qr, salon)
        await looks.until("status", status="pairing")
        async with opened_by(member, salon_path(salon)) as page:
            await page.until("qr-update")
            async with asyncio.timeout(SECONDS):
                while not await call(watched):  # noqa: ASYNC110
                    await asyncio.sleep(0.01)
        await call(
            WhatsAppSession.objects.update, watched_at=Now() - timedelta(hours=1)
        )
        # a viewer can do nothing with it
        assert await call(attempts.cancel_unwatched, 120) == [salon.pk]


async def test_a_qr_that_the_staff_asked_for_goes_on(salon, member):
    async with opened_by(member, salon_path(salon)) as page:
        await page.send("request-qr")
        await page.until("status", status="pairing")
        await call(show_qr, salon)
        await page.until("qr-update")
        assert await call(attempts.cancel_unwatched, 0) == []
    assert (await call(last_attempt, salon)).stage == "shown"


# --- without the layer, and from other processes --------------------------------------


@pytest.mark.parametrize("backend", ["redis", "none"])
async def test_the_admin_works_without_the_channel_layer(
    salon, member, often, settings, backend
):
    settings.CHANNEL_LAYERS = redis_layer(NO_REDIS) if backend == "redis" else {}
    async with (
        opened_by(member, salon_path(salon)) as page,
        opened_by(member, STATUS_PATH) as listing,
    ):
        await listing.send("watch", salons=[salon.pk])
        await listing.until("salon-statuses")
        await page.send("request-pairing-code", phoneNumber=PHONE)
        await page.until("status", status="pairing")
        await call(show_code, salon)
        await page.until("pairing-code")
        data = await listing.until("salon-statuses")
        assert data["salons"][0]["status"] == "pairing"
        await call(Membership.objects.update, role="viewer")
        await page.send("request-qr")
        assert (await page.until("error"))["code"] == "FORBIDDEN"
        await call(Membership.objects.all().delete)
        assert await page.closed() == 4403
        assert await listing.closed() == 4403


async def test_redis_brings_the_admin_what_other_processes_did(
    salon, owner, settings, redis_server
):
    settings.WHATSAPP_LOOK_INTERVAL = 1000.0  # not by the look
    settings.CHANNEL_LAYERS = redis_layer(redis_server.url)
    epoch = await call(link, salon)
    async with (
        opened_by(owner, salon_path(salon)) as page,
        opened_by(owner, STATUS_PATH) as listing,
    ):
        await page.until("whatsapp-connected")
        await listing.send("watch", salons=[salon.pk])
        await listing.until("salon-statuses")
        await call(sessions.record, salon, epoch, "reconnecting", "428")
        await page.until("status", status="reconnecting")
        data = await listing.until("salon-statuses")
        assert data["salons"][0]["status"] == "reconnecting"
        await page.send("request-pairing-code", phoneNumber=OTHER_PHONE)
        await page.until("status", status="pairing")
        await call(show_code, salon)
        await page.until("pairing-code")
    async with opened_by(owner, STATUS_PATH) as listing:  # and after a pause
        await listing.send("watch", salons=[salon.pk])
        await listing.until("salon-statuses")
        await call(sessions.disconnect, salon, "command")
        await listing.until("salon-statuses")


async def test_the_admin_learns_by_the_look_what_another_process_did(
    salon, owner, often
):
    await call(link, salon)
    async with (
        opened_by(owner, salon_path(salon)) as page,
        opened_by(owner, STATUS_PATH) as listing,
    ):
        await page.until("whatsapp-connected")
        await listing.send("watch", salons=[salon.pk])
        await listing.until("salon-statuses")
        await call(
            WhatsAppSession.objects.update,
            status="reconnecting",
            revision=F("revision") + 1,
        )
        await page.until("status", status="reconnecting")
        data = await listing.until("salon-statuses")
        assert data["salons"][0]["status"] == "reconnecting"


async def test_no_secret_is_told_while_nobody_can_say_who_may_have_it(
    salon, member, caplog
):
    def rename(old, new):
        with connection.cursor() as cursor:
            cursor.execute(f"ALTER TABLE {old} RENAME TO {new}")

    async with opened_by(member, salon_path(salon)) as page:
        await page.send("request-pairing-code", phoneNumber=PHONE)
        await page.until("status", status="pairing")
        await call(rename, "whatsapp_membership", "away")
        try:
            await call(show_code, salon)
            await eventually(lambda: "check of the staff" in caplog.text)
            assert "pairing-code" not in names_of(page)
        finally:
            await call(rename, "away", "whatsapp_membership")
        await page.until("pairing-code")  # by the next look
