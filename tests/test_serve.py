"""`manage.py serve` and `whatsapp_gateway` as processes, as operators run them."""

import asyncio
import contextlib
import http.client
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from django.core.management import CommandError, call_command

from tests.redis_server import RedisServer
from tests.server import ROOT, Server, children, wait_until_gone
from tests.test_embedded import postgres_pid
from whatsapp.management.commands import whatsapp_gateway

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]


def get(url: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(url, timeout=60) as response:  # noqa: S310
            return response.status, response.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def manage(var: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "manage.py", *arguments],
        cwd=ROOT,
        env={**os.environ, "DATABASE_URL": "", "VAR_DIR": str(var)},
        capture_output=True,
        text=True,
        timeout=120,
    )


def embedded(folder: Path, var: Path, **options: Any) -> Server:
    return Server.start(folder, {"VAR_DIR": str(var)}, database="", **options)


@pytest.fixture(scope="module")
def first_start(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The folder of a service that ran once and is stopped, and what it printed."""
    folder = tmp_path_factory.mktemp("serve")
    with embedded(folder, folder / "var", gateway=False) as server:
        pass
    return folder / "var", server.logs


@pytest.fixture(scope="module")
def var(first_start: tuple[Path, str]) -> Path:
    return first_start[0]


@pytest.fixture(scope="module")
def running(
    var: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Server, Path]]:
    """A second start, running on a folder of its own, for tests that change nothing."""
    folder = tmp_path_factory.mktemp("running")
    shutil.copytree(var, folder / "var")
    with embedded(folder, folder / "var", gateway=False) as server:
        yield server, folder / "var"


def test_a_newcomer_gets_a_working_service_and_links_to_it(
    running: tuple[Server, Path],
):
    server, _ = running
    assert get(f"{server.url}/healthz") == (200, '{"status": "ok"}')
    status, body = get(f"{server.url}/readyz")
    assert (status, json.loads(body)["database"]) == (200, "ok")
    assert get(f"{server.url}/admin/")[0] == 200
    assert get(f"{server.url}/static/admin/css/base.css")[0] == 200
    assert get(f"{server.url}/no/such/page")[0] == 404
    assert re.search(rf"{server.url}/marketplace/connect#token=eyJ\S+", server.logs)


def test_the_first_user_can_log_in_with_what_was_shown_once(
    first_start: tuple[Path, str], running: tuple[Server, Path]
):
    match = re.search(r"you are admin, with the password (\S+)", first_start[1])
    assert match
    server, var = running
    assert match[1] not in server.logs
    script = (
        "from django.contrib.auth import authenticate as a; "
        f"print(a(username='admin', password={match[1]!r}))"
    )
    answer = manage(var, "shell", "--no-imports", "-c", script)
    assert answer.stdout.strip() == "admin", answer.stderr


def test_commands_use_the_running_services_database(running: tuple[Server, Path]):
    _, var = running
    pid = postgres_pid(var)
    script = "from whatsapp.models import Salon; print(Salon.objects.count())"
    answer = manage(var, "shell", "--no-imports", "-c", script)
    assert answer.stdout.strip() == "1", answer.stderr
    assert postgres_pid(var) == pid


def test_commands_bring_the_database_along_when_nothing_runs(var: Path):
    script = "from whatsapp.models import Salon; print(Salon.objects.count())"
    answer = manage(var, "shell", "--no-imports", "-c", script)
    assert answer.stdout.strip() == "1", answer.stderr
    assert not (var / "postgres" / "postmaster.pid").exists()


def test_a_command_that_needs_no_database_starts_none(tmp_path: Path):
    answer = manage(tmp_path / "var", "check")
    assert answer.returncode == 0, answer.stderr
    assert not (tmp_path / "var" / "postgres").exists()


def test_a_second_service_on_the_same_folder_is_refused(
    running: tuple[Server, Path],
):
    server, var = running
    answer = manage(var, "serve", "--port", "0", "--no-gateway")
    assert answer.returncode == 1
    assert f"serve, process {server.pid}" in answer.stderr
    assert "Traceback" not in answer.stderr
    assert get(f"{server.url}/readyz")[0] == 200


def test_a_port_in_use_is_named_and_nothing_is_left_behind(tmp_path: Path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        answer = manage(tmp_path / "var", "serve", "--port", str(port))
    assert answer.returncode == 1
    assert f"Cannot serve on 127.0.0.1:{port}: Address already in use" in answer.stderr
    assert "Traceback" not in answer.stderr
    assert not (tmp_path / "var" / "postgres").exists()


def test_a_host_that_is_not_ours_is_named():
    with pytest.raises(CommandError, match="Cannot serve on"):
        call_command("serve", host="192.0.2.1", port=0)
    with pytest.raises(CommandError, match="Cannot serve on"):
        call_command("serve", host="no such host", port=0)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_it_stops_when_told_and_leaves_no_process(
    var: Path, tmp_path: Path, number: signal.Signals
):
    server = embedded(tmp_path, var)
    family = [postgres_pid(var), *children(server.pid)]
    assert server.stop(number) == 0, server.logs
    for pid in family:
        wait_until_gone(pid)
    assert "Traceback" not in server.logs


def test_a_kill_leaves_no_process_either(var: Path, tmp_path: Path):
    server = embedded(tmp_path, var)
    deadline = time.monotonic() + 120
    while len(children(server.pid)) < 2:  # PostgreSQL and Node.js
        assert time.monotonic() < deadline, server.logs
        time.sleep(0.05)
    family = [postgres_pid(var), *children(server.pid)]
    server.kill()
    for pid in family:
        wait_until_gone(pid)


@pytest.mark.django_db(transaction=True)
def test_a_given_database_is_used_and_stays_as_it_is(tmp_path: Path):
    with Server.start(tmp_path, gateway=False) as server:
        assert get(f"{server.url}/readyz")[0] == 200
        assert "Admin:" not in server.logs


def test_pending_migrations_of_a_given_database_stop_the_start(
    running: tuple[Server, Path], tmp_path: Path
):
    _, var = running
    fresh = (
        (var / "database.url").read_text().strip().replace("/postgres", "/template1")
    )
    with pytest.raises(AssertionError, match=r"lacks \d+ migrations"):
        Server.start(tmp_path, database=fresh, gateway=False)


@pytest.mark.django_db(transaction=True)
def test_a_lost_redis_is_named_and_found_again(
    tmp_path: Path, redis_server: RedisServer
):
    with Server.start(
        tmp_path, {"REDIS_URL": redis_server.url}, gateway=False
    ) as server:
        assert get(f"{server.url}/readyz")[0] == 200
        redis_server.stop()
        status, body = get(f"{server.url}/readyz")
        assert (status, json.loads(body)["database"]) == (200, "ok")
        assert json.loads(body)["status"] == "degraded"
        assert json.loads(body)["channel_layer"] in ("failed", "no answer")
        assert get(f"{server.url}/healthz")[0] == 200
        redis_server.start()
        deadline = time.monotonic() + 120
        while json.loads(get(f"{server.url}/readyz")[1])["status"] != "ok":
            assert time.monotonic() < deadline, server.logs


@pytest.mark.django_db(transaction=True)
async def test_an_unknown_socket_is_refused_without_an_error(tmp_path: Path):
    import websockets

    with await asyncio.to_thread(Server.start, tmp_path, gateway=False) as server:
        async with websockets.connect(
            f"{server.ws_url}/ws/nowhere/", open_timeout=60
        ) as socket:
            await socket.wait_closed()
            assert socket.close_code == 4404
        assert "Traceback" not in server.logs


@pytest.mark.django_db(transaction=True)
def test_a_browser_is_let_in_by_the_names_that_we_have(tmp_path: Path):
    with Server.start(tmp_path, gateway=False) as server:
        connection = http.client.HTTPConnection(server.url.removeprefix("http://"))
        connection.request("GET", "/healthz", headers={"Host": "evil.example"})
        assert connection.getresponse().status == 400
        connection.close()


@contextlib.contextmanager
def half_a_request(server: Server) -> Iterator[socket.socket]:
    """Send a request up to its last byte, so that it lasts as long as a test likes."""
    host, port = server.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=120) as connection:
        connection.sendall(
            b"POST /api/v1/sessions HTTP/1.1\r\nHost: 127.0.0.1\r\n"
            b"Content-Length: 2\r\n\r\n{"
        )
        # Answered in order: a later connection's answer says that ours was read.
        assert get(f"{server.url}/healthz")[0] == 200
        yield connection


def wait_until_refused(server: Server) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        try:
            get(f"{server.url}/healthz")
        except OSError:
            return
    raise AssertionError("It still takes connections.")


@pytest.mark.django_db(transaction=True)
def test_told_to_stop_it_answers_who_has_asked_and_takes_nobody_new(tmp_path: Path):
    with Server.start(tmp_path, gateway=False) as server:
        with half_a_request(server) as connection:
            server.process.terminate()
            wait_until_refused(server)
            connection.sendall(b"}")
            assert connection.recv(1000).startswith(b"HTTP/1.1 405 ")
        assert server.process.wait(120) == 0, server.logs
    assert "Traceback" not in server.logs


@pytest.mark.django_db(transaction=True)
def test_told_twice_it_waits_for_nobody(tmp_path: Path):
    with Server.start(tmp_path, gateway=False) as server:
        with half_a_request(server) as connection:
            server.process.terminate()
            wait_until_refused(server)
            server.process.terminate()
            assert connection.recv(1000) == b""
        assert server.process.wait(120) == 0, server.logs
    assert "Traceback" not in server.logs


@pytest.mark.django_db(transaction=True)
def test_the_gateway_alone_stops_when_told(tmp_path: Path):
    server = Server.start(tmp_path, command="whatsapp_gateway")
    assert "Without REDIS_URL" in server.logs
    assert server.stop() == 0, server.logs


def test_the_gateway_alone_needs_a_database(tmp_path: Path):
    answer = manage(tmp_path / "var", "whatsapp_gateway")
    assert answer.returncode == 1
    assert "There is no database to work on" in answer.stderr


@pytest.mark.parametrize("failure", [RuntimeError("broken"), None])
async def test_a_gateway_that_ends_by_itself_is_a_failure(
    monkeypatch: pytest.MonkeyPatch, failure: Exception | None
):
    async def end(_stop: asyncio.Event) -> None:
        if failure:
            raise failure

    monkeypatch.setattr(whatsapp_gateway, "run_gateway", end)
    with pytest.raises(
        RuntimeError, match="broken" if failure else "without being told"
    ):
        await whatsapp_gateway.run_until(asyncio.Event())


def test_a_failed_gateway_ends_the_service(var: Path):
    script = """
import os, django
django.setup()
from django.core.management import call_command
from whatsapp.management.commands import whatsapp_gateway

async def fail(stop):
    raise RuntimeError("broken by 79001234567")

whatsapp_gateway.run_gateway = fail
call_command("serve", port=0)
"""
    answer = subprocess.run(
        [sys.executable, "-c", script],
        cwd=ROOT,
        env={**os.environ, "DATABASE_URL": "", "VAR_DIR": str(var)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert answer.returncode == 1
    assert "The gateway failed" in answer.stderr
    assert "broken by ***4567" in answer.stderr
    assert not (var / "postgres" / "postmaster.pid").exists()


async def test_a_hand_over_that_hangs_is_cut_off(monkeypatch: pytest.MonkeyPatch):
    async def hang(_stop: asyncio.Event) -> None:
        await asyncio.sleep(60)

    monkeypatch.setattr(whatsapp_gateway, "run_gateway", hang)
    monkeypatch.setattr(whatsapp_gateway, "STOP_SECONDS", 0.1)
    stop = asyncio.Event()
    stop.set()
    with pytest.raises(TimeoutError):
        await whatsapp_gateway.run_until(stop)
