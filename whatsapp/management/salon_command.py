"""What our commands have in common: how a salon is named, how they answer and fail."""

import json
import logging
from argparse import ArgumentParser
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django.db import OperationalError, ProgrammingError
from psycopg import errors
from psycopg_pool import PoolTimeout

from whatsapp.models import Salon
from whatsapp.services import gateways, salons

ACTOR = "command"
"""Who did it, in the audit."""

WRONG_USAGE = 2
"""The exit code of a command that is not asked as it has to be, as argparse has it."""

INTERRUPTED = 130
"""The exit code of a command that Ctrl-C has ended, as shells have it."""

NO_GATEWAY = (
    "No gateway is running: it is done as soon as `manage.py serve` or"
    " `manage.py whatsapp_gateway` runs."
)

_LOST = (errors.AdminShutdown, errors.CrashShutdown, errors.CannotConnectNow)


@contextmanager
def database_errors() -> Iterator[None]:
    """Say in a sentence that the database is empty or away; all else is a fault of ours.

    Raises:
        CommandError: it is.
    """
    # The pool reports each of its tries, in several lines; the sentence says it all.
    pool = logging.getLogger("psycopg.pool")
    level = pool.level
    pool.setLevel(logging.ERROR)
    try:
        yield
    except ProgrammingError as error:
        if isinstance(error.__cause__, errors.UndefinedTable | errors.UndefinedColumn):
            raise CommandError(
                "The database has no tables yet, or those of an earlier version: run"
                " `manage.py migrate`, or start the service once."
            ) from None
        raise
    except OperationalError as error:
        if isinstance(error.__cause__, PoolTimeout):
            raise CommandError(
                "The database does not answer: is PostgreSQL running, and DATABASE_URL"
                " right?"
            ) from None
        if isinstance(error.__cause__, _LOST) or not _sqlstate(error):
            raise CommandError(
                "The connection to the database was lost. What was committed stays;"
                " the command can be run again."
            ) from None
        raise
    finally:
        pool.setLevel(level)


def _sqlstate(error: OperationalError) -> str | None:
    """Return PostgreSQL's number of an error; None: the connection itself has failed."""
    return getattr(error.__cause__, "sqlstate", None)


class TablesCommand(BaseCommand):
    """A command that works on our tables, and ends in one line whatever happens."""

    # Operators wait for these, and `manage.py check` is part of the tests.
    requires_system_checks: list[str] = []

    def execute(self, *args: Any, **options: Any) -> str | None:
        """Run the command.

        Raises:
            CommandError: the database is empty or away, or somebody has interrupted it.
        """
        try:
            with database_errors():
                return super().execute(*args, **options)
        except KeyboardInterrupt:
            raise CommandError("Interrupted.", returncode=INTERRUPTED) from None

    def add_json(self, parser: ArgumentParser) -> None:
        """Declare the option for programs."""
        parser.add_argument(
            "--json", action="store_true", dest="as_json", help="answer for programs"
        )

    def answer(self, answer: object, words: str, *, as_json: bool) -> None:
        """Say what became of it, to a program or to a person."""
        if as_json:
            words = json.dumps(answer, ensure_ascii=False, indent=2)
        self.stdout.write(words)

    def warn_without_gateway(self) -> None:
        """Say, if so, that nobody is there to do it now."""
        if not gateways.shares():
            self.stderr.write(NO_GATEWAY, self.style.WARNING)


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
