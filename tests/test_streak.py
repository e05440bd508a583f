"""What a session's failures in a row mean for its next try."""

import pytest

from whatsapp.engine import DisconnectReason
from whatsapp.gateway import policy
from whatsapp.gateway.streak import Streak


class Clock:
    """A clock that stands still until it is told to go on."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        monkeypatch.setattr(Streak, "_now", lambda _: self.now)
        monkeypatch.setattr("random.uniform", lambda _, most: most)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def _fail_for(clock: Clock, streak: Streak, seconds: float) -> None:
    until = clock.now + seconds
    while clock.now < until:
        clock.now += streak.back_off()


def test_each_failure_doubles_the_wait_up_to_the_time_that_it_has_lasted(
    clock: Clock,
) -> None:
    streak = Streak()
    waits = []
    for _ in range(10):
        waits.append(streak.back_off())
        clock.now += waits[-1]
    assert waits[:4] == [1, 1, 2, 4]
    assert waits[-1] == policy.RECONNECT_MAX_SECONDS


def test_a_connection_that_lasted_has_ended_the_row(clock: Clock) -> None:
    streak = Streak()
    _fail_for(clock, streak, 300)
    streak.note(DisconnectReason.BAD_SESSION)
    streak.opened()
    clock.now += policy.STABLE_SECONDS
    assert streak.ended_open()
    assert (streak.failures, streak.bad_sessions) == (0, 0)


def test_a_second_blow_soon_after_an_outage_does_not_cost_a_minute(
    clock: Clock,
) -> None:
    streak = Streak()
    _fail_for(clock, streak, 20)
    streak.opened()
    clock.now += 7
    assert not streak.ended_open()
    assert streak.back_off() <= 2


def test_one_that_is_cut_as_soon_as_it_opens_slows_down_all_the_same(
    clock: Clock,
) -> None:
    streak = Streak()
    for _ in range(40):
        clock.now += streak.back_off()
        streak.opened()
        clock.now += 0.3
        streak.ended_open()
    assert streak.back_off() >= 30


def test_blows_far_enough_apart_cost_a_moment_each(clock: Clock) -> None:
    streak = Streak()
    for _ in range(8):
        streak.opened()
        clock.now += policy.CUT_SECONDS
        streak.ended_open()
        wait = streak.back_off()
        assert wait <= 1
        clock.now += wait


def test_restarts_are_obeyed_a_few_times(clock: Clock) -> None:
    streak = Streak()
    obeyed = [streak.may_restart() for _ in range(policy.RESTARTS + 1)]
    assert obeyed == [True] * policy.RESTARTS + [False]
