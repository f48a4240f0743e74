"""The README's commands and scripts do what it says, the long ones cut short."""

import csv
import re
import shlex
from pathlib import Path

import pytest
from conftest import write_idx_folder
from PIL import Image
from zygote import call

README = (Path(__file__).parent.parent / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.M | re.S)


def commands() -> list[str]:
    lines = [line.partition("#")[0].strip() for block in blocks("sh") for line in block.splitlines()]
    return [c.strip() for line in lines for c in line.split("&&") if c.strip().startswith("mnist-fa")]


@pytest.mark.parametrize("command", commands())
def test_a_command_of_the_readme_works(command, cli, run, small, tmp_path):
    args = shlex.split(command)[1:]
    work = tmp_path / "work"  # where `cli` is
    if args[0] == "train":
        args += ["--dry-run"] * ("--dry-run" not in args)
        write_idx_folder(work / "my-digits", small)
    elif args[0] == "export" and "--quantize" not in args:  # 400 images are too few to lose none by 8 bits
        (work / "runs").mkdir()
        (work / "runs" / "a").symlink_to(run.path)
    elif args[0] == "evaluate":
        args += [str(run.path), "--out", "evaluation"]
    elif args[0] == "tsne":
        (work / "runs").mkdir()
        (work / "runs" / "a").symlink_to(run.path)
        args += ["--iterations", "20", "--out", "tsne"]
        args += ["--samples", "100"] * ("--samples" not in args)
    elif args[0] == "reproduce":
        args += ["--rows", "baseline,vanilla"]
    elif args[0] == "predict":
        digits = [Image.fromarray(image) for image in small.test.images[:2].numpy()]
        digits[0].save(work / "digit.png")
        (work / "photos").mkdir()
        digits[1].save(work / "photos" / "two.png")
        number = Image.new("L", (70, 28))
        for i, digit in enumerate(digits):
            number.paste(digit, (35 * i, 0))
        number.save(work / "number.png")
    code, out, err = cli(*args)
    assert code == 0, err
    assert out


def test_the_scripts_of_the_readme_work(small, folder, tmp_path, monkeypatch):
    monkeypatch.setenv("MPLBACKEND", "Agg")  # no display
    (work := tmp_path / "work").mkdir()
    Image.fromarray(small.test.images[0].numpy()).save(work / "digit.png")

    def run(code: str) -> str:
        (work / "script.py").write_text(code)
        done = call(tmp_path, script="script.py")
        assert done.code == 0, done.err
        return done.out.replace("\r", "\n")  # of fastai's progress bar

    predict, more, reader, onnx = blocks("python")
    assert re.search(r"^\d \d\d\.\d%$", run(predict), re.M)
    assert re.search(r"^\[7\] 0\.\d+$", run(reader), re.M)
    assert re.search(r"^\d 0\.\d+ True$", run(onnx), re.M)  # an empty image is no digit
    few = more.replace("num_epochs=1", f"num_epochs=1, data={str(folder)!r}")
    assert few != more
    run(few)
    assert len(list((work / "runs").iterdir())) == 1


def test_the_file_tree_of_the_readme_is_that_of_the_repository():
    root = Path(__file__).parent.parent
    tree = next(block for block in blocks("text") if "recipes.py" in block)
    folder, named = root, set()
    for line in tree.splitlines():
        name = line.split()[0]
        folder = root if not line.startswith(" ") else root / "mnist_fastai"
        assert (folder / name).exists(), name
        named.add(name)
    modules = {p.name for p in (root / "mnist_fastai").glob("*.py")} - {"__init__.py"}
    assert modules <= named


def test_the_tables_of_the_readme_are_those_of_results_csv():
    with open(Path(__file__).parent.parent / "results" / "results.csv", newline="", encoding="utf-8") as f:
        rows = {row["row"]: row for row in csv.DictReader(f)}

    def points(row: dict, column: str, sign: str = "") -> str:
        return f"{100 * float(row[column]):{sign}.2f}"

    named = {name: line for line in README.splitlines() for name in re.findall(r"^\| `([^`]+)` \|", line)}
    shown = {name: line for name, line in named.items() if name in rows}
    assert {name for name in rows if not name.startswith("vanilla-")} <= set(shown)
    for name, line in shown.items():
        row, cells = rows[name], [cell.strip() for cell in line.split("|")]
        assert row["n"] == "5", name
        assert f"{points(row, 'mean')} ± {points(row, 'sd')}" in cells, name
        if row["step"]:
            interval = f"{points(row, 'step', '+')} ({points(row, 'step_low', '+')} to {points(row, 'step_high', '+')})"
            assert interval in cells, name
            assert f"{float(row['p_holm']):.2g}" in cells, name
        if row["published"]:
            assert points(row, "published") in cells, name
            assert ("**no**" in cells) == (row["met"] == "False"), name
        if row["verdict"] and row["group"] in ("readings", "failed"):
            assert row["verdict"] in cells, name
    every = {f"{points(row, 'mean')} ± {points(row, 'sd')}" for row in rows.values()}
    assert set(re.findall(r"\d\d?\.\d\d ± \d\.\d\d", README)) <= every
