"""The elementwise rules on subnormal numbers, which XLA's CPU makes zero, and on constants, which are folded."""

from __future__ import annotations

import itertools

import jax
import numpy as np
import pytest
from cases import EVERY_INTEGER, FLOATS, Case, assert_close, avals, flat
from cases_elementwise import ELEMENTWISE_CASES, FLOAT_ROWS, INTEGER_ROWS
from harness import Compiled, image_for, on_the_cpu, program_of

from jax_cubie.kernel import functions
from jax_cubie.translate.builder import Builder
from jax_cubie.translate.rules_elementwise import SCALAR
from jax_cubie.translate.rules_special import COMPOSITES


def test_every_elementwise_rule_is_tried_with_the_special_values() -> None:
    integers_only = {"and", "or", "xor", "not", "shift_left", "shift_right_logical", "shift_right_arithmetic",
                     "population_count", "clz", "mulhi"}
    rules, rows = {*SCALAR, *COMPOSITES}, {*FLOAT_ROWS, *integers_only}
    assert rules == rows, f"without a row in FLOAT_ROWS: {rules - rows}; without a rule: {rows - rules}"
    assert integers_only <= {*INTEGER_ROWS, "mulhi"}


def _subnormals(dtype: str, arguments: int) -> tuple[np.ndarray, ...]:
    info = np.finfo(dtype)
    small = [info.smallest_subnormal, -info.smallest_subnormal, info.tiny / 2, -info.tiny / 2, info.tiny * 0.999]
    others = [info.tiny, 0.0, 1.0, -0.5] if arguments > 1 else [info.tiny, -info.tiny]
    points = list(itertools.product([*small, *others], repeat=arguments))
    return tuple(np.array(column, dtype) for column in zip(*points, strict=True))


@pytest.mark.parametrize("dtype", FLOATS)
def test_subnormal_numbers_are_numbers(platform: str, dtype: str) -> None:
    with jax.enable_x64(True), on_the_cpu():
        arguments = {name: _subnormals(dtype, row.arguments) for name, row in FLOAT_ROWS.items() if row.numpy}
        programs = {name: program_of(flat(FLOAT_ROWS[name].fn), *avals(args))[0] for name, args in arguments.items()}
    image = image_for(platform, list(programs.values()))
    failures = []
    for k, (name, args) in enumerate(arguments.items()):
        row = FLOAT_ROWS[name]
        assert row.numpy is not None
        with np.errstate(all="ignore"):
            want = row.numpy(*args)
        for got, expected in zip(image(k, *args), want if isinstance(want, tuple) else (want,), strict=True):
            expected = np.asarray(expected, got.dtype)
            atol = row.ulp * float(np.finfo(dtype).smallest_subnormal) if got.dtype == dtype else 0
            rtol = row.ulp * float(np.finfo(dtype).eps)
            same = np.isclose(got.astype("float64"), expected.astype("float64"), rtol=rtol, atol=atol, equal_nan=True)
            if not same.all():
                failures.append((name, [x[~same][:4] for x in (*args, got, expected)]))
    assert not failures, "\n".join(map(str, failures))


def _folded(case: Case, dtype: str) -> list[str]:
    """How the constants that a rule folds differ from what its code computes."""
    args = case.args(dtype)
    closed = jax.make_jaxpr(flat(case.fn))(*avals(args))
    program, constants = program_of(flat(case.fn), *avals(args))
    computed = Compiled([program])(0, *args, *constants)
    failures = []
    for number, (eqn, outvar) in enumerate(zip(closed.eqns, closed.jaxpr.outvars, strict=False)):
        if eqn.outvars != [outvar] or [*eqn.invars] != [*closed.jaxpr.invars] or eqn.primitive.name not in SCALAR:
            continue
        folded, at = [], []
        for place, values in enumerate(zip(*args, strict=True)):
            b = Builder()
            result = SCALAR[eqn.primitive.name](b, eqn, *[b.const(dtype, v) for v in values])
            if b.known(result):
                folded.append(b.constants[result])
                at.append(place)
        if folded:
            try:
                ulp = 4 if eqn.primitive.name in functions.OPERATIONS else 1
                assert_close(np.array(folded, computed[number].dtype), computed[number][at], ulp, 0, case.name)
            except AssertionError as error:
                failures.append(f"{dtype}: {error}")
    return failures


@pytest.mark.parametrize("dtype", [*FLOATS, *EVERY_INTEGER])
def test_constants_are_folded_as_they_are_computed(dtype: str) -> None:
    with jax.enable_x64(True):
        # In sums of cotangents a literal zero stands for nothing at all, and leaves a negative zero alone.
        failures = [f for case in ELEMENTWISE_CASES
                    if dtype in case.dtypes and case.name in SCALAR and case.name != "add_any"
                    for f in _folded(case, dtype)]
    assert not failures, "\n".join(failures)
