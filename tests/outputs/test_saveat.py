"""What is saved: steps, functions of the state, and all kinds together, in the order of time."""

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest
from solve_helpers import all_are, assert_same_bits, code

from jax_cubie import SaveAt, Solver, solve
from jax_cubie.kernel import library
from jax_cubie.solution import CODES

Y0 = np.array([1.0, 0.3], np.float32)
MAX_STEPS = 60


def turn(t, y, rate):
    """Turns around the origin with the angular velocity `rate * (1 + t)`."""
    return rate * (1 + t) * jnp.stack([y[1], -y[0]])


def exact(t, rate, y0=Y0):
    angle = rate * (t + t * t / 2)
    return np.stack([y0[0] * np.cos(angle) + y0[1] * np.sin(angle), y0[1] * np.cos(angle) - y0[0] * np.sin(angle)], -1)


def saved(start=0.0, stop=2.0, rate=1.5, *, max_steps=MAX_STEPS, **what):
    options = dict(method="dopri5", max_steps=max_steps, rtol=1e-5, atol=1e-5)
    return solve(turn, start, stop, Y0, rate, saveat=SaveAt(**what), **options)


def test_every_step(platform):
    solution = saved(steps=True)
    steps = int(solution.stats["num_accepted_steps"])
    assert solution.ts.shape == (MAX_STEPS,) and solution.ys.shape == (MAX_STEPS, 2) and 5 < steps < MAX_STEPS
    ts, ys = np.asarray(solution.ts), np.asarray(solution.ys)
    assert np.all(np.diff(ts[:steps]) > 0) and ts[0] > 0 and ts[steps - 1] == 2.0
    np.testing.assert_allclose(ys[:steps], exact(ts[:steps].astype(float), 1.5), atol=2e-4)
    assert np.all(ts[steps:] == np.inf) and np.all(ys[steps:] == np.inf)
    end = solve(turn, 0.0, 2.0, Y0, 1.5, method="dopri5", rtol=1e-5, atol=1e-5)
    assert_same_bits(solution.ys[steps - 1], end.ys[-1])


@pytest.mark.parametrize("every", [2, 3, 50])
def test_every_nth_step(platform, every):
    """Rows of every step, thinned; with t1, its row follows unless a saved step has ended there."""
    runs = saved(steps=1), saved(steps=every), saved(steps=every, t1=True, t0=True)
    all_steps, thin, with_t1 = (jax.tree.map(np.asarray, run) for run in runs)
    steps = int(all_steps.stats["num_accepted_steps"])
    kept = np.arange(every - 1, steps, every)
    rows = MAX_STEPS // every
    assert thin.ts.shape == (rows,)
    assert_same_bits((thin.ts[: len(kept)], thin.ys[: len(kept)]), (all_steps.ts[kept], all_steps.ys[kept]))
    assert np.all(np.isinf(thin.ts[len(kept) :]))
    ended = [] if steps % every == 0 else [steps - 1]
    kept = np.array([*kept, *ended], int)
    assert with_t1.ts.shape == (1 + rows + (MAX_STEPS % every != 0),)
    assert with_t1.ts[0] == 0 and np.array_equal(with_t1.ys[0], Y0)
    assert_same_bits((with_t1.ts[1 : 1 + len(kept)], with_t1.ys[1 : 1 + len(kept)]), (all_steps.ts[kept], all_steps.ys[kept]))
    assert np.all(np.isinf(with_t1.ys[1 + len(kept) :]))


def test_rows_of_all_kinds_stand_in_order(platform):
    times = np.array([0.0, 0.3, 0.3, 1.1, 2.0], np.float32)
    solution, steps, points = saved(t0=True, ts=times, steps=True, t1=True), saved(steps=True), saved(ts=times)
    count = int(steps.stats["num_accepted_steps"])
    merged = np.concatenate([[0.0], times, steps.ts[:count]])
    order = np.argsort(merged, kind="stable")
    assert np.array_equal(solution.ts[: len(merged)], merged[order])
    assert solution.ts.shape == (1 + len(times) + MAX_STEPS,)
    values = np.concatenate([Y0[None], points.ys, steps.ys[:count]])[order]
    assert_same_bits(solution.ys[: len(merged)], values)
    for name, value in solution.stats.items():
        assert value == steps.stats[name] or name == "nfev"


def test_backwards(platform):
    solution = saved(2.0, 0.0, steps=2, t0=True, ts=np.array([1.5, 0.25], np.float32), t1=True)
    ts = np.asarray(solution.ts)
    used = np.isfinite(ts)
    assert np.all(np.diff(ts[used]) < 0) and ts[0] == 2.0 and ts[used][-1] == 0.0
    assert np.all(ts[~used] == np.inf) and np.all(np.isinf(solution.ys[~used]))
    # The state at time 0 that becomes Y0 at time 2: the same turn, the other way.
    np.testing.assert_allclose(solution.ys[used], exact(ts[used].astype(float), 1.5, exact(2.0, -1.5)), atol=5e-4)


