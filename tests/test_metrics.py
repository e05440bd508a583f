"""What /metrics says of the tables, and whom."""

import asyncio
import json
import threading
from collections.abc import Callable, Iterator
from datetime import timedelta
from importlib import import_module
from ipaddress import ip_network
from typing import Any

import psycopg
import pytest
from asgiref.sync import sync_to_async
from django.db import OperationalError, connection
from django.db.models.functions import Now
from django.http import HttpResponse
from django.test import AsyncClient, AsyncRequestFactory
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.openmetrics import parser as openmetrics

from aiadmin import metrics as endpoint
from tests import factories
from tests.scrape import Scrape, parse
from tests.test_service_health import ENGINE, living_gateway
from whatsapp import metrics
from whatsapp.gateway.database import conninfo
from whatsapp.gateway.metrics import GatewayMetrics
from whatsapp.models import (
    AttemptEnd,
    Gateway,
    PairingAttempt,
    StatusChange,
    WhatsAppSession,
)
from whatsapp.services import attempts, gateways, pairing, sessions
from whatsapp.services import metrics as tables
from whatsapp.services.claims import LOCK_CLASS

TOKEN = "a-token-of-these-tests-only"
BEARER = {"Authorization": f"Bearer {TOKEN}"}


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    """Let no test be told what another one has read."""
    endpoint._reader.forget()
    yield
    endpoint._reader.forget()


@pytest.fixture
def token(settings: Any) -> None:
    settings.METRICS_TOKEN = TOKEN


def read() -> Scrape:
    """Return what the tables say, as a scrape has it."""
    registry = CollectorRegistry()
    registry.register(endpoint._Families(tables.read()))
    return Scrape(generate_latest(registry).decode())


# --- who may read it -------------------------------------------------------------------


async def test_without_token_and_networks_there_is_nothing(async_client: AsyncClient):
    there = await async_client.get("/metrics", headers=BEARER)
    nowhere = await async_client.get("/nowhere", headers=BEARER)
    assert there.status_code == nowhere.status_code == 404
    assert b"whatsapp_" not in there.content


@pytest.mark.parametrize(
    "header",
    [
        None,
        "",
        "Bearer",
        "Bearer ",
        "Bearer wrong-token-of-these-tests",
        f"Bearer {TOKEN}x",
        f"Bearer {TOKEN[:-1]}",
        f"Basic {TOKEN}",
        TOKEN,
        "Bearer cl\xe9",
    ],
)
async def test_a_wrong_token_gets_nothing(
    async_client: AsyncClient, token: None, header: str | None
):
    headers = {} if header is None else {"Authorization": header}
    response = await async_client.get("/metrics", headers=headers)
    assert response.status_code == 401
    assert response.headers["WWW-Authenticate"] == "Bearer"
    assert response.content == b""


@pytest.mark.parametrize("address", ["10.2.0.1", "2001:db8::1", "", "nonsense"])
async def test_a_foreign_network_gets_nothing_even_with_the_token(
    token: None, settings: Any, address: str
):
    settings.METRICS_NETWORKS = [ip_network("10.1.0.0/16")]
    response = await _from(address, **BEARER)
    assert response.status_code == 403
    assert response.content == b""


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("address", ["10.1.2.3", "::ffff:10.1.2.3", "2001:db8::7"])
async def test_a_network_that_may_read_needs_no_token(settings: Any, address: str):
    networks = ["10.1.0.0/16", "2001:db8::/32"]
    settings.METRICS_NETWORKS = [ip_network(one) for one in networks]
    scrape = parse(await _from(address))
    assert scrape.value("whatsapp_up") == 1


async def test_what_is_set_must_all_hold(token: None, settings: Any):
    settings.METRICS_NETWORKS = [ip_network("127.0.0.0/8")]
    assert (await _from("127.0.0.1")).status_code == 401


async def test_nothing_but_reading(async_client: AsyncClient, token: None):
    assert (await async_client.post("/metrics", headers=BEARER)).status_code == 405


