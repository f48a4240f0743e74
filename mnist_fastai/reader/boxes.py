"""Which ink is printed: boxes, the cells of tables, ruled lines, and what a crop has left of them along its edges.

A box is judged as a whole, by the outline of a connected piece of ink or of all of it. What touches a line from one
side keeps its body, and what crosses a line stays whole. `ink` below is a mask, bool [h, w].
"""

from dataclasses import dataclass

import numpy as np

LEAN = 0.15  # the greatest slope of a box's side: 8.5 degrees
SQUARE = 0.07  # the greatest difference of the sides' slopes: 4 degrees
STRAIGHT = 0.4  # the least share of a side's length in which the outline follows it
DRAWN = 0.6  # the least share of a side's length in which it is not broken
LONG = 0.4  # the least length of a side, of the ink's extent along it
THICK = 0.1  # the greatest width of a line, of the short side of the ink
REST = 0.2  # the least size of what is written in a box, of the short side of the ink
CORNER = 0.12  # the greatest distance of two sides that meet, of the short side of the ink
EDGE = 2  # pixels from the picture's edge, within which a line ends there
ENDS = 0.05  # of a line from edge to edge: where a digit touches it there, it is a stroke
COVERED = 0.9  # the least share of the way through a box in which a line of a table is visible
VISIBLE = 0.85  # the least share of its way from edge to edge on which a ruled line is visible
DARKER = 1.2  # of writing against a line, from which the two are told apart where they overlap
ROUNDS = 4  # lines within lines
SPECK = 0.05  # of ink that is no part of a broken box, in sides of the largest piece
MAX_PIECES = 60  # pieces of ink that may be boxes, the largest
MAX_NESTED = 8  # pictures' areas, in the sum of these pieces' boxes
MAX_LEVEL = 3000  # rows, at all slopes, that may be ruled lines; the cell of a grid has 300, and a hatching 50,000

TOP, LEFT, BOTTOM, RIGHT = range(4)


def _turned(a: np.ndarray, side: int) -> np.ndarray:
    """A view of [h, w] with a side on top; the columns go from left to right, or from top to bottom."""
    return (a, a.T, a[::-1], a[:, ::-1].T)[side]


@dataclass
class Side:
    """A line y = start + slope × x in the view that has it on top: its outer edge from column `left` to `right`."""

    start: float
    slope: float
    left: int
    right: int
    thick: float

    def at(self, x):
        return self.start + self.slope * x


