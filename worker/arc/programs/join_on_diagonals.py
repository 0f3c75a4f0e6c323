"""Draws diagonal lines between equal cells.

Solves 1f876c06.
"""


def solve(grid):
    x1 = join_diagonally(grid, 0)
    return x1
