"""What a solve reads and writes: the operands and results of one launch, and where an element of a lane lies in memory.

The lane index runs fastest in memory, whatever the logical order of the axes is; an operand that lacks a batch axis is
read in place. Batch sizes are run-time words, so one image serves every batch.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .translate import Program


# The operand that is the mass matrix, where there is one.
MASS = "mass"

# What functions of the user's that count "t" from t0 are given besides: the time itself, as it is best known.
TIME = "time"

# The cursor of tables with a row for each leg of a lane's way, from one jump to the next: how many jumps lie behind.
LEG = "leg"

# So many lanes add to one array before their sums are summed: a warp of CUDA's.
CHUNK = 32


@dataclasses.dataclass(frozen=True)
class Operand:
    """One array that the kernel reads.

    shape and dtype are one lane's; `axes` has an entry for each level of vmap, innermost first: where that level's axis
    stands in the whole array, None if the array does not have it. order: a lane's own dimensions from slowest to fastest in
    memory, None as they are; XLA puts them so, once. directed: whether the first of them is one of directions.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    axes: tuple[int | None, ...] = dataclasses.field(
        default=(), metadata={"content": lambda axes: tuple(axis is not None for axis in axes)}  # not where they stand
    )
    order: tuple[int, ...] | None = None
    directed: bool = False

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    @property
    def is_cotangent(self) -> bool:
        """Whether it is that of a result."""
        return self.name.endswith("*")

    @property
    def batched(self) -> bool:
        return any(axis is not None for axis in self.axes)

    def batch(self, axis: int | None) -> Operand:
        """The operand under one more vmap, which gave it an axis at `axis` (None: none)."""
        moved = tuple(a if a is None or axis is None or a < axis else a + 1 for a in self.axes)
        return dataclasses.replace(self, axes=(*moved, axis))

    def layout(self) -> tuple[int, ...]:
        """Its dimensions from fastest to slowest: the batch axes, innermost first, then the lane's own."""
        batch = [axis for axis in self.axes if axis is not None]
        own = [axis for axis in range(len(self.shape) + len(batch)) if axis not in batch]
        return (*batch, *reversed(own if self.order is None else [own[axis] for axis in self.order]))

    def transposed(self) -> Operand:
        """The operand with its last two dimensions in the other order."""
        *others, row, column = range(len(self.shape))
        return dataclasses.replace(self, order=(*others, column, row))


@dataclasses.dataclass(frozen=True)
class Result:
    """One array that the kernel writes; shape and dtype are one lane's.

    Its batch axes stand behind the lane's own, outermost first: so the lanes run fastest in the plain order of memory, and
    a caller who keeps them there needs no transpose.

    unwritten: what XLA fills the array with before the launch, since lanes write but some of its elements; None: each lane
    writes all. The batch axes of such an array stand in front: what a lane writes is a piece of memory, and the rest of it is
    not touched.

    added: CHUNK lanes add to one array, behind one another or over a tree, so that a sum repeats to the bit whatever the block.

    fixed: it is what the controller chose, as the times of steps, and has no derivative. refusal: why a derivative that it has
    is not there, in the user's words. apart: its derivative is found by another solve.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    unwritten: Any = dataclasses.field(default=None, metadata={"content": lambda value: value is not None})
    added: bool = False
    fixed: bool = dataclasses.field(default=False, metadata={"content": None})  # the tangents that there are tell
    refusal: str | None = dataclasses.field(default=None, metadata={"content": None})  # likewise
    apart: bool = dataclasses.field(default=False, metadata={"content": None})  # likewise

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    @property
    def differentiable(self) -> bool:
        """Whether the kernels of derivatives have its tangents: a float that is not fixed."""
        return self.is_float and not self.fixed and not self.apart and self.refusal is None

    @property
    def is_float(self) -> bool:
        """Whether it is of a kind that can have a derivative."""
        return self.dtype.startswith("float")

    def tangent(self, piece: Piece) -> Result:
        """Its tangents of the order of a piece of the state, with an axis of directions behind that of rows if it has some."""
        unwritten = None if self.unwritten is None else 0
        shape = (*self.shape[:1], piece.directions, *self.shape[1:]) if piece.directed else self.shape
        return dataclasses.replace(self, name=tangent_name(self.name, piece.order), shape=shape, unwritten=unwritten)

    @property
    def batch_axis(self) -> int:
        """Where the outermost level's axis stands."""
        return len(self.shape) if self.unwritten is None else 0

    def axes(self, levels: int) -> tuple[int, ...]:
        """Where each level's axis stands, innermost first."""
        return tuple(self.batch_axis + levels - 1 - level for level in range(levels))

    def layout(self, levels: int) -> tuple[int, ...]:
        """Its dimensions from fastest to slowest."""
        return tuple(reversed(range(len(self.shape) + levels)))


def tangent_name(name: str, order: int) -> str:
    """What the tangent of an operand, result or input is called; order: which differentiations, as a bit mask."""
    return f"{name}.{order}" if order else name


def numbered(word: str, number: int | None) -> str:
    """The name of what a part has that there are several of, `number` among them; None: it is the only one."""
    return word if number is None else f"{word}_{number}"


def word_of(name: str) -> str:
    """The name without the number of a part, and without an order."""
    word, _, number = primal_of(name).rpartition("_")
    return word if number.isdigit() else primal_of(name)


