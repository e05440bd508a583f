"""Who fails again and again waits longer and longer, and costs us no memory."""

from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st

from whatsapp.failures import LOGINS_AS, Failures


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def counted(clock: Clock) -> Failures:
    return Failures(free=3, first=10, longest=60, memory=600, clock=clock)


def test_a_few_failures_cost_nothing(counted: Failures):
    assert [counted.count("anna") for _ in range(3)] == [0, 0, 0]
    assert counted.wait("anna") == 0


def test_each_further_one_doubles_the_wait_up_to_the_longest(
    counted: Failures, clock: Clock
):
    waits = []
    for _ in range(8):
        waits.append(counted.count("anna"))
        clock.now += waits[-1]
        assert counted.wait("anna") == 0
    assert waits == [0, 0, 0, 10, 20, 40, 60, 60]


def test_what_fails_while_it_waits_does_not_make_that_longer(
    counted: Failures, clock: Clock
):
    for _ in range(4):
        counted.count("anna")
    clock.now += 4
    assert [counted.count("anna") for _ in range(100)] == [6] * 100
    clock.now += 6
    assert counted.wait("anna") == 0
    assert counted.count("anna") == 20


def test_nobody_waits_for_another(counted: Failures):
    for _ in range(4):
        counted.count("192.0.2.7", "anna")
    assert counted.wait("192.0.2.7", "anna")
    assert not counted.wait("192.0.2.7", "boris")
    assert not counted.wait("192.0.2.8", "anna")


def test_all_is_forgotten_after_a_while(counted: Failures, clock: Clock):
    for _ in range(6):
        clock.now += counted.count("anna")
    clock.now += 601
    assert [counted.count("anna") for _ in range(4)] == [0, 0, 0, 10]


def test_what_was_none_is_taken_back(counted: Failures):
    for _ in range(20):
        assert counted.count("anna") == 0
        counted.take_back("anna")
    counted.take_back("nobody")
    assert counted.wait("nobody") == 0


def test_who_did_well_begins_anew(counted: Failures):
    for _ in range(4):
        counted.count("anna")
    counted.forget("anna")
    assert [counted.count("anna") for _ in range(4)] == [0, 0, 0, 10]


def test_strangers_lock_nobody_out_for_more_than_a_minute():
    assert 0 < max(LOGINS_AS._delay(count) for count in range(1000)) <= 60


def test_strangers_do_not_fill_the_memory(clock: Clock):
    counted = Failures(free=0, first=10, longest=60, size=100, clock=clock)
    for number in range(1000):
        counted.count(str(number), "x" * 1000)
        counted.count("often")
    assert len(counted) == 100
    # Whoever goes on failing is not the one that is forgotten.
    assert counted.wait("often")


def test_of_many_at_once_as_many_pass_as_one_after_the_other(counted: Failures):
    with ThreadPoolExecutor(16) as pool:
        waits = list(pool.map(lambda _: counted.count("anna"), range(200)))
    assert waits.count(0) == 3


@given(st.lists(st.tuples(st.sampled_from("ab"), st.floats(0, 700)), max_size=60))
def test_a_wait_is_never_longer_than_the_longest_and_always_ends(steps):
    clock = Clock()
    counted = Failures(free=2, first=7, longest=60, memory=600, clock=clock)
    for key, pause in steps:
        assert 0 <= counted.count(key) <= 60
        clock.now += pause
        assert 0 <= counted.wait(key) <= 60
    clock.now += 60
    assert counted.wait("a") == counted.wait("b") == 0
