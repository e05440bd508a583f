"""What a gateway counts and measures; it leaves the figures in its row."""

import asyncio

from prometheus_client import CollectorRegistry

from whatsapp import figures, metrics
from whatsapp.engine import DisconnectReason
from whatsapp.figures import Figures
from whatsapp.models import PairingAttempt, WhatsAppSession
from whatsapp.services.claims import OpenAttempt, Work

Status = WhatsAppSession.Status

CAUSES = ("crashed", "hung", "recycled", "unheard")
"""Why a Node.js ended (whatsapp/engine/supervision.py)."""

LOST = ("gateway_lost", str(DisconnectReason.STORE_AWAY))
"""Reasons of `reconnecting` that say that a salon's gateway was lost."""


class GatewayMetrics:
    """The counters of one gateway; they begin anew with it."""

    def __init__(self) -> None:
        self._registry = registry = CollectorRegistry()
        self.time_to_code = metrics.TIME_TO_CODE.histogram(registry)
        self.time_to_link = metrics.TIME_TO_LINK.histogram(registry)
        self.disconnects = metrics.DISCONNECTS.counter(registry)
        self.reconnects = metrics.RECONNECTS.counter(registry)
        self.reconnect_seconds = metrics.RECONNECT_SECONDS.histogram(registry)
        self.takeover_seconds = metrics.TAKEOVER_SECONDS.histogram(registry)
        self.engine_restarts = metrics.ENGINE_RESTARTS.counter(registry)
        self._queue = metrics.ENGINE_QUEUE.gauge(registry)
        writes = metrics.WRITE_SECONDS.histogram(registry)
        # Bound here, not at each write.
        self._writes = {
            (True, False): writes.labels("creds"),
            (False, True): writes.labels("keys"),
            (True, True): writes.labels("both"),
        }
        self.read_seconds = metrics.READ_KEYS_SECONDS.histogram(registry)
        self.writes_refused = metrics.WRITES_REFUSED.counter(registry)
        self.store_retries = metrics.STORE_RETRIES.counter(registry)
        self.store_failures = metrics.STORE_FAILURES.counter(registry)
        self._memory = metrics.GATEWAY_MEMORY.gauge(registry)
        self._cpu = metrics.GATEWAY_CPU.counter(registry)
        # What counts from its first time on has to be seen at zero before.
        for kind in PairingAttempt.Kind.values:
            self.time_to_code.labels(kind)
            self.time_to_link.labels(kind)
        for how in ("lost", "handed_over"):
            self.takeover_seconds.labels(how)
        for cause in CAUSES:
            self.engine_restarts.labels(cause)

    def wrote(self, creds: str | None, keys: str | None, seconds: float) -> None:
        """Note how long a batch took to be stored."""
        kind = (creds is not None, keys is not None)
        if kind in self._writes:
            self._writes[kind].observe(seconds)

    def snapshot(self, waiting: int) -> Figures:
        """Return all figures as JSON.

        Args:
            waiting: sockets and codes that wait for their turn.
        """
        self._queue.set(waiting)
        self._memory.set(figures.resident_bytes())
        self._cpu.reset()
        self._cpu.inc(figures.cpu_seconds())
        return figures.snapshot(self._registry)


def reason_label(reason: DisconnectReason) -> str:
    """Return a reason's number; WhatsApp may send any, and few become labels."""
    return str(int(reason)) if reason in DisconnectReason else metrics.OTHER


class Waits:
    """Measures how long one salon waits: for its code, its link, its connection.

    Args:
        metrics: where that is noted.
        free_since: when the salon was seen without a gateway, by the loop's clock.
        handed_over: another gateway has closed its socket and left it to this one.
    """

    def __init__(
        self, metrics: GatewayMetrics, free_since: float, *, handed_over: bool
    ) -> None:
        self._metrics = metrics
        self._free_since = free_since
        self._handed_over = handed_over
        self._is_new = True
        self._taken: tuple[str, float] | None = None
        self._lost: tuple[str, float] | None = None
        self._attempt: int | None = None
        self._kind = ""
        self._asked_at = 0.0
        self._shown_at: float | None = None

    # --- a gateway after another ------------------------------------------------------

    def looked(self, work: Work) -> None:
        """At the first look it shows whether the salon was another gateway's."""
        if not self._is_new:
            return
        self._is_new = False
        if self._handed_over:
            if work.status == Status.CONNECTING:  # it was open until then
                self._taken = ("handed_over", self._free_since)
        elif work.status in (Status.OPEN, Status.DEGRADED):
            self._taken = ("lost", self._free_since)  # before anybody noticed
        elif work.status == Status.RECONNECTING and work.reason in LOST:
            noticed = _now() - work.status_age
            self._taken = ("lost", min(noticed, self._free_since))

    # --- linking ----------------------------------------------------------------------

    def serves(self, attempt: OpenAttempt) -> None:
        """An attempt is worked on, from now on or again."""
        if attempt.id != self._attempt:
            self._attempt = attempt.id
            self._kind = attempt.kind
            self._asked_at = _now() - attempt.age
            self._shown_at = None

    def shown(self, attempt_id: int) -> None:
        """Pages can show its code or QR."""
        if attempt_id == self._attempt and self._shown_at is None:
            self._shown_at = _now()
            waited = self._shown_at - self._asked_at
            self._metrics.time_to_code.labels(self._kind).observe(waited)

    # --- connecting -------------------------------------------------------------------

    def closed(self, reason: DisconnectReason, *, was_open: bool) -> None:
        """A linked session's connection has ended, or did not come about."""
        label = reason_label(reason)
        self._metrics.disconnects.labels(label).inc()
        if was_open:
            self._lost = (label, _now())

    def opened(self, attempt_id: int | None) -> None:
        """It is open; what was waited for is over.

        Args:
            attempt_id: the attempt that led here.
        """
        now = _now()
        if attempt_id is not None and attempt_id == self._attempt:
            if self._shown_at is not None:
                took = now - self._shown_at
                self._metrics.time_to_link.labels(self._kind).observe(took)
            self._attempt = self._shown_at = None
        if self._lost is not None:
            reason, at = self._lost
            self._metrics.reconnects.labels(reason).inc()
            self._metrics.reconnect_seconds.observe(now - at)
        if self._taken is not None:
            how, at = self._taken
            self._metrics.takeover_seconds.labels(how).observe(now - at)
        self._lost = self._taken = None


def _now() -> float:
    return asyncio.get_running_loop().time()
