"""Gustafsson's predictive controller: its steps are those of its formulas in NumPy, and they can be taken again."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from solve_helpers import code

from jax_cubie import SaveAt, Solver, solve
from jax_cubie.methods import EXPLICIT
from jax_cubie.solution import CODES

Y0 = np.array([2.0, 0.0])
TOLERANCES = {"rtol": 1e-4, "atol": 1e-5}
END, FIRST = 20.0, 1e-2


def field(t, y, mu):
    return jnp.stack([y[1], mu * (1 - y[0] ** 2) * y[1] - y[0]])


def step_of(tableau, mu=5.0):
    """One step from y: y1 and the error."""
    rows = [[float(value) for value in row] for row in tableau.a]
    rows = [[], *rows] if len(rows) < tableau.stages else rows
    weights, embedded = ([float(value) for value in row] for row in (tableau.b, tableau.b_embedded))

    def step(y, h):
        k = []
        for row in rows:
            at = y + h * sum((a * one for a, one in zip(row, k, strict=False)), np.zeros(2))
            k.append(np.array([at[1], mu * (1 - at[0] ** 2) * at[1] - at[0]]))
        error = sum((b - low) * one for b, low, one in zip(weights, embedded, k, strict=True))
        return y + h * sum(b * one for b, one in zip(weights, k, strict=True)), h * error

    return step


def reference(step, order, safety=0.9, factormin=0.2, factormax=8.0, dtmin=0.0, dtmax=np.inf):
    """The times of accepted steps, and how often what happened."""
    t, y, h, times, last = 0.0, Y0, max(FIRST, dtmin), [], None
    rejected = at_dtmin = False
    counts = dict.fromkeys(("rejected", "foretold", "shrunk", "held", "forced"), 0)
    while t < END:
        y1, error = step(y, h)
        scaled = np.sqrt(np.mean((error / (TOLERANCES["atol"] + TOLERANCES["rtol"] * np.maximum(abs(y), abs(y1)))) ** 2))
        accepted = scaled < 1 or at_dtmin
        counts["forced"] += accepted and scaled >= 1
        factor = safety * scaled ** (-1 / order)
        if accepted and last is not None and (h / last[1] * (last[0] / scaled) ** (1 / order)) < 1:
            factor *= h / last[1] * (last[0] / scaled) ** (1 / order)
            counts["foretold"] += 1
        counts["held"] += accepted and rejected and factor > 1
        factor = np.clip(factor, factormin, (1 if rejected else factormax) if accepted else safety)
        counts["shrunk"] += accepted and factor < 1
        counts["rejected"] += not accepted
        if accepted:
            t, y, last = t + h, y1, (max(scaled, 1e-2), h)
            times.append(t)
        rejected, h = not accepted, factor * h
        at_dtmin, h = h <= dtmin, float(np.clip(h, dtmin, dtmax))
    return np.array(times), counts


SETTINGS = [
    ({}, {"rejected", "foretold", "shrunk", "held"}),
    ({"safety": 0.98, "factormin": 0.5, "factormax": 3.0}, {"rejected", "foretold", "shrunk", "held"}),
    ({"dtmin": 0.03, "dtmax": 0.3}, {"foretold", "shrunk", "forced"}),
]


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(("settings", "happens"), SETTINGS, ids=("defaults", "coefficients", "limits"))
@pytest.mark.parametrize("method", ["bosh3", "dopri5"])
def test_steps_are_those_of_the_formulas(method, settings, happens, platform):
    tableau = EXPLICIT[method]
    times, counts = reference(step_of(tableau), tableau.order, **settings)
    assert method != "bosh3" or {name for name, count in counts.items() if count} >= happens
    found = solve(
        field, 0.0, END, Y0, 5.0, method=method, controller="gustafsson", dt0=FIRST, saveat=SaveAt(steps=True),
        max_steps=4000, **TOLERANCES, **settings,
    )  # fmt: skip
    ours = np.asarray(found.ts)[np.isfinite(found.ts)]
    # The last step is cut to land on t1. Rounding, which fused products change, grows from step to step.
    assert abs(int(found.stats["num_accepted_steps"]) - len(times)) <= 1 and ours[-1] == END
    half = len(times) // 2
    np.testing.assert_allclose(ours[:half], times[:half], rtol=1e-4)


@pytest.mark.usefixtures("x64")
def test_derivatives_take_the_same_steps_again():
    """Backwards each step is taken once more from few checkpoints, by what the controller remembers."""

    def end(y0, mu):
        return solve(
            field, 0.0, END, y0, mu, controller="gustafsson", dt0=FIRST, checkpoints=2, dtmin=1e-3, **TOLERANCES
        ).ys[0]  # fmt: skip

    forwards = jax.jacfwd(end, argnums=(0, 1))(jnp.asarray(Y0), 5.0)
    backwards = jax.jacrev(end, argnums=(0, 1))(jnp.asarray(Y0), 5.0)
    for one, other in zip(forwards, backwards, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-7)


def test_codes(platform):
    """A step below dtmin ends the lane where it is not forced; numbers out of range are found in the kernel, too."""
    run = lambda **settings: solve(field, 0.0, END, Y0.astype(np.float32), 5.0, controller="gustafsson", **settings)  # noqa: E731
    assert code(run(dtmin=0.03, force_dtmin=False, dt0=0.1)) == CODES["dt_min_reached"]
    safety, factormin = np.array([0.9, 1.5, 0.9]), np.array([0.2, 0.2, 0.0])
    many = jax.vmap(lambda s, f: run(safety=s, factormin=f))(safety, factormin)
    assert code(many).tolist() == [CODES["successful"], CODES["invalid_input"], CODES["invalid_input"]]
    with pytest.raises(ValueError, match="factormax=0.5: expected a number at least 1"):
        Solver(controller="gustafsson", factormax=0.5)
    with pytest.raises(ValueError, match="icoeff is a setting of controller 'pid', and this solver's is 'gustafsson'"):
        Solver(controller="gustafsson", icoeff=0.5)


def test_stiff_steps_are_rejected_less_often(platform):
    """What it is for: a rapid change that comes after a quiet time."""

    def rejected(controller):
        settings = {"method": "rodas4", "controller": controller, "rtol": 1e-4, "atol": 1e-6}
        stats = solve(field, 0.0, 3e3, Y0.astype(np.float32), 1e3, **settings).stats
        return int(stats["num_rejected_steps"]), int(stats["num_steps"])

    (ours, steps), (plain, most) = rejected("gustafsson"), rejected("pid")
    assert ours < plain and steps <= 1.1 * most
