"""The WebSockets of the staff's admin: who comes in, and what each role may do."""

import json
from datetime import timedelta

import pytest
from django.contrib.auth.models import User
from django.db.models.functions import Now

from tests.factories import (
    OTHER_PHONE,
    PHONE,
    QR,
    link,
    make_salon,
    open_attempt,
    show_code,
    show_qr,
    store_creds,
)
from tests.pages import STATUS_PATH, call, log_in, opened, opened_by, salon_path
from tests.socket_fixtures import (
    REQUESTS,
    make_user,
    member,
    names_of,
    owner,
    refused,
    salon,
    support,
    traces,
    viewer,
)
from whatsapp.errors import ErrorCode
from whatsapp.models import (
    ArchivedCredentials,
    AuditEvent,
    Membership,
    Salon,
    WhatsAppSession,
)
from whatsapp.services import attempts, credentials, pairing, salons, sessions

__all__ = ["member", "owner", "salon", "support", "viewer"]

pytestmark = pytest.mark.django_db(transaction=True)


# --- who comes in ---------------------------------------------------------------------


@pytest.mark.parametrize("path", ["salon", "status"])
@pytest.mark.parametrize("cookie", ["", "sessionid=forged", "other=1"])
async def test_nobody_comes_in_without_a_login(salon, path, cookie):
    before = await call(traces)
    where = salon_path(salon) if path == "salon" else STATUS_PATH
    async with opened_by(None, where, cookie) as page:
        await refused(page, "UNAUTHORIZED", 4401)
    assert await call(traces) == before


@pytest.mark.parametrize("path", ["salon", "status"])
async def test_a_token_of_the_marketplace_is_no_login(salon, path):
    where = salon_path(salon) if path == "salon" else STATUS_PATH
    async with opened(salon, path=where) as page:
        await refused(page, "UNAUTHORIZED", 4401)


async def test_an_inactive_user_does_not_come_in(salon, owner):
    cookie = await call(log_in, owner)
    await call(User.objects.update, is_active=False)
    async with opened_by(None, salon_path(salon), cookie) as page:
        await refused(page, "UNAUTHORIZED", 4401)


@pytest.mark.parametrize("path", ["salon", "status"])
@pytest.mark.parametrize(
    ("origin", "host"),
    [
        (None, "testserver"),
        ("null", "testserver"),
        ("", "testserver"),
        ("https://evil.example", "testserver"),
        ("http://testserver.evil.example", "testserver"),
        ("http://testserver:8000", "testserver"),
        ("https://market.example", "testserver"),
        ("http://evil.example", "evil.example"),
    ],
)
async def test_only_our_own_pages_may_use_the_login(
    salon, support, settings, path, origin, host
):
    settings.MARKETPLACE_ALLOWED_ORIGINS = ["https://market.example"]
    before = await call(traces)
    where = salon_path(salon) if path == "salon" else STATUS_PATH
    headers = {"origin": origin, "host": host}
    async with opened_by(support, where, headers=headers) as page:
        await refused(page, "FORBIDDEN", 4403)
    assert await call(traces) == before


async def test_behind_https_a_page_of_plain_http_is_not_our_own(
    salon, support, settings
):
    settings.SESSION_COOKIE_SECURE = True
    async with opened_by(support, salon_path(salon)) as page:
        await refused(page, "FORBIDDEN", 4403)
    headers = {"origin": "https://testserver"}
    async with opened_by(support, salon_path(salon), headers=headers) as page:
        assert (await page.next())[0] == "status"


async def test_a_foreign_salon_looks_like_one_that_does_not_exist(salon):
    stranger = await call(make_user, await call(make_salon), "owner")
    nobody = await call(make_user)
    helper = await call(make_user, None, "support")
    seen = []
    for user, path in [
        (stranger, salon_path(salon)),
        (nobody, salon_path(salon)),
        (stranger, "/ws/admin/salon/999999/"),
        (stranger, f"/ws/admin/salon/{'9' * 200}/"),
        (helper, "/ws/admin/salon/999999/"),
        (helper, f"/ws/admin/salon/{2**63}/"),
    ]:
        async with opened_by(user, path) as page:
            await refused(page, "FORBIDDEN", 4403)
            seen.append(page.seen)
    assert all(each == seen[0] for each in seen)


