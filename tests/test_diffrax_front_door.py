"""jax_cubie.diffrax answers as diffrax does: over pairs of options, and in what diffrax's documentation shows of ODEs."""

import sys

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import lineax
import numpy as np
import optimistix
import pytest
from solve_helpers import pairwise, python

import jax_cubie.diffrax as cubie
from jax_cubie.diffrax.twins import newton_of

TERM = diffrax.ODETerm(lambda t, y, args: jnp.stack([y[1], -args * y[0] + jnp.cos(3 * t)]))
Y0 = np.array([1.0, 0.0])
TS = np.array([0.0, 0.1, 0.35, 0.7, 1.2, 1.9, 2.0])
SOLVERS = [diffrax.Bosh3(), diffrax.Tsit5(), diffrax.Dopri8()]
# With the first step; each with an error that is more than rounding.
CONTROLLERS = {
    "constant": (lambda sign: diffrax.ConstantStepSize(), 0.3),
    "steps": (lambda sign: diffrax.StepTo(sign * np.array([0.0, 0.1, 0.15, 0.6, 1.1, 1.7, 2.0])), None),
    "pid": (lambda sign: diffrax.PIDController(rtol=1e-4, atol=1e-5), 0.5),
    "pid, more of it": (
        lambda sign: diffrax.PIDController(
            rtol=1e-3, atol=np.array([1e-4, 1e-3]), pcoeff=0.3, icoeff=0.4, dcoeff=0.1, safety=0.8, factormax=4.0, dtmin=0.02,
            dtmax=0.4, error_order=3.5,
        ),
        0.2,
    ),
}  # fmt: skip


def product(t, y, args):
    return {"product": t * y[0], "args": jnp.asarray(args)}


def subs(sign):
    """Ends, given times and steps, each with what is kept of it."""
    end, early = diffrax.SubSaveAt(t1=True), diffrax.SubSaveAt(ts=sign * TS[1:4], fn=product)
    late = diffrax.SubSaveAt(t0=True, ts=sign * TS[2:], fn=lambda t, y, args: y[1])
    return diffrax.SaveAt(subs={"end": end, "some": [early, (late,)], "steps": diffrax.SubSaveAt(steps=3, t1=True)})


SAVES = {
    "times": lambda sign: diffrax.SaveAt(t0=True, ts=sign * TS, t1=True, fn=product),
    "steps": lambda sign: diffrax.SaveAt(t0=True, ts=sign * TS[1:4], steps=2, t1=True),
    "subs": subs,
}
PAIRS = pairwise(
    {
        "solver": SOLVERS, "controller": list(CONTROLLERS), "saves": list(SAVES), "kind": ["float64", "backwards", "float32"]
    }  # fmt: skip
)


def same(ours, theirs, rtol):
    """Equal in structure, dtypes, shapes and counts; in values to `rtol`, relative and absolute."""
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    for name in ("num_steps", "num_accepted_steps", "num_rejected_steps", "max_steps"):
        assert ours.stats[name] == theirs.stats[name], name
    assert isinstance(ours.result, diffrax.RESULTS) and bool(ours.result == theirs.result)
    for (path, one), other in zip(jax.tree_util.tree_leaves_with_path(ours), jax.tree.leaves(theirs), strict=True):
        one, other, path = np.asarray(one), np.asarray(other), jax.tree_util.keystr(path)
        assert (one.dtype, one.shape) == (other.dtype, other.shape), path
        np.testing.assert_allclose(one, other, rtol=rtol, atol=rtol, err_msg=path)


@pytest.mark.parametrize("case", PAIRS, ids=lambda case: "-".join(str(value).partition("(")[0] for value in case.values()))
def test_pairs_of_options(case):
    sign = -1 if case["kind"] == "backwards" else 1
    dtype = np.float32 if case["kind"] == "float32" else np.float64
    with jax.enable_x64(dtype == np.float64):
        controller, dt0 = CONTROLLERS[case["controller"]]
        steps, saveat = controller(sign), SAVES[case["saves"]](sign)
        arguments = (TERM, case["solver"], 0.0, sign * 2.0, dt0 and sign * dt0, jnp.asarray(Y0, dtype), 2.0)
        ours, theirs = (
            library.diffeqsolve(*arguments, saveat=saveat, stepsize_controller=steps, max_steps=1000)
            for library in (cubie, diffrax)
        )
        # An error estimate is a small difference of large numbers, so that step sizes have fewer digits in common. In float32
        # diffrax's sizes are differences of rounded times.
        judged = case["controller"].startswith("pid")
        close = 1e-7 if jax.default_backend() == "cpu" else 1e-5  # of logarithms that choose steps a GPU has float32's digits
        same(ours, theirs, (close if judged else 1e-13) if dtype == np.float64 else (2e-3 if judged else 2e-5))


@pytest.mark.parametrize("solver", [diffrax.Euler(), diffrax.Heun(), diffrax.Ralston(), diffrax.Dopri5()])
def test_values_between_steps(solver, x64):
    """Those of each solver are diffrax's, be they a line or a cubic of the stages at hand; steps of a dt0 that does not fit."""
    arguments = (TERM, solver, 0.0, 2.0, 0.3, jnp.asarray(Y0), 2.0)
    ours, theirs = (library.diffeqsolve(*arguments, saveat=diffrax.SaveAt(ts=TS)) for library in (cubie, diffrax))
    same(ours, theirs, 1e-13)


