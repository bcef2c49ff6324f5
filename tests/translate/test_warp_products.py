"""Products that a warp computes together: which they are, and that nothing gets lost in the row where they are left.

Programs are run by a few lines of NumPy, in float64, as one thread would run them.
"""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import solve_helpers
from hypothesis import given, settings
from hypothesis import strategies as st

from jax_cubie import SaveAt, Solver, steady_state
from jax_cubie.derivatives.chain import differentiable, tangent_of
from jax_cubie.derivatives.kernels import forward_kernel
from jax_cubie.kernel.target import Target
from jax_cubie.plan import Plan
from jax_cubie.problem import make_request
from jax_cubie.translate import Program
from jax_cubie.translate.program import ROW
from jax_cubie.translate.warp_products import row_words

OPERATIONS = {
    "add": np.add, "sub": np.subtract, "mul": np.multiply, "tanh": np.tanh, "sin": np.sin, "neg": np.negative,
    "max": np.maximum, "exp": np.exp, "div": np.divide, "fma": lambda x, y, z: x * y + z, "eq": np.equal,
    "lt": np.less, "select": np.where,
}  # fmt: skip


def run(program: Program, inputs: list) -> list[np.ndarray]:
    memory = {("input", k): np.asarray(one, np.float64).ravel() for k, one in enumerate(inputs)}
    memory |= {("output", k): np.full(math.prod(shape), np.nan) for k, (shape, _) in enumerate(program.outputs)}
    memory[ROW] = np.full(row_words(program), np.nan)
    values: dict = {}

    def go(region) -> None:
        for dest, op, _, args, attribute in region:
            if op == "const":
                values[dest] = float.fromhex(attribute) if isinstance(attribute, str) else attribute
            elif op == "load":
                values[dest] = memory[attribute][values[args[0]]]
            elif op == "store":
                memory[attribute][values[args[0]]] = values[args[1]]
            elif op == "alloc":
                memory["local", attribute[0]] = np.full(attribute[1], np.nan)
            elif op == "for":
                for values[dest] in range(attribute[0]):
                    go(attribute[1])
            elif op == "sums":
                begin, offset, *rest = (values[arg] for arg in args)
                places = np.arange(attribute.terms) * attribute.stride
                vector = rest if attribute.vector is None else memory[attribute.vector][rest[0] + places]
                for i in range(attribute.count):
                    row = offset + attribute.across * (begin + i) + attribute.along * np.arange(attribute.terms)
                    memory["local", attribute.out][i] = memory[attribute.matrix][row] @ vector
            elif op == "warp_sums":
                given = [values[arg] for arg in args]
                if attribute.vector == ROW:
                    given = memory[ROW][: attribute.terms].copy()
                elif attribute.vector is not None:
                    given = memory[attribute.vector][given[0] + attribute.stride * np.arange(attribute.terms)]
                shape = (attribute.outputs, attribute.terms)
                matrix = memory[attribute.matrix]
                matrix = matrix.reshape(shape[::-1]).T if attribute.fast else matrix.reshape(shape)
                memory[ROW][:] = np.nan  # what else is there is nobody's
                memory[ROW][: attribute.outputs] = matrix @ np.asarray(given)
            elif op == "take":
                begin = values[args[0]]
                out, count, source = attribute
                memory["local", out][:count] = memory[source][begin : begin + count]
            else:
                values[dest] = OPERATIONS[op](*(values[arg] for arg in args))

    go(program.instructions)
    return [memory["output", k] for k in range(len(program.outputs))]


plan_of = functools.partial(solve_helpers.plan_of, target="cuda:90")


def count(program: Program) -> int:
    return sum(i[1] == "warp_sums" for i in program.instructions)


def check(f, args, n: int, products: int, handed_over: int, **chosen) -> None:
    """products: that warps compute; handed_over: whose vectors are not in the row already."""
    plan = plan_of(f, args, n, **chosen)
    program = plan.field.program
    assert count(program) == products and plan.in_step == (products > 0)
    assert sum(i[1] == "warp_sums" and i[4].vector != ROW for i in program.instructions) == handed_over
    random = np.random.default_rng(0)
    y = random.normal(size=n)
    leaves = {operand.name: value for operand, value in zip(plan.words.operands, _values(plan, args, y), strict=True)}
    inputs = [y if name == "y" else np.zeros(1) if name == "t" else leaves[name] for name in plan.field.arguments]
    want = f(0.0, y.astype(np.float32), args)
    np.testing.assert_allclose(run(program, inputs)[0], want, rtol=2e-5, atol=2e-6)


def _values(plan: Plan, args, y) -> list:
    leaves = iter(jax.tree.leaves(args))
    found = []
    for operand in plan.words.operands:
        if operand.name.startswith("f"):
            value = np.asarray(next(leaves), np.float64)
            found.append(value if operand.order is None else value.T)
        else:
            found.append(y)
    return found


