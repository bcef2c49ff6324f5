"""What a kernel function is, by content: its bytecode, and every constant, cell and global that Numba freezes into it.

Found without importing Numba. Two functions of equal content give equal machine code, in this process or another.
"""

from __future__ import annotations

import dataclasses
import dis
import enum
import functools
import hashlib
import inspect
import itertools
import sys
from types import BuiltinFunctionType, CodeType, FunctionType, ModuleType
from typing import Any

import numpy as np

# A name says what these hold: their versions are part of every key.
_KNOWN_MODULES = {"numba", "numpy", "math", "cmath", "operator", "builtins", "llvmlite"}
_PLAIN = (bool, int, str, bytes, type(None), type(Ellipsis))

_identities: dict[int, tuple[int, Any]] = {}  # the object is kept, so that no other takes its id
_identity_counter = itertools.count()


@dataclasses.dataclass(frozen=True)
class Content:
    """`digest` stands for a function's content. `lasting` is False where it means something in this process only."""

    digest: str
    lasting: bool = dataclasses.field(compare=False)  # may end meanwhile: a helper was compiled for another kernel


@dataclasses.dataclass(frozen=True)
class CodeReport:
    """What one code object names, and what it does that a kernel may not."""

    names: tuple[tuple[bool, str, tuple[str, ...]], ...]  # is it a global, its name, the attributes read from it
    raises: int | None  # the line of a `raise` or `assert`
    batch_index: str | None  # "blockIdx.z" or "gridDim.z", where it reads that


def function_content(function: Any, *, name: str, extra: object = None) -> Content:
    """The content of a plain function, and of all it calls. `extra` is plain data that goes in with it.

    Raises ValueError for a `raise` or an `assert` in it, and for a read of blockIdx.z or gridDim.z, which are the
    batch's.
    """
    walk = _Walk(name)
    described = walk.function(function)
    digest = hashlib.sha256(repr((sys.version_info[:2], np.__version__, extra, described)).encode()).hexdigest()
    return Content(digest, walk.lasting)


def plain_function(function: Any) -> Any:
    """The Python function behind a dispatcher of Numba's; `function` itself where it is none."""
    return getattr(function, "py_func", function)


