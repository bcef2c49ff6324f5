"""Mass matrices, singular ones among them; Jacobians that the user gives."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from solve_helpers import all_are, assert_same_bits
from tables.stiff_problems import PROBLEMS, reference, transistor_amplifier, van_der_pol

from jax_cubie import RESULTS, Doses, Event, SaveAt, Solver, solve, solve_ivp
from jax_cubie.linear import Pattern
from jax_cubie.problem.separation import separation_of

pytestmark = pytest.mark.usefixtures("x64")

FULL = np.array([[2.0, 1.0, 0.0], [0.0, 3.0, 0.0], [1.0, 0.0, 1.0]])
DIAGONAL = np.array([2.0, 0.5, 4.0])
Y0 = np.array([1.0, 0.5, 0.2])
TIGHT = {"rtol": 1e-9, "atol": 1e-11}
INSIDE = SaveAt(t0=True, ts=[0.31, 0.77, 1.6], t1=True)


def field(t, y, rate):
    return jnp.stack([rate * y[1] + jnp.sin(t), -y[0] * y[1], y[0] - y[2] ** 2])


def robertson(t, y, k):
    """k[3]: the sum of all at t = 0."""
    fast, slow = k[2] * y[1] * y[2], k[0] * y[0]
    return jnp.stack([fast - slow, slow - fast - k[1] * y[1] ** 2, y[0] + y[1] + y[2] - k[3] * (1 + 0.1 * k[4] * t)])


ROBERTSON = np.array([0.04, 3e7, 1e4, 1.0, 0.0])
MILD = np.array([0.04, 30.0, 1.0, 1.0, 0.2])
AMPLIFIER = PROBLEMS["transistor_amplifier"]


class Operator:
    """As lineax has them."""

    def __init__(self, matrix):
        self.matrix = matrix

    def as_matrix(self):
        return self.matrix


@pytest.mark.parametrize(
    ("method", "mass"),
    [("rodas5p", FULL), ("l_stable_sdirk4", FULL), ("radau_iia_5", FULL), ("rodas5p", DIAGONAL)],
)
def test_an_invertible_mass_is_that_of_its_inverse_times_f(method, mass):
    inverted = 1 / mass if mass.ndim == 1 else np.linalg.inv(mass)

    def inverse(t, y, rate):
        rhs = field(t, y, rate)
        return inverted * rhs if mass.ndim == 1 else inverted @ rhs

    settings = {"method": method, **TIGHT}
    if method != "rodas5p":
        settings |= {"rtol": 1e-7, "atol": 1e-9, "newton_rtol": 1e-10, "newton_atol": 1e-12}
    found = solve(field, 0.0, 2.0, Y0, 1.3, mass=mass, saveat=INSIDE, **settings)
    expected = solve(inverse, 0.0, 2.0, Y0, 1.3, saveat=INSIDE, **settings)
    np.testing.assert_allclose(found.ys, expected.ys, rtol=1e-9, atol=1e-11)
    assert int(found.stats["num_steps"]) == int(expected.stats["num_steps"])


def test_a_mass_may_be_an_array_an_operator_or_a_tree_like_y0():
    def of_dict(t, y, rate):
        first, *others = field(t, jnp.concatenate([y["a"][None], y["b"]]), rate)
        return {"a": first, "b": jnp.stack(others)}

    settings = {"method": "rodas4", **TIGHT}
    expected = solve(field, 0.0, 2.0, Y0, 1.3, mass=DIAGONAL, **settings).ys
    tree = solve(of_dict, 0.0, 2.0, {"a": Y0[0], "b": Y0[1:]}, 1.3, mass={"a": 2.0, "b": DIAGONAL[1:]}, **settings).ys
    np.testing.assert_allclose(jnp.concatenate([tree["a"][:, None], tree["b"]], 1), expected, rtol=1e-12)
    full = solve(field, 0.0, 2.0, Y0, 1.3, mass=np.diag(DIAGONAL), **settings).ys
    np.testing.assert_allclose(full, expected, rtol=1e-12)
    operator = solve(field, 0.0, 2.0, Y0, 1.3, mass=Operator(jnp.diag(jnp.asarray(DIAGONAL))), **settings).ys
    assert_same_bits(full, operator)


@pytest.mark.parametrize("method", ["rodas5p", "kvaerno5", "radau_iia_5"])
def test_robertson_as_a_differential_algebraic_equation(method):
    settings = {"rtol": 1e-8, "atol": np.array([1e-11, 1e-15, 1e-11])}
    found = solve(robertson, 0.0, 1e11, [1.0, 0.0, 0.0] @ np.eye(3), ROBERTSON, mass=[1, 1, 0], method=method, **settings)
    assert all_are(found, "successful")
    np.testing.assert_allclose(found.ys[0], reference("robertson"), rtol=2e-4)
    np.testing.assert_allclose(found.ys.sum(), 1, rtol=1e-14)


def test_capacitors_between_neighbours_and_points_inside():
    """No row of its singular mass matrix is 0. Of a method with an extension of its own."""
    settings = {"method": "l_stable_sdirk4", "rtol": 1e-5, "atol": 1e-5, "saveat": SaveAt(ts=[0.0111, 0.2])}
    found = solve(transistor_amplifier, 0.0, 0.2, AMPLIFIER.y0, AMPLIFIER.args, mass=AMPLIFIER.mass, **settings)
    np.testing.assert_allclose(found.ys[-1], reference("transistor_amplifier"), atol=1e-4)


def test_a_first_slope_that_a_singular_mass_does_not_give_ends_with_its_code():
    """Of a mass that is traced it is not known that sums of its rows are 0."""
    y0, method = np.full(8, 3.0), "kvaerno5"
    run = jax.jit(lambda mass: solve(transistor_amplifier, 0.0, 0.2, y0, AMPLIFIER.args, mass=mass, method=method))
    assert all_are(run(AMPLIFIER.mass), "singular_matrix")


def coupled(t, y, k):
    """y1 + y2 = sin t, in the sum of both equations."""
    right = k * y[0]
    return jnp.stack([-right, right + y[0] + y[1] - jnp.sin(t)])


def coupled_solution(t, start, k):
    """Its y1."""
    forced = lambda t: (0.5 * k * jnp.cos(t) + jnp.sin(t)) / (2 + 0.5 * k**2)  # noqa: E731
    return (start - forced(0.0)) * jnp.exp(-0.5 * k * t) + forced(t)


def test_algebraic_components_are_solved_for_beside_slower_ones():
    """A stage whose equation is solved at once tells little of how fast the next one's is."""

    def tracking(t, y, rate):
        return jnp.stack([-rate * (y[0] - jnp.cos(t)) - jnp.sin(t), -y[0] * y[1], y[2] - t * y[0] - 1.0])

    def run(rate, tolerance):
        settings = {"method": "trbdf2", "rtol": tolerance, "atol": tolerance, "mass": np.array([1.0, 1.0, 0.0])}
        return solve(tracking, 0.0, 2.0, np.array([1.0, 1.0, 0.3]), rate, **settings)

    rates, tolerances = np.array([1.0, 50.0, 1.0, 50.0]), np.array([1e-4, 1e-4, 1e-6, 1e-6])
    found = jax.jit(jax.vmap(run))(rates, tolerances)
    assert all_are(found, "successful")
    exact = np.array([np.cos(2.0), np.exp(-np.sin(2.0)), 1.0 + 2.0 * np.cos(2.0)])
    assert (np.abs(found.ys[:, -1] - exact) < 100 * tolerances[:, None]).all()


