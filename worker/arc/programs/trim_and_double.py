"""Cuts out the picture, and puts it twice side by side.

Solves 28bf18c6.
"""


def solve(grid):
    x1 = trim(grid)
    x2 = beside(x1, x1)
    return x2
