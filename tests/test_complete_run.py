"""A run is complete in itself: it knows its classes, its data and what was passed, and loads where the data is not."""

import hashlib
import json
import shutil
import threading
from dataclasses import replace
from functools import partial
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from conftest import (
    DEVICES,
    CtrlC,
    assert_one_sentence,
    forget_digests,
    interrupt,
    tree,
    without_seconds,
    write_idx_folder,
)
from fastai.callback.core import Callback, CancelEpochException
from fastai.callback.mixup import CutMix, MixUp
from fastai.callback.progress import CSVLogger
from fastai.callback.schedule import ParamScheduler, SchedCos
from fastai.callback.tracker import (
    EarlyStoppingCallback,
    ReduceLROnPlateau,
    SaveModelCallback,
    TerminateOnNaNCallback,
)
from fastai.callback.training import GradientAccumulation, ShortEpochCallback
from fastai.metrics import accuracy
from fastai.optimizer import Adam, ranger
from torch import nn

from mnist_fastai import Data, InputError, Recipe, Run, Split, fit, load_data, load_run, make_learner, resume
from mnist_fastai.dataloader import dataloaders
from mnist_fastai.errors import MissingData, RunError
from mnist_fastai.learner import find_device
from mnist_fastai.recipes import RECIPES


def quick(**changes) -> Recipe:
    return Recipe(**{"arch": "lenet", "opt": "adam", "num_epochs": 1} | changes)


def refused(call, *args, error=InputError, **kwargs) -> str:
    with pytest.raises(error) as caught:
        call(*args, **kwargs)
    assert_one_sentence(str(caught.value))
    return str(caught.value)


def weights(run: Run) -> str:
    return hashlib.sha256((run.path / "model.safetensors").read_bytes()).hexdigest()


def predict(learner, image) -> str:
    with learner.no_bar():
        return learner.predict(image)[0]


# --- its data -----------------------------------------------------------------------------------------------------


def test_data_that_is_passed_is_not_recorded_as_mnist(small, tmp_path):
    letters = replace(small, classes=tuple("abcdefghij"))
    run = fit(quick(), out=tmp_path / "run", data=letters)
    assert run.recipe.data == "passed to fit"
    assert run.classes == letters.classes
    assert list(run.metrics["per_class"]) == list("abcdefghij")
    learner = load_run(run.path)
    assert tuple(learner.dls.vocab) == letters.classes
    assert predict(learner, small.test.images[0].numpy()) in letters.classes
    assert "data=" in refused(lambda: learner.dls.train, error=MissingData)
    assert load_run(run.path, data=letters).dls.valid.n == len(letters.test)
    assert "0, 1, 2" in refused(load_run, run.path, data=small)


def images_folder(root: Path, split: Split, names) -> Path:
    from PIL import Image

    for part, images in (("training", split[:60]), ("testing", split[60:100])):
        for i, (image, label) in enumerate(zip(images.images.numpy(), images.labels.tolist(), strict=True)):
            folder = root / part / names[label]
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(folder / f"{i}.png")
    return root


def test_a_class_folder_that_is_renamed_does_not_change_the_trained_model(small, tmp_path):
    even = Split(small.train.images, small.train.labels % 2)
    folder = images_folder(tmp_path / "set", even, ["even", "odd"])
    run = fit(quick(data=str(folder), batch_size=8), out=tmp_path / "run")
    before = [predict(load_run(run.path), image) for image in small.test.images[:5].numpy()]
    for part in ("training", "testing"):
        (folder / part / "even").rename(folder / part / "zz-even")
    learner = load_run(run.path)
    assert [predict(learner, image) for image in small.test.images[:5].numpy()] == before
    message = refused(lambda: learner.dls.valid)
    assert "even, odd" in message
    assert "odd, zz-even" in message


def test_reordered_class_names_do_not_change_the_trained_model(small, tmp_path):
    folder = write_idx_folder(tmp_path / "set", small)
    (folder / "classes.txt").write_text("\n".join("abcdefghij"))
    run = fit(quick(data=str(folder)), out=tmp_path / "run")
    (folder / "classes.txt").write_text("\n".join("jihgfedcba"))
    assert run.classes == tuple(load_run(run.path).dls.vocab) == tuple("abcdefghij")
    assert "knows the classes a, b" in refused(lambda: load_run(run.path).dls.valid)


