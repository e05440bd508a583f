"""The gateways themselves: who is there, how many salons each runs, what each says.

A gateway lives as long as its connection holds its advisory lock. Its row is for people
and for what cannot be seen in a lock; no clock of a node decides anything.
"""

from dataclasses import dataclass
from datetime import timedelta

from django.db import connection
from django.db.models.functions import Now

from whatsapp.figures import Figures
from whatsapp.models import Gateway
from whatsapp.services.claims import LOCK_CLASS

GATEWAY_LOCK_CLASS = 0x57414757
"""First half of a gateway's advisory lock; the second is its row's id."""

KEPT_DAYS = 7
"""For so long the row of a gateway that was lost can still be looked at."""

CHANNEL = "whatsapp_gateways"
"""On it gateways tell each other which salons are free (LISTEN, NOTIFY)."""


@dataclass(frozen=True, slots=True)
class Share:
    """What a living gateway holds."""

    id: int
    name: str
    salons: int


# One pass over the lock table: it may hold thousands of rows.
_SHARES_SQL = """
SELECT g.id, g.name, held.salons
FROM (
    SELECT max(objid::int) FILTER (WHERE classid = %(gateways)s) AS id,
           count(*) FILTER (WHERE classid = %(salons)s)::int AS salons
    FROM pg_locks
    WHERE locktype = 'advisory' AND objsubid = 2 AND granted
      AND classid IN (%(gateways)s, %(salons)s)
      AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
    GROUP BY pid
) held
JOIN whatsapp_gateway g ON g.id = held.id
ORDER BY g.id
"""


def join(name: str) -> int:
    """Register a gateway; return the id that its lock is made of.

    Once more if need be: whoever was not answered does not know that he is in.
    """
    gateway, _created = Gateway.objects.get_or_create(name=name)
    return gateway.pk


def shares() -> list[Share]:
    """Return the living gateways and how many salons each holds."""
    with connection.cursor() as cursor:
        cursor.execute(
            _SHARES_SQL, {"gateways": GATEWAY_LOCK_CLASS, "salons": LOCK_CLASS}
        )
        return [Share(*row) for row in cursor.fetchall()]


def touch(
    gateway_id: int, engines: list[dict[str, object]], figures: Figures | None = None
) -> None:
    """Note that a gateway looked just now, and what it has to tell.

    Args:
        gateway_id: of its row.
        engines: what its Node.js processes are doing.
        figures: what it has counted since it began.
    """
    Gateway.objects.filter(pk=gateway_id).update(
        seen_at=Now(), engines=engines, metrics=figures or {}
    )


def leave(gateway_id: int) -> None:
    """Forget a gateway that has ended."""
    Gateway.objects.filter(pk=gateway_id).delete()


def purge(*, dry_run: bool = False) -> int:
    """Forget gateways that were lost a while ago.

    Args:
        dry_run: forget none.

    Returns:
        How many were forgotten, or would be.
    """
    lost = Gateway.objects.filter(
        seen_at__lt=Now() - timedelta(days=KEPT_DAYS)
    ).exclude(pk__in=[share.id for share in shares()])
    return lost.count() if dry_run else lost.delete()[0]
