"""Finished runs → tables with error bars, as markdown and CSV, and a figure."""

import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import astuple, dataclass
from functools import cache, cached_property
from pathlib import Path
from urllib.parse import quote

import numpy as np

from . import plots
from .datasets import load_data
from .datasets.doubtful import correct_labels
from .errors import InputError
from .escape import csv_cell, csv_line, markdown
from .files import owned, write_bytes, write_text
from .recipes import GROUPS, LEARNING_RATE_001, MNIST, PUBLISHED, Group, Recipe
from .run import Run
from .stats import ALPHA, Welch, holm, mean_interval, verdict, welch

TOLERANCE = 0.0015  # a published accuracy is reproduced by a mean that is lower by no more than this


@dataclass(frozen=True)
class Row:
    """The finished runs of a recipe, by seed."""

    recipe: Recipe
    runs: dict[int, Run]

    @cached_property
    def accuracies(self) -> list[float]:
        """In [0, 1], at the last epoch, by seed."""
        return [run.metrics["accuracy"] for run in self.runs.values()]

    @property
    def mean(self) -> float:
        return float(np.mean(self.accuracies))

    @property
    def sd(self) -> float:
        """Standard deviation between runs (n - 1); NaN for one run."""
        return _sd(self.accuracies)

    @property
    def interval(self) -> tuple[float, float]:
        """95% interval of the mean; NaN for one run."""
        return mean_interval(self.accuracies)

    @cached_property
    def corrected(self) -> list[float] | None:
        """As `accuracies`, with MNIST's labels in doubt corrected; None for runs that report on other images."""
        if self.recipe.reported != (MNIST, 0.0):
            return None
        labels, rows = _corrected()
        runs = self.runs.values()
        if any(run.metrics["images"] != len(labels) for run in runs):
            return None
        return [float((run.predictions[rows] == labels[rows]).mean()) for run in runs]

    @property
    def published(self) -> float | None:
        return PUBLISHED.get(self.recipe.name)

    @property
    def reproduced(self) -> bool | None:
        return None if self.published is None else self.mean >= self.published - TOLERANCE

    @property
    def seconds(self) -> float:
        """Median wall-clock time of a run; a run that was interrupted or shared its cores says little."""
        return float(np.median([run.metrics["seconds"] for run in self.runs.values()]))


@dataclass(frozen=True)
class Step:
    """A row compared with another one, if there is one."""

    before: Row | None
    change: Welch  # of the accuracy, from `before`
    p: float  # adjusted by Holm within the group

    @property
    def verdict(self) -> str | None:
        return verdict(self.change.difference, self.p) if self.before else None


Line = tuple[str, Row, Step]  # the key of its group first


@cache
def _corrected() -> tuple[np.ndarray, np.ndarray]:
    found = correct_labels(load_data(MNIST).test)
    assert found, "the embedded test images are those whose labels were looked at"
    return found


def row_folder(out: str | Path, recipe: Recipe) -> Path:
    """Where the runs of a recipe are: its name, with %xx for what has a meaning in paths, cut where it is too long."""
    name = re.sub(r"^\.", "%2E", quote(recipe.name, safe=""))
    if len(name) > 200:
        name = f"{name[:180]}-{hashlib.sha256(name.encode()).hexdigest()[:16]}"
    return Path(out) / "runs" / name


def read_rows(out: str | Path, recipes: Iterable[Recipe]) -> list[Row]:
    """The rows with a finished run below `<out>/runs`, in the order of `recipes`.

    Raises InputError where the runs of a row differ in more than the seed.
    """
    rows = []
    for recipe in recipes:
        runs = [Run(path.parent) for path in row_folder(out, recipe).glob("s*/metrics.json")]
        runs.sort(key=lambda run: run.recipe.seed)
        for run in runs[1:]:
            if run.recipe.but(seed=runs[0].recipe.seed) != runs[0].recipe:
                raise InputError(f"{runs[0].path} and {run.path} have different recipes; move one of them away")
            _check_images(runs[0], run, "train", "valid", "test")
        if runs:
            rows.append(Row(recipe, {run.recipe.seed: run for run in runs}))
    return rows


