"""Tasks that write."""

import os
import signal
import subprocess
import sys


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
