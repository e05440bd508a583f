"""Keeps the logs, and with them Sentry, from drowning in repetitions."""

import logging
import time

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
