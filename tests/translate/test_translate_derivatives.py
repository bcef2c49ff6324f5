"""Derivatives of functions as programs: of every rule, and of functions as users write them up to third order."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import FLOATS, INF, Case, avals, flat, normal
from cases_arrays import ARRAY_CASES
from cases_control import CONTROL_CASES
from cases_elementwise import ELEMENTWISE_CASES
from cases_fields import FIELDS, Field, clipped, clipped_by_equinox, network
from cases_reductions import REDUCTION_CASES
from harness import Compiled, program_of
from jax import lax
from jax.dtypes import float0
from jax.extend.core import jaxpr_as_fun

from jax_cubie.field_errors import FieldError, in_derivative_words
from jax_cubie.translate import Program, UnsupportedPrimitiveError, trace, translate, translate_for_all, translate_tangents

Arrays = Sequence[Any]

# JAX has no derivative: of the operation, of some of its options, by some of its arguments.
UNDERIVED = {"scatter", "scatter-mul", "reduce_window", "reduce_window_max", "reduce", "custom_vmap_call", "composite",
             "linear_call", "householder_product", "cholesky_update", "symmetric_product", "nextafter", "zeta", "polygamma",
             "regularized_incomplete_beta", "igamma_grad_a"}
FORWARDS_ONLY = {"while"}
REVERSE_ONLY = {"custom_vjp_call"}
# Where XLA is no reference: at a pole of digamma, at -10.3, where its polygamma says 1e17, and at limits of igamma.
BUT = {"lgamma": (0.0,), "digamma": (-10.3,), "igamma": (0.0, INF), "igammac": (0.0, INF)}


def _few_of_each(cases: Sequence[Case]) -> list[Case]:
    """Of each primitive's cases the first and one from the middle; of those that take long to build the first alone."""
    named: dict[str, list[Case]] = {}
    for case in cases:
        if set(case.dtypes) & {*FLOATS}:
            named.setdefault(case.name, []).append(case)
    long = {"cummax", "cummin", "cumlogsumexp", "pad", "cholesky", "custom_linear_solve", "lu", "triangular_solve"}
    return [case for name, every in named.items() for case in (
        every[0], *([] if name in long or len(every) == 1 else [every[len(every) // 2]]))]


CASES = _few_of_each([*ELEMENTWISE_CASES, *ARRAY_CASES, *REDUCTION_CASES, *CONTROL_CASES])
TOGETHER = 70


def is_float(x: Any) -> bool:
    return np.issubdtype(np.asarray(x).dtype, np.floating)


def numbers_like(arrays: Arrays, seed: int) -> list[np.ndarray]:
    random = np.random.default_rng(seed)
    return [random.normal(size=np.shape(x)).astype(np.asarray(x).dtype) for x in arrays]


class Derivative(NamedTuple):
    """A traced function, its derivative, and the arguments of that; `own`: how many results are the function's."""

    name: str
    closed: Any
    derivative: Any
    args: list[Any]
    own: int
    case: Case | None = None


def forwards(name: str, closed: Any, args: Arrays, seed: int = 1, case: Case | None = None) -> Derivative:
    """By all floats: the results, and the tangents of those that are floats."""
    places = [k for k, x in enumerate(args) if is_float(x)]

    def jvp(*values: Any) -> list[Any]:
        primals, given = values[:len(args)], iter(values[len(args):])
        tangents = [next(given) if k in places else np.zeros(np.shape(x), float0) for k, x in enumerate(args)]
        results, changes = jax.jvp(jaxpr_as_fun(closed), tuple(primals), tuple(tangents))
        return [*results, *[x for x in changes if x.dtype != float0]]

    given = [*args, *numbers_like([args[k] for k in places], seed)]
    return Derivative(name, closed, trace(jvp, *avals(given)), given, len(closed.out_avals), case)


def backwards(name: str, closed: Any, args: Arrays, seed: int = 2, case: Case | None = None) -> Derivative:
    """By all floats: the cotangents of the arguments for those of the results that are floats."""
    places = [k for k, x in enumerate(args) if is_float(x)]
    floats_of = [np.zeros(a.shape, a.dtype) for a in closed.out_avals if np.issubdtype(a.dtype, np.floating)]
    cotangents = numbers_like(floats_of, seed)

    def vjp(*values: Any) -> list[Any]:
        primals, given = values[:len(args)], values[len(args):]

        def floats(*some: Any) -> list[Any]:
            varied = dict(zip(places, some, strict=True))
            results = jaxpr_as_fun(closed)(*[varied.get(k, x) for k, x in enumerate(primals)])
            return [x for x in results if jnp.issubdtype(x.dtype, jnp.floating)]

        return list(jax.vjp(floats, *[primals[k] for k in places])[1](list(given)))

    given = [*args, *cotangents]
    return Derivative(name, closed, trace(vjp, *avals(given)), given, 0, case)


def reference(derivatives: Sequence[Derivative]) -> Any:
    together = jax.jit(lambda every: [jaxpr_as_fun(d.derivative)(*a) for d, a in zip(derivatives, every, strict=True)],
                       compiler_options={"xla_backend_optimization_level": 0})
    return together([d.args for d in derivatives])


def check(derivatives: Sequence[Derivative], unroll: int | str = "auto") -> None:
    """Against JAX; and the function's own results in a program of tangents are those of its own program, bit by bit."""
    programs: list[Program] = []
    arguments: list[list[Any]] = []

    def add(translated: Any, args: Arrays) -> None:
        program, constants, _ = translated["cpu"]
        programs.append(program)
        arguments.append([*args, *constants])

    for d in derivatives:
        if d.own:
            conversions: dict[Any, Any] = {}
            alone, _ = translate_for_all(d.closed, unroll, conversions)
            made, _ = translate_tangents(d.derivative, d.closed, {name: one[2] for name, one in alone.items()}, conversions)
            add(alone, d.args[:len(d.closed.in_avals)])
        else:
            made, _ = translate_for_all(d.derivative, unroll)
        add(made, d.args)
    image = Compiled(programs)
    found = (image(k, *args) for k, args in enumerate(arguments))
    failures = []
    for d, wants in zip(derivatives, reference(derivatives), strict=True):
        by_itself = next(found) if d.own else []
        results = next(found)
        for own, result in zip(by_itself, results[:d.own], strict=True):
            if own.tobytes() != result.tobytes():
                failures.append(f"{d.name}: {own} alone, and {result} with tangents")
        for number, (got, want) in enumerate(zip(results, wants, strict=True)):
            try:
                assert_near(got, np.asarray(want), d)
            except AssertionError as error:
                failures.append(f"{d.name}, result {number}: {error}")
    assert not failures, f"{len(failures)} failures\n" + "\n".join(failures)


def assert_near(got: np.ndarray, want: np.ndarray, d: Derivative) -> None:
    assert got.dtype == want.dtype
    if not is_float(want):
        np.testing.assert_array_equal(got, want)
        return
    case = d.case
    if case is not None and case.name == "reduce_max":
        got = np.where(np.isnan(got), want, got)  # 0 / 0 * 0, which XLA takes for a choice, not for a product
    ulp, atol = (64, 1e-6) if case is None else (max(64, case.ulp), max(1e-6, case.atol))
    np.testing.assert_allclose(got, want, rtol=16 * ulp * np.finfo(want.dtype).eps,
                               atol=16 * atol * (1 if want.dtype == np.float32 else 1e-6))


# -- every rule -----------------------------------------------------------------------------------------------

def _of_case(take: Callable[..., Derivative], case: Case, dtype: str, without: set[str]) -> Derivative | None:
    """None where JAX has none."""
    args = [np.where(np.isin(x, BUT.get(case.name, ())), 1.5, x).astype(x.dtype) for x in case.args(dtype)]
    closed = trace(flat(case.fn), *avals(args))
    results = [a for a in closed.out_avals if np.issubdtype(a.dtype, np.floating)]
    if not results or not any(map(is_float, args)):
        return None
    try:
        with in_derivative_words(case.name, reverse=take is backwards):
            derivative = take(case.name, closed, args, case=case)
        translate(derivative.derivative, unroll=20, platform="cpu")
    except (FieldError, UnsupportedPrimitiveError, NotImplementedError, TypeError, ValueError, AssertionError) as error:
        assert case.name in without, f"{case.name}: {error}"
        return None
    return derivative


@pytest.mark.parametrize("begin", range(0, len(CASES), TOGETHER))
@pytest.mark.parametrize("take", [forwards, backwards])
def test_derivatives_of_rules_against_jit(take: Callable[..., Derivative], begin: int) -> None:
    without = UNDERIVED | (REVERSE_ONLY if take is forwards else FORWARDS_ONLY)
    with jax.enable_x64(True):
        found = [_of_case(take, case, "float64" if "float64" in case.dtypes else "float32", without)
                 for case in CASES[begin:begin + TOGETHER]]
        check([d for d in found if d is not None])


# -- functions as users write them ----------------------------------------------------------------------------

def _nested(field: Field, dtype: str, orders: str) -> list[Derivative]:
    """Its derivatives, for each word of modes: "fr" is the reverse derivative of the forward one."""
    args = field.args(dtype)
    found = []
    for word in orders.split():
        if not set(word) <= set(field.modes):
            continue
        closed, given = trace(flat(field.fn), *avals(args)), list(args)
        for seed, mode in enumerate(word):
            d = (forwards if mode == "f" else backwards)(f"{field.name}, {word}", closed, given, seed)
            closed, given = d.derivative, d.args
        found.append(d)
    return found


def test_fields_to_second_order() -> None:
    """One derivative each, in turn; those of first order are in `test_several_directions_at_once`."""
    orders = ("ff", "fr", "rf", "rr")
    with jax.enable_x64(True):
        check([d for k, field in enumerate(FIELDS) for d in _nested(field, "float64", orders[k % 4])])


def test_fields_in_float32() -> None:
    names = ("network of 5", "Kuramoto of 8", "Lorenz-96 of 30", "recurrent", "held", "clipped")
    check([d for field in FIELDS if field.name in names for d in _nested(field, "float32", "f r")])


def test_fields_to_third_order() -> None:
    words = {"network of 5": "frr", "Kuramoto of 8": "rff", "Lorenz-96 of 6": "frf", "recurrent": "fff", "branches": "rrr"}
    with jax.enable_x64(True):
        check([d for field in FIELDS if field.name in words for d in _nested(field, "float64", words[field.name])])


def test_several_directions_at_once() -> None:
    """Tangents and cotangents are mapped over, the primals are not: what is the primals' alone is computed once."""
    derivatives = []
    with jax.enable_x64(True):
        for field in FIELDS:
            args = field.args("float64")
            closed, n = trace(flat(field.fn), *avals(args)), len(args)
            f = jaxpr_as_fun(closed)
            if "f" in field.modes:
                def jvp(*values: Any, f: Any = f, n: int = n) -> list[Any]:
                    own, tangents = jax.vmap(lambda *d: jax.jvp(f, values[:n], d), out_axes=(None, 0))(*values[n:])
                    return [*own, *tangents]

                given = [*args, *numbers_like([np.zeros((3, *np.shape(x)), "float64") for x in args], 3)]
                derivatives.append(Derivative(field.name, closed, trace(jvp, *avals(given)), given, len(closed.out_avals)))
            if "r" in field.modes:
                def vjp(*values: Any, f: Any = f, n: int = n) -> list[Any]:
                    return list(jax.vmap(lambda *ct: jax.vjp(f, *values[:n])[1](list(ct)))(*values[n:]))

                given = [*args, *numbers_like([np.zeros((2, *a.shape), "float64") for a in closed.out_avals], 4)]
                derivatives.append(Derivative(field.name, closed, trace(vjp, *avals(given)), given, 0))
        check(derivatives)


# -- the function's own part ----------------------------------------------------------------------------------

def test_a_product_that_tangents_use_too_is_contracted_as_before() -> None:
    """y * y goes into a sum; the tangent of 1 / y has that product, too."""
    def f(y: Any, c: Any) -> Any:
        return [y[0] * y[0] + c, 1 / y[0]]

    avals_of = (jax.ShapeDtypeStruct((2,), "float32"), jax.ShapeDtypeStruct((), "float32"))
    closed = trace(f, *avals_of)
    alone, _ = translate_for_all(closed, "auto")
    tangents = trace(lambda *a: sum(jax.jvp(jaxpr_as_fun(closed), a[:2], a[2:]), []), *avals_of, *avals_of)

    def fused(program: Program) -> int:
        return sum(op == "fma" for (_, op, *_), _ in program.walk())

    assert fused(alone["cpu"][0]) == 1
    made, _ = translate_tangents(tangents, closed, {name: one[2] for name, one in alone.items()})
    again, _ = translate_for_all(tangents, "auto")
    assert fused(made["cpu"][0]) == fused(again["cpu"][0]) + 1
    random = np.random.default_rng(0)
    image = Compiled([alone["cpu"][0], made["cpu"][0], again["cpu"][0]])
    differs = 0
    for _ in range(20):
        y, c, dy, dc = random.normal(size=2), -random.uniform(), random.normal(size=2), 1.0
        own, ours, plain = image(0, y, c)[0], image(1, y, c, dy, dc)[0], image(2, y, c, dy, dc)[0]
        assert own == ours
        differs += own != plain
    assert differs, "the example would not tell"


def test_own_results_are_the_same_bits_in_loops() -> None:
    """A product that is kept in an array for tangents is not contracted any more, where it was."""
    def sums(y: Any, w: Any) -> Any:
        return [y * w[0] + w[1], 1 / (y * w[0]), (y * y + w[1])[::-1] * w[2] + y, jnp.cumsum(y * w[0] + w[2]),
                (y[:, None] * w.T + w[0, 0]).sum(0), lax.fori_loop(0, 30, lambda k, s: s * w[0] + y, y)]

    every = [*FIELDS, Field("sums", sums, normal((3,), (3, 3))), Field("long sums", sums, normal((40,), (3, 40)))]
    small = [f for f in every if f.name not in ("network of 40", "Kuramoto of 23") and "f" in f.modes]
    with jax.enable_x64(True):
        check([d for field in small for d in _nested(field, "float32", "f")], unroll=2)


# -- how much code --------------------------------------------------------------------------------------------

@pytest.mark.parametrize("target", ["cpu", "cuda"])
def test_cotangents_of_weights_are_loops(target: str) -> None:
    """The outer products of a network 2-64-64-2: a vjp by the state and all weights has about three times f's statements."""
    field, weights = network(64)
    args = [np.zeros(2, np.float32), *weights]

    def count(fn: Callable[..., Any], *more: Any) -> int:
        programs, _ = translate_for_all(trace(fn, *avals([*args, *more])), "auto")
        return programs[target][0].statement_count()

    own = count(field)
    state = count(lambda y, *r: jax.vjp(lambda z: field(z, *r[:-1]), y)[1](r[-1])[0], args[0])
    every = count(lambda *r: list(jax.vjp(field, *r[:-1])[1](r[-1])), args[0])
    assert own < state < 2.5 * own
    assert state < every < 3.5 * own


def test_what_no_cotangent_needs_is_not_there() -> None:
    """Of a vjp by the state alone, nothing that the parameters' cotangents need; nor what was added to a zero."""
    def f(y: Any, p: Any) -> Any:
        return jnp.stack([p[0] * jnp.exp(p[1]) * y[0], jnp.sin(y[1]) + p[2] * y[0], y[2]])

    avals_of = [jax.ShapeDtypeStruct((3,), "float32")] * 3

    def operations(fn: Callable[..., Any]) -> list[str]:
        program, _ = program_of(fn, *avals_of)
        return [op for (_, op, *_), _ in program.walk() if op not in ("const", "load", "store")]

    assert sorted(operations(lambda y, p, ct: jax.vjp(lambda y: f(y, p), y)[1](ct)[0])) == [
        "cos", "exp", "fma", "mul", "mul", "mul"]
    assert sorted(operations(lambda y, p, dy: jax.jvp(lambda y: f(y, p), (y,), (dy,))[1])) == [
        "cos", "exp", "fma", "mul", "mul", "mul"]


# -- what has no derivative -----------------------------------------------------------------------------------

def _while(y: Any) -> Any:
    return lax.while_loop(lambda s: s.sum() < 9, lambda s: s * 2, y)


def _with_callback(y: Any) -> Any:
    return jax.pure_callback(lambda v: v, jax.ShapeDtypeStruct(y.shape, y.dtype), y)


def _without_rule(y: Any) -> Any:
    return y + jnp.nextafter(y, 2 * y)


def _repeated(y: Any) -> Any:
    return y.at[jnp.array([0, 0])].mul(y[:2])


@pytest.mark.parametrize(("f", "reverse", "words"), [
    (_while, True, ("in reverse", "(_while), `return lax.while_loop", "jax.lax.scan of a fixed length")),
    (_with_callback, False, ("forwards", "(_with_callback)", "remove the callback")),
    (_without_rule, True, ("in reverse", "(_without_rule)", "nextafter", "jax.custom_jvp")),
    (_repeated, False, ("forwards", "(_repeated)", "unique_indices=True")),
])
def test_what_has_no_derivative_is_said_with_the_users_line(f: Any, reverse: bool, words: tuple[str, ...]) -> None:
    y = jnp.ones(3)
    closed = jax.make_jaxpr(f)(y)
    with pytest.raises(FieldError) as error, in_derivative_words("f", reverse=reverse):
        if reverse:
            jax.vjp(jaxpr_as_fun(closed), y)[1]([y])
        else:
            jax.jvp(jaxpr_as_fun(closed), (y,), (y,))
    assert str(error.value).startswith("f can't be differentiated ")
    for word in (*words, __file__):
        assert word in str(error.value)


def _uses_clipped(y: Any) -> Any:
    return 2 * clipped(y)


def _uses_clipped_by_equinox(y: Any) -> Any:
    return 2 * clipped_by_equinox(y)


@pytest.mark.parametrize("f", [_uses_clipped, _uses_clipped_by_equinox])
def test_a_custom_vjp_has_no_forward_derivative(f: Any) -> None:
    y = np.ones(3, np.float32)
    jvp = forwards("f", trace(lambda y: [f(y)], *avals([y])), [y]).derivative
    with pytest.raises(UnsupportedPrimitiveError, match=rf"(?s)jax.custom_vjp.*\({f.__name__}\).*jax.custom_jvp"):
        translate(jvp, unroll=20, platform="cpu")


def test_errors_of_the_users_own_rules_are_theirs() -> None:
    @jax.custom_jvp
    def f(y: Any) -> Any:
        return 2 * y

    @f.defjvp
    def _(primals: Any, tangents: Any) -> Any:
        raise RuntimeError("my own") if tangents[0].ndim else TypeError

    y = jnp.ones(3)
    closed = jax.make_jaxpr(lambda y: f(y))(y)
    with pytest.raises(RuntimeError, match="my own"), in_derivative_words("f", reverse=False):
        jax.jvp(jaxpr_as_fun(closed), (y,), (y,))
