"""The folder for the Hugging Face Hub: huggingface_hub itself loads it offline, and its card has what the Hub reads."""

import io
import json
import pickle
import pickletools
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
from conftest import assert_one_sentence, python, same_weights, tree
from fastai.learner import load_learner
from huggingface_hub import ModelCard, from_pretrained_fastai
from zygote import call

from mnist_fastai import Data, InputError, Recipe, Run, ensemble, fit, forward, load_run, pretrained
from mnist_fastai.exports import Reference, export_hub, hub

LOAD = """
import json, socket, sys
import numpy as np
def refuse(*_, **__):
    raise OSError("no network")
socket.socket.connect = socket.getaddrinfo = refuse
from huggingface_hub import from_pretrained_fastai
learner = from_pretrained_fastai(sys.argv[1])
with learner.no_bar():
    name, index, probabilities = learner.predict(np.load(sys.argv[2]))
print(json.dumps([name, int(index), probabilities.tolist()]))
"""


@pytest.fixture(scope="module")
def exported(run, tmp_path_factory) -> Path:
    """The hub folder of the run, as the command makes it. To read only."""
    folder = tmp_path_factory.mktemp("hub")
    done = call(folder, "export", run.path, "--format", "hub", "--out", "hub")
    assert done.code == 0, done.err
    assert done.out.count("predictions match") == 2
    return folder / "work" / "hub"


def test_huggingface_hub_loads_the_folder_offline(exported, run, small, tmp_path):
    image = small.test.images[0].numpy()
    np.save(tmp_path / "image.npy", image)
    # huggingface_hub takes a folder under a name of one or two parts alone
    done = python("-W", "ignore", "-c", LOAD, exported.name, tmp_path / "image.npy", cwd=exported.parent)
    assert (done.returncode, done.stderr) == (0, "")  # on stderr, it warns of a pyproject.toml that lacks versions
    learner = load_run(run.path)
    with learner.no_bar():
        name, index, probabilities = learner.predict(image)
    found = json.loads(done.stdout)
    assert found[:2] == [name, int(index)]
    np.testing.assert_allclose(found[2], probabilities, atol=1e-6)


