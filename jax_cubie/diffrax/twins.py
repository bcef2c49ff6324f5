"""What diffrax's objects come to here: methods, controllers, adjoints; and the words for those that have no twin."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any

import diffrax
import equinox as eqx
import jax
import jax.core
import jax.numpy as jnp
import lineax
import numpy as np
import optimistix
from jaxtyping import PyTree

from ..field_errors import check_signature
from ..methods import ContinuousExtension, Tableau, find_tableau
from ..nonlinear import KAPPA
from ..settings import concrete, is_number, told
from ..solver import Solver
from ..times import read_times

_INSTEAD = "call diffrax.diffeqsolve itself for this solve"
_METHODS = {
    diffrax.Euler: "euler", diffrax.Heun: "heun", diffrax.Midpoint: "midpoint", diffrax.Ralston: "ralston2",
    diffrax.Bosh3: "bosh3", diffrax.Tsit5: "tsit5", diffrax.Dopri5: "dopri5", diffrax.Dopri8: "dopri8",
    diffrax.ImplicitEuler: "implicit_euler", diffrax.Kvaerno3: "kvaerno3", diffrax.Kvaerno4: "kvaerno4",
    diffrax.Kvaerno5: "kvaerno5",
}  # fmt: skip
# Of these, diffrax's values between steps are others than the method's own here: a line through the ends of the step,
_LINES = {diffrax.Euler, diffrax.ImplicitEuler}
# or the cubic that takes the right-hand side of the last stage for that of the end.
_CUBICS = {diffrax.Heun, diffrax.Midpoint, diffrax.Ralston}
# Root finders that take one Jacobian for a stage or a step, and linear solvers that solve by its factors.
_ROOT_FINDERS = (diffrax.VeryChord, optimistix.Chord)
_LINEAR_SOLVERS = (lineax.AutoLinearSolver, lineax.LU)
# What stands for a tolerance that is the step size controller's.
_OF_CONTROLLER = diffrax.with_stepsize_controller_tols(diffrax.VeryChord)().rtol
_ADJOINTS = (diffrax.RecursiveCheckpointAdjoint, diffrax.DirectAdjoint, diffrax.ForwardMode)
_NO_ADJOINT = {
    diffrax.BacksolveAdjoint: "solves another equation backwards in time, whose gradients are not those of the steps taken",
    diffrax.ImplicitAdjoint: "takes y(t1) for a steady state, whose gradients are not those of the steps taken",
}


def vector_field_of(terms: Any) -> Callable[..., Any]:
    """f(t, y, args) of an ODETerm, with its rules: results are broadcast to y's shapes. Raises TypeError for other terms."""
    if type(terms) is not diffrax.ODETerm:
        raise TypeError(f"terms is {_described(terms)}: {_instead_of_terms(terms)}")
    check_signature(terms.vector_field, "vector_field(t, y, args)")

    def field(t: Any, y: PyTree, args: PyTree) -> PyTree:
        return terms.vf(t, y, args)

    kind = type(terms.vector_field)
    field.__qualname__ = getattr(terms.vector_field, "__qualname__", kind.__qualname__)
    return field


def _instead_of_terms(terms: Any) -> str:
    if isinstance(terms, diffrax.MultiTerm):
        return (
            "there are no splitting or IMEX methods here; write the sum of the terms as one vector field, "
            "ODETerm(lambda t, y, args: f(t, y, args) + g(t, y, args))"
        )
    if isinstance(terms, diffrax.ControlTerm):
        return (
            "there are no stochastic or controlled equations here; term.to_ode() makes an ODETerm of a term whose control has "
            f"a derivative, and with noise {_INSTEAD}"
        )
    if isinstance(terms, diffrax.AbstractTerm):
        return f"only ODETerm(vector_field) is taken here; {_INSTEAD}"
    if callable(terms):
        return "expected a term; write ODETerm(vector_field)"
    return f"expected one ODETerm(vector_field), since there are no splitting methods here; {_INSTEAD}"


