"""What goes wrong in integrators, and does not here: ends, times, codes, rejected steps, batches, directions, pytrees."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from solve_helpers import all_are, assert_same_bits, clock, code, decay, lorenz

from jax_cubie import SaveAt, Solver, solve
from jax_cubie.solution import CODES

LORENZ0 = np.array([1.0, 0.0, 0.0])


# --- The end is met, once


@pytest.mark.usefixtures("x64")
def test_last_fixed_step_lands_on_t1(platform):
    spans = [(0, 1, 0.3), (0, 1, 0.1), (0, 0.3, 0.1), (0, 1, 2.0), (0, 1, 1.0), (5, 6, 0.25), (-1, 1, 1 / 3), (0, 7, 0.7)]
    spans += [(2, 2 + 1e-9, 0.5), (0, 1, 1 / 49), (0, 100, 0.01), (1e6, 1e6 + 1, 0.125), (0, 1, 0.9999), (0, 1, 0.4999999999)]
    t0, t1, dt0 = (np.array(column, float) for column in zip(*spans, strict=True))
    expected = [4, 10, 3, 1, 1, 4, 6, 10, 1, 49, 10_000, 8, 2, 3]
    for method in ("rk4", "tsit5"):
        solver, saveat = Solver(method, controller="fixed"), SaveAt(t0=True, t1=True)
        for sign in (1, -1):  # t1 < t0 mirrors it
            solution = jax.vmap(
                lambda t0, t1, dt0, solver=solver, saveat=saveat: solver.solve(
                    clock, t0, t1, jnp.zeros(()), dt0=dt0, saveat=saveat
                )
            )(sign * t0, sign * t1, sign * dt0)
            assert all_are(solution, "successful")
            assert np.array_equal(solution.stats["num_steps"], expected)
            assert np.array_equal(solution.stats["num_accepted_steps"], expected)
            assert np.array_equal(solution.ts, sign * np.stack([t0, t1], 1))
            np.testing.assert_allclose(solution.ys[:, 1], sign * (t1 - t0), rtol=1e-12, atol=0)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("t0", "t1"), [(0, 1), (1, 0), (-1, 0), (-0.3, 0), (2, -1), (-3, 7)])
def test_as_many_fixed_steps_as_fit(platform, t0, t1, dtype):
    """The rounding of dt0 adds none, also where t1 is 0 and has no units in the last place to speak of."""
    steps = np.arange(1, 401)
    dt0 = ((dtype(t1) - dtype(t0)) / steps.astype(dtype)).astype(dtype)
    run = jax.vmap(lambda dt0: solve(decay, dtype(t0), dtype(t1), jnp.ones(1, dtype), dtype(1), method="euler", dt0=dt0))
    assert np.array_equal(run(dt0).stats["num_steps"], steps)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("limits", [{"dtmin": 0.25, "dtmax": 0.25}, {"dtmin": 0.25, "dtmax": 0.25, "dcoeff": 0.1}])
def test_too_large_an_error_at_dtmin(platform, limits):
    """Accepted if force_dtmin, and nothing else; the step stands at dtmin from the first one on."""

    def late(t, y, args):
        return 0 * y + jnp.cos(t * jnp.where(t > 0.6, 15.0, 0.01))

    for force_dtmin in (True, False):
        solver = Solver(rtol=1e-8, atol=1e-8, force_dtmin=force_dtmin, **limits)
        solution = solver.solve(late, 0.0, 3.0, jnp.ones(1), dt0=0.25)
        assert code(solution) == CODES["successful" if force_dtmin else "dt_min_reached"]
        assert solution.stats["num_accepted_steps"] == (12 if force_dtmin else 2)


@pytest.mark.usefixtures("x64")
def test_adaptive_end(platform):
    """Spans of all sizes end at t1: the time that has passed is the span."""
    spans = np.array([1e-12, 1e-6, 0.1, 1 / 3, 1.0, 7.7, 1e3, 1e8])
    starts = np.array([0.0, -1e-6, 0.5, -1 / 3, 1.0, 2.2, -5.0, 1e8])
    solution = jax.vmap(lambda t0, t1: solve(clock, t0, t1, jnp.zeros(2)))(starts, starts + spans)
    assert all_are(solution, "successful")
    passed = (starts + spans) - starts
    np.testing.assert_allclose(solution.ys[:, 0], np.stack([passed, passed], 1), rtol=1e-12)


def ticks(t, y, args):
    """Follows sin(t) closely, whatever came before: what counts is whether the time is right."""
    return 20 * (jnp.sin(t) - y)


@pytest.mark.parametrize("controller", ["fixed", "pid"])
def test_float32_time_does_not_drift(platform, controller):
    """10^6 steps of 1e-3, to which naive summing of float32 adds 9 time units; saved times among them."""
    settings = {"controller": "fixed"} if controller == "fixed" else {"dtmax": 1e-3, "rtol": 1.0, "atol": 1.0}
    times = np.concatenate([np.linspace(0, 1000, 401), [1000.0]]).astype(np.float32)
    solution = solve(
        ticks, 0.0, 1000.0, jnp.float32(0), dt0=1e-3, method="bosh3", max_steps=2_000_000, saveat=SaveAt(ts=times), **settings
    )
    assert all_are(solution, "successful") and solution.ys.dtype == np.float32
    assert abs(int(solution.stats["num_steps"]) - 1_000_000) <= 50  # 0.001 itself is rounded
    exact = times.astype(np.float64)
    follows = (400 * np.sin(exact) - 20 * np.cos(exact) + 20 * np.exp(-20 * exact)) / 401
    np.testing.assert_allclose(solution.ys, follows, atol=3e-4)  # the time's own last digit at 1000 is 6e-5


def test_float32_step_below_resolution(platform):
    """t0 = 1000 and dt = 1e-8 in float32, which time counted from t0 does resolve: ends with a code, in time."""
    ends = jnp.array([1001.0, 1000.001], jnp.float32)
    adaptive = jax.vmap(lambda t1: solve(decay, 1000.0, t1, jnp.float32(1), 1.0, dt0=1e-8, factormax=1.0))(ends)
    assert code(adaptive).tolist() == [CODES["max_steps_reached"], CODES["successful"]]
    assert np.isnan(adaptive.ys[0, 0])
    fixed = jax.vmap(lambda t1: solve(decay, 1000.0, t1, jnp.float32(1), 1.0, dt0=1e-8, controller="fixed"))(ends)
    # 1e8 and 98 thousand steps, of which 100 thousand are allowed.
    assert code(fixed).tolist() == [CODES["max_steps_reached"], CODES["successful"]]
    backwards = solve(decay, 1000.0, 999.0, jnp.float32(1), 1.0, dt0=-1e-8, factormax=1.0)
    assert all_are(backwards, "max_steps_reached")


# --- Every row is written, none beyond


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(("save_t0", "save_t1"), [(False, False), (True, True)])
def test_rows(platform, save_t0, save_t1):
    t0, t1 = 0.5, 2.5
    rows = [
        [0.5, 0.5, 0.5, 0.5, 0.5, 0.5],
        [2.5, 2.5, 2.5, 2.5, 2.5, 2.5],
        [0.5, 0.75, 1.0, 2.0, 2.5, 2.5],
        [0.5, 0.5, 1.0, 1.0, 2.5, 2.5],
        [np.nextafter(0.5, 1), 0.6, 0.7, 0.8, 0.9, np.nextafter(2.5, 0)],
        [1.0, 1.0, 1.0, np.nextafter(1.0, 2), 1.5, 1.5],
    ]
    ts = np.array(rows)

    def one(ts, t0, t1):
        saveat = SaveAt(t0=save_t0, t1=save_t1, ts=ts)
        return solve(lambda t, y, a: 3 * t**2 + 0 * y, t0, t1, t0**3 + jnp.zeros(3), saveat=saveat)

    many = jax.vmap(one, in_axes=(0, None, None))
    solution = many(ts, t0, t1)
    assert all_are(solution, "successful")
    expected = np.concatenate([np.full((6, int(save_t0)), t0), ts, np.full((6, int(save_t1)), t1)], axis=1)
    assert np.array_equal(solution.ts, expected)
    assert solution.ys.shape == (*expected.shape, 3)
    np.testing.assert_allclose(solution.ys, np.repeat(expected[..., None] ** 3, 3, -1), rtol=1e-11)
    # Distinct times have distinct, growing values; equal times have equal ones.
    moves = np.sign(np.diff(expected, axis=1))
    wide = np.abs(np.diff(expected, axis=1)) > 1e-9
    grows = np.sign(np.diff(np.asarray(solution.ys)[..., 0], axis=1))
    assert np.array_equal(grows[wide], moves[wide])
    assert not np.any(grows[moves == 0])
    # The same, the other way round.
    mirrored = jax.vmap(
        lambda ts: solve(
            lambda t, y, a: -3 * t**2 + 0 * y, -t0, -t1, t0**3 + jnp.zeros(3), saveat=SaveAt(t0=save_t0, t1=save_t1, ts=ts)
        )
    )(-ts)
    assert_same_bits(mirrored.ys, solution.ys)


@pytest.mark.usefixtures("x64")
def test_saving_changes_no_step(platform):
    plain = solve(lorenz, 0.0, 2.0, LORENZ0, 28.0)
    many = solve(lorenz, 0.0, 2.0, LORENZ0, 28.0, saveat=SaveAt(t0=True, ts=np.linspace(0, 2, 1001), t1=True))
    assert_same_bits(plain.stats, many.stats)
    assert_same_bits(plain.ys[0], many.ys[-1])
    assert_same_bits(many.ys[0], many.ys[1])
    assert_same_bits(many.ys[-1], many.ys[-2])
    assert np.array_equal(many.ys[0], LORENZ0)


# --- Each failure has its code


def trouble(t, y, kind):
    """0: decay. 1: NaN from t = 0.5 on. 2: infinite there. 3: blows up at t = 0.5. 4: NaN always. 5: stiff."""
    late = t > 0.5
    one = jnp.where(late, jnp.nan, -y)
    two = jnp.where(late, jnp.inf, -y)
    return jnp.select(
        [kind == 0, kind == 1, kind == 2, kind == 3, kind == 4], [-y, one, two, 2 * y * y, y * jnp.nan], -1e6 * (y - 2)
    )


def trouble_codes(dtype, **settings):
    saveat = SaveAt(t0=True, ts=np.array([0.25, 0.75]), t1=True)
    return jax.vmap(
        lambda kind: solve(trouble, 0.0, 1.0, jnp.ones(2, dtype), kind, saveat=saveat, max_steps=5000, **settings)
    )(jnp.arange(6))


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_codes_of_the_field(platform, dtype):
    solution = trouble_codes(dtype)
    names = {number: name for name, number in CODES.items()}
    assert [names[number] for number in code(solution).tolist()] == [
        "successful", "not_finite", "not_finite", "step_size_underflow", "not_finite", "max_steps_reached",
    ]  # fmt: skip
    ys = np.asarray(solution.ys)
    assert np.all(np.isfinite(ys[0])) and np.array_equal(ys[:, 0], np.ones((6, 2)))  # t0 is always there
    assert np.all(np.isfinite(ys[1:4, 1]))  # reached before the trouble
    assert np.all(np.isnan(ys[1:, 2:])) and np.all(np.isnan(ys[4, 1]))  # and not what comes after


@pytest.mark.usefixtures("x64")
def test_codes_of_fixed_steps(platform):
    solution = trouble_codes("float64", controller="fixed", dt0=0.01, method="rk4")
    names = {number: name for name, number in CODES.items()}
    assert [names[number] for number in code(solution).tolist()] == [
        "successful", "not_finite", "not_finite", "not_finite", "not_finite", "not_finite",
    ]  # fmt: skip
    assert np.all(np.isnan(np.asarray(solution.ys)[1:, 3]))


@pytest.mark.usefixtures("x64")
def test_codes_of_settings(platform):
    """A lane for each way that numbers can be wrong; with and without force_dtmin."""
    good = {
        "t0": 0.0, "t1": 1.0, "dt0": 0.01, "rtol": 1e-6, "atol": 1e-6, "dtmin": 0.0, "max_steps": 1000, "rho": 28.0,
        "y0": 1.0, "ts": 0.5,
    }  # fmt: skip
    nan, inf = np.nan, np.inf
    changes = [
        ({}, "successful"),
        ({"max_steps": 3}, "max_steps_reached"),
        ({"max_steps": 0}, "invalid_input"),
        ({"max_steps": -4}, "invalid_input"),
        ({"rtol": -1e-3}, "invalid_input"),
        ({"atol": nan}, "invalid_input"),
        ({"rtol": 0.0, "atol": 0.0}, "invalid_input"),
        ({"rtol": 0.0}, "successful"),
        ({"dt0": -0.01}, "invalid_input"),
        ({"dt0": 0.0}, "invalid_input"),
        ({"dt0": inf}, "invalid_input"),
        ({"dt0": nan}, "invalid_input"),
        ({"t1": -1.0, "ts": -0.5}, "invalid_input"),  # dt0 points the other way
        ({"t1": -0.1, "ts": -0.05, "dt0": -0.01}, "successful"),
        ({"t0": nan}, "invalid_input"),
        ({"t1": inf}, "invalid_input"),
        ({"t1": nan}, "invalid_input"),
        ({"ts": 1.5}, "invalid_input"),
        ({"ts": -0.5}, "invalid_input"),
        ({"ts": nan}, "invalid_input"),
        ({"y0": nan}, "not_finite"),
        ({"y0": inf}, "not_finite"),
        ({"rho": nan}, "not_finite"),
        ({"t1": 0.0, "ts": 0.0}, "successful"),
        ({"t1": 0.0, "ts": 0.0, "y0": nan}, "not_finite"),
        ({"dtmin": 0.05, "rtol": 1e-12, "atol": 1e-12}, {True: "successful", False: "dt_min_reached"}),
    ]
    columns = {name: np.array([change.get(name, value) for change, _ in changes]) for name, value in good.items()}

    for force in (True, False):

        @jax.vmap
        def one(c, force=force):
            solver = Solver(rtol=c["rtol"], atol=c["atol"], dtmin=c["dtmin"], max_steps=c["max_steps"], force_dtmin=force)
            y0 = jnp.stack([c["y0"], 0.0, 0.0])
            saveat = SaveAt(ts=jnp.stack([c["ts"]]), t1=True)
            return solver.solve(lorenz, c["t0"], c["t1"], y0, c["rho"], dt0=c["dt0"], saveat=saveat)

        solution = one(columns)
        names = {number: name for name, number in CODES.items()}
        for (change, expected), number, ys in zip(changes, code(solution).tolist(), np.asarray(solution.ys), strict=True):
            expected = expected[force] if isinstance(expected, dict) else expected
            assert names[number] == expected, (change, names[number], expected)
            assert np.all(np.isfinite(ys[-1])) == (expected == "successful"), (change, ys)
        steps = solution.stats["num_steps"]
        assert int(steps[1]) == 3 and int(steps[2]) == 0
        assert np.array_equal(solution.stats["max_steps"], columns["max_steps"])
        assert np.array_equal(steps, solution.stats["num_accepted_steps"] + solution.stats["num_rejected_steps"])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.usefixtures("x64")
def test_impossible_tolerance(platform, dtype):
    """A jump that no step size that the dtype holds can resolve; before it, nothing happens, and no error is made."""

    def field(t, y, args):
        return jnp.where(t < 0.3, 0 * y, 1e8)

    atol, saveat = {"float32": 1e-10, "float64": 1e-16}[dtype], SaveAt(t1=True, ts=np.array([0.1]))
    solution = solve(field, 0.0, 1.0, jnp.ones(2, dtype), rtol=0.0, atol=atol, saveat=saveat)
    assert all_are(solution, "step_size_underflow")
    assert np.array_equal(solution.ys[0], [1, 1]) and np.all(np.isnan(solution.ys[1]))


COEFFICIENTS = {
    "safety": (0.9, [0.0, -1.0, 1.5, np.nan]), "factormin": (0.2, [0.0, 1.5, np.nan]), "factormax": (10.0, [0.5, np.nan]),
    "icoeff": (1.0, [np.inf, np.nan]), "pcoeff": (0.1, [-np.inf, np.nan]), "dcoeff": (0.1, [np.nan]),
    "dtmin": (0.0, [-1.0, np.nan, np.inf]), "dtmax": (1.0, [0.0, -1.0, np.nan]), "atol": (1e-6, [-1.0, np.nan]),
}  # fmt: skip


def test_codes_of_the_controllers_numbers(platform):
    """Traced, each is held to the range that is asked of it where it is known."""
    good = {name: value for name, (value, _) in COEFFICIENTS.items()}
    changes = [{}, {"dtmin": 0.5, "dtmax": 0.25}, {"factormax": np.inf}, {"dtmax": np.inf}]
    changes += [{name: value} for name, (_, bad) in COEFFICIENTS.items() for value in bad]
    columns = {name: np.array([change.get(name, value) for change in changes]) for name, value in good.items()}
    solution = jax.vmap(lambda c: solve(lorenz, 0.0, 0.5, LORENZ0, 28.0, **c))(columns)
    expected = ["successful", "invalid_input", "successful", "successful"] + ["invalid_input"] * (len(changes) - 4)
    assert code(solution).tolist() == [CODES[name] for name in expected]
    for change in changes[4:]:
        with pytest.raises(ValueError, match=f"{next(iter(change))}=.*: expected a"):
            Solver(**change)


def test_order_of_traced_times(platform):
    """Times out of order are found before t0, at it, in between and behind."""
    ts = np.array([[0.2, 0.5, 0.8], [-0.5, -0.7, 0.5], [0.0, -0.1, 0.5], [0.2, 0.6, 0.5], [0.2, 1.5, 1.0]], np.float32)
    solution = jax.vmap(lambda ts: solve(lorenz, 0.0, 1.0, LORENZ0, 28.0, saveat=SaveAt(ts=ts)))(ts)
    assert code(solution).tolist() == [CODES["successful"], *[CODES["invalid_input"]] * 4]


def test_more_steps_than_float32_counts(platform):
    """2^24 + 1 is no float32; a limit of that is still held to."""
    limits = np.array([2**24 + 1, 2**31 - 1])
    run = lambda limit: solve(clock, 0.0, 1.0, jnp.float32(0), dt0=2.0**-25, method="euler", max_steps=limit)  # noqa: E731
    solution = jax.vmap(run)(limits)
    assert code(solution).tolist() == [CODES["max_steps_reached"], CODES["successful"]]
    steps = solution.stats["num_steps"].tolist()
    assert steps[0] == 2**24 + 1 and 2**25 - 400 < steps[1] <= 2**25  # the last ones before t1 are one


def test_rejected_to_the_end(platform):
    """A jump a few roundings before t1: steps become shorter until there are none, in time."""
    jump = np.nextafter(np.float32(1), np.float32(0))
    field = lambda t, y, a: jnp.where(t < jump, 0 * y, 1.0)  # noqa: E731
    for safety in (0.9, 1.0):
        solution = solve(field, 0.0, 1.0, jnp.float32(0), rtol=0.0, atol=1e-15, safety=safety)
        assert all_are(solution, "step_size_underflow") and int(solution.stats["num_steps"]) < 400


def test_without_jit(platform):
    """jax.disable_jit is for the code around a solve; the solve is one operation."""
    run = lambda rho: solve(lorenz, 0.0, 1.0, LORENZ0, rho).ys  # noqa: E731
    rhos = np.array([28.0, 10.0], np.float32)
    with jax.disable_jit():
        one, many = run(28.0), jax.vmap(run)(rhos)
    assert np.array_equal(one, run(28.0)) and np.array_equal(many, jax.vmap(run)(rhos))


@pytest.mark.usefixtures("x64")
def test_integers_of_args(platform):
    """A Python integer is JAX's default integer, so that large ones keep their digits."""
    solution = solve(lambda t, y, a: 0 * y + (a - (2**40 - 3)), 0.0, 1.0, jnp.zeros(1), 2**40, dt0=0.5, method="euler")
    assert solution.ys[-1] == 3


