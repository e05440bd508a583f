"""`create_salon <salon_id> --title T`: a salon, known by the marketplace's number."""

from argparse import ArgumentParser
from typing import Any

from django.core.management.base import CommandError

from whatsapp.management.salon_command import TablesCommand
from whatsapp.services import salons


class Command(TablesCommand):
    """Makes a salon, or renames it."""

    help = "Make a salon, or give it another title."

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Declare the arguments."""
        parser.add_argument("salon_id", type=int, help="the marketplace's number")
        parser.add_argument("--title", required=True)

    def handle(self, *_args: Any, salon_id: int, title: str, **_options: Any) -> None:
        """Make it."""
        try:
            salon = salons.create(salon_id, title)
        except ValueError as error:
            raise CommandError(str(error)) from None
        self.stdout.write(f"{salon.session_id}: {salon.title}")
