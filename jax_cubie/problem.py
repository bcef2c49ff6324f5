"""From what the user says to what a kernel needs: f traced, arrays checked, flattened and named."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import equinox as eqx
import jax
import jax.core
import jax.numpy as jnp
import numpy as np
from jax.dtypes import float0
from jaxtyping import Array, Float, PyTree

from .buffers import BufferRegistry
from .field_errors import call_field, check_signature, in_our_words
from .foreign_names import instead_of_saveat
from .kernel.partition import join
from .methods import ButcherTableau, ExplicitRungeKutta
from .operands import Operand, Result
from .outputs import SaveAt, Saving
from .settings import concrete, is_number
from .times import Times, as_array, read_times, rounded
from .translate import Program, check_dtype, trace
from .translate.program import DTYPES as KERNEL_DTYPES

DTYPES = ("float32", "float64")
DEFAULT_MAX_STEPS = 100_000


@dataclasses.dataclass(frozen=True)
class Problem:
    """What is known once f is traced.

    operands: what the kernel reads; those that f reads, in the order of the program's inputs after time and state, are
    numbered by `field_operands`. saving: the rows of the solution. first_step_given: whether dt0 is an operand. registry:
    the buffers with their locations; their sizes are bound by the Plan.
    """

    program: Program
    method: ExplicitRungeKutta
    controller: tuple
    coefficients: tuple[str, ...]
    registry: BufferRegistry
    states: int
    dtype: str
    operands: tuple[Operand, ...]
    results: tuple[Result, ...]
    field_operands: tuple[int, ...]
    saving: Saving
    first_step_given: bool
    fastmath: bool
    unroll: int
    inline_f: bool | str
    block: int | str
    title: str = dataclasses.field(default="", compare=False)

    @property
    def adaptive(self) -> bool:
        return self.controller[0] != "fixed"

    @property
    def dense(self) -> bool:
        """Whether points inside of steps are found by the method's own dense output."""
        return self.saving.points > 0 and self.method.tableau.dense is not None


@dataclasses.dataclass(frozen=True)
class State:
    """How a state's pytree becomes the vector that a kernel integrates, and back."""

    structure: Any
    shapes: tuple[tuple[int, ...], ...]
    dtype: str

    @property
    def size(self) -> int:
        return sum(math.prod(shape) for shape in self.shapes)

    def flatten(self, tree: PyTree, what: str, *, broadcast: bool = False) -> Array:
        """`tree`, of this structure, as one vector [size]. Raises ValueError that speaks of `what` where it is not."""
        leaves, structure = jax.tree.flatten(tree)
        if structure != self.structure:
            hint = "; an array is one leaf, a list has one for each item" if isinstance(tree, list | tuple) else ""
            raise ValueError(
                f"{what} has the structure {structure}, but y0 has {self.structure}; they have to be equal{hint}"
            )
        parts = []
        for leaf, shape in zip(leaves, self.shapes, strict=True):
            leaf = _readable(leaf, what, self.dtype)
            if leaf.shape != shape and not (broadcast and leaf.shape == ()):
                raise ValueError(f"{what} has a leaf of shape {leaf.shape} where y0 has {shape}; they have to be equal")
            if not jnp.issubdtype(leaf.dtype, jnp.floating) and not jnp.issubdtype(leaf.dtype, jnp.integer):
                raise ValueError(f"{what} has a leaf of dtype {_named(leaf.dtype)}; expected real numbers ({self.dtype})")
            parts.append(jnp.broadcast_to(leaf.astype(self.dtype), shape).reshape(-1))
        return join(parts)

    def unflatten(self, vector: Array) -> PyTree:
        """[..., size] back as a pytree of [..., *shape]."""
        leaves, start = [], 0
        for shape in self.shapes:
            size = math.prod(shape)
            part = vector if len(self.shapes) == 1 else vector[..., start : start + size]
            leaves.append(part.reshape(*vector.shape[:-1], *shape))
            start += size
        return jax.tree.unflatten(self.structure, leaves)


