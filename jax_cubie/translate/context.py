"""The walk over a jaxpr with a table of rules: what the rules work with."""

from __future__ import annotations

import math
from collections.abc import Callable, Container, Mapping, Sequence
from typing import Any

import jax
import jax.core
import jax.extend.core as jex
import numpy as np
from jax.dtypes import float0

from .arrays import (
    Array,
    Index,
    Lazy,
    Memory,
    Pieces,
    Registers,
    allocate,
    cheap,
    for_each,
    in_memory,
    indexable,
    registers,
    storer,
    strides_of,
)
from .builder import Builder, Scalar
from .errors import Refusal, unsupported
from .products import Grouped
from .program import DTYPES, FLOATS, dtype_name

_LOOPS = frozenset({"while", "scan"})
Conversions = dict[tuple[int, str], tuple[Any, Any]]
_BAKED = 32
"""Elements up to which integers that a function closes over are part of its code."""


def check_dtype(name: str, aval: Any, lines: Sequence[Any] = ()) -> None:
    dtype = dtype_name(getattr(aval, "dtype", "a token"))
    if dtype in DTYPES:
        return
    if dtype.startswith("complex"):
        hint = "keep the real and the imaginary part as two real arrays"
    elif dtype.startswith("key"):
        hint = "draw the random numbers outside the solve and pass them in through args"
    else:
        hint = "use float32 or float64"
    raise unsupported(name, lines, detail=f"{dtype} has no place in a kernel", hint=hint)


