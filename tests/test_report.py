"""`mnist-fa evaluate` and `evaluate`: numbers against scikit-learn's, files, comparisons, and what is refused."""

import csv
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import assert_one_sentence, tree, write_idx_folder
from fastai.callback.mixup import MixUp
from fastai.interpret import ClassificationInterpretation
from PIL import Image
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

from mnist_fastai import Classifier, Data, Split, evaluate, export, fit, load_run, pretrained, report
from mnist_fastai.datasets.doubtful import CORRECTED, LEFT_OUT


@pytest.fixture(scope="module")
def seeds(recipe, tmp_path_factory):
    """Two runs of one epoch of each of two recipes, which differ in their seeds. To read only."""
    folder = tmp_path_factory.mktemp("seeds")
    recipes = [replace(recipe, num_epochs=1, opt=opt, seed=seed) for opt in ("adam", "sgd") for seed in (0, 1)]
    return [fit(r, out=folder / f"{r.opt}-{r.seed}", device="cpu") for r in recipes]


def shown(monkeypatch) -> dict:
    """What the page gets, filled when it is written."""
    page = {}
    monkeypatch.setattr(report, "write_page", lambda _, __, given, ___: page.update(pictures=given))
    return page


def read_csv(path) -> list[dict]:
    with open(path, newline="", encoding="utf-8") as f:
        return list(csv.DictReader(f))


def test_the_numbers_are_the_runs_and_scikit_learns(cli, run, small):
    code, out, err = cli("evaluate", run.path, "--out", "out", "--json")
    assert code == 0, err
    values = json.loads(out)
    assert values == json.loads(Path("out/report.json").read_text("utf-8"))
    (result,) = values["results"]
    labels, predictions = small.test.labels.numpy(), run.predictions
    rows = read_csv(f"out/{values['sets'][0]['name']}.csv")
    assert [int(r["index"]) for r in rows] == [*range(len(labels))]
    assert [int(r["label"]) for r in rows] == labels.tolist()
    assert [int(r["prediction"]) for r in rows] == predictions.tolist()
    assert {r["model"] for r in rows} == {f"{run.recipe.name}, seed 0"}

    assert result["accuracy"] == run.metrics["accuracy"]
    assert result["low"] < result["accuracy"] < result["high"]
    assert result["corrected"] is None  # these are not MNIST's test images, only the first of them
    assert result["confusion"] == confusion_matrix(labels, predictions, labels=range(10)).tolist()
    precision, recall, f1, images = precision_recall_fscore_support(labels, predictions, labels=range(10))
    for i, scores in enumerate(result["per_class"]):
        assert scores["images"] == images[i]
        got = [scores["precision"], scores["recall"], scores["f1"], 1 - scores["error_rate"]]
        assert got == pytest.approx([precision[i], recall[i], f1[i], recall[i]])
    before = result["calibration"]["before"]
    assert before["nll"] == pytest.approx(run.metrics["valid_loss"], rel=1e-5)
    mean_log = -np.mean([np.log(float(r["label_probability"])) for r in rows])
    assert before["nll"] == pytest.approx(mean_log, rel=1e-4)
    assert sum(b["images"] for b in before["bins"]) == len(labels)
    last = {"coverage": 1, "threshold": min(float(r["probability"]) for r in rows), "accuracy": result["accuracy"]}
    assert result["coverage"][-1] == pytest.approx(last, abs=1e-6)


def test_mnists_test_labels_count_as_given_and_corrected(run, mnist, monkeypatch, tmp_path):
    page = shown(monkeypatch)
    given, corrected = (
        evaluate(run, data="mnist", labels=kind, out=tmp_path / kind) for kind in ("given", "corrected")
    )
    predictions = np.array([int(r["prediction"]) for r in read_csv(tmp_path / "given" / "mnist.csv")])
    labels = mnist.test.labels.numpy().copy()
    assert given.results[0].accuracy == (predictions == labels).mean()
    for i, label in CORRECTED.items():
        assert labels[i] != label
        labels[i] = label
    kept = np.setdiff1d(np.arange(10_000), LEFT_OUT)
    right = (predictions == labels)[kept]
    assert (given.results[0].corrected.images, given.results[0].corrected.correct) == (9995, right.sum())
    assert (corrected.results[0].images, corrected.results[0].correct) == (9995, right.sum())
    assert corrected.results[0].corrected is None
    assert (given.sets[0].labels, corrected.sets[0].labels) == ("given", "corrected")
    rows = read_csv(tmp_path / "corrected" / "mnist.csv")
    assert [int(r["index"]) for r in rows] == kept.tolist()
    written = {int(r["index"]): int(r["label"]) for r in rows}
    assert {i: written[i] for i in CORRECTED} == CORRECTED

    (pictures,) = page["pictures"]
    np.testing.assert_array_equal(pictures.images, mnist.test.images.numpy()[kept])
    np.testing.assert_array_equal(pictures.index, kept)
    assert [*pictures.nearest[0]] == np.flatnonzero(~right)[: report.NEAREST].tolist()