def _readable(leaf: Any, what: str, dtype: str) -> Array:
    """A leaf as JAX's array. Raises ValueError for what is none."""
    if isinstance(leaf, int) and not isinstance(leaf, bool):
        return jnp.asarray(rounded(np.asarray(concrete(leaf)), dtype))  # JAX's default integer may be too small for it
    try:
        return jnp.asarray(leaf)
    except (TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"{what} has a leaf {leaf!r:.60}; expected numbers or an array of them ({dtype})") from error


def _named(dtype: Any) -> str:
    return "float0 (the derivative by an integer, which has no values)" if dtype == float0 else str(dtype)


def read_state(y0: PyTree) -> State:
    """Shapes and dtype of a state. Raises ValueError or TypeError for what can't be integrated."""
    leaves, structure = jax.tree.flatten(y0)
    shapes, dtypes = [], []
    for leaf in leaves:
        if not isinstance(leaf, (jax.Array, np.ndarray, np.generic, float, int, jax.ShapeDtypeStruct)) or isinstance(
            leaf, bool
        ):
            raise TypeError(f"y0 has a leaf of type {type(leaf).__name__}: expected arrays and numbers")
        known = getattr(leaf, "dtype", None)
        if isinstance(known, np.dtype) and known.kind in "OSUmM" or known in (np.longdouble, float0):
            name = _named(known)
            raise ValueError(f"y0 has a leaf of dtype {name}: expected real numbers that JAX knows, float32 or float64")
        shapes.append(tuple(np.shape(leaf)) if not isinstance(leaf, jax.ShapeDtypeStruct) else leaf.shape)
        dtypes.append(leaf)
    if sum(math.prod(shape) for shape in shapes) == 0:
        raise ValueError(f"y0 has no components (structure {structure}): there is nothing to integrate")
    given = jnp.result_type(*dtypes)
    if jnp.issubdtype(given, jnp.integer):
        given = jnp.result_type(float)
    if str(given) not in DTYPES:
        raise ValueError(
            f"y0 has dtype {given}: expected float32 or float64"
            + (" (write a complex state as its real and imaginary parts)" if "complex" in str(given) else "")
        )
    return State(structure, tuple(shapes), str(given))


@dataclasses.dataclass(frozen=True)
class Request:
    """A problem with the arrays to solve it for, and what is needed to present the results.

    output: the structure of what `SaveAt.fn` returns, None where the state is saved. args_leaves: how many of the problem's
    `field_operands` are leaves of args; f closes over the others.
    """

    problem: Problem
    arrays: tuple[Any, ...]
    state: State
    output: Any
    times: Times
    args_leaves: int


class Choices(Protocol):
    """What a request wants to know of a solver."""

    method: str | ButcherTableau
    control: Any
    max_steps: Any
    given: frozenset[str]
    buffers: BufferRegistry
    fastmath: bool
    unroll: int
    inline_f: bool | str
    block: int | str

    @property
    def stepper(self) -> ExplicitRungeKutta: ...