def compare(befores: list[Row | None], rows: list[Row]) -> list[Step]:
    """Test each row against the one before it, where it has one: a family of tests.

    Raises InputError where the accuracies of two rows are on different images.
    """
    for before, row in zip(befores, rows, strict=True):
        if before:
            _check_images(*(next(iter(r.runs.values())) for r in (before, row)), "valid", "test")
    tests = [welch(b.accuracies if b else [], row.accuracies) for b, row in zip(befores, rows, strict=True)]
    return list(map(Step, befores, tests, map(float, holm([test.p for test in tests]))))


def _check_images(a: Run, b: Run, *splits: str) -> None:
    """Raise InputError where the images of two runs differ, as far as they are recorded."""
    x, y = (run.facts.get("splits") for run in (a, b))
    alike = all(a.metrics[key] == b.metrics[key] for key in ("images", "split"))
    if not alike or (x and y and any(x.get(name) != y.get(name) for name in splits)):
        raise InputError(f"{a.path} and {b.path} have different images; move one of them away")


def _sd(values: list[float]) -> float:
    return float(np.std(values, ddof=1)) if len(values) > 1 else np.nan


# --- files ------------------------------------------------------------------------------------------------------------

COLUMNS = (  # of results.csv; accuracies and differences are in [-1, 1], an empty cell has no value
    "group", "row", "published", "n", "mean", "sd", "low", "high", "met", "against", "step", "step_low", "step_high",
    "p", "p_holm", "verdict", "seconds", "accuracies", "corrected", "corrected_sd",
)  # fmt: skip
HOW = f"""\
Accuracy at the last epoch. *n*: number of runs. *SD*: standard deviation between runs. *corrected*:
the mean with MNIST's labels in doubt corrected (10 changed, 5 left out; labelerrors.com). *95% interval*: of the mean
(Student's t). *reproduced*: at most {100 * TOLERANCE:.2f} points below the published accuracy. *step*: change of the
mean in points, with its 95% interval (Welch). *p*: Welch's test, adjusted for all steps of the table (Holm).
*verdict*: *better* or *worse* where p is below {ALPHA}, else *not resolved*. *s per run*: median wall-clock seconds.
"""


def write_results(
    out: str | Path, *, groups: Mapping[str, Group] = GROUPS, unmade: Mapping[str, str] | None = None
) -> None:
    """Write results.md, results.csv and results.png into `out` from the finished runs below `<out>/runs`.

    `unmade`: why a row lacks runs, by its recipe's name. Raises InputError before anything is written where runs that
    differ in recipe or images would be averaged or compared.
    """
    with owned(out):  # what is written later was read later
        _write(Path(out), groups, unmade or {})


def _write(out: Path, groups: Mapping[str, Group], unmade: Mapping[str, str]) -> None:
    lines: list[Line] = []
    sections = []
    for key, group in groups.items():
        found = {row.recipe: row for row in read_rows(out, {r: 0 for r in (*group.recipes, group.against) if r})}
        rows, against = [found[r] for r in group.recipes if r in found], found.get(group.against)
        befores = [None if row is against else against for row in rows] if group.against else [None, *rows][:-1]
        steps = compare(befores, rows)
        lines += [(key, row, step) for row, step in zip(rows, steps, strict=True)]
        about = "" if group.against else "Each row is compared with the row above."
        if against:
            about = f"Each row is compared with {_link(against)} ({_percent(against.mean)}%, n = {len(against.runs)})."
        lacking = [
            f"- **{markdown(r.name)}** {'lacks runs' if r in found else 'was not run'}: {markdown(unmade[r.name])}."
            for r in group.recipes
            if r.name in unmade
        ]
        if rows or lacking:
            sections += [f"## {markdown(group.title)}", about, _table(rows, steps), "\n".join(lacking)]
    made = [row for _, row, _ in lines]
    parts = ["# Results", _made_by(made), HOW, *sections, _best_epoch([row for key, row, _ in lines if key == "table"])]
    if made:
        parts.insert(3, "![Accuracy by row](results.png)")
        shown = [row for key, row, _ in lines if key in ("table", "improved")] or made
        figure = plots.rows([(row.recipe.name, row.accuracies, row.published) for row in shown], "Accuracy by row")
        write_bytes(out / "results.png", plots.to_bytes(figure))
    write_text(out / "results.md", "\n\n".join(part.strip() for part in parts if part) + "\n")
    write_text(out / "results.csv", _csv(lines))


