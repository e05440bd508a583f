"""``python -m tests.chaos``: breaks the service, fault after fault, and judges it."""

import argparse
import asyncio
import contextlib
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from django.conf import settings

from tests.chaos import report, salons
from tests.chaos.arena import Arena, Fault, Outcome, Unrecovered
from tests.chaos.cluster import Cluster
from tests.chaos.faults import FAULTS
from tests.chaos.history import History
from tests.chaos.observer import Observer, PageWatch
from tests.database import KEYS, new_key
from tests.simulator import Simulator

PAGE_SERVERS = 2
PAGES_EACH = 3


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument(
        "--list", action="store_true", help="say which faults there are"
    )
    parser.add_argument("--only", default="", help="faults to run, with commas between")
    parser.add_argument("--salons", type=int, default=60)
    parser.add_argument("--gateways", type=int, default=3)
    parser.add_argument("--by-code", type=int, default=3, help="linked by real codes")
    parser.add_argument("--rate", type=float, default=8.0, help="messages in a second")
    parser.add_argument(
        "--slack", type=float, default=1.0, help="factor for all bounds"
    )
    parser.add_argument(
        "--encrypted", action="store_true", help="creds and keys lie encrypted"
    )
    parser.add_argument("--json", type=Path, help="where to write the report")
    parser.add_argument("--keep", action="store_true", help="keep the work folder")
    return parser.parse_args()


def chosen(only: str) -> list[Fault]:
    """Return the faults with these names, or all.

    Raises:
        SystemExit: there is none of this name.
    """
    known = {fault.name: fault for fault in FAULTS}
    names = [name for name in only.split(",") if name]
    if unknown := [name for name in names if name not in known]:
        sys.exit(f"No such fault: {', '.join(unknown)}. There are: {', '.join(known)}")
    return [known[name] for name in names] if names else FAULTS


def say(*lines: str) -> None:
    """Print at once, for who watches."""
    for line in lines:
        sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


async def run(folder: Path, options: argparse.Namespace) -> list[Outcome]:
    """Start everything, run the faults, end everything."""
    faults = chosen(options.only)
    began = time.monotonic()
    with Simulator.start() as simulator, Cluster(folder, simulator) as cluster:
        await cluster.start_all(options.gateways, PAGE_SERVERS)
        with cluster.database() as connection:
            History.keep(connection)
        linked = await salons.make(cluster, options.salons, options.by_code)
        observer = Observer(cluster, linked)
        observer.pages = [
            PageWatch(f"a page of {server.log.stem}", server.ws_url, linked[at])
            for at, server in enumerate(cluster.pages * PAGES_EACH)
            if at < len(linked)
        ]
        async with contextlib.AsyncExitStack() as stack:
            duties = [
                asyncio.create_task(observer.keep_looking()),
                *(asyncio.create_task(page.stay()) for page in observer.pages),
            ]
            stack.push_async_callback(_end, duties)
            arena = await _prepare(cluster, linked, observer, options)
            duties.append(
                asyncio.create_task(salons.keep_writing(linked, options.rate))
            )
            say(f"{len(linked)} salons are open after {time.monotonic() - began:.0f} s")
            return await _play(arena, faults, duties)


async def _end(duties: list[asyncio.Task[None]]) -> None:
    for duty in duties:
        duty.cancel()
    await asyncio.wait(duties)


async def _prepare(
    cluster: Cluster,
    linked: Sequence[salons.LinkedSalon],
    observer: Observer,
    options: argparse.Namespace,
) -> Arena:
    """Wait until all salons are open, and begin to count."""
    with cluster.database() as connection:
        first_commit = History.last(connection) + 1
    arena = Arena(
        cluster,
        linked,
        observer,
        History(),
        gateways=options.gateways,
        first_commit=first_commit,
        slack=options.slack,
    )
    await arena.settle()
    return arena


async def _play(
    arena: Arena, faults: Sequence[Fault], duties: Sequence[asyncio.Task[None]]
) -> list[Outcome]:
    outcomes = []
    say("", report.HEAD)
    for fault in faults:
        try:
            outcome = await arena.run(fault)
        except Unrecovered as error:
            outcome = arena.outcome
            outcome.violations.append(f"before it began, {error}")
        outcomes.append(outcome)
        say(report.line(outcome), *report.details(outcome))
        for duty in duties:
            if duty.done():
                duty.result()
    return outcomes


async def _main(folder: Path, options: argparse.Namespace) -> list[Outcome]:
    # Whoever ends us wants all of it to end.
    task = asyncio.current_task()
    assert task is not None
    for number in (signal.SIGTERM, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, task.cancel)
    return await run(folder, options)


def _choose_key(*, encrypted: bool) -> None:
    """Give the processes that we start a key, and ourselves to read what they store."""
    key = new_key() if encrypted else ""
    os.environ[KEYS] = key
    settings.configure(**{KEYS: [key] if key else []})


def main() -> int:
    """Run it; 1 if anything was violated."""
    options = arguments()
    if options.list:
        say(*(f"{fault.name:24} {fault.what}" for fault in FAULTS))
        return 0
    chosen(options.only)
    _choose_key(encrypted=options.encrypted)
    folder = Path(tempfile.mkdtemp(prefix="aiadmin-chaos-"))
    failed = True
    began = time.monotonic()
    try:
        outcomes = asyncio.run(_main(folder, options))
        failed = any(outcome.violations for outcome in outcomes)
        if options.json:
            setting = {
                "salons": options.salons,
                "gateways": options.gateways,
                "pages": PAGE_SERVERS,
                "rate": options.rate,
                "slack": options.slack,
                "cores": os.cpu_count(),
                "seconds": round(time.monotonic() - began),
            }
            report.write(options.json, outcomes, setting)
        say(
            "",
            f"{time.monotonic() - began:.0f} s, {'VIOLATED' if failed else 'all held'}",
        )
    except (KeyboardInterrupt, asyncio.CancelledError):
        say("", "Interrupted; everything that was started has ended")
    finally:
        if failed or options.keep:
            say(f"Kept for a look: {folder}")
        else:
            shutil.rmtree(folder, ignore_errors=True)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
