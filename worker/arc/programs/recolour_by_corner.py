"""Gives the object the colour of the lower left corner, and empties the corner.

Solves aabf363d.
"""


def solve(grid):
    x1 = objects_of_one_colour(grid)
    x2 = largest(x1)
    x3 = cell(grid, -1, 0)
    x4 = recolour(grid, x3, 0)
    x5 = paint(x4, x2, x3)
    return x5
