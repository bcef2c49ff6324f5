"""Doses as the arrays that a kernel takes: their order, their sums, their derivatives, and what is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from one_compartment import Arrays, by_jumps, by_superposition
from solve_helpers import assert_same_bits

from jax_cubie import Doses, Resets
from jax_cubie.inputs import read_doses, schedule_of
from jax_cubie.problem.state import read_state

pytestmark = pytest.mark.usefixtures("x64")

Y0 = {"blood": np.zeros(2), "gut": np.array(0.0)}  # flat: blood[0], blood[1], gut


def gut(y):
    return y["gut"]


def blood(y):
    return y["blood"][1]


def jumps(doses, t0=0.0, t1=100.0, y0=Y0):
    state = read_state(y0)
    return Arrays.of(schedule_of(read_doses(doses), state.flatten(y0, "y0"), state, t0, t1), state.size)


def equal(array, expected):
    np.testing.assert_allclose(np.asarray(array), expected, rtol=1e-15, atol=0)


# --- Arrays


def test_at_once():
    found = jumps(Doses([12.0, 0.0, np.inf], [50.0, 100.0, np.nan], into=gut))
    equal(found.times, [0, 12, np.inf])
    equal(found.increments, [[0, 0, 100], [0, 0, 50], [0, 0, 0]])
    assert found.kept is None and found.rates is None


def test_what_says_nothing_costs_nothing():
    doses = Doses(3, 10, into=blood, duration=0, rate=0.0, lag=0, fraction=1)
    assert [doses.duration, doses.rate, doses.lag, doses.fraction] == [None] * 4


def test_one_dose_may_be_a_number():
    found = jumps(Doses(3, 10, into=blood))
    equal(found.times, [3])
    equal(found.increments, [[0, 10, 0]])


@pytest.mark.parametrize("how", [{"duration": 4.0}, {"rate": 25.0}])
def test_infusions_that_overlap(how):
    found = jumps(Doses([0.0, 2.0], 100.0, into=gut, **how))
    equal(found.times, [0, 2, 4, 6])
    equal(found.rates[:, 2], [0, 25, 50, 25, 0])
    equal(found.rates[:, :2], 0)
    equal(found.increments, 0)


def test_infusions_and_doses_at_once_in_one_schedule():
    found = jumps(Doses([0.0, 5.0], [8.0, 6.0], into=gut, duration=[2.0, 0.0]))
    equal(found.times, [0, 2, 5, np.inf])
    equal(found.rates[:4, 2], [0, 4, 0, 0])
    equal(found.increments[:, 2], [0, 0, 6, 0])


def test_each_dose_may_have_a_rate_or_a_duration():
    found = jumps(Doses([0.0, 5.0], [8.0, 6.0], into=gut, duration=[2.0, 0.0], rate=[0.0, 3.0]))
    equal(found.times, [0, 2, 5, 7])
    equal(found.rates[:, 2], [0, 4, 0, 3, 0])


def test_bioavailability_makes_an_infusion_of_given_rate_shorter():
    equal(jumps(Doses(0.0, 100.0, into=gut, rate=25.0, fraction=0.5)).times, [0, 2])
    lasting = jumps(Doses(0.0, 100.0, into=gut, duration=4.0, fraction=0.5))
    equal(lasting.times, [0, 4])
    equal(lasting.rates[:, 2], [0, 12.5, 0])


def test_a_lag_puts_doses_into_another_order():
    found = jumps(Doses([0.0, 1.0, 2.0], [1.0, 2.0, 3.0], into=gut, lag=[3.0, 0.0, 0.5]))
    equal(found.times, [1, 2.5, 3])
    equal(found.increments[:, 2], [2, 3, 1])


def test_schedules_into_several_components():
    found = jumps((Doses([0.0, 4.0], 1.0, into=gut), Doses([4.0, 2.0], 2.0, into=blood)))
    equal(found.times, [0, 2, 4, 4])
    equal(found.increments, [[0, 0, 1], [0, 2, 0], [0, 0, 1], [0, 2, 0]])


def test_no_rate_is_left_behind_by_a_large_infusion():
    """Sums of changes would leave what 1e9 rounds off."""
    found = jumps((Doses([0.0], 1e9 / 3, into=gut, duration=3.0), Doses([1.0], 1e-9, into=gut, duration=10.0)))
    assert float(found.rates[3, 2]) == 1e-10 and float(found.rates[4, 2]) == 0


def test_an_infusion_shorter_than_the_dtype_resolves_arrives_at_once():
    y0 = {"blood": np.zeros(2, np.float32), "gut": np.float32(0)}
    found = jumps(Doses(1000.0, 7.0, into=gut, duration=1e-7), y0=y0, t1=2000.0)
    assert float(found.increments[0, 2]) == 7 and np.isinf(found.times[1]) and not np.any(found.rates)


def test_what_an_infusion_gives_is_the_amount_in_float32():
    y0 = {"blood": np.zeros(2, np.float32), "gut": np.float32(0)}
    found = jumps(Doses(1000.3, 7.0, into=gut, duration=0.1), y0=y0, t1=2000.0)
    assert found.times.dtype == found.rates.dtype == np.float32
    begin, end = np.asarray(found.times)
    np.testing.assert_allclose(float(found.rates[1, 2]) * (float(end) - float(begin)), 7.0, rtol=1e-6)


def test_times_are_counted_from_t0_before_they_are_rounded():
    y0 = {"blood": np.zeros(2, np.float32), "gut": np.float32(0)}
    equal(
        jumps(Doses([2451545.0 + 1 / 1024, np.inf], 1.0, into=gut), t0=2451545.0, t1=2451546.0, y0=y0).times, [1 / 1024, np.inf]
    )


def test_a_time_of_another_float_type_that_is_t0():
    equal(jumps(Doses(np.array([0.3], np.float32), 1.0, into=gut), t0=0.3).times, [0])
    equal(jumps(Doses([0.3], 1.0, into=gut), t0=np.float32(0.3)).times, [0])


# --- Resets


def test_a_reset_sets_the_state_and_ends_infusions():
    y0 = {"blood": np.array([1.0, 2.0]), "gut": np.array(3.0)}
    found = jumps((Doses([0.0], 100.0, into=gut, duration=10.0), Resets([4.0, np.inf])), y0=y0)
    equal(found.times, [0, 4, 10, np.inf])
    equal(found.kept, [1, 0, 1, 1])
    equal(found.increments, [[0, 0, 0], [1, 2, 3], [0, 0, 0], [0, 0, 0]])
    equal(found.rates[:, 2], [0, 10, 0, 0, 0])


def test_the_order_of_a_reset_and_a_dose_of_one_time():
    doses, reset = Doses(4.0, 5.0, into=gut), Resets(4.0)
    equal(by_jumps(jumps((reset, doses)), 0.1, np.zeros(3), 4.0), [0, 0, 5])
    equal(by_jumps(jumps((doses, reset)), 0.1, np.zeros(3), 4.0), [0, 0, 0])
    turned = (Resets(4.0, order=[2]), Doses(4.0, 5.0, into=gut, order=[1]))
    equal(by_jumps(jumps(turned), 0.1, np.zeros(3), 4.0), [0, 0, 0])


def test_a_dose_whose_lag_is_not_over_at_a_reset_never_arrives():
    found = jumps((Resets(4.0), Doses([3.0, 4.0, 5.0], [1.0, 2.0, 4.0], into=gut, lag=2.0)))
    equal(found.times, [4, 5, 6, 7])
    equal(found.increments[:, 2], [0, 0, 2, 4])
    slow = jumps((Resets(4.0), Doses([3.0, 5.0], 4.0, into=gut, lag=2.0, duration=1.0)))
    equal(slow.rates[:, 2], [0, 0, 0, 0, 4, 0])  # 4: the reset, 5 to 6: nothing, 7 to 8


# --- Against superposition


LONGEST = 6
schedules = st.lists(
    st.tuples(st.integers(0, 20), st.floats(0.1, 9.0), st.sampled_from([0.0, 0.0, 1.5, 4.0]), st.floats(0.0, 6.0)),
    min_size=1,
    max_size=LONGEST,
)


@jax.jit
def traced(ts, amounts, durations, lags):
    return jumps(Doses(ts, amounts, into=gut, duration=durations, lag=lags), t1=30.0)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(schedules)
def test_any_schedule_gives_what_its_doses_give_one_by_one(rows):
    """Known or traced, bit by bit the same."""
    absent = [(np.inf, np.nan, 0.0, 0.0)] * (LONGEST - len(rows))
    ts, amounts, durations, lags = np.array([*rows, *absent], float).T
    found = jumps(Doses(ts, amounts, into=gut, duration=durations, lag=lags), t1=30.0)
    assert_same_bits(found, traced(ts, amounts, durations, lags))
    times = np.asarray(found.times)
    assert np.all(times[1:] >= times[:-1])
    there = np.isfinite(ts)
    one_by_one = by_superposition(np.array([29.9]), 0.2, np.where(there, ts + lags, 99), np.where(there, amounts, 0), durations)
    np.testing.assert_allclose(by_jumps(found, 0.2, np.zeros(3), 29.9), [0, 0, one_by_one[0]], rtol=1e-12)
    assert not np.any(np.asarray(found.rates)[-1])


def test_resets_known_and_traced():
    def run(ts, resets):
        return jumps((Doses(ts, 2.0, into=gut, lag=1.0), Resets(resets), Doses(ts, 3.0, into=blood, duration=2.5)))

    at = (np.array([0.0, 4.0, 5.0]), np.array([4.5, np.inf]))
    assert_same_bits(run(*at), jax.jit(run)(*at))


@settings(max_examples=20, deadline=None, derandomize=True)
@given(st.lists(st.integers(0, 3), min_size=1, max_size=8))
def test_sorting_is_stable(ts):
    amounts = np.arange(1.0, len(ts) + 1)
    found = jumps(Doses(ts, amounts, into=gut))
    equal(found.increments[:, 2], amounts[np.argsort(ts, kind="stable")])
    equal(found.times, np.sort(ts))


# --- Lanes, and derivatives


def test_each_lane_its_own():
    ts = np.array([[0.0, 5.0], [2.0, np.inf]])

    def run(ts, lag):
        found = jumps(Doses(ts, 3.0, into=gut, lag=lag, duration=1.0))
        return found.times, found.rates[:, 2]

    times, rates = jax.jit(jax.vmap(run))(ts, np.array([0.5, 1.0]))
    equal(times, [[0.5, 1.5, 5.5, 6.5], [3, 4, np.inf, np.inf]])
    equal(rates, [[0, 3, 0, 3, 0], [0, 3, 0, 0, 0]])


def test_schedules_of_all_lanes_are_an_argument_to_map_over():
    doses = Doses(np.array([[0.0, 5.0], [2.0, np.inf]]), 3.0, into=gut, lag=0.5).repeat(1.0, 1)
    times = jax.jit(jax.vmap(lambda doses: jumps(doses).times))(doses)
    equal(times, [[0.5, 1.5, 5.5, 6.5], [2.5, 3.5, np.inf, np.inf]])
    with pytest.raises(ValueError, match=r"ts of shape \(2, 4\).*jax.vmap"):
        jumps(doses)


def test_derivatives():
    """By all numbers; two of the doses change places at a lag of 1."""

    def amounts_at_the_end(numbers):
        ts, amounts, duration, lag, fraction = numbers
        doses = Doses(ts, amounts, into=gut, duration=duration, lag=lag, fraction=fraction)
        found = jumps(doses, t1=30.0)
        k, y, before = 0.2, jnp.zeros(()), 0.0
        for number, end in enumerate([*found.times, 29.9]):
            end = jnp.minimum(end, 29.9)
            y = y * jnp.exp(-k * (end - before)) - found.rates[number, 2] / k * jnp.expm1(-k * (end - before))
            y = y + (found.increments[number, 2] if number < len(found.times) else 0)
            before = end
        return y

    at = (np.array([1.0, 2.0, 9.0]), np.array([5.0, 3.0, 2.0]), np.array([0.0, 2.0, 3.0]), np.array([1.5, 0.2, 0.0]), 0.7)

    def closed_form(numbers):
        ts, amounts, duration, lag, fraction = numbers
        return by_superposition(np.array([29.9]), 0.2, ts + lag, amounts * fraction, duration)[0]

    np.testing.assert_allclose(jax.jit(amounts_at_the_end)(at), closed_form(at), rtol=1e-13)
    for one, other in zip(*(jax.jit(jax.grad(f))(at) for f in (amounts_at_the_end, closed_form)), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-10, atol=1e-12)


def test_padding_has_no_part_in_derivatives():
    def total(amounts, lag):
        doses = Doses(np.array([0.0, np.inf]), amounts, into=gut, lag=lag, rate=2.0, fraction=0.5)
        found = jumps(doses)
        return jnp.sum(jnp.where(jnp.isfinite(found.times), found.times, 0)) + jnp.sum(found.rates)

    by_amounts, by_lag = jax.grad(total, (0, 1))(np.array([8.0, np.nan]), 0.5)
    equal(by_amounts, [0.25, 0])
    equal(by_lag, 2)


def test_repeat():
    doses = Doses([0.0, 1.0], [5.0, 7.0], into=gut, lag=[0.0, 0.5]).repeat(24, 2)
    equal(doses.ts, [0, 1, 24, 25, 48, 49])
    equal(doses.amounts, [5, 7] * 3)
    equal(doses.lag, [0, 0.5] * 3)
    assert doses.into is gut and doses.duration is None
    equal(Doses([0.0], 5.0, into=gut).repeat(24, 0).ts, [0])
    slope = jax.jacfwd(lambda interval: jumps(Doses([1.0], 5.0, into=gut).repeat(interval, 3)).times)(2.0)
    equal(slope, [0, 1, 2, 3])


def test_shapes_in_place_of_arrays():
    doses = (Doses([0.0, 1.0], [5.0, 7.0], into=gut, duration=2.0, lag=0.5), Resets(3.0))
    y0 = jax.eval_shape(lambda: jax.tree.map(jnp.asarray, Y0))
    state = read_state(y0)
    flat = jax.ShapeDtypeStruct((3,), jnp.float64)
    found = schedule_of(doses, flat, state, 0.0, 9.0)
    assert [one.shape for one in (found.times, found.increments, found.kept, found.rates)] == [(5,), (5, 3), (5,), (6, 1)]
    assert found.infused == (2,)


# --- What is refused


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (dict(ts=[], amounts=[]), "is empty"),
        (dict(ts=[0.0, np.nan]), "NaN or -inf"),
        (dict(ts=[0.0, 1.0], amounts=[1.0]), r"amounts=\.\.\.\) has shape \(1,\), but ts has \(2,\)"),
        (dict(amounts=np.inf), "expected finite numbers"),
        (dict(duration=-1.0), "at least 0"),
        (dict(rate=[-2.0]), "at least 0"),
        (dict(lag=-0.5), "at least 0"),
        (dict(fraction=-1), "at least 0"),
        (dict(duration=1.0, rate=2.0), "a duration and a rate"),
        (dict(into="gut"), "expected a function of y"),
        (dict(amounts="much"), "real numbers"),
        (dict(ts=1j), "real numbers"),
        (dict(order=[1, 2]), "they have to be equal"),
        (dict(order=[0.5]), "expected integers"),
        (dict(cmt=1), "use into="),
        (dict(ii=24), "repeat"),
    ],
)
def test_what_is_no_dose(arguments, words):
    with pytest.raises((ValueError, TypeError), match=words):
        Doses(**{"ts": [0.0], "amounts": 1.0, "into": gut, **arguments})


@pytest.mark.parametrize(
    ("into", "words"),
    [
        (lambda y: y["blood"], "names 2 components"),
        (lambda y: (y["gut"], y["blood"][0]), "names 2 components"),
        (lambda y: None, "no component"),
        (lambda y: 0, "no component"),
        (lambda y: 2 * y["gut"], "computed from y"),
        (lambda y: y["gut"] + y["blood"][0], "computed from y"),
        (lambda y: np.zeros(()), "computed from y"),
    ],
)
def test_into_names_one_component(into, words):
    with pytest.raises(ValueError, match=words):
        jumps(Doses(0.0, 1.0, into=into))


def test_into_fails_in_its_own_words():
    with pytest.raises(KeyError, match="brain") as caught:
        jumps(Doses(0.0, 1.0, into=lambda y: y["brain"]))
    assert "Doses(into=...)" in caught.value.__notes__[0]


def test_times_outside():
    with pytest.raises(ValueError, match=r"a dose at 1\.0, before t0=2"):
        jumps(Doses([3.0, 1.0], 1.0, into=gut), t0=2.0)
    with pytest.raises(ValueError, match="a reset at"):
        jumps(Resets([1.0]), t0=2.0)
    equal(jumps(Doses([1.0], 1.0, into=gut, lag=1.5), t0=2.0).times, [0.5])
    with pytest.raises(ValueError, match="t1 >= t0"):
        jumps(Doses([1.0], 1.0, into=gut), t0=2.0, t1=1.0)
    for wrong in (
        dict(ts=-1.0), dict(lag=-1.0), dict(fraction=-1.0), dict(duration=-1.0), dict(rate=-1.0), dict(rate=np.nan),
        dict(duration=np.inf),
    ):  # fmt: skip
        name, value = next(iter(wrong.items()))
        found = jax.jit(lambda value, name=name: jumps(Doses(**{"ts": 0.0, "amounts": 1.0, "into": gut, name: value})).times)(
            value
        )
        assert np.all(np.isnan(found)), name
    assert np.all(np.isnan(jax.jit(lambda t1: jumps(Doses(0.0, 1.0, into=gut), t1=t1).times)(-1.0)))


@pytest.mark.parametrize("doses", [3.0, [Doses(0.0, 1.0, into=gut), None], {"a": 1}])
def test_what_is_no_schedule(doses):
    with pytest.raises(TypeError, match="expected jax_cubie.Doses"):
        read_doses(doses)


@pytest.mark.parametrize(
    ("interval", "number"), [(0.0, 1), (-1.0, 1), (np.inf, 1), (1.0, -1), (1.0, 1.5), (1.0, True), ([1.0], 1)]
)
def test_repeat_refuses(interval, number):
    with pytest.raises(ValueError, match="expected"):
        Doses(0.0, 1.0, into=gut).repeat(interval, number)


def test_printing():
    doses = Doses([0.0, 12.0], 100.0, into=gut, lag=0.5)
    assert repr(doses) == (
        "Doses(np.array([ 0., 12.], 'float64'), np.array([100., 100.], 'float64'), into=gut, "
        "lag=np.array([0.5, 0.5], 'float64'))"
    )
    assert repr(Resets(1.0)) == "Resets(np.array([1.], 'float64'))"
