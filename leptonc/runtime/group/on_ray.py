"""runtime > group > on_ray: ranks that Ray places, on one machine or several (extra ``ray``).

Ray starts an actor for each rank and carries inputs and results; between ranks tensors go through
gloo. They find each other through an actor that keeps a few words, so no further port is opened for
that. The program's directory, and leptonc, must be there under the same path on every machine.
"""

from __future__ import annotations

import contextlib
import datetime
import importlib
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from types import ModuleType, TracebackType
from typing import Any, Self

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.distributed_c10d import Store

from leptonc.errors import WorkerError
from leptonc.runtime.group import failure
from leptonc.runtime.group.comm import Comm
from leptonc.runtime.group.entry import ALLOWED, check_entry, resolve_entry
from leptonc.runtime.group.failure import Failure
from leptonc.runtime.group.process import path_environ, thread_environ

_COMM = "leptonc.backends.torch_spmd.comm.reference:TorchComm"
_POLL_S = 0.005
_GRACE_S = 0.5
_ADVICE = "call restart() for new ranks; Ray's dashboard and logs tell more"


class Board:
    """The actor through which ranks find each other: a few named byte strings."""

    def __init__(self) -> None:
        self._notes: dict[str, bytes] = {}

    def write(self, key: str, value: bytes) -> None:
        """Keep ``value`` under ``key``."""
        self._notes[key] = value

    def read(self, keys: list[str]) -> list[bytes] | None:
        """Return the values, or None while any is missing."""
        if any(key not in self._notes for key in keys):
            return None
        return [self._notes[key] for key in keys]

    def add(self, key: str, amount: int) -> int:
        """Add to the number kept under ``key`` and return the sum."""
        total = int(self._notes.get(key, b"0")) + amount
        self._notes[key] = str(total).encode()
        return total


class BoardStore(Store):
    """What ``torch.distributed`` meets through, over a :class:`Board`."""

    def __init__(self, board: Any, deadline_s: float) -> None:
        super().__init__()
        self._board = board
        self._deadline_s = deadline_s
        self._ray = _ray()

    def set(self, key: str, value: str | bytes) -> None:
        """Keep a value."""
        data = value.encode() if isinstance(value, str) else bytes(value)
        self._ray.get(self._board.write.remote(key, data))

    def get(self, key: str) -> bytes:
        """Return a value, once it is there.

        Raises:
            WorkerError: it does not come.
        """
        return self._await([key], self._deadline_s)[0]

    def add(self, key: str, value: int) -> int:
        """Add to a number and return the sum."""
        return self._ray.get(self._board.add.remote(key, value))

    def wait(self, keys: list[str], timeout: datetime.timedelta | None = None) -> None:
        """Return once all keys have values.

        Raises:
            WorkerError: they do not come.
        """
        self._await(list(keys), self._deadline_s if timeout is None else timeout.total_seconds())

    def check(self, keys: list[str]) -> bool:
        """Return whether all keys have values."""
        return self._ray.get(self._board.read.remote(list(keys))) is not None

    def _await(self, keys: list[str], seconds: float) -> list[bytes]:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            found = self._ray.get(self._board.read.remote(keys))
            if found is not None:
                return found
            time.sleep(_POLL_S)
        raise WorkerError(f"ranks did not meet within {seconds:g} s: {keys} are missing")


class RankActor:
    """One rank, in a process that Ray has started."""

    def __init__(self, config: dict[str, Any]) -> None:
        self._config = config

    def where(self) -> tuple[int, str]:
        """Return the number of this process and the name of its machine."""
        return os.getpid(), socket.gethostname()

    def load(self, board: Any) -> None:
        """Meet the other ranks and load the program."""
        config = self._config
        sys.path += [p for p in config["path"] if p not in sys.path]
        torch.set_num_threads(config["threads"])
        wait = max(config["deadline_s"], config["load_deadline_s"])
        dist.init_process_group(
            "gloo",
            store=BoardStore(board, config["load_deadline_s"]),
            rank=config["rank"],
            world_size=config["world"],
            timeout=datetime.timedelta(seconds=wait),
        )
        comm: Comm = resolve_entry(_COMM)()
        load = resolve_entry(config["entry"], config["allowed"])
        self._program: Callable[[list[Tensor]], list[Tensor]] = load(
            Path(config["directory"]), config["rank"], comm
        )

    def call(self, inputs: list[Tensor]) -> list[Tensor]:
        """Return the results, of rank 0; the other ranks return nothing."""
        with torch.no_grad():
            results = self._program([t.clone() for t in inputs])
        return list(results) if self._config["rank"] == 0 else []

    def attempt(self, name: str, *args: Any) -> tuple[bool, Any]:
        """Return True and what a method returns, or False and a description of what it raised."""
        try:
            return True, getattr(self, name)(*args)
        except BaseException as error:
            return False, failure.describe(error)


