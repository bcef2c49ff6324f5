"""Which elements of a linear function's argument the elements of its result depend on, found by walking its jaxpr.

Every array of the jaxpr is either known, element by element, or each of its elements has the set of those of the argument that
it may depend on. Sets are bits in words of 64, [*shape, words], so that a union is an `or`. What has no rule here may depend on
all that goes into it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any

import jax
import jax.core
import jax.extend.core as jex
import numpy as np
from jax import lax
from jax.dtypes import float0

from ..translate.context import equations_of
from ..translate.program import DTYPES, FLOATS, dtype_name
from ..translate.rules import RULES
from ..translate.rules_elementwise import SCALAR

_UNROLLED_EQUATIONS = 5000
"""Equations up to which a loop is walked turn by turn, so that what it counts is known."""
_TURNS = 50
"""Turns of a loop after which what it carries is taken to depend on all that goes into it."""


@dataclass(frozen=True)
class Value:
    """known: the elements, where they are known. sets: [*shape, words]; None where no element depends on anything."""

    shape: tuple[int, ...]
    known: np.ndarray | None = None
    sets: np.ndarray | None = None

    def equals(self, other: Value) -> bool:
        return _same(self.known, other.known) and _same(self.sets, other.sets)


def _same(one: np.ndarray | None, other: np.ndarray | None) -> bool:
    if one is None or other is None:
        return one is other
    return one.dtype == other.dtype and np.array_equal(one, other)


class Walk:
    """The walk over a jaxpr, of `count` elements of the argument.

    carries: whether what something of a dtype, by its name, depends on matters; only floats have derivatives. look: is shown
    each equation with its arguments.
    """

    def __init__(
        self, count: int, carries: Callable[[str], bool] = FLOATS.__contains__, look: Callable[..., None] | None = None
    ) -> None:
        self.count, self.words = count, -(-count // 64)
        self._carries, self._look = carries, look

    def dependence(self, closed: jex.ClosedJaxpr) -> np.ndarray:
        """For each element of the first result, those of the first argument that it may depend on: bool [*shape, count]."""
        first, *others = closed.in_avals
        argument = self.packed(np.eye(self.count, dtype=bool).reshape(*first.shape, self.count))
        values = [Value(first.shape, sets=argument), *(Value(aval.shape) for aval in others)]
        return self.unpacked(self.of(self.call(closed, *values)[0])).astype(bool)

    # -- sets -------------------------------------------------------------------------------------------------

    def packed(self, mask: np.ndarray) -> np.ndarray:
        """Sets from bool [..., count]."""
        padded = np.zeros((*mask.shape[:-1], 64 * self.words), bool)
        padded[..., : self.count] = mask
        return np.packbits(padded, axis=-1, bitorder="little").view(np.uint64)

    def unpacked(self, sets: np.ndarray) -> np.ndarray:
        """0 or 1 of uint8, [..., count], from sets."""
        return np.unpackbits(np.ascontiguousarray(sets).view(np.uint8), axis=-1, count=self.count, bitorder="little")

    def of(self, value: Value) -> np.ndarray:
        """The sets of a value."""
        return np.zeros((*value.shape, self.words), np.uint64) if value.sets is None else value.sets

    def union(self, values: Sequence[Value]) -> np.ndarray | None:
        """What any element of any of the values depends on, [words]."""
        found = [_any(value.sets, tuple(range(len(value.shape)))) for value in values if value.sets is not None]
        return reduce(np.bitwise_or, found) if found else None

    def join(self, one: Value, other: Value) -> Value:
        """What holds for a value that is the one or the other."""
        if one.equals(other):
            return one
        if one.sets is None or other.sets is None:
            return Value(one.shape, sets=one.sets if other.sets is None else other.sets)
        return Value(one.shape, sets=one.sets | other.sets)

    # -- the walk ---------------------------------------------------------------------------------------------

    def call(self, closed: Any, *args: Value) -> list[Value]:
        if isinstance(closed, jex.ClosedJaxpr):
            return self.walk(closed.jaxpr, [_outside(const) for const in closed.consts], args)
        return self.walk(closed, [], args)

    def walk(self, jaxpr: Any, consts: Sequence[Value], args: Sequence[Value]) -> list[Value]:
        env: dict[Any, Value] = dict(zip((*jaxpr.constvars, *jaxpr.invars), (*consts, *args), strict=True))

        def read(atom: Any) -> Value:
            return _outside(atom.val, atom.aval) if isinstance(atom, jex.Literal) else env[atom]

        for eqn in jaxpr.eqns:
            env.update(zip(eqn.outvars, self.equation(eqn, [read(atom) for atom in eqn.invars]), strict=True))
        return [read(atom) for atom in jaxpr.outvars]

    def equation(self, eqn: Any, args: list[Value]) -> list[Value]:
        name = eqn.primitive.name
        if self._look is not None:
            self._look(eqn, args)
        shapes = [tuple(getattr(var.aval, "shape", ())) for var in eqn.outvars]
        if name in _NESTED:
            found = _NESTED[name](self, eqn, *args)
        elif all(value.known is not None for value in args) and _is_computed(eqn, args):
            found = [Value(shape, known=x) for shape, x in zip(shapes, _compute(eqn, args), strict=True)]
        elif all(value.sets is None for value in args):
            found = [Value(shape) for shape in shapes]
        else:
            sets = _RULES.get(name, _everything)(self, eqn, *args)
            sets = [sets] if isinstance(sets, np.ndarray) else sets
            found = [Value(shape, sets=x) for shape, x in zip(shapes, sets, strict=True)]
        return [
            Value(value.shape, value.known) if not self._carries(dtype_name(getattr(var.aval, "dtype", "")))
            or (value.sets is not None and not value.sets.any()) else value
            for value, var in zip(found, eqn.outvars, strict=True)
        ]


def _outside(value: Any, aval: Any = None) -> Value:
    """What the function closes over, or a literal; tracers are not known."""
    aval = jax.typeof(value) if aval is None else aval
    if isinstance(value, jax.core.Tracer) or dtype_name(aval.dtype) not in DTYPES or aval.dtype == float0:
        return Value(tuple(aval.shape))
    return Value(tuple(aval.shape), known=np.asarray(value, aval.dtype))


def _any(sets: np.ndarray, axes: tuple[int, ...], keepdims: bool = False) -> np.ndarray:
    return np.bitwise_or.reduce(sets, axis=axes, keepdims=keepdims) if axes else sets


# -- known values -------------------------------------------------------------------------------------------------

_NUMPY: dict[str, Callable[..., np.ndarray]] = {
    "add": np.add, "sub": np.subtract, "mul": np.multiply, "neg": np.negative, "max": np.maximum, "min": np.minimum,
    "eq": np.equal, "ne": np.not_equal, "lt": np.less, "le": np.less_equal, "gt": np.greater, "ge": np.greater_equal,
    "and": np.bitwise_and, "or": np.bitwise_or, "not": np.invert,
    "select_n": lambda which, *cases: np.choose(which.astype(np.int64), cases),
}  # fmt: skip
"""Elementwise operations that need not be compiled by XLA to be computed."""


_SAME_ORDER = ("reshape", "squeeze", "expand_dims")


def _is_computed(eqn: Any, args: Sequence[Value]) -> bool:
    if eqn.primitive.name == "scatter":  # which of several updates of one element stays is anyone's guess
        target = _targets(eqn, np.asarray(args[1].known))
        if np.unique(target[target >= 0]).size < (target >= 0).sum():
            return False
    return eqn.primitive.name in RULES and all(dtype_name(var.aval.dtype) in DTYPES for var in eqn.outvars)


def _compute(eqn: Any, args: Sequence[Value]) -> list[np.ndarray]:
    """The results of an equation of known values."""
    name, arrays = eqn.primitive.name, [value.known for value in args if value.known is not None]
    aval = eqn.outvars[0].aval
    if name in _STRUCTURAL:
        found = _STRUCTURAL[name](eqn.params, *arrays)
    elif name in _NUMPY:
        with np.errstate(all="ignore"):
            found = np.broadcast_to(_NUMPY[name](*arrays), aval.shape)
    elif name in _SAME_ORDER:
        found = arrays[0].reshape(aval.shape)
    elif name == "iota":
        found = np.indices(aval.shape)[eqn.params["dimension"]]
    elif name == "convert_element_type" and not (arrays[0].dtype.kind == "f" and aval.dtype.kind != "f"):
        found = arrays[0]
    else:
        found = _bind(eqn.primitive, *arrays, **eqn.params)
    several = found if isinstance(found, list | tuple) else [found]
    return [np.asarray(x, var.aval.dtype) for x, var in zip(several, eqn.outvars, strict=True)]


def _bind(primitive: Any, *arrays: Any, **params: Any) -> Any:
    """A primitive of arrays, computed now, whatever is being traced."""
    with jax.ensure_compile_time_eval():
        return jax.tree.map(np.asarray, primitive.bind(*map(jax.numpy.asarray, arrays), **params))


# -- elements that move about -----------------------------------------------------------------------------------------


def _slice(params: Any, x: np.ndarray) -> np.ndarray:
    steps = params["strides"] or (1,) * len(params["start_indices"])
    return x[tuple(slice(*each) for each in zip(params["start_indices"], params["limit_indices"], steps, strict=True))]


def _broadcast_in_dim(params: Any, x: np.ndarray) -> np.ndarray:
    shape, places = params["shape"], params["broadcast_dimensions"]
    rest = x.shape[len(places) :]
    spread = [1] * len(shape)
    for axis, place in enumerate(places):
        spread[place] = x.shape[axis]
    return np.broadcast_to(x.reshape(*spread, *rest), (*shape, *rest))


def _transpose(params: Any, x: np.ndarray) -> np.ndarray:
    order = params["permutation"]
    return x.transpose(*order, *range(len(order), x.ndim))


def _pad(params: Any, x: np.ndarray, filler: np.ndarray) -> np.ndarray:
    for axis, (low, high, between) in enumerate(params["padding_config"]):
        count = x.shape[axis]
        size = low + count + max(0, count - 1) * between + high
        place = low + np.arange(count) * (between + 1)
        inside = (place >= 0) & (place < size)
        padded = np.empty((*x.shape[:axis], size, *x.shape[axis + 1 :]), x.dtype)
        padded[...] = filler
        np.moveaxis(padded, axis, 0)[place[inside]] = np.moveaxis(x, axis, 0)[inside]
        x = padded
    return x


def _tile(params: Any, x: np.ndarray) -> np.ndarray:
    reps = params["reps"]
    return np.tile(x, (*reps, *[1] * (x.ndim - len(reps))))


def _split(params: Any, x: np.ndarray) -> list[np.ndarray]:
    return np.split(x, np.cumsum(params["sizes"])[:-1], params["axis"])


_STRUCTURAL: dict[str, Callable[..., Any]] = {
    "slice": _slice,
    "broadcast_in_dim": _broadcast_in_dim,
    "transpose": _transpose,
    "rev": lambda params, x: np.flip(x, params["dimensions"]),
    "concatenate": lambda params, *parts: np.concatenate(parts, params["dimension"]),
    "pad": _pad,
    "tile": _tile,
    "split": _split,
    "stack": lambda params, *parts: np.stack(parts, params["axis"]),
    "unstack": lambda params, x: [np.take(x, k, params["axis"]) for k in range(x.shape[params["axis"]])],
}
"""(params, *arrays) -> array; the arrays may have an axis more, behind all others."""


def _structural(walk: Walk, eqn: Any, *args: Value) -> Any:
    return _STRUCTURAL[eqn.primitive.name](eqn.params, *map(walk.of, args))


def _reshape(walk: Walk, eqn: Any, x: Value, *_: Value) -> np.ndarray:
    return walk.of(x).reshape(*eqn.outvars[0].aval.shape, walk.words)


# -- elements that are computed -----------------------------------------------------------------------------------------


def _everything(walk: Walk, eqn: Any, *args: Value) -> list[np.ndarray]:
    """Each element of each result depends on all that goes in."""
    union = walk.union(args)
    assert union is not None
    return [np.broadcast_to(union, (*getattr(var.aval, "shape", ()), walk.words)) for var in eqn.outvars]


def _elementwise(walk: Walk, eqn: Any, *args: Value) -> np.ndarray:
    found = np.zeros((*eqn.outvars[0].aval.shape, walk.words), np.uint64)
    for value in args:
        if value.sets is not None:
            found |= value.sets
    return found


def _mul(walk: Walk, eqn: Any, *factors: Value) -> np.ndarray:
    found = _elementwise(walk, eqn, *factors)
    for factor in factors:
        if factor.known is not None:
            found[np.broadcast_to(factor.known == 0, found.shape[:-1])] = 0
    return found


def _select_n(walk: Walk, eqn: Any, which: Value, *cases: Value) -> np.ndarray:
    if which.known is None:
        return _elementwise(walk, eqn, *cases)
    which_known = np.broadcast_to(which.known, cases[0].shape)
    found = np.zeros((*cases[0].shape, walk.words), np.uint64)
    for number, case in enumerate(cases):
        if case.sets is not None:
            found[which_known == number] = case.sets[which_known == number]
    return found


def _reduce(walk: Walk, eqn: Any, x: Value) -> np.ndarray:
    return _any(walk.of(x), tuple(eqn.params["axes"]))


def _cumulative(walk: Walk, eqn: Any, x: Value) -> np.ndarray:
    axis, sets = eqn.params["axis"], walk.of(x)
    if eqn.params["reverse"]:
        return np.flip(np.bitwise_or.accumulate(np.flip(sets, axis), axis), axis)
    return np.bitwise_or.accumulate(sets, axis)


def _along_one_axis(walk: Walk, eqn: Any, *args: Value) -> list[np.ndarray]:
    """Sorting: each element depends on all along the axis, of every operand."""
    axis = eqn.params["dimension"]
    found = np.zeros((*args[0].shape, walk.words), np.uint64)
    for value in args:
        if value.sets is not None:
            found |= _any(value.sets, (axis,), keepdims=True)
    return [found] * len(eqn.outvars)


def _dot_general(walk: Walk, eqn: Any, x: Value, y: Value) -> np.ndarray:
    (contract_x, contract_y), (batch_x, batch_y) = eqn.params["dimension_numbers"]
    letters = iter("abcdefghijklmnopqrstuvwxy")
    of_x = [next(letters) for _ in x.shape]
    of_y = [""] * len(y.shape)
    for one, other in zip((*batch_x, *contract_x), (*batch_y, *contract_y), strict=True):
        of_y[other] = of_x[one]
    of_y = [letter or next(letters) for letter in of_y]
    batch = [of_x[axis] for axis in batch_x]
    free_x = [letter for axis, letter in enumerate(of_x) if axis not in (*batch_x, *contract_x)]
    free_y = [letter for axis, letter in enumerate(of_y) if axis not in (*batch_y, *contract_y)]
    out = "".join((*batch, *free_x, *free_y))
    found = np.zeros((*eqn.outvars[0].aval.shape, walk.words), np.uint64)
    for value, its, contracted, other, others in ((x, of_x, contract_x, y, of_y), (y, of_y, contract_y, x, of_x)):
        if value.sets is None:
            continue
        if other.known is None:  # any of the terms may be there
            union = _any(value.sets, tuple(contracted))
            kept = [letter for axis, letter in enumerate(its) if axis not in contracted]
            order = [kept.index(letter) for letter in out if letter in kept]
            spread = [size if letter in kept else 1 for letter, size in zip(out, found.shape[:-1], strict=True)]
            found |= union.transpose(*order, len(kept)).reshape(*spread, walk.words)
        else:
            there = (other.known != 0).astype(np.float32)
            bits = walk.unpacked(value.sets).astype(np.float32)
            counts = np.einsum(f"{''.join(its)}z,{''.join(others)}->{out}z", bits, there, optimize=True)
            found |= walk.packed(counts > 0)
    return found


def _window(walk: Walk, eqn: Any, *args: Value) -> np.ndarray:
    """Convolutions and sums over windows: computed of what is there, each number 0 or 1, for one element of the argument after
    the other."""
    found = np.zeros((*eqn.outvars[0].aval.shape, walk.count), bool)
    there = [
        np.ones(value.shape, var.aval.dtype) if value.known is None else (value.known != 0).astype(var.aval.dtype)
        for value, var in zip(args, eqn.invars, strict=True)
    ]
    for place, value in enumerate(args):
        if value.sets is not None:
            bits = np.moveaxis(walk.unpacked(value.sets), -1, 0).astype(there[place].dtype)
            with jax.ensure_compile_time_eval():
                one = lambda x, place=place: eqn.primitive.bind(*there[:place], x, *there[place + 1 :], **eqn.params)  # noqa: E731
                found |= np.moveaxis(np.asarray(jax.vmap(one)(bits)) > 0.5, 0, -1)
    return walk.packed(found)


# -- indexing -----------------------------------------------------------------------------------------------------------


def _numbers(shape: Sequence[int]) -> np.ndarray:
    return np.arange(math.prod(shape), dtype=np.int32).reshape(shape)


def _gather(walk: Walk, eqn: Any, x: Value, indices: Value) -> np.ndarray:
    sets, known = walk.of(x), indices.known
    if known is None:  # all places along the axes that are indexed are alike, so that any index will do
        axes = eqn.params["dimension_numbers"].start_index_map
        sets = np.broadcast_to(_any(sets, tuple(axes), keepdims=True), sets.shape)
        known = np.zeros(indices.shape, np.int32)
    params = {**eqn.params, "fill_value": -1}
    source = _bind(eqn.primitive, _numbers(x.shape), known, **params)
    found = sets.reshape(-1, walk.words)[source]
    found[source < 0] = 0
    return found


def _targets(eqn: Any, indices: np.ndarray) -> np.ndarray:
    """The number of the element that each element of a scatter's updates goes to; -1 where it goes nowhere."""
    numbers = eqn.params["dimension_numbers"]
    shape, updates = eqn.invars[0].aval.shape, eqn.invars[2].aval.shape
    # The places that updates go to are those that their cotangents are gathered from.
    dropped = (*numbers.inserted_window_dims, *numbers.operand_batching_dims)
    windows = iter(updates[axis] for axis in numbers.update_window_dims)
    sizes = tuple(1 if axis in dropped else next(windows) for axis in range(len(shape)))
    taken = lax.GatherDimensionNumbers(
        offset_dims=numbers.update_window_dims,
        collapsed_slice_dims=numbers.inserted_window_dims,
        start_index_map=numbers.scatter_dims_to_operand_dims,
        operand_batching_dims=numbers.operand_batching_dims,
        start_indices_batching_dims=numbers.scatter_indices_batching_dims,
    )
    with jax.ensure_compile_time_eval():
        found = lax.gather(_numbers(shape), jax.numpy.asarray(indices), taken, sizes, mode=eqn.params["mode"], fill_value=-1)
        return np.asarray(found)


