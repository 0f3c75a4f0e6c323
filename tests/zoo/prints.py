"""Tasks that write."""

import os
import signal
import subprocess
import sys

from zoo import kin


def both(text: str = "text") -> None:
    print(f"out {text}")
    print(f"err {text}", file=sys.stderr)


def without_an_end_then_die() -> None:
    sys.stdout.write("said before death\nhalf a line")
    os.kill(os.getpid(), signal.SIGKILL)


def control_bytes() -> None:
    os.write(1, b"\x1b[31mred\x00\xff\xfe\r\n\x07")


def by_a_child() -> None:
    subprocess.run(["echo", "a child said this"], check=True)


def much(size: int) -> None:
    os.write(1, b"x" * size)


def surrogates() -> None:
    print("\ud800")


def flood(size: int = 2**30) -> None:
    """As fast as it can: control bytes, half a character, no end of a line."""
    piece = b"\x1b[2J\x00\xff\x07\r" * 2**17
    written = 0
    while written < min(size, 2**30):
        written += os.write(1, piece)


def flood_by_a_child(path: str, size: int = 2**30) -> int:
    """The same, to standard error, by a process in a session of its own."""

    def pour() -> None:
        os.setsid()
        os.dup2(2, 1)
        flood(size)

    child = kin.fork(path, pour)
    return os.waitpid(child, 0)[1]
