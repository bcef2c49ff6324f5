"""Solver: an equinox module that holds every choice about how to integrate."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Self

import equinox as eqx
from jaxtyping import Array, PyTree, Real

from .buffers import BufferRegistry
from .choices import known_method, resolve
from .controllers import CONTROLLERS
from .foreign_names import front_door
from .inputs import AnyDoses
from .inspection import Inspection, inspect_request
from .methods import Method, Tableau, find_method
from .outputs import Event, SaveAt, SteadyState, Summary
from .primitive import run
from .printing import as_document, describe_call
from .problem import Matrices, make_request
from .settings import Component, check_choice
from .solution import Solution, make_solution, raising


class Solver(eqx.Module):
    """How to integrate: a method, a controller, tolerances, and where each buffer lives.

    Strings and booleans are static: changing one means another image. Numbers are leaves: they may be traced and differ from
    lane to lane, and another value builds nothing; only where pcoeff and dcoeff are plainly 0, or dtmin and dtmax plainly 0
    and infinity, the image is one without them. All settings are keywords of one flat namespace:

    - `method`: a name or an alias out of `jax_cubie.methods()`, or a tableau: `jax_cubie.ButcherTableau`, and for stiff systems
      `jax_cubie.ImplicitTableau`, `jax_cubie.RosenbrockTableau`. Or "auto": each lane by itself takes steps of an explicit
      method as long as it is not stiff, and of another one while it is; `auto=("tsit5", "rodas5p")` says which two.
    - `controller`: "pid" (the default where the method has an error estimate), or "pid" with other coefficients, by their
      name: "i", "pi", "pi30", "pi33", "pi34", "pi42", "h211pi", "h312pid". Those that are given besides have precedence.
      "gustafsson", for stiff systems, expects errors to go on growing as they did, and makes steps smaller in time. Or steps
      that nobody judges: "fixed" (of size dt0, the last one shorter where need be), "even" (as many, that are all but the first
      equal parts of the interval), "given" (that end at `step_ends`, times since t0, the last of them t1 - t0).
    - of the controllers that judge steps: `rtol`, `atol` (scalars, or pytrees like y0), `pcoeff`, `icoeff`, `dcoeff`, `safety`,
      `factormin`, `factormax`, `dtmin`, `dtmax`, `force_dtmin`; see `jax_cubie.controllers.PID` and, of "gustafsson",
      `jax_cubie.controllers.Predictive`.
    - of methods that are not explicit: `linear_solver`, how they solve linear systems, and what belongs to one of these
      (`preconditioner`, `krylov_rtol` and the like); and of those that solve nonlinear ones `newton_rtol`, `newton_atol`,
      `newton_max_steps`, `jacobian_reuse`; see `jax_cubie.linear.LinearSettings` and `jax_cubie.nonlinear.NewtonSettings`.
    - `max_steps`: the most steps, accepted and rejected together.
    - `{buffer}_location`: "local" or "shared", for each buffer in `solver.buffers`.
    - `fastmath`: whether f may be computed with approximate division and functions.
    - `unroll`: arrays of up to so many elements are unrolled into registers; larger ones stay in memory. `"auto"`: 20 on a CPU
      (8 where f has many elementary functions or products, which a loop makes vectors of), 128 on a GPU. Sums of products
      have one order whatever it is; whether `x * y + z` elsewhere is rounded once may depend on it, and so the last bits.
    - `inline_f`: True, False or "auto": whether f is copied to each stage or called.
    - `schedule`: which lane a GPU's thread takes: "static", one alone; "queue", the next whenever its lane is done; "auto", the
      latter where step sizes are chosen, unless the lanes of a warp multiply a network's weights together (see the README),
      which they do not with "queue". But for that the results are the same, bit for bit. The host's threads take lanes in
      small chunks in any case.
    - `block`: the lanes of a block (on CUDA a block's threads), or "auto".
    - `checkpoints`: the slots, a power of two, in which a lane keeps steps for a derivative in reverse; `directions`: the most
      tangents that a lane takes along at once. Neither changes a result.

    Raises ValueError for a setting that nobody knows, that belongs to another controller, or that has a value it can't
    have; TypeError for a traced value where a static one is needed.
    """

    method: str | Tableau = eqx.field(static=True)
    controller: str = eqx.field(static=True)
    components: tuple[Component, ...]
    buffers: BufferRegistry = eqx.field(static=True)
    given: frozenset[str] = eqx.field(static=True)

    @front_door
    def __init__(self, method: str | Tableau = "tsit5", **settings: Any):
        for name, value in resolve(None, known_method(method), settings).items():
            setattr(self, name, value)

    @front_door
    def update(self, **settings: Any) -> Self:
        """This solver with other settings, `method` among them.

        What the new method or controller does not know goes, but for settings that the user had given: those raise
        ValueError.
        """
        method = known_method(settings.pop("method", self.method))
        new = object.__new__(type(self))
        for name, value in resolve(self, method, settings).items():
            object.__setattr__(new, name, value)
        return new

    def settings(self) -> dict[str, Any]:
        """Every setting of this solver, with its present value."""
        settings = {"method": self.method, "controller": self.controller}
        for component in self.components:
            settings |= component.settings()
        return {**settings, **self.buffers.settings}

    def __getattr__(self, name: str) -> Any:
        """A setting of one of the components, as `solver.rtol`."""
        if not name.startswith("_"):
            for component in self.__dict__.get("components", ()):
                if name in component.settings():
                    return getattr(component, name)
        raise AttributeError(f"{type(self).__name__} has no {name!r}")

    def __repr__(self) -> str:
        """A line that could be typed in again: what differs from the defaults, as it is now."""
        standard, settings = Solver(self.method).settings(), self.settings()
        positional = [settings.pop("method")]
        # What other defaults depend on.
        chosen = {name: settings[name] for name in ("auto", "controller") if settings.get(name) != standard.get(name)}
        standard = Solver(self.method, **chosen).settings()
        return describe_call(type(self).__name__, positional, {**chosen, **settings}, {**standard, **dict.fromkeys(chosen)})

    def __pdoc__(self, **_: Any) -> Any:
        return as_document(self)

    @property
    def stepper(self) -> Method:
        """The method itself."""
        return find_method(self.method, {type(component): component for component in self.components})

    @property
    def control(self) -> Any:
        """The component that chooses step sizes."""
        kind = CONTROLLERS[self.controller].component
        return next(component for component in self.components if isinstance(component, kind))

    @front_door
    def solve(
        self,
        f: Callable[..., PyTree],
        t0: Real[Array, ""] | float,
        t1: Real[Array, ""] | float,
        y0: PyTree,
        args: PyTree = None,
        *,
        saveat: SaveAt = SaveAt(t1=True),  # noqa: B008 - it is immutable
        dt0: Real[Array, ""] | float | None = None,
        observables: Callable[..., PyTree] | None = None,
        summaries: Mapping[str, Summary] | None = None,
        events: PyTree[Event | SteadyState] = (),
        drivers: PyTree = None,
        doses: AnyDoses | Sequence[AnyDoses] | None = None,
        jump_ts: Real[Array, " jumps"] | None = None,
        step_ts: Real[Array, " times"] | None = None,
        throw: bool = False,
        mass: Any = None,
        mass_pattern: Any = None,
        jac: Callable | None = None,
        jac_sparsity: Any = None,
        **settings: Any,
    ) -> Solution:
        """Integrates dy/dt = f(t, y, args) from t0 to t1; see `jax_cubie.solve`. `settings` are those of `update`."""
        matrices = Matrices(mass, mass_pattern, jac, jac_sparsity)
        solver = self.update(**settings) if settings else self
        acting = dict(events=events, drivers=drivers, doses=doses, jump_ts=jump_ts, step_ts=step_ts)
        kept = dict(observables=observables, summaries=summaries)
        request = make_request(solver, f, t0, t1, y0, args, saveat, dt0, matrices, **kept, **acting)
        throw = check_choice("throw", throw, (True, False))
        solution = make_solution(request, run(request.problem, request.arrays))
        return raising(solution) if throw else solution

    @front_door
    def inspect(
        self,
        f: Callable[..., PyTree],
        t0: Any,
        t1: Any,
        y0: PyTree,
        args: PyTree = None,
        *,
        saveat: SaveAt = SaveAt(t1=True),  # noqa: B008 - it is immutable
        dt0: Any = None,
        observables: Callable[..., PyTree] | None = None,
        summaries: Mapping[str, Summary] | None = None,
        events: PyTree[Event | SteadyState] = (),
        drivers: PyTree = None,
        doses: AnyDoses | Sequence[AnyDoses] | None = None,
        jump_ts: Real[Array, " jumps"] | None = None,
        step_ts: Real[Array, " times"] | None = None,
        mass: Any = None,
        mass_pattern: Any = None,
        jac: Callable | None = None,
        jac_sparsity: Any = None,
        batched: Iterable[str] | str = ("y0", "args"),
        target: str = "cpu",
        derivative: str | None = None,
    ) -> Inspection:
        """Builds the image of this solve for `target` ("cpu", "cuda:90", ...) and tells about it; runs nothing.

        Arguments are one lane's, as arrays or `jax.ShapeDtypeStruct`s. `batched` names the arguments that get a lane axis:
        of "t0", "t1", "dt0", "y0", "args", "drivers", "ts", "jump_ts", "step_ts", "doses", "mass", and the names of numeric
        settings.

        derivative: "vjp" tells about the kernel of a gradient by y0 and the float leaves of args, of those that are not batched
        summed over the lanes; how many bytes of checkpoints a lane keeps for it; and, as `.recording`, about the solve that
        keeps them. "jvp" tells about the solve together with a tangent by y0 and these leaves.
        """
        matrices = Matrices(mass, mass_pattern, jac, jac_sparsity)
        acting = dict(events=events, drivers=drivers, doses=doses, jump_ts=jump_ts, step_ts=step_ts)
        kept = dict(observables=observables, summaries=summaries)
        request = make_request(self, f, t0, t1, y0, args, saveat, dt0, matrices, **kept, **acting)
        return inspect_request(request, batched, target, derivative)
