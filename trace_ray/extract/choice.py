"""Chooses an engine by its name."""

from trace_ray.errors import UnsupportedExtraction
from trace_ray.extract.cryo import CryoEngine
from trace_ray.extract.engine import Engine
from trace_ray.extract.native import NativeEngine


def make_engine(name: str) -> Engine:
    """Return the engine that TRACE_ENGINE names.

    Raises:
        UnsupportedExtraction: there is none of that name, or its program is not installed here.
    """
    match name:
        case "cryo":
            return CryoEngine()
        case "native":
            return NativeEngine()
        case _:
            raise UnsupportedExtraction(f"there is no engine {name}: set TRACE_ENGINE to cryo or native")
