"""The public names as a type checker sees them; `mypy` reads this file, and nothing runs it."""

from pathlib import Path
from typing import assert_type

import numpy as np
from torch import Tensor

from mnist_fastai import (
    RECIPES,
    Classifier,
    Data,
    Evaluation,
    Exported,
    Recipe,
    Run,
    Session,
    Split,
    embed,
    evaluate,
    export,
    fit,
    forward,
    load_data,
    load_recipe,
    load_run,
    metrics,
    preprocess,
    pretrained,
    read_image,
    resume,
    transform,
)

assert_type(RECIPES["improved"], Recipe)
assert_type(load_recipe("improved").but(seed=1), Recipe)
assert_type(load_data().hold_out(0.1), Data)
assert_type(load_data().train[:3], Split)
assert_type(Split(np.zeros((2, 28, 28), np.uint8), np.zeros(2, int)).images, Tensor)
assert_type(fit(Recipe(arch="lenet"), out="run"), Run)
assert_type(resume("run"), Run)
assert_type(pretrained(), Path)
assert_type(evaluate("run", data=["mnist", "mnist-c"]), Evaluation)
assert_type(Run("run").history[-1], dict)
assert_type(export(Run("run"), "onnx"), Exported)
assert_type(forward(load_run("run")).logits, Tensor)
assert_type(metrics(Tensor(), Tensor(), ("a",)), dict)
assert_type(transform(embed(np.zeros((20, 3))), np.zeros((1, 3))), np.ndarray)
assert_type(preprocess(read_image("digit.png")).digits[0].image, np.ndarray)
assert_type(Session().classes, list[str])
assert_type(Classifier().predict(["digit.png"]), np.ndarray)
