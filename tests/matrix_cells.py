"""Cells of the scenario matrix: a salon in a stored state, and how it asks.

The faults are in tests/test_matrix.py, which puts every cell under each of them.
"""

import asyncio
from collections.abc import Awaitable, Callable

from tests.scenarios import Data, Page, SalonUnderTest, World
from tests.stored_state import LinkedTemplate

STATES = [
    "absent",
    "half-paired, same phone",
    "half-paired, other phone",
    "linked, same phone, open",
    "linked, same phone, removed",
    "linked, other phone, open",
    "linked, other phone, removed",
]
ASKS = ["code", "qr"]
HELLO_ERRORS = {
    400: "PAIRING_CODE_FAILED",
    404: "PHONE_NOT_ON_WHATSAPP",
    429: "RATE_LIMITED",
}
ANSWERS = (
    "pairing-code",
    "pairing-code-error",
    "qr-update",
    "whatsapp-connected",
    "error",
)


Table = dict[str, str]
"""The outcome of each cell of one fault; conftest prints it at the end of the run."""


class Group:
    """The cells of one fault: where they wait for each other."""

    def __init__(self, world: World, template: LinkedTemplate, size: int) -> None:
        self.world = world
        self.template = template
        self._ready = asyncio.Barrier(size)

    async def together(self, action: Callable[[], object]) -> None:
        """Wait for all cells, run ``action`` once, and go on together."""
        if await self._ready.wait() == 0:
            await asyncio.to_thread(action)
        await self._ready.wait()


class Cell:
    """One salon on its way."""

    def __init__(self, group: Group, state: str, ask: str) -> None:
        self.group = group
        self.world = group.world
        self.simulator = group.world.simulator
        self.state = state
        self.ask = ask
        self.is_open = state.endswith("open")
        self.salon: SalonUnderTest
        self.page: Page
        self.mark = 0

    async def prepare(self, *, open_page: bool = True) -> None:
        """Store the state, open the page, and wait until it is as it should be."""
        await asyncio.to_thread(self._store)
        self.page = self.salon.page()
        if open_page or self.is_open:
            await self.open_page()

    async def open_page(self) -> None:
        """Open the page; of an unlinked salon it asks for a QR by itself."""
        await self.page.open()
        if self.is_open:
            await self.page.status("open")
        self.mark = self.page.mark

    def _store(self) -> None:
        removed = self.state.endswith("removed")
        # A stopped session is not resumed by the page, so it does not learn too early
        # that its device was removed.
        self.salon = self.world.salon(stopped=removed)
        other = "other phone" in self.state
        number = self.salon.other_number if other else self.salon.number
        if self.state.startswith("half-paired"):
            self.salon.store_half_paired(number)
        elif self.state.startswith("linked"):
            self.group.template.store(self.salon, number)
            if removed:
                self.simulator.phone(number).remove_device()

    @property
    def is_linked_to_asked(self) -> bool:
        """Whether the ask has nothing to do: connected is what it is already."""
        return self.is_open and (self.ask == "qr" or "same" in self.state)

    async def request(self, ask: str | None = None, number: str | None = None) -> None:
        """Ask, as the page does."""
        self.mark = self.page.mark
        if (ask or self.ask) == "code":
            await self.page.send(
                "request-pairing-code", phoneNumber=f"+{number or self.salon.number}"
            )
        else:
            await self.page.send("request-qr")

    async def answer(self, *, retry_qr: bool = False) -> tuple[str, Data]:
        """Return what came of the last request: a code, a QR, connected or an error."""

        def decides(name: str, data: Data) -> bool:
            if name == "qr-update":
                return self.ask == "qr" or retry_qr
            return name in ANSWERS

        return await self.page.wait(
            decides, self.mark, f"{self.state}/{self.ask}: answer"
        )

    async def enter(self, name: str, data: Data) -> None:
        """Play the phone: enter the code, or scan the QR."""
        result = await self._play_phone(name, data)
        assert result["ok"], (result, self.page.summary())

    async def is_taken(self, name: str) -> bool:
        """Play the phone with what was shown last; say whether WhatsApp takes it."""
        shown = [data for event, data in self.page.said if event == name]
        return bool((await self._play_phone(name, shown[-1]))["ok"])

    async def _play_phone(self, name: str, data: Data) -> Data:
        if name == "pairing-code":
            return await asyncio.to_thread(self.salon.phone.enter_code, data["code"])
        return await asyncio.to_thread(self.salon.phone.scan, data["qr"])

    async def finish(self) -> str:
        """From the answer to "connected", as a person would; or the error's code."""
        name, data = await self.answer()
        if name == "whatsapp-connected":
            return "connected"
        if name in ("pairing-code", "qr-update"):
            await self.enter(name, data)
            await self.page.event("whatsapp-connected", since=self.mark)
            return "connected"
        return str(data["code"])

    async def succeed(self) -> None:
        """Ask once more; it must work now."""
        await self.request()
        outcome = await self.finish()
        assert outcome in ("connected", "ALREADY_CONNECTED"), (
            self.state,
            self.ask,
            outcome,
            self.page.summary(self.mark),
        )

    async def shown(self) -> tuple[str, Data]:
        """Ask, and return the code or QR; None if the salon is connected already."""
        await self.request()
        return await self.answer()

    async def check_end(self) -> None:
        """The status is the truth, the tables hold what it says; then let it rest."""
        await self.page.send("get-status")
        mark = self.page.mark
        await self.page.status("open", since=max(0, mark - 1))
        creds = await asyncio.to_thread(self.salon.creds)
        assert creds is not None
        assert creds["account"]
        assert ":" in creds["me"]["id"]
        mark = self.page.mark
        await self.page.send("disconnect-whatsapp")
        await self.page.status("stopped", since=mark)


Play = Callable[[Cell], Awaitable[str]]
FAULT_FIRST: set[Play] = set()
"""Plays that open the page themselves, under the fault: even its first QR meets it."""

QUICK_STATES = ["absent", "half-paired, other phone", "linked, other phone, open"]


async def run_cells(
    world: World,
    template: LinkedTemplate,
    fault: str,
    play: Play,
    table: Table,
    *,
    whole: bool,
) -> None:
    """Run the cells of one fault side by side and check what they left behind."""
    states = STATES if whole else QUICK_STATES
    group = Group(world, template, len(states) * len(ASKS))
    await asyncio.to_thread(world.simulator.reset_journal)
    cells = [Cell(group, state, ask) for state in states for ask in ASKS]

    async def run(cell: Cell) -> None:
        await cell.prepare(open_page=play not in FAULT_FIRST)
        try:
            outcome = await play(cell)
            table[f"{cell.state} / {cell.ask}"] = outcome
            await cell.check_end()
        finally:
            await cell.page.close()

    try:
        async with asyncio.timeout(360), asyncio.TaskGroup() as tasks:
            for cell in cells:
                tasks.create_task(run(cell))
    finally:
        await asyncio.to_thread(world.simulator.clear_faults)
    journal = await asyncio.to_thread(world.simulator.journal)
    assert journal["unknownLogins"] in (0, []), journal["unknownLogins"]
    doubled = [
        jid
        for jid, device in journal["devices"].items()
        if device["peakOpenSockets"] > 1
    ]
    assert not doubled
