"""A layer's output over a whole split is what the layer gives, in order, and leaves no hook behind."""

import numpy as np
import pytest
import torch
from conftest import assert_one_sentence
from torch import nn

from mnist_fastai import Recipe, dataloaders, load_run, make_learner
from mnist_fastai.data import EVAL_BATCH, Data
from mnist_fastai.errors import InputError
from mnist_fastai.features import extract


@pytest.fixture(scope="module")
def learner(run):
    return load_run(run.path)


def hooks(model: nn.Module) -> int:
    return sum(len(m._forward_hooks) for m in model.modules())


def test_the_features_are_what_the_head_sees(learner):
    learner.model.train()  # which extracting ends
    features = extract(learner, learner.dls.valid)
    assert features.shape == (400, 84)
    assert features.dtype == np.float32
    with torch.no_grad():
        seen = learner.model[0](next(iter(learner.dls.valid))[0])
    np.testing.assert_allclose(features, seen, rtol=0, atol=1e-6)
    assert hooks(learner.model) == 0


def test_more_than_one_batch_stays_in_order(mnist):
    data = Data(mnist.train[:32], mnist.valid[: EVAL_BATCH + 10], mnist.classes)
    learner = make_learner(Recipe(arch="deep"), dataloaders(data))
    features = extract(learner, learner.dls.valid)
    assert features.shape == (EVAL_BATCH + 10, 100)
    last = make_learner(Recipe(arch="deep"), dataloaders(Data(data.train, data.valid[EVAL_BATCH:], data.classes)))
    np.testing.assert_allclose(features[EVAL_BATCH:], extract(last, last.dls.valid), rtol=0, atol=1e-6)


@pytest.mark.parametrize(("layer", "depth", "width"), [("0.0", 1, 6 * 24 * 24), ("0.3", 4, 16 * 8 * 8)])
def test_any_layer_by_its_name_made_flat(learner, layer, depth, width):
    features = extract(learner, learner.dls.valid, layer)
    assert features.shape == (400, width)
    with torch.no_grad():
        seen = learner.model[0][:depth](next(iter(learner.dls.valid))[0])
    np.testing.assert_allclose(features, seen.flatten(1), rtol=0, atol=1e-6)


def test_what_the_next_layer_writes_in_place_does_not_show(small):
    learner = make_learner(Recipe(arch="lenet"), dataloaders(small))
    learner.model = nn.Sequential(
        nn.Sequential(nn.Flatten(), nn.Linear(784, 5), nn.ReLU(inplace=True)), nn.Linear(5, 10)
    )
    assert extract(learner, learner.dls.valid, "0.1").min() < 0 == extract(learner, learner.dls.valid).min()


@pytest.mark.parametrize("layer", ["0.99", "body", ""])
def test_an_unknown_layer_is_refused_with_those_there_are(learner, layer):
    with pytest.raises(InputError) as error:
        extract(learner, learner.dls.valid, layer)
    assert_one_sentence(str(error.value))
    assert repr(layer) in str(error.value)
    assert "0, 0.0, 0.1," in str(error.value)


def test_no_hook_stays_where_the_pass_fails(learner):
    class Failing(list):
        dataset = range(8)

    batches = Failing([(torch.zeros(4, 1, 28, 28), None), (torch.zeros(4, 3, 28, 28), None)])
    with pytest.raises(RuntimeError, match="channels"):
        extract(learner, batches)
    assert hooks(learner.model) == 0
