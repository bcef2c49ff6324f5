"""What is known of a solve once its functions are traced; static, and hashed by JAX."""

from __future__ import annotations

import dataclasses

from ..buffers import BufferRegistry
from ..controllers import Controller
from ..inputs import Jumps
from ..loop import Dimensions, Part
from ..loop.adjoint import Adjoint
from ..loop.checkpoints import WINDOWS, Checkpoints, checkpoint_results
from ..loop.cursors import Cursor
from ..methods import Method
from ..operands import Function, Operand, Piece, Result, Traced, cotangent_name
from ..outputs import Dense, Events, Integrals, Saving, Steady, Summaries

DEFAULT_MAX_STEPS = 100_000
# Every part that one may have, for the sake of its buffers.
PARTS = (Saving, Dense, Steady, Events, Jumps, Summaries, Integrals)


@dataclasses.dataclass(frozen=True, repr=False)
class Problem:
    """A solve of one lane.

    functions: for each platform the user's, "f" first. traced: the same as JAX has them, by name, for their derivatives;
    summarised: what summaries are of.
    pieces: what the state consists of. moving: the orders of the tangents that times have. parts: what looks at each step,
    saving first. registry: the buffers with their locations; their sizes are bound by the Plan. operands: what the kernel
    reads. directions: how many tangents a lane takes at once, at most. first_step_given: whether dt0 is one. slots: of
    checkpoints, where there are any; checkpoints: which of them the kernel keeps. adjoint: which backward pass it is, if it is
    one. rules: once it is differentiated, what its functions' derivatives depend on besides their programs. cursors: of the
    tables of which functions are handed rows.
    """

    functions: tuple[tuple[str, tuple[Function, ...]], ...] = dataclasses.field(metadata={"content": None})  # a plan has one's
    method: Method
    controller: Controller
    parts: tuple[Part, ...]
    registry: BufferRegistry = dataclasses.field(metadata={"content": None})  # the plan's layout tells what comes of it
    pieces: tuple[Piece, ...]
    dtype: str
    operands: tuple[Operand, ...] = dataclasses.field(metadata={"content": None})  # the plan has them with their axes
    first_step_given: bool
    fastmath: bool
    unroll: int | str = dataclasses.field(metadata={"content": None})  # the plan knows how far
    inline_f: bool | str
    schedule: str = dataclasses.field(metadata={"content": None})  # the plan knows what comes of it
    block: int | str = dataclasses.field(metadata={"content": None})  # likewise
    traced: tuple[tuple[str, Traced], ...] = dataclasses.field(default=(), compare=False, metadata={"content": None})
    summarised: tuple[tuple[str, Traced], ...] = dataclasses.field(default=(), compare=False, metadata={"content": None})
    moving: tuple[int, ...] = ()
    slots: int = dataclasses.field(default=32, metadata={"content": None})  # `checkpoints` knows it
    windows: int = dataclasses.field(default=WINDOWS, metadata={"content": None})  # `adjoint` knows it
    directions: int = dataclasses.field(default=8, metadata={"content": None})  # the pieces tell how many
    checkpoints: Checkpoints | None = None
    adjoint: Adjoint | None = None
    cursors: tuple[Cursor, ...] = ()
    rules: str = dataclasses.field(default="", metadata={"content": None})  # a kernel's functions tell what comes of it
    title: str = dataclasses.field(default="", compare=False, metadata={"content": None})

    def __repr__(self) -> str:  # it stands in every equation of a solve
        return f"{self.title} ({self.states} states, {self.dtype}, {self.method.name})"

    def on(self, platform: str) -> tuple[Function, ...]:
        """The functions of a platform."""
        return dict(self.functions)[platform]

    @property
    def states(self) -> int:
        """Components of the state, tangents among them."""
        return sum(piece.size for piece in self.pieces)

    @property
    def primal_states(self) -> int:
        """Those that are no tangents."""
        return self.pieces[0].size

    @property
    def counts_from_t0(self) -> bool:
        """Whether functions are given the time since t0 for "t": where they look times up, that has digits which t has not.
        They are told t besides, as `TIME`, and t0 as an operand, for derivatives."""
        return bool(self.cursors)

    @property
    def adaptive(self) -> bool:
        """Whether step sizes are chosen by an error estimate."""
        return self.controller.adaptive

    @property
    def remembered(self) -> tuple[tuple[str, str], ...]:
        """The cells of the controller and the method that outlive a step, and of parts that change them before it is known
        whether it is taken once more, with their dtypes; "float": the solve's."""
        cutting = (one for part in self.parts if part.cuts for one in part.remembered)
        return (*self.controller.remembered, *self.method.remembered, *cutting)

    @property
    def cuts(self) -> bool:
        """Whether legs may end at times that no operand names."""
        return any(part.cuts for part in self.parts)

    @property
    def moves(self) -> bool:
        """Whether legs end at times that depend on the state."""
        return any(part.moves for part in self.parts)

    @property
    def one_size(self) -> bool:
        """Whether all steps but the last have the size dt0."""
        return not self.adaptive and not self.controller.names_ends and not self.divided

    @property
    def divided(self) -> bool:
        """Whether the way of a lane consists of several legs."""
        return any(part.divides for part in self.parts)

    @property
    def goes_on(self) -> bool:
        """Whether there are legs behind which the method goes on, and does not start again."""
        return any(part.goes_on for part in self.parts)

    @property
    def jumps(self) -> bool:
        """Whether f may jump where a leg ends."""
        return any(part.jumps for part in self.parts)

    @property
    def stops(self) -> bool:
        """Whether a lane may be ended before t1."""
        return any(part.stops for part in self.parts)

    @property
    def chooses_first_step(self) -> bool:
        """Whether the size of the first step is found in the kernel."""
        return self.controller.first_step == "either" and not self.first_step_given

    @property
    def output_functions(self) -> tuple[str, ...]:
        """The functions of the user's whose outputs are results, by name."""
        return tuple(name for name, _ in self.traced if self.outputs_of(name))

    def outputs_of(self, function: str) -> tuple[str, ...]:
        """The results that are the outputs of one of those."""
        return tuple(name for part in self.parts for name in part.outputs_of(function))

    def dimensions(self, parameters: int = 0) -> Dimensions:
        """What the sizes of buffers depend on; `parameters`: words of the buffer of that name."""
        return Dimensions(
            self.states,
            self.primal_states,
            parameters,
            self.adaptive,
            any(part.inside for part in self.parts),
            len(self.pieces),
            bool(self.moving),
            self.adjoint is not None,
            self.counts_from_t0,
        )

    @property
    def depth(self) -> int:
        """How many differentiations its state has been through."""
        return (len(self.pieces) - 1).bit_length()

    @property
    def results(self) -> tuple[Result, ...]:
        """What the kernel writes."""
        if self.adjoint is not None:
            named = {operand.name: operand for operand in self.operands}
            summed = self.adjoint.summed
            return tuple(
                Result(cotangent_name(name), named[name].shape, named[name].dtype, added=name in summed)
                for name in self.adjoint.wrt
            )
        kept = () if self.checkpoints is None else checkpoint_results(self, self.checkpoints)
        return (*self.forward_results, *kept)

    @property
    def forward_results(self) -> tuple[Result, ...]:
        """What a solve gives: what parts ask for, the counts and the code, and the tangents of the first."""
        own = [result for part in self.parts for result in part.results(self.primal_states, self.dtype)]
        if self.stops:  # where the last accepted step ended, counted from t0
            own.append(Result("reached", (), self.dtype, fixed=not self.moves))
        counts = ("accepted", "rejected", "result", *self.method.counters(self.dimensions()))
        tangents = [result.tangent(piece) for piece in self.pieces[1:] for result in own if result.differentiable]
        return (*own, *(Result(name, (), "int32") for name in counts), *tangents)

    @property
    def orders(self) -> tuple[int, ...]:
        return (0,) * len(self.operands)

    @property
    def result_orders(self) -> tuple[int, ...]:
        return (0,) * len(self.results)
