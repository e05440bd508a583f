"""`whatsapp_backup <salon> FILE`, `--all DIR`: keep a salon's link in a file."""

import json
from argparse import ArgumentParser
from pathlib import Path
from typing import Any

from django.core.management.base import CommandError
from django.db import DatabaseError

from whatsapp.management import backup_report, passphrase
from whatsapp.management.progress import Progress
from whatsapp.management.salon_command import ACTOR, INTERRUPTED, SalonCommand
from whatsapp.models import Salon
from whatsapp.services import backup, backup_file
from whatsapp.services.backup import Backup
from whatsapp.services.backup_file import BackupError, Passphrase

STDOUT = "-"
SUFFIX = ".wabackup"


class Command(SalonCommand):
    """Writes encrypted files; nothing stops for it."""

    help = "Back up a salon's link, or those of all salons, into encrypted files."
    salon_is_optional = True

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Declare the arguments."""
        super().add_arguments(parser)
        parser.add_argument(
            "file", nargs="?", help=f"where to; {STDOUT} is the standard output"
        )
        parser.add_argument(
            "--all", type=Path, dest="folder", metavar="DIR", help="every linked salon"
        )
        parser.add_argument("--force", action="store_true", help="overwrite the file")
        self.add_json(parser)
        passphrase.add_argument(parser)

    def handle(
        self,
        *_args: Any,
        salon: str | None,
        file: str | None,
        folder: Path | None,
        passphrase_file: Path | None,
        **options: Any,
    ) -> None:
        """Do it."""
        if folder is not None and salon is None:
            self._check(folder)
            key = passphrase.get(passphrase_file, twice=True)
            self._back_up_all(folder, key, **options)
        elif salon is not None and file is not None and folder is None:
            found = self.find(salon)
            if file == STDOUT and self.stdout.isatty():
                raise CommandError("A backup is nothing for a terminal: name a file.")
            key = passphrase.get(passphrase_file, twice=True)
            self._back_up(found, file, key, **options)
        else:
            raise CommandError("Name a salon and a file, or --all and a folder.")

    def _check(self, folder: Path) -> None:
        if not folder.is_dir():
            raise CommandError(f"{folder} is no folder.")

    def _back_up(
        self,
        salon: Salon,
        file: str,
        key: Passphrase,
        *,
        force: bool,
        as_json: bool,
        **_options: Any,
    ) -> None:
        try:
            if file == STDOUT:
                made, data = _made(salon, key)
                self.stdout.buffer.write(data)  # type: ignore[attr-defined]
                self.stdout.flush()
            else:
                made, data = _written(salon, Path(file), key, force=force)
        except (BackupError, OSError) as error:
            raise CommandError(_why(error)) from None
        out = self.stderr if file == STDOUT else self.stdout
        if as_json:
            report = json.dumps(_report(made, file, data), ensure_ascii=False, indent=2)
            out.write(report, style_func=str)
            return
        out.write("\n".join(backup_report.described(made)), style_func=str)
        out.write(
            f"  {len(data)} bytes, encrypted, opened again and compared.",
            style_func=str,
        )

    def _back_up_all(
        self, folder: Path, key: Passphrase, *, force: bool, as_json: bool, **_: Any
    ) -> None:
        found = backup.linked_salons()
        done: list[dict[str, Any]] = []
        failed: dict[str, str] = {}
        try:
            with Progress(self.stderr, "Backing up", len(found)) as progress:
                for salon in found:
                    try:
                        done.append(_kept(salon, folder, key, force=force))
                    except (BackupError, DatabaseError, OSError) as error:
                        failed[salon.session_id] = _why(error)
                    progress.step()
        except KeyboardInterrupt:
            raise CommandError(
                f"Interrupted: {len(done)} of {len(found)} salons are backed up.",
                returncode=INTERRUPTED,
            ) from None
        if as_json:
            report = {"salons": done, "failed": failed}
            self.stdout.write(json.dumps(report, ensure_ascii=False, indent=2))
        else:
            self.stdout.write(f"Backed up: {len(done)} salons, into {folder}.")
        if failed:
            reasons = "\n".join(f"  {name}: {why}" for name, why in failed.items())
            raise CommandError(f"Not backed up: {len(failed)} salons.\n{reasons}")


def _kept(
    salon: Salon, folder: Path, key: Passphrase, *, force: bool
) -> dict[str, Any]:
    made, data = _made(salon, key)
    path = folder / f"{salon.session_id}-{made.taken_at:%Y%m%dT%H%M%SZ}{SUFFIX}"
    backup_file.write(path, data, force=force)
    return _report(made, str(path), data)


def _written(
    salon: Salon, path: Path, key: Passphrase, *, force: bool
) -> tuple[Backup, bytes]:
    if not force and path.exists():
        raise FileExistsError(path)
    made, data = _made(salon, key)
    backup_file.write(path, data, force=force)
    return made, data


def _made(salon: Salon, key: Passphrase) -> tuple[Backup, bytes]:
    made = backup.take(salon, ACTOR)
    return made, backup.pack(made, key)


def _report(made: Backup, file: str, data: bytes) -> dict[str, Any]:
    return backup_report.as_json(made) | {"file": file, "bytes": len(data)}


def _why(error: Exception) -> str:
    if isinstance(error, FileExistsError):
        return "The file is there already: choose another name, or --force."
    if isinstance(error, OSError):
        return f"The file cannot be written: {error.strerror or error}."
    if isinstance(error, DatabaseError):
        return f"The database failed: {type(error).__name__}."
    return str(error)
