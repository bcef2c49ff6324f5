"""Which lane a thread takes: one alone, or, with a queue, the next one whenever its lane is done.

Lanes end at different times. Without a queue a warp runs until the longest of its 32 lanes is done, with a queue until the
queue is empty. A body that runs lanes looks alike for both, and is the same code on the host; `Queue` says how it goes. All
its functions but `earn` and `wait` are votes of a warp: every thread of the warp has to come to them.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir

from .device import Device
from .emitter import Emitter
from .warp import INT32, INT64, WARP, call, thread_of_block, thread_of_warp

# Steps between two looks at what the other threads of the warp do.
STEPS_AT_ONCE = 64
# Beginning a lane holds up the threads of the warp that are inside of theirs, so several do it at once: a thread waits for
# others to be done, too, but no longer than for this share of the steps that its lane took.
PATIENCE = 1 / 16
# The batch is taken from both ends in turn, such a share of it at a time: where it is sorted by how long lanes take, either
# way, those that take longest are not the last.
PIECES = 8
# What a thread holds in place of a lane: nothing, but it may take one; nothing, and there is none left.
IDLE, NONE = -1, -2


def order(ticket: Any, lanes: Any) -> Any:
    """The lane of a ticket: each of 0 to lanes - 1 once."""
    size = (lanes + (PIECES - 1)) // PIECES
    piece, rest = ticket // size, ticket % size
    place = piece // 2 * size + rest
    return place if piece % 2 == 0 else lanes - 1 - place


class Queue:
    """The functions by which a body `run(words, lane, thread, base)` of `compile_lanes` goes from lane to lane.

    lanes: the word that is the number of lanes. counter: the word that is the counter's address (`QUEUE_COUNTER`); None where
    there is no queue, as on the host, whose threads take chunks of lanes: then the body has the lane that it is given, and the
    loop below one turn, of which nothing is left in the machine code. block: threads of a block.

        held, patience = idle, 0                             # int64, int32
        while together(held):
            before = held
            held = take(words, held, lane, patience)
            if not queued or held > before:
                ...                                          # begin lane number `held`
            if not queued or held >= 0:
                limit = ...                                  # by `pause` with a queue, else all its steps
                ...                                          # until the lane is done, or has taken `limit` steps in all
                if not queued or done:
                    ...                                      # what is left to do for the lane
                    held, patience = empty, earn(steps)
            else:
                patience = wait(patience)

    A thread holds a lane, IDLE or NONE. In between, threads of a warp may go different ways, but there must be no other
    vote, and none may leave the loop. A lane that has taken `most` steps is done. What is kept from look to look takes
    registers of the loop over steps: addresses and settings are better found again at each look.

    together(held) -> bool
        Whether a thread of the warp has a lane, or may get one.
    take(words, held, lane, patience) -> int64
        What the thread holds from here on: the next lane of the queue, if it is idle and it is time to begin; NONE after the
        last. `lane` is the one that `run` was given.
    earn(steps) -> int32
        How many steps a thread waits for its warp whose lane took so many.
    wait(patience) -> int32
        What is left of that.
    """

    def __init__(self, device: Device, *, lanes: int, counter: int | None, block: int):
        self.queued = queued = counter is not None
        self.idle = np.int64(IDLE)
        self.empty = np.int64(IDLE if queued else NONE)
        lane_of = device.function(order)

        @device.emitted("bool")
        def together(emitter, held):
            if not queued:
                return emitter.compare("eq", "int64", held, emitter.constant("int64", IDLE))
            more = emitter.compare("ne", "int64", held, emitter.constant("int64", NONE))
            return emitter.compare("ne", "uint32", _ballot(emitter, block, more), emitter.constant("uint32", 0))

        @device.emitted("int64")
        def ticket(emitter, words, held, patience):
            """The thread's ticket, the number of lanes where none is left; IDLE where it takes none now."""
            zero, nothing = emitter.constant("uint32", 0), emitter.constant("int64", IDLE)
            drawn = emitter.alloca("int64", 1)
            emitter.store(drawn, 0, nothing, "int64")
            idle = emitter.compare("eq", "int64", held, nothing)
            # Mostly no thread is, and that is all that a look costs.
            with emitter.builder.if_then(emitter.compare("ne", "uint32", _ballot(emitter, block, idle), zero)):
                tired = emitter.compare("le", "int32", patience, emitter.constant("int32", 0))
                busy = emitter.compare("ge", "int64", held, emitter.constant("int64", 0))
                tired = _ballot(emitter, block, emitter.logical_and(idle, tired))
                some_tired = emitter.compare("ne", "uint32", tired, zero)
                none_busy = emitter.compare("eq", "uint32", _ballot(emitter, block, busy), zero)
                with emitter.builder.if_then(emitter.logical_or(some_tired, none_busy)):
                    number = _tickets(emitter, block, emitter.builder.extract_value(words, counter), idle)
                    count = emitter.builder.extract_value(words, lanes)
                    number = emitter.select(emitter.compare("lt", "uint64", number, count), number, count)
                    emitter.store(drawn, 0, emitter.select(idle, number, nothing), "int64")
            return emitter.load(drawn, 0, "int64")

        @device.function
        def take(words, held, lane, patience):
            if not queued:
                return lane
            number = ticket(words, held, patience)
            if number >= 0:
                held = lane_of(number, words[lanes]) if number < words[lanes] else np.int64(NONE)
            return held

        @device.emitted("int32")
        def earn(emitter, steps):
            return emitter.div("int32", steps, emitter.constant("int32", round(1 / PATIENCE)))

        @device.emitted("int32")
        def wait(emitter, patience):
            return emitter.sub("int32", patience, emitter.constant("int32", STEPS_AT_ONCE))

        self.together, self.take, self.earn, self.wait = together, take, earn, wait


