"""The WhatsApp web version that was fetched after a refusal: one for all gateways."""

import re
from collections.abc import Collection
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeAlias

from django.db import connection, transaction
from django.db.models import Q
from django.db.models.functions import Now

from whatsapp import events
from whatsapp.models import WebVersion, WhatsAppSession

Version: TypeAlias = tuple[int, int, int]

REFRESH_SECONDS = 600.0
"""WhatsApp is not asked for its version more often, however many salons it refuses."""

PROBE_SECONDS = 60.0
"""So often one outdated salon is tried, for all."""

_THREE_NUMBERS = re.compile(r"(\d{1,10})\.(\d{1,10})\.(\d{1,10})", re.ASCII)


@dataclass(frozen=True, slots=True)
class Refusal:
    """What follows from WhatsApp's refusal of a version."""

    newest: Version | None
    """The stored one, if it is newer than the one that was refused."""
    fetch: bool
    """Whoever asks is the one who fetches for all."""


def parse(text: str) -> Version:
    """Return the three numbers of ``text``.

    Raises:
        ValueError: it has not three.
    """
    match = _THREE_NUMBERS.fullmatch(text)
    if match is None:
        raise ValueError(f"{text!r} is no web version, such as 2.3000.1023223821.")
    return int(match[1]), int(match[2]), int(match[3])


def name(version: Version) -> str:
    """Return a version as it is written."""
    return ".".join(map(str, version))


def stored() -> Version | None:
    """Return the version that was fetched last, or None if none ever was."""
    text = WebVersion.objects.values_list("version", flat=True).first()
    return parse(text) if text else None


def refused(version: Version, salon_pk: int | None) -> Refusal:
    """Note that WhatsApp refused a socket; decide who fetches a newer version, if any.

    Args:
        version: what the socket claimed.
        salon_pk: whose it was, already recorded as outdated; it becomes due at once if
            a newer version is known by now. None: a link attempt's.
    """
    newest = stored()
    if newest is not None and newest > version:
        if salon_pk is not None:
            retry_outdated([salon_pk])
        return Refusal(newest, fetch=False)
    WebVersion.objects.bulk_create([WebVersion()], ignore_conflicts=True)
    due = Q(asked_at=None) | Q(asked_at__lte=Now() - timedelta(seconds=REFRESH_SECONDS))
    return Refusal(
        None, fetch=bool(WebVersion.objects.filter(due).update(asked_at=Now()))
    )


def record_fetched(version: Version) -> None:
    """Store a newer version, then let every salon that waits for one try again.

    In two transactions, so that a salon which becomes outdated meanwhile is seen by the
    second, or sees the version by itself (:func:`refused`).
    """
    with transaction.atomic():
        row, _made = WebVersion.objects.select_for_update().get_or_create()
        if not row.version or parse(row.version) < version:
            row.version = name(version)
            row.fetched_at = Now()
        row.error = ""
        row.save()
    retry_outdated()


def record_failed(error: str) -> None:
    """Keep why there is no newer version, for who looks into the table."""
    limit = WebVersion._meta.get_field("error").max_length
    WebVersion.objects.update(error=error[:limit])


def probe() -> bool:
    """Make one outdated salon due, once a minute over all gateways.

    If WhatsApp takes it, all others follow (:func:`retry_outdated`): nobody waits ten
    minutes for a refusal that is over, or for a version that an operator has set.

    Returns:
        Whether one is due now.
    """
    outdated = WhatsAppSession.objects.filter(
        status=WhatsAppSession.Status.OUTDATED, wanted=True, retry_at__gt=Now()
    )
    if not outdated.exists():
        return False
    due = Q(probed_at__lte=Now() - timedelta(seconds=PROBE_SECONDS))
    WebVersion.objects.bulk_create([WebVersion()], ignore_conflicts=True)
    if not WebVersion.objects.filter(due).update(probed_at=Now()):
        return False
    pk = outdated.order_by("retry_at").values_list("salon_id", flat=True).first()
    return bool(pk is not None and retry_outdated([pk]))


# Ordered, so that two of these never wait for each other.
_RETRY_SQL = """
WITH waiting AS (
    SELECT salon_id FROM whatsapp_whatsappsession
    WHERE status = 'outdated' AND retry_at > now()
      AND (%(pks)s::int[] IS NULL OR salon_id = ANY(%(pks)s::int[]))
    ORDER BY salon_id FOR UPDATE
)
UPDATE whatsapp_whatsappsession s SET retry_at = now()
FROM waiting WHERE s.salon_id = waiting.salon_id RETURNING s.salon_id
"""


def retry_outdated(salon_pks: Collection[int] | None = None) -> list[int]:
    """Make outdated salons due now; gateways start them a few at a time.

    Args:
        salon_pks: which; None: all.

    Returns:
        The primary keys of those that were waiting.
    """
    with transaction.atomic(), connection.cursor() as cursor:
        pks = None if salon_pks is None else list(salon_pks)
        cursor.execute(_RETRY_SQL, {"pks": pks})
        due = [row[0] for row in cursor.fetchall()]
        for pk in due if salon_pks is not None else [None]:
            events.wake_gateways(pk)
    return due
