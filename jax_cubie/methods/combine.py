"""Sums of stages, with the share that tangents of the step's size have in them."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..kernel.device import View
    from ..loop.body import Body


def combine(
    b: Body, target: View, base: View | None, step_size: Any, weights: Sequence[Fraction], rows: Sequence[View],
    *, transposed: bool = False,
) -> None:
    """target = base + step_size * sum(weight * row), of as many components as the target has.

    Where the step size has tangents, those of a target as long as the state have a share of them; transposed: where rows and
    target are cotangents, a share of those of the rows.
    """
    emitter, dtype = b.emitter, b.dtype
    used = [(b.real(float(weight)), row) for weight, row in zip(weights, rows, strict=False) if weight != 0]
    # Scaled weights cost a product each, a scaled sum one for each component; and only a weight that is a constant is part
    # of its instruction, which spares the register file a read.
    scale_weights = len(used) <= b.primal
    plain = used
    if scale_weights:
        used = [(emitter.mul(dtype, constant, step_size), row) for constant, row in used]

    def body(index: Any) -> None:
        total = base.load(index) if scale_weights and base is not None else None
        for constant, row in used:
            value = row.load(index)
            total = emitter.mul(dtype, constant, value) if total is None else emitter.fma(dtype, constant, value, total)
        if total is None:
            total = base.load(index) if base is not None else b.real(0)
        elif not scale_weights:
            if base is None:
                total = emitter.mul(dtype, step_size, total)
            else:
                total = emitter.fma(dtype, step_size, total, base.load(index))
        target.store(index, total)

    b.each(body, target.size)
    if target.size < b.states or (base is None and not transposed):
        return
    for moved in b.moving:
        for order in b.orders_with(moved):

            def add(index: Any, moved: int = moved, order: int = order) -> None:
                total, others = None, order & ~moved
                for constant, row in plain:
                    value = b.piece(row, order if transposed else others).load(index)
                    total = emitter.mul(dtype, constant, value) if total is None else emitter.fma(dtype, constant, value, total)
                part = b.piece(target, others if transposed else order)
                part.store(index, emitter.fma(dtype, b.get(f"size_{moved}").value, total, part.load(index)))

            if plain:
                b.each(add, b.primal)


def stage_time(b: Body, fraction: Fraction, step_size: Any, time: Any) -> Any:
    return b.emitter.fma(b.dtype, b.real(float(fraction)), step_size, time)
