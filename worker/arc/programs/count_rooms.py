"""Counts the rooms between lines, across and down.

Solves 1190e5a7.
"""


def solve(grid):
    x1 = drop_repeats(grid)
    x2 = every_other(x1)
    return x2
