"""Tasks that do what they should, beside those that do not; each call leaves a line."""

import os
import time


def square(path: str, number: int, seconds: float = 0.01) -> int:
    fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
    os.write(fd, f"{number}\n".encode())
    os.close(fd)
    time.sleep(seconds)
    return number**2
