"""What a salon owner does and sees, on the whole service and a simulated WhatsApp.

`manage.py serve`, its own PostgreSQL, Node.js and the real Baileys run as a user runs
them, with the clocks that they have by default where no test says otherwise.
"""

import asyncio
import json
import signal
import time
from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from websockets.asyncio.client import connect

from tests.scenarios import PATIENCE, Page, SalonUnderTest, World
from tests.service_fixtures import (
    ask_code,
    enter,
    eventually,
    is_connected,
    link_by_code,
    link_by_qr,
    linked_jid,
    page,
    salon,
    simulator,
    stage,
    stored_text,
    world,
)
from tests.simulator import Simulator

__all__ = ["page", "salon", "simulator", "world"]

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]

PRE_KEYS = 812
"""So many Baileys makes for a new device."""


def buffers(value: Any) -> Iterator[Any]:
    """Give the data of every binary value in stored JSON."""
    if isinstance(value, dict):
        if value.get("type") == "Buffer":
            yield value["data"]
        for item in value.values():
            yield from buffers(item)
    elif isinstance(value, list):
        for item in value:
            yield from buffers(item)


# --- the first link ------------------------------------------------------------------


@pytest.mark.parametrize("link", [link_by_code, link_by_qr])
async def test_a_first_link_is_stored_as_baileys_needs_it(
    salon: SalonUnderTest,
    page: Page,
    link: Callable[[SalonUnderTest, Page], Awaitable[str]],
):
    first, _ = await page.event("status", "qr-update", "error")
    assert first == "status"
    jid = await link(salon, page)
    status = await page.status("open")
    assert status["phone"].endswith(salon.number[-4:])
    assert salon.number not in json.dumps(status)

    creds = salon.creds()
    assert creds is not None
    assert creds["account"]["deviceSignature"]
    assert creds["me"]["id"] == jid
    keys = salon.keys()
    assert sum(key_type == "pre-key" for key_type, _ in keys) >= PRE_KEYS - 50
    assert not salon.world.query(
        "SELECT 1 FROM whatsapp_keys WHERE company_id = %s AND expires_at IS NOT NULL",
        salon.session_id,
    )
    values = [*buffers(creds), *buffers(list(keys.values()))]
    assert len(values) > PRE_KEYS
    assert all(isinstance(value, str) for value in values)  # base64, not byte arrays


async def test_a_page_learns_every_step_of_a_link(salon: SalonUnderTest, page: Page):
    _, qr = await page.event("qr-update")
    assert qr["svg"].startswith("<svg")
    assert 40 <= qr["expiresIn"] <= 60
    mark = page.mark
    # A page hears of "requested" unless the code overtakes it.
    await asyncio.to_thread(
        salon.world.simulator.fault,
        "hello",
        phone=salon.number,
        answer="ok",
        delayMs=1000,
    )
    code = await ask_code(page, f"+{salon.number}")
    assert code["phoneNumber"] == salon.number
    assert len(code["code"]) == 9
    assert code["code"][4] == "-"
    assert 140 <= code["expiresIn"] <= 160
    await enter(salon.phone, code["code"])
    _, connected = await page.event("whatsapp-connected", since=mark)
    assert connected["success"]
    assert connected["sessionId"] == salon.session_id
    stages = [
        data["attempt"]["stage"]
        for name, data in page.said[mark:]
        if name == "status" and data["attempt"]
    ]
    steps = list(dict.fromkeys(stages))
    assert steps[:2] == ["requested", "shown"], page.summary()
    assert "finishing" in steps
    assert steps[-1] == "linked"


async def test_codes_that_are_typed_at_once_all_link(world: World):
    salons = [world.salon() for _ in range(5)]

    async def link(salon: SalonUnderTest) -> None:
        async with salon.page() as page:
            code = await ask_code(page, f"+{salon.number}")
            await enter(salon.phone, code["code"])
            await page.event("whatsapp-connected")

    async with asyncio.TaskGroup() as tasks:
        for salon in salons:
            tasks.create_task(link(salon))


