"""What encryption at rest costs: a write and a read of the gateway's store, and bringing
200,000 plain keys to a key.

On an embedded PostgreSQL of its own with fsync on; both kinds take turns, so that what
else the machine does hits both alike.

    .venv/bin/python -m benchmarks.encryption [--rounds 300] [--salons 300] [--keys 200000]
"""

import argparse
import asyncio
import json
import os
import statistics
import time
from collections.abc import Coroutine
from typing import Any

from benchmarks.tables import manage, own_tables

SIZES = (1, 10, 100, 812)
"""A message touches a few keys; a new link brings 812 pre-keys at once."""


def make_salon() -> tuple[str, int]:
    """Return the session id and the epoch of a salon that a gateway owns."""
    from tests import factories

    salon = factories.make_salon()
    factories.store_creds(salon, None, {})
    return salon.session_id, factories.claim(salon)


async def measure(store: Any, ref: Any, rounds: int, key: str) -> None:
    """Print the medians of writing and reading batches, plain and sealed."""
    from django.conf import settings

    from tests import factories

    pair = factories.make_keys()[("pre-key", "1")]
    number = 0
    print(f"{'rows':>6}{'':4}{'write ms':>20}{'ratio':>8}{'read ms':>20}{'ratio':>8}")
    for size in SIZES:
        ids = [str(one) for one in range(size)]
        batch = json.dumps([{"t": "pre-key", "i": one, "v": pair} for one in ids])
        taken: dict[str, dict[bool, list[float]]] = {
            "write": {False: [], True: []},
            "read": {False: [], True: []},
        }
        for _ in range(max(20, rounds // size)):
            for sealed in (False, True):
                settings.CREDENTIAL_ENCRYPTION_KEYS = [key] if sealed else []
                number += 1
                write = await timed(store.save(ref, None, batch, number))
                settings.CREDENTIAL_ENCRYPTION_KEYS = [key]
                read = await timed(store.get_keys(ref, "pre-key", ids))
                taken["write"][sealed].append(write)
                taken["read"][sealed].append(read)
        cells = []
        for times in taken.values():
            plain = statistics.median(times[False])
            sealed_ms = statistics.median(times[True])
            cells.append(f"{plain:>10.2f} ->{sealed_ms:>7.2f}{sealed_ms / plain:>8.2f}")
        print(f"{size:>6}    {''.join(cells)}")


async def timed(work: Coroutine[Any, Any, object]) -> float:
    """Return the milliseconds that it takes."""
    started = time.perf_counter()
    await work
    return (time.perf_counter() - started) * 1000


async def store_costs(rounds: int, key: str) -> None:
    """Open the gateway's store on the present database, and measure it."""
    from asgiref.sync import sync_to_async

    from whatsapp.engine import SessionRef
    from whatsapp.gateway.auth_store import DatabaseAuthStore
    from whatsapp.gateway.database import conninfo

    session_id, epoch = await sync_to_async(make_salon)()
    store = DatabaseAuthStore(await sync_to_async(conninfo)())
    await store.open()
    await measure(store, SessionRef(session_id, 1, epoch), rounds, key)
    await store.close()


def migrate_costs(salons: int, keys: int, key: str) -> None:
    """Fill the tables and run `whatsapp_encrypt`, there, to another key, and back."""
    from tests import previous_service
    from whatsapp.services import sealing

    left = previous_service.leave(salons, keys)
    manage("whatsapp_takeover")
    print(f"\n{len(left.linked)} links, {left.keys} keys")
    other = sealing.new_key()
    for name, ring, words in (
        ("encrypt", [key], []),
        ("again", [key], []),
        ("rotate", [other, key], []),
        ("decrypt", [other], ["--decrypt"]),
    ):
        os.environ["CREDENTIAL_ENCRYPTION_KEYS"] = ",".join(ring)
        started = time.perf_counter()
        said = manage("whatsapp_encrypt", *words).splitlines()
        seconds = time.perf_counter() - started
        line = next(
            one for one in reversed(said) if "rows are" in one or "Every" in one
        )
        print(f"{name:10}{seconds:8.1f} s   {line}")


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=300)
    parser.add_argument("--salons", type=int, default=300)
    parser.add_argument("--keys", type=int, default=200_000)
    options = parser.parse_args()
    with own_tables():
        from whatsapp.services import sealing

        key = sealing.new_key()
        asyncio.run(store_costs(options.rounds, key))
        migrate_costs(options.salons, options.keys, key)


if __name__ == "__main__":
    main()
