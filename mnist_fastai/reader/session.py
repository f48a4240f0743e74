"""Pictures in, digits and probabilities out, by ONNX Runtime."""

import json
import os
import shlex
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import cache
from itertools import islice
from pathlib import Path
from typing import BinaryIO

import numpy as np

from ..errors import InputError, RunError
from ..escape import csv_cell, csv_line, csv_path, printable
from ..files import read_bytes, walk, write_text
from ..recipes import IMAGE_FORMATS
from ..run import Run, pretrained
from .external import is_complete
from .form import read_digits
from .image import SIZE
from .parts import rows
from .seal import check_seal

BATCH = 64  # images per call of the network, and pictures held at once; 1,000 are slower
LOW_CONFIDENCE = 0.5  # the probability below which answers are uncertain, where a model has no measured one
NOVEL = 1  # the novelty above which an image shows no digit; one of 200 held-out digits has more
TOLERANCE = 1e-3  # by which an image's probabilities may miss 1 in sum
# What a model of others may take; the shipped one takes 0.01 s and 0.02 GiB for a batch
TIME_LIMIT = 60  # seconds for a batch
MEMORY = 2**32  # bytes for all the networks of a process
SETTINGS = {
    # threads that spin while they wait take the cores from whatever else runs
    "session.intra_op.allow_spinning": "0",
    "session.load_model_format": "ONNX",  # ONNX Runtime's own format is checked less
    "session.use_env_allocators": "1",  # as `_limit_memory` made them
}


