"""`whatsapp_encrypt [--dry-run] [--decrypt] [--new-key] [--json]`: seal what is stored."""

import json
from argparse import ArgumentParser
from collections import Counter
from typing import Any

from django.core.management.base import CommandError

from whatsapp.management.progress import Progress
from whatsapp.management.salon_command import ACTOR, INTERRUPTED, TablesCommand
from whatsapp.services import encryption, sealing
from whatsapp.services.encryption import Lying, Unreadable

NAMES = {"": "plain", "fernet": "by Fernet, as once"}


class Command(TablesCommand):
    """Brings creds, keys and archives to the first of CREDENTIAL_ENCRYPTION_KEYS."""

    help = (
        "Encrypt what is stored with the first of CREDENTIAL_ENCRYPTION_KEYS: plain rows,"
        " and those that are encrypted with another of them. Salons stay connected."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Declare the arguments."""
        parser.add_argument(
            "--dry-run", action="store_true", help="say what would be done, and stop"
        )
        parser.add_argument(
            "--decrypt",
            action="store_true",
            help="store everything plain again; stop the gateways first",
        )
        parser.add_argument(
            "--new-key", action="store_true", help="print a fresh key, and stop"
        )
        self.add_json(parser)

    def handle(
        self,
        *_args: Any,
        dry_run: bool,
        decrypt: bool,
        new_key: bool,
        as_json: bool,
        **_options: Any,
    ) -> None:
        """Look, and do it."""
        if new_key:
            self.stdout.write(sealing.new_key())
            return
        if not decrypt and not sealing.is_enabled():
            raise CommandError(
                "CREDENTIAL_ENCRYPTION_KEYS is empty: there is no key to encrypt with."
                " Make one with --new-key."
            )
        found = encryption.lying()
        try:
            encryption.require_keys(found)
        except Unreadable as error:
            raise CommandError(str(error)) from None
        aim = "" if decrypt else sealing.current_kid()
        rows = 0
        failed: dict[str, str] = {}
        forgotten: list[str] = []
        if not dry_run:
            rows, failed = self._change(found.other_than(aim), seal=not decrypt)
            forgotten = encryption.forget_unused_keys(encryption.lying())
        if as_json:
            report = {
                "key": aim or None,
                "found": _as_json(found),
                "changed": rows,
                "failed": failed,
                "forgotten": forgotten,
            }
            self.stdout.write(json.dumps(report, ensure_ascii=False, indent=2))
        else:
            self._tell(found, aim, None if dry_run else rows)
            for kid in forgotten:
                self.stdout.write(f"Nothing needs the key {kid} any more.")
        if failed:
            salons = "; ".join(f"{name}: {why}" for name, why in failed.items())
            raise CommandError(f"Not everything could be changed. {salons}")

    def _change(self, total: int, *, seal: bool) -> tuple[int, dict[str, str]]:
        rows = 0
        failed: dict[str, str] = {}
        label = "Encrypting" if seal else "Decrypting"
        try:
            with Progress(self.stderr, label, total) as progress:
                for count in encryption.change(ACTOR, failed, seal=seal):
                    rows += count
                    progress.step(count)
        except KeyboardInterrupt:
            raise CommandError(
                f"Interrupted: {rows} of {total} rows are done, and every row can be "
                "read. Run it again to go on.",
                returncode=INTERRUPTED,
            ) from None
        return rows, failed

    def _tell(self, found: Lying, aim: str, rows: int | None) -> None:
        for what, counts in (
            ("creds", found.creds),
            ("keys", found.keys),
            ("archived links", found.archives),
        ):
            for kid, count in sorted(counts.items()):
                how = NAMES.get(kid, f"with the key {kid}")
                self.stdout.write(f"{count:>8}  {what}, {how}")
        to_do = found.other_than(aim)
        aimed = f"encrypted with the key {aim}" if aim else "stored plain"
        if not to_do:
            self.stdout.write(f"Everything is {aimed}.")
        elif rows is None:
            self.stdout.write(f"{to_do} rows would be {aimed}. Nothing was changed.")
        else:
            self.stdout.write(f"{rows} rows are now {aimed}.")


def _as_json(found: Lying) -> dict[str, dict[str, int]]:
    def named(counts: Counter[str]) -> dict[str, int]:
        return {kid or "plain": count for kid, count in sorted(counts.items())}

    return {
        "creds": named(found.creds),
        "keys": named(found.keys),
        "archives": named(found.archives),
    }
