"""Two methods in one: an explicit one as long as a system is not stiff, an implicit one while it is, each lane by itself.

Behind each accepted step it is judged whether the system is stiff: whether the largest eigenvalue of the step's size times the
Jacobian is beyond what the explicit method is stable for (`stiffness.py`). Many such verdicts in a row, and then some of the
opposite kind, change the method. That is what AutoSwitch of OrdinaryDiffEq.jl does, whose counts these are. It also doubles the
step's size on the way to the implicit method, and halves it on the way back (its dtfac); here the controller, which may let a
step grow tenfold, finds the size by itself.

Each method sees buffers of its own. Where both have one of the same name it is the same, as large as the larger: what is in it
matters within a step only, but for f at the step's beginning, which is handed over. The transposed steps have some for each of
them, since the lanes of a warp may have to go through those of both methods together.

Control of the step's size is as for the explicit method: an error e of an implicit step, where that is of another order q, is
taken as e^(p/q), p the explicit method's. So it is accepted or not as ever, and the next size is the right one, whatever the
controller's coefficients are: these are over p.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..buffers import BACKWARD, Buffer
from ..kernel.scalar import Scalar, where
from ..loop import AdjointSteps, Dimensions, Steps
from ..loop.jets import Jet
from .explicit_rk import ExplicitRungeKutta
from .field_functions import FieldFunction
from .method import Method
from .stiffness import is_beyond, stability_interval
from .vectors import copy, fill

if TYPE_CHECKING:
    from jax.extend.core import ClosedJaxpr

    from ..kernel.device import View
    from ..linear import Mass, Pattern
    from ..loop.body import Body
    from ..loop.lane import Lane
    from .dirk import Dirk
    from .firk import Firk
    from .rosenbrock import Rosenbrock

# More than so many verdicts of one kind in a row change the method: that a system is stiff, or that it is not. AutoSwitch's
# maxstiffstep and maxnonstiffstep.
STIFF, NONSTIFF = 10, 3
# The fractions of the explicit method's interval of stability from which on steps are stiff: explicit ones, whose eigenvalue is
# told from below, and implicit ones, whose is told from above; AutoSwitch's nonstifftol and stifftol are both 0.9. Where
# stability holds tsit5's steps down, what is told of them goes to and fro between 0.8 and 1.1 (Robertson, Van der Pol) or 0.6
# and 0.8 (HIRES at rtol 1e-8), and 0.9 would interrupt the count; of Lorenz, Kepler, Lotka-Volterra and the Brusselator, with
# rtol from 1e-2 to 1e-8, no more than 4 steps in a row are above 0.6.
FROM_BELOW, FROM_ABOVE = 0.6, 0.9


@dataclasses.dataclass(frozen=True)
class AutoSwitch(Method):
    """A method of two. Both have an error estimate, and two of the explicit method's stages are at one time.

    Cells: implicit, whether the next step is the implicit method's; verdicts, how many in a row there have been, below 0 if not
    stiff; beyond, what the last explicit step has shown; jacobian_norm, what the last implicit one has.
    """

    explicit: ExplicitRungeKutta
    implicit: Rosenbrock | Dirk | Firk

    family = "automatic switch"
    fallible = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "implicit", dataclasses.replace(self.implicit, watched=True))

    @property
    def name(self) -> str:
        return f"auto ({self.explicit.name}, {self.implicit.name})"

    @property
    def order(self) -> int:
        return min(self.explicit.order, self.implicit.order)

    @property
    def error_order(self) -> int:
        return self.explicit.error_order

    @property
    def error_rows(self) -> int:
        return max(method.error_rows for method in self._methods)

    @property
    def primal_too(self) -> tuple[str, ...]:
        return self.implicit.primal_too

    def fitted(self, field: ClosedJaxpr, mass: Mass | None = None, sparsity: Pattern | None = None) -> AutoSwitch:
        if mass is not None:
            raise ValueError(
                f"mass is given, but {self.name} takes steps of an explicit method, too, which solves dy/dt = f alone: write "
                f"method={self.implicit.name!r}"
            )
        return dataclasses.replace(self, implicit=self.implicit.fitted(field, None, sparsity))

    def functions(self, field: Callable, jac: Callable | None = None) -> dict[str, FieldFunction]:
        return self.explicit.functions(field) | self.implicit.functions(field, jac)

    def differentiated(self, field: Callable) -> dict[str, FieldFunction]:
        return self.explicit.differentiated(field) | self.implicit.differentiated(field)

    def transposed(self, field: Callable) -> dict[str, FieldFunction]:
        return self.implicit.transposed(field)

    @property
    def _methods(self) -> tuple[Method, Method]:
        return self.explicit, self.implicit

    # --- Buffers

    def _own_names(self, method: Method) -> dict[str, str]:
        """What each buffer of a method is called here."""
        taken = {} if method is self.explicit else {buffer.name: buffer for buffer in self.explicit.buffers()}
        return {
            buffer.name: f"implicit_{buffer.name}" if buffer.name in taken and buffer.live == BACKWARD else buffer.name
            for buffer in method.buffers()
        }

    def buffers(self) -> tuple[Buffer, ...]:
        found: dict[str, Buffer] = {}
        for method in self._methods:
            names = self._own_names(method)
            for buffer in method.buffers():
                aliases = buffer.aliases and names.get(buffer.aliases, buffer.aliases)
                buffer = dataclasses.replace(buffer, name=names[buffer.name], aliases=aliases)
                known = found.get(buffer.name)
                found[buffer.name] = buffer if known is None else _joined(known, buffer)
        return tuple(found.values())

    def sizes(self, dimensions: Dimensions) -> dict[str, int]:
        found: dict[str, int] = {}
        for method in self._methods:
            names = self._own_names(method)
            for name, size in method.sizes(dimensions).items():
                found[names[name]] = max(size, found.get(names[name], 0))
        return found

    def _as_seen_by(self, method: Method) -> Callable[[Body], Body]:
        """Makes of a lane what it is to one of the methods."""

        def look(b: Body) -> Body:
            dimensions, names = b.lane.plan.dimensions, self._own_names(method)
            errors = dimensions.primal * method.error_rows if dimensions.adaptive else 0
            views = {"error": b.buf.error.part(0, errors)}
            for name, size in method.sizes(dimensions).items():
                view = getattr(b.buf, names[name])
                views[name] = view if view.size == size else view.part(0, size)
            return b.with_buffers(views)

        return look

    def _either(self, b: Body, write: Callable[[Any, Body], None]) -> None:
        """`write(method, b)` for the method of the step at hand, with the lane as it sees it."""
        with b.emitter.builder.if_else(b.get("implicit").value) as (then, otherwise):
            with then:
                write(self.implicit, self._as_seen_by(self.implicit)(b))
            with otherwise:
                write(self.explicit, self._as_seen_by(self.explicit)(b))

    # --- Statistics

    def counters(self, dimensions: Dimensions) -> tuple[str, ...]:
        own = [name for method in self._methods for name in method.counters(dimensions)]
        return (*own, "implicit_steps", "implicit_accepted")

    def copies(self, dimensions: Dimensions) -> dict[str, int]:
        one, other = (method.copies(dimensions) for method in self._methods)
        return {name: one.get(name, 0) + other.get(name, 0) for name in one | other}

    def evaluations(self, steps: Any, accepted: Any, counted: Mapping[str, Any]) -> Any:
        implicit, own = counted["implicit_steps"], counted["implicit_accepted"]
        explicit = self.explicit.evaluations(steps - implicit, accepted - own, counted)
        return explicit + self.implicit.evaluations(implicit, own, counted)

    def work(self, steps: Any, accepted: Any, counted: Mapping[str, Any]) -> dict[str, Any]:
        implicit = counted["implicit_steps"]
        own = {"num_explicit_steps": steps - implicit, "num_implicit_steps": implicit}
        return own | self.implicit.work(implicit, counted["implicit_accepted"], counted)

    # --- Places in the loop

    @property
    def remembered(self) -> tuple[tuple[str, str], ...]:
        own = [cell for method in self._methods for cell in method.remembered]
        return (*own, ("implicit", "bool"), ("verdicts", "int32"))

    @property
    def carried_rows(self) -> int:
        return 1

    @property
    def carried_primal_rows(self) -> int:
        return self.implicit.carried_primal_rows

    def carried(self, b: Body) -> Sequence[View]:
        return (self.start_rhs(b), *self.implicit.carried(self._as_seen_by(self.implicit)(b))[self.implicit.carried_rows :])

    def start_rhs(self, b: Body) -> View:
        return self.explicit.start_rhs(self._as_seen_by(self.explicit)(b))

    def end_rhs(self, b: Body) -> View:
        """Where a part may look at it, whichever method took the step."""
        return self.explicit.end_rhs(self._as_seen_by(self.explicit)(b))

    def spare_rhs(self, b: Body) -> View:
        return self.explicit.spare_rhs(self._as_seen_by(self.explicit)(b))

    def _implicit_start(self, b: Body) -> View:
        return self.implicit.start_rhs(self._as_seen_by(self.implicit)(b))

    def steps(self, lane: Lane) -> Steps:
        for name, kind in (("implicit", "bool"), ("verdicts", "int32"), ("beyond", "bool")):
            lane.cell(name, kind)
        lane.cell("jacobian_norm", lane.problem.dtype)
        one, other = (method.steps(lane.seen(self._as_seen_by(method))) for method in self._methods)
        explicit_start, explicit_step, explicit_finish, explicit_carry = one.start, one.step, one.finish, one.carry
        implicit_step, implicit_finish, implicit_carry, forget = other.step, other.finish, other.carry, other.forget
        implicit, hand_over, zero = self._is_implicit(lane), self._hand_over(lane), np.int32(0)

        @lane.emitted()
        def begin(b):
            b.put(implicit=False, verdicts=0, beyond=False, jacobian_norm=0)

        @lane.emitted()
        def look(b):
            seen = self._as_seen_by(self.explicit)(b)
            rows = [b.piece(seen.row(seen.buf.stage_rhs, number), 0) for number in range(self.explicit.tableau.stages)]
            b.put(beyond=is_beyond(b, self.explicit.tableau, rows, FROM_BELOW * self._interval))

        @lane.emitted()
        def count(b):
            b.counter("implicit_steps").add()
            if b.buf.error.size:
                self._bring_error(b)

        @lane.emitted("bool")
        def judge(b):
            return self._judge(b).value

        @lane.emitted()
        def hand_back(b):
            copy(b, self.start_rhs(b), self._implicit_start(b))
            b.counter("implicit_accepted").add()

        @lane.function
        def start(b, t):
            begin(b)
            explicit_start(b, t)
            if forget is not None:
                forget(b)

        @lane.function
        def step(b, t, h):
            if implicit(b):
                hand_over(b)
                status = implicit_step(b, t, h)
                count(b)
                return status
            explicit_step(b, t, h)
            look(b)
            return zero

        @lane.emitted()
        def show_end(b):
            copy(b, self.end_rhs(b), self.implicit.end_rhs(self._as_seen_by(self.implicit)(b)))

        shows = lane.problem.stops

        @lane.function
        def finish(b, t):
            if implicit(b):
                if implicit_finish is not None:
                    implicit_finish(b, t)
                if shows:
                    show_end(b)
            elif explicit_finish is not None:
                explicit_finish(b, t)

        @lane.function
        def carry(b):
            if implicit(b):
                implicit_carry(b)
                hand_back(b)
            else:
                explicit_carry(b)
            if judge(b) and forget is not None:
                forget(b)

        ends = shows or explicit_finish is not None or implicit_finish is not None
        return Steps(start=start, step=step, finish=finish if ends else None, carry=carry)

    def _is_implicit(self, lane: Lane) -> Callable:
        @lane.emitted("bool")
        def implicit(b):
            return b.get("implicit").value

        return implicit

    def _hand_over(self, lane: Lane) -> Callable:
        """Gives f at the step's beginning to the implicit method."""

        @lane.emitted()
        def hand_over(b):
            copy(b, self._implicit_start(b), self.start_rhs(b))

        return hand_over

    @property
    def _interval(self) -> float:
        return stability_interval(self.explicit.tableau)

    def _judge(self, b: Body) -> Scalar:
        """Behind an accepted step: which method takes the next one. Whether the implicit one does so for the first time."""
        implicit, verdicts = b.get("implicit"), b.get("verdicts")
        within = b.get("jacobian_norm") * b.get("step_size") <= FROM_ABOVE * self._interval
        stiff = (implicit & ~within) | (~implicit & b.get("beyond"))
        more, fewer = where(verdicts < 0, 1, verdicts + 1), where(verdicts > 0, -1, verdicts - 1)
        verdicts = where(stiff, more, fewer)
        begins, ends = ~implicit & (verdicts > STIFF), implicit & (verdicts < -NONSTIFF)
        b.put(implicit=(implicit & ~ends) | begins, verdicts=verdicts)
        return begins

    def _bring_error(self, b: Body) -> None:
        """Makes the error of an implicit step one to control the size by as if the explicit method had made it."""
        from ..controllers.norms import scaled_error  # it imports Numba
        from ..kernel.memory import quick

        seen = self._as_seen_by(self.implicit)(b)
        error, rest = seen.buf.error, b.buf.error.size - seen.buf.error.size
        fill(b, b.buf.error.part(error.size, rest), 0.0)
        ratio = self.explicit.error_order / self.implicit.error_order
        if ratio == 1:
            return
        square = b.scalar(scaled_error(seen)) * (1 / b.primal)
        logarithm = b.scalar(quick(b.emitter, "log2", b.dtype, square.value)) * (0.5 * (ratio - 1))
        power = b.scalar(quick(b.emitter, "exp2", b.dtype, logarithm.value))
        factor = where(square > 0.0, power, 1.0)
        b.each(lambda index: error.store(index, (factor * b.scalar(error.load(index))).value), error.size)

    # --- Between steps

    @property
    def between_degree(self) -> int:
        return max(method.between_degree for method in self._methods)

    def prepare_between(self, b: Body, time: Any, step_size: Any) -> None:
        self._either(b, lambda method, b: method.prepare_between(b, time, step_size))

    def between(self, b: Body, theta: Any, step_size: Any) -> Callable[[Any], Any]:
        explicit, implicit = (m.between(self._as_seen_by(m)(b), theta, step_size) for m in self._methods)

        def value_at(index: Any) -> Any:
            found = b.variable(b.real(0))
            self._either(b, lambda method, _: found.set((implicit if method is self.implicit else explicit)(index)))
            return found.get()

        return value_at

    def add_between_moved(self, b: Body, theta: Jet, size: Jet, values: View) -> None:
        self._either(b, lambda method, b: method.add_between_moved(b, theta, size, values))

    def clear_between(self, b: Body) -> None:
        self._either(b, lambda method, b: method.clear_between(b))

    def between_adjoint(self, b: Body, theta: Jet, size: Jet, cotangent: View) -> tuple[dict[int, Scalar], dict[int, Scalar]]:
        orders = range(1 << b.lane.problem.depth) if b.lane.adjoint.orders else ()
        variables = [{order: b.variable(b.real(0)) for order in orders} for _ in range(2)]
        known: list[set[int]] = [set(), set()]

        def write(method: Method, b: Body) -> None:
            for number, found in enumerate(method.between_adjoint(b, theta, size, cotangent)):
                for order, value in found.items():
                    variables[number][order].set(value.value)
                    known[number].add(order)

        self._either(b, write)
        of_theta, of_size = (
            {order: b.scalar(variable.get()) for order, variable in of.items() if order in orders_known}
            for of, orders_known in zip(variables, known, strict=True)
        )
        return of_theta, of_size

    # --- Backwards

    def adjoint(self, lane: Lane) -> AdjointSteps:
        one, other = (method.adjoint(lane.seen(self._as_seen_by(method))) for method in self._methods)
        explicit_retake, implicit_retake = one.retake, other.retake
        explicit_adjoint, implicit_adjoint = one.adjoint, other.adjoint
        implicit, hand_over = self._is_implicit(lane), self._hand_over(lane)

        @lane.function
        def retake(b, t, h):
            if implicit(b):
                hand_over(b)
                implicit_retake(b, t, h)
            else:
                explicit_retake(b, t, h)

        if not lane.plan.in_step:

            @lane.function
            def adjoint(b, t, h):
                if implicit(b):
                    implicit_adjoint(b, t, h)
                else:
                    explicit_adjoint(b, t, h)

            return AdjointSteps(retake, adjoint)
        takes_part = self._takes_part(lane)

        @lane.emitted()
        def begin(b):
            b.put(active_at_all=b.get("active"))

        @lane.emitted()
        def end(b):
            b.put(active=b.get("active_at_all"))

        of_explicit, of_implicit = takes_part(False), takes_part(True)

        @lane.function
        def adjoint_together(b, t, h):
            begin(b)
            if of_explicit(b):
                explicit_adjoint(b, t, h)
            if of_implicit(b):
                implicit_adjoint(b, t, h)
            end(b)

        return AdjointSteps(retake, adjoint_together)

    def _takes_part(self, lane: Lane) -> Callable[[bool], Callable]:
        """Of a method, whether it took the step of some lane of the warp. Then all go along, those active of which it did."""
        from ..kernel import warp

        lane.cell("active_at_all", "bool")

        def of(implicit: bool) -> Callable:
            @lane.emitted("bool")
            def takes_part(b):
                own = b.get("implicit") if implicit else ~b.get("implicit")
                b.put(active=b.get("active_at_all") & own)
                return warp.some(b.emitter, b.get("active").value)

            return takes_part

        return of


def _joined(one: Buffer, other: Buffer) -> Buffer:
    """One buffer in the place of two of the same name."""
    return dataclasses.replace(
        one,
        persistent=one.persistent or other.persistent,
        aliases=one.aliases if one.aliases == other.aliases else None,
        live=one.live | other.live,
    )
