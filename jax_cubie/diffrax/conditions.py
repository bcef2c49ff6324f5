"""diffrax's Event as events of ours, and what it tells of them."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import diffrax
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, PyTree

from ..field_errors import FieldError, in_our_words
from ..outputs import Event
from ..settings import told

_DIRECTIONS = {None: 0, True: 1, False: -1}


def check_event(event: Any, controller: Any) -> None:
    """Raises TypeError or ValueError for what is no event of diffrax's, or can't end steps of that controller."""
    if event is None:
        return
    if not isinstance(event, diffrax.Event):
        raise TypeError(f"event is {told(event)}: expected diffrax's Event(cond_fn, ...)")
    if type(controller) is diffrax.StepTo:
        raise ValueError(
            "event is given, and stepsize_controller is StepTo, which says itself where steps end: use ConstantStepSize() or a "
            "PIDController, with step_ts= for the times on which steps have to end"
        )


class Conditions:
    """The conditions of an event for one solve. keywords: what diffrax hands them besides time, state and args.

    events: ours for them, in their order; each ends the lane. at_start: which of them end it at t0 already; None: none can.
    """

    def __init__(self, event: diffrax.Event, t0: Any, y0: PyTree, args: PyTree, keywords: Mapping[str, Any]):
        functions, self._structure = jax.tree.flatten(event.cond_fn, is_leaf=callable)
        directions = jax.tree.leaves(event.direction, is_leaf=lambda one: one is None)
        made = [
            _Condition(function, _name(path), keywords)
            for function, (path, _) in zip(
                functions, jax.tree_util.tree_leaves_with_path(event.cond_fn, is_leaf=callable), strict=True
            )
        ]
        time = jnp.asarray(t0, jnp.result_type(*jax.tree.leaves(y0)) if jax.tree.leaves(y0) else None)
        values = [one(time, y0, args) for one in made]
        bools = [value if value.dtype == bool else jnp.asarray(False) for value in values]
        self.at_start = _first(bools) if any(value.dtype == bool for value in values) else None
        located = event.root_finder is not None
        self.events = tuple(
            _event(one, value, direction, located) for one, value, direction in zip(made, values, directions, strict=True)
        )

    @property
    def starts_over(self) -> Bool[Array, ""] | None:
        """Whether the lane ends at t0; None where it can't."""
        return None if self.at_start is None else jnp.any(jnp.stack(self.at_start))

    def mask(self, records: Sequence[Any]) -> PyTree[Bool[Array, ""]]:
        """The one that ended the lane, as diffrax tells it. records: of `events`."""
        ended = [record.ended for record in records]
        if self.at_start is not None:
            ended = [one | early for one, early in zip(ended, self.at_start, strict=True)]
        return jax.tree.unflatten(self._structure, _first(ended))


class _Condition:
    """A condition with its keywords, and with words for what it does wrong."""

    def __init__(self, function: Callable[..., Any], said: str, keywords: Mapping[str, Any]):
        self._function, self._said, self._keywords = function, said, keywords
        try:
            inspect.signature(function).bind(None, None, None, **keywords)
        except TypeError:
            raise FieldError(
                f"{said} is called with t, y, args and keywords ({', '.join(keywords)}): write it as (t, y, args, **kwargs)"
            ) from None
        except ValueError:  # some callables have no signature
            pass

    def __call__(self, t: Any, y: PyTree, args: PyTree) -> Array:
        with in_our_words(self._said):
            value = self._function(t, y, args, **self._keywords)
        if jax.tree.structure(value) != jax.tree.structure(0) or jnp.shape(value) != ():
            shapes = jax.tree.map(jnp.shape, value)
            raise ValueError(f"what {self._said} returns has shape {shapes}: expected a scalar, a float or a bool")
        value = jnp.asarray(value)
        if value.dtype != bool and not jnp.issubdtype(value.dtype, jnp.floating):
            raise ValueError(f"what {self._said} returns has dtype {value.dtype}: expected a float or a bool")
        return value


def _event(condition: _Condition, start: Array, direction: bool | None, located: bool) -> Event:
    """Ours for a condition, whose value at t0 is `start`."""
    if start.dtype == bool:
        return Event(condition)
    if located:
        return Event(condition, direction=_DIRECTIONS[direction])
    if direction is not None:
        return Event(lambda t, y, args: condition(t, y, args) > 0, direction=_DIRECTIONS[direction])
    # The lane ends where the sign first changes: up to there it is that at t0.
    sign = jnp.sign(jax.lax.stop_gradient(start))
    return Event(lambda t, y, args: jnp.sign(condition(t, y, args)) != sign)


def _first(flags: Sequence[Bool[Array, ""]]) -> list[Bool[Array, ""]]:
    """Of those that are True the first alone."""
    found, kept = jnp.asarray(False), []
    for flag in flags:
        kept.append(flag & ~found)
        found = found | flag
    return kept


def _name(path: Any) -> str:
    return f"event.cond_fn{jax.tree_util.keystr(path)}"
