"""Arrays of a program that are not live at once share memory.

A compiler would find some of this out; here it is found once for all targets, and `Program.local_bytes` says the truth before
anything is compiled.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from .program import Region, local_reads, local_writes, regions_of, walk

PRIVATE = 8
"""Elements up to which an array is left alone: a compiler may unroll the loops over it, and keep it in registers."""


@dataclasses.dataclass
class _Life:
    """Where in a stretch of instructions an array is accessed; as many times as `accesses` says.

    exposed: it may be read before anything of it was written there. written: it surely was.
    """

    first: int
    last: int
    accesses: int = 1
    exposed: bool = False
    written: bool = False


def lifetimes(region: Region) -> dict[int, tuple[int, int]]:
    """The first and the last place where each local array is live, in the order of the instructions.

    An array that a loop's body alone accesses, and writes before it reads, is another one in each turn. Any other that is
    accessed in a loop is live from its beginning to its end. That it is written *whole* before it is read needs no check: the
    first turn would read what nobody has written.
    """
    total: dict[int, int] = {}
    for instruction in walk(region):
        for number in (*local_reads(instruction), *local_writes(instruction)):
            total[number] = total.get(number, 0) + 1
    place = 0

    def access(lives: dict[int, _Life], number: int, one: _Life) -> None:
        known = lives.setdefault(number, dataclasses.replace(one, accesses=0, exposed=False, written=False))
        known.exposed |= one.exposed and not known.written
        known.written |= one.written
        known.first, known.last = min(known.first, one.first), max(known.last, one.last)
        known.accesses += one.accesses

    def go(region: Region, lives: dict[int, _Life]) -> dict[int, _Life]:
        nonlocal place
        for instruction in region:
            place += 1
            begin, op, inside = place, instruction[1], regions_of(instruction)
            if op == "if":
                branches = [go(branch, {}) for branch in inside]
                for number in sorted({*branches[0], *branches[1]}):
                    found = [branch[number] for branch in branches if number in branch]
                    both = len(found) == 2 and all(life.written for life in found)
                    for life in found:
                        access(lives, number, dataclasses.replace(life, written=False))
                    lives[number].written |= both
            elif inside:
                body: dict[int, _Life] = {}
                surely: set[int] = set()
                for part in inside:
                    go(part, body)
                    if op == "for" or part is inside[0]:  # the body of a while may never run
                        surely |= {number for number, life in body.items() if life.written}
                for number, life in body.items():
                    if life.exposed or life.accesses < total[number]:
                        life.first, life.last = begin, place
                    access(lives, number, dataclasses.replace(life, written=number in surely))
            else:
                for number in local_reads(instruction):
                    access(lives, number, _Life(begin, begin, exposed=True))
                for number in local_writes(instruction):
                    access(lives, number, _Life(begin, begin, written=True))
        return lives

    return {number: (life.first, life.last) for number, life in go(region, {}).items()}


def share(region: Region) -> Region:
    """The program with fewer arrays: each is in the place of one that is at least as large and never live with it."""
    lives = lifetimes(region)
    arrays = {i[4][0]: (i[2], i[4][1]) for i in region if i[1] == "alloc"}
    homes: dict[int, int] = {}
    tenants: dict[int, list[tuple[int, int]]] = {}
    for number, (dtype, size) in sorted(arrays.items(), key=lambda item: (-item[1][1], item[0])):
        if size <= PRIVATE or number not in lives:
            continue
        first, last = lives[number]
        for home, taken in tenants.items():
            if arrays[home][0] == dtype and all(last < begin or end < first for begin, end in taken):
                homes[number] = home
                taken.append((first, last))
                break
        else:
            tenants[number] = [(first, last)]
    return moved(region, {number: ("local", home) for number, home in homes.items()}) if homes else region


def moved(region: Region, homes: Mapping[int, tuple[str, int]]) -> Region:
    """The program with these local arrays in other memory."""

    def place(memory: tuple[str, int]) -> tuple[str, int]:
        space, number = memory
        return homes.get(number, memory) if space == "local" else memory

    found = []
    for instruction in region:
        dest, op, dtype, args, attribute = instruction
        if op == "alloc" and attribute[0] in homes:
            continue
        if op in ("load", "store"):
            attribute = place(attribute)
        elif op == "sums":
            vector = attribute.vector and place(attribute.vector)
            _, out = place(("local", attribute.out))
            attribute = dataclasses.replace(attribute, out=out, matrix=place(attribute.matrix), vector=vector)
        elif op == "for":
            attribute = (attribute[0], moved(attribute[1], homes))
        elif op in ("while", "if"):
            attribute = tuple(moved(inner, homes) for inner in attribute)
        found.append((dest, op, dtype, args, attribute))
    return tuple(found)
