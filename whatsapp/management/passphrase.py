"""How the commands about backups get the passphrase: never as an argument."""

import getpass
import warnings
from argparse import ArgumentParser
from pathlib import Path

from django.conf import settings
from django.core.management.base import CommandError

from whatsapp.services.backup_file import BackupError, Passphrase

ELSEWHERE = "--passphrase-file or WHATSAPP_BACKUP_PASSPHRASE"


def add_argument(parser: ArgumentParser) -> None:
    """Declare the file that it may be in; other people see what arguments are."""
    parser.add_argument(
        "--passphrase-file",
        type=Path,
        metavar="FILE",
        help="its first line; else WHATSAPP_BACKUP_PASSPHRASE, else it is asked for",
    )


def get(file: Path | None, *, twice: bool = False) -> Passphrase:
    """Return the passphrase.

    Args:
        file: its first line is it; None: look elsewhere.
        twice: ask for it twice, since nobody could use what is made with a slip.

    Raises:
        CommandError: there is none, or it will not do.
    """
    try:
        return Passphrase(_text(file, twice=twice))
    except BackupError as error:
        raise CommandError(str(error)) from None


def _text(file: Path | None, *, twice: bool) -> str:
    if file is None:
        return settings.WHATSAPP_BACKUP_PASSPHRASE or _asked(twice=twice)
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or "it is no text"
        raise CommandError(f"Cannot read {file}: {why}.") from None
    return lines[0] if lines else ""


def _asked(*, twice: bool) -> str:
    try:
        with warnings.catch_warnings():
            # Without a terminal it would be read where everybody sees it.
            warnings.simplefilter("error", getpass.GetPassWarning)
            text = getpass.getpass("Passphrase of the backup: ")
            again = getpass.getpass("The same again: ") if twice else text
    except (EOFError, getpass.GetPassWarning):
        raise CommandError(
            f"There is nobody to ask for the passphrase: give it by {ELSEWHERE}."
        ) from None
    if text != again:
        raise CommandError("These were two passphrases. Nothing was done.")
    return text
