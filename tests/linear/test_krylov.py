"""Matrix-free linear solvers, in the steps of methods: they agree with factorisations, or say that they can't."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from solve_helpers import all_are, assert_same_bits, code, pairwise

from jax_cubie import SaveAt, Solver, solve
from jax_cubie.linear import colours, jacobian_pattern
from jax_cubie.linear.krylov import _diagonal_function
from jax_cubie.methods import ROSENBROCK
from jax_cubie.solution import CODES

pytestmark = pytest.mark.usefixtures("x64")

KRYLOV = {
    "gmres": {"linear_solver": "gmres"},
    "gmres, restarted": {"linear_solver": "gmres", "krylov_dimension": 4},
    "gmres, jacobi": {"linear_solver": "gmres", "preconditioner": "jacobi"},
    "gmres, neumann": {"linear_solver": "gmres", "preconditioner": "neumann", "neumann_degree": 3},
    "bicgstab": {"linear_solver": "bicgstab"},
    "bicgstab, jacobi": {"linear_solver": "bicgstab", "preconditioner": "jacobi"},
    "bicgstab, neumann": {"linear_solver": "bicgstab", "preconditioner": "neumann"},
}


def brusselator(t, y, alpha):
    """Hairer, Wanner, Solving Ordinary Differential Equations II, section IV.10, on n/2 points."""
    u, v = y.reshape(2, -1)

    def spread(w, edge):
        wide = jnp.pad(w, 1, constant_values=edge)
        return alpha * (u.size + 1) ** 2 * (wide[2:] - 2 * w + wide[:-2])

    return jnp.concatenate([1 + u**2 * v - 4 * u + spread(u, 1.0), 3 * u - u**2 * v + spread(v, 3.0)])


def bumps(points, dtype="float64"):
    x = np.arange(1, points + 1) / (points + 1)
    return np.concatenate([1 + np.sin(2 * np.pi * x), np.full(points, 3.0)]).astype(dtype)


def linear(t, y, matrix):
    return matrix @ y


def matrices(n, count=5):
    """Decaying components of rates up to 100, that are anything but orthogonal."""
    random = np.random.default_rng(4)
    return np.stack([random.normal(size=(n, n)) - np.diag(np.geomspace(3, 100, n)) for _ in range(count)])


@functools.cache
def one_step(method, platform, **settings):
    solver = Solver(method, controller="fixed", max_steps=1, **settings)
    start = np.random.default_rng(5).normal(size=12)
    solved = jax.jit(jax.vmap(lambda m: solver.solve(linear, 0.0, 0.2, start, m, dt0=0.2)))(matrices(12))
    assert all_are(solved, "successful")
    return solved


@pytest.mark.parametrize("settings", KRYLOV)
def test_steps_of_linear_systems(platform, settings):
    """Those of Rosenbrock methods to rounding."""
    expected, found = one_step("rodas3", platform), one_step("rodas3", platform, **KRYLOV[settings])
    np.testing.assert_allclose(found.ys, expected.ys, rtol=1e-11, atol=1e-12)
    stats = found.stats
    assert np.all(stats["num_jacobians"] == 0) and np.all(stats["num_factorisations"] == 0)
    assert np.array_equal(stats["num_linear_solves"], expected.stats["num_linear_solves"])
    assert np.all(stats["num_krylov_iterations"] > stats["num_linear_solves"])


def test_what_helps(platform):
    """A space that is not thrown away, and preconditioners that fit."""
    iterations = {name: one_step("rodas3", platform, **one).stats["num_krylov_iterations"] for name, one in KRYLOV.items()}
    assert np.all(iterations["gmres"] <= 4 * 13)  # in n + 1 steps, but for rounding
    assert np.all(iterations["gmres, restarted"] > iterations["gmres"])
    assert np.all(iterations["bicgstab, jacobi"] < iterations["bicgstab"])


@pytest.mark.parametrize(
    ("method", "points", "settings"),
    [("kvaerno3", 8, "gmres"), ("kvaerno3", 8, "bicgstab, jacobi"), ("rodas4", 16, "gmres"), ("rodas4", 8, "bicgstab")],
)
def test_brusselator(platform, method, points, settings):
    """The steps are those with factorisations, since errors of linear systems are small beside the tolerances."""

    def run(**settings):
        y0 = bumps(points)
        return solve(brusselator, 0.0, 3.0, y0, 0.02, method=method, rtol=1e-5, atol=1e-5, **settings)

    expected, found = run(linear_solver="dense"), run(**KRYLOV[settings])
    assert all_are(found, "successful")
    for name in ("num_accepted_steps", "num_rejected_steps"):
        assert abs(int(found.stats[name]) - int(expected.stats[name])) <= (1 if method == "kvaerno3" else 0)
    np.testing.assert_allclose(found.ys, expected.ys, rtol=1e-5 if method == "kvaerno3" else 1e-11)


def test_less_for_less(platform):
    """krylov_rtol, one image for all values, and what it is relative to."""

    def one(method, rtol, tolerance):
        settings = {"linear_solver": "gmres", "krylov_rtol": rtol, "rtol": tolerance, "atol": tolerance}
        return solve(brusselator, 0.0, 1.0, bumps(4), 0.02, method=method, **settings)

    for method in ("kvaerno3", "rodas4"):
        rtol, tolerance = np.array([1e-6, 1e-4, 1e-2, 1e-3]), np.array([1e-5, 1e-5, 1e-5, 1e-3])
        found = jax.jit(jax.vmap(functools.partial(one, method)))(rtol, tolerance)
        assert all_are(found, "successful")
        each = found.stats["num_krylov_iterations"] / found.stats["num_linear_solves"]
        assert each[0] > each[1] > each[2]
        np.testing.assert_allclose(found.ys[1], found.ys[0], rtol=1e-4)


def test_float32(platform):
    for method, settings in (("rodas4", "gmres, jacobi"), ("kvaerno3", "bicgstab")):
        rtol = 1e-4
        run = functools.partial(solve, brusselator, 0.0, 2.0, method=method, rtol=rtol, atol=rtol)
        found = run(bumps(4, "float32"), np.float32(0.02), **KRYLOV[settings])
        assert all_are(found, "successful") and found.ys.dtype == np.float32
        np.testing.assert_allclose(found.ys, run(bumps(4), 0.02).ys, rtol=2e-3)


# --- The diagonal


def test_diagonal():
    """In two tangents for bands of three, where all of J takes three; without those elements that J does not have."""

    def field(t, y, rate):
        spread = jnp.pad(y[1:], (0, 1)) * y - rate * jnp.pad(y[:-1], (1, 0)) ** 2
        return spread + jnp.where(np.arange(len(y)) % 3 == 0, 0.0, jnp.sin(t * y))

    for n in (7, 200):
        y, rate = jnp.asarray(np.random.default_rng(n).normal(size=n)), jnp.asarray(0.3)
        pattern = jacobian_pattern(jax.make_jaxpr(field)(rate, y, rate))
        found = _diagonal_function(field, pattern)(0.7, y, rate)
        np.testing.assert_allclose(found, np.diag(jax.jacfwd(field, 1)(0.7, y, rate)), rtol=1e-14, atol=1e-14)
        jaxpr = jax.make_jaxpr(_diagonal_function(field, pattern))(0.7, y, rate)
        assert max(colours(pattern)) == 2
        assert n == 200 or sum(eqn.primitive.name == "eq" for eqn in jaxpr.eqns) == 2
    none = _diagonal_function(lambda t, y: y[::-1], jacobian_pattern(jax.make_jaxpr(lambda t, y: y[::-1])(rate, y)))
    assert not none(0.0, y).any()


# --- Derivatives


@pytest.mark.parametrize(
    ("method", "settings"), [("kvaerno3", "gmres, jacobi"), ("rodas4", "bicgstab, neumann")]
)
def test_forwards_and_backwards(platform, method, settings):
    """Systems with the transposed matrix, and those of tangents, are solved to rounding."""
    y0, weights = bumps(4), np.random.default_rng(1).normal(size=(3, 8))

    def run(y0, alpha, **settings):
        saveat = SaveAt(ts=np.array([0.1, 0.17]), t1=True)
        newton = {"newton_rtol": 1e-13, "newton_atol": 1e-13} if method == "kvaerno3" else {}
        step = {"controller": "fixed", "dt0": 0.05}
        return solve(brusselator, 0.0, 0.4, y0, alpha, method=method, saveat=saveat, **step, **newton, **settings)

    def loss(y0, alpha, **settings):
        return jnp.vdot(run(y0, alpha, **settings).ys, weights)

    own = KRYLOV[settings]
    backwards = jax.jit(jax.grad(functools.partial(loss, **own), (0, 1)))(y0, 0.02)
    forwards = jax.jit(jax.jacfwd(functools.partial(loss, **own), (0, 1)))(y0, 0.02)
    expected = jax.jit(jax.grad(functools.partial(loss, linear_solver="dense"), (0, 1)))(y0, 0.02)
    for one, other, dense in zip(backwards, forwards, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-8, atol=1e-10)
        np.testing.assert_allclose(one, dense, rtol=1e-6, atol=1e-8)


def test_residuals_of_derivatives():
    """Of systems that amplify them, on the way to a jump: as little is left as a factorisation leaves."""

    def van_der_pol(t, y, mu):
        return jnp.stack([y[1], mu * (1 - y[0] ** 2) * y[1] - y[0]])

    def end(mu):
        settings = {"method": "rodas5p", "rtol": 1e-6, "atol": 1e-6, "linear_solver": "bicgstab"}
        return solve(van_der_pol, 0.0, 1000.0, np.array([2.0, 0.0]), mu, **settings).ys[0, 0]

    forwards, backwards = (jax.jit(derivative(end))(1000.0) for derivative in (jax.jacfwd, jax.grad))
    np.testing.assert_allclose(backwards, forwards, rtol=5e-7)


def small(t, y, rate):
    return jnp.stack([y[1], -rate * y[0] * y[0] * y[0] - y[1]])


@pytest.mark.parametrize(("method", "outer", "inner"), [("trbdf2", jax.grad, jax.jacfwd), ("ros3p", jax.jacfwd, jax.grad)])
def test_second_order(method, outer, inner):
    """A pass backwards over tangents, and tangents of a pass backwards."""

    def end(rate, linear_solver):
        newton = {"newton_rtol": 1e-13, "newton_atol": 1e-13} if method == "trbdf2" else {}
        settings = {"controller": "fixed", "dt0": 0.1, "linear_solver": linear_solver, **newton}
        return jnp.sum(jnp.sin(solve(small, 0.0, 0.5, np.array([1.0, 0.3]), rate, method=method, **settings).ys))

    found, expected = (jax.jit(outer(inner(functools.partial(end, linear_solver=one))))(2.0) for one in ("gmres", "dense"))
    np.testing.assert_allclose(found, expected, rtol=1e-8)


def test_statistics_tell_of_the_solve_alone():
    """Not of its tangents."""
    y0 = bumps(3)

    def run(alpha):
        settings = {"method": "ros3p", "linear_solver": "bicgstab", "controller": "fixed", "dt0": 0.1}
        return solve(brusselator, 0.0, 0.4, y0, alpha, **settings)

    plain, (moved, _) = run(0.02), jax.jvp(run, (0.02,), (1.0,))
    assert {name: int(one) for name, one in plain.stats.items()} == {name: int(one) for name, one in moved.stats.items()}


# --- What fails


def test_steps_that_fail(platform):
    def run(f, y0=(1.0, 2.0, 3.0), args=None, **settings):
        settings = {"method": "rodas3", "linear_solver": "gmres", "controller": "fixed", "dt0": 0.25, **settings}
        return solve(f, 0.0, 0.25, np.array(y0), args, **settings)

    few, matrix = {"krylov_max_steps": 2}, matrices(3, 1)[0]
    for method, linear_solver in (("rodas3", "gmres"), ("kvaerno3", "bicgstab")):
        failed = run(linear, args=matrix, method=method, linear_solver=linear_solver, krylov_max_steps=1)
        assert all_are(failed, "linear_divergence") and np.isnan(failed.ys).all()
        assert int(failed.stats["num_rejected_steps"]) == 1
        lost = run(lambda t, y, a: y * jnp.nan, method=method, linear_solver=linear_solver)
        assert all_are(lost, "not_finite")
    assert all_are(run(linear, args=matrix, krylov_dimension=1, **few), "linear_divergence")
    # A matrix that makes nothing of anything; one that a direct solver has no trouble with.
    size = 0.25 * float(ROSENBROCK["rodas3"].gamma)
    assert size == 0.125
    for preconditioner in ("none", "jacobi"):
        singular = run(lambda t, y, a: y / size, preconditioner=preconditioner)
        assert all_are(singular, "linear_divergence")
    turn = np.array([[1.0, 1.0], [-1.0, 1.0]]) / size  # W turns by a right angle
    assert all_are(run(linear, (1.0, 2.0), turn, linear_solver="bicgstab"), "linear_divergence")
    assert all_are(run(linear, (1.0, 2.0), turn), "successful")


@pytest.mark.parametrize("method", ["rodas4", "kvaerno3"])
def test_smaller_steps_mend(platform, method):
    """Few iterations are enough for those: their matrix is near to one."""
    settings = {"linear_solver": "gmres", "krylov_max_steps": 4, "krylov_rtol": 1e-4, "rtol": 1e-4, "atol": 1e-4}
    found = solve(brusselator, 0.0, 1.0, bumps(6), 0.02, method=method, dt0=1.0, **settings)
    assert all_are(found, "successful") and int(found.stats["num_rejected_steps"]) > 0
    expected = solve(brusselator, 0.0, 1.0, bumps(6), 0.02, method=method, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(found.ys, expected.ys, rtol=1e-2)


def test_derivatives_that_are_not_solved():
    """They are NaN: what iterates loosely for its steps may not have the iterations to be differentiated."""
    start, matrix = np.random.default_rng(5).normal(size=12), matrices(12, 1)[0]

    def end(rate, most):
        settings = {"linear_solver": "gmres", "krylov_rtol": 1e-3, "krylov_max_steps": most, "controller": "fixed", "dt0": 0.2}
        return jnp.sum(solve(linear, 0.0, 0.2, start, rate * matrix, method="rodas3", **settings).ys)

    for derivative in (jax.grad, jax.jacfwd):
        found = jax.jit(jax.vmap(derivative(end), (None, 0)))(0.1, np.array([7, 30], np.int32))
        assert np.isnan(found[0]) and np.isfinite(found[1])
    assert np.all(np.isfinite(jax.jit(jax.vmap(end, (None, 0)))(0.1, np.array([7, 30], np.int32))))


# --- Settings


def test_settings():
    solver = Solver("kvaerno3", linear_solver="gmres", krylov_rtol=1e-2, preconditioner="neumann", neumann_degree=1)
    assert solver.update(krylov_max_steps=7).krylov_max_steps == 7
    assert solver.settings()["krylov_dimension"] is None
    assert solver.update(krylov_basis_location="shared").settings()["krylov_basis_location"] == "shared"
    refused = {
        "krylov_rtol is a setting of linear_solver='gmres' or 'bicgstab', and this solver's is 'auto'": {"krylov_rtol": 0.1},
        "krylov_max_steps is a setting of": {"krylov_max_steps": 3, "linear_solver": "dense"},
        "preconditioner is a setting of": {"preconditioner": "none"},
        "krylov_dimension is a setting of linear_solver='gmres', and this solver's is 'bicgstab'":
            {"krylov_dimension": 3, "linear_solver": "bicgstab"},
        "neumann_degree is a setting of preconditioner='neumann', and this solver's is 'jacobi'":
            {"neumann_degree": 3, "linear_solver": "gmres", "preconditioner": "jacobi"},
        "preconditioner='ilu': expected one of 'none'": {"preconditioner": "ilu", "linear_solver": "gmres"},
        "krylov_dimension=0": {"krylov_dimension": 0, "linear_solver": "gmres"},
        "krylov_rtol=0": {"krylov_rtol": 0, "linear_solver": "gmres"},
        "krylov_max_steps=0": {"krylov_max_steps": 0, "linear_solver": "gmres"},
        "jacobian_reuse=True keeps Jacobians": {"jacobian_reuse": True, "linear_solver": "gmres"},
        "Did you mean 'krylov_basis_location'": {"krylov_bases_location": "shared"},
    }  # fmt: skip
    for message, settings in refused.items():
        with pytest.raises(ValueError, match=message):
            Solver("kvaerno3", **settings)
    with pytest.raises(ValueError, match="preconditioner is a setting of"):
        solver.update(linear_solver="dense")
    with pytest.raises(ValueError, match="linear_solver='gmres' makes no Jacobian"):
        Solver("radau_iia_5", linear_solver="gmres")


def test_what_takes_a_jacobian():
    """It is refused where there is none."""

    def refuses(message, method="ros3p", **given):
        with pytest.raises(ValueError, match=message):
            solve(small, 0.0, 0.2, np.ones(2), 2.0, method=method, linear_solver="gmres", **given)

    refuses("linear_solver='gmres' has no mass matrix", mass=np.eye(2))
    refuses("jac is given, but linear_solver='gmres' makes no Jacobian", jac=jax.jacfwd(small, argnums=1))
    refuses("jac_sparsity is given, but linear_solver='gmres' makes no Jacobian", jac_sparsity=np.ones((2, 2), bool))
    refuses("method 'auto' goes by the norm of the Jacobian", method="auto")
    pattern = {"preconditioner": "jacobi", "jac_sparsity": np.ones((2, 2), bool), "controller": "fixed", "dt0": 0.1}
    assert all_are(solve(small, 0.0, 0.2, np.ones(2), 2.0, method="ros3p", linear_solver="gmres", **pattern), "successful")


def test_settings_that_are_traced(platform):
    """Those that can't be end the lane."""

    def one(rtol, most):
        settings = {"linear_solver": "gmres", "krylov_rtol": rtol, "krylov_max_steps": most, "controller": "fixed"}
        return solve(small, 0.0, 0.2, np.ones(2), 2.0, method="ros3p", dt0=0.1, **settings)

    rtol, most = np.array([1e-6, -1.0, np.nan, 1e-6, 1e-14]), np.array([9, 9, 9, 0, 1], np.int32)
    found = code(jax.jit(jax.vmap(one))(rtol, most)).tolist()
    assert found == [CODES[name] for name in ("successful", *3 * ["invalid_input"], "linear_divergence")]


