"""`whatsapp_disconnect <salon> [--json]`: stop a session and keep its link."""

from argparse import ArgumentParser
from typing import Any

from whatsapp import events
from whatsapp.management.salon_command import ACTOR, SalonCommand
from whatsapp.services import looks, sessions
from whatsapp.services.sessions import Disconnected

WORDS = {
    Disconnected.STOPPED: "{} is stopped; its link is kept.",
    Disconnected.STOPPING: "{} is to stop; its link is kept.",
    Disconnected.ALREADY: "{} was stopped before; its link is kept.",
    Disconnected.NOT_LINKED: "{} has no link, so nothing was to be stopped.",
}


class Command(SalonCommand):
    """Wishes a session to stop; its gateway closes it within seconds."""

    help = "Stop a salon's session; the link is kept."

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Declare the arguments."""
        super().add_arguments(parser)
        self.add_json(parser)

    def handle(self, *_args: Any, salon: str, as_json: bool, **_options: Any) -> None:
        """Wish it."""
        found = self.find(salon)
        outcome = sessions.disconnect(found, ACTOR)
        # Where no gateway lives any more, nothing is left to be waited for.
        looks.sweep()
        status = events.snapshots([found.pk])[found.pk]["status"]
        if outcome is Disconnected.STOPPING and status == "stopped":
            outcome = Disconnected.STOPPED
        self.answer(
            {"session_id": found.session_id, "outcome": outcome, "status": status},
            WORDS[outcome].format(found.session_id),
            as_json=as_json,
        )
