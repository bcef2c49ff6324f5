"""Problems with tangents: what their operands and results are called, and which there are."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from jax_cubie import SaveAt, Solver
from jax_cubie.derivatives.chain import Tangent, differentiable, root, tangent_of, with_tangent
from jax_cubie.problem import make_request


def problem(saveat, dt0=None, **settings):
    args = (jnp.ones((2, 2)), np.int32(1), np.array(True), 0.5)
    closed_over = jnp.arange(2.0)

    def field(t, y, args):
        return args[0] @ y * args[1] - closed_over * args[3]

    return make_request(Solver(**settings), field, 0.0, 1.0, jnp.ones(2), args, saveat, dt0).problem


def names(problem, chosen):
    return {one.name for one, has in zip(problem.operands, chosen, strict=True) if has}


@pytest.mark.parametrize("controller", ["fixed", "pid"])
def test_what_can_have_a_tangent(controller):
    """Step sizes that are chosen are held fixed; those that are given are not."""
    made = problem(SaveAt(ts=[0.5], fn=lambda t, y, args: (y, y > 0)), 0.1, controller=controller)
    expected = {"y0", "t0", "t1", "span", "ts", "offsets", "f0", "f3", "f4"} | ({"dt0"} if controller == "fixed" else set())
    assert names(made, differentiable(made)) == expected
    assert [made.results[number].name for number in with_tangent(made)] == ["ys0"]


def test_orders():
    """y0.3 is the tangent of y0.1 in the second J; rows that no lane writes are constant."""
    made = problem(SaveAt(steps=1), max_steps=4)
    number = next(number for number, one in enumerate(made.operands) if one.name == "y0")
    once = tangent_of(made, [number])
    twice = tangent_of(once, [number, len(made.operands)])
    assert [one.name for one in twice.operands[len(made.operands) :]] == ["y0.1", "y0.2", "y0.3"]
    assert twice.orders[len(made.operands) :] == (1, 2, 3)
    filled = [(one.name, one.unwritten) for one in twice.results if one.unwritten is not None]
    assert filled == [("times", np.inf), ("ys", np.inf), ("ys.1", 0), ("ys.2", 0), ("ys.3", 0)]
    assert [twice.result_orders[number] for number in with_tangent(twice)] == [0, 1, 2, 3]
    assert (made.depth, once.depth, twice.depth) == (0, 1, 2)
    assert root(twice) is once.base and once.base.rules and once.base == dataclasses.replace(made, rules=once.base.rules)
    assert twice == Tangent(Tangent(once.base, once.mask), twice.mask) and hash(once) != hash(twice)
