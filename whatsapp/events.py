"""What pages are told, what gateways are told, and how.

A page is told the whole visible state of its salon (a :class:`Snapshot`) after every
committed change; the consumer turns the difference to what it said before into the
events of the protocol. So a lost message costs time and never the truth, and a page
that comes back is told where things stand by the same path.
"""

import logging
from datetime import UTC, datetime
from typing import Any, Literal, NotRequired, TypedDict

from asgiref.sync import async_to_sync
from channels.layers import get_channel_layer
from django.db import connection, transaction
from redis.exceptions import RedisError

from whatsapp import alerts
from whatsapp.models import WhatsAppSession

logger = logging.getLogger(__name__)

# client -> server
REQUEST_QR = "request-qr"
REQUEST_PAIRING_CODE = "request-pairing-code"
RESET_CREDENTIALS = "reset-whatsapp-credentials"
DISCONNECT = "disconnect-whatsapp"
GET_STATUS = "get-status"
AUTH = "auth"
WATCH = "watch"

# server -> client
STATUS = "status"
QR_UPDATE = "qr-update"
PAIRING_CODE = "pairing-code"
PAIRING_CODE_ERROR = "pairing-code-error"
WHATSAPP_CONNECTED = "whatsapp-connected"
CREDENTIALS_RESET = "credentials-reset"
RESET_ERROR = "reset-error"
KNOWN_PHONE = "known-phone"
SALON_STATUSES = "salon-statuses"
ERROR = "error"
ERRORS = (PAIRING_CODE_ERROR, RESET_ERROR, ERROR)

GATEWAYS_GROUP = "whatsapp.gateways"
LISTS_GROUP = "whatsapp.lists"
"""Of the lists of salons in the admin: one for all, since each shows hundreds of them."""
LAYER_ERRORS = (RedisError, OSError, RuntimeError)
"""The channel layer is down. It only saves time: whoever waits also looks himself."""

RECENT_SECONDS = 600
"""A finished attempt is news for this long; then it is history."""


class AttemptState(TypedDict):
    """The latest attempt of a salon, as pages may see it. Times are seconds from now."""

    id: int
    kind: str
    stage: str
    phone: str
    finished: bool
    finished_ago: float | None
    expires_in: float
    code: str
    qr: str
    qr_expires_in: float | None
    error: str
    retry_after: int | None


class Snapshot(TypedDict):
    """All that a page of a salon can see, at one revision."""

    salon: int
    session_id: str
    revision: int
    status: str
    reason: str
    phone: str
    since: str
    resets: int
    attempt: AttemptState | None
    # Missing if a process of an earlier version tells.
    proof_age: NotRequired[float | None]
    # For staff only.
    owner: NotRequired[str]
    alive: NotRequired[str | None]


class SnapshotMessage(TypedDict):
    """On the layer, to a salon's group, and without secrets to the lists' group."""

    type: Literal["salon.snapshot"]
    snapshot: Snapshot


class LookMessage(TypedDict):
    """On the layer, to the gateways: the rows of this salon have changed."""

    type: Literal["look"]
    salon: int | None


def salon_group(salon_pk: int) -> str:
    """Return the name of the group of a salon's pages."""
    return f"whatsapp.salon.{salon_pk}"


_SNAPSHOT_SQL = """
SELECT salon.id, 'company_' || salon.salon_id, coalesce(s.revision, 0),
       coalesce(s.status, 'unlinked'), coalesce(s.reason, ''), coalesce(s.phone, ''),
       coalesce(s.since, salon.created_at), coalesce(s.resets, 0),
       a.id, a.kind, a.stage, a.phone, a.finished_at IS NOT NULL,
       extract(epoch FROM now() - a.finished_at)::float8,
       extract(epoch FROM a.deadline - now())::float8,
       a.code, a.qr, extract(epoch FROM a.qr_until - now())::float8,
       a.error, a.retry_after, coalesce(s.owner, ''), s.last_alive_at,
       extract(epoch FROM now() - s.last_alive_at)::float8
FROM whatsapp_salon salon
LEFT JOIN whatsapp_whatsappsession s ON s.salon_id = salon.id
LEFT JOIN LATERAL (
    SELECT * FROM whatsapp_pairingattempt
    WHERE salon_id = salon.id ORDER BY id DESC LIMIT 1
) a ON true
WHERE salon.id = ANY(%s)
"""


