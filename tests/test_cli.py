"""The command line as a user drives it: what comes out, what is left on the disk, and the exit code."""

import json
import re
import shlex
import signal
import subprocess
import sys
import time
from dataclasses import fields
from pathlib import Path

import pytest
import typer
from conftest import (
    TRAIN,
    assert_one_sentence,
    cpu_seconds,
    full_disk,
    python,
    same_weights,
    start_cli,
    tree,
    without_seconds,
    write_idx_folder,
)
from mnist_fastai.cli import app

import mnist_fastai
from mnist_fastai import Recipe, Run

COMMANDS = sorted(typer.main.get_command(app).commands)
HEAVY = {"torch", "torchvision", "fastai", "numpy", "matplotlib", "sklearn", "scipy", "pandas", "PIL", "onnx"}
SCRIPT = Path(sys.executable).with_name("mnist-fa")


def sentence(err: str) -> str:
    """The one sentence on stderr."""
    assert err.startswith("mnist-fa: ")
    assert err.endswith("\n")
    assert_one_sentence(err[:-1])
    return err


@pytest.fixture
def quick(folder) -> list:
    """Arguments of a quick training."""
    return ["--data", folder, "--arch", "lenet", "--opt", "adam", "--num-epochs", 1, "--device", "cpu"]


@pytest.fixture
def whole(folder) -> list:
    """Arguments of the training that the fixture `run` did."""
    return ["--data", folder, "--arch", "lenet", "--opt", "adam", "--num-epochs", 4, "--device", "cpu"]


# --- help, at once ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("args", [["--version"], ["--help"], *([c, "--help"] for c in COMMANDS)], ids=" ".join)
def test_help_answers_at_once(args, tmp_path):
    best = float("inf")
    for _ in range(15):  # on a busy machine, the first may not be the best
        best = min(best, cpu_seconds(SCRIPT, *args, cwd=tmp_path))
        if best < 1.2:
            break
    assert best < 1.2  # 0.3 on a quiet machine


@pytest.mark.parametrize("args", [["--version"], ["--help"], *([c, "--help"] for c in COMMANDS)], ids=" ".join)
def test_help_imports_nothing_heavy(args, tmp_path):
    code = f"""
import sys
from mnist_fastai.cli import main
sys.argv = ["mnist-fa", *{args}]
try:
    main()
finally:
    print(*sys.modules, file=sys.stderr)
"""
    done = python("-c", code, cwd=tmp_path)
    assert done.returncode == 0
    assert done.stdout
    assert not HEAVY & set(done.stderr.split())


def test_importing_the_package_imports_nothing_heavy(tmp_path):
    done = python("-c", "import sys, mnist_fastai; print(*sys.modules)", cwd=tmp_path)
    found = set(done.stdout.split())
    assert "mnist_fastai" in found
    assert not HEAVY & found


@pytest.mark.parametrize("name", mnist_fastai.__all__)
def test_every_public_name_resolves(name):
    assert getattr(mnist_fastai, name) is not None
    assert name in dir(mnist_fastai)


def test_the_public_names_are_the_same_for_python_and_for_type_checkers():
    source = Path(mnist_fastai.__file__).read_text("utf-8")
    typed = re.findall(r"^    from \.[\w.]+ import (.+)$", source, re.M)
    assert {name for names in typed for name in names.split(", ")} == set(mnist_fastai.__all__)
    assert set(mnist_fastai._HOME) == set(mnist_fastai.__all__)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = mnist_fastai.no_such_name


def test_version(cli):
    assert cli("--version") == (0, f"mnist-fa {mnist_fastai.__version__}\n", "")


