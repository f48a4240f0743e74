"""What leaves the run answers, in a process that knows nothing of the run, as the run's own Learner does."""

import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import safetensors.torch
import torch
from conftest import assert_one_sentence, full_disk, python, tree
from fastai.learner import load_learner
from PIL import Image
from safetensors import safe_open

import mnist_fastai
from mnist_fastai import Run, export_model, fit, load_run
from mnist_fastai.errors import InputError, RunError
from mnist_fastai.evaluate import predict_logits
from mnist_fastai.export import FILES, INT8, WRITERS, Answers, ImageModel, Tie, compare, quantize, to_onnx
from mnist_fastai.models import ARCHS

SCRIPT = """
import json, sys, warnings
import numpy as np
from PIL import Image
from fastai.learner import load_learner

with warnings.catch_warnings(record=True) as caught:
    learner = load_learner(sys.argv[1])
found = {"warnings": [str(w.message) for w in caught], "images_within": len(learner.dls.train_ds)}
for name, given in (
    ("path", "digit.png"),
    ("image", Image.open("digit.png")),
    ("array", np.asarray(Image.open("digit.png"))),
    ("rgb", Image.open("digit.png").convert("RGB")),
):
    try:
        with learner.no_bar():
            label, index, probabilities = learner.predict(given)
        found[name] = [label, int(index), probabilities.tolist()]
    except Exception as e:
        found[name] = repr(e)
json.dump(found, sys.stdout)
"""


@pytest.fixture(scope="module")
def answers(run, small, tmp_path_factory) -> dict:
    """What a plain script in another folder finds, and what the run's Learner answers."""
    folder = tmp_path_factory.mktemp("elsewhere")
    image = small.valid.images[0].numpy()
    Image.fromarray(image).save(folder / "digit.png")
    done = python("-c", SCRIPT, run.path / "learner.pkl", cwd=folder)
    assert done.returncode == 0, done.stderr
    learner = load_run(run.path)
    with learner.no_bar():
        label, index, probabilities = learner.predict(image)
    return json.loads(done.stdout) | {"expected": [label, int(index), probabilities.tolist()]}


@pytest.mark.parametrize("given", ["path", "image", "array", "rgb"])
def test_load_learner_answers_as_the_run_does(answers, given):
    label, index, probabilities = answers["expected"]
    assert answers[given][:2] == [label, index]
    np.testing.assert_allclose(answers[given][2], probabilities, rtol=0, atol=1e-6)


def test_load_learner_warns_of_nothing_but_its_pickle(answers):
    assert [w for w in answers["warnings"] if "pickle" not in w] == []


def test_learner_holds_no_dataset(answers, run):
    assert answers["images_within"] == 0
    beside_the_weights = (run.path / "learner.pkl").stat().st_size - (run.path / "model.safetensors").stat().st_size
    assert beside_the_weights < 100_000  # bytes; the images would be 470,000


def test_learner_names_no_path_of_this_machine(run, folder):
    content = (run.path / "learner.pkl").read_bytes()
    # not sys.prefix: a fastai transform is pickled by value, and with it fastai's own place
    paths = run.path, folder, Path(mnist_fastai.__file__).parent, Path.cwd()
    assert [str(p) for p in paths if str(p).encode() in content] == []


# --- every format -------------------------------------------------------------------------------------------------


@pytest.fixture
def copy(run, tmp_path) -> Run:
    """A copy of the finished run."""
    return Run(shutil.copytree(run.path, tmp_path / "copy"))


@pytest.fixture(scope="module")
def expected(run) -> Answers:
    return Answers(run)


@pytest.fixture(scope="module")
def exported(run, expected, tmp_path_factory) -> dict:
    """Every format of the run, by its name."""
    out = tmp_path_factory.mktemp("exported")
    return {format: export_model(run, format, out, expected) for format in FILES}


def test_every_prediction_was_compared(exported, run):
    images = run.metrics["images"]
    for one in exported.values():
        assert one.images == images
        assert one.ties == ()
        assert one.max_logit_difference < 1e-4
        assert one.bytes == one.path.stat().st_size


def test_a_fresh_process_reads_learner_pkl(exported, run):
    with pytest.warns(UserWarning, match="pickle"):
        learner = load_learner(exported["learner"].path)
    ours = load_run(run.path)
    assert all(v.equal(ours.model.state_dict()[k]) for k, v in learner.model.state_dict().items())


def test_safetensors_and_its_json_are_a_run_that_predicts_the_same(exported, run, expected):
    found = Run(exported["safetensors"].path.parent)
    assert (found.recipe, found.metrics) == (run.recipe, run.metrics)
    assert predict_logits(load_run(found.path))[0].numpy().tobytes() == expected.logits.tobytes()
    with safe_open(exported["safetensors"].path, "np") as f:
        assert sum(f.get_tensor(key).size for key in f.keys()) == run.metrics["parameters"]  # noqa: SIM118 (it is no dict)


