"""What people print: solvers that can be typed in again, solutions that count their lanes, an image's report."""

import html.parser
import re

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from solve_helpers import lorenz

from jax_cubie import RESULTS, ButcherTableau, SaveAt, Solver, methods, solve
from jax_cubie.buffers import BufferRegistry, Slot
from jax_cubie.inspection import Inspection
from jax_cubie.kernel.occupancy import Occupancy, occupancy

Y0 = np.array([1.0, 0.0, 0.0], np.float32)
kutta3 = ButcherTableau(
    "kutta3", order=3, a=[["1/2"], [-1, 2]], b=["1/6", "2/3", "1/6"], b_embedded=[0, 1, 0], embedded_order=2
)


# --- Solver and SaveAt


@pytest.mark.parametrize(
    ("line", "solver"),
    [
        ("Solver('tsit5')", Solver()),
        ("Solver('rk4')", Solver("rk4")),
        ("Solver('dopri5', rtol=1e-08, state_location='shared')", Solver("rk45", state_location="shared", rtol=1e-8)),
        ("Solver('tsit5', controller='fixed')", Solver(controller="fixed")),
        ("Solver('tsit5', controller='pi42', safety=0.8)", Solver(controller="pi42", safety=0.8, icoeff=0.4)),
        ("Solver('tsit5', pcoeff=0.4, icoeff=0.3)", Solver(controller="pid", pcoeff=0.4, icoeff=0.3)),
        ("Solver('tsit5', max_steps=50, fastmath=True, block=64)", Solver(block=64, fastmath=True, max_steps=50)),
        ("Solver('tsit5', atol=np.inf, dtmax=0.5)", Solver(dtmax=np.float32(0.5), atol=jnp.float32(np.inf))),
        ("Solver('tsit5', factormax=np.inf)", Solver(factormax=float("inf"))),
        ("Solver(kutta3, atol=0.001)", Solver(kutta3, atol=np.float32(1e-3))),
        ("Solver('tsit5', rtol=0.001)", Solver(rtol=jnp.float32(1e-3))),
        ("Solver('tsit5', atol=np.array([0.5, 1. ], 'float32'))", Solver(atol=np.array([0.5, 1.0], np.float32))),
        ("Solver('tsit5', atol={'a': 0.1, 'b': np.array([1, 2], 'int32')})", Solver(atol={"b": jnp.array([1, 2]), "a": 0.1})),
    ],
)
def test_a_solver_is_a_line_that_can_be_typed_in(line, solver):
    assert repr(solver) == str(solver) == line
    again = eval(line, {"Solver": Solver, "np": np, "kutta3": kutta3})
    assert repr(again) == line
    ours, others = (jax.tree.flatten(one.settings()) for one in (again, solver))
    assert ours[1] == others[1]
    for one, other in zip(ours[0], others[0], strict=True):
        assert one == other if isinstance(one, (str, ButcherTableau)) else np.allclose(one, other, rtol=1e-7, atol=0)


def test_every_solver_of_defaults_is_its_name():
    for method in methods():
        assert repr(Solver(method["name"])) == f"Solver({method['name']!r})"


def test_methods_are_a_table():
    lines = repr(methods()).splitlines()
    assert lines[0].split() == list(methods()[0]) and lines[0].startswith("name ")
    assert len(lines) == 1 + len(methods())
    assert len({line.find("DIRK") for line in lines if "DIRK" in line}) == 1
    named = {line.split()[0]: line.split() for line in lines}
    assert named["euler"] == ["euler", "explicit", "Runge-Kutta", "-", "1", "-", "3", "1", "-"]
    assert named["bosh3"] == "bosh3 rk23, ode23, bs3 explicit Runge-Kutta - 3 2 3 4 yes".split()
    assert named["kvaerno5"] == ["kvaerno5", "DIRK", "yes", "5", "4", "3", "7", "yes"]
    assert repr(type(methods())()) == "[]"


def test_solvers_with_what_cannot_be_typed():
    assert repr(Solver(atol=jnp.linspace(0.0, 2.0, 100))) == "Solver('tsit5', atol=<float32[100], from 0 to 2>)"
    seen = []
    jax.jit(lambda rtol: seen.append(repr(Solver(rtol=rtol))) or rtol)(1e-3)
    jax.vmap(lambda rtol: seen.append(repr(Solver(rtol=rtol))) or rtol)(jnp.ones(3))
    assert seen == ["Solver('tsit5', rtol=<traced float32[]>)"] * 2
    assert "rtol=None" in repr(jax.tree.map(lambda _: None, Solver()))


