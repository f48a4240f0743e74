"""Folders as people have them: what is read, what is left out and said so, and what is refused in one sentence."""

import gzip
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import assert_one_sentence, deadline, idx, tree, write_idx_folder
from PIL import Image

from mnist_fastai import Data, InputError, Split, load_data
from mnist_fastai.datasets import load_evaluated

LETTERS = "abcdefghijklmnopqrstuvwxyz"


def write_images(root: Path, split: Split, suffix: str = ".png") -> None:
    for i, (image, label) in enumerate(zip(split.images.numpy(), split.labels.tolist(), strict=True)):
        (root / str(label)).mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(root / str(label) / f"{i:03}{suffix}")


def write_unlabelled(root: Path, split: Split) -> None:
    root.mkdir(parents=True)
    for i, image in enumerate(split.images.numpy()):
        Image.fromarray(image).save(root / f"{i:03}.png")


def refused(*args, **kwargs) -> str:
    with pytest.raises(InputError) as error:
        load_data(*args, **kwargs)
    assert_one_sentence(str(error.value))
    return str(error.value)


def same(a: Split, b: Split) -> bool:
    return torch.equal(a.images, b.images) and torch.equal(a.labels, b.labels)


def said(caplog) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]


@pytest.fixture(scope="module")
def parts(small) -> list[Split]:
    """Training, validation and test images, each by class, as a folder has them."""
    chosen = small.train[:60], small.test[:30], small.test[30:55]
    return [split[split.labels.argsort(stable=True)] for split in chosen]


@pytest.fixture
def images(tmp_path, parts) -> Path:
    """Training and test images by class."""
    for name, split in (("train", parts[0]), ("test", parts[2])):
        write_images(tmp_path / "images" / name, split)
    return tmp_path / "images"


# --- images by class ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("train", ["train", "training", "Train", "TRAINING"])
@pytest.mark.parametrize("valid", ["val", "Valid", "VALIDATION"])
@pytest.mark.parametrize("test", ["test", "Testing"])
def test_splits_may_be_named_in_all_usual_ways(tmp_path, parts, train, valid, test):
    for name, split in zip((train, valid, test), parts, strict=True):
        write_images(tmp_path / name, split)
    data = load_data(tmp_path)
    assert all(same(a, b) for a, b in zip((data.train, data.valid, data.test), parts, strict=True))
    assert data.classes == tuple("0123456789")


@pytest.mark.parametrize("names", [("train", "Train"), ("val", "valid"), ("test", "testing")])
def test_two_folders_for_one_split_are_refused(images, parts, names):
    for name in names:
        write_images(images / name, parts[1])
    assert f"has {' and '.join(sorted(names))}, which mean the same" in refused(images)


def test_inverted_test_images_are_brought_to_the_polarity_of_the_training_images(images, parts, tmp_path):
    shutil.rmtree(images / "test")
    write_images(images / "test", Split(255 - parts[2].images, parts[2].labels))
    data = load_data(images)
    assert same(data.train, parts[0])
    assert (data.test.labels == parts[2].labels).all()
    difference = data.test.images.float() - parts[2].images.float()
    assert difference.abs().mean((1, 2)).max() < 30  # they are framed anew; inverted, 190


def test_a_test_folder_without_labels_is_left_out_and_said_once(images, parts, caplog):
    shutil.rmtree(images / "test")
    write_unlabelled(images / "test", parts[2])
    write_images(images / "valid", parts[1])
    data = load_data(images)
    assert same(data.valid, parts[1])
    assert not len(data.test)
    assert said(caplog) == [f"left out: 25 pictures in no class folder, the first {images / 'test' / '000.png'}"]
    shutil.rmtree(images / "valid")
    assert "--valid-fraction" in refused(images)
    assert [*load_data(images, 0.2).splits] == ["train", "valid"]
    with pytest.raises(InputError, match="test images"):
        load_evaluated(images)  # and not on those to train on
    assert load_evaluated(images / "train")[0] == "all"


def test_what_is_no_picture_is_left_out_and_said_once_with_its_count(images, caplog):
    digests = load_data(images).digests
    assert said(caplog) == []
    (images / "README.md").write_text("x")
    (images / "class_to_idx.json").write_text("{}")
    (images / "train" / "labels.csv").write_text("x")
    for path in ("train/3/a.heic", "train/3/deep/notes.TXT", "test/4/Thumbs.db", "test/4/none", "test/4/.DS_Store"):
        (images / path).parent.mkdir(exist_ok=True)
        (images / path).write_text("x")
    assert load_data(images).digests == digests
    (line,) = said(caplog)
    assert line.startswith("left out: 4 files of another format (.db, .heic, .txt, no suffix), the first ")
    assert line.endswith(str(images / "train" / "3" / "a.heic"))


