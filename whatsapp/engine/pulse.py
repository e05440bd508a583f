"""Asks a Node.js how it is doing, and knows when that is bad."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable
from typing import Any

from whatsapp.engine.limits import Limits
from whatsapp.engine.protocol import Message

logger = logging.getLogger(__name__)

MB = 1024 * 1024

_NO_FIGURES = {
    "sessions": 0,
    "rss": 0,
    "heap": 0,
    "codes_ready": 0,
    "lag_mean_ms": 0.0,
    "lag_max_ms": 0.0,
}


class Pulse:
    """The pings to one Node.js and what it answered, through all its lives.

    Args:
        name: for the log.
    """

    def __init__(self, name: str, limits: Limits) -> None:
        # Of the last answer; what they mean is in limits.Stats.
        self.figures: dict[str, Any] = _NO_FIGURES
        self.asked_at: float | None = None
        self.answered_at = 0.0
        # When the first ping was sent that may be without an answer. A Node.js that
        # hangs has read nothing of what came after it.
        self.silent_since = 0.0
        self._name = name
        self._limits = limits
        self._recycled_at = -math.inf
        self._has_warned = False

    def begin(self) -> None:
        """A new life has begun."""
        self.figures, self.asked_at = _NO_FIGURES, None
        self.answered_at = asyncio.get_running_loop().time()

    async def keep(self, send: Callable[[Message], None]) -> None:
        """Tell Node.js that we are here; returns when it has been silent for too long."""
        limits = self._limits
        loop = asyncio.get_running_loop()
        silence = 0.0
        while silence < limits.hang_timeout:
            before = self.answered_at
            if silence == 0:
                self.silent_since = loop.time()
            send({"cmd": "ping", "at": loop.time() * 1000})
            pause = min(limits.ping_interval, limits.hang_timeout - silence)
            await asyncio.sleep(pause)
            # Had we been stopped ourselves, the answer may still lie in the pipe: what
            # we slept beyond the pause does not count.
            silence = 0.0 if self.answered_at > before else silence + pause

    def on_answer(self, message: Message) -> None:
        self.answered_at = asyncio.get_running_loop().time()
        self.asked_at = message["at"] / 1000
        self.figures = {name: message[name] for name in _NO_FIGURES}

    def is_time_to_recycle(self) -> bool:
        """Whether it has grown too large, and not just been replaced for that."""
        limits = self._limits
        if self.figures["rss"] <= limits.memory_mb * MB:
            self._has_warned = False
            return False
        since = self.answered_at - self._recycled_at
        if since >= limits.recycle_interval:
            logger.error(
                "%s, so it is ended and started again",
                self._too_much(),
                extra={"operation": "engine_memory", "category": "performance"},
            )
            self._recycled_at = self.answered_at
            return True
        if not self._has_warned:
            self._has_warned = True
            text = "%s, %.0f s after it was started again for that"
            logger.warning(text, self._too_much(), since)
        return False

    def _too_much(self) -> str:
        figures = self.figures
        return (
            f"{self._name} has {figures['rss'] / MB:.0f} MB of memory "
            f"(heap {figures['heap'] / MB:.0f} MB, {figures['sessions']} sessions), "
            f"more than {self._limits.memory_mb} MB"
        )
