"""Numbers of a whole trajectory: against closed forms and NumPy's of a fine grid, over windows, of functions, of lanes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from solve_helpers import assert_same_bits, code, lorenz, stacked

from jax_cubie import RESULTS, Doses, Driver, SaveAt, Solver, Summary, check_successful, solve, steady_state
from jax_cubie.outputs.quadrature import gauss, with_slopes
from jax_cubie.solution import CODES

Y0 = {"x": np.array(0.3), "v": np.array(1.0)}
DAMPING = 0.1


def oscillator(t, y, args):
    """A damped oscillator of angular frequency 1."""
    return {"x": y["v"], "v": -(1 + DAMPING**2) * y["x"] - 2 * DAMPING * y["v"]}


def place(t):
    return np.exp(-DAMPING * t) * (0.3 * np.cos(t) + 1.03 * np.sin(t))


def speed(t):
    return -DAMPING * place(t) + np.exp(-DAMPING * t) * (-0.3 * np.sin(t) + 1.03 * np.cos(t))


def force(t):
    return -(1 + DAMPING**2) * place(t) - 2 * DAMPING * speed(t)


def energy(t, y, args):
    return y["x"] * y["v"] + 0.1 * t


KINDS = ("mean", "std", "rms", "min", "max", "time_of_min", "time_of_max")


def asked(**window):
    """All kinds at once, so that they share a kernel."""
    sums = {} if "every" in window else {"integral": Summary.integral(**window)}
    return {
        **{kind: getattr(Summary, kind)(**window) for kind in KINDS},
        **sums,
        "peaks": Summary.peaks(3, **window),
        "troughs": Summary.troughs(1, **window),
        "crossings": Summary.crossings(**window),
        "up": Summary.crossings(0.3, direction=1, **window),
        "first": Summary.first_crossing(0.3, **window),
        "last": Summary.last_crossing(0.3, direction=-1, **window),
    }


def crossings(t, x, level, direction):
    before, after = x[:-1] - level, x[1:] - level
    up, down = (before < 0) & (after >= 0), (before > 0) & (after <= 0)
    there = np.flatnonzero({0: up | down, 1: up, -1: down}[direction])
    return t[there] + (t[there + 1] - t[there]) * (before / (before - after))[there]


def expected(function, t1, every=None, start=None):
    """The same of a closed form."""
    begin, sign = 0.0 if start is None else start, np.sign(t1)
    if every is None:
        t = np.linspace(begin, t1, 400_001)
    else:
        t = begin + sign * every * np.arange(int(abs(t1 - begin) / every + 1e-6) + 1)
    x = function(t)

    def mean(values):
        return values.mean() if every else np.trapezoid(values, t) / (t1 - begin)

    peaks = 1 + np.flatnonzero((x[1:-1] > x[:-2]) & (x[1:-1] > x[2:]))
    troughs = 1 + np.flatnonzero((x[1:-1] < x[:-2]) & (x[1:-1] < x[2:]))
    first, last = crossings(t, x, 0.3, 0), crossings(t, x, 0.3, -1)
    return {
        "mean": mean(x), "std": np.sqrt(mean((x - mean(x)) ** 2)), "rms": np.sqrt(mean(x**2)), "min": x.min(), "max": x.max(),
        "time_of_min": t[x.argmin()], "time_of_max": t[x.argmax()], "integral": np.trapezoid(x, t),
        "peaks": (len(peaks), t[peaks], x[peaks]), "troughs": (len(troughs), t[troughs], x[troughs]),
        "crossings": len(crossings(t, x, 0.0, 0)), "up": len(crossings(t, x, 0.3, 1)),
        "first": first[0] if len(first) else np.nan, "last": last[-1] if len(last) else np.nan,
    }  # fmt: skip


def check(found, wanted, leaf=None, tolerance=1e-7):
    """Times are as exact as the grid's, which is a little wider."""
    for name, value in found.items():
        value, want = value if leaf is None or isinstance(value, tuple) else value[leaf], wanted[name]
        if isinstance(want, tuple):
            number, times, values = (part if leaf is None else part[leaf] for part in value)
            there = min(int(number), times.size)
            assert int(number) == want[0] and np.isnan(times[there:]).all() and np.isnan(values[there:]).all(), name
            np.testing.assert_allclose(times[:there], want[1][:there], atol=40 * tolerance + 3e-5, err_msg=name)
            np.testing.assert_allclose(values[:there], want[2][:there], atol=tolerance, err_msg=name)
        elif name in ("time_of_min", "time_of_max"):
            np.testing.assert_allclose(value, want, atol=40 * tolerance + 3e-5, err_msg=name)
        else:
            np.testing.assert_allclose(value, want, atol=tolerance, rtol=tolerance, err_msg=name)


