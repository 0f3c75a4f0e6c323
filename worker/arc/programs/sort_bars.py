"""Moves bars to the right, shortest first.

Solves beb8660c.
"""


def solve(grid):
    x1 = fall_right(grid)
    x2 = sort_rows(x1)
    return x2
