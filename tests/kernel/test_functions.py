"""The elementary functions on the CPU: how near they are, and that their bits depend on the argument alone."""

from __future__ import annotations

import ctypes
import math
import re
import sys
from pathlib import Path
from typing import Any

import llvmlite.binding as llvm
import llvmlite.ir as ir
import numpy as np
import pytest
import scipy.special

from jax_cubie.kernel import function_tables
from jax_cubie.kernel.emitter import LLVM_TYPES, Emitter
from jax_cubie.kernel.functions import OPERATIONS
from jax_cubie.kernel.host_object import has_fma, target_machine

pytestmark = pytest.mark.skipif(not has_fma(), reason="without fused multiply-adds the functions are libm's")

DTYPES = ("float32", "float64")
LENGTHS = (1, 3, 8, 17, 64)
TWO = {"pow", "atan2"}
I64 = ir.IntType(64)

NUMPY: dict[str, Any] = {
    **{name: getattr(np, name) for name in ("exp", "exp2", "expm1", "log", "log1p", "log2", "sin", "cos", "tan", "sinh", "cosh",
                                            "tanh", "cbrt")},
    **{name: getattr(np, name.replace("a", "arc", 1)) for name in ("asin", "acos", "atan", "atan2", "asinh", "acosh", "atanh")},
    "pow": np.power,
}
_ERRORS = {"erf": (scipy.special.erf, math.erf), "erfc": (scipy.special.erfc, math.erfc)}


def reference(op: str, dtype: str, arguments: list[np.ndarray]) -> np.ndarray:
    """In the next wider type; erf and erfc of float64 by libm, which has them to an ulp."""
    with np.errstate(all="ignore"):
        if op in _ERRORS:
            wide, libm = _ERRORS[op]
            (x,) = arguments
            return wide(x.astype("float64")) if dtype == "float32" else np.array([libm(float(v)) for v in x])
        return NUMPY[op](*[x.astype("float64" if dtype == "float32" else np.longdouble) for x in arguments])


def _loop(builder: ir.IRBuilder, emitter: Emitter, count: ir.Value, body: Any) -> None:
    """`body(index)` for a number of turns of run time, at least one."""
    before, head, end = builder.block, builder.append_basic_block(), builder.append_basic_block()
    builder.branch(head)
    builder.position_at_end(head)
    index = builder.phi(I64)
    index.add_incoming(I64(0), before)
    emitter.in_loop = True
    body(index)
    following = builder.add(index, I64(1))
    index.add_incoming(following, builder.block)
    builder.cbranch(builder.icmp_unsigned("<", following, count), head, end)
    builder.position_at_end(end)


class Functions:
    """Each function alone, and in a loop over arrays."""

    def __init__(self) -> None:
        module = ir.Module("functions")
        module.triple = llvm.get_process_triple()
        for op in OPERATIONS:
            for dtype in DTYPES:
                self._write(module, op, dtype)
        parsed = llvm.parse_assembly(str(module))
        machine = target_machine()
        options = llvm.create_pipeline_tuning_options(speed_level=3)
        options.loop_vectorization = options.slp_vectorization = True
        passes = llvm.create_pass_builder(machine, options)
        passes.getModulePassManager().run(parsed, passes)
        self.optimised = {function.name: str(function) for function in parsed.functions}
        self._engine = llvm.create_mcjit_compiler(parsed, machine)
        self._engine.finalize_object()

    def _write(self, module: ir.Module, op: str, dtype: str) -> None:
        scalar, count = LLVM_TYPES[dtype], 1 + (op in TWO)
        alone = ir.Function(module, ir.FunctionType(scalar, [scalar] * count), f"alone_{op}_{dtype}")
        alone.attributes.add("noinline")
        builder = ir.IRBuilder(alone.append_basic_block())
        builder.ret(Emitter(builder, "cpu").apply(op, dtype, *alone.args))
        for name in ("each", "array"):
            kinds = [scalar.as_pointer()] * (count + 1) + [I64]
            function = ir.Function(module, ir.FunctionType(ir.VoidType(), kinds), f"{name}_{op}_{dtype}")
            *inputs, output, length = function.args
            builder = ir.IRBuilder(function.append_basic_block())
            emitter = Emitter(builder, "cpu")

            def body(index: ir.Value, name=name, emitter=emitter, inputs=inputs, output=output, builder=builder) -> None:
                values = [emitter.load(pointer, index, dtype) for pointer in inputs]
                result = emitter.apply(op, dtype, *values) if name == "array" else builder.call(alone, values)
                emitter.store(output, index, result, dtype)

            _loop(builder, emitter, length, body)
            builder.ret_void()

    def __call__(self, name: str, arguments: list[np.ndarray]) -> np.ndarray:
        output = np.empty_like(arguments[0])
        pointers = [array.ctypes.data for array in (*arguments, output)]
        signature = ctypes.CFUNCTYPE(None, *[ctypes.c_void_p] * len(pointers), ctypes.c_int64)
        signature(self._engine.get_function_address(name))(*pointers, output.size)
        return output


