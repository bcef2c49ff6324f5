"""Derivatives of solves: against finite differences, one another, and diffrax."""

import functools
import itertools
import warnings

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optimistix
import pytest
from jax.flatten_util import ravel_pytree
from solve_helpers import MIXED, all_are, assert_same_bits

from jax_cubie import ButcherTableau, ImplicitTableau, SaveAt, Solver, solve
from jax_cubie.field_errors import FieldError

pytestmark = pytest.mark.usefixtures("x64")

Y0 = np.array([1.0, 2.0, 3.0])
TS = np.array([0.01, 0.05, 0.3, 0.3001, 0.61])
BACK = np.array([0.64, 0.56, 0.5302, 0.53, 0.45])
ENDS = np.append(np.linspace(0.02, 0.62, 40), 0.64)


def lorenz(t, y, args):
    rho, beta = args
    return jnp.stack([10 * (y[1] - y[0]), y[0] * (rho - y[2]) - y[1], y[0] * y[1] - beta * y[2] + jnp.sin(3 * t)])


def output(t, y, args):
    return {"sum": y[0] * y[1] * t * args[0], "all": jnp.sin(y), "count": jnp.int32(3)}


POINT = {"y0": Y0, "args": (np.float64(28.0), np.float64(8 / 3)), "t0": 0.01, "t1": 0.65}
SAVES = {
    "t1": SaveAt(t1=True),
    "ts": SaveAt(ts=TS, t0=True, t1=True),
    "steps": SaveAt(steps=3, t1=True, ts=TS),
    "fn": SaveAt(ts=TS, t0=True, t1=True, fn=output),
    "fn of steps": SaveAt(steps=True, fn=output, t1=True),
}
SOLVED = {"newton_rtol": 1e-14, "newton_atol": 1e-14, "newton_max_steps": 40}
# Radau IIA of two stages, without values between steps of its own.
OWN = ImplicitTableau("mine", order=3, a=[["5/12", "-1/12"], ["3/4", "1/4"]], b=["3/4", "1/4"])
STEPS = {
    "adaptive": {"rtol": 1e-5, "atol": 1e-5, "pcoeff": 0.2, "icoeff": 0.4},
    "fixed": {"controller": "fixed", "method": "rk4"},
    "dense": {"method": "dop853", "rtol": 1e-6, "atol": 1e-6},
    "even": {"controller": "even", "method": "heun"},
    "given": {"controller": "given"},
    "rosenbrock": {"controller": "fixed", "method": "rodas4"},
    "rosenbrock, cubic": {"controller": "even", "method": "rodas3"},
    "dirk": {"controller": "given", "method": "kvaerno3", **SOLVED},
    "dirk, mixed": {"controller": "fixed", "method": MIXED, **SOLVED},
    "dirk, dense": {"controller": "fixed", "method": "l_stable_sdirk4", **SOLVED},
    "radau": {"controller": "fixed", "method": "radau_iia_5", **SOLVED},
    "gauss": {"controller": "even", "method": "gauss_legendre_4", **SOLVED},
    "radau, cubic": {"controller": "fixed", "method": OWN, **SOLVED},
    "radau, adaptive": {"method": "radau_iia_5", "rtol": 1e-6, "atol": 1e-6},
}


def rows_of(saves, steps, point):
    """The saved rows of one lane, those that were not needed as zeros."""
    saveat = SAVES[saves]
    if saveat.ts is not None:
        saveat = eqx.tree_at(lambda one: one.ts, saveat, point["ts"])
    settings = dict(STEPS[steps])
    if saveat.steps:
        settings["max_steps"] = 120
    if settings.get("controller") in ("fixed", "even"):
        settings["dt0"] = point["dt0"]
    if settings.get("controller") == "given":
        settings["step_ends"] = point["ends"]
    solution = solve(lorenz, point["t0"], point["t1"], point["y0"], point["args"], saveat=saveat, **settings)
    floats = [leaf for leaf in jax.tree.leaves(solution.ys) if jnp.issubdtype(leaf.dtype, jnp.floating)]
    return jnp.concatenate([jnp.where(jnp.isfinite(leaf), leaf, 0).reshape(-1) for leaf in floats])


