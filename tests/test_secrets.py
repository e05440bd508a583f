"""Nothing that could open a salon's WhatsApp is written anywhere but into its tables.

One busy run of the whole service, as talkative as it can be set; then everything that
its processes printed, all that Sentry was sent and every ``status`` that a page was
told is searched for each secret that was in play, in each form that it may take.
"""

import asyncio
import base64
import contextlib
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.database import SECRETS
from tests.scenarios import Page, SalonUnderTest, World
from tests.sentry_world import Sink
from tests.simulator import Simulator
from tests.stored_state import LinkedTemplate

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(400)]

PRINTED_BY_SERVE = re.compile(
    r"^(Page of salon \d+, for an hour: http://[\d.:]+/marketplace/connect#token=\S+"
    r"|First start: you are admin, with the password \S+)$",
    re.MULTILINE,
)
"""What `serve` says once on its own terminal to whoever has just installed it.

Whole lines, without the time and the level that a line of a log begins with.
"""

ENOUGH = 15
"""Bytes of a secret that are searched for: logs may have cut off the rest."""

BASE64 = re.compile(r"[A-Za-z0-9+/_-]{24,}={0,2}")


@dataclass
class Secrets:
    """What must not be found, and what each of it is."""

    needles: dict[str, str] = field(default_factory=dict)

    def add_text(self, what: str, text: str) -> None:
        if text:
            self.needles[text] = what

    def add_code(self, what: str, code: str) -> None:
        self.add_text(what, code)
        self.add_text(what, code.replace("-", ""))

    def add_binary(self, what: str, value: bytes) -> None:
        """Add a key in the forms in which Python and Node.js print one."""
        part = value[:ENOUGH]
        standard = base64.b64encode(part).decode()
        self.needles |= {
            standard: f"{what}, base64",
            standard.translate(str.maketrans("+/", "-_")): f"{what}, base64url",
            part.hex(): f"{what}, hex",
            part.hex(" "): f"{what}, as Node.js shows a Buffer",
            ",".join(map(str, part)): f"{what}, bytes",
            ", ".join(map(str, part)): f"{what}, list of bytes",
            ",".join(f'"{at}":{byte}' for at, byte in enumerate(part)): f"{what}, map",
            repr(part)[2:-1]: f"{what}, Python bytes",
        }

    def add_stored(self, what: str, value: Any) -> None:
        """Add every key in a value of the tables, as Baileys has written it."""
        if isinstance(value, dict):
            if value.get("type") == "Buffer":
                self._add_buffer(what, value["data"])
                return
            for name, item in value.items():
                self.add_stored(f"{what}.{name}", item)
        elif isinstance(value, list):
            for item in value:
                self.add_stored(what, item)
        elif isinstance(value, str) and BASE64.fullmatch(value):
            self.add_binary(what, base64.b64decode(value + "=="))

    def _add_buffer(self, what: str, data: str | list[int]) -> None:
        value = bytes(data) if isinstance(data, list) else base64.b64decode(data)
        if len(value) >= ENOUGH:
            self.add_binary(what, value)
        with contextlib.suppress(ValueError):  # some are JSON in themselves
            self.add_stored(what, json.loads(value))

    def add_salon(self, salon: SalonUnderTest) -> None:
        """Add what is stored for a salon now, and its numbers."""
        self.add_stored("creds", salon.creds())
        for (key_type, _), value in salon.keys().items():
            self.add_stored(key_type, value)
        for number in (salon.number, salon.other_number, sender_to(salon)):
            self.add_text("phone number", number[1:])

    def add_page(self, page: Page) -> None:
        """Add what a page was shown, and the token that opened it."""
        self.add_text("page token", page.token)
        self.add_text("page token, signature", page.token.rsplit(".", 1)[1])
        for name, data in page.said:
            if name == "pairing-code":
                self.add_code("pairing code", data["code"])
            elif name == "qr-update":
                for part in data["qr"].split(","):
                    if len(part) >= ENOUGH:
                        self.add_text("QR text", part)

    def kinds(self) -> set[str]:
        """Return what is searched for."""
        return {what.split(",")[0] for what in self.needles.values()}

    def found_in(self, texts: Iterable[str]) -> list[str]:
        """Say which secrets are in the texts, without saying the secrets."""
        return sorted(
            f"{what}: …{text[max(0, text.index(needle) - 120) : text.index(needle)]}"
            for text in texts
            for needle, what in self.needles.items()
            if needle in text
        )


