"""The tables: the numbers of runs with known accuracies, and what the tests say of steps that are and are not noise."""

import csv
import json
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from mnist_fastai.recipes import BATCH_32, BATCH_64, FAILED, IMPROVED, LEARNING_RATE_001, VANILLA
from mnist_fastai.results import compare, mcnemar, read_rows, write_results

LABELS = np.arange(1000) % 10


def fake_run(out, recipe, seed, wrong):
    """A finished run, without a model, that errs on the images `wrong`."""
    path = out / "runs" / recipe.name / f"s{seed}"
    path.mkdir(parents=True)
    predictions = LABELS.copy()
    predictions[wrong] = (predictions[wrong] + 1) % 10
    accuracy = float((predictions == LABELS).mean())
    np.save(path / "predictions.npy", predictions.astype(np.uint8))
    (path / "recipe.json").write_text(json.dumps(replace(recipe, seed=seed).to_dict()))
    (path / "history.csv").write_text(
        "epoch,train_loss,valid_loss,accuracy,error_rate,seconds\n"
        f"1,1,1,{accuracy + 0.001},0,1\n2,1,1,{accuracy},0,1\n"  # the first epoch is the better one
    )
    about = {"device": "cpu", "threads": 1, "seconds": 60.0, "versions": {"torch": "2", "fastai": "2.8"}}
    (path / "metrics.json").write_text(json.dumps({"accuracy": accuracy, **about}))


def fake_row(out, recipe, errors):
    """A run a seed, the first `errors[seed]` images wrong."""
    for seed, n in enumerate(errors):
        fake_run(out, recipe, seed, np.arange(n))


@pytest.fixture
def rows(tmp_path):
    fake_row(tmp_path, BATCH_64, [20, 21, 22, 20, 19])
    fake_row(tmp_path, BATCH_32, [10, 11, 11, 11, 9])
    return read_rows(tmp_path, [VANILLA, BATCH_64, BATCH_32])


def test_a_row_has_its_mean_deviation_and_interval(rows):
    assert [row.recipe for row in rows] == [BATCH_64, BATCH_32]  # and none for what was never run
    accuracies = [0.98, 0.979, 0.978, 0.98, 0.981]
    row = rows[0]
    assert list(row.accuracies.values()) == pytest.approx(accuracies)
    assert row.mean == pytest.approx(0.9796)
    assert row.deviation == pytest.approx(np.std(accuracies, ddof=1))
    sem = stats.sem(accuracies)
    assert row.interval == pytest.approx(stats.t.interval(0.95, 4, loc=0.9796, scale=sem))


@pytest.mark.parametrize(("errors", "met"), [(16, True), (17, True), (18, False), (5, True)])
def test_a_row_is_met_within_015_points_or_above(tmp_path, errors, met):
    fake_row(tmp_path, BATCH_64, [errors])  # published: 98.36%
    assert read_rows(tmp_path, [BATCH_64])[0].met is met


def test_one_run_has_no_error_bar(tmp_path):
    fake_row(tmp_path, BATCH_64, [20])
    row = read_rows(tmp_path, [BATCH_64])[0]
    assert np.isnan(row.deviation)
    assert np.isnan(row.interval).all()


def test_a_step_that_every_seed_shows_is_better(rows):
    step = compare(*rows, LABELS)
    assert step.difference == pytest.approx(0.01)
    assert step.verdict == "better"
    assert compare(*rows[::-1], LABELS).verdict == "worse"


def test_a_step_within_the_seeds_spread_is_noise(tmp_path, rows):
    fake_row(tmp_path, VANILLA, [21, 19, 23, 20, 18])
    step = compare(rows[0], read_rows(tmp_path, [VANILLA])[0], LABELS)
    assert step.p == pytest.approx(stats.ttest_rel([21, 19, 23, 20, 18], [20, 21, 22, 20, 19]).pvalue)
    assert step.verdict == "within noise"


def test_steps_are_paired_over_the_seeds_that_both_have(tmp_path, rows):
    fake_row(tmp_path, FAILED[0], [15, 16, 18])
    step = compare(rows[0], read_rows(tmp_path, FAILED)[0], LABELS)
    assert step.difference == pytest.approx((20 + 21 + 22 - 15 - 16 - 18) / 3000)
    assert len(step.mcnemar) == 3


def test_mcnemar_is_the_exact_test_on_what_only_one_has_right():
    before, after = LABELS.copy(), LABELS.copy()
    before[:10] += 1  # ten that only `after` has right
    after[10:12] += 1  # two that only `before` has right
    after[20:40] = before[20:40] = 99  # what both have wrong says nothing
    assert mcnemar(before, after, LABELS) == pytest.approx(2 * stats.binom.cdf(2, 12, 0.5))
    assert mcnemar(before, before, LABELS) == 1


def test_the_tables_say_what_the_runs_say(tmp_path, rows):
    fake_row(tmp_path, LEARNING_RATE_001, [9, 12, 11, 12, 10])
    fake_row(tmp_path, IMPROVED, [4, 5, 6, 5, 4])
    write_results(tmp_path, LABELS, {"alexnet": "no weights"})
    text = (tmp_path / "results.md").read_text()
    line = next(line for line in text.splitlines() if "[batch-64]" in line)
    assert [cell.strip() for cell in line.split("|")[2:8]] == [
        "98.36", "**97.96**", "0.11", "97.82–98.10", "98.00 97.90 97.80 98.00 98.10", "-0.40",
    ]  # fmt: skip
    assert "**no**" in line
    last = next(line for line in text.splitlines() if "[0.001-learning-rate]" in line)
    assert "within noise" in last
    assert "chose nothing" in text
    assert "**alexnet** was not run: no weights." in text
    assert "99.02 (SD 0.13), against 98.92 at the last epoch" in text  # best against last epoch
    with open(tmp_path / "results.csv", newline="") as f:
        found = {row["row"]: row for row in csv.DictReader(f)}
    assert float(found["improved"]["mean"]) == pytest.approx(0.9952)
    assert found["improved"]["standing"] == "better"
    assert found["batch-64"]["met"] == "False"
    assert (tmp_path / "results.png").read_bytes().startswith(b"\x89PNG")
