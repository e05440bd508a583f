"""A whole service on a simulated WhatsApp, pages that use it, and salons made to order.

The service is ``manage.py serve`` with a database of its own, exactly as a user starts
it; what a test wants to find in the tables is written there with SQL, as the previous
service would have left it.
"""

import asyncio
import contextlib
import itertools
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import jwt
import psycopg
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosedError

from tests.database import SECRETS
from tests.sealed import opened_creds, opened_key
from tests.server import ROOT, START_SECONDS, Server, descendants, wait_until_gone
from tests.simulator import Phone, Simulator
from tests.stored_state import half_paired_creds, stale_keys

Data = dict[str, Any]
Said = tuple[str, Data]

FAST_CLOCKS = {
    # As by default: a shorter one would run out where the machine is slow.
    "WHATSAPP_PAIRING_TIMEOUT": "20",
    "WHATSAPP_LOOK_INTERVAL": "0.2",
    "WHATSAPP_PAIRING_BUDGET": "100/3600",
}
PATIENCE = 90.0
"""Seconds for any single wait; the clocks of an answer are all shorter."""

DATABASE_SECONDS = 60.0
"""For so long the database may be away before a statement fails."""

_numbers = itertools.count(1)


class World:
    """The service, its database and its WhatsApp.

    Args:
        folder: for logs and for everything that the service stores.
        simulator: its WhatsApp.
        clocks: settings on top of the service's own.
        gateways: 0 runs the gateway inside ``serve``; more run as own processes.
    """

    def __init__(
        self,
        folder: Path,
        simulator: Simulator,
        clocks: dict[str, str] = FAST_CLOCKS,
        gateways: int = 0,
    ) -> None:
        self.simulator = simulator
        self.folder = folder
        self._env = {
            **SECRETS,
            **clocks,
            "VAR_DIR": str(folder / "var"),
            "WHATSAPP_WS_URL": simulator.ws_url,
        }
        self.server = self.start(gateway=not gateways)
        self.gateways = [self.start_gateway() for _ in range(gateways)]

    def start(self, *, gateway: bool = True, port: int = 0) -> Server:
        """Start the page server."""
        return Server.start(
            self.folder, self._env, gateway=gateway, database="", port=port
        )

    def start_pages(self, env: dict[str, str]) -> Server:
        """Start another page server on the same database, with other settings."""
        url = (self.folder / "var" / "database.url").read_text().strip()
        return Server.start(
            self.folder, {**self._env, **env}, gateway=False, database=url
        )

    def start_gateway(self) -> Server:
        """Start a gateway process beside the page server."""
        return Server.start(
            self.folder, self._env, command="whatsapp_gateway", database=""
        )

    def change_settings(self, **settings: str) -> None:
        """Let every process that is started from now on have these settings."""
        self._env |= settings

    def manage(self, *words: str) -> str:
        """Run a management command beside the service; return what it prints."""
        url = (self.folder / "var" / "database.url").read_text().strip()
        done = subprocess.run(
            [sys.executable, "manage.py", *words],
            cwd=ROOT,
            env={**os.environ, **self._env, "DATABASE_URL": url},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=START_SECONDS,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def restart(self, number: int = signal.SIGTERM) -> None:
        """End the service with a signal and start it again on the same port."""
        port = int(self.server.url.rsplit(":", 1)[1].rstrip("/"))
        if number == signal.SIGKILL:
            self.server.kill()
        else:
            self.server.stop(number)
        self.server = self.start(port=port)

    def __enter__(self) -> Self:
        """Return the running world."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop every process of it."""
        for process in (*self.gateways, self.server):
            if process.process.poll() is None:
                process.stop()

    @property
    def logs(self) -> str:
        """Everything that any of its processes has written."""
        return "\n".join(
            path.read_text(errors="replace") for path in self.folder.glob("*.log")
        )

    # --- the database -----------------------------------------------------------------

    @contextlib.contextmanager
    def database(self) -> Iterator[psycopg.Connection[Any]]:
        """Give a connection to the service's database."""
        url = (self.folder / "var" / "database.url").read_text().strip()
        with psycopg.connect(url, autocommit=True) as connection:
            yield connection

    def query(self, sql: str, *params: object) -> list[tuple[Any, ...]]:
        """Run one statement; return its rows, if it has any.

        A database that restarts meanwhile is waited for.
        """
        deadline = time.monotonic() + DATABASE_SECONDS
        while True:
            try:
                with self.database() as connection:
                    cursor = connection.execute(sql.encode(), params or None)
                    return cursor.fetchall() if cursor.description else []
            except psycopg.OperationalError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.1)

    def restart_database(self) -> None:
        """Have PostgreSQL restart as it does after one of its processes has crashed."""
        with self.database() as connection:
            (pid,) = connection.execute("SELECT pg_backend_pid()").fetchone() or (0,)
            # Another user's process (or namespace) shows its own number of itself.
            _kill_backend(pid, self.folder / "var")

    # --- Node -------------------------------------------------------------------------

    def kill_node(self) -> None:
        """Kill the engine's Node.js, without touching anything else."""
        for process in (self.server, *self.gateways):
            for pid in descendants(process.pid):
                # Whoever has just ended is not the one.
                with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                    if b"main.js" in Path(f"/proc/{pid}/cmdline").read_bytes():
                        os.kill(pid, signal.SIGKILL)

    # --- gateways ---------------------------------------------------------------------

    def owner(self, salon: "SalonUnderTest") -> Server | None:
        """Return the gateway that runs a salon, if one does."""
        ((name,),) = self.query(
            "SELECT owner FROM whatsapp_whatsappsession WHERE salon_id = %s", salon.pk
        )
        pid = name.split(":")[-2] if name else None
        return next((each for each in self.gateways if str(each.pid) == pid), None)

    def kill_gateway(self, gateway: Server) -> None:
        """Let a gateway die as in a crash, with whatever it was doing.

        The others look for its salons when its Node.js has ended, too. They hardly ever
        come sooner; on a busy machine they might, and then a device has two sockets.
        """
        self.gateways.remove(gateway)
        nodes = descendants(gateway.pid)
        for other in self.gateways:
            os.kill(other.pid, signal.SIGSTOP)
        try:
            gateway.kill()
            for pid in nodes:
                wait_until_gone(pid)
        finally:
            for other in self.gateways:
                os.kill(other.pid, signal.SIGCONT)

    # --- salons -----------------------------------------------------------------------

    def salon(self, *, stopped: bool = False) -> "SalonUnderTest":
        """Make a salon with an id and phones that nobody else has."""
        number = next(_numbers)
        salon_id = 100_000 + number
        ((pk,),) = self.query(
            "INSERT INTO whatsapp_salon"
            " (salon_id, title, expected_phone, shared_phone_allowed)"
            " VALUES (%s, %s, '', false) RETURNING id",
            salon_id,
            f"Salon {salon_id}",
        )
        self.query(
            "INSERT INTO whatsapp_whatsappsession (salon_id, status, reason, phone,"
            " wanted, owner, epoch, resets, revision)"
            " VALUES (%s, %s, '', '', %s, '', 0, 0, 0)",
            pk,
            "stopped" if stopped else "unlinked",
            not stopped,
        )
        return SalonUnderTest(self, pk, salon_id, number)


