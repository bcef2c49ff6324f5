"""Steps of stiff methods in plain NumPy and float64, straight from their formulas; to prove tableaus by."""

from fractions import Fraction

import numpy as np

BETWEEN = [Fraction(number, 7) for number in range(1, 7)]


def field(t, y):
    """Not autonomous, coupled, nonlinear: a hyperbola's sech and -tanh of a time that runs now faster, now slower."""
    pace = 1 + 0.9 * np.cos(3 * t)
    return np.array([pace * y[0] * y[1], -pace * y[0] * y[0]])


def jacobian(t, y):
    pace = 1 + 0.9 * np.cos(3 * t)
    return pace * np.array([[y[1], y[0]], [-2 * y[0], 0.0]])


def time_derivative(t, y):
    return -2.7 * np.sin(3 * t) * np.array([y[0] * y[1], -y[0] * y[0]])


def exact(t):
    time = t + 0.3 * np.sin(3 * t) - 0.7
    return np.array([1 / np.cosh(time), -np.tanh(time)])


def floats(values):
    return np.array([float(value) for value in values])


class Rosenbrock:
    """One step of a tableau: (y1, error or None, values at the fractions `between`).

    inexact: what is added to the Jacobian.
    """

    def __init__(self, tableau, between=(), inexact=None):
        self.gamma, self.alpha, self.d = float(tableau.gamma), floats(tableau.alpha), floats(tableau.d)
        self.a, self.c = ([floats(row) for row in ((), *rows)] for rows in (tableau.a, tableau.c))
        self.m, self.e = floats(tableau.m), None if tableau.e is None else floats(tableau.e)
        dense = tableau.dense if between else None
        self.dense = [] if dense is None else [floats(dense.at(Fraction(x))) for x in between]
        self.inexact = 0 if inexact is None else inexact

    def __call__(self, t, y, h):
        matrix = np.eye(len(y)) / (h * self.gamma) - (jacobian(t, y) + self.inexact)
        slope = time_derivative(t, y)
        u = np.zeros((len(self.m), len(y)))
        for i in range(len(self.m)):
            right = field(t + self.alpha[i] * h, y + self.a[i] @ u[:i]) + self.c[i] @ u[:i] / h + h * self.d[i] * slope
            u[i] = np.linalg.solve(matrix, right)
        return y + self.m @ u, None if self.e is None else self.e @ u, [y + weights @ u for weights in self.dense]


class Implicit:
    """One step of an implicit Runge-Kutta tableau, of any shape: all stages at once by Newton's method."""

    def __init__(self, tableau, between=()):
        stages = tableau.stages
        self.a = np.array([floats((*row, *[0] * (stages - len(row)))) for row in tableau.a])
        self.b, self.c = floats(tableau.b), floats(tableau.c)
        self.e = None if tableau.error_weights is None else floats(tableau.error_weights)
        dense = tableau.dense if between else None
        self.dense = [] if dense is None else [floats(dense.at(Fraction(x))) for x in between]

    def __call__(self, t, y, h):
        stages, size = len(self.b), len(y)
        k = np.tile(field(t, y), (stages, 1))
        for _ in range(12):
            states = y + h * self.a @ k
            times = t + self.c * h
            residual = k - np.array([field(*at) for at in zip(times, states, strict=True)])
            slopes = [jacobian(*at) for at in zip(times, states, strict=True)]
            matrix = np.eye(stages * size).reshape(stages, size, stages, size)
            matrix = matrix - h * np.einsum("ikl,ij->ikjl", np.array(slopes), self.a)
            k = k - np.linalg.solve(matrix.reshape(stages * size, -1), residual.ravel()).reshape(k.shape)
        error = None if self.e is None else h * self.e @ k
        return y + h * self.b @ k, error, [y + h * weights @ k for weights in self.dense]


def error_at_end(step, t0, t1, count):
    """The error at t1 after so many equal steps from the solution at t0."""
    y, h = exact(t0), (t1 - t0) / count
    for number in range(count):
        y = step(t0 + number * h, y, h)[0]
    return np.linalg.norm(y - exact(t1))


def slope(sizes, errors):
    """How many powers of the size the errors fall with."""
    return np.polyfit(np.log(sizes), np.log(errors), 1)[0]


def slope_of_steps(step, embedded=False):
    """Of the largest errors of single steps from points of the solution, between steps or of the embedded method: the slope,
    and the errors."""
    sizes, errors = 0.08 * 0.8 ** np.arange(5), []
    for h in sizes:
        found = []
        for start in (-1.4, -0.7, 0.3):
            y1, error, between = step(start, exact(start), h)
            values = [(1, y1 - error)] if embedded else zip(BETWEEN, between, strict=True)
            found += [np.linalg.norm(value - exact(start + float(x) * h)) for x, value in values]
        errors.append(max(found))
    return slope(sizes, errors), errors