@pytest.fixture(scope="module")
def functions() -> Functions:
    return Functions()


def points(op: str, dtype: str, count: int) -> list[np.ndarray]:
    """All numbers, usual ones, those near 1 and near multiples of pi / 2, and special ones (all pairs of them)."""
    random, info = np.random.default_rng(7), np.finfo(dtype)
    width = 8 * np.dtype(dtype).itemsize
    special = np.array([0, 1, 0.5, 2, 3, 4, np.inf, info.max, info.tiny, info.smallest_subnormal, 3.3e-38, 1e22]).astype(dtype)
    special = np.concatenate([special, -special, np.array([np.nan], dtype)])

    def some() -> np.ndarray:
        near_1 = 1 + random.uniform(-1, 1, count) * 2.0 ** -random.integers(0, info.nmant, count)
        parts = [
            random.integers(0, 2**width, count, dtype=f"uint{width}").view(dtype),
            *(random.uniform(-a, a, count) for a in (1, 3, 30, 100, 700)),
            near_1,
            -near_1,
            random.integers(-(10**6), 10**6, count) * (np.pi / 2),
        ]
        return np.concatenate([part.astype(dtype) for part in parts])

    if op not in TWO:
        return [np.concatenate([some(), special])]
    pairs = np.meshgrid(special, special)
    positive = random.uniform(0.1, 10, 4 * count).astype(dtype), random.uniform(-100, 100, 4 * count).astype(dtype)
    return [np.concatenate([values, pair.ravel(), moderate]) for values, pair, moderate in zip(
        (some(), random.permutation(some())), pairs, positive, strict=True)]


def ulps(got: np.ndarray, want: np.ndarray) -> np.ndarray:
    """The distance in units in the last place of `want`; the signs of zeros count."""
    info = np.finfo(got.dtype)
    with np.errstate(all="ignore"):
        rounded = want.astype(got.dtype)
        exponent = np.clip(np.floor(np.log2(np.abs(want))), info.minexp, info.maxexp - 1)
        exponent = np.where(np.isfinite(exponent), exponent, info.minexp).astype(int)
        distance = np.abs(got.astype(want.dtype) - want) / np.ldexp(np.ones_like(want), exponent - info.nmant)
    same = (np.isnan(got) & np.isnan(rounded)) | (got == rounded)
    distance = np.where(same, 0, np.where(np.isnan(distance), np.inf, distance))
    return np.where((want == 0) & (got == 0) & (np.signbit(want) != np.signbit(got)), np.inf, distance)


@pytest.mark.parametrize("dtype", DTYPES)
def test_functions_are_within_4_ulp(functions: Functions, dtype: str) -> None:
    failures = []
    for op in OPERATIONS:
        arguments = points(op, dtype, 4000)
        error = ulps(functions(f"array_{op}_{dtype}", arguments), reference(op, dtype, arguments))
        worst = int(np.argmax(error))
        if error[worst] > (5 if op in _ERRORS and dtype == "float64" else 4):
            failures.append(f"{op}{tuple(x[worst] for x in arguments)}: {error[worst]} ulp, {int((error > 4).sum())} points")
    assert not failures, "\n".join(failures)


