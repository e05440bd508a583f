"""Where one fault after the other is let loose, watched and judged."""

import asyncio
import json
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from tests.chaos import checks
from tests.chaos.checks import Socket
from tests.chaos.cluster import Cluster, Gateway
from tests.chaos.history import History
from tests.chaos.observer import Observer, View
from tests.chaos.salons import LinkedSalon

PATIENCE_SECONDS = 60.0
"""So much longer than allowed is waited, to tell how long it takes in the end."""
SETTLE_SECONDS = 120.0
CALM_SECONDS = 3.0
PROBE_SECONDS = 3.0


@dataclass(frozen=True)
class Fault:
    """What is broken, and what it may cost."""

    name: str
    what: str
    play: Callable[["Arena"], Awaitable[None]]
    off: float | None = None
    """The longest that any salon may be without a socket, in seconds."""
    take_over: bool = False
    """An owner may be cut off from WhatsApp without an end of its sockets, so that the
    next login ends them."""
    keeps_sockets: bool = False
    """No socket may end at all."""
    truth: float = 5.0
    """For so long a salon may read ``open`` without a socket."""
    tracebacks: tuple[str, ...] = ()
    """What may be raised and logged with a traceback."""


@dataclass
class Outcome:
    """What a fault did."""

    fault: str
    hit: int = 0
    seconds: float = 0.0
    longest_off: float = 0.0
    writes: int = 0
    replaced: int = 0
    violations: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


class Unrecovered(Exception):
    """The service did not come back: nothing more can be judged."""


