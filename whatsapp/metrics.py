"""Every metric by name; how one process tells another its figures: figures.py.

Labels have few values: never a salon, a phone or anything that somebody typed.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
)

OTHER = "other"
"""In place of a value that we have no name for: a label must not grow by strangers."""


class Kind(StrEnum):
    """What a metric is to Prometheus."""

    GAUGE = "gauge"
    COUNTER = "counter"
    HISTOGRAM = "histogram"


class Source(StrEnum):
    """Who knows the figures."""

    TABLES = "tables"
    GATEWAY = "gateway"
    PAGES = "pages"


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric: its name, what it says, and by what it is told apart."""

    source: Source
    kind: Kind
    name: str
    help: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()

    @property
    def exposed_labels(self) -> tuple[str, ...]:
        """As Prometheus sees them: a gateway's figures say whose they are."""
        return (
            ("gateway", *self.labels) if self.source is Source.GATEWAY else self.labels
        )

    def family(self, labels: Iterable[str] | None = None) -> Any:
        """Return an empty family, to be filled with figures from elsewhere."""
        kinds = {
            Kind.GAUGE: GaugeMetricFamily,
            Kind.COUNTER: CounterMetricFamily,
            Kind.HISTOGRAM: HistogramMetricFamily,
        }
        return kinds[self.kind](
            self.name, self.help, labels=labels or self.exposed_labels
        )

    def gauge(self, registry: CollectorRegistry) -> Gauge:
        """Return a gauge of this process."""
        return Gauge(self.name, self.help, self.labels, registry=registry)

    def counter(self, registry: CollectorRegistry) -> Counter:
        """Return a counter of this process."""
        return Counter(self.name, self.help, self.labels, registry=registry)

    def histogram(self, registry: CollectorRegistry) -> Histogram:
        """Return a histogram of this process."""
        return Histogram(
            self.name, self.help, self.labels, registry=registry, buckets=self.buckets
        )


CATALOGUE: dict[str, Metric] = {}
"""All of them; docs/operations.md has the same (tests/test_metrics_files.py)."""


def _define(source: Source) -> Any:
    def define(
        kind: Kind,
        name: str,
        text: str,
        *labels: str,
        buckets: tuple[float, ...] = (),
    ) -> Metric:
        metric = Metric(source, kind, name, text, labels, buckets)
        CATALOGUE[name] = metric
        return metric

    return define


# --- what is in the tables -------------------------------------------------------------

_table = _define(Source.TABLES)

