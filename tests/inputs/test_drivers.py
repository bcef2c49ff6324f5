"""Drivers: what they are between their points and beyond them, against SciPy; solves with them and their derivatives."""

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.interpolate
from jax.flatten_util import ravel_pytree
from jax.test_util import check_grads
from solve_helpers import all_are, code

from jax_cubie import Doses, Driver, SaveAt, Solver, solve
from jax_cubie.inputs.slopes import cubic_slopes, pchip_slopes
from jax_cubie.solution import CODES

SMOOTH = ("linear", "cubic", "pchip")


def reference(kind, ts, values, periodic=False):
    """SciPy's function of time."""
    if kind == "cubic":
        return scipy.interpolate.CubicSpline(ts, values, bc_type="periodic" if periodic else "not-a-knot")
    if kind == "pchip":
        return scipy.interpolate.PchipInterpolator(ts, values)
    return scipy.interpolate.interp1d(ts, values, kind="previous" if kind == "previous" else "linear", axis=0)


def times_of(points, seed=0):
    """From 0 to 10, and nowhere even."""
    inside = np.random.default_rng(seed).uniform(0, 10, points - 2)
    return np.concatenate([[0.0], np.sort(inside), [10.0]])


def still(t, y, args, u):
    """Nothing happens."""
    return jnp.zeros_like(y)


def sampled(driver, times, t0=None, t1=None, dtype=jnp.float64):
    """A driver's values at those times, as a solve between them has them."""
    ends = (times[0] if t0 is None else t0, times[-1] if t1 is None else t1)
    saveat = SaveAt(ts=times, fn=lambda t, y, args, u: u)
    return jax.tree.map(np.asarray, solve(still, *ends, jnp.zeros(1, dtype), drivers=driver, saveat=saveat).ys)


# --- Between the points


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("even", [False, True], ids=["uneven", "even"])
@pytest.mark.parametrize("kind", SMOOTH)
def test_values_are_scipys(kind, even):
    ts = np.linspace(0, 10, 21) if even else times_of(21)
    values = {"one": np.sin(ts), "several": np.random.default_rng(1).normal(size=(21, 2, 3))}
    given = {"t0": ts[0], "dt": ts[1] - ts[0]} if even else {"ts": ts}
    times = np.sort(np.concatenate([np.linspace(0, 10, 301), ts]))
    found = sampled(Driver(values=values, kind=kind, **given), times)
    for name, one in values.items():
        np.testing.assert_allclose(found[name], reference(kind, ts, one)(times), rtol=0, atol=1e-12)


@pytest.mark.usefixtures("x64")
def test_slopes():
    """Of values with equal neighbours, and turns, too; and their derivatives."""
    rng = np.random.default_rng(2)
    ts, values = times_of(12), rng.normal(size=(12, 40))
    values[3:5, 10:20], values[7, 20:] = 1.0, values[6, 20:]
    widths = np.diff(ts)
    for slopes, kind in ((cubic_slopes, "cubic"), (pchip_slopes, "pchip")):
        found = slopes(jnp.asarray(widths), jnp.asarray(values), periodic=False)
        np.testing.assert_allclose(found, reference(kind, ts, values)(ts, 1), atol=1e-10)
        for periodic in (False, True):
            own = jax.jit(partial(slopes, periodic=periodic))
            check_grads(own, (widths, values[:, :3]), 1, modes=("rev",), atol=1e-5, rtol=1e-5)
    values[-1] = values[0]
    found = cubic_slopes(jnp.asarray(widths), jnp.asarray(values), periodic=True)
    np.testing.assert_allclose(found, reference("cubic", ts, values, periodic=True)(ts, 1), atol=1e-10)
    # As if it went on: the slopes in the middle of three periods.
    found = pchip_slopes(jnp.asarray(widths), jnp.asarray(values), periodic=True)
    long_ts = np.concatenate([ts[:-1] - 10, ts[:-1], ts + 10])
    long_values = np.concatenate([values[:-1], values[:-1], values])
    np.testing.assert_allclose(found, reference("pchip", long_ts, long_values)(ts, 1), atol=1e-10)


