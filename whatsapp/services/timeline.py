"""What happened to a salon: audit, attempts and changes of status as one story."""

import json
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

from django.db import connection
from django.db.models.functions import Now
from django.utils.translation import gettext as _

from whatsapp.models import PairingAttempt, Salon, StatusChange
from whatsapp.phones import mask_phone
from whatsapp.services import words

PAGE_SIZE = 25
KEEP_DAYS = 90
"""Changes of status are kept for so long. The audit is kept for ever."""


@dataclass(frozen=True, slots=True)
class Entry:
    """Something that happened, in words of the active language."""

    at: datetime
    source: Literal["audit", "attempt", "status"]
    who: str
    what: str
    why: str
    status: str = ""
    """The new status, for its colour; empty if it is not about one."""
    name: str = ""
    """What, for programs: the audit's action, the attempt's stage, the new status."""
    reason: str = ""
    """Why, for programs: an error code or a reason; of the audit, empty."""


@dataclass(frozen=True, slots=True)
class Page:
    """Some entries, the newest first, and where the next ones begin."""

    entries: list[Entry]
    older: str
    """Give it to :func:`page` for what was before; empty: that was all."""


_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_SOURCES = ("audit", "attempt", "status")

# Each branch reads the salon's own rows only, and no more of them than fit on a page.
_SQL = """
(SELECT at, 0 AS source, id::bigint, actor AS who,
        jsonb_build_object('action', action, 'detail', detail)::text
 FROM whatsapp_auditevent WHERE salon_id = %(salon)s
   AND (%(at)s::timestamptz IS NULL OR (at, 0, id) < (%(at)s, %(source)s, %(id)s))
 ORDER BY at DESC, id DESC LIMIT %(limit)s)
UNION ALL
(SELECT requested_at, 1, id, requested_by,
        jsonb_build_object(
            'kind', kind, 'stage', stage, 'error', error,
            'phone', coalesce(nullif(linked_phone, ''), phone),
            'took', extract(epoch FROM finished_at - requested_at))::text
 FROM whatsapp_pairingattempt WHERE salon_id = %(salon)s
   AND (%(at)s::timestamptz IS NULL
        OR (requested_at, 1, id) < (%(at)s, %(source)s, %(id)s))
 ORDER BY requested_at DESC, id DESC LIMIT %(limit)s)
UNION ALL
(SELECT at, 2, id, '',
        jsonb_build_object(
            'before', before, 'status', status, 'reason', reason, 'owner', owner)::text
 FROM whatsapp_statuschange WHERE salon_id = %(salon)s
   AND (%(at)s::timestamptz IS NULL OR (at, 2, id) < (%(at)s, %(source)s, %(id)s))
 ORDER BY at DESC, id DESC LIMIT %(limit)s)
ORDER BY 1 DESC, 2 DESC, 3 DESC LIMIT %(limit)s
"""


def page(salon: Salon, older_than: str = "", size: int = PAGE_SIZE) -> Page:
    """Return a page of what happened to ``salon``, in one query.

    Args:
        salon: the salon; whoever asks has been judged before.
        older_than: ``older`` of the page before; what is no such word means the start.
        size: so many entries.
    """
    at, source, pk = _parse(older_than)
    with connection.cursor() as cursor:
        cursor.execute(
            _SQL,
            {
                "salon": salon.pk,
                "at": at,
                "source": source,
                "id": pk,
                "limit": size + 1,
            },
        )
        rows = cursor.fetchall()
    older = _name(*rows[size - 1][:3]) if len(rows) > size else ""
    return Page([_entry(*row) for row in rows[:size]], older)


PURGE_BATCH = 5000


def purge(*, dry_run: bool = False) -> int:
    """Delete changes of status that are older than KEEP_DAYS, a batch at a time.

    Args:
        dry_run: delete nothing.

    Returns:
        How many went, or would go.
    """
    old = StatusChange.objects.filter(at__lt=Now() - timedelta(days=KEEP_DAYS))
    if dry_run:
        return old.count()
    deleted = 0
    while pks := list(old.values_list("pk", flat=True)[:PURGE_BATCH]):
        deleted += StatusChange.objects.filter(pk__in=pks).delete()[0]
    return deleted


def _name(at: datetime, source: int, pk: int) -> str:
    return f"{(at - _EPOCH) // timedelta(microseconds=1)}-{source}-{pk}"


def _parse(name: str) -> tuple[datetime | None, int, int]:
    try:
        micros, source, pk = (int(part) for part in name.split("-"))
        at = _EPOCH + timedelta(microseconds=micros)
    except (ValueError, OverflowError):
        return None, 0, 0
    if not 0 <= pk < 2**63 or not 0 <= source < len(_SOURCES):
        return None, 0, 0
    return at, source, pk


def _entry(at: datetime, source: int, _pk: int, who: str, text: str) -> Entry:
    data: dict[str, Any] = json.loads(text)
    if source == 0:
        what, why = words.action(data["action"]), words.detail(data["detail"])
        return Entry(at, "audit", words.actor(who), what, why, name=data["action"])
    if source == 1:
        return Entry(
            at,
            "attempt",
            words.actor(who),
            _attempt(data),
            _outcome(data),
            name=data["stage"],
            reason=data["error"],
        )
    return Entry(
        at,
        "status",
        words.actor("system"),
        f"{words.status(data['before'])} → {words.status(data['status'])}",
        _status_reason(data),
        data["status"],
        name=data["status"],
        reason=data["reason"],
    )


def _attempt(data: dict[str, Any]) -> str:
    if data["kind"] == PairingAttempt.Kind.QR:
        return _("Asked for a QR")
    return _("Asked for a code for {phone}").format(phone=mask_phone(data["phone"]))


def _outcome(data: dict[str, Any]) -> str:
    parts = [words.stage(data["stage"])]
    if data["stage"] == PairingAttempt.Stage.LINKED:
        parts[0] = _("linked to {phone}").format(phone=mask_phone(data["phone"]))
    if data["took"] is not None:
        parts[0] += " " + _("after {time}").format(
            time=words.duration(float(data["took"]))
        )
    return ": ".join(filter(None, [*parts, words.reason(data["error"])]))


def _status_reason(data: dict[str, Any]) -> str:
    owner = _("gateway {name}").format(name=data["owner"]) if data["owner"] else ""
    return "; ".join(filter(None, [words.reason(data["reason"]), owner]))
