"""Which products of a matrix and a vector the threads of a CUDA warp compute together, on the tensor cores.

A vector is a thread's own, and the 32 threads of a warp have one each: with the same matrix, these are a product of two
matrices. The loop over the elements of a product, some at once, as `Grouped` writes it, then finds them in a row of memory that
the thread shares with its warp.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace

from .lifetimes import moved
from .products import TOGETHER
from .program import ROW, Instruction, Memory, Program, Region, Sums, WarpSums, local_reads, local_writes, regions_of, walk

_LEAST, _LEAST_PRODUCTS = 16, 1024
"""Outputs and terms, and products in all, from which on the tensor cores are worth what it takes to hand vectors over."""
_MOST = 256
"""Outputs whose sums still fit into the registers of a warp, for 8 threads at a time."""


def by_warps(program: Program, shared: Collection[int]) -> Program:
    """The program with products computed by warps, those of matrices among these inputs, which all threads have alike.

    Where a loop takes several, each leaves its elements in the row. All but the last are kept in arrays of the thread's own.
    """
    loops = dict(_loops(program, shared))
    if not loops:
        return program
    constants = _constants(program.instructions)
    own = 1 + max(i[4][0] for i in program.instructions if i[1] == "alloc")
    kept = itertools.zip_longest(*(products[:-1] for products in loops.values()))
    sizes = [max(one.outputs for one in products if one is not None) for products in kept]
    region: list[Instruction] = [(-1, "alloc", "float32", (), (own + k, size)) for k, size in enumerate(sizes)]
    latest: list[tuple[_Product, Memory]] = []
    for position, instruction in enumerate(program.instructions):
        dest, op, dtype, args, attribute = instruction
        if position in loops:
            *others, last = loops[position]
            latest = [*((one, ("local", own + k)) for k, one in enumerate(others)), (last, ROW)]
            for one, place in latest:
                region += [one.whole, *one.kept(place)]
            taken = {one.instruction: one.take(place) for one, place in latest}
            instruction = (dest, op, dtype, args, (attribute[0], tuple(taken.get(i, i) for i in attribute[1])))
        elif op == "sums" and (rest := [place for one, place in latest if one.is_rest(instruction, constants)]):
            instruction = (-1, "take", dtype, args[:1], (attribute.out, attribute.count, rest[0]))
        else:
            latest = [(one, place) for one, place in latest if not one.is_past(instruction)]
        region.append(instruction)
    return replace(program, instructions=_at_home(tuple(region)))


def row_words(program: Program) -> int:
    """The elements of a thread's row, 0 without such products: so many that threads 1 to 8 apart begin in different banks of
    memory, 4 apart."""
    words = [i[4].words for i in program.instructions if i[1] == "warp_sums"]
    return 4 + -(-max(words) // 32) * 32 if words else 0


def pitches(program: Program) -> dict[int, tuple[int, int]]:
    """For each matrix of such products the elements of a row in memory, and how far apart rows should be: so that what threads
    of a warp read at once, 4 x 8 or 8 x 4 neighbours, lies in different banks."""
    found = {}
    for _, op, _, _, sums in program.instructions:
        if op == "warp_sums":
            columns = sums.columns
            found[sums.matrix[1]] = columns, columns + ((8 if sums.fast else 4) - columns) % 32
    return found


@dataclass(frozen=True)
class _Product:
    """One that a loop goes through, all but a few elements. instruction: its `sums` in the loop's body."""

    instruction: Instruction
    outputs: int

    @property
    def sums(self) -> Sums:
        return self.instruction[4]

    @property
    def columns(self) -> int:
        return max(self.sums.across, self.sums.along)

    @property
    def whole(self) -> Instruction:
        sums = self.sums
        whole = WarpSums(sums.matrix, sums.across == 1, self.outputs, sums.terms, sums.vector, sums.stride)
        return (-1, "warp_sums", self.instruction[2], self.instruction[3][2:], whole)

    def kept(self, place: Memory) -> Region:
        """What copies the row there."""
        begin = self.instruction[3][1:2]  # it is 0, as the matrix's offset is
        return () if place == ROW else ((-1, "take", self.instruction[2], begin, (place[1], self.outputs, ROW)),)

    def take(self, place: Memory) -> Instruction:
        return (-1, "take", self.instruction[2], self.instruction[3][:1], (self.sums.out, self.sums.count, place))

    def is_past(self, instruction: Instruction) -> bool:
        """Whether that writes where the vector is: what follows is no element of this product."""
        memory = self.sums.vector
        return memory is not None and memory[0] == "local" and _touches((instruction,), memory[1])[1]

    def is_rest(self, instruction: Instruction, constants: Mapping[int, int]) -> bool:
        """Whether that computes the elements that the loop leaves."""
        rest = self.outputs % TOGETHER
        return (
            replace(instruction[4], out=self.sums.out, count=self.sums.count) == self.sums
            and instruction[3][1:] == self.instruction[3][1:]
            and (constants.get(instruction[3][0]), instruction[4].count) == (self.outputs - rest, rest)
        )


