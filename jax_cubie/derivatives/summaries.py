"""Derivatives of summaries, of any order and in both modes, by a solve of their own.

A solve with summaries knows nothing of their derivatives, and costs nothing for them. Where one is differentiated, another
solve, which takes the same steps, integrates what they are of, and saves rows at the times that they have found:

- of an integral: that of the tangents, less what goes by as its beginning moves; mean, std and rms are made of integrals; where
  std and rms are 0 they have 0
- of an extremum: that of the row at its time, which is held fixed (the envelope theorem); where the state jumps, on the side on
  which it is
- of the time of an extremum, or of a crossing: minus the tangent of what is 0 there over its slope (the implicit function
  theorem); times at t0 and t1, and those at which f jumps, move with these, and those of events with them
- of samples: those of rows at their times, which move with where they begin and how far apart they are, and of sums of rows
- of a fold: those of its functions, which JAX goes through again, over rows of all points
- in a lane that failed: that of a row which was not come to, whatever the summary is

Those are linear in tangents and differentiable themselves; in them times are those that have this derivative, too.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from ..inputs.jumps import TIMES
from ..operands import Operand, Traced, word_of
from ..outputs import Dense, Integrals, Saving, Summaries
from ..outputs.integrals import Sum
from ..outputs.summaries import Asked, Window
from ..problem import Problem
from ..solution import CODES, is_fine
from ..times import next_time
from ..translate.platforms import PLATFORMS
from .bind import bind_solve
from .folds import begin_of, go_through, point_of, points_of
from .functions import Inputs, forward, output_of

# In units in the last place of the time, how far beside an event rows lie that are of the state in front of it, or behind it:
# so near that they move with it.
_BESIDE = 1.0
# In units in the last place of the mean, what a standard deviation is at most that rounding alone has made.
_NO_SPREAD = 4
# The parts that the other solve has not, or others of: those that change nothing.
_KEEPING = (Saving, Dense, Summaries)
_MOMENTS = ("mean", "std", "rms", "integral")
Flat = Callable[..., Any]


def solve_with_summaries(problem: Problem, arrays: Sequence[Any]) -> list[Any]:
    """The results of one lane, in the order of `problem.results`; summaries among them have derivatives."""
    results = bind_solve(problem, arrays, [()] * len(arrays)).results
    for chosen in _derived_results(problem):
        kept = _keep(problem, chosen)([results[number] for number in chosen], list(arrays))
        for number, array in zip(chosen, kept, strict=True):
            results[number] = array
    return results


def _derived_results(problem: Problem) -> list[tuple[int, ...]]:
    """The summaries that have derivatives, by the numbers of their results; those of folds, whose rows are many, by themselves,
    so that they are not found where nobody asks for them."""
    part = _summaries_of(problem)
    if part is None:
        return []
    own = [number for number, asked in enumerate(part.asked) if asked.kind == "fold"]
    names = {result.name for number in own for result in part.results_of(number, problem.dtype)}
    derived = [(number, one.name in names) for number, one in enumerate(problem.results) if _is_derived(one)]
    found = [tuple(number for number, folded in derived if folded == which) for which in (False, True)]
    return [chosen for chosen in found if chosen]


def _summaries_of(problem: Problem) -> Summaries | None:
    return next((part for part in problem.parts if isinstance(part, Summaries)), None)


def _is_derived(result: Any) -> bool:
    return result.apart and result.is_float and result.refusal is None


@functools.lru_cache(maxsize=256)
def _keep(problem: Problem, chosen: tuple[int, ...]) -> Callable[[list[Any], list[Any]], list[Any]]:
    """`keep(found, arrays)`: the summaries among the results, those of numbers `chosen`, with derivatives by the operands."""

    @jax.custom_jvp
    def keep(found: list[Any], arrays: list[Any]) -> list[Any]:
        return found

    def rule(primals: Any, tangents: Any) -> Any:
        (found, arrays), (_, moves) = primals, tangents
        zero = jax.custom_derivatives.SymbolicZero
        moved = [
            number
            for number, one in enumerate(moves)
            if type(one) is not zero and jnp.issubdtype(arrays[number].dtype, jnp.floating)
        ]
        kept = keep(found, arrays)  # which have derivatives again
        derived = _Derived(problem, kept, chosen, arrays)
        out = derived.tangents(moved, [moves[number] for number in moved])
        return kept, [out[name] for name in derived.names]

    keep.defjvp(rule, symbolic_zeros=True)
    return keep


@dataclasses.dataclass(frozen=True)
class _Row:
    """Rows at the times of a summary. times: shape [..., size], or where they are saved on both sides [2, size]. source:
    the function of the numbers, None for the state. level: of a crossing its operand."""

    number: int
    kind: str
    times: Any
    source: str | None
    level: str | None
    window: Window


class _Derived:
    """The tangents of some summaries, from results that have such derivatives themselves: `kept`."""

    def __init__(self, problem: Problem, kept: Sequence[Any], chosen: Sequence[int], arrays: Sequence[Any]):
        part = _summaries_of(problem)
        assert part is not None
        self._problem, self._part, self._arrays = problem, part, arrays
        self._given = dict(zip((operand.name for operand in problem.operands), arrays, strict=True))
        self.names = [problem.results[number].name for number in chosen]
        self._known = dict(zip(self.names, kept, strict=True))
        summarised, of_folds = dict(problem.summarised), {name for fold in part.folds for name in fold.functions}
        self._functions = dict(problem.traced) | {name: one for name, one in summarised.items() if name not in of_folds}
        self._of_folds = {name: summarised[name] for name in of_folds}
        results = [{result.name for result in part.results_of(number, problem.dtype)} for number in range(len(part.asked))]
        derived = [number for number, names in enumerate(results) if not names.isdisjoint(self.names)]
        self._add_times(derived)
        self._folded = [number for number in derived if part.asked[number].kind == "fold"]
        self._folds = list(dict.fromkeys(part.asked[number].owner for number in self._folded))
        self._moments = [number for number in derived if part.asked[number].kind in _MOMENTS]
        self._sums = self._sums_of(list(dict.fromkeys(part.asked[number].owner for number in self._moments)))
        others = (*_MOMENTS, "crossings", "fold")
        self._rows = [self._row(number) for number in derived if part.asked[number].kind not in others]
        self._sources = list(dict.fromkeys(row.source for row in self._rows))

    def _sums_of(self, owners: Sequence[int]) -> dict[Sum, list[int]]:
        """The sums of the other solve, one for each window, and the groups that they are for."""
        of_windows: dict[Window, list[int]] = {}
        for owner in owners:
            of_windows.setdefault(self._part.groups[owner].window, []).append(owner)
        found = {}
        for window, own in of_windows.items():
            size = sum(self._part.groups[owner].size * (1 + self._part.groups[owner].spread) for owner in own)
            number = window.number if window.starts or window.sampled else None
            found[Sum(number, size + window.sampled, window.starts, window.sampled)] = own
        return found

    def _add_times(self, derived: Sequence[int]) -> None:
        """The times of all extrema; of those that nobody asked for by one more solve."""
        part, more = self._part, []
        for asked in (part.asked[number] for number in derived):
            timed = Asked(f"time_of_{asked.kind}", asked.owner)
            if asked.kind in ("min", "max") and timed not in (*part.asked, *more):
                more.append(timed)
        if more:
            self._part = dataclasses.replace(part, asked=(*part.asked, *more))
            parts = tuple(self._part if one is part else one for one in self._problem.parts)
            problem = dataclasses.replace(self._problem, parts=parts)
            results = solve_with_summaries(problem, self._arrays)
            self._known = dict(zip((result.name for result in problem.results), results, strict=True))

    def _row(self, number: int) -> _Row:
        asked = self._part.asked[number]
        group, name = self._part.groups[asked.owner], f"summary{number}"
        if asked.kind in ("min", "max"):
            name = f"summary{self._part.asked.index(Asked(f'time_of_{asked.kind}', asked.owner))}"
        times = self._known[f"{name}_times" if asked.kind in ("peaks", "troughs") else name]
        if self._on_both_sides(asked.kind, group.window):
            times = jnp.stack([times, times])
        level = group.crossings[asked.which].level if "crossing" in asked.kind else None
        return _Row(number, asked.kind, times, group.function, level, group.window)

    def _on_both_sides(self, kind: str, window: Window) -> bool:
        """Whether a row is saved twice: in front of a jump of the state, and behind it; or at both ends of the line between two
        samples."""
        return "crossing" in kind if window.sampled else kind in ("min", "max") and self._part.beside_leaps

    # --- Functions, of the time, the state and all operands of functions, by name

    def _flat(self, source: str | None) -> Flat:
        """The numbers of a source."""
        if source is None:
            return lambda t, y, values: y
        traced = self._functions[source]
        return lambda t, y, values: traced.call(t, y, *(values[name] for name in traced.operands))[0]

    def _along(self, flat: Flat) -> Flat:
        """Their derivative by time."""
        field = self._functions["f"]
        slope_of_state = self._problem.method.slope_of(lambda t, y, *given: field.call(t, y, *given)[0])

        def slope(t: Any, y: Any, values: Mapping[str, Any]) -> Any:
            along = (jnp.ones_like(t), slope_of_state(t, y, *(values[name] for name in field.operands)))
            return jax.jvp(lambda t, y: flat(t, y, values), (t, y), along)[1]

        return slope

    def _orders(self, source: str | None) -> int:
        """How many derivatives by time are saved of its numbers."""
        kinds = {row.kind for row in self._rows if row.source == source and not row.window.sampled}
        if kinds & {"time_of_min", "time_of_max", "peaks", "troughs"}:
            return 2
        return 1 if kinds & {"first_crossing", "last_crossing"} else 0

    def _size(self, source: str | None) -> int:
        return next(group.size for group in self._part.groups if group.function == source)

    def _row_values(self, t: Any, y: Any, values: Mapping[str, Any]) -> Any:
        parts = [t[None]] if self._part.beside_events else []
        for source in self._sources:
            flat = self._flat(source)
            for _ in range(self._orders(source) + 1):
                parts.append(flat(t, y, values))
                flat = self._along(flat)
        return jnp.concatenate(parts)

    def _integrand(self, owners: Sequence[int], *, sampled: bool) -> Flat:
        """What is summed; of samples that is 1 first, which gives their number."""

        def integrand(t: Any, y: Any, values: Mapping[str, Any]) -> Any:
            parts = [jnp.ones_like(t)[None]] if sampled else []
            for owner in owners:
                group = self._part.groups[owner]
                numbers = self._flat(group.function)(t, y, values)
                parts += [numbers, numbers**2] if group.spread else [numbers]
            return jnp.concatenate(parts)

        return integrand

    # --- The other solve

    def _solve(self, given: Mapping[str, Any], times: Any, offsets: Any) -> dict[str, Any]:
        """Its results by name. given: the operands; times, offsets: of the rows, in order, None where there are none."""
        problem = self._problem
        given = {name: array for name, array in given.items() if word_of(name) not in ("ts", "offsets")}
        given["t1"] = given["t0"] + given["span"]
        functions, parts = {}, [part for part in problem.parts if not isinstance(part, _KEEPING)]
        if times is not None:
            given |= {"ts": times, "offsets": offsets}
            functions["output"] = self._row_values
            size = self._first_column + sum(self._size(source) * (self._orders(source) + 1) for source in self._sources)
            outputs = (((size,), problem.dtype),)
            parts.insert(0, Saving(False, times.size, 0, False, 0, outputs, clings=self._part.beside_events))
        else:
            parts.insert(0, Saving(False, 0, 0, True, 0, None))
        for one, owners in self._sums.items():
            functions[one.function] = self._integrand(owners, sampled=one.sampled)
            window = self._part.groups[owners[0]].window
            if one.starts:
                given[one.start] = begin_of(window, given)
            if one.sampled:
                given[one.every] = given[window.every]
        field = self._functions["f"]
        points, operands = points_of([self._part.folds[owner] for owner in self._folds], field, given, problem)
        given |= operands
        functions |= {part.named("output"): point_of(field) for part in points}
        parts += points
        if self._sums:
            parts.append(Integrals(tuple(self._sums), self._part.groups[0].order))
        operands = tuple(Operand(name, tuple(array.shape), str(array.dtype)) for name, array in given.items())
        whole = self._problem_of(functions, tuple(parts), operands)
        results = bind_solve(whole, list(given.values()), [()] * len(given)).results
        return dict(zip((result.name for result in whole.results), results, strict=True))

    def _problem_of(self, functions: Mapping[str, Flat], parts: tuple[Any, ...], operands: tuple[Operand, ...]) -> Problem:
        problem, named = self._problem, {operand.name: operand for operand in operands}
        left_out = {name for part in problem.parts if isinstance(part, _KEEPING) for name in part.copies()}
        kept = {name: traced for name, traced in problem.traced if name not in left_out}
        traced = kept | {name: self._traced(call) for name, call in functions.items()}
        limits = {platform: problem.on(platform)[0].unroll for platform in PLATFORMS}
        made = {}
        for name in functions:
            inputs = Inputs(traced[name], problem.pieces, (), named, problem.dtype)
            made[name] = forward(name, output_of(inputs), inputs, limits)
        by_platform = tuple(
            (
                platform,
                (
                    *(function for function in problem.on(platform) if function.name not in left_out),
                    *(one[platform] for one in made.values()),
                ),
            )
            for platform in PLATFORMS
        )
        return dataclasses.replace(
            problem, functions=by_platform, parts=parts, operands=operands, traced=tuple(traced.items()), summarised=(),
            title=f"{problem.title}, what is summarised",
        )  # fmt: skip

    def _traced(self, call: Flat) -> Traced:
        names = tuple(dict.fromkeys(name for one in self._functions.values() for name in one.operands))
        known = {id(value): (value, name) for one in self._functions.values() for value, name in one.constants}

        def flat(t: Any, y: Any, *values: Any) -> list[Any]:
            return [call(t, y, dict(zip(names, values, strict=True)))]

        said, field = "what is summarised", self._functions["f"]
        return dataclasses.replace(field, call=flat, operands=names, constants=tuple(known.values()), said=said)

    # --- What tangents are made of

    def _evaluate(self, arrays: Sequence[Any]) -> dict[str, Any]:
        """Of operands: integrals, and how long they go on; of each row's summary the numbers at its times and their derivatives
        by time, its level, its times, but that those inside do not move, and whether each is one that does. `lost` is what a
        lane that failed did not come to."""
        given = dict(zip((operand.name for operand in self._problem.operands), arrays, strict=True))
        found: dict[str, Any] = {}
        times = offsets = None
        inverse = jnp.zeros(0, int)
        moved = [self._moved(row, given) for row in self._rows]
        if self._rows:
            offset = jnp.concatenate([one.reshape(-1) for one, _ in moved])
            direction = jnp.where(given["span"] >= 0, 1, -1)
            order = jnp.argsort(jax.lax.stop_gradient(direction * offset))
            offsets, inverse = offset[order], jnp.argsort(order)
            times = given["t0"] + offsets
        solved = self._solve(given, times, offsets)
        found["failed"] = ~is_fine(solved["result"])
        found["lost"] = jnp.sum(solved["ys" if times is None else "ys0"][-1])
        end = given["span"]
        if "reached" in solved:
            end = jnp.where(solved["result"] == CODES["event_occurred"], solved["reached"], end)
        for one, owners in self._sums.items():
            begin, values = int(one.sampled), solved[one.result][0]
            for owner in owners:
                group = self._part.groups[owner]
                found[f"length{owner}"] = values[0] if one.sampled else end - begin_of(group.window, given)
                for name in ("sum", "squares")[: 1 + group.spread]:
                    found[f"{name}{owner}"] = values[begin : begin + group.size]
                    begin += group.size
        for owner in self._folds:
            found[f"fold{owner}"] = go_through(self._part.folds[owner], self._of_folds, given, solved, end)
        columns, first = self._columns(), 0
        for row, (offset, named) in zip(self._rows, moved, strict=True):
            places = inverse[first : first + offset.size]
            own = solved["ys0"][places].reshape(*offset.shape, -1)
            first += offset.size
            for order, column in enumerate(columns[row.source]):
                part = own[..., column : column + offset.shape[-1]]
                found[f"value{order}_{row.number}"] = jnp.diagonal(part, axis1=-2, axis2=-1)
            if self._part.beside_events:
                found[f"time_{row.number}"] = own[..., 0]
                named = named | solved["clung"][places].reshape(offset.shape)
            else:
                found[f"time_{row.number}"] = given["t0"] + offset
            found[f"named_{row.number}"] = named
            if row.window.sampled:
                found[f"every_{row.number}"] = given[row.window.every]
            if row.level is not None:
                found[f"level_{row.number}"] = jnp.broadcast_to(given[row.level], offset.shape)
        return found

    @property
    def _first_column(self) -> int:
        """Where the numbers begin in a row. Beside events the time stands in front: only the kernel knows how that moves."""
        return int(self._part.beside_events)

    def _columns(self) -> dict[str | None, list[int]]:
        """Where in a row the numbers of each source begin, and their derivatives."""
        columns, begin = {}, self._first_column
        for source in self._sources:
            columns[source] = []
            for _ in range(self._orders(source) + 1):
                columns[source].append(begin)
                begin += self._size(source)
        return columns

    def _moved(self, row: _Row, given: Mapping[str, Any]) -> tuple[Any, Any]:
        """The row's times, counted from t0, and whether each is one that has a name: an end of what was looked at, or a time at
        which f jumps, with which it moves. Those that there are not are at t1, where a lane that failed did not come. Beside
        events the times are those in front of them, or behind."""
        if row.window.sampled:
            return self._samples(row, given), jnp.ones(row.times.shape, bool)
        t0, span = given["t0"], given["span"]
        begin = begin_of(row.window, given)
        low, high = jnp.minimum(begin, span), jnp.maximum(begin, span)
        offset, named = jnp.clip(row.times - t0, low, high), jnp.zeros(row.times.shape, bool)
        events, on_both_sides = self._part.beside_events, self._on_both_sides(row.kind, row.window)
        if events:  # the kernel tells which times are those of ends of legs
            beside = _BESIDE * jnp.finfo(span.dtype).eps * jax.lax.stop_gradient(jnp.abs(t0) + jnp.abs(offset))
            sides = jnp.array([[-1.0], [1.0]], span.dtype) if on_both_sides else -1
            offset = jnp.clip(offset + sides * jnp.sign(span) * beside, low, high)
        elif TIMES in given:
            jumps = given[TIMES]
            apart = jax.lax.stop_gradient(jnp.abs(offset[..., None] - jumps))
            nearest = jumps[jnp.argmin(apart, axis=-1)]
            named = jnp.min(apart, axis=-1) <= 4 * jnp.finfo(span.dtype).eps * (jnp.abs(t0) + jnp.abs(offset))
            offset = jnp.where(named, nearest, offset)
        at_end, at_begin = (row.times == t0 + span) | jnp.isnan(row.times), row.times == t0 + begin
        offset = jnp.where(at_begin, begin, jnp.where(at_end, span, offset))
        if on_both_sides and not events:
            known = jax.lax.stop_gradient(offset[1])
            behind = jnp.where(named[1] & (known != span), next_time(known) - known, 0)
            offset = jnp.stack([offset[0], offset[1] + behind])
        return offset, named | at_begin | at_end

    def _samples(self, row: _Row, given: Mapping[str, Any]) -> Any:
        """The times of the samples that a row is of, counted from t0; of a crossing those of the two around it."""
        t0, span, every = given["t0"], given["span"], given[row.window.every]
        begin, direction = begin_of(row.window, given), jnp.where(span >= 0, 1, -1).astype(span.dtype)
        passed = row.times - t0 - begin
        close = jnp.finfo(span.dtype).eps * (jnp.abs(t0) + jnp.abs(passed) + jnp.abs(begin))
        number = direction * passed / every
        if self._on_both_sides(row.kind, row.window):
            # On a sample it is the end of a line, of which it may be a rounding behind.
            number = jnp.ceil(number - jnp.minimum(4 * close / every, 0.5)) - jnp.array([[1.0], [0.0]], span.dtype)
        number = jax.lax.stop_gradient(jnp.where(jnp.isnan(row.times), 0, jnp.round(number)))
        offset = begin + direction * number * every
        inside = offset
        if self._part.beside_events:  # which may have ended the lane there
            inside = offset - direction * _BESIDE * close
        inside = jnp.clip(inside, jnp.minimum(begin, span), jnp.maximum(begin, span))
        return offset + jax.lax.stop_gradient(jnp.where(jnp.isnan(row.times), span, inside) - offset)

    def tangents(self, moved: Sequence[int], moves: Sequence[Any]) -> dict[str, Any]:
        """Those of the summaries by the names of their results, where the operands of numbers `moved` have tangents `moves`."""
        if not moved:
            return {name: jnp.zeros_like(self._known[name]) for name in self.names}

        def evaluate(*changed: Any) -> dict[str, Any]:
            arrays = list(self._arrays)
            for number, array in zip(moved, changed, strict=True):
                arrays[number] = array
            return self._evaluate(arrays)

        values, tangents = jax.jvp(evaluate, [self._arrays[number] for number in moved], list(moves))
        failed, found = values["failed"], {}
        # Else 0 times NaN, where nobody asks for the summary of such a lane.
        values = jax.tree.map(lambda value: jnp.where(failed, jnp.ones_like(value), value), values)
        for number in self._folded:
            moved = tangents[f"fold{self._part.asked[number].owner}"]
            found |= {f"summary{number}_{place}": one for place, one in enumerate(moved)}
        for number in self._moments:
            found[f"summary{number}"] = self._moment(number, values, tangents)
        for row in self._rows:
            name, there = f"summary{row.number}", ~jnp.isnan(row.times)

            def at(prefix: str, number: int = row.number, of: Any = None) -> Any:
                return (values if of is None else of)[f"{prefix}_{number}"]

            value = at("value0", of=tangents)
            if row.kind in ("min", "max"):
                if self._on_both_sides(row.kind, row.window):  # on that side of a jump where it is
                    off = jnp.abs(at("value0") - self._known[name])
                    value, there = jnp.where(off[1] < off[0], value[1], value[0]), there[0]
                found[name] = jnp.where(there, value, 0)
                continue
            # Where a slope is not used it may be 0, and 1 / 0 times no cotangent at all is no number.
            if row.window.sampled:
                time = at("time", of=tangents)
                if row.level is not None:
                    there = there[0]
                    time = self._moved_line(row.number, there, values, tangents)
            elif row.level is not None:
                time = at("time", of=tangents) + (at("level", of=tangents) - value) / jnp.where(there, at("value1"), 1)
            else:
                named = at("named")
                inside = -at("value1", of=tangents) / jnp.where(named, 1, at("value2"))
                time = jnp.where(named, at("time", of=tangents), inside)
            time = jnp.where(there, time, 0)
            if row.kind in ("peaks", "troughs"):
                found |= {f"{name}_times": time, f"{name}_values": jnp.where(there, value, 0)}
            else:
                found[name] = time
        return {name: jnp.where(failed, tangents["lost"], found[name]) for name in self.names}

    def _moved_line(self, number: int, there: Any, values: Mapping[str, Any], tangents: Mapping[str, Any]) -> Any:
        """The tangent of the time at which the line between two samples is at a level. there: whether there is such a time."""
        direction = jnp.where(self._given["span"] >= 0, 1, -1)
        names = [f"{name}_{number}" for name in ("time", "value0", "level", "every")]

        def crossing(time: Any, value: Any, level: Any, every: Any) -> Any:
            (first, last), level = jnp.where(there, value, jnp.array([[0], [1]])), level[1]
            return time[1] - direction * every * ((last - level) / (last - first))

        return jax.jvp(crossing, [values[name] for name in names], [tangents[name] for name in names])[1]

    def _moment(self, number: int, values: Mapping[str, Any], tangents: Mapping[str, Any]) -> Any:
        asked = self._part.asked[number]
        names = [f"{name}{asked.owner}" for name in ("sum", "squares", "length") if f"{name}{asked.owner}" in values]

        def moment(given: Mapping[str, Any]) -> Any:
            total, length = given[f"sum{asked.owner}"], given[f"length{asked.owner}"]
            if asked.kind == "integral":
                return total
            if asked.kind == "mean":
                return total / length
            square = given[f"squares{asked.owner}"] / length
            return square if asked.kind == "rms" else square - (total / length) ** 2

        primals, there = {name: values[name] for name in names}, None
        window = self._part.groups[asked.owner].window
        if asked.kind != "integral" and window.starts:  # which may be behind the end
            length = primals[names[-1]]
            there = ~((length if window.sampled else length * jnp.sign(self._given["span"])) <= 0)
            primals[names[-1]] = jnp.where(there, length, 1)
        _, moved = jax.jvp(moment, [primals], [{name: tangents[name] for name in names}])
        if asked.kind in ("std", "rms"):
            # The root has no derivative at 0, but 0 among its subgradients. A constant's std is as near to 0 as its mean is
            # known.
            root, least = jnp.where(values["failed"], 1, self._known[f"summary{number}"]), 0.0
            if asked.kind == "std":
                mean = primals[f"sum{asked.owner}"] / primals[f"length{asked.owner}"]
                least = _NO_SPREAD * jnp.finfo(root.dtype).eps * jnp.abs(mean)
            none = root <= least
            there = ~none if there is None else there & ~none
            moved = moved / jnp.where(there, 2 * root, 1)
        return moved if there is None else jnp.where(there, moved, 0)
