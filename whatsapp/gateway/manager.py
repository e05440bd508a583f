"""The gateway: which salons it runs, and one engine for all of them."""

import asyncio
import contextlib
import itertools
import logging
import os
import secrets
import socket
from collections import Counter
from collections.abc import Coroutine, Iterable
from typing import Any

import psycopg
from channels.layers import get_channel_layer
from django.conf import settings

from whatsapp import events
from whatsapp.engine import (
    Alive,
    Closed,
    DisconnectReason,
    Engine,
    EngineError,
    EngineStarted,
    EngineStopped,
    Opened,
    SessionRef,
)
from whatsapp.engine.protocol import Event, SessionEvent
from whatsapp.gateway import policy
from whatsapp.gateway.auth_store import UNSTORED_EPOCH, DatabaseAuthStore
from whatsapp.gateway.database import DATABASE_ERRORS, Services, conninfo
from whatsapp.gateway.messages import Abandon, Gone, Look, Pulse
from whatsapp.gateway.ownership import LocksLost, Ownership
from whatsapp.gateway.runner import SalonRunner
from whatsapp.gateway.web_version import WebVersions
from whatsapp.services import attempts, claims, credentials, sessions, timeline

logger = logging.getLogger(__name__)

CLAIM_BATCH = 200
UNWATCHED_SECONDS = 120.0
ALIVE_FLUSH_SECONDS = 30.0
DEGRADED_SECONDS = 75.0
HAND_OVER_SECONDS = 1.8
COURTESY_SECONDS = 0.5
FIRST_HOUSEKEEPING_SECONDS = 5.0
HOUSEKEEPING_SECONDS = 3600.0
DISMISS_SECONDS = 20.0
RECONNECT_SECONDS = 0.5


class _Listener:
    """Waits for a socket to open or to close."""

    def __init__(self) -> None:
        self.done = asyncio.Event()

    def post(self, message: SessionEvent) -> None:
        if isinstance(message, Opened | Closed):
            self.done.set()