def point_of(saves, steps, back=False):
    """back: from t0 to an earlier t1, which is a save time."""
    point = dict(POINT) | ({"t0": 0.65, "t1": 0.45} if back else {})
    if SAVES[saves].ts is not None:
        point["ts"] = BACK if back else TS
    if STEPS[steps].get("controller") in ("fixed", "even"):
        point["dt0"] = -0.0123 if back else 0.0123
    if STEPS[steps].get("controller") == "given":
        point["ends"] = -0.2 / 0.64 * np.append(ENDS[:-1] - 0.01, 0.64) if back else ENDS
    return jax.tree.map(lambda x: jnp.asarray(x, float), point)  # of one dtype, and so compiled once for those moved, too


COMBINATIONS = [("t1", "adaptive"), ("ts", "adaptive"), ("steps", "adaptive"), ("fn", "adaptive")]
COMBINATIONS += [("ts", "fixed"), ("ts", "even"), ("fn", "dense")]
COMBINATIONS += [("steps", "fixed"), ("fn of steps", "given"), ("ts", "rosenbrock"), ("fn", "rosenbrock, cubic")]
COMBINATIONS += [("ts", "dirk"), ("fn", "dirk, mixed"), ("ts", "dirk, dense")]
COMBINATIONS += [("ts", "radau"), ("fn", "gauss"), ("ts", "radau, cubic"), ("ts", "radau, adaptive")]
# The images are those of the same solves forwards in time.
COMBINATIONS = [(*one, False) for one in COMBINATIONS]
COMBINATIONS += [("ts", "adaptive", True), ("ts", "fixed", True), ("steps", "fixed", True), ("ts", "even", True)]
COMBINATIONS += [("fn of steps", "given", True), ("fn", "rosenbrock, cubic", True), ("ts", "dirk", True)]


@pytest.mark.parametrize(("saves", "steps", "back"), COMBINATIONS)
def test_forwards_backwards_and_differences(saves, steps, back):
    """By the state, arguments, both ends, save times and step sizes."""
    random = np.random.default_rng(3)
    point, rows = point_of(saves, steps, back), functools.partial(rows_of, saves, steps)
    weights = random.normal(size=jax.eval_shape(rows, point).shape)
    solved = jax.jit(jax.value_and_grad(lambda p: jnp.vdot(rows(p), weights)))
    _, gradient = solved(point)
    forwards = jax.jit(jax.jacfwd(lambda p: jnp.vdot(rows(p), weights)))(point)
    for one, other in zip(jax.tree.leaves(gradient), jax.tree.leaves(forwards), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-11, atol=1e-11 * max(1, np.abs(weights).sum()))
    if steps in ("adaptive", "dense", "radau, adaptive"):
        return  # whose steps do not stay where they are
    for name in point:
        if name == "dt0" or (steps in ("even", "given", "dirk") and name in ("t0", "t1")):
            continue  # these move other steps, too, or how many there are
        way = jax.tree.map(np.zeros_like, point)
        way[name] = jax.tree.map(lambda leaf: random.normal(size=leaf.shape), point[name])
        end, place = ("t1", -1) if back else ("t0", 0)
        if name in (end, "ts") and "ts" in point:  # the first save time is t0, or the last one t1, and stays that
            way["ts"][place] = way[end]
        if name == "ends":
            way["ends"][-1] = 0.0
        ahead, behind = (solved(jax.tree.map(lambda x, d, s=sign: x + 1e-6 * s * d, point, way))[0] for sign in (1, -1))
        expected = float(ahead - behind) / 2e-6
        parts = [float(jnp.vdot(g, d)) for g, d in zip(*map(jax.tree.leaves, (gradient, way)), strict=True)]
        assert abs(sum(parts) - expected) <= 1e-6 * max(map(abs, parts)) + 1e-7, (name, sum(parts), expected)


def end(y0, args, t1=0.5, **settings):
    return solve(lorenz, 0.0, t1, y0, args, **settings).ys[0]


