"""What the previous service left: its two tables, its ids, and what lies beside them.

Looks only. What is to become of it is decided and done by services/takeover.py.
"""

import re
from dataclasses import dataclass
from datetime import datetime

from django.db import connection

from whatsapp.services import credentials
from whatsapp.services.credentials import StoredCreds

RECENT_MINUTES = 10
"""Only the previous service puts dates on keys: one this fresh means that it runs."""

UNINSTALLED = "uninstalled"


def salon_number(company_id: str) -> int | None:
    """Return the salon id in ``4217`` or ``company_4217``; None: it is no salon's."""
    match = re.fullmatch(r"(?:company_)?([1-9][0-9]{0,17})", company_id, re.ASCII)
    return int(match.group(1)) if match else None


@dataclass(frozen=True, slots=True)
class Row:
    """What lies under one id: creds, keys, or both."""

    company_id: str
    creds: StoredCreds
    device: str
    """The same for two copies of one link, whatever form their values have."""
    form: str
    written_at: datetime | None
    keys: int
    dated: int
    """Keys that have a date on which they expire."""


_ROWS = """
WITH auth AS (
    SELECT company_id, state, jid, updated_at, device,
           CASE WHEN creds ? 'sealed' THEN 'sealed'
                WHEN jsonb_typeof(creds#>'{noiseKey,private,data}') = 'array'
                THEN 'bytes'
                WHEN jsonb_typeof(creds#>'{noiseKey,private,data}') = 'string'
                THEN 'base64'
                WHEN creds#>'{noiseKey,private}' ? '0' THEN 'index'
                ELSE 'unknown' END AS form
    FROM whatsapp_auth LEFT JOIN whatsapp_credsindex USING (company_id)
    WHERE %(ids)s::text[] IS NULL OR company_id = ANY(%(ids)s)
), keys AS (
    SELECT company_id, count(*) AS total, count(expires_at) AS dated
    FROM whatsapp_keys
    WHERE %(ids)s::text[] IS NULL OR company_id = ANY(%(ids)s)
    GROUP BY company_id
)
SELECT company_id, state, jid, device, form, updated_at,
       coalesce(total, 0), coalesce(dated, 0)
FROM auth FULL JOIN keys USING (company_id)
ORDER BY company_id
"""


def rows(company_ids: list[str] | None = None) -> list[Row]:
    """Return what lies there, under these ids only or (None) under all."""
    with connection.cursor() as cursor:
        cursor.execute(_ROWS, {"ids": company_ids})
        return [
            Row(
                row[0],
                credentials.classify(row[1], row[2]),
                row[3] or "",
                row[4] or "",
                *row[5:],
            )
            for row in cursor.fetchall()
        ]


@dataclass(slots=True)
class Company:
    """What the marketplace's table says of a salon."""

    title: str = ""
    has_left: bool = True
    """It has uninstalled us."""


# As JSON, because not every column is there in every version of that table.
_COMPANIES = """
SELECT row->>'yclients_id', row->>'company_id', row->>'title', row->>'integration_status'
FROM (SELECT to_jsonb(c) - 'raw_data' AS row FROM companies c) rows
ORDER BY row->>'integration_status' IS NOT DISTINCT FROM %s,
         row->>'updated_at' DESC NULLS LAST
"""


def companies() -> dict[int, Company]:
    """Return what the marketplace's table says, by salon id; it may not be there."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT to_regclass('companies') IS NOT NULL")
        if not cursor.fetchone()[0]:
            return {}
        cursor.execute(_COMPANIES, [UNINSTALLED])
        listed = cursor.fetchall()
    found: dict[int, Company] = {}
    for yclients_id, company_id, title, status in listed:
        number = salon_number(yclients_id or company_id or "")
        if number is None:
            continue
        company = found.setdefault(number, Company())
        company.title = company.title or (title or "").strip()
        company.has_left = company.has_left and status == UNINSTALLED
    return found


def recently_written() -> int:
    """Return how many keys the previous service has written in the last minutes."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT count(*) FROM whatsapp_keys WHERE expires_at > now()"
            " AND updated_at > now() - make_interval(mins => %s)",
            [RECENT_MINUTES],
        )
        return int(cursor.fetchone()[0])


def backups() -> list[str]:
    """Return the tables that hold copies of secrets."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT tablename FROM pg_tables"
            " WHERE tablename ~ '^whatsapp_(auth|keys)_backup' ORDER BY 1"
        )
        return [row[0] for row in cursor.fetchall()]
