"""Doses: amounts that are added to a component of the state at given times, at once or over a while.

What the user says becomes the arrays of `Schedule` outside of the kernel, in JAX: so doses have derivatives by all of their
numbers, also where a lag puts them into another order.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Self

import equinox as eqx
import jax
import jax.core
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, PyTree, Real

from ..foreign_names import front_door
from ..printing import as_document, describe_call
from ..settings import as_python, concrete, refuse_tracer, told
from ..times import next_time, owned, padded_offsets
from .given import module, read_numbers, read_order, read_times, real
from .jumps import Schedule
from .reading import Drivers
from .steady_doses import JUDGE, KEEP, SteadyDoses, are_wrong

# The places in a table of what stands in none.
_FIRST, _LAST = np.iinfo(np.int32).min, np.iinfo(np.int32).max
# In place of a component; of times at which the state is looked at, less what is done with it.
_RESET = -1


class Doses(eqx.Module):
    """A schedule of doses into one component of the state, for `solve(..., doses=)`.

    - ts: [m] or a scalar, the times, in any order. Lanes with fewer doses than others have infinite times in place of them.
    - amounts: [m] or a scalar, the same for all: what is added, in the units of the component.
    - into: a function of y that names the component, as `lambda y: y["depot"]` or `lambda y: y["organs"][2]`.
    - duration: over how long a dose is given, at a constant rate: [m] or a scalar, at least 0. None, or 0 of one dose: at once.
    - rate: in place of the duration, the rate at which it is given, so that it takes amounts * fraction / rate; 0 of one dose:
      at once, or over its duration, where that is given, too. Of one dose one of them may be above 0.
    - lag: how much later than at `ts` a dose begins, at least 0: [m] or a scalar.
    - fraction: the share of the amount that arrives, at least 0 (bioavailability): [m] or a scalar.
    - order: [m] integers. Of doses and resets of one time those of the lower order come first; with the same, or without, as
      they are listed. Among doses it makes no difference.

    All numbers may be traced, differ from lane to lane, and have derivatives. An axis in front of [m] is one of lanes: such a
    schedule is for `jax.vmap`, and each of its arrays has it. `into` belongs to the structure of the schedule: where schedules
    are arguments of functions under jit, the same function is the same structure.

    With a mass matrix M, M dy/dt = f, an amount is added to the component all the same, and what is infused to dy/dt: it is M
    times its rate that is added to f. Components that follow from algebraic equations are solved for anew then, and take no
    doses: ValueError.

    A dose at t0 is given at the start. One before t0 is an error (traced: the lane ends with `invalid_input`), one behind t1
    is never given. Doses want t1 >= t0.

    Raises ValueError for known values that are none of these, and TypeError for what is no number.
    """

    ts: Real[Array, "*lanes m"]
    amounts: Real[Array, "*lanes m"]
    into: Callable[[PyTree], Any] = eqx.field(static=True)
    duration: Real[Array, "*lanes m"] | None
    rate: Real[Array, "*lanes m"] | None
    lag: Real[Array, "*lanes m"] | None
    fraction: Real[Array, "*lanes m"] | None
    order: Int[Array, "*lanes m"] | None

    @front_door
    def __init__(
        self,
        ts: Any,
        amounts: Any,
        *,
        into: Callable[[PyTree], Any],
        duration: Any = None,
        rate: Any = None,
        lag: Any = 0,
        fraction: Any = 1,
        order: Any = None,
    ):
        if not callable(into):
            raise TypeError(
                f"Doses(into=...) is {told(into)}: expected a function of y that names a "
                "component, as lambda y: y['depot']"
            )
        self.ts = read_times("Doses", ts)
        self.into = into
        self.amounts = read_numbers("amounts", amounts, self.ts)
        self.duration = read_numbers("duration", duration, self.ts, least=0, nothing=0)
        self.rate = read_numbers("rate", rate, self.ts, least=0, nothing=0)
        self.lag = read_numbers("lag", lag, self.ts, least=0, nothing=0)
        self.fraction = read_numbers("fraction", fraction, self.ts, least=0, nothing=1)
        self.order = read_order("Doses", order, self.ts)
        if self.duration is not None and self.rate is not None:
            duration, rate = concrete(self.duration), concrete(self.rate)
            if duration is not None and rate is not None and np.any((duration > 0) & (rate > 0)):
                raise ValueError(
                    "Doses has a dose with a duration and a rate, of which one says the other: leave one out, or 0"
                )

        if self.rate is not None:
            rate, amounts = concrete(self.rate), concrete(self.amounts)
            if rate is not None and amounts is not None and np.any((rate > 0) & (amounts < 0)):
                raise ValueError("Doses has a negative amount at a rate above 0: it takes no time; say its duration")

    def update(self, **changes: Any) -> Self:
        """These doses with other values, as `doses.update(lag=parameters["lag"])`; names and errors as of `Doses`."""
        given = {name: getattr(self, name) for name in _FIELDS}
        return type(self)(**{**given, **changes})

    def repeat(self, interval: Real[Array, ""] | float, number: int) -> Self:
        """These doses, and every one of them `number` times more, `interval` apart: [m * (number + 1)] of them.

        interval: above 0; it may be traced, and has derivatives. number: at least 0, known.
        Raises ValueError or TypeError for others.
        """
        refuse_tracer("Doses.repeat(number=...)", number)
        times = as_python(number)
        if isinstance(times, bool) or not isinstance(times, int) or times < 0:
            raise ValueError(f"Doses.repeat(number={number!r}): expected how many doses there are more of each, at least 0")
        interval = real("Doses.repeat(interval=...)", interval)
        known = concrete(interval)
        if np.shape(interval) != ():
            raise ValueError(f"Doses.repeat(interval=...) has shape {np.shape(interval)}: expected one number")
        if known is not None and not (known > 0 and np.isfinite(known)):
            raise ValueError(f"Doses.repeat(interval={interval}): expected a finite number above 0")

        def again(values: Any) -> Any:
            return module(values).concatenate([values] * (times + 1), -1)

        later = np.repeat(np.arange(times + 1), self.ts.shape[-1]) * interval
        every = {name: again(value) for name in _FIELDS if name != "into" and (value := getattr(self, name)) is not None}
        return self.update(**{**every, "ts": every["ts"] + later})

    def __repr__(self) -> str:
        return describe_call("Doses", (self.ts, self.amounts), {name: getattr(self, name) for name in _FIELDS[2:]}, {})

    def __pdoc__(self, **_: Any) -> Any:
        return as_document(self)


_FIELDS = ("ts", "amounts", "into", "duration", "rate", "lag", "fraction", "order")


class Resets(eqx.Module):
    """Times at which all is taken back to how it began, for `solve(..., doses=)` beside doses.

    The state is y0 again; infusions in progress end; doses that were given before and whose lag is not over never arrive. What
    of doses at the same time is before it is said by `order`, see `Doses`, and by the places in `doses=(...)`.

    - ts: [m] or a scalar; infinite where a lane has fewer than others.
    - order: [m] integers, see `Doses`.
    """

    ts: Real[Array, "*lanes m"]
    order: Int[Array, "*lanes m"] | None

    def __init__(self, ts: Any, *, order: Any = None):
        self.ts = read_times("Resets", ts)
        self.order = read_order("Resets", order, self.ts)

    def __repr__(self) -> str:
        return describe_call("Resets", (self.ts,), {"order": self.order}, {})

    def __pdoc__(self, **_: Any) -> Any:
        return as_document(self)


AnyDoses = Doses | Resets | SteadyDoses


def read_doses(doses: Any) -> tuple[AnyDoses, ...]:
    """What was given as `doses=`, as a tuple. Raises TypeError or ValueError for what is none, or many lanes' at once."""
    given = () if doses is None else tuple(doses) if isinstance(doses, (tuple, list)) else (doses,)
    for one in given:
        if not isinstance(one, AnyDoses):
            raise TypeError(
                f"doses has {told(one)}: expected jax_cubie.Doses(ts, amounts, into=...), or a "
                "tuple of them"
            )
        if len(one.ts.shape) != 1:
            raise ValueError(
                f"{type(one).__name__} has ts of shape {one.ts.shape}: solve takes those of one trajectory, [m]; for many, "
                "jax.vmap the solve over them"
            )
    if sum(isinstance(one, SteadyDoses) for one in given) > 1:
        raise ValueError("doses has several SteadyDoses: give one with all of their times")
    return given


