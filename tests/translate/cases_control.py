"""Calls, branches, loops; linear algebra, which is written with loops."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from cases import Case, normal, only, with_index
from jax import lax
from jax.custom_derivatives import linear_call
from jax.dtypes import float0


def _root(x: Any) -> Any:
    def newton(g: Any, y: Any) -> Any:
        return lax.fori_loop(0, 8, lambda _, z: z - g(z) / jax.grad(g)(z), y)

    return lax.custom_root(lambda y: y**3 - x[0] ** 2 - 1, x[0] * 0 + 1, newton, lambda g, y: y / g(x[0] * 0 + 1))


def _cases() -> list[Case]:
    cases: list[Case] = []
    calls = normal((4,))
    cases += [
        Case("jit", lambda x: jax.jit(lambda z: z * 2)(x), calls, 0),
        Case("remat2", lambda x: jax.checkpoint(lambda z: z * 2)(x), calls, 0),
        Case("custom_jvp_call", jax.nn.relu, calls, 0),
        Case("custom_jvp_call", jax.nn.softplus, calls, 8, 1e-6),
        Case("custom_vjp_call", _with_vjp, calls, 0),
        Case("add_any", lambda x: jax.vjp(lambda z: z * z + z, x)[1](x)[0], calls, 0),
    ]
    for shape in ((4,), (50,)):
        a = normal(shape)
        flag = with_index(shape, 2)
        cases += [
            Case("cond", lambda x, i: lax.cond(i > 1, lambda z: z * 2, lambda z: -z, x), flag, 0),
            Case("cond", lambda x, i: [lax.switch(k * i, [lambda z: z * 2, lambda z: -z, jnp.zeros_like], x)
                                       for k in (-1, 0, 1, 9)], flag, 0),
            Case("cond", lambda x, i: lax.cond(i < 1, lambda z: _halve(z), lambda z: (z, z.sum()), x), flag, 8, 1e-6),
            Case("cond", lambda x, i: lax.cond(i > 1, lambda z: _halve(z), lambda z: (z, z.sum()), x), flag, 8, 1e-6),
            Case("while", lambda x: lax.while_loop(lambda s: jnp.abs(s).max() > 1e-2, lambda s: s * 0.5, x), a, 0),
            Case("while", lambda x, i: lax.fori_loop(0, i + 3, lambda k, s: (s[1], s[0] * 2), (x, x + 1)), flag, 0),
            Case("while", lambda x: lax.while_loop(lambda s: s[0] < 5, lambda s: (s[0] + 1, jnp.roll(s[1], 1), s[1]),
                                                   (0, x, x)), a, 0),
            Case("scan", lambda x: lax.fori_loop(0, 3, lambda k, s: s * x[k], x), a, 4),
            Case("scan", lambda x: lax.fori_loop(0, 60, lambda k, s: s * 0.5 + x[k % 3], x), a, 64, 1e-6),
            Case("scan", lambda x: lax.scan(lambda c, z: (c + z, c * z), x[0], x), a, 64, 1e-6),
            Case("scan", lambda x: lax.scan(lambda c, z: (c + z, c * 2), x, jnp.stack([x, x * 2, x]), reverse=True),
                 a, 8, 1e-6),
            Case("scan", lambda x: lax.scan(lambda c, z: (c * 0.9 + z, (c[:2], c.sum())), x, jnp.arange(70.0)
                                            .astype(x.dtype)), a, 64, 1e-5),
            Case("scan", lambda x: lax.scan(lambda c, z: (c * 0.5, z * 2), x, jnp.tile(x[None], (40, 1)) + 1,
                                            reverse=True), a, 8, 1e-6),
            Case("scan", lambda x: jnp.interp(x, jnp.linspace(-2, 2, 9).astype(x.dtype),
                                              jnp.linspace(-2, 2, 9).astype(x.dtype) ** 2), a, 16, 1e-6),
            Case("jit", lambda x: jax.jacfwd(lambda z: jnp.sin(z[:3]) * z[1:4])(x), a, 8, 1e-6),
            Case("jit", lambda x: jax.grad(lambda z: (jnp.tanh(z) ** 2).sum())(x), a, 64, 1e-6),
            Case("jit", lambda x: jax.vmap(lambda z: jnp.where(z > 0, z, 0) * x[0])(x), a, 0),
        ]
    cases.append(Case("platform_index", lambda x: lax.platform_dependent(
        x, cpu=lambda z: z + z, default=lambda z: z * 2), calls, 0))
    for n, dtype in ((3, "float32"), (8, "float64")):
        a = normal((n, n), (n,))
        matrices = normal((2, n, n), (2, n))
        cases += only(dtype, [
            Case("lu", lambda x, y: lax.linalg.lu(x), a, 2000, 1e-4),
            Case("lu", lambda x, y: lax.linalg.lu(x), matrices, 2000, 1e-4),
            Case("lu", lambda x, y: (jnp.linalg.det(x), jnp.linalg.inv(x)), a, 2000, 1e-4),
            Case("lu_pivots_to_permutation", lambda x, y: lax.linalg.lu_pivots_to_permutation(
                lax.linalg.lu(x)[1], x.shape[-1]), a, 0),
            Case("custom_linear_solve", lambda x, y: (jnp.linalg.solve(x, y), jnp.linalg.solve(x.T, y[:, None])), a,
                 2000, 1e-4),
            Case("custom_linear_solve", lambda x, y: jax.vmap(jnp.linalg.solve)(x, y), matrices, 2000, 1e-4),
            Case("cholesky", lambda x, y: jnp.linalg.cholesky(x @ x.T + 2 * jnp.eye(len(x), dtype=x.dtype)), a,
                 2000, 1e-4),
            Case("triangular_solve", lambda x, y: [
                lax.linalg.triangular_solve(x + 4 * jnp.eye(len(x), dtype=x.dtype), x, left_side=left, lower=lower,
                                            transpose_a=transpose, unit_diagonal=left)
                for left in (True, False) for lower in (True, False) for transpose in (True, False)], a, 2e5, 1e-2),
        ])
    cases += _calls() + only("float64", _derivatives()) + _loops() + _factorisations()
    return cases


def _calls() -> list[Case]:
    a = normal((5,))

    @jax.custom_batching.custom_vmap
    def doubled(x: Any) -> Any:
        return 2 * x

    doubled.def_vmap(lambda size, batched, x: (2 * x, batched[0]))
    composite = lax.composite(lambda x: x * 2, name="test.double")
    return [
        Case("custom_vmap_call", doubled, a, 0),
        Case("call_hi_primitive", _root, a, 256, 1e-5),
        Case("composite", composite, a, 0),
        Case("linear_call", lambda x: linear_call(lambda r, y: r * y, lambda r, y: r * y, x, 2 * x), a, 0),
        Case("jit", lambda x: jax.vjp(jax.checkpoint(lambda y: jnp.sin(jnp.sin(y))), x)[1](x), a, 8),
        Case("jit", lambda x: jax.named_call(jnp.sin)(x), a, 4),
        Case("jit", lambda x: jax.vmap(jax.vmap(lambda y, z: jnp.where(y > z, y, z), (0, None)), (None, 0))(x, x), a, 0),
        Case("jit", lambda x: jax.vmap(jnp.dot, (0, None))(jnp.outer(x, x), x), a, 16, 1e-6),
        Case("jit", lambda x: lax.map(jnp.sin, x), a, 4),
        Case("jit", lambda x: jnp.vectorize(lambda y, z: y @ z, signature="(n),(n)->()")(jnp.outer(x, x), x), a, 16, 1e-6),
    ]


def _derivatives() -> list[Case]:
    """Taken inside the function."""
    a = normal((4,))

    def f(x: Any) -> Any:
        return jnp.tanh(x) * jnp.roll(x, 1) + jax.nn.softplus(x) * jnp.sum(x**2)

    def scalar(x: Any) -> Any:
        return jnp.sum(f(x) ** 2) + lax.fori_loop(0, 5, lambda k, s: s * 0.5 + x[k % 4], 1.0 * x[0])

    def checkpointed(x: Any) -> Any:
        layer = jax.checkpoint(lambda z: jnp.sin(z) * z, policy=jax.checkpoint_policies.nothing_saveable)
        return jnp.sum(lax.scan(lambda c, _: (layer(c), None), x, None, length=6)[0])

    times = jax.jit(lambda x, n: x * n)  # whose derivative by n is of dtype float0
    nothing = np.zeros((), float0)

    return [
        Case("jit", lambda x: jax.jit(lambda z: jax.vjp(times, z, jnp.arange(4))[1](z))(x)[0], a, 0),
        Case("jit", lambda x: jax.grad(lambda x, n: times(x, n).sum(), (0, 1), allow_int=True)(x, jnp.arange(4))[0], a, 0),
        Case("jit", lambda x: jax.jit(lambda z, w: z)(x, nothing) + jnp.zeros(4, float0).astype(x.dtype), a, 0),
        Case("cond", lambda x: lax.cond(x[0] > 0, lambda: (x, nothing), lambda: (2 * x, nothing))[0], a, 0),
        Case("scan", lambda x: lax.scan(lambda c, _: ((c[0] * 2, c[1]), c[1]), (x, nothing), None, length=3)[0][0], a, 0),
        Case("while", lambda x: lax.while_loop(lambda c: c[0][0] < 3, lambda c: (c[0] + 1, c[1]), (x, nothing))[0], a, 0),
        Case("custom_jvp_call", lambda x: jax.jvp(_with_jvp, (x, jnp.arange(4)), (x, np.zeros(4, float0)))[1], a, 0),
        Case("jit", jax.jacfwd(f), a, 256, 1e-5),
        Case("jit", jax.jacrev(f), a, 256, 1e-5),
        Case("jit", jax.grad(scalar), a, 256, 1e-5),
        Case("jit", jax.hessian(scalar), a, 512, 1e-4),
        Case("jit", lambda x: jax.jvp(f, (x,), (x[::-1],)), a, 256, 1e-5),
        Case("jit", lambda x: jax.linearize(f, x)[1](x), a, 256, 1e-5),
        Case("jit", lambda x: jax.vjp(f, x)[1](x), a, 256, 1e-5),
        Case("jit", lambda x: jax.linear_transpose(lambda y: jnp.cumsum(y) * 2, x)(x), a, 16, 1e-6),
        Case("custom_jvp_call", lambda x: (jax.nn.relu6(x), jax.jacfwd(jax.nn.softplus)(x), jax.nn.logsumexp(x)), a, 32, 1e-6),
        Case("custom_vjp_call", _with_vjp, a, 0),
        Case("jit", lambda x: jax.grad(lambda y: _with_vjp(y).sum())(x), a, 0),
        Case("remat2", jax.value_and_grad(checkpointed), a, 256, 1e-5),
        Case("while", lambda x: (_root(x), jax.grad(_root)(x)), a, 256, 1e-5),
        Case("triangular_solve", jax.jacfwd(lambda x: jnp.linalg.solve(jnp.outer(x, x) + 3 * jnp.eye(4, dtype=x.dtype), x)), a,
             2000, 1e-4),
        Case("cholesky", jax.grad(lambda x: jnp.linalg.slogdet(jnp.linalg.cholesky(
            jnp.outer(x, x) + 3 * jnp.eye(4, dtype=x.dtype)))[1]), a, 2000, 1e-4),
        Case("scan", jax.grad(lambda x: lax.scan(lambda c, z: (jnp.sin(c * z), c), x[0], x)[0]), a, 256, 1e-5),
    ]


def _loops() -> list[Case]:
    a, flag = normal((5,)), with_index((5,), 3)

    def collatz(x: Any, n: Any) -> Any:
        return lax.while_loop(lambda s: s[0] > 1, lambda s: (jnp.where(s[0] % 2 == 0, s[0] // 2, 3 * s[0] + 1), s[1] + 1),
                              (n, 0))[1] + x[0]

    def bisect(x: Any) -> Any:
        return lax.while_loop(lambda s: s[1] - s[0] > 1e-3, lambda s: lax.cond(
            (s[0] + s[1]) ** 2 / 4 > x**2, lambda: (s[0], (s[0] + s[1]) / 2), lambda: ((s[0] + s[1]) / 2, s[1])),
            (jnp.zeros_like(x), jnp.full_like(x, 4)))

    return [
        Case("while", collatz, flag, 0),
        Case("while", jax.vmap(bisect), a, 4, 1e-6),
        Case("while", lambda x: jax.vmap(bisect)(jnp.tile(x, 10)), a, 4, 1e-6),
        Case("while", lambda x, n: jax.vmap(lambda y, k: lax.fori_loop(0, k, lambda _, z: z * 0.5 + x, y), (None, 0))(
            x, jnp.arange(6) + n), flag, 16, 1e-6),
        Case("while", lambda x, n: lax.fori_loop(n, 9, lambda k, z: lax.fori_loop(0, k, lambda j, u: u * 0.9 + x[j % 5], z), x),
             flag, 64, 1e-6),
        Case("scan", lambda x: lax.scan(lambda c, _: (c * 0.5 + x, c[0]), x, None, length=50), a, 16, 1e-6),
        Case("scan", lambda x: lax.scan(lambda c, z: (c, z * 2), (), x), a, 0),
        Case("scan", lambda x: lax.scan(lambda c, z: (c + z[0], {"a": z[1], "b": c}), x[0], (x, jnp.arange(5))), a, 16, 1e-6),
        Case("scan", lambda x: lax.scan(lambda c, z: (c, z), x, x[:0]), a, 0),
        Case("scan", lambda x: lax.scan(lambda c, z: lax.scan(lambda d, w: (d + w * z, d), c, x), x[0], jnp.tile(x, 9)), a, 256,
             1e-4),
        Case("scan", lambda x: jax.vmap(lambda y: lax.scan(lambda c, z: (c + z, c), y, x)[0])(x), a, 16, 1e-6),
        Case("scan", lambda x: lax.fori_loop(0, 40, lambda k, s: s.at[k % 5].add(s[(k + 1) % 5] * 0.1), x), a, 64, 1e-6),
        Case("jit", lambda x: lax.associative_scan(jnp.add, jnp.tile(x, 7)), a, 64, 1e-5),
        Case("jit", lambda x, n: jax.vmap(lambda y, k: lax.switch(k, [jnp.sin, jnp.cos, lambda z: z], y))(
            x[:4], jnp.arange(4)), flag, 4),
        Case("cond", lambda x, n: lax.cond(x[0] > 0, lambda: lax.cond(n > 3, lambda: x, lambda: -x), lambda: 2 * x), flag, 0),
        Case("cond", lambda x, n: lax.cond(n > 2, lambda: (n, x > 0), lambda: (n + 1, x < 0)), flag, 0),
        Case("empty2", jax.grad(lambda x: lax.cond(x[0] > 0, jnp.sum, lambda z: jnp.prod(z), x)), a, 256, 1e-5),
        Case("cond", lambda x: jax.lax.cond(True, lambda: x, lambda: -x), a, 0),
    ]


def _factorisations() -> list[Case]:
    cases = []
    for n, dtype in ((3, "float64"), (7, "float32")):
        tall, square, line = normal((n, 2)), normal((n, n), (n,)), normal((n,), (n,), (n,), (n, 2))
        cases += only(dtype, [
            Case("lu", lambda x: lax.linalg.lu(x), tall, 200, 1e-5),
            Case("lu", lambda x: (lax.linalg.lu(x.T), lax.linalg.lu(jnp.zeros((3, 3), x.dtype))), tall, 200, 1e-5),
            Case("lu", lambda x, y: (jnp.linalg.slogdet(x), jnp.linalg.matrix_power(x, 3)), square, 2000, 1e-4),
            Case("qr", lambda x: (jnp.linalg.qr(x), jnp.linalg.qr(x.T), jnp.linalg.qr(x, mode="complete")), tall, 200, 1e-5),
            Case("qr", lambda x, y: jnp.linalg.qr(x), square, 2000, 1e-5),
            Case("qr", lambda x, y: jnp.linalg.qr(jnp.stack([x, -x.T])), square, 2000, 1e-5),
            Case("householder_product", lambda x, y: lax.linalg.householder_product(x, y), square, 2000, 1e-4),
            Case("tridiagonal_solve", lambda low, d, up, b: lax.linalg.tridiagonal_solve(
                low.at[0].set(0), d, up.at[-1].set(0), b), line, 2000, 1e-4),
            Case("tridiagonal_solve", lambda low, d, up, b: jax.vmap(lax.linalg.tridiagonal_solve)(
                jnp.stack([low, up]), jnp.stack([d, 4 + d]), jnp.stack([up, low]), jnp.stack([b, 2 * b])), line, 2000, 1e-4),
            Case("cholesky_update", lambda x, y: lax.linalg.cholesky_update(jnp.linalg.cholesky(_positive(x)).T, y), square,
                 200, 1e-5),
            Case("symmetric_product", lambda x, y: lax.linalg.symmetric_product(x, x.T, alpha=2.0, beta=0.5,
                                                                                symmetrize_output=True), square, 64, 1e-5),
            Case("cholesky", lambda x, y: lax.linalg.cholesky(-_positive(x)), square, 0),
            Case("triangular_solve", lambda x, y: (jax.scipy.linalg.cho_solve(jax.scipy.linalg.cho_factor(_positive(x)), y),
                                                   jax.scipy.linalg.solve(_positive(x), y, assume_a="pos")), square, 2000,
                 1e-4),
            Case("lu", lambda x, y: (jax.scipy.linalg.expm(x * 0.3), jax.scipy.linalg.lu(x)), square, 2000, 1e-4),
            Case("dot_general", lambda x, y: (jnp.linalg.norm(x), jnp.linalg.norm(y, 1), jnp.linalg.norm(x, jnp.inf),
                                              jnp.linalg.norm(y, axis=0), jnp.trace(x), jnp.linalg.multi_dot([x, x, y])),
                 square, 256, 1e-5),
        ])
    large = normal((40, 40), (40,))
    return [*cases, Case("custom_linear_solve", lambda x, y: jnp.linalg.solve(x + 9 * jnp.eye(40, dtype=x.dtype), y), large,
                         2000, 1e-4, ("float32",))]


def _positive(x: Any) -> Any:
    return x @ x.T + 2 * jnp.eye(len(x), dtype=x.dtype)


def _halve(x: Any) -> Any:
    return lax.fori_loop(0, 40, lambda k, s: (s[0] * 0.5, s[1] + s[0][0]), (x, x[0]))


@jax.custom_vjp
def _with_vjp(x: Any) -> Any:
    return x * 5


_with_vjp.defvjp(lambda x: (x * 5, None), lambda _, g: (g * 5,))


@jax.custom_jvp
def _with_jvp(x: Any, n: Any) -> Any:
    return x * n


_with_jvp.defjvp(lambda primals, tangents: (primals[0] * primals[1], tangents[0] * primals[1]))


CONTROL_CASES = _cases()
