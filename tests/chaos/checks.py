"""The checkers: each judges what was seen, and says in words what should not have been.

Nothing here waits or asks; ``test_checks.py`` shows each of them a violation.
"""

import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tests.chaos.writes import Asked, Committed, Order, Row, in_order

OVERLAP_MS = 250
"""The longest that two sockets of a device may be online where a take-over is allowed."""

# --- sockets --------------------------------------------------------------------------


@dataclass
class Socket:
    """One login of a device, as WhatsApp saw it."""

    jid: str
    connection: int
    opened: int
    opened_at: float
    ended: int | None = None
    ended_at: float | None = None
    cause: str = ""


def sockets_of(entries: Iterable[Mapping[str, Any]]) -> list[Socket]:
    """Return the logins that the simulator's journal tells of, in their order."""
    sockets: dict[int, Socket] = {}
    for entry in entries:
        connection, at = entry["connection"], entry["at"]
        if entry["event"] == "opened":
            sockets[connection] = Socket(entry["jid"], connection, entry["number"], at)
        elif entry["event"] == "ended" and connection in sockets:
            socket = sockets[connection]
            socket.ended, socket.ended_at = entry["number"], at
            socket.cause = entry["cause"]
    return list(sockets.values())


def by_device(sockets: Iterable[Socket]) -> dict[str, list[Socket]]:
    """Return each device's sockets, the oldest first."""
    devices: dict[str, list[Socket]] = defaultdict(list)
    for socket in sorted(sockets, key=lambda one: one.opened):
        devices[socket.jid].append(socket)
    return devices


def two_sockets(
    sockets: Iterable[Socket], *, since: int, now: float, take_over: bool
) -> list[str]:
    """Find devices that were online twice at the same time.

    Args:
        sockets: all that are known, with those from before.
        since: number of the journal's entry from which on an overlap is judged.
        now: for a socket that has not ended, in the journal's milliseconds.
        take_over: whether an owner may have been cut off, so that the next one's login
            had to end its socket. Never longer than the instant that this takes.
    """
    found = []
    for jid, device in by_device(sockets).items():
        for index, older in enumerate(device):
            for newer in device[index + 1 :]:
                overlaps = older.ended is None or newer.opened < older.ended
                if not overlaps or newer.opened < since:
                    continue
                lasted = (older.ended_at or now) - newer.opened_at
                if not take_over or lasted > OVERLAP_MS:
                    found.append(
                        f"{jid}: two sockets for {lasted:.0f} ms ({older.cause})"
                    )
    return found


def broken_sockets(sockets: Iterable[Socket], since: int) -> list[str]:
    """Find sockets that ended although this fault is no reason to."""
    return [
        f"{one.jid}: its socket ended ({one.cause})"
        for one in sockets
        if one.ended is not None and one.ended >= since
    ]


def absences(
    sockets: Iterable[Socket], jids: Iterable[str], *, since: int, now: float
) -> dict[str, float]:
    """Return how long each device was offline at most, in seconds, 0 if it never was.

    Only what began at the entry ``since`` or after it counts.
    """
    devices = by_device(sockets)
    found = {}
    for jid in jids:
        longest = 0.0
        # Ends and openings alternate but for overlaps, in which nobody is offline.
        device = devices.get(jid, [])
        for index, socket in enumerate(device):
            if socket.ended is None or socket.ended_at is None or socket.ended < since:
                continue
            later = device[index + 1 :]
            back = min((one.opened_at for one in later), default=now)
            longest = max(longest, (back - socket.ended_at) / 1000)
        found[jid] = longest
    return found


# --- logins ---------------------------------------------------------------------------


def unknown_logins(journal: Mapping[str, Any]) -> list[str]:
    """Find logins with creds that no phone has confirmed, or that it has removed."""
    return [
        f"{journal[kind]} logins of devices that {why}"
        for kind, why in (
            ("unknownLogins", "were never linked"),
            ("removedLogins", "had been removed"),
        )
        if journal[kind]
    ]


# --- writes ---------------------------------------------------------------------------


class _Wanted:
    """All batches that were asked for, by what they wanted of a row."""

    def __init__(self, batches: Iterable[Asked]) -> None:
        self.acknowledged: dict[Row, list[tuple[Order, str | None]]] = defaultdict(list)
        self._orders: dict[tuple[Row, str | None], list[Order]] = defaultdict(list)
        self._told: set[tuple[Row, Order]] = set()
        for batch in sorted(batches, key=lambda one: one.order):
            for row, value in batch.rows:
                self._orders[row, value].append(batch.order)
                if batch.acknowledged:
                    self._told.add((row, batch.order))
                    self.acknowledged[row].append((batch.order, value))

    def orders(self, commit: Committed) -> list[Order]:
        """Return when this value of the row was asked for, under whatever epoch."""
        return self._orders.get((commit.row, commit.value), [])

    def was_told(self, row: Row, order: Order) -> bool:
        """Say whether Baileys was told that this is stored."""
        return (row, order) in self._told


