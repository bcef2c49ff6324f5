"""Writes a program as LLVM IR."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any
from weakref import WeakKeyDictionary

from ..kernel.emitter import Emitter, Value
from .emit_sums import Reads, emit_sums, index_of, together
from .emit_warp_sums import Rows, emit_warp_sums
from .lifetimes import PRIVATE
from .products import TOGETHER
from .program import ROW, Memory, Program, Region, Sums, WarpSums, regions_of

GROUP = 32
"""Elements of an output that are kept at once."""
_SHORT = 8
_SMALL_BODY = 32


def emit_program(emitter: Emitter, program: Program, load: Callable[[int, Any], Value],
                 store: Callable[[int, Any, Value], None],
                 load_several: Callable[[int, Any, int, bool], Value | None] = lambda *_: None,
                 grouped: frozenset[int] = frozenset(),
                 store_several: Callable[[int, Any, Sequence[Value]], None] | None = None,
                 rows: Rows | None = None) -> None:
    """Write a program at the builder's place.

    ``load(input_number, flat_index)`` gives a scalar, ``store(output_number, flat_index, value)`` keeps one; the
    index is an int where it is known, else an i64 value, and a bool scalar is an i1. The memory that ``store``
    writes must not overlap what ``load`` reads. ``load_several(input_number, flat_index, count, aligned)`` gives so many that
    follow one another as a vector, None where they do not lie so in memory; aligned: the index is a multiple of the count.
    Of outputs in ``grouped`` a loop's elements that follow one another are kept 32 at once, where they can be:
    ``store_several(output_number, flat_index_of_the_first, values)``. rows: what products need that a warp computes
    together.
    """
    values: dict[int, Value] = {}
    known: dict[int, int] = {}
    local: dict[int, tuple[Value, str]] = {}
    b = emitter.builder

    def place(number: int) -> Value | int:
        found = known.get(number)
        return values[number] if found is None else found

    def read(memory: tuple[str, int], index: Any, dtype: str) -> Value:
        space, k = memory
        if memory == ROW:
            return emitter.load(own_row(), index, dtype)
        return load(k, index) if space == "input" else emitter.load(local[k][0], index, dtype)

    def own_row() -> Value:
        assert rows is not None
        return rows.own

    def reads(sums: Sums, dtype: str, args: tuple[int, ...]) -> Reads:
        def several(index: Any, count: int, aligned: bool) -> Value | None:
            space, k = sums.matrix
            if space == "input":
                return load_several(k, index, count, aligned)
            return None if aligned else emitter.load_several(local[k][0], index, count, dtype)

        def term(k: Any) -> Value:
            if sums.vector is None:
                return values[args[k]]
            return read(sums.vector, index_of(emitter, place(args[0]), sums.stride, k), dtype)

        def terms(k: Any, count: int) -> Value:
            if sums.vector is not None and sums.stride == 1:
                index, (space, number) = index_of(emitter, place(args[0]), 1, k), sums.vector
                found = load_several(number, index, count, False) if space == "input" else emitter.load_several(
                    local[number][0], index, count, dtype)
                if found is not None:
                    return found
            return together(emitter, dtype, [term(index_of(emitter, i, 1, k)) for i in range(count)])

        return Reads(lambda index: read(sums.matrix, index, dtype), several, term, terms)

    def multiply(sums: WarpSums, dtype: str, args: tuple[int, ...]) -> None:
        def term(k: Any) -> Value:
            if sums.vector is None:
                return values[args[k]]
            return read(sums.vector, index_of(emitter, place(args[0]), sums.stride, k), dtype)

        assert rows is not None
        emit_warp_sums(emitter, sums, rows, None if sums.vector == ROW else term)

    def take(what: tuple[int, int, Memory], dtype: str, args: tuple[int, ...]) -> None:
        out, count, source = what

        def copy(k: Any) -> None:
            emitter.store(local[out][0], k, read(source, index_of(emitter, place(args[0]), 1, k), dtype), dtype)

        if count <= TOGETHER:
            for k in range(count):
                copy(k)
        else:
            with emitter.loop(count, TOGETHER) as turn:
                copy(turn)

    def go_together(dest: int, extent: int, body: Region) -> None:
        *rest, (_, _, _, (place_of, value_of), (_, output)) = body

        def turn(begin: Value) -> tuple[Any, Value]:
            values[dest] = begin
            go(tuple(rest))
            return place(place_of), values[value_of]

        whole = extent // GROUP
        if whole:
            with emitter.loop(whole, 1) as block:
                begin = emitter.mul("int64", block, emitter.constant("int64", GROUP))
                turns = [turn(emitter.add("int64", begin, emitter.constant("int64", k))) for k in range(GROUP)]
                store_several(output, turns[0][0], [value for _, value in turns])
        for k in range(whole * GROUP, extent):
            store(output, *turn(emitter.constant("int64", k)))

    def go(region: Region) -> None:
        for dest, op, dtype, args, attribute in region:
            if op == "const":
                if dtype == "int64":
                    known[dest] = attribute
                value = float.fromhex(attribute) if isinstance(attribute, str) else attribute
                values[dest] = emitter.constant(dtype, value)
            elif op == "load":
                values[dest] = read(attribute, place(args[0]), dtype)
            elif op == "store":
                space, k = attribute
                if attribute == ROW:
                    emitter.store(own_row(), place(args[0]), values[args[1]], dtype)
                elif space == "output":
                    store(k, place(args[0]), values[args[1]])
                else:
                    emitter.store(local[k][0], place(args[0]), values[args[1]], dtype)
            elif op == "sums":
                emit_sums(emitter, dtype, attribute, place(args[0]), place(args[1]), reads(attribute, dtype, args[2:]),
                          local[attribute.out][0])
            elif op == "warp_sums":
                multiply(attribute, dtype, args)
            elif op == "take":
                take(attribute, dtype, args)
            elif op == "alloc":
                local[attribute[0]] = (_array(emitter, dtype, *attribute), dtype)
            elif op == "cast":
                values[dest] = emitter.cast(values[args[0]], dtype, attribute)
            elif op == "bitcast":
                values[dest] = emitter.bitcast(values[args[0]], attribute)
            elif op == "for" and store_several is not None and _stores_in_order(dest, attribute, grouped):
                go_together(dest, *attribute)
            elif op == "for":
                with emitter.loop(attribute[0], _copies(*attribute)) as index:
                    values[dest] = index
                    go(attribute[1])
            elif op == "while":
                head, body = b.append_basic_block("while"), b.append_basic_block("do")
                end = b.append_basic_block("end")
                b.branch(head)
                b.position_at_end(head)
                go(attribute[0])
                b.cbranch(values[args[0]], body, end)
                b.position_at_end(body)
                go(attribute[1])
                b.branch(head)
                b.position_at_end(end)
            elif op == "if":
                with b.if_else(values[args[0]]) as (then, otherwise):
                    with then:
                        go(attribute[0])
                    with otherwise:
                        go(attribute[1])
            else:
                values[dest] = emitter.apply(op, dtype, *[values[a] for a in args])

    go(program.instructions)


# The arrays of a function that is being written. Its copies of programs run one after another, and use the same.
_ARRAYS: WeakKeyDictionary[Any, dict[tuple[str, int, int], Value]] = WeakKeyDictionary()


def _array(emitter: Emitter, dtype: str, number: int, size: int) -> Value:
    if size <= PRIVATE:
        return emitter.alloca(dtype, size)
    arrays = _ARRAYS.setdefault(emitter.builder.function, {})
    if (dtype, number, size) not in arrays:
        arrays[dtype, number, size] = emitter.alloca(dtype, size)
    return arrays[dtype, number, size]


def _stores_in_order(index: int, loop: tuple[int, Region], outputs: frozenset[int]) -> bool:
    """Whether a loop's turns do nothing but store elements of one of those outputs that follow one another."""
    extent, body = loop
    stores = [one for one in body if one[1] == "store" or regions_of(one) or one[1] in ("sums", "alloc")]
    if extent < GROUP or len(stores) != 1 or stores[0] is not body[-1] or stores[0][1] != "store":
        return False
    (space, output), made = stores[0][4], {one[0]: one for one in body}
    if space != "output" or output not in outputs:
        return False

    def share(number: int) -> int | None:
        """How often the turn is in an index; None where that is not plain."""
        if number == index or number not in made:
            return int(number == index)
        _, op, _, args, _ = made[number]
        shares = [share(arg) for arg in args]
        if op == "add" and None not in shares:
            return sum(shares)  # pyright: ignore
        return 0 if op != "load" and not any(one is None or one for one in shares) else None

    return share(stores[0][3][0]) == 1


def _copies(extent: int, body: Region) -> int | None:
    """How often a loop's body may stand in the code: long loops are not unrolled whole, or they would not be loops."""
    if extent <= _SHORT:
        return None
    if any(one[1] == "take" for one in body):  # a turn waits long for its row, and is worth little
        return 4
    return 2 if len(body) <= _SMALL_BODY and not any(map(regions_of, body)) else 1
