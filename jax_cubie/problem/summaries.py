"""The summaries that a user asks for, as groups over windows, functions and operands."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.extend.core as jex
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from ..controllers.tolerances import tolerance_array
from ..field_errors import check_signature, in_derivative_words, in_our_words
from ..linear import without_custom_vjp
from ..methods import Method
from ..outputs.summaries import Asked, Crossing, Fold, Group, Summaries, Window
from ..outputs.summary import Summary
from ..settings import concrete, told
from ..times import as_array, check_scalar, difference
from ..translate import check_dtype, trace
from .state import State
from .tracing import Arguments, Extra

Field = Callable[..., Any]
_FOLD = "a Summary(init, update, result)"


@dataclasses.dataclass
class _Numbers:
    """What groups may be of. function: their name in the kernel, None for the state. moving: whether slopes are wanted, too."""

    state: State
    flat: Field | None
    name: str | None
    said: str
    moving: bool = False

    @property
    def moving_name(self) -> str:
        return f"{self.name or 'state'}_moving"


class SummaryReader:
    """Reads them. ends: t0 and t1 as the user gave them. room: for how many steps derivatives of folds have rows; None where
    that is not known. After `trace` its part and its `operands` are known.

    presented: of each summary, by name, what `Summaries.present` has to know: the `State` that its numbers are like, or the
    structure of what a fold gives.
    """

    def __init__(self, given: Any, state: State, args: Arguments, ends: tuple[Any, Any], room: int | None, *, mass: bool):
        self._given, self._room = _checked(given), room
        self._state, self._args, self._ends, self._mass = state, args, ends, mass
        self.operands: dict[str, Any] = {}
        self.presented: dict[str, Any] = {}
        self._jaxprs: dict[str, Extra] = {}
        self._windows: dict[Any, Window] = {}
        self._numbers: dict[Any, _Numbers] = {}
        self._groups: dict[tuple[int, str | None], Group] = {}
        self._folds: list[Fold] = []
        self._asked: list[Asked] = []

    def part_beside(self, *, events: bool, leaps: bool) -> Summaries:
        """The part of the loop of a solve in which there are events of the user's, or jumps of the state."""
        windows, groups = tuple(self._windows.values()), tuple(self._groups.values())
        return Summaries(windows, groups, tuple(self._folds), tuple(self._asked), events, leaps)

    def trace(self, slope: Field, method: Method) -> dict[str, Extra]:
        """The functions in the kernel, by name. slope: that of the state, of the time, the flat state and the operands."""
        for name, summary in self._given.items():
            said = f"summaries[{name!r}]"
            window = self._window(summary, said)
            if summary.functions is not None:
                self._read_fold(name, summary, window, said)
            else:
                self._read_numbers(name, summary, window, said, slope, method)
        for numbers in self._numbers.values():
            if numbers.moving:
                self._trace_moving(numbers, slope)
        return self._jaxprs

    # --- Windows

    def _window(self, summary: Summary, said: str) -> Window:
        for name in ("start", "every"):
            if getattr(summary, name) is not None:
                check_scalar(f"{name} of {said}", getattr(summary, name))
        fold = summary.functions is not None
        key = (fold, *(_identity(value) for value in (summary.start, summary.every)))
        if key not in self._windows:
            window = Window(len(self._windows), summary.start is not None, summary.every is not None)
            if window.starts:
                self.operands[window.start] = as_array(
                    difference(summary.start, self._ends[0], self._state.dtype), self._state.dtype
                )
            if window.sampled:
                every = as_array(summary.every, self._state.dtype)
                known = concrete(every)
                if known is not None and not known > 0:
                    dtype = self._state.dtype
                    raise ValueError(f"every={summary.every} of {said} is 0 in {dtype}, y0's dtype: take a larger one")
                self.operands[window.every] = every
            self._windows[key] = window
        return self._windows[key]

    # --- Numbers

    def _read_numbers(self, name: str, summary: Summary, window: Window, said: str, slope: Field, method: Method) -> None:
        numbers, kind = self._numbers_of(summary, said, slope), summary.kind
        place = (window.number, numbers.name)
        group = self._groups.get(place)
        if group is None:
            group = Group(window, numbers.name, None, numbers.state.size, method.order, not self._mass)
        which = 0
        changed: dict[str, Any] = {}
        if kind in ("mean", "integral", "std", "rms"):
            changed = {"total": True, "spread": group.spread or kind in ("std", "rms")}
        elif kind in ("peaks", "troughs"):
            changed = {kind: max(getattr(group, kind), summary.most or 0)}
        elif "crossing" in kind:
            which, changed = self._crossing(group, summary, numbers, said)
        else:
            changed = {"maximum" if kind.endswith("max") else "minimum": True}
        slopes = "crossing" not in kind and (numbers.name is None or not changed.get("total"))
        if slopes and not window.sampled and not (self._mass and changed.get("total")):
            # Also integrals of the state use slopes, those that the method has: f, without a mass matrix.
            changed["moving"] = numbers.moving_name
            numbers.moving = numbers.moving or not changed.get("total")
        self._groups[place] = dataclasses.replace(group, **changed)
        self._asked.append(Asked(kind, list(self._groups).index(place), which))
        self.presented[name] = numbers.state

    def _crossing(self, group: Group, summary: Summary, numbers: _Numbers, said: str) -> tuple[int, dict[str, Any]]:
        """The number of the crossing, and the group's new crossings."""
        level = f"summary_level_{sum(name.startswith('summary_level') for name in self.operands)}"
        wants = {"crossings": "count", "first_crossing": "first", "last_crossing": "last"}[summary.kind]
        array = _level(summary.level, numbers, said)
        for number, crossing in enumerate(group.crossings):
            same = _same(self.operands[crossing.level], array)
            if same and crossing.direction == summary.direction:
                changed = dataclasses.replace(crossing, **{wants: True})
                return number, {"crossings": (*group.crossings[:number], changed, *group.crossings[number + 1 :])}
        self.operands[level] = array
        asked = {name: name == wants for name in ("count", "first", "last")}
        return len(group.crossings), {"crossings": (*group.crossings, Crossing(level, summary.direction, **asked))}

    def _numbers_of(self, summary: Summary, said: str, slope: Field) -> _Numbers:
        of, derivative = summary.of, summary.derivative
        key = (None if of is None else id(of), derivative)
        if key in self._numbers:
            return self._numbers[key]
        if of is None and not derivative:
            self._numbers[key] = _Numbers(self._state, None, None, "f")
            return self._numbers[key]
        flat, like = self._flat(of, said)
        for _ in range(derivative):
            flat = along(flat, slope)
        name = f"summarised{len(self._numbers)}"
        with in_derivative_words(f"of of {said}" if of is not None else "f(t, y, args)", reverse=False):
            closed = trace(flat, *self._time_and_state(), *self._args.avals)
        self._jaxprs[name] = Extra(("t", "y"), closed, f"of of {said}", apart=True)
        self._numbers[key] = _Numbers(like, flat, name, f"of of {said}")
        return self._numbers[key]

    def _time_and_state(self) -> tuple[jax.ShapeDtypeStruct, jax.ShapeDtypeStruct]:
        dtype = jnp.dtype(self._state.dtype)
        return jax.ShapeDtypeStruct((), dtype), jax.ShapeDtypeStruct((self._state.size,), dtype)

    def _flat(self, of: Callable | None, said: str) -> tuple[Field, State]:
        """`of` as one vector, of the time, the flat state and the operands; and what that is like."""
        state = self._state
        if of is None:
            return lambda t, y, *values: y, state
        self._args.check_signature(of, "of")
        found = []

        def flat(t: Any, y: Any, *values: Any) -> Any:
            with in_our_words(f"of of {said}"):
                time, *others = self._args.at(t, values)
                leaves, structure = jax.tree.flatten(of(time, state.unflatten(y), *others))
            shapes = tuple(tuple(np.shape(_real(leaf, f"of of {said}"))) for leaf in leaves)
            like = State(structure, shapes, state.dtype)
            if like.size == 0:
                raise ValueError(f"of of {said} returns no numbers (structure {structure}): there is nothing to summarise")
            found.append(like)
            return jnp.concatenate([jnp.ravel(jnp.asarray(leaf).astype(state.dtype)) for leaf in leaves])

        closed = without_custom_vjp(trace(flat, *self._time_and_state(), *self._args.avals))
        return lambda *given: jex.jaxpr_as_fun(closed)(*given)[0], found[-1]

    def _trace_moving(self, numbers: _Numbers, slope: Field) -> None:
        """The numbers, and behind them their slopes along the solution."""
        flat = numbers.flat if numbers.flat is not None else lambda t, y, *values: y

        def both(t: Any, y: Any, *values: Any) -> Any:
            return jnp.concatenate(_moved(flat, slope, t, y, *values))

        with in_derivative_words(numbers.said, reverse=False):
            self._jaxprs[numbers.moving_name] = Extra(("t", "y"), trace(both, *self._time_and_state(), *self._args.avals))

    # --- Folds

    def _most_samples(self, summary: Summary) -> int | None:
        """How many samples there may be; None where nobody knows."""
        t0, t1 = self._ends
        known = [concrete(time) for time in (t0, t1, summary.every, t0 if summary.start is None else summary.start)]
        if any(one is None for one in known):
            return None
        begin, end, every, start = (float(one) for one in known if one is not None)
        begin = max(begin, start) if end >= begin else min(begin, start)
        most = int(max(abs(end - begin) / every, 0.0)) + 2
        return 1 << (most - 1).bit_length()  # of two solves that differ in times it is mostly the same

    def _read_fold(self, name: str, summary: Summary, window: Window, said: str) -> None:
        assert summary.functions is not None
        init, update, result = summary.functions
        state, args = self._state, self._args
        number, time_and_state = len(self._folds), self._time_and_state()
        args.check_signature(init, "init")
        args.check_signature(update, "update", "carry")

        def first(t: Any, y: Any, *values: Any) -> Any:
            with in_our_words(f"init of {said}"):
                time, *others = args.at(t, values)
                return init(time, state.unflatten(y), *others)

        shaped = jax.eval_shape(first, *time_and_state, *args.avals)
        carry = _Carry(shaped, state.dtype, said)
        inputs, avals = carry.inputs

        def begin(t: Any, y: Any, *values: Any) -> list[Any]:
            return carry.pack(first(t, y, *values), "init")

        def go_on(*given: Any) -> list[Any]:
            (t, y), values = given[len(avals) : len(avals) + 2], given[len(avals) + 2 :]
            with in_our_words(f"update of {said}"):
                time, *others = args.at(t, values)
                new = update(carry.unpack(given[: len(avals)]), time, state.unflatten(y), *others)
            return carry.pack(new, "update")

        structures = []

        def conclude(*given: Any) -> list[Any]:
            found = carry.unpack(given[: len(avals)])
            if result is not None:
                with in_our_words(f"result of {said}"):
                    found = result(found)
            leaves, structure = jax.tree.flatten(found)
            structures.append(structure)
            if not leaves:
                raise ValueError(f"result of {said} returns no arrays (structure {structure}): there is nothing to keep")
            return [jnp.asarray(_real(leaf, f"result of {said}", "arrays")) for leaf in leaves]

        if result is not None:
            check_signature(result, "result(carry)", 1)
        names = [f"fold{number}_{step}" for step in ("init", "update", "result")]
        ended = trace(conclude, *avals, *args.avals, said=f"result of {said}")
        self._jaxprs |= {
            names[0]: Extra(("t", "y"), trace(begin, *time_and_state, *args.avals), f"init of {said}", apart=True),
            names[1]: Extra(
                (*inputs, "t", "y"), trace(go_on, *avals, *time_and_state, *args.avals), f"update of {said}", apart=True
            ),
            names[2]: Extra(inputs, ended, f"result of {said}", apart=True),
        }
        outputs = tuple((tuple(aval.shape), str(aval.dtype)) for aval in ended.out_avals)
        room, refusal = self._room if summary.every is None else self._most_samples(summary), None
        if room is None and window.sampled:
            refusal = f"{_FOLD} with every= has one only where t0, t1, start and every are known, not traced"
        elif room is None:
            refusal = f"{_FOLD} has one only where max_steps is given, and is not traced: a row of each step is kept for it"
        functions = (names[0], names[1], names[2])
        self._folds.append(Fold(window, *functions, carry.floats, carry.integers, outputs, room or 0, refusal))
        self._asked.append(Asked("fold", number))
        self.presented[name] = structures[-1]


