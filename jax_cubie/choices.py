"""What a solver chooses: its components, each with settings of its own, in one flat namespace of keywords."""

from __future__ import annotations

from typing import Any

import equinox as eqx
from jaxtyping import Array, Int

from .buffers import BufferRegistry
from .controllers import CONTROLLERS, Named, Tolerances
from .foreign_names import instead_of_controller, instead_of_method, plain
from .loop.buffers import BUFFERS
from .methods import AUTO, NAMES, TABLEAUS, Method, Tableau, components_of, family_of, find_method, is_stiff
from .problem import DEFAULT_MAX_STEPS, PARTS
from .settings import Component, as_python, check_choice, check_count, check_most_steps, closest, refuse_tracer
from .times import count


class Budget(Component):
    """max_steps: the most steps of a lane, accepted and rejected together."""

    max_steps: Int[Array, ""] | int = DEFAULT_MAX_STEPS

    def __check_init__(self) -> None:
        check_most_steps("max_steps", self.max_steps)

    def operands(self, state: Any) -> dict[str, Any]:
        return {"max_steps": count("max_steps", self.max_steps)}


class Code(Component):
    """How machine code is made: `Solver` says what each means."""

    fastmath: bool = eqx.field(static=True, default=False, converter=as_python)
    unroll: int | str = eqx.field(static=True, default="auto", converter=as_python)
    inline_f: bool | str = eqx.field(static=True, default="auto", converter=as_python)
    schedule: str = eqx.field(static=True, default="auto")
    block: int | str = eqx.field(static=True, default="auto", converter=as_python)
    checkpoints: int = eqx.field(static=True, default=32, converter=as_python)
    directions: int = eqx.field(static=True, default=8, converter=as_python)

    def __check_init__(self) -> None:
        check_choice("fastmath", self.fastmath, (True, False))
        _check_automatic("unroll", self.unroll)
        check_choice("inline_f", self.inline_f, (True, False, "auto"))
        check_choice("schedule", self.schedule, ("auto", "static", "queue"))
        if (_check_automatic("block", self.block) or 0) > 1024:
            raise ValueError(f"block={self.block}: expected at most 1024, the most threads of a CUDA block")
        check_count("directions", self.directions, 1)
        slots = check_count("checkpoints", self.checkpoints, 2)
        if slots & (slots - 1) or slots > 2**20:
            raise ValueError(f"checkpoints={slots}: expected a power of two, at most 2**20: they are thinned by halves")

    def operands(self, state: Any) -> dict[str, Any]:
        return {}


def _check_automatic(name: str, value: Any) -> int | None:
    """The count that is given, None where it is "auto"."""
    if not isinstance(value, str):
        return check_count(name, value, 1)
    if value != "auto":
        raise ValueError(f"{name}={value!r}: expected an integer of at least 1, or 'auto'")
    return None


def resolve(old: Any, method: str | Tableau, settings: dict[str, Any]) -> dict[str, Any]:
    """The fields of a solver: `settings` over those of the solver `old`, or over the defaults where that is None."""
    if method == AUTO and "auto" in settings:
        settings = {**settings, "auto": _known_pair(settings["auto"])}
    given = frozenset(settings) | (old.given if old is not None else frozenset())
    kept = {type(component): component for component in (old.components if old is not None else ())}

    def component(kind: type[Component]) -> Component:
        return kept.get(kind) or kind()

    of_method = components_of(method, lambda kind: component(kind).update(**settings)[0])
    stepper = find_method(method, {type(one): one for one in of_method})
    controller = _controller_name(old, given, settings, stepper)
    named = CONTROLLERS[controller]

    control = component(named.component)
    if old is not None:
        control, _ = control.update(**{name: value for name, value in old.settings().items() if name in old.given})
    if old is None or old.controller != controller:
        control, _ = control.update(**{name: value for name, value in named.coefficients.items() if name not in given})
    adapting = (component(Tolerances),) if named.adaptive else ()
    registry = BufferRegistry((*BUFFERS, *(buffer for part in PARTS for buffer in part.buffers()), *stepper.buffers()))
    if old is not None:
        registry, _ = registry.update(**old.buffers.settings)

    components, known = [], {"controller"}
    for one in (component(Budget), *adapting, control, *of_method, component(Code)):
        changed, recognised = one.update(**settings)
        components.append(changed)
        known |= recognised
    registry, moved = registry.update(**settings)
    unknown = sorted(name for name in settings if name not in known | moved)
    everything = {"method", "controller", *registry.settings}
    everything |= {name for one in components for name in one.settings()}
    if unknown:
        raise ValueError(_unknown(unknown[0], controller, method, everything))
    lost = sorted(given - everything)
    if lost:
        raise ValueError(
            f"{lost[0]} was set, but method {method!r} with controller {controller!r} has no such setting: make a new Solver "
            f"without it, or keep the method and controller that it belongs to"
        )
    return {
        "method": method,
        "controller": controller,
        "components": tuple(components),
        "buffers": registry,
        "given": given,
    }


