"""What held-out images make of an exported model: calibrated probabilities, and which images show no class."""

import json

import numpy as np
import onnxruntime
import pytest
import torch
from torch import nn

from mnist_fastai import Data, Recipe, Run, fit
from mnist_fastai.calibration import calibration
from mnist_fastai.exports import Reference, export, quantize
from mnist_fastai.exports.detector import LEAST, Taps, find_even, fit_detector, with_blurred
from mnist_fastai.models import ARCHS, split
from mnist_fastai.reader.session import Session

HELD_OUT = 250  # images


@pytest.fixture(scope="module")
def data(mnist) -> Data:
    held_out = mnist.train[2000 : 2000 + HELD_OUT]
    return Data(mnist.train[:2000], mnist.test[:400], mnist.classes, held_out)


@pytest.fixture(scope="module")
def run(data, tmp_path_factory) -> Run:
    recipe = Recipe(arch="lenet", opt="adam", num_epochs=2, batch_size=64, label_smoothing=0.1)
    return fit(recipe, data=data, out=tmp_path_factory.mktemp("detector") / "run", device="cpu")


@pytest.fixture(scope="module")
def exported(run, data):
    return export(run, "onnx", data=data)


def noise(n: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (n, 28, 28), np.uint8)


def test_half_a_percent_of_the_held_out_images_are_above_the_threshold(exported, data):
    assert exported.calibrated == HELD_OUT
    novelty = Session(exported.path).scores(data.valid.images.numpy())[1]
    assert (novelty > 1).sum() == int(0.005 * HELD_OUT)
    assert abs(np.median(novelty)) < 1e-3


def test_other_digits_pass_and_what_is_none_does_not(exported, data):
    session = Session(exported.path)
    assert (session.scores(data.test.images.numpy())[1] > 1).mean() < 0.04
    assert (session.scores(noise(100))[1] > 1).mean() > 0.95


def test_probabilities_are_calibrated_and_logits_stay_the_runs(exported, data):
    session = onnxruntime.InferenceSession(exported.path)
    logits, p = session.run(["logits", "probabilities"], {"images": data.test.images.numpy()})
    temperature, low = (
        json.loads(session.get_modelmeta().custom_metadata_map[k]) for k in ("temperature", "low_confidence")
    )
    np.testing.assert_allclose(p, torch.tensor(logits / temperature).softmax(1), atol=1e-6)
    labels = data.test.labels.numpy()
    before = torch.tensor(logits).double().log_softmax(1).numpy()
    assert temperature < 1  # smoothed labels make a model less sure than it is right
    assert calibration(np.log(p, dtype=float), labels)["nll"] < calibration(before, labels)["nll"]
    assert Session(exported.path).low_confidence == low


def test_torch_export_has_the_same_novelty(run, data, exported):
    path = export(run, "torch-export", data=data).path
    images = np.concatenate([data.test.images[:50].numpy(), noise(50)])
    *_, novelty = torch.export.load(path).module()(torch.from_numpy(images))
    np.testing.assert_allclose(novelty.detach(), Session(exported.path).scores(images)[1], rtol=1e-3, atol=1e-3)


def test_int8_keeps_the_threshold(run, data, exported):
    _, int8 = quantize(run, reference=Reference(run, data=data))
    novelty = Session(int8.path).scores(data.valid.images.numpy())[1]
    assert (novelty > 1).sum() == int(0.005 * HELD_OUT)
    assert (Session(int8.path).scores(noise(100))[1] > 1).mean() > 0.95


def test_with_few_held_out_images_nothing_is_calibrated(mnist, tmp_path):
    few = Data(mnist.train[:300], mnist.test[:100], mnist.classes, mnist.train[300 : 300 + LEAST - 1])
    model = nn.Sequential(nn.Flatten(), nn.Linear(784, 10))
    run = fit(Recipe(num_epochs=0), model=nn.Sequential(model, nn.Linear(10, 10)), data=few, out=tmp_path / "run")
    reference = Reference(run, data=few, model=nn.Sequential(model, nn.Linear(10, 10)))
    assert reference.calibrated is None
    assert export(run, "onnx", reference=reference).calibrated == 0


def test_the_command_says_whether_a_file_is_calibrated(cli, run, data):
    code, out, err = cli("export", run.path, "--format", "onnx", "--out", "there")  # by the sample: no data is at hand
    assert (code, err) == (0, "")
    assert "not calibrated" in out
    assert "--valid-fraction" in out


@pytest.mark.parametrize("arch", [name for name in ARCHS if name != "alexnet"])
def test_every_architecture_has_features_of_its_layers(arch, data):
    body, head = split(ARCHS[arch](10))
    taps = Taps(body).eval()
    with torch.no_grad():
        images = data.train.images[:8, None].float() / 255
        features, layers = taps(images)
        assert torch.equal(features, body.eval()(images))
    assert layers.shape[0] == 8
    assert layers.shape[1] > head.in_features


def test_a_body_that_is_no_sequential_has_its_own_features():
    class Body(nn.Module):
        def forward(self, x):
            return x.flatten(1)[:, :50]

    features, layers = Taps(Body())(torch.ones(3, 1, 28, 28))
    assert torch.equal(features, layers)


@pytest.mark.parametrize("odd", ["constant", "one feature", "a class of one", "few images"])
def test_odd_features_can_be_fitted(odd):
    rng = np.random.default_rng(0)
    taps, labels = rng.normal(size=(300, 20)).astype(np.float32), np.arange(300) % 3
    if odd == "constant":
        taps[:, 3:] = 7
    if odd == "one feature":
        taps = taps[:, :1]
    if odd == "a class of one":
        labels[1:] = labels[1:] % 2
        labels[0] = 2
    if odd == "few images":
        taps, labels = taps[:4], labels[:4]
    held_out = rng.normal(size=(400, taps.shape[1])).astype(np.float32)
    novelty = fit_detector(taps, labels, held_out)(torch.from_numpy(held_out)).numpy()
    assert np.isfinite(novelty).all()
    assert (novelty > 1).mean() <= 0.005
    far = fit_detector(taps, labels, held_out)(torch.full((1, taps.shape[1]), 100.0))
    assert far.item() > 1


def test_blurred_images_keep_their_labels(mnist):
    images, labels = with_blurred(mnist.train.images[:600, None], mnist.train.labels[:600])
    assert images.dtype == torch.uint8
    assert len(images) == len(labels) == 660
    assert torch.equal(images[:600], mnist.train.images[:600, None])
    flat = mnist.train.images[:600].flatten(1).double()
    for image, label in zip(images[600:].flatten(1).double(), labels[600:], strict=True):
        nearest = torch.nn.functional.cosine_similarity(image[None], flat).argmax()
        assert mnist.train.labels[nearest] == label


def test_low_confidence_is_where_half_are_wrong():
    rng = np.random.default_rng(0)
    confidence = rng.uniform(0.2, 1, 20_000)
    right = rng.random(20_000) < confidence**2  # even at 0.71
    assert find_even(confidence, right) == pytest.approx(0.5**0.5, abs=0.03)
    assert find_even(confidence, np.ones(20_000, bool)) == 0.5
    assert find_even(confidence, rng.random(20_000) < 1 - confidence) == 0.5  # the surer, the more often wrong


def test_a_finished_run_is_calibrated_the_same_way_later(run, data):
    first, second = (Reference(run, data=data).calibrated for _ in range(2))
    assert (first.temperature, first.low_confidence) == (second.temperature, second.low_confidence)
    assert all(torch.equal(a, b) for a, b in zip(first.detector.buffers(), second.detector.buffers(), strict=True))
