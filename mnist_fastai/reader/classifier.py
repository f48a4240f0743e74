"""The digit reader as a scikit-learn classifier."""

import math
import os
from contextlib import suppress
from functools import cached_property
from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils import column_or_1d

from ..errors import InputError
from .form import read_digits
from .image import SIZE
from .session import Session

RANGE = "pixels are integers from 0 to 255 or floats from 0 to 1; scale them"


class Classifier(ClassifierMixin, BaseEstimator):
    """A trained digit reader with scikit-learn's methods; there is nothing to fit.

        Classifier().predict(["seven.jpg", Image.open("two.png"), pixels])  # array([7, 2, …])

    A picture is a path, bytes of a file, an open file, a PIL image, or pixels [h, w(, 1, 3 or 4)] as an array or nested
    lists. X is one picture, or a sequence, array, Series or DataFrame column of them, or pixels [n, h, w(, 1, 3 or 4)].
    A 2-D array whose rows have a square number of pixels is scikit-learn's [n, h × h], a square image per row; any
    other one is a single picture, unless it is a DataFrame. So 28×28 pixels are one picture and 16×16 are sixteen of
    4×4: give [pixels]. Whole numbers from 0 to 255 in nested lists are uint8. Raises InputError for a picture that has
    no digit, or several, and as `Session` does.
    """

    _named = False  # predict answers by name, since fit got such labels

    def __init__(
        self,
        model: str | Path | None = None,  # a model.onnx, or a run that has one; by default the shipped model
        *,
        raw: bool = False,  # pictures are 28×28, white on black, and taken as they are
        on_error: str = "raise",  # for a picture that cannot be read; "nan" answers NaN
    ):
        self.model = model
        self.raw = raw
        self.on_error = on_error

    @cached_property
    def _session(self) -> Session:
        return Session(self.model)

    def __setattr__(self, name: str, value) -> None:
        if name == "model":  # by set_params as well; the file of the same name may be another one by now
            self.__dict__.pop("_session", None)
        super().__setattr__(name, value)

    def __getstate__(self):  # for joblib and pickle: the session is reopened from its file
        return {k: v for k, v in super().__getstate__().items() if k != "_session"}

    def __sklearn_is_fitted__(self) -> bool:
        return True

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.requires_fit = False
        tags.input_tags.three_d_array = tags.input_tags.string = tags.input_tags.sparse = True
        return tags

    @property
    def classes_(self) -> np.ndarray:
        """[classes], in the order of `predict_proba`'s columns: integers where all are written so, else their names.

        After a `fit` to labels that are strings, such as those of `fetch_openml`, they are names.
        """
        return np.array(self._session.classes) if self._named else self._session.labels

    def fit(self, X=None, y=None) -> "Classifier":
        """Train nothing, since the model is trained. Where y has strings, answers are strings from now on."""
        self._named = y is not None and _labels(y).dtype.kind == "U"
        return self

    def predict(self, X) -> np.ndarray:
        """The class of each picture, [n].

        With on_error="nan", a picture that cannot be read is NaN, and the type never depends on whether there is one:
        float64 where the classes are integers, else object.
        """
        p = self.predict_proba(X)
        classes = self.classes_[p.argmax(1)]
        if self.on_error == "nan":
            classes = classes.astype(float if classes.dtype.kind == "i" else object)
            classes[np.isnan(p[:, 0])] = np.nan
        return classes

    def predict_proba(self, X) -> np.ndarray:
        """The probability of each class for each picture, float32 [n, classes].

        With on_error="nan", a picture that cannot be read has NaN.
        """
        return self._scores(X)[0]

    def novelty(self, X) -> np.ndarray:
        """How little each picture is like a digit, float32 [n]: 0 for the usual one, above 1 for what is none.

        NaN for a picture that cannot be read with on_error="nan", and from a model that was exported without held-out
        images.
        """
        return self._scores(X)[1]

    def _scores(self, X) -> tuple[np.ndarray, np.ndarray]:
        """Probabilities, float32 [n, classes], and novelty, float32 [n]."""
        if self.on_error not in ("raise", "nan"):
            raise InputError(f'on_error is {self.on_error!r}; give "raise" or "nan"')
        pictures, session = _pictures(X), self._session
        if self.raw and isinstance(pictures, np.ndarray) and pictures.ndim == 3:
            images, good = _raw(pictures)
            if self.on_error == "raise" and not good.all():
                raise InputError(f"picture {good.argmin()}: {RANGE}")
        else:
            images, good = self._images(pictures)
        p = np.full((len(good), len(session.classes)), np.nan, np.float32)
        novelty = np.full(len(good), np.nan, np.float32)
        p[good], novelty[good] = session.scores(images[good])
        return p, novelty

    def _images(self, pictures) -> tuple[np.ndarray, np.ndarray]:
        """Images in MNIST's format, uint8 [n, 28, 28], and which could be read, bool [n]."""
        images, good = np.zeros((len(pictures), SIZE, SIZE), np.uint8), np.ones(len(pictures), bool)
        for i, picture in enumerate(pictures):
            try:
                images[i] = self._image(picture)
            except InputError as e:
                if self.on_error == "raise":
                    raise InputError(f"picture {i}: {e}") from e
                good[i] = False
        return images, good

    def _image(self, picture) -> np.ndarray:
        session = self._session
        is_text = isinstance(picture, (str, bytes))  # NumPy's strings are arrays as well
        if isinstance(picture, (list, tuple)) or (hasattr(picture, "__array__") and not is_text):
            picture = _one(picture)
            if self.raw and picture.ndim == 2:
                (image,), good = _raw(picture[None])
                if not good:
                    raise InputError(RANGE)
                return image
        return read_digits(picture, session.novelty, format=session.format, raw=self.raw)[0][0]

    def score(self, X, y, sample_weight=None) -> float:
        """The share of the pictures whose class is y, [n], by name: "7" is 7. One that cannot be read is wrong.

        Raises InputError where not one label is a class of the model.
        """
        from sklearn.metrics import accuracy_score  # as long to import as all else

        labels, names = _labels(y), self._session.classes
        if labels.dtype.kind == "f" and (labels == np.rint(labels)).all():
            labels = labels.astype(int)
        labels = labels.astype(str)
        if len(labels) and not np.isin(labels, names).any():
            known = ", ".join(names)
            raise InputError(f"y has {str(labels[0])!r}, and none of the model's classes ({known}); name them so")
        p = self.predict_proba(X)
        read = np.where(np.isnan(p[:, 0]), "", np.array(names)[p.argmax(1)])
        return accuracy_score(labels, read, sample_weight=sample_weight)


