"""What comes to a trajectory from outside: drivers, functions of time that were measured or designed."""

from .drivers import Driver
from .tables import Tables, read_drivers

__all__ = ["Driver", "Tables", "read_drivers"]
