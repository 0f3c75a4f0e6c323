"""Keeps what is grey, in the other colour.

Solves f76d97a5.
"""


def solve(grid):
    x1 = recolour(grid, 5, 0)
    x2 = most_common_colour(x1)
    x3 = keep_colour(grid, 5)
    x4 = recolour(x3, 5, x2)
    return x4