def known_method(method: Any) -> str | Tableau:
    """A tableau as it is; of a name, the method's own where an alias was given."""
    refuse_tracer("method", method)
    if isinstance(method, TABLEAUS):
        return method
    if isinstance(method, str) and method in NAMES:
        return NAMES[method]
    if isinstance(method, str) and (ours := {plain(name): own for name, own in NAMES.items()}.get(plain(method))) is not None:
        raise ValueError(f"method {method!r} is called {ours!r} here: write method={ours!r}")
    if (instead := instead_of_method(method)) is not None:
        raise ValueError(instead)
    raise ValueError(f"unknown method {method!r}{closest(method, NAMES) or '.'} {_listed_methods()}")


def _known_pair(pair: Any) -> tuple[str | Tableau, ...]:
    """The same of the two methods that `auto` names."""
    refuse_tracer("auto", pair)
    if not isinstance(pair, (tuple, list)) or len(pair) != 2:
        expected = "expected two methods, an explicit one and one for stiff systems, as ('tsit5', 'rodas5p')"
        raise ValueError(f"auto={pair!r}: {expected}")
    return tuple(map(known_method, pair))


def _listed_methods() -> str:
    """Every method's name, a line for each family."""
    families: dict[tuple[bool, str], list[str]] = {}
    for name in dict.fromkeys(NAMES.values()):
        families.setdefault((is_stiff(name), family_of(name)), []).append(name)
    lines = [f"  {family}{', for stiff systems' * stiff}: {', '.join(names)}" for (stiff, family), names in families.items()]
    tableaus = ", ".join(f"jax_cubie.{kind.__name__}" for kind in TABLEAUS)
    return "\n".join([f"Expected a tableau ({tableaus}) or one of:", *lines])


def _controller_name(
    old: Any, given: frozenset[str], settings: dict[str, Any], stepper: Method
) -> str:
    if "controller" in settings:
        name = settings["controller"]
    elif "controller" in given and old is not None:
        name = old.controller
    else:
        return "pid" if stepper.error_rows else "fixed"
    if (instead := instead_of_controller(name)) is not None:
        raise ValueError(instead)
    check_choice("controller", name, CONTROLLERS)
    if CONTROLLERS[name].adaptive and not stepper.error_rows:
        raise ValueError(
            f"controller={name!r} needs an error estimate, and method {stepper.name!r} has none: use "
            "controller='fixed' with dt0, or a method with an embedded one, as 'tsit5'"
        )
    return name


def _unknown(name: str, controller: str, method: str | Tableau, known: set[str]) -> str:
    if name == "auto":
        return f"auto names the two methods of method={AUTO!r}, and this solver's is {method!r}: leave it out, or take that"
    for other, named in CONTROLLERS.items():
        if name in _settings_with(named):
            return (
                f"{name} is a setting of controller {other!r}, and this solver's is {controller!r} (method {method!r}): "
                f"leave it out, or take controller={other!r} and a method that it can steer"
            )
    for other in ("rodas5p", "kvaerno5"):
        if any(name in component.settings() for component in components_of(other, lambda kind: kind())):
            return (
                f"{name} is a setting of methods like {other!r}, and this solver's is {method!r}: leave it out, or take "
                f"method={other!r}"
            )
    near = closest(name, known) or "."
    return f"unknown setting {name!r}{near} The settings here are: {', '.join(sorted(known))}"


def _settings_with(named: Named) -> set[str]:
    """The settings that come with a controller."""
    kinds = (named.component, Tolerances) if named.adaptive else (named.component,)
    return {name for kind in kinds for name in kind().settings()}
