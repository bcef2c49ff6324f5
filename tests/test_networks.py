"""Networks: products of weights and states in a solve, the order that weights are handed over in, weights in shared memory."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from solve_helpers import assert_same_bits, code, plan_of, python

import jax_cubie.loop.weights
from jax_cubie import SaveAt, Solver
from jax_cubie.content import content
from jax_cubie.operands import Operand
from jax_cubie.plan import Plan

LANES = 6


def weights(*sizes: int, dtype: str = "float32") -> list:
    """(matrix, bias) of each layer."""
    random = np.random.default_rng(0)
    pairs = zip(sizes[:-1], sizes[1:], strict=True)
    return [
        (jnp.asarray(random.normal(size=(m, n)) / np.sqrt(n), dtype), jnp.asarray(random.normal(size=m) / 4, dtype))
        for n, m in pairs
    ]


def network(t, y, layers):
    *hidden, (w, b) = layers
    for matrix, bias in hidden:
        y = jnp.tanh(matrix @ y + bias)
    return w @ y + b


def states(n: int, dtype: str = "float32"):
    return jnp.asarray(np.random.default_rng(1).normal(size=(LANES, n)), dtype)


def solver(**settings) -> Solver:
    return Solver("tsit5", controller="fixed", **settings)


def many(f, layers, y0, axes=(0, None), **settings):
    return jax.jit(jax.vmap(lambda y, p: solver(**settings).solve(f, 0.0, 1.0, y, p, dt0=0.1), axes))(y0, layers)


def by_jax(f, layers, y0):
    """Tsit5's steps in plain JAX, of the tableau's numbers as they are, in the dtype of y0."""
    tableau = solver().stepper.tableau
    a = [[float(x) for x in row] for row in tableau.a]
    b, c = [float(x) for x in tableau.b], [float(x) for x in tableau.c]

    def step(k, y):
        stages = []
        for row, node in zip([[], *a], [0.0, *c], strict=False):
            stages.append(f((k + node) * 0.1, y + 0.1 * sum(w * s for w, s in zip(row, stages, strict=False)), layers))
        return y + 0.1 * sum(w * s for w, s in zip(b, stages, strict=False))

    with jax.default_matmul_precision("highest"):  # else a GPU takes 10 bits of each factor
        return jax.jit(jax.vmap(lambda y: jax.lax.fori_loop(0, 10, step, y)))(y0)


@pytest.mark.parametrize("sizes", [(2, 64, 64, 2), (3, 17, 5, 3), (40, 40), (10, 130, 10)])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_values(platform, x64, sizes, dtype):
    layers, y0 = weights(*sizes, dtype=dtype), states(sizes[0], dtype)
    found = many(network, layers, y0).ys[:, 0]
    want = by_jax(network, layers, y0)
    np.testing.assert_allclose(found, want, rtol=0, atol=50 * np.finfo(dtype).eps * np.abs(want).max())


@pytest.mark.parametrize("unroll", [1, 20, 70])
def test_the_limit_of_unrolling_changes_no_bit(platform, unroll):
    layers, y0 = weights(3, 64, 20, 3), states(3)
    assert_same_bits(many(network, layers, y0, unroll=unroll).ys, many(network, layers, y0).ys)


def test_weights_of_each_lane_and_closed_over_give_the_same_bits(platform):
    layers, y0 = weights(3, 33, 3), states(3)
    shared = many(network, layers, y0).ys
    copies = jax.tree.map(lambda x: jnp.broadcast_to(x, (LANES, *x.shape)), layers)
    assert_same_bits(many(network, copies, y0, axes=(0, 0)).ys, shared)
    last = jax.tree.map(lambda x: jnp.moveaxis(x, 0, -1), copies)
    assert_same_bits(many(network, last, y0, axes=(0, -1)).ys, shared)
    assert_same_bits(many(lambda t, y, _: network(t, y, layers), None, y0, axes=(0, None)).ys, shared)
    rows = jnp.stack([many(network, layers, y0[k : k + 1]).ys[0] for k in range(LANES)])
    assert_same_bits(rows, shared)


def test_one_image_for_all_weights_and_batches(builds):
    layers = weights(3, 33, 3)
    many(network, layers, states(3))
    many(network, jax.tree.map(lambda x: 2 * x, layers), states(3)[:4])
    assert builds.count == 1


def orders(plan: Plan) -> list[tuple[int, ...] | None]:
    """Of the matrices, in their order."""
    return [one.order for one in plan.words.operands if len(one.shape) == 2]


@pytest.mark.parametrize("target", ["cpu", "cuda:90"])
def test_weights_are_transposed_for_products_alone(target):
    square = jnp.zeros((40, 40), jnp.float32)
    assert orders(plan_of(lambda t, y, w: w @ y, square, 40, target)) == [(1, 0)]
    assert orders(plan_of(lambda t, y, w: y @ w, square, 40, target)) == [None]
    assert orders(plan_of(lambda t, y, w: w @ y + w[0], square, 40, target)) == [None]
    assert orders(plan_of(lambda t, y, _: square @ y, None, 40, target)) == [(1, 0)]
    # What is saved reads the same array, and has a say.
    other = SaveAt(t1=True, fn=lambda t, y, w: w[1])
    assert orders(plan_of(lambda t, y, w: w @ y, square, 40, target, other)) == [None]
    same = SaveAt(t1=True, fn=lambda t, y, w: w @ (2 * y))
    assert orders(plan_of(lambda t, y, w: w @ y, square, 40, target, same)) == [(1, 0)]


def test_a_network_stands_once_in_the_code_for_a_cpu():
    assert not (plan := plan_of(network, weights(2, 64, 64, 2), 2)).inlines(plan.field)
    assert (plan := plan_of(network, weights(2, 8, 2), 2)).inlines(plan.field)
    called, inlined = (many(network, weights(2, 64, 64, 2), states(2), inline_f=chosen).ys for chosen in ("auto", True))
    assert_same_bits(called, inlined)


def test_what_is_saved_by_products(platform):
    layers, y0 = weights(30, 30), states(30)
    ((w, b),) = layers
    for fn in (lambda t, y, p: p[0][0] @ y, lambda t, y, p: p[0][0][1]):
        saveat = SaveAt(t1=True, fn=fn)
        saved = jax.vmap(lambda y, at=saveat: solver().solve(network, 0.0, 1.0, y, layers, dt0=0.1, saveat=at).ys)
        ends = many(network, layers, y0).ys
        with jax.default_matmul_precision("highest"):
            want = jax.vmap(lambda y, fn=fn: fn(0, y[0], layers))(ends)
        np.testing.assert_allclose(saved(y0)[:, 0], want, rtol=1e-5, atol=1e-5)


def test_a_layout_names_dimensions_from_fastest_to_slowest():
    operand = Operand("w", (3, 4, 5), "float32").transposed()
    assert operand.layout() == (1, 2, 0) and Operand("w", (3, 4, 5), "float32").layout() == (2, 1, 0)
    assert operand.batch(0).layout() == (0, 2, 3, 1) and operand.batch(1).layout() == (1, 2, 3, 0)
    assert operand.batch(2).batch(0).layout() == (3, 0, 2, 4, 1)
    assert content(operand) != content(dataclasses.replace(operand, order=None))


def test_transposed_weights_on_several_devices():
    """A batch that is split over devices takes operands without a batch axis flat, in the order of memory."""
    code = """
        import jax, jax.numpy as jnp, numpy as np
        from jax.sharding import Mesh, NamedSharding, PartitionSpec as P
        from jax_cubie import Solver
        w = jnp.asarray(np.random.default_rng(0).normal(size=(40, 40)) / 8, "float32")
        y0 = np.random.default_rng(1).normal(size=(8, 40)).astype("float32")
        solver = Solver("tsit5", controller="fixed")
        run = jax.jit(jax.vmap(lambda y: solver.solve(lambda t, y, w: jnp.tanh(w @ y), 0.0, 1.0, y, w, dt0=0.1).ys))
        split = jax.device_put(y0, NamedSharding(Mesh(jax.devices(), "lanes"), P("lanes")))
        found = run(split)
        assert len(found.sharding.device_set) == 2
        assert np.asarray(found).tobytes() == np.asarray(run(y0)).tobytes()
        print("equal")
    """
    assert python(code, XLA_FLAGS="--xla_force_host_platform_device_count=2") == "equal\n"


def test_shared_weights_are_staged_on_cuda():
    layers = weights(2, 64, 64, 2)
    plan = plan_of(network, layers, 2, "cuda:90", schedule="queue")
    shapes = {operand.name: operand.shape for operand in plan.operands}
    sizes = {shapes[name]: staged.begin for name, staged in plan.staged.items()}
    assert sizes == {(64, 2): 0, (64, 64): 512, (2, 64): 512 + 16384}
    assert plan.launch()[6] == plan.window_bytes == 512 + 16384 + 512
    assert plan_of(network, layers, 2, "cpu").staged == {}
    assert plan_of(network, layers, 2, "cuda:90", batched=True).staged == {}
    large = plan_of(network, weights(2, 200, 200, 2), 2, "cuda:90", schedule="queue")
    assert [one.shape for one in large.operands if one.name in large.staged] == [(200, 2), (2, 200)]
    assert large.window_bytes == 2 * 1600


def inspected(**chosen):
    given = network, 0.0, 1.0, np.zeros(2, np.float32), weights(2, 64, 64, 2)
    return solver(**chosen).inspect(*given, dt0=0.1, batched=("y0",), target="cuda:90")


def test_a_network_on_a_gpu_reads_four_weights_at_once():
    found = inspected(schedule="queue")
    assert found.ptx.count("ld.shared.v4") >= 64 and found.ptx.count("bar.sync") == 1
    assert ".f64" not in found.ptx and found.registers <= 255 and found.spill_bytes <= 64
    assert found.shared_bytes == 17408 and not found.in_step and "take their steps" not in str(found)


def test_a_network_on_a_gpu_takes_its_tensor_cores():
    """A tile of terms in a loop's turn: 4 tiles of outputs, 4 of lanes, three products each."""
    found = inspected()
    assert found.ptx.count("mma.sync.aligned.m16n8k8") == 4 * 4 * 3
    assert ".f64" not in found.ptx and found.registers <= 255 and found.spill_bytes <= 64
    assert found.in_step and "\n  warp       32 lanes, which take their steps together\n" in str(found)
    rows, matrix = 4 * 68 * 128, 4 * 64 * 72
    assert found.shared_bytes == rows + matrix + 2 * 4 * 64 + 2 * 4 * 128