class RayGroup:
    """A group whose ranks are Ray actors; see :class:`leptonc.runtime.group.local.LocalGroup`.

    Connects to Ray if the process has not yet: to ``address``, or to a new local instance.

    Args:
        directory: the program, which ``entry`` loads; there on every machine.
        world: number of ranks.
        entry: ``"module:function"``, as for a local group.
        deadline_s: seconds that a call may take.
        load_deadline_s: seconds that placing and loading may take.
        threads: threads of a rank, for which it asks Ray as many CPUs.
        allowed: prefixes of modules that ``entry`` may be in.
        address: of the Ray cluster.
        spread: how Ray shall place ranks: its placement strategy.
        interface: network interface for gloo; None: the one that the machine's name leads to.

    Raises:
        WorkerError: Ray is not installed, or an argument is of no use.
    """

    def __init__(
        self,
        directory: Path | str,
        world: int,
        *,
        entry: str,
        deadline_s: float = 60.0,
        load_deadline_s: float = 120.0,
        threads: int = 1,
        allowed: Sequence[str] = ALLOWED,
        address: str | None = None,
        spread: str = "SPREAD",
        interface: str | None = None,
    ) -> None:
        check_entry(entry, allowed)
        if world < 1 or threads < 1 or min(deadline_s, load_deadline_s) <= 0:
            raise WorkerError(
                f"world={world}, threads={threads}, deadlines {deadline_s} s, {load_deadline_s} s: "
                "expected positive numbers"
            )
        self._ray = _ray()
        self._config: dict[str, Any] = {
            "directory": str(Path(directory).absolute()), "world": world, "entry": entry,
            "deadline_s": deadline_s, "load_deadline_s": load_deadline_s, "threads": threads,
            "allowed": tuple(allowed), "path": [p for p in sys.path if p],
        }  # fmt: skip
        self._address, self._spread, self._interface = address, spread, interface
        self._lock = threading.RLock()
        self._actors: list[Any] = []
        self._board: Any = None
        self._bundles: Any = None
        self._where: list[tuple[int, str]] = []
        self._broken = ""

    @property
    def world(self) -> int:
        """The number of ranks."""
        return self._config["world"]

    @property
    def pids(self) -> tuple[int, ...]:
        """The numbers of the ranks' processes, each on its own machine."""
        return tuple(pid for pid, _ in self._where)

    @property
    def hosts(self) -> tuple[str, ...]:
        """The names of the machines that the ranks are on."""
        return tuple(host for _, host in self._where)

    def start(self) -> None:
        """Place the ranks unless they are; return once all have loaded the program.

        Raises:
            WorkerError: a rank could not, or an earlier call failed.
        """
        with self._lock:
            if self._broken:
                raise WorkerError(self._broken)
            if not self._actors:
                self._start()

    def call(self, tensors: Iterable[Tensor]) -> list[Tensor]:
        """Return what the program makes of ``tensors``.

        Raises:
            WorkerError: a rank failed or was late; its traceback is the cause. No rank is left.
        """
        with self._lock:
            self.start()
            try:
                inputs = self._ray.put([t.detach().cpu() for t in tensors])
                return self._ask("a call", self._config["deadline_s"], "call", inputs)[0]
            except BaseException as error:
                self._stop(_after(error))
                raise

    def restart(self) -> None:
        """Place new ranks in place of those that run or have failed.

        Raises:
            WorkerError: see :meth:`start`.
        """
        with self._lock:
            self._stop("")
            self._start()

    def close(self) -> None:
        """End the ranks; the group cannot be used any more, Ray can."""
        with self._lock:
            self._stop("this group is closed: make a new one")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:  # fmt: skip
        self.close()

    def _start(self) -> None:
        """Place the ranks, let them meet and load."""
        ray, config = self._ray, self._config
        if not ray.is_initialized():
            ray.init(address=self._address, log_to_driver=False, include_dashboard=False)
        try:
            self._place()
            where = self._ask("placing", config["load_deadline_s"], "where")
            self._where = where
            self._ask("loading", config["load_deadline_s"], "load", self._board)
        except BaseException as error:
            self._stop(_after(error))
            raise

    def _place(self) -> None:
        """Start the actors, each with the CPUs that its threads need."""
        ray, config = self._ray, self._config
        environ = {**path_environ(), **thread_environ(config["threads"])}
        if self._interface is not None:
            environ["GLOO_SOCKET_IFNAME"] = self._interface
        runtime = {"env_vars": environ}
        self._board = ray.remote(num_cpus=0, runtime_env=runtime)(Board).remote()
        bundles = [{"CPU": config["threads"]}] * config["world"]
        self._bundles = ray.util.placement_group(bundles, strategy=self._spread)
        if not self._bundles.wait(config["load_deadline_s"]):
            raise WorkerError(
                f"Ray has no room for {config['world']} ranks of {config['threads']} CPUs: use "
                "fewer, or add machines"
            )
        strategies = importlib.import_module("ray.util.scheduling_strategies")
        kind = ray.remote(RankActor)
        for rank in range(config["world"]):
            place = strategies.PlacementGroupSchedulingStrategy(
                self._bundles, placement_group_bundle_index=rank
            )
            options = kind.options(
                num_cpus=config["threads"], scheduling_strategy=place, runtime_env=runtime
            )
            self._actors.append(options.remote({**config, "rank": rank}))

    def _ask(self, doing: str, deadline_s: float, method: str, *args: Any) -> list[Any]:
        """Return every rank's answer.

        Raises:
            WorkerError: a rank failed or was late.
        """
        refs = {a.attempt.remote(method, *args): r for r, a in enumerate(self._actors)}
        answers: dict[int, Any] = {}
        failures: list[Failure] = []
        begin = time.monotonic()
        end = begin + deadline_s
        waiting = list(refs)
        while waiting:
            left = max(0.0, end - time.monotonic())
            done, waiting = self._ray.wait(waiting, num_returns=1, timeout=left)
            if not done:
                break
            self._hear(refs[done[0]], done[0], answers, failures)
            if failures:
                # Whoever suffers from another rank's failure may be heard of first.
                primary = any(not f.peer for f in failures)
                end = min(end, time.monotonic() + (0.0 if primary else _GRACE_S))
        if not failures and waiting:
            failures = [failure.late(refs[waiting[0]], deadline_s, "unknown", "")]
        if failures:
            raise failure.as_error(failure.first(failures), doing)
        return [answers[r] for r in range(len(answers))]

    def _hear(self, rank: int, ref: Any, answers: dict[int, Any], failures: list[Failure]) -> None:
        """Note a rank's answer, or how it failed."""
        try:
            fine, value = self._ray.get(ref)
        except self._ray.exceptions.RayError as error:
            what = f"is gone ({type(error).__name__})"
            failures.append(Failure(rank, what, _ADVICE, str(error), at=time.monotonic()))
            return
        if fine:
            answers[rank] = value
        else:
            failures.append(failure.raised(rank, value))

    def _stop(self, why: str) -> None:
        """End the ranks; ``why`` later calls cannot work, empty if they can."""
        self._broken = why
        actors, self._actors, self._where = [*self._actors, self._board], [], []
        for actor in actors:
            if actor is not None:
                with contextlib.suppress(Exception):
                    self._ray.kill(actor, no_restart=True)
        bundles, self._board, self._bundles = self._bundles, None, None
        if bundles is not None:
            with contextlib.suppress(Exception):
                self._ray.util.remove_placement_group(bundles)


def _after(error: BaseException) -> str:
    """Return what later calls say."""
    return (
        f"this group has no ranks since an earlier call failed ({type(error).__name__}: {error}): "
        "call restart() first"
    )


def _ray() -> ModuleType:
    """Return Ray.

    Raises:
        WorkerError: it is not installed.
    """
    try:
        return importlib.import_module("ray")
    except ImportError as error:
        raise WorkerError("Ray is not installed: pip install 'leptonc[ray]'") from error
