"""`whatsapp_restore <salon> FILE`: put a backup of a salon's link back."""

import json
import sys
from argparse import ArgumentParser
from pathlib import Path
from typing import Any

from django.core.management.base import CommandError

from whatsapp.management import backup_report, passphrase
from whatsapp.management.salon_command import ACTOR, SalonCommand
from whatsapp.services import backup, backup_file
from whatsapp.services.backup import REPLACEABLE, Backup, Caution, Outcome, Refusal
from whatsapp.services.backup_file import MAX_FILE_BYTES, BackupError

STDIN = "-"

_REFUSED = {
    Refusal.OTHER_SALON: "The backup is of company_{salon_id}. If that is meant:"
    " --from-salon {salon_id}.",
    Refusal.WANTED: "Its session runs, or is to run: whatsapp_disconnect it first.",
    Refusal.HELD: "A gateway still has it: whatsapp_disconnect it, and try again in a"
    " few seconds.",
    Refusal.LINKING: "A phone is just being linked: wait, or whatsapp_disconnect it.",
    Refusal.PHONE_ELSEWHERE: "Its phone is in use in another salon"
    " (CREDENTIALS_CONFLICT): stop that one, or allow the shared phone in the admin.",
    Refusal.DEVICE_ELSEWHERE: "Another salon has this very link, and one of them would"
    " throw the other out: reset that one first.",
    Refusal.OTHER_LINK: "Another link is stored: if the backup is to take its place,"
    " --replace. What is stored goes to the archive.",
    Refusal.UNREADABLE: "A link is stored, and CREDENTIAL_ENCRYPTION_KEYS cannot open"
    " it: find the key; or --replace, and it goes to the archive as it is.",
    Refusal.NEWER_STORED: "The same link is stored, and was written later. Going back"
    " makes messages unreadable; if what is stored is no good: --replace.",
    Refusal.NEWER_ARCHIVED: "A link of this phone was in use after this backup, and is"
    " in the archive: restore that one in the admin. If it is no good: --replace.",
}

_CAUTIONS = {
    Caution.RAN: "The session ran when this was taken. What was sent and received since"
    " is not in it: some messages may be unreadable at first.",
    Caution.RESET_SINCE: "The link was reset after this was taken. If the phone was told"
    " to forget it, WhatsApp refuses it, and the phone is to be linked again.",
    Caution.UNEXPECTED_PHONE: "The salon is expected to link another phone.",
}

RIVAL = (
    "Make sure that no other installation, and no program of before, uses this link:"
    " they would throw each other out."
)


class Command(SalonCommand):
    """Opens a file, says what is in it, and puts it back if nothing speaks against it."""

    help = "Put a backup of a salon's link back; the salon stays stopped."
    salon_is_optional = True

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Declare the arguments."""
        super().add_arguments(parser)
        parser.add_argument("file", help=f"the backup; {STDIN} is the standard input")
        looks = parser.add_mutually_exclusive_group()
        looks.add_argument(
            "--verify",
            action="store_true",
            help="open the file, say what is in it, and stop; needs no salon",
        )
        looks.add_argument(
            "--dry-run",
            action="store_true",
            help="say also what speaks against it, and change nothing",
        )
        parser.add_argument(
            "--connect", action="store_true", help="wish the session to run"
        )
        parser.add_argument(
            "--replace",
            action="store_true",
            help="in place of another link, or a newer state; that goes to the archive",
        )
        parser.add_argument(
            "--from-salon", metavar="SALON", help="the backup is of this other salon"
        )
        self.add_json(parser)
        passphrase.add_argument(parser)

    def handle(
        self,
        *_args: Any,
        salon: str | None,
        file: str,
        verify: bool,
        passphrase_file: Path | None,
        as_json: bool,
        **options: Any,
    ) -> None:
        """Open it, say what it is, and do it."""
        if salon is None and not verify:
            raise CommandError("Name the salon, or --verify.")
        into = None if salon is None else self.find(salon)
        if into is None or verify:
            found = self._opened(file, passphrase_file)
            self._tell(found, as_json=as_json)
            return
        wishes = _wishes(**options)
        found = self._opened(file, passphrase_file)
        try:
            outcome = backup.restore(into, found, ACTOR, **wishes)
        except BackupError as error:
            raise CommandError(f"{error} Nothing was changed.") from None
        self._tell(found, outcome, as_json=as_json)
        if outcome.refused:
            raise CommandError(_refused(into.session_id, found, outcome))
        if not as_json:
            self.stdout.write(
                _done(into.session_id, outcome, dry_run=wishes["dry_run"])
            )

    def _opened(self, file: str, passphrase_file: Path | None) -> Backup:
        try:
            if file == STDIN:
                data = sys.stdin.buffer.read(MAX_FILE_BYTES + 1)
            else:
                data = backup_file.read(Path(file))
            return backup.unpack(data, passphrase.get(passphrase_file))
        except OSError as error:
            why = error.strerror or error
            raise CommandError(f"Cannot read {file}: {why}.") from None
        except BackupError as error:
            raise CommandError(f"{error} Nothing was changed.") from None

    def _tell(
        self, found: Backup, outcome: Outcome | None = None, *, as_json: bool
    ) -> None:
        if as_json:
            report = backup_report.as_json(found)
            if outcome is not None:
                report = {"backup": report} | _as_json(outcome)
            self.stdout.write(json.dumps(report, ensure_ascii=False, indent=2))
            return
        for line in backup_report.described(found):
            self.stdout.write(line)
        if outcome is None:
            self.stdout.write("The file is whole.")
            return
        for caution in outcome.cautions:
            self.stdout.write(f"  WARNING: {_CAUTIONS[caution]}")


def _wishes(
    *,
    dry_run: bool,
    connect: bool,
    replace: bool,
    from_salon: str | None,
    **_options: Any,
) -> dict[str, Any]:
    number = None
    if from_salon is not None:
        text = from_salon.strip().removeprefix("company_")
        if not (text.isascii() and text.isdigit()):
            raise CommandError(f"{from_salon!r} is not a salon id.")
        number = int(text)
    return {
        "dry_run": dry_run,
        "connect": connect,
        "replace": replace,
        "from_salon": number,
    }


def _refused(session_id: str, found: Backup, outcome: Outcome) -> str:
    reasons = "\n".join(
        f"  {_REFUSED[refusal].format(salon_id=found.salon_id)}"
        for refusal in outcome.refused
    )
    return f"{session_id} is left as it is:\n{reasons}"


def _done(session_id: str, outcome: Outcome, *, dry_run: bool) -> str:
    if dry_run:
        return "Nothing speaks against it. Nothing was changed."
    kept = " What was stored is in the archive." if outcome.archived else ""
    if outcome.status == "stopped":
        return (
            f"{session_id} is restored, and stopped: nothing connects it before the"
            f" button of its page does, or the same with --connect.{kept}\n{RIVAL}"
        )
    return f"{session_id} is restored, and is to connect.{kept}\n{RIVAL}"


def _as_json(outcome: Outcome) -> dict[str, Any]:
    return {
        "restored": outcome.restored,
        "archived": outcome.archived,
        "status": outcome.status,
        "refused": [
            {"code": refusal.value, "replaceable": refusal in REPLACEABLE}
            for refusal in outcome.refused
        ],
        "warnings": [caution.value for caution in outcome.cautions],
    }
