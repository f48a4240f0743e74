"""The tables: what they say of runs with known accuracies, and which runs they refuse to average or compare."""

import csv
import json
from dataclasses import replace

import numpy as np
import pytest
from conftest import assert_one_sentence, tree
from scipy import stats

from mnist_fastai.datasets import load_data
from mnist_fastai.errors import InputError
from mnist_fastai.recipes import BATCH_32, BATCH_64, LEARNING_RATE_001, RECIPES, VANILLA, Group
from mnist_fastai.results import COLUMNS, compare, read_rows, row_folder, write_results

MNIST = {"train": {"images": 60000, "sha256": "a"}, "test": {"images": 1000, "sha256": "b"}}


def fake_run(out, recipe, seed, errors, images=1000, splits=None):
    """A finished run, without a model, that errs on some of the images; of format 0 without splits."""
    path = row_folder(out, recipe) / f"s{seed}"
    path.mkdir(parents=True)
    accuracy = (images - errors) / images
    (path / "recipe.json").write_text(json.dumps(replace(recipe, seed=seed).to_dict()))
    (path / "history.csv").write_text(
        "epoch,train_loss,valid_loss,accuracy,error_rate,seconds\n"
        f"1,1,1,{accuracy + 0.001},0,1\n2,1,1,{accuracy},0,1\n"  # the first epoch is the better one
    )
    made = {"device": "cpu", "threads": 1, "seconds": 60.0, "versions": {"torch": "2", "fastai": "2.8"}}
    made |= {"epochs": 2, "finished": "2026-01-01T00:00:00", "per_class": {}}
    (path / "metrics.json").write_text(json.dumps({"accuracy": accuracy, "images": images, "split": "test", **made}))
    if splits:
        facts = {
            "classes": list("0123456789"),
            "input": {"normalize": None},
            "passed": {},
            "source": "mnist",
            "id": "0",
        }
        (path / "run.json").write_text(json.dumps({"splits": splits, **facts}))
    return path


def fake_row(out, recipe, errors, **kwargs):
    """One run per seed with so many errors."""
    return [fake_run(out, recipe, seed, n, **kwargs) for seed, n in enumerate(errors)]


def read_csv(out):
    with open(out / "results.csv", newline="", encoding="utf-8") as f:
        return {row["row"]: row for row in csv.DictReader(f)}


def cells(text, name):
    """The cells of a row of a markdown table, by column."""
    lines = text.splitlines()
    i = next(i for i, line in enumerate(lines) if line.startswith(f"| [{name}]"))
    header = next(lines[j - 1] for j in range(i, 0, -1) if lines[j].startswith("| ---"))
    assert header.count("|") == lines[i].count("|")
    return dict(zip(*([c.strip() for c in line.split("|")[1:-1]] for line in (header, lines[i])), strict=True))


@pytest.fixture
def rows(tmp_path):
    fake_row(tmp_path, BATCH_64, [20, 21, 22, 20, 19])
    fake_row(tmp_path, BATCH_32, [10, 11, 11, 11, 9])
    return read_rows(tmp_path, [VANILLA, BATCH_64, BATCH_32])


def test_a_row_has_its_mean_sd_and_interval(rows):
    assert [row.recipe for row in rows] == [BATCH_64, BATCH_32]  # and none for what was never run
    accuracies = [0.98, 0.979, 0.978, 0.98, 0.981]
    row = rows[0]
    assert row.accuracies == pytest.approx(accuracies)
    assert row.mean == pytest.approx(0.9796)
    assert row.sd == pytest.approx(np.std(accuracies, ddof=1))
    assert row.interval == pytest.approx(stats.t.interval(0.95, 4, loc=0.9796, scale=stats.sem(accuracies)))


@pytest.mark.parametrize(("errors", "reproduced"), [(16, True), (17, True), (18, False), (5, True)])
def test_a_row_is_reproduced_within_015_points_or_above(tmp_path, errors, reproduced):
    fake_row(tmp_path, BATCH_64, [errors])  # published: 98.36%
    assert read_rows(tmp_path, [BATCH_64])[0].reproduced is reproduced


def test_one_run_has_no_error_bar_and_no_test(tmp_path, rows):
    fake_row(tmp_path, VANILLA, [20])
    row = read_rows(tmp_path, [VANILLA])[0]
    assert np.isnan([row.sd, *row.interval]).all()
    assert compare([rows[0]], [row])[0].verdict == "untested"


