"""Memory and CPU of processes, as the kernel counts them."""

import contextlib
import os
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from tests.server import descendants

TICKS = os.sysconf("SC_CLK_TCK")
GONE = (FileNotFoundError, ProcessLookupError)
"""A process may end while it is looked at."""


def tree(pid: int) -> list[int]:
    """Return a process and all that it has started."""
    return [pid, *descendants(pid)]


def runs(pid: int, program: str) -> bool:
    """Say whether a process runs this program, by the file's name."""
    with contextlib.suppress(*GONE):
        words = Path(f"/proc/{pid}/cmdline").read_bytes().decode().split("\0")
        # PostgreSQL's processes have titles: "postgres: checkpointer".
        return Path(words[0]).name.split(":")[0] == program
    return False


def memory(pids: Iterable[int]) -> float:
    """Return their memory in MB: PSS, so that what they share is counted once."""
    return sum(_pss_kb(pid) for pid in pids) / 1024


def _pss_kb(pid: int) -> int:
    with contextlib.suppress(*GONE):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1])
    return 0


def cpu_seconds(pids: Iterable[int]) -> float:
    """Return the CPU time of theirs and of children that they have waited for."""
    return sum(_ticks(pid) for pid in pids) / TICKS


def _ticks(pid: int) -> int:
    with contextlib.suppress(*GONE):
        # The name, in brackets, may have spaces in it.
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
        return sum(map(int, fields[11:15]))
    return 0


def handles(pids: Iterable[int]) -> int:
    """Return how many files and sockets they have open."""
    count = 0
    for pid in pids:
        with contextlib.suppress(*GONE):
            count += len(os.listdir(f"/proc/{pid}/fd"))  # noqa: PTH208  (count only)
    return count


@dataclass
class CpuMeter:
    """How much of a core a process and its children take."""

    pid: int
    began: float
    spent: float

    @classmethod
    def start(cls, pid: int) -> Self:
        """Begin to count."""
        return cls(pid, time.monotonic(), cpu_seconds(tree(pid)))

    def percent_of_a_core(self) -> float:
        """Return what it was since the start."""
        spent = cpu_seconds(tree(self.pid)) - self.spent
        return 100 * spent / (time.monotonic() - self.began)