WINDOWS = {"all": {}, "start": {"start": 2.0}, "every": {"every": 0.125}, "both": {"every": 0.125, "start": 2.0}}


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("sign", [1, -1], ids=("forwards", "backwards"))
@pytest.mark.parametrize("window", WINDOWS.values(), ids=WINDOWS)
def test_kinds_over_windows(window, sign):
    """Of the state, and of a function of it, in one kernel."""
    window = {name: value * sign if name == "start" else value for name, value in window.items()}
    of = {f"{name} of": one for name, one in asked(of=energy, **window).items()}
    found = solve(oscillator, 0.0, sign * 10.0, Y0, rtol=1e-10, atol=1e-10, summaries={**asked(**window), **of}).summaries
    own = {name: value for name, value in found.items() if not name.endswith(" of")}
    check(own, expected(place, sign * 10.0, **window), "x")
    check(own, expected(speed, sign * 10.0, **window), "v")
    others = {name.removesuffix(" of"): value for name, value in found.items() if name.endswith(" of")}
    check(others, expected(lambda t: place(t) * speed(t) + 0.1 * t, sign * 10.0, **window))


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("method", ["bosh3", "kvaerno3", "rodas5p", "radau_iia_5"])
def test_methods(method):
    tolerance = {"rtol": 1e-9, "atol": 1e-9, "dtmax": 1.0}
    found = solve(oscillator, 0.0, 10.0, Y0, method=method, summaries=asked(), **tolerance)
    assert code(found) == CODES["successful"]
    check(found.summaries, expected(place, 10.0), "x", 1e-6)
    check(found.summaries, expected(speed, 10.0), "v", 1e-6)


@pytest.mark.usefixtures("x64")
def test_derivatives_by_time():
    """The first is f, the second its derivative along the solution; those of a function likewise."""
    summaries = {
        "first": Summary.max(derivative=1, start=1.0), "second": Summary.mean(derivative=2),
        "of": Summary.std(lambda t, y, args: t * y["x"], derivative=1), "crossings": Summary.crossings(derivative=1),
    }  # fmt: skip
    found = solve(oscillator, 0.0, 10.0, Y0, rtol=1e-10, atol=1e-10, summaries=summaries).summaries
    np.testing.assert_allclose(found["first"]["x"], expected(speed, 10.0, start=1.0)["max"], rtol=1e-8)
    np.testing.assert_allclose(found["first"]["v"], expected(force, 10.0, start=1.0)["max"], rtol=1e-8)
    np.testing.assert_allclose(found["second"]["x"], expected(force, 10.0)["mean"], rtol=1e-8)
    np.testing.assert_allclose(found["of"], expected(lambda t: place(t) + t * speed(t), 10.0)["std"], rtol=1e-8)
    assert int(found["crossings"]["x"]) == expected(speed, 10.0)["crossings"]


@pytest.mark.usefixtures("x64")
def test_times_are_as_exact_as_the_solution():
    """Of the harmonic oscillator: crossings and extrema at multiples of half of pi."""
    field = lambda t, y, args: jnp.stack([y[1], -y[0]])  # noqa: E731
    summaries = {
        "first": Summary.first_crossing(direction=-1), "last": Summary.last_crossing(), "peaks": Summary.peaks(2),
        "half": Summary.first_crossing(jnp.array([0.5, -0.5])),
    }  # fmt: skip
    found = solve(field, 0.0, 7.0, np.array([0.0, 1.0]), method="vern8", rtol=1e-13, atol=1e-13, summaries=summaries).summaries
    np.testing.assert_allclose(found["first"], [np.pi, np.pi / 2], atol=1e-11)
    np.testing.assert_allclose(found["last"], [2 * np.pi, 1.5 * np.pi], atol=1e-11)
    np.testing.assert_allclose(found["half"], [np.pi / 6, 2 * np.pi / 3], atol=1e-11)
    np.testing.assert_allclose(found["peaks"].times[0], [np.pi / 2, 2 * np.pi], atol=1e-11)
    np.testing.assert_allclose(found["peaks"].values[0], [1.0, 1.0], atol=1e-12)


@pytest.mark.usefixtures("x64")
def test_integrals_converge_with_the_method():
    """The integral of the state is as another component of it would be."""
    for method, order in (("heun", 2), ("bosh3", 3), ("tsit5", 5), ("vern7", 7)):
        errors = []
        for steps in (16, 32):
            found = solve(
                lambda t, y, args: y * jnp.cos(t), 0.0, 2.0, np.array([1.0]), method=method, controller="fixed",
                dt0=2.0 / steps, summaries={"own": Summary.integral(), "of": Summary.integral(lambda t, y, args: y**2)},
            ).summaries  # fmt: skip
            t = np.linspace(0, 2, 2_000_001)
            exact = [np.trapezoid(np.exp(power * np.sin(t)), t) for power in (1, 2)]
            errors.append([abs(found["own"][0] - exact[0]), abs(found["of"][0] - exact[1])])
        slopes = np.log2(np.array(errors[0]) / np.array(errors[1]))
        assert (slopes > order - 0.35).all(), (method, slopes)


def test_sums_over_points():
    """Exact for polynomials of the degree that the method's order asks for."""
    for order in range(1, 13):
        for rule in (gauss(order), with_slopes(order)):
            for degree in range(order):
                ends = rule.ends[0] * (degree == 0) + rule.ends[1] + rule.slopes[0] * (degree == 1) + rule.slopes[1] * degree
                inside = sum(weight * point**degree for weight, point in zip(rule.weights, rule.points, strict=True))
                assert inside + ends == pytest.approx(1 / (degree + 1), rel=1e-11)
        assert len(with_slopes(order).points) < max(len(gauss(order).points), 1)


def counting(t, y, args):
    return {"points": 0, "above": y[0] > 15, "largest": y, "end": t}


def count(carry, t, y, args):
    return {
        "points": carry["points"] + 1,
        "above": carry["above"] | (y[0] > 15),
        "largest": jnp.maximum(carry["largest"], y),
        "end": t,
    }


