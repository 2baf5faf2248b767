"""Torch's own operator database against leptonc: one sample compiled, run, classified.

A sample is one call of an operator. It becomes a module whose inputs are the tensor leaves of the
call (cloned inside: some operators write to them); everything else of the call is fixed.
"""

from __future__ import annotations

import contextlib
import math
import time
import traceback
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch.utils import _pytree as pytree

import leptonc
from leptonc.errors import CaptureError, CheckError, InputError
from leptonc.ir.kinds.region import TorchOp

RTOL, ATOL = 1e-4, 1e-5
SPECIAL = (math.nan, math.inf, -math.inf, -0.0, 1e-40, 1e4, -1e4)
OPTIONS: Mapping[str, Any] = {"verify": "off", "cache": False, "threads": 1}
# What an entry or a sample can come to. The last three must never occur.
NATIVE = "native"  # some op ran natively, and the result is eager's
TORCH = "torch"  # right, all through torch
REFUSED = "refused"  # a CaptureError or InputError that says why
SKIPPED = "skipped"  # random or uninitialised (types and shapes still hold), or eager refuses it
WRONG = "wrong"
ERROR = "error"  # any other exception
CRASH = "crash"  # the process died, or ran out of time
BAD = (WRONG, ERROR, CRASH)
# Uninitialised memory: nothing to compare.
_UNINITIALISED = ("empty", "resize_")


@dataclass(frozen=True)
class Outcome:
    """What became of a sample; ``why`` is the refusal or the fault, in one line."""

    entry: str
    index: int
    status: str
    why: str = ""
    native_ops: int = 0
    torch_ops: int = 0
    compile_s: float = 0.0


class Call(torch.nn.Module):
    """One operator call whose inputs are its tensor leaves."""

    def __init__(self, op: Any, leaves: list[Any], spec: Any) -> None:
        super().__init__()
        # Not as attributes of tensors: those would be constants of the exported program.
        self.op, self.spec = op, spec
        self.leaves = [None if isinstance(v, torch.Tensor) else v for v in leaves]
        self.places = [isinstance(v, torch.Tensor) for v in leaves]
        self.eval()

    def forward(self, *tensors: torch.Tensor) -> Any:
        it = iter(tensors)
        rows = zip(self.leaves, self.places, strict=True)
        leaves = [next(it).clone() if place else v for v, place in rows]
        args, kwargs = pytree.tree_unflatten(leaves, self.spec)
        return self.op(*args, **kwargs)


def database(dtype: torch.dtype = torch.float32) -> dict[str, Any]:
    """Return the entries with samples of ``dtype`` by full name (variants are entries too)."""
    for name in ("nms", "qnms"):  # a torchvision built for another torch breaks the database
        lib = torch.library.Library("torchvision", "FRAGMENT")
        with contextlib.suppress(RuntimeError):
            lib.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    from torch.testing._internal.common_methods_invocations import op_db

    found: dict[str, Any] = {}
    for op in op_db:
        if dtype in op.dtypes:
            variant = f".{op.variant_test_name}" if op.variant_test_name else ""
            found[f"{op.name}{variant}"] = op
    return found


