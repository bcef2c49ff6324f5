"""Stiff problems: for the tests, the benchmarks, and the script that writes their reference values, stiff_reference.py.

Each is M dy/dt = f(t, y, args) from t = 0 on, M the unit matrix where nothing is said. Those of the Test Set for IVP Solvers
(Mazzia, Magherini, University of Bari, release 2.4) bear its names in their docstrings. Constants are Python's numbers and take
the state's dtype.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

PATH = Path(__file__).with_name("stiff_reference.json")


@dataclasses.dataclass(frozen=True)
class StiffProblem:
    """- y0 [n], args: in float64.
    - size: magnitudes [n] or one for all, below which a component's absolute error counts: atol is rtol * size.
    - mass [n, n]: M; None: the unit matrix."""

    f: Callable[[Any, Any, Any], Any]
    y0: np.ndarray
    t1: float
    args: Any = None
    size: Any = 1.0
    mass: np.ndarray | None = None

    def atol(self, rtol: float) -> np.ndarray:
        """Absolute tolerances [n] that go with a relative one."""
        return rtol * np.broadcast_to(np.asarray(self.size, float), self.y0.shape)

    def scaled_error(self, found: Any, reference: np.ndarray, rtol: float) -> np.ndarray:
        """The largest error of any component, in units of its tolerance; [...] of found [..., n]."""
        unit = self.atol(rtol) + rtol * np.abs(reference)
        return np.max(np.abs(np.asarray(found, float) - reference) / unit, axis=-1)


def reference(name: str) -> np.ndarray:
    """The state [n] of a problem at its t1, from the committed table."""
    return np.array(json.loads(PATH.read_text())[name]["y"])


def robertson(t, y, k):
    """Test set: rober. Three reactions, rates from 0.04 to 3e7: Robertson (1966)."""
    a, b, c = y
    slow, fast, back = k[0] * a, k[1] * b * b, k[2] * b * c
    return jnp.stack([back - slow, slow - fast - back, fast])


def hires(t, y, args):
    """Test set: hires. High irradiance responses of photomorphogenesis, eight reactants: Schaefer (1975)."""
    y1, y2, y3, y4, y5, y6, y7, y8 = y
    seventh = 280.0 * y6 * y8 - 1.81 * y7
    return jnp.stack([
        -1.71 * y1 + 0.43 * y2 + 8.32 * y3 + 0.0007, 1.71 * y1 - 8.75 * y2, -10.03 * y3 + 0.43 * y4 + 0.035 * y5,
        8.32 * y2 + 1.71 * y3 - 1.12 * y4, -1.745 * y5 + 0.43 * y6 + 0.43 * y7,
        -280.0 * y6 * y8 + 0.69 * y4 + 1.71 * y5 - 0.43 * y6 + 0.69 * y7, seventh, -seventh,
    ])  # fmt: skip


def oregonator(t, y, args):
    """Test set: orego. The Belousov-Zhabotinskii reaction's limit cycle: Field, Noyes (1974)."""
    a, b, c = y
    return jnp.stack([77.27 * (b + a * (1.0 - 8.375e-6 * a - b)), (c - (1.0 + a) * b) / 77.27, 0.161 * (a - c)])


def van_der_pol(t, y, mu):
    """Test set: vdpolm. A relaxation oscillation."""
    return jnp.stack([y[1], mu * (1.0 - y[0] * y[0]) * y[1] - y[0]])


BRUSSELATOR_POINTS = 32


def brusselator(t, y, diffusion):
    """The Brusselator with diffusion on a line, y = (u_1, v_1, u_2, v_2, ...): its Jacobian is a band of two on each side.

    Hairer, Wanner, Solving Ordinary Differential Equations II, section IV.10, problem BRUSS; 32 points inside of (0, 1) here.
    """
    u, v = y.reshape(-1, 2).T
    scale = diffusion * (BRUSSELATOR_POINTS + 1) ** 2

    def spread(inside, edge):
        ends = jnp.full_like(inside[:1], edge)
        left, right = jnp.concatenate([ends, inside[:-1]]), jnp.concatenate([inside[1:], ends])
        return scale * (left - 2.0 * inside + right)

    product = u * u * v
    du = 1.0 + product - 4.0 * u + spread(u, 1.0)
    dv = 3.0 * u - product + spread(v, 3.0)
    return jnp.stack([du, dv], axis=1).reshape(-1)


