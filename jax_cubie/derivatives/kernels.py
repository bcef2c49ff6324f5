"""The kernels that the primitives run."""

from __future__ import annotations

from typing import Any

from ..operands import Result
from .chain import Chain, Tangent

_NONE = (
    "jax_cubie.solve has no derivatives yet: jvp, jacfwd, vjp and grad of a solve are refused. Take the derivative "
    "of what does not go through the solve, or use jax.lax.stop_gradient on its inputs."
)


def forward_kernel(problem: Chain, record: int | None) -> Any:
    """It takes the operands of the problem, and gives its results and the checkpoints of depths up to `record`."""
    if isinstance(problem, Tangent) or record is not None:
        raise NotImplementedError(_NONE)
    return problem


def backward_kernel(problem: Chain, seeds: tuple[int, ...], wrt: tuple[int, ...]) -> Any:
    """It takes the operands of the problem, the checkpoints of all depths, the cotangents of the results `seeds`, and gives
    those of the operands `wrt`."""
    raise NotImplementedError(_NONE)


def checkpoint_results(problem: Chain, record: int) -> tuple[Result, ...]:
    """The checkpoints of depths up to `record`."""
    raise NotImplementedError(_NONE)
