"""The rules of the second: an adjoint and its derivative, which is a symmetric map, and so its own transpose."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
from jax.interpreters import ad
from jax.interpreters import partial_eval as pe

from ..kernel.partition import vary_alike
from .bind import adjoint_p, bind_linear, bind_solve, is_zero, second_p, shapes_of, which_are_known
from .calls import LinearCall, Roles
from .chain import tangent_numbers, tangent_of
from .levels import lay_out, level_sizes, pick, squeeze, used_levels
from .linear_rules import jvp_of, undefined, zero_cotangents
from .lowering import lower_as
from .staging import equation_as_a_whole, needed, saves


def second_by_parts(arrays: Sequence[Any], call: LinearCall) -> list[Any]:
    """By a solve of the problem with its tangents, and the adjoint of that."""
    problem, roles, levels = call.problem, call.roles, call.levels
    sizes = level_sizes(shapes_of(arrays), call.axes)
    given, _, seeds, tangents, seed_tangents = call.split(arrays)
    axes, _, seed_axes, tangent_axes, seed_tangent_axes = call.split(call.axes)
    dots = dict(zip(roles.tangents, zip(tangents, tangent_axes, strict=True), strict=True))
    for number in roles.gradients:  # a cotangent of J(P)'s that stands at a tangent: of zeros, where there is none
        if number not in dots:
            operand = problem.operands[number]
            dots[number] = jnp.zeros(operand.shape, operand.dtype), (None,) * levels
    wrt = sorted(dots)
    operands, operand_axes = [*given, *(dots[one][0] for one in wrt)], [*axes, *(dots[one][1] for one in wrt)]
    tangent = tangent_of(problem, wrt)

    numbers = [*roles.seed_tangents, *tangent_numbers(problem, roles.seeds)]
    values, value_axes = [*seed_tangents, *seeds], [*seed_tangent_axes, *seed_axes]
    gradients = [*(len(given) + wrt.index(one) for one in roles.gradients), *roles.gradient_tangents]
    backward = bool(gradients) and bool(numbers)
    solved = bind_solve(tangent, operands, operand_axes, tangent.depth if backward else None)
    out_axes = call.out_axes[: len(gradients)]
    if backward:
        own = Roles(seeds=tuple(numbers), gradients=tuple(gradients))
        adjoint = LinearCall(tangent, own, (*operand_axes, *solved.checkpoint_axes, *value_axes), out_axes)
        found = bind_linear(adjoint_p, [*operands, *solved.checkpoints, *values], adjoint, sizes)
    else:
        zeros = [jnp.zeros(one.shape, one.dtype) for one in call.arrays[: len(gradients)]]
        none = (None,) * levels
        found = [lay_out(one, none, want, [True] * levels, sizes) for one, want in zip(zeros, out_axes, strict=True)]
    places = tangent_numbers(problem, roles.result_tangents)
    return found + [
        lay_out(solved.results[place], solved.axes[place], want, [True] * levels, sizes)
        for place, want in zip(places, call.out_axes[len(gradients) :], strict=True)
    ]


lower_as(second_p, lambda *arrays, **params: second_by_parts(arrays, LinearCall(**params)))


def _jvp(primals: Sequence[Any], tangents: Sequence[Any], **params: Any) -> Any:
    return jvp_of(lambda arrays: second_by_parts(arrays, LinearCall(**params)), primals, tangents)


ad.primitive_jvps[second_p] = _jvp


def _transpose(cotangents: Sequence[Any], *inputs: Any, **params: Any) -> Any:
    call = LinearCall(**params)
    roles, fixed, asked = call.roles, call.fixed, undefined(call, inputs)
    found = zero_cotangents(inputs)
    # The outputs that are linear in anything: no gradients among them, as those are computed before (`_Halves`).
    first = len(roles.gradients)
    live = [number for number in range(first, len(cotangents)) if not is_zero(cotangents[number])]
    if not live:
        return found
    split, ends = first + len(roles.gradient_tangents), fixed + len(roles.tangents)
    own = Roles(
        seeds=roles.seeds,
        tangents=tuple(roles.gradient_tangents[number - first] for number in live if number < split),
        seed_tangents=tuple(roles.result_tangents[number - split] for number in live if number >= split),
        gradient_tangents=tuple(roles.tangents[number - fixed] for number in asked if number < ends),
        result_tangents=tuple(roles.seed_tangents[number - ends] for number in asked if number >= ends),
    )
    axes = (*call.axes[:fixed], *(call.out_axes[number] for number in live))
    transposed = LinearCall(call.problem, own, axes, tuple(call.axes[number] for number in asked))
    arrays = [*inputs[:fixed], *(cotangents[number] for number in live)]
    sizes = level_sizes(shapes_of(inputs), call.axes)
    for number, one in zip(asked, bind_linear(second_p, arrays, transposed, sizes), strict=True):
        found[number] = one
    return found


ad.primitive_transposes[second_p] = _transpose


class _Halves:
    """A second whose operands, checkpoints and seeds are known: an adjoint, and a second without the gradients. Or `apart` is
    False: it does not fall apart so."""

    def __init__(self, unknown: Sequence[bool], params: dict[str, Any]):
        self.call = call = LinearCall(**params)
        self.fixed, self.gradients = call.fixed, len(call.roles.gradients)
        self.apart = any(unknown) and self.gradients > 0 and not any(unknown[: self.fixed])

    @property
    def known(self) -> LinearCall:
        call = self.call
        axes = call.axes[: self.fixed]
        keep = used_levels(axes)
        out_axes = tuple(squeeze(own, keep) for own in call.out_axes[: self.gradients])
        own = Roles(seeds=call.roles.seeds, gradients=call.roles.gradients)
        return LinearCall(call.problem, own, tuple(pick(one, keep) for one in axes), out_axes)

    @property
    def late(self) -> LinearCall:
        call = self.call
        return dataclasses.replace(
            call, roles=dataclasses.replace(call.roles, gradients=()), out_axes=call.out_axes[self.gradients :]
        )


def _partial(trace: Any, *tracers: Any, **params: Any) -> Any:
    halves = _Halves([not known for known in which_are_known(tracers)], params)
    if not halves.apart:
        return trace.default_process_primitive(second_p, tracers, params)
    arrays = [tracer.pval.get_known() for tracer in tracers[: halves.fixed]]
    gradients = adjoint_p.bind(*vary_alike(arrays), **halves.known.params)
    late = halves.late
    return [*gradients, *(trace.default_process_primitive(second_p, tracers, late.params) if late.outputs else [])]


pe.custom_partial_eval_rules[second_p] = _partial


def _partial_of_equation(saveable: Any, unknown: Sequence[bool], instantiated: Sequence[bool], eqn: Any) -> Any:
    """What is computed before, and what is staged for later, under `jax.checkpoint` and in loops."""
    halves = _Halves(unknown, eqn.params)
    if not halves.apart:
        return equation_as_a_whole(saveable, unknown, instantiated, eqn)
    inputs, count, known = eqn.invars[: halves.fixed], halves.gradients, halves.known
    first = eqn.replace(primitive=adjoint_p, invars=inputs, outvars=eqn.outvars[:count], params=known.params)
    late = [number >= count for number in range(len(eqn.outvars))]
    kept = needed(eqn.invars, instantiated)
    if not saves(saveable, adjoint_p, inputs, known.params):
        return first, eqn, late, [True] * len(late), kept
    staged = eqn.replace(outvars=eqn.outvars[count:], params=halves.late.params) if any(late) else None
    return first, staged, late, late, kept if any(late) else []


pe.partial_eval_jaxpr_custom_rules[second_p] = _partial_of_equation
