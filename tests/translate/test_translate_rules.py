"""Every rule against jax.jit of the same function, in float32 and float64 and in the integers it is for.

The cases are data (the files ``cases_*.py``). Many are jitted together and share one image, or the suite would spend
its time in compilers.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from functools import cache
from typing import Any

import jax
import pytest
from cases import EVERY_INTEGER, FLOATS, Case, assert_close, avals, flat
from cases_arrays import ARRAY_CASES
from cases_control import CONTROL_CASES
from cases_elementwise import ELEMENTWISE_CASES
from cases_numpy import NUMPY_CASES
from cases_reductions import REDUCTION_CASES
from harness import Compiled, image_for, on_the_cpu, program_of

from jax_cubie.translate import Program, walk
from jax_cubie.translate.errors import HINTS
from jax_cubie.translate.rules import RULES

CASES = [*ELEMENTWISE_CASES, *ARRAY_CASES, *REDUCTION_CASES, *CONTROL_CASES]
TOGETHER = 60


def together(cases: list[Case]) -> Any:
    """All the cases' functions as one jitted function; how fast XLA's code is does not matter here."""
    return jax.jit(lambda arguments: [flat(c.fn)(*args) for c, args in zip(cases, arguments, strict=True)],
                   compiler_options={"xla_backend_optimization_level": 0})


class Traced:
    """Some cases of one dtype: their arguments, XLA's results, and their programs."""

    def __init__(self, cases: list[Case], dtype: str) -> None:
        self.cases, self.dtype = cases, dtype
        self.args = [case.args(dtype) for case in cases]
        self.wants: Any = together(cases)(self.args)
        self.programs: list[Program] = []
        self.constants: list[list[Any]] = []
        for case, args in zip(cases, self.args, strict=True):
            program, constants = program_of(flat(case.fn), *avals(args))
            self.programs.append(program)
            self.constants.append(constants)

    def check(self, platform: str) -> None:
        image = image_for(platform, self.programs)
        failures = []
        for k, (case, args, wants) in enumerate(zip(self.cases, self.args, self.wants, strict=True)):
            for i, (got, want) in enumerate(zip(image(k, *args, *self.constants[k]), wants, strict=True)):
                where = f"{case.name}, result {i}, {self.dtype}, {platform}"
                try:
                    # CUDA's functions have errors of their own.
                    assert_close(got, want, case.ulp * (1 if platform == "cpu" else 4), case.atol, where)
                except AssertionError as error:
                    failures.append(f"{error}\n{args}")
        assert not failures, f"{len(failures)} failures\n" + "\n".join(failures)


def sets(cases: list[Case]) -> list[tuple[str, int]]:
    """What `chosen` takes: all cases in portions, dtype by dtype."""
    return [(dtype, begin) for dtype in (*FLOATS, *EVERY_INTEGER, "bool")
            for begin in range(0, len([c for c in cases if dtype in c.dtypes]), TOGETHER)]


def chosen(cases: list[Case], dtype: str, begin: int) -> list[Case]:
    return [c for c in cases if dtype in c.dtypes][begin:begin + TOGETHER]


@pytest.mark.parametrize(("dtype", "begin"), sets(CASES))
def test_rules_against_jit(platform: str, dtype: str, begin: int) -> None:
    with jax.enable_x64(True), on_the_cpu():
        Traced(chosen(CASES, dtype, begin), dtype).check(platform)


@pytest.mark.parametrize(("dtype", "begin"), sets(NUMPY_CASES))
def test_numpy_functions_against_jit(dtype: str, begin: int) -> None:
    with jax.enable_x64(True):
        Traced(chosen(NUMPY_CASES, dtype, begin), dtype).check("cpu")


class _Recording(dict):
    """The rules; notes which of them a walk asks for."""

    def __init__(self, rules: dict[str, Any]) -> None:
        super().__init__(rules)
        self.asked: set[str] = set()

    def get(self, name: str, default: Any = None) -> Any:
        self.asked.add(name)
        return super().get(name, default)


SAME_RULE = {"pvary": "copy", "pbroadcast": "copy", "sharding_constraint": "copy", "layout_constraint": "copy",
             "reshard": "copy", "closed_call": "custom_jvp_call", "eval_jaxpr": "custom_jvp_call"}
"""Names that only sharded programs or JAX's own machinery bind, whose rule is another's too."""


NOT_BOUND_BEFORE = {"call_hi_primitive": (0, 12)}
"""Primitives that are there before the version of JAX that makes use of them."""


@cache
def _primitives() -> frozenset[str]:
    """Those of the JAX that is installed."""
    # By type: an object may be a proxy of one that is gone.
    return frozenset(p.name for p in gc.get_objects() if issubclass(type(p), jax.extend.core.Primitive))


def test_every_rule_has_a_case_that_uses_it(monkeypatch: pytest.MonkeyPatch) -> None:
    recording = _Recording(RULES)
    monkeypatch.setattr(walk, "RULES", recording)
    used = set()

    def first_of_each(cases: list[Case]) -> Iterator[Case]:
        seen: set[str] = set()
        for case in cases:
            if case.name not in seen:
                seen.add(case.name)
                yield case

    with jax.enable_x64(True):
        for case in first_of_each(CASES):
            recording.asked.clear()
            program_of(flat(case.fn), *avals(case.args(case.dtypes[0])))
            if case.name in _primitives() and jax.__version_info__ >= NOT_BOUND_BEFORE.get(case.name, ()):
                assert case.name in recording.asked, f"the case for {case.name} does not use its rule"
            used.add(case.name)
    for name, other in SAME_RULE.items():
        assert RULES[name] is RULES[other]
    missing = sorted(set(RULES) - used - set(SAME_RULE))
    assert not missing, f"rules without a case: {missing}"
    assert not used - set(RULES), f"cases for no rule: {used - set(RULES)}"
    assert not set(HINTS) & set(RULES), f"advice against what has a rule: {set(HINTS) & set(RULES)}"
    floats = {dtype: {c.name for c in CASES if dtype in c.dtypes} for dtype in FLOATS}
    assert floats["float32"] == floats["float64"]


def test_closed_over_arguments_give_the_same() -> None:
    """Constants go other ways than arguments: small integers are baked in and folded, the others become operands."""
    names = ("gather", "scatter", "dynamic_slice", "dynamic_update_slice", "convert_element_type")
    cases = [c for c in CASES if c.name in names and "float32" in c.dtypes]
    with jax.enable_x64(True):
        arguments = [[jax.numpy.asarray(x) for x in c.args("float32")] for c in cases]
        traced = [program_of(lambda args=args, case=case: flat(case.fn)(*args))
                  for case, args in zip(cases, arguments, strict=True)]
        image = Compiled([program for program, _ in traced])
        for k, (case, want) in enumerate(zip(cases, together(cases)(arguments), strict=True)):
            for got, expected in zip(image(k, *traced[k][1]), want, strict=True):
                assert_close(got, expected, case.ulp, case.atol, f"{case.name}, closed over")