async def _from(address: str, **headers: str) -> HttpResponse:
    """Ask as whoever is connected from this address; "": by no address at all."""
    request = AsyncRequestFactory().get("/metrics", headers=headers)
    request.META["REMOTE_ADDR"] = address
    if not address:
        del request.META["REMOTE_ADDR"]
    return await endpoint.metrics(request)


# --- the answer ------------------------------------------------------------------------


@pytest.mark.django_db(transaction=True)
async def test_prometheus_reads_it_in_both_its_formats(
    async_client: AsyncClient, token: None
):
    with_gateway = sync_to_async(_a_gateway_that_counts)
    done = await with_gateway()
    try:
        text = await async_client.get("/metrics", headers=BEARER)
        assert text.headers["Content-Type"].startswith("text/plain; version=0.0.4")
        assert text.headers["Cache-Control"] == "no-store"
        accept = {"Accept": "application/openmetrics-text; version=1.0.0"}
        strict = await async_client.get("/metrics", headers={**BEARER, **accept})
    finally:
        await sync_to_async(done)()
    parsed = openmetrics.text_string_to_metric_families(strict.content.decode())
    names = {family.name for family in parsed}
    assert names == set(parse(text).families)
    # Nothing of what we say exists is missing, and nothing is said twice.
    ours = {name.removesuffix("_total") for name in metrics.CATALOGUE}
    assert ours <= names
    said = [line for line in text.content.decode().splitlines() if "# TYPE" in line]
    assert len(said) == len(set(said))
    assert not [name for name in names if name.endswith("_created")]


def _a_gateway_that_counts() -> Callable[[], object]:
    living = living_gateway()
    pk = living.__enter__()
    gateways.touch(pk, [ENGINE], GatewayMetrics().snapshot(0))
    return lambda: living.__exit__(None, None, None)


@pytest.mark.django_db(transaction=True)
async def test_ten_who_ask_at_once_cost_one_reading(
    async_rf: AsyncRequestFactory, token: None, monkeypatch: pytest.MonkeyPatch
):
    readings: list[str] = []
    has_begun = asyncio.Event()
    loop = asyncio.get_running_loop()
    go_on = threading.Event()
    original = tables.read

    def slow() -> Any:
        readings.append("one")
        loop.call_soon_threadsafe(has_begun.set)
        assert go_on.wait(60)
        return original()

    async def ask() -> HttpResponse:
        return await endpoint.metrics(async_rf.get("/metrics", headers=BEARER))

    monkeypatch.setattr(tables, "read", slow)
    asking = [asyncio.create_task(ask()) for _ in range(10)]
    await has_begun.wait()
    asking[0].cancel()  # whoever goes away does not take it from the others
    go_on.set()
    answers = await asyncio.gather(*asking[1:])
    assert {parse(answer).value("whatsapp_up") for answer in answers} == {1}
    assert readings == ["one"]


async def test_a_database_that_is_away_is_said(
    async_client: AsyncClient, token: None, monkeypatch: pytest.MonkeyPatch
):
    def away() -> Any:
        raise OperationalError("host=db.internal password=hunter2")

    monkeypatch.setattr(tables, "read", away)
    scrape = parse(await async_client.get("/metrics", headers=BEARER))
    assert scrape.value("whatsapp_up") == 0
    assert scrape.value("whatsapp_sessions") is None
    # What this process knows by itself is told all the same.
    assert scrape.value("process_resident_memory_bytes")
    assert "hunter2" not in scrape.text


async def test_a_database_that_hangs_is_not_waited_for(
    async_client: AsyncClient, token: None, monkeypatch: pytest.MonkeyPatch
):
    go_on = threading.Event()

    def hang() -> Any:
        assert go_on.wait(60)
        raise OperationalError("at last")

    monkeypatch.setattr(tables, "read", hang)
    monkeypatch.setattr(endpoint, "READ_SECONDS", 0.01)
    try:
        scrape = parse(await async_client.get("/metrics", headers=BEARER))
        assert scrape.value("whatsapp_up") == 0
    finally:
        go_on.set()
        reading = endpoint._reader._reading
        assert reading is not None
        await reading


