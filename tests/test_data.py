"""From files to tensors, and from tensors to what fastai expects of DataLoaders."""

import gzip
import hashlib
import io
import json
import math
import os
import random
import re
import shutil
import tracemalloc
from contextlib import contextmanager
from pathlib import Path

import fastai.vision.all  # noqa: F401  as a fastai user has it; without, show_results draws a figure an image
import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from conftest import DEVICES, TEST, TRAIN, assert_one_sentence, deadline, idx, python, write_idx_folder
from fastai.data.block import CategoryBlock, DataBlock
from fastai.data.core import Transform
from fastai.data.transforms import IndexSplitter, ItemGetter, Normalize
from fastai.interpret import ClassificationInterpretation
from fastai.vision.core import PILImageBW, TensorImageBW
from fastai.vision.data import ImageBlock
from PIL import EpsImagePlugin, Image
from sklearn.metrics import confusion_matrix

from mnist_fastai import Data, Split, dataloaders, datasets, load_data, load_run
from mnist_fastai.dataloader import MNISTImage
from mnist_fastai.datasets import EMBEDDED, folders
from mnist_fastai.datasets import idx as idx_module
from mnist_fastai.datasets.idx import read_idx
from mnist_fastai.errors import InputError
from mnist_fastai.reader import image as image_module

FASHION = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")


def same(a: Split, b: Split) -> bool:
    return torch.equal(a.images, b.images) and torch.equal(a.labels, b.labels)


def refused(call, *args, **kwargs) -> str:
    with pytest.raises(InputError) as error:
        call(*args, **kwargs)
    assert_one_sentence(str(error.value))
    return str(error.value)


@contextmanager
def memory(limit: float):
    """Fail where the memory that is taken inside goes beyond `limit` bytes."""
    tracemalloc.start()
    try:
        yield
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < limit


# --- IDX files ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "shape", "first", "sha256"),
    [
        ("train-images", (60000, 28, 28), 0, "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db"),
        ("train-labels", (60000,), 5, "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5"),
        ("t10k-images", (10000, 28, 28), 0, "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7"),
        ("t10k-labels", (10000,), 7, "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2"),
    ],
)
def test_embedded_files_are_the_official_ones(name, shape, first, sha256):
    array = read_idx(EMBEDDED / f"{name}-idx{len(shape)}-ubyte.gz")
    assert (array.shape, array.dtype, array.flat[0]) == (shape, np.uint8, first)
    assert hashlib.sha256(idx(array)).hexdigest() == sha256


def test_mnist_has_its_images_labels_and_classes(mnist):
    assert (len(mnist.train), len(mnist.test), mnist.classes) == (60000, 10000, tuple("0123456789"))
    assert (mnist.train.images.dtype, mnist.train.labels.dtype) == (torch.uint8, torch.int64)
    # the numbers that every MNIST normalisation quotes
    pixels = mnist.train.images.float() / 255
    assert (round(pixels.mean().item(), 4), round(pixels.std().item(), 4)) == (0.1307, 0.3081)
    assert mnist.train.labels.bincount().tolist() == [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]


@pytest.mark.parametrize("pack", [bytes, gzip.compress], ids=["plain", "gz"])
@pytest.mark.parametrize("dtype", ["u1", "i1", "i2", "i4", "f4", "f8"])
def test_read_idx_gives_back_what_was_written(tmp_path, dtype, pack):
    array = (np.arange(24).reshape(2, 3, 4) * 5).astype(dtype)
    (tmp_path / "x").write_bytes(pack(idx(array)))
    read = read_idx(tmp_path / "x")
    assert read.dtype == array.dtype
    assert np.array_equal(read, array)


LABELS = idx(np.arange(100, dtype=np.uint8))
GZIPPED = gzip.compress(LABELS, mtime=0)


def flipped(content: bytes, at: int) -> bytes:
    return content[:at] + bytes([content[at] ^ 0xFF]) + content[at + 1 :]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "no IDX file"),
        (b"\x89PNG\r\n\x1a\n", "no IDX file"),
        (flipped(LABELS, 0), "no IDX file"),
        (flipped(LABELS, 2), "no IDX file"),
        (flipped(LABELS, 3), "no IDX file"),
        (LABELS[:6], "truncated"),
        (LABELS[:8], "truncated"),
        (LABELS[:-1], "truncated"),
        (LABELS + b"\0", "goes on after"),
        (gzip.compress(LABELS[:-1]), "truncated"),
        (gzip.compress(LABELS + b"\0"), "goes on after"),
        (GZIPPED[:5], "cannot be read"),
        (GZIPPED[:-12], "cannot be read"),
        (GZIPPED[:-1], "cannot be read"),
        (GZIPPED + b"x", "cannot be read"),
        (flipped(GZIPPED, 12), "cannot be read"),
        (flipped(GZIPPED, 60), "cannot be read"),
        (flipped(GZIPPED, len(GZIPPED) - 6), "cannot be read"),  # in the checksum
    ],
    ids=[
        "empty",
        "png",
        "zeros",
        "dtype-code",
        "dims-code",
        "no-dims",
        "no-body",
        "short",
        "long",
        "gz-short",
        "gz-long",
        "gz-header-only",
        "gz-cut",
        "gz-cut-size",
        "gz-trailing",
        "gz-flipped-start",
        "gz-flipped-middle",
        "gz-flipped-checksum",
    ],
)
def test_read_idx_refuses_a_damaged_file_by_name(tmp_path, content, message):
    path = tmp_path / "labels-idx1-ubyte"
    path.write_bytes(content)
    error = refused(read_idx, path)
    assert str(path) in error
    assert message in error


