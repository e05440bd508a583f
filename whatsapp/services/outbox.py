"""Changes of status that somebody outside is still to be told of.

The trigger that writes a change makes it untold; who tells it marks it. A salon that
flaps is told of once: its first changes as they are, then one word that it flaps, then
nothing until it has come to rest.
"""

import logging
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from django.db import connection, transaction
from django.db.models import Exists, OuterRef
from django.db.models.functions import Now
from django.dispatch import Signal

from whatsapp import signals
from whatsapp.models import Flapping, StatusChange, WhatsAppSession

Status = WhatsAppSession.Status

FLAPPING_CHANGES = 6
FLAPPING_SECONDS = 600.0
"""More changes than that in so many seconds are flapping; none for as long ends it."""

HEADS = 50
BATCH = 500

LEVELS: dict[str, int] = {
    # Ours to mend: another program has the creds, or nobody knows what is wrong.
    Status.REPLACED: logging.ERROR,
    Status.NEEDS_ATTENTION: logging.ERROR,
    # The salon's to mend; somebody should tell it.
    Status.LOGGED_OUT: logging.WARNING,
    Status.BANNED: logging.WARNING,
    # All salons at once: gateway/web_version.py alerts, once for all of them.
    Status.OUTDATED: logging.WARNING,
}

LASTING = (Status.LOGGED_OUT, Status.BANNED, Status.NEEDS_ATTENTION)
"""Stay until a person acts, or for an hour at least: told of even while it flaps."""

HARMLESS = (Status.UNLINKED, Status.PAIRING, Status.CONNECTING)
"""People come and go, ask for a code, let it expire; gateways start and hand over. That
is no flapping."""


@dataclass(frozen=True, slots=True)
class Word:
    """What is to be told: a signal, and a line of the log."""

    signal: Signal
    name: str
    level: int
    line: str
    fields: dict[str, Any] = field(default_factory=dict)


# The oldest untold change of each salon. Who has locked it has the salon's turn, so
# that no later one overtakes it; who finds it locked leaves the salon to the other.
_HEADS_SQL = """
SELECT c.salon_id FROM whatsapp_statuschange c
WHERE NOT c.told AND NOT EXISTS (
    SELECT FROM whatsapp_statuschange e
    WHERE e.salon_id = c.salon_id AND NOT e.told AND e.id < c.id)
ORDER BY c.id LIMIT %s FOR UPDATE OF c SKIP LOCKED
"""
_UNTOLD_SQL = """
SELECT c.id, c.salon_id, salon.salon_id, c.at, c.before, c.status, c.reason, c.owner
FROM whatsapp_statuschange c JOIN whatsapp_salon salon ON salon.id = c.salon_id
WHERE NOT c.told AND c.salon_id = ANY(%s) ORDER BY c.id LIMIT %s
"""
_RECENT_SQL = """
SELECT salon_id, at, status FROM whatsapp_statuschange
WHERE told AND salon_id = ANY(%s) AND at > %s - make_interval(secs => %s) ORDER BY id
"""


@dataclass(frozen=True, slots=True)
class _Change:
    id: int
    salon_pk: int
    salon_id: int
    at: datetime
    before: str
    after: str
    reason: str
    owner: str


def tell(send: Callable[[Word], None]) -> bool:
    """Tell untold changes, oldest first, each to ``send``, and mark them as told.

    Any number of processes may do so at once: a salon's changes are told by one at a
    time, in order. If this one dies before it commits, another tells the same changes
    again; none is ever lost. ``send`` is called within the transaction, so it must not
    use its connection.

    Returns:
        Whether there may be more.
    """
    with transaction.atomic():
        _take_time()
        changes = _take()
        if not changes:
            return False
        pks = {change.salon_pk for change in changes}
        # Of salons that are ours for now; only settle() may hold one for a moment.
        flapping = {
            row.salon_id: row
            for row in Flapping.objects.select_for_update()
            .filter(salon__in=pks)
            .order_by("salon")
        }
        recent = _recent(pks, min(change.at for change in changes))
        for change in changes:
            for word in _judge(change, flapping, recent[change.salon_pk]):
                send(word)
        StatusChange.objects.filter(id__in=[change.id for change in changes]).update(
            told=True
        )
        _store(pks, flapping.values())
    return True


def _take_time() -> None:
    """Let this transaction wait for receivers, however long they take."""
    with connection.cursor() as cursor:
        cursor.execute("SET LOCAL idle_in_transaction_session_timeout = 0")


def _take() -> list[_Change]:
    with connection.cursor() as cursor:
        cursor.execute(_HEADS_SQL, [HEADS])
        pks = [row[0] for row in cursor.fetchall()]
        if not pks:
            return []
        cursor.execute(_UNTOLD_SQL, [pks, BATCH])
        return [_Change(*row) for row in cursor.fetchall()]


