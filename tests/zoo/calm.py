"""Tasks that do what they should."""

import os
import time
from typing import Any


def nothing() -> None:
    return None


def echo(value: Any = None) -> Any:
    return value


def add(a: int, b: int = 0) -> int:
    return a + b


def sleep(seconds: float) -> float:
    time.sleep(seconds)
    return seconds


def sleep_a_second() -> str:
    time.sleep(1)
    return "slept"


def pid(_item: Any = None) -> int:
    return os.getpid()


def variable(name: str) -> str | None:
    return os.environ.get(name)


def big(size: int) -> str:
    """A text of so many bytes."""
    return "x" * size


def wait_for_file(path: str) -> str:
    """Stay until the file is there."""
    while not os.path.exists(path):
        time.sleep(0.005)
    return "seen"


def tell_and_wait(told: str, path: str) -> str:
    """Make a file, then stay until another one is there."""
    with open(told, "w"):
        pass
    return wait_for_file(path)


def big_when_told(told: str, path: str, size: int) -> str:
    """A text of so many bytes, once the file is there."""
    tell_and_wait(told, path)
    return big(size)
