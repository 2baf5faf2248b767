"""A model on several devices: ranks of one program behind the model's own call."""

from __future__ import annotations

import json
import shutil
import weakref
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor

from leptonc import meaning
from leptonc.backends.torch_spmd import store
from leptonc.backends.torch_spmd.alone import AloneGroup
from leptonc.backends.torch_spmd.preview import preview
from leptonc.backends.torch_spmd.units import How
from leptonc.capture import Captured
from leptonc.capture.portable import to_json
from leptonc.errors import InputError
from leptonc.ir.core import Builder, Function
from leptonc.ir.kinds.data import Full
from leptonc.ir.text import dump
from leptonc.runtime.artifact import open_artifact
from leptonc.runtime.group.local import LocalGroup
from leptonc.runtime.group.on_ray import RayGroup
from leptonc.runtime.group.torchrun import TorchrunGroup
from leptonc.shard import explain as words
from leptonc.shard.plan import Plan
from leptonc.shard.program import Spmd
from leptonc.sharding import Sharding
from leptonc.targets import Target

CALL = "call.json"


class Group(Protocol):
    """The ranks, as the model sees them."""

    @property
    def pids(self) -> tuple[int, ...]:
        """Numbers of the processes that were started."""
        ...

    def start(self) -> None:
        """Start the ranks unless they run."""
        ...

    def call(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """Return the results for whole inputs."""
        ...

    def restart(self) -> None:
        """Start new ranks after an error."""
        ...

    def close(self) -> None:
        """End the ranks."""
        ...


@dataclass(frozen=True)
class Made:
    """Everything that a sharded model consists of besides its ranks.

    Attributes:
        directory: the program, as ``backends.torch_spmd.store`` writes it.
        plan: None for a loaded model.
        private: a directory that is removed when the model goes.
    """

    name: str
    target: Target
    sharding: Sharding
    captured: Captured
    directory: Path
    how: How
    plan: Plan | None
    private: Path | None = None


class ShardedModel:
    """A model compiled for several devices. Call it as the model is called.

    Attributes:
        stats: figures of the compile: seconds by stage, bytes of weights by rank.
    """

    def __init__(self, made: Made, stats: dict[str, Any]) -> None:
        self._made = made
        self.stats = stats
        self._group = _group_of(made)
        if made.private is not None:  # it goes with the model
            weakref.finalize(self, shutil.rmtree, made.private, True)

    # -- running ----------------------------------------------------------------------------------

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Return what the model returns.

        Raises:
            InputError: an argument that does not fit; the ranks go on.
            WorkerError: a rank failed or was late; ``restart()`` starts new ones.
        """
        captured = self._made.captured
        leaves = captured.flatten(args, kwargs)
        tensors = captured.tensors(leaves)
        sizes = _fitting(captured.function, tensors)
        results = self._group.call([t.detach() for t in tensors])
        return captured.restore(results, leaves, sizes)

    def start(self) -> None:
        """Start the ranks now, not at the first call. Raises WorkerError."""
        self._group.start()

    def restart(self) -> None:
        """Start new ranks in place of those that run or have failed. Raises WorkerError."""
        self._group.restart()

    def close(self) -> None:
        """End the ranks; the model cannot be called any more."""
        self._group.close()

    def __enter__(self) -> ShardedModel:
        return self

    def __exit__(self, *problem: object) -> None:
        self.close()

    # -- looking ----------------------------------------------------------------------------------

    @property
    def name(self) -> str:
        """The model's name."""
        return self._made.name

    @property
    def target(self) -> Target:
        """Where it runs."""
        return self._made.target

    @property
    def how(self) -> How:
        """How the ranks run their units."""
        return self._made.how

    @property
    def plan(self) -> Plan:
        """How it is divided. Raises InputError for a loaded one, whose plan was not kept."""
        if self._made.plan is None:
            raise InputError(f"{self.name} was loaded: its plan is not kept, only its program")
        return self._made.plan

    @property
    def group(self) -> Group:
        """The ranks."""
        return self._group

    @property
    def ir(self) -> Function:
        """The function of all ranks, its collectives among its ops."""
        return store.read_program(open_artifact(self._made.directory, "off"))[0].function

    @property
    def source(self) -> str:
        """The torch program of rank 0."""
        return self.source_of(0)

    def source_of(self, rank: int) -> str:
        """Return the torch program of one rank. Raises InputError: there is no such rank."""
        program, _ = store.read_program(open_artifact(self._made.directory, "off"))
        if not 0 <= rank < program.world:
            raise InputError(f"{self.name}: no rank {rank} of {program.world}")
        return preview(program, rank)

    def report(self, remarks: bool = False, format: str = "text") -> str:
        """Return what the target means, how the model is divided and what that costs.

        With ``remarks`` every weight and op is listed; ``format="json"`` is for machines.

        Raises:
            InputError: another format.
        """
        if format == "json":
            return json.dumps(self._record(), indent=1)
        if format != "text":
            raise InputError(f"format {format!r}: a report is 'text' or 'json'")
        made = self._made
        lines = [f"{self.name} for {made.target.explain()}"]
        if made.plan is not None:
            lines.append(words.explain(made.plan, full=remarks))
        lines.append(f"  ranks     {made.sharding.launcher}, units run by {made.how.engine}")
        held = self.stats.get("weights", ())
        if held:
            shares = ", ".join(f"{b / 2**20:.2f}" for b in held)
            lines.append(f"  held      weights of each rank in MiB: {shares}")
        return "\n".join(lines) + "\n"

    def explain(self, name: str | None = None) -> str:
        """Return where every weight is and how every op runs.

        With ``name`` only the lines that name it.

        Raises:
            InputError: no line does; or a loaded model, whose plan was not kept.
        """
        text = words.explain(self.plan, full=True)
        if name is None:
            return text
        lines = [line for line in text.splitlines() if name in line]
        if not lines:
            raise InputError(f"{self.name}: nothing in the plan is named {name!r}")
        return "\n".join(lines)

    def _record(self) -> dict[str, Any]:
        """Return the report as plain data."""
        made, plan = self._made, self._made.plan
        record: dict[str, Any] = {
            "name": self.name,
            "target": str(made.target),
            "engine": made.how.engine,
            "launcher": made.sharding.launcher,
            "stats": self.stats,
        }
        if plan is not None:
            record["plan"] = {
                "exact": plan.exact,
                "objective": plan.objective,
                "predicted": asdict(plan.figures),
                "one_device": asdict(plan.alone),
                "collectives": [op.kind.NAME for op in plan.program.collectives],
            }
        return record

    def save(self, directory: Path | str) -> Path:
        """Write program and weights; ``leptonc.load`` gives the model back. Returns the directory.

        Raises:
            ArtifactError: it cannot be written there.
        """
        program, _ = store.read_program(open_artifact(self._made.directory, "off"))
        return written(Path(directory), program, self._made)

    def __repr__(self) -> str:
        """Return a one-line summary."""
        return f"<ShardedModel {self.name}: {self._made.target.explain()}>"


def written(directory: Path, program: Spmd, made: Made) -> Path:
    """Write ``program`` with what a call needs. Raises ArtifactError."""
    call = {
        "captured": to_json(made.captured),
        "function": dump(_bare(made.captured.function)),
        "name": made.name,
        "target": str(made.target),
        "launcher": made.sharding.launcher,
        "backend": made.sharding.backend,
    }
    texts = {CALL: json.dumps(call, indent=1)}
    return store.save(directory, program, made.how, made.target.kind, texts)


def _bare(fn: Function) -> Function:
    """Return the parameters and types of a program's results, without what it computes."""
    b = Builder(fn.name, params=list(fn.params), dims=fn.dims)
    kept = [b(Full(v.type.shape, 0, v.type.dtype)) for v in fn.returns]
    return b.finish(*kept)


def _fitting(fn: Function, tensors: Sequence[Tensor]) -> dict[str, int]:
    """Return the sizes of a call. Raises InputError: a tensor that the program does not take."""
    for i, (t, p) in enumerate(zip(tensors, fn.params, strict=True)):
        want = meaning.TORCH_DTYPES[p.type.dtype]
        if t.dtype is not want:
            name = p.hint or f"input {i}"
            raise InputError(f"{name}: expected dtype {want}, got {t.dtype}; convert it first")
    return meaning.bind_dims(fn, [tuple(t.shape) for t in tensors])


def _group_of(made: Made) -> Group:
    """Return the ranks, which have not started."""
    s, target = made.sharding, made.target
    if s.launcher == "torchrun":
        return TorchrunGroup(made.directory, entry=store.ENTRY)
    if s.launcher == "ray":
        return RayGroup(
            made.directory, target.ranks, entry=store.ENTRY, deadline_s=s.deadline_s,
            load_deadline_s=s.load_deadline_s,
        )  # fmt: skip
    if target.count is None:
        return AloneGroup(made.directory, target.device)
    return LocalGroup(
        made.directory, target.ranks, entry=store.ENTRY, backend=s.backend, device=target.kind,
        deadline_s=s.deadline_s, load_deadline_s=s.load_deadline_s,
    )  # fmt: skip