def _scatter(walk: Walk, eqn: Any, x: Value, indices: Value, updates: Value) -> np.ndarray:
    target = _targets(eqn, np.zeros(indices.shape, np.int32) if indices.known is None else indices.known)
    old = walk.of(x).reshape(-1, walk.words).copy()
    placed = np.zeros_like(old)
    inside = target >= 0
    np.bitwise_or.at(placed, target[inside], walk.of(updates)[inside])
    if indices.known is None:
        whole = placed.reshape(*x.shape, walk.words)
        axes = tuple(eqn.params["dimension_numbers"].scatter_dims_to_operand_dims)
        placed = np.broadcast_to(_any(whole, axes, keepdims=True), whole.shape).reshape(-1, walk.words)
    elif eqn.primitive.name == "scatter":
        old[target[inside]] = 0
    return (old | placed).reshape(*x.shape, walk.words)


def _starts(starts: Sequence[Value], shape: Sequence[int], sizes: Sequence[int]) -> tuple[tuple[slice, ...], tuple[int, ...]]:
    """Where a slice of those sizes lies, and the axes along which that is not known."""
    unknown = tuple(axis for axis, start in enumerate(starts) if start.known is None and sizes[axis] < shape[axis])
    first = [
        0 if start.known is None else min(max(int(start.known), 0), whole - size)
        for start, whole, size in zip(starts, shape, sizes, strict=True)
    ]
    return tuple(slice(begin, begin + size) for begin, size in zip(first, sizes, strict=True)), unknown