@pytest.mark.parametrize(
    ("x64", "y0", "times", "dtype"),
    [
        (True, np.float32(1), (0, 1, 0.1), "float64"),  # Python's times are of the default float
        (True, np.float32(1), (np.float32(0), 1, 0.1), "float32"),
        (True, 1.0, (np.float32(0), np.float32(1), np.float32(0.1)), "float32"),
        (False, 1, (0, 1, 0.1), "float32"),
        (False, np.array([1, 2], np.float16), (0, 1, None), "float32"),
    ],
)
def test_dtypes(x64, y0, times, dtype):
    """Time promotes the state; dt0=None begins with 0.01."""
    if times[2] is None and diffrax.__version__ != "0.7.2":
        pytest.skip("another version may choose the first step")
    with jax.enable_x64(x64):
        decay = diffrax.ODETerm(lambda t, y, args: -y)
        steps = diffrax.ConstantStepSize() if times[2] else diffrax.PIDController(rtol=1e-3, atol=1e-4)
        arguments = (decay, diffrax.Tsit5(), *times, jnp.asarray(y0))
        ours, theirs = (library.diffeqsolve(*arguments, stepsize_controller=steps) for library in (cubie, diffrax))
        assert ours.ys.dtype == dtype
        same(ours, theirs, 1e-5)


def test_traced_numbers():
    """Times, the first step, tolerances and save times may be traced, and each lane's own, as in diffrax."""

    def solve(library, t1, dt0, rtol, ts):
        return library.diffeqsolve(
            TERM, diffrax.Tsit5(), 0.5, t1, dt0, jnp.asarray(Y0), 2.0, saveat=diffrax.SaveAt(ts=ts, t1=True),
            stepsize_controller=diffrax.PIDController(rtol=rtol, atol=1e-4),
        )  # fmt: skip

    ends, sizes = np.array([2.0, -1.0]), np.array([0.2, -0.5])
    many = [jax.jit(jax.vmap(lambda *lane, lib=lib: solve(lib, *lane))) for lib in (cubie, diffrax)]
    ours, theirs = (one(ends, sizes, np.array([1e-3, 1e-2]), np.stack([0.9 * ends, ends], 1)) for one in many)
    assert np.array_equal(ours.stats["num_steps"], theirs.stats["num_steps"])
    assert np.array_equal(ours.ts, theirs.ts)
    np.testing.assert_allclose(ours.ys, theirs.ys, rtol=2e-3, atol=2e-3)


def test_ends_that_are_equal():
    saveat = diffrax.SaveAt(t0=True, ts=[1.0, 1.0], t1=True)
    arguments = (TERM, diffrax.Tsit5(), 1.0, 1.0, 0.1, jnp.asarray(Y0), 2.0)
    same(*(library.diffeqsolve(*arguments, saveat=saveat) for library in (cubie, diffrax)), 0)
    nothing = cubie.diffeqsolve(*arguments, saveat=diffrax.SaveAt())
    assert nothing.ts is None and nothing.ys is None and int(nothing.stats["num_steps"]) == 0


# --- Implicit solvers


def robertson(t, y, rate):
    a, b, c = y
    slow, back, fast = rate * a, 1e4 * b * c, 3e7 * b * b
    return jnp.stack([back - slow, slow - back - fast, fast])


def spring(t, y, args):
    return jnp.stack([y[1], -args * jnp.sin(y[0]) + jnp.cos(3 * t)])


# Where steps are large, diffrax 0.7.2's VeryChord takes iterations that converge for diverging ones: Kvaerno5 takes four times
# the steps.
CHORD = diffrax.with_stepsize_controller_tols(optimistix.Chord)()


@pytest.mark.parametrize("solver", [
    diffrax.ImplicitEuler(), diffrax.Kvaerno3(), diffrax.Kvaerno5(root_finder=CHORD)
], ids=lambda solver: type(solver).__name__)  # fmt: skip
def test_implicit_solvers_on_a_stiff_system(solver, x64):
    """As many steps, within a tenth, and values of the same accuracy: what Newton's iterations leave over differs."""
    saveat, rtol = diffrax.SaveAt(t0=True, ts=[1.0, 30.0, 1e3], t1=True), 1e-3 if solver.order(TERM) == 1 else 1e-5
    ours, theirs = (
        library.diffeqsolve(
            diffrax.ODETerm(robertson), solver, 0.0, 1e3, 1e-4, jnp.array([1.0, 0.0, 0.0]), 0.04, saveat=saveat,
            stepsize_controller=diffrax.PIDController(rtol=rtol, atol=1e-4 * rtol), max_steps=2000,
        )
        for library in (cubie, diffrax)
    )  # fmt: skip
    assert bool(ours.result == diffrax.RESULTS.successful) and ours.ys.shape == theirs.ys.shape == (5, 3)
    for name in ("num_steps", "num_accepted_steps"):
        assert abs(int(ours.stats[name]) - int(theirs.stats[name])) <= 1 + 0.1 * int(theirs.stats[name]), name
    assert np.array_equal(ours.ts, theirs.ts)
    np.testing.assert_allclose(ours.ys[-1], theirs.ys[-1], rtol=2 * rtol, atol=2e-4 * rtol)
    np.testing.assert_allclose(ours.ys, theirs.ys, rtol=1e-3, atol=1e-8)  # a cubic in a large step follows where it ends


@pytest.mark.parametrize(("solver", "kind"), [
    (diffrax.ImplicitEuler, "float64"), *((diffrax.Kvaerno5, kind) for kind in ("float64", "backwards", "float32"))
])  # fmt: skip
def test_implicit_solvers_with_fixed_steps(solver, kind):
    """What each stage is, and values between steps: the same, as far as the iterations go."""
    exact, sign = (1e-5, 1) if kind == "float32" else (1e-10, -1 if kind == "backwards" else 1)
    with jax.enable_x64(kind != "float32"):
        finder = optimistix.Chord(rtol=exact, atol=exact, norm=optimistix.rms_norm)
        saveat = diffrax.SaveAt(ts=sign * TS[:5] / 2, t1=True)
        arguments = (diffrax.ODETerm(spring), solver(root_finder=finder, root_find_max_steps=30), 0.0, sign * 1.0, sign * 0.1)
        ours, theirs = (
            library.diffeqsolve(*arguments, jnp.asarray(Y0), 2.0, saveat=saveat) for library in (cubie, diffrax)
        )
        same(ours, theirs, 10 * exact)


