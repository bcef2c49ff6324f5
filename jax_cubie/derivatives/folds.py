"""Folds of a user's functions over a trajectory, as JAX has them: over rows of all points, which a solve has saved.

A row is the time and the state, so that all tangents are there that its functions can depend on. Which points there are is held
fixed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from ..operands import Traced, window_of
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


def point(t: Any, y: Any, values: Mapping[str, Any]) -> Any:
    """A row."""
    return jnp.concatenate([t[None], y])


def points_of(folds: Sequence[Fold], given: Mapping[str, Any], problem: Problem) -> tuple[list[Saving], dict[str, Any]]:
    """The parts that save the points of folds, and their operands."""
    outputs, found, operands = (((problem.primal_states + 1,), problem.dtype),), {}, {}
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
    rows = solved[f"ys0_{_number_of(window)}"]
    there = jax.lax.stop_gradient(_are_points(fold, given, rows, solved["accepted"], end) & is_fine(solved["result"]))
    beside = jax.lax.stop_gradient(point(given["t0"], given["y0"], given))
    rows = jnp.where(there[:, None], rows, beside)  # what is not there may be no number
    init, update, result = (_of_inputs(functions[name], given) for name in fold.functions)

    def go_on(state: Any, following: Any) -> Any:
        (carry, begun), (row, counts) = state, following
        new = update(*carry, row[0], row[1:])
        if window.starts and not window.sampled:
            new = [jnp.where(begun, one, other) for one, other in zip(new, init(row[0], row[1:]), strict=True)]
        carry = [jnp.where(counts, one, other) for one, other in zip(new, carry, strict=True)]
        return (carry, begun | counts), None

    first = init(rows[0, 0], rows[0, 1:])
    (carry, begun), _ = jax.lax.scan(go_on, (first, there[0]), (rows[1:], there[1:]))
    return [jnp.where(begun, one, missing(str(one.dtype))) for one in result(*carry)]


def _number_of(window: Window) -> int:
    """Of the rows that a fold over it goes through: all over the ends of steps have the same."""
    return window.number + 1 if window.sampled else 0


def _sample_times(fold: Fold, given: Mapping[str, Any]) -> tuple[Any, Any]:
    """Where rows are saved, counted from t0, and the times of samples running forwards, some of which are behind t1."""
    span, every, begin = given["span"], given[fold.window.every], begin_of(fold.window, given)
    direction = jnp.where(span >= 0, 1, -1).astype(span.dtype)
    offsets = begin + direction * every * jnp.arange(fold.room, dtype=span.dtype)
    return jnp.clip(offsets, jnp.minimum(0, span), jnp.maximum(0, span)), direction * offsets


def _are_points(fold: Fold, given: Mapping[str, Any], rows: Any, accepted: Any, end: Any) -> Any:
    """Which rows are points."""
    window, direction = fold.window, jnp.where(given["span"] >= 0, 1, -1)
    if window.sampled:
        _, times = _sample_times(fold, given)
        return times <= direction * end + jnp.where(end == given["span"], LATE * given[window.every], 0)
    there = jnp.arange(len(rows)) <= accepted
    if window.starts:
        begin, since = direction * begin_of(window, given), direction * (rows[:, 0] - given["t0"])
        close = 4 * jnp.finfo(rows.dtype).eps * (jnp.abs(given["t0"]) + begin)
        there = there & (since >= begin - jnp.where(begin > 0, close, 0))
    return there


def _of_inputs(traced: Traced, given: Mapping[str, Any]) -> Callable[..., list[Any]]:
    """A function of a fold, of its inputs alone."""
    values = []
    for operand in traced.operands:
        window = window_of(traced.windows, operand)
        if operand in traced.numbers:  # nobody reads it
            values.append(jnp.zeros((), traced.numbers[operand]))
        else:
            values.append(given[operand] if window is None else given[operand][: window.rows])
    return lambda *inputs: evaluate(traced.call, *inputs, *values)
