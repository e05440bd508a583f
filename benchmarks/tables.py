"""A database of its own with our tables, for what is measured without the service."""

import contextlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from aiadmin.embedded import EmbeddedDatabase
from tests.database import SECRETS
from tests.server import ROOT


@contextlib.contextmanager
def own_tables() -> Iterator[None]:
    """Let Django, and the commands that are called, use an empty PostgreSQL, fsync on."""
    with tempfile.TemporaryDirectory() as folder:
        database = EmbeddedDatabase(Path(folder))
        os.environ |= {
            **SECRETS,
            "ENV_FILE": os.devnull,
            "DATABASE_URL": database.connect().url,
            "DJANGO_SETTINGS_MODULE": "aiadmin.settings",
            "WHATSAPP_WS_URL": "ws://127.0.0.1:9",
        }
        try:
            import django

            django.setup()
            from django.core.management import call_command

            call_command("migrate", verbosity=0, interactive=False)
            yield
        finally:
            database.stop()


def manage(*words: str) -> str:
    """Run a command as an operator does; return what it says."""
    done = subprocess.run(
        [sys.executable, str(ROOT / "manage.py"), *words],
        check=True,
        capture_output=True,
        text=True,
    )
    return done.stdout
