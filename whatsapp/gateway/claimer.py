"""Which salons this gateway runs: it claims, shares with the others, and lets go."""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from dataclasses import replace
from typing import Any, Protocol

import psycopg

from whatsapp import alerts
from whatsapp.gateway import balance
from whatsapp.gateway.database import DATABASE_AWAY, DATABASE_ERRORS, Services
from whatsapp.gateway.messages import Abandon, Leave, Look
from whatsapp.gateway.ownership import PROBE_SECONDS, LocksLost, Ownership
from whatsapp.gateway.runner import SalonRunner
from whatsapp.services import attempts, claims, gateways
from whatsapp.services.claims import Work
from whatsapp.services.gateways import Share

logger = logging.getLogger(__name__)

CLAIM_BATCH = 200
RECONNECT_SECONDS = 0.5
LEFT_SECONDS = 1.5
"""What is still free after that is anybody's, however many one has already."""

SETTLED_LOOKS = 2
"""So many looks the gateways must have been the same ones before anything moves."""
MOVED_SECONDS = 3.0
"""For so long a salon that was handed over is left to the other."""

CLOSE_SECONDS = 1.8
COURTESY_SECONDS = 0.5
POLL_SECONDS = 0.05
ENTERED_SECONDS = 1.0
"""For so long a code that was just typed on the phone may still become a link."""
WAVE = 5
WAVES = 40
WAVE_SECONDS = 0.5
"""Many salons are handed over in waves, so many to each of the others: meanwhile the
next ones are still connected here. Two waves go at once."""

LOST = (LocksLost, psycopg.OperationalError, *DATABASE_ERRORS)


class Host(Protocol):
    """What the claimer needs of the gateway around it."""

    name: str
    services: Services
    runners: dict[int, SalonRunner]
    left: asyncio.Event
    """Set whenever a runner has ended."""

    def start_runner(
        self, salon_pk: int, free_since: float, work: Work | None, *, handed_over: bool
    ) -> None: ...

    async def catch_up(self) -> None:
        """Learn what sessions have to know before they start."""

    async def abandon(self, runners: Iterable[SalonRunner]) -> None: ...

    def spawn(
        self, work: Coroutine[Any, Any, None], name: str
    ) -> asyncio.Task[None]: ...


