"""A picture is made an image by the same code whoever reads it: a folder to train on, predict, Classifier, fastai."""

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from conftest import assert_one_sentence
from fastai.learner import load_learner
from PIL import Image
from scenes import ORIENTATIONS, UNDONE, coloured, jpeg, light, pen, place, png

from mnist_fastai import Classifier, Data, InputError, Recipe, Run, Session, Split, fit, load_data, load_run, pretrained
from mnist_fastai.exports import export
from mnist_fastai.reader.form import preprocess
from mnist_fastai.reader.framing import find_format
from mnist_fastai.reader.seal import seal

TRAINED, TESTED = 300, 90  # pictures


def photo(image: np.ndarray, kind: int, rng) -> tuple[bytes, str]:
    """A digit anywhere on a page of 100 to 140 pixels a side, and the file's suffix.

    Dark on light, the same turned by EXIF in uneven light, or black ink on transparency.
    """
    ink = pen(image, int(rng.integers(60, 90)))
    page = place(ink, *(int(rng.integers(100, 141)) for _ in range(2)), rng)
    if kind == 2:
        return png(np.dstack([np.zeros((*page.shape, 3), np.uint8), np.rint(255 * page).astype(np.uint8)])), ".png"
    shade = light(*page.shape, rng) if kind else None
    pixels = coloured(page, (40, 40, 60), (235, 230, 225), shade, 3, rng)
    if not kind:
        return jpeg(pixels), ".jpg"
    i = int(rng.choice([2, 5, 7]))  # by 180, 90 and 270 degrees
    return jpeg(np.asarray(Image.fromarray(pixels).transpose(UNDONE[i])), orientation=ORIENTATIONS[i]), ".jpg"


def write_photos(root: Path, split: Split, seed: int) -> None:
    rng = np.random.default_rng(seed)
    for i, (image, label) in enumerate(zip(split.images.numpy(), split.labels.tolist(), strict=True)):
        content, suffix = photo(image, i % 3, rng)
        path = root / str(label) / f"{i:03}{suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def write_images(root: Path, split: Split) -> None:
    for i, (image, label) in enumerate(zip(split.images.numpy(), split.labels.tolist(), strict=True)):
        (root / str(label)).mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(root / str(label) / f"{i:03}.png")


def trained(folder: Path, out: Path) -> Run:
    run = fit(Recipe(arch="lenet", opt="adam", learning_rate=0.003, num_epochs=4, data=str(folder)), out=out)
    export(run, "onnx")
    return run


@pytest.fixture(scope="module")
def photos(mnist, tmp_path_factory) -> Path:
    """Pictures of real digits by class. To read only."""
    folder = tmp_path_factory.mktemp("photos")
    write_photos(folder / "training", mnist.train[:TRAINED], 0)
    write_photos(folder / "testing", mnist.test[:TESTED], 1)
    return folder


@pytest.fixture(scope="module")
def of_photos(photos, tmp_path_factory) -> Run:
    return trained(photos, tmp_path_factory.mktemp("run") / "photos")


@pytest.fixture(scope="module")
def in_a_corner(small, tmp_path_factory) -> Path:
    """Images of 28×28 pixels, white on black, but not framed as MNIST's, by class. To read only."""
    folder = tmp_path_factory.mktemp("corner")
    for part, split in (("training", small.train[:200]), ("testing", small.test[:50])):
        write_images(folder / part, Split(split.images.roll((-4, -4), (1, 2)), split.labels))
    return folder


def by_class(split: Split) -> Split:
    return split[split.labels.argsort(stable=True)]


def refused(call, *args, **kwargs) -> str:
    with pytest.raises(InputError) as caught:
        call(*args, **kwargs)
    assert_one_sentence(str(caught.value))
    return str(caught.value)


# --- pictures -----------------------------------------------------------------------------------------------------


def test_all_ways_in_give_the_accuracy_that_the_run_reports(of_photos, photos, cli):
    files = sorted((photos / "testing").rglob("*.*"))
    labels = np.array([int(file.parent.name) for file in files])
    right, images = round(of_photos.metrics["accuracy"] * TESTED), of_photos.metrics["images"]
    assert images == TESTED
    assert right > 0.5 * TESTED, "the digits of a model that learned nothing would show no difference"
    code, out, _ = cli("predict", "--model", of_photos.path, photos / "testing", "--json")
    answers = {a["file"]: a.get("digit") for a in json.loads(out)}
    classifier, learner = Classifier(of_photos.path), load_learner(of_photos.path / "learner.pkl")
    loaded = load_run(of_photos.path)
    with learner.no_bar(), loaded.no_bar():
        found = {
            "predict": [answers[str(file)] for file in files],
            "Classifier": classifier.predict(files),
            "load_learner": [int(learner.predict(file)[0]) for file in files],
            "test_dl": loaded.get_preds(dl=loaded.dls.test_dl(files))[0].argmax(1),
        }
    assert code == 0
    off = {name: abs(int((np.asarray(predicted) == labels).sum()) - right) for name, predicted in found.items()}
    assert max(off.values()) <= 1, off