def method_of(solver: Any) -> str | Tableau:
    """The method that takes the same steps. Raises ValueError for a solver without a twin."""
    kind = type(solver)
    if kind not in _METHODS:
        known = ", ".join(one.__name__ for one in _METHODS)
        if isinstance(solver, type) and solver in _METHODS:
            raise TypeError(f"solver is the class {solver.__name__}: expected an object of it, {solver.__name__}()")
        if not isinstance(solver, diffrax.AbstractSolver):
            raise TypeError(f"solver is {_described(solver)}: expected an object of one of {known}")
        mixed = isinstance(solver, (diffrax.AbstractImplicitSolver, diffrax.Sil3))
        reason = "solves one of two terms implicitly (IMEX), and " * mixed
        raise ValueError(f"solver is {kind.__name__}, which {reason}has no twin here: expected one of {known}; or {_INSTEAD}")
    if getattr(solver, "scan_kind", None) is not None:
        raise ValueError(f"solver is {kind.__name__}(scan_kind={solver.scan_kind!r}): leave it out, since no scan is made here")
    return _tableau(kind)


@functools.cache
def _tableau(kind: type) -> str | Tableau:
    name = _METHODS[kind]
    if kind not in _LINES | _CUBICS:
        return name
    ours: Any = find_tableau(name)
    if kind in _LINES:
        weights = [[weight] for weight in ours.b]
    else:
        # Hermite's cubic through y0, y1, with slopes k_1 and k_2; y1 - y0 = h (b_1 k_1 + b_2 k_2).
        first, last = ours.b
        weights = [[1, 3 * first - 2, 1 - 2 * first], [0, 3 * last - 1, 1 - 2 * last]]
    between = ContinuousExtension(order=1, weights=weights)
    return dataclasses.replace(ours, name=f"diffrax's {kind.__name__}", aliases=(), dense=between)


def newton_of(solver: Any, controller: Any, y0: PyTree) -> dict[str, Any]:
    """The settings of Newton's iteration that stand for an implicit solver's root finder.

    Raises ValueError or TypeError for one without a twin.
    """
    if not isinstance(solver, diffrax.AbstractImplicitSolver):
        return {}
    finder: Any = solver.root_finder
    said = f"solver is {type(solver).__name__}(root_finder={_described(finder)}"
    if type(finder) not in _ROOT_FINDERS:
        raise ValueError(
            f"{said}): expected VeryChord or optimistix.Chord, which keep one Jacobian, as iterations here do; or {_INSTEAD}"
        )
    if type(finder.linear_solver) not in _LINEAR_SOLVERS:
        raise ValueError(
            f"{said}(linear_solver={_described(finder.linear_solver)})): leave linear_solver out, since systems are solved by "
            f"LU factors here; or {_INSTEAD}"
        )
    judged = type(controller) is diffrax.PIDController
    shared = [name for name in ("rtol", "atol", "norm") if getattr(finder, name) is _OF_CONTROLLER]
    if shared and not judged:
        raise ValueError(
            f"{said}) has the tolerances of the step size controller, and {type(controller).__name__} has none: use a "
            "PIDController, or give root_finder=VeryChord(rtol=..., atol=...)"
        )
    norm = controller.norm if "norm" in shared else finder.norm
    if norm not in (optimistix.rms_norm, optimistix.max_norm):
        raise ValueError(
            f"{said}(norm={getattr(norm, '__name__', norm)})): expected optimistix.rms_norm or max_norm; or {_INSTEAD}"
        )
    # What the iteration may leave over, over the tolerances. No component is larger than their root mean square times the
    # root of their number.
    scale = finder.kappa / KAPPA
    if norm is optimistix.max_norm:
        scale /= math.sqrt(sum(leaf.size for leaf in jax.tree.leaves(y0)))
    settings: dict[str, Any] = {"newton_max_steps": solver.root_find_max_steps}
    if "rtol" in shared and "atol" in shared and isinstance(scale, float) and scale == 1:
        return settings
    for name in ("rtol", "atol"):
        tolerance = _tolerance(name, getattr(controller if name in shared else finder, name), y0)
        settings[f"newton_{name}"] = jax.tree.map(lambda leaf: scale * leaf, tolerance)
    return settings


