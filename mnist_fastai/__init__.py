"""Train, reproduce, look into and ship digit classifiers on MNIST with fastai.

    from mnist_fastai import Recipe, fit
    run = fit(Recipe(arch="lenet", opt="adam"))
    run.metrics["accuracy"]

The names below are imported when first used (PEP 562): `import mnist_fastai` itself costs nothing.
"""

from importlib import import_module

__version__ = "0.1.0"

_HOME = {
    "Recipe": "recipes",
    "Run": "run",
    "pretrained": "run",
    "load_data": "data",
    "dataloaders": "data",
    "make_learner": "train",
    "fit": "train",
    "resume": "train",
    "load_run": "train",
    "export_model": "export",
    "Classifier": "classifier",
}
__all__ = ["__version__", *_HOME]


def __getattr__(name):
    if name in _HOME:
        return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__():
    return sorted(__all__)
