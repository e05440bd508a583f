"""How long `whatsapp_takeover` takes, and how much memory: 300 salons, 200,000 keys.

On an embedded PostgreSQL of its own with fsync on, filled with salons of every kind
(tests/previous_service.py); the command runs as an operator runs it.

    .venv/bin/python -m benchmarks.takeover [--salons 300] [--keys 200000]
"""

import argparse
import resource
import time

from benchmarks.tables import manage, own_tables


def fill(salons: int, keys: int) -> tuple[int, int]:
    """Fill the tables; return the number of links, and of keys."""
    from tests import previous_service

    left = previous_service.leave(salons, keys)
    return len(left.linked), left.keys


def run(*words: str) -> tuple[float, str]:
    """Run the command; return its seconds, and the last line of what it says."""
    started = time.perf_counter()
    said = manage("whatsapp_takeover", *words)
    return time.perf_counter() - started, said.splitlines()[-1]


def main() -> None:
    """Fill a database, take it over, and print what that took."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--salons", type=int, default=300)
    parser.add_argument("--keys", type=int, default=200_000)
    options = parser.parse_args()
    with own_tables():
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


if __name__ == "__main__":
    main()
