"""Contractions with epilogues: ``root [+ vector] {activation, residual add in either order}``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from leptonc.ir.core import Function, Kind, Op, Trait, Value
from leptonc.ir.dims import same_dim
from leptonc.ir.kinds.binary import Add
from leptonc.ir.kinds.contract import Matmul
from leptonc.ir.kinds.data import Constant
from leptonc.ir.kinds.pointwise import Clamp, Elu, Gelu, LeakyRelu, Softplus
from leptonc.ir.kinds.unary import HardSigmoid, HardSwish, Mish, Relu, Sigmoid, Silu, Tanh
from leptonc.passes.fusing.axes import same_memory
from leptonc.passes.fusing.units import CONTRACTIONS
from leptonc.rewrite.trace import Trace, named, readers_text, value_text


def _always(_: Kind) -> bool:
    return True


def _float_bounds(kind: Kind) -> bool:
    assert isinstance(kind, Clamp)
    return all(b is None or isinstance(b, float) for b in (kind.lo, kind.hi))


def _plain_elu(kind: Kind) -> bool:
    assert isinstance(kind, Elu)
    return kind.scale == 1.0 and kind.input_scale == 1.0


# Activations that a contraction's kernel applies to its tile before it stores it.
ACTIVATIONS: Mapping[type[Kind], Callable[[Kind], bool]] = {
    **dict.fromkeys((Relu, Silu, HardSwish, HardSigmoid, Sigmoid, Tanh, Gelu), _always),
    **dict.fromkeys((LeakyRelu, Mish, Softplus), _always),
    Clamp: _float_bounds,
    Elu: _plain_elu,
}


def is_activation(kind: Kind) -> bool:
    """Return whether a contraction's kernel can apply ``kind``."""
    fits = ACTIVATIONS.get(type(kind))
    return fits is not None and fits(kind)


@dataclass
class _Chain:
    """A root and the epilogue found so far."""

    ops: list[Op]
    vector: bool = False
    activation: bool = False
    residual: bool = False

    @property
    def value(self) -> Value:
        return self.ops[-1].result


def find_chain(root: Op, fn: Function, taken: Mapping[int, str], trace: Trace) -> list[Op]:
    """Return ``root`` and the ops of its epilogue; only the last one's result is read by others.

    ``taken`` names, by op id, the ops that are in a group already. What stops the chain short of an
    op that could have joined is a remark.
    """
    chain = _Chain([root])
    while (user := _only_reader(chain, fn, trace)) is not None:
        reason = f"{taken[id(user)]} does that already" if id(user) in taken else None
        if reason is not None and not _could_join(chain, user, fn):
            break
        if reason is None and not _join(chain, user, fn):
            reason = _misfit(chain, user)
            if reason is None:
                break
        if reason is not None:
            trace.missed(root, f"not run with {named(user)}: {reason}")
            break
        chain.ops.append(user)
    return chain.ops


def _only_reader(chain: _Chain, fn: Function, trace: Trace) -> Op | None:
    users = fn.users[chain.value]
    if fn.use_count[chain.value] == 1 and len(users) == 1:
        return users[0]
    wanted = next((u for u in users if _could_join(chain, u, fn)), None)
    if wanted is not None:
        others = readers_text(users, (wanted,))
        more = others or ("the caller" if chain.value in fn.returns else "the same op again")
        what = value_text(chain.value)
        trace.missed(wanted, f"not run with {named(chain.ops[0])}: {what} is also read by {more}")
    return None


def _could_join(chain: _Chain, user: Op, fn: Function) -> bool:
    trial = _Chain(chain.ops, chain.vector, chain.activation, chain.residual)
    return _join(trial, user, fn)


def _join(chain: _Chain, user: Op, fn: Function) -> bool:
    """Note ``user`` as the next part of the epilogue, if it can be that."""
    if is_activation(user.kind) and not chain.activation:
        chain.activation = True
        return True
    if not isinstance(user.kind, Add):
        return False
    a, b = user.operands
    other = b if a is chain.value else a
    if other is chain.value:
        return False
    if _is_column_vector(chain, other, fn):
        chain.vector = True
        return True
    if not chain.residual and same_memory(other.type, user.result.type):
        chain.residual = True
        return same_memory(chain.value.type, user.result.type)
    return False


def _misfit(chain: _Chain, user: Op) -> str | None:
    """Return why the elementwise op that alone reads a chain is not part of it; None for others."""
    kind = user.kind
    if Trait.ELEMENTWISE not in kind.traits or user.result.type.shape != chain.value.type.shape:
        return None
    if is_activation(kind):
        return "one activation is applied to its result already"
    if type(kind) in ACTIVATIONS:
        return f"with these attributes {kind.NAME} is none that it can apply to its result"
    if not isinstance(kind, Add):
        return f"it can apply an activation and a sum to its result, but no {kind.NAME}"
    if all(v is chain.value for v in user.operands):
        return "it adds its result to itself"
    if chain.residual:
        return "another value is added to its result already"
    return "what it adds differs in shape or in layout"


def _is_column_vector(chain: _Chain, v: Value, fn: Function) -> bool:
    """Return whether ``v`` is a constant vector over a matmul's columns, right after the matmul."""
    maker = fn.producer.get(v)
    out = chain.value.type
    return (
        len(chain.ops) == 1
        and isinstance(chain.ops[0].kind, Matmul)
        and maker is not None
        and isinstance(maker.kind, Constant)
        and v.type.dtype is out.dtype
        and all(same_dim(d, 1) for d in v.type.shape[:-1])
        and v.type.shape[-1:] == out.shape[-1:]
        and v.type.rank <= out.rank
    )


def roots(fn: Function) -> list[Op]:
    """Return the contractions of ``fn``, the last first: of two, the later gets a shared add."""
    return [op for op in reversed(fn.ops) if isinstance(op.kind, CONTRACTIONS)]