def samples(
    op: Any, limit: int | None = None, start: int = 0, dtype: torch.dtype = torch.float32
) -> Iterator[tuple[int, Any]]:
    """Yield (index, sample) of an entry's samples, the same ones in every process.

    At most ``limit`` of them, spread evenly from the first on, and none before index ``start``.
    """
    torch.manual_seed(0)
    rows = list(op.sample_inputs("cpu", dtype))
    count = len(rows) if limit is None else min(limit, len(rows))
    for i in (n * len(rows) // count for n in range(count)):
        if i >= start:
            yield i, rows[i]


def run(
    entry: str, op: Any, index: int, sample: Any, special: bool = False, **options: Any
) -> Outcome:
    """Compile a sample, compare it with eager, and say what became of it.

    Args:
        entry: name of the operator.
        op: its entry.
        index: number of the sample.
        sample: the call.
        special: also call the compiled model with every value of ``SPECIAL`` put in.
        options: of ``leptonc.compile``; they replace those in ``OPTIONS``.
    """
    leaves, spec = pytree.tree_flatten(((sample.input, *sample.args), sample.kwargs))
    tensors = tuple(v for v in leaves if isinstance(v, torch.Tensor))
    model = Call(op.op, leaves, spec)
    try:
        with torch.no_grad():
            want, again = model(*tensors), model(*tensors)
    except Exception as e:
        return Outcome(entry, index, SKIPPED, f"eager raises {_brief(e)}")
    loose = "uninitialised memory" if any(word in op.name for word in _UNINITIALISED) else ""
    if difference(again, want):
        loose = loose or "random"
    try:
        plan = Outcome(entry, index, SKIPPED, loose)
        done, net = _compiled(plan, model, tensors, want, options)
        why = _special_difference(net, model, tensors) if special and done.status == NATIVE else ""
        return replace(done, status=WRONG, why=why) if why else done
    except (CaptureError, InputError) as e:
        return Outcome(entry, index, REFUSED, _brief(e))
    except CheckError as e:
        return Outcome(entry, index, SKIPPED if loose else ERROR, _brief(e))
    except Exception as e:
        return Outcome(entry, index, ERROR, f"{_brief(e)} | {_place(e)}")


def _compiled(
    plan: Outcome,
    model: Call,
    tensors: tuple[torch.Tensor, ...],
    want: Any,
    options: Mapping[str, Any],
) -> tuple[Outcome, Any]:
    """Return the outcome of a sample and the compiled model.

    If ``plan`` excuses the sample, the result is held to types and shapes only.
    """
    before = [t.clone() for t in tensors]
    start = time.perf_counter()
    net = leptonc.compile(model, tensors, **{**OPTIONS, **options})
    seconds = time.perf_counter() - start
    function = net.specializations[0].captured.function
    if any(isinstance(o.kind, TorchOp) and not o.kind.pure for o in function.ops):
        plan = replace(plan, why="random")
    native, through = net.stats["ops_native"], net.stats["ops_torch"]
    exact = not plan.why
    with torch.no_grad():
        # Twice: the first call prepares the straight road that later ones may take.
        results = [net(*tensors) for _ in range(2)]
        faults = [difference(got, want, values=exact) for got in results]
        if exact and any(faults):
            faults = [
                f and _further(got, want, model, tensors, f) for got, f in zip(results, faults)
            ]
    faults.append(difference(tensors, tuple(before)) and "it changed its own inputs")
    why = next((f for f in faults if f), "")
    status = WRONG if why else SKIPPED if plan.why else NATIVE if native else TORCH
    made = replace(plan, status=status, why=why or plan.why, compile_s=seconds)
    return replace(made, native_ops=native, torch_ops=through), net


def _further(
    got: Any, want: Any, model: Call, tensors: tuple[torch.Tensor, ...], fault: str
) -> str:
    """Return "" if ``got`` is off by float32 rounding alone, else ``fault``.

    Where an output cancels, eager's own rounding passes the tolerance, and another order of the
    same sums gives another value. Float64 decides: ``got`` may be as far from it as eager is.
    """
    if difference(got, want, values=False):
        return fault
    try:
        exact = model(*(t.double() if t.dtype is torch.float32 else t for t in tensors))
    except Exception:
        return fault
    rows = zip(*map(pytree.tree_leaves, (got, want, exact)), strict=True)
    ok = all(_no_further(g, w, e) for g, w, e in rows)
    return "" if ok else fault


def _no_further(got: Any, want: Any, exact: Any) -> bool:
    if not _leaf_difference(got, want, values=True):
        return True
    if not (isinstance(want, torch.Tensor) and want.dtype is torch.float32):
        return False
    distances = [float((t.double() - exact).abs().max()) for t in (got, want)]
    return distances[0] <= distances[1] < 1e-5 * float(exact.abs().max())


def _special_difference(net: Any, model: Call, tensors: tuple[torch.Tensor, ...]) -> str:
    """Return how results differ once a special value stands at every third place of the inputs."""
    for value in SPECIAL:
        poisoned = tuple(t.clone() for t in tensors)
        for t in poisoned:
            if t.is_floating_point():
                t.view(-1)[::3] = value
        try:
            with torch.no_grad():
                want = model(*poisoned)
        except Exception:
            continue  # eager refuses it; what the values may be was not compiled in
        if why := difference(net(*poisoned), want):
            return f"with {value}: {why}"
    return ""


def difference(got: Any, want: Any, *, values: bool = True) -> str:
    """Return how two results differ: structure, type, dtype, shape, values; "" if they do not."""
    if pytree.tree_structure(got) != pytree.tree_structure(want):
        return f"structure {pytree.tree_structure(got)}, not {pytree.tree_structure(want)}"
    rows = zip(pytree.tree_leaves(got), pytree.tree_leaves(want), strict=True)
    return next((f for f in (_leaf_difference(x, y, values) for x, y in rows) if f), "")


def _leaf_difference(x: Any, y: Any, values: bool) -> str:
    if not isinstance(y, torch.Tensor):
        same = type(x) is type(y) and (x == y or x != x or not values)
        return "" if same else f"{x!r}, not {y!r}"
    if not isinstance(x, torch.Tensor):
        return f"{type(x).__name__}, not a tensor"
    if not values:
        same = (x.dtype, x.shape) == (y.dtype, y.shape)
        return "" if same else f"{x.dtype} {x.shape}, not {y.dtype} {y.shape}"
    rtol, atol = _tolerance(y.dtype)
    try:
        torch.testing.assert_close(x, y, rtol=rtol, atol=atol, equal_nan=True)
    except Exception as e:
        return " ".join(str(e).split())[:300]
    return ""


def _tolerance(dtype: torch.dtype) -> tuple[float, float]:
    if not (dtype.is_floating_point or dtype.is_complex):
        return 0.0, 0.0
    eps = torch.finfo(dtype).eps  # a few roundings where a type is coarser than float32
    return max(RTOL, 4 * eps), max(ATOL, 4 * eps)


def _brief(e: BaseException) -> str:
    return " ".join(f"{type(e).__name__}: {e}".split())[:400]


def _place(e: BaseException) -> str:
    """Return the innermost lines of leptonc and of the traceback."""
    frames = traceback.extract_tb(e.__traceback__)
    ours = [f for f in frames if "leptonc" in f.filename or "backends" in f.filename][-1:]
    return "; ".join(f"{f.filename.split('/main/')[-1]}:{f.lineno}" for f in (*ours, *frames[-1:]))
