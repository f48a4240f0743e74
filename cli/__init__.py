"""The command line. Each command imports what it needs inside itself, so that help answers at once."""

import json
import sys
from contextlib import nullcontext
from dataclasses import asdict, fields
from pathlib import Path
from typing import Annotated, Literal

import typer
from typer.core import TyperGroup

from mnist_fastai.errors import InputError, RunError
from mnist_fastai.recipes import ARCHS, LEARNING_RATE_001, NORMALIZE, OPTS, RECIPES, Recipe


class Commands(TyperGroup):
    """Says an error in one sentence on stderr, with exit code 2 for a mistake of the caller's and 1 for a failure."""

    def invoke(self, ctx):
        try:
            return super().invoke(ctx)
        except InputError as e:
            code, message = 2, e
        except RunError as e:
            code, message = 1, e
        except ModuleNotFoundError as e:  # where only what predict needs was installed
            code, message = 1, f"{e.name} is not installed; `pip install` this package with its dependencies"
        except KeyboardInterrupt as e:
            code, message = 130, str(e) or "stopped"
        print(f"mnist-fa: {message}", file=sys.stderr)
        raise typer.Exit(code)


app = typer.Typer(cls=Commands, no_args_is_help=True, pretty_exceptions_enable=False)


def _version(asked: bool):
    if asked:
        from mnist_fastai import __version__

        print(f"mnist-fa {__version__}")
        raise typer.Exit


@app.callback()
def main_options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
):
    """Train digit classifiers on MNIST with fastai, look into them, and ship them."""


_default = Recipe()


def _recipe(*names, **kwargs):
    return typer.Option(*names, rich_help_panel="Recipe (an option changes what --recipe says)", **kwargs)


def _run(*names, **kwargs):
    return typer.Option(*names, rich_help_panel="Run", **kwargs)


def _output(*names, **kwargs):
    return typer.Option(*names, rich_help_panel="Output", **kwargs)


@app.command()
def train(
    ctx: typer.Context,
    recipe: Annotated[
        str, _recipe("--recipe", "-r", metavar="NAME", help="A row of the results table, or another named recipe.")
    ] = LEARNING_RATE_001.name,
    arch: Annotated[Literal[ARCHS], _recipe("--arch", "-a", help="Architecture.")] = _default.arch,
    opt: Annotated[
        Literal[OPTS], _recipe("--opt", "-o", help="Adam, or SGD with momentum 0.9, plain or Nesterov's.")
    ] = _default.opt,
    num_epochs: Annotated[
        int, _recipe("--num-epochs", "-n", help="Epochs; 0 leaves the weights random.")
    ] = _default.num_epochs,
    learning_rate: Annotated[float, _recipe("--learning-rate", "-l", help="Learning rate.")] = _default.learning_rate,
    batch_size: Annotated[int, _recipe("--batch-size", "-b", help="Images in a training batch.")] = _default.batch_size,
    normalize: Annotated[
        Literal[tuple(NORMALIZE)],
        _recipe(help="Mean and deviation that pixels are normalised with: 0 and 1, 0.5 and 0.5, or MNIST's own."),
    ] = _default.normalize,
    seed: Annotated[int, _recipe("--seed", "-s", help="Of all that is random.")] = _default.seed,
    data: Annotated[
        str, _recipe("--data", "-d", help="mnist, or a folder of IDX files or of images by class.")
    ] = _default.data,
    valid_fraction: Annotated[
        float, _recipe(help="Hold out this part of the training images, and report on it, not on the test images.")
    ] = _default.valid_fraction,
    device: Annotated[Literal["auto", "cpu", "cuda"], _run(help="auto: CUDA where there is one.")] = "auto",
    out: Annotated[
        Path | None, _run(help="Run directory.", show_default="runs/<date-time>-<arch>-<opt>-s<seed>")
    ] = None,
    resume: Annotated[Path | None, _run(metavar="RUN", help="Go on with this run from its last whole epoch.")] = None,
    dry_run: Annotated[bool, _run("--dry-run", help="Two batches through everything, and nothing kept.")] = False,
    as_json: Annotated[
        bool, _output("--json", help="Print the metrics and the run as JSON, and nothing else, on stdout.")
    ] = False,
    quiet: Annotated[bool, _output("--quiet", "-q", help="Show no progress.")] = False,
):
    """Train a model, and leave a run directory. With no option: the published table's last row."""
    given = {name for name in ctx.params if ctx.get_parameter_source(name).name == "COMMANDLINE"}
    if resume is not None:
        wrong = sorted(given - {"resume", "device", "as_json", "quiet"})
        if wrong:
            option = wrong[0].replace("_", "-")
            raise InputError(f"--resume takes its recipe and its directory from {resume}; leave --{option} out")
    elif recipe not in RECIPES:
        raise InputError(f"recipe {recipe!r} is not known; take one of {', '.join(RECIPES)}")
    changes = {f.name: ctx.params[f.name] for f in fields(Recipe) if f.name in given}
    if changes.get("data", "mnist") != "mnist":
        changes["data"] = str(Path(data).resolve())
    chosen = RECIPES[recipe].but(**changes) if resume is None else None

    _ignore_fastai_warning()
    from rich.console import Console

    from mnist_fastai import train
    from mnist_fastai.files import check_new

    console = None if quiet else Console(stderr=as_json)
    if dry_run and out:
        check_new(out)
    if dry_run:
        metrics, path = train.dry_run(chosen, device=device, console=console), None
    else:
        if resume is not None:
            run = train.resume(resume, device=device, console=console)
        else:
            run = train.fit(chosen, out, device=device, console=console)
        metrics, path = run.metrics, str(run.path)
    if as_json:
        print(json.dumps({"run": path, **metrics}, indent=2))