def make_request(
    solver: Choices,
    f: Callable[[Float[Array, ""], PyTree, PyTree], PyTree],
    t0: Any,
    t1: Any,
    y0: PyTree,
    args: PyTree,
    saveat: SaveAt,
    dt0: Any,
) -> Request:
    """Checks everything that is known now, traces f, and lists the kernel's operands."""
    if not callable(f):
        raise TypeError(f"f is {f!r} of type {type(f).__name__}: expected a function f(t, y, args)")
    if not isinstance(saveat, SaveAt):
        instead = instead_of_saveat(saveat)
        raise TypeError(f"saveat is {saveat!r}: expected a jax_cubie.SaveAt" + (f"; {instead}" if instead else ""))
    state = read_state(y0)
    dtype = state.dtype
    method = solver.stepper
    if dt0 is None and solver.control.kind == "fixed":
        raise ValueError(
            f"dt0 is None, but the controller is 'fixed' (method {solver.method!r}): give dt0, the size of its steps"
        )
    for name, value in (("t0", t0), ("t1", t1), *([] if dt0 is None else [("dt0", dt0)])):
        _check_scalar(name, value)
    times = read_times(t0, t1, saveat.ts, dtype)
    values: dict[str, Any] = {"t0": times.t0, "span": times.span}
    if dt0 is not None:
        values["dt0"] = _step_size(dt0, t0, t1, dtype)
    values["y0"] = _flat_state(y0, state)
    if saveat.points:
        values["offsets"] = times.offsets
    if saveat.steps or saveat.fn is not None:  # the kernel hands these times on
        values["t1"] = times.t1
        if saveat.points:
            values["ts"] = times.ts
    values["max_steps"] = _count("max_steps", solver.max_steps)
    coefficients: dict[str, Any] = {}
    if solver.control.kind == "pid":
        solver.control.check()
        for name in ("rtol", "atol"):
            values[name] = _tolerance(name, getattr(solver.control, name), state)
        _check_tolerances(solver.control.rtol, solver.control.atol, state)
        coefficients = solver.control.coefficients()
        for name, value in coefficients.items():
            values[name] = _scalar(name, value, dtype)

    dynamic = _Arguments(args, dtype)
    program, constants = _trace_field(f, state, dynamic, solver.unroll)
    first_leaf = len(values)
    for number, leaf in enumerate((*dynamic.arrays, *constants)):
        values[f"f{number}"] = leaf
    after_field = len(values)
    function, output, constants = _trace_output(saveat.fn, state, dynamic, solver.unroll)
    for number, leaf in enumerate(constants):
        values[f"fn{number}"] = leaf
    if saveat.steps and "max_steps" not in solver.given and concrete(solver.max_steps) == DEFAULT_MAX_STEPS:
        raise ValueError(
            f"SaveAt(steps=...) keeps room for max_steps rows in every lane, and max_steps was left at {DEFAULT_MAX_STEPS:,}: "
            "give max_steps=, somewhat more steps than you expect"
        )
    saving = _make_saving(
        saveat,
        solver.max_steps,
        function,
        (*range(first_leaf, first_leaf + len(dynamic.arrays)), *range(after_field, len(values))),
    )

    operands = tuple(
        Operand(name, tuple(value.shape), str(value.dtype)) for name, value in values.items()
    )
    counts = ["accepted", "rejected", "result"]
    if saveat.points and method.dense_stages:
        counts.append("dense")
    results = (*saving.results(state.size, dtype), *(Result(name, (), "int32") for name in counts))
    problem = Problem(
        program=program,
        method=method,
        controller=solver.control.content(),
        coefficients=tuple(coefficients),
        registry=solver.buffers,
        states=state.size,
        dtype=dtype,
        operands=operands,
        results=results,
        field_operands=tuple(range(first_leaf, after_field)),
        saving=saving,
        first_step_given=dt0 is not None,
        fastmath=solver.fastmath,
        unroll=solver.unroll,
        inline_f=solver.inline_f,
        block=solver.block,
        title=getattr(f, "__qualname__", type(f).__name__),
    )
    return Request(problem, tuple(values.values()), state, output, times, len(dynamic.arrays))


def _make_saving(saveat: SaveAt, max_steps: Any, function: Program | None, operands: tuple[int, ...]) -> Saving:
    most = 0
    if saveat.steps:
        known = concrete(max_steps)
        if known is None:
            raise TypeError(
                "SaveAt(steps=...) needs max_steps as a Python int, since it bounds the rows of the solution, but here it is "
                f"traced ({type(max_steps).__name__}): set it outside of jit, vmap and grad"
            )
        most = int(known)
    saving = Saving(
        t0=saveat.t0,
        points=saveat.points,
        steps=saveat.steps,
        t1=saveat.t1,
        max_steps=most,
        function=function,
        operands=() if function is None else operands,
    )
    if saving.rows == 0:
        raise ValueError(f"SaveAt(steps={saveat.steps}) has no row with max_steps={most}: there are max_steps // steps of them")
    return saving