def test_read_idx_refuses_a_missing_file(tmp_path):
    assert str(tmp_path / "x") in refused(read_idx, tmp_path / "x")


@pytest.mark.parametrize("dims", [(2**32 - 1,) * 3, (2**32 - 1, 28, 28), (2**32 - 1,)], ids=str)
def test_read_idx_believes_no_absurd_header(tmp_path, dims):
    path = tmp_path / "x"
    path.write_bytes(header(*dims) + b"123")
    with memory(2**20):
        refused(read_idx, path)


def header(*dims: int, code: int = 8) -> bytes:
    return bytes([0, 0, code, len(dims)]) + b"".join(d.to_bytes(4, "big") for d in dims)


@pytest.mark.parametrize("pack", [bytes, gzip.compress], ids=["plain", "gz"])
@pytest.mark.parametrize("dims", [(0,), (0, 28, 28), (100, 0), (0, *[2**32 - 1] * 3), (2**32 - 1, 0)], ids=str)
def test_read_idx_refuses_a_set_that_holds_nothing(tmp_path, dims, pack):
    (tmp_path / "x").write_bytes(pack(header(*dims)))
    assert f"holds nothing: its header promises {dims}" in refused(read_idx, tmp_path / "x")


def test_a_damaged_header_is_refused_or_gives_a_valid_array(tmp_path):
    rng, path = random.Random(0), tmp_path / "x"
    outcomes = set()
    for _ in range(400):
        content = bytearray(idx(np.arange(24, dtype=rng.choice(["u1", "i2", "f8"])).reshape(2, 3, 4)))
        if rng.random() < 0.5:
            dims = (rng.choice([0, 1, 2, 28, 2**16, 2**31, 2**32 - 1]) for _ in range(rng.randint(0, 4)))
            content = bytearray(header(*dims, code=rng.choice([8, 9, 11, 12, 13, 14])) + bytes(rng.randint(0, 16)))
        for _ in range(rng.randint(0, 3)):
            content[rng.randrange(min(len(content), 16))] = rng.choice([0, 1, 2, 3, 127, 128, 255])
        content = content[: rng.randrange(len(content))] if rng.random() < 0.2 else content
        path.write_bytes(gzip.compress(content, 1) if rng.random() < 0.3 else content)
        try:
            array = read_idx(path)
        except InputError as e:
            assert_one_sentence(str(e))
            outcomes.add("refused")
        else:
            assert array.size
            assert array.dtype.isnative
            outcomes.add("read")
    assert outcomes == {"refused", "read"}