UP: Metric = _table(
    Kind.GAUGE,
    "whatsapp_up",
    "1 if the database answered; 0: there are no figures of tables and gateways.",
)
READ_SECONDS: Metric = _table(
    Kind.GAUGE,
    "whatsapp_tables_read_seconds",
    "How long the tables took to be read.",
)
SESSIONS: Metric = _table(
    Kind.GAUGE, "whatsapp_sessions", "Salons by status of their session.", "status"
)
LINKED: Metric = _table(
    Kind.GAUGE, "whatsapp_linked_salons", "Salons with stored creds."
)
NOT_OPEN: Metric = _table(
    Kind.GAUGE,
    "whatsapp_salons_not_open",
    "Salons that are linked and wanted, and neither open nor linking.",
    "status",
)
NOT_OPEN_SECONDS: Metric = _table(
    Kind.GAUGE,
    "whatsapp_salons_not_open_max_seconds",
    "Since when the one of them is not open that waits for longest.",
    "status",
)
OLDEST_PROOF: Metric = _table(
    Kind.GAUGE,
    "whatsapp_oldest_proof_seconds",
    "Since when the open session was not heard that is silent for longest.",
)
FLAPPING: Metric = _table(
    Kind.GAUGE,
    "whatsapp_flapping_salons",
    "Salons whose status changes too often to be told.",
)
ATTEMPTS: Metric = _table(
    Kind.COUNTER,
    "whatsapp_attempts_total",
    "Link attempts that have ended, by kind, outcome and error.",
    "kind",
    "outcome",
    "error",
)
ATTEMPTS_OPEN: Metric = _table(
    Kind.GAUGE,
    "whatsapp_attempts_open",
    "Link attempts under way, by kind and stage.",
    "kind",
    "stage",
)
ATTEMPTS_OVERDUE: Metric = _table(
    Kind.GAUGE,
    "whatsapp_attempts_overdue",
    "Link attempts whose time has been over for 30 s and that nobody has ended.",
)
UNTOLD: Metric = _table(
    Kind.GAUGE, "whatsapp_changes_untold", "Changes of status not told to anybody yet."
)
UNTOLD_SECONDS: Metric = _table(
    Kind.GAUGE,
    "whatsapp_changes_untold_max_seconds",
    "How old the oldest of them is.",
)
KEY_ROWS: Metric = _table(
    Kind.GAUGE,
    "whatsapp_key_rows",
    "Rows of Signal keys by type, as of the last daily count.",
    "type",
)
GROWN: Metric = _table(
    Kind.GAUGE,
    "whatsapp_grown_salons",
    "Salons whose keys have grown abnormally, as of the last daily count.",
)
ARCHIVED: Metric = _table(
    Kind.GAUGE, "whatsapp_archived_links", "Links in the archive."
)
DATABASE_SIZE: Metric = _table(
    Kind.GAUGE, "whatsapp_database_size_bytes", "What the database takes on its disk."
)
GATEWAYS: Metric = _table(
    Kind.GAUGE, "whatsapp_gateways", "Gateways that hold their lock: they live."
)
GATEWAYS_LOST: Metric = _table(
    Kind.GAUGE,
    "whatsapp_gateways_lost",
    "Gateways that ended without a word in the last seven days.",
)
GATEWAY_SALONS: Metric = _table(
    Kind.GAUGE, "whatsapp_gateway_salons", "Salons that a gateway runs.", "gateway"
)
GATEWAY_LOOK: Metric = _table(
    Kind.GAUGE,
    "whatsapp_gateway_look_age_seconds",
    "Since when a gateway has not looked; its figures are as old.",
    "gateway",
)

# Node.js processes, as each gateway has last heard of them.

_ENGINE = ("gateway", "process")
ENGINE_UP: Metric = _table(
    Kind.GAUGE,
    "whatsapp_engine_up",
    "1 while a Node.js process runs; process 0 is the ward.",
    *_ENGINE,
)
ENGINE_SESSIONS: Metric = _table(
    Kind.GAUGE, "whatsapp_engine_sessions", "Sockets that it holds.", *_ENGINE
)
ENGINE_MEMORY: Metric = _table(
    Kind.GAUGE,
    "whatsapp_engine_resident_memory_bytes",
    "Memory that it takes (RSS).",
    *_ENGINE,
)
ENGINE_HEAP: Metric = _table(
    Kind.GAUGE, "whatsapp_engine_heap_bytes", "JavaScript's part of that.", *_ENGINE
)
ENGINE_CODES: Metric = _table(
    Kind.GAUGE,
    "whatsapp_engine_codes_ready",
    "Codes whose key is derived in advance.",
    *_ENGINE,
)
ENGINE_LAG: Metric = _table(
    Kind.GAUGE,
    "whatsapp_engine_lag_mean_seconds",
    "How late its event loop was on average between the last two pings.",
    *_ENGINE,
)
ENGINE_LAG_MAX: Metric = _table(
    Kind.GAUGE,
    "whatsapp_engine_lag_max_seconds",
    "How late it was at worst between the last two pings.",
    *_ENGINE,
)
ENGINE_ANSWER: Metric = _table(
    Kind.GAUGE,
    "whatsapp_engine_answer_age_seconds",
    "How old the ping is that it answered last.",
    *_ENGINE,
)

# --- what only a gateway sees ----------------------------------------------------------

_gateway = _define(Source.GATEWAY)

WAITS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0)
LONG_WAITS = (1.0, 2.5, 5.0, 10.0, 20.0, 40.0, 80.0, 160.0, 320.0)
STORE = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0)

