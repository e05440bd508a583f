"""Any order of requests, events, time-outs and crashes keeps the promises of the design.

Two gateways run with their real managers, runners, locks and services on a real
PostgreSQL; time, the engine and the faults are the test's (tests/inline_gateways.py).
After every step the tables are compared with what must be true (tests/ledger.py), and
in the end, when nothing fails any more, every salon comes to the state that it ought to
be in.

``HYPOTHESIS_PROFILE=long`` looks for hours where the ordinary run looks for seconds, and
somewhere else each time.
"""

import logging
import os
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from django.db import OperationalError
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from tests import factories
from tests.fake_engine import FakeEngine, Link, Socket
from tests.inline_gateways import Cluster, Gateway
from tests.ledger import Ledger
from tests.virtual_clock import Clock, database_clock
from whatsapp.engine import (
    Closed,
    CodeEntered,
    CodeExpired,
    CodeRefused,
    CodeRejected,
    DisconnectReason,
    Opened,
    Paired,
    PasskeyRequired,
    Qr,
    SessionRef,
)
from whatsapp.errors import WhatsAppError
from whatsapp.gateway import ownership
from whatsapp.models import Salon, WhatsAppSession
from whatsapp.services import attempts, claims, pairing, proofs, sessions

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.timeout(0)]

COMMON = settings(
    deadline=None,  # what measures nothing must not fail on a slow machine
    database=None,  # the failing steps are printed; the long run prints a blob as well
    report_multiple_bugs=False,
    # A life of two gateways is no small example, and is not meant to be.
    suppress_health_check=[
        HealthCheck.too_slow,
        HealthCheck.data_too_large,
        HealthCheck.filter_too_much,
    ],
)
PROFILES = {
    "ordinary": settings(
        COMMON, max_examples=20, stateful_step_count=30, derandomize=True
    ),
    "long": settings(
        COMMON, max_examples=1000, stateful_step_count=60, print_blob=True
    ),
}

LOOK_SECONDS = 10.0
SHARED = "79003334455"
PHONES = [factories.PHONE, factories.OTHER_PHONE, SHARED]
TYPED = [*(f"+{phone}" for phone in PHONES), "", "nonsense", "8 900 123-45-67"]
REASONS = [*DisconnectReason, DisconnectReason(499), DisconnectReason(406)]
REFUSALS = list(CodeRefused.Kind)

SALONS = st.integers(0, 2)
ANY = st.integers(0, 5)
"""Of as many as there are."""
TURNS = st.sampled_from([None, None, None, None, 0, 1, 2, 3, 5, 9])
"""How far everybody gets with it before the next thing happens; None: to the end."""
SECONDS = st.sampled_from([0.3, 1.1, 5.3, 12.7, 21.3, 35.7, 61.9, 170.3, 620.1, 3700.9])

_DUMP = """
SELECT (SELECT json_agg(s ORDER BY s.salon_id)::text FROM whatsapp_whatsappsession s)
    || (SELECT coalesce(json_agg(a ORDER BY a.id)::text, '') FROM whatsapp_pairingattempt a)
    || (SELECT coalesce(json_agg(k ORDER BY k.company_id, k.key_id)::text, '')
        FROM whatsapp_keys k)
    || (SELECT coalesce(json_agg(c ORDER BY c.company_id)::text, '') FROM whatsapp_auth c)
    || (SELECT count(*)::text FROM whatsapp_archivedcredentials)
"""


def _is_login(socket: Socket) -> bool:
    return socket.is_login


def _is_linking(socket: Socket) -> bool:
    return not socket.is_login


def _waits_for_code(socket: Socket) -> bool:
    return socket.waits_for_code