@pytest.mark.parametrize("window", [{}, {"start": 2.0}, {"every": 0.25}, {"every": 0.25, "start": 2.0}, {"start": 9.0}])
def test_functions_of_points(window, platform):
    """Of all ends of steps, or of even times; nothing where there is no point."""
    y0 = np.array([1.0, 0.0, 0.0], np.float32)
    summaries = {
        "own": Summary(counting, count, **window),
        "twice": Summary(counting, count, lambda carry: (2 * carry["points"], carry["largest"][:2]), **window),
    }
    saveat = SaveAt(t0=True, steps=True) if "every" not in window else SaveAt(ts=np.arange(0, 5.1, 0.25, np.float32))
    solution = solve(lorenz, 0.0, 5.0, y0, 28.0, summaries=summaries, saveat=saveat, max_steps=400)
    there = np.isfinite(solution.ts) & (solution.ts >= window.get("start", 0.0))
    states, found = np.asarray(solution.ys)[there], solution.summaries
    if not there.any():
        assert int(found["own"]["points"]) == -(2**31) and np.isnan(found["own"]["largest"]).all()
        return
    assert found["own"]["above"].dtype == bool and bool(found["own"]["above"]) == bool((states[:, 0] > 15).any())
    assert int(found["own"]["points"]) == len(states) - 1 and float(found["own"]["end"]) == 5.0
    assert np.array_equal(found["own"]["largest"], states.max(axis=0)) and int(found["twice"][0]) == 2 * (len(states) - 1)
    assert np.array_equal(found["twice"][1], states.max(axis=0)[:2])


ALL = {"mean": Summary.mean(), "std": Summary.std(), "max": Summary.max(), "when": Summary.time_of_max()}
MORE = {
    "peaks": Summary.peaks(4, lambda t, y, args: y[0] + y[1]),
    "level": Summary.crossings(1.0),
    "fold": Summary(counting, count),
}


def test_lanes_are_as_alone(platform):
    """Under vmap with windows and levels of their own; and those that fail disturb nobody."""
    y0 = np.array([1.0, 0.0, 0.0], np.float32)

    def one(rho, start, every, level, limit):
        own = {"start": Summary.min(start=start), "every": Summary.rms(every=every), "last": Summary.last_crossing(level)}
        return solve(lorenz, 0.0, 3.0, y0, rho, summaries={**ALL, **MORE, **own}, max_steps=limit)

    columns = ([28.0, 15.0, 21.0, 28.0, 3.0], [0.0, 1.0, 2.5, 7.0, 1.0], [0.1, 0.2, 0.3, 0.1, -1.0], [1.0, 2, 3, 4, 5])
    columns = (*(np.array(column, np.float32) for column in columns), np.array([900, 900, 9, 900, 900]))
    many = jax.vmap(one)(*columns)
    fine = tuple(column[:4] for column in columns)  # alone, the last one has an error
    assert_same_bits(jax.tree.map(lambda leaf: leaf[:4], many.summaries), stacked(one, *fine).summaries)
    ends = ["successful", "successful", "max_steps_reached", "successful", "invalid_input"]
    assert code(many).tolist() == [CODES[end] for end in ends]
    for leaf in jax.tree.leaves(many.summaries):
        for lane in (2, 4):
            assert leaf.dtype == bool or (np.isnan(leaf[lane]) if leaf.dtype.kind == "f" else leaf[lane] == -(2**31)).all()
    assert np.isnan(many.summaries["start"][3]).all() and np.isfinite(many.summaries["start"][:2]).all()
    assert "summaries['peaks'].times" in repr(many)


def test_loops_in_place_of_unrolled_code():
    y0 = np.array([1.0, 0.0, 0.0], np.float32)
    found = [
        solve(lorenz, 0.0, 3.0, y0, 28.0, summaries={**ALL, **MORE}, **settings).summaries for settings in ({}, {"unroll": 1})
    ]
    for one, other in zip(jax.tree.leaves(found[0]), jax.tree.leaves(found[1]), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4)


def test_many_steps_in_float32():
    """A mean of so many steps that a plain sum has lost half of its digits."""
    y0, steps = np.array([1.0, 0.0], np.float32), 200_000
    field = lambda t, y, args: jnp.stack([y[1], -y[0]])  # noqa: E731
    of = {"own": lambda t, y, args: 1.0 + 0 * t, "offset": lambda t, y, args: 100.0 + y[0]}
    summaries = {name: Summary.mean(one) for name, one in of.items()} | {"std": Summary.std(of["offset"])}
    settings = {"method": "rk4", "dt0": 0.01, "max_steps": 2 * steps}
    found = solve(field, 0.0, 0.01 * steps, y0, summaries=summaries, **settings).summaries
    mean = 100 + np.sin(0.01 * steps) / (0.01 * steps)
    assert float(found["own"]) == pytest.approx(1.0, rel=2e-7) and float(found["offset"]) == pytest.approx(mean, rel=3e-7)
    assert float(found["std"]) == pytest.approx(np.sqrt(0.5), rel=5e-4)


def test_squares_of_many_steps_in_float32():
    """Around a circle that attracts, far from 0: sums of squares lose no more digits than the state has."""
    steps, size, offset = 400_000, 2 * np.pi / 500, 10.0

    def field(t, y, args):
        x, v = y[0] - offset, y[1]
        pull = 1 - x**2 - v**2
        return jnp.stack([pull * x - v, pull * v + x])

    settings = {"method": "rk4", "dt0": size, "max_steps": 2 * steps, "summaries": {"std": Summary.std()}}
    found = solve(field, 0.0, size * steps, np.array([offset + 1, 0.0], np.float32), **settings).summaries["std"]
    np.testing.assert_allclose(found, np.sqrt(0.5), rtol=5e-6)


