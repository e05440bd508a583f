"""`create_salon <salon_id> --title T [--json]`: a salon, known by its number."""

from argparse import ArgumentParser, ArgumentTypeError
from typing import Any

from django.core.management.base import CommandError

from whatsapp.management.salon_command import TablesCommand
from whatsapp.services import salons


class Command(TablesCommand):
    """Makes a salon, or renames it."""

    help = "Make a salon, or give it another title."

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Declare the arguments."""
        parser.add_argument(
            "salon_id",
            type=_salon_id,
            help="the marketplace's number, or company_<the number>",
        )
        parser.add_argument("--title", required=True, help="as people call it")
        self.add_json(parser)

    def handle(
        self,
        *_args: Any,
        salon_id: int,
        title: str,
        as_json: bool,
        **_options: Any,
    ) -> None:
        """Make it.

        Raises:
            CommandError: the number is none that a salon can have.
        """
        try:
            salon = salons.create(salon_id, title)
        except ValueError as error:
            raise CommandError(str(error)) from None
        told = {
            "salon_id": salon.salon_id,
            "session_id": salon.session_id,
            "title": salon.title,
        }
        self.answer(told, f"{salon.session_id}: {salon.title}", as_json=as_json)


def _salon_id(text: str) -> int:
    try:
        return int(text.removeprefix("company_"))
    except ValueError:
        raise ArgumentTypeError(f"{text!r} is not a salon id.") from None
