"""Which points of the weight space are measured."""

from __future__ import annotations

from collections.abc import Sequence

Point = tuple[float, ...]


def measured_points(
    num_members: int, shares: Sequence[float], scales: Sequence[float]
) -> list[Point]:
    """The base, and the line through each two neighbours, and the ends, at every share and scale.

    Two at a time: a soup of more gains next to nothing, and there would be many of them.

    Args:
        num_members: K, from the loosest to the strictest.
        shares: of the second of two members; the first has the rest.
        scales: of both.

    Returns:
        Distinct points [K], each a weight for every member.
    """
    points: list[Point] = [(0.0,) * num_members]
    if num_members == 1:
        return points + [(scale,) for scale in scales]
    neighbours = [(k, k + 1) for k in range(num_members - 1)]
    for first, second in dict.fromkeys([*neighbours, (0, num_members - 1)]):
        for scale in scales:
            for share in shares:
                point = [0.0] * num_members
                point[first], point[second] = scale * (1.0 - share), scale * share
                points.append(tuple(round(weight, 6) + 0.0 for weight in point))
    return list(dict.fromkeys(points))
