"""A link as it lies in the tables, taken out whole and put back whole: for backups."""

from dataclasses import dataclass, field
from datetime import datetime

from django.db import connection

from whatsapp.models import Salon
from whatsapp.services import credentials, sealing
from whatsapp.services.credentials import CredsState


@dataclass(frozen=True, slots=True)
class Exported:
    """A link as it was stored at one moment, and what its session said then."""

    creds: str = field(repr=False)
    keys: str = field(repr=False)
    """Plain JSON text of ``[{"t": type, "i": id, "v": value}, …]``, as for a swap."""
    taken_at: datetime
    written_at: datetime
    """When creds or keys were last written."""
    status: str
    owner: str
    epoch: int
    written: int


# One statement, so one snapshot: what a gateway stores meanwhile is in it with its creds
# and all its keys, or not at all. As text, since PostgreSQL takes no more than 256 MB of
# elements in one JSON value, and text carries every number as it is written.
_EXPORT_SQL = """
SELECT a.creds::text, k.keys, statement_timestamp(),
       coalesce(greatest(a.updated_at, k.updated_at), statement_timestamp()),
       coalesce(s.status, 'unlinked'), coalesce(s.owner, ''), coalesce(s.epoch, 0),
       coalesce(s.written, 0)
FROM whatsapp_auth a
CROSS JOIN LATERAL (
    SELECT '[' || coalesce(string_agg(
        jsonb_build_object('t', key_type, 'i', key_id, 'v', value)::text, ','
        ORDER BY key_type, key_id
    ), '') || ']' AS keys, max(updated_at) AS updated_at
    FROM whatsapp_keys WHERE company_id = a.company_id
) k
LEFT JOIN whatsapp_whatsappsession s ON s.salon_id = %s
WHERE a.company_id = %s
"""


def export(salon: Salon) -> Exported | None:
    """Return what is stored for a salon, opened; None if no phone is linked.

    Raises:
        SealingError: a part of it cannot be opened.
    """
    if not credentials.stored(salon).linked:
        return None
    company_id = salon.session_id
    with connection.cursor() as cursor:
        cursor.execute(_EXPORT_SQL, [salon.pk, company_id])
        row = cursor.fetchone()
    if row is None:
        return None
    creds, keys, *facts = row
    return Exported(
        sealing.unseal_creds(company_id, creds),
        sealing.unseal_keys(company_id, keys),
        *facts,
    )


def replace(
    salon: Salon, reason: str, creds: str, keys: str, written_at: datetime
) -> bool:
    """Put an exported link in place of whatever is there.

    Args:
        salon: its session row must be locked by the running transaction.
        reason: for what goes to the archive.
        creds: as :func:`export` gave them.
        keys: as :func:`export` gave them.
        written_at: when they were last written; they become no newer by it.

    Returns:
        Whether there was a link, which is in the archive now.

    Raises:
        ValueError: the creds are not those of a linked device.
    """
    if credentials.identify(creds).state is not CredsState.LINKED:
        raise ValueError("These creds are not those of a linked device.")
    was_linked = credentials.archive(salon, reason)
    credentials.insert(salon, creds, keys)
    with connection.cursor() as cursor:
        for table in ("whatsapp_auth", "whatsapp_keys"):
            cursor.execute(
                f"UPDATE {table} SET updated_at = %s WHERE company_id = %s",  # noqa: S608
                [written_at, salon.session_id],
            )
    return was_linked
