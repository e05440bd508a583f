"""Salons: made, and found by the names that people use for them."""

import re

from django.db import connection, transaction

from whatsapp.models import Salon, WhatsAppSession


def create(salon_id: int, title: str) -> Salon:
    """Return the salon with the marketplace's number ``salon_id``; made if missing.

    Args:
        salon_id: positive integer.
        title: its name; an existing salon gets the new one.

    Raises:
        ValueError: ``salon_id`` is not positive.
    """
    if salon_id <= 0:
        raise ValueError("The salon id must be a positive number.")
    with transaction.atomic():
        salon, _ = Salon.objects.update_or_create(
            salon_id=salon_id, defaults={"title": title}
        )
        WhatsAppSession.objects.get_or_create(salon=salon)
    return salon


def find(name: str) -> Salon:
    """Return the salon called ``name``: its salon id, or ``company_<salon id>``.

    Raises:
        Salon.DoesNotExist: there is none.
    """
    match = re.fullmatch(r"(?:company_)?([0-9]{1,18})", name.strip())
    if not match:
        raise Salon.DoesNotExist(f"{name!r} is not a salon id.")
    try:
        return Salon.objects.get(salon_id=int(match.group(1)))
    except Salon.DoesNotExist:
        raise Salon.DoesNotExist(f"There is no salon {name}.") from None


_KNOWN_PHONE_SQL = """
SELECT coalesce(
    nullif(salon.expected_phone, ''),
    nullif(s.phone, ''),
    (SELECT substring(auth.creds->'me'->>'id' FROM '^([0-9]{7,15}):[0-9]+@')
     FROM whatsapp_auth auth
     WHERE auth.company_id = 'company_' || salon.salon_id
       AND jsonb_typeof(auth.creds->'account') = 'object'),
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