def _recent(pks: set[int], oldest: datetime) -> dict[int, deque[datetime]]:
    """Return when each salon's latest changes were, as far as they count."""
    recent: dict[int, deque[datetime]] = {pk: deque() for pk in pks}
    with connection.cursor() as cursor:
        cursor.execute(_RECENT_SQL, [list(pks), oldest, FLAPPING_SECONDS])
        for pk, at, status in cursor.fetchall():
            _count(recent[pk], at, status)
    return recent


def _count(recent: deque[datetime], at: datetime, status: str) -> int:
    """Return how many changes count against a salon, this one included."""
    if status in LASTING:
        recent.clear()  # what comes after it is a new story
    elif status not in HARMLESS:
        recent.append(at)
    while recent and recent[0] <= at - timedelta(seconds=FLAPPING_SECONDS):
        recent.popleft()
    return len(recent)


def _judge(
    change: _Change, flapping: dict[int, Flapping], recent: deque[datetime]
) -> Iterator[Word]:
    count = _count(recent, change.at, change.after)
    row = flapping.get(change.salon_pk)
    if row is None and count <= FLAPPING_CHANGES:
        yield _changed(change)
    elif row is None:
        flapping[change.salon_pk] = Flapping(
            salon_id=change.salon_pk, since=change.at, changed_at=change.at
        )
        yield _flaps(change, count)
    else:
        row.changes += 1
        row.changed_at = change.at
        if change.after in LASTING:
            yield _changed(change)
            yield _settled(row, change.salon_id, change.after, change.reason, change.at)
            del flapping[change.salon_pk]


def _store(pks: Iterable[int], flapping: Iterable[Flapping]) -> None:
    rows = list(flapping)
    Flapping.objects.filter(salon__in=pks).exclude(
        salon__in=[row.salon_id for row in rows]
    ).delete()
    Flapping.objects.bulk_create(
        rows,
        update_conflicts=True,
        unique_fields=["salon"],
        update_fields=["changes", "changed_at"],
    )


def settle(send: Callable[[Word], None]) -> None:
    """Tell of salons that have come to rest: as safe, and as repeatable, as tell()."""
    untold = StatusChange.objects.filter(salon=OuterRef("salon"), told=False)
    with transaction.atomic():
        _take_time()
        rows = list(
            Flapping.objects.select_for_update(skip_locked=True, of=("self",))
            .filter(changed_at__lte=Now() - timedelta(seconds=FLAPPING_SECONDS))
            .exclude(Exists(untold))
            .select_related("salon__session")
            .order_by("salon")
        )
        for row in rows:
            session = row.salon.session
            at = row.changed_at + timedelta(seconds=FLAPPING_SECONDS)
            send(
                _settled(row, row.salon.salon_id, session.status, session.reason, at),
            )
        Flapping.objects.filter(salon__in=[row.salon_id for row in rows]).delete()


# --- the words ------------------------------------------------------------------------


def _names(salon_id: int, at: datetime) -> dict[str, Any]:
    return {"salon_id": salon_id, "session_id": f"company_{salon_id}", "at": at}


def _changed(change: _Change) -> Word:
    return Word(
        signals.session_status_changed,
        "session_status_changed",
        LEVELS.get(change.after, logging.INFO),
        "%(session_id)s: %(before)s, now %(after)s; reason: %(reason)s",
        {
            **_names(change.salon_id, change.at),
            "before": change.before,
            "after": change.after,
            "reason": change.reason,
            "owner": change.owner,
            "change": change.id,
        },
    )


def _flaps(change: _Change, count: int) -> Word:
    return Word(
        signals.session_flapping,
        "session_flapping",
        logging.ERROR,
        "%(session_id)s flaps: %(changes)s changes in %(seconds).0f s, now %(status)s;"
        " reason: %(reason)s. Told again when it has settled",
        {
            **_names(change.salon_id, change.at),
            "status": change.after,
            "reason": change.reason,
            "changes": count,
            "seconds": FLAPPING_SECONDS,
            "change": change.id,
        },
    )


def _settled(
    row: Flapping, salon_id: int, status: str, reason: str, at: datetime
) -> Word:
    return Word(
        signals.session_settled,
        "session_settled",
        # What is bad about it has been told, or is: here it comes to rest.
        logging.WARNING if status in LEVELS else logging.INFO,
        "%(session_id)s has settled after %(changes)s more changes: %(status)s",
        {
            **_names(salon_id, at),
            "status": status,
            "reason": reason,
            "changes": row.changes,
            "since": row.since,
        },
    )
