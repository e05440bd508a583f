"""Taking over what the previous service left in its two tables, one salon at a time.

It had two kinds of id for one salon (``4217`` and ``company_4217``), rows that no phone
ever confirmed, keys whose creds are gone, and dates on which keys expired. A survey says
what is there and what is to be done; carrying it out judges each salon afresh, under the
lock of its session row and in one transaction, so it may be interrupted and repeated.

Values are never rewritten: whoever reads them knows their three forms.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from django.db import connection, transaction

from whatsapp import events
from whatsapp.models import PairingAttempt, Salon, WhatsAppSession
from whatsapp.phones import mask_phone
from whatsapp.services import audit, credentials, legacy, salons, sessions
from whatsapp.services.credentials import CredsState, StoredCreds
from whatsapp.services.legacy import Company, Row

Status = WhatsAppSession.Status

DUPLICATE = "duplicate"

# --- what is to be done ---------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to become of a salon's rows. Ids are those of the two tables."""

    move_from: str = ""
    """The creds that win lie there, and move to the salon's own id with their keys."""
    archive: str = ""
    """Linked creds that lose."""
    merge_keys: bool = False
    """What loses is a copy of the same link: of each key the newer one is kept."""
    adopt_keys: str = ""
    """The creds that win have no keys; those that lie there can only be theirs."""
    discard: str = ""
    """In the way, and of no use: creds that no phone confirmed, or keys without any."""
    dated: int = 0
    """So many keys of the salon have a date on which they expire."""

    @property
    def changes_creds(self) -> bool:
        """Whether another link, or other keys, lie under the salon's id afterwards."""
        return bool(self.move_from or self.adopt_keys or self.merge_keys)

    @property
    def is_empty(self) -> bool:
        """Whether nothing is to be done."""
        return self == Plan()


def decide(salon_id: int, rows: Iterable[Row]) -> Plan:
    """Judge the rows of one salon.

    Linked creds always win over those that no phone confirmed; of two links the newer
    one wins, by when its creds were written. Keys do not tell: their dates were changed
    by the thousand, for other reasons.
    """
    own = f"company_{salon_id}"
    by_id = {row.company_id: row for row in rows}
    linked = [row for row in by_id.values() if row.creds.linked]
    if not linked:
        return Plan()
    winner = max(linked, key=lambda row: _newness(row, own))
    other = next((row for row in by_id.values() if row is not winner), None)
    dated = winner.dated
    move_from = "" if winner.company_id == own else winner.company_id
    if other is None:
        return Plan(move_from, dated=dated)
    if other.creds.linked:
        merge = other.device == winner.device and other.keys > 0
        return Plan(move_from, other.company_id, merge, dated=dated)
    if other.creds.state is CredsState.ABSENT and winner.keys == 0:
        return Plan(move_from, adopt_keys=other.company_id, dated=other.dated)
    # What is in nobody's way is left to whatsapp_cleanup.
    return Plan(move_from, discard=own if move_from else "", dated=dated)


def _newness(row: Row, own: str) -> tuple[float, int, bool]:
    written = row.written_at.timestamp() if row.written_at else 0.0
    return written, row.keys, row.company_id == own


@dataclass(frozen=True, slots=True)
class Case:
    """A linked salon of the previous service, and what is to be done for it."""

    salon_id: int
    plan: Plan
    creds: StoredCreds
    """Those that win."""
    is_new: bool = False
    """It has no salon row yet."""
    title: str = ""
    """The title that it is to get; empty: it has one."""
    stop: bool = False
    """It has uninstalled us: the link is kept, and not opened."""
    in_use: bool = False
    """A gateway has it, or somebody is just linking it: nothing is done."""

    @property
    def is_done(self) -> bool:
        """Whether there is nothing left to do."""
        return self.plan.is_empty and not (self.is_new or self.title or self.stop)