class Claimer:
    """Keeps the locks of this gateway's salons, and its share of them fair.

    Args:
        host: the gateway.
        gateway_id: of its row.
        conninfo: libpq connection string, straight to PostgreSQL.
    """

    def __init__(self, host: Host, gateway_id: int, conninfo: str) -> None:
        self.is_claiming = False
        self.gateways = 1
        """How many there are, this one included."""
        self._host = host
        self._id = gateway_id
        self._ownership = Ownership(conninfo, host.name, gateway_id, self._on_free)
        self._claiming = asyncio.Lock()
        self._patient_until = 0.0
        self._free_since: dict[int, float] = {}
        self._later: asyncio.Task[None] | None = None
        self._called: dict[int, None] = {}  # in the order of the calls
        self._answering: asyncio.Task[None] | None = None
        self._moved: dict[int, float] = {}
        self._known: frozenset[int] = frozenset()
        self._same_looks = 0

    # --- the locks --------------------------------------------------------------------

    async def own(self) -> None:
        """Hold the lock connection; without it, hold no socket for long."""
        tries = 0
        while True:
            try:
                await self._ownership.connect()
                await self._regain()
                self.is_claiming = True
                tries = 0
                await self.claim_all()
                await self._ownership.watch()
            except LOST as error:
                logger.warning(
                    "Ownership is lost: %s",
                    type(error).__name__,
                    extra=alerts.tags("ownership_lost", category="database"),
                )
            self.is_claiming = False
            self._patient_until = self._now() + claims.GRACE_SECONDS
            await self._ownership.close()
            if not self._ownership.may_hold:
                await self._host.abandon(self._host.runners.values())
            if tries:
                await asyncio.sleep(RECONNECT_SECONDS)
            tries += 1

    async def _regain(self) -> None:
        """Go on with those salons that nobody else has claimed meanwhile."""
        staying = [
            pk for pk, runner in self._host.runners.items() if not runner.is_leaving
        ]
        locked = await self._ownership.acquire(staying)
        still = await self._host.services(claims.still_owned, locked, self._host.name)
        # Some have ended while we asked.
        kept = [pk for pk in still if self._is_staying(pk)]
        await self._ownership.release(set(locked) - set(kept))
        lost = set(self._host.runners) - set(kept)
        if lost:
            await self._host.abandon([self._host.runners[pk] for pk in lost])
        # One that still stores a newly linked device settles its salon itself.
        await self._host.services(
            claims.settle_lost, self._host.name, [*kept, *self._host.runners]
        )
        await self._ownership.join()
        for pk in kept:
            self._host.runners[pk].post(Look())
        if staying:
            logger.info("%d of %d salons are still ours", len(kept), len(staying))

    def _is_staying(self, pk: int) -> bool:
        runner = self._host.runners.get(pk)
        return runner is not None and not runner.is_leaving

    async def close(self) -> None:
        """Close the lock connection; whatever it still holds is free."""
        await self._ownership.close()

    # --- claiming ---------------------------------------------------------------------

    async def claim_all(self) -> None:
        """Claim this gateway's share of the salons that want one and have none.

        What the others leave of theirs is taken a moment later.
        """
        while self.is_claiming:
            candidates = await self._host.services(
                claims.candidates,
                CLAIM_BATCH,
                self._host.name,
                patient=self._is_patient(),
            )
            wanted = [pk for pk in candidates if self._is_free(pk)]
            mine = await self._share_of(wanted)
            # Some may be another gateway's by now: then there are others for us.
            if not mine or not await self.claim(mine):
                break
        if self._free_since and self.is_claiming:
            self._look_later()

    def _look_later(self) -> None:
        if self._later is None or self._later.done():
            self._later = self._host.spawn(self._claim_leftovers(), "leftovers")

    async def _claim_leftovers(self) -> None:
        await asyncio.sleep(LEFT_SECONDS)
        self._later = None
        with contextlib.suppress(LocksLost):
            await self.claim_all()

    def _still_free(self, pks: list[int]) -> list[int]:
        for pk in pks:
            if pk in self._host.runners:
                # Claimed while this claim waited, from rows read before the call.
                self._host.runners[pk].post(Look(hurry=True))
        return [pk for pk in pks if self._is_free(pk)]

    def _is_free(self, pk: int) -> bool:
        # A runner that still ends (a paired device to store) keeps its salon out.
        return pk not in self._host.runners and not self._was_moved(pk)

    async def _share_of(self, wanted: list[int]) -> list[int]:
        """Return those that this gateway should take, and those that nobody took."""
        now = self._now()
        self._free_since = {pk: self._free_since.get(pk, now) for pk in wanted}
        if not wanted:
            return []
        shares = await self._host.services(gateways.shares)
        room = balance.target(shares, self._id, len(wanted)) - len(self._ownership.held)
        left = [
            pk for pk in wanted if now - self._free_since.get(pk, now) >= LEFT_SECONDS
        ]
        mine = balance.preferred(wanted, shares, self._id)[: max(room, 0)]
        return list(dict.fromkeys([*mine, *left]))

    async def claim(self, pks: list[int], *, handed_over: bool = False) -> int:
        """Claim salons and start a runner for each; return how many are ours now.

        Args:
            pks: the salons.
            handed_over: another gateway has just left them to this one.
        """
        async with self._claiming:
            free = self._still_free(pks)
            if not (self.is_claiming and free):
                return 0
            # After they were seen to be due: what made them due is known by then.
            await self._host.catch_up()
            locked = await self._ownership.acquire(free)
            for pk in free:
                if pk not in locked:  # another gateway's by now
                    self._free_since.pop(pk, None)
            if not locked:
                return 0
            now = self._now()
            since = {pk: self._free_since.setdefault(pk, now) for pk in locked}
            try:
                ours = await self._host.services(
                    claims.take_over,
                    locked,
                    self._host.name,
                    patient=self._is_patient(),
                    # A connection that was cut is made anew within that time.
                    ownerless=[
                        pk for pk, at in since.items() if now - at > PROBE_SECONDS
                    ],
                )
            except DATABASE_ERRORS:
                # A lock without a runner would keep the salon from everybody.
                await self._ownership.release(locked)
                raise
            await self._ownership.release(set(locked) - set(ours))
            works = await self._works(ours)
            for pk in ours:
                self._free_since.pop(pk, None)
                self._host.start_runner(
                    pk, since[pk], works.get(pk), handed_over=handed_over
                )
            if len(ours) < len(locked):
                self._look_later()
            return len(ours)

    def call(self, pk: int) -> None:
        """Claim a salon that somebody wants something of.

        Those that are called while others are being claimed come next, all together:
        each claim asks the database four times, however many salons it is about.
        """
        self._called[pk] = None
        if self._answering is None or self._answering.done():
            self._answering = self._host.spawn(self._claim_called(), "called salons")

    async def _claim_called(self) -> None:
        while self._called:
            pks = list(self._called)
            self._called.clear()
            try:
                await self.claim(pks)
            except (LocksLost, *DATABASE_ERRORS) as error:
                # The regular look finds them.
                logger.warning(
                    "Cannot claim: %s", type(error).__name__, extra=DATABASE_AWAY
                )

    async def _works(self, pks: list[int]) -> dict[int, Work]:
        """Read at once what there is to do; without it, each salon looks for itself."""
        try:
            return await self._host.services(claims.works, pks, self._host.name)
        except DATABASE_ERRORS as error:
            logger.warning("Salons not looked at: %s", type(error).__name__)
            return {}

    def _is_patient(self) -> bool:
        return self._now() < self._patient_until

    def _on_free(self, pks: list[int]) -> None:
        self._host.spawn(self._claim_left(pks), "hand-over from another gateway")

    async def _claim_left(self, pks: list[int]) -> None:
        with contextlib.suppress(LocksLost):
            await self.claim(pks, handed_over=True)

    async def release(self, runner: SalonRunner, to: str = "") -> None:
        """Give a salon up: its owner is cleared first, then its lock is freed.

        Args:
            runner: of the salon.
            to: the gateway that is to have it; empty: nobody needs to.
        """
        pk = runner.salon_pk
        try:
            await self._host.services(claims.give_up, [pk], self._host.name)
        except DATABASE_ERRORS as error:
            # A stale owner is no harm: what counts is the lock.
            logger.warning("Owner not cleared: %s", type(error).__name__)
        with contextlib.suppress(LocksLost):  # then it is free already
            await self._ownership.release([pk])
            if to:
                self._moved[pk] = self._now()
                await self._ownership.tell_free([pk], to)

    # --- sharing ----------------------------------------------------------------------

    async def share(self) -> None:
        """Count the gateways; hand salons over if this one has too many."""
        shares = await self._host.services(gateways.shares)
        self.gateways = max(1, len(shares))
        known = frozenset(share.id for share in shares)
        self._same_looks = self._same_looks + 1 if known == self._known else 0
        self._known = known
        surplus = len(self._ownership.held) - balance.target(shares, self._id)
        if surplus <= 0 or self._same_looks < SETTLED_LOOKS:
            return
        movable = [one for one in self._host.runners.values() if one.may_move]
        # Who is not connected loses nothing.
        movable.sort(key=lambda runner: runner.is_open)
        moving = movable[: balance.to_move(surplus)]
        takers = balance.receivers(shares, self._id, len(moving))
        for runner, taker in zip(moving, takers, strict=False):
            runner.post(Leave(taker.name))
        logger.info("%d salons go to other gateways", len(moving))

    def _was_moved(self, pk: int) -> bool:
        at = self._moved.get(pk)
        if at is None:
            return False
        if self._now() - at < MOVED_SECONDS:
            return True
        del self._moved[pk]
        return False

    # --- the end ----------------------------------------------------------------------

    async def hand_over(self) -> None:
        """Close every socket and leave every salon to the others.

        At once if there are few, or if nobody is there to take them; else in waves.
        """
        self.is_claiming = False
        others = await self._others()
        # Who is just linking a phone is given all the time that there is.
        runners = sorted(
            self._host.runners.values(), key=lambda one: one.attempt_id is not None
        )
        size = max(WAVE * len(others), -(-len(runners) // WAVES))
        if not others or len(runners) <= 2 * WAVE:
            size = max(len(runners), 1)
        for start in range(0, len(runners), size):
            if start:
                await asyncio.sleep(WAVE_SECONDS)
            await self._let_go(runners[start : start + size], others)

    async def _others(self) -> list[Share]:
        """Be counted no longer; return who is there to take the salons."""
        found: list[Share] = []

        async def ask() -> None:
            await self._ownership.leave()
            shares = await self._host.services(gateways.shares)
            found.extend(share for share in shares if share.id != self._id)

        await self._briefly(ask)
        return found

    async def _let_go(self, runners: list[SalonRunner], others: list[Share]) -> None:
        """Close these salons' sockets; leave each to the others as soon as it is closed."""
        await self._until(
            lambda: not any(runner.is_entered for runner in runners), ENTERED_SECONDS
        )
        for runner in runners:
            runner.post(Abandon())
        waiting = {runner.salon_pk for runner in runners}
        deadline = self._now() + CLOSE_SECONDS

        def one_has_closed() -> bool:
            return not waiting <= self._host.runners.keys()

        while waiting and self._now() < deadline:
            await self._until(one_has_closed, deadline - self._now())
            closed = waiting - self._host.runners.keys()
            waiting -= closed
            await self._leave(sorted(closed), others)
        # What is not closed by now keeps its lock until Node.js has ended.

    async def _leave(self, pks: list[int], others: list[Share]) -> None:
        async def tell() -> None:
            await self._host.services(attempts.end_shown_codes, pks)
            await self._host.services(claims.give_up, pks, self._host.name)

        if not pks:
            return
        await self._briefly(tell)
        with contextlib.suppress(LocksLost):
            # The next owner finds them free when it hears of them.
            await self._ownership.release(pks)
            takers = balance.receivers(others, self._id, len(pks))
            for place, taker in enumerate(others):
                theirs = [
                    pk for pk, to in zip(pks, takers, strict=False) if to is taker
                ]
                await self._ownership.tell_free(theirs, taker.name)
                others[place] = replace(taker, salons=taker.salons + len(theirs))

    async def _briefly(self, work: Callable[[], Awaitable[None]]) -> None:
        """Give a courtesy a moment; a thread that waits for the database goes on."""
        try:
            async with asyncio.timeout(COURTESY_SECONDS):
                await work()
        except (TimeoutError, *LOST) as error:
            logger.warning("Hand-over: %s", type(error).__name__)

    async def _until(self, condition: Callable[[], bool], within: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(within):
                while not condition():
                    self._host.left.clear()
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(POLL_SECONDS):
                            await self._host.left.wait()

    @staticmethod
    def _now() -> float:
        return asyncio.get_running_loop().time()