def test_algebraic_equations_in_sums_of_others():
    """Values and derivatives against the solution in closed form, with a Jacobian that is given."""
    mass, t1, start, k = np.array([[1.0, -1.0], [-1.0, 1.0]]), 1.5, 0.7, 1.3
    settings = {"method": "kvaerno5", "rtol": 1e-8, "atol": 1e-10, "newton_rtol": 1e-10, "newton_atol": 1e-11}

    def jac(t, y, k):
        return jnp.array([[-1.0, 0.0], [1.0, 0.0]]) * k + jnp.array([[0.0, 0.0], [1.0, 1.0]])

    def end(start, k):
        given = {"jac": jac, "jac_sparsity": np.array([[1, 0], [1, 1]])}
        return solve(coupled, 0.0, t1, jnp.stack([start, -start]), k, mass=mass, **settings, **given).ys[-1]

    exact, slopes = jax.value_and_grad(coupled_solution, argnums=(1, 2))(t1, start, k)
    found, pull = jax.vjp(end, start, k)
    np.testing.assert_allclose(found, [exact, np.sin(t1) - exact], rtol=1e-7)
    np.testing.assert_allclose(pull(jnp.array([1.0, 0.0])), slopes, rtol=1e-6)
    np.testing.assert_allclose(pull(jnp.array([0.0, 1.0])), [-slope for slope in slopes], rtol=1e-6)