def test_photos_are_near_the_images_that_they_show(photos, mnist):
    data = load_data(photos)
    assert data.format == "pictures"
    before, after = (s.images.double().flatten(1) for s in (by_class(mnist.train[:TRAINED]), data.train))
    similar = torch.nn.functional.cosine_similarity(before, after)
    assert similar.quantile(0.1) > 0.7


def test_the_run_and_its_exports_say_what_it_was_trained_on(of_photos):
    assert json.loads((of_photos.path / "run.json").read_text("utf-8"))["input"]["format"] == "pictures"
    assert of_photos.format == "pictures"
    assert Session(of_photos.path).format == "pictures"


def test_with_one_photo_among_them_all_images_go_through_the_reader(photos, small, tmp_path):
    for part, split in (("training", small.train[:50]), ("testing", small.test[:20])):
        write_images(tmp_path / part, split)
    assert load_data(tmp_path).format == "mnist"
    (tmp_path / "training" / "5" / "photo.jpg").write_bytes(next(photos.rglob("5/*.jpg")).read_bytes())
    data = load_data(tmp_path)
    assert data.format == "pictures"
    image = small.test.images[0].numpy()  # the only 7 that comes first in its folder
    assert np.array_equal(data.test[data.test.labels == 7].images[0], preprocess(image, single=True).digits[0].image)


def test_dark_on_light_is_no_format_even_at_28_pixels(small, tmp_path):
    for part, split in (("training", small.train[:50]), ("testing", small.test[:20])):
        write_images(tmp_path / part, Split(255 - split.images, split.labels))
    data = load_data(tmp_path)
    assert data.format == "pictures"
    assert data.train.images[:, 0, 0].max() == 0


def test_a_training_picture_is_one_digit_whatever_lies_apart(mnist):
    page = np.full((120, 200), 255, np.uint8)
    page[30:90, 30:70] = page[30:90, 130:170] = 0
    assert len(preprocess(page).digits) == 2
    (digit,) = preprocess(page, single=True).digits
    assert digit.box == (30, 30, 170, 90)


def test_pictures_without_ink_are_left_out_and_said_once(photos, tmp_path, caplog):
    for part in ("training", "testing"):
        for label in "01":
            (tmp_path / part / label).mkdir(parents=True)
            (tmp_path / part / label / "b.jpg").write_bytes(next((photos / part / label).iterdir()).read_bytes())
    for label in "01":
        Image.new("L", (50, 50), 230).save(tmp_path / "testing" / label / "a.png")
    data = load_data(tmp_path)
    assert (len(data.train), len(data.test)) == (2, 2)
    (said,) = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert "2 pictures" in said
    assert str(tmp_path / "testing" / "0" / "a.png") in said
    Image.new("L", (50, 50), 230).save(tmp_path / "training" / "1" / "b.jpg")
    error = refused(load_data, tmp_path)
    assert str(tmp_path / "training" / "1") in error
    assert "no ink" in error


def test_what_is_going_on_is_said_unless_quiet(photos, cli):
    _, _, err = cli("train", "--data", photos, "--dry-run", "-a", "lenet")
    assert f"bringing {TRAINED + TESTED} pictures into MNIST's format, since {photos}" in err
    _, _, err = cli("train", "--data", photos, "--dry-run", "-a", "lenet", "--quiet")
    assert err == ""


# --- images of 28×28 pixels ---------------------------------------------------------------------------------------


def test_the_format_of_a_set_is_how_most_of_its_images_are_framed(mnist):
    images = mnist.test.images[:400].numpy().copy()
    assert mnist.format == find_format(images) == "mnist"
    images[:15] = np.roll(images[:15], 5, 2)
    assert find_format(images) == "mnist"
    images[:25] = np.roll(images[:25], 5, 2)
    assert find_format(images) == "28x28"
    assert find_format(np.zeros((0, 28, 28), np.uint8)) == "28x28"