def test_no_span(platform):
    solution = saved(1.0, 1.0, steps=1, t0=True, ts=np.ones(2, np.float32), t1=True)
    assert np.array_equal(solution.ts[:4], np.ones(4)) and np.array_equal(solution.ys[:4], np.tile(Y0, (4, 1)))
    assert np.all(solution.ts[4:] == np.inf) and all_are(solution, "successful")


def test_lanes_of_their_own(platform):
    """Per-lane spans, times and rates: each lane's rows are those of its single solve."""

    def one(t1, rate, ts):
        return saved(0.0, t1, rate, ts=ts, steps=2, t1=True)

    t1s, rates = np.array([0.5, 2.0, 1.0], np.float32), np.array([1.0, 3.0, 9.0], np.float32)
    ts = t1s[:, None] * np.array([0.1, 0.9], np.float32)
    batch = jax.vmap(one)(t1s, rates, ts)
    for lane in range(3):
        single = one(t1s[lane], rates[lane], ts[lane])
        assert_same_bits(jax.tree.map(lambda leaf, lane=lane: leaf[lane], (batch.ts, batch.ys, batch.stats)),
                         (single.ts, single.ys, single.stats))  # fmt: skip


def test_rows_of_steps_under_transformations(platform):
    """Nested vmap over any axes, scan and an export of any batch: each lane's rows are those of its single solve."""

    def one(rate, y0):
        solution = solve(turn, 0.0, 1.0, y0, rate, saveat=SaveAt(steps=True), max_steps=MAX_STEPS)
        return solution.ts, solution.ys

    rates = np.array([1.0, 3.0, 9.0], np.float32)
    starts = np.stack([Y0, -2 * Y0], axis=1)
    wanted = [[one(rate, start) for rate in rates] for start in starts.T]
    nest = jax.jit(jax.vmap(jax.vmap(one, (0, None)), (None, 1), out_axes=2))
    assert "output_to_operand_aliasing" in nest.lower(rates, starts).compile().as_text()  # filled in place
    ts, ys = nest(rates, starts)
    assert ts.shape == (3, MAX_STEPS, 2) and ys.shape == (3, MAX_STEPS, 2, 2)
    for i, j in np.ndindex(2, 3):
        assert_same_bits((ts[j, :, i], ys[j, :, i]), wanted[i][j])
    batch = jax.vmap(one, (0, None))
    turns = jax.jit(lambda: jax.lax.scan(lambda start, _: (-2 * start, batch(rates, start)), Y0, length=2)[1])()
    assert_same_bits(turns, jax.tree.map(lambda *rows: np.stack(rows).reshape(2, 3, *rows[0].shape), *sum(wanted, [])))
    pytest.importorskip("flatbuffers")
    (lanes,) = jax.export.symbolic_shape("lanes")
    shapes = jax.ShapeDtypeStruct((lanes,), np.float32), jax.ShapeDtypeStruct((2,), np.float32)
    checks = [jax.export.DisabledSafetyCheck.custom_call(name) for name in (library.HOST_TARGET, library.CUDA_TARGET)]
    exported = jax.export.export(jax.jit(batch), platforms=[platform], disabled_checks=checks)(*shapes)
    assert_same_bits(exported.call(rates, Y0), jax.tree.map(lambda rows: rows[0], turns))


def test_a_lane_that_fails(platform):
    """What was asked for and not reached is NaN with its time; rows of steps that were not taken are infinite."""
    times = np.array([0.25, 0.75], np.float32)

    def explodes(t, y, args):
        return y * y

    solution = solve(
        explodes, 0.0, 1.0, jnp.float32(2.0), saveat=SaveAt(t0=True, ts=times, steps=1, t1=True), max_steps=500,
        dtmin=1e-3, force_dtmin=False,
    )  # fmt: skip
    assert code(solution) == CODES["dt_min_reached"]
    steps = int(solution.stats["num_accepted_steps"])
    ts, ys = np.asarray(solution.ts), np.asarray(solution.ys)
    reached = 1 + steps + 1  # t0, the steps, 0.25
    assert np.all(np.isfinite(ys[:reached])) and np.all(np.diff(ts[:reached]) > 0)
    assert ts[reached] == 0.75 and np.isnan(ys[reached])
    assert np.all(ts[reached + 1 :] == np.inf) and np.all(ys[reached + 1 :] == np.inf)
    plain = solve(explodes, 0.0, 1.0, jnp.float32(2.0), saveat=SaveAt(ts=times, t1=True), dtmin=1e-3, force_dtmin=False)
    assert np.isfinite(plain.ys[0]) and np.all(np.isnan(plain.ys[1:])) and np.array_equal(plain.ts, [0.25, 0.75, 1.0])


