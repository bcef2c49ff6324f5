"""A million lanes of which one in a hundred is bad: the others do not notice, and each bad one says why."""

import jax
import jax.numpy as jnp
import numpy as np
from solve_helpers import assert_same_bits, code

from jax_cubie import solve
from jax_cubie.solution import CODES

LANES, EVERY = 1_000_000, 100


def growth(t, y, args):
    """y' = rate y + bend y^2, with a NaN from t = 1.5 on where `hole` is set."""
    rate, bend, hole = args
    return jnp.where((t > 1.5) & hole, jnp.nan, (rate + bend * y) * y)


GOOD = {
    "y0": 1.0, "rate": -1.0, "bend": 0.0, "hole": False, "rtol": 1e-3, "atol": 1e-3, "t1": 2.0, "dt0": 0.1, "max_steps": 400,
    "dtmin": 0.0,
}  # fmt: skip
# What is wrong with a lane, and the code it ends with.
POISONS = [
    ({"y0": np.nan}, "not_finite"),
    ({"y0": np.inf}, "not_finite"),
    ({"rate": np.nan}, "not_finite"),
    ({"hole": True}, "not_finite"),
    ({"rate": np.inf}, "not_finite"),
    ({"y0": 1.0, "rate": 0.0, "bend": 2.0}, "step_size_underflow"),  # blows up at t = 1.5
    ({"y0": 1.0, "rate": 0.0, "bend": 2.0, "dtmin": 1e-3}, "dt_min_reached"),
    ({"y0": 1.0, "rate": -1.0, "rtol": 0.0, "atol": 1e-20}, "max_steps_reached"),
    ({"rtol": 0.0, "atol": 0.0}, "invalid_input"),
    ({"atol": np.nan}, "invalid_input"),
    ({"rtol": -1.0}, "invalid_input"),
    ({"t1": np.inf}, "invalid_input"),
    ({"dt0": -0.1}, "invalid_input"),
    ({"max_steps": 1}, "max_steps_reached"),
]


def test_one_in_a_hundred(platform):
    def one(lane):
        args = (lane["rate"], lane["bend"], lane["hole"])
        return solve(
            growth, 1.0, lane["t1"], lane["y0"], args, dt0=lane["dt0"], method="bosh3", rtol=lane["rtol"], atol=lane["atol"],
            dtmin=lane["dtmin"], max_steps=lane["max_steps"], force_dtmin=False,
        )  # fmt: skip

    solve_lanes = jax.jit(jax.vmap(one))
    clean = {name: np.full(LANES, value, _dtype(value)) for name, value in GOOD.items()}
    clean["y0"] = np.linspace(0.5, 2.0, LANES, dtype=np.float32)
    clean["rate"] = np.linspace(-2.0, 0.5, LANES, dtype=np.float32)
    poisoned = {name: column.copy() for name, column in clean.items()}
    expected = np.zeros(LANES, np.int32)
    for number, lane in enumerate(range(EVERY // 2, LANES, EVERY)):
        changes, name = POISONS[number % len(POISONS)]
        expected[lane] = CODES[name]
        for column, value in changes.items():
            poisoned[column][lane] = value

    before, after = (jax.tree.map(np.asarray, solve_lanes(columns)) for columns in (clean, poisoned))
    assert not code(before).any()
    np.testing.assert_array_equal(code(after), expected)
    good = expected == 0
    assert_same_bits(*(jax.tree.map(lambda leaf: leaf[good], (s.ys, s.ts, s.stats)) for s in (before, after)))
    assert np.all(np.isnan(after.ys[~good]))


def _dtype(value):
    return {bool: np.bool_, int: np.int32, float: np.float32}[type(value)]
