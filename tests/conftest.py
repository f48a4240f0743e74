"""Few real MNIST images, in memory and as files, and the two ways in: the CLI in this process, and a fresh one."""

import filecmp
import gzip
import json
import os
import re
import resource
import signal
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import matplotlib
import numpy as np
import pytest
import torch

matplotlib.use("Agg")  # show_batch and show_results draw, and CI has no display
# Beside another process that computes, two threads wait for each other ten times as long as one works.
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # some tests import onnxruntime before this package
torch.set_num_threads(1)

TRAIN, TEST = 600, 400  # images
DEVICES = ["cpu", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))]
if torch.backends.mps.is_available():
    DEVICES.append("mps")


class Outcome(NamedTuple):
    code: int
    out: str
    err: str


class CtrlC:
    """A console at which the user presses Ctrl-C as soon as an epoch's line shows."""

    is_terminal = False

    def __init__(self, after: int):  # epochs
        self.lines = 2 + after  # what is trained, and the header, come first

    def print(self, *_, **__):
        self.lines -= 1
        if not self.lines:
            raise KeyboardInterrupt


def idx(array: np.ndarray) -> bytes:
    """The IDX file that holds an array, byte by byte as the format's page has it."""
    code = {"u1": 0x08, "i1": 0x09, "i2": 0x0B, "i4": 0x0C, "f4": 0x0D, "f8": 0x0E}[array.dtype.str[1:]]
    dims = b"".join(n.to_bytes(4, "big") for n in array.shape)
    return bytes([0, 0, code, array.ndim]) + dims + array.astype(array.dtype.newbyteorder(">")).tobytes()


def write_idx_folder(folder: Path, data, names: dict[str, str] | None = None) -> Path:
    """Write a Data as MNIST's four files, or under the `names` given for them; gzipped where the name says so."""
    folder.mkdir(parents=True, exist_ok=True)
    arrays = {
        "train-images-idx3-ubyte": data.train.images,
        "train-labels-idx1-ubyte": data.train.labels,
        "t10k-images-idx3-ubyte": data.test.images,
        "t10k-labels-idx1-ubyte": data.test.labels,
    }
    for name, tensor in arrays.items():
        name, content = (names or {}).get(name, name), idx(tensor.numpy().astype(np.uint8))
        (folder / name).write_bytes(gzip.compress(content, 1) if name.endswith(".gz") else content)
    return folder


def tree(folder: Path) -> dict[str, bytes]:
    """Every file below a folder with its content, and every folder: what must not change when a call is refused."""
    return {str(p.relative_to(folder)): p.read_bytes() if p.is_file() else b"" for p in folder.rglob("*") if p.exists()}


def same_weights(a: Path, b: Path) -> bool:
    """Whether two run directories have the same weights; pytest would take minutes to show how bytes differ."""
    return filecmp.cmp(a / "model.safetensors", b / "model.safetensors", shallow=False)


def forget_digests(path: Path, **changes) -> None:
    """Make a run one whose files were never recorded, as older ones are, and change its metrics."""
    metrics, facts = (json.loads((path / name).read_text("utf-8")) for name in ("metrics.json", "run.json"))
    (path / "metrics.json").write_text(json.dumps(metrics | {"sha256": {}} | changes))
    (path / "run.json").write_text(json.dumps(facts | {"format": 1}))


def without_seconds(history: list[dict]) -> list[dict]:
    return [{k: v for k, v in row.items() if k != "seconds"} for row in history]


def assert_one_sentence(text: str) -> None:
    assert text
    assert "\n" not in text
    assert "Traceback" not in text
    assert not re.search(r"[.!?]\s+\S", text), f"more than one sentence: {text}"


@contextmanager
def full_disk(limit: int):
    """No file can grow beyond `limit` bytes: the write fails as it does on a full disk, for root as well."""
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))


@contextmanager
def deadline(seconds: float = 10):
    """Fail, rather than wait for ever as one does for a named pipe."""
    before = signal.signal(signal.SIGALRM, lambda *_: pytest.fail(f"no end after {seconds} s"))
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@pytest.fixture(scope="session")
def mnist():
    """The whole of MNIST, as it is embedded."""
    from mnist_fastai import load_data

    return load_data()


@pytest.fixture(scope="session")
def small(mnist):
    """The first images of MNIST."""
    from mnist_fastai import Data

    return Data(mnist.train[:TRAIN], mnist.test[:TEST], mnist.classes)


@pytest.fixture(scope="session")
def folder(small, tmp_path_factory) -> Path:
    """`small` as IDX files, one of them gzipped. To read only."""
    names = {"train-images-idx3-ubyte": "train-images-idx3-ubyte.gz"}
    return write_idx_folder(tmp_path_factory.mktemp("idx"), small, names)


@pytest.fixture(scope="session")
def recipe(folder):
    """Four quick epochs on `folder`."""
    from mnist_fastai import Recipe

    return Recipe(arch="lenet", opt="adam", num_epochs=4, data=str(folder))


@pytest.fixture(scope="session")
def run(recipe, tmp_path_factory):
    """A finished run of `recipe`, never interrupted. To read only."""
    from mnist_fastai import fit

    return fit(recipe, out=tmp_path_factory.mktemp("run") / "whole", device="cpu")


@pytest.fixture
def interrupted(recipe, tmp_path) -> Path:
    """The directory of a run of `recipe` that Ctrl-C ended after two epochs."""
    return interrupt(recipe, tmp_path / "interrupted", after=2)


def interrupt(recipe, path: Path, after: int) -> Path:
    from mnist_fastai import fit

    with pytest.raises(KeyboardInterrupt):
        fit(recipe, out=path, device="cpu", console=CtrlC(after))
    return path


@pytest.fixture
def cli(capsys, monkeypatch, tmp_path):
    """Call `mnist-fa` in this process, in an empty folder, and get its exit code, stdout and stderr."""
    from mnist_fastai.cli import main

    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)

    def call(*args) -> Outcome:
        monkeypatch.setattr(sys, "argv", ["mnist-fa", *map(str, args)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as exit:
            main()
        return Outcome(exit.value.code or 0, *capsys.readouterr())

    return call


def python(*args, cwd: Path, **kwargs) -> subprocess.CompletedProcess:
    """Run a fresh interpreter in a folder."""
    command = [sys.executable, *map(str, args)]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False, timeout=120, **kwargs)


def cpu_seconds(*command, cwd: Path) -> float:
    """The processor's time that a process takes: another one beside it makes it end later, but hardly busier."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, cwd=cwd, check=True, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


PEAK = """
import re
from pathlib import Path
def peak():  # megabytes that this process has used; `resource` begins with what its parent had
    return int(re.search(r"VmHWM:\\s*(\\d+)", Path("/proc/self/status").read_text())[1]) // 1024
"""
has_peak = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="no /proc, which has the memory used")


def start_cli(*args, cwd: Path) -> subprocess.Popen:
    """Start `mnist-fa` as a process of its own."""
    # a process that was started in the background ignores Ctrl-C, and so would its children
    code = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
    command = [sys.executable, "-c", code + "from mnist_fastai.cli import main; main()", *map(str, args)]
    return subprocess.Popen(command, cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
