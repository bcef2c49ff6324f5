"""equinox.nn's layers, which map arrays to arrays: their weights closed over, and handed in as arguments."""

from __future__ import annotations

from typing import Any

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import FLOATS, assert_close, avals, flat
from harness import Compiled

from jax_cubie.translate import trace

KEY = jax.random.key(3)
LINE = np.array([0.3, -1.2, 2.5, -0.7, 0.1, 0.9], np.float32)
IMAGE = np.stack([LINE, LINE[::-1] ** 2])
SEQUENCE = np.stack([LINE, 2 * LINE, -LINE])

LAYERS: dict[str, tuple[Any, tuple[Any, ...]]] = {
    "Linear": (eqx.nn.Linear(6, 4, key=KEY), (LINE,)),
    "Linear without bias": (eqx.nn.Linear(6, "scalar", use_bias=False, key=KEY), (LINE,)),
    "MLP": (eqx.nn.MLP(6, 3, 8, 2, activation=jnp.tanh, key=KEY), (LINE,)),
    "MLP, wide": (eqx.nn.MLP(6, 3, 40, 1, final_activation=jax.nn.softplus, key=KEY), (LINE,)),
    "MLP of a scalar": (eqx.nn.MLP("scalar", "scalar", 5, 1, key=KEY), (LINE[0],)),
    "GRUCell": (eqx.nn.GRUCell(2, 4, key=KEY), (LINE[:2], LINE[:4])),
    "LSTMCell": (eqx.nn.LSTMCell(2, 4, key=KEY), (LINE[:2], (LINE[:4], LINE[2:]))),
    "Conv1d": (eqx.nn.Conv1d(2, 3, 3, padding=1, key=KEY), (IMAGE,)),
    "Conv1d, strided, in groups": (eqx.nn.Conv1d(2, 4, 2, stride=2, groups=2, dilation=2, key=KEY), (IMAGE,)),
    "Conv1d, periodic": (eqx.nn.Conv1d(2, 2, 3, padding=1, padding_mode="CIRCULAR", key=KEY), (IMAGE,)),
    "Conv2d": (eqx.nn.Conv2d(1, 2, 2, key=KEY), (IMAGE[None],)),
    "ConvTranspose1d": (eqx.nn.ConvTranspose1d(2, 3, 3, stride=2, key=KEY), (IMAGE,)),
    "LayerNorm": (eqx.nn.LayerNorm(6), (LINE,)),
    "RMSNorm": (eqx.nn.RMSNorm(6), (LINE,)),
    "GroupNorm": (eqx.nn.GroupNorm(2, 4), (np.stack([LINE, -LINE, LINE**2, LINE**3]),)),
    "Lambda": (eqx.nn.Lambda(jax.nn.gelu), (LINE,)),
    "Identity": (eqx.nn.Identity(), (LINE,)),
    "PReLU": (eqx.nn.PReLU(0.2), (LINE,)),
    "Dropout": (eqx.nn.Dropout(0.5, inference=True), (LINE,)),
    "Embedding": (eqx.nn.Embedding(50, 4, key=KEY), (np.int32(3),)),
    "MaxPool1d": (eqx.nn.MaxPool1d(2, 2), (IMAGE,)),
    "AvgPool1d": (eqx.nn.AvgPool1d(3), (IMAGE,)),
    "MultiheadAttention": (eqx.nn.MultiheadAttention(2, 6, key=KEY), (SEQUENCE, SEQUENCE, SEQUENCE)),
    "Sequential": (eqx.nn.Sequential([eqx.nn.Linear(6, 4, key=KEY), eqx.nn.Lambda(jax.nn.relu), eqx.nn.LayerNorm(4),
                                      eqx.nn.Linear(4, 2, key=KEY)]), (LINE,)),
    # Driving functions of time.
    "LinearInterpolation": (diffrax.LinearInterpolation(np.arange(6.0), IMAGE.T).evaluate, (LINE[2],)),
    "CubicInterpolation": (diffrax.CubicInterpolation(np.arange(6.0), diffrax.backward_hermite_coefficients(
        np.arange(6.0), IMAGE.T)).derivative, (LINE[2],)),
}


def in_dtype(tree: Any, dtype: str) -> Any:
    """Its arrays of floats; an integer that looks up and a setting of the layer stay."""
    floats = lambda x: isinstance(x, (jax.Array, np.ndarray, np.generic)) and jnp.issubdtype(x.dtype, jnp.floating)  # noqa: E731
    return jax.tree.map(lambda x: jnp.asarray(x, dtype) if floats(x) else x, tree)


@pytest.mark.parametrize("dtype", FLOATS)
def test_layers(dtype: str) -> None:
    with jax.enable_x64(True):
        layers = [in_dtype(row, dtype) for row in LAYERS.values()]
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
                program, constants = trace(flat(fn), *avals(operands))
                programs.append(program)
                inputs.append([*operands, *constants])
        image = Compiled(programs)
        for k, (name, want) in enumerate(zip(LAYERS, wants, strict=True)):
            for way in (0, 1):
                for got, expected in zip(image(2 * k + way, *inputs[2 * k + way]), want, strict=True):
                    assert_close(got, expected, 64, 2e-6, f"{name}, {dtype}, weights {('closed over', 'as arguments')[way]}")