def pause(emitter: Emitter, steps: Any, most: Any) -> Any:
    """After how many steps of its lane in all (int32) a thread looks again that has taken `steps` of `most`."""
    left, some = emitter.sub("int32", most, steps), emitter.constant("int32", STEPS_AT_ONCE)
    less = emitter.select(emitter.compare("lt", "int32", left, some), left, some)
    return emitter.add("int32", steps, less)


def _members(emitter: Emitter, block: int) -> Any:
    """The threads that the thread's warp has, as bits: fewer than 32 in the last warp of some blocks."""
    every = emitter.constant("uint32", 2**WARP - 1)
    rest = block % WARP
    if rest == 0:
        return every
    thread = thread_of_block(emitter)
    inside = emitter.compare("lt", "uint32", thread, emitter.constant("uint32", block - rest))
    return emitter.select(inside, every, emitter.constant("uint32", 2**rest - 1))


def _ballot(emitter: Emitter, block: int, condition: Any) -> Any:
    """Which threads of the warp say yes, as bits."""
    return call(emitter, "llvm.nvvm.vote.ballot.sync", INT32, _members(emitter, block), condition)


def _tickets(emitter: Emitter, block: int, address: Any, wanted: Any) -> Any:
    """A number for each thread that wants one, counted in global memory: the first of them counts for all."""
    builder, i1 = emitter.builder, ir.IntType(1)
    wanting = _ballot(emitter, block, wanted)
    first = call(emitter, "llvm.cttz.i32", INT32, wanting, i1(0))
    thread = thread_of_warp(emitter)
    below = builder.and_(wanting, call(emitter, "llvm.nvvm.read.ptx.sreg.lanemask.lt", INT32))
    counted = emitter.alloca("int64", 1)
    emitter.store(counted, 0, emitter.constant("int64", 0), "int64")
    with builder.if_then(builder.and_(wanted, emitter.compare("eq", "uint32", thread, first))):
        pointer = builder.inttoptr(address, ir.PointerType(INT64, 1))
        count = emitter.cast(call(emitter, "llvm.ctpop.i32", INT32, wanting), "uint32", "uint64")
        emitter.store(counted, 0, builder.atomic_rmw("add", pointer, count, "monotonic"), "int64")
    begin = emitter.load(counted, 0, "int64")
    halves = []
    for half in (begin, builder.lshr(begin, INT64(32))):
        word = emitter.cast(half, "uint64", "uint32")
        moved = call(emitter, "llvm.nvvm.shfl.sync.idx.i32", INT32, _members(emitter, block), word, first, INT32(WARP - 1))
        halves.append(emitter.cast(moved, "uint32", "uint64"))
    begin = builder.or_(halves[0], builder.shl(halves[1], INT64(32)))
    return builder.add(begin, emitter.cast(call(emitter, "llvm.ctpop.i32", INT32, below), "uint32", "uint64"))
