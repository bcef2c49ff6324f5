"""The user's functions as programs over time, the flat state, and operands."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.core
import jax.extend.core as jex
import jax.numpy as jnp
import numpy as np
from jax.dtypes import float0
from jaxtyping import Array, PyTree

from ..field_errors import call_field, check_signature, in_derivative_words, in_our_words
from ..linear import Mass, Pattern, without_custom_vjp
from ..methods import Method
from ..operands import MASS, Function, Traced
from ..translate import check_dtype, trace, translate_for_all
from ..translate.platforms import PLATFORMS
from ..translate.program import DTYPES as KERNEL_DTYPES
from .state import State, name_of

_SAID_F = "f(t, y, args)"
# What the user calls the functions of rows.
SAID_OF_ROWS = {"output": "SaveAt(fn=...)", "observables": "observables"}


class Arguments:
    """The leaves of args that are arrays, as operands, and the way back from them to args. mass: an operand before these,
    where there is one."""

    def __init__(self, args: PyTree, dtype: str, mass: Any = None):
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
        self.own = tuple(f"f{number}" for number in range(len(self.arrays)))
        self._masses = () if mass is None else (MASS,)
        if mass is not None:
            self.arrays.insert(0, mass)
            self.avals.insert(0, jax.ShapeDtypeStruct(mass.shape, mass.dtype))

    @property
    def names(self) -> tuple[str, ...]:
        """What the operands are called; `own`: those of args."""
        return (*self._masses, *self.own)

    def fill(self, values: Sequence[Any]) -> PyTree:
        """args with `values`, those of all operands, in place of its arrays."""
        return eqx.combine(jax.tree.unflatten(self._structure, values[len(self._masses) :]), self._static)


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


More = Callable[[Callable, Method], Mapping[str, tuple[tuple[str, ...], jex.ClosedJaxpr]]]


@dataclasses.dataclass(frozen=True)
class TracedFunctions:
    """The user's functions of a solve.

    method: for this f. by_platform: programs, "f" first. traced: f and the functions of rows as JAX has them. closed_over: what
    they close over, by its names as operands. structures: those of the results of the functions of rows, by name. more: what
    was asked for besides, of time and state, as JAX has it.
    """

    method: Method
    by_platform: tuple[tuple[str, tuple[Function, ...]], ...]
    traced: tuple[tuple[str, Traced], ...]
    closed_over: dict[str, Any]
    structures: dict[str, Any]
    more: tuple[tuple[str, Traced], ...] = ()


def _time_and_state(state: State) -> tuple[jax.ShapeDtypeStruct, jax.ShapeDtypeStruct]:
    dtype = jnp.dtype(state.dtype)
    return jax.ShapeDtypeStruct((), dtype), jax.ShapeDtypeStruct((state.size,), dtype)


def trace_functions(
    f: Callable, of_rows: Mapping[str, Callable], method: Method, state: State, args: Arguments, unroll: int | str,
    mass: Mass | None = None, jac: Callable | None = None, sparsity: Pattern | None = None, more: More | None = None,
) -> TracedFunctions:
    """For each platform f, what the method derives of it, and the functions of rows: functions of time, the flat state, the
    operands of args and what they close over. of_rows: the user's, by their names in `ROWS`. more: of f and the method, for
    each function besides the names of its inputs and its jaxpr over these and the operands of args; they have no derivatives.
    """
    check_signature(f, _SAID_F)
    time, vector = _time_and_state(state)
    field = trace(flat_field(f, state, args), time, vector, *args.avals)
    inputs: dict[str, tuple[str, ...]] = dict.fromkeys(("f", *of_rows), ("t", "y"))
    closed, sparse = {"f": field}, set()
    forwards = without_custom_vjp(field)  # what a solver derives of f is what f computes, whatever its rule for cotangents
    with in_derivative_words(_SAID_F, reverse=False):
        method = method.fitted(forwards, mass, sparsity)
        for name, derived in method.functions(lambda *given: jex.jaxpr_as_fun(forwards)(*given)[0], jac).items():
            inputs[name] = derived.inputs
            sparse |= {name} if derived.structural_zeros else set()
            if name != "f":
                given = (time if one == "t" else vector for one in derived.inputs)
                closed[name] = trace(derived.call, *given, *args.avals)
    besides = []
    if more is not None:
        for name, (own, jaxpr) in more(lambda *given: jex.jaxpr_as_fun(forwards)(*given)[0], method).items():
            inputs[name], closed[name] = own, jaxpr
            besides += [name] if own == ("t", "y") else []
    structures = {}
    for name, function in of_rows.items():
        closed[name], structures[name] = _trace_output(function, SAID_OF_ROWS[name], state, args)
    translated, closed_over, names = {}, {}, {}
    conversions: dict[tuple[int, str], tuple[Any, Any]] = {}
    for name, jaxpr in closed.items():
        translated[name], constants = translate_for_all(jaxpr, unroll, conversions, structural_zeros=name in sparse)
        for value in constants:
            if id(value) not in names:  # several may close over it
                names[id(value)] = f"f{len(args.arrays) + len(closed_over)}"
                closed_over[names[id(value)]] = value

    def function(name: str, platform: str) -> Function:
        program, constants, limit = translated[name][platform]
        operands = (*args.names, *(names[id(value)] for value in constants))
        return Function(name, program, (*inputs[name], *operands), operands, limit)

    by_platform = tuple((platform, tuple(function(name, platform) for name in translated)) for platform in PLATFORMS)
    converted = {id(after): before for before, after in conversions.values()}
    given = {id(converted.get(id(value), value)): name for name, value in reversed(closed_over.items())}
    given |= {id(value): name for name, value in closed_over.items()}  # as it is, rather than converted
    known = tuple((value, name) for name, value in closed_over.items() if not isinstance(value, jax.core.Tracer))
    said = {"f": _SAID_F, **SAID_OF_ROWS}
    traced = tuple((name, _traced(closed[name], args.names, given, known, said[name])) for name in said if name in closed)
    as_traced = tuple((name, _traced(closed[name], args.names, given, known, "summaries")) for name in besides)
    return TracedFunctions(method, by_platform, traced, closed_over, structures, as_traced)


def _traced(
    closed: jex.ClosedJaxpr, names: Sequence[str], given: Mapping[int, str], known: tuple[tuple[Any, str], ...], said: str
) -> Traced:
    """The jaxpr of a function of time, state and the leaves of args, `names`, as one that is handed what it closes over, too.

    given: the operand that each constant is, by its id. Those that are none stay what they are, or are not needed.
    """
    operands = [*names, *dict.fromkeys(given[id(value)] for value in closed.consts if id(value) in given)]
    kept = []
    for value in closed.consts:
        aval = jax.typeof(value)
        number = operands.index(given[id(value)]) if id(value) in given else None
        unread = isinstance(value, jax.core.Tracer) and number is None
        kept.append((number, aval.dtype, np.zeros(aval.shape, aval.dtype) if unread else None if number is not None else value))

    def call(t: Any, y: Any, *values: Any) -> list[Any]:
        consts = [value if number is None else values[number].astype(dtype) for number, dtype, value in kept]
        return jex.jaxpr_as_fun(jex.ClosedJaxpr(closed.jaxpr, consts))(t, y, *values[: len(names)])

    closed_over = tuple(value if number is None else number for number, _, value in kept)
    return Traced(call, tuple(operands), known, said, closed.jaxpr, closed_over)


def flat_field(f: Callable, state: State, args: Arguments) -> Callable[..., Array]:
    """f as a function of time, the flat state and the leaves of args."""

    def field(t: Array, y: Array, *values: Array) -> Array:
        return call_field(f, "f(t, y, args)", derivative, t, state.unflatten(y), args.fill(values))

    def derivative(returned: PyTree) -> Array:
        return state.flatten(returned, "what f returns")

    return field


def _trace_output(fn: Callable, said: str, state: State, args: Arguments) -> tuple[Any, Any]:
    """The jaxpr of a function of rows over the same inputs, and the structure of its result."""
    structures = []

    def output(t: Array, y: Array, *values: Array) -> list[Array]:
        with in_our_words(said):
            leaves, structure = jax.tree.flatten(fn(t, state.unflatten(y), args.fill(values)))
        structures.append(structure)
        for leaf in leaves:
            if not eqx.is_array_like(leaf):
                raise TypeError(f"what {said} returns has a leaf of type {type(leaf).__name__}: expected arrays")
            if getattr(leaf, "dtype", None) == float0:
                raise ValueError(f"what {said} returns has a leaf of dtype {name_of(float0)}: leave it out")
        return [jnp.asarray(leaf) for leaf in leaves]

    check_signature(fn, "fn(t, y, args)" if said.startswith("SaveAt") else f"{said}(t, y, args)")
    closed = trace(output, *_time_and_state(state), *args.avals)
    if not closed.out_avals:
        raise ValueError(f"{said} returns no arrays (structure {structures[-1]}): there is nothing to save")
    return closed, structures[-1]
