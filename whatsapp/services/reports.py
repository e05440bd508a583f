"""What operators are told of sessions: everything but the secrets."""

import json
from datetime import UTC, datetime
from typing import TypedDict

from django.db import connection

from whatsapp.phones import mask_phone
from whatsapp.services import credentials


class AttemptReport(TypedDict):
    """An unfinished link attempt."""

    kind: str
    stage: str
    phone: str
    deadline: str


class SessionReport(TypedDict):
    """One salon's session. Phones are masked, times are ISO 8601 in UTC."""

    salon_id: int
    session_id: str
    title: str
    status: str
    reason: str
    phone: str
    since: str
    wanted: bool
    retry_at: str | None
    owner: str
    epoch: int
    last_alive_at: str | None
    creds: str
    keys: dict[str, int]
    attempt: AttemptReport | None


_SQL = """
SELECT salon.salon_id, salon.title,
       coalesce(s.status, 'unlinked'), coalesce(s.reason, ''), coalesce(s.phone, ''),
       coalesce(s.since, salon.created_at), coalesce(s.wanted, true),
       CASE WHEN s.retry_at > now() THEN s.retry_at END,
       coalesce(s.owner, ''), coalesce(s.epoch, 0), s.last_alive_at,
       auth.company_id IS NOT NULL,
       jsonb_typeof(auth.creds->'account') = 'object', auth.creds->'me'->>'id',
       coalesce((
           SELECT jsonb_object_agg(key_type, count ORDER BY key_type) FROM (
               SELECT key_type, count(*) FROM whatsapp_keys
               WHERE company_id = 'company_' || salon.salon_id GROUP BY key_type
           ) counts
       ), '{}')::text,
       a.kind, a.stage, a.phone, a.deadline
FROM whatsapp_salon salon
LEFT JOIN whatsapp_whatsappsession s ON s.salon_id = salon.id
LEFT JOIN whatsapp_auth auth ON auth.company_id = 'company_' || salon.salon_id
LEFT JOIN whatsapp_pairingattempt a ON a.salon_id = salon.id AND a.finished_at IS NULL
WHERE %(pk)s::int IS NULL OR salon.id = %(pk)s
ORDER BY salon.salon_id
"""


def sessions(salon_pk: int | None = None) -> list[SessionReport]:
    """Return a report on one salon's session, or on all, in one query."""
    with connection.cursor() as cursor:
        cursor.execute(_SQL, {"pk": salon_pk})
        rows = cursor.fetchall()
    return [
        {
            "salon_id": row[0],
            "session_id": f"company_{row[0]}",
            "title": row[1],
            "status": row[2],
            "reason": row[3],
            "phone": mask_phone(row[4]),
            "since": _iso(row[5]) or "",
            "wanted": row[6],
            "retry_at": _iso(row[7]),
            "owner": row[8],
            "epoch": row[9],
            "last_alive_at": _iso(row[10]),
            "creds": (
                credentials.classify(row[12], row[13])
                if row[11]
                else credentials.ABSENT
            ).state.value,
            "keys": json.loads(row[14]),
            "attempt": _attempt(*row[15:19]),
        }
        for row in rows
    ]


def _attempt(
    kind: str | None, stage: str, phone: str, deadline: datetime
) -> AttemptReport | None:
    if kind is None:
        return None
    return {
        "kind": kind,
        "stage": stage,
        "phone": mask_phone(phone),
        "deadline": _iso(deadline) or "",
    }


def _iso(moment: datetime | None) -> str | None:
    if moment is None:
        return None
    return moment.astimezone(UTC).isoformat(timespec="seconds")