def steady_among(given: Sequence[AnyDoses]) -> SteadyDoses | None:
    """Those among them."""
    return next((one for one in given if isinstance(one, SteadyDoses)), None)


# --- As arrays


class _Look(eqx.Module):
    """Times at which something is done with the state: JUDGE or KEEP."""

    ts: Real[Array, "*lanes m"]
    order: Int[Array, "*lanes m"] | None
    done: int = eqx.field(static=True)


def _looks(one: SteadyDoses) -> tuple[_Look, _Look]:
    """Of one time the state is judged before another one is kept."""
    return _Look(one.ts, one.order, JUDGE), _Look(one.since, one.order, KEEP)


def _place(one: _Scheduled, state: Any) -> int:
    """The component into which it goes, or what stands in its place."""
    if isinstance(one, Doses):
        return component_of(one.into, state)
    return _RESET - one.done if isinstance(one, _Look) else _RESET


def schedule_of(
    schedules: Sequence[AnyDoses], y0: Any, state: Any, t0: Any, t1: Any, others: Schedule | None = None
) -> Schedule:
    """The jumps that doses and resets mean.

    y0: the flat state [n] at t0. state: its `State`. t0, t1: as the user gave them. others: further times at which steps end.
    All times are NaN where the doses are invalid, as only traced ones can be found to be.
    Raises ValueError for an `into` that does not name one component, for known times before t0, and for t1 < t0.
    """
    start, end = concrete(t0), concrete(t1)
    if start is not None and end is not None and end < start:
        raise ValueError(f"t0={t0} and t1={t1}: doses want t1 >= t0, since none can be taken back")
    for one in schedules:
        _check_start(one, t0)
    rows = [row for one in schedules for row in (_looks(one) if isinstance(one, SteadyDoses) else (one,))]
    components = tuple(_place(one, state) for one in rows)

    infused = tuple(sorted({place for one, place in zip(rows, components, strict=True) if _lasts(one)}))

    def arrays(rows: Any, t0: Any, t1: Any, y0: Any, others: Any, restarts: Any) -> _Arrays:
        given = tuple(padded_offsets(t0, t1, one.ts, state.dtype) for one in rows)
        if all(concrete(leaf) is not None for leaf in jax.tree.leaves((rows, t0, t1, others, restarts))):
            # Nothing is left to compute later, nor to compile: they are constants.
            with np.errstate(invalid="ignore", over="ignore"):
                known, others, restarts = jax.tree.map(concrete, (tuple(rows), others, restarts))
                return _make_arrays(known, given, np.asarray(False), y0, others, restarts, components, state, np)
        looks = [one.ts for one in rows if isinstance(one, _Look)]
        wrong = (t1 < t0) | (are_wrong(*looks) if looks else False)
        return _traced_arrays(tuple(rows), given, wrong, y0, others, restarts, components, state, jnp)

    further = Schedule(np.zeros(0, state.dtype)) if others is None else others
    restarts = None if further.restarts is True else further.restarts
    if restarts is False:
        restarts = np.zeros(further.times.shape, bool)
    leaves = (tuple(rows), t0, t1, y0, further.times, restarts)
    if any(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in jax.tree.leaves(leaves)):
        made: Any = eqx.filter_eval_shape(arrays, *leaves)
    else:
        made = arrays(*leaves)
    *told, restarts = made
    return Schedule(*told, restarts=True if restarts is None else restarts, infused=infused, exact=further.exact)


