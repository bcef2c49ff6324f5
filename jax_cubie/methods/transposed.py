"""Transposes of functions of the user's in a step that is gone back over."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from typing import TYPE_CHECKING, Any

from ..loop.cotangents import gather, into_adjoints, unless_done
from .between import dot
from .combine import combine

if TYPE_CHECKING:
    from ..kernel.device import View
    from ..loop.body import Body


def pull(
    b: Body, function: str, since_t0: Any, fraction: Fraction | int, cotangent: View, into: View, **given: View
) -> None:
    """From the cotangent of what a function gives, at that fraction of the step, to those of what it is given.

    given: its states by name, "y" first. into: arrays for their cotangents, one behind the other. Those of operands and of
    times are added to what has gathered.
    """
    rows = [b.row(into, number) for number in range(len(given))]
    values = {**b.instant(since_t0, fraction), **given, f"{function}*": cotangent}
    b.call(f"{function}_vjp", out=into_adjoints(b, f"{function}_vjp", *rows), **values)
    for number, order in enumerate(b.lane.adjoint.orders):
        value = b.scalar(b.buf.time_adjoint.load(number))
        if not b.lane.problem.counts_from_t0:
            gather(b, **{f"t0_{order}": value})
        gather(b, **{f"start_{order}": value, f"size_{order}": float(fraction) * value})


def gather_size(
    b: Body, order: int, cotangent: View, weights: Sequence[Fraction], rows: Sequence[View], slope: View
) -> None:
    """Adds the share that the size of a step, in that order, has in the cotangent of base + size * sum(weight * row). slope:
    room for that sum."""
    if not any(weights):
        return
    total = None
    combine(b, slope, None, b.real(1), weights, rows)
    for piece in b.lane.problem.pieces:
        if piece.order & order == order:
            part = dot(b, b.piece(cotangent, piece.order), b.piece(slope, piece.order & ~order))
            total = part if total is None else total + part
    gather(b, **{f"size_{order}": total})


def add_to_adjoint(b: Body, *sources: View) -> None:
    """Adds to the cotangent of the state at hand, but for lanes that are done."""
    target = b.buf.adjoint

    def add(index: Any) -> None:
        before = total = target.load(index)
        for source in sources:
            total = b.emitter.add(b.dtype, total, source.load(index))
        target.store(index, unless_done(b, total, before))

    b.each(add)