def primal_of(name: str) -> str:
    """The name of what a tangent is of."""
    return name.partition(".")[0]


def primal_name(name: str) -> str:
    """What a function of the primal state alone is called in a kernel where the one of that name takes tangents, too."""
    return f"{name}_primal"


def in_order(name: str, order: int) -> str:
    """The name of what stands for `name` in another order: of a cotangent, that of the tangent."""
    return cotangent_name(tangent_name(name[:-1], order)) if name.endswith("*") else tangent_name(name, order)


def cotangent_name(name: str) -> str:
    """What the cotangent of an operand or a result is called."""
    return f"{name}*"


@dataclasses.dataclass(frozen=True)
class Piece:
    """Components of the state that lie together: first the primal ones, then their tangents.

    order: which differentiations they belong to, as a bit mask; 0: the primal ones. initial: the operand that they begin with;
    None: zeros. directions: of how many directions they are, one behind the other; 0: they are the same for all.
    """

    order: int
    size: int
    initial: str | None
    directions: int = 0

    @property
    def directed(self) -> bool:
        return self.directions > 0


@dataclasses.dataclass(frozen=True)
class Words:
    """The launch's 64-bit words: addresses of operands, of results, with a queue of its counter, the number of lanes, the size
    of each batch level."""

    operands: tuple[Operand, ...]
    results: tuple[Result, ...]
    levels: int
    queued: bool = False

    @property
    def lanes(self) -> int:
        """Where the number of lanes stands."""
        return len(self.operands) + len(self.results) + self.queued

    @property
    def counter(self) -> int | None:
        """Where the address of the queue's counter stands; None without a queue."""
        return self.lanes - 1 if self.queued else None

    @property
    def count(self) -> int:
        return self.lanes + 1 + self.levels

    def index(self, name: str) -> int:
        """The number of the operand called `name`."""
        return next(number for number, operand in enumerate(self.operands) if operand.name == name)


@dataclasses.dataclass(frozen=True)
class Window:
    """The rows of a table, an operand [points, ...], that functions of the user's are handed in its place: `rows` of them, from
    the one on at which a cursor stands, an int32 that is an input of the functions, too."""

    operand: str
    cursor: str
    rows: int

    def of(self, operand: Operand) -> tuple[int, ...]:
        """The shape of what is handed over, of that operand or of its tangent in several directions."""
        points = int(operand.directed)
        return (*operand.shape[:points], self.rows, *operand.shape[points + 1 :])


def window_of(windows: Iterable[Window], name: str) -> Window | None:
    """That of an operand, of its tangent, or of its cotangent; None where functions are handed it as a whole."""
    root = name.rstrip("*").partition(".")[0]
    return next((window for window in windows if window.operand == root), None)


@dataclasses.dataclass(frozen=True)
class FieldFunction:
    """A function that a method evaluates: of `inputs`, which the caller gives by these names, then of f's operands.

    inputs: "t", the time, and others as long as the state, "y" among them. structural_zeros: whether its zeros mean that
    nothing is there, as `translate_for_all` takes it.
    """

    call: Callable[..., Any]
    inputs: tuple[str, ...] = ("t", "y")
    structural_zeros: bool = False


@dataclasses.dataclass(frozen=True, eq=False)
class Traced:
    """A function of the user's as JAX has it: of `inputs`, as the time and the flat state, and the operands of those names,
    which gives a list of arrays. It holds no tracer. constants: known arrays that it has inside, with the operands that they
    are. said: what the user calls it. jaxpr: as it was traced. closed_over: what that closes over, operands by their number.
    windows: of the operands of which it takes some rows. numbers: those of the names in `operands` that are none, but numbers
    without a derivative that the caller gives, with their dtypes.
    """

    call: Callable[..., list[Any]]
    operands: tuple[str, ...]
    constants: tuple[tuple[Any, str], ...]
    said: str
    jaxpr: Any
    closed_over: tuple[Any, ...]
    inputs: tuple[str, ...] = ("t", "y")
    windows: tuple[Window, ...] = ()
    numbers: Mapping[str, str] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Function:
    """A function of the user's as a kernel evaluates it.

    arguments: the names of the program's inputs. operands: those of them that are operands; all others, as "t" and "y", are
    given by the caller. unroll: arrays of up to so many elements are unrolled in it. windows: of the operands of which it reads
    some rows. pulled: the outputs that are cotangents of such rows, by number, with the name of the operand.
    """

    name: str
    program: Program = dataclasses.field(metadata={"content": lambda program: program.digest})
    arguments: tuple[str, ...]
    operands: tuple[str, ...]
    unroll: int
    windows: tuple[Window, ...] = ()
    pulled: tuple[tuple[int, str], ...] = ()

    @property
    def inputs(self) -> tuple[str, ...]:
        """What the caller gives."""
        return tuple(name for name in self.arguments if name not in self.operands)

    @functools.cached_property
    def depends_on(self) -> frozenset[str]:
        """The inputs and operands that it depends on, and the cursors of those of which it reads rows."""
        read = {self.arguments[number] for number in self.program.reads()} | {name for _, name in self.pulled}
        windows = {name: window_of(self.windows, name) for name in read}
        return frozenset(windows) | {window.cursor for window in windows.values() if window is not None}