# --- what the tables say ---------------------------------------------------------------


database = pytest.mark.django_db(transaction=True)


@database
def test_sessions_are_counted_by_status():
    with living_gateway():
        connection_lock = _owned(factories.make_salon())
        factories.make_salon()
        scrape = read()
        connection_lock.close()
    assert scrape.value("whatsapp_sessions", status="open") == 1
    assert scrape.value("whatsapp_sessions", status="unlinked") == 1
    # A status that nobody has is 0, not missing: an alert must not wait for its first.
    assert scrape.value("whatsapp_sessions", status="banned") == 0
    assert scrape.value("whatsapp_linked_salons") == 1
    proof = scrape.value("whatsapp_oldest_proof_seconds")
    assert proof is not None
    assert proof < 60


def _owned(salon: Any) -> Any:
    """Link a salon, and hold the lock that says that somebody runs it."""
    factories.link(salon)
    locks = psycopg.connect(conninfo(), autocommit=True)
    locks.execute("SELECT pg_advisory_lock(%s, %s)", [LOCK_CLASS, salon.pk])
    return locks


@database
def test_nobody_is_called_open_whom_no_gateway_runs():
    factories.link(factories.make_salon())
    scrape = read()
    assert scrape.by("whatsapp_sessions", "status") == {"reconnecting": 1}
    assert scrape.value("whatsapp_gateways") == 0
    assert scrape.value("whatsapp_salons_not_open", status="reconnecting") == 1


@database
def test_the_longest_outage_is_told_by_status():
    for minutes in (3, 12):
        salon = factories.make_salon()
        factories.store_creds(salon)
        WhatsAppSession.objects.filter(salon=salon).update(
            status="reconnecting", since=Now() - timedelta(minutes=minutes)
        )
    scrape = read()
    seconds = scrape.value("whatsapp_salons_not_open_max_seconds")
    assert seconds == pytest.approx(720, abs=60)
    assert scrape.value("whatsapp_salons_not_open") == 2


@database
def test_attempts_are_counted_as_they_end_whoever_ends_them():
    factories.link(factories.make_salon())
    overdue, asked, reset = (factories.make_salon() for _ in range(3))
    pairing.request_code(overdue, "79007654321", "page")
    PairingAttempt.objects.filter(salon=overdue).update(deadline=Now())
    pairing.request_qr(asked, "page")
    pairing.request_code(asked, "79007654322", "page")
    pairing.request_qr(reset, "page")
    sessions.reset(reset, "command")
    attempts.expire_overdue()
    scrape = read()

    def ended(**labels: str) -> float | None:
        return scrape.value("whatsapp_attempts_total", **labels)

    assert ended(kind="code", outcome="linked", error="") == 1
    assert ended(kind="code", outcome="failed", error="PAIRING_TIMEOUT") == 1
    assert ended(kind="qr", outcome="superseded") == 1
    assert ended(kind="qr", outcome="cancelled") == 1
    assert ended() == 4
    assert scrape.value("whatsapp_attempts_open", kind="code", stage="requested") == 1
    assert scrape.value("whatsapp_attempts_open") == 1


@database
def test_the_count_of_attempts_does_not_shrink():
    salon = factories.make_salon()
    for _ in range(3):
        pairing.request_qr(salon, "page")
        sessions.reset(salon, "command")
    assert read().value("whatsapp_attempts_total", outcome="cancelled") == 3
    tables.compact()
    tables.compact()
    assert AttemptEnd.objects.get().attempts == 3
    salon.delete()
    assert not PairingAttempt.objects.exists()
    assert read().value("whatsapp_attempts_total", outcome="cancelled") == 3