def _dynamic_slice(walk: Walk, eqn: Any, x: Value, *starts: Value) -> np.ndarray:
    sets = walk.of(x)
    place, unknown = _starts(starts, x.shape, eqn.params["slice_sizes"])
    return np.broadcast_to(_any(sets, unknown, keepdims=True), sets.shape)[place]


def _dynamic_update_slice(walk: Walk, eqn: Any, x: Value, update: Value, *starts: Value) -> np.ndarray:
    found = walk.of(x).copy()
    place, unknown = _starts(starts, x.shape, update.shape)
    if unknown:
        place = tuple(slice(None) if axis in unknown else one for axis, one in enumerate(place))
        found[place] |= _any(walk.of(update), unknown, keepdims=True)
    else:
        found[place] = walk.of(update)
    return found


_RULES: dict[str, Callable[..., Any]] = {
    **dict.fromkeys(_STRUCTURAL, _structural),
    **dict.fromkeys(_SAME_ORDER, _reshape),
    **dict.fromkeys((*SCALAR, "convert_element_type", "add_any", "reduce_precision"), _elementwise),
    "mul": _mul,
    "select_n": _select_n,
    **dict.fromkeys(("reduce_sum", "reduce_max", "reduce_min", "reduce_prod"), _reduce),
    **dict.fromkeys(("cumsum", "cumprod", "cummax", "cummin", "cumlogsumexp"), _cumulative),
    **dict.fromkeys(("conv_general_dilated", "reduce_window_sum"), _window),
    **dict.fromkeys(("scatter", "scatter-add", "scatter-sub", "scatter-mul"), _scatter),
    "sort": _along_one_axis,
    "dot_general": _dot_general,
    "gather": _gather,
    "dynamic_slice": _dynamic_slice,
    "dynamic_update_slice": _dynamic_update_slice,
}
"""(walk, eqn, *values) -> the sets of the result, or of each result."""


