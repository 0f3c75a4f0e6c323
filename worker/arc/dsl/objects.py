"""Objects: connected cells, found, told apart, cut out and painted."""

from collections import Counter

from worker.arc.dsl.basics import Grid, Object, Objects


def objects_of_one_colour(grid: Grid) -> Objects:
    """The connected parts of one colour each, corners not connecting, background left out."""
    return _parts(grid, corners=False, mixed=False)


def objects_touching(grid: Grid) -> Objects:
    """The connected parts of one colour each, corners connecting, background left out."""
    return _parts(grid, corners=True, mixed=False)


def objects_of_any_colour(grid: Grid) -> Objects:
    """The connected parts of what is not background whatever the colours, corners connecting."""
    return _parts(grid, corners=True, mixed=True)


def objects_in(grid: Grid, colour: int) -> Objects:
    """The connected parts of this colour, which may be the background, corners not connecting."""
    return _parts(tuple(tuple(1 if c == colour else 0 for c in row) for row in grid), False, False, colour)


def how_many(objects: Objects) -> int:
    """The number of objects."""
    return len(objects)


def largest(objects: Objects) -> Objects:
    """The object of most cells, the first of equals; alone in its tuple."""
    return (max(_some(objects), key=len),)


def smallest(objects: Objects) -> Objects:
    """The object of fewest cells, the first of equals; alone in its tuple."""
    return (min(_some(objects), key=len),)


def by_size(objects: Objects, place: int) -> Objects:
    """The object in this place when sorted by size, largest first, counted from 0; alone in its tuple."""
    if not 0 <= place < len(objects):
        raise ValueError(f"there is no place {place} among {len(objects)} objects")
    return (sorted(objects, key=len, reverse=True)[place],)


def of_size(objects: Objects, cells: int) -> Objects:
    """Those of exactly so many cells."""
    return tuple(item for item in objects if len(item) == cells)


def larger_than(objects: Objects, cells: int) -> Objects:
    """Those of more than so many cells."""
    return tuple(item for item in objects if len(item) > cells)


def with_hole(objects: Objects) -> Objects:
    """Those that enclose cells which are not theirs (a way out over corners does not count)."""
    return tuple(item for item in objects if _encloses(item))


def with_symmetry(objects: Objects) -> Objects:
    """Those that equal their own left-right mirror image."""
    return tuple(item for item in objects if (image := _image(item)) == tuple(row[::-1] for row in image))


def with_most_of(objects: Objects, colour: int) -> Objects:
    """The object with most cells of this colour, the first of equals; alone in its tuple."""
    return (max(_some(objects), key=lambda item: sum(c == colour for _, _, c in item)),)


def with_most_colours(objects: Objects) -> Objects:
    """The object of most colours, the first of equals; alone in its tuple."""
    return (max(_some(objects), key=lambda item: len({c for _, _, c in item})),)


def most_frequent(objects: Objects) -> Objects:
    """The first object of the form, colours included, that occurs most often; alone in its tuple."""
    images = [_image(item) for item in _some(objects)]
    often = Counter(images).most_common(1)[0][0]
    return (objects[images.index(often)],)


def insides(objects: Objects) -> Objects:
    """Of each object the cells whose eight neighbours are its own; objects without such cells are left out."""
    inner = []
    for item in objects:
        own = {(row, column) for row, column, _ in item}
        kept = tuple(
            (r, c, colour)
            for r, c, colour in item
            if all((r + down, c + across) in own for down in (-1, 0, 1) for across in (-1, 0, 1))
        )
        if kept:
            inner.append(kept)
    return tuple(inner)


def corners(objects: Objects) -> Objects:
    """Of each object those of its cells that are corners of its bounding box; objects without any are left out."""
    found = []
    for item in objects:
        top, left, bottom, right = _box(item)
        kept = tuple(cell for cell in item if cell[0] in (top, bottom) and cell[1] in (left, right))
        if kept:
            found.append(kept)
    return tuple(found)