@dataclass(slots=True)
class Survey:
    """Everything that there is, and what is to be done."""

    cases: list[Case] = field(default_factory=list)
    rows: int = 0
    keys: int = 0
    forms: Counter[str] = field(default_factory=Counter)
    """Rows of creds by the form of their binary values."""
    half_paired: list[str] = field(default_factory=list)
    """Ids of creds that no phone confirmed."""
    orphans: dict[str, int] = field(default_factory=dict)
    """Ids with keys and no creds, and how many keys."""
    foreign: list[str] = field(default_factory=list)
    """Ids that are no salon's. Nothing is done with them."""
    foreign_linked: list[str] = field(default_factory=list)
    """Those of them that hold a link."""
    shared_devices: list[list[int]] = field(default_factory=list)
    """Salons that have one and the same link: they would throw each other out."""
    recently_written: int = 0
    """Keys that the previous service must have written in the last minutes."""
    backups: list[str] = field(default_factory=list)
    """Tables that hold copies of secrets."""

    @property
    def to_do(self) -> list[Case]:
        """Salons for which something is to be done now."""
        return [case for case in self.cases if not (case.is_done or case.in_use)]


def survey() -> Survey:
    """Look at everything; change nothing of it."""
    # A dump that was restored with its triggers off has rows that nobody has indexed.
    credentials.reindex()
    found = Survey()
    by_salon: dict[int, list[Row]] = defaultdict(list)
    for row in legacy.rows():
        _note(found, row)
        number = legacy.salon_number(row.company_id)
        if number is not None:
            by_salon[number].append(row)
    found.cases = _cases(by_salon)
    found.shared_devices = _shared_devices(by_salon)
    found.recently_written = legacy.recently_written()
    found.backups = legacy.backups()
    return found


def _note(found: Survey, row: Row) -> None:
    found.keys += row.keys
    if legacy.salon_number(row.company_id) is None:
        found.foreign.append(row.company_id)
        if row.creds.linked:
            found.foreign_linked.append(row.company_id)
    if row.creds.state is CredsState.ABSENT:
        found.orphans[row.company_id] = row.keys
        return
    found.rows += 1
    found.forms[row.form] += 1
    if row.creds.state is CredsState.HALF_PAIRED:
        found.half_paired.append(row.company_id)


def _shared_devices(by_salon: dict[int, list[Row]]) -> list[list[int]]:
    salons_of: dict[str, set[int]] = defaultdict(set)
    for number, rows in by_salon.items():
        for row in rows:
            if row.creds.linked:
                salons_of[row.device].add(number)
    return sorted(sorted(shared) for shared in salons_of.values() if len(shared) > 1)


# A salon that is being changed, or run, by anybody but us.
_KNOWN = """
SELECT salon.salon_id, salon.title,
       coalesce(s.owner <> '' OR s.status IN ('open', 'degraded'), false)
       OR EXISTS (SELECT FROM whatsapp_pairingattempt a
                  WHERE a.salon_id = salon.id AND a.finished_at IS NULL),
       EXISTS (SELECT FROM whatsapp_auditevent e
               WHERE e.salon_id = salon.id AND e.action = 'taken_over'
                 AND e.detail @> '{"stopped": true}')
FROM whatsapp_salon salon
LEFT JOIN whatsapp_whatsappsession s ON s.salon_id = salon.id
WHERE salon.salon_id = ANY(%s)
"""


def _cases(by_salon: dict[int, list[Row]]) -> list[Case]:
    companies = legacy.companies()
    with connection.cursor() as cursor:
        cursor.execute(_KNOWN, [list(by_salon)])
        known = {row[0]: row[1:] for row in cursor.fetchall()}
    cases = []
    for number, rows in sorted(by_salon.items()):
        linked = [row for row in rows if row.creds.linked]
        if not linked:
            continue
        own = f"company_{number}"
        winner = max(linked, key=lambda row: _newness(row, own))
        title, in_use, was_stopped = known.get(number, ("", False, False))
        company = companies.get(number)
        cases.append(
            Case(
                number,
                decide(number, rows),
                winner.creds,
                is_new=number not in known,
                title=_better_title(number, title, company),
                # Once only: whoever connects it later has decided otherwise.
                stop=company is not None and company.has_left and not was_stopped,
                in_use=in_use,
            )
        )
    return cases


def _better_title(number: int, title: str, company: Company | None) -> str:
    invented = f"Salon {number}"
    found = company.title[:255] if company else ""
    if not title:
        return found or invented
    return found if title == invented and found not in ("", invented) else ""


# --- doing it -------------------------------------------------------------------------