def test_a_run_moved_to_a_machine_without_its_data_predicts_and_takes_data_from_elsewhere(small, tmp_path):
    folder = write_idx_folder(tmp_path / "set", small)
    run = fit(quick(data=str(folder)), out=tmp_path / "run")
    expected = predict(load_run(run.path), small.test.images[0].numpy())
    folder.rename(tmp_path / "moved")
    moved = Run(shutil.copytree(run.path, tmp_path / "elsewhere"))
    learner = load_run(moved.path)
    assert predict(learner, small.test.images[0].numpy()) == expected
    message = refused(lambda: learner.dls.train, error=MissingData)
    assert str(folder) in message
    assert "--data" in message
    assert load_run(moved.path, data=tmp_path / "moved").dls.train.n == len(small.train)


@pytest.mark.parametrize("split", ["train", "t10k"])
def test_images_that_changed_are_refused_by_the_name_of_their_split(small, tmp_path, split):
    folder = write_idx_folder(tmp_path / "set", small)
    run = fit(quick(data=str(folder)), out=tmp_path / "run")
    path = folder / f"{split}-images-idx3-ubyte"
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    message = refused(lambda: load_run(run.path).dls.valid)
    assert f"the {'train' if split == 'train' else 'test'} images of {folder} are not those" in message


def test_a_run_keeps_a_few_of_its_reported_images(run, small):
    with np.load(run.sample) as sample:
        assert np.bincount(sample["labels"]).tolist() == [20] * 10
        rows = {row.tobytes() for row in small.test.images.numpy()}
        assert all(image.tobytes() in rows for image in sample["images"])


def test_there_must_be_something_to_report_on(small, tmp_path):
    refused(fit, quick(), out=tmp_path / "run", data=Data(small.train, Split(), small.classes))
    assert tree(tmp_path) == {}


# --- what chooses -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cb", [EarlyStoppingCallback, SaveModelCallback(monitor="accuracy"), ReduceLROnPlateau()])
def test_a_callback_that_chooses_may_not_see_the_test_images(small, tmp_path, cb):
    message = refused(fit, quick(), out=tmp_path / "run", data=small, cbs=[cb])
    assert "on the test images" in message
    assert "valid_fraction" in message
    assert tree(tmp_path) == {}


def test_early_stopping_on_held_out_images_reports_on_them(small, tmp_path):
    stop = EarlyStoppingCallback("accuracy", min_delta=1.0, patience=2)
    run = fit(quick(num_epochs=9, valid_fraction=0.2), out=tmp_path / "run", data=small, cbs=stop)
    assert len(run.history) == run.metrics["epochs"] == 2 + 1
    assert (run.metrics["split"], run.metrics["images"]) == ("held out", 120)
    assert load_run(run.path, data=small.hold_out(0.2)).dls[2].n == len(small.test)


def test_the_best_epoch_is_what_is_saved_where_a_callback_says_so(small, tmp_path):
    recipe = quick(num_epochs=4, learning_rate=0.02, valid_fraction=0.2)
    run = fit(recipe, out=tmp_path / "run", data=small, cbs=[SaveModelCallback("valid_loss")])
    best = min(run.history, key=lambda row: row["valid_loss"])
    assert run.metrics["accuracy"] == pytest.approx(best["accuracy"], abs=1e-6)


# --- what was passed ----------------------------------------------------------------------------------------------


class Net(nn.Module):
    """Without body and head, and with a `view` that a model in channels_last would refuse."""

    def __init__(self, classes=10):
        super().__init__()
        self.conv, self.linear = nn.Conv2d(1, 4, 5, stride=3), nn.Linear(4 * 8 * 8, classes)

    def forward(self, x):
        return self.linear(self.conv(x).relu().view(len(x), -1))


def test_a_run_says_what_it_needs_and_imports_nothing_unasked(small, tmp_path):
    run = fit(quick(), model=Net, out=tmp_path / "run", data=small)
    assert run.facts["passed"] == {"model": f"{__name__}:Net"}
    message = refused(load_run, run.path)
    assert "Net" in message
    assert "allow_import=True" in message
    for learner in (load_run(run.path, allow_import=True), load_run(run.path, model=Net)):
        assert type(learner.model) is Net


