"""What leaves the run answers, in a process that knows nothing of the run, as the run's own Learner does."""

import json
import re
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import get_args, get_type_hints

import numpy as np
import onnx
import onnxruntime
import pytest
import safetensors.torch
import torch
from conftest import assert_one_sentence, forget_digests, full_disk, python, tree, write_idx_folder
from fastai.learner import load_learner
from mnist_fastai.cli.export import export as command
from PIL import Image
from safetensors import safe_open
from torch import nn

import mnist_fastai
from mnist_fastai import InputError, MissingData, Recipe, Run, RunError, fit, forward, load_run, make_learner
from mnist_fastai.exports import FORMATS, Reference, check, export, formats, quantize
from mnist_fastai.exports.formats import ImageModel, to_onnx
from mnist_fastai.exports.int8 import INT8
from mnist_fastai.learner import write_learner
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
    image = small.test.images[0].numpy()
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
def reference(run) -> Reference:
    return Reference(run)


@pytest.fixture(scope="module")
def exported(run, reference, tmp_path_factory) -> dict:
    """Every format of the run, by its name."""
    out = tmp_path_factory.mktemp("exported")
    return {format: export(run, format, out, reference=reference) for format in FORMATS}


def test_every_prediction_is_compared(exported, run):
    images = run.metrics["images"]
    for one in exported.values():
        assert one.images == images
        assert one.split == "test"
        assert one.ties == 0
        assert one.max_logit_difference < 1e-4
        assert one.bytes == one.path.stat().st_size


def test_a_fresh_process_reads_learner_pkl(exported, run):
    with pytest.warns(UserWarning, match="pickle"):
        learner = load_learner(exported["learner"].path)
    ours = load_run(run.path)
    assert all(v.equal(ours.model.state_dict()[k]) for k, v in learner.model.state_dict().items())


def test_safetensors_and_its_json_are_a_run_that_predicts_the_same(exported, run, reference):
    found = Run(exported["safetensors"].path.parent)
    assert (found.recipe, found.metrics) == (run.recipe, run.metrics)
    assert forward(load_run(found.path)).logits.numpy().tobytes() == reference.logits.tobytes()
    with safe_open(exported["safetensors"].path, "np") as f:
        assert sum(f.get_tensor(key).size for key in f.keys()) == run.metrics["parameters"]  # noqa: SIM118 (it is no dict)


def test_torch_export_takes_any_batch(exported, run, reference):
    extra = {"classes": ""}
    model = torch.export.load(exported["torch-export"].path, extra_files=extra).module()
    assert json.loads(extra["classes"]) == list(run.classes)
    for n in (0, 1, 7):
        logits, probabilities, features = model(torch.from_numpy(reference.images[:n]))
        assert features.shape == (n, 84)
        np.testing.assert_allclose(logits.detach(), reference.logits[:n], atol=1e-5)
        np.testing.assert_allclose(probabilities.detach().sum(1), np.ones(n), atol=1e-5)


def names_no_path(content: bytes, *paths: Path) -> bool:
    words = ["site-packages", "/tmp/", "/root/", "/home/", *map(str, (*paths, Path.cwd()))]
    return not [word for word in words if word.encode() in content]


@pytest.mark.parametrize("format", ["onnx", "torch-export"])
def test_a_graph_names_no_path_of_this_machine(exported, run, folder, format):
    assert names_no_path(exported[format].path.read_bytes(), run.path, folder)


@pytest.mark.parametrize("format", ["onnx", "torch-export"])
def test_the_same_weights_give_the_same_bytes(exported, run, reference, tmp_path, format):
    assert export(run, format, tmp_path, reference=reference).path.read_bytes() == exported[format].path.read_bytes()


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
    assert re.fullmatch("[0-9a-f]{64}", found.pop("sha256"))
    about = {key: json.loads(value) for key, value in found.items()}
    assert about == {
        "mnist_fastai": mnist_fastai.__version__,
        "classes": list(small.classes),
        "recipe": run.recipe.to_dict() | {"data": folder.name},
        "normalize": [0.5, 0.5],
        "format": "mnist",
        "metrics": {key: value for key, value in run.metrics.items() if key != "sha256"},
    }