@pytest.mark.parametrize("sizes", [(2, 64, 64, 2), (3, 50, 39, 3), (4, 70, 72, 4), (5, 128, 128, 5)])
@pytest.mark.parametrize("dt0", [0.01, None])
def test_lanes_that_take_steps_together_on_cuda(cuda, sizes, dt0):
    """Results are those of lanes that go alone, whatever a lane's neighbours do, and whatever becomes of them."""
    layers, n = weights(*sizes), sizes[0]
    count = 100
    y0 = np.random.default_rng(1).normal(size=(count, n)).astype(np.float32)
    y0[7] = np.nan
    t1 = np.random.default_rng(2).uniform(0.1, 4, count).astype(np.float32)
    t1[11], t1[12], t1[13] = 0, -1, np.inf
    saveat = SaveAt(ts=np.linspace(0, 0.05, 4, dtype=np.float32), t1=True)

    def solve(y0, t1, schedule="static"):
        control = dict(controller="fixed") if dt0 else dict(rtol=1e-3, atol=1e-3)  # far from rounding
        chosen = Solver("tsit5", schedule=schedule, max_steps=300, **control)

        def one(y0, t1):
            return chosen.solve(network, 0.0, t1, y0, layers, dt0=dt0, saveat=saveat)

        return jax.jit(jax.vmap(one))(y0, t1)

    together, alone = solve(y0, t1), solve(y0, t1, "queue")
    np.testing.assert_array_equal(code(together), code(alone))
    assert len(set(code(together).tolist())) >= 3
    np.testing.assert_allclose(together.stats["num_steps"], alone.stats["num_steps"], atol=1)
    # Where an error is within rounding of its tolerance, a lane takes a step that others do not.
    apart = np.abs(together.ys - alone.ys)
    assert np.nanmedian(apart) < 1e-6 and np.nanmax(apart) < (2e-5 if dt0 else 1e-2)
    np.testing.assert_array_equal(np.isnan(together.ys), np.isnan(alone.ys))
    few = np.r_[5, 13, 7, 40:75]
    assert_same_bits(solve(y0[few], t1[few]).ys, together.ys[few])


