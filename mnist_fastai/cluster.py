"""joblib's way to somebody else's cluster: calls become tasks of Dask or Ray, and nothing but this package is there.

joblib's own backends for the two are not used. That of Dask waits for ever for a task that Dask has given up, since it
hears of results alone; that of Ray gives no result before the last, deals tasks out in turn, to actors that are busy as
well, and ends with the first actor that dies (joblib 1.6, Ray 2.60).
"""

import logging
import os
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from contextlib import contextmanager, suppress
from functools import cache
from typing import Protocol

import joblib
from joblib.parallel import ParallelBackendBase

from .errors import InputError, RunError

BACKENDS = "loky", "dask", "ray"
TIMEOUT = 30  # seconds in which a scheduler and the first worker must answer


class Cluster(Protocol):
    """Where calls are made, each by a process of its own."""

    def workers(self) -> int: ...

    def share(self, value):
        """What stands for a value in the arguments of `submit`: each worker gets it once."""

    def submit(self, function: Callable, *args):
        """A future with `result` and `add_done_callback`. Where a worker dies, another one makes the call."""

    def close(self) -> None: ...


class Dask:
    def __init__(self, address: str | None):
        import dask
        from distributed import Client

        address = address or dask.config.get("scheduler-address", None)  # of DASK_SCHEDULER_ADDRESS
        if not address:
            raise InputError("the backend dask needs the address of a scheduler; give --address tcp://HOST:8786")
        logging.getLogger("distributed.client").setLevel(logging.CRITICAL)  # what counts is said in one sentence
        try:
            self.client = Client(address, timeout=TIMEOUT, set_as_default=False)
        except (OSError, ValueError, TimeoutError) as e:
            raise InputError(f"no Dask scheduler answers at {address}; start one with `dask scheduler`") from e
        try:
            self.client.wait_for_workers(1, timeout=TIMEOUT)
        except TimeoutError as e:
            self.client.close()
            raise InputError(
                f"the scheduler at {address} has no worker; start some with `dask worker {address} --nthreads 1`"
            ) from e
        if (most := max(self.client.nthreads().values())) > 1:
            self.client.close()
            raise InputError(f"a Dask worker has {most} threads; start each with --nthreads 1, a process per run")
        # of the standard library's futures: a callback of Dask's own waits for ever once the client is closed
        self._executor = self.client.get_executor(pure=False)

    def workers(self) -> int:
        return len(self.client.nthreads())

    def share(self, value):
        return self.client.scatter(value, broadcast=True, hash=False)

    def submit(self, function: Callable, *args):
        return self._executor.submit(function, *args)

    def close(self) -> None:
        self.client.close()


class Ray:
    def __init__(self, address: str | None):
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # it would report to its makers
        import ray

        address = address or os.environ.get("RAY_ADDRESS")
        if not address:
            raise InputError("the backend ray needs the address of a cluster; give --address auto, or local")
        before = signal.getsignal(signal.SIGTERM)
        try:
            ray.init(address, log_to_driver=False, logging_level="error")
        except (ConnectionError, RuntimeError, ValueError) as e:
            raise InputError(f"no Ray cluster answers at {address}; start one with `ray start --head`") from e
        self.ray, self._remote = ray, cache(ray.remote)
        with suppress(ValueError):  # outside of the main thread
            signal.signal(signal.SIGTERM, before)  # that of Ray prints a stack

    def workers(self) -> int:
        return int(self.ray.cluster_resources().get("CPU", 0))

    def share(self, value):
        return self.ray.put(value)

    def submit(self, function: Callable, *args):
        return self._remote(function).remote(*args).future()

    def close(self) -> None:
        self.ray.shutdown()


class Backend(ParallelBackendBase):
    """A joblib backend on a cluster, of calls whose first argument is their number.

    Each returns a tuple that begins with its number and what went wrong. A call that the cluster has given up returns
    such a tuple as well, and so is lost alone.
    """

    supports_retrieve_callback = True

    def __init__(self, cluster: Cluster):
        super().__init__(nesting_level=0)
        self.cluster = cluster

    def effective_n_jobs(self, n_jobs: int) -> int:
        return max(2, self.cluster.workers())  # for one worker, joblib would make the calls in this process

    def submit(self, func, callback=None):
        ((function, args, _),) = func.items  # a batch of one
        future = self.cluster.submit(function, *args)
        future.add_done_callback(lambda done: callback((args[0], done)))
        return future

    def retrieve_result_callback(self, out):
        number, future = out
        try:
            return [future.result()]
        except CancelledError as e:
            raise RunError("the cluster has gone; run the same command again to continue") from e
        except Exception as e:  # whatever the cluster raises: its workers died, or lack a package
            said = str(e).strip().splitlines() or [""]
            return [(number, f"the cluster could not make it ({type(e).__name__}: {said[0]})", {})]


@contextmanager
def connect(backend: str, address: str | None) -> Iterator[Cluster]:
    """A connection to a cluster, over which joblib makes its calls.

    Raises InputError where there is no such cluster, and where the backend is not installed.
    """
    try:
        cluster = {"dask": Dask, "ray": Ray}[backend](address)
    except ModuleNotFoundError as e:
        raise InputError(f"the backend {backend} is not installed; `pip install 'mnist-fastai[{backend}]'`") from e
    try:
        with joblib.parallel_config(Backend(cluster)):
            yield cluster
    finally:
        cluster.close()
