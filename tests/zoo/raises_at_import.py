"""A module that leaves the program when it is imported."""

import sys

sys.exit("not meant to be imported")


def work() -> None:
    return None
