"""The user's functions with their tangents and cotangents, as programs over the pieces of a state.

Every value comes as its terms: a dict from orders to arrays, of which 0 is the value itself and a bit mask of differentiations
the tangent of that order. What has no term of an order is constant there.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from ..field_errors import FieldError, in_derivative_words
from ..operands import Function, Operand, Piece, Traced, cotangent_name, tangent_name, window_of
from ..translate import UnsupportedPrimitiveError, trace, translate_for_all, translate_tangents

Terms = dict[int, Any]


def lift(function: Callable[[Mapping[str, Terms]], dict[int, list[Any]]], bit: int) -> Callable[..., dict[int, list[Any]]]:
    """`function` of values by name, which answers with a list of arrays for each order, differentiated once more."""

    def lifted(values: Mapping[str, Terms]) -> dict[int, list[Any]]:
        below = {name: {order: x for order, x in terms.items() if not order & bit} for name, terms in values.items()}
        active = [(name, order) for name, terms in values.items() for order in below[name] if order | bit in terms]

        def of_active(*arrays: Any) -> dict[int, list[Any]]:
            changed = {name: dict(terms) for name, terms in below.items()}
            for (name, order), array in zip(active, arrays, strict=True):
                changed[name][order] = array
            return function(changed)

        primals = [values[name][order] for name, order in active]
        tangents = [values[name][order | bit] for name, order in active]
        found, moved = jax.jvp(of_active, primals, tangents) if active else (function(below), {})
        zeros = {order: [jnp.zeros_like(x) for x in arrays] for order, arrays in found.items()}
        return {**found, **{order | bit: moved.get(order, zeros[order]) for order in found}}

    return lifted


def along(function: Callable[..., dict[int, list[Any]]], directed: Callable[[str, int], bool]) -> Callable[..., Any]:
    """`function`, of several directions at once: of terms that have an axis for them in front where `directed(name, order)`."""

    def several(values: Mapping[str, Terms]) -> dict[int, list[Any]]:
        places = {name: {order: 0 if directed(name, order) else None for order in terms} for name, terms in values.items()}
        out = {order: 0 if directed("y", order) else None for order in values["y"]}  # it has the state's orders
        return jax.vmap(function, in_axes=(places,), out_axes=out)(dict(values))

    return several


def terms_of(traced: Traced, depth: int) -> Callable[[Mapping[str, Terms]], dict[int, list[Any]]]:
    """A function of the user's, of terms by the names of its inputs and operands, `depth` times differentiated."""

    def plain(values: Mapping[str, Terms]) -> dict[int, list[Any]]:
        return {0: traced.call(*(values[name][0] for name in (*traced.inputs, *traced.operands)))}

    function: Callable[[Mapping[str, Terms]], dict[int, list[Any]]] = plain
    for level in range(depth):
        function = lift(function, 1 << level)
    return function


class Inputs:
    """The inputs of a function of the user's in a kernel: its own, then the tangents of each.

    moving: orders of the tangents that the time has. operands: of the kernel, by name.
    """

    def __init__(
        self, traced: Traced, pieces: Sequence[Piece], moving: Sequence[int], operands: Mapping[str, Operand], dtype: str
    ):
        self.traced, self.pieces, self._operands = traced, pieces, operands
        self.vectors = tuple(name for name in traced.inputs if name != "t")
        own = [(name, 0) for name in (*traced.inputs, *traced.operands)]
        tangents = [("t", order) for order in moving] + [(name, piece.order) for name in self.vectors for piece in pieces[1:]]
        for name in traced.operands:
            tangents += [(name, piece.order) for piece in pieces[1:] if tangent_name(name, piece.order) in operands]
        self.own, self.terms = len(own), (*own, *tangents)
        self.names = tuple(tangent_name(name, order) for name, order in self.terms)
        handed = set(traced.operands) - set(traced.numbers)
        self.operands = tuple(name for name, (root, _) in zip(self.names, self.terms, strict=True) if root in handed)
        self._sizes = {piece.order: piece for piece in pieces}
        self.avals = [self._aval(name, order, jnp.dtype(dtype)) for name, order in self.terms]

    def _aval(self, name: str, order: int, dtype: Any) -> jax.ShapeDtypeStruct:
        if name == "t":
            return jax.ShapeDtypeStruct((), dtype)
        if name in self.vectors:
            return jax.ShapeDtypeStruct((self._sizes[order].size,), dtype)
        if name in self.traced.numbers:
            return jax.ShapeDtypeStruct((), jnp.dtype(self.traced.numbers[name]))
        operand, window = self._operands[tangent_name(name, order)], window_of(self.traced.windows, name)
        shape = operand.shape if window is None else window.of(operand)
        return jax.ShapeDtypeStruct(shape, jnp.dtype(operand.dtype))

    def directed(self, name: str, order: int) -> bool:
        """Whether a term has an axis of directions in front."""
        if name in self.vectors:
            return self._sizes[order].directed
        if name == "t" or name in self.traced.numbers:
            return False
        return self._operands[tangent_name(name, order)].directed

    def function(self) -> Callable[..., dict[int, list[Any]]]:
        """The function of those inputs, which gives its outputs by order, tangents of several directions one behind the
        other."""
        function = terms_of(self.traced, (len(self.pieces) - 1).bit_length())
        several = any(piece.directed for piece in self.pieces)
        function = along(function, self.directed) if several else function

        def of_inputs(*values: Any) -> dict[int, list[Any]]:
            found: dict[str, Terms] = {}
            for (name, order), value in zip(self.terms, values, strict=True):
                if name in self.vectors and self._sizes[order].directed:
                    value = value.reshape(self._sizes[order].directions, -1)
                found.setdefault(name, {})[order] = value
            return function(found)

        return of_inputs


