"""Transformations that decouple the stages of fully implicit methods: data, and the class that they are of.

The linear systems of Newton's method, with I / h x A^-1 - I x J, fall apart into a real one for each real eigenvalue of A^-1,
and a complex one for each pair (Hairer, Wanner, Solving Ordinary Differential Equations II, section IV.8). Decimals have 40
digits.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from fractions import Fraction

import numpy as np

from .rows import Number, Row, assign, exact, exact_row, exact_rows, near


@dataclasses.dataclass(frozen=True)
class StageTransformation:
    """A basis T in which A^-1 is diagonal but for blocks of two.

    name: the method whose A it is of.
    gamma: the real eigenvalue of A^-1, None where there is none.
    pairs: the complex ones, alpha + i beta and alpha - i beta, beta positive.
    t, inverse: the rows of T and of T^-1. T^-1 A^-1 T has gamma first on its diagonal, then for each pair the block
    ((alpha, -beta), (beta, alpha)). The last row of T is 1 in the first column of each eigenvalue, 0 in the second one of
    pairs; of radau_iia_5 it begins with Hairer's 0.966 in radau5.f.
    error: weights e_i of an error estimate (gamma / h M - J)^-1 (f(t, y) + M sum(e_i z_i) / h), where z_i is what the state of
    stage i differs from y by (section IV.8); None where the method has none. Without the factor in front, and times h / gamma,
    it is what another quadrature formula gives, less the solution: that with the weight 1 / gamma of f(t, y), and of an order
    that is the number of stages.

    Raises ValueError where sizes disagree, or `inverse` is not the inverse.
    """

    name: str = dataclasses.field(metadata={"content": None})
    gamma: Fraction | None
    pairs: tuple[Row, ...]
    t: tuple[Row, ...]
    inverse: tuple[Row, ...]
    error: Row | None

    def __init__(
        self,
        name: str,
        *,
        gamma: Number | None = None,
        pairs: Sequence[Sequence[Number]] = (),
        t: Sequence[Sequence[Number]],
        inverse: Sequence[Sequence[Number]],
        error: Sequence[Number] | None = None,
    ):
        named = f"transformation {name!r}: "
        assign(
            self,
            name=name,
            gamma=None if gamma is None else exact(named + "gamma", gamma),
            pairs=exact_rows(named + "pairs", pairs),
            t=exact_rows(named + "t", t),
            inverse=exact_rows(named + "inverse", inverse),
            error=None if error is None else exact_row(named + "error", error),
        )
        stages = (self.gamma is not None) + 2 * len(self.pairs)
        sizes = {len(self.t), len(self.inverse), *map(len, self.t), *map(len, self.inverse)}
        if sizes != {stages} or any(len(pair) != 2 for pair in self.pairs):
            raise ValueError(f"{named}{stages} eigenvalues call for {stages} rows of {stages} coefficients in t and inverse")
        if self.error is not None and len(self.error) != stages:
            raise ValueError(f"{named}{len(self.error)} weights of the error for {stages} stages")
        for i, row in enumerate(self.inverse):
            for j, column in enumerate(zip(*self.t, strict=True)):
                terms = [a * b for a, b in zip(row, column, strict=True)]
                if not near(sum(terms), int(i == j), sum(map(abs, terms))):
                    raise ValueError(f"{named}inverse times t is {float(sum(terms)):.12g} at row {i + 1}, column {j + 1}")

    @property
    def stages(self) -> int:
        return len(self.t)

    @property
    def matrices(self) -> tuple[str, ...]:
        """The systems' matrices: "real" or "complex"."""
        return (*(() if self.gamma is None else ("real",)), *("complex" for _ in self.pairs))

    @functools.cached_property
    def scaled_inverse(self) -> tuple[Row, ...]:
        """T^-1 A^-1."""
        rows, found = iter(self.inverse), []
        if self.gamma is not None:
            found.append(tuple(self.gamma * value for value in next(rows)))
        for (alpha, beta), one, other in zip(self.pairs, rows, rows, strict=False):
            found.append(tuple(alpha * x - beta * y for x, y in zip(one, other, strict=True)))
            found.append(tuple(beta * x + alpha * y for x, y in zip(one, other, strict=True)))
        return tuple(found)


