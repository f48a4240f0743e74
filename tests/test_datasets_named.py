"""Data sets by name: from a server that does what servers do, into a cache that has whole files or none."""

import gzip
import hashlib
import io
import json
import os
import re
import shlex
import shutil
import signal
import socket
import struct
import threading
import time
import zipfile
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from conftest import assert_one_sentence, full_disk, idx, tree
from PIL import Image
from zygote import Call

from mnist_fastai import Data, InputError, MissingData, Recipe, Run, RunError, Split, fit, load_data, load_run
from mnist_fastai.datasets import named
from mnist_fastai.datasets.folders import SUFFIXES
from mnist_fastai.datasets.named import NAMED
from mnist_fastai.recipes import NAMES

DEBIAN = Path("/usr/share/datasets/fashion-mnist")  # of Debian's package dataset-fashion-mnist
TRAIN_IMAGES = "train-images-idx3-ubyte"


class Mirror(ThreadingHTTPServer):
    """A server of files by their names, which answers those in `faults` in another way."""

    daemon_threads = True

    def __init__(self, files: dict[str, bytes]):
        super().__init__(("127.0.0.1", 0), Answer)
        self.files, self.faults, self.asked, self.delay = files, {}, [], 0.0
        self.url = f"http://127.0.0.1:{self.server_port}/"
        self.release = threading.Event()  # of those that stall

    def handle_error(self, *_):  # a client that has gone
        pass


class Answer(BaseHTTPRequestHandler):
    def log_message(self, *_):
        pass

    def do_GET(self):
        name = self.path.rpartition("/")[2]
        content, fault = self.server.files.get(name, b""), self.server.faults.get(name)
        self.server.asked.append(name)
        time.sleep(self.server.delay)
        if fault in (404, 500):
            self.send_error(fault)
            return
        if fault == "silent":
            self.server.release.wait(20)
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if fault == "altered":
            content = content[:-1] + bytes([content[-1] ^ 1])
        half = len(content) // 2
        self.wfile.write(content[:half] if fault in ("stalls", "cut off") else content)
        if fault == "stalls":
            self.wfile.flush()
            self.server.release.wait(20)


@pytest.fixture(scope="module")
def files(small) -> dict[str, bytes]:
    """What is distributed of each data set, with the images of `small`."""
    whole = {
        "train-images-idx3-ubyte": small.train.images, "train-labels-idx1-ubyte": small.train.labels,
        "t10k-images-idx3-ubyte": small.test.images, "t10k-labels-idx1-ubyte": small.test.labels,
    }  # fmt: skip
    out = {f"{name}.gz": packed(tensor) for name, tensor in whole.items()}
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as z:
        z.writestr("gzip/emnist-letters-mapping.txt", "1 65 97\n")
        for split, first, n in (("balanced", 0, 47), ("letters", 1, 26), ("digits", 0, 10), ("byclass", 0, 62)):
            for part, images in (("train", small.train.images), ("test", small.test.images)):
                labels = torch.arange(len(images)) % n + first
                sideways = images.transpose(1, 2)
                z.writestr(f"gzip/emnist-{split}-{part}-images-idx3-ubyte.gz", packed(sideways))
                z.writestr(f"gzip/emnist-{split}-{part}-labels-idx1-ubyte.gz", packed(labels))
    out["gzip.zip"] = archive.getvalue()
    for part, split in (("train", small.train), ("test", small.test)):
        table = torch.stack([split.labels, torch.full_like(split.labels, 4), torch.arange(len(split)) + 3000], 1)
        out[f"qmnist-{part}-images-idx3-ubyte.gz"] = packed(split.images)
        out[f"qmnist-{part}-labels-idx2-int.gz"] = gzip.compress(idx(table.numpy().astype("i4")), 1)
    return out


def packed(tensor) -> bytes:
    return gzip.compress(idx(np.ascontiguousarray(tensor.numpy().astype(np.uint8))), 1)


def md5(content: bytes) -> str:
    return hashlib.md5(content).hexdigest()