def _table(rows: list[Row], steps: list[Step]) -> str:
    """A markdown table, without the columns that have no value."""
    cells = list(map(_cells, rows, steps))
    columns = [name for name in (cells[0] if cells else ()) if {line[name] for line in cells} != {"–"}]
    lines = [columns, ["---"] * len(columns), *([line[name] for name in columns] for line in cells)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) if cells else ""


def _cells(row: Row, step: Step) -> dict[str, str]:
    low, high = step.change.low, step.change.high
    return {
        "row": _link(row),
        "n": str(len(row.runs)),
        "published %": "–" if row.published is None else _percent(row.published),
        "mean %": f"**{_percent(row.mean)}**",
        "SD": _percent(row.sd),
        "corrected %": "–" if row.corrected is None else _percent(np.mean(row.corrected)),
        "95% interval": "–".join(map(_percent, row.interval)) if len(row.runs) > 1 else "–",
        "runs": " ".join(map(_percent, row.accuracies)),
        "reproduced": {None: "–", True: "yes", False: "**no**"}[row.reproduced],
        "step": _percent(step.change.difference, "+"),
        "95% interval of the step": "–" if np.isnan(low) else f"{_percent(low, '+')} to {_percent(high, '+')}",
        "p": "–" if np.isnan(step.p) else f"{step.p:.2g}",
        "verdict": step.verdict or "–",
        "s per run": f"{row.seconds:.0f}",
    }


def _csv(lines: list[Line]) -> str:
    text = [csv_line(COLUMNS)]
    for key, row, step in lines:
        against = step.before and csv_cell(step.before.recipe.name)
        values = [key, csv_cell(row.recipe.name), row.published, len(row.runs), row.mean, row.sd, *row.interval]
        values += [row.reproduced, against, *astuple(step.change), step.p, step.verdict]
        values += [row.seconds, " ".join(map(str, row.accuracies))]
        values += [np.mean(row.corrected), _sd(row.corrected)] if row.corrected else [None, None]
        text.append(csv_line("" if v is None or v != v else v for v in values))
    return "".join(text)


def _made_by(rows: list[Row]) -> str:
    metrics = [run.metrics for row in rows for run in row.runs.values()]
    if not metrics:
        return "No finished runs."
    hours = sum(m["seconds"] for m in metrics) / 3600
    devices = {f"{m['device']}, {m['threads']} thread{'s' * (m['threads'] > 1)} per run" for m in metrics}
    versions = {f"torch {m['versions']['torch']}, fastai {m['versions']['fastai']}" for m in metrics}
    return f"{len(metrics)} runs, {hours:.1f} hours of training ({'; '.join([*sorted(devices), *sorted(versions)])})."


def _best_epoch(rows: list[Row]) -> str:
    row = next((row for row in rows if row.recipe == LEARNING_RATE_001), None)
    best = [
        max(epoch["accuracy"] for epoch in run.history) for run in (row.runs.values() if row else ()) if run.history
    ]
    if not best:
        return ""
    return (
        f"Choosing the best epoch of each run on the test set would report {_percent(np.mean(best))}% "
        f"(SD {_percent(_sd(best))}) for {_link(row)}, against {_percent(row.mean)}% at the last epoch "
        f"(n = {len(best)})."
    )


def _link(row: Row) -> str:
    return f"[{markdown(row.recipe.name)}](runs/{quote(row_folder('', row.recipe).name)})"


def _percent(x: float, sign: str = "") -> str:
    return "–" if np.isnan(x) else f"{100 * x:{sign}.2f}"
