"""How fast sessions may start: a thousand at once would stampede WhatsApp and us."""

import asyncio

BURST = 10
"""So many may start at once after a quiet while; one salon never waits."""


class Pace:
    """Gives turns, so many per second.

    Args:
        per_second: turns; may be changed at any time.
    """

    def __init__(self, per_second: float) -> None:
        self.per_second = per_second
        self._next = 0.0

    def turn(self) -> float:
        """Reserve the next turn; return when it is, on the loop's clock."""
        now = asyncio.get_running_loop().time()
        step = 1 / self.per_second
        self._next = max(self._next, now - BURST * step) + step
        return max(self._next, now)
