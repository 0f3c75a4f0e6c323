"""A module whose import takes as long as a variable says; for ever, if it says nothing."""

import os
import time

time.sleep(float(os.environ.get("ZOO_IMPORT_S", "3600")))


def work(seconds: float = 0.0) -> str:
    time.sleep(seconds)
    return "imported"
