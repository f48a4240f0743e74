"""Regular files read whole, files written atomically, and folders that one process at a time writes in."""

import atexit
import errno
import json
import logging
import os
import re
import secrets
import shutil
import stat
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import cache
from pathlib import Path

from .errors import InputError, RunError

MAX_BYTES = 2**30  # of a file that is read
HIDDEN = ".mnist-fa"  # what the names of files begin with that are no content, in a folder that is written to
LOCK = f"{HIDDEN}.lock"  # while a process writes there
TEMPORARY = "mnist-fa-tmp-"  # what the names of temporary folders begin with
PARTIAL = f"{HIDDEN}-{{}}.partial"  # a file that is being written; a name with the file's own may be too long
OPENED = re.compile(r"/dev/(stdout|stderr|fd/\d+)")  # what a process has open, which `>` may have made a file
log = logging.getLogger("mnist_fastai")


# --- reading ----------------------------------------------------------------------------------------------------------


def read_bytes(path: str | Path, limit: int = MAX_BYTES, *, pipe: bool = False) -> bytes:
    """The content of a regular file, or with `pipe` of a named pipe as well.

    Raises InputError where there is none, where it cannot be read, and where it has more than `limit` bytes.
    """
    try:
        mode = os.stat(path).st_mode
        if not (stat.S_ISREG(mode) or (pipe and stat.S_ISFIFO(mode))):
            kind = "a folder" if stat.S_ISDIR(mode) else "no regular file"
            raise InputError(f"{path} is {kind}; name a file")
        with open(path, "rb") as f:
            content = read_stream(f, str(path), limit)
    except (FileNotFoundError, NotADirectoryError, ValueError) as e:  # ValueError: of a NUL character
        said = f"no file {path}" if str(path) else "an empty string names no file; give a name"
        raise e if isinstance(e, InputError) else InputError(said) from e
    except OSError as e:
        raise InputError(f"{path} cannot be read ({e.strerror}); give yourself the right to, or name another") from e
    return content


def read_stream(stream, name: str, limit: int = MAX_BYTES) -> bytes:
    """What is left in a binary stream. Raises InputError where that is more than `limit` bytes."""
    parts, size = [], 0
    while part := stream.read(2**20):  # not at once, since memory for the limit would be taken first
        parts.append(part)
        size += len(part)
        if size > limit:
            raise InputError(f"{name} is too large, over {limit / 2**20:,.0f} MiB; name another file")
    return b"".join(parts)


def read_json(path: str | Path, limit: int = 2**24) -> dict:
    """The JSON object in a file. Raises InputError where there is none."""
    content = read_bytes(path, limit)
    try:
        value = json.loads(content.decode("utf-8"))
    except (ValueError, RecursionError) as e:
        raise InputError(f"{path} is damaged or no JSON ({e}); restore it") from e
    if not isinstance(value, dict):
        raise InputError(f"{path} holds no JSON object; restore it")
    return value


def _raise(error: OSError) -> None:
    raise error


def walk(
    folder: str | Path,
    on_error: Callable[[OSError], None] = _raise,
    on_loop: Callable[[Path], None] | None = None,
) -> Iterator[Path]:
    """The regular files in and below a folder, without hidden ones, in the order of their paths.

    Links are followed, but none into a folder that is above it, and broken ones are passed over. `on_error` gets the
    OSError of what cannot be listed or looked at, and the rest follows. Where there is `on_loop`, it gets the links
    that are not followed, and those into a folder that `folder` is in are none to follow either.
    """
    top = _above(folder) if on_loop else ()
    pending = [(Path(folder), top)]  # with the folders above; no recursion, since a thousand may be nested
    while pending:
        path, above = pending.pop()
        try:
            status = path.stat()
            inside = sorted(path.iterdir(), reverse=True) if stat.S_ISDIR(status.st_mode) else []
        except OSError as e:
            if above == top or e.errno not in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
                on_error(e)
            continue
        here = status.st_dev, status.st_ino
        if stat.S_ISREG(status.st_mode):
            yield path
        elif here not in above:
            above = (*above, here)
            pending += [(p, above) for p in inside if not p.name.startswith(".")]
        elif on_loop:
            on_loop(path)


