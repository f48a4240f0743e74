"""`mnist-fa predict`. It imports what it needs inside itself, so that help answers at once."""

import io
import json
import os
import sys
from collections.abc import Iterable
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mnist_fastai.errors import InputError, RunError
from mnist_fastai.escape import csv_cell, csv_line, printable

if TYPE_CHECKING:
    from mnist_fastai.reader.session import Session


def predict(
    sources: Annotated[
        list[str], typer.Argument(metavar="FILE|FOLDER|-…", help="Images or folders; - reads one image from stdin.")
    ],
    model: Annotated[
        Path | None,
        typer.Option("--model", "-m", metavar="RUN|FILE", help="Run or model.onnx.", show_default="the shipped model"),
    ] = None,
    raw: Annotated[
        bool, typer.Option("--raw", help="The images are 28×28, white on black: take them as they are.")
    ] = False,
    multi: Annotated[bool, typer.Option("--multi", help="Read several digits as a number, a line per row.")] = False,
    top: Annotated[int, typer.Option("--top", "-k", min=1, help="Number of most probable classes to show.")] = 3,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the answers as a JSON array and nothing else.")
    ] = False,
    csv: Annotated[Path | None, typer.Option(metavar="OUT", help="Also write the answers to this CSV file.")] = None,
    kaggle: Annotated[
        bool, typer.Option("--kaggle", help="Answer the rows of Kaggle's test.csv, and write its submission to --csv.")
    ] = False,
    show_steps: Annotated[
        Path | None, typer.Option(metavar="OUT", help="Draw the preprocessing of a single image to this PNG file.")
    ] = None,
):
    """Read digits in photos, scans and drawings."""
    from mnist_fastai.reader import image, session

    if kaggle:
        if csv is None or len(sources) > 1 or multi or as_json or show_steps:
            raise InputError("--kaggle takes one CSV file of images and --csv, as in `test.csv --csv submission.csv`")
        _submit(sources[0], csv, model)
        return
    if show_steps and (raw or len(sources) > 1 or os.path.isdir(sources[0])):
        raise InputError("--show-steps draws the preprocessing of one picture; name one, without --raw")
    pictures: list = []  # names and what to read, or why that cannot be
    for source in sources:
        if source == "-":
            pictures.append((source, sys.stdin.buffer if sys.stdin else io.BytesIO()))
        else:
            files = session.find_files([source])
            pictures += [("./-" if name == "-" else name, file) for name, file in files]  # a file of this name
    outputs = {option: path for option, path in {"--csv": csv, "--show-steps": show_steps}.items() if path}
    _check_outputs(outputs, ["/dev/stdin" if name == "-" else name for name, _ in pictures], session.find_model(model))
    reader = session.Session(model)
    if show_steps:
        name, picture = pictures[0]
        if not (isinstance(picture, Path) and os.path.isfile(picture)):  # it is there to be read once
            picture = image.read_content(picture)
            pictures = [(name, picture)]
        _draw_steps(name, picture, show_steps, reader, multi)
    answered, lost = 0, None
    with session.csv_file(csv, top) if csv else nullcontext() as add_row:
        for n, answer in enumerate(session.answers(pictures, reader, raw=raw, multi=multi, top=top)):
            answered += "error" not in answer
            if add_row:
                add_row(answer)
            try:
                if as_json:
                    print("," if n else "[", json.dumps(answer), sep="\n" if n else "", end="")
                elif "error" in answer:
                    print(f"mnist-fa: {printable(answer['error'])}", file=sys.stderr)
                else:
                    print(session.line(answer))
            except RunError as e:  # nobody reads stdout any longer (`| head -1`); the CSV file is to have every answer
                if not add_row:
                    raise
                lost = e
    if lost:
        raise lost
    if as_json:
        print("\n]")
    if not answered:
        raise typer.Exit(1)


def _submit(table: str, path: Path, model: Path | None) -> None:
    """Write Kaggle's ImageId,Label for the images of a table, each taken as it is and given a class in any case."""
    from mnist_fastai.files import write_text
    from mnist_fastai.reader import session
    from mnist_fastai.reader.table import read_table

    _check_outputs({"--csv": path}, [table], session.find_model(model))
    reader = session.Session(model)
    images, _ = read_table(table)
    labels = reader.labels[reader.probabilities(images).argmax(1)]
    lines = [csv_line(("ImageId", "Label")), *(csv_line((i, csv_cell(label))) for i, label in enumerate(labels, 1))]
    write_text(path, "".join(lines))
    print(f"{printable(path)}: the digits of {len(labels):,} images")


def _check_outputs(outputs: dict[str, Path], pictures: Iterable[str], model: Path) -> None:
    """Raise InputError where an output, by its option, has no folder, or would replace what is read or another one."""
    read = {_identity(picture): "a picture that is read" for picture in pictures if outputs}
    read[_identity(model)] = "the model that is read"
    for option, path in outputs.items():
        if not os.path.isdir(path.parent):
            raise InputError(f"{option} {path} cannot be written: there is no folder {path.parent}; make it first")
        if other := read.get(_identity(path)):
            raise InputError(f"{option} {path} is {other}; name another file")
        read[_identity(path)] = f"what {option} writes"


def _identity(file: str | Path) -> tuple[int, int] | str:
    """The same for every name of a file, of a link to it included."""
    try:
        status = os.stat(file)
    except OSError:  # there is none yet
        return os.path.realpath(file)
    return status.st_dev, status.st_ino


def _draw_steps(name: str, picture: Path | bytes, path: Path, reader: "Session", multi: bool) -> None:
    from mnist_fastai import plots  # matplotlib takes 0.3 s
    from mnist_fastai.files import write_bytes
    from mnist_fastai.reader.form import preprocess
    from mnist_fastai.reader.framing import is_in_format
    from mnist_fastai.reader.image import read_image

    grey = read_image(picture)
    if not multi and is_in_format(grey, reader.format):
        name += ", which is in the model's format, and read as it is"
    steps = preprocess(grey, reader.novelty, multi=multi)
    write_bytes(path, plots.to_bytes(plots.preprocessing(steps, name)))
