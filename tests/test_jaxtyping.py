"""The annotations of what users call hold at run time: some solves under jaxtyping's checker."""

import subprocess
import sys
import textwrap

import pytest

# Modules that hold no device code: Numba cannot compile a function that a checker has wrapped.
MODULES = ("front_doors", "solver", "solution", "outputs.saveat", "problem", "primitive", "operands", "settings", "inspection")

SCRIPT = """
    import jaxtyping

    with jaxtyping.install_import_hook(["jax_cubie." + name for name in MODULES], "typeguard.typechecked"):
        import jax_cubie

    import jax
    import jax.numpy as jnp
    import numpy as np
    from jax_cubie import RESULTS, SaveAt, Solution, Solver, solve, solve_ivp

    def decay(t, y, rate):
        return jax.tree.map(lambda leaf: -rate * leaf, y)

    assert solve(decay, 0, 1.0, jnp.ones(3), 2.0).ys.shape == (1, 3)
    assert solve(decay, 0, 1, 1.0, 2.0, throw=True).ys.shape == (1,)

    def lane(rate):
        saveat = SaveAt(t0=True, ts=np.linspace(0, 1, 5))
        return solve(decay, 0.0, 1.0, {"a": jnp.ones(3), "b": 1.0}, rate, saveat=saveat, rtol=1e-3 * rate)

    assert jax.vmap(lane)(jnp.ones(4)).ys["a"].shape == (4, 6, 3)
    assert jax.jit(lane)(1.0).result == RESULTS.successful
    assert solve_ivp(lambda t, y: -y, (0, 1), [1.0, 2.0], "RK4", first_step=0.1).y.shape == (2, 2)
    solver = Solver("dopri5", rtol=1e-3).update(method="tsit5", max_steps=50)
    assert solver.solve(decay, 0.0, 1.0, jnp.ones(2), 1.0, dt0=0.1).result == RESULTS.successful
    assert solver.inspect(decay, 0.0, 1.0, jnp.ones(2), 1.0).key

    # The checker is there: a Solution of the wrong shapes is refused.
    try:
        Solution(t0=jnp.ones(2), t1=jnp.ones(()), ts=jnp.ones(1), ys=jnp.ones((1, 2)), stats={}, result=None)
    except Exception as error:
        assert "t0" in str(error)
    else:
        raise SystemExit("nothing is checked")
"""


def test_annotations_hold():
    pytest.importorskip("typeguard", reason="the checker that jaxtyping is run with")
    script = f"MODULES = {MODULES!r}\n" + textwrap.dedent(SCRIPT)
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stderr[-3000:]
