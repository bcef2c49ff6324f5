"""Events: when they are, what they change, what is kept of them; against closed forms."""


import jax
import jax.numpy as jnp
import numpy as np
import pytest
from solve_helpers import all_are, assert_same_bits, clock, code

from jax_cubie import Doses, Event, SaveAt, Solver, check_successful, solve
from jax_cubie.solution import CODES

# Of each family; steps of one size.
KINDS = {"tsit5": {}, "vern7": {}, "rodas5p": {}, "kvaerno5": {}, "radau_iia_5": {}, "auto": {}, "rk4": {"dt0": 0.37}}
KEPT = 0.875  # of its speed, by a ball that bounces


def ball(t, y, g):
    return jnp.stack([y[1], jnp.full_like(y[1], -g)])


def height(t, y, args):
    return y[0]


def bounce(t, y, args):
    return jnp.stack([y[0], -KEPT * y[1]])


def turning(t, y, args):
    """A point on a circle."""
    return jnp.stack([y[1], -y[0]])


def seen(cond, **settings):
    """An event that ends nothing, and of which 8 are kept."""
    return Event(cond, **{"terminal": False, "record": 8, **settings})


def happened(record):
    """Its times, as many as there were."""
    return np.asarray(record.times)[: int(record.count)]


ONE, CIRCLE = np.zeros(1), np.array([1.0, 0.0])  # of the default float

# --- When they are


@pytest.mark.parametrize(("method", "dtype"), [("vern7", "float32"), *((method, "float64") for method in KINDS)])
def test_a_ball_that_bounces(method, dtype, platform):
    """Twenty impacts, a flight in a step or in many."""
    with jax.enable_x64(dtype == "float64"):
        impacts = Event(height, direction=-1, affect=bounce, record=20)
        found = solve(
            ball, 0.0, 14.0, jnp.array([1.0, 0.0], dtype), jnp.asarray(2.0, dtype), events=impacts, method=method,
            max_steps=400, **KINDS[method],
        )  # fmt: skip
        speeds = KEPT ** np.arange(20.0)
        times = np.cumsum([1.0, *2 * speeds[1:]])
        assert all_are(found, "successful") and int(found.events.count) == 20 and not bool(found.events.ended)
        atol = 2e-12 if dtype == "float64" else 4 * np.spacing(np.float32(times[-1]))
        np.testing.assert_allclose(found.events.times, times, atol=atol, rtol=0)
        np.testing.assert_allclose(found.events.ys[:, 1], -2 * speeds, rtol=1e-4 if dtype == "float32" else 1e-11)
        np.testing.assert_allclose(found.events.ys[:, 0], 0, atol=1e-6 if dtype == "float32" else 1e-14)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("dt0", [0.01, 2.3])
def test_times_are_as_good_as_they_can_be(dtype, dt0, platform):
    """Where the state has no error of its own, to 4 units in the last place, whatever the step; also far from 0."""
    with jax.enable_x64(dtype == "float64"):
        for t0 in (0.0, 1000.0):
            times = np.array([0.7, 1.9, 3.3])
            curved = seen(lambda t, y, args: jnp.exp(y[0]) * (y[0] - 0.7) * (y[0] - 1.9) * jnp.tanh(9 * (y[0] - 3.3)), record=3)
            events = (curved, seen(lambda t, y, args: y[0] - 2.0, record=1))
            found = solve(clock, t0, t0 + 4.0, jnp.zeros(1, dtype), events=events, method="rk4", dt0=dt0, max_steps=500)
            close = 4 * np.spacing(np.asarray(t0 + 3.3, dtype))
            np.testing.assert_allclose(found.events[0].times, t0 + times, atol=close, rtol=0)
            np.testing.assert_allclose(found.events[1].times, [t0 + 2.0], atol=close, rtol=0)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("sign", [1.0, -1.0], ids=("forwards", "backwards"))
