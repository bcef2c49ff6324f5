"""What a family of methods gives: its numbers, its buffers, and its places in the loop."""

from __future__ import annotations

import abc
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from ..buffers import Buffer
from ..loop import AdjointSteps, Dimensions, Steps
from ..operands import FieldFunction

if TYPE_CHECKING:
    from jax.extend.core import ClosedJaxpr

    from ..kernel.device import View
    from ..kernel.scalar import Scalar
    from ..linear import Mass, Pattern
    from ..loop.body import Body
    from ..loop.jets import Jet
    from ..loop.lane import Lane
    from .constraints import Constraints


class Method(abc.ABC):
    """One method. A frozen dataclass: static, and part of an image's key.

    A family is a file with a class of this kind, which `find_method` in `families.py` makes. family: what it is called.
    fallible: whether a step may fail, and answers with a status.
    """

    family: ClassVar[str]
    fallible: ClassVar[bool]

    def in_step(self, dimensions: Dimensions) -> bool:
        """Whether lanes that take steps together come to each evaluation of f together: a step has the same of them for all,
        and nothing but its `start` and `finish` has any besides."""
        return False

    @property
    def primal_too(self) -> tuple[str, ...]:
        """Those functions of `differentiated` that it evaluates of the primal state alone, too, under their `primal_name` where
        there are tangents."""
        return ()

    @property
    @abc.abstractmethod
    def name(self) -> str:
        """What the user calls it."""

    @property
    @abc.abstractmethod
    def order(self) -> int:
        """The order of its solution."""

    @property
    @abc.abstractmethod
    def error_order(self) -> int:
        """The order that step size control divides its exponents by."""

    @property
    @abc.abstractmethod
    def error_rows(self) -> int:
        """Error estimates of a step, rows of the buffer `error`; 0 where there is none to adapt the step size by."""

    @abc.abstractmethod
    def fitted(self, field: ClosedJaxpr, mass: Mass | None = None, sparsity: Pattern | None = None) -> Method:
        """This method for that f, `field(t, y, *values)` with the flat state, and that mass matrix: linear systems depend on
        what its Jacobian is like. sparsity: the Jacobian's, where the user gave one. Raises ValueError for a mass that it can't
        have."""

    def looked_at(self) -> Method:
        """This method where parts look at f at the ends of its steps."""
        return self

    @abc.abstractmethod
    def functions(self, field: Callable, jac: Callable | None = None) -> dict[str, FieldFunction]:
        """What it evaluates, by the names that `b.call` takes, "f" first: `field(t, y, *values)` with the flat state, and what
        is derived of it. jac: the user's function that gives f's Jacobian, [n, n]."""

    @abc.abstractmethod
    def differentiated(self, field: Callable) -> dict[str, FieldFunction]:
        """What it evaluates of a state with tangents, and transposes, "f" first. Those of `functions` that are not among these
        it evaluates of the primal state alone."""

    @abc.abstractmethod
    def transposed(self, field: Callable) -> dict[str, FieldFunction]:
        """What its adjoint alone evaluates, of the primal state alone."""

    @abc.abstractmethod
    def buffers(self) -> tuple[Buffer, ...]:
        """Its buffers; their sizes wait for a problem."""

    @abc.abstractmethod
    def sizes(self, dimensions: Dimensions) -> dict[str, int]:
        """Words of each of its buffers."""

    @abc.abstractmethod
    def counters(self, dimensions: Dimensions) -> tuple[str, ...]:
        """The counters that it keeps, int32; each is a result, and `evaluations` is told."""

    @abc.abstractmethod
    def copies(self, dimensions: Dimensions) -> dict[str, int]:
        """At how many places it evaluates each function, by name; but for the choice of the first step."""

    @abc.abstractmethod
    def evaluations(self, steps: Any, accepted: Any, counted: Mapping[str, Any]) -> Any:
        """Evaluations of f in `steps` steps, `accepted` of them accepted, beyond the one at t0."""

    @abc.abstractmethod
    def work(self, steps: Any, accepted: Any, counted: Mapping[str, Any]) -> dict[str, Any]:
        """What else it did in those steps, by names in the statistics of the solution."""

    @property
    @abc.abstractmethod
    def between_degree(self) -> int:
        """The degree of the polynomials that values between steps are, in the fraction of a step."""

    @property
    def between_needs_slopes(self) -> bool:
        """Whether values between steps take f for the slope at their ends, which with a mass matrix it is not."""
        return False

    def slope_of(self, field: Callable) -> Callable:
        """The slope of the state as a function, of f, `field(t, y, *values)`: with a mass matrix f is none."""
        return field

    @property
    def constraints(self) -> Constraints | None:
        """What algebraic equations ask of the state at t0 and behind jumps, where there are such; for code in a lane."""
        return None

    def first_slope(self, b: Body) -> tuple[View, Callable[[View], None] | None]:
        """The slope of the state at t0, to choose the first step by; and what makes of f, where the state has moved a little,
        its slope. None where that is f."""
        return self.start_rhs(b), None

    @abc.abstractmethod
    def steps(self, lane: Lane) -> Steps:
        """Its device functions."""

    @property
    @abc.abstractmethod
    def carried_rows(self) -> int:
        """How many arrays as long as the state outlive a step, besides the state."""

    @abc.abstractmethod
    def carried(self, b: Body) -> Sequence[View]:
        """Those; and then arrays as long as the primal state, `carried_primal_rows` of them."""

    @property
    @abc.abstractmethod
    def carried_primal_rows(self) -> int:
        """How many of these there are."""

    @property
    @abc.abstractmethod
    def remembered(self) -> tuple[tuple[str, str], ...]:
        """The cells that outlive a step, with their dtypes: "float", the solve's, or others. Where all steps have one size,
        they change in `carry` alone."""

    @abc.abstractmethod
    def adjoint(self, lane: Lane) -> AdjointSteps:
        """Its places in the backward loop."""

    @abc.abstractmethod
    def add_between_moved(self, b: Body, theta: Jet, size: Jet, values: View) -> None:
        """Adds to the values of `between`, in an array, what the tangents of `theta` and of the step's size have in them."""

    @abc.abstractmethod
    def clear_between(self, b: Body) -> None:
        """At the beginning of a step that is gone back over: nothing inside of it has a cotangent yet."""

    @abc.abstractmethod
    def between_adjoint(self, b: Body, theta: Jet, size: Jet, cotangent: View) -> tuple[dict[int, Scalar], dict[int, Scalar]]:
        """Adds the cotangent of the values at the fraction `theta` of a step of that size to those of what they are made of.
        Gives those of theta and of the size, by their orders."""

    @abc.abstractmethod
    def start_rhs(self, b: Body) -> View:
        """f at the beginning of a step."""

    @abc.abstractmethod
    def end_rhs(self, b: Body) -> View:
        """f at the end of an accepted step."""

    @abc.abstractmethod
    def spare_rhs(self, b: Body) -> View:
        """Room for another evaluation of f before the first step."""

    @abc.abstractmethod
    def prepare_between(self, b: Body, time: Any, step_size: Any) -> None:
        """What `between` needs, in an accepted step from `time` on that it is asked of."""

    @abc.abstractmethod
    def between(self, b: Body, theta: Any, step_size: Any) -> Callable[[Any], Any]:
        """Values at the fraction `theta` of the last step, whose signed size is `step_size`: a function of the component."""

    def twice_between(self, b: Body, theta: float, step_size: Any) -> Callable[[Any], Any]:
        """The same values, twice as large, at a fraction that is known."""
        values = self.between(b, b.real(theta), step_size)
        return lambda index: b.emitter.mul(b.dtype, b.real(2), values(index))