# --- Places

PLACED = {
    "gmres": {"linear_solver": "gmres", "krylov_dimension": 2, "preconditioner": "neumann"},
    "bicgstab": {"linear_solver": "bicgstab", "preconditioner": "jacobi"},
}
BUFFERS = [keyword for keyword in Solver("ros3p").buffers.settings if keyword.startswith("krylov_")]


def covers():
    places = dict.fromkeys(BUFFERS, ("local", "shared"))
    for number, row in enumerate(pairwise({"kind": tuple(PLACED), "dtype": ("float32", "float64"), **places})):
        yield pytest.param(row.pop("kind"), row.pop("dtype"), row, id=str(number))


@functools.cache
def placed(kind, dtype, platform, places=()):
    method = {"gmres": "kvaerno3", "bicgstab": "ros3p"}[kind]  # a family each
    solver = Solver(method, rtol=1e-3, atol=1e-3, **PLACED[kind], **dict(places))
    y0 = np.random.default_rng(2).uniform(1, 2, (37, 4)).astype(dtype)
    one = functools.partial(solver.solve, brusselator, 0.0, 0.5)
    return jax.tree.map(np.asarray, jax.jit(jax.vmap(lambda y0: one(y0, np.asarray(0.02, dtype))))(y0))


def test_buffers():
    """Each has words with one of the solvers."""
    found = set()
    for settings in PLACED.values():
        buffers = Solver("ros3p", **settings).inspect(brusselator, 0.0, 0.5, np.ones(4), 0.02).buffers
        found |= {f"{name}_location" for name, (_, size) in buffers.items() if size and name.startswith("krylov_")}
        assert not any(size for name, (_, size) in buffers.items() if name in ("jacobian", "lu_factors", "lu_pivots"))
    assert found == set(BUFFERS) and len(found) == 8


@pytest.mark.parametrize(("kind", "dtype", "places"), list(covers()))
def test_places(platform, kind, dtype, places):
    reference = placed(kind, dtype, platform)
    assert all_are(reference, "successful")
    assert_same_bits(placed(kind, dtype, platform, tuple(places.items())), reference, str(places))


def test_builds_for_cuda():
    for settings in PLACED.values():
        shared = dict.fromkeys(BUFFERS[:4], "shared")
        found = Solver("kvaerno3", **settings, **shared).inspect(brusselator, 0.0, 0.5, np.ones(4), 0.02, target="cuda:90")
        assert found.buffers["krylov_state"][1] == 6