def test_transients_in_float32():
    """Where steps become longer and longer, what numbers were at first is far from what they are then."""
    t1, start = 1000.0, 1000.0
    settings = {"method": "kvaerno5", "rtol": 1e-6, "atol": 1e-6}
    summaries = {"mean": Summary.mean(), "std": Summary.std()}
    found = solve(lambda t, y, args: -y, 0.0, t1, np.array([start], np.float32), summaries=summaries, **settings).summaries
    mean, square = start * (1 - np.exp(-t1)) / t1, start**2 * (1 - np.exp(-2 * t1)) / (2 * t1)
    assert float(found["mean"][0]) == pytest.approx(mean, rel=2e-5)
    assert float(found["std"][0]) == pytest.approx(np.sqrt(square - mean**2), rel=2e-5)


def test_ends_before_t1(platform):
    """Up to where an event ended the lane; over no time at all; from later than t1 on."""
    y0 = np.array([2.0, 1.0], np.float32)
    summaries = {
        "integral": Summary.integral(),
        "mean": Summary.mean(),
        "least": Summary.min(),
        "sample": Summary.max(every=1.0),
    }
    ended = solve(lambda t, y, args: -y, 0.0, 60.0, y0, events=steady_state(1e-3, 1e-3), summaries=summaries)
    assert bool(ended.result == RESULTS.event_occurred)
    assert np.array_equal(ended.summaries["least"], ended.ys[0]) and np.array_equal(ended.summaries["sample"], y0)
    np.testing.assert_allclose(ended.summaries["integral"], y0 - ended.ys[0], rtol=1e-5)
    np.testing.assert_allclose(ended.summaries["mean"], (y0 - ended.ys[0]) / ended.ts[0], rtol=1e-5)
    none = solve(lambda t, y, args: -y, 1.0, 1.0, y0, summaries=summaries)
    check_successful(none)
    assert np.isnan(none.summaries["mean"]).all() and np.array_equal(none.summaries["integral"], [0, 0])
    assert np.array_equal(none.summaries["least"], y0) and np.array_equal(none.summaries["sample"], y0)
    late = {**asked(start=5.0), "fold": Summary(lambda t, y, args: 0, lambda n, t, y, args: n + 1, start=5.0)}
    found = solve(oscillator, 0.0, 4.0, jax.tree.map(np.float32, Y0), summaries=late)
    check_successful(found)
    for name, value in found.summaries.items():
        for leaf in jax.tree.leaves(value):
            if name == "integral":
                assert leaf == 0
            elif name == "fold":
                assert leaf == -(2**31)
            else:
                assert leaf == 0 if leaf.dtype.kind == "i" else np.isnan(leaf).all(), name


def rotating(t, y, rate):
    """A damped oscillator of its own frequency."""
    return jnp.stack([y[1], -(rate**2) * y[0] - 0.2 * y[1]])


def power(t, y, rate):
    return y[0] * y[1] + 0.1 * rate * t


def numbers(kinds, rate, level=0.1, t1=6.0, start=1.005, every=0.31, y0=(0.3, 1.0), **settings):
    """All that has a derivative, one behind the other."""
    late = {"late": Summary.mean(power, start=start), "settled": Summary.std(start=start), "never": Summary.rms(start=9.0)}
    late |= {"all": Summary.integral(power, start=-1.0), "rest": Summary.integral(start=start)}
    some = {"start": start, "every": every}
    extrema = {"max": Summary.max(**some), "time": Summary.time_of_min(power, **some), "troughs": Summary.troughs(1, **some)}
    crossings = {"first": Summary.first_crossing(level, **some), "last": Summary.last_crossing(level, power, **some)}
    asks = {
        "sums": {"mean": Summary.mean(), "std": Summary.std(power), "rms": Summary.rms(), "integral": Summary.integral(power)},
        "extrema": {"max": Summary.max(), "time": Summary.time_of_min(power), "peaks": Summary.peaks(1)},
        "crossings": {"first": Summary.first_crossing(level), "last": Summary.last_crossing(level, power, start=start)},
        "samples": {"mean": Summary.mean(every=every), "std": Summary.std(power, **some), **extrema, **crossings},
        "some": {"max": Summary.max(), "time": Summary.time_of_min(power), "late": late["late"], "std": Summary.std(**some)},
    }
    asks["sums"] |= late
    settings = {"method": "rk4", "dt0": 0.0197, **settings}  # the smallest kernels that there are
    found = solve(rotating, 0.0, t1, jnp.array(y0), rate, summaries=asks[kinds], **settings).summaries
    leaves = [leaf[0] if isinstance(leaf, tuple) else leaf for leaf in jax.tree.leaves(found)]
    return jnp.concatenate([jnp.ravel(leaf) for leaf in leaves if leaf.dtype.kind == "f"])


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("kinds", ["sums", "extrema", "crossings"])
def test_derivatives(kinds):
    """In both modes: by an argument, the level, t1, with which a maximum at the end would move, and where windows begin."""
    inputs, width = (1.1, 0.1, 6.0, 1.005), 1e-5
    differences = []
    for number in range(len(inputs)):
        high, low = (list(inputs), list(inputs))
        high[number] += width
        low[number] -= width
        differences.append((numbers(kinds, *high) - numbers(kinds, *low)) / (2 * width))
    differences = np.nan_to_num(differences)  # of what there is not
    modes = [mode(lambda *given: numbers(kinds, *given), argnums=range(len(inputs))) for mode in (jax.jacfwd, jax.jacrev)]
    for forward, backward, difference in zip(*(jax.jit(mode)(*inputs) for mode in modes), differences, strict=True):
        np.testing.assert_allclose(forward, difference, rtol=2e-5, atol=2e-6)
        np.testing.assert_allclose(backward, forward, rtol=1e-10, atol=1e-12)


