"""Lanes of scripted lengths, with and without a queue, and launches that tell what their scratch held."""

import ctypes

import jax
import numpy as np
from jax.extend.core import Primitive
from jax.interpreters import batching, mlir
from llvmlite import ir

from jax_cubie.kernel import custom_call, library
from jax_cubie.kernel.device import Device
from jax_cubie.kernel.lanes import compile_lanes
from jax_cubie.kernel.partition import QUEUE_COUNTER, Batched, lower_batched, result_avals, vary_alike
from jax_cubie.kernel.queue import Queue, pause
from jax_cubie.kernel.target import Image, Target
from jax_cubie.loop.addressing import Addressing
from jax_cubie.operands import Operand, Result, Words

OPERANDS = (Operand("length", (), "int32", (0,)), Operand("seed", (), "float32", (0,)))
RESULTS = (Result("value", (), "float32"), Result("steps", (), "int32"))


def scripted_image(target, *, queued, block):
    """Each lane takes `length` steps of x -> 3.7 x (1 - x) from its seed."""
    device = Device(target)
    words = Words(OPERANDS, RESULTS, 1, queued)
    memory = Addressing(words)
    queue = Queue(device, lanes=words.lanes, counter=words.counter, block=block)
    queued, idle, empty = queue.queued, queue.idle, queue.empty
    together, take, earn, wait = queue.together, queue.take, queue.earn, queue.wait

    @device.emitted("int32")
    def limit_of(emitter, steps, length):
        return pause(emitter, steps, length) if queued else length

    none = np.int32(0)

    def loaded(number):
        @device.emitted(OPERANDS[number].dtype)
        def load(emitter, values, lane):
            return memory.load(emitter, values, memory.bases(emitter, values, lane), number, 0)

        return load

    @device.emitted()
    def save(emitter, values, lane, value, steps):
        bases = memory.bases(emitter, values, lane)
        memory.store(emitter, values, bases, 0, 0, value)
        memory.store(emitter, values, bases, 1, 0, steps)

    @device.emitted("float32")
    def logistic(emitter, value):
        rest = emitter.sub("float32", emitter.constant("float32", 1), value)
        return emitter.mul("float32", emitter.mul("float32", emitter.constant("float32", 3.7), value), rest)

    @device.emitted("int32")
    def increment(emitter, value):
        return emitter.add("int32", value, emitter.constant("int32", 1))

    length_of, seed_of = loaded(0), loaded(1)

    @device.function
    def run(values, lane, thread, base):
        held, patience = idle, none
        while together(held):
            before = held
            held = take(values, held, lane, patience)
            if not queued or held > before:
                length, value, steps = length_of(values, held), seed_of(values, held), none
            if not queued or held >= 0:
                limit = limit_of(steps, length)
                while steps < limit:
                    value = logistic(value)
                    steps = increment(steps)
                if not queued or steps >= length:
                    save(values, held, value, steps)
                    held, patience = empty, earn(steps)
            else:
                patience = wait(patience)

    return compile_lanes(
        run, device, words=words.count, lanes=words.lanes, block=block, shared_bytes=0, queued=queued,
        dump=lambda suffix, text: None,
    )  # fmt: skip


def in_lanes(name, operands, results, image_of, launch, queued):
    """A primitive of one lane, and its batching and lowering."""
    primitive = Primitive(name)
    primitive.multiple_results = True

    def arrays(axes):
        levels = len(axes[0])
        taken = [Batched(one.shape, one.dtype, own, tuple(own)) for one, own in zip(operands, axes, strict=True)]
        return taken, [Batched(one.shape, one.dtype, one.axes(levels), one.layout(levels)) for one in results]

    primitive.def_abstract_eval(lambda *avals, axes: result_avals(avals, *arrays(axes)))

    def batch(values, new, axes):
        moved = [
            (*(a if a is None or axis is None or a < axis else a + 1 for a in own), axis)
            for own, axis in zip(axes, new, strict=True)
        ]
        return primitive.bind(*values, axes=tuple(moved)), [0] * len(results)

    batching.primitive_batchers[primitive] = batch
    for platform in ("cpu", "cuda"):

        def lower(context, *values, axes, platform=platform):
            taken, given = arrays(axes)
            scratch = [QUEUE_COUNTER] if queued(platform) else []
            return lower_batched(
                context, values, image_of(platform), operands=taken, results=given, words=[], launch=launch(platform),
                scratch=scratch,
            )  # fmt: skip

        mlir.register_lowering(primitive, lower, platform=platform)
    return lambda *values: primitive.bind(*vary_alike(values), axes=((),) * len(operands))


def scripted(target, *, queued, block, resident=256):
    """The function (length, seed) -> (value, steps) of one lane. On the host, `queued` needs votes of one thread."""
    image = scripted_image(target, queued=queued, block=block)
    numbers = [1, block] if target.platform == "cpu" else [-block, 1, 1, block, 1, 1, 0, resident if queued else 0]
    operands = [Operand(one.name, one.shape, one.dtype) for one in OPERANDS]
    return in_lanes(
        "scripted_lanes", operands, RESULTS, lambda platform: image, lambda platform: numbers,
        lambda platform: queued,
    )  # fmt: skip


def vote_alone(emitter, block, condition):
    """In place of `queue._ballot` on the host: a warp of one thread."""
    return emitter.cast(condition, "bool", "uint32")


def draw_alone(emitter, block, address, wanted):
    """In place of `queue._tickets` on the host."""
    pointer = emitter.builder.inttoptr(address, ir.PointerType(ir.IntType(64)))
    return emitter.builder.atomic_rmw("add", pointer, emitter.cast(wanted, "bool", "uint64"), "monotonic")


def counting():
    """A function of one lane, on the host: its number in the order in which the launch's lanes drew from the counter."""

    @ctypes.CFUNCTYPE(ctypes.c_int32, ctypes.c_int64, ctypes.c_int64, ctypes.POINTER(ctypes.c_int64))
    def entry(start, stop, words):
        out, counter = (ctypes.cast(words[number], ctypes.POINTER(kind)) for number, kind in COUNTED)
        for lane in range(start, stop):
            out[lane] = counter[0]
            counter[0] += 1
        return 0

    image = Image(Target("cpu"), b"counting lanes")
    custom_call.register()
    library.add_host_entry(library.encode(image.data)[0], ctypes.cast(entry, ctypes.c_void_p).value)
    made = in_lanes(
        "counting_lanes", [Operand("x", (), "float32")], [Result("number", (), "int32")], lambda platform: image,
        lambda platform: [1, 1 << 40], lambda platform: True,
    )  # fmt: skip
    made.entry = entry  # lives as long as the function
    return made


COUNTED = ((1, ctypes.c_int32), (2, ctypes.c_int64))


def random_lengths(count, seed=0):
    """Log-uniform from 1 to 3000."""
    return np.exp(np.random.default_rng(seed).uniform(0, np.log(3000), count)).astype(np.int32)


def logistic_maps(lengths, seeds):
    """What `scripted` computes."""
    values = seeds.copy()
    for step in range(int(lengths.max(initial=0))):
        values = np.where(step < lengths, np.float32(3.7) * values * (np.float32(1) - values), values)
    return values


def jitted(function):
    return jax.jit(jax.vmap(function))