@pytest.mark.parametrize("role", ["viewer", "staff", "owner", "support", "superuser"])
async def test_who_may_look_is_told_the_status_first(salon, role):
    if role == "superuser":
        user = await call(make_user, is_superuser=True)
    else:
        user = await call(make_user, None if role == "support" else salon, role)
    async with opened_by(user, salon_path(salon), subprotocols=["aiadmin.v1"]) as page:
        name, data = await page.next()
        assert (name, data["status"]) == ("status", "unlinked")
        assert data["action"] == (None if role == "viewer" else "request-pairing-code")


async def test_to_look_begins_nothing(salon, owner):
    await call(store_creds, salon)
    other = await call(make_salon)
    await call(Membership.objects.create, user=owner, salon=other, role="owner")
    before = await call(traces)
    for each in (salon, other):
        async with opened_by(owner, salon_path(each)) as page:
            await page.settled()
    assert await call(traces) == before
    assert not await call(WhatsAppSession.objects.exclude(watched_at=None).exists)


@pytest.mark.parametrize("path", ["salon", "status"])
async def test_the_words_are_in_the_language_of_the_page(salon, owner, path):
    where = salon_path(salon) if path == "salon" else STATUS_PATH
    for query, headers, russian in [
        ("", {}, True),
        ("?lang=en", {}, False),
        ("", {"accept-language": "en"}, False),
    ]:
        async with opened_by(owner, where + query, headers=headers) as page:
            if path == "status":
                await page.send("watch", salons=[salon.pk])
                data = (await page.until("salon-statuses"))["salons"][0]
                assert ("привязан" in data["label"]) is russian
            else:
                data = await page.until("status")
            assert ("привязан" in data["message"]) is russian


# --- what each role may do ------------------------------------------------------------


@pytest.mark.parametrize("event", REQUESTS)
@pytest.mark.parametrize("role", ["viewer", "staff", "owner", "support"])
async def test_each_role_may_do_what_the_table_says(salon, role, event):
    allowed = {
        "viewer": set(),
        "staff": set(REQUESTS) - {"reset-whatsapp-credentials"},
        "owner": set(REQUESTS),
        "support": set(REQUESTS),
    }[role]
    user = await call(make_user, None if role == "support" else salon, role)
    async with opened_by(user, salon_path(salon)) as page:
        await page.until("status")
        before = await call(traces)
        await page.send(event, **REQUESTS[event])
        if event in allowed:
            await page.send("get-status")
            await page.until("status")
            assert await call(traces) != before
            assert "error" not in names_of(page)
        else:
            assert (await page.until("error"))["code"] == "FORBIDDEN"
            await page.send("get-status")
            await page.until("status")
            assert await call(traces) == before


async def test_a_request_appears_under_the_name_of_who_made_it(salon, owner):
    actor = f"user:{owner.username}"
    async with opened_by(owner, salon_path(salon)) as page:
        await page.send("request-pairing-code", phoneNumber=PHONE)
        await page.until("status", status="pairing")
        assert (await call(open_attempt, salon)).requested_by == actor
        await call(show_code, salon)
        data = await page.until("pairing-code")
        assert (data["code"], data["phoneNumber"]) == ("ABCD-1234", PHONE)
        await page.send("disconnect-whatsapp")
        await page.until("status", status="unlinked")
        await page.send("reset-whatsapp-credentials")
        await page.until("credentials-reset")
    done = await call(lambda: dict(AuditEvent.objects.values_list("action", "actor")))
    assert done == {"disconnect": actor, "reset": actor}