@pytest.mark.parametrize("pack", [bytes, lambda content: gzip.compress(content, 1)], ids=["plain", "gz"])
@pytest.mark.parametrize("dtype", ["u1", "f8"])
def test_read_idx_takes_no_more_memory_than_its_array(tmp_path, dtype, pack):
    size = 2**23  # bytes
    (tmp_path / "x").write_bytes(pack(idx(np.arange(size // np.dtype(dtype).itemsize).astype(dtype))))
    with memory(1.2 * size + 2**22):
        read_idx(tmp_path / "x")


def test_read_idx_compares_a_files_size_with_its_header_before_it_reads(tmp_path):
    with open(tmp_path / "x", "wb") as f:
        f.write(header(10**4, 28, 28))
        f.truncate(2**30)  # with a hole, which takes no room
    with memory(2**20):
        assert "goes on after" in refused(read_idx, tmp_path / "x")


def test_read_idx_refuses_a_gzip_file_that_promises_far_more_than_its_size(tmp_path, monkeypatch):
    (tmp_path / "x").write_bytes(gzip.compress(idx(np.zeros(2**22, np.uint8))))
    assert read_idx(tmp_path / "x").shape == (2**22,)
    monkeypatch.setattr(idx_module, "CHECKED_BYTES", 2**20)
    with memory(2**20):
        assert "promises (4194304,)" in refused(read_idx, tmp_path / "x")


def test_a_digest_takes_no_second_copy_of_the_images(small):
    images, labels = small.train.images.repeat(20, 1, 1), torch.arange(0, 24000, 2)
    split = Split(images, torch.arange(24000)[::2])  # not contiguous
    with memory(2**20):
        digest = split.digest
    assert digest == hashlib.sha256(images.numpy().tobytes() + labels.numpy().tobytes()).hexdigest()
    assert Split().digest == hashlib.sha256().hexdigest()


def test_read_idx_holds_a_file_to_its_digest(tmp_path):
    path = tmp_path / "x"
    path.write_bytes(GZIPPED)
    assert len(read_idx(path, hashlib.sha256(LABELS).hexdigest())) == 100
    assert "SHA-256" in refused(read_idx, path, hashlib.sha256(GZIPPED).hexdigest())


def test_an_embedded_file_with_a_wrong_digest_is_refused(monkeypatch, tmp_path, small):
    write_idx_folder(tmp_path, small)
    sums = "".join(f"{hashlib.sha256(p.read_bytes()).hexdigest()}  {p.name}\n" for p in tmp_path.iterdir())
    (tmp_path / "SHA256SUMS").write_text(sums)
    monkeypatch.setattr(datasets, "EMBEDDED", tmp_path)
    assert same(load_data("mnist").train, small.train)
    path = tmp_path / "t10k-labels-idx1-ubyte"
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([(content[-1] + 1) % 10]))
    assert str(path) in refused(load_data, "mnist")


# --- folders of IDX files -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "names",
    [
        {},
        {"t10k-images-idx3-ubyte": "test-images-idx3-ubyte", "t10k-labels-idx1-ubyte": "test-labels-idx1-ubyte"},
        {"train-images-idx3-ubyte": "train-images.idx3-ubyte.gz", "t10k-labels-idx1-ubyte": "t10k-labels.idx1-ubyte"},
    ],
    ids=["t10k", "test", "dots"],
)
def test_folder_gives_the_tensors_whatever_its_files_are_called(tmp_path, small, names):
    data = load_data(write_idx_folder(tmp_path, small, names))
    assert same(data.train, small.train)
    assert same(data.test, small.test)
    assert data.classes == small.classes
    assert data.digests == small.digests


def test_a_file_and_its_unpacked_copy_count_as_one(tmp_path, small):
    path = write_idx_folder(tmp_path, small) / "train-images-idx3-ubyte"
    path.with_name(path.name + ".gz").write_bytes(gzip.compress(path.read_bytes()))
    assert load_data(tmp_path).digests == small.digests


def test_emnist_is_turned_upright(tmp_path, small):
    sideways = Data(
        *(Split(s.images.transpose(1, 2).contiguous(), s.labels) for s in (small.train, small.test)), small.classes
    )
    names = {
        "train-images-idx3-ubyte": "emnist-digits-train-images-idx3-ubyte.gz",
        "train-labels-idx1-ubyte": "emnist-digits-train-labels-idx1-ubyte.gz",
        "t10k-images-idx3-ubyte": "emnist-digits-test-images-idx3-ubyte.gz",
        "t10k-labels-idx1-ubyte": "emnist-digits-test-labels-idx1-ubyte.gz",
    }
    data = load_data(write_idx_folder(tmp_path, sideways, names))
    assert same(data.train, small.train)
    assert same(data.test, small.test)


def test_qmnist_takes_the_class_from_its_table(tmp_path, small):
    for which, split in (("train", small.train), ("test", small.test)):
        # the class, the NIST partition, the writer, …
        table = torch.stack([split.labels, torch.full_like(split.labels, 4), torch.arange(len(split)) + 3000], 1)
        (tmp_path / f"qmnist-{which}-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx(split.images.numpy())))
        (tmp_path / f"qmnist-{which}-labels-idx2-int.gz").write_bytes(gzip.compress(idx(table.numpy().astype("i4"))))
    data = load_data(tmp_path)
    assert same(data.train, small.train)
    assert same(data.test, small.test)


def test_classes_txt_names_the_classes_in_its_own_order(tmp_path, small):
    write_idx_folder(tmp_path, small)
    (tmp_path / "classes.txt").write_text("\n".join(FASHION) + "\n")
    data = load_data(tmp_path)
    assert data.classes == FASHION
    assert torch.equal(data.train.labels, small.train.labels)
    dls = dataloaders(data)
    assert tuple(dls.vocab) == FASHION
    assert dls.valid_ds[0][1].item() == small.test.labels[0]


ODD = "a\tb", "c\0d", "\x1b[31mred", "e\x0cf", "g\x1ch", "i\x85j", "k\u2028l", "=1+1", "é", "two  words"


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("mark", ["", "\ufeff"], ids=["", "bom"])
def test_classes_txt_has_one_name_per_line_whatever_characters_are_in_it(tmp_path, small, end, mark):
    write_idx_folder(tmp_path, small)
    text = mark + end.join(f" {name}\t" for name in ODD) + end + end
    (tmp_path / "classes.txt").write_bytes(text.encode())
    data = load_data(tmp_path)
    assert data.classes == ODD
    assert tuple(json.loads(json.dumps(data.classes))) == ODD


def test_a_label_of_255_needs_256_names(tmp_path, small):
    high = Data(*(Split(s.images, s.labels + 246) for s in (small.train, small.test)), tuple(range(256)))
    (write_idx_folder(tmp_path, high) / "classes.txt").write_text("a\nb\n")
    assert "each class once, 256 in all" in refused(load_data, tmp_path)


def test_folders_and_hidden_files_with_the_names_of_idx_files_are_passed_over(tmp_path, small):
    write_idx_folder(tmp_path, small)
    (tmp_path / "train-images.idx3-ubyte").mkdir()
    (tmp_path / "._train-images-idx3-ubyte").write_bytes(b"\0\5\x16\7")  # as macOS leaves them on other disks
    assert load_data(tmp_path).digests == small.digests


def test_a_folder_in_the_place_of_an_idx_file_is_none(tmp_path, small):
    path = write_idx_folder(tmp_path, small) / "train-images-idx3-ubyte"
    path.unlink()
    path.mkdir()
    assert "no file for the train images" in refused(load_data, tmp_path)
    for path in tmp_path.glob("*-ubyte"):
        shutil.rmtree(path) if path.is_dir() else path.unlink()
        path.mkdir()
    refused(load_data, tmp_path)


def _link(target):
    def link(path):
        path.symlink_to(target)

    return link


@pytest.mark.parametrize("name", ["train-images-idx3-ubyte", "t10k-labels-idx1-ubyte", "classes.txt"])
@pytest.mark.parametrize(
    "put",
    [os.mkfifo, _link("/dev/zero"), _link("nowhere"), _link("classes.txt"), _link("/proc/self/mem")],
    ids=["fifo", "endless", "broken-link", "link-to-itself", "unreadable"],
)
def test_what_is_no_readable_file_is_refused_by_name(tmp_path, small, name, put):
    path = write_idx_folder(tmp_path, small) / name
    path.unlink(missing_ok=True)
    put(path)
    with deadline(), memory(2**24):
        assert str(path) in refused(load_data, tmp_path)


def test_labels_that_do_not_begin_at_0_keep_their_names(tmp_path, small):
    later = Data(*(Split(s.images, s.labels + 3) for s in (small.train, small.test)), tuple(range(13)))
    data = load_data(write_idx_folder(tmp_path, later))
    assert data.classes == tuple(str(n) for n in range(3, 13))
    assert torch.equal(data.train.labels, small.train.labels)


IMAGES, IMAGE_LABELS = "train-images-idx3-ubyte", "train-labels-idx1-ubyte"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (IMAGES, None, "no file for the train images"),
        ("t10k-labels-idx1-ubyte", None, "no file for the t10k labels"),
        (IMAGES, idx(np.zeros((TRAIN, 28, 28), "f4")), "float32"),
        (IMAGES, idx(np.zeros((TRAIN, 27, 28), "u1")), r"\(600, 27, 28\)"),
        (IMAGES, idx(np.zeros((TRAIN, 784), "u1")), r"\(600, 784\)"),
        (IMAGES, idx(np.zeros((0, 28, 28), "u1")), r"\(0, 28, 28\)"),
        (IMAGES, idx(np.zeros((TRAIN - 1, 28, 28), "u1")), "599 images.*600 labels"),
        (IMAGE_LABELS, idx(np.zeros((TRAIN, 2), "u1")), "not a label an image"),
        (IMAGE_LABELS, idx(np.zeros((TRAIN, 0), "i4")), r"\(600, 0\)"),
        (IMAGE_LABELS, idx(np.zeros(TRAIN, "f4")), "not a label an image"),
        (IMAGE_LABELS, idx(np.full(TRAIN, -1, "i1")), "not a label an image"),
        ("test-images-idx3-ubyte", idx(np.zeros((TEST, 28, 28), "u1")), "2 files .*t10k-images.*test-images"),
        ("classes.txt", b"zero\none\n", "10 in all"),
        ("classes.txt", b"a\na\nb\nc\nd\ne\nf\ng\nh\ni\nj\n", "each class once"),
        ("classes.txt", b"\xff\xfe0\0", "classes.txt"),
        ("classes.txt", b"\xed\xb3\xa9\n" * 10, "UTF-8"),
        ("classes.txt", b"0123456789\n" * 10**5, "too large"),
        ("classes.txt", b"", "10 in all"),
    ],
    ids=[
        "no-images",
        "no-labels",
        "float",
        "27-by-28",
        "flat",
        "none",
        "count",
        "table",
        "table-of-nothing",
        "float-labels",
        "negative",
        "two",
        "too-few-names",
        "name-twice",
        "not-text",
        "surrogates",
        "endless-names",
        "no-names",
    ],
)
def test_folder_with_a_file_that_does_not_fit_is_refused_by_name(tmp_path, small, name, content, message):
    path = write_idx_folder(tmp_path, small) / name
    path.unlink() if content is None else path.write_bytes(content)
    error = refused(load_data, tmp_path)
    assert str(tmp_path if content is None or name.startswith("test") else path) in error
    assert re.search(message, error)


@pytest.mark.parametrize("make", [lambda p: None, lambda p: p.write_text("x"), lambda p: p.mkdir()])
def test_no_folder_a_file_and_an_empty_folder_are_refused(tmp_path, make):
    make(tmp_path / "set")
    assert str(tmp_path / "set") in refused(load_data, tmp_path / "set")


@pytest.mark.parametrize("name", ["x" * 300, "a\0b", "\ud800", "é" * 200 + "/x"], ids=["long", "nul", "half", "below"])
def test_a_name_that_no_folder_can_have_is_refused(tmp_path, name):
    for source in (tmp_path / name, str(tmp_path / name)):
        assert "no folder" in refused(load_data, source)


def _not_listed(folder, monkeypatch):
    def iterdir(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "iterdir", iterdir)


def _removed_meanwhile(folder, monkeypatch):
    monkeypatch.setattr(datasets, "idx_files", lambda _: shutil.rmtree(folder))


def _images_removed_meanwhile(folder, monkeypatch):
    walk = folders.walk
    monkeypatch.setattr(folders, "walk", lambda path, **_: [(p, p.unlink())[0] for p in walk(path)])


def _nested_too_deep(folder, monkeypatch):
    def walk(path, **_):
        return walk(path)

    monkeypatch.setattr(folders, "walk", walk)


@pytest.mark.parametrize(
    "spoil", [_not_listed, _removed_meanwhile, _images_removed_meanwhile, _nested_too_deep], ids=lambda f: f.__name__
)
def test_a_folder_that_cannot_be_read_to_its_end_is_refused(images, monkeypatch, spoil):
    with monkeypatch.context() as patch:
        spoil(images, patch)
        assert str(images) in refused(load_data, images)


# --- folders of images --------------------------------------------------------------------------------------------


def write_images(root, split: Split):
    """An image a file, in a folder a class; read back, they are ordered by class."""
    for i, (image, label) in enumerate(zip(split.images.numpy(), split.labels.tolist(), strict=True)):
        (root / str(label)).mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(root / str(label) / f"{i:05}.png")


def by_class(split: Split) -> Split:
    return split[split.labels.argsort(stable=True)]


@pytest.fixture
def images(tmp_path, small):
    write_images(tmp_path / "images" / "training", small.train[:100])
    write_images(tmp_path / "images" / "testing", small.test[:50])
    return tmp_path / "images"


def test_image_folder_gives_the_same_tensors_as_idx(images, small):
    data = load_data(images)
    assert same(data.train, by_class(small.train[:100]))
    assert same(data.test, by_class(small.test[:50]))
    assert data.classes == small.classes


@pytest.mark.parametrize(("train", "test"), [("train", "test"), ("training", "test")])
def test_image_folder_may_name_its_parts_otherwise(images, train, test):
    digest = load_data(images).digests
    (images / "training").rename(images / train)
    (images / "testing").rename(images / test)
    assert load_data(images).digests == digest


def test_an_image_folder_may_have_all_three_splits(images, small):
    write_images(images / "valid", small.test[50:80])
    data = load_data(images)
    assert [*data.splits] == ["train", "valid", "test"]
    assert same(data.valid, by_class(small.test[50:80]))
    assert data.reported == ("held out", data.valid)
    dls = dataloaders(data, normalize="none")
    assert same(epoch(dls.valid), data.valid)
    assert same(epoch(dls[2]), data.test)
    assert "--valid-fraction" in refused(load_data, images, 0.1)
    (images / "testing").rename(images.parent / "gone")
    assert [*load_data(images).splits] == ["train", "valid"]


def test_classes_alone_are_held_out_from(images, small):
    data = load_data(images / "training", valid_fraction=0.2)
    assert (len(data.train), len(data.valid)) == (80, 20)
    both = torch.cat([data.train.images, data.valid.images]).flatten(1)
    assert torch.equal(both.unique(dim=0), small.train[:100].images.flatten(1).unique(dim=0))
    assert "--valid-fraction" in refused(load_data, images / "training")


@pytest.mark.parametrize("convert", [lambda image: image.convert("RGB"), lambda image: sixteen_bit(np.asarray(image))])
def test_colours_and_16_bits_become_8_bits_of_grey(images, convert):
    path = images / "training" / "5" / "00000.png"
    before = load_data(images)
    with Image.open(path) as image:
        convert(image).save(path)
    assert same(load_data(images).train, before.train)


def sixteen_bit(pixels) -> Image.Image:
    return Image.fromarray(pixels.astype(np.uint16) * 257)


EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 28 28\n%%EndComments\nshowpage\n%%EOF\n"


@pytest.mark.parametrize(
    "read",
    [lambda path: load_data(path.parents[2]), MNISTImage.create, lambda path: MNISTImage.create(path.read_bytes())],
    ids=["folder", "path", "bytes"],
)
def test_no_picture_starts_a_program(images, monkeypatch, read):
    started = []

    def start(*args, **_):
        started.append(args)
        raise OSError

    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", start)
    path = images / "training" / "5" / "00000.png"
    path.write_bytes(EPS)
    assert "no image" in refused(read, path)
    assert not started


def test_jpeg_2000_is_read(images, small):
    path = images / "training" / "5" / "00000.png"
    path.unlink()
    Image.fromarray(small.train.images[0].numpy()).save(path.with_suffix(".jp2"))  # lossless by default
    assert same(load_data(images).train, by_class(small.train[:100]))


def test_images_are_in_the_order_of_their_paths_at_every_depth(images, small):
    folder = images / "training" / "5"
    names = "b/z.png", "b.png", "b/a/x.png", "A.PNG", "b-.png", ".hidden/x.png", "b/.x.png"
    for i, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (28, 28), i).save(folder / name)
    train = load_data(images).train
    order = train.images[train.labels == 5][-5:, 0, 0].tolist()
    assert [names[i] for i in order] == ["A.PNG", "b/a/x.png", "b/z.png", "b-.png", "b.png"]
    assert order == [i for _, i in sorted((Path(name), i) for i, name in enumerate(names) if i in order)]


