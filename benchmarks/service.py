"""Our side: the service as a user starts it, on a PostgreSQL whose memory is not its own."""

import asyncio
import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jwt
import psycopg

from aiadmin.embedded import EmbeddedDatabase
from benchmarks import processes
from tests.database import SECRETS
from tests.scenarios import Page, SalonUnderTest, World
from tests.server import ROOT, Server
from tests.simulator import Simulator

LOOK_SECONDS = 0.1
PATIENCE_SECONDS = 180.0
"""So long nothing may move, until it counts as stuck."""
TOKEN_SECONDS = 86_400
NOWHERE = "ws://127.0.0.1:9"


class Stuck(Exception):
    """The service does not get where it should."""


class Service(World):
    """A service with a durable database, for one measurement. Start it from the main thread.

    Args:
        folder: empty; for everything that it stores.
        simulator: its WhatsApp; None for pages only.
        settings: on top of its defaults.
    """

    def __init__(
        self,
        folder: Path,
        simulator: Simulator | None,
        settings: dict[str, str] | None = None,
    ) -> None:
        """Start the database, with all tables; the service itself waits for `begin`."""
        folder.mkdir()
        self.folder = folder
        self.gateways = []
        if simulator:
            self.simulator = simulator
        self._has_gateway = simulator is not None
        self._embedded = EmbeddedDatabase(folder)
        self.database_url = self._embedded.connect().url
        self.env = {
            **SECRETS,
            "ENV_FILE": os.devnull,
            "SENTRY_DSN": "",
            "REDIS_URL": "",
            "DJANGO_ALLOWED_HOSTS": "127.0.0.1,localhost",
            "DATABASE_URL": self.database_url,
            "VAR_DIR": str(folder / "var"),
            "WHATSAPP_WS_URL": simulator.ws_url if simulator else NOWHERE,
            **(settings or {}),
        }
        self._running: Server | None = None
        try:
            self._make_tables()
        except BaseException:
            self._embedded.stop()
            raise

    def _make_tables(self) -> None:
        subprocess.run(
            [sys.executable, "manage.py", "migrate", "--verbosity", "0"],
            cwd=ROOT,
            env={**os.environ, **self.env},
            check=True,
        )

    def begin(self) -> None:
        """Start the service and wait until it answers."""
        self.server = self._running = Server.start(
            self.folder, self.env, gateway=self._has_gateway, database=self.database_url
        )

    def __exit__(self, *error: Any) -> None:
        """End the service, then its database."""
        if self._running and self._running.process.poll() is None:
            self._running.stop()
        self._embedded.stop()

    @contextlib.contextmanager
    def database(self) -> Iterator[psycopg.Connection[Any]]:
        """Give a connection to the database."""
        with psycopg.connect(self.database_url, autocommit=True) as connection:
            yield connection

    # --- what it takes ----------------------------------------------------------------

    @property
    def processes(self) -> list[int]:
        """Its Python and its Node.js."""
        return processes.tree(self.server.pid)

    @property
    def nodes(self) -> list[int]:
        """Its Node.js."""
        return [pid for pid in self.processes if processes.runs(pid, "node")]

    @staticmethod
    def database_processes() -> list[int]:
        """Return the processes of PostgreSQL, which are our children."""
        ours = processes.tree(os.getpid())
        return [pid for pid in ours if processes.runs(pid, "postgres")]

    # --- salons -----------------------------------------------------------------------

    async def until_idle(self, salons: Sequence[SalonUnderTest]) -> None:
        """Wait until no gateway has anything to do with these salons.

        Raises:
            Stuck: one does not let go.
        """
        pks = [salon.pk for salon in salons]
        deadline = time.monotonic() + PATIENCE_SECONDS
        while self.query(
            "SELECT FROM whatsapp_whatsappsession"
            " WHERE salon_id = ANY(%s) AND owner <> '' LIMIT 1",
            pks,
        ):
            if time.monotonic() > deadline:
                raise Stuck("A gateway does not let go of a stopped salon.")
            await asyncio.sleep(LOOK_SECONDS)

    async def until_ready(self, count: int) -> None:
        """Wait until so many codes are made ahead, or as many as there may be.

        Raises:
            Stuck: they do not get more.
        """
        wanted = min(count, int(self.env["WHATSAPP_READY_CODES"]))
        best, moved = -1, time.monotonic()
        ((asked,),) = self.query("SELECT now()")
        while best < wanted:
            # Only what a gateway has said since then is true of now.
            ((ready,),) = self.query(
                "SELECT coalesce(sum((engine->>'codes_ready')::int), 0)"
                " FROM whatsapp_gateway, jsonb_array_elements(engines) AS engine"
                " WHERE seen_at > %s + interval '2 s'",
                asked,
            )
            if ready > best:
                best, moved = ready, time.monotonic()
            if time.monotonic() - moved > PATIENCE_SECONDS:
                raise Stuck(f"{ready} of {wanted} codes are ready.")
            await asyncio.sleep(LOOK_SECONDS)

    async def until_open(self, count: int) -> None:
        """Wait until so many salons are open.

        Raises:
            Stuck: they do not get more.
        """
        best, moved = -1, time.monotonic()
        with self.database() as connection:
            while True:
                ((opened,),) = connection.execute(
                    "SELECT count(*) FROM whatsapp_whatsappsession WHERE status = 'open'"
                ).fetchall()
                if opened >= count:
                    return
                if opened > best:
                    best, moved = opened, time.monotonic()
                if time.monotonic() - moved > PATIENCE_SECONDS:
                    raise Stuck(f"{opened} of {count} are open:\n{self.logs[-2000:]}")
                await asyncio.sleep(LOOK_SECONDS)


def token(pk: int, salon_id: int) -> str:
    """Return a page token as the marketplace issues it."""
    claims = {
        "company_id": pk,
        "salon_id": salon_id,
        "type": "marketplace_registration",
        "exp": int(time.time()) + TOKEN_SECONDS,
    }
    return jwt.encode(claims, SECRETS["MARKETPLACE_JWT_SECRET"], algorithm="HS256")


async def reset(page: Page) -> None:
    """Forget the salon's link and its attempts."""
    mark = page.mark
    await page.send("reset-whatsapp-credentials")
    await page.event("credentials-reset", since=mark)


async def code(page: Page, salon: SalonUnderTest) -> tuple[str, float]:
    """Ask for a code as the page does; return it and the milliseconds that it took.

    Raises:
        Stuck: it was refused.
    """
    mark = page.mark
    began = time.perf_counter()
    await page.send("request-pairing-code", phoneNumber=f"+{salon.number}")
    name, data = await page.event("pairing-code", "pairing-code-error", since=mark)
    took = (time.perf_counter() - began) * 1000
    if name != "pairing-code":
        raise Stuck(f"No code: {data['code']}")
    return data["code"], took
