"""The code of a warp's products, run on the host: 32 threads that meet where those of a warp do."""

import ctypes
import threading

import llvmlite.binding as llvm
import llvmlite.ir as ir
import numpy as np
import pytest
from solve_helpers import plan_of

from jax_cubie.kernel import warp
from jax_cubie.kernel.emitter import Emitter
from jax_cubie.kernel.host_object import target_machine
from jax_cubie.translate.emit import emit_program
from jax_cubie.translate.emit_warp_sums import Rows, Weights, emit_warp_sums
from jax_cubie.translate.program import ROW, WarpSums
from jax_cubie.translate.warp_products import row_words

FLOAT, INT32, INT64 = ir.FloatType(), ir.IntType(32), ir.IntType(64)
MEET = ctypes.CFUNCTYPE(None)
MULTIPLY = ctypes.CFUNCTYPE(None, ctypes.c_int32, ctypes.POINTER(ctypes.c_uint32), ctypes.POINTER(ctypes.c_float))
LOWEST = 0xFFFFFFFF ^ 0x1FFF


class Warp:
    """What its threads do together, as functions that their code calls."""

    def __init__(self):
        self.barrier = threading.Barrier(warp.WARP)
        self.given, self.found = [()] * warp.WARP, [()] * warp.WARP
        self.meet, self.multiply = MEET(lambda: self.barrier.wait() and None), MULTIPLY(self._multiply)

    def _multiply(self, thread, factors, totals):
        bits = np.array([factors[k] & LOWEST for k in range(6)], np.uint32)
        self.given[thread] = (*bits.view(np.float32).tolist(), *totals[:4])
        if self.barrier.wait() == 0:
            left, right, total = np.zeros((16, 8)), np.zeros((8, 8)), np.zeros((16, 8))
            for number, one in enumerate(self.given):
                r, c = divmod(number, 4)
                left[r, c], left[r + 8, c], left[r, c + 4], left[r + 8, c + 4], right[c, r], right[c + 4, r] = one[:6]
                total[r, 2 * c], total[r, 2 * c + 1], total[r + 8, 2 * c], total[r + 8, 2 * c + 1] = one[6:]
            total += left @ right
            for number in range(warp.WARP):
                r, c = divmod(number, 4)
                self.found[number] = total[[r, r, r + 8, r + 8], [2 * c, 2 * c + 1] * 2]
        self.barrier.wait()
        for place, value in enumerate(self.found[thread]):
            totals[place] = value


def run(write, threads: Warp, arrays: list[np.ndarray], monkeypatch) -> None:
    """32 threads run what `write(emitter, thread, *arrays)` writes, where arrays are pointers."""
    kind = ir.FunctionType(ir.VoidType(), [INT32, *[FLOAT.as_pointer()] * len(arrays)])
    function = ir.Function(ir.Module(), kind, "run")
    b = ir.IRBuilder(function.append_basic_block())
    thread, *pointers = function.args

    def call(callback, *values):
        kind = ir.FunctionType(ir.VoidType(), [value.type for value in values]).as_pointer()
        b.call(b.inttoptr(INT64(ctypes.cast(callback, ctypes.c_void_p).value), kind), values)

    def multiply_add(emitter, left, right, totals):
        with b.goto_entry_block():
            factors, found = b.alloca(INT32, 6), b.alloca(FLOAT, 4)
        for memory, values in ((factors, (*left, *right)), (found, totals)):
            for place, value in enumerate(values):
                b.store(value, b.gep(memory, [INT32(place)]))
        call(threads.multiply, thread, factors, found)
        return [b.load(b.gep(found, [INT32(place)])) for place in range(4)]

    monkeypatch.setattr(warp, "thread_of_warp", lambda emitter: thread)
    monkeypatch.setattr(warp, "synchronise", lambda emitter: call(threads.meet))
    monkeypatch.setattr(warp, "multiply_add", multiply_add)
    write(Emitter(b, "cuda"), thread, *pointers)
    b.ret_void()
    engine = llvm.create_mcjit_compiler(llvm.parse_assembly(str(function.module)), target_machine())
    engine.finalize_object()
    memory = [ctypes.c_void_p(array.ctypes.data) for array in arrays]
    code = ctypes.CFUNCTYPE(None, ctypes.c_int32, *[ctypes.c_void_p] * len(arrays))(engine.get_function_address("run"))
    started = [threading.Thread(target=code, args=(number, *memory)) for number in range(warp.WARP)]
    for one in started:
        one.start()
    for one in started:
        one.join()