def point(kinds, url: str, files: dict[str, bytes], put=setattr) -> None:
    """Let torchvision's classes download from there, and hold the files to their MD5."""
    four = [(f, md5(files[f])) for f in files if re.match("train|t10k", f)]
    for kind in (kinds.FashionMNIST, kinds.KMNIST):
        put(kind, "mirrors", [url])
        put(kind, "resources", four)
    put(kinds.EMNIST, "url", f"{url}gzip.zip")
    put(kinds.EMNIST, "md5", md5(files["gzip.zip"]))
    parts = {p: [(url + f, md5(files[f])) for f in files if f.startswith(f"qmnist-{p}")] for p in ("train", "test")}
    put(kinds.QMNIST, "resources", parts)


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv(named.CACHE, str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def mirror(files, cache, monkeypatch):
    """The server that torchvision's classes download from, and an empty cache."""
    server = Mirror(files)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    point(torchvision.datasets, server.url, files, monkeypatch.setattr)
    monkeypatch.setattr(named, "TIMEOUT", 0.5)
    yield server
    server.release.set()
    server.shutdown()
    server.server_close()


def expected(name: str, small: Data) -> list[Split]:
    """What a data set holds that is made of `small`."""
    if not name.startswith("emnist"):
        return [small.train, small.test]
    n = len(NAMED[name].classes)
    return [Split(s.images, torch.arange(len(s)) % n) for s in (small.train, small.test)]


def same(a: Split, b: Split) -> bool:
    return torch.equal(a.images, b.images) and torch.equal(a.labels, b.labels)


def refused(kind, call, *args, **kwargs) -> str:
    with pytest.raises(kind) as error:
        call(*args, **kwargs)
    assert_one_sentence(str(error.value))
    return str(error.value)


# --- what is read -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_a_name_gives_upright_images_with_labels_and_class_names_and_then_from_the_cache(mirror, small, name):
    data = load_data(name)
    for found, wanted in zip((data.train, data.test), expected(name, small), strict=True):
        assert same(found, wanted)
    kind = getattr(torchvision.datasets, NAMED[name].kind)
    theirs = kind.classes if not NAMED[name].prefix else kind.classes_split_dict[name.removeprefix("emnist-")]
    theirs = [re.sub("^(.) - .*", r"\1", c) for c in theirs if c != "N/A"]  # "7 - seven"
    assert data.classes == tuple(theirs)
    assert data.source == name
    mirror.asked.clear()
    assert load_data(name).digests == data.digests
    assert not mirror.asked


def test_the_names_are_those_that_a_recipe_knows():
    assert tuple(NAMED) == NAMES
    assert all(Recipe(data=name).data == name for name in NAMES)
    assert len(NAMED["emnist-letters"].classes) == 26
    assert len(NAMED["emnist-balanced"].classes) == 47


def test_one_archive_is_downloaded_for_all_of_emnist_and_what_has_no_name_is_not_kept(mirror, cache):
    load_data("emnist-letters")
    assert mirror.asked.count("gzip.zip") == 2  # torchvision looks for a redirection first
    load_data("emnist-digits"), load_data("emnist-balanced")
    assert len(mirror.asked) == 2
    kept = {p.name for p in (cache / "EMNIST" / "raw").iterdir()}
    assert len(kept) == 3 * 4 + 1
    assert not any("byclass" in name or ".zip" in name for name in kept)


def test_torchvision_reads_the_cache_and_its_folders_are_read_as_they_lie(mirror, cache, tmp_path, small):
    load_data("fashion-mnist")
    assert np.array_equal(torchvision.datasets.FashionMNIST(cache).data, small.train.images)
    theirs = tmp_path / "data"
    torchvision.datasets.FashionMNIST(theirs, download=True)
    for folder in (theirs, theirs / "FashionMNIST", theirs / "FashionMNIST" / "raw"):
        data = load_data(folder)
        assert same(data.train, small.train)
        assert data.classes == NAMED["fashion-mnist"].classes
        assert data.source == str(folder)
    (theirs / "FashionMNIST" / "processed").mkdir()  # of older versions
    assert same(load_data(theirs / "FashionMNIST").train, small.train)
    torchvision.datasets.KMNIST(theirs, download=True)
    assert "FashionMNIST, KMNIST; name one" in refused(InputError, load_data, theirs)
    assert load_data(theirs / "KMNIST").classes[:2] == ("o", "ki")


def test_a_folder_of_the_name_is_taken_where_it_is_written_as_a_path(mirror, tmp_path, small, monkeypatch, caplog):
    monkeypatch.chdir(tmp_path)
    own = tmp_path / "kmnist"
    own.mkdir()
    for name in ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"):
        (own / name).write_bytes(gzip.decompress(mirror.files[f"{name}.gz"]))
    with caplog.at_level("INFO", logger="mnist_fastai"):
        assert len(load_data("kmnist").test) == len(small.test)
    assert "the folder here, which is ./kmnist" in caplog.text
    for path in ("./kmnist", Path("kmnist"), own):
        data = load_data(path, 0.1)
        assert not len(data.test)
        assert data.classes == NAMED["kmnist"].classes  # as it is named after that
    assert Recipe(data="./kmnist").data == str(own)
    assert Recipe(data="kmnist").data == "kmnist"


@pytest.mark.skipif(not DEBIAN.is_dir(), reason="Debian's package dataset-fashion-mnist is not installed")
def test_the_real_fashion_mnist_has_the_digests_that_torchvision_knows(cache, files, monkeypatch, cli):
    # Debian left names and dates out of the gzip files; with them, the files are those that torchvision downloads
    seconds = {"train": 1504176606, "t10k": 1504176627}
    real = {}
    for path in DEBIAN.iterdir():
        name, content = path.name.removesuffix(".gz"), path.read_bytes()
        head = b"\x1f\x8b\x08\x08" + struct.pack("<I", seconds[name.partition("-")[0]]) + content[8:10]
        real[path.name] = head + name.encode() + b"\0" + content[10:]
    server = Mirror(real)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    monkeypatch.setattr(torchvision.datasets.FashionMNIST, "mirrors", [server.url])
    code, out, err = cli("data", "get", "fashion-mnist")
    server.shutdown()
    server.server_close()
    assert code == 0, err
    assert "60,000 training and 10,000 test images of 10 classes" in out
    assert "downloading fashion-mnist, about 31 MB" in err
    data = load_data("fashion-mnist")
    assert data.format == "28x28"
    assert data.classes[data.train.labels[0]] == "Ankle boot"
    assert load_data(DEBIAN).digests == data.digests
    assert load_data(DEBIAN).classes == data.classes


# --- servers ------------------------------------------------------------------------------------------------------

ONE_FILE = {"fashion-mnist": "t10k-images-idx3-ubyte.gz", "emnist-letters": "gzip.zip",
            "qmnist": "qmnist-test-labels-idx2-int.gz"}  # fmt: skip


@pytest.mark.parametrize("name", ONE_FILE)
@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (404, "HTTP Error 404"),
        (500, "HTTP Error 500"),
        ("stalls", "timed out"),
        ("silent", "timed out"),
        ("cut off", "MD5 differs"),
        ("altered", "MD5 differs"),
    ],
)
def test_what_is_not_the_whole_file_is_not_taken(mirror, cache, name, fault, reason):
    mirror.faults[ONE_FILE[name]] = fault
    error = refused(MissingData, load_data, name)
    assert reason in error
    for word in (ONE_FILE[name], mirror.url, str(cache / NAMED[name].kind / "raw")):
        assert word in error
    assert not cache.exists() or tree(cache) == {}
    assert socket.getdefaulttimeout() is None
    mirror.faults.clear()
    assert len(load_data(name).train)


