"""Few tangents for a whole Jacobian: columns that share no row are found together.

Curtis, Powell, Reid, On the estimation of sparse Jacobian matrices, J. Inst. Maths Applics 13 (1974). The order, columns with
the most entries first: Welsh, Powell, An upper bound for the chromatic number of a graph, Computer J. 10 (1967).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from .pattern import Pattern

_ROUNDS = 10


def colours(pattern: Pattern) -> tuple[int, ...]:
    """A colour for each column, from 0 on, so that two of one colour have no row in common.

    Greedy, with columns as they are (the best for bands) and with the fullest first, each made better by taking colour after
    colour, the last first: that never takes more colours (Culberson, Iterated greedy graph coloring, 1992).
    """
    in_column: list[list[int]] = [[] for _ in range(pattern.columns)]
    in_row: list[list[int]] = [[] for _ in range(pattern.rows)]
    for row, column in pattern.entries:
        in_column[column].append(row)
        in_row[row].append(column)
    neighbours = [{other for row in rows for other in in_row[row]} - {column} for column, rows in enumerate(in_column)]
    found = []
    for order in (range(pattern.columns), sorted(range(pattern.columns), key=lambda column: -len(in_column[column]))):
        found.append(_greedy(order, neighbours))
        for _ in range(_ROUNDS):
            last = found[-1]
            found.append(_greedy(sorted(order, key=lambda column: -last[column]), neighbours))  # noqa: B023
    return min(found, key=lambda one: max(one, default=0))


def _greedy(order: Iterable[int], neighbours: Sequence[set[int]]) -> tuple[int, ...]:
    chosen: dict[int, int] = {}
    for column in order:
        taken = {chosen[other] for other in neighbours[column] if other in chosen}
        chosen[column] = next(colour for colour in range(len(taken) + 1) if colour not in taken)
    return tuple(chosen[column] for column in range(len(neighbours)))
