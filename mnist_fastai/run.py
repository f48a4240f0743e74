"""The run directory: what a recipe leaves behind, and the one thing that later commands take.

    recipe.json         every field of the recipe
    history.csv         a row an epoch
    checkpoint.safetensors   after each epoch, until the run is finished: weights, optimizer state, history
    model.safetensors   the weights after the last epoch
    learner.pkl         for fastai's `load_learner`
    predictions.npy     the class that it predicts of each validation image, as an index
    curves.png          loss and accuracy by epoch
    metrics.json        written last: a run that has it is finished

This module knows nothing of torch.
"""

import csv
import json
import shlex
import shutil
from datetime import datetime
from pathlib import Path

from .errors import InputError
from .files import atomic_file, check_new, write_json
from .recipes import Recipe

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
    def create(cls, recipe: Recipe, path: str | Path | None = None) -> "Run":
        """Make the directory (`runs/<date-time>-<arch>-<opt>-s<seed>` by default) with its recipe.json in it."""
        if path is None:
            path = RUNS / f"{datetime.now():%Y%m%d-%H%M%S}-{recipe.arch}-{recipe.opt}-s{recipe.seed}"
        path = Path(path)
        check_new(path)
        partial = path.with_name(f".{path.name}.partial")  # a run directory never stands without its recipe
        try:
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(parents=True)
            write_json(partial / "recipe.json", recipe.to_dict())
            partial.rename(path)
        except OSError as e:
            raise InputError(f"cannot make the run directory {path} ({e.strerror}); choose another --out") from e
        finally:
            shutil.rmtree(partial, ignore_errors=True)
        return cls(path)

    @classmethod
    def latest(cls) -> "Run":
        """The run in ./runs that was finished last; where there is none, the shipped one."""
        finished = {}
        for path in RUNS.glob("*/metrics.json"):
            try:
                finished[path.parent] = cls(path.parent).metrics["finished"]
            except (InputError, KeyError):
                continue  # a run of another version, or damaged, is no candidate and no reason to stop
        return cls(max(finished, key=finished.get) if finished else pretrained())

    @property
    def how_to_resume(self) -> str:
        return f"mnist-fa train --resume {shlex.quote(str(self.path))}"

    @property
    def finished(self) -> bool:
        return (self.path / "metrics.json").exists()

    def require_finished(self) -> None:
        if not self.finished:
            raise InputError(f"{self.path} is not finished; go on with `{self.how_to_resume}`")

    @property
    def metrics(self) -> dict:
        """What metrics.json says. Raises InputError where the run is not finished."""
        self.require_finished()
        return _read_json(self.path, "metrics.json")

    @property
    def history(self) -> list[dict]:
        """A dict of numbers an epoch, first epoch first; empty before the first is through."""
        path = self.path / "history.csv"
        if not path.exists():
            return []
        with open(path, newline="") as f:
            return [{k: int(v) if k == "epoch" else float(v) for k, v in row.items()} for row in csv.DictReader(f)]

    @property
    def predictions(self):
        """The predicted class of each validation image as an index, an unsigned NumPy array [n]."""
        import numpy as np

        return np.load(self.path / "predictions.npy")

    def write_history(self, rows: list[dict]) -> None:
        columns = ["epoch", "train_loss", "valid_loss", "accuracy", "error_rate", "seconds"]
        with atomic_file(self.path / "history.csv") as tmp, open(tmp, "w", newline="") as f:
            writer = csv.DictWriter(f, columns, lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)


def pretrained() -> Path:
    """The run directory of the shipped model: `load_learner(pretrained() / "learner.pkl")`, from any folder."""
    here = Path(__file__).parent
    installed = here / "shipped"  # where a wheel puts models/; an editable install leaves it where it is
    return (installed if installed.is_dir() else here.parent / "models") / "mnist_model"


def _read_json(folder: Path, name: str) -> dict:
    try:
        return json.loads((folder / name).read_text())
    except (FileNotFoundError, NotADirectoryError) as e:
        raise InputError(f"{folder} is no run directory (it has no {name}); `mnist-fa train` makes one") from e
    except (OSError, ValueError) as e:
        raise InputError(f"{folder / name} cannot be read ({e}); train the run anew") from e
