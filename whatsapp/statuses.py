"""What a status says to people: a sentence, and what they can do about it."""

from collections.abc import Callable
from typing import Any

from django.utils.functional import Promise
from django.utils.translation import gettext_lazy as _

from whatsapp import events
from whatsapp.errors import CATALOGUE, ErrorCode, message_of
from whatsapp.events import AttemptState, Snapshot
from whatsapp.models import PairingAttempt, WhatsAppSession
from whatsapp.phones import mask_phone

Status = WhatsAppSession.Status


def payload(state: Snapshot, age: float = 0.0) -> dict[str, Any]:
    """Return the data of a ``status`` event, in the active language.

    Args:
        state: the salon's snapshot.
        age: seconds since the snapshot was taken.
    """
    attempt = state["attempt"]
    reason = state["reason"]
    if not reason and attempt is not None and state["status"] not in ("open",):
        reason = attempt["error"]
    proof = state.get("proof_age") if state["status"] in ("open", "degraded") else None
    return {
        "status": state["status"],
        "phone": mask_phone(state["phone"]) or None,
        "since": state["since"],
        "attempt": attempt
        and {
            "kind": attempt["kind"],
            "stage": attempt["stage"],
            "expiresIn": 0
            if attempt["finished"]
            else max(0, int(attempt["expires_in"] - age)),
        },
        "reason": reason or None,
        "proofAge": None if proof is None else int(proof + age),
        "message": str(_sentence(state["status"], reason, attempt)),
        "action": _action(state["status"], reason),
    }


def row(state: Snapshot) -> dict[str, Any]:
    """Return what a list of salons shows of one, in the active language."""
    told = payload(state)
    return {
        "salon": state["salon"],
        "status": state["status"],
        "label": str(Status(state["status"]).label),
        "phone": told["phone"],
        "since": state["since"],
        "lastAliveAt": state.get("alive"),
        "owner": state.get("owner") or None,
        "reason": told["reason"],
        "message": told["message"],
    }


def _sentence(status: str, reason: str, attempt: AttemptState | None) -> str | Promise:
    if status == Status.PAIRING:
        return _pairing_sentence(attempt)
    by_reason = _BY_REASON.get(status)
    return by_reason(reason) if by_reason else _SENTENCES[status]


def _action(status: str, reason: str) -> str | None:
    """Return the event by which a page helps itself, if any does."""
    if status == Status.OPEN and reason == ErrorCode.WRONG_PHONE_LINKED:
        return events.RESET_CREDENTIALS
    return _ACTIONS.get(status)


_ACTIONS: dict[str, str] = {
    Status.UNLINKED: events.REQUEST_PAIRING_CODE,
    Status.STOPPED: events.REQUEST_QR,
    Status.LOGGED_OUT: events.REQUEST_PAIRING_CODE,
    Status.REPLACED: events.REQUEST_QR,
    Status.BANNED: events.REQUEST_QR,
    Status.NEEDS_ATTENTION: events.REQUEST_PAIRING_CODE,
}
_SENTENCES: dict[str, Promise] = {
    Status.CONNECTING: _("Connecting to WhatsApp…"),
    Status.DEGRADED: _("WhatsApp is connected but has been silent; we are checking."),
    Status.STOPPED: _(
        "WhatsApp is stopped. The link is kept: connect again at any time."
    ),
    Status.LOGGED_OUT: _(
        "The phone removed this device from its linked devices. Link it again."
    ),
    Status.REPLACED: _(
        "Another program uses this WhatsApp link. Close it there; "
        "we will try again by ourselves."
    ),
    Status.BANNED: CATALOGUE[ErrorCode.ACCOUNT_BANNED].message,
    Status.OUTDATED: CATALOGUE[ErrorCode.ENGINE_OUTDATED].message,
}
"""Of statuses for which the reason changes nothing."""


def _unlinked_sentence(reason: str) -> str | Promise:
    # Codes are words, numbers of disconnects are not for people.
    if reason.isupper():
        return message_of(reason)
    return _("WhatsApp is not linked yet. Ask for a code or scan the QR.")


def _open_sentence(reason: str) -> str | Promise:
    if reason == ErrorCode.WRONG_PHONE_LINKED:
        return message_of(reason)
    return _("WhatsApp is connected.")


def _lost_sentence(reason: str) -> Promise:
    if reason in ("gateway_lost", "1008"):
        return _(
            "Our service is just restarting. WhatsApp will be connected again in a "
            "moment; there is nothing to do."
        )
    if reason in ("503", "1001", "1002"):
        return _(
            "WhatsApp cannot be reached at the moment. We go on trying by ourselves; "
            "there is nothing to do on the phone."
        )
    if reason in ("408", "1003"):
        return _("WhatsApp does not answer. We are connecting anew by ourselves.")
    return _("The connection to WhatsApp was lost. We are reconnecting by ourselves.")


def _attention_sentence(reason: str) -> Promise:
    if reason == "1011":
        return _(
            "Our service cannot open the stored link at the moment. We have been told; "
            "if you cannot wait, link the phone again."
        )
    return _(
        "WhatsApp keeps refusing this link. We have been told; "
        "linking the phone again usually helps."
    )


_BY_REASON: dict[str, Callable[[str], str | Promise]] = {
    Status.UNLINKED: _unlinked_sentence,
    Status.OPEN: _open_sentence,
    Status.RECONNECTING: _lost_sentence,
    Status.NEEDS_ATTENTION: _attention_sentence,
}


def _pairing_sentence(attempt: AttemptState | None) -> Promise:
    stages = PairingAttempt.Stage
    stage = attempt["stage"] if attempt else stages.REQUESTED
    if attempt and stage == stages.SHOWN:
        if attempt["kind"] == PairingAttempt.Kind.CODE:
            return _("Enter the code in WhatsApp on the phone.")
        return _("Scan the QR with WhatsApp on the phone.")
    if stage == stages.ENTERED:
        return _("The code was entered. WhatsApp is checking it…")
    if stage == stages.FINISHING:
        return _("The phone is linked. Finishing…")
    return _("Preparing the link with WhatsApp…")
