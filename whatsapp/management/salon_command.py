"""What the commands about one salon have in common: how it is named."""

from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django.db import ProgrammingError
from psycopg.errors import UndefinedTable

from whatsapp.models import Salon
from whatsapp.services import salons

ACTOR = "command"
"""Who did it, in the audit."""

INTERRUPTED = 130
"""The exit code of a command that Ctrl-C has ended, as shells have it."""


class TablesCommand(BaseCommand):
    """A command that works on our tables, and says so where they are not there yet."""

    def execute(self, *args: Any, **options: Any) -> str | None:
        """Run the command.

        Raises:
            CommandError: the database is empty.
        """
        try:
            return super().execute(*args, **options)
        except ProgrammingError as error:
            if isinstance(error.__cause__, UndefinedTable):
                raise CommandError(
                    "The database has no tables yet: run `manage.py migrate`, "
                    "or start the service once."
                ) from None
            raise


class SalonCommand(TablesCommand):
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