@pytest.mark.parametrize(("link", "target"), [("loop", "."), ("sub/loop", ".."), ("sub/loop", "../../5/sub")])
def test_a_class_folder_with_a_link_to_itself_is_read_once(images, link, target):
    digests, folder = load_data(images).digests, images / "training" / "5"
    (folder / "sub").mkdir()
    (folder / link).symlink_to(target)
    assert (folder / link).is_dir()
    with deadline():
        assert load_data(images).digests == digests


def test_a_link_to_a_folder_of_images_is_followed(images):
    digests, folder = load_data(images).digests, images / "training" / "5"
    folder.rename(images / "elsewhere")
    folder.mkdir()
    (folder / "all").symlink_to("../../elsewhere")
    assert load_data(images).digests == digests


def test_a_fifo_and_a_device_in_a_class_folder_are_no_images(images):
    digests = load_data(images).digests
    os.mkfifo(images / "training" / "5" / "fifo.png")
    (images / "training" / "5" / "zero.png").symlink_to("/dev/zero")
    with deadline():
        assert load_data(images).digests == digests


@pytest.mark.parametrize(("name", "limit"), [("MAX_BYTES", 100), ("MAX_PIXELS", 28 * 28 - 1)])
def test_an_image_that_is_too_large_is_refused_by_name(images, monkeypatch, name, limit):
    monkeypatch.setattr(image_module, name, limit)
    error = refused(load_data, images)
    assert str(images / "testing" / "0") in error or str(images / "training" / "0") in error


