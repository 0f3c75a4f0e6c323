"""The functions that programs are written in: pure, on grids of colours 0 to 9, where 0 is the background.

Every function that a program may name is in `FUNCTIONS`. None of them changes its arguments, each ends after a bounded
amount of work except `repeat_until_stable`, and each says in a ValueError why it cannot do what it was asked.
"""

from collections.abc import Callable
from typing import Any, Final

from worker.arc.dsl import colour, control, lines, logic, objects, patterns, regions, shape
from worker.arc.dsl.basics import MAX_SIDE, Grid, Object, Objects

__all__ = ["FUNCTIONS", "MAX_SIDE", "Grid", "Object", "Objects"]

_FILES: Final = (shape, colour, logic, objects, regions, lines, patterns, control)

FUNCTIONS: Final[dict[str, Callable[..., Any]]] = {
    name: value
    for file in _FILES
    for name, value in vars(file).items()
    if callable(value) and not name.startswith("_") and getattr(value, "__module__", "") == file.__name__
}
