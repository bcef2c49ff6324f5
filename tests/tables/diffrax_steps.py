"""Writes diffrax_steps.json: how many steps diffrax accepts and rejects, for test_steps_like_diffrax.py.

    python tests/tables/diffrax_steps.py

The problems and the controllers' settings stand here, for the generator and for the test. diffrax 0.7.2 with dt0=None
always begins with 0.01, since it wraps its terms before its `_select_initial_step` asks whether they are an ODETerm; so
the first steps in the table are what that function answers for the bare ODETerm, and the counts are for those as dt0.
"""

from __future__ import annotations

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

PATH = Path(__file__).with_suffix(".json")
# Our names of diffrax's methods that estimate their error.
METHODS = {
    "tsit5": "Tsit5", "dopri5": "Dopri5", "bosh3": "Bosh3", "dopri8": "Dopri8", "heun": "Heun", "midpoint": "Midpoint",
    "ralston2": "Ralston",
}  # fmt: skip
TOLERANCES = (1e-4, 1e-7)


def lorenz(t, y, rho):
    return jnp.stack([10 * (y[1] - y[0]), y[0] * (rho - y[2]) - y[1], y[0] * y[1] - (8 / 3) * y[2]])


def van_der_pol(t, y, mu):
    return jnp.stack([y[1], mu * (1 - y[0] ** 2) * y[1] - y[0]])


def driven(t, y, frequency):
    """A pulse that comes once and a drive that stays: not autonomous."""
    return jnp.stack([y[1], -y[0] - 0.1 * y[1] + jnp.cos(frequency * t) + 30 / (1 + 400 * (t - 3) ** 2)])


# name: f, t0, t1, y0, args of each lane, dt0 of each lane: some far too large, so that steps are rejected at once; none so
# small that its error estimate is rounding alone, which a PI controller remembers.
PROBLEMS = {
    "lorenz": (lorenz, 0.0, 2.0, [1.0, 0.0, 0.0], np.linspace(0, 28, 6), [0.01, 0.001, 0.5, 0.02, 2.0, 0.1]),
    "van_der_pol": (van_der_pol, 0.0, 10.0, [2.0, 0.0], [5.0, 5.0, 5.0, 1.0, 2.5], [0.01, 1.0, 0.003, 0.3, 20.0]),
    "driven": (driven, 1.0, 7.0, [0.0, 1.0], [0.5, 1.0, 2.0, 7.0], [0.01, 0.2, 3.0, 0.005]),
}
# The estimate of a high order is rounding already at steps this many times as large.
LARGER = {"dopri8": 20.0}
# All problems for some methods, few for the others: each takes an image or two.
CASES = [(method, problem) for method in ("tsit5", "dopri5", "bosh3") for problem in PROBLEMS] + [
    ("dopri8", "lorenz"), ("dopri8", "driven"), ("heun", "van_der_pol"), ("midpoint", "lorenz"), ("ralston2", "lorenz"),
]  # fmt: skip
# Times to save at; saving has to leave the steps as they are.
SAVED = np.array([0.0, 0.03, 0.31, 0.62, 1.1, 1.57, 1.99, 2.0])
# Fixed steps: more than the span, some that end at t1, and some that do not.
FIXED = [10.0, 2.0, 0.5, 0.35, 0.3, 0.1, 0.07, 0.01]
# Settings besides rtol = atol, each tried with every method and problem.
CONTROLLERS = (
    {},
    {"pcoeff": 0.3, "icoeff": 0.3, "dcoeff": 0.1},
    {"pcoeff": 0.4, "icoeff": 0.3},
    {"pcoeff": -0.2, "icoeff": 0.7, "dcoeff": 0.05},
    {"safety": 0.7},
    {"factormin": 0.5, "factormax": 1.5},
    {"factormin": 0.05, "factormax": 100.0, "safety": 0.95},
    {"dtmax": 0.05},
    {"dtmin": 0.02},
    {"dtmin": 0.01, "dtmax": 0.04, "pcoeff": 0.2, "icoeff": 0.4},
)


def lanes(problem, method):
    """Every lane of a problem: controller, tolerance, args, dt0; in the order of the table."""
    _, _, _, _, args, first_steps = PROBLEMS[problem]
    for number in range(len(CONTROLLERS)):
        for tolerance in TOLERANCES:
            for value, dt0 in zip(args, first_steps, strict=True):
                yield number, tolerance, float(value), dt0 * LARGER.get(method, 1.0)


