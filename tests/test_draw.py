"""`mnist-fa draw`: what is in the file, that its network predicts as the Learner does, and what is refused."""

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import assert_one_sentence, full_disk
from torch import nn

from mnist_fastai import InputError, Run, RunError, fit
from mnist_fastai.exports import page
from mnist_fastai.exports.page import draw, flatten, fuse
from mnist_fastai.models import ARCHS, alexnet


@pytest.fixture(autouse=True)
def _few(monkeypatch):
    """A map of few images takes a second, and not ten."""
    monkeypatch.setattr(page, "SAMPLES", (200, 200))


def data_of(path: Path) -> dict:
    return json.loads(re.search(r'id="data">(.*?)</script>', path.read_text(), re.DOTALL)[1])


def test_a_page_is_one_small_file_that_asks_no_network_for_anything(cli, run, small):
    code, out, err = cli("draw", run.path)
    assert code == 0, err
    assert f"predicts as the Learner does on all {len(small.test)} test images" in " ".join(out.split())
    assert "without novelty" in out
    content = Path("draw.html").read_text()
    assert len(content.encode()) < 1e6
    assert not re.search(r"https?:|url\(|@import|fetch\(|XMLHttpRequest", content)
    assert all(source.startswith("data:") for source in re.findall(r"(?:src|href)\s*=\s*[\"']?([^\"'\s>]*)", content))
    assert "default-src 'none'" in content
    assert f"{run.metrics['accuracy']:.2%} of {len(small.test)} test images right" in content
    data = data_of(Path("draw.html"))
    wrong = np.flatnonzero(run.predictions != small.test.labels.numpy())
    assert len(wrong) > len(data["misclassified"]["index"]) == page.MISCLASSIFIED
    assert set(data["misclassified"]["index"]) < set(wrong.tolist())
    assert data["detector"] is None
    assert data["collect"] is False
    before = Path("draw.html").read_bytes()
    assert cli("draw", run.path, "--out", "again.html").code == 0
    assert Path("again.html").read_bytes() == before
    assert cli("draw", run.path, "--collect").code == 0
    assert data_of(Path("draw.html"))["collect"] is True


def test_open_shows_the_page(cli, run, monkeypatch):
    opened = []
    monkeypatch.setattr("webbrowser.open", opened.append)
    assert cli("draw", run.path, "--out", "a b.html", "--open").code == 0
    assert opened == [Path("a b.html").resolve().as_uri()]


def test_held_out_images_give_the_page_its_scores(recipe, small, tmp_path):
    data = replace(small, valid=small.train[:240], train=small.train[240:])
    run = fit(replace(recipe, num_epochs=2), data=data, out=tmp_path / "run", device="cpu")
    drawn = draw(run, tmp_path / "draw.html", data=data)
    assert (drawn.novelty, drawn.split, drawn.images) == (True, "test", len(small.test))
    calibrated = page.Reference(run, data=data).calibrated
    data = data_of(drawn.path)
    assert (data["temperature"], data["lowConfidence"]) == (calibrated.temperature, calibrated.low_confidence)
    assert data["detector"]["axes"]["shape"] == list(calibrated.detector.axes.shape)


def zeroed(of: str):
    """`rounded`, which makes all weights of a format zero."""
    before = page.rounded

    def rounded(layer: nn.Module, format: str) -> nn.Module:
        layer = before(layer, format)
        if format == of and isinstance(layer, nn.Linear):
            layer.weight.data.zero_()
        return layer

    return rounded


def test_float16_is_taken_where_int8_changes_a_class(run, tmp_path, monkeypatch):
    assert draw(run, tmp_path / "a.html").weights == "int8"
    monkeypatch.setattr(page, "rounded", zeroed("int8"))
    assert draw(run, tmp_path / "b.html").weights == "float16"
    layers = data_of(tmp_path / "b.html")["layers"]
    assert {layer["weight"]["type"] for layer in layers if "weight" in layer} == {"float16"}


def test_nothing_is_written_where_a_class_differs(cli, run, monkeypatch):
    Path("draw.html").write_text("old")
    monkeypatch.setattr(page, "rounded", zeroed("float16"))
    monkeypatch.setattr(page, "WEIGHTS", ("float16",))
    code, _, err = cli("draw", run.path)
    assert code == 1
    assert_one_sentence(err.strip())
    assert re.search(r"gives \d+ images another class", err)
    assert Path("draw.html").read_text() == "old"


def test_a_page_that_cannot_be_written_leaves_the_old_one(run, tmp_path):
    path = tmp_path / "draw.html"
    path.write_text("old")
    with full_disk(10_000), pytest.raises(RunError):
        draw(run, path)
    assert path.read_text() == "old"


def test_mistakes_in_the_call_are_one_sentence(cli, run, interrupted, tmp_path):
    for args, words in [
        ((run.path, "--out", tmp_path), "is a folder"),
        ((interrupted,), "is not finished"),
        ((tmp_path,), "is no run directory"),
        ((run.path, "--data", tmp_path / "nothing"), "no folder"),
    ]:
        code, _, err = cli("draw", *args)
        assert code == 2, (args, err)
        assert words in err
        assert_one_sentence(err.strip())
    assert not list(Path().iterdir())


# --- networks ---------------------------------------------------------------------------------------------------------


