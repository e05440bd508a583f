"""Each checker of the chaos suite is shown what is right, and a violation."""

import json
import traceback
from pathlib import Path
from typing import Any

import pytest

from tests.chaos import checks, writes
from tests.chaos.checks import Sample, Socket
from tests.chaos.writes import Asked, Committed, Row

ROW: Row = ("company_1", "session", "a.0")
JID = "79000000001:7@s.whatsapp.net"

# --- two sockets ----------------------------------------------------------------------


def journal(*events: tuple[str, int, float]) -> list[dict[str, Any]]:
    """Return entries of one device, from (event, connection, at)."""
    return [
        {
            "number": number,
            "event": event,
            "jid": JID,
            "connection": connection,
            "at": at,
            "cause": "client",
        }
        for number, (event, connection, at) in enumerate(events, 1)
    ]


AFTER_EACH_OTHER = journal(
    ("opened", 1, 0), ("ended", 1, 1000), ("closed", 1, 1000), ("opened", 2, 1000)
)
SHORT_OVERLAP = journal(("opened", 1, 0), ("opened", 2, 1000), ("ended", 1, 1100))
LONG_OVERLAP = journal(("opened", 1, 0), ("opened", 2, 1000), ("ended", 1, 1300))
FOR_EVER = journal(("opened", 1, 0), ("opened", 2, 1000))


@pytest.mark.parametrize(
    ("entries", "outside", "in_take_over"),
    [
        (AFTER_EACH_OTHER, 0, 0),
        (SHORT_OVERLAP, 1, 0),
        (LONG_OVERLAP, 1, 1),
        (FOR_EVER, 1, 1),
    ],
)
def test_two_sockets_of_a_device_are_found(
    entries: list[dict[str, Any]], outside: int, in_take_over: int
) -> None:
    sockets = checks.sockets_of(entries)

    def found(*, take_over: bool, since: int = 1) -> int:
        return len(
            checks.two_sockets(sockets, since=since, now=9000, take_over=take_over)
        )

    assert found(take_over=False) == outside
    assert found(take_over=True) == in_take_over
    assert found(take_over=False, since=3 if entries is FOR_EVER else 4) == 0


def test_a_socket_that_ends_without_a_reason_is_found() -> None:
    sockets = checks.sockets_of(AFTER_EACH_OTHER)
    assert len(checks.broken_sockets(sockets, since=2)) == 1
    assert checks.broken_sockets(sockets, since=3) == []


def test_the_longest_time_without_a_socket_is_measured() -> None:
    gaps = journal(
        ("opened", 1, 0),
        ("ended", 1, 1000),
        ("opened", 2, 1500),
        ("ended", 2, 2000),
        ("opened", 3, 5000),
    )
    gone = journal(("opened", 1, 0), ("ended", 1, 1000))

    def longest(entries: list[dict[str, Any]], since: int = 1) -> float:
        sockets = checks.sockets_of(entries)
        return checks.absences(sockets, [JID], since=since, now=9000)[JID]

    assert longest(gaps) == 3
    assert longest(gaps, since=5) == 0
    assert longest(gone) == 8
    assert longest(SHORT_OVERLAP) == 0
    assert longest([]) == 0


# --- logins ---------------------------------------------------------------------------


def test_a_login_of_a_device_that_was_never_linked_is_found() -> None:
    assert checks.unknown_logins({"unknownLogins": 0, "removedLogins": 0}) == []
    assert len(checks.unknown_logins({"unknownLogins": 1, "removedLogins": 0})) == 1
    assert len(checks.unknown_logins({"unknownLogins": 0, "removedLogins": 2})) == 1


# --- writes ---------------------------------------------------------------------------


def asked(
    order: tuple[int, int], value: str | None, *, acknowledged: bool = True
) -> Asked:
    return Asked(ROW[0], order, ((ROW, value),), acknowledged)


def committed(number: int, value: str | None, epoch: int = 1) -> Committed:
    return Committed(number, ROW, value, epoch)


def judge(
    batches: list[Asked], commits: list[Committed], stored: str | None
) -> list[str]:
    tables = {} if stored is None else {ROW: stored}
    return checks.lost_writes(batches, commits, tables, since=1)


