"""The WebSockets of the staff's admin: who may see and do what, and for how long."""

import asyncio
import itertools
import json
from contextlib import AsyncExitStack
from datetime import timedelta

import pytest
from django.conf import settings
from django.contrib.auth.models import User
from django.contrib.sessions.models import Session
from django.db import connection, transaction
from django.db.backends.utils import CursorWrapper
from django.db.models import F
from django.db.models.functions import Now
from django.test import Client

from tests.factories import (
    OTHER_PHONE,
    OWNER,
    PHONE,
    QR,
    last_attempt,
    link,
    make_salon,
    open_attempt,
    show_code,
    show_qr,
    store_creds,
)
from tests.pages import (
    SECONDS,
    STATUS_PATH,
    call,
    eventually,
    log_in,
    opened,
    opened_by,
    salon_path,
)
from whatsapp import consumers, events, watcher
from whatsapp.errors import ErrorCode
from whatsapp.models import (
    ArchivedCredentials,
    AuditEvent,
    Membership,
    PairingAttempt,
    Salon,
    WhatsAppSession,
)
from whatsapp.services import attempts, credentials, pairing, salons, sessions

pytestmark = pytest.mark.django_db(transaction=True)

_names = itertools.count(1)
REQUESTS = {
    "request-qr": {},
    "request-pairing-code": {"phoneNumber": PHONE},
    "reset-whatsapp-credentials": {},
    "disconnect-whatsapp": {},
}


@pytest.fixture
def often(settings):
    """Look often, for tests of what the look finds."""
    settings.WHATSAPP_LOOK_INTERVAL = 0.05


@pytest.fixture
def salon():
    return make_salon()


def make_user(salon=None, role=None, **fields):
    user = User.objects.create_user(f"anna{next(_names)}", password="x", **fields)
    if role is not None:
        Membership.objects.create(user=user, salon=salon, role=role)
    return user


@pytest.fixture
def viewer(salon):
    return make_user(salon, "viewer")


@pytest.fixture
def member(salon):
    return make_user(salon, "staff")


@pytest.fixture
def owner(salon):
    return make_user(salon, "owner")


@pytest.fixture
def support():
    return make_user(None, "support")


def _rows():
    return (
        list(WhatsAppSession.objects.values_list("salon_id", "revision", "status")),
        PairingAttempt.objects.count(),
        AuditEvent.objects.count(),
    )


def _names_of(page):
    return [name for name, _data in page.seen]


async def _refused(page, code, close):
    assert await page.closed() == close
    assert [(name, data["code"]) for name, data in page.seen] == [("error", code)]
    assert page.seen[0][1]["message"]


# --- who comes in ---------------------------------------------------------------------


@pytest.mark.parametrize("path", ["salon", "status"])
@pytest.mark.parametrize("cookie", ["", "sessionid=forged", "other=1"])
async def test_nobody_comes_in_without_a_login(salon, path, cookie):
    before = await call(_rows)
    where = salon_path(salon) if path == "salon" else STATUS_PATH
    async with opened_by(None, where, cookie) as page:
        await _refused(page, "UNAUTHORIZED", 4401)
    assert await call(_rows) == before


@pytest.mark.parametrize("path", ["salon", "status"])
async def test_a_token_of_the_marketplace_is_no_login(salon, path):
    where = salon_path(salon) if path == "salon" else STATUS_PATH
    async with opened(salon, path=where) as page:
        await _refused(page, "UNAUTHORIZED", 4401)


async def test_an_inactive_user_does_not_come_in(salon, owner):
    cookie = await call(log_in, owner)
    await call(User.objects.update, is_active=False)
    async with opened_by(None, salon_path(salon), cookie) as page:
        await _refused(page, "UNAUTHORIZED", 4401)


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
    before = await call(_rows)
    where = salon_path(salon) if path == "salon" else STATUS_PATH
    headers = {"origin": origin, "host": host}
    async with opened_by(support, where, headers=headers) as page:
        await _refused(page, "FORBIDDEN", 4403)
    assert await call(_rows) == before


async def test_behind_https_a_page_of_plain_http_is_not_our_own(
    salon, support, settings
):
    settings.SESSION_COOKIE_SECURE = True
    async with opened_by(support, salon_path(salon)) as page:
        await _refused(page, "FORBIDDEN", 4403)
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
            await _refused(page, "FORBIDDEN", 4403)
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
    before = await call(_rows)
    for each in (salon, other):
        async with opened_by(owner, salon_path(each)) as page:
            await page.settled()
    assert await call(_rows) == before
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
        before = await call(_rows)
        await page.send(event, **REQUESTS[event])
        if event in allowed:
            await page.send("get-status")
            await page.until("status")
            assert await call(_rows) != before
            assert "error" not in _names_of(page)
        else:
            assert (await page.until("error"))["code"] == "FORBIDDEN"
            await page.send("get-status")
            await page.until("status")
            assert await call(_rows) == before


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