def test_intervals_of_any_times():
    """In float32, of tables whose points lie close together, far apart, and both; at the points and right beside them."""
    rng = np.random.default_rng(3)
    close = [np.nextafter(np.float32(1), np.float32(2)), 1.0 + 2e-7 * np.arange(2, 12)]
    spacings = [rng.exponential(size=23), 10.0 ** rng.uniform(-6, 3, 23), np.where(rng.random(23) < 0.5, 1e-5, 1)]
    tables = [np.concatenate([[0.0], np.cumsum(one)]).astype(np.float32) for one in spacings]
    tables += [np.geomspace(1e-6, 1e3, 24, dtype=np.float32) - np.float32(1e-6)]
    tables += [np.concatenate([[0, 1], *(np.atleast_1d(one) for one in close), np.arange(2, 13)]).astype(np.float32)]
    tables = np.stack(tables)
    assert (np.diff(tables) > 0).all()
    beside = np.stack([np.nextafter(tables, np.float32(-1)), tables, np.nextafter(tables, np.float32(2e3))], -1)
    times = np.sort(np.clip(beside.reshape(len(tables), -1), 0, tables[:, -1:]), axis=1)
    values = np.arange(tables.shape[1], dtype=np.float32)

    def one(ts, times):
        saveat = SaveAt(ts=times, fn=lambda t, y, args, u: u)
        return solve(still, 0.0, times[-1], jnp.zeros(1), drivers=Driver(ts, values), saveat=saveat).ys

    found = np.asarray(jax.vmap(one)(tables, times))
    for ts, where, row in zip(tables.astype(np.float64), times, found, strict=True):
        np.testing.assert_allclose(row, np.interp(where, ts, values), rtol=0, atol=1e-4)


# --- Beyond them


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("even", [False, True], ids=["uneven", "even"])
def test_outside(even):
    """Also where time runs backwards, and where nothing of the table lies between t0 and t1."""
    ts = np.linspace(0, 2, 9) if even else times_of(9) / 5
    values, times, beyond = np.cos(np.pi * ts), np.linspace(-5, 7, 145), np.linspace(2.5, 5, 145)
    given = {"t0": ts[0], "dt": ts[1] - ts[0]} if even else {"ts": ts}

    def check(driver, expected):
        np.testing.assert_allclose(sampled(driver, times), expected(times), rtol=0, atol=1e-12)
        np.testing.assert_allclose(sampled(driver, times[::-1]), expected(times[::-1]), rtol=0, atol=1e-12)
        np.testing.assert_allclose(sampled(driver, beyond), expected(beyond), rtol=0, atol=1e-12)

    spline, periodic = reference("cubic", ts, values), reference("cubic", ts, values, periodic=True)
    check(Driver(values=values, kind="cubic", **given), lambda t: spline(np.clip(t, 0, 2)))
    check(Driver(values=values, kind="cubic", outside="nan", **given), lambda t: np.where((t < 0) | (t > 2), np.nan, spline(t)))
    check(Driver(values=values, kind="cubic", outside="periodic", **given), lambda t: periodic(t % 2))


def test_ends_that_are_those_of_the_table():
    """They are no more outside where their distance to t0 is rounded."""
    before, ts = np.linspace(-90, -20, 300, dtype=np.float32), times_of(21).astype(np.float32) + np.float32(0.1)
    for given in ({"ts": ts}, {"t0": ts[0], "dt": (ts[-1] - ts[0]) / 20}):

        def last(t0, t1, given=given):
            driver = Driver(values=np.ones(21), outside="nan", **given)
            return solve(still, t0, t1, jnp.zeros(1), drivers=driver, saveat=SaveAt(t1=True, fn=lambda t, y, args, u: u)).ys

        assert np.isfinite(jax.vmap(last, (0, None))(before, ts[-1])).all()
        assert np.isfinite(jax.vmap(last, (0, None))(100 - before, ts[0])).all()


def test_nan_ends_a_lane():
    found = solve(lambda t, y, args, u: u - y, 0.0, 2.0, 1.0, drivers=Driver([0.0, 1.0], [1.0, 2.0], outside="nan"))
    assert all_are(found, "not_finite")


