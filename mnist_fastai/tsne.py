"""A run → three maps of the same images: by their pixels, by the network at its start, and by the trained network."""

import csv
import math
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Literal

import matplotlib
import numpy as np
import torch
from matplotlib.figure import Figure
from PIL import Image
from rich.console import Console

from . import plots
from .data import load_data
from .embed import EXAGGERATED, ITERATIONS, Map, embed, scores
from .errors import InputError
from .evaluate import predict_logits
from .features import BODY, extract
from .files import atomic_file, check_folder, make_folder, write_bytes, write_json
from .page import write_page
from .run import Run
from .train import find_device, load_run, make_learner, say

SAMPLES = 1000
TITLES = {"raw": "Raw pixels", "untrained": "The network with random weights", "trained": "The trained network"}
FORMATS = {"png": {}, "svg": {"Date": None}, "pdf": {"CreationDate": None}}  # and what keeps a date out of the file


def tsne(
    run: Run,
    out: str | Path,  # a folder; what an earlier call wrote there is replaced
    *,
    layer: str = BODY,
    samples: int | Literal["all"] | None = None,  # images, evenly of each class; 1,000, or all where there are fewer
    perplexity: float | None = None,  # 30, or as high as so few images allow
    iterations: int = ITERATIONS,
    seed: int = 0,  # of the choice of images and of the maps
    format: str = "png",  # of the pictures, a key of FORMATS
    thumbnails: bool = False,  # draw the images themselves in place of dots, where there is room
    projector: bool = False,  # also write what TensorBoard's embedding projector reads
    device: str = "auto",
    console: Console | None = None,
) -> dict:
    """Write three maps as pictures, tsne.html, tsne.csv, features.npz and tsne.json, whose content is returned.

    Raises InputError, before anything is written, where the run is not finished, the layer not known, the images too
    many or too few, or the features such that there is nothing to map.
    """
    began, out = time.perf_counter(), Path(out)
    run.require_finished()
    check_folder(out)
    where = find_device(device)
    data = load_data(run.recipe.data, run.recipe.valid_fraction)
    n = len(data.valid)
    index = choose(data.valid.labels.numpy(), {None: min(SAMPLES, n), "all": n}.get(samples, samples), seed)
    valid = data.valid[index]
    learner = load_run(run.path, device=where.type, data=replace(data, valid=valid))
    start = make_learner(run.recipe, learner.dls)
    features = {
        "raw": valid.images.flatten(1).numpy().astype(np.float32) / 255,
        "untrained": extract(start, learner.dls.valid, layer),
        "trained": extract(learner, learner.dls.valid, layer),
    }
    logits, _ = predict_logits(learner)
    probabilities, predictions = (t.numpy() for t in logits.softmax(1).max(1))
    images, labels = valid.images.numpy(), valid.labels.numpy()
    say(
        console,
        f"{run.path}: {len(index):,} of {n:,} images, {features['trained'].shape[1]:,} features "
        f"of layer {layer}, in {time.perf_counter() - began:.1f} s",
    )

    found, about = {}, {}
    for name, values in features.items():
        since = time.perf_counter()
        try:
            # beside another process that computes, 1,000 images took ten times as long with two threads as with one
            threads = torch.get_num_threads() if len(index) > 5000 else 1
            found[name] = embed(values, perplexity=perplexity, iterations=iterations, seed=seed, threads=threads)
        except InputError as e:
            raise InputError(f"{name}: {e}") from e
        about[name] = scores(values, found[name].positions, labels, seed=seed)
        say(console, f"{name}: mapped in {time.perf_counter() - since:.1f} s")

    right = predictions == labels
    result = {
        "run": str(run.path),
        "layer": layer,
        "samples": len(index),
        "accuracy": float(right.mean()),
        "perplexity": found["raw"].perplexity,
        "iterations": EXAGGERATED + iterations,
        "seed": seed,
        "maps": about,
    }
    make_folder(out)
    table = {
        "index": index,
        "label": [data.classes[i] for i in labels],
        "prediction": [data.classes[i] for i in predictions],
        "probability": probabilities,
    }
    title = f"{run.recipe.name}, seed {run.recipe.seed}: {right.mean():.1%} of these {len(index):,} images right"
    shown = {"labels": labels, "classes": data.classes, "missed": ~right, "images": images if thumbnails else None}
    draw = partial(plots.maps, title=title, **shown)
    write_pictures(out, found, about, draw, format)
    maps = {TITLES[name]: map.positions for name, map in found.items()}
    write_page(out / "tsne.html", maps, images, labels, predictions, probabilities, data.classes, f"t-SNE: {title}")
    write_csv(out / "tsne.csv", table, found)
    arrays = {"index": index, "labels": labels, "predictions": predictions, "probabilities": probabilities, **features}
    arrays |= {f"{name}_positions": map.positions for name, map in found.items()}
    with atomic_file(out / "features.npz") as tmp, open(tmp, "wb") as f:
        np.savez(f, **arrays, perplexity=result["perplexity"])
    if projector:
        write_projector(out / "projector", features, table, images)
    write_json(out / "tsne.json", result)
    say(console, f"{as_table(about)}\n{out}: written, {time.perf_counter() - began:.0f} s in all")
    return result


