"""The solution as a function of time: values, slopes, lanes, derivatives, and where there is none."""

import functools

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from solve_helpers import code, decay, lorenz

from jax_cubie import SaveAt, Solver, solve, steady_state
from jax_cubie.outputs.dense_interpolation import lagrange, nodes_of
from jax_cubie.solution import CODES

Y0 = np.array([1.0, 2.0, 3.0])
TS = np.linspace(0.0, 0.8, 27)
# Of each family, with values between steps of its own and by Hermite's cubic, of all degrees that there are.
METHODS = {
    "tsit5": {}, "dop853": {}, "rodas5p": {}, "rosenbrock23": {}, "kvaerno3": {}, "radau_iia_5": {}, "auto": {},
    "rk4": {"dt0": 0.013, "controller": "even"},
}  # fmt: skip


def run(t0=0.0, t1=0.8, y0=Y0, rho=28.0, method="tsit5", max_steps=300, saveat=None, field=lorenz, **settings):
    settings = settings if "dt0" in settings else {"rtol": 1e-5, "atol": 1e-5, **settings}
    saveat = SaveAt(dense=True) if saveat is None else saveat
    return solve(field, t0, t1, y0, rho, method=method, max_steps=max_steps, saveat=saveat, **settings)


@pytest.mark.parametrize("degree", [1, 3, 7])
def test_polynomials_by_their_values(degree):
    nodes, rng = np.array(nodes_of(degree)), np.random.default_rng(0)
    assert nodes[0] == 0 and nodes[-1] == 1 and np.all(np.diff(nodes) > 0) and np.allclose(nodes + nodes[::-1], 1)
    polynomial = np.polynomial.Polynomial(rng.normal(size=degree + 1))
    at = rng.uniform(size=20)
    with jax.enable_x64(True):
        for number, node in enumerate(nodes):
            np.testing.assert_allclose(lagrange(nodes, jnp.asarray(node)), np.eye(degree + 1)[number], rtol=1e-14)
        assert np.array_equal(lagrange(nodes, jnp.asarray(1.0)), np.eye(degree + 1)[-1])
        found = jax.vmap(lambda x: jnp.vdot(lagrange(nodes, x), polynomial(nodes)))(at)
    np.testing.assert_allclose(found, polynomial(at), rtol=1e-12, atol=1e-12)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("method", METHODS)
def test_equals_what_is_saved(method, platform):
    """The numbers of `ts`, to rounding; the ends, and the ends of steps, exactly but for the order of a sum."""
    solution = run(method=method, saveat=SaveAt(t0=True, ts=TS, t1=True, dense=True), **METHODS[method])
    assert code(solution) == CODES["successful"] and solution.ys.shape == (29, 3)
    assert len(solution.interpolation.nodes) == Solver(method).stepper.between_degree + 1
    found = solution.evaluate(solution.ts)
    np.testing.assert_allclose(found, solution.ys, rtol=1e-12, atol=1e-12)
    assert np.array_equal(solution.evaluate(0.0), Y0) and np.array_equal(solution.evaluate(0.8), solution.ys[-1])
    # The slope is that of the polynomial: between two times of a step it is the mean change.
    h = 1e-6
    between = TS[1:-1] + 0.00137  # where no step of one size ends
    changes = (solution.evaluate(between + h) - solution.evaluate(between - h)) / (2 * h)
    slopes = solution.derivative(between)
    np.testing.assert_allclose(slopes, changes, rtol=1e-5, atol=1e-5 * np.abs(slopes).max())


