"""What is known of a solve once its functions are traced; static, and hashed by JAX."""

from __future__ import annotations

import dataclasses

from ..buffers import BufferRegistry
from ..controllers import Controller
from ..loop import Dimensions, Part
from ..methods import Method
from ..operands import Function, Operand, Result

DEFAULT_MAX_STEPS = 100_000


@dataclasses.dataclass(frozen=True)
class Problem:
    """A solve of one lane.

    functions: for each platform the user's, "f" first. parts: what looks at each step, saving first. registry: the buffers
    with their locations; their sizes are bound by the Plan. operands: what the kernel reads. first_step_given: whether dt0 is
    one.
    """

    functions: tuple[tuple[str, tuple[Function, ...]], ...] = dataclasses.field(metadata={"content": None})  # a plan has one's
    method: Method
    controller: Controller
    parts: tuple[Part, ...]
    registry: BufferRegistry = dataclasses.field(metadata={"content": None})  # the plan's layout tells what comes of it
    states: int
    dtype: str
    operands: tuple[Operand, ...] = dataclasses.field(metadata={"content": None})  # the plan has them with their axes
    first_step_given: bool
    fastmath: bool
    unroll: int | str = dataclasses.field(metadata={"content": None})  # the plan knows how far
    inline_f: bool | str
    schedule: str = dataclasses.field(metadata={"content": None})  # the plan knows what comes of it
    block: int | str = dataclasses.field(metadata={"content": None})  # likewise
    title: str = dataclasses.field(default="", compare=False, metadata={"content": None})

    def on(self, platform: str) -> tuple[Function, ...]:
        """The functions of a platform."""
        return dict(self.functions)[platform]

    @property
    def adaptive(self) -> bool:
        """Whether step sizes are chosen by an error estimate."""
        return self.controller.adaptive

    @property
    def chooses_first_step(self) -> bool:
        """Whether the size of the first step is found in the kernel."""
        return self.controller.first_step == "either" and not self.first_step_given

    def dimensions(self, parameters: int = 0) -> Dimensions:
        """What the sizes of buffers depend on; `parameters`: words of the buffer of that name."""
        return Dimensions(self.states, parameters, self.adaptive, any(part.inside for part in self.parts))

    @property
    def results(self) -> tuple[Result, ...]:
        """What the kernel writes: what parts ask for, then the counts and the code."""
        own = [result for part in self.parts for result in part.results(self.states, self.dtype)]
        counts = ("accepted", "rejected", "result", *self.method.counters(self.dimensions()))
        return (*own, *(Result(name, (), "int32") for name in counts))
