"""Where a buffer lies changes no bit of a solution; and every row of the table of aliasing, compiled and run."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.extend.core import Primitive
from jax.interpreters import mlir
from solve_helpers import ADAPTIVE, LOCATIONS, METHODS, all_are, assert_same_bits, pairwise

from jax_cubie import SaveAt, Solver, loop_buffers
from jax_cubie.addressing import Addressing
from jax_cubie.buffers import BufferRegistry
from jax_cubie.buffers.memory import LaneMemory
from jax_cubie.kernel.custom_call import lower
from jax_cubie.kernel.device import Device
from jax_cubie.kernel.lanes import compile_lanes
from jax_cubie.kernel.target import Target, default_targets
from jax_cubie.operands import Operand, Result, Words

LANES = 133  # a block and a bit


def field(t, y, args):
    """Batched small args (kept in `parameters`), a batched matrix, divisions and sines: what rounding could show in."""
    push = jnp.sin(args["phase"] * t) / (1 + y[0] * y[0])
    return args["rate"] @ y * (1 - 0.1 * y) - 3 * y * y * y + jnp.stack([push, args["phase"] * y[0], -push])


def problem(dtype="float32"):
    rng = np.random.default_rng(7)
    args = {"rate": rng.normal(size=(LANES, 3, 3)).astype(dtype), "phase": rng.uniform(1, 5, LANES).astype(dtype)}
    return rng.normal(size=(LANES, 3)).astype(dtype), args


def solution_at(method, dtype="float32", **locations):
    y0, args = problem(dtype)
    # A function of the state, so that no buffer is idle but those that a method does not need.
    saveat = SaveAt(t0=True, ts=np.linspace(0.1, 0.9, 4), t1=True, fn=lambda t, y, args: (y, t / (1 + y @ y)))
    dt0 = None if method in ADAPTIVE else 0.03
    solver = Solver(method, **locations)
    one = functools.partial(solver.solve, field, 0.0, 1.0, saveat=saveat, dt0=dt0)
    return jax.jit(jax.vmap(lambda y0, args: one(y0, args)))(y0, args)


@functools.cache
def all_local(method, platform):
    return jax.tree.map(np.asarray, solution_at(method))


def check(method, platform, locations):
    reference, solution = all_local(method, platform), solution_at(method, **locations)
    shared = sorted(name for name, place in locations.items() if place == "shared")
    assert_same_bits(solution, reference, f"{method} with {shared} shared")


def places(*shared):
    return {name: "shared" if name in shared else "local" for name in LOCATIONS}


def test_the_problem_is_one_where_it_shows(platform):
    solution = all_local("tsit5", platform)
    assert all_are(solution, "successful")
    assert len({lane.tobytes() for lane in solution.ys[0]}) == LANES
    assert solution.stats["num_rejected_steps"].sum() > LANES // 2
    args = jax.tree.map(lambda leaf: leaf[0], problem()[1])
    saveat = SaveAt(ts=np.ones(1), fn=lambda t, y, args: y)
    inspected = Solver(**places(*LOCATIONS)).inspect(field, 0.0, 1.0, np.ones(3, np.float32), args, saveat=saveat)
    regions = {name: region for name, (region, size) in inspected.buffers.items() if size}
    # tsit5's dense output has no stages of its own.
    assert {f"{name}_location" for name in regions} == set(LOCATIONS) - {"dense_rhs_location"}
    # The accumulator or the output lies inside of error, the other one behind.
    assert set(regions.values()) == {"shared", "shared_fallback"}


def test_a_buffer_that_nobody_sizes(monkeypatch):
    register = loop_buffers.register
    monkeypatch.setattr(loop_buffers, "register", lambda registry: register(registry).register("scratch", 0))
    with pytest.raises(ValueError, match="without a size: scratch"):
        Solver("tsit5").inspect(field, 0.0, 1.0, np.ones(3, np.float32), jax.tree.map(lambda leaf: leaf[0], problem()[1]))


@pytest.mark.parametrize("name", LOCATIONS)
def test_one_buffer_shared(platform, name):
    check("tsit5", platform, places(name))


@pytest.mark.parametrize("name", LOCATIONS)
def test_all_but_one_shared(platform, name):
    check("tsit5", platform, places(*(other for other in LOCATIONS if other != name)))


# Half the subsets are known from the two tests above and the one below; these are others, always the same ones.
@settings(max_examples=10, deadline=None, derandomize=True, database=None)
@given(chosen=st.sets(st.sampled_from(LOCATIONS), min_size=2, max_size=5))
def some_subsets(platform, chosen):
    check("tsit5", platform, places(*chosen))


def test_subsets(platform):
    some_subsets(platform)


@pytest.mark.parametrize("method", METHODS)
def test_every_method(platform, method):
    """All shared; and rows of a cover of every pair of buffers in every pair of places, dealt out over the methods, whose
    step is one and the same code."""
    check(method, platform, places(*LOCATIONS))
    cover, number = pairwise(LOCATIONS), METHODS.index(method)
    for row in (cover[number % len(cover)], cover[(number + len(cover) // 2) % len(cover)]):
        check(method, platform, row)


def test_float64(platform):
    with jax.enable_x64(True):
        reference = solution_at("dopri5", "float64")
        assert reference.ys[0].dtype == np.float64
        for shared in (LOCATIONS, ("stage_rhs_location", "counters_location"), ("stage_accumulator_location",)):
            row = places(*shared)
            assert_same_bits(solution_at("dopri5", "float64", **row), reference, str(row))


# --- The table of aliasing

STORAGE = {"shared": {"location": "shared"}, "persistent": {"persistent": True}, "local": {}}
# Child, parent, the child's words (the parent has 8), whether it lies in the parent.
ALIASES = [
    ("shared", "shared", 8, True),
    ("shared", "shared", 9, False),
    ("shared", "local", 6, False),
    ("shared", "persistent", 6, False),
    ("persistent", "persistent", 8, True),
    ("persistent", "persistent", 9, False),
    ("persistent", "local", 6, False),
    ("persistent", "shared", 6, False),
    ("local", "local", 6, False),
    ("local", "shared", 6, False),
    ("local", "persistent", 6, False),
]
SIZES = {"other_shared": 3, "other_persistent": 5, "parent": 8, "child": None, "second": 2}
BLOCK = 32


def registry_of(child, parent, size, kind):
    registry = BufferRegistry().register("other_shared", 3, location="shared").register("other_persistent", 5, persistent=True)
    registry = registry.register("parent", 8, live="stage", **STORAGE[parent])
    registry = registry.register("child", size, aliases="parent", live="error", dtype=kind, **STORAGE[child])
    return registry.register("second", 2, aliases="parent", live="error", **STORAGE[child])


def build(target, layout, dtype):
    """A kernel that fills each buffer in turn, parent before children, and then writes out what each of them holds.

    Indices are known at run time only: a compiler that knew them would hand the values on in registers.
    """
    device = Device(target)
    memory = LaneMemory(device, layout, dtype, BLOCK)
    total = sum(slot.size for slot in layout.slots)
    operands = (Operand("scale", (), dtype, (0,)), Operand("zero", (), "int64", (0,)))
    words = Words(operands, (Result("out", (total,), dtype),), 1)
    addressing = Addressing(words)
    starts = np.cumsum([0, *(slot.size for slot in layout.slots)])
    names = [slot.name for slot in layout.slots]
    make = {name: layout.allocator(name, memory) for name in names}
    make_other, make_persistent_other, make_parent, make_child, make_second = (make[name] for name in SIZES)
    primary_of, fallback_of = memory.make_window(fallback=False), memory.make_window(fallback=True)
    persistent_of = memory.make_local(layout.persistent_words, "float")

    @device.emitted(("int64", words.lanes))
    def bases_of(emitter, values, lane):
        return addressing.bases(emitter, values, lane)

    def filler(number):
        @device.emitted()
        def fill(emitter, values, bases, view):
            scale, zero = (addressing.load(emitter, values, bases, operand, 0) for operand in range(2))
            for index in range(view.size):
                value = emitter.mul(dtype, scale, emitter.constant(dtype, 100 * (number + 1) + index))
                place = emitter.add("int64", zero, emitter.constant("int64", index))
                view.store(place, value if view.dtype == dtype else emitter.cast(value, dtype, view.dtype))

        return fill

    def teller(number):
        @device.emitted()
        def tell(emitter, values, bases, view):
            zero = addressing.load(emitter, values, bases, 1, 0)
            for index in range(view.size):
                value = view.load(emitter.add("int64", zero, emitter.constant("int64", index)))
                value = value if view.dtype == dtype else emitter.cast(value, view.dtype, dtype)
                addressing.store(emitter, values, bases, 0, int(starts[number]) + index, value)

        return tell

    fill_0, fill_1, fill_2, fill_3, fill_4 = map(filler, range(5))
    tell_0, tell_1, tell_2, tell_3, tell_4 = map(teller, range(5))

    @device.function
    def run(values, lane, thread, base):
        primary, fallback, persistent = primary_of(base, thread), fallback_of(base, thread), persistent_of()
        other = make_other(primary, persistent, fallback)
        persistent_other = make_persistent_other(primary, persistent, fallback)
        parent = make_parent(primary, persistent, fallback)
        child = make_child(primary, persistent, fallback)
        second = make_second(primary, persistent, fallback)
        bases = bases_of(values, lane)
        fill_0(values, bases, other)
        fill_1(values, bases, persistent_other)
        fill_2(values, bases, parent)
        fill_3(values, bases, child)
        fill_4(values, bases, second)
        tell_0(values, bases, other)
        tell_1(values, bases, persistent_other)
        tell_2(values, bases, parent)
        tell_3(values, bases, child)
        tell_4(values, bases, second)

    image = compile_lanes(
        run, device, words=words.count, lanes=words.lanes, block=BLOCK, shared_bytes=memory.window_bytes,
        dump=lambda suffix, text: None,
    )  # fmt: skip
    return image, words, memory.window_bytes


def launch(platform, image, words, window_bytes, scale):
    """Runs the image for each element of `scale`; its result with the lanes in front."""
    lanes, total = scale.size, words.results[0].size
    primitive = Primitive("toy_lanes")

    @primitive.def_abstract_eval
    def abstract(x, zero):
        return jax.core.ShapedArray((total, lanes), x.dtype)

    def lowering(context, *values):
        numbers = [lanes, BLOCK] if platform == "cpu" else [math.ceil(lanes / BLOCK), 1, 1, BLOCK, 1, 1, window_bytes]
        return lower(
            context, values, image, words=[lanes, lanes], launch=numbers, operand_layouts=[(0,)] * 2, result_layouts=[(1, 0)]
        )

    mlir.register_lowering(primitive, lowering, platform=platform)
    return np.asarray(jax.jit(primitive.bind)(scale, np.zeros(lanes, np.int64))).T


ROWS = [(*row, dtype, "float") for number, row in enumerate(ALIASES) for dtype in (("float32", "float64")[number % 2],)]
ROWS += [("shared", "shared", 4, True, "float64", "int32"), ("persistent", "local", 3, False, "float64", "int32")]
ROWS += [("persistent", "persistent", 4, True, "float64", "int32"), ("local", "local", 3, False, "float64", "int32")]


@pytest.mark.parametrize(("child", "parent", "size", "inside", "dtype", "kind"), ROWS)
@pytest.mark.usefixtures("x64")
def test_alias_table_as_compiled(platform, child, parent, size, inside, dtype, kind):
    layout = registry_of(child, parent, size, kind).layout()
    assert (layout.slot("child").inside == "parent") is inside
    image, words, window_bytes = build(default_targets(platform)[0], layout, dtype)
    scale = np.arange(1, LANES + 1).astype(dtype)
    ends = np.cumsum([slot.size for slot in layout.slots])
    found = dict(zip(SIZES, np.split(launch(platform, image, words, window_bytes, scale), ends[:-1], 1), strict=True))
    for number, name in enumerate(SIZES):
        wrote = scale[:, None] * (100 * (number + 1) + np.arange(layout.slot(name).size))
        if name == "parent":
            # What a child lies in holds what the child wrote; all else is as the parent left it. An int32 takes a word of
            # its own, and the bits of two of them are no number to compare.
            mine = np.ones(8, bool)
            for other in ("child", "second"):
                slot = layout.slot(other)
                if slot.inside == "parent":
                    start = slot.offset - layout.slot("parent").offset
                    mine[start : start + slot.size] = False
                    if slot.dtype == "float":
                        assert np.array_equal(found["parent"][:, start : start + slot.size], found[other])
            assert np.array_equal(found["parent"][:, mine], wrote[:, mine])
            assert mine.all() == (not inside and layout.slot("second").inside is None)
        else:
            assert np.array_equal(found[name], wrote), name


@pytest.mark.parametrize(("child", "parent", "size", "inside", "dtype", "kind"), ROWS[:4] + ROWS[-3:-1])
def test_alias_table_builds_for_cuda(child, parent, size, inside, dtype, kind):
    """With no GPU present: the image is made, and its shared memory is in shared address space."""
    from jax_cubie.kernel.library import unpack_blobs

    layout = registry_of(child, parent, size, kind).layout()
    image, _, window_bytes = build(Target.parse("cuda:90"), layout, dtype)
    ptx = next(blob.code.decode() for blob in unpack_blobs(image.data) if blob.kind == "ptx")
    assert window_bytes == layout.window_words * BLOCK * (4 if dtype == "float32" else 8)
    assert "st.shared" in ptx and "ld.shared" in ptx
    assert not any(line.strip().startswith((".extern .func", "call")) for line in ptx.splitlines())
