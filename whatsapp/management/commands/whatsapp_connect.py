"""`whatsapp_connect <salon> [--anew] [--json]`: let a linked salon's session run."""

from argparse import ArgumentParser
from typing import Any

from django.core.management.base import CommandError

from whatsapp import events
from whatsapp.management.salon_command import ACTOR, SalonCommand
from whatsapp.services import looks, sessions
from whatsapp.services.sessions import Reconnected

WORDS = {
    Reconnected.STARTED: "{0} is being connected; whatsapp_status {0} says how far it is.",
    Reconnected.UNDER_WAY: "{0} is being connected already.",
    Reconnected.LEFT_OPEN: "{0} is connected; --anew closes the connection and opens it.",
}
FAILURES = {
    Reconnected.NOT_LINKED: "{0} has no link: link a phone with whatsapp_pair {0}.",
    Reconnected.BANNED: "WhatsApp has restricted the account of {0}, and trying makes it"
    " worse. Look into WhatsApp on the phone; when it works there, whatsapp_pair {0} --qr"
    " connects it.",
    Reconnected.LINKING: "A phone is just being linked to {0}. Wait until that is over,"
    " or cancel it with whatsapp_disconnect {0}.",
}


class Command(SalonCommand):
    """Undoes a stop, and ends a pause between two tries."""

    help = "Connect a linked salon; one that is connected is left alone."

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Declare the arguments."""
        super().add_arguments(parser)
        parser.add_argument(
            "--anew",
            action="store_true",
            help="close a session that is connected first",
        )
        self.add_json(parser)

    def handle(
        self, *_args: Any, salon: str, anew: bool, as_json: bool, **_options: Any
    ) -> None:
        """Wish it.

        Raises:
            CommandError: it cannot be connected.
        """
        found = self.find(salon)
        looks.sweep()
        outcome = sessions.reconnect(found, ACTOR, leave_open=not anew)
        name = found.session_id
        words = (WORDS | FAILURES)[outcome].format(name)
        if as_json or outcome in WORDS:
            status = events.snapshots([found.pk])[found.pk]["status"]
            told = {"session_id": name, "outcome": outcome, "status": status}
            self.answer(told, words, as_json=as_json)
        if outcome in FAILURES:
            raise CommandError(words)
        if outcome is not Reconnected.LEFT_OPEN:
            self.warn_without_gateway()
