"""A run → three maps of the same images: by their pixels, by the untrained network, and by the trained one."""

import io
import time
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import matplotlib
import numpy as np
import torch
from matplotlib.figure import Figure
from rich.console import Console
from torch import nn

from . import plots
from .callbacks import say
from .datasets import Data
from .embedding import EARLY_ITERATIONS, ITERATIONS, embed, score
from .errors import InputError
from .escape import csv_cell, csv_line
from .evaluation import forward
from .files import check_folder, owned, write_bytes, write_json, write_text
from .learner import find_model, load_run, make_learner
from .models import split
from .pages.maps import write_page
from .run import Run

SAMPLES = 1000
TITLES = {"raw": "Raw pixels", "untrained": "The network with random weights", "trained": "The trained network"}
FORMATS = {"png": {}, "svg": {"Date": None}, "pdf": {"CreationDate": None}}  # → metadata that keeps the date out


def draw_maps(
    run: Run,
    out: str | Path,  # a folder; files of an earlier call are replaced
    *,
    layer: str | None = None,  # a name of torch's `named_modules`; the body, where the model is body and head
    samples: int | Literal["all"] | None = None,  # images, evenly from each class; 1,000, or all where there are fewer
    perplexity: float | None = None,  # 30, or the highest that the number of images allows
    iterations: int = ITERATIONS,
    seed: int = 0,  # of the choice of images and of the maps
    format: str = "png",  # of the pictures, a key of FORMATS
    thumbnails: bool = False,  # draw the images themselves in place of dots, where there is room
    data: Data | str | Path | None = None,  # as `load_run` takes it, and so the next three
    device: str = "auto",
    model: Callable[[int], nn.Module] | None = None,
    allow_import: bool = False,
    console: Console | None = None,
) -> dict:
    """Write three maps as pictures, tsne.html, tsne.csv, features.npz and tsne.json; return the content of tsne.json.

    Raises InputError, before anything is written, where the run cannot be used, the layer is unknown, or the images or
    their features cannot be mapped.
    """
    started, out = time.perf_counter(), Path(out)
    check_folder(out)
    learner = load_run(run.path, data=data, device=device, model=model, allow_import=allow_import)
    if layer is None and split(learner.model) is None:
        layers = ", ".join(name for name, _ in learner.model.named_modules() if name)
        raise InputError(f"{run.path} has a model without a body and a head; choose a --layer to map, one of {layers}")
    layer = layer or next(learner.model.named_children())[0]  # the body
    untrained = make_learner(run.recipe, learner.dls, model=find_model(run, model, allow_import))
    if untrained.model is learner.model:
        raise InputError(f"the untrained map of {run.path} needs a new network; give a function that makes it")

    images, labels = (t.cpu().numpy() for t in learner.dls.valid.tensors)
    n = len(labels)
    index = choose(labels, n if samples == "all" else min(SAMPLES, n) if samples is None else samples, seed)
    images, dl = images[index, 0], learner.dls.valid.new(get_idxs=index.tolist)
    logits, labels, trained = forward(learner, dl, layer)
    features = {
        "raw": images.reshape(len(index), -1).astype(np.float32) / 255,
        "untrained": forward(untrained, dl, layer).features,
        "trained": trained,
    }
    probabilities, predictions, labels = (t.numpy() for t in (*logits.softmax(1).max(1), labels))
    if not np.isfinite(probabilities).all():
        raise InputError(f"the predictions of {run.path} are NaN; train the run anew")
    counts = f"{len(index):,} of {n:,} images, {trained.shape[1]:,} features of layer {layer}"
    say(console, f"{run.path}: {counts}, in {time.perf_counter() - started:.1f} s")

    positions, scores = {}, {}
    for name, values in features.items():
        since = time.perf_counter()
        try:
            # beside another process that computes, 1,000 images took ten times as long with two threads as with one
            threads = torch.get_num_threads() if len(index) > 5000 else 1
            embedding = embed(values, perplexity=perplexity, iterations=iterations, seed=seed, threads=threads)
        except InputError as e:
            raise InputError(f"{name}: {e}") from e
        positions[name] = embedding.positions
        scores[name] = score(values, embedding.positions, labels, seed=seed)
        say(console, f"{name}: mapped in {time.perf_counter() - since:.1f} s")

    correct = predictions == labels
    accuracy = float(correct.mean())
    result = {
        "run": str(run.path),
        "layer": layer,
        "samples": len(index),
        "accuracy": accuracy,
        "perplexity": embedding.perplexity,
        "iterations": EARLY_ITERATIONS + iterations,
        "seed": seed,
        "maps": scores,
    }
    title = f"{run.recipe.name}, seed {run.recipe.seed}: {accuracy:.1%} of these {len(index):,} images right"
    panels = {
        name: (f"{TITLES[name]} ({s['neighbors']}-NN accuracy {s['knn_map']:.1%})", positions[name])
        for name, s in scores.items()
    }
    maps = {TITLES[name]: points for name, points in positions.items()}
    table = {
        "index": index,
        "label": [run.classes[i] for i in labels],
        "prediction": [run.classes[i] for i in predictions],
        "probability": probabilities,
    }
    arrays = {"index": index, "labels": labels, "predictions": predictions, "probabilities": probabilities, **features}
    arrays |= {f"{name}_positions": points for name, points in positions.items()}
    content = io.BytesIO()
    np.savez(content, **arrays, perplexity=embedding.perplexity)
    with owned(out):  # two calls into one folder leave the files of one of them
        for stem, names in {"tsne": list(panels), **{f"tsne-{name}": [name] for name in panels}}.items():
            part = dict(panels[name] for name in names)
            figure = plots.maps(part, labels, run.classes, ~correct, title, images if thumbnails else None)
            write_picture(figure, out / f"{stem}.{format}")
        write_page(out / "tsne.html", maps, images, labels, predictions, probabilities, run.classes, f"t-SNE: {title}")
        write_csv(out / "tsne.csv", table, positions)
        write_bytes(out / "features.npz", content.getvalue())
        write_json(out / "tsne.json", result)
    say(console, *as_table(scores).splitlines(), f"{out}: written, {time.perf_counter() - started:.0f} s in all")
    return result


