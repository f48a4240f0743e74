"""The check of an exported file: a fresh process loads it and predicts, and its logits are compared with the run's."""

import io
import os
import re
import subprocess
import sys
from collections.abc import Callable
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from ..dataloader import EVAL_BATCH, dataloaders
from ..datasets import Data, Split
from ..errors import InputError, MissingData, RunError
from ..evaluation import forward
from ..files import write_bytes
from ..learner import load_run
from ..models import split
from ..run import Run, load_arrays
from .detector import LEAST, Calibrated, Taps, calibrate, fit_detector, with_blurred

TOLERANCE = 1e-5  # of an image's largest logit; on the test images, rounding changes it by 6e-7 at most
TIMEOUT = 600  # seconds that a child process may take
CHILDREN = Path(__file__).parent / "children"
DataSource = Data | str | Path
Model = nn.Module | Callable[[int], nn.Module]


class Reference:
    """The predictions of a finished run's Learner for the images that its exports are checked on.

    These are the images that its metrics are on, or the sample kept in the run where its data is missing: `images`
    uint8 [n, 28, 28], `labels` int64 [n] and `logits` float32 [n, classes], on the CPU. Takes `load_run`'s arguments
    and raises its errors.
    """

    def __init__(
        self, run: Run, *, data: DataSource | None = None, model: Model | None = None, allow_import: bool = False
    ):
        self.learner = load_run(run.path, data=data, device="cpu", model=model, allow_import=allow_import)
        self.own_code = model is not None or allow_import  # learner.pkl may name modules of the user's own
        try:
            dl = self.learner.dls.valid
            self.split = data.reported[0] if isinstance(data, Data) else run.metrics["split"]
        except MissingData:
            if data is not None or not run.sample.exists():
                raise
            sample = _read_sample(run)
            dl = dataloaders(Data(sample, sample, run.classes), normalize=run.normalize).valid
            self.split = "sample"
        logits, labels, _ = forward(self.learner, dl)
        self.images, self.labels, self.logits = dl.tensors[0][:, 0].numpy(), labels, logits.numpy()
        self._normalize = run.normalize or (0.0, 1.0)

    @cached_property
    def calibrated(self) -> Calibrated | None:
        """What the held-out images say of the model's answers; None where there are fewer than LEAST of them."""
        if self.split != "held out" or len(self.labels) < LEAST:
            return None
        detector = None
        if parts := split(self.learner.model):
            images, labels = with_blurred(*self.learner.dls.train.tensors)
            taps = (self._taps(Taps(parts[0]), x) for x in (images, torch.from_numpy(self.images)[:, None]))
            detector = fit_detector(next(taps), labels.numpy(), next(taps))
        return calibrate(self.logits, self.labels.numpy(), detector)

    @torch.no_grad()
    def _taps(self, model: Taps, images: Tensor) -> np.ndarray:
        mean, std = self._normalize
        return torch.cat([model((x.float() / 255 - mean) / std)[1] for x in images.split(EVAL_BATCH)]).numpy()


def _read_sample(run: Run) -> Split:
    try:
        arrays = load_arrays(run.read("sample.npz"), run.sample)
        return Split(arrays["images"], arrays["labels"])
    except (InputError, KeyError, TypeError) as e:
        raise InputError(f"{run.sample} is damaged; give the run's data with --data") from e


def run_child(script: str, *args: Path, what: str, own_code: bool = False) -> str:
    """Run a program of `children/` in a fresh process, in the folder of its last argument, and return its stdout.

    Only with `own_code` does it import from where this process does. Raises RunError where it fails or takes too long.
    """
    path = {"PYTHONPATH": os.pathsep.join(folder or os.getcwd() for folder in sys.path)} if own_code else {}
    command = [sys.executable, "-P", "-W", "ignore", CHILDREN / script, *args]
    try:
        done = subprocess.run(command, cwd=args[-1].parent, env=os.environ | path, capture_output=True, timeout=TIMEOUT)
    except subprocess.TimeoutExpired as e:
        raise RunError(f"{what} (the process took more than {TIMEOUT} seconds); it was not written") from e
    if done.returncode:
        said = done.stderr.decode("utf-8", "backslashreplace").strip().splitlines()
        reason = said[-1] if said else f"exit code {done.returncode}"
        raise RunError(f"{what} ({first_sentence(reason)}); it was not written")
    return done.stdout.decode()


def predict(format: str, path: Path, reference: Reference, folder: Path, what: str) -> np.ndarray:
    """The logits that a fresh process computes with the file at `path`, float32 [n, classes]."""
    images, logits = save_array(folder / "images.npy", reference.images), folder / "logits.npy"
    script = f"predict_{format.replace('-', '_')}.py"
    run_child(script, path, images, logits, what=f"{what} does not load", own_code=reference.own_code)
    return np.load(logits)


def compare(expected: np.ndarray, logits: np.ndarray) -> tuple[int, int]:
    """The number of images for which logits [n, classes] predict another class than the expected ones, and of ties.

    At a tie, which is not one of them, the expected logits of the two classes are within TOLERANCE of each other.
    """
    predicted = logits.argmax(1)
    margin = expected.max(1) - np.take_along_axis(expected, predicted[:, None], 1)[:, 0]
    right = (margin <= TOLERANCE * np.abs(expected).max(1)) & np.isfinite(logits).all(1)
    return int((~right).sum()), int((right & (predicted != expected.argmax(1))).sum())


def save_array(path: Path, array: np.ndarray) -> Path:
    content = io.BytesIO()
    np.save(content, array)
    write_bytes(path, content.getvalue())
    return path


def first_sentence(text: str) -> str:
    return re.split(r"[.!?]?(?:\s*\n|\s*$)|[.!?]\s", text.strip())[0]