def layers_of(*sizes: int) -> list:
    random = np.random.default_rng(1)
    pairs = zip(sizes[:-1], sizes[1:], strict=True)
    return [
        (random.normal(size=(m, n)).astype(np.float32) / np.sqrt(n), random.normal(size=m).astype(np.float32)) for n, m in pairs
    ]


def network(t, y, layers):
    *hidden, (w, b) = layers
    for matrix, bias in hidden:
        y = jnp.tanh(matrix @ y + bias)
    return w @ y + b


@pytest.mark.parametrize(
    "sizes, products, handed_over",
    [
        ((2, 64, 64, 2), 1, 0),
        ((2, 64, 64, 64, 2), 2, 0),
        ((3, 128, 64, 32, 3), 2, 0),
        ((64, 64, 64), 2, 1),
        ((2, 50, 50, 2), 1, 1),  # elements that the loop leaves are written behind it
        ((2, 20, 20, 2), 0, 0),
        ((40, 40), 1, 1),
        ((2, 64, 300, 2), 0, 0),
    ],
)
def test_networks(sizes, products, handed_over):
    check(network, layers_of(*sizes), sizes[0], products, handed_over)


@pytest.mark.parametrize("unroll", [1, 20, 64, 128])
def test_whatever_is_unrolled(unroll):
    check(network, layers_of(3, 64, 20, 3), 3, 1, 0, unroll=unroll)


def test_what_stands_in_the_way():
    w = layers_of(48, 48)[0][0]
    v = layers_of(48, 48, 48)[1][0]

    def residual(t, y, args):
        h = jnp.tanh(args[0] @ y)
        return jnp.sin(args[1] @ h) + h

    def twice(t, y, args):
        h = jnp.tanh(args[0] @ y)
        return jnp.sin(args[1] @ h) * (args[0] @ h)

    def again(t, y, args):
        h = jnp.sin(y)
        return args[1] @ jnp.tanh(args[0] @ h) + args[0] @ h

    def right(t, y, args):
        return jnp.tanh(y @ args[0]) @ args[1]

    for f, products, handed_over in ((residual, 2, 2), (twice, 3, 2), (again, 3, 2), (right, 2, 1)):
        check(f, (w, v), 48, products, handed_over)


@pytest.mark.parametrize("unroll, handed_over", [(1, 5), (128, 4)])
def test_two_products_of_one_vector(unroll, handed_over):
    """The first one leaves its elements where the vector was, that of the second one, too."""

    def heads(t, y, args):
        first, one, other, *last = args
        h = jnp.sin(first @ y)
        return last[0] @ jnp.tanh(one @ h) + jnp.sin(last[1] @ jnp.tanh(other @ h))

    check(heads, tuple(w for w, _ in layers_of(*[48] * 6)), 48, 5, handed_over, unroll=unroll)


def gated(t, y, ws):
    return jnp.tanh(ws[0] @ y) * jax.nn.sigmoid(ws[1] @ y)


def gru(t, h, ws):
    """A gated recurrent unit in continuous time."""
    r, z = jax.nn.sigmoid(ws[0] @ h), jax.nn.sigmoid(ws[1] @ h)
    return (1 - z) * (jnp.tanh(r * (ws[2] @ h)) - h)


def quadratic(t, y, ws):
    return (ws[0] @ y) * (ws[1] @ y) + ws[2] @ y


def deep(t, y, ws):
    for k in range(0, 6, 2):
        y = y + gated(t, jnp.sin(y), ws[k : k + 2])
    return y


def tangent(t, y, ws):
    n = len(y) // 2
    return jnp.concatenate(jax.jvp(lambda x: gated(t, jnp.tanh(ws[2] @ x), ws), (y[:n],), (y[n:],)))


@pytest.mark.parametrize("f, size, matrices, products, handed_over", [
    (gated, 50, 2, 2, 2), (gru, 39, 3, 3, 3), (quadratic, 48, 3, 3, 3), (deep, 34, 6, 6, 6), (tangent, 33, 3, 6, 6),
])  # fmt: skip
@pytest.mark.parametrize("unroll", [1, 64])
def test_loops_of_several_products(f, size, matrices, products, handed_over, unroll):
    """Behind each but the last there is another one in the row, also for elements that the loop leaves."""
    ws = tuple(w for w, _ in layers_of(*[size] * (matrices + 1)))
    check(f, ws, 2 * size if f is tangent else size, products, handed_over, unroll=unroll)


@pytest.mark.parametrize("unroll", [1, 64])
def test_an_array_that_is_longer_than_a_row(unroll):
    wide, w, last = np.ones((300, 3), np.float32) / 3, layers_of(64, 64)[0][0], layers_of(64, 3)[0][0]

    def beginning(t, y, args):
        h = jnp.tanh(args[0] @ y)
        return args[2] @ jnp.tanh(args[1] @ h[:64] + h[100:].sum() * 0.005)

    check(beginning, (wide, w, last), 3, 1, 1, unroll=unroll)


