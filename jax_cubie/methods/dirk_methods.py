"""Diagonally implicit Runge-Kutta methods by name: a row of data each, with its source. Data only."""

from collections.abc import Sequence
from fractions import Fraction
from typing import Any

from .rows import square_root

IMPLICIT_EULER = dict(
    name="implicit_euler",
    aliases=("backward_euler",),
    order=1,
    a=[[], [0, 1]],
    b=[0, 1],
    b_embedded=["1/2", "1/2"],
    embedded_order=2,
    predictor=[[1]],
    source="Hairer, Wanner, Solving Ordinary Differential Equations II, section IV.3; the trapezoidal rule's weights embedded, "
    "as in diffrax",
)

IMPLICIT_MIDPOINT = dict(
    name="implicit_midpoint",
    order=2,
    a=[["1/2"]],
    b=[1],
    source="Hairer, Wanner, Solving Ordinary Differential Equations II, section IV.3",
)

TRAPEZOID = dict(
    name="trapezoid",
    aliases=("crank_nicolson",),
    order=2,
    a=[[], ["1/2", "1/2"]],
    b=["1/2", "1/2"],
    b_embedded=[0, 1],
    embedded_order=1,
    source="Hairer, Wanner, Solving Ordinary Differential Equations II, section IV.3; backward Euler's weights embedded",
)

_HALF_ROOT = square_root(2) / 2

SDIRK2 = dict(
    name="sdirk2",
    aliases=("alexander2",),
    order=2,
    a=[[1 - _HALF_ROOT], [_HALF_ROOT, 1 - _HALF_ROOT]],
    b=[_HALF_ROOT, 1 - _HALF_ROOT],
    b_embedded=[0, 1],
    embedded_order=1,
    predictor=[[1]],
    source="Alexander, Diagonally implicit Runge-Kutta methods for stiff ODE's, SIAM J. Numer. Anal. 14 (1977); embedded "
    "weights and predictor as in diffrax",
)

_W, _D = square_root(2) / 4, 1 - _HALF_ROOT

TRBDF2 = dict(
    name="trbdf2",
    order=2,
    a=[[], [_D, _D], [_W, _W, _D]],
    b=[_W, _W, _D],
    b_embedded=[(1 - _W) / 3, (3 * _W + 1) / 3, _D / 3],
    embedded_order=3,
    source="Bank et al., Transient simulation of silicon devices and circuits, IEEE Trans. CAD 4 (1985); Hosea, Shampine, "
    "Analysis and implementation of TR-BDF2, Appl. Numer. Math. 20 (1996)",
)

L_STABLE_SDIRK4 = dict(
    name="l_stable_sdirk4",
    aliases=("sdirk4",),
    order=4,
    a=[
        ["1/4"],
        ["1/2", "1/4"],
        ["17/50", "-1/25", "1/4"],
        ["371/1360", "-137/2720", "15/544", "1/4"],
        ["25/24", "-49/48", "125/16", "-85/12", "1/4"],
    ],
    b=["25/24", "-49/48", "125/16", "-85/12", "1/4"],
    b_embedded=["59/48", "-17/96", "225/32", "-85/12", 0],
    embedded_order=3,
    dense=dict(
        order=3,
        weights=[
            ["11/3", "-463/72", "217/36", "-20/9"],
            ["11/2", "-385/16", "661/24", -10],
            ["-125/18", "20125/432", "-8875/216", "250/27"],
            [0, "-85/4", "85/6", 0],
            ["-11/9", "557/108", "-359/54", "80/27"],
        ],
    ),
    source="Hairer, Wanner, Solving Ordinary Differential Equations II, section IV.6; sdirk4.f",
)

# --- Kvaerno's: the solution is the last stage, the embedded one the stage before it


def _kvaerno3(g: Fraction) -> dict[str, Any]:
    a31, a32 = (-4 * g**2 + 6 * g - 1) / (4 * g), (1 - 2 * g) / (4 * g)
    b = [(6 * g - 1) / (12 * g), -1 / ((24 * g - 12) * g), (-6 * g**2 + 6 * g - 1) / (6 * g - 3), g]
    ahead = 1 / (2 * g)
    return dict(
        a=[[], [g, g], [a31, a32, g], b],
        b=b,
        b_embedded=[a31, a32, g, 0],
        predictor=[[1], [1 - ahead, ahead], [a31, a32, g]],
    )


KVAERNO3 = dict(
    name="kvaerno3",
    order=3,
    **_kvaerno3(Fraction("0.4358665215")),
    embedded_order=2,
    source="Kvaerno, Singly diagonally implicit Runge-Kutta methods with an explicit first stage, BIT 44 (2004): 3/2 a; "
    "predictor of diffrax",
)


