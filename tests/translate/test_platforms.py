"""A function has a program for each platform: what makes them differ, and what they share."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_cubie import SaveAt, Solver
from jax_cubie.operands import Operand
from jax_cubie.plan import Plan
from jax_cubie.problem import Request, make_request
from jax_cubie.translate import trace, translate, translate_for_all
from jax_cubie.translate.platforms import PLATFORMS, unroll_on


def jaxpr_of(n: int) -> jax.extend.core.ClosedJaxpr:
    def f(y):
        return jnp.roll(y, 1) * y + jnp.sum(y) * jnp.cumsum(y)

    return trace(f, jax.ShapeDtypeStruct((n,), jnp.float32))


@pytest.mark.parametrize("n", [3, 10, 20, 21, 50, 128, 129, 300])
@pytest.mark.parametrize("unroll", ["auto", 4, 32])
def test_a_program_that_serves_two_platforms_is_what_each_would_have_got(n: int, unroll: int | str) -> None:
    """Sharing is decided by what the walk asked for; so it must never share what differs."""
    closed = jaxpr_of(n)
    programs, _ = translate_for_all(closed, unroll)
    for platform in PLATFORMS:
        assert programs[platform][0] == translate(closed, unroll=unroll_on(platform, unroll), platform=platform)[0]


def test_small_arrays_are_translated_once() -> None:
    programs, _ = translate_for_all(jaxpr_of(3), "auto")
    assert programs["cpu"][0] is programs["cuda"][0]
    programs, _ = translate_for_all(jaxpr_of(50), "auto")
    assert programs["cpu"][0] != programs["cuda"][0]
    assert sum(i[1] == "for" for i, _ in programs["cpu"][0].walk()) > 0
    assert sum(i[1] == "for" for i, _ in programs["cuda"][0].walk()) == 0


def requested(f, n: int = 30, saveat: SaveAt | None = None, **settings) -> Request:
    return make_request(Solver(**settings), f, 0.0, 1.0, jnp.zeros(n, jnp.float32), None, saveat or SaveAt(t1=True), 0.1)


def plan_for(request: Request, target: str) -> Plan:
    from jax_cubie.kernel.target import Target

    return Plan(request.problem, request.problem.operands, 0, Target.parse(target))


def test_f_is_traced_once_for_all_platforms() -> None:
    traces = []

    def f(t, y, args):
        traces.append(y)
        return -y

    request = requested(f)
    assert len(traces) == 1
    assert [plan_for(request, target).unroll for target in ("cpu", "cuda:90")] == [20, 128]
    assert [plan_for(requested(f, unroll=7), target).unroll for target in ("cpu", "cuda:90")] == [7, 7]


def test_a_key_knows_the_own_program_alone() -> None:
    """Two settings that give the CPU the same program share its image, whatever the GPU's is."""
    request, same, other = (requested(lambda t, y, a: jnp.roll(y, 1) * y, unroll=u) for u in ("auto", 20, 30))
    assert plan_for(request, "cpu").key == plan_for(same, "cpu").key != plan_for(other, "cpu").key
    assert plan_for(request, "cuda:90").key != plan_for(same, "cuda:90").key


def test_an_array_that_is_closed_over_twice_is_one_operand() -> None:
    weights = jnp.asarray(np.ones((30, 30), np.float32))

    def f(t, y, args):
        return weights @ y + jax.jit(lambda x: weights @ x)(y)

    request = requested(f, saveat=SaveAt(t1=True, fn=lambda t, y, args: weights @ y))
    shaped: list[Operand] = [operand for operand in request.problem.operands if operand.shape == (30, 30)]
    assert len(shaped) == 1


def test_many_elementary_functions_are_loops_on_a_cpu():
    """From 9 elements on, where a vector of them pays; unless the user says how far to unroll."""
    from jax_cubie.kernel.functions import OPERATIONS
    from jax_cubie.translate.platforms import ELEMENTARY

    assert ELEMENTARY == frozenset(OPERATIONS)

    def loops(f, size, unroll):
        programs, _ = translate_for_all(trace(f, jax.ShapeDtypeStruct((size,), jnp.float32)), unroll)
        return any(op == "for" for _, op, *_ in programs["cpu"][0].instructions)

    assert [loops(jnp.tanh, size, "auto") for size in (8, 9, 16, 20, 21)] == [False, True, True, True, True]
    assert [loops(lambda y: y * y, size, "auto") for size in (8, 9, 16, 20, 21)] == [False] * 4 + [True]
    assert [loops(jnp.tanh, size, 16) for size in (8, 9, 16, 20)] == [False] * 3 + [True]
    matrix = jnp.ones((20, 20), jnp.float32)
    assert [loops(lambda y: matrix[: y.size, : y.size] @ y - y, size, "auto") for size in (8, 9, 20)] == [False, True, True]
