"""Explicit Runge-Kutta methods: one step for the whole family, driven by a tableau.

The rows of `stage_rhs` are the stages' right-hand sides. Row 0 is f at the beginning of the step; it stays there, so
that a rejected step evaluates nothing twice. The last row is f at the end of an accepted step: the step's own last
stage where the tableau has that property (FSAL), else it is evaluated then. The stages that only the dense output needs
have rows of their own, in `dense_rhs`; they are evaluated in a step that a point falls into.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from typing import TYPE_CHECKING, Any

from ..buffers import Buffer
from ..loop import Dimensions, Steps
from ..loop.adjoints import gather, into_adjoints
from ..loop.jets import Jet
from ..outputs.interpolation import dense_shares, dense_weights, emit_dense, emit_dense_weights, emit_hermite
from .method import Method
from .tableau import ButcherTableau

if TYPE_CHECKING:
    from ..kernel.device import View
    from ..kernel.scalar import Scalar
    from ..loop.body import Body
    from ..loop.lane import Lane


@dataclasses.dataclass(frozen=True)
class ExplicitRungeKutta(Method):
    """An explicit Runge-Kutta method."""

    tableau: ButcherTableau

    family = "explicit Runge-Kutta"
    fallible = False

    @property
    def name(self) -> str:
        return self.tableau.name

    @property
    def order(self) -> int:
        return self.tableau.order

    @property
    def error_order(self) -> int:
        return self.tableau.order

    @property
    def error_rows(self) -> int:
        if self.tableau.b_embedded is None:
            return 0
        return 1 + (self.tableau.error_weights_low is not None)

    def rhs_rows(self, dimensions: Dimensions) -> int:
        """Rows of `stage_rhs`: one a stage, and never less than the two ends of a step. Its own dense output wants every
        stage, as a transposed step does, and the end's row is one more."""
        own = dimensions.inside and (self.tableau.dense is not None or dimensions.backward) and not self.tableau.fsal
        return self.tableau.stages + 1 if own else max(self.tableau.stages, 2)

    @property
    def dense_stages(self) -> tuple[int, ...]:
        """The stages, counted on from those of a step, that only the dense output needs: all of its own but the end of the
        step, whose row there is anyway."""
        tableau = self.tableau
        extra = 0 if tableau.dense is None else len(tableau.dense.a)
        return tuple(stage for stage in range(tableau.stages, tableau.stages + extra) if stage != tableau.end_stage)

    def evaluations(self, steps: Any, accepted: Any, counted: Mapping[str, Any]) -> Any:
        total = (self.tableau.stages - 1) * steps
        if not self.tableau.fsal:
            total = total + accepted
        if "dense" in counted:
            total = total + counted["dense"] * len(self.dense_stages)
        return total

    def functions(self, field: Callable) -> dict[str, Callable]:
        return {"f": field}

    def buffers(self) -> tuple[Buffer, ...]:
        return (
            Buffer("stage_rhs", 0, persistent=True),
            Buffer("stage_accumulator", 0, aliases="error", live=frozenset({"step/stage", "step/output"})),
            Buffer("dense_rhs", 0, live=frozenset({"step/output"})),
            Buffer("stage_adjoint", 0),
            Buffer("stage_cotangent", 0),
            Buffer("start_adjoint", 0),
        )

    def sizes(self, dimensions: Dimensions) -> dict[str, int]:
        states = dimensions.states
        return {
            "stage_rhs": self.rhs_rows(dimensions) * states,
            "stage_accumulator": states if self.tableau.stages > 1 else 0,
            "dense_rhs": len(self.dense_stages) * states if dimensions.inside else 0,
            "stage_adjoint": self._adjoint_count(dimensions) * states if dimensions.backward else 0,
            "stage_cotangent": states if dimensions.backward else 0,
            "start_adjoint": states if dimensions.backward and dimensions.inside else 0,
        }

    def _adjoint_count(self, dimensions: Dimensions) -> int:
        """Arrays of cotangents: of each stage, each stage of the dense output, and the end of the step."""
        return self.tableau.stages + (len(self.dense_stages) + (not self.tableau.fsal) if dimensions.inside else 0)

    def counters(self, dimensions: Dimensions) -> tuple[str, ...]:
        return ("dense",) if dimensions.inside and self.dense_stages else ()

    def copies(self, dimensions: Dimensions) -> dict[str, int]:
        dense = len(self.dense_stages) if dimensions.inside else 0
        stages = self.tableau.stages + dense + (not self.tableau.fsal)
        return {"f": stages, "f_vjp": stages + dimensions.inside} if dimensions.backward else {"f": stages}

    def steps(self, lane: Lane) -> Steps:
        @lane.emitted()
        def start(b, t):
            b.evaluate(t, b.buf.state, self.start_rhs(b))

        @lane.emitted()
        def finish(b, t):
            b.evaluate(t, b.buf.proposed_state, self._end_rhs(b), into=1)

        @lane.emitted()
        def carry(b):
            first, last = self.start_rhs(b), self._end_rhs(b)
            b.each(lambda index: b.buf.state.store(index, b.buf.proposed_state.load(index)))
            b.each(lambda index: first.store(index, last.load(index)))

        return Steps(
            start=start,
            step=lane.emitted()(self._step),
            finish=None if self.tableau.fsal else finish,
            carry=carry,
        )

    def _step(self, b: Body, time: Any, step_size: Any) -> None:
        """One step from `state`: `proposed_state`, the rows of `stage_rhs` after the first, and `error`."""
        tableau, state, proposed = self.tableau, b.buf.state, b.buf.proposed_state
        rows = [b.row(b.buf.stage_rhs, number) for number in range(tableau.stages)]
        for stage, (weights, fraction) in enumerate(zip(tableau.a, tableau.c[1:], strict=True), start=1):
            last_of_fsal = tableau.fsal and stage == tableau.stages - 1
            stage_state = proposed if last_of_fsal else b.buf.stage_accumulator
            combine(b, stage_state, state, step_size, weights, rows)
            b.evaluate(_stage_time(b, fraction, step_size, time), stage_state, rows[stage], into=fraction)
        if not tableau.fsal:
            combine(b, proposed, state, step_size, tableau.b, rows)
        if b.buf.error.size:
            for number, errors in enumerate((tableau.error_weights, tableau.error_weights_low)[: self.error_rows]):
                estimate = b.buf.error.part(number * b.primal, b.primal)
                combine(b, estimate, None, step_size, errors or (), rows)

    def start_rhs(self, b: Body) -> View:
        return b.row(b.buf.stage_rhs, 0)

    def spare_rhs(self, b: Body) -> View:
        return self._end_rhs(b)

    def _end_rhs(self, b: Body) -> View:
        return b.row(b.buf.stage_rhs, b.buf.stage_rhs.size // b.states - 1)

    def _dense_rows(self, b: Body) -> list[View]:
        """The right-hand sides that the dense output is made of, in the order of its weights."""
        tableau, own = self.tableau, self.dense_stages
        rows = [b.row(b.buf.stage_rhs, number) for number in range(tableau.stages)]
        for stage in range(tableau.stages, tableau.stages + len(tableau.dense.a if tableau.dense else ())):
            rows.append(b.row(b.buf.dense_rhs, own.index(stage)) if stage in own else self._end_rhs(b))
        return rows

    def prepare_between(self, b: Body, time: Any, step_size: Any) -> None:
        """The stages that only the dense output needs."""
        if not self.dense_stages:
            return
        dense, accumulator, rows = self.tableau.dense, b.buf.stage_accumulator, self._dense_rows(b)
        assert dense is not None
        for stage in self.dense_stages:
            number = stage - self.tableau.stages
            combine(b, accumulator, b.buf.state, step_size, dense.a[number], rows)
            b.evaluate(_stage_time(b, dense.c[number], step_size, time), accumulator, rows[stage], into=dense.c[number])
        b.counter("dense").add()

    def between_weights(self, b: Body, theta: Jet, size: Jet) -> list[tuple[View, Jet]]:
        """What values between are sums of: arrays as long as the state, with the weight of each."""
        state, proposed, dense = b.buf.state, b.buf.proposed_state, self.tableau.dense
        if dense is None:
            before, product = theta - 1.0, theta * (theta - 1.0)
            end = theta + product * (1.0 - 2.0 * theta)
            slopes = [(self.start_rhs(b), product * before * size), (self._end_rhs(b), product * theta * size)]
            return [(state, 1.0 - end), (proposed, end), *slopes]
        share, weights = dense_weights(theta, size, dense.terms)
        rows = [(row, weight) for row, weight in zip(self._dense_rows(b), weights, strict=True) if weight is not None]
        return [(state, 1.0 - share), (proposed, share), *rows]

    @property
    def carried_rows(self) -> int:
        return 1

    def carried(self, b: Body) -> Sequence[View]:
        return (self.start_rhs(b),)

    def _adjoint_rows(self, b: Body) -> list[View]:
        """The cotangents of the stages' right-hand sides and of the dense output's, then that of the end of the step."""
        return [b.row(b.buf.stage_adjoint, number) for number in range(b.buf.stage_adjoint.size // b.states)]

    def between_adjoint(self, b: Body, theta: Jet, size: Jet, cotangent: View) -> tuple[dict[int, Scalar], dict[int, Scalar]]:
        weights = self.between_weights(b, theta, size)
        adjoints = self._between_adjoints(b)
        for (_, weight), adjoint in zip(weights, adjoints, strict=True):
            for order, value in weight.terms.items():
                for piece in b.lane.problem.pieces:
                    if piece.order & order != order:
                        continue
                    source, target = b.piece(cotangent, piece.order), b.piece(adjoint, piece.order & ~order)

                    def add(index: Any, value: Scalar = value, source: View = source, target: View = target) -> None:
                        target.store(index, b.emitter.fma(b.dtype, value.value, source.load(index), target.load(index)))

                    b.each(add, b.primal)
        if not b.lane.adjoint.orders:
            return {}, {}
        return tuple(self._moved(b, cotangent, number, theta, size) for number in (0, 1))  # pyright: ignore

    def _moved(self, b: Body, cotangent: View, number: int, theta: Jet, size: Jet) -> dict[int, Scalar]:
        """The cotangents of the terms of `theta` (number 0) or `size` (1)."""
        orders, beside = [piece.order for piece in b.lane.problem.pieces], 1 << b.lane.problem.depth
        changed = [theta, size]
        one = theta.terms[0].like(1.0)
        changed[number] = Jet({**changed[number].terms, beside: one})
        found: dict[int, Scalar] = {}
        for row, weight in self.between_weights(b, *changed):
            for order, value in weight.terms.items():
                if not order & beside:
                    continue
                for whole in orders:  # of the values
                    for rest in orders:  # of the row
                        moved = whole & ~rest & ~(order & ~beside)
                        if whole & rest != rest or (order & ~beside) & ~(whole & ~rest) or moved not in (0, *b.moving):
                            continue
                        total = value * dot(b, b.piece(cotangent, whole), b.piece(row, rest))
                        found[moved] = found[moved] + total if moved in found else total
        return found

    def _end_adjoint(self, adjoints: list[View]) -> View:
        """That of f at the end of the step."""
        return adjoints[self.tableau.stages - 1] if self.tableau.fsal else adjoints[-1]

    def _between_adjoints(self, b: Body) -> list[View]:
        """Those of the arrays of `between_weights`."""
        rows, own = self._adjoint_rows(b), self.dense_stages
        ends = [b.buf.start_adjoint, b.buf.adjoint]
        if self.tableau.dense is None:
            return [*ends, rows[0], self._end_adjoint(rows)]
        count = self.tableau.stages
        end = self._end_adjoint(rows)
        stages = [*rows[:count], *(rows[count + own.index(s)] if s in own else end for s in self._extra_stages)]
        weights = dense_shares(self.tableau.dense.terms)
        return [*ends, *(row for row, used in zip(stages, weights, strict=True) if used)]

    @property
    def _extra_stages(self) -> range:
        count = self.tableau.stages
        return range(count, count + len(self.tableau.dense.a if self.tableau.dense else ()))

    def clear_between(self, b: Body) -> None:
        b.put(points_inside=False)
        for view in (b.buf.stage_adjoint, b.buf.start_adjoint):
            b.each(lambda index, view=view: view.store(index, b.real(0)), view.size)

    def adjoint(self, lane: Lane) -> Callable:
        inside = lane.problem.dimensions().inside
        lane.cell("points_inside", "bool")

        @lane.emitted()
        def adjoint(b, t, h):
            tableau, count = self.tableau, self.tableau.stages
            rows, adjoints = [b.row(b.buf.stage_rhs, number) for number in range(count)], self._adjoint_rows(b)
            end, last = b.buf.adjoint, count - 1 if tableau.fsal else count
            if inside:
                with b.when(b.get("points_inside")):
                    self._adjoint_of_dense(b, t, h, adjoints)
            pulled: dict[int, View] = {}
            for stage in reversed(range(last)):
                weights = [tableau.b[stage], *(tableau.a[later - 1][stage] for later in pulled)]
                if not inside and not any(weights):
                    continue
                base = adjoints[stage] if inside else None
                combine(b, b.buf.stage_cotangent, base, h, weights, [end, *pulled.values()], transposed=True)
                self._pull(b, t, h, tableau.a[stage - 1] if stage else (), tableau.c[stage], rows, adjoints[stage])
                pulled[stage] = adjoints[stage]
            for order in b.lane.adjoint.orders:
                self._gather_size(b, order, end, tableau.b, rows)
            sources = [*pulled.values(), *([b.buf.start_adjoint] if inside else [])]

            def add(index: Any) -> None:
                total = end.load(index)
                for source in sources:
                    total = b.emitter.add(b.dtype, total, source.load(index))
                end.store(index, total)

            b.each(add)

        return adjoint

    def _pull(
        self, b: Body, time: Any, step_size: Any, weights: Sequence[Fraction], fraction: Fraction,
        rows: Sequence[View], into: View,
    ) -> None:
        """The cotangent of a stage's state, from that of its right-hand side in `stage_cotangent`."""
        state = b.buf.state
        if any(weights):
            state = b.buf.stage_accumulator
            combine(b, state, b.buf.state, step_size, weights, rows)
        self._pull_at(b, _stage_time(b, fraction, step_size, time), state, fraction, into)
        for order in b.lane.adjoint.orders:
            self._gather_size(b, order, into, weights, rows)

    def _pull_at(self, b: Body, since_t0: Any, state: View, fraction: Fraction | int, into: View) -> None:
        given = {**b.instant(since_t0, fraction), "y": state, "f*": b.buf.stage_cotangent}
        b.call("f_vjp", out=into_adjoints(b, "f_vjp", into), **given)
        for number, order in enumerate(b.lane.adjoint.orders):
            value = b.scalar(b.buf.time_adjoint.load(number))
            gather(b, **{f"t0_{order}": value, f"start_{order}": value, f"size_{order}": float(fraction) * value})

    def _gather_size(self, b: Body, order: int, cotangent: View, weights: Sequence[Fraction], rows: Sequence[View]) -> None:
        """Adds the share that the size of a step has in the cotangent of base + size * sum(weight * row)."""
        if not any(weights):
            return
        slope, total = b.buf.stage_cotangent, None
        combine(b, slope, None, b.real(1), weights, rows)
        for piece in b.lane.problem.pieces:
            if piece.order & order == order:
                part = dot(b, b.piece(cotangent, piece.order), b.piece(slope, piece.order & ~order))
                total = part if total is None else total + part
        gather(b, **{f"size_{order}": total})

    def _adjoint_of_dense(self, b: Body, time: Any, step_size: Any, adjoints: list[View]) -> None:
        """What only the dense output needs: f at the end of the step, and stages of its own."""
        tableau, count, rows = self.tableau, self.tableau.stages, self._dense_rows(b)
        dense, own = tableau.dense, self.dense_stages
        pulled: dict[int, View] = {}
        for stage in reversed(own):
            assert dense is not None
            row = adjoints[count + own.index(stage)]
            later = [dense.a[one - count] for one in pulled]
            weights = [weight[stage] if stage < len(weight) else Fraction(0) for weight in later]
            combine(b, b.buf.stage_cotangent, row, step_size, weights, list(pulled.values()), transposed=True)
            number = stage - count
            self._pull(b, time, step_size, dense.a[number], dense.c[number], rows, row)
            pulled[stage] = row
        # Their states are the step's beginning and right-hand sides of its stages.
        end = self._end_adjoint(adjoints)
        places = [*adjoints[:count], *(end if stage not in own else None for stage in self._extra_stages)]
        for stage, row in pulled.items():
            assert dense is not None
            for earlier, weight in enumerate(dense.a[stage - count]):
                place = places[earlier] if earlier < len(places) else None
                if weight and place is not None:
                    combine(b, place, place, step_size, [weight], [row], transposed=True)
            b.each(
                lambda index, row=row: b.buf.start_adjoint.store(
                    index, b.emitter.add(b.dtype, b.buf.start_adjoint.load(index), row.load(index))
                )
            )
        b.each(lambda index: b.buf.stage_cotangent.store(index, end.load(index)))
        self._pull_at(b, b.emitter.add(b.dtype, time, step_size), b.buf.proposed_state, 1, end)
        target = b.buf.adjoint
        b.each(lambda index: target.store(index, b.emitter.add(b.dtype, target.load(index), end.load(index))))

    def between(self, b: Body, theta: Any, step_size: Any) -> Callable[[Any], Any]:
        """The method's own dense output, or Hermite's cubic through the ends of the step."""
        state, proposed, dense = b.buf.state, b.buf.proposed_state, self.tableau.dense
        if dense is None:
            first, last = self.start_rhs(b), self._end_rhs(b)
            return lambda index: emit_hermite(b.emitter, theta, step_size, state, proposed, first, last, index)
        rows = self._dense_rows(b)
        share, weights = emit_dense_weights(b.emitter, b.dtype, theta, step_size, dense.terms)
        return lambda index: emit_dense(b.emitter, share, weights, state, proposed, rows, index)


def combine(
    b: Body, target: View, base: View | None, step_size: Any, weights: Sequence[Fraction], rows: Sequence[View],
    *, transposed: bool = False,
) -> None:
    """target = base + step_size * sum(weight * row), of as many components as the target has.

    Where the step size has tangents, those of the target have a share of them; transposed: where rows and target are
    cotangents, a share of those of the rows.
    """
    emitter, dtype = b.emitter, b.dtype
    used = [(b.real(float(weight)), row) for weight, row in zip(weights, rows, strict=False) if weight != 0]
    # Scaled weights cost a product each, a scaled sum one for each component; and only a weight that is a constant is part
    # of its instruction, which spares the register file a read.
    scale_weights = len(used) <= b.primal
    plain = used
    if scale_weights:
        used = [(emitter.mul(dtype, constant, step_size), row) for constant, row in used]

    def body(index: Any) -> None:
        total = base.load(index) if scale_weights and base is not None else None
        for constant, row in used:
            value = row.load(index)
            total = emitter.mul(dtype, constant, value) if total is None else emitter.fma(dtype, constant, value, total)
        if total is None:
            total = base.load(index) if base is not None else b.real(0)
        elif not scale_weights:
            if base is None:
                total = emitter.mul(dtype, step_size, total)
            else:
                total = emitter.fma(dtype, step_size, total, base.load(index))
        target.store(index, total)

    b.each(body, target.size)
    if base is None and not transposed:
        return
    for moved in b.moving:
        for order in b.orders_with(moved):

            def add(index: Any, moved: int = moved, order: int = order) -> None:
                total, others = None, order & ~moved
                for constant, row in plain:
                    value = b.piece(row, order if transposed else others).load(index)
                    total = emitter.mul(dtype, constant, value) if total is None else emitter.fma(dtype, constant, value, total)
                part = b.piece(target, others if transposed else order)
                part.store(index, emitter.fma(dtype, b.get(f"size_{moved}").value, total, part.load(index)))

            if plain:
                b.each(add, b.primal)


def dot(b: Body, one: View, other: View) -> Scalar:
    """The sum of the products of their elements."""
    total = b.variable(b.real(0))
    b.each(lambda index: total.set(b.emitter.fma(b.dtype, one.load(index), other.load(index), total.get())), one.size)
    return b.scalar(total.get())


def _stage_time(b: Body, fraction: Fraction, step_size: Any, time: Any) -> Any:
    return b.emitter.fma(b.dtype, b.real(float(fraction)), step_size, time)
