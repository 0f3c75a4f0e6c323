"""Lays the upside down image over the grid.

Solves 496994bd and 68b16354 and f25ffba3.
"""


def solve(grid):
    x1 = mirror_top_bottom(grid)
    x2 = overlay(grid, x1)
    return x2