def test_train_help_groups_every_option_and_shows_its_default(cli, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    code, out, err = cli("train", "--help")
    assert (code, err) == (0, "")
    groups = re.split(r"╭─ (\w+)", out)[1:]
    found = dict(zip(groups[::2], groups[1::2], strict=True))
    for name, options in {
        "Recipe": " ".join(f"--{f.name.replace('_', '-')}" for f in fields(Recipe)),
        "Options": "--recipe --device --out --resume --dry-run --list --log-to --json --quiet",
    }.items():
        assert not set(options.split()) - set(re.findall(r"--[a-z-]+", found[name]))
    assert {"deep", "sgd", "0.001", "32", "10", "half", "mnist", "auto"} <= set(
        re.findall(r"\[default: ([^\]]+)\]", out)
    )


def test_shell_completion_knows_the_architectures(tmp_path):
    env = {"_MNIST_FA_COMPLETE": "complete_bash", "COMP_WORDS": "mnist-fa train --arch le", "COMP_CWORD": "3"}
    done = subprocess.run([SCRIPT], env=env, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["lenet"]


# --- train --------------------------------------------------------------------------------------------------------


def test_train_prints_a_line_an_epoch_and_leaves_a_run(cli, whole):
    code, out, err = cli("train", *whole)
    assert (code, err) == (0, "")
    assert "\r" not in out
    assert "\x1b" not in out
    (path,) = Path("runs").iterdir()
    assert re.fullmatch(r"\d{8}-\d{6}-lenet-adam-s0", path.name)
    run = Run(path)
    first, header, *epochs, last = out.splitlines()
    assert "44,426 parameters" in first
    assert str(path) in first
    assert header.split() == ["epoch", "train_loss", "valid_loss", "accuracy", "error_rate", "seconds"]
    for line, row in zip(epochs, run.history, strict=True):
        assert [float(x) for x in line.split()] == pytest.approx([row[k] for k in header.split()], abs=0.06)
    assert f"{run.metrics['accuracy']:.2%}" in last


def test_train_takes_its_defaults_from_the_recipe(cli, folder):
    assert cli("train", "--data", folder, "--num-epochs", 0, "--out", "run", "--device", "cpu").code == 0
    assert Run("run").recipe == Recipe(data=str(folder), num_epochs=0)


def test_every_recipe_option_reaches_the_recipe(cli, folder):
    wanted = Recipe(
        name="mine", arch="lenet", init="xavier", opt="nesterov", learning_rate=0.002, momentum=0.8, weight_decay=0.01,
        schedule="one-cycle", batch_size=64, num_epochs=0, label_smoothing=0.1, normalize="mnist", augment="flip",
        data=str(folder), valid_fraction=0.2, seed=5,
    )  # fmt: skip
    assert all(getattr(wanted, f.name) != f.default for f in fields(Recipe))
    args = [x for f in fields(Recipe) for x in (f"--{f.name.replace('_', '-')}", getattr(wanted, f.name))]
    assert cli("train", *args, "--out", "run", "-q").code == 0
    assert Run("run").recipe == wanted


def test_recipe_takes_a_file_and_a_run(cli, folder):
    Path("mine.toml").write_text(f"arch = 'lenet'\nnum_epochs = 0\ndata = '{folder}'\n")
    assert cli("train", "--recipe", "mine.toml", "--seed", 3, "--out", "a", "-q").code == 0
    assert Run("a").recipe == Recipe("mine", arch="lenet", num_epochs=0, data=str(folder), seed=3)
    assert cli("train", "--recipe", "a", "--batch-size", 64, "--out", "b", "-q").code == 0
    assert Run("b").recipe == Run("a").recipe.but(batch_size=64)


@pytest.mark.parametrize("args", [["train", "--list"], ["--version"]])
def test_python_dash_m(args, tmp_path):
    done = python("-m", "mnist_fastai", *args, cwd=tmp_path)
    assert done.returncode == 0
    assert "improved" in done.stdout or mnist_fastai.__version__ in done.stdout


def test_a_relative_data_folder_is_found_again_from_elsewhere(cli, small, monkeypatch):
    write_idx_folder(Path("set"), small)
    where = Path("set").resolve()
    assert cli("train", "--data", "set", "--num-epochs", 0, "--out", "run", "-q").code == 0
    assert Run("run").recipe.data == str(where)


def test_json_is_all_of_stdout(cli, quick):
    code, out, err = cli("train", *quick, "--out", "run", "--json")
    assert code == 0
    found = json.loads(out)  # which refuses anything before or after the one object
    assert found == {"run": "run"} | json.loads(Path("run/metrics.json").read_text())
    assert len(err.splitlines()) == 4, "progress goes to stderr"


def test_quiet_prints_nothing(cli, quick):
    assert cli("train", *quick, "--quiet", "--out", "run") == (0, "", "")
    assert Run("run").finished


def test_quiet_leaves_json_alone(cli, quick):
    code, out, err = cli("train", *quick, "--quiet", "--json", "--out", "run")
    assert (code, err) == (0, "")
    assert json.loads(out)["run"] == "run"


def test_dry_run_writes_nothing_here(cli, folder):
    code, out, err = cli("train", "--data", folder, "--dry-run", "--json", "--quiet", "--device", "cpu")
    assert (code, err) == (0, "")
    assert json.loads(out) == json.loads(out) | {"run": None, "epochs": 1}
    assert tree(Path()) == {}


# --- mistakes in the call -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--learning-rate", 0, "learning rate of 0.*such as 0.001"),
        ("--learning-rate", -1, "learning rate of -1.*such as 0.001"),
        ("--learning-rate", "nan", "learning rate of nan.*such as 0.001"),
        ("--learning-rate", "inf", "learning rate of inf.*such as 0.001"),
        ("--batch-size", 0, "batch size 0.*1 or more"),
        ("--batch-size", TRAIN + 1, f"batch size of {TRAIN + 1}.* {TRAIN} .*give less"),
        ("--num-epochs", -1, "num epochs -1.*0 or more"),
        ("--seed", -1, "seed -1.*from 0"),
        ("--valid-fraction", 1, "valid fraction of 1.*give 0.1"),
        ("--valid-fraction", 0.001, "valid fraction of 0.001"),
        ("--recipe", "nameless", "recipe 'nameless'.*take .*one of.*batch-64"),
        ("--data", "nowhere", "no folder .*nowhere.*--data"),
        ("--data", ".", r"work\b"),
        ("--out", "occupied", "occupied exists.*--out"),
        ("--out", "file", "file exists.*--out"),
        ("--out", "file/run", "file/run.*--out"),
        ("--resume", "nowhere", "nowhere is no run directory"),
        ("--resume", "occupied", "occupied is no run directory"),
    ],
)
def test_a_mistake_is_one_sentence_and_writes_nothing(cli, quick, option, value, message):
    Path("occupied/there").mkdir(parents=True)
    Path("file").write_text("x")
    before = tree(Path())
    args = ["--device", "cpu"] if option == "--resume" else quick
    code, out, err = cli("train", *args, option, value)
    assert (code, out) == (2, "")
    assert re.search(message, sentence(err))
    assert tree(Path()) == before