def test_a_module_prints_the_solver_in_it():
    class Model(eqx.Module):
        rate: float
        solver: Solver

    assert "solver=Solver('dopri5', rtol=0.001)\n" in repr(Model(1.0, Solver("rk45", rtol=1e-3)))


def test_save_at():
    assert repr(SaveAt(t1=True)) == "SaveAt(t1=True)"
    assert repr(SaveAt(ts=[1.0], side="right")) == "SaveAt(ts=np.array([1.], 'float64'), side='right')"
    assert repr(SaveAt(ts=[1.0], side=[False])) == "SaveAt(ts=np.array([1.], 'float64'), side=np.array([False], 'bool'))"
    whole = SaveAt(ts=np.array([0.5, 1.0]), steps=2, fn=lorenz)
    assert repr(whole) == "SaveAt(ts=np.array([0.5, 1. ], 'float64'), steps=2, fn=lorenz)"


# --- RESULTS


def test_results_can_be_listed():
    names = ["successful", "max_steps_reached", "dt_min_reached", "step_size_underflow", "not_finite", "invalid_input"]
    names += ["singular_matrix", "nonlinear_divergence", "linear_divergence", "event_occurred", "events_accumulate"]
    names += ["inconsistent_initial_state", "steady_state_not_reached"]
    assert list(RESULTS.__members__) == names and len(RESULTS) == len(list(RESULTS)) == len(names)
    for name, result in zip(names, RESULTS, strict=True):
        assert isinstance(result, RESULTS) and bool(result == getattr(RESULTS, name) == RESULTS.__members__[name])
        assert name in dir(RESULTS) and (RESULTS[result] != "") == (name != "successful")

    class More(RESULTS):
        out_of_luck = "There was none left."

    assert list(More.__members__) == [*names, "out_of_luck"]
    assert bool(More.promote(RESULTS.not_finite) == More.not_finite)


# --- Solution


def swept(lanes):
    limits = jnp.where(jnp.arange(lanes) % 7 == 3, 5, 1000)
    saveat = SaveAt(ts=jnp.linspace(0.0, 1.0, 5))
    run = jax.vmap(lambda rho, limit: solve(lorenz, 0.0, 1.0, Y0, rho, max_steps=limit, saveat=saveat))
    return run(jnp.linspace(0.0, 21.0, lanes), limits)


def test_one_lane():
    lines = repr(solve(lorenz, 0.0, 1.0, Y0, 28.0)).splitlines()
    assert lines[0] == "Solution of one lane" and lines[1] == "  ended   successful"
    assert re.fullmatch(r"  steps   \d+ \(\d+ accepted, \d+ rejected\)", lines[2])
    assert lines[3:] == ["  t0, t1  0 to 1", "  ts      float32[1], all 1", "  ys      float32[1, 3]"]


def test_many_lanes_are_counted():
    solution = swept(1001)
    steps = np.asarray(solution.stats["num_steps"])
    lines = repr(solution).splitlines()
    assert lines[:2] == ["Solution of 1,001 lanes", "  ended   858 successful, 143 max_steps_reached"]
    assert lines[2].startswith(f"  steps   {steps.min()} to {steps.max()} (")
    assert lines[4:] == ["  ts      float32[1001, 5], from 0 to 1", "  ys      float32[1001, 5, 3]"]
    one, none = (repr(jax.tree.map(lambda leaf, n=n: leaf[:n], solution)).splitlines() for n in (1, 0))
    assert one[:2] == ["Solution of 1 lane", "  ended   1 successful"]
    assert none[:2] == ["Solution of 0 lanes", "  ended   none of none"]


def test_nested_lanes_and_pytrees():
    field = lambda t, y, rate: {"a": -rate * y["a"], "b": y["b"]}  # noqa: E731
    run = lambda rate, t1: solve(field, 0.0, t1, {"a": jnp.ones(2), "b": jnp.ones(())}, rate)  # noqa: E731
    solution = jax.vmap(jax.vmap(run, (0, None)), (None, 0))(jnp.ones(3), jnp.array([1.0, 2.0]))
    said = repr(solution)
    assert said.startswith("Solution of 6 lanes (2 x 3)\n") and "\n  t0, t1   0 to 1 .. 2\n" in said
    assert said.endswith("ys['a']  float32[2, 3, 1, 2]\n  ys['b']  float32[2, 3, 1]")
    assert repr(jax.tree.map(lambda leaf: leaf[0, 0], solution)).startswith("Solution of one lane\n")


