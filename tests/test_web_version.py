"""A web version that WhatsApp refuses is replaced once, for all salons of all gateways."""

import asyncio
import logging
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from django.db import connections
from django.db.models.functions import Now

from tests import factories
from tests.gateway_fixtures import (
    Gateway,
    SalonStory,
    World,
    clean_database,
    simulator,
    world,
)
from tests.simulator import find_node
from whatsapp.errors import ErrorCode
from whatsapp.gateway import SessionManager
from whatsapp.gateway import web_version as fetching
from whatsapp.models import WebVersion, WhatsAppSession
from whatsapp.services import claims, web_version

__all__ = ["clean_database", "simulator", "world"]

NEW = 4_000_000_000
"""A revision that Baileys will not come to have by itself."""
LOGGER = "whatsapp.gateway.web_version"


class WebPage:
    """WhatsApp's web page on this machine, as far as it names a version."""

    def __init__(self) -> None:
        self.status = 200
        self.location = ""
        self.script = f'self.x("{{\\"client_revision\\":{NEW},\\"y\\":1}}");'
        self.asked: list[str] = []
        self.hangs = threading.Event()
        self.hangs.set()
        page = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                page.asked.append(self.path)
                page.hangs.wait()
                moved = page.location and self.path == "/sw.js"
                self.send_response(302 if moved else page.status)
                if moved:
                    self.send_header("location", page.location)
                self.end_headers()
                self.wfile.write(b"" if moved else page.script.encode())

            def log_message(self, *args: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/sw.js"


@pytest.fixture
def page() -> Iterator[WebPage]:
    page = WebPage()
    thread = threading.Thread(target=page.server.serve_forever)
    thread.start()
    yield page
    page.hangs.set()
    page.server.shutdown()
    thread.join()
    page.server.server_close()


def alerts(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [
        record.getMessage()
        for record in caplog.records
        if record.levelno >= logging.ERROR
        and record.name.startswith("whatsapp")
        and record.__dict__.get("event") != "session_flapping"
    ]


# --- what the page says ---------------------------------------------------------------


@pytest.mark.parametrize(
    "script",
    ['{"client_revision":1044000001}', r'x("{\"client_revision\": 1044000001}")'],
)
def test_the_revision_is_found_as_baileys_finds_it(page: WebPage, script: str):
    page.script = script
    assert fetching.fetch(page.url) == (2, 3000, 1044000001)


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ("<html>Sorry</html>", "names no client_revision"),
        ('{"client_revision":0}', "names revision 0"),
        ('{"client_revision":4294967296}', "names revision 4294967296"),
        ('{"client_revision":10440000010000}', "names no client_revision"),
        ('{"client_revision":-5}', "names no client_revision"),
    ],
)
def test_nonsense_is_no_version(page: WebPage, script: str, words: str):
    page.script = script
    with pytest.raises(fetching.NoVersion, match=words):
        fetching.fetch(page.url)


def test_an_error_of_the_page_is_no_version(page: WebPage):
    page.status = 429
    with pytest.raises(fetching.NoVersion, match="HTTP 429"):
        fetching.fetch(page.url)
    with pytest.raises(fetching.NoVersion, match="URLError"):
        fetching.fetch("http://127.0.0.1:1/sw.js")