def test_huggingface_hub_compares_the_versions_in_pyproject(exported, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    copy = Path(shutil.copytree(exported, tmp_path / "copy"))
    text = (copy / "pyproject.toml").read_text()
    (copy / "pyproject.toml").write_text(text.replace("fastai>=2.8", "fastai>=2.3", 1))
    with pytest.raises(ImportError, match=r"uses 2\.3"):
        from_pretrained_fastai("copy")


def test_the_card_has_the_metadata_and_results_of_the_run(exported, run, folder):
    card = ModelCard.load(exported / "README.md")
    data = card.data.to_dict()
    assert (data["license"], data["library_name"], data["pipeline_tag"]) == (
        "unknown",
        "fastai",
        "image-classification",
    )
    assert "datasets" not in data  # it is no data set of the Hub
    assert data["metrics"] == ["accuracy"]
    accuracy, loss = card.data.eval_results
    assert (accuracy.metric_type, accuracy.metric_value) == ("accuracy", run.metrics["accuracy"])
    assert loss.metric_value == pytest.approx(run.metrics["valid_loss"], abs=1e-6)
    assert (accuracy.dataset_name, accuracy.dataset_split) == (folder.name, "test")
    assert f"**{run.metrics['accuracy']:.2%}** of the 400 test images" in card.text
    assert f"| 7 | {run.metrics['per_class']['7']['images']} |" in card.text


def test_over_mnists_test_images_the_card_has_corrected_labels_too(mnist, tmp_path, monkeypatch):
    data = Data(mnist.train[:600], mnist.test, mnist.classes, source="mnist")
    run = fit(Recipe(arch="lenet", num_epochs=0), out=tmp_path / "run", data=data.hold_out(0.1), device="cpu")
    monkeypatch.setattr(hub, "FILES", {})  # the card alone
    reference = Reference(run, data=data.hold_out(0.1))
    assert reference.split == "held out"
    export_hub(run, reference=reference)
    card = ModelCard.load(run.path / "hub" / "README.md")
    assert (card.data.license, card.data.datasets) == ("apache-2.0", ["ylecun/mnist"])
    given, _, corrected = card.data.eval_results
    assert {r.dataset_split for r in card.data.eval_results} == {"test"}
    predictions = forward(load_run(run.path, data=data)).logits.argmax(1).numpy()
    labels, rows = mnist.test.labels.numpy().copy(), np.setdiff1d(np.arange(10_000), [2130, 2654, 3520, 8527, 9679])
    assert given.metric_value == (predictions == labels).mean()
    labels[[947, 1621, 1901, 2462, 2597, 3558, 5937, 6651, 6783, 9729]] = [
        9,
        6,
        4,
        0,
        3,
        0,
        3,
        6,
        6,
        6,
    ]  # labelerrors.com
    assert corrected.metric_value == pytest.approx((predictions == labels)[rows].mean(), abs=1e-6)
    assert corrected.metric_name == "accuracy, labels in doubt corrected (9,995 images)"


def test_no_image_and_no_path_is_in_the_folder(exported, run, folder):
    files = {p.name for p in exported.iterdir()}
    texts = {"README.md", "pyproject.toml", "recipe.json", "run.json", "metrics.json"}
    assert files == {"model.pkl", "model.safetensors", "model.onnx"} | texts
    for path in exported.iterdir():
        content = path.read_bytes()
        assert not [p for p in (run.path, folder, Path.cwd()) if str(p).encode() in content], path
    assert Run(exported).facts["source"] == f"./{folder.name}"
    recipe = json.loads((exported / "recipe.json").read_text("utf-8"))
    assert recipe["data"] == f"./{folder.name}"  # which names no data set, whatever the folder's name


def test_an_ensemble_names_no_path_of_its_members(run, folder, tmp_path, monkeypatch):
    both = ensemble([run.path, shutil.copytree(run.path, tmp_path / "copy")], tmp_path / "both", device="cpu")
    monkeypatch.setattr(hub, "FILES", {})
    export_hub(both)
    for path in (both.path / "hub").iterdir():
        assert str(folder).encode() not in path.read_bytes()
    assert "This model needs" not in (both.path / "hub" / "README.md").read_text()
    weights = load_run(both.path / "hub").model.state_dict()
    assert all(v.equal(weights[k]) for k, v in load_run(both.path).model.state_dict().items())


def test_the_folder_is_a_run_directory(exported, run):
    assert same_weights(exported, run.path)
    assert Run(exported).metrics["accuracy"] == run.metrics["accuracy"]
    weights = load_run(exported).model.state_dict()
    assert all(v.equal(weights[k]) for k, v in load_run(run.path).model.state_dict().items())


def test_a_card_that_was_edited_and_another_runs_folder_are_left_alone(exported, run, tmp_path):
    copy = Path(shutil.copytree(exported, tmp_path / "work" / "hub"))
    before = tree(copy)
    assert call(tmp_path, "export", run.path, "--format", "hub", "--out", "hub").code == 0
    assert tree(copy) == before
    (copy / "README.md").write_text("My own words.")
    before = tree(copy)
    done = call(tmp_path, "export", run.path, "--format", "hub", "--out", "hub")
    assert done.code == 2
    assert "README.md has other content" in done.err
    assert_one_sentence(done.err.strip())
    assert tree(copy) == before
    before = tree(pretrained())
    with pytest.raises(InputError, match="other content"):
        export_hub(run, pretrained(), reference=Reference(run))
    assert tree(pretrained()) == before


# --- pickles that every operating system loads ----------------------------------------------------------------------


@pytest.fixture(params=["learner.pkl", "model.pkl", "shipped"])
def pickled(request, run, exported) -> Path:
    return {
        "learner.pkl": run.path / "learner.pkl",
        "model.pkl": exported / "model.pkl",
        "shipped": pretrained() / "learner.pkl",
    }[request.param]


def test_a_learner_names_no_class_of_this_operating_system(pickled):
    with zipfile.ZipFile(pickled) as z:
        (name,) = (n for n in z.namelist() if n.endswith("/data.pkl"))
        named = {arg for op, arg, _ in pickletools.genops(z.read(name)) if op.name == "GLOBAL"}
    assert "pathlib Path" in named
    assert not [n for n in named if "Posix" in n or "Windows" in n or n.startswith("posix")]


class OtherSystem:
    """A `pickle_module` on whose system there are no POSIX paths."""

    class Unpickler(pickle.Unpickler):
        def find_class(self, module, name):
            if name == "PosixPath":
                raise NotImplementedError("cannot instantiate 'PosixPath' on your system")
            return super().find_class(module, name)

    load = pickle.load


@pytest.mark.filterwarnings("ignore:load_learner")
def test_a_learner_loads_where_there_are_no_posix_paths(pickled):
    learner = load_learner(pickled, pickle_module=OtherSystem)
    assert learner.path == Path(".")
    assert learner.dls.path == Path(".")
    with pytest.raises(NotImplementedError):
        OtherSystem.Unpickler(io.BytesIO(pickle.dumps(Path(".")))).load()
