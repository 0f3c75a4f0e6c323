"""Draws lines between equal cells in a row.

Solves 22eb0ac0 and 22168020.
"""


def solve(grid):
    x1 = join_across(grid, 0)
    return x1
