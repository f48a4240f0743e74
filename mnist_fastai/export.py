"""Models that leave the run: each is checked against the Learner, in a fresh process, before it is called done."""

import pickle
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from fastai.learner import Learner

from .errors import InputError, RunError
from .evaluate import predict_logits
from .run import Run, whole_file, write_bytes
from .train import load_run

# What a user's script does, and no more: nothing of this package is imported but by the pickle itself.
_PREDICT = """
import sys, warnings
warnings.simplefilter("ignore")
import numpy as np
from fastai.learner import load_learner
learner = load_learner(sys.argv[1])
images = np.load(sys.argv[2])
with learner.no_bar():
    probabilities, _ = learner.get_preds(dl=learner.dls.test_dl(list(images), bs=500, num_workers=0))
np.save(sys.argv[3], probabilities.numpy())
"""


def write_learner(learner: Learner, path: Path) -> None:
    """Write what `load_learner` reads. It is a pickle: to load one is to run code, so load only what you trust."""
    with whole_file(path) as tmp:
        try:
            # fastai's default, cloudpickle, writes some of fastai's functions by value: as bytecode of this very
            # Python, with paths of this machine
            learner.export(tmp.resolve(), pickle_module=pickle)
        except RuntimeError as e:  # of torch's zip writer, where the disk is full
            raise OSError("the disk may be full") from e


def export_learner(run: Run, out: str | Path | None = None) -> tuple[Path, float]:
    """Write the run's `learner.pkl` into the folder `out`, the run's own by default, once it has been checked.

    The check loads it in a fresh process, in another folder, with fastai's `load_learner`, and predicts every
    validation image through the DataBlock's own pipeline: each class must equal the run's. Returns the path and the
    largest difference of a probability. Raises RunError where one does not, and writes nothing then.
    """
    out = Path(out) if out is not None else run.path
    learner = load_run(run.path)
    there = next(p for p in (out, *out.resolve().parents) if p.exists())
    if not there.is_dir():
        raise InputError(f"cannot make the folder {out} ({there} is a file); choose another --out")
    logits, _ = predict_logits(learner)
    expected = logits.softmax(1).numpy()
    with tempfile.TemporaryDirectory() as folder:
        trial, images, answers = (Path(folder) / name for name in ("learner.pkl", "images.npy", "answers.npy"))
        write_learner(learner, trial)
        with whole_file(images) as tmp, open(tmp, "wb") as f:
            np.save(f, learner.dls.valid.tensors[0][:, 0].numpy())
        command = [sys.executable, "-c", _PREDICT, trial, images, answers]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
        if done.returncode:
            last = done.stderr.strip().splitlines()[-1:] or ["no message"]
            raise RunError(f"the exported learner.pkl of {run.path} does not load ({last[0]}); nothing was written")
        found = np.load(answers)
        wrong = int((found.argmax(1) != expected.argmax(1)).sum())
        if wrong:
            raise RunError(f"the exported learner.pkl differs from {run.path} on {wrong} images; nothing was written")
        try:
            out.mkdir(parents=True, exist_ok=True)
        except OSError as e:
            raise InputError(f"cannot make the folder {out} ({e.strerror}); choose another --out") from e
        write_bytes(out / "learner.pkl", trial.read_bytes())
    return out / "learner.pkl", float(np.abs(found - expected).max())
