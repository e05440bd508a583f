"""Is the whole service well, as seen from the database; and if not, why.

For operators and their monitors. ``/healthz`` and ``/readyz`` are about one process.
"""

import asyncio
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from asgiref.sync import async_to_sync
from channels.layers import get_channel_layer
from django.conf import settings
from django.db import OperationalError, connection, transaction
from django.db.migrations.loader import MigrationLoader
from psycopg_pool import PoolTimeout

from whatsapp.events import LAYER_ERRORS
from whatsapp.models import Salon, WhatsAppSession
from whatsapp.services import encryption, gateways, growth, reports

Status = WhatsAppSession.Status

STATEMENT_MS = 10_000
"""A database that takes longer for one of these questions is not well."""

LAYER_SECONDS = 5.0
"""As /readyz: what takes longer helps no page any more."""

LOOK_SECONDS = 30.0
"""A gateway looks every few seconds; PostgreSQL ends one that says nothing for twelve.
One that holds its lock and has not looked for so long does half of its work."""

LAG_MS = 2000.0
"""Node.js is killed after ten seconds of silence; a fifth of that is a warning. A login
blocks it for a tenth of a second."""

NOT_OPEN_SECONDS = 600.0
"""As in the overview: after that somebody has to look. Outages of WhatsApp are
shorter, as a rule, and a service that starts has its salons open within minutes."""

SILENT_SECONDS = 180.0
"""What is silent for 90 seconds is not called open any more, if anybody looks."""

ATTEMPT_SECONDS = 30.0
"""Any gateway or page server ends an overdue attempt at its next look."""

UNTOLD_SECONDS = 120.0
"""Changes are told within seconds; a receiver may hold up its salon for thirty."""

NAMED = 5


@dataclass(slots=True)
class GatewayHealth:
    """A gateway that lives, or was lost without saying goodbye."""

    name: str
    alive: bool
    salons: int
    looked_ago: float
    engines: list[dict[str, Any]]


@dataclass(slots=True)
class NotOpen:
    """A linked salon that should be connected, and is not."""

    session_id: str
    status: str
    reason: str
    seconds: float


@dataclass(slots=True)
class Health:
    """How the service is."""

    database: str = "ok"
    missing_migrations: int = 0
    channel_layer: str = "ok"
    gateways: list[GatewayHealth] = field(default_factory=list)
    statuses: dict[str, int] = field(default_factory=dict)
    not_open: list[NotOpen] = field(default_factory=list)
    """The longest first."""
    oldest_proof: float | None = None
    """Seconds since the open session that was silent for longest was heard."""
    overdue_attempts: int = 0
    untold: int = 0
    untold_seconds: float = 0.0
    """The age of the oldest change of status that nobody was told of."""
    grown: list[str] = field(default_factory=list)
    missing_keys: list[str] = field(default_factory=list)
    """Ids of keys that CREDENTIAL_ENCRYPTION_KEYS lacks, here."""
    unreadable: int = 0
    """Salons whose creds need one of them."""
    problems: list[str] = field(default_factory=list)
    """Somebody has to act. None: the service is well."""
    notices: list[str] = field(default_factory=list)
    """Worth knowing; nobody of ours has to act at once."""

    @property
    def ok(self) -> bool:
        """Whether nobody has to act."""
        return not self.problems


def check() -> Health:
    """Look at everything; change nothing, and never raise because something is down."""
    health = Health(channel_layer=_layer())
    try:
        with transaction.atomic(), connection.cursor() as cursor:
            cursor.execute(f"SET LOCAL statement_timeout = {STATEMENT_MS}")
            _look(health, cursor)
    except (OperationalError, PoolTimeout):
        # Its text may hold an address.
        health.database = "no answer"
    health.problems += _problems(health)
    return health


def _look(health: Health, cursor: Any) -> None:
    known = MigrationLoader(connection)
    health.missing_migrations = len(
        known.disk_migrations.keys() - known.applied_migrations.keys()
    )
    if health.missing_migrations:
        return
    health.gateways = _gateways(cursor)
    health.statuses = reports.states(Salon.objects.all())
    health.not_open = _not_open(cursor)
    (
        health.oldest_proof,
        health.overdue_attempts,
        health.untold,
        health.untold_seconds,
    ) = ages(cursor)
    health.missing_keys = encryption.missing_keys()
    if health.missing_keys:
        health.unreadable = encryption.unreadable_salons()
    health.grown = [f"company_{one.salon_id} ({one})" for one in growth.grown()]


def _layer() -> str:
    layer: Any = get_channel_layer()
    if not settings.REDIS_URL:
        return "in memory"

    async def ask() -> None:
        async with asyncio.timeout(LAYER_SECONDS):
            channel = await layer.new_channel("health")
            await layer.send(channel, {"type": "health"})
            await layer.receive(channel)

    try:
        async_to_sync(ask)()
    except TimeoutError:
        return "no answer"
    except LAYER_ERRORS:
        return "failed"
    return "ok"


_GATEWAYS = """
SELECT id, name, extract(epoch FROM now() - seen_at)::float8, engines::text
FROM whatsapp_gateway ORDER BY name
"""


def _gateways(cursor: Any) -> list[GatewayHealth]:
    living = {share.id: share.salons for share in gateways.shares()}
    cursor.execute(_GATEWAYS)
    return [
        GatewayHealth(name, pk in living, living.get(pk, 0), ago, json.loads(engines))
        for pk, name, ago, engines in cursor.fetchall()
    ]


