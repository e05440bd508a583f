"""The contract with Node.js, and the policy of the reasons, without a process."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from whatsapp.engine import protocol
from whatsapp.engine.errors import CodeRefused
from whatsapp.engine.protocol import Closed, SessionRef
from whatsapp.engine.reasons import DisconnectReason
from whatsapp.engine.slots import Slots

REF = SessionRef("company_1", 7, 3)

POLICIES = [
    "is_restart",
    "is_logged_out",
    "is_banned",
    "is_outdated",
    "is_replaced",
    "is_refs_ended",
    "is_multidevice_mismatch",
    "is_bad_session",
    "is_engine_crashed",
    "is_store_sealed",
    "is_transient",
]


@pytest.mark.parametrize("value", [0, 1, 418, 499, 999, -5])
def test_an_unknown_number_is_a_transient_reason(value: int) -> None:
    reason = DisconnectReason.parse(value)
    assert reason == value
    assert reason.name == f"STATUS_{value}"
    assert reason.is_transient
    assert f"{reason!r}"


@pytest.mark.parametrize("value", [None, "401", 4.5, True, {}])
def test_what_is_no_number_is_unknown(value: object) -> None:
    assert DisconnectReason.parse(value) is DisconnectReason.UNKNOWN


@pytest.mark.parametrize("reason", DisconnectReason)
def test_at_most_one_policy_holds(reason: DisconnectReason) -> None:
    holding = [policy for policy in POLICIES if getattr(reason, policy)]
    # These two are neither the network's nor WhatsApp's doing: trying again is in vain.
    in_vain = (DisconnectReason.BAD_SIGNATURE, DisconnectReason.STORE_REFUSED)
    assert len(holding) == (0 if reason in in_vain else 1)


@pytest.mark.parametrize(
    ("origin", "status", "reached", "reason"),
    [
        ("refs", 408, True, DisconnectReason.REFS_ENDED),
        ("transport", 408, False, DisconnectReason.UNREACHABLE),
        ("timeout", 408, False, DisconnectReason.UNREACHABLE),
        ("transport", 408, True, DisconnectReason.CONNECTION_LOST),
        ("transport", 428, True, DisconnectReason.CONNECTION_CLOSED),
        ("http", 403, False, DisconnectReason.HTTP_STATUS),
        ("failure", 403, True, DisconnectReason.FORBIDDEN),
        ("stream", 515, True, DisconnectReason.RESTART_REQUIRED),
        ("pairing", None, True, DisconnectReason.BAD_SIGNATURE),
        ("none", None, True, DisconnectReason.UNKNOWN),
    ],
)
def test_where_an_end_came_from_tells_equal_numbers_apart(
    origin: str, status: int | None, reached: bool, reason: DisconnectReason
) -> None:
    ending = {"origin": origin, "status": status, "reached": reached, "detail": ""}
    assert protocol.reason_of(ending) == reason


def make_closed(**fields: Any) -> Closed:
    ending = {
        "origin": "failure",
        "status": 401,
        "reached": True,
        "detail": "Connection Failure",
        "was_open": False,
        "linked": True,
        **fields,
    }
    event = protocol.session_event(REF, {"ev": "closed", "closed": ending})
    assert isinstance(event, Closed)
    return event


def test_the_three_meanings_of_401() -> None:
    forgotten = make_closed()
    assert forgotten.is_confirmed_logout
    assert not forgotten.is_device_removed
    removed = make_closed(origin="stream", was_open=True)
    assert removed.is_confirmed_logout
    assert removed.is_device_removed
    never_linked = make_closed(linked=False)
    assert never_linked.reason.is_logged_out
    assert not never_linked.is_confirmed_logout


def test_an_unknown_event_is_an_error_of_its_own() -> None:
    with pytest.raises(KeyError):
        protocol.session_event(REF, {"ev": "surprise"})
    with pytest.raises(KeyError):
        protocol.session_event(REF, {"ev": "qr"})


@pytest.mark.parametrize("line", [b"", b"nonsense", b"[]", b"1"])
def test_a_line_that_is_no_message_is_refused(line: bytes) -> None:
    with pytest.raises(ValueError, match=r".*"):
        protocol.decode(line)


def test_a_refusal_keeps_what_whatsapp_said() -> None:
    refused = protocol.refusal(
        {"kind": "rate_limited", "detail": "429 rate-overlimit", "backoff": 60}
    )
    assert refused.kind is CodeRefused.Kind.RATE_LIMITED
    assert refused.retry_after == 60
    assert refused.reason is None


async def test_slots_are_granted_in_order_and_given_back() -> None:
    slots = Slots(2, hold=60)
    turns = [slots.turn() for _ in range(4)]
    assert await turns[0].wait()
    assert await turns[1].wait()
    assert slots.waiting == 2
    turns[2].release()
    assert not await turns[2].wait()
    turns[0].release()
    turns[0].release()
    assert await turns[3].wait()
    assert slots.waiting == 0
    for turn in turns:
        turn.release()


async def test_a_slot_is_not_held_for_longer_than_its_time() -> None:
    slots = Slots(1, hold=0.01)
    first, second = slots.turn(), slots.turn()
    assert await first.wait()
    assert await second.wait()
    first.release()
    assert slots.waiting == 0


async def test_a_cancelled_wait_gives_up_its_turn() -> None:
    slots = Slots(1, hold=60)
    held, given_up, last = slots.turn(), slots.turn(), slots.turn()
    waiting = asyncio.create_task(given_up.wait())
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.wait([waiting])
    assert waiting.cancelled()
    held.release()
    assert await last.wait()
