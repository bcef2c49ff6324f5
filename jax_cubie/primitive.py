"""The solve of one lane as a JAX primitive, that vmaps, differentiates, shards and exports."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax

from .derivatives import solve_with_summaries
from .problem import Problem


def run(problem: Problem, operands: Sequence[Any]) -> list[jax.Array]:
    """The results of one lane, in the order of `problem.results`."""
    return solve_with_summaries(problem, operands)
