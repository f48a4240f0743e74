"""The run directory: what a recipe leaves behind, and the one thing that later commands take.

    recipe.json         every field of the recipe
    run.json            class names, digests of the data, how pixels become input, what was passed besides the recipe
    history.csv         one row per epoch
    checkpoint-N.safetensors   after epoch N, until the run is finished: everything that training continues from; two
                        are kept, should one be damaged
    model.safetensors   the weights after the last epoch
    learner.pkl         for fastai's `load_learner`
    predictions.npy     the predicted class of each reported image, as an index
    sample.npz          a few of those images, for checks where the data is not at hand
    curves.png          loss and accuracy by epoch
    metrics.json        written last: a run that has it is finished. It has the SHA-256 of the files that later commands
                        read, itself included

Standard library only.
"""

import csv
import hashlib
import io
import json
import math
import os
import platform
import shlex
from collections.abc import Mapping
from contextlib import suppress
from datetime import datetime
from functools import cached_property
from importlib.metadata import version
from pathlib import Path

from . import __version__
from .errors import InputError
from .files import HIDDEN, log, owned, read_bytes, read_json, write_json, write_text
from .recipes import IMAGE_FORMATS, NORMALIZE, Recipe

RUNS = Path("runs")
FORMAT = 2  # of run.json: since then, metrics.json has the SHA-256 of every file that counts
METRICS = "metrics.json"
SHIPPED = "mnist_model", "best"
CHECKED = "recipe.json", "run.json", "history.csv", "model.safetensors", "predictions.npy", "sample.npz"
FIELDS = {  # what the rest of the package relies on, in either file, and the types it may have
    METRICS: {
        "accuracy": float, "images": int, "split": str, "per_class": dict, "seconds": (int, float), "epochs": int,
        "device": str, "threads": int, "versions": dict, "finished": str,
    },
    "run.json": {"classes": list, "splits": dict, "input": dict, "passed": dict, "source": str, "id": str},
}  # fmt: skip


