"""A condition that ends a lane before t1: that the solution is a steady state."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import equinox as eqx

from ..controllers.tolerances import Tolerance, Tolerances, own_tolerances
from ..kernel.scalar import where
from ..loop import AdjointHooks, Hooks, Part, Step
from ..solution import CODES

if TYPE_CHECKING:
    from ..kernel.scalar import Scalar
    from ..loop.body import Body
    from ..loop.lane import Lane


class SteadyState(eqx.Module):
    """What `steady_state` makes."""

    rtol: Tolerance | None = None
    atol: Tolerance | None = None

    def __check_init__(self) -> None:
        Tolerances.check_all(self._given())

    def _given(self) -> dict[str, Tolerance]:
        return {name: tree for name in ("rtol", "atol") if (tree := getattr(self, name)) is not None}

    def operands(self, state: Any, others: Mapping[str, Any]) -> dict[str, Any]:
        """What the kernel is handed, for a state of the solve. others: its other operands, by their names.

        Raises TypeError or ValueError for numbers that are known and wrong, or not there at all.
        """
        return own_tolerances(
            "steady_state()", "steady_state(rtol=..., atol=...)", "steady", self._given(), state, others
        )


def steady_state(rtol: Tolerance | None = None, atol: Tolerance | None = None) -> SteadyState:
    """A condition for `solve(..., events=)`: the lane ends, with `RESULTS.event_occurred`, behind the first accepted step at
    whose end the root mean square of f(t, y) / (atol + rtol * |y|) is below 1.

    rtol, atol: a scalar each, or a pytree like y0; None: the solve's own. They are in units of the state per unit of time. What
    the steps' errors leave of f has to be below them: take them larger than the solve's, above all with explicit methods, whose
    steps grow until their errors are as large as allowed.

    The row of t1 then holds the state there, and `ts` when that was; rows of later save times hold NaN. Derivatives are those
    of the steps taken, with the time at which they ended held fixed; the state hardly changes with that any more.
    """
    return SteadyState(rtol, atol)


@dataclasses.dataclass(frozen=True)
class Steady(Part):
    """Ends a lane in a steady state."""

    @property
    def slopes(self) -> bool:
        return True

    @property
    def stops(self) -> bool:
        return True

    def hooks(self, lane: Lane) -> Hooks:
        def accepted(b: Body, step: Step) -> Scalar:
            return where(_is_steady(b), b.scalar(CODES["event_occurred"], "int32"), CODES["successful"])

        return Hooks(accepted=accepted)

    def adjoint(self, lane: Lane) -> AdjointHooks:
        return AdjointHooks()


def _is_steady(b: Body) -> Scalar:
    from ..controllers.norms import squares_over_own

    rhs, state = b.piece(b.lane.problem.method.end_rhs(b), 0), b.piece(b.buf.proposed_state, 0)
    return squares_over_own(b, "steady", lambda index: b.scalar(rhs.load(index)), state) < float(b.primal)
