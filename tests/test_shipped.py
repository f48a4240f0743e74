"""The shipped model: what it is, that it is as good as it says, and that scripts and the command line find it."""

import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from conftest import python, tree

from mnist_fastai import RECIPES, Run, forward, load_run, pretrained

SCRIPT = """
import json, sys, warnings
warnings.simplefilter("ignore")
import numpy as np
from fastai.vision.all import *
from mnist_fastai import pretrained
learn = load_learner(pretrained() / "learner.pkl")
images = np.load(sys.argv[1])
with learn.no_bar():
    print(json.dumps([learn.predict(image)[0] for image in images]))
"""

MACHINE = b"site-packages", b"/tmp/", b"/root/", b"/home/"


def test_it_is_the_improved_recipe_with_seed_0():
    assert Run(pretrained()).recipe == RECIPES["improved"]
    assert RECIPES["improved"].seed == 0


def test_it_is_as_good_on_the_test_images_as_its_metrics_say(mnist):
    result = forward(load_run(pretrained(), data=mnist))
    accuracy = (result.logits.argmax(1) == result.labels).double().mean().item()
    metrics = Run(pretrained()).metrics
    assert metrics["accuracy"] >= 0.994
    # another processor may round a tie the other way
    assert abs(accuracy - metrics["accuracy"]) <= 0.0002
    assert metrics["split"] == "test"
    card = (pretrained() / "README.md").read_text()
    assert f"{metrics['accuracy']:.2%}" in card
    for name, found in metrics["per_class"].items():
        assert f"| {name} | {found['images']:,} | {round(found['error_rate'] * found['images'])} |" in card


def test_load_learner_reads_it_from_any_folder(mnist, tmp_path):
    np.save(tmp_path / "images.npy", mnist.test.images[:50].numpy())
    done = python("-c", SCRIPT, "images.npy", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    labels = [str(label) for label in mnist.test.labels[:50].tolist()]
    assert json.loads(done.stdout.splitlines()[-1]) == labels


def test_its_onnx_file_answers_as_its_metrics_say(mnist):
    session = onnxruntime.InferenceSession(pretrained() / "model.onnx")
    batches = mnist.test.images.numpy().reshape(-1, 500, 28, 28)
    found = np.concatenate([session.run(["logits"], {"images": batch})[0].argmax(1) for batch in batches])
    metrics = Run(pretrained()).metrics
    # another processor may round a tie the other way
    assert abs((found == mnist.test.labels.numpy()).mean() - metrics["accuracy"]) <= 0.0002
    about = session.get_modelmeta().custom_metadata_map
    assert json.loads(about["metrics"]) | {"sha256": metrics["sha256"]} == metrics
    assert json.loads(about["recipe"]) == RECIPES["improved"].to_dict()
    assert json.loads(about["normalize"]) == [0.1307, 0.3081]
    assert json.loads(about["classes"]) == list(mnist.classes)


def test_its_int8_file_is_smaller_says_so_and_loses_next_to_nothing(cli, mnist):
    code, out, err = cli("export", "--format", "onnx", "--quantize", "int8", "--json")
    assert (code, err) == (0, "")
    whole, int8 = json.loads(out)
    assert [(one["format"], one["path"]) for one in (whole, int8)] == [
        ("onnx", "model.onnx"),
        ("int8", "model-int8.onnx"),
    ]
    assert int8["bytes"] == Path("model-int8.onnx").stat().st_size < whole["bytes"] / 3
    assert int8["float"]["accuracy"] - int8["accuracy"] <= 0.001
    assert int8["images_per_second"] > 0
    session = onnxruntime.InferenceSession("model-int8.onnx")
    assert [x.type for x in session.get_inputs()] == ["tensor(uint8)"]
    kinds = {node.op_type for node in onnx.load("model-int8.onnx").graph.node}
    assert {"QuantizeLinear", "DequantizeLinear"} <= kinds
    metrics = json.loads(session.get_modelmeta().custom_metadata_map["metrics"])
    assert (metrics["quantized"], metrics["accuracy"]) == ("int8", int8["accuracy"])
    few = mnist.test.images[:500].numpy()
    hits = session.run(["logits"], {"images": few})[0].argmax(1) == mnist.test.labels[:500].numpy()
    assert hits.mean() > 0.99
    content = Path("model-int8.onnx").read_bytes()
    assert not any(word in content for word in MACHINE)


def test_it_holds_no_path_of_the_machine_that_made_it():
    for path in pretrained().rglob("*"):
        content = path.read_bytes()
        assert not any(word in content for word in MACHINE), path


def test_export_without_a_run_writes_it_here_and_leaves_the_package_alone(cli):
    before = tree(pretrained())
    code, out, err = cli("export")
    assert (code, err) == (0, "")
    assert out.startswith("learner.pkl: ")
    assert str(pretrained()) in out
    assert list(tree(Path())) == ["learner.pkl"]
    assert tree(pretrained()) == before
