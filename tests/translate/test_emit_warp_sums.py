"""The code of a warp's products, run on the host: 32 threads that meet where those of a warp do."""

import ctypes
import threading

import llvmlite.binding as llvm
import llvmlite.ir as ir
import numpy as np
import pytest

from jax_cubie.kernel import warp
from jax_cubie.kernel.emitter import Emitter
from jax_cubie.kernel.host_object import target_machine
from jax_cubie.translate.emit_warp_sums import Rows, Weights, emit_warp_sums
from jax_cubie.translate.program import ROW, WarpSums

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


def code_of(sums: WarpSums, threads: Warp, words: int, pitch: int, monkeypatch) -> str:
    """A function of a thread's number, all rows, the matrix, and all vectors."""
    kind = ir.FunctionType(ir.VoidType(), [INT32, *[FLOAT.as_pointer()] * 3])
    function = ir.Function(ir.Module(), kind, "multiply")
    b = ir.IRBuilder(function.append_basic_block())
    thread, rows, matrix, vectors = function.args

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
    emitter, vector = Emitter(b, "cuda"), b.gep(vectors, [b.mul(thread, INT32(sums.terms))])
    own = Rows(b.gep(rows, [b.mul(thread, INT32(words))]), rows, words, lambda number: Weights(matrix, pitch))
    emit_warp_sums(emitter, sums, own, None if sums.vector == ROW else lambda k: emitter.load(vector, k, "float32"))
    b.ret_void()
    return str(function.module)


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
    rows = np.full((warp.WARP, sums.words + 4), np.nan, np.float32)
    rows[:, :terms] = vectors if in_row else np.nan
    threads = Warp()
    machine = target_machine()
    code = llvm.parse_assembly(code_of(sums, threads, rows.shape[1], matrix.shape[1], monkeypatch))
    engine = llvm.create_mcjit_compiler(code, machine)
    engine.finalize_object()
    memory = [ctypes.c_void_p(array.ctypes.data) for array in (rows, matrix, vectors)]
    run = ctypes.CFUNCTYPE(None, ctypes.c_int32, *[ctypes.c_void_p] * 3)(engine.get_function_address("multiply"))
    started = [threading.Thread(target=run, args=(number, *memory)) for number in range(warp.WARP)]
    for one in started:
        one.start()
    for one in started:
        one.join()
    np.testing.assert_allclose(rows[:, :outputs], np.float64(vectors) @ np.float64(weights).T, atol=1e-5)
