"""What the runs of `mnist-fa reproduce` say: a table with error bars as markdown and CSV, and a figure."""

import csv
import io
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
from scipy import stats

from . import plots
from .files import atomic_file, write_bytes
from .recipes import FAILED, IMPROVED, LEARNING_RATE_001, PUBLISHED, READINGS, STARTS, VANILLA, Recipe
from .run import Run

CLOSE = 0.0015  # a row is met within 0.15 points of what was published, or above
NOISE = 0.05  # a step whose p is above this is called noise


@dataclass(frozen=True)
class Row:
    """The finished runs of a recipe, by seed."""

    recipe: Recipe
    runs: dict[int, Run]
    published: float | None = None

    @property
    def accuracies(self) -> dict[int, float]:
        """In [0, 1], at the last epoch."""
        return {seed: run.metrics["accuracy"] for seed, run in self.runs.items()}

    @property
    def mean(self) -> float:
        return float(np.mean(list(self.accuracies.values())))

    @property
    def deviation(self) -> float:
        """Standard deviation from run to run (n - 1); NaN for one run."""
        return stdev(list(self.accuracies.values()))

    @property
    def interval(self) -> tuple[float, float]:
        """95% interval of the mean, by Student's t; NaN for one run."""
        n = len(self.runs)
        half = stats.t.ppf(0.975, n - 1) * self.deviation / np.sqrt(n) if n > 1 else float("nan")
        return self.mean - half, self.mean + half

    @property
    def met(self) -> bool | None:
        return None if self.published is None else self.mean >= self.published - CLOSE

    @property
    def seconds(self) -> float:
        """The median of a run's; a run that was interrupted or had to share the machine says little."""
        return float(np.median([run.metrics["seconds"] for run in self.runs.values()]))


def stdev(values: list[float]) -> float:
    return float(np.std(values, ddof=1)) if len(values) > 1 else float("nan")


def read_rows(out: str | Path, recipes) -> list[Row]:
    """The rows of which `<out>/runs` has a finished run, in the order of `recipes`."""
    rows = []
    for recipe in recipes:
        runs = [Run(p.parent) for p in sorted((Path(out) / "runs" / recipe.name).glob("s*/metrics.json"))]
        if runs:
            by_seed = dict(sorted((run.recipe.seed, run) for run in runs))
            rows.append(Row(recipe, by_seed, PUBLISHED.get(recipe)))
    return rows


@dataclass(frozen=True)
class Step:
    """What lies between two rows, over the seeds that both have."""

    difference: float  # of the mean accuracies, in [-1, 1]
    p: float  # of a paired t-test over the seeds; NaN with fewer than two
    mcnemar: list[float]  # the exact test's p on the test images, for each seed

    @property
    def verdict(self) -> str:
        if np.isnan(self.p):
            return "untested"
        return "within noise" if self.p > NOISE else "better" if self.difference > 0 else "worse"


def compare(before: Row, after: Row, labels: np.ndarray) -> Step:
    """Test `after` against `before`, paired by seed. `labels`: the true classes of the test images, int [n]."""
    seeds = sorted(before.runs.keys() & after.runs.keys())
    a = np.array([before.accuracies[s] for s in seeds])
    b = np.array([after.accuracies[s] for s in seeds])
    p = float(stats.ttest_rel(b, a).pvalue) if len(seeds) > 1 else float("nan")
    tests = [mcnemar(before.runs[s].predictions, after.runs[s].predictions, labels) for s in seeds]
    return Step(float((b - a).mean()) if seeds else float("nan"), p, tests)


def mcnemar(before: np.ndarray, after: np.ndarray, labels: np.ndarray) -> float:
    """The exact p of McNemar's test (1947) that two classifiers are right equally often, each int [n]."""
    won, lost = ((after == labels) & (before != labels)).sum(), ((after != labels) & (before == labels)).sum()
    return float(stats.binomtest(int(won), int(won + lost)).pvalue) if won + lost else 1.0


# --- as text ------------------------------------------------------------------------------------------------------

Column = tuple[str, Callable[[Row, Step | None], str]]


def _percent(x: float, digits: int = 2) -> str:
    return "–" if np.isnan(x) else f"{100 * x:.{digits}f}"


def _link(row: Row, _) -> str:
    return f"[{row.recipe.name}](runs/{row.recipe.name})"


COLUMNS: list[Column] = [
    ("row", _link),
    ("mean %", lambda row, _: f"**{_percent(row.mean)}**"),
    ("SD", lambda row, _: _percent(row.deviation)),
    ("95% interval", lambda row, _: "–".join(_percent(x) for x in row.interval) if len(row.runs) > 1 else "–"),
    ("runs", lambda row, _: " ".join(_percent(a) for a in row.accuracies.values())),
    ("s a run", lambda row, _: f"{row.seconds:.0f}"),
]
_AGAINST: list[Column] = [
    ("step", lambda _, step: f"{100 * step.difference:+.2f}" if step else "–"),
    ("p", lambda _, step: f"{step.p:.2g}" if step and not np.isnan(step.p) else "–"),
    ("McNemar", lambda _, s: f"{sum(p < NOISE for p in s.mcnemar)} of {len(s.mcnemar)}" if s else "–"),
    ("standing", lambda _, step: step.verdict if step else "–"),
]
_PUBLISHED: list[Column] = [
    ("published %", lambda row, _: _percent(row.published)),
    ("difference", lambda row, _: f"{100 * (row.mean - row.published):+.2f}"),
    ("met", lambda row, _: "yes" if row.met else "**no**"),
]
TABLE = [COLUMNS[0], _PUBLISHED[0], *COLUMNS[1:5], *_PUBLISHED[1:], *_AGAINST, COLUMNS[5]]
OTHERS = [*COLUMNS[:5], *_AGAINST, COLUMNS[5]]


