"""What tells functions apart whose programs are equal and whose derivatives are not.

A custom rule, or `jax.lax.stop_gradient`, changes no value, and so no program. JAX makes objects for rules anew whenever a
function is traced, and what a rule does may depend on more than its code: so rules are compared by the jaxprs that they give.
"""

from __future__ import annotations

import hashlib
import itertools
import re
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.extend.core as jex
import jax.numpy as jnp
import numpy as np

from ..kernel.partition import as_of_one_device
from ..operands import Traced

# A rule may call functions that have rules, itself among them: so many derivatives of these are looked at.
_DEPTH = 3
_RULED = ("custom_jvp_call", "custom_vjp_call")
_ADDRESS = re.compile(r"\b0x[0-9a-f]+")

_numbers = itertools.count()


def rule_content(functions: Sequence[tuple[str, Traced]]) -> str:
    """Equal for functions whose derivatives are equal if their programs are."""
    digest = hashlib.sha256()
    for name, traced in functions:
        for part in (name, *traced.operands, *_of(traced.jaxpr, traced.closed_over, _DEPTH)):
            digest.update(f"{len(part)} {part}".encode())
    return digest.hexdigest()


def _of(jaxpr: jex.Jaxpr, constants: Sequence[Any], depth: int) -> Iterator[str]:
    yield _ADDRESS.sub("", str(jaxpr))
    yield from map(_constant, constants)
    yield from _inside(jaxpr, depth)


def _inside(jaxpr: jex.Jaxpr, depth: int) -> Iterator[str]:
    """What the text of a jaxpr leaves out: constants of those in it, and rules."""
    for eqn in jaxpr.eqns:
        for value in eqn.params.values():
            for inner in value if isinstance(value, (tuple, list)) else (value,):
                if isinstance(inner, jex.ClosedJaxpr):
                    yield from map(_constant, inner.consts)
                inner = inner.jaxpr if isinstance(inner, jex.ClosedJaxpr) else inner
                if isinstance(inner, jex.Jaxpr):
                    yield from _inside(inner, depth)
        if eqn.primitive.name in _RULED and depth:
            try:
                rule = derivative_of(jaxpr, eqn)
            except Exception:  # it raises again where it is used, with what the user has to know
                yield _unlike_any()
            else:
                yield from _of(rule.jaxpr, rule.consts, depth - 1)


def _constant(value: Any) -> str:
    if isinstance(value, int):  # the number of an operand
        return str(value)
    try:
        array = np.asarray(value)
    except (TypeError, RuntimeError):  # it is traced, a key, or on other hosts
        return _unlike_any()
    return f"{array.dtype}{array.shape} {hashlib.sha256(array.tobytes()).hexdigest()}"


def _unlike_any() -> str:
    return f"number {next(_numbers)}"


def derivative_of(jaxpr: jex.Jaxpr, eqn: Any) -> jex.ClosedJaxpr:
    """The derivative of a call of a function that has a rule, by all of its floats, as that rule gives it. eqn: in jaxpr."""
    inputs, outputs = ([jex.Var(one.aval) for one in ends] for ends in (eqn.invars, eqn.outvars))
    avals: list[Any] = [one.aval for one in inputs]
    given: list[Any] = [one.aval for one in outputs]
    alone = eqn.replace(invars=inputs, outvars=outputs)
    call = jex.jaxpr_as_fun(jex.ClosedJaxpr(jaxpr.replace(constvars=[], invars=inputs, outvars=outputs, eqns=[alone]), []))
    floats = [number for number, aval in enumerate(avals) if jnp.issubdtype(aval.dtype, jnp.floating)]

    def of_floats(primals: Sequence[Any]) -> Any:
        def moved(*values: Any) -> list[Any]:
            changed = dict(enumerate(primals)) | dict(zip(floats, values, strict=True))
            return [one for one in call(*changed.values()) if jnp.issubdtype(one.dtype, jnp.floating)]

        return moved, [primals[number] for number in floats]

    def forwards(primals: Sequence[Any], tangents: Sequence[Any]) -> Any:
        moved, values = of_floats(primals)
        return jax.jvp(moved, values, tangents)

    def backwards(primals: Sequence[Any], cotangents: Sequence[Any]) -> Any:
        moved, values = of_floats(primals)
        found, pull = jax.vjp(moved, *values)
        return found, pull(cotangents)

    with as_of_one_device():
        if eqn.primitive.name == "custom_jvp_call":
            return jax.make_jaxpr(forwards)(avals, [avals[number] for number in floats])
        return jax.make_jaxpr(backwards)(avals, [aval for aval in given if jnp.issubdtype(aval.dtype, jnp.floating)])
