"""mutation > selfcheck: compile a model with each kind of verification; return what that said."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any

from mutation.models import MODELS

# The first that speaks up ends it. Most faults of rules and passes show between passes.
LEVELS = {"rule": ("pass", "unit"), "pass": ("pass", "unit")}
OTHERS = ("unit", "pass")


def check(models: Sequence[str], layer: str, threads: int) -> dict[str, Any]:
    """Return ``noticed`` (how, or ""), ``said`` (its words) and whether results were ``wrong``.

    ``wrong`` is None unless the self-check was silent: then the results of a compile without
    verification are compared with eager's, which tells a blind check from a model that does not
    run the faulty code.
    """
    for name in models:
        for level in LEVELS.get(layer, OTHERS):
            how, said = _compile(name, level, threads)
            if how:
                return {"noticed": how, "said": said[:400], "wrong": None}
    return {"noticed": "", "said": "", "wrong": any(_wrong(n, threads) for n in models)}


def _compile(name: str, level: str, threads: int) -> tuple[str, str]:
    import leptonc

    model = MODELS[name]
    net, args = model.build()
    try:
        made = leptonc.compile(
            net, args, verify=level, threads=threads, dynamic=model.dynamic(),
            cache=False, tune=False,
        )  # fmt: skip
    except Exception as e:  # whatever a broken compiler raises is what its user would see
        return f"{type(e).__name__} with verify={level!r}", str(e)
    found = [str(r) for s in made.specializations for r in s.remarks if _is_retreat(r)]
    return (f"retreat with verify={level!r}", "; ".join(found)) if found else ("", "")


def _is_retreat(remark: Any) -> bool:
    return getattr(remark, "pass_", "") == "check" and "through torch" in str(remark)


def _wrong(name: str, threads: int) -> bool:
    import torch

    import leptonc

    net, args = MODELS[name].build()
    with contextlib.suppress(Exception), torch.no_grad():
        made = leptonc.compile(net, args, verify="off", threads=threads, cache=False, tune=False)
        pairs = zip(_tensors(net(*args)), _tensors(made(*args)), strict=True)
        return not all(torch.allclose(a, b, 1e-3, 1e-3, equal_nan=True) for a, b in pairs)
    return True


def _tensors(result: Any) -> tuple[Any, ...]:
    return tuple(result) if isinstance(result, (tuple, list)) else (result,)