@pytest.mark.parametrize("dtype", ["int8", "int64", "uint32", "uint64"])
@pytest.mark.usefixtures("x64")
def test_the_widest_max_steps(dtype):
    """A traced max_steps is held to what an int32 holds, and stats tell what was held to."""
    limit = np.array(np.iinfo(dtype).max, dtype)
    found = jax.jit(lambda limit: solve(lorenz, 0.0, 0.01, LORENZ0, 28.0, max_steps=limit))(limit)
    assert code(found).tolist() == 0 and int(found.stats["max_steps"]) == min(int(limit), 2**31 - 1)


@pytest.mark.usefixtures("x64")
def test_max_steps_is_enough_or_not(platform):
    """A solve of n steps succeeds with max_steps = n, and not with n - 1."""
    free = solve(lorenz, 0.0, 1.0, LORENZ0, 28.0)
    steps = int(free.stats["num_steps"])
    limits = np.array([steps - 1, steps, steps + 1])
    solution = jax.vmap(lambda limit: solve(lorenz, 0.0, 1.0, LORENZ0, 28.0, max_steps=limit))(limits)
    assert code(solution).tolist() == [CODES["max_steps_reached"], 0, 0]
    assert_same_bits(solution.ys[1], free.ys)
    fixed = jax.vmap(
        lambda limit: solve(lorenz, 0.0, 1.0, LORENZ0, 28.0, method="rk4", dt0=0.1, controller="fixed", max_steps=limit)
    )(np.array([9, 10, 11]))
    assert code(fixed).tolist() == [CODES["max_steps_reached"], 0, 0]
    assert np.asarray(fixed.stats["num_steps"]).tolist() == [9, 10, 10]


