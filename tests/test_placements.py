"""Where a buffer lies changes no bit of a solution; and every row of the table of aliasing, compiled and run."""

import functools
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend.core import Primitive
from jax.interpreters import mlir
from solve_helpers import ADAPTIVE, KINDS, all_are, assert_same_bits, pairwise

from jax_cubie import Doses, Driver, Event, SaveAt, Solver, SteadyDoses, Summary, choices, methods
from jax_cubie.buffers import BACKWARD, Buffer, BufferRegistry
from jax_cubie.buffers.memory import LaneMemory
from jax_cubie.kernel.custom_call import lower
from jax_cubie.kernel.device import Device
from jax_cubie.kernel.lanes import compile_lanes
from jax_cubie.kernel.target import Target, default_targets
from jax_cubie.loop.addressing import Addressing
from jax_cubie.operands import Operand, Result, Words
from jax_cubie.outputs import Integrals
from jax_cubie.problem import PARTS

LANES = 133  # a block and a bit


def field(t, y, args, u=0.0):
    """Batched small args (kept in `parameters`), a batched matrix, divisions and sines: what rounding could show in."""
    push = jnp.sin(args["phase"] * t) / (1 + y[0] * y[0]) + u
    return args["rate"] @ y * (1 - 0.1 * y) - 3 * y * y * y + jnp.stack([push, args["phase"] * y[0], -push])


def problem(dtype="float32"):
    rng = np.random.default_rng(7)
    args = {"rate": rng.normal(size=(LANES, 3, 3)).astype(dtype), "phase": rng.uniform(1, 5, LANES).astype(dtype)}
    return rng.normal(size=(LANES, 3)).astype(dtype), args


# A function of the state is saved, so that no buffer is idle but those that a method does not need.
MET = {
    "saveat": SaveAt(
        t0=True, ts=np.linspace(0.1, 0.9, 4), t1=True, fn=lambda t, y, args, u: (y, t / (1 + y @ y)), dense=True
    ),
    "drivers": Driver(np.linspace(0, 1, 5) ** 2, [0.0, 1.0, -1.0, 2.0, 0.5]),
    "doses": (
        SteadyDoses(0.7, 0.3, rtol=0.0, atol=100.0), Doses([0.3, 0.7], [0.2, -0.1], into=lambda y: y[1], duration=[0.0, 0.2])
    ),
    "observables": lambda t, y, args, u: y[0] * y[2] + u,
    "events": {
        "kept": Event(lambda t, y, args, u: y[0] - 0.1, record=2, affect=lambda t, y, args, u: y * jnp.array([1, -0.9, 1.1])),
        "counted": Event(lambda t, y, args, u: y @ y > 0.5, direction=-1, terminal=False),
    },
    "summaries": {
        "mean": Summary.mean(), "peaks": Summary.peaks(2), "product": Summary.max(lambda t, y, args, u: y[0] * y[1]),
        "sampled": Summary.std(every=0.07), "crossing": Summary.first_crossing(0.2),
        "fold": Summary(lambda t, y, args, u: y[2], lambda kept, t, y, args, u: kept + t * y[2], lambda kept: kept),
    },
}  # fmt: skip


def solve_batch(method, field, y0, args, *, settings, dt0=None, **met):
    dt0 = dt0 or (None if method in ADAPTIVE else 0.03)
    one = functools.partial(Solver(method, **settings).solve, field, 0.0, 1.0, dt0=dt0, **met)
    return jax.tree.map(np.asarray, jax.jit(jax.vmap(lambda y0, args: one(y0, args)))(y0, args))


# Small enough to be built often. FIRK methods have a buffer for drivers.
PLAIN = {"saveat": SaveAt(ts=np.linspace(0.1, 0.9, 4), fn=MET["saveat"].fn), "drivers": MET["drivers"]}


def solution_at(method, dtype, met, **locations):
    """Of all that a trajectory may meet, MET, so that each part has its buffers; or of little, PLAIN."""
    with jax.enable_x64(dtype == "float64"):
        return solve_batch(method, field, *problem(dtype), settings={"max_steps": 1000, **locations}, **met)


@functools.cache
def all_local(method, dtype, platform, plain):
    return solution_at(method, dtype, PLAIN if plain else MET)


def check(method, dtype, platform, locations, plain=False):
    reference = all_local(method, dtype, platform, plain)
    solution = solution_at(method, dtype, PLAIN if plain else MET, **locations)
    assert solution.ys[0].dtype == dtype
    shared = sorted(name for name, place in locations.items() if place == "shared")
    assert_same_bits(solution, reference, f"{method} in {dtype} with {shared} shared")


def locations_of(method):
    return tuple(Solver(method).buffers.settings)


def all_shared(method):
    return dict.fromkeys(locations_of(method), "shared")


def test_the_problem_is_one_where_it_shows(platform):
    solution = all_local("tsit5", "float32", platform, plain=False)
    assert all_are(solution, "successful")
    assert len({lane.tobytes() for lane in solution.ys[0]}) == LANES
    assert solution.stats["num_rejected_steps"].sum() > LANES // 2
    assert all(event.count.any() for event in solution.events.values()) and solution.summaries["peaks"].number.any()
    y0, args = jax.tree.map(lambda leaf: leaf[0], problem())
    inspected = Solver("tsit5", max_steps=1000, **all_shared("tsit5")).inspect(field, 0.0, 1.0, y0, args, **MET)
    regions = {name: region for name, (region, size) in inspected.buffers.items() if size}
    # tsit5's dense output has no stages of its own.
    assert {f"{name}_location" for name in regions} == forwards("tsit5") - {"dense_rhs_location"}
    # What lies inside of another lies inside of error, the rest behind.
    assert set(regions.values()) == {"shared", "shared_fallback"}


