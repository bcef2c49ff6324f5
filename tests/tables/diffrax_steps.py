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
METHODS = ("tsit5", "dopri5", "bosh3")
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


def lanes(problem):
    """Every lane of a problem: controller, tolerance, args, dt0; in the order of the table."""
    _, _, _, _, args, first_steps = PROBLEMS[problem]
    for number in range(len(CONTROLLERS)):
        for tolerance in TOLERANCES:
            for value, dt0 in zip(args, first_steps, strict=True):
                yield number, tolerance, float(value), dt0


def main():
    import diffrax
    from diffrax._step_size_controller.pid import _select_initial_step

    jax.config.update("jax_enable_x64", True)
    solvers = {"tsit5": diffrax.Tsit5(), "dopri5": diffrax.Dopri5(), "bosh3": diffrax.Bosh3()}

    def counts(name, problem, settings, tolerance, value, dt0):
        f, t0, t1, y0, _, _ = PROBLEMS[problem]
        controller = diffrax.PIDController(rtol=tolerance, atol=tolerance, **settings)
        solution = diffrax.diffeqsolve(
            diffrax.ODETerm(f), solvers[name], t0, t1, dt0, jnp.array(y0), value, stepsize_controller=controller,
            max_steps=100_000, saveat=diffrax.SaveAt(t1=True), adjoint=diffrax.ForwardMode(),
        )
        stats = solution.stats
        return stats["num_accepted_steps"], stats["num_rejected_steps"], solution.ys[0]

    def first_step(name, problem, tolerance, value):
        f, t0, _, y0, _, _ = PROBLEMS[problem]
        solver, term, controller = solvers[name], diffrax.ODETerm(f), diffrax.PIDController(rtol=0, atol=0)
        return _select_initial_step(
            term, t0, jnp.array(y0), value, solver.func, solver.error_order(term), tolerance, tolerance, controller.norm
        )

    table = {"diffrax": diffrax.__version__, "jax": jax.__version__, "problems": {}}
    for problem in PROBLEMS:
        rows = list(lanes(problem))
        entry = table["problems"][problem] = {}
        for name in METHODS:
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
    PATH.write_text(written(table) + "\n")


def written(value, indent=""):
    """JSON with one line for each list, and numbers of ten digits."""
    if isinstance(value, dict):
        inner = ",\n".join(f"{indent} {json.dumps(key)}: {written(item, indent + ' ')}" for key, item in value.items())
        return "{\n" + inner + "\n" + indent + "}"
    return json.dumps(json.loads(json.dumps(value), parse_float=lambda text: float(f"{float(text):.10g}")))


if __name__ == "__main__":
    main()
