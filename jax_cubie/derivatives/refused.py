"""Tangents that there are not: those of results that have a derivative, which nobody has written yet.

Where such a result is differentiated its tangent is this primitive's. It raises where somebody asks for its value, and is
dropped where nobody does: so what stands beside it in a solution can be differentiated.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

from .bind import is_zero
from .chain import Chain, differentiable, root

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


def refused_tangent(array: Any, moves: Sequence[Any], refusal: str) -> Any:
    """The tangent of an array, on which it depends. refusal: why it is not there."""
    return refused_p.bind(array, *moves, refusal=refusal)


def _refuse(*_: Any, refusal: str, **__: Any) -> Any:
    raise NotImplementedError(
        f"a derivative is asked for that is not there: {refusal}. Wrap what is not to be differentiated in "
        "jax.lax.stop_gradient. Where only ys, observables or other summaries are differentiated, but forwards and outside of "
        "jax.jit, leave this one out, or use jax.jit, which drops what nobody reads"
    )


refused_p.def_abstract_eval(lambda array, *_, refusal: array)
refused_p.def_impl(_refuse)
mlir.register_lowering(refused_p, _refuse)


def _jvp(primals: Sequence[Any], tangents: Sequence[Any], refusal: str) -> Any:
    array = refused_p.bind(*primals, refusal=refusal)
    moves = [one for one in tangents if not is_zero(one)]
    return array, refused_p.bind(array, *moves, refusal=refusal)


def _transpose(cotangent: Any, *inputs: Any, refusal: str) -> list[None]:
    return [None] * len(inputs) if type(cotangent) is ad.Zero else _refuse(refusal=refusal)


def _batch(arrays: Sequence[Any], dims: Sequence[Any], refusal: str) -> Any:
    return refused_p.bind(*arrays, refusal=refusal), dims[0]


ad.primitive_jvps[refused_p] = _jvp
ad.primitive_transposes[refused_p] = _transpose
batching.primitive_batchers[refused_p] = _batch
