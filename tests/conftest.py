"""Fixtures for all tests. DATABASE_URL and the secrets come from tests/database.py."""

import math
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from asgiref.sync import SyncToAsync
from channels.layers import InMemoryChannelLayer
from channels_redis.serializers import registry
from django.db import connections
from django.test import override_settings
from hypothesis import HealthCheck
from hypothesis import settings as hypothesis_settings

from tests.redis_server import MISSING, PROGRAM, RedisServer
from whatsapp import failures
from whatsapp.services import claims, looks

# A shell that runs the tests in the background has them ignored, and children inherit it.
for _number in (signal.SIGINT, signal.SIGHUP):
    if signal.getsignal(_number) is signal.SIG_IGN:
        signal.signal(_number, signal.SIG_DFL)

# How long an example takes says how busy the machine is.
hypothesis_settings.register_profile(
    "untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
hypothesis_settings.load_profile("untimed")

_serializer = registry.get_serializer("msgpack")


@pytest.fixture(autouse=True)
def strict_channel_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the in-memory layer carry only what Redis would carry, as Redis would."""
    send, group_send = InMemoryChannelLayer.send, InMemoryChannelLayer.group_send

    async def strict_send(self: Any, channel: str, message: Any) -> None:
        await send(self, channel, _through_redis(message))

    async def strict_group_send(self: Any, group: str, message: Any) -> None:
        await group_send(self, group, _through_redis(message))

    monkeypatch.setattr(InMemoryChannelLayer, "send", strict_send)
    monkeypatch.setattr(InMemoryChannelLayer, "group_send", strict_group_send)


def _through_redis(message: Any) -> Any:
    return _serializer.deserialize(_serializer.serialize(message))


@pytest.fixture(scope="session")
def django_db_modify_db_settings(
    django_db_modify_db_settings_parallel_suffix: None,
) -> None:
    """Let a busy machine take its time to connect, twenty threads at once included."""
    options = connections["default"].settings_dict["OPTIONS"]
    options["pool"]["timeout"] = options["connect_timeout"] = 60


@pytest.fixture(autouse=True, scope="session")
def quick_passwords() -> Iterator[None]:
    """Spare tests the half second that a password's hash is meant to take."""
    md5 = ["django.contrib.auth.hashers.MD5PasswordHasher"]
    with override_settings(PASSWORD_HASHERS=md5):
        yield


@pytest.fixture(autouse=True)
def long_running_database(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the tests' database, a few seconds old, not look like one that restarted."""
    monkeypatch.setattr(claims, "GRACE_SECONDS", 0.0)


@pytest.fixture(autouse=True)
def gateways_are_taken_for_granted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let salons that a test calls connected stay so, although no gateway runs them.

    Who tests what becomes of them sets it back to 0.
    """
    monkeypatch.setattr(looks, "_next", math.inf)


@pytest.fixture(autouse=True)
def forgotten_failures() -> None:
    """Let no test wait for what failed in another."""
    for counted in failures.ALL:
        counted.clear()


@pytest.fixture(autouse=True)
def _close_thread_connections() -> Iterator[None]:
    """Close what database_sync_to_async opened in its thread.

    Such a connection outlives its test, and the test database cannot be dropped
    while it is open.
    """
    yield
    SyncToAsync.single_thread_executor.submit(connections.close_all).result()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Let ``make matrix`` ask for all cells of tests/test_matrix.py."""
    parser.addoption(
        "--whole-matrix",
        action="store_true",
        help="run every stored state against every fault",
    )


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Print the outcome of every cell of the scenario matrix that was run."""
    tables = [
        table
        for reports in terminalreporter.stats.values()
        for report in reports
        if getattr(report, "when", "") == "call"
        for name, table in report.user_properties
        if name == "matrix"
    ]
    if tables:
        terminalreporter.section("fault: stored state / ask → outcome")
    for fault, cells in sorted(tables):
        terminalreporter.line(f"\n{fault}")
        for cell, outcome in sorted(cells.items()):
            terminalreporter.line(f"  {cell:38} {outcome}")


NOT_TESTED = "NOT TESTED"


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Leave word of what could not be tested; a missing program may be a failure.

    tests/check prints it last, where it is read.
    """
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if reporter is None or hasattr(session.config, "workerinput"):
        return
    reasons = {
        report.longrepr[2].removeprefix("Skipped: ")
        for report in reporter.stats.get("skipped", [])
        if isinstance(report.longrepr, tuple) and NOT_TESTED in report.longrepr[2]
    }
    if path := os.environ.get("NOT_TESTED_FILE"):
        Path(path).write_text("".join(f"{reason}\n" for reason in sorted(reasons)))
    missing = any("not installed" in reason for reason in reasons)
    if missing and os.environ.get("TEST_EVERYTHING"):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


@pytest.fixture(scope="session")
def whole_matrix(request: pytest.FixtureRequest) -> bool:
    """Whether all cells of the scenario matrix are wanted."""
    return bool(request.config.getoption("--whole-matrix"))


@pytest.fixture
def redis_server() -> Iterator[RedisServer]:
    """Return a Redis of this test's own; skip, and say so, where there is none."""
    if not PROGRAM:
        pytest.skip(MISSING)
    with RedisServer() as server:
        yield server