def colour_of(objects: Objects) -> int:
    """The most common colour of the first object; of equals the lowest."""
    counts = Counter(colour for _, _, colour in _some(objects)[0])
    return max(sorted(counts), key=lambda colour: counts[colour])


def cut_out(objects: Objects) -> Grid:
    """The first object alone, in a grid of the size of its bounding box."""
    return _image(_some(objects)[0])


def view(grid: Grid, objects: Objects) -> Grid:
    """The part of the grid inside the bounding box of the first object, whatever else lies there."""
    top, left, bottom, right = _box(_some(objects)[0])
    if bottom >= len(grid) or right >= len(grid[0]):
        raise ValueError("the object lies outside the grid")
    return tuple(row[left : right + 1] for row in grid[top : bottom + 1])


def paint(grid: Grid, objects: Objects, colour: int) -> Grid:
    """The cells of all these objects in this colour; they must lie inside the grid."""
    return _write(grid, tuple((row, column, colour) for item in objects for row, column, _ in item))


def draw(grid: Grid, objects: Objects) -> Grid:
    """These objects in their own colours, where they are, over the grid; they must lie inside it."""
    return _write(grid, tuple(cell for item in objects for cell in item))


def _some(objects: Objects) -> Objects:
    if not objects:
        raise ValueError("there is no object to choose from")
    return objects


def _parts(grid: Grid, corners: bool, mixed: bool, paint_as: int | None = None) -> Objects:
    """Connected parts of the filled cells, by a flood over a flat list with a rim of background on every side."""
    stride = len(grid[0]) + 1
    flat = [0] * (stride + 1)
    for row in grid:
        flat.extend(row)
        flat.append(0)
    flat.extend([0] * (stride + 1))
    steps = [1, -1, stride, -stride]
    if corners:
        steps += [stride + 1, stride - 1, -stride + 1, -stride - 1]
    found = []
    for start, colour in enumerate(flat):
        if not colour:
            continue
        flat[start] = 0
        cells = [(start, colour)]
        for position, _ in cells:  # grows while it is gone through
            for step in steps:
                there = position + step
                other = flat[there]
                if other and (mixed or other == colour):
                    flat[there] = 0
                    cells.append((there, other))
        cells.sort()
        first = stride + 1
        found.append(
            tuple(
                (*divmod(position - first, stride), other if paint_as is None else paint_as)
                for position, other in cells
            )
        )
    return tuple(found)


def _box(item: Object) -> tuple[int, int, int, int]:
    """Top, left, bottom and right of an object, all inside it."""
    columns = [column for _, column, _ in item]
    return item[0][0], min(columns), item[-1][0], max(columns)


def _image(item: Object) -> Grid:
    top, left, bottom, right = _box(item)
    rows = [[0] * (right - left + 1) for _ in range(bottom - top + 1)]
    for row, column, colour in item:
        rows[row - top][column - left] = colour
    return tuple(map(tuple, rows))


def _encloses(item: Object) -> bool:
    if len(item) < 4:  # four cells round one, that touch at their corners, are the least
        return False
    own = {(row, column) for row, column, _ in item}
    top, left, bottom, right = _box(item)
    todo = [(top - 1, left - 1)]
    outside = set(todo)
    for row, column in todo:  # grows while it is gone through
        for there in ((row + 1, column), (row - 1, column), (row, column + 1), (row, column - 1)):
            if (
                there not in own
                and there not in outside
                and top - 1 <= there[0] <= bottom + 1
                and left - 1 <= there[1] <= right + 1
            ):
                outside.add(there)
                todo.append(there)
    return len(outside) + len(own) < (bottom - top + 3) * (right - left + 3)


def _write(grid: Grid, cells: Object) -> Grid:
    rows: dict[int, list[int]] = {}
    for row, column, colour in cells:
        if row >= len(grid) or column >= len(grid[0]):
            raise ValueError(f"cell ({row}, {column}) is not inside a grid of {len(grid)} by {len(grid[0])}")
        rows.setdefault(row, list(grid[row]))[column] = colour
    return tuple(tuple(rows[index]) if index in rows else row for index, row in enumerate(grid))