class SessionManager:
    """Claims salons, runs them, and lets them go.

    Args:
        engine_options: passed on to :class:`whatsapp.engine.Engine`.
    """

    def __init__(self, **engine_options: Any) -> None:
        self.name = f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(3)}"[:64]
        self.services = Services()
        self.settings = policy.Clocks(finish=settings.WHATSAPP_FINISH_TIMEOUT)
        self._engine_options = engine_options
        self._generations = itertools.count(1)
        self._runners: dict[int, SalonRunner] = {}
        self._by_generation: dict[int, SalonRunner | _Listener] = {}
        self.replaced: Counter[int] = Counter()
        self._seen: dict[int, float] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._claiming = asyncio.Lock()
        self._idle = asyncio.Event()
        self._owning = False
        self._channel = ""
        self.store: DatabaseAuthStore
        self.engine: Engine
        self.web: WebVersions
        self._ownership: Ownership

    # --- life -------------------------------------------------------------------------

    async def run(self, stop: asyncio.Event) -> None:
        """Run until ``stop`` is set, then hand every salon over.

        Survives the loss of the database, of the channel layer and of Node.js.
        """
        if not await self._starts_before(stop):
            self.services.close()
            return
        try:
            async with asyncio.TaskGroup() as duties:
                running = [
                    duties.create_task(self._own(), name="ownership"),
                    duties.create_task(self._look_regularly(), name="looks"),
                    duties.create_task(self._listen(), name="layer"),
                    duties.create_task(self._watch_life(), name="proof of life"),
                    duties.create_task(self._keep_house(), name="housekeeping"),
                ]
                await stop.wait()
                for duty in running:
                    duty.cancel()
            await self._hand_over()
        finally:
            for task in self._tasks:
                task.cancel()
            if self._tasks:
                await asyncio.wait(self._tasks, timeout=COURTESY_SECONDS)
            await self.engine.stop()
            await self._ownership.close()
            await self.store.close()
            self.services.close()

    async def _starts_before(self, stop: asyncio.Event) -> bool:
        """Start; False if ``stop`` is set first: there is nothing to hand over yet."""
        starting = asyncio.create_task(self._start(), name="start")
        stopping = asyncio.create_task(stop.wait(), name="stop")
        try:
            await asyncio.wait(
                {starting, stopping}, return_when=asyncio.FIRST_COMPLETED
            )
        finally:
            stopping.cancel()
            starting.cancel()  # changes nothing once it is done
            await asyncio.wait({starting, stopping})
        if starting.cancelled():
            return False
        starting.result()
        return True

    async def _start(self) -> None:
        database = await self._reach_database()
        self.store = DatabaseAuthStore(database)
        await self.store.open()
        self._ownership = Ownership(database, self.name)
        self.engine = Engine(
            store=self.store, on_event=self._on_event, **self._engine_options
        )
        try:
            await self.engine.start()
        except BaseException:
            await self.store.close()
            raise
        assert self.engine.versions is not None  # noqa: S101  (it has started)
        self.web = WebVersions(
            self.engine,
            self.services,
            self.spawn,
            self._engine_options.get("web_version") or self.engine.versions.web,
            settings.WHATSAPP_VERSION_URL,
        )

    async def _reach_database(self) -> str:
        while True:
            try:
                return await self.services(conninfo)
            except DATABASE_ERRORS as error:
                logger.warning("No database yet: %s", type(error).__name__)
                await asyncio.sleep(RECONNECT_SECONDS)

    async def _hand_over(self) -> None:
        """Close every socket and free every salon, within two seconds."""
        self._owning = False
        runners = list(self._runners.values())
        for runner in runners:
            runner.post(Abandon())
        if self._runners:
            self._idle.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(HAND_OVER_SECONDS):
                    await self._idle.wait()
        # The locks go with their connection, whether or not the database listens.
        pks = [runner.salon_pk for runner in runners]
        await self._briefly(self.services(claims.give_up, pks, self.name))
        await self._ownership.close()
        await self._briefly(self.services(events.wake_gateways, None))

    async def _briefly(self, work: Coroutine[Any, Any, None]) -> None:
        """Give a courtesy a moment; a thread that waits for the database goes on."""
        task = self.spawn(work, "hand over")
        await asyncio.wait([task], timeout=COURTESY_SECONDS)

    # --- what runners need ------------------------------------------------------------

    def new_ref(self, runner: SalonRunner, session_id: str, epoch: int) -> SessionRef:
        """Return the name of a new socket; its events go to ``runner``."""
        ref = SessionRef(session_id, next(self._generations), epoch)
        self._by_generation[ref.generation] = runner
        return ref

    def dismiss(self, creds: str) -> None:
        """Unlink a newly linked device that must not be kept."""
        self.spawn(self._dismiss(creds), "dismissal")

    async def _dismiss(self, creds: str) -> None:
        """Log in once with the device's own creds, stored nowhere, and unlink it."""
        listener = _Listener()
        generation = next(self._generations)
        ref = SessionRef(f"dismissed_{generation}", generation, UNSTORED_EPOCH)
        self._by_generation[generation] = listener
        try:
            async with asyncio.timeout(DISMISS_SECONDS):
                await self.engine.open(ref, creds, first=True)
                await listener.done.wait()
        except (EngineError, TimeoutError) as error:
            logger.warning("A device was not unlinked: %s", type(error).__name__)
        finally:
            self.end_ref(ref)
            await self.engine.close(ref, unlink=True)

    def end_ref(self, ref: SessionRef) -> None:
        """Hear nothing of a socket any more."""
        self._by_generation.pop(ref.generation, None)

    def spawn(self, work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        """Run ``work`` as a task that ends with the gateway; its errors are logged."""
        task = asyncio.create_task(self._logged(work, name), name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        # A task that is cancelled before its first step never comes to its work.
        task.add_done_callback(lambda _task: work.close())
        return task

    @staticmethod
    async def _logged(work: Coroutine[Any, Any, None], name: str) -> None:
        try:
            await work
        except DATABASE_ERRORS as error:
            logger.warning("%s: the database is away: %s", name, type(error).__name__)
        except Exception:
            logger.exception("%s failed", name)

    async def release(self, runner: SalonRunner) -> None:
        """Give a salon up: its owner is cleared first, then its lock is freed."""
        pk = runner.salon_pk
        try:
            await self.services(claims.give_up, [pk], self.name)
        except DATABASE_ERRORS as error:
            # A stale owner is no harm: what counts is the lock.
            logger.warning("Owner not cleared: %s", type(error).__name__)
        with contextlib.suppress(LocksLost):  # then it is free already
            await self._ownership.release([pk])
        self.forget(runner)
        if runner.missed:
            await self._look_at(pk)

    def forget(self, runner: SalonRunner) -> None:
        """Drop a runner that has ended."""
        self._runners.pop(runner.salon_pk, None)
        self._seen.pop(runner.salon_pk, None)
        if not self._runners:
            self._idle.set()

    # --- ownership --------------------------------------------------------------------

    async def _own(self) -> None:
        """Hold the lock connection; without it, hold no socket."""
        while True:
            try:
                await self._ownership.connect()
                self._owning = True
                await self._claim_all()
                await self._ownership.watch()
            except (LocksLost, psycopg.OperationalError, *DATABASE_ERRORS) as error:
                logger.warning("Ownership is lost: %s", type(error).__name__)
            self._owning = False
            await self._abandon_all()
            await self._ownership.close()
            await asyncio.sleep(RECONNECT_SECONDS)

    async def _abandon_all(self) -> None:
        """Close every socket at once; what runners still wait for takes its time."""
        refs = [runner.ref for runner in self._runners.values() if runner.ref]
        for runner in list(self._runners.values()):
            runner.post(Abandon())
        closing = [asyncio.create_task(self.engine.close(ref)) for ref in refs]
        if closing:
            await asyncio.wait(closing, timeout=HAND_OVER_SECONDS)

    async def _claim_all(self) -> None:
        await self.web.look()
        while self._owning:
            wanted = await self.services(claims.candidates, CLAIM_BATCH)
            claimed = await self._claim(wanted)
            if len(wanted) < CLAIM_BATCH or not claimed:
                return

    async def _claim(self, pks: list[int]) -> int:
        """Claim salons and start a runner for each; return how many are ours now."""
        async with self._claiming:
            # A runner that still ends (a paired device to store) keeps its salon out.
            free = [pk for pk in pks if pk not in self._runners]
            if not (self._owning and free):
                return 0
            acquired = await self._ownership.acquire(free)
            if not acquired:
                return 0
            try:
                await self.services(claims.take_over, acquired, self.name)
            except DATABASE_ERRORS:
                # A lock without a runner would keep the salon from everybody.
                await self._ownership.release(acquired)
                raise
            for pk in acquired:
                runner = self._runners[pk] = SalonRunner(self, pk)
                runner.post(Look())
            return len(acquired)

    # --- looking ----------------------------------------------------------------------

    async def _look_regularly(self) -> None:
        """See what nobody told us: new wishes, overdue attempts, ownerless salons."""
        while True:
            await asyncio.sleep(settings.WHATSAPP_LOOK_INTERVAL)
            try:
                await self.services(attempts.expire_overdue)
                await self.services(attempts.cancel_unwatched, UNWATCHED_SECONDS)
                if self._owning:
                    await self._look_at_changed()
                    await self._claim_all()
                await self.services(claims.demote_unowned)
            except (LocksLost, *DATABASE_ERRORS) as error:
                logger.warning("Cannot look: %s", type(error).__name__)
            except Exception:  # one odd row must not take every salon's socket down
                logger.exception("The regular look failed")

    async def _look_at_changed(self) -> None:
        views = await self.services(claims.views, self.name)
        for pk, epoch, wanted, attempt_id in views:
            runner = self._runners.get(pk)
            if runner is not None and runner.is_outdated(epoch, wanted, attempt_id):
                runner.post(Look())
        known = {view[0] for view in views}
        for pk, runner in list(self._runners.items()):
            if pk not in known:
                runner.post(Look())

    async def _look_at(self, pk: int | None) -> None:
        runner = self._runners.get(pk) if pk is not None else None
        if runner is not None:
            runner.post(Look(hurry=True))
            return
        try:
            if pk is None:
                await self._claim_all()
            else:
                await self._claim([pk])
        except (LocksLost, *DATABASE_ERRORS) as error:
            logger.warning("Cannot claim: %s", type(error).__name__)

    async def _listen(self) -> None:
        """Look at once where somebody says that rows have changed."""
        layer = get_channel_layer()
        is_down = False
        while layer is not None:
            try:
                self._channel = await layer.new_channel()
                await layer.group_add(events.GATEWAYS_GROUP, self._channel)
                is_down = False
                while True:
                    message = await layer.receive(self._channel)
                    await self._look_at(message["salon"])
            except events.LAYER_ERRORS as error:
                # The layer only saves time: the regular look finds everything.
                if not is_down:
                    logger.warning("The channel layer is down: %s", error)
                is_down = True
                await asyncio.sleep(RECONNECT_SECONDS)

    async def _keep_house(self) -> None:
        """Do what can wait until the salons are running, and again every hour."""
        delay = FIRST_HOUSEKEEPING_SECONDS
        while True:
            await asyncio.sleep(delay)
            delay = HOUSEKEEPING_SECONDS
            layer = get_channel_layer()
            try:
                await self.services(credentials.clear_expiry)
                await self.services(credentials.purge_archive)
                await self.services(timeline.purge)
                if layer is not None and self._channel:
                    # The in-memory layer forgets members of a group after a day.
                    await layer.group_add(events.GATEWAYS_GROUP, self._channel)
            except (*DATABASE_ERRORS, *events.LAYER_ERRORS) as error:
                logger.warning("Housekeeping: %s", type(error).__name__)

    # --- the engine's words -----------------------------------------------------------

    def _on_event(self, event: Event) -> None:
        match event:
            case Alive(seen=seen):
                self._on_alive(seen.items())
            case EngineStopped(error=error):
                logger.error("Node.js ended: %s", error)
                for runner in list(self._runners.values()):
                    if runner.ref is not None:
                        runner.post(Gone(runner.ref, DisconnectReason.ENGINE_GONE))
            case EngineStarted(versions=versions):
                logger.info("Baileys %s on Node.js %s", versions.baileys, versions.node)
                for runner in list(self._runners.values()):
                    runner.post(Look(hurry=True))
            case _:
                listener = self._by_generation.get(event.ref.generation)
                if listener is not None:
                    listener.post(event)

    def _on_alive(self, seen: Iterable[tuple[SessionRef, float]]) -> None:
        now = asyncio.get_running_loop().time()
        for ref, age in seen:
            runner = self._by_generation.get(ref.generation)
            if isinstance(runner, SalonRunner):
                self._seen[runner.salon_pk] = now - age / 1000

    async def _watch_life(self) -> None:
        """Store the proofs of life, and notice sessions that gave none for long."""
        while True:
            await asyncio.sleep(ALIVE_FLUSH_SECONDS)
            now = asyncio.get_running_loop().time()
            ages: dict[int, float] = {}
            for pk, runner in self._runners.items():
                if not runner.is_open or runner.ref is None:
                    continue
                age = now - self._seen.setdefault(pk, now)
                if age < ALIVE_FLUSH_SECONDS:
                    ages[pk] = age
                if (age > DEGRADED_SECONDS) != runner.is_silent:
                    runner.post(Pulse(runner.ref, silent=age > DEGRADED_SECONDS))
            try:
                await self.services(sessions.record_alive, ages)
            except DATABASE_ERRORS as error:
                logger.warning("Proof of life not stored: %s", type(error).__name__)