class SalonUnderTest:
    """A salon, a phone of its own, and another phone for mistakes."""

    def __init__(self, world: World, pk: int, salon_id: int, number: int) -> None:
        self.world = world
        self.pk = pk
        self.salon_id = salon_id
        self.session_id = f"company_{salon_id}"
        self.number = f"7900{number:07d}"
        self.other_number = f"7901{number:07d}"
        self.phone: Phone = world.simulator.phone(self.number)
        self.other_phone: Phone = world.simulator.phone(self.other_number)

    def token(self, **claims: object) -> str:
        """Return a page token as the marketplace issues it."""
        return jwt.encode(
            {
                "company_id": self.pk,
                "salon_id": self.salon_id,
                "type": "marketplace_registration",
                "exp": int(time.time()) + 3600,
                **claims,
            },
            SECRETS["MARKETPLACE_JWT_SECRET"],
            algorithm="HS256",
        )

    def page(self, **claims: object) -> "Page":
        """Return a page of this salon; it opens as a context manager."""
        return Page(self.world.server.ws_url, self.token(**claims))

    def creds(self) -> Data | None:
        """Return the stored creds, decoded."""
        rows = self.world.query(
            "SELECT creds FROM whatsapp_auth WHERE company_id = %s", self.session_id
        )
        return opened_creds(self.session_id, rows[0][0]) if rows else None

    def keys(self) -> dict[tuple[str, str], Any]:
        """Return the stored keys, decoded, by type and id."""
        rows = self.world.query(
            "SELECT key_type, key_id, value FROM whatsapp_keys WHERE company_id = %s",
            self.session_id,
        )
        return {
            (key_type, key_id): opened_key(self.session_id, key_type, key_id, value)
            for key_type, key_id, value in rows
        }

    def key_count(self) -> int:
        """Return how many keys are stored."""
        ((count,),) = self.world.query(
            "SELECT count(*) FROM whatsapp_keys WHERE company_id = %s", self.session_id
        )
        return int(count)

    def store(self, creds: str, keys: str) -> None:
        """Write creds and keys as the previous service left them."""
        with self.world.database() as connection, connection.transaction():
            connection.execute(
                "INSERT INTO whatsapp_auth (company_id, creds) VALUES (%s, %s)",
                (self.session_id, creds),
            )
            connection.execute(
                "INSERT INTO whatsapp_keys"
                " (company_id, key_type, key_id, value, expires_at)"
                " SELECT %s, t, i, v, now() - interval '1 day'"
                " FROM jsonb_to_recordset(%s) AS entry(t text, i text, v jsonb)",
                (self.session_id, keys),
            )

    def store_half_paired(self, number: str) -> None:
        """Write what a pairing code for ``number`` left behind that nobody entered."""
        self.store(json.dumps(half_paired_creds(number)), json.dumps(stale_keys()))


