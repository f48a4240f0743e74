"""Digits drawn by a pen that follows a skeleton, for the shapes that MNIST hardly has.

    images, labels = draw_digits(8000, seed=1)  # uint8 [8000, 28, 28], int64 [8000]

MNIST was written in the USA (Grother 1995, NIST Special Database 19). Elsewhere a 1 has a long upstroke and sometimes a
foot, a 7 a bar or a serif, a 4 a round top or a stem that runs on, a 9 a small or filled loop, a 2 a loop or a long
foot. Each function below gives the skeleton of one such digit as strokes of jittered control points; `draw` bends,
slants and inks it, and `reader.form` brings it into MNIST's format, as it does a photo. The ranges were chosen by eye,
on sheets of drawn digits beside MNIST's (benchmarks/strokes.png). NumPy, SciPy and Pillow only.
"""

from collections.abc import Callable
from math import cos, pi, sin

import numpy as np
from PIL import Image, ImageDraw
from scipy import ndimage
from scipy.interpolate import CubicSpline

from .errors import InputError
from .reader.form import fit_strokes

N, SEED = 8000, 1  # of the digits in datasets/strokes: 12% of the training images with them
HEIGHT = 96  # pixels of a digit while it is drawn
FINE = 4  # drawn at so many times that size, and reduced
STEP = 0.004  # between two places of the pen; lengths are parts of the digit's height
# How often each digit is drawn: what differs most between countries comes most.
SHARES = {1: 0.22, 7: 0.22, 4: 0.2, 9: 0.12, 2: 0.1, 3: 0.04, 5: 0.04, 0: 0.02, 6: 0.02, 8: 0.02}

Point = tuple[float, float]  # x to the right and y down
Stroke = list[list[Point]]  # curves of which each begins where the one before it ends, with a corner there