@pytest.mark.parametrize("suffix", [".webp", ".jfif", ".jp2", ".PNG", ".gif", ".bmp", ".tif", ".pgm"])
def test_every_suffix_of_the_list_is_read_wherever_it_is_run(images, parts, suffix, monkeypatch):
    monkeypatch.setattr("mimetypes.types_map", {})  # fastai reads those of the machine
    image = Image.fromarray(parts[0].images[0].numpy())
    options = {".webp": {"lossless": True}, ".jfif": {"format": "JPEG", "quality": 100}}.get(suffix, {})
    image.save(images / "train" / "0" / f"zzz{suffix}", **options)
    data = load_data(images)
    assert len(data.train) == 61
    (found,) = data.train[data.train.labels == 0].images[-1:].int()
    assert (found - parts[0].images[0].int()).abs().max() <= (10 if suffix == ".jfif" else 0)


@pytest.mark.parametrize("below", ["digits", "archive/digits"])
def test_a_folder_that_holds_nothing_but_another_one_is_that_one(images, tmp_path, below):
    target = tmp_path / "outer" / below
    target.parent.mkdir(parents=True)
    images.rename(target)
    (tmp_path / "outer" / "__MACOSX" / "digits" / "train").mkdir(parents=True)
    (tmp_path / "outer" / "readme.txt").write_text("x")
    data = load_data(tmp_path / "outer")
    assert data.digests == load_data(target).digests
    assert data.source == str(tmp_path / "outer")


def test_what_macos_puts_into_an_archive_is_no_class(images):
    (images / "train" / "__MACOSX").mkdir()
    (images / "train" / "3" / "._000.png").write_bytes(b"\0\5\x16\7")
    assert load_data(images).classes == tuple("0123456789")


def test_a_link_to_a_folder_above_is_not_followed_and_said(images, caplog):
    digests = load_data(images).digests
    for link, target in (("train/5/loop", ".."), ("train/3/up", "../.."), ("test/4/self", ".")):
        (images / link).symlink_to(target)
    with deadline():
        assert load_data(images).digests == digests
    first = images / "train" / "3" / "up"
    assert said(caplog) == [f"left out: 3 links back to a folder above, the first {first}"]


@pytest.mark.parametrize("target", [".", "..", "../.."])
def test_a_class_that_is_a_link_to_a_folder_above_is_refused(images, target):
    (images / "train" / "loop").symlink_to(target)
    with deadline():
        assert f"{images / 'train' / 'loop'} is a link to a folder that it is in" in refused(images)


def test_an_animated_image_is_refused_by_name(images, parts):
    first, *more = (Image.fromarray(image) for image in parts[0].images[:3].numpy())
    first.save(images / "train" / "5" / "a.gif", save_all=True, append_images=more)
    error = refused(images)
    assert f"{images / 'train' / '5' / 'a.gif'} has several frames" in error


def test_unlabelled_images_are_refused_with_their_count(tmp_path, parts):
    write_unlabelled(tmp_path / "flat", parts[0])
    assert f"{tmp_path / 'flat'} has no class folders, but 60 pictures; give" in refused(tmp_path / "flat", 0.2)
    write_images(tmp_path / "test", parts[2])
    (tmp_path / "flat").rename(tmp_path / "train")
    assert "train has no class folders, but 60 pictures" in refused(tmp_path)


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (["mnist.npz"], ", but mnist.npz;"),
        (["train.parquet", "test.parquet"], ", but 2 files;"),
        (["train.csv"], ", but train.csv;"),
        ([], "no class folders;"),
        ([".hidden"], "no class folders;"),
    ],
)
def test_a_folder_of_anything_else_is_told_what_is_read(tmp_path, names, said):
    for name in names:
        (tmp_path / name).write_text("id,value\n1,2\n")
    error = refused(tmp_path)
    assert said in error
    assert "images by class" in error
    assert "IDX" in error
    assert "train.csv" in error


def test_a_file_in_place_of_a_folder_is_told_so(tmp_path):
    (tmp_path / "mnist.npz").write_text("x")
    assert "mnist.npz is a file" in refused(tmp_path / "mnist.npz")


@pytest.mark.parametrize(("count", "fraction"), [(1, 0.2), (3, 0.05), (2, 0.9)])
def test_a_class_with_too_few_images_to_hold_some_out_is_refused_by_name(images, parts, count, fraction):
    write_images(images / "train", Split(parts[0].images[:count], torch.full((count,), 10)))
    error = refused(images / "train", fraction)
    assert f"class 10 of {images / 'train'} has {count} training image" in error
    assert f"fraction of {fraction}; give" in error


