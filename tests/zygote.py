"""Calls of `mnist-fa`, and scripts, in processes that begin with everything imported, and that end at a chosen moment.

Importing torch and fastai takes five seconds. The standard library's fork server, a fresh process, imports them once
and forks a child per call. A child counts the operations on files that Python is about to make (audit events) and sends
itself a signal at the k-th: such a moment can be had again, as one on the clock cannot.
"""

import atexit
import multiprocessing
import os
import resource
import runpy
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

PRELOAD = [  # with what torch, typer and Pillow import when first used; a name that is not there is passed over
    "mnist_fastai.cli", "mnist_fastai.train", "mnist_fastai.exports", "mnist_fastai.maps", "mnist_fastai.reproduce",
    "mnist_fastai.results", "mnist_fastai.reader.session", "filelock", "joblib", "matplotlib.backends.backend_agg",
    "onnx", "onnxruntime", "onnxscript.function_libs.torch_lib.ops", "onnxscript.rewriter.onnx_fusions", "networkx",
    "openTSNE", "PIL.JpegImagePlugin", "PIL.PngImagePlugin", "pydantic", "pytest", "rich.progress", "scipy.ndimage",
    "scipy.stats", "sklearn.manifold", "torch._dynamo", "torch._export.non_strict_utils",
    "torch._functorch.aot_autograd", "torch._inductor.codecache", "torch.onnx", "typer._adapters",
]  # fmt: skip
EVENTS = {
    "os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.link", "os.symlink", "os.truncate", "os.chmod", "os.utime",
    "shutil.rmtree", "fcntl.flock", "fcntl.lockf", "subprocess.Popen",
}  # fmt: skip
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
SIGNALS = signal.SIGINT, signal.SIGTERM, signal.SIGHUP
TIMEOUT = 120  # seconds, after which a call is taken to hang


class Moment(NamedTuple):
    """When a call gets a signal: as it is about to make its `event`-th operation on files, or `delay` seconds later."""

    event: int  # from 1; 0 is the start
    delay: float = 0.0
    signal: int = signal.SIGKILL


class Outcome(NamedTuple):
    code: int  # negative: the signal that ended it
    out: str
    err: str
    events: int  # operations on files; 0 where it was killed
    seconds: float


class Call:
    """`mnist-fa ARGS`, or a script with `args`, in `folder`/work, with `folder`/tmp for temporary files, started."""

    def __init__(
        self, folder: Path, args: Sequence, moment: Moment | None = None, limit: int | None = None, script: str = ""
    ):
        self.name, self.args, self.began = script or "mnist-fa", [*map(str, args)], time.perf_counter()
        for name in ("work", "tmp"):
            (folder / name).mkdir(parents=True, exist_ok=True)
        pipes = [context().Pipe(duplex=False) for _ in range(3)]
        self.readers = [reader for reader, _ in pipes]
        writers = [writer for _, writer in pipes]
        self.process = context().Process(
            target=_child, args=(str(folder), self.name, self.args, moment, limit, *writers)
        )
        self.process.start()
        for writer in writers:
            writer.close()

    def wait(self) -> Outcome:
        self.process.join(TIMEOUT)
        if self.process.exitcode is None:
            self.process.kill()
            raise AssertionError(f"{self.name} {' '.join(self.args)} hangs")
        out, err, events = (_read(reader.fileno()) for reader in self.readers)
        for reader in self.readers:
            reader.close()
        return Outcome(self.process.exitcode, out, err, int(events or 0), time.perf_counter() - self.began)


def call(folder: Path, *args, **kwargs) -> Outcome:
    return Call(folder, args, **kwargs).wait()


def context():
    """The fork server's, which is started with one thread per process."""
    if not hasattr(context, "made"):
        os.environ["OMP_NUM_THREADS"] = "1"
        context.made = multiprocessing.get_context("forkserver")
        context.made.set_forkserver_preload(PRELOAD)
    return context.made


def _read(descriptor: int) -> str:
    parts = []
    while part := os.read(descriptor, 2**16):
        parts.append(part)
    return b"".join(parts).decode("utf-8", "replace")


def _child(folder: str, name: str, args: list[str], moment: Moment | None, limit: int | None, out, err, events) -> None:
    import torch

    torch.set_num_threads(1)
    os.chdir(os.path.join(folder, "work"))
    os.environ["TMPDIR"], tempfile.tempdir = os.path.join(folder, "tmp"), None
    for target, pipe in ((1, out), (2, err)):
        os.dup2(pipe.fileno(), target)
        pipe.close()
    sys.stdout, sys.stderr = (os.fdopen(n, "w", encoding="utf-8", closefd=False) for n in (1, 2))
    for number in SIGNALS:  # what started this may ignore them
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
    if limit is not None:  # no file can grow beyond it, as on a full disk, for root as well
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    from mnist_fastai.cli import main

    count = _count(moment)
    sys.argv = [name, *args]
    try:
        if name.endswith(".py"):
            sys.path.insert(0, os.getcwd())  # as Python does for a script
            runpy.run_path(name, run_name="__main__")
        else:
            main()
    finally:
        for number in SIGNALS:  # a moment that comes too late would hit what multiprocessing does
            signal.signal(number, signal.SIG_IGN)
        atexit._run_exitfuncs()  # which a process of multiprocessing leaves out
        os.write(events.fileno(), str(count()).encode())


def _count(moment: Moment | None):
    """Count this process's operations on files, and send it the moment's signal at its event."""
    number, here = 0, os.getpid()

    def strike():
        os.kill(here, moment.signal)

    def at(event: int):
        if moment and moment.event == event:
            if moment.delay:
                timer = threading.Timer(moment.delay, strike)
                timer.daemon = True
                timer.start()
            else:
                strike()

    def hook(event: str, args: tuple):
        nonlocal number
        writes = event in EVENTS or (event == "open" and isinstance(args[2], int) and args[2] & WRITES)
        if writes and os.getpid() == here and "__pycache__" not in str(args[0]):
            number += 1
            at(number)

    sys.addaudithook(hook)
    at(0)
    return lambda: number
