"""Fills in what hides a repeating pattern.

Solves 0dfd9992 and 29ec7d0e and c3f564a4.
"""


def solve(grid):
    x1 = restore_tiling(grid, 0)
    return x1