def _check_scalar(name: str, value: Any) -> None:
    if not is_number(value):
        raise TypeError(f"{name} is {value!r} of type {type(value).__name__}: expected a number")
    if np.shape(value) != ():
        raise ValueError(
            f"{name} has shape {np.shape(value)}: expected a scalar. solve takes one trajectory; jax.vmap of it takes many"
        )


def _scalar(name: str, value: Any, dtype: str) -> Any:
    _check_scalar(name, value)
    return as_array(value, dtype)


def _count(name: str, value: Any) -> Any:
    """An int32; a wider one that is traced is held to its range."""
    _check_scalar(name, value)
    if not isinstance(value, int) and not jnp.issubdtype(value.dtype, jnp.integer):
        raise TypeError(f"{name} has dtype {value.dtype}: expected an integer")
    held = np.iinfo("int32")
    if isinstance(value, jax.core.Tracer) and (given := np.iinfo(value.dtype)).max > held.max:
        value = jnp.clip(value, max(given.min, held.min), held.max)
    return as_array(value, "int32")


def _step_size(dt0: Any, t0: Any, t1: Any, dtype: str) -> Any:
    known, start, end = concrete(dt0), concrete(t0), concrete(t1)
    if known is not None:
        step = rounded(known, dtype)
        if not np.isfinite(step):
            raise ValueError(f"dt0={dt0}: expected a finite number" + f" of {dtype}" * bool(np.isfinite(known)))
        if np.any((step == 0) & (known != 0)):
            raise ValueError(f"dt0={dt0} is 0 in {dtype}, y0's dtype: take a larger step, or solve in float64")
        if start is not None and end is not None and start != end and not step * (1 if start < end else -1) > 0:
            raise ValueError(f"dt0={dt0}: expected a step from t0={t0} towards t1={t1}, so of the sign of t1 - t0")
    return as_array(dt0, dtype)


def _flat_state(y0: PyTree, state: State) -> Any:
    if any(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in jax.tree.leaves(y0)):
        return jax.ShapeDtypeStruct((state.size,), jnp.dtype(state.dtype))
    return state.flatten(y0, "y0")


def _tolerance(name: str, value: Any, state: State) -> Any:
    if isinstance(value, jax.ShapeDtypeStruct):
        return as_array(value, state.dtype)
    if jax.tree.structure(value) == jax.tree.structure(0) and jnp.shape(value) == ():
        return as_array(value, state.dtype)
    return state.flatten(value, name, broadcast=True)


def _check_tolerances(rtol: PyTree, atol: PyTree, state: State) -> None:
    """No component may have two tolerances of 0, where they are known."""
    known = []
    for tree in (rtol, atol):
        leaves = [concrete(leaf) for leaf in jax.tree.leaves(tree)]
        leaves = [None if leaf is None else rounded(leaf, state.dtype) for leaf in leaves]
        one_for_all = jax.tree.structure(tree) == jax.tree.structure(0)
        known.append(leaves * len(state.shapes) if one_for_all else leaves)
    for one, other in zip(*known, strict=True):
        if one is not None and other is not None and not np.all(one + other > 0):
            raise ValueError(
                f"rtol and atol are both 0 (in {state.dtype}, y0's dtype), which no step can meet: give at least one of them"
            )


