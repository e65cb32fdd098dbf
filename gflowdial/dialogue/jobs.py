"""Independent jobs side by side, each in a process of its own with its own threads."""

import multiprocessing
import pickle
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from multiprocessing.context import BaseContext
from types import MappingProxyType
from typing import Any, TypeVar

import torch
from transformers.utils import logging

from gflowdial.dialogue.config import ComputeConfig

Result = TypeVar("Result")

_shared: Any = None


def run_jobs(
    job: Callable[..., Result],
    arguments: Sequence[tuple[Any, ...]],
    compute: ComputeConfig,
    shared: Any = None,
    after: Mapping[int, int] = MappingProxyType({}),
) -> Iterator[tuple[int, Result]]:
    """Call ``job(shared, *argument)`` for each argument and yield ``(index, result)`` as they finish.

    A job whose index is in ``after`` begins when the one that it names is done. What is shared goes to each
    process once. The number of threads that a job has is part of the settings, because sums
    in another order round differently.
    """
    if compute.jobs == 1:
        _prepare(compute.threads)

        def before(index: int) -> int:
            return 1 + before(after[index]) if index in after else 0

        for index in sorted(range(len(arguments)), key=before):
            yield index, job(shared, *arguments[index])
        return
    context = _context()
    # As bytes: torch would hand each tensor to a process by a file descriptor of its own.
    content = pickle.dumps(shared)
    with ProcessPoolExecutor(compute.jobs, context, initializer=_start, initargs=(compute.threads, content)) as pool:

        def begin(waited: int | None) -> dict[Future[Result], int]:
            free = [index for index in range(len(arguments)) if after.get(index) == waited]
            return {pool.submit(_call, job, arguments[index]): index for index in free}

        running = begin(None)
        while running:
            done, _ = wait(running, return_when=FIRST_COMPLETED)
            # In the order of their indices, also where several are done at once.
            for future in sorted(done, key=running.__getitem__):
                index = running.pop(future)
                result = future.result()
                running |= begin(index)
                yield index, result


def one_of_several(_: None, job: Callable[..., Result], *arguments: Any) -> Result:
    """Call ``job(None, *arguments)``: as the job of `run_jobs`, for jobs of several kinds that share nothing."""
    return job(None, *arguments)


def _context() -> BaseContext:
    """New processes without the state of this one; where it can be had, from a server that has the imports done."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["gflowdial.dialogue.training", "gflowdial.dialogue.evaluation"])
    return context


def _call(job: Callable[..., Result], argument: tuple[Any, ...]) -> Result:
    return job(_shared, *argument)


def _start(threads: int, content: bytes) -> None:
    global _shared
    _shared = pickle.loads(content)
    _prepare(threads)


def _prepare(threads: int) -> None:
    torch.set_num_threads(threads)
    # The library's own bars and advice would run through ours.
    logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