def test_writes_that_are_all_there_are_not_complained_of() -> None:
    batches = [
        asked((1, 1), "a"),
        asked((1, 2), "b", acknowledged=False),
        asked((1, 3), "a"),
        asked((2, 1), "a"),
        asked((2, 2), "c"),
        asked((2, 3), "d", acknowledged=False),
    ]
    commits = [
        committed(1, "a"),
        committed(2, "b"),
        # The answer of the third was lost: the same again.
        committed(3, "a"),
        committed(4, "a"),
        committed(5, "a", epoch=2),
        committed(6, "c", epoch=2),
        committed(7, "d", epoch=2),
    ]
    assert judge(batches, commits, "d") == []
    assert judge(batches[:-1], commits[:-1], "c") == []


def test_what_was_there_before_anybody_was_asked_is_not_complained_of() -> None:
    commits = [committed(1, "before", epoch=0), committed(2, "a")]
    batches = [asked((1, 1), "a")]
    assert checks.lost_writes(batches, commits, {ROW: "a"}, since=2) == []


def test_an_acknowledged_write_that_was_never_committed_is_found() -> None:
    batches = [asked((1, 1), "a"), asked((1, 2), "b")]
    [found] = judge(batches, [committed(1, "a")], "a")
    assert "acknowledged as (1, 2), and not in the database" in found
    [found] = judge([asked((1, 1), "a")], [], None)
    assert "not in the database" in found


def test_an_acknowledged_write_within_a_later_one_is_not_lost() -> None:
    batches = [asked((1, 1), "a"), asked((1, 2), "b")]
    assert judge(batches, [committed(1, "b")], "b") == []


def test_a_write_that_was_asked_for_twice_in_the_same_words_is_not_lost() -> None:
    batches = [asked((1, 1), "a"), asked((1, 2), "a"), asked((1, 3), "a")]
    assert judge(batches, [committed(1, "a"), committed(2, "a")], "a") == []


def test_a_write_that_nobody_acknowledged_may_be_missing() -> None:
    batches = [asked((1, 1), "a"), asked((1, 2), "b", acknowledged=False)]
    assert judge(batches, [committed(1, "a")], "a") == []


def test_a_row_that_goes_back_is_found() -> None:
    batches = [asked((1, 1), "a", acknowledged=False), asked((1, 2), "b")]
    commits = [committed(1, "a"), committed(2, "b"), committed(3, "a")]
    [found] = judge(batches, commits, "a")
    assert "overwrote the acknowledged (1, 2)" in found


def test_a_late_write_may_overwrite_what_was_not_acknowledged() -> None:
    batches = [asked((1, 1), "a"), asked((1, 2), "b", acknowledged=False)]
    commits = [committed(1, "b"), committed(2, "a")]
    assert judge(batches, commits, "a") == []


def test_a_write_of_an_owner_whose_epoch_is_over_is_found() -> None:
    batches = [asked((1, 1), "a"), asked((2, 1), "b")]
    commits = [committed(1, "b", epoch=2), committed(2, "a", epoch=2)]
    found = judge(batches, commits, "a")
    assert any("asked for by the owner of epoch 1" in each for each in found)


def test_a_write_that_nobody_asked_for_is_found() -> None:
    [found] = judge([], [committed(1, "x")], "x")
    assert "asked for by nobody" in found


def test_a_table_that_was_changed_behind_the_history_is_found() -> None:
    batches = [asked((1, 1), "a")]
    [found] = judge(batches, [committed(1, "a")], "x")
    assert "does not hold what was committed last" in found
    [found] = judge(batches, [committed(1, "a")], None)
    assert "does not hold what was committed last" in found


def test_a_deleted_key_stays_deleted() -> None:
    batches = [asked((1, 1), "a"), asked((1, 2), None), asked((1, 3), None)]
    assert judge(batches, [committed(1, "a"), committed(2, None)], None) == []
    [found] = judge(batches[:2], [committed(1, "a")], "a")
    assert "acknowledged as (1, 2)" in found


