"""capture > trace: a plain model of static sizes in one pass, as torch.export would trace it.

torch.export makes, checks and rewrites its graph several times over, which would be the longest
part of a compile from the cache. ``trace`` runs the model once on fake tensors and writes down
every ATen call above autograd, where composite ops are whole: the nodes that torch.export ends
with. What is not plain (listed at ``NotPlain``) is left to torch.export, which knows more and
explains what it refuses.
"""

from __future__ import annotations

import dataclasses
import operator
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from types import CodeType, FrameType
from typing import Any

import torch
from torch import Tensor, nn
from torch._dispatch.python import enable_python_dispatcher
from torch._functorch import pyfunctorch
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.fx import Graph, GraphModule, Node
from torch.fx.experimental.proxy_tensor import ProxyTorchDispatchMode, PythonKeyTracer
from torch.utils import _pytree as pytree
from torch.utils.weak import WeakTensorKeyDictionary

from leptonc.capture.attributes import Attributes
from leptonc.capture.origin import is_user_file
from leptonc.capture.program import Placeholder, Program, Role
from leptonc.capture.shim import boxed

_aten = torch.ops.aten
_PLAIN_VALUES = (type(None), bool, int, float, str)
_FOREIGN_MODULES = (GraphModule, torch.jit.ScriptModule)
# What code that only looks at tensors leaves behind.
_TRACES = (_aten.detach.default, _aten.detach_.default, _aten.lift_fresh_copy.default)
_CALL: CodeType = nn.Module._call_impl.__code__  # runs once for every module that is called


class NotPlain(Exception):
    """Something that is left to torch.export; the text says what.

    Tensor subclasses, tensors got around the dispatcher (``x.data``), arguments that are neither
    tensors nor plain values or share memory with the model, modules that set attributes while they
    run, values read from tensors, control-flow operators, function transforms, autocast, ops that
    change a tensor's shape in place.
    """


