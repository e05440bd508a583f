"""Creds and Signal keys: what is stored, and the few ways in which it may change.

Creds and keys of a salon change together, in one transaction. They are destroyed
only by a reset, an uninstall, a logout that WhatsApp confirmed or a newly linked
phone; never by an error. With ``CREDENTIAL_ENCRYPTION_KEYS`` they are stored sealed
(services/sealing.py); what decisions need of them lies in ``whatsapp_credsindex``.
"""

import hashlib
import logging
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

import orjson
from django.db import connection, transaction

from whatsapp import alerts
from whatsapp.models import ArchivedCredentials, Salon, SealingKey
from whatsapp.phones import device_from_jid, mask_phone, phone_from_jid, same_phone
from whatsapp.services import archives, audit, sealing
from whatsapp.services.sealing import SealingError

logger = logging.getLogger(__name__)


class CredsState(StrEnum):
    """What stored creds are worth. ``creds.registered`` says nothing useful."""

    ABSENT = "absent"
    HALF_PAIRED = "half-paired"
    LINKED = "linked"


@dataclass(frozen=True, slots=True)
class StoredCreds:
    """The part of a salon's creds that decisions need."""

    state: CredsState
    phone: str = ""
    """Digits; of a half-paired row the phone that a code was once asked for."""

    @property
    def linked(self) -> bool:
        """Whether a phone lists these creds as a linked device."""
        return self.state is CredsState.LINKED


ABSENT = StoredCreds(CredsState.ABSENT)

_INDEX_SQL = """
INSERT INTO whatsapp_credsindex (company_id, state, jid, device, kid)
VALUES (%s, %s, %s, %s, %s)
ON CONFLICT (company_id) DO UPDATE
SET state = excluded.state, jid = excluded.jid, device = excluded.device,
    kid = excluded.kid
"""
_REINDEX_SQL = """
INSERT INTO whatsapp_credsindex (company_id, state, jid, device, kid)
SELECT company_id, i.state, i.jid, i.device, ''
FROM whatsapp_auth auth, whatsapp_identify(creds) i
WHERE NOT creds ? 'sealed' AND (%(id)s::text IS NULL OR company_id = %(id)s)
AND NOT EXISTS (
    SELECT FROM whatsapp_credsindex WHERE company_id = auth.company_id)
ON CONFLICT (company_id) DO NOTHING
"""
_INSERT_AUTH_SQL = """
INSERT INTO whatsapp_auth (company_id, creds, created_at, updated_at)
VALUES (%s, %s::jsonb, now(), now())
"""
_INSERT_KEYS_SQL = """
INSERT INTO whatsapp_keys (company_id, key_type, key_id, value, created_at, updated_at)
SELECT %s, t, i, v, now(), now()
FROM jsonb_to_recordset(%s::jsonb) AS entry(t text, i text, v jsonb)
WHERE v IS NOT NULL
"""


def stored(salon: Salon) -> StoredCreds:
    """Return what is stored for ``salon``, without reading the secrets."""
    return stored_as(salon.session_id)


def stored_as(company_id: str) -> StoredCreds:
    """Return what is stored under an id, without reading the secrets."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT state, jid FROM whatsapp_auth"
            " LEFT JOIN whatsapp_credsindex USING (company_id) WHERE company_id = %s",
            [company_id],
        )
        row = cursor.fetchone()
    if row is None:
        return ABSENT
    if row[0] is None:
        if not reindex(company_id):
            raise SealingError(f"{company_id}: sealed creds that are not indexed")
        return stored_as(company_id)
    return classify(*row)


def holds(salon: Salon, creds: str) -> bool:
    """Say whether what is stored is the very device of these creds (JSON text)."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT jid FROM whatsapp_credsindex WHERE company_id = %s",
            [salon.session_id],
        )
        row = cursor.fetchone()
    return row is not None and bool(row[0]) and row[0] == identify(creds).jid


def classify(state: str | None, jid: str | None) -> StoredCreds:
    """Return what a row of ``whatsapp_credsindex`` says; None: there is none."""
    if state is None:
        return ABSENT
    return StoredCreds(CredsState(state), phone_from_jid(jid))


@dataclass(frozen=True, slots=True)
class Identity:
    """Whose creds are: what the index keeps of them. As the trigger reads plain ones."""

    state: CredsState
    jid: str
    device: str


