"""A named array of one lane: what it is called, how many words it has, where it lies and when it is live."""

from __future__ import annotations

import difflib
import operator
from collections.abc import Iterable
from dataclasses import dataclass

LOCATIONS = ("local", "shared")
DTYPES = ("float", "int32")
# Phases are paths, as "step/stage/newton": who owns one names others of his own below it. A misspelt one would be live
# together with nothing, so the first names are a list. "between" is from the end of one step to the beginning of the next.
FIRST_PHASES = ("step", "between", "backward")
ALWAYS = frozenset({""})
# Of a buffer that only a pass backwards has: steps are taken again in it, so such a buffer is live together with all others.
BACKWARD = frozenset(FIRST_PHASES)


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


def _parts(phase: str) -> tuple[str, ...]:
    return tuple(phase.split("/")) if phase else ()


def _is_within(phase: str, other: str) -> bool:
    return _parts(phase)[: len(_parts(other))] == _parts(other)


def common_phases(one: Iterable[str], other: Iterable[str]) -> tuple[str, ...]:
    """Where buffers live in `one` and in `other` are live together: the inner of each two phases of which one is, or is
    within, the other."""
    inner = {a if _is_within(a, b) else b for a in one for b in other if _is_within(a, b) or _is_within(b, a)}
    return tuple(sorted(inner))


def _check_live(name: str, live: Iterable[str] | None) -> frozenset[str]:
    phases = frozenset((live,) if isinstance(live, str) else live or ()) or ALWAYS
    for phase in sorted(phases, key=str):
        if not isinstance(phase, str) or not all(part.isidentifier() for part in _parts(phase)):
            raise ValueError(
                f"Buffer '{name}': live names the phase {phase!r}; expected identifiers joined by '/', as 'step/stage'."
            )
        first = _parts(phase)[:1]
        if first and first[0] not in FIRST_PHASES:
            raise ValueError(
                f"Buffer '{name}': live names the phase {phase!r}; expected one that begins with "
                f"{' or '.join(map(repr, FIRST_PHASES))}.{closest(first[0], FIRST_PHASES)}"
            )
    # What lies within another phase says nothing new: equal lives are to be equal sets.
    return frozenset(str(a) for a in phases if not any(a != b and _is_within(a, b) for b in phases))


@dataclass(frozen=True)
class Buffer:
    """One named array of a lane.

    name: a Python identifier; the setting that moves the buffer is `{name}_location`.
    size: in words, 0 or more. A word has the size of the solve's float dtype; an int32 takes one, too.
    location: "local" (the lane's own memory) or "shared" (the block's on-chip memory).
    persistent: allocated once a lane, outside the step. Shared memory is that in any case, so a buffer that
        is both shared and persistent is shared.
    aliases: the buffer whose words this one may use while their owner does not.
    live: the phases in which its content is needed, each a path: "step/stage" has in it "step/stage/newton" and all
        else that anyone names below. None or empty means always, as does the path "", in which all others are.
    dtype: "float" (the dtype of the solve) or "int32". Words have no type: an alias may change it.
    """

    name: str
    size: int
    location: str = "local"
    persistent: bool = False
    aliases: str | None = None
    live: frozenset[str] = ALWAYS
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
