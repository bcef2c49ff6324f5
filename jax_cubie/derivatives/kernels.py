"""The kernels of a solve's derivatives: problems whose state has tangents, and their backward passes."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.extend.core as jex

from ..linear import without_custom_vjp
from ..loop.adjoint import Adjoint, is_of_functions
from ..loop.checkpoints import Checkpoints
from ..operands import (
    FieldFunction,
    Function,
    Operand,
    Piece,
    Result,
    Traced,
    cotangent_name,
    primal_name,
    primal_of,
    tangent_name,
    word_of,
)
from ..problem import Problem
from ..translate.platforms import PLATFORMS
from .chain import within
from .functions import Inputs, backward, field_of, forward, output_of

# What the time that functions of the user's are given depends on.
_TIMES = ("t0", "span", "dt0", "t1", "ts", "offsets", "step_ends", "jump_times", "sum_start", "sum_every")


@functools.lru_cache(maxsize=256)
def forward_kernel(
    chain: Any, record: int | None, directions: int = 0, directed: tuple[bool, ...] = ()
) -> Problem:
    """The problem of one launch that solves `chain`: a problem, or its differentiations.

    record: up to which of these the launch keeps checkpoints, arrays behind its results; None: none at all. directions: in so
    many at once, for which those operands have an axis in front that are `directed`; their results have it behind that of rows.
    """
    problem = _with_tangents(chain, directions, directed or (False,) * len(chain.operands))
    if record is None:
        return problem
    return dataclasses.replace(problem, checkpoints=Checkpoints(problem.slots, record))


def checkpoint_results(chain: Any, record: int) -> tuple[Result, ...]:
    """The arrays of checkpoints that `forward_kernel` gives."""
    kernel = forward_kernel(chain, record)
    return kernel.results[len(kernel.forward_results) :]


@functools.lru_cache(maxsize=256)
def backward_kernel(
    chain: Any, cotangents: tuple[int, ...], wrt: tuple[int, ...], summed: tuple[int, ...] = ()
) -> Problem:
    """The problem of one launch that goes back over a solve of `chain`, from the cotangents of those results to those of those
    operands. It reads the operands of the solve, the checkpoints of each depth, and the cotangents.

    summed: of these operands only sums over chunks of lanes are asked for, if they are of the user's functions.
    """
    problem = _with_tangents(chain, 0, (False,) * len(chain.operands))
    results = [problem.forward_results[number] for number in cotangents]
    names = {number: chain.operands[number].name for number in wrt}
    adjoint = Adjoint(
        tuple(names[number] for number in wrt),
        tuple(result.name for result in results),
        problem.slots,
        problem.windows,
        frozenset(names[number] for number in summed if is_of_functions(names[number])),
        (0, *problem.moving) if problem.moves else (),
    )
    operands = {operand.name: operand for operand in problem.operands}
    kept = [Operand(one.name, one.shape, one.dtype) for one in checkpoint_results(chain, problem.depth)]
    given = [Operand(cotangent_name(one.name), one.shape, one.dtype) for one in results]
    named = {function.name: number for number, function in enumerate(problem.functions[0][1])}
    evaluated = {name for part in problem.parts for name in part.evaluated_backwards}
    orders = {one.name: order for one, order in zip(problem.forward_results, chain.result_orders, strict=True)}
    made = []
    for name, traced in _differentiated(problem):
        own = problem.outputs_of(name)
        if own and not any(primal_of(one.name) in own for one in results):
            continue  # what has no cotangent may have no derivative; likewise single outputs, below
        inputs = Inputs(traced, problem.pieces, problem.moving, operands, problem.dtype)
        if not own:
            function, numbers = field_of(inputs), list(range(len(problem.pieces)))
            outputs = [tangent_name(name, piece.order) for piece in problem.pieces]
            if name in named:
                made.append({platform: problem.on(platform)[named[name]] for platform in PLATFORMS})
        else:
            function = output_of(inputs)
            kinds = [one.dtype for one in jax.eval_shape(function, *inputs.avals)]
            numbers = [number for number, kind in enumerate(kinds) if jax.numpy.issubdtype(kind, jax.numpy.floating)]
            outputs = [one.name for one in problem.forward_results if primal_of(one.name) in own and one.differentiable]
            wanted = set(adjoint.cotangents)
            if name in evaluated:  # by tangents of what they are multiplied by those below an order have cotangents, too
                higher = [order for one, order in orders.items() if one in wanted and primal_of(one) in own]
                wanted |= {one for one in outputs if any(within(orders[one], order) for order in higher)}
            both = zip(numbers, outputs, strict=True)
            numbers, outputs = zip(*((number, one) for number, one in both if one in wanted), strict=True)
            if name in evaluated:
                made.append({platform: problem.on(platform)[named[name]] for platform in PLATFORMS})
        made.append(backward(name, function, inputs, adjoint.wrt, adjoint.orders, outputs, numbers, problem.unroll))
    return dataclasses.replace(
        problem,
        functions=_by_platform([*made, *_primal(problem), *_transposed(problem, operands)]),
        adjoint=adjoint,
        operands=(*problem.operands, *kept, *given),
        title=f"{problem.title}, backwards",
    )


def is_time(name: str) -> bool:
    """Whether the time that functions of the user's are given depends on an operand, a tangent of one among them."""
    return word_of(name) in _TIMES