def test_a_gateways_record_is_read_as_it_was_written(tmp_path: Path) -> None:
    path = tmp_path / "record"
    keys = json.dumps([{"t": "session", "i": "a.0", "v": {"n": 1, "m": [2]}}])
    rows = writes.rows_of("company_1", '{"b": 1, "a": 2}', keys)
    lines = [
        {
            "number": 1,
            "session": "company_1",
            "epoch": 4,
            "rows": [(*row[1:], value) for row, value in rows],
        },
        {"number": 1, "outcome": "acknowledged"},
        {"number": 2, "session": "company_1", "epoch": 4, "rows": []},
        {"number": 2, "outcome": "StoreRefused"},
    ]
    text = "".join(f"{json.dumps(line)}\n" for line in lines)
    record = writes.Journal(path)
    # Cut off where a kill may cut it off, and read on when it goes on.
    for end in range(0, len(text) + 1, 7):
        path.write_text(text[:end])
        record.read()
    path.write_text(text + '{"number": 3, "sess')
    record.read()

    assert not any(batch.acknowledged for batch in record.asked())
    record.freeze()
    first, second = record.asked()
    assert first.acknowledged
    assert not second.acknowledged
    assert first.order == (4, 1)
    assert first.rows == (
        (("company_1", "creds", ""), writes.fingerprint({"a": 2, "b": 1})),
        (ROW, writes.fingerprint({"m": [2], "n": 1})),
    )
    assert writes.fingerprint({"n": 1}) != writes.fingerprint({"n": 2})


# --- the truth about states -----------------------------------------------------------


def samples(*seen: tuple[float, bool, bool | None]) -> list[Sample]:
    """Return samples from (at, whether it is online, whether it reads open)."""
    return [
        Sample(
            at,
            frozenset({JID} if live else ()),
            None if reads is None else {"a page": frozenset({JID} if reads else ())},
        )
        for at, live, reads in seen
    ]


def test_a_state_that_is_not_true_is_found() -> None:
    lie = [(0, True, True), (1, False, True), (4, False, True), (7, False, True)]
    [found] = checks.untrue(samples(*lie), tolerance=5)
    assert found.startswith("a page reads open for 1 salons")
    assert checks.untrue(samples(*lie), tolerance=6) == []


def test_a_state_that_becomes_true_in_time_is_not_complained_of() -> None:
    told = [(1, False, True), (4, False, False), (8, False, True), (12, False, True)]
    back = [(1, False, True), (4, True, True), (8, False, True), (12, False, True)]
    away = [(1, False, True), (4, False, None), (8, False, True), (12, False, True)]
    for story in (told, back, away):
        assert checks.untrue(samples(*story), tolerance=5) == []


# --- logs -----------------------------------------------------------------------------


def _log(error: Exception, cause: Exception | None = None) -> str:
    """Return what a log holds of an error that was raised while another was handled."""

    def fail() -> None:
        if cause is None:
            raise error
        try:
            raise cause
        except type(cause) as first:
            raise error from first

    with pytest.raises(type(error)) as raised:
        fail()
    text = "".join(traceback.format_exception(raised.value))
    return f"2026-01-01 ERROR it failed\n{text}2026-01-01 INFO on\n"


def test_a_traceback_of_an_unexpected_kind_is_found() -> None:
    log = _log(ValueError("one: two")) + _log(KeyError("b"), OSError("a"))
    assert checks.tracebacks(log) == ["ValueError: one: two", "KeyError: 'b'"]
    assert checks.unexpected_tracebacks(log, ["^ValueError", "^KeyError"]) == []
    assert len(checks.unexpected_tracebacks(log, ["^ValueError"])) == 1
    assert checks.tracebacks("2026-01-01 WARNING no Traceback here\n") == []


def test_every_traceback_of_a_group_is_found() -> None:
    with pytest.raises(ValueError, match="raised") as raised:
        raise ValueError("raised")
    group = ExceptionGroup("several", [raised.value, OSError("only in it")])
    assert checks.tracebacks(_log(group)) == [
        "ValueError: raised",
        "OSError: only in it",
    ]


def test_a_phone_in_a_log_is_found() -> None:
    numbers = {"79000000001"}
    assert len(checks.phones_in("login of 79000000001:7@s.whatsapp.net", numbers)) == 1
    assert checks.phones_in("login of ***0001 at 17905000000013", numbers) == []


def test_a_socket_remembers_why_it_ended() -> None:
    [first, second] = checks.sockets_of(AFTER_EACH_OTHER)
    assert first == Socket(JID, 1, 1, 0, 2, 1000, "client")
    assert second.ended is None
