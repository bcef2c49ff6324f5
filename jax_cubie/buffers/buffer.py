"""A named array of one lane: what it is called, how many words it has, where it lies and when it is live."""

from __future__ import annotations

import difflib
import operator
from collections.abc import Iterable
from dataclasses import dataclass

LOCATIONS = ("local", "shared")
DTYPES = ("float", "int32")
# The phases of a step in which a buffer may hold something that is still needed. "between" is from the end of
# one step to the beginning of the next.
PHASES = ("stage", "error", "accept", "output", "between")
ALL_PHASES = frozenset(PHASES)


def closest(given: object, expected: Iterable[str]) -> str:
    """The end of an error message: the expected name (or names) nearest to what was given, or nothing."""
    near = difflib.get_close_matches(str(given).lower(), list(expected), n=3, cutoff=0.5)
    return f" Did you mean {' or '.join(repr(name) for name in near)}?" if near else ""


def is_tracer(value: object) -> bool:
    """Whether `value` is one of JAX's tracers, found out by name so that this package need not import JAX."""
    return any("Tracer" in cls.__name__ for cls in type(value).__mro__)


def check_location(keyword: str, value: object) -> str:
    """`value` as a plain string if it names a location; an error that speaks of `keyword` if it does not."""
    if is_tracer(value):
        raise TypeError(
            f"{keyword} is a traced value ({type(value).__name__}). A location chooses which machine code is "
            "built, so it has to be static: give it as a string, and change the Solver outside of jit, vmap "
            "and grad."
        )
    if not isinstance(value, str) or value not in LOCATIONS:
        raise ValueError(f"{keyword}={value!r}: expected 'local' or 'shared'.{closest(value, LOCATIONS)}")
    return str(value)  # np.str_ equals str but is written differently, and a layout's content is written down


def _check_size(name: str, size: object) -> int:
    if is_tracer(size):
        raise TypeError(
            f"Buffer '{name}': its size is a traced value ({type(size).__name__}). Sizes choose the machine code, "
            "so they have to be static: take them from shapes."
        )
    try:
        if isinstance(size, bool):
            raise TypeError
        number = operator.index(size)  # type: ignore[arg-type]
    except TypeError:
        raise ValueError(f"Buffer '{name}': size={size!r}; expected an integer number of words.") from None
    if number < 0:
        raise ValueError(f"Buffer '{name}': size={number}; expected 0 (a buffer that is not needed) or more.")
    return number


def _check_live(name: str, live: Iterable[str] | None) -> frozenset[str]:
    phases = frozenset((live,) if isinstance(live, str) else live or ()) or ALL_PHASES
    for phase in sorted(phases - ALL_PHASES, key=str):
        raise ValueError(
            f"Buffer '{name}': live names the phase {phase!r}; expected some of {', '.join(PHASES)}."
            f"{closest(phase, PHASES)}"
        )
    return phases


@dataclass(frozen=True)
class Buffer:
    """One named array of a lane.

    name: a Python identifier; the setting that moves the buffer is `{name}_location`.
    size: in words, 0 or more. A word has the size of the solve's float dtype; an int32 takes one, too.
    location: "local" (the lane's own memory) or "shared" (the block's on-chip memory).
    persistent: allocated once a lane, outside the step. Shared memory is that in any case, so a buffer that
        is both shared and persistent is shared.
    aliases: the buffer whose words this one may use while their owner does not.
    live: the phases in which its content is needed; None or empty means all of them.
    dtype: "float" (the dtype of the solve) or "int32". Words have no type: an alias may change it.
    """

    name: str
    size: int
    location: str = "local"
    persistent: bool = False
    aliases: str | None = None
    live: frozenset[str] = ALL_PHASES
    dtype: str = "float"

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.name.isidentifier():
            raise ValueError(
                f"Buffer name {self.name!r}: expected a Python identifier, since {{name}}_location is a keyword."
            )
        if self.dtype not in DTYPES:
            raise ValueError(
                f"Buffer '{self.name}': dtype={self.dtype!r}; expected 'float' or 'int32'."
                f"{closest(self.dtype, DTYPES)}"
            )
        if self.aliases == self.name:
            raise ValueError(
                f"Buffer '{self.name}' aliases itself; name another buffer, or leave aliases out."
            )
        # Plain content whatever came in, so that equal buffers compare and hash equal.
        object.__setattr__(self, "name", str(self.name))
        object.__setattr__(self, "size", _check_size(self.name, self.size))
        object.__setattr__(self, "location", check_location(self.keyword, self.location))
        object.__setattr__(self, "persistent", bool(self.persistent))
        object.__setattr__(self, "live", _check_live(self.name, self.live))

    @property
    def keyword(self) -> str:
        """The setting that moves this buffer."""
        return f"{self.name}_location"

    @property
    def storage(self) -> str:
        """Its storage class, the one thing that the rules of aliasing ask: shared, persistent or local."""
        if self.location == "shared":
            return "shared"
        return "persistent" if self.persistent else "local"
