"""What an equation of one of the primitives says: its parameters, and what follows from them."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

from ..kernel.partition import Batched, result_avals
from ..operands import Operand, Result
from . import kernels
from .chain import Chain, apart, within
from .levels import Axes, AxesOfAll, result_axes


@dataclasses.dataclass(frozen=True)
class SolveCall:
    """A solve. axes: of each operand. record: behind the results come the checkpoints of depths up to it; None: of none.

    Its result of order S has a level where an operand of an order within S has it.
    """

    problem: Chain
    axes: tuple[Axes, ...]
    record: int | None = None

    @property
    def params(self) -> dict[str, Any]:
        """As an equation has them."""
        return {"problem": self.problem, "axes": AxesOfAll(self.axes), "record": self.record}

    @property
    def levels(self) -> int:
        return len(self.axes[0])

    @property
    def checkpoints(self) -> tuple[Result, ...]:
        return () if self.record is None else tuple(kernels.checkpoint_results(self.problem, self.record))

    @property
    def results(self) -> tuple[Result, ...]:
        return (*self.problem.results, *self.checkpoints)

    @property
    def depends(self) -> list[list[bool]]:
        """For each result, whether it differs along each level."""
        recorded = () if self.record is None else range(self.record + 1)
        orders = [*self.problem.result_orders, *((1 << depth) - 1 for depth in recorded)]
        own = list(zip(self.problem.orders, self.axes, strict=True))
        return [
            [any(axes[level] is not None and within(one, order) for one, axes in own) for level in range(self.levels)]
            for order in orders
        ]

    @property
    def out_axes(self) -> list[Axes]:
        return [result_axes(result, has) for result, has in zip(self.results, self.depends, strict=True)]

    def avals(self, avals: Sequence[Any]) -> list[Any]:
        """Those of the results."""
        return _avals(avals, self.axes, self.results, self.out_axes)


def _avals(avals: Sequence[Any], axes: Sequence[Axes], results: Sequence[Operand | Result], out_axes: Any) -> list[Any]:
    taken = [Batched((), str(aval.dtype), own, ()) for aval, own in zip(avals, axes, strict=True)]
    given = [Batched(one.shape, one.dtype, own, ()) for one, own in zip(results, out_axes, strict=True)]
    return result_avals(avals, taken, given) if given else []


@dataclasses.dataclass(frozen=True)
class Roles:
    """What a linear primitive takes, behind the operands and the checkpoints, and what it gives, in this order.

    It takes: seeds, the cotangents of these results; tangents, those of these operands; seed_tangents, the tangents of the
    cotangents of these results. It gives: gradients, the cotangents of these operands; gradient_tangents, the tangents of such
    cotangents; result_tangents, those of these results. An adjoint has seeds and gradients alone, a tangent has tangents and
    result_tangents alone. All are numbers of operands or results of the problem.
    """

    seeds: tuple[int, ...] = ()
    tangents: tuple[int, ...] = ()
    seed_tangents: tuple[int, ...] = ()
    gradients: tuple[int, ...] = ()
    gradient_tangents: tuple[int, ...] = ()
    result_tangents: tuple[int, ...] = ()

    def __repr__(self) -> str:
        given = [f"{field.name}={getattr(self, field.name)}" for field in dataclasses.fields(self) if getattr(self, field.name)]
        return f"Roles({', '.join(given)})"

    def of_outputs(self, chosen: Sequence[bool]) -> Roles:
        """Without the outputs that are not chosen."""
        flags = iter(chosen)
        names = ("gradients", "gradient_tangents", "result_tangents")
        return dataclasses.replace(self, **{name: tuple(one for one in getattr(self, name) if next(flags)) for name in names})


@dataclasses.dataclass(frozen=True)
class LinearCall:
    """A call of a linear primitive. out_axes: of each output.

    An output that lacks a level which something that it depends on has is the sum over that level.
    """

    problem: Chain
    roles: Roles
    axes: tuple[Axes, ...]
    out_axes: tuple[Axes, ...]

    @property
    def params(self) -> dict[str, Any]:
        """As an equation has them."""
        axes = {"axes": AxesOfAll(self.axes), "out_axes": AxesOfAll(self.out_axes)}
        return {"problem": self.problem, "roles": self.roles, **axes}

    @property
    def levels(self) -> int:
        return len(self.axes[0])

    def split(self, inputs: Sequence[Any]) -> tuple[list[Any], ...]:
        """Operands, checkpoints, seeds, tangents, tangents of seeds: of arrays, axes, or whatever there is one of for each."""
        roles, parts, rest = self.roles, [], list(inputs)
        linear = (len(roles.seeds), len(roles.tangents), len(roles.seed_tangents))
        for count in (len(self.problem.operands), self.problem.depth + 1, *linear):
            parts.append(rest[:count])
            rest = rest[count:]
        return tuple(parts)

    @property
    def fixed(self) -> int:
        """How many inputs it is not linear in stand in front: operands and checkpoints; of a second, seeds, too."""
        seeds = len(self.roles.seeds) if self._nonlinear_seeds else 0
        return len(self.problem.operands) + self.problem.depth + 1 + seeds

    @property
    def _nonlinear_seeds(self) -> bool:
        return bool(self.roles.tangents or self.roles.seed_tangents)

    @functools.cached_property
    def inputs(self) -> list[tuple[str, int]]:
        """Of each input its kind and its order; of checkpoints their number instead."""
        roles, orders, result_orders = self.roles, self.problem.orders, self.problem.result_orders
        return [
            *(("operand", order) for order in orders),
            *(("checkpoint", depth) for depth in range(self.problem.depth + 1)),
            *(("seed", result_orders[number]) for number in roles.seeds),
            *(("tangent", orders[number]) for number in roles.tangents),
            *(("seed tangent", result_orders[number]) for number in roles.seed_tangents),
        ]

    @functools.cached_property
    def outputs(self) -> list[tuple[str, int]]:
        """Of each output its kind and its order."""
        roles, orders, result_orders = self.roles, self.problem.orders, self.problem.result_orders
        return [
            *(("gradient", orders[number]) for number in roles.gradients),
            *(("gradient tangent", orders[number]) for number in roles.gradient_tangents),
            *(("result tangent", result_orders[number]) for number in roles.result_tangents),
        ]

    @property
    def arrays(self) -> list[Operand | Result]:
        """One lane's outputs."""
        roles, problem = self.roles, self.problem
        gradients = [problem.operands[number] for number in (*roles.gradients, *roles.gradient_tangents)]
        return [*gradients, *(problem.results[number] for number in roles.result_tangents)]

    @property
    def depends(self) -> list[list[bool]]:
        """For each output, whether what it depends on differs along each level."""
        return [
            [
                any(axes[level] is not None and _depends(output, one) for one, axes in zip(self.inputs, self.axes, strict=True))
                for level in range(self.levels)
            ]
            for output in self.outputs
        ]

    def avals(self, avals: Sequence[Any]) -> list[Any]:
        """Those of the outputs."""
        return _avals(avals, self.axes, self.arrays, self.out_axes)

    def counted_once(self) -> list[frozenset[tuple[int, int]]]:
        """For each output, which (input, level) is to be counted once: the output is a sum over a level along which this linear
        input's contribution is the same, while that of others differs. The sum would have it once for each index."""
        linear = {"gradient": ("seed",), "gradient tangent": ("tangent", "seed tangent"), "result tangent": ("tangent",)}
        found = []
        for (kind, order), depends, out in zip(self.outputs, self.depends, self.out_axes, strict=True):
            once = set()
            kinds = () if kind == "gradient" and self._nonlinear_seeds else linear[kind]
            for level in range(self.levels):
                if not depends[level] or out[level] is not None:
                    continue
                for number, (one, axes) in enumerate(zip(self.inputs, self.axes, strict=True)):
                    read = one[0] in kinds and axes[level] is None and _depends((kind, order), one)
                    if read and not self._differs(kind, order, *one, level):
                        once.add((number, level))
            found.append(frozenset(once))
        return found

    def _differs(self, kind: str, order: int, linear: str, of: int, level: int) -> bool:
        """Whether the factor of a linear input in an output differs along a level: it is a derivative of the results by the
        orders of both, in which what has J's of theirs does not stand any more."""
        having = [one for one, axes in zip(self.inputs, self.axes, strict=True) if axes[level] is not None]
        operands = [one for name, one in having if name == "operand"]
        if kind == "result tangent":
            return any(within(one, order) and apart(one, of) for one in operands)
        if linear == "tangent":
            seeds = [one for name, one in having if name == "seed"]
            return any(apart(one, of | order) for one in operands) or any(within(of | order, one) for one in seeds)
        return any(apart(one, order) and within(one, of) for one in operands)


def _depends(output: tuple[str, int], read: tuple[str, int]) -> bool:
    """Whether an output depends on an input, by kinds and orders."""
    (kind, order), (name, one) = output, read
    if kind == "result tangent":  # a solve, that does not look at checkpoints
        return name in ("operand", "tangent") and within(one, order)
    if name == "checkpoint":
        return True
    if name in ("operand", "tangent"):
        return apart(one, order) and (name == "operand" or kind == "gradient tangent")
    return within(order, one) and (name == "seed" or kind == "gradient tangent")
