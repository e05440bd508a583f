"""Creds and keys on their way between Baileys and the store."""

from __future__ import annotations

import asyncio
import base64
import subprocess
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import orjson
import pytest

from tests.engine_fixtures import Rig, eventually, make_rig, new_ref, rig, simulator
from tests.simulator import find_node
from whatsapp.engine import (
    Closed,
    DisconnectReason,
    Opened,
    SessionRef,
    StoreRefused,
    UnreadableCreds,
)

__all__ = ["make_rig", "rig", "simulator"]

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(240)]
MakeRig = Callable[..., Awaitable[Rig]]
NODE_TESTS = Path(__file__).with_name("engine_node")


def as_array(value: bytes) -> dict[str, Any]:
    return {"type": "Buffer", "data": list(value)}


def as_index_object(value: bytes) -> dict[str, int]:
    return {str(index): byte for index, byte in enumerate(value)}


def rewritten(value: Any, form: Callable[[bytes], Any]) -> Any:
    """The same JSON with its binary values in another of the three forms."""
    if isinstance(value, list):
        return [rewritten(item, form) for item in value]
    if not isinstance(value, dict):
        return value
    if value.get("type") == "Buffer":
        return form(base64.b64decode(value["data"]))
    return {key: rewritten(item, form) for key, item in value.items()}


@pytest.mark.parametrize("form", [as_array, as_index_object])
async def test_creds_and_keys_of_the_previous_system_log_in(
    rig: Rig, form: Callable[[bytes], Any]
) -> None:
    phone, ref = await rig.linked()
    await eventually(lambda: len(rig.store.keys) > 800, "the first login's keys")
    await rig.engine.close(ref)
    creds = orjson.loads(rig.store.creds["company_1"])
    old = orjson.dumps(rewritten(creds, form)).decode()
    rig.store.keys = {
        key: rewritten(value, form) for key, value in rig.store.keys.items()
    }
    saves = len(rig.store.saves)
    again = await rig.resume(old, first=False)

    # Old rows decrypt: the message of a contact uses a pre-key and makes a session.
    contact = await rig.phone()
    await asyncio.to_thread(phone.send_text, "hello", sender=contact.number)

    def session() -> Any:
        rows = [row for save in rig.store.saves[saves:] for row in save[2]]
        return [row for row in rows if row["t"] == "session"]

    await eventually(session, "a Signal session is stored")
    await rig.engine.close(again)
    written = orjson.dumps([save[1:] for save in rig.store.saves[saves:]])
    assert b'"type":"Buffer","data":[' not in written
    assert b'"0":' not in written


async def test_saves_are_few_and_name_each_key_once(rig: Rig) -> None:
    _, ref = await rig.linked()
    await eventually(lambda: len(rig.store.keys) > 800, "the first login's keys")
    await rig.engine.close(ref)
    # Bare Baileys: 12 creds.update and 13 sets.
    assert len(rig.store.saves) < 20
    for _, _, rows in rig.store.saves:
        names = [(row["t"], row["i"]) for row in rows]
        assert len(names) == len(set(names)), "a key twice in one batch"


async def test_saves_of_a_session_never_overlap(rig: Rig) -> None:
    running = 0

    async def slow(_: SessionRef) -> None:
        nonlocal running
        running += 1
        assert running == 1
        await asyncio.sleep(0.02)
        running -= 1

    rig.store.before_save = slow
    _, ref = await rig.linked()
    await rig.engine.close(ref)
    last = [creds for _, creds, _ in rig.store.saves if creds][-1]
    assert rig.store.creds["company_1"] == last


async def test_a_save_that_fails_is_tried_again(rig: Rig) -> None:
    failures = 2

    async def fail(_: SessionRef) -> None:
        nonlocal failures
        if failures:
            failures -= 1
            raise ConnectionError("the database is away")

    phone = await rig.phone()
    creds, _ = await rig.link(phone)
    rig.store.before_save = fail
    ref = new_ref()
    await rig.engine.open(ref, creds, first=True)
    await rig.expect(Opened, ref)
    await eventually(lambda: len(rig.store.keys) > 800, "Baileys' retry")
    await eventually(lambda: "lid" in rig.store.creds.get("company_1", ""), "creds")
    assert rig.of(ref) == []


async def test_a_read_that_fails_never_looks_like_no_key(rig: Rig) -> None:
    phone, ref = await rig.linked()
    await eventually(lambda: len(rig.store.keys) > 800, "the first login's keys")
    contact = await rig.phone()
    await asyncio.to_thread(phone.send_text, "one", sender=contact.number)
    lid = (await asyncio.to_thread(contact.state))["lid"].partition("@")[0]

    def session() -> Any:
        rows = [(key, row) for key, row in rig.store.keys.items() if lid in key[2]]
        return [(key, row) for key, row in rows if key[1] == "session"]

    before = await eventually(session, "a Signal session with the contact")

    async def fail(_: SessionRef) -> None:
        raise ConnectionError("the database is away")

    gets = len(rig.store.gets)
    rig.store.before_get = fail
    await asyncio.to_thread(phone.send_text, "two", sender=contact.number)
    await eventually(lambda: len(rig.store.gets) > gets, "a read")
    await rig.engine.close(ref)
    assert session() == before
    assert rig.of(ref) == []


async def test_a_refused_write_ends_the_socket(rig: Rig) -> None:
    async def refuse(_: SessionRef) -> None:
        raise StoreRefused

    phone = await rig.phone()
    creds, _ = await rig.link(phone)
    rig.store.before_save = refuse
    ref = new_ref()
    await rig.engine.open(ref, creds, first=True)
    closed = await rig.expect(Closed, ref)
    assert closed.reason == DisconnectReason.STORE_REFUSED
    assert not closed.reason.is_transient
    assert len(rig.store.saves) == 1, "a refused write is not tried again"
    await rig.nobody_is_connected()


async def test_a_store_that_hangs_is_given_up_on(make_rig: MakeRig) -> None:
    rig = await make_rig(store_timeout=0.3)
    _, ref = await rig.linked()
    await eventually(lambda: len(rig.store.keys) > 800, "the first login's keys")

    async def hang(_: SessionRef) -> None:
        await asyncio.Event().wait()

    rig.store.before_save = hang
    await rig.engine.close(ref)
    assert await rig.sockets() == 0


@pytest.mark.parametrize("creds", ["not json", "[]", "null", '{"me":{}}'])
async def test_what_is_no_creds_is_refused(rig: Rig, creds: str) -> None:
    ref = new_ref()
    with pytest.raises(UnreadableCreds):
        await rig.engine.open(ref, creds)
    # The session is free for another try.
    await rig.engine.open(new_ref(), None)


def test_node_side() -> None:
    """Encodings, every key type, the write queue: tests in JavaScript."""
    files = sorted(str(path) for path in NODE_TESTS.glob("*.test.js"))
    done = subprocess.run(
        [find_node(), "--test", *files], capture_output=True, text=True, timeout=180
    )
    assert done.returncode == 0, done.stdout[-4000:]
