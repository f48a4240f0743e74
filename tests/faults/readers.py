"""Every reader of files, given damaged ones: the result is right, or an InputError says in one sentence what is wrong.

    python tests/faults/readers.py --cases 20000 --out docs/readers.md

Files of which a digest is recorded must moreover never be read as anything else than they were.
"""

import argparse
import gzip
import json
import logging
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from PIL import Image

sys.path.append(str(Path(__file__).parents[1]))  # of conftest.py, where this is no part of pytest
from conftest import assert_one_sentence, interrupt, write_idx_folder


@dataclass
class Reader:
    """Something that reads `path`, and the ways in which that file is damaged."""

    name: str
    path: Path
    read: Callable  # of the path; what it returns is compared
    damage: Callable[[bytes], st.SearchStrategy]  # of the file's content
    covered: bool = False  # a digest is recorded: never another content
    share: float = 1.0

    def __post_init__(self):
        self.content = self.path.read_bytes()
        self.expected = self.read(self.path)

    def check(self, content: bytes) -> bool:
        """Whether the damaged file was refused. Raises AssertionError where it was read wrongly, or anything else."""
        from mnist_fastai import InputError

        self.path.write_bytes(content)
        try:
            found = self.read(self.path)
        except InputError as e:
            assert_one_sentence(str(e))
            return True
        finally:
            self.path.write_bytes(self.content)
        assert not self.covered or same(found, self.expected), "silently read as another content"
        return False


def same(a, b) -> bool:
    if isinstance(a, (list, tuple)):
        return type(a) is type(b) and len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    return bool(np.array_equal(a, b)) if hasattr(a, "shape") else a == b


# --- damage -----------------------------------------------------------------------------------------------------------


@st.composite
def damaged_bytes(draw, content: bytes) -> bytes:
    """One to three bits flipped, spans overwritten, removed, repeated or inserted, or the end cut off."""
    data = bytearray(content)
    for _ in range(draw(st.integers(1, 3))):
        near = draw(st.booleans())  # most of what decides is in the first bytes, or the last
        at = draw(st.integers(0, min(len(data), 64) if near else len(data)))
        at = draw(st.sampled_from([at, len(data) - at]))
        span = draw(st.integers(0, 8) | st.integers(0, len(data)))
        kind = draw(st.sampled_from(["flip", "flip", "overwrite", "cut", "remove", "repeat", "insert"]))
        if kind == "flip" and at < len(data):
            data[at] ^= 1 << draw(st.integers(0, 7))
        elif kind == "overwrite":
            data[at : at + span] = draw(st.binary(min_size=1, max_size=8)) * (span // 8)
        elif kind == "cut":
            del data[at:]
        elif kind == "remove":
            del data[at : at + span]
        elif kind == "repeat":
            data[at:at] = data[at : at + span]
        else:
            data[at:at] = draw(st.binary(max_size=16))
    return bytes(data)


@st.composite
def damaged_gzip(draw, content: bytes) -> bytes:
    """The file damaged, or what is packed in it."""
    if draw(st.booleans()):
        return draw(damaged_bytes(content))
    return gzip.compress(draw(damaged_bytes(gzip.decompress(content))), 1)


JUNK = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20) | st.builds(dict) | st.builds(list)
    | st.sampled_from([10**400, -1, 0, 1e308, 2**63, "\n", "\0", "a" * 5000, "mod:name", "../.."])
    | st.integers(1, 50).map(lambda n: eval("[" * n + "]" * n)) | st.builds(lambda: [[1, 2], {"a": None}])
)  # fmt: skip


@st.composite
def damaged_json(draw, content: bytes) -> bytes:
    """Values of other types, keys removed, renamed and added, at any depth, and now and then the bytes themselves."""
    if draw(st.integers(0, 3)) == 0:
        deep = draw(st.sampled_from([b"[", b'{"a":', b'{"name":[']))
        return draw(damaged_bytes(content) | st.binary(max_size=40) | st.just(deep * 100_000))
    value = json.loads(content)
    for _ in range(draw(st.integers(1, 3))):
        parent = value
        while True:
            keys = list(parent) if isinstance(parent, dict) else range(len(parent))
            key = draw(st.sampled_from(list(keys))) if keys else None
            if key is None or not isinstance(parent[key], (dict, list)) or draw(st.booleans()):
                break
            parent = parent[key]
        if key is None:
            continue
        kind = draw(st.sampled_from(["replace", "replace", "remove", "rename", "add"]))
        if kind == "replace" or isinstance(parent, list):
            parent[key] = draw(JUNK)
        elif kind == "add":
            parent[draw(st.text(max_size=8))] = draw(JUNK)
        else:
            old = parent.pop(key)
            if kind == "rename":
                parent[key + "x"] = old
    return json.dumps(value).encode()


# --- the readers ------------------------------------------------------------------------------------------------------