class Session:
    """A model.onnx written by `mnist-fa export --format onnx`, ready to answer.

    `path` is the file, or a run directory that has one; by default the shipped model. Raises InputError for a damaged
    file and for anything else: a pickle, of which no code is run, and a model that refers to other files, of which none
    is read.
    """

    classes: list[str]  # names, in the order of the probabilities' columns
    format: str  # one of recipes.IMAGE_FORMATS: of the images that the model was trained on
    has_novelty: bool  # as models that were exported with held-out images have
    low_confidence: float  # the probability below which held-out images' answers were more often wrong than right

    def __init__(self, path: str | Path | None = None):
        import onnxruntime

        self._path = find_model(path)
        run = Run(path).path if path is not None and os.path.isdir(path) else "RUN"
        command = f"`mnist-fa export {shlex.quote(str(run))} --format onnx`"
        self._way_out = f"export a run with {command}"
        if not os.path.exists(self._path):
            raise InputError(f"no file {self._path}; {self._way_out}")
        content = read_bytes(self._path)
        if check_seal(content) is False:
            raise InputError(f"{self._path} is damaged (its SHA-256 differs); export it again with {command}")
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4  # errors are reported below, in one sentence
        for key, value in SETTINGS.items():
            options.add_session_config_entry(key, value)
        _limit_memory()
        try:
            if not is_complete(content):
                raise self._unfit("a model that keeps weights in other files, which are not read")
            self._session = onnxruntime.InferenceSession(
                content, options, providers=["CPUExecutionProvider"],
                # done here, it would take as long as a model of others likes; the shipped one computes the same bits
                disabled_optimizers=["ConstantFolding"],
            )  # fmt: skip
            inputs = [(i.name, i.type, i.shape) for i in self._session.get_inputs()]
            outputs = {o.name: (o.type, o.shape) for o in self._session.get_outputs()}
            metadata = self._session.get_modelmeta().custom_metadata_map
        except InputError:
            raise
        except Exception as e:  # onnxruntime's have no other class in common
            pickled = "a pickle, which is not loaded since that would run its code"
            raise self._unfit(pickled if self._path.suffix == ".pkl" else "no ONNX model that can be run") from e
        self._check(inputs, outputs, metadata.get("classes"))
        self.low_confidence = _number(metadata.get("low_confidence"), LOW_CONFIDENCE)
        formats = {json.dumps(name): name for name in IMAGE_FORMATS}
        if (written := metadata.get("format", '"mnist"')) not in formats:  # older ones, which lack it, are of MNIST
            raise self._unfit("not a model of this package (its metadata has no known format of images)")
        self.format = formats[written]

    def _unfit(self, why: str) -> InputError:
        return InputError(f"{self._path} is {why}; {self._way_out}")

    def _check(self, inputs: list[tuple], outputs: dict[str, tuple], classes: str | None) -> None:
        """Read the class names. Raises InputError unless the model takes images and gives each class a probability."""
        shape = inputs[0][2] if len(inputs) == 1 else []
        if inputs != [("images", "tensor(uint8)", [*shape[:1], SIZE, SIZE])] or isinstance(shape[0], int):
            shown = ", ".join(f"{name}: {kind} {shape}" for name, kind, shape in inputs) or "none"
            raise self._unfit(f"not a model of this package (its input is {printable(shown)})")
        try:
            self.classes = json.loads(classes or "")
        except (ValueError, RecursionError):
            self.classes = []
        names = self.classes if isinstance(self.classes, list) else []
        if not names or not all(isinstance(name, str) for name in names) or len(set(names)) < len(names):
            raise self._unfit("not a model of this package (its metadata has no list of distinct class names)")
        kind, shape = outputs.get("probabilities", ("missing", []))
        columns = shape[1] if len(shape) == 2 else None
        if kind != "tensor(float)" or (isinstance(columns, int) and columns != len(names)):
            shown = f"its output of probabilities is {kind} {shape}, for {len(names)} classes"
            raise self._unfit(f"not a model of this package ({shown})")
        self.has_novelty = outputs.get("novelty", ("", []))[0] == "tensor(float)"

    @property
    def labels(self) -> np.ndarray:
        """[classes], what a prediction is named by: integers where all classes are written so, else their names."""
        whole = all(c.isascii() and c.isdigit() and len(c) < 19 and str(int(c)) == c for c in self.classes)
        return np.array([int(c) for c in self.classes] if whole else self.classes)

    @property
    def novelty(self) -> Callable[[np.ndarray], np.ndarray] | None:
        """Images → float32 [n], as `scores` has it; None where the model has none."""
        return (lambda images: self.scores(images)[1]) if self.has_novelty else None

    def probabilities(self, images: np.ndarray) -> np.ndarray:
        """Float32 [n, classes] for images in MNIST's format, uint8 [n, 28, 28]. Raises as `scores` does."""
        return self.scores(images)[0]

    def scores(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Probabilities, float32 [n, classes], and novelty, float32 [n], of images in MNIST's format.

        Images are uint8 [n, 28, 28]. Novelty is 0 for the usual digit, above NOVEL for what is none, and NaN from a
        model without `has_novelty`. Raises InputError where the model's answers are no probabilities, and RunError
        where it gives none, or none within TIME_LIMIT per batch.
        """
        images = np.asarray(images)
        if images.dtype != np.uint8 or images.shape[1:] != (SIZE, SIZE):
            raise InputError(
                f"an array of {images.dtype} {images.shape} is not in MNIST's format; give uint8 [n, {SIZE}, {SIZE}]"
            )
        batches = [self._run(images[i : i + BATCH]) for i in range(0, len(images), BATCH)]
        empty = np.empty((0, len(self.classes)), np.float32), np.empty(0, np.float32)
        p, novelty = (np.concatenate(parts) for parts in zip(empty, *batches, strict=True))
        return p, novelty

    def _run(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        import onnxruntime

        options = onnxruntime.RunOptions()
        options.log_severity_level = 4
        clock = threading.Timer(TIME_LIMIT, setattr, (options, "terminate", True))
        clock.daemon = True
        clock.start()
        try:
            names = ["probabilities", "novelty"][: 1 + self.has_novelty]
            out, *more = self._session.run(names, {"images": images}, options)
        except Exception as e:
            why = f"with an error of its own, or for more than {MEMORY >> 30} GiB of memory"
            if options.terminate:
                why = f"since it takes more than {TIME_LIMIT} seconds"
            raise RunError(f"{self._path} fails on {len(images)} images, {why}; {self._way_out}") from e
        finally:
            clock.cancel()
        if out.shape != (len(images), len(self.classes)):
            raise self._unfit(f"not a model of this package (for {len(images)} images it answers {list(out.shape)})")
        if not ((out >= 0).all() and (np.abs(out.sum(1, dtype=float) - 1) <= TOLERANCE).all()):
            raise self._unfit("damaged, or no classifier (its answers are negative, not finite, or not 1 in sum)")
        novelty = more[0] if more else np.full(len(images), np.nan, np.float32)
        if more and not (novelty.shape == (len(images),) and np.isfinite(novelty).all()):
            raise self._unfit("damaged (its novelty is not one finite number per image)")
        return out, novelty


def _number(text: str | None, default: float) -> float:
    """A probability in a model's metadata."""
    try:
        value = float(text or "")
    except ValueError:
        return default
    return value if 0 <= value <= 1 else default


@cache
def _limit_memory() -> None:
    """Let an array for which MEMORY is too little fail, before the system ends the process."""
    import onnxruntime

    info = onnxruntime.OrtMemoryInfo(
        "Cpu", onnxruntime.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, onnxruntime.OrtMemType.DEFAULT
    )
    onnxruntime.create_and_register_allocator(info, onnxruntime.OrtArenaCfg(MEMORY, -1, -1, -1))


def find_model(path: str | Path | None = None) -> Path:
    """The file that `Session(path)` reads."""
    path = Path(path) if path is not None else pretrained()
    return path / "model.onnx" if os.path.isdir(path) else path


def find_files(sources: Iterable[str]) -> Iterator[tuple[str, Path | str | InputError]]:
    """Name and path of the files among `sources`, and of those in and below its folders, sorted, without hidden ones.

    A folder without files, and one that cannot be listed, has an InputError in place of the path.
    """
    for source in sources:
        if not os.path.isdir(source):
            path = Path(source) if source else source  # Path("") is the current folder
            yield str(path), path
            continue
        errors: list[OSError] = []
        inside = list(walk(source, errors.append))
        yield from ((str(path), path) for path in inside)
        for e in errors:
            said = f"{e.filename} cannot be read ({e.strerror}); give yourself the right to, or move it"
            yield str(e.filename), InputError(said)
        if not inside and not errors:
            yield source, InputError(f"{source} has no files; name a picture, or a folder that has some")


def answers(
    pictures: Iterable[tuple[str, Path | str | bytes | BinaryIO | InputError]],  # names and what to read, or why not
    session: Session,
    *,
    raw: bool = False,  # they are in MNIST's format
    multi: bool = False,  # read each as a number
    top: int = 3,  # most probable classes per digit
) -> Iterator[dict]:
    """One dict per picture, in order, as `mnist-fa predict --json` prints it.

    {"file", "digit", "probability", "top": [[digit, probability], …], "novelty"}, with "note" where the probability is
    low, and where there is no digit: "digit" is then None. With `multi` {"file", "number", "probability", "digits":
    [{"digit", "probability", "top", "novelty", "box"}, …]}, where the number has a line per row of digits, and a ? for
    what is none. {"file", "digit" or "number": None, "error"} where nothing could be read. A model without novelty
    gives none. At most a batch of pictures is held in memory.
    """
    labels, key = session.labels.tolist(), "number" if multi else "digit"

    def read(picture) -> tuple[list, str]:
        try:
            if isinstance(picture, InputError):
                raise picture
            return read_digits(picture, session.novelty, format=session.format, raw=raw, multi=multi), ""
        except InputError as e:
            return [], str(e)

    def answer(row: np.ndarray, novelty: float) -> dict:
        best = [[labels[i], round(float(row[i]), 6)] for i in np.argsort(-row, kind="stable")[:top]]
        digit = None if novelty > NOVEL else best[0][0]
        score = {"novelty": round(float(novelty), 4)} if session.has_novelty else {}
        return {"digit": digit, "probability": best[0][1], "top": best, **score}

    pictures = iter(pictures)
    while batch := [(name, *read(picture)) for name, picture in islice(pictures, BATCH)]:
        images = [image for _, digits, _ in batch for image, _ in digits]
        scores = zip(*session.scores(np.array(images, np.uint8).reshape(-1, SIZE, SIZE)), strict=True)
        for name, digits, error in batch:
            if error:
                yield {"file": name, key: None, "error": error}
                continue
            each = [answer(*next(scores)) for _ in digits]
            result = {"file": name, **each[0]}
            if multi:
                found = ["?" if d["digit"] is None else str(d["digit"]) for d in each]
                result = {
                    "file": name,
                    "number": "\n".join("".join(found[i] for i in row) for row in rows([box for _, box in digits])),
                    "probability": round(float(np.prod([d["probability"] for d in each])), 6),
                    "digits": [d | {"box": list(box)} for d, (_, box) in zip(each, digits, strict=True)],
                }
            if any(d["digit"] is None for d in each):
                result["note"] = "no digit: unlike those that the model knows"
            elif min(d["probability"] for d in each) < session.low_confidence:
                result["note"] = "low confidence"
            yield result


def line(answer: dict) -> str:
    """The text for an answer that is no error: a line, or one per row of digits."""
    note = f"  ({answer['note']})" if "note" in answer else ""
    if answer.get("digit", "") is None:
        name, p = answer["top"][0]
        return printable(
            f"{answer['file']}: {answer['note']}; novelty {answer['novelty']:.1f}, most like {name} {p:.1%}"
        )
    first, *more = str(answer.get("number", answer.get("digit"))).split("\n")
    others = "".join(f"  {name} {p:.1%}" for name, p in answer.get("top", ())[1:])
    then = others and f"   then{others}"
    below = [" " * (len(printable(answer["file"])) + 2) + printable(row) for row in more]
    return "\n".join([printable(f"{answer['file']}: {first}  {answer['probability']:.1%}{then}{note}"), *below])


@contextmanager
def csv_file(path: Path, top: int) -> Iterator[Callable[[dict], None]]:
    """Yield a function that adds an answer, and write a CSV file at the end: also where the work ends early.

    A file that stands there is kept where nothing was answered. Raises RunError where writing fails.
    """
    columns = ["file", "digit", "probability"]
    columns += [name for k in range(2, top + 1) for name in (f"digit_{k}", f"probability_{k}")]
    columns += ["novelty", "note", "error"]
    lines = [csv_line(columns)]

    def add(answer: dict) -> None:
        row = {name: answer[name] for name in ("probability", "novelty", "note", "error") if name in answer}
        row["digit"] = answer.get("number", answer.get("digit"))
        for k, (name, p) in enumerate(answer.get("top", ())[1:], 2):
            row |= {f"digit_{k}": name, f"probability_{k}": p}
        lines.append(
            csv_line(
                [
                    csv_path(answer["file"]),
                    *(csv_cell("" if row.get(name) is None else row[name]) for name in columns[1:]),
                ]
            )
        )

    try:
        yield add
    finally:
        if len(lines) > 1:
            write_text(path, "".join(lines))
