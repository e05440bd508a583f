"""Who fails again and again is told to wait; who shares his address does not feel it."""

import json
from typing import Any

import pytest
from channels.testing import ApplicationCommunicator
from django.test import Client

from aiadmin.asgi import application
from aiadmin.proxies import TrustedProxies
from tests.admin_world import PASSWORD, SUPERUSER, make_user
from tests.api_world import Program, code_of, make_key
from tests.factories import make_salon
from tests.pages import HEADERS, Page, call, eventually, opened
from whatsapp import consumers, failures
from whatsapp.consumers import marketplace
from whatsapp.failures import Failures
from whatsapp.services import tokens

pytestmark = pytest.mark.django_db(transaction=True)

PROXY = "10.0.0.1"
HERE, THERE = "192.0.2.7", "198.51.100.8"
NEIGHBOURS = ("2001:db8:0:1::7", "2001:db8:0:1:ffff::8")


@pytest.fixture(autouse=True)
def trusted(settings):
    settings.TRUSTED_PROXIES = TrustedProxies.read([PROXY])


@pytest.fixture(autouse=True)
def soon(monkeypatch):
    """Have the patience end early, and let nobody's wait end during a test."""
    for name in ("TOKENS", "API_KEYS", "LOGINS_FROM", "LOGINS_AS"):
        monkeypatch.setattr(failures, name, Failures(free=3, first=900, longest=900))
    monkeypatch.setattr(
        failures, "LOGINS_HERE", Failures(free=2, first=900, longest=900)
    )


@pytest.fixture
def salon():
    return make_salon()


# --- pages ----------------------------------------------------------------------------


def page_from(address: str, token: str | None = None, **headers: str | None) -> Page:
    """Return a page of a client that is connected to us."""
    if token is not None:
        headers["authorization"] = f"Bearer {token}"
    page = Page(headers)
    page.socket.scope["client"] = (address, 4711)
    return page


def page_behind(address: str, token: str | None = None, proxy: str = PROXY) -> Page:
    """Return a page of a client that ``proxy`` says is another."""
    return page_from(proxy, token, **{"x-forwarded-for": address})


async def refusal(page: Page) -> tuple[int, str]:
    """Return the close code of a page that is refused, and what it was told."""
    await page.connect()
    code = await page.closed()
    await page.socket.disconnect()
    return code, page.seen[-1][1]["code"]


NO_TOKEN = (4401, "UNAUTHORIZED")
TOO_MANY = (4429, "RATE_LIMITED")


async def exhaust_pages(address: str) -> None:
    for _ in range(3):
        assert await refusal(page_from(address, "forged")) == NO_TOKEN
    assert await refusal(page_from(address, "forged")) == TOO_MANY


async def test_many_forged_tokens_from_one_address_are_told_to_wait():
    await exhaust_pages(HERE)
    page = page_from(HERE, "forged")
    assert await refusal(page) == TOO_MANY
    assert 890 <= page.seen[-1][1]["retryAfter"] <= 900
    assert "сети" in page.seen[-1][1]["message"]
    assert await refusal(page_from(THERE, "forged")) == NO_TOKEN


async def test_a_good_token_opens_from_an_address_that_fails(salon):
    await exhaust_pages(HERE)
    page = page_from(HERE, await call(tokens.issue, salon))
    await page.connect()
    await page.until("status")
    await page.socket.disconnect()
    # Also as a first message.
    page = page_from(HERE)
    await page.connect()
    await page.send("auth", token=await call(tokens.issue, salon))
    await page.until("status")
    await page.socket.disconnect()


async def test_a_token_that_was_good_once_is_no_guess(salon):
    old = await call(tokens.issue, salon, -60)
    for _ in range(10):
        assert await refusal(page_from(HERE, old)) == NO_TOKEN
    await exhaust_pages(HERE)
    assert await refusal(page_from(HERE, old)) == NO_TOKEN


async def test_two_clients_behind_one_proxy_are_two():
    for _ in range(3):
        assert await refusal(page_behind(HERE, "forged")) == NO_TOKEN
    assert await refusal(page_behind(HERE, "forged")) == TOO_MANY
    assert await refusal(page_behind(THERE, "forged")) == NO_TOKEN


async def test_a_header_of_a_stranger_makes_nobody_another():
    for number in range(3):
        page = page_behind(f"203.0.113.{number}", "forged", proxy=HERE)
        assert await refusal(page) == NO_TOKEN
    page = page_behind("203.0.113.9", "forged", proxy=HERE)
    assert await refusal(page) == TOO_MANY
    # And nobody is blamed for what a stranger says that he is.
    assert await refusal(page_from("203.0.113.1", "forged")) == NO_TOKEN


async def test_addresses_of_one_household_are_one():
    for number in range(4):
        await refusal(page_from(NEIGHBOURS[number % 2], "forged"))
    for address in NEIGHBOURS:
        assert await refusal(page_from(address, "forged")) == TOO_MANY
    assert await refusal(page_from("2001:db8:0:2::7", "forged")) == NO_TOKEN


@pytest.mark.parametrize("leaves", [False, True])
async def test_who_says_nothing_is_told_to_wait(monkeypatch, leaves: bool):
    for _ in range(3):
        page = page_from(HERE)
        await page.connect()
        if leaves:
            await page.socket.disconnect()
        else:
            await page.send("get-status")
            assert await page.closed() == 4401
            await page.socket.disconnect()
    monkeypatch.setattr(consumers, "AUTH_SECONDS", 0.05)
    assert await refusal(page_from(HERE)) == TOO_MANY