@pytest.mark.parametrize("method", ["tsit5", "dopri8"])
def test_adaptive_steps_and_differences(method, platform):
    """Where errors are small, the derivative of the numbers is that of the solution."""
    solved = jax.jit(functools.partial(end, method=method, rtol=1e-12, atol=1e-12))
    args = POINT["args"]
    gradient = jax.jit(jax.grad(lambda *p: jnp.sum(jnp.sin(solved(*p))), (0, 1, 2)))(Y0, args, 0.5)

    def loss(point):
        return float(jnp.sum(jnp.sin(solved(point[:3], tuple(point[3:5]), point[5]))))

    point = np.array([*Y0, *args, 0.5])
    found = np.array([*gradient[0], *gradient[1], gradient[2]])
    for number in range(6):
        step = 1e-5 * np.eye(6)[number]
        expected = (8 * (loss(point + step) - loss(point - step)) - loss(point + 2 * step) + loss(point - 2 * step)) / 12e-5
        assert abs(found[number] - expected) <= 1e-6 * abs(expected), (number, found[number], expected)


def test_like_diffrax():
    """diffrax's derivatives: through the very same steps, and through those that both choose, by the ends, too."""
    ts = np.linspace(0.1, 0.5, 4)

    def ours(point, **settings):
        saveat = SaveAt(ts=ts, t1=True)
        solution = solve(lorenz, point["t0"], point["t1"], point["y0"], point["args"], saveat=saveat, **settings)
        return jnp.sum(jnp.sin(solution.ys))

    def theirs(point, dt0, controller):
        solution = diffrax.diffeqsolve(
            diffrax.ODETerm(lorenz), diffrax.Tsit5(), point["t0"], point["t1"], dt0, point["y0"], point["args"],
            saveat=diffrax.SaveAt(ts=ts, t1=True), stepsize_controller=controller, adjoint=diffrax.ForwardMode(),
        )
        return jnp.sum(jnp.sin(solution.ys))

    ends = np.sort(np.append(np.random.default_rng(0).uniform(POINT["t0"], POINT["t1"], 60), POINT["t1"]))

    def both(given, judged):
        """Values and derivatives, ours in reverse and theirs forwards, which is soon compiled."""
        one, other = functools.partial(ours, **given), functools.partial(theirs, **judged)
        pairs = jax.jit(lambda p: (jax.value_and_grad(one)(p), (other(p), jax.jacfwd(other)(p))))
        return pairs(jax.tree.map(jnp.asarray, POINT))

    steps = diffrax.StepTo(jnp.array([POINT["t0"], *ends]))
    given = {"controller": "given", "step_ends": ends - POINT["t0"]}
    (value, found), (other, expected) = both(given, {"dt0": None, "controller": steps})
    np.testing.assert_allclose(value, other, rtol=1e-12)
    for name in ("y0", "args"):
        jax.tree.map(lambda one, two: np.testing.assert_allclose(one, two, rtol=1e-9), found[name], expected[name])
    tolerances = {"rtol": 1e-6, "atol": 1e-6}
    found, expected = both({"dt0": 0.01, **tolerances}, {"dt0": 0.01, "controller": diffrax.PIDController(**tolerances)})
    jax.tree.map(lambda one, two: np.testing.assert_allclose(one, two, rtol=1e-5), found, expected)


