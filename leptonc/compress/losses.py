"""compress > losses: what fine-tuning minimizes: of labels, of a teacher, of hidden values.

Distillation is that of Hinton et al., Distilling the Knowledge in a Neural Network (2015), hidden
values are compared as in Romero et al., FitNets (2015), without a layer in between.
"""

from __future__ import annotations

import contextlib
import difflib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from leptonc.compress.raised import Raised
from leptonc.compress.recipe import CompressError
from leptonc.ir.core import Op


def split_batch(batch: Any, labelled: bool) -> tuple[tuple[Any, ...], dict[str, Any], Any]:
    """Return arguments, keyword arguments and label of a batch of a loader.

    A tuple or list ends with the label; what is before it, or the one tuple or dict before it, are
    the arguments. Of a dict ``label`` or ``labels`` is the label. A tensor has none.

    Raises:
        CompressError: no label where there must be one.
    """
    label = None
    if isinstance(batch, (tuple, list)) and len(batch) > 1:
        *inputs, label = batch
        batch = inputs[0] if len(inputs) == 1 else tuple(inputs)
    if isinstance(batch, Mapping):
        kwargs = dict(batch)
        for name in ("label", "labels"):
            label = kwargs.pop(name, label)
        args: tuple[Any, ...] = ()
    else:
        args, kwargs = tuple(batch) if isinstance(batch, (tuple, list)) else (batch,), {}
    if labelled and label is None:
        raise CompressError(
            "finetune: a batch has no label: data must give (input, label), or pass teacher="
        )
    return args, kwargs, label


def logits_of(output: Any) -> Tensor:
    """Return the first float tensor of a model's result. Raises CompressError without one."""
    for leaf in pytree.tree_leaves(output):
        if isinstance(leaf, Tensor) and leaf.is_floating_point():
            return leaf
    raise CompressError(f"finetune: the model returns no float tensor, but {type(output).__name__}")


def label_loss(output: Any, label: Tensor) -> Tensor:
    """Return cross entropy for class numbers ``i64[n]`` (scores f32[n,c]), else squared error."""
    logits = logits_of(output)
    if label.is_floating_point():
        if logits.shape != label.shape:
            raise CompressError(f"finetune: the model returns {list(logits.shape)}, the label is "
                                f"{list(label.shape)}; pass loss=, a function of both")  # fmt: skip
        return F.mse_loss(logits, label)
    if logits.shape[:1] + logits.shape[2:] != label.shape:
        raise CompressError(f"finetune: scores {list(logits.shape)} do not fit class numbers "
                            f"{list(label.shape)}; pass loss=, a function of both")  # fmt: skip
    return F.cross_entropy(logits, label.long())


def soft_loss(output: Any, wanted: Any, temperature: float) -> Tensor:
    """Return ``T^2 KL(softmax(wanted / T) || softmax(output / T))``, the mean over rows.

    The factor keeps the gradient's size whatever ``temperature`` is.
    """
    found, target = logits_of(output), logits_of(wanted)
    if found.shape != target.shape:
        raise CompressError(f"finetune: the student returns {list(found.shape)}, the teacher "
                            f"{list(target.shape)}: they must solve one task")  # fmt: skip
    rows = F.log_softmax(found.flatten(0, -2) / temperature, -1)
    aims = F.log_softmax(target.flatten(0, -2) / temperature, -1)
    return temperature**2 * F.kl_div(rows, aims, reduction="batchmean", log_target=True)


class Taps:
    """Hidden values of a module, filled anew by every call.

    Of a raised module: the last result that comes from the module path (or from inside it). Of any
    other: what the submodule returns.
    """

    def __init__(self, module: nn.Module, paths: Sequence[str], role: str) -> None:
        self.module, self.paths, self.role = module, tuple(dict.fromkeys(paths)), role
        self.seen: dict[str, Tensor] = {}
        raised = isinstance(module, Raised)
        self._last = _last_ops(module, self.paths, role) if raised else {}
        if not raised:
            known = dict(module.named_modules())
            for path in self.paths:
                _check_path(path, [n for n in known if n], role)

    def __getitem__(self, path: str) -> Tensor:
        return self.seen[path]

    @contextlib.contextmanager
    def open(self) -> Iterator[None]:
        """Watch the module's calls inside the ``with``."""
        if not self.paths:
            yield
        elif isinstance(self.module, Raised):
            self.module._watch = self._watch
            try:
                yield
            finally:
                self.module._watch = None
        else:
            with contextlib.ExitStack() as stack:
                for path in self.paths:
                    hook = self.module.get_submodule(path).register_forward_hook(self._hook(path))
                    stack.callback(hook.remove)
                yield

    def _watch(self, op: Op, results: Sequence[Tensor]) -> None:
        for path in self._last.get(op, ()):
            self.seen[path] = results[0]

    def _hook(self, path: str) -> Any:
        def keep(module: nn.Module, args: Any, output: Any) -> None:
            self.seen[path] = logits_of(output)

        return keep


def _last_ops(module: Raised, paths: Sequence[str], role: str) -> dict[Op, tuple[str, ...]]:
    ops = [op for op in module._captured.function.ops if op.operands and op.results]
    known = sorted({op.origin.module for op in ops if op.origin.module})
    found: dict[Op, tuple[str, ...]] = {}
    for path in paths:
        inside = [op for op in ops if f"{op.origin.module}.".startswith(f"{path}.")]
        exact = [op for op in inside if op.origin.module == path] or inside
        if not exact:
            _check_path(path, known, role)
        found[exact[-1]] = (*found.get(exact[-1], ()), path)
    return found


def _check_path(path: str, known: Sequence[str], role: str) -> None:
    if path in known:
        return
    close = difflib.get_close_matches(path, known, n=3, cutoff=0.3) or list(known[:3])
    raise CompressError(
        f"finetune(hidden): the {role} has no module {path!r}; "
        f"did you mean {' or '.join(map(repr, close))}?"
    )


def hidden_loss(student: Taps, teacher: Taps, pairs: Sequence[tuple[str, str]]) -> Tensor:
    """Return the mean over ``pairs`` of the squared error between hidden values.

    Raises:
        CompressError: two values of different shapes.
    """
    total: list[Tensor] = []
    for mine, theirs in pairs:
        a, b = student[mine], teacher[theirs]
        if a.shape != b.shape:
            raise CompressError(
                f"finetune(hidden): {mine!r} of the student is {list(a.shape)}, {theirs!r} of the "
                f"teacher {list(b.shape)}; name values whose channels were not pruned"
            )
        total.append(F.mse_loss(a.float(), b.float()))
    return torch.stack(total).mean()


__all__ = ["Taps", "hidden_loss", "label_loss", "logits_of", "soft_loss", "split_batch"]