class Own(nn.Module):
    """A module with a `forward` of its own, and a Sequential in it."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 6, 5, stride=2, padding=1)
        self.rest = nn.Sequential(nn.Conv2d(6, 8, 3, bias=False), nn.BatchNorm2d(8))
        self.fc = nn.Linear(8 * 5 * 5, 20)
        self.norm = nn.BatchNorm1d(20)
        self.out = nn.Linear(20, 10)

    def forward(self, x):
        x = F.avg_pool2d(self.rest(torch.tanh(self.conv(x))), 3, 2).relu()
        return self.out(F.relu(self.norm(self.fc(torch.flatten(x, 1)))))


def randomized(model: nn.Module) -> nn.Module:
    """In evaluation mode, with batch norms that do something."""
    for layer in model.modules():
        if isinstance(layer, (nn.BatchNorm1d, nn.BatchNorm2d)):
            for values in (layer.running_mean, layer.weight.data, layer.bias.data):
                values.normal_()
            layer.running_var.uniform_(0.5, 2)
    return model.eval()


def networks() -> dict[str, nn.Module]:
    """One of each kind that the page can run, with random weights."""
    torch.manual_seed(0)
    models = {name: make(10) for name, make in ARCHS.items() if name != "alexnet"}
    models |= {"own": Own(), "flat": nn.Sequential(nn.Flatten(), nn.Linear(784, 16), nn.Tanh(), nn.Linear(16, 10))}
    normed = nn.BatchNorm2d(1), nn.MaxPool2d(2), nn.Flatten(), nn.BatchNorm1d(196), nn.Linear(196, 10)
    models["norm-first"] = nn.Sequential(*normed)
    act = nn.Tanh()
    models["act-twice"] = nn.Sequential(
        nn.Flatten(), nn.Linear(784, 16), act, nn.Linear(16, 16), act, nn.Linear(16, 10)
    )
    return {name: randomized(model) for name, model in models.items()}


def test_a_large_network_leaves_room_for_fewer_images_on_the_map(run, tmp_path, monkeypatch):
    monkeypatch.setattr(page, "SAMPLES", (50, 300))
    assert data_of(draw(run, tmp_path / "a.html").path)["sample"]["labels"]["shape"] == [300]
    for size, n in ((230_000, 50), (280_000, None)):
        monkeypatch.setattr(page, "BYTES", size)
        drawn = draw(run, tmp_path / "b.html")
        (found,) = data_of(drawn.path)["sample"]["labels"]["shape"]
        assert found == n or (n is None and 50 < found < 300 and drawn.bytes < size)


@pytest.mark.parametrize("name", networks())
@torch.no_grad()
def test_the_layers_of_the_page_compute_what_the_model_does(name, small):
    model, x = networks()[name], small.test.images[:20, None].float() / 255
    layers = fuse(flatten(model))
    assert not any(isinstance(layer, (nn.BatchNorm1d, nn.BatchNorm2d, nn.Dropout)) for layer in layers)
    torch.testing.assert_close(layers(x), model(x), rtol=1e-4, atol=1e-4)


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 1, 3, padding=1)

    def forward(self, x):
        return x + self.conv(x)


class Branching(nn.Module):
    def forward(self, x):
        return x if x.sum() > 0 else -x


@pytest.mark.parametrize(
    ("model", "name"),
    [
        (alexnet(10, weights=None), "ToAlexNet|interpolate"),
        (nn.Sequential(nn.Flatten(), nn.Linear(784, 10), nn.LogSoftmax(1)), "LogSoftmax"),
        (nn.Sequential(nn.Conv2d(1, 1, 3), nn.GELU(), nn.Flatten()), "GELU"),
        (nn.Sequential(Residual(), nn.Flatten()), "Residual"),
        (nn.Sequential(Branching(), nn.Flatten()), "Branching"),
        (nn.Sequential(nn.BatchNorm2d(1, track_running_stats=False), nn.Flatten()), "BatchNorm2d"),
        (nn.Sequential(nn.Conv2d(1, 4, 3, dilation=2), nn.Flatten()), "Conv2d"),
        (nn.Sequential(nn.Conv2d(1, 4, 3, padding="same"), nn.Flatten()), "Conv2d"),
        (nn.Sequential(nn.MaxPool2d(3, padding=1), nn.Flatten()), "MaxPool2d"),
        (nn.Sequential(nn.AvgPool2d(3, ceil_mode=True), nn.Flatten()), "AvgPool2d"),
        (nn.Sequential(nn.Linear(28, 10), nn.Flatten()), "Linear"),
    ],
)
def test_another_layer_is_refused_in_one_sentence(model, name):
    with pytest.raises(InputError, match=name) as e:
        fuse(flatten(model))
    assert_one_sentence(str(e.value))
    assert "Conv2d, Linear" in str(e.value)


def test_a_module_of_the_users_own_is_loaded_where_that_is_allowed(cli, recipe, tmp_path, monkeypatch):
    Path("own.py").write_text(
        "from torch import nn\n"
        "class Net(nn.Sequential):\n"
        "    def __init__(self, classes):\n"
        "        super().__init__(nn.Flatten(), nn.Linear(784, 12), nn.ReLU(), nn.Linear(12, classes))\n"
    )
    monkeypatch.syspath_prepend(Path.cwd())
    run: Run = fit(replace(recipe, arch="own:Net", num_epochs=1), out=tmp_path / "own", device="cpu")
    assert cli("draw", run.path).code == 2
    code, _, err = cli("draw", run.path, "--allow-import")
    assert code == 0, err
    kinds = [layer["kind"] for layer in data_of(Path("draw.html"))["layers"]]
    assert kinds == ["flatten", "linear", "relu", "linear"]
