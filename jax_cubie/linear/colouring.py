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
    in_row: list[set[int]] = [set() for _ in range(pattern.rows)]
    for row, column in pattern.entries:
        in_column[column].append(row)
        in_row[row].add(column)
    least = max(map(len, in_row), default=0)  # the columns of a row all differ
    if least == pattern.columns:
        return tuple(range(pattern.columns))
    neighbours = [set().union(*(in_row[row] for row in rows)) - {column} for column, rows in enumerate(in_column)]
    found: list[tuple[int, ...]] = []
    for order in (range(pattern.columns), sorted(range(pattern.columns), key=lambda column: -len(in_column[column]))):
        for turn in range(_ROUNDS):
            last = found[-1] if turn else (0,) * pattern.columns
            found.append(_greedy(sorted(order, key=[-colour for colour in last].__getitem__), neighbours))
            if max(found[-1], default=-1) < least:
                return found[-1]
    return min(found, key=lambda one: max(one, default=0))


def _greedy(order: Iterable[int], neighbours: Sequence[set[int]]) -> tuple[int, ...]:
    chosen: dict[int, int] = {}
    for column in order:
        taken = {chosen[other] for other in neighbours[column] if other in chosen}
        chosen[column] = next(colour for colour in range(len(taken) + 1) if colour not in taken)
    return tuple(chosen[column] for column in range(len(neighbours)))