# --- lists ----------------------------------------------------------------------------


def _by_salon(data):
    return {row["salon"]: row for row in data["salons"]}


async def test_a_list_is_told_all_of_its_salons_and_then_what_changes(salon, owner):
    other = await call(make_salon)
    await call(Membership.objects.create, user=owner, salon=other, role="viewer")
    epoch = await call(link, salon)
    async with opened_by(owner, STATUS_PATH + "?lang=en") as page:
        await page.send("watch", salons=[salon.pk, other.pk])
        name, data = await page.next()
        assert name == "salon-statuses"
        rows = _by_salon(data)
        assert set(rows) == {salon.pk, other.pk}
        assert rows[salon.pk] == {
            "salon": salon.pk,
            "status": "open",
            "label": "Connected",
            "phone": "79***4567",
            "since": rows[salon.pk]["since"],
            "lastAliveAt": rows[salon.pk]["lastAliveAt"],
            "owner": OWNER,
            "reason": None,
            "message": "WhatsApp is connected.",
        }
        assert rows[salon.pk]["since"].endswith("+00:00")
        assert rows[salon.pk]["lastAliveAt"].endswith("+00:00")
        assert rows[other.pk]["status"] == "unlinked"
        assert rows[other.pk]["lastAliveAt"] is None
        await call(sessions.record, salon, epoch, "reconnecting", "428")
        rows = _by_salon(await page.until("salon-statuses"))
        assert set(rows) == {salon.pk}
        assert (rows[salon.pk]["status"], rows[salon.pk]["reason"]) == (
            "reconnecting",
            "428",
        )


async def test_a_list_never_holds_a_secret(salon, owner):
    async with opened_by(owner, STATUS_PATH) as page:
        await page.send("watch", salons=[salon.pk])
        await page.until("salon-statuses")
        await call(pairing.request_qr, salon, "page")
        await call(show_qr, salon)
        await call(pairing.request_code, salon, PHONE, "page")
        await call(show_code, salon)
        while (await page.until("salon-statuses"))["salons"][0][
            "message"
        ] != "Введите код в WhatsApp на телефоне.":
            pass
        said = json.dumps(page.seen)
    for secret in (QR, "ABCD-1234", PHONE):
        assert secret not in said


async def test_what_may_not_be_seen_is_left_out_like_what_is_not_there(salon, owner):
    foreign = await call(make_salon)
    async with opened_by(owner, STATUS_PATH) as page:
        for asked in (
            [foreign.pk],
            [999_999],
            [],
            [0, -1, 2**40, 2**63],
        ):
            await page.send("watch", salons=asked)
            assert await page.next() == ("salon-statuses", {"salons": []})
        await page.send("watch", salons=[foreign.pk, salon.pk, 999_999, salon.pk])
        assert set(_by_salon((await page.next())[1])) == {salon.pk}
        await call(link, foreign)
        await call(link, salon, OTHER_PHONE)
        while _by_salon(await page.until("salon-statuses"))[salon.pk]["status"] != (
            "open"
        ):
            pass
        assert all(
            set(_by_salon(data)) <= {salon.pk}
            for name, data in page.seen
            if name == "salon-statuses"
        )


async def test_another_watch_takes_the_place_of_the_one_before(salon, support):
    other = await call(make_salon)
    async with opened_by(support, STATUS_PATH) as page:
        await page.send("watch", salons=[salon.pk])
        await page.until("salon-statuses")
        await page.send("watch", salons=[other.pk])
        await page.until("salon-statuses")
        await call(link, salon)
        await call(pairing.request_qr, other, "page")
        data = await page.until("salon-statuses")
        assert set(_by_salon(data)) == {other.pk}
        assert await page.settled() == []


@pytest.mark.parametrize(
    "text",
    [
        "no JSON",
        "[]",
        '{"event": "watch"}',
        '{"event": "watch", "data": {}}',
        '{"event": "watch", "data": {"salons": null}}',
        '{"event": "watch", "data": {"salons": {"1": 2}}}',
        '{"event": "watch", "data": {"salons": "1"}}',
        '{"event": "watch", "data": {"salons": ["1"]}}',
        '{"event": "watch", "data": {"salons": [true]}}',
        '{"event": "watch", "data": {"salons": [1.5]}}',
        '{"event": "watch", "data": {"salons": [[1]]}}',
        '{"event": "watch", "data": {"salons": [null]}}',
        json.dumps({"event": "watch", "data": {"salons": list(range(1, 502))}}),
    ],
)
async def test_what_is_no_list_of_salons_is_answered(salon, owner, text):
    async with opened_by(owner, STATUS_PATH) as page:
        await page.socket.send_to(text)
        assert (await page.next())[1]["code"] == "INVALID_MESSAGE"
        await page.send("watch", salons=[salon.pk])
        await page.until("salon-statuses")


