"""The maps as a reader finds them: named classes, rings, nothing that means nothing, thumbnails where they fit."""

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from mnist_fastai import plots


def draw(n: int = 60, classes: int = 3, panels: int = 1, **kwargs) -> Figure:
    labels = np.arange(n) % classes
    positions = np.random.default_rng(0).normal(size=(n, 2)) + 20 * labels[:, None]
    names = tuple(f"class {c}" for c in range(classes))
    figure = plots.maps({f"map {i}": positions for i in range(panels)}, labels, names, labels == 99, "title", **kwargs)
    FigureCanvasAgg(figure).draw()
    return figure


@pytest.mark.parametrize("panels", [1, 3])
def test_each_class_is_named_in_every_map_and_once_in_the_legend(panels):
    figure = draw(panels=panels)
    assert [axes.get_title() for axes in figure.axes] == [f"map {i}" for i in range(panels)]
    for axes in figure.axes:
        assert sorted(t.get_text() for t in axes.texts) == ["class 0", "class 1", "class 2"]
        assert axes.get_aspect() == 1
        assert len(axes.get_xticks()) == len(axes.get_yticks()) == 0
    assert [t.get_text() for t in figure.legends[0].texts] == ["class 0", "class 1", "class 2", "misclassified"]


def test_a_name_stands_where_its_class_is_and_not_between_its_parts():
    positions = np.random.default_rng(0).normal(size=(150, 2)) + np.repeat([[0, 0], [30, 0], [60, 0]], 50, axis=0)
    labels = np.repeat([0, 1, 0], 50)  # the first class has two parts, one to either side of the second
    figure = plots.maps({"map": positions}, labels, ("a", "b"), labels == 99, "title")
    at = {t.get_text(): t.get_position()[0] for t in figure.axes[0].texts}
    assert min(abs(at["a"] - 0), abs(at["a"] - 60)) < 5
    assert abs(at["b"] - 30) < 5


def test_names_of_classes_at_the_same_place_do_not_cover_each_other():
    positions = np.random.default_rng(0).normal(size=(200, 2))
    figure = plots.maps({"map": positions}, np.arange(200) % 4, tuple("abcd"), np.zeros(200, bool), "title")
    FigureCanvasAgg(figure).draw()
    boxes = [t.get_window_extent() for t in figure.axes[0].texts]
    assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])


def test_the_misclassified_are_ringed():
    missed = np.zeros(60, bool)
    missed[[3, 8]] = True
    positions = np.random.default_rng(0).normal(size=(60, 2))
    axes = plots.maps({"map": positions}, np.arange(60) % 3, tuple("abc"), missed, "title").axes[0]
    rings = axes.collections[-1]
    np.testing.assert_array_equal(rings.get_offsets(), positions[missed])
    assert len(rings.get_facecolor()) == 0


def test_an_eleventh_class_has_a_colour_of_the_ten_and_another_marker():
    first, _, eleventh = (draw(classes=11, n=110).legends[0].legend_handles[i] for i in (0, 1, 10))
    assert first.get_color() == eleventh.get_color()
    assert first.get_marker() != eleventh.get_marker()


def test_thumbnails_stand_at_their_places_where_there_is_room():
    images = np.zeros((60, 28, 28), np.uint8)
    images[:, 14, 14] = 255  # a dot of ink in the middle
    positions = np.concatenate([np.random.default_rng(0).normal(scale=1e-3, size=(58, 2)), [[10, 0], [0, 10]]])
    axes = plots.maps({"map": positions}, np.arange(60) % 3, tuple("abc"), np.arange(60) == 5, "title", images).axes[0]
    canvas, (left, right, bottom, top) = axes.images[0].get_array(), axes.images[0].get_extent()
    rows, columns = np.nonzero(canvas[..., 3])
    side = len(canvas)
    x, y = left + (columns + 0.5) / side * (right - left), top - (rows + 0.5) / side * (top - bottom)
    drawn = np.stack([x, y], axis=1)
    # the two that stand alone, and of the heap the misclassified one, which has the first choice
    assert len(drawn) == 3
    for wanted in positions[[5, 58, 59]]:
        assert np.abs(drawn - wanted).max(1).min() < (right - left) / side * 1.5
    assert sum(len(c.get_offsets()) for c in axes.collections[:-1]) == 57, "dots for the others"


def test_long_names_beside_each_other_do_not_cover_each_other():
    positions = np.random.default_rng(0).normal(size=(200, 2))
    positions[:, 0] += np.arange(200) % 4  # a step is less than a name is wide
    figure = plots.maps({"map": positions}, np.arange(200) % 4, ("Ankle boot",) * 4, np.zeros(200, bool), "title")
    FigureCanvasAgg(figure).draw()
    boxes = [t.get_window_extent() for t in figure.axes[0].texts]
    assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])
