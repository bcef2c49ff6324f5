"""One compartment that empties at a rate, by its closed form: what doses into it have to give."""

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np


class Arrays(NamedTuple):
    """Those of a schedule, as a pytree; rates: [jumps + 1, components]."""

    times: Any
    increments: Any
    kept: Any
    rates: Any

    @classmethod
    def of(cls, schedule: Any, components: int) -> "Arrays":
        rates = None
        if schedule.infused:
            rates = jnp.zeros((schedule.rates.shape[0], components)).at[:, np.array(schedule.infused)].set(schedule.rates)
        return cls(
            schedule.times, schedule.increments, schedule.kept, None if rates is None else rates.astype(schedule.rates.dtype)
        )


def by_superposition(ts, k, begins, amounts, durations):
    """The amount [points] at `ts`, each dose by itself: at once, or at a constant rate; before those of the same time."""
    since = jnp.asarray(ts)[:, None] - jnp.asarray(begins)
    lasting = jnp.asarray(durations) > 0
    takes = jnp.where(lasting, durations, 1.0)
    rates = amounts / takes
    under_way = rates / k * -jnp.expm1(-k * jnp.minimum(jnp.maximum(since, 0), takes))
    slow = under_way * jnp.exp(-k * jnp.maximum(since - takes, 0))
    fast = amounts * jnp.exp(-k * jnp.maximum(since, 0))
    return jnp.sum(jnp.where(since > 0, jnp.where(lasting, slow, fast), 0), 1)


def by_jumps(jumps, k, y0, t1):
    """The state [n] at t1 from the arrays of a kernel: y' = -k y + rate between jumps, each component by itself."""
    y, before = np.asarray(y0, float), 0.0
    arrays = [jumps.times, jumps.kept, jumps.increments, jumps.rates]
    ts, keep, increments, rates = (None if one is None else np.asarray(one, float) for one in arrays)
    for number in range(len(ts) + 1):
        end = min(ts[number], t1) if number < len(ts) else t1
        assert end >= before
        rate = 0.0 if rates is None else rates[number]
        y = y * np.exp(-k * (end - before)) + rate / k * -np.expm1(-k * (end - before))
        before = end
        if number == len(ts) or ts[number] > t1:
            break
        y = (1.0 if keep is None else keep[number]) * y + increments[number]
    return y
