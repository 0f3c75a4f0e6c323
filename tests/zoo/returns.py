"""Tasks that return what cannot be stored, or only just."""

import math
from collections.abc import Callable, Iterator
from typing import Any


def closure() -> Callable[[], int]:
    number = 3
    return lambda: number


def nan() -> float:
    return math.nan


def some_bytes() -> bytes:
    return b"\0\1"


def a_set() -> set[int]:
    return {1, 2}


def ring() -> list[Any]:
    around: list[Any] = []
    around.append(around)
    return around


def generator() -> Iterator[int]:
    yield 1


def tuple_keys() -> dict[tuple[int, int], int]:
    return {(1, 2): 3}


class EvilDict(dict):  # type: ignore[type-arg]
    """Ends the program when it is looked into."""

    def items(self) -> Any:
        raise SystemExit("items that leave")


def evil_dict() -> Any:
    return EvilDict(a=1)


def huge_int() -> int:
    return 10**5000


def big_int() -> int:
    return 10**400


def nested(depth: int) -> Any:
    value: Any = "core"
    for _ in range(depth):
        value = [value]
    return value


def lone_surrogate() -> str:
    return "half a character: \ud800"


def nul() -> str:
    return "before\0behind"
