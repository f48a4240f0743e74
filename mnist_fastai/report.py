"""Models and test sets → what they get wrong, how sure they are, and how they compare: numbers, tables and a page."""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from itertools import chain, count
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from rich.console import Console
from scipy.special import log_softmax
from torch import nn

from . import calibration, stats
from .callbacks import say
from .corruptions import CORRUPTIONS, corrupt
from .dataloader import dataloaders
from .datasets import Data, Split, load_evaluated
from .datasets.doubtful import correct_labels
from .errors import InputError
from .escape import csv_cell, csv_line
from .evaluation import forward
from .files import check_folder, owned, write_json, write_text
from .learner import load_run, read_data
from .models import split
from .pages.report import Pictures, write_page
from .reader.form import preprocess
from .reader.framing import is_in_format
from .reader.session import Session
from .run import Run

CORRUPTED = "mnist-c"
SHOWN = 10_000  # images on the page, of all sets together
NEAREST = 200  # misclassified images per model for which the nearest training image is looked for
CANDIDATES = 100  # training images nearest to each by its pixels, of which the features are computed
Labels = Literal["given", "corrected"]
Model = nn.Module | Callable[[int], nn.Module]


@dataclass(frozen=True)
class TestSet:
    """The images of a set that are evaluated on, with the labels that count."""

    name: str
    split: str
    images: int
    labels: Labels
    note: str = ""


@dataclass(frozen=True)
class Accuracy:
    """The share of images that are right, with Wilson's 95% interval."""

    images: int
    correct: int
    accuracy: float
    low: float
    high: float


@dataclass(frozen=True)
class Result(Accuracy):
    """One model on one test set. All values that need a class's images are None where it has none."""

    model: int  # index of Evaluation.models
    set: int  # index of Evaluation.sets
    corrected: Accuracy | None  # of MNIST's test images, with the labels that people doubt corrected
    confusion: list[list[int]]  # rows: labels, columns: predictions
    per_class: list[dict]  # "name", "images", "error_rate", its interval "low" and "high", "precision", "recall", "f1"
    calibration: dict  # "before" and "after" the "temperatures", each as `calibration.calibration` gives it
    coverage: list[dict]  # as `calibration.coverage` gives it


@dataclass(frozen=True)
class Evaluation:
    """What `evaluate` found: the content of report.json."""

    classes: tuple[str, ...]
    models: list[dict]  # "name", "path"
    sets: list[TestSet]
    results: list[Result]  # set by set, in each the models in their order
    groups: list[dict]  # runs that differ in their seed alone: "set", "name", "models", "mean", "std", "low", "high"
    comparisons: list[dict]  # of the first model, or group, with each other one, by set

    def to_dict(self) -> dict:
        """Of JSON's types; NaN becomes None."""
        return _plain(asdict(self))


class _Set(NamedTuple):
    """A set in memory."""

    facts: TestSet
    images: np.ndarray  # uint8 [n, 28, 28]
    framed: np.ndarray  # the same in MNIST's format, for the models that take nothing else
    labels: np.ndarray  # int [n], indices of the models' classes
    index: np.ndarray  # int [n], of the images in the split that they were read from
    doubt: tuple[np.ndarray, np.ndarray] | None  # corrected labels, and the rows that have one, of labels as given