@pytest.mark.usefixtures("x64")
def test_slopes_are_the_vector_field():
    solution = run(rtol=1e-10, atol=1e-10, method="dop853")
    expected = jax.vmap(lambda t: lorenz(t, solution.evaluate(t), 28.0))(TS)
    np.testing.assert_allclose(solution.derivative(TS), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.usefixtures("x64")
def test_like_diffrax():
    """Values, changes and slopes, forwards and backwards in time; those of tsit5 are in tests/test_diffrax_front_door.py."""
    for sign in (1, -1):
        ts = sign * np.array([0.0, 0.013, 0.2, 0.2001, 0.77, 0.8])
        field = lambda t, y, rho: sign * lorenz(t, y, rho)  # noqa: B023, E731
        solution = run(t1=sign * 0.8, method="dopri5", field=field, dt0=sign * 0.01, rtol=1e-6, atol=1e-6)
        other = diffrax.diffeqsolve(
            diffrax.ODETerm(field), diffrax.Dopri5(), 0.0, sign * 0.8, sign * 0.01, jnp.asarray(Y0), 28.0,
            saveat=diffrax.SaveAt(dense=True), stepsize_controller=diffrax.PIDController(rtol=1e-6, atol=1e-6),
        )  # fmt: skip
        assert int(other.stats["num_steps"]) == int(solution.stats["num_steps"])
        close = functools.partial(np.testing.assert_allclose, rtol=1e-8, atol=1e-8)
        for t in ts:
            close(solution.evaluate(t), other.evaluate(t))
        for t in ts[1:-1]:
            np.testing.assert_allclose(solution.derivative(t), other.derivative(t), rtol=1e-7, atol=1e-6)
        close(solution.evaluate(ts[1], ts[2]), other.evaluate(ts[1], ts[2]))
        assert np.array_equal(solution.evaluate(ts[1], ts[2]), solution.evaluate(ts[2]) - solution.evaluate(ts[1]))


def test_pytrees_and_shapes():
    """The result has y0's structure and dtype; the axes of times stand in front."""
    field = lambda t, y, rate: {"a": -rate * y["a"], "b": y["b"]}  # noqa: E731
    y0 = {"a": np.ones((2, 3), np.float32), "b": np.float32(2)}
    solution = run(y0=y0, field=field, rho=1.0, t1=1.0)
    assert solution.ts is None and solution.ys is None
    for t, shape in ((0.5, ()), (1, ()), (np.float32(0.3), ()), ([0.1, 0.9], (2,)), (jnp.ones((2, 1)), (2, 1))):
        for found in (solution.evaluate(t), solution.derivative(t)):
            assert found["a"].shape == (*shape, 2, 3) and found["b"].shape == shape and found["a"].dtype == np.float32
    np.testing.assert_allclose(solution.evaluate(0.5)["a"], np.full((2, 3), np.exp(-0.5)), rtol=1e-4)
    np.testing.assert_allclose(solution.derivative(0.5)["b"], 2 * np.exp(0.5), rtol=1e-3)
    assert "evaluate(t)  polynomials of degree 4, one a step" in repr(solution)


def test_lanes(platform):
    """Each lane is a function of its own; jit changes nothing, and neither does making the solution inside of it."""
    rhos, ts = jnp.linspace(20, 30, 5, dtype=jnp.float32), jnp.linspace(0.1, 0.7, 5, dtype=jnp.float32)
    y0 = Y0.astype(np.float32)
    lanes = jax.vmap(lambda rho: run(rho=rho, y0=y0))(rhos)
    found = jax.vmap(lambda s, t: s.evaluate(t))(lanes, ts)
    alone = jnp.stack([run(rho=rho, y0=y0).evaluate(t) for rho, t in zip(rhos, ts, strict=True)])
    np.testing.assert_allclose(found, alone, rtol=1e-6)
    together = jax.jit(jax.vmap(lambda rho, t: run(rho=rho, y0=y0).evaluate(t)))(rhos, ts)
    np.testing.assert_allclose(together, alone, rtol=1e-6)
    shared = jax.vmap(lambda s, t: s.derivative(t), in_axes=(0, None))(lanes, ts)
    assert shared.shape == (5, 5, 3)
    with pytest.raises(ValueError, match=r"holds 5 lanes, shape \(5,\).*jax.vmap\(lambda solution, t: solution.evaluate"):
        lanes.evaluate(0.3)


def test_nothing_outside():
    """NaN before t0, beyond t1, and beyond where a lane ended; t1 where it is t0."""
    solution = run(y0=Y0.astype(np.float32))
    for t in (-1e-3, 0.801, np.nan, np.inf):
        assert np.all(np.isnan(solution.evaluate(t))) and np.all(np.isnan(solution.derivative(t)))
    assert np.all(np.isnan(jax.jacfwd(solution.evaluate)(0.9)))
    short = run(y0=Y0.astype(np.float32), max_steps=9, saveat=SaveAt(steps=True, dense=True))
    assert code(short) == CODES["max_steps_reached"]
    last = np.max(short.ts[np.isfinite(short.ts)])
    np.testing.assert_allclose(short.evaluate(last), short.ys[np.isfinite(short.ts)][-1], rtol=1e-6)
    assert np.all(np.isfinite(short.evaluate(last / 2))) and np.all(np.isnan(short.evaluate(last * 1.001)))
    wrong = jax.jit(lambda t1: run(y0=Y0.astype(np.float32), t1=t1).evaluate(0.0))(np.nan)
    assert np.all(np.isnan(wrong))
    nowhere = run(y0=Y0.astype(np.float32), t0=0.5, t1=0.5)
    assert np.array_equal(nowhere.evaluate(0.5), Y0.astype(np.float32)) and np.all(np.isnan(nowhere.evaluate(0.51)))
    assert np.all(np.isnan(nowhere.derivative(0.5)))


@pytest.mark.usefixtures("x64")
def test_up_to_an_event():
    event = steady_state(rtol=1e-3, atol=1e-3)
    saveat = SaveAt(t1=True, dense=True)
    found = solve(decay, 0.0, 90.0, jnp.array([1.0, 2.0]), 2.0, events=event, saveat=saveat, max_steps=200)
    assert code(found) == CODES["event_occurred"] and found.ts[0] < 90
    np.testing.assert_allclose(found.evaluate(found.ts[0]), found.ys[0], rtol=1e-12)
    assert np.all(np.isnan(found.evaluate(found.ts[0] + 0.01)))


def test_times_that_single_precision_does_not_hold():
    """Time is counted from t0, in the widest type at hand, as it is for `ts`."""
    t0, y0 = 86400.1, Y0.astype(np.float32)
    ts = t0 + np.linspace(0, 0.8, 9)
    solution = run(t0=t0, t1=t0 + 0.8, y0=y0, saveat=SaveAt(ts=ts, dense=True))
    np.testing.assert_allclose(solution.evaluate(ts), solution.ys, rtol=2e-6, atol=2e-6)
    assert np.array_equal(solution.evaluate(t0), Y0)
    assert np.all(np.isfinite(solution.evaluate(solution.t1))) and np.all(np.isfinite(solution.evaluate(solution.t0)))
    assert np.all(np.isnan(solution.evaluate(t0 + 0.801)))  # a double, which is not t1, but its neighbour is in float32
    near = jax.jit(lambda t: run(t0=t0, t1=t0 + 0.8, y0=y0).evaluate(t))(np.float32(t0 + 0.25))
    np.testing.assert_allclose(near, solution.evaluate(float(np.float32(t0 + 0.25))), rtol=1e-5)


@pytest.mark.usefixtures("x64")
def test_where_the_vector_field_jumps():
    """left says to which side a time belongs at which it does; the derivatives by when it does are those of the values."""
    at, ts = jnp.array([0.3, 0.6]), jnp.array([0.1, 0.3, 0.45, 0.7])
    field = lambda t, y, p: -2 * y + jnp.where(t < p[0], 0.0, jnp.where(t < p[1], 5.0, -3.0))  # noqa: E731

    def jumping(at):
        saveat = SaveAt(ts=ts, dense=True)
        args = jax.lax.stop_gradient(at)
        return solve(field, 0.0, 1.0, 1.0, args, saveat=saveat, max_steps=99, jump_ts=at, rtol=1e-8, atol=1e-8)

    found = jumping(at)
    np.testing.assert_allclose(found.evaluate(ts), found.ys, rtol=1e-14)
    y = found.evaluate(0.3)
    np.testing.assert_allclose(found.evaluate(0.3, left=False), y, rtol=1e-14)
    np.testing.assert_allclose(found.derivative(0.3), -2 * y, rtol=1e-4)
    np.testing.assert_allclose(found.derivative(0.3, left=False), 5 - 2 * y, rtol=1e-4)
    with pytest.raises(ValueError, match="left='no': expected one of True, False"):
        found.evaluate(0.3, left="no")
    # By hand: y = exp(-2 t) up to p, and then 2.5 + (exp(-2 p) - 2.5) exp(-2 (t - p)).
    slope = jax.jit(jax.grad(lambda at: jumping(at).evaluate(0.45)))(at)
    np.testing.assert_allclose(slope, [-5 * np.exp(-2 * 0.15), 0], rtol=1e-6)


# --- Derivatives

# By the state, an argument, the time, both ends, and the steps' size or ends where nobody chooses these.
DERIVED = {
    "tsit5": {"controller": "fixed"}, "rodas4": {"controller": "fixed"}, "bosh3": {"rtol": 1e-5, "atol": 1e-5},
    "rk4": {"controller": "even"}, "ralston3": {"controller": "given"},
}  # fmt: skip


def pushed(t, y, rho):
    return lorenz(t, y, rho) + jnp.sin(3 * t)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("method", DERIVED)
def test_derivatives(method):
    """Forwards, backwards and by differences; the last time lies in the last step, which ends at t1."""
    settings, rng = DERIVED[method], np.random.default_rng(2)
    point = {"y0": Y0, "rho": 28.0, "t0": -0.01, "t1": 0.3, "t": np.array([0.0, 0.07, 0.211, 0.2999])}
    if settings.get("controller") in ("fixed", "even"):
        point["dt0"] = 0.0123
    if settings.get("controller") == "given":
        point["step_ends"] = np.append(np.sort(rng.uniform(0, 0.3, 24)), 0.31)
    weights = rng.normal(size=(2, 4, 3))

    def loss(p):
        stepped = {name: p[name] for name in ("dt0", "step_ends") if name in p}
        solution = solve(
            pushed, p["t0"], p["t1"], p["y0"], p["rho"], saveat=SaveAt(dense=True), max_steps=200, method=method,
            **settings, **stepped,
        )  # fmt: skip
        return jnp.vdot(weights[0], solution.evaluate(p["t"])) + jnp.vdot(weights[1], solution.derivative(p["t"])) / 100

    point = jax.tree.map(lambda x: jnp.asarray(x, float), point)  # of one dtype, and so compiled once for those moved, too
    solved = jax.jit(jax.value_and_grad(loss))
    backwards, ways = solved(point)[1], jax.tree.map(lambda leaf: rng.normal(size=leaf.shape), point)
    if "step_ends" in ways:
        ways["step_ends"][-1] = 0  # it stays t1
    _, forwards = jax.jit(lambda p: jax.jvp(loss, (p,), (jax.tree.map(jnp.asarray, ways),)))(point)
    parts = {name: float(jnp.vdot(backwards[name], ways[name])) for name in point}
    scale = sum(map(abs, parts.values()))
    assert abs(sum(parts.values()) - forwards) <= 1e-9 * scale
    for name, way in ways.items():
        if "rtol" in settings and name != "t":
            continue  # steps that are chosen do not stay where they are
        if method == "ralston3" and name in ("t0", "t1"):
            continue  # the last of the steps' ends has to stay at t1
        ahead, behind = (solved(point | {name: point[name] + sign * 1e-6 * way})[0] for sign in (1, -1))
        expected = (ahead - behind) / 2e-6
        assert abs(parts[name] - expected) <= 1e-5 * max(abs(expected), 1e-3 * scale), (name, parts[name], expected)


@pytest.mark.usefixtures("x64")
def test_second_derivatives_and_lanes():
    """Forwards over backwards, by differences of gradients; a gradient of lanes is that of each."""

    def loss(p, t):
        solution = run(y0=p["y0"], rho=p["rho"], t1=0.3, method="bosh3", max_steps=40, dt0=0.0123, controller="fixed")
        return jnp.sum(jnp.sin(solution.evaluate(t))) + jnp.sum(solution.derivative(t)) / 50

    point = {"y0": jnp.asarray(Y0), "rho": jnp.asarray(28.0)}
    way = {"y0": jnp.array([0.3, -1.0, 0.5]), "rho": jnp.asarray(0.7)}
    gradient = jax.jit(jax.grad(loss, (0, 1)))
    t = jnp.asarray(0.211)
    found = jax.jit(lambda *ways: jax.jvp(gradient, (point, t), ways)[1])(way, jnp.asarray(0.4))
    shifted = [gradient(jax.tree.map(lambda x, d, s=s: x + s * d, point, way), t + s * 0.4) for s in (1e-5, -1e-5)]
    expected = jax.tree.map(lambda ahead, behind: (ahead - behind) / 2e-5, *shifted)
    jax.tree.map(lambda one, other: np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6), found, expected)
    lanes = {"y0": Y0 + np.arange(4)[:, None] / 7, "rho": np.linspace(20, 30, 4)}
    ts = np.linspace(0.05, 0.29, 4)
    together = jax.jit(jax.vmap(jax.grad(loss)))(lanes, ts)
    alone = [gradient(jax.tree.map(lambda x, n=n: x[n], lanes), ts[n])[0] for n in range(4)]
    jax.tree.map(lambda one, *others: np.testing.assert_allclose(one, others, rtol=1e-11), together, *alone)
    several = jax.jit(jax.jacfwd(lambda y0: loss(point | {"y0": y0}, t)))(point["y0"])  # several directions at once
    np.testing.assert_allclose(several, gradient(point, t)[0]["y0"], rtol=1e-10)


