"""A forward pass gives logits, labels and any layer's output in order, and leaves the model as it was."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import assert_one_sentence
from torch import nn

from mnist_fastai import Data, InputError, Recipe, dataloaders, forward, load_run, make_learner, metrics
from mnist_fastai.dataloader import EVAL_BATCH


@pytest.fixture(scope="module")
def learner(run):
    return load_run(run.path)


def hooks(model: nn.Module) -> int:
    return sum(len(m._forward_hooks) for m in model.modules())


def test_logits_and_labels_are_those_of_the_reported_images(learner, run, small):
    logits, labels, features = forward(learner)
    assert logits.shape == (400, 10)
    assert (logits.dtype, labels.dtype) == (torch.float32, torch.int64)
    assert type(logits) is type(labels) is torch.Tensor
    assert labels.equal(small.test.labels)
    assert np.array_equal(logits.argmax(1), run.predictions)
    assert features is None


def test_the_features_are_what_the_head_sees(learner):
    logits, _, features = forward(learner, layer="0")
    assert features.shape == (400, 84)
    assert features.dtype == np.float32
    with torch.no_grad():
        seen = learner.model[0](next(iter(learner.dls.valid))[0])
        np.testing.assert_allclose(learner.model[1](torch.from_numpy(features)), logits, rtol=0, atol=1e-5)
    np.testing.assert_allclose(features, seen, rtol=0, atol=1e-6)


def test_a_pass_is_in_evaluation_mode_and_leaves_each_module_in_its_own(small):
    learner = make_learner(Recipe(arch="deep-dropout"), dataloaders(small))
    learner.model.train()
    learner.model[0][0].eval()  # a frozen layer
    modes = [m.training for m in learner.model.modules()]
    assert forward(learner).logits.equal(forward(learner).logits), "without dropout"
    assert [m.training for m in learner.model.modules()] == modes
    assert not learner.model[0][0].training


def test_more_than_one_batch_stays_in_order(mnist):
    data = replace(mnist, train=mnist.train[:32], test=mnist.test[: EVAL_BATCH + 10])
    learner = make_learner(Recipe(arch="deep"), dataloaders(data))
    logits, labels, features = forward(learner, layer="0")
    assert features.shape == (EVAL_BATCH + 10, 100)
    assert labels.equal(data.test.labels)
    last = dataloaders(Data(data.train, data.test[EVAL_BATCH:], data.classes)).valid
    np.testing.assert_allclose(features[EVAL_BATCH:], forward(learner, last, "0").features, rtol=0, atol=1e-6)
    np.testing.assert_allclose(logits[EVAL_BATCH:], forward(learner, last).logits, rtol=0, atol=1e-6)


@pytest.mark.parametrize(("layer", "depth", "width"), [("0.0", 1, 6 * 24 * 24), ("0.3", 4, 16 * 8 * 8)])
def test_any_layer_by_its_name_flattened(learner, layer, depth, width):
    features = forward(learner, layer=layer).features
    assert features.shape == (400, width)
    with torch.no_grad():
        seen = learner.model[0][:depth](next(iter(learner.dls.valid))[0])
    np.testing.assert_allclose(features, seen.flatten(1), rtol=0, atol=1e-6)


def test_what_the_next_layer_writes_in_place_does_not_show(small):
    body = nn.Sequential(nn.Flatten(), nn.Linear(784, 5), nn.ReLU(inplace=True))
    learner = make_learner(Recipe(), dataloaders(small), model=nn.Sequential(body, nn.Linear(5, 10)))
    assert forward(learner, layer="0.1").features.min() < 0 == forward(learner, layer="0").features.min()


@pytest.mark.parametrize("layer", ["0.99", "body", ""])
def test_an_unknown_layer_is_refused_with_those_that_exist(learner, layer):
    with pytest.raises(InputError) as error:
        forward(learner, layer=layer)
    assert_one_sentence(str(error.value))
    assert repr(layer) in str(error.value)
    assert "0, 0.0, 0.1," in str(error.value)


class Unusual(nn.Module):
    """Layers whose output is not one row per image."""

    def __init__(self, classes: int):
        super().__init__()
        self.linear, self.twice, self.unused = nn.Linear(28, classes), nn.Tanh(), nn.Tanh()
        self.lstm, self.steps = nn.LSTM(28, 28), nn.Identity()

    def forward(self, x):
        rows, _ = self.lstm(self.steps(x[:, 0].transpose(0, 1)))  # [28, batch, 28]
        return self.linear(self.twice(self.twice(rows[-1])))


@pytest.mark.parametrize("layer", ["twice", "unused", "lstm", "steps"])
def test_a_layer_without_one_row_per_image_is_refused(small, layer):
    learner = make_learner(Recipe(), dataloaders(small), model=Unusual)
    learner.model.train()
    with pytest.raises(InputError, match=f"layer '{layer}' does not give one row per image") as error:
        forward(learner, layer=layer)
    assert_one_sentence(str(error.value))
    assert hooks(learner.model) == 0
    assert all(m.training for m in learner.model.modules())


def test_no_hook_stays_where_the_pass_fails(learner):
    batches = [(torch.zeros(4, 1, 28, 28), torch.zeros(4)), (torch.zeros(4, 3, 28, 28), torch.zeros(4))]
    with pytest.raises(RuntimeError, match="channels"):
        forward(learner, batches, "0")
    assert hooks(learner.model) == 0


def test_metrics_are_over_all_images_and_per_class():
    logits = torch.tensor([[2.0, 0.0, 0.0], [0.0, 1.0, 0.0], [3.0, 0.0, 0.0]])
    labels = torch.tensor([0, 1, 1])
    result = metrics(logits, labels, ("a", "b", "c"))
    assert (result["images"], result["accuracy"], result["error_rate"]) == (3, 2 / 3, 1 / 3)
    losses = F.cross_entropy(logits, labels, reduction="none")
    assert result["valid_loss"] == pytest.approx(losses.mean().item())
    assert list(result["per_class"]) == ["a", "b", "c"]
    assert result["per_class"]["b"] == {
        "images": 2,
        "accuracy": 0.5,
        "error_rate": 0.5,
        "valid_loss": pytest.approx(losses[1:].mean().item()),
    }
    assert result["per_class"]["c"] == {"images": 0, "accuracy": None, "error_rate": None, "valid_loss": None}
