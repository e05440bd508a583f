"""How fast sessions start."""

import asyncio

import pytest

from whatsapp.gateway.pace import BURST, Pace


async def test_a_few_start_at_once_and_then_so_many_per_second() -> None:
    now = asyncio.get_running_loop().time()
    pace = Pace(per_second=2)
    turns = [pace.turn() - now for _ in range(BURST + 4)]
    assert turns[:BURST] == pytest.approx([0] * BURST, abs=0.3)
    assert turns[BURST:] == pytest.approx([0.5, 1, 1.5, 2], abs=0.3)


async def test_another_rate_counts_from_the_next_turn_on() -> None:
    pace = Pace(per_second=1)
    before = [pace.turn() for _ in range(BURST + 2)][-1]
    pace.per_second = 10
    assert pace.turn() - before == pytest.approx(0.1, abs=0.01)
