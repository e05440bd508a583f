"""`marketplace_token <salon>`: a token that opens the salon's page."""

from typing import Any

from django.urls import reverse

from whatsapp.management.salon_command import SalonCommand
from whatsapp.services import tokens


class Command(SalonCommand):
    """Prints a page token: words to stderr, the token alone to stdout."""

    help = "Print a token that opens the salon's page for an hour."

    def handle(self, *_args: Any, salon: str, **_options: Any) -> None:
        """Print it."""
        found = self.find(salon)
        self.stderr.write(
            f"Whoever has this token controls the WhatsApp link of {found} for the next"
            f" {tokens.LIFETIME_SECONDS // 60} minutes."
            f" Open {reverse('marketplace')}#token=<token> in a browser.",
            self.style.NOTICE,
        )
        self.stdout.write(tokens.issue(found))