def test_times_that_are_found_to_be_wrong():
    """They end their lane, and no other."""
    values, wrong = jnp.array([1.0, 2.0, 3.0]), CODES["invalid_input"]

    def ended(kind, **times):
        return solve(relax, 0.0, 1.0, 2.0, 0.8, drivers=Driver(values=values, kind=kind, **times))

    ts = jnp.array([[0.0, 0.5, 1.0], [0.0, 1.0, 0.5], [0.0, jnp.nan, 1.0], [0.0, 0.5, 0.5]])
    for kind in ("linear", "previous"):
        assert code(jax.vmap(lambda ts, kind=kind: ended(kind, ts=ts))(ts)).tolist() == [0, wrong, wrong, wrong]
    assert code(jax.vmap(lambda dt: ended("linear", t0=0.0, dt=dt))(jnp.array([0.5, -0.5]))).tolist() == [0, wrong]


def test_far_from_zero_in_float32():
    """Hours on Julian days, where t itself has only quarters of a day; fn is given the times that were asked for."""
    start, hours = 2460000.0, np.arange(49) / 24
    times = start + np.linspace(0, 2, 97)
    saveat = SaveAt(ts=times, fn=lambda t, y, args, u: (t, u))
    for driver in (Driver(start + hours, 24 * hours), Driver(t0=start, dt=1 / 24, values=24 * hours)):
        found = solve(still, start, start + 2, jnp.zeros(1), drivers=driver, saveat=saveat).ys
        assert np.array_equal(found[0], times.astype(np.float32))
        np.testing.assert_allclose(found[1], 24 * (times - start), atol=1e-5)


# --- Lanes


def relax(t, y, args, u):
    return u - args * y


def test_lanes_and_images(platform, builds):
    """Tables of each lane's own, shared ones, and starts of each lane's own: bit by bit what each lane gives alone. An image
    goes for all values."""
    rng = np.random.default_rng(4)
    values, starts = rng.normal(size=(33, 12)).astype(np.float32), np.linspace(-1, 5, 33, dtype=np.float32)
    ts = np.linspace(0, 10, 12, dtype=np.float32) + rng.uniform(0, 0.5, (33, 12)).astype(np.float32)

    def one(ts, values, t0, y0):
        return solve(relax, t0, 11.0, y0, 0.7, drivers=Driver(ts, values, "pchip"))

    def check(axes, *arguments):
        lanes = jax.jit(jax.vmap(one, axes))(*arguments)
        for lane in (0, 17, 32):
            own = [x if axis is None else x[lane] for x, axis in zip(arguments, axes, strict=True)]
            alone = jax.jit(one)(*map(jnp.asarray, own))
            assert np.array_equal(lanes.ys[lane], alone.ys) and lanes.stats["num_steps"][lane] == alone.stats["num_steps"]

    check((0, 0, 0, None), ts, values, starts, jnp.float32(1))
    assert builds.new() == 2
    check((None, None, 0, 0), ts[0], values[0], starts, starts)
    assert builds.new() == 1
    check((None, None, 0, 0), ts[1], values[5], starts, starts)
    assert builds.new() == 0
    # A pytree of drivers as an argument, which is batched as any other.
    drivers = jax.vmap(lambda values: Driver(ts[0], values))(values)
    lanes = jax.vmap(lambda driver: solve(relax, 0.0, 11.0, 1.0, 0.7, drivers=driver).ys)(drivers)
    alone = solve(relax, 0.0, 11.0, 1.0, 0.7, drivers=Driver(jnp.asarray(ts[0]), jnp.asarray(values[3]))).ys
    np.testing.assert_allclose(lanes[3], alone, rtol=1e-6)


POINTS = np.linspace(0, 2, 9)
RATES = {"rate": 2 + np.cos(3 * POINTS), "matrix": np.stack([np.eye(3) * (2 + np.cos(3 * t)) for t in POINTS])}


def stiff(t, y, args, u):
    return -args * u["rate"] * y**3 + u["matrix"] @ jnp.roll(y, 1) + jnp.sin(t)