def choose(labels: np.ndarray, samples: int, seed: int) -> np.ndarray:
    """Indices of so many images in their order, int [samples], as many of each class as its images allow.

    Raises InputError where there are fewer images.
    """
    n = len(labels)
    if not 1 <= samples <= n:
        raise InputError(f"{samples} images cannot be taken of the {n} in the validation split; give fewer, or all")
    order, turn = np.random.default_rng(seed).permutation(n), np.empty(n, int)
    for c in np.unique(labels):
        members = order[labels[order] == c]
        turn[members] = np.arange(len(members))  # the first of each class, then the second of each, …
    return np.sort(np.argsort(turn, kind="stable")[:samples])


def write_pictures(out: Path, found: dict[str, Map], about: dict, draw: Callable[[dict], Figure], format: str) -> None:
    """One picture a map and one of all, the same bytes each time, in place of an earlier call's of another format."""
    panels = {
        name: (f"{TITLES[name]} ({s['neighbors']}-NN accuracy {s['knn_map']:.1%})", found[name].positions)
        for name, s in about.items()
    }
    for stem, names in {"tsne": list(panels), **{f"tsne-{name}": [name] for name in panels}}.items():
        with atomic_file(out / f"{stem}.{format}") as tmp, matplotlib.rc_context({"svg.hashsalt": stem}):
            draw(dict(panels[name] for name in names)).savefig(tmp, format=format, dpi=150, metadata=FORMATS[format])
        for other in FORMATS.keys() - {format}:
            (out / f"{stem}.{other}").unlink(missing_ok=True)


def write_csv(path: Path, table: dict, found: dict[str, Map]) -> None:
    """A row an image: its place in the validation split, what it is and is taken for, and where each map has it."""
    columns = [f"{name}_{axis}" for name in found for axis in "xy"]
    positions = np.concatenate([map.positions for map in found.values()], axis=1)
    with atomic_file(path) as tmp, open(tmp, "w", newline="", encoding="utf-8") as f:
        writer = csv.writer(f, lineterminator="\n")
        writer.writerow([*table, *columns])
        for row, places in zip(zip(*table.values(), strict=True), positions, strict=True):
            writer.writerow([*row, *(f"{x:.5g}" for x in places)])


def write_projector(folder: Path, features: dict[str, np.ndarray], table: dict, images: np.ndarray) -> None:
    """The files that TensorBoard's embedding projector reads: `tensorboard --logdir` takes the folder."""
    make_folder(folder)
    rows = zip(*(table[c] for c in ("index", "label", "prediction")), strict=True)
    lines = ["index\tlabel\tprediction", *("\t".join(map(str, row)) for row in rows)]
    write_bytes(folder / "metadata.tsv", ("\n".join(lines) + "\n").encode())
    n, size = len(images), images.shape[1]
    side = math.ceil(math.sqrt(n))  # a sprite is square, and filled row by row
    sprite = np.zeros((side * side, size, size), np.uint8)
    sprite[:n] = images
    sprite = sprite.reshape(side, side, size, size).transpose(0, 2, 1, 3).reshape(side * size, -1)
    with atomic_file(folder / "sprite.png") as tmp:
        Image.fromarray(sprite).save(tmp, format="png")
    config = []
    for name, values in features.items():
        with atomic_file(folder / f"{name}.tsv") as tmp:
            np.savetxt(tmp, values, fmt="%.6g", delimiter="\t")
        config.append(
            f'embeddings {{\n  tensor_name: "{name}"\n  tensor_path: "{name}.tsv"\n  metadata_path: "metadata.tsv"\n'
            f'  sprite {{\n    image_path: "sprite.png"\n'
            f"    single_image_dim: {size}\n    single_image_dim: {size}\n  }}\n}}\n"
        )
    write_bytes(folder / "projector_config.pbtxt", "".join(config).encode())


def as_table(about: dict[str, dict]) -> str:
    lines = ["           10-NN accuracy: features     map  trustworthiness  silhouette"]
    for name, s in about.items():
        silhouette = "-" if s["silhouette"] is None else f"{s['silhouette']:.3f}"
        nearest = f"{s['knn_features']:>24.2%}  {s['knn_map']:>6.2%}"
        lines.append(f"{name:<9}  {nearest}  {s['trustworthiness']:>15.3f}  {silhouette:>10}")
    return "\n".join(lines)
