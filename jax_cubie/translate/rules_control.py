"""Calls, branches and loops.

Branches without loops or large arrays are both computed and one is selected; the others, which may be long or may
not end, become real branches. Short loops of known length are unrolled, so that their counters fold away; what a
real loop or branch carries lives in local memory, which the compilers keep in registers where it is small.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import jax
import jax.extend.core as jex
import numpy as np

from .arrays import Array, Memory, Registers, allocate, cheap, flat_index, in_memory, indexable, readable, storer
from .builder import Builder, Scalar
from .context import equations_of
from .errors import Refusal
from .program import dtype_name
from .rules_elementwise import apply_elementwise
from .rules_reduction import fold
from .rules_structural import concatenate, reshape, take_slice

if TYPE_CHECKING:
    from .context import Context

_UNROLLED_EQUATIONS = 2000
_SELECTED_EQUATIONS = 200


def _call(*parameters: str) -> Callable[..., list[Array]]:
    """A call of the jaxpr that stands under the first of `parameters` that there is; versions of JAX differ."""

    def rule(context: Context, eqn: Any, *args: Array) -> list[Array]:
        inner = next(eqn.params[parameter] for parameter in parameters if parameter in eqn.params)
        return context.call(inner, *args) if isinstance(inner, jex.ClosedJaxpr) else context.walk(inner, [], args)

    return rule


def _high_level(context: Context, eqn: Any, *args: Array) -> list[Array]:
    """An operation that JAX, from 0.12 on, expands when it lowers: custom derivatives, roots, ..."""
    operation = eqn.params["_prim"]
    closed = jax.make_jaxpr(lambda *flat: jax.tree.leaves(operation.expand(*jax.tree.unflatten(operation.in_tree, flat))))(
        *[jax.ShapeDtypeStruct(x.aval.shape, x.aval.dtype, weak_type=x.aval.weak_type) for x in eqn.invars])
    return context.call(closed, *args)


# -- branches -------------------------------------------------------------------------------------------------

def _cond(context: Context, eqn: Any, which: Array, *operands: Array) -> list[Array]:
    b, branches = context.b, eqn.params["branches"]
    index = context.in_registers(which).at(b, ())
    last = len(branches) - 1
    if b.known(index):
        return context.call(branches[min(max(int(b.constants[index]), 0), last)], *operands)
    operands = tuple(cheap(b, x) for x in operands)
    avals = [var.aval for var in eqn.outvars]
    sizes = [equations_of(branch.jaxpr) for branch in branches]
    small = all(context.unrolls(a.size) for a in avals)
    if small and not any(loops for _, loops in sizes) and sum(n for n, _ in sizes) <= _SELECTED_EQUATIONS:
        results = [context.call(branch, *operands) for branch in branches]
        out = []
        for k, aval in enumerate(avals):
            def pick(*cases: Scalar) -> Scalar:
                value = cases[-1]
                for i in range(last - 1, -1, -1):
                    value = b.select(_is_branch(b, index, i), cases[i], value)
                return value

            out.append(apply_elementwise(context, pick, dtype_name(aval.dtype), *[r[k] for r in results]))
        return out

    places = [allocate(b, tuple(a.shape), dtype_name(a.dtype)) for a in avals]

    def go(i: int) -> None:
        if i == last:
            _store_all(b, context.call(branches[i], *operands), places)
            return
        condition = _is_branch(b, index, i)
        with b.region() as then:
            _store_all(b, context.call(branches[i], *operands), places)
        with b.region() as otherwise:
            go(i + 1)
        b.append((-1, "if", "bool", (condition,), (tuple(then), tuple(otherwise))))

    go(0)
    return [_reread(context, p) for p in places]


def _is_branch(b: Builder, index: Scalar, k: int) -> Scalar:
    """Whether branch ``k`` is taken, once those before it are not; an index below 0 takes the first."""
    if b.types[index] == "bool":
        return b.logical_not(index)
    return b.compare("le", index, b.const(b.types[index], k))


def _platform_index(context: Context, eqn: Any) -> Array:
    """One program serves every platform, so it takes the branch that does."""
    platforms = eqn.params["platforms"]
    if None not in platforms:
        raise Refusal("with no default branch", "give lax.platform_dependent a default")
    return context.bake(platforms.index(None), dtype_name(eqn.outvars[0].aval.dtype))


def _store_all(b: Builder, values: Sequence[Array], places: Sequence[Memory]) -> None:
    for x, place in zip(values, places, strict=True):
        x.write(b, storer(b, place))


def _reread(context: Context, place: Memory) -> Array:
    """What a loop or a branch has left behind; small arrays go into registers."""
    b = context.b
    if not context.unrolls(place.size):
        return place
    ids = np.empty(place.shape, dtype=np.int64)
    for position in np.ndindex(*place.shape):
        flat = b.add(place.offset, flat_index(b, tuple(b.index(p) for p in position), place.strides))
        ids[position] = b.load(place.place, place.dtype, flat, fresh=True)
    return Registers(place.shape, place.dtype, ids)


# -- loops ----------------------------------------------------------------------------------------------------

class Carry:
    """What a loop carries, in local memory; the new values are complete before an old one is overwritten."""

    def __init__(self, context: Context, initial: Sequence[Array]) -> None:
        self.context = context
        self.places = [allocate(context.b, x.shape, x.dtype) for x in initial]
        _store_all(context.b, initial, self.places)

    def read(self) -> list[Array]:
        return [_reread(self.context, p) for p in self.places]

    def replace(self, values: Sequence[Array]) -> None:
        b = self.context.b
        # A large value that is not computed yet may read any place; a view may be another place's.
        ready = [x if isinstance(x, Registers) or (isinstance(x, Memory) and x.place == p.place and x == p)
                 else _copied(b, x) for x, p in zip(values, self.places, strict=True)]
        for x, p in zip(ready, self.places, strict=True):
            if x is not p and x != p:
                x.write(b, storer(b, p))


def _copied(b: Builder, x: Array) -> Memory:
    copy = allocate(b, x.shape, x.dtype)
    x.write(b, storer(b, copy))
    return copy


def _while(context: Context, eqn: Any, *args: Array) -> list[Array]:
    b, p = context.b, eqn.params
    n, m = p["cond_nconsts"], p["body_nconsts"]
    args = tuple(cheap(b, x) for x in args)
    cond_consts, body_consts = args[:n], args[n:n + m]
    carry = Carry(context, args[n + m:])

    def condition() -> Array:
        return context.call(p["cond_jaxpr"], *cond_consts, *carry.read())[0]

    with b.region() as test:
        go_on = _any(context, condition())
    with b.region() as body:
        state = carry.read()
        new = context.call(p["body_jaxpr"], *body_consts, *state)
        if p["cond_jaxpr"].out_avals[0].shape:
            # Under vmap each element has a condition of its own, and stays as it is once that is false.
            active = cheap(b, condition())
            new = [_where(context, active, x, old) for x, old in zip(new, state, strict=True)]
        carry.replace(new)
    b.append((-1, "while", "bool", (go_on,), (tuple(test), tuple(body))))
    return carry.read()


def _any(context: Context, x: Array) -> Scalar:
    b = context.b
    x = readable(b, x)
    return fold(context, x.shape, ["bool"], [b.const("bool", False)],
                lambda index, state: [b.logical_or(state[0], x.at(b, index))])[0]


def _where(context: Context, condition: Array, x: Array, y: Array) -> Array:
    """``x`` where the condition holds, which has the leading axes only."""
    condition = reshape(context, condition, (*condition.shape, *[1] * (len(x.shape) - len(condition.shape))))
    return apply_elementwise(context, context.b.select, x.dtype, condition, x, y)


def _constants_and_carry(params: Any) -> tuple[int, int]:
    """How many of a scan's operands are constants, and how many are carried."""
    if "num_consts" in params:
        return params["num_consts"], params["num_carry"]
    constants, carry, _ = params["ft_in"].unpack()  # from JAX 0.11 on
    return len(constants), len(carry)


