"""Tasks that raise."""

import os
from typing import Any


class NeedsTwo(Exception):
    """Pickles, and cannot be rebuilt from its pickle."""

    def __init__(self, first: str, second: str) -> None:
        super().__init__(f"{first} and {second}")


class EvilText(Exception):
    """Cannot be shown: its text ends the program, its name is a lie."""

    def __str__(self) -> str:
        raise SystemExit("a message that leaves")

    __repr__ = __str__

    def __reduce__(self) -> Any:
        os._exit(9)


class Unpicklable(Exception):
    def __init__(self) -> None:
        super().__init__("holds a function")
        self.held = lambda: None


def value_error(text: str = "wrong") -> None:
    raise ValueError(text)


def cannot_be_rebuilt() -> None:
    raise NeedsTwo("one", "two")


def evil_text() -> None:
    raise EvilText


def unpicklable() -> None:
    raise Unpicklable


def keyboard_interrupt() -> None:
    raise KeyboardInterrupt


def generator_exit() -> None:
    raise GeneratorExit


def recursion() -> None:
    recursion()


def group() -> None:
    raise ExceptionGroup("several", [ValueError("a"), ExceptionGroup("inner", [KeyError("b")])])


def chain() -> None:
    try:
        raise KeyError("first")
    except KeyError as error:
        raise ValueError("second") from error


def own_cause() -> None:
    """An exception whose chain is a ring."""
    error = ValueError("its own cause")
    other = KeyError("the other")
    error.__cause__, other.__cause__ = other, error
    raise error


def memory_error() -> None:
    raise MemoryError


def ask_for_too_much() -> int:
    return len(bytearray(2**62))


def no_thread() -> None:
    raise RuntimeError("can't start new thread")


def huge_text(size: int = 10_000_000) -> None:
    raise ValueError("ä" * size)


def lone_surrogate() -> None:
    raise ValueError("half a character: \ud800")


def nul() -> None:
    raise ValueError("before\0behind")


def fail_until(mark: str, times: int) -> int:
    """Fail so many times, counting in a file."""
    with open(mark, "a+") as counted:
        counted.write("x")
        counted.seek(0)
        tries = len(counted.read())
    if tries <= times:
        raise ValueError(f"try {tries}")
    return tries
