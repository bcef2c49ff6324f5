"""What goes wrong inside of a function of the user's, said in the words that the user wrote.

While such a function is traced, JAX and NumPy speak of tracers and conversions; here are the line, what stands there, and what
to write in its place.
"""

from __future__ import annotations

import ast
import builtins
import contextlib
import dis
import functools
import importlib
import inspect
import linecache
import os
import re
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

_NOT_THE_USERS = (str(Path(__file__).parent), os.path.dirname(os.__file__))  # this package, and Python's library
# First arguments that are a state, and second ones that are the time, whoever wrote them.
_STATES, _TIMES = {"y", "Y", "u", "U", "state"}, {"t", "time"}
# Of Python's math, and of NumPy and SciPy: what goes by another name in JAX.
_RENAMED = {
    "math.pow": "jnp.power", "math.fabs": "jnp.abs", "math.ceil": "jnp.ceil", "math.erf": "jax.scipy.special.erf",
    "math.erfc": "jax.scipy.special.erfc", "math.gamma": "jax.scipy.special.gamma", "math.lgamma": "jax.scipy.special.gammaln",
    "math.isclose": "jnp.isclose", "math.dist": "jnp.linalg.norm", "math.fsum": "jnp.sum", "math.prod": "jnp.prod",
    "builtins.max": "jnp.maximum", "builtins.min": "jnp.minimum", "builtins.sum": "jnp.sum", "builtins.sorted": "jnp.sort",
    "builtins.any": "jnp.any", "builtins.all": "jnp.all",
}  # fmt: skip
# What to write where nothing in particular is known, by JAX's error: those in front are kinds of the last.
_ADVICE: dict[type[Exception], str] = {
    jax.errors.TracerBoolConversionError: "write jnp.where(condition, a, b) or jax.lax.cond in place of if; &, | and ~ in "
    "place of and, or and not",
    jax.errors.TracerIntegerConversionError: "index a jnp.array in place of a list; count with jax.lax.fori_loop; or let f "
    "close over a Python number, which it knows, in place of one in args",
    jax.errors.NonConcreteBooleanIndexError: "write jnp.where(mask, array, other), which keeps the shape",
    jax.errors.TracerArrayConversionError: "use functions of jax.numpy in place of NumPy's",
    jax.errors.ConcretizationTypeError: "leave out float(), int(), .item() and .tolist(), for which x.astype(dtype) stands; "
    "where a number decides on a shape, it has to be a Python number that f closes over, none in args",
}
_MEASURED = (
    "give solve drivers=jax_cubie.Driver(ts, values, kind='linear'), say, whose value at t is a last argument of f; or use "
    "jnp.interp"
)
# Operands that an operation can't have, and what to write. The first row that fits counts.
_OPERANDS: tuple[tuple[str, str], ...] = (
    ("NoneType", "what is used there is None: give args=, or return what is meant"),
    ("not callable", "an array or a number is no function, as none in args stays one"),
    ("has no attribute", "what y and args hold in f are JAX's arrays: use their methods, and functions of jax.numpy"),
    ("0-d array", "a scalar has no items: give an array of them in y0 or args, jnp.array([...]), or leave out the unpacking"),
    ("list|tuple|sequence", "a list in y0 or args is one in f, too: give one array, jnp.array([...])"),
    ("dict", "a dict in y0 or args is one in f, too: take an item, or map over all of them with jax.tree.map"),
    ("", "these are for arrays and numbers"),
)
_BAD_OPERANDS = re.compile(
    r"unsupported operand type|not supported between instances|object is not callable|can only concatenate|"
    r"bad operand type for|can't multiply sequence|Tracer has no attribute|iteration over a 0-d array|NoneType'? object"
)

# What JAX says where it can't differentiate: what that means, and what to write. The first row that fits counts.
_FORWARDS = "or ask for a forward derivative (jax.jvp, jax.jacfwd)"
_OWN_RULE = "give the function that holds it a derivative of its own with jax.custom_jvp"
_UNDERIVED: tuple[tuple[str, str, str], ...] = (
    ("does not work for lax.while_loop", "a loop whose number of turns is not known can't be differentiated in reverse",
     "give fori_loop Python numbers as its ends, use jax.lax.scan of a fixed length with jnp.where for the turns that are too "
     f"many, hold an iteration in jax.lax.custom_root, {_FORWARDS}"),
    ("to a custom_vjp function", "a function with a jax.custom_vjp has no forward derivative",
     "write it with jax.custom_jvp, which serves both, or ask for a reverse derivative (jax.vjp, jax.grad)"),
    ("allbacks do not support JVP", "what calls back into Python can't be differentiated", "remove the callback"),
    ("if `unique_indices=True`", "x.at[i].mul(z) has a derivative only where no index comes twice",
     "say so, x.at[i].mul(z, unique_indices=True), or multiply the gathered elements and set them"),
    ("with respect to a and b not supported", "betainc has no derivative by its first two arguments",
     "wrap them into jax.lax.stop_gradient where they are constants"),
    ("scatter_apply", "x.at[i].apply(g) has no derivative", "write x.at[i].set(g(x[i]))"),
    ("for composite not implemented", "a jax.lax.composite has no derivative", "call the function itself"),
)


