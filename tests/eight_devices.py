"""Solves and kernels on several devices; `test_sharding.py` runs this where there are eight, or as many GPUs as there are."""

import functools
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from derivatives.test_rules import FAST, gradient, lanes, scalar
from derivatives.toy_kernels import toy_kernels
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
from kernel.sample_kernels import saxpy
from kernel.sample_lanes import counting
from solve_helpers import all_are, assert_same_bits

from jax_cubie import SaveAt, Summary, solve

DEVICES = jax.device_count()
LANES, OTHERS = 4 * DEVICES, 2 * DEVICES
COLLECTIVE = re.compile(r"= .*? (all-gather|all-reduce|all-to-all|collective-permute|collective-broadcast|reduce-scatter)")
KINDS = (AxisType.Auto, AxisType.Explicit)

RATE = np.linspace(0.5, 2.0, LANES, dtype=np.float32)
PUSH = np.linspace(-1.0, 1.0, OTHERS, dtype=np.float32)
Y0 = np.stack([np.linspace(0.0, 1.0, LANES), np.linspace(3.0, 2.0, LANES)], axis=1).astype(np.float32)

each_kind = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
checked = pytest.mark.parametrize("check_vma", [True, False], ids=["checked", "unchecked"])


def mesh_of(kind, shape=None):
    """Over all devices; with two axes if `shape` is 2."""
    sizes, names = ((DEVICES // 2, 2), ("x", "y")) if shape == 2 else ((DEVICES,), ("x",))
    return jax.make_mesh(sizes, names, axis_types=(kind,) * len(sizes))


def put(mesh, array, *spec):
    return jax.device_put(array, NamedSharding(mesh, P(*spec)))


def field(t, y, args):
    rate, push = args
    return -rate * y + push


def end(rate, push, y0):
    return solve(field, 0.0, 1.0, y0, (rate, push)).ys


def plain(function, *arrays):
    """What one device makes of it."""
    return jax.tree.map(np.asarray, jax.jit(function)(*jax.tree.map(np.asarray, arrays)))


def collectives(compiled):
    return COLLECTIVE.findall(re.sub(r'image = "[^"]*"', "", compiled.as_text()))


def split(function, *arrays, expected=None, found=()):
    """Runs it as sharded as its arrays are: no device sends another anything (but what `found` names), and every bit is as
    on one device."""
    compiled = jax.jit(function).lower(*arrays).compile()
    assert set(collectives(compiled)) <= set(found)
    results = compiled(*arrays)
    assert_same_bits(results, plain(function, *arrays) if expected is None else expected)
    return results


def lies(array, mesh, *spec):
    return array.sharding.is_equivalent_to(NamedSharding(mesh, P(*spec)), array.ndim)


@each_kind
def test_a_whole_solution(kind):
    """Every leaf of it, with args of all sorts, and times of each lane's own."""
    rng = np.random.default_rng(0)
    args = {
        "matrix": rng.normal(size=(LANES, 2, 2)).astype(np.float32), "row": np.arange(LANES, dtype=np.int32) % 3,
        "flag": np.arange(LANES) % 2 == 0, "table": rng.normal(size=(LANES, 40)).astype(np.float32),
        "shared": rng.normal(size=(3, 2)).astype(np.float32),
    }  # fmt: skip
    axes = {name: None if name == "shared" else 0 for name in args}

    def one(args, y0, t1, rtol):
        def field(t, y, args):
            push = args["shared"][args["row"]] + args["table"][args["row"] * 7]
            return jnp.where(args["flag"], args["matrix"] @ y, -y) + push

        saveat = SaveAt(t0=True, ts=jnp.linspace(0.0, t1, 3), t1=True, fn=lambda t, y, args: {"y": y, "first": y[0] > 0})
        return solve(field, 0.0, t1, y0, args, saveat=saveat, rtol=rtol)

    run = jax.vmap(one, (axes, 0, 0, 0))
    t1, rtol = np.linspace(0.5, 1, LANES, dtype=np.float32), np.logspace(-6, -3, LANES, dtype=np.float32)
    mesh = mesh_of(kind)
    sharded = {name: put(mesh, value) if axes[name] is None else put(mesh, value, "x") for name, value in args.items()}
    arrays = [sharded, put(mesh, Y0, "x"), put(mesh, t1, "x"), put(mesh, rtol, "x")]
    solution = split(run, *arrays, expected=plain(run, args, Y0, t1, rtol))
    assert all_are(solution, "successful") and len(set(np.asarray(solution.stats["num_steps"]).tolist())) > 2
    for leaf in jax.tree.leaves((solution.ys, solution.ts, solution.stats["num_steps"], solution.result)):
        assert lies(leaf, mesh, "x")


@each_kind
def test_states_and_tolerances_of_several_leaves(kind):
    """Some of each lane's own, some constants."""

    def run(rate):
        y0 = {"here": rate, "there": jnp.ones(3, jnp.float32)}
        rtol = {"here": 1e-4, "there": rate * jnp.float32(1e-5)}
        return solve(lambda t, y, args: jax.tree.map(lambda y: -args * y, y), 0.0, 1.0, y0, rate, rtol=rtol).ys

    mesh = mesh_of(kind)
    ys = split(jax.vmap(run), put(mesh, RATE, "x"))
    assert lies(ys["here"], mesh, "x") and lies(ys["there"], mesh, "x")


@each_kind
def test_rows_of_steps(kind):
    """Arrays that are filled before the launch: on one device by XLA in place, on several by the handler."""

    def one(rate, push, y0):
        saveat = SaveAt(steps=True, fn=lambda t, y, args: {"y": y, "row": jnp.int32(t > 0.5), "flag": y[0] > 0})
        return solve(field, 0.0, 1.0, y0, (rate, push), saveat=saveat, max_steps=40)

    def rows(solution):
        return solution.ts, solution.ys

    mesh, pair = mesh_of(kind), mesh_of(kind, 2)
    arrays = put(mesh, RATE, "x"), put(mesh, PUSH[0]), put(mesh, Y0, "x")
    run = jax.vmap(lambda *arrays: rows(one(*arrays)), (0, None, 0))
    ts, ys = split(run, *arrays)
    steps = np.isfinite(np.asarray(ts)).sum(1)
    assert 2 < steps.min() < steps.max() < 40 and np.all(np.asarray(ys["flag"])[np.isinf(ts)])
    assert np.all(np.asarray(ys["row"])[np.isinf(ts)] == np.iinfo(np.int32).max)
    assert all(lies(leaf, mesh, "x") for leaf in (ts, *jax.tree.leaves(ys)))
    mapped = jax.shard_map(run, mesh=mesh, in_specs=(P("x"), P(), P("x")), out_specs=P("x"))
    split(mapped, *arrays, expected=plain(run, RATE, PUSH[0], Y0))
    split(lambda *arrays: jax.lax.scan(lambda y, _: (y, run(*arrays[:2], y)), arrays[2], length=2)[1], *arrays)
    nest = jax.vmap(run, (None, 0, None))
    ts, _ = split(nest, put(pair, RATE, "x"), put(pair, PUSH, "y"), put(pair, Y0, "x"))
    assert lies(ts, pair, "y", "x")


@each_kind
def test_each_device_is_handed_its_share(kind):
    mesh = mesh_of(kind)
    run = jax.jit(jax.vmap(end, (0, None, 0)))
    text = run.lower(put(mesh, RATE, "x"), PUSH[0], put(mesh, Y0, "x")).compile().as_text()
    (call,) = [line for line in text.splitlines() if "custom-call(" in line and "jax_cubie" in line]
    assert f"f32[1,{LANES // DEVICES},1,2]" in call.partition("custom-call(")[0]


@pytest.mark.skipif("jax.default_backend() != 'cpu'", reason="the kernel is for the host")
@each_kind
def test_each_device_has_a_counter_of_its_own(kind):
    """Scratch of a launch belongs to a device's share, and is 0 when that begins."""
    draw, pair = counting(), mesh_of(kind, 2)

    def shares(function, lanes, *spec):
        (numbers,) = jax.jit(function)(put(pair, np.zeros(lanes, np.float32), *spec))
        return [np.sort(np.ravel(shard.data)).tolist() for shard in numbers.addressable_shards]

    assert shares(jax.vmap(draw), LANES, ("x", "y")) == [[0, 1, 2, 3]] * DEVICES
    assert shares(jax.vmap(jax.vmap(draw)), (OTHERS, LANES), "x", "y") == [list(range(OTHERS * LANES // DEVICES))] * DEVICES
    if kind == AxisType.Auto:
        place = functools.partial(jax.lax.with_sharding_constraint, shardings=NamedSharding(pair, P(("x", "y"))))
        numbers = np.asarray(jax.jit(lambda x: jax.vmap(draw)(place(x)))(np.zeros(DEVICES + 1, np.float32))[0])
        assert numbers.shape == (DEVICES + 1,) and numbers.max() <= 1


@each_kind
def test_the_axis_anywhere(kind):
    if kind == AxisType.Explicit and jax.__version_info__ < (0, 10):
        pytest.skip("JAX 0.9 has the sharding of another axis in mind")
    mesh = mesh_of(kind)
    run = jax.vmap(end, (0, None, 1), out_axes=2)
    ys = split(run, put(mesh, RATE, "x"), put(mesh, PUSH[0]), put(mesh, Y0.T, None, "x"))
    assert lies(ys, mesh, None, None, "x")


@each_kind
@pytest.mark.parametrize("spec", [("x", "y"), "x", "y"], ids=str)
def test_one_batch_on_a_mesh_of_two_axes(kind, spec):
    mesh = mesh_of(kind, 2)
    ys = split(jax.vmap(end, (0, None, 0)), put(mesh, RATE, spec), put(mesh, PUSH[0]), put(mesh, Y0, spec))
    assert lies(ys, mesh, spec)


def test_one_operand_is_not_sharded():
    """Each device takes its share of that one out of its copy; and so of all, if only the result is sharded."""
    mesh = mesh_of(AxisType.Auto)
    run = jax.vmap(end, (0, None, 0))
    assert lies(split(run, put(mesh, RATE, "x"), PUSH[0], put(mesh, Y0)), mesh, "x")
    assert lies(split(run, put(mesh, RATE), PUSH[0], put(mesh, Y0, "x")), mesh, "x")
    compiled = jax.jit(run, out_shardings=NamedSharding(mesh, P("x"))).lower(RATE, PUSH[0], Y0).compile()
    assert collectives(compiled) == []
    assert_same_bits(compiled(RATE, PUSH[0], Y0), plain(run, RATE, PUSH[0], Y0))


@each_kind
@pytest.mark.parametrize(("outer", "inner"), [("x", None), (None, "x"), ("x", "y"), ("y", "x"), (("x", "y"), None)], ids=str)
def test_nested(kind, outer, inner):
    """Operands of the outer, of the inner, of both levels and of none."""
    mesh = mesh_of(kind, 2)
    both = np.linspace(0.0, 1.0, OTHERS * LANES * 2, dtype=np.float32).reshape(OTHERS, LANES, 2)

    def one(rate, push, y0, drift):
        return solve(lambda t, y, args: field(t, y, args[:2]) + args[2], 0.0, 1.0, y0, (rate, push, drift)).ys

    run = jax.vmap(jax.vmap(one, (0, None, 0, None)), (None, 0, 0, None))
    arrays = put(mesh, RATE, inner), put(mesh, PUSH, outer), put(mesh, both, outer, inner), put(mesh, np.ones(2, np.float32))
    assert lies(split(run, *arrays), mesh, outer, inner)
    # No operand has both levels.
    run = jax.vmap(jax.vmap(one, (0, None, None, None)), (None, 0, None, None))
    arrays = put(mesh, RATE, inner), put(mesh, PUSH, outer), put(mesh, Y0[0]), put(mesh, Y0[1])
    assert lies(split(run, *arrays), mesh, outer, inner)


@each_kind
def test_three_levels(kind):
    mesh = mesh_of(kind, 2)
    run = jax.vmap(jax.vmap(jax.vmap(end, (0, None, None)), (None, 0, None)), (None, None, 0))
    ys = split(run, put(mesh, RATE, "x"), put(mesh, PUSH), put(mesh, Y0, "y"))
    assert lies(ys, mesh, "y", None, "x")


@each_kind
def test_a_lane_s_own_axis_is_gathered(kind):
    mesh = mesh_of(kind, 2)
    ys = split(jax.vmap(end, (0, None, 0)), put(mesh, RATE, "x"), PUSH[0], put(mesh, Y0, "x", "y"), found=["all-gather"])
    assert lies(ys, mesh, "x")
    split(lambda y0: end(1.0, 0.0, y0), put(mesh, Y0[0], "y"), found=["all-gather"])


def test_one_mesh_axis_for_two_levels():
    """Only one of them can have it."""
    mesh = mesh_of(AxisType.Auto)
    run = jax.jit(jax.vmap(jax.vmap(end, (0, None, None)), (None, 0, None)))
    assert_same_bits(run(put(mesh, RATE, "x"), put(mesh, PUSH, "x"), Y0[0]), plain(run, RATE, PUSH, Y0[0]))


@pytest.mark.parametrize("lanes", [0, 1, DEVICES - 1, DEVICES + 1, 2 * DEVICES + 1])
def test_a_batch_that_does_not_divide(lanes):
    place = functools.partial(jax.lax.with_sharding_constraint, shardings=NamedSharding(mesh_of(AxisType.Auto), P("x")))

    def run(rate, push, y0, place=lambda array: array):
        rate, y0 = place(rate), place(y0)
        outer = jax.vmap(end, (None, 0, None))
        return jax.vmap(end, (0, None, 0))(rate, push[0], y0), jax.vmap(outer, (0, None, 0))(rate, push, y0)

    arrays = np.linspace(0, 1, lanes, dtype=np.float32), PUSH, np.ones((lanes, 2), np.float32)
    assert_same_bits(jax.jit(functools.partial(run, place=place))(*arrays), plain(run, *arrays))


@each_kind
def test_in_loops(kind):
    mesh = mesh_of(kind)
    step = jax.vmap(lambda rate, y: end(rate, 0.5, y)[0])

    def scanned(rate, y0):
        return jax.lax.scan(lambda y, _: (step(rate, y), None), y0, length=2)[0]

    def looped(rate, y0):
        return jax.lax.while_loop(lambda at: at[0] < 2, lambda at: (at[0] + 1, step(rate, at[1])), (0, y0))[1]

    def branched(rate, y0):
        return jax.lax.cond(rate.size > 1, step, lambda rate, y: y, rate, y0)

    for function in (scanned, looped, branched):
        assert lies(split(function, put(mesh, RATE, "x"), put(mesh, Y0, "x")), mesh, "x")


@each_kind
@checked
def test_shard_map(kind, check_vma):
    mesh = mesh_of(kind)
    run = jax.vmap(end, (0, None, 0))
    arrays = put(mesh, RATE, "x"), put(mesh, PUSH[0]), put(mesh, Y0, "x")
    expected = plain(run, RATE, PUSH[0], Y0)
    shared = functools.partial(jax.shard_map, mesh=mesh, check_vma=check_vma)
    mapped = shared(run, in_specs=(P("x"), P(), P("x")), out_specs=P("x"))
    assert lies(split(mapped, *arrays, expected=expected), mesh, "x")
    if jax.__version_info__ >= (0, 10):  # JAX 0.9 fails in its own indexing
        assert_same_bits(mapped(*arrays), expected)

    # Nothing varies: the result is everybody's.
    alone = shared(lambda y0: end(1.0, 0.0, y0), in_specs=P(), out_specs=P())
    split(alone, put(mesh, Y0[0]), expected=plain(lambda y0: end(1.0, 0.0, y0), Y0[0]))

    # Varying and replicated operands, vmap outside.
    nest = jax.vmap(run, (None, 0, None))
    outside = jax.vmap(mapped, (None, 0, None))
    split(outside, arrays[0], put(mesh, PUSH), arrays[2], expected=plain(nest, RATE, PUSH, Y0))

    # In a loop, whose carry has to keep its type.
    def loop(rate, y0):
        return jax.lax.scan(lambda y, _: (run(rate, PUSH[0], y)[:, 0], None), y0, length=2)[0]

    looped = shared(loop, in_specs=(P("x"), P("x")), out_specs=P("x"))
    split(looped, arrays[0], arrays[2], expected=plain(loop, RATE, Y0))


def test_shard_map_over_what_functions_close_over():
    """Here f, in a branch of which some of it stands: derivatives are those of one device."""

    def last(rate, push):
        def closing(t, y, args):
            return jax.lax.cond(t < 0.3, lambda y: -rate * y, lambda y: -rate * y + push, y)

        return solve(closing, 0.0, 1.0, jnp.float32(1.0), method="rodas5p").ys[-1]

    slopes = jax.vmap(jax.value_and_grad(last, (0, 1)))
    mesh, push = mesh_of(AxisType.Auto), np.linspace(-1.0, 1.0, LANES, dtype=np.float32)
    mapped = jax.shard_map(slopes, mesh=mesh, in_specs=(P("x"), P("x")), out_specs=P("x"))
    expected, found = plain(slopes, RATE, push), jax.jit(mapped)(put(mesh, RATE, "x"), put(mesh, push, "x"))
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6), found, expected)


def test_shard_map_over_functions_of_summaries():
    """Their derivatives are JAX's own: of branches, loops, functions with rules, and what is closed over."""

    def last(rate, push):
        def update(carry, t, y, args):
            count, total = carry
            more = jax.lax.cond(t < 0.3, lambda y: push * y, lambda y: jax.nn.softplus(y - args[1]), y[0])
            return count + 1, jax.lax.fori_loop(0, 2, lambda number, total: total + number * more, total)

        mean = Summary(lambda t, y, args: (jnp.int32(0), 0.0), update, lambda carry: carry[1] / carry[0])
        more = {"summaries": {"mean": mean}, "max_steps": 20, "rtol": 1e-3}
        return solve(field, 0.0, 1.0, jnp.ones(2, jnp.float32), (rate, push), **more).summaries["mean"]

    def total(rate, push):
        return jnp.sum(jax.vmap(last, (0, None))(rate, push))

    mesh, push = mesh_of(AxisType.Auto), np.linspace(-1.0, 1.0, LANES, dtype=np.float32)
    of_all = jax.vmap(jax.grad(last, (0, 1))), P("x"), push, (P("x"), P("x"))
    of_sum = jax.grad(total, (0, 1)), P(), push[0], (P("x"), P())
    for slopes, spec, given, places in (of_all, of_sum):
        mapped = jax.jit(jax.shard_map(slopes, mesh=mesh, in_specs=(P("x"), spec), out_specs=places))
        expected, found = plain(slopes, RATE, given), mapped(put(mesh, RATE, "x"), put(mesh, given, *spec))
        jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6), found, expected)


@each_kind
def test_throw(kind):
    """Where lanes are fine nothing is lost by it; in shard_map a device says which of its own are not."""

    def last(rate, y0):
        return solve(field, 0.0, 1.0, y0, (rate, 0.0), dt0=0.1, max_steps=20, throw=True).ys

    def slope(rate, y0):
        return jax.grad(lambda rate: jnp.sum(jax.vmap(last)(rate, y0)))(rate)

    mesh = mesh_of(kind)
    arrays = put(mesh, RATE, "x"), put(mesh, Y0, "x")
    expected = plain(slope, RATE, Y0)
    assert_same_bits(jax.jit(slope)(*arrays), expected)
    mapped = jax.jit(jax.shard_map(slope, mesh=mesh, in_specs=(P("x"), P("x")), out_specs=P("x")))
    assert_same_bits(mapped(*arrays), expected)
    with pytest.raises(RuntimeError, match="1 of 4 lanes failed.*lane 3"):
        jax.block_until_ready(mapped(put(mesh, np.where(np.arange(RATE.size) == 3, np.nan, RATE), "x"), arrays[1]))


@each_kind
def test_what_varies_in_shard_map_is_not_replicated(kind):
    mesh = mesh_of(kind)
    seen = []

    def run(rate, y0):
        ys = jax.vmap(lambda rate: end(rate, 0.0, y0))(rate)
        seen.append(jax.typeof(ys))
        return ys

    with pytest.raises(ValueError, match="out_specs"):
        jax.jit(jax.shard_map(run, mesh=mesh, in_specs=(P("x"), P()), out_specs=P())).lower(put(mesh, RATE, "x"), Y0[0])
    (found,) = seen
    assert "x" in (found.vma if jax.__version_info__ < (0, 10) else found.manual_axis_type.varying)
    summed = jax.shard_map(
        lambda rate, y0: jax.lax.psum(run(rate, y0).sum(), "x"), mesh=mesh, in_specs=(P("x"), P()), out_specs=P()
    )
    total = jax.jit(summed)(put(mesh, RATE, "x"), put(mesh, Y0[0]))
    np.testing.assert_allclose(total, plain(jax.vmap(end, (0, None, None)), RATE, np.float32(0), Y0[0]).sum(), rtol=1e-5)


@each_kind
@checked
def test_shard_map_over_one_of_two_axes(kind, check_vma):
    """The other axis of the mesh is the partitioner's."""
    mesh = mesh_of(kind, 2)
    nest = jax.vmap(jax.vmap(end, (0, None, None)), (None, 0, None))
    mapped = jax.shard_map(
        nest, mesh=mesh, in_specs=(P("x"), P(), P()), out_specs=P(None, "x"), axis_names={"x"}, check_vma=check_vma
    )
    arrays = put(mesh, RATE, "x"), put(mesh, PUSH, "y"), put(mesh, Y0[0])
    expected = plain(nest, RATE, PUSH, Y0[0])
    # On an explicit mesh, JAX 0.10 gathers over "y" at the border of the shard_map, whatever stands in it.
    gathers = kind == AxisType.Explicit and (0, 10) <= jax.__version_info__ < (0, 12)
    ys = split(mapped, *arrays, expected=expected, found=["all-gather"] if gathers else [])
    assert lies(ys, mesh, "y", "x")


@each_kind
def test_in_the_context_of_a_mesh(kind):
    mesh = mesh_of(kind)
    expected = plain(jax.vmap(end, (0, None, 0)), RATE, PUSH[0], Y0), plain(end, RATE[1], PUSH[1], Y0[1])
    with jax.set_mesh(mesh):
        run = jax.vmap(lambda rate, y0: end(rate, PUSH[0], y0))
        assert lies(split(run, put(mesh, RATE, "x"), put(mesh, Y0, "x"), expected=expected[0]), mesh, "x")
        assert_same_bits(jax.jit(run)(RATE, Y0), expected[0])
        assert_same_bits(jax.jit(end)(RATE[1], PUSH[1], Y0[1]), expected[1])
        assert lies(run(put(mesh, RATE, "x"), put(mesh, Y0, "x")), mesh, "x")


@each_kind
def test_kernel_call(kind):
    one, two = mesh_of(kind), mesh_of(kind, 2)
    x = np.arange(LANES * 70, dtype=np.float32).reshape(LANES, 70)
    y = np.linspace(0, 1, OTHERS * 70, dtype=np.float32).reshape(OTHERS, 70)
    assert lies(split(jax.vmap(saxpy, (0, None)), put(one, x, "x"), put(one, y[0])), one, "x")
    nest = jax.vmap(jax.vmap(saxpy, (0, None)), (None, 0))
    assert lies(split(nest, put(two, x, "x"), put(two, y, "y")), two, "y", "x")
    assert lies(split(nest, put(two, x, "x"), put(two, y)), two, None, "x")
    mapped = jax.shard_map(jax.vmap(saxpy, (0, None)), mesh=one, in_specs=(P("x"), P()), out_specs=P("x"))
    split(mapped, put(one, x, "x"), put(one, y[0]), expected=plain(jax.vmap(saxpy, (0, None)), x, y[0]))
    if kind == AxisType.Auto or jax.__version_info__ >= (0, 10):
        ends = split(jax.vmap(saxpy, (1, 0), 1), put(one, x.T, None, "x"), put(one, x, "x"))
        assert lies(ends, one, None, "x")


@each_kind
def test_the_rules_of_derivatives(kind):
    """With kernels in plain JAX: gradients by what devices share, of a sharded batch, and inside of shard_map."""
    rng, mesh = np.random.default_rng(1), mesh_of(kind)
    arrays = [rng.uniform(0.2, 1.0, shape) for shape in ((LANES, 2), (2, 2), (LANES, 2))]
    with toy_kernels() as toy, jax.set_mesh(mesh):
        lie = [put(mesh, one, *spec) for one, spec in zip(arrays, (("x",), (), ("x",)), strict=True)]
        inside = jax.shard_map(lanes(scalar(toy.solve)), mesh=mesh, in_specs=(P("x"), P(), P("x")), out_specs=P("x"))
        expected = jax.jit(gradient(lanes(scalar(toy.reference))), compiler_options=FAST)(*arrays)
        for function in (gradient(lanes(scalar(toy.solve))), gradient(inside)):
            for one, other in zip(jax.jit(function, compiler_options=FAST)(*lie), expected, strict=True):
                np.testing.assert_allclose(one, other, rtol=1e-9, atol=1e-11)
        twice = jax.jit(gradient(gradient(lanes(scalar(toy.reference)), 1), 1), compiler_options=FAST)(*arrays)
        found = jax.jit(gradient(gradient(inside, 1), 1), compiler_options=FAST)(*lie)
        np.testing.assert_allclose(found, twice, rtol=1e-9, atol=1e-11)


def gradient_of_end(run):
    """Of a sum over lanes, by what each has of its own, and by a push for all of them."""
    return jax.grad(lambda rate, push, y0: jnp.sum(run(rate, push, y0) ** 2), (0, 1, 2))


@each_kind
def test_gradients_of_a_sharded_batch(kind):
    """Lanes stay where they lie, with their bits; the gradient of what devices share is summed over them, and that alone."""
    mesh, push = mesh_of(kind), np.array([0.5, -1.0], np.float32)
    run = jax.vmap(end, (0, None, 0))
    arrays = put(mesh, RATE, "x"), put(mesh, push), put(mesh, Y0, "x")
    expected = plain(gradient_of_end(run), RATE, push, Y0)
    assert np.linalg.norm(expected[1]) > 1
    inside = functools.partial(jax.shard_map, mesh=mesh, in_specs=(P("x"), P(), P("x")))
    functions = {
        "outside": gradient_of_end(run),
        "around shard_map": gradient_of_end(inside(run, out_specs=P("x"))),
        "in shard_map": inside(gradient_of_end(run), out_specs=(P("x"), P(), P("x"))),
    }
    for where, function in functions.items():
        compiled = jax.jit(function).lower(*arrays).compile()
        assert collectives(compiled) == ["all-reduce"], where
        rate, shared, y0 = compiled(*arrays)
        assert lies(rate, mesh, "x") and lies(y0, mesh, "x") and lies(shared, mesh), where
        assert_same_bits((rate, y0), (expected[0], expected[2]), where)
        np.testing.assert_allclose(shared, expected[1], rtol=1e-5)
        assert len({np.asarray(shard.data).tobytes() for shard in shared.addressable_shards}) == 1


@each_kind
def test_what_devices_share_is_summed_by_each(kind):
    """Of two levels, in any way that they are sharded, or not: no array has what is shared for each lane."""
    mesh, others, push = mesh_of(kind, 2), 5 * DEVICES, np.linspace(-1.0, 1.0, 777, dtype=np.float32)

    def one(rate, shared, y0):
        return solve(lambda t, y, args: field(t, y, (args[0], args[1][:2])), 0.0, 1.0, y0, (rate, shared), checkpoints=2).ys

    run = jax.vmap(jax.vmap(one, (0, None, None)), (None, None, 0))
    y0 = np.linspace(0.0, 1.0, 2 * others, dtype=np.float32).reshape(others, 2)
    expected = plain(gradient_of_end(run), RATE, push, y0)
    shares = {(None, None): 1, ("x", None): DEVICES // 2, (None, ("x", "y")): DEVICES, ("y", "x"): DEVICES}
    for (outer, inner), split in shares.items():
        arrays = put(mesh, RATE, inner), put(mesh, push), put(mesh, y0, outer)
        compiled = jax.jit(gradient_of_end(run)).lower(*arrays).compile()
        assert set(collectives(compiled)) <= {"all-reduce"}
        for found, right in zip(compiled(*arrays), expected, strict=True):
            np.testing.assert_allclose(found, right, rtol=1e-5, atol=1e-4)
        assert compiled.memory_analysis().temp_size_in_bytes < 4 * push.size * LANES * others // split // 4
    uneven = RATE[:-1], push, y0[:-1]
    place = functools.partial(jax.lax.with_sharding_constraint, shardings=NamedSharding(mesh_of(AxisType.Auto), P("x")))
    compiled = jax.jit(gradient_of_end(lambda rate, push, y0: run(place(rate), push, y0))).lower(*uneven).compile()
    np.testing.assert_allclose(compiled(*uneven)[1], plain(gradient_of_end(run), *uneven)[1], rtol=1e-5, atol=1e-4)
    assert compiled.memory_analysis().temp_size_in_bytes < 4 * push.size * LANES * others // DEVICES // 4


@pytest.mark.parametrize(
    ("kind", "outer", "inner"),
    [*((kind, DEVICES, 5 * DEVICES) for kind in KINDS), (AxisType.Auto, DEVICES, 32 * DEVICES), (KINDS[1], 3, 5 * DEVICES)],
)
def test_what_lanes_of_an_inner_level_share(kind, outer, inner):
    """Weights of the outer level: lanes stay where they lie, and no array has the weights for each of them."""
    mesh = mesh_of(kind, 2)
    random = np.random.default_rng(0)
    shapes = (inner,), (outer, 777), (outer, inner, 2)
    arrays = [random.uniform(0.5, 1.5, shape).astype(np.float32) for shape in shapes]

    def one(rate, shared, y0):
        return solve(lambda t, y, args: field(t, y, (args[0], args[1][:2])), 0.0, 1.0, y0, (rate, shared), checkpoints=2).ys

    gradient = gradient_of_end(jax.vmap(jax.vmap(one, (0, None, 0)), (None, 0, 0)))
    expected = plain(gradient, *arrays)
    shares = {(None, None): 1, ("x", None): DEVICES // 2, (None, ("x", "y")): DEVICES, ("y", "x"): DEVICES}
    for (over, within), split in {**shares, (("x", "y"), None): DEVICES}.items():
        if over is not None and outer % DEVICES:
            continue
        lie = [put(mesh, one, *spec) for one, spec in zip(arrays, ((within,), (over,), (over, within)), strict=True)]
        compiled = jax.jit(gradient).lower(*lie).compile()
        assert set(collectives(compiled)) <= {"all-reduce"}
        for found, right in zip(compiled(*lie), expected, strict=True):
            np.testing.assert_allclose(found, right, rtol=1e-5, atol=1e-4)
        shapes = re.findall(r"f32\[([\d,]+)\]", compiled.as_text())
        assert max(math.prod(map(int, shape.split(","))) for shape in shapes) < 777 * outer * inner // split // 2


@each_kind
def test_tangents_of_a_sharded_batch(kind):
    """Directions for all lanes, and a lane's own: no device sends another anything."""
    mesh, push = mesh_of(kind), np.array([0.5, -1.0], np.float32)
    run = jax.vmap(end, (0, None, 0))

    def directions(rate, push, y0):
        ways = jnp.eye(2, dtype=rate.dtype)
        return jax.vmap(lambda way: jax.jvp(run, (rate, push, y0), (rate, way, y0))[1], out_axes=1)(ways)

    assert lies(split(directions, put(mesh, RATE, "x"), put(mesh, push), put(mesh, Y0, "x")), mesh, "x")
