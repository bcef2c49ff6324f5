"""Settings: one flat namespace of keywords, each owned by the component that declares it.

A component's settings are its fields. `update(**keywords)` answers with the new component and the keywords it recognised;
the front door raises for what nobody did.
"""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Iterable
from typing import Any, Self

import equinox as eqx
import jax
import jax.core


class Component(eqx.Module):
    """A part of a solver whose fields are settings."""

    def update(self, **keywords: Any) -> tuple[Self, frozenset[str]]:
        """This component with new values, and the keywords that were its own."""
        mine = {field.name for field in dataclasses.fields(self)} & keywords.keys()
        return dataclasses.replace(self, **{name: keywords[name] for name in mine}), frozenset(mine)

    def settings(self) -> dict[str, Any]:
        """Every keyword that `update` knows, with its present value."""
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}


def refuse_tracer(name: str, value: Any) -> None:
    """Raises TypeError where a static setting is a traced value."""
    if isinstance(value, jax.core.Tracer):
        raise TypeError(
            f"{name} is a traced value ({type(value).__name__}), but it chooses which machine code is built, so it has to "
            "be static: set it on the Solver, outside of jit, vmap and grad"
        )


def check_choice(name: str, value: Any, choices: Iterable[Any]) -> Any:
    """`value` where it is one of `choices`; else a ValueError with the closest ones."""
    refuse_tracer(name, value)
    choices = list(choices)
    if not any(value is choice or (type(value) is type(choice) and value == choice) for choice in choices):
        raise ValueError(f"{name}={value!r}: expected one of {', '.join(map(repr, choices))}{closest(value, choices)}")
    return value


def check_count(name: str, value: Any, least: int) -> int:
    """`value` as a static int of at least `least`."""
    refuse_tracer(name, value)
    if isinstance(value, bool) or not hasattr(type(value), "__index__") or value.__index__() < least:
        raise ValueError(f"{name}={value!r}: expected an integer of at least {least}")
    return value.__index__()


def closest(given: Any, known: Iterable[Any]) -> str:
    """The end of a message: what was probably meant, or nothing."""
    near = difflib.get_close_matches(str(given).lower(), [str(name) for name in known], n=3, cutoff=0.6)
    return f". Did you mean {' or '.join(map(repr, near))}?" if near else ""
