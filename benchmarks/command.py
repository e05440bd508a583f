"""A benchmark as a command: its options, its table, its JSON."""

import argparse
import asyncio
import resource
import shutil
import signal
import sys
import tempfile
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from benchmarks.report import Report

Measure: TypeAlias = Callable[[argparse.Namespace, Path], Awaitable[Report]]
Value: TypeAlias = int | float | bool | tuple[int, ...]


@dataclass(frozen=True)
class Option:
    """Something that can be set; a size has a smaller value for ``--quick``."""

    name: str
    usual: Value
    quick: Value
    help: str


@dataclass(frozen=True)
class Benchmark:
    """What is measured, and how much of it.

    Args:
        name: of its module.
        about: the module's docstring.
        options: what can be set.
        measure: does it; gets the options and an empty folder.
    """

    name: str
    about: str
    options: Sequence[Option]
    measure: Measure

    def arguments(self, words: Sequence[str] | None = None) -> argparse.Namespace:
        """Read the command line."""
        parser = argparse.ArgumentParser(
            prog=f"python -m benchmarks.{self.name}",
            description=self.about,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        parser.add_argument("--json", type=Path, help="where to write the report")
        parser.add_argument(
            "--quick", action="store_true", help="the smallest sizes, to see it work"
        )
        for option in self.options:
            parser.add_argument(
                f"--{option.name.replace('_', '-')}",
                type=_reader(option.usual),
                help=f"{option.help} (usually {_written(option.usual)})",
            )
        given = parser.parse_args(words)
        for option in self.options:
            if getattr(given, option.name) is None:
                chosen = option.quick if given.quick else option.usual
                setattr(given, option.name, chosen)
        return given

    def parameters(self, given: argparse.Namespace) -> dict[str, Any]:
        """Return the options as the report names them."""
        return {one.name: getattr(given, one.name) for one in self.options}

    def report(self, given: argparse.Namespace, title: str, **more: Any) -> Report:
        """Return an empty report."""
        return Report(self.name, title, self.parameters(given), **more)

    def run(self, words: Sequence[str] | None = None) -> int:
        """Measure, print and write; return the exit code: 1 if a check is broken."""
        given = self.arguments(words)
        _allow_many_sockets()
        folder = Path(tempfile.mkdtemp(prefix="aiadmin-bench-"))
        try:
            report = asyncio.run(_until_told(self.measure(given, folder)))
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        say(report.table())
        if given.json:
            report.write(given.json)
        return 0 if report.is_sound else 1


def say(text: str) -> None:
    """Print at once, for who watches."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def progress(text: str) -> None:
    """Say how far it is, beside the table."""
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


async def _until_told(measuring: Awaitable[Report]) -> Report:
    # Whoever ends us wants all that was started to end.
    task = asyncio.ensure_future(measuring)
    for number in (signal.SIGTERM, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, task.cancel)
    return await task


def _allow_many_sockets() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _reader(usual: Value) -> Callable[[str], Value]:
    if isinstance(usual, tuple):
        return lambda text: tuple(int(size) for size in text.split(","))
    if isinstance(usual, bool):
        return _yes
    return type(usual)


def _yes(text: str) -> bool:
    if text not in ("yes", "no"):
        raise argparse.ArgumentTypeError("yes or no expected")
    return text == "yes"


def _written(value: Value) -> str:
    if isinstance(value, tuple):
        return ",".join(map(str, value))
    return {True: "yes", False: "no"}[value] if isinstance(value, bool) else str(value)
