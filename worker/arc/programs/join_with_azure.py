"""Draws azure lines between cells, both ways.

Solves dbc1a6ce and ded97339.
"""


def solve(grid):
    x1 = join_across(grid, 8)
    x2 = join_down(grid, 8)
    x3 = overlay(x1, x2)
    return x3
