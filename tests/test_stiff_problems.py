"""Stiff problems from chemistry, electronics and physiology against reference values: tables/stiff_reference.py has them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from solve_helpers import all_are
from tables.stiff_problems import PROBLEMS, exprelr, hodgkin_huxley, reference

from jax_cubie import SaveAt, Solver

# Each solves two problems, the first one all that are here.
METHODS = ["rodas5p", "radau_iia_5", "kvaerno5", "rodas3"]
# Each solves the two DAEs.
DAE_METHODS = ["rodas5p", "radau_iia_5", "kvaerno5"]

SMALL = ["robertson_early", "hires", "chemical_akzo_reduced", "oregonator", "van_der_pol", "hodgkin_huxley"]
# In float32. Both stages of the amplifier amplify rounding, too: that of the state alone moves its algebraic components by up
# to 6 times tolerances of 1e-4, and by a fifth of these.
DAE_RTOL = {"chemical_akzo": 1e-4, "transistor_amplifier": 3e-3}
# Errors in units of the tolerance; what grows along a limit cycle is more.
ALLOWED = {name: 10 for name in PROBLEMS} | {"oregonator": 30, "hodgkin_huxley": 30}

pytestmark = pytest.mark.usefixtures("x64")


def solve_problem(name, method, dtype, rtol, **settings):
    """The solution, and the error at the end, in units of the tolerance."""
    problem = PROBLEMS[name]
    y0, atol = jnp.asarray(settings.pop("y0", problem.y0), dtype), jnp.asarray(problem.atol(rtol), dtype)
    args = None if problem.args is None else jnp.asarray(problem.args, dtype)
    solution = Solver(method, rtol=rtol, atol=atol).solve(
        problem.f, 0.0, problem.t1, y0, args, mass=problem.mass, **settings
    )
    assert all_are(solution, "successful") and solution.ys.dtype == dtype
    return solution, problem.scaled_error(solution.ys[-1], reference(name), rtol)


@pytest.mark.parametrize(
    ("method", "name"), [(method, name) for method in METHODS for name in (SMALL if method == METHODS[0] else SMALL[:2])]
)
def test_small(platform, method, name):
    for rtol in (1e-4, 1e-7):
        assert solve_problem(name, method, "float64", rtol)[1] < ALLOWED[name]


@pytest.mark.parametrize(("name", "rtol"), [*dict.fromkeys(SMALL, 1e-4).items(), *DAE_RTOL.items()])
def test_float32(platform, name, rtol):
    assert solve_problem(name, METHODS[0], "float32", rtol)[1] < ALLOWED[name]


@pytest.mark.parametrize("method", METHODS)
def test_robertson_to_1e11(platform, method):
    for rtol in (1e-4, 1e-6):
        assert solve_problem("robertson", method, "float64", rtol)[1] < 10


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_brusselator(platform, dtype):
    assert solve_problem("brusselator", METHODS[0], dtype, 1e-5)[1] < 10


def test_medical_akzo_of_400_states(platform):
    """What comes in stops in the middle of a step."""
    assert solve_problem("medical_akzo", METHODS[0], "float32", 1e-3)[1] < 10


@pytest.mark.parametrize("method", DAE_METHODS)
def test_chemical_akzo(platform, method):
    """Its algebraic component at the start is a guess; between steps it is what follows from the others."""
    y0 = np.append(PROBLEMS["chemical_akzo"].y0[:5], 1.0)
    saveat = SaveAt(t0=True, ts=[1.0, 30.3, 77.7], t1=True)
    solution, error = solve_problem("chemical_akzo", method, "float64", 1e-6, y0=y0, saveat=saveat)
    assert error < ALLOWED["chemical_akzo"]
    follows = 115.83 * solution.ys[:, 0] * solution.ys[:, 3]
    np.testing.assert_allclose(solution.ys[0, 5], follows[0], rtol=1e-14)
    np.testing.assert_allclose(solution.ys[1:-1, 5], follows[1:-1], rtol=1e-3)


@pytest.mark.parametrize("method", DAE_METHODS)
def test_transistor_amplifier(platform, method):
    assert solve_problem("transistor_amplifier", method, "float64", 1e-6)[1] < ALLOWED["transistor_amplifier"]


@pytest.mark.parametrize("name", DAE_RTOL)
def test_daes_are_consistent_and_of_index_one(name):
    """At the start, and at the reference values: N f = 0 where N M = 0, and N f_y is regular where M is not."""
    problem = PROBLEMS[name]
    left, weights, right = np.linalg.svd(problem.mass)
    rank = int(np.sum(weights > 1e-10 * weights[0]))
    assert 0 < rank < len(weights)
    null = left[:, rank:].T
    look = jax.jit(lambda *point: (problem.f(*point), jax.jacfwd(problem.f, argnums=1)(*point)))
    for t, y in ((0.0, problem.y0), (problem.t1, reference(name))):
        value, jacobian = map(np.asarray, look(t, y, problem.args))
        assert np.max(np.abs(null @ value)) < 1e-12 * max(1.0, np.max(np.abs(value)))
        assert np.linalg.cond(np.concatenate([right[:rank], null @ jacobian / np.max(np.abs(null @ jacobian))])) < 1e4


def test_reduced_akzo_is_the_dae():
    """f of the differential components, where the equilibrium holds."""
    full, less = PROBLEMS["chemical_akzo"], PROBLEMS["chemical_akzo_reduced"]
    y = reference("chemical_akzo")
    y[5] = 115.83 * y[0] * y[3]
    np.testing.assert_allclose(full.f(0.0, y, 3.3)[:5], less.f(0.0, y[:5], 3.3), rtol=1e-14)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_hodgkin_huxley_at_its_removable_singularities(dtype):
    """x / (1 - exp(-x)) and its derivative, to rounding, at 0 and beside it; f's Jacobian is finite at -55 and -40 mV."""
    x = np.concatenate([[0.0], np.logspace(-30, 1, 200), -np.logspace(-30, 1, 200)]).astype(dtype)
    exact, far = x.astype(np.longdouble), np.abs(x) > 1e-4
    with np.errstate(all="ignore"):
        shrunk = -np.expm1(-exact)
        quotient, slope = exact / shrunk, (shrunk - exact * np.exp(-exact)) / shrunk**2
    quotient = np.where(far, quotient, 1 + exact / 2 + exact**2 / 12)
    slope = np.where(far, slope, 0.5 + exact / 6)
    eps = np.finfo(dtype).eps
    np.testing.assert_allclose(exprelr(jnp.asarray(x)), quotient.astype(dtype), rtol=4 * eps)
    np.testing.assert_allclose(jax.jit(jax.vmap(jax.grad(exprelr)))(jnp.asarray(x)), slope.astype(dtype), rtol=400 * eps)
    look = jax.jit(lambda y: (hodgkin_huxley(0.0, y, 10.0), jax.jacfwd(hodgkin_huxley, argnums=1)(0.0, y, 10.0)))
    for voltage in (-55.0, -40.0):
        value, jacobian = look(jnp.asarray([voltage, 0.05, 0.6, 0.32], dtype))
        assert value.dtype == jacobian.dtype == dtype and bool(jnp.isfinite(value).all() & jnp.isfinite(jacobian).all())