@pytest.mark.parametrize("arch", ARCHS)
def test_onnx_answers_as_torch_for_every_architecture_and_batch(arch, small):
    normalize = None if arch == "lenet" else (0.1307, 0.3081)
    torch.manual_seed(0)
    model = ARCHS[arch](classes=7, **({"weights": None} if arch == "alexnet" else {})).eval()
    session = onnxruntime.InferenceSession(to_onnx(ImageModel(model, normalize), {}))
    mean, std = normalize or (0, 1)
    for n in (0, 1, 3):
        images = small.test.images[:n]
        logits, probabilities, features = session.run(None, {"images": images.numpy()})
        with torch.no_grad():
            x = (images[:, None] / 255 - mean) / std
            np.testing.assert_allclose(features, model[0](x), atol=1e-5)
            np.testing.assert_allclose(logits, model(x), atol=1e-5)
            np.testing.assert_allclose(probabilities, model(x).softmax(1), atol=1e-5)


# --- what differs is refused, and what is bad input ---------------------------------------------------------------


@pytest.mark.parametrize("format", [format for format in FORMATS if format != "safetensors"])
def test_export_refuses_a_model_that_predicts_something_else(copy, recipe, tmp_path, format):
    reference = Reference(copy)
    reference.learner = load_run(fit(replace(recipe, num_epochs=0), out=tmp_path / "other", device="cpu").path)
    before = tree(copy.path)
    with pytest.raises(RunError, match=r"differs from the run on \d+ images") as error:
        export(copy, format, tmp_path / "out", reference=reference)
    assert_one_sentence(str(error.value))
    assert f"{FORMATS[format]} of {copy.path}" in str(error.value)
    assert tree(copy.path) == before
    assert not (tmp_path / "out").exists()


def test_a_copy_with_other_bytes_is_reported(run, reference, tmp_path, monkeypatch):
    monkeypatch.setattr(formats, "write_bytes", lambda path, content: path.write_bytes(content[:-1]))
    with pytest.raises(RunError, match=r"model\.safetensors does not have the bytes") as error:
        export(run, "safetensors", tmp_path / "out", reference=reference)
    assert_one_sentence(str(error.value))


def test_only_a_tie_at_the_precision_of_float32_may_differ():
    expected = np.float32([[9, 0, 1], [8, 8 - 2e-5, 0], [8, 8 - 2e-3, 0], [8, 8 - 2e-5, 0], [1, 2, 3]])
    logits = np.float32([[9, 0, 1], [8, 8 + 2e-5, 0], [8, 8 + 2e-5, 0], [8, 0, 9], [1, 2, np.nan]])
    assert check.compare(expected, expected) == (0, 0)
    assert check.compare(expected, logits) == (3, 1)


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
        export(copy)
    assert_one_sentence(str(error.value))
    assert str(copy.path / "model.safetensors") in str(error.value)
    assert tree(copy.path) == before


def test_weights_of_another_architecture_are_refused_by_name(copy, recipe, tmp_path):
    other = fit(replace(recipe, arch="deep", num_epochs=0), out=tmp_path / "other", device="cpu")
    shutil.copy(other.path / "model.safetensors", copy.path)
    with pytest.raises((InputError, RunError)) as error:
        load_run(copy.path)
    assert_one_sentence(str(error.value))
    assert str(copy.path / "model.safetensors") in str(error.value)


@pytest.mark.parametrize(
    ("format", "limit"),  # bytes: less than the file, and less than the images
    [("learner", 100_000), ("onnx", 100_000), ("torch-export", 100_000), ("learner", 270_000), ("onnx", 270_000)],
)
def test_export_on_a_full_disk_keeps_what_was_there(copy, reference, format, limit):
    before = tree(copy.path)
    with full_disk(limit), pytest.raises(RunError) as error:
        export(copy, format, reference=reference)
    assert_one_sentence(str(error.value))
    assert tree(copy.path) == before


def test_a_copy_on_a_full_disk_is_no_run(run, reference, tmp_path):
    with full_disk(100_000), pytest.raises(RunError) as error:
        export(run, "safetensors", tmp_path / "out", reference=reference)
    assert_one_sentence(str(error.value))
    assert tree(tmp_path / "out") == {}


def test_export_of_an_unfinished_run_says_how_to_go_on(interrupted):
    with pytest.raises(InputError, match="--resume"):
        export(Run(interrupted))


def test_an_unknown_format_is_refused_with_those_that_there_are(run):
    with pytest.raises(InputError, match=r"'tflite'.*onnx"):
        export(run, "tflite")