def test_a_model_that_no_other_process_could_find_leaves_learner_pkl_out(small, tmp_path):
    class Local(Net):
        pass

    run = fit(quick(), model=Local, out=tmp_path / "run", data=small)
    assert not (run.path / "learner.pkl").exists()
    assert "give it as model=" in refused(load_run, run.path, allow_import=True)
    assert type(load_run(run.path, model=Local).model) is Local


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (nn.Linear(28, 10), r"makes \[2, 1, 28, 10\]"),
        (lambda classes: nn.Sequential(nn.Flatten(), nn.Linear(784, 5)), r"\[2, 5\] of 2 images, not \[2, 10\]"),
        (lambda classes: nn.Linear(3, 10), "does not take images"),
        (lambda classes: 1 / 0, "ZeroDivisionError"),
        (lambda classes: "net", "makes a str"),
    ],
)
def test_a_model_that_cannot_be_used_is_refused_before_anything_is_written(small, tmp_path, model, message):
    with pytest.raises(InputError, match=message):
        fit(quick(), model=model, out=tmp_path / "run", data=small)
    assert tree(tmp_path) == {}


def test_weight_decay_reaches_an_optimizer_of_ones_own(small):
    for opt_func in (torch.optim.RMSprop, "torch.optim:RMSprop"):
        given = {"opt_func": opt_func} if isinstance(opt_func, type) else {}
        recipe = quick(weight_decay=0.1, **({} if given else {"opt": opt_func}))
        learner = make_learner(recipe, dataloaders(small), **given)
        learner.create_opt()
        assert type(learner.opt.opt) is torch.optim.RMSprop
        assert learner.opt.opt.param_groups[0]["weight_decay"] == 0.1


def test_normalisation_of_ones_own_is_kept_in_the_run(small, tmp_path):
    run = fit(quick(), normalize=(0.2, 0.4), out=tmp_path / "run", data=small)
    assert run.normalize == (0.2, 0.4)
    assert "resume" in refused(resume, cut(tmp_path, small, normalize=(0.2, 0.4)), data=small)
    xb, _ = next(iter(load_run(run.path, data=small).dls.valid))
    assert torch.allclose(torch.Tensor(xb), (small.test.images[:, None] / 255 - 0.2) / 0.4)


def test_history_has_the_metrics_that_were_passed(small, tmp_path):
    def hits(logits, labels):
        return (logits.argmax(1) == labels).float().mean()

    run = fit(quick(), metrics=[hits], out=tmp_path / "run", data=small)
    assert list(run.history[0]) == ["epoch", "train_loss", "valid_loss", "hits", "seconds"]
    assert run.history[0]["hits"] == pytest.approx(run.metrics["accuracy"], abs=1e-6)


def test_a_callback_with_its_own_call_sees_every_event(small, tmp_path):
    class Every(Callback):
        def __call__(self, event_name):
            events.append(event_name)

    events = []
    fit(quick(batch_size=300), cbs=Every(), out=tmp_path / "run", data=small)
    assert events.count("after_batch") == 2 + 1  # of training, and of validation
    assert {"before_fit", "after_loss", "before_step", "after_epoch", "after_fit"} <= set(events)


# --- resumed ------------------------------------------------------------------------------------------------------


def cut(tmp_path, data, name="cut", after=1, **passed) -> Path:
    recipe = quick(num_epochs=passed.pop("num_epochs", 3), valid_fraction=passed.pop("valid_fraction", 0.0))
    with pytest.raises(KeyboardInterrupt):
        fit(recipe, out=tmp_path / name, data=data, console=CtrlC(after), **passed)
    return tmp_path / name


class Average(Callback):
    """An average of the weights, which is state as a tensor, in a list and behind a state_dict."""

    def before_fit(self):
        self.count, self.tensors, self.net, self.log = 0, [], nn.Linear(1, 1), open("/dev/null", "w")  # noqa: SIM115

    def after_batch(self):
        if self.training:
            self.count += 1
            now = self.model[1].bias.detach().clone()
            self.tensors = [0.9 * self.tensors[0] + 0.1 * now] if self.tensors else [now]
            self.net.weight.data += now[0]

    def after_fit(self):
        self.log.close()


