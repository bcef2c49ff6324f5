"""What formulas of elementary functions are made of: polynomials, tables, sums and products with their errors, rare cases."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import llvmlite.ir as ir

from .function_tables import CONSTANTS, POLYNOMIALS
from .scalar import Scalar

if TYPE_CHECKING:
    from .emitter import Emitter


def either(condition: Scalar, usual: Sequence[Scalar], rare: Callable[[], Sequence[Scalar]]) -> list[Scalar]:
    """`rare()` where the condition holds. Alone it is computed there only; in a vector loop always, and selected."""
    e, builder = condition.emitter, condition.emitter.builder
    before = builder.block
    # In a loop, what is unlikely would seem cheaper one by one than in a vector.
    with builder.if_then(condition.value, likely=None if e.in_loop else False):
        found = rare()
        inside = builder.block
    return [_joined(x, before, y, inside) for x, y in zip(usual, found, strict=True)]


def _joined(x: Scalar, before: Any, y: Scalar, inside: Any) -> Scalar:
    phi = x.emitter.builder.phi(x.value.type)
    phi.add_incoming(x.value, before)
    phi.add_incoming(y.value, inside)
    return Scalar(x.emitter, x.dtype, phi)


_LANES = (2, 4, 8, 16)
"""How many numbers the vectors have that `guarded` is written for."""


def _beyond(builder: Any, key: Any, limit: Any) -> Any:
    """Not key < limit, of floats, of integers without a sign, and of vectors."""
    kind = getattr(key.type, "element", key.type)
    limit = ir.Constant(key.type, limit if kind is key.type else [limit] * key.type.count)
    if isinstance(kind, ir.IntType):
        return builder.icmp_unsigned(">=", key, limit)
    return builder.fcmp_unordered(">=", key, limit)


def guarded(name: str, key: Scalar, limit: float, usual: Scalar, rare: Callable[..., Scalar], *arguments: Scalar) -> Scalar:
    """`usual` where key < limit (as an integer it has no sign), otherwise `rare(*arguments)`, which stands once in the module.

    In a loop it is a call, which LLVM replaces by that of a function of vectors: what is rare costs a vector without it
    one branch.
    """
    e, builder, given = usual.emitter, usual.emitter.builder, [x.value for x in arguments]
    if e.in_loop:
        chosen = _chosen(e, f"jax_cubie.guarded.{name}.{usual.dtype}", key.dtype, limit, usual.dtype, rare, arguments)
        return Scalar(e, usual.dtype, builder.call(chosen, [usual.value, key.value, *given]))
    before = builder.block
    with builder.if_then(_beyond(builder, key.value, limit), likely=False):
        found = builder.call(_rare(e, f"jax_cubie.guarded.{name}.{usual.dtype}", usual.dtype, rare, arguments), given)
        inside = builder.block
    return _joined(usual, before, Scalar(e, usual.dtype, found), inside)


def _function(module: ir.Module, symbol: str, result: ir.Type, kinds: Sequence[ir.Type]) -> tuple[ir.Function, ir.IRBuilder]:
    function = ir.Function(module, ir.FunctionType(result, kinds), symbol)
    function.linkage = "linkonce_odr"  # modules are linked, and one is enough
    for attribute in ("nounwind", "readnone", "noinline"):
        function.attributes.add(attribute)
    _attribute(function, "willreturn")  # a call whose result nobody uses goes
    return function, ir.IRBuilder(function.append_basic_block())


def _attribute(function: ir.Function, text: str) -> None:
    """An attribute that llvmlite does not know."""
    set.add(function.attributes, text)


def _rare(e: Emitter, symbol: str, dtype: str, rare: Callable[..., Scalar], arguments: Sequence[Scalar]) -> ir.Function:
    found = e.builder.module.globals.get(f"{symbol}.rare")
    if found is not None:
        return found
    kinds = [x.value.type for x in arguments]
    function, builder = _function(e.builder.module, f"{symbol}.rare", e.constant(dtype, 0).type, kinds)
    own = type(e)(builder, e.platform, keeps_numbers=True)
    builder.ret(rare(*[Scalar(own, x.dtype, value) for x, value in zip(arguments, function.args, strict=True)]).value)
    return function


def _chosen(e: Emitter, symbol: str, key_dtype: str, limit: float, dtype: str, rare: Callable[..., Scalar],
            arguments: Sequence[Scalar]) -> ir.Function:
    """A function of what is usual, the key and the arguments; and those of vectors beside it."""
    module = e.builder.module
    found = module.globals.get(symbol)
    if found is not None:
        return found
    far = _rare(e, symbol, dtype, rare, arguments)
    kinds = [e.constant(dtype, 0).type, e.constant(key_dtype, 0).type, *far.ftype.args]
    function, builder = _function(module, symbol, kinds[0], kinds)
    usual, key, *given = function.args
    with builder.if_then(_beyond(builder, key, limit), likely=False):
        builder.ret(builder.call(far, given, tail=True))
    builder.ret(usual)
    variants = []
    for lanes in _LANES:
        _vector_variant(function, far, lanes, limit)
        variants.append(f"_ZGV_LLVM_N{lanes}{'v' * len(kinds)}_{symbol}({symbol}.{lanes})")
    _attribute(function, f'"vector-function-abi-variant"="{",".join(variants)}"')
    return function


def _vector_variant(function: ir.Function, far: ir.Function, lanes: int, limit: float) -> None:
    module, symbol, i64 = function.module, f"{function.name}.{lanes}", ir.IntType(64)
    kinds = [ir.VectorType(kind, lanes) for kind in function.ftype.args]

    one_by_one, builder = _function(module, f"{symbol}.each", kinds[0], kinds)
    one_by_one.attributes.add("minsize")
    places = [builder.alloca(kind) for kind in kinds]
    for place, value in zip(places, one_by_one.args, strict=True):
        builder.store(value, place)
    head, end = builder.append_basic_block(), builder.append_basic_block()
    before = builder.block
    builder.branch(head)
    builder.position_at_end(head)
    index = builder.phi(i64)
    index.add_incoming(i64(0), before)
    elements = [builder.gep(builder.bitcast(place, kind.element.as_pointer()), [index], inbounds=True)
                for place, kind in zip(places, kinds, strict=True)]
    key, *given = [builder.load(element) for element in elements[1:]]
    # Not a call of `function`: that might be made one of a vector again.
    with builder.if_then(_beyond(builder, key, limit)):
        builder.store(builder.call(far, given), elements[0])
    following = builder.add(index, i64(1))
    index.add_incoming(following, builder.block)
    builder.cbranch(builder.icmp_unsigned("<", following, i64(lanes)), head, end)
    builder.position_at_end(end)
    builder.ret(builder.load(places[0]))

    vector, builder = _function(module, symbol, kinds[0], kinds)
    vector.linkage = "weak_odr"  # until a loop is vectorised nothing calls it, and it has to stay
    beyond, word = _beyond(builder, vector.args[1], limit), ir.IntType(lanes)
    with builder.if_then(builder.icmp_unsigned("!=", builder.bitcast(beyond, word), word(0)), likely=False):
        builder.ret(builder.call(one_by_one, vector.args, tail=True))
    builder.ret(vector.args[0])


_ROOM = 128


def kept(e: Emitter, value: Any, dtype: str) -> Any:
    """A constant float from an array in which the function that is written has all of its own, so that one address serves them.

    In far-reaching code each would have an address of eight bytes among the instructions.
    """
    function = e.builder.function
    module, symbol = e.builder.module, f"{function.name}.constants.{dtype}"
    array = module.globals.get(symbol)
    if array is None:
        array = ir.GlobalVariable(module, ir.ArrayType(value.type, _ROOM), symbol)
        # What might be another one's array when linked is not known to LLVM, which would take the numbers apart again.
        array.linkage, array.global_constant = "linkonce", True
        array.initializer = ir.Constant(array.value_type, [value.type(0)] * _ROOM)
    numbers: list[ir.Constant] = array.initializer.constant  # pyright: ignore[reportOptionalMemberAccess] set above
    place = next(k for k, x in enumerate(numbers) if x.constant in (value.constant, 0))
    numbers[place] = value
    i64 = ir.IntType(64)
    return e.builder.load(e.builder.gep(array, [i64(0), i64(place)], inbounds=True))


def tables_scope(module: ir.Module) -> Any:
    """Metadata of loads from tables ("alias.scope"), and of loads from and stores to anything else ("noalias").

    Without it LLVM takes a store for one that may change a table, and does not vectorise the loop around.
    """
    domain = module.add_metadata([ir.MetaDataString(module, "jax_cubie")])
    return module.add_metadata([module.add_metadata([ir.MetaDataString(module, "tables"), domain])])


def lookup(name: str, dtype: str, rows: Sequence[Sequence[float]], index: Scalar) -> list[Scalar]:
    """Row `index` of a table, which stands once in the module."""
    e, builder, columns = index.emitter, index.emitter.builder, len(rows[0])
    table = builder.module.globals.get(f"jax_cubie.table.{name}")
    if table is None:
        numbers = [e.constant(dtype, number) for row in rows for number in row]
        table = ir.GlobalVariable(builder.module, ir.ArrayType(numbers[0].type, len(numbers)), f"jax_cubie.table.{name}")
        table.linkage, table.global_constant = "linkonce_odr", True
        table.initializer = ir.Constant(table.value_type, numbers)
    zero, begin = ir.Constant(ir.IntType(64), 0), index.to("uint64") * columns
    places = [builder.gep(table, [zero, (begin + k).value], inbounds=True) for k in range(columns)]
    values = [builder.load(place) for place in places]
    for value in values:
        value.set_metadata("alias.scope", tables_scope(builder.module))
    return [Scalar(e, dtype, value) for value in values]


def fma(x: Scalar, y: Any, z: Any) -> Scalar:
    return Scalar(x.emitter, x.dtype, x.emitter.fma(x.dtype, x.value, x.like(y).value, x.like(z).value))


def sqrt(x: Scalar) -> Scalar:
    return x._apply("sqrt")


def rint(x: Scalar) -> Scalar:
    return x._apply("rint")


def copysign(x: Scalar, sign: Scalar) -> Scalar:
    return x._apply("copysign", sign)


def polynomial(x: Scalar, coefficients: Sequence[Any]) -> Scalar:
    """Estrin's scheme: pairs, then pairs of pairs."""
    terms = list(coefficients)
    while len(terms) > 1:
        pairs = [fma(x, high, low) for low, high in zip(terms[::2], terms[1::2], strict=False)]
        terms = pairs + terms[len(terms) - len(terms) % 2 :]
        x = x * x if len(terms) > 1 else x
    return terms[0]


def table(name: str, x: Scalar) -> Scalar:
    """A polynomial of the tables at x."""
    return polynomial(x, POLYNOMIALS[name][x.dtype])


def constant(name: str, x: Scalar) -> tuple[float, ...]:
    return CONSTANTS[name][x.dtype]


def two_sum(x: Scalar, y: Scalar) -> tuple[Scalar, Scalar]:
    """x + y, and what rounding took (D. E. Knuth, The art of computer programming 2, 4.2.2)."""
    total = x + y
    part = total - x
    return total, (x - (total - part)) + (y - part)


def quick_two_sum(x: Scalar, y: Scalar) -> tuple[Scalar, Scalar]:
    """The same where x is 0 or not the smaller one (T. J. Dekker, Numer. Math. 18, 1971)."""
    total = x + y
    return total, (x - total) + y


def two_product(x: Scalar, y: Any) -> tuple[Scalar, Scalar]:
    product = x * y
    return product, fma(x, y, -product)