def test_class_folders_whose_names_are_no_text_keep_them(images):
    name = os.fsdecode(b"caf\xe9")
    try:
        for split in ("training", "testing"):
            (images / split / "5").rename(images / split / name)
    except OSError:
        pytest.skip("a file system whose names are all text")
    data = load_data(images)
    assert name in data.classes
    assert tuple(json.loads(json.dumps(data.classes))) == data.classes
    assert os.fsencode(data.classes[-1]) == b"caf\xe9"
    (images / "training" / name / "00000.png").write_bytes(b"x")
    assert name in refused(load_data, images)


def test_no_file_is_read_in_the_encoding_of_the_machine(tmp_path, small):
    (write_idx_folder(tmp_path, small) / "classes.txt").write_text("\n".join(FASHION))
    (tmp_path / "mine.toml").write_text("arch = 'lenet'")
    code = """
import warnings
from mnist_fastai import load_data, load_recipe
import mnist_fastai.datasets
warnings.simplefilter("error", EncodingWarning)
load_data(), load_data("."), load_recipe("mine.toml")
"""
    done = python("-X", "warn_default_encoding", "-c", code, cwd=tmp_path)
    assert done.returncode == 0, done.stderr


def test_hidden_folders_and_other_files_are_no_classes(images):
    digest = load_data(images).digests
    (images / "training" / ".ipynb_checkpoints").mkdir()
    (images / "training" / "notes.txt").write_text("x")
    (images / "training" / "3" / "notes.txt").write_text("x")
    assert load_data(images).digests == digest


