"""How a session's connections ended lately, and how long to wait because of that."""

import asyncio
import random

from whatsapp.engine import DisconnectReason
from whatsapp.gateway import policy


class Streak:
    """The failures in a row of one session. A connection that lasts ends the row."""

    def __init__(self) -> None:
        self.failures = 0
        self.bad_sessions = 0
        self._restarts = 0
        self._cuts = 0
        self._opened_at = 0.0
        self._lost_at = 0.0

    def opened(self) -> None:
        """The session is open; whether that lasts, its end will tell."""
        self._opened_at = self._now()

    def ended_open(self) -> bool:
        """An open connection ended: what was before it counts no more.

        What counts is how often that was at once: one that opens only to be cut has to
        slow down as well as one that does not open.

        Returns:
            Whether it lasted, and all is forgiven.
        """
        open_for = self._now() - self._opened_at
        if open_for < policy.CUT_SECONDS:
            self.failures = self._cuts
            self._cuts += 1
            return False
        self.failures = 0
        self._cuts //= 2
        if open_for < policy.STABLE_SECONDS:
            return False
        self.bad_sessions = self._restarts = self._cuts = 0
        return True

    def may_restart(self) -> bool:
        """Say whether a restart that WhatsApp asks for is obeyed at once; counts it."""
        if self._restarts >= policy.RESTARTS:
            return False
        self._restarts += 1
        return True

    def note(self, reason: DisconnectReason) -> None:
        """Count an end that may become a reason to stop trying."""
        self.bad_sessions += reason.is_bad_session

    def retry_in(self) -> float:
        """Count a failure for which somebody waits; return the seconds to the next try."""
        self.failures += 1
        return policy.retry_delay(self.failures)

    def back_off(self) -> float:
        """Count a failure; return the seconds to wait before the next try.

        With full jitter: those who were lost together do not come back together.
        """
        if not self.failures:
            self._lost_at = self._now()
        self.failures += 1
        delay = policy.reconnect_delay(self.failures, self._now() - self._lost_at)
        return random.uniform(0, delay)  # noqa: S311

    @staticmethod
    def _now() -> float:
        return asyncio.get_running_loop().time()