def _kvaerno4(g: Fraction) -> dict[str, Any]:
    p, q, r = 12 * g**2 - 6 * g + 1, 12 * g**2 - 9 * g + 2, 3 * g - 1
    a31 = (144 * g**4 - 180 * g**3 + 81 * g**2 - 15 * g + 1) * g / p**2
    a32 = (-36 * g**3 + 39 * g**2 - 15 * g + 2) * g / p**2
    a4 = [
        (-144 * g**5 + 396 * g**4 - 330 * g**3 + 117 * g**2 - 18 * g + 1) / (12 * g**2 * q),
        (72 * g**4 - 126 * g**3 + 69 * g**2 - 15 * g + 1) / (12 * g**2 * r),
        (-6 * g**2 + 6 * g - 1) * p**2 / (12 * g**2 * q * r),
        g,
    ]
    b = [
        (288 * g**4 - 312 * g**3 + 120 * g**2 - 18 * g + 1) / (48 * g**2 * q),
        (24 * g**2 - 12 * g + 1) / (48 * g**2 * r),
        -(p**3) / (48 * g**2 * r * q * (6 * g**2 - 6 * g + 1)),
        (-24 * g**3 + 36 * g**2 - 12 * g + 1) / (24 * g**2 - 24 * g + 4),
        g,
    ]
    c2, c3 = 2 * g, a31 + a32 + g
    ahead, further = c3 / c2, (1 - c2) / (c3 - c2)
    return dict(
        a=[[], [g, g], [a31, a32, g], a4, b],
        b=b,
        b_embedded=[*a4, 0],
        predictor=[[1], [1 - ahead, ahead], [0, 1 - further, further], a4],
    )


KVAERNO4 = dict(
    name="kvaerno4",
    order=4,
    **_kvaerno4(Fraction("0.5728160625")),
    embedded_order=3,
    source="Kvaerno, BIT 44 (2004): 4/3 a; predictor of diffrax",
)

_KVAERNO5_STAGE = ["0.13855640231268224", 0, "-0.04245337201752043", "0.02446657898003141", "0.61943039072480676", "0.26"]
_KVAERNO5_LAST = [
    "0.13659751177640291", 0, "-0.05496908796538376", "-0.04118626728321046", "0.62993304899016403", "0.06962479448202728",
    "0.26",
]  # fmt: skip

KVAERNO5 = dict(
    name="kvaerno5",
    order=5,
    a=[
        [],
        ["0.26", "0.26"],
        ["0.13", "0.84033320996790809", "0.26"],
        ["0.22371961478320505", "0.47675532319799699", "-0.06470895363112615", "0.26"],
        ["0.16648564323248321", "0.10450018841591720", "0.03631482272098715", "-0.13090704451073998", "0.26"],
        _KVAERNO5_STAGE,
        _KVAERNO5_LAST,
    ],
    b=_KVAERNO5_LAST,
    c=[0, "0.52", "1.230333209967908", "0.8957659843500759", "0.43639360985864756", 1, 1],
    b_embedded=[*_KVAERNO5_STAGE, 0],
    embedded_order=4,
    predictor=[
        [1],
        ["-1.366025403784441", "2.3660254037844357"],
        ["-0.19650552613122207", "0.8113579546496623", "0.38514757148155954"],
        ["0.10375304369958693", "0.937994698066431", "-0.04174774176601781"],
        ["-0.17281112873898072", "0.6235784481025847", "0.5492326806363959"],
        _KVAERNO5_STAGE,
    ],
    source="Kvaerno, BIT 44 (2004): 5/4 a; predictor of diffrax, from OrdinaryDiffEq.jl",
)

# --- Kennedy and Carpenter's


def _with_first(rows: Sequence[Sequence[str]], c: Sequence[str]) -> list[list[str | Fraction]]:
    """Rows with what each lacks to its sum `c` in front: the coefficient of the first stage, which the others determine."""
    return [[Fraction(time) - sum(map(Fraction, row)), *row] for row, time in zip(rows, c, strict=True)]


_ESDIRK54_C = ["46/125", "7121331996143/11335814405378", "49/353", "3706679970760/5295570149437", "347/382", "1"]
_ESDIRK54_ROWS = _with_first(
    [
        ["23/125"],
        ["791020047304/3561426431547", "23/125"],
        ["-158159076358/11257294102345", "-85517644447/5003708988389", "23/125"],
        ["-1653327111580/4048416487981", "1514767744496/9099671765375", "14283835447591/12247432691556", "23/125"],
        [
            "-4540011970825/8418487046959", "-1790937573418/7393406387169", "10819093665085/7266595846747",
            "4109463131231/7386972500302", "23/125",
        ],
        [
            "-188593204321/4778616380481", "2809310203510/10304234040467", "1021729336898/2364210264653",
            "870612361811/2470410392208", "-1307970675534/8059683598661", "23/125",
        ],
    ],
    _ESDIRK54_C,
)  # fmt: skip

ESDIRK54 = dict(
    name="esdirk54",
    order=5,
    a=[[], *_ESDIRK54_ROWS],
    b=_ESDIRK54_ROWS[-1],
    c=[0, *_ESDIRK54_C],
    b_embedded=_with_first(
        [
            [
                "-582099335757/7214068459310", "615023338567/3362626566945", "3192122436311/6174152374399",
                "6156034052041/14430468657929", "-1011318518279/9693750372484", "1914490192573/13754262428401",
            ],
        ],
        ["1"],
    )[0],
    embedded_order=4,
    source="Kennedy, Carpenter, Diagonally implicit Runge-Kutta methods for stiff ODEs, Appl. Numer. Math. 146 (2019): "
    "ESDIRK5(4)7L[2]SA2",
)  # fmt: skip
