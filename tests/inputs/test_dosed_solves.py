"""Solves under doses, against closed forms: amounts absorbed from a gut into blood, and out of that."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from one_compartment import by_superposition
from solve_helpers import all_are, assert_same_bits, code

from jax_cubie import Doses, Driver, Resets, SaveAt, Solver, Summary, read_dose_table, solve
from jax_cubie.solution import CODES

pytestmark = pytest.mark.usefixtures("x64")

K = {"absorbed": 1.5, "gone": 0.1}
TIMES = np.linspace(0.0, 30.0, 7)
EMPTY = {"blood": 0.0, "gut": 0.0}
# Of each family; steps of one size too.
KINDS = {"tsit5": {}, "rodas5p": {}, "kvaerno3": {}, "radau_iia_5": {}, "rk4": {"dt0": 0.02}}


def absorption(t, y, k):
    return {"blood": k["absorbed"] * y["gut"] - k["gone"] * y["blood"], "gut": -k["absorbed"] * y["gut"]}


def gut(y):
    return y["gut"]


def blood(y):
    return y["blood"]


def in_blood(ts, begins, amounts, k):
    """What is in the blood at `ts` of doses into the gut; before those of the same time."""
    since = jnp.asarray(ts)[:, None] - jnp.asarray(begins)
    both = jnp.exp(-k["gone"] * since) - jnp.exp(-k["absorbed"] * since)
    share = jnp.where(since > 0, k["absorbed"] / (k["absorbed"] - k["gone"]) * both, 0)
    return jnp.sum(amounts * share, 1)


def run(doses, k=K, y0=EMPTY, t1=30.0, saveat=None, **settings):
    settings = {"rtol": 1e-9, "atol": 1e-9, **settings} if "dt0" not in settings else settings
    return solve(absorption, 0.0, t1, y0, k, doses=doses, saveat=saveat or SaveAt(ts=TIMES), **settings)


def test_doses_into_the_gut(platform):
    """The third lies on a save time; a lag turns the first two."""
    ts, amounts, lag = np.array([0.0, 3.0, 10.0, 40.0]), np.array([100.0, 50.0, 20.0, 7.0]), np.array([4.5, 0.3, 0.0, 0.0])
    found = run(Doses(ts, amounts, into=gut, lag=lag))
    assert all_are(found, "successful")
    np.testing.assert_allclose(found.ys["blood"], in_blood(TIMES, ts + lag, amounts, K), atol=5e-6)


def test_doses_at_the_ends():
    """At t0 it is given, behind what is saved of t0; at t1 it is not."""
    saved = SaveAt(t0=True, ts=[0.0, 30.0], t1=True)
    found = run(Doses([0.0, 30.0], [8.0, 4.0], into=gut), saveat=saved)
    np.testing.assert_allclose(found.ys["gut"], [0, 0, 8 * np.exp(-45), 8 * np.exp(-45)], atol=1e-9)


def test_a_schedule_that_is_known_and_one_that_is_traced():
    def of(amount):
        return run(Doses([0.0, 12.0], amount, into=gut, fraction=0.5))

    assert_same_bits(of(100.0), jax.jit(of)(100.0))


def test_lanes_of_different_schedules():
    ts = np.array([[0.0, 8.0, 16.0], [5.0, np.inf, np.inf], [np.inf] * 3, [-1.0, 0.0, 0.0]])

    def lane(ts):
        return run(Doses(ts, 10.0, into=gut))

    found = jax.jit(jax.vmap(lane))(ts)
    assert code(found).tolist() == [0, 0, 0, CODES["invalid_input"]]
    expected = [in_blood(TIMES, row[np.isfinite(row)], 10.0, K) for row in ts[:3]]
    np.testing.assert_allclose(found.ys["blood"][:3], expected, atol=1e-7)
    assert np.isnan(found.ys["blood"][3, 1:]).all()
    assert_same_bits(jax.tree.map(lambda leaf: leaf[1], found.ys), lane(ts[1]).ys)


def test_times_of_jumps_beside_doses():
    """Steps end on all of them; the doses are given all the same."""
    doses, saved = Doses([4.0, 9.0], 10.0, into=gut), SaveAt(steps=True)
    found = run(doses, saveat=saved, max_steps=500, jump_ts=[3.0, 11.0], step_ts=np.array([9.0, 20.0]))
    assert {3.0, 4.0, 9.0, 11.0, 20.0} <= set(np.asarray(found.ts))
    plain = solve(absorption, 0.0, 30.0, EMPTY, K, doses=doses, jump_ts=jnp.array([3.0]), saveat=SaveAt(ts=TIMES))
    np.testing.assert_allclose(plain.ys["blood"], in_blood(TIMES, [4.0, 9.0], 10.0, K), atol=1e-2)


def test_resets():
    y0 = {"blood": 3.0, "gut": 2.0}
    doses = Doses([0.0, 9.0, 14.0], 10.0, into=gut, lag=np.array([0.0, 3.0, 1.0]))
    found = run((doses, Resets(11.0)), y0=y0)

    def since_reset(ts, given):
        own = in_blood(ts, [0.0], y0["gut"], K) + y0["blood"] * np.exp(-K["gone"] * ts)
        return own + in_blood(ts, given, 10.0, K)

    ts = TIMES[TIMES > 0]
    expected = np.where(ts < 11, since_reset(ts, [0.0]), since_reset(ts - 11, [4.0]))
    np.testing.assert_allclose(found.ys["blood"][1:], expected, atol=1e-7)


def test_derivatives():
    """By all numbers of the doses and those of the model, in both modes, against those of the closed form."""
    at = (np.array([0.5, 3.0, 10.5]), np.array([100.0, 50.0, 20.0]), np.array([4.5, 0.3, 0.0]), 0.7, K)

    def solved(ts, amounts, lag, fraction, k):
        doses = Doses(ts, amounts, into=gut, lag=lag, fraction=fraction)
        return jnp.sum(jnp.sin(run(doses, k).ys["blood"] / 10))

    def closed_form(ts, amounts, lag, fraction, k):
        return jnp.sum(jnp.sin(in_blood(TIMES, ts + lag, amounts * fraction, k) / 10))

    every = tuple(range(5))
    expected = jax.jit(jax.grad(closed_form, every))(*at)
    for derivative in (jax.grad, jax.jacfwd):
        found = jax.jit(derivative(solved, every))(*at)
        jax.tree.map(lambda one, other: np.testing.assert_allclose(one, other, rtol=1e-5, atol=2e-5), found, expected)


@pytest.mark.parametrize("duration", [None, 2.9])
def test_derivatives_by_the_time_of_a_dose_at_the_start(duration):
    """As it is given later; the solve itself, without a derivative by that, gives it in front of all steps."""

    def solved(lag, gone):
        doses = Doses(0.0, 10.0, into=blood, lag=lag, duration=duration)
        return run(doses, {**K, "gone": gone}, saveat=SaveAt(t0=True, ts=TIMES[1:])).ys["blood"]

    def closed_form(lag, gone):
        return by_superposition(TIMES, gone, lag + np.zeros(1), np.array([10.0]), np.array([duration or 0.0]))

    (by_lag, by_rate), (expected, other) = (
        jax.jit(jax.jacfwd(closed_form, (0, 1)))(0.0, K["gone"]), jax.jit(jax.jacrev(solved, (0, 1)))(0.0, K["gone"])
    )  # fmt: skip
    np.testing.assert_allclose(expected, by_lag, atol=1e-6)
    np.testing.assert_allclose(other, by_rate, atol=1e-5)
    np.testing.assert_allclose(jax.jit(jax.jacfwd(solved))(0.0, K["gone"]), by_lag, atol=1e-6)
    assert_same_bits(solved(0.0, K["gone"]), jax.jvp(lambda gone: solved(0.0, gone), (K["gone"],), (1.0,))[0])


@pytest.mark.parametrize("at", [(2.0, 0.0), (2.0, 2.0), (1.5, 0.5)])
def test_derivatives_by_numbers_that_move_doses_of_one_time(at):
    """The end of an infusion is the beginning of the next, and a dose comes at the same time: each moves by itself."""
    ts, saved = 2.0 * np.arange(4), np.array([1.0, 3.3, 7.3])

    def solved(duration, lag):
        doses = Doses(ts, 10.0, into=blood, duration=duration), Doses(ts, 3.0, into=blood, lag=lag)
        return run(doses, saveat=SaveAt(ts=saved)).ys["blood"]

    def closed_form(duration, lag):
        slow = by_superposition(saved, K["gone"], ts, 10.0 * np.ones(4), duration * jnp.ones(4))
        return slow + by_superposition(saved, K["gone"], ts + lag, 3.0 * np.ones(4), np.zeros(4))

    expected = jax.jit(jax.jacfwd(closed_form, (0, 1)))(*at)
    for derivative in (jax.jacfwd, jax.jacrev):
        np.testing.assert_allclose(jax.jit(derivative(solved, (0, 1)))(*at), expected, atol=1e-6)


def test_second_derivatives_by_times_of_doses_of_one_time():
    """By a Rosenbrock method, with a step of almost no size between doses; forwards over reverse, against the closed form."""

    def end(times):
        doses = tuple(Doses(time, amount, into=lambda y: y) for time, amount in zip(times, (1.0, 0.5), strict=True))
        field = lambda t, y, args: -0.8 * y * y  # noqa: E731
        return solve(field, 0.0, 2.0, jnp.ones(()), doses=doses, method="rodas4", rtol=1e-8, atol=1e-8).ys[-1]

    def expected(times):
        y, last = 1.0, 0.0
        for time, amount in ((times[0], 1.0), (times[1], 0.5), (2.0, 0.0)):
            y, last = y / (1 + 0.8 * (time - last) * y) + amount, time
        return y

    at = jnp.ones(2)
    np.testing.assert_allclose(jax.jit(jax.hessian(end))(at), jax.hessian(expected)(at), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("side", ["left", "right"])
def test_what_is_saved_where_doses_come_together(side):
    """Before or behind all of them, also where the solve is differentiated by their times."""

    def solved(lag):
        doses = tuple(Doses([0.0, 2.0], amount, into=blood, lag=lag) for amount in (3.0, 4.0, 5.0))
        return run(doses, saveat=SaveAt(ts=[0.0, 2.0, 4.0], side=side)).ys["blood"]

    given = 12.0 * np.exp(-0.1 * np.array([0.0, 2.0, 4.0]))
    expected = given + np.array([0.0, 12.0, given[1]]) if side == "right" else np.array([0.0, given[1], given[2] + given[1]])
    for values in (solved(0.0), jax.jvp(solved, (0.0,), (1.0,))[0]):
        np.testing.assert_allclose(values, expected, rtol=1e-7)


def test_derivatives_by_an_interval():
    """The first dose is at t0, whatever the interval is."""

    def solved(interval):
        return run(Doses(0.0, 10.0, into=blood).repeat(interval, 3)).ys["blood"]

    def closed_form(interval):
        return by_superposition(TIMES, K["gone"], interval * np.arange(4), 10.0 * np.ones(4), np.zeros(4))

    for derivative in (jax.jacfwd, jax.jacrev):
        np.testing.assert_allclose(jax.jit(derivative(solved))(7.0), jax.jit(jax.jacfwd(closed_form))(7.0), atol=1e-6)


def test_derivatives_through_a_reset():
    """By y0 and what was given before, none but what is saved before; y0 comes back at the reset."""

    def solved(y0, amount, time):
        doses = (Doses([1.0, 14.0], jnp.stack([amount, 2 * amount]), into=gut), Resets(time))
        return run(doses, y0={"blood": y0, "gut": 0.0}, saveat=SaveAt(ts=[5.0, 20.0])).ys["blood"]

    at = (3.0, 10.0, 11.0)
    share = np.array([float(in_blood(np.array([since]), [0.0], 1.0, K)[0]) for since in (4.0, 6.0)])
    decay = np.exp(-K["gone"] * np.array([5.0, 9.0]))
    expected = (decay, share * [1, 2], np.array([0.0, K["gone"] * 3.0 * decay[1]]))
    for derivative in (jax.jacrev, jax.jacfwd):
        found = jax.jit(derivative(solved, (0, 1, 2)))(*at)
        jax.tree.map(lambda one, other: np.testing.assert_allclose(one, other, rtol=1e-6, atol=1e-7), found, expected)


def test_gradient_of_a_batch_by_what_all_share():
    ts, amounts, durations = np.array([[0.0, 8.0], [2.0, np.inf]]), np.array([10.0, 20.0]), np.array([0.0, 2.9])

    def total(amounts, durations, lag):
        def lane(ts):
            return run(Doses(ts, amounts, into=blood, duration=durations, lag=lag)).ys["blood"]

        return jnp.sum(jax.vmap(lane)(ts))

    def closed_form(amounts, durations, lag):
        first = by_superposition(TIMES, K["gone"], ts[0] + lag, amounts, durations)
        second = by_superposition(TIMES, K["gone"], ts[1, :1] + lag, amounts[:1], durations[:1])
        return jnp.sum(first) + jnp.sum(second)

    found, expected = (jax.jit(jax.grad(f, (0, 1, 2)))(amounts, durations, 0.5) for f in (total, closed_form))
    jax.tree.map(lambda one, other: np.testing.assert_allclose(one, other, rtol=1e-6, atol=1e-6), found, expected)


# --- Infusions

SLOWLY = (np.array([0.5, 3.0, 10.5]), np.array([100.0, 50.0, 20.0]), np.array([0.0, 2.9, 14.0]), np.array([4.5, 0.3, 0.0]))


def infused(ts, amounts, duration, lag, k=K, **settings):
    """What is in the blood of doses into it, some at once, some slowly, that overlap."""
    return run(Doses(ts, amounts, into=blood, duration=duration, lag=lag), k, **settings).ys["blood"]


def infused_exactly(ts, amounts, duration, lag, k=K):
    return by_superposition(TIMES, k["gone"], ts + lag, amounts, duration)


@pytest.mark.parametrize("method", KINDS)
def test_infusions(method, platform):
    tolerances = {} if "dt0" in KINDS[method] else {"rtol": 1e-10, "atol": 1e-10}
    found = infused(*SLOWLY, method=method, **KINDS[method], **tolerances)
    np.testing.assert_allclose(found, infused_exactly(*SLOWLY), atol=2e-6)


def test_infusions_in_float32():
    y0 = jax.tree.map(np.float32, EMPTY)
    found = infused(*SLOWLY, y0=y0, rtol=1e-6, atol=1e-6)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, infused_exactly(*SLOWLY), atol=2e-4)


@pytest.mark.parametrize("method", ["tsit5", "rodas5p"])
def test_derivatives_of_infusions(method):
    every = tuple(range(5))
    expected = jax.jit(jax.jacfwd(infused_exactly, every))(*SLOWLY, K)
    for derivative in (jax.jacrev, jax.jacfwd):
        found = jax.jit(derivative(lambda *at: infused(*at, method=method), every))(*SLOWLY, K)
        jax.tree.map(lambda one, other: np.testing.assert_allclose(one, other, rtol=1e-4, atol=2e-5), found, expected)


def test_second_derivatives_of_infusions():
    """Of doses at once, too."""

    def of(function):
        return lambda *at: function(SLOWLY[0], *at)[3]

    every = (0, 1, 2)
    expected = jax.jit(jax.hessian(of(infused_exactly), every))(*SLOWLY[1:])
    found = jax.jit(jax.jacfwd(jax.grad(of(infused), every), every))(*SLOWLY[1:])
    jax.tree.map(lambda one, other: np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5), found, expected)


def test_infusions_of_lanes():
    ts = np.array([[0.0, 8.0], [5.0, np.inf]])

    def lane(ts, rate):
        return run(Doses(ts, 10.0, into=blood, rate=rate)).ys["blood"]

    found = jax.jit(jax.vmap(lane))(ts, np.array([2.0, 4.0]))
    first = by_superposition(TIMES, K["gone"], ts[0], np.array([10.0, 10.0]), np.array([5.0, 5.0]))
    second = by_superposition(TIMES, K["gone"], ts[1, :1], np.array([10.0]), np.array([2.5]))
    np.testing.assert_allclose(found, [first, second], atol=1e-6)


def test_a_reset_ends_an_infusion():
    found = run((Doses(2.0, 10.0, into=blood, duration=10.0), Resets(4.0)))
    np.testing.assert_allclose(found.ys["blood"][1:], 0, atol=1e-12)


@pytest.mark.parametrize("method", ["tsit5", "rodas5p"])
def test_infusions_beside_drivers(method):
    """Of a constant driver, which infuses as much into the gut as the doses do into the blood."""
    driver = Driver(t0=0.0, dt=30.0, values=[0.7, 0.7])

    def f(t, y, k, u):
        slopes = absorption(t, y, k)
        return {**slopes, "gut": slopes["gut"] + u}

    settings = {"rtol": 1e-10, "atol": 1e-10, "method": method, "saveat": SaveAt(ts=TIMES)}
    found = solve(f, 0.0, 30.0, EMPTY, K, drivers=driver, doses=Doses(0.0, 21.0, into=blood, duration=30.0), **settings)
    np.testing.assert_allclose(found.ys["gut"], 0.7 / 1.5 * -np.expm1(-1.5 * TIMES), atol=1e-8)
    total = 1.4 / K["gone"] * -np.expm1(-K["gone"] * TIMES)
    lost = 0.7 / 1.4 * (np.exp(-K["gone"] * TIMES) - np.exp(-1.5 * TIMES))
    np.testing.assert_allclose(found.ys["blood"], total - lost, atol=1e-7)


def test_jacobians_know_nothing_of_infusions():
    """Neither the user's, which is checked against f's, nor the pattern of a sparse one."""

    def chain(t, y, k):
        return jnp.concatenate([-y[:1], y[:-1] - y[1:]])

    n = 30
    doses = Doses([0.5, 1.0], [3.0, 2.0], into=lambda y: y[7], duration=[0.7, 0.0])
    options = {"method": "rodas5p", "doses": doses, "rtol": 1e-8, "atol": 1e-8}
    plain = solve(chain, 0.0, 2.0, jnp.zeros(n), **options).ys
    jac = jnp.diag(-jnp.ones(n)) + jnp.diag(jnp.ones(n - 1), -1)
    given = solve(chain, 0.0, 2.0, jnp.zeros(n), jac=lambda t, y, k: jac, **options).ys
    np.testing.assert_allclose(plain, given, rtol=1e-6, atol=1e-9)
    dense = solve(chain, 0.0, 2.0, jnp.zeros(n), linear_solver="dense", **options).ys
    np.testing.assert_allclose(plain, dense, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(plain[0].sum(), 5, rtol=1e-6)


def test_saved_functions_under_infusions():
    saved = SaveAt(ts=TIMES, fn=lambda t, y, k: (t, y["blood"] / 2))
    times, half = run(Doses(SLOWLY[0], SLOWLY[1], into=blood, duration=SLOWLY[2]), saveat=saved).ys
    assert times.tolist() == TIMES.tolist()
    np.testing.assert_allclose(2 * half, by_superposition(TIMES, K["gone"], *SLOWLY[:3]), atol=1e-6)


# --- Sides


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_sides_of_a_dose(dtype):
    """Where a dose lies on a save time, at t0 too; at t1 it is not given."""
    ts = np.array([0.0, 0.0, 5.0, 5.0, 10.0])

    def at(side, tolerance=1e-6):
        y0 = jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype), EMPTY)
        doses = Doses([0.0, 5.0, 10.0], 8.0, into=gut)
        return run(doses, y0=y0, t1=10.0, saveat=SaveAt(ts=ts, side=side), rtol=tolerance, atol=tolerance)

    kept = 8 * np.exp(-1.5 * 5)
    before, behind = [0, 0, kept, kept, kept], [8, 8, 8 + kept, 8 + kept, kept]
    for side, expected in (
        ("left", before), ("right", behind), ([False, True] * 2 + [True], [0, 8, kept, 8 + kept, kept]),
    ):  # fmt: skip
        found = at(side)
        assert all_are(found, "successful") and found.ts.tolist() == ts.tolist()
        np.testing.assert_allclose(found.ys["gut"], expected, atol=2e-5)
    assert code(at([True, False] * 2 + [True])) == CODES["invalid_input"]  # not in order


def test_derivatives_on_the_right():
    def solved(time, amount):
        return run(Doses(time, amount, into=gut), saveat=SaveAt(ts=jnp.stack([time, time + 1]), side="right")).ys["gut"]

    for derivative in (jax.jacfwd, jax.jacrev):
        by_time, by_amount = jax.jit(derivative(solved, (0, 1)))(3.0, 8.0)
        np.testing.assert_allclose(by_time, [0, 0], atol=1e-7)
        np.testing.assert_allclose(by_amount, [1, np.exp(-1.5)], rtol=1e-7)


def test_a_table():
    """The observation at 8 sees what was given then: the additional dose stands above it; that at 20 the one below it not."""
    columns = dict(
        ID=[1, 1, 1, 1, 2, 2], TIME=[0, 8, 20, 20, 5, 12], AMT=[100, 0, 0, 7, 30, 0], II=[8, 0, 0, 0, 0, 0],
        ADDL=[1, 0, 0, 0, 0, 0],
    )  # fmt: skip
    table = read_dose_table(columns, gut)

    def lane(lane, lag):
        saveat = SaveAt(ts=lane.ts, side=lane.side)
        return run_between(lane.t0, lane.t1, lane.doses(lag=lag), saveat).ys

    def run_between(t0, t1, doses, saveat):
        return solve(absorption, t0, t1, EMPTY, K, doses=doses, saveat=saveat, rtol=1e-9, atol=1e-9)

    found = jax.vmap(lane, (0, None))(table, 0.5)["blood"]
    np.testing.assert_allclose(found[0], in_blood(table.ts[0], [0.5, 8.5], 100.0, K), rtol=1e-6)
    np.testing.assert_allclose(found[1], in_blood(table.ts[1], [5.5], 30.0, K), rtol=1e-6)
    in_gut = jax.vmap(lane, (0, None))(table, 0.0)["gut"]
    np.testing.assert_allclose(in_gut[0], [100 + 100 * np.exp(-12), 100 * np.exp(-18)], rtol=1e-5, atol=1e-8)


@pytest.mark.usefixtures("x64")
def test_a_table_that_jitted_code_closes_over():
    """It has NumPy's arrays, and a vmap goes over them in there."""
    table = read_dose_table(dict(ID=[1, 1, 2, 2], TIME=[0, 8, 1, 9], AMT=[100, 0, 50, 0]), gut)
    areas = {"area": Summary.integral(of=lambda t, y, k: y["gut"])}

    def lane(lane, lag):
        given = dict(doses=lane.doses(lag=lag), saveat=SaveAt(ts=lane.ts, side=lane.side), summaries=areas)
        return solve(absorption, lane.t0, lane.t1, EMPTY, K, **given)

    found = jax.jit(lambda lag: jax.vmap(lambda one: lane(one, lag))(table))(0.5)
    np.testing.assert_allclose(found.ys["gut"][:, 0] + K["absorbed"] * found.summaries["area"], [100.0, 50.0], rtol=1e-5)