def test_zeros_of_an_oscillator(sign, platform):
    """In both directions, as time goes on, and by t alone."""
    events = {
        "all": seen(height), "growing": seen(height, direction=1), "falling": seen(height, direction=-1),
        "of time": seen(lambda t, y, args: jnp.cos(t)),
    }  # fmt: skip
    found = solve(turning, 0.0, sign * 20.0, CIRCLE, events=events, rtol=1e-13, atol=1e-13)
    zeros = sign * np.pi * (np.arange(6) + 0.5)
    assert set(found.events) == set(events) and all_are(found, "successful")
    for name, expected in {"all": zeros, "growing": zeros[1::2], "falling": zeros[::2], "of time": zeros}.items():
        np.testing.assert_allclose(happened(found.events[name]), expected, atol=1e-12, err_msg=name)
    np.testing.assert_allclose(found.events["growing"].ys[:3], 3 * [[0.0, sign]], atol=1e-11)
    assert np.isnan(found.events["growing"].times[3:]).all() and np.isnan(found.events["growing"].ys[3:]).all()


@pytest.mark.usefixtures("x64")
def test_four_zeros_in_one_step(platform):
    """Those of one condition and of two; and a bool that is True at the steps' ends alone."""

    def product(t, y, args):
        return (t - 0.1) * (t - 0.35) * (t - 0.6) * (t - 0.85)

    events = [seen(product), seen(product, record=0), seen(lambda t, y, args: t > 0.5), Event(product, terminal=4)]
    for kept, steps in ((events[:3], None), (events, 5)):
        found = solve(clock, 0.0, 1.0, ONE, events=kept, method="rk4", dt0=1.0)
        np.testing.assert_allclose(happened(found.events[0]), [0.1, 0.35, 0.6, 0.85], atol=1e-15)
        assert int(found.events[1].count) == 4
        assert steps is None or (all_are(found, "event_occurred") and bool(found.events[3].ended))
    np.testing.assert_allclose(happened(found.events[2]), [0.6, 0.85], atol=1e-15)  # these are steps' ends, too
    alone = solve(clock, 0.0, 1.0, ONE, events=events[1:3], method="rk4", dt0=0.25)
    assert [int(one.count) for one in alone.events] == [4, 2]
    assert alone.events[1].times[:2].tolist() == [0.75, 1.0] and int(alone.stats["num_rejected_steps"]) <= 2


def test_bools(platform):
    """At the ends of steps: wherever it is True, where it has become so, where it no longer is."""

    def late(t, y, args):
        return (t > 0.45) & (t < 0.85)

    events = [seen(late, direction=direction) for direction in (0, 1, -1)] + [Event(late, terminal=2)]
    found = solve(clock, 0.0, 1.0, ONE, events=events[:3], method="rk4", dt0=0.25)
    assert [happened(one).tolist() for one in found.events] == [[0.5, 0.75], [0.5], [1.0]]
    ended = solve(clock, 0.0, 1.0, ONE, events=events, method="rk4", dt0=0.25)
    assert ended.ts.tolist() == [0.75] and [bool(one.ended) for one in ended.events] == [False, False, False, True]
    # One that is True from the beginning on has not become so; and is at the end of the first step.
    always = [seen(lambda t, y, args: t >= 0.0, direction=direction) for direction in (0, 1)]
    # A dose makes it so at the end of the next step, be it by the state or by the time.
    asks = [seen(cond, direction=1) for cond in (lambda t, y, args: y[0] > 2.0, lambda t, y, args: t >= 0.5)]
    dosed = solve(clock, 0.0, 1.0, ONE, events=asks, doses=Doses(0.5, 2.0, into=lambda y: y[0]), method="rk4", dt0=0.25)
    assert [happened(one).tolist() for one in dosed.events] == [[0.75], [0.75]]
    counts = solve(clock, 0.0, 1.0, ONE, events=always, method="rk4", dt0=0.5).events
    assert [int(one.count) for one in counts] == [2, 0]