def test_torch_export_takes_any_batch(exported, expected):
    about = {"classes": ""}
    model = torch.export.load(exported["torch-export"].path, extra_files=about).module()
    assert json.loads(about["classes"]) == list(expected.classes)
    for n in (0, 1, 7):
        logits, probabilities, features = model(torch.from_numpy(expected.images[:n]))
        assert features.shape == (n, 84)
        np.testing.assert_allclose(logits.detach(), expected.logits[:n], atol=1e-5)
        np.testing.assert_allclose(probabilities.detach().sum(1), np.ones(n), atol=1e-5)


def names_no_path(content: bytes, *paths: Path) -> bool:
    words = ["site-packages", "/tmp/", "/root/", "/home/", *map(str, (*paths, Path.cwd()))]
    return not [word for word in words if word.encode() in content]


@pytest.mark.parametrize("format", ["onnx", "torch-export"])
def test_a_graph_names_no_path_of_this_machine(exported, run, folder, format):
    assert names_no_path(exported[format].path.read_bytes(), run.path, folder)


@pytest.mark.parametrize("format", ["onnx", "torch-export"])
def test_the_same_weights_give_the_same_bytes(exported, run, expected, tmp_path, format):
    assert export_model(run, format, tmp_path, expected).path.read_bytes() == exported[format].path.read_bytes()


# --- ONNX ---------------------------------------------------------------------------------------------------------


def test_onnx_takes_uint8_images_and_is_clean(exported):
    path = exported["onnx"].path
    onnx.checker.check_model(path, full_check=True)
    session = onnxruntime.InferenceSession(path)
    assert [(x.name, x.type, x.shape) for x in session.get_inputs()] == [("images", "tensor(uint8)", ["batch", 28, 28])]
    assert [(x.name, x.type, x.shape) for x in session.get_outputs()] == [
        ("logits", "tensor(float)", ["batch", 10]),
        ("probabilities", "tensor(float)", ["batch", 10]),
        ("features", "tensor(float)", ["batch", 84]),
    ]


def test_onnx_says_what_it_is(exported, run, small, folder):
    found = onnxruntime.InferenceSession(exported["onnx"].path).get_modelmeta().custom_metadata_map
    about = {key: json.loads(value) for key, value in found.items()}
    assert about == {
        "mnist_fastai": mnist_fastai.__version__,
        "classes": list(small.classes),
        "recipe": run.recipe.to_dict() | {"data": folder.name},
        "normalize": [0.5, 0.5],
        "metrics": run.metrics,
    }


@pytest.mark.parametrize("arch", ARCHS)
def test_onnx_answers_as_torch_for_every_architecture_and_batch(arch, small):
    normalize = None if arch == "lenet" else (0.1307, 0.3081)
    torch.manual_seed(0)
    model = ARCHS[arch](classes=7, **({"weights": None} if arch == "alexnet" else {})).eval()
    session = onnxruntime.InferenceSession(to_onnx(ImageModel(model, normalize), {}).SerializeToString())
    mean, std = normalize or (0, 1)
    for n in (0, 1, 3):
        images = small.valid.images[:n]
        logits, probabilities, features = session.run(None, {"images": images.numpy()})
        with torch.no_grad():
            x = (images[:, None] / 255 - mean) / std
            np.testing.assert_allclose(features, model[0](x), atol=1e-5)
            np.testing.assert_allclose(logits, model(x), atol=1e-5)
            np.testing.assert_allclose(probabilities, model(x).softmax(1), atol=1e-5)


# --- what differs is refused, and what is bad input ---------------------------------------------------------------


@pytest.mark.parametrize("format", FILES)
def test_export_refuses_a_model_that_answers_otherwise(copy, recipe, expected, tmp_path, monkeypatch, format):
    other = fit(replace(recipe, num_epochs=0), tmp_path / "other", device="cpu")
    theirs, write = Answers(other), WRITERS[format]
    monkeypatch.setitem(WRITERS, format, lambda run, answers, folder: write(other, theirs, folder))
    before = tree(copy.path)
    with pytest.raises(RunError, match=r"differs from the run on \d+ images") as error:
        export_model(copy, format, tmp_path / "out", expected)
    assert_one_sentence(str(error.value))
    assert f"{FILES[format]} of {copy.path}" in str(error.value)
    assert tree(copy.path) == before
    assert not (tmp_path / "out").exists()


