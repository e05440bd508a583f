"""A backup of one salon's link: creds, keys, and what was true when it was taken.

Signal state moves with every message. What is put back is as old as the backup: messages
whose keys were used since cannot be read, and those that are sent use keys for a second
time. And a link that runs in two places is thrown out of one of them, by turns. So a
backup says of what moment it is; it is not put back while anything runs, nor in place of
something newer unless that is asked for, and what was there goes to the archive.

The values are plain, inside the encryption of the file: an installation with other keys
can read them.
"""

import json
from collections import Counter
from dataclasses import asdict, dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any

from django.db import DataError

from whatsapp import events
from whatsapp.models import AuditEvent, PairingAttempt, Salon, WhatsAppSession
from whatsapp.phones import device_from_jid, mask_phone, phone_from_jid, same_phone
from whatsapp.services import (
    archives,
    audit,
    backup_file,
    backup_rows,
    claims,
    credentials,
    sessions,
)
from whatsapp.services.backup_file import BackupError, Damaged, Passphrase
from whatsapp.services.backup_rows import Exported
from whatsapp.services.credentials import CredsState
from whatsapp.services.sealing import SealingError

Status = WhatsAppSession.Status

ARCHIVED = "restored"
"""Why what was in the way of a backup is in the archive."""


@dataclass(frozen=True, slots=True)
class Backup:
    """What is in the file."""

    salon_id: int
    title: str
    me: str
    """JID of the linked device."""
    taken_at: datetime
    written_at: datetime
    """When creds or keys had last been written."""
    status: str
    running: bool
    """A gateway had it: more was written a moment later."""
    epoch: int
    written: int
    counts: dict[str, int]
    """Keys by type."""
    creds: str = field(repr=False)
    keys: str = field(repr=False)

    @property
    def phone(self) -> str:
        """Digits of the linked phone."""
        return phone_from_jid(self.me)

    @property
    def device(self) -> int | None:
        """The number of the linked device."""
        return device_from_jid(self.me)


# --- making one -----------------------------------------------------------------------


def linked_salons() -> list[Salon]:
    """Return the salons of which there is something to back up, by salon id."""
    with_creds = Salon.objects.order_by("salon_id")
    return [salon for salon in with_creds if credentials.stored(salon).linked]


def take(salon: Salon, actor: str) -> Backup:
    """Return a backup of what is stored now, all of one moment; nothing stops for it.

    Raises:
        BackupError: no phone is linked, or what is stored cannot be opened.
    """
    try:
        found = backup_rows.export(salon)
    except SealingError as error:
        raise BackupError(f"{salon.session_id} cannot be read: {error}.") from None
    if found is None:
        raise BackupError(
            f"{salon.session_id} is not linked: there is nothing to keep."
        )
    made = Backup(
        salon.salon_id,
        salon.title,
        credentials.identify(found.creds).jid,
        found.taken_at,
        found.written_at,
        found.status,
        bool(found.owner) and found.status in WhatsAppSession.RUNNING,
        found.epoch,
        found.written,
        _counts(found.keys),
        found.creds,
        found.keys,
    )
    audit.record(
        salon.pk,
        actor,
        "backed_up",
        phone=mask_phone(made.phone),
        keys=sum(made.counts.values()),
    )
    return made


def _counts(keys: str) -> dict[str, int]:
    return dict(Counter(str(entry["t"]) for entry in json.loads(keys)))


def pack(made: Backup, passphrase: Passphrase) -> bytes:
    """Return the file, tried: what it opens to is what went in.

    Raises:
        BackupError: it is too large, or does not open.
    """
    content = asdict(made) | {
        "taken_at": made.taken_at.isoformat(),
        "written_at": made.written_at.isoformat(),
    }
    data = backup_file.seal(json.dumps(content).encode(), passphrase)
    if unpack(data, passphrase) != made:
        raise BackupError("The backup does not open to what went in. Nothing was kept.")
    return data


