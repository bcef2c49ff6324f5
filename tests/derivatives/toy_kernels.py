"""Kernels in plain JAX for a solve of two Euler steps: what the rules of the primitives are held against."""

import contextlib
import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from jax import lax
from jax.flatten_util import ravel_pytree

from jax_cubie import SaveAt, Solver
from jax_cubie.derivatives import Tangent, kernels, lowering, root
from jax_cubie.derivatives.chain import differentiable, with_tangent
from jax_cubie.operands import Operand, Result
from jax_cubie.primitive import run
from jax_cubie.problem import make_request

STEPS = 2


@dataclasses.dataclass(frozen=True)
class Kernel:
    operands: tuple[Operand, ...]
    results: tuple[Result, ...]
    lane: Callable


class Toy:
    """The kernels of problems that it knows the functions of. launches: (direction, depth, record or wrt) of each."""

    def __init__(self):
        self.functions: dict[Any, tuple[Callable, Callable | None]] = {}
        self.launches: list[tuple] = []

    def request(self, f, t0, t1, y0, args, saveat=None, **settings):
        saveat = SaveAt(t1=True) if saveat is None else saveat
        made = make_request(Solver(directions=1, **settings), f, t0, t1, y0, args, saveat, None)
        self.functions[made.problem] = (f, saveat.fn)
        return made

    def solve(self, *args, **settings):
        """The results of a lane, through the primitives."""
        request = self.request(*args, **settings)
        return run(request.problem, request.arrays)

    def reference(self, *args, **settings):
        """The same in plain JAX."""
        request = self.request(*args, **settings)
        return self.forward(request.problem, list(request.arrays))[0]

    # ------------------------------------------------------------------------------------------ a lane of the root

    def _named(self, problem, ops):
        named = dict(zip((one.name for one in problem.operands), ops, strict=True))
        args = tuple(value for name, value in named.items() if name[0] == "f" and name[1:].isdigit())
        return named, args

    def _start(self, problem, _, ops):
        return self._named(problem, ops)[0]["y0"]

    def _step(self, problem, y, ops, number):
        (f, _), (named, args) = self.functions[dataclasses.replace(problem, rules="")], self._named(problem, ops)
        h = named["span"] / STEPS
        return y + h * f(named["t0"] + number * h, y, args)

    def _outputs(self, problem, y, ops):
        (_, fn), (named, args) = self.functions[dataclasses.replace(problem, rules="")], self._named(problem, ops)
        leaves = [y] if fn is None else jax.tree.leaves(fn(named["t1"], y, args))
        leaves = [leaf for leaf in leaves if jnp.issubdtype(jnp.result_type(leaf), jnp.floating)]
        shapes = [problem.results[number].shape for number in with_tangent(problem)]
        return [jnp.broadcast_to(leaf, shape) for leaf, shape in zip(leaves, shapes, strict=True)]

    # ------------------------------------------------------------------------------------------ and of any order

    def _lifted(self, problem, function):
        """A function of the state and the operands of the root, as one of those of `problem`."""
        if not isinstance(problem, Tangent):
            return lambda state, ops: function(problem, state, ops)
        base, count = self._lifted(problem.base, function), len(problem.base.operands)

        def lifted(state, ops):
            def of_active(state, active):
                full = list(ops[:count])
                for number, value in zip(problem.wrt, active, strict=True):
                    full[number] = value
                return base(state, full)

            primal, tangent = (None, None) if state is None else state
            active = [ops[number] for number in problem.wrt]
            return jax.jvp(of_active, (primal, active), (tangent, list(ops[count:])))

        return lifted

    def _steps(self, problem):
        return [self._lifted(problem, lambda p, y, ops, n=number: self._step(p, y, ops, n)) for number in range(STEPS)]

    def forward(self, problem, ops):
        """Results, and the checkpoints of all depths."""
        state = self._lifted(problem, self._start)(None, ops)
        states = [state]
        for step in self._steps(problem):
            states.append(step(states[-1], ops))
        floats = _flat(problem, self._lifted(problem, self._outputs)(states[-1], ops))
        results, floats = [], iter(floats)
        own, chosen = len(root(problem).results), set(with_tangent(problem))
        for number, result in enumerate(problem.results):
            if number >= own or number in chosen:
                results.append(next(floats))
            elif result.name == "times":
                results.append(lax.stop_gradient(jnp.broadcast_to(ops[0] + ops[1], result.shape)))
            else:
                results.append(jnp.full(result.shape, 7, result.dtype))
        rows = [_rows(problem, state) for state in states]
        return results, [_words(jnp.stack(depth)) for depth in zip(*rows, strict=True)]

    def backward(self, problem, ops, checkpoints, seeds, values, wrt):
        active = [number for number, one in enumerate(problem.operands) if one.dtype.startswith("float")]

        def full(values):
            arrays = list(ops)
            for number, value in zip(active, values, strict=True):
                arrays[number] = value
            return arrays

        own = [ops[number] for number in active]
        shape = jax.eval_shape(lambda ops: self._lifted(problem, self._start)(None, ops), list(ops))
        rows = [lax.bitcast_convert_type(one, root(problem).dtype) for one in checkpoints]
        states = [_state(problem, [row[number] for row in rows], shape) for number in range(STEPS + 1)]
        outputs_of = self._lifted(problem, self._outputs)
        outputs, pull = jax.vjp(lambda state, own: _flat(problem, outputs_of(state, full(own))), states[-1], own)
        places = _float_places(problem)
        given = {places.index(number): value for number, value in zip(seeds, values, strict=True)}
        state_bar, total = pull([given.get(number, jnp.zeros_like(one)) for number, one in enumerate(outputs)])
        for step, state in reversed(list(zip(self._steps(problem), states[:-1], strict=True))):
            _, pull = jax.vjp(lambda state, own, step=step: step(state, full(own)), state, own)
            state_bar, more = pull(state_bar)
            total = jax.tree.map(jnp.add, total, more)
        (more,) = jax.vjp(lambda own: self._lifted(problem, self._start)(None, full(own)), own)[1](state_bar)
        total = jax.tree.map(jnp.add, total, more)
        return [total[active.index(number)] for number in wrt]

    # ------------------------------------------------------------------------------------------ what takes their place

    def checkpoint_results(self, problem, record):
        base = root(problem)
        kind = "uint32" if base.dtype == "float32" else "uint64"
        sizes = [base.states * (1 if depth == 0 else 2 ** (depth - 1)) for depth in range(record + 1)]
        return tuple(Result(f"checkpoints.{depth}", (STEPS + 1, size), kind) for depth, size in enumerate(sizes))

    def forward_kernel(self, problem, record):
        recorded = () if record is None else self.checkpoint_results(problem, record)
        inner = problem
        while isinstance(inner, Tangent):
            assert all(differentiable(inner.base)[number] for number in inner.wrt)
            inner = inner.base

        def lane(ops):
            results, checkpoints = self.forward(problem, ops)
            return [*results, *checkpoints[: len(recorded)]]

        self.launches.append(("forward", problem.depth, record))
        return Kernel(problem.operands, (*problem.results, *recorded), lane)

    def backward_kernel(self, problem, seeds, wrt, summed=()):
        checkpoints = self.checkpoint_results(problem, problem.depth)
        count, end = len(problem.operands), len(problem.operands) + len(checkpoints)
        others = [*checkpoints, *(problem.results[number] for number in seeds)]
        taken = (*problem.operands, *(Operand(one.name, one.shape, one.dtype) for one in others))
        named = [(problem.operands[number], number in summed) for number in wrt]
        given = tuple(Result(one.name, one.shape, one.dtype, added=added) for one, added in named)

        def lane(ops):
            return self.backward(problem, ops[:count], ops[count:end], seeds, ops[end:], wrt)

        self.launches.append(("backward", problem.depth, wrt))
        return Kernel(taken, given, lane)


