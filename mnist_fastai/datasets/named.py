"""Data sets by name: torchvision's classes download them, by its mirrors and MD5 digests, into a cache folder."""

import errno
import hashlib
import os
import re
import shutil
import socket
import string
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from http.client import HTTPException
from pathlib import Path
from zipfile import BadZipFile

from ..errors import MissingData, RunError
from ..files import HIDDEN, log, owned, write_text
from .base import Data
from .idx import idx_files, load_idx, read_digests

CACHE = "MNIST_FA_DATA"  # the environment variable that names the cache folder
SUMS = "SHA256SUMS"  # beside the files, written after them: they are complete, and what they were
TIMEOUT = 30  # seconds without a byte, after which a server is given up
NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM}
DIGITS = tuple(string.digits)
_one_at_a_time = threading.Lock()  # of what is changed in the whole process


@dataclass(frozen=True)
class Named:
    """A data set that torchvision knows."""

    content: str
    kind: str  # torchvision's class, and its folder in the cache
    megabytes: int  # to download, about
    classes: tuple[str, ...]
    prefix: str = ""  # of its files, where a folder has those of several
    first: int = 0  # the label of the first class
    parts: tuple[dict, ...] = ({},)  # the arguments of torchvision's class that download it


EMNIST = "EMNIST", 562  # one archive of all
NAMED = {  # MNIST aside, which is embedded
    "fashion-mnist": Named(
        "clothes", "FashionMNIST", 31,
        ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
    ),
    "kmnist": Named("hiragana", "KMNIST", 21, ("o", "ki", "su", "tsu", "na", "ha", "ma", "ya", "re", "wo")),
    "emnist-digits": Named("digits", *EMNIST, DIGITS, "emnist-digits-", parts=({"split": "digits"},)),
    "emnist-letters": Named(  # capital and small ones are one class
        "letters", *EMNIST, tuple(string.ascii_lowercase), "emnist-letters-", first=1, parts=({"split": "letters"},)
    ),
    "emnist-balanced": Named(  # capital and small ones are one class where they look alike
        "digits and letters", *EMNIST, (*DIGITS, *string.ascii_uppercase, *"abdefghnqrt"), "emnist-balanced-",
        parts=({"split": "balanced"},),
    ),
    "qmnist": Named(
        "MNIST with 60,000 test images", "QMNIST", 20, DIGITS, parts=({"what": "train"}, {"what": "test"})
    ),
}  # fmt: skip


def cache_folder() -> Path:
    """Where downloaded data sets are: MNIST_FA_DATA, or else the platform's folder for caches."""
    from platformdirs import user_cache_path

    return Path(os.path.abspath(os.environ.get(CACHE) or user_cache_path("mnist-fastai", appauthor=False)))


def raw_folder(name: str) -> Path:
    """Where torchvision keeps the files of a data set, below the cache folder."""
    return cache_folder() / NAMED[name].kind / "raw"


def usual_names(folder: Path) -> Named | None:
    """The data set that a folder of IDX files, or its files, are named after: its class names hold there."""
    here = Path(os.path.abspath(folder))
    place = (here.parent if here.name == "raw" else here).name.lower()
    files = [p.name.lower() for p in idx_files(folder)]
    for name, named in NAMED.items():
        if all(f.startswith(named.prefix) for f in files) if named.prefix else place in (name, named.kind.lower()):
            return named
    return None


def load_named(name: str) -> Data:
    """Read a data set from the cache, where it is put first if it is not there.

    What is read has the SHA-256 that it had when it was downloaded. Raises MissingData where it cannot be downloaded,
    InputError where it has been damaged since, and RunError where it cannot be written.
    """
    if os.path.isdir(name):
        log.info("%s is the data set of that name, and not the folder here, which is %s", name, os.path.join(".", name))
    named, digests = NAMED[name], find_digests(name) or download(name)
    restore = f"`mnist-fa data get {name}` downloads it again"
    return load_idx(raw_folder(name), name, digests, restore=restore, classes=named.classes, first=named.first)


def find_digests(name: str) -> dict[str, str] | None:
    """The SHA-256 of each file of a data set, by its name; None where the cache lacks one."""
    raw = raw_folder(name)
    try:
        digests = {n: d for n, d in read_digests(raw / SUMS).items() if n.startswith(NAMED[name].prefix)}
    except (OSError, ValueError):
        return None
    return digests if len(digests) == 4 and all((raw / n).is_file() for n in digests) else None