def test_white_on_black_images_are_left_as_they_are_and_predict_follows(in_a_corner, small, tmp_path):
    run = trained(in_a_corner, tmp_path / "run")
    data = load_data(in_a_corner)
    shifted = Split(small.train.images[:200].roll((-4, -4), (1, 2)), small.train.labels[:200])
    assert torch.equal(data.train.images, by_class(shifted).images)
    assert data.format == run.format == "28x28"
    files = sorted((in_a_corner / "testing").rglob("*.png"))
    wanted = Session(run.path).probabilities(data.test.images.numpy())
    assert np.array_equal(Classifier(run.path).predict_proba(files), wanted)
    right = (wanted.argmax(1) == data.test.labels.numpy()).mean()
    assert right == pytest.approx(run.metrics["accuracy"])
    learner = load_learner(run.path / "learner.pkl")
    with learner.no_bar():
        found = learner.get_preds(dl=learner.dls.test_dl(files))[0]
    assert np.array_equal(found.argmax(1), wanted.argmax(1))  # the file's probabilities are calibrated
    # what is dark on light goes another way, to the same place as in a photo
    dark = Image.fromarray(255 - data.test.images[0].numpy())
    (digit,) = preprocess(np.asarray(dark), single=True).digits
    with learner.no_bar():
        assert torch.equal(learner.predict(dark)[2], learner.predict(digit.image)[2])


def test_a_file_in_mnists_format_has_the_answer_of_its_pixels(mnist, tmp_path, cli):
    images = mnist.test.images[:200].numpy()
    files = [tmp_path / f"{i:03}.png" for i in range(len(images))]
    for file, image in zip(files, images, strict=True):
        Image.fromarray(image).save(file)
    wanted = Classifier(raw=True).predict_proba(images)
    assert np.array_equal(Classifier().predict_proba(files), wanted)
    learner = load_learner(pretrained() / "learner.pkl")
    with learner.no_bar():
        found = learner.get_preds(dl=learner.dls.test_dl(files))[0]
    assert np.array_equal(found.argmax(1), wanted.argmax(1))  # the file's probabilities are calibrated
    code, out, _ = cli("predict", files[0], "--json")
    assert code == 0
    assert json.loads(out)[0]["probability"] == pytest.approx(wanted[0].max(), abs=1e-6)


def test_a_digit_of_28_pixels_that_is_framed_otherwise_is_brought_into_the_format(mnist):
    image = np.roll(mnist.test.images[0].numpy(), (-4, -4), (0, 1))
    (digit,) = preprocess(image).digits
    wanted = Classifier(raw=True).predict_proba(digit.image[None])
    assert np.array_equal(Classifier().predict_proba([image]), wanted)
    learner = load_learner(pretrained() / "learner.pkl")
    with learner.no_bar():
        assert torch.equal(learner.predict(Image.fromarray(image))[2], learner.predict(digit.image)[2])


# --- what is recorded ---------------------------------------------------------------------------------------------


def test_arrays_are_in_no_other_format_than_28_by_28(small, tmp_path):
    moved = Split(small.train.images.roll(5, 2), small.train.labels)
    assert small.format == "mnist"
    run = fit(Recipe(arch="lenet", num_epochs=0), data=Data(moved, small.test, small.classes), out=tmp_path / "run")
    assert run.format == "28x28"
    assert "28x28" in refused(Data, moved, small.test, small.classes, format="jpeg")


def test_a_run_that_does_not_say_is_of_mnist(tmp_path):
    assert Run(pretrained()).format == "mnist"
    facts = {"classes": ["0", "1"], "splits": {}, "input": {"normalize": None}, "passed": {}, "source": "x", "id": "y"}
    assert Run.create(Recipe(), tmp_path / "a", facts).format == "mnist"
    facts["input"]["format"] = "jpeg"
    assert "run.json" in refused(getattr, Run.create(Recipe(), tmp_path / "b", facts), "format")


@pytest.mark.parametrize("written", ["jpeg", '"jpeg"', "{"])
def test_a_model_of_an_unknown_format_is_refused(tmp_path, written):
    assert Session().format == "mnist"
    model = onnx.load(pretrained() / "model.onnx")
    del model.metadata_props[:]
    onnx.helper.set_model_props(model, {"classes": json.dumps([*"0123456789"]), "format": written})
    (tmp_path / "model.onnx").write_bytes(seal(model.SerializeToString()))
    assert "format" in refused(Session, tmp_path / "model.onnx")