def sender_to(salon: SalonUnderTest) -> str:
    return f"7904{salon.number[4:]}"


@dataclass
class Run:
    """What a busy run has left behind."""

    secrets: Secrets
    logs: str
    envelopes: list[str]
    statuses: list[str]


class BusyRun:
    """Everything that may go right or wrong, with everybody talking."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.secrets = Secrets()
        self.statuses: list[str] = []

    async def play(self) -> Run:
        with Sink() as sink, Simulator.start() as simulator:
            settings = {
                "LOG_LEVEL": "DEBUG",
                "SENTRY_DSN": sink.dsn,
                "NO_PROXY": "127.0.0.1",
            }
            with World(self.folder, simulator, settings) as world:
                self.world, self.simulator = world, simulator
                async with asyncio.TaskGroup() as tasks:
                    for work in (
                        self.link_and_listen,
                        self.refuse,
                        self.mistype,
                        self.replace_half_paired,
                    ):
                        tasks.create_task(work())
                await self.replace_live()
                await self.kill_node()
                self.secrets.add_text(
                    "database address",
                    (self.folder / "var" / "database.url").read_text().strip(),
                )
            logs = world.logs
        for name, value in SECRETS.items():
            self.secrets.add_text(name, value)
        return Run(self.secrets, logs, sink.envelopes, self.statuses)

    async def leave(self, salon: SalonUnderTest, page: Page) -> None:
        """Close a page, and note all that was secret about it."""
        await page.close()
        self.secrets.add_page(page)
        await asyncio.to_thread(self.secrets.add_salon, salon)
        self.statuses += [
            json.dumps(data, ensure_ascii=False)
            for name, data in page.said
            if name == "status"
        ]

    async def ask(self, salon: SalonUnderTest, page: Page) -> str:
        mark = page.mark
        await page.send("request-pairing-code", phoneNumber=f"+{salon.number}")
        _, data = await page.event("pairing-code", since=mark)
        return data["code"]

    async def link(self, salon: SalonUnderTest, page: Page) -> str:
        mark = page.mark
        code = await self.ask(salon, page)
        result = await asyncio.to_thread(salon.phone.enter_code, code)
        assert result["ok"], result
        await page.event("whatsapp-connected", since=mark)
        return result["jid"]

    async def link_and_listen(self) -> None:
        """A link by QR, messages, frames that nobody understands, and a reset."""
        salon = self.world.salon()
        page = await salon.page().open()
        _, data = await page.event("qr-update")
        result = await asyncio.to_thread(salon.phone.scan, data["qr"])
        assert result["ok"], result
        await page.status("open")
        sender = sender_to(salon)
        for text in ("Здравствуйте!", "Вы открыты?"):
            await asyncio.to_thread(salon.phone.send_text, text, sender=sender)
        for action in (self.simulator.undecodable, self.simulator.garbage):
            mark = page.mark
            await asyncio.to_thread(action, jid=result["jid"])
            await page.send("get-status")
            await page.status("open", since=mark)
        await page.send_raw("{")
        await page.event("error")
        await asyncio.to_thread(self.secrets.add_salon, salon)
        await page.send("reset-whatsapp-credentials")
        await page.event("credentials-reset")
        await self.leave(salon, page)

    async def refuse(self) -> None:
        """WhatsApp's refusals of a code."""
        salon = self.world.salon()
        page = await salon.page().open()
        for answer in ("400", "404", "503", "silence", "429"):
            fault = await asyncio.to_thread(
                self.simulator.fault,
                "hello",
                phone=salon.number,
                answer=int(answer) if answer.isdigit() else answer,
            )
            mark = page.mark
            await page.send("request-pairing-code", phoneNumber=f"+{salon.number}")
            await page.event("pairing-code-error", since=mark)
            await asyncio.to_thread(fault.remove)
        await page.send("request-pairing-code", phoneNumber=f"{salon.number}x")
        await page.event("pairing-code-error")
        await self.leave(salon, page)

    async def mistype(self) -> None:
        """A wrong code, then the right one."""
        salon = self.world.salon()
        page = await salon.page().open()
        code = await self.ask(salon, page)
        wrong = code[:-1] + ("A" if code[-1] != "A" else "B")
        assert not (await asyncio.to_thread(salon.phone.enter_code, wrong))["ok"]
        self.secrets.add_code("mistyped code", wrong)
        assert (await asyncio.to_thread(salon.phone.enter_code, code))["ok"]
        await page.event("whatsapp-connected")
        await self.leave(salon, page)

    async def replace_half_paired(self) -> None:
        """Rows of the previous service, in the forms in which it left them."""
        salon = self.world.salon()
        await asyncio.to_thread(salon.store_half_paired, salon.other_number)
        await asyncio.to_thread(self.secrets.add_salon, salon)
        page = await salon.page().open()
        await self.link(salon, page)
        await self.leave(salon, page)

    async def replace_live(self) -> None:
        """Another phone than the one that is linked and open."""
        template = await LinkedTemplate.make(self.world)
        salon = self.world.salon()
        await asyncio.to_thread(template.store, salon, salon.other_number)
        await asyncio.to_thread(self.secrets.add_salon, salon)
        page = await salon.page().open()
        await page.status("open")
        await self.link(salon, page)
        await self.leave(salon, page)

    async def kill_node(self) -> None:
        """Node.js dies under a code and under an open session."""
        salons = [self.world.salon(), self.world.salon()]
        pages = [await salon.page().open() for salon in salons]
        await self.link(salons[0], pages[0])
        await self.ask(salons[1], pages[1])
        marks = [page.mark for page in pages]
        await asyncio.to_thread(self.world.kill_node)
        await pages[1].event("pairing-code-error", since=marks[1])
        await pages[0].status("open", since=marks[0])
        for salon, page in zip(salons, pages, strict=True):
            await self.leave(salon, page)