@pytest.mark.parametrize("method", ["tsit5", "rodas5p"])
def test_rows_at_t0(method):
    """They move along the solution by their own times, and against it by t0; what they are stays y0 to the bit."""

    def rows(point):
        settings = {"method": method, "dt0": 0.01, "rtol": 1e-6, "atol": 1e-6}
        saveat = SaveAt(ts=point["ts"], fn=lambda t, y, args: t * y)
        return solve(lorenz, point["t0"], point["t1"], point["y0"], point["args"], saveat=saveat, **settings)

    point = {**jax.tree.map(jnp.asarray, POINT), "ts": jnp.array([0.01, 0.01, 0.3])}
    solution, found = jax.jit(lambda p: (rows(p), jax.jacfwd(lambda q: rows(q).ys)(p)))(point)
    assert_same_bits(solution.ys[:2], jnp.stack(2 * [0.01 * point["y0"]]))
    slope, y0 = lorenz(0.01, point["y0"], point["args"]), point["y0"]
    for row in range(2):
        # Slopes of dense output, which are f's to the order of that.
        np.testing.assert_allclose(found["ts"][row, :, row], y0 + 0.01 * slope, rtol=1e-7)
        np.testing.assert_allclose(found["t0"][row], -0.01 * slope, rtol=1e-5)
        np.testing.assert_allclose(found["y0"][row], 0.01 * np.eye(3), rtol=1e-12)
    weights = np.random.default_rng(5).normal(size=solution.ys.shape)
    value, backwards = jax.jit(jax.value_and_grad(lambda p: jnp.vdot(rows(p).ys, weights)))(point)
    np.testing.assert_allclose(value, jnp.vdot(solution.ys, weights), rtol=1e-13)
    expected = jax.tree.map(lambda jacobian: np.tensordot(weights, jacobian, 2), found)
    jax.tree.map(lambda one, two: np.testing.assert_allclose(one, two, rtol=1e-10, atol=1e-12), backwards, expected)
    # Where there is no step, there is nothing to move along; where the first one fails, the row is there all the same.
    nowhere = {**point, "t1": point["t0"], "ts": jnp.full(3, 0.01)}
    failing = {**point, "args": (jnp.array(np.nan), point["args"][1])}
    for other in (nowhere, failing):
        again, _ = jax.jvp(lambda p: rows(p).ys, (other,), (jax.tree.map(jnp.ones_like, other),))
        assert_same_bits(again, rows(other).ys)
    assert_same_bits(again[:2], solution.ys[:2])


def test_implicit_steps_like_diffrax():
    """Through the very same steps, whose stages both solve for."""
    ts, ends = np.linspace(0.1, 0.5, 4), np.linspace(POINT["t0"], POINT["t1"], 40)[1:]

    def ours(point):
        settings = {"method": "kvaerno3", "controller": "given", "step_ends": ends - POINT["t0"], **SOLVED}
        saveat = SaveAt(ts=ts, t1=True)
        solution = solve(lorenz, POINT["t0"], POINT["t1"], point["y0"], point["args"], saveat=saveat, **settings)
        return jnp.sum(jnp.sin(solution.ys))

    finder = optimistix.Newton(rtol=1e-10, atol=1e-10, norm=optimistix.max_norm)

    def theirs(point):
        solution = diffrax.diffeqsolve(
            diffrax.ODETerm(lorenz), diffrax.Kvaerno3(root_finder=finder, root_find_max_steps=40), POINT["t0"], POINT["t1"],
            None, point["y0"], point["args"], saveat=diffrax.SaveAt(ts=ts, t1=True),
            stepsize_controller=diffrax.StepTo(jnp.array([POINT["t0"], *ends])), adjoint=diffrax.ForwardMode(),
        )  # fmt: skip
        return jnp.sum(jnp.sin(solution.ys))

    point = {name: jax.tree.map(jnp.asarray, POINT[name]) for name in ("y0", "args")}
    found = jax.jit(jax.value_and_grad(ours))(point)
    expected = jax.jit(lambda p: (theirs(p), jax.jacfwd(theirs)(p)))(point)
    jax.tree.map(lambda one, two: np.testing.assert_allclose(one, two, rtol=1e-8), found, expected)


def test_second_and_third_order():
    def loss(y0):
        return jnp.sum(jnp.sin(end(y0, POINT["args"], rtol=1e-7, atol=1e-7)))

    # The other ways are those of times, below.
    one, other = (jax.jit(outer(jax.jacrev(loss)))(Y0) for outer in (jax.jacfwd, jax.jacrev))
    np.testing.assert_allclose(one, other, rtol=1e-9, atol=1e-9)
    tight = functools.partial(end, Y0, t1=0.2, rtol=1e-11, atol=1e-11)
    third = jax.jit(jax.grad(jax.grad(jax.grad(lambda rho: jnp.sum(tight((rho, 8 / 3)))))))(28.0)
    second = jax.jit(jax.grad(jax.grad(lambda rho: jnp.sum(tight((rho, 8 / 3))))))
    np.testing.assert_allclose(third, (second(28.01) - second(27.99)) / 0.02, rtol=1e-4)


