"""Who is to blame for the deaths of Node.js: strikes, probation, conviction."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection
from dataclasses import dataclass

from whatsapp.engine.limits import Limits

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class _Record:
    """What is held against one session."""

    last_strike: float
    deaths: int = 0
    # Deaths of which nobody else was suspected: with others it may have been them.
    alone: int = 0
    convicted: bool = False

    @property
    def is_on_probation(self) -> bool:
        return self.alone > 0 or self.deaths > 1


class Blame:
    """Remembers which sessions were suspected of a death.

    Who was suspected alone, or twice, is on probation: it lives in the ward (ward.py),
    where the next death has one suspect only. That is what convicts it, not how often
    it was there when something died. Somebody who kills Node.js under traffic makes
    many suspects at once; the first time they are only remembered, because the ward
    takes one after the other, and all of them would wait. Whoever kills it again does
    not kill the ward, and so nobody is convicted.

    Args:
        clock: seconds.
    """

    def __init__(self, limits: Limits, clock: Callable[[], float]) -> None:
        self._limits = limits
        self._clock = clock
        self._records: dict[str, _Record] = {}

    def strike(self, process: str, suspects: Collection[str]) -> frozenset[str]:
        """Hold a death against its suspects; those that are convicted by it."""
        now = self._clock()
        self._forgive(now)
        for session_id in suspects:
            record = self._records.setdefault(session_id, _Record(now))
            record.last_strike = now
            record.deaths += 1
            record.alone += len(suspects) == 1
        self._tell(process, suspects)
        convicted = {
            session_id
            for session_id in suspects
            if self._records[session_id].alone >= self._limits.strikes
        }
        for session_id in convicted:
            self._records[session_id].convicted = True
            logger.error(
                "%s has ended Node.js %d times and was the only suspect each time: it "
                "is held back, so that the others can work. Reset or relink this "
                "session if that goes on when it is tried again; what Node.js said "
                "before it died is in the log.",
                session_id,
                self._records[session_id].alone,
                # The caller says of the session that it is held back, and why.
                extra={"reported_elsewhere": True},
            )
        return frozenset(convicted)

    def _tell(self, process: str, suspects: Collection[str]) -> None:
        tried = sorted(one for one in suspects if self._records[one].is_on_probation)
        if tried:
            logger.warning(
                "%s: suspected of its death, and on probation: %s",
                process,
                ", ".join(tried),
            )
        if len(suspects) > len(tried):
            logger.warning(
                "%s: %d sessions were at work when it died",
                process,
                len(suspects) - len(tried),
            )

    def is_on_probation(self, session_id: str) -> bool:
        self._forgive(self._clock())
        record = self._records.get(session_id)
        return record is not None and record.is_on_probation

    def is_anybody_expected(self) -> bool:
        """Whether somebody on probation may come soon; a convict stays away for long."""
        self._forgive(self._clock())
        return any(
            record.is_on_probation and not record.convicted
            for record in self._records.values()
        )

    def acquit(self, session_id: str) -> None:
        """It has lived on probation for long enough, and nothing died."""
        self._records.pop(session_id, None)

    def _forgive(self, now: float) -> None:
        # Being held back proves nothing: a convict has to live first.
        for session_id, record in list(self._records.items()):
            if (
                not record.convicted
                and now - record.last_strike >= self._limits.probation
            ):
                del self._records[session_id]
