"""What a backward pass is asked for."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..problem import Problem

# Operands whose cotangents gather in cells, one for each order.
TIMES = ("t0", "span", "dt0", "t1")
# Those whose cotangents are written as they are come to.
TIME_ARRAYS = ("offsets", "ts", "step_ends")


@dataclasses.dataclass(frozen=True)
class Adjoint:
    """A backward pass.

    wrt: the operands whose cotangents it gives. cotangents: the results whose cotangents it is handed. slots: of its
    checkpoints.
    """

    wrt: tuple[str, ...]
    cotangents: tuple[str, ...]
    slots: int

    @property
    def orders(self) -> tuple[int, ...]:
        """Of which orders times have cotangents."""
        names = [name.partition(".") for name in self.wrt]
        return tuple(sorted({int(order or 0) for root, _, order in names if root in (*TIMES, *TIME_ARRAYS)}))

    def offsets(self, problem: Problem) -> list[tuple[str, int, str]]:
        """Each operand of the user's functions in `wrt`, with where in `operand_adjoint` it begins, and its dtype."""
        named = {operand.name: operand for operand in problem.operands}
        found, begin = [], 0
        for name in self.wrt:
            if is_of_functions(name):
                found.append((name, begin, named[name].dtype))
                begin += named[name].size
        return found

    def words(self, problem: Problem) -> int:
        """Of `operand_adjoint`."""
        named = {operand.name: operand for operand in problem.operands}
        return sum(named[name].size for name in self.wrt if is_of_functions(name))


def is_of_functions(name: str) -> bool:
    """Whether an operand is one of the user's functions: "f0", "f1", ..."""
    root = name.partition(".")[0]
    return root[:1] == "f" and root[1:].isdigit()
