"""Every method by name: a row of data each, with its source."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

from . import firk_methods, stage_transformation
from .dirk_methods import (
    ESDIRK54,
    IMPLICIT_EULER,
    IMPLICIT_MIDPOINT,
    KVAERNO3,
    KVAERNO4,
    KVAERNO5,
    L_STABLE_SDIRK4,
    SDIRK2,
    TRAPEZOID,
    TRBDF2,
)
from .dormand_prince import DOP853, DOPRI5, DOPRI8
from .implicit_tableau import ImplicitTableau, collocation
from .rosenbrock_methods import (
    RODAS3,
    RODAS3P,
    RODAS4,
    RODAS4P,
    RODAS5,
    RODAS5P,
    RODAS5PE,
    RODAS42,
    ROS3P,
    ROS34PW2,
    ROSENBROCK23,
)
from .rosenbrock_tableau import RosenbrockTableau
from .stage_transformation import StageTransformation
from .tableau import ButcherTableau, ContinuousExtension
from .verner import VERN6, VERN7, VERN8, VERN9

Tableau = TypeVar("Tableau")

EULER = dict(name="euler", order=1, a=[], b=[1], source="Euler, Institutionum calculi integralis (1768)")

HEUN = dict(
    name="heun",
    order=2,
    a=[[1]],
    b=["1/2", "1/2"],
    b_embedded=[1, 0],
    embedded_order=1,
    source="Hairer, Norsett, Wanner, Solving Ordinary Differential Equations I, section II.1; Euler's method embedded",
)

MIDPOINT = dict(
    name="midpoint",
    order=2,
    a=[["1/2"]],
    b=[0, 1],
    b_embedded=[1, 0],
    embedded_order=1,
    source="Runge, Math. Ann. 46 (1895); Euler's method embedded",
)

RALSTON2 = dict(
    name="ralston2",
    aliases=("ralston",),
    order=2,
    a=[["2/3"]],
    b=["1/4", "3/4"],
    b_embedded=[1, 0],
    embedded_order=1,
    source="Ralston, Runge-Kutta methods with minimum error bounds, Math. Comp. 16 (1962); Euler's method embedded",
)

RALSTON3 = dict(
    name="ralston3",
    order=3,
    a=[["1/2"], [0, "3/4"]],
    b=["2/9", "1/3", "4/9"],
    source="Ralston, Runge-Kutta methods with minimum error bounds, Math. Comp. 16 (1962)",
)

BOSH3 = dict(
    name="bosh3",
    aliases=("rk23", "ode23", "bs3"),
    order=3,
    a=[["1/2"], [0, "3/4"], ["2/9", "1/3", "4/9"]],
    b=["2/9", "1/3", "4/9", 0],
    b_embedded=["7/24", "1/4", "1/3", "1/8"],
    embedded_order=2,
    source="Bogacki, Shampine, A 3(2) pair of Runge-Kutta formulas, Appl. Math. Lett. 2 (1989)",
)

RK4 = dict(
    name="rk4",
    order=4,
    a=[["1/2"], [0, "1/2"], [0, 0, 1]],
    b=["1/6", "1/3", "1/3", "1/6"],
    source="Kutta, Z. Math. Phys. 46 (1901)",
)

RK38 = dict(
    name="rk38",
    order=4,
    a=[["1/3"], ["-1/3", 1], [1, -1, 1]],
    b=["1/8", "3/8", "3/8", "1/8"],
    source="Kutta, Z. Math. Phys. 46 (1901), the 3/8 rule",
)

FEHLBERG45 = dict(
    name="fehlberg45",
    aliases=("rkf45",),
    order=5,
    a=[
        ["1/4"],
        ["3/32", "9/32"],
        ["1932/2197", "-7200/2197", "7296/2197"],
        ["439/216", -8, "3680/513", "-845/4104"],
        ["-8/27", 2, "-3544/2565", "1859/4104", "-11/40"],
    ],
    b=["16/135", 0, "6656/12825", "28561/56430", "-9/50", "2/55"],
    b_embedded=["25/216", 0, "1408/2565", "2197/4104", "-1/5", 0],
    embedded_order=4,
    source="Fehlberg, Low-order classical Runge-Kutta formulas with stepsize control, NASA TR R-315 (1969), formula 2 of "
    "table III; the weights of order 5 are those of the solution, as in Shampine and Watts's code RKF45",
)

CASHKARP45 = dict(
    name="cashkarp45",
    aliases=("rkck45", "ck45"),
    order=5,
    a=[
        ["1/5"],
        ["3/40", "9/40"],
        ["3/10", "-9/10", "6/5"],
        ["-11/54", "5/2", "-70/27", "35/27"],
        ["1631/55296", "175/512", "575/13824", "44275/110592", "253/4096"],
    ],
    b=["37/378", 0, "250/621", "125/594", 0, "512/1771"],
    b_embedded=["2825/27648", 0, "18575/48384", "13525/55296", "277/14336", "1/4"],
    embedded_order=4,
    source="Cash, Karp, A variable order Runge-Kutta method for initial value problems with rapidly varying right-hand "
    "sides, ACM Trans. Math. Softw. 16 (1990)",
)

TSIT5 = dict(
    name="tsit5",
    order=5,
    a=[
        ["161/1000"],
        ["-0.008480655492356988544426874250230774675", "0.3354806554923569885444268742502307746751"],
        [
            "2.897153057105493432130432594192938764925",
            "-6.359448489975074843148159912383825625953",
            "4.362295432869581411017727318190886861028",
        ],
        [
            "5.325864828439256604428877920840511317836",
            "-11.74888356406282787774717033978577296188",
            "7.495539342889836208304604784564358155658",
            "-0.09249506636175524925650207933207191611350",
        ],
        [
            "5.861455442946420028659251486982647890394",
            "-12.92096931784710929170611868178335939542",
            "8.159367898576158643180400794539253485182",
            "-0.07158497328140099722453054252582973869127",
            "-0.02826905039406838290900305721271224146718",
        ],
        [
            "0.09646076681806522951816731316512876333712",
            "0.01",
            "0.4798896504144995747752495322905965199130",
            "1.379008574103741893192274821856872770756",
            "-3.290069515436080679901047585711363850116",
            "2.324710524099773982415355918398765796109",
        ],
    ],
    b=[
        "0.09646076681806522951816731316512876333712",
        "0.01",
        "0.4798896504144995747752495322905965199130",
        "1.379008574103741893192274821856872770756",
        "-3.290069515436080679901047585711363850116",
        "2.324710524099773982415355918398765796109",
        0,
    ],
    c=[0, "161/1000", "327/1000", "9/10", "0.9800255409045096857298102862870245954942", 1, 1],
    b_embedded=[
        "0.09468075576583945807478876255758922856118",
        "0.009183565540343253096776363936645313759814",
        "0.4877705284247615707855642599631228241517",
        "1.234297566930478985655109673884237654036",
        "-2.707712349983525454881109975059321670690",
        "1.866628418170587035753719399566211498666",
        "1/66",
    ],
    embedded_order=4,
    dense=dict(
        order=4,
        weights=[
            [
                "0.999999999999999974283372471559910888475488471328",
                "-2.763706197274825911336735930481400260916070804192",
                "2.91325546182191274375068099306808",
                "-1.0530884977290216",
            ],
            [0, "0.13169999999999999727", "-0.22339999999999999818", "0.1017"],
            [0, "3.93029623689475152850687446709813398", "-5.94103387213150473470249202589458001", "2.490627285651252793"],
            [
                0,
                "-12.411077166933676983734381540685453484102414134010752",
                "30.3381886302823215981729903691836576",
                "-16.54810288924490272",
            ],
            [
                0,
                "37.50931341651103919496903965334519631242339792120440212",
                "-88.1789048947664011014276693541209817",
                "47.37952196281928122",
            ],
            [
                0,
                "-27.896526289197287805948263144598643896",
                "65.09189467479367152629021928716553658",
                "-34.87065786149660974",
            ],
            [0, "1.5", -4, "2.5"],
        ],
    ),
    source="Tsitouras, Runge-Kutta pairs of order 5(4) satisfying only the first column simplifying assumption, Comput. "
    "Math. Appl. 62 (2011), table 1; more digits solved from the order conditions there. Values between steps: section 4, "
    "its products written out, good to 16 digits",
)


class Catalogue(Mapping[str, Tableau]):
    """Tableaus, or what else has a name, of one kind by name. Each is made when it is first asked for: all of them together
    take longer than an import may. `make` makes one of its row."""

    def __init__(self, make: Callable[[dict[str, Any]], Tableau], *rows: dict[str, Any]):
        self._makers = {row["name"]: functools.cache(functools.partial(make, row)) for row in rows}
        self._names = {name: row["name"] for row in rows for name in (row["name"], *row.get("aliases", ()))}

    def __getitem__(self, name: str) -> Tableau:
        return self._makers[name]()

    def __iter__(self) -> Iterator[str]:
        return iter(self._makers)

    def __len__(self) -> int:
        return len(self._makers)

    @property
    def names(self) -> Mapping[str, str]:
        """The method's own name for each of its names, aliases among them."""
        return self._names