class FieldError(TypeError):
    """A function of the user's can't be traced as it is written; the message says where, and what to write instead.

    operands: whether it is an operation that has operands which it can't have.
    """

    operands = False


def check_signature(function: Callable[..., Any], called: str, arguments: int = 3) -> None:
    """Raises FieldError where `function` can't be called with so many arguments, or where it takes the state first.

    `called` is how it is called, as in "f(t, y, args)".
    """
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # some callables have none
        return
    names = [p.name for p in signature.parameters.values() if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    plain = [p.replace(annotation=p.empty) for p in signature.parameters.values()]
    shown = signature.replace(parameters=plain, return_annotation=signature.empty)
    given = f"{getattr(function, '__name__', type(function).__name__)}{shown}"
    if names and names[0] in _STATES and _TIMES & set(names[1:3]):
        raise FieldError(f"{given} takes the state first, but is called as {called}: put the time first, and the state second")
    try:
        signature.bind(*(None,) * arguments)
    except TypeError:
        hint = "; it is a class: give an object of it" if isinstance(function, type) else ""
        if called.endswith(", args, u)") and len(names) < arguments:
            hint = ", the last of which are the values of drivers="
        elif called.endswith(", args)") and len(names) > arguments:
            hint = ", several parameters in args as one tuple"
            hint += "; a last one is the values of drivers=, which are not given" * (len(names) == arguments + 1)
        raise FieldError(f"{given} is called as {called}: it has to take {arguments} arguments{hint}") from None


def call_field(
    function: Callable[..., Any], called: str, flatten: Callable[[Any], Any], t: Any, y: Any, *others: Any
) -> Any:
    """`flatten(function(t, y, *others))`. Raises FieldError where that fails for a reason that is known here.

    flatten: raises ValueError for what is no derivative of y.
    """
    try:
        with in_our_words(called.partition("(")[0]):
            return flatten(function(t, y, *others))
    except Exception as error:
        if isinstance(error, RecursionError) or (isinstance(error, FieldError) and not error.operands):
            raise
        if _fits(function, flatten, t, y, *others):
            raise FieldError(
                f"{called} fails ({_first_line(error.__cause__ or error)}), but with time and state the other way round it "
                "gives what a derivative of y0 looks like. Was it written for odeint, state first? Here the time comes first"
            ) from error
        raise


def _fits(function: Callable[..., Any], flatten: Callable[[Any], Any], t: Any, y: Any, *others: Any) -> bool:
    """Whether `function` gives a derivative of y with the first two arguments exchanged."""
    if jax.tree.structure(y) == jax.tree.structure(t) and jnp.shape(y) == jnp.shape(t):
        return False  # that would be the same trace again
    try:
        jax.eval_shape(lambda t, y: flatten(function(y, t, *others)), t, y)
    except Exception:
        return False
    return True


def _first_line(error: BaseException) -> str:
    return str(error).partition("\n")[0].rstrip(".") or type(error).__name__


@contextlib.contextmanager
def in_our_words(what: str) -> Iterator[None]:
    """Raises FieldError for JAX's and NumPy's errors about values that are not known while `what` is traced, and for derivative
    rules that were never given."""
    try:
        yield
    except FieldError:
        raise
    except Exception as error:
        if isinstance(error, AttributeError) and "defined for custom_" in str(error):
            step = _users_step(error.__traceback__)
            where = "" if step is None else f" {_place(step)}"
            raise FieldError(
                f"{what} calls a function whose derivative rule is missing{where}: JAX says: {_first_line(error)}. Instead: "
                "give it one (defjvp of a jax.custom_jvp, defvjp of a jax.custom_vjp), or leave that decorator out"
            ) from error
        advice = _advice(error)
        if advice is None:
            if (mistake := _mistake(error)) is None:
                raise
            found = FieldError(f"{what} fails{mistake}")
            found.operands = True
            raise found from error
        where, instead = advice
        raise FieldError(
            f"{what} is traced, so that its arrays have shapes and no values yet, but it asks for values {where}. "
            f"Instead: {instead}"
        ).with_traceback(error.__traceback__) from None


@contextlib.contextmanager
def in_derivative_words(what: str, *, reverse: bool) -> Iterator[None]:
    """Raises FieldError for JAX's errors about what has no derivative while `what` is differentiated, with the user's line.

    It is for a function that has been traced: `jax.jvp` or `jax.vjp` of `jax.extend.core.jaxpr_as_fun(closed)`. What a rule of
    the user's raises (jax.custom_jvp, jax.custom_vjp) stays as it is, but for what `in_our_words` knows.
    """
    try:
        with in_our_words(f"a derivative rule in {what}"):
            yield
    except FieldError:
        raise
    except Exception as error:
        if _users_step(_below_the_caller(error.__traceback__)) is not None:
            raise  # the user's rule was running
        known = next((row[1:] for row in _UNDERIVED if row[0] in str(error)), None)
        equation = _equation(error)
        if known is None and equation is None:
            raise  # not while an operation of f's was differentiated
        words = f"JAX says: {_first_line(error)}" if str(error) else "JAX has no derivative for what stands there"
        said, instead = known or (words, f"leave it out of {what}, or {_OWN_RULE}")
        where = f" {_place(equation)}" if equation is not None else ""
        raise FieldError(
            f"{what} can't be differentiated {'in reverse' if reverse else 'forwards'}{where}: {said}. Instead: {instead}"
        ) from error


def _below_the_caller(step: types.TracebackType | None) -> types.TracebackType | None:
    """What a traceback has below the function that entered a context manager of this module."""
    while step is not None and step.tb_frame.f_code.co_filename in (__file__, contextlib.__file__):
        step = step.tb_next
    return step and step.tb_next


def _equation(error: BaseException) -> types.TracebackType | None:
    """The user's step that made the operation at hand, which JAX hands on as an error's cause."""
    seen: set[int] = set()
    cause = error.__cause__ or error.__context__
    while cause is not None and id(cause) not in seen:
        seen.add(id(cause))
        if type(cause).__name__ == "JaxStackTraceBeforeTransformation":
            return _users_step(cause.__traceback__)
        cause = cause.__cause__ or cause.__context__
    return None


def _place(step: types.TracebackType) -> str:
    code, written = step.tb_frame.f_code, _written(step)
    return f"at {code.co_filename}:{step.tb_lineno} ({code.co_qualname})" + (f", `{written}`" if written else "")


def _advice(error: Exception) -> tuple[str, str] | None:
    """Where the user's line stands and what to write there; None where the error is of another kind."""
    kinds, text = jax.errors, str(error)
    generic = next((advice for kind, advice in _ADVICE.items() if isinstance(error, kind)), None)
    if generic is None:
        if isinstance(error, ValueError) and "setting an array element" in text:
            generic = _ADVICE[kinds.TracerArrayConversionError]
        elif isinstance(error, ValueError) and "truth value of an array" in text:
            generic = _ADVICE[kinds.TracerBoolConversionError]
        elif isinstance(error, TypeError) and "Shapes must be 1D sequences of concrete values" in text:
            generic = _ADVICE[kinds.ConcretizationTypeError]
        elif isinstance(error, TypeError) and ("unhashable type" in text and "Tracer'" in text or "Tracer.__format__" in text):
            generic = "a traced value is no key of a dict or a set, and prints no number"
        else:
            return None
    step = _users_step(error.__traceback__)
    if step is None:
        return "in a package", generic
    where, written = _place(step), _written(step)
    if any(os.path.join("scipy", "interpolate") in frame.f_code.co_filename for frame in _frames(step)):
        return where, _MEASURED
    if _stores(step):
        return where.removesuffix("`") + " = ...`", (
            "an array of NumPy's can't hold traced values: stack the components, jnp.stack([...]), or begin with jnp.zeros and "
            "write dy = dy.at[i].set(value)"
        )
    replaced = _replacements(written, {**vars(builtins), **step.tb_frame.f_globals, **step.tb_frame.f_locals})
    if replaced:
        return where, "write " + ", ".join(f"{ours} in place of {theirs}" for theirs, ours in replaced.items())
    return where, generic


def _frames(step: types.TracebackType | None) -> Iterator[types.FrameType]:
    """Those of a traceback, from the outermost on."""
    while step is not None:
        yield step.tb_frame
        step = step.tb_next


def _mistake(error: Exception) -> str | None:
    """Where a function of the user's has operands that it can't have, which, and what to write; None where it is another."""
    step, text = _users_step(error.__traceback__), _first_line(error)
    where = ": " if step is None else f" {_place(step)}: "
    if type(error).__module__.partition(".")[0] == "numba":
        return (
            f"{where}Numba can't compile a function for JAX's arrays. Instead: leave numba's decorators out, and write it with "
            "jax.numpy: it is compiled here"
        )
    if step is None or not isinstance(error, (TypeError, AttributeError)) or not _BAD_OPERANDS.search(text):
        return None
    said = re.sub(r"'?\b\w+Tracer\b'?", "an array", text).replace("an array object", "an array")
    return f"{where}{said}. Instead: {next(instead for words, instead in _OPERANDS if re.search(words, text))}"


def _users_step(step: types.TracebackType | None) -> types.TracebackType | None:
    """The innermost step of a traceback that stands in no installed package."""
    found = None
    while step is not None:
        name = step.tb_frame.f_code.co_filename
        if installed_package(name) is None and not name.startswith(_NOT_THE_USERS):
            found = step
        step = step.tb_next
    return found


def installed_package(file_name: str) -> str | None:
    """The package that a file belongs to, if that is one that was installed; None for the user's own."""
    path = Path(file_name)
    if not path.is_absolute():  # as "<stdin>" is
        return None
    places = zip(path.parents, (path, *path.parents), strict=False)
    return next((package.name for folder, package in places if _holds_packages(folder)), None)


@functools.cache
def _holds_packages(folder: Path) -> bool:
    """Whether packages are installed into a folder, which may have any name (`pip install --target`)."""
    return folder.name in ("site-packages", "dist-packages") or next(folder.glob("*.dist-info"), None) is not None


def _written(step: types.TracebackType) -> str:
    """The source of the instruction that failed, where it is known and stands on one line."""
    first, last, start, end = list(step.tb_frame.f_code.co_positions())[step.tb_lasti // 2]
    if first is None or first != last:
        return ""
    line = linecache.getline(step.tb_frame.f_code.co_filename, first)
    return line.encode()[start:end].decode(errors="replace").strip()


def _stores(step: types.TracebackType) -> bool:
    """Whether the instruction was an assignment to an element."""
    code = step.tb_frame.f_code.co_code
    return dis.opname[code[step.tb_lasti]] in ("STORE_SUBSCR", "STORE_SLICE")


def _replacements(written: str, names: dict[str, Any]) -> dict[str, str]:
    """For each function of NumPy, SciPy or math that is called there: JAX's, where it has one."""
    try:
        tree = ast.parse(written, mode="eval")
    except SyntaxError:
        return {}
    found: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and (ours := _in_jax(_resolve(node.func, names))) is not None:
            # Python's max and min of one argument go through its items.
            folds = len(node.args) == 1 and ours in ("jnp.maximum", "jnp.minimum")
            found[ast.unparse(node.func)] = ours.removesuffix("imum") if folds else ours
    return found


def _resolve(node: ast.expr, names: dict[str, Any]) -> str:
    """The full name of the function that a dotted name stands for, as "numpy.linalg.norm"; "" where it is none."""
    if isinstance(node, ast.Name):
        value = names.get(node.id)
        if isinstance(value, types.ModuleType):
            return value.__name__
        module = getattr(value, "__module__", None) or type(value).__module__  # NumPy's compiled functions have none
        return f"{module}.{getattr(value, '__name__', '')}"
    if isinstance(node, ast.Attribute) and (above := _resolve(node.value, names)):
        return f"{above}.{node.attr}"
    return ""


def _in_jax(name: str) -> str | None:
    """What JAX calls a function of NumPy, SciPy, math or Python's own; None where it has none."""
    if name in _RENAMED:
        return _RENAMED[name]
    library, *path = name.split(".")
    path = [part for part in path if not part.startswith("_")]
    home = {"numpy": "jax.numpy", "math": "jax.numpy", "scipy": "jax.scipy"}.get(library)
    if home is None or not path:
        return None
    try:
        module = importlib.import_module(".".join((home, *path[:-1])))
    except ImportError:
        return None
    return ".".join((home.replace("jax.numpy", "jnp"), *path)) if hasattr(module, path[-1]) else None
