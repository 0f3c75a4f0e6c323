"""Functions on functions, and the little arithmetic that programs need."""

from collections.abc import Callable
from typing import Final

from worker.arc.dsl.basics import Grid

Step = Callable[..., Grid]

MAX_REPEATS: Final = 200


def compose(first: Step, then: Step) -> Step:
    """The function that does `first`, and `then` with what it gave."""
    return lambda grid: then(first(grid))


def repeat(step: Step, times: int, grid: Grid) -> Grid:
    """The step done `times` times, at most MAX_REPEATS."""
    if not 0 <= times <= MAX_REPEATS:
        raise ValueError(f"{times} repeats are not 0 to {MAX_REPEATS}")
    for _ in range(times):
        grid = step(grid)
    return grid


def repeat_until_stable(step: Step, grid: Grid) -> Grid:
    """The step done until it changes nothing more. With a step that always changes something, this never ends."""
    while True:
        after = step(grid)
        if after == grid:
            return grid
        grid = after


def times(a: int, b: int) -> int:
    """The product of two numbers."""
    return a * b


def plus(a: int, b: int) -> int:
    """The sum of two numbers."""
    return a + b
