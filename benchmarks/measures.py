"""What many numbers come to: percentiles, and how a cost grows."""

import math
from collections.abc import Sequence


def percentile(values: Sequence[float], share: float) -> float:
    """Return the value below which ``share`` of them lie, interpolated between two.

    Raises:
        ValueError: there are none.
    """
    if not values:
        raise ValueError("No values, no percentile.")
    ordered = sorted(values)
    place = share * (len(ordered) - 1)
    below = math.floor(place)
    above = math.ceil(place)
    return ordered[below] + (ordered[above] - ordered[below]) * (place - below)


def exponent(sizes: Sequence[float], costs: Sequence[float]) -> float:
    """Return k of ``cost = c · size^k``, by least squares over the logarithms.

    1 is linear, 2 quadratic, 0 independent of the size.

    Raises:
        ValueError: fewer than two different sizes, or something that is not positive.
    """
    if len(set(sizes)) < 2 or len(sizes) != len(costs):
        raise ValueError("Growth needs a cost at each of two different sizes or more.")
    if min(*sizes, *costs) <= 0:
        raise ValueError("Growth needs positive sizes and costs.")
    xs, ys = [math.log(size) for size in sizes], [math.log(cost) for cost in costs]
    x_mean, y_mean = sum(xs) / len(xs), sum(ys) / len(ys)
    slope = sum((x - x_mean) * (y - y_mean) for x, y in zip(xs, ys, strict=True))
    return slope / sum((x - x_mean) ** 2 for x in xs)
