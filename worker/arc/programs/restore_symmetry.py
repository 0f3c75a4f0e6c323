"""Fills in yellow from its mirror images.

Solves b8825c91.
"""


def solve(grid):
    x1 = restore_mirror(grid, 4)
    return x1