def test_rows_of_a_mass_that_depend_on_others_are_found():
    rng = np.random.default_rng(0)
    regular, sizes = rng.normal(size=(6, 6)), 10.0 ** rng.uniform(-8, 8, 6)
    singular = regular.copy()
    singular[2] = singular[0] - 2 * singular[1] + singular[4]
    singular[5] = 0
    for matrix in (regular, sizes[:, None] * regular, FULL, DIAGONAL, np.diag([1.0, 0.0, 1e-9]), heat_mass(6), jnp.eye(2)):
        assert separation_of(matrix) is None
    for scaled, rounding in ((singular, 1e-14), (sizes[:, None] * singular, 1e-14), (singular.astype(np.float32), 1e-6)):
        separation = separation_of(scaled)
        ((row, others),) = separation.sums
        mass, values = separation.of_mass(scaled)
        assert mass.algebraic_rows == tuple(sorted((row, 5))) and not values[row].any()
        assert {row, *(other for other, _ in others)} == {0, 1, 2, 4}
        summed = separation.of_function(lambda scaled=scaled: jnp.asarray(scaled))()[row]
        np.testing.assert_allclose(summed / np.abs(scaled[row]).max(), 0, atol=30 * rounding)
        assert separation.of_pattern(Pattern.diagonal(6)).mask()[row].tolist() == [True, True, True, False, True, False]


def test_y0_is_mended_or_the_lane_ends_with_its_code():
    def parabola(t, y, height):
        return jnp.stack([-y[0], y[1] ** 2 - height * y[0]])

    def run(height, guess):
        y0 = jnp.stack([1.0, guess])
        return solve(parabola, 0.0, 1.0, y0, height, mass=[1, 0], method="rodas5p", saveat=SaveAt(t0=True, t1=True), **TIGHT)

    heights, guesses = jnp.array([4.0, -4.0, 4.0, 9.0]), jnp.array([1.0, 1.0, -3.0, 3.0])
    found = jax.vmap(run)(heights, guesses)
    assert [bool(one) for one in found.result._value == RESULTS.successful._value] == [True, False, True, True]
    assert all_are(run(-4.0, 1.0), "inconsistent_initial_state")
    root = np.array([2.0, -2.0, 3.0])
    kept = np.asarray(found.ys)[[0, 2, 3]]
    np.testing.assert_allclose(kept[:, 0, 1], root, rtol=1e-14)
    np.testing.assert_allclose(kept[:, 1, 1], root * np.exp(-0.5), rtol=1e-7)
    assert np.isnan(found.ys[1, 1]).all()
    at_once = solve(parabola, 0.0, 0.0, jnp.array([1.0, 1.0]), 4.0, mass=[1, 0], method="rodas5p").ys
    np.testing.assert_allclose(at_once[0], [1, 2], rtol=1e-14)


def test_each_lane_may_have_a_mass_of_its_own():
    masses = jnp.stack([jnp.asarray(FULL), jnp.asarray(FULL + np.diag([1.0, 0, 2])), jnp.eye(3)])
    told = Solver("rodas4", **TIGHT)

    def run(mass, pattern=None):
        return told.solve(field, 0.0, 2.0, Y0, 1.3, mass=mass, mass_pattern=pattern).ys

    found = jax.vmap(lambda mass: run(mass, FULL != 0))(masses)
    for mass, lane in zip(masses, found, strict=True):
        np.testing.assert_allclose(lane, run(np.asarray(mass)), rtol=1e-12)
    np.testing.assert_allclose(jax.vmap(run)(masses), found, rtol=1e-12)