def test_where_there_is_no_server_one_sentence_names_the_files_and_their_places(mirror, cache, cli):
    mirror.shutdown()
    mirror.server_close()
    code, out, err = cli("train", "--data", "kmnist", "--dry-run")
    assert (code, out.count("\n")) == (2, 1)
    (error,) = [line for line in err.splitlines() if "downloading" not in line]
    assert_one_sentence(error)
    assert "Connection refused" in error
    assert f"t10k-images-idx3-ubyte.gz and t10k-labels-idx1-ubyte.gz from {mirror.url}" in error
    assert error.endswith(f"put them into {cache / 'KMNIST' / 'raw'}")
    assert not cache.exists() or tree(cache) == {}


def test_the_next_mirror_is_asked(mirror, monkeypatch):
    monkeypatch.setattr(torchvision.datasets.KMNIST, "mirrors", ["http://127.0.0.1:9/", mirror.url])
    assert len(load_data("kmnist").train)


def test_files_that_were_put_there_by_hand_are_used_where_they_are_whole(mirror, cache, small):
    mirror.shutdown()
    mirror.server_close()
    raw = cache / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    four = {name: content for name, content in mirror.files.items() if re.match("train|t10k", name)}
    for name, content in four.items():
        (raw / name).write_bytes(content)
    (raw / "t10k-images-idx3-ubyte.gz").write_bytes(four["t10k-images-idx3-ubyte.gz"][:-1])
    (raw / "t10k-images-idx3-ubyte").write_bytes(b"unpacked by somebody, whose digest nobody knows")
    before = tree(cache)
    error = refused(MissingData, load_data, "fashion-mnist")
    assert "get t10k-images-idx3-ubyte.gz from" in error
    assert "the t10k-images-idx3-ubyte.gz there is another or damaged" in error
    assert tree(cache) == before
    (raw / "t10k-images-idx3-ubyte.gz").write_bytes(four["t10k-images-idx3-ubyte.gz"])
    assert same(load_data("fashion-mnist").test, small.test)