def lost_writes(
    batches: Iterable[Asked],
    commits: Iterable[Committed],
    stored: Mapping[Row, str],
    *,
    since: int,
) -> list[str]:
    """Find acknowledged writes that are not in the database, or not any more.

    A value of a row may have been asked for several times. A commit is taken for the
    first of them that is not older than the row's commit before it; if there is none,
    the row went back in time.

    Args:
        batches: everything that any gateway was asked to store.
        commits: everything that was committed.
        stored: what is in the tables now.
        since: number of the first commit that must have been asked for by a gateway;
            those before are the test's own.
    """
    wanted = _Wanted(batches)
    history = in_order(commits)
    found = []
    for row in history.keys() | wanted.acknowledged.keys():
        found += _judge_row(row, history.get(row, []), wanted, stored.get(row), since)
    return found


def _judge_row(
    row: Row,
    commits: Sequence[Committed],
    wanted: _Wanted,
    stored: str | None,
    since: int,
) -> list[str]:
    name = "/".join(row)
    last, found = _follow(name, commits, wanted, since)
    final = commits[-1].value if commits else None
    if final != stored:
        found.append(f"{name}: the table does not hold what was committed last")
    for order, value in wanted.acknowledged.get(row, []):
        # A key that is not there may be deleted again, and nothing is committed.
        if order > last and not (value is None and final is None):
            found.append(f"{name}: acknowledged as {order}, and not in the database")
    return found


def _follow(
    name: str, commits: Sequence[Committed], wanted: _Wanted, since: int
) -> tuple[Order, list[str]]:
    """Go through the commits of a row; return the newest that there is, and what is wrong."""
    found = []
    last: Order = (-1, 0)
    present: list[Order] = []
    for commit in commits:
        orders = wanted.orders(commit)
        present = [order for order in orders if order[0] == commit.epoch]
        order = next((order for order in present if order >= last), None)
        if order is not None:
            last = order
        elif not present and commit.number >= since:
            found.append(_stray(name, commit, orders))
        elif present and wanted.was_told(commit.row, last):
            found.append(
                f"{name}: what was asked for as {present[-1]} overwrote the"
                f" acknowledged {last}"
            )
    # Of what was asked for twice in the same words, the later is there as well.
    return max(last, *present[-1:], (-1, 0)), found


def _stray(name: str, commit: Committed, orders: Sequence[Order]) -> str:
    if orders:
        return (
            f"{name}: committed under epoch {commit.epoch}, asked for by the owner of"
            f" epoch {orders[-1][0]}"
        )
    return f"{name}: committed under epoch {commit.epoch}, asked for by nobody"


# --- the truth about states -----------------------------------------------------------


@dataclass
class Sample:
    """What could be seen at one moment."""

    at: float
    """Seconds."""
    live: frozenset[str]
    """Devices that WhatsApp has online."""
    read_open: Mapping[str, frozenset[str]] | None
    """Devices that read ``open``, by reader; None while the database is away, when
    nobody can know better."""


def untrue(samples: Iterable[Sample], tolerance: float) -> list[str]:
    """Find devices that read ``open`` for longer than ``tolerance`` without a socket."""
    since: dict[tuple[str, str], float] = {}
    liars: dict[str, set[str]] = defaultdict(set)
    for sample in samples:
        lies = {
            (reader, jid)
            for reader, jids in (sample.read_open or {}).items()
            for jid in jids - sample.live
        }
        since = {lie: since.get(lie, sample.at) for lie in lies}
        for reader, jid in lies:
            if sample.at - since[reader, jid] > tolerance:
                liars[reader].add(jid)
    return [
        f"{reader} reads open for {len(jids)} salons {tolerance:g} s after their sockets"
        f" ended, {min(jids)} among them"
        for reader, jids in sorted(liars.items())
    ]


# --- logs -----------------------------------------------------------------------------

# What a group of exceptions prints has a margin.
_MARGIN = re.compile(r"^\s*[|+] ")
_TRACEBACK = re.compile(r"(Exception Group )?Traceback \(most recent call last\):")
_CHAINED = re.compile(
    r"(The above exception was the direct cause|During handling of the above)"
)
_RAISED = re.compile(r"[A-Za-z_][\w.]*(: .*)?$")
_PART_OF_GROUP = re.compile(r"^\s*\+[-+]+ \d+ -+$")
_GROUP = re.compile(r"(Base)?ExceptionGroup: ")


def tracebacks(log: str) -> list[str]:
    """Return what each traceback in a log ends with.

    Of a chain that is its last link, of a group all that is in it.
    """
    found: list[str] = []
    inside = chained = False
    for line in log.splitlines():
        text = _MARGIN.sub("", line)
        if _TRACEBACK.match(text):
            if chained and found:
                found.pop()
            inside, chained = True, False
        elif _CHAINED.match(text):
            chained = True
        elif _PART_OF_GROUP.match(line):
            inside = True
        elif inside and _RAISED.match(text):
            # What was raised stands at the margin, code and places do not.
            inside = False
            if not _GROUP.match(text):
                found.append(text)
    return found


def unexpected_tracebacks(log: str, expected: Collection[str]) -> list[str]:
    """Find tracebacks that end with none of the ``expected`` patterns."""
    return [
        f"a traceback: {raised}"
        for raised in tracebacks(log)
        if not any(re.search(pattern, raised) for pattern in expected)
    ]


def phones_in(log: str, numbers: Collection[str]) -> list[str]:
    """Find phones that a log holds in full."""
    return sorted(
        f"a phone in full: ***{digits[-4:]}"
        for digits in set(re.findall(r"\d{10,15}", log))
        if digits in numbers
    )
