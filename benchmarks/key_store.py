"""The gets and sets that Baileys really makes, replayed on several stores.

They are recorded while bare Baileys links a phone, logs in again and gets a burst of
messages from several contacts. Ours is the gateway's store, with its fence against late
owners. The references: psycopg doing the same rows in the same table with nothing around
it, and the published PostgreSQL store for Baileys (in Node.js, serialisation included). All
on one PostgreSQL (fsync on), each with the same number of connections, in turn.
"""

import argparse
import asyncio
import contextlib
import itertools
import json
import os
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

from psycopg_pool import AsyncConnectionPool

from aiadmin import embedded
from benchmarks import linked
from benchmarks.bare import LINE_LIMIT, Bare
from benchmarks.command import Benchmark, Option, progress
from benchmarks.linked import MODEL_PHONE, Model
from benchmarks.report import BAILEYS, Report, Target
from benchmarks.service import Service
from tests.database import SECRETS
from tests.simulator import Simulator, find_node

SCRIPT = Path(__file__).with_name("published_store.js")
PUBLISHED = ("postgres-baileys@1.5.0", "uuid@10.0.0")
OF_PSYCOPG = Target(0.7, least=True)
CONTACTS = 3

_salon_ids = itertools.count(600_000)

Entry: TypeAlias = dict[str, Any]


@dataclass(frozen=True)
class Call:
    """One call of a key store, ready to be made."""

    key_type: str = ""
    ids: Sequence[str] = ()
    creds: str | None = None
    keys: str | None = None

    @classmethod
    def of(cls, entry: Entry) -> "Call":
        """Return the call that was recorded so."""
        if "get" in entry:
            return cls(key_type=entry["get"]["type"], ids=entry["get"]["ids"])
        if "set" in entry:
            return cls(keys=json.dumps(entry["set"]))
        return cls(creds=json.dumps(entry["creds"]))


@dataclass
class Timed:
    """How long the calls took, and all of them together."""

    seconds: float = 0.0
    ms: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))

    @property
    def per_second(self) -> float:
        """Calls in a second."""
        return sum(map(len, self.ms.values())) / self.seconds

    def add(self, other: "Timed") -> None:
        """Count another run, too."""
        self.seconds += other.seconds
        for kind, times in other.ms.items():
            self.ms[kind] += times


Replay: TypeAlias = Callable[[Sequence[int]], Awaitable[Timed]]
Store: TypeAlias = Callable[[int, int, Call], Awaitable[None]]
"""Makes the n-th call of a salon."""


async def measure(options: argparse.Namespace, folder: Path) -> Report:
    """Record, then replay at each size."""
    report = BENCHMARK.report(options, "Key store")
    record = folder / "record.jsonl"
    with Simulator.start() as simulator:
        await _record(simulator, record, folder, options.messages)
    entries = linked.entries_of(record)
    kinds = ", ".join(
        f"{sum(kind in entry for entry in entries)} {kind}"
        for kind in ("get", "set", "creds")
    )
    report.notes.append(f"Recorded: {kinds}")
    with Service(folder / "ours", None) as service:
        _prepare_django(service.database_url)
        async with contextlib.AsyncExitStack() as stack:
            replays = {
                "ours": await stack.enter_async_context(
                    _our_store(service, entries, options.connections)
                ),
                "psycopg": await stack.enter_async_context(
                    _psycopg(service, entries, options.connections)
                ),
            }
            if options.published:
                replays["published"] = await stack.enter_async_context(
                    _published(service, record, folder, options.connections)
                )
            await _compare(report, service, replays, options)
    return report


async def _compare(
    report: Report,
    service: Service,
    replays: dict[str, Replay],
    options: argparse.Namespace,
) -> None:
    ours_seconds = []
    stored = set()
    for size in options.salons:
        timed = {name: Timed() for name in replays}
        for turn in range(options.repeats):
            for name, replay in replays.items():
                salons = [next(_salon_ids) for _ in range(size)]
                await asyncio.to_thread(_make_salons, service, salons)
                timed[name].add(await replay(salons))
                if name != "published":
                    stored |= _rows_of_each(service, salons)
            progress(f"{size} salons: {turn + 1} of {options.repeats}")
        ours = timed.pop("ours")
        ours_seconds.append(ours.seconds / options.repeats)
        for name, reference in timed.items():
            target = OF_PSYCOPG if name == "psycopg" else None
            what = f"{size} salons at once, calls against {name}"
            report.add(what, "1/s", ours.per_second, reference.per_second, target)
            for kind in ("get", "set"):
                what = f"{size} salons at once, a {kind} against {name}"
                report.add_percentiles(what, ours.ms[kind], reference.ms[kind])
    report.grows("all calls of so many salons", "s", options.salons, ours_seconds)
    report.checks["both stores end with the same number of rows"] = len(stored) == 1


