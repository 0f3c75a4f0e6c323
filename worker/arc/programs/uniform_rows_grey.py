"""Paints rows of one colour grey, and empties the others.

Solves 25d8a9c8.
"""


def solve(grid):
    x1 = mark_uniform_rows(grid, 5)
    return x1