def test_covariates_of_a_table_are_drivers():
    """Elimination goes with a covariate, which holds from its record on."""
    columns = dict(ID=[1, 1, 1, 2, 2], TIME=[0, 10, 20, 0, 12], AMT=[100, 0, 0, 30, 0], CL=[0.1, 0.3, 0.2, 0.5, 0.4])
    table = read_dose_table(columns, blood, covariates="CL")

    def lane(lane):
        driver = Driver(lane.covariate_ts, lane.covariates["CL"], kind="previous")

        def f(t, y, k, u):
            return absorption(t, y, {**k, "gone": u})

        options = {"saveat": SaveAt(ts=lane.ts, side=lane.side), "rtol": 1e-10, "atol": 1e-10}
        return solve(f, lane.t0, lane.t1, EMPTY, K, drivers=driver, doses=lane.doses(), **options).ys["blood"]

    found = jax.jit(jax.vmap(lane))(table)
    np.testing.assert_allclose(found[0], 100 * np.exp([-1.0, -4.0]), rtol=1e-8)
    np.testing.assert_allclose(found[1], 30 * np.exp([-6.0, -6.0]), rtol=1e-8)


def test_without_float64():
    """Times far from 0 that are known in float64 are counted from t0 before they are rounded; traced ones are float32."""
    with jax.enable_x64(False):
        start = 2451545.0
        ts = start + np.array([0.25, 1.5])

        def at(ts, amount):
            doses = Doses(ts, amount, into=gut, duration=[0.0, 0.5])
            saveat = SaveAt(ts=start + np.array([1.0, 3.0]))
            return solve(absorption, start, start + 3, EMPTY, K, doses=doses, saveat=saveat, rtol=1e-6, atol=1e-6).ys["gut"]

        found = jax.jit(lambda amount: at(ts, amount))(8.0)
        late = by_superposition(np.array([1.0, 3.0]), 1.5, np.array([0.25, 1.5]), np.array([8.0, 8.0]), np.array([0.0, 0.5]))
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, late, rtol=1e-5)
        assert_same_bits(at(ts, 8.0), found)
        near = jax.jit(at)(start + np.array([0.25, 1.5]), 8.0)
        np.testing.assert_allclose(near, late, rtol=1e-5)


