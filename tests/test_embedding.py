"""Maps repeat, keep neighbours, take new points, and refuse what cannot be mapped with one sentence."""

import numpy as np
import pytest
from conftest import assert_one_sentence, python

from mnist_fastai import InputError, embed, forward, load_run, pretrained, transform
from mnist_fastai import embedding as module
from mnist_fastai.embedding import Embedding, knn_accuracy, reduce, score

SHORT = 20  # iterations after early exaggeration, of a map that is no more than begun


@pytest.fixture(scope="module")
def pixels(small) -> np.ndarray:
    """Float32 [150, 784] in [0, 1]."""
    return small.test.images[:150].flatten(1).numpy().astype(np.float32) / 255


@pytest.fixture(scope="module")
def map(pixels) -> Embedding:
    return embed(pixels)


def test_the_same_seed_gives_the_same_positions_whatever_the_threads(map, pixels):
    short = embed(pixels, iterations=SHORT).positions
    assert np.array_equal(embed(pixels, iterations=SHORT, threads=2).positions, short)
    assert not np.allclose(embed(pixels, iterations=SHORT, seed=1).positions, short, rtol=0.1)


def test_another_process_finds_the_same_positions(map, pixels, tmp_path):
    np.save(tmp_path / "pixels.npy", pixels)
    code = """
import numpy as np
from mnist_fastai import embed
np.save("positions.npy", embed(np.load("pixels.npy")).positions)
"""
    done = python("-c", code, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert np.array_equal(np.load(tmp_path / "positions.npy"), map.positions)


def test_a_map_keeps_neighbours_together_and_lies_around_zero(map, pixels, small):
    scores = score(pixels, map.positions, small.test.labels[:150].numpy())
    assert scores["trustworthiness"] > 0.85  # chance: 0.5
    assert scores["knn_map"] > 0.5  # chance: 0.1
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
    result = embed(features, iterations=SHORT)
    assert np.isfinite(result.positions).all()
    assert np.ptp(result.positions, axis=0).max() > 0
    assert result.perplexity == min(30, (len(features) - 1) / 3)


@pytest.mark.parametrize(
    ("change", "perplexity", "message"),
    [
        (lambda x: np.where(np.arange(150)[:, None] == 7, np.nan, x), None, "1 of 150 images are NaN or infinite"),
        (lambda x: np.where(np.arange(150)[:, None] < 2, np.inf, x), None, "2 of 150 images are NaN or infinite"),
        (lambda x: np.zeros_like(x), None, "all 150 images are the same"),
        (lambda x: x[:9], None, "10 points or more, and here are 9"),
        (lambda x: x[:0], None, "10 points or more, and here are 0"),
        (lambda x: x[:100], 40, "perplexity of 40 does not fit 100 images; give one from 1 to 33"),
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
    good = score(apart, apart, labels)
    assert good["knn_features"] == good["knn_map"] == good["trustworthiness"] == 1
    assert good["silhouette"] > 0.9
    assert (good["neighbors"], good["scored"]) == (10, 40)
    mixed = score(apart, points, labels)
    assert mixed["knn_features"] == 1
    assert mixed["knn_map"] < 0.8
    assert mixed["trustworthiness"] < 0.9
    assert abs(mixed["silhouette"]) < 0.2


def test_a_point_is_no_neighbour_of_its_own():
    points = np.arange(4, dtype=float)[:, None]
    assert knn_accuracy(points, np.array([0, 1, 0, 1]), k=1) == 0


def test_scores_of_few_points_and_of_one_class():
    points = np.random.default_rng(0).normal(size=(10, 2))
    scores = score(points, points, np.zeros(10, int))
    assert scores["neighbors"] == 4
    assert scores["silhouette"] is None
    assert scores["knn_map"] == 1


def test_of_many_points_every_pair_of_a_part_that_the_seed_chooses_is_compared(monkeypatch):
    monkeypatch.setattr(module, "MAX_SCORED", 40)
    features, labels = np.random.default_rng(0).normal(size=(200, 5)), np.arange(200) % 2
    positions = features[:, :2]
    index = np.random.default_rng(7).permutation(200)[:40]
    part = score(features[index], positions[index], labels[index])
    scores = score(features, positions, labels, seed=7)
    assert scores["scored"] == 40
    for name in ("trustworthiness", "silhouette"):
        assert scores[name] == pytest.approx(part[name]), name
    assert scores["knn_map"] == knn_accuracy(positions, labels), "of all"


def test_features_are_reduced_to_fifty_as_those_of_the_map_alone_say(pixels):
    reduced = reduce(pixels[:100])
    assert reduced.shape == (100, 50)
    np.testing.assert_allclose(reduce(pixels[:100], 9 * pixels[100:])[:100], reduced, atol=1e-4)
    np.testing.assert_array_equal(reduce(pixels[:100, 300:350]), pixels[:100, 300:350])


# --- new points ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(mnist) -> tuple[np.ndarray, np.ndarray]:
    """The shipped model's features, float32 [800, 100], and the labels of as many test images."""
    learner = load_run(pretrained(), data=mnist)
    _, labels, features = forward(learner, learner.dls.valid.new(get_idxs=lambda: range(800)), "0")
    return features, labels.numpy()


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


def test_a_point_with_few_near_neighbours_is_placed_beside_them_and_not_between_them_and_the_next():
    rng, group = np.random.default_rng(0), np.repeat([0, 1], [6, 30])  # of 15 nearest neighbours, 6 are near
    features = rng.normal(size=(36, 5)) + 10 * group[:, None]
    positions = rng.normal(size=(36, 2)) + np.outer(group, [300, 0])
    positions -= (positions.min(0) + positions.max(0)) / 2
    placed = transform(Embedding(features, positions, 5), rng.normal(size=(10, 5)))
    assert np.linalg.norm(placed - positions[group == 0].mean(0), axis=1).max() < 5


def test_new_points_with_other_features_are_refused(map, pixels):
    with pytest.raises(InputError, match=r"784 features.*not 100") as error:
        transform(map, pixels[:, :100])
    assert_one_sentence(str(error.value))
    with pytest.raises(InputError, match="all finite"):
        transform(map, np.where(pixels > 0.9, np.nan, pixels))