def _scan(context: Context, eqn: Any, *args: Array) -> list[Array]:
    b, p = context.b, eqn.params
    n, m = _constants_and_carry(p)
    length, body = p["length"], p["jaxpr"]
    consts = [cheap(b, x) for x in args[:n]]
    sequences = [cheap(b, x) for x in args[n + m:]]
    order = list(range(length))[::-1] if p["reverse"] else list(range(length))
    equations, _ = equations_of(body.jaxpr)
    large = any(not context.unrolls(var.aval.size) for var in body.jaxpr.outvars)
    if length == 0 or (context.unrolls(length) and not large and length * equations <= _UNROLLED_EQUATIONS):
        state = list(args[n:n + m])
        rows: list[list[Array]] = [[] for _ in eqn.outvars[m:]]
        for k in order:
            parts = [_row(context, x, k) for x in sequences]
            results = context.call(body, *consts, *[cheap(b, x) for x in state], *parts)
            state = results[:m]
            for row, x in zip(rows, results[m:], strict=True):
                row.append(cheap(b, x))
        stacked = []
        for row, var in zip(rows, eqn.outvars[m:], strict=True):
            if p["reverse"]:
                row = row[::-1]
            if row:
                stacked.append(concatenate(context, [reshape(context, x, (1, *x.shape)) for x in row], 0))
            else:
                stacked.append(context.make(tuple(var.aval.shape), dtype_name(var.aval.dtype), lambda i: 0))
        return [*state, *stacked]

    consts = [x if context.unrolls(x.size) else indexable(b, x) for x in consts]
    sequences = [indexable(b, x) for x in sequences]
    carry = Carry(context, args[n:n + m])
    collected = [allocate(b, tuple(v.aval.shape), dtype_name(v.aval.dtype)) for v in eqn.outvars[m:]]
    with b.loop(length) as turn:
        k = b.sub(b.index(length - 1), turn) if p["reverse"] else turn
        results = context.call(body, *consts, *carry.read(), *[_row_at(context, x, k) for x in sequences])
        for x, memory in zip(results[m:], collected, strict=True):
            row = _view_at(b, memory, k)
            readable(b, x).write(b, storer(b, row))
        carry.replace(results[:m])
    return [*carry.read(), *[context.settle(c) for c in collected]]