def make_readers(folder: Path) -> list[Reader]:
    """A reader of each kind of file, on real ones in `folder`, which is empty."""
    from mnist_fastai import Data, Recipe, Run, Session, fit, load_data, load_recipe, load_run, read_image
    from mnist_fastai.checkpoint import Checkpoint
    from mnist_fastai.datasets.idx import read_idx
    from mnist_fastai.exports.check import _read_sample
    from mnist_fastai.run import pretrained

    mnist = load_data()
    data = Data(mnist.train[:60], mnist.test[:40], mnist.classes)
    set_ = write_idx_folder(folder / "set", data, {"train-images-idx3-ubyte": "train-images-idx3-ubyte.gz"})
    (set_ / "classes.txt").write_text("\n".join("abcdefghij"))
    recipe = Recipe(arch="lenet", opt="adam", num_epochs=2, data=str(set_))
    run = fit(recipe, out=folder / "run", device="cpu").path
    cut = interrupt(recipe, folder / "cut", after=1)
    shutil.copy(pretrained() / "model.onnx", folder)
    for label in (0, 1):
        for split, images in (("training", data.train), ("testing", data.test)):
            (folder / "images" / split / str(label)).mkdir(parents=True)
            for i, image in enumerate(images.images[images.labels == label][:2].numpy()):
                Image.fromarray(image).save(folder / "images" / split / str(label) / f"{i}.png")
    (folder / "recipe.toml").write_text(
        "[a]\nbase = 'vanilla'\nmomentum = 0.5\n[b]\narch = 'lenet'\n".replace("[b]", "#")
    )
    (folder / "a-recipe.json").write_text(json.dumps(recipe.to_dict()))
    image = Image.fromarray(data.test.images[0].numpy()).resize((40, 40))
    for format in ("png", "jpeg", "gif", "bmp", "tiff", "webp", "ppm"):
        image.save(folder / f"x.{format}", format.upper())
    session_images = data.test.images[:3].numpy()

    def digests(path: Path):
        return load_data(path).digests

    def weights(path: Path):
        return {k: v.numpy() for k, v in load_run(path.parent).model.state_dict().items()}

    def state(path: Path):
        checkpoint = Checkpoint(path)
        return [checkpoint.content, {k: v.numpy() for k, v in checkpoint.tensors.items()}]

    return [
        Reader("IDX, gzip", set_ / "train-images-idx3-ubyte.gz", read_idx, damaged_gzip),
        Reader("IDX labels", set_ / "t10k-labels-idx1-ubyte", lambda p: digests(p.parent), damaged_bytes),
        Reader("classes.txt", set_ / "classes.txt", lambda p: load_data(p.parent).classes, damaged_bytes),
        Reader(
            "an image of a class", folder / "images/training/0/0.png", lambda p: digests(p.parents[2]), damaged_bytes
        ),
        Reader("recipe.toml", folder / "recipe.toml", load_recipe, damaged_bytes),
        Reader("recipe.json", folder / "a-recipe.json", load_recipe, damaged_json),
        Reader("a run's recipe.json", run / "recipe.json", lambda p: Run(p.parent).recipe, damaged_json, True),
        Reader("a run's run.json", run / "run.json", lambda p: Run(p.parent).facts, damaged_json, True),
        Reader("an unfinished run's run.json", cut / "run.json", lambda p: _use(Run(p.parent)), damaged_json),
        Reader("metrics.json", run / "metrics.json", lambda p: Run(p.parent).metrics, damaged_json, True),
        Reader("history.csv", run / "history.csv", lambda p: Run(p.parent).history, damaged_bytes, True),
        Reader("an unfinished run's history.csv", cut / "history.csv", lambda p: Run(p.parent).history, damaged_bytes),
        Reader("predictions.npy", run / "predictions.npy", lambda p: Run(p.parent).predictions, damaged_bytes, True),
        Reader("sample.npz", run / "sample.npz", lambda p: _read_sample(Run(p.parent)).digest, damaged_bytes, True),
        Reader("model.safetensors", run / "model.safetensors", weights, damaged_bytes, True, 0.5),
        Reader("checkpoint", cut / "checkpoint-1.safetensors", state, damaged_bytes, True),
        Reader(
            "model.onnx",
            folder / "model.onnx",
            lambda p: Session(p).probabilities(session_images),
            damaged_bytes,
            True,
            0.3,
        ),
        *(
            Reader(f"{f.suffix[1:]} picture", f, read_image, damaged_bytes, False, 0.7)
            for f in sorted(folder.glob("x.*"))
        ),
    ]


def _use(run):
    return run.facts, run.classes if run.facts else (), run.normalize


def examine(reader: Reader, cases: int, number: int = 0) -> Counter:
    """So many damaged files, which follow from `number`. Raises AssertionError at the smallest that is read wrongly."""
    tally, began = Counter(), time.perf_counter()

    @seed(number)
    @settings(
        max_examples=cases, deadline=None, database=None, phases=(Phase.generate, Phase.shrink),
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(reader.damage(reader.content))
    def check(content):
        tally["cases"] += 1
        tally["refused"] += reader.check(content)

    check()
    tally["seconds"] = time.perf_counter() - began
    return tally


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", help="only readers that have this in their name")
    parser.add_argument("--out", type=Path, help="write the table to this file")
    args = parser.parse_args()
    logging.disable()
    lines = ["| file | damaged | refused | read | failures | s |", "| --- | --: | --: | --: | --: | --: |"]
    total = Counter()
    with tempfile.TemporaryDirectory(prefix="faults-") as folder:
        readers = make_readers(Path(folder))
        shares = sum(reader.share for reader in readers)
        for reader in readers:
            if args.only not in reader.name:
                continue
            try:
                tally = examine(reader, round(args.cases * reader.share / shares), args.seed)
            except Exception as e:
                tally = Counter(failures=1)
                for each in getattr(e, "exceptions", (e,)):
                    print(f"{reader.name}: {type(each).__name__}: {str(each)[:300]}", file=sys.stderr, flush=True)
            total += tally
            lines.append(_row(reader.name, tally))
            print(lines[-1], flush=True)
    lines.append(_row("**all**", total))
    print(lines[-1])
    if args.out:
        args.out.write_text("\n".join(lines) + "\n", "utf-8")


def _row(name: str, tally: Counter) -> str:
    cells = tally["cases"], tally["refused"], tally["cases"] - tally["refused"], tally["failures"], tally["seconds"]
    return f"| {' | '.join([name, *(f'{cell:,.0f}' for cell in cells)])} |"


if __name__ == "__main__":
    main()