def main():
    import diffrax
    from diffrax._step_size_controller.pid import _select_initial_step

    jax.config.update("jax_enable_x64", True)
    solvers = {name: getattr(diffrax, theirs)() for name, theirs in METHODS.items()}

    def run(solver, problem, value, dt0, controller, saveat):
        f, t0, t1, y0, _, _ = PROBLEMS[problem]
        return diffrax.diffeqsolve(
            diffrax.ODETerm(f), solver, t0, t1, dt0, jnp.array(y0), value, stepsize_controller=controller,
            max_steps=100_000, saveat=saveat, adjoint=diffrax.ForwardMode(),
        )  # fmt: skip

    def counts(name, problem, settings, tolerance, value, dt0):
        controller = diffrax.PIDController(rtol=tolerance, atol=tolerance, **settings)
        solution = run(solvers[name], problem, value, dt0, controller, diffrax.SaveAt(t1=True))
        stats = solution.stats
        return stats["num_accepted_steps"], stats["num_rejected_steps"], solution.ys[0]

    def first_step(name, problem, tolerance, value):
        f, t0, _, y0, _, _ = PROBLEMS[problem]
        solver, term, controller = solvers[name], diffrax.ODETerm(f), diffrax.PIDController(rtol=0, atol=0)
        return _select_initial_step(
            term, t0, jnp.array(y0), value, solver.func, solver.error_order(term), tolerance, tolerance, controller.norm
        )

    table = {"diffrax": diffrax.__version__, "jax": jax.__version__, "problems": {}, "saved": {}, "euler": {}}
    for problem in PROBLEMS:
        entry = table["problems"][problem] = {}
        for name in (name for name, other in CASES if other == problem):
            rows = list(lanes(problem, name))
            given = []
            for number, settings in enumerate(CONTROLLERS):
                picked = [row for row in rows if row[0] == number]
                many = jax.jit(
                    jax.vmap(lambda *row, name=name, problem=problem, s=settings: counts(name, problem, s, *row))
                )
                given.append(many(*(jnp.array(column) for column in list(zip(*picked, strict=True))[1:])))
            plain = [row for row in rows if row[0] == 0]
            tolerance, value = (jnp.array([row[k] for row in plain]) for k in (1, 2))
            chosen = jax.vmap(lambda *row, name=name, problem=problem: first_step(name, problem, *row))(tolerance, value)

            def bare(*row, name=name, problem=problem):
                return counts(name, problem, {}, *row)

            after_chosen = jax.jit(jax.vmap(bare))(tolerance, value, chosen)
            after_none = jax.jit(jax.vmap(lambda *row, bare=bare: bare(*row, None)))(tolerance, value)
            entry[name] = {
                "accepted": np.concatenate([accepted for accepted, _, _ in given]).tolist(),
                "rejected": np.concatenate([rejected for _, rejected, _ in given]).tolist(),
                "end": np.concatenate([end for _, _, end in given]).tolist(),
                "first_step": chosen.tolist(),
                "first_step_accepted": after_chosen[0].tolist(),
                "first_step_rejected": after_chosen[1].tolist(),
                "none_accepted": after_none[0].tolist(),
                "none_rejected": after_none[1].tolist(),
            }
    for name in ("tsit5", "dopri5", "bosh3", "dopri8"):
        controller = diffrax.PIDController(rtol=1e-6, atol=1e-6)
        solution = run(solvers[name], "lorenz", 28.0, 0.01, controller, diffrax.SaveAt(ts=SAVED))
        table["saved"][name] = {"steps": int(solution.stats["num_steps"]), "ys": solution.ys.tolist()}
    fixed = [
        run(diffrax.Euler(), "driven", 2.0, dt0, diffrax.ConstantStepSize(), diffrax.SaveAt(t1=True)) for dt0 in FIXED
    ]
    table["euler"]["steps"] = [int(solution.stats["num_steps"]) for solution in fixed]
    table["euler"]["end"] = [solution.ys[0].tolist() for solution in fixed]
    PATH.write_text(written(table) + "\n")


def written(value, indent=""):
    """JSON with one line for each list, and numbers of ten digits."""
    if isinstance(value, dict):
        inner = ",\n".join(f"{indent} {json.dumps(key)}: {written(item, indent + ' ')}" for key, item in value.items())
        return "{\n" + inner + "\n" + indent + "}"
    return json.dumps(json.loads(json.dumps(value), parse_float=lambda text: float(f"{float(text):.10g}")))


if __name__ == "__main__":
    main()