def _above(folder: str | Path) -> tuple[tuple[int, int], ...]:
    """The identities of the folders that a folder is in."""
    found = []
    for parent in Path(os.path.realpath(folder)).parents:
        with suppress(OSError):
            status = parent.stat()
            found.append((status.st_dev, status.st_ino))
    return tuple(found)


# --- writing ----------------------------------------------------------------------------------------------------------


def write_bytes(path: str | Path, content: bytes) -> None:
    """Write a file in one step: a reader, a crash or a power cut finds the old content or the new one.

    A link's target is replaced, and a device or a named pipe is written to. Raises RunError, and leaves what stood at
    `path`, where it cannot be written.
    """
    target = Path(os.path.realpath(path))
    partial = target.with_name(PARTIAL.format(f"{os.getpid()}-{secrets.token_hex(8)}"))
    try:
        mode = _mode(path)
        if mode is not None and (stat.S_ISFIFO(mode) or stat.S_ISCHR(mode) or OPENED.fullmatch(str(path))):
            with open(path, "ab") as f:
                f.write(content)
            return
        if mode is not None and not stat.S_ISREG(mode):
            raise OSError(0, "it is a folder" if stat.S_ISDIR(mode) else "it is no regular file")
        _remove_partial(target.parent)
        with open(partial, "xb") as f:
            f.write(content)
            f.flush()
            os.fsync(f.fileno())
        os.replace(partial, target)
        _sync(target.parent)
    except OSError as e:
        kept = " (the old file is kept)" if os.path.lexists(path) else ""
        raise RunError(f"cannot write {path} ({e.strerror or e}); make room or choose another place{kept}") from e
    finally:
        with suppress(OSError):
            partial.unlink(missing_ok=True)


def _mode(path: str | Path) -> int | None:
    try:
        return os.stat(path).st_mode
    except FileNotFoundError:
        return None


def _sync(folder: Path) -> None:
    """Have the disk know the new name as well, where the system can say so."""
    with suppress(OSError), ExitStack() as stack:
        descriptor = os.open(folder, os.O_RDONLY)
        stack.callback(os.close, descriptor)
        os.fsync(descriptor)


def write_text(path: str | Path, text: str) -> None:
    """As UTF-8, in which what is no text in a name is shown as \\xNN or \\udcNN."""
    write_bytes(path, text.encode("utf-8", "backslashreplace"))


def write_json(path: str | Path, value) -> None:
    write_text(path, json.dumps(value, indent=2) + "\n")


# --- folders ----------------------------------------------------------------------------------------------------------


def check_folder(path: str | Path) -> None:
    """Raise InputError where no folder can be made at `path`: a file is in the way, or its name is too long."""
    path = Path(path)
    try:
        with suppress(FileNotFoundError):
            os.lstat(path)
    except NotADirectoryError:
        pass
    except OSError as e:
        raise InputError(f"{path} cannot be a folder ({e.strerror}); choose another --out") from e
    existing = next(p for p in (path, *Path(os.path.abspath(path)).parents) if os.path.exists(p))
    if not existing.is_dir():
        raise InputError(f"{path} cannot be a folder, since {existing} is a file; choose another --out")


