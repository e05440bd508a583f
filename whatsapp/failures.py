"""Who fails again and again waits longer and longer.

Counted in this process and kept in its memory: a table that strangers make grow, and a
write for each of their tries, would do their work. With n page servers one gets n times
as many tries, unless the proxy sends him to the same one (docs/deploy.md).
"""

import hashlib
import math
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(slots=True)
class _Entry:
    count: int
    last: float
    until: float


class Failures:
    """Counts failures by key, in bounded memory; used from any thread."""

    def __init__(
        self,
        free: int,
        first: float,
        longest: float,
        *,
        memory: float = 7200.0,
        size: int = 10_000,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Set the pace.

        Args:
            free: so many failures cost nothing.
            first: seconds to wait after the next one; doubled with each further one.
            longest: seconds, and never more.
            memory: seconds without a failure after which all is forgotten.
            size: so many keys; whoever has failed longest ago is forgotten first.
            clock: seconds, from any beginning.
        """
        self._free = free
        self._first = first
        self._longest = longest
        self._memory = memory
        self._size = size
        self._clock = clock
        self._lock = threading.Lock()
        self._entries: OrderedDict[bytes, _Entry] = OrderedDict()

    def wait(self, *key: str) -> int:
        """Return seconds for which ``key`` is to wait; 0: it may try."""
        with self._lock:
            entry = self._entries.get(_digest(key))
            return 0 if entry is None else self._left(entry)

    def count(self, *key: str) -> int:
        """Count a failure; return the seconds for which ``key`` now is to wait.

        What fails while it is to wait anyway does not make that longer.
        """
        digest = _digest(key)
        with self._lock:
            now = self._clock()
            entry = self._entries.setdefault(digest, _Entry(0, now, now))
            self._entries.move_to_end(digest)
            if now - entry.last > self._memory:
                entry.count = 0
            if entry.until <= now:
                entry.count += 1
                entry.last = now
                entry.until = now + self._delay(entry.count)
            while len(self._entries) > self._size:
                self._entries.popitem(last=False)
            return self._left(entry)

    def take_back(self, *key: str) -> None:
        """Undo a failure that was counted before it was known to be none."""
        with self._lock:
            entry = self._entries.get(_digest(key))
            if entry is not None:
                entry.count = max(0, entry.count - 1)
                entry.until = self._clock()

    def forget(self, *key: str) -> None:
        """Let ``key`` begin anew."""
        with self._lock:
            self._entries.pop(_digest(key), None)

    def clear(self) -> None:
        """Forget everybody."""
        with self._lock:
            self._entries.clear()

    def __len__(self) -> int:
        """Return how many keys are remembered."""
        return len(self._entries)

    def _left(self, entry: _Entry) -> int:
        return max(0, math.ceil(entry.until - self._clock()))

    def _delay(self, count: int) -> float:
        over = count - self._free
        if over <= 0:
            return 0
        # The exponent is bounded, too: somebody may go on for years.
        return float(min(self._longest, self._first * 2 ** min(over - 1, 30)))


def _digest(key: tuple[str, ...]) -> bytes:
    # Names are as long as strangers make them; what is kept is not.
    return hashlib.sha256("\0".join(key).encode("utf-8", "replace")).digest()


TOKENS = Failures(free=30, first=30, longest=900)
"""Tokens of pages that were refused, and sockets that showed none, by address."""

API_KEYS = Failures(free=30, first=30, longest=900)
"""Keys of the API that were refused, by address."""

LOGINS_HERE = Failures(free=5, first=30, longest=900)
"""Logins that failed, by address and account."""

LOGINS_FROM = Failures(free=20, first=30, longest=900)
"""Logins that failed, by address, whoever was tried."""

LOGINS_AS = Failures(free=50, first=5, longest=60)
"""Logins that failed, by account, wherever from: short, for else a stranger could lock
somebody out whose name he knows."""

ALL = (TOKENS, API_KEYS, LOGINS_HERE, LOGINS_FROM, LOGINS_AS)
