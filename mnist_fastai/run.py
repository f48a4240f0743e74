"""The run directory: what a recipe leaves behind, and the one thing that later commands take.

    recipe.json         every field of the recipe
    run.json            class names, digests of the data, how pixels become input, what was passed besides the recipe
    history.csv         one row per epoch
    checkpoint.safetensors   after each epoch, until the run is finished: everything that training continues from
    model.safetensors   the weights after the last epoch
    learner.pkl         for fastai's `load_learner`
    predictions.npy     the predicted class of each reported image, as an index
    sample.npz          a few of those images, for checks where the data is not at hand
    curves.png          loss and accuracy by epoch
    metrics.json        written last: a run that has it is finished

Standard library only.
"""

import csv
import json
import secrets
import shlex
import shutil
from datetime import datetime
from functools import cached_property
from pathlib import Path

from .errors import InputError
from .files import atomic_file, check_new, write_json
from .recipes import NORMALIZE, Recipe

RUNS = Path("runs")


class Run:
    """A run directory. Raises InputError where `path` is none, or its recipe cannot be read."""

    def __init__(self, path: str | Path):
        self.path = Path(path)
        values = _read_json(self.path, "recipe.json")
        try:
            self.recipe = Recipe.from_dict(values)
        except InputError as e:
            raise InputError(f"{self.path / 'recipe.json'} cannot be used: {e}") from e

    def __repr__(self):
        return f"Run({str(self.path)!r})"

    @classmethod
    def create(cls, recipe: Recipe, path: str | Path | None = None, facts: dict | None = None) -> "Run":
        """Make the directory (a new one below `runs` by default) with recipe.json and run.json, the `facts`, in it."""
        name = f"{datetime.now():%Y%m%d-%H%M%S}-{recipe.arch.rpartition(':')[2]}-{recipe.opt.rpartition(':')[2]}"
        wanted = Path(path) if path is not None else RUNS / f"{name}-s{recipe.seed}"
        if path is not None:
            check_new(wanted)
        partial = wanted.with_name(f".{wanted.name}.{secrets.token_hex(4)}.partial")
        try:
            partial.mkdir(parents=True)
            write_json(partial / "run.json", facts or {})
            write_json(partial / "recipe.json", recipe.to_dict())
            final, n = wanted, 1
            while True:  # a rename replaces no directory that has files in it
                try:
                    partial.rename(final)
                    return cls(final)
                except OSError:
                    if path is not None or not final.exists():
                        raise
                    final, n = wanted.with_name(f"{wanted.name}-{n + 1}"), n + 1
        except OSError as e:
            raise InputError(f"cannot make the run directory {wanted} ({e.strerror}); choose another --out") from e
        finally:
            shutil.rmtree(partial, ignore_errors=True)

    @classmethod
    def latest(cls) -> "Run":
        """The run in ./runs that was finished last; where there is none, the shipped one."""
        finished = {}
        for path in RUNS.glob("*/metrics.json"):
            try:
                finished[path.parent] = cls(path.parent).metrics["finished"]
            except (InputError, KeyError):
                continue  # a run of another version, or damaged, is no candidate and no reason to stop
        return cls(max(finished, key=finished.__getitem__) if finished else pretrained())

    @cached_property
    def facts(self) -> dict:
        """The content of run.json; empty for a run of format 0, which lacks the file."""
        return _read_json(self.path, "run.json") if (self.path / "run.json").exists() else {}

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
    def sample(self) -> Path:
        return self.path / "sample.npz"

    @property
    def how_to_resume(self) -> str:
        return f"mnist-fa train --resume {shlex.quote(str(self.path))}"

    @property
    def finished(self) -> bool:
        return (self.path / "metrics.json").exists()

    def require_finished(self) -> None:
        if not self.finished:
            raise InputError(f"{self.path} is not finished; continue with `{self.how_to_resume}`")

    @property
    def metrics(self) -> dict:
        """The content of metrics.json. Raises InputError where the run is not finished."""
        self.require_finished()
        return _read_json(self.path, "metrics.json")

    @property
    def history(self) -> list[dict]:
        """One dict of numbers per epoch, first epoch first; empty before the first is done."""
        path = self.path / "history.csv"
        if not path.exists():
            return []
        with open(path, newline="", encoding="utf-8") as f:
            return [{k: int(v) if k == "epoch" else float(v) for k, v in row.items()} for row in csv.DictReader(f)]

    @property
    def predictions(self):
        """The predicted class of each reported image as an index, an unsigned NumPy array [n]."""
        import numpy as np

        return np.load(self.path / "predictions.npy")

    def write_history(self, rows: list[dict]) -> None:
        with (
            atomic_file(self.path / "history.csv") as tmp,
            open(tmp, "w", newline="", encoding="utf-8") as f,
        ):
            writer = csv.DictWriter(f, list(rows[0]), lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)


def pretrained() -> Path:
    """The run directory of the shipped model: `load_learner(pretrained() / "learner.pkl")`, from any folder."""
    here = Path(__file__).parent
    installed = here / "shipped"  # where a wheel puts models/; an editable install leaves it where it is
    return (installed if installed.is_dir() else here.parent / "models") / "mnist_model"


def _read_json(folder: Path, name: str) -> dict:
    try:
        content = json.loads((folder / name).read_text("utf-8"))
        if not isinstance(content, dict):
            raise ValueError("no JSON object")
        return content
    except (FileNotFoundError, NotADirectoryError) as e:
        raise InputError(f"{folder} is no run directory (it has no {name}); `mnist-fa train` makes one") from e
    except (OSError, ValueError, RecursionError) as e:
        raise InputError(f"{folder / name} cannot be read ({e}); train the run anew") from e