def test_products_of_a_warp_on_cuda_are_those_of_float32(cuda):
    """Against float64: no worse than twice what chains of float32 products are."""
    random = np.random.default_rng(0)
    w, y0 = random.normal(size=(96, 96)), random.normal(size=(500, 96))
    w, y0 = w.astype(np.float32), y0.astype(np.float32)
    want = np.float64(y0) + np.float64(y0) @ np.float64(w).T  # one step of Euler's method

    def error(schedule: str) -> float:
        chosen = Solver("euler", controller="fixed", schedule=schedule)
        found = jax.vmap(lambda y: chosen.solve(lambda t, y, w: jnp.tanh(0 * y) + w @ y, 0.0, 1.0, y, w, dt0=1.0).ys)(y0)
        return np.abs(found[:, 0] - want).max()

    assert error("static") < 2 * error("queue") < 1e-4


def test_staging_changes_no_bit(platform, monkeypatch):
    layers, y0 = weights(3, 40, 40, 3), states(3)
    staged = many(network, layers, y0, schedule="queue").ys
    monkeypatch.setattr(jax_cubie.loop.weights, "_SHARED_WITH_WEIGHTS", 0)
    jax.clear_caches()
    assert plan_of(network, layers, 3, "cuda:90", schedule="queue").staged == {}
    assert_same_bits(many(network, layers, y0, schedule="queue").ys, staged)


def test_all_to_all_coupling(platform):
    """A reduction of what is computed: its results stand side by side on the CPU, each in its own order."""

    def kuramoto(t, y, args):
        return jnp.mean(jnp.sin(y[None, :] - y[:, None]), axis=1)

    y0 = states(45)
    found = many(kuramoto, None, y0).ys[:, 0]
    np.testing.assert_allclose(found, by_jax(kuramoto, None, y0), rtol=1e-5, atol=1e-5)
    assert_same_bits(many(kuramoto, None, y0, unroll=1).ys[:, 0], found)
