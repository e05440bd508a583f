"""`whatsapp_reset <salon> [--yes]`: forget a salon's WhatsApp link."""

from argparse import ArgumentParser
from typing import Any

from django.core.management.base import CommandError

from whatsapp.management.salon_command import ACTOR, SalonCommand
from whatsapp.models import Salon
from whatsapp.services import sessions


class Command(SalonCommand):
    """Deletes creds, keys and open attempts; works without any gateway."""

    help = "Forget a salon's WhatsApp link; a phone must be linked again."

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Declare the arguments."""
        super().add_arguments(parser)
        parser.add_argument("--yes", action="store_true", help="do not ask")

    def handle(self, *_args: Any, salon: str, yes: bool, **_options: Any) -> None:
        """Ask, and do it."""
        found = self.find(salon)
        if not yes:
            self._confirm(found)
        sessions.reset(found, ACTOR)
        self.stdout.write(f"{found.session_id} is reset: link a phone again.")

    def _confirm(self, salon: Salon) -> None:
        question = (
            f"This forgets the WhatsApp link of {salon}: its creds and keys are deleted"
            f" and its phone is unlinked.\nType {salon.session_id} to go on: "
        )
        try:
            answer = input(question)
        except EOFError:
            answer = ""
        if answer.strip() != salon.session_id:
            raise CommandError("Nothing was done.")
