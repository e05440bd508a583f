"""The Node.js process: its start, its death, its end, and what it prints."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import re
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from tests.engine_fixtures import (
    PATIENCE,
    MemoryStore,
    Rig,
    eventually,
    is_running,
    make_rig,
    new_ref,
    rig,
    simulator,
)
from tests.simulator import Simulator, find_node
from whatsapp.engine import (
    CodeRefused,
    Engine,
    EngineError,
    EngineGone,
    EngineStarted,
    EngineStopped,
    Opened,
    Paired,
    Qr,
)

__all__ = ["make_rig", "rig", "simulator"]

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(240)]
MakeRig = Callable[..., Awaitable[Rig]]

STOP_SECONDS = 2 + 1.5
"""Two, and what a busy machine adds. Without a limit it would be 5 s for a store that
hangs, and 30 s for a peer that is silent."""


def environment_of(pid: int) -> bytes:
    return Path(f"/proc/{pid}/environ").read_bytes()


async def test_versions_and_stats(rig: Rig) -> None:
    versions = rig.engine.versions
    assert versions
    assert versions.baileys == "7.0.0-rc14"
    assert int(versions.node.split(".")[0]) >= 24
    await rig.engine.open(new_ref(), None)
    (stats,) = await rig.stats()
    assert (stats.process, stats.pid, stats.sessions) == (1, rig.pid, 1)
    assert stats.rss > stats.heap > 0
    assert stats.restarts == 0


async def test_a_killed_node_is_started_again_and_works(rig: Rig) -> None:
    phone, ref = await rig.linked()
    creds = rig.store.creds["company_1"]
    os.kill(rig.pid, signal.SIGKILL)
    stopped = await rig.expect(EngineStopped)
    assert stopped.sessions == (ref,)
    assert rig.of(ref) == [], "EngineStopped speaks for all"
    with pytest.raises(EngineGone):
        await rig.engine.open(new_ref(), None)
    await rig.engine.close(ref)
    await rig.expect(EngineStarted)
    assert (await rig.stats())[0].restarts == 1
    again = new_ref()
    await rig.engine.open(again, creds)
    await rig.expect(Opened, again)
    assert len(phone.devices()) == 1


async def test_who_waits_for_a_code_learns_that_node_died(rig: Rig) -> None:
    phone = await rig.phone()
    ref = new_ref()
    with rig.simulator.fault("hello", phone=phone.number, answer="silence"):
        await rig.engine.open(ref, None)
        asked = asyncio.create_task(rig.engine.request_code(ref, phone.number))
        await eventually(lambda: rig.simulator.journal()["hellos"], "the hello")
        os.kill(rig.pid, signal.SIGKILL)
        with pytest.raises(CodeRefused) as refused:
            await asked
    assert refused.value.kind == CodeRefused.Kind.ENGINE_GONE


async def test_a_stuck_node_is_replaced(make_rig: MakeRig) -> None:
    rig = await make_rig(close_timeout=4)
    _, ref = await rig.linked()
    pid = rig.pid
    os.kill(pid, signal.SIGSTOP)
    await rig.engine.close(ref)
    await rig.expect(EngineStopped)
    await rig.expect(EngineStarted)
    assert rig.pid != pid
    assert not is_running(pid)


async def test_restarts_back_off(
    make_rig: MakeRig, caplog: pytest.LogCaptureFixture
) -> None:
    rig = await make_rig(restart_delay=0.1)
    for _ in range(3):
        os.kill(rig.pid, signal.SIGKILL)
        await rig.expect(EngineStopped)
        await rig.expect(EngineStarted)
    delays = re.findall(r"again in ([\d.]+) s", caplog.text)
    assert delays == ["0.1", "0.2", "0.4"]


async def test_stop_ends_everything_within_two_seconds(rig: Rig) -> None:
    for number in range(4):
        await rig.linked(f"company_{number}")
    phone = await rig.phone()
    frozen_phone, _ = await rig.linked("company_frozen")
    await asyncio.to_thread(rig.simulator.freeze, phone=frozen_phone.number)
    linking = new_ref("company_linking")
    await rig.engine.open(linking, None)
    await rig.engine.request_code(linking, phone.number)
    rig.events.clear()
    pid = rig.pid
    began = time.monotonic()
    await rig.engine.stop()
    assert time.monotonic() - began < STOP_SECONDS
    assert not is_running(pid)
    assert rig.events == []
    await rig.nobody_is_connected()
    with pytest.raises(EngineGone):
        await rig.engine.open(new_ref(), None)


async def test_stop_does_not_wait_for_a_store_that_hangs(rig: Rig) -> None:
    async def hang(_: object) -> None:
        await asyncio.Event().wait()

    phone = await rig.phone()
    creds, _ = await rig.link(phone)
    rig.store.before_save = hang
    await rig.engine.open(new_ref(), creds, first=True)
    await eventually(lambda: rig.store.saves, "a write on its way")
    began = time.monotonic()
    await rig.engine.stop()
    assert time.monotonic() - began < STOP_SECONDS


PARENT = """
    import asyncio, sys
    from tests.engine_fixtures import MemoryStore, new_ref
    from whatsapp.engine import Engine

    async def main():
        engine = Engine(
            store=MemoryStore(), on_event=lambda event: None, node=sys.argv[1],
            ws_url=sys.argv[2],
        )
        await engine.start()
        await engine.open(new_ref(), None)
        print(*engine.pids, flush=True)
        await asyncio.Event().wait()

    asyncio.run(main())