def markdown(columns: list[Column], rows: list[Row], steps: list[Step | None]) -> str:
    lines = ["| " + " | ".join(name for name, _ in columns) + " |", "|" + " --- |" * len(columns)]
    for row, step in zip(rows, steps, strict=True):
        lines.append("| " + " | ".join(cell(row, step) for _, cell in columns) + " |")
    return "\n".join(lines) if rows else ""


HOW = """\
The accuracy is that of the last epoch on the 10,000 test images, which chose nothing: no epoch, no setting, no run.
*SD* is the standard deviation from run to run, *95% interval* that of the mean (Student's t). *met*: within 0.15 points
of what was published, or above. *step* is the change in points from the row above, over the seeds that both have; *p*
is that of a paired t-test over those seeds, and a step with p above 0.05 is called noise. *McNemar* counts the seeds
for which the exact test on the test images' predictions has p below 0.05. *s a run*: the median of wall-clock seconds.
"""


def write_results(out: str | Path, labels: np.ndarray, unmade: dict[str, str]) -> None:
    """Write results.md, results.csv and results.png into `out` from the finished runs below `<out>/runs`.

    `labels`: the true classes of the test images, int [n]. `unmade`: why a row has no run, by its recipe's name.
    """
    out = Path(out)
    table = read_rows(out, PUBLISHED)
    first, last = (next((row for row in table if row.recipe == r), None) for r in (VANILLA, LEARNING_RATE_001))
    steps = [None, *(compare(a, b, labels) for a, b in pairwise(table))]
    everything = [("table", row, step) for row, step in zip(table, steps, strict=True)]
    sections = []
    for group, recipes, against, title, about in (
        ("improved", [IMPROVED], last, "Beyond it", "*step* is from the table's last row."),
        ("starts", STARTS, first, "Other readings of where it starts", "*step* is from `vanilla`."),
        ("failed", FAILED, last, "The ideas that failed", "Each on top of the table's last row; *step* is from it."),
        ("readings", READINGS, last, "Other readings of the last row", "*step* is from the table's last row."),
    ):
        rows = read_rows(out, recipes)
        steps_of = [compare(against, row, labels) if against else None for row in rows]
        everything += [(group, row, step) for row, step in zip(rows, steps_of, strict=True)]
        lacking = [f"- **{r.name}** was not run: {unmade[r.name]}." for r in recipes if r.name in unmade]
        if rows or lacking:
            sections += [f"## {title}", about, markdown(OTHERS, rows, steps_of), "\n".join(lacking)]
    parts = ["# Results", _made_by([row for _, row, _ in everything])]
    if table:
        parts += ["## The published table", HOW, markdown(TABLE, table, steps)]
        parts += ["![Accuracy by row](results.png)"]
    parts += sections
    if last:
        best = [max(epoch["accuracy"] for epoch in run.history) for run in last.runs.values() if run.history]
        parts += [
            f"The table's last row, had the test images chosen the best of its epochs for each run: "
            f"{_percent(np.mean(best))} (SD {_percent(stdev(best))}), against {_percent(last.mean)} at the last epoch."
        ]
    write_bytes(out / "results.md", ("\n\n".join(part.strip() for part in parts if part) + "\n").encode())
    write_bytes(out / "results.csv", _csv(everything).encode())
    if table:
        with atomic_file(out / "results.png") as tmp:
            shown = [row for group, row, _ in everything if group in ("table", "improved")]
            dots = [(row.recipe.name, list(row.accuracies.values()), row.published) for row in shown]
            plots.rows(dots, "Test accuracy at the last epoch").savefig(tmp, format="png", dpi=150)


def _made_by(rows: list[Row]) -> str:
    found = [run.metrics for row in rows for run in row.runs.values()]
    hours = sum(m["seconds"] for m in found) / 3600
    on = sorted({f"{m['device']}, {m['threads']} thread{'s' * (m['threads'] > 1)} a run" for m in found})
    torch = sorted({f"torch {m['versions']['torch']}, fastai {m['versions']['fastai']}" for m in found})
    return f"{len(found)} runs, {hours:.1f} hours of training added up ({'; '.join(on)}; {'; '.join(torch)})."


def _csv(everything) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    columns = (
        "group row published mean sd low high difference met step p mcnemar_below_0.05 seeds standing seconds runs"
    )
    writer.writerow(columns.split())
    for group, row, step in everything:
        known = row.published is not None
        writer.writerow(
            [group, row.recipe.name, row.published if known else "", row.mean, row.deviation, *row.interval]
            + ([row.mean - row.published, row.met] if known else ["", ""])
            + ([step.difference, step.p, sum(p < NOISE for p in step.mcnemar)] if step else ["", "", ""])
            + [len(row.runs), step.verdict if step else "", row.seconds]
            + [" ".join(map(str, row.accuracies.values()))]
        )
    return text.getvalue()
