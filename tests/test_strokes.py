"""Drawn digits are in MNIST's format and look like what they are; the embedded ones are trained on, never reported."""

import shutil
from dataclasses import replace

import numpy as np
import pytest
from conftest import assert_one_sentence, python

from mnist_fastai import RECIPES, InputError, Recipe, Session, datasets, fit, load_data, load_recipe
from mnist_fastai.datasets import DRAWN
from mnist_fastai.learner import read_data
from mnist_fastai.reader.form import THICK, THIN, stroke_width
from mnist_fastai.recipes import WITH_STROKES
from mnist_fastai.reproduce import select
from mnist_fastai.strokes import SEED, SHARES, SKELETONS, N, draw, draw_digits

EACH = 30  # images per digit


@pytest.fixture(scope="module")
def drawn():
    """Uint8 [10, EACH, 28, 28], by digit."""
    return np.stack([[draw(d, np.random.default_rng([5, d, i])) for i in range(EACH)] for d in range(10)])


@pytest.fixture(scope="module")
def with_strokes():
    return load_data(WITH_STROKES)


def spans(images, axis):
    """Pixels from the first to the last ink along an axis, int [n]."""
    ink = (images > 40).any(3 - axis)
    return ink.shape[1] - ink.argmax(1) - ink[:, ::-1].argmax(1)


def beside(images):
    """The standard deviation of the ink across its principal axis, in pixels, float [n]."""
    places = np.indices((28, 28)).reshape(2, -1)
    return np.sqrt([np.linalg.eigvalsh(np.cov(places, aweights=image.ravel()))[0] for image in images.astype(float)])


def test_every_image_is_in_mnists_format(drawn):
    images = drawn.reshape(-1, 28, 28)
    assert images.dtype == np.uint8
    assert (np.maximum(spans(images, 1), spans(images, 2)) <= 20).all()
    assert (np.maximum(spans(images, 1), spans(images, 2)) >= 18).all()
    assert (images.max((1, 2)) > 200).all()
    mass = images.sum((1, 2), dtype=float)
    for axis in (1, 2):
        centre = (images.sum(3 - axis, dtype=float) * np.arange(28)).sum(1) / mass
        assert (np.abs(centre - 14) < 1).all()
    widths = np.array([stroke_width(image / 255) for image in images])
    assert (widths > THIN - 0.2).all()
    assert (widths < THICK + 0.3).all()
    assert widths.std() > 0.2  # pens of every width


def test_the_shipped_model_reads_each_digit_as_what_it_is(drawn):
    answers = Session().probabilities(drawn.reshape(-1, 28, 28)).argmax(1).reshape(10, EACH)
    right = (answers == np.arange(10)[:, None]).mean(1)
    assert (right > 0.8).all(), right
    assert right.mean() > 0.95


def test_no_two_images_of_a_digit_are_alike(drawn):
    for images in drawn.reshape(10, EACH, -1).astype(float):
        apart = np.abs(images[:, None] - images).sum(2)[~np.eye(EACH, dtype=bool)]
        assert apart.min() > 1500  # of about 25,000 in an image


def test_drawn_digits_have_what_mnists_lack(drawn, with_strokes):
    train = with_strokes.train[:3000]
    theirs = {d: train.images[train.labels == d].numpy() for d in (1, 7)}
    assert np.median(beside(drawn[1])) > 1.5 * np.median(beside(theirs[1]))  # an upstroke, or a foot
    middle = {"drawn": drawn[7][:, 12:18, 8:20], "mnist": theirs[7][:, 12:18, 8:20]}  # a bar
    ink = {name: (rows > 128).sum(2).max(1) for name, rows in middle.items()}
    assert (ink["drawn"] >= 6).mean() > 2 * (ink["mnist"] >= 6).mean()


def test_an_image_follows_from_the_seed_and_its_index_alone():
    images, labels = draw_digits(12, 3)
    fewer, their_labels = draw_digits(5, 3)
    assert np.array_equal(images[:5], fewer)
    assert np.array_equal(labels[:5], their_labels)
    assert labels.dtype == np.int64
    assert not np.array_equal(images, draw_digits(12, 4)[0])
    assert [len(a) for a in draw_digits(0, 3)] == [0, 0]


@pytest.mark.parametrize("digit", [10, -1, "a", None])
def test_what_is_no_digit_is_refused(digit):
    with pytest.raises(InputError, match="is no digit") as error:
        draw(digit, np.random.default_rng(0))
    assert_one_sentence(str(error.value))


