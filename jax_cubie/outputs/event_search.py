"""The search for the first event inside of a step.

The step's values between are looked at in sixteenths, in the order of time. In the first of these in which a condition changes
its side the time is found by the ITP method (Oliveira and Takahashi, An enhancement of the bisection method average performance
preserving minmax optimality, ACM Trans. Math. Softw. 47 (2020)): of the smallest of the conditions times their sides, so that
the first of several events is found.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ..kernel.device import View
from ..kernel.scalar import Scalar, least, most, where
from ..loop import Step
from .event_conditions import Conditions
from .events import side

if TYPE_CHECKING:
    from ..loop.body import Body
    from ..loop.lane import Lane

# Into how many parts a step is divided.
PARTS = 16
_SCAN, _REFINE, _CONFIRM, _OVER = 0, 1, 2, 3


class Search:
    """Writes it. In cells: events_fired, a bit for each event at which the step is to end; events_beside, one for each at that
    time that is only counted."""

    def __init__(self, lane: Lane, conditions: Conditions):
        self._conditions, self._method = conditions, lane.problem.method

    def first(self, b: Body, step: Step, exact: Scalar) -> Scalar:
        """The time of the first event that ends the step. Others in front of it are counted, unless there is one: then they are
        counted in the step that ends there."""
        for number in self._conditions.real:
            b.buf.event_trial.store(self._conditions.count + number, b.get(side(number)).value)
        size, start = b.scalar(b.direction) * step.size, b.scalar(b.direction) * step.start
        self._method.prepare_between(b, start.value, size.value)
        eps = b.scalar(self._conditions.eps)
        tolerance = most(eps, 0.5 * eps * step.end / step.size)
        state = _Variables(b, exact=exact)

        def look() -> None:
            theta = b.scalar(state.theta.get())
            values = self._method.between(b, theta.value, size.value)
            b.each(lambda index: b.buf.event_state.store(index, values(index)))
            time = self._time(b, step, theta)
            trial = self._conditions.part(b.buf.event_trial, 0)
            b.call(self._conditions.plain, y=b.buf.event_state, out=trial, **b.instant((b.scalar(b.direction) * time).value))
            with b.when(time.equals(step.end)):
                self._conditions.reach_end(b, step, trial)
            mode = state.integer("mode")
            with b.emitter.builder.if_else(mode.equals(_SCAN).value) as (scans, others):
                with scans:
                    self._scan(b, state, theta, tolerance)
                with others, b.emitter.builder.if_else(mode.equals(_REFINE).value) as (refines, confirms):
                    with refines:
                        self._refine(b, state, theta, tolerance)
                    with confirms:
                        self._confirm(b, state, theta, time)

        state.parts.set(where(self._conditions.simple(b, step), b.scalar(1, "int32"), PARTS).value)
        state.theta.set(self._node(b, state).value)
        b.repeat_while(lambda: state.integer("mode") < _OVER, look)
        found = state.real("found")
        with b.when(found < float("inf")):
            b.put(**{f"goal_{order}": 0 for order in self._conditions.orders})
        return found

    def _scan(self, b: Body, state: _Variables, theta: Scalar, tolerance: Scalar) -> None:
        """At the end of a part."""
        bits = b.scalar(0, "int32")
        for number in self._conditions.real:
            bits = where(self._counts(b, state, number), bits | (1 << number), bits)
        with b.emitter.builder.if_else(bits.equals(0).value) as (nothing, some):
            with nothing:
                self._pass(b, state, theta)
            with some:
                low, high = (self._least(b, bits, self._conditions.part(b.buf.event_trial, row)) for row in (1, 0))
                state.bits.set(bits.value)
                state.high.set(theta.value)
                state.low_value.set(most(low, b.scalar(float(np.finfo(b.dtype).tiny))).value)
                state.high_value.set(high.value)
                state.turns.set(b.int32(0))
                state.width.set((theta - b.scalar(state.low.get())).value)
                state.mode.set(b.int32(_REFINE))
                self._propose(b, state, tolerance)

    def _pass(self, b: Body, state: _Variables, theta: Scalar) -> None:
        """Nothing happens up to there."""
        for number in self._conditions.real:
            before, value = b.get(side(number)), self._trial(b, number)
            crossed, _ = self._crossed(b, number)
            changes = (crossed & ~self._hidden(b, state, number)) | before.equals(0.0)
            b.put(**{side(number): where(changes, self._conditions.beyond(b, before, value), before)})
            b.buf.event_trial.store(self._conditions.count + number, value.value)
        state.low.set(theta.value)
        following = state.integer("part") + (theta >= self._node(b, state)).to("int32")
        state.part.set(following.value)
        over = following > state.integer("parts")
        state.theta.set(where(over, 1.0, self._node(b, state)).value)
        state.mode.set(where(over, _OVER, b.scalar(_SCAN, "int32")).value)

    def _refine(self, b: Body, state: _Variables, theta: Scalar, tolerance: Scalar) -> None:
        value = self._least(b, state.integer("bits"), self._conditions.part(b.buf.event_trial, 0))
        with b.emitter.builder.if_else((value > 0.0).value) as (above, below):
            with above:
                state.low.set(theta.value)
                state.low_value.set(value.value)
            with below:
                state.high.set(theta.value)
                state.high_value.set(value.value)
                with b.when(value.equals(0.0)):
                    state.low.set(theta.value)
        self._propose(b, state, tolerance)

    def _propose(self, b: Body, state: _Variables, tolerance: Scalar) -> None:
        """The next trial between `low` and `high`; `high`, to look at it once more, where they are close."""
        low, high, first, last = (b.scalar(v.get()) for v in (state.low, state.high, state.low_value, state.high_value))
        width, turns = high - low, state.integer("turns")
        middle = 0.5 * (low + high)
        # That of the secant; moved towards the middle; and no further from there than bisection would be.
        secant = (first * high - last * low) / (first - last)
        towards = where(secant < middle, b.scalar(1.0), -1.0)
        moved = 0.2 / b.scalar(state.width.get()) * width * width
        apart = abs(middle - secant)
        trial = where(moved <= apart, secant + towards * moved, middle)
        halved = b.scalar(state.width.get()) * _power_of_half(b, turns)
        room = most(halved - 0.5 * width, b.scalar(0.0))
        trial = where(abs(trial - middle) <= room, trial, middle - towards * room)
        trial = where((trial > low) & (trial < high), trial, middle)
        state.turns.set((turns + 1).value)
        close = (width <= 2.0 * tolerance) | ~((middle > low) & (middle < high))
        state.theta.set(where(close, high, trial).value)
        state.mode.set(where(close, _CONFIRM, b.scalar(_REFINE, "int32")).value)

    def _confirm(self, b: Body, state: _Variables, theta: Scalar, time: Scalar) -> None:
        """At a time at which something happens."""
        bits = b.scalar(0, "int32")
        for number in self._conditions.real:
            bits = where(self._counts(b, state, number), bits | (1 << number), bits)
        cutting = sum(1 << number for number in self._conditions.cutting)
        cuts = ~(bits & cutting).equals(0) if cutting else b.scalar(False, "bool")
        with b.emitter.builder.if_else(cuts.value) as (end, otherwise):
            with end:
                b.put(events_fired=bits & cutting)
                if self._conditions.beside:
                    b.put(events_beside=bits & sum(1 << number for number in self._conditions.beside))
                state.found.set(time.value)
                state.mode.set(b.int32(_OVER))
            with otherwise:
                for number in self._conditions.real:
                    if not self._conditions.kinds[number].cuts:
                        with b.when(~(bits & (1 << number)).equals(0)):
                            self._conditions.happen(b, time, number, b.buf.event_state)
                self._pass(b, state, theta)

    def _time(self, b: Body, step: Step, theta: Scalar) -> Scalar:
        """That of a fraction of the step: later than its beginning, no later than its end."""
        time = step.start + theta.fused(step.size, step.residue)
        following = (step.start.bits + 1).float(b.dtype)
        following = most(following, step.start + self._conditions.eps * step.size)
        return where(theta < 1.0, least(most(time, following), step.end), step.end)

    def _node(self, b: Body, state: _Variables) -> Scalar:
        """The end of the part at hand."""
        return state.integer("part").to(b.dtype) / state.integer("parts").to(b.dtype)

    def _trial(self, b: Body, number: int) -> Scalar:
        return b.scalar(b.buf.event_trial.load(number))

    def _crossed(self, b: Body, number: int) -> tuple[Scalar, Scalar]:
        """Whether a condition is on the other side at the trial; and whether that is an event."""
        return self._conditions.is_beyond(b, number, self._trial(b, number))

    def _hidden(self, b: Body, state: _Variables, number: int) -> Scalar:
        """Whether nobody looks for an event: in a step that ends at some, these do so at its end, and what is beside them."""
        if self._conditions.kinds[number].cuts:
            return state.exact
        if not self._conditions.beside:
            return b.scalar(False, "bool")
        return state.exact & self._conditions.is_beside(b, number) & (state.integer("part") >= state.integer("parts"))

    def _counts(self, b: Body, state: _Variables, number: int) -> Scalar:
        """Whether a crossing is an event that is looked for."""
        _, event = self._crossed(b, number)
        return event & ~self._hidden(b, state, number)

    def _least(self, b: Body, bits: Scalar, values: View) -> Scalar:
        """The smallest of the conditions times their sides, of those whose bit is set."""
        smallest = b.scalar(float("inf"))
        for number in self._conditions.real:
            value = b.scalar(values.load(number))
            value = where(b.get(side(number)) > 0.0, value, -value)
            smallest = where(~(bits & (1 << number)).equals(0), least(value, smallest), smallest)
        return smallest


def _power_of_half(b: Body, turns: Scalar) -> Scalar:
    """2^(-turns), with one turn more for the first."""
    bits = {"float32": (127, 23, "int32"), "float64": (1023, 52, "int64")}[b.dtype]
    exponent = (bits[0] - least(turns, b.scalar(60, "int32"))).to(bits[2])
    return b.scalar(b.emitter.bitcast((exponent << bits[1]).value, b.dtype))


class _Variables:
    """Of a search. theta: the fraction of the step that is looked at; mode: what for; part: of how many parts of the step; low,
    high, with their values: where the event lies between; width: of that at first; turns: so far; bits: of the events looked
    for; found: the time at which the step ends. exact: whether the step ends at an event."""

    def __init__(self, b: Body, exact: Scalar):
        self._b, self.exact = b, exact
        self.theta, self.low, self.high, self.width = (b.variable(b.real(0)) for _ in range(4))
        self.low_value, self.high_value, self.found = (b.variable(b.real(x)) for x in (1.0, -1.0, float("inf")))
        self.mode, self.turns, self.bits = (b.variable(b.int32(0), "int32") for _ in range(3))
        self.part, self.parts = (b.variable(b.int32(1), "int32") for _ in range(2))

    def integer(self, name: str) -> Scalar:
        return self._b.scalar(getattr(self, name).get(), "int32")

    def real(self, name: str) -> Scalar:
        return self._b.scalar(getattr(self, name).get())