def test_places_of_buffers_change_no_bit():
    def run(**locations):
        solver = Solver("rodas4", controller="fixed", **locations)

        def total(k):
            return jnp.sum(solver.solve(robertson, 0.0, 3.0, ALGEBRAIC["y0"], k, dt0=0.2, mass=[1, 1, 0]).ys ** 2)

        return jax.jit(jax.grad(total))(jnp.asarray(MILD))

    locations = dict.fromkeys(("mass_vector_location", "mass_product_location", "lu_factors_location"), "shared")
    assert_same_bits(run(), run(**locations))


def heat(t, y, args):
    """Linear elements on [0, 1]; the value at the left end is told, that at the right end follows from a flux."""
    n, source = y.size, args
    inner = (y[:-2] - 2 * y[1:-1] + y[2:]) * (n - 1) + source / (n - 1)
    return jnp.concatenate([(y[0] - jnp.cos(t))[None], inner, (y[-1] - y[-2] + 0.1 * y[-1] ** 3)[None]])


def heat_mass(n):
    mass = (np.diag(np.full(n, 4.0)) + np.diag(np.ones(n - 1), 1) + np.diag(np.ones(n - 1), -1)) / (6 * (n - 1))
    mass[[0, -1]] = 0
    mass[:, [0, -1]] = 0
    return mass


@functools.cache
def eliminated_heat(n):
    """The inner components at the end, of the same equation without its algebraic components."""
    inverted = np.linalg.inv(heat_mass(n)[1:-1, 1:-1])

    def eliminated(t, y, args):
        last = y[-1]
        for _ in range(8):
            last = last - (last - y[-1] + 0.1 * last**3) / (1 + 0.3 * last**2)
        whole = jnp.concatenate([jnp.cos(t)[None], y, last[None]])
        return inverted @ heat(t, whole, args)[1:-1]

    return solve(eliminated, 0.0, 0.3, np.zeros(n - 2), 2.0, method="rodas4", rtol=1e-8, atol=1e-10).ys


@pytest.mark.parametrize(
    ("pattern", "linear_solver", "method"),
    [("known", "dense", "rodas4"), ("full", "dense", "rodas4"), ("known", "sparse", "rodas4"), ("known", "sparse", "kvaerno4"),
     ("known", "sparse", "radau_iia_5")],
)
def test_large_matrices(pattern, linear_solver, method):
    n = 8
    y0, mask = np.zeros(n), None
    if pattern == "full":
        mask = np.ones((n, n), bool)
        mask[[0, -1]] = mask[:, [0, -1]] = False
    run = Solver(method, rtol=1e-8, atol=1e-10, linear_solver=linear_solver)
    found = run.solve(heat, 0.0, 0.3, y0, 2.0, mass=heat_mass(n), mass_pattern=mask).ys
    np.testing.assert_allclose(found[:, 1:-1], eliminated_heat(n), rtol=1e-6, atol=1e-9)


# --- Derivatives


def differences(function, point, names, step=1e-5):
    found = {}
    for name in names:
        value, rows = np.asarray(point[name], float), []
        for index in np.ndindex(value.shape):
            moved = [function({**point, name: value + sign * step * _unit(value.shape, index)}) for sign in (1, -1)]
            rows.append((np.asarray(moved[0]) - np.asarray(moved[1])) / (2 * step))
        found[name] = np.stack(rows).reshape(value.shape)
    return found


def _unit(shape, index):
    unit = np.zeros(shape)
    unit[index] = 1
    return unit


WEIGHTS = np.array([[0.3, -1.0, 2.0], [1.5, 0.7, -0.4], [2.0, 1.0, -3.0], [1.0, 0.2, 0.9]])


def of_invertible(point, method="rodas5p"):
    found = solve(field, point["t0"], 2.0, point["y0"], point["rate"], mass=point["mass"], method=method,
                  saveat=SaveAt(t0=True, ts=jnp.array([0.9, 1.3]), t1=True), dt0=0.07, controller="fixed",
                  **SOLVED[method])  # fmt: skip
    return jnp.sum(jnp.sin(found.ys) * WEIGHTS)


