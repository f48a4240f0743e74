"""A digit reader on ONNX Runtime: pictures in, digits and probabilities out. It imports neither torch nor fastai."""

import csv
import json
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path

import numpy as np

from .errors import InputError
from .files import atomic_file
from .preprocess import SIZE, preprocess, read_image
from .run import Run, pretrained

BATCH = 64  # images that go through the network, and pictures that are held, at once: 1,000 are slower
UNSURE = 0.5  # below this probability, the other classes together are as likely, and the answer is said to be so
HOW = "`mnist-fa export {} --format onnx` writes one"


class Session:
    """A model that `mnist-fa export --format onnx` wrote, ready to answer. Raises InputError where `path` is none.

    `path` is the file, or a run directory that has a model.onnx. Without it, the shipped model.
    """

    classes: list[str]

    def __init__(self, path: str | Path | None = None):
        import onnxruntime

        path = Path(path) if path is not None else pretrained()
        how = HOW.format("RUN")
        if path.is_dir():
            path, how = Run(path).path / "model.onnx", HOW.format(path)
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4  # what goes wrong is said here, in one sentence
        # threads that spin while they wait take the cores from whatever else runs
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        try:
            content = path.read_bytes()
        except OSError as e:
            raise InputError(f"{path} cannot be read ({e.strerror}); {how}") from e
        try:
            self._session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        except Exception as e:  # onnxruntime's have no other class in common
            raise InputError(f"{path} is no ONNX model that can be run; {how}") from e
        inputs = [(i.name, i.type, i.shape[1:]) for i in self._session.get_inputs()]
        about = self._session.get_modelmeta().custom_metadata_map
        if inputs != [("images", "tensor(uint8)", [SIZE, SIZE])] or "classes" not in about:
            found = ", ".join(f"{name}: {kind} {shape}" for name, kind, shape in inputs) or "none"
            raise InputError(f"{path} is not a model of this package (its input is {found}); {how}")
        self.classes = json.loads(about["classes"])

    def probabilities(self, images: np.ndarray) -> np.ndarray:
        """Float32 [n, classes] for images in MNIST's format, uint8 [n, 28, 28]."""
        batches = (images[i : i + BATCH] for i in range(0, len(images), BATCH))
        out = [self._session.run(["probabilities"], {"images": batch})[0] for batch in batches]
        return np.concatenate([np.empty((0, len(self.classes)), np.float32), *out])


class PickledLearner:
    """A `learner.pkl` in a Session's place. To read one is to run its code."""

    def __init__(self, path: Path):
        from fastai.learner import load_learner

        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # that a pickle runs code is known: it was asked for
                self._learner = load_learner(path)
        except Exception as e:  # whatever its code may raise
            raise InputError(f"{path} is no learner.pkl that can be read ({type(e).__name__})") from e
        self.classes = list(self._learner.dls.vocab)

    def probabilities(self, images: np.ndarray) -> np.ndarray:
        with self._learner.no_bar():
            return self._learner.get_preds(dl=self._learner.dls.test_dl(list(images), num_workers=0))[0].numpy()


def values(classes: list[str]) -> np.ndarray:
    """What a prediction is named by: integers where all classes are digits, else their names."""
    return np.array([int(c) for c in classes] if all(c.isdecimal() for c in classes) else classes)


def read_raw(source) -> np.ndarray:
    """The pixels, uint8 [28, 28], of an image that is in MNIST's format already."""
    pixels = read_image(source)
    if pixels.shape != (SIZE, SIZE):
        name = source if isinstance(source, (str, Path)) else "the image"
        height, width = pixels.shape
        raise InputError(f"{name} has {width}×{height} pixels, not MNIST's {SIZE}×{SIZE}; leave raw out")
    return pixels


def find_files(sources: Iterable[str]) -> Iterator[Path]:
    """The files that are named, and those in and below the folders that are, by name; none that is hidden."""
    for source in map(Path, sources):
        if not source.is_dir():
            yield source
            continue
        inside = [p for p in sorted(source.rglob("*")) if p.is_file()]
        inside = [p for p in inside if not any(part.startswith(".") for part in p.relative_to(source).parts)]
        if not inside:
            raise InputError(f"{source} has no files; name a picture, or a folder that has some")
        yield from inside