def apart(
    schedule: Schedule, saved: Mapping[str, tuple[Any, Any]], drivers: Drivers, t0: Any, span: Any
) -> tuple[Schedule, dict[str, Any], Drivers]:
    """The schedule, the times to save, since t0, and the drivers, where the solve is differentiated by them: with as little as
    there can be between jumps of one time, and between t0 and those at it.

    Each of them may move by itself. What a kernel does at once, or in front of all steps, moves together, or has no time that
    could be moved; behind a step of almost no size it has. saved: by their names, such times, and booleans which of them are
    behind jumps of their time (None: none). t0, span: arrays in the solve's dtype.
    """
    offsets = {name: times for name, (times, _) in saved.items()}
    right = {name: np.zeros(times.shape, bool) if behind is None else behind for name, (times, behind) in saved.items()}
    jumps, exact = drivers.jumps, np.zeros(0) if schedule.exact is None else schedule.exact
    # Where there is but one driver that jumps, no two are of one time.
    alone = schedule.times.shape[0] == sum(one.shape[0] for one in jumps[:1])
    given = schedule.times, offsets, [] if alone else jumps, right, exact, t0, span
    if any(isinstance(value, jax.ShapeDtypeStruct) for value in jax.tree.leaves(given)):
        return schedule, offsets, drivers
    times, offsets, jumps = _apart(*jax.tree.map(owned, given))
    return dataclasses.replace(schedule, times=times), offsets, drivers if alone else drivers.moved(jumps)