class Run:
    """A run directory. Raises InputError where `path` is none, or its recipe cannot be read.

    What is read of a finished run is compared with the SHA-256 in its metrics.json, as far as that has one: a file that
    was damaged or changed since the training is an InputError.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        if not (self.path / "recipe.json").is_file():
            raise InputError(f"{self.path} is no run directory (it has no recipe.json); `mnist-fa train` makes one")
        values = self._json("recipe.json")
        try:
            self.recipe = Recipe.from_dict(values)
        except InputError as e:
            raise InputError(f"{self.path / 'recipe.json'} cannot be used: {e}") from e

    def __repr__(self):
        return f"Run({str(self.path)!r})"

    @classmethod
    def create(cls, recipe: Recipe, path: str | Path | None = None, facts: dict | None = None) -> "Run":
        """Make the directory (a new one below `runs` by default) with run.json, the `facts`, and recipe.json in it."""
        name = f"{datetime.now():%Y%m%d-%H%M%S}-{recipe.arch.rpartition(':')[2]}-{recipe.opt.rpartition(':')[2]}"
        wanted = Path(path) if path is not None else RUNS / f"{name}-s{recipe.seed}"
        final, n = wanted, 1
        while path is None and os.path.lexists(final):
            n += 1
            final = wanted.with_name(f"{wanted.name}-{n}")
        try:
            with owned(final, wait=False):
                check_new(final)  # again, now that nobody else can make it
                write_json(final / "run.json", facts or {})
                write_json(final / "recipe.json", recipe.to_dict())  # which makes the folder a run
        except InputError:
            if path is None and os.path.lexists(final):  # of another process that began within the same second
                return cls.create(recipe, path, facts)
            raise
        return cls(final)

    @classmethod
    def latest(cls) -> "Run":
        """The run in ./runs that was finished last; where there is none, the shipped one."""
        finished = {}
        for path in sorted(RUNS.glob(f"*/{METRICS}")):
            try:
                finished[path.parent] = cls(path.parent).metrics["finished"]
            except InputError as e:  # a run of another version, or damaged, is no candidate and no reason to stop
                log.warning("%s is passed over: %s", path.parent, e)
        return cls(max(finished, key=finished.__getitem__) if finished else pretrained())

    def read(self, name: str) -> bytes:
        """The content of a file of the run. Raises InputError where it is missing, or not what the run left."""
        content = read_bytes(self.path / name)
        wanted = self.metrics["sha256"].get(name) if self.finished and name != METRICS else None
        if wanted and hashlib.sha256(content).hexdigest() != wanted:
            raise self._changed(name)
        return content

    def _changed(self, name: str, why: str = "its SHA-256 differs") -> InputError:
        return InputError(
            f"{self.path / name} was damaged or changed since the training ({why}); restore it, or train the run anew"
        )

    def _json(self, name: str) -> dict:
        if self.finished:
            self.read(name)
        return self._fields(name, read_json(self.path / name))

    def _fields(self, name: str, values: dict) -> dict:
        for key, kind in FIELDS.get(name, {}).items():
            if not isinstance(values.get(key), kind):
                raise self._changed(name, f"{key} is {'of another kind' if key in values else 'missing'}")
        return values

    @cached_property
    def facts(self) -> dict:
        """The content of run.json; empty for a run of format 0, which lacks the file."""
        if not os.path.exists(self.path / "run.json"):
            return {}
        facts = self._json("run.json")
        stats = facts["input"].get("normalize", "missing")
        fine = stats is None or (isinstance(stats, list) and len(stats) == 2 and all(map(_is_finite, stats)))
        fine = fine and facts["input"].get("format", "mnist") in IMAGE_FORMATS
        if not fine or len(facts["classes"]) < 1 or not all(isinstance(name, str) for name in facts["classes"]):
            raise self._changed("run.json", "its classes, normalisation or format of images are of another kind")
        return facts

    @property
    def classes(self) -> tuple[str, ...]:
        """The class names, in the order of the model's outputs."""
        return tuple(self.facts.get("classes") or self.metrics["per_class"])

    @property
    def normalize(self) -> tuple[float, float] | None:
        """Mean and standard deviation that pixels in [0, 1] are normalised with."""
        stats = self.facts["input"]["normalize"] if self.facts else NORMALIZE[self.recipe.normalize]
        return stats and tuple(stats)

    @property
    def format(self) -> str:
        """One of IMAGE_FORMATS: that of the training images. Older runs, which do not say, are of MNIST."""
        return self.facts.get("input", {}).get("format", "mnist")

    @property
    def sample(self) -> Path:
        return self.path / "sample.npz"

    @property
    def how_to_resume(self) -> str:
        try:
            n = self.facts.get("processes", 1)
        except InputError:  # of a damaged file, which the command will report
            n = 1
        command = f"torchrun --nproc-per-node {n} -m mnist_fastai" if n > 1 else "mnist-fa"
        return f"{command} train --resume {shlex.quote(str(self.path))}"

    @property
    def finished(self) -> bool:
        return os.path.exists(self.path / METRICS)

    def require_finished(self) -> None:
        if not self.finished:
            raise InputError(f"{self.path} is not finished; continue with `{self.how_to_resume}`")

    @property
    def metrics(self) -> dict:
        """The content of metrics.json. Raises InputError where the run is not finished."""
        if "_metrics" not in vars(self):
            self.require_finished()
            values = self._fields(METRICS, read_json(self.path / METRICS))
            digests = values.setdefault("sha256", {})
            there = os.path.exists(self.path / "run.json")
            recorded = there and read_json(self.path / "run.json").get("format", 1) != 1  # older ones lack it
            if not isinstance(digests, dict) or (
                (recorded or METRICS in digests) and digests.get(METRICS) != _digest(values)
            ):
                raise self._changed(METRICS)
            self._metrics = values
        return self._metrics

    def write_metrics(self, values: Mapping) -> None:
        """Finish the run: write metrics.json, with the SHA-256 of the files that are read later."""
        there = [name for name in CHECKED if (self.path / name).exists()]
        digests = {name: hashlib.sha256(read_bytes(self.path / name)).hexdigest() for name in there}
        values = {**values, "sha256": digests}
        write_json(self.path / METRICS, {**values, "sha256": {**digests, METRICS: _digest(values)}})

    @property
    def history(self) -> list[dict]:
        """One dict of numbers per epoch, first epoch first; empty before the first is done."""
        if not (self.path / "history.csv").exists():
            return []
        try:
            text = io.StringIO(self.read("history.csv").decode("utf-8"), newline="")
            rows = [{k: int(v) if k == "epoch" else float(v) for k, v in row.items()} for row in csv.DictReader(text)]
            if [row["epoch"] for row in rows] != list(range(1, len(rows) + 1)):
                raise ValueError("its epochs are not 1, 2, …")
        except (ValueError, TypeError, KeyError, csv.Error) as e:
            raise e if isinstance(e, InputError) else self._changed("history.csv", "it is no table of epochs") from e
        return rows

    @property
    def predictions(self):
        """The predicted class of each reported image as an index, an unsigned NumPy array [n]."""
        array = load_arrays(self.read("predictions.npy"), self.path / "predictions.npy")
        if array.dtype.kind != "u" or array.ndim != 1 or (len(array) and array.max() >= len(self.classes)):
            raise self._changed("predictions.npy", "it holds no classes")
        return array

    def write_history(self, rows: list[dict]) -> None:
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        write_text(self.path / "history.csv", text.getvalue())

    def clean(self) -> None:
        """Remove what a process left that was killed after it had finished the run."""
        checkpoints = list(self.path.glob("checkpoint-*.safetensors"))
        if self.finished and (checkpoints or any(self.path.glob(f"{HIDDEN}*"))):
            with suppress(InputError), owned(self.path, wait=False):  # which removes what is hidden
                for path in checkpoints:
                    with suppress(OSError):
                        path.unlink(missing_ok=True)


