"""`whatsapp_status [salon] [--json]`: what is true of one salon, or of all."""

import json
from argparse import ArgumentParser
from typing import Any

from whatsapp.management.salon_command import SalonCommand
from whatsapp.services import looks, reports
from whatsapp.services.reports import SessionReport


class Command(SalonCommand):
    """Shows sessions, without any secret."""

    help = "Show the state of one salon's session, or of all."
    salon_is_optional = True

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Declare the arguments."""
        super().add_arguments(parser)
        self.add_json(parser)

    def handle(
        self, *_args: Any, salon: str | None, as_json: bool, **_options: Any
    ) -> None:
        """Show them, as they are: nobody else may be there to notice a lost gateway."""
        looks.sweep()
        found = reports.sessions(None if salon is None else self.find(salon).pk)
        if as_json:
            shown = found if salon is None else found[0]
            self.stdout.write(json.dumps(shown, ensure_ascii=False, indent=2))
            return
        if not found:
            self.stdout.write("There are no salons yet: make one with create_salon.")
        for report in found:
            self.stdout.write(_described(report))


def _described(report: SessionReport) -> str:
    """Return a report as a few lines for people."""
    keys = ", ".join(f"{name} {count}" for name, count in report["keys"].items())
    reason = f" ({report['reason']})" if report["reason"] else ""
    attempt = report["attempt"]
    facts = {
        "status": report["status"] + reason,
        "wanted": "" if report["wanted"] else "no, staff stopped it",
        "next try": report["retry_at"],
        "since": report["since"],
        "phone": report["phone"] or "-",
        "owner": f"{report['owner'] or '-'}, epoch {report['epoch']}",
        "last alive": report["last_alive_at"] or "never",
        "creds": report["creds"],
        "keys": keys or "-",
        "attempt": attempt
        and f"{attempt['kind']} {attempt['stage']}, {attempt['phone'] or 'any phone'},"
        f" until {attempt['deadline']}",
    }
    lines = [f"{report['session_id']}  {report['title']}"]
    lines += [f"  {name:<11} {fact}" for name, fact in facts.items() if fact]
    return "\n".join(lines)