def test_implicit_solvers_with_traced_numbers():
    """Tolerances of each lane, which are the iteration's, too."""

    def solve(library, rtol):
        return library.diffeqsolve(
            diffrax.ODETerm(spring), diffrax.Kvaerno3(root_finder=CHORD), 0.0, 1.0, 0.1, jnp.asarray(Y0, jnp.float32), 2.0,
            stepsize_controller=diffrax.PIDController(rtol=rtol, atol=1e-4),
        )  # fmt: skip

    ours, theirs = (jax.vmap(lambda r, lib=lib: solve(lib, r))(jnp.array([1e-1, 1e-3])) for lib in (cubie, diffrax))
    assert np.array_equal(ours.stats["num_accepted_steps"], theirs.stats["num_accepted_steps"])
    assert ours.stats["num_steps"][0] < ours.stats["num_steps"][1]
    np.testing.assert_allclose(ours.ys, theirs.ys, rtol=1e-3, atol=1e-3)


JUDGED = diffrax.PIDController(rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize(
    ("finder", "expected"),
    [
        (diffrax.with_stepsize_controller_tols(diffrax.VeryChord)(), {}),
        (diffrax.with_stepsize_controller_tols(optimistix.Chord)(kappa=0.1), {"newton_rtol": 1e-2, "newton_atol": 1e-5}),
        (diffrax.VeryChord(rtol=0.2, atol=0.1, norm=optimistix.rms_norm), {"newton_rtol": 0.2, "newton_atol": 0.1}),
        # no component is larger than the root mean square times the root of 4
        (diffrax.VeryChord(rtol=0.2, atol=0.1), {"newton_rtol": 0.1, "newton_atol": 0.05}),
        (diffrax.VeryChord(rtol=0.2, atol=0.1, kappa=1e-3), {"newton_rtol": 0.01, "newton_atol": 0.005}),
        (diffrax.VeryChord(rtol=0.2, atol=0.1, linear_solver=lineax.LU()), {"newton_rtol": 0.1, "newton_atol": 0.05}),
    ],
    ids=("shared", "kappa", "own", "largest", "largest, kappa", "LU"),
)
def test_settings_of_root_finders(finder, expected):
    found = newton_of(diffrax.Kvaerno3(root_finder=finder, root_find_max_steps=7), JUDGED, jnp.ones(4))
    assert found.pop("newton_max_steps") == 7 and found == pytest.approx(expected)


def test_tolerances_of_components():
    controller = diffrax.PIDController(rtol=1e-3, atol=np.array([1e-3, 1e-4]))
    finder = diffrax.with_stepsize_controller_tols(diffrax.VeryChord)(kappa=1e-1)
    found = newton_of(diffrax.Kvaerno3(root_finder=finder), controller, {"x": jnp.ones(2)})
    np.testing.assert_allclose(found["newton_atol"]["x"], [1e-2, 1e-3], rtol=1e-6)


def test_iterations_that_fail():
    """Where nobody judges steps, the lane ends with diffrax's code; else steps are rejected until max_steps."""
    rough = diffrax.ODETerm(lambda t, y, args: -1e8 * jnp.sign(y - 1 / 3) * jnp.sqrt(jnp.abs(y - 1 / 3)))
    strict = diffrax.Kvaerno3(root_finder=diffrax.VeryChord(rtol=1e-4, atol=1e-4), root_find_max_steps=3)
    for steps in (diffrax.ConstantStepSize(), JUDGED):
        arguments = (rough, strict, 0.0, 1.0, 0.1, jnp.ones(1))
        ours, theirs = (
            library.diffeqsolve(*arguments, stepsize_controller=steps, max_steps=16, throw=False)
            for library in (cubie, diffrax)
        )
        assert ours.result == theirs.result and bool(ours.result != diffrax.RESULTS.successful)
    assert bool(ours.result == diffrax.RESULTS.max_steps_reached)


# --- Events

FALL = diffrax.ODETerm(lambda t, y, args: jnp.stack([y[1], jnp.full_like(y[1], -args)]))
NEWTON = optimistix.Newton(1e-12, 1e-12)


def height(t, y, args, **kwargs):
    return y[0]


def late(t, y, args, **kwargs):
    return t > 1.05


def wave(t, y, args, **kwargs):
    return y[1] + 4 + 3 * jnp.sin(9 * t)


ALL_AT_ONCE = {"height": height, "others": (late, wave)}
EVENTS = {
    "located": lambda finder: diffrax.Event(height, finder),
    "several": lambda finder: diffrax.Event(ALL_AT_ONCE, finder),
    "a bool": lambda finder: diffrax.Event(late, finder),
    "falling": lambda finder: diffrax.Event([wave, height], finder, direction=[False, True]),
    "growing": lambda finder: diffrax.Event([wave], finder, direction=True),
    "never": lambda finder: diffrax.Event(lambda t, y, args, **kwargs: t + jnp.cos(y[0]) + 2, finder),
}


@pytest.mark.parametrize(("kind", "located", "controller"), [
    ("located", False, "constant"), ("located", True, "pid"), ("several", False, "pid"), ("several", True, "constant"),
    ("a bool", True, "pid"), ("falling", False, "constant"), ("falling", True, "constant"), ("growing", False, "pid"),
    ("never", True, "constant"),
])  # fmt: skip
def test_events(kind, located, controller, x64):
    """Which one, when, and what is saved up to there; rows behind are infinite, and the last one is that of the event."""
    steps = diffrax.ConstantStepSize() if controller == "constant" else diffrax.PIDController(rtol=1e-7, atol=1e-7, dtmax=0.2)
    event = EVENTS[kind](NEWTON if located else None)
    saves = {"end": diffrax.SubSaveAt(t0=True, t1=True), "steps": diffrax.SubSaveAt(steps=2, t1=True, ts=[0.45, 1.0])}
    saves["times"] = diffrax.SubSaveAt(ts=np.linspace(0, 3, 13), t1=True, fn=lambda t, y, args: {"t": t, "y": y[0] / t})
    arguments = (FALL, diffrax.Tsit5(), 0.0, 3.0, 0.1, jnp.array([8.0, 1.0]), 8.0)
    ours, theirs = (
        lib.diffeqsolve(
            *arguments, saveat=diffrax.SaveAt(subs=saves), stepsize_controller=steps, event=event, max_steps=60
        )
        for lib in (cubie, diffrax)
    )  # fmt: skip
    assert bool(ours.result == diffrax.RESULTS.event_occurred) == (kind != "never")
    if located and kind in ("a bool", "never"):  # diffrax 0.7.2 saves an end that is a saved step's twice
        ours, theirs = (eqx.tree_at(lambda one: [one.ts["steps"], one.ys["steps"]], one, [0, 0]) for one in (ours, theirs))
    same(ours, theirs, 1e-9)


@pytest.mark.parametrize("finder", [None, NEWTON])
def test_events_backwards_in_many_lanes(finder, x64):
    """Each lane ends at an event of its own, or at t1, or at t0, where a bool is True from the beginning on."""

    def solve(library, speed, limit):
        event = diffrax.Event({"low": height, "fast": lambda t, y, args, **kwargs: jnp.abs(y[1]) > limit}, finder)
        return library.diffeqsolve(
            FALL, diffrax.Tsit5(), 1.0, -2.0, -0.1, jnp.stack([3.0, speed]), 8.0, event=event,
            saveat=diffrax.SaveAt(t0=True, ts=jnp.linspace(1.0, -2.0, 5), t1=True),
        )  # fmt: skip

    speeds, limits = jnp.array([0.0, -1.0, 2.0, 1.0]), jnp.array([5.0, 1e3, 1e3, 0.5])
    ours, theirs = (jax.jit(jax.vmap(lambda *lane, lib=lib: solve(lib, *lane)))(speeds, limits) for lib in (cubie, diffrax))
    ended = np.isfinite(ours.ts).sum(axis=1)
    assert np.array_equal(ours.event_mask["fast"], [True, False, False, True])
    assert np.array_equal(ours.event_mask["low"], theirs.event_mask["low"])
    assert np.array_equal(ours.event_mask["fast"], theirs.event_mask["fast"])
    assert np.array_equal(ours.result._value, theirs.result._value) and ended[3] == 2
    assert np.array_equal(ours.stats["num_steps"], theirs.stats["num_steps"])
    # diffrax has infinite times of both signs.
    for lane, rows in enumerate(ended):
        np.testing.assert_allclose(ours.ts[lane, :rows], theirs.ts[lane, :rows], rtol=1e-9, atol=1e-9)
        np.testing.assert_allclose(ours.ys[lane, :rows], theirs.ys[lane, :rows], rtol=1e-9, atol=1e-9)
        assert np.isinf(ours.ts[lane, rows:]).all() and np.isinf(ours.ys[lane, rows:]).all()


def test_the_example_of_events_without_an_end(x64):
    """diffrax's own: when a ball meets the ground; t1 is infinite."""
    for steps in (diffrax.ConstantStepSize(), diffrax.PIDController(rtol=1e-9, atol=1e-9)):
        arguments = dict(
            terms=FALL, solver=diffrax.Tsit5(), t0=0, t1=jnp.inf, dt0=0.1, y0=jnp.array([10.0, 0.0]), args=8.0,
            event=diffrax.Event(height, optimistix.Newton(1e-12, 1e-12, optimistix.rms_norm)), stepsize_controller=steps,
        )  # fmt: skip
        ours, theirs = (lib.diffeqsolve(**arguments) for lib in (cubie, diffrax))
        same(ours, theirs, 1e-11)
        assert float(ours.ts[0]) == pytest.approx(np.sqrt(2.5), rel=1e-14)
    with pytest.raises(Exception, match="reached max_steps"):
        cubie.diffeqsolve(**arguments | {"event": EVENTS["never"](None), "max_steps": 20})


def test_steady_states(x64):
    """diffrax's own condition, with the controller's tolerances and with others."""
    for condition in (diffrax.steady_state_event(), diffrax.steady_state_event(rtol=1e-3, atol=1e-4, norm=optimistix.max_norm)):
        ours, theirs = (
            lib.diffeqsolve(
                diffrax.ODETerm(lambda t, y, args: args - y), diffrax.Tsit5(), 0.0, jnp.inf, 0.1, jnp.array([1.0, 3.0]), 2.0,
                event=diffrax.Event(condition), stepsize_controller=diffrax.PIDController(rtol=1e-5, atol=1e-3),
            )
            for lib in (cubie, diffrax)
        )  # fmt: skip
        same(ours, theirs, 1e-7)


def test_the_first_in_time():
    """Where diffrax takes the first in their order."""
    later, sooner = (lambda t, y, args, at=at, **kwargs: t - at for at in (0.27, 0.21))
    event = diffrax.Event([later, sooner], NEWTON)
    found = cubie.diffeqsolve(TERM, diffrax.Tsit5(), 0.0, 1.0, 0.3, jnp.asarray(Y0, jnp.float32), 2.0, event=event)
    assert found.ts.tolist() == pytest.approx([0.21]) and [bool(one) for one in found.event_mask] == [False, True]


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_times_on_which_steps_end(sign, x64):
    """All of them are met, those of jumps, too, where diffrax ends and begins beside them; some are never come to."""
    jumps, others = sign * np.array([1.3, 0.7, -0.5]), sign * np.array([0.35, 0.0, 9.0])
    term = diffrax.ODETerm(lambda t, y, args: jnp.where(sign * t < 0.7, 3.0, jnp.where(sign * t < 1.3, -1.0, 2.0)) - y)
    plain = diffrax.PIDController(rtol=1e-8, atol=1e-8)
    nested = diffrax.ClipStepSizeController(diffrax.PIDController(rtol=1e-8, atol=1e-8, step_ts=others), jump_ts=jumps)
    for steps in (nested, diffrax.PIDController(rtol=1e-8, atol=1e-8, jump_ts=jumps, step_ts=others)):
        ours, theirs = (
            lib.diffeqsolve(
                term, diffrax.Dopri5(), 0.0, sign * 2.0, sign * 0.1, jnp.ones(1), stepsize_controller=steps,
                saveat=diffrax.SaveAt(steps=True), max_steps=200,
            )
            for lib in (cubie, diffrax)
        )  # fmt: skip
        taken = int(ours.stats["num_accepted_steps"])
        assert {sign * 0.35, sign * 0.7, sign * 1.3, sign * 2.0} <= set(np.asarray(ours.ts)[:taken].tolist())
        last = int(theirs.stats["num_accepted_steps"]) - 1
        np.testing.assert_allclose(ours.ys[taken - 1], theirs.ys[last], rtol=1e-7)
        assert int(ours.stats["num_rejected_steps"]) <= int(theirs.stats["num_rejected_steps"]) + 1
    without = cubie.diffeqsolve(term, diffrax.Dopri5(), 0.0, sign * 2.0, sign * 0.1, jnp.ones(1), stepsize_controller=plain)
    assert int(without.stats["num_rejected_steps"]) > int(ours.stats["num_rejected_steps"])


def test_lanes_have_times_of_their_own():
    """Implicit ones, too."""

    def solve(library, jump):
        steps = diffrax.PIDController(rtol=1e-5, atol=1e-5, jump_ts=jump[None])
        term = diffrax.ODETerm(lambda t, y, args: jnp.where(t < jump, 1.0, 0.0) - y)
        return library.diffeqsolve(term, diffrax.Kvaerno3(), 0.0, 1.0, 0.1, jnp.zeros(2), stepsize_controller=steps).ys

    jumps = jnp.array([0.3, 0.55, 2.0])
    ours, theirs = (jax.vmap(lambda jump, lib=lib: solve(lib, jump))(jumps) for lib in (cubie, diffrax))
    np.testing.assert_allclose(ours, theirs, atol=1e-4)


def test_gradients_by_the_time_of_an_event(x64):
    """As diffrax's: when a ball meets the ground, and how fast it is then, by where it was dropped."""

    def solve(library, y0):
        found = library.diffeqsolve(
            FALL, diffrax.Tsit5(), 0.0, 10.0, 0.1, y0, 8.0, event=diffrax.Event(height, NEWTON),
            saveat=diffrax.SaveAt(t1=True),
        )  # fmt: skip
        return jnp.stack([found.ts[-1], found.ys[-1, 1]])

    ours, theirs = (jax.jacrev(lambda y0, lib=lib: solve(lib, y0))(jnp.array([10.0, 1.0])) for lib in (cubie, diffrax))
    np.testing.assert_allclose(ours, theirs, rtol=1e-8, atol=1e-10)


# --- Failures


def slow(limit, **settings):
    """A solve that needs 10 steps, and whose vector field is NaN from the time `until` on."""
    decay = diffrax.ODETerm(lambda t, y, args: jnp.where(t > args, jnp.nan, -y))
    return lambda library, until, y0: library.diffeqsolve(
        decay, diffrax.Tsit5(), 0.0, 1.0, 0.1, y0, until, max_steps=limit, **settings
    )


def test_lanes_that_fail():
    """Without throw each lane ends as in diffrax; rows that it did not reach are infinite. With it, any that fails raises, in
    traced code, too."""
    judged = {"stepsize_controller": diffrax.PIDController(rtol=1e-3, atol=1e-4)}
    saveat, until, y0 = diffrax.SaveAt(ts=[0.2, 0.5, 0.9]), jnp.array([2.0, 0.6]), jnp.ones(2)
    for limit, settings in ((200, judged), (4, {}), (200, {})):
        solve, quiet = slow(limit, **settings), slow(limit, saveat=saveat, throw=False, **settings)
        ours, theirs = (
            jax.vmap(lambda t, library=library, quiet=quiet: quiet(library, t, y0))(until) for library in (cubie, diffrax)
        )
        assert np.array_equal(ours.result._value, theirs.result._value)
        for one, other in zip((ours.ts, ours.ys), (theirs.ts, theirs.ys), strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-4)
        wrong = jax.jit(jax.vmap(lambda t, solve=solve: solve(cubie, t, y0).ys))
        if settings or limit == 4:
            with pytest.raises(Exception, match="became NaN" if settings else "reached max_steps"):
                jax.block_until_ready(wrong(until))
        else:  # nobody judges steps, nor their end
            assert np.isnan(wrong(until)[1]).all()


def test_wrong_numbers_raise_in_any_case():
    """Those that are traced, too, without throw."""

    def solve(dt0=0.1, ts=(0.5,), **settings):
        saveat = diffrax.SaveAt(ts=jnp.asarray(ts))
        settings = {"dt0": dt0, "saveat": saveat, "throw": False, **settings}
        return cubie.diffeqsolve(TERM, diffrax.Tsit5(), 0.0, 1.0, y0=jnp.asarray(Y0), args=2.0, **settings)

    for wrong in ({"dt0": jnp.array(-0.1)}, {"ts": (0.5, 0.4)}, {"ts": (0.5, 1.5)}):
        with pytest.raises(RuntimeError, match="values that cannot be solved with"):
            solve(**wrong)
    for ts in ([0.0, 0.5], [0.0, 0.7, 0.5, 1.0], [0.1, 1.0]):
        with pytest.raises(RuntimeError, match=r"StepTo\(ts=...\) has to run from t0 to t1"):
            solve(None, stepsize_controller=diffrax.StepTo(jnp.array(ts)))


# --- Refusals

FIELD = diffrax.ODETerm(lambda t, y, args: -y)
PLAIN = {"rtol": 1e-3, "atol": 1e-3}
NOISE = diffrax.ControlTerm(lambda t, y, args: y, lambda t0, t1: t1 - t0)
KEPT = diffrax.ClipStepSizeController(diffrax.PIDController(**PLAIN), store_rejected_steps=9)
ZERO = diffrax.Event(lambda t, y, args, **kwargs: y)
REFUSED = [
    ({"terms": diffrax.MultiTerm(FIELD, FIELD)}, TypeError, "terms is MultiTerm: .*the sum of the terms as one vector field"),
    ({"terms": NOISE}, TypeError, "terms is ControlTerm: .*to_ode"),
    ({"terms": FIELD.vector_field}, TypeError, r"expected a term; write ODETerm\(vector_field\)"),
    ({"terms": (FIELD, FIELD)}, TypeError, "no splitting methods"),
    ({"terms": diffrax.ODETerm(lambda y, t, args: -y)}, TypeError, "takes the state first"),
    ({"solver": diffrax.KenCarp4()}, ValueError, r"is KenCarp4, .*\(IMEX\), and has no twin.*one of Euler, .*Kvaerno5; or"),
    ({"solver": diffrax.Sil3()}, ValueError, "solver is Sil3, which solves one of two terms implicitly"),
    ({"solver": diffrax.Kvaerno5()}, ValueError, r"root_finder=VeryChord\) has the tolerances .* ConstantStepSize has none"),
    (
        {"solver": diffrax.Kvaerno3(root_finder=optimistix.Newton(rtol=1e-3, atol=1e-3))}, ValueError,
        r"Kvaerno3\(root_finder=Newton\): expected VeryChord or optimistix.Chord",
    ),
    (
        {"solver": diffrax.Kvaerno3(root_finder=diffrax.VeryChord(1.0, 1.0, linear_solver=lineax.GMRES(1.0, 1.0)))},
        ValueError, r"VeryChord\(linear_solver=GMRES\)\): leave linear_solver out",
    ),
    (
        {"solver": diffrax.Kvaerno3(root_finder=diffrax.VeryChord(1e-3, 1e-3, norm=jnp.max))}, ValueError,
        r"VeryChord\(norm=max\)\): expected optimistix.rms_norm or max_norm",
    ),
    ({"solver": diffrax.SemiImplicitEuler()}, ValueError, "solver is SemiImplicitEuler, which has no twin"),
    ({"solver": diffrax.HalfSolver(diffrax.Heun())}, ValueError, "solver is HalfSolver, which has no twin"),
    ({"solver": diffrax.SPaRK()}, ValueError, "solver is SPaRK, which has no twin"),
    ({"solver": diffrax.Tsit5}, TypeError, r"the class Tsit5: expected an object of it, Tsit5\(\)"),
    ({"solver": "tsit5"}, TypeError, "'tsit5' of type str: expected an object of one of Euler"),
    ({"solver": diffrax.Tsit5(scan_kind="lax")}, ValueError, r"Tsit5\(scan_kind='lax'\): leave it out"),
    ({"stepsize_controller": KEPT}, ValueError, r"ClipStepSizeController\(store_rejected_steps=9\): leave it out"),
    ({"stepsize_controller": diffrax.PIDController(**PLAIN, norm=jnp.max)}, ValueError, r"PIDController\(norm=max\): leave"),
    ({"stepsize_controller": diffrax.PIDController(rtol=np.ones(3), atol=0.1)}, ValueError, r"rtol has shape \(3,\)"),
    ({"solver": diffrax.Euler(), "stepsize_controller": diffrax.PIDController(**PLAIN)}, ValueError, "Euler has no error est"),
    ({"stepsize_controller": diffrax.StepTo(jnp.arange(2.0))}, ValueError, "dt0 is given, but .*StepTo"),
    ({"stepsize_controller": "pid"}, TypeError, "'pid' of type str: expected a PIDController"),
    ({"dt0": None}, ValueError, "dt0 is None, but .*ConstantStepSize"),
    ({"adjoint": diffrax.BacksolveAdjoint()}, ValueError, "adjoint is BacksolveAdjoint, .*use RecursiveCheckpointAdjoint"),
    ({"adjoint": diffrax.ImplicitAdjoint()}, ValueError, "adjoint is ImplicitAdjoint"),
    ({"adjoint": diffrax.RecursiveCheckpointAdjoint(checkpoints=3)}, ValueError, r"checkpoints=3\): leave checkpoints out"),
    ({"adjoint": "reverse"}, TypeError, "'reverse' of type str: expected one of RecursiveCheckpointAdjoint, DirectAdjoint"),
    ({"saveat": diffrax.SaveAt(dense=True), "max_steps": None}, ValueError, r"SaveAt\(dense=True\) .*give max_steps="),
    ({"saveat": diffrax.SaveAt(t1=True, solver_state=True)}, ValueError, r"SaveAt\(solver_state=True\): .*y0=ys\[-1\]"),
    ({"saveat": diffrax.SaveAt(steps=True), "max_steps": None}, ValueError, "max_steps is None: give max_steps="),
    ({"saveat": diffrax.SaveAt(subs=[1.0])}, TypeError, "expected SubSaveAts"),
    ({"event": ZERO.cond_fn}, TypeError, r"event is <function .*expected diffrax's Event\(cond_fn"),
    ({"event": ZERO, "stepsize_controller": diffrax.StepTo(jnp.arange(2.0)), "dt0": None}, ValueError, "says itself where"),
    ({"event": diffrax.Event(lambda t, y, args: y)}, TypeError, r"event.cond_fn is called with .*\(t, y, args, \*\*kwargs\)"),
    ({"event": diffrax.Event({"a": lambda *a, **k: jnp.ones(2)})}, ValueError, r"cond_fn\['a'\] returns has shape \(2,\)"),
    ({"event": diffrax.Event(lambda *a, **k: 1)}, ValueError, "what event.cond_fn returns has dtype int32"),
    ({"event": diffrax.Event(lambda t, y, args, **k: 1.0 if y > 0 else 0.0)}, TypeError, "event.cond_fn is traced"),
    ({"discrete_terminating_event": diffrax.DiscreteTerminatingEvent(lambda *a, **k: True)}, ValueError, "write event="),
    ({"solver_state": 1.0}, ValueError, "solver_state is given"),
    ({"controller_state": 1.0}, ValueError, "controller_state is given"),
    ({"made_jump": True}, ValueError, "made_jump is given"),
    ({"progress_meter": diffrax.TextProgressMeter()}, ValueError, "progress_meter is TextProgressMeter: leave it out"),
    ({"y0": 1j}, ValueError, "y0 has dtype complex64: write a complex state as its real and imaginary parts"),
    ({"t1": 1j}, ValueError, "expected real times"),
    ({"max_steps": 0}, ValueError, "max_steps=0: expected an integer of at least 1"),
]


@pytest.mark.parametrize(("change", "kind", "message"), REFUSED, ids=lambda value: value if isinstance(value, str) else "")
def test_refusals(change, kind, message):
    arguments = {"terms": FIELD, "solver": diffrax.Tsit5(), "t0": 0.0, "t1": 1.0, "dt0": 0.1, "y0": 1.0}
    with pytest.raises(kind, match=message):
        cubie.diffeqsolve(**{**arguments, **change})
    if "terms" not in change:  # in traced code, too
        with pytest.raises(kind, match=message):
            jax.make_jaxpr(lambda args: cubie.diffeqsolve(**{**arguments, **change}, args=args).ys)(1.0)


def test_states_of_two_dtypes(x64):
    y0 = (np.float32(1), np.float64(1))
    field = diffrax.ODETerm(lambda t, y, args: y)
    with pytest.raises(ValueError, match="y0 has leaves of float32 and float64"):
        cubie.diffeqsolve(field, diffrax.Tsit5(), np.float32(0), 1, 0.1, y0)


def test_names():
    """All of diffrax is there, and the real one is what it is."""
    from jax_cubie.diffrax import Tsit5, diffeqsolve

    assert Tsit5 is diffrax.Tsit5 and diffeqsolve is not diffrax.diffeqsolve and sys.modules["diffrax"] is diffrax
    assert {name for name in dir(diffrax) if not name.startswith("_")} <= set(dir(cubie))
    with pytest.raises(AttributeError, match="neither jax_cubie.diffrax nor diffrax has 'Tsit6'"):
        _ = cubie.Tsit6


def test_without_diffrax():
    print_error = """
    import sys
    sys.modules["diffrax"] = None
    import jax_cubie
    try:
        import jax_cubie.diffrax
    except ImportError as error:
        print(error)
    """
    assert "pip install 'jax-cubie[diffrax]'" in python(print_error)


# --- What diffrax's documentation shows, written anew


def test_first_solve():
    solution = cubie.diffeqsolve(
        cubie.ODETerm(lambda t, y, args: -y), cubie.Dopri5(), t0=0, t1=3, dt0=0.1, y0=1.0,
        saveat=cubie.SaveAt(ts=[0.0, 1.0, 2.0, 3.0]), stepsize_controller=cubie.PIDController(rtol=1e-5, atol=1e-5),
    )  # fmt: skip
    np.testing.assert_allclose(solution.ys, np.exp(-np.arange(4.0)), rtol=1e-4)
    assert bool(cubie.is_successful(solution.result))


def test_many_coupled_equations(builds):
    """Predators and prey: a tuple as state, numbers as args, many beginnings in one launch; other numbers build nothing."""

    def field(t, y, args):
        prey, predator = y
        birth, hunt, growth, death = args
        return prey * (birth - hunt * predator), predator * (growth * prey - death)

    def solve(library, y0, args):
        saveat, steps = cubie.SaveAt(ts=jnp.linspace(0, 20, 9)), cubie.PIDController(rtol=1e-5, atol=1e-5)
        return library.diffeqsolve(
            cubie.ODETerm(field), cubie.Tsit5(), 0, 20, 0.1, y0, args, saveat=saveat, stepsize_controller=steps
        ).ys

    beginnings = (jnp.linspace(8.0, 12.0, 5), jnp.linspace(3.0, 7.0, 5))
    for args in ((0.4, 0.03, 0.02, 0.3), (0.5, 0.03, 0.02, 0.3)):
        ours, theirs = (jax.vmap(lambda y0, lib=lib: solve(lib, y0, args))(beginnings) for lib in (cubie, diffrax))  # noqa: B023
        for one, other in zip(ours, theirs, strict=True):
            np.testing.assert_allclose(one, other, rtol=2e-3)
    assert builds.count == 1
    nested = jax.vmap(jax.vmap(lambda *y0: solve(cubie, y0, args), in_axes=(0, None)), in_axes=(None, 0))
    assert str(jax.make_jaxpr(nested)(*beginnings)).count("jax_cubie_solve[") == 1


def test_forcing():
    """A drive between data, and a controlled equation that becomes an ordinary one."""
    times = jnp.linspace(0, 10, 9)
    drive = diffrax.LinearInterpolation(times, jnp.sin(times))
    paths = jnp.stack([times, jnp.sin(times)], -1)
    control = diffrax.CubicInterpolation(times, diffrax.backward_hermite_coefficients(times, paths))
    turned = diffrax.ControlTerm(lambda t, y, args: jnp.stack([-y, jnp.cos(y)], -1), control)
    for term, y0 in ((cubie.ODETerm(lambda t, y, args: -y + drive.evaluate(t)), 1.0), (turned.to_ode(), jnp.ones(2))):
        arguments = (term, diffrax.Heun(), 0.0, 10.0, 0.1, y0)
        ours, theirs = (lib.diffeqsolve(*arguments, saveat=diffrax.SaveAt(ts=times)) for lib in (cubie, diffrax))
        same(ours, theirs, 1e-5)


def test_neural_field():
    """A network in a module, many beginnings; what of args is no float stays a constant."""

    class Field(eqx.Module):
        network: eqx.nn.MLP

        def __call__(self, t, y, args):
            return args["scale"] * self.network(y) ** args["power"] if args["on"] else y

    network = eqx.nn.MLP(2, 2, 8, 1, activation=jnp.tanh, final_activation=jnp.tanh, key=jax.random.key(0))

    @eqx.filter_jit
    def run(library, field, beginnings):
        term, saveat = diffrax.ODETerm(field), diffrax.SaveAt(ts=jnp.linspace(0, 2, 4))
        args = {"scale": 0.7, "power": 3, "on": True, "name": "field"}
        solve = lambda y0: library.diffeqsolve(term, diffrax.Tsit5(), 0.0, 2.0, 0.1, y0, args, saveat=saveat).ys  # noqa: E731
        return jax.vmap(solve)(beginnings)

    beginnings = jax.random.normal(jax.random.key(1), (5, 2))
    np.testing.assert_allclose(*(run(library, Field(network), beginnings) for library in (cubie, diffrax)), rtol=1e-4)


@pytest.mark.parametrize("states", [3, 300])
def test_statistics_on_the_way(states):
    """The end in full, a statistic on the way, and steps: in one launch, and no row has more than what is asked of it."""
    ts = jnp.linspace(0, 1, 40)
    way = cubie.SubSaveAt(ts=ts, fn=lambda t, y, args: (y.mean(), t))
    steps = cubie.SubSaveAt(steps=2, fn=lambda t, y, args: y[0])
    saveat = cubie.SaveAt(subs=[cubie.SubSaveAt(t1=True), way, steps])

    def solve(y0):
        field = cubie.ODETerm(lambda t, y, args: -y)
        return cubie.diffeqsolve(field, cubie.Tsit5(), 0.0, 1.0, 0.05, y0, saveat=saveat, max_steps=30)

    y0 = jnp.linspace(0.5, 1.5, states)
    assert str(jax.make_jaxpr(solve)(y0)).count("jax_cubie_solve[") == 1
    if states < 20:
        (end, (means, times), some), (_, saved, at) = solve(y0).ys, solve(y0).ts
        np.testing.assert_allclose(end[0], y0 * np.exp(-1), rtol=1e-5)
        np.testing.assert_allclose(means, np.exp(-ts), rtol=1e-5)
        assert np.array_equal(times, ts) and np.array_equal(saved, ts)
        np.testing.assert_allclose(some[:10], 0.5 * np.exp(-at[:10]), rtol=1e-5)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(("direction", "also"), [(1, {}), (-1, {"t1": True}), (1, {"subs": []})])
def test_the_solution_as_a_function(direction, also):
    """Values, changes and slopes, under jit and vmap, beside what else is saved and alone."""

    def run(library, saveat, y0):
        pid = diffrax.PIDController(rtol=1e-6, atol=1e-6)
        return library.diffeqsolve(
            TERM, diffrax.Tsit5(), 0.0, 2.0 * direction, 0.1 * direction, y0, 2.0, saveat=saveat, stepsize_controller=pid,
            max_steps=99,
        )  # fmt: skip

    ts = direction * jnp.array([0.0, 0.013, 0.7, 1.9999, 2.0])

    def asked(library, saveat, y0):
        found = run(library, saveat, y0)
        each = jax.vmap(lambda t: (found.evaluate(t), found.derivative(t), found.evaluate(0.3 * t, t, left=False)))(ts)
        return each, (found.ts, found.ys)

    many, saveat = jnp.stack([Y0, 2 * Y0]), diffrax.SaveAt(**also, dense=True)
    ours, theirs = (jax.jit(jax.vmap(lambda y0, k=k: asked(k, saveat, y0)))(many) for k in (cubie, diffrax))
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    jax.tree.map(lambda one, other: np.testing.assert_allclose(one, other, rtol=1e-8, atol=1e-8), ours, theirs)