@pytest.mark.usefixtures("x64")
def test_several_at_one_time(platform):
    """All happen, those that are only counted, too: at a step that ends, in the order in which they are given."""
    order = [Event(height, affect=lambda t, y, args, k=k: jnp.array([y[0], y[1], 2 * y[2] + k]), record=4) for k in (0.0, 1.0)]
    others = [seen(height), seen(height, record=0), seen(lambda t, y, args: jnp.cos(t)), seen(height, direction=1, record=0)]
    field = lambda t, y, args: jnp.array([y[1], -y[0], 0.0])  # noqa: E731
    for end in ((), (Event(height, terminal=4),)):
        found = solve(field, 0.0, 11.5, jnp.array([1.0, 0.0, 0.0]), events=[*order, *others, *end], rtol=1e-10, atol=1e-10)
        assert [int(one.count) for one in found.events[:4]] == [4, 4, 4, 4] and int(found.events[5].count) == 2
        # 0 -> (2 * 0) * 2 + 1, four times
        assert found.ys[0, 2] == (21.0 if end else 85.0) and found.events[0].ys[:, 2].tolist() == [0.0, 1.0, 5.0, 21.0]
        assert_same_bits(found.events[0].times, found.events[1].times)
        assert int(found.events[4].count) in ((4,) if not end else (3, 4))
        assert all_are(found, "event_occurred" if end else "successful")


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(("dtype", "jump"), [("float32", 2.1), ("float64", 2.1), ("float64", 2.0)])
def test_at_the_time_of_a_dose(dtype, jump, platform):
    """Events by the time alone, and by a state that counts it, of which the last changes the state: in front of the dose, and
    of what f jumps to; rows on the left of all are in front of both."""

    def field(t, y, level):
        return jnp.stack([-0.5 * y[0] * jnp.where(t <= level, 1.0, 2.0), jnp.ones_like(t)])

    halved = seen(lambda t, y, level: t - level, affect=lambda t, y, level: y * jnp.array([0.5, 1.0], y.dtype))
    events = [seen(lambda t, y, level: y[1] - level), seen(lambda t, y, level: level - t, record=0), halved]
    saved = SaveAt(ts=[jump, jump, 4.0], side=np.array([False, True, False]))
    y0, doses = jnp.array([1.0, 0.0], dtype), Doses(jump, 1.0, into=lambda y: y[0])
    steps = {"events": events, "doses": doses, "saveat": saved, "method": "rk4", "dt0": 0.1}
    found = solve(field, 0.0, 4.0, y0, jnp.asarray(jump, dtype), **steps)
    assert [int(one.count) for one in found.events] == [1, 1, 1]
    close = dict(rtol=20 * np.finfo(dtype).eps)
    np.testing.assert_allclose([found.events[0].times[0], found.events[2].times[0]], jump, **close)
    before, step = np.exp(-0.5 * jump), 1e-4 + close["rtol"]
    left = [before, before / 2 + 1, (before / 2 + 1) * np.exp(jump - 4.0)]
    np.testing.assert_allclose([found.events[2].ys[0, 0], *found.ys[:, 0]], [before, *left], rtol=step)


# --- What they change


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("method", ["tsit5", "kvaerno5"])
def test_integrate_and_fire(method, platform):
    """A neuron whose affect takes it away from its threshold; each spike at its time."""

    def leaky(t, v, current):
        return current - v

    spikes = Event(lambda t, v, current: v - 1.0, direction=1, affect=lambda t, v, current: jnp.zeros_like(v), record=40)
    run = lambda current: solve(leaky, 0.0, 9.9, jnp.zeros(()), current, events=spikes, method=method, rtol=1e-12, atol=1e-12)  # noqa: E731
    found = jax.vmap(run)(jnp.array([0.9, 1.5, 4.0]))
    assert found.events.count.tolist() == [0, 9, 34]
    for lane, current in ((1, 1.5), (2, 4.0)):
        period = np.log(current / (current - 1.0))
        count = int(found.events.count[lane])
        np.testing.assert_allclose(found.events.times[lane, :count], period * np.arange(1, count + 1), rtol=1e-10)
        np.testing.assert_allclose(found.events.ys[lane, :count], 1.0, rtol=1e-10)


def test_a_ball_that_comes_to_rest(platform):
    """Impacts without end in a bounded time; which ends in a code, unless there is an end to them."""
    y0 = jnp.array([1.0, 0.0])
    impacts = Event(height, direction=-1, affect=bounce)
    for kept in (0.875, 0.3):
        for clear in (0.0, 1.0):
            bounces = lambda t, y, g, kept=kept, clear=clear: jnp.stack([clear * y[0], -kept * y[1]])  # noqa: E731
            endless = solve(ball, 0.0, 20.0, y0, 2.0, events=Event(height, direction=-1, affect=bounces), max_steps=5000)
            assert all_are(endless, "events_accumulate") and np.isnan(endless.ys).all() and int(endless.events.count) > 5
    rest = Event(lambda t, y, g: (y[0] < 1e-3) & (jnp.abs(y[1]) < 1e-2))
    ended = solve(ball, 0.0, 20.0, y0, 2.0, events=(impacts, rest), max_steps=5000, throw=True)
    assert all_are(ended, "event_occurred") and bool(ended.events[1].ended) and 14 < float(ended.ts[0]) < 15.5
    with pytest.raises(RuntimeError, match="Events followed one another"):
        check_successful(endless)


