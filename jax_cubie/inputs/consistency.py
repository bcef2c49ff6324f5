"""Algebraic equations behind jumps: of what has changed there, the components that they say follow."""

from __future__ import annotations

import contextlib
import dataclasses
from typing import TYPE_CHECKING

from ..kernel.scalar import Scalar, where
from ..loop import AdjointHooks, Hooks, Part
from ..operands import primal_name
from ..solution import CODES

if TYPE_CHECKING:
    from ..loop.body import Body
    from ..loop.lane import Lane

# The time, since t0 and forwards, at which they were solved for last; 0: not since t0.
_SINCE = "consistent_since"


@dataclasses.dataclass(frozen=True)
class Consistency(Part):
    """Solves for the algebraic components of a mass matrix where the state or f jumps, as at t0: behind the parts that change
    the state, in front of those that look at what has come of it. at_start: whether something may jump at t0, too."""

    at_start: bool

    @property
    def remembered(self) -> tuple[tuple[str, str], ...]:
        return ((_SINCE, "float"),)

    @property
    def transposed(self) -> tuple[str, ...]:
        return ("f",)  # not by all lanes of a warp at the same time

    def copies(self) -> dict[str, int]:
        return {"f": 1 + self.at_start, primal_name("f"): 1 + self.at_start, "f_vjp": 1 + self.at_start}

    def hooks(self, lane: Lane) -> Hooks:
        lane.cell(_SINCE, lane.problem.dtype)
        constraints, goes_on = lane.problem.method.constraints, lane.problem.goes_on
        assert constraints is not None

        def start(b: Body) -> Scalar | None:
            b.put(**{_SINCE: 0})
            return _code(b, constraints.find_state(b)) if self.at_start else None

        def corner(b: Body, time: Scalar) -> Scalar:
            code = b.variable(b.int32(CODES["successful"]), "int32")
            with b.when(b.get("restarts")) if goes_on else contextlib.nullcontext():
                b.put(**{_SINCE: time})
                code.set(_code(b, constraints.find_state(b, b.scalar(b.direction) * time)).value)
            return b.scalar(code.get(), "int32")

        return Hooks(start=start, corner=corner)

    def adjoint(self, lane: Lane) -> AdjointHooks:
        """Behind a jump the state is that of the beginning of the step at hand, once that is gone back over."""
        from ..loop.cotangents import cell_of, gather  # apart, so that no solve imports llvmlite

        constraints = lane.problem.method.constraints
        assert constraints is not None
        jumping = [part.hooks(lane).start for part in lane.problem.parts if part.jumps]

        def begin(b: Body) -> None:
            for start in jumping:  # a lane without a step ends behind the jumps at t0
                assert start is not None
                start(b)
            constraints.find_state(b)
            b.counter("jumps").set(b.int32(0))

        def end(b: Body) -> None:
            constraints.adjoint_of_state(b)
            # In front of them it was what comes of y0.
            b.counter("jumps").set(b.int32(0))
            for piece in lane.problem.pieces:
                b.begin_piece(piece)
            constraints.find_state(b)

        def begun(b: Body) -> None:
            time = b.get("start")
            first = (time > 0.0) & time.equals(b.get(_SINCE))
            if lane.problem.adaptive:
                first = first & b.get("residue").equals(0.0)
            with b.when(first):
                for order in lane.adjoint.orders:
                    b.put(**{cell_of("start", order): 0})
                constraints.adjoint_of_state(b, b.scalar(b.direction) * time)
                for order in lane.adjoint.orders:
                    gather(b, **{f"pending_{order}": b.get(cell_of("start", order))})

        return AdjointHooks(begin=begin if self.at_start else None, end=end if self.at_start else None, begun=begun)


def _code(b: Body, found: Scalar) -> Scalar:
    return where(found, b.scalar(CODES["successful"], "int32"), CODES["inconsistent_initial_state"])
