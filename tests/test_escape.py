"""Names that others chose do no harm in a terminal, a figure, a table or a spreadsheet."""

import csv
import io
import os

import pytest
from matplotlib.figure import Figure

from mnist_fastai import plots
from mnist_fastai.escape import csv_cell, csv_line, csv_path, markdown, mathtext, printable

ODD = [
    os.fsdecode(b"caf\xe9.png"),
    "a.png: 7  99.9%\nb.png",
    "\x1b[2J\x1b]0;title\x07",
    "\u202egnp.exe",
    "a\tb\rc\0",
    r"$\bad$",
    "$",
    r"\$",
    "$$x$",
    "名前",
    "x" * 500,
]


@pytest.mark.parametrize("name", ODD)
def test_a_name_stays_on_its_line_and_commands_no_terminal(name):
    shown = printable(name)
    assert shown.isprintable()
    assert len(shown.splitlines()) == 1
    assert shown.encode("utf-8")
    assert printable("plain, größer 7 × 8") == "plain, größer 7 × 8"


@pytest.mark.parametrize("name", ODD)
@pytest.mark.parametrize("format", ["png", "svg", "pdf"])
def test_a_name_is_drawn_as_it_is(name, format):
    figure = Figure(figsize=(2, 2))
    figure.suptitle(mathtext(name))
    figure.subplots().plot([0, 1], label=mathtext(name, 40))
    figure.legend()
    assert plots.to_bytes(figure, format)


def test_dollars_are_no_mathematics():
    figure = Figure()
    text = figure.suptitle(mathtext(r"$\frac{1}{2}$"))
    assert plots.to_bytes(figure)
    assert not text._preprocess_math(text.get_text())[1]


@pytest.mark.parametrize("name", ["=HYPERLINK(1)", "+1+1", "-x", "@SUM(A1)", "\tx", "\r=1", "＝1+1"])
def test_a_spreadsheet_computes_no_name(name):
    assert csv_cell(name) == f"'{name}"
    assert csv_path(name) == f"./{name}"


@pytest.mark.parametrize("name", ["-1", "+", "-", "=", "1e5", "a=b", "", "7", "dir/=x"])
def test_a_name_that_is_no_formula_stays_as_it_is(name):
    assert csv_cell(name) == csv_path(name) == name


@pytest.mark.parametrize("cells", [["a\nb", "c"], ["a\rb", '"'], ["", "x,y"], ["\r", "\r\n"]])
def test_a_line_of_a_csv_file_is_read_back(cells):
    assert list(csv.reader(io.StringIO(csv_line(cells), newline=""))) == [cells]


@pytest.mark.parametrize("name", [*ODD, "[a](b)", "a|b", "`x`", "<img>", "*b*", "_b_", "&amp;"])
def test_markdown_is_one_line_without_markup(name):
    shown = markdown(name)
    assert "\n" not in shown
    assert shown.isprintable()
    for mark in "|`[]*<":
        assert shown.replace(f"\\{mark}", "").count(mark) == 0
