"""vmap is the batch API: over every operand, any axis, nested; bit for bit a loop of single solves, and one launch."""

import math
import re

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from solve_helpers import all_are, assert_same_bits, lorenz, stacked

from jax_cubie import SaveAt, Solver, solve

pytestmark = pytest.mark.usefixtures("x64")

Y0 = np.array([1.0, 0.5, 0.0])
SETTINGS = (
    "rtol", "atol", "dtmin", "dtmax", "max_steps", "pcoeff", "icoeff", "dcoeff", "safety", "factormin", "factormax",
)  # fmt: skip
# The controller's coefficients are multiples of 5 / 128: they are divided by the order, 5, before they reach the kernel, which
# XLA does in another way for one number than for many, a bit off unless the quotient is exact.
# What each operand is where it is not batched, and its values over three lanes.
ONE = {
    "y0": Y0, "rho": 28.0, "t0": 0.0, "t1": 0.6, "dt0": 0.3, "ts": np.array([0.2, 0.4]), "rtol": np.full(3, 1e-6),
    "atol": np.full(3, 1e-6), "dtmin": 1e-9, "dtmax": 0.5, "max_steps": 500, "pcoeff": 5 / 64, "icoeff": 30 / 64,
    "dcoeff": 5 / 128, "safety": 0.9, "factormin": 0.2, "factormax": 10.0,
}  # fmt: skip
MANY = {
    "y0": Y0 + np.array([[0.0], [1.0], [2.0]]), "rho": np.array([28.0, 10.0, 0.5]), "t0": np.array([0.0, 0.1, -0.1]),
    "t1": np.array([0.6, 0.5, 0.4]), "dt0": np.array([0.01, 0.001, 0.1]),
    "ts": np.array([[0.2, 0.4], [0.1, 0.3], [0.25, 0.25]]), "rtol": np.array([[1e-6] * 3, [1e-3, 1e-5, 1e-8], [1e-9] * 3]),
    "atol": np.array([[1e-6] * 3, [1e-3, 1e-5, 1e-8], [1e-2] * 3]), "dtmin": np.array([1e-9, 0.01, 0.03]),
    "dtmax": np.array([0.5, 0.05, 0.04]), "max_steps": np.array([500, 7, 1000]), "pcoeff": np.array([5.0, 0.0, 20.0]) / 64,
    "icoeff": np.array([30.0, 60.0, 15.0]) / 64, "dcoeff": np.array([2.5, 0.0, 5.0]) / 64, "safety": np.array([0.9, 0.5, 0.99]),
    "factormin": np.array([0.2, 0.5, 0.01]), "factormax": np.array([10.0, 1.01, 1.05]),
}  # fmt: skip


def solve_one(**operands):
    settings = {name: operands[name] for name in SETTINGS}
    return Solver(**settings).solve(
        lorenz, operands["t0"], operands["t1"], operands["y0"], operands["rho"], dt0=operands["dt0"],
        saveat=SaveAt(t0=True, ts=operands["ts"], t1=True),
    )  # fmt: skip


@pytest.mark.parametrize("name", ONE)
def test_every_operand_alone(platform, name):
    """One operand is batched, all others are read in place; the axis may stand anywhere."""
    value = MANY[name]
    expected = stacked(lambda lane: solve_one(**{**ONE, name: jnp.asarray(value[lane])}), range(3))
    for axis in range(value.ndim):
        if axis and name not in ("y0", "rtol"):
            continue  # the same image, other strides: two operands say enough
        solution = jax.vmap(lambda v: solve_one(**{**ONE, name: v}), in_axes=axis)(np.moveaxis(value, 0, axis))
        assert_same_bits(solution, expected, f"{name} on axis {axis}")
    assert len({lane.tobytes() for lane in np.asarray(solution.ys)}) > 1, f"{name} changes nothing"


def test_all_operands_at_once(platform):
    solution = jax.vmap(lambda operands: solve_one(**operands))(MANY)
    expected = stacked(lambda lane: solve_one(**{name: jnp.asarray(value[lane]) for name, value in MANY.items()}), range(3))
    assert_same_bits(solution, expected)


