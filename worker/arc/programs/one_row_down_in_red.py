"""Moves everything down by one row and makes it red.

Solves 25ff71a9 and a79310a0.
"""


def solve(grid):
    x1 = shift(grid, 1, 0)
    x2 = recolour(x1, 8, 2)
    return x2
