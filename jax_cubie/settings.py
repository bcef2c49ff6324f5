"""Settings: one flat namespace of keywords, each owned by the component that declares it.

A component's settings are its fields. `update(**keywords)` answers with the new component and the keywords it recognised;
the front door raises for what nobody did.
"""

from __future__ import annotations

import abc
import dataclasses
import difflib
import math
from collections.abc import Iterable
from typing import Any, Self

import equinox as eqx
import jax
import jax.core
import jax.numpy as jnp
import numpy as np

_MOST_STEPS = 2**31 - 1  # they are counted in int32


class Component(eqx.Module):
    """A part of a solver whose fields are settings."""

    @abc.abstractmethod
    def operands(self, state: Any) -> dict[str, Any]:
        """What the kernel is handed, by the names of its settings, for a state of the solve.

        Raises TypeError or ValueError for numbers that are known and wrong.
        """

    def update(self, **keywords: Any) -> tuple[Self, frozenset[str]]:
        """This component with new values, and the keywords that were its own."""
        mine = {field.name for field in dataclasses.fields(self)} & keywords.keys()
        return dataclasses.replace(self, **{name: keywords[name] for name in mine}), frozenset(mine)

    def settings(self) -> dict[str, Any]:
        """Every keyword that `update` knows, with its present value."""
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}


@dataclasses.dataclass(frozen=True)
class Range:
    """The numbers that a setting may be: from `low` to `high`, themselves allowed or not; never NaN."""

    low: float = -math.inf
    high: float = math.inf
    low_allowed: bool = False
    high_allowed: bool = False

    def check(self, name: str, value: Any) -> None:
        """Raises TypeError for what is no real number, and ValueError for what is known and outside."""
        if not is_number(value):
            raise TypeError(f"{name} is {told(value)}: expected a number")
        known = concrete(value)
        if known is None:
            return
        above = known >= self.low if self.low_allowed else known > self.low
        below = known <= self.high if self.high_allowed else known < self.high
        if not np.all(above & below):
            raise ValueError(f"{name}={value}: expected {self}")

    def __str__(self) -> str:
        words = []
        if self.low > -math.inf:
            words.append(f"{'at least' if self.low_allowed else 'above'} {self.low:g}")
        if self.high < math.inf:
            words.append(f"{'at most' if self.high_allowed else 'below'} {self.high:g}")
        finite = self.high == math.inf and not self.high_allowed
        return " ".join(["a finite number" if finite else "a number", " and ".join(words)]).strip()


def concrete(value: Any) -> np.ndarray | None:
    """The value as a NumPy array where it is known now, None where it is traced or only a shape."""
    if isinstance(value, (jax.core.Tracer, jax.ShapeDtypeStruct)):
        return None
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        value = float(value) if abs(value) < 2**1023 else math.inf if value > 0 else -math.inf
    return np.asarray(value)


def is_number(value: Any) -> bool:
    """Whether it is a real number or an array of such; a shape will do."""
    if isinstance(value, (bool, np.bool_)):
        return False
    if isinstance(value, (jax.Array, np.ndarray, np.generic, jax.ShapeDtypeStruct)):
        return is_real(value.dtype)
    return isinstance(value, (float, int))


def as_now(array: Any) -> Any:
    """JAX's array in the dtype that there is for it here: 64 bits may be from where `jax_enable_x64` was on, as it is not."""
    dtype = jax.dtypes.canonicalize_dtype(array.dtype, allow_extended_dtype=True)
    return array if dtype == array.dtype else array.astype(dtype)  # keys have no astype


def refuse_symbolic(said: str, value: Any) -> None:
    """Raises ValueError where an export leaves a size of a lane's own array open."""
    shape = np.shape(value)
    if not all(isinstance(size, int) for size in shape):
        raise ValueError(
            f"{said} has a size that is symbolic, in ({', '.join(map(str, shape))}): machine code is of known sizes. Leave "
            "that of the batch open alone, an axis that jax.vmap goes over, and export for each of the others"
        )


def told(value: Any) -> str:
    """What was given, as messages say it: of JAX's arrays what they are like, and neither values nor what JAX calls them."""
    if isinstance(value, jax.Array):
        traced = "a traced array" if isinstance(value, jax.core.Tracer) else "an array"
        return f"{traced}, {value.dtype}[{','.join(map(str, value.shape))}]"
    return f"{value!r:.80} of type {type(value).__name__}"


def is_real(dtype: Any) -> bool:
    """Whether it is one of real numbers; to NumPy spans of time are integers, too."""
    number = jnp.issubdtype(dtype, jnp.floating) or jnp.issubdtype(dtype, jnp.integer)
    return number and getattr(dtype, "kind", "f") != "m"


def as_python(value: Any) -> Any:
    """An integer or a boolean of NumPy's or JAX's as Python's; all else as it is.

    What is static has to be one: it is compared, and is part of keys.
    """
    if isinstance(value, (np.generic, np.ndarray, jax.Array)) and not isinstance(value, jax.core.Tracer):
        return value.item() if value.shape == () and value.dtype.kind in "biu" else value
    return value


def refuse_tracer(name: str, value: Any) -> None:
    """Raises TypeError where a static setting is a traced value."""
    if isinstance(value, jax.core.Tracer):
        raise TypeError(
            f"{name} is a traced value here, but it chooses what is built, so it has to be static: a Python value from outside "
            "of jit, vmap and grad, or an argument that static_argnames of jit names"
        )


def check_choice(name: str, value: Any, choices: Iterable[Any]) -> Any:
    """`value`, as Python has it, where it is one of `choices`; else a ValueError with the closest ones."""
    refuse_tracer(name, value)
    value, choices = as_python(value), list(choices)
    if not any(value is choice or (type(value) is type(choice) and value == choice) for choice in choices):
        raise ValueError(f"{name}={value!r}: expected one of {', '.join(map(repr, choices))}{closest(value, choices)}")
    return value


def check_count(name: str, value: Any, least: int) -> int:
    """`value` as a static int of at least `least`."""
    refuse_tracer(name, value)
    number = as_python(value)
    if isinstance(number, bool) or not isinstance(number, int) or number < least:
        raise ValueError(f"{name}={value!r}: expected an integer of at least {least}")
    return number


def check_most_steps(name: str, value: Any) -> None:
    """Raises ValueError for the most steps that there may be, where it is known and none that can be counted to."""
    known = concrete(value)
    if known is not None and not (known.dtype.kind in "iu" and ((known >= 1) & (known <= _MOST_STEPS)).all()):
        raise ValueError(f"{name}={value!r}: expected an integer of at least 1 and at most {_MOST_STEPS}")


def closest(given: Any, known: Iterable[Any]) -> str:
    """The end of a message: what was probably meant, or nothing."""
    near = difflib.get_close_matches(str(given).lower(), [str(name) for name in known], n=3, cutoff=0.6)
    return f". Did you mean {' or '.join(map(repr, near))}?" if near else ""
