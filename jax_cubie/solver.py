"""Solver: an equinox module that holds every choice about how to integrate."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Self

import equinox as eqx
from jaxtyping import Array, Float, Int, PyTree, Real

from . import loop_buffers
from .buffers import BufferRegistry
from .controllers import CONTROLLERS, PID, FixedStep
from .foreign_names import front_door, instead_of_controller, instead_of_method
from .inspection import Inspection, inspect_request
from .methods import EXPLICIT, ButcherTableau, ExplicitRungeKutta
from .outputs import SaveAt
from .primitive import run
from .printing import as_document, describe_call
from .problem import DEFAULT_MAX_STEPS, make_request
from .settings import check_choice, check_count, closest, concrete, refuse_tracer
from .solution import Solution, make_solution, raise_failures

# The settings that no component of a solver owns; the others are fields of its controller, and its buffers' locations.
_MOST_STEPS = 2**31 - 1
_OWN = ("controller", "max_steps", "fastmath", "unroll", "inline_f", "block")


class Solver(eqx.Module):
    """How to integrate: a method, a controller, tolerances, and where each buffer lives.

    Strings and booleans are static: changing one means another image. Numbers are leaves: they may be traced and differ from
    lane to lane, and another value builds nothing; only where pcoeff and dcoeff are plainly 0, or dtmin and dtmax plainly 0
    and infinity, the image is one without them. All settings are keywords of one flat namespace:

    - `method`: a name or an alias out of `jax_cubie.methods()`, or a `jax_cubie.ButcherTableau`.
    - `controller`: "pid" (the default where the method has an error estimate), "fixed" (steps of dt0), or "pid" with other
      coefficients, by their name: "i", "pi", "pi30", "pi33", "pi34", "pi42", "h211pi", "h312pid". Those that are given
      besides have precedence.
    - of every controller but "fixed": `rtol`, `atol` (scalars, or pytrees like y0), `pcoeff`, `icoeff`, `dcoeff`, `safety`,
      `factormin`, `factormax`, `dtmin`, `dtmax`, `force_dtmin`; see `jax_cubie.controllers.PID`.
    - `max_steps`: the most steps, accepted and rejected together.
    - `{buffer}_location`: "local" or "shared", for each buffer in `solver.buffers`.
    - `fastmath`: whether f may be computed with approximate division and functions.
    - `unroll`: arrays of up to so many elements are unrolled into registers; larger ones stay in memory.
    - `inline_f`: True, False or "auto": whether f is copied to each stage or called.
    - `block`: the lanes of a block (on CUDA a block's threads), or "auto".

    Raises ValueError for a setting that nobody knows, that belongs to another controller, or that has a value it can't
    have; TypeError for a traced value where a static one is needed.
    """

    method: str | ButcherTableau = eqx.field(static=True)
    controller: str = eqx.field(static=True)
    control: PID | FixedStep
    max_steps: Int[Array, ""] | int
    buffers: BufferRegistry = eqx.field(static=True)
    fastmath: bool = eqx.field(static=True)
    unroll: int = eqx.field(static=True)
    inline_f: bool | str = eqx.field(static=True)
    block: int | str = eqx.field(static=True)
    given: frozenset[str] = eqx.field(static=True)

    @front_door
    def __init__(self, method: str | ButcherTableau = "tsit5", **settings: Any):
        for name, value in _resolve(None, _known_method(method), settings).items():
            setattr(self, name, value)

    @front_door
    def update(self, **settings: Any) -> Self:
        """This solver with other settings, `method` among them.

        What the new method or controller does not know goes, but for settings that the user had given: those raise
        ValueError.
        """
        method = _known_method(settings.pop("method", self.method))
        new = object.__new__(type(self))
        for name, value in _resolve(self, method, settings).items():
            object.__setattr__(new, name, value)
        return new

    def settings(self) -> dict[str, Any]:
        """Every setting of this solver, with its present value."""
        own = {name: getattr(self, name) for name in ("method", *_OWN)}
        return {**own, **self.control.settings(), **self.buffers.settings}

    def __repr__(self) -> str:
        """A line that could be typed in again: what differs from the defaults, as it is now."""
        standard, settings = Solver(self.method), self.settings()
        positional = [settings.pop("method")]
        if self.controller != standard.controller:
            standard = Solver(self.method, controller=self.controller)
            settings = {"controller": settings.pop("controller"), **settings}
            return describe_call(type(self).__name__, positional, settings, {**standard.settings(), "controller": None})
        return describe_call(type(self).__name__, positional, settings, standard.settings())

    def __pdoc__(self, **_: Any) -> Any:
        return as_document(self)

    @property
    def rtol(self) -> PyTree[Real[Array, ...]]:
        """The relative tolerance; of every controller but "fixed"."""
        return self.control.rtol  # pyright: ignore[reportAttributeAccessIssue] - FixedStep has none, and says so

    @property
    def atol(self) -> PyTree[Real[Array, ...]]:
        """The absolute tolerance; of every controller but "fixed"."""
        return self.control.atol  # pyright: ignore[reportAttributeAccessIssue]

    @property
    def stepper(self) -> ExplicitRungeKutta:
        """The method itself."""
        return _stepper(self.method)

    @front_door
    def solve(
        self,
        f: Callable[[Float[Array, ""], PyTree, PyTree], PyTree],
        t0: Real[Array, ""] | float,
        t1: Real[Array, ""] | float,
        y0: PyTree,
        args: PyTree = None,
        *,
        saveat: SaveAt = SaveAt(t1=True),  # noqa: B008 - it is immutable
        dt0: Real[Array, ""] | float | None = None,
        throw: bool = False,
        **settings: Any,
    ) -> Solution:
        """Integrates dy/dt = f(t, y, args) from t0 to t1; see `jax_cubie.solve`. `settings` are those of `update`."""
        if settings:
            return self.update(**settings).solve(f, t0, t1, y0, args, saveat=saveat, dt0=dt0, throw=throw)
        request = make_request(self, f, t0, t1, y0, args, saveat, dt0)
        solution = make_solution(request, run(request.problem, request.arrays))
        if check_choice("throw", throw, (True, False)):
            raise_failures(solution, "throw=True", "leave it out, call jax_cubie.check_successful on what comes out of there")
        return solution

    @front_door
    def inspect(
        self,
        f: Callable[[Float[Array, ""], PyTree, PyTree], PyTree],
        t0: Any,
        t1: Any,
        y0: PyTree,
        args: PyTree = None,
        *,
        saveat: SaveAt = SaveAt(t1=True),  # noqa: B008 - it is immutable
        dt0: Any = None,
        batched: Iterable[str] | str = ("y0", "args"),
        target: str = "cpu",
    ) -> Inspection:
        """Builds the image of this solve for `target` ("cpu", "cuda:90", ...) and tells about it; runs nothing.

        Arguments are one lane's, as arrays or `jax.ShapeDtypeStruct`s. `batched` names the arguments that get a lane axis:
        of "t0", "t1", "dt0", "y0", "args", "ts", and the names of numeric settings.
        """
        request = make_request(self, f, t0, t1, y0, args, saveat, dt0)
        return inspect_request(request, batched, target)


def _resolve(old: Solver | None, method: str | ButcherTableau, settings: dict[str, Any]) -> dict[str, Any]:
    """The fields of a solver: `settings` over those of `old`, or over the defaults."""
    stepper = _stepper(method)
    given = frozenset(settings) | (old.given if old is not None else frozenset())
    controller = _controller_name(old, given, settings, stepper)
    named = CONTROLLERS[controller]
    control = old.control if old is not None and old.control.kind == named.component.kind else named.component()
    if old is None or old.controller != controller:
        control, _ = control.update(**{name: value for name, value in named.coefficients.items() if name not in given})
    control, controls = control.update(**settings)
    registry = stepper.register(loop_buffers.register(BufferRegistry()))
    if old is not None:
        registry, _ = registry.update(**old.buffers.settings)
    registry, moved = registry.update(**settings)
    known = controls | moved | set(_OWN)
    unknown = sorted(name for name in settings if name not in known)
    everything = {"method", *_OWN, *control.settings(), *registry.settings}
    if unknown:
        raise ValueError(_unknown(unknown[0], controller, method, everything))
    lost = sorted(given - everything)
    if lost:
        raise ValueError(
            f"{lost[0]} was set, but method {method!r} with controller {controller!r} has no such setting: make a new Solver "
            f"without it, or keep the method and controller that it belongs to"
        )

    def own(name: str, default: Any) -> Any:
        return settings.get(name, default if old is None else getattr(old, name))

    return {
        "method": method,
        "controller": controller,
        "control": control,
        "max_steps": _check_max_steps(own("max_steps", DEFAULT_MAX_STEPS)),
        "buffers": registry,
        "fastmath": check_choice("fastmath", own("fastmath", False), (True, False)),
        "unroll": check_count("unroll", own("unroll", 32), 1),
        "inline_f": check_choice("inline_f", own("inline_f", "auto"), (True, False, "auto")),
        "block": _check_block(own("block", "auto")),
        "given": given,
    }


def _known_method(method: Any) -> str | ButcherTableau:
    """A tableau as it is; of a name, the method's own where an alias was given."""
    refuse_tracer("method", method)
    if isinstance(method, ButcherTableau):
        return method
    if not isinstance(method, str) or method not in EXPLICIT.names:
        if (instead := instead_of_method(method)) is not None:
            raise ValueError(instead)
        raise ValueError(
            f"unknown method {method!r}: expected one of {', '.join(EXPLICIT)}, or a jax_cubie.ButcherTableau"
            f"{closest(method, EXPLICIT.names)}"
        )
    return EXPLICIT.names[method]


def _stepper(method: str | ButcherTableau) -> ExplicitRungeKutta:
    return ExplicitRungeKutta(EXPLICIT[method] if isinstance(method, str) else method)


def _controller_name(
    old: Solver | None, given: frozenset[str], settings: dict[str, Any], stepper: ExplicitRungeKutta
) -> str:
    if "controller" in settings:
        name = settings["controller"]
    elif "controller" in given and old is not None:
        name = old.controller
    else:
        return "pid" if stepper.adaptive else "fixed"
    if (instead := instead_of_controller(name)) is not None:
        raise ValueError(instead)
    check_choice("controller", name, CONTROLLERS)
    if name != "fixed" and not stepper.adaptive:
        raise ValueError(
            f"controller={name!r} needs an error estimate, and method {stepper.tableau.name!r} has none: use "
            "controller='fixed' with dt0, or a method with an embedded one, as 'tsit5'"
        )
    return name


def _check_max_steps(value: Any) -> Any:
    known = concrete(value)
    if known is not None and not (known.dtype.kind in "iu" and ((known >= 1) & (known <= _MOST_STEPS)).all()):
        raise ValueError(f"max_steps={value!r}: expected an integer of at least 1 and at most {_MOST_STEPS}")
    return value


def _check_block(value: Any) -> int | str:
    if isinstance(value, str):
        return check_choice("block", value, ("auto",))
    block = check_count("block", value, 1)
    if block > 1024:
        raise ValueError(f"block={block}: expected at most 1024, the most threads of a CUDA block")
    return block


def _unknown(name: str, controller: str, method: str | ButcherTableau, known: set[str]) -> str:
    for other, named in CONTROLLERS.items():
        if name in named.component().settings():
            return (
                f"{name} is a setting of controller {other!r}, and this solver's is {controller!r} (method {method!r}): "
                f"leave it out, or take controller={other!r} and a method that it can steer"
            )
    near = closest(name, known) or "."
    return f"unknown setting {name!r}{near} The settings here are: {', '.join(sorted(known))}"
