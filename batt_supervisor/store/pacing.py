"""How much a step of a large removal takes, so that no other caller waits long for the writer."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Final

STEP_S: Final = 0.008
"""How long a step goes on removing. Its commit takes about as long again, for it has many pages to write."""


def paced(most: int, at_once: int) -> Iterator[int]:
    """How many to take next: few at first, then more, until the step has lasted long enough or has taken `most`."""
    until_s, chunk = time.monotonic() + STEP_S, 4
    while most > 0:
        yield min(chunk, most)
        most -= chunk
        if time.monotonic() > until_s:
            return
        chunk = min(chunk * 2, at_once)
