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
from ..inputs import NO_DRIVERS, Drivers, Schedule, make_tables
from ..linear import Mass, Pattern, without_custom_vjp
from ..methods import Method
from ..operands import LEG, MASS, TIME, Function, Traced, Window, window_of
from ..settings import as_now, refuse_symbolic
from ..times import as_array
from ..translate import check_dtype, trace, translate_for_all
from ..translate.platforms import PLATFORMS
from ..translate.program import DTYPES as KERNEL_DTYPES
from .separation import Separation
from .state import State, name_of


class Arguments:
    """What functions of the user's are given behind the state: args, and with drivers their values; as operands, and the way
    back from these.

    mass: an operand before all others, where there is one. t0: as the user gave it.
    schedule: what jumps there are, of which f is given rates that are added to it.
    """

    def __init__(
        self,
        args: PyTree,
        dtype: str,
        mass: Any = None,
        drivers: Drivers = NO_DRIVERS,
        t0: Any = None,
        schedule: Schedule | None = None,
    ):
        self._dtype = dtype
        self._infused = () if schedule is None else schedule.infused
        dynamic, self._static = eqx.partition(args, _is_operand)
        leaves, self._structure = jax.tree_util.tree_flatten_with_path(dynamic)
        self.arrays: list[Any] = []
        self.avals: list[jax.ShapeDtypeStruct] = []
        for path, leaf in leaves:
            said = f"args{jax.tree_util.keystr(path)}"
            refuse_symbolic(said, leaf)
            if isinstance(leaf, jax.ShapeDtypeStruct):
                array, weak = leaf, False
            elif isinstance(leaf, float):
                # A Python number adapts to the solve's dtype, as it does anywhere in JAX.
                array, weak = jnp.asarray(leaf, dtype), True
            elif isinstance(leaf, int):
                array, weak = _default_int(leaf), True
            else:
                array, weak = as_now(jnp.asarray(leaf)), False
            check_dtype(said, array)
            self.arrays.append(array)
            self.avals.append(jax.ShapeDtypeStruct(array.shape, array.dtype, weak_type=weak))
        self.own = tuple(f"f{number}" for number in range(len(self.arrays)))
        self._masses = () if mass is None else (MASS,)
        if mass is not None:
            self.arrays.insert(0, jnp.asarray(mass) if isinstance(mass, np.ndarray) else mass)
            self.avals.insert(0, jax.ShapeDtypeStruct(mass.shape, mass.dtype))
        self.tables = make_tables(drivers, t0, dtype, lambda k: f"f{len(self.own) + 1 + k}") if drivers.given else None
        self._t0, self._driven = None, {} if self.tables is None else dict(self.tables.arrays)
        if self.tables is not None and self.tables.cursors:
            self._t0 = f"f{len(self.own)}"
            self._driven = {self._t0: as_array(t0, dtype), **self._driven}
        self._rates = f"f{len(self.own) + len(self._driven)}"
        if schedule is not None and self._infused:
            self._driven[self._rates] = schedule.rates
        for name, array in self._driven.items():
            window = window_of(self.windows, name)
            shape = array.shape if window is None else (window.rows, *array.shape[1:])
            self.arrays.append(array)
            self.avals.append(jax.ShapeDtypeStruct(shape, array.dtype))
        self.avals += [jax.ShapeDtypeStruct((), jnp.dtype(kind)) for kind in self.numbers.values()]

    @property
    def names(self) -> tuple[str, ...]:
        """What the operands are called, those of `arrays`; `own`: those of args."""
        return (*self._masses, *self.own, *self._driven)

    @property
    def numbers(self) -> dict[str, str]:
        """What functions are handed behind the operands, without a derivative, with dtypes; `avals` are those of all."""
        found = {} if self.tables is None or not self.tables.cursors else {TIME: self._dtype, **self.tables.inputs}
        return found | ({LEG: "int32"} if self._infused else {})

    @property
    def windows(self) -> tuple[Window, ...]:
        """Of the operands of which functions are handed some rows."""
        found = () if self.tables is None else self.tables.windows
        return (*found, Window(self._rates, LEG, 1)) if self._infused else found

    @property
    def of_drivers(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """The names of operands that are drivers', and of those that t0 has an effect on."""
        if self.tables is None:
            return (), ()
        moved = tuple(name for name in (self._t0, *self.tables.of_t0) if name is not None)
        return tuple(name for name in self.tables.arrays if name not in moved), moved

    @property
    def said(self) -> str:
        """What functions are called with."""
        return "(t, y, args)" if self.tables is None else "(t, y, args, u)"

    def check_signature(self, function: Callable, name: str, *before: str) -> None:
        """Raises FieldError where a function of the user's, of that name, can't be called so; before: what comes first."""
        said = "".join(f"{one}, " for one in before) + self.said.removeprefix("(")
        check_signature(function, f"{name}({said}", len(before) + (3 if self.tables is None else 4))

    def at_t0(self, t0: Any) -> tuple[Any, list[Any]]:
        """The time and the values of `names` and `numbers` that functions in a kernel are given at t0; all has to be known."""
        with jax.ensure_compile_time_eval():
            named = dict(zip(self.names, self.arrays, strict=True))
            if self._infused:
                named |= {self._rates: named[self._rates][:1], LEG: np.int32(0)}
            if self._t0 is not None and self.tables is not None:
                named |= {TIME: as_array(t0, self._dtype)}
                named |= self.tables.at_t0(named)
                t0 = jnp.zeros((), self._dtype)
            return t0, [named[name] for name in (*self.names, *self.numbers)]

    def at(self, t: Any, values: Sequence[Any]) -> tuple[Any, ...]:
        """The time that functions of the user's are called with, and what comes behind the state. t: theirs in a kernel.
        values: of `names` and `numbers`."""
        named = dict(zip((*self.names, *self.numbers), values, strict=False))
        filled = jax.tree.unflatten(self._structure, [named[name] for name in self.own])
        args = eqx.combine(filled, self._static)
        if self.tables is None:
            return t, args
        return t if self._t0 is None else _with_derivative(named[TIME], t + named[self._t0]), args, self.tables.at(t, named)

    @property
    def infuses(self) -> bool:
        """Whether something is added to f."""
        return bool(self._infused)

    def infused(self, values: Sequence[Any], size: int) -> Array:
        """What is added to f, [size], at the values of the operands and numbers."""
        (row,) = dict(zip(self.names, values, strict=False))[self._rates]
        parts, done = [], 0
        for number, place in enumerate(self._infused):
            parts += [jnp.zeros(place - done, row.dtype), row[number : number + 1]]
            done = place + 1
        return jnp.concatenate([*parts, jnp.zeros(size - done, row.dtype)])


def _with_derivative(value: Array, like: Array) -> Array:
    """The value, with the derivative of what differs from it by rounding."""
    return value + (like - jax.lax.stop_gradient(like))


def _is_operand(leaf: Any) -> bool:
    """Arrays and real numbers, but for those that no kernel can hold and f may never read: keys, half-precision, complex, text.

    Python's booleans are none: they choose what f does, as those of modules that tell how a layer is called.
    """
    if isinstance(leaf, jax.ShapeDtypeStruct):
        return True
    if isinstance(leaf, (bool, complex)):
        return False
    return eqx.is_array_like(leaf) and str(getattr(leaf, "dtype", "float32")) in KERNEL_DTYPES


def _default_int(value: int) -> Array:
    try:
        return jnp.asarray(value)
    except OverflowError:
        kind = jnp.result_type(int)
        raise ValueError(f"args has the integer {value}, which {kind} does not hold: use a float, or switch x64 on") from None


@dataclasses.dataclass(frozen=True)
class Output:
    """A function of the user's, `call(t, y, args)`, whose results are saved. name: the argument that it was. said: what the
    user calls it."""

    call: Callable[..., PyTree]
    name: str
    said: str


@dataclasses.dataclass(frozen=True)
class Extra:
    """A function that a part evaluates. jaxpr: of `inputs`, and of the operands of args. said: what the user calls it; None: it
    has no derivatives. apart: these are found by another solve, whose functions are made of it."""

    inputs: tuple[str, ...]
    jaxpr: jex.ClosedJaxpr
    said: str | None = None
    apart: bool = False


@dataclasses.dataclass(frozen=True)
class TracedFunctions:
    """The user's functions of a solve.

    method: for this f. by_platform: programs, "f" first. traced: f and each function of rows as JAX has them. closed_over: what
    they close over, by its names as operands. structures: of the results of each function of rows, by its name. apart: those
    whose derivatives another solve finds, as JAX has them.
    """

    method: Method
    by_platform: tuple[tuple[str, tuple[Function, ...]], ...]
    traced: tuple[tuple[str, Traced], ...]
    closed_over: dict[str, Any]
    structures: dict[str, Any]
    apart: tuple[tuple[str, Traced], ...] = ()


def _time_and_state(state: State) -> tuple[jax.ShapeDtypeStruct, jax.ShapeDtypeStruct]:
    dtype = jnp.dtype(state.dtype)
    return jax.ShapeDtypeStruct((), dtype), jax.ShapeDtypeStruct((state.size,), dtype)


def trace_functions(
    f: Callable, outputs: Mapping[str, Output], method: Method, state: State, args: Arguments, unroll: int | str,
    mass: Mass | None = None, jac: Callable | None = None, sparsity: Pattern | None = None,
    separation: Separation | None = None, more: Callable[[Callable, Method], Mapping[str, Extra]] | None = None,
) -> TracedFunctions:
    """For each platform f, what the method derives of it and `outputs`, by their names: functions of time, the flat state, the
    operands of args and what they close over. jac, sparsity: of f. separation: what f and these are brought to before all else.
    more: of the slope of the state, as a function of the same, and the method, what else is evaluated, by name."""
    said_f = f"f{args.said}"
    args.check_signature(f, "f")
    time, vector = _time_and_state(state)
    flat = flat_field(f, state, args)
    if separation is not None:
        flat = separation.of_function(flat)
        jac = None if jac is None else separation.of_function(jac)
        sparsity = None if sparsity is None else separation.of_pattern(sparsity)
    if args.infuses:
        flat = _with_infusions(flat, state.size, args, mass)
    field = trace(flat, time, vector, *args.avals)
    inputs: dict[str, tuple[str, ...]] = dict.fromkeys(("f", *outputs), ("t", "y"))
    closed, sparse = {"f": field}, set()
    forwards = without_custom_vjp(field)  # what a solver derives of f is what f computes, whatever its rule for cotangents
    with in_derivative_words(said_f, reverse=False):
        method = method.fitted(forwards, mass, sparsity)
        for name, derived in method.functions(lambda *given: jex.jaxpr_as_fun(forwards)(*given)[0], jac).items():
            inputs[name] = derived.inputs
            sparse |= {name} if derived.structural_zeros else set()
            if name != "f":
                given = (time if one == "t" else vector for one in derived.inputs)
                closed[name] = trace(derived.call, *given, *args.avals)
    slope = method.slope_of(lambda *given: jex.jaxpr_as_fun(forwards)(*given)[0])
    extras = {} if more is None else more(slope, method)
    for name, extra in extras.items():
        inputs[name], closed[name] = extra.inputs, extra.jaxpr
    structures = {}
    for name, output in outputs.items():
        closed[name], structures[name] = _trace_output(output, state, args)
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
        arguments = (*inputs[name], *args.names, *args.numbers, *operands[len(args.names) :])
        return Function(name, program, arguments, operands, limit, args.windows)

    by_platform = tuple((platform, tuple(function(name, platform) for name in translated)) for platform in PLATFORMS)
    converted = {id(after): before for before, after in conversions.values()}
    given = {id(converted.get(id(value), value)): name for name, value in reversed(closed_over.items())}
    given |= {id(value): name for name, value in closed_over.items()}  # as it is, rather than converted
    known = tuple((value, name) for name, value in closed_over.items() if not isinstance(value, jax.core.Tracer))
    said = {"f": said_f, **{name: output.said for name, output in outputs.items()}}
    said |= {name: extra.said for name, extra in extras.items() if extra.said is not None}
    traced = {name: _traced(closed[name], inputs[name], args, given, known, words) for name, words in said.items()}
    apart = tuple((name, traced.pop(name)) for name, extra in extras.items() if extra.apart)
    return TracedFunctions(method, by_platform, tuple(traced.items()), closed_over, structures, apart)


def _traced(
    closed: jex.ClosedJaxpr, inputs: tuple[str, ...], args: Arguments, given: Mapping[int, str],
    known: tuple[tuple[Any, str], ...], said: str,
) -> Traced:
    """The jaxpr of a function of `inputs` and `args` as one that is handed what it closes over, too.

    given: the operand that each constant is, by its id. Those that are none stay what they are, or are not needed.
    """
    names = (*args.names, *args.numbers)
    operands = [*names, *dict.fromkeys(given[id(value)] for value in closed.consts if id(value) in given)]
    kept = []
    for value in closed.consts:
        aval = jax.typeof(value)
        number = operands.index(given[id(value)]) if id(value) in given else None
        unread = isinstance(value, jax.core.Tracer) and number is None
        kept.append((number, aval.dtype, np.zeros(aval.shape, aval.dtype) if unread else None if number is not None else value))

    def call(*handed: Any) -> list[Any]:
        own, values = handed[: len(inputs)], handed[len(inputs) :]
        consts = [value if number is None else values[number].astype(dtype) for number, dtype, value in kept]
        return jex.jaxpr_as_fun(jex.ClosedJaxpr(jaxpr, consts))(*own, *values[: len(names)])

    jaxpr = closed.jaxpr  # without its constants, which may be tracers: a problem outlives what is traced around it
    closed_over = tuple(value if number is None else number for number, _, value in kept)
    return Traced(call, tuple(operands), known, said, jaxpr, closed_over, inputs, args.windows, args.numbers)


def flat_field(f: Callable, state: State, args: Arguments) -> Callable[..., Array]:
    """f as a function of time, the flat state and the leaves of args."""

    def field(t: Array, y: Array, *values: Array) -> Array:
        time, *others = args.at(t, values)
        return call_field(f, f"f{args.said}", derivative, time, state.unflatten(y), *others)

    def derivative(returned: PyTree) -> Array:
        return state.flatten(returned, "what f returns")

    return field


def _with_infusions(field: Callable[..., Array], size: int, args: Arguments, mass: Mass | None) -> Callable[..., Array]:
    """f, and what is infused: rates of the state, so that an infusion is many small doses. With a mass matrix M f is none, and
    the rates are multiplied by M; it has no share in algebraic equations."""

    def infused(t: Array, y: Array, *values: Array) -> Array:
        rates = args.infused(values, size)
        return field(t, y, *values) + (rates if mass is None else mass.product().call(t, rates, values[0]))

    return infused


def _trace_output(output: Output, state: State, args: Arguments) -> tuple[Any, Any]:
    """The jaxpr of such a function over the same inputs as f's, and the structure of its result."""
    structures, said = [], output.said

    def flat(t: Array, y: Array, *values: Array) -> list[Array]:
        with in_our_words(said):
            time, *others = args.at(t, values)
            leaves, structure = jax.tree.flatten(output.call(time, state.unflatten(y), *others))
        structures.append(structure)
        for leaf in leaves:
            if not eqx.is_array_like(leaf):
                raise TypeError(f"what {said} returns has a leaf of type {type(leaf).__name__}: expected arrays")
            if getattr(leaf, "dtype", None) == float0:
                raise ValueError(f"what {said} returns has a leaf of dtype {name_of(float0)}: leave it out")
        return [jnp.asarray(leaf) for leaf in leaves]

    args.check_signature(output.call, output.name)
    closed = trace(flat, *_time_and_state(state), *args.avals, said=said)
    if not closed.out_avals:
        raise ValueError(f"{said} returns no arrays (structure {structures[-1]}): there is nothing to save")
    return closed, structures[-1]
