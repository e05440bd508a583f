"""Who is let in to the marketplace page's WebSocket: tokens, origins, how many."""

import json
import time

import jwt
import pytest

from tests.factories import PHONE, make_salon
from tests.pages import Page, call, eventually, opened
from tests.socket_fixtures import often, salon, signed_token, traces
from whatsapp import consumers, watcher
from whatsapp.models import AuditEvent
from whatsapp.services import tokens

__all__ = ["often", "salon"]

pytestmark = pytest.mark.django_db(transaction=True)


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
    before = await call(traces)
    token = signed_token(settings, salon, **changes)
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
    assert await call(traces) == before
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
    before = await call(traces)
    async with opened() as page:
        await page.socket.send_to(json.dumps(first))
        assert await page.closed() == 4401
        assert [data["code"] for _name, data in page.seen] == ["UNAUTHORIZED"]
    assert await call(traces) == before


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
    token = signed_token(settings, salon, exp=int(time.time()) + 1)
    async with opened(token=token) as page:
        assert await page.closed() == 4401
        assert page.seen[-1][1]["code"] == "UNAUTHORIZED"
        await page.send("reset-whatsapp-credentials")  # too late
    assert not await call(AuditEvent.objects.filter(action="reset").exists)


async def test_a_fresh_token_keeps_the_socket(salon, settings, often):
    ends = int(time.time()) + 6  # time enough for what it says until then
    old = signed_token(settings, salon, exp=ends)
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
