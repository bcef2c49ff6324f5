"""The rules of the solve itself."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from jax.extend.core import Var
from jax.interpreters import ad, batching
from jax.interpreters import partial_eval as pe

from .bind import bind_solve, moved_operands, solve_p, tangent_p, which_are_known, zero_tangent
from .calls import LinearCall, Roles, SolveCall
from .chain import Tangent, tangent_of, with_tangent
from .integers import warn_of_integers
from .levels import pick, under_vmap, used_levels
from .lowering import launch_solve, lower_as
from .refused import moves_refused, refused_tangent
from .staging import equation_as_a_whole, needed, saves

lower_as(solve_p, launch_solve)


@solve_p.def_abstract_eval
def _abstract(*avals: Any, **params: Any) -> list[Any]:
    return SolveCall(**params).avals(avals)


def _batch(arrays: Sequence[Any], dims: Sequence[int | None], **params: Any) -> Any:
    call = SolveCall(**params)
    axes = tuple(under_vmap(own, dim) for own, dim in zip(call.axes, dims, strict=True))
    call = dataclasses.replace(call, axes=axes)
    return solve_p.bind(*arrays, **call.params), [axes[-1] for axes in call.out_axes]


batching.primitive_batchers[solve_p] = _batch


def _jvp(primals: Sequence[Any], tangents: Sequence[Any], **params: Any) -> Any:
    """One solve of the problem with its tangents."""
    call = SolveCall(**params)
    wrt = moved_operands(call.problem, tangents) if with_tangent(call.problem) else []
    if not wrt:
        found = solve_p.bind(*primals, **params)
        return found, _with_refused(call, found, tangents, {})
    if not isinstance(call.problem, Tangent):
        warn_of_integers(call.problem, tuple(call.problem.operands[number].name for number in wrt))
    arrays = [*primals, *(tangents[number] for number in wrt)]
    axes = [*call.axes, *(call.axes[number] for number in wrt)]
    solved = bind_solve(tangent_of(call.problem, wrt), arrays, axes, call.record)
    count = len(call.problem.results)
    found = [*solved.results[:count], *solved.checkpoints]
    given = dict(zip(with_tangent(call.problem), solved.results[count:], strict=True))
    return found, _with_refused(call, found, tangents, given)


def _with_refused(call: SolveCall, found: Sequence[Any], tangents: Sequence[Any], given: dict[int, Any]) -> list[Any]:
    """The tangents of a solve's results, of which `given` are known: those that are refused, and zeros."""
    moves = moves_refused(call.problem, tangents)
    for number, result in enumerate(call.problem.results if moves else ()):
        if result.refusal is not None and result.is_float:
            given = given | {number: refused_tangent(found[number], moves, result.refusal)}
    return [given[number] if number in given else zero_tangent(one) for number, one in enumerate(found)]


ad.primitive_jvps[solve_p] = _jvp


def _refuse_transpose(*_: Any, **__: Any) -> Any:
    raise TypeError(
        "a solve is not a linear function of what it is transposed with respect to: use jax.vjp of it, or jax.linear_transpose "
        "of what jax.linearize gives"
    )


ad.primitive_transposes[solve_p] = _refuse_transpose


class _Halves:
    """A solve of J(P), of which the operands of P are known and the tangents are not: a solve of P that records, and a
    tangent. Or `apart` is False: it does not fall apart so."""

    def __init__(self, unknown: Sequence[bool], params: dict[str, Any]):
        self.call = call = SolveCall(**params)
        self.apart = False
        if not isinstance(call.problem, Tangent):
            return
        base = call.problem.base
        self.operands, self.results = len(base.operands), len(base.results)
        self.tangents = len(call.problem.results) - self.results
        recorded = call.record is None or call.record <= base.depth
        self.apart = any(unknown) and not any(unknown[: self.operands]) and recorded
        self.base, self.wrt = base, call.problem.wrt

    @property
    def known(self) -> SolveCall:
        axes = self.call.axes[: self.operands]
        keep = used_levels(axes)
        return SolveCall(self.base, tuple(pick(own, keep) for own in axes), self.base.depth)

    @property
    def tangent(self) -> LinearCall:
        base, axes = self.base, self.call.axes
        recording = SolveCall(base, axes[: self.operands], base.depth)
        checkpoints = recording.out_axes[self.results :]
        out_axes = dataclasses.replace(self.call, record=None).out_axes[self.results :]
        roles = Roles(tangents=self.wrt, result_tangents=with_tangent(base))
        return LinearCall(base, roles, (*axes[: self.operands], *checkpoints, *axes[self.operands :]), tuple(out_axes))