def test_what_is_refused():
    with pytest.raises(ValueError, match="names component 1 of y0, in whose column the mass matrix is 0"):
        run(Doses(1.0, 1.0, into=gut), method="rodas5p", mass=np.array([1.0, 0.0]))
    with pytest.raises(ValueError, match="names no component"):
        run(Doses(1.0, 1.0, into=lambda y: None))
    with pytest.raises(ValueError, match="t1 >= t0"):
        run(Doses(-1.0, 1.0, into=gut), t1=-2.0, saveat=SaveAt(t1=True))
    with pytest.raises(ValueError, match="controller='given' says itself"):
        solve(absorption, 0.0, 30.0, EMPTY, K, doses=Doses(1.0, 1.0, into=gut), controller="given", step_ends=np.array([30.0]))


def test_plans_without_doses_are_as_before():
    with_none, without = (Solver().inspect(absorption, 0.0, 1.0, EMPTY, K, doses=doses) for doses in (None, ()))
    assert with_none.key == without.key


def test_a_look_at_the_image():
    shapes = jax.eval_shape(lambda: Doses(jnp.zeros(3), jnp.zeros(3), into=gut, duration=jnp.zeros(3)))
    found = Solver().inspect(absorption, 0.0, 1.0, EMPTY, K, doses=shapes, batched=("y0", "doses"), target="cuda:90")
    assert found.registers and ".version" in found.ptx
