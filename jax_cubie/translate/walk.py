"""From a function to its program: trace it, and walk over the jaxpr."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.extend.core as jex
import numpy as np

from ..kernel.cache import dump_directory
from .arrays import Index, in_memory, strides_of
from .builder import Scalar
from .context import Context, check_dtype
from .platforms import ELEMENTARY, FEW_ELEMENTS, PLATFORMS, unroll_on
from .products import Grouped
from .program import Program, dtype_name
from .rules import RULES
from .rules_control import CALLS
from .rules_elementwise import SCALAR

_ELEMENTWISE = frozenset({*SCALAR, "convert_element_type", "dot_general"})


def trace(fn: Callable[..., Any], *avals: jax.ShapeDtypeStruct) -> jex.ClosedJaxpr:
    """The jaxpr of ``fn``, which takes flat arrays and returns an array or a flat sequence of arrays."""
    closed = jax.make_jaxpr(fn)(*avals)
    for aval in (*avals, *closed.out_avals):
        check_dtype("the function", aval)
    return closed


def translate(closed: jex.ClosedJaxpr, *, unroll: int, platform: str) -> tuple[Program, list[Any]]:
    """The program of a jaxpr for one platform.

    Gives with it the operand constants: what the jaxpr closes over (inexact arrays, all tracers, and larger integer arrays),
    which are the program's inputs after those of the jaxpr, in order of first use.
    """
    return _translate(closed, Context(unroll, platform, RULES, CALLS, _ELEMENTWISE, {}))


def translate_for_all(
    closed: jex.ClosedJaxpr, unroll: int | str, conversions: dict[tuple[int, str], tuple[Any, Any]] | None = None
) -> tuple[dict[str, tuple[Program, list[Any], int]], list[Any]]:
    """For each platform the program of a jaxpr, its operand constants and how far it is unrolled; and all constants, each
    once.

    conversions: by id and dtype, constants with what they became in that dtype; is added to.
    """
    known: list[tuple[Context, tuple[Program, list[Any]]]] = []
    conversions = {} if conversions is None else conversions
    programs, constants = {}, {}

    def program_for(platform: str, limit: int) -> tuple[Program, list[Any]]:
        for context, made in known:
            if context.same_everywhere and limit in context.same_for:
                return made
        context = Context(limit, platform, RULES, CALLS, _ELEMENTWISE, conversions)
        known.append((context, _translate(closed, context)))
        return known[-1][1]

    for platform in PLATFORMS:
        limit = unroll_on(platform, unroll)
        made = program_for(platform, limit)
        if platform == "cpu" and unroll == "auto" and _wants_vectors(made[0]):
            limit = FEW_ELEMENTS
            made = program_for(platform, limit)
        programs[platform] = (*made, limit)
        constants |= {id(value): value for value in made[1]}
    return programs, list(constants.values())


def _wants_vectors(program: Program) -> bool:
    """Whether it computes many elementary functions, or many sums of products at once, in code without loops."""
    functions = sum(op in ELEMENTARY for _, op, *_ in program.instructions)
    sums = (attribute.count for _, op, _, _, attribute in program.instructions if op == "sums")
    return functions > FEW_ELEMENTS or any(count > FEW_ELEMENTS for count in sums)


def _translate(closed: jex.ClosedJaxpr, context: Context) -> tuple[Program, list[Any]]:
    args = [context.new_input(tuple(a.shape), dtype_name(np.dtype(a.dtype))) for a in closed.in_avals]
    results = context.call(closed, *args)
    b = context.b
    for k, x in enumerate(results):
        strides = strides_of(x.shape)
        place = ("output", k)

        def store(index: Index, value: Scalar, place: Any = place, strides: Any = strides) -> None:
            flat = b.index(0)
            for i, s in zip(index, strides, strict=True):
                flat = b.add(flat, b.mul(i, b.index(s)))
            b.store(place, flat, value)

        if isinstance(x, Grouped) and context.unrolls(x.size):
            x = context.settle(in_memory(b, x))  # an output that is written by known indices may be in registers
        x.write(b, store)
    outputs = [(tuple(a.shape), dtype_name(a.dtype)) for a in closed.out_avals]
    program, used = b.finish(context.inputs, len(args), outputs)
    if dump_directory() is not None:
        program = dataclasses.replace(program, jaxpr=f"{closed.jaxpr}\n")
    return program, [context.constants[k - len(args)] for k in used]
