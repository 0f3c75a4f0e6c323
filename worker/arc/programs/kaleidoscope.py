"""Mirrors the grid to the right and below.

Solves 62c24649 and 67e8384a and 3af2c5a8.
"""


def solve(grid):
    x1 = four_mirrors(grid)
    return x1