@pytest.mark.parametrize("steps", ["fixed", "rosenbrock", "dirk, mixed", "radau"])
def test_second_order_of_times(steps):
    """Forwards and backwards by all that moves; products of moving times move fractions of a step, too."""
    flat, unravel = ravel_pytree(point_of("ts", steps))
    loss = lambda x: jnp.sum(jnp.sin(rows_of("ts", steps, unravel(x))))  # noqa: E731
    both = (jax.jacfwd, jax.jacrev)
    # Mixed ones are of the loops, which all methods share.
    modes = itertools.product(both, both) if steps == "fixed" else zip(both, both, strict=True)
    matrices = [jax.jit(outer(inner(loss)))(flat) for outer, inner in modes]
    for matrix in matrices[1:]:
        np.testing.assert_allclose(matrix, matrices[0], rtol=1e-9, atol=1e-9 * np.abs(matrices[0]).max())
    np.testing.assert_allclose(matrices[0], matrices[0].T, rtol=1e-9, atol=1e-9 * np.abs(matrices[0]).max())


@pytest.mark.parametrize("method", ["rk4", "tsit5", "dop853", "rodas5p", "kvaerno5", "radau_iia_5"])
def test_tangents_change_no_bit(method, platform):
    settings = {"method": method, "rtol": 1e-5, "atol": 1e-5}
    if method == "rk4":
        settings = {"method": method, "controller": "fixed", "dt0": 0.01}
    saveat = SaveAt(ts=np.linspace(0.1, 0.5, 3), t1=True)

    def solved(args):
        solution = solve(lorenz, 0.0, 0.5, Y0, args, saveat=saveat, **settings)
        return solution.ys, solution.stats

    args = POINT["args"]
    alone = jax.jit(solved)(args)
    (ys, stats), _ = jax.jit(lambda a: jax.jvp(solved, (a,), ((1.0, 0.5),)))(args)
    assert_same_bits((ys, stats), alone, method)
    kept, pull = jax.vjp(lambda a: solved(a)[0], args)
    assert_same_bits(kept, alone[0], method)
    found = pull(jnp.ones_like(kept))
    assert np.isfinite(found[0][0])


def gradient_of(**settings):
    """Of many steps, and of points between them."""
    saveat = SaveAt(ts=np.linspace(0.0, 2.0, 5))

    def loss(y0, rho):
        return jnp.sum(solve(lorenz, 0.0, 2.0, y0, (rho, 8 / 3), saveat=saveat, **settings).ys ** 2)

    y0 = Y0 + 0.01 * np.arange(3)[:, None]
    return jax.jit(jax.vmap(jax.grad(loss, (0, 1)), in_axes=(0, None)))(y0, 28.0)


@pytest.mark.parametrize(
    "settings",
    [
        {"rtol": 1e-9, "atol": 1e-9, "pcoeff": 0.2, "icoeff": 0.4, "dcoeff": 0.1, "dtmin": 1e-6},
        {"rtol": 1e-5, "atol": 1e-5, "dtmin": 4e-3},
        {"controller": "fixed", "dt0": 3e-5, "method": "heun", "max_steps": 100_000},
        {"controller": "fixed", "dt0": 2.0 / 2000, "schedule": "queue"},
        {"rtol": 1e-8, "atol": 1e-8, "method": "kvaerno3"},
        {"method": "radau_iia_5", "rtol": 1e-9, "atol": 1e-9, "dt0": 0.5},
    ],
    ids=["history", "dtmin", "fixed", "queue", "implicit", "radau"],
)
def test_steps_are_taken_again_to_the_bit(settings, platform):
    """However few checkpoints there are: steps come from slots, from one window, or from windows in windows."""
    many = gradient_of(checkpoints=2**17, **settings)
    chosen_or_many = "pcoeff" in settings or "max_steps" in settings  # how slots are used is the loop's, whatever the method
    for slots in (2, 32) if chosen_or_many else (2,):
        assert_same_bits(gradient_of(checkpoints=slots, **settings), many, f"{slots} slots")