def test_corrected_labels_are_the_classes_of_the_model(recipe, small, tmp_path):
    """The model has other classes before its digits, as those of a folder of symbols come."""
    train, test = (Split(split.images, split.labels + 2) for split in (small.train, small.test))
    data = Data(train, test, ("+", "-", *small.classes))
    run = fit(replace(recipe, num_epochs=1), data=data, out=tmp_path / "run", device="cpu")
    given, corrected = (evaluate(run, data="mnist", labels=kind).results[0] for kind in ("given", "corrected"))
    assert given.accuracy > 0.5
    assert given.corrected.accuracy == corrected.accuracy == pytest.approx(given.accuracy, abs=0.0015)
    assert np.argmax(corrected.confusion[2]) == 2  # the digit 0


def test_images_of_another_framing_are_brought_into_the_models_format(small, tmp_path):
    for i, image in enumerate(small.test.images[:20].numpy()):
        small_in_a_corner = Image.new("L", (28, 28))
        small_in_a_corner.paste(Image.fromarray(image).resize((14, 14), Image.Resampling.BOX))
        (tmp_path / "own" / str(int(small.test.labels[i]))).mkdir(parents=True, exist_ok=True)
        small_in_a_corner.save(tmp_path / "own" / str(int(small.test.labels[i])) / f"{i}.png")
    model = pretrained() / "model.onnx"
    evaluation = evaluate(model, data=tmp_path / "own")
    right = sum(
        Classifier(model).predict([file])[0] == int(file.parent.name) for file in (tmp_path / "own").rglob("*.png")
    )
    assert evaluation.results[0].correct == right >= 19
    assert "brought into MNIST's format" in evaluation.sets[0].note


def test_an_onnx_model_is_evaluated_as_its_run_is(run, folder, tmp_path):
    export(run, "onnx", tmp_path)
    evaluation = evaluate([run, tmp_path / "model.onnx"], data=folder)
    a, b = evaluation.results
    assert a.confusion == b.confusion
    assert a.calibration["before"]["nll"] == pytest.approx(b.calibration["before"]["nll"], rel=1e-4)
    (comparison,) = evaluation.comparisons
    assert (comparison["test"], comparison["difference"], comparison["p"]) == ("McNemar", 0, 1)
    assert comparison["verdict"] == "not resolved"


def test_models_are_compared_image_by_image_and_groups_of_seeds_by_their_means(seeds, folder, capsys):
    evaluation = evaluate(seeds)
    assert [r.accuracy for r in evaluation.results] == [run.metrics["accuracy"] for run in seeds]
    accuracy = [r.accuracy for r in evaluation.results]
    assert [(g["models"], g["mean"]) for g in evaluation.groups] == [
        ([0, 1], pytest.approx(np.mean(accuracy[:2]))),
        ([2, 3], pytest.approx(np.mean(accuracy[2:]))),
    ]
    assert evaluation.groups[0]["std"] == pytest.approx(np.std(accuracy[:2], ddof=1))
    (welch,) = evaluation.comparisons
    assert welch["test"] == "Welch"
    assert welch["difference"] == pytest.approx(np.mean(accuracy[2:]) - np.mean(accuracy[:2]))

    evaluation = evaluate(seeds[1:])  # one run without another seed of it
    assert [(c["test"], c["a"] == evaluation.models[0]["name"]) for c in evaluation.comparisons] == 2 * [
        ("McNemar", True)
    ]
    right = [run.predictions for run in seeds[1:]]
    labels = load_run(seeds[0].path).dls.valid.tensors[1].numpy()
    assert evaluation.comparisons[0]["only_a"] == ((right[0] == labels) & (right[1] != labels)).sum()
    assert all(c["p_holm"] >= c["p"] for c in evaluation.comparisons)


def test_runs_that_differ_in_what_was_passed_or_in_nothing_are_no_seeds_of_one_recipe(recipe, small, tmp_path):
    quick = replace(recipe, num_epochs=1)
    a, b, again = (
        fit(quick, data=small, out=tmp_path / name, device="cpu", cbs=cbs)
        for name, cbs in (("a", ()), ("b", MixUp()), ("again", ()))
    )
    for pair in ([a, b], [a, again]):
        evaluation = evaluate(pair, data=small)
        assert evaluation.groups == []
        assert [c["test"] for c in evaluation.comparisons] == ["McNemar"]


def test_the_nearest_training_image_of_one_that_was_trained_on_is_itself(run, small, monkeypatch, tmp_path):
    page = shown(monkeypatch)
    few = small.train[:50]
    wrong = Data(few, Split(few.images, (few.labels + 1) % 10), small.classes)
    evaluate(run, data=wrong, out=tmp_path / "out")
    (pictures,) = page["pictures"]
    assert len(pictures.nearest[0]) > 40
    for row, (image, label) in pictures.nearest[0].items():
        np.testing.assert_array_equal(image, few.images[row])
        assert label == few.labels[row]