@pytest.mark.usefixtures("x64")
def test_derivatives_of_samples():
    """As those of what JAX makes of rows."""
    inputs = (1.1, 0.1, 6.0, 1.005, 0.31)
    times = np.concatenate([0.31 * np.arange(20), 1.005 + 0.31 * np.arange(17)])
    order, row_of = np.argsort(times), np.argsort(np.argsort(times))

    def sampled(rate, t1, start, every):
        ts = jnp.concatenate([every * jnp.arange(20), start + every * jnp.arange(17)])
        saved = SaveAt(ts=ts[order])
        ys = solve(rotating, 0.0, t1, jnp.array([0.3, 1.0]), rate, saveat=saved, method="rk4", dt0=0.0197).ys[row_of]
        return ys[:20], ts[20:], ys[20:], jax.vmap(power, (0, 0, None))(ts[20:], ys[20:], rate)[:, None]

    _, _, ys, powers = map(np.array, sampled(1.1, 6.0, 1.005, 0.31))
    crossed = [np.flatnonzero(np.diff(one > 0.1)) for one in (*ys.T, powers[:, 0])]
    troughs = [np.flatnonzero((one[1:-1] < one[:-2]) & (one[1:-1] < one[2:]))[0] + 1 for one in ys.T]

    def of_rows(rate, level, t1, start, every):
        all_of, ts, ys, powers = sampled(rate, t1, start, every)

        def crossing(column, row):
            return ts[row + 1] - every * (column[row + 1] - level) / (column[row + 1] - column[row])

        found = [crossing(ys[:, 0], crossed[0][0]), crossing(ys[:, 1], crossed[1][0]), crossing(powers[:, 0], crossed[2][-1])]
        found += [ys.max(axis=0), all_of.mean(axis=0), powers.std(), ts[powers.argmin()]]
        found += [*(ts[row] for row in troughs), *(ys[row, number] for number, row in enumerate(troughs))]
        return jnp.concatenate([jnp.ravel(one) for one in found])

    np.testing.assert_allclose(numbers("samples", *inputs), of_rows(*inputs), rtol=1e-12)
    wanted = jax.jit(jax.jacfwd(of_rows, argnums=range(5)))(*inputs)
    for mode in (jax.jacfwd, jax.jacrev):
        found = jax.jit(mode(lambda *given: numbers("samples", *given), argnums=range(5)))(*inputs)
        for one, other in zip(found, wanted, strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-10, atol=1e-12)


@pytest.mark.usefixtures("x64")
def test_derivatives_where_nothing_moves():
    """A std that is 0, but for rounding, has the derivative 0, and an rms that is 0; others beside them have their own."""

    def run(rate, shift):
        def field(t, y, args):
            return -args[0] * (y - args[1])

        resting = jnp.array([0.3, 0.0, 1e3]) + jnp.array([1.0, 0.0, 1.0]) * shift
        settings = dict(summaries={"std": Summary.std(), "rms": Summary.rms()}, method="rk4", dt0=0.1)
        found = solve(field, 0.0, 1.0, jnp.append(resting, 1.0), (rate, jnp.append(resting, 0.5)), **settings).summaries
        return jnp.stack([found["std"], found["rms"]])

    assert np.array_equal(run(1.1, 0.0)[:, 1], [0, 0]) and np.all(np.abs(run(1.1, 0.0)[0, [0, 2]]) < 1e-12)
    moving = (run(1.1 + 1e-6, 0.0) - run(1.1 - 1e-6, 0.0))[:, 3] / 2e-6
    for mode in (jax.jacfwd, jax.jacrev):
        by_rate, by_shift = jax.jit(mode(run, (0, 1)))(1.1, 0.0)
        np.testing.assert_allclose(by_rate, [[0, 0, 0, moving[0]], [0, 0, 0, moving[1]]], rtol=1e-3, atol=1e-12)
        np.testing.assert_allclose(by_shift, [[0, 0, 0, 0], [1, 0, 1, 0]], rtol=1e-12)


@pytest.mark.usefixtures("x64")
def test_second_derivatives():
    """Times move, in these: those of extrema, and where windows begin."""

    def total(rate, start):
        return (numbers("some", rate, start=start) ** 2).sum()

    gradient, width = jax.jit(jax.grad(total, (0, 1))), 1e-4
    second = jax.jit(jax.hessian(total, (0, 1)))(1.1, 1.005)
    for number, (more, later) in enumerate(width * np.eye(2)):
        above, below = gradient(1.1 + more, 1.005 + later), gradient(1.1 - more, 1.005 - later)
        np.testing.assert_allclose(second[number], (np.array(above) - np.array(below)) / (2 * width), rtol=1e-5)


def test_second_derivatives_of_an_integral_by_its_end(x64):
    """Of the height of a ramp, which is rate t1^2 / 2: with no other summary, and none of its value."""

    def area(rate, t1):
        ramp = solve(lambda t, y, rate: rate * jnp.ones_like(y), 0.0, t1, 0.0, rate, summaries={"area": Summary.integral()})
        return ramp.summaries["area"]

    second = jax.jit(jax.hessian(area, (0, 1)))(1.3, 0.7)
    np.testing.assert_allclose(second, [[0, 0.7], [0.7, 1.3]], atol=1e-12)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("method", ["rodas5p", "kvaerno3", "rk4"])