class Context:
    """What the rules work with: the builder, the limit of unrolling, and the way into nested jaxprs."""

    def __init__(self, unroll: int, platform: str, rules: Mapping[str, Callable[..., Any]], transparent: Container[str],
                 elementwise: Container[str], conversions: Conversions, known: Container[int] | None = None,
                 structural_zeros: bool = False) -> None:
        """`rules` by primitive; a refusal inside one of `transparent` names the equation inside. `elementwise`: those that
        take an array that is computed some elements at once as it is.

        conversions: by id and dtype, what a function closes over, and the same in that dtype; translations of one jaxpr
        share it. known: the ids of those arrays that there are operands for, which any may become if not said; others are
        baked in where they are small. structural_zeros: as the builder takes it; integers that are unrolled are part of the
        code then.
        """
        self.rules, self.transparent, self.elementwise = rules, transparent, elementwise
        self.b = Builder(structural_zeros)
        self._unroll, self._platform = max(1, unroll), platform
        self.same_for = range(1, 1 << 62)
        """The limits of unrolling that give the same program."""
        self.same_everywhere = True
        """Whether the platform has made no difference."""
        self.inputs: list[tuple[tuple[int, ...], str]] = []
        self.input_memories: dict[int, tuple[Array, Memory]] = {}
        self.operands: dict[int, tuple[Any, Array]] = {}
        self.arguments = 0
        """How many inputs are the function's arguments; the others are what it closes over."""
        self.constants: list[Any] = []
        self.closed_over: dict[int, tuple[Any, Array]] = {}  # id of an operand constant's array -> the constant
        self.lines: list[Any] = []  # the source of the equations around the one at hand, and its own
        self.conversions, self.known = conversions, known

    # -- what is decided --------------------------------------------------------------------------------------

    def unrolls(self, count: int, share: int = 1) -> bool:
        """Whether ``count`` things, of ``share`` times as many as arrays have elements, stand in the code one by one."""
        least, same = -(-count // share), self.same_for
        if least <= self._unroll:
            self.same_for = range(max(same.start, least), same.stop)
            return True
        self.same_for = range(same.start, min(same.stop, least))
        return False

    def unrolls_work(self, size: int, work: int) -> bool:
        """Whether an array's elements, each of ``work`` statements, stand in the code one by one."""
        return self.unrolls(size) and self.unrolls(size * work, 16)

    @property
    def platform(self) -> str:
        """Asked for by rules whose instructions depend on it."""
        self.same_everywhere = False
        return self._platform

    # -- where values come from -------------------------------------------------------------------------------

    def new_input(self, shape: tuple[int, ...], dtype: str) -> Array:
        """The next input, in registers where it is small."""
        place = ("input", len(self.inputs))
        self.inputs.append((tuple(shape), dtype))
        memory = Memory(tuple(shape), dtype, place, self.b.index(0), strides_of(tuple(shape)))
        settled = self.settle(memory)
        self.input_memories[id(settled)] = settled, memory
        return settled

    def named(self, number: int) -> tuple[str, int]:
        """An input as other contexts of the session would name it: by its place, or by the object."""
        if number < self.arguments:
            return "argument", number
        return "constant", id(self.constants[number - self.arguments])

    def in_registers(self, x: Array) -> Registers:
        """``x`` in registers, each element computed in line."""
        return registers(self.b, x)

    def addressable(self, x: Array) -> Array:
        """``x`` so that its elements can be read often and by an index of run time; an input is, where it lies."""
        found = self.input_memories.get(id(x))
        return indexable(self.b, x) if found is None else found[1]

    def settle(self, x: Array) -> Array:
        """Small arrays go into registers, large ones stay as they are."""
        return registers(self.b, x) if self.unrolls(x.size) else x

    def bake(self, value: Any, dtype: str) -> Registers:
        """A concrete small array as constants."""
        array = np.asarray(value)
        ids = np.empty(array.shape, dtype=np.int64)
        for position, element in np.ndenumerate(array):
            ids[position] = self.b.const(dtype, element)
        return Registers(array.shape, dtype, ids)

    def _bakes(self, size: int) -> bool:
        return size <= _BAKED or (self.b.structural_zeros and self.unrolls(size))

    def outside(self, value: Any) -> Array:
        """What the function closes over: small integers are baked in, all else becomes an operand, if it can."""
        known = self.operands.get(id(value))
        if known is not None:
            return known[1]
        aval = jax.typeof(value)
        check_dtype("an array of args or of a closure", aval)
        shape, dtype = tuple(aval.shape), dtype_name(aval.dtype)
        concrete = not isinstance(value, jax.core.Tracer)
        if aval.dtype == float0:
            array: Array = self.make(shape, dtype, lambda _: self.b.const(dtype, False))
        elif concrete and self._bakes(math.prod(shape)) and (dtype not in FLOATS or not self._may_be_operand(value)):
            array = self.bake(value, dtype)
        else:
            array = self.new_input(shape, dtype)
            self.constants.append(value)
            self.closed_over[id(array)] = (value, array)
        self.operands[id(value)] = (value, array)
        return array

    def _may_be_operand(self, value: Any) -> bool:
        return self.known is None or id(value) in self.known

    def convert_outside(self, x: Array, dtype: str) -> Array | None:
        """A closed-over array that is converted whole is converted once, outside the kernel.

        So a float64 scalar of weak type (``jnp.log(2.0)`` under x64) brings no float64 into a float32 kernel.
        """
        found = self.closed_over.get(id(x))
        if found is None:
            return None
        key = (id(found[0]), dtype)
        if key not in self.conversions:
            self.conversions[key] = found[0], jax.lax.convert_element_type(found[0], np.dtype(dtype))
        return self.outside(self.conversions[key][1])

    def literal(self, atom: Any) -> Array:
        """A literal of the jaxpr: scalars are constants of their aval's dtype."""
        check_dtype("a literal", atom.aval)
        if atom.aval.shape == () and atom.aval.dtype != float0:
            return self.bake(atom.val, dtype_name(atom.aval.dtype))
        return self.outside(atom.val)

    # -- nested jaxprs ----------------------------------------------------------------------------------------

    def call(self, closed: Any, *args: Array) -> list[Array]:
        """Walk a ClosedJaxpr."""
        return self.walk(closed.jaxpr, [self.outside(c) for c in closed.consts], list(args))

    def walk(self, jaxpr: Any, consts: Sequence[Array], args: Sequence[Array]) -> list[Array]:
        """Walk a jaxpr; the results may be unevaluated where nothing else reads them."""
        uses: dict[Any, int] = {}
        for eqn in jaxpr.eqns:
            for atom in eqn.invars:
                if not isinstance(atom, jex.Literal):
                    uses[atom] = uses.get(atom, 0) + 1
        for atom in jaxpr.outvars:
            if not isinstance(atom, jex.Literal):
                uses[atom] = uses.get(atom, 0) + 1
        env: dict[Any, Array] = {}

        def bind(var: Any, x: Array) -> None:
            if not x.cheap and uses.get(var, 0) > 1:
                x = in_memory(self.b, x)
            env[var] = x

        def read(atom: Any) -> Array:
            return self.literal(atom) if isinstance(atom, jex.Literal) else env[atom]

        for var, x in zip(jaxpr.constvars, consts, strict=True):
            bind(var, x)
        for var, x in zip(jaxpr.invars, args, strict=True):
            bind(var, x)
        for eqn in jaxpr.eqns:
            for var, x in zip(eqn.outvars, self.equation(eqn, [read(a) for a in eqn.invars]), strict=True):
                bind(var, x)
        return [read(a) for a in jaxpr.outvars]

    def equation(self, eqn: Any, args: list[Array]) -> Sequence[Array]:
        name = eqn.primitive.name
        self.lines.append(eqn.source_info)
        try:
            rule = self.rules.get(name)
            if rule is None:
                raise unsupported(name, self.lines)
            if name not in self.transparent:  # else the equation inside is the one to name
                for atom in (*eqn.invars, *eqn.outvars):
                    check_dtype(name, atom.aval, self.lines)
            if name not in self.elementwise and name not in self.transparent:
                args = [self.settle(in_memory(self.b, x)) if isinstance(x, Grouped) else x for x in args]
            out = rule(self, eqn, *args)
        except Refusal as refusal:
            raise unsupported(name, self.lines, detail=refusal.detail, hint=refusal.hint) from None
        finally:
            self.lines.pop()
        return [out] if isinstance(out, Array) else out

    # -- making arrays ----------------------------------------------------------------------------------------

    def make(self, shape: tuple[int, ...], dtype: str, element: Callable[[Index], Scalar], work: int = 1) -> Array:
        """An array by its elements, of which each costs ``work`` statements: unrolled if that is little."""
        size = math.prod(shape)
        if self.unrolls_work(size, work):
            ids = np.empty(shape, dtype=np.int64)
            for position in np.ndindex(*shape):
                ids[position] = element(tuple(self.b.index(p) for p in position))
            return Registers(shape, dtype, ids)
        lazy = Lazy(shape, dtype, element)
        return self.settle(in_memory(self.b, lazy)) if self.unrolls(size) else lazy

    def make_several(self, shape: tuple[int, ...], dtypes: Sequence[str],
                     element: Callable[[Index], Sequence[Scalar]], work: int) -> list[Array]:
        """Arrays of one shape whose elements are computed together, as ``make`` does it."""
        b, size = self.b, math.prod(shape)
        if self.unrolls_work(size, work):
            ids = [np.empty(shape, dtype=np.int64) for _ in dtypes]
            for position in np.ndindex(*shape):
                for column, value in zip(ids, element(tuple(b.index(p) for p in position)), strict=True):
                    column[position] = value
            return [Registers(shape, dtype, column) for dtype, column in zip(dtypes, ids, strict=True)]
        memories = [allocate(b, shape, dtype) for dtype in dtypes]

        def store(index: Index) -> None:
            for memory, value in zip(memories, element(index), strict=True):
                storer(b, memory)(index, value)

        for_each(b, shape, store)
        return [self.settle(memory) for memory in memories]

    def finish_pieces(self, pieces: Pieces) -> Array:
        """Large: written where it is needed; small: through memory into registers."""
        return self.settle(in_memory(self.b, pieces)) if self.unrolls(pieces.size) else pieces


def equations_of(jaxpr: Any) -> tuple[int, bool]:
    """How many equations a jaxpr has, nested ones too, and whether there is a loop among them."""
    count, loops = 0, False
    for eqn in jaxpr.eqns:
        count += 1
        loops |= eqn.primitive.name in _LOOPS
        for value in eqn.params.values():
            for inner in value if isinstance(value, (tuple, list)) else (value,):
                inner = inner.jaxpr if isinstance(inner, jex.ClosedJaxpr) else inner
                if isinstance(inner, jex.Jaxpr):
                    deeper, inner_loops = equations_of(inner)
                    count += deeper
                    loops |= inner_loops
    return count, loops


def written_in_jax(fn: Callable[..., Any], *names: str, core_rank: int | None = None) -> Callable[..., list[Array]]:
    """A rule from a JAX function, which is traced and walked in turn; ``names`` are the parameters that it takes.

    With ``core_rank``, ``fn`` is of arrays whose first has that many axes, and is mapped over those in front.
    """

    def rule(context: Context, eqn: Any, *args: Array) -> list[Array]:
        params = {name: eqn.params[name] for name in names}

        def whole(*arrays: Any) -> list[Any]:
            one = lambda *a: fn(*a, **params)  # noqa: E731
            for _ in range(0 if core_rank is None else arrays[0].ndim - core_rank):
                one = jax.vmap(one)
            return jax.tree.leaves(one(*arrays))

        closed = jax.make_jaxpr(whole)(*[jax.ShapeDtypeStruct(x.aval.shape, x.aval.dtype) for x in eqn.invars])
        return context.call(closed, *[cheap(context.b, x) for x in args])

    return rule
