"""Each change of status is told outside: once, in order, and flapping as one event."""

import logging
import threading
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import pytest
from django.db import connection, connections
from django.dispatch import Signal

from tests import factories
from tests.gateway_fixtures import World, clean_database, simulator, world
from whatsapp import signals
from whatsapp.gateway import teller
from whatsapp.models import Flapping, Salon, StatusChange, WhatsAppSession
from whatsapp.services import outbox
from whatsapp.services.outbox import FLAPPING_CHANGES, FLAPPING_SECONDS, Word

__all__ = ["clean_database", "simulator", "world"]

pytestmark = pytest.mark.django_db(transaction=True)


def go(salon: Salon, *statuses: str, ago: float = 0, reason: str = "428") -> None:
    """Bring a salon into one status after the other, some seconds ago."""
    for status in statuses:
        WhatsAppSession.objects.filter(salon=salon).update(status=status, reason=reason)
    _age(salon, ago, len(statuses))


def _age(salon: Salon, seconds: float, last: int) -> None:
    with connection.cursor() as cursor:
        cursor.execute(
            "UPDATE whatsapp_statuschange SET at = now() - make_interval(secs => %s)"
            " WHERE id IN (SELECT id FROM whatsapp_statuschange WHERE salon_id = %s"
            " ORDER BY id DESC LIMIT %s)",
            [seconds, salon.pk, last],
        )


def rest(seconds: float) -> None:
    """Let time pass in which nothing happens."""
    with connection.cursor() as cursor:
        for table, column in (
            ("statuschange", "at"),
            ("flapping", "changed_at"),
            ("flapping", "since"),
        ):
            cursor.execute(
                f"UPDATE whatsapp_{table}"  # noqa: S608
                f" SET {column} = {column} - make_interval(secs => %s)",
                [seconds],
            )


def told() -> list[tuple[Any, ...]]:
    """Tell all that there is to tell; return it in short."""
    words: list[Word] = []
    while outbox.tell(words.append):
        pass
    outbox.settle(words.append)
    return [_short(word) for word in words]


def _short(word: Word) -> tuple[Any, ...]:
    fields = word.fields
    if word.signal is signals.session_status_changed:
        return (fields["session_id"], fields["before"], fields["after"])
    kind = word.name.removeprefix("session_")
    return (fields["session_id"], kind, fields["status"], fields["changes"])


def flap(salon: Salon, changes: int) -> None:
    for number in range(changes):
        go(salon, "open" if number % 2 == 0 else "reconnecting")


# --- each change, once, in order ------------------------------------------------------


def test_a_change_is_told_once_with_all_that_there_is_to_know():
    salon = factories.make_salon()
    WhatsAppSession.objects.filter(salon=salon).update(owner="web-1:1:ab")
    go(salon, "open", reason="")
    words: list[Word] = []
    assert outbox.tell(words.append)
    (word,) = words
    change = StatusChange.objects.get(salon=salon)
    assert word.signal is signals.session_status_changed
    assert word.fields == {
        "salon_id": salon.salon_id,
        "session_id": salon.session_id,
        "at": change.at,
        "before": "unlinked",
        "after": "open",
        "reason": "",
        "owner": "web-1:1:ab",
        "change": change.pk,
    }
    assert not outbox.tell(words.append)
    assert len(words) == 1


@pytest.mark.parametrize(
    ("status", "level"),
    [
        ("open", "INFO"),
        ("reconnecting", "INFO"),
        ("stopped", "INFO"),
        ("outdated", "WARNING"),
        ("logged_out", "WARNING"),
        ("banned", "WARNING"),
        ("replaced", "ERROR"),
        ("needs_attention", "ERROR"),
    ],
)
def test_what_needs_a_person_is_louder(
    status: str, level: str, caplog: pytest.LogCaptureFixture
):
    caplog.set_level(logging.INFO, logger="whatsapp.status")
    salon = factories.make_salon()
    go(salon, status, reason="440")
    outbox.tell(teller.send)
    (record,) = caplog.records
    assert (record.name, record.levelname) == ("whatsapp.status", level)
    assert record.getMessage() == (
        f"{salon.session_id}: unlinked, now {status}; reason: 440"
    )
    assert record.__dict__["event"] == "session_status_changed"
    assert record.__dict__["salon_id"] == salon.salon_id
    assert record.__dict__["after"] == status