def test_export_into_another_run_is_refused(run, reference, recipe, tmp_path):
    other = fit(replace(recipe, num_epochs=0), out=tmp_path / "other", device="cpu")
    before = tree(other.path)
    with pytest.raises(InputError, match=r"holds another run.*--out") as error:
        export(run, "safetensors", other.path, reference=reference)
    assert_one_sentence(str(error.value))
    assert tree(other.path) == before


def test_safetensors_into_the_run_itself_leave_it_as_it_is(copy, reference):
    before = {p: p.stat().st_mtime_ns for p in copy.path.iterdir()}
    assert export(copy, "safetensors", reference=reference).path == copy.path / "model.safetensors"
    assert {p: p.stat().st_mtime_ns for p in copy.path.iterdir()} == before


@pytest.mark.parametrize("package", ["onnx", "onnxscript", "onnxruntime"])
def test_a_missing_package_is_named(copy, reference, monkeypatch, package):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(RunError, match=f"pip install {package}`") as error:
        export(copy, "onnx", reference=reference)
    assert_one_sentence(str(error.value))


# --- where the data is, and what the classes are called -----------------------------------------------------------


@pytest.fixture(scope="module")
def moved(small, tmp_path_factory) -> tuple[Run, Path]:
    """A run whose data folder, which names its classes, has moved, and the place where it is now."""
    folder = write_idx_folder(tmp_path_factory.mktemp("data") / "before", small)
    (folder / "classes.txt").write_text("\n".join(NAMES))
    run = fit(Recipe(arch="lenet", opt="adam", num_epochs=1, data=str(folder)), out=folder.with_name("run"))
    return run, folder.rename(folder.with_name("now"))


NAMES = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]


@pytest.mark.parametrize("format", FORMATS)
def test_a_run_without_its_data_is_checked_on_its_sample(moved, tmp_path, format):
    run, _ = moved
    exported = export(run, format, tmp_path)
    assert (exported.split, exported.images) == ("sample", len(np.load(run.sample)["labels"]))
    assert 100 < exported.images < run.metrics["images"]
    assert exported.path.stat().st_size == exported.bytes > 100_000


def test_the_sample_is_compared(moved, tmp_path):
    run, _ = moved
    reference = Reference(run)
    reference.learner = load_run(fit(replace(run.recipe, num_epochs=0), data=full(moved), out=tmp_path / "other").path)
    with pytest.raises(RunError, match=r"differs from the run on \d+ images"):
        export(run, "onnx", tmp_path / "out", reference=reference)


def full(moved):
    return mnist_fastai.load_data(moved[1])


def test_an_export_names_the_classes_as_the_run_does(moved, tmp_path):
    run, _ = moved
    for format in ("learner", "onnx", "torch-export"):
        export(run, format, tmp_path)
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    assert json.loads(session.get_modelmeta().custom_metadata_map["classes"]) == NAMES
    extra = {"classes": ""}
    torch.export.load(tmp_path / "model.pt2", extra_files=extra)
    assert json.loads(extra["classes"]) == NAMES
    with pytest.warns(UserWarning, match="pickle"):
        assert list(load_learner(tmp_path / "learner.pkl").dls.vocab) == NAMES


def test_data_that_has_moved_is_taken_from_where_it_is_now(moved, tmp_path):
    run, folder = moved
    exported = export(run, "onnx", tmp_path, data=folder)
    assert (exported.split, exported.images) == ("test", run.metrics["images"])
    assert export(run, "onnx", tmp_path, data=full(moved)).images == exported.images
    with pytest.raises(InputError, match=r"nowhere.*--data") as error:
        export(run, "onnx", tmp_path, data="nowhere")
    assert_one_sentence(str(error.value))


def test_int8_without_training_images_asks_for_them(moved, tmp_path):
    run, _ = moved
    reference = Reference(run)
    export(run, "onnx", tmp_path, reference=reference)
    with pytest.raises(MissingData, match=r"training images.*--data") as error:
        quantize(run, tmp_path, reference=reference)
    assert_one_sentence(str(error.value))
    assert [p.name for p in tmp_path.iterdir()] == ["model.onnx"]


def reorder_classes(folder: Path) -> None:
    (folder / "classes.txt").write_text("\n".join(reversed(NAMES)))


def change_a_test_image(folder: Path) -> None:
    path = folder / "t10k-images-idx3-ubyte"
    path.write_bytes(path.read_bytes()[:-1] + b"\x07")