@pytest.mark.usefixtures("x64")
def test_transient_failure_mends(platform):
    """f is NaN only where too large a step looks: a smaller step mends it, and the solve succeeds."""

    def field(t, y, args):
        return jnp.where(y < 0, jnp.nan, -jnp.sqrt(y))

    solution = solve(field, 0.0, 1.0, jnp.ones(1), dt0=8.0, rtol=1e-8, atol=1e-8)
    assert all_are(solution, "successful") and int(solution.stats["num_rejected_steps"]) > 0
    np.testing.assert_allclose(solution.ys[0, 0], 0.25, rtol=1e-6)


# --- A rejected step leaves no trace


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("method", ["heun", "bosh3", "dopri5", "tsit5"])
def test_rejected_step_leaves_no_trace(platform, method):
    """Begun with a step k times too large, rejected and cut by factormin = 1/4 each time: bit for bit the solve that begins
    with what is left. All memory of the controller is in use."""
    first, t1 = (0.001, 1.0) if method in ("heun", "bosh3") else (0.004, 2.0)
    starts = first * np.array([1.0, 4.0, 16.0, 64.0, 256.0])
    saveat = SaveAt(ts=np.linspace(0, 1, 7), t1=True)
    settings = {"pcoeff": 0.3, "icoeff": 0.4, "dcoeff": 0.1, "factormin": 0.25, "rtol": 1e-11, "atol": 1e-11}
    if method == "heun":
        settings |= {"rtol": 1e-8, "atol": 1e-8}

    def one(dt0):
        return solve(lorenz, 0.0, t1, LORENZ0 + 3, 28.0, dt0=dt0, method=method, saveat=saveat, **settings)

    solution = jax.vmap(one)(starts)
    assert all_are(solution, "successful")
    rejected = np.asarray(solution.stats["num_rejected_steps"])
    assert np.array_equal(rejected - rejected[0], [0, 1, 2, 3, 4])
    for lane in range(1, 5):
        assert_same_bits(solution.ys[lane], solution.ys[0], f"{lane} steps rejected")
    stats = {name: np.asarray(value) for name, value in solution.stats.items()}
    assert len(set(stats["num_accepted_steps"].tolist())) == 1
    # A rejected step evaluates its stages but the first, and nothing at its end.
    stages, last_is_first = {"heun": (2, False), "bosh3": (4, True)}.get(method, (7, True))
    extra = 0 if last_is_first else stats["num_accepted_steps"]
    assert np.array_equal(stats["nfev"], 1 + (stages - 1) * stats["num_steps"] + extra)