EXACT = {"newton_rtol": 1e-11, "newton_atol": 1e-12}
SOLVED = {"rodas5p": {}, "kvaerno3": EXACT, "l_stable_sdirk4": EXACT, "radau_iia_3": EXACT}
# Of one dtype, and so compiled once for those moved, too.
INVERTIBLE = {"t0": np.float64(0.1), "y0": Y0, "rate": np.float64(1.3), "mass": FULL + 0.1}


@pytest.mark.parametrize("method", list(SOLVED))
def test_derivatives_with_an_invertible_mass(method):
    function = lambda point: of_invertible(point, method)  # noqa: E731
    point = jax.tree.map(jnp.asarray, INVERTIBLE)
    solved = jax.jit(jax.value_and_grad(function))
    expected = differences(lambda point: solved(point)[0], point, list(point))
    backwards, forwards = solved(point)[1], jax.jit(jax.jacfwd(function))(point)
    for name, value in expected.items():
        np.testing.assert_allclose(backwards[name], value, rtol=2e-6, atol=1e-8, err_msg=name)
        np.testing.assert_allclose(forwards[name], backwards[name], rtol=1e-7, atol=1e-9, err_msg=name)


@pytest.mark.parametrize("method", ["rodas5p", "kvaerno3", "radau_iia_3"])
def test_second_derivatives_by_the_mass(method):
    def function(scale, power):
        mass = jnp.asarray(FULL) * jnp.stack([scale, 1.0, power])
        return of_invertible({**INVERTIBLE, "mass": mass, "rate": scale * power}, method)

    at, step = jnp.array([1.2, 0.8]), 1e-5
    gradient = jax.jit(jax.grad(lambda z: function(*z)))
    expected = [(gradient(at.at[i].add(step)) - gradient(at.at[i].add(-step))) / (2 * step) for i in range(2)]
    np.testing.assert_allclose(jax.jit(jax.jacfwd(gradient))(at), expected, rtol=1e-5, atol=1e-7)
    if method != "kvaerno3":  # whose tangents are Newton's iterations', as the last one's
        np.testing.assert_allclose(jax.jit(jax.jacfwd(jax.jacfwd(lambda z: function(*z))))(at), expected, rtol=1e-5, atol=1e-7)


def of_robertson(point, method="rodas5p", ts=()):
    saveat = SaveAt(t0=True, ts=jnp.asarray(ts), t1=True) if ts else SaveAt(t0=True, t1=True)
    settings = EXACT if method != "rodas5p" else {}
    found = solve(robertson, point["t0"], 3.0, point["y0"], point["k"], mass=[1, 1, 0], method=method, saveat=saveat,
                  dt0=0.07, controller="fixed", **settings)  # fmt: skip
    return jnp.sum(jnp.sin(found.ys) * WEIGHTS[: found.ts.size])


ALGEBRAIC = {"t0": np.float64(0.5), "y0": np.array([0.8, 0.1, 0.3]), "k": MILD}


@pytest.mark.parametrize("method", ["rodas5p", "kvaerno3", "sdirk2", "radau_iia_5"])
def test_derivatives_of_a_differential_algebraic_equation(method):
    ts = (0.9, 1.7) if method in ("rodas5p", "radau_iia_5") else ()
    function = lambda point: of_robertson(point, method, ts)  # noqa: E731
    point = jax.tree.map(jnp.asarray, ALGEBRAIC)
    solved = jax.jit(jax.value_and_grad(function))
    expected = differences(lambda point: solved(point)[0], point, list(point))
    backwards, forwards = solved(point)[1], jax.jit(jax.jacfwd(function))(point)
    for name, value in expected.items():
        np.testing.assert_allclose(backwards[name], value, rtol=2e-6, atol=1e-8, err_msg=name)
        np.testing.assert_allclose(forwards[name], backwards[name], rtol=1e-7, atol=1e-9, err_msg=name)
    assert backwards["y0"][2] == 0  # a guess


