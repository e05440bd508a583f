"""One salon of the tests of gateways: what its people do, and what can be seen of it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from tests.sealed import opened_creds
from tests.simulator import Phone
from whatsapp import events
from whatsapp.events import Snapshot
from whatsapp.models import (
    ArchivedCredentials,
    PairingAttempt,
    Salon,
    WhatsAppAuth,
    WhatsAppKey,
    WhatsAppSession,
)
from whatsapp.services import pairing, sessions

if TYPE_CHECKING:
    from tests.gateway_fixtures import World

PATIENCE = 60.0
"""Seconds for any single wait; only a failure takes so long."""

T = TypeVar("T")


class SalonStory:
    """One salon: what its people do, and what can be seen of it."""

    def __init__(self, world: World, salon: Salon, phone: Phone) -> None:
        self.world = world
        self.salon = salon
        self.phone = phone
        self.pk = salon.pk

    # What people do

    async def ask_code(self, phone: Phone | None = None) -> pairing.Answer:
        """Ask for a code, as a page does."""
        number = (phone or self.phone).number
        return await self.world.call(
            pairing.request_code, self.salon, f"+{number}", "page"
        )

    async def ask_qr(self) -> pairing.Answer:
        """Ask for a QR, as a page does."""
        return await self.world.call(pairing.request_qr, self.salon, "page")

    async def connect(self) -> None:
        """Wish it to run."""
        await self.world.call(sessions.connect, self.salon, "staff")

    async def disconnect(self) -> None:
        """Wish it to stop."""
        await self.world.call(sessions.disconnect, self.salon, "staff")

    async def reset(self) -> None:
        """Forget the link."""
        await self.world.call(sessions.reset, self.salon, "staff")

    async def enter(self, code: str, phone: Phone | None = None) -> dict[str, Any]:
        """Type a code on the phone."""
        return await asyncio.to_thread((phone or self.phone).enter_code, code)

    async def scan(self, qr: str, phone: Phone | None = None) -> dict[str, Any]:
        """Scan a QR with the phone."""
        return await asyncio.to_thread((phone or self.phone).scan, qr)

    async def link(self, phone: Phone | None = None) -> str:
        """Link by code until the session is open; return the device's JID."""
        await self.ask_code(phone)
        answer = await self.enter(await self.code(), phone)
        assert answer["ok"], answer
        await self.status("open")
        return answer["jid"]

    # What can be seen

    async def snapshot(self) -> Snapshot:
        """Return what a page would be told now."""
        state = await self.world.call(events.snapshot, self.pk)
        assert state is not None
        return state

    async def until(
        self,
        condition: Callable[[Snapshot], T | Literal["", False] | None],
        what: str,
        within: float = PATIENCE,
    ) -> T:
        """Wait until the snapshot fulfils the condition; return what it gave."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + within
        while True:
            state = await self.snapshot()
            if found := condition(state):
                return found
            assert loop.time() < deadline, f"{what}; there is {state}"
            await asyncio.sleep(0.01)

    async def status(self, *wanted: str, within: float = PATIENCE) -> Snapshot:
        """Wait for one of these statuses."""
        return await self.until(
            lambda state: state if state["status"] in wanted else None,
            f"status {wanted}",
            within,
        )

    async def code(self) -> str:
        """Wait for the code that is shown."""
        return await self.until(
            lambda state: state["attempt"] and state["attempt"]["code"], "a code"
        )

    async def qr(self, *, other_than: str = "") -> str:
        """Wait for a QR that is shown."""
        return await self.until(
            lambda state: (
                state["attempt"]
                and state["attempt"]["qr"] != other_than
                and state["attempt"]["qr"]
            ),
            "a QR",
        )

    async def stage(self, wanted: str, error: str = "") -> Snapshot:
        """Wait until the latest attempt is at this stage, with this error."""
        return await self.until(
            lambda state: (
                state
                if state["attempt"]
                and state["attempt"]["stage"] == wanted
                and state["attempt"]["error"] == error
                else None
            ),
            f"stage {wanted} {error}",
        )

    async def session(self) -> WhatsAppSession:
        """Return the session row."""
        return await self.world.call(WhatsAppSession.objects.get, salon=self.salon)

    async def creds(self) -> dict[str, Any] | None:
        """Return the stored creds."""
        rows = WhatsAppAuth.objects.filter(company_id=self.salon.session_id)
        row = await self.world.call(rows.first)
        return opened_creds(row.company_id, row.creds) if row else None

    async def me(self) -> str:
        """Return the JID in the stored creds; "" if there are none."""
        creds = await self.creds()
        return str(creds["me"]["id"]) if creds else ""

    async def key_count(self) -> int:
        """Return how many Signal keys are stored."""
        rows = WhatsAppKey.objects.filter(company_id=self.salon.session_id)
        return await self.world.call(rows.count)

    async def attempts(self) -> list[tuple[str, str, str]]:
        """Return (kind, stage, error) of every attempt, oldest first."""
        rows = PairingAttempt.objects.filter(salon=self.salon).order_by("id")
        return await self.world.call(
            lambda: list(rows.values_list("kind", "stage", "error"))
        )

    async def archive(self) -> list[tuple[str, str]]:
        """Return (phone, reason) of what was archived, oldest first."""
        rows = ArchivedCredentials.objects.filter(salon=self.salon).order_by("id")
        return await self.world.call(lambda: list(rows.values_list("phone", "reason")))

    async def no_owner(self) -> None:
        """Wait until no gateway runs it."""
        await self.world.until(self._has_no_owner, "the salon is released")

    async def _has_no_owner(self) -> bool:
        return not (await self.session()).owner