# What is between two: of the time, and of the smallest normal number, whose inverse is far from the largest. Functions that
# jump are given times which are two units in the last place away from jumps.
_GAP, _TINIES = 6, 2.0**20


@jax.custom_jvp
def _apart(times: Any, offsets: Any, jumps: Any, right: Any, exact: Any, t0: Any, span: Any) -> Any:
    return times, offsets, jumps


@_apart.defjvp
def _(primals: Any, tangents: Any) -> Any:
    times, offsets, jumps, right, exact, t0, span = primals
    kind, forwards = jnp.finfo(times.dtype), jnp.where(span < 0, -1, 1).astype(times.dtype)
    known, exact, end = (forwards * jax.lax.stop_gradient(one) for one in (times, exact, span))
    there = jnp.isfinite(known)
    gaps = jnp.where(there, _GAP * kind.eps * (jnp.abs(t0) + jnp.abs(known)) + _TINIES * kind.tiny, 0)
    # By the largest of those before, less all gaps up to them: it is 0 where a time is far enough behind the one before.
    less = known - jnp.cumsum(gaps)
    put = jnp.maximum(jax.lax.cummax(jnp.maximum(less, 0)) - less, 0)
    put = jax.lax.stop_gradient(jnp.where(there & (known + put < end), put, 0))
    moved, points, unmoved = _apart(*primals)

    def behind_all(name: str) -> Any:
        """What is saved behind jumps of a time is so behind the last of them."""
        offset = forwards * offsets[name]
        number = jnp.searchsorted(known, offset, side="right") - 1
        behind = next_time((known + put)[number])
        late = right[name] & (number >= 0) & (offset < behind) & (behind < end)
        return points[name] + forwards * jax.lax.stop_gradient(jnp.where(late, behind - offset, 0))

    # The points of a driver go with its jumps, which of those of one time come behind what is exact, and drivers before it.
    before, driven = [exact], []
    for driver, own in zip(jumps, unmoved, strict=True):
        point = forwards * jax.lax.stop_gradient(driver)
        tied = sum(jnp.searchsorted(one, point, side="right") - jnp.searchsorted(one, point) for one in before)
        place = jnp.clip(jnp.searchsorted(known, point) + tied, 0, len(known) - 1)
        driven.append(own + forwards * jnp.where((known[place] == point) & (point > 0), put[place], 0))
        before.append(jnp.sort(point))
    made = moved + forwards * put, {name: behind_all(name) for name in offsets}, driven
    return made, tangents[:3]


def component_of(into: Callable[[PyTree], Any], state: Any) -> int:
    """The place in the flat state of the component that `into` names, found by two markings of it."""
    plain = _names(into, state, np.arange(state.size))
    # What was computed with, or is no component at all, has no place, or another one, in this marking.
    scattered = _names(into, state, 7 * np.arange(state.size) + 3)
    if not np.array_equal(scattered, 7 * plain + 3) or not np.all((plain >= 0) & (plain < state.size)):
        raise ValueError(
            "Doses(into=...) returns something that is computed from y: expected a component of it as it is, as "
            "lambda y: y['depot']"
        )
    return int(plain)