def _row(context: Context, x: Array, k: int) -> Array:
    rest = x.shape[1:]
    part = take_slice(context, x, [k] + [0] * len(rest), [k + 1, *rest])
    return context.settle(reshape(context, part, rest))


def _view_at(b: Builder, x: Memory, k: Scalar) -> Memory:
    return Memory(x.shape[1:], x.dtype, x.place, b.add(x.offset, b.mul(k, b.index(x.strides[0]))), x.strides[1:])


def _row_at(context: Context, x: Array, k: Scalar) -> Array:
    return context.settle(_view_at(context.b, in_memory(context.b, x), k))


CALLS: dict[str, Callable[..., Any]] = {
    **dict.fromkeys(("jit", "remat2", "composite"), _call("jaxpr", "call_jaxpr")),
    **dict.fromkeys(("closed_call", "eval_jaxpr", "custom_jvp_call", "custom_vjp_call"), _call("call_jaxpr")),
    "custom_vmap_call": _call("call"),
    "linear_call": _call("callee"),
    "call_hi_primitive": _high_level,
}
CONTROL: dict[str, Callable[..., Any]] = {
    **CALLS,
    "cond": _cond,
    "platform_index": _platform_index,
    "while": _while,
    "scan": _scan,
}
"""Primitive name -> rule."""