class Outcome(StrEnum):
    """What became of a case."""

    DONE = "done"
    IN_USE = "in_use"
    GONE = "gone"
    """Nothing was left to do: somebody else has done it, or its rows are gone."""


def carry_out(case: Case, actor: str) -> Outcome:
    """Take one salon over, in one transaction; judged afresh under its lock."""
    with transaction.atomic():
        salon = Salon.objects.filter(salon_id=case.salon_id).first()
        if salon is None:
            title = case.title or f"Salon {case.salon_id}"
            salon = salons.create(case.salon_id, title)
        with sessions.locked(salon) as session:
            if _in_use(session):
                return Outcome.IN_USE
            rows = legacy.rows([salon.session_id, str(salon.salon_id)])
            plan = decide(salon.salon_id, rows)
            if plan.is_empty and case.is_done:
                return Outcome.GONE
            done = _change_rows(salon, plan)
            _settle(salon, session, case, plan)
            if case.title and salon.title != case.title:
                Salon.objects.filter(pk=salon.pk).update(title=case.title)
            if case.stop:
                done["stopped"] = True
            done["phone"] = mask_phone(session.phone)
            audit.record(salon.pk, actor, "taken_over", **done)
    return Outcome.DONE


def _in_use(session: WhatsAppSession) -> bool:
    # Who takes it over has to change this row first, and it is ours.
    if session.owner or session.status in (Status.OPEN, Status.DEGRADED):
        return True
    return PairingAttempt.objects.filter(
        salon=session.salon_id, finished_at=None
    ).exists()


# The newer one of each key, by its type and its id.
_MERGE = """
INSERT INTO whatsapp_keys AS kept
    (company_id, key_type, key_id, value, created_at, updated_at)
SELECT %(to)s, key_type, key_id, value, created_at, updated_at
FROM whatsapp_keys WHERE company_id = %(from)s
ON CONFLICT (company_id, key_type, key_id) DO UPDATE SET value = excluded.value
WHERE excluded.updated_at > kept.updated_at
"""
_MOVE_AUTH = "UPDATE whatsapp_auth SET company_id = %s WHERE company_id = %s"
_MOVE_KEYS = """
UPDATE whatsapp_keys SET company_id = %s, expires_at = NULL WHERE company_id = %s
"""
_UNDATE = """
UPDATE whatsapp_keys SET expires_at = NULL
WHERE company_id = %s AND expires_at IS NOT NULL
"""


def _change_rows(salon: Salon, plan: Plan) -> dict[str, Any]:
    """Do what the plan says; return what was done, for the audit."""
    own, done = salon.session_id, {}
    with connection.cursor() as cursor:
        if plan.merge_keys:
            winner = plan.move_from or own
            cursor.execute(_MERGE, {"to": winner, "from": plan.archive})
            done["merged_keys"] = cursor.rowcount
        if plan.archive:
            credentials.archive_as(salon, plan.archive, DUPLICATE)
            done["archived"] = plan.archive
        if plan.discard:
            credentials.delete_rows_as(plan.discard)
            done["discarded"] = plan.discard
        if plan.move_from:
            cursor.execute(_MOVE_AUTH, [own, plan.move_from])
            cursor.execute(_MOVE_KEYS, [own, plan.move_from])
            done["moved"] = plan.move_from
        if plan.adopt_keys and plan.adopt_keys != own:
            cursor.execute(_MOVE_KEYS, [own, plan.adopt_keys])
            done["adopted_keys"] = cursor.rowcount
        if plan.dated:
            cursor.execute(_UNDATE, [own])
            done["undated_keys"] = plan.dated
    return done


def _settle(salon: Salon, session: WhatsAppSession, case: Case, plan: Plan) -> None:
    """Let the session's row say what is true of the salon now."""
    creds = credentials.stored(salon)
    if case.stop:
        session.wanted = False
    if plan.changes_creds:
        session.epoch += 1
    is_unknown = session.status == Status.UNLINKED
    if not (plan.changes_creds or case.stop or is_unknown):
        return
    session.phone = creds.phone
    status, reason = session.status, session.reason
    if plan.changes_creds or is_unknown or status in WhatsAppSession.RUNNING:
        status = Status.CONNECTING if session.wanted else Status.STOPPED
        reason = ""
    sessions.set_status(session, status, reason)
    events.wake_gateways(salon.pk)