# --- Batches and neighbours


@pytest.mark.parametrize("method", ["tsit5", "rk4"])
def test_batch_sizes_and_neighbours(platform, method):
    """Lane by lane the same bits, whatever the batch and whoever the neighbours are; some of those are poisoned."""
    fixed = {"dt0": 0.01} if method == "rk4" else {}
    solve_lanes = jax.jit(
        jax.vmap(
            lambda rho, y0: solve(
                lorenz, 0.0, 0.5, y0, rho, method=method, max_steps=300, saveat=SaveAt(ts=np.array([0.1, 0.5])), **fixed
            )
        )
    )
    largest = 1_000_001 if platform == "cuda" else 100_001
    rho = np.linspace(0, 28, largest).astype(np.float32)
    y0 = np.stack([np.ones(largest), np.zeros(largest), np.zeros(largest)], 1).astype(np.float32)
    every = solve_lanes(rho, y0)
    assert all_are(every, "successful")
    reference = jax.tree.map(np.asarray, every)
    for size in (1, 31, 32, 33, 129, 1000):
        for start in (0, largest - size):
            part = slice(start, start + size)
            assert_same_bits(
                solve_lanes(rho[part], y0[part]), jax.tree.map(lambda leaf, p=part: leaf[p], reference), f"{size} from {start}"
            )
    none = solve_lanes(rho[:0], y0[:0])
    assert none.ys.shape == (0, 2, 3) and code(none).shape == (0,)
    assert none.stats["num_steps"].shape == (0,)

    poisoned_rho, poisoned_y0 = rho[:1000].copy(), y0[:1000].copy()
    poisoned_rho[::3] = np.nan
    poisoned_y0[1::7] = np.inf
    bad = ~(np.isfinite(poisoned_rho) & np.isfinite(poisoned_y0).all(1))
    solution = solve_lanes(poisoned_rho, poisoned_y0)
    assert_same_bits(
        jax.tree.map(lambda leaf: np.asarray(leaf)[~bad], solution), jax.tree.map(lambda leaf: leaf[:1000][~bad], reference)
    )
    assert np.all(code(solution)[bad] != 0) and np.all(code(solution)[~bad] == 0)


