"""Files that are written atomically, and folders that are checked before work begins."""

import json
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .errors import InputError, RunError


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Give a temporary path in the same folder to write to, and rename it to `path` at the end.

    Raises RunError, and leaves what stood at `path`, where it cannot be written (a full disk, say).
    """
    path = Path(path)
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}.partial")
    try:
        yield partial
        with open(partial, "rb+") as f:
            os.fsync(f.fileno())
        os.replace(partial, path)
    except OSError as e:
        why = e.strerror or e
        raise RunError(f"cannot write {path} ({why}); make room or choose another place (the old file is kept)") from e
    finally:
        partial.unlink(missing_ok=True)


def write_bytes(path: Path, content: bytes) -> None:
    with atomic_file(path) as tmp:
        tmp.write_bytes(content)


def write_json(path: Path, value) -> None:
    write_bytes(path, (json.dumps(value, indent=2) + "\n").encode())


def check_new(path: str | Path) -> None:
    """Raise InputError where something stands at `path`."""
    if os.path.lexists(path):
        raise InputError(f"{path} exists already; choose another --out, or continue a run with --resume")


def check_folder(path: str | Path) -> None:
    """Raise InputError where no folder can be made at `path`, since a file is in the way."""
    path = Path(path)
    existing = next(p for p in (path, *path.resolve().parents) if p.exists())
    if not existing.is_dir():
        raise InputError(f"{path} cannot be a folder, since {existing} is a file; choose another --out")


def make_folder(path: Path) -> None:
    """Make the folder and its parents where they are missing. Raises InputError where that fails."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise InputError(f"cannot make the folder {path} ({e.strerror}); choose another --out") from e