def _loops(program: Program, shared: Collection[int]) -> Iterable[tuple[int, list[_Product]]]:
    """Where the loops over such products are, those that every thread comes to, with their products."""
    constants = _constants(program.instructions)
    columns: dict[int, int] = {}  # an input that is matrices of several shapes lies in memory as one of them has it
    for position, (index, op, _, _, attribute) in enumerate(program.instructions):
        if op != "for":
            continue
        (extent, body), products = attribute, []
        for one in body:
            if one[1] == "sums" and one[4].matrix[0] == "input" and (number := one[4].matrix[1]) in shared:
                outputs, more = divmod(math.prod(program.inputs[number][0]), one[4].terms)
                if more or extent != outputs // TOGETHER or not _is_whole(one, index, body, outputs, constants):
                    continue
                found = _Product(one, outputs)
                if columns.setdefault(number, found.columns) == found.columns:
                    products.append(found)
        if products:
            yield position, products


def _is_whole(one: Instruction, index: int, body: Region, outputs: int, constants: Mapping[int, int]) -> bool:
    """Whether a loop's turn number `index` computes so many elements of the whole product, which is worth it."""
    _, _, dtype, (begin, offset, *vector), sums = one
    made = {other[0]: other for other in body}
    factors = made[begin][3] if begin in made and made[begin][1] == "mul" else ()
    return (
        dtype == "float32"
        and sums.count == TOGETHER
        and index in factors
        and TOGETHER in map(constants.get, factors)
        and constants.get(offset) == 0
        and (sums.across, sums.along) in ((1, outputs), (sums.terms, 1))
        and min(outputs, sums.terms) >= _LEAST
        and outputs * sums.terms >= _LEAST_PRODUCTS
        and outputs <= _MOST
        and made.keys().isdisjoint(vector)
        and index not in vector
        and (sums.vector is None or sums.vector[0] == "input" or not _touches(body, sums.vector[1])[1])
    )


def _constants(region: Region) -> dict[int, int]:
    return {dest: value for dest, op, dtype, _, value in region if op == "const" and dtype == "int64"}


# --- Arrays that live in the row


def _at_home(region: Region) -> Region:
    """The array that most products are of, in the row: then nobody has to hand it over."""
    constants = _constants(region)
    homes: dict[int, int] = {}
    loads: dict[int, tuple[int, int | None]] = {}  # with what their arrays still hold
    for place, instruction in enumerate(region):
        dest, op, _, args, attribute = instruction
        if op == "warp_sums":
            if (number := _array_of(args, attribute, loads, constants)) is not None:
                homes[place] = number
            loads = {}
        elif op == "load" and attribute[0] == "local":
            loads[dest] = attribute[1], constants.get(args[0])
        elif written := {number for one in walk((instruction,)) for number in local_writes(one)}:
            loads = {dest: load for dest, load in loads.items() if load[0] not in written}
    uses = Counter(homes.values())
    for number, _ in uses.most_common():
        if _may_live(number, region):
            there = {place for place, home in homes.items() if home == number}
            ready = (
                (*i[:3], (), replace(i[4], vector=ROW)) if place in there else i for place, i in enumerate(region)
            )
            return moved(tuple(ready), {number: ROW})
    return region


