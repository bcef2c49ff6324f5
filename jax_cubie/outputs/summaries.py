"""Numbers of a whole trajectory, once their functions are traced: static, and part of what chooses the machine code."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from ..buffers import Buffer
from ..loop import AdjointHooks, Dimensions, Hooks, Part
from ..operands import Result
from .quadrature import Quadrature, gauss, with_slopes
from .summary import Extrema

if TYPE_CHECKING:
    from ..loop.lane import Lane

# How much of the distance of samples the last one may lie behind t1: so much their sum may have been rounded up.
LATE = 1e-3


@dataclasses.dataclass(frozen=True)
class Window:
    """What of a trajectory is looked at. starts: from the operand `start` on, else from t0. sampled: at even distances, the
    operand `every`; else all of it."""

    number: int
    starts: bool
    sampled: bool

    @property
    def start(self) -> str:
        """When, counted from t0."""
        return f"summary_start_{self.number}"

    @property
    def every(self) -> str:
        return f"summary_every_{self.number}"

    @property
    def points(self) -> str:
        """The counter of points so far; of all of a trajectory, whether it has begun."""
        return f"summary_points_{self.number}"


@dataclasses.dataclass(frozen=True)
class Crossing:
    """A level that numbers go through. level: its operand. direction: 1, -1, or 0 for both. count, first, last: which of these
    are asked for."""

    level: str
    direction: int
    count: bool
    first: bool
    last: bool


@dataclasses.dataclass(frozen=True)
class Group:
    """Numbers and what is made of them together, over one window.

    function: of (t, y), whose `size` numbers they are; None: the state. slopes: whether f is the slope of the state. moving:
    the function that gives the numbers and then their slopes; None where nobody asks for these. order: of the method, which
    integrals are to be as exact as. total: whether there are any; spread: whether squares are summed, too. peaks, troughs: for
    how many there is room.
    """

    window: Window
    function: str | None
    moving: str | None
    size: int
    order: int
    slopes: bool
    total: bool = False
    spread: bool = False
    maximum: bool = False
    minimum: bool = False
    peaks: int = 0
    troughs: int = 0
    crossings: tuple[Crossing, ...] = ()

    @property
    def blocks(self) -> bool:
        """Whether there are integrals over steps, which are summed over blocks of these."""
        return self.total and not self.window.sampled

    @property
    def extrema(self) -> bool:
        """Whether local ones are looked for."""
        return bool(self.maximum or self.minimum or self.peaks or self.troughs)

    @property
    def turns(self) -> bool:
        """Whether they are looked for inside of steps, by slopes."""
        return self.extrema and self.moving is not None and not self.window.sampled

    @property
    def has_ends(self) -> bool:
        """Whether numbers at the beginning of a step, and their slopes, are those of the method."""
        slopes = self.slopes or not self.turns
        return self.function is None and not self.window.starts and not self.window.sampled and slopes

    @property
    def keeps_last(self) -> bool:
        """Whether the last point's numbers are kept, as they are not those of the method."""
        wanted = self.crossings or (self.peaks or self.troughs if self.window.sampled else self.turns)
        return bool(wanted) and not self.has_ends

    @property
    def quadrature(self) -> Quadrature | None:
        """What an integral over a step is made of; None where there is none."""
        if not self.blocks:
            return None
        return with_slopes(self.order) if self.has_ends and self.moving is not None else gauss(self.order)

    @functools.cached_property
    def places(self) -> dict[str, tuple[int, int]]:
        """Its words by name: where they begin, and how many they are."""
        n, sizes = self.size, {}
        if self.total:
            sizes |= {"total": n, "total_rest": n}
        if self.spread:
            sizes |= {"spread": n}
        if self.blocks:
            sizes |= {"reference": n, "partial": n}
            sizes |= {"squares": n} if self.spread else {}
        for name, wanted in (("max", self.maximum), ("min", self.minimum)):
            if wanted:
                sizes |= {name: n, f"{name}_time": n}
        for name, most in (("peaks", self.peaks), ("troughs", self.troughs)):
            if most:
                sizes |= {f"{name}_number": n, f"{name}_times": most * n, f"{name}_values": most * n}
        for number, crossing in enumerate(self.crossings):
            names = [name for name in ("count", "first", "last") if getattr(crossing, name)]
            sizes |= {f"{name}_{number}": n for name in names}
        if self.keeps_last:
            sizes |= {"before": n}
            if self.turns or self.peaks or self.troughs:
                sizes |= {"slope": n}
        found, begin = {}, 0
        for name, size in sizes.items():
            found[name] = (begin, size)
            begin += size
        return found

    @property
    def words(self) -> int:
        return sum(size for _, size in self.places.values())

    @property
    def asks_ends(self) -> bool:
        """Whether its numbers at a point are evaluated for their own sake, not for an integral's: by `moving` if it `turns`."""
        wanted = self.window.sampled or self.turns or self.extrema or bool(self.crossings)
        return wanted and not self.has_ends and (self.turns or self.function is not None)

    @property
    def points_at_once(self) -> int:
        """Of how many points its numbers lie in `summarised_values` at once, for an integral."""
        return len(self.quadrature.points) if self.quadrature is not None and self.function is not None else 0

    @property
    def search(self) -> tuple[int, int]:
        """The words there of what is searched for inside of steps: from where on, behind the numbers at the end of the step,
        and up to where."""
        begin = self.size * (2 if self.turns else 1) if self.asks_ends else 0
        searches = self.function is not None and any(crossing.first or crossing.last for crossing in self.crossings)
        return begin, begin + self.size * (2 if self.turns else int(searches and not self.window.sampled))

    def copies(self) -> dict[str, int]:
        """At how many places it evaluates each function."""
        points, ends = self.points_at_once, 2 * self.asks_ends
        searches = 0 if self.window.sampled else sum(crossing.first or crossing.last for crossing in self.crossings)
        found = {} if self.moving is None else {self.moving: self.turns + ends * self.turns}
        return found if self.function is None else {**found, self.function: points + searches + ends * (not self.turns)}


