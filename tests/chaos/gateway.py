"""A gateway that keeps a record of what it was asked to store: ``python -m tests.chaos.gateway``.

Otherwise it is ``manage.py whatsapp_gateway``: nothing of it is replaced, its store is
only watched from outside.
"""

import itertools
import json
import os
from typing import Any

import django
from django.core.management import execute_from_command_line

from tests.chaos import writes

RECORD = "CHAOS_RECORD"
"""Names the file, in the environment."""


class Record:
    """The file; a line is in it for good as soon as it is written."""

    def __init__(self, path: str) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        self._numbers = itertools.count(1)

    def asked(
        self, session: str, epoch: int, creds: str | None, keys: str | None
    ) -> int:
        """Note a batch before it goes to the database; return its number."""
        number = next(self._numbers)
        rows = writes.rows_of(session, creds, keys)
        self._write(
            number=number,
            session=session,
            epoch=epoch,
            rows=[(kind, id_, value) for (_, kind, id_), value in rows],
        )
        return number

    def ended(self, number: int, outcome: str) -> None:
        """Note what became of it, before anybody else hears of it."""
        self._write(number=number, outcome=outcome)

    def _write(self, **entry: Any) -> None:
        os.write(self._file, json.dumps(entry).encode() + b"\n")


def watch(store: Any, record: Record) -> None:
    """Let a class of stores tell the record what it is asked for."""
    save = store.save

    async def watched(
        self: Any, ref: Any, creds: str | None, keys: str | None, *rest: Any
    ) -> None:
        number = record.asked(ref.session_id, ref.epoch, creds, keys)
        try:
            await save(self, ref, creds, keys, *rest)
        except BaseException as error:
            record.ended(number, type(error).__name__)
            raise
        record.ended(number, "acknowledged")

    store.save = watched


def main() -> None:
    """Run the gateway."""
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "aiadmin.settings")
    django.setup()
    from whatsapp.gateway.auth_store import DatabaseAuthStore

    watch(DatabaseAuthStore, Record(os.environ[RECORD]))
    execute_from_command_line(["manage.py", "whatsapp_gateway"])


if __name__ == "__main__":
    main()