class _Arguments:
    """The leaves of args that are arrays, as operands, and the way back from them to args."""

    def __init__(self, args: PyTree, dtype: str):
        dynamic, self._static = eqx.partition(args, _is_operand)
        leaves, self._structure = jax.tree_util.tree_flatten_with_path(dynamic)
        self.arrays: list[Any] = []
        self.avals: list[jax.ShapeDtypeStruct] = []
        for path, leaf in leaves:
            if isinstance(leaf, jax.ShapeDtypeStruct):
                array, weak = leaf, False
            elif isinstance(leaf, float):
                # A Python number adapts to the solve's dtype, as it does anywhere in JAX.
                array, weak = jnp.asarray(leaf, dtype), True
            elif isinstance(leaf, int) and not isinstance(leaf, bool):
                array, weak = _default_int(leaf), True
            else:
                array, weak = jnp.asarray(leaf), False
            check_dtype(f"args{jax.tree_util.keystr(path)}", array)
            self.arrays.append(array)
            self.avals.append(jax.ShapeDtypeStruct(array.shape, array.dtype, weak_type=weak))

    def fill(self, values: Sequence[Any]) -> PyTree:
        """args with `values` in place of its arrays."""
        return eqx.combine(jax.tree.unflatten(self._structure, values), self._static)


def _is_operand(leaf: Any) -> bool:
    """Arrays and numbers, but for those that no kernel can hold and f may never read: keys, half-precision, complex, text."""
    if isinstance(leaf, jax.ShapeDtypeStruct):
        return True
    return eqx.is_array_like(leaf) and str(getattr(leaf, "dtype", "float32")) in KERNEL_DTYPES


def _default_int(value: int) -> Array:
    try:
        return jnp.asarray(value)
    except OverflowError:
        kind = jnp.result_type(int)
        raise ValueError(f"args has the integer {value}, which {kind} does not hold: use a float, or switch x64 on") from None


def _time_and_state(state: State) -> tuple[jax.ShapeDtypeStruct, jax.ShapeDtypeStruct]:
    dtype = jnp.dtype(state.dtype)
    return jax.ShapeDtypeStruct((), dtype), jax.ShapeDtypeStruct((state.size,), dtype)


def _trace_field(f: Callable, state: State, args: _Arguments, unroll: int) -> tuple[Program, list[Any]]:
    """f's program over time, the flat state and the leaves of args, then what f closes over; and the latter."""

    def field(t: Array, y: Array, *values: Array) -> Array:
        return call_field(f, "f(t, y, args)", derivative, t, state.unflatten(y), args.fill(values))

    def derivative(returned: PyTree) -> Array:
        return state.flatten(returned, "what f returns")

    check_signature(f, "f(t, y, args)")
    return trace(field, *_time_and_state(state), *args.avals, unroll=unroll)


def _trace_output(
    fn: Callable | None, state: State, args: _Arguments, unroll: int
) -> tuple[Program | None, Any, list[Any]]:
    """The program of `SaveAt.fn` over the same inputs, the structure of its result, and what fn closes over."""
    if fn is None:
        return None, None, []
    structures = []

    def output(t: Array, y: Array, *values: Array) -> list[Array]:
        with in_our_words("SaveAt(fn=...)"):
            leaves, structure = jax.tree.flatten(fn(t, state.unflatten(y), args.fill(values)))
        structures.append(structure)
        for leaf in leaves:
            if not eqx.is_array_like(leaf):
                raise TypeError(f"what SaveAt(fn=...) returns has a leaf of type {type(leaf).__name__}: expected arrays")
            if getattr(leaf, "dtype", None) == float0:
                raise ValueError(f"what SaveAt(fn=...) returns has a leaf of dtype {_named(float0)}: leave it out")
        return [jnp.asarray(leaf) for leaf in leaves]

    check_signature(fn, "fn(t, y, args)")
    program, constants = trace(output, *_time_and_state(state), *args.avals, unroll=unroll)
    if not program.outputs:
        raise ValueError(f"SaveAt(fn=...) returns no arrays (structure {structures[-1]}): there is nothing to save")
    return program, structures[-1], constants


__all__: Sequence[str] = ("Problem", "Request", "State", "make_request", "read_state")
