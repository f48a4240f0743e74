"""A run → a folder for the Hugging Face Hub, which `huggingface_hub.from_pretrained_fastai` loads."""

import json
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import torch
import yaml

from .. import __version__
from ..datasets import Split
from ..datasets.doubtful import correct_labels
from ..errors import InputError
from ..escape import markdown
from ..evaluation import forward, metrics
from ..files import check_folder, owned, read_bytes, temporary_folder, write_bytes, write_json, write_text
from ..recipes import MNIST, WITH_STROKES
from ..run import Run
from .check import Reference
from .formats import Exported, export

FILES = {"onnx": "model.onnx", "learner": "model.pkl"}  # the second as from_pretrained_fastai names it
MNIST_ID = "ylecun/mnist"  # on the Hub
BODY = """
# {title}

An image classifier, made with fastai by mnist-fastai: architecture {arch}, {parameters:,} parameters. It takes one grey
image of 28×28 pixels. Its classes are {classes}.

With `huggingface_hub`, `toml` and mnist-fastai {version} installed:

```python
from huggingface_hub import from_pretrained_fastai

learn = from_pretrained_fastai("USER/NAME")  # or this folder's name, called in the folder above it
name, index, probabilities = learn.predict("digit.png")
```

{needs}A pickle is code: loading `model.pkl` runs it. `model.safetensors` with the JSON files is the same model
without one, for `mnist_fastai.load_run`. `model.onnx` is for any ONNX runtime: `images`, uint8 [batch, 28, 28], to
`probabilities`.

## Results

{results}

| class | images | error rate |
| --- | --: | --: |
{per_class}

## Training

`mnist-fa train --recipe recipe.json` trains it again.

| field | value |
| --- | --- |
{recipe}
"""


def export_hub(run: Run, out: str | Path | None = None, *, reference: Reference | None = None) -> list[Exported]:
    """Write a folder to upload, `<run>/hub` by default: model.pkl and model.onnx, checked as by `export`, README.md and
    pyproject.toml with metadata and versions, and model.safetensors with the JSON files that make it a run directory.

    No image and no path of this machine is in it. The results in README.md are over the test images where the data has
    some and is at hand, else those of the run's metrics; over MNIST's also with labels in doubt corrected.

    Raises as `export` does, and InputError where a text file with other content stands there.
    """
    run.require_finished()
    out = Path(out) if out is not None else run.path / "hub"
    check_folder(out)
    reference = reference or Reference(run)
    with temporary_folder() as folder:
        _copy_run(run, folder / "hub")
        write_text(folder / "hub" / "README.md", _card(run, reference))
        write_text(folder / "hub" / "pyproject.toml", _project())
        contents = {path.name: read_bytes(path) for path in sorted((folder / "hub").iterdir())}
        _check_texts(out, contents)
        exported = [export(run, format, folder / format, reference=reference) for format in FILES]
        contents |= {FILES[e.format]: read_bytes(e.path) for e in exported}
    with owned(out):
        _check_texts(out, contents)
        for name, content in contents.items():
            write_bytes(out / name, content)
    return [replace(e, path=out / FILES[e.format]) for e in exported]


def _copy_run(run: Run, folder: Path) -> None:
    """What `load_run` reads, with the name of the data in place of its path."""
    folder.mkdir()
    write_bytes(folder / "model.safetensors", run.read("model.safetensors"))
    write_json(folder / "recipe.json", _without_path(json.loads(run.read("recipe.json")), "data"))
    if run.facts:  # older runs have no run.json
        facts = _without_path(json.loads(run.read("run.json")), "source")
        if "members" in facts:  # the recipes of an ensemble
            facts["members"] = [_without_path(values, "data") for values in facts["members"]]
        write_json(folder / "run.json", facts)
    Run(folder).write_metrics({key: value for key, value in run.metrics.items() if key != "sha256"})


def _without_path(values: dict, key: str) -> dict:
    """A folder is then "./NAME", since NAME alone may be that of another data set."""
    path = Path(values.get(key, ""))
    return values | ({key: f"./{path.name}"} if path.is_absolute() else {})


def _check_texts(out: Path, contents: dict[str, bytes]) -> None:
    """Raise InputError rather than replace another model's files, or a README.md that was edited."""
    for name, content in contents.items():
        if not name.startswith("model.") and (out / name).exists() and read_bytes(out / name) != content:
            raise InputError(f"{out / name} has other content; move it away, or choose another --out")


