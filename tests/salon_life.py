"""The life of three salons and two gateways, with all that must be true of it.

What can happen to them is said by tests/salon_rules.py.
"""

import logging
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from django.db import OperationalError
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from tests import factories
from tests.fake_engine import FakeEngine, Socket
from tests.inline_gateways import Cluster, Gateway
from tests.ledger import Ledger
from tests.virtual_clock import Clock, database_clock
from whatsapp.engine import CodeEntered, DisconnectReason
from whatsapp.errors import WhatsAppError
from whatsapp.gateway import ownership
from whatsapp.models import Salon, WhatsAppSession
from whatsapp.services import claims

LOOK_SECONDS = 10.0
SHARED = "79003334455"
PHONES = [factories.PHONE, factories.OTHER_PHONE, SHARED]


class Surprises(logging.Handler):
    """Keeps what was logged with a traceback: nothing here should be."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        if record.exc_info:
            self.texts.append(f"{record.getMessage()}: {record.exc_info[1]!r}")


class SalonLife(RuleBasedStateMachine):
    """Three salons and two gateways, before anything has happened to them."""

    clock: Clock
    surprises: Surprises

    # The start ------------------------------------------------------------------------

    @initialize(
        before=st.lists(
            st.sampled_from(["linked", "linked", "nothing", "half-paired"]),
            min_size=3,
            max_size=3,
        ),
        gateways=st.integers(1, 2),
        steps=st.integers(0, 2),
    )
    def begin(self, before: list[str], gateways: int, steps: int) -> None:
        self.clock.now = 1000.0  # loops count from the start of the machine
        self.monkeypatch = pytest.MonkeyPatch()
        self.cluster = Cluster(self.clock, self.monkeypatch)
        self.cluster.observer.execute(
            "TRUNCATE whatsapp_salon, whatsapp_auth, whatsapp_keys, whatsapp_gateway,"
            " whatsapp_webversion"
            " RESTART IDENTITY CASCADE"
        )
        self.surprises.texts.clear()
        self.salons = [
            self.cluster.call(
                factories.make_salon, number, shared_phone_allowed=number == 3
            )
            for number in (1, 2, 3)
        ]
        self.ledger = Ledger(self.cluster, self.salons)
        for salon, phone, state in zip(self.salons, PHONES, before, strict=True):
            self._leave(salon, phone, state)
        for _number in range(gateways):
            self.cluster.start_gateway()
        self.settle(None)
        self.all_goes_well_for_a_while(steps, users=False)

    def _leave(self, salon: Salon, phone: str, state: str) -> None:
        """Leave in the tables what an earlier time has left there."""
        if state == "nothing":
            return
        link = self.cluster.whatsapp.link(phone, salon.session_id)
        creds = f'{{"me": {{"id": "{phone}@s.whatsapp.net"}}, "link": {link.number}}}'
        if state == "linked":
            creds = link.creds()
        else:
            self.ledger.half_paired.add(salon.pk)
        self.cluster.observer.execute(
            "INSERT INTO whatsapp_auth (company_id, creds) VALUES (%s, %s::jsonb)",
            [salon.session_id, creds],
        )
        self.cluster.observer.execute(
            "INSERT INTO whatsapp_keys (company_id, key_type, key_id, value)"
            " SELECT %s, t, i, v"
            " FROM jsonb_to_recordset(%s::jsonb) AS e(t text, i text, v jsonb)",
            [salon.session_id, link.keys()],
        )

    def settle(self, turns: int | None) -> None:
        self.cluster.settle(turns)
        self.at_rest = turns is None

    def ask(self, service: Callable[..., Any], *args: Any, **options: Any) -> bool:
        """Ask for something, as a page or a member of the staff does."""
        try:
            self.cluster.call(service, *args, **options)
        except (WhatsAppError, OperationalError):
            return False
        return True

    # What happens where everything works ----------------------------------------------

    @rule(steps=st.integers(1, 6), users=st.booleans())
    def all_goes_well_for_a_while(self, steps: int, users: bool) -> None:
        for _step in range(steps):
            self._everybody_proceeds(users=users)
            self.settle(None)

    def _everybody_proceeds(self, *, users: bool) -> None:
        for gateway, engine, socket in self._sockets():
            waits_for_user = (
                socket.has_qr and not socket.is_paired and not socket.waits_for_code
            )
            if users or not waits_for_user:
                gateway.soon(self._proceed, engine, socket)

    def _proceed(self, engine: FakeEngine, socket: Socket) -> None:
        """Do what comes next where everything works."""
        if socket.is_login:
            if socket.is_open:
                engine.write(socket)
            else:
                engine.log_in(socket)
        elif socket.is_paired:
            engine.close_by(socket, DisconnectReason.RESTART_REQUIRED)
        elif not socket.has_qr:
            engine.show_qr(socket, self._qr(socket))
        elif socket.waits_for_code:
            engine.answer_code(socket, "ABCD1234")
        else:
            if socket.code_phone:
                engine.say(socket, CodeEntered)
            engine.pair(socket, socket.code_phone or self._own_phone(socket))

    def _qr(self, socket: Socket) -> str:
        return f"2@{socket.ref.generation}"

    def _own_phone(self, socket: Socket) -> str:
        for salon, phone in zip(self.salons, PHONES, strict=True):
            if salon.session_id == socket.ref.session_id:
                return phone
        return PHONES[0]

    def _sockets(
        self, which: Callable[[Socket], bool] = lambda _socket: True
    ) -> list[tuple[Gateway, FakeEngine, Socket]]:
        return [
            (gateway, gateway.engine, socket)
            for gateway in self.cluster.gateways
            if gateway.engine
            for socket in gateway.engine.sockets.values()
            if socket.in_node and which(socket)
        ]

    def _on_socket(
        self,
        number: int,
        call: Callable[[FakeEngine, Socket], object],
        which: Callable[[Socket], bool] = lambda _socket: True,
    ) -> None:
        found = self._sockets(which)
        gateway, engine, socket = found[number % len(found)]
        gateway.soon(call, engine, socket)

    def _calm(self) -> None:
        """End every fault that is under way."""
        cluster = self.cluster
        cluster.skipping = cluster.refusing = cluster.losing_answers = 0
        cluster.layer.losing = 0
        cluster.layer.is_down = cluster.holds_writes = False
        for gateway in cluster.gateways:
            gateway.go_on()
        while cluster.held:
            cluster.land(cluster.held[0])
        self.settle(None)

    # What must be true ----------------------------------------------------------------

    @invariant()
    def the_tables_are_true(self) -> None:
        self.ledger.check()
        assert self.surprises.texts == []
        if self.at_rest:
            self.ledger.check_sockets()

    def teardown(self) -> None:
        if not hasattr(self, "cluster"):
            return
        try:
            self._end_well()
        finally:
            for gateway in list(self.cluster.gateways):
                self.cluster.kill(gateway)
            self.cluster.close()
            self.monkeypatch.undo()

    # The end --------------------------------------------------------------------------

    def _end_well(self) -> None:
        """Heal everything: within an hour, every salon is what it ought to be."""
        self._calm()
        self.cluster.advance(5)
        if not self.cluster.gateways:
            self.cluster.start_gateway()
        for _gateway, _engine, socket in self._sockets():
            socket.is_silent = False
        for _part in range(4):
            self._heal_for(10)
        for _part in range(12):
            self._heal_for(330)
        for _part in range(4):
            self._heal_for(11)
        self.ledger.check_looked_at(LOOK_SECONDS)
        self._check_ends()
        for gateway in self.cluster.gateways:
            gateway.stop()
        self.cluster.advance(5)
        assert self.cluster.gateways == []
        self._check_nothing_is_left()

    def _heal_for(self, seconds: float) -> None:
        for _step in range(3):
            self._everybody_proceeds(users=False)
            self.settle(None)
        self.cluster.advance(seconds, at_once=seconds > 100)
        self.ledger.check()
        self.ledger.check_sockets()
        assert self.surprises.texts == []

    def _check_ends(self) -> None:
        unfinished = (
            "SELECT count(*) FROM whatsapp_pairingattempt WHERE finished_at IS NULL"
        )
        assert self.cluster.one(unfinished) == 0
        open_sockets = {
            socket.ref.session_id
            for _gateway, _engine, socket in self._sockets()
            if socket.is_open
        }
        rows = self.cluster.all("SELECT * FROM whatsapp_whatsappsession")
        by_salon = {row.salon_id: row for row in rows}
        for salon in self.salons:
            row = by_salon[salon.pk]
            linked = salon.pk in self.ledger.stored
            assert row.status in self._ends(linked=linked, wanted=row.wanted), row
            is_open = salon.session_id in open_sockets
            assert is_open == (row.status == "open"), row
            # One that was not cleared while the database was away is no harm.
            assert row.owner or not is_open, row
            assert self._is_locked(salon) == is_open, row

    def _ends(self, *, linked: bool, wanted: bool) -> set[str]:
        status = WhatsAppSession.Status
        if not linked:
            return {status.UNLINKED, status.LOGGED_OUT}
        # A ban is the only thing that does not pass by itself.
        return {status.OPEN, status.BANNED} if wanted else {status.STOPPED}

    def _is_locked(self, salon: Salon) -> bool:
        locks = (
            "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND granted"
            " AND classid = %s AND objid = %s AND objsubid = 2 AND database ="
            " (SELECT oid FROM pg_database WHERE datname = current_database())"
        )
        return bool(self.cluster.one(locks, claims.LOCK_CLASS, salon.pk))

    def _check_nothing_is_left(self) -> None:
        assert not any(self._is_locked(salon) for salon in self.salons)


@pytest.fixture
def clock(
    transactional_db: None, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Clock]:
    """Return the clock of this test's database and of its gateways."""
    settings.WHATSAPP_LOOK_INTERVAL = LOOK_SECONDS
    settings.WHATSAPP_VERSION_URL = ""
    # A heartbeat is for networks that die without a word; here, none does. Thousands
    # of them would be all that a virtual hour is spent with.
    monkeypatch.setattr(ownership, "HEARTBEAT_SECONDS", 600.0)
    monkeypatch.setattr(ownership, "LEASE_SECONDS", 1e9)
    with database_clock() as clock:
        yield clock


@pytest.fixture
def surprises() -> Iterator[Surprises]:
    """Return what is logged with a traceback."""
    handler = Surprises()
    logger = logging.getLogger("whatsapp")
    level = logger.level
    logger.setLevel(logging.ERROR)
    logger.addHandler(handler)
    yield handler
    logger.removeHandler(handler)
    logger.setLevel(level)
