"""Cuts out the object that has a mark of its own colour in it, without the mark.

Solves 1cf80156 and 5117e062.
"""


def solve(grid):
    x1 = objects_of_any_colour(grid)
    x2 = with_most_colours(x1)
    x3 = cut_out(x2)
    x4 = most_common_colour(x3)
    x5 = recolour_filled(x3, x4)
    return x5
