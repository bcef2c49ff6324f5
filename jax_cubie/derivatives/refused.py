"""Tangents that there are not: those of results that have a derivative, which nobody has written yet.

Where such a result is differentiated its tangent is this primitive's. It raises where somebody asks for its value, and is
dropped where nobody does: so what stands beside it in a solution can be differentiated.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

from ..operands import Result
from .bind import is_zero
from .chain import Chain, differentiable, root

_SAID = (
    "derivatives of summaries are not there yet, and one is asked for: wrap what is not to be differentiated in "
    "jax.lax.stop_gradient, or differentiate a mean or an integral as a component of the state of its own, and an extremum as "
    "ys at its time, SaveAt(ts=...). Where only ys or observables are differentiated, but forwards and outside of jax.jit, "
    "leave summaries= out or use jax.jit, which drops what nobody reads"
)

refused_p = Primitive("jax_cubie_refused_tangent")


def moves_refused(problem: Chain, tangents: Sequence[Any]) -> list[Any]:
    """The tangents on which results depend that are refused: those that others depend on, and those of `refused_operands`."""
    can = differentiable(problem)
    own = {name for part in root(problem).parts for name in part.refused_operands}
    return [
        tangent
        for number, tangent in enumerate(tangents)
        if not is_zero(tangent) and (can[number] or problem.operands[number].name in own)
    ]


def is_refused(result: Result) -> bool:
    """Whether the derivative of a result is refused."""
    return result.refused and result.dtype.startswith("float")


def refused_tangent(array: Any, moves: Sequence[Any]) -> Any:
    """The tangent of an array, on which it depends."""
    return refused_p.bind(array, *moves)


def _refuse(*_: Any, **__: Any) -> Any:
    raise NotImplementedError(_SAID)


refused_p.def_abstract_eval(lambda array, *_: array)
refused_p.def_impl(_refuse)
mlir.register_lowering(refused_p, _refuse)


def _jvp(primals: Sequence[Any], tangents: Sequence[Any]) -> Any:
    array = refused_p.bind(*primals)
    moves = [one for one in tangents if not is_zero(one)]
    return array, refused_p.bind(array, *moves)


def _transpose(cotangent: Any, *inputs: Any) -> list[None]:
    return [None] * len(inputs) if type(cotangent) is ad.Zero else _refuse()


ad.primitive_jvps[refused_p] = _jvp
ad.primitive_transposes[refused_p] = _transpose
batching.primitive_batchers[refused_p] = lambda arrays, dims: (refused_p.bind(*arrays), dims[0])
