"""Everything that can happen to three salons and two gateways, as rules for Hypothesis.

In which order it happens is for tests/test_state_machine.py to say.
"""

from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule

from tests.fake_engine import FakeEngine, Link, Socket
from tests.inline_gateways import Gateway
from tests.salon_life import LOOK_SECONDS, PHONES, SalonLife
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
from whatsapp.services import attempts, pairing, proofs, sessions

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


class Salons(SalonLife):
    """Three salons, two gateways, and everything that can happen to them."""

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