def test_a_matrix_and_something_more():
    """They are no matrix."""
    w = layers_of(32, 51)[0][0].T

    def gained(t, y, flat):
        return flat[w.size] * jnp.resize(jnp.tanh(y @ flat[: w.size].reshape(w.shape)), y.shape)

    check(gained, np.append(w, np.float32(0.5)), 32, 0, 0)
    check(lambda t, y, flat: jnp.tanh(y @ flat.reshape(w.shape))[:32], w.ravel(), 32, 1, 1)


def test_a_matrix_of_two_shapes():
    """It lies in memory as the first product has it."""
    check(lambda t, y, w: jnp.sin(w.reshape(64, 32) @ jnp.tanh(w @ y)), layers_of(64, 32)[0][0], 64, 1, 1)


@given(st.data())
@settings(deadline=None, max_examples=15)
def test_random_networks(data):
    """Layers of random widths, of sums and products of what came before."""
    sizes = data.draw(st.lists(st.sampled_from([16, 33, 34, 48, 64]), min_size=2, max_size=4))
    n = sizes[0]
    layers = layers_of(*sizes, n)
    choices = [data.draw(st.sampled_from(["plain", "skip", "gate", "gates", "bare"])) for _ in layers]

    def f(t, y, layers):
        h = y
        for (w, b), choice in zip(layers, choices, strict=True):
            z = w @ h
            if choice == "plain":
                new = jnp.tanh(z + b)
            elif choice == "skip" and z.shape == h.shape:
                new = h + jnp.sin(z)
            elif choice == "gate":
                new = jnp.tanh(z) * (w @ jnp.sin(h))
            elif choice == "gates":
                new = jnp.tanh(z) * (w @ jnp.sin(h)) + w @ jnp.tanh(h)
            else:
                new = z
            h = new
        return h

    plan = plan_of(f, layers, n)
    products = count(plan.field.program)
    handed = sum(i[1] == "warp_sums" and i[4].vector != ROW for i in plan.field.program.instructions)
    check(f, layers, n, products, handed)


def test_where_weights_lie():
    """The matrix that warps multiply first; what else is read by its size, and else in order: in each process alike."""
    layers, unread = layers_of(2, 64, 64, 2), np.ones(64, np.float32)
    plan = plan_of(lambda t, y, args: network(t, y, args[0]), (layers, unread), 2)
    sizes = {operand.name: operand.size for operand in plan.words.operands}
    matrix, *others = plan.staged
    assert sizes[matrix] == 64 * 64 and len(others) == 4
    assert others == sorted(others, key=lambda name: (sizes[name], name))
    ends = [plan.rows_begin + 4 * plan.row_words * plan.block, *(one.end for one in plan.staged.values())]
    assert [one.begin for one in plan.staged.values()] == ends[:-1] and plan.window_bytes == ends[-1]


def test_lanes_that_stop_after_steps_of_a_size_that_moves_go_alone():
    """A lane that waits for others would lose the tangents of its last step's time."""

    def together(controller: str) -> bool:
        solver, y0 = Solver("tsit5", controller=controller), jnp.zeros(2, jnp.float32)
        given = network, 0.0, 1.0, y0, layers_of(2, 64, 64, 2), SaveAt(t1=True), 0.1
        problem = make_request(solver, *given, events=steady_state(1e-3, 1e-3)).problem
        kernel = forward_kernel(tangent_of(problem, [k for k, can in enumerate(differentiable(problem)) if can]), None)
        return Plan(kernel, kernel.operands, 0, Target.parse("cuda:90")).in_step

    assert together("pid") and not together("fixed")


def test_who_takes_steps_together():
    layers = layers_of(2, 64, 64, 2)
    assert plan_of(network, layers, 2).in_step and plan_of(network, layers, 2, block=64).in_step
    assert not plan_of(network, layers, 2, schedule="queue").in_step
    assert not plan_of(network, layers, 2, block=48).in_step
    plan = plan_of(network, layers, 2)
    assert not Plan(plan.problem, plan.operands, 1, Target.parse("cuda:75")).in_step
    assert not Plan(plan.problem, plan.operands, 1, Target.parse("cpu")).in_step
    batched = tuple(one if one.name == "y0" or one.batched else one.batch(0) for one in plan.problem.operands)
    assert not Plan(plan.problem, batched, 1, Target.parse("cuda:90")).in_step
    assert plan_of(network, layers_of(2, 128, 128, 2), 2).block == 64  # of whose rows more fit beside the weights
    assert not plan_of(network, layers_of(2, 256, 256, 2), 2).in_step