def _array_of(args: tuple[int, ...], sums: WarpSums, loads: Mapping, constants: Mapping[int, int]) -> int | None:
    """The local array whose first elements a product's vector is."""
    if sums.vector is not None:
        begins = sums.vector[0] == "local" and sums.stride == 1 and constants.get(args[0]) == 0
        return sums.vector[1] if begins else None
    numbers = {loads.get(arg, (None, None))[0] for arg in args}
    in_order = [loads.get(arg, (None, None))[1] for arg in args] == list(range(len(args)))
    return numbers.pop() if len(numbers) == 1 and in_order else None


def _may_live(number: int, region: Region) -> bool:
    """Whether a local array may: what products leave there must not be in its way, nor it in theirs.

    It is written element by element over what was just taken of a product, or while no product is there; and what it was
    before a product is not asked for behind that.
    """
    constants = _constants(region)
    size = next(i[4][1] for i in region if i[1] == "alloc" and i[4][0] == number)
    if size > max(i[4].words for i in region if i[1] == "warp_sums"):
        return False
    for one in walk(region):
        if one[1] == "sums" and one[4].matrix == ("local", number):
            return False
        if one[1] in ("sums", "take") and number in local_writes(one):
            return False
        if one[1] == "warp_sums" and one[4].vector == ("local", number) and _array_of(one[3], one[4], {}, constants) is None:
            return False
    begins = [place for place, i in enumerate(region) if i[1] == "warp_sums"]
    for begin, end in zip(begins, [*begins[1:], len(region)], strict=True):
        takes = [place for place in range(begin, end) if any(map(_takes, walk((region[place],))))]
        kept = 0
        for place in range(begin + 1, takes[-1] + 1):
            reads, writes = _touches((region[place],), number)
            if writes:
                kept = _written_over(region[place], number, constants) if [place] == takes else 0
            if reads or (writes and not kept):
                return False
        behind = region[takes[-1] + 1 : end + 1]  # the next product, too
        before = any(_touches(region[:begin], number))
        if kept == size or not before and not kept:
            continue
        if _touches(behind, number)[1] or not all(_reads_below(i, number, kept, constants) for i in behind):
            return False
    return True


def _written_over(loop: Instruction, number: int, constants: Mapping[int, int]) -> int:
    """The first elements of a local array that a loop's turns write, each over what it has taken; 0 where it is not so."""
    extent, body = loop[4]
    taken = next(place for place, one in enumerate(body) if _takes(one))
    (begin,) = body[taken][3]
    made, places = {one[0]: one for one in body}, set()
    for place, one in enumerate(body):
        if number not in local_writes(one):
            if number in (written for inner in regions_of(one) for i in walk(inner) for written in local_writes(i)):
                return 0
            continue
        index, further = one[3][0], None
        if index == begin:
            further = 0
        elif index in made and made[index][1] == "add" and begin in made[index][3]:
            further = next(map(constants.get, (arg for arg in made[index][3] if arg != begin)), None)
        if place < taken or further is None:
            return 0
        places.add(further)
    return extent * TOGETHER if places == set(range(TOGETHER)) else 0


def _takes(one: Instruction) -> bool:
    """Whether that takes what a product has left in the row."""
    return one[1] == "take" and one[4][2] == ROW


def _reads_below(one: Instruction, number: int, limit: int, constants: Mapping[int, int]) -> bool:
    """Whether an instruction reads no element of a local array but the first `limit`."""
    _, op, _, args, attribute = one
    if number not in local_reads(one):
        return not _touches((one,), number)[0]
    if op == "load":
        return constants.get(args[0], limit) < limit
    return attribute.stride == 1 and constants.get(args[-1], limit) + attribute.terms <= limit


def _touches(region: Region, number: int) -> tuple[bool, bool]:
    """Whether a local array is read, and written, in a region or in those inside of it."""
    found = list(walk(region))
    return any(number in local_reads(one) for one in found), any(number in local_writes(one) for one in found)