def test_nothing_secret_is_printed_reported_or_shown_as_status(tmp_path: Path):
    run = asyncio.run(BusyRun(tmp_path).play())
    secrets = run.secrets
    assert secrets.kinds() >= {
        "creds.noiseKey.private",
        "creds.signedIdentityKey.private",
        "creds.signedPreKey.keyPair.private",
        "creds.advSecretKey",
        "pre-key.private",
        "QR text",
        "pairing code",
        "page token",
        "phone number",
    }

    once = PRINTED_BY_SERVE.findall(run.logs)
    assert len(once) == 2
    for line in once:
        secrets.add_text("what serve prints once", re.split(r"[ =]", line)[-1])
    logs = PRINTED_BY_SERVE.sub("", run.logs)
    assert " DEBUG " in logs
    assert not secrets.found_in([logs])
    assert not re.search(r"eyJ[\w-]{10,}\.[\w-]+", logs)
    # It would have been found.
    planted = next(iter(secrets.needles))
    assert secrets.found_in([f"{logs}\nINFO whatsapp: {planted}\n{logs}"])

    assert any("engine_crashed" in text for text in run.envelopes)
    assert not secrets.found_in(run.envelopes)
    # What operators shall be told: another phone than before, in both of its kinds.
    mismatches = [text for text in run.envelopes if "phone_mismatch_cleanup: " in text]
    assert any("half_paired" in text for text in mismatches)
    assert any("other_phone" in text for text in mismatches)

    assert len(run.statuses) > 20
    assert not secrets.found_in(run.statuses)


KEY = bytes(range(0xC1, 0xE1))


@pytest.mark.parametrize(
    "line",
    [
        base64.b64encode(KEY).decode(),
        base64.urlsafe_b64encode(KEY).decode(),
        KEY.hex(),
        f"<Buffer {KEY.hex(' ')[:60]} ...>",
        json.dumps({"type": "Buffer", "data": list(KEY)}),
        str(list(KEY)).replace(" ", ""),
        json.dumps(dict(enumerate(KEY)), separators=(",", ":")),
        repr(KEY),
        "ABCD-1234",
        "ABCD1234",
        "+79001234567",
    ],
)
def test_a_secret_is_found_in_whatever_form_it_is_written(line: str):
    secrets = Secrets()
    secrets.add_stored("key", {"type": "Buffer", "data": list(KEY)})
    secrets.add_text("phone number", "9001234567")
    secrets.add_code("pairing code", "ABCD-1234")
    log = "2026-01-01 10:00:00,000 INFO whatsapp: company_1: a link is tried\n"
    assert not secrets.found_in([log])
    (found,) = secrets.found_in([f"{log}key: {line}\n{log}"])
    assert line not in found
