"""`marketplace_token <salon> [--json]`: a token that opens the salon's page."""

from argparse import ArgumentParser
from typing import Any

from django.urls import reverse

from whatsapp.management.salon_command import SalonCommand
from whatsapp.services import tokens


class Command(SalonCommand):
    """Prints a page token: words to stderr, the token alone to stdout."""

    help = "Print a token that opens the salon's page for an hour."

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Declare the arguments."""
        super().add_arguments(parser)
        self.add_json(parser)

    def handle(self, *_args: Any, salon: str, as_json: bool, **_options: Any) -> None:
        """Print it."""
        found = self.find(salon)
        self.stderr.write(
            f"Whoever has this token controls the WhatsApp link of {found} for the next"
            f" {tokens.LIFETIME_SECONDS // 60} minutes."
            f" Open {reverse('marketplace')}#token=<token> in a browser.",
            self.style.NOTICE,
        )
        token = tokens.issue(found)
        told = {
            "session_id": found.session_id,
            "token": token,
            "expires_in": tokens.LIFETIME_SECONDS,
        }
        self.answer(told, token, as_json=as_json)
