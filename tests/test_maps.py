"""`mnist-fa tsne`: what it leaves is there, agrees with the run, repeats, and is refused with one sentence."""

import csv
import json
import re
import shutil
from dataclasses import replace
from html import escape
from pathlib import Path

import matplotlib
import numpy as np
import pytest
import safetensors.torch
from conftest import assert_one_sentence, forget_digests, full_disk, tree, write_idx_folder
from PIL import Image
from torch import nn

from mnist_fastai import InputError, Recipe, Run, fit, plots, pretrained, transform
from mnist_fastai.embedding import Embedding
from mnist_fastai.maps import choose, draw_maps

FEW = ["--samples", 60, "--iterations", 50]
NAMES = "raw", "untrained", "trained"
PICTURES = {"tsne", *(f"tsne-{name}" for name in NAMES)}


class Plain(nn.Module):
    """A model without a body and a head."""

    def __init__(self, classes: int):
        super().__init__()
        self.flatten, self.hidden, self.out = nn.Flatten(), nn.Linear(784, 12), nn.Linear(12, classes)

    def forward(self, x):
        return self.out(self.hidden(self.flatten(x)).relu())


@pytest.fixture(scope="module")
def out(run, tmp_path_factory) -> Path:
    """What a call with 60 images leaves. To read only."""
    folder = tmp_path_factory.mktemp("tsne") / "out"
    draw_maps(run, folder, samples=60, iterations=50, device="cpu")
    return folder


@pytest.fixture(scope="module")
def arrays(out) -> dict:
    with np.load(out / "features.npz") as f:
        return dict(f)


def refused(outcome, code: int = 2) -> str:
    assert (outcome.code, outcome.out) == (code, "")
    last = outcome.err.splitlines()[-1]
    assert last.startswith("mnist-fa: ")
    assert_one_sentence(last)
    return last


# --- what it leaves -----------------------------------------------------------------------------------------------


def test_features_and_predictions_are_those_of_the_run(arrays, run, small):
    index = arrays["index"]
    assert np.array_equal(arrays["labels"], small.test.labels[index])
    assert np.array_equal(arrays["predictions"], run.predictions[index])
    assert np.array_equal(arrays["raw"], small.test.images[index].flatten(1).numpy().astype(np.float32) / 255)
    assert arrays["untrained"].shape == arrays["trained"].shape == (60, 84)
    assert not np.allclose(arrays["untrained"], arrays["trained"], atol=0.1)
    weights = safetensors.torch.load_file(run.path / "model.safetensors")
    logits = arrays["trained"] @ weights["1.weight"].numpy().T + weights["1.bias"].numpy()
    probabilities = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    np.testing.assert_allclose(arrays["probabilities"], probabilities.max(1), atol=1e-5)


def test_the_table_has_one_row_per_image(out, arrays, small):
    with open(out / "tsne.csv", newline="") as f:
        rows = list(csv.DictReader(f))
    assert list(rows[0]) == [
        *("index", "label", "prediction", "probability"),
        *(f"{name}_{axis}" for name in NAMES for axis in "xy"),
    ]
    assert [int(r["index"]) for r in rows] == arrays["index"].tolist()
    assert [r["label"] for r in rows] == [small.classes[i] for i in arrays["labels"]]
    assert [r["prediction"] for r in rows] == [small.classes[i] for i in arrays["predictions"]]
    for name in NAMES:
        positions = [[float(r[f"{name}_x"]), float(r[f"{name}_y"])] for r in rows]
        np.testing.assert_allclose(positions, arrays[f"{name}_positions"], rtol=1e-4)


def test_the_page_has_the_same_images(out, arrays, small):
    data = re.search(r'<script type="application/json" id="data">(.*?)</script>', (out / "tsne.html").read_text())
    page = json.loads(data[1])
    assert page["labels"] == arrays["labels"].tolist()
    assert page["predictions"] == arrays["predictions"].tolist()
    assert page["classes"] == list(small.classes)
    for shown, name in zip(page["maps"], NAMES, strict=True):
        low, high = np.min(shown["points"], 0), np.max(shown["points"], 0)
        at = arrays[f"{name}_positions"]
        np.testing.assert_allclose((high - low) / max(high - low), np.ptp(at, 0) / np.ptp(at, 0).max(), atol=1e-4)


