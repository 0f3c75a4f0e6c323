"""Draws lines between equal cells, downwards over across.

Solves 22168020 and 22eb0ac0 and 40853293 and ded97339.
"""


def solve(grid):
    x1 = join_across(grid, 0)
    x2 = join_down(grid, 0)
    x3 = overlay(x1, x2)
    return x3