@pytest.mark.parametrize("way", ["subprotocol", "first message"])
async def test_a_code_that_is_asked_for_while_connecting_comes(
    salon: SalonUnderTest, world: World, way: str
):
    page = salon.page()
    early: Any = ["aiadmin.v1"]
    request = json.dumps(
        {"event": "request-pairing-code", "data": {"phoneNumber": salon.number}}
    )
    messages = [request]
    if way == "subprotocol":
        early.append(f"bearer.{page.token}")
    else:
        auth = {"event": "auth", "data": {"token": page.token}}
        messages.insert(0, json.dumps(auth))
    async with connect(page.url, subprotocols=early, open_timeout=PATIENCE) as socket:
        for message in messages:
            await socket.send(message)
        code = None
        async with asyncio.timeout(PATIENCE):
            async for text in socket:
                answer = json.loads(text)
                assert answer["event"] != "error", answer
                if answer["event"] == "pairing-code":
                    code = answer["data"]["code"]
                    break
    assert code
    jid = await enter(salon.phone, code)
    await eventually(lambda: linked_jid(salon) == jid, "the link is not stored")


async def test_a_wrong_code_spoils_nothing(salon: SalonUnderTest, page: Page):
    code = (await ask_code(page, f"+{salon.number}"))["code"]
    wrong = code[:-1] + ("A" if code[-1] != "A" else "B")
    refused = await asyncio.to_thread(salon.phone.enter_code, wrong)
    assert not refused["ok"]
    await enter(salon.phone, code)
    await page.event("whatsapp-connected")
    assert len(await asyncio.to_thread(salon.phone.devices)) == 1


@pytest.mark.parametrize("typed", ["8 (900) {}-{}-{}", "+7 900 {} {} {}", "900{}{}{}"])
async def test_a_russian_number_may_be_typed_as_people_type_it(
    world: World, salon: SalonUnderTest, page: Page, typed: str
):
    number = salon.number
    text = typed.format(number[4:7], number[7:9], number[9:])
    code = await ask_code(page, text)
    assert code["phoneNumber"] == number
    await enter(salon.phone, code["code"])
    await page.event("whatsapp-connected")


@pytest.mark.parametrize("with_nine", [True, False])
async def test_a_brazilian_number_is_one_phone_with_and_without_its_ninth_digit(
    world: World, salon: SalonUnderTest, page: Page, with_nine: bool
):
    tail = f"8{salon.number[-7:]}"
    long, short = f"55119{tail}", f"5511{tail}"
    typed, other = (long, short) if with_nine else (short, long)
    code = await ask_code(page, f"+{typed}")
    phone = await asyncio.to_thread(world.simulator.phone, code["phoneNumber"])
    await enter(phone, code["code"])
    await page.event("whatsapp-connected")
    await page.send("request-pairing-code", phoneNumber=f"+{other}")
    _, refusal = await page.event("pairing-code-error")
    assert refusal["code"] == "ALREADY_CONNECTED"


# --- a life after the link -----------------------------------------------------------


async def test_a_link_survives_restarts_and_kills_without_the_phone(
    tmp_path: Path, simulator: Simulator
):
    with World(tmp_path, simulator, clocks={}) as world:
        salon = world.salon()
        async with salon.page() as page:
            jid = await link_by_code(salon, page)
        devices = salon.phone.devices()
        before = stored_text(salon)
        for number in (signal.SIGTERM, signal.SIGKILL):
            await asyncio.to_thread(world.restart, number)
            async with salon.page() as page:
                status = await page.status("open")
                assert status["phone"].endswith(salon.number[-4:])
                assert not [name for name, _ in page.said if name == "qr-update"]
            assert is_connected(world, jid)
            assert stored_text(salon) == before
            assert [it["device"] for it in salon.phone.devices()] == [
                it["device"] for it in devices
            ]
        device = simulator.journal()["devices"][jid]
        assert device["peakOpenSockets"] == 1
        assert "Traceback" not in world.logs


async def test_a_salon_stops_and_resumes_without_the_phone(
    world: World, salon: SalonUnderTest, page: Page
):
    jid = await link_by_code(salon, page)
    mark = page.mark
    await page.send("disconnect-whatsapp")
    stopped = await page.status("stopped", since=mark)
    assert stopped["action"] == "request-qr"
    assert not await asyncio.to_thread(is_connected, world, jid)
    async with salon.page() as returning:
        first = await returning.status("stopped")
        assert first["message"] == stopped["message"]
        await returning.send("request-qr")
        await returning.event("whatsapp-connected")
        assert "qr-update" not in [name for name, _ in returning.said]
    assert linked_jid(salon) == jid
    assert await asyncio.to_thread(is_connected, world, jid)


