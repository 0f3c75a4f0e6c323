"""Draws green lines between cells, both ways.

Solves 253bf280.
"""


def solve(grid):
    x1 = join_across(grid, 3)
    x2 = join_down(grid, 3)
    x3 = overlay(x1, x2)
    return x3
