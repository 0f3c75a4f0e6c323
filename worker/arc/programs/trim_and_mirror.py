"""Cuts out the picture, and mirrors it.

Solves 67a3c6ac and 7468f01a.
"""


def solve(grid):
    x1 = trim(grid)
    x2 = mirror_left_right(x1)
    return x2
