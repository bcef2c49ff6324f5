"""Stiff problems from chemistry, electronics and physiology against reference values: tables/stiff_reference.py has them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from solve_helpers import all_are
from tables.stiff_problems import PROBLEMS, exprelr, hodgkin_huxley, reference

from jax_cubie import Solver

# Each solves all of SMALL, in both dtypes.
METHODS = ["rodas3"]

SMALL = ["robertson_early", "hires", "oregonator", "van_der_pol", "chemical_akzo_reduced", "hodgkin_huxley"]


def solved(name, method, dtype, rtol, **settings):
    problem = PROBLEMS[name]
    solver = Solver(method, rtol=rtol, atol=jnp.asarray(problem.atol(rtol), dtype), **settings)
    args = None if problem.args is None else jnp.asarray(problem.args, dtype)
    solution = solver.solve(problem.f, 0.0, problem.t1, jnp.asarray(problem.y0, dtype), args)
    assert all_are(solution, "successful")
    return solution, problem.scaled_error(solution.ys[-1], reference(name), rtol)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("method", METHODS)
def test_small(platform, method, name, dtype):
    rtol = 1e-6 if dtype == "float64" else 1e-4
    _, error = solved(name, method, dtype, rtol)
    print(name, dtype, error)
