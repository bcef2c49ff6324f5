"""Equations that are computed in two parts, as JAX's rules for it want them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from jax.extend.core import Primitive, Var


def needed(inputs: Sequence[Any], instantiated: Sequence[bool]) -> list[Any]:
    """The inputs that have to be kept for later, as they are not at hand there by themselves."""
    return [one for one, there in zip(inputs, instantiated, strict=True) if type(one) is Var and not there]


def saves(saveable: Any, primitive: Primitive, inputs: Sequence[Any], params: dict[str, Any]) -> bool:
    """Whether a policy of `jax.checkpoint` wants the outputs to be kept."""
    answer = saveable(primitive, *[one.aval for one in inputs], **params)
    return answer is True or type(answer).__name__ in ("SaveableType", "Offloadable")


def equation_as_a_whole(saveable: Any, unknown: Sequence[bool], instantiated: Sequence[bool], eqn: Any) -> Any:
    """What JAX does with an equation of a primitive without a rule."""
    count = len(eqn.outvars)
    if any(unknown):
        return None, eqn, [True] * count, [True] * count, needed(eqn.invars, instantiated)
    if saves(saveable, eqn.primitive, eqn.invars, eqn.params):
        return eqn, None, [False] * count, [False] * count, []
    return eqn, eqn, [False] * count, [True] * count, needed(eqn.invars, instantiated)
