"""The events that a user gives, as functions of time, the flat state and operands."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from ..field_errors import in_derivative_words, in_our_words
from ..outputs import Event, Events, Kind, SteadyState
from ..settings import told
from ..translate import trace
from .state import State
from .tracing import Arguments, Extra

_MOST = 31  # bits of an int32


class EventReader:
    """Reads them. After `trace` its `part` is known, None where there is no event but a steady state.

    structure: that of what was given, with the events alone in it. steady: the condition of that name, if there is one.
    mass: whether there is a mass matrix.
    """

    def __init__(self, given: Any, state: State, args: Arguments, *, mass: bool):
        leaves, _ = jax.tree.flatten(given, is_leaf=_is_event)
        for leaf in leaves:
            if not _is_event(leaf):
                instead = "; write Event(cond) of a function cond(t, y, args)" if callable(leaf) else ""
                raise TypeError(
                    f"events has {told(leaf)}: expected a jax_cubie.Event, or jax_cubie.steady_state(), or a tuple, list or "
                    f"dict of these{instead}"
                )
        steady = [leaf for leaf in leaves if isinstance(leaf, SteadyState)]
        if len(steady) > 1:
            raise ValueError("events has several steady_state(): give one of them, with the tolerances that are to hold")
        self.steady = steady[0] if steady else None
        kept = jax.tree.map(lambda one: one if isinstance(one, Event) else None, given, is_leaf=_is_event)
        self._events, self.structure = jax.tree.flatten(kept, is_leaf=lambda one: isinstance(one, Event))
        if len(self._events) > _MOST:
            raise ValueError(f"events has {len(self._events)} events: a lane looks for at most {_MOST}")
        self._state, self._args, self._mass = state, args, mass
        self._boolean: list[bool] = []

    @property
    def part(self) -> Events | None:
        """The part of the loop."""
        kinds = zip(self._events, self._boolean, strict=True)
        made = tuple(
            Kind(boolean, one.direction, one.ends_at, one.affect is not None, one.record) for one, boolean in kinds
        )
        return Events(made, self._mass) if made else None

    def trace(self, slope: Callable[..., Any]) -> dict[str, Extra]:
        """The functions in the kernel, by name. slope: that of the state, of the time, the flat state and the operands."""
        if not self._events:
            return {}
        dtype = jnp.dtype(self._state.dtype)
        time, vector = jax.ShapeDtypeStruct((), dtype), jax.ShapeDtypeStruct((self._state.size,), dtype)
        given = self._args.avals
        conditions = [self._condition(number) for number in range(len(self._events))]
        self._boolean = [jax.eval_shape(condition, time, vector, *given).dtype == bool for condition in conditions]

        def values(t: Any, y: Any, *others: Any) -> Any:
            return jnp.stack([condition(t, y, *others).astype(dtype) for condition in conditions])

        def slopes(t: Any, y: Any, dy: Any, *others: Any) -> Any:
            return jax.jvp(lambda t, y: values(t, y, *others), (t, y), (jnp.ones_like(t), dy))[1]

        def own_slopes(t: Any, y: Any, *others: Any) -> Any:
            return slopes(t, y, slope(t, y, *others), *others)

        found = {"events": Extra(("t", "y"), trace(values, time, vector, *given), f"cond{self._args.said}")}
        if not self._mass:
            found["event_slopes"] = Extra(("t", "y", "dy"), trace(slopes, time, vector, vector, *given))
        elif not all(self._boolean):
            with in_derivative_words(f"f{self._args.said}", reverse=False):
                found["event_slopes"] = Extra(("t", "y"), trace(own_slopes, time, vector, *given))
        for number, event in enumerate(self._events):
            if event.affect is not None:
                jaxpr = trace(self._affect(event.affect, number), time, vector, *given)
                found[f"affect{number}"] = Extra(("t", "y"), jaxpr, f"affect{self._args.said}")
        return found

    def _said(self, number: int, what: str) -> str:
        return what if len(self._events) == 1 else f"{what} of event {number}"

    def _condition(self, number: int) -> Callable[..., Any]:
        event, said = self._events[number], self._said(number, "cond")
        self._args.check_signature(event.cond, "cond")

        def cond(t: Any, y: Any, *values: Any) -> Any:
            with in_our_words(said):
                time, *others = self._args.at(t, values)
                found = event.cond(time, self._state.unflatten(y), *others)
            kind = getattr(found, "dtype", None)
            if isinstance(found, (bool, int, float)):
                found = jnp.asarray(found)
            elif kind is None or jnp.shape(found) != ():
                what = f"shape {jnp.shape(found)}" if kind is not None else f"type {type(found).__name__}"
                raise ValueError(f"what {said} returns has {what}: expected a scalar, a float that becomes 0 or a bool")
            if found.dtype != bool and not jnp.issubdtype(found.dtype, jnp.floating):
                raise TypeError(f"what {said} returns has dtype {found.dtype}: expected a float that becomes 0, or a bool")
            return found

        return cond

    def _affect(self, function: Callable, number: int) -> Callable[..., Any]:
        said = self._said(number, "affect")
        self._args.check_signature(function, "affect")

        def affect(t: Any, y: Any, *values: Any) -> Any:
            with in_our_words(said):
                time, *others = self._args.at(t, values)
                changed = function(time, self._state.unflatten(y), *others)
            return self._state.flatten(changed, f"what {said} returns")

        return affect


def _is_event(one: Any) -> bool:
    return isinstance(one, (Event, SteadyState))