@pytest.mark.parametrize("dtype", DTYPES)
def test_bits_depend_on_the_argument_alone(functions: Functions, dtype: str) -> None:
    """Alone, in a vector and in its tail."""
    integer, failures = f"uint{8 * np.dtype(dtype).itemsize}", []
    for op in OPERATIONS:
        arguments = points(op, dtype, 500)
        alone = functions(f"each_{op}_{dtype}", arguments)
        for length in (*LENGTHS, alone.size):
            for first in {0, alone.size - length}:
                part = [np.ascontiguousarray(x[first : first + length]) for x in arguments]
                together = functions(f"array_{op}_{dtype}", part)
                if not np.array_equal(together.view(integer), alone[first : first + length].view(integer)):
                    failures.append((op, length, first))
    assert not failures, failures


def test_loops_are_vectorised(functions: Functions) -> None:
    scalar_loops = [f"{op} of {dtype}" for op in OPERATIONS for dtype in DTYPES
                    if "vector.body" not in functions.optimised[f"array_{op}_{dtype}"]]
    assert not scalar_loops
    assert "vector.body" not in functions.optimised["each_tanh_float32"]
    assert re.search(r"call <\d+ x float> @llvm.fma", functions.optimised["array_tanh_float32"])


@pytest.mark.parametrize("op", ["sin", "tan", "exp", "log", "log2", "pow"])
def test_vectors_call_what_is_rare_as_vectors(functions: Functions, op: str) -> None:
    for dtype in DTYPES:
        text = functions.optimised[f"array_{op}_{dtype}"]
        assert re.search(rf"call <\d+ x \w+> @jax_cubie.guarded.{op}.{dtype}.\d+\(", text)
        if op == "sin":
            assert "guarded.cos" not in text


@pytest.mark.parametrize("dtype", DTYPES)
def test_one_rare_number_leaves_its_neighbours_alone(functions: Functions, dtype: str) -> None:
    x = np.linspace(0.1, 3, 64).astype(dtype)
    for op, special, want in (("sin", 1e30, np.sin), ("exp", 1e4, np.exp), ("log", -1.0, np.log)):
        plain = functions(f"array_{op}_{dtype}", [x])
        for place in (0, 7, 15, 63):
            other = x.copy()
            other[place] = special
            got = functions(f"array_{op}_{dtype}", [other])
            with np.errstate(all="ignore"):
                np.testing.assert_allclose(got[place], want(other[place].astype("float64")), rtol=1e-6)
            assert np.array_equal(np.delete(got, place), np.delete(plain, place))


def test_a_function_stands_once_where_it_is_used_alone() -> None:
    module = ir.Module("alone")
    function = ir.Function(module, ir.FunctionType(ir.DoubleType(), [ir.DoubleType()]), "f")
    builder = ir.IRBuilder(function.append_basic_block())
    emitter = Emitter(builder, "cpu")
    x = function.args[0]
    for _ in range(3):
        x = emitter.add("float64", emitter.apply("sin", "float64", x), emitter.apply("cos", "float64", x))
    builder.ret(x)
    text = str(module)
    assert len(re.findall(r"define .*sin_and_cos", text)) == 1
    assert text.count("call {double, double}") == 6


def test_fast_math_changes_no_bit() -> None:
    def text(fastmath: bool) -> str:
        module = ir.Module("fast")
        function = ir.Function(module, ir.FunctionType(ir.FloatType(), [ir.FloatType()]), "f")
        builder = ir.IRBuilder(function.append_basic_block())
        builder.ret(Emitter(builder, "cpu", fastmath=fastmath).apply("tanh", "float32", function.args[0]))
        return str(module)

    assert text(False) == text(True)


def test_tables_are_what_their_script_makes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "tables"))
    import polynomials  # pyright: ignore[reportMissingImports] a script in tests/tables

    assert Path(sys.modules[function_tables.__name__].__file__ or "").read_text() == polynomials.text()
