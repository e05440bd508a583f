"""What ends the admin's WebSockets: a login, a role, a flood."""

import asyncio
import json
from datetime import timedelta

import pytest
from django.conf import settings
from django.contrib.auth.models import User
from django.contrib.sessions.models import Session
from django.db.models.functions import Now
from django.test import Client

from tests.factories import PHONE, QR, link, make_salon, show_code, show_qr
from tests.pages import (
    STATUS_PATH,
    call,
    eventually,
    log_in,
    opened,
    opened_by,
    salon_path,
)
from tests.socket_fixtures import (
    REQUESTS,
    by_salon,
    member,
    names_of,
    often,
    owner,
    refused,
    salon,
    traces,
    viewer,
)
from whatsapp import consumers, watcher
from whatsapp.models import AuditEvent, Membership
from whatsapp.services import pairing

__all__ = ["member", "often", "owner", "salon", "viewer"]

pytestmark = pytest.mark.django_db(transaction=True)


# --- the end of a login, of a role ----------------------------------------------------


def _log_out(user):
    Session.objects.all().delete()


def _expire(user):
    Session.objects.update(expire_date=Now() - timedelta(seconds=1))


def _change_password(user):
    user.set_password("another")
    user.save()


def _deactivate(user):
    User.objects.filter(pk=user.pk).update(is_active=False)


def _delete_user(user):
    user.delete()


def _log_out_by_the_button(user):
    User.objects.filter(pk=user.pk).update(is_staff=True)
    client = Client()
    client.cookies[settings.SESSION_COOKIE_NAME] = Session.objects.get().session_key
    client.post("/admin/logout/")


@pytest.mark.parametrize("path", ["salon", "status"])
@pytest.mark.parametrize(
    "happens",
    [
        _log_out,
        _log_out_by_the_button,
        _expire,
        _change_password,
        _deactivate,
        _delete_user,
    ],
)
async def test_the_end_of_a_login_ends_its_sockets(salon, owner, often, path, happens):
    where = salon_path(salon) if path == "salon" else STATUS_PATH
    async with opened_by(owner, where) as page:
        await page.settled()
        await call(happens, owner)
        assert await page.closed() == 4401
        assert page.seen[-1][1]["code"] == "UNAUTHORIZED"
        before = await call(traces)
        for event, data in REQUESTS.items():
            await page.send(event, **data)  # too late
    assert await call(traces) == before


@pytest.mark.parametrize("path", ["salon", "status"])
async def test_the_end_of_a_role_ends_its_sockets(salon, owner, often, path):
    where = salon_path(salon) if path == "salon" else STATUS_PATH
    async with opened_by(owner, where) as page:
        await page.settled()
        await call(Membership.objects.all().delete)
        assert await page.closed() == 4403
        assert page.seen[-1][1]["code"] == "FORBIDDEN"


@pytest.mark.parametrize("change", ["login", "role"])
async def test_a_request_finds_the_end_before_the_look_does(salon, owner, change):
    async with opened_by(owner, salon_path(salon)) as page:
        await page.settled()
        await call(
            _log_out if change == "login" else Membership.objects.all().delete,
            *([owner] if change == "login" else []),
        )
        await page.send("reset-whatsapp-credentials")
        assert await page.closed() == (4401 if change == "login" else 4403)
    assert not await call(AuditEvent.objects.exists)


async def test_others_stay_when_one_must_go(salon, owner, member, often):
    async with (
        opened_by(owner, salon_path(salon)) as one,
        opened_by(member, salon_path(salon)) as other,
        opened(salon) as page,
    ):
        for each in (one, other, page):
            await each.until("status", status="pairing")
        await call(Membership.objects.filter(user=owner).delete)
        assert await one.closed() == 4403
        await call(show_qr, salon)
        await other.until("qr-update")
        await page.until("qr-update")
    assert "qr-update" not in names_of(one)


async def test_a_list_shrinks_to_what_may_still_be_seen(salon, owner, often):
    other = await call(make_salon)
    await call(Membership.objects.create, user=owner, salon=other, role="viewer")
    async with opened_by(owner, STATUS_PATH) as page:
        await page.send("watch", salons=[salon.pk, other.pk])
        await page.until("salon-statuses")
        await call(Membership.objects.filter(salon=salon).delete)
        board = watcher.watcher().board
        await eventually(lambda: set(board.known()) == {other.pk})
        await call(link, salon)
        await call(pairing.request_qr, other, "page")
        assert set(by_salon(await page.until("salon-statuses"))) == {other.pk}
        assert await page.settled() == []