# -- calls, branches and loops ------------------------------------------------------------------------------------------


def _call(walk: Walk, eqn: Any, *args: Value) -> list[Value]:
    inner = next(eqn.params[name] for name in ("jaxpr", "call_jaxpr", "call", "callee") if name in eqn.params)
    return walk.call(inner, *args)


def _unchanged(walk: Walk, eqn: Any, *args: Value) -> list[Value]:
    return list(args)


def _high_level(walk: Walk, eqn: Any, *args: Value) -> list[Value]:
    """An operation that JAX, from 0.12 on, expands when it lowers."""
    operation = eqn.params["_prim"]
    avals = [jax.ShapeDtypeStruct(x.aval.shape, x.aval.dtype, weak_type=x.aval.weak_type) for x in eqn.invars]
    expanded = lambda *flat: jax.tree.leaves(operation.expand(*jax.tree.unflatten(operation.in_tree, flat)))  # noqa: E731
    return walk.call(jax.make_jaxpr(expanded)(*avals), *args)


def _cond(walk: Walk, eqn: Any, which: Value, *args: Value) -> list[Value]:
    branches = eqn.params["branches"]
    if which.known is not None:
        branches = [branches[min(max(int(which.known), 0), len(branches) - 1)]]
    results = [walk.call(branch, *args) for branch in branches]
    return [reduce(walk.join, cases) for cases in zip(*results, strict=True)]


