"""Rules that move elements: small arrays, which go into registers, and large ones, which stay in memory."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from cases import Case, normal, with_index
from jax import lax
from jax.ad_checkpoint import checkpoint_name


def _cases() -> list[Case]:
    cases: list[Case] = []
    # Shapes: small (in registers) and large (in memory).
    for n, m in ((2, 3), (5, 40)):
        a = normal((n, m))
        line = normal((n * m,))
        index = np.array([0, 3, 5, 1]) % (n * m)
        cases += [
            Case("reshape", lambda x: x.reshape(-1) * 2, a, 0),
            Case("reshape", lambda x, m=m, n=n: (x.reshape(m, n) * 2, x.T.reshape(-1), (2 * x).T.reshape(n, m)), a, 0),
            Case("squeeze", lambda x: (lax.squeeze(lax.expand_dims(x, (1,)), (1,)) + x, x[:1].squeeze(0)), a, 0),
            Case("broadcast_in_dim", lambda x: x[:, None] * 2, a, 0),
            Case("transpose", lambda x: (x.T, (x * 2).T), a, 0),
            Case("broadcast_in_dim", lambda x, n=n: jnp.broadcast_to(x, (2, *x.shape)) + x[:, :1], a, 0),
            Case("broadcast_in_dim", lambda x: x[:, 0][:, None] * jnp.ones_like(x) + x[0] * 2, a, 0),
            Case("slice", lambda x: (x[1:-1] * 2, x[::2], x[1:] - x[:-1]), line, 0),
            Case("slice", lambda x: (x * 2)[:, 1:] + x[:, :-1], a, 0),
            Case("split", lambda x, n=n: jnp.split(x, n), line, 0),
            Case("rev", lambda x: (x[::-1], lax.rev(x * 2, (0,))), line, 0),
            Case("rev", lambda x: x[::-1, ::-1], a, 0),
            Case("concatenate", lambda x: (jnp.roll(x, 1) + x, jnp.concatenate([x, x[:2] * 2, x])), line, 0),
            Case("stack", lambda x: (jnp.stack([x, x * 2]), jnp.stack([x, x], axis=1)), line, 0),
            Case("unstack", lambda x: list(jnp.unstack(x)), a, 0),
            Case("tile", lambda x: jnp.tile(x, (2, 2)), a, 0),
            Case("pad", lambda x: (jnp.pad(x, ((1, 2), (0, 1))),
                                   lax.pad(x, x[0, 0] * 0 + 7, ((1, -1, 0), (-1, 2, 1)))), a, 0),
            Case("gather", lambda x, i=index: (x[i] * 2, x[np.flip(i)]), line, 0),
            Case("gather", lambda x, i: (x[i], x[i] * 2), with_index((n * m,), [0, -1, 2, 1000]), 0),
            Case("gather", lambda x, i, j: (x[i, j], x[i]), with_index((n, m), [0, 1, 1], [2, 0, 1]), 0),
            Case("gather", lambda x, i: (x.at[i].get(mode="fill", fill_value=3), x.at[i].get(mode="clip")),
                 with_index((n * m,), [0, 99999, 2]), 0),
            Case("gather", lambda x, i: jnp.take_along_axis(x, i, axis=1), with_index((n, m), [[0], [1]] * (n // 2) +
                                                                                    [[1]] * (n % 2)), 0),
            Case("dynamic_slice", lambda x, i: (x[i], lax.dynamic_slice(x, (i,), (3,)) * 2),
                 with_index((n * m,), 4), 0),
            Case("dynamic_slice", lambda x, i: lax.dynamic_slice(x * 2, (i, i), (2, 2)), with_index((n, m), 7), 0),
            Case("dynamic_update_slice", lambda x, i: (lax.dynamic_update_slice(x, x[:2] * 3, (i,)),
                                                       x.at[i].set(5), lax.dynamic_update_slice(x, x[:2] * 3, (1,))),
                 with_index((n * m,), 3), 0),
            Case("scatter", lambda x, i=index: (x.at[i].set(x[i] * 2), x.at[0].set(3)), line, 0),
            Case("scatter", lambda x, i: (x.at[i].set(7), x.at[i].set(x[:3] * 2, mode="clip")),
                 with_index((n * m,), [1, 99999, 3]), 0),
            Case("scatter", lambda x, i: x.at[i].set(7), with_index((n, m), [1]), 0),
            Case("scatter", lambda x, i: (x.at[i].apply(lambda v: 3 * abs(v)), x.at[1:3].apply(lambda v: 3 * v)),
                 with_index((n * m,), [2, 99999, 0]), 0),
            Case("gather", lambda x, i: jax.vmap(lambda row, k: row[k])(x, i), with_index((n, m), np.arange(n) % m), 0),
            Case("gather", lambda x, i: x[:, i] + x[:, i[::-1]], with_index((n, m), [m - 1, 0]), 0),
            Case("scatter", lambda x, i: jax.vmap(lambda row, k: row.at[k].set(row[0] * 2))(x, i),
                 with_index((n, m), np.arange(n) % m), 0),
            Case("dynamic_update_slice", lambda x, i: (lax.dynamic_update_slice(x, x[:1, :2] * 3, (i, i - 2)),
                                                       lax.dynamic_update_slice(2 * x, x[1:, 1:], (i, i))),
                 with_index((n, m), 1), 0),
            Case("scatter-add", lambda x, i=index: x.at[i].add(x[i]), line, 0),
            Case("scatter-add", lambda x, i: x.at[i].add(x[:3]), with_index((n * m,), [1, 1, 3]), 0),
            Case("scatter-sub", lambda x, i: x.at[i].subtract(x[:3]), with_index((n * m,), [1, 1, 3]), 0),
            Case("scatter-mul", lambda x, i: x.at[i].mul(x[:3]), with_index((n * m,), [1, 1, 3]), 0),
            Case("scatter-min", lambda x, i: x.at[i].min(x[:3]), with_index((n * m,), [1, 2, 3]), 0),
            Case("scatter-max", lambda x, i: x.at[i].max(x[:3]), with_index((n * m,), [1, 2, 3]), 0),
        ]
    box = normal((2, 3, 4))
    long_box = normal((3, 8, 5))
    whole = ("int32", "bool", "uint8")
    for a in (box, long_box):
        cases += [
            Case("transpose", lambda x: (x.transpose(2, 0, 1), (-x).transpose(1, 2, 0), jnp.moveaxis(x, 0, 1)), a, 0),
            Case("slice", lambda x: (x[:, ::-1, 1:], x[::2, 1:2], (2 * x)[..., -1]), a, 0),
            Case("concatenate", lambda x: jnp.concatenate([x, 2 * x, x[:, :1]], axis=1), a, 0),
            Case("reshape", lambda x: (x.reshape(x.shape[0], -1) * 2, (x + 1).swapaxes(0, 2).reshape(-1)), a, 0),
            Case("pad", lambda x: (jnp.pad(x, 1, mode="edge"), jnp.pad(x, 1, mode="wrap"), jnp.pad(x, 2, mode="reflect")),
                 a, 0),
            Case("reshape", lambda x: (x.reshape(-1)[::-1], x[1:].transpose(2, 1, 0), jnp.stack([x, x]).any(0)), a, 0,
                 dtypes=whole),
            Case("gather", lambda x: (x[np.array([1, 0]), :, np.array([2, 3])], x[..., np.array([3, 1])]), a, 0,
                 dtypes=("float32", *whole)),
            Case("pad", lambda x: lax.pad(x, x[0, 0, 0], ((1, 0, 1), (-1, 0, 0), (0, -2, 2))), a, 0,
                 dtypes=("float64", *whole)),
            Case("scatter", lambda x: (x.at[1, :, 2].set(x[0, :, 0]), x.at[:, np.array([2, 0])].set(x[:, :2])), a, 0,
                 dtypes=("float32", *whole)),
        ]
    line = normal((50,))
    cases += [
        Case("copy", lambda x: jnp.array(x, copy=True) + 1, line, 0),
        Case("stop_gradient", lambda x: lax.stop_gradient(x) + 1, line, 0),
        Case("name", lambda x: checkpoint_name(x, "kept") + 1, line, 0),
        Case("device_put", lambda x: jax.device_put(x) + 1, line, 0),
        Case("optimization_barrier", lambda x: lax.optimization_barrier((x, 2 * x)), line, 0),
        Case("iota", lambda x: x + jnp.arange(50, dtype=x.dtype) + lax.broadcasted_iota(x.dtype, (3, 50), 1)[1], line, 0),
        Case("iota", lambda x: (x[:5] * jnp.arange(1, 10, 2), x + jnp.linspace(0, 1, 50).astype(x.dtype)), line, 4, 1e-6),
        Case("empty", lambda x: lax.empty((3,), x.dtype).at[:].set(x[:3]), line, 0),
        Case("scatter", lambda x: x.at[jnp.array([1, 3, 60])].set(9, mode="drop").at[-1].set(2), line, 0),
        Case("scatter-add", lambda x: jnp.zeros(4, x.dtype).at[jnp.clip(x + 2, 0, 3).astype(int)].add(1), line, 0),
        Case("scatter-add", lambda x: jax.ops.segment_sum(x, jnp.arange(50) // 9, num_segments=6), line, 16, 1e-6),
    ]
    return cases


ARRAY_CASES = _cases()