def transformation_of(name: str, a: Sequence[Row]) -> StageTransformation:
    """That of the matrix A of any method's coefficients, in float64, which is enough to iterate by. Raises ValueError where it
    can't be had."""
    try:
        inverse = np.array(inverse_of(a), float)
    except ZeroDivisionError:
        said = "its stages are coupled, and a is singular, so that they can't be solved for together"
        raise ValueError(f"tableau {name!r}: {said}") from None
    values, vectors = np.linalg.eig(inverse)
    height = np.imag(values) / np.abs(values)
    real, upper = np.abs(height) <= 1e-10, height > 1e-10
    if real.sum() > 1 or np.linalg.cond(vectors) > 1e6:
        raise ValueError(
            f"tableau {name!r}: its stages are coupled, and the eigenvalues of a are {np.round(1 / values, 6)}; expected "
            "different ones, of which at most one is real, as those of Gauss, Radau and Lobatto methods"
        )
    columns = [np.real(vectors[:, real]), *(np.stack([np.real(v), -np.imag(v)], 1) for v in vectors[:, upper].T)]
    t = [[Fraction(float(value)) for value in row] for row in np.concatenate(columns, 1)]
    return StageTransformation(
        name,
        gamma=next(map(float, np.real(values[real])), None),
        pairs=[(float(np.real(value)), float(np.imag(value))) for value in values[upper]],
        t=t,
        inverse=inverse_of(t),
    )


def inverse_of(rows: Sequence[Sequence[Fraction]]) -> tuple[Row, ...]:
    """The inverse of a matrix in exact numbers. Raises ZeroDivisionError where there is none."""
    n = len(rows)
    work = [[*row, *(Fraction(int(i == j)) for j in range(n))] for i, row in enumerate(rows)]
    for k in range(n):
        pivot = max(range(k, n), key=lambda row: abs(work[row][k]))
        work[k], work[pivot] = work[pivot], work[k]
        work[k] = [value / work[k][k] for value in work[k]]
        for row in range(n):
            if row != k and work[row][k]:
                factor = work[row][k]
                work[row] = [value - factor * other for value, other in zip(work[row], work[k], strict=True)]
    return tuple(tuple(row[n:]) for row in work)


GAUSS_LEGENDRE_2 = dict(
    name="gauss_legendre_2",
    gamma=2,
    pairs=[],
    t=[[1]],
    inverse=[[1]],
)  # fmt: skip

GAUSS_LEGENDRE_4 = dict(
    name="gauss_legendre_4",
    pairs=[(3, "1.732050807568877293527446341505872366943")],
    t=[
        [0, "0.2679491924311227064725536584941276330572"],
        [1, 0],
    ],
    inverse=[
        [0, 1],
        ["3.732050807568877293527446341505872366943", 0],
    ],
)  # fmt: skip

GAUSS_LEGENDRE_6 = dict(
    name="gauss_legendre_6",
    gamma="4.644370709252171185822941421408063969863",
    pairs=[("3.677814645373914407088529289295968015068", "3.508761919567443321903661209182446413835")],
    t=[
        [
            "0.07215185205520017032081769924397448153886", "-0.08224123057363067064866206597516279862662",
            "-0.06012073861930850173085948921438791619994",
        ],
        [
            "0.1188325787412778070708888193730292756724", "0.05306509074206139504614411373957508064584",
            "0.3162050511322915732224862926182698987486",
        ],
        [1, 1, 0],
    ],
    inverse=[
        [
            "5.991698084937800775649580743981288650476", "1.13921429515573544456700223693400945693",
            "0.4323121137838583855696375901180497837493",
        ],
        [
            "-5.991698084937800775649580743981288650476", "-1.13921429515573544456700223693400945693",
            "0.5676878862161416144303624098819502162507",
        ],
        [
            "-1.246213273586231410815571640493081092835", "2.925559646192313662599230367054972697732",
            "-0.2577352012734324923468722836888245740982",
        ],
    ],
)  # fmt: skip

RADAU_IIA_3 = dict(
    name="radau_iia_3",
    pairs=[(2, "1.41421356237309504880168872420969807857")],
    t=[
        ["1/9", "0.3142696805273544552892641609354884619044"],
        [1, 0],
    ],
    inverse=[
        [0, 1],
        ["3.181980515339463859803799629471820676782", "-0.3535533905932737622004221810524245196424"],
    ],
)  # fmt: skip

RADAU_IIA_5 = dict(
    name="radau_iia_5",
    gamma="3.637834252744495732208418513577775797946",
    pairs=[("2.681082873627752133895790743211112101027", "3.050430199247410569426377624787567904441")],
    t=[
        [
            "0.09123239487089294279149458084096377667412", "-0.1412552950209542084279903838077973094093",
            "-0.03002919410514742449186111708905386666838",
        ],
        [
            "0.241717932707107018957332888253560007375", "0.2041293522937999319959908102983381740865",
            "0.3829421127572619377954382335998732103578",
        ],
        ["0.96604818261509293619", 1, 0],
    ],
    inverse=[
        [
            "4.325579890063155351026890115417469164352", "0.3391992518158098695430240877049926424968",
            "0.5417705399358748711868410586939393517508",
        ],
        [
            "-4.17871859155190472734646265851205623", "-0.3276828207610623870825332724296162342458",
            "0.4766235545005504519600690840910124979399",
        ],
        [
            "-0.5028726349457868759512473431395442928592", "2.571926949855605429186785353601675054694",
            "-0.5960392048282249249688219110993024032899",
        ],
    ],
    error=["-10.04880939982741556246032950764707991459", "1.382142733160748895793662840980413247921", "-1/3"],
)  # fmt: skip