def answers(
    pictures: Iterable[tuple[str, Path | bytes]],  # names and what to read
    session: Session | PickledLearner,
    *,
    raw: bool = False,  # they are in MNIST's format already
    multi: bool = False,  # read each as a number
    top: int = 3,  # of the most probable classes
) -> Iterator[dict]:
    """A dict for each picture, in order, as `mnist-fa predict --json` prints it.

    {"file", "digit", "probability", "top": [[digit, probability], …]}, with "note" where the probability is low; with
    `multi` {"file", "number", "probability", "digits": [{"digit", "probability", "top", "box"}, …]}; and
    {"file", "error"} where nothing could be read. Pictures are held no longer than a batch.
    """
    names = values(session.classes).tolist()

    def read(name: str, picture: Path | bytes) -> dict:
        try:
            if raw:
                return {"images": [read_raw(picture)], "boxes": [[0, 0, SIZE, SIZE]]}
            digits = preprocess(read_image(picture)).digits
        except InputError as e:
            return {"error": str(e)}
        if not digits:
            return {"error": f"no digit was found in {name}; --show-steps draws what was seen"}
        if len(digits) > 1 and not multi:
            return {"error": f"{name} has {len(digits)} digits, not one; --multi reads them as a number"}
        return {"images": [d.image for d in digits], "boxes": [[int(side) for side in d.box] for d in digits]}

    def answer(row: np.ndarray) -> dict:
        best = [[names[i], round(float(row[i]), 6)] for i in np.argsort(-row, kind="stable")[:top]]
        return {"digit": best[0][0], "probability": best[0][1], "top": best}

    pictures = iter(pictures)
    while batch := [(name, read(name, picture)) for name, picture in islice(pictures, BATCH)]:
        images = [image for _, found in batch for image in found.get("images", ())]
        rows = iter(session.probabilities(np.array(images, np.uint8).reshape(-1, SIZE, SIZE)))
        for name, found in batch:
            if "error" in found:
                yield {"file": name, "error": found["error"]}
                continue
            digits = [answer(next(rows)) for _ in found["images"]]
            result = {"file": name, **digits[0]}
            if multi:
                result = {
                    "file": name,
                    "number": "".join(str(d["digit"]) for d in digits),
                    "probability": round(float(np.prod([d["probability"] for d in digits])), 6),
                    "digits": [d | {"box": box} for d, box in zip(digits, found["boxes"], strict=True)],
                }
            if min(d["probability"] for d in digits) < UNSURE:
                result["note"] = "low confidence"
            yield result


def line(answer: dict) -> str:
    """An answer, not an error, as a line for people."""
    value = answer.get("number", answer.get("digit"))
    others = "".join(f"  {name} {p:.1%}" for name, p in answer.get("top", ())[1:])
    note = f"  ({answer['note']})" if "note" in answer else ""
    return f"{answer['file']}: {value}  {answer['probability']:.1%}{others and f'   then{others}'}{note}"


@contextmanager
def csv_file(path: Path, top: int) -> Iterator[Callable[[dict], None]]:
    """Give a function that adds an answer to a CSV file, which is there whole at the end, or not at all."""
    columns = ["file", "digit", "probability"]
    columns += [name for k in range(2, top + 1) for name in (f"digit_{k}", f"probability_{k}")]
    with atomic_file(path) as tmp, open(tmp, "w", newline="", encoding="utf-8") as f:
        writer = csv.DictWriter(f, [*columns, "note", "error"], lineterminator="\n")
        writer.writeheader()

        def add(answer: dict) -> None:
            row = {name: answer[name] for name in ("file", "probability", "note", "error") if name in answer}
            row["digit"] = answer.get("number", answer.get("digit"))
            for k, (name, p) in enumerate(answer.get("top", ())[1:], 2):
                row |= {f"digit_{k}": name, f"probability_{k}": p}
            writer.writerow(row)

        yield add


def draw_steps(name: str, picture: Path | bytes, path: Path) -> None:
    """Draw what `preprocess` does to a picture, as a PNG."""
    from . import plots  # matplotlib takes 0.3 s

    with atomic_file(path) as tmp:
        plots.preprocessing(preprocess(read_image(picture)), name).savefig(tmp, format="png", dpi=150)
