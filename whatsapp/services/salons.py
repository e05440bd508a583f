"""Salons: made, changed, and found by the names that people use for them."""

import re

from django.conf import settings
from django.db import connection, transaction
from django.db.models import QuerySet

from whatsapp.models import Salon, WhatsAppSession
from whatsapp.phones import normalize_phone
from whatsapp.services import audit

MOST_DIGITS = 18
"""Of a salon id, so that it fits into its column."""


def create(salon_id: int, title: str, actor: str = "") -> Salon:
    """Return the salon with the marketplace's number ``salon_id``; made if missing.

    Args:
        salon_id: positive integer.
        title: its name; an existing salon gets the new one.
        actor: who asks; a person's wish is audited.

    Raises:
        ValueError: ``salon_id`` is not positive, or longer than :func:`find` takes it.
    """
    if not 0 < salon_id < 10**MOST_DIGITS:
        raise ValueError(
            f"The salon id must be a positive number of at most {MOST_DIGITS} digits."
        )
    with transaction.atomic():
        salon, created = Salon.objects.update_or_create(
            salon_id=salon_id, defaults={"title": title}
        )
        WhatsAppSession.objects.get_or_create(salon=salon)
        if actor:
            audit.record(
                salon.pk, actor, "salon_created" if created else "salon_edited"
            )
    return salon


def update(
    salon: Salon,
    actor: str,
    *,
    title: str,
    expected_phone: str,
    shared_phone_allowed: bool,
) -> list[str]:
    """Change what people may change of a salon.

    Args:
        salon: as it is to be afterwards is set on it, too.
        actor: who asks, for the audit.
        title: its name.
        expected_phone: as typed; empty: any phone.
        shared_phone_allowed: whether another salon may use the same phone.

    Returns:
        The names of the fields that have changed.

    Raises:
        WhatsAppError: INVALID_PHONE_FORMAT.
    """
    phone = expected_phone.strip()
    if phone:
        phone = normalize_phone(phone, settings.WHATSAPP_DEFAULT_REGION)
    wanted = {
        "title": title,
        "expected_phone": phone,
        "shared_phone_allowed": shared_phone_allowed,
    }
    with transaction.atomic():
        stored = Salon.objects.select_for_update().get(pk=salon.pk)
        changed = [name for name in wanted if getattr(stored, name) != wanted[name]]
        if changed:
            Salon.objects.filter(pk=salon.pk).update(**wanted)
            audit.record(salon.pk, actor, "salon_edited", fields=changed)
    for name, value in wanted.items():
        setattr(salon, name, value)
    return changed


_NAME = re.compile(rf"(?:company_)?([0-9]{{1,{MOST_DIGITS}}})")


def find(name: str, among: QuerySet[Salon] | None = None) -> Salon:
    """Return the salon called ``name``: its salon id, or ``company_<salon id>``.

    Args:
        name: as somebody wrote it.
        among: the salons that whoever asks may see; None: all.

    Raises:
        Salon.DoesNotExist: there is none.
    """
    match = _NAME.fullmatch(name.strip())
    if not match:
        raise Salon.DoesNotExist(f"{name!r} is not a salon id.")
    try:
        found = Salon.objects.all() if among is None else among
        return found.get(salon_id=int(match.group(1)))
    except Salon.DoesNotExist:
        raise Salon.DoesNotExist(f"There is no salon {name}.") from None


_KNOWN_PHONE_SQL = """
SELECT coalesce(
    nullif(salon.expected_phone, ''),
    nullif(s.phone, ''),
    (SELECT substring(creds.jid FROM '^([0-9]{7,15}):')
     FROM whatsapp_credsindex creds
     WHERE creds.company_id = 'company_' || salon.salon_id
       AND creds.state = 'linked'),
    (SELECT phone FROM (
        (SELECT phone, archived_at AS at FROM whatsapp_archivedcredentials
         WHERE salon_id = salon.id AND phone <> '' AND reason <> 'refused'
         ORDER BY id DESC LIMIT 1)
        UNION ALL
        (SELECT linked_phone, finished_at FROM whatsapp_pairingattempt
         WHERE salon_id = salon.id AND stage = 'linked' AND linked_phone <> ''
         ORDER BY id DESC LIMIT 1)
     ) linked ORDER BY at DESC LIMIT 1),
    '')
FROM whatsapp_salon salon
LEFT JOIN whatsapp_whatsappsession s ON s.salon_id = salon.id
WHERE salon.id = %s
"""


def known_phone(salon: Salon) -> str:
    """Return the digits of the salon's own number: expected, linked, or linked last.

    Returns:
        Empty if none is known. Whoever may not link a phone must not be told it.
    """
    with connection.cursor() as cursor:
        cursor.execute(_KNOWN_PHONE_SQL, [salon.pk])
        row = cursor.fetchone()
    return row[0] if row else ""