class _Carry:
    """How a fold's carry lies in words: floats of the solve's dtype, and integers as wide."""

    def __init__(self, shaped: PyTree, dtype: str, said: str):
        leaves, self._structure = jax.tree.flatten(shaped)
        self._said, self._dtype, self._integer = said, dtype, "int32" if dtype == "float32" else "int64"
        self._leaves = [(leaf.shape, leaf.dtype, jnp.issubdtype(leaf.dtype, jnp.floating)) for leaf in leaves]
        integers = ("bool", "int8", "int16", "int32", "uint8", "uint16", *(("int64", "uint32") if dtype == "float64" else ()))
        for _, kind, is_float in self._leaves:
            if str(kind) not in ((dtype,) if is_float else integers):
                raise TypeError(
                    f"init of {said} returns a carry with a leaf of dtype {kind}: expected {dtype}, y0's dtype, integers that "
                    f"{self._integer} holds, or booleans"
                )
        if not leaves:
            raise ValueError(f"init of {said} returns a carry without arrays (structure {self._structure})")

    def _count(self, *, floats: bool) -> int:
        return sum(int(np.prod(shape)) for shape, _, is_float in self._leaves if is_float == floats)

    @property
    def floats(self) -> int:
        return self._count(floats=True)

    @property
    def integers(self) -> int:
        return self._count(floats=False)

    @property
    def inputs(self) -> tuple[tuple[str, ...], list[jax.ShapeDtypeStruct]]:
        """The names and shapes of what a function of the carry takes."""
        kinds = [("carry", self.floats, self._dtype), ("carry_integers", self.integers, self._integer)]
        there = [one for one in kinds if one[1]]
        return tuple(name for name, _, _ in there), [jax.ShapeDtypeStruct((n,), jnp.dtype(kind)) for _, n, kind in there]

    def pack(self, carry: PyTree, said: str) -> list[Any]:
        """The carry as those."""
        leaves, structure = jax.tree.flatten(carry)
        if structure != self._structure:
            raise ValueError(
                f"{said} of {self._said} returns a carry of structure {structure}, where init gave {self._structure}: they "
                "have to be equal"
            )
        packed: dict[bool, list[Any]] = {True: [], False: []}
        for leaf, (shape, kind, is_float) in zip(leaves, self._leaves, strict=True):
            array = jnp.asarray(leaf)
            if array.shape != shape or (array.dtype != kind and not getattr(array, "weak_type", False)):
                raise ValueError(
                    f"{said} of {self._said} returns a carry with a leaf {array.dtype}{list(array.shape)}, where init gave "
                    f"{kind}{list(shape)}: they have to be equal"
                )
            packed[is_float].append(jnp.ravel(array).astype(self._dtype if is_float else self._integer))
        return [jnp.concatenate(parts) for parts in packed.values() if sum(part.size for part in parts)]

    def unpack(self, words: Sequence[Any]) -> PyTree:
        """The carry again."""
        names, _ = self.inputs
        given, leaves = dict(zip(names, words, strict=True)), []
        begins = {True: 0, False: 0}
        for shape, kind, is_float in self._leaves:
            size = int(np.prod(shape))
            words_of = given.get("carry" if is_float else "carry_integers", jnp.zeros(0))
            part = words_of[begins[is_float] : begins[is_float] + size]
            begins[is_float] += size
            leaves.append(part.astype(kind).reshape(shape))
        return jax.tree.unflatten(self._structure, leaves)