def trace(model: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Program:
    """Return the program of ``model`` for arguments of these very sizes.

    Call it where gradients are off and torch is quiet. Raises whatever stops it, most of all
    NotPlain; the model is then as it was.
    """
    if not isinstance(model, nn.Module):
        raise NotPlain(f"a {type(model).__name__}")
    modules = dict(model.named_modules())
    for path, module in modules.items():
        if isinstance(module, _FOREIGN_MODULES) or type(module).__module__.startswith("torch._dyn"):
            raise NotPlain(f"{path or 'the model'} is a {type(module).__name__}")
    leaves, in_spec = pytree.tree_flatten((tuple(args), dict(kwargs)))
    parameters, state = dict(model.named_parameters(remove_duplicate=False)), _state(model)
    _refuse_unusual(leaves, state)
    fake = FakeTensorMode(allow_non_fake_inputs=True)
    fakes: dict[str, Tensor] = {path: fake.from_tensor(t) for path, t in state.items()}
    inputs = [fake.from_tensor(x) if isinstance(x, Tensor) else x for x in leaves]
    recorder = _Recorder(modules, fake)
    for path, tensor in state.items():
        role = Role.PARAMETER if path in parameters else Role.BUFFER
        recorder.state(role, path, tensor, fakes[path])
    for i, x in enumerate(inputs):
        recorder.argument(f"arg{i}", x)
    before = Attributes(model)
    with _exporting(), fake, enable_python_dispatcher(), before.kept(), recorder:
        given = pytree.tree_unflatten(inputs, in_spec)
        inner = {f"model.{path}": t for path, t in fakes.items()}
        result = torch.func.functional_call(_Run(model, fakes), inner, *given, strict=True)
    if changed := before.changed:
        raise NotPlain(f"{changed} is set while the model runs")
    return recorder.program(in_spec, result)


def _state(model: nn.Module) -> dict[str, Tensor]:
    """Return parameters and buffers by path; what is shared has several."""
    parameters = model.named_parameters(remove_duplicate=False)
    return {**dict(parameters), **dict(model.named_buffers(remove_duplicate=False))}


class _Run(nn.Module):
    """Calls the model; frames within ``forward`` are those of its code."""

    def __init__(self, model: nn.Module, state: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.model, self.state = model, state

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Return the model's result. Raises NotPlain: it has set parameters or buffers."""
        result = self.model(*args, **kwargs)
        now = _state(self.model)
        for path in {**self.state, **now}:
            if now.get(path) is not self.state.get(path):
                raise NotPlain(f"{path} is set while the model runs")
        return result


def _refuse_unusual(leaves: Sequence[Any], state: Mapping[str, Tensor]) -> None:
    """Raise NotPlain for arguments or tensors of the model that torch.export treats apart."""
    given = [x for x in leaves if isinstance(x, Tensor)]
    for x in leaves:
        if not isinstance(x, (Tensor, *_PLAIN_VALUES)):
            raise NotPlain(f"an argument is a {type(x).__name__}")
    for t in (*given, *state.values()):
        if type(t) not in (Tensor, nn.Parameter) or t.layout is not torch.strided or t.is_quantized:
            raise NotPlain(f"a tensor is a {type(t).__name__}")
    places = {t.untyped_storage().data_ptr() for t in state.values() if t.numel()}
    own = [t.untyped_storage().data_ptr() for t in given if t.numel()]
    if len(set(own)) < len(own) or not places.isdisjoint(own):
        raise NotPlain("arguments share memory")


@contextmanager
def _exporting() -> Iterator[None]:
    """Tell the model's code, which may ask, that it is being exported."""
    flags = ("_is_compiling_flag", "_is_exporting_flag")
    before = {f: getattr(torch.compiler, f) for f in flags}
    try:
        for f in flags:
            setattr(torch.compiler, f, True)
        yield
    finally:
        for f, value in before.items():
            setattr(torch.compiler, f, value)


class _Recorder(ProxyTorchDispatchMode):
    """Sees every ATen call before autograd and writes it into a graph.

    Torch takes no mode of other classes at this place; nothing but the place is inherited.
    """

    def __init__(self, modules: Mapping[str, nn.Module], fake: FakeTensorMode) -> None:
        """Start with the modules of the model by path, and what makes fake tensors."""
        super().__init__(PythonKeyTracer(), "fake", pre_dispatch=True)
        self.modules, self.fake = modules, fake
        self.paths = {id(m): path for path, m in modules.items()}
        self.graph = Graph()
        self.nodes = WeakTensorKeyDictionary()
        self.placeholders: list[Placeholder] = []

    # ----- placeholders -------------------------------------------------------------------------

    def state(self, role: Role, path: str, tensor: Tensor, fake: Tensor) -> Node:
        """Add a tensor of the model; it is the last of several that are one."""
        node = self._placeholder(path.replace(".", "_"), fake)
        self.placeholders.append(Placeholder(node, role, path, tensor))
        return node

    def argument(self, name: str, value: Any) -> None:
        """Add an argument: a fake tensor, or a value that stays as it is."""
        tensor = isinstance(value, Tensor)
        node = self._placeholder(name, value)
        constant = None if tensor else value
        self.placeholders.append(Placeholder(node, Role.INPUT, name, constant=constant))

    def _placeholder(self, name: str, value: Any) -> Node:
        node = self.graph.create_node("placeholder", name, name=name)
        self._bind(node, value, value)
        return node

    def _constant(self, tensor: Tensor, fake: Tensor) -> Node:
        """Return a new placeholder of a tensor that is neither argument nor state.

        The model's code made it from numbers, or has it from an attribute that is no buffer.
        """
        if type(tensor) is not Tensor or tensor.layout is not torch.strided or tensor.is_quantized:
            raise NotPlain(f"a tensor from elsewhere ({type(tensor).__name__})")
        count = sum(p.role is Role.CONSTANT for p in self.placeholders)
        name = self._attribute(tensor) or f"lifted_tensor_{count}"
        return self.state(Role.CONSTANT, name, tensor, fake)

    def _attribute(self, tensor: Tensor) -> str:
        """Return the path of the attribute that holds a tensor, or ""."""
        for path, module in self.modules.items():
            for name, value in vars(module).items():
                if value is tensor:
                    return f"{path}.{name}".lstrip(".")
        return ""

    # ----- calls --------------------------------------------------------------------------------

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Run a call and write it down."""
        kwargs = kwargs or {}
        turned = torch.Tag.inplace_view in func.tags and func is not _aten.detach_.default
        if turned or torch.is_autocast_enabled("cpu"):
            raise NotPlain(str(func))
        if pyfunctorch.retrieve_all_functorch_interpreters():
            raise NotPlain(f"{func} in a function transform")
        if func is _aten.lift_fresh.default:
            self._constant(args[0], args[0])
            out = func(*args)
            func = _aten.lift_fresh_copy.default
        else:
            args, kwargs = self._faked(args), {k: self._faked(v) for k, v in kwargs.items()}
            out = func(*args, **kwargs)
        if not _holds_no_tensor(out):
            self._write(func, args, kwargs, out)
        return out

    def _faked(self, x: Any) -> Any:
        """Return fake tensors for real ones, which a call might write to."""
        if isinstance(x, Tensor) and not isinstance(x, FakeTensor):
            fake = self.fake.from_tensor(x)
            if fake not in self.nodes:
                self._constant(x, fake)
            return fake
        return _each(self._faked, x) if isinstance(x, (list, tuple)) else x

    def _write(self, func: Any, args: Any, kwargs: Any, out: Any) -> None:
        given = tuple(map(self._operand, args)), {k: self._operand(v) for k, v in kwargs.items()}
        node = self.graph.create_node("call_function", func, *given, name=_name(func))
        node.meta.update(self._origin())
        # Torch hands out a copy of what a factory (``arange``) made if anyone else holds that, too.
        factory = not node.all_input_nodes or _name(func).endswith("_like")
        self._bind(node, out, _snapshot(out) if factory else out)
        if isinstance(out, (tuple, list)):
            for i, part in enumerate(out):
                item = self.graph.create_node("call_function", operator.getitem, (node, i))
                item.meta.update(node.meta)
                self._bind(item, part, part)

    def _bind(self, node: Node, value: Any, seen: Any) -> None:
        if isinstance(value, Tensor):
            self.nodes[value] = node
        node.meta["val"] = seen

    def _operand(self, x: Any) -> Any:
        if isinstance(x, Tensor):
            if x not in self.nodes:
                raise NotPlain(f"a tensor from elsewhere ({type(x).__name__})")
            return self.nodes[x]
        if isinstance(x, (list, tuple)):
            return _each(self._operand, x)
        if isinstance(x, (torch.SymInt, torch.SymFloat, torch.SymBool)):
            raise NotPlain("a symbolic number")
        return x

    def _origin(self) -> dict[str, Any]:
        """Return the innermost module and line of the model's code, in torch.fx's words."""
        frame: FrameType | None = sys._getframe(2)
        path: str | None = None
        line = ""
        while frame is not None and frame.f_code is not _Run.forward.__code__:
            code = frame.f_code
            if path is None and code is _CALL:
                path = self.paths.get(id(frame.f_locals["self"]))
            if not line and _is_user_file(code.co_filename):
                line = f'File "{code.co_filename}", line {frame.f_lineno}'
            if path is not None and line:
                break
            frame = frame.f_back
        return {"nn_module_stack": {"": (path or "", "")}, "stack_trace": line}

    # ----- the end ------------------------------------------------------------------------------

    def program(self, in_spec: pytree.TreeSpec, result: Any) -> Program:
        """Return what was written down. Raises NotPlain: a result that torch cannot take apart."""
        flat, out_spec = pytree.tree_flatten(result)
        if any(map(dataclasses.is_dataclass, flat)):  # boxing makes a plain tuple of a Size
            flat, out_spec = pytree.tree_flatten(boxed(result))
        for x in flat:
            if not isinstance(x, (FakeTensor, *_PLAIN_VALUES)):
                raise NotPlain(f"the model returns a {type(x).__name__}")
        self.graph.output(tuple(map(self._operand, flat)))
        for node in reversed(self.graph.nodes):
            if node.target in _TRACES and not node.users:
                self.graph.erase_node(node)
        return Program(
            self.graph, None, tuple(self.placeholders), (True,) * len(flat), in_spec, out_spec
        )


_is_user_file = lru_cache(maxsize=4096)(is_user_file)


def _snapshot(value: Any) -> Any:
    """Return other objects for the tensors of a result."""
    if isinstance(value, Tensor):
        return value.detach()
    return _each(_snapshot, value) if isinstance(value, (tuple, list)) else value


def _each(function: Callable[[Any], Any], parts: Sequence[Any]) -> Sequence[Any]:
    """Return a tuple or list of what ``function`` makes of each part."""
    made = [function(p) for p in parts]
    return tuple(made) if isinstance(parts, tuple) else made


def _name(func: Any) -> str:
    """Return the name of an op, as torch names its nodes: ``and`` of ``aten.__and__.Tensor``."""
    name = func.overloadpacket.__name__
    return (name[2:-2] if name.startswith("__") and name.endswith("__") else name).lower()


def _holds_no_tensor(out: Any) -> bool:
    """Whether a call gave numbers: the model's code knows them from here on."""
    parts = out if isinstance(out, (tuple, list)) else (out,)
    return out is not None and not any(isinstance(x, Tensor) for x in parts)
