"""From a function to its program: trace it, and walk over the jaxpr."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from ..kernel.cache import dump_directory
from .arrays import Index, strides_of
from .builder import Scalar
from .context import Context, check_dtype
from .program import Program, dtype_name
from .rules import RULES
from .rules_control import CALLS


def trace(fn: Callable[..., Any], *avals: jax.ShapeDtypeStruct, unroll: int = 32) -> tuple[Program, list[Any]]:
    """Translate ``fn``, which takes flat arrays and returns an array or a flat sequence of arrays.

    Gives the program, and the operand constants: what ``fn`` closes over (inexact arrays, all tracers, and integer
    arrays larger than ``unroll``), which are the program's inputs after those of ``avals``, in order of first use.
    """
    closed = jax.make_jaxpr(fn)(*avals)
    context = Context(unroll, RULES, CALLS)
    for aval in (*avals, *closed.out_avals):
        check_dtype("the function", aval)
    args = [context.new_input(tuple(a.shape), dtype_name(np.dtype(a.dtype))) for a in avals]
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

        x.write(b, store)
    outputs = [(tuple(a.shape), dtype_name(a.dtype)) for a in closed.out_avals]
    program, used = b.finish(context.inputs, len(avals), outputs)
    if dump_directory() is not None:
        program = dataclasses.replace(program, jaxpr=f"{closed.jaxpr}\n")
    return program, [context.constants[k - len(avals)] for k in used]