@pytest.mark.usefixtures("x64")
def test_nothing_to_save_in_an_empty_batch_of_two_levels(platform):
    empty = jax.vmap(jax.vmap(lambda rho: solve(lorenz, 0.0, 0.5, LORENZ0, rho)))(np.zeros((3, 0)))
    assert empty.ys.shape == (3, 0, 1, 3)
    other = jax.vmap(jax.vmap(lambda rho: solve(lorenz, 0.0, 0.5, LORENZ0, rho)))(np.zeros((0, 3)))
    assert other.ys.shape == (0, 3, 1, 3)


# --- Directions


@pytest.mark.usefixtures("x64")
def test_backwards(platform):
    """From t0 to t1 < t0 is bit for bit the mirrored problem forwards; there and back again gives what was."""

    def field(t, y, args):
        return jnp.stack([y[1] * jnp.sin(t), -y[0]])

    def mirrored(s, y, args):
        return -field(-s, y, args)

    y0, ts = np.array([1.0, 0.5]), np.array([1.0, 0.3, -0.2, -1.0])
    saveat, turned = SaveAt(t0=True, ts=ts, t1=True), SaveAt(t0=True, ts=-ts, t1=True)
    for method, dt0 in (("tsit5", None), ("bosh3", -0.1), ("rk4", -0.03)):
        back = solve(field, 1.0, -1.0, y0, method=method, dt0=dt0, saveat=saveat)
        forth = solve(mirrored, -1.0, 1.0, y0, method=method, dt0=None if dt0 is None else -dt0, saveat=turned)
        assert all_are(back, "successful")
        assert_same_bits(back.ys, forth.ys, method)
        assert_same_bits(back.stats, forth.stats, method)
        assert np.array_equal(back.ts, [1.0, *ts, -1.0])
    there = solve(field, -1.0, 1.0, y0, rtol=1e-11, atol=1e-11)
    again = solve(field, 1.0, -1.0, there.ys[0], rtol=1e-11, atol=1e-11)
    np.testing.assert_allclose(again.ys[0], y0, rtol=1e-9)


