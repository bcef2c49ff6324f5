"""A problem together with tangents of its operands is a problem, too: so one set of rules has every order.

Each J = `Tangent` doubles what there is: an operand, or a result, of order S is x differentiated once for every J in S, an
integer whose bits are numbers of J's. By the product rule the result of order S depends on operands of orders within S.
"""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Iterable, Sequence
from typing import Any, TypeAlias

from ..operands import MASS, Operand, Result, word_of
from ..problem import Problem
from .rule_content import rule_content

# What a solve is differentiated by, besides the leaves of args and the arrays that functions close over ("f0", "f1", ...).
_TIMES = ("t0", "span", "offsets", "t1", "ts", "step_ends", "jump_times", "sum_start", "sum_every")
_DIFFERENTIABLE = frozenset({"y0", "jump_increments", MASS, *_TIMES})


def operand_has_tangent(operand: Operand, adaptive: bool) -> bool:
    """Whether an operand of a problem can have a tangent. Tolerances, coefficients and max_steps have derivative zero, as has
    dt0 where step sizes are chosen: those are held fixed."""
    known = word_of(operand.name) in _DIFFERENTIABLE or re.fullmatch(r"f\d+", operand.name) is not None
    return operand.dtype.startswith("float") and (known or (operand.name == "dt0" and not adaptive))


def result_has_tangent(result: Result) -> bool:
    """Whether a result of a problem has one. The times of steps don't: they are held fixed."""
    return result.differentiable


@dataclasses.dataclass(frozen=True, repr=False)
class Tangent:
    """The problem `base` together with the tangents of some of its operands, and of all results that have them.

    mask: which operands of base have a tangent; those stand behind the operands of base, in their order, and the tangents of
    results behind the results of base.
    """

    base: Problem | Tangent
    mask: tuple[bool, ...]

    def __repr__(self) -> str:
        return f"Tangent({self.base!r}, {list(self.wrt)})"

    @property
    def depth(self) -> int:
        """How many J's there are."""
        return self.base.depth + 1

    @property
    def bit(self) -> int:
        """This J in an order."""
        return 1 << self.base.depth

    @property
    def wrt(self) -> tuple[int, ...]:
        """The operands of base that have a tangent here, by number."""
        return tuple(number for number, has in enumerate(self.mask) if has)

    @functools.cached_property
    def orders(self) -> tuple[int, ...]:
        """The order of each operand."""
        return (*self.base.orders, *(self.base.orders[number] | self.bit for number in self.wrt))

    @functools.cached_property
    def operands(self) -> tuple[Operand, ...]:
        tangents = [_named(self.base.operands[number], self.base.orders[number] | self.bit) for number in self.wrt]
        return (*self.base.operands, *tangents)

    @functools.cached_property
    def result_orders(self) -> tuple[int, ...]:
        """The order of each result."""
        return (*self.base.result_orders, *(self.base.result_orders[number] | self.bit for number in with_tangent(self.base)))

    @functools.cached_property
    def results(self) -> tuple[Result, ...]:
        base = self.base
        tangents = [_named(base.results[number], base.result_orders[number] | self.bit) for number in with_tangent(base)]
        # What no lane writes is constant.
        tangents = [one if one.unwritten is None else dataclasses.replace(one, unwritten=0.0) for one in tangents]
        return (*base.results, *tangents)


Chain: TypeAlias = Problem | Tangent


def _named(array: Any, order: int) -> Any:
    return dataclasses.replace(array, name=f"{array.name.partition('.')[0]}.{order}")


def root(problem: Chain) -> Problem:
    """The problem that nothing is differentiated of."""
    while isinstance(problem, Tangent):
        problem = problem.base
    return problem


def differentiable(problem: Chain) -> tuple[bool, ...]:
    """Which operands can have a tangent: of those that are tangents, all."""
    own, adaptive = root(problem).operands, root(problem).adaptive
    return tuple(operand_has_tangent(operand, adaptive) for operand in own) + (True,) * (len(problem.operands) - len(own))


def with_tangent(problem: Chain) -> tuple[int, ...]:
    """The results that have a tangent, by number: of those that are tangents, all."""
    own = len(root(problem).results)
    return tuple(
        number for number, result in enumerate(problem.results) if number >= own or result_has_tangent(result)
    )


def tangent_of(problem: Chain, wrt: Iterable[int]) -> Tangent:
    """The problem with tangents of the operands of these numbers."""
    if isinstance(problem, Problem) and not problem.rules:
        problem = dataclasses.replace(problem, rules=rule_content(problem.traced))
    chosen = set(wrt)
    return Tangent(problem, tuple(number in chosen for number in range(len(problem.operands))))


def tangent_numbers(problem: Chain, results: Sequence[int]) -> list[int]:
    """Where among the results of `Tangent(problem)` the tangents of these results stand."""
    places = with_tangent(problem)
    return [len(problem.results) + places.index(number) for number in results]


def within(order: int, other: int) -> bool:
    """Whether each J of the first order is one of the other."""
    return not order & ~other


def apart(order: int, other: int) -> bool:
    """Whether they have no J in common."""
    return not order & other