def identify(creds: str) -> Identity:
    """Judge creds (JSON text) by ``account`` and ``me.id``, the only fields that tell.

    Raises:
        ValueError: it is no JSON object.
    """
    value = orjson.loads(creds)
    if not isinstance(value, dict):
        raise ValueError("These creds are no JSON object.")  # noqa: TRY004
    me = value.get("me")
    jid = me.get("id") if isinstance(me, dict) else None
    linked = isinstance(value.get("account"), dict)
    if not isinstance(jid, str) or device_from_jid(jid) is None:
        linked = False
    parts = (jid, value.get("registrationId"), value.get("advSecretKey"))
    text = "|".join(str(part) for part in parts if part is not None)
    return Identity(
        CredsState.LINKED if linked else CredsState.HALF_PAIRED,
        str(jid or ""),
        hashlib.md5(text.encode(), usedforsecurity=False).hexdigest(),
    )


def reindex(company_id: str | None = None) -> int:
    """Index plain creds that came without the trigger, as from a dump; return how many.

    Args:
        company_id: only those that lie under this id.
    """
    with connection.cursor() as cursor:
        cursor.execute(_REINDEX_SQL, {"id": company_id})
        return int(cursor.rowcount)


def discard_half_paired(salon: Salon, actor: str, asked_for: str = "") -> bool:
    """Delete creds that no phone ever confirmed, with whatever keys lie beside them.

    Args:
        salon: its session row must be locked by the running transaction.
        actor: who asked.
        asked_for: the phone that is asked for now, for the record.

    Returns:
        Whether there was anything to delete.
    """
    creds = stored(salon)
    if creds.state is not CredsState.HALF_PAIRED:
        return False
    _delete_rows(salon)
    _report_mismatch(salon, actor, creds.phone, asked_for, "half_paired")
    return True


def stored_or_discarded(salon: Salon, actor: str, asked_for: str = "") -> StoredCreds:
    """Return what is stored after half-paired creds have been discarded.

    Args:
        salon: its session row must be locked by the running transaction.
        actor: who asked.
        asked_for: the phone that is asked for now, for the record.
    """
    creds = stored(salon)
    if creds.state is CredsState.HALF_PAIRED:
        discard_half_paired(salon, actor, asked_for)
        return ABSENT
    return creds


def note_mismatch(salon: Salon, actor: str, old_phone: str, new_phone: str) -> None:
    """Tell operators that a salon links another phone than the one it has."""
    _report_mismatch(salon, actor, old_phone, new_phone, "other_phone")


def _report_mismatch(
    salon: Salon, actor: str, old_phone: str, new_phone: str, kind: str
) -> None:
    logger.warning(
        "phone_mismatch_cleanup: %s (%s)",
        salon.session_id,
        kind,
        extra={
            **alerts.tags(
                "phone_mismatch_cleanup",
                company_id=salon.session_id,
                mismatch_type=kind,
            ),
            "old_phone": mask_phone(old_phone),
            "new_phone": mask_phone(new_phone),
        },
    )
    audit.record(
        salon.pk,
        actor,
        "phone_mismatch_cleanup",
        kind=kind,
        old_phone=mask_phone(old_phone),
        new_phone=mask_phone(new_phone),
    )


def swap(salon: Salon, creds: str, keys: str | None, phone: str) -> None:
    """Put a newly linked device's creds and keys in place of whatever was there.

    Args:
        salon: its session row must be locked by the running transaction.
        creds: JSON text with ``account`` and a ``me.id`` with a device.
        keys: JSON text of ``[{"t": type, "i": id, "v": value}, …]``, or None.
        phone: digits of the linked phone.

    Raises:
        ValueError: the creds are not those of a linked device; nothing has changed.
    """
    if identify(creds).state is not CredsState.LINKED:
        raise ValueError("These creds are not those of a linked device.")
    archive(salon, "replaced")
    insert(salon, creds, keys)
    audit.record(salon.pk, audit.SYSTEM, "linked", phone=mask_phone(phone))


def insert(salon: Salon, creds: str, keys: str | None) -> None:
    """Store creds and keys (plain JSON text) where nothing is stored."""
    company_id = salon.session_id
    with transaction.atomic(), connection.cursor() as cursor:
        if sealing.is_enabled():
            identity, kid = identify(creds), sealing.current_kid()
            SealingKey.note(kid)
            cursor.execute(
                _INDEX_SQL,
                [company_id, identity.state.value, identity.jid, identity.device, kid],
            )
        cursor.execute(
            _INSERT_AUTH_SQL, [company_id, sealing.seal_creds(company_id, creds)]
        )
        if keys:
            cursor.execute(
                _INSERT_KEYS_SQL, [company_id, sealing.seal_keys(company_id, keys)]
            )