class _Walk:
    def __init__(self, kernel: str):
        self.kernel = kernel
        self.seen: dict[int, int] = {}
        self.lasting = True

    def function(self, function: FunctionType) -> tuple:
        if id(function) in self.seen:
            return ("again", self.seen[id(function)])
        self.seen[id(function)] = len(self.seen)
        cells = dict(zip(function.__code__.co_freevars, function.__closure__ or (), strict=True))
        return (
            "function",
            function.__module__,
            function.__qualname__,  # it stands in symbols
            self.code(function.__code__, function.__globals__, cells),
            self.value(function.__defaults__),
            self.value(tuple(sorted((function.__kwdefaults__ or {}).items()))),
        )

    def code(self, code: CodeType, module: dict[str, Any], cells: dict[str, Any]) -> tuple:
        report = code_report(code)
        if report.raises is not None:
            raise ValueError(
                f"kernel_call of {self.kernel}: line {report.raises} of {code.co_filename} raises (so does an assert). A "
                "raise in a kernel compiles and says nothing at run time: write a status into a result and check that"
            )
        if report.batch_index is not None:
            raise ValueError(
                f"kernel_call of {self.kernel}: {code.co_name} reads {report.batch_index}, but the grid's third "
                "dimension is the batch of jax.vmap; a kernel has grid x and y"
            )
        named = []
        for is_global, name, attributes in report.names:
            if is_global:
                found = module.get(name, _MISSING)
                if found is _MISSING:
                    builtins = module.get("__builtins__", {})
                    known = builtins if isinstance(builtins, dict) else vars(builtins)
                    described = ("builtin", name) if name in known else ("undefined", name)
                    named.append((name, attributes, described))
                    continue
            elif name in cells:
                try:
                    found = cells[name].cell_contents
                except ValueError:
                    named.append((name, attributes, ("empty",)))
                    continue
            else:
                continue  # a variable of the enclosing function, whose own code says what it is
            named.append((name, attributes, self.attribute(found, attributes)))
        return (
            "code",
            code.co_code,
            tuple(
                self.code(constant, module, cells) if isinstance(constant, CodeType) else self.value(constant)
                for constant in code.co_consts
            ),
            code.co_names,
            code.co_varnames,
            code.co_freevars,
            code.co_cellvars,
            (code.co_argcount, code.co_posonlyargcount, code.co_kwonlyargcount, code.co_flags),
            getattr(code, "co_exceptiontable", b""),
            tuple(named),
        )

    def attribute(self, found: Any, attributes: tuple[str, ...]) -> tuple:
        """What reading `attributes` from a global gives: modules are followed into."""
        path = []
        while isinstance(found, ModuleType) and attributes:
            path.append(found.__name__)
            if _root(found.__name__) in _KNOWN_MODULES:
                return ("known", found.__name__, attributes)
            found = getattr(found, attributes[0], _MISSING)
            attributes = attributes[1:]
        return (*path, self.value(found))

    def value(self, value: Any) -> tuple:
        kind = type(value)
        if kind in _PLAIN:
            return (kind.__name__, repr(value))
        if kind is float:
            return ("float", value.hex())
        if kind is complex:
            return ("complex", value.real.hex(), value.imag.hex())
        if isinstance(value, np.generic) and not value.dtype.hasobject:
            return ("scalar", value.dtype.str, value.tobytes())
        if isinstance(value, np.ndarray) and not value.dtype.hasobject:
            order = "F" if value.flags.f_contiguous and not value.flags.c_contiguous else "C"
            return ("array", value.dtype.str, value.shape, order, hashlib.sha256(value.tobytes()).hexdigest())
        if isinstance(value, np.dtype):
            return ("dtype", str(value))
        if isinstance(value, enum.Enum):
            return ("enum", kind.__module__, kind.__qualname__, value.name, self.value(value.value))
        if isinstance(value, enum.EnumMeta):
            return ("enum type", value.__module__, value.__qualname__, tuple(self.value(m.value) for m in value))
        if isinstance(value, (tuple, list)):
            return (kind.__module__, kind.__qualname__, getattr(value, "_fields", ()), tuple(map(self.value, value)))
        if isinstance(value, frozenset):
            return ("frozenset", tuple(sorted(repr(self.value(item)) for item in value)))
        if isinstance(value, ModuleType):
            if _root(value.__name__) not in _KNOWN_MODULES:
                self.lasting = False  # used in a way that the bytecode does not show
            return ("module", value.__name__)
        return self.callable(value)

    def callable(self, value: Any) -> tuple:
        inner = getattr(value, "py_func", None)
        if isinstance(inner, FunctionType):  # one of Numba's dispatchers
            if _root(inner.__module__) in _KNOWN_MODULES:
                return ("known", inner.__module__, inner.__qualname__)
            return ("dispatcher", type(value).__qualname__, self.options(value), self.function(inner))
        definition = getattr(value, "_defn", None)
        if isinstance(definition, FunctionType) and _root(definition.__module__) not in _KNOWN_MODULES:
            self.lasting = False  # an intrinsic: its code may reach objects of any kind
            return ("intrinsic", self.function(definition), self.identity(value))
        module = getattr(value, "__module__", None)
        name = getattr(value, "__qualname__", None) or getattr(value, "__name__", None)
        if isinstance(module, str) and isinstance(name, str) and _root(module) in _KNOWN_MODULES:
            return ("known", module, name)
        if isinstance(value, FunctionType):
            # What stands for it in a kernel may be an overload, written elsewhere.
            return ("overloaded", self.function(value), self.identity(value))
        if isinstance(value, BuiltinFunctionType):
            return ("builtin", str(module), str(name))
        if any(base.__module__.startswith("numba.") and base.__name__ == "Type" for base in type(value).__mro__):
            return ("numba type", str(value))
        return self.identity(value)

    def options(self, dispatcher: Any) -> tuple:
        """How one of Numba's dispatchers was made: its options, its variables' types, and the signatures it is kept to."""
        options = getattr(dispatcher, "targetoptions", {})
        kept_to = ()
        if not getattr(dispatcher, "_can_compile", True):
            kept_to = tuple(str(compiled.signature) for compiled in dispatcher.overloads.values())
        variables = getattr(dispatcher, "locals", None) or {}
        if getattr(dispatcher, "overloads", None) and reads_data(dispatcher.py_func):
            self.lasting = False  # compiled before, maybe with what its globals were then
        return (
            tuple((name, self.value(options[name])) for name in sorted(options)),
            tuple((name, str(variables[name])) for name in sorted(variables)),
            kept_to,
        )

    def identity(self, value: Any) -> tuple:
        """A key for what has no content that can be told: this very object, in this process."""
        self.lasting = False
        if id(value) not in _identities:
            _identities[id(value)] = (next(_identity_counter), value)
        return ("object", _identities[id(value)][0])


_MISSING = object()


def _root(module: str | None) -> str:
    return (module or "").partition(".")[0]


def reads_data(function: FunctionType) -> bool:
    """Whether a global or a closure's variable that it names is data: not a module, a function or a class."""
    cells = inspect.getclosurevars(function)
    named = (*cells.globals.values(), *cells.nonlocals.values())
    return any(not isinstance(value, ModuleType | type) and not callable(value) for value in named)


@functools.lru_cache(maxsize=4096)
def code_report(code: CodeType) -> CodeReport:
    """Reads a code object's instructions."""
    names, raises, batch_index, line = {}, None, None, code.co_firstlineno
    instructions = list(dis.get_instructions(code))
    for position, instruction in enumerate(instructions):
        started = instruction.starts_line
        if isinstance(started, int) and not isinstance(started, bool):
            line = started
        else:  # from 3.13 on that is a flag
            line = getattr(instruction, "line_number", None) or line
        name = instruction.opname
        if name == "RAISE_VARARGS":
            raises = raises or line
        is_global = name in ("LOAD_GLOBAL", "LOAD_NAME")
        if is_global or name in ("LOAD_DEREF", "LOAD_CLASSDEREF", "LOAD_FROM_DICT_OR_DEREF"):
            attributes = []
            for following in instructions[position + 1 :]:
                if following.opname not in ("LOAD_ATTR", "LOAD_METHOD"):
                    break
                attributes.append(following.argval)
            names[(is_global, instruction.argval, tuple(attributes))] = None
            chain = (instruction.argval, *attributes)
            for first, second in itertools.pairwise(chain):
                if first in ("blockIdx", "gridDim") and second == "z":
                    batch_index = f"{first}.z"
    return CodeReport(tuple(names), raises, batch_index)
