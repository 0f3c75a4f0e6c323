"""Keeps the leftmost of three parts.

Solves 2dee498d.
"""


def solve(grid):
    x1 = band_across(grid, 3, 0)
    return x1
