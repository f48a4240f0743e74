"""Pictures in, digits and probabilities out, by ONNX Runtime."""

import csv
import json
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path

import numpy as np

from ..errors import InputError
from ..files import atomic_file
from ..run import Run, pretrained
from .form import read_digits
from .image import SIZE

BATCH = 64  # images per call of the network, and pictures held at once; 1,000 are slower
LOW_CONFIDENCE = 0.5  # below this probability, the other classes together are as likely
EXPORT = "export a run with `mnist-fa export {} --format onnx`"


class Session:
    """A model.onnx written by `mnist-fa export --format onnx`, ready to answer.

    `path` is the file, or a run directory that has one; by default the shipped model. Raises InputError for anything
    else, a pickle included, of which no code is run.
    """

    classes: list[str]  # names, in the order of the probabilities' columns

    def __init__(self, path: str | Path | None = None):
        os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # read when onnxruntime is imported
        import onnxruntime

        path = Path(path) if path is not None else pretrained()
        export = EXPORT.format("RUN")
        if path.is_dir():
            path, export = Run(path).path / "model.onnx", EXPORT.format(path)
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4  # errors are reported below, in one sentence
        # threads that spin while they wait take the cores from whatever else runs
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        try:
            content = path.read_bytes()
        except OSError as e:
            raise InputError(f"{path} cannot be read ({e.strerror}); {export}") from e
        try:
            self._session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        except Exception as e:  # onnxruntime's have no other class in common
            pickled = "a pickle, which is not loaded since that would run its code"
            why = pickled if path.suffix == ".pkl" else "no ONNX model that can be run"
            raise InputError(f"{path} is {why}; {export}") from e
        inputs = [(i.name, i.type, i.shape[1:]) for i in self._session.get_inputs()]
        metadata = self._session.get_modelmeta().custom_metadata_map
        if inputs != [("images", "tensor(uint8)", [SIZE, SIZE])] or "classes" not in metadata:
            shown = ", ".join(f"{name}: {kind} {shape}" for name, kind, shape in inputs) or "none"
            raise InputError(f"{path} is not a model of this package (its input is {shown}); {export}")
        self.classes = json.loads(metadata["classes"])

    @property
    def labels(self) -> np.ndarray:
        """[classes], what a prediction is named by: integers where all classes are digits, else their names."""
        return np.array([int(c) for c in self.classes] if all(c.isdecimal() for c in self.classes) else self.classes)

    def probabilities(self, images: np.ndarray) -> np.ndarray:
        """Float32 [n, classes] for images in MNIST's format, uint8 [n, 28, 28]."""
        batches = (images[i : i + BATCH] for i in range(0, len(images), BATCH))
        out = [self._session.run(["probabilities"], {"images": batch})[0] for batch in batches]
        return np.concatenate([np.empty((0, len(self.classes)), np.float32), *out])


def find_files(sources: Iterable[str]) -> Iterator[Path]:
    """The files among `sources`, and those in and below its folders, sorted by name, without hidden ones.

    Raises InputError for a folder without files.
    """
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
    session: Session,
    *,
    raw: bool = False,  # they are in MNIST's format
    multi: bool = False,  # read each as a number
    top: int = 3,  # most probable classes per digit
) -> Iterator[dict]:
    """One dict per picture, in order, as `mnist-fa predict --json` prints it.

    {"file", "digit", "probability", "top": [[digit, probability], …]}, with "note" where the probability is low; with
    `multi` {"file", "number", "probability", "digits": [{"digit", "probability", "top", "box"}, …]}; and
    {"file", "error"} where nothing could be read. At most a batch of pictures is held in memory.
    """
    labels = session.labels.tolist()

    def read(picture: Path | bytes) -> tuple[list, str]:
        try:
            return read_digits(picture, raw=raw, multi=multi), ""
        except InputError as e:
            return [], str(e)

    def answer(row: np.ndarray) -> dict:
        best = [[labels[i], round(float(row[i]), 6)] for i in np.argsort(-row, kind="stable")[:top]]
        return {"digit": best[0][0], "probability": best[0][1], "top": best}

    pictures = iter(pictures)
    while batch := [(name, *read(picture)) for name, picture in islice(pictures, BATCH)]:
        images = [image for _, digits, _ in batch for image, _ in digits]
        rows = iter(session.probabilities(np.array(images, np.uint8).reshape(-1, SIZE, SIZE)))
        for name, digits, error in batch:
            if error:
                yield {"file": name, "error": error}
                continue
            each = [answer(next(rows)) for _ in digits]
            result = {"file": name, **each[0]}
            if multi:
                result = {
                    "file": name,
                    "number": "".join(str(d["digit"]) for d in each),
                    "probability": round(float(np.prod([d["probability"] for d in each])), 6),
                    "digits": [d | {"box": list(box)} for d, (_, box) in zip(each, digits, strict=True)],
                }
            if min(d["probability"] for d in each) < LOW_CONFIDENCE:
                result["note"] = "low confidence"
            yield result


def line(answer: dict) -> str:
    """One line of text for an answer that is no error."""
    value = answer.get("number", answer.get("digit"))
    others = "".join(f"  {name} {p:.1%}" for name, p in answer.get("top", ())[1:])
    note = f"  ({answer['note']})" if "note" in answer else ""
    return f"{answer['file']}: {value}  {answer['probability']:.1%}{others and f'   then{others}'}{note}"


@contextmanager
def csv_file(path: Path, top: int) -> Iterator[Callable[[dict], None]]:
    """Write a CSV file atomically; yields a function that adds an answer. Raises RunError where that fails."""
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
