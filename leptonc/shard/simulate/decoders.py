"""Transformer decoders as programs without weights: what a prompt and what one token take.

Shapes are those of the published models; constants have a type and no bytes, so a model of 530
billion parameters takes no memory here. The cache of keys and values is a parameter of a decoding
step: the step reads it, and its own keys and values are written where the cache has room for them.
"""

from __future__ import annotations

import difflib
import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from types import MappingProxyType

from leptonc.errors import PlanError
from leptonc.ir.constants import Const
from leptonc.ir.core import Builder, Function, Value
from leptonc.ir.kinds import binary, unary
from leptonc.ir.kinds.contract import Attention, Linear
from leptonc.ir.kinds.data import Constant, Embedding
from leptonc.ir.kinds.norm import LayerNorm, RmsNorm
from leptonc.ir.kinds.pointwise import Gelu
from leptonc.ir.kinds.shape import Concat, Reshape, Slice, Transpose
from leptonc.ir.types import DType, TensorType


@dataclass(frozen=True)
class Decoder:
    """The sizes of a decoder.

    Attributes:
        name: ``"llama-2-7b"``.
        layers: blocks of attention and a feed-forward net.
        hidden: width of the residual stream.
        heads: of queries.
        groups: heads of keys and values.
        inner: width of the feed-forward net.
        vocabulary: rows of the embedding.
        gated: Llama's block (RMS norm, rotary positions, gated net, no biases), else GPT's.
        dtype: of weights and activations.
    """

    name: str
    layers: int
    hidden: int
    heads: int
    groups: int
    inner: int
    vocabulary: int
    gated: bool = False
    dtype: DType = DType.F16

    @property
    def width(self) -> int:
        """Elements of one head."""
        return self.hidden // self.heads


def _gpt(name: str, layers: int, hidden: int, heads: int, vocabulary: int = 51200) -> Decoder:
    return Decoder(name, layers, hidden, heads, heads, 4 * hidden, vocabulary)


_ALL = (
    Decoder("llama-2-7b", 32, 4096, 32, 32, 11008, 32000, gated=True, dtype=DType.BF16),
    Decoder("llama-2-70b", 80, 8192, 64, 8, 28672, 32000, gated=True, dtype=DType.BF16),
    _gpt("gpt-20b", 44, 6144, 48),
    _gpt("gpt-89b", 48, 12288, 96),
    _gpt("gpt-175b", 96, 12288, 96),
    _gpt("gpt-530b", 105, 20480, 128),
    _gpt("megatron-1b", 24, 1920, 15),
    _gpt("megatron-2b", 30, 2304, 18),
    _gpt("megatron-4b", 36, 3072, 24),
    _gpt("megatron-8b", 42, 4096, 32),
)
DECODERS: Mapping[str, Decoder] = MappingProxyType({d.name: d for d in _ALL})


def decoder(name: str) -> Decoder:
    """Return the sizes of a published model. Raises PlanError with names that are close."""
    found = DECODERS.get(name.lower())
    if found is None:
        near = difflib.get_close_matches(name.lower(), DECODERS, 3, 0.3) or list(DECODERS)
        raise PlanError(f"unknown decoder {name!r}; there are, for example: {', '.join(near)}")
    return found


@lru_cache(maxsize=256)
def prefill(d: Decoder, batch: int, tokens: int, every: bool = False) -> Function:
    """Return the program that reads prompts ``i64[batch, tokens]``.

    Its result is the logits of the last token, ``[batch, 1, vocabulary]``, or of every one.
    """
    return _Growing(d, batch, tokens, cached=0, every=every).run(f"{d.name}-prefill")


@lru_cache(maxsize=256)
def step(d: Decoder, batch: int, cached: int) -> Function:
    """Return the program of one token ``i64[batch, 1]`` when ``cached`` tokens are known.

    Further parameters are keys and values of each layer, ``[batch, groups, cached, width]``.
    """
    return _Growing(d, batch, 1, cached=cached, every=True).run(f"{d.name}-step")


def _named(payload: object) -> str:
    return hashlib.sha256(str(payload).encode()).hexdigest()


