"""How stiff a system is for an explicit method, seen from its steps and from those of an implicit one.

An explicit method is stable along an eigenvalue z of h J, the step's size times f's derivative by the state, that is negative
and no larger than its `stability_interval`. The largest eigenvalue of h J is told from below by a step of an explicit method,
and from above by a Jacobian. Norms are of components in units of their tolerances; of steps that are not judged, as they are.
"""

from __future__ import annotations

import functools
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import numpy as np

from ..kernel.scalar import Scalar, most
from .stability import stability_function
from .tableau import ButcherTableau

if TYPE_CHECKING:
    from ..kernel.device import View
    from ..linear import LinearSolver
    from ..loop.body import Body


@functools.lru_cache(maxsize=64)
def stability_interval(tableau: ButcherTableau) -> float:
    """The largest x so that |R(z)| <= 1 for all z from -x to 0, R the method's stability function."""
    stages = tableau.stages
    rows = [[*row, *[Fraction(0)] * (stages - len(row))] for row in ((), *tableau.a)]
    ascending = [float(coefficient) for coefficient in stability_function(rows, tableau.b)[0]]
    # R - 1 has a root at 0, which is left out; beyond the first root of the others that is a crossing, |R| is above 1.
    candidates = [root for ends in (ascending[1:], [ascending[0] + 1, *ascending[1:]]) for root in np.roots(ends[::-1])]
    real = sorted(-root.real for root in candidates if abs(root.imag) < 1e-9 * abs(root) and root.real < 0)
    return next(float(x) for x in real if abs(np.polyval(ascending[::-1], -x * (1 + 1e-6))) > 1)


def stages_at_one_time(tableau: ButcherTableau) -> tuple[int, int] | None:
    """The last two stages of a step that are at one time; None where no two are."""
    pairs = [(i, j) for j in range(tableau.stages) for i in range(j) if tableau.c[i] == tableau.c[j]]
    return pairs[-1] if pairs else None


def is_beyond(b: Body, tableau: ButcherTableau, rows: list[View], limit: float) -> Scalar:
    """Whether h J has an eigenvalue larger than `limit`, by two stages of a step at one time: h |k_j - k_i| / |Y_j - Y_i|.

    rows: the stages' k_i. Hairer, Wanner, Solving Ordinary Differential Equations II, section IV.2, on how explicit methods
    detect stiffness.
    """
    pair = stages_at_one_time(tableau)
    assert pair is not None
    first, last = pair
    states = [[*((), *tableau.a)[stage], *[Fraction(0)] * tableau.stages] for stage in pair]
    weights = [(b.real(float(y - x)), row) for x, y, row in zip(*states, rows, strict=False) if x != y]
    slopes, states_apart = b.variable(b.real(0)), b.variable(b.real(0))

    def add(index: Any) -> None:
        inverse = 1.0 / _scale(b, index, b.buf.state, b.buf.proposed_state)
        slope = (b.scalar(rows[last].load(index)) - b.scalar(rows[first].load(index))) * inverse
        apart = b.scalar(0.0)
        for weight, row in weights:
            apart = b.scalar(weight).fused(b.scalar(row.load(index)), apart)
        apart = apart * inverse
        slopes.set(slope.fused(slope, b.scalar(slopes.get())).value)
        states_apart.set(apart.fused(apart, b.scalar(states_apart.get())).value)

    b.each(add, b.primal)
    apart = b.scalar(states_apart.get())
    return (apart > 0.0) & (b.scalar(slopes.get()) > limit**2 * apart)


def measure_jacobian(b: Body, linear: LinearSolver) -> None:
    """Puts into the cell `jacobian_norm` the largest of the sums, over a row, of |J_ij| s_j / s_i, s the units of components.

    J is that of the step's beginning, and has just been evaluated.
    """
    state = b.buf.state
    norm, total, last = b.variable(b.real(0)), b.variable(b.real(0)), b.variable(b.emitter.constant("int64", -1), "int64")

    def add(row: Any, column: Any, value: Scalar) -> None:
        """Entries come row by row."""
        number = b.emitter.constant("int64", row) if isinstance(row, int) else row
        same = b.scalar(number, "int64").equals(b.scalar(last.get(), "int64"))
        before = b.emitter.select(same.value, total.get(), b.real(0))
        share = abs(value) * (_scale(b, column, state) / _scale(b, row, state))
        total.set((share + b.scalar(before)).value)
        last.set(number)
        norm.set(most(b.scalar(norm.get()), b.scalar(total.get())).value)

    linear.each_entry(b, add)
    b.put(jacobian_norm=b.scalar(norm.get()))


def _scale(b: Body, index: Any, *states: View) -> Scalar:
    """The unit of a component: its tolerance at the largest of these states; 1 where steps are not judged."""
    from ..controllers.norms import tolerance  # it imports Numba

    if not b.lane.problem.adaptive:
        return b.scalar(1.0)
    magnitude = functools.reduce(most, (abs(b.scalar(state.load(index))) for state in states))
    return b.scalar(tolerance(b, magnitude.value, index))