class Page:
    """A salon's page in a browser: it hears everything and remembers it."""

    def __init__(self, ws_url: str, token: str, path: str = "/ws/marketplace/") -> None:
        self.url = ws_url.rstrip("/") + path
        self.token = token
        self.said: list[Said] = []
        self.closed_with: int | None = None
        self._socket: ClientConnection | None = None
        self._reader: asyncio.Task[None] | None = None
        self._news = asyncio.Event()

    async def open(self) -> Self:
        """Connect with the token as a browser can: in the subprotocol."""
        self._socket = await connect(
            self.url,
            subprotocols=["aiadmin.v1", f"bearer.{self.token}"],  # type: ignore[list-item]
            open_timeout=PATIENCE,
        )
        self._reader = asyncio.create_task(self._read(self._socket))
        return self

    async def close(self) -> None:
        """Go away without a word, as a browser does that is put to sleep."""
        if self._reader is not None:
            self._reader.cancel()
            # Not awaited itself: whoever is cancelled here must end, too.
            await asyncio.wait({self._reader})
        if self._socket is not None:
            await self._socket.close()

    async def __aenter__(self) -> Self:
        """Open it."""
        return await self.open()

    async def __aexit__(self, *error: object) -> None:
        """Close it."""
        await self.close()

    async def _read(self, socket: ClientConnection) -> None:
        with contextlib.suppress(ConnectionClosedError):
            async for text in socket:
                message = json.loads(text)
                self.said.append((message["event"], message["data"]))
                self._news.set()
        self.closed_with = socket.close_code
        self._news.set()

    async def send(self, event: str, **data: object) -> None:
        """Send one event."""
        assert self._socket is not None
        await self._socket.send(json.dumps({"event": event, "data": data}))

    async def send_raw(self, text: str | bytes) -> None:
        """Send anything."""
        assert self._socket is not None
        await self._socket.send(text)

    @property
    def mark(self) -> int:
        """Return a place in what was said, to wait for what comes after it."""
        return len(self.said)

    async def wait(
        self, wanted: Callable[[str, Data], bool], since: int = 0, what: str = ""
    ) -> Said:
        """Return the first event since ``since`` that is wanted."""
        deadline = time.monotonic() + PATIENCE
        seen = since
        while True:
            for said in self.said[seen:]:
                if wanted(*said):
                    return said
            seen = len(self.said)
            self._news.clear()
            left = deadline - time.monotonic()
            if left <= 0 or self.closed_with is not None:
                raise AssertionError(
                    f"{what or 'it'} did not come (closed: {self.closed_with}): "
                    f"{self.summary(since)}"
                )
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._news.wait(), left)

    async def event(self, *names: str, since: int = 0) -> Said:
        """Return the first event of one of these names since ``since``."""
        return await self.wait(lambda name, _: name in names, since, "/".join(names))

    async def status(self, *statuses: str, since: int = 0) -> Data:
        """Return the data of the first ``status`` event that is one of ``statuses``."""
        _, data = await self.wait(
            lambda name, data: name == "status" and data["status"] in statuses,
            since,
            "status " + "/".join(statuses),
        )
        return data

    async def closing(self) -> int:
        """Wait until the server has closed the socket; return its close code."""
        deadline = time.monotonic() + PATIENCE
        while self.closed_with is None:
            assert time.monotonic() < deadline, "the socket was not closed"
            self._news.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._news.wait(), 1)
        return self.closed_with

    def summary(self, since: int = 0) -> str:
        """Return what was said, short enough to read in a failure."""
        return " · ".join(
            f"{name} {data.get('status') or data.get('code') or ''}"
            f"{'/' + data['attempt']['stage'] if data.get('attempt') else ''}"
            for name, data in self.said[since:]
        )


def _kill_backend(pid: int, var: Path) -> None:
    """Kill a PostgreSQL backend; ``pid`` is as PostgreSQL knows it."""
    os.kill(pid, signal.SIGKILL)