def test_a_class_of_which_none_would_be_held_out_is_refused(small):
    train = small.train + Split(small.test.images[:3], torch.full((3,), 10))
    data = Data(train, small.test, tuple(range(11)))
    with pytest.raises(InputError, match=r"class 10 of .* has 3 training images, too few for a valid fraction of 0.1"):
        data.hold_out(0.1)
    assert data.hold_out(0.4).valid.labels.unique().tolist() == list(range(11))


# --- IDX files ----------------------------------------------------------------------------------------------------


def letters(small, first: int = 1) -> Data:
    """EMNIST's, as they are distributed: sideways, with labels from 1 to 26."""
    sets = (
        Split(s.images.transpose(1, 2).contiguous(), torch.arange(len(s)) % 26 + first)
        for s in (small.train, small.test)
    )
    return Data(*sets, tuple(range(26 + first)))


NAMED_LETTERS = {
    "train-images-idx3-ubyte": "emnist-letters-train-images-idx3-ubyte.gz",
    "train-labels-idx1-ubyte": "emnist-letters-train-labels-idx1-ubyte.gz",
    "t10k-images-idx3-ubyte": "emnist-letters-test-images-idx3-ubyte.gz",
    "t10k-labels-idx1-ubyte": "emnist-letters-test-labels-idx1-ubyte.gz",
}


@pytest.mark.parametrize("case", [str, str.upper])
def test_emnists_letters_are_26_and_upright(tmp_path, small, case):
    write_idx_folder(tmp_path, letters(small), NAMED_LETTERS)
    for path in list(tmp_path.iterdir()):
        path.rename(tmp_path / case(path.name))
    data = load_data(tmp_path)
    assert data.classes == tuple(LETTERS)
    assert torch.equal(data.train.images, small.train.images)
    assert data.train.labels[:27].tolist() == [*range(26), 0]


def test_classes_txt_may_name_the_26_letters_or_27(tmp_path, small):
    write_idx_folder(tmp_path, letters(small), NAMED_LETTERS)
    for names in (LETTERS.upper(), "-" + LETTERS):
        (tmp_path / "classes.txt").write_text("\n".join(names))
        data = load_data(tmp_path)
        assert data.classes == tuple(names)
        assert data.classes[data.train.labels[25]].lower() == "z"
    (tmp_path / "classes.txt").write_text("\n".join(LETTERS[:25]))
    assert "27 in all" in refused(tmp_path)


def test_two_sets_of_emnist_in_one_folder_are_refused(tmp_path, small):
    write_idx_folder(tmp_path, letters(small), NAMED_LETTERS)
    digits = {name: other.replace("letters", "digits") for name, other in NAMED_LETTERS.items()}
    write_idx_folder(tmp_path, small, digits)
    assert "2 files (emnist-digits-train-images" in refused(tmp_path)


def test_a_folder_around_each_file_is_looked_into(tmp_path, small):
    for path in list(write_idx_folder(tmp_path, small).iterdir()):
        content = path.read_bytes()
        path.unlink()
        path.mkdir()
        (path / path.name).write_bytes(content)
    assert load_data(tmp_path).digests == small.digests
    (tmp_path / "train-images.idx3-ubyte").write_bytes(idx(small.train.images.numpy()))  # Kaggle's has both
    assert load_data(tmp_path).digests == small.digests


def test_training_files_alone_are_held_out_from(tmp_path, small):
    write_idx_folder(tmp_path, small)
    for path in tmp_path.glob("t10k*"):
        path.unlink()
    assert "no validation or test images" in refused(tmp_path)
    data = load_data(tmp_path, 0.1)
    assert data.digests == Data(small.train, Split(), small.classes).hold_out(0.1).digests
    with pytest.raises(InputError, match="test images"):
        load_evaluated(tmp_path)  # they are those that a model was trained on
    (tmp_path / "t10k-images-idx3-ubyte").write_bytes(gzip.compress(idx(small.test.images.numpy())))
    assert "no file for the t10k labels" in refused(tmp_path, 0.1)


# --- tables -------------------------------------------------------------------------------------------------------


def table(split: Split, labelled: bool = True, name=lambda i: f"pixel{i}") -> str:
    """Kaggle's CSV file."""
    rows = split.images.flatten(1)
    names = [name(i) for i in range(784)]
    if labelled:
        rows, names = torch.cat([split.labels[:, None], rows], 1), ["label", *names]
    return "\n".join([",".join(names), *(",".join(map(str, row)) for row in rows.tolist())]) + "\n"


@pytest.fixture
def kaggle(tmp_path, small) -> Path:
    folder = tmp_path / "digit-recognizer"
    folder.mkdir()
    (folder / "train.csv").write_text(table(small.train[:60]))
    (folder / "test.csv").write_text(table(small.test[:40], labelled=False))
    (folder / "sample_submission.csv").write_text("ImageId,Label\n1,0\n")
    return folder


