"""parts > parallel: a batch shared out over workers that compute the same; data parallelism."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from types import TracebackType
from typing import Any, Self

import torch

from leptonc.errors import InputError, PartError
from leptonc.parts.batches import even
from leptonc.parts.part import Part
from leptonc.parts.pipeline import failure
from leptonc.parts.rows import cut_rows, join_rows, rows_of
from leptonc.runtime.governor import Governor, library_threads


class Parallel:
    """A module that cuts its batch into a piece for each worker and joins what they return.

    Call it as ``net``. The results are bit for bit those of ``net`` on the pieces, whose sizes
    differ by one row at most. Every worker has a thread, and the cores are shared out evenly: a
    part that is not compiled yet is compiled for ``cores / workers`` threads; a compiled model
    keeps the threads it was compiled for (``leptonc.compile(threads=...)``).

    Args:
        net: a part of ``leptonc.split``, a compiled model, or any callable that may be called by
            several threads at a time.
        workers: how many; the default is one for each device, or core.
        devices: for a part, a target of ``leptonc.compile`` for each worker; for another net, a
            callable for each worker, which computes what ``net`` does.
        axis: where the batch is in arguments and results.
        whole: positions and names of arguments that are not cut.

    Raises:
        PartError: no worker, or devices that do not fit.
        TargetError: a device that is not there.
    """

    def __init__(
        self,
        net: Any,
        workers: int | None = None,
        *,
        devices: Sequence[Any] | None = None,
        axis: int = 0,
        whole: Collection[int | str] = (),
    ) -> None:
        cores = Governor().decision.cores
        if workers is None:
            workers = len(devices) if devices is not None else cores
        if workers < 1:
            raise PartError(f"{workers} workers: ask for at least 1")
        if devices is not None and len(devices) != workers:
            raise PartError(f"{len(devices)} devices do not fit {workers} workers; give one each")
        self.threads = max(1, cores // workers)
        self.calls = _calls(net, workers, devices, self.threads)
        self._axis, self._whole = axis, frozenset(whole)
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="leptonc worker")
        self._end = weakref.finalize(self, self._pool.shutdown, wait=False, cancel_futures=True)

    @property
    def workers(self) -> int:
        """How many pieces a batch is cut into at most."""
        return len(self.calls)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Return what the net returns for these arguments.

        A batch of fewer rows than workers leaves some without work; arguments without a tensor go
        to one.

        Raises:
            InputError: the arguments do not fit, or the results cannot be joined.
            PartError: a worker failed; the text names it.
        """
        sizes = even(max(1, rows_of(args, kwargs, self._axis)), self.workers)
        if len(sizes) == 1:
            pieces = [(args, kwargs)]
        else:
            pieces = cut_rows(args, kwargs, sizes, self._axis, self._whole)
        with library_threads(self.threads):
            grad = torch.is_grad_enabled()
            futures = [
                self._pool.submit(partial(_work, grad, call, a, k))
                for call, (a, k) in zip(self.calls, pieces)
            ]
            return join_rows(_gathered(futures), sizes, self._axis)

    def close(self) -> None:
        """End the workers; further calls raise RuntimeError."""
        self._end.detach()
        self._pool.shutdown(wait=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None,
        where: TracebackType | None,
    ) -> None:  # fmt: skip
        self.close()

    def __repr__(self) -> str:
        """Return a one-line summary."""
        return f"<leptonc.Parallel: {self.workers} workers of {self.threads} threads>"


def _calls(
    net: Any, workers: int, devices: Sequence[Any] | None, threads: int
) -> list[Callable[..., Any]]:
    """Return what each worker calls."""
    if isinstance(net, Part):
        if devices is not None:
            own = net.with_threads(threads)
            made = {d: own.to(d) for d in dict.fromkeys(devices)}
            for part in made.values():
                part.compile()
            return [made[d] for d in devices]
        if net.net is None:
            net = net.with_threads(threads)
            net.compile()
        return [net] * workers
    if devices is None:
        return [net] * workers
    if wrong := [d for d in devices if not callable(d)]:
        raise PartError(
            f"device {wrong[0]!r}: only a part of leptonc.split can be compiled for it here; "
            "give a model compiled for it instead"
        )
    return list(devices)


def _work(grad: bool, call: Callable[..., Any], args: Any, kwargs: Any) -> Any:
    with torch.set_grad_enabled(grad):
        return call(*args, **kwargs)


def _gathered(futures: Sequence[Future[Any]]) -> list[Any]:
    """Return all results; the error of the first worker that failed is raised when all are done."""
    for i, f in enumerate(futures):
        if (e := f.exception()) is not None:
            for other in futures:
                other.exception()
            if isinstance(e, InputError):
                raise failure(f"worker {i}", e) from e
            raise failure(f"worker {i} of {len(futures)}", e) from e
    return [f.result() for f in futures]
