"""From a function to its program: trace it, and walk over the jaxpr."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Container, Mapping, Sequence
from functools import partial
from typing import Any

import jax
import jax.core
import jax.extend.core as jex
import numpy as np

from ..kernel.cache import dump_directory
from ..kernel.partition import as_of_one_device, varying
from ..settings import as_now, refuse_symbolic
from .arrays import Array, Index, flat_index, in_memory, strides_of
from .builder import Builder, Scalar
from .context import Context, Conversions, check_dtype
from .equivalence import equivalent
from .platforms import ELEMENTARY, FEW_ELEMENTS, PLATFORMS, unroll_on
from .products import Grouped
from .program import Program, dtype_name
from .rules import RULES
from .rules_control import CALLS
from .rules_elementwise import SCALAR

_ELEMENTWISE = frozenset({*SCALAR, "convert_element_type", "dot_general"})


def trace(fn: Callable[..., Any], *avals: jax.ShapeDtypeStruct, said: str = "the function") -> jex.ClosedJaxpr:
    """The jaxpr of ``fn``, which the user calls ``said``, and which takes flat arrays and returns an array or a flat sequence
    of arrays."""
    with as_of_one_device():
        closed = jax.make_jaxpr(fn)(*avals)
        for value in closed.consts:
            refuse_symbolic(f"an array that {said} closes over", value)
        held = [as_now(value) for value in closed.consts]
        if any(value.dtype != given.dtype for value, given in zip(held, closed.consts, strict=True)):
            closed = jax.make_jaxpr(jex.jaxpr_as_fun(jex.ClosedJaxpr(closed.jaxpr, held)))(*avals)
    if any(varying(jax.typeof(value)) for value in closed.consts):
        closed = jex.ClosedJaxpr(_of_one_device(closed.jaxpr, {}), closed.consts)
    for aval in (*avals, *closed.out_avals):
        check_dtype(said, aval)
    return closed


def translate(closed: jex.ClosedJaxpr, *, unroll: int, platform: str) -> tuple[Program, list[Any]]:
    """The program of a jaxpr for one platform.

    Gives with it the operand constants: what the jaxpr closes over (inexact arrays, all tracers, and larger integer arrays),
    which are the program's inputs after those of the jaxpr, in order of first use.
    """
    return _translate(closed, _context(unroll, platform, {}))


def _of_one_device(value: Any, renamed: dict[Any, Any]) -> Any:
    """A jaxpr, an equation, or what one of these holds, whose variables have types without axes of `shard_map`."""

    def inner(values: Any) -> Any:
        return [_of_one_device(one, renamed) for one in values]

    if isinstance(value, jex.Var) and varying(value.aval):
        if value not in renamed:
            aval: Any = value.aval
            renamed[value] = jex.Var(jax.core.ShapedArray(aval.shape, aval.dtype, weak_type=aval.weak_type))
        return renamed[value]
    if isinstance(value, jex.ClosedJaxpr) and value.jaxpr is not value:  # from JAX 0.11 on a jaxpr has its constants itself
        return jex.ClosedJaxpr(_of_one_device(value.jaxpr, renamed), value.consts)
    if isinstance(value, jex.Jaxpr):
        parts = {name: inner(getattr(value, name)) for name in ("constvars", "invars", "outvars", "eqns")}
        return value.replace(**parts)
    if isinstance(value, jex.JaxprEqn):
        params = {name: _of_one_device(one, renamed) for name, one in value.params.items()}
        return value.replace(invars=inner(value.invars), outvars=inner(value.outvars), params=params)
    if type(value) is tuple or type(value) is list:
        return type(value)(inner(value))
    return value


Translated = tuple[Program, list[Any], int]
"""A program, its operand constants, and how far it is unrolled."""


def translate_for_all(
    closed: jex.ClosedJaxpr, unroll: int | str, conversions: Conversions | None = None, operands: Container[int] | None = None,
    *, structural_zeros: bool = False,
) -> tuple[dict[str, Translated], list[Any]]:
    """For each platform the program of a jaxpr, its operand constants and how far it is unrolled; and all constants, each
    once.

    conversions: what was made of closed-over arrays; calls that share it make it once. operands: as `Context` takes them,
    `known`. structural_zeros: for derivatives along known directions: what is multiplied by one of their zeros is left out,
    even where it may be infinite or NaN.
    """
    known: list[tuple[Context, tuple[Program, list[Any]]]] = []
    made_of = {} if conversions is None else conversions

    def program_for(platform: str, limit: int) -> tuple[Program, list[Any]]:
        for context, made in known:
            if context.same_everywhere and limit in context.same_for:
                return made
        context = _context(limit, platform, made_of, operands, structural_zeros)
        known.append((context, _translate(closed, context)))
        return known[-1][1]

    programs: dict[str, Translated] = {}
    for platform in PLATFORMS:
        limit = unroll_on(platform, unroll)
        made = program_for(platform, limit)
        if platform == "cpu" and unroll == "auto" and _wants_vectors(made[0]):
            limit = FEW_ELEMENTS
            made = program_for(platform, limit)
        programs[platform] = (*made, limit)
    return programs, _constants(programs)


def translate_tangents(
    closed: jex.ClosedJaxpr, own: jex.ClosedJaxpr, limits: Mapping[str, int], conversions: Conversions | None = None,
    operands: Container[int] | None = None,
) -> tuple[dict[str, Translated], list[Any]]:
    """`translate_for_all` of a function `closed` that gives the outputs of `own` first, to the bit, and then others.

    closed: its inputs begin with those of `own`, as those of a jvp with primals and tangents do. limits: how far the programs
    of each platform are unrolled, as far as those of `own` are. conversions: as `translate_for_all` was given for `own`.
    operands: as it takes them.

    That a value is used by a tangent, too, changes no contraction of `own`'s. Where the primal part is another program all the
    same (a loop whose body grew too long to be unrolled, a custom_jvp whose rule computes the value otherwise), `own` is
    computed beside it.
    """
    made_of = {} if conversions is None else conversions
    count = len(own.out_avals)
    known: list[tuple[Context, Context, tuple[Program, list[Any]]]] = []

    def program_for(platform: str, limit: int) -> tuple[Program, list[Any]]:
        for *contexts, made in known:
            if all(context.same_everywhere and limit in context.same_for for context in contexts):
                return made
        alone, context = (_context(limit, platform, made_of, operands) for _ in range(2))
        _translate(own, alone)
        made = _translate(closed, context, count)
        if not equivalent(alone.b.alone(count), alone.named, context.b.alone(count), context.named):
            context = _context(limit, platform, made_of, operands)
            made = _translate(closed, context, count, own)
        known.append((alone, context, made))
        return made

    programs = {platform: (*program_for(platform, limit), limit) for platform, limit in limits.items()}
    return programs, _constants(programs)


def _context(
    unroll: int, platform: str, conversions: Conversions, operands: Container[int] | None = None, structural_zeros: bool = False
) -> Context:
    return Context(unroll, platform, RULES, CALLS, _ELEMENTWISE, conversions, operands, structural_zeros)


def _constants(programs: Mapping[str, Translated]) -> list[Any]:
    return list({id(value): value for _, constants, _ in programs.values() for value in constants}.values())


def _wants_vectors(program: Program) -> bool:
    """Whether it computes many elementary functions, or many sums of products at once, in code without loops."""
    functions = sum(op in ELEMENTARY for _, op, *_ in program.instructions)
    sums = (attribute.count for _, op, _, _, attribute in program.instructions if op == "sums")
    return functions > FEW_ELEMENTS or any(count > FEW_ELEMENTS for count in sums)


def _translate(
    closed: jex.ClosedJaxpr, context: Context, own: int = 0, beside: jex.ClosedJaxpr | None = None
) -> tuple[Program, list[Any]]:
    """own: how many first outputs have the bits that they have alone. beside: what computes them, of the first inputs."""
    b = context.b
    args = [context.new_input(tuple(a.shape), dtype_name(np.dtype(a.dtype))) for a in closed.in_avals]
    context.arguments = len(args)

    def write(results: Sequence[Array], first: int) -> None:
        for k, x in enumerate(results, start=first):
            if isinstance(x, Grouped) and context.unrolls(x.size):
                x = context.settle(in_memory(b, x))  # an output that is written by known indices may be in registers
            x.write(b, partial(_store, b, ("output", k), strides_of(x.shape)))

    if beside is not None:
        # Written before anything else is computed: so far the program is that of `beside` alone.
        write(context.call(beside, *args[:len(beside.in_avals)]), 0)
        write(context.call(closed, *args)[own:], own)
    else:
        write(context.call(closed, *args), 0)
    outputs = [(tuple(a.shape), dtype_name(a.dtype)) for a in closed.out_avals]
    program, used = b.finish(context.inputs, len(args), outputs, own)
    if dump_directory() is not None:
        program = dataclasses.replace(program, jaxpr=f"{closed.jaxpr}\n")
    return program, [context.constants[k - len(args)] for k in used]


def _store(b: Builder, place: tuple[str, int], strides: tuple[int, ...], index: Index, value: Scalar) -> None:
    b.store(place, flat_index(b, index, strides), value)
