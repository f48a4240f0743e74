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
        (
            lambda x: np.where(np.arange(150)[:, None] == 7, np.nan, x),
            None,
            "1 of 150 images are NaN, infinite or too large",
        ),
        (
            lambda x: np.where(np.arange(150)[:, None] < 2, np.inf, x),
            None,
            "2 of 150 images are NaN, infinite or too large",
        ),
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
    bad = int((pixels > 0.9).any(1).sum())
    with pytest.raises(InputError, match=f"{bad} of 150 images are NaN, infinite or too large"):
        transform(map, np.where(pixels > 0.9, np.nan, pixels))


def scaled(features: np.ndarray, by: float, dtype) -> np.ndarray:
    return (features.astype(np.float64) * by).astype(dtype)


@pytest.mark.parametrize("dimensions", [5, 784])  # without and with a PCA before
@pytest.mark.parametrize(
    ("by", "dtype"),
    [(1e30, "f4"), (1e18, "f4"), (1e30, "f8"), (1e140, "f8"), (1e200, "f8"), (np.finfo("f8").max, "f8")],
)
def test_features_beyond_what_distances_can_be_computed_of_are_refused(map, pixels, dimensions, by, dtype):
    features = pixels[:60, 300 : 300 + dimensions] if dimensions < 784 else pixels[:60]
    huge = scaled(features + 1, by / 2, dtype)
    with pytest.raises(InputError, match="60 of 60 images are NaN, infinite or too large") as error:
        embed(huge, iterations=SHORT)
    assert_one_sentence(str(error.value))
    one = scaled(features, 1, dtype)
    one[7, 3] = -by
    with pytest.raises(InputError, match="1 of 60 images are NaN, infinite or too large"):
        embed(one, iterations=SHORT)
    if dimensions == 784:
        with pytest.raises(InputError, match="1 of 60 images are NaN, infinite or too large"):
            transform(map, one)


@pytest.mark.parametrize("dimensions", [5, 784])
@pytest.mark.parametrize(("by", "dtype"), [(1e-30, "f4"), (1e-40, "f4"), (1e-200, "f8"), (1e-310, "f8"), (0, "f2")])
def test_features_that_differ_by_nothing_to_speak_of_are_taken_as_the_same(pixels, dimensions, by, dtype):
    with pytest.raises(InputError, match="all 60 images are the same"):
        embed(scaled(pixels[:60, 300 : 300 + dimensions], by, dtype), iterations=SHORT)


def test_one_point_that_differs_by_nothing_to_speak_of_is_taken_as_the_same():
    features = np.zeros((60, 5), np.float32)
    features[7] = 1e-30
    with pytest.raises(InputError, match="all 60 images are the same"):
        embed(features, iterations=SHORT)


def constant_but_one(value: float, difference: float) -> np.ndarray:
    features = np.full((40, 1), value, np.float32)
    features[7] += np.float32(difference)
    return features


@pytest.mark.parametrize(
    "change",
    [
        lambda x: scaled(x, 1e11, "f4"),
        lambda x: scaled(x, 1e11, "f8"),
        lambda x: scaled(x, 1e-13, "f4"),
        lambda x: scaled(x, 1e-13, "f8"),
        lambda x: scaled(x, 6e4, "f2"),
        lambda x: scaled(x, 255, "u1"),
        lambda x: x > 0.5,
        lambda x: np.where((np.arange(60)[:, None] == 7) & (np.arange(784) == 3), 1e12, x).astype("f4"),
        lambda x: np.where((np.arange(60)[:, None] == 7) & (np.arange(784) == 3), 1e12, x[:, 300:301] * 1e-20),
        lambda x: x.astype(np.float64) * 1e-3 + 1e10,
        lambda x: constant_but_one(1000, 0.005),
        lambda x: constant_but_one(3e5, 0.1),
        lambda x: constant_but_one(7e6, 300),
        lambda x: constant_but_one(9e9, 8e6),
    ],
    ids=[
        "1e11-float32",
        "1e11-float64",
        "1e-13-float32",
        "1e-13-float64",
        "float16",
        "uint8",
        "bool",
        "one-huge",
        "one-huge-among-tiny",
        "far-from-zero",
        *(f"constant-but-one-{value}" for value in ("1e3", "3e5", "7e6", "9e9")),
    ],
)
def test_whatever_is_taken_gives_finite_positions(pixels, change):
    features = change(pixels[:60])
    result = embed(features, iterations=SHORT)
    assert np.isfinite(result.positions).all()
    assert np.ptp(result.positions, axis=0).max() > 0
    for new in (features, np.zeros_like(features)):
        assert np.isfinite(transform(result, new)).all()


def test_a_small_variance_far_from_zero_is_not_lost():
    rng = np.random.default_rng(0)
    near = np.round(rng.normal(size=(600, 60)) * ([10] * 20 + [1] * 40))
    far = (near + 2**20).astype(np.float32)  # exact
    reduced, expected = reduce(far), reduce(near)
    distances = [np.linalg.norm(x[:, None] - x[:50], axis=2) for x in (reduced, expected)]
    np.testing.assert_allclose(*distances, atol=0.01)