class _Model:
    """A model to evaluate: a run's Learner, or a model.onnx."""

    def __init__(self, source: Run | str | Path, device: str, model: Model | None, allow_import: bool):
        is_file = not isinstance(source, Run) and Path(source).is_file()
        self.run = None if is_file else source if isinstance(source, Run) else Run(source)
        if self.run is None:
            self.path, self.session = Path(source), Session(source)
            self.name, self.classes = self.path.name, tuple(self.session.classes)
        else:
            self.path = self.run.path
            self.learner = load_run(self.path, device=device, model=model, allow_import=allow_import)
            self.name, self.classes = f"{self.run.recipe.name}, seed {self.run.recipe.seed}", self.run.classes

    @property
    def format(self) -> str:
        """One of recipes.IMAGE_FORMATS."""
        return self.session.format if self.run is None else self.run.format

    def takes(self, images: _Set) -> np.ndarray:
        """The images of a set as this model is given them, uint8 [n, 28, 28]."""
        return images.images if self.format == "28x28" else images.framed

    def scores(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
        """Log probabilities, float64 [n, classes], and a model.onnx's novelty, float32 [n], for uint8 [n, 28, 28]."""
        if self.run is None:
            p, novelty = self.session.scores(images)
            logs = np.log(np.maximum(p, np.finfo(np.float32).tiny), dtype=float)
            return logs, novelty if self.session.has_novelty else None
        out = log_softmax(self._forward(images).logits.double().numpy(), axis=1)
        if not np.isfinite(out).all():
            raise InputError(f"the predictions of {self.path} are NaN; train the run anew")
        return out, None

    def features(self, images: np.ndarray) -> np.ndarray:
        """Float32 [n, d], of the layers before the last, for uint8 [n, 28, 28]."""
        return self._forward(images, next(self.learner.model.named_children())[0]).features

    def _forward(self, images: np.ndarray, layer: str | None = None):
        labelled = Split(images, np.zeros(len(images), int))
        data = Data(labelled, labelled, self.classes)
        dl = dataloaders(data, normalize=self.run.normalize, device=self.learner.dls.device).valid
        return forward(self.learner, dl, layer)

    @cached_property
    def data(self) -> Data:
        """What a run was trained on. Raises as `read_data` does."""
        return read_data(self.run)

    def training_images(self) -> Split | None:
        """Those of a run whose data is at hand, and whose model has features."""
        if self.run is None or split(self.learner.model) is None:
            return None
        try:
            return self.data.train
        except InputError:
            return None


def evaluate(
    models: Run | str | Path | Sequence[Run | str | Path] = (),  # run directories and model.onnx; by default the latest
    *,
    data: Data | str | Path | Sequence[Data | str | Path] = (),  # sets, "mnist-c" too; by default the first run's own
    labels: Labels = "given",  # of MNIST's test images; "corrected" changes 10 and leaves 5 out
    out: str | Path | None = None,  # a folder for report.html, report.json and a CSV file per set
    device: str = "auto",
    model: Model | None = None,  # for runs to which `fit` was given one
    allow_import: bool = False,  # the modules that runs name, which are code
    console: Console | None = None,
) -> Evaluation:
    """Compute predictions of each model for each set, and what follows from them; write them to `out` where given.

    Raises InputError, before anything is written, where a model or a set cannot be used, or they do not fit together.
    """
    started = time.perf_counter()
    if out is not None:
        check_folder(out)
    if isinstance(models, (Run, str, Path)):
        models = [models]
    if isinstance(data, (Data, str, Path)):
        data = [data]
    chosen = [_Model(source, device, model, allow_import) for source in models or [Run.latest()]]
    classes = chosen[0].classes
    for other in chosen[1:]:
        if other.classes != classes:
            raise InputError(f"{chosen[0].path} and {other.path} have other classes; evaluate each by itself")
    names, paths = [m.name for m in chosen], [m.path.resolve() for m in chosen]
    if len(set(paths)) < len(paths):
        raise InputError("a model is named twice; name each once")
    for m in chosen:
        if names.count(m.name) > 1:
            m.name = str(m.path)
    sets = _read_sets(data, chosen, labels)

    results, outputs, novelty = [], [], []
    for s, images in enumerate(sets):
        logs_of, novelty_of = zip(*(m.scores(m.takes(images)) for m in chosen), strict=True)
        outputs.append(list(logs_of))
        novelty.append(novelty_of)
        for m, logs in enumerate(outputs[-1]):
            results.append(_score(m, s, logs, images, classes))
            say(console, _line(chosen[m].name, images.facts.name, results[-1]))
    groups, comparisons = _compare(chosen, sets, results, outputs)
    facts = [{"name": m.name, "path": str(m.path)} for m in chosen]
    evaluation = Evaluation(classes, facts, [s.facts for s in sets], results, groups, comparisons)
    for comparison in comparisons:
        say(console, _sentence(comparison, sets))
    if out is not None:
        pictures = _choose_pictures(chosen, sets, outputs)
        tables = [_table(chosen, *of_set, classes) for of_set in zip(sets, outputs, novelty, strict=True)]
        out, title = Path(out), " and ".join(m.name for m in chosen) if len(chosen) < 3 else f"{len(chosen)} models"
        with owned(out):
            for images, table in zip(sets, tables, strict=True):
                write_text(out / f"{images.facts.name}.csv", table)
            write_page(out / "report.html", evaluation.to_dict(), pictures, f"Evaluation of {title}")
            write_json(out / "report.json", evaluation.to_dict())
        say(console, f"{out / 'report.html'}: written, {time.perf_counter() - started:.0f} s in all")
    return evaluation


# --- the sets ---------------------------------------------------------------------------------------------------------


def _read_sets(sources: Sequence, models: Sequence[_Model], wanted: Labels) -> list[_Set]:
    sets: list[_Set] = []
    first, is_framing = models[0], any(m.format != "28x28" for m in models)
    for name, part, images, classes, format in _read_sources(sources, first):
        doubt, labels, index = correct_labels(images), _translate(name, images, classes, first), np.arange(len(images))
        if doubt:
            doubt = _translate(name, Split(images.images, doubt[0]), classes, first), doubt[1]
        kind: Labels = wanted if doubt else "given"
        if doubt and wanted == "corrected":
            (labels, index), doubt = doubt, None
            labels = labels[index]
        pixels = framed = images.images.numpy()
        if format == "28x28" and is_framing:
            framed = np.stack([_frame(image) for image in pixels])
        lacking = [c for i, c in enumerate(first.classes) if i not in labels]
        notes = [f"no images of {', '.join(lacking)}"] * bool(lacking)
        notes += ["remade from the paper's description"] * (name == CORRUPTED)
        notes += ["brought into MNIST's format"] * (framed is not pixels)
        kinds = {f"{CORRUPTED}-{c.replace('_', '-')}": c for c in CORRUPTIONS} if name == CORRUPTED else {name: None}
        for each, corruption in kinds.items():
            names = {s.facts.name for s in sets}
            unique = next(n for n in chain([each], (f"{each}-{k}" for k in count(2))) if n not in names)
            facts = TestSet(unique, part, len(index), kind, "; ".join(notes))
            shown = (corrupt(pixels, corruption) if corruption else pixels)[index]
            sets.append(_Set(facts, shown, shown if framed is pixels else framed[index], labels, index, doubt))
    return sets


def _frame(image: np.ndarray) -> np.ndarray:
    """An image, uint8 [28, 28], as `predict` gives it to a model that was trained on MNIST's format."""
    digits = [] if is_in_format(image, "mnist") else preprocess(image, single=True).digits
    return digits[0].image if digits else image


def _read_sources(sources: Sequence, first: _Model) -> Iterator[tuple[str, str, Split, tuple[str, ...], str]]:
    """The name of each set, that of its split, its images, its class names, and its format."""
    if not sources and first.run is not None:
        yield Path(first.data.source).name, *first.data.evaluated, first.data.classes, first.data.format
    for source in sources or (["mnist"] if first.run is None else []):
        if isinstance(source, Data):
            yield Path(source.source).name, *source.evaluated, source.classes, source.format
        elif source in (CORRUPTED, "mnist"):
            yield source, *load_evaluated("mnist")
        else:
            yield Path(source).resolve().name, *load_evaluated(source)


def _translate(name: str, images: Split, classes: tuple[str, ...], model: _Model) -> np.ndarray:
    """The labels as indices of the model's classes. Raises InputError for a class that it does not know."""
    labels = images.labels.numpy()
    if unknown := [classes[i] for i in np.unique(labels) if classes[i] not in model.classes]:
        raise InputError(f"{model.path} does not know the class {unknown[0]} of {name}; evaluate it on other data")
    return np.array([model.classes.index(c) if c in model.classes else -1 for c in classes])[labels]


# --- the numbers ------------------------------------------------------------------------------------------------------


def _accuracy(correct: np.ndarray) -> dict:
    low, high = stats.wilson(int(correct.sum()), len(correct))
    return {
        "images": len(correct), "correct": int(correct.sum()), "accuracy": float(correct.mean()), "low": low,
        "high": high,
    }  # fmt: skip


def _score(model: int, number: int, logs: np.ndarray, images: _Set, classes: tuple[str, ...]) -> Result:
    labels, predictions = images.labels, logs.argmax(1)
    confusion = np.zeros((len(classes), len(classes)), int)
    np.add.at(confusion, (labels, predictions), 1)
    corrected = None
    if images.doubt:
        true, rows = images.doubt
        corrected = Accuracy(**_accuracy(predictions[rows] == true[rows]))
    after, temperatures = calibration.cross_fit(logs, labels)
    return Result(
        **_accuracy(predictions == labels),
        model=model,
        set=number,
        corrected=corrected,
        confusion=confusion.tolist(),
        per_class=[_class_scores(confusion, i, name) for i, name in enumerate(classes)],
        calibration={
            "temperatures": temperatures,
            "before": calibration.calibration(logs, labels),
            "after": calibration.calibration(after, labels),
        },
        coverage=calibration.coverage(np.exp(logs), labels),
    )


def _class_scores(confusion: np.ndarray, i: int, name: str) -> dict:
    images, predicted, right = (int(n) for n in (confusion[i].sum(), confusion[:, i].sum(), confusion[i, i]))
    low, high = stats.wilson(images - right, images)
    return {
        "name": name, "images": images, "error_rate": 1 - right / images if images else None,
        "low": low, "high": high, "precision": right / predicted if predicted else None,
        "recall": right / images if images else None, "f1": 2 * right / (images + predicted) if images else None,
    }  # fmt: skip


def _compare(models: list[_Model], sets: list[_Set], results: list[Result], outputs) -> tuple[list[dict], list[dict]]:
    """Groups of runs that differ in their seed alone, and the tests: Welch's of groups, else McNemar's of models."""
    alike: dict[object, list[int]] = {}
    for i, m in enumerate(models):
        passed = str(m.run.facts.get("passed")) if m.run else ""
        members = alike.setdefault((replace(m.run.recipe, seed=0), passed) if m.run else i, [])
        if m.run and any(models[k].run.recipe.seed == m.run.recipe.seed for k in members):
            members = alike.setdefault(i, [])  # a seed again is no other sample
        members.append(i)
    groups, comparisons = [], []
    for s, images in enumerate(sets):
        accuracy = [r.accuracy for r in results if r.set == s]
        of_set = []
        for members in alike.values():
            if len(members) > 1:
                values = [accuracy[i] for i in members]
                low, high = stats.mean_interval(values)
                mean, std = float(np.mean(values)), float(np.std(values, ddof=1))
                name = f"{models[members[0]].run.recipe.name}, {len(members)} runs"
                of_set.append(
                    {"set": s, "name": name, "models": members, "mean": mean, "std": std, "low": low, "high": high}
                )
        groups += of_set
        if len(of_set) == len(alike):
            for other in of_set[1:]:
                test = stats.welch(*([accuracy[i] for i in g["models"]] for g in (of_set[0], other)))
                names = {"a": of_set[0]["name"], "b": other["name"]}
                comparisons.append({"set": s, "test": "Welch", **names, **asdict(test)})
        else:
            right = [logs.argmax(1) == images.labels for logs in outputs[s]]
            for i in range(1, len(models)):
                names = {"a": models[0].name, "b": models[i].name}
                comparisons.append({"set": s, "test": "McNemar", **names, **asdict(stats.mcnemar(right[0], right[i]))})
    for comparison, p in zip(comparisons, stats.holm([c["p"] for c in comparisons]), strict=True):
        comparison |= {"p_holm": float(p), "verdict": stats.verdict(comparison["difference"], p)}
    return groups, comparisons


def _plain(value):
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    return None if isinstance(value, float) and math.isnan(value) else value


# --- what is shown and written ----------------------------------------------------------------------------------------


def _line(name: str, of: str, result: Result) -> str:
    line = f"{name} on {of}: {result.accuracy:.2%} of {result.images:,} images ({result.low:.2%} to {result.high:.2%})"
    if result.corrected:
        line += f", {result.corrected.accuracy:.2%} of {result.corrected.images:,} with corrected labels"
    return line


def _sentence(c: dict, sets: list[_Set]) -> str:
    interval = f"{c['low']:+.2%} to {c['high']:+.2%}"
    test = f"{c['test']}'s test, p = {c['p_holm']:.2g} after Holm"
    pair = f"{c['b']} against {c['a']} on {sets[c['set']].facts.name}"
    return f"{pair}: {c['difference']:+.2%} ({interval}), {c['verdict']} ({test})"


def _table(models: list[_Model], images: _Set, outputs: list[np.ndarray], novelty, classes: tuple[str, ...]) -> str:
    """A CSV file's text, one row per model and image."""
    columns = "model", "index", "label", "prediction", "probability", "label_probability", "novelty"
    lines = [csv_line(columns)]
    for m, logs, of_model in zip(models, outputs, novelty, strict=True):
        p, predictions = np.exp(logs), logs.argmax(1)
        for i, index, label, best in zip(range(len(p)), images.index, images.labels, predictions, strict=True):
            values = f"{p[i, best]:.6g}", f"{p[i, label]:.6g}", "" if of_model is None else f"{of_model[i]:.6g}"
            lines.append(csv_line([*map(csv_cell, (m.name, index, classes[label], classes[best])), *values]))
    return "".join(lines)


def _choose_pictures(models: list[_Model], sets: list[_Set], outputs: list[list[np.ndarray]]) -> list[Pictures]:
    """All images of each set, or as many as the page has room for: the misclassified, the least and the most sure."""
    room, pictures = SHOWN // len(sets), []
    training = [m.training_images() for m in models]
    left = [NEAREST] * len(models)
    for images, of_models in zip(sets, outputs, strict=True):
        worst = np.min([np.where(p.argmax(1) == images.labels, p.max(1), -np.inf) for p in of_models], axis=0)
        order = np.argsort(worst, kind="stable")  # misclassified by any model, and then from unsure to sure
        rows = np.sort(np.r_[order[: 2 * room // 3], order[2 * room // 3 :][::-1][: room - 2 * room // 3]])
        nearest = []
        for m, (logs, train) in enumerate(zip(of_models, training, strict=True)):
            model, wrong = models[m], np.flatnonzero(logs[rows].argmax(1) != images.labels[rows])[: left[m]]
            left[m] -= len(wrong)
            found = _find_nearest(model, model.takes(images)[rows[wrong]], train) if train and len(wrong) else []
            nearest.append(dict(zip(wrong.tolist(), found, strict=False)))
        pictures.append(
            Pictures(
                index=images.index[rows], images=images.images[rows], labels=images.labels[rows],
                probabilities=[np.exp(logs[rows]) for logs in of_models], nearest=nearest,
            )
        )  # fmt: skip
    return pictures


def _find_nearest(model: _Model, images: np.ndarray, train: Split) -> list[tuple[np.ndarray, int]]:
    """The training image that is nearest by features to each of the images, and its label.

    Among the CANDIDATES that are nearest by pixels: the features of all 60,000 would take longer than all the rest.
    """
    pixels = images.reshape(len(images), -1).astype(np.float32)
    others = train.images.numpy().reshape(len(train), -1)
    parts = (others[i : i + 10_000].astype(np.float32) for i in range(0, len(others), 10_000))
    distances = np.concatenate([(part**2).sum(1) - 2 * pixels @ part.T for part in parts], axis=1)
    k = min(CANDIDATES, len(others))
    candidates = np.argpartition(distances, k - 1, axis=1)[:, :k]
    unique, place = np.unique(candidates, return_inverse=True)
    of_candidates, own = model.features(train.images.numpy()[unique]), model.features(images)
    found = []
    for features, rows, mine in zip(own, place.reshape(candidates.shape), candidates, strict=True):
        i = mine[((of_candidates[rows] - features) ** 2).sum(1).argmin()]
        found.append((train.images[i].numpy(), int(train.labels[i])))
    return found
