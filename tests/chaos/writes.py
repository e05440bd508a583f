"""Writes of creds and keys: those that were asked for, and those that were committed."""

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

CREDS = "creds"
"""Stands for the type of the one row that a session has in ``whatsapp_auth``."""

Row = tuple[str, str, str]
"""Session, type of key, id of key: what is overwritten by the next write."""

Order = tuple[int, int]
"""Epoch and number of asking: an epoch has one owner, who numbers what it asks for."""


def fingerprint(value: Any) -> str | None:
    """Return the same for the same JSON value, however it is written; None for none."""
    if value is None:
        return None
    text = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:24]


@dataclass(frozen=True)
class Asked:
    """A batch that a gateway was asked to store, and what became of it."""

    session: str
    order: Order
    rows: tuple[tuple[Row, str | None], ...]
    """A row, and the fingerprint of its value; None deletes it."""
    acknowledged: bool


@dataclass(frozen=True)
class Committed:
    """A change of one row that was committed, by the order of its row."""

    number: int
    row: Row
    value: str | None
    epoch: int
    """The session's at that moment, as its row said."""


def rows_of(
    session: str, creds: str | None, keys: str | None
) -> list[tuple[Row, str | None]]:
    """Return what a call of ``AuthStore.save`` wants to have in the tables."""
    rows: list[tuple[Row, str | None]] = []
    if creds is not None:
        rows.append(((session, CREDS, ""), fingerprint(json.loads(creds))))
    for entry in json.loads(keys or "[]"):
        rows.append(((session, entry["t"], entry["i"]), fingerprint(entry["v"])))
    return rows


class Journal:
    """A gateway's own record of what it was asked to store, written by its wrapper.

    One file for each process. A line is in it as soon as it is written, whatever
    happens to the process next.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._read = 0
        self._asked: dict[int, dict[str, Any]] = {}
        self._acknowledged: set[int] = set()
        self._known: frozenset[int] = frozenset()

    def read(self) -> None:
        """Take in what has been written since the last time."""
        with self.path.open("rb") as file:
            file.seek(self._read)
            text = file.read()
        # A process that was killed in the middle of a line told nobody of it.
        whole = text[: text.rfind(b"\n") + 1]
        self._read += len(whole)
        for line in whole.splitlines():
            entry = json.loads(line)
            if "rows" in entry:
                self._asked[entry["number"]] = entry
            elif entry["outcome"] == "acknowledged":
                self._acknowledged.add(entry["number"])

    def freeze(self) -> None:
        """Count as acknowledged what is so now, however much is read after this.

        Between this and the next reading the tables can be looked at: they must hold
        what was acknowledged before, and may hold what was asked for since.
        """
        self._known = frozenset(self._acknowledged)

    def asked(self) -> Iterator[Asked]:
        """Return every batch."""
        for number, entry in self._asked.items():
            session = entry["session"]
            yield Asked(
                session,
                (entry["epoch"], number),
                tuple(
                    ((session, kind, id_), value) for kind, id_, value in entry["rows"]
                ),
                number in self._known,
            )


def in_order(commits: Iterable[Committed]) -> dict[Row, list[Committed]]:
    """Return the commits of each row, oldest first."""
    rows: dict[Row, list[Committed]] = {}
    for commit in sorted(commits, key=lambda one: one.number):
        rows.setdefault(commit.row, []).append(commit)
    return rows