def _flat(problem, outputs):
    """Outputs in the order of results: those of the base in front."""
    if not isinstance(problem, Tangent):
        return outputs
    return [*_flat(problem.base, outputs[0]), *_flat(problem.base, outputs[1])]


def _float_places(problem):
    own, chosen = len(root(problem).results), set(with_tangent(root(problem)))
    return [number for number in range(len(problem.results)) if number >= own or number in chosen]


def _rows(problem, state):
    if not isinstance(problem, Tangent):
        return [state]
    return [*_rows(problem.base, state[0]), ravel_pytree(state[1])[0]]


def _state(problem, rows, shape):
    if not isinstance(problem, Tangent):
        return rows[0]
    zeros = jax.tree.map(lambda one: jnp.zeros(one.shape, one.dtype), shape[1])
    return (_state(problem.base, rows[:-1], shape[0]), ravel_pytree(zeros)[1](rows[-1]))


def _words(array):
    return lax.bitcast_convert_type(array, {4: jnp.uint32, 8: jnp.uint64}[array.dtype.itemsize])


def launch(kernel, arrays, operands, levels, summed):
    """As `jax_cubie.launch.launch`."""
    assert [dataclasses.replace(one, axes=()) for one in operands] == list(kernel.operands)
    fronted, has = [], [[axis is not None for axis in one.axes] for one in operands]
    for array, operand in zip(arrays, operands, strict=True):
        axes = [axis for axis in reversed(operand.axes) if axis is not None]
        array = jnp.moveaxis(array, axes, range(len(axes)))
        assert array.shape[len(axes) :] == operand.shape and array.dtype == operand.dtype, (operand, array)
        fronted.append(array)
    function = lambda *ops: kernel.lane(list(ops))  # noqa: E731
    for level in range(levels):
        function = jax.vmap(function, [0 if one[level] else None for one in has], 0)
    found = function(*fronted)
    for array, result in zip(found, kernel.results, strict=True):
        assert array.shape[levels:] == result.shape and array.dtype == result.dtype, (result, array)

    def placed(array, result):
        if result.added:
            return jnp.sum(array, range(levels - summed, levels))
        return jnp.moveaxis(array, range(levels), reversed(result.axes(levels))) if levels else array

    return [placed(array, result) for array, result in zip(found, kernel.results, strict=True)]


@contextlib.contextmanager
def toy_kernels():
    """Its kernels take the place of the real ones."""
    toy = Toy()
    jax.clear_caches()
    with pytest.MonkeyPatch.context() as patch, jax.enable_x64(True):
        for name in ("forward_kernel", "backward_kernel", "checkpoint_results"):
            patch.setattr(kernels, name, getattr(toy, name))
        patch.setattr(lowering, "launch", launch)
        yield toy
    jax.clear_caches()


@pytest.fixture(scope="module")
def toy():
    """They do so during the tests of a module."""
    with toy_kernels() as toy:
        yield toy
