"""show > record: a compiled model as one JSON document, for scripts and dashboards.

Keys are stable: one may be added, none changes its meaning without another ``version``. Times are
seconds where the key ends in ``_s`` and microseconds where it is ``us``; ``bytes`` are bytes.

- ``name``, ``version``, ``threads``, ``specializations`` (how many), ``stats`` (of the compile)
- ``work``: ``flops``, ``flops_native_share``, ``ops``, ``ops_native_share``
- ``memory``: ``arena_bytes``, ``lower_bound_bytes``, ``activation_bytes``, ``constant_bytes``
- ``passes``: ``name``, ``seconds``, ``ops_before``, ``ops_after``, ``changed``, ``fired`` (by
  rule); empty if they cannot be replayed
- ``units``: ``index``, ``name``, ``pattern``, ``module``, ``source``, ``runs`` (native, torch,
  both or nothing), ``why`` (it runs through torch), ``flops``, ``bytes``, ``steps``, ``kernels``
  (name to calls), ``us`` (of the last profile, or null), ``choices``: ``about``, ``why``,
  ``chosen``, ``cycles`` (estimated) and ``us`` (measured), both by candidate
- ``remarks``: ``by`` (pass/rule), ``says`` (missed, applied, note or opaque), ``what``, ``where``,
  ``module``, ``source``, ``why``, ``n`` (how often)
"""

from __future__ import annotations

from typing import Any

from leptonc.backends.numba_cpu.lower.choices import Decision
from leptonc.errors import InputError
from leptonc.show import summary

VERSION = 1
Json = dict[str, Any]


def record(net: Any) -> Json:
    """Return a ``CompiledModel`` as what JSON can hold; the module's docstring lists the keys.

    Raises:
        InputError: the model has not been compiled yet.
    """
    if not net.specializations:
        raise InputError(f"{net.name} is compiled at its first call; call it once first")
    return {
        "version": VERSION,
        "name": net.name,
        "threads": net.schedule.threads,
        "specializations": len(net.specializations),
        "stats": {k: v if isinstance(v, (bool, int, float)) else str(v)
                  for k, v in net.stats.items()},
        "work": _work(net),
        "memory": _memory(net),
        "passes": _passes(net),
        "units": _units(net),
        "remarks": [remark(r) for r in summary.remarks(net)],
    }  # fmt: skip


def remark(r: summary.RemarkRow) -> Json:
    """Return one remark."""
    return {
        "by": r.by, "says": r.says, "what": r.what, "where": r.where, "module": r.module,
        "source": r.source, "why": r.why, "n": r.count,
    }  # fmt: skip


def choice(d: Decision) -> Json:
    """Return one choice of an algorithm."""
    return {
        "about": d.question.about,
        "why": d.answer.why,
        "chosen": d.answer.chosen,
        "cycles": dict(d.question.costs),
        "us": {k: v * 1e6 for k, v in d.answer.times.items()},
    }


def _work(net: Any) -> Json:
    work = summary.work(net.schedule)
    return {
        "flops": work.flops, "flops_native_share": work.flops_native_share,
        "ops": work.ops, "ops_native_share": work.ops_native_share,
    }  # fmt: skip


def _memory(net: Any) -> Json:
    plan = net.schedule
    return {
        "arena_bytes": plan.arena_bytes,
        "lower_bound_bytes": plan.lower_bound,
        "activation_bytes": plan.sum_bytes,
        "constant_bytes": sum(c.nbytes for c in plan.consts),
    }


def _passes(net: Any) -> list[Json]:
    return [
        {
            "name": s.name, "seconds": s.seconds, "ops_before": len(s.before.ops),
            "ops_after": len(s.after.ops), "changed": s.changed, "fired": dict(s.fired),
        }
        for s in summary.stages(net)[0]
    ]  # fmt: skip


def _units(net: Any) -> list[Json]:
    plan, known = net.schedule, net.last_profile
    timed = () if known is None or len(known.units) != len(plan.units) else known.units
    times = {u.index: u.us for u in timed}
    return [
        {
            "index": row.index, "name": row.name, "pattern": row.pattern, "module": row.where,
            "source": row.source, "runs": row.runs, "why": row.reason, "flops": row.flops,
            "bytes": row.bytes, "steps": row.steps, "kernels": dict(row.kernels),
            "us": times.get(row.index), "choices": [choice(d) for d in info.decisions],
        }
        for row, info in zip(summary.units(plan), plan.units, strict=True)
    ]  # fmt: skip