def change_a_training_label(folder: Path) -> None:
    path = folder / "train-labels-idx1-ubyte"
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([(content[-1] + 1) % 10]))


@pytest.mark.parametrize("change", [reorder_classes, change_a_test_image, change_a_training_label])
def test_data_that_has_changed_is_refused(moved, tmp_path, change):
    run, folder = moved
    changed = shutil.copytree(folder, tmp_path / "changed")
    export(run, "onnx", tmp_path / "out", data=changed)
    change(changed)
    with pytest.raises(InputError) as error:
        export(run, "onnx", tmp_path / "refused", data=changed)
    assert not isinstance(error.value, MissingData)
    assert_one_sentence(str(error.value))
    assert not (tmp_path / "refused").exists()


@pytest.mark.parametrize("change", [reorder_classes, change_a_test_image])
def test_data_that_has_changed_where_it_was_is_refused_and_no_sample_taken(small, tmp_path, change):
    folder = write_idx_folder(tmp_path / "data", small)
    (folder / "classes.txt").write_text("\n".join(NAMES))
    run = fit(Recipe(arch="lenet", num_epochs=0, data=str(folder)), out=tmp_path / "run", device="cpu")
    change(folder)
    with pytest.raises(InputError, match=r"train anew|knows the classes") as error:
        export(run, "onnx", tmp_path / "out")
    assert not isinstance(error.value, MissingData)
    assert not (tmp_path / "out").exists()


def test_a_renamed_class_folder_renames_no_class(small, tmp_path):
    folder = tmp_path / "data"
    for name, split in (("training", small.train), ("testing", small.test)):
        for i in range(100):
            path = folder / name / small.classes[split.labels[i]] / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(split.images[i].numpy()).save(path)
    run = fit(Recipe(arch="lenet", num_epochs=0, data=str(folder)), out=tmp_path / "run", device="cpu")
    for path in (folder / "training" / "3", folder / "testing" / "3"):
        path.rename(path.with_name("three"))
    with pytest.raises(InputError, match="three"):
        export(run, "onnx")
    folder.rename(tmp_path / "elsewhere")
    path = export(run, "onnx").path
    metadata = onnxruntime.InferenceSession(path).get_modelmeta().custom_metadata_map
    assert json.loads(metadata["classes"]) == list(small.classes)


def test_a_damaged_sample_is_named(moved, tmp_path):
    copy = Run(shutil.copytree(moved[0].path, tmp_path / "copy"))
    for content in (b"not arrays", copy.sample.read_bytes()[:1000]):
        copy.sample.write_bytes(content)
        with pytest.raises(InputError, match=r"sample\.npz is damaged.*--data") as error:
            export(copy)
        assert_one_sentence(str(error.value))


# --- models of the user's own -------------------------------------------------------------------------------------

OWN = """
from torch import nn

class Flat(nn.Sequential):
    def __init__(self, classes=10):
        super().__init__(nn.Flatten(), nn.Linear(784, 30), nn.ReLU(), nn.Linear(30, classes))
"""


@pytest.fixture(scope="module")
def own(small, tmp_path_factory):
    """A run of a model without the body/head seam, whose class is in a module that this process can import."""
    folder = tmp_path_factory.mktemp("own")
    (folder / "flat_module.py").write_text(OWN)
    sys.path.insert(0, str(folder))
    import flat_module

    yield fit(Recipe(num_epochs=1), model=flat_module.Flat, data=small, out=folder / "run", device="cpu"), flat_module
    sys.path.remove(str(folder))
    del sys.modules["flat_module"]


@pytest.mark.parametrize("format", FORMATS)
def test_a_model_without_a_seam_is_exported_without_features(own, small, tmp_path, format):
    run, module = own
    exported = export(run, format, tmp_path, model=module.Flat, data=small)
    assert (exported.split, exported.images) == ("test", len(small.test))
    images = small.test.images[:5].numpy()
    logits = forward(load_run(run.path, model=module.Flat, data=small, device="cpu")).logits[:5].numpy()
    if format == "onnx":
        session = onnxruntime.InferenceSession(exported.path)
        assert [x.name for x in session.get_outputs()] == ["logits", "probabilities"]
        np.testing.assert_allclose(session.run(["logits"], {"images": images})[0], logits, atol=1e-5)
    if format == "torch-export":
        outputs = torch.export.load(exported.path).module()(torch.from_numpy(images))
        assert len(outputs) == 2
        np.testing.assert_allclose(outputs[0].detach(), logits, atol=1e-5)