RADAU_IIA_9 = dict(
    name="radau_iia_9",
    gamma="6.286704751729276645173153341869409049591",
    pairs=[
        ("5.700953298671789419170215368969861620848", "3.210265600308549888425010652972117212322"),
        ("3.655694325463572258243207960095433854357", "6.543736899360077294021071509393686318364"),
    ],
    t=[
        [
            "0.01357686734494794324766390817021999803797", "-0.01147851525522951470794155541215550493855",
            "-0.0140198588928754102810778942934959307831", "-0.01024204781790882707008633006685901250158",
            "0.04767387729029572386318394785920697829702",
        ],
        [
            "0.001617900401719087476438624531872425012895", "-0.007668830749180162885156876792036080741161",
            "0.02470857842651852681252520537778038265537", "0.05017286451737105816299138026264651385312",
            "-0.09433181918161143698065690033637244718849",
        ],
        [
            "0.07915785334744720764489838756150393956204", "0.01939846399882895091122328964083308722858",
            "0.08180035370375117083639081222875725330713", "-0.2305395340434179467214218621800004226792",
            "0.1027030453801258997922104569471411851488",
        ],
        [
            "0.412256082680461451978718545345271705818", "0.4076011712801990666216623702189598727463",
            "0.199682427886802525936540566022390695167", "0.3778939022488612495438622937459339952347",
            "0.466744130332494359289559582964906703284",
        ],
        [1, 1, 0, 1, 0],
    ],
    inverse=[
        [
            "27.69769377568408840916613663851359043543", "12.78333791130440601500090610772214820099",
            "3.208489386713429859797686375147941186252", "-0.9514904122489162212716699357512562546035",
            "0.7415504960259896033537032273913420094652",
        ],
        [
            "-33.04188021351900000806144694261095077429", "-17.37695347906356701945498060589871058527",
            "-0.1721290632540055611515288064277513837495", "-0.09916977798254264258816622140173685847264",
            "0.5312281158383066671849114226060247954266",
        ],
        [
            "-8.611443979875291977700082512570348519505", "9.699991409528808231335894053420032664971",
            "1.91472863969687428485137560339172471528", "2.418692006084940026426563434082983507712",
            "-1.047463487935337418694432999211736017659",
        ],
        [
            "5.344186437834911598895310304097360338855", "4.593615567759161004454074498176562384283",
            "-3.036360323459424298646157568720189802503", "1.050660190231458863859836157152993113076",
            "-0.2727786118642962705386146499973668048918",
        ],
        [
            "3.748059807439804860051034501892569836781", "-3.984965736343884667252263858053511108386",
            "-1.044415641608018792942247323095625321898", "1.184098568137948487231020388383404820303",
            "-0.4499177701567803688988119183140954359421",
        ],
    ],
    error=[
        "-27.78093394406463730478720781721687989237", "3.641478498049213152711655087742897229041",
        "-1.252547721169118720490652494301149148893", "0.5920031671845428725662052237751318122197", "-1/5",
    ],
)  # fmt: skip

LOBATTO_IIIC_4 = dict(
    name="lobatto_iiic_4",
    gamma="2.625816818958466716011888933765283331279",
    pairs=[("1.68709159052076664199405553311735833436", "2.508731754924880510838743672432351514192")],
    t=[
        [
            "0.455410041101028467211172034828748294958", "-0.602705020550514233605586017414374147479",
            "-0.4309321229203225731070721341350345638889",
        ],
        [
            "0.2073983055356404377998207752658662409196", "0.1775508472321797811000896123670668795402",
            "0.5194499080011394844329178845743292375758",
        ],
        [1, 1, 0],
    ],
    inverse=[
        [
            "0.9234665031131368612140762392432519779126", "0.766101551858351241079239349573394780247",
            "0.4205559181381766909344950150991348065152",
        ],
        [
            "-0.9234665031131368612140762392432519779126", "-0.766101551858351241079239349573394780247",
            "0.5794440818618233090655049849008651934848",
        ],
        [
            "-0.05306214809504116746618873404230997578571", "1.881093442936075912563125426209995453221",
            "-0.3659705575742745254721332009249516414254",
        ],
    ],
)  # fmt: skip