def test_every_digit_is_drawn_as_often_as_it_should():
    assert set(SHARES) == set(SKELETONS) == set(range(10))
    assert sum(SHARES.values()) == pytest.approx(1)


def test_drawing_needs_no_torch(tmp_path):
    code = "import sys; from mnist_fastai.strokes import draw_digits; draw_digits(1, 0); print('torch' in sys.modules)"
    done = python("-c", code, cwd=tmp_path)
    assert done.stdout.strip() == "False", done.stderr


# --- the embedded files -----------------------------------------------------------------------------------------------


def test_the_embedded_digits_are_those_that_the_code_draws(with_strokes):
    images, labels = draw_digits(40, SEED)
    embedded = with_strokes.train[60000:]
    assert len(embedded) == N
    assert np.array_equal(embedded.labels[:40].numpy(), labels)
    apart = np.abs(embedded.images[:40].numpy().astype(int) - images)
    assert apart.max() <= 2  # another processor may round a pixel differently
    frequency = np.bincount(embedded.labels.numpy(), minlength=10) / N
    assert np.abs(frequency - [SHARES[d] for d in range(10)]).max() < 0.015


def test_drawn_images_are_trained_on_and_neither_held_out_nor_reported(with_strokes):
    mnist, part, plain = load_data(), load_data(WITH_STROKES, 0.1), load_data("mnist", 0.1)
    assert with_strokes.digests["test"] == mnist.digests["test"]
    assert with_strokes.train[:60000].digest == mnist.train.digest
    assert part.digests["valid"] == plain.digests["valid"]
    assert part.train[:54000].digest == plain.train.digest
    assert part.train[54000:].digest == with_strokes.train[60000:].digest
    assert (part.source, with_strokes.source) == (WITH_STROKES, WITH_STROKES)
    with pytest.raises(InputError, match="drawn images are not held out") as error:
        fit(Recipe(valid_fraction=0.1), data=with_strokes)
    assert_one_sentence(str(error.value))


def damage_pixel(folder):
    (folder / "SHA256SUMS").write_text((folder / "SHA256SUMS").read_text().replace("0", "1", 1))


def truncate(folder):
    path = folder / "images-idx3-ubyte.gz"
    path.write_bytes(path.read_bytes()[:1000])


@pytest.mark.parametrize(
    "damage",
    [damage_pixel, truncate, lambda f: (f / "labels-idx1-ubyte.gz").unlink(), lambda f: (f / "SHA256SUMS").unlink()],
    ids=["digest", "truncated", "no labels", "no digests"],
)
def test_damaged_files_are_reported_in_one_sentence(tmp_path, monkeypatch, damage):
    folder = tmp_path / "strokes"
    shutil.copytree(DRAWN, folder)
    damage(folder)
    monkeypatch.setattr(datasets, "DRAWN", folder)
    with pytest.raises(InputError, match="strokes") as error:
        load_data(WITH_STROKES)
    assert_one_sentence(str(error.value))


# --- the recipe -------------------------------------------------------------------------------------------------------


def test_the_recipe_is_improved_with_drawn_digits_and_pens_of_every_width():
    reader, improved = load_recipe("reader"), RECIPES["improved"]
    assert replace(improved, name="reader", data=WITH_STROKES, augment="affine-thickness") == reader
    assert Recipe.from_dict(reader.to_dict()) == reader
    assert reader.reported == improved.reported
    assert reader.but(valid_fraction=0.1).reported != improved.reported
    assert {r.name for r in select(["reader"], "improved")[0]} == {"reader", "improved"}


def test_a_run_records_the_drawn_images_and_refuses_others(tmp_path, small, monkeypatch, with_strokes):
    few = replace(small, train=small.train + with_strokes.train[60000:60100], source=WITH_STROKES)
    run = fit(Recipe(arch="lenet", num_epochs=0, data=WITH_STROKES), data=few, out=tmp_path / "run")
    assert run.recipe.data == run.facts["source"] == WITH_STROKES
    assert run.facts["splits"] == few.digests
    assert run.metrics["images"] == len(small.test)
    monkeypatch.setattr("mnist_fastai.learner.load_data", lambda *_: few)
    assert read_data(run).digests == few.digests
    changed = replace(few, train=small.train + with_strokes.train[60001:60101])
    monkeypatch.setattr("mnist_fastai.learner.load_data", lambda *_: changed)
    with pytest.raises(InputError, match=r"train images of mnist\+strokes are not those") as error:
        read_data(run)
    assert_one_sentence(str(error.value))