# --- what is replayed -----------------------------------------------------------------


async def _record(
    simulator: Simulator, record: Path, folder: Path, messages: int
) -> None:
    """Link, log in again, and read so many messages of each contact."""
    async with Bare(simulator.ws_url) as bare:
        model = await Model.link(simulator, bare, folder / "model", pre_keys=1000)
        await asyncio.to_thread((folder / "model" / "trace.jsonl").rename, record)
        files = [(MODEL_PHONE, folder / "model" / "auth")]
        await bare.resume(files, 1, record)
        for contact in range(CONTACTS):
            jids = [model.device.jid] * messages
            number = f"7955100000{contact}"
            await asyncio.to_thread(simulator.traffic, jids, contact=number)
        await bare.close()


def _make_salons(service: Service, salon_ids: Sequence[int]) -> None:
    with service.database() as connection:
        connection.cursor().executemany(
            "WITH salon AS (INSERT INTO whatsapp_salon"
            " (salon_id, title, expected_phone, shared_phone_allowed)"
            " VALUES (%s, '', '', false) RETURNING id), auth AS ("
            " INSERT INTO whatsapp_auth (company_id, creds) VALUES (%s, '{}'))"
            " INSERT INTO whatsapp_whatsappsession (salon_id, status, reason, phone,"
            " wanted, owner, epoch, resets, revision)"
            " SELECT id, 'unlinked', '', '', false, '', 1, 0, 0 FROM salon",
            [(salon_id, f"company_{salon_id}") for salon_id in salon_ids],
        )


def _rows_of_each(service: Service, salon_ids: Sequence[int]) -> set[int]:
    """Return how many keys the salons have; one number, if all have the same."""
    rows = service.query(
        "SELECT count(*) FROM whatsapp_keys WHERE company_id = ANY(%s)"
        " GROUP BY company_id",
        [f"company_{salon_id}" for salon_id in salon_ids],
    )
    return {count for (count,) in rows}


async def _replay(
    store: Store, calls: Sequence[Call], salons: Sequence[int], timed: Timed
) -> None:
    """Make all calls for each salon in their order, for all salons at once."""

    async def of(salon: int) -> None:
        for number, call in enumerate(calls, 1):
            began = time.perf_counter()
            await store(salon, number, call)
            took = (time.perf_counter() - began) * 1000
            timed.ms["get" if call.key_type else "set"].append(took)

    began = time.perf_counter()
    await asyncio.gather(*map(of, salons))
    timed.seconds = time.perf_counter() - began


# --- the stores -----------------------------------------------------------------------


def _prepare_django(url: str) -> None:
    """Make the gateway's store importable; it is read from the environment only here."""
    os.environ |= {
        **SECRETS,
        "ENV_FILE": os.devnull,
        "SENTRY_DSN": "",
        "DATABASE_URL": url,
        "DJANGO_SETTINGS_MODULE": "aiadmin.settings",
        "WHATSAPP_WS_URL": "ws://127.0.0.1:9",
    }
    import django

    django.setup()


@contextlib.asynccontextmanager
async def _our_store(
    service: Service, entries: Sequence[Entry], connections: int
) -> AsyncIterator[Replay]:
    from whatsapp.engine import SessionRef
    from whatsapp.gateway.auth_store import DatabaseAuthStore

    store = DatabaseAuthStore(service.database_url, size=connections)
    calls = [Call.of(entry) for entry in entries]

    async def make(salon: int, number: int, call: Call) -> None:
        ref = SessionRef(f"company_{salon}", generation=1, epoch=1)
        if call.key_type:
            await store.get_keys(ref, call.key_type, list(call.ids))
        else:
            await store.save(ref, call.creds, call.keys, number)

    async def replay(salons: Sequence[int]) -> Timed:
        timed = Timed()
        await _replay(make, calls, salons, timed)
        return timed

    await store.open()
    try:
        yield replay
    finally:
        await store.close()


