"""The digit reader as a scikit-learn classifier."""

import math
from functools import cached_property
from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.base import BaseEstimator, ClassifierMixin

from ..errors import InputError
from .form import read_digits
from .image import SIZE
from .session import Session


class Classifier(ClassifierMixin, BaseEstimator):
    """A trained digit reader with scikit-learn's methods; there is nothing to fit.

        Classifier().predict(["seven.jpg", Image.open("two.png"), pixels])  # array([7, 2, …])

    Pictures are one or a sequence of paths, bytes of files, open files, PIL images or pixels [h, w(, 3 or 4)]; an array
    [n, h, w(, 3 or 4)]; or scikit-learn's rows [n, h × h] of square images. Raises InputError for a picture that has no
    digit, or several, and as `Session` does.
    """

    def __init__(
        self,
        model: str | Path | None = None,  # a model.onnx, or a run that has one; by default the shipped model
        *,
        raw: bool = False,  # pictures are 28×28, white on black, and taken as they are
    ):
        self.model = model
        self.raw = raw

    @cached_property
    def _session(self) -> Session:
        return Session(self.model)

    def __getstate__(self):  # for joblib and pickle: the session is reopened from its file
        return {k: v for k, v in super().__getstate__().items() if k != "_session"}

    def __sklearn_is_fitted__(self) -> bool:
        return True

    @property
    def classes_(self) -> np.ndarray:
        """[classes], in the order of `predict_proba`'s columns: integers where all are digits, else their names."""
        return self._session.labels

    def fit(self, X=None, y=None) -> "Classifier":
        """Do nothing, since the model is trained; scikit-learn's pipelines call it."""
        return self

    def predict(self, X) -> np.ndarray:
        """The class of each picture, [n]."""
        return self.classes_[self.predict_proba(X).argmax(1)]

    def predict_proba(self, X) -> np.ndarray:
        """The probability of each class for each picture, float32 [n, classes]."""
        pictures = _pictures(X)
        if self.raw and isinstance(pictures, np.ndarray):
            return self._session.probabilities(_raw(pictures))
        images = [self._image(i, picture) for i, picture in enumerate(pictures)]
        return self._session.probabilities(np.array(images, np.uint8).reshape(-1, SIZE, SIZE))

    def _image(self, index: int, picture) -> np.ndarray:
        try:
            session = self._session
            return read_digits(picture, session.probabilities, format=session.format, raw=self.raw)[0][0]
        except InputError as e:
            raise InputError(f"picture {index}: {e}") from e


def _pictures(X) -> np.ndarray | list:
    """An array [n, h, w(, 3 or 4)], or a list of pictures."""
    if isinstance(X, (str, bytes, Path, Image.Image)) or hasattr(X, "read"):
        return [X]
    if not hasattr(X, "__array__"):
        return list(X)
    X = np.asarray(X)
    side = math.isqrt(X.shape[1]) if X.ndim == 2 else 0
    if X.ndim == 2 and side * side == X.shape[1]:
        return X.reshape(-1, side, side)
    if X.ndim not in (3, 4):
        raise InputError(f"an array of shape {X.shape} is no pictures; give [n, height, width] or [n, height × height]")
    return X


def _raw(pixels: np.ndarray) -> np.ndarray:
    """Uint8 [n, 28, 28] of such pixels: integers from 0 to 255, or floats from 0 to 1."""
    if pixels.shape[1:] != (SIZE, SIZE):
        raise InputError(
            f"an array of shape {pixels.shape} is not in MNIST's format, [n, {SIZE}, {SIZE}]; leave raw out"
        )
    top = 1 if pixels.dtype.kind == "f" else 255
    if pixels.dtype.kind not in "fiu" or not ((pixels >= 0) & (pixels <= top)).all():
        raise InputError("pixels are integers from 0 to 255 or floats from 0 to 1; scale them")
    return pixels.astype(np.uint8) if top == 255 else np.rint(pixels * 255).astype(np.uint8)