def _moved(flat: Field, slope: Field, t: Any, y: Any, *values: Any) -> tuple[Any, Any]:
    """Numbers along the solution, and their slopes."""
    return jax.jvp(lambda t, y: flat(t, y, *values), (t, y), (jnp.ones_like(t), slope(t, y, *values)))


def along(flat: Field, slope: Field) -> Field:
    """The derivative by time of numbers along the solution."""
    return lambda t, y, *values: _moved(flat, slope, t, y, *values)[1]


def _real(leaf: Any, said: str, expected: str = "real numbers") -> Any:
    if not eqx.is_array_like(leaf):
        raise TypeError(f"what {said} returns has a leaf of type {type(leaf).__name__}: expected {expected}")
    if jnp.issubdtype(jnp.result_type(leaf), jax.dtypes.extended):  # a key
        check_dtype(said, leaf)
    if jnp.issubdtype(jnp.result_type(leaf), jnp.complexfloating):
        raise TypeError(f"what {said} returns has a complex leaf: expected {expected}, its real and imaginary parts")
    return leaf


def _checked(given: Any) -> Mapping[str, Summary]:
    if not isinstance(given, Mapping):
        raise TypeError(
            f"summaries is {told(given)}: expected a dict of jax_cubie.Summary, as "
            "{'peak': Summary.max()}"
        )
    for name, summary in given.items():
        if not isinstance(name, str):
            raise TypeError(f"summaries has the name {name!r} of type {type(name).__name__}: expected text")
        if not isinstance(summary, Summary):
            raise TypeError(
                f"summaries[{name!r}] is {told(summary)}: expected a jax_cubie.Summary, as "
                "Summary.max()"
            )
    return given


