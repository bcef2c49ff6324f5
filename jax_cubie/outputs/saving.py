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
from ..operands import Result, numbered, primal_of
from ..solution import CODES
from .saveat import is_sub

if TYPE_CHECKING:
    from ..loop.lane import Lane


@dataclasses.dataclass(frozen=True)
class Saving(Part):
    """The rows of a solution: t0, then `points` given times and every `steps`-th accepted step in the order of time, then t1.

    max_steps: bounds the rows of steps, 0 without them. outputs: shape and dtype of each output of the function "output",
    that of `SaveAt.fn`; None where the state is saved itself. number: among several of them, whose names it is part of.
    """

    t0: bool
    points: int
    steps: int
    t1: bool
    max_steps: int
    outputs: tuple[tuple[tuple[int, ...], str], ...] | None
    number: int | None = None

    def named(self, word: str) -> str:
        """What it calls one of its operands, results, functions, counters or cells."""
        return numbered(word, self.number)

    @property
    def keeps_times(self) -> bool:
        """Whether the kernel hands on the times of t1 and of the points: into a result, or to a function."""
        return self.steps > 0 or self.outputs is not None

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
        return tuple(map(self.named, ("row", "points") if self.steps else ("row",)))

    @staticmethod
    def buffers() -> tuple[Buffer, ...]:
        return (
            Buffer("output_state", 0, aliases="error", live=frozenset({"step/output"})),
            Buffer("output_adjoint", 0, live=BACKWARD),
            Buffer("output_cotangent", 0, live=BACKWARD),
        )

    def sizes(self, dimensions: Dimensions) -> dict[str, int]:
        held = self.points and (self.outputs is not None or dimensions.moving)
        outputs = sum(math.prod(shape) for shape, kind in self.outputs or () if kind.startswith("float"))
        return {
            "output_state": dimensions.states if held else 0,
            "output_adjoint": dimensions.states if dimensions.backward and self.points else 0,
            "output_cotangent": outputs * dimensions.orders if dimensions.backward else 0,
        }

    def copies(self) -> dict[str, int]:
        """t0 and times equal to it, inside of steps, the ends of steps, t1."""
        count = self.t0 + 2 * (self.points > 0) + (self.steps > 0) + self.t1
        output = self.named("output")
        return {output: count, f"{output}_vjp": count + self.t1}

    def outputs_of(self, function: str) -> tuple[str, ...]:
        return self._rows if function == self.named("output") else ()

    @property
    def _rows(self) -> tuple[str, ...]:
        """The results that a row consists of, but for its time."""
        words = ("ys",) if self.outputs is None else (f"ys{leaf}" for leaf in range(len(self.outputs)))
        return tuple(map(self.named, words))

    def is_row(self, result: Result) -> bool:
        """Whether a result is one of those, or tangents of one."""
        return primal_of(result.name) in self._rows

    def results(self, states: int, dtype: str) -> tuple[Result, ...]:
        """What the kernel writes a row at a time: the times where only it knows them, and each array of a point.

        Rows for steps that a lane did not take hold the largest value of the dtype, infinity in a float.
        """

        def rows_of(name: str, shape: tuple[int, ...], kind: str) -> Result:
            largest = True if kind == "bool" else float("inf") if kind.startswith("float") else int(np.iinfo(kind).max)
            return Result(name, (self.rows, *shape), kind, largest if self.steps else None)

        times = (dataclasses.replace(rows_of(self.named("times"), (), dtype), fixed=True),) if self.steps else ()
        kinds = (((states,), dtype),) if self.outputs is None else self.outputs
        return (*times, *(rows_of(name, shape, kind) for name, (shape, kind) in zip(self._rows, kinds, strict=True)))

    def hooks(self, lane: Lane) -> Hooks:
        from .save_rows import build_hooks

        return build_hooks(lane, self)

    @property
    def remembered(self) -> tuple[tuple[str, str], ...]:
        return ((self.named("saving_until"), "int32"),) if self.steps else ()

    @property
    def remembered_counters(self) -> tuple[str, ...]:
        return self.counters if self.points or self.steps else ()

    def adjoint(self, lane: Lane) -> AdjointHooks:
        from .save_adjoints import build_adjoint

        return build_adjoint(lane, self)

    def present(self, found: Mapping[str, Any], request: Any) -> dict[str, Any]:
        """The times and the values; of several the first answers for all, in the structure of `SaveAt.subs`."""
        if self.number is None:
            ts, ys = self.saved(found, request)
            return {"ts": ts, "ys": ys}
        if self.number > 0:
            return {}
        pairs = [part.saved(found, request) for part in request.problem.parts if isinstance(part, Saving)]
        structure = jax.tree.structure(request.subs, is_leaf=is_sub)
        ts, ys = (jax.tree.unflatten(structure, column) for column in zip(*pairs, strict=True))
        return {"ts": ts, "ys": ys}

    def saved(self, found: Mapping[str, Any], request: Any) -> tuple[Any, Any]:
        """The times and the values of the rows."""
        times, rows = request.times, [found[name] for name in self._rows]
        if self.outputs is None:
            ys = request.state.unflatten(*rows)
        else:
            ys = jax.tree.unflatten(request.structures[self.named("output")], rows)
        if self.steps:
            return found[self.named("times")], ys
        saved = [times.t0[None]] if self.t0 else []
        saved += [request.ts[self.named("ts")]] if self.points else []
        saved += [self._end(found, times)[None]] if self.t1 else []
        return join(saved), ys

    @staticmethod
    def _end(found: Mapping[str, Any], times: Any) -> Any:
        """When the row of t1 was saved."""
        if "reached" not in found:
            return times.t1
        early = (found["result"] == CODES["event_occurred"]) & (found["reached"] != times.span)
        return jax.numpy.where(early, times.t0 + found["reached"], times.t1)