@pytest.mark.parametrize(
    "spoil",
    [
        lambda path: path.write_bytes(b"not an image"),
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(path.read_bytes()[:-60]),
    ],
    ids=["unreadable", "empty", "truncated"],
)
def test_a_bad_image_is_refused_by_name(images, spoil):
    path = images / "training" / "5" / "00000.png"
    spoil(path)
    error = refused(load_data, images)
    assert str(path) in error
    assert "remove" in error


def _keep_one_class(root):
    for path in (root / "training").iterdir():
        if path.name != "5":
            path.rename(root / f"moved-{path.name}")


def _empty_testing(root):
    for path in (root / "testing").rglob("*.png"):
        path.unlink()


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (_keep_one_class, "training has 1 class"),
        (lambda root: (root / "training" / "ten").mkdir(), "training/ten has no images"),
        (lambda root: (root / "testing" / "ten").mkdir(), "testing has a class that .*training lacks: ten"),
        (lambda root: (root / "training").rename(root.parent / "gone"), "no training or train folder"),
        (lambda root: (root / "testing").rename(root.parent / "gone"), "no validation or test images"),
        (_empty_testing, "testing has no images"),
    ],
)
def test_an_image_folder_of_the_wrong_layout_is_refused(images, spoil, message):
    spoil(images)
    error = refused(load_data, images)
    assert str(images) in error
    assert re.search(message, error)


# --- holding out --------------------------------------------------------------------------------------------------


def test_hold_out_is_stratified_and_disjoint(mnist):
    data = mnist.hold_out(0.1)
    assert (len(data.train), len(data.valid)) == (54000, 6000)
    wanted = mnist.train.labels.bincount() / 10
    assert (data.valid.labels.bincount() - wanted).abs().max() < 1
    assert (data.train.labels.bincount() + data.valid.labels.bincount()).equal(mnist.train.labels.bincount())
    images = [{row.tobytes() for row in split.images.numpy()} for split in (mnist.train, data.train, data.valid)]
    assert len(images[0]) == 60000, "MNIST has no image twice, so that images can be told apart"
    assert images[1] | images[2] == images[0]
    assert not images[1] & images[2]


def test_hold_out_is_the_same_whatever_the_seed(folder):
    digests = set()
    for seed in (0, 1):
        np.random.seed(seed)
        torch.manual_seed(seed)
        digests.add(load_data(folder, valid_fraction=0.1).valid.digest)
    assert len(digests) == 1
    assert digests != {load_data(folder, valid_fraction=0.2).valid.digest}


@pytest.mark.parametrize("fraction", [0.001, 0.999])
def test_hold_out_refuses_what_cannot_be_stratified(small, fraction):
    assert str(fraction) in refused(small.hold_out, fraction)


def test_hold_out_refuses_a_class_with_a_single_image(small):
    labels = small.train.labels.clamp(max=8)
    labels[0] = 9
    refused(Data(Split(small.train.images, labels), small.test, small.classes).hold_out, 0.1)


# --- tensors of one's own -----------------------------------------------------------------------------------------


def test_a_split_takes_numpy_arrays(small):
    split = Split(small.test.images.numpy(), small.test.labels.numpy().astype(np.uint8))
    assert same(split, small.test)
    assert split.digest == small.test.digest


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (np.zeros((3, 28, 28), "f4"), [0, 1, 2], "float32"),
        (np.zeros((3, 28, 27), "u1"), [0, 1, 2], r"\[3, 28, 27\]"),
        (np.zeros((3, 784), "u1"), [0, 1, 2], r"\[3, 784\]"),
        (np.zeros((3, 28, 28), "u1"), [0, 1], "3 images"),
        (np.zeros((3, 28, 28), "u1"), [0, 1, -1], "3 images"),
        (np.zeros((3, 28, 28), "u1"), [0, 1, 1.5], "3 images"),
    ],
)
def test_images_and_labels_that_do_not_fit_are_refused(images, labels, message):
    assert re.search(message, refused(Split, images, labels))


