"""Cursors: in which interval of a table a time lies. Functions of the user's are handed rows of the table from there on.

Where the points are even, that is a product. Where they are not, the range of the table is divided into as many even buckets,
and of each is known which intervals it has to do with: most often one or two, between which a comparison decides. So it takes
the same however far a step goes, and depends on the time alone: no lane has to remember where it was, forwards or backwards.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from ..kernel.scalar import Scalar, least, where

if TYPE_CHECKING:
    from .body import Body


@dataclasses.dataclass(frozen=True)
class Cursor:
    """The integer "`name`", an interval from 0 to points - 2; of a periodic table also "`name`_turns", how many periods lie
    behind, a whole number in the solve's dtype.

    points: of the table. The rest are operands. With even points a time t since t0 stands at rate * t + origin, in intervals.
    Otherwise it does at t - origin, in units of time: origin is the time of the first point; `times` [points] are all of them,
    counted from the first; length is the last of these, rate the number of buckets in a unit of time; and buckets [points + 1]
    are the first intervals that they have to do with, int32, of which the next one's is the last.

    from_t0: the times are counted from t0, as the jumps that steps end on, so that both are compared to the bit; and there is
    an interval behind the last point, too.
    """

    name: str
    points: int
    periodic: bool
    origin: str
    rate: str
    times: str | None = None
    length: str | None = None
    buckets: str | None = None
    from_t0: bool = False

    @property
    def even(self) -> bool:
        """Whether all intervals have one length."""
        return self.times is None

    @property
    def turns(self) -> str:
        """The name of the number of periods."""
        return f"{self.name}_turns"

    def inputs(self, dtype: str) -> dict[str, str]:
        """What functions are handed, by name, with their dtypes."""
        return {self.name: "int32"} | ({self.turns: dtype} if self.periodic else {})


def find(b: Body, cursor: Cursor, since_t0: Any) -> dict[str, Any]:
    """The numbers of a cursor at a time, by their names. They are within the table whatever the time is, NaN, too."""
    t, origin, rate, last = b.scalar(since_t0), b.number(cursor.origin), b.number(cursor.rate), cursor.points - 1
    found = {}
    if cursor.even:
        passed, length, share = t.fused(rate, origin), b.scalar(float(last)), b.scalar(1 / last)
    else:
        assert cursor.length is not None
        passed, length, share = t - origin, b.number(cursor.length), rate * (1 / cursor.points)
    if cursor.periodic:
        turns = b.scalar(b.emitter.apply("floor", b.dtype, (passed * share).value))
        passed = (-turns).fused(length, passed)
        found[cursor.turns] = turns.value
    passed = where(passed >= 0.0, where(passed <= length, passed, length), 0.0)
    if cursor.even:
        place = least(_whole(b, passed), b.scalar(last - 1, "int32"))
    else:
        place = _between(b, cursor, t if cursor.from_t0 else passed, least(_whole(b, passed * rate), b.scalar(last, "int32")))
    return {cursor.name: place.value, **found}


def _whole(b: Body, x: Scalar) -> Scalar:
    """A number that is not negative, and no larger than int32 has, as an integer."""
    from ..kernel.emitter import LLVM_TYPES  # it imports llvmlite, and cursors are known before anything is built

    return b.scalar(b.emitter.builder.fptosi(x.value, LLVM_TYPES["int32"]), "int32")


def _between(b: Body, cursor: Cursor, passed: Scalar, bucket: Scalar) -> Scalar:
    """The interval that holds a time, of those that its bucket has to do with; by halves."""
    assert cursor.buckets is not None and cursor.times is not None
    times, (first, last) = cursor.times, (b.number(cursor.buckets, (bucket + k).to("int64").value) for k in range(2))
    low, high = b.variable(first.value, "int32"), b.variable(last.value, "int32")

    def of(variable: Any) -> Scalar:
        return b.scalar(variable.get(), "int32")

    def halve() -> None:
        middle = (of(low) + of(high) + 1) >> 1
        behind = b.number(times, middle.to("int64").value) <= passed
        low.set(where(behind, middle, of(low)).value)
        high.set(where(behind, of(high), middle - 1).value)

    b.repeat_while(lambda: of(low) < of(high), halve)
    return of(low)