def _names(into: Callable[[PyTree], Any], state: Any, marks: np.ndarray) -> np.ndarray:
    """What `into` returns of a state whose components are `marks`: one of them."""
    leaves, start = [], 0
    for shape in state.shapes:
        size = int(np.prod(shape))
        leaves.append(marks[start : start + size].reshape(shape))
        start += size
    y = jax.tree.unflatten(state.structure, leaves)
    with jax.ensure_compile_time_eval():
        try:
            named = into(y)
        except Exception as error:
            error.add_note(f"jax_cubie: in Doses(into=...), called with a y of the structure {state.structure}")
            raise
        found = jax.tree.leaves(named)
        sizes = sum(int(np.size(leaf)) for leaf in found)
        if sizes != 1 or not all(isinstance(leaf, (jax.Array, np.ndarray, np.generic)) for leaf in found):
            what = f"{sizes} components" if sizes > 1 else "no component"
            raise ValueError(
                f"Doses(into=...) names {what} of y: expected one, as lambda y: y['depot'], or lambda y: y['organs'][2] of an "
                "array" + "; give a Doses for each of them, doses=(..., ...)" * (sizes > 1)
            )
        return np.asarray(found[0]).reshape(())


def _check_start(one: AnyDoses, t0: Any) -> None:
    """Raises ValueError for a known time before t0."""
    start, ts = concrete(t0), concrete(one.since if isinstance(one, SteadyDoses) else one.ts)
    lag = concrete(one.lag) if isinstance(one, Doses) and one.lag is not None else np.zeros(())
    if start is None or ts is None or lag is None:
        return
    # In the narrower of two types: 0.3 in float32 is not before 0.3.
    floats = [kind for kind in (ts.dtype, start.dtype) if kind.kind == "f"]
    narrow = min(floats, key=lambda kind: kind.itemsize, default=np.dtype(np.float64))
    early = (ts.astype(narrow) + lag) < start.astype(narrow)
    if np.any(early):
        word = "a reset" if isinstance(one, Resets) else "a dose"
        raise ValueError(
            f"{type(one).__name__} has {word} at {ts[early][0]}, before t0={t0}: begin the solve there, or leave it out"
        )


_Scheduled = Doses | Resets | _Look
_Arrays = tuple[Any, Any, Any, Any, Any, Any]  # those of a `Schedule`; restarts: None for True


