"""The commands and scripts of the README and docs do what these say, the long ones cut short."""

import csv
import html
import re
import shlex
from pathlib import Path

import click
import pytest
import typer.cli
from mnist_fastai.cli import app
from PIL import Image
from zygote import call

ROOT = Path(__file__).parent.parent
# docs/data.md, extending.md, clusters.md and draw.md have tests of their own, and evaluation.md's commands take minutes
PAGES = ["README.md", *(f"docs/{name}.md" for name in ("training", "handwriting", "maps", "export", "results"))]
TEXTS = {page: (ROOT / page).read_text() for page in PAGES}


def blocks(language: str, *pages: str) -> list[str]:
    return [b for page in pages or PAGES for b in re.findall(rf"^```{language}\n(.*?)^```", TEXTS[page], re.M | re.S)]


def commands() -> list[str]:
    lines = [line.partition("#")[0].strip() for block in blocks("sh") for line in block.splitlines()]
    found = dict.fromkeys(c for line in lines for c in line.split(" && ") if c.startswith("mnist-fa"))
    return [c for c in found if "--quantize" not in c]  # which takes half a minute, and test_shipped.py runs it


@pytest.mark.parametrize("command", commands())
def test_a_command_of_the_docs_works(command, cli, run, small, tmp_path):
    args = shlex.split(command)[1:]
    work = tmp_path / "work"  # where `cli` is
    (work / "runs").mkdir()
    for name in "ab":
        (work / "runs" / name).symlink_to(run.path)
    if args[0] == "train":
        args += ["--dry-run"] * ("--dry-run" not in args)
    elif args[0] == "tsne":
        args += ["--iterations", "20", "--out", "tsne"]
        args += ["--samples", "100"] * ("--samples" not in args)
    elif args == ["draw"]:
        args += [str(run.path)]  # its page is made in seconds
    elif args[0] == "reproduce":
        args += ["--rows", "baseline,vanilla", "--smoke"]
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


def test_the_scripts_of_the_docs_work(small, folder, tmp_path, monkeypatch):
    monkeypatch.setenv("MPLBACKEND", "Agg")  # no display
    (work := tmp_path / "work").mkdir()
    Image.fromarray(small.test.images[0].numpy()).save(work / "digit.png")

    def run(code: str) -> str:
        few = re.sub(r"num_epochs=1\b", f"num_epochs=1, data={str(folder)!r}", code)
        (work / "script.py").write_text(few)
        done = call(tmp_path, script="script.py")
        assert done.code == 0, done.err
        return done.out.replace("\r", "\n")  # of fastai's progress bar

    predict, reader, extend = blocks("python", "README.md")
    assert re.search(r"^\d \d\d\.\d%$", run(predict), re.M)
    assert re.search(r"^\[7\] 0\.\d+$", run(reader), re.M)
    assert "num_epochs=1" in extend
    assert re.search(r"^runs\S+ 0\.\d+$", run(extend), re.M)
    (onnx,) = blocks("python", "docs/export.md")
    assert re.search(r"^\d 0\.\d+ True$", run(onnx), re.M)  # an empty image is no digit
    (train,) = blocks("python", "docs/training.md")
    run(train)
    assert len(list((work / "runs").iterdir())) == 2


def test_every_link_leads_somewhere():
    pages = [
        *ROOT.glob("*.md"),
        *(p for d in ("docs", "benchmarks", "results", "models") for p in (ROOT / d).rglob("*.md")),
    ]
    for page in pages:
        for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text("utf-8")):
            assert ":" in target or (page.parent / target).exists(), f"{page.name}: {target}"


def test_the_page_of_the_commands_is_what_typer_says():
    context = typer.main.get_command(app)
    text = typer.cli.get_docs_for_click(obj=context, ctx=click.Context(context), name="mnist-fa", title="Commands")
    page = (ROOT / "docs" / "commands.md").read_text("utf-8")
    assert html.unescape(page).strip() == html.unescape(text).strip(), "make docs/commands.md anew, see CONTRIBUTING.md"


def test_the_file_tree_of_the_readme_is_that_of_the_repository():
    tree = next(block for block in blocks("text", "README.md") if "recipes.py" in block)
    folder, named = ROOT, set()
    for line in tree.splitlines():
        folder = ROOT if not line.startswith(" ") else ROOT / "mnist_fastai"
        for name in line.strip().partition("  ")[0].split():
            assert (folder / name).exists(), name
            named.add(name)
    modules = {p.name for p in (ROOT / "mnist_fastai").glob("*.py")} - {"__init__.py"}
    assert modules <= named


def test_the_tables_of_the_docs_are_those_of_results_csv():
    text = "\n".join(TEXTS.values())
    with open(ROOT / "results" / "results.csv", newline="", encoding="utf-8") as f:
        rows = {row["row"]: row for row in csv.DictReader(f)}

    def points(row: dict, column: str, sign: str = "") -> str:
        return f"{100 * float(row[column]):{sign}.2f}"

    named = {name: line for line in text.splitlines() for name in re.findall(r"^\| `([^`]+)` \|", line)}
    shown = {name: line for name, line in named.items() if name in rows}
    assert {name for name in rows if not name.startswith("vanilla-")} <= set(shown)
    for name, line in shown.items():
        row, cells = rows[name], [cell.strip() for cell in line.split("|")]
        assert row["n"] == "5" or row["n"] in cells, name
        assert points(row, "corrected") in cells, name
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
    assert set(re.findall(r"\d\d?\.\d\d ± \d\.\d\d", text)) <= every