def _level(level: Any, numbers: _Numbers, said: str) -> Any:
    """A level for each number, or one for all."""
    structure = jax.tree.structure(level)
    if structure != jax.tree.structure(0) and structure != numbers.state.structure:
        raise ValueError(
            f"level of {said} has the structure {structure}, and what crosses it {numbers.state.structure}: expected one "
            "number, or a pytree like that"
        )
    for leaf in jax.tree.leaves(level):
        known = concrete(leaf)
        if known is not None and (known.dtype.kind not in "iuf" or np.isnan(known).any()):
            raise ValueError(f"level of {said} is {level!r:.60}: expected real numbers")
    shapes = {np.shape(leaf) for leaf in jax.tree.leaves(level)}
    if structure == jax.tree.structure(0) and shapes == {()}:
        return as_array(level, numbers.state.dtype)
    for leaf, shape in zip(jax.tree.leaves(level), numbers.state.shapes, strict=True):
        if np.shape(leaf) not in ((), shape):
            raise ValueError(f"level of {said} has a leaf of shape {np.shape(leaf)} where {shape} crosses it")
    return tolerance_array("level", level, numbers.state)


def _identity(value: Any) -> Any:
    """Equal for numbers that are known to be equal."""
    known = None if value is None else concrete(value)
    return id(value) if known is None and value is not None else None if known is None else ("known", known.tolist())


def _same(one: Any, other: Any) -> bool:
    if one is other:
        return True
    known, same = concrete(one), concrete(other)
    return known is not None and same is not None and np.array_equal(known, same)