@pytest.mark.parametrize(
    ("option", "value", "choices"),
    [
        ("--arch", "resnet", ["lenet", "deep"]),
        ("--opt", "rmsprop", ["adam", "sgd"]),
        ("--normalize", "imagenet", ["none", "half", "mnist"]),
        ("--device", "tpu", ["auto", "cpu", "cuda", "mps"]),
        ("--augment", "blur", ["none", "affine", "package.module:name"]),
    ],
)
def test_an_unknown_choice_is_refused_with_those_that_there_are(cli, option, value, choices):
    code, out, err = cli("train", option, value)
    assert (code, out) == (2, "")
    assert "Traceback" not in err
    assert all(word in sentence(err) for word in (option[2:], value, *choices))
    assert tree(Path()) == {}


def test_cuda_where_there_is_none_is_refused(cli, folder):
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is a CUDA device")
    code, out, err = cli("train", "--data", folder, "--device", "cuda")
    assert (code, out) == (2, "")
    assert re.search("CUDA.*--device cpu", sentence(err))
    assert tree(Path()) == {}


@pytest.mark.parametrize("name", ["train-images-idx3-ubyte", "t10k-labels-idx1-ubyte"])
def test_a_damaged_data_file_is_named(cli, small, name):
    path = write_idx_folder(Path("set"), small) / name
    path.write_bytes(path.read_bytes()[:-1])
    before = tree(Path())
    code, out, err = cli("train", "--data", "set", "--out", "run")
    assert (code, out) == (2, "")
    assert re.search(f"{name} is truncated.*download", sentence(err))
    assert tree(Path()) == before


