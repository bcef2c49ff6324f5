"""How numbers of a whole trajectory are made, from point to point and from step to step.

Times are counted from t0, and run forwards; so do slopes.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ..kernel.device import View
from ..kernel.memory import quick
from ..kernel.numbers import quick_two_sum
from ..kernel.scalar import Scalar, most, where
from ..loop import Hooks, Step
from ..solution import CODES
from .summaries import LATE
from .summary_results import Results
from .summary_search import Chosen, find_root, next_index
from .summary_sums import Sums
from .summary_words import Apart, At, Kept, begin_of, call_at, into_views, numbers_of

if TYPE_CHECKING:
    from ..loop.body import Body
    from ..loop.lane import Lane
    from .summaries import Crossing, Fold, Group, Summaries, Window

# Words that begin with 0; all others with NaN.
_ZERO = ("total", "spread", "reference", "partial", "squares", "slope", "peaks_number", "troughs_number", "count")


def build_hooks(lane: Lane, part: Summaries) -> Hooks:
    """The places of summaries in the loop."""
    kept = Kept(part)
    sums = Sums(lane, part, kept)
    points, results = _Points(lane, part, kept, sums), Results(lane, part, kept, sums)
    corner = points.corner if lane.problem.divided and lane.problem.adjoint is None else None
    return Hooks(start=points.start, accepted=points.accepted, end=results.end, corner=corner)


class _Points:
    """Writes what is done at points and in steps."""

    def __init__(self, lane: Lane, part: Summaries, kept: Kept, sums: Sums):
        self._lane, self._part, self._kept, self._sums = lane, part, kept, sums
        for window in part.windows:
            if window.starts:
                lane.cell(f"{window.start}_cell", lane.problem.dtype)
            if window.sampled:
                lane.cell(f"{window.every}_next", lane.problem.dtype)
        self._steps = [window for window in part.windows if not window.sampled]
        self._sampled = [window for window in part.windows if window.sampled]
        self._measures = any(group.blocks for group in part.groups)
        if self._measures:
            lane.cell("summary_reached", lane.problem.dtype)
        # What values between need is made once a step, where they are asked for in each.
        quadratures = [group.quadrature for group in part.groups if group.quadrature is not None]
        self._always = any(one.points for one in quadratures)

    def _groups(self, window: Window) -> list[Group]:
        return [group for group in self._part.groups if group.window == window]

    def _folds(self, window: Window) -> list[Fold]:
        return [fold for fold in self._part.folds if fold.window == window]

    # --- The places in the loop

    def start(self, b: Body) -> Scalar:
        """Points at t0."""
        valid = b.scalar(b.emitter.constant("bool", 1), "bool")
        if self._measures:
            b.put(summary_reached=0)
        for window in self._part.windows:
            if self._part.counts(window):
                b.counter(window.points).set(b.int32(0))
            begin = b.scalar(0.0)
            if window.starts:
                given = b.scalar(b.direction) * b.number(window.start)
                begin = where(given < 0.0, 0.0, given)
                valid = valid & given.equals(given)
                b.put(**{f"{window.start}_cell": begin})
            if window.sampled:
                every = b.number(window.every)
                valid = valid & (every > 0.0) & (every < float("inf"))
                b.put(**{f"{window.every}_next": begin})
            for group in self._groups(window):
                self._clear(b, group)
                if group.blocks:
                    self._sums.start(b, group)
            if window.starts:
                # Of all of a trajectory, the first step begins.
                if window.sampled or self._folds(window):
                    with b.when(begin <= 0.0):
                        self._sample(b, window, b.scalar(0.0), b.piece(b.buf.state, 0))
            elif window.sampled:
                self._sample(b, window, b.scalar(0.0), b.piece(b.buf.state, 0))
            else:
                for group in self._groups(window):
                    self._begin(b, group, b.scalar(0.0), b.piece(b.buf.state, 0))
                for fold in self._folds(window):
                    self._fold(b, fold, b.scalar(0.0), b.piece(b.buf.state, 0), first=True)
                    b.counter(window.points).set(b.int32(1))
        return where(valid, b.scalar(CODES["successful"], "int32"), CODES["invalid_input"])

    def accepted(self, b: Body, step: Step) -> None:
        """Points inside of a step, and all of it."""
        if self._always:
            self._prepare(b, step)
        for window in self._steps:
            if window.starts:
                self._step_from_start(b, window, step)
            else:
                for group in self._groups(window):
                    self._step(b, group, step, None)
            self._fold_end(b, window, step)
        if self._measures:
            b.put(summary_reached=step.end)
        for window in self._sampled:
            self._step_of_samples(b, window, step)

    def _fold_end(self, b: Body, window: Window, step: Step) -> None:
        """The end of the step, for the folds of a window."""
        folds, state = self._folds(window), b.piece(b.buf.proposed_state, 0)
        if not folds:
            return
        with b.when(step.end >= begin_of(b, window)) if window.starts else contextlib.nullcontext():
            for fold in folds:
                self._fold(b, fold, step.end, state, first=None if window.starts else False)
            b.counter(window.points).add()

    def corner(self, b: Body, time: Scalar) -> None:
        """The state may have jumped: what is told of the beginning of a step is so of the new one."""
        for window in self._steps:
            begun = b.scalar(b.counter(window.points).get(), "int32") > 0 if window.starts else None
            with contextlib.nullcontext() if begun is None else b.when(begun):
                for group in self._groups(window):
                    self._begin(b, group, time, b.piece(b.buf.state, 0))

    # --- Windows

    def _prepare(self, b: Body, step: Step) -> None:
        time, size = b.scalar(b.direction) * step.start, b.scalar(b.direction) * step.size
        self._lane.problem.method.prepare_between(b, time.value, size.value)

    def _step_from_start(self, b: Body, window: Window, step: Step) -> None:
        """A step in a window that may begin inside of it, or later."""
        begin, groups = begin_of(b, window), self._groups(window)
        if not groups:
            return
        with b.when(step.end > begin):
            if not self._always:
                self._prepare(b, step)
            before = (begin - step.start - step.residue) / step.size
            theta = where(before > 0.0, before, 0.0)
            first = b.scalar(b.counter(window.points).get(), "int32").equals(0)
            with b.when(first):
                for group in groups:
                    self._begin(b, group, begin, self._state_at(b, step, theta))
                b.counter(window.points).set(b.int32(1))
            for group in groups:
                self._step(b, group, step, theta)

    def _step_of_samples(self, b: Body, window: Window, step: Step) -> None:
        name = f"{window.every}_next"
        every = b.number(window.every)
        limit = where(step.last, step.end + LATE * every, step.until)
        if not self._always:
            with b.when(b.get(name) <= limit):
                self._prepare(b, step)

        def sample() -> None:
            theta = (b.get(name) - step.start - step.residue) / step.size
            theta = where(theta < 1.0, theta, 1.0)
            self._sample(b, window, b.get(name), self._state_at(b, step, theta))

        b.repeat_while(lambda: b.get(name) <= limit, sample)

    def _sample(self, b: Body, window: Window, time: Scalar, state: View) -> None:
        """A point of a window that is sampled; of one with folds alone, t0."""
        counter = b.counter(window.points)
        if window.sampled:
            for group in self._groups(window):
                self._point(b, group, b.scalar(counter.get(), "int32"), time, state)
        for fold in self._folds(window):
            self._fold(b, fold, time, state, first=None if window.sampled else True)
        count = b.scalar(counter.add(), "int32")
        if window.sampled:
            following = count.to(b.dtype).fused(b.number(window.every), begin_of(b, window))
            b.put(**{f"{window.every}_next": following})

    def _state_at(self, b: Body, step: Step, theta: Scalar) -> View:
        """The state at a fraction of the step, in `summarised_state`."""
        view, signed = b.buf.summarised_state, b.scalar(b.direction) * step.size
        values = self._lane.problem.method.between(b, theta.value, signed.value)
        b.each(lambda index: view.store(index, values(index)), b.primal)
        return view

    # --- Groups

    def _clear(self, b: Body, group: Group) -> None:
        for name, (_, size) in group.places.items():
            value = b.real(0.0 if name.startswith(_ZERO) else float("nan"))
            view = self._kept.of(b, group, name)
            b.each(lambda index, view=view, value=value: view.store(index, value), size)

    def _numbers(self, b: Body, group: Group, time: Scalar, state: View, into: View) -> tuple[At, At | None]:
        """The group's numbers at a point, evaluated `into` an array, and their slopes where it `turns`."""
        if group.turns:
            assert group.moving is not None
            call_at(b, group.moving, into, time, y=state)
            rest = into.part(group.size, group.size)
            return numbers_of(b, into), lambda index: b.scalar(b.direction) * b.scalar(rest.load(index))
        if group.function is not None:
            call_at(b, group.function, into, time, y=state)
            return numbers_of(b, into), None
        return numbers_of(b, state), None

    def _ends(self, b: Body, group: Group) -> View:
        begin, _ = group.search
        return b.buf.summarised_values.part(0, begin)

    def _begin(self, b: Body, group: Group, time: Scalar, state: View) -> None:
        """A point at which a window of all of a trajectory begins, or its state has jumped."""
        if not group.extrema and not group.keeps_last:
            return
        if group.has_ends:
            values, slopes = numbers_of(b, state), None
        else:
            values, slopes = self._numbers(b, group, time, state, self._ends(b, group))
        for name, wanted in (("max", group.maximum), ("min", group.minimum)):
            if wanted:
                self._improve(b, group, name, values, time)
        self._keep(b, group, values, slopes)

    def _keep(self, b: Body, group: Group, values: At, slopes: At | None) -> None:
        """The numbers of the last point."""
        if not group.keeps_last:
            return
        before = self._kept.of(b, group, "before")
        b.each(lambda index: before.store(index, values(index).value), group.size)
        if "slope" in group.places and slopes is not None:
            slope = self._kept.of(b, group, "slope")
            b.each(lambda index: slope.store(index, slopes(index).value), group.size)

    def _improve(self, b: Body, group: Group, name: str, values: At, time: Scalar) -> None:
        """The largest value so far, or the smallest."""
        best, when = self._kept.of(b, group, name), self._kept.of(b, group, f"{name}_time")

        def improve(index: Any) -> None:
            value, old = values(index), b.scalar(best.load(index))
            better = ~(value <= old) if name == "max" else ~(value >= old)
            best.store(index, where(better, value, old).value)
            when.store(index, where(better, time, b.scalar(when.load(index))).value)

        b.each(improve, group.size)

    def _step(self, b: Body, group: Group, step: Step, theta: Scalar | None) -> None:
        """A step of a window of all of a trajectory. theta: where the window begins in it; None: it has all of it."""
        # Searches come first: what changes behind a branch, as the state does, would be copied for those who look at it there.
        if group.extrema or group.crossings:
            self._search_step(b, group, step, theta)
        if group.total:
            self._integrate(b, group, step, theta)

    def _search_step(self, b: Body, group: Group, step: Step, theta: Scalar | None) -> None:
        """Extrema and crossings."""
        direction = b.scalar(1.0)
        if group.has_ends:
            method, state, proposed = self._lane.problem.method, b.piece(b.buf.state, 0), b.piece(b.buf.proposed_state, 0)
            first, last = (numbers_of(b, view) for view in (state, proposed))
            rates = [numbers_of(b, b.piece(rhs(b), 0)) for rhs in (method.start_rhs, method.end_rhs)] if group.turns else []
            direction = b.scalar(b.direction)
        else:
            last, slope = self._numbers(b, group, step.end, b.piece(b.buf.proposed_state, 0), self._ends(b, group))
            first = numbers_of(b, self._kept.of(b, group, "before")) if group.keeps_last else last
            rates = [numbers_of(b, self._kept.of(b, group, "slope")), slope] if slope is not None else []
        begin = theta if theta is not None else b.scalar(0.0)
        # Mostly there is no new extreme; those that are local have to be counted.
        looks = contextlib.nullcontext()
        if group.turns and not (group.peaks or group.troughs):
            along = direction * step.size * (1.0 - begin)
            looks = b.when(self._may_improve(b, group, along, (first, last), (rates[0], rates[1])))
        with looks:
            if group.turns:
                slopes = [lambda index, rate=rate: direction * rate(index) for rate in rates]
                self._turns(b, group, step, begin, (first, last), (slopes[0], slopes[1]))
            for name, wanted in (("max", group.maximum), ("min", group.minimum)):
                if wanted:
                    self._improve(b, group, name, last, step.end)
        for number, crossing in enumerate(group.crossings):
            self._cross(b, group, number, crossing, step, begin, first, last)
        self._keep(b, group, last, rates[1] if rates else None)

    def _may_improve(self, b: Body, group: Group, along: Scalar, values: tuple[At, At], rates: tuple[At, At]) -> Scalar:
        """Whether the end of the step, or what the tangents at both ends lead to, is beyond the extremes so far; along: what a
        rate is to be multiplied by to have a difference over the step."""
        found = b.variable(b.emitter.constant("bool", 0), "bool")
        kinds = [(name, sign) for name, sign, wanted in (("max", 1.0, group.maximum), ("min", -1.0, group.minimum)) if wanted]

        def look(index: Any) -> None:
            low, high = (value(index) for value in values)
            first, last = (rate(index) for rate in rates)
            for name, sign in kinds:
                far = [sign * value for value in (first.fused(along, low), (-last).fused(along, high), high)]
                most_of_all = functools.reduce(lambda x, y: b.scalar(quick(b.emitter, "max", b.dtype, x.value, y.value)), far)
                beyond = ~(most_of_all <= sign * b.scalar(self._kept.of(b, group, name).load(index)))
                found.set((b.scalar(found.get(), "bool") | beyond).value)

        b.each(look, group.size)
        return b.scalar(found.get(), "bool")

    def _integrate(self, b: Body, group: Group, step: Step, theta: Scalar | None) -> None:
        """Adds the integral over the step."""
        rule, method = group.quadrature, self._lane.problem.method
        assert rule is not None
        begin = theta if theta is not None else b.scalar(0.0)
        places = [begin + (1.0 - begin) * point if theta is not None else b.scalar(point) for point in rule.points]
        # The state inside of a whole step is cheaper twice as large.
        factor = 0.5 if group.function is None and theta is None else 1.0
        size = step.size * (1.0 - begin) if theta is not None else step.size
        signed = b.scalar(b.direction) * step.size
        reference, start = self._kept.of(b, group, "reference"), begin.fused(step.size, step.start)
        if group.function is None:
            self._sums.begin(b, group, start, step.residue, size, numbers_of(b, b.piece(b.buf.state, 0)))
            state, proposed = (b.piece(view, 0) for view in (b.buf.state, b.buf.proposed_state))
            apart = b.with_buffers({"state": Apart(state, reference), "proposed_state": Apart(proposed, reference)})
            if theta is None:
                found = [method.twice_between(apart, point, signed.value) for point in rule.points]
            else:
                found = [method.between(apart, place.value, signed.value) for place in places]
            values: list[At] = [lambda index, one=one: b.scalar(one(index)) for one in found]
            ends = [numbers_of(b, view) for view in (apart.buf.state, apart.buf.proposed_state)]
        else:
            values, ends = [], []
            for number, place in enumerate(places):
                into = b.buf.summarised_values.part(number * group.size, group.size)
                time, state = place.fused(step.size, step.start), self._state_at(b, step, place)
                call_at(b, group.function, into, time, y=state)
                values.append(numbers_of(b, Apart(into, reference)))
            self._sums.begin(b, group, start, step.residue, size, numbers_of(b, b.buf.summarised_values.part(0, group.size)))
        rhs = [numbers_of(b, b.piece(slope(b), 0)) for slope in (method.start_rhs, method.end_rhs)] if any(rule.slopes) else []
        # In units of an end's weight; an end and its slope are one number, that leans away from the end.
        lean = (2.0 * rule.slopes[0] / rule.unit) * signed

        def add(index: Any) -> None:
            inside = [(factor * weight / rule.unit, at(index)) for weight, at in zip(rule.weights, values, strict=True)]
            double = square = None
            if any(rule.ends):
                first, last = (at(index) for at in ends)
                starting, ending = first, last
                if rhs:
                    starting, ending = rhs[0](index).fused(lean, first), (-rhs[1](index)).fused(lean, last)
                double, square = (first + last) + (starting + ending), last.fused(ending, first * starting)
            for weight, value in inside:
                part = factor * weight * value
                double = value * (2.0 * weight) if double is None else value.fused(2.0 * weight, double)
                square = part * value if square is None else part.fused(value, square)
            assert double is not None and square is not None
            self._sums.add(b, group, index, size, double, square)

        b.each(add, group.size)

    def _add(self, b: Body, group: Group, index: Any, more: Scalar) -> None:
        """Adds to the sum of points."""
        total, rest = self._kept.of(b, group, "total"), self._kept.of(b, group, "total_rest")
        new, lost = quick_two_sum(b.scalar(total.load(index)), more + b.scalar(rest.load(index)))
        total.store(index, new.value)
        rest.store(index, lost.value)

    def _add_square(self, b: Body, group: Group, index: Any, more: Scalar) -> None:
        """Adds to the sum of squares, of which none is negative."""
        spread = self._kept.of(b, group, "spread")
        spread.store(index, (b.scalar(spread.load(index)) + more).value)

    # --- Searches inside of steps

    def _search(
        self, b: Body, group: Group, step: Step, wanted: Callable[[Any], Scalar], each: Callable[[Chosen], None]
    ) -> None:
        """`each` for all components that are wanted, one after the other, so that its code stands once."""
        number = b.variable(next_index(b, group.size, b.scalar(0, "int64"), wanted).value, "int64")

        def component() -> Scalar:
            return b.scalar(number.get(), "int64")

        if not self._always and not group.window.starts:
            with b.when(component() < group.size):
                self._prepare(b, step)

        def turn() -> None:
            each(Chosen(b, component(), group.size))
            number.set(next_index(b, group.size, component() + 1, wanted).value)

        b.repeat_while(lambda: component() < group.size, turn)

    def _room(self, b: Body, group: Group) -> View:
        """Where numbers are evaluated in a search."""
        begin, end = group.search
        return b.buf.summarised_values.part(begin, end - begin)

    def _searched(self, b: Body, group: Group, step: Step, theta: Scalar, into: View) -> tuple[At, At | None]:
        """The group's numbers and slopes at a fraction of the step."""
        return self._numbers(b, group, theta.fused(step.size, step.start), self._state_at(b, step, theta), into)

    def _turns(self, b: Body, group: Group, step: Step, begin: Scalar, values: tuple[At, At], slopes: tuple[At, At]) -> None:
        """Extrema inside of the step, where the sign of the slope changes."""
        size = step.size * (1.0 - begin)

        def kinds(index: Any) -> list[tuple[str, str, int, Scalar]]:
            """Of maxima and of minima whether there is one."""
            first, last = (slope(index) for slope in slopes)
            rises, falls = (first > 0.0) & (last <= 0.0), (first < 0.0) & (last >= 0.0)
            return [("max", "peaks", group.peaks, rises), ("min", "troughs", group.troughs, falls)]

        def wanted(index: Any) -> Scalar:
            found = b.scalar(b.emitter.constant("bool", 0), "bool")
            low, high = (value(index) for value in values)
            first, last = (slope(index) for slope in slopes)
            for best, local, room, there in kinds(index):
                if best in group.places:
                    # No further than the tangents at the ends lead.
                    sign = 1.0 if best == "max" else -1.0
                    far = most(sign * (low + first * size), sign * (high - last * size))
                    found = found | (there & ~(far <= sign * b.scalar(self._kept.of(b, group, best).load(index))))
                if room:
                    number = b.scalar(self._kept.integers(b, group, f"{local}_number").load(index), "int32")
                    found = found | (there & (number < room))
            return found

        def search(chosen: Chosen) -> None:
            at_begin, at_end = (chosen.pick(slope) for slope in slopes)
            into = self._room(b, group)  # has the numbers where the root is, when it is found

            def slope_at(theta: Scalar) -> Scalar:
                _, rates = self._searched(b, group, step, theta, into)
                assert rates is not None
                return chosen.pick(rates)

            theta = find_root(b, slope_at, begin, b.scalar(1.0), at_begin, at_end)
            value, time = chosen.pick(numbers_of(b, into)), theta.fused(step.size, step.start)
            for best, local, room, there in (
                ("max", "peaks", group.peaks, at_begin > 0.0),
                ("min", "troughs", group.troughs, at_begin < 0.0),
            ):
                if best in group.places:
                    words, when = self._kept.of(b, group, best), self._kept.of(b, group, f"{best}_time")
                    old = chosen.pick(numbers_of(b, words))
                    better = there & (~(value <= old) if best == "max" else ~(value >= old))
                    chosen.put(words, value, better)
                    chosen.put(when, time, better)
                if room:
                    row = chosen.pick_integer(self._kept.integers(b, group, f"{local}_number"))
                    for name, number in (("times", time), ("values", value)):
                        chosen.put_row(self._kept.of(b, group, f"{local}_{name}"), room, row, number, there)

        self._search(b, group, step, wanted, search)
        for kind, (_, local, room, _) in enumerate(kinds(0)):
            if room:
                numbers = self._kept.integers(b, group, f"{local}_number")

                def count(index: Any, kind: int = kind, numbers: View = numbers) -> None:
                    more = kinds(index)[kind][3].to("int32")
                    numbers.store(index, (b.scalar(numbers.load(index), "int32") + more).value)

                b.each(count, group.size)

    def _crossed(self, b: Body, crossing: Crossing, first: At, last: At, index: Any) -> Scalar:
        """Whether component `index` goes through the level."""
        level = b.number(crossing.level, index)
        before, after = first(index) - level, last(index) - level
        up, down = (before < 0.0) & (after >= 0.0), (before > 0.0) & (after <= 0.0)
        return up if crossing.direction > 0 else down if crossing.direction < 0 else up | down

    def _cross(
        self, b: Body, group: Group, number: int, crossing: Crossing, step: Step, begin: Scalar, first: At, last: At
    ) -> None:
        """A level that the numbers may go through inside of the step."""

        def crossed(index: Any) -> Scalar:
            return self._crossed(b, crossing, first, last, index)

        def wanted(index: Any) -> Scalar:
            if crossing.last:
                return crossed(index)
            known = b.scalar(self._kept.of(b, group, f"first_{number}").load(index))
            return crossed(index) & ~known.equals(known)

        def search(chosen: Chosen) -> None:
            level, into = chosen.pick(lambda index: b.number(crossing.level, index)), self._room(b, group)

            def over(theta: Scalar) -> Scalar:
                return chosen.pick(self._searched(b, group, step, theta, into)[0]) - level

            ends = (chosen.pick(value) - level for value in (first, last))
            time = find_root(b, over, begin, b.scalar(1.0), *ends).fused(step.size, step.start)
            self._keep_crossing(chosen, group, number, crossing, time)

        if crossing.first or crossing.last:
            self._search(b, group, step, wanted, search)
        if crossing.count:
            self._count_crossings(b, group, number, crossed)

    def _keep_crossing(self, chosen: Chosen, group: Group, number: int, crossing: Crossing, time: Scalar) -> None:
        b = chosen.body
        if crossing.last:
            chosen.put(self._kept.of(b, group, f"last_{number}"), time)
        if crossing.first:
            words = self._kept.of(b, group, f"first_{number}")
            known = chosen.pick(numbers_of(b, words))
            chosen.put(words, time, ~known.equals(known))

    def _count_crossings(self, b: Body, group: Group, number: int, crossed: Callable[[Any], Scalar]) -> None:
        counts = self._kept.integers(b, group, f"count_{number}")

        def count(index: Any) -> None:
            counts.store(index, (b.scalar(counts.load(index), "int32") + crossed(index).to("int32")).value)

        b.each(count, group.size)

    # --- Samples

    def _point(self, b: Body, group: Group, count: Scalar, time: Scalar, state: View) -> None:
        """A point of a sample, of which there were `count` before."""
        values, _ = self._numbers(b, group, time, state, self._ends(b, group))
        if group.total:
            self._add_point(b, group, count.to(b.dtype), values)
        for name, wanted in (("max", group.maximum), ("min", group.minimum)):
            if wanted:
                self._improve(b, group, name, values, time)
        before_time = time - b.number(group.window.every)
        if group.peaks or group.troughs:
            self._turn_of_points(b, group, before_time, values)
        for number, crossing in enumerate(group.crossings):
            self._cross_points(b, group, number, crossing, time, values)
        self._keep(b, group, values, None)

    def _add_point(self, b: Body, group: Group, count: Scalar, values: At) -> None:
        share, weight = where(count > 0.0, 1.0 / count, 0.0), count / (count + 1.0)

        def add(index: Any) -> None:
            value = values(index)
            if group.spread:
                apart = value - b.scalar(self._kept.of(b, group, "total").load(index)) * share
                self._add_square(b, group, index, weight * (apart * apart))
            self._add(b, group, index, value)

        b.each(add, group.size)

    def _turn_of_points(self, b: Body, group: Group, time: Scalar, values: At) -> None:
        """The point before was a peak, or a trough."""
        before, slope = self._kept.of(b, group, "before"), self._kept.of(b, group, "slope")

        def look(index: Any) -> None:
            old, was = b.scalar(before.load(index)), b.scalar(slope.load(index))
            now = values(index) - old
            for local, room, there in (
                ("peaks", group.peaks, (was > 0.0) & (now < 0.0)),
                ("troughs", group.troughs, (was < 0.0) & (now > 0.0)),
            ):
                if not room:
                    continue
                numbers = self._kept.integers(b, group, f"{local}_number")
                row, chosen = b.scalar(numbers.load(index), "int32"), Chosen(b, index, group.size)
                for name, number in (("times", time), ("values", old)):
                    chosen.put_row(self._kept.of(b, group, f"{local}_{name}"), room, row, number, there)
                numbers.store(index, (row + there.to("int32")).value)
            # Where two are equal the slope before them counts; behind the first point there is none.
            slope.store(index, where((now > 0.0) | (now < 0.0), now, was).value)

        b.each(look, group.size)

    def _cross_points(self, b: Body, group: Group, number: int, crossing: Crossing, time: Scalar, values: At) -> None:
        """The line between the last two points goes through the level."""
        first = numbers_of(b, self._kept.of(b, group, "before"))

        def crossed(index: Any) -> Scalar:
            return self._crossed(b, crossing, first, values, index)

        def look(index: Any) -> None:
            level, old, new = b.number(crossing.level, index), first(index), values(index)
            when = time - b.number(group.window.every) * ((new - level) / (new - old))
            there = crossed(index)
            for name, wanted in (("first", crossing.first), ("last", crossing.last)):
                if wanted:
                    words = self._kept.of(b, group, f"{name}_{number}")
                    known = b.scalar(words.load(index))
                    changes = there & ~known.equals(known) if name == "first" else there
                    words.store(index, where(changes, when, known).value)

        b.each(look, group.size)
        if crossing.count:
            self._count_crossings(b, group, number, crossed)

    # --- Folds

    def _fold(self, b: Body, fold: Fold, time: Scalar, state: View, *, first: bool | None) -> None:
        """A point for the functions of a fold. first: whether it is the first one; None: the counter tells."""
        carry, following = self._kept.carry(b, fold, 0), self._kept.carry(b, fold, 1)

        def init() -> None:
            call_at(b, fold.init, into_views([view for _, view in carry]), time, y=state)

        def update() -> None:
            call_at(b, fold.update, into_views([view for _, view in following]), time, y=state, **dict(carry))
            for (_, old), (_, new) in zip(carry, following, strict=True):
                b.each(lambda index, old=old, new=new: old.store(index, new.load(index)), old.size)

        if first is not None:
            (init if first else update)()
            return
        none = b.scalar(b.counter(fold.window.points).get(), "int32").equals(0)
        with b.emitter.builder.if_else(none.value) as (then, otherwise):
            with then:
                init()
            with otherwise:
                update()
