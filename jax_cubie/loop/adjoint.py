"""What a backward pass is asked for."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from ..operands import MASS, window_of, word_of

if TYPE_CHECKING:
    from ..plan import Plan

# Operands whose cotangents gather in cells, one for each order.
TIMES = ("t0", "span", "dt0", "t1")
# Likewise, of which there may be several, by number.
NUMBERED_TIMES = ("sum_start", "sum_every")
# Those whose cotangents are written as they are come to; and these with what else is.
TIME_ARRAYS = ("offsets", "ts", "step_ends", "jump_times")
WRITTEN = (*TIME_ARRAYS, "jump_increments")
# Up to so many elements a lane keeps a cotangent by itself, until its end.
_ALONE = 32


@dataclasses.dataclass(frozen=True)
class Adjoint:
    """A backward pass.

    wrt: the operands whose cotangents it gives. cotangents: the results whose cotangents it is handed. slots: of its
    checkpoints; windows: between these. summed: those of `wrt` of which only sums over lanes are asked for; they belong to the
    user's functions. moving: the orders of times that depend on the state.
    """

    wrt: tuple[str, ...]
    cotangents: tuple[str, ...]
    slots: int
    windows: int
    summed: frozenset[str] = frozenset()
    moving: tuple[int, ...] = ()

    @property
    def orders(self) -> tuple[int, ...]:
        """Of which orders times have cotangents."""
        times = (*TIMES, *NUMBERED_TIMES, *TIME_ARRAYS)
        orders = {int(name.partition(".")[2] or 0) for name in self.wrt if word_of(name) in times}
        return tuple(sorted(orders.union(self.moving)))

    def together(self, plan: Plan) -> frozenset[str]:
        """The operands whose cotangents the threads of a warp sum wherever they come to one, and keep none of their own: large
        ones, that no function but f has a share in, and of which all lanes have the same elements at the same time."""
        if plan.target.platform == "cpu":
            return frozenset()
        named = {operand.name: operand for operand in plan.words.operands}
        outputs = {f"{name}_vjp" for name in plan.problem.output_functions}
        outputs |= {f"{name}_vjp" for part in plan.problem.parts for name in part.transposed}
        read = {name for function in plan.functions if function.name in outputs for name in function.operands}
        read |= {name for function in plan.functions for name in named if window_of(function.windows, name) is not None}
        return frozenset(name for name in self.summed if named[name].size > _ALONE and name not in read)

    def offsets(self, plan: Plan) -> list[tuple[str, int, str]]:
        """Each operand of the user's functions in `wrt` that is not summed together, with where in `operand_adjoint` it begins,
        and its dtype."""
        named = {operand.name: operand for operand in plan.words.operands}
        found, begin, together = [], 0, self.together(plan)
        for name in self.wrt:
            if is_of_functions(name) and name not in together:
                found.append((name, begin, named[name].dtype))
                begin += named[name].size
        return found

    def words(self, plan: Plan) -> int:
        """Of `operand_adjoint`."""
        named = {operand.name: operand for operand in plan.words.operands}
        return sum(named[name].size for name, _, _ in self.offsets(plan))


def is_of_functions(name: str) -> bool:
    """Whether an operand is one of the user's functions: "f0", "f1", ..., or the mass matrix, which goes with them."""
    root = name.partition(".")[0]
    return root == MASS or (root[:1] == "f" and root[1:].isdigit())