def test_only_a_tie_at_the_precision_of_float32_may_differ():
    classes = "a", "b", "c"
    expected = np.float32([[9, 0, 1], [8, 8 - 2e-5, 0], [8, 8 - 2e-3, 0], [8, 8 - 2e-5, 0], [1, 2, 3]])
    found = np.float32([[9, 0, 1], [8, 8 + 2e-5, 0], [8, 8 + 2e-5, 0], [8, 0, 9], [1, 2, np.nan]])
    assert compare(expected, expected, classes) == ([], ())
    assert compare(expected, found, classes) == ([2, 3, 4], (Tie(1, "a", "b"),))


@pytest.mark.parametrize(
    "spoil",
    [
        lambda path: path.unlink(),
        lambda path: path.write_bytes(path.read_bytes()[:1000]),
        lambda path: path.write_bytes(b"not weights"),
    ],
    ids=["missing", "truncated", "garbage"],
)
def test_damaged_weights_are_refused_by_name(copy, spoil):
    spoil(copy.path / "model.safetensors")
    before = tree(copy.path)
    with pytest.raises((InputError, RunError)) as error:
        export_model(copy)
    assert_one_sentence(str(error.value))
    assert str(copy.path / "model.safetensors") in str(error.value)
    assert tree(copy.path) == before


def test_weights_of_another_architecture_are_refused_by_name(copy, recipe, tmp_path):
    other = fit(replace(recipe, arch="deep", num_epochs=0), tmp_path / "other", device="cpu")
    shutil.copy(other.path / "model.safetensors", copy.path)
    with pytest.raises((InputError, RunError)) as error:
        load_run(copy.path)
    assert_one_sentence(str(error.value))
    assert str(copy.path / "model.safetensors") in str(error.value)


@pytest.mark.parametrize(
    ("format", "limit"),  # bytes: less than the file, and less than the images
    [*((format, 100_000) for format in FILES), ("learner", 270_000), ("onnx", 270_000)],
)
def test_export_on_a_full_disk_keeps_what_was_there(copy, expected, format, limit):
    before = tree(copy.path)
    with full_disk(limit), pytest.raises(RunError) as error:
        export_model(copy, format, answers=expected)
    assert_one_sentence(str(error.value))
    assert tree(copy.path) == before


def test_export_of_an_unfinished_run_says_how_to_go_on(interrupted):
    with pytest.raises(InputError, match="--resume"):
        export_model(Run(interrupted))


def test_an_unknown_format_is_refused_with_those_that_there_are(run):
    with pytest.raises(InputError, match=r"'tflite'.*onnx"):
        export_model(run, "tflite")


def test_export_into_another_run_is_refused(run, expected, recipe, tmp_path):
    other = fit(replace(recipe, num_epochs=0), tmp_path / "other", device="cpu")
    before = tree(other.path)
    with pytest.raises(InputError, match=r"holds another run.*--out") as error:
        export_model(run, "safetensors", other.path, expected)
    assert_one_sentence(str(error.value))
    assert tree(other.path) == before


def test_safetensors_into_the_run_itself_leave_it_as_it_is(copy, expected):
    before = {p: p.stat().st_mtime_ns for p in copy.path.iterdir()}
    assert export_model(copy, "safetensors", answers=expected).path == copy.path / "model.safetensors"
    assert {p: p.stat().st_mtime_ns for p in copy.path.iterdir()} == before


@pytest.mark.parametrize("package", ["onnx", "onnxscript", "onnxruntime"])
def test_a_missing_package_is_named(copy, expected, monkeypatch, package):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(RunError, match=f"pip install {package}`") as error:
        export_model(copy, "onnx", answers=expected)
    assert_one_sentence(str(error.value))


# --- int8 ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def deep(recipe, tmp_path) -> Run:
    return fit(replace(recipe, arch="deep", num_epochs=1), tmp_path / "deep", device="cpu")


def test_int8_is_refused_where_it_costs_accuracy(deep):
    # One feature 10,000 times as large, and its column of the head as much smaller: the same model, whose other
    # features 8 bits cannot tell from zero.
    learner = load_run(deep.path)
    body, head = learner.model
    with torch.no_grad():
        largest = body(learner.dls.valid.one_batch()[0]).mean(0).argmax()
        body[-2].weight[largest] *= 10_000
        body[-2].bias[largest] *= 10_000
        head.weight[:, largest] /= 10_000
    weights = {k: v.contiguous() for k, v in learner.model.state_dict().items()}
    safetensors.torch.save_file(weights, deep.path / "model.safetensors")
    export_model(deep, "onnx")
    before = tree(deep.path)
    with pytest.raises(RunError, match=r"more than 0\.1 points less") as error:
        quantize(deep)
    assert_one_sentence(str(error.value))
    assert str(deep.path) in str(error.value)
    assert tree(deep.path) == before
    assert not (deep.path / INT8).exists()
