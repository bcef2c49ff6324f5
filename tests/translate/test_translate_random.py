"""Random programs, each step of which has to agree with XLA on what the program itself computed up to there.

So rounding does not add up over the steps, and a comparison falls the same way on both sides: NaN, infinities and the
signs of zero have to agree exactly. Several programs share one image and one XLA executable.

CI runs few, always the same. `JAX_CUBIE_EXAMPLES=500 pytest tests/translate/test_translate_random.py` runs so many times
as many as it says, others each time.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from cases import FLOATS, INF, NAN, avals
from harness import Compiled, on_the_cpu, program_of
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from jax import lax

_ON_DEMAND = os.environ.get("JAX_CUBIE_EXAMPLES")
_SHAPES = ((), (1,), (3,), (7,), (40,), (2, 3), (5, 8), (8, 5), (3, 1, 4), (4, 3, 5))
_TOGETHER = 6


def _line(x: Any) -> Any:
    """x with one axis at least, and not empty."""
    return x.reshape(1) if x.ndim == 0 else x


def _position(x: Any, n: int) -> Any:
    """An index from a value, inside or outside of n."""
    first = x.reshape(-1)[0]
    return jnp.where(jnp.isfinite(first), first, 2).astype(jnp.int32) % (2 * n) - n // 2


def _finite(x: Any) -> Any:
    return jnp.where(jnp.isfinite(x), x, 1)


def _matrix(x: Any) -> Any:
    return jnp.resize(x, (3, 5))


STEPS: dict[str, Callable[[Any, Any, int], Any]] = {
    # The name, and the step on two values and a number from 0 to 9. Each is one operation, or a few that round once.
    **{f.__name__: (lambda x, y, i, f=f: f(x)) for f in (
        jnp.sin, jnp.tanh, jnp.abs, jnp.negative, jnp.floor, jnp.ceil, jnp.sign, jnp.arctan, jnp.square, jnp.reciprocal,
        jnp.cbrt, jnp.isfinite, jnp.nan_to_num, jnp.round, jnp.expm1)},
    "sqrt": lambda x, y, i: jnp.sqrt(jnp.abs(x)),
    "log1p": lambda x, y, i: jnp.log1p(jnp.abs(x)),
    "sigmoid": lambda x, y, i: jax.nn.sigmoid(x),
    "erf": lambda x, y, i: lax.erf(x),
    **{f.__name__: (lambda x, y, i, f=f: f(x, jnp.resize(y, x.shape))) for f in (
        jnp.add, jnp.subtract, jnp.multiply, jnp.divide, jnp.maximum, jnp.minimum, jnp.arctan2, jnp.copysign, jnp.nextafter,
        jnp.less, jnp.equal, jnp.logical_xor, jnp.fmod, jnp.hypot)},
    "power": lambda x, y, i: x ** (i - 3),
    "where": lambda x, y, i: jnp.where(x > 0.5 * (i - 4), x, jnp.resize(y, x.shape)),
    "clip": lambda x, y, i: jnp.clip(x, -i, 0.5 * i),
    "to integers": lambda x, y, i: (x.astype(jnp.int32) * (i - 4) >> 1).astype(x.dtype),
    "bits": lambda x, y, i: ((x.astype(jnp.int32) ^ 5) & (3 + i)).astype(jnp.uint8) // (i + 1),
    "broadcast": lambda x, y, i: _line(x).reshape(-1)[:4][:, None] + _line(y).reshape(-1)[:5],
    "reshape": lambda x, y, i: x.reshape(-1),
    "transpose": lambda x, y, i: jnp.moveaxis(_line(x), i % _line(x).ndim, 0),
    "reverse": lambda x, y, i: _line(x)[::-1],
    "slice": lambda x, y, i: _line(x)[i % 2::1 + i % 3] if _line(x).shape[0] > 1 else x,
    "roll": lambda x, y, i: jnp.roll(x, i - 4),
    "concatenate": lambda x, y, i: jnp.concatenate([x.reshape(-1), y.reshape(-1)[: 1 + i]]),
    "stack": lambda x, y, i: jnp.stack([x, jnp.resize(y, x.shape)], axis=i % (x.ndim + 1)),
    "pad": lambda x, y, i: lax.pad(_line(x), jnp.asarray(0.5, x.dtype), [(i % 3, i % 2, i % 2)] * _line(x).ndim),
    "tile": lambda x, y, i: jnp.tile(x.reshape(-1)[:8], 1 + i % 4),
    "resize": lambda x, y, i: jnp.resize(x, _SHAPES[i]),
    "take": lambda x, y, i: jnp.take(_line(x), jnp.array([i, 0, -1, 3]), axis=0, mode="fill"),
    "take one": lambda x, y, i: _line(x)[_position(y, _line(x).shape[0])],
    "dynamic_slice": lambda x, y, i: lax.dynamic_slice_in_dim(_line(x), _position(y, 9), min(2, _line(x).shape[0])),
    "set": lambda x, y, i: _line(x).at[i % _line(x).shape[0]].set(y.reshape(-1)[0]),
    "set at run time": lambda x, y, i: _line(x).at[_position(y, _line(x).shape[0])].set(i),
    "maximum at run time": lambda x, y, i: x.reshape(-1).at[jnp.stack([_position(y, x.size), i])].max(0.5),
    "update": lambda x, y, i: lax.dynamic_update_slice_in_dim(_line(x), _line(x)[:1] * 2, _position(y, 5), 0),
    "sum": lambda x, y, i: jnp.sum(_line(x), axis=i % _line(x).ndim),
    "total": lambda x, y, i: jnp.sum(x),
    "max": lambda x, y, i: jnp.max(_line(x), axis=i % _line(x).ndim),
    "min": lambda x, y, i: jnp.min(x),
    "argmax": lambda x, y, i: jnp.argmax(_line(x), axis=i % _line(x).ndim),
    "any": lambda x, y, i: jnp.any(_line(x) > i - 4, axis=0),
    "cumsum": lambda x, y, i: jnp.cumsum(_line(x), axis=i % _line(x).ndim),
    "cummax": lambda x, y, i: lax.cummax(_line(x), axis=i % _line(x).ndim, reverse=i > 4),
    "sort": lambda x, y, i: jnp.sort(_line(x), axis=i % _line(x).ndim, descending=i > 6),
    "argsort": lambda x, y, i: jnp.argsort(_line(x), axis=i % _line(x).ndim),
    "top_k": lambda x, y, i: lax.top_k(x.reshape(-1), 1 + i % min(4, x.size))[i % 2],
    "matmul": lambda x, y, i: _matrix(x) @ jnp.resize(y, (5, 2 + i)),
    "dot": lambda x, y, i: jnp.dot(x.reshape(-1), jnp.resize(y, x.size)),
    "outer": lambda x, y, i: jnp.outer(x.reshape(-1)[:6], y.reshape(-1)[:6]),
    # XLA multiplies the zeros of the padding in float32 and leaves them out in float64, so infinities would differ.
    "convolve": lambda x, y, i: jnp.convolve(_finite(x).reshape(-1), _finite(y).reshape(-1)[:3], "same"),
    "window": lambda x, y, i: lax.reduce_window(x.reshape(-1), jnp.asarray(-jnp.inf, x.dtype), lax.max, (3,), (1 + i % 2,),
                                                "SAME"),
    "cond": lambda x, y, i: lax.cond(x.reshape(-1)[0] > 0, lambda z: -z, lambda z: z + 1, x),
    "cond with a loop": lambda x, y, i: lax.cond(y.reshape(-1)[0] > 0, lambda z: lax.fori_loop(0, 40, lambda k, s: -s, z),
                                                 lambda z: z, x),
    "switch": lambda x, y, i: lax.switch(_position(x, 2), [jnp.negative, jnp.abs, lambda z: z * 2], x),
    "fori_loop": lambda x, y, i: lax.fori_loop(0, 3 * i, lambda k, s: jnp.where(k % 2 == 0, -s, s), x),
    "fori_loop over rows": lambda x, y, i: lax.fori_loop(0, 50, lambda k, s: s.at[k % s.shape[0]].max(k - 30), _line(x)),
    "while_loop": lambda x, y, i: lax.while_loop(lambda s: (s[1] < i) & (jnp.nan_to_num(s[0]).max() < 100),
                                                 lambda s: (s[0] * 2, s[1] + 1), (_line(x), 0))[0],
    "scan": lambda x, y, i: lax.scan(lambda c, z: (jnp.maximum(c, z), c), _line(x)[0], _line(x), reverse=i > 4)[1],
    "vmap": lambda x, y, i: jax.vmap(lambda z: jnp.where(jnp.max(z) > 0, -z, z))(_line(x)),
    "vmapped while_loop": lambda x, y, i: jax.vmap(lambda z: lax.while_loop(
        lambda s: (s[0] > 1) & (s[1] < 9), lambda s: (s[0] / 2, s[1] + 1), (z, 0))[0])(x.reshape(-1)),
}

# A sum's rounding is that of its terms, not of its result.
_SUMS = {"sum", "total", "cumsum", "matmul", "dot", "convolve", "broadcast", "add", "subtract", "fmod"}


class Step(NamedTuple):
    kind: str
    x: int  # which of the values so far, counted from the last
    y: int
    number: int


class RandomProgram(NamedTuple):
    shapes: tuple[tuple[int, ...], ...]
    steps: tuple[Step, ...]
    dtype: str
    unroll: int
    seed: int

    def inputs(self) -> list[np.ndarray]:
        random = np.random.default_rng(self.seed)
        special = np.array([NAN, INF, -INF, 0.0, -0.0, 1.0, -2.0, 0.5])
        arrays = []
        for shape in self.shapes:
            x = random.normal(size=shape) * 3
            arrays.append(np.where(random.random(shape) < 0.2, random.choice(special, shape), x).astype(self.dtype))
        return arrays

    def operands(self, step: Step, values: list[Any]) -> tuple[Any, Any]:
        return values[-1 - step.x % len(values)], values[-1 - step.y % len(values)]

    def __call__(self, *inputs: Any) -> list[Any]:
        values = list(inputs)
        for step in self.steps:
            values.append(take(step, *self.operands(step, values), self.dtype))
        return values[len(inputs):]


def take(step: Step, x: Any, y: Any, dtype: str) -> Any:
    """One step. It gives floats of moderate size, so that no order of summation overflows, and at most 120 of them."""
    value = STEPS[step.kind](x, y, step.number).astype(dtype)
    value = value.reshape(-1)[:120] if value.size > 120 else value
    value = jnp.where(jnp.abs(value) < 1e-5, value * 0, value)
    return jnp.where(jnp.isfinite(value), jnp.clip(value, -1e3, 1e3), value)


_steps = st.builds(Step, st.sampled_from(sorted(STEPS)), st.integers(0, 3), st.integers(0, 5), st.integers(0, 9))
_programs = st.builds(
    RandomProgram,
    st.tuples(st.sampled_from(_SHAPES), st.sampled_from(_SHAPES)),
    st.lists(_steps, min_size=4, max_size=12).map(tuple),
    st.sampled_from(FLOATS),
    st.sampled_from((1, 8, 32, 200)),
    st.integers(0, 1000),
)


# A failure is not shrunk: it names the step and shows what went in.
@settings(derandomize=_ON_DEMAND is None, max_examples=int(_ON_DEMAND or 5), deadline=None, database=None,
          phases=[Phase.generate])
@given(st.lists(_programs, min_size=_TOGETHER, max_size=_TOGETHER))
def test_random_programs(programs: list[RandomProgram]) -> None:
    with jax.enable_x64(True), on_the_cpu():
        inputs = [program.inputs() for program in programs]
        traced = [program_of(program, *avals(arrays), unroll=program.unroll) for program, arrays in zip(
            programs, inputs, strict=True)]
        image = Compiled([program for program, _ in traced])
        values = [[*arrays, *image(k, *arrays, *traced[k][1])] for k, arrays in enumerate(inputs)]

        def each_step(values: list[list[Any]]) -> list[list[Any]]:
            """What XLA makes of each step, from our values before it."""
            return [[take(step, *program.operands(step, ours[:2 + k]), program.dtype) for k, step in enumerate(program.steps)]
                    for program, ours in zip(programs, values, strict=True)]

        wants: Any = jax.jit(each_step, compiler_options={"xla_backend_optimization_level": 0})(values)
    for program, ours, theirs in zip(programs, values, wants, strict=True):
        for k, (step, want) in enumerate(zip(program.steps, theirs, strict=True)):
            x, y = program.operands(step, ours[:2 + k])
            check(program, k, x, y, ours[2 + k], np.asarray(want))


def check(program: RandomProgram, k: int, x: Any, y: Any, got: np.ndarray, want: np.ndarray) -> None:
    step, eps = program.steps[k], float(np.finfo(program.dtype).eps)
    assert got.shape == want.shape
    size = [np.max(np.abs(z), initial=1, where=np.isfinite(z)) for z in (x, y)]
    scale = size[0] * size[1] * x.size if step.kind in _SUMS else 1
    tolerance = 64 * eps * np.maximum(np.where(np.isfinite(want), abs(want), 1), scale)
    with np.errstate(invalid="ignore"):
        same = (got == want) | (abs(got - want) <= tolerance) | (np.isnan(got) & np.isnan(want))
    zeros = (got == 0) & (want == 0) & (step.kind not in _SUMS)
    same &= ~zeros | (np.signbit(got) == np.signbit(want))
    assert same.all(), f"step {k}, {step}, of {program}\nx = {x!r}\ny = {y!r}\nwe say\n{got!r}\nXLA says\n{want!r}"