def field_of(inputs: Inputs) -> Callable[..., list[Any]]:
    """f, piece by piece of the state."""
    function = inputs.function()

    def field(*values: Any) -> list[Any]:
        found = function(*values)
        return [found[piece.order][0].reshape(-1) for piece in inputs.pieces]

    return field


def output_of(inputs: Inputs) -> Callable[..., list[Any]]:
    """A function of rows: its outputs, then the tangents of those that are floats, order by order."""
    function = inputs.function()

    def output(*values: Any) -> list[Any]:
        found = function(*values)
        floats = [jnp.issubdtype(one.dtype, jnp.floating) for one in found[0]]
        pieces = inputs.pieces[1:]
        tangents = [x for piece in pieces for x, is_float in zip(found[piece.order], floats, strict=True) if is_float]
        return [*found[0], *tangents]

    return output


def forward(
    name: str, function: Callable[..., list[Any]], inputs: Inputs, limits: Mapping[str, int]
) -> dict[str, Function]:
    """A function's program for each platform, whose own outputs are those of `traced` to the bit. limits: of unrolling."""
    with in_derivative_words(inputs.traced.said, reverse=False):
        closed = trace(function, *inputs.avals)
    own = trace(inputs.traced.call, *inputs.avals[: inputs.own])
    with _refusing_as_field_errors(f"{inputs.traced.said} can't be differentiated forwards"):
        programs, _ = translate_tangents(closed, own, limits, operands=_known(inputs))
    return _functions(name, programs, inputs.names, inputs)


def backward(
    name: str, function: Callable[..., list[Any]], inputs: Inputs, wrt: Sequence[str], orders: Sequence[int],
    outputs: Sequence[str], numbers: Sequence[int], unroll: int | str,
) -> dict[str, Function]:
    """A function's transpose for each platform: behind its inputs it takes the cotangents of its outputs of those numbers,
    which are called `outputs`. It gives the cotangents of the state and its like, of the time in `orders`, and of those
    operands in `wrt` that it reads."""
    asked = [(name, piece.order) for name in inputs.vectors for piece in inputs.pieces] + [("t", order) for order in orders]
    read = [one for one in wrt if one in inputs.operands]
    places = [inputs.terms.index(term) for term in asked] + [inputs.names.index(one) for one in read]
    count = len(inputs.avals)

    def transpose(*values: Any) -> list[Any]:
        def of_asked(*changed: Any) -> list[Any]:
            given = dict(enumerate(values[:count])) | dict(zip(places, changed, strict=True))
            found = function(*given.values())
            return [found[number] for number in numbers]

        _, pull = jax.vjp(of_asked, *(values[place] for place in places))
        return list(pull(list(values[count:])))

    with in_derivative_words(inputs.traced.said, reverse=True):
        shapes = jax.eval_shape(function, *inputs.avals)
        closed = trace(transpose, *inputs.avals, *(shapes[number] for number in numbers))
    with _refusing_as_field_errors(f"{inputs.traced.said} can't be differentiated in reverse"):
        programs, _ = translate_for_all(closed, unroll, operands=_known(inputs))
    rows = [(number, one) for number, one in enumerate(read, len(asked)) if window_of(inputs.traced.windows, one) is not None]
    return _functions(f"{name}_vjp", programs, (*inputs.names, *map(cotangent_name, outputs)), inputs, tuple(rows))


@contextlib.contextmanager
def _refusing_as_field_errors(said: str) -> Iterator[None]:
    """What a derivative consists of may have no rule, where the function's own operations have."""
    try:
        yield
    except UnsupportedPrimitiveError as error:
        raise FieldError(f"{said}: {error}") from error


def _known(inputs: Inputs) -> frozenset[int]:
    """The arrays that have an operand, by their id."""
    return frozenset(id(value) for value, _ in inputs.traced.constants)


def _functions(
    name: str, programs: Mapping[str, Any], arguments: tuple[str, ...], inputs: Inputs, pulled: tuple[tuple[int, str], ...] = ()
) -> dict[str, Function]:
    known = {id(value): operand for value, operand in inputs.traced.constants}
    made = {}
    for platform, (program, constants, limit) in programs.items():
        if any(id(value) not in known for value in constants):
            raise NotImplementedError(
                f"a derivative of {inputs.traced.said} needs a large array of numbers that stands in a function inside of it: "
                "make that array outside, and hand it over in args"
            )
        more = tuple(known[id(value)] for value in constants)
        operands = tuple(dict.fromkeys((*inputs.operands, *more)))
        made[platform] = Function(name, program, (*arguments, *more), operands, limit, inputs.traced.windows, pulled)
    return made