# --- the cache ----------------------------------------------------------------------------------------------------

SCRIPT = """
import json, sys, torchvision
from mnist_fastai import load_data
sys.path.insert(0, {tests!r})
for kind, names in json.loads({settings!r}).items():
    for name, value in names.items():
        setattr(getattr(torchvision.datasets, kind), name, value)
print(load_data("fashion-mnist").digests["test"]["sha256"])
"""


@pytest.fixture
def script(mirror, tmp_path) -> Path:
    kind = torchvision.datasets.FashionMNIST
    settings = json.dumps({"FashionMNIST": {"mirrors": kind.mirrors, "resources": kind.resources}})
    (tmp_path / "work").mkdir(exist_ok=True)
    code = SCRIPT.format(tests=str(Path(__file__).parent), settings=settings)
    (tmp_path / "work" / "load.py").write_text(f"import os\nos.environ['{named.CACHE}'] = '../cache'\n{code}")
    return tmp_path


def wait_for(condition, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "nothing happens"
        time.sleep(0.01)


def test_two_processes_at_once_download_once(mirror, script, small):
    mirror.delay = 0.1
    calls = [Call(script, (), script="load.py") for _ in range(2)]
    outcomes = [call.wait() for call in calls]
    assert [o.out.strip() for o in outcomes] == [small.test.digest] * 2, outcomes
    assert sorted(mirror.asked) == sorted(2 * [n for n in mirror.files if re.match("train|t10k", n)])
    assert any("waiting for its end" in o.err for o in outcomes)


def test_what_a_killed_process_left_is_neither_used_nor_kept(mirror, script, cache, small):
    mirror.faults["t10k-labels-idx1-ubyte.gz"] = "stalls"
    for number in (signal.SIGINT, signal.SIGKILL):
        mirror.asked.clear()
        call = Call(script, (), script="load.py")
        wait_for(lambda: mirror.asked.count("t10k-labels-idx1-ubyte.gz") == 2)
        os.kill(call.process.pid, number)
        assert call.wait().code
        left = tree(cache) if cache.exists() else {}
        assert any("t10k-images" in name for name in left) == (number == signal.SIGKILL)
    mirror.faults.clear()
    assert same(load_data("fashion-mnist").test, small.test)
    assert {Path(name).name for name in tree(cache)} == {
        "FashionMNIST", "raw", named.SUMS, *(n.removesuffix(".gz") for n in mirror.files if re.match("train|t10k", n))
    }  # fmt: skip


def test_a_full_disk_is_one_sentence_and_leaves_nothing(mirror, cache):
    with full_disk(50_000):
        assert "cannot be written" in refused(RunError, load_data, "fashion-mnist")
    assert not cache.exists() or tree(cache) == {}
    assert len(load_data("fashion-mnist").train)


def test_a_cache_that_cannot_be_a_folder_is_refused(mirror, cache):
    cache.write_text("x")
    assert named.CACHE in refused(InputError, load_data, "fashion-mnist")


@pytest.mark.parametrize("spoil", ["altered", "cut", "gone", "sums"])
def test_files_that_are_damaged_later_are_refused_and_downloaded_again(mirror, cache, cli, small, spoil):
    load_data("kmnist")
    raw = cache / "KMNIST" / "raw"
    content = (raw / TRAIN_IMAGES).read_bytes()
    if spoil == "altered":
        (raw / TRAIN_IMAGES).write_bytes(content[:-400] + b"\1" + content[-399:])
    elif spoil == "cut":
        (raw / TRAIN_IMAGES).write_bytes(content[:-1])
    elif spoil == "gone":
        (raw / TRAIN_IMAGES).unlink()
    else:
        (raw / named.SUMS).write_text("x\n")
    if spoil in ("altered", "cut"):
        error = refused(InputError, load_data, "kmnist")
        assert str(raw / TRAIN_IMAGES) in error
        assert "`mnist-fa data get kmnist`" in error
        code, out, err = cli("data", "check")
        assert code == 2
        assert out.count("\n") == 1  # mnist's
        assert err == f"mnist-fa: {error}\n"
    code, out, err = cli("data", "get", "kmnist")
    assert code == 0, err
    assert (raw / TRAIN_IMAGES).read_bytes() == content
    assert same(load_data("kmnist").train, small.train)


# --- commands -----------------------------------------------------------------------------------------------------


def test_list_says_what_is_here_and_check_what_is_whole(mirror, cache, cli):
    code, out, err = cli("data", "list")
    assert (code, err) == (0, "")
    assert [line.split()[0] for line in out.splitlines()[1:-1]] == ["mnist", *NAMES]
    assert out.count(" yes ") == 1
    assert str(cache) in out
    code, out, err = cli("data", "get", "qmnist", "fashion-mnist", "--quiet")
    assert (code, err) == (0, "")  # no progress
    assert f"in {cache / 'QMNIST' / 'raw'}" in out
    assert cli("data", "list").out.count(" yes ") == 3
    code, out, err = cli("data", "check")
    assert code == 0
    assert [line.partition(":")[0] for line in out.splitlines()] == ["mnist", "fashion-mnist", "qmnist"]
    assert all("600 training and 400 test images of 10 classes" in line for line in out.splitlines()[1:])


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("get", "fashion"), "no data set 'fashion'; take one of mnist, fashion-mnist"),
        (("check", "kmnist"), "`mnist-fa data get kmnist` downloads it"),
    ],
)
def test_a_wrong_call_is_one_sentence(mirror, cli, args, message):
    code, out, err = cli("data", *args)
    assert (code, out) == (2, "")
    assert message in err
    assert_one_sentence(err.strip())
    assert not mirror.asked


