"""Any order of requests, events, time-outs and crashes keeps the promises of the design.

Two gateways run with their real managers, runners, locks and services on a real
PostgreSQL; time, the engine and the faults are the test's (tests/inline_gateways.py).
After every step the tables are compared with what must be true (tests/ledger.py), and
in the end, when nothing fails any more, every salon comes to the state that it ought to
be in.

``HYPOTHESIS_PROFILE=long`` looks for hours where the ordinary run looks for seconds, and
somewhere else each time.
"""

import os
from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.salon_life import PHONES, Surprises, clock, surprises
from tests.salon_rules import Salons
from tests.virtual_clock import Clock

__all__ = ["clock", "surprises"]

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