def test_rows_of_different_n_are_compared_by_welch_and_holm(tmp_path, rows):
    fake_row(tmp_path, LEARNING_RATE_001, [15, 16, 18])
    last = read_rows(tmp_path, [LEARNING_RATE_001])[0]
    steps = compare([None, rows[0], rows[0], last], [rows[0], rows[1], last, last])
    assert [step.verdict for step in steps] == [None, "better", "better", "not resolved"]
    ps = [stats.ttest_ind(rows[0].accuracies, row.accuracies, equal_var=False).pvalue for row in (rows[1], last)]
    assert [step.p for step in steps[1:]] == pytest.approx([3 * ps[0], 2 * ps[1], 1])  # a family of three
    assert steps[1].change.difference == pytest.approx(0.01)
    assert compare([rows[1]], [rows[0]])[0].verdict == "worse"


def test_the_tables_say_what_the_runs_say(tmp_path, rows):
    fake_row(tmp_path, LEARNING_RATE_001, [9, 12, 11, 12, 10])
    fake_row(tmp_path, RECIPES["improved"], [4, 5, 6])
    fake_row(tmp_path, RECIPES["batch-8"], [4])
    write_results(tmp_path, unmade={"alexnet": "no weights", "batch-8": "a full disk"})
    text = (tmp_path / "results.md").read_text("utf-8")
    assert cells(text, "batch-64") == {
        "row": "[batch-64](runs/batch-64)", "n": "5", "published %": "98.36", "mean %": "**97.96**", "SD": "0.11",
        "95% interval": "97.82–98.10", "runs": "98.00 97.90 97.80 98.00 98.10", "reproduced": "**no**", "step": "–",
        "95% interval of the step": "–", "p": "–", "verdict": "–", "s per run": "60",
    }  # fmt: skip
    last, improved, lonely = (cells(text, name) for name in ("0.001-learning-rate", "improved", "batch-8"))
    assert (last["step"], last["verdict"]) == ("-0.04", "not resolved")
    assert (improved["n"], improved["verdict"], improved["step"]) == ("3", "better", "+0.58")
    assert improved["95% interval of the step"] == "+0.37 to +0.79"
    assert lonely["verdict"] == "untested"
    assert "published %" not in improved
    assert "compared with [0.001-learning-rate](runs/0.001-learning-rate) (98.92%, n = 5)" in text
    assert "**alexnet** was not run: no weights." in text
    assert "**batch-8** lacks runs: a full disk." in text
    assert "would report 99.02% (SD 0.13)" in text  # of the best epoch
    assert "against 98.92% at the last epoch (n = 5)" in text
    assert (tmp_path / "results.png").read_bytes().startswith(b"\x89PNG")


def test_the_csv_has_every_number_of_the_tables(tmp_path, rows):
    fake_row(tmp_path, LEARNING_RATE_001, [9, 12, 11, 12, 10])
    write_results(tmp_path)
    found = read_csv(tmp_path)
    assert list(found) == ["batch-64", "batch-32", "0.001-learning-rate"]
    assert list(found["batch-64"]) == list(COLUMNS)
    steps = compare([None, *rows], [*rows, *read_rows(tmp_path, [LEARNING_RATE_001])])
    row, step = found["batch-32"], steps[1]
    assert [row[key] for key in ("group", "n", "met", "against", "verdict", "seconds")] == [
        "table", "5", "True", "batch-64", "better", "60.0",
    ]  # fmt: skip
    numbers = [float(row[key]) for key in ("published", "mean", "sd", "low", "high")]
    assert numbers == [0.9848, rows[1].mean, rows[1].sd, *rows[1].interval]
    change = step.change
    numbers = [float(row[key]) for key in ("step", "step_low", "step_high", "p", "p_holm")]
    assert numbers == [change.difference, change.low, change.high, change.p, step.p]
    assert list(map(float, row["accuracies"].split())) == rows[1].accuracies
    assert step.p == pytest.approx(2 * change.p)  # two steps in the table
    first = found["batch-64"]
    assert {first[key] for key in ("against", "step", "step_low", "step_high", "p", "p_holm", "verdict")} == {""}


def test_a_row_is_also_counted_with_the_labels_in_doubt_corrected(tmp_path):
    labels = load_data("mnist").test.labels.numpy()
    splits = {"train": {"images": 60_000, "sha256": "a"}, "test": {"images": 10_000, "sha256": "b"}}
    paths = fake_row(tmp_path, BATCH_64, [0, 3], images=10_000, splits=splits)
    for path, wrong in zip(paths, ([], [0, 1, 947]), strict=True):
        predictions = labels.copy()
        predictions[wrong] = 9  # which image 947 should be, image 0 (a 7) and image 1 (a 2) should not
        np.save(path / "predictions.npy", predictions.astype(np.uint8))
    write_results(tmp_path)
    row = read_csv(tmp_path)["batch-64"]
    assert float(row["corrected"]) == pytest.approx((9985 + 9984) / 2 / 9995)  # 5 of 10,000 have no right answer
    assert float(row["corrected_sd"]) == pytest.approx(1 / 9995 / 2**0.5)
    assert cells((tmp_path / "results.md").read_text(encoding="utf-8"), "batch-64")["corrected %"] == "99.89"