@cache
def interval_by_interval():
    """The end of a solve of `stiff` under cubics of RATES: an interval after the other, without a driver."""

    def by_hand(t, y, args):
        coefficients, start = args
        rate = coefficients @ (t - start) ** jnp.arange(3, -1, -1)
        return stiff(t, y, 30.0, {"rate": rate, "matrix": jnp.eye(3) * rate})

    y = jnp.array([1.0, 2.0, 3.0])
    for k in range(8):
        args = jnp.asarray(reference("cubic", POINTS, RATES["rate"]).c[:, k]), POINTS[k]
        y = solve(by_hand, POINTS[k], POINTS[k + 1], y, args, rtol=1e-10, atol=1e-10, method="rodas5p").ys[0]
    return np.asarray(y)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(
    "settings",
    [
        {"method": "radau_iia_5"}, {"method": "rodas5p", "linear_solver": "sparse"},
        {"method": "kvaerno3", "linear_solver": "gmres"},
        {"method": "tsit5", "inline_f": False, "unroll": 2},
    ],
    ids=lambda settings: "-".join(map(str, settings.values())),
)  # fmt: skip
def test_methods(settings):
    """A stiff system with a matrix among its drivers."""
    found = solve(stiff, 0.0, 2.0, jnp.array([1.0, 2.0, 3.0]), 30.0, drivers=Driver(POINTS, RATES, "cubic"), rtol=1e-9,
                  atol=1e-9, **settings)  # fmt: skip
    assert all_are(found, "successful")
    np.testing.assert_allclose(found.ys[0], interval_by_interval(), rtol=2e-7)


def test_together_with_a_mass_a_jacobian_and_a_steady_state():
    driver = Driver([0.0, 2.0], {"k": [3.0, 4.0]})
    found = solve(lambda t, y, args, u: jnp.stack([y[1] - y[0], y[1] - u["k"]]), 0.0, 1.0, jnp.zeros(2), drivers=driver,
                  method="rodas5p", mass=jnp.array([1.0, 0.0]), jac=lambda t, y, args, u: jnp.array([[-1.0, 1.0], [0.0, 1.0]]),
                  saveat=SaveAt(t0=True, t1=True))  # fmt: skip
    np.testing.assert_allclose(found.ys[:, 1], [3.0, 3.5], rtol=1e-5)
    from jax_cubie import steady_state

    ended = solve(relax, 0.0, 1e4, 0.0, 1.0, drivers=Driver([0.0, 2.0], [3.0, 4.0]), events=steady_state())
    assert all_are(ended, "event_occurred") and abs(float(ended.ys[0]) - 4) < 1e-2


# --- Derivatives


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(
    ("method", "kind", "even"), [("tsit5", "pchip", False), ("rodas5p", "linear", True), ("kvaerno3", "cubic", False)]
)
def test_derivatives_by_everything(method, kind, even):
    """By values, the times of points, args, y0, t0, t1 and save times, forwards and backwards, of a row with u in it."""
    ts = times_of(8)
    given = {"v": jnp.sin(ts), "ts": jnp.asarray(ts), "a": jnp.array(0.7), "y": jnp.array([1.0, 2.0]), "t0": jnp.array(0.3)}
    given |= {"t1": jnp.array(4.0), "save": jnp.array([0.5, 1.0, 1.7])}

    def field(t, y, args, u):
        return jnp.stack([-args * y[0] + u["x"] * jnp.cos(t) * y[1], u["z"][0] - y[1] * u["z"][1] * args])

    def loss(p):
        values = {"x": p["v"], "z": jnp.stack([p["v"] ** 2, jnp.cos(p["v"])], 1)}
        own = {"t0": p["ts"][0], "dt": p["ts"][3]} if even else {"ts": p["ts"]}
        saveat = SaveAt(t1=True, ts=p["t0"] + p["save"], fn=lambda t, y, args, u: y * t + u["x"])
        precise = {"newton_rtol": 1e-12, "newton_atol": 1e-12} if method == "kvaerno3" else {}
        ys = solve(field, p["t0"], p["t1"], p["y"], p["a"], drivers=Driver(values=values, kind=kind, **own), saveat=saveat,
                   method=method, controller="fixed", dt0=0.05, **precise).ys  # fmt: skip
        return jnp.sum(ys**2)

    flat, back = ravel_pytree(given)
    direction = jnp.asarray(np.random.default_rng(5).normal(size=flat.shape))
    own = jax.jit(jax.value_and_grad(lambda x: loss(back(x))))
    difference = (own(flat + 1e-6 * direction)[0] - own(flat - 1e-6 * direction)[0]) / 2e-6
    forwards = jax.jit(lambda x, dx: jax.jvp(lambda z: loss(back(z)), (x,), (dx,))[1])(flat, direction)
    np.testing.assert_allclose(forwards, difference, rtol=1e-6)
    np.testing.assert_allclose(own(flat)[1] @ direction, forwards, rtol=1e-11)


