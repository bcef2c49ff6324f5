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
from ..operands import Result, numbered
from ..solution import CODES
from .saveat import is_sub

if TYPE_CHECKING:
    from ..kernel.scalar import Scalar
    from ..loop import Step
    from ..loop.lane import Lane

# The functions of rows, and how the names of their results begin; the number of the output follows.
ROWS = {"output": "ys", "observables": "observables"}


@dataclasses.dataclass(frozen=True)
class Saving(Part):
    """The rows of a solution: t0, then `points` given times and every `steps`-th accepted step in the order of time, then t1.

    max_steps: bounds the rows of steps, 0 without them. outputs: shape and dtype of each output of the function "output",
    that of `SaveAt.fn`; None where the state is saved itself. observables: the same of the function of that name, whose outputs
    are saved beside; None without one. clings: whether a given time that is an end of a leg, but for rounding, moves with that;
    and a result tells of each row whether it does. number: among several of them, whose names it is part of.
    """

    t0: bool
    points: int
    steps: int
    t1: bool
    max_steps: int
    outputs: tuple[tuple[tuple[int, ...], str], ...] | None
    observables: tuple[tuple[tuple[int, ...], str], ...] | None = None
    number: int | None = None
    clings: bool = False

    def named(self, word: str) -> str:
        """What it calls one of its operands, results, functions, counters or cells."""
        return numbered(word, self.number)

    @property
    def _written(self) -> dict[str, tuple[tuple[tuple[int, ...], str], ...]]:
        """Of the words of `ROWS` that there is a function of: shape and dtype of its outputs."""
        given = {"output": self.outputs, "observables": self.observables}
        return {word: outputs for word in ROWS if (outputs := given[word]) is not None}

    def until(self, step: Step) -> Scalar:
        """Up to which time points are saved in a step. Those that cling move with the nearest end of a leg."""
        return step.end if self.clings else step.until

    @property
    def functions(self) -> tuple[str, ...]:
        """The functions that are evaluated of each row."""
        return tuple(map(self.named, self._written))

    @property
    def own(self) -> tuple[str, ...]:
        """The result that has the state, where that is saved itself."""
        return (self.named("ys"),) if self.outputs is None else ()

    @property
    def keeps_times(self) -> bool:
        """Whether the kernel hands on the times of t1 and of the points: into a result, or to a function."""
        return self.steps > 0 or bool(self.functions)

    @property
    def inside(self) -> bool:
        return self.points > 0

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
        held = self.points and (self.functions or dimensions.moving)
        floats = (
            sum(math.prod(shape) for shape, kind in outputs if kind.startswith("float")) for outputs in self._written.values()
        )
        return {
            "output_state": dimensions.states if held else 0,
            "output_adjoint": dimensions.states if dimensions.backward and self.points else 0,
            "output_cotangent": max(floats, default=0) * dimensions.orders if dimensions.backward else 0,
        }

    def copies(self) -> dict[str, int]:
        """t0 and times equal to it, inside of steps, the ends of steps, t1."""
        count = self.t0 + 2 * (self.points > 0) + (self.steps > 0) + self.t1
        transposed = {f"{name}_vjp": count + self.t1 for name in self.functions}
        return dict.fromkeys(self.functions, count) | transposed

    def outputs_of(self, function: str) -> tuple[str, ...]:
        """Those of one of `functions`."""
        for word, outputs in self._written.items():
            if function == self.named(word):
                return tuple(self.named(f"{ROWS[word]}{leaf}") for leaf in range(len(outputs)))
        return ()

    def results(self, states: int, dtype: str) -> tuple[Result, ...]:
        """What the kernel writes a row at a time: the times where only it knows them, and each array of a point.

        Rows for steps that a lane did not take hold the largest value of the dtype, infinity in a float.
        """

        def rows_of(name: str, shape: tuple[int, ...], kind: str) -> Result:
            largest = True if kind == "bool" else float("inf") if kind.startswith("float") else int(np.iinfo(kind).max)
            return Result(name, (self.rows, *shape), kind, largest if self.steps else None)

        times = (dataclasses.replace(rows_of(self.named("times"), (), dtype), fixed=True),) if self.steps else ()
        own = tuple(rows_of(name, (states,), dtype) for name in self.own)
        given = [
            rows_of(name, shape, kind)
            for function, outputs in zip(self.functions, self._written.values(), strict=True)
            for name, (shape, kind) in zip(self.outputs_of(function), outputs, strict=True)
        ]
        clung = (Result(self.named("clung"), (self.rows,), "bool", unwritten=False),) if self.clings else ()
        return (*times, *own, *given, *clung)

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
        """The rows; of several the first answers for all, in the structure of `SaveAt.subs`."""
        if self.number is None:
            return self.saved(found, request)
        if self.number > 0:
            return {}
        rows = [part.saved(found, request) for part in request.problem.parts if isinstance(part, Saving)]
        structure = jax.tree.structure(request.subs, is_leaf=is_sub)
        return {name: jax.tree.unflatten(structure, [one[name] for one in rows]) for name in rows[0]}

    def saved(self, found: Mapping[str, Any], request: Any) -> dict[str, Any]:
        """The times and the values of the rows: "ts", "ys", and "observables" where there are some."""
        fields: dict[str, Any] = {}
        for name in self.own:
            fields["ys"] = request.state.unflatten(found[name])
        for word in self._written:
            function = self.named(word)
            leaves = [found[name] for name in self.outputs_of(function)]
            fields[ROWS[word]] = jax.tree.unflatten(request.structures[function], leaves)
        return {"ts": self._times(found, request), **fields}

    def _times(self, found: Mapping[str, Any], request: Any) -> Any:
        if self.steps:
            return found[self.named("times")]
        times = request.times
        saved = [times.t0[None]] if self.t0 else []
        saved += [request.ts[self.named("ts")]] if self.points else []
        saved += [self._end(found, times)[None]] if self.t1 else []
        return join(saved)

    @staticmethod
    def _end(found: Mapping[str, Any], times: Any) -> Any:
        """When the row of t1 was saved."""
        if "reached" not in found:
            return times.t1
        early = (found["result"] == CODES["event_occurred"]) & (found["reached"] != times.span)
        return jax.numpy.where(early, times.t0 + found["reached"], times.t1)