"""


def test_node_does_not_outlive_us(simulator: Simulator) -> None:
    root = str(Path(__file__).parent.parent)
    with subprocess.Popen(
        [
            sys.executable,
            "-c",
            textwrap.dedent(PARENT),
            find_node(),
            simulator.ws_url,
        ],
        stdout=subprocess.PIPE,
        cwd=root,
    ) as parent:
        assert parent.stdout
        pid = int(parent.stdout.readline())
        assert is_running(pid)
        parent.kill()
    deadline = time.monotonic() + PATIENCE
    while is_running(pid) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not is_running(pid)


async def test_a_node_that_does_not_start_says_why(simulator: Simulator) -> None:
    engine = Engine(
        store=MemoryStore(),
        on_event=lambda _: None,
        node="/does/not/exist",
        ws_url=simulator.ws_url,
    )
    with pytest.raises(EngineError, match="did not start"):
        await engine.start()
    await engine.stop()


async def test_an_old_node_is_refused(simulator: Simulator, tmp_path: Path) -> None:
    wrapper = tmp_path / "node"
    pretend = "Object.defineProperty(process.versions,'node',{value:'22.1.0'})"
    wrapper.write_text(
        f'#!/bin/sh\nexec "{find_node()}" '
        f'--import "data:text/javascript,{pretend}" "$@"\n'
    )
    wrapper.chmod(0o755)
    engine = Engine(
        store=MemoryStore(),
        on_event=lambda _: None,
        node=str(wrapper),
        ws_url=simulator.ws_url,
    )
    with pytest.raises(EngineError, match=r"Node.js 24 or newer is needed"):
        await engine.start()


async def test_node_gets_nothing_of_our_environment(
    make_rig: MakeRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgresql://secret")
    rig = await make_rig()
    environment = environment_of(rig.pid)
    assert b"ENGINE_FD" in environment
    assert b"secret" not in environment


async def test_a_failing_event_handler_does_not_stop_the_engine(
    rig: Rig, caplog: pytest.LogCaptureFixture
) -> None:
    heard = rig.engine._on_event

    def fail(event: object) -> None:
        rig.engine._on_event = heard
        raise RuntimeError("a bug of ours")

    rig.engine._on_event = fail
    ref = new_ref()
    await rig.engine.open(ref, None)
    await eventually(lambda: "a bug of ours" in caplog.text, "the log")
    await rig.engine.close(ref)
    again = new_ref()
    await rig.engine.open(again, None)
    await rig.expect(Qr, again)


async def test_no_secret_is_logged_or_shown(
    rig: Rig, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    phone = await rig.phone()
    ref = new_ref()
    await rig.engine.open(ref, None)
    qr = await rig.qr(ref)
    code = await rig.engine.request_code(ref, phone.number)
    await rig.enter(phone, code)
    paired = await rig.expect(Paired, ref)
    again = await rig.resume(paired.creds)
    contact = await rig.phone()
    saves = len(rig.store.saves)
    for text in ("one", "two"):
        await asyncio.to_thread(phone.send_text, text, sender=contact.number)
    await eventually(lambda: len(rig.store.saves) > saves, "the messages")
    await rig.engine.close(again)

    creds = json.loads(paired.creds)
    shown = caplog.text + repr([qr, paired])
    for secret in (
        phone.number,
        contact.number,
        code,
        qr.qr,
        creds["advSecretKey"],
        creds["noiseKey"]["private"]["data"],
        creds["signedIdentityKey"]["private"]["data"],
    ):
        assert secret not in shown
    assert "bytes on stdout" not in caplog.text
