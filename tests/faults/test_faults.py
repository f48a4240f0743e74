"""The short forms of `kill.py` and `readers.py`, and that its harness sees what it looks for."""

import os

import pytest

if not hasattr(os, "fork"):
    pytest.skip("a call is a fork of a process that has imported everything", allow_module_level=True)

from kill import KINDS, PAIRS, attempt, pair
from readers import examine, make_readers
from stage import Stage, assert_whole

KILLS = {"train": 15, "reproduce": 4, "export safetensors": 12, "export onnx": 2, "tsne": 3, "predict": 25}
CASES = {"signal": 3, "disk": 3, "read-only": 1}


@pytest.fixture(scope="module")
def stage(tmp_path_factory):
    return Stage(tmp_path_factory.mktemp("faults"))


@pytest.mark.parametrize(("name", "kills"), KILLS.items())
def test_killed_at_any_moment_and_repeated_a_command_leaves_what_it_leaves_undisturbed(stage, name, kills):
    assert attempt(stage, KINDS["kill"], stage.commands[name], {"kills": kills}, limit=1)["failures"] == 0


@pytest.mark.parametrize("name", ["train", "reproduce"])
def test_killed_within_its_imports_or_beside_its_workers_it_goes_on_as_well(stage, name):
    assert attempt(stage, KINDS["process"], stage.commands[name], {"kills": 1}, limit=1)["failures"] == 0


@pytest.mark.parametrize("name", ["train", "export safetensors", "predict"])
@pytest.mark.parametrize("kind", ["signal", "disk", "read-only"])
def test_what_ends_badly_says_so_in_a_sentence_and_loses_nothing(stage, kind, name):
    assert attempt(stage, KINDS[kind], stage.commands[name], {"cases": CASES[kind]}, limit=1)["failures"] == 0


@pytest.mark.parametrize("name", PAIRS)
def test_of_two_calls_at_once_each_ends_well_or_says_why_not(stage, name):
    assert attempt(stage, pair, name, {"cases": 1}, limit=1)["failures"] == 0


@pytest.mark.parametrize("name", ["model.safetensors", "history.csv", "metrics.json", "predictions.npy", "learner.pkl"])
def test_a_torn_file_would_be_seen(stage, name):
    files = stage.commands["train"].new
    assert_whole(name, files[name], files)
    with pytest.raises(AssertionError, match=name):
        assert_whole(name, files[name][: len(files[name]) // 2], files)


def test_damaged_files_are_read_rightly_or_refused_in_one_sentence(tmp_path):
    for reader in make_readers(tmp_path):
        assert examine(reader, round(50 * reader.share))["cases"] >= 10