def _labels(y) -> np.ndarray:
    """Labels, [n], of the type that they have, also where they come as objects (a Series, a categorical)."""
    return np.array(column_or_1d(np.asarray(y)).tolist())


def _pictures(X) -> np.ndarray | list:
    """Pixels [n, h, w(, 3 or 4)], or a list of pictures."""
    if isinstance(X, (str, bytes, os.PathLike, Image.Image)) or hasattr(X, "read"):
        return [X]
    is_table = hasattr(X, "columns") or hasattr(X, "toarray")  # which is no picture
    if hasattr(X, "toarray"):  # SciPy's sparse rows, as of a LIBSVM file
        X = X.toarray()
    if not hasattr(X, "__array__"):
        try:
            X = list(X)
        except TypeError as e:
            raise InputError(f"an object of type {type(X).__name__} is no pictures; give a list of them") from e
        if not X or not all(isinstance(x, (list, tuple)) for x in X):
            return X
        try:
            X = np.array(X)
        except ValueError:  # of different sizes
            return X
        X = _narrow(X)
    X = np.asarray(X)
    if X.dtype.kind in "OUST" and (X.ndim < 2 or X.shape[1:] == (1,)):  # of paths and other objects
        return X.ravel().tolist()
    X = _numbers(X)
    if X.shape == (0,):
        return []
    if X.ndim == 2 and math.isqrt(X.shape[1]) ** 2 == X.shape[1]:
        return X.reshape(len(X), *[math.isqrt(X.shape[1])] * 2)
    if (X.ndim == 2 and not is_table) or (X.ndim == 3 and X.shape[2] in (1, 3, 4)):
        X = X[None]
    if X.ndim not in (3, 4):
        raise InputError(f"an array of shape {X.shape} is no pictures; give [n, height, width] or [n, height × height]")
    return X[..., 0] if X.ndim == 4 and X.shape[3] == 1 else X


def _one(picture) -> np.ndarray:
    """Pixels [h, w(, 3 or 4)] of one picture: an array, nested lists, or scikit-learn's row [h × h]."""
    try:
        pixels = _narrow(np.array(picture)) if isinstance(picture, (list, tuple)) else np.asarray(picture)
    except ValueError as e:
        raise InputError("its rows differ in length; make them as long as each other") from e
    pixels = _numbers(pixels)
    side = math.isqrt(pixels.size)
    if pixels.ndim == 1 and side * side == pixels.size:
        return pixels.reshape(side, side)
    return pixels[..., 0] if pixels.ndim == 3 and pixels.shape[2] == 1 else pixels


def _numbers(pixels: np.ndarray) -> np.ndarray:
    """Pixels of a numeric type, also where they come as objects (a DataFrame of several types)."""
    if pixels.dtype.kind == "O":
        with suppress(ValueError):
            pixels = _narrow(np.array(pixels.tolist()))
    if pixels.dtype.kind not in "biuf":
        raise InputError(f"an array of {pixels.dtype} {pixels.shape} is no pictures; give numbers, or a list of paths")
    return pixels


def _narrow(pixels: np.ndarray) -> np.ndarray:
    """Uint8 where Python's integers, which have no type to say so, fit."""
    fits = pixels.dtype.kind == "i" and pixels.size and pixels.min() >= 0 and pixels.max() <= 255
    return pixels.astype(np.uint8) if fits else pixels


def _raw(pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Uint8 [n, 28, 28] of integers from 0 to 255 or floats from 0 to 1, and which have such pixels, bool [n]."""
    if pixels.shape[1:] != (SIZE, SIZE):
        raise InputError(
            f"an array of shape {pixels.shape} is not in MNIST's format, [n, {SIZE}, {SIZE}]; leave raw out"
        )
    top = 255 if pixels.dtype.kind in "iu" else 1
    good = ((pixels >= 0) & (pixels <= top)).all((1, 2))
    pixels = pixels if good.all() else np.where(good[:, None, None], pixels, 0)
    return pixels.astype(np.uint8) if top == 255 else np.rint(pixels * 255.0).astype(np.uint8), good
