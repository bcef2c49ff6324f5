"""Integrals over time, and how far numbers are from their mean: sums over steps, and these over blocks of steps.

In a block a number is told by how far it is from a reference, what it was at the block's beginning: so its squares lose no
digits to a mean that is large, and plain sums are as good as the block is short. What blocks have is added to sums that keep
what they lose to rounding, which is too much work for each step.

A block ends after so many steps, rejected ones among them, as threads of a warp have that number in common; or before a step
so much longer than its first one that the reference may be far from most of it, as one of the midst of a transient.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..kernel.numbers import two_sum
from ..kernel.scalar import Scalar, where
from .summary_words import At, Kept

if TYPE_CHECKING:
    from ..loop.body import Body
    from ..loop.lane import Lane
    from .summaries import Group, Summaries

# A block ends at steps of these numbers, a power of two, unless they are rejected; and before one that is so many times as long
# as its first step.
_STEPS, _GROWTH = 64, 2.0
# Of a group: when the block at hand began, what that has lost to rounding, the length of all blocks before, what that has lost,
# and the longest step, 0 where no block has begun.
_SINCE, _SINCE_REST, _BEFORE, _REST, _LONGEST = (
    "summary_since", "summary_since_rest", "summary_before", "summary_rest", "summary_longest"
)  # fmt: skip
_CELLS = (_SINCE, _SINCE_REST, _BEFORE, _REST, _LONGEST)


def _cell(group: Group, name: str) -> str:
    return f"{name}_{group.window.number}_{group.function}"


class Sums:
    """Writes them, of groups over all of a trajectory."""

    def __init__(self, lane: Lane, part: Summaries, kept: Kept):
        self._kept = kept
        for group in part.groups:
            if group.blocks:
                for name in _CELLS:
                    lane.cell(_cell(group, name), lane.problem.dtype)

    def start(self, b: Body, group: Group) -> None:
        """Of a new lane: whatever size its first step has, it begins a block."""
        b.put(**{_cell(group, name): 0 for name in _CELLS})

    def begin(self, b: Body, group: Group, time: Scalar, residue: Scalar, size: Scalar, reference: At) -> None:
        """Before a step of that size from that time on is added: a new block with that reference, if it is time."""
        longest = _cell(group, _LONGEST)
        steps = b.scalar(b.counter("steps").get(), "int32") + (b.get("turn") - b.get("first"))
        with b.when((size > b.get(longest)) | (steps & (_STEPS - 1)).equals(0)):
            self.end(b, group, time, residue)
            b.put(**{longest: _GROWTH * size, _cell(group, _SINCE): time, _cell(group, _SINCE_REST): residue})
            words = self._kept.of(b, group, "reference")
            b.each(lambda index: words.store(index, reference(index).value), group.size)

    def add(self, b: Body, group: Group, index: Any, size: Scalar, double: Scalar, square: Scalar) -> None:
        """A step of that size: twice the mean distance from the reference, and the mean of its square, in the rule's units."""
        for name, value in (("partial", double), ("squares", square)):
            if name in group.places:
                words = self._kept.of(b, group, name)
                words.store(index, size.fused(value, b.scalar(words.load(index))).value)

    def end(self, b: Body, group: Group, time: Scalar, residue: Scalar) -> None:
        """Adds the block, which ends then, to the sums. Mean square deviations are by Chan, Golub and LeVeque's updating
        formulas."""
        since, since_rest, before, rest, longest = (b.get(_cell(group, name)) for name in _CELLS)
        length = where(longest > 0.0, (time - since) + (residue - since_rest), 0.0)
        after, rest = two_sum(before, length + rest)
        share, earlier = (where(time > 0.0, 1.0 / time, 0.0) for time in (length, before))
        weight = where(after > 0.0, before * length / after, 0.0)
        assert group.quadrature is not None
        unit = group.quadrature.unit

        def add(index: Any) -> None:
            views = {name: self._kept.of(b, group, name) for name in group.places}
            old = {name: b.scalar(view.load(index)) for name, view in views.items() if name in _SUMMED}
            partial = (0.5 * unit) * old["partial"]
            more = length.fused(old["reference"], partial)
            total, lost = two_sum(old["total"], more + old["total_rest"])
            new = {"total": total, "total_rest": lost, "partial": b.scalar(0.0)}
            if group.spread:
                shift = partial * share
                apart = (old["reference"] - old["total"] * earlier) + shift
                square = (-partial).fused(shift, unit * old["squares"])
                new |= {"spread": old["spread"] + (weight * apart).fused(apart, square), "squares": b.scalar(0.0)}
            for name, value in new.items():
                views[name].store(index, value.value)

        b.each(add, group.size)
        b.put(**{_cell(group, _BEFORE): after, _cell(group, _REST): rest})

    def passed(self, b: Body, group: Group) -> Scalar:
        """What time the sums have, of blocks that have ended: by what they are to be divided."""
        return b.get(_cell(group, _BEFORE)) + b.get(_cell(group, _REST))


_SUMMED = ("reference", "partial", "squares", "total", "total_rest", "spread")
