"""JAX's evaluation of a function of a user's that was traced as of one device, where JAX's own does not do.

Inside of `shard_map` all that it computes varies over the mesh axes that its arguments vary over, also inside of loops and
branches. And branches become choices, of which all are computed: what JAX makes of tangents of branches under vmap it can't
transpose, where the derivative comes before the vmap.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.extend.core as jex
import jax.numpy as jnp
import numpy as np

from ..kernel.partition import as_of_one_device, vary_alike, varying
from .rule_content import derivative_of


def evaluate(function: Callable[..., list[Any]], *arrays: Any) -> list[Any]:
    """`function(*arrays)`."""
    arrays = tuple(vary_alike(arrays))
    axes = tuple(sorted(varying(jax.typeof(arrays[0])))) if arrays else ()
    with as_of_one_device():
        closed = jax.make_jaxpr(function)(*(jax.ShapeDtypeStruct(array.shape, array.dtype) for array in arrays))
    return _evaluate(closed, arrays, axes) if axes or _branches(closed.jaxpr) else function(*arrays)


def _evaluate(closed: jex.ClosedJaxpr, arrays: Sequence[Any], axes: tuple[str, ...]) -> list[Any]:
    jaxpr = closed.jaxpr

    def vary(value: Any) -> Any:
        missing = frozenset(axes) - varying(jax.typeof(value))
        return jax.lax.pcast(value, tuple(sorted(missing)), to="varying") if missing else value

    def retyped(parameter: Any) -> Any:
        if isinstance(parameter, (tuple, list)) and any(True for _ in _jaxprs(parameter)):
            changed = map(retyped, parameter)
            return type(parameter)(*changed) if hasattr(parameter, "_fields") else type(parameter)(changed)
        if not isinstance(parameter, (jex.ClosedJaxpr, jex.Jaxpr)):
            return parameter
        inner = parameter if isinstance(parameter, jex.ClosedJaxpr) else jex.ClosedJaxpr(parameter, ())
        inputs = [vary(jnp.zeros(aval.shape, aval.dtype)) for aval in inner.in_avals]
        found = jax.make_jaxpr(lambda *given: _evaluate(inner, given, axes))(*inputs)
        return found if isinstance(parameter, jex.ClosedJaxpr) else found.jaxpr

    def choose(eqn: Any, index: Any, given: Sequence[Any]) -> Any:
        outcomes = []
        for number, branch in enumerate(eqn.params["branches"]):
            taken = index == number  # of what is not, derivatives are 0, also where they are no numbers
            own = [jnp.where(taken, value, jax.lax.stop_gradient(value)) for value in given]
            outcomes.append(_evaluate(branch, own, axes))
        found = outcomes[-1]
        for number in reversed(range(len(outcomes) - 1)):
            found = [jnp.where(index <= number, one, other) for one, other in zip(outcomes[number], found, strict=True)]
        return found

    def with_rule(eqn: Any, given: Sequence[Any]) -> Any:
        """Where JAX has a rule whose types are those of one device."""
        floats = [number for number, one in enumerate(given) if jnp.issubdtype(one.dtype, jnp.floating)]
        call = jax.custom_jvp(lambda *values: _evaluate(eqn.params["call_jaxpr"], values, axes))

        @call.defjvp
        def move(primals: Any, tangents: Any) -> Any:
            found = call(*primals)
            moved = _evaluate(derivative_of(jaxpr, eqn), [*primals, *(tangents[number] for number in floats)], axes)
            moves = iter(moved[len(moved) // 2 :])
            none = jax.dtypes.float0
            return found, [
                next(moves) if jnp.issubdtype(one.dtype, jnp.floating) else np.zeros(one.shape, none) for one in found
            ]

        return call(*given)

    def apply(eqn: Any, given: Sequence[Any]) -> Any:
        if eqn.primitive.name == "cond":
            index, *others = given
            return choose(eqn, index.astype(np.int32), others)
        if eqn.primitive.name == "custom_jvp_call" and axes:
            return with_rule(eqn, given)
        parameters = {name: retyped(one) for name, one in eqn.params.items()} if axes or _branching(eqn) else eqn.params
        bound = eqn.primitive.get_bind_params(parameters)
        functions, parameters = ((), bound) if isinstance(bound, dict) else bound  # JAX 0.9 gives two
        found = eqn.primitive.bind(*functions, *given, **parameters)
        return found if eqn.primitive.multiple_results else [found]

    values = dict(zip((*jaxpr.constvars, *jaxpr.invars), map(vary, (*closed.consts, *arrays)), strict=True))

    def read(atom: Any) -> Any:
        return vary(atom.val) if isinstance(atom, jex.Literal) else values[atom]

    for eqn in jaxpr.eqns:
        values |= zip(eqn.outvars, map(vary, apply(eqn, list(map(read, eqn.invars)))), strict=True)
    return [read(atom) for atom in jaxpr.outvars]


def _jaxprs(parameter: Any) -> Iterator[jex.Jaxpr]:
    if isinstance(parameter, (tuple, list)):
        for one in parameter:
            yield from _jaxprs(one)
    elif isinstance(parameter, (jex.ClosedJaxpr, jex.Jaxpr)):
        yield parameter.jaxpr if isinstance(parameter, jex.ClosedJaxpr) else parameter


def _branches(jaxpr: jex.Jaxpr) -> bool:
    """Whether there are some, in it or in what it calls."""
    return any(eqn.primitive.name == "cond" or _branching(eqn) for eqn in jaxpr.eqns)


def _branching(eqn: Any) -> bool:
    """Whether one has some that can be rewritten: functions with rules have theirs as they are."""
    if eqn.primitive.name.startswith("custom_"):
        return False
    return any(_branches(inner) for parameter in eqn.params.values() for inner in _jaxprs(parameter))
