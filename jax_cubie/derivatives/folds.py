"""Folds of a user's functions over a trajectory, as JAX has them: over rows of all points, which a solve has saved.

A row is the time, the state, and what the functions are handed of tables there, so that all tangents are there that they can
depend on. Which points there are is held fixed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from ..operands import LEG, TIME, Traced, window_of
from ..outputs import Saving
from ..outputs.summaries import LATE, Fold, Window, missing
from ..problem import Problem
from ..solution import is_fine
from .evaluation import evaluate


def begin_of(window: Window, given: Mapping[str, Any]) -> Any:
    """When a window begins, counted from t0, and no earlier than that. given: the operands."""
    span = given["span"]
    begin = jnp.zeros_like(span)
    return jnp.where(given[window.start] * span > 0, given[window.start], begin) if window.starts else begin


def _looked_up(field: Traced) -> tuple[str, ...]:
    """What functions are handed of tables, by name: rows, and where they are. field: one of the functions."""
    rows = (window.operand for window in field.windows if window.cursor != LEG)
    return (*rows, *(name for name in field.numbers if name != LEG))


def point_of(field: Traced) -> Callable[[Any, Any, Mapping[str, Any]], Any]:
    """The function that makes a row, of the time and the state, and of what else functions are handed, by name."""
    names = _looked_up(field)

    def point(t: Any, y: Any, values: Mapping[str, Any]) -> Any:
        return jnp.concatenate([t[None], y, *(values[name].reshape(-1).astype(y.dtype) for name in names)])

    return point


def points_of(
    folds: Sequence[Fold], field: Traced, given: Mapping[str, Any], problem: Problem
) -> tuple[list[Saving], dict[str, Any]]:
    """The parts that save the points of folds, and their operands."""
    row = jax.eval_shape(lambda: _beside(field, given))
    outputs, found, operands = ((row.shape, problem.dtype),), {}, {}
    for fold in folds:
        number = _number_of(fold.window)
        if number in found:
            continue
        if fold.window.sampled:
            offsets, _ = _sample_times(fold, given)
            operands |= {f"ts_{number}": given["t0"] + offsets, f"offsets_{number}": offsets}
            found[number] = Saving(False, fold.room, 0, False, 0, outputs, number=number)
        else:
            found[number] = Saving(True, 0, 1, False, fold.room, outputs, number=number)
    return list(found.values()), operands


def go_through(
    fold: Fold, functions: Mapping[str, Traced], given: Mapping[str, Any], solved: Mapping[str, Any], end: Any
) -> list[Any]:
    """What a fold gives; of a lane that failed what it would give of one point. solved: the results of the solve with its rows;
    end: when that ended, counted from t0."""
    window = fold.window
    init, update, result = (functions[name] for name in fold.functions)
    rows = solved[f"ys0_{_number_of(window)}"]
    there = jax.lax.stop_gradient(_are_points(fold, init, given, rows, solved["accepted"], end) & is_fine(solved["result"]))
    rows = jnp.where(there[:, None], rows, jax.lax.stop_gradient(_beside(init, given)))  # what is not there may be no number

    def go_on(state: Any, following: Any) -> Any:
        (carry, begun), (row, counts) = state, following
        new = _at_point(update, carry, row, given)
        if window.starts and not window.sampled:
            new = [jnp.where(begun, one, other) for one, other in zip(new, _at_point(init, (), row, given), strict=True)]
        carry = [jnp.where(counts, one, other) for one, other in zip(new, carry, strict=True)]
        return (carry, begun | counts), None

    first = _at_point(init, (), rows[0], given)
    (carry, begun), _ = jax.lax.scan(go_on, (first, there[0]), (rows[1:], there[1:]))
    found = evaluate(result.call, *carry, *_at_t0(result, given).values())
    return [jnp.where(begun, one, missing(str(one.dtype))) for one in found]


def _number_of(window: Window) -> int:
    """Of the rows that a fold over it goes through: all over the ends of steps have the same."""
    return window.number + 1 if window.sampled else 0


def _sample_times(fold: Fold, given: Mapping[str, Any]) -> tuple[Any, Any]:
    """Where rows are saved, counted from t0, and the times of samples running forwards, some of which are behind t1."""
    span, every, begin = given["span"], given[fold.window.every], begin_of(fold.window, given)
    direction = jnp.where(span >= 0, 1, -1).astype(span.dtype)
    offsets = begin + direction * every * jnp.arange(fold.room, dtype=span.dtype)
    return jnp.clip(offsets, jnp.minimum(0, span), jnp.maximum(0, span)), direction * offsets


def _are_points(fold: Fold, field: Traced, given: Mapping[str, Any], rows: Any, accepted: Any, end: Any) -> Any:
    """Which rows are points."""
    window, direction = fold.window, jnp.where(given["span"] >= 0, 1, -1)
    if window.sampled:
        _, times = _sample_times(fold, given)
        return times <= direction * end + jnp.where(end == given["span"], LATE * given[window.every], 0)
    there = jnp.arange(len(rows)) <= accepted
    if window.starts:
        begin, since = direction * begin_of(window, given), direction * (rows[:, 0] - _first_time(field, given))
        close = 4 * jnp.finfo(rows.dtype).eps * (jnp.abs(given["t0"]) + begin)
        there = there & (since >= begin - jnp.where(begin > 0, close, 0))
    return there


def _first_time(field: Traced, given: Mapping[str, Any]) -> Any:
    """t0 as functions are given it: beside tables time is counted from there."""
    return jnp.zeros_like(given["t0"]) if TIME in field.numbers else given["t0"]


def _at_t0(field: Traced, given: Mapping[str, Any]) -> dict[str, Any]:
    """What a function may be handed by name, in its order: all of the operands, but of tables the first rows."""
    found: dict[str, Any] = {}
    for name in field.operands:
        window = window_of(field.windows, name)
        if name in field.numbers:
            found[name] = given["t0"] if name == TIME else jnp.zeros((), field.numbers[name])
        else:
            found[name] = given[name] if window is None else given[name][: window.rows]
    return found


def _beside(field: Traced, given: Mapping[str, Any]) -> Any:
    """A row of t0."""
    return point_of(field)(_first_time(field, given), given["y0"], _at_t0(field, given))


def _at_point(traced: Traced, carry: Sequence[Any], row: Any, given: Mapping[str, Any]) -> list[Any]:
    """A function of a carry and of a point."""
    values, size = _at_t0(traced, given), given["y0"].size
    t, y, begin = row[0], row[1 : 1 + size], 1 + size
    for name in _looked_up(traced):
        one = values[name]
        values[name] = row[begin : begin + one.size].reshape(one.shape).astype(one.dtype)
        begin += one.size
    return evaluate(traced.call, *carry, t, y, *values.values())