@contextmanager
def owned(folder: str | Path, *, wait: bool = True, way_out: str = "choose another --out") -> Iterator[None]:
    """Make the folder and be the only process, and thread, that writes in it: a second one waits.

    What a killed process left half written is removed, and so is a new folder in which nothing was written.
    Raises InputError where there can be no such folder, and, unless it is to `wait`, where another one writes in it.
    """
    from filelock import FileLock, Timeout  # the reader is installed without it

    folder = Path(folder)
    missing = [p for p in (folder, *folder.parents) if not os.path.exists(p)]
    waiting, attempts = False, 0
    try:
        while True:
            try:
                folder.mkdir(parents=True, exist_ok=True)
                lock = FileLock(folder / LOCK, thread_local=False)
                lock.acquire(blocking=waiting)
                break
            except Timeout as e:
                if not wait:
                    raise InputError(f"another process writes in {folder}; {way_out}") from e
                log.warning("another process writes in %s; waiting for its end", folder)
                waiting = True
            except (FileNotFoundError, FileExistsError):  # the other one removed it meanwhile, with nothing in it
                attempts += 1
                if attempts == 100:
                    raise
    except OSError as e:
        raise InputError(f"cannot write in the folder {folder} ({e.strerror or e}); {way_out}") from e
    try:
        _remove_partial(folder)
        yield
    finally:
        _release(lock)
        with suppress(OSError):  # where something is in it
            for made in missing:
                made.rmdir()


def _remove_partial(folder: Path) -> None:
    """Remove what processes that were killed had half written there."""
    with suppress(OSError):
        for path in folder.glob(PARTIAL.format("*-*")):
            if not _is_alive(path.name.removeprefix(f"{HIDDEN}-").partition("-")[0]):
                path.unlink()


def _is_alive(process: str) -> bool:
    if os.name == "nt" or not process.isdecimal():
        return False  # Windows removes no open file, and its os.kill(…, 0) kills
    try:
        os.kill(int(process), 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        pass
    return True


def _release(lock) -> None:
    try:
        _surely(_unlink, lock.lock_file)
    finally:
        lock.release()


def _unlink(path: str) -> None:
    with suppress(OSError):  # of Windows, which removes no open file
        os.unlink(path)


def _surely(remove: Callable, *args) -> None:
    """Also where Ctrl-C comes as the work has just ended."""
    try:
        remove(*args)
    except KeyboardInterrupt:
        remove(*args)
        raise


def remove_abandoned() -> None:
    """Remove the temporary folders that killed processes left."""
    for old in Path(tempfile.gettempdir()).glob(f"{TEMPORARY}*"):
        with suppress(OSError, ImportError):
            from filelock import FileLock, Timeout

            if hasattr(os, "getuid") and old.lstat().st_uid != os.getuid():
                continue
            if not (old / LOCK).exists():
                old.rmdir()  # an empty one, of a process that was killed before it had its lock, or after
            else:
                with suppress(Timeout), FileLock(old / LOCK, blocking=False):  # its owner has gone
                    shutil.rmtree(old, ignore_errors=True)


@contextmanager
def temporary_folder() -> Iterator[Path]:
    """A folder that is removed at the end, or else, where this process is killed, by the next command."""
    from filelock import FileLock

    remove_abandoned()
    folder, lock = None, None
    try:
        while True:
            folder = Path(tempfile.mkdtemp(prefix=TEMPORARY))
            lock = FileLock(folder / LOCK, thread_local=False)
            with suppress(OSError):  # taken for an old one, before it had its owner
                (folder / LOCK).touch()
                lock.acquire()
                if folder.exists():
                    break
        yield folder
    finally:
        if folder:
            _surely(shutil.rmtree, folder, True)
        if lock:
            lock.release()


# --- processes --------------------------------------------------------------------------------------------------------


@cache
def life() -> Path:
    """A file that this process keeps locked as long as it lives, for `end_with`."""
    folder = ExitStack()
    atexit.register(folder.close)
    return folder.enter_context(temporary_folder()) / LOCK


def end_with(life: str) -> None:
    """End this process when the one whose `life` that is has ended: killed, that could not end its workers.

    A lock says so on every system: a parent's number does not on Windows.
    """
    from filelock import FileLock

    def wait():
        with suppress(OSError):  # its folder may be gone by then
            FileLock(life, poll_interval=0.2).acquire()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()