def test_corrupted_sets_share_the_page_and_their_errors_come_first(run, small, monkeypatch, tmp_path):
    page = shown(monkeypatch)
    kinds = {name: report.CORRUPTIONS[name] for name in ("stripe", "translate")}
    monkeypatch.setattr(report, "CORRUPTIONS", kinds)
    monkeypatch.setattr(report, "SHOWN", 3_000)
    evaluation = evaluate(run, data=["mnist", "mnist-c"], out=tmp_path / "out")
    assert [s.name for s in evaluation.sets] == ["mnist", "mnist-c-stripe", "mnist-c-translate"]
    twice = evaluate(run, data=[small, small])
    assert len({s.name for s in twice.sets}) == 2  # and so two CSV files
    assert "remade" in evaluation.sets[1].note
    assert (tmp_path / "out" / "mnist-c-stripe.csv").exists()
    for s, pictures in enumerate(page["pictures"]):
        wrong = pictures.probabilities[0].argmax(1) != pictures.labels
        assert len(pictures.index) == 1_000
        assert (np.diff(pictures.index) > 0).all()
        assert wrong.sum() >= min(evaluation.results[s].images - evaluation.results[s].correct, 666)
    assert evaluation.results[1].corrected.images == 9995
    assert evaluation.results[1].accuracy < evaluation.results[0].accuracy  # outer columns inverted
    assert sum(len(p.nearest[0]) for p in page["pictures"]) == report.NEAREST


def test_a_folder_without_splits_is_evaluated_whole_and_a_class_without_images_is_said(cli, run, small):

    for i in range(30):
        label = int(small.test.labels[i])
        if label != 7:
            (Path("own") / str(label)).mkdir(parents=True, exist_ok=True)
            Image.fromarray(small.test.images[i].numpy()).save(f"own/{label}/{i}.png")
    code, out, err = cli("evaluate", run.path, "--data", "own", "--json")
    assert code == 0, err
    values = json.loads(out)
    assert values["sets"][0]["images"] == sum(small.test.labels[:30] != 7)
    assert values["sets"][0]["split"] == "all"
    assert "7" in values["sets"][0]["note"]
    assert values["results"][0]["per_class"][7]["error_rate"] is None
    assert (run.path / "evaluation" / "report.html").exists()
    shutil.rmtree(run.path / "evaluation")


def test_fail_under_says_what_fell_short_after_the_report_is_written(cli, run):
    assert cli("evaluate", run.path, "--out", "fine", "--fail-under", "0.1", "-q").code == 0
    code, out, err = cli("evaluate", run.path, "--out", "short", "--fail-under", "0.9999", "--quiet", "--json")
    assert code == 1
    assert json.loads(out)["results"]
    assert_one_sentence(err[:-1])
    assert "below --fail-under 0.9999" in err
    assert tree(Path("short")).keys() == tree(Path("fine")).keys()


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["nowhere"], "no run directory"),
        (["RUN", "--data", "nowhere"], "no folder nowhere"),
        (["RUN", "--data", "empty"], "empty"),
        (["RUN", "--data", "letters"], "does not know the class a"),
        (["RUN", "--data", "unlabelled"], "label"),
        (["RUN", "--data", "none"], "none"),
        (["RUN", "letters-run"], "other classes"),
        (["RUN", "RUN"], "named twice"),
        (["photo.onnx"], "not a model of this package"),
        (["damaged.onnx"], "no ONNX model"),
        (["RUN", "--out", "photo.onnx"], "is a file"),
        (["RUN", "--device", "cuda:99"], "cuda:99"),
    ],
)
def test_what_cannot_be_evaluated_is_one_sentence_and_nothing_is_written(cli, run, small, args, said, recipe):

    import onnx
    from onnx import TensorProto, helper

    Path("empty").mkdir()
    for name in "ab":
        (Path("letters") / name).mkdir(parents=True)
        Image.fromarray(small.test.images[0].numpy()).save(f"letters/{name}/1.png")
    write_idx_folder(Path("unlabelled"), small)
    Path("unlabelled/t10k-labels-idx1-ubyte").unlink()
    write_idx_folder(Path("none"), Data(small.train, small.test[:0], small.classes))
    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, 224, 224])
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "g", [value], [
        helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 3, 224, 224])
    ])  # fmt: skip
    onnx.save(helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", 17)]), "photo.onnx")
    Path("damaged.onnx").write_bytes(b"no model")
    if "letters-run" in args:
        letters = Data(small.train[:60], small.test[:20], tuple("abcdefghij"))
        fit(replace(recipe, num_epochs=1), data=letters, out="letters-run", device="cpu")
    before = tree(Path())
    code, out, err = cli("evaluate", *[run.path if a == "RUN" else a for a in args])
    assert code == 2
    assert said in err
    assert out == ""
    assert_one_sentence(err[:-1])
    assert tree(Path()) == before


def test_fastais_own_interpretation_takes_a_runs_learner(run, small):
    learner = load_run(run.path, device="cpu")
    with learner.no_bar():
        interpretation = ClassificationInterpretation.from_learner(learner)
        assert (interpretation.confusion_matrix() == confusion_matrix(small.test.labels, run.predictions)).all()
        losses, index = interpretation.top_losses(3)
    assert losses[0] >= losses[2]
    assert len(index) == 3