def _brusselator_start() -> np.ndarray:
    x = np.arange(1, BRUSSELATOR_POINTS + 1) / (BRUSSELATOR_POINTS + 1)
    return np.stack([1.0 + np.sin(2.0 * np.pi * x), np.full_like(x, 3.0)], axis=1).reshape(-1)


MEDICAL_POINTS = 200


def medical_akzo(t, y, rate):
    """Test set: medakzo. Antibodies that diffuse into tissue and react with it, y = (u_1, v_1, u_2, v_2, ...). What comes in
    stops at t = 5. Two diffusing species on 200 points of a line without end, mapped to (0, 1)."""
    u, v = y.reshape(-1, 2).T
    zeta = np.arange(1, MEDICAL_POINTS + 1) / MEDICAL_POINTS
    drift = jnp.asarray((zeta - 1.0) ** 3 / 16.0 * MEDICAL_POINTS, y.dtype)
    diffusion = jnp.asarray((zeta - 1.0) ** 4 / 16.0 * MEDICAL_POINTS**2, y.dtype)
    entering = jnp.where(t <= 5.0, 2.0, 0.0).astype(y.dtype)[None]
    # Both coefficients are 0 at the last point, whatever lies beyond it.
    left, right = jnp.concatenate([entering, u[:-1]]), jnp.concatenate([u[1:], u[-1:]])
    bound = rate * u * v
    return jnp.stack([diffusion * (left - 2.0 * u + right) + drift * (right - left) - bound, -bound], axis=1).reshape(-1)


def _akzo_reactions(y, flown, ks_product):
    y1, y2, y3, y4, y5 = y
    root = jnp.sqrt(y2)
    r1, r2, r3 = 18.7 * y1**4 * root, 0.58 * y3 * y4, 0.58 / 34.4 * y1 * y5
    r4, r5 = 0.09 * y1 * y4 * y4, 0.42 * ks_product * ks_product * root
    inflow = flown * (0.9 / 737.0 - y2)
    return [-2.0 * r1 + r2 - r3 - r4, -0.5 * r1 - r4 - 0.5 * r5 + inflow, r1 - r2 + r3, -r2 + r3 - 2.0 * r4, r2 - r3 + r5]


def chemical_akzo(t, y, flown):
    """Test set: chemakzo. Carbon dioxide flows into a reactor; the sixth equation is an equilibrium: index 1."""
    return jnp.stack([*_akzo_reactions(y[:5], flown, y[5]), 115.83 * y[0] * y[3] - y[5]])


def chemical_akzo_reduced(t, y, flown):
    """The chemical Akzo Nobel problem with its equilibrium put into the five differential equations."""
    return jnp.stack(_akzo_reactions(y, flown, 115.83 * y[0] * y[3]))


def transistor_amplifier(t, y, signal):
    """Test set: transamp. Two transistors, eight nodes; signal: the amplitude at the entry, volts. Of index 1."""
    y1, y2, y3, y4, y5, y6, y7, y8 = y
    supply, resistance = 6.0, 9000.0
    first, second = (1e-6 * jnp.expm1(drop / 0.026) for drop in (y2 - y3, y5 - y6))
    return jnp.stack([
        (signal * jnp.sin(200.0 * np.pi * t) - y1) / 1000.0,
        (supply - 2.0 * y2) / resistance - 0.01 * first,
        first - y3 / resistance,
        (supply - y4) / resistance - 0.99 * first,
        (supply - 2.0 * y5) / resistance - 0.01 * second,
        second - y6 / resistance,
        (supply - y7) / resistance - 0.99 * second,
        -y8 / resistance,
    ])  # fmt: skip


def _amplifier_mass() -> np.ndarray:
    mass = np.diag([1e-6, 1e-6, 2e-6, 3e-6, 3e-6, 4e-6, 5e-6, 5e-6])
    for node, capacity in ((0, 1e-6), (3, 3e-6), (6, 5e-6)):  # capacitors between neighbours
        mass[node, node + 1] = mass[node + 1, node] = -capacity
    return mass


