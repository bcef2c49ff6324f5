"""The rules of the adjoint and of the tangent, and those that all linear primitives share. One is the other's transpose."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax.extend.core import Primitive
from jax.interpreters import ad, batching
from jax.interpreters import partial_eval as pe

from .bind import (
    adjoint_p,
    bind_linear,
    bind_solve,
    is_zero,
    moved_operands,
    second_p,
    shapes_of,
    tangent_p,
    zero_cotangent,
)
from .calls import LinearCall, Roles
from .chain import tangent_numbers, tangent_of, within
from .levels import lay_out, level_sizes, under_vmap
from .lowering import launch_adjoint, lower_as


def _abstract(*avals: Any, **params: Any) -> list[Any]:
    return LinearCall(**params).avals(avals)


def _batch(primitive: Primitive, arrays: Sequence[Any], dims: Sequence[int | None], **params: Any) -> Any:
    call = LinearCall(**params)
    axes = tuple(under_vmap(own, dim) for own, dim in zip(call.axes, dims, strict=True))
    has = [own[-1] for own in dataclasses.replace(call, axes=axes).depends]
    out_axes = tuple(under_vmap(own, 0 if one else None) for own, one in zip(call.out_axes, has, strict=True))
    found = primitive.bind(*arrays, **LinearCall(call.problem, call.roles, axes, out_axes).params)
    return found, [0 if one else None for one in has]


def _drop_unused(used: Sequence[bool], *rest: Any) -> Any:
    eqn = rest[-1]  # from JAX 0.12 on, something stands in between
    if not any(used):
        return [False] * len(eqn.invars), None
    if not all(used):
        call = LinearCall(**eqn.params)
        out_axes = tuple(own for own, read in zip(call.out_axes, used, strict=True) if read)
        call = dataclasses.replace(call, roles=call.roles.of_outputs(used), out_axes=out_axes)
        outputs = [one for one, read in zip(eqn.outvars, used, strict=True) if read]
        eqn = eqn.replace(outvars=outputs, params=call.params)
    return [True] * len(eqn.invars), eqn


for _primitive in (adjoint_p, tangent_p, second_p):
    _primitive.def_abstract_eval(_abstract)
    batching.primitive_batchers[_primitive] = functools.partial(_batch, _primitive)
    pe.dce_rules[_primitive] = _drop_unused


def jvp_of(function: Callable, primals: Sequence[Any], tangents: Sequence[Any]) -> Any:
    """`jax.jvp` of a function of one list, in what has a tangent."""
    active = [number for number, one in enumerate(tangents) if not is_zero(one)]

    def of_active(*values: Any) -> Any:
        arrays = list(primals)
        for number, value in zip(active, values, strict=True):
            arrays[number] = value
        return function(arrays)

    return jax.jvp(of_active, [primals[number] for number in active], [tangents[number] for number in active])


def undefined(call: LinearCall, inputs: Sequence[Any]) -> list[int]:
    """The inputs that a transpose is asked for, by number."""
    numbers = [number for number, one in enumerate(inputs) if ad.is_undefined_primal(one)]
    if any(number < call.fixed for number in numbers):
        raise TypeError("a derivative of a solve is linear in the tangents and cotangents alone, and was transposed by others")
    return numbers


def zero_cotangents(inputs: Sequence[Any]) -> list[Any]:
    return [zero_cotangent(one) if ad.is_undefined_primal(one) else None for one in inputs]


lower_as(adjoint_p, launch_adjoint)


def _adjoint_jvp(primals: Sequence[Any], tangents: Sequence[Any], **params: Any) -> Any:
    call = LinearCall(**params)
    problem, roles = call.problem, call.roles
    sizes = level_sizes(shapes_of(primals), call.axes)
    given, _, seeds, _, _ = call.split(tangents)
    given_axes, _, seed_axes, _, _ = call.split(call.axes)
    wrt = tuple(moved_operands(problem, given))
    moved = [number for number, one in enumerate(seeds) if not is_zero(one)]
    dots, dot_axes = [seeds[number] for number in moved], [seed_axes[number] for number in moved]
    moved = tuple(roles.seeds[number] for number in moved)
    if not wrt:
        own = dataclasses.replace(roles, seeds=moved)
        fixed = call.fixed
        changed = LinearCall(problem, own, (*call.axes[:fixed], *dot_axes), call.out_axes)
        return adjoint_p.bind(*primals, **params), bind_linear(adjoint_p, [*primals[:fixed], *dots], changed, sizes)
    own = dataclasses.replace(roles, tangents=wrt, seed_tangents=moved, gradient_tangents=roles.gradients)
    axes = (*call.axes, *(given_axes[number] for number in wrt), *dot_axes)
    both = LinearCall(problem, own, axes, (*call.out_axes, *call.out_axes))
    found = bind_linear(second_p, [*primals, *(given[number] for number in wrt), *dots], both, sizes)
    return found[: len(roles.gradients)], found[len(roles.gradients) :]


ad.primitive_jvps[adjoint_p] = _adjoint_jvp


def _adjoint_transpose(cotangents: Sequence[Any], *inputs: Any, **params: Any) -> Any:
    call = LinearCall(**params)
    roles, fixed, asked = call.roles, call.fixed, undefined(call, inputs)
    found = zero_cotangents(inputs)
    live = [number for number, one in enumerate(cotangents) if not is_zero(one)]
    if not live:
        return found
    wanted = tuple(roles.seeds[number - fixed] for number in asked)
    own = Roles(tangents=tuple(roles.gradients[number] for number in live), result_tangents=wanted)
    axes = (*call.axes[:fixed], *(call.out_axes[number] for number in live))
    transposed = LinearCall(call.problem, own, axes, tuple(call.axes[number] for number in asked))
    arrays = [*inputs[:fixed], *(cotangents[number] for number in live)]
    sizes = level_sizes(shapes_of(inputs), call.axes)
    for number, one in zip(asked, bind_linear(tangent_p, arrays, transposed, sizes), strict=True):
        found[number] = one
    return found


ad.primitive_transposes[adjoint_p] = _adjoint_transpose


def tangent_by_solve(arrays: Sequence[Any], call: LinearCall) -> list[Any]:
    """The tangents of results, by a solve of the problem with its tangents."""
    given, _, _, tangents, _ = call.split(arrays)
    axes, _, _, tangent_axes, _ = call.split(call.axes)
    by_number = sorted(zip(call.roles.tangents, tangents, tangent_axes, strict=True), key=lambda one: one[0])
    arrays_of = [*given, *(array for _, array, _ in by_number)]
    axes_of = [*axes, *(own for _, _, own in by_number)]
    solved = bind_solve(tangent_of(call.problem, call.roles.tangents), arrays_of, axes_of)
    sizes = level_sizes(shapes_of(arrays), call.axes)
    places = tangent_numbers(call.problem, call.roles.result_tangents)
    return [
        lay_out(solved.results[place], solved.axes[place], want, [True] * call.levels, sizes)
        for place, want in zip(places, call.out_axes, strict=True)
    ]


lower_as(tangent_p, lambda *arrays, **params: tangent_by_solve(arrays, LinearCall(**params)))


def _tangent_jvp(primals: Sequence[Any], tangents: Sequence[Any], **params: Any) -> Any:
    call = LinearCall(**params)
    fixed = call.fixed
    if moved_operands(call.problem, call.split(tangents)[0]):
        return jvp_of(lambda arrays: tangent_by_solve(arrays, call), primals, tangents)
    live = [number for number in range(fixed, len(primals)) if not is_zero(tangents[number])]
    own = dataclasses.replace(call.roles, tangents=tuple(call.roles.tangents[number - fixed] for number in live))
    axes = (*call.axes[:fixed], *(call.axes[number] for number in live))
    changed = LinearCall(call.problem, own, axes, call.out_axes)
    arrays = [*primals[:fixed], *(tangents[number] for number in live)]
    sizes = level_sizes(shapes_of(primals), call.axes)
    return tangent_p.bind(*primals, **params), bind_linear(tangent_p, arrays, changed, sizes)


ad.primitive_jvps[tangent_p] = _tangent_jvp


def _tangent_transpose(cotangents: Sequence[Any], *inputs: Any, **params: Any) -> Any:
    call = LinearCall(**params)
    problem, roles, fixed = call.problem, call.roles, call.fixed
    found = zero_cotangents(inputs)
    seeded = [number for number, one in enumerate(cotangents) if not is_zero(one)]
    seeds = tuple(roles.result_tangents[number] for number in seeded)

    def read(number: int) -> bool:  # some seed is of a result that depends on it
        order = problem.orders[roles.tangents[number - fixed]]
        return any(within(order, problem.result_orders[seed]) for seed in seeds)

    asked = [number for number in undefined(call, inputs) if read(number)]
    if not asked:
        return found
    own = Roles(seeds=seeds, gradients=tuple(roles.tangents[number - fixed] for number in asked))
    axes = (*call.axes[:fixed], *(call.out_axes[number] for number in seeded))
    transposed = LinearCall(problem, own, axes, tuple(call.axes[number] for number in asked))
    arrays = [*inputs[:fixed], *(cotangents[number] for number in seeded)]
    sizes = level_sizes(shapes_of(inputs), call.axes)
    for number, one in zip(asked, bind_linear(adjoint_p, arrays, transposed, sizes), strict=True):
        found[number] = one
    return found


ad.primitive_transposes[tangent_p] = _tangent_transpose
