"""Writes stiff_reference.json, the states of the stiff problems at their ends.

    python tests/tables/stiff_reference.py [NAME ...]

Published values, where there are any; else those of SciPy's Radau at tolerances of 1e-12, in float64. All problems are solved
that way, twice, the second time at 1e-11, and the table says how far apart the two are, and how far the published values are
from the first. A DAE is solved without its algebraic equations: these have their own Newton iteration in each call.
Takes some minutes.
"""

from __future__ import annotations

import json
import sys

import jax
import numpy as np
from scipy.integrate import solve_ivp
from scipy.sparse import csc_matrix
from stiff_problems import PATH, PROBLEMS, StiffProblem

jax.config.update("jax_enable_x64", True)

TEST_SET = "Test Set for IVP Solvers, release 2.4, Mazzia, Magherini, University of Bari: subroutine solut"
# Computed there with quadruple precision or with PSIDE on a Cray: the docstrings of the problems have the names of the files.
PUBLISHED = {
    "robertson": [0.2083340149701255e-7, 0.8333360770334713e-13, 0.9999999791665050],
    "hires": [
        0.7371312573325668e-3, 0.1442485726316185e-3, 0.5888729740967575e-4, 0.1175651343283149e-2, 0.2386356198831331e-2,
        0.6238968252742796e-2, 0.2849998395185769e-2, 0.2850001604814231e-2,
    ],
    "oregonator": [0.1000814870318523e1, 0.1228178521549917e4, 0.1320554942846706e3],
    "van_der_pol": [0.1706167732170469e1, -0.8928097010248125e-3],
    "chemical_akzo": [
        0.1150794920661702, 0.1203831471567715e-2, 0.1611562887407974, 0.3656156421249283e-3, 0.1708010885264404e-1,
        0.4873531310307455e-2,
    ],
    "transistor_amplifier": [
        -0.5562145012262709e-2, 0.3006522471903042e1, 0.2849958788608128e1, 0.2926422536206241e1, 0.2704617865010554e1,
        0.2761837778393145e1, 0.4770927631616772e1, 0.1236995868091548e1,
    ],
}  # fmt: skip
PUBLISHED["chemical_akzo_reduced"] = PUBLISHED["chemical_akzo"][:5]
# Of the 400 values of medakzo, which were computed at 1e-10: index, value.
MEDICAL_SAMPLE = {
    78: 0.2339942217046434e-3, 148: 0.3595616017506735e-3, 198: 0.1173741304462833e-3, 203: 0.3489773624098464e-2,
    209: 0.4026980529594953, 213: 0.8409284546320647, 223: 0.9984246531478463,
}  # fmt: skip


def reduced(problem: StiffProblem, start: np.ndarray):
    """x0, dx/dt = g(t, x) as a pair of functions (g, its Jacobian), and y of (t, x): x = D y are the differential components.

    With M = L D, L of full column rank, the rows N with N M = 0 give the constraints N f(t, y) = 0, and dx/dt = L^+ f.
    """
    mass = problem.mass
    left, weights, right = np.linalg.svd(mass)
    rank = int(np.sum(weights > 1e-10 * weights[0]))
    select, null = right[:rank], left[:, rank:].T
    outer = np.linalg.pinv(left[:, :rank] * weights[:rank])
    f = jax.jit(lambda t, y: problem.f(t, y, problem.args))
    f_y = jax.jit(jax.jacfwd(f, argnums=1))
    last = start.copy()

    def state(t, x):
        nonlocal last
        y = last
        for _ in range(20):
            residual = np.concatenate([select @ y - x, null @ np.asarray(f(t, y))])
            change = np.linalg.solve(np.concatenate([select, null @ np.asarray(f_y(t, y))]), residual)
            y = y - change
            if np.max(np.abs(change)) < 1e-9 * np.max(np.abs(y)):  # its square is left
                break
        last = y
        return y

    def rate(t, x):
        return outer @ np.asarray(f(t, state(t, x)))

    def jacobian(t, x):
        f_state = np.asarray(f_y(t, state(t, x)))
        along = np.linalg.inv(np.concatenate([select, null @ f_state]))[:, :rank]
        return outer @ f_state @ along

    return select @ start, rate, jacobian, state


def end(problem: StiffProblem, rtol: float) -> np.ndarray:
    """By SciPy's Radau, with an exact Jacobian."""
    y0 = problem.y0
    if problem.mass is None:
        f = jax.jit(lambda t, y: problem.f(t, y, problem.args))
        f_y = jax.jit(jax.jacfwd(f, argnums=1))
        as_matrix = csc_matrix if len(y0) > 20 else np.asarray
        x, rate, jacobian = y0, lambda t, y: np.asarray(f(t, y)), lambda t, y: as_matrix(np.asarray(f_y(t, y)))
        atol = problem.atol(rtol)
    else:
        x, rate, jacobian, state = reduced(problem, y0)
        atol = rtol * float(np.min(problem.size))
    # The inflow of one problem jumps at t = 5.
    stops = [0.0, 5.0, problem.t1] if problem is PROBLEMS["medical_akzo"] else [0.0, problem.t1]
    for t0, t1 in zip(stops, stops[1:], strict=False):
        beyond = t0 > 0.0

        def later(t, x, t0=t0, beyond=beyond):
            return rate(np.nextafter(t, np.inf) if beyond and t == t0 else t, x)

        solution = solve_ivp(later, (t0, t1), x, "Radau", rtol=rtol, atol=atol, jac=jacobian)
        assert solution.success, solution.message
        x = solution.y[:, -1]
    return x if problem.mass is None else state(problem.t1, x)


def main() -> None:
    table = json.loads(PATH.read_text()) if PATH.exists() else {}
    for name in sys.argv[1:] or PROBLEMS:
        problem = PROBLEMS[name]
        found, rough = end(problem, 1e-12), end(problem, 1e-11)
        entry = {"source": "SciPy's Radau, rtol 1e-12", "apart_from_1e-11": apart(problem, rough, found), "y": found.tolist()}
        if name in PUBLISHED:
            published = np.array(PUBLISHED[name])
            entry |= {"source": TEST_SET, "apart_from_scipy": apart(problem, found, published), "y": published.tolist()}
        if name == "medical_akzo":
            places, values = map(np.array, zip(*MEDICAL_SAMPLE.items(), strict=True))
            entry["apart_from_test_set"] = float(f"{np.max(np.abs(found[places] - values)):.1e}")
        table[name] = entry
        print(name, {key: value for key, value in entry.items() if key != "y"}, flush=True)
        rows = [f" {json.dumps(key)}: {json.dumps(value)}" for key, value in table.items()]
        PATH.write_text("{\n" + ",\n".join(rows) + "\n}\n")


def apart(problem: StiffProblem, found: np.ndarray, exact: np.ndarray) -> float:
    """The largest difference of any component, relative to its size and value."""
    return float(f"{problem.scaled_error(found, exact, 1.0):.1e}")


if __name__ == "__main__":
    main()
