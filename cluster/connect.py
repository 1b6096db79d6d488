"""Where Ray runs: the cluster of ``RAY_ADDRESS``, or this machine."""

import contextlib
import importlib
import logging
import os
import signal
import threading
import warnings
from collections.abc import Iterator

from raygen.cluster import gcs, stop
from raygen.errors import ResourceError


@contextlib.contextmanager
def connected(verbose: bool = False, training: bool = True, meanwhile: str = "ray.data") -> Iterator[None]:
    """Connect for the length of the block, unless somebody has already connected, and then leave that be.

    Args:
        verbose: show Ray's own messages and the output of its workers.
        training: whether Ray Train will be used, which asks Ray's dashboard; without it a local Ray is up sooner.
        meanwhile: a module to import while Ray starts, which is mostly waiting.

    Raises:
        ResourceError: the cluster of ``RAY_ADDRESS`` does not answer, lets nobody in, or has other versions.
    """
    _quieten(verbose)
    import ray

    if ray.is_initialized():
        with _errors_as_they_are():
            yield
        return
    level = logging.INFO if verbose else logging.ERROR
    address = os.environ.get("RAY_ADDRESS")
    if address:
        gcs.check(address)
    try:
        with _hushed(not verbose), _imported(meanwhile):
            dashboard = None if training else False  # of a cluster that is there already, this changes nothing
            with _stopped_as_before():
                ray.init(logging_level=level, log_to_driver=verbose, include_dashboard=dashboard)
    except (ConnectionError, RuntimeError) as error:
        if not address:
            raise
        raise ResourceError(
            f"RAY_ADDRESS={address}: no Ray cluster answers ({str(error).splitlines()[0]})",
            "unset RAY_ADDRESS to work on this machine, or check the address",
        ) from None
    try:
        if not verbose:
            _quieten_data()
        with _errors_as_they_are():
            yield
    finally:
        if not stop.due():  # which takes seconds
            ray.shutdown()


@contextlib.contextmanager
def _stopped_as_before() -> Iterator[None]:
    """Keep a handler of SIGTERM that is somebody's own: that of Ray ends the process without a word."""
    handler = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if callable(handler) and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, handler)


@contextlib.contextmanager
def _imported(module: str) -> Iterator[None]:
    """Import a module while the block runs. What the import raises, whoever imports it next is told."""

    def load() -> None:
        with contextlib.suppress(Exception):
            importlib.import_module(module)

    thread = threading.Thread(target=load, name=f"import {module}")
    thread.start()
    try:
        yield
    finally:
        thread.join()


@contextlib.contextmanager
def _hushed(hush: bool) -> Iterator[None]:
    """Keep Ray's core, which writes to the file descriptor itself, from announcing its log level. Exceptions still tell."""
    if not hush:
        yield
        return
    kept = os.dup(2)
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def _quieten(verbose: bool) -> None:
    # An ancestor `uv run` would make Ray rebuild every worker's environment.
    os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
    os.environ.setdefault("RAY_DATA_USAGE_DISABLED", "1")  # nobody is told what is done with the data; and one actor less
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # the future default; else a warning at every start
    if verbose:
        return
    # Ray Data gives its actors their function by reference, and Ray's core then prints a warning about restarts for each.
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    warnings.filterwarnings("ignore", module=r"ray\..*")


@contextlib.contextmanager
def _errors_as_they_are() -> Iterator[None]:
    """Have Ray Data raise what a function of ours raised: what it would raise instead does not carry it over."""
    import ray.data

    context = ray.data.DataContext.get_current()
    before, context.raise_original_map_exception = context.raise_original_map_exception, True
    try:
        yield
    finally:
        context.raise_original_map_exception = before


def _quieten_data() -> None:
    import ray.data
    import ray.train

    for name in ("ray", "ray.data", "ray.train", "ray.tune"):  # after the imports, which set levels of their own
        logging.getLogger(name).setLevel(logging.ERROR)
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)  # it would tell of an error that is raised anyway
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