def test_nested(platform):
    """Two and three levels, in every order of axes, some operands in some levels only; out_axes anywhere."""
    rho = np.linspace(5, 28, 4)
    t1 = np.array([0.2, 0.3])
    y0 = np.stack([Y0 + k for k in range(3)])

    def one(rho, t1, y0):
        return solve(lorenz, 0.0, t1, y0, rho, saveat=SaveAt(t0=True, t1=True))

    single = jax.jit(one)
    expected = np.array([[[single(r, t, y).ys for y in y0] for t in t1] for r in rho])
    three = jax.vmap(jax.vmap(jax.vmap(one, (None, None, 0)), (None, 0, None)), (0, None, None))(rho, t1, y0)
    assert_same_bits(three.ys, expected)
    turned = jax.vmap(jax.vmap(jax.vmap(one, (0, None, None)), (None, None, 0)), (None, 0, None))(rho, t1, y0)
    assert_same_bits(turned.ys, expected.transpose(1, 2, 0, 3, 4))
    # Operands with two of three levels, at odd axes.
    both = rho[:, None] + t1[None]
    pair = jax.vmap(jax.vmap(jax.vmap(one, (0, 0, None)), (None, None, 1)), (1, None, None))(both, np.full(4, 0.3), y0.T)
    wanted = np.array([[[single(both[i, j], 0.3, y).ys for i in range(4)] for y in y0] for j in range(2)])
    assert_same_bits(pair.ys, wanted)
    moved = jax.vmap(lambda r: one(r, 0.3, Y0).ys, out_axes=2)(rho)
    assert moved.shape == (2, 3, 4)
    assert_same_bits(jnp.moveaxis(moved, 2, 0), stacked(lambda r: single(r, 0.3, Y0).ys, rho))
    nothing = jax.vmap(lambda _: one(28.0, 0.3, Y0).ys)(np.zeros(5))  # no operand has the axis
    assert_same_bits(nothing, np.broadcast_to(np.asarray(single(28.0, 0.3, Y0).ys), (5, 2, 3)))


def test_args_leaves(platform):
    """Batched and unbatched leaves, floats, integers and booleans, small and large; a matrix with its axis in the middle."""
    rng = np.random.default_rng(0)
    args = {
        "matrix": rng.normal(size=(3, 3)), "shift": rng.normal(size=(4, 3)), "power": np.array([0, 1, 2, 1]),
        "flag": np.array([True, False, True, True]), "table": rng.normal(size=(4, 50)), "shared": rng.normal(size=50),
    }  # fmt: skip
    axes = {"matrix": None, "shift": 0, "power": 0, "flag": 0, "table": 0, "shared": None}

    def field(t, y, args):
        push = jnp.where(args["flag"], args["shift"], 0.1 * y)
        large = args["table"][args["power"]] + args["shared"][49 - args["power"]] + jnp.dot(args["table"], args["shared"]) / 50
        return 0.3 * args["matrix"] @ y + push + large

    def one(args):
        return solve(field, 0.0, 1.0, Y0, args)

    solution = jax.vmap(one, in_axes=(axes,))(args)
    lanes = [{name: value if axes[name] is None else value[lane] for name, value in args.items()} for lane in range(4)]
    assert_same_bits(solution, stacked(one, lanes))
    assert len({row.tobytes() for row in np.asarray(solution.ys)}) == 4
    middle = {**axes, "table": 1, "shift": 1}
    turned = {**args, "table": args["table"].T.copy(), "shift": args["shift"].T.copy()}
    assert_same_bits(jax.vmap(one, in_axes=(middle,))(turned), solution)


def test_solvers_under_filter_vmap(platform):
    """A Solver whose numbers have a lane axis."""
    pcoeff, rtol = np.array([0.0, 0.2, 0.4]), np.array([1e-3, 1e-5, 1e-7])
    solvers = eqx.filter_vmap(lambda p, r: Solver(pcoeff=p, rtol=r, icoeff=0.7))(pcoeff, rtol)

    @eqx.filter_vmap(in_axes=(eqx.if_array(0), None))
    def run(solver, rho):
        return solver.solve(lorenz, 0.0, 0.5, Y0, rho)

    one = eqx.filter_jit(lambda p, r: Solver(pcoeff=p, rtol=r, icoeff=0.7).solve(lorenz, 0.0, 0.5, Y0, 28.0))
    expected = stacked(one, pcoeff, rtol)
    solution = run(solvers, 28.0)
    assert_same_bits(solution.ys, expected.ys)
    assert_same_bits(solution.stats["num_steps"], expected.stats["num_steps"])
    assert len(set(np.asarray(solution.stats["num_steps"]).tolist())) == 3