def download(name: str, *, again: bool = False) -> dict[str, str]:
    """Put a data set into the cache, in one step, and return `find_digests`; `again` also where it is there.

    A second process waits. Files that lie there as they are distributed are used. Raises as `load_named` does.
    """
    named, raw = NAMED[name], raw_folder(name)
    work = raw.parent / f"{HIDDEN}-download"
    with owned(raw.parent, way_out=f"set {CACHE} to another folder"):
        digests = None if again else find_digests(name)
        if digests:  # by the process that was waited for
            return digests
        try:
            shutil.rmtree(work, ignore_errors=True)  # of a process that was killed
            _download(name, work, raw)
            raw.mkdir(exist_ok=True)
            prefixes = tuple(other.prefix for other in NAMED.values() if other.kind == named.kind)
            files = [
                p for p in idx_files(work / named.kind / "raw") if p.name.startswith(prefixes) and p.suffix != ".gz"
            ]
            digests = {p.name: _sha256(p) for p in files}
            for path in files:
                os.replace(path, raw / path.name)
            write_text(raw / SUMS, "".join(f"{digest}  {file}\n" for file, digest in digests.items()))
        except OSError as e:
            raise RunError(
                f"{name} cannot be written into {raw} ({e.strerror or e}); set {CACHE} to another folder"
            ) from e
        finally:
            shutil.rmtree(work, ignore_errors=True)
    return find_digests(name) or {}


def _sha256(path: Path) -> str:
    with open(path, "rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def _download(name: str, work: Path, raw: Path) -> None:
    """Have torchvision download and unpack a data set below `work`, without what lies in `raw` already."""
    from torchvision import datasets  # seconds
    from torchvision.datasets.utils import check_integrity

    named = NAMED[name]
    kind = getattr(datasets, named.kind)
    target = work / named.kind / "raw"
    target.mkdir(parents=True)
    missing, damaged = [], ""
    for url, md5 in _resources(kind):
        file = raw / url.rpartition("/")[2]
        if check_integrity(file, md5):
            shutil.copyfile(file, target / file.name)  # no link, since torchvision may write to it
        else:
            missing.append(url)
            damaged = f" (the {file.name} there is another or damaged)" if file.exists() else damaged
    if missing:
        unpacked = ", and 3 GB on disk while it is unpacked" if named.prefix else ""
        place = missing[0].rpartition("/")[0] + "/"
        log.info("downloading %s, about %s MB%s, from %s into %s", name, named.megabytes, unpacked, place, raw)
    try:
        with _watched(name):
            for arguments in named.parts:
                kind(work, download=True, **arguments)
    except (OSError, RuntimeError, HTTPException, BadZipFile, EOFError) as e:
        if isinstance(e, OSError) and (e.errno in NO_ROOM or not missing):
            raise
        files = " and ".join(", ".join(url.rpartition("/")[2] for url in missing).rsplit(", ", 1))
        raise MissingData(
            f"{name} cannot be downloaded ({_reason(e)}); get {files} from {place} on a machine that "
            f"can, and put {'it' if len(missing) == 1 else 'them'} into {raw}{damaged}"
        ) from e


def _resources(kind) -> list[tuple[str, str]]:
    """The addresses of the files that a class of torchvision downloads, with their MD5."""
    if hasattr(kind, "url"):  # EMNIST
        return [(kind.url, kind.md5)]
    if isinstance(kind.resources, dict):  # QMNIST
        return [*kind.resources["train"], *kind.resources["test"]]
    return [(kind.mirrors[0] + file, md5) for file, md5 in kind.resources]


@contextmanager
def _watched(name: str) -> Iterator[None]:
    """Give torchvision's downloads a timeout, and a progress bar on terminals only, unless it is to be quiet.

    It has no parameter for either. Both are of the whole process: sockets that other threads make meanwhile have the
    timeout as well.
    """
    from torchvision.datasets import utils

    with _one_at_a_time:
        timeout, bar = socket.getdefaulttimeout(), utils.tqdm
        quiet = not log.isEnabledFor(20)  # logging.INFO
        socket.setdefaulttimeout(TIMEOUT)
        utils.tqdm = partial(bar, desc=name, leave=False, disable=True if quiet else None)  # None: by the stream
        try:
            yield
        finally:
            socket.setdefaulttimeout(timeout)
            utils.tqdm = bar


def _reason(error: Exception) -> str:
    """The last line of what torchvision says, which lists its mirrors."""
    text = (str(error).strip() or type(error).__name__).splitlines()[-1]
    if text.startswith("File not found or corrupted"):
        return "what came is another file, or not all of it: its MD5 differs"
    return re.sub(r"^<urlopen error (.*)>$", r"\1", text)