class _Growing:
    """Builds one program of a decoder, layer by layer."""

    def __init__(self, d: Decoder, batch: int, tokens: int, cached: int, every: bool) -> None:
        self.d, self.batch, self.tokens, self.cached, self.every = d, batch, tokens, cached, every
        self.b = Builder("")

    def run(self, name: str) -> Function:
        d, b = self.d, self.b
        b.name = name
        ids = b.param(TensorType(DType.I64, (self.batch, self.tokens)), "ids")
        x = b(Embedding(), self._weight("embedding", d.vocabulary, d.hidden), ids)
        if not d.gated:
            x = b(binary.Add(), x, self._weight("positions", self.tokens, d.hidden))
        for i in range(d.layers):
            x = b(binary.Add(), x, self._attend(f"{i}", self._norm(f"{i}.before", x)))
            x = b(binary.Add(), x, self._feed(f"{i}", self._norm(f"{i}.between", x)))
        x = self._norm("last", x)
        if not self.every:
            x = b(Slice(1, self.tokens - 1, self.tokens), x)
        return b.finish(b(Linear(), x, self._weight("head", d.vocabulary, d.hidden)))

    def _weight(self, name: str, *shape: int) -> Value:
        type_ = TensorType(self.d.dtype, shape)
        const = Const(type_, f"{self.d.name}.{name}:{type_}", _named)
        return self.b(Constant(const), hint=name)

    def _linear(self, name: str, x: Value, out: int) -> Value:
        width = int(x.type.shape[-1])
        operands = [x, self._weight(name, out, width)]
        if not self.d.gated:
            operands.append(self._weight(f"{name}.bias", out))
        return self.b(Linear(), *operands)

    def _norm(self, name: str, x: Value) -> Value:
        weight = self._weight(f"{name}.scale", self.d.hidden)
        if self.d.gated:
            return self.b(RmsNorm(1, 1e-5), x, weight)
        return self.b(LayerNorm(1, 1e-5), x, weight, self._weight(f"{name}.shift", self.d.hidden))

    def _attend(self, name: str, x: Value) -> Value:
        d = self.d
        q, k, v = self._projected(name, x)
        if self.cached:
            kept = TensorType(d.dtype, (self.batch, d.groups, self.cached, d.width))
            k, v = (self.b.param(kept, f"{name}.{what}") for what in ("keys", "values"))
        kind = Attention(1 / math.sqrt(d.width), not self.cached, d.groups != d.heads)
        out = self.b(Transpose((0, 2, 1, 3)), self.b(kind, q, k, v))
        out = self.b(Reshape((self.batch, self.tokens, d.hidden)), out)
        return self._linear(f"{name}.out", out, d.hidden)

    def _projected(self, name: str, x: Value) -> tuple[Value, Value, Value]:
        """Return queries, keys and values, ``[batch, heads, tokens, width]`` each."""
        d = self.d
        if d.gated:
            q = self._linear(f"{name}.q", x, d.hidden)
            k, v = (self._linear(f"{name}.{c}", x, d.groups * d.width) for c in "kv")
            q, k, v = self._split(q, d.heads), self._split(k, d.groups), self._split(v, d.groups)
            return self._rotated(name, q), self._rotated(name, k), v
        every = self._linear(f"{name}.qkv", x, 3 * d.hidden)
        parts = [self.b(Slice(2, i * d.hidden, (i + 1) * d.hidden), every) for i in range(3)]
        q, k, v = (self._split(p, d.heads) for p in parts)
        return q, k, v

    def _split(self, x: Value, heads: int) -> Value:
        x = self.b(Reshape((self.batch, self.tokens, heads, self.d.width)), x)
        return self.b(Transpose((0, 2, 1, 3)), x)

    def _rotated(self, name: str, x: Value) -> Value:
        """Return ``x`` under rotary positions, as the models write them."""
        b, half = self.b, self.d.width // 2
        cosine, sine = (self._weight(w, self.tokens, self.d.width) for w in ("cosine", "sine"))
        left, right = b(Slice(3, 0, half), x), b(Slice(3, half, 2 * half), x)
        turned = b(Concat(3), b(unary.Neg(), right), left)
        return b(binary.Add(), b(binary.Mul(), x, cosine), b(binary.Mul(), turned, sine))

    def _feed(self, name: str, x: Value) -> Value:
        d = self.d
        inner = self._linear(f"{name}.up", x, d.inner)
        if d.gated:
            gate = self.b(unary.Silu(), self._linear(f"{name}.gate", x, d.inner))
            inner = self.b(binary.Mul(), gate, inner)
        else:
            inner = self.b(Gelu(tanh=True), inner)
        return self._linear(f"{name}.down", inner, d.hidden)
