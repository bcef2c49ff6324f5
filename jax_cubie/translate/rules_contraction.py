"""Sums of products: matrix products and convolutions."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from .arrays import Array, Index, Memory, Pieces, Registers, Store, cheap, for_each, in_memory, indexable
from .builder import Scalar
from .products import Grouped, Matrix, product
from .program import FLOATS, chains, dtype_name, joined
from .rules_reduction import fold
from .rules_structural import pad

if TYPE_CHECKING:
    from .context import Context


_SUMS_AT_ONCE = 4
"""Long sums side by side: they share a factor, and one does not wait for the other."""


def _is_unrolled(context: Context, size: int, terms: int) -> bool:
    return context.unrolls(terms) and context.unrolls_work(size, terms)


def _sum_of_products(context: Context, aval: Any, extents: Sequence[int],
                     factors: Callable[[Index, Index], tuple[Scalar, Scalar]], many: int = 1) -> Array:
    """The array whose element at ``index`` is the sum of ``factors(index, k)``'s products over all ``k``.

    With ``many`` partial sums ``k`` is of one axis.
    """
    b, dtype, terms = context.b, dtype_name(aval.dtype), math.prod(extents)
    shape = tuple(aval.shape)

    def product(index: Index, k: Index) -> Scalar:
        left, right = factors(index, k)
        return b.mul(b.cast(left, dtype), b.cast(right, dtype))

    def unrolled(index: Index) -> Scalar:
        # The first product starts a sum, so that no zero has to be added.
        products = [product(index, tuple(b.index(p) for p in position)) for position in np.ndindex(*extents)]
        return joined(b.add, [functools.reduce(b.add, products[chain::many]) for chain in range(many)])

    def looped(indices: Sequence[Index]) -> list[Scalar]:
        zero = b.const(dtype, -0.0 if dtype in FLOATS else 0)  # to which a product is added exactly
        turns = [terms // many] if many > 1 else extents

        def turn(k: Index, sums: Sequence[Scalar]) -> list[Scalar]:
            places = [(b.add(b.mul(k[0], b.index(many)), b.index(chain)),) for chain in range(many)] if many > 1 else [k]
            pairs = itertools.product(places, indices)
            return [b.add(total, product(index, place)) for total, (place, index) in zip(sums, pairs, strict=True)]

        count = len(indices)
        sums = fold(context, turns, [dtype] * (many * count), [zero] * (many * count), turn)
        for k in range(terms // many * many, terms):
            for number, index in enumerate(indices, start=k % many * count):
                sums[number] = b.add(sums[number], product(index, (b.index(k),)))
        return [joined(b.add, sums[number::count]) for number in range(count)]

    if terms and context.unrolls(terms):
        return context.make(shape, dtype, unrolled, terms if _is_unrolled(context, aval.size, terms) else 1 << 30)
    if not shape or aval.size == 0 or not terms:
        return context.make(shape, dtype, lambda index: looped([index])[0], 1 << 30)
    *outer, length = shape

    def write(store: Store) -> None:
        def row(index: Index) -> None:
            whole = length - length % _SUMS_AT_ONCE
            if whole:
                with b.loop(whole // _SUMS_AT_ONCE) as block:
                    begin = b.mul(block, b.index(_SUMS_AT_ONCE))
                    put(index, [b.add(begin, b.index(r)) for r in range(_SUMS_AT_ONCE)])
            if length > whole:
                put(index, [b.index(r) for r in range(whole, length)])

        def put(index: Index, last: Sequence[Scalar]) -> None:
            places = [(*index, i) for i in last]
            for place, total in zip(places, looped(places), strict=True):
                store(place, total)

        for_each(b, tuple(outer), row)

    return context.finish_pieces(Pieces(shape, dtype, write))


_FEW = 32
"""Products of a matrix and a vector that stand in the code one by one whatever the limit of unrolling."""


def _matrix_and_vector(context: Context, eqn: Any, x: Array, y: Array) -> Array | None:
    """A product of a matrix in memory and a vector; None for any other."""
    (contract_x, contract_y), (batch, _) = eqn.params["dimension_numbers"]
    aval = eqn.outvars[0].aval
    dtype = dtype_name(aval.dtype)
    if sorted((len(x.shape), len(y.shape))) != [1, 2] or batch or len(contract_x) != 1:
        return None
    (matrix, axis), vector = ((x, contract_x[0]), y) if len(x.shape) == 2 else ((y, contract_y[0]), x)
    _, matrix = context.input_memories.get(id(matrix), (matrix, matrix))
    if not isinstance(matrix, Memory) or matrix.size <= _FEW or dtype not in FLOATS or {x.dtype, y.dtype} != {dtype}:
        return None
    if isinstance(vector, Registers) and any(map(context.b.is_nothing, vector.ids.tolist())):
        return None  # terms of their own, some of which are not there
    weights = Matrix(matrix.place, matrix.offset, matrix.strides[1 - axis], matrix.strides[axis])
    return product(context, dtype, matrix.shape[1 - axis], matrix.shape[axis], weights, vector)


def _dot_general(context: Context, eqn: Any, x: Array, y: Array) -> Array:
    b = context.b
    whole = _matrix_and_vector(context, eqn, x, y)
    if whole is not None:
        return whole
    x, y = (in_memory(b, one) if isinstance(one, Grouped) else one for one in (x, y))
    (contract_x, contract_y), (batch_x, batch_y) = eqn.params["dimension_numbers"]
    aval = eqn.outvars[0].aval
    extents = [x.shape[d] for d in contract_x]
    terms = math.prod(extents)
    free_x = [d for d in range(len(x.shape)) if d not in contract_x and d not in batch_x]
    free_y = [d for d in range(len(y.shape)) if d not in contract_y and d not in batch_y]

    def placed(operand: Array, contract: Sequence[int]) -> Array:
        if _is_unrolled(context, aval.size, terms):
            return cheap(b, operand)
        # An array in registers may stay there where only unrolled sums index it.
        stays = isinstance(operand, Registers) and len(contract) == len(operand.shape) and context.unrolls(terms)
        return operand if stays else indexable(b, operand)

    x, y = placed(x, contract_x), placed(y, contract_y)

    def place_of(rank: int, *axes_and_indices: tuple[Sequence[int], Index]) -> Index:
        place: list[Scalar] = [0] * rank
        for axes, index in axes_and_indices:
            for d, i in zip(axes, index, strict=True):
                place[d] = i
        return tuple(place)

    def factors(index: Index, k: Index) -> tuple[Scalar, Scalar]:
        batch, rest = index[:len(batch_x)], index[len(batch_x):]
        in_x, in_y = rest[:len(free_x)], rest[len(free_x):]
        return (x.at(b, place_of(len(x.shape), (batch_x, batch), (contract_x, k), (free_x, in_x))),
                y.at(b, place_of(len(y.shape), (batch_y, batch), (contract_y, k), (free_y, in_y))))

    outputs = aval.size if sorted((len(x.shape), len(y.shape))) == [1, 2] else None
    return _sum_of_products(context, aval, extents, factors, chains(terms, outputs) if len(extents) == 1 else 1)


def _conv(context: Context, eqn: Any, x: Array, kernel: Array) -> Array:
    b, p, aval = context.b, eqn.params, eqn.outvars[0].aval
    dims = p["dimension_numbers"]
    x_batch, x_feature, *x_space = dims.lhs_spec
    kernel_out, kernel_in, *kernel_space = dims.rhs_spec
    out_batch, out_feature, *out_space = dims.out_spec
    config = [(0, 0, 0)] * len(x.shape)
    for d, (low, high), dilation in zip(x_space, p["padding"], p["lhs_dilation"], strict=True):
        config[d] = (low, high, dilation - 1)
    x = pad(context, x, b.const(x.dtype, 0), config)
    extents = [kernel.shape[kernel_in], *[kernel.shape[d] for d in kernel_space]]
    place = cheap if _is_unrolled(context, aval.size, math.prod(extents)) else indexable
    x, kernel = place(b, x), place(b, kernel)
    groups, batch_groups = p["feature_group_count"], p["batch_group_count"]
    outputs = aval.shape[out_feature]

    def factors(index: Index, k: Index) -> tuple[Scalar, Scalar]:
        out, feature = index[out_feature], k[0]
        batch = index[out_batch]
        if groups > 1:
            group = b.div(out, b.index(outputs // groups))
            feature = b.add(feature, b.mul(group, b.index(extents[0])))
        if batch_groups > 1:
            group = b.div(out, b.index(outputs // batch_groups))
            batch = b.add(batch, b.mul(group, b.index(aval.shape[out_batch])))
        in_x, in_kernel = [0] * len(x.shape), [0] * len(kernel.shape)
        in_x[x_batch], in_x[x_feature] = batch, feature
        in_kernel[kernel_out], in_kernel[kernel_in] = out, k[0]
        steps = zip(x_space, kernel_space, out_space, k[1:], p["window_strides"], p["rhs_dilation"], strict=True)
        for dx, dk, do, w, stride, dilation in steps:
            in_x[dx] = b.add(b.mul(index[do], b.index(stride)), b.mul(w, b.index(dilation)))
            in_kernel[dk] = w
        return x.at(b, tuple(in_x)), kernel.at(b, tuple(in_kernel))

    return _sum_of_products(context, aval, extents, factors)


CONTRACTION: dict[str, Callable[..., Array]] = {
    "dot_general": _dot_general,
    "conv_general_dilated": _conv,
}
"""Primitive name -> rule."""
