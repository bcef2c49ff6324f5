"""Scalars inside an emitter's body that are written as one writes numbers."""

from __future__ import annotations

from collections.abc import Callable

from .emitter import FLOATS, Emitter, Value


class Scalar:
    """A typed LLVM value with operators: each is one operation of the emitter's, and rounds once.

    A Python number beside it becomes a constant of its dtype. Comparisons are bools, for which & | ~ are "and", "or", "not".
    """

    __slots__ = ("dtype", "emitter", "value")
    __hash__ = None  # pyright: ignore[reportAssignmentType] - equality is an instruction

    def __init__(self, emitter: Emitter, dtype: str, value: Value):
        self.emitter, self.dtype, self.value = emitter, dtype, value

    def _constant(self, other: Scalar | float) -> Value:
        return other.value if isinstance(other, Scalar) else self.emitter.constant(self.dtype, other)

    def _make(self, value: Value) -> Scalar:
        return Scalar(self.emitter, self.dtype, value)

    def _binary(self, write: Callable[..., Value], other: Scalar | float) -> Scalar:
        return self._make(write(self.dtype, self.value, self._constant(other)))

    def _reflected(self, write: Callable[..., Value], other: float) -> Scalar:
        return self._make(write(self.dtype, self._constant(other), self.value))

    def __add__(self, other: Scalar | float) -> Scalar:
        return self._binary(self.emitter.add, other)

    def __sub__(self, other: Scalar | float) -> Scalar:
        return self._binary(self.emitter.sub, other)

    def __rsub__(self, other: float) -> Scalar:
        return self._reflected(self.emitter.sub, other)

    def __mul__(self, other: Scalar | float) -> Scalar:
        return self._binary(self.emitter.mul, other)

    def __truediv__(self, other: Scalar | float) -> Scalar:
        return self._binary(self.emitter.div, other)

    __radd__, __rmul__ = __add__, __mul__

    def __neg__(self) -> Scalar:
        return self._make(self.emitter.neg(self.dtype, self.value))

    def __abs__(self) -> Scalar:
        return self._make(self.emitter.abs(self.dtype, self.value))

    def fused(self, factor: Scalar, term: Scalar) -> Scalar:
        """self * factor + term, rounded once where the target can."""
        return self._make(self.emitter.fma(self.dtype, self.value, factor.value, term.value))

    def to(self, dtype: str) -> Scalar:
        """Converted."""
        return Scalar(self.emitter, dtype, self.emitter.cast(self.value, self.dtype, dtype))

    def _compare(self, op: str, other: Scalar | float) -> Scalar:
        return Scalar(self.emitter, "bool", self.emitter.compare(op, self.dtype, self.value, self._constant(other)))

    def __lt__(self, other: Scalar | float) -> Scalar:
        return self._compare("lt", other)

    def __le__(self, other: Scalar | float) -> Scalar:
        return self._compare("le", other)

    def __gt__(self, other: Scalar | float) -> Scalar:
        return self._compare("gt", other)

    def __ge__(self, other: Scalar | float) -> Scalar:
        return self._compare("ge", other)

    def __eq__(self, other: Scalar | float) -> Scalar:  # pyright: ignore[reportIncompatibleMethodOverride]
        return self._compare("eq", other)

    def __ne__(self, other: Scalar | float) -> Scalar:  # pyright: ignore[reportIncompatibleMethodOverride]
        return self._compare("ne", other)

    def __and__(self, other: Scalar) -> Scalar:
        return self._make(self.emitter.logical_and(self.value, other.value))

    def __or__(self, other: Scalar) -> Scalar:
        return self._make(self.emitter.logical_or(self.value, other.value))

    def __invert__(self) -> Scalar:
        return self._make(self.emitter.logical_not(self.value))

    def __bool__(self) -> bool:
        raise TypeError("what a lane computes is not known where its code is written: use choose() or `with b.when(...)`")

    @property
    def is_finite(self) -> Scalar:
        """Neither infinite nor NaN."""
        assert self.dtype in FLOATS
        return Scalar(self.emitter, "bool", self.emitter.is_finite(self.dtype, self.value))


def choose(condition: Scalar, if_true: Scalar | float, if_false: Scalar | float) -> Scalar:
    """One of two; at least one of them is a Scalar."""
    like = if_true if isinstance(if_true, Scalar) else if_false
    assert isinstance(like, Scalar)
    return like._make(like.emitter.select(condition.value, like._constant(if_true), like._constant(if_false)))


def least(one: Scalar, other: Scalar) -> Scalar:
    """The smaller; `other` where one of them is NaN."""
    return choose(one < other, one, other)


def most(one: Scalar, other: Scalar) -> Scalar:
    """The larger; `other` where one of them is NaN."""
    return choose(one > other, one, other)