def unpack(data: bytes, passphrase: Passphrase) -> Backup:
    """Return what is in a file, after it has been checked.

    Raises:
        BackupError: it cannot be opened, or does not add up.
    """
    content = backup_file.unseal(data, passphrase)
    try:
        fields = json.loads(content)
        times = ("taken_at", "written_at")
        found = Backup(
            **fields | {name: datetime.fromisoformat(fields[name]) for name in times}
        )
        identity = credentials.identify(found.creds)
        adds_up = (
            identity.jid == found.me
            and _counts(found.keys) == found.counts
            and len(_by_id(found.keys)) == sum(found.counts.values())
        )
    except (AttributeError, KeyError, RecursionError, TypeError, ValueError):
        raise Damaged("The content of the file makes no sense.") from None
    if not (adds_up and identity.state is CredsState.LINKED and found.taken_at.tzinfo):
        raise Damaged("The content of the file does not add up.")
    return found


# --- putting it back ------------------------------------------------------------------


class Refusal(StrEnum):
    """Why a backup is not put back."""

    OTHER_SALON = "other_salon"
    """It is of another salon than was said."""
    WANTED = "wanted"
    """The session runs, or is to run."""
    HELD = "held"
    """A gateway still has it."""
    LINKING = "linking"
    """A phone is just being linked."""
    PHONE_ELSEWHERE = "phone_elsewhere"
    """Its phone is in use in another salon (CREDENTIALS_CONFLICT)."""
    DEVICE_ELSEWHERE = "device_elsewhere"
    """The very same device is stored for another salon."""
    OTHER_LINK = "other_link"
    """Another link is stored."""
    UNREADABLE = "unreadable"
    """A link is stored, and cannot be opened to be compared."""
    NEWER_STORED = "newer_stored"
    """The same device is stored, in a newer state."""
    NEWER_ARCHIVED = "newer_archived"
    """A link of this phone was in use later, and is in the archive."""


REPLACEABLE = frozenset(
    {
        Refusal.OTHER_LINK,
        Refusal.UNREADABLE,
        Refusal.NEWER_STORED,
        Refusal.NEWER_ARCHIVED,
    }
)
"""What somebody may want all the same."""


class Caution(StrEnum):
    """What else is to be known of a backup that may be put back."""

    RAN = "ran"
    """It was taken while the session ran."""
    RESET_SINCE = "reset_since"
    """The link was reset after it was taken: the phone may not know the device any more."""
    UNEXPECTED_PHONE = "unexpected_phone"
    """The salon is expected to link another phone."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a backup that was to be put back."""

    refused: list[Refusal]
    cautions: list[Caution]
    restored: bool = False
    archived: bool = False
    """What was stored before is in the archive."""
    status: str = ""


def restore(
    salon: Salon,
    backup: Backup,
    actor: str,
    *,
    from_salon: int | None = None,
    replace: bool = False,
    connect: bool = False,
    dry_run: bool = False,
) -> Outcome:
    """Put a backup back, in one transaction and under the lock of the session's row.

    Args:
        salon: whose link it is to be.
        backup: as it was opened.
        actor: who asks, for the audit.
        from_salon: the salon id that it is of, if that is another one.
        replace: put it in place of another link, or of a newer state.
        connect: wish it to run; else it is stopped, for somebody to decide.
        dry_run: say what would be refused, and change nothing.

    Raises:
        BackupError: the database does not take what is in it; nothing has changed.
    """
    with sessions.locked(salon) as session:
        present = _present(salon)
        refused = _refused(salon, session, backup, present, from_salon)
        if replace:
            refused = [one for one in refused if one not in REPLACEABLE]
        cautions = _cautions(salon, backup)
        if refused or dry_run:
            return Outcome(refused, cautions)
        archived = False
        if not isinstance(present, Exported) or not _is_same(present, backup):
            archived = _put(salon, backup, actor)
        _settle(session, backup, connect=connect)
        audit.record(
            salon.pk,
            actor,
            "backup_restored",
            phone=mask_phone(backup.phone),
            taken_at=backup.taken_at.isoformat(timespec="seconds"),
            from_salon=backup.salon_id,
            archived=archived,
        )
        return Outcome([], cautions, True, archived, session.status)


def _present(salon: Salon) -> Exported | SealingError | None:
    try:
        return backup_rows.export(salon)
    except SealingError as error:
        return error


