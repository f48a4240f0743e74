"""`mnist-fa tsne`: what it leaves is there, agrees with the run, repeats, and is refused with one sentence."""

import csv
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
from conftest import assert_one_sentence, full_disk, tree, write_idx_folder
from PIL import Image

from mnist_fastai import Recipe, Run, fit, pretrained
from mnist_fastai.data import SIZE
from mnist_fastai.embed import Map, transform
from mnist_fastai.tsne import choose, tsne

FEW = ["--samples", 60, "--iterations", 50]
NAMES = "raw", "untrained", "trained"
PICTURES = {"tsne", *(f"tsne-{name}" for name in NAMES)}


@pytest.fixture(scope="module")
def out(run, tmp_path_factory) -> Path:
    """What a call with 60 images leaves. To read only."""
    folder = tmp_path_factory.mktemp("tsne") / "out"
    tsne(run, folder, samples=60, iterations=50, projector=True, device="cpu")
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
    assert np.array_equal(arrays["labels"], small.valid.labels[index])
    assert np.array_equal(arrays["predictions"], run.predictions[index])
    assert np.array_equal(arrays["raw"], small.valid.images[index].flatten(1).numpy().astype(np.float32) / 255)
    assert arrays["untrained"].shape == arrays["trained"].shape == (60, 84)
    assert not np.allclose(arrays["untrained"], arrays["trained"], atol=0.1)
    weights = safetensors.torch.load_file(run.path / "model.safetensors")
    logits = arrays["trained"] @ weights["1.weight"].numpy().T + weights["1.bias"].numpy()
    probabilities = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    np.testing.assert_allclose(arrays["probabilities"], probabilities.max(1), atol=1e-5)


def test_the_table_has_a_row_an_image(out, arrays, small):
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
    map = Map(arrays["trained"], arrays["trained_positions"], float(arrays["perplexity"]))
    assert transform(map, arrays["untrained"][:3]).shape == (3, 2)


def test_scores_say_on_what_they_rest(out, arrays):
    found = json.loads((out / "tsne.json").read_text())
    assert found["samples"] == 60
    assert found["perplexity"] == pytest.approx(59 / 3), "fewer images than a perplexity of 30 goes with"
    assert found["accuracy"] == (arrays["predictions"] == arrays["labels"]).mean()
    assert list(found["maps"]) == list(NAMES)
    assert {s["scored"] for s in found["maps"].values()} == {60}


def test_the_projector_finds_its_files(out, arrays):
    folder = out / "projector"
    config = (folder / "projector_config.pbtxt").read_text()
    for name in NAMES:
        assert f'tensor_path: "{name}.tsv"' in config
        np.testing.assert_allclose(np.loadtxt(folder / f"{name}.tsv"), arrays[name], rtol=1e-4, atol=1e-6)
    assert config.count('metadata_path: "metadata.tsv"') == config.count('image_path: "sprite.png"') == 3
    header, *rows = (folder / "metadata.tsv").read_text().splitlines()
    assert header.split("\t") == ["index", "label", "prediction"]
    assert [int(r.split("\t")[0]) for r in rows] == arrays["index"].tolist()
    sprite = np.asarray(Image.open(folder / "sprite.png"))
    assert sprite.shape == (8 * SIZE, 8 * SIZE), "the smallest square for 60"
    ninth = (arrays["raw"][9].reshape(SIZE, SIZE) * 255).round()  # in the second row, second from the left
    assert np.array_equal(sprite[SIZE : 2 * SIZE, SIZE : 2 * SIZE], ninth)


def test_trained_features_map_better_than_raw_pixels(tmp_path):
    maps = tsne(Run(pretrained()), tmp_path / "out", samples=300, device="cpu")["maps"]
    for score in ("knn_features", "knn_map", "trustworthiness", "silhouette"):
        assert maps["raw"][score] < maps["trained"][score], score
    assert maps["trained"]["knn_map"] > 0.95


# --- the command --------------------------------------------------------------------------------------------------


def test_the_same_call_leaves_the_same_bytes_and_another_format_replaces_the_pictures(cli, run):
    code, out, err = cli("tsne", run.path, "--out", "out", *FEW, "--quiet", "--format", "svg", "--thumbnails")
    assert (code, out, err) == (0, "", "")
    first = tree(Path("out"))
    assert {name for name in first if name.endswith(".svg")} == {f"{stem}.svg" for stem in PICTURES}
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
    fashion = write_idx_folder(Path("fashion"), replace(small, train=small.train[:64], valid=small.valid[:100]))
    names = ["T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"]
    (fashion / "classes.txt").write_text("\n".join(names))
    run = fit(Recipe(arch="deep-bn", num_epochs=0, data=str(fashion.resolve())), "run", device="cpu")
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


# --- refused ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--samples", 401], r"401 images .* 400 in the validation split"),
        (["--samples", 0], r"0 images .* 400 in the validation split"),
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


@pytest.mark.parametrize(("fill", "message"), [(0.0, "are the same"), (float("nan"), "NaN or infinite")])
def test_a_dead_network_and_one_of_nans_are_refused_by_name(cli, run, tmp_path, fill, message):
    dead = shutil.copytree(run.path, tmp_path / "dead")
    weights = safetensors.torch.load_file(dead / "model.safetensors")
    safetensors.torch.save_file({k: v * 0 + fill for k, v in weights.items()}, dead / "model.safetensors")
    sentence = refused(cli("tsne", dead, "--out", "out", *FEW, "--quiet"))
    assert "trained: the features of" in sentence
    assert message in sentence
    assert not Path("out").exists()


def test_an_unfinished_run_says_how_to_go_on(cli, interrupted):
    assert "--resume" in refused(cli("tsne", interrupted))


def test_a_full_disk_leaves_atomic_files_only(cli, run):
    with full_disk(100_000):  # bytes: less than the picture of all three
        outcome = cli("tsne", run.path, "--out", "out", *FEW, "--quiet")
    assert "tsne.png" in refused(outcome, code=1)
    assert tree(Path("out")) == {}