def test_a_run_by_name_finds_its_data_again_and_does_without_where_that_is_gone(mirror, cache, cli, tmp_path):
    recipe = Recipe(arch="lenet", opt="adam", num_epochs=1, data="fashion-mnist")
    run = fit(recipe, out=tmp_path / "run", device="cpu")
    assert run.recipe.data == run.facts["source"] == "fashion-mnist"
    assert run.classes == NAMED["fashion-mnist"].classes
    learner = load_run(run.path)
    assert len(learner.dls.valid_ds) == 400
    code, out, err = cli("evaluate", run.path, "--data", "fashion-mnist", "--out", "evaluation", "--json")
    assert code == 0, err
    assert json.loads(out)["sets"][0] | {"note": ""} == {
        "name": "fashion-mnist", "split": "test", "images": 400, "labels": "given", "note": ""
    }  # fmt: skip
    assert json.loads(out)["results"][0]["accuracy"] == run.metrics["accuracy"]
    code, _, err = cli("tsne", run.path, "--data", "kmnist", "--samples", 50)
    assert code == 2
    assert "kmnist has o, ki" in err
    shutil.rmtree(cache)
    mirror.faults.update(dict.fromkeys(mirror.files, 500))
    code, out, err = cli("export", run.path, "--out", "exported")
    assert code == 0, err
    assert "200 images of its sample" in out
    learner = load_run(Run(run.path).path)
    error = refused(MissingData, partial(getattr, learner.dls, "valid"))
    assert f"the data of {run.path} is missing: fashion-mnist cannot be downloaded" in error


DOCS = (Path(__file__).parent.parent / "docs" / "data.md").read_text()


@pytest.mark.parametrize("command", re.findall(r"^(mnist-fa .*?) *(?:#.*)?$", DOCS, re.M))
def test_a_command_of_the_docs_works(command, mirror, small, cli, tmp_path):
    _, name, *args = shlex.split(command)
    (folder := Path("digit-recognizer")).mkdir()
    for part, labels in (("train", small.train.labels), ("test", None)):
        rows = np.column_stack([*([labels] if labels is not None else []), small.train.images.flatten(1)])
        header = [*(["label"] if labels is not None else []), *(f"pixel{i}" for i in range(784))]
        np.savetxt(folder / f"{part}.csv", rows, "%d", ",", header=",".join(header), comments="")
    for i, label in enumerate(small.train.labels[:200].tolist()):
        (digit := Path("photos", str(label))).mkdir(parents=True, exist_ok=True)
        Image.fromarray(255 - small.train.images[i].numpy()).resize((84, 84)).save(digit / f"{i}.png")
    if name == "train":
        args += ["--dry-run", "-a", "lenet"]
    if name == "evaluate":
        fit(Recipe(arch="lenet", num_epochs=0, data="fashion-mnist"), device="cpu")
    code, out, err = cli(name, *args)
    assert code == 0, err
    assert out


def test_the_docs_have_every_name_and_its_size():
    for name, one in NAMED.items():
        (row,) = re.findall(rf"^\| `{name}` \|.*", DOCS, re.M)
        assert row.endswith(f"| {len(one.classes)} | {one.megabytes} MB |")
    assert f"{named.TIMEOUT} seconds" in DOCS
    assert all(suffix[1:] in DOCS for suffix in SUFFIXES)