class Surprises(logging.Handler):
    """Keeps what was logged with a traceback: nothing here should be."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        if record.exc_info:
            self.texts.append(f"{record.getMessage()}: {record.exc_info[1]!r}")


class Salons(RuleBasedStateMachine):
    """Three salons, two gateways, and everything that can happen to them."""

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

    # What people ask for --------------------------------------------------------------

    @rule(salon=SALONS, typed=st.sampled_from(TYPED), turns=TURNS)
    def request_code(self, salon: int, typed: str, turns: int | None) -> None:
        self.ask(pairing.request_code, self.salons[salon], typed, "page")
        self.settle(turns)

    @rule(salon=SALONS, turns=TURNS)
    def request_code_for_the_own_phone(self, salon: int, turns: int | None) -> None:
        self.ask(pairing.request_code, self.salons[salon], f"+{PHONES[salon]}", "page")
        self.settle(turns)

    @rule(salon=SALONS, fresh=st.booleans(), turns=TURNS)
    def request_qr(self, salon: int, fresh: bool, turns: int | None) -> None:
        self.ask(pairing.request_qr, self.salons[salon], "page", fresh=fresh)
        self.settle(turns)

    @rule(salon=SALONS, turns=TURNS)
    def open_a_page(self, salon: int, turns: int | None) -> None:
        self.ask(pairing.page_opened, self.salons[salon], "page")
        self.settle(turns)

    @rule(salon=SALONS, turns=TURNS)
    def connect(self, salon: int, turns: int | None) -> None:
        self.ask(sessions.connect, self.salons[salon], "user:a")
        self.settle(turns)

    @rule(salon=SALONS, turns=TURNS)
    def disconnect(self, salon: int, turns: int | None) -> None:
        self.ask(sessions.disconnect, self.salons[salon], "user:a")
        self.settle(turns)

    @rule(salon=SALONS, leave_open=st.booleans(), turns=TURNS)
    def reconnect(self, salon: int, leave_open: bool, turns: int | None) -> None:
        self.ask(
            sessions.reconnect, self.salons[salon], "user:a", leave_open=leave_open
        )
        self.settle(turns)

    @rule(salon=SALONS, turns=TURNS)
    def reset(self, salon: int, turns: int | None) -> None:
        self.ledger.check()
        stored = self.ledger.stored.get(self.salons[salon].pk)
        if self.ask(sessions.reset, self.salons[salon], "user:a") and stored:
            self.ledger.forgotten.add(stored.link)
        self.settle(turns)

    @precondition(lambda self: self.ledger.archived)
    @rule(number=ANY, turns=TURNS)
    def restore(self, number: int, turns: int | None) -> None:
        entry, salon_pk = self.ledger.archived[number % len(self.ledger.archived)]
        salon = next(salon for salon in self.salons if salon.pk == salon_pk)
        self.ask(sessions.restore, salon, "user:a", entry)
        self.settle(turns)

    # What WhatsApp and the phones do --------------------------------------------------

    @rule(
        salon=SALONS,
        by_code=st.booleans(),
        steps=st.sampled_from([8, 8, 8, 5, 4, 3, 2, 1]),
        turns=TURNS,
    )
    def a_salon_links(
        self, salon: int, by_code: bool, steps: int, turns: int | None
    ) -> None:
        """Link with nobody in the way, or get some of the way."""
        phone = f"+{PHONES[salon]}"
        if by_code:
            self.ask(pairing.request_code, self.salons[salon], phone, "page")
        else:
            self.ask(pairing.request_qr, self.salons[salon], "page", fresh=True)
        self.settle(None)
        for _step in range(steps):
            for gateway, engine, socket in self._sockets():
                if socket.ref.session_id == self.salons[salon].session_id:
                    gateway.soon(self._proceed, engine, socket)
            self.settle(None)
        self.settle(turns)

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

    @precondition(lambda self: self._sockets())
    @rule(number=ANY, turns=TURNS)
    def whatsapp_goes_on(self, number: int, turns: int | None) -> None:
        self._on_socket(number, self._proceed)
        self.settle(turns)

    @precondition(lambda self: self._sockets(_waits_for_code))
    @rule(number=ANY, kind=st.sampled_from(REFUSALS), turns=TURNS)
    def whatsapp_refuses_a_code(
        self, number: int, kind: CodeRefused.Kind, turns: int | None
    ) -> None:
        def refuse(engine: FakeEngine, socket: Socket) -> None:
            engine.answer_code(socket, CodeRefused(kind))

        self._on_socket(number, refuse, _waits_for_code)
        self.settle(turns)

    @precondition(lambda self: self._sockets(_is_linking))
    @rule(
        number=ANY,
        word=st.sampled_from(
            [
                (CodeEntered,),
                (CodeRejected,),
                (CodeExpired, "refresh_code"),
                (PasskeyRequired,),
                (Qr, "2@another", 20.0, 160.0),
            ]
        ),
        turns=TURNS,
    )
    def a_link_socket_speaks(
        self, number: int, word: tuple[Any, ...], turns: int | None
    ) -> None:
        self._on_socket(
            number, lambda engine, socket: engine.say(socket, *word), _is_linking
        )
        self.settle(turns)

    @precondition(lambda self: self._sockets(_is_linking))
    @rule(number=ANY, phone=st.sampled_from(PHONES), turns=TURNS)
    def a_phone_links(self, number: int, phone: str, turns: int | None) -> None:
        self._on_socket(
            number, lambda engine, socket: engine.pair(socket, phone), _is_linking
        )
        self.settle(turns)

    @precondition(lambda self: self._sockets())
    @rule(number=ANY, reason=st.sampled_from(REASONS), turns=TURNS)
    def a_socket_closes(
        self, number: int, reason: DisconnectReason, turns: int | None
    ) -> None:
        self._on_socket(number, lambda engine, socket: engine.close_by(socket, reason))
        self.settle(turns)

    @precondition(lambda self: self._sockets(_is_login))
    @rule(number=ANY, turns=TURNS)
    def a_phone_takes_its_device_out(self, number: int, turns: int | None) -> None:
        reason = DisconnectReason.LOGGED_OUT
        self._on_socket(
            number, lambda engine, socket: engine.close_by(socket, reason), _is_login
        )
        self.settle(turns)

    @precondition(lambda self: self._sockets(_is_login))
    @rule(number=ANY, silent=st.booleans())
    def a_socket_falls_silent(self, number: int, silent: bool) -> None:
        def fall(_engine: FakeEngine, socket: Socket) -> None:
            socket.is_silent = silent

        self._on_socket(number, fall, _is_login)
        self.settle(None)

    @precondition(lambda self: self._sockets(_is_login))
    @rule(number=ANY, late=st.booleans(), turns=TURNS)
    def keys_are_written(self, number: int, late: bool, turns: int | None) -> None:
        self.cluster.holds_writes = late
        self._on_socket(number, lambda engine, socket: engine.write(socket), _is_login)
        self.settle(turns)
        self.cluster.holds_writes = self.cluster.holds_writes and not self.at_rest

    @precondition(lambda self: self.cluster.held)
    @rule(number=ANY, turns=TURNS)
    def a_late_write_lands(self, number: int, turns: int | None) -> None:
        self.cluster.land(self.cluster.held[number % len(self.cluster.held)])
        self.settle(turns)

    @precondition(lambda self: self.cluster.held)
    @rule(number=ANY, turns=TURNS)
    def a_write_is_cut_off_but_not_undone(self, number: int, turns: int | None) -> None:
        self.cluster.holds_writes = False
        self.cluster.abandon(self.cluster.held[number % len(self.cluster.held)])
        self.settle(turns)

    @precondition(lambda self: self._ended())
    @rule(number=ANY, kind=st.integers(0, 8))
    def a_dead_socket_speaks(self, number: int, kind: int) -> None:
        self._calm()
        ended = self._ended()
        if not ended:  # the gateway that knew them has stopped meanwhile
            return
        gateway, ref = ended[-1 - number % len(ended)]
        before = self.cluster.one(_DUMP)
        gateway.soon(gateway.manager._on_event, self._word(ref, kind))
        self.settle(None)
        assert self.cluster.one(_DUMP) == before, "a late word has changed something"

    def _ended(self) -> list[tuple[Gateway, SessionRef]]:
        return [
            (gateway, ref)
            for gateway in self.cluster.gateways
            if gateway.engine
            for ref in gateway.engine.ended[-4:]
        ]

    def _word(self, ref: SessionRef, kind: int) -> Any:
        link = Link(0, PHONES[0], ref.session_id)
        reason = DisconnectReason.LOGGED_OUT
        words = [
            Qr(ref, "2@late", 20, 160),
            CodeEntered(ref),
            CodeRejected(ref),
            CodeExpired(ref, "refresh_code"),
            PasskeyRequired(ref),
            Opened(ref, link.jid, None, None),
            Paired(ref, link.creds(), link.keys(), link.jid, None),
            Closed(ref, reason, "", "stream", 401, was_open=True, linked=True),
            Closed(ref, reason, "", "failure", 401, was_open=False, linked=False),
        ]
        return words[kind]

    # What fails -----------------------------------------------------------------------

    @precondition(lambda self: self._sockets())
    @rule(number=ANY, turns=TURNS)
    def an_engine_dies(self, number: int, turns: int | None) -> None:
        self._on_socket(number, lambda engine, _socket: engine.die())
        self.settle(turns)

    @precondition(lambda self: len(self.cluster.gateways) < 2)
    @rule(turns=TURNS)
    def a_gateway_starts(self, turns: int | None) -> None:
        self.cluster.start_gateway()
        self.settle(turns)

    @precondition(lambda self: self.cluster.gateways)
    @rule(number=ANY, turns=TURNS)
    def a_gateway_is_told_to_stop(self, number: int, turns: int | None) -> None:
        gateways = self.cluster.gateways
        gateways[number % len(gateways)].stop()
        self.settle(turns)

    @precondition(lambda self: self.cluster.gateways)
    @rule(number=ANY, turns=TURNS)
    def a_gateway_is_killed(self, number: int, turns: int | None) -> None:
        gateways = self.cluster.gateways
        self.cluster.kill(gateways[number % len(gateways)])
        self.settle(turns)

    @precondition(lambda self: self.cluster.gateways)
    @rule(number=ANY, turns=TURNS)
    def a_lock_connection_is_cut(self, number: int, turns: int | None) -> None:
        gateways = self.cluster.gateways
        for one in gateways[number % len(gateways)].connections:
            one.cut()
        self.settle(turns)

    @precondition(lambda self: self.cluster.gateways)
    @rule(number=ANY)
    def a_gateway_hangs(self, number: int) -> None:
        gateways = self.cluster.gateways
        gateways[number % len(gateways)].hang()

    @precondition(lambda self: any(g.hanging_since for g in self.cluster.gateways))
    @rule(turns=TURNS)
    def gateways_go_on(self, turns: int | None) -> None:
        for gateway in self.cluster.gateways:
            gateway.go_on()
        self.settle(turns)

    @rule(after=st.integers(0, 12), count=st.sampled_from([1, 1, 2, 5, 20]))
    def the_database_is_going_to_refuse(self, after: int, count: int) -> None:
        self.cluster.skipping, self.cluster.refusing = after, count

    @rule(after=st.integers(0, 8), count=st.integers(1, 2))
    def answers_are_going_to_be_lost(self, after: int, count: int) -> None:
        self.cluster.answering, self.cluster.losing_answers = after, count

    @rule(count=st.integers(1, 3), is_down=st.booleans())
    def wakes_are_going_to_be_lost(self, count: int, is_down: bool) -> None:
        self.cluster.layer.losing = count
        self.cluster.layer.is_down = is_down

    # Time -----------------------------------------------------------------------------

    @rule(seconds=SECONDS)
    def time_goes_by(self, seconds: float) -> None:
        self.cluster.advance(seconds, at_once=seconds > 200)
        self.at_rest = True

    @rule()
    def gateways_look_undisturbed(self) -> None:
        self._calm()
        for _look in range(2):
            self.cluster.advance(LOOK_SECONDS + 1)
        self.at_rest = True
        if any(g.stopping_since is None for g in self.cluster.gateways):
            self.ledger.check_looked_at(LOOK_SECONDS)

    @rule()
    def pages_look(self) -> None:
        self.ask(attempts.expire_overdue)
        self.ask(proofs.demote_unowned)
        self.settle(None)

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


def test_any_order_of_events_keeps_every_promise(
    clock: Clock, surprises: Surprises
) -> None:
    Salons.clock, Salons.surprises = clock, surprises
    profile = PROFILES[os.environ.get("HYPOTHESIS_PROFILE", "ordinary")]
    run_state_machine_as_test(Salons, settings=profile)


# What chance comes to rarely: lives that go where it hurts, under the same checks --------


def _relink(life: Salons) -> None:
    """A phone is linked anew in place of a device that works."""
    life.a_salon_links(salon=0, by_code=False, steps=8, turns=None)
    life.the_tables_are_true()
    assert len(life.ledger.ever[life.salons[0].pk]) == 2


def _late_write_of_the_dead(life: Salons) -> None:
    """What a killed gateway has sent lands when another one runs the salon."""
    life.keys_are_written(number=0, late=True, turns=None)
    life.a_gateway_is_killed(number=0, turns=None)
    life.a_gateway_starts(turns=None)
    life.time_goes_by(seconds=35.7)
    # Logged in, and nothing written yet: the number of the batch keeps nothing out.
    life.all_goes_well_for_a_while(steps=1, users=False)
    life.the_tables_are_true()
    life.a_late_write_lands(number=0, turns=None)


def _late_write_of_the_living(life: Salons) -> None:
    """A statement that was given up lands after newer ones of the same socket."""
    life.keys_are_written(number=0, late=True, turns=None)
    life.a_write_is_cut_off_but_not_undone(number=0, turns=None)
    life.time_goes_by(seconds=5.3)
    life.keys_are_written(number=0, late=False, turns=None)
    life.the_tables_are_true()
    life.a_late_write_lands(number=0, turns=None)


def _unanswered_link(life: Salons) -> None:
    """The database has stored the new device, and its answer is lost."""
    life.reset(salon=0, turns=None)
    life.a_salon_links(salon=0, by_code=True, steps=2, turns=None)
    life.answers_are_going_to_be_lost(after=0, count=1)
    life.a_phone_links(number=0, phone=PHONES[0], turns=None)
    life.time_goes_by(seconds=1.1)
    life.all_goes_well_for_a_while(steps=3, users=True)


def _logout(life: Salons) -> None:
    """A phone takes its device out."""
    life.a_phone_takes_its_device_out(number=0, turns=None)
    life.the_tables_are_true()
    assert life.ledger.stored == {}


def _hanging_owner(life: Salons) -> None:
    """Who was cut off while it hung goes on with what another one runs by now."""
    life.a_salon_links(salon=0, by_code=True, steps=1, turns=None)
    life.keys_are_written(number=0, late=False, turns=0)
    life.a_gateway_hangs(number=0)
    life.a_gateway_starts(turns=None)
    life.time_goes_by(seconds=21.3)
    life.all_goes_well_for_a_while(steps=3, users=True)
    life.gateways_go_on(turns=None)


@pytest.mark.parametrize(
    "live",
    [
        _relink,
        _late_write_of_the_dead,
        _late_write_of_the_living,
        _unanswered_link,
        _logout,
        _hanging_owner,
    ],
)
def test_a_life_that_goes_where_it_hurts_keeps_every_promise(
    clock: Clock, surprises: Surprises, live: Callable[[Salons], None]
) -> None:
    Salons.clock, Salons.surprises = clock, surprises
    life = Salons()
    life.begin(before=["linked", "nothing", "nothing"], gateways=1, steps=0)
    try:
        life.time_goes_by(seconds=1.1)
        life.all_goes_well_for_a_while(steps=2, users=False)
        life.the_tables_are_true()
        live(life)
        life.the_tables_are_true()
    finally:
        life.teardown()