def unclipped(controller: Any, t0: Any, t1: Any, time_dtype: Any) -> tuple[Any, dict[str, Any]]:
    """The controller inside of a ClipStepSizeController, and the times on which steps have to end, as arguments of `solve`.

    Raises ValueError for what it has besides these.
    """
    found: dict[str, list[Any]] = {}
    while type(controller) is diffrax.ClipStepSizeController:
        for name in ("store_rejected_steps", "callback_on_reject"):
            if getattr(controller, name) is not None:
                raise ValueError(
                    f"stepsize_controller is ClipStepSizeController({name}={getattr(controller, name)!r}): leave it out, since "
                    "there are no stochastic equations here, for which rejected steps are kept"
                )
        for name in ("jump_ts", "step_ts"):
            if (times := getattr(controller, name)) is not None:
                if jnp.result_type(times, time_dtype) != time_dtype:
                    raise ValueError(
                        f"{name} has dtype {times.dtype}, which is wider than that of time, {time_dtype}: convert one of them"
                    )
                found.setdefault(name, []).append(times.astype(time_dtype))
        controller = controller.controller
    start, end = (jnp.asarray(time, time_dtype) for time in (t0, t1))
    direction = jnp.where(end >= start, 1, -1).astype(time_dtype)

    def ahead(times: Any) -> Any:
        """In the order in which they are come to; those before t0 are never."""
        forwards = direction * times
        return direction * jnp.sort(jnp.where(forwards < direction * start, jnp.inf, forwards))

    return controller, {name: ahead(jnp.concatenate(several)) for name, several in found.items()}


def equal_steps(t0: Any, t1: Any, dt0: Any) -> Any:
    """The size of steps that end where those of ConstantStepSize do from the second on; its first alone has the size dt0."""
    known = all(concrete(value) is not None for value in (t0, t1, dt0))
    numbers: Any = np if known else jnp
    with np.errstate(invalid="ignore"):
        span = numbers.asarray(t1) - numbers.asarray(t0)
        size = numbers.asarray(dt0)
        steps = numbers.ceil(span / numbers.nextafter(size, numbers.inf * numbers.sign(size)))
        whole = numbers.isfinite(span) & (steps >= 1)
        return numbers.where(whole, span / numbers.where(whole, steps, 1), size)


def control_of(
    controller: Any, solver: Any, t0: Any, t1: Any, dt0: Any, y0: PyTree, dtype: str, cut: bool = False
) -> tuple[dict[str, Any], Any]:
    """The settings of a controller that chooses the same steps, and the first step to begin with. cut: whether an event may end
    steps, too.

    Raises ValueError or TypeError for what has no twin.
    """
    kind = type(controller)
    if kind is diffrax.ConstantStepSize:
        if dt0 is None:
            raise ValueError("dt0 is None, but stepsize_controller is ConstantStepSize(): give dt0, the size of its steps")
        return ({"controller": "fixed"}, equal_steps(t0, t1, dt0)) if cut else ({"controller": "even"}, dt0)
    if kind is diffrax.StepTo:
        if dt0 is not None:
            raise ValueError("dt0 is given, but stepsize_controller is StepTo(ts=...), which says where steps end: dt0=None")
        return {"controller": "given", "step_ends": _step_ends(controller.ts, t0, t1, dtype)}, None
    if kind is diffrax.PIDController:
        if not Solver(method_of(solver)).stepper.error_rows:
            raise ValueError(
                f"stepsize_controller is PIDController, but solver {type(solver).__name__} has no error estimate: use "
                "ConstantStepSize() with dt0, or another solver, as Tsit5()"
            )
        # diffrax 0.7.2 begins so where dt0 is None, whatever the problem.
        first = _towards(t0, t1, 0.01) if dt0 is None else dt0
        return _pid_settings(controller, solver, y0), first
    raise TypeError(
        f"stepsize_controller is {_described(controller)}: expected a PIDController, ConstantStepSize() or StepTo(ts=...)"
    )


