"""Puts the mirror image to the right.

Solves 6d0aefbc and c9e6f938.
"""


def solve(grid):
    x1 = mirror_left_right(grid)
    x2 = beside(grid, x1)
    return x2
