"""`whatsapp_reset <salon> [--yes | --dry-run] [--json]`: forget a salon's WhatsApp link."""

import sys
from argparse import ArgumentParser
from typing import Any

from django.core.management.base import CommandError

from whatsapp.management.salon_command import (
    ACTOR,
    INTERRUPTED,
    WRONG_USAGE,
    SalonCommand,
)
from whatsapp.models import Salon
from whatsapp.services import gateways, looks, reports, sessions
from whatsapp.services.credentials import CredsState
from whatsapp.services.reports import SessionReport

OPEN = ("open", "degraded")


class Command(SalonCommand):
    """Deletes creds, keys and open attempts; works without any gateway."""

    help = "Forget a salon's WhatsApp link; a phone must be linked again."

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Declare the arguments."""
        super().add_arguments(parser)
        how = parser.add_mutually_exclusive_group()
        how.add_argument("--yes", action="store_true", help="do not ask")
        how.add_argument(
            "--dry-run", action="store_true", help="say what would go, and stop"
        )
        self.add_json(parser)

    def handle(
        self,
        *_args: Any,
        salon: str,
        yes: bool,
        dry_run: bool,
        as_json: bool,
        **_options: Any,
    ) -> None:
        """Look, ask, and do it.

        Raises:
            CommandError: it was not confirmed.
        """
        found = self.find(salon)
        if as_json and not (yes or dry_run):
            raise CommandError(
                "--json cannot ask: it needs --yes or --dry-run.",
                returncode=WRONG_USAGE,
            )
        looks.sweep()
        (report,) = reports.sessions(found.pk)
        stays = _stays_on_the_phone(report)
        if not (yes or dry_run):
            self._confirm(found, report)
        if not dry_run:
            sessions.reset(found, ACTOR)
        told = {
            "dry_run": dry_run,
            "session_id": found.session_id,
            "creds": report["creds"],
            "keys": sum(report["keys"].values()),
            "attempt": report["attempt"] is not None,
            "phone": report["phone"] or None,
            "stays_on_the_phone": stays,
        }
        words = (
            f"{_described(found, report)}\nNothing was deleted."
            if dry_run
            else f"{found.session_id} is reset: link a phone again."
        )
        if stays:
            words += (
                "\nThe session is not open, so WhatsApp cannot be told: the phone goes on"
                " listing the device until it is removed there (Linked devices)."
            )
        self.answer(told, words, as_json=as_json)

    def _confirm(self, salon: Salon, report: SessionReport) -> None:
        # On the standard error: the output is what became of it.
        self.stderr.write(_described(salon, report), self.style.WARNING)
        self.stderr.write(f"Type {salon.session_id} to go on: ", ending="")
        self.stderr.flush()
        try:
            answer = sys.stdin.readline()
        except KeyboardInterrupt:
            raise CommandError("\nNothing was done.", returncode=INTERRUPTED) from None
        if answer.strip() != salon.session_id:
            raise CommandError("Nothing was done.")


def _described(salon: Salon, report: SessionReport) -> str:
    attempt = report["attempt"]
    gone = [f"its creds ({report['creds']})"] if report["creds"] != "absent" else []
    if report["keys"]:
        gone.append(f"{sum(report['keys'].values())} keys")
    if attempt:
        gone.append(f"the link attempt that is under way ({attempt['kind']})")
    phone = f", phone {report['phone']}" if report["phone"] else ""
    return (
        f"A reset forgets the WhatsApp link of {salon} ({report['status']}{phone})."
        f" Deleted for ever: {', '.join(gone) or 'nothing, there is none'}."
    )


def _stays_on_the_phone(report: SessionReport) -> bool:
    """Say whether the phone will list a device whose creds nobody has any more."""
    if report["creds"] != CredsState.LINKED:
        return False
    return report["status"] not in OPEN or not gateways.shares()
