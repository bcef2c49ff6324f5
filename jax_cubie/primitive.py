"""The solve as one JAX primitive: its shapes, its batching over any axis of any operand, its lowering."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import jax
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

from .build import plan_and_image
from .kernel.partition import QUEUE_COUNTER, Batched, lower_batched, result_avals, vary_alike
from .kernel.target import default_targets
from .operands import Operand
from .plan import batch_operands
from .problem import Problem

solve_p = Primitive("jax_cubie_solve")
solve_p.multiple_results = True


def run(problem: Problem, operands: Sequence[Any]) -> list[jax.Array]:
    """The results of one lane, in the order of `problem.results`."""
    return solve_p.bind(*vary_alike(operands), problem=problem, operands=problem.operands, levels=0)


def _arrays(problem: Problem, operands: tuple[Operand, ...], levels: int) -> tuple[list[Batched], list[Batched]]:
    """How the lanes lie in the operands and in the results."""
    taken = [Batched(operand.shape, operand.dtype, operand.axes, operand.layout()) for operand in operands]
    given = [Batched(one.shape, one.dtype, one.axes(levels), one.layout(levels), one.unwritten) for one in problem.results]
    return taken, given


@solve_p.def_abstract_eval
def _abstract(*avals: Any, problem: Problem, operands: tuple[Operand, ...], levels: int) -> list[Any]:
    return result_avals(avals, *_arrays(problem, operands, levels))


@functools.lru_cache(maxsize=1024)
def _compiled(problem: Problem, operands: tuple[Operand, ...], levels: int) -> Any:
    def solve(*arrays: Any) -> Any:
        return solve_p.bind(*arrays, problem=problem, operands=operands, levels=levels)

    solve.__qualname__ = "jax_cubie.solve"
    solve._apply_primitive = True  # with jax.debug_nans, JAX looks no deeper than here
    return jax.jit(solve)


@solve_p.def_impl
def _eager(*arrays: Any, problem: Problem, operands: tuple[Operand, ...], levels: int) -> Any:
    with jax.disable_jit(False):  # else the jit would bind, and so come back here
        return _compiled(problem, operands, levels)(*arrays)


def _batch(arrays: Any, axes: Any, *, problem: Problem, operands: tuple[Operand, ...], levels: int) -> Any:
    results = solve_p.bind(*arrays, problem=problem, operands=batch_operands(operands, tuple(axes)), levels=levels + 1)
    return results, [result.batch_axis for result in problem.results]


batching.primitive_batchers[solve_p] = _batch


def _refuse_jvp(*_: Any, **__: Any) -> Any:
    raise NotImplementedError(
        "jax_cubie.solve has no derivatives yet: jvp, jacfwd, vjp and grad of a solve are refused. Take the derivative "
        "of what does not go through the solve, or use jax.lax.stop_gradient on its inputs."
    )


ad.primitive_jvps[solve_p] = _refuse_jvp


def _lower(
    context: Any, *values: Any, problem: Problem, operands: tuple[Operand, ...], levels: int, platform: str
) -> Any:
    plan, image = plan_and_image(problem, operands, levels, default_targets(platform))
    taken, given = _arrays(problem, plan.words.operands, levels)
    return lower_batched(
        context, values, image, operands=taken, results=given, words=[], launch=plan.launch(),
        scratch=[QUEUE_COUNTER] if plan.queued else [],
    )


for _platform in ("cpu", "cuda"):
    mlir.register_lowering(solve_p, functools.partial(_lower, platform=_platform), platform=_platform)