@pytest.mark.parametrize(("max_steps", "windows"), [(1_000, 1), (30_000, 2), (100_000, 3)])
def test_no_more_windows_than_the_most_steps_need(max_steps, windows, platform):
    """Their number changes no bit, and a lane's memory."""
    settings = {"rtol": 1e-9, "atol": 1e-9, "max_steps": max_steps}
    assert_same_bits(gradient_of(**settings), gradient_of(rtol=1e-9, atol=1e-9, checkpoints=2**17), f"{windows} windows")
    found = Solver(**settings).inspect(lorenz, 0.0, 2.0, Y0, (28.0, 8 / 3), derivative="vjp", target="cuda:90")
    words = 3 + 2 * len(Y0)  # start, size and what is lost to rounding; the state, and f of it
    assert found.buffers["checkpoint_window"] == ("local", windows * 32 * words)
    assert found.checkpoint_bytes == 8 * (32 * words + 2)


def test_lanes_are_on_their_own(platform):
    """A batch's gradients are each lane's own, to the bit; a lane that fails has NaN, one without cotangents 0."""

    def loss(y0, rho, weight):
        solution = solve(lorenz, 0.0, 0.5, y0, (rho, 8 / 3), rtol=1e-6, atol=1e-6, max_steps=40)
        return jnp.sum(weight * solution.ys**2)

    rho, weight = np.array([28.0, 1e7, 20.0, 24.0]), np.array([1.0, 1.0, 0.0, 2.0])
    gradient = jax.jit(jax.grad(loss, (0, 1)))
    batched = jax.jit(jax.vmap(jax.grad(loss, (0, 1)), in_axes=(None, 0, 0)))(Y0, rho, weight)
    for lane in (0, 3):
        assert_same_bits(jax.tree.map(lambda leaf, lane=lane: leaf[lane], batched), gradient(Y0, rho[lane], weight[lane]))
    assert np.isnan(batched[0][1]).all() and np.isnan(batched[1][1])
    assert (batched[0][2] == 0).all() and batched[1][2] == 0


def test_shared_operands_and_repeats(platform):
    """The gradient of what lanes share is the sum of theirs, and the same each time."""
    lanes, scale = 100, np.array([1.0, 2.0])

    def loss(y0, scale):
        def field(t, y, shared):
            return shared[0] * jnp.stack([y[1], -jnp.sin(y[0])]) - shared[1] * 0.1 * y

        return jnp.sum(jax.vmap(lambda y: solve(field, 0.0, 1.0, y, scale, rtol=1e-6, atol=1e-6).ys)(y0) ** 2)

    y0 = np.random.default_rng(0).normal(size=(lanes, 2))
    gradient = jax.jit(jax.grad(loss, 1))
    found = gradient(y0, scale)
    each = jax.jit(jax.vmap(lambda y, s: jax.grad(loss, 1)(y[None], s), in_axes=(0, None)))(y0, scale)
    np.testing.assert_allclose(found, each.sum(0), rtol=1e-12)
    for _ in range(3):
        assert_same_bits(gradient(y0, scale), found)


@pytest.mark.parametrize("saves", ["t1", "ts", "fn"])
def test_networks(saves, platform):
    """Weights that all lanes share, more than a lane would keep for itself; in a batch that fills no block."""
    model = eqx.nn.MLP(2, 2, 40, 2, activation=jnp.tanh, key=jax.random.key(0), dtype=jnp.float64)
    params, static = eqx.partition(model, eqx.is_array)
    y0 = 4 * np.random.default_rng(0).normal(size=(45, 2))
    saveat = {"t1": SaveAt(t1=True), "ts": SaveAt(ts=np.linspace(0.1, 1, 3))}
    saveat["fn"] = SaveAt(ts=np.array([0.0, 0.4, 0.9]), fn=lambda t, y, args: jnp.sin(eqx.combine(args, static)(y)))

    def one(params, y):
        def field(t, y, args):
            return eqx.combine(args, static)(y)

        solution = solve(field, 0.0, 1.0, y, params, saveat=saveat[saves], rtol=1e-6, atol=1e-6, max_steps=500)
        return jnp.sum(solution.ys**2) * (y[0] < 1.5)  # some lanes have no cotangents, and all take some steps more or less

    summed = jax.jit(jax.grad(lambda p, y: jnp.sum(jax.vmap(one, in_axes=(None, 0))(p, y))))
    found = summed(params, y0)
    each = jax.jit(jax.vmap(jax.grad(one), in_axes=(None, 0)))(params, y0)
    for whole, lanes in zip(jax.tree.leaves(found), jax.tree.leaves(each), strict=True):
        np.testing.assert_allclose(whole, lanes.sum(0), rtol=1e-10, atol=1e-12)
    assert_same_bits(summed(params, y0), found)
    y0[7] = np.nan
    assert all(np.isnan(leaf).all() for leaf in jax.tree.leaves(summed(params, y0)))