@database
def test_what_nobody_does_is_told():
    pairing.request_qr(factories.make_salon(), "page")
    PairingAttempt.objects.update(deadline=Now() - timedelta(minutes=1))
    StatusChange.objects.update(at=Now() - timedelta(minutes=10))
    scrape = read()
    assert scrape.value("whatsapp_attempts_overdue") == 1
    assert scrape.value("whatsapp_changes_untold") == StatusChange.objects.count()
    seconds = scrape.value("whatsapp_changes_untold_max_seconds")
    assert seconds == pytest.approx(600, abs=60)


@database
def test_keys_are_told_as_of_the_last_count_and_by_types_that_exist():
    first, second = factories.make_salon(), factories.make_salon()
    with connection.cursor() as cursor:
        cursor.executemany(
            "INSERT INTO whatsapp_keycount (salon_id, day, total, by_type)"
            " VALUES (%s, (now() AT TIME ZONE 'UTC')::date - %s, 9, %s)",
            [
                (first.pk, 1, json.dumps({"pre-key": 1})),
                (first.pk, 0, json.dumps({"pre-key": 812, "session": 3})),
                (second.pk, 0, json.dumps({"pre-key": 10, "typed-by-somebody": 5})),
            ],
        )
    keys = read().by("whatsapp_key_rows", "type")
    assert keys == {"pre-key": 822, "session": 3, "other": 5}


@database
def test_a_gateway_is_told_while_it_lives():
    engine = {**ENGINE, "age": 1.5}
    down = {**engine, "process": 2, "pid": None}
    with living_gateway("gateway-a", engine) as pk:
        gateways.touch(pk, [engine, down])
        scrape = read()
        of_first = {"gateway": "gateway-a", "process": "1"}
        assert scrape.value("whatsapp_gateways") == 1
        assert scrape.value("whatsapp_engine_up", **of_first) == 1
        assert scrape.value("whatsapp_engine_sessions", **of_first) == 3
        memory = scrape.value("whatsapp_engine_resident_memory_bytes", **of_first)
        assert memory == 200 * 2**20
        assert scrape.value("whatsapp_engine_lag_max_seconds", **of_first) == 0.012
        assert scrape.value("whatsapp_engine_answer_age_seconds", **of_first) == 1.5
        # One that is down has no memory, and what it had is not told again.
        of_second = {"gateway": "gateway-a", "process": "2"}
        assert scrape.value("whatsapp_engine_up", **of_second) == 0
        assert (
            scrape.value("whatsapp_engine_resident_memory_bytes", **of_second) is None
        )
    scrape = read()
    assert scrape.value("whatsapp_gateways") == 0
    assert scrape.value("whatsapp_gateways_lost") == 1
    assert "gateway-a" not in scrape.text


@database
def test_a_gateway_of_another_version_is_understood_as_far_as_possible():
    with living_gateway("newer") as pk:
        Gateway.objects.filter(pk=pk).update(
            metrics={
                "whatsapp_disconnects_total": [[["428"], 3.0]],
                "whatsapp_of_the_next_version": [[["x"], 1.0]],
            }
        )
        scrape = read()
    told = scrape.value("whatsapp_disconnects_total", gateway="newer", reason="428")
    assert told == 3
    assert "next_version" not in scrape.text


@database
def test_attempts_that_had_ended_before_the_counter_was_there_are_counted():
    salon = factories.make_salon()
    for _ in range(2):
        pairing.request_qr(salon, "page")
        sessions.reset(salon, "command")
    pairing.request_qr(salon, "page")
    AttemptEnd.objects.all().delete()
    migration = import_module("whatsapp.migrations.0013_metrics")
    with connection.cursor() as cursor:
        cursor.execute(migration.COUNT_NO_ENDS)
        cursor.execute(migration.COUNT_ENDS)
    assert read().value("whatsapp_attempts_total") == 2
    sessions.reset(salon, "command")
    assert read().value("whatsapp_attempts_total", outcome="cancelled") == 3
