"""Lays the lower half over the upper one.

Solves e98196ab.
"""


def solve(grid):
    x1 = top_half(grid)
    x2 = bottom_half(grid)
    x3 = overlay(x1, x2)
    return x3
