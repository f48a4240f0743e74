"""Train, reproduce, look into and ship digit classifiers on MNIST with fastai.

    from mnist_fastai import Recipe, fit
    run = fit(Recipe(arch="lenet", opt="adam"))
    run.metrics["accuracy"]

The names below are imported when first used (PEP 562): `import mnist_fastai` itself costs nothing.
"""

import os
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .dataloader import dataloaders
    from .datasets import Data, Split, load_data
    from .embedding import embed, transform
    from .ensembling import ensemble
    from .errors import InputError, MissingData, RunError
    from .evaluation import forward, metrics
    from .exports import Exported, export
    from .learner import load_run, make_learner
    from .reader.classifier import Classifier
    from .reader.form import preprocess
    from .reader.image import read_image
    from .reader.session import Session
    from .recipes import RECIPES, Recipe, load_recipe
    from .report import Evaluation, evaluate
    from .run import Run, pretrained
    from .train import fit, resume

# ONNX Runtime's telemetry writes a device id in the home folder and looks up a host. It reads this as it is imported,
# which packages may do that know nothing of this one; child processes inherit it.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

__version__ = "0.2.0"
__all__ = [  # noqa: RUF022  in the order of the pipeline
    "Recipe", "RECIPES", "load_recipe",
    "Data", "Split", "load_data", "dataloaders",
    "make_learner", "fit", "resume", "ensemble", "load_run", "Run", "pretrained",
    "forward", "metrics", "evaluate", "Evaluation", "embed", "transform", "export", "Exported",
    "Session", "Classifier", "preprocess", "read_image",
    "InputError", "MissingData", "RunError",
]  # fmt: skip

_MODULES = {
    "recipes": "Recipe RECIPES load_recipe",
    "datasets": "Data Split load_data",
    "dataloader": "dataloaders",
    "learner": "make_learner load_run",
    "train": "fit resume",
    "ensembling": "ensemble",
    "run": "Run pretrained",
    "evaluation": "forward metrics",
    "report": "evaluate Evaluation",
    "embedding": "embed transform",
    "exports": "export Exported",
    "reader.session": "Session",
    "reader.classifier": "Classifier",
    "reader.form": "preprocess",
    "reader.image": "read_image",
    "errors": "InputError MissingData RunError",
}
_HOME = {name: module for module, names in _MODULES.items() for name in names.split()}


def __getattr__(name: str):
    if name in _HOME:
        return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(["__version__", *__all__])