@pytest.mark.usefixtures("x64")
def test_no_span(platform):
    saveat = SaveAt(t0=True, ts=np.array([2.0, 2.0]), t1=True)
    for settings in ({}, {"dt0": 0.1}, {"dt0": -0.1, "method": "rk4"}):
        solution = solve(lorenz, 2.0, 2.0, LORENZ0, 28.0, saveat=saveat, **settings)
        assert all_are(solution, "successful")
        assert np.array_equal(solution.ys, np.tile(LORENZ0, (4, 1)))
        assert int(solution.stats["num_steps"]) == 0 and int(solution.stats["nfev"]) == 0


# --- Pytrees, scalars, statics


class Spring(eqx.Module):
    stiffness: jax.Array
    name: str
    order: tuple
    shift: float = 0.0

    def __call__(self, x):
        assert self.name == "spring"
        return -self.stiffness * (x - self.shift)


@pytest.mark.usefixtures("x64")
def test_pytrees_map_by_structure(platform):
    """Leaves whose flat order is not the order in which they are written, of several shapes; an empty one and None too."""

    def field(t, y, args):
        assert args["label"] == "static" and args["nothing"] is None and args["odd"].order == ("a", "b")
        return {
            "z": -args["rates"][1] * y["z"],
            "b": (y["b"][1] * args["count"], args["odd"](y["b"][0])),
            "a": y["a"] @ args["matrix"] + args["empty"].sum(),
            "e": y["e"] * 2,
        }

    matrix = np.array([[0.0, 1.0], [-1.0, 0.0]])
    y0 = {"z": jnp.ones((2, 3)), "b": (1.0, 0.0), "a": jnp.array([1.0, 0.0]), "e": jnp.zeros((0, 4))}
    args = {
        "rates": [5.0, 2], "odd": Spring(jnp.array(1.0), "spring", ("a", "b")), "matrix": matrix, "count": np.int32(1),
        "empty": jnp.zeros((0,)), "label": "static", "nothing": None,
    }  # fmt: skip
    solution = solve(field, 0.0, 1.0, y0, args, rtol=1e-10, atol=1e-10, saveat=SaveAt(t0=True, t1=True))
    assert all_are(solution, "successful")
    assert jax.tree.structure(solution.ys) == jax.tree.structure(y0)
    shapes = jax.tree.map(lambda leaf: leaf.shape, solution.ys)
    assert shapes == {"z": (2, 2, 3), "b": ((2,), (2,)), "a": (2, 2), "e": (2, 0, 4)}
    np.testing.assert_allclose(solution.ys["z"][1], np.full((2, 3), np.exp(-2)), rtol=1e-9)
    np.testing.assert_allclose(solution.ys["b"][0], [1, np.cos(1)], rtol=1e-9)
    np.testing.assert_allclose(solution.ys["b"][1], [0, -np.sin(1)], rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(solution.ys["a"][1], [np.cos(1), np.sin(1)], rtol=1e-9)


def test_dtypes(platform):
    """The dtype is y0's; Python numbers adapt to it; integers of y0 become the default float, those of args stay."""

    def field(t, y, args):
        assert jnp.issubdtype(args["n"].dtype, jnp.integer) and args["flag"].dtype == bool
        return jnp.where(args["flag"], -args["rate"] * y * args["n"], 0)

    args = {"rate": 0.5, "n": np.array(2, np.int32), "flag": np.array(True)}
    for y0, dtype in ((np.float32(1), "float32"), (1, "float32"), (1.0, "float32"), (np.int32(1), "float32")):
        solution = solve(field, 0, 1, y0, args)
        assert solution.ys.dtype == dtype and solution.ts.dtype == dtype and solution.t1.dtype == dtype
        np.testing.assert_allclose(solution.ys, [np.exp(-1)], rtol=1e-5)
    with jax.enable_x64(True):
        for y0, dtype in ((np.float32(1), "float32"), (1, "float64"), (1.0, "float64"), (np.ones(()), "float64")):
            solution = solve(field, 0, 1, y0, args, rtol=1e-6)
            assert solution.ys.dtype == dtype and solution.ts.dtype == dtype, y0
            np.testing.assert_allclose(solution.ys, [np.exp(-1)], rtol=1e-5)


@pytest.mark.usefixtures("x64")
def test_closures(platform):
    """f may close over arrays, NumPy's and JAX's, known and traced, and over modules; it may be a module itself."""
    known, host = jnp.array([1.0, 2.0]), np.array([3.0, 0.5])
    index = np.array([1, 0])

    def make(traced):
        return lambda t, y, args: -known * y * traced + host[index] * y[index] * 0

    values = jnp.array([0.5, 1.0, 2.0])
    solution = jax.jit(jax.vmap(lambda traced: solve(make(traced), 0.0, 1.0, jnp.ones(2), rtol=1e-9, atol=1e-9)))(values)
    np.testing.assert_allclose(solution.ys[:, 0], np.exp(-values[:, None] * known[None]), rtol=1e-7)

    class Field(eqx.Module):
        rate: jax.Array
        power: int

        def __call__(self, t, y, args):
            return -(self.rate**self.power) * y

    module = jax.vmap(lambda rate: solve(Field(rate, 2), 0.0, 1.0, jnp.ones(()), rtol=1e-9, atol=1e-9))(values)
    np.testing.assert_allclose(module.ys[:, 0], np.exp(-(values**2)), rtol=1e-7)


@pytest.mark.usefixtures("x64")
def test_tolerances_for_each_component(platform):
    """A component whose tolerance is loose takes no part; a pytree of tolerances maps by structure."""
    y0 = {"slow": jnp.ones(()), "fast": jnp.ones(2)}

    def field(t, y, args):
        return {"slow": -y["slow"], "fast": jnp.cos(300 * t) * y["fast"]}

    loose = {"slow": 1e-6, "fast": 1e6}
    tight = {"slow": 1e-6, "fast": 1e-6}
    mixed = {"slow": 1e-6, "fast": jnp.array([1e-6, 1e6])}
    few, many, some = (
        int(solve(field, 0.0, 1.0, y0, rtol=t, atol=t).stats["num_steps"]) for t in (loose, tight, mixed)
    )
    assert few < 30 < some <= many
    vector = solve(lorenz, 0.0, 1.0, LORENZ0, 28.0, rtol=np.full(3, 1e-6), atol=np.full(3, 1e-6))
    assert_same_bits(vector.ys, solve(lorenz, 0.0, 1.0, LORENZ0, 28.0).ys)


@pytest.mark.parametrize(
    ("rate", "t1", "y0", "atol"),
    [(1.0, 1.0, [1.0, 0.0], 1e-20), (1.0, 1.0, [1e14, 0.0], 1e-6), (1e14, 1e-14, [1.0, 1.0], 1e-6)],
    ids=["tolerance", "state", "rate"],
)
def test_first_step_where_squares_overflow(platform, rate, t1, y0, atol):
    """The norms of Hairer's first step are beyond float32 when squared, though nothing else is."""
    y0 = np.array(y0, np.float32)
    solution = solve(lambda t, y, k: k * jnp.stack([-y[0], y[0]]), 0.0, t1, y0, np.float32(rate), atol=atol)
    assert all_are(solution, "successful")
    left = y0[0] * np.exp(-1.0)
    np.testing.assert_allclose(solution.ys[-1], [left, y0[0] - left + y0[1]], rtol=3e-6)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("start", [0.0, 1.0])
def test_first_step_where_f_is_not_finite(platform, value, start):
    solution = solve(lambda t, y, bad: y + bad, 0.0, 1.0, np.full(2, start, np.float32), np.float32(value))
    assert all_are(solution, "not_finite") and solution.stats["num_steps"] == 0
