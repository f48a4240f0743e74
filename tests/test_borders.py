"""Names, pipes, devices and folders as the command line may meet them: one sentence, and nothing done is lost."""

import csv
import json
import os
import shlex
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from conftest import assert_one_sentence, same_weights, tree, without_seconds
from PIL import Image

from mnist_fastai import Run, fit, resume

SCRIPT = Path(sys.executable).with_name("mnist-fa")
ODD = os.fsdecode(b"caf\xe9.png")
FORGED = "a.png: 7  99.9%\nb.png"


def shell(command: str, cwd: Path, **env) -> subprocess.CompletedProcess:
    """Run a line of bash in which mnist-fa is at hand."""
    path = f"{SCRIPT.parent}{os.pathsep}{os.environ['PATH']}"
    return subprocess.run(
        ["bash", "-c", command],
        cwd=cwd,
        capture_output=True,
        timeout=120,
        check=False,
        env=os.environ | {"PATH": path} | env,
    )


def sentence(done) -> str:
    err = done.stderr.decode()
    assert err.startswith("mnist-fa: ")
    assert_one_sentence(err.strip())
    return err


@pytest.fixture
def photos(mnist, tmp_path) -> Path:
    """A 7, a 2 and a 1, as pictures."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for name, image in zip("abc", mnist.test.images[:3].numpy(), strict=True):
        Image.fromarray(image).resize((56, 56)).save(folder / f"{name}.png")
    return folder


def rows(path: Path) -> list[dict]:
    with open(path, newline="", encoding="utf-8") as f:
        return list(csv.DictReader(f))


# --- stdout -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "command",
    [
        "mnist-fa predict photos --csv out.csv > /dev/full",
        "mnist-fa predict photos --csv out.csv >&-",
        "mnist-fa predict photos --json --csv out.csv | true; exit ${PIPESTATUS[0]}",
    ],
)
def test_where_stdout_cannot_be_written_the_answers_are_still_in_the_csv(photos, tmp_path, command):
    done = shell(command, tmp_path, PYTHONUNBUFFERED="1")  # as it is after many lines
    assert done.returncode == 1
    assert "cannot write to stdout" in sentence(done)
    assert [row["digit"] for row in rows(tmp_path / "out.csv")] == ["7", "2", "1"]
    assert set(tree(tmp_path)) == {"out.csv", "photos", "photos/a.png", "photos/b.png", "photos/c.png"}


@pytest.mark.parametrize("args", ["--help", "--version", "train --list"])
def test_help_that_cannot_be_written_is_one_sentence(tmp_path, args):
    done = shell(f"mnist-fa {args} > /dev/full", tmp_path)
    assert done.returncode == 1
    sentence(done)


def test_training_that_nobody_reads_any_longer_stops_and_goes_on(folder, run, tmp_path):
    args = shlex.join(["--data", str(folder)])
    command = f"mnist-fa train -a lenet -o adam -n 4 --device cpu --out run {args} | head -1; exit ${{PIPESTATUS[0]}}"
    done = shell(command, tmp_path, OMP_NUM_THREADS="1")
    assert done.returncode == 1
    assert "mnist-fa train --resume run" in sentence(done) or not Run(tmp_path / "run").history
    resumed = resume(tmp_path / "run", device="cpu")
    assert same_weights(resumed.path, run.path)
    assert without_seconds(resumed.history) == without_seconds(run.history)


# --- names --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8", "cp437"])
def test_pictures_of_odd_names_are_answered_line_by_line(photos, tmp_path, encoding):
    for name in (ODD, FORGED, "\x1b[2J.png", "-"):
        (photos / "c.png").rename(photos / name) if name == ODD else (photos / name).write_bytes(
            (photos / ODD).read_bytes()
        )
    done = shell("mnist-fa predict . 'no→thing' --csv ../out.csv", photos, PYTHONIOENCODING=encoding)
    assert done.returncode == 0, done.stderr
    assert len(done.stderr.splitlines()) == 1
    lines = done.stdout.splitlines()
    assert len(lines) == 6
    assert not any(byte < 32 for line in lines for byte in line)
    assert [row["digit"] for row in rows(tmp_path / "out.csv")] == ["1", "1", "7", "1", "2", "1", ""]
    assert [row["file"] for row in rows(tmp_path / "out.csv")][-2:] == [r"caf\udce9.png", "no→thing"]
    files = json.loads(shell("mnist-fa predict . --json", photos).stdout)
    assert ODD in [answer["file"] for answer in files]


def test_formulas_are_none_in_a_csv(photos, tmp_path):
    (photos / "a.png").rename(tmp_path / "=HYPERLINK(1).png")
    assert shell("mnist-fa predict =HYPERLINK* --csv out.csv", tmp_path).returncode == 0
    assert rows(tmp_path / "out.csv")[0]["file"] == "./=HYPERLINK(1).png"


def test_classes_of_odd_names_are_trained_exported_and_read(cli, small):
    names = [ODD, r"$\bad$", "=1+1", "a\nb"]
    for i, name in enumerate(names):
        for split in ("training", "testing"):
            Path("set", split, name).mkdir(parents=True)
            for n, image in enumerate(small.train.images[small.train.labels == i][:10].numpy()):
                Image.fromarray(image).save(Path("set", split, name, f"{n}.png"))
    for args in (
        "train -a lenet -n 1 -b 8 -d set --out run -q --device cpu",
        "export run -f onnx",
        "tsne run --samples 40 --iterations 10 -q --device cpu",
    ):
        code, _, err = cli(*args.split())
        assert (code, err) == (0, "")
    assert set(Run("run").classes) == set(names)
    assert {row["label"] for row in rows(Path("run/tsne/tsne.csv"))} == {r"caf\udce9.png", r"$\bad$", "'=1+1", "a\nb"}
    code, out, _ = cli("predict", "set/training/a\nb/0.png", "-m", "run", "--raw")
    assert (code, len(out.splitlines())) == (0, 1)


def test_in_a_locale_that_is_not_utf_8_reproduce_ends_as_elsewhere(tmp_path):
    command = "mnist-fa reproduce --smoke --rows vanilla --seeds 2 --jobs 1"
    done = shell(command, tmp_path, PYTHONUTF8="0", LC_ALL="C", PYTHONCOERCECLOCALE="0", PYTHONIOENCODING="latin-1")
    assert (done.returncode, done.stderr) == (0, b"")
    assert rb"\u2013" in done.stdout  # an en dash, which latin-1 lacks


# --- files and folders --------------------------------------------------------------------------------------------


def test_a_device_stays_a_device(photos, tmp_path):
    before = os.stat("/dev/null")
    done = shell(
        "mnist-fa predict photos --csv /dev/null && mnist-fa predict photos/a.png --show-steps /dev/null", tmp_path
    )
    assert done.returncode == 0
    assert os.stat("/dev/null").st_rdev == before.st_rdev
    done = shell("mnist-fa predict photos/a.png --json --csv /dev/stdout | cat", tmp_path)
    assert b"file,digit,probability" in done.stdout
    done = shell("mkfifo pipe; mnist-fa predict photos/a.png --csv pipe & cat pipe; wait", tmp_path)
    assert b"photos/a.png,7," in done.stdout


def test_a_picture_may_come_through_a_pipe(photos, tmp_path):
    command = (
        "cd photos; mnist-fa predict <(cat a.png); mnist-fa predict /dev/stdin < b.png; mnist-fa predict - < c.png"
    )
    done = shell(command, tmp_path)
    assert done.stderr == b""
    assert [line.split(b": ")[1][:1] for line in done.stdout.splitlines()] == [b"7", b"2", b"1"]


def test_a_closed_stdin_costs_no_other_picture(photos, tmp_path):
    write = "{ cat photos/a.png > pipe; } > /dev/null 2>&1 &"  # which is not waited for, should nobody read
    done = shell(f"mkfifo pipe; {write} mnist-fa predict pipe - photos/b.png <&-", tmp_path)
    assert done.returncode == 0
    assert [line.split(b": ")[1][:1] for line in done.stdout.splitlines()] == [b"7", b"2"]
    assert "empty (0 bytes)" in sentence(done)


@pytest.mark.parametrize(
    "bad",
    ["empty", "", "photos/a.png/below", "x" * 300, "x/" * 3000, "loop", "/dev/zero", f"{FORGED}\x1b[2J", ODD],
    ids=["empty", "no name", "below a file", "long name", "long path", "loop", "device", "escapes", "not UTF-8"],
)
def test_a_source_without_an_answer_costs_no_other(cli, photos, tmp_path, monkeypatch, bad):
    monkeypatch.chdir(tmp_path)
    Path("empty").mkdir()
    Path("loop").symlink_to("loop")
    code, out, err = cli("predict", "photos/a.png", bad, "photos/b.png", "--csv", "out.csv")
    assert code == 0
    assert [line.split(": ")[1][:1] for line in out.splitlines()] == ["7", "2"]
    assert_one_sentence(err.removesuffix("\n"))
    assert err.removesuffix("\n").isprintable()
    assert [row["digit"] for row in rows(Path("out.csv"))] == ["7", "", "2"]
    assert rows(Path("out.csv"))[1]["error"]
    code, out, error = cli("predict", bad)
    assert (code, out, error) == (1, "", err)


def test_a_folder_that_cannot_be_listed_costs_no_other(cli, photos, monkeypatch):
    (photos / "b").mkdir()
    listed = Path.iterdir

    def iterdir(path):
        if path.name == "b":  # root may list every folder
            raise PermissionError(13, "Permission denied", str(path))
        return listed(path)

    monkeypatch.setattr(Path, "iterdir", iterdir)
    code, out, err = cli("predict", photos, "--json")
    assert (code, err) == (0, "")
    answers = {Path(answer["file"]).name: answer for answer in json.loads(out)}
    assert [answers.pop(f"{name}.png")["digit"] for name in "abc"] == [7, 2, 1]
    assert list(answers) == ["b"]
    assert "Permission denied" in answers["b"]["error"]
    code, out, err = cli("predict", photos / "b")
    assert (code, out) == (1, "")
    assert_one_sentence(err.strip())


def test_links_in_a_circle_are_followed_once(cli, photos):
    (photos / "self").symlink_to(".")
    (photos / "more").mkdir()
    (photos / "more" / "up").symlink_to(photos)
    (photos / "more" / "loop").symlink_to("loop")
    (photos / "c.png").rename(photos / "more" / "c.png")
    code, out, err = cli("predict", photos, photos / "more")
    assert (code, err) == (0, "")
    names = [line.split(": ")[0].split("photos/")[1] for line in out.splitlines()]
    assert names == ["a.png", "b.png", "more/c.png", "more/c.png", "more/up/a.png", "more/up/b.png"]


@pytest.mark.parametrize(
    "args",
    [
        "photos/a.png --csv photos/a.png",
        "photos --csv photos/a.png",
        "photos/a.png --show-steps ./photos/../photos/a.png",
        "photos/a.png --show-steps link",
        "photos/a.png --csv out --show-steps out",
        "photos/a.png --model model.onnx --csv model.onnx",
    ],
)
def test_what_is_read_is_not_written(cli, photos, tmp_path, monkeypatch, args):
    monkeypatch.chdir(tmp_path)
    Path("link").symlink_to("photos/a.png")
    Path("model.onnx").touch()
    before = tree(tmp_path)
    code, out, err = cli("predict", *args.split())
    assert (code, out) == (2, "")
    assert_one_sentence(err.strip())
    assert tree(tmp_path) == before


@pytest.mark.parametrize(
    "args", ["train -n 0 --out {}", "tsne --out {}", "export --out {}", "predict photos --csv {}", "train -d {}"]
)
def test_a_name_of_300_characters_is_one_sentence(cli, photos, tmp_path, monkeypatch, args):
    monkeypatch.chdir(tmp_path)
    code, _, err = cli(*args.format("x" * 300).split())
    assert code in (1, 2)
    assert_one_sentence(err.strip())


@pytest.mark.parametrize("args", ["train", "predict x.png"])
def test_a_removed_folder_is_one_sentence(tmp_path, args):
    done = shell(f"mkdir gone; cd gone; rmdir ../gone; mnist-fa {args}", tmp_path)
    assert done.returncode == 2
    assert "current folder has been removed" in sentence(done)


@pytest.mark.parametrize("args", ["reproduce --smoke --rows vanilla --jobs 2 -q", "export -f onnx --out there"])
def test_a_module_of_the_current_folder_is_no_module_of_a_child_process(cli, args):
    for name in ("numpy", "torch", "json", "onnxruntime"):
        Path(f"{name}.py").write_text("open('was-run', 'w'); raise SystemExit('not the real one')\n")
    code, _, err = cli(*args.split())
    assert (code, err) == (0, "")
    assert not Path("was-run").exists()


# --- what was left ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("args", [["train", "--resume"], ["export", "-f", "safetensors"]])
def test_a_checkpoint_that_a_finished_run_has_left_is_removed(cli, recipe, tmp_path, args):
    run = fit(recipe.but(num_epochs=1), out=tmp_path / "run", device="cpu")
    before = tree(run.path)
    (run.path / "checkpoint-1.safetensors").write_bytes(b"killed before its removal")
    assert cli(*args, run.path).code == 0
    assert tree(run.path) == before


def test_a_killed_worker_is_one_sentence(cli):
    def kill():
        while not list(Path("out").glob("runs/vanilla/*/recipe.json")):
            time.sleep(0.01)
        found = ["pgrep", "-P", str(os.getpid()), "-f", "LokyProcess"]
        os.kill(int(subprocess.run(found, capture_output=True, text=True, check=True).stdout.split()[0]), 9)

    killer = threading.Thread(target=kill)
    killer.start()
    code, _, err = cli("reproduce", "--rows", "vanilla", "--seeds", 2, "--jobs", 2, "-q", "--out", "out")
    killer.join()
    assert code == 1
    assert_one_sentence(err.strip())
    assert "again" in err
