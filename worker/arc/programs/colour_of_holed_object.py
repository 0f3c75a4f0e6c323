"""Shows the colour of the object with a hole.

Solves b9b7f026.
"""


def solve(grid):
    x1 = objects_of_one_colour(grid)
    x2 = with_hole(x1)
    x3 = colour_of(x2)
    x4 = blank(1, 1, x3)
    return x4