def test_second_derivatives_of_a_differential_algebraic_equation():
    point, step = jax.tree.map(jnp.asarray, ALGEBRAIC), 1e-5
    gradient = jax.jit(jax.grad(lambda k: of_robertson({**point, "k": k})))
    k = point["k"]
    expected = [(gradient(k.at[i].add(step)) - gradient(k.at[i].add(-step))) / (2 * step) for i in (0, 3, 4)]
    found = jax.jit(jax.jacfwd(gradient))(k)
    np.testing.assert_allclose(found[jnp.array([0, 3, 4])], expected, rtol=1e-5, atol=1e-6)


def test_between_steps_cubics_of_algebraic_components_have_no_derivative():
    point = jax.tree.map(jnp.asarray, ALGEBRAIC)
    with pytest.raises(NotImplementedError, match="kvaerno3.*rodas5p"):
        jax.grad(lambda k: of_robertson({**point, "k": k}, "kvaerno3", (0.9, 1.7)))(point["k"])


# --- Jacobians that are given


def jacobian(t, y, k):
    fast = k[2] * y
    return jnp.array([
        [-k[0], fast[2], fast[1]], [k[0], -fast[2] - 2 * k[1] * y[1], -fast[1]], [1.0, 1.0, 1.0]
    ])  # fmt: skip


@pytest.mark.parametrize("method", ["rodas5p", "kvaerno5"])
def test_a_jacobian_and_its_sparsity_may_be_given(method):
    y0 = np.array([1.0, 0.0, 0.0])

    def run(**given):
        return solve(robertson, 0.0, 40.0, y0, ROBERTSON, mass=[1, 1, 0], method=method, **TIGHT, **given)

    expected, full = run(), np.ones((3, 3))
    for given in ({"jac": jacobian}, {"jac_sparsity": full}, {"jac": jacobian, "jac_sparsity": full.astype(bool)}):
        np.testing.assert_allclose(run(**given).ys, expected.ys, rtol=1e-7)
    chain = lambda t, y, args: jnp.stack([-y[0], y[0] - 1e3 * y[1], y[1] - y[2]])  # noqa: E731
    bidiagonal = np.tri(3, k=0) - np.tri(3, k=-2)
    chained = [solve(chain, 0.0, 1.0, y0, method=method, jac_sparsity=one).ys for one in (None, bidiagonal)]
    np.testing.assert_allclose(*chained, rtol=1e-12)


def test_solve_ivp_takes_scipys_jacobian():
    def jac(t, y, mu):
        return jnp.array([[0.0, 1.0], [-2 * mu * y[0] * y[1] - 1, mu * (1 - y[0] ** 2)]])

    settings = {"args": (10.0,), "rtol": 1e-8, "atol": 1e-10}
    expected = solve_ivp(van_der_pol, (0.0, 10.0), [2.0, 0.0], "rodas5p", **settings).y
    found = solve_ivp(van_der_pol, (0.0, 10.0), [2.0, 0.0], "rodas5p", jac=jac, **settings).y
    np.testing.assert_allclose(found, expected, rtol=1e-7)
    matrix = np.array([[-1.0, 0.0], [1.0, -1e3]])
    linear = solve_ivp(lambda t, y: jnp.asarray(matrix) @ y, (0.0, 1.0), [1.0, 0.0], "rodas4", jac=matrix, rtol=1e-8)
    np.testing.assert_allclose(linear.y[0, -1], np.exp(-1), rtol=1e-6)


