"""Fills in what blue hides from its mirror images, and cuts out that part.

Solves ff805c23.
"""


def solve(grid):
    x1 = restore_mirror(grid, 1)
    x2 = cut_where(x1, grid, 1)
    return x2