def test_rows_that_were_not_needed_count_for_nothing():
    solution = solve(lorenz, 0.0, 1.0, Y0, 28.0, saveat=SaveAt(steps=True), max_steps=90)
    assert re.search(r"ts      float32\[90\], from 0\.\d+ to 1\n", repr(solution))


def test_solutions_without_values():
    """Traced, as shapes, filtered, mapped, deleted: they print what there is."""
    seen = []

    def run(rho):
        solution = solve(lorenz, 0.0, 1.0, Y0, rho)
        seen.append(repr(solution))
        return solution

    whole = jax.jit(jax.vmap(run))(jnp.ones(4))
    assert seen[0].startswith("Solution of one lane, traced\n  ended   not known while it is traced\n  t0, t1  float32[]")
    assert repr(jax.eval_shape(jax.vmap(run), jnp.ones(4))).endswith("ys      float32[4, 1, 3]")
    for other in (
        eqx.filter(whole, lambda _: False),
        jax.tree.map(lambda leaf: leaf.shape, whole),
        jax.tree.map(lambda leaf: leaf == 0, whole),
        jax.tree.map(lambda leaf: None, whole),
        jax.tree.map(np.asarray, whole),
        jax.tree.map(lambda leaf: leaf[:0], whole),
    ):
        assert repr(other).startswith("Solution of ") and other._repr_html_().startswith("<table>")
    sizes = jax.ShapeDtypeStruct(jax.export.symbolic_shape("lanes"), jnp.float32)
    jax.make_jaxpr(lambda rho: seen.append(repr(jax.vmap(run)(rho))) or rho)(sizes)
    assert seen[-1].startswith("Solution of lanes lanes, traced\n") and "ts      float32[lanes, 1]" in seen[-1]
    jax.tree.map(lambda leaf: leaf.delete(), whole)
    assert "ended   not known here" in repr(whole)
    assert "lanes" in f"{[swept(8)]}"


# --- Inspection


def inspect(target="cuda:90", f=lorenz, y0=Y0, args=28.0, saveat=None, derivative=None, **settings):
    saveat = saveat or SaveAt(t1=True)
    return Solver(**settings).inspect(f, 0.0, 1.0, y0, args, target=target, saveat=saveat, derivative=derivative)


def test_report_of_a_cuda_image():
    found = inspect(stage_rhs_location="shared")
    lines = str(found).splitlines()
    assert lines[0] == "lorenz: 3 states of float32 by tsit5, for cuda:90"
    assert lines[1] == f"  registers  {found.registers} a thread, none spilled" and lines[2] == "  stack      none"
    assert lines[3] == "  block      128 lanes, which share 10,752 bytes"
    occupied = found.occupancy
    assert lines[4].startswith(f"  occupancy  {occupied.share:.0%}: {occupied.blocks} blocks at once on a multiprocessor, limi")
    assert 1000 < found.code_bytes < found.image_bytes
    assert lines[5] == f"  code       {found.code_bytes:,} bytes in an image of {found.image_bytes:,}"
    assert lines[6:8] == ["a lane's memory, in words of 4 bytes", "  shared memory"]
    assert lines[8] == "    stage_rhs             21  " + 21 * "█"
    assert lines[-1].startswith("  without words here: output_state, event_values, ")
    assert lines[-1].endswith("integrand_values, dense_rhs") and "adjoint" not in lines[-1]
    assert ".version" in found.ptx and "mul" in found.program
    assert all(text not in str(found) + found._repr_html_() for text in (".version", "float32[3]", "%0"))
    assert len(str(found)) < 1500


def test_report_of_a_host_image():
    found = inspect("cpu")
    said = str(found)
    assert "registers  " not in said and "occupancy" not in said and found.occupancy is None
    assert found.stack_bytes > 0 and f"{found.stack_bytes:,} bytes a thread" in said
    assert 500 < found.code_bytes < found.image_bytes and f"{found.code_bytes:,} bytes" in said


def test_report_of_a_gradient():
    """That of its kernel backwards; the solve that keeps checkpoints for it is a report of its own."""
    found = inspect(derivative="vjp")
    lines = str(found).splitlines()
    assert lines[0] == "lorenz, backwards: 3 states of float32 by tsit5, for cuda:90"
    assert f"  checkpoints  {found.checkpoint_bytes:,} bytes a lane in the device's memory, kept by its solve" in lines
    assert any(re.fullmatch(r"    checkpoint_window +864  █{48}", line) for line in lines)
    assert 0 < found.registers and 4 * 864 <= found.stack_bytes and found.occupancy.blocks > 0 and ".version" in found.ptx
    solve_lines = str(found.recording).splitlines()
    assert solve_lines[0] == "lorenz, with checkpoints: 3 states of float32 by tsit5, for cuda:90"
    assert not any("checkpoint" in line for line in solve_lines[1:])
    more = inspect(derivative="vjp", checkpoints=64)
    assert more.checkpoint_bytes - found.checkpoint_bytes == 32 * 864 // 96 * 4


