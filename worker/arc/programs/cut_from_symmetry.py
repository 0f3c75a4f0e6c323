"""Fills in what is hidden from its mirror images, and cuts out that part.

Solves 9ecd008a.
"""


def solve(grid):
    x1 = restore_mirror(grid, 0)
    x2 = cut_where(x1, grid, 0)
    return x2