def test_what_is_wrong_is_said():
    def run(**given):
        return solve(robertson, 0.0, 1.0, np.array([1.0, 0.0, 0.0]), ROBERTSON, **{"method": "rodas5p", **given})

    for given, message in [
        ({"method": "tsit5", "mass": [1, 1, 0]}, "mass is given, but method 'tsit5' is explicit.*rodas5p"),
        ({"method": "tsit5", "jac": jacobian}, "jac is given, but method 'tsit5' is explicit.*leave it out"),
        ({"method": "tsit5", "jac_sparsity": np.eye(3)}, "jac_sparsity is given, but method 'tsit5' is explicit"),
        ({"mass": np.eye(2)}, r"mass has shape \(2, 2\), where y0 has 3 components"),
        ({"mass": [1, 1, 1j]}, "mass has dtype complex128"),
        ({"mass": [1, 1, np.inf]}, "mass has values that are not finite"),
        ({"mass_pattern": [1, 1, 0]}, "mass_pattern is given without a mass"),
        ({"mass": [1, 1, 0], "mass_pattern": [1, 0, 1]}, r"mass has an entry at \(1,\) where mass_pattern has none"),
        ({"mass": [1, 1, 0], "mass_pattern": np.eye(3)}, r"mass_pattern has shape \(3, 3\): expected \(3,\)"),
        ({"mass": [1, 1, 0], "method": "implicit_midpoint", "dt0": 0.1}, "implicit_midpoint.*stiffly accurate"),
        ({"mass": [1, 1, 0], "method": "gauss_legendre_4", "dt0": 0.1}, "gauss_legendre_4.*stiffly accurate"),
        ({"mass": [1, 1, 0], "method": "ros3p", "saveat": SaveAt(ts=[0.5])}, "ros3p.*no values between steps of its own"),
        ({"jac": lambda t, y, k: jacobian(t, y, k).T}, "differs from the Jacobian of f in 6 of 9 entries.*transposed"),
        ({"jac": lambda t, y, k: jacobian(t, y, k) + jnp.eye(3)}, r"most at \[\d, \d\]: jac has"),
        ({"jac": lambda t, y, k: y}, r"jac returns an array of shape \(3,\): expected \(3, 3\)"),
        ({"jac_sparsity": np.tri(3)}, r"jac_sparsity lacks 3 entries that f's Jacobian has, as \[0, 1\]"),
        ({"jac_sparsity": np.ones(3)}, r"jac_sparsity has shape \(3,\): expected \(3, 3\)"),
        ({"mass_matrix": 1}, "use mass="),
    ]:
        with pytest.raises(ValueError, match=message):
            run(**given)
    for given, message in [
        ({"mass": "M"}, "mass is 'M' of type str"),
        ({"jac": np.eye(3)}, r"expected a function jac\(t, y, args\)"),
    ]:
        with pytest.raises(TypeError, match=message):
            run(**given)
    with pytest.raises(ValueError, match="mass.*an argument of solve"):
        Solver("rodas5p", mass=[1, 1, 0])
    with pytest.raises(TypeError, match="jac_sparsity is a traced value"):
        jax.jit(lambda one: run(jac_sparsity=one).ys)(jnp.ones((3, 3)))


def test_ends_of_steps_and_jumps():
    """Algebraic equations hold at the end of a step, also where the method starts again behind it."""

    def run(**times):
        given = dict(mass=np.array([1.0, 0.0]), method="rodas5p", saveat=SaveAt(steps=True), max_steps=90, **TIGHT)
        return solve(lambda t, y, _: jnp.stack([-y[0], y[0] ** 2 - y[1]]), 0.0, 2.0, jnp.array([1.0, 1.0]), **given, **times)

    for times in ({"step_ts": [0.3, 1.1]}, {"jump_ts": [0.3], "step_ts": [1.1]}):
        found = run(**times)
        taken = np.isfinite(found.ts)
        assert {0.3, 1.1} <= set(np.asarray(found.ts).tolist())
        np.testing.assert_allclose(found.ys[taken], np.exp(np.outer(-found.ts[taken], [1, 2])), rtol=1e-7)


@pytest.mark.parametrize("derivative", [None, "vjp"])
def test_cuda_images_are_built(derivative):
    """Backwards also over jumps, behind which algebraic equations are solved anew."""
    shapes = {"mass": jax.ShapeDtypeStruct((3, 3), "float32"), "mass_pattern": np.diag([1, 1, 0])}
    if derivative is not None:
        affected = Event(lambda t, y, k: y[2] - 0.1, affect=lambda t, y, k: y.at[0].add(-0.01))
        shapes |= {"events": affected, "doses": Doses(0.5, 1.0, into=lambda y: y[1], duration=0.1)}
    y0 = jax.ShapeDtypeStruct((3,), "float32")
    look = Solver("rodas4").inspect(
        robertson, 0.0, 1.0, y0, jax.ShapeDtypeStruct((5,), "float32"), target="cuda:90", batched=("y0", "mass"),
        derivative=derivative, **shapes,
    )  # fmt: skip
    assert ".f64" not in look.ptx and look.registers > 0