def test_groups_of_ones_own_are_compared_with_one_of_their_rows(tmp_path):
    base, idea = BATCH_64.but(name="base", momentum=0.8), BATCH_64.but(name="idea", momentum=0.7)
    fake_row(tmp_path, base, [20, 21, 22])
    fake_row(tmp_path, idea, [10, 11, 12])
    write_results(tmp_path, groups={"own": Group("Compared with base", (base, idea), base)})
    text = (tmp_path / "results.md").read_text("utf-8")
    assert cells(text, "idea")["verdict"] == "better"
    assert cells(text, "base")["verdict"] == "–"
    assert [row["against"] for row in read_csv(tmp_path).values()] == ["", "base"]


@pytest.mark.parametrize("name", ["a|b", "$x", "$\\frac$ and $y$", "a/../b", "../up", "..", ".hidden", "[a](b)", "`"])
def test_a_name_breaks_neither_the_table_nor_the_figure_nor_the_path(tmp_path, name):
    recipe = BATCH_64.but(name=name)
    assert row_folder(tmp_path, recipe).parent == tmp_path / "runs"
    fake_row(tmp_path, recipe, [20, 21, 22])
    write_results(tmp_path, groups={"own": Group("Own", (recipe,), None)}, unmade={name: "no\n| `disk`"})
    text = (tmp_path / "results.md").read_text("utf-8")
    table = [line.replace(r"\|", "") for line in text.splitlines() if line.startswith("|")]
    assert len(table) == 3
    assert len({line.count("|") for line in table}) == 1
    assert list(read_csv(tmp_path)) == [name]
    assert (tmp_path / "results.png").exists()


@pytest.mark.parametrize(
    "other",
    [
        {"images": 512},  # of format 0, without digests
        {"images": 512, "splits": MNIST},
        {"splits": MNIST | {"test": {"images": 1000, "sha256": "c"}}},
        {"splits": MNIST | {"train": {"images": 512, "sha256": "a"}}},
        {"splits": {**MNIST, "valid": {"images": 1000, "sha256": "b"}}},
    ],
)
def test_runs_of_different_images_are_not_averaged(tmp_path, other):
    first = fake_run(tmp_path, BATCH_64, 0, 20, splits=MNIST)
    second = fake_run(tmp_path, BATCH_64, 1, 20, **other)
    before = tree(tmp_path)
    with pytest.raises(InputError, match=f"{first} and {second} have different images") as e:
        write_results(tmp_path)
    assert_one_sentence(str(e.value))
    assert tree(tmp_path) == before


def test_runs_that_recorded_their_images_and_older_ones_are_averaged(tmp_path):
    fake_run(tmp_path, BATCH_64, 0, 20, splits=MNIST)
    fake_run(tmp_path, BATCH_64, 1, 22)
    assert read_rows(tmp_path, [BATCH_64])[0].mean == pytest.approx(0.979)


def test_runs_of_different_recipes_are_not_averaged(tmp_path):
    fake_run(tmp_path, BATCH_64, 0, 20)
    path = fake_run(tmp_path, BATCH_64, 1, 20)
    (path / "recipe.json").write_text(json.dumps(BATCH_64.but(seed=1, num_epochs=1).to_dict()))
    with pytest.raises(InputError, match="different recipes"):
        write_results(tmp_path)


def test_rows_on_different_images_are_not_compared(tmp_path):
    fake_row(tmp_path, BATCH_64, [20, 21], splits=MNIST)
    fake_row(tmp_path, BATCH_32, [20, 21], splits=MNIST | {"train": {"images": 9, "sha256": "d"}})
    write_results(tmp_path)  # other training images are a difference that can be measured
    fake_row(tmp_path, LEARNING_RATE_001, [20, 21], splits=MNIST | {"test": {"images": 1000, "sha256": "e"}})
    with pytest.raises(InputError, match=r"runs/batch-32/s0 and .*runs/0.001-learning-rate/s0 have different images"):
        write_results(tmp_path)


def test_without_a_finished_run_the_tables_say_why(tmp_path):
    write_results(tmp_path, unmade={"alexnet": "no weights"})
    text = (tmp_path / "results.md").read_text("utf-8")
    assert "No finished runs" in text
    assert "**alexnet** was not run: no weights." in text
    assert not (tmp_path / "results.png").exists()
