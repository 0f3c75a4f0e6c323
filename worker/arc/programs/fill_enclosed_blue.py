"""Fills enclosed areas with blue.

Solves a5313dff.
"""


def solve(grid):
    x1 = fill_enclosed(grid, 1)
    return x1
