"""What is kept of the leg at hand, of a lane whose way is divided. Apart from the clock, so that no solve imports llvmlite."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..problem import Problem

# The cells with the first and the last time of a leg, and of these since t0, for functions that count from there.
TIMES, SINCE_T0 = ("first_time", "last_time"), ("first_since_t0", "last_since_t0")


def edges(problem: Problem) -> tuple[tuple[str, str], ...]:
    """Those pairs of cells that a problem has."""
    if not problem.jumps:
        return ()
    return (TIMES, SINCE_T0) if problem.counts_from_t0 else (TIMES,)