@pytest.mark.parametrize("classes", ["abc", "aabcdefghi"])
def test_classes_that_do_not_fit_the_labels_are_refused(small, classes):
    assert "up to 9" in refused(Data, small.train, small.test, tuple(classes))


# --- DataLoaders --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("normalize", "mean", "std"), [("none", 0, 1), ("half", 0.5, 0.5), ("mnist", 0.1307, 0.3081)])
def test_batches_are_normalised_float32_images(small, normalize, mean, std):
    dls = dataloaders(small, normalize=normalize)
    xb, yb = dls.train.one_batch()
    assert (xb.dtype, xb.shape, yb.dtype, yb.shape) == (torch.float32, (32, 1, 28, 28), torch.int64, (32,))
    xb, yb = next(iter(dls.valid))
    images = small.test.images[: len(xb), None].float() / 255
    expected = images if normalize == "none" else (images - torch.tensor(mean)) / torch.tensor(std)
    assert torch.equal(torch.Tensor(xb), expected)
    assert torch.equal(torch.Tensor(yb).long(), small.test.labels[: len(yb)])


def epoch(dl) -> Split:
    """The images, uint8, and labels of an epoch, in its order."""
    xs, ys = zip(*dl, strict=True)
    pixels = torch.Tensor(torch.cat(xs)[:, 0]) * 255
    return Split(pixels.round().to(torch.uint8), torch.cat([torch.as_tensor(y.numpy()) for y in ys]))


@pytest.mark.parametrize("batch_size", [1, 32, 250, TRAIN])
def test_an_epoch_has_each_image_once_with_its_label(small, batch_size):
    dls = dataloaders(small, batch_size, normalize="none")
    found = epoch(dls.train)
    assert not torch.equal(found.images, small.train.images)
    rows = [torch.cat([s.images.flatten(1), s.labels[:, None].to(torch.uint8)], 1) for s in (found, small.train)]
    assert torch.equal(rows[0][np.lexsort(rows[0].numpy().T)], rows[1][np.lexsort(rows[1].numpy().T)])
    assert same(epoch(dls.valid), small.test)


def test_the_last_batch_is_smaller_and_kept(small):
    dls = dataloaders(small, 32)
    assert [len(xb) for xb, _ in dls.train] == [32] * 18 + [24]
    assert len(dls.train) == math.ceil(TRAIN / 32)


def test_each_epoch_is_shuffled_anew_and_by_the_seed(small):
    train = dataloaders(small, normalize="none").train
    torch.manual_seed(3)
    first, second = epoch(train), epoch(train)
    assert not torch.equal(first.images, second.images)
    torch.manual_seed(3)
    assert same(epoch(train), first)
    assert same(epoch(train), second)


def test_batches_equal_those_of_stock_fastai(small):
    block = DataBlock(
        blocks=(ImageBlock(PILImageBW), CategoryBlock),
        get_items=Data.items,
        get_x=ItemGetter(0),
        get_y=ItemGetter(1),
        splitter=IndexSplitter(range(TRAIN, TRAIN + TEST)),
        batch_tfms=Normalize.from_stats([0.1307], [0.3081], cuda=False),
    )
    stock = block.dataloaders(small, bs=32, num_workers=0, device="cpu")
    dls = dataloaders(small, normalize="mnist")
    own = dls.test_dl(list(small.test.images.numpy()), bs=32, num_workers=0)
    ours = torch.cat([xb for xb, _ in dls.valid])
    assert torch.equal(ours, torch.cat([xb for xb, _ in stock.valid]))
    assert torch.equal(torch.cat([yb for _, yb in dls.valid]), torch.cat([yb for _, yb in stock.valid]))
    assert torch.equal(ours, torch.cat([xb for (xb,) in own]))


def test_test_dl_takes_paths(images, small):
    dls = dataloaders(small)
    paths = sorted((images / "testing").rglob("*.png"), key=lambda p: p.name)
    (xb,) = next(iter(dls.test_dl(paths, bs=50, num_workers=0)))
    assert torch.equal(xb, next(iter(dls.valid))[0][:50])


class Count(Transform):
    """A transform of a user's own that counts its calls."""

    order = 25  # after the pixels are scaled

    def __init__(self):
        self.seen = []

    def encodes(self, x: TensorImageBW):
        self.seen.append(tuple(x.shape))
        return x


def test_a_batch_transform_that_a_user_adds_sees_each_batch(small):
    dls, count = dataloaders(small, 32), Count()
    dls.add_tfms([count], "after_batch", [0])
    sizes = [len(xb) for xb, _ in dls.train]
    assert [shape[0] for shape in count.seen] == sizes == [32] * 18 + [24]


def test_an_item_transform_that_a_user_adds_sees_each_image_in_the_same_order(small):
    dls, count = dataloaders(small, 32), Count()
    torch.manual_seed(0)
    before = epoch(dataloaders(small, 32, normalize="none").train)
    dls = dataloaders(small, 32, normalize="none")
    dls.add_tfms([count], "after_item", [0])
    torch.manual_seed(0)
    assert same(epoch(dls.train), before)
    assert count.seen == [(1, 28, 28)] * TRAIN


def test_to_moves_the_images_too(small):
    dls = dataloaders(small)
    dls.to(torch.device("meta"))
    assert {t.device.type for dl in dls.loaders for t in dl.tensors} == {"meta"}


