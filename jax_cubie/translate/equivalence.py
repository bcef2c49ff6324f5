"""Whether two programs compute the same numbers to the bit, though one keeps in an array what the other computes where it is
read.

Both are brought into a form in which an array that one nest of loops writes is replaced by what was written. A product that
went into an array before it is added to something is so told apart from one that was contracted with the sum.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from .program import Instruction, Memory, Region, Sums, local_writes, regions_of

Table = dict[tuple[Any, ...], int]


class _Unlike(Exception):
    """An array is read by an index from which that of its loops can't be told."""


@dataclass
class _Nest:
    """Loops that do nothing but write an array whole, each element once."""

    indices: tuple[int, ...]
    extents: tuple[int, ...]
    place: int
    value: int
    inside: dict[int, Instruction]
    versions: dict[int, int]


def equivalent(one: Region, name_one: Callable[[int], Any], other: Region, name_other: Callable[[int], Any]) -> bool:
    """Whether two regions store the same, in the same order. Inputs are the same where their names are; arrays do not share
    memory yet."""
    table: Table = {}
    try:
        return _Form(one, name_one, table).effects(one) == _Form(other, name_other, table).effects(other)
    except (_Unlike, RecursionError):
        return False


class _Form:
    def __init__(self, region: Region, name: Callable[[int], Any], table: Table) -> None:
        """table: expressions, numbered; programs that are compared share it."""
        self.name, self.table = name, table
        self.keys = {number: key for key, number in table.items()}
        self.values: dict[int, int] = {}
        self.versions: dict[int, int] = {}  # how often an array has been written
        self.numbers: dict[int, int] = {}
        self.nests = self._find_nests(region)
        self.nested: dict[int, _Nest] = {}  # by array, once written

    def _find_nests(self, region: Region) -> dict[int, tuple[int, _Nest]]:
        """By the number of the outermost index: the array and the nest."""
        writers: dict[int, int] = {}
        sizes: dict[int, int] = {}

        def survey(inner: Region) -> None:
            for instruction in inner:
                if instruction[1] == "alloc":
                    sizes[instruction[4][0]] = instruction[4][1]
                for number in local_writes(instruction):
                    writers[number] = writers.get(number, 0) + 1
                for deeper in regions_of(instruction):
                    survey(deeper)

        survey(region)
        found = {}
        for instruction in region:
            nest = self._nest_of(instruction)
            if nest is not None:
                array, one = nest
                if writers[array] == 1 and math.prod(one.extents) == sizes[array]:
                    found[instruction[0]] = nest
        return found

    @staticmethod
    def _nest_of(loop: Instruction) -> tuple[int, _Nest] | None:
        indices, extents, inside = [], [], {}
        while loop[1] == "for":
            indices.append(loop[0])
            extents.append(loop[4][0])
            *rest, last = loop[4][1]
            if any(regions_of(one) or one[1] in ("store", "sums", "while", "if") for one in rest):
                return None
            inside |= {one[0]: one for one in rest}
            loop = last
        if loop[1] != "store" or loop[4][0] != "local":
            return None
        place, value = loop[3]
        return loop[4][1], _Nest(tuple(indices), tuple(extents), place, value, inside, {})

    # -- expressions ------------------------------------------------------------------------------------------

    def number(self, *key: Any) -> int:
        number = self.table.setdefault(key, len(self.table))
        self.keys[number] = key
        return number

    def memory(self, memory: Memory) -> Any:
        space, k = memory
        if space == "input":
            return space, self.name(k)
        return memory if space == "output" else (space, self.numbers.setdefault(k, len(self.numbers)))

    def expression(self, instruction: Instruction, args: tuple[int, ...], versions: dict[int, int]) -> int:
        _, op, dtype, _, attribute = instruction
        if op != "load":
            return self.number(op, dtype, args, attribute)
        if attribute[0] == "local":
            if attribute[1] in self.nested:
                return self.element(self.nested[attribute[1]], args[0])
            return self.number(op, dtype, args, self.memory(attribute), versions.get(attribute[1], 0))
        return self.number(op, dtype, args, self.memory(attribute))

    def element(self, nest: _Nest, index: int) -> int:
        """What a nest has written at an index."""
        known: dict[int, int] = {}
        if self.keys[index][0] == "const" and len(nest.indices) > 1:
            place = self.keys[index][3]
            turns = dict(zip(nest.indices, map(int, np.unravel_index(place, nest.extents)), strict=True))
            if self.flat(nest, nest.place, turns) != place:
                raise _Unlike
            known = {k: self.number("const", "int64", (), turn) for k, turn in turns.items()}
        else:
            self.match(nest, nest.place, index, known)
        return self.within(nest, nest.value, known)

    def match(self, nest: _Nest, scalar: int, index: int, known: dict[int, int]) -> None:
        """Finds the loops' indices for which `scalar` is `index`."""
        if scalar in nest.indices:
            if known.setdefault(scalar, index) != index:
                raise _Unlike
            return
        if scalar not in nest.inside:
            if self.values[scalar] != index:
                raise _Unlike
            return
        _, op, dtype, args, _ = nest.inside[scalar]
        key = self.keys[index]
        if op not in ("add", "mul") or key[:2] != (op, dtype):
            raise _Unlike
        for arg, part in zip(args, key[2], strict=True):
            self.match(nest, arg, part, known)

    def flat(self, nest: _Nest, scalar: int, turns: dict[int, int]) -> int:
        """An index in these turns of the loops."""
        if scalar in turns:
            return turns[scalar]
        op, _, args, attribute = nest.inside[scalar][1:] if scalar in nest.inside else self.keys[self.values[scalar]]
        if op == "const":
            return attribute
        if op not in ("add", "mul") or scalar not in nest.inside:
            raise _Unlike
        return (operator.add if op == "add" else operator.mul)(*[self.flat(nest, a, turns) for a in args])

    def within(self, nest: _Nest, scalar: int, known: dict[int, int]) -> int:
        if scalar in known:
            return known[scalar]
        if scalar not in nest.inside:
            if scalar in nest.indices:
                raise _Unlike
            return self.values[scalar]
        instruction = nest.inside[scalar]
        args = tuple(self.within(nest, a, known) for a in instruction[3])
        known[scalar] = self.expression(instruction, args, nest.versions)
        return known[scalar]

    def whole(self, memory: Memory | None) -> Any:
        """An array that is read as a whole."""
        if memory is None or memory[0] != "local" or memory[1] not in self.nested:
            return memory and (self.memory(memory), self.versions.get(memory[1], 0) if memory[0] == "local" else 0)
        nest = self.nested[memory[1]]
        known = {index: self.number("index of", k) for k, index in enumerate(nest.indices)}
        return nest.extents, self.within(nest, nest.place, known), self.within(nest, nest.value, known)

    # -- what is stored ---------------------------------------------------------------------------------------

    def wrote(self, array: int) -> None:
        self.versions[array] = self.versions.get(array, 0) + 1

    def effects(self, region: Region, depth: int = 0) -> tuple[int, ...]:
        found = []
        for instruction in region:
            dest, op, dtype, numbers, attribute = instruction
            if op == "for" and depth == 0 and dest in self.nests:
                array, nest = self.nests[dest]
                nest.versions = dict(self.versions)
                self.nested[array] = nest
                continue
            if op == "for":
                self.values[dest] = self.number("index", depth)
                found.append(self.number(op, attribute[0], self.effects(attribute[1], depth + 1)))
                continue
            if op == "while":  # its condition is made by the first region
                test = self.effects(attribute[0], depth + 1)
                condition = self.values[numbers[0]]
                found.append(self.number(op, test, condition, self.effects(attribute[1], depth + 1)))
                continue
            if op == "alloc":
                continue
            args = tuple(self.values[a] for a in numbers)
            if op == "if":
                found.append(self.number(op, args, *(self.effects(inner, depth + 1) for inner in attribute)))
            elif op == "store":
                found.append(self.number(op, dtype, args, self.memory(attribute)))
                if attribute[0] == "local":
                    self.wrote(attribute[1])
            elif op == "sums":
                found.append(self.number(op, dtype, args, *self.product(attribute)))
                self.wrote(attribute.out)
            else:
                self.values[dest] = self.expression(instruction, args, self.versions)
        return tuple(found)

    def product(self, sums: Sums) -> tuple[Any, ...]:
        sizes = (sums.count, sums.across, sums.along, sums.terms, sums.many, sums.stride)
        return *sizes, self.memory(("local", sums.out)), self.whole(sums.matrix), self.whole(sums.vector)
