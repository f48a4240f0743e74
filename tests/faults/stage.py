"""The commands that write files, what each leaves when nothing disturbs it, and checks against that.

`Stage` makes the data and runs every command once, undisturbed. What a disturbed command leaves is compared with these
files: while it works and after a kill, each file has its old content or its new one; at the end it has the new one.
"""

import csv
import io
import json
import re
import shutil
import sys
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

import safetensors.numpy
from PIL import Image

sys.path.append(str(Path(__file__).parents[1]))  # of conftest.py, where this is no part of pytest
from conftest import TEST, TRAIN, assert_one_sentence, write_idx_folder
from zygote import Moment, Outcome, call

VOLATILE = {"seconds", "images_per_second", "finished", "id", "git_commit", "sha256", "s per run"}
RECIPE = "-a lenet -o adam -b 64 -n 3 --quiet"
Files = dict[str, bytes]  # by their paths in the folder


@dataclass
class Command:
    """A command that writes to `out`, in its work folder."""

    name: str
    args: str
    out: str
    other: str = ""  # arguments with which it was called before, so that there are old files
    share: float = 0.0  # of all kills
    again: Callable[[Path], str] | None = None  # the arguments that go on, where they are others
    new: Files = field(default_factory=dict)  # what it leaves undisturbed
    old: Files = field(default_factory=dict)  # what it left before
    events: int = 0  # operations on files, undisturbed
    seconds: float = 0.0

    def next_args(self, work: Path) -> str:
        return self.again(work) if self.again else self.args


def _train_again(work: Path) -> str:
    started = (work / "run" / "recipe.json").exists()
    return RESUME if started else TRAIN_ARGS


TRAIN_ARGS, RESUME = f"train {RECIPE} --data ../../data --out run", "train --resume run --quiet"
TSNE = "tsne ../../whole --samples 100 --perplexity 10 --quiet --out out"
COMMANDS = [
    Command("train", TRAIN_ARGS, "run", share=0.45, again=_train_again),
    Command("reproduce", "reproduce --smoke --rows vanilla --seeds 2 --jobs 1 --quiet --out out", "out", share=0.1),
    Command("export safetensors", "export ../../whole --format safetensors --out out", "out", share=0.15),
    Command(
        "export onnx", "export ../../whole --format onnx --out out", "out",
        "export ../../second --format onnx --out out", 0.05,
    ),
    Command("tsne", f"{TSNE} --iterations 50", "out", f"{TSNE} --iterations 1 --seed 1", 0.1),
    Command("predict", "predict ../../pictures --csv out.csv", "out.csv", "predict ../../few --csv out.csv", 0.15),
]  # fmt: skip


class Stage:
    """The data, a finished run of each of two seeds, and every command's files. `folder` is new."""

    def __init__(self, folder: Path, names: set[str] | None = None):
        from mnist_fastai import Data, load_data

        self.folder, mnist = folder, load_data()
        self.data = Data(mnist.train[:TRAIN], mnist.test[:TEST], mnist.classes)
        write_idx_folder(folder / "data", self.data)
        for name, n in (("pictures", 12), ("few", 3)):
            (folder / name).mkdir()
            for i in range(n):
                Image.fromarray(self.data.test.images[i].numpy()).resize((60, 60)).save(folder / name / f"{i:02}.png")
        for seed, name in enumerate(("whole", "second")):
            self._call(case := self.case("undisturbed"), f"{TRAIN_ARGS} --seed {seed}")
            (case / "work" / "run").rename(folder / name)
        self.second = files(folder / "second")  # what `train --seed 1` leaves
        self.commands = {c.name: c for c in COMMANDS if not names or c.name in names}
        for command in self.commands.values():
            if command.other:
                command.old = self._files(command, command.other)[0]
            command.new, done = self._files(command, command.args)
            command.events, command.seconds = done.events, done.seconds

    def case(self, name: str) -> Path:
        """A new folder for a case, as deep as `folder` / name."""
        path = self.folder / re.sub(r"\W", "-", name)
        shutil.rmtree(path, ignore_errors=True)
        (path / "work").mkdir(parents=True)
        return path

    def _call(self, case: Path, args: str) -> Outcome:
        done = call(case, *args.split())
        assert done.code == 0, f"undisturbed, mnist-fa {args} fails: {done.err[-2000:]}"
        return done

    def _files(self, command: Command, args: str) -> tuple[Files, Outcome]:
        done = self._call(case := self.case("undisturbed"), args)
        return files(case / "work" / command.out), done