@dataclasses.dataclass(frozen=True)
class Fold:
    """What three functions of the user's make of points, which are the ends of steps where the window is not sampled.

    init: of (t, y); update: of the carry, t and y; result: of the carry. The carry is `floats` numbers of the solve's dtype
    and `integers` as wide as those. outputs: shape and dtype of each array of the result. room: for how many points behind t0,
    or samples, derivatives have rows; refusal: why there are no derivatives, if so.
    """

    window: Window
    init: str
    update: str
    result: str
    floats: int
    integers: int
    outputs: tuple[tuple[tuple[int, ...], str], ...]
    room: int = dataclasses.field(metadata={"content": None})
    refusal: str | None = dataclasses.field(metadata={"content": None})

    @property
    def functions(self) -> tuple[str, str, str]:
        return self.init, self.update, self.result

    @property
    def words(self) -> int:
        """Of the carry, and of the next one while that is made."""
        return 2 * (self.floats + self.integers)


@dataclasses.dataclass(frozen=True)
class Asked:
    """A summary. kind: as in `Summary`. owner: the number of its group, or of its fold. which: of the group's crossings."""

    kind: str
    owner: int
    which: int = 0


@dataclasses.dataclass(frozen=True)
class Summaries(Part):
    """Summaries of a trajectory. asked: each of them, in their order; its results are `summary{number}` and the like.

    What there is beside them that their derivatives depend on: beside_events: of the user's; beside_leaps: jumps of the state.
    """

    windows: tuple[Window, ...]
    groups: tuple[Group, ...]
    folds: tuple[Fold, ...]
    asked: tuple[Asked, ...]
    beside_events: bool = dataclasses.field(default=False, metadata={"content": None})
    beside_leaps: bool = dataclasses.field(default=False, metadata={"content": None})

    @property
    def inside(self) -> bool:
        steps = [group for group in self.groups if not group.window.sampled]
        between = [group for group in steps if group.turns or any(c.first or c.last for c in group.crossings)]
        summed = [group.quadrature for group in steps if group.quadrature is not None]
        return (
            bool(between)
            or any(one.points for one in summed)
            or any(window.sampled for window in self.windows)
            or any(group.window.starts for group in steps)
        )

    @property
    def slopes(self) -> bool:
        of_state = (group for group in self.groups if group.has_ends)
        return any(group.turns or (group.quadrature is not None and any(group.quadrature.slopes)) for group in of_state)

    @property
    def counters(self) -> tuple[str, ...]:
        return tuple(window.points for window in self.windows if self.counts(window))

    def counts(self, window: Window) -> bool:
        """Whether the points of a window are counted."""
        return window.sampled or window.starts or any(fold.window == window for fold in self.folds)

    @staticmethod
    def buffers() -> tuple[Buffer, ...]:
        return (
            Buffer("state_summary", 0),
            Buffer("observable_summary", 0),
            Buffer("summarised_state", 0, live=frozenset({"step/output"})),
            Buffer("summarised_values", 0, live=frozenset({"step/output"})),
        )

    def buffer_of(self, group: Group) -> tuple[str, int]:
        """The buffer in which a group's words are, and where they begin."""
        begin = 0
        for other in self.groups:
            if other is group:
                break
            begin += other.words if (other.function is None) == (group.function is None) else 0
        return "state_summary" if group.function is None else "observable_summary", begin

    def begin_of(self, fold: Fold) -> int:
        """Where a fold's words begin in `observable_summary`."""
        of_functions = sum(group.words for group in self.groups if group.function is not None)
        return of_functions + sum(other.words for other in self.folds[: self.folds.index(fold)])

    def sizes(self, dimensions: Dimensions) -> dict[str, int]:
        names = ("state_summary", "observable_summary", "summarised_state", "summarised_values")
        if dimensions.backward:
            return dict.fromkeys(names, 0)
        words = [sum(group.words for group in self.groups if (group.function is None) == own) for own in (True, False)]
        values = [max(group.size * group.points_at_once, group.search[1]) for group in self.groups]
        return {
            "state_summary": words[0],
            "observable_summary": words[1] + sum(fold.words for fold in self.folds),
            "summarised_state": dimensions.primal if self.inside else 0,
            "summarised_values": max(values, default=0),
        }

    def copies(self) -> dict[str, int]:
        found: dict[str, int] = {}
        for group in self.groups:
            for name, count in group.copies().items():
                found[name] = found.get(name, 0) + count
        for fold in self.folds:
            found |= {fold.init: 2, fold.update: 1, fold.result: 1}
        return found

    @property
    def refused_operands(self) -> tuple[str, ...]:
        times = [(window.start, window.starts) for window in self.windows]
        times += [(window.every, window.sampled) for window in self.windows]
        levels = [crossing.level for group in self.groups for crossing in group.crossings]
        return (*(name for name, given in times if given), *levels)

    def results(self, states: int, dtype: str) -> tuple[Result, ...]:
        return tuple(one for number in range(len(self.asked)) for one in self.results_of(number, dtype))

    def results_of(self, number: int, dtype: str) -> tuple[Result, ...]:
        """Those of one summary: of peaks and troughs their number, times and values; of a fold each array."""
        asked, refusal = self.asked[number], self.refusal_of(number)
        if asked.kind == "fold":
            outputs = enumerate(self.folds[asked.owner].outputs)
            named = [(f"_{place}", shape, kind) for place, (shape, kind) in outputs]
        else:
            group = self.groups[asked.owner]
            shape, rows = (group.size,), (getattr(group, asked.kind, 0), group.size)
            named = [("", shape, "int32" if asked.kind == "crossings" else dtype)]
            if asked.kind in ("peaks", "troughs"):
                named = [("_number", shape, "int32"), ("_times", rows, dtype), ("_values", rows, dtype)]
        return tuple(Result(f"summary{number}{end}", shape, kind, refusal=refusal, apart=True) for end, shape, kind in named)

    def refusal_of(self, number: int) -> str | None:
        """Why a summary has no derivative; None where it has one."""
        asked = self.asked[number]
        if asked.kind == "fold":
            return self.folds[asked.owner].refusal
        return None

    def hooks(self, lane: Lane) -> Hooks:
        from .summary_points import build_hooks

        return build_hooks(lane, self)

    def adjoint(self, lane: Lane) -> AdjointHooks:
        return AdjointHooks()

    def present(self, found: Mapping[str, Any], request: Any) -> dict[str, Any]:
        presented = {}
        for number, (asked, (name, shaped)) in enumerate(zip(self.asked, request.summaries.items(), strict=True)):
            if asked.kind == "fold":
                outputs = self.folds[asked.owner].outputs
                leaves = [found[f"summary{number}_{place}"] for place in range(len(outputs))]
                presented[name] = jax.tree.unflatten(shaped, leaves)
            elif asked.kind in ("peaks", "troughs"):
                arrays = (found[f"summary{number}_{part}"] for part in Extrema._fields)
                presented[name] = Extrema(*map(shaped.unflatten, arrays))
            else:
                presented[name] = shaped.unflatten(found[f"summary{number}"])
        return {"summaries": presented}


def missing(kind: str) -> Any:
    """What stands for a number that there is not: NaN, in integers the lowest of their range."""
    return False if kind == "bool" else math.nan if kind.startswith("float") else int(np.iinfo(kind).min)
