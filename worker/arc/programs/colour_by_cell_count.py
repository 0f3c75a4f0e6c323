"""Colours objects of four, three and two cells.

Solves 6e82a1ae.
"""


def solve(grid):
    x1 = objects_of_one_colour(grid)
    x2 = of_size(x1, 4)
    x3 = of_size(x1, 3)
    x4 = of_size(x1, 2)
    x5 = paint(grid, x2, 1)
    x6 = paint(x5, x3, 2)
    x7 = paint(x6, x4, 3)
    return x7
