"""The service as it is run on several machines: every process of it, startable and stoppable.

Every process ends with the one that started it, however that ends.
"""

import asyncio
import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import psycopg

from aiadmin import embedded
from aiadmin.embedded.postgres import PostmasterStatus
from aiadmin.embedded.runner import LAUNCHER, Runner
from tests.chaos.gateway import RECORD
from tests.chaos.proxy import Proxy
from tests.chaos.writes import Journal
from tests.database import SECRETS
from tests.redis_server import RedisServer, free_port
from tests.scenarios import World
from tests.server import (
    ROOT,
    START_SECONDS,
    Server,
    children,
    descendants,
    wait_until_gone,
)
from tests.simulator import Simulator

STOP_SECONDS = 20.0
NOWHERE = "ws://127.0.0.1:9"
"""For processes that have no business with WhatsApp."""

FAKETIME = next(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"), None)
"""Debian's libfaketime, if it is installed."""


def spawn(
    command: list[str], env: Mapping[str, str], log: Path
) -> subprocess.Popen[bytes]:
    """Start a process that the kernel kills when we end; from the main thread only."""
    launcher = [sys.executable, "-I", "-S", "-c", LAUNCHER]
    about_us = [str(os.getpid()), str(int(signal.SIGKILL)), "0", "0"]
    with log.open("ab") as output:
        return subprocess.Popen(
            [*launcher, *about_us, *command],
            cwd=ROOT,
            env={**os.environ, **env},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def tell(pids: Iterable[int], number: int) -> None:
    """Send a signal to those that are still there."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


class Postgres:
    """A PostgreSQL of our own, as durable as in production."""

    def __init__(self, folder: Path) -> None:
        """Make the cluster; nothing runs yet."""
        folder.mkdir(mode=0o700)
        self._embedded = embedded.EmbeddedDatabase(folder)
        self._runner = Runner.choose(folder / "postgres")
        password = embedded.secret(folder, "database_password")
        self._embedded._make_cluster(self._runner, password)
        self._address = embedded.Address(free_port(), password)
        self._log = folder / "postgres.log"
        self._process: subprocess.Popen[bytes] | None = None
        self._moved = (
            None
            if self._runner.data.is_relative_to(folder)
            else self._runner.data.parent
        )

    @property
    def url(self) -> str:
        """Its address; the same after every start."""
        return self._address.url

    async def start(self) -> None:
        """Start it and wait until it answers."""
        options = self._embedded._options(self._runner.data, self._address.port)
        with self._log.open("ab") as log:
            self._process = self._runner.spawn("postgres", options, log)
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            status = PostmasterStatus.read(self._runner.data)
            if status and status.pid == self._process.pid and status.ready:
                return
            if self._process.poll() is not None:
                break
            await asyncio.sleep(0.02)
        raise RuntimeError(
            f"PostgreSQL does not start: {self._log.read_text()[-2000:]}"
        )

    async def stop(self) -> None:
        """Shut it down: clients are cut off, everything is written."""
        if self._process is not None:
            self._process.send_signal(signal.SIGINT)
            await asyncio.to_thread(self._process.wait, STOP_SECONDS)

    async def crash(self) -> None:
        """Kill all its processes at once."""
        pids = self._pids()
        tell(pids, signal.SIGKILL)
        if self._process is not None:
            await asyncio.to_thread(self._process.wait, STOP_SECONDS)
        for pid in pids:
            await asyncio.to_thread(wait_until_gone, pid)

    def pause(self) -> None:
        """Stop all its processes; the one that makes new ones first."""
        tell(self._pids(), signal.SIGSTOP)

    def resume(self) -> None:
        """Let them go on."""
        tell(self._pids(), signal.SIGCONT)

    def _pids(self) -> list[int]:
        if self._process is None or self._process.poll() is not None:
            return []
        # Asked for anew after the first has stopped, which makes no more of them.
        return [self._process.pid, *descendants(self._process.pid)]

    def remove(self) -> None:
        """End it in whatever state it is."""
        pids = self._pids()
        tell(pids, signal.SIGCONT)
        tell(pids[:1], signal.SIGQUIT)
        if self._process is not None:
            try:
                self._process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                tell(pids, signal.SIGKILL)
                self._process.wait()
        if self._moved is not None:
            shutil.rmtree(self._moved, ignore_errors=True)


class Gateway(Server):
    """A gateway, its network, and its record of what it was asked to store."""

    def __init__(
        self, process: subprocess.Popen[bytes], log: Path, proxy: Proxy
    ) -> None:
        """Keep what belongs to it."""
        super().__init__(process, log, "")
        self.proxy = proxy
        self.record = Journal(log.with_suffix(".record"))

    @property
    def name(self) -> str:
        """How the log and the report call it."""
        return self.log.stem

    @property
    def alive(self) -> bool:
        """Whether it has not ended."""
        return self.process.poll() is None

    def nodes(self) -> list[int]:
        """Return its Node.js processes."""
        found = []
        for pid in children(self.pid):
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                if b"main.js" in Path(f"/proc/{pid}/cmdline").read_bytes():
                    found.append(pid)
        return found

    def everything(self) -> list[int]:
        """Return it and all that it has started."""
        return [self.pid, *descendants(self.pid)]


class Cluster(World):
    """A database, a Redis, a WhatsApp, page servers and gateways.

    A context manager: leaving it ends every process.
    """

    def __init__(self, folder: Path, simulator: Simulator) -> None:
        """Prepare everything; :meth:`start_all` starts it."""
        self.simulator = simulator
        self.folder = folder
        self.logs_folder = folder / "logs"
        self.logs_folder.mkdir()
        self.postgres = Postgres(folder / "database")
        self.redis: RedisServer
        self.members: list[Gateway] = []
        self.ended: list[Gateway] = []
        self.pages: list[Server] = []
        self._exit = contextlib.ExitStack()
        self._exit.callback(self._end_everything)
        self._number = 0

    # --- life -------------------------------------------------------------------------

    async def start_all(self, gateways: int, pages: int) -> None:
        """Start it all, on empty tables."""
        await self.postgres.start()
        self.redis = self._exit.enter_context(RedisServer())
        migrating = spawn(
            [sys.executable, "manage.py", "migrate", "--verbosity", "0"],
            self._environment(NOWHERE),
            self.logs_folder / "migrate.log",
        )
        if await asyncio.to_thread(migrating.wait):
            raise RuntimeError(_end_of(self.logs_folder / "migrate.log"))
        await asyncio.gather(
            *(self._start_pages(f"pages-{number + 1}") for number in range(pages)),
            *(self.add_gateway() for _ in range(gateways)),
        )
        self.server = self.pages[0]

    def __exit__(self, *error: object) -> None:
        """End every process."""
        self._exit.close()

    def _end_everything(self) -> None:
        for member in self.members:
            tell(member.everything(), signal.SIGKILL)
            member.process.wait()
        self.postgres.remove()

    def _environment(self, whatsapp: str) -> dict[str, str]:
        return {
            **SECRETS,
            "ENV_FILE": os.devnull,
            "SENTRY_DSN": "",
            "DJANGO_ALLOWED_HOSTS": "127.0.0.1,localhost",
            "DATABASE_URL": self.postgres.url,
            "REDIS_URL": self.redis.url,
            "VAR_DIR": str(self.folder / "var"),
            "WHATSAPP_WS_URL": whatsapp,
            "WHATSAPP_PAIRING_BUDGET": "100/3600",
        }

    async def _start_pages(self, name: str) -> None:
        log = self.logs_folder / f"{name}.log"
        process = spawn(
            [sys.executable, "manage.py", "serve", "--no-gateway", "--port", "0"],
            self._environment(NOWHERE),
            log,
        )
        self._exit.callback(process.kill)
        listening = await said(process, log, "Listening on")
        self.pages.append(Server(process, log, listening))

    async def add_gateway(self, *, clock: int = 0) -> Gateway:
        """Start one more gateway, with a network of its own.

        Args:
            clock: how many seconds its clock, and that of its Node.js, is fast.
        """
        self._number += 1
        name = f"gateway-{self._number}"
        port = int(self.simulator.ws_url.split(":")[2].split("/")[0])
        proxy = Proxy(port)
        await proxy.start()
        log = self.logs_folder / f"{name}.log"
        env = self._environment(
            self.simulator.ws_url.replace(f":{port}/", f":{proxy.port}/")
        )
        env[RECORD] = str(log.with_suffix(".record"))
        if clock:
            env |= self._wrong_clock(clock)
        process = spawn([sys.executable, "-m", "tests.chaos.gateway"], env, log)
        gateway = Gateway(process, log, proxy)
        self.members.append(gateway)
        await said(process, log, "Gateway running")
        ready = False
        while gateway.alive and not ready:
            await asyncio.sleep(0.1)
            ready = await asyncio.to_thread(self._is_ready, gateway)
        return gateway

    def _is_ready(self, gateway: Gateway) -> bool:
        """Say whether it has the connection that holds its locks, which it makes last."""
        return bool(
            self.query(
                "SELECT 1 FROM pg_stat_activity"
                " WHERE strpos(application_name, %s) > 0 AND strpos(application_name, %s) = 1",
                f":{gateway.pid}:",
                "gateway ",
            )
        )

    def _wrong_clock(self, seconds: int) -> dict[str, str]:
        """Return the environment of a process whose wall clock is wrong."""
        shim = {
            "LD_PRELOAD": str(FAKETIME),
            "FAKETIME": f"{seconds:+d}s",
            # Only the time of day is wrong: that is what a bad NTP server does.
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        }
        # Node.js is not given our environment, so its shim comes with its program.
        node = self.folder / f"node{seconds:+d}"
        settings = " ".join(f"{name}={value}" for name, value in shim.items())
        node.write_text(
            f'#!/bin/sh\nexec env {settings} {embedded.node_binary()} "$@"\n'
        )
        node.chmod(0o700)
        return {**shim, "NODE_BINARY": str(node)}

    async def stop_gateway(self, gateway: Gateway, number: int = signal.SIGTERM) -> int:
        """End a gateway with a signal; return its exit code when it is gone."""
        gateway.process.send_signal(number)
        code = await asyncio.to_thread(gateway.process.wait, STOP_SECONDS)
        self.members.remove(gateway)
        self.ended.append(gateway)
        await gateway.proxy.stop()
        return code

    # --- what can be seen -------------------------------------------------------------

    @contextlib.contextmanager
    def database(self) -> Iterator[psycopg.Connection[Any]]:
        """Give a connection to the database."""
        with psycopg.connect(self.postgres.url, autocommit=True) as connection:
            yield connection

    def owner_of(self, name: str) -> Gateway | None:
        """Return the gateway that calls itself so in the rows of its salons."""
        pid = name.split(":")[-2] if name else ""
        return next((one for one in self.members if str(one.pid) == pid), None)

    @property
    def log_files(self) -> list[Path]:
        """Everything that any process writes."""
        return sorted(self.logs_folder.glob("*.log"))


async def said(process: subprocess.Popen[bytes], log: Path, wanted: str) -> str:
    """Wait until a process says that it is up; return the line."""
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        ended = process.poll() is not None
        if line := _line(log, wanted):
            return line
        if ended:
            break
        await asyncio.sleep(0.02)
    raise RuntimeError(f"{log.stem} did not start:\n{_end_of(log)}")


def _line(log: Path, beginning: str) -> str:
    for line in log.read_text(errors="replace").splitlines(keepends=True):
        if line.startswith(beginning) and line.endswith("\n"):
            return line
    return ""


def _end_of(log: Path) -> str:
    return log.read_text(errors="replace")[-4000:]
