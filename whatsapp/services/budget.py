"""How often WhatsApp may be asked for a code: we refuse before it does."""

from django.conf import settings
from django.db import connection

from whatsapp.models import Salon

COOL_DOWN_SECONDS = 30
"""After WhatsApp's first 429 for a phone; doubles with each further one in an hour."""


_BUDGET = """
SELECT greatest(0, coalesce(max(wait), 0))::float8 FROM (
    SELECT extract(epoch FROM requested_at - now()) + %(window)s AS wait,
           row_number() OVER (PARTITION BY scope ORDER BY requested_at DESC)
    FROM (
        SELECT requested_at, 'salon' AS scope FROM whatsapp_pairingattempt
        WHERE salon_id = %(salon)s AND kind = 'code' AND epoch IS NOT NULL
          AND requested_at > now() - make_interval(secs => %(window)s)
        UNION ALL
        SELECT requested_at, 'phone' FROM whatsapp_pairingattempt
        WHERE phone = %(phone)s AND kind = 'code' AND epoch IS NOT NULL
          AND requested_at > now() - make_interval(secs => %(window)s)
    ) recent
) ranked WHERE row_number = %(count)s
"""
_COOL_DOWN = """
SELECT greatest(0, extract(epoch FROM max(finished_at) - now())
       + %(cool_down)s * 2 ^ least(count(*) - 1, 7))::float8
FROM whatsapp_pairingattempt
WHERE phone = %(phone)s AND error = 'RATE_LIMITED'
  AND finished_at > now() - interval '1 hour'
"""


def wait(salon: Salon, phone: str) -> float:
    """Return seconds until another code may be asked for; 0: now.

    What no socket ever took up cost WhatsApp nothing: our own outage must not lock a
    salon out for an hour.
    """
    count, window = settings.WHATSAPP_PAIRING_BUDGET
    with connection.cursor() as cursor:
        cursor.execute(
            f"SELECT greatest(({_BUDGET}), ({_COOL_DOWN}))",
            {
                "window": window,
                "salon": salon.pk,
                "phone": phone,
                "count": count,
                "cool_down": COOL_DOWN_SECONDS,
            },
        )
        return float(cursor.fetchone()[0] or 0)


def cool_down_left(phone: str) -> float:
    """Return seconds for which WhatsApp is not asked about ``phone`` after its 429s."""
    with connection.cursor() as cursor:
        cursor.execute(_COOL_DOWN, {"phone": phone, "cool_down": COOL_DOWN_SECONDS})
        return float(cursor.fetchone()[0] or 0)
