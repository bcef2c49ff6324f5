"""What a kernel saves, once its function is traced: static, and part of what chooses the machine code."""

from __future__ import annotations

import dataclasses

from ..operands import Result
from ..translate import Program


@dataclasses.dataclass(frozen=True)
class Saving:
    """The rows of a solution: t0, then `points` given times and every `steps`-th accepted step in the order of time, then t1.

    max_steps: bounds the rows of steps, 0 without them. function: the program of `SaveAt.fn`, None where the state is saved
    itself; its inputs after time and state are the operands numbered by `operands`.
    """

    t0: bool
    points: int
    steps: int
    t1: bool
    max_steps: int
    function: Program | None
    operands: tuple[int, ...] = ()

    @property
    def keeps_times(self) -> bool:
        """Whether the kernel hands on the times of t1 and of the points: into a result, or to a function."""
        return self.steps > 0 or self.function is not None

    @property
    def rows(self) -> int:
        """Rows of the solution. A saved step that ends at t1 stands for t1, too."""
        stepped = self.max_steps // self.steps if self.steps else 0
        end = self.t1 and (not self.steps or self.max_steps % self.steps != 0)
        return int(self.t0) + self.points + stepped + int(end)

    def results(self, states: int, dtype: str) -> tuple[Result, ...]:
        """What the kernel writes a row at a time: the times where only it knows them, and each array of a point."""
        times = (Result("times", (self.rows,), dtype),) if self.steps else ()
        if self.function is None:
            return (*times, Result("ys", (self.rows, states), dtype))
        leaves = enumerate(self.function.outputs)
        return (*times, *(Result(f"ys{number}", (self.rows, *shape), kind) for number, (shape, kind) in leaves))

    def content(self) -> tuple:
        """What machine code depends on, as plain data."""
        function = None if self.function is None else self.function.digest
        return (self.t0, self.points, self.steps, self.t1, self.rows, function, self.operands)
