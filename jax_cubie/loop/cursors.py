"""Cursors: in which interval of a table a time lies. Functions of the user's are handed rows of the table from there on.

An even table's is a product. In one that is not, a cursor is looked for from where it stood last: most often it need not move.
Where it stands depends on the time alone, so that no lane has to remember it for a pass backwards.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from ..kernel.scalar import Scalar, least, most, where

if TYPE_CHECKING:
    from .body import Body
    from .lane import Lane

# Periods are counted up to here: int32, with room for a rounded quotient.
_MOST_TURNS = 2.0**30


@dataclasses.dataclass(frozen=True)
class Cursor:
    """The integers "`name`", from 0 to points - 2, and with a period "`name`_turns", how many of them lie behind.

    points: of the table. The rest are names of operands in the solve's dtype. origin: the time of the first point, counted from
    t0. times: [points], those of all points, counted from the first; or rate: how many intervals there are in a unit of time.
    period: after how long it all begins again; None: never.
    """

    name: str
    points: int
    origin: str
    times: str | None = None
    rate: str | None = None
    period: str | None = None

    @property
    def turns(self) -> str:
        """The name of the number of periods."""
        return f"{self.name}_turns"

    @property
    def inputs(self) -> tuple[str, ...]:
        """What functions are handed, int32 each."""
        return (self.name,) if self.period is None else (self.name, self.turns)


def declare_cursors(lane: Lane) -> None:
    """The cells of those that remember where they stood."""
    for cursor in lane.problem.cursors:
        if cursor.times is not None:
            lane.cell(cursor.name, "int32")


def begin_cursors(b: Body) -> None:
    """All stand at the first interval."""
    b.put(**{cursor.name: 0 for cursor in b.lane.problem.cursors if cursor.times is not None})


def find(b: Body, cursor: Cursor, since_t0: Any) -> dict[str, Any]:
    """The integers of a cursor at a time, by their names."""
    passed = b.scalar(since_t0) - b.number(cursor.origin)
    found = {}
    if cursor.period is not None:
        period = b.number(cursor.period)
        turns = _floor(b, passed / period)
        turns = most(least(turns, b.scalar(_MOST_TURNS)), b.scalar(-_MOST_TURNS)).to("int32")
        passed = (-turns.to(b.dtype)).fused(period, passed)
        found[cursor.turns] = turns.value
    if cursor.rate is not None:
        place = _floor(b, passed * b.number(cursor.rate))
        place = least(most(place, b.scalar(0.0)), b.scalar(float(cursor.points - 2))).to("int32")
    else:
        place = _sought(b, cursor, passed)
    return {cursor.name: place.value, **found}


def _floor(b: Body, x: Scalar) -> Scalar:
    return b.scalar(b.emitter.apply("floor", b.dtype, x.value))


def _sought(b: Body, cursor: Cursor, passed: Scalar) -> Scalar:
    from .routine import call_routine  # it imports Numba

    # A routine has no cells, and looks from the first interval on.
    known = b.has_cell(cursor.name)
    start = b.get(cursor.name) if known else b.scalar(0, "int32")
    place = b.variable(start.value, "int32")
    with b.when(~_holds(b, cursor, start, passed)):

        def seek(inner: Body, start: Scalar, passed: Scalar) -> Scalar:
            return _seek(inner, cursor, start, passed)

        place.set(call_routine(b, f"seek_{cursor.name}", seek, (), (), (start, passed)).value)
    found = b.scalar(place.get(), "int32")
    if known:
        b.put(**{cursor.name: found})
    return found


def _time(b: Body, cursor: Cursor, point: Scalar) -> Scalar:
    assert cursor.times is not None
    return b.number(cursor.times, point.to("int64").value)


def _holds(b: Body, cursor: Cursor, place: Scalar, passed: Scalar) -> Scalar:
    """Whether the interval at `place` holds the time; the first and the last one have all that lies outside, too."""
    above = (_time(b, cursor, place) <= passed) | place.equals(0)
    below = (passed < _time(b, cursor, place + 1)) | (place >= cursor.points - 2)
    return above & below


def _seek(b: Body, cursor: Cursor, start: Scalar, passed: Scalar) -> Scalar:
    """The interval, sought from one that does not hold the time: by strides that double, then by halves. A time that is no
    number is in the one at hand, or the first."""
    last = cursor.points - 1
    low, high, stride = (b.variable(value, "int32") for value in (start.value, (start + 1).value, b.int32(1)))

    def of(variable: Any) -> Scalar:
        return b.scalar(variable.get(), "int32")

    def later() -> Scalar:
        return (of(high) < last) & (_time(b, cursor, of(high)) <= passed)

    def forwards() -> None:
        low.set(high.get())
        high.set(least(of(high) + of(stride), b.scalar(last, "int32")).value)
        stride.set((of(stride) << 1).value)

    def earlier() -> Scalar:
        return (of(low) > 0) & (passed < _time(b, cursor, of(low)))

    def backwards() -> None:
        high.set(low.get())
        low.set(most(of(low) - of(stride), b.scalar(0, "int32")).value)
        stride.set((of(stride) << 1).value)

    def halve() -> None:
        middle = (of(low) + of(high)) >> 1
        behind = _time(b, cursor, middle) <= passed
        low.set(where(behind, middle, of(low)).value)
        high.set(where(behind, of(high), middle).value)

    b.repeat_while(later, forwards)
    b.repeat_while(earlier, backwards)
    b.repeat_while(lambda: of(high) - of(low) > 1, halve)
    return of(low)
