"""Derivatives of functions as programs: of every rule, and of functions as users write them up to third order."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import FLOATS, INF, Case, avals, flat
from cases_arrays import ARRAY_CASES
from cases_control import CONTROL_CASES
from cases_elementwise import ELEMENTWISE_CASES
from cases_fields import FIELDS, Field, network
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
    """Some of each primitive's cases: one in registers and one in memory, where they stand in turn."""
    named: dict[str, list[Case]] = {}
    for case in cases:
        if set(case.dtypes) & {*FLOATS}:
            named.setdefault(case.name, []).append(case)
    return [case for every in named.values() for case in every[::max(1, (len(every) + 1) // 3)]]


CASES = _few_of_each([*ELEMENTWISE_CASES, *ARRAY_CASES, *REDUCTION_CASES, *CONTROL_CASES])
TOGETHER = 70


def is_float(x: Any) -> bool:
    return np.issubdtype(np.asarray(x).dtype, np.floating)


def numbers_like(arrays: Arrays, seed: int) -> list[np.ndarray]:
    random = np.random.default_rng(seed)
    return [random.normal(size=np.shape(x)).astype(np.asarray(x).dtype) for x in arrays]


class Derivative(NamedTuple):
    """A traced function, the derivative of it that was traced, and its arguments; `own`: how many results are the function's."""

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
    cotangents = numbers_like([np.zeros(a.shape, a.dtype) for a in closed.out_avals if np.issubdtype(a.dtype, np.floating)], seed)

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
    for d in derivatives:
        conversions: dict[Any, Any] = {}
        alone, _ = translate_for_all(d.closed, unroll, conversions)
        if d.own:
            made, _ = translate_tangents(d.derivative, d.closed, alone, conversions)
        else:
            made, _ = translate_for_all(d.derivative, unroll)
        for translated, args in ((alone, d.args[:len(d.closed.in_avals)]), (made, d.args)):
            program, constants, _ = translated["cpu"]
            programs.append(program)
            arguments.append([*args, *constants])
    image = Compiled(programs)
    failures = []
    for k, (d, wants) in enumerate(zip(derivatives, reference(derivatives), strict=True)):
        results = image(2 * k + 1, *arguments[2 * k + 1])
        for own, result in zip(image(2 * k, *arguments[2 * k]), results[:d.own], strict=False):
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