TIME_TO_CODE: Metric = _gateway(
    Kind.HISTOGRAM,
    "whatsapp_time_to_code_seconds",
    "From the request to a code, or the first QR, that pages can show.",
    "kind",
    buckets=WAITS,
)
TIME_TO_LINK: Metric = _gateway(
    Kind.HISTOGRAM,
    "whatsapp_time_to_link_seconds",
    "From a code or QR that is shown to the open session.",
    "kind",
    buckets=LONG_WAITS,
)
DISCONNECTS: Metric = _gateway(
    Kind.COUNTER,
    "whatsapp_disconnects_total",
    "Connections of linked sessions that ended, or did not come about, by reason.",
    "reason",
)
RECONNECTS: Metric = _gateway(
    Kind.COUNTER,
    "whatsapp_reconnects_total",
    "Sessions that were lost and are open again, by the reason of the loss.",
    "reason",
)
RECONNECT_SECONDS: Metric = _gateway(
    Kind.HISTOGRAM,
    "whatsapp_reconnect_seconds",
    "From such a loss to the open session.",
    buckets=(0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0),
)
TAKEOVER_SECONDS: Metric = _gateway(
    Kind.HISTOGRAM,
    "whatsapp_takeover_seconds",
    "From a salon that another gateway has lost, or handed over, to the open session.",
    "how",
    buckets=(0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 60.0, 300.0),
)
ENGINE_RESTARTS: Metric = _gateway(
    Kind.COUNTER,
    "whatsapp_engine_restarts_total",
    "Node.js processes that ended and are started again, by cause.",
    "cause",
)
ENGINE_QUEUE: Metric = _gateway(
    Kind.GAUGE,
    "whatsapp_engine_queue",
    "Sockets and codes that wait for their turn to start.",
)
WRITE_SECONDS: Metric = _gateway(
    Kind.HISTOGRAM,
    "whatsapp_store_write_seconds",
    "How long a batch of creds and keys took to be stored.",
    "what",
    buckets=STORE,
)
READ_KEYS_SECONDS: Metric = _gateway(
    Kind.HISTOGRAM,
    "whatsapp_store_read_seconds",
    "How long a read of keys took.",
    buckets=STORE,
)
WRITES_REFUSED: Metric = _gateway(
    Kind.COUNTER,
    "whatsapp_store_writes_refused_total",
    "Batches of sockets whose epoch was over: another gateway or a reset came.",
)
STORE_RETRIES: Metric = _gateway(
    Kind.COUNTER,
    "whatsapp_store_retries_total",
    "Statements of the store that were tried again, because the database was away.",
)
STORE_FAILURES: Metric = _gateway(
    Kind.COUNTER,
    "whatsapp_store_failures_total",
    "Statements of the store that failed in the end.",
)
GATEWAY_MEMORY: Metric = _gateway(
    Kind.GAUGE,
    "whatsapp_gateway_resident_memory_bytes",
    "Memory of the gateway's process (RSS), without Node.js.",
)
GATEWAY_CPU: Metric = _gateway(
    Kind.COUNTER,
    "whatsapp_gateway_cpu_seconds_total",
    "CPU time of the gateway's process, without Node.js.",
)

# --- what this process's pages do ------------------------------------------------------

_page = _define(Source.PAGES)

PAGE_SOCKETS: Metric = _page(
    Kind.GAUGE, "whatsapp_page_sockets", "WebSockets that are open here.", "page"
)
PAGE_MESSAGES: Metric = _page(
    Kind.COUNTER,
    "whatsapp_page_messages_total",
    "Messages from (in) and to (out) pages.",
    "page",
    "direction",
)
PAGE_ERRORS: Metric = _page(
    Kind.COUNTER,
    "whatsapp_page_errors_total",
    "Errors that pages were told.",
    "page",
    "code",
)

pages_registry = CollectorRegistry()
page_sockets = PAGE_SOCKETS.gauge(pages_registry)
page_messages = PAGE_MESSAGES.counter(pages_registry)
page_errors = PAGE_ERRORS.counter(pages_registry)
