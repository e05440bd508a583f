"""What the tables say of the whole service, and what each gateway has left there."""

import json
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

from django.db import InterfaceError, OperationalError, connection, transaction
from prometheus_client.core import Metric as Family
from psycopg_pool import PoolTimeout

from whatsapp import figures, metrics
from whatsapp.errors import ErrorCode
from whatsapp.metrics import OTHER, Metric
from whatsapp.models import PairingAttempt, Salon
from whatsapp.services import gateways, growth, health, proofs, reports

DATABASE_ERRORS = (OperationalError, InterfaceError, PoolTimeout)

STATEMENT_MS = 5000
"""Prometheus waits ten seconds for all of it."""

KEY_TYPES = frozenset(
    {
        "app-state-sync-key",
        "app-state-sync-version",
        "device-list",
        "identity-key",
        "lid-mapping",
        "pre-key",
        "sender-key",
        "sender-key-memory",
        "session",
        "tctoken",
    }
)
"""Those that Baileys has; the legacy table takes any text."""


def read() -> list[Family]:
    """Return all figures that the database has.

    Statuses that nobody stands behind any more are taken back before they are counted.

    Raises:
        DATABASE_ERRORS: it does not answer.
    """
    began = time.perf_counter()
    proofs.demote_unowned()
    proofs.demote_silent()
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(f"SET LOCAL statement_timeout = {STATEMENT_MS}")
        found = [
            *_sessions(cursor),
            *_attempts(cursor),
            *_counts(cursor),
            *_keys(cursor),
            *_gateways(cursor),
        ]
    found.append(_one(metrics.UP, 1))
    found.append(_one(metrics.READ_SECONDS, time.perf_counter() - began))
    return found


def unread() -> list[Family]:
    """Return what is left to say when the database does not answer."""
    return [_one(metrics.UP, 0)]


_COMPACT = """
WITH gone AS (DELETE FROM whatsapp_attemptend RETURNING kind, outcome, error, attempts)
INSERT INTO whatsapp_attemptend (kind, outcome, error, attempts)
SELECT kind, outcome, error, sum(attempts) FROM gone GROUP BY kind, outcome, error
"""


def compact() -> None:
    """Sum up the ends of attempts, so that counting them stays quick."""
    with connection.cursor() as cursor:
        cursor.execute(_COMPACT)


# --- families -------------------------------------------------------------------------


def _one(metric: Metric, value: float) -> Family:
    return _family(metric, [((), value)])


def _family(metric: Metric, rows: Any) -> Family:
    family = metric.family()
    for labels, value in rows:
        family.add_metric([str(label) for label in labels], value)
    filled: Family = family
    return filled


def _sessions(cursor: Any) -> Iterator[Family]:
    states = reports.states(Salon.objects.all())
    yield _family(metrics.SESSIONS, [((state,), n) for state, n in states.items()])
    down = health.down(cursor)
    yield _family(metrics.NOT_OPEN, [((state,), n) for state, n, _age in down])
    yield _family(
        metrics.NOT_OPEN_SECONDS, [((state,), age) for state, _n, age in down]
    )


_ENDS = """
SELECT kind, outcome, error, sum(attempts)::float8 FROM whatsapp_attemptend
GROUP BY kind, outcome, error
"""
_OPEN_ATTEMPTS = """
SELECT kind, stage, count(*) FROM whatsapp_pairingattempt
WHERE finished_at IS NULL GROUP BY kind, stage
"""
_ENDINGS = [
    *((outcome, "") for outcome in ("linked", "superseded", "cancelled")),
    ("expired", ErrorCode.CODE_EXPIRED.value),
    *(
        ("failed", error.value)
        for error in (
            ErrorCode.PAIRING_TIMEOUT,
            ErrorCode.PAIRING_CODE_FAILED,
            ErrorCode.PHONE_NOT_ON_WHATSAPP,
            ErrorCode.RATE_LIMITED,
            ErrorCode.WHATSAPP_UNREACHABLE,
            ErrorCode.ENGINE_OUTDATED,
            ErrorCode.CREDENTIALS_CONFLICT,
            ErrorCode.WRONG_PHONE_LINKED,
            ErrorCode.PASSKEY_REQUIRED,
            ErrorCode.ACCOUNT_BANNED,
        )
    ),
]
"""How an attempt may end. What counts from its first time on has to be seen at zero
before, or nobody sees that time; an ending that is not here is told from then on."""


