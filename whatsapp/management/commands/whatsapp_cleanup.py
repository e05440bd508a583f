"""`whatsapp_cleanup [--dry-run] [--json]`: delete rows that mean nothing any more."""

import json
from argparse import ArgumentParser
from typing import Any

from django.core.management.base import CommandError

from whatsapp.management.progress import Progress
from whatsapp.management.salon_command import ACTOR, INTERRUPTED, TablesCommand
from whatsapp.services import cleanup
from whatsapp.services.cleanup import Kind


class Command(TablesCommand):
    """Deletes what nobody can use any more; never a link."""

    help = "Delete rows that no longer mean anything; what is linked stays."

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Declare the arguments."""
        parser.add_argument(
            "--dry-run", action="store_true", help="say what would go, and stop"
        )
        self.add_json(parser)

    def handle(
        self, *_args: Any, dry_run: bool, as_json: bool, **_options: Any
    ) -> None:
        """Look, and delete."""
        kinds = cleanup.kinds()
        deleted: dict[str, int] = {}
        if not dry_run:
            self._delete(kinds, deleted)
        if as_json:
            report = [_as_json(kind, deleted, dry_run=dry_run) for kind in kinds]
            self.stdout.write(json.dumps(report, ensure_ascii=False, indent=2))
            return
        told = [kind for kind in kinds if kind.rows]
        for kind in told:
            count = kind.rows if dry_run else deleted[kind.name]
            names = f": {', '.join(kind.ids)}" if kind.ids else ""
            self.stdout.write(f"{count:>8}  {kind.words}{names}")
        if not told:
            self.stdout.write("There is nothing to delete.")
        elif dry_run:
            self.stdout.write("Nothing was deleted.")

    def _delete(self, kinds: list[Kind], deleted: dict[str, int]) -> None:
        rows = sum(kind.rows for kind in kinds)
        try:
            with Progress(self.stderr, "Deleting", rows) as progress:
                for kind in kinds:
                    deleted[kind.name] = 0
                    for count in kind.delete(ACTOR) if kind.rows else ():
                        deleted[kind.name] += count
                        progress.step(count)
        except KeyboardInterrupt:
            raise CommandError(
                f"Interrupted: {sum(deleted.values())} of {rows} rows are deleted."
                " Run it again to go on.",
                returncode=INTERRUPTED,
            ) from None


def _as_json(kind: Kind, deleted: dict[str, int], *, dry_run: bool) -> dict[str, Any]:
    report: dict[str, Any] = {"kind": kind.name, "found": kind.rows}
    if not dry_run:
        report["deleted"] = deleted[kind.name]
    if kind.ids:
        report["company_ids"] = kind.ids
    return report
