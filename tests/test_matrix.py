"""Every stored state × every way to ask × every fault, from outside.

Each cell is a salon with phones of its own; the cells of one fault run side by side.
A cell ends, within its clock, connected or with a true error and a next action that
then works. At the end the simulator's journal must not show two live sockets of one
device, nor a login with creds that were never linked.

``make matrix`` runs all cells and prints the table; ``make test`` a part of them.
"""

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.matrix_cells import (
    FAULT_FIRST,
    HELLO_ERRORS,
    Cell,
    Play,
    Table,
    run_cells,
)
from tests.scenarios import World
from tests.simulator import Simulator
from tests.stored_state import LinkedTemplate

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(400)]


async def none(cell: Cell) -> str:
    """Nothing goes wrong."""
    await cell.request()
    outcome = await cell.finish()
    expected = "connected"
    if cell.is_linked_to_asked and cell.ask == "code":
        expected = "ALREADY_CONNECTED"
    assert outcome == expected, (outcome, cell.page.summary())
    return outcome


def hello(answer: int) -> Play:
    """WhatsApp refuses the code."""

    async def play(cell: Cell) -> str:
        fault = await asyncio.to_thread(
            cell.simulator.fault, "hello", phone=cell.salon.number, answer=answer
        )
        await cell.request()
        outcome = await cell.finish()
        await asyncio.to_thread(fault.remove)
        if outcome not in ("connected", "ALREADY_CONNECTED"):
            assert cell.ask == "code"
            assert outcome == HELLO_ERRORS[answer], (outcome, cell.page.summary())
            await (_use_the_qr(cell) if answer == 429 else cell.succeed())
        return outcome

    return play


async def _use_the_qr(cell: Cell) -> None:
    """After 429 the phone must rest; the other way still works."""
    _, data = (
        cell.page.said[-1]
        if cell.page.said[-1][0] == "pairing-code-error"
        else (await cell.page.event("pairing-code-error", since=cell.mark))
    )
    assert data["retryAfter"] > 0
    if cell.state.endswith("open"):
        return  # the old phone is connected again, untouched
    await cell.request("qr")
    name, data = await cell.answer(retry_qr=True)
    assert name == "qr-update", cell.page.summary(cell.mark)
    await cell.enter(name, data)
    await cell.page.event("whatsapp-connected", since=cell.mark)


def everywhere(kind: str, *errors: str, **params: Any) -> Play:
    """A fault of WhatsApp or of the network for all, while they ask."""

    async def play(cell: Cell) -> str:
        await cell.group.together(lambda: cell.simulator.fault(kind, **params))
        if not cell.is_open:
            await cell.open_page()
        await cell.request()
        outcome = await cell.finish()
        await cell.group.together(cell.simulator.clear_faults)
        if outcome not in ("connected", "ALREADY_CONNECTED"):
            assert outcome in errors, (
                cell.state,
                cell.ask,
                outcome,
                cell.page.summary(),
            )
            await cell.succeed()
        else:
            assert cell.is_linked_to_asked
        return outcome

    FAULT_FIRST.add(play)
    return play


async def dropped_before_answer(cell: Cell) -> str:
    """The connection drops while WhatsApp thinks about the code."""
    fault = await asyncio.to_thread(
        cell.simulator.fault, "hello", phone=cell.salon.number, answer="drop", times=1
    )
    await cell.request()
    outcome = await cell.finish()
    await asyncio.to_thread(fault.remove)
    assert outcome in ("connected", "ALREADY_CONNECTED"), cell.page.summary()
    return outcome


def while_shown(
    action: Callable[[Cell], object], *, loses_code: bool = True, is_kept: bool = False
) -> Play:
    """Something ends while the code or QR is on the screen.

    Args:
        action: what happens.
        loses_code: a code that is lost with it is said to be.
        is_kept: it need not be lost at all; where it is, that is said as well.
    """

    async def play(cell: Cell) -> str:
        name, data = await cell.shown()
        cell.mark = cell.page.mark
        await cell.group.together(lambda: action(cell))
        if name in ("whatsapp-connected", "pairing-code-error"):
            return "connected" if name == "whatsapp-connected" else data["code"]
        if is_kept and await cell.is_taken(name):
            await cell.page.event("whatsapp-connected", since=cell.mark)
            return "connected"
        if name == "pairing-code" and loses_code:
            _, data = await cell.page.event("pairing-code-error", since=cell.mark)
            assert data["code"] == "CODE_EXPIRED", data
            await cell.succeed()
            return "CODE_EXPIRED"
        # The old one may have been told twice: by itself, and because it was asked for.
        shown = data.get("qr")
        name, data = await cell.page.wait(
            lambda event, said: event == "qr-update" and said["qr"] != shown,
            cell.mark,
            "a new QR",
        )
        await cell.enter(name, data)
        await cell.page.event("whatsapp-connected", since=cell.mark)
        return "connected"

    return play


async def browser_leaves(cell: Cell) -> str:
    """The person switches to the WhatsApp app and comes back."""
    name, data = await cell.shown()
    if name in ("whatsapp-connected", "pairing-code-error"):
        return data.get("code") or "connected"
    await cell.page.close()
    back = await cell.salon.page().open()
    cell.page, cell.mark = back, 0
    again, replayed = await back.event(name)
    assert replayed.get("code") == data.get("code")
    await cell.enter(again, replayed)
    await back.event("whatsapp-connected")
    return "connected"