@pytest.mark.parametrize("normalize", ["imagenet", (0.5,), (0.5, 0), "half "])
def test_an_unknown_normalisation_is_refused(small, normalize):
    assert "normalize" in refused(dataloaders, small, normalize=normalize)


@pytest.mark.parametrize("device", DEVICES)
def test_batches_are_on_the_device(small, device):
    xb, yb = dataloaders(small, device=device).one_batch()
    assert {xb.device.type, yb.device.type} == {torch.device(device).type}


# --- what a fastai user does with them ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def learner(run):
    learner = load_run(run.path)
    with learner.no_bar(), learner.no_logging():
        yield learner


@pytest.fixture(autouse=True)
def _close_figures():
    yield
    plt.close("all")


def shown() -> list[tuple[str, np.ndarray]]:
    """The title and the pixels, 0 to 255, of each image in the figure that was drawn last."""
    return [(a.get_title(), np.asarray(a.images[0].get_array())) for a in plt.gcf().axes if a.images]


def test_show_batch_shows_images_with_their_classes(small):
    dataloaders(small).valid.show_batch(max_n=9)
    assert [title for title, _ in shown()] == [small.classes[i] for i in small.test.labels[:9]]
    for (_, pixels), image in zip(shown(), small.test.images[:9].numpy(), strict=True):
        assert np.abs(pixels - image).max() <= 1  # fastai rounds down


def test_show_batch_unique_shows_one_image_as_often_as_asked(small):
    dataloaders(small).show_batch(max_n=4, unique=True)
    assert [title for title, _ in shown()] == [small.classes[small.train.labels[0]]] * 4
    assert all(np.abs(pixels - small.train.images[0].numpy()).max() <= 1 for _, pixels in shown())


def test_show_results_shows_the_class_above_the_prediction(learner, small):
    learner.show_results(max_n=9, shuffle=False)
    predicted = [learner.predict(image.numpy())[0] for image in small.test.images[:9]]
    actual = [small.classes[label] for label in small.test.labels[:9]]
    assert [title for title, _ in shown()] == [f"{a}\n{p}" for a, p in zip(actual, predicted, strict=True)]


def test_interpretation_counts_every_image(learner, small):
    found = ClassificationInterpretation.from_learner(learner).confusion_matrix()
    with torch.no_grad():
        predicted = learner.model(next(iter(learner.dls.valid))[0]).argmax(1)
    assert found.sum() == TEST
    assert np.array_equal(found, confusion_matrix(small.test.labels, predicted, labels=range(10)))


@pytest.fixture
def digit(small, tmp_path):
    """A test image as a file."""
    Image.fromarray(small.test.images[0].numpy()).save(tmp_path / "digit.png")
    return tmp_path / "digit.png"


@pytest.mark.parametrize(
    "give",
    [
        lambda path: path,
        str,
        Image.open,  # which reads no pixel until it must
        lambda path: Image.open(path).copy(),
        lambda path: Image.open(path).convert("RGB"),
        lambda path: Image.open(path).convert("RGBA"),
        lambda path: np.asarray(Image.open(path)),
        lambda path: np.asarray(Image.open(path).convert("RGB")),
        lambda path: sixteen_bit(np.asarray(Image.open(path))),
    ],
    ids=["path", "str", "open", "pil", "rgb", "rgba", "array", "rgb-array", "16-bit"],
)
def test_predict_gives_the_same_however_an_image_comes(learner, digit, give):
    with torch.no_grad():
        expected = learner.model(next(iter(learner.dls.valid))[0][:1]).softmax(1)[0]
    name, index, probabilities = learner.predict(give(digit))
    assert torch.allclose(torch.Tensor(probabilities), torch.Tensor(expected), rtol=0, atol=1e-6)
    assert (name, int(index)) == (learner.dls.vocab[expected.argmax()], expected.argmax())


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_predict_scales_a_larger_picture(learner, digit, mode):
    larger = Image.open(digit).convert(mode).resize((280, 280), Image.Resampling.BICUBIC)
    name, _, probabilities = learner.predict(digit)
    large_name, _, large_probabilities = learner.predict(larger)
    assert large_name == name
    assert torch.allclose(large_probabilities, probabilities, atol=0.02)


@pytest.mark.parametrize(
    "give",
    [
        lambda path: np.asarray(Image.open(path)) / 255,
        lambda path: np.asarray(Image.open(path)).astype(np.float32),
        lambda path: np.asarray(Image.open(path)).astype(np.uint16),
    ],
    ids=["float64", "float32", "uint16"],
)
def test_predict_refuses_pixels_of_unknown_range(learner, digit, give):
    with pytest.raises(ValueError, match="8-bit"):
        learner.predict(give(digit))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda path: path.unlink(), "no file"),
        (lambda path: path.write_bytes(b"not an image"), "no image"),
        (lambda path: path.write_bytes(path.read_bytes()[:-60]), "truncated"),
        (lambda path: (path.unlink(), path.mkdir()), "is a folder"),
    ],
    ids=["missing", "no-image", "truncated", "folder"],
)
def test_predict_refuses_what_is_no_image_by_name(digit, spoil, message):
    spoil(digit)
    error = refused(MNISTImage.create, digit)
    assert str(digit) in error
    assert message in error


def test_an_image_is_made_of_bytes_and_of_a_file_that_is_open(digit):
    content, expected = digit.read_bytes(), np.asarray(MNISTImage.create(digit))
    for source in (content, io.BytesIO(content)):
        assert np.array_equal(np.asarray(MNISTImage.create(source)), expected)
