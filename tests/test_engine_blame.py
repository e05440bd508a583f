"""Who is held responsible for the deaths of Node.js, without one."""

from __future__ import annotations

import logging

import pytest

from whatsapp.engine import Limits
from whatsapp.engine.blame import Blame

LIMITS = Limits(strikes=3, probation=600)


class Court:
    """A Blame with a clock that stands still until it is told to go on."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.blame = Blame(LIMITS, lambda: self.now)

    def strike(self, *suspects: str) -> set[str]:
        return set(self.blame.strike("Node.js 1", set(suspects)))

    def on_probation(self, *suspects: str) -> set[str]:
        return {one for one in suspects if self.blame.is_on_probation(one)}


@pytest.fixture
def court() -> Court:
    return Court()


def test_the_third_death_of_an_only_suspect_convicts_it(court: Court) -> None:
    assert court.strike("company_1") == set()
    assert court.strike("company_1") == set()
    assert court.strike("company_1") == {"company_1"}


def test_a_conviction_names_the_session_and_says_what_to_do(
    court: Court, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(3):
        court.strike("company_17")
    (error,) = [one for one in caplog.records if one.levelno == logging.ERROR]
    assert "company_17 has ended Node.js 3 times" in error.getMessage()
    assert "relink" in error.getMessage()


def test_who_is_always_suspected_together_with_others_is_never_convicted(
    court: Court,
) -> None:
    for _ in range(20):
        assert court.strike("company_1", "company_2") == set()
    assert court.on_probation("company_1", "company_2") == {"company_1", "company_2"}


def test_who_was_at_work_with_others_is_tried_after_the_second_death(
    court: Court,
) -> None:
    court.strike("company_1", "company_2", "company_3")
    assert court.on_probation("company_1", "company_2", "company_3") == set()
    assert not court.blame.is_anybody_expected()
    court.strike("company_1", "company_4")
    assert court.on_probation("company_1", "company_2", "company_4") == {"company_1"}


def test_deaths_with_others_do_not_count_towards_a_conviction(court: Court) -> None:
    court.strike("company_1", "company_2")
    court.strike("company_1")
    court.strike("company_1", "company_3")
    assert court.strike("company_1") == set()
    assert court.strike("company_1") == {"company_1"}


def test_a_death_without_suspects_is_nobodys_fault(court: Court) -> None:
    assert court.strike() == set()
    assert not court.blame.is_anybody_expected()


def test_suspicion_ends_after_the_last_strike(court: Court) -> None:
    court.strike("company_1")
    court.now += 599
    court.strike("company_1")
    court.now += 599
    assert court.on_probation("company_1")
    court.now += 1
    assert not court.on_probation("company_1")
    assert not court.blame.is_anybody_expected()
    for _ in range(2):
        assert court.strike("company_1") == set(), "earlier strikes are forgotten"


def test_a_convict_is_forgiven_by_living_not_by_staying_away(court: Court) -> None:
    for _ in range(3):
        court.strike("company_1")
    court.now += 3600
    assert court.on_probation("company_1")
    assert not court.blame.is_anybody_expected(), "nothing waits for it meanwhile"
    assert court.strike("company_1") == {"company_1"}, "once more is enough"
    court.blame.acquit("company_1")
    assert not court.on_probation("company_1")
    assert court.strike("company_1") == set()
