"""Mirrors the grid in its diagonal.

Solves 74dd1130 and 9dfd6313.
"""


def solve(grid):
    x1 = mirror_diagonal(grid)
    return x1
