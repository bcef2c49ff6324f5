"""What a vector field makes integers of: by that alone its derivative is 0, and an optimizer stands still without a word."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import jax.numpy as jnp
import numpy as np

from ..linear.dependence import Value, Walk
from ..translate import trace
from ..translate.errors import users_line
from ..translate.program import FLOATS, SIGNED, UNSIGNED
from .functions import Inputs

if TYPE_CHECKING:
    from ..problem import Problem


@functools.lru_cache(maxsize=256)
def warn_of_integers(problem: Problem, moved: tuple[str, ...]) -> None:
    """Warns, with the user's line, where f depends on y or on the operands of those names through integers alone. Indices and
    conditions, through which nobody expects a derivative, don't count."""
    traced = dict(problem.traced)["f"]
    inputs = Inputs(traced, problem.pieces, (), {one.name: one for one in problem.operands}, problem.dtype)
    closed = trace(traced.call, *inputs.avals)
    if not any(map(_makes_integer, _equations(closed.jaxpr))):
        return
    asked = [number for number, name in enumerate(inputs.names) if name in (*inputs.vectors, *moved)]
    made: list[tuple[str, np.ndarray]] = []  # where integers are made of floats: the line, and of which inputs

    def look(eqn: Any, args: Any) -> None:
        if _makes_integer(eqn) and (union := whole.union(args)) is not None:
            made.append((users_line([eqn.source_info]), whole.unpacked(union).astype(bool)))

    differentiable, whole = Walk(len(asked)), Walk(len(asked), (*FLOATS, *SIGNED, *UNSIGNED).__contains__, look)
    smooth, any_way = (_inputs_of(walk, closed, asked) for walk in (differentiable, whole))
    line = next((line for line, through in made if (through & any_way & ~smooth).any()), None)
    if line is not None:
        warnings.warn(
            f"{traced.said} depends on values that are differentiated through integers alone, made at {line}: its derivative "
            "by these is 0, as JAX has it. Instead: keep them floats, or say that this is meant by jax.lax.stop_gradient",
            stacklevel=2,
        )


def _inputs_of(walk: Walk, closed: Any, asked: list[int]) -> np.ndarray:
    """On which of the inputs of those numbers any output depends: bool [asked]."""
    args = [Value(tuple(aval.shape)) for aval in closed.in_avals]
    for bit, number in enumerate(asked):
        shape = args[number].shape
        args[number] = Value(shape, sets=walk.packed(np.broadcast_to(np.arange(len(asked)) == bit, (*shape, len(asked)))))
    union = walk.union(walk.call(closed, *args))
    return np.zeros(len(asked), bool) if union is None else walk.unpacked(union).astype(bool)


def _makes_integer(eqn: Any) -> bool:
    """Whether an equation makes integers of floats."""
    kinds = [[var.aval.dtype for var in some if hasattr(var.aval, "dtype")] for some in (eqn.invars, eqn.outvars)]
    of, made = kinds
    return any(jnp.issubdtype(one, jnp.floating) for one in of) and any(jnp.issubdtype(one, jnp.integer) for one in made)


def _equations(jaxpr: Any) -> Iterator[Any]:
    """All of a jaxpr, those inside of others, too."""
    for eqn in jaxpr.eqns:
        yield eqn
        for value in eqn.params.values():
            for inner in value if isinstance(value, tuple | list) else (value,):
                inner = getattr(inner, "jaxpr", inner)
                if hasattr(inner, "eqns"):
                    yield from _equations(inner)
