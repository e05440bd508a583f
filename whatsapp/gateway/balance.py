"""How many salons each gateway should run, so that all run about as many (pure)."""

from collections.abc import Sequence

from whatsapp.services.gateways import Share

MOVED_AT_ONCE = 10
"""So many salons change hands between two looks, or a tenth of the surplus if that is
more: each is off for the moment that a login takes."""


def target(shares: Sequence[Share], me: int, unowned: int = 0) -> int:
    """Return how many salons a gateway should hold.

    What cannot be divided goes to those who hold most already, so that nothing moves
    for the sake of one. Every gateway comes to the same numbers from the same shares.

    Args:
        shares: of all living gateways.
        me: the id of the gateway that asks.
        unowned: salons that want a gateway and have none.
    """
    if not any(share.id == me for share in shares):
        return sum(share.salons for share in shares) + unowned  # alone, for all we know
    total = sum(share.salons for share in shares) + unowned
    each, rest = divmod(total, len(shares))
    ranked = sorted(shares, key=lambda share: (-share.salons, share.id))
    rank = next(place for place, share in enumerate(ranked) if share.id == me)
    return each + (rank < rest)


def preferred(wanted: list[int], shares: Sequence[Share], me: int) -> list[int]:
    """Return the salons in the order in which a gateway should try to have them.

    Gateways that see the same salons at the same time begin with different ones.
    """
    ids = sorted({share.id for share in shares} | {me})
    first = wanted[ids.index(me) :: len(ids)]
    return list(dict.fromkeys([*first, *wanted]))


def to_move(surplus: int) -> int:
    """Return how many of a surplus are handed over at this look."""
    return min(surplus, max(MOVED_AT_ONCE, surplus // 10))


def receivers(shares: Sequence[Share], me: int, count: int) -> list[Share]:
    """Return who takes each of ``count`` salons: always the one with the fewest."""
    others = {share.id: share for share in shares if share.id != me}
    if not others:
        return []
    held = {pk: share.salons for pk, share in others.items()}
    chosen = []
    for _ in range(count):
        fewest = min(held, key=lambda pk: (held[pk], pk))
        held[fewest] += 1
        chosen.append(others[fewest])
    return chosen