@pytest.mark.parametrize("name", [*REQUESTS, "get-status", "auth", "_watch", "show"])
async def test_a_list_knows_no_other_request(salon, owner, name):
    before = await call(_rows)
    async with opened_by(owner, STATUS_PATH) as page:
        await page.send(name, **REQUESTS.get(name, {}))
        assert (await page.next())[1]["code"] == "UNKNOWN_EVENT"
    assert await call(_rows) == before


def _many_salons(count):
    made = Salon.objects.bulk_create(
        [Salon(salon_id=5_000_000 + n, title=f"Салон {n}") for n in range(count)]
    )
    WhatsAppSession.objects.bulk_create([WhatsAppSession(salon=each) for each in made])
    return [each.pk for each in made]


@pytest.fixture
def queries(monkeypatch):
    """Return what is asked of the database in any thread, transactions left out."""
    asked: list[str] = []
    execute = CursorWrapper.execute

    def noted(self, sql, params=None):
        asked.append(str(sql))
        return execute(self, sql, params)

    monkeypatch.setattr(CursorWrapper, "execute", noted)
    return asked


async def test_five_hundred_salons_cost_as_many_queries_as_one(support, queries):
    pks = await call(_many_salons, 500)
    cost = []
    for asked in (pks[:1], pks):
        async with opened_by(support, STATUS_PATH) as page:
            await page.send("watch", salons=[])
            await page.until("salon-statuses")
            queries.clear()
            await page.send("watch", salons=asked)
            data = await page.until("salon-statuses")
            cost.append(
                [q for q in queries if "whatsapp_salon" in q or "django_session" in q]
            )
            assert set(_by_salon(data)) == set(asked)
    assert len(cost[0]) == len(cost[1]) <= 4


async def test_many_changes_come_in_few_frames(support):
    pks = await call(_many_salons, 200)

    def change():
        # what a gateway does that takes over after another has died
        WhatsAppSession.objects.filter(salon_id__in=pks).update(
            status="connecting", revision=F("revision") + 1
        )
        with transaction.atomic():
            for pk in pks:
                events.publish(pk)

    async with opened_by(support, STATUS_PATH) as page:
        await page.send("watch", salons=pks)
        await page.until("salon-statuses")
        await call(change)
        told: set[int] = set()
        while told != set(pks):
            data = await page.until("salon-statuses")
            told |= {row["salon"] for row in data["salons"]}
    assert len(page.seen) < 50


async def test_one_look_serves_any_number_of_lists(support, often, queries):
    pks = await call(_many_salons, 50)
    cookie = await call(log_in, support)
    async with AsyncExitStack() as stack:
        pages = [
            await stack.enter_async_context(opened_by(None, STATUS_PATH, cookie))
            for _ in range(10)
        ]
        for page in pages:
            await page.send("watch", salons=pks)
            await page.until("salon-statuses")
        queries.clear()
        await eventually(lambda: sum("unnest" in q for q in queries) >= 5)
        asked = list(queries)
        looks = sum("unnest" in q for q in asked)
        assert len(asked) <= 5 * (looks + 1)


async def test_signs_of_life_and_owners_come_without_any_change(
    salon, owner, often, monkeypatch
):
    monkeypatch.setattr(watcher, "WATCHED_SECONDS", 0.0)
    await call(link, salon)
    async with opened_by(owner, STATUS_PATH) as page:
        await page.send("watch", salons=[salon.pk])
        before = _by_salon(await page.until("salon-statuses"))[salon.pk]
        await call(
            WhatsAppSession.objects.update,
            last_alive_at=Now() + timedelta(minutes=1),
            owner="gateway-b",
        )
        while True:
            after = _by_salon(await page.until("salon-statuses"))[salon.pk]
            if after["owner"] == "gateway-b":
                break
        assert after["lastAliveAt"] > before["lastAliveAt"]


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
        before = await call(_rows)
        for event, data in REQUESTS.items():
            await page.send(event, **data)  # too late
    assert await call(_rows) == before


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
    assert "qr-update" not in _names_of(one)


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
        assert set(_by_salon(await page.until("salon-statuses"))) == {other.pk}
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
    settings.CHANNEL_LAYERS = {
        "default": {
            "BACKEND": "channels_redis.pubsub.RedisPubSubChannelLayer",
            "CONFIG": {"hosts": [redis_server.url]},
        }
    }
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
            assert "pairing-code" not in _names_of(page)
        finally:
            await call(rename, "away", "whatsapp_membership")
        await page.until("pairing-code")  # by the next look


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
                await _refused(third, "RATE_LIMITED", 4429)
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