async def test_who_is_demoted_gets_no_further_code(salon, member):
    # no look comes: the secret itself makes us ask
    async with opened_by(member, salon_path(salon)) as page:
        await page.send("request-pairing-code", phoneNumber=PHONE)
        await page.until("status", status="pairing")
        await call(Membership.objects.update, role="viewer")
        await call(show_code, salon)
        while (await page.until("status"))["attempt"]["stage"] != "shown":
            pass
        assert await page.settled() == []
        await page.send("request-pairing-code", phoneNumber=PHONE)
        assert (await page.until("error"))["code"] == "FORBIDDEN"
        await page.send("get-status")
        assert await page.settled() == ["status"]
    assert "ABCD-1234" not in json.dumps(page.seen)


async def test_who_is_promoted_may_act_at_once(salon, viewer):
    async with opened_by(viewer, salon_path(salon)) as page:
        await page.send("request-qr")
        assert (await page.until("error"))["code"] == "FORBIDDEN"
        await call(Membership.objects.update, role="staff")
        await page.send("request-qr")
        await page.until("status", status="pairing")
        await call(show_qr, salon)
        assert (await page.until("qr-update"))["qr"] == QR


async def test_a_role_that_is_lost_while_the_page_opens_is_lost(salon, owner, often):
    for _ in range(5):
        async with opened_by(owner, salon_path(salon)) as page:
            await call(Membership.objects.all().delete)
            assert await page.closed() == 4403
        await call(Membership.objects.create, user=owner, salon=salon, role="owner")


# --- too much -------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["salon", "status"])
async def test_a_flood_ends_the_socket(salon, owner, path):
    where = salon_path(salon) if path == "salon" else STATUS_PATH
    async with opened_by(owner, where) as page:
        for _ in range(consumers.FLOOD_MESSAGES + 1):
            await page.send("no-such-event")
        assert await page.closed() == 4429
        assert page.seen[-1][1]["code"] == "RATE_LIMITED"


async def test_a_person_has_so_many_sockets_and_others_do_not_feel_it(
    salon, owner, member, monkeypatch
):
    monkeypatch.setattr(watcher, "SOCKETS_PER_USER", 2)
    monkeypatch.setattr(watcher, "SOCKETS_PER_SALON", 1)
    cookie = await call(log_in, owner)
    async with (
        opened_by(None, salon_path(salon), cookie) as one,
        opened_by(None, STATUS_PATH, cookie) as two,
    ):
        await one.settled()
        await two.settled()
        for path in (salon_path(salon), STATUS_PATH):
            async with opened_by(None, path, cookie) as third:
                await refused(third, "RATE_LIMITED", 4429)
        async with opened_by(member, salon_path(salon)) as page:
            await page.until("status")
        async with opened(salon) as page:
            await page.until("status")
        await one.settled()
    async with opened_by(None, STATUS_PATH, cookie) as page:
        await page.settled()


async def test_a_person_connects_so_often_in_a_minute(salon, owner, monkeypatch):
    monkeypatch.setattr(watcher, "STAFF_CONNECTS_PER_MINUTE", 3)
    cookie = await call(log_in, owner)
    for _ in range(3):
        async with opened_by(None, salon_path(salon), cookie) as page:
            await page.until("status")
    async with opened_by(None, STATUS_PATH, cookie) as page:
        assert await page.closed() == 4429
    async with opened(salon) as page:
        await page.until("status")


# --- the end --------------------------------------------------------------------------


async def test_nothing_stays_behind_when_the_last_socket_goes(salon, owner):
    for _ in range(2):
        async with (
            opened_by(owner, salon_path(salon)) as page,
            opened_by(owner, STATUS_PATH) as listing,
        ):
            await page.until("status")
            await listing.send("watch", salons=[salon.pk])
            await listing.until("salon-statuses")
        names = {task.get_name() for task in asyncio.all_tasks()}
        assert "watcher of pages" not in names
        keeper = watcher.watcher()
        assert (keeper._staff, keeper._staff_pages) == ({}, {})
        assert keeper.board.known() == {}