def test_derivatives_of_methods_and_ends(method):
    """Of lanes that an event ended, whose length is held fixed, by what they share."""
    settings = {"dt0": 0.05} if method == "rk4" else {"rtol": 1e-8, "atol": 1e-8}
    summaries = {"mean": Summary.mean(), "half": Summary.first_crossing(0.5, lambda t, y, args: y[0])}

    def total(rate):
        def one(y0):
            event, field = steady_state(1e-3, 1e-3), lambda t, y, args: -rate * y
            return solve(field, 0.0, 50.0, y0, events=event, method=method, summaries=summaries, **settings).summaries

        found = jax.vmap(one)(jnp.array([[2.0], [1.0]]))
        return found["half"].sum(), found["mean"].sum()

    half, mean = jax.jit(jax.jacrev(total))(1.0)
    np.testing.assert_allclose(half, -(np.log(4) + np.log(2)), rtol=1e-5)
    if method == "rk4":  # where steps are chosen, a difference has other ends
        width = 1e-7
        np.testing.assert_allclose(mean, (total(1.0 + width)[1] - total(1.0 - width)[1]) / (2 * width), rtol=1e-5)


@pytest.mark.usefixtures("x64")
def test_derivatives_where_a_window_begins_with_a_step():
    """It moves by itself: where steps of one size end, and where a dose is given, which it is behind."""

    def area(start, dose):
        given = {"doses": Doses(1.4, dose, into=lambda y: y)} if dose is not None else {}
        summaries = {"area": Summary.integral(start=start)}
        return solve(lambda t, y, p: -y, 0.0, 3.0, 1.0, method="rk4", dt0=0.1, summaries=summaries, **given).summaries["area"]

    for dose, start in ((None, 0.7), (2.0, 1.4)):
        expected = -np.exp(-start) - (dose or 0.0)
        for transform in (jax.jacfwd, jax.grad):
            moved = jax.jit(transform(lambda start, dose=dose: area(start, dose)))(start)
            np.testing.assert_allclose(moved, expected, rtol=1e-5)


@pytest.mark.usefixtures("x64")
def test_derivatives_beside_summaries():
    """Those of rows are as without; those that are not there are refused, by name, where somebody asks for them."""

    def run(rate, start=0.5, names=("mean", "fold")):
        asks = {"mean": Summary.mean(), "fold": Summary(lambda *_: 0.0, lambda c, *_: c + 1, start=start)}
        asks = {name: asks[name] for name in names}
        return solve(rotating, 0.0, 3.0, jnp.array([0.3, 1.0]), rate, summaries=asks, method="rk4", dt0=0.1)

    plain = jax.jit(jax.grad(lambda rate: run(rate, names=()).ys.sum()))(1.1)
    assert float(jax.jit(jax.grad(lambda rate: run(rate).ys.sum()))(1.1)) == float(plain)
    assert float(jax.jit(jax.jacfwd(lambda rate: run(rate).ys.sum()))(1.1)) == pytest.approx(float(plain), rel=1e-10)
    assert float(jax.grad(lambda rate: run(rate).summaries["mean"][0])(1.1)) != 0
    for mode in (jax.grad, jax.jacfwd, lambda one: jax.jit(jax.grad(one))):
        with pytest.raises(NotImplementedError, match=r"Summary\(init, update, result\) has one only where max_steps is given"):
            mode(lambda rate: run(rate, names=("fold",)).summaries["fold"])(1.1)
    with pytest.raises(NotImplementedError, match=r"Summary\(init, update, result\) has one only where"):
        jax.grad(lambda start: run(1.1, start).summaries["fold"])(0.5)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("every", [None, 0.1])
def test_derivatives_of_folds(every):
    """As those of what JAX makes of rows, in both modes and of second order; of steps in two lanes, of which one takes more."""
    begin, y0 = (None, jnp.array([[0.3, 1.0], [0.5, 5.2]])) if every is None else (1.005, jnp.array([[0.3, 1.0]]))
    more = {"method": "bosh3", "max_steps": 60, "rtol": 1e-4, "atol": 1e-4}

    def init(t, y, rate):
        return {"before": (t, y[0]), "area": 0.0 * t, "points": 1, "fast": y[1] > 0.5}

    def update(carry, t, y, rate):
        """Trapezia, over where it is fast."""
        time, place = carry["before"]
        sums = jnp.sin(place) + jnp.sin(y[0])
        share = jax.lax.cond(carry["fast"], lambda sums: 0.5 * rate * (t - time) * sums, jnp.zeros_like, sums)
        carry = carry | {"before": (t, y[0]), "fast": y[1] > 0.5}
        return carry | {"area": carry["area"] + share, "points": carry["points"] + 1}

    def result(carry):
        return {"area": carry["area"] * carry["points"], "points": carry["points"], "last": carry["before"][1] ** 2}

    def folded(rate, t1, y0):
        asks = {"fold": Summary(init, update, result, every=every, start=begin)}
        found = solve(rotating, 0.0, t1, y0, rate, summaries=asks, **more).summaries["fold"]
        return jnp.stack([found["area"], found["last"]])

    def of_rows(rate, t1, y0):
        saved = {"t0": True, "steps": True} if every is None else {"ts": begin + every * jnp.arange(20)}
        ts, ys = solve(rotating, 0.0, t1, y0, rate, saveat=SaveAt(fn=lambda t, y, args: (t, y), **saved), **more).ys
        carry = init(ts[0], ys[0], rate)
        rows = int(jnp.isfinite(jax.lax.stop_gradient(ts)).sum()) if every is None else 20
        for row in range(1, rows):
            carry = update(carry, ts[row], ys[row], rate)
        return jnp.stack([result(carry)[name] for name in ("area", "last")])

    def end(t1):
        return t1 if every is None else 3.0  # how many samples there are has to be known

    of_all = jax.jacfwd(lambda rate, t1: jnp.stack([of_rows(rate, end(t1), one) for one in y0]), (0, 1))
    wanted = (of_all if every is None else jax.jit(of_all))(1.1, 3.0)
    for mode in (jax.jacfwd, jax.jacrev):
        found = jax.jit(mode(lambda rate, t1: jax.vmap(folded, (None, None, 0))(rate, end(t1), y0), (0, 1)))(1.1, 3.0)
        np.testing.assert_allclose(np.array(found), np.array(wanted), rtol=1e-9, atol=1e-12)
    if every is not None:
        second = [jax.jit(jax.hessian(lambda rate, of=of: of(rate, 3.0, y0[0]).sum())) for of in (folded, of_rows)]
        assert float(second[0](1.1)) == pytest.approx(float(second[1](1.1)), rel=1e-9)


