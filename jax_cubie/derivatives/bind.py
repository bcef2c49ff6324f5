"""The four primitives, and how they are bound: all inputs vary alike over a mesh, and every level is had by one of them."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import Primitive
from jax.interpreters import ad

from ..kernel.partition import vary_alike
from .calls import LinearCall, SolveCall
from .chain import Chain, differentiable
from .levels import Axes, first_of, lay_out, pick, squeeze, used_levels


def _make(name: str) -> Primitive:
    primitive = Primitive(f"jax_cubie_{name}")
    primitive.multiple_results = True

    @functools.lru_cache(maxsize=1024)
    def compiled(**params: Any) -> Any:
        def call(*arrays: Any) -> Any:
            return primitive.bind(*arrays, **params)

        call.__qualname__ = f"jax_cubie.{name}"
        call._apply_primitive = True  # with jax.debug_nans, JAX looks no deeper than here
        return jax.jit(call)

    @primitive.def_impl
    def eager(*arrays: Any, **params: Any) -> Any:
        with jax.disable_jit(False):  # else the jit would bind, and so come back here
            return compiled(**params)(*arrays)

    return primitive


solve_p, adjoint_p, tangent_p, second_p = map(_make, ("solve", "adjoint", "tangent", "second"))


@dataclasses.dataclass(frozen=True)
class Solved:
    """What a solve gives, with the axes of each array."""

    results: list[Any]
    axes: list[Axes]
    checkpoints: list[Any]
    checkpoint_axes: list[Axes]


def bind_solve(problem: Chain, arrays: Sequence[Any], axes: Sequence[Axes], record: int | None = None) -> Solved:
    """Solves `problem`; `axes` may have levels that no array has."""
    keep = used_levels(axes)
    call = SolveCall(problem, tuple(pick(one, keep) for one in axes), record)
    found = solve_p.bind(*vary_alike(arrays), **call.params)
    out_axes, count = SolveCall(problem, tuple(axes), record).out_axes, len(problem.results)
    return Solved(found[:count], out_axes[:count], found[count:], out_axes[count:])


def bind_linear(primitive: Primitive, arrays: Sequence[Any], call: LinearCall, sizes: Sequence[Any]) -> list[Any]:
    """The outputs of a linear primitive, in which each contribution counts as often as it should: those that disagree on
    that are of calls of their own. sizes: of the levels, as `call` has them, which may be levels that no array has."""
    groups: dict[frozenset[tuple[int, int]], list[int]] = {}
    for number, once in enumerate(call.counted_once()):
        groups.setdefault(once, []).append(number)
    outputs: list[Any] = [None] * len(call.outputs)
    for once, numbers in groups.items():
        chosen = [number in numbers for number in range(len(outputs))]
        given, axes = list(arrays), list(call.axes)
        for number, level in sorted(once):
            given[number] = first_of(given[number], sizes[level])
            moved = [None if axis is None else axis + 1 for axis in axes[number]]
            axes[number] = (*moved[:level], 0, *moved[level + 1 :])
        out_axes = tuple(call.out_axes[number] for number in numbers)
        part = LinearCall(call.problem, call.roles.of_outputs(chosen), tuple(axes), out_axes)
        for number, array in zip(numbers, _bind(primitive, given, part, sizes), strict=True):
            outputs[number] = array
    return outputs


def _bind(primitive: Primitive, arrays: Sequence[Any], call: LinearCall, sizes: Sequence[Any]) -> list[Any]:
    keep = used_levels(call.axes)
    axes = tuple(pick(one, keep) for one in call.axes)
    small = LinearCall(call.problem, call.roles, axes, tuple(squeeze(one, keep) for one in call.out_axes))
    outputs = primitive.bind(*vary_alike(arrays), **small.params)
    levels = range(call.levels)
    found = []
    for array, have, want in zip(outputs, small.out_axes, call.out_axes, strict=True):
        places = dict(zip(keep, have, strict=True))
        found.append(lay_out(array, tuple(places.get(level) for level in levels), want, [True] * call.levels, sizes))
    return found


def is_zero(tangent: Any) -> bool:
    """Whether it is known to be zero: JAX gives integers such tangents, and what nobody differentiates by."""
    return type(tangent) is ad.Zero or getattr(tangent, "dtype", None) == jax.dtypes.float0


def moved_operands(problem: Chain, tangents: Sequence[Any]) -> list[int]:
    """The operands that a derivative is taken by, by number; that by tolerances and the like is zero."""
    can = differentiable(problem)
    return [number for number, one in enumerate(tangents) if can[number] and not is_zero(one)]


def zero_tangent(array: Any) -> ad.Zero:
    """Of an array that does not depend on what is differentiated by."""
    return ad.Zero(jax.typeof(array).to_tangent_aval())


def zero_cotangent(undefined: Any) -> ad.Zero:
    """Of an undefined primal."""
    aval = undefined.aval
    return ad.Zero(aval.to_ct_aval() if hasattr(aval, "to_ct_aval") else aval.to_tangent_aval())  # JAX 0.9 lacks the former


def shapes_of(arrays: Sequence[Any]) -> list[Any]:
    """Of arrays and undefined primals."""
    return [array.aval.shape if ad.is_undefined_primal(array) else jnp.shape(array) for array in arrays]


def which_are_known(tracers: Sequence[Any]) -> list[bool]:
    return [tracer.is_known() for tracer in tracers]
