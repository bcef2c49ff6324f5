"""Products of a matrix and a vector: the instruction `sums` over shapes, orders of memory and dtypes, on both platforms."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from harness import Compiled, image_for, on_the_cpu, program_of

from jax_cubie.translate import emit_sums
from jax_cubie.translate.products import reads_of, transposed
from jax_cubie.translate.program import Program, chains

SHAPES = [(1, 40), (2, 64), (3, 15), (4, 16), (17, 7), (66, 3), (35, 130)]
FORMS = {
    "rows": (lambda w, x: w @ x, lambda outputs, terms: (outputs, terms)),
    "columns": (lambda w, x: x @ w, lambda outputs, terms: (terms, outputs)),
    "transposed": (lambda w, x: w.T @ x, lambda outputs, terms: (terms, outputs)),
    "sliced": (lambda w, x: w[1:, 2:] @ x, lambda outputs, terms: (outputs + 1, terms + 2)),
    "stacked": (lambda w, x: w.reshape(2, -1, x.shape[0])[1] @ x, lambda outputs, terms: (2 * outputs, terms)),
}


def numbers(shape: tuple[int, ...], dtype: str, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(dtype)


def by_hand(w: np.ndarray, x: np.ndarray) -> np.ndarray:
    """The products in their one order, each fused: exact in rationals, then rounded."""
    kind = w.dtype.type

    def fused(a: Any, b: Any, c: Any) -> Any:
        exact = Fraction(float(a)) * Fraction(float(b)) + Fraction(float(c))
        if kind is np.float64:
            return kind(exact.numerator / exact.denominator)  # Python rounds a quotient of integers once
        near = kind(float(exact))
        around = [near, np.nextafter(near, kind(np.inf)), np.nextafter(near, kind(-np.inf))]
        return min(around, key=lambda value: (abs(Fraction(float(value)) - exact), int(value.view("int32")) & 1))

    results = []
    for row in w:
        partial = [kind(0)] * chains(len(x), len(w))
        for k, (a, b) in enumerate(zip(row, x, strict=True)):
            partial[k % len(partial)] = fused(a, b, partial[k % len(partial)])
        while len(partial) > 1:
            partial = [a + b for a, b in zip(partial[::2], partial[1::2], strict=True)]
        results.append(partial[0])
    return np.array(results)


def translated(fn: Any, *arrays: np.ndarray, **options: Any) -> Program:
    program, constants = program_of(fn, *[jax.ShapeDtypeStruct(a.shape, a.dtype) for a in arrays], **options)
    assert not constants
    return program


def transposable(program: Program) -> set[int]:
    """The inputs that nothing but products read, and those along the terms: matrices that are better transposed."""
    return {number for number, (along, others) in enumerate(reads_of(program)) if along and not others}


def has_sums(program: Program) -> bool:
    return any(i[1] == "sums" for i, _ in program.walk())


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("form", FORMS)
def test_every_form_has_the_same_bits(platform: str, form: str, dtype: str) -> None:
    """Whatever the order of the matrix, the limit of unrolling and the platform that the program is for."""
    fn, shape = FORMS[form]
    programs, arguments, wants = [], [], []
    with jax.enable_x64(True), on_the_cpu():
        for number, (outputs, terms) in enumerate(SHAPES):
            w, x = numbers(shape(outputs, terms), dtype, number), numbers((terms,), dtype, number + 100)
            weights = {"rows": w, "columns": w.T, "transposed": w.T, "sliced": w[1:, 2:], "stacked": w[-outputs:]}[form]
            want = by_hand(weights, x)
            for unroll, kind in ((1, "cpu"), (20, "cpu"), (20, "cuda"), (128, "cuda")):
                programs.append(translated(fn, w, x, unroll=unroll, platform=kind))
                arguments.append((w, x))
                wants.append(want)
    assert any(map(has_sums, programs))
    image = image_for(platform, programs)
    for k, (given, want) in enumerate(zip(arguments, wants, strict=True)):
        np.testing.assert_array_equal(image(k, *given)[0], want, err_msg=f"{given[0].shape}, program {k % 4}")


@pytest.mark.parametrize("long", [False, True])
def test_the_length_of_vectors_changes_no_bit(monkeypatch: pytest.MonkeyPatch, long: bool) -> None:
    monkeypatch.setattr(emit_sums, "has_long_vectors", lambda: long)
    for number, shape in enumerate([(130, 35), (64, 64), (2, 70), (4, 50)]):
        w, x = numbers(shape, "float32", number), numbers(shape[1:], "float32", number + 50)
        for given, fn in ((w, lambda w, x: w @ x), (w.T.copy(), lambda w, x: x @ w)):
            found = Compiled([translated(fn, given, x, unroll=20)])(0, given, x)[0]
            np.testing.assert_array_equal(found, by_hand(w, x))


def layered(x: Any, w: Any, b: Any, v: Any) -> Any:
    return v @ jnp.maximum(w @ x + b, 0.1) + jnp.roll(x, 1)


@pytest.mark.parametrize(("unroll", "kind"), [(1, "cpu"), (20, "cpu"), (128, "cuda")])
def test_transposed_weights_give_the_same_bits(unroll: int, kind: str) -> None:
    n, hidden = 30, 50
    arrays = [numbers(s, "float32", k) for k, s in enumerate([(n,), (hidden, n), (hidden,), (n, hidden)])]
    program = translated(layered, *arrays, unroll=unroll, platform=kind)
    better = transposable(program)
    assert better == {1, 3}
    image = Compiled([program, transposed(program, {number: number for number in better})])
    straight = image(0, *arrays)
    x, w, b, v = arrays
    turned = image(1, x, w.T.reshape(w.shape), b, v.T.reshape(v.shape))
    np.testing.assert_array_equal(straight[0], turned[0])
    np.testing.assert_allclose(straight[0], np.asarray(layered(*arrays)), rtol=1e-5, atol=1e-5)


def test_what_others_read_is_not_transposed() -> None:
    w, x = numbers((40, 40), "float32", 0), numbers((40,), "float32", 1)
    assert transposable(translated(lambda w, x: w @ x, w, x)) == {0}
    assert transposable(translated(lambda w, x: x @ w, w, x)) == set()
    assert transposable(translated(lambda w, x: w @ x + x @ w, w, x)) == set()
    assert transposable(translated(lambda w, x: w @ x + w[3], w, x)) == set()
    assert transposable(translated(lambda w, x: w[:20, :20] @ x[:20], w, x)) == set()


def test_few_long_sums_read_a_row_after_the_other_on_the_cpu() -> None:
    w, x = numbers((2, 64), "float32", 0), numbers((64,), "float32", 1)
    assert transposable(translated(lambda w, x: w @ x, w, x, unroll=20)) == set()
    assert transposable(translated(lambda w, x: w @ x, w, x, unroll=128, platform="cuda")) == {0}
    assert "llvm.fma.v16f32" in Compiled([translated(lambda w, x: w @ x, w, x, unroll=20)]).text


def test_a_gpu_computes_four_outputs_at_once_and_what_follows_with_them() -> None:
    w, x = numbers((64, 64), "float32", 0), numbers((64,), "float32", 1)
    program = translated(lambda w, x: jnp.tanh(w @ x + x) * 2, w, x, unroll=128, platform="cuda")
    loops = [i for i, _ in program.walk() if i[1] == "for"]
    assert [loop[4][0] for loop in loops] == [16]
    (sums,) = [i[4] for i, _ in program.walk() if i[1] == "sums"]
    assert (sums.count, sums.terms, sums.vector) == (4, 64, None)
    assert sum(i[1] == "tanh" for i, _ in program.walk()) == 4


def test_small_products_and_those_of_integers_stand_in_line() -> None:
    assert not has_sums(translated(lambda w, x: w @ x, numbers((4, 4), "float32", 0), numbers((4,), "float32", 1)))
    w, x = np.arange(1600, dtype=np.int32).reshape(40, 40), np.arange(40, dtype=np.int32)
    program = translated(lambda w, x: w @ x, w, x)
    assert not has_sums(program)
    np.testing.assert_array_equal(Compiled([program])(0, w, x)[0], w @ x)


@pytest.mark.parametrize("kind", ["cpu", "cuda"])
def test_products_inside_of_loops_and_branches(kind: str) -> None:
    """What the instruction reads and writes is kept, and shares memory, as that of loads and stores is."""
    w, x = numbers((40, 40), "float32", 0) / 8, numbers((40,), "float32", 1)

    def fn(w, x):
        y = jax.lax.fori_loop(0, 5, lambda k, y: jnp.tanh(w @ y) + w[k], x)
        y = jax.lax.cond(y[0] > 100, lambda y: w.T @ y, lambda y: w @ (y * 2), y)
        return jnp.stack([y, w @ y])

    program = translated(fn, w, x, unroll=20, platform=kind)
    np.testing.assert_allclose(Compiled([program])(0, w, x)[0], np.asarray(jax.jit(fn)(w, x)), rtol=2e-5, atol=2e-5)


def test_a_program_with_products_can_be_read() -> None:
    w, x = numbers((40, 40), "float32", 0), numbers((40,), "float32", 1)
    assert "= sum over k < 40: input 0 [%0 + 40 (%0 + i) + 1 k] * input 1 [%0 + 1 k]" in translated(
        lambda w, x: w @ x, w, x, unroll=20).describe()


def test_products_are_assembled_for_a_gpu() -> None:
    from harness_cuda import CudaImage

    programs = []
    for number, (outputs, terms) in enumerate([(64, 64), (66, 3), (35, 130), (2, 64)]):
        w, x = numbers((outputs, terms), "float32", number), numbers((terms,), "float32", 9)
        programs.append(translated(lambda w, x: w @ x, w, x, unroll=128, platform="cuda"))
    image = CudaImage(programs, 90)
    assert image.cubin.startswith(b"\x7fELF") and ".f64" not in image.ptx
