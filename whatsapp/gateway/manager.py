"""The gateway: which salons it runs, and one engine for all of them."""

import asyncio
import itertools
import logging
import os
import secrets
import socket
from collections import Counter
from collections.abc import Coroutine, Iterable
from dataclasses import asdict, replace
from typing import Any

from channels.layers import get_channel_layer
from django.conf import settings

from whatsapp import alerts, events
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
from whatsapp.gateway.claimer import Claimer
from whatsapp.gateway.database import (
    DATABASE_AWAY,
    DATABASE_ERRORS,
    Services,
    conninfo,
)
from whatsapp.gateway.messages import Abandon, Gone, Look, Pulse
from whatsapp.gateway.metrics import GatewayMetrics, Waits
from whatsapp.gateway.ownership import LocksLost
from whatsapp.gateway.pace import Pace
from whatsapp.gateway.runner import SalonRunner
from whatsapp.gateway.teller import Teller
from whatsapp.gateway.web_version import WebVersions
from whatsapp.services import (
    api_answers,
    archives,
    attempts,
    claims,
    credentials,
    encryption,
    gateways,
    growth,
    metrics,
    proofs,
    timeline,
)
from whatsapp.services.claims import Work

logger = logging.getLogger(__name__)

UNWATCHED_SECONDS = 120.0
CLOSE_SECONDS = 1.8
COURTESY_SECONDS = 0.5
LIFE_SECONDS = 5.0
"""Between two looks at who was heard, and what of it is stored."""
DEGRADED_SECONDS = 45.0
"""WhatsApp answers a ping every 30 s: a session that was not heard for longer is not
called open any more."""
REVIVE_SECONDS = 75.0
"""Baileys has given up a dead connection by then. If it has not, we do."""
FIRST_HOUSEKEEPING_SECONDS = 5.0
HOUSEKEEPING_SECONDS = 3600.0
DISMISS_SECONDS = 20.0
HURRY_SECONDS = 2.0
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
        self.metrics = GatewayMetrics()
        self.teller = Teller(self.services)
        self.settings = policy.Clocks(finish=settings.WHATSAPP_FINISH_TIMEOUT)
        self._engine_options = engine_options
        self._generations = itertools.count(1)
        self.runners: dict[int, SalonRunner] = {}
        self._by_generation: dict[int, SalonRunner | _Listener] = {}
        self.replaced: Counter[int] = Counter()
        self._seen: dict[int, float] = {}
        self.left = asyncio.Event()
        self.pace = Pace(settings.WHATSAPP_START_RATE)
        self._tasks: set[asyncio.Task[None]] = set()
        self._channel = ""
        self._hurried_at = 0.0
        self._id = 0
        self.store: DatabaseAuthStore
        self.engine: Engine
        self.web: WebVersions
        self.claimer: Claimer

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
                    duties.create_task(self.claimer.own(), name="ownership"),
                    duties.create_task(self._look_regularly(), name="looks"),
                    duties.create_task(self._listen(), name="layer"),
                    duties.create_task(self._watch_life(), name="proof of life"),
                    duties.create_task(self._keep_house(), name="housekeeping"),
                    duties.create_task(self.teller.run(), name="teller"),
                ]
                await stop.wait()
                for duty in running:
                    duty.cancel()
            await self.claimer.hand_over()
        finally:
            for task in self._tasks:
                task.cancel()
            if self._tasks:
                await asyncio.wait(self._tasks, timeout=COURTESY_SECONDS)
            await self.engine.stop()
            await self.claimer.close()
            await self.store.close()
            await self._briefly(self.services(gateways.leave, self._id))
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
        self.store = DatabaseAuthStore(database, metrics=self.metrics)
        await self.store.open()
        self.claimer = Claimer(self, self._id, database)
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
                self._id = await self.services(gateways.join, self.name)
                await self.services(encryption.welcome_gateway)
                return await self.services(conninfo)
            except DATABASE_ERRORS as error:
                logger.warning(
                    "No database yet: %s", type(error).__name__, extra=DATABASE_AWAY
                )
                await asyncio.sleep(RECONNECT_SECONDS)

    async def _briefly(self, work: Coroutine[Any, Any, None]) -> None:
        """Give a courtesy a moment; a thread that waits for the database goes on."""
        task = self.spawn(work, "courtesy")
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
            logger.warning(
                "%s: the database is away: %s",
                name,
                type(error).__name__,
                extra=DATABASE_AWAY,
            )
        except Exception:
            logger.exception("%s failed", name, extra=alerts.tags("task"))

    # --- salons -----------------------------------------------------------------------

    def start_runner(
        self, salon_pk: int, free_since: float, work: Work | None, *, handed_over: bool
    ) -> None:
        """Run a salon that is ours now.

        Args:
            salon_pk: the salon.
            work: what there is to do for it, just read.
            free_since: when it was seen without a gateway, by the loop's clock.
            handed_over: another gateway has just left it to this one.
        """
        waits = Waits(self.metrics, free_since, handed_over=handed_over)
        runner = self.runners[salon_pk] = SalonRunner(self, salon_pk, waits)
        runner.post(Look(work=work))

    async def catch_up(self) -> None:
        """Learn what sessions have to know before they start."""
        await self.web.look()

    async def release(self, runner: SalonRunner, to: str = "") -> None:
        """Give a salon up, to the gateway of this name if it is to have it."""
        await self.claimer.release(runner, to)
        self.forget(runner)
        if runner.missed and not to:
            await self._look_at(runner.salon_pk)

    def forget(self, runner: SalonRunner) -> None:
        """Drop a runner that has ended."""
        self.runners.pop(runner.salon_pk, None)
        self._seen.pop(runner.salon_pk, None)
        self.left.set()

    async def abandon(self, runners: Iterable[SalonRunner]) -> None:
        """Close sockets at once; what their runners still wait for takes its time."""
        ending = list(runners)
        refs = [runner.ref for runner in ending if runner.ref]
        for runner in ending:
            runner.post(Abandon())
        closing = [asyncio.create_task(self.engine.close(ref)) for ref in refs]
        if closing:
            await asyncio.wait(closing, timeout=CLOSE_SECONDS)

    # --- looking ----------------------------------------------------------------------

    async def _look_regularly(self) -> None:
        """See what nobody told us: new wishes, overdue attempts, ownerless salons."""
        while True:
            await asyncio.sleep(settings.WHATSAPP_LOOK_INTERVAL)
            try:
                await self.services(attempts.expire_overdue)
                await self.services(attempts.cancel_unwatched, UNWATCHED_SECONDS)
                if self.claimer.is_claiming:
                    await self.web.probe()
                    await self._look_at_changed()
                    await self.claimer.claim_all()
                    await self._share()
                await self.services(proofs.demote_unowned)
                await self.services(proofs.demote_silent)
            except (LocksLost, *DATABASE_ERRORS) as error:
                logger.warning(
                    "Cannot look: %s", type(error).__name__, extra=DATABASE_AWAY
                )
            except Exception:  # one odd row must not take every salon's socket down
                logger.exception("The regular look failed", extra=alerts.tags("look"))

    async def _share(self) -> None:
        now = asyncio.get_running_loop().time()
        engines = [
            # Our clock means nothing to anybody else: how old the figures are does.
            {
                **asdict(replace(stats, asked_at=None)),
                "age": now - (stats.asked_at or now),
            }
            for stats in self.engine.stats()
        ]
        figures = self.metrics.snapshot(self.engine.waiting)
        await self.services(gateways.touch, self._id, engines, figures)
        await self.claimer.share()
        # One rate for all: each gateway has its part of it.
        self.pace.per_second = settings.WHATSAPP_START_RATE / self.claimer.gateways

    async def _look_at_changed(self) -> None:
        views = await self.services(claims.views, self.name)
        for pk, epoch, wanted, attempt_id in views:
            runner = self.runners.get(pk)
            if runner is not None and runner.is_outdated(epoch, wanted, attempt_id):
                runner.post(Look())
        known = {view[0] for view in views}
        for pk, runner in list(self.runners.items()):
            if pk not in known:
                runner.post(Look())

    async def _look_at(self, pk: int | None) -> None:
        self.teller.hurry()
        runner = self.runners.get(pk) if pk is not None else None
        if runner is not None:
            runner.post(Look(hurry=True))
            return
        if pk is not None:
            self.claimer.call(pk)
            return
        try:
            await self.claimer.claim_all()
        except (LocksLost, *DATABASE_ERRORS) as error:
            logger.warning(
                "Cannot claim: %s", type(error).__name__, extra=DATABASE_AWAY
            )

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
                    logger.warning(
                        "The channel layer is down: %s",
                        error,
                        extra=alerts.tags("channel_layer"),
                    )
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
                await self.services(archives.purge)
                await self.services(timeline.purge)
                await self.services(api_answers.purge)
                await self.services(gateways.purge)
                await self.services(metrics.compact)
                if layer is not None and self._channel:
                    # The in-memory layer forgets members of a group after a day.
                    await layer.group_add(events.GATEWAYS_GROUP, self._channel)
                await self.services(growth.prune)
                await self.services(growth.count)
            except (*DATABASE_ERRORS, *events.LAYER_ERRORS) as error:
                logger.warning("Housekeeping: %s", type(error).__name__)
            except Exception:  # no salon's socket ends because a count went wrong
                logger.exception(
                    "Housekeeping failed",
                    extra=alerts.tags("housekeeping", category="maintenance"),
                )

    # --- the engine's words -----------------------------------------------------------

    def _on_event(self, event: Event) -> None:
        match event:
            case Alive(seen=seen):
                self._on_alive(seen.items())
            case EngineStopped():
                self._on_engine_stopped(event)
            case EngineStarted(versions=versions, process=process):
                text = "Baileys %s on Node.js %s, process %d"
                logger.info(text, versions.baileys, versions.node, process)
                for runner in list(self.runners.values()):
                    runner.post(Look(hurry=True))
            case Opened(ref=ref):
                self._on_alive(
                    [(ref, 0.0)]
                )  # or its former connection's age would count
                self._hand_on(event)
                self._hurry_others()
            case _:
                self._hand_on(event)

    def _hand_on(self, event: SessionEvent) -> None:
        listener = self._by_generation.get(event.ref.generation)
        if listener is not None:
            listener.post(event)

    def _hurry_others(self) -> None:
        """WhatsApp can be reached: whoever waits because it could not be goes on."""
        now = asyncio.get_running_loop().time()
        if now - self._hurried_at < HURRY_SECONDS:
            return
        self._hurried_at = now
        for runner in list(self.runners.values()):
            if runner.awaits_whatsapp:
                runner.post(Look(hurry=True))

    def _on_engine_stopped(self, stopped: EngineStopped) -> None:
        self.metrics.engine_restarts.labels(stopped.cause).inc()
        logger.error(
            "Node.js ended: process %d (%s), and with it %d sessions",
            stopped.process,
            stopped.error,
            len(stopped.sessions),
            extra=alerts.ELSEWHERE,  # the engine has said that it died, and why
        )
        for ref in stopped.sessions:
            listener = self._by_generation.get(ref.generation)
            reason = DisconnectReason.ENGINE_GONE
            if ref in stopped.convicted:
                reason = DisconnectReason.ENGINE_CRASHED
            if isinstance(listener, SalonRunner):
                listener.post(Gone(ref, reason))
            elif listener is not None:
                listener.done.set()

    def _on_alive(self, seen: Iterable[tuple[SessionRef, float]]) -> None:
        now = asyncio.get_running_loop().time()
        for ref, age in seen:
            runner = self._by_generation.get(ref.generation)
            if isinstance(runner, SalonRunner):
                self._seen[runner.salon_pk] = now - age / 1000

    async def _watch_life(self) -> None:
        """Store the proofs of life, and notice sessions that gave none for long."""
        stored: dict[int, float] = {}
        while True:
            await asyncio.sleep(LIFE_SECONDS)
            now = asyncio.get_running_loop().time()
            heard: dict[int, float] = {}
            for pk, runner in self.runners.items():
                if not runner.is_open or runner.ref is None:
                    continue
                seen = self._seen.setdefault(pk, now)
                if stored.get(pk) != seen:
                    heard[pk] = seen
                self._judge_silence(runner, runner.ref, now - seen)
            stored = {pk: at for pk, at in stored.items() if pk in self.runners}
            if not heard:
                continue
            ages = {pk: now - seen for pk, seen in heard.items()}
            try:
                await self.services(proofs.record, ages)
                stored |= heard
            except DATABASE_ERRORS as error:
                logger.warning(
                    "Proof of life not stored: %s",
                    type(error).__name__,
                    extra=DATABASE_AWAY,
                )

    @staticmethod
    def _judge_silence(runner: SalonRunner, ref: SessionRef, age: float) -> None:
        if age > REVIVE_SECONDS:
            # Once: it is not open any more when it is handled.
            runner.post(Gone(ref, DisconnectReason.SILENCE))
        elif (age > DEGRADED_SECONDS) != runner.is_silent:
            runner.post(Pulse(ref, silent=age > DEGRADED_SECONDS))