def _explicit(row: dict[str, Any]) -> ButcherTableau:
    dense = row.get("dense")
    return ButcherTableau(**{**row, "dense": None if dense is None else ContinuousExtension(**dense)})


def _implicit(row: dict[str, Any]) -> ImplicitTableau:
    if "nodes" in row:
        return ImplicitTableau(**{key: value for key, value in row.items() if key != "nodes"}, **collocation(row["nodes"]))
    dense = row.get("dense")
    return ImplicitTableau(**{**row, "dense": None if dense is None else ContinuousExtension(**dense)})


def _rosenbrock(row: dict[str, Any]) -> RosenbrockTableau:
    return RosenbrockTableau(**row)


def _transformation(row: dict[str, Any]) -> StageTransformation:
    return StageTransformation(**row)


EXPLICIT = Catalogue(
    _explicit,
    EULER, HEUN, MIDPOINT, RALSTON2, RALSTON3, BOSH3, RK4, RK38, FEHLBERG45, CASHKARP45, DOPRI5, TSIT5, DOPRI8, DOP853,
    VERN6, VERN7, VERN8, VERN9,
)  # fmt: skip

ROSENBROCK = Catalogue(
    _rosenbrock,
    ROSENBROCK23, ROS3P, RODAS3, RODAS3P, RODAS4, RODAS42, RODAS4P, RODAS5, RODAS5P, RODAS5PE, ROS34PW2,
)  # fmt: skip

DIRK = Catalogue(
    _implicit,
    IMPLICIT_EULER, IMPLICIT_MIDPOINT, TRAPEZOID, SDIRK2, TRBDF2, L_STABLE_SDIRK4, KVAERNO3, KVAERNO4, KVAERNO5, ESDIRK54,
)  # fmt: skip

FIRK = Catalogue(
    _implicit,
    firk_methods.GAUSS_LEGENDRE_2, firk_methods.GAUSS_LEGENDRE_4, firk_methods.GAUSS_LEGENDRE_6, firk_methods.RADAU_IIA_3,
    firk_methods.RADAU_IIA_5, firk_methods.RADAU_IIA_9, firk_methods.LOBATTO_IIIC_4,
)  # fmt: skip
# By the names of FIRK.
TRANSFORMATIONS = Catalogue(
    _transformation,
    stage_transformation.GAUSS_LEGENDRE_2, stage_transformation.GAUSS_LEGENDRE_4, stage_transformation.GAUSS_LEGENDRE_6,
    stage_transformation.RADAU_IIA_3, stage_transformation.RADAU_IIA_5, stage_transformation.RADAU_IIA_9,
    stage_transformation.LOBATTO_IIIC_4,
)  # fmt: skip