def draw_digits(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """`n` images in MNIST's format, uint8 [n, 28, 28], and their digits, int64 [n], as frequent as SHARES has them.

    An image follows from `seed` and its index alone, so that the first of 8,000 are those of 100.
    """
    images, labels = np.empty((n, 28, 28), np.uint8), np.empty(n, np.int64)
    for i in range(n):
        rng = np.random.default_rng([seed, i])
        labels[i] = rng.choice(list(SHARES), p=list(SHARES.values()))
        images[i] = draw(int(labels[i]), rng)
    return images, labels


def draw(digit: int, rng: np.random.Generator) -> np.ndarray:
    """An image of a digit in MNIST's format, uint8 [28, 28]. Raises InputError for what is no digit."""
    if digit not in SKELETONS:
        raise InputError(f"{digit!r} is no digit that can be drawn; give one from 0 to 9")
    return fit_strokes(draw_ink(digit, rng))


def draw_ink(digit: int, rng: np.random.Generator) -> np.ndarray:
    """A digit of about HEIGHT pixels, float32 [h, w], 0 for paper and 1 for full ink."""
    strokes = [_bend(stroke, rng) for stroke in SKELETONS[digit](rng)]
    strokes = _place(strokes, rng)
    thick = {1: 0.26, 7: 0.26, 9: 0.14}.get(digit, 0.2)  # a thicker pen would fill what tells the digit from others
    width = rng.uniform(0.05, min(0.17, thick)) if rng.random() < 0.85 else rng.uniform(0.02, thick)
    ink = _ink(strokes, width, rng)
    return ndimage.gaussian_filter(ink, HEIGHT * rng.uniform(0, 0.012)) if rng.random() < 0.7 else ink


# --- the pen ----------------------------------------------------------------------------------------------------------


def _bend(stroke: Stroke, rng: np.random.Generator) -> np.ndarray:
    """Places of the pen along a stroke, float [n, 2], STEP apart: splines through control points that a hand misses."""
    ends = {curve[0] for curve in stroke} | {stroke[-1][-1]}
    missed = {p: np.add(p, rng.normal(0, 0.012, 2)) for p in sorted(ends)}
    path = np.concatenate([_spline([missed.get(p, p) for p in curve], rng) for curve in stroke])
    return _even(ndimage.gaussian_filter1d(path, rng.uniform(0.5, 7), axis=0, mode="nearest"))  # hands round corners


def _spline(points: list, rng: np.random.Generator) -> np.ndarray:
    """A natural cubic spline with centripetal parameters (Lee 1989), which overshoot little; float [n, 2]."""
    knots = np.array(points, float)
    knots[1:-1] += rng.normal(0, 0.012 if len(knots) < 6 else 0.008, knots[1:-1].shape)
    if len(knots) == 2:  # no hand draws a straight line
        along = knots[1] - knots[0]
        knots = np.insert(knots, 1, knots.mean(0) + rng.normal(0, 0.02) * along[::-1] * (1, -1), 0)
    at = np.concatenate([[0], np.cumsum(np.sqrt(np.maximum(np.hypot(*np.diff(knots, axis=0).T), 1e-3)))])
    return _even(CubicSpline(at, knots, bc_type="natural")(np.linspace(0, at[-1], 200)))


def _even(path: np.ndarray) -> np.ndarray:
    """The same path with points STEP apart."""
    at = np.concatenate([[0], np.cumsum(np.hypot(*np.diff(path, axis=0).T))])
    wanted = np.linspace(0, at[-1], max(2, round(at[-1] / STEP)))
    return np.stack([np.interp(wanted, at, axis) for axis in path.T], 1)


def _place(strokes: list[np.ndarray], rng: np.random.Generator) -> list[np.ndarray]:
    """Stretch, slant and turn strokes together, and have the hand tremble."""
    slant, angle, wide = rng.normal(0.08, 0.16), rng.normal(0, 0.06), np.exp(rng.normal(0, 0.15))
    slant = np.clip(slant, -0.25, 0.45)
    turn = np.array([[cos(angle), -sin(angle)], [sin(angle), cos(angle)]])
    matrix = turn @ [[wide, -slant], [0, 1]]
    tremor = rng.uniform(0, 0.008)
    return [path @ matrix.T + tremor * _wander(path.shape, 15, rng) for path in strokes]


def _wander(shape: tuple[int, ...], pace: float, rng: np.random.Generator) -> np.ndarray:
    """Noise of standard deviation 1 that changes over about `pace` places of the pen."""
    return ndimage.gaussian_filter1d(rng.normal(0, 1, shape), pace, axis=0) * np.sqrt(2 * pace * np.sqrt(pi))


def _ink(strokes: list[np.ndarray], width: float, rng: np.random.Generator) -> np.ndarray:
    """Ink of a round pen, float32 [h, w] in [0, 1], whose width varies with the pressure."""
    scale, edge = HEIGHT * FINE, 0.6 * width + 0.05
    corner = np.min([path.min(0) for path in strokes], axis=0) - edge
    size = np.ceil((np.max([path.max(0) for path in strokes], axis=0) + edge - corner) * HEIGHT).astype(int)
    page = Image.new("L", tuple(int(n) * FINE for n in size))
    pen, pressure, lift = ImageDraw.Draw(page), rng.uniform(0, 0.1), rng.uniform(0, 0.4) * (rng.random() < 0.4)
    for path in strokes:
        at = np.arange(len(path))[::-1] * STEP  # from the stroke's end
        lifted = lift * (1 - np.clip(at / 0.25, 0, 1))  # the pen is lifted while it still moves
        radii = scale * width / 2 * np.clip(1 + pressure * _wander(at.shape, 40, rng), 0.7, 1.25) * (1 - lifted)
        every = max(1, int(0.1 * width / STEP))
        for (x, y), r in zip(((path - corner) * scale)[::every].tolist(), radii[::every].tolist(), strict=True):
            pen.ellipse((x - r, y - r, x + r, y + r), fill=255)
    return np.asarray(page.reduce(FINE), np.float32) / 255


# --- the skeletons ----------------------------------------------------------------------------------------------------


def _oval(x: float, y: float, wide: float, high: float, start: float, stop: float, n: int = 9) -> list[Point]:
    """An arc of an ellipse about (x, y) with these radii, from one angle to another: 0 is right, and 0.25 down."""
    turns = np.linspace(start, stop, n)
    return [(x + wide * cos(2 * pi * t), y + high * sin(2 * pi * t)) for t in turns.tolist()]


def _zero(rng: np.random.Generator) -> list[Stroke]:
    """Closed, short of closing, or run over."""
    start = rng.uniform(-0.4, -0.1)
    return [[_oval(0, 0.5, rng.uniform(0.22, 0.42), 0.5, start, start - rng.uniform(0.93, 1.12), 12)]]


def _one(rng: np.random.Generator) -> list[Stroke]:
    """A bar; with an upstroke, short or as long as the stem; with a foot."""
    kind = rng.choice(["bar", "short", "long", "apart"], p=[0.1, 0.25, 0.6, 0.05])
    lean = rng.normal(0, 0.06)
    top, bottom = (0.0, 0.0), (lean, 1.0)
    stem = [top, (lean / 2 + rng.normal(0, 0.015), 0.5), bottom]
    foot = rng.random() < (0.1 if kind == "bar" else 0.35)
    strokes = [[stem]]
    if kind != "bar":
        down = rng.uniform(0.12, 0.35) if kind == "short" else rng.uniform(0.3, 0.55 if foot else 0.85)
        across = down * np.tan(rng.uniform(0.25, 0.85 if kind == "short" else 0.8))
        start = (-across, down)
        bow = rng.normal(0.02, 0.05)
        middle = (-across / 2 + bow * down, down / 2 + bow * across)
        if kind == "apart":
            gap = rng.uniform(0.02, 0.12)
            strokes = [[[start, middle, (-gap, gap / 2)]], [stem]]
        else:
            strokes = [[[start, middle, top], stem]]
    if foot:
        left, right, slope = rng.uniform(0.12, 0.4), rng.uniform(0.12, 0.4), rng.normal(0, 0.03)
        y = 1 + rng.normal(0, 0.015)
        strokes.append([[(lean - left, y + slope), (lean + right, y - slope)]])
    return strokes


def _two(rng: np.random.Generator) -> list[Stroke]:
    """With a loop or a corner at the lower left, and a foot that is short or long, straight or a wave."""
    wide, high = rng.uniform(0.2, 0.36), rng.uniform(0.2, 0.32)
    arch = _oval(0.3, high, wide, high, rng.uniform(-0.55, -0.42), 0.08)
    left, long = rng.uniform(-0.1, 0.1), rng.uniform(0.55, 0.75) if rng.random() < 0.6 else rng.uniform(0.75, 1.1)
    y = rng.uniform(0.9, 1.0)
    if rng.random() < 0.45:
        tall = rng.uniform(0.05, 0.14)
        low = (left + rng.uniform(0.05, 0.15), y)
        loop = [low, (left - 0.06, y - 0.3 * tall), (left + 0.02, y - tall), (left + 0.22, y - 0.4 * tall)]
        return [[[*arch, (0.3, 0.66), *loop, (left + long * 0.75, 0.98), (left + long, 0.9 + rng.normal(0, 0.03))]]]
    wave = rng.normal(0, 0.03)
    foot = [(left, y), (left + long / 3, y - wave), (left + long * 2 / 3, y + wave), (left + long, y)]
    return [[[*arch, (0.28 + left / 2, 0.62 + rng.normal(0, 0.02)), (left, y)], foot]]


def _three(rng: np.random.Generator) -> list[Stroke]:
    """With a flat top and a corner, or round."""
    waist, right = rng.uniform(0.36, 0.48), rng.uniform(0.5, 0.65)
    low = _oval(0.2, (1 + waist) / 2, right - 0.2, (1 - waist) / 2, -0.2, rng.uniform(0.35, 0.45))
    inner = (rng.uniform(0.15, 0.3), waist)
    if rng.random() < 0.6:
        return [[[(0, rng.uniform(0, 0.06)), (right * 0.9, 0)], [(right * 0.9, 0), inner], [inner, *low]]]
    top = _oval(0.22, waist / 2, right - 0.27, waist / 2, -0.45, 0.18)
    return [[[*top, inner], [inner, *low]]]


def _four(rng: np.random.Generator) -> list[Stroke]:
    """Open, closed, or with a round top; the stem may begin above the bar or at it, and run on below."""
    kind = rng.choice(["open", "closed", "round", "bowl"], p=[0.4, 0.25, 0.15, 0.2])
    bar, stem_x = rng.uniform(0.4, 0.7), rng.uniform(0.42, 0.62)
    over = rng.uniform(0.12, 0.3)  # of the bar beyond the stem
    corner, end = (0.0, bar), (stem_x + over, bar + rng.normal(-0.01, 0.04))
    foot = (stem_x + rng.normal(-0.03, 0.05), 1.0)
    if kind == "closed":
        apex = (stem_x, 0.0)
        if rng.random() < 0.5:  # without lifting the pen: down along the diagonal, and back to the top
            return [[[apex, corner], [corner, end]], [[(stem_x + rng.normal(0, 0.02), rng.uniform(0, 0.06)), foot]]]
        return [[[end, corner], [corner, apex], [apex, foot]]]
    if kind == "round":
        r = rng.uniform(0.06, 0.14)
        arch = [(stem_x - 2 * r, 0.7 * r), (stem_x - r, 0.0), (stem_x, r)]
        return [[[end, corner], [corner, *arch, (stem_x, 0.5), foot]]]
    arm = (rng.uniform(0.0, 0.3), rng.uniform(0.0, 0.12))
    top = rng.uniform(0, 0.25) if rng.random() < 0.65 else rng.uniform(0.25, bar - 0.1)
    stem: Stroke = [[(stem_x + rng.uniform(0, 0.1), top), foot]]
    if rng.random() < 0.12:  # the bar stops short of the stem
        end = (stem_x - rng.uniform(0.0, 0.1), end[1])
    if kind == "open":
        return [[[arm, ((arm[0] + corner[0]) / 2 - 0.02, (arm[1] + bar) / 2), corner], [corner, end]], stem]
    if rng.random() < 0.5:  # as a u with a stem
        end = (stem_x, bar - rng.uniform(0, 0.1))
    return [[[arm, (arm[0] - 0.03, bar * 0.6), (arm[0] + 0.08, bar * 0.95), (stem_x * 0.7, bar), end]], stem]


def _five(rng: np.random.Generator) -> list[Stroke]:
    """In one stroke, or with a top of its own that need not touch."""
    waist, left = rng.uniform(0.35, 0.48), rng.uniform(0, 0.1)
    bowl = _oval(0.22, (1 + waist) / 2, rng.uniform(0.28, 0.4), (1 - waist) / 2, -0.25, rng.uniform(0.3, 0.45))
    flag, y = (rng.uniform(0.45, 0.7), rng.normal(0, 0.03)), rng.uniform(0, 0.03)
    back = (left + rng.normal(-0.03, 0.02), waist)
    if rng.random() < 0.4:
        return [[[flag, (left, y)], [(left, y), back], [back, *bowl]]]
    gap = rng.uniform(0, 0.1)
    return [[[(left, y), back], [back, *bowl]], [[(left + gap, y - gap / 3), flag]]]


def _six(rng: np.random.Generator) -> list[Stroke]:
    """With a straight or a bent stem, and a small or large loop."""
    r, x = rng.uniform(0.18, 0.3), 0.3
    loop = _oval(x, 1 - r, rng.uniform(0.18, 0.3), r, 0.5, -rng.uniform(0.5, 0.62), 11)
    top = (x + rng.uniform(-0.1, 0.25), 0.0)
    bend = (x - rng.uniform(0.12, 0.2), 0.4) if rng.random() < 0.7 else ((top[0] + loop[0][0]) / 2, (1 - r) / 2)
    return [[[top, bend, *loop]]]


def _seven(rng: np.random.Generator) -> list[Stroke]:
    """With a bar, a serif, both or neither; the top level or a wave, the stem straight or bent."""
    bar, serif = [(True, False), (False, True), (True, True), (False, False)][rng.choice(4, p=[0.4, 0.15, 0.35, 0.1])]
    right, rise = rng.uniform(0.45, 0.75), rng.normal(0.01, 0.04)
    corner = (right, 0.0)
    foot = (rng.uniform(0.1, 0.4) if rng.random() < 0.8 else right - rng.uniform(0, 0.15), 1.0)
    left = (0.0, rise)
    wave = rng.normal(0, 0.03)
    top = [left, (right / 3, rise + wave), (2 * right / 3, rise / 2 - wave), corner]
    bend = rng.normal(0.0, 0.05) if rng.random() < 0.7 else -rng.uniform(0.05, 0.15)
    middle = ((right + foot[0]) / 2 + bend, 0.5)
    stroke: Stroke = [top, [corner, middle, foot]]
    if serif:
        stroke = [[(left[0] + rng.normal(-0.02, 0.03), rise + rng.uniform(0.08, 0.3)), left], *stroke]
    strokes = [stroke]
    if bar:
        y = rng.uniform(0.38, 0.62)
        x = np.interp(y, [0, 0.5, 1], [right, middle[0], foot[0]])
        slope = rng.normal(0.02, 0.05)
        a, b = rng.uniform(0.1, 0.3), rng.uniform(0.1, 0.3)
        strokes.append([[(x - a, y + slope), (x + b, y - slope)]])
    return strokes


def _eight(rng: np.random.Generator) -> list[Stroke]:
    """Two circles, or one stroke that crosses itself."""
    small, x = rng.uniform(0.19, 0.25), rng.normal(0, 0.03)
    large = 0.5 - small
    wide, wider = small * rng.uniform(0.8, 1.2), large * rng.uniform(0.8, 1.2)
    if rng.random() < 0.5:
        start, other = rng.uniform(-0.3, -0.2), rng.uniform(-0.35, -0.15)
        upper, lower = (
            _oval(0, small, wide, small, start, start - 1),
            _oval(x, 2 * small + large, wider, large, other, other - 1),
        )
        return [[upper], [lower]]
    upper = _oval(0, small, wide, small, -0.1, -0.62, 7)
    lower = _oval(x, 2 * small + large, wider, large, -0.12, 0.62, 9)
    return [[[*upper, *lower, upper[0]]]]


def _nine(rng: np.random.Generator) -> list[Stroke]:
    """A loop, small, flat or filled, and a stem that is straight, slanted or a hook."""
    kind = rng.choice(["usual", "small", "filled"], p=[0.4, 0.4, 0.2])
    high = {"usual": rng.uniform(0.2, 0.28), "small": rng.uniform(0.13, 0.2), "filled": rng.uniform(0.115, 0.17)}[kind]
    wide = high * rng.uniform(0.8 if kind == "usual" else 1.0, 1.5)
    start = rng.uniform(-0.2, -0.02)
    loop = _oval(-wide, high, wide, high, start, start - rng.uniform(0.9, 1.0), 10)
    side = (0.0, high * rng.uniform(0.6, 1.0))
    foot = (rng.normal(-0.05, 0.08), 1.0)
    if rng.random() < 0.35:  # a hook
        reach = rng.uniform(0.15, 0.4)
        tail = [(0.01, 0.55), (-0.03, 0.85), (-reach / 2, 1.0), (-reach, rng.uniform(0.86, 0.97))]
    else:
        tail = [((side[0] + foot[0]) / 2 + rng.normal(0, 0.03), 0.6), foot]
    strokes: list[Stroke] = [[[*loop, side], [side, *tail]]]
    if kind == "filled":
        strokes += [[_oval(-wide, high, wide * part, high * part, start, start - 1)] for part in (0.7, 0.35)]
    return strokes


SKELETONS: dict[int, Callable[[np.random.Generator], list[Stroke]]] = dict(
    enumerate([_zero, _one, _two, _three, _four, _five, _six, _seven, _eight, _nine])
)
