"""The user's functions with their tangents and cotangents, as programs over the pieces of a state.

Every value comes as its terms: a dict from orders to arrays, of which 0 is the value itself and a bit mask of differentiations
the tangent of that order. What has no term of an order is constant there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from ..operands import Function, Operand, Piece, Traced, tangent_name
from ..translate import trace, translate_for_all
from ..translate.platforms import PLATFORMS

Terms = dict[int, Any]
Platforms = tuple[tuple[str, tuple[Function, ...]], ...]


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
        orders = function_orders(values)
        out = {order: 0 if directed("y", order) else None for order in orders}
        return jax.vmap(function, in_axes=(places,), out_axes=out)(dict(values))

    return several


def function_orders(values: Mapping[str, Terms]) -> list[int]:
    """The orders of what a function gives, once it is differentiated as often as the state."""
    return sorted(values["y"])


def terms_of(traced: Traced, depth: int) -> Callable[[Mapping[str, Terms]], dict[int, list[Any]]]:
    """A function of the user's, of terms by the names "t", "y" and those of its operands, `depth` times differentiated."""

    def plain(values: Mapping[str, Terms]) -> dict[int, list[Any]]:
        return {0: traced.call(values["t"][0], values["y"][0], *(values[name][0] for name in traced.operands))}

    function: Callable[[Mapping[str, Terms]], dict[int, list[Any]]] = plain
    for level in range(depth):
        function = lift(function, 1 << level)
    return function


class Inputs:
    """The inputs of a function of the user's in a kernel: the times' tangents, the state's pieces, its operands' tangents.

    moving: orders of the tangents that the time has. operands: of the kernel, by name.
    """

    def __init__(
        self, traced: Traced, pieces: Sequence[Piece], moving: Sequence[int], operands: Mapping[str, Operand], dtype: str
    ):
        self._traced, self._pieces, self._operands = traced, pieces, operands
        self.times = tuple(tangent_name("t", order) for order in (0, *moving))
        self.orders = (0, *moving)
        self.operands = tuple(
            tangent_name(name, order)
            for name in traced.operands
            for order in range(1 << depth_of(pieces))
            if tangent_name(name, order) in operands
        )
        scalar = jax.ShapeDtypeStruct((), jnp.dtype(dtype))
        state = jax.ShapeDtypeStruct((sum(piece.size for piece in pieces),), jnp.dtype(dtype))
        arrays = [jax.ShapeDtypeStruct(operands[name].shape, jnp.dtype(operands[name].dtype)) for name in self.operands]
        self.avals = [*(scalar for _ in self.times), state, *arrays]

    @property
    def names(self) -> tuple[str, ...]:
        """What a caller in the kernel gives."""
        return (*self.times, "y")

    def terms(self, values: Sequence[Any]) -> dict[str, Terms]:
        """The values of the inputs as terms."""
        times, state, arrays = values[: len(self.times)], values[len(self.times)], values[len(self.times) + 1 :]
        found: dict[str, Terms] = {"t": dict(zip(self.orders, times, strict=True)), "y": {}}
        begin = 0
        for piece in self._pieces:
            rows = state[begin : begin + piece.size]
            found["y"][piece.order] = rows.reshape(piece.directions, -1) if piece.directed else rows
            begin += piece.size
        for name, array in zip(self.operands, arrays, strict=True):
            root, _, order = name.partition(".")
            found.setdefault(root, {})[int(order or 0)] = array
        return found

    def directed(self, name: str, order: int) -> bool:
        """Whether a term has an axis of directions in front."""
        if name == "y":
            return any(piece.order == order and piece.directed for piece in self._pieces)
        return name != "t" and self._operands[tangent_name(name, order)].directed

    def differentiated(self) -> Callable[[Mapping[str, Terms]], dict[int, list[Any]]]:
        """The function, of terms."""
        function = terms_of(self._traced, depth_of(self._pieces))
        return along(function, self.directed) if any(piece.directed for piece in self._pieces) else function


def depth_of(pieces: Sequence[Piece]) -> int:
    """How many differentiations a state has been through."""
    return (len(pieces) - 1).bit_length()


def field_of(inputs: Inputs, pieces: Sequence[Piece]) -> Callable[..., list[Any]]:
    """f of the whole state."""
    function = inputs.differentiated()

    def field(*values: Any) -> list[Any]:
        found = function(inputs.terms(values))
        return [jnp.concatenate([found[piece.order][0].reshape(-1) for piece in pieces])]

    return field


def output_of(inputs: Inputs, pieces: Sequence[Piece]) -> Callable[..., list[Any]]:
    """`SaveAt.fn` of the whole state: its outputs, then the tangents of those that are floats, order by order."""
    function = inputs.differentiated()

    def output(*values: Any) -> list[Any]:
        found = function(inputs.terms(values))
        floats = [jnp.issubdtype(one.dtype, jnp.floating) for one in found[0]]
        tangents = [x for piece in pieces[1:] for x, is_float in zip(found[piece.order], floats, strict=True) if is_float]
        return [*found[0], *tangents]

    return output


def transposed(
    function: Callable[..., list[Any]], inputs: Inputs, wrt: Sequence[str], orders: Sequence[int], floats: Sequence[int]
) -> Callable[..., list[Any]]:
    """A function's transpose: of its inputs up to the state, the cotangents of its outputs `floats`, and its operands. It gives
    the cotangents of the state, of the time in `orders`, and of those operands in `wrt` that it reads."""
    leading, count = len(inputs.names), len(floats)
    numbers = [leading - 1, *(inputs.orders.index(order) for order in orders)]
    numbers += [leading + inputs.operands.index(name) for name in wrt if name in inputs.operands]

    def transpose(*values: Any) -> list[Any]:
        given, cotangents = [*values[:leading], *values[leading + count :]], values[leading : leading + count]

        def of_wanted(*wanted: Any) -> list[Any]:
            changed = list(given)
            for number, value in zip(numbers, wanted, strict=True):
                changed[number] = value
            found = function(*changed)
            return [found[number] for number in floats]

        _, pull = jax.vjp(of_wanted, *(given[number] for number in numbers))
        return list(pull(list(cotangents)))

    return transpose


def compiled(
    functions: Mapping[str, tuple[Callable[..., list[Any]], Sequence[Any], tuple[str, ...], tuple[str, ...]]], unroll: int | str
) -> Platforms:
    """Programs of functions, for each platform: for each name the function, its avals, the inputs that a caller gives and the
    operands that it reads."""
    translated = {name: translate_for_all(trace(given[0], *given[1]), unroll) for name, given in functions.items()}

    def function(name: str, platform: str) -> Function:
        program, constants, limit = translated[name][0][platform]
        if constants:
            raise NotImplementedError("a derivative of f makes arrays of its own")
        _, _, inputs, operands = functions[name]
        return Function(name, program, inputs, operands, limit)

    return tuple((platform, tuple(function(name, platform) for name in functions)) for platform in PLATFORMS)