def test_a_large_system_is_drawn_to_scale():
    found = inspect(f=lambda t, y, a: -y, y0=np.zeros(100, np.float32), args=None, method="bosh3")
    bars = {line.split()[0]: line.count("█") for line in str(found).splitlines() if "█" in line}
    assert max(bars.values()) == 48 and 10 < bars["state"] < 20 and bars["counters"] >= 1
    assert f"{found.spill_bytes:,} bytes spilled" in str(found) or "none spilled" in str(found)
    assert f"{found.stack_bytes:,} bytes a thread" in str(found)


def drawn(*buffers):
    registry = BufferRegistry()
    for name, size, location, aliases, live in buffers:
        registry = registry.register(name, size, location=location, aliases=aliases, live=live)
    slots = registry.layout().slots
    return Inspection("f", "cuda:90", "", 32, 0, 0, 128, 0, Occupancy(1, 0.5, ("threads",)), slots, 4, "", 1, 2, "")


def test_the_map_shows_places_and_who_shares_them():
    """Buffers of one region stand side by side; one that uses another's words stands under it, and is said to."""
    found = drawn(
        ("first", 4, "shared", None, {"step/stage"}), ("second", 6, "shared", None, {"step/stage"}),
        ("inside", 3, "shared", "second", {"step/output"}), ("own", 2, "local", None, None), ("none", 0, "shared", None, None),
        ("later", 9, "shared", "first", {"step/output"}),
    )  # fmt: skip
    lines = str(found).splitlines()
    assert lines[lines.index("  shared memory") + 1 :] == [
        "    first       4  ████",
        "    second      6      ██████",
        "    inside      3      ▒▒▒  in the words of second",
        "  shared memory, behind those",
        "    later       9  █████████",
        "  its own memory, an array each (registers, where they fit)",
        "    own         2  ██",
        "  without words here: none",
    ]
    assert isinstance(found.slots[0], Slot) and found.buffers["own"] == ("local", 2)


class _Tags(html.parser.HTMLParser):
    def __init__(self):
        super().__init__()
        self.open, self.text = [], []

    def handle_starttag(self, tag, attrs):
        self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def test_html_is_well_formed_and_says_the_same():
    field = lambda t, y, a: {"<b>&": -y["<b>&"]}  # noqa: E731
    for value in (inspect(), inspect("cpu", derivative="vjp"), swept(8), solve(field, 0.0, 1.0, {"<b>&": 1.0})):
        page = _Tags()
        page.feed(value._repr_html_())
        assert not page.open
        said = " ".join(page.text)
        for word in re.findall(r"[\w.,]+", repr(value).partition("a lane's memory")[0]):
            assert word in said, word


# By NVIDIA's cuda_occupancy.h (CUDA 13), with shared memory preferred: architecture, registers, block, bytes, blocks.
@pytest.mark.parametrize(
    ("architecture", "registers", "block", "shared", "blocks", "limit"),
    [
        (75, 36, 96, 0, 10, "threads"), (75, 57, 128, 10752, 6, "shared memory"), (75, 120, 1024, 0, 0, "registers"),
        (75, 1, 32, 0, 16, "blocks"), (90, 1, 32, 0, 32, "blocks"), (90, 36, 128, 0, 12, "registers"),
        (90, 57, 128, 33000, 6, "shared memory"), (90, 253, 128, 0, 2, "registers"), (121, 1, 96, 0, 16, "threads"),
        (121, 36, 128, 10752, 8, "shared memory"), (86, 1, 32, 0, 16, "blocks"), (89, 1, 32, 0, 24, "blocks"),
    ],
)  # fmt: skip
def test_occupancy(architecture, registers, block, shared, blocks, limit):
    found = occupancy(architecture, registers, block, shared)
    assert found.blocks == blocks and limit in found.limits


def test_occupancy_is_known_for_every_target():
    from jax_cubie.kernel.target import CUDA_ARCHITECTURES

    for architecture in CUDA_ARCHITECTURES:
        assert 0 < occupancy(architecture, 32, 128, 0).share <= 1
