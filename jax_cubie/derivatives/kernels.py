"""The kernels of a solve's derivatives: problems whose state has tangents, and their backward passes."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax

from ..loop.adjoints import Adjoint
from ..loop.checkpoints import Checkpoints
from ..operands import Operand, Piece, Result, cotangent_name, tangent_name
from ..problem import Problem
from .functions import Inputs, compiled, field_of, output_of, transposed

# What the time that functions of the user's are given depends on.
_TIMES = ("t0", "span", "dt0", "t1", "ts", "offsets")


@functools.lru_cache(maxsize=256)
def forward_kernel(chain: Any, record: int | None) -> Problem:
    """The problem of one launch that solves `chain`: a problem, or its differentiations.

    record: up to which of these the launch keeps checkpoints, arrays behind its results; None: none at all.
    """
    problem = _with_tangents(chain)
    if record is None:
        return problem
    return dataclasses.replace(problem, checkpoints=Checkpoints(problem.slots, record))


def checkpoint_results(chain: Any, record: int) -> tuple[Result, ...]:
    """The arrays of checkpoints that `forward_kernel` gives."""
    kernel = forward_kernel(chain, record)
    return kernel.results[len(kernel.forward_results) :]


@functools.lru_cache(maxsize=256)
def backward_kernel(chain: Any, cotangents: tuple[int, ...], wrt: tuple[int, ...]) -> Problem:
    """The problem of one launch that goes back over a solve of `chain`, from the cotangents of those results to those of those
    operands. It reads the operands of the solve, the checkpoints of each depth, and the cotangents."""
    problem = _with_tangents(chain)
    results = [problem.forward_results[number] for number in cotangents]
    adjoint = Adjoint(
        tuple(chain.operands[number].name for number in wrt), tuple(result.name for result in results), problem.slots
    )
    operands = {operand.name: operand for operand in problem.operands}
    kept = [Operand(one.name, one.shape, one.dtype) for one in checkpoint_results(chain, problem.depth)]
    given = [Operand(cotangent_name(one.name), one.shape, one.dtype) for one in results]
    functions = {}
    for name, traced in problem.traced:
        inputs = Inputs(traced, problem.pieces, problem.moving, operands, problem.dtype)
        make = field_of if name == "f" else output_of
        function = make(traced, inputs, problem.pieces)
        if name == "f":
            functions[name] = (function, inputs.avals, inputs.names, inputs.operands)
            outs, floats = ["f"], [0]
            shapes = [jax.ShapeDtypeStruct((problem.states,), problem.dtype)]
        else:
            shapes = jax.eval_shape(function, *inputs.avals)
            floats = [number for number, one in enumerate(shapes) if jax.numpy.issubdtype(one.dtype, jax.numpy.floating)]
            outs = [one.name for one in problem.forward_results if one.name.startswith("ys") and one.differentiable]
            shapes = [shapes[number] for number in floats]
        leading = len(inputs.names)
        functions[f"{name}_vjp"] = (
            transposed(function, inputs, adjoint.wrt, adjoint.orders, floats),
            [*inputs.avals[:leading], *shapes, *inputs.avals[leading:]],
            (*inputs.names, *map(cotangent_name, outs)),
            inputs.operands,
        )
    return dataclasses.replace(
        problem,
        functions=compiled(functions, problem.unroll),
        adjoint=adjoint,
        operands=(*problem.operands, *kept, *given),
        title=f"{problem.title}, backwards",
    )


def root_of(chain: Any) -> Problem:
    """The problem that was differentiated."""
    while not isinstance(chain, Problem):
        chain = chain.base
    return chain


def _with_tangents(chain: Any) -> Problem:
    problem = root_of(chain)
    if chain is problem:
        return problem
    operands = {operand.name: operand for operand in chain.operands}
    depth, primal = chain.depth, problem.pieces[0]

    def piece(order: int) -> Piece:
        name = tangent_name("y0", order)
        return Piece(order, primal.size, name if name in operands else None)

    pieces = tuple(map(piece, range(1 << depth)))
    moving = tuple(order for order in range(1, 1 << depth) if any(tangent_name(name, order) in operands for name in _TIMES))
    functions = {}
    for name, traced in problem.traced:
        inputs = Inputs(traced, pieces, moving, operands, problem.dtype)
        make = field_of if name == "f" else output_of
        functions[name] = (make(traced, inputs, pieces), inputs.avals, inputs.names, inputs.operands)
    return dataclasses.replace(
        problem, functions=compiled(functions, problem.unroll), pieces=pieces, moving=moving, operands=tuple(chain.operands)
    )