async def test_of_those_who_say_nothing_the_oldest_gives_way(salon, monkeypatch):
    monkeypatch.setattr(consumers, "WAITING_PER_ADDRESS", 2)
    monkeypatch.setattr(consumers, "AUTH_SECONDS", 3600)
    silent = [page_from(HERE) for _ in range(3)]
    for page in silent:
        await page.connect()
    assert await silent[0].closed() == 4429
    # One of another address takes nobody's place.
    elsewhere = page_from(THERE)
    await elsewhere.connect()
    # A page of ours says at once who it is, and is let in.
    page = page_from(HERE)
    await page.connect()
    await page.send("auth", token=await call(tokens.issue, salon))
    await page.until("status")
    assert await silent[1].closed() == 4429
    for each in (*silent, elsewhere, page):
        await each.socket.disconnect()
    await eventually(lambda: not marketplace._waiting)


async def test_where_no_address_is_known_nobody_waits_for_all():
    for _ in range(6):
        async with opened(token="forged") as page:
            assert await page.closed() == 4401


# --- programs -------------------------------------------------------------------------

FORGED = f"wak_{'a' * 10}_{'b' * 43}"


def asks(address: str, key: str = FORGED) -> Any:
    program = Program(key)
    program.client = Client(REMOTE_ADDR=address)
    return program.get("/sessions")


def test_many_refused_keys_from_one_address_are_told_to_wait(caplog):
    for _ in range(3):
        assert code_of(asks(HERE)) == "UNAUTHORIZED"
    answer = asks(HERE)
    assert (answer.status_code, code_of(answer)) == (429, "TOO_MANY_REQUESTS")
    assert 890 <= int(answer["Retry-After"]) <= 900
    assert "address" in answer.json()["detail"]
    for _ in range(5):
        assert asks(HERE).status_code == 429
    assert [record.name for record in caplog.records].count("whatsapp.api.keys") == 1
    assert asks(THERE).status_code == 401


def test_a_good_key_is_taken_from_an_address_that_fails(salon):
    _key, text = make_key(salon)
    for _ in range(6):
        asks(HERE)
    assert asks(HERE, text).status_code == 200


async def asked_behind(address: str, proxy: str = PROXY) -> int:
    headers = {
        **{name: value for name, value in HEADERS.items() if name != "origin"},
        "authorization": f"Bearer {FORGED}",
        "x-forwarded-for": address,
    }
    scope = {
        "type": "http",
        "method": "GET",
        "path": "/api/v1/sessions",
        "query_string": b"",
        "client": [proxy, 4711],
        "headers": [(name.encode(), text.encode()) for name, text in headers.items()],
    }
    asked = ApplicationCommunicator(application, scope)
    await asked.send_input({"type": "http.request", "body": b""})
    answer = await asked.receive_output(timeout=60)
    await asked.wait(timeout=60)
    return answer["status"]


async def test_programs_behind_a_proxy_are_told_apart_and_cannot_pretend():
    assert [await asked_behind(HERE) for _ in range(4)] == [401, 401, 401, 429]
    assert await asked_behind(THERE) == 401
    forged = [await asked_behind(f"203.0.113.{it}", proxy=THERE) for it in range(4)]
    assert forged == [401, 401, 429, 429]


# --- people ---------------------------------------------------------------------------


def log_in(name: str, password: str, address: str = HERE) -> Any:
    return Client(REMOTE_ADDR=address, headers={"accept-language": "en"}).post(
        "/admin/login/", {"username": name, "password": password}
    )


@pytest.fixture
def anna():
    return make_user(SUPERUSER, password=PASSWORD).username


def test_who_mistypes_a_password_again_and_again_waits(anna, caplog):
    for _ in range(3):
        answer = log_in(anna, "wrong")
        assert answer.status_code == 200
        assert "Too many" not in answer.content.decode()
    # The right one, too: else it would still be found by trying.
    answer = log_in(anna, PASSWORD)
    assert answer.status_code == 429
    assert 890 <= int(answer["Retry-After"]) <= 900
    assert "Too many failed logins. Wait" in answer.content.decode()
    assert anna not in "".join(record.getMessage() for record in caplog.records)
    # From elsewhere, the account is not locked.
    assert log_in(anna, PASSWORD, THERE).status_code == 302


def test_a_right_password_costs_no_try(anna):
    for _ in range(10):
        assert log_in(anna, PASSWORD).status_code == 302
    for _ in range(2):
        log_in(anna, "wrong")
    assert log_in(anna, PASSWORD).status_code == 302
    # And what went before is forgotten: a third one would have to wait.
    assert log_in(anna, "wrong").status_code == 200
    assert log_in(anna, PASSWORD).status_code == 302


def test_an_address_that_tries_one_account_after_another_waits(anna):
    for number in range(4):
        assert log_in(f"nobody-{number}", "wrong").status_code == 200
    assert log_in("nobody-9", "wrong").status_code == 429
    assert log_in(anna, PASSWORD).status_code == 429
    assert log_in(anna, PASSWORD, THERE).status_code == 302


def test_an_account_that_is_tried_from_everywhere_waits_a_little(anna):
    for number in range(4):
        assert log_in(anna, "wrong", f"203.0.113.{number}").status_code == 200
    assert log_in(anna, PASSWORD, THERE).status_code == 429


def test_a_wrong_name_and_a_wrong_password_look_alike(anna):
    texts = [
        json.dumps(log_in(name, "wrong").context["form"].non_field_errors())
        for name in (anna, "nobody-at-all")
    ]
    assert texts[0] == texts[1]
    for name in (anna, "nobody-at-all"):
        for _ in range(2):
            log_in(name, "wrong")
    assert log_in(anna, "x").status_code == log_in("nobody-at-all", "x").status_code