def test_a_model_of_ones_own_is_imported_only_when_that_is_allowed(own, tmp_path):
    run, _ = own
    with pytest.raises(InputError, match="allow_import") as error:
        export(run, out=tmp_path)
    assert_one_sentence(str(error.value))
    assert export(run, out=tmp_path, allow_import=True).split == "sample"


def test_a_local_class_leaves_only_learner_pkl_out(small, tmp_path):
    class Local(nn.Sequential):
        pass

    model = Local(nn.Flatten(), nn.Linear(784, 10))
    run = fit(Recipe(num_epochs=0), model=model, data=small, out=tmp_path / "run", device="cpu")
    reference = Reference(run, model=model)
    assert export(run, "onnx", reference=reference).split == "sample"
    with pytest.raises(InputError, match="Local") as error:
        export(run, "learner", reference=reference)
    assert_one_sentence(str(error.value))


class DependsOnTheImages(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(784, 10)

    def forward(self, x):
        return self.layer(x.flatten(1)) * (2 if x.sum() > 0 else 1)


@pytest.mark.parametrize("format", ["onnx", "torch-export"])
def test_a_model_that_torch_cannot_export_is_one_sentence(small, tmp_path, format):
    model = DependsOnTheImages()
    run = fit(Recipe(num_epochs=0), model=model, data=small, out=tmp_path / "run", device="cpu")
    before = tree(run.path)
    with pytest.raises(RunError, match=r"model\..* of .*run could not be made") as error:
        export(run, format, model=model)
    assert_one_sentence(str(error.value))
    assert tree(run.path) == before


# --- child processes ----------------------------------------------------------------------------------------------


def test_a_child_process_imports_nothing_from_here(tmp_path, monkeypatch):
    (tmp_path / "show.py").write_text("import json, os, sys; print(json.dumps([sys.path, dict(os.environ)]))")
    monkeypatch.setattr(check, "CHILDREN", tmp_path)
    monkeypatch.delenv("PYTHONPATH", raising=False)
    monkeypatch.syspath_prepend("/own/modules")
    monkeypatch.syspath_prepend("")
    path, environment = json.loads(check.run_child("show.py", tmp_path / "x", what="it"))
    assert not {"", "/own/modules", str(Path.cwd()), str(tmp_path)} & set(path)
    assert environment["ORT_DISABLE_TELEMETRY"] == "1"
    path, _ = json.loads(check.run_child("show.py", tmp_path / "x", what="it", own_code=True))
    assert path[:2] == [str(Path.cwd()), "/own/modules"]


def test_a_child_process_that_takes_too_long_is_one_sentence(run, reference, tmp_path, monkeypatch):
    monkeypatch.setattr(check, "TIMEOUT", 0.01)
    with pytest.raises(RunError, match=r"model\.onnx of .*took more than 0\.01 seconds") as error:
        export(run, "onnx", tmp_path / "out", reference=reference)
    assert_one_sentence(str(error.value))
    assert not (tmp_path / "out").exists()


# --- the command line ---------------------------------------------------------------------------------------------


def sentence(err: str) -> str:
    """The one sentence on stderr."""
    assert re.fullmatch(r"mnist-fa: [^\n]+\n", err)
    assert_one_sentence(err[:-1])
    return err


def test_the_command_offers_every_format():
    assert get_args(get_type_hints(command)["format"]) == (*FORMATS, "all", "hub")


def test_export_takes_the_latest_run_and_writes_to_the_folder_asked_for(cli, run):
    shutil.copytree(run.path, "runs/a")
    shutil.copytree(run.path, "runs/b")
    forget_digests(Path("runs/b"), finished="2020-01-01T00:00:00.000+00:00")
    shutil.copy("runs/a/recipe.json", Path("runs/b/model.safetensors"))  # no weights: it could not be exported
    before = tree(Path("runs"))
    code, out, err = cli("export", "--out", "there/it/is")
    assert (code, err) == (0, "")
    assert out.startswith(str(Path("there/it/is/learner.pkl")))
    assert list(tree(Path("there"))) == ["it", "it/is", "it/is/learner.pkl"]
    assert tree(Path("runs")) == before


@pytest.mark.parametrize(
    ("make", "args", "message"),
    [
        (lambda: Run.create(Recipe(), "runs/a"), ["runs/a"], r"runs/a is not finished.*--resume runs/a"),
        (lambda: None, ["nowhere"], r"nowhere is no run directory"),
        (lambda: Path("folder").mkdir(), ["folder"], r"folder is no run directory"),
        (lambda: Path("file").write_text("x"), ["file"], r"file is no run directory"),
    ],
    ids=["unfinished", "missing", "no-run", "file"],
)
def test_export_of_what_is_no_finished_run_is_refused(cli, make, args, message):
    make()
    before = tree(Path())
    code, out, err = cli("export", *args)
    assert (code, out) == (2, "")
    assert re.search(message, sentence(err))
    assert tree(Path()) == before


def test_export_below_a_file_is_refused(cli, run):
    Path("file").write_text("x")
    code, out, err = cli("export", run.path, "--out", "file/there")
    assert (code, out) == (2, "")
    assert re.search("file/there.*--out", sentence(err))
    assert tree(Path()) == {"file": b"x"}


def test_export_of_all_formats_writes_the_others_where_one_fails(cli, run, monkeypatch):
    untrained = make_learner(run.recipe, load_run(run.path).dls)
    monkeypatch.setattr(formats, "write_learner", lambda learner, path: write_learner(untrained, path))
    code, out, err = cli("export", run.path, "--format", "all", "--out", "there")
    assert code == 1
    assert re.search(r"learner\.pkl of .* differs from the run on \d+ images", sentence(err))
    files = {name for format, name in FORMATS.items() if format != "learner"}
    same = f": predictions match {run.path} on all 400 test images, logits within "
    assert [line.partition(same)[0] for line in out.splitlines()] == [
        str(Path("there", name)) for format, name in FORMATS.items() if format != "learner"
    ]
    assert set(tree(Path("there"))) == files | {"recipe.json", "metrics.json", "run.json", "sample.npz"}


def test_export_counts_ties(cli, run, monkeypatch):
    for name in ("tied", "other"):
        forget_digests(Path(shutil.copytree(run.path, name)))
    tied, other = Run("tied"), Run("other")
    for copy, larger in ((tied, 3), (other, 8)):
        path = copy.path / "model.safetensors"
        weights = safetensors.torch.load_file(path)
        weights["1.weight"][8] = weights["1.weight"][3]
        weights["1.bias"][[3, 8]] = 5
        weights["1.bias"][larger] += 5e-6
        safetensors.torch.save_file(weights, path)
    theirs = load_run(other.path, device="cpu").model
    monkeypatch.setattr(formats, "ImageModel", lambda model, *rest: ImageModel(theirs, *rest))
    ties = int((Reference(tied).logits.argmax(1) == 3).sum())
    assert ties > 5
    code, out, err = cli("export", "tied", "--format", "onnx")
    assert (code, err) == (0, "")
    assert re.search(rf"match tied on all 400 test images, logits within \S+, {ties} ties, not calibrated .*\n", out)
    assert json.loads(cli("export", "tied", "--format", "onnx", "--json").out)[0]["ties"] == ties


def test_export_says_that_it_used_the_sample(cli, moved):
    run, folder = moved
    code, out, err = cli("export", run.path, "--out", "there")
    assert (code, err) == (0, "")
    assert re.search(r"on the \d+ images of its sample \(its data is missing; --data says where it is\)", out)
    code, out, err = cli("export", run.path, "--out", "there", "--data", folder, "--json")
    assert (code, err) == (0, "")
    assert json.loads(out)[0]["split"] == "test"


@pytest.mark.parametrize("format", [[], ["--format", "torch-export"]])
def test_only_onnx_is_quantized(cli, run, format):
    code, out, err = cli("export", run.path, *format, "--quantize", "int8", "--out", "there")
    assert (code, out) == (2, "")
    assert re.search("--quantize .*--format onnx", sentence(err))
    assert tree(Path()) == {}


# --- int8 ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def deep(recipe, tmp_path) -> Run:
    return fit(replace(recipe, arch="deep", num_epochs=1), out=tmp_path / "deep", device="cpu")


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
    forget_digests(deep.path)
    deep = Run(deep.path)
    export(deep, "onnx")
    before = tree(deep.path)
    with pytest.raises(RunError, match=r"more than 0\.1 points less") as error:
        quantize(deep)
    assert_one_sentence(str(error.value))
    assert str(deep.path) in str(error.value)
    assert tree(deep.path) == before
    assert not (deep.path / INT8).exists()
