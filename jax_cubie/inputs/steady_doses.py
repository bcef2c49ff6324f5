"""Doses that are given until the state repeats itself: whether it does."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, Real

from ..controllers.tolerances import Tolerance, Tolerances, own_tolerances
from ..kernel.scalar import where
from ..printing import describe_call
from ..settings import concrete
from ..solution import CODES
from .given import read_order, read_times

if TYPE_CHECKING:
    from ..kernel.scalar import Scalar
    from ..loop.body import Body, Variable

# What may be done with the state at a jump, before it is changed; 0: nothing.
KEEP, JUDGE = 1, 2
_PREFIX = "steady_doses"
# The operands that are its own.
TOLERANCES = tuple(f"{_PREFIX}_{name}" for name in ("rtol", "atol"))
# How many of the solve's tolerances a change may be. Errors and rounding of the steps alone leave some: of 2,000 lanes of
# absorption by five methods at 1e-3 to 1e-8 more than ten in 8 by rodas5p in float32 at 1e-6, else in 3 at most.
_TIMES_SOLVES = 10.0


class SteadyDoses(eqx.Module):
    """Times by which equal doses have to have led to a steady state, for `solve(..., doses=)` in front of these doses:

        doses = Doses(0.0, 100.0, into=lambda y: y["gut"]).repeat(12.0, 40)
        solve(..., doses=(SteadyDoses(480.0, since=468.0), doses))

    `read_dose_table` makes those of records with SS. The state y just before the dose at one of `ts` is compared with what it
    was just before the dose at `since`: there is a steady state where the root mean square of (y - before) / (atol + rtol |y|)
    over the components is below 1. A lane that has none ends there, with the result `steady_state_not_reached`, and what would
    be saved later is NaN. Nothing else changes, and derivatives are those of the doses that are given.

    - ts: [m] or a scalar; infinite where a lane has fewer than others.
    - since: [m] or a scalar, when the dose before was given, an interval earlier. From there to its time in `ts` there is no
      other of these times.
    - rtol, atol: a scalar each, or a pytree like y0; None: ten times the solve's own. What the errors of the steps leave has to
      be below them: in float32, where the solve's are near its rounding, give larger ones. Where each change is q times the
      one before, what is still missing to the steady state is q / (1 - q) times the last one: slow lanes want tighter
      tolerances than fast ones.
    - order: [m] integers, see `Doses`: of resets and doses of these times, which are given before the state is looked at.
      Without, those that stand in front in `doses=(...)`.

    All numbers may be traced, and differ from lane to lane. A time at t1 is not looked at, as no dose is given there.

    Raises ValueError for known values that are none of these, and TypeError for what is no number.
    """

    ts: Real[Array, "*lanes m"]
    since: Real[Array, "*lanes m"]
    rtol: Tolerance | None
    atol: Tolerance | None
    order: Int[Array, "*lanes m"] | None

    def __init__(
        self, ts: Any, since: Any, *, rtol: Tolerance | None = None, atol: Tolerance | None = None, order: Any = None
    ):
        self.ts = read_times("SteadyDoses", ts)
        self.since = read_times("SteadyDoses", since, "since")
        self.rtol, self.atol, self.order = rtol, atol, read_order("SteadyDoses", order, self.ts)
        if self.since.shape != self.ts.shape:
            raise ValueError(
                f"SteadyDoses(since=...) has shape {self.since.shape}, but ts has {self.ts.shape}: they have to be equal"
            )
        Tolerances.check_all(self._tolerances())
        known = all(concrete(one) is not None for one in (self.ts, self.since))
        if known and are_wrong(self.ts, self.since):
            raise ValueError(
                f"SteadyDoses(ts={self.ts}, since={self.since}): expected each time behind its own of `since`, and no "
                "other time in between"
            )

    def _tolerances(self) -> dict[str, Tolerance]:
        return {name: tree for name in ("rtol", "atol") if (tree := getattr(self, name)) is not None}

    def operands(self, state: Any, others: Mapping[str, Any]) -> dict[str, Any]:
        """What the kernel is handed besides the schedule, for a state of the solve. others: its other operands, by their names.

        Raises TypeError or ValueError for numbers that are known and wrong, or not there at all.
        """
        where = "SteadyDoses(..., rtol=..., atol=...), or for those of a table doses(steady_rtol=..., steady_atol=...)"
        return own_tolerances("SteadyDoses", where, _PREFIX, self._tolerances(), state, others)

    def __repr__(self) -> str:
        named = {name: getattr(self, name) for name in ("rtol", "atol", "order")}
        return describe_call("SteadyDoses", (self.ts, self.since), named, dict.fromkeys(named))


def are_wrong(ts: Any, since: Any) -> Any:
    """Whether times [..., m] do not each follow their own of `since`, with no other in between."""
    known = concrete(ts), concrete(since)
    xp: Any = jnp if known[0] is None or known[1] is None else np
    ts, since = jax.lax.stop_gradient((ts, since)) if xp is jnp else known
    by_time = xp.argsort(ts, -1)
    ts, since = (xp.take_along_axis(one, by_time, -1) for one in (ts, since))
    there = ts < xp.inf
    return xp.any(~(since < ts) & there) | xp.any((since[..., 1:] < ts[..., :-1]) & there[..., 1:])


def look(b: Body, kind: Scalar, found: Variable) -> None:
    """At the state in front of a jump, as it is wanted there; the first code that is not 0 is `found`."""
    from ..controllers.norms import squares_over_own

    state, kept = b.piece(b.buf.state, 0), b.buf.steady_dose_state
    with b.when(kind.equals(JUDGE)):
        total = squares_over_own(b, _PREFIX, lambda i: b.scalar(state.load(i)) - b.scalar(kept.load(i)), state, _TIMES_SOLVES)
        failed = where(total.equals(total), b.scalar(CODES["steady_state_not_reached"], "int32"), CODES["not_finite"])
        code, before = where(total < float(b.primal), CODES["successful"], failed), b.scalar(found.get(), "int32")
        found.set(where(before.equals(CODES["successful"]), code, before).value)
    with b.when(kind.equals(KEEP)):
        b.each(lambda index: kept.store(index, state.load(index)), b.primal)