@pytest.mark.parametrize("method", ["dop853", "kvaerno3"])
def test_placements_change_no_bit(method, platform):
    backward = sorted(buffer.keyword for buffer in Solver(method).buffers)
    expected = gradient_of(rtol=1e-5, atol=1e-5, method=method)
    for names in (backward, backward[::2], backward[1::2]):
        moved = dict.fromkeys(names, "shared")
        assert_same_bits(gradient_of(rtol=1e-5, atol=1e-5, method=method, block=1, **moved), expected)


class Oscillator(eqx.Module):
    """A model that holds its solver, numbers and a table that f closes over."""

    solver: Solver
    rate: jax.Array
    order: jax.Array

    def __call__(self, y0):
        table = jnp.stack([self.rate, 2 * self.rate])

        def field(t, y, order):
            return -table[order] * y

        return self.solver.solve(field, 0.0, 1.0, y0, self.order).ys[0]


def test_transformations_around_it():
    model = Oscillator(Solver(rtol=1e-8, atol=1e-8), jnp.asarray(0.7), jnp.asarray(1))
    y0 = jnp.array([1.0, 2.0])
    expected = np.exp(-1.4) * y0
    value, gradient = eqx.filter_value_and_grad(lambda m: jnp.sum(m(y0)))(model)
    np.testing.assert_allclose(value, expected.sum(), rtol=1e-7)
    np.testing.assert_allclose(gradient.rate, -2 * expected.sum(), rtol=1e-7)
    assert gradient.order is None
    scanned = jax.grad(lambda y: jnp.sum(jax.lax.scan(lambda c, _: (model(c), None), y, None, 3)[0]))(y0)
    np.testing.assert_allclose(scanned, np.full(2, np.exp(-4.2)), rtol=1e-6)
    saved = jax.grad(jax.checkpoint(lambda y: jnp.sum(model(jnp.sin(y)))))(y0)
    np.testing.assert_allclose(saved, np.exp(-1.4) * np.cos(y0), rtol=1e-6)
    chosen = jax.vmap(jax.grad(lambda y: jax.lax.cond(y[0] > 0, lambda y: jnp.sum(model(y)), jnp.sum, y)))(jnp.stack([y0, -y0]))
    np.testing.assert_allclose(chosen, [[np.exp(-1.4)] * 2, [1.0, 1.0]], rtol=1e-6)
    tolerance = jax.grad(lambda rtol: jnp.sum(solve(lorenz, 0.0, 0.5, Y0, POINT["args"], rtol=rtol).ys))(1e-6)
    assert tolerance == 0
    by_int = jax.grad(lambda a: jnp.sum(solve(lambda t, y, a: -a * y, 0.0, 1.0, y0, a).ys), allow_int=True)(2)
    assert by_int.dtype == jax.dtypes.float0


@pytest.mark.parametrize(
    ("factor", "warns"),
    [
        (lambda k: (3 * k).astype(int), True),
        (lambda k: jax.lax.fori_loop(0, 3, lambda i, x: x + k.astype(int), 0), True),
        (lambda k: jnp.argmax(jnp.stack([k, 1 - k])), True),
        (lambda k: k - k.astype(int), False),  # what is left has a derivative
        (lambda k: jnp.arange(8.0)[(3 * k).astype(int)], False),  # an index
        (lambda k: jnp.where((3 * k).astype(int) > 2, 1.0, 2.0), False),  # a condition
        (lambda k: jax.lax.stop_gradient(3 * k).astype(int), False),  # that is meant
    ],
)
def test_what_depends_through_integers_alone(factor, warns):
    def end(k, rate):
        return solve(lambda t, y, args: -args[1] * factor(args[0]) * y, 0.0, 1.0, Y0, (k, rate), controller="fixed", dt0=0.5).ys

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        jax.eval_shape(jax.grad(lambda rate: jnp.sum(end(1.5, rate))), 2.0)
        jax.eval_shape(jax.grad(lambda k: jnp.sum(end(k, 2.0))), 1.5)
    found = [str(one.message) for one in caught if "integers" in str(one.message)]
    assert len(found) == warns, caught
    if warns:
        assert f"{__file__}:{factor.__code__.co_firstlineno}" in found[0] and "stop_gradient" in found[0]


