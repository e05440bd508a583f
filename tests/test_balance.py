"""How many salons each gateway runs: the same numbers for whoever asks."""

from hypothesis import given
from hypothesis import strategies as st

from whatsapp.gateway import balance
from whatsapp.services.gateways import Share

counts = st.lists(st.integers(0, 300), min_size=1, max_size=8)


def _shares(*salons: int) -> list[Share]:
    return [Share(pk, f"gateway {pk}", held) for pk, held in enumerate(salons, 1)]


def test_a_gateway_alone_takes_everything() -> None:
    assert balance.target(_shares(3), 1, unowned=7) == 10
    assert balance.target([], 1, unowned=7) == 7, "its own lock is not to be seen yet"


def test_a_new_gateway_gets_its_share_and_nothing_moves_for_one() -> None:
    shares = _shares(30, 30, 0)
    assert [balance.target(shares, pk) for pk in (1, 2, 3)] == [20, 20, 20]
    assert [balance.target(_shares(3, 2), pk) for pk in (1, 2)] == [3, 2]
    assert [balance.target(_shares(2, 3), pk) for pk in (1, 2)] == [2, 3]


@given(counts, st.integers(0, 100))
def test_the_targets_are_all_salons_and_differ_by_one_at_most(
    salons: list[int], unowned: int
) -> None:
    shares = _shares(*salons)
    targets = [balance.target(shares, share.id, unowned) for share in shares]
    assert sum(targets) == sum(salons) + unowned
    assert max(targets) - min(targets) <= 1


@given(counts.filter(lambda salons: len(salons) > 1))
def test_moving_ends_with_everybody_at_his_target(salons: list[int]) -> None:
    held = dict(enumerate(salons, 1))
    for _ in range(400):
        shares = [Share(pk, "", count) for pk, count in held.items()]
        moved = 0
        for share in shares:
            surplus = share.salons - balance.target(shares, share.id)
            moving = balance.to_move(surplus) if surplus > 0 else 0
            held[share.id] -= moving
            for taker in balance.receivers(shares, share.id, moving):
                held[taker.id] += 1
            moved += moving
        if not moved:
            break
    assert max(held.values()) - min(held.values()) <= 1


def test_salons_go_to_who_has_the_fewest_and_never_back() -> None:
    takers = balance.receivers(_shares(9, 4, 1), 1, 4)
    assert [taker.id for taker in takers] == [3, 3, 3, 2]
    assert balance.receivers(_shares(9), 1, 4) == []


def test_gateways_that_look_at_the_same_time_want_different_salons() -> None:
    wanted, shares = list(range(100, 110)), _shares(0, 0, 0)
    tried = [balance.preferred(wanted, shares, share.id) for share in shares]
    firsts = [pk for order in tried for pk in order[:3]]
    assert len(set(firsts)) == 9
    assert all(sorted(order) == wanted for order in tried)
    assert balance.preferred(wanted, [], 5) == wanted


def test_few_move_at_a_time_unless_there_are_very_many() -> None:
    assert balance.to_move(3) == 3
    assert balance.to_move(40) == 10
    assert balance.to_move(2500) == 250
