"""solve_ivp: SciPy's arguments, defaults, result, and the way it prints."""

import inspect
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.integrate
from solve_helpers import assert_same_bits, lorenz

from jax_cubie import SaveAt, Solver, solve, solve_ivp

Y0 = np.array([1.0, 0.5], np.float32)


def decay(t, y):
    return -y


def decay_at(t, y, rate):
    return -rate * y


def test_arguments_are_scipys():
    """Each argument of SciPy's has its name and its default here; what is only there to be refused says so."""
    theirs, ours = (inspect.signature(f).parameters for f in (scipy.integrate.solve_ivp, solve_ivp))
    for name, parameter in theirs.items():
        if name != "options":
            assert ours[name].default == parameter.default, name
    options = inspect.signature(scipy.integrate.RK45).parameters
    for name in ("rtol", "atol", "first_step"):
        assert ours[name].default == options[name].default
    assert options["max_step"].default == np.inf  # ours is None: dtmax is the solver's then, infinite by default
    assert list(ours)[:5] == list(theirs)[:5]


@pytest.mark.usefixtures("x64")
def test_defaults_are_as_accurate_as_scipys(platform):
    """RK45 with rtol 1e-3 and atol 1e-6: errors of the same size as SciPy's, by about as many evaluations."""
    y0 = np.array([1.0, 0.0, 0.0])
    ours = solve_ivp(lorenz, (0.0, 1.0), y0, args=(28.0,))
    theirs = scipy.integrate.solve_ivp(_lorenz, (0.0, 1.0), y0, args=(28.0,))
    exact = scipy.integrate.solve_ivp(_lorenz, (0.0, 1.0), y0, args=(28.0,), method="DOP853", rtol=1e-12, atol=1e-12).y[:, -1]
    errors = [np.abs(np.asarray(found.y)[:, -1] - exact).max() for found in (ours, theirs)]
    assert errors[0] < 3 * errors[1] and 0.5 * theirs.nfev < int(ours.nfev) < 1.5 * theirs.nfev
    assert_same_bits(ours.ys[-1], solve(lorenz, 0.0, 1.0, y0, 28.0, method="rk45", rtol=1e-3, atol=1e-6).ys[-1])


def _lorenz(t, y, rho):
    a, b, c = y
    return [10.0 * (b - a), a * (rho - c) - b, a * b - 8 / 3 * c]


def test_two_ends_without_t_eval(platform):
    found = solve_ivp(decay_at, [0.0, 2.0], [1.0, 2.0], args=(0.5,))
    assert found.t.tolist() == [0.0, 2.0] and found.y.shape == (2, 2)
    np.testing.assert_allclose(found.y[:, -1], np.exp(-1.0) * np.array([1.0, 2.0]), rtol=1e-3)
    assert (int(found.status), bool(found.success)) == (0, True) and "successfully" in found.message
    assert (found.sol, found.t_events, found.y_events, found.njev, found.nlu) == (None, None, None, 0, 0)


def test_what_stiff_methods_count(platform):
    """Jacobians and factorisations, of each lane; SciPy's lines, with an array for each count."""

    def field(t, y, rate):
        return jnp.stack([-rate * (y[0] - jnp.cos(t)), y[0] - y[1]])

    found = solve_ivp(field, (0.0, 1.0), Y0, "Kvaerno3", args=(50.0,))
    steps = int(found.stats["num_steps"])
    assert steps > 3 and (int(found.njev), int(found.nlu)) == (steps, steps) and int(found.nfev) > 3 * steps
    assert f"njev: {steps}\n" in repr(found) and repr(found).endswith(f"nlu: {steps}")
    many = jax.vmap(lambda rate: solve_ivp(field, (0.0, 1.0), Y0, "ROS3P", args=(rate,)))(jnp.array([1.0, 50.0]))
    assert many.njev.shape == (2,) and np.array_equal(many.njev, many.stats["num_accepted_steps"])


def test_first_step_and_max_step(platform):
    """A size each, whatever the direction, known or traced."""
    many = SaveAt(steps=True)
    for sign in (1.0, -1.0):
        forwards = solve_ivp(decay, (0.0, sign), Y0, first_step=0.125, max_step=0.25)
        same = solve(
            lambda t, y, a: -y, 0.0, sign, Y0, method="rk45", rtol=1e-3, atol=1e-6, dt0=sign * 0.125, dtmax=0.25, saveat=many,
            max_steps=50,
        )  # fmt: skip
        assert_same_bits(forwards.stats["num_steps"], same.stats["num_steps"])
        steps = np.diff(np.concatenate([[0.0], np.asarray(same.ts)[np.isfinite(same.ts)]]))
        assert steps[0] == sign * 0.125 and np.abs(steps).max() <= 0.25
        traced = jax.jit(lambda end, step: solve_ivp(decay, (0.0, end), Y0, first_step=step, max_step=2 * step))(sign, 0.125)
        assert_same_bits(traced.ys, forwards.ys)
    fixed = solve_ivp(decay, (0.0, -1.0), Y0, "RK4", first_step=0.25)
    assert int(fixed.stats["num_steps"]) == 4


def test_tolerances_in_lists():
    listed = solve_ivp(decay, (0.0, 1.0), Y0, rtol=0.0, atol=[1e-3, 1e-9])
    assert_same_bits(listed.stats, solve_ivp(decay, (0.0, 1.0), Y0, rtol=0.0, atol=np.array([1e-3, 1e-9])).stats)
    assert int(listed.stats["num_steps"]) > int(solve_ivp(decay, (0.0, 1.0), Y0, rtol=0.0, atol=1e-3).stats["num_steps"])


def test_what_says_no_is_taken():
    found = solve_ivp(decay, (0.0, 1.0), Y0, args=None, dense_output=False, events=None, vectorized=False, max_step=np.inf)
    assert_same_bits(found.ys, solve_ivp(decay, (0.0, 1.0), Y0).ys)


def test_prints_as_scipys_does(x64):
    """The same lines, but for the numbers of digits that differ."""
    times = np.linspace(0.0, 2.0, 30)
    for t_eval in (None, times[:3], times):
        ours = solve_ivp(decay, (0.0, 2.0), [1.0, 2.0], t_eval=t_eval)
        theirs = scipy.integrate.solve_ivp(decay, (0.0, 2.0), [1.0, 2.0], t_eval=[0.0, 2.0] if t_eval is None else t_eval)
        shapes = [re.sub(r"\d+", "0", repr(found)) for found in (ours, theirs)]
        assert [line.split() for line in shapes[0].splitlines()] == [line.split() for line in shapes[1].splitlines()]
    failed = solve_ivp(decay, (0.0, 2.0), [1.0, 2.0], max_steps=1)
    assert "success: False" in repr(failed) and "status: -1" in repr(failed) and "max_steps" in repr(failed)


def test_many_lanes_are_counted():
    run = jax.vmap(lambda y, limit: solve_ivp(decay, (0.0, 2.0), y, max_steps=limit))
    many = run(jnp.ones((4, 2)), jnp.array([1, 9, 9, 9]))
    assert repr(many).startswith("IVPSolution of 4 lanes\n  ended   3 successful, 1 max_steps_reached\n")
    assert many.status.tolist() == [-1, 0, 0, 0] and "successfully" in many.message[1] and "max_steps" in many.message[0]


def test_a_fixed_method_needs_no_tolerance():
    assert "rtol" not in Solver("rk4").settings()
    with pytest.raises(ValueError, match="dt0 is None"):
        solve_ivp(decay, (0.0, 1.0), Y0, "rk4")
