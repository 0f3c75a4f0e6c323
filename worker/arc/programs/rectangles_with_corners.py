"""Colours rectangles: edges, inside and corners.

Solves b6afb2da.
"""


def solve(grid):
    x1 = objects_of_one_colour(grid)
    x2 = insides(x1)
    x3 = corners(x1)
    x4 = recolour(grid, 5, 4)
    x5 = paint(x4, x2, 2)
    x6 = paint(x5, x3, 1)
    return x6
