"""The shipped model: what it is, that it is as good as it says, and that scripts and the command line find it."""

import json
from pathlib import Path

import numpy as np
from conftest import python, tree

from mnist_fastai import Run, load_run, pretrained
from mnist_fastai.evaluate import predict_logits
from mnist_fastai.recipes import IMPROVED

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


def test_it_is_the_improved_recipe_with_seed_0():
    assert Run(pretrained()).recipe == IMPROVED
    assert IMPROVED.seed == 0


def test_it_is_as_good_on_the_test_images_as_its_metrics_say(mnist):
    logits, labels = predict_logits(load_run(pretrained(), data=mnist))
    accuracy = (logits.argmax(1) == labels).double().mean().item()
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
    np.save(tmp_path / "images.npy", mnist.valid.images[:50].numpy())
    done = python("-c", SCRIPT, "images.npy", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    labels = [str(label) for label in mnist.valid.labels[:50].tolist()]
    assert json.loads(done.stdout.splitlines()[-1]) == labels


def test_it_holds_no_path_of_the_machine_that_made_it():
    for path in pretrained().rglob("*"):
        content = path.read_bytes()
        assert not any(word in content for word in (b"site-packages", b"/tmp/", b"/root/", b"/home/")), path


def test_export_without_a_run_writes_it_here_and_leaves_the_package_alone(cli):
    before = tree(pretrained())
    code, out, err = cli("export")
    assert (code, err) == (0, "")
    assert out.startswith("learner.pkl: ")
    assert str(pretrained()) in out
    assert list(tree(Path())) == ["learner.pkl"]
    assert tree(pretrained()) == before