@pytest.mark.usefixtures("x64")
def test_derivatives_of_folds_beside_drivers():
    """They are handed what is looked up at each point: of uneven, even, periodic and jumping tables, which lanes have their own
    values of; beside an infusion. By the values, the points and t0, too."""
    points = np.array([0.0, 0.3, 0.9, 1.1, 1.7, 2.4, 3.2])
    turn = jnp.linspace(0, 2 * np.pi, 8)
    doses = Doses([0.4], [0.6], into=lambda y: y[0], duration=0.5)
    more = {"method": "bosh3", "max_steps": 60, "rtol": 1e-4, "atol": 1e-4, "doses": doses}

    def f(t, y, rate, u):
        return jnp.stack([u["uneven"] * y[1] - rate * y[0], u["even"][0] - y[1] * y[0] + u["jumps"]])

    def init(t, y, rate, u):
        return t, y[0] * u["even"][1], 0.0 * t

    def update(carry, t, y, rate, u):
        """Trapezia, of the last value and the one before."""
        time, before, area = carry
        value = y[0] * u["even"][1] * rate + u["uneven"] * t + jnp.sin(u["jumps"])
        return t, value, area + 0.5 * (t - time) * (value + before)

    def drivers(scale, moved):
        waves = jnp.stack([jnp.cos(turn), 1 + scale * jnp.sin(turn)], -1)
        return {
            "uneven": Driver(points * moved, jnp.sin(points) * scale, kind="pchip"),
            "even": Driver(t0=-0.1, dt=0.37, values=waves, kind="cubic", outside="periodic"),
            "jumps": Driver(points, scale * jnp.cos(points), kind="previous"),
        }

    def folded(t0, rate, scale, moved):
        asks = {"area": Summary(init, update, lambda carry: carry[2], start=0.55)}
        given = drivers(scale, moved)
        return solve(f, t0, 2.6, jnp.array([0.3, 1.0]), rate, drivers=given, summaries=asks, **more).summaries["area"]

    def of_rows(t0, rate, scale, moved):
        rows = SaveAt(t0=True, steps=True, fn=lambda t, y, rate, u: (t, y, u))
        ts, ys, us = solve(f, t0, 2.6, jnp.array([0.3, 1.0]), rate, drivers=drivers(scale, moved), saveat=rows, **more).ys
        known = np.array(jax.lax.stop_gradient(ts))
        inside = np.flatnonzero(np.isfinite(known) & (known >= 0.55))
        first, others = (jax.tree.map(lambda one, rows=rows: one[rows], (ts, ys, us)) for rows in (inside[0], inside[1:]))
        carry = init(*first[:2], rate, first[2])
        return jax.lax.scan(lambda carry, at: (update(carry, at[0], at[1], rate, at[2]), 0), carry, others)[0][2]

    arguments, numbers = (-0.7, 1.1, jnp.array([0.8, 1.3]), 1.05), (0, 1, 2, 3)
    wanted = jax.jacfwd(of_rows, numbers)(*arguments[:2], arguments[2][0], arguments[3])
    for mode in (jax.jacfwd, jax.jacrev):
        found = jax.jit(jax.vmap(mode(folded, numbers), (None, None, 0, None)))(*arguments)
        np.testing.assert_allclose(np.array(found)[:, 0], np.array(wanted), rtol=1e-9, atol=1e-12)


def test_mass_matrices():
    """Integrals, extremes, crossings; and slopes, in which f is not in the place of dy/dt."""
    y0, mass = np.array([1.0, 0.5], np.float32), np.array([1.0, 0.0], np.float32)
    field = lambda t, y, args: jnp.stack([-y[0], y[0] - 2 * y[1]])  # noqa: E731
    summaries = {"integral": Summary.integral(), "most": Summary.max(), "when": Summary.first_crossing(0.25)}
    summaries["slope"] = Summary.mean(derivative=1)
    found = solve(field, 0.0, 2.0, y0, mass=mass, method="rodas5p", summaries=summaries).summaries
    np.testing.assert_allclose(found["integral"], (1 - np.exp(-2)) * y0, rtol=1e-5)
    np.testing.assert_allclose(found["most"], y0, rtol=1e-6)
    np.testing.assert_allclose(found["when"], [np.log(4), np.log(2)], rtol=1e-4)
    np.testing.assert_allclose(found["slope"], (np.exp(-2) - 1) / 2 * y0, rtol=1e-5)