def test_a_map_is_made_again_from_the_arrays_and_takes_new_points(arrays):
    map = Embedding(arrays["trained"], arrays["trained_positions"], float(arrays["perplexity"]))
    assert transform(map, arrays["untrained"][:3]).shape == (3, 2)


def test_scores_say_on_what_they_rest(out, arrays):
    result = json.loads((out / "tsne.json").read_text())
    assert result["samples"] == 60
    assert result["perplexity"] == pytest.approx(59 / 3), "the highest for so few images"
    assert result["accuracy"] == (arrays["predictions"] == arrays["labels"]).mean()
    assert list(result["maps"]) == list(NAMES)
    assert {s["scored"] for s in result["maps"].values()} == {60}


def test_trained_features_map_better_than_raw_pixels(tmp_path):
    maps = draw_maps(Run(pretrained()), tmp_path / "out", samples=300, device="cpu")["maps"]
    for score in ("knn_features", "knn_map", "trustworthiness", "silhouette"):
        assert maps["raw"][score] < maps["trained"][score], score
    assert maps["trained"]["knn_map"] > 0.95


def test_the_seed_and_the_iterations_reach_the_maps(run, tmp_path):
    def positions(**change) -> np.ndarray:
        given = {"samples": "all", "iterations": 1, "seed": 0, "device": "cpu"} | change
        draw_maps(run, tmp_path, **given)
        with np.load(tmp_path / "features.npz") as f:
            return f["trained_positions"]

    before = positions()
    assert not np.allclose(positions(seed=1), before, rtol=0.1)
    assert not np.allclose(positions(iterations=20), before, rtol=1e-3)


def test_the_pictures_ring_the_misclassified_and_say_how_many_are_right(run, tmp_path, monkeypatch):
    calls, draw = [], plots.maps
    monkeypatch.setattr(plots, "maps", lambda *args: calls.append(args) or draw(*args))
    result = draw_maps(run, tmp_path, samples=60, iterations=1, device="cpu")
    with np.load(tmp_path / "features.npz") as f:
        missed = f["predictions"] != f["labels"]
    assert 0 < missed.sum() < 30
    for panels, _, _, ringed, title, _ in calls:
        assert np.array_equal(ringed, missed)
        assert title == f"lenet-adam, seed 0: {1 - missed.mean():.1%} of these 60 images right"
        for name in panels:
            assert any(f"10-NN accuracy {s['knn_map']:.1%}" in name for s in result["maps"].values())


def test_images_are_those_that_the_metrics_are_on(small, tmp_path):
    data = small.hold_out(0.2)
    run = fit(Recipe(arch="lenet", num_epochs=0), data=data, out=tmp_path / "run", device="cpu")
    draw_maps(run, tmp_path / "out", data=data, iterations=1, device="cpu")
    with np.load(tmp_path / "out" / "features.npz") as f:
        assert np.array_equal(f["labels"], data.valid.labels)
        assert np.array_equal(f["predictions"], run.predictions)
        assert np.array_equal(f["raw"] * 255, data.valid.images.flatten(1))


def test_names_are_shown_as_they_are(small, tmp_path):
    classes = (r"$\bad$", "$x_1$", r"\$5", "$", "<b>", "&amp;", "_7", "100%", "", "\\")
    data = replace(small, test=small.test[:100], classes=classes)
    run = fit(Recipe(name=r"$\frac$", arch="lenet", num_epochs=0), data=data, out=tmp_path / "run", device="cpu")
    with matplotlib.rc_context({"svg.fonttype": "none"}):
        draw_maps(run, tmp_path / "out", data=data, format="svg", iterations=1, device="cpu")
    picture = (tmp_path / "out" / "tsne.svg").read_text()
    title = r"$\frac$, seed 0: "
    assert f">{title}" in picture
    assert title in (tmp_path / "out" / "tsne.html").read_text()
    for name in filter(None, classes):
        assert f">{escape(name, quote=False)}</text>" in picture  # the legend; on the maps, `\bad` would be refused


