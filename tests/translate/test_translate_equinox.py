"""equinox.nn's layers, which map arrays to arrays: their weights closed over, and handed in as arguments."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import FLOATS, assert_close, avals, flat
from harness import Compiled, program_of

LINE = np.array([0.3, -1.2, 2.5, -0.7, 0.1, 0.9], np.float32)
IMAGE = np.stack([LINE, LINE[::-1] ** 2])
SEQUENCE = np.stack([LINE, 2 * LINE, -LINE])

LAYERS: dict[str, tuple[Callable[[jax.Array], Any], tuple[Any, ...]]] = {
    "Linear": (lambda key: eqx.nn.Linear(6, 4, key=key), (LINE,)),
    "Linear without bias": (lambda key: eqx.nn.Linear(6, "scalar", use_bias=False, key=key), (LINE,)),
    "MLP": (lambda key: eqx.nn.MLP(6, 3, 8, 2, activation=jnp.tanh, key=key), (LINE,)),
    "MLP, wide": (lambda key: eqx.nn.MLP(6, 3, 40, 1, final_activation=jax.nn.softplus, key=key), (LINE,)),
    "MLP of a scalar": (lambda key: eqx.nn.MLP("scalar", "scalar", 5, 1, key=key), (LINE[0],)),
    "GRUCell": (lambda key: eqx.nn.GRUCell(2, 4, key=key), (LINE[:2], LINE[:4])),
    "LSTMCell": (lambda key: eqx.nn.LSTMCell(2, 4, key=key), (LINE[:2], (LINE[:4], LINE[2:]))),
    "Conv1d": (lambda key: eqx.nn.Conv1d(2, 3, 3, padding=1, key=key), (IMAGE,)),
    "Conv1d, strided, in groups": (lambda key: eqx.nn.Conv1d(2, 4, 2, stride=2, groups=2, dilation=2, key=key), (IMAGE,)),
    "Conv1d, periodic": (lambda key: eqx.nn.Conv1d(2, 2, 3, padding=1, padding_mode="CIRCULAR", key=key), (IMAGE,)),
    "Conv2d": (lambda key: eqx.nn.Conv2d(1, 2, 2, key=key), (IMAGE[None],)),
    "ConvTranspose1d": (lambda key: eqx.nn.ConvTranspose1d(2, 3, 3, stride=2, key=key), (IMAGE,)),
    "LayerNorm": (lambda key: eqx.nn.LayerNorm(6), (LINE,)),
    "RMSNorm": (lambda key: eqx.nn.RMSNorm(6), (LINE,)),
    "GroupNorm": (lambda key: eqx.nn.GroupNorm(2, 4), (np.stack([LINE, -LINE, LINE**2, LINE**3]),)),
    "Lambda": (lambda key: eqx.nn.Lambda(jax.nn.gelu), (LINE,)),
    "Identity": (lambda key: eqx.nn.Identity(), (LINE,)),
    "PReLU": (lambda key: eqx.nn.PReLU(0.2), (LINE,)),
    "Dropout": (lambda key: eqx.nn.Dropout(0.5, inference=True), (LINE,)),
    "Embedding": (lambda key: eqx.nn.Embedding(50, 4, key=key), (np.int32(3),)),
    "MaxPool1d": (lambda key: eqx.nn.MaxPool1d(2, 2), (IMAGE,)),
    "AvgPool1d": (lambda key: eqx.nn.AvgPool1d(3), (IMAGE,)),
    "MultiheadAttention": (lambda key: eqx.nn.MultiheadAttention(2, 6, key=key), (SEQUENCE, SEQUENCE, SEQUENCE)),
    "Sequential": (lambda key: eqx.nn.Sequential([
        eqx.nn.Linear(6, 4, key=key), eqx.nn.Lambda(jax.nn.relu), eqx.nn.LayerNorm(4), eqx.nn.Linear(4, 2, key=key)]), (LINE,)),
}


def made(make: Callable[[jax.Array], Any]) -> Any:
    """The layer with numbers in place of its weights, which cost a compilation each."""
    random = np.random.default_rng(1)
    return jax.tree.map(lambda x: random.normal(size=x.shape) / 2 if isinstance(x, jax.ShapeDtypeStruct) else x,
                        eqx.filter_eval_shape(make, jax.ShapeDtypeStruct((2,), jnp.uint32)))


def drivers() -> list[tuple[Any, tuple[Any, ...]]]:
    """Functions of time that are interpolated."""
    times, values = np.arange(6.0), IMAGE.T
    return [
        (diffrax.LinearInterpolation(times, values).evaluate, (LINE[2],)),
        (diffrax.CubicInterpolation(times, diffrax.backward_hermite_coefficients(times, values)).derivative, (LINE[2],)),
    ]


def in_dtype(tree: Any, dtype: str) -> Any:
    """Its arrays of floats; an integer that looks up and a setting of the layer stay."""
    floats = lambda x: isinstance(x, (jax.Array, np.ndarray, np.generic)) and jnp.issubdtype(x.dtype, jnp.floating)  # noqa: E731
    return jax.tree.map(lambda x: jnp.asarray(x, dtype) if floats(x) else x, tree)


@pytest.mark.parametrize("dtype", FLOATS)
def test_layers(dtype: str) -> None:
    with jax.enable_x64(True):
        rows = [(made(make), args) for make, args in LAYERS.values()] + drivers()
        layers = [in_dtype(row, dtype) for row in rows]
        wants: Any = eqx.filter_jit(lambda rows: [jax.tree.leaves(layer(*args)) for layer, args in rows])(layers)
        programs, inputs = [], []
        for layer, args in layers:
            leaves, structure = jax.tree.flatten(args)
            arrays, rest = eqx.partition(layer, eqx.is_inexact_array)
            weights, weights_structure = jax.tree.flatten(arrays)

            def closed(*given: Any, layer: Any = layer, structure: Any = structure) -> Any:
                return layer(*jax.tree.unflatten(structure, given))

            def opened(*given: Any, count: int = len(leaves), rest: Any = rest, structure: Any = structure,
                       weights_structure: Any = weights_structure) -> Any:
                layer = eqx.combine(jax.tree.unflatten(weights_structure, given[count:]), rest)
                return layer(*jax.tree.unflatten(structure, given[:count]))

            for fn, operands in ((closed, leaves), (opened, [*leaves, *weights])):
                program, constants = program_of(flat(fn), *avals(operands))
                programs.append(program)
                inputs.append([*operands, *constants])
        image = Compiled(programs)
        for k, (name, want) in enumerate(zip([*LAYERS, "linear", "cubic"], wants, strict=True)):
            for way in (0, 1):
                for got, expected in zip(image(2 * k + way, *inputs[2 * k + way]), want, strict=True):
                    assert_close(got, expected, 64, 2e-6, f"{name}, {dtype}, weights {('closed over', 'as arguments')[way]}")