def put_old(command: Command, out: Path) -> None:
    """Have the command's files of an earlier call stand there."""
    for name, content in command.old.items():
        path = out / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def draw_moment(rng: Random, command: Command, nth: int = 1, **kwargs) -> Moment:
    """At an operation on files, up to 50 ms after it, or anywhere by the clock; earlier where it is the n-th kill."""
    event, kind = rng.randint(1, max(1, command.events // nth)), rng.randrange(3)
    if kind == 2:
        return Moment(0, rng.uniform(0.001, command.seconds / nth), **kwargs)
    return Moment(event, rng.uniform(0.001, 0.05) if kind else 0.0, **kwargs)


# --- checks -----------------------------------------------------------------------------------------------------------


def files(path: Path) -> Files:
    """The content of a file, or of every file below a folder that is not hidden."""
    if path.is_file():
        return {"": path.read_bytes()}
    found = {str(p.relative_to(path)): p for p in sorted(path.rglob("*"))}
    shown = {name: p for name, p in found.items() if not re.search(r"(^|/)\.", name)}
    return {name: content for name, p in shown.items() if (content := _read(p)) is not None}


def _read(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except (FileNotFoundError, IsADirectoryError):
        return None


def plain(name: str, content: bytes):
    """A file's content, without what differs from call to call. Raises ValueError where it is cut off."""
    if name.endswith((".json", ".csv", ".md")) and not content.endswith(b"\n"):
        raise ValueError("it ends within a line")
    if name.endswith(".json"):
        return {k: v for k, v in json.loads(content).items() if k not in VOLATILE}
    if name.endswith(".csv"):
        rows = csv.DictReader(io.StringIO(content.decode(), newline=""), strict=True)
        return [{k: v for k, v in row.items() if k not in VOLATILE} for row in rows]
    if name.endswith("results.md"):
        return re.sub(rb"\| *[\d.]+ \|\n", b"|\n", content)  # the last column
    if name.endswith(".pkl"):  # a zip file: the tensors, and a pickle with the state of a generator
        members = zipfile.ZipFile(io.BytesIO(content)).infolist()
        return [m.CRC for m in members if "/data/" in m.filename]
    return content


def assert_whole(name: str, content: bytes, *allowed: Files) -> None:
    """That a file has the content that it has in one of these, at any moment."""
    if re.search(r"checkpoint[-\d]*\.safetensors$", name):
        return safetensors.numpy.load(content)  # which has every byte that its header promises
    try:
        here = plain(name, content)
    except (ValueError, csv.Error, zipfile.BadZipFile) as e:
        raise AssertionError(f"{name} is torn: {e}") from e
    for possible in (plain(name, each[name]) for each in allowed if name in each):
        if here == possible or (name.endswith("history.csv") and here == possible[: len(here)]):
            return None
    raise AssertionError(f"{name} is neither the old nor the new one ({len(content)} bytes)")


def assert_all_whole(path: Path, *allowed: Files) -> None:
    for name, content in files(path).items():
        assert_whole(name, content, *allowed)


def assert_finished(path: Path, *allowed: Files, old: Files | None = None) -> None:
    """That the files are those of one of these undisturbed calls, as a whole; beside them, `old` ones may stand."""
    here, differences = files(path), []
    for new in allowed:
        names = [name for name in {**here, **new} if name in new or name not in (old or {})]
        same = [n in here and n in new and plain(n, here[n]) == plain(n, new[n]) for n in names]
        differences.append([name for name, alike in zip(names, same, strict=True) if not alike])
    assert [] in differences, f"not as if undisturbed: {min(differences, key=len)}"


def assert_nothing_left(case: Path) -> None:
    left = leftovers(case)
    assert not left, f"left: {left}"


def leftovers(case: Path) -> list[str]:
    """Hidden files, and temporary folders; a run's folder that was being made when `train` was killed may stay."""
    hidden = [str(p.relative_to(case)) for p in case.rglob(".*") if not any(map(is_new_run, (p, *p.parents)))]
    return hidden + [p.name for p in (case / "tmp").glob("mnist-fa-*")]


def is_new_run(path: Path) -> bool:
    return path.is_dir() and path.name.startswith(".") and path.name.endswith(".partial")


def assert_plain_words(done: Outcome, *codes: int) -> None:
    """That a call ended with one of the codes, and said nothing on stderr but sentences; a killed one, whole ones."""
    assert done.code in codes, f"exit code {done.code}, not {codes}: {done.err[-2000:]}"
    lines = done.err.splitlines()
    for line in lines:
        assert line.startswith("mnist-fa: "), f"stderr has {done.err[-2000:]}"
        assert_one_sentence(line)
    assert lines or done.code <= 0, f"exit code {done.code} without a word"


@contextmanager
def watched(path: Path, *allowed: Files) -> Iterator[None]:
    """Look at a folder's files, or at a file, again and again: each must be whole at each look."""
    seen, torn, over = set(), [], threading.Event()

    def look():
        while not over.is_set():
            for name, content in files(path).items() if path.exists() else ():
                if (name, hash(content)) not in seen:
                    seen.add((name, hash(content)))
                    try:
                        assert_whole(name, content, *allowed)
                    except AssertionError as e:
                        torn.append(str(e))
            time.sleep(0.001)

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
    assert not torn, torn[0]