def test_the_state_of_a_callback_is_kept(small, tmp_path):
    whole, resumed = Average(), Average()
    fit(quick(num_epochs=3), cbs=whole, out=tmp_path / "whole", data=small)
    resume(cut(tmp_path, small, cbs=Average()), cbs=resumed, data=small)
    assert resumed.count == whole.count == 3 * 19
    assert torch.equal(resumed.tensors[0], whole.tensors[0])
    assert torch.equal(resumed.net.weight, whole.net.weight)


@pytest.mark.parametrize(
    "make",
    [
        lambda: MixUp(0.4),
        lambda: CutMix(),
        lambda: ParamScheduler({"lr": SchedCos(1e-3, 1e-4)}),
        lambda: GradientAccumulation(64),  # which does not divide the 600 images
        lambda: ShortEpochCallback(0.5),  # which cancels the validation
        lambda: CSVLogger(),
        lambda: SaveModelCallback("train_loss"),
    ],
    ids=["mixup", "cutmix", "schedule", "accumulation", "short", "csv", "save"],
)
def test_fastais_callbacks_are_resumed_to_the_same_bits(small, tmp_path, make):
    whole = fit(quick(num_epochs=3), cbs=make(), out=tmp_path / "whole", data=small)
    resumed = resume(cut(tmp_path, small, cbs=make()), cbs=make(), data=small)
    assert weights(resumed) == weights(whole)
    assert len(resumed.history) == len(whole.history) == 3


def test_a_callback_that_ends_a_diverged_training_does_not_finish_the_run(small, tmp_path):
    recipe = quick(arch="deep", opt="sgd", learning_rate=1e6)
    message = refused(fit, recipe, cbs=TerminateOnNaNCallback(), out=tmp_path / "run", data=small, error=RunError)
    assert "--learning-rate" in message
    assert not Run(tmp_path / "run").finished


def test_state_that_cannot_be_kept_is_refused_by_name(small, tmp_path):
    class Box:
        pass

    class Secretive(Callback):
        def before_fit(self):
            self.box = Box()

    path = cut(tmp_path, small, cbs=Secretive())
    before = tree(path)
    message = refused(resume, path, cbs=Secretive(), data=small)
    assert "Secretive has state" in message
    assert "(box)" in message
    assert tree(path) == before


def test_early_stopping_goes_on_waiting(small, tmp_path):
    def stop():
        return EarlyStoppingCallback("accuracy", min_delta=1.0, patience=3)

    whole = fit(quick(num_epochs=9, valid_fraction=0.2), cbs=stop(), out=tmp_path / "whole", data=small)
    path = cut(tmp_path, small, after=2, num_epochs=9, valid_fraction=0.2, cbs=stop())
    resumed = resume(path, cbs=stop(), data=small)
    assert len(resumed.history) == len(whole.history) == 4
    assert weights(resumed) == weights(whole)


def test_a_learning_rate_that_a_callback_changed_stays_changed(small, tmp_path):
    def plateau():
        return ReduceLROnPlateau("accuracy", min_delta=1.0, patience=1, factor=3)

    args = {"num_epochs": 4, "valid_fraction": 0.2}
    whole = fit(quick(**args), cbs=plateau(), out=tmp_path / "whole", data=small)
    resumed = resume(cut(tmp_path, small, after=3, cbs=plateau(), **args), cbs=plateau(), data=small)
    assert weights(resumed) == weights(whole)
    assert without_seconds(resumed.history) == without_seconds(whole.history)


@pytest.mark.parametrize("opt_func", [ranger, torch.optim.NAdam, torch.optim.Adagrad], ids=lambda f: f.__name__)
def test_any_optimizer_is_resumed_to_the_same_bits(small, tmp_path, opt_func):
    whole = fit(quick(num_epochs=3), opt_func=opt_func, out=tmp_path / "whole", data=small)
    resumed = resume(cut(tmp_path, small, after=2, opt_func=opt_func), opt_func=opt_func, data=small)
    assert weights(resumed) == weights(whole)