def _put(salon: Salon, backup: Backup, actor: str) -> bool:
    credentials.discard_half_paired(salon, actor, backup.phone)
    try:
        return backup_rows.replace(
            salon, ARCHIVED, backup.creds, backup.keys, backup.written_at
        )
    except DataError:
        raise Damaged("The database does not take the content of the file.") from None


def _settle(session: WhatsAppSession, backup: Backup, *, connect: bool) -> None:
    session.wanted = connect
    session.phone = backup.phone
    session.unlink_epoch = None
    # From now on, nothing that any socket of before has in flight is accepted.
    session.epoch += 1
    sessions.set_status(session, Status.CONNECTING if connect else Status.STOPPED)
    events.wake_gateways(session.salon_id)


def _refused(
    salon: Salon,
    session: WhatsAppSession,
    backup: Backup,
    present: Exported | SealingError | None,
    from_salon: int | None,
) -> list[Refusal]:
    expected = salon.salon_id if from_salon is None else from_salon
    found = {
        Refusal.OTHER_SALON: backup.salon_id != expected,
        **_busy(session),
        Refusal.PHONE_ELSEWHERE: _is_live_elsewhere(salon, backup.phone),
        Refusal.DEVICE_ELSEWHERE: bool(credentials.holders(salon, backup.me)),
        **_newer(backup, present),
        Refusal.NEWER_ARCHIVED: archives.has_newer(
            salon, backup.phone, backup.taken_at
        ),
    }
    return [refusal for refusal, applies in found.items() if applies]


def _busy(session: WhatsAppSession) -> dict[Refusal, bool]:
    # Who takes it over has to change the session's row first, and it is ours.
    wanted = session.wanted and session.status in WhatsAppSession.RUNNING
    attempts = PairingAttempt.objects.filter(salon=session.salon_id, finished_at=None)
    return {
        Refusal.WANTED: wanted,
        Refusal.HELD: not wanted and claims.is_held(session.salon_id),
        Refusal.LINKING: attempts.exists(),
    }


def _is_live_elsewhere(salon: Salon, phone: str) -> bool:
    if not credentials.live_elsewhere(salon, phone):
        return False
    # The row, not the caller's object: support may just have changed its mind.
    return not Salon.objects.get(pk=salon.pk).shared_phone_allowed


def _newer(
    backup: Backup, present: Exported | SealingError | None
) -> dict[Refusal, bool]:
    if present is None:
        return {}
    if isinstance(present, SealingError):
        return {Refusal.UNREADABLE: True}
    identify = credentials.identify
    if identify(present.creds).device != identify(backup.creds).device:
        return {Refusal.OTHER_LINK: True}
    is_newer = present.written_at > backup.written_at or any(
        now > then
        for now, then in zip(
            _counters(present.creds), _counters(backup.creds), strict=True
        )
    )
    return {Refusal.NEWER_STORED: is_newer and not _is_same(present, backup)}


_COUNTERS = ("nextPreKeyId", "firstUnuploadedPreKeyId", "accountSyncCounter")


def _counters(creds: str) -> list[int]:
    """Return what only ever grows in the life of a device; clocks may be wrong."""
    values: dict[str, Any] = json.loads(creds)
    counters = [values.get(name) for name in _COUNTERS]
    return [value if isinstance(value, int) else 0 for value in counters]


def _is_same(present: Exported, backup: Backup) -> bool:
    """Say whether what is stored is what is in the backup, however it is written."""
    return json.loads(present.creds) == json.loads(backup.creds) and _by_id(
        present.keys
    ) == _by_id(backup.keys)


def _by_id(keys: str) -> dict[tuple[str, str], Any]:
    return {(entry["t"], entry["i"]): entry["v"] for entry in json.loads(keys)}


def _cautions(salon: Salon, backup: Backup) -> list[Caution]:
    resets = AuditEvent.objects.filter(
        salon=salon, action="reset", at__gt=backup.taken_at
    )
    expected = salon.expected_phone
    found = {
        Caution.RAN: backup.running,
        Caution.RESET_SINCE: resets.exists(),
        Caution.UNEXPECTED_PHONE: bool(expected)
        and not same_phone(expected, backup.phone),
    }
    return [caution for caution, applies in found.items() if applies]
