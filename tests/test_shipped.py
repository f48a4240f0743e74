"""The shipped model: what it is, that it is as good as it says, and that scripts and the command line find it."""

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from conftest import python, tree
from scipy.special import log_softmax

from mnist_fastai import RECIPES, Run, Session, forward, load_run, pretrained
from mnist_fastai.calibration import calibration
from mnist_fastai.errors import InputError

ONNX = pretrained() / "model.onnx"
REPORT = Path(__file__).parent.parent / "results" / "evaluation" / "shipped" / "report.json"

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


RECIPE = replace(RECIPES["reader"], valid_fraction=0.1)


def accuracy(mnist, logits) -> float:
    return float((np.asarray(logits).argmax(1) == mnist.test.labels.numpy()).mean())


def test_it_is_the_reader_with_seed_0_and_a_tenth_held_out():
    assert replace(Run(pretrained()).recipe, name="reader") == RECIPE
    assert RECIPE.seed == 0
    assert Run(pretrained()).metrics["split"] == "held out"


def test_it_is_as_good_on_the_test_images_as_its_card_says(mnist):
    found = accuracy(mnist, forward(load_run(pretrained(), data=mnist)).logits)
    assert found >= 0.995
    (said,) = re.findall(r"([\d.]+)% of the 10,000 MNIST test images", (pretrained() / "README.md").read_text())
    # another processor may round a tie the other way
    assert abs(found - float(said) / 100) <= 0.0002
    report = json.loads(Path(REPORT).read_text())
    assert report["results"][0]["accuracy"] == pytest.approx(float(said) / 100)
    for row in report["results"][0]["per_class"]:
        errors = round(row["error_rate"] * row["images"])
        assert f"| {row['name']} | {row['images']:,} | {errors} |" in (pretrained() / "README.md").read_text()


def test_load_learner_reads_it_from_any_folder(mnist, tmp_path):
    np.save(tmp_path / "images.npy", mnist.test.images[:50].numpy())
    done = python("-c", SCRIPT, "images.npy", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    labels = [str(label) for label in mnist.test.labels[:50].tolist()]
    assert json.loads(done.stdout.splitlines()[-1]) == labels


def outputs(mnist, path: Path = ONNX, n: int = 10_000) -> list[np.ndarray]:
    """Logits, probabilities and novelty of the first test images."""
    session = onnxruntime.InferenceSession(path)
    batches = np.array_split(mnist.test.images.numpy()[:n], n // 500)
    names = ["logits", "probabilities", "novelty"]
    return [np.concatenate(o) for o in zip(*(session.run(names, {"images": b}) for b in batches), strict=True)]


def test_its_onnx_file_answers_as_its_learner_does_and_says_what_it_is(mnist):
    logits, _, _ = outputs(mnist)
    learner = accuracy(mnist, forward(load_run(pretrained(), data=mnist)).logits)
    assert abs(accuracy(mnist, logits) - learner) <= 0.0002
    about = onnxruntime.InferenceSession(pretrained() / "model.onnx").get_modelmeta().custom_metadata_map
    metrics = Run(pretrained()).metrics
    assert json.loads(about["metrics"]) | {"sha256": metrics["sha256"]} == metrics
    assert json.loads(about["recipe"]) == Run(pretrained()).recipe.to_dict()
    assert json.loads(about["normalize"]) == [0.1307, 0.3081]
    assert json.loads(about["classes"]) == list(mnist.classes)


def test_its_probabilities_can_be_trusted_and_its_novelty_tells_digits(mnist):
    logits, probabilities, novelty = outputs(mnist)
    labels = mnist.test.labels.numpy()
    before, after = (calibration(log_softmax(x.astype(float), axis=1), labels) for x in (logits, np.log(probabilities)))
    assert before["ece"] > 0.03
    assert after["ece"] < 0.003
    assert after["nll"] < before["nll"] / 2
    assert 0.002 < (novelty > 1).mean() < 0.01  # the threshold is that of other images
    assert abs(np.median(novelty)) < 0.1
    noise = np.random.default_rng(0).integers(0, 256, (64, 28, 28), np.uint8)
    turned = np.where(np.arange(28) < 14, mnist.test.images[:64].numpy(), 255)  # half covered
    for images in (noise, turned):
        assert (Session().scores(images)[1] > 1).mean() > 0.9


def test_its_int8_file_is_smaller_says_so_and_loses_next_to_nothing(cli, mnist):
    code, out, err = cli("export", "--format", "onnx", "--quantize", "int8", "--json")
    assert (code, err) == (0, "")
    whole, int8 = json.loads(out)
    assert [(one["format"], one["path"]) for one in (whole, int8)] == [
        ("onnx", "model.onnx"),
        ("int8", "model-int8.onnx"),
    ]
    assert int8["bytes"] == Path("model-int8.onnx").stat().st_size < whole["bytes"] * 0.6
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
    assert (outputs(mnist, Path("model-int8.onnx"))[2] > 1).mean() < 0.01
    content = Path("model-int8.onnx").read_bytes()
    assert not any(word in content for word in MACHINE)


def test_it_holds_no_path_of_the_machine_that_made_it():
    for path in filter(Path.is_file, pretrained().parent.rglob("*")):
        content = path.read_bytes()
        assert not any(word in content for word in MACHINE), path


def test_best_ships_as_it_was_trained_and_is_as_good_as_its_card_says(mnist):
    run, card = Run(pretrained("best")), (pretrained("best") / "README.md").read_text()
    assert run.recipe == RECIPES["best"]
    assert f"{run.metrics['accuracy']:.2%} of the 10,000 MNIST test images" in card
    for name, row in run.metrics["per_class"].items():
        assert f"| {name} | {row['images']:,} | {round(row['error_rate'] * row['images'])} |" in card
    few = mnist.test.images[:1000].numpy()
    session = onnxruntime.InferenceSession(run.path / "model.onnx")
    assert np.mean(session.run(["logits"], {"images": few})[0].argmax(1) == run.predictions[:1000]) >= 0.999
    assert sum(path.stat().st_size for path in run.path.iterdir()) < 5e6


def test_another_name_than_of_a_shipped_model_is_refused():
    with pytest.raises(InputError, match="no model 'bets' is shipped; take one of mnist_model, best"):
        pretrained("bets")


def test_export_without_a_run_writes_it_here_and_leaves_the_package_alone(cli):
    before = tree(pretrained())
    code, out, err = cli("export")
    assert (code, err) == (0, "")
    assert out.startswith("learner.pkl: ")
    assert str(pretrained()) in out
    assert list(tree(Path())) == ["learner.pkl"]
    assert tree(pretrained()) == before