_GET = b"""
SELECT key_id, value::text FROM whatsapp_keys
WHERE company_id = %s AND key_type = %s AND key_id = ANY(%s)
"""
_DELETE = b"""
DELETE FROM whatsapp_keys k USING jsonb_to_recordset(%(keys)s) AS e(t text, i text, v jsonb)
WHERE k.company_id = %(id)s AND k.key_type = e.t AND k.key_id = e.i AND e.v IS NULL
"""
_SET = b"""
INSERT INTO whatsapp_keys (company_id, key_type, key_id, value, created_at, updated_at)
SELECT %(id)s, t, i, v, now(), now()
FROM jsonb_to_recordset(%(keys)s) AS e(t text, i text, v jsonb) WHERE v IS NOT NULL
ON CONFLICT (company_id, key_type, key_id)
DO UPDATE SET value = excluded.value, updated_at = now()
"""
_CREDS = (
    b"UPDATE whatsapp_auth SET creds = %s, updated_at = now() WHERE company_id = %s"
)


@contextlib.asynccontextmanager
async def _psycopg(
    service: Service, entries: Sequence[Entry], connections: int
) -> AsyncIterator[Replay]:
    calls = [Call.of(entry) for entry in entries]
    pool = AsyncConnectionPool(
        service.database_url,
        min_size=1,
        max_size=connections,
        timeout=600,
        kwargs={"autocommit": True},
        open=False,
    )

    async def make(salon: int, _number: int, call: Call) -> None:
        name = f"company_{salon}"
        async with pool.connection() as connection:
            if call.key_type:
                found = await connection.execute(
                    _GET, (name, call.key_type, list(call.ids))
                )
                await found.fetchall()
            elif call.creds is not None:
                await connection.execute(_CREDS, (call.creds, name))
            else:
                await _write(connection, name, call.keys or "[]")

    async def replay(salons: Sequence[int]) -> Timed:
        timed = Timed()
        await _replay(make, calls, salons, timed)
        return timed

    async with pool:
        yield replay


async def _write(connection: Any, name: str, keys: str) -> None:
    """Write a batch; the few that delete something are two statements of one transaction."""
    if '"v": null' not in keys:
        await connection.execute(_SET, {"id": name, "keys": keys})
        return
    async with connection.transaction():
        await connection.execute(_DELETE, {"id": name, "keys": keys})
        await connection.execute(_SET, {"id": name, "keys": keys})


@contextlib.asynccontextmanager
async def _published(
    service: Service, record: Path, folder: Path, connections: int
) -> AsyncIterator[Replay]:
    with _installed(folder / "published") as place:
        process = await asyncio.create_subprocess_exec(
            find_node(),
            str(SCRIPT),
            str(place),
            service.database_url,
            str(connections),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            limit=LINE_LIMIT,
        )
        assert process.stdin
        assert process.stdout
        pipe, answers = process.stdin, process.stdout

        async def replay(salons: Sequence[int]) -> Timed:
            names = [f"company_{salon}" for salon in salons]
            command = json.dumps({"record": str(record), "salons": names})
            pipe.write(f"{command}\n".encode())
            line = await answers.readline()
            if not line:
                raise RuntimeError("The published store has ended.")
            answer = json.loads(line)
            return Timed(answer["seconds"], answer["ms"])

        try:
            yield replay
        finally:
            pipe.close()
            await process.wait()


@contextlib.contextmanager
def _installed(place: Path) -> Iterator[Path]:
    """Install the published store beside everything, with our Baileys for its own."""
    place.mkdir()
    (place / "package.json").write_text('{"private": true}\n')
    subprocess.run(
        [
            *embedded.npm_command(),
            *("install", "--ignore-scripts", "--no-audit", "--no-fund"),
            *("--legacy-peer-deps", "--loglevel=error", *PUBLISHED),
        ],
        cwd=place,
        stdout=subprocess.DEVNULL,
        check=True,
    )
    scope = place / "node_modules" / BAILEYS.parent.name
    scope.mkdir(exist_ok=True)
    (scope / BAILEYS.name).symlink_to(BAILEYS)
    yield place


BENCHMARK = Benchmark(
    "key_store",
    __doc__,
    (
        Option("salons", (1, 32, 200), (1, 3), "salons at once"),
        Option("repeats", 3, 1, "runs of each size"),
        Option("messages", 10, 2, "recorded messages of each contact"),
        Option("connections", 8, 8, "to the database, for each store"),
        Option("published", True, False, "compare with the published store, too"),
    ),
    measure,
)

if __name__ == "__main__":
    sys.exit(BENCHMARK.run())