def test_functions_without_a_derivative():
    @jax.custom_vjp
    def only_backwards(x):
        return jnp.sin(x)

    only_backwards.defvjp(lambda x: (jnp.sin(x), x), lambda x, c: (c * jnp.cos(x),))

    def field(t, y, args):
        return only_backwards(y)

    def turns(t, y, args):
        return jax.lax.while_loop(lambda c: c[0] < args, lambda c: (c[0] + 1, 0.5 * c[1]), (0, y))[1]

    def loss(f):
        return lambda y: jnp.sum(solve(f, 0.0, 1.0, y, 2).ys)

    np.testing.assert_allclose(jax.grad(loss(field))(Y0), jax.grad(loss(lambda t, y, args: jnp.sin(y)))(Y0), rtol=1e-12)
    words = r"f\(t, y, args\) can't be differentiated forwards: .*jax.custom_vjp.*test_derivatives.py.*jax.custom_jvp"
    with pytest.raises(FieldError, match=words):
        jax.jvp(loss(field), (Y0,), (Y0,))
    with pytest.raises(TypeError, match=r"f\(t, y, args\) can't be differentiated in reverse.*test_derivatives.py"):
        jax.grad(loss(turns))(Y0)
    tangent = jax.jvp(loss(turns), (Y0,), (Y0,))[1]
    np.testing.assert_allclose(tangent, loss(turns)(Y0), rtol=1e-6)

    @jax.custom_jvp
    def without_a_rule(x):
        return jnp.sin(x)

    with pytest.raises(FieldError, match=r"rule is missing at .*test_derivatives.py.*without_a_rule.*defjvp"):
        loss(lambda t, y, args: without_a_rule(y))(Y0)


def test_numbers_that_only_a_derivative_reads():
    """An array inside a jitted function that stands in the rule of a custom_jvp: no operand of the solve's."""
    table = np.array([0.5, 1.5, 2.5])

    @jax.custom_jvp
    def ruled(x):
        return jnp.sin(x)

    @jax.jit
    def tangent_of(x, tangent):
        return jnp.cos(x) * tangent * jnp.asarray(table) / jnp.asarray(table[::-1].copy())

    ruled.defjvp(lambda primals, tangents: (ruled(*primals), tangent_of(*primals, *tangents)))

    def loss(f):
        return lambda y: jnp.vdot(solve(f, 0.0, 1e-3, y, controller="fixed", method="euler", dt0=1e-3).ys, Y0)

    expected = Y0 * (1 + 1e-3 * np.cos(Y0) * table / table[::-1])
    for derivative in (jax.grad, jax.jacfwd):
        np.testing.assert_allclose(derivative(loss(lambda t, y, args: ruled(y)))(Y0), expected, rtol=1e-12)


def test_user_tableau_and_float32():
    tableau = ButcherTableau(name="half", order=2, a=[["1/2"]], b=[0, 1])

    def loss(rate, y0):
        return jnp.sum(solve(lambda t, y, r: -r * y, 0.0, 1.0, y0, rate, method=tableau, controller="fixed", dt0=0.01).ys)

    y0 = np.ones(2, np.float32)
    gradient = jax.grad(loss)(np.float32(1.5), y0)
    assert gradient.dtype == np.float32
    np.testing.assert_allclose(gradient, -2 * np.exp(-1.5), rtol=1e-3)
    assert all_are(solve(lambda t, y, r: -r * y, 0.0, 1.0, y0, np.float32(1.5)), "successful")
