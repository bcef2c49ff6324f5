"""What a rule is tested with: a function, its arguments, and how far from XLA its results may be."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

NAN, INF = float("nan"), float("inf")
FLOATS = ("float32", "float64")
INTEGERS = ("int32", "int64", "uint32", "int8", "uint8")
EVERY_INTEGER = (*INTEGERS, "int16", "uint16", "uint64")


class Case(NamedTuple):
    """One function for some dtypes; ``name`` is the primitive whose rule it is there for.

    Results agree to ``ulp`` units in the last place or to ``atol``, which is for float32 (a millionth of it for float64).
    """

    name: str
    fn: Callable[..., Any]
    args: Callable[[str], tuple[Any, ...]]
    ulp: float = 4
    atol: float = 0.0
    dtypes: tuple[str, ...] = FLOATS


def only(dtype: str, cases: list[Case]) -> list[Case]:
    """The cases for one of the floats: large ones, whose rules know no dtypes and have smaller cases in the other."""
    return [case._replace(dtypes=(dtype,)) if case.dtypes == FLOATS else case for case in cases]


def flat(fn: Callable[..., Any]) -> Callable[..., list[Any]]:
    """``fn`` with a flat list of results."""
    return lambda *args: jax.tree.leaves(fn(*args))


def avals(args: Sequence[Any]) -> list[jax.ShapeDtypeStruct]:
    return [jax.ShapeDtypeStruct(np.shape(x), np.asarray(x).dtype) for x in args]


def assert_close(got: Any, want: Any, ulp: float, atol: float, where: str) -> None:
    """Equal dtypes, shapes, NaN, infinities and signs of zero; other numbers to a tolerance.

    XLA on the CPU makes subnormal numbers zero, which is no error of ours.
    """
    got, want = np.asarray(got), np.asarray(want)
    assert got.dtype == want.dtype, where
    assert got.shape == want.shape, where
    if not np.issubdtype(want.dtype, np.floating):
        np.testing.assert_array_equal(got, want, where)
        return
    flushed = (want == 0) & (abs(got) < np.finfo(want.dtype).tiny)
    got = np.where(flushed, np.copysign(0, got), got)
    np.testing.assert_allclose(got, want, rtol=ulp * np.finfo(want.dtype).eps,
                               atol=atol if want.dtype == np.float32 else atol * 1e-6, err_msg=where)
    zeros = (want == 0) & (got == 0)
    np.testing.assert_array_equal(np.signbit(got[zeros]), np.signbit(want[zeros]), where + " (sign of zero)")


def grid(*values: Sequence[float]) -> Callable[[str], tuple[Any, ...]]:
    """Every combination of the arguments' values."""
    return lambda dtype: tuple(x.ravel() for x in np.meshgrid(*[np.array(v).astype(dtype) for v in values]))


def normal(*shapes: tuple[int, ...]) -> Callable[[str], tuple[Any, ...]]:
    def make(dtype: str) -> tuple[Any, ...]:
        random = np.random.default_rng(0)
        if np.issubdtype(np.dtype(dtype), np.floating):
            return tuple(random.normal(size=s).astype(dtype) for s in shapes)
        return tuple(random.integers(-9, 9, size=s).astype(dtype) for s in shapes)

    return make


def with_index(shape: tuple[int, ...], *index: Any) -> Callable[[str], tuple[Any, ...]]:
    return lambda dtype: (*normal(shape)(dtype), *(np.array(i, np.int32) for i in index))


def edges(dtype: str) -> list[int]:
    """The integers of a dtype that rules stumble over."""
    info = np.iinfo(dtype)
    values = [0, 1, 2, 3, 7, 31, 100, info.max, info.min, info.max - 1]
    return values + ([-1, -2, -7, info.min + 1] if info.min < 0 else [])


def one_integer(dtype: str) -> tuple[Any, ...]:
    return (np.unique(np.array(edges(dtype), dtype)),)


def two_integers(dtype: str) -> tuple[Any, ...]:
    values = np.array(edges(dtype), dtype)
    return tuple(x.ravel() for x in np.meshgrid(values, values))
