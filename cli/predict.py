"""`mnist-fa predict`. It imports what it needs inside itself, so that help answers at once."""

import json
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated

import typer

from mnist_fastai.errors import InputError


def predict(
    sources: Annotated[
        list[str], typer.Argument(metavar="FILE|FOLDER|-…", help="Images or folders; - reads one image from stdin.")
    ],
    model: Annotated[
        Path | None,
        typer.Option("--model", "-m", metavar="RUN|FILE", help="Run or model.onnx.", show_default="the shipped model"),
    ] = None,
    raw: Annotated[
        bool, typer.Option("--raw", help="The images are in MNIST's format: 28×28, white on black, centred.")
    ] = False,
    multi: Annotated[bool, typer.Option("--multi", help="Read several digits, left to right, as a number.")] = False,
    top: Annotated[int, typer.Option("--top", "-k", min=1, help="Number of most probable classes to show.")] = 3,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the answers as a JSON array and nothing else.")
    ] = False,
    csv: Annotated[Path | None, typer.Option(metavar="OUT", help="Also write the answers to this CSV file.")] = None,
    show_steps: Annotated[
        Path | None, typer.Option(metavar="OUT", help="Draw the preprocessing of a single image to this PNG file.")
    ] = None,
):
    """Read digits in photos, scans and drawings."""
    from mnist_fastai.reader import session

    if show_steps and (raw or len(sources) > 1 or Path(sources[0]).is_dir()):
        raise InputError("--show-steps draws the preprocessing of one picture; name one, without --raw")
    reader = session.Session(model)
    files = list(session.find_files(sources))
    pictures = ((str(f), sys.stdin.buffer.read() if str(f) == "-" else f) for f in files)
    if show_steps:
        pictures = list(pictures)
        _draw_steps(*pictures[0], show_steps)
    answered = 0
    with session.csv_file(csv, top) if csv else nullcontext() as add_row:
        for n, answer in enumerate(session.answers(pictures, reader, raw=raw, multi=multi, top=top)):
            answered += "error" not in answer
            if as_json:
                print("," if n else "[", json.dumps(answer), sep="\n" if n else "", end="")
            elif "error" in answer:
                print(f"mnist-fa: {answer['error']}", file=sys.stderr)
            else:
                print(session.line(answer))
            if add_row:
                add_row(answer)
    if as_json:
        print("\n]")
    if not answered:
        raise typer.Exit(1)


def _draw_steps(name: str, picture: Path | bytes, path: Path) -> None:
    from mnist_fastai import plots  # matplotlib takes 0.3 s
    from mnist_fastai.files import atomic_file
    from mnist_fastai.reader.form import preprocess
    from mnist_fastai.reader.image import read_image

    with atomic_file(path) as tmp:
        plots.preprocessing(preprocess(read_image(picture)), name).savefig(tmp, format="png", dpi=150)