def choose(labels: np.ndarray, samples: int, seed: int) -> np.ndarray:
    """Sorted indices of images, int [samples], as many of each class as its images allow.

    Raises InputError where there are fewer images.
    """
    n = len(labels)
    if not 1 <= samples <= n:
        raise InputError(f"cannot map {samples} of {n} images; give --samples from 10 to {n}, or all")
    order, turn = np.random.default_rng(seed).permutation(n), np.empty(n, int)
    for c in np.unique(labels):
        members = order[labels[order] == c]
        turn[members] = np.arange(len(members))  # the first of each class, then the second of each, …
    return np.sort(np.argsort(turn, kind="stable")[:samples])


def write_picture(figure: Figure, path: Path) -> None:
    """The same bytes each time, in place of the same picture in another format."""
    format = path.suffix[1:]
    with matplotlib.rc_context({"svg.hashsalt": path.stem}):
        write_bytes(path, plots.to_bytes(figure, format, FORMATS[format]))
    for other in FORMATS.keys() - {format}:
        path.with_suffix(f".{other}").unlink(missing_ok=True)


def write_csv(path: Path, table: dict, positions: dict[str, np.ndarray]) -> None:
    """One row per image: its index in the reported split, its classes, and its position in each map."""
    columns = [f"{name}_{axis}" for name in positions for axis in "xy"]
    points = np.concatenate(list(positions.values()), axis=1)
    lines = [csv_line([*table, *columns])]
    for row, numbers in zip(zip(*table.values(), strict=True), points, strict=True):
        lines.append(csv_line([*map(csv_cell, row), *(f"{x:.5g}" for x in numbers)]))
    write_text(path, "".join(lines))


def as_table(scores: dict[str, dict]) -> str:
    lines = ["           10-NN accuracy: features     map  trustworthiness  silhouette"]
    for name, s in scores.items():
        silhouette = "-" if s["silhouette"] is None else f"{s['silhouette']:.3f}"
        nearest = f"{s['knn_features']:>24.2%}  {s['knn_map']:>6.2%}"
        lines.append(f"{name:<9}  {nearest}  {s['trustworthiness']:>15.3f}  {silhouette:>10}")
    return "\n".join(lines)