@pytest.mark.parametrize(
    ("given", "again"),
    [({"cbs": Average}, {}), ({}, {"cbs": Average}), ({"opt_func": torch.optim.NAdam}, {"opt_func": torch.optim.SGD})],
)
def test_what_was_passed_must_be_passed_again(small, tmp_path, given, again):
    path = cut(tmp_path, small, **given)
    before = tree(path)
    assert "pass the same to resume" in refused(resume, path, data=small, **again)
    assert tree(path) == before


def test_other_data_is_refused(small, tmp_path):
    path = cut(tmp_path, small)
    other = replace(small, train=Split(small.train.images.flip(0), small.train.labels))
    assert "train images" in refused(resume, path, data=other)


def test_data_that_moved_is_taken_from_where_it_is(recipe, run, small, tmp_path, cli):
    folder = write_idx_folder(tmp_path / "idx", small)
    path = interrupt(replace(recipe, data=str(folder)), tmp_path / "run", after=1)
    folder.rename(tmp_path / "moved")
    assert "--data" in refused(resume, path)
    assert cli("train", "--resume", path, "--data", tmp_path / "moved", "-q").code == 0
    assert weights(Run(path)) == weights(run)


# --- one at a time, and where -------------------------------------------------------------------------------------


def test_two_trainings_in_one_process_are_refused(small, tmp_path):
    class Another(Callback):
        def before_train(self):
            try:
                fit(quick(), out=tmp_path / "inner", data=small)
            except InputError as e:
                messages.append(str(e))

    messages = []
    alone = fit(quick(), out=tmp_path / "alone", data=small)

    def train():
        fit(quick(), cbs=Another(), out=tmp_path / "outer", data=small)

    thread = threading.Thread(target=train)
    thread.start()
    thread.join()
    assert len(messages) == 1
    assert_one_sentence(messages[0])
    assert not (tmp_path / "inner").exists()
    assert weights(Run(tmp_path / "outer")) == weights(alone)


@pytest.mark.parametrize("name", ["tpu", "cuda:99", "cuda:x", "", "meta"])
def test_a_device_that_is_not_there_is_refused(name):
    assert "device" in refused(find_device, name)


@pytest.mark.parametrize("device", DEVICES)
def test_each_device_trains_resumes_and_predicts(small, tmp_path, device):
    run = fit(quick(num_epochs=3), out=tmp_path / "run", data=small, device=device)
    assert run.history[-1]["train_loss"] < run.history[0]["train_loss"]
    recipe = quick(num_epochs=3)
    with pytest.raises(KeyboardInterrupt):
        fit(recipe, out=tmp_path / "cut", data=small, device=device, console=CtrlC(after=1))
    resumed = resume(tmp_path / "cut", data=small, device=device)
    assert resumed.metrics["accuracy"] == pytest.approx(run.metrics["accuracy"], abs=0.05)
    learner = load_run(run.path, device=device)
    assert next(learner.model.parameters()).device.type == torch.device(device).type
    assert predict(learner, small.test.images[0].numpy()) in small.classes