def test_what_is_saved_around_an_event(platform):
    """Rows behind the end of a lane are NaN; that of t1 is the state there. A jump lies between its rows."""
    saveat = SaveAt(t0=True, ts=[0.25, 0.75, 1.5], t1=True)
    found = solve(clock, 0.0, 2.0, ONE, events=Event(lambda t, y, args: t - 1.0), saveat=saveat)
    assert found.ts.tolist() == [0.0, 0.25, 0.75, 1.5, 1.0] and all_are(found, "event_occurred")
    np.testing.assert_allclose(found.ys[:, 0], [0.0, 0.25, 0.75, np.nan, 1.0], rtol=1e-6)
    jump = Event(lambda t, y, args: t - 0.5, affect=lambda t, y, args: y + 10)
    jumped = solve(clock, 0.0, 2.0, ONE, events=jump, saveat=saveat)
    np.testing.assert_allclose(jumped.ys[:, 0], [0.0, 0.25, 10.75, 11.5, 12.0], rtol=1e-6)
    stepped = solve(clock, 0.0, 2.0, ONE, events=Event(lambda t, y, args: t - 1.0), saveat=SaveAt(steps=True), max_steps=90)
    last = int(stepped.stats["num_accepted_steps"]) - 1
    assert float(stepped.ts[last]) == pytest.approx(1.0, rel=1e-6) and np.isinf(stepped.ts[last + 1 :]).all()


# --- Ends


def test_at_t0_and_at_t1(platform):
    """What is 0 at t0 does not happen there; at t1 it does, and ends the lane."""
    both = [seen(height), seen(lambda t, y, args: t)]
    found = solve(turning, 0.0, 3.0, jnp.array([0.0, 1.0]), events=both, rtol=1e-6, atol=1e-6)
    assert [int(one.count) for one in found.events] == [0, 0]
    last = Event(lambda t, y, args: t - 1.0)
    ended = solve(clock, 0.0, 1.0, ONE, events=last)
    assert all_are(ended, "event_occurred") and ended.ts.tolist() == [1.0] and bool(ended.events.ended)
    nothing = solve(clock, 0.0, 0.0, ONE, events=(last, seen(lambda t, y, args: t < 1.0)))
    assert all_are(nothing, "successful") and [int(one.count) for one in nothing.events] == [0, 0]
    level = solve(clock, 0.0, 1.0, ONE, events=seen(lambda t, y, args: 0.0 * y[0]))
    assert int(level.events.count) == 0  # 0 all the time is no event


def test_lanes_end_each_by_itself(platform):
    """At times of their own, at t1, or not at all; as each does alone."""

    def run(speed, threshold, t1):
        ends = Event(lambda t, y, args: y[0] - args["threshold"], record=2)
        args = {"speed": speed, "threshold": threshold}
        field = lambda t, y, args: args["speed"] * jnp.ones_like(y)  # noqa: E731
        events = (ends, seen(lambda t, y, args: t - 0.5))
        return solve(field, 0.0, t1, jnp.zeros(1), args, events=events, saveat=SaveAt(ts=[0.4], t1=True))

    speeds, thresholds = jnp.array([1.0, 2.0, 0.5, -1.0, jnp.nan]), jnp.array([0.8, 0.5, 2.0, -0.25, 1.0])
    lanes = (speeds, thresholds, jnp.array([1.0, 1.0, 1.5, 1.0, 1.0]))
    many = jax.jit(jax.vmap(run))(*lanes)
    assert [list(CODES)[number] for number in code(many)] == [
        "event_occurred", "event_occurred", "successful", "event_occurred", "not_finite"
    ]  # fmt: skip
    ends, on_the_way = many.events
    np.testing.assert_allclose(ends.times[:4, 0], [0.8, 0.25, np.nan, 0.25], rtol=1e-6)
    assert ends.count[:4].tolist() == [1, 1, 0, 1] and on_the_way.count[:4].tolist() == [1, 0, 1, 0]
    assert np.isnan(many.ys[:, 0, 0]).tolist() == [False, True, False, True, True]
    np.testing.assert_allclose(many.ts[:4, 1], [0.8, 0.25, 1.5, 0.25], rtol=1e-6)
    for lane in range(4):
        alone = run(*(column[lane] for column in lanes))
        # What nobody writes is NaN, whose sign is XLA's.
        one = jax.tree.map(lambda leaf, n=lane: leaf[n], many)
        assert_same_bits(*(jax.tree.map(jnp.nan_to_num, found) for found in (one, alone)))


