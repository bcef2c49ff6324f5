"""Writes products that a CUDA warp computes together, as LLVM IR.

Tensor cores multiply numbers of 11 bits. A float32 is the sum of two such, the second of which is what the first one leaves,
and a product of two float32 the sum of three of theirs: what is left out is below 2^-21 of it, as sums' own rounding is. What
an infinite number leaves is no number, and so are products with it.
(Ootomo and Yokota, Recovering single precision accuracy from Tensor Cores while surpassing the FP32 theoretical peak
performance, 2022.)
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import llvmlite.ir as ir

from ..kernel import warp
from ..kernel.emitter import Emitter, Value
from .program import WarpSums

INT32, INT64, FLOAT = ir.IntType(32), ir.IntType(64), ir.FloatType()
_TILE_OUTPUTS, _TILE_TERMS, _TILE_THREADS = 16, 8, 8
_SUMS_AT_ONCE = 64
"""Of a thread: a quarter of its registers."""


@dataclasses.dataclass(frozen=True)
class Weights:
    """A matrix in memory, `pitch` elements from one row to the next."""

    pointer: Value
    pitch: int


@dataclasses.dataclass(frozen=True)
class Rows:
    """The rows that the threads of a warp share, and the matrices by the numbers of the program's inputs.

    own: where the thread's begins; first: where that of the warp's first thread does; words: how far apart they are.
    """

    own: Value
    first: Value
    words: int
    weights: Callable[[int], Weights]


def emit_warp_sums(emitter: Emitter, sums: WarpSums, rows: Rows, term: Callable[[int | Value], Value] | None) -> None:
    """Writes the product into the threads' rows. term(k): element k of the vector; None: it is there."""
    b, weights = emitter.builder, rows.weights(sums.matrix[1])
    terms = -(-sums.terms // _TILE_TERMS) * _TILE_TERMS
    if term is not None:
        _hand_over(emitter, sums, rows, term)
    for k in range(sums.terms, terms):
        emitter.store(rows.own, k, emitter.constant("float32", 0), "float32")
    warp.synchronise(emitter)
    thread = b.zext(warp.thread_of_warp(emitter), INT64)
    across, along = b.lshr(thread, INT64(2)), b.and_(thread, INT64(3))
    tiles = -(-sums.outputs // _TILE_OUTPUTS)
    groups = warp.WARP // _TILE_THREADS
    at_once = next(count for count in (4, 2, 1) if 4 * tiles * count <= _SUMS_AT_ONCE)
    with emitter.loop(groups // at_once, 1) as turn:
        begin = b.mul(turn, INT64(at_once * _TILE_THREADS))
        totals = _totals(emitter, sums, rows, weights, (across, along), begin, at_once, tiles)
        warp.synchronise(emitter)
        for number, tile in ((number, tile) for number in range(at_once) for tile in range(tiles)):
            for part, value in enumerate(totals[number][tile]):
                column = b.add(b.add(begin, INT64(number * _TILE_THREADS + part % 2)), b.mul(along, INT64(2)))
                output = b.add(across, INT64(_TILE_OUTPUTS * tile + part // 2 * 8))
                place = b.add(b.mul(column, INT64(rows.words)), output)
                if _TILE_OUTPUTS * tile + part // 2 * 8 + 8 <= sums.outputs:
                    emitter.store(rows.first, place, value, "float32")
                else:
                    with b.if_then(b.icmp_unsigned("<", output, INT64(sums.outputs))):
                        emitter.store(rows.first, place, value, "float32")
    warp.synchronise(emitter)


def _hand_over(emitter: Emitter, sums: WarpSums, rows: Rows, term: Callable[[int | Value], Value]) -> None:
    if sums.vector is None:
        for k in range(sums.terms):
            emitter.store(rows.own, k, term(k), "float32")
    else:
        with emitter.loop(sums.terms, 4) as k:
            emitter.store(rows.own, k, term(k), "float32")


def _totals(
    emitter: Emitter, sums: WarpSums, rows: Rows, weights: Weights, place: tuple[Value, Value], begin: Value, at_once: int,
    tiles: int,
) -> list[list[list[Value]]]:
    """The sums of `at_once` x `tiles` tiles, of the threads from number `begin` on."""
    b = emitter.builder
    across, along = place
    with b.goto_entry_block():
        cells = [[[b.alloca(FLOAT) for _ in range(4)] for _ in range(tiles)] for _ in range(at_once)]
    for cell in (cell for row in cells for tile in row for cell in tile):
        b.store(ir.Constant(FLOAT, 0.0), cell)

    def matrix(k: Value, tile: int, last: bool) -> list[tuple[Value, Value]]:
        found = []
        for part in range(4):
            output = b.add(across, INT64(_TILE_OUTPUTS * tile + part % 2 * 8))
            if _TILE_OUTPUTS * tile + part % 2 * 8 + 8 > sums.outputs:  # of which nothing is kept
                output = b.select(b.icmp_unsigned("<", output, INT64(sums.outputs)), output, INT64(sums.outputs - 1))
            term = b.add(k, INT64(part // 2 * 4))
            inside = b.icmp_unsigned("<", term, INT64(sums.terms)) if last else None
            term = term if inside is None else b.select(inside, term, INT64(sums.terms - 1))
            slow, quick = (term, output) if sums.fast else (output, term)
            value = emitter.load(weights.pointer, b.add(b.mul(slow, INT64(weights.pitch)), quick), "float32")
            if inside is not None:
                value = b.select(inside, value, ir.Constant(FLOAT, 0.0))
            found.append(_halves(emitter, value))
        return found

    def vectors(k: Value) -> list[list[tuple[Value, Value]]]:
        found = []
        for number in range(at_once):
            row = b.mul(b.add(b.add(begin, INT64(number * _TILE_THREADS)), across), INT64(rows.words))
            places = (b.add(b.add(row, k), INT64(4 * part)) for part in range(2))
            found.append([_halves(emitter, emitter.load(rows.first, place, "float32")) for place in places])
        return found

    def add(first: Value, last: bool) -> None:
        """The products of a tile of terms from number `first` on."""
        k = b.add(first, along)
        right = vectors(k)
        for tile in range(tiles):
            left = matrix(k, tile, last)
            for number in range(at_once):
                # Tensor cores round sums towards zero, so theirs are short, and are added up here.
                total = [ir.Constant(FLOAT, 0.0)] * 4
                for one, other in ((1, 0), (0, 1), (0, 0)):
                    factors = [half[one] for half in left], [half[other] for half in right[number]]
                    total = warp.multiply_add(emitter, *factors, total)
                for cell, value in zip(cells[number][tile], total, strict=True):
                    b.store(b.fadd(b.load(cell), value), cell)

    whole = sums.terms // _TILE_TERMS
    with emitter.loop(whole, 1) as number:
        add(b.mul(number, INT64(_TILE_TERMS)), False)
    if sums.terms % _TILE_TERMS:
        add(INT64(whole * _TILE_TERMS), True)
    return [[[b.load(cell) for cell in tile] for tile in row] for row in cells]


def _halves(emitter: Emitter, value: Value) -> tuple[Value, Value]:
    """The bits of the number of 11 bits that is nearest to a float32, and of what it leaves."""
    b = emitter.builder
    rounded = b.add(b.bitcast(value, INT32), INT32(0x1000))
    upper = b.and_(rounded, INT32(0xFFFFE000))
    rest = b.fsub(value, b.bitcast(upper, FLOAT))
    return upper, b.bitcast(rest, INT32)
