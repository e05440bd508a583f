"""How long `whatsapp_takeover` takes, and how much memory: 300 salons, 200,000 keys.

On an embedded PostgreSQL of its own with fsync on, filled with salons of every kind
(tests/previous_service.py); the command runs as an operator runs it.

    .venv/bin/python -m benchmarks.takeover [--salons 300] [--keys 200000]
"""

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from aiadmin.embedded import EmbeddedDatabase
from tests.database import SECRETS

MANAGE = Path(__file__).parent.parent / "manage.py"


def fill(salons: int, keys: int) -> tuple[int, int]:
    """Make the tables and fill them; return the number of links, and of keys."""
    import django

    django.setup()
    from django.core.management import call_command

    from tests import previous_service

    call_command("migrate", verbosity=0, interactive=False)
    left = previous_service.leave(salons, keys)
    return len(left.linked), left.keys


def run(*words: str) -> tuple[float, str]:
    """Run the command; return its seconds, and the last line of what it says."""
    started = time.perf_counter()
    done = subprocess.run(
        [sys.executable, str(MANAGE), "whatsapp_takeover", *words],
        check=True,
        capture_output=True,
        text=True,
    )
    return time.perf_counter() - started, done.stdout.splitlines()[-1]


def main() -> None:
    """Fill a database, take it over, and print what that took."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--salons", type=int, default=300)
    parser.add_argument("--keys", type=int, default=200_000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        database = EmbeddedDatabase(Path(folder))
        os.environ |= {
            **SECRETS,
            "ENV_FILE": os.devnull,
            "DATABASE_URL": database.connect().url,
            "DJANGO_SETTINGS_MODULE": "aiadmin.settings",
            "WHATSAPP_WS_URL": "ws://127.0.0.1:9",
        }
        links, keys = fill(options.salons, options.keys)
        print(f"{options.salons} salons, {links} of them linked, {keys} keys")
        for name, words in (
            ("dry run", ["--dry-run"]),
            ("takeover", []),
            ("again", []),
        ):
            seconds, said = run(*words)
            print(f"{name:10}{seconds:8.1f} s   {said}")
        peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
        print(f"{'memory':10}{peak:8.0f} MB at most, of the command's process")
        database.stop()


if __name__ == "__main__":
    main()