def test_more_than_is_kept(platform):
    """They are counted, and nothing else is written."""
    found = jax.vmap(lambda end: solve(turning, 0.0, end, CIRCLE, events=seen(height, record=2)))(jnp.array([30.0, 3.0]))
    assert found.events.count.tolist() == [10, 1] and found.events.times.shape == (2, 2)
    np.testing.assert_allclose(found.events.times, [[np.pi / 2, 3 * np.pi / 2], [np.pi / 2, np.nan]], rtol=1e-2)


def test_conditions_that_are_no_number(platform):
    for cond in (lambda t, y, args: jnp.where(t > 0.5, jnp.nan, 1.0), lambda t, y, args: jnp.log(-1.0 - t)):
        for terminal in (True, False):
            event = Event(cond, terminal=terminal)
            assert all_are(solve(clock, 0.0, 1.0, ONE, events=event, dtmax=0.1), "not_finite")


# --- What is said


@pytest.mark.parametrize(
    ("event", "kind", "words"),
    [
        (lambda: Event(1.0), TypeError, r"cond is 1.0 of type float: expected cond\(t, y, args\)"),
        (lambda: Event(height, affect=2), TypeError, r"affect is 2 of type int: expected affect\(t, y, args\)"),
        (lambda: Event(height, direction=2), ValueError, "direction is 2: expected 1"),
        (lambda: Event(height, direction=True), ValueError, "direction is True"),
        (lambda: Event(height, terminal=-1), ValueError, "terminal is -1: expected True, False, or at which"),
        (lambda: Event(height, terminal=1.5), ValueError, "terminal is 1.5"),
        (lambda: Event(height, record=-1), ValueError, "record is -1: expected of how many"),
        (lambda: Event(height, record=True), ValueError, "record is True"),
        (lambda: Event(lambda t, y: y[0]), TypeError, r"is called as cond\(t, y, args\): it has to take 3 arguments"),
        (lambda: Event(lambda t, y, a: y), ValueError, r"what cond returns has shape \(2,\): expected a scalar"),
        (lambda: [Event(height), Event(lambda t, y, a: {"h": y[0]})], ValueError, "what cond of event 1 returns has type dict"),
        (lambda: Event(lambda t, y, a: 3), TypeError, "what cond returns has dtype int32: expected a float"),
        (lambda: Event(lambda t, y, a: 1.0 if y[0] > 0 else 0.0), TypeError, "cond is traced"),
        (lambda: Event(height, affect=lambda t, y, a: (y, y)), ValueError, "what affect returns"),
        (lambda: Event(height, affect=lambda t, y, a: y[:1]), ValueError, r"what affect returns has a leaf of shape \(1,\)"),
        (lambda: Event(height, affect=lambda t, y: y), TypeError, r"is called as affect\(t, y, args\)"),
        (lambda: {"one": height}, TypeError, "events has <function height .*: expected a jax_cubie.Event"),
        (lambda: [Event(height)] * 32, ValueError, "events has 32 events: a lane looks for at most 31"),
    ],
)
def test_wrong_events(event, kind, words):
    with pytest.raises(kind, match=words):
        solve(turning, 0.0, 1.0, CIRCLE, events=event())


def test_controllers_that_say_where_steps_end():
    with pytest.raises(ValueError, match="controller='even' says itself where steps end"):
        solve(turning, 0.0, 1.0, CIRCLE, events=Event(height), controller="even", dt0=0.1)


# --- Images

@pytest.mark.parametrize("target", ["cuda:90", "cpu"])
def test_images(target):
    """They are built for a GPU, too, with gradients; and plans without events have no words of theirs."""
    events = (Event(height, affect=bounce, record=2), seen(lambda t, y, g: y[1] > 0.0))
    found = Solver("tsit5").inspect(ball, 0.0, 1.0, CIRCLE, 2.0, events=events, target=target, derivative="vjp")
    plain = Solver("tsit5").inspect(ball, 0.0, 1.0, CIRCLE, 2.0, target=target)
    assert found.code_bytes > plain.code_bytes > 0
    assert {name for name, (_, size) in plain.buffers.items() if size and name.startswith("event")} == set()
