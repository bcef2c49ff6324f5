"""Queues of lanes: the order of tickets, the bits, the counter, and how well warps are used."""

import heapq
import re

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sample_lanes import (
    counting,
    draw_alone,
    jitted,
    logistic_maps,
    random_lengths,
    scripted,
    scripted_image,
    vote_alone,
)
from solve_helpers import assert_same_bits

from jax_cubie.kernel import library, queue
from jax_cubie.kernel.queue import IDLE, NONE, PATIENCE, STEPS_AT_ONCE, order
from jax_cubie.kernel.target import Target, default_targets

WARP = 32


@given(st.integers(1, 3000))
def test_order_is_a_bijection(lanes):
    assert sorted(order(ticket, lanes) for ticket in range(lanes)) == list(range(lanes))


def test_order_takes_both_ends_in_turn():
    pieces = [order(ticket, 8000) // 1000 for ticket in range(0, 8000, 1000)]
    assert pieces == [0, 7, 1, 6, 2, 5, 3, 4]
    # Neighbours stay neighbours: what a warp reads lies together.
    assert all(abs(order(ticket + 1, 8000) - order(ticket, 8000)) == 1 for ticket in range(7999) if (ticket + 1) % 1000)


@pytest.mark.parametrize("count", [1, 31, 33, 1000])
def test_same_bits_as_without_a_queue(platform, count, monkeypatch):
    """A thread takes several lanes, or one. On the host, which has no warps, a thread votes for itself here."""
    (target,) = default_targets(platform)
    if platform == "cpu":
        monkeypatch.setattr(queue, "_ballot", vote_alone)
        monkeypatch.setattr(queue, "_tickets", draw_alone)
    lengths, seeds = random_lengths(count), np.linspace(0.1, 0.9, count, dtype=np.float32)
    lengths[0] = 0
    for block in (32, 48) if platform == "cuda" else (8,):
        found = [jitted(scripted(target, queued=queued, block=block))(lengths, seeds) for queued in (False, True)]
        assert_same_bits(*found)
        np.testing.assert_array_equal(found[1][0], logistic_maps(lengths, seeds))
        np.testing.assert_array_equal(found[1][1], lengths)
        run = jitted(scripted(target, queued=True, block=block))
        turns = jax.jit(lambda run=run: jax.lax.scan(lambda turn, _: (turn, run(lengths, seeds)), None, length=3)[1])()
        assert_same_bits(turns, [np.stack([one] * 3) for one in found[0]])


@pytest.mark.parametrize("target", ["cuda:75", "cuda:90", "cuda:100"])
def test_code(target):
    """Nothing lies in local memory; votes stand where all threads of a warp are; the counter is drawn from at one place."""
    for block in (128, 48):
        image = scripted_image(Target.parse(target), queued=True, block=block)
        assert image.resources.spill_bytes == 0 and image.resources.stack_bytes == 0
        (ptx,) = [blob.code.decode() for blob in library.unpack_blobs(image.data) if blob.kind == "ptx"]
        # `together` may stand before the loop and at its end.
        assert 5 <= ptx.count("vote.sync.ballot") <= 6 and ptx.count("shfl.sync") == 2
        assert len(re.findall(r"\batom\.[a-z.]*global[a-z.]*\.add\.u64", ptx)) == 1
    static = scripted_image(Target.parse(target), queued=False, block=128)
    (ptx,) = [blob.code.decode() for blob in library.unpack_blobs(static.data) if blob.kind == "ptx"]
    assert not re.search(r"vote|shfl|atom|bar\.", ptx)


def test_each_launch_has_a_counter_of_its_own():
    """It is 0 when the launch begins: in a scan, in a second run, and beside other launches."""
    with jax.default_device(jax.devices("cpu")[0]):
        draw = counting()
        nest = jax.vmap(jax.vmap(draw, out_axes=0))
        run = jax.jit(lambda x: jax.lax.scan(lambda turn, _: (turn, nest(x + turn)), np.float32(0), length=3)[1])
        beside = jax.jit(lambda x: [nest(x), nest(x + 1)])
        x = np.zeros((5, 7), np.float32)
        for _ in range(2):
            for (numbers,) in (run(x), *beside(x)):
                for launch in np.asarray(numbers).reshape(-1, 35):
                    assert sorted(launch) == list(range(35))
        assert int(jax.jit(draw)(np.float32(0))[0]) == 0


# -- How long a batch takes -------------------------------------------------------------------------------------------------

# Beginning a lane and writing its results, in steps, for which the others of a warp wait.
AROUND = 4


def with_queue(lengths, warps):
    """Steps until all lanes are done by so many warps: the rules of `Queue`, look by look."""
    tickets, count, done = 0, len(lengths), np.zeros(len(lengths), int)
    held, left = np.full((warps, WARP), IDLE), np.zeros((warps, WARP), int)
    patience = np.zeros((warps, WARP), int)
    clock, end = [(0, warp) for warp in range(warps)], 0
    while clock:
        now, warp = heapq.heappop(clock)
        mine = held[warp]
        if np.all(mine == NONE):
            end = max(end, now)
            continue
        idle = mine == IDLE
        begins = idle & (np.any(idle & (patience[warp] <= 0)) or not np.any(mine >= 0))
        for thread in np.flatnonzero(begins):
            mine[thread] = order(tickets, count) if tickets < count else NONE
            left[warp, thread] = lengths[mine[thread]] if tickets < count else 0
            tickets += 1
        now += AROUND * bool(np.any(begins & (mine >= 0)))
        busy = mine >= 0
        taken = np.minimum(left[warp], STEPS_AT_ONCE) * busy
        left[warp] -= taken
        patience[warp][~busy] -= STEPS_AT_ONCE
        for thread in np.flatnonzero(busy & (left[warp] == 0)):
            done[mine[thread]] += 1
            patience[warp, thread] = int(lengths[mine[thread]] * PATIENCE)
            mine[thread] = IDLE
        heapq.heappush(clock, (now + taken.max(), warp))
    assert np.all(done == 1)
    return end


def without_queue(lengths, warps, block=4):
    """The same where each thread has one lane: blocks of four warps, begun in turn where there is room."""
    longest = np.pad(lengths, (0, -len(lengths) % (block * WARP))).reshape(-1, block * WARP).max(1)
    return in_turn(longest + AROUND, warps // block)


def in_turn(times, places):
    """When all is done, if each begins as soon as one of so many places is free."""
    free = [0] * places
    for time in times:
        heapq.heapreplace(free, free[0] + int(time))
    return max(free)


@pytest.mark.parametrize("how", ["shuffled", "ascending", "descending", "equal"])
def test_utilisation(how):
    """Shuffled lanes take hardly longer than they would if threads were not bound to warps; sorted ones lose nothing."""
    warps, lengths = 32, random_lengths(20 * 32 * WARP)
    lengths = {"shuffled": lengths, "ascending": np.sort(lengths), "descending": np.sort(lengths)[::-1],
               "equal": np.full(lengths.size, 375)}[how]  # fmt: skip
    queued, static = with_queue(lengths, warps), without_queue(lengths, warps)
    alone = in_turn([lengths[order(ticket, lengths.size)] for ticket in range(lengths.size)], warps * WARP)
    print(how, queued, static, alone, lengths.sum() / (warps * WARP))
    if how == "shuffled":
        assert queued < 1.15 * alone and queued < 0.25 * static
    else:
        assert queued < 1.1 * static
