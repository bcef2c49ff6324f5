"""What summaries write at the end of a lane."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..kernel.scalar import Scalar, where
from ..loop.functions import into_row
from ..solution import FINE
from .summaries import missing
from .summary_words import Kept, begin_of, call_at

if TYPE_CHECKING:
    from ..kernel.device import View
    from ..loop.body import Body
    from ..loop.lane import Lane
    from .summaries import Asked, Fold, Group, Summaries
    from .summary_sums import Sums


class Results:
    """Writes them."""

    def __init__(self, lane: Lane, part: Summaries, kept: Kept, sums: Sums):
        self._lane, self._part, self._kept, self._sums = lane, part, kept, sums

    def end(self, b: Body, result: Scalar) -> Scalar:
        """Writes the results."""
        fine = result.equals(FINE[0])
        if b.lane.problem.stops:
            fine = fine | result.equals(FINE[1])
        for group in self._part.groups:
            if group.blocks:
                self._sums.end(b, group, b.get("summary_reached"), b.scalar(0.0))
        for number, asked in enumerate(self._part.asked):
            if asked.kind == "fold":
                self._write_fold(b, number, self._part.folds[asked.owner], fine)
            else:
                self._write(b, number, asked, self._part.groups[asked.owner], fine)
        return result

    def _write(self, b: Body, number: int, asked: Asked, group: Group, fine: Scalar) -> None:
        kind, name = asked.kind, f"summary{number}"
        if kind in ("peaks", "troughs"):
            self._write_each(b, f"{name}_number", self._kept.integers(b, group, f"{kind}_number"), fine)
            self._write_times(b, f"{name}_times", self._kept.of(b, group, f"{kind}_times"), fine)
            self._write_each(b, f"{name}_values", self._kept.of(b, group, f"{kind}_values"), fine)
        elif kind in ("min", "max"):
            self._write_each(b, name, self._kept.of(b, group, kind), fine)
        elif kind in ("time_of_min", "time_of_max"):
            self._write_times(b, name, self._kept.of(b, group, f"{kind.removeprefix('time_of_')}_time"), fine)
        elif kind == "crossings":
            self._write_each(b, name, self._kept.integers(b, group, f"count_{asked.which}"), fine)
        elif kind in ("first_crossing", "last_crossing"):
            self._write_times(b, name, self._kept.of(b, group, f"{kind.removesuffix('_crossing')}_{asked.which}"), fine)
        else:
            self._write_moment(b, name, kind, group, fine)

    def _write_each(self, b: Body, name: str, view: View, fine: Scalar) -> None:
        none = missing("int32" if view.dtype == "int32" else b.dtype)

        def write(index: Any) -> None:
            value = where(fine, b.scalar(view.load(index), view.dtype), none)
            b.res(name, b.emitter.place(index), value.value)

        b.each(write, view.size)

    def _write_times(self, b: Body, name: str, view: View, fine: Scalar) -> None:
        def write(index: Any) -> None:
            time = b.number("t0") + b.scalar(b.direction) * b.scalar(view.load(index))
            b.res(name, b.emitter.place(index), where(fine, time, float("nan")).value)

        b.each(write, view.size)

    def _write_moment(self, b: Body, name: str, kind: str, group: Group, fine: Scalar) -> None:
        """An integral, or what is made of integrals."""
        window = group.window
        if window.sampled:
            length = b.scalar(b.counter(window.points).get(), "int32").to(b.dtype)
        else:
            length = self._sums.passed(b, group)
        there = fine & (length > 0.0)

        def variance(index: Any) -> Scalar:
            value = b.scalar(self._kept.of(b, group, "spread").load(index)) / length
            return where(value < 0.0, 0.0, value)

        def write(index: Any) -> None:
            total, rest = self._kept.of(b, group, "total"), self._kept.of(b, group, "total_rest")
            total = b.scalar(total.load(index)) + b.scalar(rest.load(index))
            mean = total / length
            if kind == "integral":
                span = b.scalar(b.direction) * (b.get("summary_reached") - begin_of(b, window))
                value = where(fine, where(there, mean * span, 0.0), float("nan"))
            elif kind == "mean":
                value = where(there, mean, float("nan"))
            else:
                square = variance(index) if kind == "std" else mean.fused(mean, variance(index))
                root = b.scalar(b.emitter.sqrt(b.dtype, square.value))
                value = where(there, root, float("nan"))
            b.res(name, b.emitter.place(index), value.value)

        b.each(write, group.size)

    def _write_fold(self, b: Body, number: int, fold: Fold, fine: Scalar) -> None:
        names = [f"summary{number}_{place}" for place in range(len(fold.outputs))]
        sizes = [b.lane.plan.words.results[b.lane.result_number(name)].size for name in names]
        any_point = b.scalar(b.counter(fold.window.points).get(), "int32") > 0
        with b.emitter.builder.if_else((fine & any_point).value) as (then, otherwise):
            with then:
                sink = into_row(self._lane, names, sizes, b.int32(0))
                call_at(b, fold.result, sink, None, **dict(self._kept.carry(b, fold, 0)))
            with otherwise:
                for name, size, (_, kind) in zip(names, sizes, fold.outputs, strict=True):
                    none = b.emitter.constant(kind, missing(kind))
                    b.each(lambda index, name=name, none=none: b.res(name, b.emitter.place(index), none), size)
