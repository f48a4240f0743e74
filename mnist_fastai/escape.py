"""Names that others chose, of files, classes and recipes, made harmless in what they are shown in. Standard library."""

import csv
import io
import re
from collections.abc import Iterable

FORMULA = "=+-@\t\r\n＝＋－＠"  # what a cell begins with that a spreadsheet computes; wide forms of the signs included


def printable(text) -> str:
    r"""Text on one line of a terminal: what is not printable, such as a newline or an escape, is shown as \xNN.

    A name can then neither move the cursor nor forge a line.
    """
    text = str(text)
    return text if text.isprintable() else "".join(c if c.isprintable() else _escaped(c) for c in text)


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")


def mathtext(text, most: int = 80) -> str:
    """At most so many characters of a text in a figure, which matplotlib would read as mathematics between dollars."""
    text = printable(text)
    return (text if len(text) <= most else f"{text[: most - 1]}…").replace("$", r"\$")


def markdown(text) -> str:
    """Text on one line of markdown, without markup."""
    return re.sub(r"([\\`*_~|$<&\[\]])", r"\\\1", printable(" ".join(str(text).split())))


def csv_cell(text) -> str:
    """Text in a CSV file: a spreadsheet would compute what begins like a formula."""
    text = str(text)
    return f"'{text}" if len(text) > 1 and text[0] in FORMULA and not _is_number(text) else text


def csv_path(path) -> str:
    """A path in a CSV file, which names the same file."""
    path = str(path)
    return path if csv_cell(path) == path else f"./{path}"


def csv_line(cells: Iterable) -> str:
    """A line of a CSV file, with its end. csv.writer, told to end it so, would leave a carriage return unquoted."""
    line = io.StringIO(newline="")
    csv.writer(line, lineterminator="\r\n").writerow(cells)
    return f"{line.getvalue()[:-2]}\n"


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
