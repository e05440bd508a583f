"""Keeps the logs, and with them Sentry, from drowning in repetitions."""

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

PAUSE_SECONDS = 60.0


class OncePerMinute(logging.Filter):
    """Lets each sentence of a logger pass once a minute."""

    def __init__(self) -> None:
        """Start with everything still to be said."""
        super().__init__()
        self._said: dict[str, float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Say whether the record's sentence, whatever its arguments, is due."""
        now = time.monotonic()
        said = self._said.get(record.msg)
        if said is not None and now < said + PAUSE_SECONDS:
            return False
        self._said[record.msg] = now
        return True


SALONS_PER_PAUSE = 30
KINDS = 200
# A stranger decides how often it happens, and nobody has to hurry.
PAUSES = {"tokenValidation": 600.0}


@dataclass(slots=True)
class _Kind:
    since: float
    pause: float
    salons: set[str] = field(default_factory=set)
    swallowed: int = 0


class Pace:
    """How often operators are told of a kind of trouble: once a minute, in a process.

    Of a trouble that salons have each for themselves, once a minute for each of some
    dozens of salons. What is swallowed is counted, and told with the next one.

    Args:
        clock: seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """Start with nothing told."""
        self._clock = clock
        self._kinds: dict[str, _Kind] = {}
        self._lock = threading.Lock()

    def admit(self, kind: str, salon: str = "", operation: str = "") -> int | None:
        """Say whether one more may be told.

        Args:
            kind: what it is about.
            salon: whose it is; empty: nobody's, or everybody's.
            operation: some have a longer pause.

        Returns:
            How many of the kind were swallowed since the last that was told; None: this
            one is.
        """
        with self._lock:
            found = self._find(kind, PAUSES.get(operation, PAUSE_SECONDS))
            if found is None:
                return None
            if salon in found.salons or len(found.salons) >= SALONS_PER_PAUSE:
                found.swallowed += 1
                return None
            found.salons.add(salon)
            swallowed, found.swallowed = found.swallowed, 0
            return swallowed

    def _find(self, kind: str, pause: float) -> _Kind | None:
        now = self._clock()
        found = self._kinds.get(kind)
        if found is None:
            if len(self._kinds) >= KINDS:
                self._forget(now)
            if len(self._kinds) >= KINDS:
                return None
            found = self._kinds[kind] = _Kind(now, pause)
        elif now >= found.since + found.pause:
            found.since = now
            found.salons.clear()
        return found

    def _forget(self, now: float) -> None:
        for kind, found in list(self._kinds.items()):
            if now >= found.since + found.pause:
                del self._kinds[kind]
