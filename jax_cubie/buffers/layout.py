"""Where every buffer of a lane lies, and the functions that make them.

A lane has a window of shared memory, the primary region first and the fallback region after it, one persistent
region, and any number of local arrays. Offsets and sizes count words of one lane. How lanes are woven together
(element e of lane i at `e * block + i`) is the memory's business, not the layout's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any, Protocol

from .buffer import ALWAYS, Buffer, closest, common_phases

REGIONS = ("shared", "shared_fallback", "persistent", "local")
WARP = 32

Device = Callable[..., Any]


class Memory(Protocol):
    """How a target makes arrays. Both answer with device functions of the lane's three regions,
    `(shared_parent, persistent_parent, shared_fallback) -> array`: plain Python ones, or compiled ones."""

    def make_slice(self, region: int, offset: int, size: int, dtype: str) -> Device:
        """A function that gives `size` words (0 or more) from `offset` on of its parameter number `region`."""
        ...

    def make_local(self, size: int, dtype: str) -> Device:
        """A function that gives the lane's own array of `size` words (0 or more), whatever the regions are."""
        ...


@dataclass(frozen=True)
class Slot:
    """Where a buffer lies: `size` words from `offset` on in `region` ("local": an array of its own).

    `inside` is the buffer whose words these are, None if they are its own. It and `live` are for messages and
    checks; the machine code does not depend on them, so they take no part in comparisons.
    """

    name: str
    region: str
    offset: int
    size: int
    dtype: str = "float"
    inside: str | None = field(default=None, compare=False, metadata={"content": None})
    live: frozenset[str] = field(default=ALWAYS, compare=False, metadata={"content": None})


@dataclass(frozen=True)
class Layout:
    """The slots of all buffers, in order of registration, and the words of each region."""

    slots: tuple[Slot, ...]
    shared_words: int
    fallback_words: int
    persistent_words: int

    @property
    def fallback_offset(self) -> int:
        """Where in the window the fallback region begins: after the primary one, or slices of the two would
        overwrite each other."""
        return self.shared_words

    @property
    def window_words(self) -> int:
        """Words of shared memory that a lane takes."""
        return self.shared_words + self.fallback_words

    def slot(self, name: str) -> Slot:
        for slot in self.slots:
            if slot.name == name:
                return slot
        raise ValueError(f"There is no buffer {name!r}.{closest(name, (s.name for s in self.slots))}")

    def largest(self, n: int = 3) -> tuple[Slot, ...]:
        """The `n` largest buffers that take words of the window. A slice of another buffer takes none, so
        moving it would free none."""
        own = [
            s for s in self.slots if s.region in ("shared", "shared_fallback") and s.size and s.inside is None
        ]
        return tuple(sorted(own, key=lambda slot: -slot.size)[:n])

    def overlaps(self) -> list[tuple[str, str]]:
        """Pairs of buffers that share a word while both are live; has to be empty. Found from the slots alone,
        not from how they came about."""
        return [
            (a.name, b.name)
            for a, b in combinations(self.slots, 2)
            if common_phases(a.live, b.live) and self._words(a) & self._words(b)
        ]

    def _words(self, slot: Slot) -> set[tuple[str, int]]:
        """The words of a slot, by address: the two shared regions are parts of one window."""
        place, start = slot.region, slot.offset
        if slot.region == "local":
            place = f"local {slot.name}"
        elif slot.region == "shared_fallback":
            place, start = "shared", start + self.fallback_offset
        return {(place, word) for word in range(start, start + slot.size)}

    def allocator(self, name: str, memory: Memory) -> Device:
        """The device function that makes the buffer from the lane's regions, whatever its location:
        `(shared_parent, persistent_parent, shared_fallback) -> array`.

        The regions are the primary shared one, the persistent one and the fallback one, each from its first
        word. Everything is decided here: what is compiled is a call with constants.
        """
        slot = self.slot(name)
        if slot.region == "local":
            return memory.make_local(slot.size, slot.dtype)
        parameter = ("shared", "persistent", "shared_fallback").index(slot.region)
        return memory.make_slice(parameter, slot.offset, slot.size, slot.dtype)


def resolve(buffers: Iterable[Buffer]) -> Layout:
    """Put every buffer somewhere. An alias comes after the buffer it names (`BufferRegistry` sees to that).

    A buffer with a parent of its own storage class, shared or persistent, becomes a slice of it if there is
    room; the children of one parent take the room in turn, in order of registration. Otherwise a shared buffer
    gets new words in the fallback region, a persistent one new words in the persistent region. A local buffer
    is an array of its own, and so is one of size 0. A buffer that aliases nothing and is shared lies in the primary region.
    """
    words: dict[str, int] = dict.fromkeys(REGIONS, 0)
    slots: dict[str, Slot] = {}
    taken: dict[str, int] = {}  # words that children have taken, by parent

    for buffer in buffers:
        storage, inside = buffer.storage, None
        parent = slots[buffer.aliases] if buffer.aliases is not None else None
        if storage == "local" or buffer.size == 0:  # what has no words has no place, wherever it was put
            region, offset = "local", 0
        elif (
            parent is not None
            and _storage(parent) == storage
            and taken[parent.name] + buffer.size <= parent.size
        ):
            # The parent may be a slice or lie in the fallback region itself: the child goes where it is.
            region, offset, inside = parent.region, parent.offset + taken[parent.name], parent.name
            taken[parent.name] += buffer.size
        else:
            region = "shared_fallback" if storage == "shared" and parent is not None else storage
            offset = words[region]
            words[region] += buffer.size
        slots[buffer.name] = Slot(buffer.name, region, offset, buffer.size, buffer.dtype, inside, buffer.live)
        taken[buffer.name] = 0

    return Layout(tuple(slots.values()), words["shared"], words["shared_fallback"], words["persistent"])


def _storage(slot: Slot) -> str:
    return "shared" if slot.region == "shared_fallback" else slot.region


def fit_block(
    layout: Layout, word_bytes: int, block: int, limit_bytes: int, *, least: int = WARP, device: str = "the device"
) -> int:
    """The block size, `block` or smaller, whose window of shared memory is within `limit_bytes`.

    The block is halved, in whole multiples of `least`, down to that. A block that was smaller to begin with is kept or
    refused.
    """
    if block < 1:
        raise ValueError(f"block={block}: expected 1 or more lanes.")
    lane_bytes = layout.window_words * word_bytes
    while block * lane_bytes > limit_bytes and block > least:
        block = max(least, block // 2 // least * least)
    wanted = block * lane_bytes
    if wanted <= limit_bytes:
        return block

    largest = layout.largest()
    names = ", ".join(f"{slot.name} ({slot.size} words)" for slot in largest)
    advice = f'Put some of them in local memory, first of all {largest[0].name}_location="local"'
    if word_bytes > 4:
        advice += ", or solve in float32, which takes half the bytes"
    raise ValueError(
        f"The shared buffers do not fit: a block of {block} lanes, the smallest tried, wants {wanted:,} bytes "
        f"({layout.window_words} words of {word_bytes} bytes for each lane), and {device} has {limit_bytes:,} "
        f"for a block. The largest: {names}. {advice}."
    )