# --- failures -----------------------------------------------------------------------------------------------------


def test_a_loss_that_diverges_ends_with_exit_code_1(cli, folder):
    args = ["--data", folder, "--arch", "deep", "--learning-rate", 1e6, "--device", "cpu", "--out", "run", "--json"]
    code, out, err = cli("train", *args)
    assert (code, out) == (1, "")
    assert re.search(r"loss became (NaN|infinite).*--learning-rate.*run keeps", sentence(err.splitlines(True)[-1]))
    assert Run("run").recipe.learning_rate == 1e6
    assert not Run("run").finished


def test_a_full_disk_ends_with_exit_code_1(cli, quick):
    with full_disk(100_000):
        code, _, err = cli("train", *quick, "--quiet", "--out", "run")
    assert code == 1
    assert "checkpoint-1.safetensors" in sentence(err)
    assert set(tree(Path("run"))) == {"recipe.json", "run.json"}


# --- interrupted and resumed --------------------------------------------------------------------------------------


def wait_for(path: Path, process: subprocess.Popen) -> None:
    deadline = time.monotonic() + 90
    while not path.exists():
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline, f"{path} never came"
        time.sleep(0.001)


def assert_same_run(path, run):
    assert same_weights(path, run.path)
    assert without_seconds(Run(path).history) == without_seconds(run.history)
    assert {p.name for p in path.iterdir()} == {p.name for p in run.path.iterdir()}


def test_ctrl_c_says_how_to_go_on(cli, whole, run, tmp_path):
    # a space, since the command that is printed will be pasted
    process = start_cli("train", *whole, "--json", "--out", "my run", cwd=Path.cwd())
    try:
        wait_for(Path("my run/history.csv"), process)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert (process.returncode, out) == (130, "")
    last = sentence(err.splitlines(True)[-1])
    assert "Traceback" not in err
    assert re.search(r"stopped after [1-4] of 4 epochs", last)
    program, *args = shlex.split(re.search("`(.+)`", last)[1])
    assert program == "mnist-fa"
    assert cli(*args, "--device", "cpu", "--quiet").code == 0
    assert_same_run(Path("my run"), run)


def test_resuming_prints_the_epochs_before_as_well(cli, interrupted):
    code, out, err = cli("train", "--resume", interrupted, "--device", "cpu")
    assert (code, err) == (0, "")
    assert [line.split()[0] for line in out.splitlines()[1:-1]] == ["epoch", "1", "2", "3", "4"]


def test_resuming_a_finished_run_gives_its_metrics_and_changes_nothing(cli, run):
    before = tree(run.path)
    code, out, err = cli("train", "--resume", run.path, "--json")
    assert code == 0
    assert "finished already" in err
    assert json.loads(out) == {"run": str(run.path)} | run.metrics
    assert tree(run.path) == before


@pytest.mark.parametrize("args", [["--seed", 0], ["--arch", "deep"], ["-n", 20], ["--out", "elsewhere"], ["--dry-run"]])
def test_resuming_takes_no_other_recipe(cli, interrupted, args):
    before = tree(interrupted)
    code, out, err = cli("train", "--resume", interrupted, *args)
    assert (code, out) == (2, "")
    assert re.search("--resume .*leave --[a-z-]+ out", sentence(err))
    assert tree(interrupted) == before
    assert tree(Path()) == {}


def test_a_damaged_checkpoint_is_said_and_the_one_before_it_is_used(cli, interrupted, run):
    path = interrupted / "checkpoint-2.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    code, out, err = cli("train", "--resume", interrupted, "--device", "cpu", "--quiet")
    assert (code, out) == (0, "")
    assert re.search("checkpoint-2.safetensors is damaged; the one before it is used", sentence(err))
    assert_same_run(interrupted, run)