def snapshots(salon_pks: list[int]) -> dict[int, Snapshot]:
    """Return the visible state of each salon, in one query."""
    with connection.cursor() as cursor:
        cursor.execute(_SNAPSHOT_SQL, [salon_pks])
        return {row[0]: _snapshot(row) for row in cursor.fetchall()}


def snapshot(salon_pk: int) -> Snapshot | None:
    """Return the visible state of one salon, or None if it is gone."""
    return snapshots([salon_pk]).get(salon_pk)


def revisions(salon_pks: list[int]) -> dict[int, int]:
    """Return each salon's revision: the cheap question "has anything changed?"."""
    return dict(
        WhatsAppSession.objects.filter(salon_id__in=salon_pks).values_list(
            "salon_id", "revision"
        )
    )


def proofs_of_life(salon_pks: list[int]) -> dict[int, tuple[str, str | None]]:
    """Return each salon's owner and when it was last heard: neither is a revision."""
    rows = WhatsAppSession.objects.filter(salon_id__in=salon_pks)
    return {
        pk: (owner, _utc(alive))
        for pk, owner, alive in rows.values_list("salon_id", "owner", "last_alive_at")
    }


def _utc(moment: datetime | None) -> str | None:
    return None if moment is None else _iso(moment)


def _iso(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat(timespec="seconds")


def _snapshot(row: tuple[Any, ...]) -> Snapshot:
    attempt: AttemptState | None = None
    if row[8] is not None and (row[13] is None or row[13] < RECENT_SECONDS):
        attempt = {
            "id": row[8],
            "kind": row[9],
            "stage": row[10],
            "phone": row[11],
            "finished": row[12],
            "finished_ago": row[13],
            "expires_in": row[14],
            "code": row[15],
            "qr": row[16],
            "qr_expires_in": row[17],
            "error": row[18],
            "retry_after": row[19],
        }
    return {
        "salon": row[0],
        "session_id": row[1],
        "revision": row[2],
        "status": row[3],
        "reason": row[4],
        "phone": row[5],
        "since": _iso(row[6]),
        "resets": row[7],
        "attempt": attempt,
        "owner": row[20],
        "alive": _utc(row[21]),
        "proof_age": row[22],
    }


def holds_secret(state: Snapshot) -> bool:
    """Say whether a snapshot has a code or a QR in it: whoever has one can link."""
    attempt = state["attempt"]
    return attempt is not None and bool(attempt["code"] or attempt["qr"])


def without_secrets(state: Snapshot) -> Snapshot:
    """Return a snapshot without code and QR."""
    attempt = state["attempt"]
    if attempt is None or not holds_secret(state):
        return state
    return {**state, "attempt": {**attempt, "code": "", "qr": ""}}


def publish(salon_pk: int) -> None:
    """Tell the salon's pages its state, once the running transaction is committed."""

    # No partial: Django asks what fails for its name, and a partial has none.
    def send() -> None:
        _send_snapshot(salon_pk)

    transaction.on_commit(send, robust=True)


def wake_gateways(salon_pk: int | None) -> None:
    """Tell the gateways to look at the salon's rows (None: all), after the commit.

    A hint: a gateway also looks by itself every few seconds, so a layer that is down
    costs time only.
    """
    message: LookMessage = {"type": "look", "salon": salon_pk}

    def send() -> None:
        _send([(GATEWAYS_GROUP, dict(message))])

    transaction.on_commit(send, robust=True)


def _send_snapshot(salon_pk: int) -> None:
    state = snapshot(salon_pk)
    if state is not None:
        full: SnapshotMessage = {"type": "salon.snapshot", "snapshot": state}
        bare: SnapshotMessage = {
            "type": "salon.snapshot",
            "snapshot": without_secrets(state),
        }
        # Somebody may be waiting in front of the page: it comes first.
        _send([(salon_group(salon_pk), dict(full)), (LISTS_GROUP, dict(bare))])


def _send(messages: list[tuple[str, dict[str, Any]]]) -> None:
    layer = get_channel_layer()
    if layer is None:
        return

    async def send() -> None:
        for group, message in messages:
            await layer.group_send(group, message)

    try:
        async_to_sync(send)()
    except LAYER_ERRORS as error:
        logger.warning(
            "The channel layer is down: %s",
            type(error).__name__,
            extra=alerts.tags("channel_layer"),
        )
