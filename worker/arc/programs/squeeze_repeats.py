"""Leaves out repeated rows and columns.

Solves 746b3537 and eb5a1d5d.
"""


def solve(grid):
    x1 = drop_repeats(grid)
    return x1
