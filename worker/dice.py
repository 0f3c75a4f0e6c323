"""Random generators at the start of an attempt: no two attempts draw the same numbers, unless they are asked to.

A worker is a copy of the process it was forked from, with that one's generators, and it serves several attempts.
"""

from __future__ import annotations

import os
import random
import sys


def shake(seed: int | None) -> None:
    """Seed `random`, and numpy's global generator where numpy is loaded.

    Args:
        seed: Any integer of up to 64 bits; None for fresh entropy.
    """
    number = int.from_bytes(os.urandom(8), "little") if seed is None else seed
    random.seed(number)
    numpy = sys.modules.get("numpy.random")
    if numpy is not None:
        # Two words: numpy takes 32 bits each.
        numpy.seed([number & 0xFFFFFFFF, number >> 32 & 0xFFFFFFFF])
