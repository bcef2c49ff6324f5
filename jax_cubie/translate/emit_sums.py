"""Writes products of a matrix and a vector as LLVM IR.

On the CPU the elements of the result are side by side in vectors, each term one product of a row with a number, where the
weights of a term lie side by side; where those of a sum do, and the sums are few, its chains are. On CUDA all are scalars, and
weights side by side are one load.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import llvmlite.ir as ir

from ..kernel.emitter import LLVM_TYPES, Emitter, Value
from ..kernel.host_object import has_long_vectors
from .program import Sums, joined

_GROUP = 4
"""Sums of scalars at once."""


@dataclasses.dataclass(frozen=True)
class Reads:
    """How a product's operands are read.

    weight(index) is one of the matrix, weights(index, count, aligned) so many that follow one another, as a vector, None where
    they do not lie so; `aligned` says that the index is a multiple of the count. term(k) is an element of the vector, and
    terms(k, count) are so many.
    """

    weight: Callable[[Value], Value]
    weights: Callable[[Value, int, bool], Value | None]
    term: Callable[[Value | int], Value]
    terms: Callable[[Value | int, int], Value]


def emit_sums(emitter: Emitter, dtype: str, sums: Sums, begin: Value | int, offset: Value | int, reads: Reads,
              out: Value) -> None:
    """Writes the sums into the local array `out`; `begin` is the first output, `offset` where the matrix begins."""
    start = index_of(emitter, offset, sums.across, begin)
    if emitter.platform == "cuda":
        # A group's first output is a multiple of 4; of another one, that is known or alone, so is the product's.
        alike = isinstance(offset, int) and offset % sums.count == 0 and sums.along % sums.count == 0
        several = alike and sums.across == 1 and sums.count in (2, 4)
        _store(emitter, dtype, out, 0, _scalars(emitter, dtype, sums, start, sums.count, reads, several))
    elif 1 in (sums.across, sums.along) and reads.weights(0, 1, False) is not None:
        if sums.across == 1:
            _emit_vectors(emitter, dtype, sums, start, reads, out)
        elif sums.many > 4 and sums.vector is not None:
            _emit_chains(emitter, dtype, sums, start, reads, out)
        else:
            _emit_groups(emitter, dtype, sums, start, reads, out)
    else:
        _emit_groups(emitter, dtype, sums, start, reads, out)


def index_of(emitter: Emitter, start: Value | int, factor: int, index: Value | int) -> Value | int:
    """start + factor * index, a number where both are known."""
    if isinstance(index, int):
        if isinstance(start, int):
            return start + factor * index
        return emitter.add("int64", start, emitter.constant("int64", factor * index)) if index else start
    term = emitter.mul("int64", index, emitter.constant("int64", factor)) if factor != 1 else index
    if isinstance(start, int):
        return emitter.add("int64", term, emitter.constant("int64", start)) if start else term
    return emitter.add("int64", start, term)


def _add_up(emitter: Emitter, sums: Sums, kinds: Sequence[ir.Type],
            products: Callable[[Value | int, Sequence[Value]], list[Value]],
            add: Callable[[Value, Value], Value]) -> list[Value]:
    """The sums of what `products(k, totals)` adds to `totals` for each term: in line where the vector is in registers.

    They begin at -0, to which the first product is added exactly.
    """
    many = sums.many
    zeros: list[Value] = [
        ir.Constant(kind, [-0.0] * kind.count if isinstance(kind, ir.VectorType) else -0.0) for kind in kinds
    ]
    totals = [zeros] * many
    whole = 0
    if sums.vector is not None:
        b, whole = emitter.builder, sums.terms // many * many
        with b.goto_entry_block():
            cells = [[b.alloca(kind) for kind in kinds] for _ in range(many)]
        for row in cells:
            for cell, zero in zip(row, zeros, strict=True):
                b.store(zero, cell)
        with emitter.loop(sums.terms // many, None if sums.terms <= 8 else 1 if many > 1 else 4) as turn:
            for chain, row in enumerate(cells):
                k = index_of(emitter, chain, many, turn)
                for cell, total in zip(row, products(k, [b.load(cell) for cell in row]), strict=True):
                    b.store(total, cell)
        totals = [[b.load(cell) for cell in row] for row in cells]
    for k in range(whole, sums.terms):
        totals[k % many] = products(k, totals[k % many])
    return [joined(add, partial) for partial in zip(*totals, strict=True)]


def _scalars(emitter: Emitter, dtype: str, sums: Sums, start: Value | int, count: int, reads: Reads,
             several: bool) -> list[Value]:
    """`count` sums, the weights of the first of which begin at `start`; `several`: of each term they are one load."""
    b = emitter.builder

    def products(k: Value | int, totals: Sequence[Value]) -> list[Value]:
        place = index_of(emitter, start, sums.along, k)
        row = reads.weights(place, count, True) if several else None
        if row is None:
            weights = [reads.weight(index_of(emitter, place, sums.across, r)) for r in range(count)]
        else:
            weights = [b.extract_element(row, LLVM_TYPES["int32"](r)) for r in range(count)]
        term = reads.term(k)
        return [emitter.fma(dtype, weight, term, total) for weight, total in zip(weights, totals, strict=True)]

    return _add_up(emitter, sums, [LLVM_TYPES[dtype]] * count, products, lambda x, y: emitter.add(dtype, x, y))


def _store(emitter: Emitter, dtype: str, out: Value, first: Value | int, totals: Sequence[Value]) -> None:
    for r, total in enumerate(totals):
        emitter.store(out, index_of(emitter, first, 1, r), total, dtype)


def _emit_groups(emitter: Emitter, dtype: str, sums: Sums, start: Value | int, reads: Reads, out: Value) -> None:
    """Some sums at once, which share the vector."""
    groups, rest = divmod(sums.count, _GROUP)

    def group(first: Value | int, count: int) -> None:
        lead = index_of(emitter, start, sums.across, first)
        _store(emitter, dtype, out, first, _scalars(emitter, dtype, sums, lead, count, reads, False))

    if groups:
        with emitter.loop(groups, 1) as number:
            group(emitter.mul("int64", number, emitter.constant("int64", _GROUP)), _GROUP)
    if rest:
        group(groups * _GROUP, rest)


def _emit_vectors(emitter: Emitter, dtype: str, sums: Sums, start: Value | int, reads: Reads, out: Value) -> None:
    b, scalar = emitter.builder, LLVM_TYPES[dtype]
    # Bytes of a vector, and vectors of partial sums at once: about half of a processor's registers.
    size, at_once = (64, 16) if has_long_vectors() else (32, 8)
    longest = size // (4 if dtype == "float32" else 8)

    def piece(first: Value | int, widths: Sequence[int]) -> None:
        """The sums from number `first` on, in vectors of these widths."""
        kinds = [ir.VectorType(scalar, width) for width in widths]
        lead = index_of(emitter, start, 1, first)

        def products(k: Value | int, totals: Sequence[Value]) -> list[Value]:
            place, term = index_of(emitter, lead, sums.along, k), reads.term(k)
            added, done = [], 0
            for kind, total in zip(kinds, totals, strict=True):
                row = reads.weights(index_of(emitter, place, 1, done), kind.count, False)
                added.append(_fma(emitter, kind, row, _spread(emitter, kind, term), total))
                done += kind.count
            return added

        done = 0
        for kind, total in zip(kinds, _add_up(emitter, sums, kinds, products, b.fadd), strict=True):
            place = index_of(emitter, first, 1, done)
            target = b.gep(out, [emitter.constant("int64", place) if isinstance(place, int) else place])
            b.store(total, b.bitcast(target, kind.as_pointer()), align=4 if dtype == "float32" else 8)
            done += kind.count

    abreast = max(at_once // sums.many, 1)
    whole = abreast * longest
    blocks = sums.count // whole
    if blocks == 1:
        piece(0, [longest] * abreast)
    elif blocks:
        with emitter.loop(blocks, 1) as block:
            piece(emitter.mul("int64", block, emitter.constant("int64", whole)), [longest] * abreast)
    rest = sums.count - blocks * whole
    widths = [longest] * (rest // longest) + [1 << p for p in reversed(range(8)) if rest % longest >> p & 1]
    if widths:
        piece(blocks * whole, widths)


def _emit_chains(emitter: Emitter, dtype: str, sums: Sums, start: Value | int, reads: Reads, out: Value) -> None:
    """The chains of a sum are side by side in a vector."""
    b, kind = emitter.builder, ir.VectorType(LLVM_TYPES[dtype], sums.many)
    turns, rest = divmod(sums.terms, sums.many)
    with b.goto_entry_block():
        cells = [b.alloca(kind) for _ in range(sums.count)]

    def row(number: int, k: Value | int) -> Value | int:
        return index_of(emitter, index_of(emitter, start, sums.across, number), 1, k)

    for cell in cells:
        b.store(ir.Constant(kind, [-0.0] * kind.count), cell)
    with emitter.loop(turns, None if turns <= 8 else 4) as turn:
        k = index_of(emitter, 0, sums.many, turn)
        vector = reads.terms(k, sums.many)
        for number, cell in enumerate(cells):
            weights = reads.weights(row(number, k), sums.many, False)
            b.store(_fma(emitter, kind, weights, vector, b.load(cell)), cell)
    for number, cell in enumerate(cells):
        total = b.load(cell)
        for chain in range(rest):
            k, place = turns * sums.many + chain, LLVM_TYPES["int32"](chain)
            product = emitter.fma(dtype, reads.weight(row(number, k)), reads.term(k), b.extract_element(total, place))
            total = b.insert_element(total, product, place)
        while (count := total.type.count) > 1:
            total = b.fadd(*(_every_second(emitter, total, first, count // 2) for first in (0, 1)))
        emitter.store(out, number, b.extract_element(total, LLVM_TYPES["int32"](0)), dtype)


def _every_second(emitter: Emitter, vector: Value, first: int, count: int) -> Value:
    places = ir.Constant(ir.VectorType(LLVM_TYPES["int32"], count), [first + 2 * k for k in range(count)])
    return emitter.builder.shuffle_vector(vector, ir.Constant(vector.type, ir.Undefined), places)


def together(emitter: Emitter, dtype: str, values: Sequence[Value]) -> Value:
    """A vector of these numbers."""
    vector: Value = ir.Constant(ir.VectorType(LLVM_TYPES[dtype], len(values)), ir.Undefined)
    for place, value in enumerate(values):
        vector = emitter.builder.insert_element(vector, value, LLVM_TYPES["int32"](place))
    return vector


def _spread(emitter: Emitter, kind: ir.VectorType, value: Value) -> Value:
    """A number in every place of a vector."""
    b, undefined = emitter.builder, ir.Constant(kind, ir.Undefined)
    first = b.insert_element(undefined, value, LLVM_TYPES["int32"](0))
    return b.shuffle_vector(first, undefined, ir.Constant(ir.VectorType(LLVM_TYPES["int32"], kind.count), None))


def _fma(emitter: Emitter, kind: ir.VectorType, a: Value, x: Value, c: Value) -> Value:
    b = emitter.builder
    if not emitter.use_fma:
        return b.fadd(b.fmul(a, x), c)
    name = f"llvm.fma.v{kind.count}f{32 if kind.element == LLVM_TYPES['float32'] else 64}"
    function = b.module.globals.get(name)
    if function is None:
        function = ir.Function(b.module, ir.FunctionType(kind, [kind] * 3), name)
    return b.call(function, [a, x, c])