@pytest.mark.usefixtures("x64")
def test_derivatives_are_those_of_plain_jax():
    """The same steps of rk4, written in JAX; of lanes that share the driver, and of ones that have one each."""
    ts, values = times_of(7), np.sin(times_of(7))

    def field(t, y, args, u):
        return jnp.sin(u) - args * y**2

    def plain(values, args, y0):
        def at(t, y):
            return field(t, y, args, jnp.interp(t, ts, values))

        def step(y, t):
            h = 0.05
            k1 = at(t, y)
            k2 = at(t + h / 2, y + h / 2 * k1)
            k3 = at(t + h / 2, y + h / 2 * k2)
            return y + h / 6 * (k1 + 2 * k2 + 2 * k3 + at(t + h, y + h * k3)), None

        return jax.lax.scan(step, y0, 0.05 * jnp.arange(60))[0]

    def ours(values, args, y0):
        return solve(field, 0.0, 3.0, y0, args, drivers=Driver(ts, values), method="rk4", dt0=0.05).ys[0]

    starts, own = jnp.linspace(0.5, 2, 5), jnp.asarray(values) + 0.1 * jnp.arange(5.0)[:, None]

    def total(of, axes):
        return lambda values, args: jnp.sum(jax.vmap(of, axes)(values, args, starts) ** 2)

    for axes, given in (((None, None, 0), jnp.asarray(values)), ((0, None, 0), own)):
        expected = jax.jit(jax.grad(total(plain, axes), (0, 1)))(given, 0.3)
        found = jax.jit(jax.grad(total(ours, axes), (0, 1)))(given, 0.3)
        jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-9, atol=1e-12), found, expected)
    tangents = jax.jit(jax.jacfwd(total(ours, (None, None, 0))))(jnp.asarray(values), 0.3)
    expected = jax.jit(jax.grad(total(plain, (None, None, 0))))(jnp.asarray(values), 0.3)
    np.testing.assert_allclose(tangents, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.usefixtures("x64")
def test_second_derivatives():
    ts, e = times_of(6), 1e-5

    def field(t, y, args, u):
        return jnp.sin(u) - u * y

    def loss(values):
        driver = Driver(ts, values, "cubic")
        return solve(field, 0.0, 9.0, 1.0, drivers=driver, controller="fixed", dt0=0.1).ys[0] ** 2

    values, gradient = jnp.cos(ts), jax.jit(jax.grad(loss))
    rows = [(gradient(values.at[k].add(e)) - gradient(values.at[k].add(-e))) / (2 * e) for k in range(6)]
    hessian = jax.jit(jax.hessian(loss))(values)
    np.testing.assert_allclose(hessian, jnp.stack(rows), rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(jax.jit(jax.jacrev(jax.jacrev(loss)))(values), hessian, rtol=1e-9, atol=1e-11)


# --- Jumps

STEPS, LEVELS = np.array([0.0, 0.7, 1.1, 2.5, 3.0]), np.array([1.0, -2.0, 3.0, 0.5, -1.0])


def piecewise(t0, t1, y, rate, ts=STEPS, levels=LEVELS):
    """The solution of `relax` between constants."""
    between = sorted(t for t in ts if min(t0, t1) < t < max(t0, t1))
    times = [t0, *(between if t1 > t0 else between[::-1]), t1]
    for start, end in zip(times[:-1], times[1:], strict=True):
        level = levels[max(np.searchsorted(ts, (start + end) / 2, side="right") - 1, 0)] / rate
        y = level + (y - level) * np.exp(-rate * (end - start))
    return y


@pytest.mark.usefixtures("x64")
def test_steps_end_on_jumps():
    """From before the points, from on them, between them, and backwards; no step looks over a jump."""

    @jax.jit
    def one(t0, t1):
        return solve(relax, t0, t1, 2.0, 0.8, drivers=Driver(STEPS, LEVELS, "previous"), rtol=1e-9, atol=1e-9)

    for t0, t1 in ((0.0, 4.0), (-1.0, 3.0), (0.7, 2.5), (1.0, 2.0), (3.0, 0.0), (2.5, 0.7), (3.5, 2.7)):
        found, expected = one(t0, t1), piecewise(t0, t1, 2.0, 0.8)
        assert abs(found.ys[0] - expected) < 1e-7 * max(1, abs(expected))
        assert found.stats["num_rejected_steps"] < 10


@pytest.mark.usefixtures("x64")
def test_saved_rows_see_the_side_before():
    times = np.linspace(0, 4, 401)
    saveat = SaveAt(ts=times, fn=lambda t, y, args, u: (t, y, u))
    driver = Driver(STEPS, LEVELS, "previous")
    t, y, u = solve(relax, 0.0, 4.0, 2.0, 0.8, drivers=driver, rtol=1e-9, atol=1e-9, saveat=saveat).ys
    assert np.array_equal(t, times)
    assert np.array_equal(u, LEVELS[np.maximum(np.searchsorted(STEPS, times, side="left") - 1, 0)])
    np.testing.assert_allclose(y[1:], [piecewise(0.0, time, 2.0, 0.8) for time in times[1:]], atol=1e-7)
    steps = solve(relax, 0.0, 4.0, 2.0, 0.8, drivers=driver, saveat=SaveAt(steps=True), max_steps=200)
    assert set(STEPS[1:]) <= set(np.asarray(steps.ts))


@pytest.mark.usefixtures("x64")
def test_jumps_outside():
    """Before the first point there is none; a period of an even one is gone through often; NaN comes at the last point."""
    levels = np.append(np.sin(np.arange(8)), np.sin(0))
    driver = Driver(t0=-3.0, dt=0.3, values=levels, kind="previous", outside="periodic")
    found = solve(relax, 0.0, 20.0, 2.0, 0.8, drivers=driver, rtol=1e-9, atol=1e-9)
    ts = -3 + 0.3 * np.arange(90)
    assert abs(found.ys[0] - piecewise(0.0, 20.0, 2.0, 0.8, ts, np.tile(levels[:-1], 12))) < 1e-7
    saveat = SaveAt(ts=[2.9, 3.1], fn=lambda t, y, args, u: u)
    ended = solve(relax, 0.0, 4.0, 2.0, 0.8, drivers=Driver(STEPS, LEVELS, "previous", "nan"), saveat=saveat)
    assert all_are(ended, "not_finite") and ended.ys[0] == 0.5
    alone = solve(relax, 0.0, 4.0, 2.0, 0.8, drivers=Driver([1.0], [3.0], "previous"), rtol=1e-9, atol=1e-9)
    assert abs(alone.ys[0] - piecewise(0.0, 4.0, 2.0, 0.8, np.array([1.0]), np.array([3.0]))) < 1e-8


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("method", ["tsit5", "rodas5p"])
def test_derivatives_of_jumps(method):
    """By everything, the times of jumps among it."""

    def loss(p):
        found = solve(relax, p["t0"], 4.0, p["y"], p["a"], drivers=Driver(p["ts"], p["v"], "previous"), rtol=1e-9, atol=1e-9,
                      method=method, saveat=SaveAt(t1=True, ts=jnp.array([0.9])))  # fmt: skip
        return found.ys[0] + found.ys[1] ** 2

    def exact(p):
        def to(t):
            return piecewise(float(p["t0"]), t, float(p["y"]), float(p["a"]), np.asarray(p["ts"]), np.asarray(p["v"]))

        return to(0.9) + to(4.0) ** 2

    given = {"a": 0.8, "t0": -0.1, "ts": STEPS, "v": LEVELS, "y": 2.0}
    given = jax.tree.map(jnp.asarray, given)
    flat, back = ravel_pytree(given)
    units = 1e-6 * np.eye(len(flat))
    expected = [(exact(back(flat + unit)) - exact(back(flat - unit))) / 2e-6 for unit in units]
    np.testing.assert_allclose(ravel_pytree(jax.jit(jax.grad(loss))(given))[0], expected, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(ravel_pytree(jax.jit(jax.jacfwd(loss))(given))[0], expected, rtol=1e-6, atol=1e-6)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("ends", [(0.0, 2.0), (2.0, 0.0)])
def test_derivatives_of_jumps_at_one_time(ends):
    """Of two drivers, of f as it is written and of an infusion, each by itself: by one of the times the others stay."""

    def end(p):
        drivers = [Driver(p["first"], [1.0, 2.0, -1.0], "previous"), Driver(p["second"], [-1.0, 0.5, 1.0], "previous")]
        drivers.insert(0, Driver([1.0, 1.9], [0.0, 0.0], "previous"))  # which begins then, and does not jump
        forwards = ends[0] < ends[1]  # there are no doses backwards in time
        doses = Doses(p["dose"], 1.0, into=lambda y: y, duration=0.5) if forwards else None

        def f(t, y, when, u):
            return u[0] + u[1] * (1 + 0.3 * y) + u[2] * y + jnp.where(t > when, 2.0, -0.5) * y

        given = dict(drivers=drivers, jump_ts=p["own"][None], doses=doses, rtol=1e-10, atol=1e-10)
        return solve(f, *ends, 1.0, p["own"], **given).ys[0]

    given = jax.tree.map(jnp.asarray, {"first": [0.0, 0.5, 1.0], "second": [0.0, 1.0, 1.5], "own": 1.0, "dose": 1.0})
    flat, back = ravel_pytree(given)
    moved = jax.jit(jax.vmap(lambda point: end(back(point))))
    # What is of second order differs from one side to the other.
    expected = (moved(flat + 1e-6 * jnp.eye(len(flat))) - moved(flat - 1e-6 * jnp.eye(len(flat)))) / 2e-6
    moving = flat != ends[0]  # a point at t0 is none at which steps end
    for derivative in (jax.grad, jax.jacfwd):
        found, _ = ravel_pytree(jax.jit(derivative(end))(given))
        np.testing.assert_allclose(found[moving], expected[moving], rtol=1e-5, atol=1e-5)


def test_jumps_far_from_zero_in_float32():
    """A day in: both the driver's jumps and those that f makes by t are met, lanes that start at different times among them."""
    times = 86400 + np.array([0.0, 3.0, 5.0, 9.0])

    def field(t, y, args, u):
        return u - y + jnp.where(t < 86405, 1.0, -1.0)

    def one(t0):
        driver = Driver(times, [1.0, 4.0, 2.0, 0.0], "previous")
        return solve(field, t0, 86410.0, 2.0, drivers=driver, jump_ts=jnp.array([86405.0]), rtol=1e-5, atol=1e-5)

    found = jax.vmap(one)(jnp.array([86400.0, 86401.5]))
    for start, y in zip((0.0, 1.5), found.ys[:, 0], strict=True):
        ts, levels = np.array([0.0, 3.0, 5.0, 9.0]), np.array([2.0, 5.0, 1.0, -1.0])
        assert abs(y - piecewise(start, 10.0, 2.0, 1.0, ts, levels)) < 1e-4
    assert (found.stats["num_rejected_steps"] < 6).all()


@pytest.mark.usefixtures("x64")
def test_jumps_without_a_matrix():
    """Products with the Jacobian are made by code that knows no leg."""

    def field(t, y, args, u):
        return -u * y**3 + jnp.roll(y, 1)

    driver, y0 = Driver(STEPS, 30 + 10 * LEVELS, "previous"), jnp.array([1.0, 2.0])
    tolerances = {"rtol": 1e-8, "atol": 1e-8}
    found = solve(field, 0.0, 3.5, y0, drivers=driver, method="kvaerno5", linear_solver="gmres", **tolerances)
    expected = solve(field, 0.0, 3.5, y0, drivers=driver, method="rodas5p", **tolerances)
    np.testing.assert_allclose(found.ys, expected.ys, atol=1e-6)
    assert abs(found.stats["num_rejected_steps"]) < 40


# --- What people see, and what is refused


def test_inspect_and_print():
    sizes = jax.ShapeDtypeStruct((9,), "float32")
    driver = Driver(sizes, {"rate": sizes, "levels": jax.ShapeDtypeStruct((9, 2), "float32")}, "cubic")

    def field(t, y, args, u):
        return u["levels"] - u["rate"] * y

    for derivative in (None, "vjp"):
        given = {"batched": ("y0", "drivers", "t0"), "target": "cuda:90", "derivative": derivative}
        found = Solver().inspect(field, 0.0, 2.0, jnp.ones(2), drivers=driver, **given)
        assert ".f64" not in found.ptx and found.spill_bytes == 0
    with pytest.raises(ValueError, match="batched names 'driver'.*drivers"):
        Solver().inspect(field, 0.0, 2.0, jnp.ones(2), drivers=driver, batched="driver")
    jumping = Driver(sizes, sizes, "previous")
    Solver().inspect(relax, 0.0, 2.0, jnp.ones(2), 1.0, drivers=jumping, target="cuda:90")
    assert repr(Driver([0.0, 1.0], [2.0, 3.0], "pchip")) == (
        "Driver(np.array([0., 1.], 'float64'), np.array([2., 3.], 'float64'), kind='pchip')"
    )
    assert repr(Driver(t0=0.0, dt=1.0, values=np.zeros(9), outside="nan")) == (
        "Driver(values=<float64[9], all 0>, outside='nan', t0=0.0, dt=1.0)"
    )


WRONG = {
    "ts is not increasing: 2 at \\[1\\] is followed by 2": lambda: Driver([1, 2, 2], [1, 2, 3]),
    "ts has nan at \\[1\\]": lambda: Driver([1, np.nan], [1, 2]),
    "ts has shape \\(3,\\), and its values 2 points": lambda: Driver([1, 2, 3], [1, 2]),
    "for times per lane, vmap": lambda: Driver([[1, 2]], [1, 2]),
    "has 2 points: kind='cubic' needs 4": lambda: Driver([1, 2], [1, 2], "cubic"),
    "outside='periodic' needs 2": lambda: Driver([1], [1], "previous", "periodic"),
    "Did you mean 'cubic'": lambda: Driver([1, 2], [1, 2], "cubi"),
    "outside=.*'hold', 'periodic', 'nan'": lambda: Driver([1, 2], [1, 2], outside="zero"),
    "add a last point that is like the first": lambda: Driver([1, 2], [1, 2], outside="periodic"),
    "has no times": lambda: Driver(values=[1, 2]),
    "has t0=: expected ts": lambda: Driver(t0=1.0, values=[1, 2]),
    "has ts=, t0=, dt=": lambda: Driver([1, 2], [1, 2], t0=1.0, dt=1.0),
    "has no values": lambda: Driver([1, 2]),
    "dt=0.0\\): expected a number above 0": lambda: Driver(t0=1.0, dt=0.0, values=[1, 2]),
    "values\\['a'\\] is a number": lambda: Driver([1, 2], {"a": 1}),
    "expected as many points": lambda: Driver([1, 2], {"a": [[1.0], [2.0]], "b": np.zeros(3)}),
    "takes real numbers, got dtype complex128": lambda: Driver([1, 2], [1, 2j]),
    "values have no arrays": lambda: Driver([1, 2], {}),
    "drivers has 1.0 of type float": lambda: solve(relax, 0.0, 1.0, 1.0, 1.0, drivers=[1.0]),
    "f\\(t, y, args, u\\): it has to take 4 arguments, the last of which are the values of drivers": lambda: solve(
        lambda t, y, args: y, 0.0, 1.0, 1.0, drivers=Driver([1, 2], [1, 2])
    ),
    "a last one is the values of drivers=, which are not given": lambda: solve(relax, 0.0, 1.0, 1.0),
    "fn\\(t, y, args, u\\)": lambda: solve(
        relax, 0.0, 1.0, 1.0, 1.0, drivers=Driver([1, 2], [1, 2]), saveat=SaveAt(t1=True, fn=lambda t, y, args: y)
    ),
    "Solver has no drivers": lambda: Solver(drivers=1),
    "one is traced: repeat its points": lambda: jax.jit(
        lambda t1: solve(relax, 0.0, t1, 1.0, 1.0, drivers=Driver([1, 2, 3], [1, 2, 1], "previous", "periodic")).ys
    )(1.0),
    "drivers of the kind 'previous'": lambda: solve(
        relax, 0.0, 1.0, 1.0, 1.0, drivers=Driver([0.1, 0.2], [1, 2], "previous"), controller="even", method="rk4", dt0=0.1
    ),
}


@pytest.mark.parametrize("message", WRONG)
def test_refused(message):
    with pytest.raises((ValueError, TypeError), match=message):
        WRONG[message]()
