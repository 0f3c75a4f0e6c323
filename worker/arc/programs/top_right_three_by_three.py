"""Keeps the corner on the right.

Solves 5bd6f4ac.
"""


def solve(grid):
    x1 = width(grid)
    x2 = plus(x1, -3)
    x3 = crop(grid, 0, x2, 3, 3)
    return x3