def exprelr(x):
    """x / (1 - exp(-x)), which is 1 at 0; derivatives are right there, too.

    Near 0 by its series, 1 + x/2 + x^2/12 - x^4/720: the next term is below 1e-16 where it is used, and where it isn't, an
    automatic derivative of the quotient loses 1/|x| units in the last place, at most 100.
    """
    near = jnp.abs(x) < 0.01
    apart = jnp.where(near, 1.0, x)  # so that the branch that is not taken has a derivative, too
    return jnp.where(near, 1.0 + x * (0.5 + x * (1.0 / 12.0 - x * x / 720.0)), -apart / jnp.expm1(-apart))


def hodgkin_huxley(t, y, current):
    """The squid's giant axon: mV, ms, uA/cm^2; the rest is at -65 mV. The rates of n and m are 0/0 at -55 and at -40 mV.

    Hodgkin, Huxley, A quantitative description of membrane current, J. Physiol. 117 (1952), with today's sign of the voltage.
    """
    v, m, h, n = y
    rise_m, fall_m = exprelr((v + 40.0) / 10.0), 4.0 * jnp.exp(-(v + 65.0) / 18.0)
    rise_h, fall_h = 0.07 * jnp.exp(-(v + 65.0) / 20.0), jax.nn.sigmoid((v + 35.0) / 10.0)
    rise_n, fall_n = 0.1 * exprelr((v + 55.0) / 10.0), 0.125 * jnp.exp(-(v + 65.0) / 80.0)
    sodium, potassium, leak = 120.0 * m**3 * h * (v - 50.0), 36.0 * n**4 * (v + 77.0), 0.3 * (v + 54.387)
    return jnp.stack([
        current - sodium - potassium - leak,
        rise_m - (rise_m + fall_m) * m, rise_h - (rise_h + fall_h) * h, rise_n - (rise_n + fall_n) * n,
    ])  # fmt: skip


_K = np.array([0.04, 3e7, 1e4])
_AKZO = np.array([0.444, 0.00123, 0.0, 0.007, 0.0])

PROBLEMS = {
    "robertson": StiffProblem(robertson, np.array([1.0, 0.0, 0.0]), 1e11, _K, np.array([1e-8, 1e-14, 1.0])),
    # As far as float32 carries: later the rates of b cancel to more digits than it has.
    "robertson_early": StiffProblem(robertson, np.array([1.0, 0.0, 0.0]), 40.0, _K, np.array([1.0, 1e-5, 1.0])),
    "hires": StiffProblem(hires, np.array([1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0057]), 321.8122, size=1e-3),
    "oregonator": StiffProblem(oregonator, np.array([1.0, 2.0, 3.0]), 360.0),
    "van_der_pol": StiffProblem(van_der_pol, np.array([2.0, 0.0]), 2000.0, 1000.0, np.array([1.0, 1e-3])),
    "brusselator": StiffProblem(brusselator, _brusselator_start(), 10.0, 0.02),
    "medical_akzo": StiffProblem(medical_akzo, np.tile([0.0, 1.0], MEDICAL_POINTS), 20.0, 100.0),
    "chemical_akzo": StiffProblem(
        chemical_akzo, np.append(_AKZO, 115.83 * 0.444 * 0.007), 180.0, 3.3, 1e-3, np.diag([1.0, 1.0, 1.0, 1.0, 1.0, 0.0])
    ),
    "chemical_akzo_reduced": StiffProblem(chemical_akzo_reduced, _AKZO, 180.0, 3.3, 1e-3),
    "transistor_amplifier": StiffProblem(
        transistor_amplifier, np.array([0.0, 3.0, 3.0, 6.0, 3.0, 3.0, 6.0, 0.0]), 0.2, 0.1, mass=_amplifier_mass()
    ),
    # It begins at 0/0 of n's rate, and runs through that of m's with each spike. The gates are those of rest.
    "hodgkin_huxley": StiffProblem(
        hodgkin_huxley, np.array([-55.0, 0.0529, 0.5961, 0.3177]), 40.0, 10.0, np.array([1.0, 0.1, 0.1, 0.1])
    ),
}
