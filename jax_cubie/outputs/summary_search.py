"""Components of an array that are only known when a lane runs, and roots inside of a step.

Where arrays are unrolled they are in registers, which have no address: a component is picked by comparing its number.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from ..kernel.scalar import Scalar, where

if TYPE_CHECKING:
    from ..kernel.device import View
    from ..loop.body import Body

_MOST_TURNS = 60


def next_index(b: Body, size: int, first: Scalar, wanted: Callable[[Any], Scalar]) -> Scalar:
    """The first index from `first` on (int64) that is wanted; `size` where there is none."""
    if size <= b.lane.plan.unroll:
        found = first.like(size)
        for index in reversed(range(size)):
            found = where((first <= index) & wanted(index), index, found)
        return found
    index = b.variable(first.value, "int64")

    def here() -> Scalar:
        return b.scalar(index.get(), "int64")

    def missed() -> Scalar:
        inside = here() < size
        return inside & ~wanted(where(inside, here(), 0).value)

    b.repeat_while(missed, lambda: index.set((here() + 1).value))
    return here()


class Chosen:
    """One component of arrays of `size` elements, by its number: a Python int, or an int64 scalar."""

    def __init__(self, b: Body, number: Scalar | Any, size: int):
        self.body, self._size = b, size
        self._number = number if isinstance(number, (int, Scalar)) else b.scalar(number, "int64")

    def _compares(self, count: int = 1) -> bool:
        return isinstance(self._number, Scalar) and self._size * count <= self.body.lane.plan.unroll

    @property
    def _place(self) -> Any:
        return self._number.value if isinstance(self._number, Scalar) else self._number

    def pick(self, values: Callable[[Any], Scalar]) -> Scalar:
        """The component of what is known of each."""
        if not self._compares():
            return values(self._place)
        assert isinstance(self._number, Scalar)
        found = values(0)
        for index in range(1, self._size):
            found = where(self._number.equals(index), values(index), found)
        return found

    def pick_integer(self, view: View) -> Scalar:
        return self.pick(lambda index: self.body.scalar(view.load(index), view.dtype))

    def put(self, view: View, value: Scalar, condition: Scalar | None = None) -> None:
        """Changes it, where the condition holds."""
        b = self.body
        if self._compares():
            assert isinstance(self._number, Scalar)
            for index in range(self._size):
                chosen = self._number.equals(index)
                chosen = chosen if condition is None else chosen & condition
                view.store(index, where(chosen, value, b.scalar(view.load(index))).value)
            return
        old = b.scalar(view.load(self._place))
        view.store(self._place, (value if condition is None else where(condition, value, old)).value)

    def put_row(self, view: View, rows: int, row: Scalar, value: Scalar, condition: Scalar) -> None:
        """The same in row `row` (int32) of an array of rows, if there is such a row."""
        b = self.body
        condition = condition & (row < rows)
        if rows <= b.lane.plan.unroll and (self._compares(rows) or isinstance(self._number, int)):
            numbers = [self._number] if isinstance(self._number, int) else range(self._size)
            for place in range(rows):
                for index in numbers:
                    chosen = condition & row.equals(place)
                    if isinstance(self._number, Scalar):
                        chosen = chosen & self._number.equals(index)
                    where_it_is = place * self._size + index
                    old = b.scalar(view.load(where_it_is))
                    view.store(where_it_is, where(chosen, value, old).value)
            return
        number = self._number if isinstance(self._number, Scalar) else b.scalar(self._number, "int64")
        with b.when(condition):
            view.store((row.to("int64") * self._size + number).value, value.value)


def find_root(
    b: Body, value_at: Callable[[Scalar], Scalar], low: Scalar, high: Scalar, at_low: Scalar, at_high: Scalar
) -> Scalar:
    """Where a function, whose values at both ends have different signs, is 0; it was evaluated there last.

    The rule of false position with halved values at the end that stays (Dowell and Jarratt, BIT 11, 1971, call it Illinois);
    the other end is where it was evaluated last.
    """
    near = 4 * float(np.finfo(b.dtype).eps)
    stays, stays_value = b.variable(low.value), b.variable(at_low.value)
    last, last_value = b.variable(high.value), b.variable(at_high.value)
    turns, goes = b.variable(b.int32(0), "int32"), b.variable(b.emitter.constant("bool", 1), "bool")

    def get(variable: Any) -> Scalar:
        return b.scalar(variable.get())

    def turn() -> None:
        old, old_value = get(last), get(last_value)
        width = get(stays) - old
        new = old - old_value * width / (get(stays_value) - old_value)
        value = value_at(new)
        same = ((value > 0.0) & (old_value > 0.0)) | ((value < 0.0) & (old_value < 0.0))
        stays_value.set(where(same, 0.5 * get(stays_value), old_value).value)
        stays.set(where(same, get(stays), old).value)
        last.set(new.value)
        last_value.set(value.value)
        count = b.scalar(turns.get(), "int32") + 1
        turns.set(count.value)
        goes.set((~value.equals(0.0) & (abs(new - old) > near) & (count < _MOST_TURNS)).value)

    b.repeat_while(lambda: b.scalar(goes.get(), "bool"), turn)
    return get(last)