def test_kaggles_train_csv_is_read_and_its_test_csv_left_out(kaggle, small, caplog):
    assert "--valid-fraction" in refused(kaggle)
    caplog.clear()
    data = load_data(kaggle, 0.2)
    assert data.digests == Data(small.train[:60], Split(), small.classes).hold_out(0.2).digests
    assert (data.format, data.source) == ("mnist", str(kaggle))
    assert said(caplog) == [f"left out: {kaggle / 'test.csv'}, which has no labels"]
    (kaggle / "runs").mkdir()  # as `train` makes it, where it is called there
    assert load_data(kaggle, 0.2).digests == data.digests


def test_a_test_table_with_labels_is_the_test_split(tmp_path, small):
    split = small.test[:40]
    (tmp_path / "fashion-mnist_train.csv").write_text(table(small.train[:60], name=lambda i: f"pixel{i + 1}"))
    text = "\ufeff" + table(split, name=lambda i: f"{i // 28 + 1}x{i % 28 + 1}").replace("\n", "\r\n")
    (tmp_path / "fashion-mnist_test.csv").write_text(text, newline="")
    data = load_data(tmp_path)
    assert same(data.train, small.train[:60])
    assert same(data.test, split)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda text: text.replace(",255", ",256", 1), "'256' to uint8 at row"),
        (lambda text: text.replace(",255", ",x", 1), "'x' to uint8"),
        (lambda text: text.replace(",255", ",-1", 1), "'-1' to uint8"),
        (lambda text: text.replace(",255", "", 1), "number of columns changed"),
        (lambda text: text[:-200], "number of columns changed"),
        (lambda text: text.replace(",pixel783", "", 1), "no class folders, but 3 files"),
        (lambda text: text.partition("\n")[0], "train.csv has no rows"),
        (lambda text: text.partition("\n")[2], "no class folders, but 3 files"),
        (lambda text: text.replace("label", "digit", 1), "no class folders, but 3 files"),
        (lambda text: text.replace("label,", "", 1), "names 784 columns and has 785"),
    ],
    ids=[
        "high",
        "text",
        "negative",
        "short-row",
        "truncated",
        "short-header",
        "empty",
        "no-header",
        "no-label",
        "one-name-less",
    ],
)
def test_a_table_with_an_error_is_refused(kaggle, spoil, message):
    path = kaggle / "train.csv"
    path.write_text(spoil(path.read_text()))
    (kaggle / "test.csv").write_text("x")
    assert message in refused(kaggle, 0.2)


def test_a_pipe_is_no_table(kaggle):
    (kaggle / "train.csv").unlink()
    os.mkfifo(kaggle / "train.csv")
    with deadline():
        refused(kaggle, 0.2)


def test_images_without_labels_are_not_trained_on(kaggle):
    (kaggle / "train.csv").write_text((kaggle / "test.csv").read_text())
    assert "train.csv has no column of labels" in refused(kaggle, 0.2)
    (kaggle / "train.csv").unlink()
    assert "needs one train.csv" in refused(kaggle, 0.2)


def test_kaggles_submission_has_a_label_for_each_row(kaggle, small, cli):
    code, out, err = cli("predict", kaggle / "test.csv", "--csv", "submission.csv", "--kaggle")
    assert (code, err, out) == (0, "", "submission.csv: the digits of 40 images\n")
    header, *rows = Path("submission.csv").read_text().splitlines()
    assert header == "ImageId,Label"
    answers = np.array([row.split(",") for row in rows], int)
    assert answers[:, 0].tolist() == list(range(1, 41))
    assert (answers[:, 1] == small.test.labels[:40].numpy()).mean() > 0.95


@pytest.mark.parametrize(
    "args",
    [
        ("{0}/test.csv", "--kaggle"),
        ("{0}/test.csv", "{0}/test.csv", "--csv", "out.csv", "--kaggle"),
        ("{0}/test.csv", "--csv", "out.csv", "--kaggle", "--multi"),
        ("{0}/test.csv", "--csv", "out.csv", "--kaggle", "--json"),
        ("{0}/test.csv", "--csv", "{0}/test.csv", "--kaggle"),
        ("{0}/sample_submission.csv", "--csv", "out.csv", "--kaggle"),
        ("{0}/missing.csv", "--csv", "out.csv", "--kaggle"),
        ("{0}", "--csv", "out.csv", "--kaggle"),
    ],
)
def test_a_wrong_call_of_kaggle_is_one_sentence_and_writes_nothing(kaggle, cli, args):
    before = tree(kaggle)
    code, out, err = cli("predict", *(arg.format(kaggle) for arg in args))
    assert (code, out) == (2, "")
    assert_one_sentence(err.strip())
    assert tree(kaggle) == before
    assert not Path("out.csv").exists()