def _make_arrays(
    schedules: Sequence[_Scheduled],
    given: Sequence[Any],
    backwards: Any,
    y0: Any,
    others: Any,
    restarts: Any,
    components: Sequence[int],
    state: Any,
    xp: Any,
) -> _Arrays:
    """given: times since t0, of each schedule. restarts: of `others`. components: where each goes. xp: `numpy` where all but y0
    is known, else `jax.numpy`."""
    rows = [_Rows(one, since, state.dtype, xp) for one, since in zip(schedules, given, strict=True)]
    begins, ends, amounts, order, given = (
        xp.concatenate([getattr(row, name) for row in rows]) for name in ("begin", "end", "amounts", "order", "given")
    )
    kinds = np.concatenate([np.full(len(row.begin), component) for row, component in zip(rows, components, strict=True)])
    resets, here = kinds == _RESET, xp.isfinite(begins)
    (lasting,) = np.nonzero(np.concatenate([np.full(len(row.begin), row.lasts) for row in rows]))
    # An end that is not behind the beginning, in this dtype: the dose is given at once.
    slow = (ends > begins) & xp.isfinite(ends)

    # Sorted by time and order; of equals the ends of infusions come behind doses, of `others` those at which f jumps in front
    # of all, and the rest last.
    times = xp.concatenate([begins, xp.where(slow, ends, np.inf)[lasting], others])
    more = len(lasting) + len(others)  # of which none changes the state
    leaps = np.full(len(others), True) if restarts is None else restarts
    places = xp.concatenate([order, np.full(len(lasting), _LAST, np.int32), xp.where(leaps, _FIRST, _LAST).astype(np.int32)])
    by_time = xp.lexsort((places, jax.lax.stop_gradient(times) if xp is jnp else times))
    place_of = xp.argsort(by_time)
    count, total = len(kinds), len(times)
    starts = place_of[:count]

    arrives, cut = xp.full(count, True), xp.full(count, total)
    if resets.any():
        # A dose that was given before a reset never arrives, if it is to begin behind it, and ends there, if it has begun.
        listed = xp.argsort(xp.lexsort((order, jax.lax.stop_gradient(given) if xp is jnp else given)))
        behind = starts[:, None] > starts[resets]
        arrives = ~xp.any((listed[:, None] < listed[resets]) & behind & here[resets], 1)
        cut = xp.min(xp.where(here[resets] & ~behind, starts[resets], total), 1)

    added = xp.concatenate([xp.where(arrives & here & ~slow, amounts, 0), np.zeros(more, state.dtype)])[by_time]
    into = xp.concatenate([kinds, np.zeros(more, kinds.dtype)])[by_time]
    increments = xp.where(into[:, None] == np.arange(state.size), added[:, None], 0)
    kept = None
    if resets.any():
        back = xp.concatenate([resets & here, np.zeros(more, bool)])[by_time]
        kept = xp.where(back, 0, 1).astype(state.dtype)
        increments = jnp.where(back[:, None], y0, increments)
    rates = None
    if len(lasting):
        takes = xp.where(slow, ends - begins, 1)
        speed = xp.where(slow & arrives, amounts / takes, 0)[lasting]
        until = xp.minimum(place_of[count : count + len(lasting)], cut[lasting])
        intervals = np.arange(total + 1)[:, None]
        active = (starts[lasting] < intervals) & (intervals <= until)  # [intervals, infusions]
        # Sums of what is given, rather than of changes: exactly 0 when nothing is given any more.
        into_one = [kinds[lasting] == component for component in np.unique(kinds[lasting])]
        rates = xp.stack([xp.where(active & mine, speed, 0).sum(1) for mine in into_one], 1)
    invalid = xp.any(xp.stack([row.invalid for row in rows])) | backwards
    times = xp.where(invalid, np.nan, times[by_time])
    if restarts is not None:
        restarts = xp.concatenate([np.full(total - len(others), True), restarts])[by_time]

    looks = None
    if (kinds < _RESET).any():
        looks = xp.concatenate([np.maximum(_RESET - kinds, 0), np.zeros(more, kinds.dtype)])[by_time]

    def array(values: Any, dtype: str = state.dtype) -> Any:
        return None if values is None else jnp.asarray(values, dtype)

    return array(times), array(increments), array(kept), array(rates), array(looks, "int32"), array(restarts, "bool")


# As one computation, also where JAX would otherwise take operation by operation.
_traced_arrays = jax.jit(_make_arrays, static_argnums=(6, 7, 8))


def _lasts(one: _Scheduled) -> bool:
    """Whether any of them may take more than no time."""
    return isinstance(one, Doses) and not (one.duration is None and one.rate is None)


class _Rows:
    """The rows of one schedule in the dtype of the state: when each is given, begins and ends, and what it adds.

    lasts: whether any may take more than no time.
    """

    def __init__(self, one: _Scheduled, given: Any, dtype: str, xp: Any):
        self.order = np.full(one.ts.shape, _LAST, np.int32) if one.order is None else one.order
        self.given = given
        there = ~(given == np.inf)

        def values(given: Any, otherwise: float) -> Any:
            """In the state's dtype; what stands where there is no dose is not read."""
            return xp.where(there, otherwise if given is None else given, otherwise).astype(dtype)

        said = {field.name: getattr(one, field.name) for field in dataclasses.fields(one)}
        lag, fraction = values(said.get("lag"), 0), values(said.get("fraction"), 1)
        duration, rate = values(said.get("duration"), 0), values(said.get("rate"), 0)
        self.lasts = _lasts(one)
        self.amounts = values(said.get("amounts"), 0) * fraction
        self.begin = self.given + lag
        takes = xp.where(rate > 0, self.amounts / xp.where(rate > 0, rate, 1), duration)
        self.end = self.begin + takes
        right = (lag >= 0) & (lag < np.inf) & (fraction >= 0) & (rate >= 0) & (rate < np.inf) & (takes >= 0) & (takes < np.inf)
        self.invalid = ~xp.all(right & (self.begin >= 0) & ~((rate > 0) & (duration > 0)))