def _outline(ink: np.ndarray, size: int) -> Side | None:
    """The straight line along which most of the ink begins, seen from the top."""
    columns = np.nonzero(ink.any(0))[0]
    columns = columns[:: -(-len(columns) // 256) or 1]
    if len(columns) < 8:
        return None
    first = ink[:, columns].argmax(0)
    step = max(1.0, 0.006 * size)
    slopes = np.linspace(-LEAN, LEAN, min(31, 2 * int(np.ceil(LEAN * ink.shape[1] / step)) + 1))[:, None]
    level = np.rint((first - slopes * columns) / step).astype(int)
    level -= level.min() - 1
    bins = level.max() + 2
    counts = np.bincount((level + bins * np.arange(len(slopes))[:, None]).ravel(), minlength=bins * len(slopes))
    counts = counts.reshape(-1, bins)
    counts = counts[:, :-2] + counts[:, 1:-1] + counts[:, 2:]
    best, row = np.unravel_index(counts.argmax(), counts.shape)
    on = np.abs(level[best] - row - 1) <= 1
    for _ in range(2):
        if on.sum() < 6:
            return None
        x, y = columns[on] - columns[on].mean(), first[on]  # least squares
        slope = x @ y / max(x @ x, 1)
        start = y.mean() - slope * columns[on].mean()
        on = np.abs(first - start - slope * columns) <= step
    if on.sum() < 6 or abs(slope) > LEAN:
        return None
    left, right = columns[on][[0, -1]]
    along = (columns >= left) & (columns <= right)
    if right - left < LONG * ink.shape[1] or on.sum() < STRAIGHT * along.sum():
        return None
    if start + slope * ink.shape[1] / 2 > ink.shape[0] / 2:  # the opposite side, seen through an open one
        return None
    at = (start + slope * columns).round().astype(int) + np.array([-1, 0, 1])[:, None] * round(step)
    drawn = ink[at.clip(0, len(ink) - 1), columns].any(0)
    if drawn[along].mean() < DRAWN:
        return None
    left, right = (_reach(drawn[::way], columns[::way], n) for way, n in ((-1, left), (1, right)))
    bare = ~ink[:, columns[on]] & (np.arange(len(ink))[:, None] > first[on])
    thick = float(np.percentile(np.where(bare.any(0), bare.argmax(0), len(ink)) - first[on], 30))
    return Side(float(start), float(slope), int(left), int(right), thick) if thick <= THICK * size + 1 else None


def _reach(drawn: np.ndarray, columns: np.ndarray, end: int) -> int:
    """The column in which a side ends, in the direction of `columns`: beyond `end`, a digit may stick out over it."""
    beyond = np.nonzero(columns == end)[0][0] + 1
    share = drawn[beyond:].cumsum() / np.arange(1, len(drawn) - beyond + 1)
    on = np.nonzero(drawn[beyond:] & (share > COVERED))[0]
    return int(columns[beyond + on[-1]]) if len(on) else end


def _cut(ink: np.ndarray, side: Side) -> np.ndarray:
    """The pixels of a line in a view of the ink, bool [h, w], without those of strokes that cross it."""
    cut = np.zeros(ink.shape, bool)
    columns = np.arange(ink.shape[1])
    outer = side.at(columns)
    reach = int(np.ceil(side.thick / 2)) + 1
    widest = max(3.2, 1.15 * side.thick + 1.5)  # run of ink that is the line alone; a turned line has steps
    beyond = max(2.0, 0.6 * side.thick)
    around = 2 * reach + widest + beyond + 2  # rows, beyond which no ink changes the answer
    top = max(0, int(outer.min() - around))
    ink = ink[top : max(top + 1, int(outer.max() + around) + 1)]
    if not ink.any():
        return cut
    outer = outer - top
    h = len(ink)
    rows = np.arange(h)[:, None]
    middle = outer + (side.thick - 1) / 2
    offsets = np.array(sorted(range(-reach, reach + 1), key=abs))[:, None]
    at = np.rint(middle + offsets).astype(int)
    hit = (at >= 0) & (at < h) & ink[at.clip(0, h - 1), columns]
    columns = columns[hit.any(0)]
    at = at[hit.argmax(0)[columns], columns]
    ink = ink[:, columns]
    start = np.where(~ink & (rows < at), rows + 1, 0).max(0)  # of the run of ink there, and its end
    end = np.where(~ink & (rows > at), rows, h).min(0)
    outer = outer[columns]
    up, down = outer - start, end - outer - side.thick
    thin = end - start <= widest
    start = np.where(thin | (up <= beyond), start, np.floor(outer - 0.5))
    end = np.where(thin | (down <= 1), end, np.ceil(outer + side.thick + 0.5))
    cut[top : top + h, columns] = (rows >= start) & (rows < end) & (thin | (up <= beyond) | (down <= beyond))
    return cut


def _meet(sides: list[Side | None], shape: tuple[int, int], edges: list[int]) -> bool:
    """Whether each side ends at another one or at the picture's edge; of a box that is open, two do not."""
    h, w = shape
    near = CORNER * min(shape) + 1
    free = []
    for i, side in enumerate(sides):
        if side is None:
            continue
        length, depth = (w, h) if i in (TOP, BOTTOM) else (h, w)
        for j in (LEFT, RIGHT) if i in (TOP, BOTTOM) else (TOP, BOTTOM):
            x = side.left if j < BOTTOM else side.right
            apart = x if j < BOTTOM else length - 1 - x
            y = side.at(x) if i < BOTTOM else depth - 1 - side.at(x)
            other = sides[j]
            at_edge = apart + edges[j] <= EDGE or side.at(x) + edges[i] <= EDGE
            if not at_edge and (other is None or apart - other.at(y) > near):
                free.append(j)
    count = sum(side is not None for side in sides)
    return not free or (count == 3 and len(set(free)) == 1 and sides[free[0]] is None)


def _inside(boxes: list[tuple[slice, slice]], sides: list[Side | None], shape: tuple[int, int]) -> np.ndarray:
    """Whether the middle of each piece of ink is inside of all sides, or sticks out a little, bool [n]."""
    middle = np.array([[(s.start + s.stop - 1) / 2 for s in box] for box in boxes]).reshape(-1, 2)
    inside = np.ones(len(boxes), bool)
    for i, side in enumerate(sides):
        if side is not None:
            y, x = (middle if i in (TOP, BOTTOM) else middle[:, ::-1]).T
            depth = y if i < BOTTOM else shape[i == RIGHT] - 1 - y
            inside &= depth > side.at(x) - CORNER * min(shape)
    return inside


def _sides(ink: np.ndarray, edges: list[int], closed: bool) -> list[Side | None] | None:
    """The sides of a box, an open one or a single line from edge to edge, where that is the outline of the ink."""
    rows, columns = (ink.any(axis).nonzero()[0] for axis in (1, 0))
    if not len(rows):
        return None
    h, w = ink.shape
    margins = rows[0], columns[0], h - 1 - rows[-1], w - 1 - columns[-1]
    at_edges = sum(n + edge <= EDGE for n, edge in zip(margins, edges, strict=True))
    inner = ink[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    y, x = ((n + 3) // 4 for n in inner.shape)
    corners = sum(bool(part[:, across].any()) for part in (inner[:y], inner[-y:]) for across in np.s_[:x, -x:])
    if corners < (4 if closed else 3) and (closed or at_edges < 2):  # a look that saves the time of `_outline`
        return None
    most = 0 if closed else 1 if not at_edges else 3  # sides that may be open
    sides: list[Side | None] = []
    for i in range(4):
        sides.append(_outline(_turned(ink, i), min(h, w)))
        if sides.count(None) > most:
            return None
    usual = np.median([side.thick for side in sides if side is not None] or [0])
    for i, side in enumerate(sides):  # a box has lines of one width, or the picture's edge cuts them
        if side is not None and side.thick > 2 * usual + 3 and side.start + edges[i] > EDGE:
            sides[i] = None
    slopes = [(1, -1, -1, 1)[i] * side.slope for i, side in enumerate(sides) if side is not None]
    return sides if slopes and np.ptp(slopes) <= SQUARE and _meet(sides, ink.shape, edges) else None


def _box(ink: np.ndarray, others: np.ndarray, edges: list[int], closed: bool = False) -> np.ndarray | None:
    """The pixels of a box, an open one or a single line that is the outline of `ink`; None if there is none.

    `others` is all ink in the same place, and `edges` are the distances to the picture's edges.
    """
    from scipy import ndimage

    sides = _sides(ink, edges, closed)
    if sides is None:
        return None
    cut = np.zeros_like(ink)
    for i, side in enumerate(sides):
        if side is not None:
            _turned(cut, i)[:] |= _cut(_turned(ink, i), side)
    missing = [side is None for side in sides]
    enclosing = sum(missing) < 2 or (sum(missing) == 2 and missing[TOP] != missing[BOTTOM])
    size = min(ink.shape)
    if enclosing:
        separators, n = _separators(others & ~cut, sides)
        cut |= separators & ink
        size /= 1 + n
    labels, boxes, sizes = _pieces(others & ~cut)
    inside = _inside(boxes, sides if enclosing else [], ink.shape)
    if not inside.any():
        return None
    written = (np.bincount(labels.ravel())[1:] * inside).argmax()
    height, width = sizes[written]
    if max(height, width) < REST * size or width > 4 * height:
        return None
    touched = ndimage.binary_dilation(labels == written + 1, np.ones((3, 3))) & cut
    if touched.any():
        y, x = boxes[written]
        opposite = ink.shape[0] - y.stop, ink.shape[1] - x.stop, y.start, x.start
        if any(side and opposite[i] + edges[i - 2] < 1 for i, side in enumerate(sides)):
            return None  # a digit that fills the picture, and a stroke of it
        if not enclosing and any(_at_end(a, b) for a, b in ((cut, touched), (cut.T, touched.T))):
            return None
    return cut | (ink & ~np.append(True, inside)[labels]) if enclosing else cut


def _at_end(line: np.ndarray, touched: np.ndarray) -> bool:
    """Whether what touches a line from edge to edge does so at its end only: a digit's next stroke begins there."""
    along, at = line.any(0).nonzero()[0], touched.any(0).nonzero()[0]
    if not len(at) or np.ptp(along) < VISIBLE * line.shape[1]:
        return False
    first, last = (at[[0, -1]] - along[0]) / (np.ptp(along) + 1)
    return bool((first < ENDS and last < 0.3) or (last > 1 - ENDS and first > 0.7))


def _separators(ink: np.ndarray, sides: list[Side | None]) -> tuple[np.ndarray, int]:
    """The pixels of the lines that go on through the inside of a box, from side to side, and their number."""
    cut, n = np.zeros_like(ink), 0
    thickest = max(side.thick for side in sides if side is not None)
    for turn in (TOP, LEFT):
        slope = np.mean([sign * s.slope for s, sign in ((sides[turn], 1), (sides[turn + 2], -1)) if s is not None])
        view = _turned(ink & ~cut, turn)
        h, w = view.shape
        left, right = (
            0 if s is None else s.at(h / 2) + s.thick + abs(s.slope) * h / 2 for s in (sides[1 - turn], sides[3 - turn])
        )
        columns = np.linspace(left + 0.03 * w, w - 1 - right - 0.03 * w, 100).astype(int)
        if columns[-1] <= columns[0]:
            continue
        thick = view | np.pad(view, ((1, 0), (0, 0)))[:-1] | np.pad(view, ((0, 1), (0, 0)))[1:]
        at = np.arange(h)[:, None] + np.rint(slope * (columns - w / 2)).astype(int)
        covered = ((at >= 0) & (at < h) & thick[at.clip(0, h - 1), columns]).mean(1) > COVERED
        ends = np.diff(np.pad(covered.astype(int), 1)).nonzero()[0].reshape(-1, 2)
        for first, end in ends:
            if end - first - 2 <= 2 * thickest + 1:  # else it is a stroke
                side = Side(first + 1 - slope * w / 2, slope, 0, w, max(1, end - first - 2))
                _turned(cut, turn)[:] |= _cut(view, side)
                n += 1
    return cut, n


def find_printed(ink: np.ndarray, absorbed: np.ndarray) -> np.ndarray:
    """The pixels of printed lines, bool [h, w], without what is written over them in darker ink.

    `absorbed` is the share of light that the ink absorbs, float [h, w].
    """
    printed = _boxes(ink)
    printed |= _ruled(ink & ~printed)
    printed |= _along_edges(ink & ~printed)
    if printed.any() and (ink & ~printed).any():
        line, written = np.percentile(absorbed[printed], 90), np.median(absorbed[ink & ~printed])
        if written > DARKER * line:
            printed &= absorbed < (line + written) / 2
    return printed


def _boxes(ink: np.ndarray) -> np.ndarray:
    """The pixels of boxes and of single lines from edge to edge, bool [h, w].

    First of pieces of ink that are closed boxes; then of all ink, if it is broken; then of pieces that are open.
    """
    several = len(_pieces(ink)[1]) > 1
    printed = _of_pieces(ink, closed=True)
    for _ in range(ROUNDS):
        rest = ink & ~printed
        found = _box(_without_specks(rest), rest, [0, 0, 0, 0])
        if found is None:
            break
        printed |= found
    return printed | _of_pieces(ink & ~printed, closed=False) if several else printed


def _pieces(ink: np.ndarray) -> tuple[np.ndarray, list[tuple[slice, slice]], np.ndarray]:
    """The numbers of the pieces of ink from 1, int [h, w], their boxes, and their heights and widths, [n, 2]."""
    from scipy import ndimage

    labels, _ = ndimage.label(ink, np.ones((3, 3)))
    boxes = ndimage.find_objects(labels)
    return labels, boxes, np.array([[s.stop - s.start for s in box] for box in boxes]).reshape(-1, 2)


def _without_specks(ink: np.ndarray) -> np.ndarray:
    labels, _, sizes = _pieces(ink)
    long = sizes.max(1, initial=0)
    return np.append(False, long >= SPECK * long.max(initial=0))[labels]


def _of_pieces(ink: np.ndarray, closed: bool) -> np.ndarray:
    printed, filled = np.zeros_like(ink), []
    labels, boxes, sizes = _pieces(ink)
    h, w = ink.shape
    areas = sizes.prod(1)
    order = np.argsort(-areas, kind="stable")[:MAX_PIECES]
    for i in order[areas[order].cumsum() <= MAX_NESTED * ink.size]:
        y, x = box = boxes[i]
        if sizes[i].min() > 0.1 * min(h, w):
            rest = ink[box] & ~printed[box]
            piece, edges = (labels[box] == i + 1) & rest, [y.start, x.start, h - y.stop, w - x.stop]
            found = _box(piece, rest, edges, closed)
            if found is not None:
                printed[box] |= found
                filled.append(sizes[i])
            elif any(np.abs(sizes[i] / size - 1).max() < 0.2 for size in filled) and _sides(piece, edges, closed):
                printed[box] |= piece  # of a form, one in which nothing is written
    return printed


def _along_edges(ink: np.ndarray) -> np.ndarray:
    """The pieces of ink that lie along the picture's edges, what a crop has left of lines; none if that is all."""
    h, w = ink.shape
    border, inner = np.ones_like(ink), np.ones_like(ink)
    deep = round(max(2, THICK * min(h, w)))
    border[EDGE:-EDGE, EDGE:-EDGE] = False
    inner[:deep] = inner[-deep:] = inner[:, :deep] = inner[:, -deep:] = False
    if not (ink & border).any() or not (ink & inner).any():
        return np.zeros_like(ink)
    labels, boxes, _ = _pieces(ink)
    along = np.zeros(len(boxes) + 1, bool)
    along[labels[border]] = True
    along[labels[inner]] = along[0] = False
    rows, columns = ((ink & ~along[labels]).any(axis).nonzero()[0] for axis in (1, 0))
    if not along.any() or max(np.ptp(rows), np.ptp(columns)) < REST * max(h, w):
        return np.zeros_like(ink)
    return along[labels]


def _ruled(ink: np.ndarray) -> np.ndarray:
    """Straight lines from edge to edge that are no outline, up to 7 degrees off level, bool [h, w]; not all the ink."""
    from scipy import ndimage

    found = [_level(_turned(ink, turn)) for turn in (TOP, LEFT)]
    rest = ink & ~found[0] & ~found[1].T
    if not (found[0].any() or found[1].any()):
        return np.zeros_like(ink)
    if not rest.any():  # a page without writing, or a 1
        return np.zeros_like(ink) if len(_pieces(ink)[1]) == 1 and not found[0].any() else ink
    labels, _, _ = _pieces(rest)
    near = ndimage.binary_dilation(labels == np.bincount(labels.ravel())[1:].argmax() + 1, np.ones((3, 3)))
    for turn, lines in enumerate(found):
        numbers, boxes, _ = _pieces(lines)
        for i in range(len(boxes)):
            y = boxes[i][0]
            line = numbers[y] == i + 1
            if _at_end(line, line & _turned(near, turn)[y]):
                lines[y] &= ~line
    return found[0] | found[1].T


def _level(ink: np.ndarray) -> np.ndarray:
    """Only in columns where the line stands alone, as staff lines are removed from scanned music."""
    from scipy import ndimage

    h, w = ink.shape
    if not (ink[:, :2].any() and ink[:, -2:].any()):
        return np.zeros_like(ink)
    columns = np.linspace(min(1, w - 1), max(w - 2, 0), min(w, 128)).astype(int)
    thick = ndimage.binary_dilation(ink[:, columns], [[0, 1, 0]] * 3)  # a line is never quite straight
    if thick.any(0).mean() < VISIBLE:
        return np.zeros_like(ink)
    runs, n = ndimage.label(ink, [[0, 1, 0]] * 3)  # of ink in a column
    length = np.bincount(runs.ravel(), minlength=n + 1)
    length[0] = h
    cut = np.zeros(n + 1, bool)
    rows, centred, seen = np.arange(h)[:, None], np.arange(w) - w / 2, 0
    for slope in np.linspace(-0.12, 0.12, 49):
        y = rows + np.rint(slope * centred[columns]).astype(int)
        inside = (y >= 0) & (y < h)
        on = np.take_along_axis(thick, y.clip(0, h - 1), 0) | ~inside
        whole = on[:, 0] & on[:, -1] & (inside.mean(1) > 0.3)
        lined = np.nonzero(whole & ((on & inside).sum(1) > VISIBLE * inside.sum(1)))[0]
        if (seen := seen + len(lined)) > MAX_LEVEL:
            return np.zeros_like(ink)
        for row in lined:
            at = np.rint(row + slope * centred + np.arange(-2, 3)[:, None]).astype(int).clip(0, h - 1)
            near = runs[at, np.arange(w)]  # [5, w], the runs within two rows of the line
            thickness = np.percentile(length[near].min(0), 25)  # a digit may hide most of the line
            if thickness <= max(1, 0.04 * min(h, w)):  # a digit that fills its picture has strokes of 0.1
                cut[near[length[near] <= 1.6 * thickness + 1]] = True
    return cut[runs]
