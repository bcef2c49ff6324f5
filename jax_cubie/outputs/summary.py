"""What a user asks for of a whole trajectory: numbers that are made in the kernel, so that a lane leaves a few words."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
from jaxtyping import Array, Float, Int, PyTree, Real

from ..foreign_names import front_door
from ..printing import describe_call
from ..settings import Range, check_choice, check_count

Time = Real[Array, ""] | float
Of = Callable[[Float[Array, ""], PyTree, PyTree], PyTree]

_STANDARD = {"of": None, "derivative": 0, "every": None, "start": None, "level": 0.0, "direction": 0, "most": None}
_OWN = {"result": None, "every": None, "start": None}


class Extrema(NamedTuple):
    """What `Summary.peaks` and `Summary.troughs` give: pytrees like what they are of, with leaves [...].

    number: int32, how many there were, also those that there was no room for. times, values: of the first of them, with an axis
    for these in front, [most, ...]; NaN where there were not so many.
    """

    number: PyTree[Int[Array, ...]]
    times: PyTree[Float[Array, "most ..."]]
    values: PyTree[Float[Array, "most ..."]]


class Summary(eqx.Module):
    """A number of a whole trajectory, for `solve(..., summaries={"name": Summary....})`; `Solution.summaries["name"]` has it.

    The kinds, each of the state or of a function of it, component by component, in a pytree like that:

    - `Summary.mean`, `std`, `rms`: integrals over time divided by its length, since steps are not even; std is that of the
      population, the root of the mean square of what differs from the mean.
    - `Summary.integral`: over time, of the order of the method; negative times shares where t1 < t0.
    - `Summary.min`, `max`, and when that was, `time_of_min`, `time_of_max`.
    - `Summary.peaks(most)`, `troughs(most)`: the first so many local maxima (minima), as `Extrema`.
    - `Summary.crossings(level)`: how often it went through a level, int32; `first_crossing`, `last_crossing`: when, NaN if
      never. direction: 1, upwards alone, -1, downwards, 0, both.

    What all of them take:

    - of: `of(t, y, args)`, a pytree of real numbers or booleans (which count as 0 and 1); None: the state.
    - derivative: 1 or 2: of the first or second derivative by time of that, along the solution: f is in place of dy/dt, with a
      mass matrix what follows from it for dy/dt, and is differentiated by JAX.
    - start: from this time on, as what is in front has yet to settle. Earlier than t0: from t0 on.
    - every: of values at start, or else t0, and in even distances of that from there up to t1, in place of the trajectory
      itself: then mean and so on are those of the sample, peaks and troughs values that are larger (smaller) than both
      neighbours, and crossings lie on the line between two values. integral has no `every`.

    Without `every` all is found on the method's values between steps. Means and integrals are sums over points inside of each
    step, as exact as the method is. An extremum inside of a step is one where the slopes at the two ends of the step have
    different signs, and a crossing is one where the values have: of several inside of one step only one is found, or none;
    dtmax= makes steps short enough. At t0 itself, or at start, there is no crossing, and no peak or trough; nor where the state
    or its slope jumps.

    And `Summary(init, update, result)`, three functions of JAX's:

    - init(t, y, args) -> carry, a pytree of floats, integers and booleans, at the first point; update(carry, t, y, args) ->
      carry, at each one after; result(carry): what is kept, a pytree of arrays; None: the carry itself. Points are t0 and the
      ends of all accepted steps, from `start` on, or with `every` those in even distances.

    Derivatives, in both modes and of any order: those of integrals are integrals of tangents, less what goes by as `start`
    moves, an extremum has that of the trajectory at its time, and times move so that they stay those of an extremum, or of a
    crossing, or of the jump or the event that an extremum is at. With `every` they are those of samples, whose times move with
    `start` and `every`. They are found by another solve, with the same steps. Where an rms is 0, and where a std is, but for
    rounding of its mean, as of a constant, its derivative is 0. Those of the three functions are JAX's, of rows of all
    points, so they need room for these: for as many steps as max_steps, which has to be given, or with `every` for as
    many samples as t0, t1, start and every make, which have to be known. Which points there are is held fixed, and so are
    integers and booleans.

    A lane that failed has NaN, in integers the lowest of their range. Where there is nothing to look at, since `start` lies
    behind t1, counts of built-in kinds and integrals are 0, and all else is NaN, or the lowest integer; over no time at all,
    t0 == t1, there is one point, which has an extreme and no mean. An event ends what is looked at with its lane.

    Raises TypeError or ValueError for what is known and wrong; traced numbers that are wrong, as `every <= 0`, end the lane
    with `invalid_input`.
    """

    kind: str = eqx.field(static=True)
    of: Of | None
    derivative: int = eqx.field(static=True)
    every: Time | None
    start: Time | None
    level: PyTree[Real[Array, ...]]
    direction: int = eqx.field(static=True)
    most: int | None = eqx.field(static=True)
    functions: tuple[Callable, Callable, Callable | None] | None

    @front_door
    def __init__(
        self,
        init: Callable,
        update: Callable,
        result: Callable | None = None,
        *,
        every: Time | None = None,
        start: Time | None = None,
    ):
        for name, function in (("init", init), ("update", update), ("result", result)):
            if not callable(function) and (name != "result" or function is not None):
                kind = type(function).__name__
                raise TypeError(f"Summary({name}=...) is {function!r:.60} of type {kind}: expected a function")
        self.kind, self.functions = "fold", (init, update, result)
        self.every, self.start = _check_times(self.kind, every, start)
        self.of, self.derivative, self.level, self.direction, self.most = None, 0, 0.0, 0, None

    def __repr__(self) -> str:
        if self.functions is not None:
            *functions, result = self.functions
            return describe_call("Summary", functions, {"result": result, "every": self.every, "start": self.start}, _OWN)
        given = {name: getattr(self, name) for name in _STANDARD}
        return describe_call(f"Summary.{self.kind}", (), given, _STANDARD)

    @staticmethod
    @front_door
    def mean(of: Of | None = None, *, derivative: int = 0, every: Time | None = None, start: Time | None = None) -> Summary:
        """The mean over time, or that of the sample."""
        return _of_numbers("mean", of, derivative, every=every, start=start)

    @staticmethod
    @front_door
    def std(of: Of | None = None, *, derivative: int = 0, every: Time | None = None, start: Time | None = None) -> Summary:
        """The standard deviation, of the population."""
        return _of_numbers("std", of, derivative, every=every, start=start)

    @staticmethod
    @front_door
    def rms(of: Of | None = None, *, derivative: int = 0, every: Time | None = None, start: Time | None = None) -> Summary:
        """The root of the mean square."""
        return _of_numbers("rms", of, derivative, every=every, start=start)

    @staticmethod
    @front_door
    def integral(of: Of | None = None, *, derivative: int = 0, start: Time | None = None) -> Summary:
        """The integral over time, up to t1."""
        return _of_numbers("integral", of, derivative, start=start)

    @staticmethod
    @front_door
    def min(of: Of | None = None, *, derivative: int = 0, every: Time | None = None, start: Time | None = None) -> Summary:
        """The smallest value."""
        return _of_numbers("min", of, derivative, every=every, start=start)

    @staticmethod
    @front_door
    def max(of: Of | None = None, *, derivative: int = 0, every: Time | None = None, start: Time | None = None) -> Summary:
        """The largest value."""
        return _of_numbers("max", of, derivative, every=every, start=start)

    @staticmethod
    @front_door
    def time_of_min(
        of: Of | None = None, *, derivative: int = 0, every: Time | None = None, start: Time | None = None
    ) -> Summary:
        """When it was smallest, for the first time."""
        return _of_numbers("time_of_min", of, derivative, every=every, start=start)

    @staticmethod
    @front_door
    def time_of_max(
        of: Of | None = None, *, derivative: int = 0, every: Time | None = None, start: Time | None = None
    ) -> Summary:
        """When it was largest, for the first time."""
        return _of_numbers("time_of_max", of, derivative, every=every, start=start)

    @staticmethod
    @front_door
    def peaks(
        most: int, of: Of | None = None, *, derivative: int = 0, every: Time | None = None, start: Time | None = None
    ) -> Summary:
        """The first `most` local maxima, as `Extrema`."""
        return _of_numbers("peaks", of, derivative, every=every, start=start, most=most)

    @staticmethod
    @front_door
    def troughs(
        most: int, of: Of | None = None, *, derivative: int = 0, every: Time | None = None, start: Time | None = None
    ) -> Summary:
        """The first `most` local minima, as `Extrema`."""
        return _of_numbers("troughs", of, derivative, every=every, start=start, most=most)

    @staticmethod
    @front_door
    def crossings(
        level: PyTree = 0.0,
        of: Of | None = None,
        *,
        direction: int = 0,
        derivative: int = 0,
        every: Time | None = None,
        start: Time | None = None,
    ) -> Summary:
        """How often it goes through `level`, a number or a pytree of them; int32."""
        return _of_numbers("crossings", of, derivative, every=every, start=start, level=level, direction=direction)

    @staticmethod
    @front_door
    def first_crossing(
        level: PyTree = 0.0,
        of: Of | None = None,
        *,
        direction: int = 0,
        derivative: int = 0,
        every: Time | None = None,
        start: Time | None = None,
    ) -> Summary:
        """When it first goes through `level`."""
        return _of_numbers("first_crossing", of, derivative, every=every, start=start, level=level, direction=direction)

    @staticmethod
    @front_door
    def last_crossing(
        level: PyTree = 0.0,
        of: Of | None = None,
        *,
        direction: int = 0,
        derivative: int = 0,
        every: Time | None = None,
        start: Time | None = None,
    ) -> Summary:
        """When it last goes through `level`."""
        return _of_numbers("last_crossing", of, derivative, every=every, start=start, level=level, direction=direction)


def _of_numbers(
    kind: str,
    of: Any,
    derivative: Any,
    *,
    every: Any = None,
    start: Any = None,
    level: Any = 0.0,
    direction: Any = 0,
    most: Any = None,
) -> Summary:
    said = f"Summary.{kind}"
    if of is not None and not callable(of):
        hint = "; the level comes first" if "crossing" in kind else "; their number comes first" if most is not None else ""
        raise TypeError(f"{said}(of=...) is {of!r:.60} of type {type(of).__name__}: expected a function of(t, y, args){hint}")
    every, start = _check_times(kind, every, start)
    given = dict(
        kind=kind, of=of, derivative=check_choice(f"{said}(derivative=...)", derivative, (0, 1, 2)), every=every,
        start=start, level=level, direction=check_choice(f"{said}(direction=...)", direction, (0, 1, -1)),
        most=check_count(f"{said}(most=...)", most, 1) if kind in ("peaks", "troughs") else None, functions=None,
    )  # fmt: skip
    new = object.__new__(Summary)
    for name, value in given.items():
        object.__setattr__(new, name, value)
    return new


def _check_times(kind: str, every: Any, start: Any) -> tuple[Any, Any]:
    """Raises TypeError or ValueError for numbers that are known and wrong."""
    said = "Summary" if kind == "fold" else f"Summary.{kind}"
    if every is not None:
        Range(low=0).check(f"{said}(every=...)", every)
    if start is not None:
        Range().check(f"{said}(start=...)", start)
    return every, start
