"""Fully implicit Runge-Kutta methods by name: a row of data each, with its source. Data only.

nodes: of a collocation method the times of its stages, from which all else follows (`collocation`).
"""

from fractions import Fraction

from .rows import square_root

_HAIRER_WANNER = "Hairer, Wanner, Solving Ordinary Differential Equations II, section IV.5"

GAUSS_LEGENDRE_2 = dict(
    name="gauss_legendre_2",
    order=2,
    nodes=[Fraction(1, 2)],
    source=f"{_HAIRER_WANNER}: Gauss, 1 stage; the implicit midpoint rule",
)

GAUSS_LEGENDRE_4 = dict(
    name="gauss_legendre_4",
    order=4,
    nodes=[(3 - square_root(3)) / 6, (3 + square_root(3)) / 6],
    source=f"{_HAIRER_WANNER}: Gauss, 2 stages",
)

GAUSS_LEGENDRE_6 = dict(
    name="gauss_legendre_6",
    order=6,
    nodes=[(5 - square_root(15)) / 10, Fraction(1, 2), (5 + square_root(15)) / 10],
    source=f"{_HAIRER_WANNER}: Gauss, 3 stages",
)

RADAU_IIA_3 = dict(
    name="radau_iia_3",
    order=3,
    nodes=[Fraction(1, 3), Fraction(1)],
    source=f"{_HAIRER_WANNER}: Radau IIA, 2 stages",
)

RADAU_IIA_5 = dict(
    name="radau_iia_5",
    aliases=("radau5", "radau"),
    order=5,
    nodes=[(4 - square_root(6)) / 10, (4 + square_root(6)) / 10, Fraction(1)],
    source=f"{_HAIRER_WANNER}: Radau IIA, 3 stages",
)

RADAU_IIA_9 = dict(
    name="radau_iia_9",
    order=9,
    # The roots of the fourth derivative of x^4 (x - 1)^5.
    nodes=[
        Fraction("0.05710419611451768219312119255411562123508"),
        Fraction("0.2768430136381238276800459976856251411109"),
        Fraction("0.5835904323689168200566976686629172486934"),
        Fraction("0.8602401356562194478479129188751197667384"),
        Fraction(1),
    ],
    source=f"{_HAIRER_WANNER}: Radau IIA, 5 stages",
)

LOBATTO_IIIC_4 = dict(
    name="lobatto_iiic_4",
    order=4,
    a=[["1/6", "-1/3", "1/6"], ["1/6", "5/12", "-1/12"], ["1/6", "2/3", "1/6"]],
    b=["1/6", "2/3", "1/6"],
    # The integral of the parabola through the stages' slopes.
    dense=dict(order=3, weights=[[1, "-3/2", "2/3"], [0, 2, "-4/3"], [0, "-1/2", "2/3"]]),
    source=f"{_HAIRER_WANNER}: Lobatto IIIC, 3 stages",
)