class Arena:
    """The service under fire.

    Args:
        slack: factor for every bound, for machines that are slower than ours.
    """

    def __init__(
        self,
        cluster: Cluster,
        salons: Sequence[LinkedSalon],
        observer: Observer,
        history: History,
        *,
        gateways: int,
        first_commit: int,
        slack: float = 1.0,
    ) -> None:
        self.cluster = cluster
        self.salons = salons
        self.observer = observer
        self.gateways = gateways
        self.slack = slack
        self.outcome = Outcome("")
        self._by_session = {one.session_id: one for one in salons}
        self._jids = [one.jid for one in salons]
        self._history = history
        self._first_commit = first_commit
        self._sockets: list[dict[str, Any]] = []
        self._next_socket = 1
        self._told: set[str] = set()
        self._writes = 0
        self._log_ends: dict[str, int] = {}
        self._began = 0.0
        self._is_calm = False

    # --- what a fault may do ----------------------------------------------------------

    def note(self, text: str) -> None:
        """Put something into the report that is no violation."""
        self.outcome.notes.append(text)

    def violate(self, text: str) -> None:
        """Put a violation into the report."""
        self.outcome.violations.append(text)

    async def busiest(self) -> Gateway:
        """Return the gateway that runs the most salons."""
        return max(self.cluster.members, key=(await self.shares()).__getitem__)

    async def shares(self) -> Counter[Gateway]:
        """Return how many salons each gateway runs."""
        shares: Counter[Gateway] = Counter(dict.fromkeys(self.cluster.members, 0))
        view = await self.observer.next()
        for state in (view.states or {}).values():
            owner = self.cluster.owner_of(state.owner)
            if owner is not None:
                shares[owner] += 1
        return shares

    async def until(self, seconds: float) -> None:
        """Wait until so much of the fault is over."""
        await asyncio.sleep(self._began + seconds - time.monotonic())

    async def recovered(self, within: float, what: str = "recovery") -> None:
        """Wait until every salon is open, has one socket, and stores what it hears.

        The seconds are counted from this call.
        """
        allowed = within * self.slack
        began = time.monotonic()
        deadline = began + allowed + PATIENCE_SECONDS
        last = await asyncio.to_thread(self._last_commit_of_each)
        missing = set(self._by_session)
        asked: dict[str, float] = {}
        while missing:
            view = await self.observer.next()
            if time.monotonic() > deadline:
                raise Unrecovered(f"{what}: {self._diagnosis(view, missing)}")
            if self.ailing(view):
                continue
            now = time.monotonic()
            for session in [one for one in missing if asked.get(one, 0) < now]:
                if await self._by_session[session].hear_from():
                    asked[session] = now + PROBE_SECONDS
            fresh = await asyncio.to_thread(self._last_commit_of_each)
            missing -= {
                one
                for one in missing & asked.keys()
                if fresh.get(one, 0) > last.get(one, 0)
            }
        seconds = time.monotonic() - began
        self.outcome.seconds = max(self.outcome.seconds, seconds)
        if seconds > allowed:
            self.violate(f"{what} took {seconds:.1f} s, allowed are {allowed:g}")

    def ailing(self, view: View) -> list[str]:
        """Return the devices that are not well."""
        if view.states is None:
            return self._jids
        return [
            jid
            for jid in self._jids
            if view.live.get(jid) != 1
            or (state := view.states.get(jid)) is None
            or state.status != "open"
            or not state.held
            or self.cluster.owner_of(state.owner) is None
        ]

    def _diagnosis(self, view: View, silent: set[str]) -> str:
        ailing = self.ailing(view)
        states = view.states or {}
        told = [
            f"{jid} {states.get(jid)} with {view.live.get(jid, 0)} sockets"
            for jid in ailing[:3]
        ]
        return (
            f"{len(ailing)} of {len(self._jids)} salons are not well"
            f" ({'; '.join(told) or 'all are open'}), {len(silent)} store nothing"
        )

    def _last_commit_of_each(self) -> dict[str, int]:
        rows = self.cluster.query(
            "SELECT session_id, max(number) FROM chaos_history GROUP BY session_id"
        )
        return dict(rows)

    # --- one fault --------------------------------------------------------------------

    async def run(self, fault: Fault) -> Outcome:
        """Let a fault loose on a service that is well; return what came of it."""
        self.outcome = Outcome(fault.name)
        if len(self.cluster.members) != self.gateways or not self._is_calm:
            while len(self.cluster.members) > self.gateways:
                await self.cluster.stop_gateway(self.cluster.members[-1])
            await self.settle()
        await self._read_sockets()
        await asyncio.to_thread(self.cluster.simulator.reset_journal)
        since, first_view = self._next_socket, len(self.observer.views)
        self._remember_logs()
        self._began = time.monotonic()
        try:
            await fault.play(self)
            await self._read_sockets()
            self._judge_absences(fault, since)
            await self.settle()
        except Unrecovered as error:
            self.violate(str(error))
        await self._read_sockets()
        await self._judge(fault, since, first_view)
        return self.outcome

    async def settle(self) -> None:
        """Start what is missing, and wait until all is well and nothing moves."""
        self._is_calm = False
        while len(self.cluster.members) < self.gateways:
            await self.cluster.add_gateway()
        deadline = time.monotonic() + SETTLE_SECONDS * self.slack
        calm_since = time.monotonic()
        before = self._next_socket
        while time.monotonic() - calm_since < CALM_SECONDS:
            view = await self.observer.next()
            await self._read_sockets()
            if self.ailing(view) or self._next_socket != before:
                before, calm_since = self._next_socket, time.monotonic()
            if time.monotonic() > deadline:
                raise Unrecovered(f"it does not settle: {self._diagnosis(view, set())}")
        self._is_calm = True

    async def _read_sockets(self) -> None:
        answer = await asyncio.to_thread(
            self.cluster.simulator.sockets, self._next_socket
        )
        self._sockets += answer["sockets"]
        self._next_socket = answer["next"]

    def _known_sockets(self) -> list[Socket]:
        return checks.sockets_of(self._sockets)

    def _judge_absences(self, fault: Fault, since: int) -> None:
        """Measure before the lost gateway is replaced: that is another story."""
        absences = checks.absences(
            self._known_sockets(), self._jids, since=since, now=time.time() * 1000
        )
        self.outcome.hit = sum(seconds > 0 for seconds in absences.values())
        self.outcome.longest_off = max(absences.values())
        if fault.off is not None:
            allowed = fault.off * self.slack
            late = sorted(one for one in absences.values() if one > allowed)
            if late:
                self.violate(
                    f"{len(late)} salons were off for longer than {allowed:g} s,"
                    f" up to {late[-1]:.1f}"
                )

    async def _judge(self, fault: Fault, since: int, first_view: int) -> None:
        sockets = self._known_sockets()
        found = checks.two_sockets(
            sockets, since=since, now=time.time() * 1000, take_over=fault.take_over
        )
        self.outcome.replaced = sum(
            one.cause == "replaced" and (one.ended or 0) >= since for one in sockets
        )
        if fault.keeps_sockets:
            found += checks.broken_sockets(sockets, since)
        found += checks.unknown_logins(
            await asyncio.to_thread(self.cluster.simulator.journal)
        )
        found += await asyncio.to_thread(self._judge_writes)
        samples = [view.sample for view in self.observer.views[first_view:]]
        found += checks.untrue(samples, fault.truth * self.slack)
        found += self._judge_logs(fault)
        self.outcome.violations += [one for one in found if one not in self._told]
        self._told.update(found)
        if self.outcome.violations:
            self._keep_evidence(fault, since, first_view)

    def _keep_evidence(self, fault: Fault, since: int, first_view: int) -> None:
        """Write down what the logs do not tell: WhatsApp's side, and every look."""
        views = [asdict(view) for view in self.observer.views[first_view:]]
        evidence = {
            "began": self._began,
            "sockets": [one for one in self._sockets if one["number"] >= since],
            "views": views,
        }
        path = self.cluster.folder / f"{fault.name}.json"
        path.write_text(json.dumps(evidence, default=sorted, indent=1))

    def _judge_writes(self) -> list[str]:
        records = [one.record for one in (*self.cluster.members, *self.cluster.ended)]
        for record in records:
            record.read()
            record.freeze()
        with self.cluster.database() as connection:
            stored = self._history.read(connection)
        for record in records:
            record.read()
        batches = [batch for record in records for batch in record.asked()]
        checked = sum(len(batch.rows) for batch in batches if batch.acknowledged)
        self.outcome.writes, self._writes = checked - self._writes, checked
        return checks.lost_writes(
            batches, self._history.commits, stored, since=self._first_commit
        )

    # --- logs -------------------------------------------------------------------------

    def _remember_logs(self) -> None:
        for path in self.cluster.log_files:
            self._log_ends.setdefault(path.name, 0)

    def _judge_logs(self, fault: Fault) -> list[str]:
        numbers = {number for one in self.salons for number in one.numbers}
        found = []
        for path in self.cluster.log_files:
            with path.open("rb") as file:
                file.seek(self._log_ends.get(path.name, 0))
                text = file.read()
            self._log_ends[path.name] = self._log_ends.get(path.name, 0) + len(text)
            log = text.decode(errors="replace")
            complaints = checks.unexpected_tracebacks(log, fault.tracebacks)
            complaints += checks.phones_in(log, numbers)
            found += [f"{path.name}: {one}" for one in dict.fromkeys(complaints)]
        return found