def test_one_launch(platform):
    """However deep the nest, the program has one custom call, and nothing loops around it or broadcasts for it."""

    def one(rho, t1, y0):
        return solve(lorenz, 0.0, t1, y0, rho).ys

    nested = jax.vmap(jax.vmap(jax.vmap(one, (None, None, 0)), (None, 0, None)), (0, None, None))
    lowered = jax.jit(nested).lower(np.zeros(4), np.zeros(2), np.zeros((3, 3)))
    text = lowered.as_text()
    assert text.count("stablehlo.custom_call") == 1 and "jax_cubie" in text
    assert "stablehlo.while" not in text
    compiled = lowered.compile().as_text()
    calls = [line for line in compiled.splitlines() if "custom-call(" in line and "jax_cubie" in line]
    assert len(calls) == 1
    broadcast = re.findall(r"= \w+\[([\d,]+)\]\S* broadcast\(", compiled)
    assert all(math.prod(map(int, shape.split(","))) < 4 * 2 * 3 for shape in broadcast), broadcast


def test_transformations(platform):
    """Eager, jit, scan, cond, map, checkpoint and eval_shape give what the plain call gives."""

    def one(y, rho):
        return solve(lorenz, 0.0, 0.1, y, rho).ys[0]

    rho = np.array([10.0, 28.0])
    eager = stacked(lambda r: one(Y0, r), rho)
    assert_same_bits(stacked(lambda r: jax.jit(one)(Y0, r), rho), eager)
    assert_same_bits(jax.lax.map(lambda r: one(Y0, r), rho), eager)
    chain, _ = jax.lax.scan(lambda y, r: (one(y, r), None), jnp.asarray(Y0), rho)
    assert_same_bits(chain, one(one(Y0, 10.0), 28.0))
    branch = jax.jit(lambda r: jax.lax.cond(r > 20, lambda r: one(Y0, r), lambda r: jnp.zeros(3), r))
    assert_same_bits(branch(28.0), eager[1])
    assert not np.any(branch(10.0))
    while_loop = jax.lax.fori_loop(0, 2, lambda _, y: one(y, 28.0), jnp.asarray(Y0))
    assert_same_bits(while_loop, one(one(Y0, 28.0), 28.0))
    assert_same_bits(jax.vmap(lambda r: jax.lax.scan(lambda y, _: (one(y, r), None), Y0, length=2)[0])(rho)[1], while_loop)
    assert_same_bits(jax.checkpoint(one)(Y0, 28.0), eager[1])
    stopped = jax.grad(lambda y: jax.lax.stop_gradient(one(jax.lax.stop_gradient(y), 28.0)).sum() + (y**2).sum())(Y0)
    assert_same_bits(stopped, 2 * Y0)


def test_eval_shape_builds_nothing(builds):
    f = jax.vmap(lambda rho: solve(lorenz, 0.0, 0.1, Y0, rho, saveat=SaveAt(t0=True, ts=np.array([0.05]), t1=True)))
    shape = jax.eval_shape(f, jax.ShapeDtypeStruct((7,), "float64"))
    assert shape.ys.shape == (7, 3, 3) and shape.ys.dtype == "float64" and shape.ts.shape == (7, 3)
    assert shape.stats["num_steps"].dtype == "int32" and shape.result._value.shape == (7,)
    jax.make_jaxpr(f)(np.zeros(7))
    jax.jit(f).trace(np.zeros(7))
    Solver("dopri5", state_location="shared").update(method="bosh3")
    assert builds.count == 0
    jax.jit(f).lower(np.zeros(7))
    assert builds.count == 1


def test_results_of_many_levels(platform):
    solution = jax.vmap(jax.vmap(lambda rho: solve(lorenz, 0.0, 0.1, Y0, rho)))(np.full((2, 3), 28.0))
    assert all_are(solution, "successful")
    assert solution.t0.shape == (2, 3) and solution.ts.shape == (2, 3, 1) and solution.result._value.shape == (2, 3)
    assert all(value.shape == (2, 3) for value in solution.stats.values())