def _settled(walk: Walk, turn: Callable[[list[Value]], list[Value]], state: list[Value], given: Sequence[Value]) -> list[Value]:
    """What holds for what a loop carries before and after any of its turns."""
    for count in range(2 * _TURNS):
        new = [walk.join(old, value) for old, value in zip(state, turn(state), strict=True)]
        if all(one.equals(other) for one, other in zip(state, new, strict=True)):
            return state
        state = new
        if count == _TURNS:
            break
    union = walk.union([*state, *given])
    return [Value(value.shape, sets=None if union is None else np.broadcast_to(union, (*value.shape, walk.words)))
            for value in state]


def _while(walk: Walk, eqn: Any, *args: Value) -> list[Value]:
    params = eqn.params
    n, m = params["cond_nconsts"], params["body_nconsts"]
    consts, body_consts, state = args[:n], args[n : n + m], list(args[n + m :])
    equations = equations_of(params["body_jaxpr"].jaxpr)[0] + equations_of(params["cond_jaxpr"].jaxpr)[0]

    def turn(state: list[Value]) -> list[Value]:
        return walk.call(params["body_jaxpr"], *body_consts, *state)

    for _ in range(_UNROLLED_EQUATIONS // max(1, equations)):
        (goes_on,) = walk.call(params["cond_jaxpr"], *consts, *state)
        if goes_on.known is None:
            break
        if not goes_on.known.any():
            return state
        if not goes_on.known.all():
            break
        state = turn(state)
    return _settled(walk, turn, state, body_consts)


def _scan(walk: Walk, eqn: Any, *args: Value) -> list[Value]:
    params = eqn.params
    if "num_consts" in params:
        n, m = params["num_consts"], params["num_carry"]
    else:  # from JAX 0.11 on
        n, m = map(len, params["ft_in"].unpack()[:2])
    length, body = params["length"], params["jaxpr"]
    consts, state, sequences = args[:n], list(args[n : n + m]), args[n + m :]
    avals = [var.aval for var in eqn.outvars[m:]]

    def row(value: Value, k: int) -> Value:
        known, sets = (None if x is None else x[k] for x in (value.known, value.sets))
        return Value(value.shape[1:], None if known is None else np.asarray(known), sets)

    if length * equations_of(body.jaxpr)[0] <= _UNROLLED_EQUATIONS:
        rows: list[list[Value]] = [[] for _ in avals]
        for k in range(length)[:: -1 if params["reverse"] else 1]:
            results = walk.call(body, *consts, *state, *(row(value, k) for value in sequences))
            state = results[:m]
            for column, value in zip(rows, results[m:], strict=True):
                column.append(value)
        return [*state, *(_stacked(walk, aval, column[:: -1 if params["reverse"] else 1])
                          for aval, column in zip(avals, rows, strict=True))]
    any_row = [Value(value.shape[1:], sets=None if value.sets is None else _any(value.sets, (0,))) for value in sequences]
    inside = (*consts, *any_row)

    def turn(state: list[Value]) -> list[Value]:
        return walk.call(body, *consts, *state, *any_row)[:m]

    state = _settled(walk, turn, state, inside)
    results = walk.call(body, *consts, *state, *any_row)[m:]
    spread = [None if one.sets is None else np.broadcast_to(one.sets, (length, *one.sets.shape)) for one in results]
    return [*state, *(Value(tuple(aval.shape), sets=sets) for aval, sets in zip(avals, spread, strict=True))]


def _stacked(walk: Walk, aval: Any, rows: Sequence[Value]) -> Value:
    shape = tuple(aval.shape)
    if rows and all(value.known is not None for value in rows):
        return Value(shape, known=np.stack([value.known for value in rows if value.known is not None]))
    if all(value.sets is None for value in rows):
        return Value(shape)
    return Value(shape, sets=np.stack([walk.of(value) for value in rows]))


_NESTED: dict[str, Callable[..., list[Value]]] = {
    **dict.fromkeys(
        ("jit", "remat2", "composite", "closed_call", "eval_jaxpr", "custom_jvp_call", "custom_vjp_call", "custom_vmap_call",
         "linear_call"), _call),
    **dict.fromkeys(
        ("copy", "optimization_barrier", "pvary", "pbroadcast", "device_put", "sharding_constraint", "layout_constraint",
         "reshard", "name"), _unchanged),
    "call_hi_primitive": _high_level,
    "cond": _cond,
    "while": _while,
    "scan": _scan,
}  # fmt: skip
