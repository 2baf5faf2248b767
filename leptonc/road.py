"""compiled > road: the straight road of one call signature, written out as a Python function.

Small nets spend as long in Python as in their kernels, so nothing is looked up or looped over that
the signature already decides. For ``model(x, (h, c))`` that returns ``(y, [h])`` the text is::

    def road(args):
        if len(args) != 2: return None
        t0, a1 = args
        if type(a1) is not tuple or len(a1) != 2: return None
        t1, t2 = a1
        if not same(t0, t1, t2):
            if type(t0) is not Tensor or not is0(t0) or t0.shape != shape0 ...: return None
            ...
        r0 = empty((2, 3), (3, 1), dtype0)
        r1 = empty((2, 5), (5, 1), dtype1)
        try: context = take()
        except IndexError: context = acquire()
        try:
            if context.enter(t0, t1, t2, r0, r1): context.whole[1](context.whole[2])
        finally:
            give(context)
            if pool.waiting or len(idle) > 1: settle()
        return (r0, [r1,],)

``same`` is torch's own test that tensors are like those it was made of. What fails it may be as
good, in another mode of autograd or with other strides along an axis of one. ``empty`` is what
torch's own generated code makes its tensors with: it takes half the time of ``torch.empty_like``.

``enter`` would end the process on a tensor without memory of its own: that is one of the checks.
Where a context has no ``enter``, addresses are written one by one: ``words[0] = t0.data_ptr()``,
and so on. Programs with Python steps or with indices to check are called instead:
``run(t0.data_ptr(), ...)``.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from leptonc.backends.numba_cpu.runtime import Executable
from leptonc.capture import Captured

Road = Callable[[tuple[Any, ...]], Any]
# Private to torch: where they are gone, the checks in Python and the public function remain.
_PRIVATE = getattr(getattr(torch._C, "_dynamo", None), "guards", None)
_GUARDS = getattr(_PRIVATE, "TensorGuards", None)
_EMPTY = getattr(_PRIVATE, "_empty_strided_cpu", None)
_OPENS = {tuple: "({},)", list: "[{},]"}


def holds_data(t: Tensor) -> bool:
    """Return whether a tensor has memory of its own.

    Fake ones have none, nor those that transforms of ``torch.func`` hand in.
    """
    try:
        return t.numel() == 0 or t.data_ptr() != 0
    except RuntimeError:
        return False


class _NoRoadError(Exception):
    """A signature that needs the general road."""


def make_road(
    captured: Captured,
    args: tuple[Any, ...],
    shapes: Sequence[tuple[tuple[int, ...], torch.dtype]],
    program: Executable,
) -> Road | None:
    """Return the road of calls like ``args``, or None if these need the general one.

    The road takes the tuple of arguments. It returns what the model returns, never None, or None
    for arguments that it was not made for: another structure, dtype or shape, tensors that are no
    plain contiguous CPU tensors or that require gradients.

    Args:
        captured: how arguments and results are arranged.
        args: positional arguments of a call that the general road took.
        shapes: shape and dtype of every result.
        program: what to run; it lives as long as the road.
    """
    writer = _Writer(captured, program)
    try:
        text = writer.text(args, shapes)
    except _NoRoadError:
        return None
    names = writer.names | {"run": program, "Tensor": Tensor, "empty_like": torch.empty_like}
    names["holds_data"] = holds_data
    exec(compile(text, "<straight road>", "exec"), names)  # our own text, built of our own names
    # A function among its own globals would only be freed when Python looks for cycles.
    return names.pop("road")


@dataclass
class _Writer:
    """Grows the text of one road, and the objects that it names."""

    captured: Captured
    program: Executable
    names: dict[str, Any] = field(default_factory=dict[str, Any])
    lines: list[str] = field(default_factory=list[str])
    leaves: list[str] = field(default_factory=list[str])
    params: dict[int, str] = field(default_factory=dict[int, str])
    tensors: list[Tensor] = field(default_factory=list[Tensor])
    wrong: list[str] = field(default_factory=list[str])  # of each tensor: what makes it unfit

    def text(self, args: tuple[Any, ...], shapes: Sequence[tuple[tuple[int, ...], Any]]) -> str:
        """Return the function's text. Raises _NoRoadError."""
        positional, named = self.captured.in_spec.children()
        results = [o.result for o in self.captured.outputs]
        if named.num_children or all(r is None for r in results):
            raise _NoRoadError
        self._unpack("args", positional, args, checked=True)
        self._check()
        inputs = [self.params[i] for i in range(len(self.captured.function.params))]
        for i, (shape, dtype) in enumerate(shapes):
            self._result_tensor(i, torch.empty(shape, dtype=dtype))
        places = [*inputs, *(f"r{i}" for i in range(len(shapes)))]
        self._run(places)
        flat = iter([self._result(i) for i in range(len(results))])
        self.lines.append(f"return {self._build(self.captured.out_spec, flat)}")
        return "def road(args):\n" + "".join(f"    {line}\n" for line in self.lines)

    def _result_tensor(self, i: int, like: Tensor) -> None:
        """Write the making of result ``i``, a new tensor of the shape and dtype of ``like``."""
        if _EMPTY is not None:
            self.names |= {"empty": _EMPTY, f"dtype{i}": like.dtype}
            sizes = f"{tuple(like.shape)}, {like.stride()}"
            self.lines.append(f"r{i} = empty({sizes}, dtype{i})")
            return
        # From a template: that takes half as long as from a shape and a dtype.
        self.names[f"like{i}"] = like
        self.lines.append(f"r{i} = empty_like(like{i})")

    # -- arguments --------------------------------------------------------------------------------

    def _unpack(self, name: str, spec: pytree.TreeSpec, value: Any, checked: bool = False) -> None:
        """Write the checks of argument ``name``, whose value was ``value``, and of its parts."""
        if spec.is_leaf():
            self._leaf(name, value)
            return
        kind, count = spec.type, spec.num_children
        if kind not in _OPENS or type(value) is not kind or len(value) != count:
            raise _NoRoadError
        wrong = f"len({name}) != {count}"
        self._refuse(wrong if checked else f"type({name}) is not {kind.__name__} or {wrong}")
        parts = [f"{name}_{i}" for i in range(count)]
        if parts:
            self.lines.append(f"{', '.join(parts)}, = {name}")
        for part, child, one in zip(parts, spec.children(), value, strict=True):
            self._unpack(part, child, one)

    def _leaf(self, name: str, value: Any) -> None:
        """Write the checks of a leaf: a tensor that the program reads, or None."""
        info = self.captured.inputs[len(self.leaves)]
        self.leaves.append(name)
        if value is None and info.param is None:
            self._refuse(f"{name} is not None")
            return
        if info.param is None or type(value) is not Tensor:
            raise _NoRoadError
        i = info.param
        self.params[i] = name
        # One look at the dispatch key and the dtype: CPU, dense, no conjugation or negation bit.
        legacy = getattr(torch, value.type().removeprefix("torch."), None)
        test = getattr(legacy, "__instancecheck__", None)
        if test is None or not test(value):
            raise _NoRoadError
        self.names |= {f"is{i}": test, f"shape{i}": value.shape}
        self.tensors.append(value)
        self.wrong.append(
            f"type({name}) is not Tensor or not is{i}({name}) or {name}.shape != shape{i}"
            f" or {name}.requires_grad or not {name}.is_contiguous()"
            f" or not holds_data({name})"
        )

    def _check(self) -> None:
        """Write the checks of all tensors."""
        indent, fit = "", [t for t in self.tensors if t.is_contiguous() and not t.requires_grad]
        if _GUARDS is not None and self.tensors and len(fit) == len(self.tensors):
            sizes, strides = [list(t.shape) for t in fit], [list(t.stride()) for t in fit]
            guards = _GUARDS(*fit, dynamic_dims_sizes=sizes, dynamic_dims_strides=strides)
            self.names["same"] = guards.check
            names = [self.params[i] for i in self.params]
            self.lines.append(f"if not same({', '.join(names)}):")
            indent = "    "
        self.lines += [f"{indent}if {wrong}: return None" for wrong in self.wrong]

    def _refuse(self, condition: str) -> None:
        self.lines.append(f"if {condition}: return None")

    # -- running ----------------------------------------------------------------------------------

    def _run(self, tensors: Sequence[str]) -> None:
        """Write the run of the program on the tensors of these names."""
        pool = self.program.lane
        addresses = [f"{t}.data_ptr()" for t in tensors]
        if pool is None:
            self.lines.append(f"run({', '.join(addresses)})")
            return
        idle = pool.idle
        self.names |= {"pool": pool, "idle": idle, "take": idle.pop, "give": idle.append}
        self.names |= {"acquire": pool.acquire, "settle": pool.settle}
        # Results of the public function may be fake where the caller is in such a mode.
        open_door = self.program.doors and _EMPTY is not None
        enter = [f"if context.enter({', '.join(tensors)}): context.whole[1](context.whole[2])"]
        write = [
            "words, call, segment = context.whole",
            *(f"words[{i}] = {address}" for i, address in enumerate(addresses)),
            "call(segment)",
        ]
        self.lines += [
            "try: context = take()",
            "except IndexError: context = acquire()",
            "try:",
            *(f"    {line}" for line in (enter if open_door else write)),
            "finally:",
            "    give(context)",
            "    if pool.waiting or len(idle) > 1: settle()",
        ]

    # -- results ----------------------------------------------------------------------------------

    def _result(self, index: int) -> str:
        """Return the expression of a flat result leaf."""
        out = self.captured.outputs[index]
        if out.result is not None:
            return f"r{out.result}"
        if out.input is not None:
            return self.leaves[out.input]
        if out.size is not None:
            raise _NoRoadError
        self.names[f"constant{index}"] = out.constant
        return f"constant{index}"

    def _build(self, spec: pytree.TreeSpec, flat: Any) -> str:
        """Return the expression that makes the structure ``spec`` of the next leaves."""
        if spec.is_leaf():
            return next(flat)
        kind = spec.type
        parts = [self._build(child, flat) for child in spec.children()]
        inside = ", ".join(parts)
        if not parts or kind is torch.Size or kind not in pytree.SUPPORTED_NODES:
            raise _NoRoadError
        if kind in _OPENS:
            return _OPENS[kind].format(inside)
        label = f"node{len(self.names)}"
        if kind in (dict, OrderedDict):
            self.names[label] = tuple(spec.context)
            kind_name = self._name(kind)
            return f"{kind_name}(zip({label}, ({inside},)))"
        self.names[label] = spec.context
        unflatten = self._name(pytree.SUPPORTED_NODES[kind].unflatten_fn)
        return f"{unflatten}([{inside}], {label})"

    def _name(self, thing: Any) -> str:
        label = f"make{len(self.names)}"
        self.names[label] = thing
        return label