async def test_a_message_to_a_linked_salon_grows_its_keys_and_not_its_troubles(
    world: World, salon: SalonUnderTest, page: Page
):
    jid = await link_by_code(salon, page)
    sender = f"7903{salon.number[4:]}"

    def signal_sessions() -> set[str]:
        return {
            json.dumps(value, sort_keys=True)
            for (key_type, _), value in salon.keys().items()
            if key_type == "session"
        }

    mark = page.mark

    def changed(before: set[str]) -> bool:
        return bool(signal_sessions() - before)

    for text in ("Здравствуйте!", "Вы открыты?"):
        before = await asyncio.to_thread(signal_sessions)
        await asyncio.to_thread(salon.phone.send_text, text, sender=sender)
        # A new session with the first message, a step of its ratchet with the next.
        await eventually(partial(changed, before), text)
    await page.send("get-status")
    assert (await page.status("open", since=mark))["reason"] is None
    assert await asyncio.to_thread(is_connected, world, jid)


async def test_two_tabs_of_a_salon_see_the_same(salon: SalonUnderTest, page: Page):
    async with salon.page() as tab:
        code = await ask_code(page, f"+{salon.number}")
        _, seen = await tab.event("pairing-code")
        assert seen["code"] == code["code"]
        await enter(salon.phone, code["code"])
        await page.event("whatsapp-connected")
        await tab.event("whatsapp-connected")
        await tab.send("reset-whatsapp-credentials")
        await page.event("credentials-reset")
        await tab.event("credentials-reset")


async def test_two_salons_see_nothing_of_each_other(world: World):
    salons = [world.salon(), world.salon()]
    pages = [await salon.page().open() for salon in salons]
    try:
        await asyncio.gather(
            *(
                link_by_code(salon, page)
                for salon, page in zip(salons, pages, strict=True)
            )
        )
        await pages[0].send("reset-whatsapp-credentials")
        await pages[0].event("credentials-reset")
        mark = pages[1].mark
        await pages[1].send("get-status")
        await pages[1].status("open", since=mark)
    finally:
        await asyncio.gather(*(page.close() for page in pages))
    for other, one in zip(reversed(salons), pages, strict=True):
        heard = json.dumps(one.said)
        assert other.session_id not in heard
        assert other.number not in heard
        assert other.number[-4:] not in heard.replace("\\u", "")
    assert "credentials-reset" not in [name for name, _ in pages[1].said]
    codes = [
        {data["code"] for name, data in page.said if name == "pairing-code"}
        for page in pages
    ]
    qrs = [
        {data["qr"] for name, data in page.said if name == "qr-update"}
        for page in pages
    ]
    assert not codes[0] & codes[1]
    assert not qrs[0] & qrs[1]


# --- clocks --------------------------------------------------------------------------


async def test_whatsapps_silence_is_answered_after_twenty_seconds(
    world: World, salon: SalonUnderTest, page: Page
):
    fault = await asyncio.to_thread(
        world.simulator.fault, "hello", phone=salon.number, answer="silence"
    )
    started = time.monotonic()
    await page.send("request-pairing-code", phoneNumber=f"+{salon.number}")
    await stage(page, "requested")
    await page.send("request-pairing-code", phoneNumber=f"+{salon.number}")
    _, early = await page.event("pairing-code-error")
    assert early["code"] == "REQUEST_IN_PROGRESS"
    _, late = await page.wait(
        lambda name, data: (
            name == "pairing-code-error" and data["code"] != "REQUEST_IN_PROGRESS"
        )
    )
    assert late["code"] == "PAIRING_TIMEOUT"
    assert 15 < time.monotonic() - started < 35
    await asyncio.to_thread(fault.remove)
    await link_by_code(salon, page)


async def test_a_page_ends_with_its_token(salon: SalonUnderTest):
    async with salon.page(exp=int(time.time()) + 10) as page:
        await page.event("status")
        assert await page.closing() == 4401
        name, data = page.said[-1]
        assert (name, data["code"]) == ("error", "UNAUTHORIZED")
    async with salon.page(exp=int(time.time()) - 1) as late:
        assert await late.closing() == 4401
        assert [name for name, _ in late.said] == ["error"]