# What is linked and wanted, and not open. A link that is being tried is no outage.
_NOT_OPEN = """
SELECT 'company_' || salon.salon_id, s.status, s.reason,
       extract(epoch FROM now() - s.since)::float8
FROM whatsapp_whatsappsession s
JOIN whatsapp_salon salon ON salon.id = s.salon_id
JOIN whatsapp_credsindex creds ON creds.company_id = 'company_' || salon.salon_id
WHERE s.wanted AND NOT s.status IN ('open', 'pairing') AND creds.state = 'linked'
ORDER BY s.since, salon.salon_id
"""


def _not_open(cursor: Any) -> list[NotOpen]:
    cursor.execute(_NOT_OPEN)
    return [NotOpen(*row) for row in cursor.fetchall()]


_DOWN = f"""
SELECT down.status, count(*), max(down.seconds)
FROM ({_NOT_OPEN}) AS down(session_id, status, reason, seconds) GROUP BY down.status
"""  # noqa: S608


def down(cursor: Any) -> list[tuple[str, int, float]]:
    """Return (status, salons, seconds of the longest) of those that are not open."""
    cursor.execute(_DOWN)
    rows: list[tuple[str, int, float]] = cursor.fetchall()
    return rows


def ages(cursor: Any) -> tuple[float | None, int, int, float]:
    """Return what ``Health`` has from oldest_proof to untold_seconds."""
    cursor.execute(_AGES)
    row: tuple[float | None, int, int, float] = cursor.fetchone()
    return row


_AGES = f"""
SELECT (SELECT extract(epoch FROM now() - min(coalesce(last_alive_at, since)))::float8
        FROM whatsapp_whatsappsession WHERE status = 'open'),
       (SELECT count(*) FROM whatsapp_pairingattempt
        WHERE finished_at IS NULL
          AND deadline < now() - make_interval(secs => {ATTEMPT_SECONDS})),
       (SELECT count(*) FROM whatsapp_statuschange WHERE NOT told),
       coalesce((SELECT extract(epoch FROM now() - min(at))::float8
                 FROM whatsapp_statuschange WHERE NOT told), 0)
"""  # noqa: S608


# --- judging it -----------------------------------------------------------------------


def _problems(health: Health) -> list[str]:
    if health.database != "ok":
        return ["The database does not answer."]
    if health.missing_migrations:
        return [
            f"The database lacks {health.missing_migrations} migrations:"
            " run manage.py migrate."
        ]
    return [
        *_layer_problems(health),
        *_gateway_problems(health),
        *_salon_problems(health),
        *_work_problems(health),
    ]


def _layer_problems(health: Health) -> Iterator[str]:
    if health.channel_layer not in ("ok", "in memory"):
        yield (
            f"The channel layer: {health.channel_layer}. Pages and gateways learn of"
            " changes some seconds late."
        )


def _gateway_problems(health: Health) -> Iterator[str]:
    living = [gateway for gateway in health.gateways if gateway.alive]
    if not living:
        yield "No gateway is alive: no salon can be connected. Start one."
    for gateway in living:
        if gateway.looked_ago > LOOK_SECONDS:
            yield (
                f"Gateway {gateway.name} has not looked for"
                f" {_span(gateway.looked_ago)}."
            )
        yield from _engine_problems(gateway)
    lost = [gateway.name for gateway in health.gateways if not gateway.alive]
    if lost:
        health.notices.append(f"Gateways that were lost: {_named(lost)}.")


def _engine_problems(gateway: GatewayHealth) -> Iterator[str]:
    for engine in gateway.engines:
        name = f"{_process(engine)} of gateway {gateway.name}"
        if engine.get("pid") is None:
            yield f"{name} is down."
        elif (engine.get("lag_max_ms") or 0) > LAG_MS:
            yield f"{name} is blocked for {engine['lag_max_ms']:.0f} ms at a time."


def _process(engine: dict[str, Any]) -> str:
    number = engine.get("process")
    return f"Node.js {number}" if number else "Node.js (ward)"


def _salon_problems(health: Health) -> Iterator[str]:
    late = [one for one in health.not_open if one.seconds > NOT_OPEN_SECONDS]
    # Nothing of ours can help them.
    banned = [one.session_id for one in late if one.status == Status.BANNED]
    if banned:
        health.notices.append(
            f"WhatsApp has restricted the accounts of {_named(banned)}."
        )
    ours = [one for one in late if one.status != Status.BANNED]
    if ours:
        named = [
            f"{one.session_id} ({one.status}{one.reason and ' '}{one.reason},"
            f" {_span(one.seconds)})"
            for one in ours
        ]
        count = (
            f"{len(ours)} linked salons are" if len(ours) > 1 else "A linked salon is"
        )
        yield f"{count} not connected: {_named(named)}."
    if health.oldest_proof is not None and health.oldest_proof > SILENT_SECONDS:
        yield (
            "An open session was not heard for"
            f" {_span(health.oldest_proof)}, and nobody has noticed."
        )


def _work_problems(health: Health) -> Iterator[str]:
    if health.overdue_attempts:
        yield f"{health.overdue_attempts} link attempts are overdue and nobody ends them."
    if health.untold_seconds > UNTOLD_SECONDS:
        yield (
            f"{health.untold} changes of status were not told to anybody, the oldest"
            f" for {_span(health.untold_seconds)}."
        )
    if health.missing_keys:
        yield (
            "CREDENTIAL_ENCRYPTION_KEYS lacks"
            f" {_named(health.missing_keys)}: the links of {health.unreadable} salons"
            " cannot be read. See Encryption in docs/operations.md."
        )
    if health.grown:
        health.notices.append(
            f"Keys have grown abnormally: {_named(health.grown)}."
            " See Growth in docs/operations.md."
        )


def _named(names: list[str]) -> str:
    more = len(names) - NAMED
    return ", ".join(names[:NAMED]) + (f" and {more} more" if more > 0 else "")


def _span(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.0f} h"