def test_rows_run_out_where_max_steps_does(platform):
    solution = saved(steps=1, t1=True, max_steps=4)
    assert code(solution) == CODES["max_steps_reached"]
    accepted = int(solution.stats["num_accepted_steps"])
    assert solution.ts.shape == (4,) and np.sum(np.isfinite(solution.ts)) == accepted
    assert np.all(np.isfinite(solution.ys[:accepted]))


# --- A function of the state


def observe(t, y, rate):
    return {
        "norm": jnp.sqrt(jnp.sum(y * y)),
        "products": rate * jnp.outer(y, y) + t,
        "positive": y > 0,
        "count": jnp.sum((y > 0).astype(jnp.int32)),
        "wide": jnp.tile(y, 20),
    }


KINDS = dict(t0=True, ts=np.linspace(0.2, 1.8, 5, dtype=np.float32), t1=True)


def observed(rate, fn, **settings):
    saveat = SaveAt(**KINDS, fn=fn)
    return solve(turn, 0.0, 2.0, Y0, rate, saveat=saveat, method="tsit5", rtol=1e-5, atol=1e-5, **settings)


def test_function_of_the_state(platform):
    """Any pytree of any dtypes; its values are those of the function at the saved states."""
    rates = np.array([0.5, 1.5, 2.5], np.float32)
    states, found = (jax.vmap(lambda rate, fn=fn: observed(rate, fn))(rates) for fn in (None, observe))
    expected = jax.vmap(jax.vmap(observe, (0, 0, None)))(states.ts, states.ys, rates)
    assert jax.tree.structure(found.ys) == jax.tree.structure(expected)
    for got, want in zip(jax.tree.leaves(found.ys), jax.tree.leaves(expected), strict=True):
        assert got.dtype == want.dtype and got.shape == want.shape
        np.testing.assert_allclose(got, want, rtol=1e-6, atol=1e-6)
    assert_same_bits((found.ts, found.stats), (states.ts, states.stats))
    called = jax.vmap(lambda rate: observed(rate, observe, inline_f=False))(rates)
    assert_same_bits(called.ys, found.ys, "called, not inlined")


def test_function_closes_over_arrays(platform):
    """Also over what is traced and batched; and steps and integers where rows are missing or unused."""
    shifts = np.array([0.0, 10.0], np.float32)
    table = jnp.arange(4.0)

    def one(shift):
        fn = lambda t, y, rate: (y[0] + shift + table[2], jnp.int32(7), y[1] > 9)  # noqa: E731
        saveat = SaveAt(t0=True, ts=np.array([1.9], np.float32), steps=30, fn=fn)
        return solve(turn, 0.0, 2.0, Y0, 1.5, saveat=saveat, max_steps=90, rtol=1e-6, atol=1e-6, method="bosh3")

    solution = jax.vmap(one)(shifts)
    assert all_are(solution, "max_steps_reached")
    first, count, flag = (np.asarray(leaf) for leaf in solution.ys)
    assert first.shape == count.shape == flag.shape == (2, 5)
    reached = np.isfinite(first[0])
    np.testing.assert_allclose(first[1, reached] - first[0, reached], 10, atol=1e-5)
    np.testing.assert_allclose(first[:, 0], Y0[0] + 2 + shifts)
    assert set(count[:, reached].ravel()) == {7} and not flag[:, reached].any()
    missing, unused = np.isnan(first[0]), np.isinf(first[0])
    assert missing.any() or unused.any()
    assert np.all(count[:, missing] == np.iinfo(np.int32).min) and not flag[:, missing].any()
    assert np.all(count[:, unused] == np.iinfo(np.int32).max) and flag[:, unused].all()


def test_a_function_builds_one_image(builds):
    for scale in (1.0, 2.0):
        observed(1.5, lambda t, y, rate: rate * y)
        observed(1.5, lambda t, y, rate, scale=scale: scale * y)
    assert builds.new() == 3  # a number in the code is code


def test_the_cost_of_points_is_counted(platform):
    """nfev counts what the dense output evaluates for itself; these methods evaluate nothing."""
    for method in ("dopri5", "tsit5", "bosh3"):
        solver = Solver(method, rtol=1e-5, atol=1e-5)
        plain, dense = (
            solver.solve(turn, 0.0, 2.0, Y0, 1.5, saveat=saveat) for saveat in (SaveAt(t1=True), SaveAt(ts=KINDS["ts"]))
        )
        assert plain.stats["nfev"] == dense.stats["nfev"]


def test_a_list_of_traced_times():
    run = jax.jit(lambda t: solve(lambda t, y, args: -y, 0.0, 3.0, np.ones(1), saveat=SaveAt(ts=[t, 2 * t])))
    solution = run(1.0)
    np.testing.assert_allclose(solution.ts, [1, 2])
    np.testing.assert_allclose(solution.ys[:, 0], np.exp([-1, -2]), rtol=1e-5)
