"""Where summaries keep their numbers, and how these are reached."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from ..kernel.device import View
from ..kernel.numba_types import Slice
from ..kernel.scalar import Scalar
from ..loop.functions import Sink, Store

if TYPE_CHECKING:
    from ..loop.body import Body
    from .summaries import Fold, Group, Summaries, Window

At = Callable[[Any], Scalar]
"""The numbers of a group at some point, by component."""


class Kept:
    """The words of groups and of folds, in the buffers of the part."""

    def __init__(self, part: Summaries):
        self._part = part

    def of(self, b: Body, group: Group, name: str) -> View:
        """Those of that name."""
        buffer, begin = self._part.buffer_of(group)
        place, size = group.places[name]
        return getattr(b.buf, buffer).part(begin + place, size)

    def integers(self, b: Body, group: Group, name: str) -> View:
        """The same, which are int32."""
        return as_integers(b, self.of(b, group, name), "int32")

    def carry(self, b: Body, fold: Fold, which: int) -> list[tuple[str, View]]:
        """The carry (0), or what is to be the next one (1), by the names of the functions' inputs."""
        begin = self._part.begin_of(fold) + which * (fold.floats + fold.integers)
        views = []
        if fold.floats:
            views.append(("carry", b.buf.observable_summary.part(begin, fold.floats)))
        if fold.integers:
            words = b.buf.observable_summary.part(begin + fold.floats, fold.integers)
            views.append(("carry_integers", as_integers(b, words, "int32" if b.dtype == "float32" else "int64")))
        return views


def begin_of(b: Body, window: Window) -> Scalar:
    """When a window begins, counted from t0."""
    return b.get(f"{window.start}_cell") if window.starts else b.scalar(0.0)


def call_at(b: Body, name: str, out: View | Sink, time: Scalar | None, **given: Any) -> None:
    """One evaluation of a function of the primal state alone."""
    if time is not None:
        given["t"] = b.time_of((b.scalar(b.direction) * time).value)
    b.call_primal(name, out=out, **given)


def numbers_of(b: Body, view: View) -> At:
    """Those of an array."""
    return lambda index: b.scalar(view.load(index))


class Apart(View):
    """How far the numbers of an array are from those of another; to be read alone."""

    def __init__(self, view: View, reference: View):
        super().__init__(view.emitter, view.pointer, view.type)
        self._view, self._reference = view, reference

    def part(self, offset: Any, size: int) -> View:
        return Apart(self._view.part(offset, size), self._reference.part(offset, size))

    def load(self, index: Any) -> Any:
        return self.emitter.sub(self.dtype, self._view.load(index), self._reference.load(index))


def as_integers(b: Body, view: View, dtype: str) -> View:
    """The same words as integers, one in each."""
    wide = 2 if view.dtype == "float64" and dtype == "int32" else 1
    kind = Slice(dtype, view.size, view.type.stride * wide, view.type.space)
    return View(b.emitter, b.emitter.builder.bitcast(view.pointer, kind.pointer), kind)


def into_views(views: Sequence[View]) -> Sink:
    """Each output of a function goes into an array of its own."""

    def store(emitter: Any, words: Any, bases: Any, values: Sequence[Any]) -> Store:
        targets = [View(emitter, value, view.type) for value, view in zip(values, views, strict=True)]
        return Store(lambda output, index, value: targets[output].store(index, value))

    kinds = "_".join(f"{view.type.dtype}_{view.type.stride}_{view.type.space}" for view in views)
    return Sink(f"views_{kinds}", tuple(view.pointer for view in views), (), store)