def root_of(chain: Any) -> Problem:
    """The problem that was differentiated."""
    while not isinstance(chain, Problem):
        chain = chain.base
    return chain


def _with_tangents(chain: Any, directions: int, directed: tuple[bool, ...]) -> Problem:
    problem = root_of(chain)
    if chain is problem:
        return problem
    several = {
        operand.name: dataclasses.replace(operand, shape=(directions, *operand.shape), directed=True) if one else operand
        for operand, one in zip(chain.operands, directed, strict=True)
    }
    operands, depth, primal = several, chain.depth, problem.pieces[0]
    along = [order for order, one in zip(chain.orders, directed, strict=True) if one]

    def piece(order: int) -> Piece:
        name = tangent_name("y0", order)
        count = directions if any(one & order == one for one in along) else 0
        return Piece(order, primal.size * max(count, 1), name if name in operands else None, count)

    pieces = tuple(map(piece, range(1 << depth)))
    times = [operand.name for operand in problem.operands if is_time(operand.name)]
    moving = tuple(order for order in range(1, 1 << depth) if any(tangent_name(name, order) in operands for name in times))
    moving = tuple(range(1, 1 << depth)) if problem.moves else moving
    limits = {platform: dict(problem.functions)[platform][0].unroll for platform in PLATFORMS}
    made = []
    for name, traced in _differentiated(problem):
        inputs = Inputs(traced, pieces, moving, operands, problem.dtype)
        make = output_of if problem.outputs_of(name) else field_of
        made.append(forward(name, make(inputs), inputs, limits))
    return dataclasses.replace(
        problem,
        functions=_by_platform([*made, *_primal(problem), *_primal_too(problem)]),
        pieces=pieces,
        moving=moving,
        operands=tuple(operands.values()),
    )


def _differentiated(problem: Problem) -> list[tuple[str, Traced]]:
    """The functions that have tangents or are transposed, by their names: the method's, "f" first, then those of rows."""
    traced = dict(problem.traced)
    own = problem.method.differentiated(lambda *given: traced["f"].call(*given)[0])
    found = {"f": traced["f"]}
    for name, function in own.items():
        if name != "f":

            def call(*given: Any, function: FieldFunction = function) -> list[Any]:
                return [function.call(*given)]

            found[name] = dataclasses.replace(traced["f"], call=call, inputs=function.inputs)
    return list((found | {name: one for name, one in traced.items() if name != "f"}).items())


def _primal(problem: Problem) -> list[dict[str, Function]]:
    """The functions of the primal state alone, which are as they were."""
    names = {name for name, _ in _differentiated(problem)}
    kept = [number for number, function in enumerate(problem.functions[0][1]) if function.name not in names]
    return [{platform: problem.on(platform)[number] for platform in PLATFORMS} for number in kept]


def _transposed(problem: Problem, operands: Mapping[str, Operand]) -> list[dict[str, Function]]:
    """Those that only a pass backwards evaluates, of the primal state alone."""
    traced = dict(problem.traced)["f"]

    def field(*given: Any) -> Any:
        closed = without_custom_vjp(jax.make_jaxpr(traced.call)(*given))
        return jex.jaxpr_as_fun(closed)(*given)[0]

    limits = {platform: problem.on(platform)[0].unroll for platform in PLATFORMS}
    made = []
    for name, function in problem.method.transposed(field).items():

        def call(*given: Any, function: FieldFunction = function) -> list[Any]:
            return [function.call(*given)]

        own = dataclasses.replace(traced, call=call, inputs=function.inputs)
        inputs = Inputs(own, problem.pieces[:1], (), operands, problem.dtype)
        made.append(forward(name, field_of(inputs), inputs, limits))
    return made


def _primal_too(problem: Problem) -> list[dict[str, Function]]:
    """Those that are evaluated of the primal state alone besides, under names of their own."""
    named = {function.name: number for number, function in enumerate(problem.functions[0][1])}

    def renamed(platform: str, name: str) -> Function:
        return dataclasses.replace(problem.on(platform)[named[name]], name=primal_name(name))

    names = (*problem.method.primal_too, *(name for part in problem.parts for name in part.primal_too))
    return [{platform: renamed(platform, name) for platform in PLATFORMS} for name in names]


def _by_platform(functions: Sequence[dict[str, Function]]) -> tuple[tuple[str, tuple[Function, ...]], ...]:
    return tuple((platform, tuple(one[platform] for one in functions)) for platform in PLATFORMS)
