"""Draws a blue line round red cells.

Solves dc1df850.
"""


def solve(grid):
    x1 = keep_colour(grid, 2)
    x2 = outline(x1, 1)
    x3 = overlay(grid, x2)
    return x3