def test_two_runs_of_the_same_second_have_two_directories(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    runs = [Run.create(Recipe()) for _ in range(3)]
    assert len({run.path for run in runs}) == 3


def test_a_run_of_format_0_knows_its_classes_and_loads(tmp_path, run, recipe):
    """As version 0.1 left it: no run.json, no format number, no sample."""
    old = shutil.copytree(run.path, tmp_path / "old")
    forget_digests(old)
    (old / "run.json").unlink()
    (old / "sample.npz").unlink()
    values = json.loads((old / "recipe.json").read_text())
    del values["format"]
    (old / "recipe.json").write_text(json.dumps(values))
    assert Run(old).classes == run.classes
    learner = load_run(old)
    assert learner.dls.valid.n == run.metrics["images"]
    assert all(v.equal(learner.model.state_dict()[k]) for k, v in load_run(run.path).model.state_dict().items())


def test_every_named_recipe_is_listed(cli):
    code, out, _ = cli("train", "--list")
    assert code == 0
    assert all(name in out for name in RECIPES)


# --- callbacks that cut things short, and other people's parts --------------------------------------------------------


def test_a_callback_that_cuts_the_training_short_leaves_the_numbers_in_their_columns(small, tmp_path):
    short = ShortEpochCallback(pct=0.3, short_valid=False)
    run = fit(quick(), out=tmp_path / "run", data=small, cbs=short)
    (row,) = run.history
    assert row["accuracy"] == pytest.approx(run.metrics["accuracy"], abs=1e-6)
    assert row["error_rate"] == pytest.approx(1 - row["accuracy"], abs=1e-6)
    assert row["valid_loss"] == pytest.approx(run.metrics["valid_loss"], rel=1e-4)


class NoEpochs(Callback):
    def after_batch(self):
        raise CancelEpochException


def test_a_training_whose_epochs_are_all_cancelled_ends(small, tmp_path):
    assert fit(quick(num_epochs=2), out=tmp_path / "run", data=small, cbs=NoEpochs()).finished


def test_killed_after_the_last_epoch_the_callbacks_still_do_what_they_do_at_the_end(small, tmp_path, monkeypatch):
    def given() -> dict:
        return {"data": small, "cbs": SaveModelCallback(monitor="accuracy", comp=np.less)}  # the worst, not the last

    recipe = quick(num_epochs=3, valid_fraction=0.2)
    whole = fit(recipe, out=tmp_path / "whole", **given())
    with monkeypatch.context() as patch:
        patch.setattr("mnist_fastai.train.forward", Mock(side_effect=KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            fit(recipe, out=tmp_path / "cut", **given())
    assert weights(resume(tmp_path / "cut", **given())) == weights(whole)
    assert whole.metrics["accuracy"] < whole.history[-1]["accuracy"]


def test_a_model_that_cannot_be_pickled_ends_without_learner_pkl(small, tmp_path):
    def normed(classes):
        return nn.Sequential(nn.Flatten(), nn.utils.parametrizations.weight_norm(nn.Linear(784, classes)))

    run = fit(quick(), model=normed, out=tmp_path / "run", data=small)
    assert run.finished
    assert not (run.path / "learner.pkl").exists()
    assert load_run(run.path, model=normed).dls.vocab == [*small.classes]


def test_a_last_batch_of_one_image_is_left_out(small, tmp_path):
    def normed(classes):
        return nn.Sequential(nn.Flatten(), nn.Linear(784, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, classes))

    data = Data(small.train[:65], small.test[:501], small.classes)  # and not of one to evaluate
    run = fit(quick(batch_size=32), model=normed, out=tmp_path / "run", data=data)
    assert run.metrics["images"] == len(data.test)
    assert len(load_run(run.path, model=normed, data=data).dls.valid) == 1


@pytest.mark.parametrize(
    "opt_func", [Adam, ranger, partial(torch.optim.SGD, momentum=0.9)], ids=["Adam", "ranger", "partial"]
)
def test_weight_decay_reaches_every_kind_of_optimizer(small, tmp_path, opt_func):
    runs = [
        fit(quick(weight_decay=decay), opt_func=opt_func, out=tmp_path / str(decay), data=small) for decay in (0.0, 0.5)
    ]
    assert weights(runs[0]) != weights(runs[1])


def test_an_optimizer_that_needs_a_closure_is_refused_before_anything_is_written(small, tmp_path):
    assert "LBFGS" in refused(fit, quick(), opt_func=torch.optim.LBFGS, out=tmp_path / "run", data=small)
    assert tree(tmp_path) == {}


def test_a_single_metric_and_no_callbacks_are_taken_as_by_fastai(small, tmp_path):
    run = fit(quick(), out=tmp_path / "run", data=small, metrics=accuracy, cbs=None)
    assert [*run.history[0]] == ["epoch", "train_loss", "valid_loss", "accuracy", "seconds"]


def test_data_that_is_passed_again_is_held_out_again(small, tmp_path):
    run = fit(quick(valid_fraction=0.2), out=tmp_path / "run", data=small)
    learner = load_run(run.path, data=small)
    assert [dl.n for dl in learner.dls.loaders] == [480, 120, 400]


def test_a_folder_is_found_again_from_another_one(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(folder.parent)
    run = fit(quick(num_epochs=0), out=tmp_path / "run", data=load_data(Path(folder.name)))
    monkeypatch.chdir(tmp_path)
    assert load_run(run.path).dls.train.n == 600
