"""Draws each room between lines as one cell, mirrored.

Solves 1190e5a7 and 9f236235.
"""


def solve(grid):
    x1 = drop_repeats(grid)
    x2 = every_other(x1)
    x3 = mirror_left_right(x2)
    return x3