@pytest.mark.usefixtures("x64")
def test_where_there_is_no_step():
    """Where t1 is t0, the value is the state, and so is its derivative."""
    at = lambda y0: solve(pushed, 0.5, 0.5, y0, 28.0, saveat=SaveAt(dense=True), max_steps=4).evaluate(0.5)  # noqa: E731
    for derivative in (jax.jacrev, jax.jacfwd):
        np.testing.assert_array_equal(jax.jit(derivative(at))(jnp.asarray(Y0)), np.eye(3))


# --- What is said


def test_what_is_refused():
    y0 = Y0.astype(np.float32)
    plain = solve(lorenz, 0.0, 0.1, y0, 28.0)
    for asked in (plain.evaluate, plain.derivative):
        with pytest.raises(ValueError, match=r"not kept as a function; give the solve saveat=SaveAt\(dense=True\)"):
            asked(0.05)
    with pytest.raises(ValueError, match=r"SaveAt\(dense=True\) keeps room for max_steps steps in every lane.*give max_steps="):
        solve(lorenz, 0.0, 0.1, y0, 28.0, saveat=SaveAt(dense=True))
    with pytest.raises(TypeError, match=r"SaveAt\(dense=True\) needs max_steps as a Python int.*traced"):
        jax.jit(lambda most: run(y0=y0, max_steps=most).evaluate(0.1))(50)
    with pytest.raises(ValueError, match="SaveAt.dense=.... 'yes'|SaveAt.*dense.*'yes': expected one of True, False"):
        SaveAt(dense="yes")
    solution = run(y0=y0)
    for wrong in ("0.1", None, True, 1j, ["a"]):
        with pytest.raises(TypeError, match="expected a time, or an array of times"):
            solution.evaluate(wrong)
    with pytest.raises(ValueError, match="with a mass matrix f is no slope"):
        solve(
            lorenz, 0.0, 0.1, y0, 28.0, method="ros3p", mass=np.ones(3, np.float32),
            saveat=SaveAt(dense=True), max_steps=20,
        )  # fmt: skip


def test_a_failure_is_raised():
    with pytest.raises(RuntimeError, match="max_steps_reached"):
        run(y0=Y0.astype(np.float32), max_steps=5, throw=True)
    with pytest.raises(Exception, match="max_steps_reached"):
        jax.block_until_ready(jax.jit(lambda y0: run(y0=y0, max_steps=5, throw=True).evaluate(0.3))(Y0.astype(np.float32)))


def test_degrees():
    """Each method names the degree of its own."""
    degrees = {"tsit5": 4, "dopri5": 4, "bosh3": 3, "euler": 3, "dop853": 7, "rodas4": 3, "rodas5p": 4, "kvaerno5": 3}
    assert {name: Solver(name).stepper.between_degree for name in degrees} == degrees
    assert Solver("auto", auto=("vern7", "rodas5p")).stepper.between_degree == 7
