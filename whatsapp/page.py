"""What one page has been told, and what a new state of its salon means for it (pure)."""

from functools import lru_cache
from typing import Any, TypeAlias

import segno
from django.utils.translation import gettext as _

from whatsapp import events, statuses
from whatsapp.errors import ErrorCode, WhatsAppError, message_of
from whatsapp.events import AttemptState, Snapshot
from whatsapp.models import PairingAttempt, WhatsAppSession
from whatsapp.phones import mask_phone

Event: TypeAlias = tuple[str, dict[str, Any]]

Kind = PairingAttempt.Kind
Stage = PairingAttempt.Stage
Status = WhatsAppSession.Status

LINKED_IS_NEWS_SECONDS = 180
"""A page that was away (on a phone: in WhatsApp) is told that the link has worked."""

FAILED_IS_NEWS_SECONDS = 60

_UP = (Status.OPEN, Status.DEGRADED)

SECRETS = frozenset({events.QR_UPDATE, events.PAIRING_CODE, events.KNOWN_PHONE})
"""Events for those only who may link a phone."""


class PageView:
    """The last state that a page was told, and the events that lead from it to another.

    Sentences are in the language that is active during the call.
    """

    def __init__(self) -> None:
        self._told: Snapshot | None = None
        self._early: Snapshot | None = None

    @property
    def revision(self) -> int:
        """What the page knows; -1: nothing yet."""
        return -1 if self._told is None else self._told["revision"]

    @property
    def attempt_is_open(self) -> bool:
        """Whether the page was told of a link that is being tried."""
        attempt = self._told and self._told["attempt"]
        return attempt is not None and not attempt["finished"]

    def welcome(self, snapshot: Snapshot) -> list[Event]:
        """Return what a page that has just connected is told: ``status`` comes first."""
        self._told = snapshot
        told = [status(snapshot)]
        attempt = snapshot["attempt"]
        told += filter(None, [current_qr(snapshot), current_code(snapshot)])
        if attempt is not None and attempt["finished_ago"] is not None:
            age = attempt["finished_ago"]
            linked = attempt["stage"] == Stage.LINKED and snapshot["status"] in _UP
            if linked and age <= LINKED_IS_NEWS_SECONDS:
                told.append(connected(snapshot))
            elif age <= FAILED_IS_NEWS_SECONDS:
                told += filter(None, [_outcome(attempt)])
        if self._early is not None:
            told += self.tell(self._early)
        return told

    def tell(self, snapshot: Snapshot) -> list[Event]:
        """Return what is new in ``snapshot``; nothing, if it is not newer.

        What comes before the welcome waits for it: the state that the welcome was
        made from may be the older one.
        """
        before = self._told
        if before is None:
            if self._early is None or self._early["revision"] < snapshot["revision"]:
                self._early = snapshot
            return []
        if snapshot["revision"] <= before["revision"]:
            return []
        self._told = snapshot
        told = []
        if _visible(snapshot) != _visible(before):
            told.append(status(snapshot))
        if snapshot["resets"] > before["resets"]:
            told.append(_credentials_reset(snapshot))
        told += _attempt_news(before["attempt"], snapshot)
        if snapshot["status"] == Status.OPEN and (
            before["status"] not in _UP or _linked(snapshot) != _linked(before)
        ):
            told.append(connected(snapshot))
        return told


def is_up(snapshot: Snapshot) -> bool:
    """Say whether the salon is connected, perhaps silently: nothing to link."""
    return snapshot["status"] in _UP


def _visible(snapshot: Snapshot) -> tuple[object, ...]:
    attempt = snapshot["attempt"]
    return (
        snapshot["status"],
        snapshot["reason"],
        snapshot["phone"],
        snapshot["since"],
        snapshot["resets"],
        attempt and (attempt["id"], attempt["stage"], attempt["error"]),
    )


def _linked(snapshot: Snapshot) -> int | None:
    attempt = snapshot["attempt"]
    return attempt["id"] if attempt and attempt["stage"] == Stage.LINKED else None


def _attempt_news(before: AttemptState | None, snapshot: Snapshot) -> list[Event]:
    attempt = snapshot["attempt"]
    if attempt is None:
        return []
    if before is not None and before["id"] != attempt["id"]:
        before = None
    if attempt["finished"]:
        outcome = _outcome(attempt)
        return [outcome] if outcome and not (before and before["finished"]) else []
    news = []
    if before is None or before["qr"] != attempt["qr"]:
        news.append(current_qr(snapshot))
    if before is None or before["code"] != attempt["code"]:
        news.append(current_code(snapshot))
    return [event for event in news if event]


def status(snapshot: Snapshot) -> Event:
    """Return the ``status`` event."""
    return events.STATUS, dict(statuses.payload(snapshot))


def current_qr(snapshot: Snapshot) -> Event | None:
    """Return ``qr-update`` for the QR that can be scanned now, if there is one."""
    attempt = snapshot["attempt"]
    left = attempt["qr_expires_in"] if attempt and attempt["qr"] else None
    if attempt is None or left is None or left <= 0:
        return None
    return events.QR_UPDATE, {
        "qr": attempt["qr"],
        "svg": _svg(attempt["qr"]),
        "expiresIn": max(1, int(left)),
    }


def current_code(snapshot: Snapshot) -> Event | None:
    """Return ``pairing-code`` for the code that can be entered now, if there is one."""
    attempt = snapshot["attempt"]
    if attempt is None or not attempt["code"] or attempt["expires_in"] <= 0:
        return None
    return events.PAIRING_CODE, {
        "code": attempt["code"],
        "phoneNumber": attempt["phone"],
        "expiresIn": max(1, int(attempt["expires_in"])),
    }


def connected(snapshot: Snapshot, *, already: bool = False) -> Event:
    """Return the ``whatsapp-connected`` event."""
    return events.WHATSAPP_CONNECTED, {
        "success": True,
        "phone": mask_phone(snapshot["phone"]),
        "sessionId": snapshot["session_id"],
        "message": _("WhatsApp is already connected.")
        if already
        else _("WhatsApp is connected."),
    }


def known_phone(phone: str) -> Event:
    """Return the event with the salon's own number, for the field where it is typed."""
    return events.KNOWN_PHONE, {"phoneNumber": phone}


def refusal(name: str, error: WhatsAppError) -> Event:
    """Return the event ``name`` that tells an error to the page that caused it."""
    data: dict[str, Any] = {"code": error.code.value, "message": error.message}
    if error.retry_after is not None:
        data["retryAfter"] = error.retry_after
    return name, data


def _outcome(attempt: AttemptState) -> Event | None:
    if attempt["stage"] not in (Stage.FAILED, Stage.EXPIRED):
        return None
    code = attempt["error"] or ErrorCode.INTERNAL.value
    data: dict[str, Any] = {"code": code, "message": message_of(code)}
    if attempt["retry_after"] is not None:
        data["retryAfter"] = attempt["retry_after"]
    name = events.PAIRING_CODE_ERROR if attempt["kind"] == Kind.CODE else events.ERROR
    return name, data


def _credentials_reset(snapshot: Snapshot) -> Event:
    return events.CREDENTIALS_RESET, {
        "success": True,
        "message": _("The link was reset. A phone can be linked anew."),
        "sessionId": snapshot["session_id"],
    }


@lru_cache(maxsize=64)
def _svg(qr: str) -> str:
    # Looking for the best of the eight masks takes four times as long, in the event
    # loop; every mask can be scanned.
    code = segno.make(qr, error="l", micro=False, mask=3)
    svg: str = code.svg_inline(omitsize=True, svgclass=None, lineclass=None)
    return svg
