"""Making sharded models: plan, write, start, check; and loading those that were saved."""

from __future__ import annotations

import importlib.util
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from leptonc import check
from leptonc.backends.torch_spmd import legal, store
from leptonc.backends.torch_spmd.units import How
from leptonc.capture import Captured
from leptonc.capture.portable import Reader, from_json
from leptonc.errors import ArtifactError, CheckError
from leptonc.ir.text import parse
from leptonc.meaning.lockstep import run_ranks
from leptonc.runtime.artifact import Artifact
from leptonc.shard.measure import weights
from leptonc.shard.plan import Plan
from leptonc.sharded import CALL, Made, ShardedModel, written
from leptonc.sharding import Sharding, plan_captured
from leptonc.targets import Target, check_there, parse_target


def build(
    name: str,
    captured: Captured,
    made_for: tuple[Target, Sharding, How],
    verify: str,
    inputs: Sequence[Tensor],
    eager: Callable[[], Sequence[Tensor]],
    stats: dict[str, Any],
) -> ShardedModel:
    """Return a captured model divided, written out, and checked against the model.

    Args:
        name: of the model.
        captured: the model.
        made_for: where and how it runs; an engine of "" is chosen here.
        verify: ``"off"``, ``"final"``: the ranks' result on ``inputs``; anything else also runs
            all ranks in this process, in lock step, first.
        inputs: the program's operands for that.
        eager: gives the model's own results.
        stats: takes the figures.

    Raises:
        TargetError: a device that is not there.
        PlanError, ClaimError: what cannot be divided; nothing was started.
        WorkerError: a rank that could not start.
        CheckError: a wrong result; no rank is left.
    """
    target, sharding, how = made_for
    check_there(target)
    asked = how.precision
    # Transformed weights are up to four times as large as those that the plan cuts down.
    kernels = "strict" if sharding.objective == "memory" else asked
    how = How(_engine(target, sharding), how.threads, kernels, how.pipeline)
    start = time.perf_counter()
    plan = plan_captured(name, captured, target, sharding)
    legal.check(plan.function)
    stats["plan_s"] = time.perf_counter() - start
    if verify in ("unit", "pass"):
        _check_lockstep(name, plan, inputs, eager(), asked)
    start = time.perf_counter()
    private = Path(tempfile.mkdtemp(prefix="leptonc-sharded-"))
    made = Made(name, target, sharding, captured, private / "program", how, plan, private)
    try:
        written(made.directory, plan.program, made)
        net = ShardedModel(made, stats)
    except BaseException:
        shutil.rmtree(private, ignore_errors=True)
        raise
    stats["store_s"] = time.perf_counter() - start
    stats["weights"] = [weights(plan.program.local(r)) for r in range(plan.program.world)]
    if verify != "off":
        _checked(net, plan, inputs, eager, asked)
    return net


def load(artifact: Artifact) -> ShardedModel:
    """Return the model that ``ShardedModel.save`` wrote.

    Raises:
        ArtifactError: it is damaged, or of another form.
        TargetError: the devices it was compiled for are not here.
    """
    head, call = artifact.json("spmd.json"), artifact.json(CALL)
    try:
        function = parse(call["function"])
        captured = from_json(call["captured"], function, Reader({}))
        target = parse_target(call["target"])
        sharding = Sharding(launcher=call["launcher"], backend=call["backend"])
        how = How(head["engine"], 1, head["precision"], head["pipeline"])
        name = str(call["name"])
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ArtifactError(f"{artifact.path}: no sharded model ({error}); save it again") from None
    check_there(target)
    store.read_program(artifact)
    return ShardedModel(Made(name, target, sharding, captured, artifact.path, how, None), {})


def _engine(target: Target, sharding: Sharding) -> str:
    """Return what runs units: as asked, else the fastest that works here."""
    if sharding.engine is not None:
        return sharding.engine
    if target.kind == "cpu":
        return "native"
    return "inductor" if importlib.util.find_spec("triton") is not None else "torch"


def _checked(
    net: ShardedModel,
    plan: Plan,
    inputs: Sequence[Tensor],
    eager: Callable[[], Sequence[Tensor]],
    precision: str,
) -> None:
    """Start the ranks and hold their result to the model's; end them if it is wrong."""
    try:
        start, stats = time.perf_counter(), net.stats
        net.start()
        stats["start_s"] = time.perf_counter() - start
        start = time.perf_counter()
        got = net.group.call(list(inputs))
        stats["first_call_s"] = time.perf_counter() - start
        found = list(eager())
        if check.surely_within(found, got, precision):
            return
        wrong = check.model_reference(plan.function, inputs, found, precision).worst(got)
        if wrong is not None:
            together = run_ranks(plan.program.function, plan.program.tables, inputs)[0]
            alike = check.surely_within(found, together, precision)
            who = (
                "the program of the ranks is right, what runs its units is not: try "
                'Sharding(engine="torch")'
                if alike
                else "the division itself is wrong, which is a fault of leptonc"
            )
            raise CheckError(f"{net.name}: the ranks' result is not the model's ({wrong}); {who}")
    except BaseException:
        net.close()
        raise


def _check_lockstep(
    name: str, plan: Plan, inputs: Sequence[Tensor], found: Sequence[Tensor], precision: str
) -> None:
    """Run all ranks in this process and hold each to the model. Raises CheckError."""
    ref = None
    for rank, got in enumerate(run_ranks(plan.program.function, plan.program.tables, inputs)):
        if check.surely_within(found, got, precision):
            continue
        ref = ref or check.model_reference(plan.function, inputs, found, precision)
        wrong = ref.worst(got)
        if wrong is not None:
            raise CheckError(
                f"{name}: in lock step, rank {rank} computes another result ({wrong}); the "
                "division is wrong, which is a fault of leptonc"
            )
