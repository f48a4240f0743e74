"""Maps repeat, keep neighbours, take new points, and refuse what cannot be mapped with one sentence."""

from dataclasses import replace

import numpy as np
import pytest
from conftest import assert_one_sentence, python

from mnist_fastai import load_run, pretrained
from mnist_fastai.embed import Map, embed, knn_accuracy, scores, transform
from mnist_fastai.errors import InputError
from mnist_fastai.features import extract

SHORT = 20  # iterations after early exaggeration, of a map that is no more than begun


@pytest.fixture(scope="module")
def pixels(small) -> np.ndarray:
    """Float32 [150, 784] in [0, 1]."""
    return small.valid.images[:150].flatten(1).numpy().astype(np.float32) / 255


@pytest.fixture(scope="module")
def map(pixels) -> Map:
    return embed(pixels)


def test_the_same_seed_gives_the_same_positions_whatever_the_threads(map, pixels):
    short = embed(pixels, iterations=SHORT).positions
    assert np.array_equal(embed(pixels, iterations=SHORT, threads=2).positions, short)
    assert not np.allclose(embed(pixels, iterations=SHORT, seed=1).positions, short, rtol=0.1)


def test_another_process_finds_the_same_positions(map, pixels, tmp_path):
    np.save(tmp_path / "pixels.npy", pixels)
    code = """
import numpy as np
from mnist_fastai.embed import embed
np.save("positions.npy", embed(np.load("pixels.npy")).positions)
"""
    done = python("-c", code, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert np.array_equal(np.load(tmp_path / "positions.npy"), map.positions)


def test_a_map_keeps_neighbours_together_and_lies_around_zero(map, pixels, small):
    found = scores(pixels, map.positions, small.valid.labels[:150].numpy())
    assert found["trustworthiness"] > 0.85  # chance: 0.5
    assert found["knn_map"] > 0.5  # chance: 0.1
    np.testing.assert_allclose(map.positions.min(0), -map.positions.max(0))


@pytest.mark.parametrize(
    "change",
    [
        lambda x: x[:10],  # the fewest, which no perplexity of 30 goes with
        lambda x: x[:60, 300:301],  # one feature
        lambda x: np.repeat(x[:5], 12, axis=0),  # duplicates
        lambda x: np.eye(60, dtype=np.float32)[:, :1] * x[0, 400:401] + 1,  # one point unlike all others
        lambda x: x[:60].astype(np.float64) * 1e-9,
    ],
    ids=["fewest", "one-feature", "duplicates", "one-unlike", "tiny"],
)
def test_what_can_be_mapped_gives_finite_positions(pixels, change):
    features = change(pixels)
    if np.ptp(features) == 0:
        features[0] += 1
    found = embed(features, iterations=SHORT)
    assert np.isfinite(found.positions).all()
    assert np.ptp(found.positions, axis=0).max() > 0
    assert found.perplexity == min(30, (len(features) - 1) / 3)


@pytest.mark.parametrize(
    ("change", "perplexity", "message"),
    [
        (lambda x: np.where(np.arange(150)[:, None] == 7, np.nan, x), None, "1 of 150 images are NaN or infinite"),
        (lambda x: np.where(np.arange(150)[:, None] < 2, np.inf, x), None, "2 of 150 images are NaN or infinite"),
        (lambda x: np.zeros_like(x), None, "all 150 images are the same"),
        (lambda x: x[:9], None, "10 points or more, and here are 9"),
        (lambda x: x[:0], None, "10 points or more, and here are 0"),
        (lambda x: x[:100], 40, "perplexity of 40 does not go with 100 images; give one from 1 to 33"),
        (lambda x: x, 0, "perplexity of 0 .* from 1 to"),
        (lambda x: x, -3, "perplexity of -3 .* from 1 to"),
        (lambda x: x, float("nan"), "perplexity of nan .* from 1 to"),
    ],
)
def test_what_cannot_be_mapped_is_refused(pixels, change, perplexity, message):
    with pytest.raises(InputError, match=message) as error:
        embed(change(pixels), perplexity=perplexity)
    assert_one_sentence(str(error.value))


# --- scores -------------------------------------------------------------------------------------------------------


def test_scores_of_two_groups_apart_and_of_a_map_that_mixes_them():
    points = np.random.default_rng(0).normal(size=(40, 2))
    labels = np.arange(40) % 2
    apart = points + 100 * labels[:, None]
    found = scores(apart, apart, labels)
    assert found["knn_features"] == found["knn_map"] == found["trustworthiness"] == 1
    assert found["silhouette"] > 0.9
    assert (found["neighbors"], found["scored"]) == (10, 40)
    mixed = scores(apart, points, labels)
    assert mixed["knn_features"] == 1
    assert mixed["knn_map"] < 0.8
    assert mixed["trustworthiness"] < 0.9
    assert abs(mixed["silhouette"]) < 0.2


def test_a_point_is_no_neighbour_of_its_own():
    points = np.arange(4, dtype=float)[:, None]
    assert knn_accuracy(points, np.array([0, 1, 0, 1]), k=1) == 0


def test_scores_of_few_points_and_of_one_class():
    points = np.random.default_rng(0).normal(size=(10, 2))
    found = scores(points, points, np.zeros(10, int))
    assert found["neighbors"] == 4
    assert found["silhouette"] is None
    assert found["knn_map"] == 1


# --- new points ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(mnist) -> tuple[np.ndarray, np.ndarray]:
    """The shipped model's features, float32 [800, 100], and the labels of as many test images."""
    valid = mnist.valid[:800]
    learner = load_run(pretrained(), data=replace(mnist, train=mnist.train[:64], valid=valid))
    return extract(learner, learner.dls.valid), valid.labels.numpy()


def own_class(known: np.ndarray, new: np.ndarray, labels: np.ndarray) -> float:
    """The part of the new positions whose ten nearest known ones have its class by majority."""
    distances = np.linalg.norm(new[:, None] - known, axis=2)
    nearest = labels[: len(known)][np.argsort(distances, axis=1)[:, :10]]
    votes = np.stack([(nearest == c).sum(1) for c in range(10)], axis=1)
    return (votes.argmax(1) == labels[len(known) :]).mean()


def test_new_digits_land_among_their_class_as_often_as_when_they_are_fitted(trained):
    features, labels = trained
    map = embed(features[:600])
    before = map.positions.copy()
    placed = transform(map, features[600:])
    assert placed.shape == (200, 2)
    assert np.array_equal(map.positions, before)
    together = embed(features).positions
    fitted = own_class(together[:600], together[600:], labels)
    assert fitted > 0.95
    assert own_class(map.positions, placed, labels) >= fitted - 0.03


def test_known_points_are_placed_where_they_are_each_by_itself(map, pixels):
    size = np.ptp(map.positions)
    placed = transform(map, pixels)
    assert np.median(np.linalg.norm(placed - map.positions, axis=1)) < 0.02 * size
    np.testing.assert_allclose(transform(map, pixels[:3]), placed[:3], atol=1e-3 * size)


def test_new_points_with_other_features_are_refused(map, pixels):
    with pytest.raises(InputError, match=r"784 features.*not 100") as error:
        transform(map, pixels[:, :100])
    assert_one_sentence(str(error.value))