def is_new(path: str | Path) -> bool:
    """Whether nothing stands at `path`, an empty folder and one that was never made a run aside."""
    try:
        return not os.path.lexists(path) or all(n == "run.json" or n.startswith(HIDDEN) for n in os.listdir(path))
    except OSError:  # no folder
        return False


def check_new(path: str | Path) -> None:
    """Raise InputError where a run cannot be made at `path`, since it is not new."""
    if not is_new(path):
        raise InputError(f"{path} exists already; choose another --out, or continue a run with --resume")


def load_arrays(content: bytes, name: str | Path):
    """The array in an NPY file's bytes, or a dict of those in an NPZ file's. Raises InputError where there are none."""
    import numpy as np

    try:
        found = np.load(io.BytesIO(content), allow_pickle=False)
        return {key: found[key] for key in found.files} if hasattr(found, "files") else found
    except Exception as e:  # NumPy and zipfile raise whatever the damaged bytes lead them to, a MemoryError as well
        raise InputError(f"{name} is damaged ({type(e).__name__}); restore it, or train the run anew") from e


def versions() -> dict[str, str]:
    """Of what a result depends on."""
    names = "torch", "torchvision", "fastai", "numpy"
    return {"mnist_fastai": __version__, "python": platform.python_version()} | {name: version(name) for name in names}


def pretrained(name: str = "mnist_model") -> Path:
    """The run directory of a shipped model: `load_learner(pretrained() / "learner.pkl")`, from any folder.

    "mnist_model" reads pictures best, and commands take it by default; "best" is the most accurate on MNIST.
    Raises InputError for another name.
    """
    here = Path(__file__).parent
    installed = here / "shipped"  # where a wheel puts models/; an editable install leaves it where it is
    shipped = installed if installed.is_dir() else here.parent / "models"
    if name not in SHIPPED:
        raise InputError(f"no model {name!r} is shipped; take one of {', '.join(SHIPPED)}")
    return shipped / name


def _digest(values: dict) -> str:
    """The SHA-256 of what metrics.json says, without itself."""
    digests = {name: digest for name, digest in values["sha256"].items() if name != METRICS}
    return hashlib.sha256(json.dumps({**values, "sha256": digests}, sort_keys=True).encode()).hexdigest()


def _is_finite(value) -> bool:
    return isinstance(value, (int, float)) and math.isfinite(value)
