"""Scalars inside an emitter's body that are written as one writes numbers, so that a formula reads as one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .emitter import Emitter


class Format:
    """A float dtype's layout."""

    def __init__(self, integer: str, mantissa: int, bias: int, root_half: int, table_start: int):
        self.integer, self.mantissa, self.bias = integer, mantissa, bias
        self.sign = 1 << (31 if integer == "uint32" else 63)
        self.tiny = 2.0 ** (1 - bias)
        self.one = bias << mantissa
        self.root_half = root_half  # the bits of sqrt(1/2)
        self.table_start = table_start  # and of 0.6875
        self.magic = 1.5 * 2.0**mantissa  # a number plus this has its nearest integer in the lowest bits


FORMATS = {
    "float32": Format("uint32", 23, 127, 0x3F3504F3, 0x3F300000),
    "float64": Format("uint64", 52, 1023, 0x3FE6A09E667F3BCD, 0x3FE6000000000000),
}


class Scalar:
    """A scalar with Python's operators, each of which writes one operation of the emitter's.

    Python's numbers become constants of its dtype. Comparisons are bools, for which & | ~ are "and", "or", "not".
    """

    __slots__ = ("dtype", "emitter", "value")

    def __init__(self, emitter: Emitter, dtype: str, value: Any):
        self.emitter, self.dtype, self.value = emitter, dtype, value

    def like(self, number: Any) -> Scalar:
        """A number of Python's as a constant of this dtype; a scalar as it is."""
        if isinstance(number, Scalar):
            return number
        return Scalar(self.emitter, self.dtype, self.emitter.number(self.dtype, number))

    def _apply(self, op: str, *others: Any) -> Scalar:
        values = [self.like(x).value for x in others]
        return Scalar(self.emitter, self.dtype, self.emitter.apply(op, self.dtype, self.value, *values))

    def __add__(self, y: Any) -> Scalar:
        return self._apply("add", y)

    def __sub__(self, y: Any) -> Scalar:
        return self._apply("sub", y)

    def __rsub__(self, y: Any) -> Scalar:
        return self.like(y) - self

    def __mul__(self, y: Any) -> Scalar:
        return self._apply("mul", y)

    def __truediv__(self, y: Any) -> Scalar:
        return self._apply("div", y)

    def __rtruediv__(self, y: Any) -> Scalar:
        return self.like(y) / self

    __radd__, __rmul__ = __add__, __mul__

    def __neg__(self) -> Scalar:
        return self._apply("neg")

    def __abs__(self) -> Scalar:
        return self._apply("abs")

    def __and__(self, y: Any) -> Scalar:
        return self._apply("and", y)

    def __or__(self, y: Any) -> Scalar:
        return self._apply("or", y)

    def __xor__(self, y: Any) -> Scalar:
        return self._apply("xor", y)

    def __invert__(self) -> Scalar:
        return self._apply("not")

    def __lshift__(self, count: Any) -> Scalar:
        return Scalar(self.emitter, self.dtype, self.emitter.builder.shl(self.value, self.like(count).value))

    def __rshift__(self, count: Any) -> Scalar:
        return Scalar(self.emitter, self.dtype, self.emitter.builder.lshr(self.value, self.like(count).value))

    def _compare(self, op: str, y: Any) -> Scalar:
        return Scalar(self.emitter, "bool", self.emitter.compare(op, self.dtype, self.value, self.like(y).value))

    def __lt__(self, y: Any) -> Scalar:
        return self._compare("lt", y)

    def __le__(self, y: Any) -> Scalar:
        return self._compare("le", y)

    def __gt__(self, y: Any) -> Scalar:
        return self._compare("gt", y)

    def __ge__(self, y: Any) -> Scalar:
        return self._compare("ge", y)

    def equals(self, y: Any) -> Scalar:
        """Whether both are equal, as a bool of the lane's."""
        return self._compare("eq", y)

    def __eq__(self, y: object) -> bool:
        raise TypeError("whether two scalars are equal is not known where their code is written: use equals()")

    __hash__ = object.__hash__

    def __bool__(self) -> bool:
        raise TypeError("what a lane computes is not known where its code is written: use where() or `with b.when(...)`")

    def fused(self, factor: Any, term: Any) -> Scalar:
        """self * factor + term, rounded once where the target can."""
        value = self.emitter.fma(self.dtype, self.value, self.like(factor).value, self.like(term).value)
        return Scalar(self.emitter, self.dtype, value)

    @property
    def is_finite(self) -> Scalar:
        """Neither infinite nor NaN."""
        return Scalar(self.emitter, "bool", self.emitter.is_finite(self.dtype, self.value))

    def to(self, dtype: str) -> Scalar:
        """Converted."""
        return Scalar(self.emitter, dtype, self.emitter.cast(self.value, self.dtype, dtype))

    @property
    def format(self) -> Format:
        """The layout of its dtype."""
        return FORMATS[self.dtype]

    @property
    def bits(self) -> Scalar:
        """The same bits, as an unsigned integer."""
        return Scalar(self.emitter, self.format.integer, self.emitter.bitcast(self.value, self.format.integer))

    def float(self, dtype: str) -> Scalar:
        """The number whose bits these are."""
        return Scalar(self.emitter, dtype, self.emitter.bitcast(self.value, dtype))


def where(condition: Scalar, x: Any, y: Any) -> Scalar:
    """One of two, of which one at least is a Scalar."""
    x = y.like(x) if isinstance(y, Scalar) else x
    return Scalar(x.emitter, x.dtype, x.emitter.select(condition.value, x.value, x.like(y).value))


def least(one: Scalar, other: Scalar) -> Scalar:
    """The smaller; `other` where one of them is NaN."""
    return where(one < other, one, other)


def most(one: Scalar, other: Scalar) -> Scalar:
    """The larger; `other` where one of them is NaN."""
    return where(one > other, one, other)


def shifted(emitter: Emitter, index: Any, offset: int) -> Any:
    """index + offset, of a Python int or an int64 value."""
    if isinstance(index, int):
        return index + offset
    return emitter.add("int64", index, emitter.constant("int64", offset)) if offset else index
