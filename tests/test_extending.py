"""The examples of docs/extending.md, as a stranger types them: train → resume → export → load_learner → predict."""

import re
from pathlib import Path

import optuna
import pytest
from optuna_integration import FastAIPruningCallback
from zygote import call

from mnist_fastai import Recipe, Run, fit

DOC = (Path(__file__).parent.parent / "docs" / "extending.md").read_text("utf-8")
EXAMPLES = dict(re.findall(r"^## (An? \w+|Data)\n\n```python\n(.*?)```", DOC, re.M | re.S))

# Around each example: few images, Ctrl-C after the first epoch, and what a user does with a run afterwards
HARNESS = """
import mnist_fastai, mnist_fastai.datasets
from pathlib import Path
from mnist_fastai import Data, Run, export, load_run, resume
from mnist_fastai.datasets import load_data
import warnings; warnings.simplefilter("ignore")
full = load_data()
few = Data(full.train[:600], full.test[:100], full.classes, source="mnist")
import mnist_fastai.train as training, mnist_fastai.learner as learning
def read(source="mnist", valid_fraction=0.0):
    return few.hold_out(valid_fraction) if valid_fraction else few
mnist_fastai.datasets.load_data = training.load_data = learning.load_data = read
class CtrlC:
    is_terminal, lines = False, 3
    def print(self, *_, **__):
        CtrlC.lines -= 1
        if not CtrlC.lines:
            raise KeyboardInterrupt
given, real_fit = {}, mnist_fastai.fit
def interrupted_fit(recipe, **kwargs):
    given.update(kwargs)
    whole = real_fit(recipe, out="whole", **kwargs)
    try:
        real_fit(recipe, out="cut", console=CtrlC(), **kwargs)
        raise SystemExit("not interrupted")
    except KeyboardInterrupt:
        pass
    run = resume("cut", **kwargs)
    assert (Path("cut") / "model.safetensors").read_bytes() == (Path("whole") / "model.safetensors").read_bytes()
    strip = lambda rows: [{k: v for k, v in row.items() if k != "seconds"} for row in rows]
    assert strip(run.history) == strip(whole.history), (run.history, whole.history)
    return run
mnist_fastai.fit = interrupted_fit
"""
AFTERWARDS = """
from fastai.learner import load_learner
data = {"data": given["data"]} if "data" in given else {}
model = {"allow_import": True} if "model" in given else {}
image = few.test.images[0].numpy()
expected = load_run(run.path, **model)
with expected.no_bar():
    name, index, probabilities = expected.predict(image)
assert name in run.classes
for format in FORMATS:
    exported = export(Run(run.path), format, "out", **data, **model)
learner = load_learner("out/learner.pkl")
with learner.no_bar():
    found = learner.predict(image)
assert found[0] == name and abs(found[2] - probabilities).max() < 1e-5
if "onnx" in FORMATS:
    import onnxruntime
    session = onnxruntime.InferenceSession("out/model.onnx")
    onnx = session.run(["probabilities"], {"images": image[None]})[0][0]
    assert abs(onnx - probabilities.numpy()).max() < 1e-5
print("done", *run.history[-1])
"""
PASSED_NET = """
import sys
from mynet import Net
from mnist_fastai import Recipe, fit
fit(Recipe(num_epochs=1, data=sys.argv[1]), model=Net, out="passed")
"""


def test_there_is_an_example_for_each_thing():
    assert [*EXAMPLES] == ["A module", "A callback", "An optimizer", "An augmentation", "A metric", "Data"]
    for code in EXAMPLES.values():
        body = [line for line in code.splitlines() if line.strip() and not line.startswith(("from ", "import "))]
        assert len(body) <= 5


@pytest.fixture
def work(tmp_path) -> Path:
    """Where zygote's calls of `tmp_path` are."""
    (tmp_path / "work").mkdir()
    return tmp_path / "work"


@pytest.mark.parametrize("name", EXAMPLES)
def test_example(work, tmp_path, name):
    code = EXAMPLES[name]
    if name == "A module":  # a module in a file of its own, as the page says
        head, _, rest = code.partition("class Net")
        body, _, fitted = rest.partition("\n\nrun")
        (work / "mynet.py").write_text(f"from torch import nn\n\nclass Net{body}\n")
        code = f"{head}from mynet import Net\nrun{fitted}"
    formats = ("learner", "onnx", "torch-export", "safetensors") if name in ("A module", "Data") else ("learner",)
    (work / "example.py").write_text(f"{HARNESS}{code}FORMATS = {formats}{AFTERWARDS}")
    done = call(tmp_path, script="example.py")
    assert done.code == 0, done.err
    assert "done epoch train_loss valid_loss" in done.out
    assert ("f1_score" in done.out) == (name == "A metric")


def test_names_on_the_command_line_are_found_in_the_current_folder(work, tmp_path, folder):
    net = "class Net" + EXAMPLES["A module"].partition("class Net")[2].partition("\n\nrun")[0]
    noise = "def noise" + EXAMPLES["An augmentation"].partition("def noise")[2].partition("\n\nrun")[0]
    (work / "mynet.py").write_text(f"import torch\nfrom torch import nn\n\n{net}\n\n{noise}\n")
    own = ["--arch", "mynet:Net", "--opt", "torch.optim:NAdam", "--augment", "mynet:noise"]

    done = call(tmp_path, "train", *own, "-n", "1", "-d", folder, "--out", "run", "-q")
    assert done.code == 0, done.err
    refused = call(tmp_path, "export", "run", "--format", "onnx")
    assert refused.code == 2
    assert "run needs mynet:Net, which is code; give --allow-import" in refused.err
    (work / "passed.py").write_text(PASSED_NET)  # and of a module that was passed to fit
    call(tmp_path, folder, script="passed.py")
    for run, format in (("run", "onnx"), ("passed", "learner")):
        done = call(tmp_path, "export", run, "--format", format, "--allow-import")
        assert done.code == 0, done.err
    done = call(tmp_path, "tsne", "passed", "--allow-import", "--layer", "1", "--iterations", "20", "-q")
    assert done.code == 0, done.err


def test_a_trial_that_optuna_prunes_leaves_an_unfinished_run(small, tmp_path):
    def objective(trial: optuna.Trial) -> float:
        recipe = Recipe(arch="lenet", num_epochs=2, valid_fraction=0.2)
        fit(recipe, data=small, cbs=FastAIPruningCallback(trial, monitor="accuracy"), out=tmp_path / "run")
        raise AssertionError("not pruned")

    study = optuna.create_study(direction="maximize", pruner=optuna.pruners.ThresholdPruner(lower=1.0))
    study.optimize(objective, n_trials=1)
    assert study.trials[0].state == optuna.trial.TrialState.PRUNED
    run = Run(tmp_path / "run")
    assert not run.finished
    assert len(run.history) == len(study.trials[0].intermediate_values) == 1
