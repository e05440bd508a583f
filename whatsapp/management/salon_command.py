"""What the commands about one salon have in common: how it is named."""

from argparse import ArgumentParser

from django.core.management.base import BaseCommand, CommandError

from whatsapp.models import Salon
from whatsapp.services import salons

ACTOR = "command"
"""Who did it, in the audit."""


class SalonCommand(BaseCommand):
    """A command whose first argument is a salon."""

    salon_is_optional = False

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Declare the salon."""
        parser.add_argument(
            "salon",
            nargs="?" if self.salon_is_optional else None,
            help="salon id, or company_<salon id>",
        )

    def find(self, name: str) -> Salon:
        """Return the salon.

        Raises:
            CommandError: there is none.
        """
        try:
            return salons.find(name)
        except Salon.DoesNotExist as error:
            raise CommandError(str(error)) from None
