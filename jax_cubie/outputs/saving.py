"""What a kernel saves, once its function is traced: static, and part of what chooses the machine code."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from ..buffers import BACKWARD, Buffer
from ..kernel.partition import join
from ..loop import AdjointHooks, Dimensions, Hooks, Part
from ..operands import ROWS, Result
from ..solution import CODES

if TYPE_CHECKING:
    from ..loop.lane import Lane


# The fields that tell of the functions of rows.
_FIELDS = {"output": "outputs", "observables": "observables"}


@dataclasses.dataclass(frozen=True)
class Saving(Part):
    """The rows of a solution: t0, then `points` given times and every `steps`-th accepted step in the order of time, then t1.

    max_steps: bounds the rows of steps, 0 without them. outputs: shape and dtype of each output of the function "output",
    that of `SaveAt.fn`; None where the state is saved itself. observables: the same of the function of that name, whose outputs
    are saved beside; None without one.
    """

    t0: bool
    points: int
    steps: int
    t1: bool
    max_steps: int
    outputs: tuple[tuple[tuple[int, ...], str], ...] | None
    observables: tuple[tuple[tuple[int, ...], str], ...] | None = None

    @property
    def functions(self) -> dict[str, tuple[tuple[tuple[int, ...], str], ...]]:
        """The functions that are evaluated of each row, by name, with shape and dtype of their outputs."""
        return {name: outputs for name in ROWS if (outputs := getattr(self, _FIELDS[name])) is not None}

    @property
    def keeps_times(self) -> bool:
        """Whether the kernel hands on the times of t1 and of the points: into a result, or to a function."""
        return self.steps > 0 or bool(self.functions)

    @property
    def inside(self) -> bool:
        return self.points > 0

    @property
    def stops(self) -> bool:
        return False

    @property
    def rows(self) -> int:
        """Rows of the solution. A saved step that ends at t1 stands for t1, too."""
        stepped = self.max_steps // self.steps if self.steps else 0
        end = self.t1 and (not self.steps or self.max_steps % self.steps != 0)
        return int(self.t0) + self.points + stepped + int(end)

    @property
    def counters(self) -> tuple[str, ...]:
        """The row that is written next, and with steps between them the save times behind."""
        return ("row", "points") if self.steps else ("row",)

    @staticmethod
    def buffers() -> tuple[Buffer, ...]:
        return (
            Buffer("output_state", 0, aliases="error", live=frozenset({"step/output"})),
            Buffer("output_adjoint", 0, live=BACKWARD),
            Buffer("output_cotangent", 0, live=BACKWARD),
        )

    def sizes(self, dimensions: Dimensions) -> dict[str, int]:
        held = self.points and (self.functions or dimensions.moving)
        floats = (
            sum(math.prod(shape) for shape, kind in outputs if kind.startswith("float")) for outputs in self.functions.values()
        )
        return {
            "output_state": dimensions.states if held else 0,
            "output_adjoint": dimensions.states if dimensions.backward and self.points else 0,
            "output_cotangent": max(floats, default=0) * dimensions.orders if dimensions.backward else 0,
        }

    def copies(self) -> dict[str, int]:
        """t0 and times equal to it, inside of steps, the ends of steps, t1."""
        count = self.t0 + 2 * (self.points > 0) + (self.steps > 0) + self.t1
        return {name: times for one in ROWS for name, times in ((one, count), (f"{one}_vjp", count + self.t1))}

    def results(self, states: int, dtype: str) -> tuple[Result, ...]:
        """What the kernel writes a row at a time: the times where only it knows them, and each array of a point.

        Rows for steps that a lane did not take hold the largest value of the dtype, infinity in a float.
        """

        def rows_of(name: str, shape: tuple[int, ...], kind: str) -> Result:
            largest = True if kind == "bool" else float("inf") if kind.startswith("float") else int(np.iinfo(kind).max)
            return Result(name, (self.rows, *shape), kind, largest if self.steps else None)

        times = (rows_of("times", (), dtype),) if self.steps else ()
        state = (rows_of("ys", (states,), dtype),) if self.outputs is None else ()
        leaves = [(ROWS[name], *leaf) for name, outputs in self.functions.items() for leaf in enumerate(outputs)]
        return (*times, *state, *(rows_of(f"{begin}{number}", shape, kind) for begin, number, (shape, kind) in leaves))

    def hooks(self, lane: Lane) -> Hooks:
        from .save_rows import build_hooks

        return build_hooks(lane, self)

    @property
    def remembered(self) -> tuple[tuple[str, str], ...]:
        return (("saving_until", "int32"),) if self.steps else ()

    @property
    def remembered_counters(self) -> tuple[str, ...]:
        return (("row", "points") if self.steps else ("row",)) if self.points or self.steps else ()

    def adjoint(self, lane: Lane) -> AdjointHooks:
        from .save_adjoints import build_adjoint

        return build_adjoint(lane, self)

    def present(self, found: Mapping[str, Any], request: Any) -> dict[str, Any]:
        times = request.times
        if self.outputs is None:
            ys = request.state.unflatten(found["ys"])
        else:
            ys = self._unflatten("output", found, request)
        rows = {"ys": ys}
        if self.observables is not None:
            rows["observables"] = self._unflatten("observables", found, request)
        if self.steps:
            return {"ts": found["times"], **rows}
        saved = [times.t0[None]] if self.t0 else []
        saved += [times.ts] if self.points else []
        saved += [self._end(found, times)[None]] if self.t1 else []
        return {"ts": join(saved), **rows}

    def _unflatten(self, function: str, found: Mapping[str, Any], request: Any) -> Any:
        """What a function gave, in its own structure."""
        count = len(self.functions[function])
        return jax.tree.unflatten(request.structures[function], [found[f"{ROWS[function]}{number}"] for number in range(count)])

    @staticmethod
    def _end(found: Mapping[str, Any], times: Any) -> Any:
        """When the row of t1 was saved."""
        if "reached" not in found:
            return times.t1
        early = (found["result"] == CODES["event_occurred"]) & (found["reached"] != times.span)
        return jax.numpy.where(early, times.t0 + found["reached"], times.t1)