async def browser_away_while_linked(cell: Cell) -> str:
    """The page is gone when the code is entered, and learns of it on its return."""
    name, data = await cell.shown()
    if name in ("whatsapp-connected", "pairing-code-error"):
        return data.get("code") or "connected"
    await cell.page.close()
    await cell.enter(name, data)
    cell.page, cell.mark = await cell.salon.page().open(), 0
    await cell.page.event("whatsapp-connected")
    return "connected"


async def second_tab(cell: Cell) -> str:
    """Two pages of a salon see the same."""
    async with cell.salon.page() as other:
        await other.event("status")
        name, data = await cell.shown()
        if name in ("whatsapp-connected", "pairing-code-error"):
            return data.get("code") or "connected"
        _, seen = await other.wait(
            lambda event, said: (
                event == name
                and (said.get("code"), said.get("qr"))
                == (data.get("code"), data.get("qr"))
            )
        )
        await cell.enter(name, seen)
        await cell.page.event("whatsapp-connected", since=cell.mark)
        await other.event("whatsapp-connected")
    return "connected"


async def same_again(cell: Cell) -> str:
    """The same request once more gives the same code, not a new one."""
    name, data = await cell.shown()
    if name in ("whatsapp-connected", "pairing-code-error"):
        return data.get("code") or "connected"
    again, repeated = await cell.shown()
    assert again == name
    assert repeated.get("code") == data.get("code")
    assert repeated.get("qr") == data.get("qr")
    await cell.enter(again, repeated)
    await cell.page.event("whatsapp-connected", since=cell.mark)
    return "connected"


async def other_phone_asked(cell: Cell) -> str:
    """A second request for another phone replaces the first."""
    number = f"7902{cell.salon.number[4:]}"
    name, first = await cell.shown()
    if name in ("whatsapp-connected", "pairing-code-error"):
        return first.get("code") or "connected"
    await cell.request("code", number)
    _, second = await cell.page.wait(
        lambda event, said: event == "pairing-code" and said["phoneNumber"] == number,
        cell.mark,
    )
    phone = await asyncio.to_thread(cell.simulator.phone, number)
    if name == "pairing-code":
        stale = await asyncio.to_thread(cell.salon.phone.enter_code, first["code"])
        assert not stale["ok"]
    assert (await asyncio.to_thread(phone.enter_code, second["code"]))["ok"]
    await cell.page.event("whatsapp-connected", since=cell.mark)
    return "connected"


async def switch(cell: Cell) -> str:
    """From code to QR, or back, in one step."""
    name, data = await cell.shown()
    if name in ("whatsapp-connected", "pairing-code-error"):
        return data.get("code") or "connected"
    wanted = "qr-update" if name == "pairing-code" else "pairing-code"
    await cell.request("qr" if name == "pairing-code" else "code")
    name, data = await cell.page.event(wanted, since=cell.mark)
    await cell.enter(name, data)
    await cell.page.event("whatsapp-connected", since=cell.mark)
    return "connected"


async def reset_in_the_middle(cell: Cell) -> str:
    """Everything is forgotten while the code is shown; the next try works."""
    await cell.shown()
    cell.mark = cell.page.mark
    await cell.page.send("reset-whatsapp-credentials")
    _, data = await cell.page.event("credentials-reset", since=cell.mark)
    assert data["success"]
    assert await asyncio.to_thread(cell.salon.creds) is None
    await cell.succeed()
    return "connected"


def drop_registrations(cell: Cell) -> None:
    """Cut every connection on which a link is being tried."""
    cell.simulator.drop(stage="registration")


FAULTS: dict[str, Play] = {
    "none": none,
    "400": hello(400),
    "404": hello(404),
    "429": hello(429),
    "silence": everywhere("no-pair-device", "PAIRING_TIMEOUT"),
    "refused connection": everywhere(
        "refuse", "WHATSAPP_UNREACHABLE", "PAIRING_TIMEOUT"
    ),
    "dropped before the answer": dropped_before_answer,
    "dropped while shown": while_shown(drop_registrations),
    "405": everywhere("failure", "ENGINE_OUTDATED", reason=405, on="any"),
    "503": everywhere("failure", "WHATSAPP_UNREACHABLE", reason=503, on="any"),
    "browser leaves and returns": browser_leaves,
    "browser away while linked": browser_away_while_linked,
    "second tab": second_tab,
    "second request, same phone": same_again,
    "second request, other phone": other_phone_asked,
    "code ↔ QR": switch,
    "reset in the middle": reset_in_the_middle,
    "Node killed": while_shown(lambda cell: cell.world.kill_node()),
    "database restarted": while_shown(
        lambda cell: cell.world.restart_database(), is_kept=True
    ),
}


@pytest.fixture(scope="module")
def world(
    tmp_path_factory: pytest.TempPathFactory, simulator: Simulator
) -> Iterator[World]:
    """Return one service for all cells."""
    with World(tmp_path_factory.mktemp("matrix"), simulator) as running:
        yield running


@pytest.fixture(scope="module")
def simulator() -> Iterator[Simulator]:
    """Return a WhatsApp for all cells."""
    with Simulator.start() as running:
        yield running


@pytest.fixture(scope="module")
def template(world: World) -> LinkedTemplate:
    """Return a device to make linked salons from."""
    return asyncio.run(LinkedTemplate.make(world))


@pytest.mark.parametrize("fault", list(FAULTS))
async def test_every_cell_ends_connected_or_with_an_error_and_an_action_that_works(
    fault: str,
    world: World,
    template: LinkedTemplate,
    record_property: Callable[[str, object], None],
    whole_matrix: bool,
) -> None:
    table: Table = {}
    record_property("matrix", (fault, table))
    await run_cells(world, template, fault, FAULTS[fault], table, whole=whole_matrix)
