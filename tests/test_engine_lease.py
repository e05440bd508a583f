"""Node.js ends itself when nothing is heard of us, and not before."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.engine_fixtures import (
    LEASE_SECONDS,
    PATIENCE,
    is_running,
    make_rig,
    simulator,
)
from tests.simulator import Simulator, find_node

__all__ = ["make_rig", "simulator"]

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(240)]

PARENT = """
    import asyncio, sys
    from tests.engine_fixtures import MemoryStore, new_ref
    from whatsapp.engine import Engine, EngineStarted, EngineStopped, Limits

    def tell(event):
        if isinstance(event, EngineStarted):
            print("started", *engine.pids, flush=True)
        if isinstance(event, EngineStopped):
            print("stopped", len(event.convicted), event.error, flush=True)

    async def main():
        global engine
        limits = Limits(lease=float(sys.argv[3]), ping_interval=0.2, strikes=1)
        engine = Engine(
            store=MemoryStore(), on_event=tell, node=sys.argv[1], ws_url=sys.argv[2],
            limits=limits,
        )
        await engine.start()
        await engine.open(new_ref(), None)
        print("open", flush=True)
        await asyncio.Event().wait()

    asyncio.run(main())
"""


@contextmanager
def parent_of_node(simulator: Simulator) -> Iterator[subprocess.Popen[str]]:
    arguments = [find_node(), simulator.ws_url, str(LEASE_SECONDS)]
    with subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(PARENT), *arguments],
        stdout=subprocess.PIPE,
        text=True,
        cwd=str(Path(__file__).parent.parent),
    ) as parent:
        try:
            yield parent
        finally:
            parent.kill()


def said(parent: subprocess.Popen[str], first: str) -> list[str]:
    """The next line that begins so."""
    assert parent.stdout
    for line in parent.stdout:
        if line.startswith(first):
            return line.split()
    raise AssertionError(f"it never said {first}")


def wait_until_gone(pid: int) -> None:
    deadline = time.monotonic() + PATIENCE
    while is_running(pid):
        assert time.monotonic() < deadline, "Node.js goes on without us"
        time.sleep(0.02)


def is_stopped(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"


def test_node_ends_itself_while_we_are_stopped(simulator: Simulator) -> None:
    with parent_of_node(simulator) as parent:
        pid = int(said(parent, "started")[1])
        said(parent, "open")
        os.kill(parent.pid, signal.SIGSTOP)
        wait_until_gone(pid)
        assert is_stopped(parent.pid)
        os.kill(parent.pid, signal.SIGCONT)
        # Nobody is to blame for it, although one session was just starting.
        assert said(parent, "stopped")[1] == "0"
        assert int(said(parent, "started")[1]) != pid


def test_a_node_that_was_stopped_with_us_ends_when_it_alone_wakes_up(
    simulator: Simulator,
) -> None:
    with parent_of_node(simulator) as parent:
        pid = int(said(parent, "started")[1])
        said(parent, "open")
        os.kill(pid, signal.SIGSTOP)
        os.kill(parent.pid, signal.SIGSTOP)
        time.sleep(LEASE_SECONDS)
        os.kill(pid, signal.SIGCONT)
        wait_until_gone(pid)
        assert is_stopped(parent.pid)