def _step_ends(ts: Any, t0: Any, t1: Any, dtype: str) -> Any:
    times = read_times(t0, t1, ts, dtype)
    offsets, sign = times.offsets, jnp.sign(times.span)
    wrong = (offsets[0] != 0) | (offsets[-1] != times.span) | jnp.any(jnp.diff(offsets) * sign <= 0)
    words = "StepTo(ts=...) has to run from t0 to t1, both included, strictly in one direction"
    return eqx.error_if(offsets, wrong, words)[1:]


def _towards(t0: Any, t1: Any, size: float) -> Any:
    if any(isinstance(time, jax.core.Tracer) for time in (t0, t1)):
        return jnp.where(jnp.asarray(t1) >= t0, size, -size)
    return size if t1 >= t0 else -size


def _pid_settings(controller: Any, solver: Any, y0: PyTree) -> dict[str, Any]:
    if controller.norm is not optimistix.rms_norm:
        raise ValueError(
            f"stepsize_controller is PIDController(norm={getattr(controller.norm, '__name__', controller.norm)}): leave norm "
            "out, since the norm of the error is the root mean square here, diffrax's default"
        )
    settings = {name: getattr(controller, name) for name in ("safety", "factormin", "factormax", "force_dtmin")}
    settings |= {name: limit for name in ("dtmin", "dtmax") if (limit := getattr(controller, name)) is not None}
    settings |= {name: _tolerance(name, getattr(controller, name), y0) for name in ("rtol", "atol")}
    # Only coefficients over the error's order have a say.
    scale = 1
    if controller.error_order is not None:
        scale = Solver(method_of(solver)).stepper.error_order / controller.error_order
    for name in ("pcoeff", "icoeff", "dcoeff"):
        value = getattr(controller, name)
        plain = isinstance(value, (int, float)) and value == 0
        settings[name] = value if plain else value * scale
    return {"controller": "pid", **settings}


def _tolerance(name: str, value: Any, y0: PyTree) -> Any:
    """A number, or one for each component where an array was given: it is broadcast to every leaf."""
    if not is_number(value) or np.shape(value) == ():
        return value

    def spread(leaf: Any) -> Any:
        try:
            return jnp.broadcast_to(value, leaf.shape)
        except ValueError:
            raise ValueError(f"{name} has shape {np.shape(value)}, which does not broadcast to y0's {leaf.shape}") from None

    return jax.tree.map(spread, y0)


def check_adjoint(adjoint: Any) -> None:
    """Raises ValueError or TypeError for an adjoint whose derivatives are others than those of the steps taken."""
    kind = type(adjoint)
    if kind in _NO_ADJOINT:
        raise ValueError(
            f"adjoint is {kind.__name__}, which {_NO_ADJOINT[kind]}: use RecursiveCheckpointAdjoint() or ForwardMode(), or "
            f"{_INSTEAD}"
        )
    if kind not in _ADJOINTS:
        known = ", ".join(one.__name__ for one in _ADJOINTS)
        raise TypeError(f"adjoint is {_described(adjoint)}: expected one of {known}")
    if getattr(adjoint, "checkpoints", None) is not None:
        raise ValueError(
            f"adjoint is RecursiveCheckpointAdjoint(checkpoints={adjoint.checkpoints}): leave checkpoints out, since how many "
            "there are is chosen here"
        )


def _described(value: Any) -> str:
    """The class of objects of diffrax's and of the libraries below it, others as they print."""
    if isinstance(value, type):
        return f"the class {value.__name__}"
    if type(value).__module__.partition(".")[0] in ("diffrax", "optimistix", "lineax"):
        return type(value).__name__
    return told(value)