def of_thread(emitter: Emitter, array, thread, words: int):
    """Where the thread's own begins of an array with so many elements for each."""
    return emitter.builder.gep(array, [emitter.builder.mul(thread, INT32(words))])


@pytest.mark.parametrize("outputs, terms, fast, in_row", [
    (17, 61, False, True), (48, 16, True, False), (65, 20, False, False), (72, 17, True, True), (129, 16, True, False),
])  # fmt: skip
def test_products_of_a_warp(monkeypatch, outputs, terms, fast, in_row):
    """All that lies in memory besides what belongs there is no number."""
    random = np.random.default_rng(0)
    weights = random.normal(size=(outputs, terms)).astype(np.float32)
    vectors = random.normal(size=(warp.WARP, terms)).astype(np.float32)
    sums = WarpSums(("input", 0), fast, outputs, terms, ROW if in_row else ("local", 0))
    matrix = np.full((terms if fast else outputs, sums.columns + 3), np.nan, np.float32)
    matrix[:, : sums.columns] = weights.T if fast else weights
    rows = np.full((warp.WARP, words := sums.words + 4), np.nan, np.float32)
    rows[:, :terms] = vectors if in_row else np.nan

    def write(emitter, thread, rows, matrix, vectors):
        own, vector = of_thread(emitter, rows, thread, words), of_thread(emitter, vectors, thread, terms)
        place = Rows(own, rows, words, lambda number: Weights(matrix, sums.columns + 3))
        emit_warp_sums(emitter, sums, place, None if in_row else lambda k: emitter.load(vector, k, "float32"))

    run(write, Warp(), [rows, matrix, vectors], monkeypatch)
    np.testing.assert_allclose(rows[:, :outputs], np.float64(vectors) @ np.float64(weights).T, atol=1e-5)


@pytest.mark.parametrize("unroll", [1, 64])
def test_a_program_of_a_warp(monkeypatch, unroll):
    """Three products in a loop, of which two elements are left over; the next one's vector is what it has made."""
    size = 34
    random = np.random.default_rng(0)
    weights = [random.normal(size=(size, size)).astype(np.float32) / 6 for _ in range(4)]
    states = random.normal(size=(warp.WARP, size)).astype(np.float32)

    def f(t, y, ws):
        return ws[3] @ ((ws[0] @ y) * (ws[1] @ y) + ws[2] @ y) + y

    field = plan_of(f, weights, size, "cuda:90", unroll=unroll).field
    assert sum(one[1] == "warp_sums" for one in field.program.instructions) == 4
    words = row_words(field.program)
    rows, found = np.full((warp.WARP, words), np.nan, np.float32), np.full_like(states, np.nan)
    lying = [np.ascontiguousarray(w.T) for w in weights]  # as they are handed over

    def write(emitter, thread, rows, found, states, *matrices):
        place = Rows(of_thread(emitter, rows, thread, words), rows, words, lambda number: Weights(weights_of(number), size))
        own, out = of_thread(emitter, states, thread, size), of_thread(emitter, found, thread, size)

        def weights_of(number):
            return matrices[field.operands.index(field.arguments[number])]

        def load(number, index):
            array = own if field.arguments[number] == "y" else weights_of(number)
            return emitter.load(array, index, "float32")

        def store(_, index, value):
            emitter.store(out, index, value, "float32")

        emit_program(emitter, field.program, load, store, rows=place)

    run(write, Warp(), [rows, found, states, *lying], monkeypatch)
    y, (a, b, c, d) = np.float64(states), (np.float64(w).T for w in weights)
    np.testing.assert_allclose(found, ((y @ a) * (y @ b) + y @ c) @ d + y, atol=1e-5)