def test_wrong_summaries():
    def run(summaries, y0=np.ones(2, np.float32)):  # noqa: B008
        return solve(lambda t, y, args: -y, 0.0, 1.0, y0, summaries=summaries)

    with pytest.raises(TypeError, match=r"summaries\['peak'\] is 3 of type int: expected a jax_cubie.Summary, as Summary.max"):
        run({"peak": 3})
    with pytest.raises(TypeError, match=r"summaries is .* of type list: expected a dict"):
        run([Summary.max()])
    with pytest.raises(TypeError, match=r"summaries has the name 1 of type int"):
        run({1: Summary.max()})
    with pytest.raises(TypeError, match=r"Summary.max\(of=...\) is 2.0 of type float: expected a function of\(t, y, args\)"):
        Summary.max(2.0)
    with pytest.raises(ValueError, match=r"of of summaries\['a'\] returns no numbers"):
        run({"a": Summary.max(lambda t, y, args: ())})
    with pytest.raises(TypeError, match=r"of of summaries\['a'\] returns has a complex leaf"):
        run({"a": Summary.max(lambda t, y, args: y * 1j)})
    with pytest.raises(NotImplementedError, match=r"`of of summaries\['a'\]` cannot be translated.*: key<fry> has no place"):
        run({"a": Summary.max(lambda t, y, args: jax.random.key(0))})
    with pytest.raises(NotImplementedError, match=r"`result of summaries\['a'\]` cannot be translated.*: float16 has no place"):
        run({"a": Summary(lambda t, y, args: y, lambda c, t, y, args: y, lambda c: jnp.float16(1))})
    with pytest.raises(TypeError, match=r"is called as of\(t, y, args\)"):
        run({"a": Summary.max(lambda y: y)})
    for wrong in (0, -1, 2.5, True):
        with pytest.raises(ValueError, match=r"Summary.peaks\(most=...\)=.*expected an integer of at least 1"):
            Summary.peaks(wrong)
    for wrong in (0.0, -1.0, np.nan, np.inf):
        with pytest.raises(ValueError, match=r"Summary.mean\(every=...\)=.*expected a finite number above 0"):
            Summary.mean(every=wrong)
    with pytest.raises(ValueError, match=r"Summary.mean\(start=...\)=nan: expected a finite number"):
        Summary.mean(start=np.nan)
    with pytest.raises(TypeError, match=r"Summary.mean\(every=...\) is 'a' of type str"):
        Summary.mean(every="a")
    with pytest.raises(ValueError, match=r"every of summaries\['a'\] has shape \(2,\): expected a scalar"):
        run({"a": Summary.mean(every=np.ones(2))})
    with pytest.raises(TypeError, match=r"Summary.integral.* unexpected keyword argument 'every'"):
        Summary.integral(every=0.1)
    with pytest.raises(ValueError, match=r"Summary.crossings\(direction=...\)=2: expected one of 0, 1, -1"):
        Summary.crossings(direction=2)
    with pytest.raises(ValueError, match=r"level of summaries\['a'\] has the structure"):
        run({"a": Summary.crossings({"x": 1.0})})
    with pytest.raises(ValueError, match=r"level of summaries\['a'\] has a leaf of shape \(3,\) where \(2,\) crosses it"):
        run({"a": Summary.crossings(np.ones(3))})
    with pytest.raises(ValueError, match=r"derivative=...\)=3: expected one of 0, 1, 2"):
        Summary.max(derivative=3)
    with pytest.raises(TypeError, match=r"Summary\(update=...\) is 1 of type int: expected a function"):
        Summary(counting, 1)
    with pytest.raises(ValueError, match=r"update of summaries\['a'\] returns a carry of structure"):
        run({"a": Summary(lambda t, y, args: y, lambda carry, t, y, args: (y, y))})
    with pytest.raises(ValueError, match=r"update of summaries\['a'\] returns a carry with a leaf float32\[1\], where init"):
        run({"a": Summary(lambda t, y, args: y, lambda carry, t, y, args: y[:1])})
    with pytest.raises(TypeError, match=r"init of summaries\['a'\] returns a carry with a leaf of dtype uint32"):
        run({"a": Summary(lambda t, y, args: jnp.uint32(1), lambda carry, t, y, args: carry)})
    with pytest.raises(ValueError, match=r"result of summaries\['a'\] returns no arrays"):
        run({"a": Summary(lambda t, y, args: y, lambda carry, t, y, args: carry, lambda carry: ())})
    assert repr(Summary.peaks(3, start=2.0)) == "Summary.peaks(start=2.0, most=3)"
    assert run({}).summaries == {} and run(None).summaries == {}


def test_on_gpus_there_is_no_stack():
    """Built for one: everything is in registers."""
    y0 = np.array([1.0, 0.0, 0.0], np.float32)
    for summaries in (ALL, {"peaks": Summary.peaks(2), "last": Summary.last_crossing(1.0)}):
        built = Solver().inspect(lorenz, 0.0, 5.0, y0, 28.0, summaries=summaries, target="cuda:90")
        assert built.spill_bytes == built.stack_bytes == 0 and built.buffers["state_summary"][1] > 0
