import dataclasses
from fractions import Fraction as F


@dataclasses.dataclass(frozen=True)
class RosenbrockTableau:
    name: str
    order: int
    embedded_order: int
    gamma: F
    a: tuple
    c: tuple
    m: tuple
    error_weights: tuple
    alpha: tuple
    d: tuple
    dense: object = None
    aliases: tuple = ()
    @property
    def stages(self): return len(self.m)
    dense_order = 3
    fsal = False
def r(*x): return tuple(F(v) for v in x)
ROSENBROCK = {"rodas3": RosenbrockTableau("rodas3", 3, 2, F(1,2), (r(0), r(2,0), r(2,0,1)), (r(4), r(1,-1), r(1,-1,"-8/3")), r(2,0,1,1), r(0,0,0,1), r(0,0,1,1), r("1/2","3/2",0,0))}