# --- models of one's own ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def own(small, tmp_path_factory) -> Run:
    """A run of `Plain`, of no epochs. To read only."""
    path = tmp_path_factory.mktemp("own") / "run"
    return fit(Recipe(num_epochs=0), model=Plain, data=small, out=path, device="cpu")


def test_a_model_without_a_body_has_no_layer_by_default(own, small, tmp_path):
    given = {"data": small, "samples": 60, "iterations": 1, "device": "cpu"}
    with pytest.raises(InputError, match=r"--layer to map, one of flatten, hidden, out$") as error:
        draw_maps(own, tmp_path / "out", model=Plain, **given)
    assert_one_sentence(str(error.value))
    assert not (tmp_path / "out").exists()
    draw_maps(own, tmp_path / "out", layer="hidden", allow_import=True, **given)
    with np.load(tmp_path / "out" / "features.npz") as f:
        assert f["trained"].shape == (60, 12)
        assert np.array_equal(f["trained"], f["untrained"]), "of no epochs"


def test_a_trained_network_does_not_pass_for_an_untrained_one(own, small, tmp_path):
    with pytest.raises(InputError, match="untrained") as error:
        draw_maps(own, tmp_path / "out", model=Plain(10), layer="hidden", data=small, device="cpu")
    assert_one_sentence(str(error.value))


# --- the command --------------------------------------------------------------------------------------------------


def test_the_same_call_leaves_the_same_bytes_and_another_format_replaces_the_pictures(cli, run):
    code, out, err = cli("tsne", run.path, "--out", "out", *FEW, "--quiet", "--format", "svg", "--thumbnails")
    assert (code, out, err) == (0, "", "")
    first = tree(Path("out"))
    assert {name for name in first if name.endswith(".svg")} == {f"{stem}.svg" for stem in PICTURES}
    assert b"<image" in first["tsne.svg"]
    cli("tsne", run.path, "--out", "out", *FEW, "--quiet")
    second = tree(Path("out"))
    assert {name for name in second if name.endswith((".svg", ".png"))} == {f"{stem}.png" for stem in PICTURES}
    assert all(Image.open(f"out/{stem}.png").width > 900 for stem in PICTURES)
    cli("tsne", run.path, "--out", "out", *FEW, "--quiet", "--format", "svg", "--thumbnails")
    assert tree(Path("out")) == first


def test_pdf(cli, run):
    assert cli("tsne", run.path, "--out", "out", *FEW, "--format", "pdf").code == 0
    assert Path("out/tsne.pdf").read_bytes().startswith(b"%PDF")


def test_json_is_what_the_file_says_and_nothing_else(cli, run):
    code, out, err = cli("tsne", run.path, "--out", "out", *FEW, "--json")
    assert code == 0
    assert out == Path("out/tsne.json").read_text()
    assert "trained: mapped" in err


def test_it_prints_a_table_of_the_scores(cli, run):
    code, out, _ = cli("tsne", run.path, "--out", "out", *FEW)
    assert code == 0
    maps = json.loads(Path("out/tsne.json").read_text())["maps"]
    for name in NAMES:
        line = next(line for line in out.splitlines() if line.startswith(f"{name} ")).split()
        assert line[1:3] == [f"{maps[name][k]:.2%}" for k in ("knn_features", "knn_map")]


def test_with_no_run_it_takes_the_latest_and_writes_into_it(cli, run):
    shutil.copytree(run.path, "runs/a")
    assert cli("tsne", *FEW).code == 0
    assert {p.stem for p in Path("runs/a/tsne").iterdir()} >= PICTURES


def test_the_shipped_model_is_left_as_it_is(cli):
    before = tree(pretrained())
    assert cli("tsne", *FEW).code == 0
    assert tree(pretrained()) == before
    assert {p.stem for p in Path("tsne").iterdir()} >= PICTURES