_HOLDERS_SQL = """
SELECT company_id FROM whatsapp_credsindex WHERE company_id <> %s AND jid = %s
ORDER BY company_id
"""


def holders(salon: Salon, me: str) -> list[str]:
    """Return the ids under which other salons have the very device ``me`` (a JID)."""
    with connection.cursor() as cursor:
        cursor.execute(_HOLDERS_SQL, [salon.session_id, me])
        return [row[0] for row in cursor.fetchall()]


def archive(salon: Salon, reason: str) -> bool:
    """Move a salon's creds and keys to the archive.

    Args:
        salon: its session row must be locked by the running transaction.
        reason: ``replaced``, ``logged_out``, ``refused``, ``duplicate`` or
            ``restored``.

    Returns:
        Whether linked creds were archived; rows that no phone confirmed are deleted.
    """
    return archive_as(salon, salon.session_id, reason)


def archive_as(salon: Salon, company_id: str, reason: str) -> bool:
    """Do as :func:`archive` with rows that lie under ``company_id``.

    The previous service had other ids for a salon, too.
    """
    creds = stored_as(company_id)
    if creds.linked:
        archives.add(salon, company_id, creds.phone, reason)
    delete_rows_as(company_id)
    return creds.linked


def restore(
    salon: Salon,
    actor: str,
    *,
    only_reason: str | None = None,
    since: datetime | None = None,
) -> bool:
    """Bring the latest archived creds and keys back, if nothing linked is stored.

    Args:
        salon: its session row must be locked by the running transaction.
        actor: who asked.
        only_reason: take the latest entry only if it was archived for this reason.
        since: take it only if it was archived at this moment or later.

    Returns:
        Whether something was restored.
    """
    if stored(salon).linked:
        return False
    entry = archives.restorable(salon).first()
    if entry is None or (only_reason and entry.reason != only_reason):
        return False
    if since is not None and entry.archived_at < since:
        return False
    return put_back(salon, actor, entry)


def put_back(salon: Salon, actor: str, entry: ArchivedCredentials) -> bool:
    """Move an archived link back in place of what is stored.

    Args:
        salon: its session row must be locked by the running transaction.
        actor: who asked.
        entry: one of the salon's archive.

    Returns:
        False if it cannot be read; nothing has changed.
    """
    try:
        creds, keys = archives.read(entry)
    except SealingError as error:
        logger.error(  # noqa: TRY400 (it says all)
            "%s: the archived creds cannot be opened: %s",
            salon.session_id,
            error,
            extra=alerts.tags("load_credentials", company_id=salon.session_id),
        )
        return False
    _delete_rows(salon)
    insert(salon, creds, keys)
    entry.delete()
    audit.record(salon.pk, actor, "restored", phone=mask_phone(entry.phone))
    return True


def erase(salon: Salon) -> None:
    """Delete a salon's creds and keys; its session row must be locked."""
    _delete_rows(salon)


def live_elsewhere(salon: Salon, phone: str) -> bool:
    """Say whether ``phone`` is linked and in use in another salon."""
    with connection.cursor() as cursor:
        # Forms of one number differ in the ninth digit only: the tail finds them all.
        cursor.execute(
            "SELECT phone FROM whatsapp_whatsappsession"
            " WHERE right(phone, 8) = %s AND salon_id <> %s"
            " AND status IN ('open', 'degraded', 'connecting', 'reconnecting')",
            [phone[-8:], salon.pk],
        )
        return any(same_phone(row[0], phone) for row in cursor.fetchall())


def clear_expiry() -> None:
    """Take back the dates that the previous service put on keys: none of them expires."""
    with connection.cursor() as cursor:
        cursor.execute(
            "UPDATE whatsapp_keys SET expires_at = NULL WHERE expires_at IS NOT NULL"
        )


def delete_rows_as(company_id: str) -> int:
    """Delete creds and keys that lie under an id; return how many keys.

    If it is a salon's, its session row must be locked by the running transaction.
    """
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute("DELETE FROM whatsapp_auth WHERE company_id = %s", [company_id])
        cursor.execute("DELETE FROM whatsapp_keys WHERE company_id = %s", [company_id])
        return int(cursor.rowcount)


def _delete_rows(salon: Salon) -> None:
    delete_rows_as(salon.session_id)