async def test_a_viewer_gets_no_code_no_qr_and_no_number(salon, viewer, member):
    await call(Salon.objects.filter(pk=salon.pk).update, expected_phone=OTHER_PHONE)
    async with (
        opened_by(viewer, salon_path(salon)) as looks,
        opened_by(member, salon_path(salon)) as acts,
    ):
        assert await acts.settled() == ["status", "known-phone"]
        await acts.send("request-qr")
        await acts.until("status", status="pairing")
        await call(show_qr, salon)
        await acts.until("qr-update")
        await acts.send("request-pairing-code", phoneNumber=PHONE)
        await acts.until("status")
        await call(show_code, salon)
        await acts.until("pairing-code")
        while True:
            attempt = (await looks.until("status"))["attempt"]
            if attempt and (attempt["kind"], attempt["stage"]) == ("code", "shown"):
                break
        async with opened_by(viewer, salon_path(salon)) as late:
            await late.send("get-status")
            assert await late.settled() == ["status", "status"]
        for event in ("request-qr", "request-pairing-code"):
            await looks.send(event, phoneNumber=PHONE)
            assert (await looks.until("error"))["code"] == "FORBIDDEN"
        await looks.settled()
        said = json.dumps(looks.seen + late.seen)
    for secret in (QR, "ABCD-1234", PHONE, OTHER_PHONE, "<svg"):
        assert secret not in said


async def test_the_staff_and_the_marketplace_see_the_same(salon, member):
    async with opened(salon) as page, opened_by(member, salon_path(salon)) as staff:
        await page.until("status", status="pairing")
        await call(show_qr, salon)
        await page.until("qr-update")
        assert (await staff.until("qr-update"))["qr"] == QR
        await staff.send("request-pairing-code", phoneNumber=PHONE)
        await page.until("status", status="pairing")
        await call(show_code, salon)
        await page.until("pairing-code")
        await staff.until("pairing-code")
    async with opened_by(member, salon_path(salon)) as staff:
        assert await staff.settled() == ["status", "pairing-code"]


# --- the salon's own number -----------------------------------------------------------


def _logged_out(salon):
    epoch = link(salon)
    assert sessions.record_logged_out(salon, epoch, "401")


def _reset(salon):
    link(salon)
    sessions.reset(salon, "page")


def _linked_elsewhere_since(salon):
    link(salon, OTHER_PHONE)
    link(salon)
    sessions.reset(salon, "page")
    ArchivedCredentials.objects.filter(phone=OTHER_PHONE).update(
        archived_at=Now() - timedelta(hours=1)
    )


def _expected(salon):
    link(salon, OTHER_PHONE)
    sessions.reset(salon, "page")
    Salon.objects.filter(pk=salon.pk).update(expected_phone=PHONE)


def _archived(salon):
    store_creds(salon)
    with sessions.locked(salon):
        credentials.archive(salon, "logged_out")


@pytest.mark.parametrize(
    "happened",
    [_logged_out, _reset, _linked_elsewhere_since, _expected, _archived, store_creds],
)
async def test_a_salon_that_is_known_by_its_number_need_not_type_it(salon, happened):
    await call(happened, salon)
    async with opened(salon) as page:
        assert (await page.next())[0] == "status"
        assert await page.next() == ("known-phone", {"phoneNumber": PHONE})
        assert PHONE not in json.dumps(page.seen[0])


async def test_an_open_salon_is_told_no_number(salon, owner):
    await call(link, salon)
    async with opened(salon) as page, opened_by(owner, salon_path(salon)) as staff:
        assert await page.settled() == ["status", "whatsapp-connected"]
        assert await staff.settled() == ["status", "whatsapp-connected"]
        assert PHONE not in json.dumps(page.seen + staff.seen)


def test_the_number_is_found_in_one_query(salon, django_assert_num_queries):
    _reset(salon)
    with django_assert_num_queries(1):
        assert salons.known_phone(salon) == PHONE
    assert salons.known_phone(make_salon()) == ""


def test_a_phone_that_whatsapp_refused_is_not_the_salons(salon):
    pairing.request_code(salon, PHONE, "page")
    attempt_id, epoch = show_code(salon)
    attempts.fail(salon, attempt_id, epoch, ErrorCode.PHONE_NOT_ON_WHATSAPP)
    assert salons.known_phone(salon) == ""