def _attempts(cursor: Any) -> Iterator[Family]:
    ends = {
        (kind, *ending): 0.0
        for kind in PairingAttempt.Kind.values
        for ending in _ENDINGS
    }
    cursor.execute(_ENDS)
    ends |= {tuple(row[:3]): row[3] for row in cursor.fetchall()}
    yield _family(metrics.ATTEMPTS, ends.items())
    stages = {
        (kind, str(stage)): 0
        for kind in PairingAttempt.Kind.values
        for stage in PairingAttempt.OPEN_STAGES
    }
    cursor.execute(_OPEN_ATTEMPTS)
    stages |= {tuple(row[:2]): row[2] for row in cursor.fetchall()}
    yield _family(metrics.ATTEMPTS_OPEN, stages.items())


_COUNTS = """
SELECT (SELECT count(*) FROM whatsapp_auth auth JOIN whatsapp_salon salon
        ON auth.company_id = 'company_' || salon.salon_id),
       (SELECT count(*) FROM whatsapp_archivedcredentials),
       (SELECT count(*) FROM whatsapp_flapping),
       pg_database_size(current_database())
"""


def _counts(cursor: Any) -> Iterator[Family]:
    cursor.execute(_COUNTS)
    linked, archived, flapping, size = cursor.fetchone()
    proof, overdue, untold, untold_seconds = health.ages(cursor)
    yield _one(metrics.LINKED, linked)
    yield _one(metrics.ARCHIVED, archived)
    yield _one(metrics.FLAPPING, flapping)
    yield _one(metrics.DATABASE_SIZE, size)
    # None is open: nobody is silent.
    yield _one(metrics.OLDEST_PROOF, proof or 0)
    yield _one(metrics.ATTEMPTS_OVERDUE, overdue)
    yield _one(metrics.UNTOLD, untold)
    yield _one(metrics.UNTOLD_SECONDS, untold_seconds)


_KEYS = """
SELECT entry.key, sum(entry.value::bigint)::float8
FROM whatsapp_keycount, jsonb_each_text(by_type) AS entry
WHERE day = (SELECT max(day) FROM whatsapp_keycount) GROUP BY entry.key
"""


def _keys(cursor: Any) -> Iterator[Family]:
    cursor.execute(_KEYS)
    counts: Counter[str] = Counter()
    for key_type, rows in cursor.fetchall():
        counts[key_type if key_type in KEY_TYPES else OTHER] += rows
    yield _family(metrics.KEY_ROWS, [((name,), n) for name, n in counts.items()])
    yield _one(metrics.GROWN, len(growth.grown()))


_GATEWAYS = """
SELECT id, name, extract(epoch FROM now() - seen_at)::float8, engines::text,
       CASE WHEN id = ANY(%s) THEN metrics::text ELSE '{}' END
FROM whatsapp_gateway ORDER BY id
"""


def _gateways(cursor: Any) -> Iterator[Family]:
    living = {share.id: share for share in gateways.shares()}
    cursor.execute(_GATEWAYS, [list(living)])
    rows = cursor.fetchall()
    alive = [row for row in rows if row[0] in living]
    yield _one(metrics.GATEWAYS, len(alive))
    yield _one(metrics.GATEWAYS_LOST, len(rows) - len(alive))
    yield _family(
        metrics.GATEWAY_SALONS,
        [((share.name,), share.salons) for share in living.values()],
    )
    yield _family(metrics.GATEWAY_LOOK, [((row[1],), row[2]) for row in alive])
    yield from _engines({row[1]: json.loads(row[3]) for row in alive})
    yield from figures.of_gateways({row[1]: json.loads(row[4]) for row in alive})


_ENGINE_FIGURES = (
    (metrics.ENGINE_SESSIONS, "sessions", 1.0),
    (metrics.ENGINE_MEMORY, "rss", 1.0),
    (metrics.ENGINE_HEAP, "heap", 1.0),
    (metrics.ENGINE_CODES, "codes_ready", 1.0),
    (metrics.ENGINE_LAG, "lag_mean_ms", 0.001),
    (metrics.ENGINE_LAG_MAX, "lag_max_ms", 0.001),
    (metrics.ENGINE_ANSWER, "age", 1.0),
)


def _engines(engines: dict[str, list[dict[str, Any]]]) -> Iterator[Family]:
    """Tell how Node.js processes are; one that is down has no figures but that."""
    each = [
        ((gateway, engine["process"]), engine)
        for gateway, theirs in engines.items()
        for engine in theirs
    ]
    yield _family(
        metrics.ENGINE_UP,
        [(labels, engine["pid"] is not None) for labels, engine in each],
    )
    running = [(labels, engine) for labels, engine in each if engine["pid"] is not None]
    for metric, name, unit in _ENGINE_FIGURES:
        yield _family(
            metric,
            [
                (labels, engine[name] * unit)
                for labels, engine in running
                if engine.get(name) is not None
            ],
        )
