"""Fills in what green hides from its mirror images, and cuts out that part.

Solves dc0a314f.
"""


def solve(grid):
    x1 = restore_mirror(grid, 3)
    x2 = cut_where(x1, grid, 3)
    return x2