def _project() -> str:
    """The versions that the pickle was written with, where from_pretrained_fastai looks for them."""
    packages = {name: version(name).partition("+")[0] for name in ("fastai", "fastcore", "torch")}
    packages["mnist-fastai"] = __version__
    required = ", ".join(f'"{name}>={number}"' for name, number in packages.items())
    return f'[build-system]\nrequires = ["setuptools>=70", {required}]\nbuild-backend = "setuptools.build_meta"\n'


def _card(run: Run, reference: Reference) -> str:
    """README.md: metadata by the Hub's specification of model cards, and text."""
    recipe, source = run.recipe, run.facts.get("source", run.recipe.data)
    of_mnist = source in (MNIST, WITH_STROKES)
    data = "MNIST" if of_mnist else Path(source).name
    split, given, corrected = _evaluate(run, reference)
    scores = [_score("accuracy", given["accuracy"], "accuracy"), _score("loss", given["valid_loss"], "cross-entropy")]
    results = f"**{given['accuracy']:.2%}** of the {given['images']:,} {split} images of {markdown(data)} are right."
    if corrected:
        of = f"{corrected['images']:,} images"
        scores.append(_score("accuracy", corrected["accuracy"], f"accuracy, labels in doubt corrected ({of})"))
        results += (
            f" With [labels in doubt](https://labelerrors.com) corrected, {corrected['accuracy']:.2%} of {of} are."
        )
    metadata = {
        # of this code and its own models; what is trained on other images is for their owner to license
        "license": "apache-2.0" if of_mnist else "unknown",
        "library_name": "fastai",
        "pipeline_tag": "image-classification",
        "tags": ["fastai", "image-classification", "onnx"],
        **({"datasets": [MNIST_ID]} if of_mnist else {}),
        "metrics": ["accuracy"],
        "model-index": [
            {
                "name": f"{recipe.name}-s{recipe.seed}",
                "results": [
                    {
                        "task": {"type": "image-classification", "name": "Image classification"},
                        "dataset": {"type": MNIST_ID if of_mnist else "imagefolder", "name": data, "split": split},
                        "metrics": scores,
                    }
                ],
            }
        ],
    }
    passed = None if "members" in run.facts else run.facts.get("passed", {}).get("model")
    code = [*recipe.imports.values(), *filter(None, [passed])]
    needs = f"This model needs {', '.join(map(markdown, code))}, which is not in this folder. " if code else ""
    shown = _without_path(recipe.to_dict(), "data")
    body = BODY.format(
        title=markdown(f"{recipe.name}, seed {recipe.seed}"),
        arch=markdown(recipe.arch),
        parameters=sum(p.numel() for p in reference.learner.model.parameters()),
        classes=", ".join(map(markdown, run.classes)),
        version=__version__,
        needs=needs,
        results=results,
        per_class="\n".join(
            f"| {markdown(name)} | {of['images']:,} | {'' if of['images'] == 0 else format(of['error_rate'], '.2%')} |"
            for name, of in given["per_class"].items()
        ),
        recipe="\n".join(f"| {key} | {markdown(value)} |" for key, value in shown.items() if key != "format"),
    )
    return f"---\n{yaml.safe_dump(metadata, sort_keys=False, allow_unicode=True)}---\n{body}"


def _score(kind: str, value: float, name: str) -> dict:
    return {"type": kind, "value": round(value, 6), "name": name}


def _evaluate(run: Run, reference: Reference) -> tuple[str, dict, dict | None]:
    """The name of the split, the metrics over it, and over MNIST's test images those with labels in doubt corrected."""
    if reference.split == "sample":
        return run.metrics["split"], run.metrics, None
    dl = reference.learner.dls[-1]  # of the test images, where there are some
    split = "test" if len(reference.learner.dls.loaders) > 2 else reference.split
    logits, labels, _ = forward(reference.learner, dl)
    given = metrics(logits, labels, run.classes)
    doubt = correct_labels(Split(dl.tensors[0][:, 0], labels))
    if doubt is None:
        return split, given, None
    true, rows = map(torch.from_numpy, doubt)
    return split, given, metrics(logits[rows], true[rows], run.classes)