@app.command()
def reproduce(
    rows: Annotated[
        str, typer.Option(metavar="NAMES", help="Recipes, or groups of them, with commas between.")
    ] = "table,improved,starts,failed,readings",
    seeds: Annotated[
        int | None, typer.Option(min=1, help="Runs a row.", show_default="5, or 3 for failed and readings")
    ] = None,
    jobs: Annotated[
        int | None, typer.Option("--jobs", "-j", min=1, help="Runs at once.", show_default="one a core")
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for the runs and what they say.")] = Path("runs/reproduce"),
    smoke: Annotated[bool, typer.Option("--smoke", help="Few images, one epoch, two seeds: does it work?")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Show no progress.")] = False,
):
    """Reproduce the results table: every row, several seeds each. Stopped, it goes on where it was."""
    _ignore_fastai_warning()
    from rich.console import Console

    from mnist_fastai import reproduce
    from mnist_fastai.data import load_data
    from mnist_fastai.results import write_results

    chosen = reproduce.select([name.strip() for name in rows.split(",") if name.strip()])
    console = None if quiet else Console()
    try:
        tasks = reproduce.reproduce(chosen, out, seeds=seeds, jobs=jobs, smoke=smoke, console=console)
    except KeyboardInterrupt:
        raise KeyboardInterrupt("stopped; the same command goes on from here") from None
    errors = {task.recipe.name: task.error for task in tasks if task.error}
    labels = load_data().valid.labels.numpy()
    write_results(out, labels[: reproduce.SMOKE] if smoke else labels, errors)
    if not quiet:
        print((out / "results.md").read_text())


@app.command()
def export(
    run: Annotated[
        Path | None,
        typer.Argument(help="Run directory.", show_default="the latest finished run in ./runs, else the shipped model"),
    ] = None,
    format: Annotated[
        Literal["learner", "safetensors", "onnx", "torch-export", "all"],
        typer.Option(
            "--format",
            "-f",
            help="learner: learner.pkl, for fastai's load_learner. safetensors: the run itself, weights and JSON. "
            "onnx: model.onnx, from images to probabilities. torch-export: the same as model.pt2. Or all four.",
        ),
    ] = "learner",
    out: Annotated[
        Path | None, typer.Option(help="Folder to write to.", show_default="the run; here, for the shipped model")
    ] = None,
    quantize: Annotated[
        Literal["int8"] | None,
        typer.Option(help="Write model-int8.onnx as well, and compare; refused where 0.1 points would be lost."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print what was written as JSON, and nothing else.")] = False,
):
    """Write a run's model in a form that others load, checked in a fresh process against the run."""
    if quantize and format not in ("onnx", "all"):
        raise InputError(f"--quantize makes an ONNX file, not one of --format {format}; add --format onnx")
    from mnist_fastai.run import Run, pretrained

    found = Run(run) if run else Run.latest()
    found.require_finished()
    if out is None and found.path == pretrained():
        out = Path()  # and not into the installed package
    _ignore_fastai_warning()
    from mnist_fastai import export

    export.find_folder(found, out)
    answers = export.Answers(found)
    written, failed = [], []
    for name in export.FILES if format == "all" else [format]:
        try:
            one = export.export_model(found, name, out, answers)
            written.append(asdict(one))
            if not as_json:
                print(_same(one, found.path))
            if quantize and name == "onnx":
                both = export.quantize(found, out, answers)
                written.append({"format": "int8", **asdict(both[1]), "float": asdict(both[0])})
                if not as_json:
                    print(_side_by_side(both))
        except RunError as e:
            failed.append(e)
    if as_json:
        print(json.dumps(written, indent=2, default=str))
    if failed:
        raise RunError("; ".join(map(str, failed)))


def _same(one, run: Path) -> str:
    shown = ", ".join(f"image {t.image}: {t.run} or {t.exported}" for t in one.ties[:5])
    more = ", …" if len(one.ties) > 5 else ""
    but = f" but for {len(one.ties)} tie{'s' * (len(one.ties) > 1)} ({shown}{more})" if shown else ""
    return f"{one.path}: every prediction equals that of {run}{but}, logits to within {one.max_logit_difference:.1g}"


def _side_by_side(measured) -> str:
    width = max(len(str(m.path)) for m in measured)
    rows = [f"{'':{width}}      bytes  images/second  accuracy"]
    rows += [f"{m.path!s:{width}}  {m.bytes:>9,}  {m.images_per_second:>13,}  {m.accuracy:>8.2%}" for m in measured]
    return "\n".join(rows)


@app.command()
def tsne(
    run: Annotated[
        Path | None,
        typer.Argument(help="Run directory.", show_default="the latest finished run in ./runs, else the shipped model"),
    ] = None,
    layer: Annotated[str, typer.Option(help="Whose output is mapped; 0 is all but the last layer.")] = "0",
    samples: Annotated[
        str | None,
        typer.Option(metavar="N|all", help="Images, evenly of each class.", show_default="1000, or all of fewer"),
    ] = None,
    perplexity: Annotated[
        float | None, typer.Option(help="Neighbours that count, roughly.", show_default="30, or less for few images")
    ] = None,
    iterations: Annotated[int, typer.Option(min=1, help="After 250 with early exaggeration.")] = 500,
    seed: Annotated[int, typer.Option("--seed", "-s", min=0, max=2**32 - 1, help="Of all that is random.")] = 0,
    thumbnails: Annotated[
        bool, typer.Option("--thumbnails", help="Draw the images in place of dots, where there is room.")
    ] = False,
    format: Annotated[Literal["png", "svg", "pdf"], typer.Option("--format", "-f", help="Of the pictures.")] = "png",
    projector: Annotated[
        bool, typer.Option("--projector", help="Also write files for TensorBoard's embedding projector.")
    ] = False,
    out: Annotated[
        Path | None, typer.Option(help="Folder to write to.", show_default="RUN/tsne; ./tsne for the shipped model")
    ] = None,
    device: Annotated[Literal["auto", "cpu", "cuda"], typer.Option(help="auto: CUDA where there is one.")] = "auto",
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the scores as JSON, and nothing else, on stdout.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Show no progress.")] = False,
):
    """Map test images by t-SNE: by their pixels, by the network with random weights, and by the trained one."""
    if samples not in (None, "all") and not samples.isdecimal():
        raise InputError(f"--samples takes a number of images, or all, and not {samples!r}")
    from mnist_fastai.run import Run, pretrained

    found = Run(run) if run else Run.latest()
    if out is None:
        out = Path("tsne") if found.path == pretrained() else found.path / "tsne"
    _ignore_fastai_warning()
    from rich.console import Console

    from mnist_fastai.tsne import tsne

    result = tsne(
        found, out, layer=layer, samples=samples if samples in (None, "all") else int(samples), perplexity=perplexity,
        iterations=iterations, seed=seed, format=format, thumbnails=thumbnails, projector=projector, device=device,
        console=None if quiet else Console(stderr=as_json),
    )  # fmt: skip
    if as_json:
        print(json.dumps(result, indent=2))


@app.command()
def predict(
    sources: Annotated[list[str], typer.Argument(metavar="FILE|FOLDER|-…", help="Pictures; - reads one from stdin.")],
    model: Annotated[
        Path | None,
        typer.Option("--model", "-m", metavar="RUN|FILE", help="model.onnx, or a run.", show_default="the shipped one"),
    ] = None,
    raw: Annotated[
        bool, typer.Option("--raw", help="They are in MNIST's format already: 28×28, white on black, centred.")
    ] = False,
    multi: Annotated[bool, typer.Option("--multi", help="Read several digits, left to right, as a number.")] = False,
    top: Annotated[int, typer.Option("--top", "-k", min=1, help="Show this many of the most probable classes.")] = 3,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the answers as a JSON array, and nothing else.")
    ] = False,
    csv: Annotated[Path | None, typer.Option(metavar="OUT", help="Write the answers to this file as well.")] = None,
    show_steps: Annotated[
        Path | None, typer.Option(metavar="OUT", help="Draw what is done to the picture, which must be the only one.")
    ] = None,
    trust: Annotated[bool, typer.Option("--trust", help="Let --model be a learner.pkl, and run its code.")] = False,
):
    """Read digits in photos, scans and drawings."""
    from mnist_fastai import predict

    if show_steps and (raw or len(sources) > 1 or Path(sources[0]).is_dir()):
        raise InputError("--show-steps draws what is done to one picture; name one, without --raw")
    if model is not None and model.suffix == ".pkl":
        if not trust:
            raise InputError(f"{model} is a pickle, which runs code when it is read; give --trust if you made it")
        _ignore_fastai_warning()
        session = predict.PickledLearner(model)
    else:
        session = predict.Session(model)
    files = list(predict.find_files(sources))
    pictures = ((str(f), sys.stdin.buffer.read() if str(f) == "-" else f) for f in files)
    if show_steps:
        pictures = list(pictures)
        predict.draw_steps(*pictures[0], show_steps)
    answered = 0
    with predict.csv_file(csv, top) if csv else nullcontext() as table:
        for n, answer in enumerate(predict.answers(pictures, session, raw=raw, multi=multi, top=top)):
            answered += "error" not in answer
            if as_json:
                print("," if n else "[", json.dumps(answer), sep="\n" if n else "", end="")
            elif "error" in answer:
                print(f"mnist-fa: {answer['error']}", file=sys.stderr)
            else:
                print(predict.line(answer))
            if table:
                table(answer)
    if as_json:
        print("\n]")
    if not answered:
        raise typer.Exit(1)


def _ignore_fastai_warning():
    """fastai 2.8 uses torch.jit.script, which torch has deprecated: here, and in the processes that start from here."""
    import os
    import warnings

    warnings.filterwarnings("ignore", message=".*torch.jit.script.*")
    os.environ.setdefault("PYTHONWARNINGS", "ignore::FutureWarning:torch.jit._script")


def main():
    app()
