"""One call for all that can be simulated: a plan, a program, or requests of several programs."""

from __future__ import annotations

import numpy as np

from leptonc.cost.cluster import Cluster
from leptonc.cost.presets import parse_cluster
from leptonc.errors import PlanError
from leptonc.ir.core import Function
from leptonc.shard.plan import Plan
from leptonc.shard.simulate.layout import Layout, Prediction
from leptonc.shard.simulate.predict import Ran, Study, summed
from leptonc.shard.simulate.tally import Tally, tally
from leptonc.shard.simulate.work import Work, single


def simulate(
    what: Plan | Function | Work,
    cluster: Cluster | str,
    layout: Layout | None = None,
    batch: int = 1,
) -> Prediction:
    """Return what ``what`` takes on a cluster that need not be there.

    Args:
        what: a plan, whose strategies are kept as they are; a program before fusion; or requests
            (``generation(decoder("llama-2-7b"), 128, 128)``), divided by the planner.
        cluster: devices and links, or text as ``"8xA100"``.
        layout: stages, ranks and replicas; default: the plan's ranks, or every device a rank.
        batch: requests at once for each replica; a request of a program is one run of it.

    Raises:
        PlanError: the cluster is too small, or a layout that the program or plan cannot have.
    """
    where = parse_cluster(cluster) if isinstance(cluster, str) else cluster
    if isinstance(what, Plan):
        return _of_plan(what, where, layout or Layout(tensor=what.program.world), batch)
    work = single(what) if isinstance(what, Function) else what
    return Study(work, where).predict(layout or Layout(tensor=where.count), batch)


def _of_plan(plan: Plan, cluster: Cluster, layout: Layout, batch: int) -> Prediction:
    """Return the prediction of a plan as it is, by its slowest rank."""
    world = plan.program.world
    if layout.pipeline != 1 or layout.tensor != world:
        raise PlanError(
            f"this plan is for {world} ranks in one stage, got {layout}; simulate "
            "plan.function for another layout"
        )
    study = Study(single(plan.function), cluster)
    study.check(layout, batch)
    ran = max(
        (_ran(_counted(plan, rank), cluster) for rank in _unlike(plan)),
        key=lambda r: float(r.stages.sum()),
    )
    return summed(study.work, cluster, layout, batch, [1], [batch], [ran])


def _unlike(plan: Plan) -> list[int]:
    """Return a rank of each kind: one of those that hold parts of equal sizes."""
    tables = plan.program.tables
    kinds = {tuple(v[r] for n, v in tables.items() if n.startswith("c")): r
             for r in reversed(range(plan.program.world))}  # fmt: skip
    return sorted(kinds.values())


def _counted(plan: Plan, rank: int) -> Tally:
    return tally(plan.program.local(rank), 1, plan.program.world, place=lambda op: 0)


def _ran(counts: Tally, cluster: Cluster) -> Ran:
    terms = dict(counts.seconds(cluster.device, cluster.link_of(counts.ranks)))
    terms["transfer"] = np.zeros(1)
    return Ran(terms, counts.weights, counts.state, counts.activations)