def _partial(trace: Any, *tracers: Any, **params: Any) -> Any:
    halves = _Halves([not known for known in which_are_known(tracers)], params)
    if not halves.apart:
        return trace.default_process_primitive(solve_p, tracers, params)
    count, record, known = halves.operands, halves.call.record, halves.known
    arrays = [tracer.pval.get_known() for tracer in tracers[:count]]
    solved = bind_solve(known.problem, arrays, halves.call.axes[:count], known.record)
    inputs = [*tracers[:count], *solved.checkpoints, *tracers[count:]]
    tangents = trace.default_process_primitive(tangent_p, inputs, halves.tangent.params)
    return [*solved.results, *tangents, *([] if record is None else solved.checkpoints[: record + 1])]


pe.custom_partial_eval_rules[solve_p] = _partial


def _partial_of_equation(saveable: Any, unknown: Sequence[bool], instantiated: Sequence[bool], eqn: Any) -> Any:
    """What is computed before, and what is staged for later, under `jax.checkpoint` and in loops."""
    halves = _Halves(unknown, eqn.params)
    if not halves.apart:
        return equation_as_a_whole(saveable, unknown, instantiated, eqn)
    count, results, tangents = halves.operands, halves.results, halves.tangents
    outputs, inputs, known = eqn.outvars, eqn.invars[:count], halves.known
    late = [results <= number < results + tangents for number in range(len(outputs))]
    if not saves(saveable, solve_p, inputs, known.params):
        early = [output for output, is_late in zip(outputs, late, strict=True) if not is_late]
        params = dataclasses.replace(known, record=halves.call.record).params
        first = eqn.replace(invars=inputs, outvars=early, params=params)
        return first, eqn, late, [True] * len(outputs), needed(eqn.invars, instantiated)
    given = outputs[results + tangents :]
    avals = known.avals([one.aval for one in inputs])[results:]
    checkpoints = [old if type(old) is Var else Var(old.aval) for old in given]  # a DropVar can't be read
    checkpoints += [Var(aval) for aval in avals[len(given) :]]
    first = eqn.replace(invars=inputs, outvars=[*outputs[:results], *checkpoints], params=known.params)
    staged = eqn.replace(
        primitive=tangent_p, invars=[*inputs, *checkpoints, *eqn.invars[count:]],
        outvars=outputs[results : results + tangents], params=halves.tangent.params,
    )
    return first, staged, late, late, [*needed(eqn.invars, instantiated), *checkpoints]


pe.partial_eval_jaxpr_custom_rules[solve_p] = _partial_of_equation


def _drop_unused(used: Sequence[bool], *rest: Any) -> Any:
    """Without checkpoints, and without the outermost tangents, where nobody reads them."""
    eqn = rest[-1]  # from JAX 0.12 on, something stands in between
    if not any(used):
        return [False] * len(eqn.invars), None
    call = SolveCall(**eqn.params)
    outputs, read, inputs = eqn.outvars, list(used), len(eqn.invars)
    count = len(call.problem.results)
    if call.record is not None and not any(read[count:]):
        call, outputs, read = dataclasses.replace(call, record=None), outputs[:count], read[:count]
    while isinstance(call.problem, Tangent):
        base, end = call.problem.base, len(call.problem.results)
        count, inputs_left = len(base.results), len(base.operands)
        if any(read[count:end]) or (call.record is not None and call.record > base.depth):
            break
        axes = call.axes[:inputs_left]
        keep = used_levels(axes)
        call = SolveCall(base, tuple(pick(own, keep) for own in axes), call.record)
        outputs, read, inputs = [*outputs[:count], *outputs[end:]], [*read[:count], *read[end:]], inputs_left
    needs = [number < inputs for number in range(len(eqn.invars))]
    if len(outputs) < len(eqn.outvars):
        eqn = eqn.replace(invars=eqn.invars[:inputs], outvars=outputs, params=call.params)
    return needs, eqn


pe.dce_rules[solve_p] = _drop_unused
