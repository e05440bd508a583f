"""`whatsapp_pair <salon> --phone N | --qr`: link a phone, from a terminal."""

import io
import json
import time
from argparse import ArgumentParser
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NoReturn

import segno
from django.core.management.base import CommandError
from django.utils import translation

from whatsapp import events, page, statuses
from whatsapp.errors import ErrorCode, WhatsAppError, message_of
from whatsapp.events import AttemptState, Snapshot
from whatsapp.management.salon_command import ACTOR, INTERRUPTED, SalonCommand
from whatsapp.models import PairingAttempt, Salon
from whatsapp.phones import mask_phone
from whatsapp.services import attempts, gateways, pairing
from whatsapp.services.pairing import Answer

Kind = PairingAttempt.Kind
Stage = PairingAttempt.Stage

LOOK_SECONDS = 0.25
"""A look is one query; a person types a code in ten seconds."""

ENDINGS = {
    Stage.SUPERSEDED: "Another link was asked for in place of this one.",
    Stage.CANCELLED: "The link attempt was cancelled.",
}


@dataclass(slots=True)
class Told:
    """What the operator has been told of the attempt."""

    stage: str = ""
    qr: str = ""
    code: str = ""


class Command(SalonCommand):
    """Asks as every page does, and follows the attempt until it is over."""

    help = "Link a salon's phone by pairing code or QR, and wait until it is connected."

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Declare the arguments."""
        super().add_arguments(parser)
        how = parser.add_mutually_exclusive_group(required=True)
        how.add_argument("--phone", help="link this phone by a pairing code")
        how.add_argument("--qr", action="store_true", help="link whoever scans the QR")
        parser.add_argument(
            "--wait",
            type=_seconds,
            metavar="N",
            help="wait for N seconds at most; else until the attempt is over",
        )
        parser.add_argument(
            "--json",
            action="store_true",
            dest="as_json",
            help="one JSON object per line",
        )

    def handle(
        self,
        *_args: Any,
        salon: str,
        phone: str | None,
        wait: float | None,
        as_json: bool,
        **_options: Any,
    ) -> None:
        """Ask, and follow."""
        self._as_json = as_json
        found = self.find(salon)
        if not gateways.shares():
            raise CommandError(
                "No gateway is running, so nobody would do it: start `manage.py serve`"
                " or `manage.py whatsapp_gateway`. Nothing was asked for."
            )
        with translation.override("en"):
            try:
                self._link(found, phone, wait)
            except WhatsAppError as error:
                self._fail(error.code, error.retry_after)
            except KeyboardInterrupt:
                raise CommandError(
                    _interrupted(found), returncode=INTERRUPTED
                ) from None

    def _link(self, salon: Salon, phone: str | None, wait: float | None) -> None:
        if phone is None:
            answer = pairing.request_qr(salon, ACTOR)
        else:
            answer = self._request_code(salon, phone)
        if answer is Answer.CONNECTED:
            self._tell("linked", "WhatsApp is already connected.", already=True)
            return
        snapshot = events.snapshot(salon.pk)
        attempt = snapshot and snapshot["attempt"]
        if attempt is None:
            # It was reset in this very moment.
            self._fail(ErrorCode.PAIRING_CODE_FAILED)
        self._follow(salon, attempt["id"], wait)

    def _request_code(self, salon: Salon, phone: str) -> Answer:
        try:
            return pairing.request_code(salon, phone, ACTOR)
        except WhatsAppError as error:
            if error.code is ErrorCode.ALREADY_CONNECTED:
                return Answer.CONNECTED
            raise

    def _follow(self, salon: Salon, attempt_id: int, wait: float | None) -> None:
        told = Told()
        for snapshot in _looks(salon, wait):
            attempt = snapshot["attempt"]
            if attempt is None or attempt["id"] != attempt_id:
                self._end(Stage.SUPERSEDED, "", None)
            self._tell_news(told, snapshot, attempt)
            if attempt["finished"]:
                if attempt["stage"] == Stage.LINKED:
                    phone = mask_phone(snapshot["phone"])
                    words = f"WhatsApp is connected: {phone}."
                    self._tell("linked", words, phone=phone)
                    return
                self._end(attempt["stage"], attempt["error"], attempt["retry_after"])
            if attempt["expires_in"] < 0:
                # Also what no gateway lives to end has to end.
                attempts.expire_overdue()
        raise CommandError(
            "Not linked within the time that was to be waited; nothing is cancelled."
        )

    # --- what the operator is told ----------------------------------------------------

    def _tell_news(self, told: Told, snapshot: Snapshot, attempt: AttemptState) -> None:
        if attempt["stage"] != told.stage:
            told.stage = attempt["stage"]
            payload = statuses.payload(snapshot)
            if not attempt["finished"]:
                self._tell(
                    "attempt",
                    str(payload["message"]),
                    kind=attempt["kind"],
                    stage=attempt["stage"],
                    status=snapshot["status"],
                    expires_in=max(0, int(attempt["expires_in"])),
                )
        code = page.current_code(snapshot)
        if code and attempt["code"] != told.code:
            told.code = attempt["code"]
            self._show_code(code[1])
        qr = page.current_qr(snapshot)
        if qr and attempt["qr"] != told.qr:
            told.qr = attempt["qr"]
            self._show_qr(qr[1])
        self._count_down(attempt)

    def _show_code(self, data: dict[str, Any]) -> None:
        self._tell(
            "pairing-code",
            f"\n    {data['code']}\n\n"
            f"Valid for {data['expiresIn']} s. On the phone {_masked(data)}: WhatsApp →"
            " Linked devices → Link a device → Link with phone number instead.",
            code=data["code"],
            phone=_masked(data),
            expires_in=data["expiresIn"],
        )

    def _show_qr(self, data: dict[str, Any]) -> None:
        drawn = io.StringIO()
        segno.make(data["qr"], error="l", micro=False).terminal(drawn, compact=True)
        self._tell(
            "qr-update",
            f"{drawn.getvalue()}\nValid for {data['expiresIn']} s, then a new one comes."
            " On the phone: WhatsApp → Linked devices → Link a device.",
            qr=data["qr"],
            expires_in=data["expiresIn"],
        )

    def _count_down(self, attempt: AttemptState) -> None:
        """Show on a terminal how long a code is still valid, in one line."""
        if self._as_json or not self.stdout.isatty() or not attempt["code"]:
            return
        left = max(0, int(attempt["expires_in"]))
        self.stdout.write(f"\r{left:>4} s left ", ending="\r")
        self.stdout.flush()

    def _tell(self, event: str, words: str, **data: Any) -> None:
        if self._as_json:
            line = {"event": event, **data, "message": words.strip()}
            if event in ("pairing-code", "qr-update"):
                del line["message"]
            self.stdout.write(json.dumps(line, ensure_ascii=False))
        else:
            self.stdout.write(words)
        self.stdout.flush()

    def _end(self, stage: str, error: str, retry_after: int | None) -> NoReturn:
        if error:
            self._fail(error, retry_after)
        words = ENDINGS[Stage(stage)]
        if self._as_json:
            self._tell("error", words, stage=stage)
        raise CommandError(words)

    def _fail(self, code: str, retry_after: int | None = None) -> NoReturn:
        words = message_of(code)
        after = "" if retry_after is None else f" Ask again in {retry_after} s."
        if self._as_json:
            self._tell("error", words, code=str(code), retry_after=retry_after)
        raise CommandError(f"{words}{after} ({code})")


def _seconds(text: str) -> float:
    value = float(text)
    if not value > 0:
        raise ValueError
    return value


def _looks(salon: Salon, wait: float | None) -> Iterator[Snapshot]:
    """Give the salon's state again and again, until ``wait`` seconds are over."""
    until = None if wait is None else time.monotonic() + wait
    while True:
        snapshot = events.snapshot(salon.pk)
        if snapshot is None:
            raise CommandError("The salon was deleted.")
        yield snapshot
        if until is not None and time.monotonic() >= until:
            return
        time.sleep(LOOK_SECONDS)


def _interrupted(salon: Salon) -> str:
    snapshot = events.snapshot(salon.pk)
    attempt = snapshot and snapshot["attempt"]
    if attempt is None or attempt["finished"]:
        return "Nobody waits any more; nothing was cancelled."
    left = max(0, int(attempt["expires_in"]))
    return (
        f"Nobody waits any more, but nothing is cancelled: the attempt goes on for up to"
        f" {left} s. whatsapp_status shows what comes of it."
    )


def _masked(data: dict[str, Any]) -> str:
    return mask_phone(str(data["phoneNumber"]))
