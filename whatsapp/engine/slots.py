"""A few at a time, first come first served."""

from __future__ import annotations

import asyncio
from collections import deque


class Turn:
    """A place in the queue of :class:`Slots`, and then one of its slots."""

    def __init__(self, slots: Slots) -> None:
        self._slots = slots
        self._granted = asyncio.get_running_loop().create_future()
        self._timer: asyncio.TimerHandle | None = None
        self._over = False

    async def wait(self) -> bool:
        """Wait for the slot; False if the turn was released first."""
        try:
            # Shielded: a cancelled wait must not look like a turn that was given up.
            return await asyncio.shield(self._granted)
        except asyncio.CancelledError:
            self.release()
            raise

    def grant(self, hold: float) -> None:
        self._granted.set_result(True)
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(hold, self.release)

    def release(self) -> None:
        """Leave the queue, or give the slot to the next; twice is no harm."""
        if self._over:
            return
        self._over = True
        if self._timer:
            self._timer.cancel()
            self._slots.on_released()
        else:
            self._granted.set_result(False)
            self._slots.on_left(self)


class Slots:
    """Bounds what starts at the same time, because starting is what costs CPU.

    A slot is given back after ``hold`` seconds at the latest: what takes that long
    waits for the network, and must not keep others from starting.
    """

    def __init__(self, size: int, hold: float) -> None:
        self._free = size
        self._hold = hold
        self._queue: deque[Turn] = deque()

    @property
    def waiting(self) -> int:
        return len(self._queue)

    def turn(self) -> Turn:
        turn = Turn(self)
        self._queue.append(turn)
        self._grant_next()
        return turn

    def on_released(self) -> None:
        self._free += 1
        self._grant_next()

    def on_left(self, turn: Turn) -> None:
        self._queue.remove(turn)

    def _grant_next(self) -> None:
        while self._free and self._queue:
            self._free -= 1
            self._queue.popleft().grant(self._hold)