def test_an_endless_answer_is_cut(page: WebPage, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(fetching, "MAX_BYTES", 100)
    page.script = " " * 101 + page.script
    with pytest.raises(fetching.NoVersion, match="longer than 100"):
        fetching.fetch(page.url)


def test_a_redirect_is_followed_on_the_same_host_only(page: WebPage):
    page.location = "/elsewhere.js"
    assert fetching.fetch(page.url) == (2, 3000, NEW)
    page.location = page.url.replace("127.0.0.1", "localhost")
    with pytest.raises(fetching.NoVersion, match="another host"):
        fetching.fetch(page.url)
    assert page.asked == ["/sw.js", "/elsewhere.js", "/sw.js"]


# --- who asks it ----------------------------------------------------------------------


def _refused(_number: int) -> bool:
    try:
        return web_version.refused((2, 3000, 5), None).fetch
    finally:
        connections.close_all()


@pytest.mark.django_db(transaction=True)
def test_of_many_that_are_refused_at_once_one_fetches():
    with ThreadPoolExecutor(8) as threads:
        assert sum(threads.map(_refused, range(24))) == 1


@pytest.mark.django_db
def test_it_is_fetched_again_only_after_the_interval():
    assert web_version.refused((2, 3000, 5), None).fetch
    aged = "UPDATE whatsapp_webversion SET asked_at = now() - make_interval(secs => %s)"
    with connections["default"].cursor() as cursor:
        cursor.execute(aged, [web_version.REFRESH_SECONDS - 60])
        assert not web_version.refused((2, 3000, 5), None).fetch
        cursor.execute(aged, [web_version.REFRESH_SECONDS + 1])
        assert web_version.refused((2, 3000, 5), None).fetch


@pytest.mark.django_db
def test_who_was_refused_with_an_older_version_than_the_stored_one_fetches_nothing():
    web_version.record_fetched((2, 3000, 9))
    salon, other = _outdated_salon(1), _outdated_salon(2)
    refusal = web_version.refused((2, 3000, 8), salon)
    assert refusal == web_version.Refusal((2, 3000, 9), fetch=False)
    assert claims.candidates(10) == [salon], "this one is due, the other is not"
    assert web_version.refused((2, 3000, 9), other).fetch
    assert claims.candidates(10) == [salon]


@pytest.mark.django_db
def test_a_fetched_version_replaces_only_an_older_one():
    assert web_version.stored() is None
    for revision in (9, 10, 8):
        web_version.record_fetched((2, 3000, revision))
    assert web_version.stored() == (2, 3000, 10)  # as numbers, not as text
    assert WebVersion.objects.count() == 1


def _outdated_salon(number: int) -> int:
    salon = factories.make_salon(number)
    factories.store_creds(salon, factories.make_creds(f"7900123456{number}"), {})
    WhatsAppSession.objects.update_or_create(
        salon=salon, defaults={"status": "outdated", "wanted": True}
    )
    WhatsAppSession.objects.filter(salon=salon).update(
        retry_at=Now() + timedelta(minutes=10)
    )
    return salon.pk


@pytest.mark.django_db
def test_a_new_version_makes_all_that_are_outdated_due():
    salons = [_outdated_salon(number) for number in (1, 2, 3)]
    assert claims.candidates(10) == []
    web_version.record_fetched((2, 3000, 9))
    assert claims.candidates(10) == salons


@pytest.mark.django_db
def test_once_a_minute_one_outdated_salon_tries_for_all():
    salons = [_outdated_salon(number) for number in (1, 2)]
    assert not web_version.probe(), "they were refused just now"
    _a_minute_passes()
    assert web_version.probe()
    assert claims.candidates(10) == salons[:1]
    assert not web_version.probe()
    _a_minute_passes()
    assert web_version.probe()
    assert claims.candidates(10) == salons


def _a_minute_passes() -> None:
    WebVersion.objects.update(
        probed_at=Now() - timedelta(seconds=web_version.PROBE_SECONDS)
    )


@pytest.mark.django_db
def test_where_nobody_is_outdated_nobody_tries():
    _a_minute_passes()
    assert not web_version.probe()
    assert not WebVersion.objects.exists()


# --- the whole of it ------------------------------------------------------------------

e2e = [pytest.mark.e2e, pytest.mark.timeout(240)]


class TestGateways:
    pytestmark = e2e

    async def test_one_fetch_and_one_alert_bring_all_salons_of_two_gateways_back(
        self,
        world: World,
        page: WebPage,
        settings: Any,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        settings.WHATSAPP_VERSION_URL = page.url
        settings.WHATSAPP_LOOK_INTERVAL = 0.5  # for what one leaves to the other
        one, other = await world.gateway(), await world.gateway()
        async with one.manager.claimer._claiming:
            salons = [await world.open_salon() for _ in range(3)]
        async with other.manager.claimer._claiming:
            salons += [await world.open_salon() for _ in range(3)]

        async def are_shared() -> bool:  # one may just be on its way to the other
            owners = {(await salon.session()).owner for salon in salons}
            return owners == {one.name, other.name}

        await world.until(are_shared, "both gateways have salons")
        for salon in salons:
            await salon.status("open")

        page.hangs.clear()
        await world.fault("outdated", below=[2, 3000, NEW])
        await world.on_connections("stream_error", 503, all=True)
        for salon in salons:
            assert (await salon.status("outdated"))["reason"] == "405"
        page.hangs.set()
        for salon in salons:
            await salon.status("open")
        assert page.asked == ["/sw.js"]
        (alert,) = alerts(caplog)
        assert f"all gateways take up 2.3000.{NEW}" in alert
        assert one.manager.web.in_use == other.manager.web.in_use == (2, 3000, NEW)

        refused = await _refusals(world)
        await one.stop()
        late = await world.gateway()
        await other.stop()
        for salon in salons:
            await world.until(partial(_is_open_at, salon, late), "the next one has it")
        assert page.asked == ["/sw.js"]
        assert await _refusals(world) == refused, "what is known is claimed"

    async def test_the_operators_version_gives_way_to_a_newer_one(
        self, world: World, page: WebPage, settings: Any
    ) -> None:
        settings.WHATSAPP_VERSION_URL = page.url
        await world.fault("outdated", below=[2, 3000, 7])
        manager = SessionManager(
            node=find_node(), ws_url=world.simulator.ws_url, web_version=(2, 3000, 6)
        )
        gateway = Gateway(manager)
        try:
            await gateway.ready()
            await world.open_salon()
        finally:
            await gateway.stop()
        assert len(page.asked) == 1

    async def test_without_a_newer_version_operators_are_told_once_what_to_do(
        self,
        world: World,
        page: WebPage,
        settings: Any,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        settings.WHATSAPP_VERSION_URL = page.url
        page.script = '{"client_revision":7}'
        await world.gateway()
        salons = [await world.linked_salon() for _ in range(3)]
        await world.fault("failure", reason=405, on="login")
        for salon in salons:
            await salon.connect()
        for salon in salons:
            await salon.status("outdated")
            await salon.no_owner()
            assert (await salon.session()).retry_at
        await world.until(lambda: _has_error(world), "it is told")
        (alert,) = alerts(caplog)
        assert "own page has 2.3000.7. Set WHATSAPP_WEB_VERSION" in alert
        assert len(page.asked) == 1

    async def test_a_page_that_does_not_answer_is_given_up(
        self,
        world: World,
        page: WebPage,
        settings: Any,
        monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        settings.WHATSAPP_VERSION_URL = page.url
        monkeypatch.setattr(fetching, "FETCH_SECONDS", 0.1)
        page.hangs.clear()
        await world.gateway()
        await _refuse_for_good(world)
        (alert,) = alerts(caplog)
        assert "there is no newer one" in alert

    async def test_a_link_attempt_is_told_and_the_next_one_succeeds(
        self, world: World, page: WebPage, settings: Any
    ) -> None:
        settings.WHATSAPP_VERSION_URL = page.url
        gateway = await world.gateway()
        salon = await world.salon()
        await world.fault("outdated", below=[2, 3000, NEW])
        await salon.ask_code()
        await salon.stage("failed", ErrorCode.ENGINE_OUTDATED)

        async def is_taken_up() -> bool:
            return gateway.manager.web.in_use == (2, 3000, NEW)

        await world.until(is_taken_up, "the new version")
        await salon.link()

    async def test_when_whatsapp_takes_one_again_all_follow(
        self, world: World, settings: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        settings.WHATSAPP_LOOK_INTERVAL = 0.2
        monkeypatch.setattr(web_version, "PROBE_SECONDS", 2.0)
        await world.gateway()
        salons = [await world.open_salon() for _ in range(4)]
        refusal = await world.fault("failure", reason=405, on="login")
        await world.on_connections("drop", all=True)
        for salon in salons:
            await salon.status("outdated")
        await asyncio.to_thread(refusal.remove)
        for salon in salons:
            await salon.status("open")

    async def test_nothing_is_fetched_where_that_is_off(
        self, world: World, caplog: pytest.LogCaptureFixture
    ) -> None:
        await world.gateway()
        await _refuse_for_good(world)
        (alert,) = alerts(caplog)
        assert "none is fetched here (WHATSAPP_VERSION_URL)" in alert


async def _refuse_for_good(world: World) -> None:
    """Refuse a salon's version where there is no newer one; wait until it is told."""
    salon = await world.linked_salon()
    await world.fault("failure", reason=405, on="login")
    await salon.connect()
    await salon.status("outdated")
    await world.until(lambda: _has_error(world), "it is told")


async def _refusals(world: World) -> int:
    logins = (await world.journal())["logins"]
    return len([one for one in logins if one["answer"].startswith("405")])


async def _has_error(world: World) -> bool:
    return bool(await world.sql("SELECT 1 FROM whatsapp_webversion WHERE error <> ''"))


async def _is_open_at(salon: SalonStory, gateway: Gateway) -> bool:
    session = await salon.session()
    return (session.owner, session.status) == (gateway.name, "open")