def test_another_data_set_has_its_own_class_names(cli, small):
    fashion = write_idx_folder(Path("fashion"), replace(small, train=small.train[:64], test=small.test[:100]))
    names = ["T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"]
    (fashion / "classes.txt").write_text("\n".join(names))
    run = fit(Recipe(arch="deep-bn", num_epochs=0, data=str(fashion)), out="run", device="cpu")
    code, _, err = cli("tsne", run.path, "--iterations", 50, "--layer", "0.9")
    assert code == 0, err
    with open("run/tsne/tsne.csv", newline="") as f:
        rows = list(csv.DictReader(f))
    assert len(rows) == 100, "all, since there are fewer than 1,000"
    assert {r["label"] for r in rows} == set(names)
    with np.load("run/tsne/features.npz") as f:
        assert np.array_equal(f["untrained"], f["trained"]), "of no epochs"
        assert f["trained"].shape == (100, 64 * 9 * 9)


def test_images_are_spread_evenly_over_the_classes_as_far_as_they_go():
    labels = np.repeat([0, 1, 2], [500, 3, 500])
    index = choose(labels, 103, seed=0)
    assert np.bincount(labels[index]).tolist() == [50, 3, 50]
    assert np.array_equal(index, np.unique(index)), "in their order, each once"
    assert np.array_equal(choose(labels, 103, seed=0), index)
    assert not np.array_equal(choose(labels, 103, seed=1), index)
    assert np.array_equal(choose(labels, 1003, seed=0), np.arange(1003))


def test_data_that_has_moved_and_a_model_that_the_recipe_names(cli, folder, small):
    shutil.copytree(folder, "before")
    fit(Recipe(arch=f"{__name__}:Plain", num_epochs=0, data="before"), out="run", device="cpu")
    assert "--allow-import" in refused(cli("tsne", "run", *FEW))
    assert "--layer" in refused(cli("tsne", "run", *FEW, "--allow-import"))
    Path("before").rename("after")
    args = "tsne", "run", "--samples", "all", "--iterations", 1, "--layer", "hidden", "--allow-import"
    assert "--data" in refused(cli(*args))
    assert not Path("run/tsne").exists()
    code, _, err = cli(*args, "--data", "after")
    assert code == 0, err
    with np.load("run/tsne/features.npz") as f:
        assert np.array_equal(f["labels"], small.test.labels)


# --- refused ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--samples", 401], r"401 of 400 images"),
        (["--samples", 0], r"0 of 400 images"),
        (["--samples", 5], r"10 points or more, and here are 5"),
        (["--samples", "all", "--perplexity", 200], r"perplexity of 200 .* 400 images.* to 133"),
        (["--samples", "some"], r"--samples takes a number of images, or all"),
        (["--samples", 30, "--perplexity", 30], r"perplexity of 30 .* 30 images.* to 9.6"),
        (["--layer", "0.99"], r"layer '0.99' is not known; take one of 0, 0.0"),
        (["--out", "file/there"], r"file/there .* --out"),
    ],
)
def test_what_cannot_be_done_is_refused_before_anything_is_written(cli, run, args, message):
    Path("file").write_text("x")
    args = ["--out", "out", *args] if "--out" not in args else args
    sentence = refused(cli("tsne", run.path, *args, "--quiet"))
    assert re.search(message, sentence)
    assert tree(Path()) == {"file": b"x"}


@pytest.mark.parametrize(
    ("fill", "message"),
    [(0.0, "trained: the features of .* are the same"), (float("nan"), "the predictions of .* are NaN")],
)
def test_a_dead_network_and_one_of_nans_are_refused_by_name(cli, run, tmp_path, fill, message):
    dead = shutil.copytree(run.path, tmp_path / "dead")
    weights = safetensors.torch.load_file(dead / "model.safetensors")
    safetensors.torch.save_file({k: v * 0 + fill for k, v in weights.items()}, dead / "model.safetensors")
    forget_digests(dead)
    sentence = refused(cli("tsne", dead, "--out", "out", *FEW, "--quiet"))
    assert re.search(message, sentence)
    assert not Path("out").exists()


def test_an_unfinished_run_says_how_to_go_on(cli, interrupted):
    assert "--resume" in refused(cli("tsne", interrupted))


def test_a_full_disk_leaves_atomic_files_only(cli, run):
    with full_disk(100_000):  # bytes: less than the picture of all three
        outcome = cli("tsne", run.path, "--out", "out", *FEW, "--quiet")
    assert "tsne.png" in refused(outcome, code=1)
    assert tree(Path("out")) == {}