def test_a_buffer_that_nobody_sizes(monkeypatch):
    monkeypatch.setattr(choices, "BUFFERS", (*choices.BUFFERS, Buffer("scratch", 0)))
    with pytest.raises(ValueError, match="without a size: scratch"):
        Solver("tsit5").inspect(field, 0.0, 1.0, np.ones(3, np.float32), jax.tree.map(lambda leaf: leaf[0], problem()[1]))


# For each family two methods of the same buffers.
FAMILIES = {
    "explicit Runge-Kutta": ("tsit5", "dop853"),
    "Rosenbrock": ("ros3p", "rodas4"),
    "DIRK": ("kvaerno3", "sdirk2"),
    "FIRK": ("radau_iia_5", "gauss_legendre_4"),
}
SMALL = "heun"  # of the buffers that have words in a small kernel, every placement


PARTS_BUFFERS = {buffer.keyword for part in PARTS for buffer in part.buffers()}


def forwards(method):
    """Those of its buffers that a solve may use, without those of derivatives."""
    derivatives = {"event_tangents_location", *(buffer.keyword for buffer in Integrals.buffers())}
    return {buffer.keyword for buffer in Solver(method).buffers if buffer.live != BACKWARD} - derivatives


def own(method):
    """Those of the loop, of the method and of linear systems. tests/linear/test_krylov.py and tests/test_mass.py have more."""
    found = forwards(method) - PARTS_BUFFERS
    return sorted(keyword for keyword in found if not keyword.startswith(("krylov_", "mass_")))


def covers():
    """Every pair of places of all buffers in explicit methods; of its own in a method of each other family."""
    for family, names in FAMILIES.items():
        plain = family != "explicit Runge-Kutta"
        buffers = own(names[0]) if plain else sorted(forwards(names[0]))
        factors = {"dtype": ("float32", "float64"), **dict.fromkeys(buffers, ("local", "shared"))}
        for number, row in enumerate(pairwise(factors if plain else {"method": names, **factors})):
            yield pytest.param(row.pop("method", names[0]), row.pop("dtype"), row, plain, id=f"{family} {number}")


def test_every_family_has_its_methods():
    assert {row["family"] for row in methods()} == FAMILIES.keys()
    for family, names in FAMILIES.items():
        assert {row["family"] for row in methods() if row["name"] in names} == {family}
        assert len({tuple(Solver(name).buffers) for name in names}) == 1


@pytest.mark.parametrize("method", [names[0] for names in FAMILIES.values()])
def test_live_buffers_share_no_word(method):
    """Of the buffers that a solve really has, wherever each lies and whatever its size is."""
    registry, rng = Solver(method).buffers, np.random.default_rng(0)
    for _ in range(200):
        shared = {keyword: str(rng.choice(["local", "shared"])) for keyword in registry.settings}
        sizes = {buffer.name: int(rng.integers(0, 6)) for buffer in registry}
        assert registry.update(**shared)[0].resize(**sizes).layout().overlaps() == [], (shared, sizes)


@pytest.mark.parametrize(("method", "dtype", "locations", "plain"), list(covers()))
def test_pairs_of_places(platform, method, dtype, locations, plain):
    check(method, dtype, platform, locations, plain)


@pytest.mark.parametrize("method", [other for family, (_, other) in FAMILIES.items() if family != "explicit Runge-Kutta"])
def test_parts_beside_each_family(platform, method):
    """The parts' buffers, alone and with the family's own; its own alone are in `test_pairs_of_places`."""
    parts, others = (dict.fromkeys(group, "shared") for group in (forwards(method) & PARTS_BUFFERS, own(method)))
    for locations in (parts, parts | others):
        check(method, "float32", platform, locations)


@pytest.mark.parametrize("method", KINDS)
def test_every_kind_of_step(platform, method):
    check(method, "float32", platform, all_shared(method), plain=True)


def small_field(t, y, args):
    return jnp.stack([y[1], -20 * y[0] * y[0] * y[0]])


@functools.cache
def small_placements():
    found = Solver(SMALL).inspect(small_field, 0.0, 1.0, np.ones(2, np.float32), dt0=0.3)
    names = [f"{name}_location" for name, (_, size) in found.buffers.items() if size]
    names.remove("counters_location")  # it has no alias, and is no other's
    assert len(names) == 5  # one more doubles the time of this test
    return [dict(zip(names, row, strict=True)) for row in itertools.product(("local", "shared"), repeat=len(names))]


@pytest.mark.parametrize("part", range(2))  # for those who run tests in parallel
def test_every_placement_in_a_small_kernel(platform, part):
    y0 = problem()[0][:, :2]
    reference = solve_batch(SMALL, small_field, y0, None, dt0=0.3, settings={})
    assert all_are(reference, "successful") and reference.stats["num_rejected_steps"].any()
    for row in small_placements()[part::2]:
        assert_same_bits(solve_batch(SMALL, small_field, y0, None, dt0=0.3, settings=row), reference, str(row))


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
    registry = registry.register("parent", 8, live="step/stage", **STORAGE[parent])
    registry = registry.register("child", size, aliases="parent", live="step/error", dtype=kind, **STORAGE[child])
    return registry.register("second", 2, aliases="parent", live="step/error", **STORAGE[child])


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
        numbers = [lanes, BLOCK] if platform == "cpu" else [math.ceil(lanes / BLOCK), 1, 1, BLOCK, 1, 1, window_bytes, 0]
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
