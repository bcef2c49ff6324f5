"""A batched call of an image, on one device or split over several.

Lanes are independent: where a batch is sharded over a mesh, each device runs its share of the lanes, where they lie. XLA's
partitioner splits a custom call whose target is registered as batch partitionable: all operands and results have the
batch's dimensions in front, and are split there alike. What has fewer dimensions than the batch is not split.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import itertools
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.core
import jax.numpy as jnp
import numpy as np
from jax.extend.mlir import ir, lower_with_sharding_in_types
from jax.extend.mlir.dialects import sdy, stablehlo
from jax.interpreters import mlir
from jax.sharding import NamedSharding, PartitionSpec

from .custom_call import lower
from .target import Image

# A queue's counter (`Queue`), as `scratch` of a launch: 64 bits, in words of 32 so that it needs no jax_enable_x64.
QUEUE_COUNTER = ((2,), "uint32")


@dataclasses.dataclass(frozen=True)
class Batched:
    """One array of a batched call.

    shape and dtype are one lane's. `axes` has an entry for each level of vmap, innermost first: where that level's axis
    stands in the whole array, None if the array does not have it; a result has every level, scratch none. `layout` names the
    whole array's dimensions from fastest to slowest. `unwritten`: what a result holds before the launch; None: anything.
    grain: so many neighbours of the innermost level share one place along its axis.
    """

    shape: tuple[int, ...]
    dtype: str
    axes: tuple[int | None, ...]
    layout: tuple[int, ...]
    unwritten: Any = None
    grain: int = 1

    @property
    def levels(self) -> list[int]:
        """The levels that it has, outermost first."""
        return [level for level in reversed(range(len(self.axes))) if self.axes[level] is not None]

    @property
    def order(self) -> list[int]:
        """The whole array's dimensions: those of the levels, outermost first, then the lane's own."""
        batch = [axis for level in self.levels if (axis := self.axes[level]) is not None]
        return batch + [axis for axis in range(len(self.shape) + len(batch)) if axis not in batch]

    def whole(self, own: Sequence[Any], batch: Sequence[Any]) -> tuple[Any, ...]:
        """An entry for each dimension: `own` of the lane's, `batch` of the levels', innermost first."""
        entries = [*(batch[level] for level in self.levels), *own]
        return tuple(entries[self.order.index(axis)] for axis in range(len(entries)))


def _sources(operands: Sequence[Batched], levels: int) -> list[tuple[int, int]]:
    """For each level, an operand that has it, and where."""
    return [
        next((number, axis) for number, one in enumerate(operands) if (axis := one.axes[level]) is not None)
        for level in range(levels)
    ]


def result_avals(avals: Sequence[Any], operands: Sequence[Batched], results: Sequence[Batched]) -> list[Any]:
    """What JAX is to know of the results: their shapes; on an explicit mesh, that they are sharded as the operands are;
    inside of `shard_map`, that they vary as the operands do, which `vary_alike` has made vary alike."""
    levels = len(results[0].axes)
    sizes = [avals[number].shape[axis] for number, axis in _sources(operands, levels)]
    like = next((aval for aval in avals if not aval.sharding.mesh.empty), None)
    if like is None:
        return [jax.core.ShapedArray(one.whole(one.shape, sizes), np.dtype(one.dtype)) for one in results]
    specs = _level_specs(avals, operands, levels)
    made = []
    for one in results:
        spec = PartitionSpec(*one.whole([None] * len(one.shape), specs))
        sharding = NamedSharding(like.sharding.mesh, spec)
        shape = one.whole(one.shape, sizes)
        made.append(like.update(shape=shape, dtype=np.dtype(one.dtype), weak_type=False, sharding=sharding))
    return made


def _level_specs(avals: Sequence[Any], operands: Sequence[Batched], levels: int) -> list[Any]:
    """Over which axes of an explicit mesh each level is sharded. No axis can serve two levels: the outer one has it."""
    specs: list[Any] = [None] * levels
    taken: set[str] = set()
    for level in reversed(range(levels)):
        for aval, operand in zip(avals, operands, strict=True):
            axis = operand.axes[level]
            spec = None if axis is None or aval.sharding.mesh.empty else aval.sharding.spec[axis]
            names = spec if isinstance(spec, tuple) else () if spec is None else (spec,)
            if names and taken.isdisjoint(names):
                specs[level] = spec
                taken.update(names)
                break
    return specs


def vary_alike(arrays: Sequence[Any]) -> list[Any]:
    """Inside of `shard_map`, the arrays as values that vary over every mesh axis that one of them varies over."""
    axes = [varying(jax.typeof(array)) for array in arrays]
    union = frozenset().union(*axes)
    return [
        jax.lax.pcast(array, tuple(sorted(union - own)), to="varying") if union - own else array
        for array, own in zip(arrays, axes, strict=True)
    ]


def varying(aval: Any) -> frozenset[str]:
    """The mesh axes that such an array varies over, inside of `shard_map`."""
    kind = getattr(aval, "manual_axis_type", None)  # JAX 0.9 says it in another way
    return aval.vma if kind is None else kind.varying


def as_of_one_device() -> contextlib.AbstractContextManager[Any]:
    """In it, functions of a lane are traced inside of `shard_map` as they are outside. The types of what they close over would
    say else over which mesh axes that varies, and derivatives, which are made of the functions alone, would not fit them."""
    try:
        from jax._src import config  # private: where this JAX has it not, such derivatives fail as JAX says

        return config._check_vma(False)
    except (ImportError, AttributeError):
        return contextlib.nullcontext()


def join(parts: Sequence[jax.Array]) -> jax.Array:
    """One-dimensional arrays, one behind the other.

    Under vmap over an axis that is sharded over an explicit mesh, `jnp.concatenate` fails where one of them is of no mesh,
    as constants are: each is brought to the mesh of the others by a choice that is always the same.
    """
    if len({jax.typeof(part).sharding.mesh.empty for part in parts}) > 1:
        others = functools.reduce(jnp.add, [jnp.sum(part) for part in parts])
        parts = [jnp.where(True, part, others) for part in parts]
    return parts[0] if len(parts) == 1 else jnp.concatenate(parts)


def lower_batched(
    context: Any,
    values: Sequence[Any],
    image: Image,
    *,
    operands: Sequence[Batched],
    results: Sequence[Batched],
    words: Sequence[int],
    launch: Sequence[int],
    scratch: Sequence[tuple[tuple[int, ...], str]] = (),
) -> list[Any]:
    """The custom call that runs `image` for every lane, inside a lowering rule of JAX.

    The entry is handed the pointers, the number of lanes, the size of each level, innermost first, and `words`. For `launch`
    see `custom_call.lower`. scratch: shape and dtype of arrays that a launch has to itself, all 0 when it begins; their
    pointers follow those of the results. A result without any level each launch has to itself, too: of several devices it has
    those in front, one place for each along each level, and a launch has one behind the other as many as its share of the
    lanes is of all.
    """
    levels = len(results[0].axes)
    results = [*results, *(Batched(*one, (None,) * levels, tuple(reversed(range(len(one[0])))), 0) for one in scratch)]
    outputs = [*context.avals_out, *(jax.core.ShapedArray(shape, np.dtype(dtype)) for shape, dtype in scratch)]
    sources = _sources(operands, levels)
    sizes = [context.avals_in[number].shape[axis] for number, axis in sources]
    filled = [number for number, result in enumerate(results) if result.unwritten is not None]
    devices = devices_of(context)
    # Symbolic sizes are not split but gathered: an export for several devices.
    whole = devices == 1 or levels == 0 or not all(isinstance(size, int) for size in sizes)
    if whole:
        contents = [_full(context, outputs[number], results[number].unwritten) for number in filled]
        found = lower(
            context.replace(avals_in=[*context.avals_in, *(outputs[number] for number in filled)], avals_out=outputs),
            [*values, *contents],
            image,
            batch=[0, *itertools.chain(*sources)],
            words=words,
            launch=launch,
            operand_layouts=[*(operand.layout for operand in operands), *(results[number].layout for number in filled)],
            result_layouts=[result.layout for result in results],
            filled=filled,
        )
    else:
        taken = [_form(operand, sizes, devices) for operand in operands]
        given = [_form(result, sizes, devices, split=True) for result in results]
        arrays = [_split(*one) for one in zip(values, operands, taken, strict=True)]
        # One operand stands in front once more, for its sharding alone: the partitioner asks the first where not all are
        # sharded alike, as those without a batch axis are not.
        first = max(range(len(operands)), key=lambda number: len(operands[number].levels))
        taken = [taken[first], *taken, *(given[number] for number in filled)]
        contents = [_full(context, given[number].aval, results[number].unwritten) for number in filled]
        arrays = [arrays[first], *arrays, *contents]
        found = lower(
            context.replace(avals_in=[form.aval for form in taken], avals_out=[form.aval for form in given]),
            arrays,
            image,
            batch=[1, *itertools.chain(*((1 + number, levels - level) for level, (number, _) in enumerate(sources)))],
            words=words,
            launch=launch,
            operand_layouts=[form.layout for form in taken],
            result_layouts=[form.layout for form in given],
            filled=filled,
            attributes=_attributes(taken, given, sizes),
        )
        found = [_join(value, result) if result.levels else value for value, result in zip(found, results, strict=True)]
    known = zip(found[: len(context.avals_out)], context.avals_out, results, strict=False)
    return [
        lower_with_sharding_in_types(context, value, aval) if whole or result.levels else value for value, aval, result in known
    ]


def _full(context: Any, aval: Any, value: Any) -> Any:
    """An array that holds `value` everywhere."""
    make = mlir.lower_fun(lambda: jnp.full(aval.shape, value, aval.dtype), multiple_results=False)
    return make(context.replace(avals_in=[], avals_out=[aval]))[0]


def devices_of(context: Any) -> int:
    """How many devices the partitioner may split the computation over: inside of `shard_map` it is split already."""
    axes = context.module_context.axis_context
    if (mesh := getattr(axes, "mesh", None)) is not None:
        return math.prod(size for name, size in mesh.shape.items() if name not in axes.manual_axes)
    return getattr(axes, "num_devices", 1)


@dataclasses.dataclass(frozen=True)
class _Form:
    """How the partitioner takes an array.

    In front stand a dimension of 1 and those of the levels, outermost first. An operand that lacks some levels has copies
    there, one for each device, of which each device's share keeps at least one; further ones lie behind it, where no lane
    reads. An operand without any level is flat, and so has fewer dimensions than the batch, as the one of 1 sees to; scratch
    is not, so that each device has its own.
    """

    aval: Any
    layout: tuple[int, ...]
    places: tuple[int, ...]  # where the dimensions of `Batched.order` stand; none of a flat one


def _form(array: Batched, sizes: Sequence[int], devices: int, split: bool = False) -> _Form:
    if not array.levels and not split:
        return _Form(jax.core.ShapedArray((math.prod(array.shape),), np.dtype(array.dtype)), (0,), ())
    levels = len(sizes)
    batch = [size if level in array.levels else min(size, devices) for level, size in enumerate(sizes)]
    batch[0] //= array.grain
    # With a dimension behind the batch's at least: else the partitioner takes no sharding from it.
    shape = (1, *reversed(batch), *(array.shape or (1,)))
    places = [levels - level for level in array.levels] + [levels + 1 + axis for axis in range(len(array.shape))]
    layout = [places[array.order.index(axis)] for axis in array.layout]
    layout += [place for place in range(len(shape)) if place not in layout]
    return _Form(jax.core.ShapedArray(shape, np.dtype(array.dtype)), tuple(layout), tuple(places))


def _split(value: Any, array: Batched, form: _Form) -> Any:
    """The operand in that form. All but copies are bitcasts: the layout says where the elements lie."""
    kind = ir.RankedTensorType.get(form.aval.shape, ir.RankedTensorType(value.type).element_type)
    if not form.places:
        order = tuple(reversed(array.layout))
        return stablehlo.reshape(kind, value if order == tuple(range(len(order))) else stablehlo.transpose(value, order))
    return stablehlo.broadcast_in_dim(kind, stablehlo.transpose(value, array.order), form.places)


def _join(value: Any, array: Batched) -> Any:
    """The result, out of that form."""
    kind = ir.RankedTensorType(value.type)
    own = kind.shape[1 : 1 + len(array.order)]
    value = stablehlo.reshape(ir.RankedTensorType.get(own, kind.element_type), value)
    return stablehlo.transpose(value, [array.order.index(axis) for axis in range(len(array.order))])


def _attributes(operands: Sequence[_Form], results: Sequence[_Form], sizes: Sequence[int]) -> dict[str, Any]:
    """What the partitioner and, in front of it, the propagation of shardings (Shardy) have to know."""
    levels = len(sizes)
    attributes = {"mhlo.frontend_attributes": ir.DictAttr.get({"num_batch_dims": ir.StringAttr.get(str(levels + 1))})}
    if not getattr(jax.config, "jax_use_shardy_partitioner", True):
        return attributes
    factors = list(reversed(sizes))  # a level is one factor for all arrays, any other dimension is a factor by itself

    def mapping(form: _Form) -> Any:
        numbers = []
        for place, size in enumerate(form.aval.shape):
            if form.places and 1 <= place <= levels:
                number = place - 1
                factors[number] = min(factors[number], size)
            else:
                number = len(factors)
                factors.append(size)
            numbers.append(number)
        return sdy.TensorMappingAttr.get([sdy.DimMappingAttr.get([number]) for number in numbers])

    mappings = [[mapping(form) for form in forms] for forms in (operands, results)]
    attributes["sdy.sharding_rule"] = sdy.OpShardingRuleAttr.get(factors, *mappings, is_custom=True)
    return attributes