def test_a_batch_leaves_nothing_behind(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(outbox, "HEADS", 2)
    monkeypatch.setattr(outbox, "BATCH", 3)
    salons = [factories.make_salon() for _ in range(5)]
    for status in ("connecting", "open", "degraded"):
        for salon in salons:
            go(salon, status)
    lines = told()
    assert len(lines) == 15
    for salon in salons:
        mine = [after for name, _, after in lines if name == salon.session_id]
        assert mine == ["connecting", "open", "degraded"]


def test_many_tellers_at_once_tell_each_change_once_and_in_order(
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr(outbox, "FLAPPING_CHANGES", 1000)
    monkeypatch.setattr(outbox, "HEADS", 2)
    monkeypatch.setattr(outbox, "BATCH", 4)
    salons = [factories.make_salon() for _ in range(6)]
    for number in range(10):
        for salon in salons:
            go(salon, "open" if number % 2 else "reconnecting")
    heard: dict[int, list[int]] = defaultdict(list)
    guard = threading.Lock()

    def hear(word: Word) -> None:
        with guard:
            heard[word.fields["salon_id"]].append(word.fields["change"])

    def tell_all(_teller: int) -> None:
        try:
            while StatusChange.objects.filter(told=False).exists():
                outbox.tell(hear)
        finally:
            connections.close_all()

    with ThreadPoolExecutor(4) as tellers:
        list(tellers.map(tell_all, range(4)))
    for salon in salons:
        rows = StatusChange.objects.filter(salon=salon).order_by("id")
        assert heard[salon.salon_id] == list(rows.values_list("id", flat=True))


def test_while_one_teller_has_a_salon_another_tells_the_others():
    one, other = factories.make_salon(), factories.make_salon()
    go(one, "open", "degraded")
    lines: list[tuple[Any, ...]] = []

    def hear_slowly(_word: Word) -> None:
        _in_thread(partial(go, one, "reconnecting"))
        _in_thread(partial(go, other, "open"))
        lines.extend(_in_thread(told))

    with pytest.raises(_Died):
        outbox.tell(_then_die(hear_slowly))
    assert lines == [(other.session_id, "unlinked", "open")]
    assert [line[2] for line in told()] == ["open", "degraded", "reconnecting"]


def test_what_a_teller_told_before_it_died_is_told_again_and_nothing_is_lost():
    salon = factories.make_salon()
    go(salon, "connecting", "open")
    with pytest.raises(_Died):
        outbox.tell(_then_die(lambda _word: None))
    assert [line[2] for line in told()] == ["connecting", "open"]


class _Died(BaseException):
    pass


def _then_die(hear: Any) -> Any:
    def told_once(word: Word) -> None:
        hear(word)
        raise _Died

    return told_once


def _in_thread(work: Any) -> Any:
    def run() -> Any:
        try:
            return work()
        finally:
            connections.close_all()

    with ThreadPoolExecutor(1) as thread:
        return thread.submit(run).result()


def test_changes_from_before_the_outbox_are_not_told_and_cost_no_rewrite():
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT column_default FROM information_schema.columns"
            " WHERE table_name = 'whatsapp_statuschange' AND column_name = 'told'"
        )
        assert cursor.fetchone() == ("false",)
        cursor.execute(
            "SELECT attmissingval::text FROM pg_attribute WHERE attname = 'told'"
            " AND attrelid = 'whatsapp_statuschange'::regclass"
        )
        assert cursor.fetchone() == ("{t}",), "what rows from before have"


# --- flapping -------------------------------------------------------------------------


def test_flapping_is_one_event_then_silence_then_one_more():
    salon, calm = factories.make_salon(), factories.make_salon()
    flap(salon, 200)
    go(calm, "open")
    lines = told()
    mine = [line for line in lines if line[0] == salon.session_id]
    assert len(mine) == FLAPPING_CHANGES + 1
    assert mine[-1] == (salon.session_id, "flapping", "open", FLAPPING_CHANGES + 1)
    assert (calm.session_id, "unlinked", "open") in lines
    flap(salon, 51)
    assert told() == []

    rest(FLAPPING_SECONDS - 1)
    assert told() == []
    rest(1)
    untold = 200 - FLAPPING_CHANGES - 1 + 51
    assert told() == [(salon.session_id, "settled", "open", untold)]
    assert told() == []
    go(salon, "reconnecting")
    assert told() == [(salon.session_id, "open", "reconnecting")]


def test_a_change_every_few_minutes_is_no_flapping():
    salon = factories.make_salon()
    for number in range(3 * FLAPPING_CHANGES):
        rest(FLAPPING_SECONDS / FLAPPING_CHANGES)
        go(salon, "open" if number % 2 else "reconnecting")
        ((_, _, after),) = told()
        assert after == ("open" if number % 2 else "reconnecting")


def test_another_teller_knows_that_a_salon_flaps():
    salon = factories.make_salon()
    flap(salon, FLAPPING_CHANGES + 1)
    assert _in_thread(told)[-1][1] == "flapping"
    flap(salon, 1)
    go(salon, "degraded")
    assert _in_thread(told) == []
    rest(FLAPPING_SECONDS)
    assert _in_thread(told) == [(salon.session_id, "settled", "degraded", 1)]


@pytest.mark.parametrize("status", ["logged_out", "banned", "needs_attention"])
def test_what_needs_a_person_is_told_of_a_salon_that_flaps(status: str):
    salon = factories.make_salon()
    flap(salon, 20)
    told()
    go(salon, status)
    untold = 20 - FLAPPING_CHANGES - 1 + 1
    assert told() == [
        (salon.session_id, "reconnecting", status),
        (salon.session_id, "settled", status, untold),
    ]
    assert not Flapping.objects.exists()
    go(salon, "connecting", "open")  # a new story, although within the same minutes
    assert [line[2] for line in told()] == ["connecting", "open"]


def test_people_who_try_to_link_do_not_flap():
    salon = factories.make_salon()
    for _ in range(FLAPPING_CHANGES):
        go(salon, "pairing", "unlinked")
    lines = told()
    assert len(lines) == 2 * FLAPPING_CHANGES
    assert {line[1] for line in lines} == {"pairing", "unlinked"}


def test_a_salon_with_untold_changes_has_not_settled():
    salon = factories.make_salon()
    flap(salon, FLAPPING_CHANGES + 1)
    told()
    rest(FLAPPING_SECONDS)
    go(salon, "degraded")
    words: list[Word] = []
    outbox.settle(words.append)
    assert words == []


def test_a_deleted_salon_takes_its_flapping_with_it():
    salon = factories.make_salon()
    flap(salon, 20)
    told()
    salon.delete()
    assert told() == []
    assert not Flapping.objects.exists()


# --- receivers ------------------------------------------------------------------------


@pytest.fixture
def connected() -> Iterator[Any]:
    """Connect receivers to a signal for one test."""
    pairs: list[tuple[Signal, Any]] = []

    def connect(receiver: Any, signal: Signal = signals.session_status_changed) -> None:
        signal.connect(receiver, weak=False)
        pairs.append((signal, receiver))

    yield connect
    for signal, receiver in pairs:
        signal.disconnect(receiver)


def test_a_receiver_that_fails_harms_nobody(
    connected: Any, caplog: pytest.LogCaptureFixture
):
    heard: list[str] = []

    def breaks_its_connection(**_fields: Any) -> None:
        with connection.cursor() as cursor:
            cursor.execute("SELECT nonsense")

    def sees_the_row(**fields: Any) -> None:
        heard.append(StatusChange.objects.get(pk=fields["change"]).status)

    connected(breaks_its_connection)
    connected(sees_the_row)
    salon = factories.make_salon()
    go(salon, "connecting", "open")
    assert outbox.tell(teller.send)
    assert heard == ["connecting", "open"]
    assert not StatusChange.objects.filter(told=False).exists()
    errors = [
        one for one in caplog.records if "breaks_its_connection" in one.msg % one.args
    ]
    assert len(errors) == 2
    assert all(error.exc_info for error in errors)


def test_a_receiver_that_hangs_is_not_waited_for(
    connected: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    monkeypatch.setattr(teller, "RECEIVERS_SECONDS", 0.05)
    go_on, done = threading.Event(), threading.Event()

    def hangs(**_fields: Any) -> None:
        go_on.wait()
        done.set()

    connected(hangs)
    go(factories.make_salon(), "open")
    assert outbox.tell(teller.send)
    assert not StatusChange.objects.filter(told=False).exists()
    assert "hangs" in caplog.text
    go_on.set()
    assert done.wait(60)


class TestGateways:
    pytestmark = [pytest.mark.e2e, pytest.mark.timeout(240)]

    async def test_two_gateways_tell_the_life_of_a_session_once(
        self, world: World, connected: Any
    ) -> None:
        heard: list[tuple[str, str, str]] = []

        def hear(**fields: Any) -> None:
            heard.append((fields["before"], fields["after"], fields["reason"]))

        connected(hear)
        await world.gateway()
        await world.gateway()
        salon = await world.salon()
        await salon.link()
        await world.on_connections("stream_error", 403, phone=salon.phone.number)
        await salon.status("banned")

        async def last_is_told() -> bool:
            return bool(heard) and heard[-1][1] == "banned"

        await world.until(last_is_told, "it is told soon, without a regular look")
        rows = await world.sql(
            "SELECT before, status, reason FROM whatsapp_statuschange ORDER BY id"
        )
        assert heard == rows
