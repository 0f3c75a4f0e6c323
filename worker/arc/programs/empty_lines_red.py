"""Paints rows and columns that are empty red.

Solves c1d99e64.
"""


def solve(grid):
    x1 = paint_empty_lines(grid, 2)
    return x1
